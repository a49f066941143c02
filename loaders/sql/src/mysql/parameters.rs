//! The parameters of a query for MySQL, which knows only `?`, each used once and in the order of the text, and no arrays.
//!
//! ```text
//! sql        … WHERE org = $1 AND id = $2        … WHERE org = ? AND id = ?
//! batch_sql  … WHERE id IN ($1)                  … WHERE id IN (?, ?, ?, ?)                    one ? per key
//!            … WHERE (org, id) IN (($1, $2))     … WHERE (org, id) IN ((?, ?), (?, ?))         one group per key
//! ```
//!
//! `$1` … `$n` are the placeholders of the pattern, as for the other databases: in any order, and as often as needed. A query may
//! say `?` instead; these stand for the placeholders in order, each once.
//!
//! In a batch query a `$n` becomes a list of the values of all keys, and parameters that are alone in parentheses become a list of
//! such groups. So the values are constants for the optimizer, which looks each up in the index, and their collation gives way to
//! the column's. A table made of a JSON array (`JSON_TABLE`) would have a guessed number of rows, a type and a collation to be
//! spelled out (else "illegal mix of collations"), and needs MySQL 8 or MariaDB 10.6. `JSON_ARRAY($1)` still makes one.
//!
//! Lists come in powers of two, filled up with NULL, which is equal to nothing: each length is a prepared statement of its own on
//! each connection, and the server keeps a bounded number of them.
//!
//! The text is read here just as far as to find parameters outside of quotes and comments. Should that go wrong (`sql_mode` can
//! change what a backslash is), the server counts otherwise, and the check of the loader says so.

use std::ops::Range;
use std::sync::Arc;

/// Most parameters of one statement: the protocol counts them in 16 bits.
pub(crate) const PARAMETERS_MAX: usize = u16::MAX as usize;

/// A query as pieces of text and parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pieces {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// A placeholder by its place in the pattern.
    Value(usize),
    /// `($1, $2)`: at least two placeholders that are alone in parentheses.
    Group(Vec<usize>),
}

/// A query made ready for a number of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Text {
    pub(crate) sql: Arc<str>,
    /// How many keys it asks for.
    pub(crate) keys: usize,
    /// How many `?` it has.
    pub(crate) parameters: usize,
}

/// One parameter as it stands in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mark {
    /// `?`
    Question,
    /// `$n`
    Number(usize),
}

