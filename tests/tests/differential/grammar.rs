//! Commands to compare, as shapes, and how a shape becomes a command.
//!
//! ```text
//! SET key value [EX secs|PX millis|KEEPTTL] [NX|XX] [GET]
//! └ upper case: the word itself · lower case: an argument of a class · [ ] may be left out · | one of these
//!   { } a group · word... one to four of these · ! first: never spoiled
//! ```
//!
//! A command is a shape and a list of choices; each decision on the way takes the next choice. Choice 0 is the plainest
//! answer (leave out, the first alternative, a short value), so a failing sequence shrinks to a plain one.

use leasehold_tests::choices::Choices;
use std::iter::Peekable;
use std::str::Chars;

/// Every command that both servers know and that can be compared, several shapes for those with much to say. A shape
/// stands as often as it shall be drawn.
pub(crate) const SHAPES: &[&str] = &[
    // Strings.
    "GET key",
    "GET key",
    "GET key",
    "SET key value",
    "SET key value",
    "SET key value",
    "SET key value [EX secs|PX millis|EXAT future|PXAT futurems|KEEPTTL] [NX|XX] [GET]",
    "SET key value [EX secs|PX millis|EXAT future|PXAT futurems|KEEPTTL] [NX|XX] [GET]",
    "SET key value [NX] [XX] [GET] [KEEPTTL] [EX secs] [PX millis]",
    "SETNX key value",
    "SETEX key secs value",
    "PSETEX key millis value",
    "GETSET key value",
    "GETDEL key",
    "GETEX key [EX secs|PX millis|EXAT at|PXAT atms|PERSIST]",
    "GETEX key [EX secs] [PERSIST]",
    "APPEND key value",
    "STRLEN key",
    "SETRANGE key offset value",
    "GETRANGE key index index",
    "SUBSTR key index index",
    "MGET key...",
    "MSET {key value}...",
    "MSETNX {key value}...",
    "MSET key value key",
    "INCR key",
    "DECR key",
    "INCRBY key int",
    "DECRBY key int",
    "INCRBYFLOAT key float",
    "INCRBYFLOAT key float",
    "LCS key key [LEN] [IDX] [MINMATCHLEN small] [WITHMATCHLEN]",
    // Bitmaps.
    "SETBIT key bit zeroone",
    "GETBIT key bit",
    "BITCOUNT key [index index [BYTE|BIT]]",
    "BITCOUNT key [index]",
    "BITPOS key zeroone [index [index [BYTE|BIT]]]",
    "BITOP {AND|OR|XOR|NOT} key key...",
    "BITOP NOT key key",
    "BITFIELD key {GET type bitoffset|SET type bitoffset int|INCRBY type bitoffset int|OVERFLOW {WRAP|SAT|FAIL}}...",
    "BITFIELD key [OVERFLOW {SAT|FAIL|WRAP}] INCRBY type bitoffset int [GET type bitoffset]",
    "BITFIELD_RO key {GET type bitoffset}...",
    "BITFIELD_RO key SET type bitoffset int",
    // Keys.
    "DEL key...",
    "UNLINK key...",
    "EXISTS key...",
    "TOUCH key...",
    "TYPE key",
    "EXPIRE key secs [NX|XX|GT|LT]",
    "EXPIRE key secs [NX] [XX] [GT] [LT]",
    "PEXPIRE key millis [NX|XX|GT|LT]",
    "EXPIREAT key at [NX|XX|GT|LT]",
    "PEXPIREAT key atms [NX|XX|GT|LT]",
    "TTL key",
    "PTTL key",
    "EXPIRETIME key",
    "PEXPIRETIME key",
    "PERSIST key",
    "RENAME key key",
    "RENAMENX key key",
    "COPY key key [DB db] [REPLACE]",
    "RANDOMKEY",
    "DBSIZE",
    "KEYS pattern",
    "SCAN 0 COUNT 100000 [MATCH pattern] [TYPE {string|list|STRING|nosuch}]",
    "SCAN {junk|0 COUNT int|0 MATCH}",
    "OBJECT ENCODING key",
    "OBJECT REFCOUNT key",
    "OBJECT IDLETIME key",
    "OBJECT FREQ key",
    "MEMORY USAGE key [SAMPLES small]",
    // Connection and server.
    "PING [value]",
    "ECHO value",
    "SELECT db",
    "RESET",
    "AUTH value [value]",
    "!HELLO {4|1|junk|3 AUTH|3 SETNAME|3 NOSUCH}",
    "CLIENT SETNAME {junk|ann}",
    "CLIENT GETNAME",
    "CLIENT NO-EVICT {ON|OFF|junk}",
    "CLIENT REPLY junk",
    "CLIENT KILL {ID junk|ID 0|TYPE junk|ADDR 1.2.3.4:5|1.2.3.4:5}",
    "CLIENT {junk|SETNAME}",
    "!CONFIG {junk|GET|SET|SET maxmemory|SET maxmemory 12abc}",
    "!CONFIG GET {nosuchoption|timeout nosuchoption|timeout}",
    "OBJECT {junk|junk key}",
    "!COMMAND {junk|GETKEYS|GETKEYS GET key|GETKEYS MSET key value key value|GETKEYS PING value|GETKEYS SET key}",
    "!COMMAND INFO nosuchcommand",
    "!ACL WHOAMI",
    "!MODULE LIST",
    "!CLUSTER {SLOTS|SHARDS|NODES|INFO|MYID|KEYSLOT key|COUNTKEYSINSLOT 5|GETKEYSINSLOT 5 2|HELP|junk}",
    "!READONLY",
    "!READWRITE",
    "!ASKING",
    "FLUSHDB [ASYNC|SYNC|junk]",
    "FLUSHALL [ASYNC|SYNC|junk]",
    "NOSUCHCOMMAND key value",
    "junk value...",
];

