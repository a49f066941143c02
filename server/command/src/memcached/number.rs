//! Verbs that count.

use super::buffer;
use super::dispatch::answer;
use super::table::Verb;
use crate::context::{Context, Outcome};
use crate::host::Count;
use crate::spec::{Flags, Keys};
use leasehold_keyspace::Slot;
use leasehold_protocol::memcached::{Request, parser, reply};

/// The verbs of this file.
pub(super) static VERBS: &[&Verb] = &[&INCR, &DECR];

static INCR: Verb = Verb {
    name: "incr",
    usage: "<key> <number> [noreply]",
    summary: "Adds to a number of 64 bits, which starts again at 0 past its largest",
    words_min: 3,
    keys: Keys::ONE,
    flags: Flags::WRITE.with(Flags::DENYOOM).with(Flags::FAST),
    noreply_from: Some(3),
    run: |context, request| count(context, request, Direction::Up),
};

static DECR: Verb = Verb {
    name: "decr",
    summary: "Subtracts from a number of 64 bits, to 0 at least",
    run: |context, request| count(context, request, Direction::Down),
    ..INCR
};

/// Which way a number goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Up,
    Down,
}

/// A new number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) number: u64,
    /// Whether it is longer than the value was.
    pub(super) is_longer: bool,
}

/// Why there is no new number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotCounted {
    /// There is no fresh entry.
    Absent,
    /// Its value is no number of 64 bits.
    NotANumber,
}

fn count(context: &mut Context<'_>, request: Request<'_>, direction: Direction) -> Outcome {
    let (Some(key), Some(delta)) = (request.word(1), request.word(2).and_then(parser::unsigned)) else {
        return answer(context, b"CLIENT_ERROR invalid numeric delta argument");
    };
    let Context { keyspace, client, turn, .. } = context;
    let counted = keyspace.update(turn, client.db, key, |slot| add(slot, delta, direction));
    let hit = hit_and_miss(direction);
    match counted {
        Ok(Sum { number, is_longer }) => {
            context.host.count(hit[0], 1);
            if is_longer {
                context.host.count(Count::Lengthened, 1);
            }
            let buffer = buffer(context);
            reply::number(buffer, number);
            buffer.extend_from_slice(b"\r\n");
            Outcome::Replied
        }
        Err(NotCounted::Absent) => {
            context.host.count(hit[1], 1);
            answer(context, b"NOT_FOUND")
        }
        Err(NotCounted::NotANumber) => answer(context, b"CLIENT_ERROR cannot increment or decrement non-numeric value"),
    }
}

/// The counters of a number that there is, and of one that there is not.
pub(super) fn hit_and_miss(direction: Direction) -> [Count; 2] {
    match direction {
        Direction::Up => [Count::IncrHits, Count::IncrMisses],
        Direction::Down => [Count::DecrHits, Count::DecrMisses],
    }
}

/// Counts in place: flags and exptime stay, and so does the length of the value if the new number is shorter, which spaces fill. That
/// is what memcached answers afterwards, too.
pub(super) fn add(slot: &mut Slot<'_>, delta: u64, direction: Direction) -> Result<Sum, NotCounted> {
    let entry = slot.entry().ok_or(NotCounted::Absent)?;
    let before = number(entry.value).ok_or(NotCounted::NotANumber)?;
    let number = match direction {
        Direction::Up => before.wrapping_add(delta),
        Direction::Down => before.saturating_sub(delta),
    };
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(number).as_bytes();
    let is_longer = digits.len() > entry.value.len();
    let value = slot.value_mut_with_flags(digits.len());
    let (new, rest) = value.split_at_mut(digits.len());
    new.copy_from_slice(digits);
    rest.fill(b' ');
    Ok(Sum { number, is_longer })
}

/// The number that a value begins with, as C's `strtoull` reads it: white space before it, a sign, and behind it the end, white space
/// or a NUL. Below 0 there is none.
fn number(value: &[u8]) -> Option<u64> {
    let is_space = |byte: &u8| byte.is_ascii_whitespace() || *byte == b'\x0b';
    let start = value.iter().position(|byte| !is_space(byte))?;
    let end =
        value[start..].iter().position(|byte| is_space(byte) || *byte == 0).map_or(value.len(), |end| start + end);
    let word = &value[start..end];
    match word.strip_prefix(b"-") {
        Some(digits) if !digits.is_empty() && digits.iter().all(|&digit| digit == b'0') => Some(0),
        Some(_) => None,
        None => parser::unsigned(parser::without_plus(word)),
    }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn a_value_is_a_number_as_c_reads_it() {
        for (value, wanted) in [
            ("0", Some(0)),
            ("007", Some(7)),
            (" \t+7", Some(7)),
            ("7 apples", Some(7)),
            ("7\0x", Some(7)),
            ("-0", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("-1", None),
            ("7x", None),
            ("", None),
            (" ", None),
            ("+", None),
            ("-", None),
            ("x", None),
        ] {
            assert_eq!(number(value.as_bytes()), wanted, "{value:?}");
        }
    }
}
