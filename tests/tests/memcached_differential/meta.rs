//! Meta commands to compare, with the flags that Debian's memcached knows.
//!
//! Not those of leases (`N`, `R`, `I`), which are more here than items without a value: who fills a key under which token, and who
//! sees what meanwhile, the tests of leases say.

use crate::grammar::{FAR_AWAY, Part, Step, value_with_text};
use leasehold_tests::choices::Choices;

/// The command that choices make; choice 0 is the plainest.
#[must_use]
pub(crate) fn meta_command(choices: &mut Choices<'_>) -> Step {
    match choices.below(32) {
        0..=11 => get(choices),
        12..=19 => set(choices),
        20..=22 => arithmetic(choices),
        23..=26 => delete(choices),
        27 => Step::of(b"mn\r\n".to_vec()),
        28 => debug(choices),
        _ => spoiled(choices),
    }
}

/// A command line that is being written.
struct Line {
    parts: Vec<Part>,
    key: Vec<u8>,
}

impl Line {
    /// The verb and a key, as it is or in base64. No key is named in both ways: memcached tells a key as it was stored, we as it was
    /// asked for.
    fn new(verb: &str, choices: &mut Choices<'_>) -> Self {
        let index = choices.below(5);
        let (key, is_encoded) = match choices.below(12) {
            // b0 to b4.
            11 => (["YjA=", "YjE=", "YjI=", "YjM=", "YjQ="][index].to_owned(), true),
            _ => (format!("k{index}"), false),
        };
        let mut line = Self { parts: Vec::new(), key: key.clone().into_bytes() };
        line.push(format!("{verb} {key}"));
        line.flag(is_encoded, "b");
        line
    }

    /// Whether the key is in base64. memcached forgets that of an item when it makes a longer one of it.
    fn is_encoded(&self) -> bool {
        self.key.ends_with(b"=")
    }

    /// With a length.
    fn storing(choices: &mut Choices<'_>, length: usize) -> Self {
        let mut line = Self::new("ms", choices);
        let Some(Part::Bytes(bytes)) = line.parts.first_mut() else { unreachable!("a line starts with bytes") };
        bytes.extend_from_slice(format!(" {length}").as_bytes());
        // The flag for base64 stands behind the length.
        line
    }

    fn push(&mut self, text: impl Into<String>) {
        self.parts.push(Part::Bytes(text.into().into_bytes()));
    }

    fn flag(&mut self, is_given: bool, flag: impl AsRef<str>) {
        if is_given {
            self.push(format!(" {}", flag.as_ref()));
        }
    }

    /// What comes back with each reply, quiet or not.
    fn marks(&mut self, choices: &mut Choices<'_>) {
        let opaque = choices.below(1000);
        self.flag(opaque % 3 == 2, format!("O{opaque}"));
        self.flag(choices.once_in(4), "k");
        self.flag(choices.once_in(7), "q");
    }

    /// The key's CAS value, now and then another.
    fn compare(&mut self, choices: &mut Choices<'_>) {
        let plus = match choices.below(12) {
            0..=6 => return,
            7..=9 => 0,
            10 => FAR_AWAY,
            _ => return self.push(" C18446744073709551615"),
        };
        self.push(" C");
        let key = self.key.clone();
        self.parts.push(Part::Cas { key, plus });
    }

    fn end(mut self) -> Step {
        self.push("\r\n");
        Step { parts: self.parts, is_missized: false }
    }
}

/// Seconds; at least ten thousand apart, or none, or past.
fn seconds(choices: &mut Choices<'_>) -> String {
    match choices.below(8) {
        0 => "0".to_owned(),
        1 => "-1".to_owned(),
        _ => (10_000 * (1 + choices.below(30))).to_string(),
    }
}

fn get(choices: &mut Choices<'_>) -> Step {
    let mut line = Line::new("mg", choices);
    line.flag(!choices.once_in(5), "v");
    // `h` and `l` tell here what the policy of eviction notes.
    for flag in ["f", "s", "t", "c"] {
        let is_given = choices.once_in(3);
        line.flag(is_given, flag);
        // So that a later comparison knows whose the value is.
        line.flag(is_given && flag == "c", "k");
    }
    let seconds = seconds(choices);
    line.flag(choices.once_in(8), format!("T{seconds}"));
    let opaque = choices.below(1000);
    line.flag(opaque % 3 == 2, format!("O{opaque}"));
    line.flag(choices.once_in(8), "q");
    line.end()
}

