//! Where our reply may differ from redis-server's, and why. Everything else must be the same byte for byte.

use leasehold_tests::Value;

/// A difference that is allowed.
pub(crate) struct Difference {
    /// Why it is right that the replies differ.
    pub(crate) reason: &'static str,
    /// Whether it is this one.
    pub(crate) is_it: fn(&Pair<'_>) -> bool,
}

/// A command and both replies to it.
pub(crate) struct Pair<'a> {
    /// The command.
    pub(crate) argv: &'a [Vec<u8>],
    /// Our reply.
    pub(crate) ours: &'a Value,
    /// The reply of redis-server.
    pub(crate) theirs: &'a Value,
}

impl Pair<'_> {
    fn is_command(&self, names: &[&str]) -> bool {
        names.iter().any(|name| {
            let mut words = name.split(' ');
            let first = words.next().unwrap_or_default();
            self.is_word(0, first) && words.next().is_none_or(|second| self.is_word(1, second))
        })
    }

    fn is_word(&self, index: usize, word: &str) -> bool {
        self.argv.get(index).is_some_and(|argument| argument.eq_ignore_ascii_case(word.as_bytes()))
    }

    fn integers(&self) -> Option<(i64, i64)> {
        match (self.ours, self.theirs) {
            (Value::Integer(ours), Value::Integer(theirs)) => Some((*ours, *theirs)),
            _ => None,
        }
    }
}

/// How far the two clocks' readings may be apart.
const CLOCK_TOLERANCE_MS: u64 = 5000;

/// The list.
pub(crate) const ALLOWED: &[Difference] = &[
    Difference {
        reason: "time passes between the two servers",
        is_it: |pair| {
            let tolerance = if pair.is_command(&["PTTL", "PEXPIRETIME"]) {
                CLOCK_TOLERANCE_MS
            } else if pair.is_command(&["TTL", "EXPIRETIME"]) {
                CLOCK_TOLERANCE_MS / 1000
            } else {
                return false;
            };
            pair.integers().is_some_and(|(ours, theirs)| ours > 0 && theirs > 0 && ours.abs_diff(theirs) <= tolerance)
        },
    },
    Difference {
        reason: "idle time is counted from a clock, in steps of seconds; in Redis, that of a small integer from any key that has it",
        is_it: |pair| {
            pair.is_command(&["OBJECT IDLETIME"])
                && pair.integers().is_some_and(|(ours, theirs)| (0..=60).contains(&ours) && theirs >= 0)
        },
    },
    Difference {
        reason: "keys have no order",
        is_it: |pair| match (pair.ours, pair.theirs) {
            (Value::Array(ours), Value::Array(theirs)) if pair.is_command(&["KEYS"]) => same_set(ours, theirs),
            (Value::Array(ours), Value::Array(theirs)) if pair.is_command(&["SCAN"]) => {
                ours.len() == 2
                    && theirs.len() == 2
                    && ours[0] == theirs[0]
                    && same_set(ours[1].elements(), theirs[1].elements())
            }
            _ => false,
        },
    },
    Difference {
        reason: "in Redis, no pattern of several stars matches the empty key; here a star matches any text",
        is_it: |pair| {
            let without_empty = |value: &Value| match value {
                Value::Array(keys) => keys.iter().filter(|key| **key != Value::bulk("")).cloned().collect(),
                _ => Vec::new(),
            };
            let (ours, theirs) = match (pair.ours, pair.theirs) {
                (Value::Array(ours), Value::Array(theirs)) if pair.is_command(&["SCAN"]) => (&ours[1], &theirs[1]),
                (ours, theirs) if pair.is_command(&["KEYS"]) => (ours, theirs),
                _ => return false,
            };
            pair.argv.iter().any(|argument| argument == b"**") && same_set(&without_empty(ours), &without_empty(theirs))
        },
    },
    Difference {
        reason: "version and connection are each server's own, and ours adds its own name and version at the end",
        is_it: |pair| {
            let names = |value: &Value| match value {
                Value::Map(pairs) => pairs.iter().filter_map(|(name, _)| name.bytes().map(<[u8]>::to_vec)).collect(),
                _ => Vec::new(),
            };
            let (ours, theirs): (Vec<_>, Vec<_>) = (names(pair.ours), names(pair.theirs));
            let (same, added) = ours.split_at(theirs.len().min(ours.len()));
            pair.is_command(&["HELLO 3"])
                && !theirs.is_empty()
                && same == theirs
                && added == [b"x_server".to_vec(), b"x_version".to_vec()]
        },
    },
    Difference {
        reason: "SCAN from another cursor, or with a small COUNT, visits what the table's layout says",
        is_it: |pair| {
            let is_page = |value: &Value| matches!(value, Value::Array(parts) if parts.len() == 2);
            pair.is_command(&["SCAN"])
                && !(pair.is_word(1, "0") && pair.is_word(3, "100000"))
                && is_page(pair.ours)
                && is_page(pair.theirs)
        },
    },
    Difference {
        reason: "a random key is random",
        is_it: |pair| {
            pair.is_command(&["RANDOMKEY"]) && matches!((pair.ours, pair.theirs), (Value::Bulk(_), Value::Bulk(_)))
        },
    },
    Difference {
        reason: "memory is counted to the byte class of another allocator",
        is_it: |pair| {
            pair.is_command(&["MEMORY USAGE"]) && pair.integers().is_some_and(|(ours, theirs)| ours > 0 && theirs > 0)
        },
    },
    Difference {
        reason: "since Redis 7.2, arguments are looked at before the key; 7.0 answers for an absent key first",
        is_it: |pair| {
            pair.is_command(&["BITCOUNT", "BITPOS"])
                && matches!(pair.theirs, Value::Integer(-1..=0))
                && matches!(pair.ours, Value::Error(text)
                    if text == "ERR syntax error" || text == "ERR value is not an integer or out of range")
        },
    },
    Difference {
        reason: "Redis passes what it does not know on as it came, up to the first NUL; here an error is text",
        is_it: |pair| {
            let is_text = |argument: &Vec<u8>| argument.iter().all(|byte| (b' '..=b'~').contains(byte));
            // The text around it is the same.
            let up_to_it = |value: &Value| match value {
                Value::Error(text) => {
                    Some(text.split(['\'', '\0', '\u{e9}', char::REPLACEMENT_CHARACTER]).next().map(str::to_owned))
                }
                _ => None,
            };
            let ours = up_to_it(pair.ours);
            !pair.argv.iter().all(is_text) && ours.is_some() && ours == up_to_it(pair.theirs)
        },
    },
    Difference {
        reason: "Redis remembers how a value came about; here the name of an encoding follows from the value",
        is_it: |pair| {
            let is_encoding =
                |value: &Value| value.bytes().is_some_and(|name| [&b"int"[..], b"embstr", b"raw"].contains(&name));
            pair.is_command(&["OBJECT ENCODING"]) && is_encoding(pair.ours) && is_encoding(pair.theirs)
        },
    },
    Difference {
        reason: "Redis shares small integers between keys and counts so; here a value belongs to its entry",
        is_it: |pair| {
            pair.is_command(&["OBJECT REFCOUNT"])
                && pair.integers().is_some_and(|(ours, theirs)| ours == 1 && theirs == i64::from(i32::MAX))
        },
    },
];

fn same_set(ours: &[Value], theirs: &[Value]) -> bool {
    let sorted = |values: &[Value]| {
        let mut values: Vec<String> = values.iter().map(ToString::to_string).collect();
        values.sort();
        values
    };
    sorted(ours) == sorted(theirs)
}