/// The command that a shape and choices make.
#[must_use]
pub(crate) fn command(shape: &str, choices: &mut Choices<'_>) -> Vec<Vec<u8>> {
    let mut argv = Vec::new();
    let unspoiled = shape.strip_prefix('!');
    sequence(&mut unspoiled.unwrap_or(shape).chars().peekable(), choices, Some(&mut argv));
    if unspoiled.is_none() {
        spoil(&mut argv, choices);
    }
    argv
}

/// Words up to the end of the group, of which the alternatives are divided by `|`. `None`: read over it, decide nothing.
fn sequence(shape: &mut Peekable<Chars<'_>>, choices: &mut Choices<'_>, argv: Option<&mut Vec<Vec<u8>>>) {
    let alternatives = count_alternatives(shape.clone());
    let is_read_over = argv.is_none();
    let chosen = if alternatives > 1 && !is_read_over { choices.below(alternatives) } else { 0 };
    let mut nothing = Vec::new();
    let argv = argv.unwrap_or(&mut nothing);
    let wanted = |alternative: usize| !is_read_over && alternative == chosen;
    let mut alternative = 0;
    while let Some(&character) = shape.peek() {
        match character {
            ']' | '}' => return,
            '|' => {
                shape.next();
                alternative += 1;
            }
            ' ' => {
                shape.next();
            }
            '[' => {
                shape.next();
                let given = wanted(alternative) && choices.below(2) == 1;
                sequence(shape, choices, given.then_some(&mut *argv));
                shape.next();
            }
            '{' => {
                shape.next();
                let start = shape.clone();
                sequence(shape, choices, None);
                shape.next();
                let times = repetitions(shape, choices, wanted(alternative));
                for _ in 0..times {
                    sequence(&mut start.clone(), choices, Some(&mut *argv));
                }
            }
            _ => {
                let mut word = String::new();
                while let Some(&next) = shape.peek()
                    && !" |[]{}".contains(next)
                    && !word.ends_with("...")
                {
                    word.push(next);
                    shape.next();
                }
                let class = word.strip_suffix("...").unwrap_or(&word);
                let times = match (wanted(alternative), class.len() < word.len()) {
                    (false, _) => 0,
                    (true, false) => 1,
                    (true, true) => 1 + choices.below(4),
                };
                for _ in 0..times {
                    argv.push(argument(class, choices));
                }
            }
        }
    }
}

