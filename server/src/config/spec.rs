//! What an option is: a row of a const table, from which parsing, checking, rendering and `CONFIG GET|SET` derive.
//!
//! A row knows nothing of TOML, of the command line or of Redis's texts; it says what values there are and where one goes.

use super::BindAddress;
use super::text;
use std::time::Duration;

/// One option of a `T` (the server, a source, a loader).
pub(crate) struct Spec<T: 'static> {
    pub name: &'static str,
    pub kind: Kind,
    pub default: Default,
    pub change: Change,
    /// One to three sentences for the operator.
    pub doc: &'static str,
    /// Puts a value, which the kind has accepted, into its field.
    pub write: fn(&mut T, Value),
    /// Reads the field; the inverse of `write` except where `auto` becomes a number.
    pub read: fn(&T) -> Value,
}

/// What holds when nobody sets the option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Default {
    /// This text, which the kind accepts.
    Text(&'static str),
    /// No value; the example shows what one looks like.
    Absent { example: &'static str },
    /// It must be set.
    Required { example: &'static str },
}

/// When a new value takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// At once, by `CONFIG SET`.
    Live,
    /// At the next start.
    Start,
}

/// Which values an option takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// A whole number, or `auto` where the row allows it.
    Integer { min: u64, max: u64, auto: bool },
    /// A power of two, or `auto`.
    PowerOfTwo { min: u64, max: u64 },
    /// A number of bytes with an optional unit.
    Bytes { min: u64, max: u64, auto: bool },
    /// A span of time. A bare number counts in `unit`; without a unit it is refused, except 0.
    Duration { min: Duration, max: Duration, unit: Option<Unit>, auto: bool },
    /// A share between two others.
    Ratio { min: f64, max: f64 },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Any text of one line or more.
    Text,
    /// SQL.
    Sql,
    /// A text that is never shown and may name environment variables as `${NAME}`.
    Secret,
    /// Lines of such texts.
    SecretLines,
    /// A file that holds a secret; read at start.
    SecretFile,
    /// A file of SQL; read at start.
    Script,
    /// A file, relative to the configuration's folder.
    Path,
    /// Lines of text.
    Lines,
    /// Addresses, as Redis's `bind`.
    Addresses,
}

/// The largest size where there is no reason for a smaller one; Redis's replies could not show more.
pub(crate) const NO_MOST: u64 = i64::MAX as u64;

/// What a bare number of a duration means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Milliseconds,
    Seconds,
}

/// A value of an option, of the shape its kind says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Absent,
    Auto,
    /// Also bytes.
    Integer(u64),
    Duration(Duration),
    Ratio(f64),
    /// Index into the kind's words.
    Choice(usize),
    /// Also paths, SQL and secrets.
    Text(String),
    Lines(Vec<String>),
    Addresses(Vec<BindAddress>),
}

/// Why a text is no value of an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// It does not read as the kind.
    Shape,
    /// It reads as the kind, and is too small or too large.
    Range,
    /// A duration that needs a unit has none.
    NoUnit,
    /// One word of a list is no address.
    Address { word: String },
    /// A variable of the environment is not set, or `${` has no end.
    Environment { reason: String },
    /// The file cannot be read.
    File { reason: String },
}