fn set(choices: &mut Choices<'_>) -> Step {
    let data = value_with_text(choices);
    let mut line = Line::storing(choices, data.len());
    let flags = choices.below(60_000);
    line.flag(flags % 4 == 3, format!("F{flags}"));
    let seconds = seconds(choices);
    line.flag(choices.once_in(4), format!("T{seconds}"));
    // What is past at once is not stored here, and has no CAS value.
    line.flag(choices.once_in(6) && seconds != "-1", "c");
    let mode = choices.pick(&["", "", "", "", "", "ME", "MA", "MP", "MR", "MS", "Ma", "Mp", "Me", "MX", "M"]);
    let lengthens = mode.eq_ignore_ascii_case("MA") || mode.eq_ignore_ascii_case("MP");
    let mode = if lengthens && line.is_encoded() { "" } else { mode };
    line.flag(!mode.is_empty(), mode);
    line.compare(choices);
    line.marks(choices);
    line.push("\r\n");
    line.parts.push(Part::Bytes([&data[..], b"\r\n"].concat()));
    Step { parts: line.parts, is_missized: false }
}

fn arithmetic(choices: &mut Choices<'_>) -> Step {
    let mut line = Line::new("ma", choices);
    line.flag(!choices.once_in(4), "v");
    let tells_time = choices.once_in(4);
    line.flag(choices.once_in(5), "c");
    let seconds = seconds(choices);
    // What memcached 1.6.18 tells of a number that it makes, quiet or asked for its time, later versions do not, nor we.
    let makes = seconds != "-1" && !line.is_encoded() && choices.once_in(3);
    line.flag(tells_time && !makes, "t");
    line.flag(makes, format!("N{seconds}"));
    let number = choices.pick(&["0", "5", "10", "18446744073709551615", "18446744073709551616", "-1", "junk", ""]);
    line.flag(choices.once_in(4), format!("J{number}"));
    let number = choices.pick(&["1", "5", "100", "18446744073709551615", "-1", "junk"]);
    line.flag(choices.once_in(2), format!("D{number}"));
    // No `T`: memcached forgets it where the number gets longer.
    let mode = choices.pick(&["", "", "", "MI", "MD", "M+", "M-", "Mi", "Md", "MX", "M"]);
    let mode = if line.is_encoded() { "MD" } else { mode };
    line.flag(!mode.is_empty(), mode);
    // No comparison: of two mistakes, the other a value that is no number, memcached tells the other.
    if !makes {
        line.marks(choices);
    }
    line.end()
}

fn delete(choices: &mut Choices<'_>) -> Step {
    let mut line = Line::new("md", choices);
    line.compare(choices);
    line.marks(choices);
    line.end()
}

fn debug(choices: &mut Choices<'_>) -> Step {
    let line = Line::new("me", choices);
    line.end()
}

/// Lines that are wrong; none announces data.
fn spoiled(choices: &mut Choices<'_>) -> Step {
    const LINES: &[&str] = &[
        "mg",
        "mg k0 v v",
        "mg k0 !",
        "mg k0 v 1",
        "mg k0 T",
        "mg k0 Tjunk",
        "mg k0 Njunk",
        "mg k0 Rjunk",
        "mg k0 O01234567890123456789012345678901 k",
        "mg k0 O0123456789012345678901234567890123456789 k",
        "mg k0  v  k",
        "mg !! b",
        "mg a b",
        "mg azA b v k",
        "mn junk",
        "md",
        "md k0 !",
        "md k0 Cjunk",
        "md k0 q q",
        "ma",
        "ma k0 !",
        "ma k0 D",
        "ms",
        "ms k0",
        "ms k0 junk",
        "ms k0 -1",
        "ms k0 S3",
        "me",
        "me nosuchkey",
        "mx k0",
        "MG k0 v",
        "mgk0",
    ];
    let mut line = choices.pick(LINES).as_bytes().to_vec();
    if line == b"mg k0 v v" && choices.below(2) == 1 {
        line = [b"mg ", &[b'K'; 251][..], b" v"].concat();
    }
    line.extend_from_slice(b"\r\n");
    Step::of(line)
}
