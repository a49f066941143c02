//! The one table of verbs, and lookup in it.
//!
//! A verb of at most 16 bytes is a number of 128 bits, so that one multiplication and usually one comparison find it. Unlike the names of
//! Redis's commands these are told apart by case: `GET` is none of them.

use super::{lease, meta, number, read, store, upkeep};
use crate::context::{Context, Outcome};
use crate::groups::{join, total};
use crate::spec::{Flags, Keys};
use leasehold_protocol::memcached::Request;

/// What runs a verb. Words, authentication, format and memory have been checked.
pub type Handler = fn(&mut Context<'_>, Request<'_>) -> Outcome;

/// Everything there is to know about a verb. One const value each.
#[derive(Debug)]
pub struct Verb {
    /// As clients write it.
    pub name: &'static str,
    /// The words behind it, as usage lines show them.
    pub usage: &'static str,
    /// One sentence without a full stop, for the README.
    pub summary: &'static str,
    /// Fewest words, the verb included. More than it knows are no mistake.
    pub words_min: usize,
    /// Where its keys stand among the words, the verb being word 0.
    pub keys: Keys,
    /// What kind of verb it is, in the words of Redis's commands.
    pub flags: Flags,
    /// From so many words on the last one may be `noreply`.
    pub noreply_from: Option<usize>,
    /// Its handler.
    pub run: Handler,
}

impl Verb {
    /// Whether the client wants no answer: with fewer words `noreply` is a key like any other.
    #[inline]
    pub(super) fn is_silent(&self, request: Request<'_>) -> bool {
        self.noreply_from.is_some_and(|from| request.len() >= from) && request.is_noreply()
    }
}

/// All verbs, in groups.
pub static VERBS: &[&Verb] = &JOINED;

static GROUPS: [&[&Verb]; 6] = [read::VERBS, store::VERBS, number::VERBS, upkeep::VERBS, meta::VERBS, lease::VERBS];

static JOINED: [&Verb; TOTAL] = join(&GROUPS, &PLACEHOLDER);

const TOTAL: usize = total(&GROUPS);

/// Stands where no verb does.
static PLACEHOLDER: Verb = Verb {
    name: "",
    usage: "",
    summary: "",
    words_min: 0,
    keys: Keys::None,
    flags: Flags::NONE,
    noreply_from: None,
    run: |_, _| Outcome::Replied,
};

/// The verb of this name, with its index in the statistics.
#[inline]
#[must_use]
pub fn find(name: &[u8]) -> Option<(u16, &'static Verb)> {
    let name = number(name)?;
    let mut place = place_of(name);
    loop {
        let row = &LOOKUP[place];
        if row.name == name {
            return Some((row.index, row.verb));
        }
        if row.name == 0 {
            return None;
        }
        place = (place + 1) % LOOKUP_LEN;
    }
}

/// Longest name of a verb in bytes.
const NAME_BYTES_MAX: usize = 16;

/// The bytes of a name as a number, which is not 0; `None`: no verb has so long a name, or an empty one, or one with a NUL at its end.
#[inline]
const fn number(name: &[u8]) -> Option<u128> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return None;
    }
    let (mut number, mut index) = (0u128, name.len());
    while index > 0 {
        index -= 1;
        number = number << 8 | name[index] as u128;
    }
    // Else a NUL at the end would not count.
    if name[name.len() - 1] == 0 { None } else { Some(number) }
}

#[inline]
const fn place_of(name: u128) -> usize {
    // Fibonacci hashing: see `crate::table`.
    let mixed = (name as u64 ^ (name >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (64 - LOOKUP_BITS)) as usize
}

/// One place of the lookup table; a name of 0: free.
#[derive(Clone, Copy)]
struct Row {
    name: u128,
    verb: &'static Verb,
    index: u16,
}

const LOOKUP_BITS: u32 = 7;
const LOOKUP_LEN: usize = 1 << LOOKUP_BITS;
const _: () = assert!(TOTAL * 3 <= LOOKUP_LEN);

static LOOKUP: [Row; LOOKUP_LEN] = {
    let mut rows = [Row { name: 0, verb: &PLACEHOLDER, index: 0 }; LOOKUP_LEN];
    let mut index = 0;
    while index < TOTAL {
        let verb = JOINED[index];
        let Some(name) = number(verb.name.as_bytes()) else { panic!("a verb without a name, or with too long a one") };
        let mut place = place_of(name);
        while rows[place].name != 0 {
            assert!(rows[place].name != name, "two verbs of one name");
            place = (place + 1) % LOOKUP_LEN;
        }
        rows[place] = Row { name, verb, index: (crate::table::commands_total() + index) as u16 };
        index += 1;
    }
    rows
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verb_is_found_by_its_name_and_by_nothing_else() {
        for (position, verb) in VERBS.iter().enumerate() {
            let (index, found) = find(verb.name.as_bytes()).expect("in the table");
            assert_eq!((found.name, usize::from(index)), (verb.name, crate::table::commands_total() + position));
            assert!(find(verb.name.to_ascii_uppercase().as_bytes()).is_none(), "{}", verb.name);
            assert!(find(format!("{}\0", verb.name).as_bytes()).is_none(), "{}", verb.name);
            assert!(find(format!("{}x", verb.name).as_bytes()).is_none_or(|(_, found)| found.name != verb.name));
        }
        assert!(find(b"").is_none());
        assert!(find(&[b'x'; 17]).is_none());
    }
}
