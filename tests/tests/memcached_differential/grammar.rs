//! Commands of memcached's text protocol to compare: how a list of choices becomes the bytes of one.
//!
//! Choice 0 is the plainest answer everywhere (a `get` of one key, flags 0, no time, right lengths), so a failing sequence shrinks
//! to a plain one.
//!
//! A length is never larger than what follows by more than two bytes: whatever swallows more would swallow the marks by which
//! a test finds the ends of replies.
//!
//! What is never made up, as we differ there on purpose: client flags and lengths that memcached cuts to fewer bits; `noreply` as the last
//! key of a read, which memcached takes for a wish; what a `delete` does not know, which memcached takes and libmemcached's memcapable wants refused; several keys of a `gat` of which one is too long, where memcached touches those before it.

use leasehold_tests::choices::Choices;
use leasehold_tests::reply::Quoted;
use std::fmt;

/// One command with its data.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// Its bytes, with holes.
    pub(crate) parts: Vec<Part>,
    /// The length that it tells is not that of its data, so that what follows is taken for data, or data for a command.
    pub(crate) is_missized: bool,
}

/// A piece of a command.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// As they are.
    Bytes(Vec<u8>),
    /// The CAS value that this server told last for a key, and what is added to it.
    Cas { key: Vec<u8>, plus: u64 },
    /// A number for `E`, larger than all before it: ours takes no others.
    Version,
}

/// What is never a CAS value of a key that had another lately.
pub(crate) const FAR_AWAY: u64 = 1_000_000_000_000;

/// Enough of long data to know it.
const SHOWN_MAX: usize = 300;

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            match part {
                Part::Bytes(bytes) if bytes.len() > SHOWN_MAX => {
                    write!(f, "{}… ({} bytes)", Quoted(&bytes[..SHOWN_MAX]), bytes.len())?;
                }
                Part::Bytes(bytes) => write!(f, "{}", Quoted(bytes))?,
                Part::Cas { key, plus } => write!(f, " <cas of {} + {plus}> ", Quoted(key))?,
                Part::Version => write!(f, "<version>")?,
            }
        }
        Ok(())
    }
}

impl Step {
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        Self { parts: vec![Part::Bytes(bytes)], is_missized: false }
    }

    /// Whether all replies must have come before it is sent: it needs a CAS value from them, or memcached's own answer depends on
    /// what of them it has sent by then. A number is padded with spaces unless a reply with it is still to be sent (memcached.c,
    /// `do_add_delta`), and a read that fails for a key that is too long takes the replies along that are still to be sent.
    pub(crate) fn waits_for_replies(&self) -> bool {
        let is_cas = |part: &Part| matches!(part, Part::Cas { .. });
        let Some(Part::Bytes(bytes)) = self.parts.first() else { return true };
        let word = bytes.trim_ascii_start().get(..4).unwrap_or_default();
        // Keys of meta commands are kN, or begin with Yj in base64.
        let counts = [&b"incr"[..], b"decr", b"ma k", b"ma Y"].contains(&word);
        counts || self.has_long_key() || self.parts.iter().any(is_cas)
    }

    /// Whether a key of it is too long.
    pub(crate) fn has_long_key(&self) -> bool {
        let is_long = |bytes: &[u8]| bytes.windows(KEY_TOO_LONG).any(|bytes| bytes.iter().all(|&byte| byte == b'K'));
        matches!(self.parts.first(), Some(Part::Bytes(bytes)) if is_long(bytes))
    }
}

/// One byte more than a key may have.
const KEY_TOO_LONG: usize = 251;

/// Which memcached is asked. Ours answers as the newest does: what older ones answer otherwise, they are not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Oracle {
    /// As Debian 12 has it (1.6.18): sound commands. Since then what is wrong with a line is told otherwise, and the data of a wrong line
    /// is passed over.
    Older,
    /// 1.6.45 or later.
    Newest,
}

impl Oracle {
    pub(crate) fn of(version: [u64; 3]) -> Self {
        if version >= [1, 6, 45] { Self::Newest } else { Self::Older }
    }
}

/// Whether flushes in a sequence come at once or after a day. memcached shows what it has flushed again if a later flush is put
/// off and nobody has looked at it meanwhile, so one sequence has one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushes {
    AtOnce,
    Delayed,
}