fn repetitions(shape: &mut Peekable<Chars<'_>>, choices: &mut Choices<'_>, wanted: bool) -> usize {
    let mut repeated = false;
    while shape.next_if_eq(&'.').is_some() {
        repeated = true;
    }
    match (wanted, repeated) {
        (false, _) => 0,
        (true, false) => 1,
        (true, true) => 1 + choices.below(4),
    }
}

fn count_alternatives(shape: Peekable<Chars<'_>>) -> usize {
    let (mut depth, mut count) = (0, 1);
    for character in shape {
        match character {
            '[' | '{' => depth += 1,
            ']' | '}' if depth == 0 => break,
            ']' | '}' => depth -= 1,
            '|' if depth == 0 => count += 1,
            _ => {}
        }
    }
    count
}

/// Spoils a few commands: an argument too few or too many, junk in the place of an argument, other letters' case.
fn spoil(argv: &mut Vec<Vec<u8>>, choices: &mut Choices<'_>) {
    match choices.below(48) {
        45 => argv.truncate(1 + choices.below(argv.len())),
        46 => argv.push(argument("junk", choices)),
        47 if argv.len() > 1 => {
            let index = 1 + choices.below(argv.len() - 1);
            argv[index] = argument("junk", choices);
        }
        44 => argv.iter_mut().take(1).for_each(|name| name.make_ascii_lowercase()),
        _ => {}
    }
}

/// An argument of a class; a word that is no class is itself.
fn argument(class: &str, choices: &mut Choices<'_>) -> Vec<u8> {
    const JUNK: &[&str] = &[
        "junk",
        "",
        "-1",
        "1.5",
        "9223372036854775808",
        " 1",
        "1 ",
        "0x10",
        "nan",
        "inf",
        "1e400",
        "*",
        "\u{e9}\0\r\n",
        "+1",
        "01",
        "-0",
        "18446744073709551616",
    ];
    let is_number = !matches!(class, "key" | "value" | "pattern" | "junk");
    if is_number
        && class.starts_with(|first: char| first.is_ascii_lowercase())
        && CLASSES.contains(&class)
        && choices.once_in(14)
    {
        return choices.pick(JUNK).as_bytes().to_vec();
    }
    match class {
        "key" => key(choices),
        "value" => value(choices),
        "junk" => choices.pick(JUNK).as_bytes().to_vec(),
        "int" => choices
            .pick(&[
                "1",
                "0",
                "-1",
                "10",
                "255",
                "-128",
                "65535",
                "100000",
                "-9999999999",
                "9223372036854775807",
                "-9223372036854775808",
                "4611686018427387904",
            ])
            .into(),
        "float" => choices
            .pick(&[
                "1",
                "0.5",
                "-1.5",
                "0.1",
                "3.0e3",
                "1e-5",
                "-2.25",
                "1e17",
                "100000000000000000000",
                "0",
                "-0",
                "1.23456789012345678",
                "5.0e-324",
                "1e308",
                "inf",
                "-inf",
                "0.30000000000000004",
                ".5",
                "5.",
            ])
            .into(),
        // Far apart, so that neither the clock nor its rounding decides which of two times is later.
        "secs" => choice_or(choices, &["0", "-5", "9223372036854775807", "9223372036854776"], |choices| {
            10_000 + 13 * choices.below(60_000)
        }),
        "millis" => choice_or(choices, &["0", "-5", "9223372036854775807", "-9223372036854775808"], |choices| {
            50_000_000 + 17_001 * choices.below(60_000)
        }),
        "at" if choices.once_in(9) => b"1000".to_vec(),
        "atms" if choices.once_in(9) => b"1000".to_vec(),
        // Redis keeps what SET stores with a time that has passed until somebody looks at it, and counts it.
        "at" | "future" => choice_or(choices, &["0", "-5", "9223372036854775807"], |choices| {
            4_102_444_800 + 13 * choices.below(60_000)
        }),
        "atms" | "futurems" => choice_or(choices, &["0", "-5", "9223372036854775807"], |choices| {
            4_102_444_800_000 + 17_001 * choices.below(60_000)
        }),
        "offset" => choices.pick(&["0", "1", "5", "44", "100", "600", "-1", "536870912"]).into(),
        "index" => choices
            .pick(&[
                "0",
                "-1",
                "1",
                "3",
                "-3",
                "7",
                "100",
                "-100",
                "2000",
                "9223372036854775807",
                "-9223372036854775808",
            ])
            .into(),
        "bit" => choices.pick(&["0", "1", "7", "8", "100", "4000", "-1", "4294967296"]).into(),
        "zeroone" => choices.pick(&["0", "1", "1", "2"]).into(),
        "small" => choices.pick(&["0", "1", "2", "3", "-1"]).into(),
        "type" => choices
            .pick(&[
                "u8", "i8", "u1", "i16", "u16", "u32", "i64", "u63", "i5", "u64", "i65", "u0", "i0", "x8", "u", "i1",
            ])
            .into(),
        "bitoffset" => choices.pick(&["0", "1", "8", "#0", "#1", "#3", "100", "500", "-1", "#-1", "4294967296"]).into(),
        "db" => choices.pick(&["0", "1", "0", "1", "15", "16", "-1"]).into(),
        "pattern" => choices
            .pick(&[
                "*", "k*", "k?", "k[0-3]", "k[^1]", "?", "", "**", "k\\*", "[", "k[", "*[0-9]", "k[3-0]", "[k]?", "\\",
                "nothing",
            ])
            .into(),
        literal => literal.as_bytes().to_vec(),
    }
}

