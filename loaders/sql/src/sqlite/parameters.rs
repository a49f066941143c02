//! Reads just enough of SQLite's SQL to know its statements and parameters, which `prepare` tells too little about: sqlx runs
//! several statements of one text one after the other, and a parameter it has no value for is NULL.

/// What a text of SQL holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outline {
    /// The numbers of the `$n`, sorted, without duplicates.
    pub(crate) parameters: Vec<usize>,
    /// The first parameter that is not written `$n`.
    pub(crate) other_parameter: Option<String>,
    /// Whether something follows the first statement.
    pub(crate) has_more_statements: bool,
    /// Whether there is a `*`, so that the columns may change with the schema.
    pub(crate) has_star: bool,
}

impl Outline {
    pub(crate) fn of(sql: &str) -> Self {
        let mut outline = Self::default();
        let bytes = sql.as_bytes();
        let mut index = 0;
        let mut ended = false;
        while let Some(&byte) = bytes.get(index) {
            let rest = &bytes[index..];
            let length = match byte {
                b'\'' | b'"' | b'`' => quoted(rest, byte),
                b'[' => position(rest, b"]").map_or(rest.len(), |end| end + 1),
                b'-' if rest.starts_with(b"--") => position(rest, b"\n").map_or(rest.len(), |end| end + 1),
                b'/' if rest.starts_with(b"/*") => position(&rest[2..], b"*/").map_or(rest.len(), |end| end + 4),
                b'$' | b'?' | b':' | b'@' => 1 + word(&rest[1..]),
                _ if is_word(byte) => word(rest),
                _ => 1,
            };
            let is_comment = rest.starts_with(b"--") || rest.starts_with(b"/*");
            if !is_comment && !byte.is_ascii_whitespace() && byte != b';' {
                outline.has_more_statements |= ended;
                let token = &sql[index..index + length];
                match byte {
                    b'*' => outline.has_star = true,
                    b'$' | b'?' | b':' | b'@' => outline.parameter(token),
                    _ => {}
                }
            }
            ended |= byte == b';';
            index += length;
        }
        outline.parameters.sort_unstable();
        outline.parameters.dedup();
        outline
    }

    fn parameter(&mut self, token: &str) {
        match token.strip_prefix('$').and_then(|number| number.parse().ok()) {
            Some(number) => self.parameters.push(number),
            None => {
                self.other_parameter.get_or_insert_with(|| token.to_owned());
            }
        }
    }
}

/// Length of a quoted token; the quote is doubled inside. An open one goes to the end, and `prepare` will complain.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut index = 1;
    while index < rest.len() {
        if rest[index] == quote {
            if rest.get(index + 1) != Some(&quote) {
                return index + 1;
            }
            index += 1;
        }
        index += 1;
    }
    rest.len()
}

fn word(rest: &[u8]) -> usize {
    rest.iter().take_while(|byte| is_word(**byte)).count()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

fn position(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parameters_are_found_outside_of_quotes_and_comments() {
        let outline = Outline::of(
            "SELECT '$9', \"$8\", [$7], `$6` -- $5\n /* $4 ; */ FROM t WHERE a = $2 AND b = $1 OR a = $2 ; -- end",
        );
        assert_eq!(outline, Outline { parameters: vec![1, 2], ..Outline::default() });
    }

    #[test]
    fn other_parameters_and_statements_are_told() {
        assert_eq!(Outline::of("SELECT ?, :b").other_parameter, Some("?".into()));
        assert_eq!(Outline::of("SELECT :name").other_parameter, Some(":name".into()));
        assert_eq!(Outline::of("SELECT $name").other_parameter, Some("$name".into()));
        assert!(Outline::of("SELECT 1; DELETE FROM t").has_more_statements);
        assert!(!Outline::of("SELECT 'it''s; fine';; \n").has_more_statements);
        assert!(Outline::of("SELECT t.* FROM t").has_star);
        assert!(!Outline::of("SELECT '*' /* * */ FROM t").has_star);
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(sql in "[-'\"`\\[\\]/*$?:@;a1é \n]{0,40}") {
            let _ = Outline::of(&sql);
        }
    }
}