/// Every key that a command may name and that is none too long.
pub(crate) fn keys() -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = (0..6).map(|index| format!("k{index}").into_bytes()).collect();
    keys.extend((0..5).map(|index| format!("b{index}").into_bytes()));
    keys.extend([b"noreply".to_vec(), b"0".to_vec(), b"\x01\xff\x80".to_vec(), vec![b'K'; 250]]);
    keys
}

/// Where a number is expected: odd ones, and what is none. The last only the newest takes for none. Numbers that memcached cuts to
/// fewer bits are not here: its versions do not agree on them.
const JUNK: &[&str] = &["junk", "-1", "1.5", "0x10", "01", "18446744073709551616", "1x", "noreply", "+1"];
const JUNK_OF_ALL: usize = 8;

/// The same for times: none is so near that a clock decides.
const NO_TIMES: &[&str] =
    &["junk", "1.5", "0x10", "18446744073709551616", "1x", "noreply", "-1", "+86400", "-5", "0086400"];
const NO_TIMES_OF_ALL: usize = 7;

/// The command that choices make.
#[must_use]
pub(crate) fn text_command(choices: &mut Choices<'_>, flushes: Flushes, oracle: Oracle) -> Step {
    Maker { oracle }.command(choices, flushes)
}

/// Makes commands for one oracle.
struct Maker {
    oracle: Oracle,
}

impl Maker {
    fn is_newest(&self) -> bool {
        self.oracle == Oracle::Newest
    }

    fn command(&self, choices: &mut Choices<'_>, flushes: Flushes) -> Step {
        match choices.below(64) {
            0..=9 => self.read(choices, "get"),
            10..=15 => self.read(choices, "gets"),
            16..=17 => self.read_and_touch(choices, "gat"),
            18..=19 => self.read_and_touch(choices, "gats"),
            20..=27 => self.store(choices, "set"),
            28..=30 => self.store(choices, "add"),
            31..=33 => self.store(choices, "replace"),
            34..=36 => self.store(choices, "append"),
            37..=39 => self.store(choices, "prepend"),
            40..=44 => self.cas(choices),
            45..=48 => self.count(choices, "incr"),
            49..=52 => self.count(choices, "decr"),
            53..=54 => self.touch(choices),
            55..=58 => self.delete(choices),
            59 => self.flush(choices, flushes),
            60..=61 => self.of_server(choices),
            _ => self.no_command(choices),
        }
    }

    fn read(&self, choices: &mut Choices<'_>, verb: &str) -> Step {
        let mut words = vec![verb.as_bytes().to_vec()];
        self.push_keys(choices, &mut words);
        self.line(words, choices)
    }

    fn read_and_touch(&self, choices: &mut Choices<'_>, verb: &str) -> Step {
        let mut words = vec![verb.as_bytes().to_vec(), self.time(choices)];
        self.push_keys(choices, &mut words);
        if words.len() > 3 {
            // Before a key that is too long, memcached has touched those before it; here such a line does nothing.
            words.retain(|word| word.len() < KEY_TOO_LONG);
            words.push(b"k0".to_vec());
        }
        self.line(words, choices)
    }

    fn push_keys(&self, choices: &mut Choices<'_>, words: &mut Vec<Vec<u8>>) {
        let count = key_count(choices);
        words.extend((0..count).map(|_| key(choices)));
        if words.last().is_some_and(|last| last == b"noreply") {
            words.push(b"k0".to_vec());
        }
    }

    /// A key of a command that stores: what comes behind a line that is wrong is data to the newest alone.
    fn stored_key(&self, choices: &mut Choices<'_>) -> Vec<u8> {
        let key = key(choices);
        if self.is_newest() || key.len() < KEY_TOO_LONG { key } else { b"k0".to_vec() }
    }

    fn store(&self, choices: &mut Choices<'_>, verb: &str) -> Step {
        let (data, length, is_missized) = match verb {
            "append" | "prepend" => self.data(choices),
            _ => self.data_with_text(choices),
        };
        let key = self.stored_key(choices);
        let mut words = vec![verb.as_bytes().to_vec(), key, self.flags(choices), self.stored_time(choices), length];
        noreply(&mut words, choices);
        let mut step = self.line(words, choices);
        step.parts.push(Part::Bytes([&data[..], b"\r\n"].concat()));
        step.is_missized |= is_missized;
        step
    }