/// Classes with numbers, of which one in a while is junk.
const CLASSES: &[&str] = &[
    "int",
    "float",
    "secs",
    "millis",
    "at",
    "atms",
    "future",
    "futurems",
    "offset",
    "index",
    "bit",
    "zeroone",
    "small",
    "type",
    "bitoffset",
    "db",
];

fn choice_or(choices: &mut Choices<'_>, odd: &[&str], usual: impl FnOnce(&mut Choices<'_>) -> usize) -> Vec<u8> {
    let choice = choices.below(8 + odd.len());
    match choice.checked_sub(8) {
        Some(index) => odd[index].into(),
        None => usual(choices).to_string().into_bytes(),
    }
}

/// Few keys, so that commands meet.
fn key(choices: &mut Choices<'_>) -> Vec<u8> {
    match choices.below(20) {
        index @ 0..=15 => format!("k{}", index % 6).into_bytes(),
        16 => Vec::new(),
        17 => b"\0\xff\r\n".to_vec(),
        18 => vec![b'K'; 300],
        _ => b"k*".to_vec(),
    }
}

fn value(choices: &mut Choices<'_>) -> Vec<u8> {
    match choices.below(22) {
        0 => b"v".to_vec(),
        1 => b"ohmytext".to_vec(),
        2 => b"mynewtext".to_vec(),
        3..=6 => (choices.below(40_000) as i64 - 15_000).to_string().into_bytes(),
        7 => b"9223372036854775807".to_vec(),
        8 => b"-9223372036854775808".to_vec(),
        9 => b"9223372036854775808".to_vec(),
        10 => b"3.5".to_vec(),
        11 => choices
            .pick(&[
                "-0.1",
                "1e5",
                "5.0e3",
                " 1",
                "1 ",
                "007",
                "-0",
                "+5",
                "nan",
                "inf",
                "0.00000001",
                "3.14159265358979323846",
            ])
            .into(),
        12 => Vec::new(),
        // Around 44 bytes Redis changes the encoding.
        13..=14 => vec![b'x'; 40 + choices.below(8)],
        15 => vec![b'y'; choices.below(2000)],
        16 => b"\0\x01\xfe\xff".to_vec(),
        17 => b"\r\n+OK\r\n".to_vec(),
        18 => (0..choices.below(256)).map(|byte| (byte * 37 % 256) as u8).collect(),
        19 => vec![0; choices.below(40)],
        20 => vec![0xff; choices.below(40)],
        _ => "\u{e4}\u{f6}\u{fc} \u{20ac}".as_bytes().to_vec(),
    }
}