impl Pieces {
    /// Reads a query for a pattern with `count` placeholders.
    ///
    /// # Errors
    /// Its parameters are not the placeholders; in words for the operator.
    pub(crate) fn of(sql: &str, count: usize) -> Result<Self, String> {
        let marks = marks(sql);
        let questions = marks.iter().filter(|(_, mark)| *mark == Mark::Question).count();
        if questions > 0 && questions < marks.len() {
            return Err("has both ? and $n; write one of them".into());
        }
        if questions > 0 && questions != count {
            return Err(format!(
                "has {questions} parameters, but the pattern has {count} placeholders; each ? is one of them, in order; write \
                 $1 … $n to use one twice, or in another order"
            ));
        }
        let numbered: Vec<(Range<usize>, usize)> = marks
            .into_iter()
            .enumerate()
            .map(|(index, (range, mark))| match mark {
                Mark::Question => (range, index + 1),
                Mark::Number(number) => (range, number),
            })
            .collect();
        let mut numbers: Vec<usize> = numbered.iter().map(|(_, number)| *number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.iter().copied().ne(1..=count) {
            let found: Vec<String> = numbers.iter().map(|number| format!("${number}")).collect();
            let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
            return Err(format!(
                "must use each of the pattern's {count} placeholders as $1 … $n and nothing else; it uses {found}"
            ));
        }
        Ok(Self { pieces: pieces(sql, &numbered) })
    }

    /// The query for one key.
    pub(crate) fn single(&self) -> Text {
        self.text(1)
    }

    /// The query for each number of keys that a batch may have: powers of two, and `keys_max`.
    ///
    /// # Errors
    /// The longest has more parameters than a statement can have.
    pub(crate) fn batch(&self, keys_max: usize) -> Result<Vec<Text>, String> {
        let parameters = self.places().count() * keys_max;
        if parameters > PARAMETERS_MAX {
            return Err(format!(
                "would have {parameters} parameters for batch_max = {keys_max} keys; a statement has at most {PARAMETERS_MAX}, so \
                 batch_max may be {}",
                PARAMETERS_MAX / self.places().count().max(1)
            ));
        }
        let powers = std::iter::successors(Some(1_usize), |keys| keys.checked_mul(2));
        let lengths = powers.take_while(|keys| *keys < keys_max).chain([keys_max]);
        Ok(lengths.map(|keys| self.text(keys)).collect())
    }

    /// The placeholder of each `?` of a query for these keys, and the key it is of.
    pub(crate) fn bindings(&self, keys: usize) -> impl Iterator<Item = (usize, usize)> {
        self.pieces.iter().flat_map(move |piece| {
            let places: &[usize] = match piece {
                Piece::Text(_) => &[],
                Piece::Value(place) => std::slice::from_ref(place),
                Piece::Group(places) => places,
            };
            (0..keys).flat_map(move |key| places.iter().map(move |place| (*place, key)))
        })
    }

    fn places(&self) -> impl Iterator<Item = usize> {
        self.bindings(1).map(|(place, _)| place)
    }

    fn text(&self, keys: usize) -> Text {
        let mut sql = String::new();
        for piece in &self.pieces {
            let one = match piece {
                Piece::Text(text) => {
                    sql.push_str(text);
                    continue;
                }
                Piece::Value(_) => "?".to_owned(),
                Piece::Group(places) => format!("({})", vec!["?"; places.len()].join(", ")),
            };
            for key in 0..keys {
                if key > 0 {
                    sql.push_str(", ");
                }
                sql.push_str(&one);
            }
        }
        Text { sql: sql.into(), keys, parameters: self.places().count() * keys }
    }
}

/// Cuts the text at its parameters, which have their numbers, counted from 1.
fn pieces(sql: &str, numbered: &[(Range<usize>, usize)]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut done = 0;
    let mut index = 0;
    while let Some((range, number)) = numbered.get(index) {
        let (cut, piece, taken) = match group(sql, &numbered[index..]) {
            Some((cut, taken)) => {
                let places = numbered[index..index + taken].iter().map(|(_, number)| number - 1).collect();
                (cut, Piece::Group(places), taken)
            }
            None => (range.clone(), Piece::Value(number - 1), 1),
        };
        pieces.push(Piece::Text(sql[done..cut.start].to_owned()));
        pieces.push(piece);
        done = cut.end;
        index += taken;
    }
    pieces.push(Piece::Text(sql[done..].to_owned()));
    pieces
}

/// The group that begins with the first of these parameters: where it stands with its parentheses, and how many it has.
fn group(sql: &str, numbered: &[(Range<usize>, usize)]) -> Option<(Range<usize>, usize)> {
    let (first, _) = numbered.first()?;
    let before = sql[..first.start].trim_end().strip_suffix('(')?;
    let mut end = first.end;
    for (taken, (range, _)) in (1..).zip(numbered) {
        if taken > 1 && sql[end..range.start].trim() != "," {
            return None;
        }
        end = range.end;
        let after = sql[end..].trim_start();
        if after.starts_with(')') {
            return (taken > 1).then(|| (before.len()..sql.len() - after.len() + 1, taken));
        }
    }
    None
}

/// Where the parameters are.
fn marks(sql: &str) -> Vec<(Range<usize>, Mark)> {
    let bytes = sql.as_bytes();
    let mut marks = Vec::new();
    let mut index = 0;
    while let Some(&byte) = bytes.get(index) {
        let rest = &bytes[index..];
        let length = match byte {
            b'\'' | b'"' => quoted(rest, byte, true),
            b'`' => quoted(rest, byte, false),
            b'#' => line(rest),
            // Two hyphens are a comment only before a space: 5--3 is 8.
            b'-' if rest.starts_with(b"--") && rest.get(2).is_none_or(|next| *next <= b' ') => line(rest),
            // The server runs what is in these comments.
            b'/' if rest.starts_with(b"/*!") || rest.starts_with(b"/*M!") => 3,
            b'/' if rest.starts_with(b"/*") => position(&rest[2..], b"*/").map_or(rest.len(), |end| end + 4),
            _ if is_word(byte) => rest.iter().take_while(|byte| is_word(**byte)).count(),
            _ => 1,
        };
        let range = index..index + length;
        if byte == b'?' {
            marks.push((range.clone(), Mark::Question));
        } else if let Some(number) = sql[range.clone()].strip_prefix('$').and_then(number_of) {
            marks.push((range.clone(), Mark::Number(number)));
        }
        index = range.end;
    }
    marks
}

fn number_of(digits: &str) -> Option<usize> {
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// Length of a quoted token. The quote is doubled inside, or behind a backslash. An open one goes to the end, and the server will
/// complain.
fn quoted(rest: &[u8], quote: u8, has_escapes: bool) -> usize {
    let mut index = 1;
    while let Some(&byte) = rest.get(index) {
        if byte == quote {
            if rest.get(index + 1) != Some(&quote) {
                return index + 1;
            }
            index += 1;
        } else if byte == b'\\' && has_escapes {
            index += 1;
        }
        index += 1;
    }
    rest.len()
}

fn line(rest: &[u8]) -> usize {
    position(rest, b"\n").map_or(rest.len(), |end| end + 1)
}

/// `$` is a letter to MySQL.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80
}

fn position(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(sql: &str, count: usize, keys: usize) -> String {
        Pieces::of(sql, count).expect("good parameters").text(keys).sql.to_string()
    }

    #[test]
    fn parameters_are_found_outside_of_quotes_and_comments() {
        let sql = "SELECT '$9 \\' $8', \"?\"\"\\\"$7\", `$6?\\` -- ? $5\n # $4 ?\n /* $3 ; */, a$1, $x, 5--?1, /*!50000 $1 */ \
                   FROM t WHERE b = $2 AND a = $1";
        let marks: Vec<Mark> = marks(sql).into_iter().map(|(_, mark)| mark).collect();
        assert_eq!(marks, [Mark::Question, Mark::Number(1), Mark::Number(2), Mark::Number(1)]);
        assert_eq!(text("SELECT 'it''s $2' FROM t WHERE a = $1", 1, 1), "SELECT 'it''s $2' FROM t WHERE a = ?");
    }

    #[test]
    fn a_single_query_has_a_question_mark_for_each_use() {
        let pieces = Pieces::of("SELECT $2, a FROM t WHERE b=$1 AND (c,d)=($2,$1)", 2).expect("good parameters");
        let single = pieces.single();
        assert_eq!(&*single.sql, "SELECT ?, a FROM t WHERE b=? AND (c,d)=(?, ?)");
        assert_eq!((single.keys, single.parameters), (1, 4));
        assert_eq!(pieces.bindings(1).collect::<Vec<_>>(), [(1, 0), (0, 0), (1, 0), (0, 0)]);
        assert_eq!(text("SELECT ? FROM t WHERE b = ?", 2, 1), "SELECT ? FROM t WHERE b = ?");
        assert_eq!(text("SELECT 1", 0, 1), "SELECT 1");
    }

    #[test]
    fn a_batch_query_has_lists() {
        let sql = "SELECT id FROM t WHERE id IN ($1)";
        assert_eq!(text(sql, 1, 3), "SELECT id FROM t WHERE id IN (?, ?, ?)");
        let sql = "SELECT a, b FROM t WHERE (a, b) IN ( ( $1 ,$2 ) ) LIMIT 9";
        assert_eq!(text(sql, 2, 2), "SELECT a, b FROM t WHERE (a, b) IN ( (?, ?), (?, ?) ) LIMIT 9");
        let pieces = Pieces::of(sql, 2).expect("good parameters");
        assert_eq!(pieces.bindings(2).collect::<Vec<_>>(), [(0, 0), (1, 0), (0, 1), (1, 1)]);
        assert_eq!(
            text("SELECT * FROM t WHERE (a, b) IN ((?, ?))", 2, 2),
            "SELECT * FROM t WHERE (a, b) IN ((?, ?), (?, ?))"
        );
        // A group is nothing but parameters.
        assert_eq!(text("f($1, 2, $2)", 2, 2), "f(?, ?, 2, ?, ?)");
        assert_eq!(text("JSON_ARRAY($1)", 1, 2), "JSON_ARRAY(?, ?)");
    }

    #[test]
    fn lengths_are_powers_of_two_and_the_longest() {
        let pieces = Pieces::of("id IN ($1)", 1).expect("good parameters");
        let lengths = |keys_max| {
            let texts = pieces.batch(keys_max).expect("not too many");
            texts.iter().map(|text| text.keys).collect::<Vec<_>>()
        };
        assert_eq!(lengths(1), [1]);
        assert_eq!(lengths(2), [1, 2]);
        assert_eq!(lengths(500), [1, 2, 4, 8, 16, 32, 64, 128, 256, 500]);
        let wide = Pieces::of("a IN ($1) OR (b, c, d, e, f, g) IN (($1, $1, $1, $1, $1, $1))", 1).expect("good");
        let reason = wide.batch(10_000).expect_err("70,000");
        assert!(reason.contains("70000 parameters") && reason.contains("may be 9362"), "{reason}");
        assert_eq!(wide.batch(9_362).expect("just enough").last().map(|text| text.parameters), Some(65_534));
    }

    #[test]
    fn wrong_parameters_are_told() {
        for (sql, count, says) in [
            ("a = ? AND b = $1", 1, "both ? and $n"),
            ("a = ? AND b = ?", 1, "has 2 parameters, but the pattern has 1 placeholders"),
            ("a = ?", 2, "has 1 parameters, but the pattern has 2"),
            ("a = $2", 2, "it uses $2"),
            ("a = $1 AND b = $3", 2, "it uses $1, $3"),
            ("a = 1", 1, "it uses none"),
            ("a = $1", 0, "it uses $1"),
            ("a = $0", 1, "it uses $0"),
        ] {
            let reason = Pieces::of(sql, count).expect_err(sql);
            assert!(reason.contains(says), "{sql}: {reason}");
        }
    }

    proptest! {
        #[test]
        fn text_without_parameters_is_left_as_it_is(sql in "[-'\"`\\\\#(,)/*!;a1é \n]{0,40}") {
            prop_assert_eq!(text(&sql, 0, 1), sql);
        }

        #[test]
        fn every_binding_has_its_question_mark(sql in "[-'(,)/*$123? a]{0,30}", count in 0_usize..4, keys in 1_usize..5) {
            if let Ok(pieces) = Pieces::of(&sql, count) {
                let text = pieces.text(keys);
                prop_assert_eq!(pieces.bindings(keys).count(), text.parameters);
                prop_assert!(pieces.bindings(keys).all(|(place, key)| place < count && key < keys));
            }
        }
    }
}