    fn cas(&self, choices: &mut Choices<'_>) -> Step {
        let (data, length, is_missized) = self.data_with_text(choices);
        let key = self.stored_key(choices);
        let words = [b"cas", &key[..], &self.flags(choices), &self.stored_time(choices), &length].join(&b' ');
        let unique = match choices.below(12) {
            7 | 8 => Part::Cas { key, plus: FAR_AWAY },
            9 => Part::Bytes(b"0".to_vec()),
            10 => Part::Bytes(b"18446744073709551615".to_vec()),
            11 if self.is_newest() => Part::Bytes(choices.pick(JUNK).into()),
            _ => Part::Cas { key, plus: 0 },
        };
        let end: &[u8] = match choices.below(10) {
            0..=7 => b"\r\n",
            8 => b" noreply\r\n",
            _ => b" junk\r\n",
        };
        let parts =
            vec![Part::Bytes(words), Part::Bytes(b" ".to_vec()), unique, Part::Bytes([end, &data, b"\r\n"].concat())];
        Step { parts, is_missized }
    }

    fn count(&self, choices: &mut Choices<'_>, verb: &str) -> Step {
        let delta = match choices.below(10) {
            0..=3 => b"1".to_vec(),
            4 | 5 => choices.below(100_000).to_string().into_bytes(),
            6 => choices.pick(&["0", "9", "90", "999", "10000000000"]).into(),
            7 if self.is_newest() => {
                choices.pick(&["18446744073709551615", "9223372036854775807", "9223372036854775808"]).into()
            }
            _ => self.junk(choices),
        };
        let mut words = vec![verb.as_bytes().to_vec(), key(choices), delta];
        noreply(&mut words, choices);
        self.line(words, choices)
    }

    fn touch(&self, choices: &mut Choices<'_>) -> Step {
        let mut words = vec![b"touch".to_vec(), key(choices), self.time(choices)];
        noreply(&mut words, choices);
        self.line(words, choices)
    }

    fn delete(&self, choices: &mut Choices<'_>) -> Step {
        let mut words = vec![b"delete".to_vec(), key(choices)];
        match choices.below(12) {
            9 => words.push(b"0".to_vec()),
            // Which older ones take for the key.
            _ if !self.is_newest() && words[1] == b"noreply" => words[1] = b"k0".to_vec(),
            _ => {}
        }
        noreply(&mut words, choices);
        self.line(words, choices)
    }

    fn flush(&self, choices: &mut Choices<'_>, flushes: Flushes) -> Step {
        let mut words = vec![b"flush_all".to_vec()];
        match (flushes, choices.below(6)) {
            (Flushes::AtOnce, 0..=2) => {}
            (Flushes::AtOnce, 3) => words.push(b"0".to_vec()),
            (Flushes::AtOnce, 4) => words.push(b"-1".to_vec()),
            (Flushes::Delayed, 0..=4) => words.push((86_400 + choices.below(60_000)).to_string().into_bytes()),
            (_, _) => words.push(b"junk".to_vec()),
        }
        noreply(&mut words, choices);
        Step::of([&words.join(&b' ')[..], b"\r\n"].concat())
    }

    fn of_server(&self, choices: &mut Choices<'_>) -> Step {
        const OF_ALL: &[&str] = &[
            "version",
            "version junk",
            "verbosity 0",
            "verbosity 1",
            "verbosity 0 noreply",
            "verbosity junk",
            "cache_memlimit 64",
            "cache_memlimit 64 noreply",
            "cache_memlimit 1",
            "cache_memlimit junk",
            "cache_memlimit",
            "stats reset",
            "stats junk",
            "stats detail",
            "stats detail junk",
            "stats cachedump",
            "stats cachedump 1",
            "stats cachedump junk 1",
            "stats cachedump 1 junk",
            "stats cachedump 200 1",
        ];
        const OF_THE_NEWEST: &[&str] = &[
            "verbosity",
            "verbosity +1",
            "verbosity 0 1 2 3",
            "verbosity 0 1 noreply",
            "cache_memlimit +64",
            "cache_memlimit 64 1 2 3",
            "shutdown",
            "shutdown graceful",
            "shutdown junk",
            "shutdown noreply",
            "flush_all junk 1 2 3",
        ];
        let words = match choices.below(3) {
            2 if self.is_newest() => choices.pick(OF_THE_NEWEST),
            _ => choices.pick(OF_ALL),
        };
        Step::of([words.as_bytes(), b"\r\n"].concat())
    }

