//! What a reply should be, as a transcript writes it, and whether a reply is that.
//!
//! A pattern says the meaning (a map, a double, nothing); how that looks depends on the version of RESP, as in the server.

use super::text::Text;
use crate::reply::Value;
use std::collections::HashMap;

/// What is expected of one reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Pattern {
    /// `_`: any reply.
    Any,
    /// `$name`: a string or number, captured at first sight, compared afterwards.
    Variable(String),
    /// `nil`
    Nil,
    /// `nil-array`
    NilArray,
    /// `12`
    Integer(i64),
    /// `1..20`, both included.
    Range(i64, i64),
    /// `+OK`
    Simple(String),
    /// `-ERR text`
    Error(String),
    /// `-ERR text...`: an error that begins so.
    ErrorPrefix(String),
    /// `"text"`
    Bulk(Vec<u8>),
    /// `~"a*c"`: a bulk string with any bytes in place of each star.
    BulkLike(Vec<u8>),
    /// `~1..20`: a bulk string of digits in the range.
    BulkRange(i64, i64),
    /// `(1.5)`: a double; a bulk string in RESP2.
    Double(String),
    /// `true`, `false`: 1 and 0 in RESP2.
    Boolean(bool),
    /// `txt:"…"`: a bulk string in RESP2.
    Verbatim(String, Box<Pattern>),
    /// `[a, b]`; with `...` at the end, more may follow.
    Array(Vec<Pattern>, Tail),
    /// `any-order [a, b]`
    AnyOrder(Vec<Pattern>),
    /// `~[a, b]`: a set in any order; an array in RESP2.
    Set(Vec<Pattern>),
    /// `{k: v}`: a map in any order; a flat array in RESP2.
    Map(Vec<(Pattern, Pattern)>, Tail),
}

/// Whether more may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing else.
    None,
    /// `...`
    Any,
}

/// Values captured so far.
pub type Variables = HashMap<String, Vec<u8>>;

impl Pattern {
    /// Reads a whole pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut text = Text::new(text.trim());
        let pattern = parse(&mut text, Nested::No)?;
        text.skip_spaces();
        if text.is_at_end() { Ok(pattern) } else { Err(format!("unexpected: {}", text.rest())) }
    }

    /// Whether `value` is this, over RESP `version`.
    pub fn matches(&self, value: &Value, version: u8, variables: &mut Variables) -> bool {
        match (self, value) {
            (Self::Any, _) => true,
            (Self::Variable(name), value) => captured(name, value, variables),
            (Self::Nil, Value::NullBulk) | (Self::NilArray, Value::NullArray) => version == 2,
            (Self::Nil | Self::NilArray, Value::Null) => version == 3,
            (Self::Integer(wanted), Value::Integer(found)) => wanted == found,
            (Self::Range(least, most), Value::Integer(found)) => (least..=most).contains(&found),
            (Self::Simple(wanted), Value::Simple(found)) => wanted == found,
            // Written without quotes, a text cannot end in a space.
            (Self::Error(wanted), Value::Error(found)) => wanted == found || *wanted == found.trim_end(),
            (Self::ErrorPrefix(wanted), Value::Error(found)) => found.starts_with(wanted),
            (Self::Bulk(wanted), Value::Bulk(found)) => wanted == found,
            (Self::BulkLike(wanted), Value::Bulk(found)) => is_like(wanted, found),
            (Self::BulkRange(least, most), Value::Bulk(found)) => {
                let number = std::str::from_utf8(found).ok().and_then(|digits| digits.parse().ok());
                number.is_some_and(|number: i64| (*least..=*most).contains(&number))
            }
            (Self::Double(wanted), Value::Double(found)) => version == 3 && wanted == found,
            (Self::Double(wanted), Value::Bulk(found)) => version == 2 && wanted.as_bytes() == found,
            (Self::Boolean(wanted), Value::Boolean(found)) => version == 3 && wanted == found,
            (Self::Boolean(wanted), Value::Integer(found)) => version == 2 && i64::from(*wanted) == *found,
            (Self::Verbatim(wanted, text), Value::Verbatim(format, found)) => {
                version == 3 && wanted == format && text.matches(&Value::bulk(found), version, variables)
            }
            (Self::Verbatim(_, text), Value::Bulk(_)) => version == 2 && text.matches(value, version, variables),
            (Self::Array(wanted, tail), Value::Array(found)) => {
                (wanted.len() == found.len() || *tail == Tail::Any && wanted.len() < found.len())
                    && wanted.iter().zip(found).all(|(wanted, found)| wanted.matches(found, version, variables))
            }
            (Self::AnyOrder(wanted), Value::Array(found)) => in_any_order(wanted, found, version, variables),
            (Self::Set(wanted), Value::Set(found)) => version == 3 && in_any_order(wanted, found, version, variables),
            (Self::Set(wanted), Value::Array(found)) => version == 2 && in_any_order(wanted, found, version, variables),
            (Self::Map(wanted, tail), Value::Map(found)) => {
                let found: Vec<_> = found.iter().map(|(key, value)| (key, value)).collect();
                version == 3 && pairs_match(wanted, *tail, &found, version, variables)
            }
            (Self::Map(wanted, tail), Value::Array(flat)) => {
                let found: Vec<_> = flat.chunks_exact(2).map(|pair| (&pair[0], &pair[1])).collect();
                version == 2 && flat.len() % 2 == 0 && pairs_match(wanted, *tail, &found, version, variables)
            }
            _ => false,
        }
    }
}