impl Kind {
    /// Reads a value from text, as it stands in `CONFIG SET`, on the command line, or between quotes in the file.
    ///
    /// # Errors
    /// Why it is none.
    pub(crate) fn parse(&self, given: &str) -> Result<Value, Wrong> {
        match *self {
            Self::Integer { auto: true, .. }
            | Self::Bytes { auto: true, .. }
            | Self::Duration { auto: true, .. }
            | Self::PowerOfTwo { .. }
                if given == "auto" =>
            {
                Ok(Value::Auto)
            }
            Self::Integer { min, max, .. } => {
                let number = text::parse_integer(given).ok_or(Wrong::Shape)?;
                if (min..=max).contains(&number) { Ok(Value::Integer(number)) } else { Err(Wrong::Range) }
            }
            Self::PowerOfTwo { min, max } => {
                let number = text::parse_integer(given).ok_or(Wrong::Shape)?;
                let fits = (min..=max).contains(&number) && number.is_power_of_two();
                if fits { Ok(Value::Integer(number)) } else { Err(Wrong::Range) }
            }
            Self::Bytes { min, max, .. } => {
                let bytes = text::parse_bytes(given).ok_or(Wrong::Shape)?;
                if (min..=max).contains(&bytes) { Ok(Value::Integer(bytes)) } else { Err(Wrong::Range) }
            }
            Self::Duration { min, max, unit, .. } => {
                let span = match (text::parse_integer(given), unit) {
                    (Some(0), _) => Duration::ZERO,
                    (Some(number), Some(Unit::Milliseconds)) => Duration::from_millis(number),
                    (Some(number), Some(Unit::Seconds)) => Duration::from_secs(number),
                    (Some(_), None) => return Err(Wrong::NoUnit),
                    (None, _) => text::parse_duration(given).ok_or(Wrong::Shape)?,
                };
                if (min..=max).contains(&span) { Ok(Value::Duration(span)) } else { Err(Wrong::Range) }
            }
            Self::Ratio { min, max } => {
                let ratio: f64 = given.parse().map_err(|_| Wrong::Shape)?;
                if (min..=max).contains(&ratio) { Ok(Value::Ratio(ratio)) } else { Err(Wrong::Range) }
            }
            Self::Choice(words) => {
                words.iter().position(|word| word.eq_ignore_ascii_case(given)).map(Value::Choice).ok_or(Wrong::Shape)
            }
            Self::Secret => {
                text::substitute_environment(given).map(Value::Text).map_err(|reason| Wrong::Environment { reason })
            }
            Self::SecretLines => {
                let lines: Result<_, _> = given.lines().map(text::substitute_environment).collect();
                lines.map(Value::Lines).map_err(|reason| Wrong::Environment { reason })
            }
            Self::Text | Self::Sql | Self::SecretFile | Self::Script | Self::Path => Ok(Value::Text(given.to_owned())),
            Self::Lines => Ok(Value::Lines(given.lines().map(str::to_owned).collect())),
            Self::Addresses => {
                let words: Vec<&str> = given.split_whitespace().collect();
                if words.is_empty() {
                    return Err(Wrong::Shape);
                }
                text::parse_addresses(&words).map(Value::Addresses).map_err(|word| Wrong::Address { word })
            }
        }
    }

    /// The value as Redis would print it in `CONFIG GET`.
    pub(crate) fn show(&self, value: &Value) -> String {
        match (value, self) {
            (Value::Absent, _) => String::new(),
            (Value::Auto, _) => "auto".to_owned(),
            (Value::Integer(number), _) => number.to_string(),
            (Value::Duration(span), Self::Duration { unit: Some(Unit::Seconds), .. }) => span.as_secs().to_string(),
            (Value::Duration(span), Self::Duration { unit: Some(Unit::Milliseconds), .. }) => {
                span.as_millis().to_string()
            }
            (Value::Duration(span), _) => text::show_duration(*span),
            (Value::Ratio(ratio), _) => ratio.to_string(),
            (Value::Choice(index), Self::Choice(words)) => words.get(*index).copied().unwrap_or_default().to_owned(),
            (Value::Choice(_), _) => String::new(),
            // Redis shows requirepass to whoever may run CONFIG GET; we never do.
            (Value::Text(_), Self::Secret | Self::SecretFile | Self::Script) => String::new(),
            (Value::Lines(_), Self::SecretLines) => String::new(),
            (Value::Text(text), _) => text.clone(),
            (Value::Lines(lines), _) => lines.join("\n"),
            (Value::Addresses(list), _) => list.iter().map(text::show_address).collect::<Vec<_>>().join(" "),
        }
    }

    /// What a value is, after "is not".
    pub(crate) fn noun(&self) -> &'static str {
        match self {
            Self::Integer { .. } => "a whole number",
            Self::PowerOfTwo { .. } => "a power of two",
            Self::Bytes { .. } => "a size",
            Self::Duration { .. } => "a duration",
            Self::Ratio { .. } => "a number",
            Self::Choice(_) => "known",
            Self::Text | Self::Sql | Self::Secret => "a text",
            Self::SecretFile | Self::Script | Self::Path => "the name of a file",
            Self::Lines | Self::SecretLines => "a text or a list of texts",
            Self::Addresses => "a list of addresses",
        }
    }

    /// Which values there are, for an error and for the documentation: `a whole number from 1 to 65535`.
    pub(crate) fn allowed(&self) -> String {
        match *self {
            Self::Integer { min, max, auto } => format!("a whole number from {min} to {max}{}", or_auto(auto)),
            Self::PowerOfTwo { min, max } => format!("a power of two from {min} to {max}, or \"auto\""),
            Self::Bytes { min: 0, max: NO_MOST, auto } => {
                format!("a size (a number of bytes, or with a unit: \"10mb\"){}", or_auto(auto))
            }
            Self::Bytes { min, max, auto } => {
                let (min, max) = (text::show_bytes(min), text::show_bytes(max));
                format!("a size from {min} to {max} (a number of bytes, or with a unit: \"10mb\"){}", or_auto(auto))
            }
            Self::Duration { min, max, unit, auto } => {
                let bare = match unit {
                    Some(Unit::Milliseconds) => "a number of milliseconds, or with a unit: \"50ms\", \"2s\", \"5m\"",
                    Some(Unit::Seconds) => "a number of seconds, or with a unit: \"50s\", \"5m\", \"1h\"",
                    None => "with a unit: \"50ms\", \"2s\", \"5m\", \"1h\"",
                };
                let (min, max) = (text::show_duration(min), text::show_duration(max));
                format!("a duration from {min} to {max} ({bare}){}", or_auto(auto))
            }
            Self::Ratio { min, max } => format!("a number from {min} to {max}"),
            Self::Choice(words) => words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", "),
            Self::Text => "a text".to_owned(),
            Self::Sql => "one SQL query".to_owned(),
            Self::SecretLines => {
                "a text, or a list of texts; ${NAME} stands for a variable of the environment".to_owned()
            }
            Self::Secret => "a text; ${NAME} stands for a variable of the environment".to_owned(),
            Self::SecretFile => "a file that holds the secret, relative to the folder of this file".to_owned(),
            Self::Script | Self::Path => "a file, relative to the folder of this file".to_owned(),
            Self::Lines => "a text, or a list of texts".to_owned(),
            Self::Addresses => {
                "a list of IP addresses; \"*\" is all of IPv4, \"::*\" all of IPv6, a leading \"-\" makes one optional"
                    .to_owned()
            }
        }
    }
}