    fn no_command(&self, choices: &mut Choices<'_>) -> Step {
        const OF_ALL: &[&str] = &[
            "nosuchcommand",
            "GET k0",
            "ge k0",
            "gett k0",
            "getk0",
            "VALUE k0 0 1",
            "\0\x01\x02",
            "get\tk0",
            "STORED",
            "END",
        ];
        const OF_THE_NEWEST: &[&str] = &[
            "",
            " ",
            "  ",
            "   get k0",
            " set k0 0 0 1",
            "Set k0 0 0 1",
            "sets k0 0 0 1",
            "g",
            "m",
            "mn",
            "\u{e9}",
            "get",
            "gets",
            "gat",
            "gat 0",
            "incr k0",
            "touch k0",
            "delete",
            "set k0 0 0",
            "nosuchcommand noreply",
            "noreply",
        ];
        let words = match choices.below(2) {
            1 if self.is_newest() => choices.pick(OF_THE_NEWEST),
            _ => choices.pick(OF_ALL),
        };
        let end = if choices.below(4) == 3 { "\n" } else { "\r\n" };
        Step::of(format!("{words}{end}").into_bytes())
    }

    fn junk(&self, choices: &mut Choices<'_>) -> Vec<u8> {
        choices.pick(if self.is_newest() { JUNK } else { &JUNK[..JUNK_OF_ALL] }).into()
    }

    fn flags(&self, choices: &mut Choices<'_>) -> Vec<u8> {
        match choices.below(16) {
            8..=11 => choices.below(60_000).to_string().into_bytes(),
            12 => b"4294967295".to_vec(),
            13 => b"2147483648".to_vec(),
            14 => b"1".to_vec(),
            15 if self.is_newest() => choices.pick(JUNK).into(),
            _ => b"0".to_vec(),
        }
    }

    fn time(&self, choices: &mut Choices<'_>) -> Vec<u8> {
        let none = if self.is_newest() { NO_TIMES } else { &NO_TIMES[..NO_TIMES_OF_ALL] };
        time(choices).unwrap_or_else(|| choices.pick(none).into())
    }

    /// As [`Maker::stored_key`].
    fn stored_time(&self, choices: &mut Choices<'_>) -> Vec<u8> {
        match time(choices) {
            Some(time) => time,
            None if self.is_newest() => choices.pick(NO_TIMES).into(),
            None => b"0".to_vec(),
        }
    }

    /// As [`Maker::data`], but no value without a letter: counting such a one, memcached reads on behind it (`safe_strtoull` on what is no
    /// string).
    fn data_with_text(&self, choices: &mut Choices<'_>) -> (Vec<u8>, Vec<u8>, bool) {
        let (data, length, is_missized) = self.data(choices);
        if data.trim_ascii().is_empty() { (b"0".to_vec(), b"1".to_vec(), false) } else { (data, length, is_missized) }
    }

    /// Data, the length that is told, and whether it is another.
    fn data(&self, choices: &mut Choices<'_>) -> (Vec<u8>, Vec<u8>, bool) {
        let data =
            Some(value(choices)).filter(|value| self.is_newest() || !is_past_signed(value)).unwrap_or(b"10".into());
        let length = data.len();
        let told = match choices.below(40) {
            choice @ 35..=39 if self.is_newest() => match choice {
                35 => length + 1,
                36 => length + 2,
                37 => length.saturating_sub(1),
                38 => length.saturating_sub(2),
                _ => {
                    let none = ["junk", "-1", "-5", "1.5", "+1", "2147483648", "18446744073709551616"];
                    return (data, choices.pick(&none).into(), true);
                }
            },
            _ => length,
        };
        (data, told.to_string().into_bytes(), told != length)
    }