fn captured(name: &str, value: &Value, variables: &mut Variables) -> bool {
    let bytes = match value {
        Value::Integer(number) => number.to_string().into_bytes(),
        other => match other.bytes() {
            Some(bytes) => bytes.to_vec(),
            None => return false,
        },
    };
    match variables.get(name) {
        Some(known) => *known == bytes,
        None => {
            variables.insert(name.to_owned(), bytes);
            true
        }
    }
}

fn pairs_match(
    wanted: &[(Pattern, Pattern)],
    tail: Tail,
    found: &[(&Value, &Value)],
    version: u8,
    variables: &mut Variables,
) -> bool {
    (wanted.len() == found.len() || tail == Tail::Any)
        && wanted.iter().all(|(key, value)| {
            found.iter().any(|(found_key, found_value)| {
                key.matches(found_key, version, variables) && value.matches(found_value, version, variables)
            })
        })
}

fn in_any_order(wanted: &[Pattern], found: &[Value], version: u8, variables: &mut Variables) -> bool {
    let mut left: Vec<&Value> = found.iter().collect();
    wanted.len() == found.len()
        && wanted.iter().all(|pattern| match left.iter().position(|value| pattern.matches(value, version, variables)) {
            Some(index) => {
                left.swap_remove(index);
                true
            }
            None => false,
        })
}

/// Whether `bytes` are `pattern` with any bytes in place of each `*`.
fn is_like(pattern: &[u8], bytes: &[u8]) -> bool {
    let mut parts = pattern.split(|&byte| byte == b'*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = bytes.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.windows(part.len().max(1)).position(|window| part.is_empty() || window == part) else {
            return part.is_empty();
        };
        rest = &rest[at + part.len()..];
    }
    true
}

/// Whether a pattern stands inside another: there an error text ends at `,` or `]`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nested {
    Yes,
    No,
}

fn parse(text: &mut Text<'_>, nested: Nested) -> Result<Pattern, String> {
    text.skip_spaces();
    let is_word = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '-' | '.');
    if text.take("\"") {
        return text.quoted().map(Pattern::Bulk);
    }
    if text.take("~\"") {
        return text.quoted().map(Pattern::BulkLike);
    }
    if text.take("~[") {
        return list(text).map(|(elements, _)| Pattern::Set(elements));
    }
    if text.take("any-order [") {
        return list(text).map(|(elements, _)| Pattern::AnyOrder(elements));
    }
    if text.take("[") {
        return list(text).map(|(elements, tail)| Pattern::Array(elements, tail));
    }
    if text.take("{") {
        return map(text);
    }
    if text.take("$") {
        return Ok(Pattern::Variable(text.take_while(is_word).to_owned()));
    }
    if text.take("(") {
        let double = text.take_while(|character| character != ')').to_owned();
        return if text.take(")") { Ok(Pattern::Double(double)) } else { Err("`)` is missing".to_owned()) };
    }
    if text.take("+") {
        return Ok(Pattern::Simple(text.take_while(|character| !",]}".contains(character)).trim_end().to_owned()));
    }
    if text.take("~") {
        return match number_or_range(text.take_while(is_word))? {
            Pattern::Range(least, most) => Ok(Pattern::BulkRange(least, most)),
            _ => Err("a range belongs behind `~`".to_owned()),
        };
    }
    if text.rest().starts_with('-') && !text.rest()[1..].starts_with(|next: char| next.is_ascii_digit()) {
        text.take("-");
        return error(text, nested);
    }
    match text.take_while(is_word) {
        "" => Err(format!("a reply is expected: {}", text.rest())),
        "_" => Ok(Pattern::Any),
        "nil" => Ok(Pattern::Nil),
        "nil-array" => Ok(Pattern::NilArray),
        "true" => Ok(Pattern::Boolean(true)),
        "false" => Ok(Pattern::Boolean(false)),
        word if text.rest().starts_with(':') && word.len() == 3 => {
            text.take(":");
            Ok(Pattern::Verbatim(word.to_owned(), Box::new(parse(text, nested)?)))
        }
        word => number_or_range(word),
    }
}

fn number_or_range(word: &str) -> Result<Pattern, String> {
    let number = |digits: &str| digits.parse::<i64>().map_err(|_| format!("no reply: {word}"));
    match word.split_once("..") {
        Some((least, most)) => Ok(Pattern::Range(number(least)?, number(most)?)),
        None => Ok(Pattern::Integer(number(word)?)),
    }
}

