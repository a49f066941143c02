//! The pattern of a loader's keys: literals and typed placeholders, such as `order:{org:int}:{id:uuid}`.
//!
//! A key fits when every literal is there and every placeholder holds the canonical text of a value of its type. So the text of
//! a value and the value are one and the same, and two different keys never name the same row.
//!
//! | type | canonical text |
//! |---|---|
//! | `int` | a 64-bit integer: `0`, `42`, `-7`; not `042`, `+1`, `-0` |
//! | `uuid` | lower case with hyphens: `67e55044-10b1-426f-9247-bb680e5fe0c8` |
//! | `text` (default) | 1 to [`TEXT_BYTES_MAX`] bytes of UTF-8 without NUL, up to the first place where the next literal fits, or to the end |
//!
//! `{{` and `}}` stand for braces, as in `cart:{{{id:int}}}` for `cart:{42}`. Not here: SQL, databases, allocation per key.

use std::fmt;

/// Most placeholders in a pattern.
pub const PLACEHOLDERS_MAX: usize = 8;

/// Longest text that a placeholder takes, in bytes.
pub const TEXT_BYTES_MAX: usize = 4096;

/// Longest pattern, in bytes.
pub const PATTERN_BYTES_MAX: usize = 1024;

const UUID_BYTES: usize = 36;

/// The type of a placeholder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceholderKind {
    /// A signed 64-bit integer.
    Int,
    /// UTF-8 text.
    Text,
    /// A UUID.
    Uuid,
}

impl fmt::Display for PlaceholderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Int => "int",
            Self::Text => "text",
            Self::Uuid => "uuid",
        })
    }
}

/// A named, typed hole in a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placeholder {
    /// Its name, by default also the name of the key column.
    pub name: String,
    /// What it holds.
    pub kind: PlaceholderKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Literal(Vec<u8>),
    Placeholder(PlaceholderKind),
}

/// A parsed pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
    placeholders: Vec<Placeholder>,
}

/// The values of a key, each as its canonical text: slices of the key, in the order of the placeholders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Values<'k> {
    texts: [&'k [u8]; PLACEHOLDERS_MAX],
    count: usize,
}

impl<'k> Values<'k> {
    const EMPTY: Self = Self { texts: [&[]; PLACEHOLDERS_MAX], count: 0 };

    /// The texts of the values, in order.
    #[must_use]
    pub fn texts(&self) -> &[&'k [u8]] {
        &self.texts[..self.count]
    }

    fn push(&mut self, text: &'k [u8]) {
        debug_assert!(self.count < PLACEHOLDERS_MAX);
        self.texts[self.count] = text;
        self.count += 1;
    }
}