    /// Words as a line, now and then spoiled. Words are dropped and replaced only where no time can get into a length's place.
    fn line(&self, mut words: Vec<Vec<u8>>, choices: &mut Choices<'_>) -> Step {
        let mut is_missized = false;
        let (mut between, mut start, mut end) = (" ", "", "\r\n");
        let knows_all_words = words[0] == b"delete";
        match (choices.below(48), self.oracle) {
            (41 | 42, _) if knows_all_words => {}
            (44, _) => between = "  ",
            (46, _) => end = "\n",
            (47, _) => end = " \r\n",
            (40, Oracle::Newest) => words.truncate(1 + choices.below(words.len())),
            (41, Oracle::Newest) => words.push(choices.pick(&JUNK[..JUNK_OF_ALL - 1]).into()),
            (42, Oracle::Newest) => words.extend([b"noreply".to_vec(), b"junk".to_vec()]),
            (43, Oracle::Newest) => words[0].make_ascii_uppercase(),
            (45, Oracle::Newest) => start = " ",
            _ => return Step::of([&words.join(&b' ')[..], b"\r\n"].concat()),
        }
        if words.last().is_some_and(|last| last == b"noreply") && words[0].starts_with(b"g") {
            words.push(b"k0".to_vec());
        }
        if words.len() < 5 || words[0][0].is_ascii_uppercase() || !start.is_empty() {
            is_missized = true;
        }
        let mut step = Step::of([start.as_bytes(), &words.join(between.as_bytes()), end.as_bytes()].concat());
        step.is_missized = is_missized;
        step
    }
}

fn key(choices: &mut Choices<'_>) -> Vec<u8> {
    match choices.below(60) {
        index @ 0..=53 => format!("k{}", index % 6).into_bytes(),
        54 => b"noreply".to_vec(),
        55 => b"0".to_vec(),
        56 => b"\x01\xff\x80".to_vec(),
        57 | 58 => vec![b'K'; 250],
        _ => vec![b'K'; KEY_TOO_LONG],
    }
}

/// Some above 24, where older memcacheds take a line in parts.
fn key_count(choices: &mut Choices<'_>) -> usize {
    match choices.below(12) {
        0..=6 => 1,
        7..=9 => 2 + choices.below(4),
        10 => 20 + choices.below(10),
        _ => 45 + choices.below(30),
    }
}

/// Far apart, so that no clock decides; `None`: what is none.
fn time(choices: &mut Choices<'_>) -> Option<Vec<u8>> {
    Some(match choices.below(16) {
        0..=7 => b"0".to_vec(),
        8..=9 => (80_000 + 10 * choices.below(60_000)).to_string().into_bytes(),
        10 => b"2592000".to_vec(),
        // As a point in time: in January of 1970.
        11 => b"2592001".to_vec(),
        12 => b"2000000000".to_vec(),
        13 => b"2147483647".to_vec(),
        14 => b"-1".to_vec(),
        _ => return None,
    })
}

/// A value that memcached can be asked to count; see [`Maker::data_with_text`].
pub(crate) fn value_with_text(choices: &mut Choices<'_>) -> Vec<u8> {
    let value = value(choices);
    if value.trim_ascii().is_empty() { b"0".to_vec() } else { value }
}

/// Whether a value is a number that 63 bits do not hold: in that, older memcacheds look for a minus sign, and find it in what lies behind.
fn is_past_signed(value: &[u8]) -> bool {
    std::str::from_utf8(value).is_ok_and(|text| text.parse::<u64>().is_ok_and(|number| number > i64::MAX as u64))
}

fn value(choices: &mut Choices<'_>) -> Vec<u8> {
    const NUMBERS: &[&str] = &[
        "0",
        "9",
        "10",
        "99",
        "1000",
        "18446744073709551615",
        "18446744073709551616",
        "9223372036854775808",
        "123456789012345678901",
        "-1",
        "+5",
        " 7",
        "7 ",
        "007",
        "1.5",
        "12abc",
    ];
    match choices.below(24) {
        0..=5 => b"v".to_vec(),
        6..=9 => choices.below(60_000).to_string().into_bytes(),
        10..=14 => choices.pick(NUMBERS).into(),
        15 => Vec::new(),
        16 => b"\r\n".to_vec(),
        17 => b"END\r\nVALUE k0 0 1\r\nx".to_vec(),
        18 => b"get k0\r\nget k1".to_vec(),
        19 => vec![b'y'; choices.below(1000)],
        20 => (0..choices.below(256)).map(|byte| (byte * 37 % 256) as u8).filter(|&byte| byte != b'\n').collect(),
        21 => b"\0".repeat(choices.below(40)),
        // In lines: when it is taken for commands, none is too long.
        22 => [&[b'z'; 900][..], b"\r\n"].concat().repeat(20 + choices.below(10)),
        _ => b"ohmytext".to_vec(),
    }
}

fn noreply(words: &mut Vec<Vec<u8>>, choices: &mut Choices<'_>) {
    if choices.below(8) == 7 {
        words.push(b"noreply".to_vec());
    }
}