fn error(text: &mut Text<'_>, nested: Nested) -> Result<Pattern, String> {
    if text.take("\"") {
        let bytes = text.quoted()?;
        return Ok(Pattern::Error(String::from_utf8_lossy(&bytes).into_owned()));
    }
    let words = match nested {
        Nested::Yes => text.take_while(|character| !",]}".contains(character)),
        Nested::No => text.take_while(|_| true),
    };
    Ok(match words.trim_end().strip_suffix("...") {
        Some(prefix) => Pattern::ErrorPrefix(prefix.to_owned()),
        None => Pattern::Error(words.trim_end().to_owned()),
    })
}

fn list(text: &mut Text<'_>) -> Result<(Vec<Pattern>, Tail), String> {
    let mut elements = Vec::new();
    loop {
        text.skip_spaces();
        if text.take("]") {
            return Ok((elements, Tail::None));
        }
        if text.take("...") {
            text.skip_spaces();
            return if text.take("]") { Ok((elements, Tail::Any)) } else { Err("`]` belongs behind ...".to_owned()) };
        }
        elements.push(parse(text, Nested::Yes)?);
        text.skip_spaces();
        if !text.take(",") && !text.rest().starts_with(']') {
            return Err(format!("`,` or `]` is missing: {}", text.rest()));
        }
    }
}

fn map(text: &mut Text<'_>) -> Result<Pattern, String> {
    let mut pairs = Vec::new();
    loop {
        text.skip_spaces();
        if text.take("}") {
            return Ok(Pattern::Map(pairs, Tail::None));
        }
        if text.take("...") {
            text.skip_spaces();
            return if text.take("}") {
                Ok(Pattern::Map(pairs, Tail::Any))
            } else {
                Err("`}` belongs behind ...".to_owned())
            };
        }
        let key = parse(text, Nested::Yes)?;
        text.skip_spaces();
        if !text.take(":") {
            return Err(format!("`:` is missing: {}", text.rest()));
        }
        pairs.push((key, parse(text, Nested::Yes)?));
        text.skip_spaces();
        if !text.take(",") && !text.rest().starts_with('}') {
            return Err(format!("`,` or `}}` is missing: {}", text.rest()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, value: &Value, version: u8) -> bool {
        Pattern::parse(pattern).expect("well formed").matches(value, version, &mut Variables::new())
    }

    #[test]
    fn a_pattern_takes_the_shape_of_its_version() {
        let flat = Value::Array(vec![Value::bulk("a"), Value::Integer(1)]);
        let map = Value::Map(vec![(Value::bulk("a"), Value::Integer(1))]);
        assert!(matches("{\"a\": 1}", &flat, 2) && !matches("{\"a\": 1}", &flat, 3));
        assert!(matches("{\"a\": 1}", &map, 3) && !matches("{\"a\": 1}", &map, 2));
        assert!(matches("nil", &Value::NullBulk, 2) && !matches("nil", &Value::NullArray, 2));
        assert!(matches("nil", &Value::Null, 3) && !matches("nil", &Value::NullBulk, 3));
        assert!(matches("(1.5)", &Value::bulk("1.5"), 2) && matches("(1.5)", &Value::Double("1.5".to_owned()), 3));
        assert!(matches("true", &Value::Integer(1), 2) && !matches("true", &Value::Integer(0), 2));
    }

    #[test]
    fn a_wrong_reply_does_not_match() {
        assert!(!matches("1..3", &Value::Integer(4), 2));
        assert!(!matches("[1, 2]", &Value::Array(vec![Value::Integer(1)]), 2));
        assert!(!matches("[1]", &Value::Array(vec![Value::Integer(1), Value::Integer(2)]), 2));
        assert!(!matches("any-order [1, 1]", &Value::Array(vec![Value::Integer(1), Value::Integer(2)]), 2));
        assert!(!matches("\"OK\"", &Value::Simple("OK".to_owned()), 2));
        assert!(!matches("-ERR a", &Value::Error("ERR ab".to_owned()), 2));
        assert!(matches("-ERR a...", &Value::Error("ERR ab".to_owned()), 2));
        assert!(!matches("~\"a*c\"", &Value::bulk("abd"), 2) && matches("~\"a*c*\"", &Value::bulk("abcd"), 2));
        assert!(!matches("~\"ab\"", &Value::bulk("abc"), 2) && !matches("~\"a*b*c\"", &Value::bulk("axxc"), 2));
    }

    #[test]
    fn a_variable_is_what_it_was_first() {
        let pattern = Pattern::parse("[$t, $t]").expect("well formed");
        let pair = |a: &str, b: &str| Value::Array(vec![Value::bulk(a), Value::bulk(b)]);
        assert!(pattern.matches(&pair("5", "5"), 2, &mut Variables::new()));
        assert!(!pattern.matches(&pair("5", "6"), 2, &mut Variables::new()));
    }
}