impl Template {
    /// Parses a pattern.
    ///
    /// # Errors
    /// What is wrong with the pattern, in words for the operator.
    pub fn parse(pattern: &str) -> Result<Self, String> {
        if pattern.is_empty() {
            return Err("is empty".into());
        }
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(format!("is longer than {PATTERN_BYTES_MAX} bytes"));
        }
        let mut template = Self { parts: Vec::new(), placeholders: Vec::new() };
        let mut rest = pattern;
        while let Some(first) = rest.chars().next() {
            if rest.starts_with("{{") || rest.starts_with("}}") {
                template.push_literal(&rest[..1]);
                rest = &rest[2..];
            } else if first == '{' {
                let end =
                    rest.find('}').ok_or_else(|| format!("`{rest}` has no closing brace; write {{{{ for a brace"))?;
                template.push_placeholder(&rest[1..end])?;
                rest = &rest[end + 1..];
            } else if first == '}' {
                return Err("has a closing brace without an opening one; write }} for a brace".into());
            } else {
                let end = rest.find(['{', '}']).unwrap_or(rest.len());
                template.push_literal(&rest[..end]);
                rest = &rest[end..];
            }
        }
        template.check_neighbours()?;
        Ok(template)
    }

    /// The placeholders, in order.
    #[must_use]
    pub fn placeholders(&self) -> &[Placeholder] {
        &self.placeholders
    }

    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Whether the key fits. Allocates nothing; linear in the length of the key.
    #[must_use]
    pub fn matches(&self, key: &[u8]) -> bool {
        self.values(key).is_some()
    }

    /// The values of a key that fits. Allocates nothing; linear in the length of the key.
    #[must_use]
    pub fn values<'k>(&self, key: &'k [u8]) -> Option<Values<'k>> {
        let mut values = Values::EMPTY;
        let mut rest = key;
        for (index, part) in self.parts.iter().enumerate() {
            match part {
                Part::Literal(literal) => rest = rest.strip_prefix(literal.as_slice())?,
                Part::Placeholder(kind) => {
                    let next = match self.parts.get(index + 1) {
                        Some(Part::Literal(literal)) => Some(literal.as_slice()),
                        _ => None,
                    };
                    let length = value_length(*kind, rest, next)?;
                    let (text, after) = rest.split_at(length);
                    values.push(text);
                    rest = after;
                }
            }
        }
        rest.is_empty().then_some(values)
    }

    /// Writes the key of these values, which are canonical texts. `false` if their number is wrong; `key` is cleared before.
    #[must_use]
    pub fn render<'v>(&self, texts: impl IntoIterator<Item = &'v [u8]>, key: &mut Vec<u8>) -> bool {
        key.clear();
        let mut texts = texts.into_iter();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => key.extend_from_slice(literal),
                Part::Placeholder(_) => match texts.next() {
                    Some(text) => key.extend_from_slice(text),
                    None => return false,
                },
            }
        }
        texts.next().is_none()
    }

    fn push_literal(&mut self, text: &str) {
        if let Some(Part::Literal(literal)) = self.parts.last_mut() {
            literal.extend_from_slice(text.as_bytes());
        } else {
            self.parts.push(Part::Literal(text.as_bytes().to_vec()));
        }
    }

    fn push_placeholder(&mut self, inner: &str) -> Result<(), String> {
        let (name, kind) = inner.split_once(':').unwrap_or((inner, "text"));
        let kind = match kind {
            "int" => PlaceholderKind::Int,
            "text" => PlaceholderKind::Text,
            "uuid" => PlaceholderKind::Uuid,
            other => return Err(format!("placeholder {{{inner}}}: the type `{other}` is not one of int, text, uuid")),
        };
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(format!(
                "placeholder {{{inner}}}: a name is letters, digits and _, and does not start with a digit"
            ));
        }
        if self.placeholders.iter().any(|placeholder| placeholder.name == name) {
            return Err(format!("the name `{name}` is used twice"));
        }
        if self.placeholders.len() == PLACEHOLDERS_MAX {
            return Err(format!("has more than {PLACEHOLDERS_MAX} placeholders"));
        }
        self.placeholders.push(Placeholder { name: name.to_owned(), kind });
        self.parts.push(Part::Placeholder(kind));
        Ok(())
    }

    /// Where a value ends must be clear from the pattern alone.
    fn check_neighbours(&self) -> Result<(), String> {
        for pair in self.parts.windows(2) {
            match pair {
                [Part::Placeholder(_), Part::Placeholder(_)] => {
                    return Err("two placeholders need a literal between them, as in {a}:{b}".into());
                }
                [Part::Placeholder(PlaceholderKind::Int), Part::Literal(literal)]
                    if literal.first().is_some_and(u8::is_ascii_digit) =>
                {
                    return Err("a literal after an int placeholder must not start with a digit".into());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Length of the value at the start of `rest`, if there is one; `next` is the literal after it.
fn value_length(kind: PlaceholderKind, rest: &[u8], next: Option<&[u8]>) -> Option<usize> {
    match kind {
        PlaceholderKind::Int => {
            let sign = usize::from(rest.first() == Some(&b'-'));
            let digits = rest[sign..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            let text = &rest[..sign + digits];
            int_of(text).map(|_| text.len())
        }
        PlaceholderKind::Uuid => rest.get(..UUID_BYTES).is_some_and(is_canonical_uuid).then_some(UUID_BYTES),
        PlaceholderKind::Text => {
            let length = match next {
                None => rest.len(),
                Some(literal) => {
                    let window = &rest[..rest.len().min(TEXT_BYTES_MAX + literal.len())];
                    window.windows(literal.len()).position(|bytes| bytes == literal)?
                }
            };
            is_canonical_text(&rest[..length]).then_some(length)
        }
    }
}

/// The integer whose canonical text this is.
pub(crate) fn int_of(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let canonical = match digits {
        [b'0'] => digits.len() == text.len(),
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !canonical {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The 16 bytes of the UUID whose canonical text this is.
pub(crate) fn uuid_of(text: &[u8]) -> Option<[u8; 16]> {
    if text.len() != UUID_BYTES || !is_canonical_uuid(text) {
        return None;
    }
    let mut bytes = [0; 16];
    let nibbles = text.iter().filter(|byte| **byte != b'-');
    for (index, digit) in nibbles.enumerate() {
        let nibble = if digit.is_ascii_digit() { digit - b'0' } else { digit - b'a' + 10 };
        bytes[index / 2] = bytes[index / 2] << 4 | nibble;
    }
    Some(bytes)
}

fn is_canonical_uuid(text: &[u8]) -> bool {
    text.iter().enumerate().all(|(index, byte)| match index {
        8 | 13 | 18 | 23 => *byte == b'-',
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    })
}

fn is_canonical_text(text: &[u8]) -> bool {
    // PostgreSQL cannot hold NUL in text, and SQLite's functions disagree about what follows it.
    matches!(text.len(), 1..=TEXT_BYTES_MAX) && !text.contains(&0) && std::str::from_utf8(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn template(pattern: &str) -> Template {
        Template::parse(pattern).expect("a good pattern")
    }

    fn texts(pattern: &str, key: &[u8]) -> Option<Vec<String>> {
        let template = template(pattern);
        let values = template.values(key)?;
        Some(values.texts().iter().map(|text| String::from_utf8(text.to_vec()).expect("UTF-8")).collect())
    }

    #[test]
    fn only_canonical_integers_match() {
        let pattern = template("user:{id:int}");
        for key in ["user:0", "user:42", "user:-7", "user:9223372036854775807", "user:-9223372036854775808"] {
            assert!(pattern.matches(key.as_bytes()), "{key}");
        }
        for key in [
            "user:",
            "user:042",
            "user:+1",
            "user:-0",
            "user:00",
            "user:-",
            "user:1 ",
            "user: 1",
            "user:1x",
            "user:--1",
            "user:9223372036854775808",
            "user:-9223372036854775809",
            "user:1e3",
            "user:1.0",
            "user:٣",
            "User:1",
            "user:1\n",
            "1",
            "",
        ] {
            assert!(!pattern.matches(key.as_bytes()), "{key}");
        }
    }

    #[test]
    fn only_canonical_uuids_match() {
        let pattern = template("u:{uuid:uuid}");
        assert!(pattern.matches(b"u:67e55044-10b1-426f-9247-bb680e5fe0c8"));
        for key in [
            "u:67E55044-10b1-426f-9247-bb680e5fe0c8",
            "u:67e5504410b1426f9247bb680e5fe0c8",
            "u:67e55044-10b1-426f-9247-bb680e5fe0c",
            "u:67e55044-10b1-426f-9247-bb680e5fe0c88",
            "u:{67e55044-10b1-426f-9247-bb680e5fe0c8}",
            "u:67e55044-10b1-426f-9247-bb680e5fe0cg",
        ] {
            assert!(!pattern.matches(key.as_bytes()), "{key}");
        }
        assert_eq!(
            uuid_of(b"67e55044-10b1-426f-9247-bb680e5fe0c8"),
            Some([0x67, 0xe5, 0x50, 0x44, 0x10, 0xb1, 0x42, 0x6f, 0x92, 0x47, 0xbb, 0x68, 0x0e, 0x5f, 0xe0, 0xc8])
        );
    }

    #[test]
    fn text_ends_at_the_next_literal_or_at_the_end() {
        assert_eq!(texts("p:{a}:{b}", b"p:x:y:z"), Some(vec!["x".into(), "y:z".into()]));
        assert_eq!(texts("p:{a}:end", b"p:x:y:end"), Some(vec!["x:y".into()]));
        assert_eq!(texts("p:{a}:end", b"p::end"), None);
        assert_eq!(texts("p:{a}", "p:ä€".as_bytes()), Some(vec!["ä€".into()]));
        assert_eq!(texts("p:{a}", b"p:"), None);
        assert_eq!(texts("p:{a}", b"p:\xff"), None);
        assert_eq!(texts("p:{a}", b"p:a\0b"), None);
        let longest = [b"p:".as_slice(), &[b'x'; TEXT_BYTES_MAX]].concat();
        assert!(template("p:{a}").matches(&longest));
        assert!(!template("p:{a}").matches(&[longest.as_slice(), b"x"].concat()));
        assert!(template("p:{a}:end").matches(&[longest.as_slice(), b":end"].concat()));
        assert!(!template("p:{a}:end").matches(&[longest.as_slice(), b"x:end"].concat()));
    }

    #[test]
    fn several_placeholders_and_braces() {
        assert_eq!(
            texts("order:{org:int}:{id:uuid}", b"order:7:67e55044-10b1-426f-9247-bb680e5fe0c8"),
            Some(vec!["7".into(), "67e55044-10b1-426f-9247-bb680e5fe0c8".into()])
        );
        assert_eq!(texts("cart:{{{id:int}}}:items", b"cart:{42}:items"), Some(vec!["42".into()]));
        assert_eq!(texts("settings", b"settings"), Some(vec![]));
    }

    #[test]
    fn bad_patterns_say_why() {
        for (pattern, reason) in [
            ("", "is empty"),
            ("user:{id:int", "no closing brace"),
            ("user:id}", "closing brace without"),
            ("user:{id:integer}", "not one of int, text, uuid"),
            ("user:{}", "a name is"),
            ("user:{1d}", "a name is"),
            ("user:{a b}", "a name is"),
            ("{a}{b}", "literal between"),
            ("{a:int}0x", "must not start with a digit"),
            ("{a}:{a}", "used twice"),
            ("{a}:{b}:{c}:{d}:{e}:{f}:{g}:{h}:{i}", "more than 8"),
        ] {
            let error = Template::parse(pattern).expect_err(pattern);
            assert!(error.contains(reason), "{pattern}: {error}");
        }
        assert!(Template::parse(&"x".repeat(PATTERN_BYTES_MAX + 1)).is_err());
    }

    /// A pattern and a key that may fit it.
    fn pattern_and_key() -> impl Strategy<Value = (String, Vec<u8>)> {
        let placeholder = prop_oneof![
            (Just("int"), any::<i64>().prop_map(|int| int.to_string())),
            (Just("int"), "[-+0-9]{1,4}"),
            (Just("text"), "[a-c:é]{1,6}"),
            (Just("uuid"), "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"),
        ];
        proptest::collection::vec((placeholder, "[:;a-c]{1,3}"), 1..5).prop_map(|pieces| {
            let mut pattern = String::from("k");
            let mut key = String::from("k");
            for (index, ((kind, text), literal)) in pieces.into_iter().enumerate() {
                pattern.push_str(&format!(":{{p{index}:{kind}}}{literal}"));
                key.push_str(&format!(":{text}{literal}"));
            }
            (pattern, key.into_bytes())
        })
    }

    proptest! {
        #[test]
        fn rendering_the_values_of_a_key_gives_the_key((pattern, key) in pattern_and_key()) {
            let template = template(&pattern);
            if let Some(values) = template.values(&key) {
                let mut rendered = Vec::new();
                prop_assert!(template.render(values.texts().iter().copied(), &mut rendered));
                prop_assert_eq!(rendered, key);
            }
        }

        #[test]
        fn every_integer_matches_by_its_decimal_text(int in any::<i64>()) {
            let key = format!("k:{int}:x");
            let pattern = template("k:{id:int}:x");
            let values = pattern.values(key.as_bytes()).expect("fits");
            prop_assert_eq!(int_of(values.texts()[0]), Some(int));
        }

        #[test]
        fn no_key_is_too_strange(key in proptest::collection::vec(any::<u8>(), 0..64)) {
            for pattern in ["{a}", "{a}:{b:int}", "k{a:uuid}", "{a:int}-{b}"] {
                let _ = template(pattern).values(&key);
            }
        }
    }
}
