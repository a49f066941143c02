//! Meta commands to compare, with the flags that the oracle knows.
//!
//! Not those of leases (`N` and `R` of `mg`, `I`), which are more here than items without a value: who fills a key under which token, and
//! who sees what meanwhile, the tests of leases say. Nor what we do otherwise on purpose: `E` only grows; `h` and `l` tell what the policy
//! of eviction notes; `me` reads base64; `md x` is a write, and gives another CAS value also without `E`; a line with a mistake in a flag, and data of another length than it tells, is told of the data.

use crate::grammar::{FAR_AWAY, Oracle, Part, Step, value_with_text};
use leasehold_tests::choices::Choices;

/// The command that choices make; choice 0 is the plainest.
#[must_use]
pub(crate) fn meta_command(choices: &mut Choices<'_>, oracle: Oracle) -> Step {
    match choices.below(32) {
        0..=11 => get(choices),
        12..=19 => set(choices, oracle),
        20..=22 => arithmetic(choices, oracle),
        23..=26 => delete(choices, oracle),
        27 => Step::of(b"mn\r\n".to_vec()),
        28 => debug(choices, oracle),
        _ => spoiled(choices, oracle),
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
            11 if choices.once_in(2) => return self.push(" C0"),
            _ => return self.push(" C18446744073709551615"),
        };
        self.push(" C");
        let key = self.key.clone();
        self.parts.push(Part::Cas { key, plus });
    }

    /// A number that the value shall have, larger than all before.
    fn version(&mut self, choices: &mut Choices<'_>, oracle: Oracle) {
        if choices.once_in(4) && oracle == Oracle::Newest {
            self.push(" E");
            self.parts.push(Part::Version);
        }
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

fn set(choices: &mut Choices<'_>, oracle: Oracle) -> Step {
    let is_newest = oracle == Oracle::Newest;
    let data = value_with_text(choices);
    let mut line = Line::storing(choices, data.len());
    let flags = choices.below(60_000);
    line.flag(flags % 4 == 3, format!("F{flags}"));
    let seconds = seconds(choices);
    line.flag(choices.once_in(4), format!("T{seconds}"));
    // What is past at once is not stored here, and has no CAS value.
    line.flag(choices.once_in(6) && seconds != "-1", "c");
    const MODES: &[&str] = &["", "", "", "", "", "ME", "MA", "MP", "MR", "MS", "Ma", "Mp", "Me", "MX", "M", "MAX"];
    // Of a mode the newest reads the first letter.
    let mode = choices.pick(if is_newest { MODES } else { &MODES[..MODES.len() - 2] });
    let lengthens = mode.starts_with("MA") || mode.starts_with("MP");
    let mode = if lengthens && line.is_encoded() { "" } else { mode };
    line.flag(!mode.is_empty(), mode);
    let vivifies = choices.once_in(3) && is_newest;
    let seconds = self::seconds(choices);
    line.flag(vivifies && seconds != "-1", format!("N{seconds}"));
    line.compare(choices);
    line.version(choices, oracle);
    line.flag(choices.once_in(6) && is_newest, "s");
    line.marks(choices);
    line.push("\r\n");
    line.parts.push(Part::Bytes([&data[..], b"\r\n"].concat()));
    Step { parts: line.parts, is_missized: false }
}

fn arithmetic(choices: &mut Choices<'_>, oracle: Oracle) -> Step {
    let is_newest = oracle == Oracle::Newest;
    let mut line = Line::new("ma", choices);
    line.flag(!choices.once_in(4), "v");
    let tells_time = choices.once_in(4);
    // With `E`, memcached tells another CAS value than it gives where the number gets longer.
    let tells_version = choices.once_in(5);
    line.flag(tells_version, "c");
    let seconds = seconds(choices);
    let makes = seconds != "-1" && !line.is_encoded() && choices.once_in(3);
    // What memcached 1.6.18 tells of a number that it makes, quiet or asked for its time, later versions do not.
    line.flag(tells_time && !makes, "t");
    line.flag(makes, format!("N{seconds}"));
    // Before it, memcached tells of the time that the number had without it.
    line.flag(tells_time && makes && is_newest, "t");
    const NUMBERS: &[&str] = &["0", "5", "10", "18446744073709551615", "18446744073709551616", "-1", "junk", "", "+1"];
    let numbers = if is_newest { NUMBERS } else { &NUMBERS[..NUMBERS.len() - 1] };
    let number = choices.pick(numbers);
    line.flag(choices.once_in(4), format!("J{number}"));
    let number = choices.pick(&["1", "5", "100", "18446744073709551615", "-1", "junk"]);
    line.flag(choices.once_in(2), format!("D{number}"));
    // No `T`: memcached forgets it where the number gets longer.
    const MODES: &[&str] = &["", "", "", "MI", "MD", "M+", "M-", "Mi", "Md", "MX", "M", "MDX"];
    let mode = choices.pick(if is_newest { MODES } else { &MODES[..MODES.len() - 2] });
    let mode = if line.is_encoded() { "MD" } else { mode };
    line.flag(!mode.is_empty(), mode);
    if is_newest {
        // Older ones tell of a value that is no number before they compare.
        line.compare(choices);
        if !tells_version {
            line.version(choices, oracle);
        }
    }
    if !makes || is_newest {
        line.marks(choices);
    }
    line.end()
}

fn delete(choices: &mut Choices<'_>, oracle: Oracle) -> Step {
    let mut line = Line::new("md", choices);
    line.compare(choices);
    // That a key came in base64, memcached forgets with the value.
    if oracle == Oracle::Newest && choices.once_in(3) && !line.is_encoded() {
        line.push(" x E");
        line.parts.push(Part::Version);
        let (flags, seconds) = (choices.below(60_000), seconds(choices));
        line.flag(flags % 4 == 3, format!("F{flags}"));
        line.flag(choices.once_in(3), format!("T{seconds}"));
    } else {
        line.version(choices, oracle);
    }
    line.marks(choices);
    line.end()
}

fn debug(choices: &mut Choices<'_>, oracle: Oracle) -> Step {
    let line = Line::new("me", choices);
    if oracle == Oracle::Newest && line.is_encoded() { spoiled(choices, oracle) } else { line.end() }
}

/// Lines that are wrong.
fn spoiled(choices: &mut Choices<'_>, oracle: Oracle) -> Step {
    const OF_ALL: &[&str] = &[
        "mg k0 v v",
        "mg k0 v z",
        "mg k0 T",
        "mg k0 Tjunk",
        "mg k0 Njunk",
        "mg k0 Rjunk",
        "mg k0 Fjunk",
        "mg k0 Cjunk Tjunk Fjunk",
        "mg k0 Djunk",
        "mg k0 O01234567890123456789012345678901 k",
        "mg k0 O0123456789012345678901234567890123456789 k",
        "mg k0  v  k",
        "mg !! b",
        "mg a b",
        "mg azA b v k",
        "mn junk",
        "md k0 O0123456789012345678901234567890123456789",
        "ma k0 D",
        "ma k0 Djunk",
        "ma k0 Tjunk",
        "ma k0 q q",
        "ma k0 MX",
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
    // The long key is one of memcached's, the lines that announce data have it.
    const OF_THE_NEWEST: &[&str] = &[
        "mg",
        "mg k0 !",
        "mg k0 v v !",
        "mg k0 v :",
        "mg k0 v 1",
        "mg k0 M",
        "mg k0 MZZ",
        "mg k0 T+1",
        "mg k0 C-0",
        "mg k0 Ejunk",
        "mg k0 v k s t f c q N1 T0 R0 P1 L1 C1 F1 J1 D1 I x b",
        "mg k0 v k s t f c q N1 T0 R0 P1 L1 C1 F1 J1 D1 I x b !",
        "md",
        "md k0 !",
        "md k0 z",
        "md k0 Cjunk",
        "md k0 Fjunk",
        "md k0 MZZ Tjunk",
        "md k0 q q",
        "md a b",
        "ma",
        "ma k0 !",
        "ma k0 MZZ",
        "ma k0 M",
        "ma a b",
        "ma KKK",
        "ms",
        "ms k0 +1",
        "ms k0 1 !\r\nmg k0 v",
        "ms k0 1 T0 :\r\nmg k0 v",
        "ms k0 1 z\r\n1",
        "ms k0 1 v v\r\n1",
        "ms k0 1 Tjunk\r\n1",
        "ms k0 1 T+1\r\n1",
        "ms k0 1 F\r\n1",
        "ms k0 1 F-1\r\n1",
        "ms k0 1 MZZ\r\n1",
        "ms k0 1 M\r\n1",
        "ms k0 1 O0123456789012345678901234567890123456789 k\r\n1",
        "ms k0 1 v k s t f c q N1 T0 R0 P1 L1 C1 F1 J1 D1 I x\r\n1",
        "ms !! 1 b\r\n1",
        "ms KKK 1 T0\r\n1",
        "ms KKK 1 T0 q\r\n1",
        "ms KKK 1 !\r\nmg k0 v",
        "ms KKK junk",
        "md KKK q",
        "me KKK",
    ];
    let line = match (choices.below(2), oracle) {
        (1, Oracle::Newest) => choices.pick(OF_THE_NEWEST).replace("KKK", &"K".repeat(251)),
        (1, Oracle::Older) => ["mg ", &"K".repeat(251), " v"].concat(),
        _ => choices.pick(OF_ALL).to_owned(),
    };
    Step::of(format!("{line}\r\n").into_bytes())
}