fn or_auto(auto: bool) -> &'static str {
    if auto { ", or \"auto\"" } else { "" }
}

// The accessors of rows: the kind of the row says which shape its value has, and a test writes and reads every row.
impl Value {
    pub(crate) fn integer(&self) -> u64 {
        match self {
            Self::Integer(number) => *number,
            other => unreachable!("the kind says a number, not {other:?}"),
        }
    }

    pub(crate) fn u8(&self) -> u8 {
        u8::try_from(self.integer()).expect("the kind's range fits a byte")
    }

    pub(crate) fn u16(&self) -> u16 {
        u16::try_from(self.integer()).expect("the kind's range fits 16 bits")
    }

    pub(crate) fn u32(&self) -> u32 {
        u32::try_from(self.integer()).expect("the kind's range fits 32 bits")
    }

    pub(crate) fn usize(&self) -> usize {
        usize::try_from(self.integer()).expect("this is a 64-bit machine")
    }

    pub(crate) fn duration(&self) -> Duration {
        match self {
            Self::Duration(span) => *span,
            other => unreachable!("the kind says a duration, not {other:?}"),
        }
    }

    /// `None` for zero, which means never.
    pub(crate) fn duration_or_never(&self) -> Option<Duration> {
        Some(self.duration()).filter(|span| !span.is_zero())
    }

    /// Whole milliseconds.
    pub(crate) fn ms(&self) -> u64 {
        u64::try_from(self.duration().as_millis()).expect("the kind's range fits 64 bits")
    }

    pub(crate) fn ratio(&self) -> f64 {
        match self {
            Self::Ratio(ratio) => *ratio,
            other => unreachable!("the kind says a share, not {other:?}"),
        }
    }

    pub(crate) fn choice<E: Copy>(&self, words: &[E]) -> E {
        match self {
            Self::Choice(index) => words[*index],
            other => unreachable!("the kind says a choice, not {other:?}"),
        }
    }

    pub(crate) fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            other => unreachable!("the kind says a text, not {other:?}"),
        }
    }

    /// `None` for an empty text.
    pub(crate) fn text_or_none(self) -> Option<String> {
        Some(self.text()).filter(|text| !text.is_empty())
    }

    pub(crate) fn lines(self) -> Vec<String> {
        match self {
            Self::Lines(lines) => lines,
            other => unreachable!("the kind says lines, not {other:?}"),
        }
    }

    pub(crate) fn addresses(self) -> Vec<BindAddress> {
        match self {
            Self::Addresses(addresses) => addresses,
            other => unreachable!("the kind says addresses, not {other:?}"),
        }
    }

    pub(crate) fn from_ms(ms: u64) -> Self {
        Self::Duration(Duration::from_millis(ms))
    }

    pub(crate) fn from_never(span: Option<Duration>) -> Self {
        Self::Duration(span.unwrap_or_default())
    }

    pub(crate) fn from_choice<E: PartialEq>(words: &[E], chosen: E) -> Self {
        Self::Choice(words.iter().position(|word| *word == chosen).expect("every value of the type has its word"))
    }

    pub(crate) fn from_usize(number: usize) -> Self {
        Self::Integer(number as u64)
    }

    pub(crate) fn from_text(text: Option<&str>) -> Self {
        text.map_or(Self::Absent, |text| Self::Text(text.to_owned()))
    }
}
