//! The one command table, and lookup in it.
//!
//! [`TABLE`] joins the groups' lists; the lookup table over it is built by the compiler. A name of at most
//! [`NAME_BYTES_MAX`] bytes folds into two words and its length, which together are the name in lower case, so that one
//! multiplication and usually one comparison find a command, without a loop over its letters and without allocation.
//! Subcommands are few, rare on hot paths, and searched one by one.

use crate::error::ReplyError;
use crate::groups::{join, total};
use crate::spec::{Keys, Spec};
use crate::{audit, bitmap, cluster, connection, feed, generic, lease, loader, server, string};
use leasehold_protocol::Request;

/// Longest name of a command in bytes; subcommands may be longer.
pub const NAME_BYTES_MAX: usize = 16;

/// Longest key in bytes that a command accepts.
pub const KEY_BYTES_MAX: usize = 65_535;

static GROUPS: [&[&Spec]; 10] = [
    connection::SPECS,
    generic::SPECS,
    string::SPECS,
    bitmap::SPECS,
    lease::SPECS,
    loader::SPECS,
    feed::SPECS,
    audit::SPECS,
    server::SPECS,
    cluster::SPECS,
];

/// All commands, in the order of their groups.
pub static TABLE: &[&Spec] = &JOINED;

static JOINED: [&Spec; COMMANDS] = join(&GROUPS, &PLACEHOLDER);

const COMMANDS: usize = total(&GROUPS);

/// Stands where no command does: in `join`'s array before the real rows, in free places of the lookup table.
static PLACEHOLDER: Spec = Spec {
    name: "",
    summary: "",
    group: crate::spec::Group::Server,
    since: "",
    complexity: "",
    arity: 0,
    flags: crate::spec::Flags::NONE,
    keys: Keys::None,
    arguments: &[],
    subcommands: &[],
    run: |_, _| crate::Outcome::Replied,
};

/// The command (or subcommand) that a request names, with its index in the statistics; arity is checked.
///
/// # Errors
/// [`ReplyError::UnknownCommand`], [`ReplyError::UnknownSubcommand`], [`ReplyError::WrongArity`].
#[inline]
pub fn find(request: Request<'_>) -> Result<(u16, &'static Spec), ReplyError> {
    match row(request.arg(0)) {
        Some(row) if row.is_plain && arity_accepts(i32::from(row.arity), request.len()) => Ok((row.index, row.spec)),
        Some(row) => find_with_care(row, request),
        None => Err(unknown_command(request)),
    }
}

/// A container, or a wrong number of arguments.
#[inline(never)]
fn find_with_care(row: &Row, request: Request<'_>) -> Result<(u16, &'static Spec), ReplyError> {
    let spec = row.spec;
    if spec.subcommands.is_empty() || request.len() == 1 {
        if !arity_accepts(spec.arity, request.len()) {
            return Err(ReplyError::WrongArity { command: spec.name.to_owned() });
        }
        return Ok((row.index, spec));
    }
    find_subcommand(row.index, spec, request)
}

#[cold]
fn unknown_command(request: Request<'_>) -> ReplyError {
    // The text shows 128 bytes of arguments at most, each in quotes and with a space.
    let arguments = request.args_from(1).take(64).map(|argument| argument[..argument.len().min(128)].to_vec());
    ReplyError::UnknownCommand { name: request.arg(0).to_vec(), arguments: arguments.collect() }
}

fn find_subcommand(index: u16, spec: &'static Spec, request: Request<'_>) -> Result<(u16, &'static Spec), ReplyError> {
    let word = request.arg(1);
    let Some((position, subcommand)) = subcommand(spec, word) else {
        return Err(ReplyError::UnknownSubcommand { name: word.to_vec(), command: spec.name.to_ascii_uppercase() });
    };
    if !arity_accepts(subcommand.arity, request.len()) {
        return Err(ReplyError::WrongArity { command: format!("{}|{}", spec.name, subcommand.name) });
    }
    Ok((index + 1 + position as u16, subcommand))
}

/// Whether so many arguments, the name included, satisfy an arity as specs state it.
#[inline]
#[must_use]
pub const fn arity_accepts(arity: i32, arguments: usize) -> bool {
    if arity >= 0 { arguments == arity as usize } else { arguments >= arity.unsigned_abs() as usize }
}

/// The command of this name in any case, with its index in the statistics.
#[inline]
#[must_use]
pub fn command(name: &[u8]) -> Option<(u16, &'static Spec)> {
    row(name).map(|row| (row.index, row.spec))
}

#[inline]
fn row(name: &[u8]) -> Option<&'static Row> {
    let name = fold(name)?;
    let mut place = name.place();
    loop {
        let row = &LOOKUP[place];
        if row.name.matches(&name) {
            return Some(row);
        }
        if row.name.len == 0 {
            return None;
        }
        place = (place + 1) % LOOKUP_LEN;
    }
}

/// The subcommand of this name in any case, with its position in `spec.subcommands`.
#[must_use]
pub fn subcommand(spec: &'static Spec, name: &[u8]) -> Option<(usize, &'static Spec)> {
    spec.subcommands.iter().enumerate().find(|(_, subcommand)| subcommand.name.as_bytes().eq_ignore_ascii_case(name))
}

/// `get`, `client|setname`: a command or subcommand by its full name in any case, with its index.
#[must_use]
pub fn by_full_name(name: &[u8]) -> Option<(u16, &'static Spec)> {
    let Some(bar) = name.iter().position(|byte| *byte == b'|') else {
        return command(name);
    };
    let (index, spec) = command(&name[..bar])?;
    let (position, subcommand) = subcommand(spec, &name[bar + 1..])?;
    Some((index + 1 + position as u16, subcommand))
}

/// One row of the statistics: a command, or a subcommand with its command.
#[derive(Clone, Copy, Debug)]
pub struct Indexed {
    /// The command that contains this one.
    pub container: Option<&'static Spec>,
    /// The command or subcommand itself.
    pub spec: &'static Spec,
}

impl Indexed {
    /// `get`, or `client|setname`.
    #[must_use]
    pub fn full_name(&self) -> String {
        match self.container {
            Some(container) => format!("{}|{}", container.name, self.spec.name),
            None => self.spec.name.to_owned(),
        }
    }
}

/// Commands and subcommands together: the indices that [`find`] gives are below this.
#[must_use]
pub const fn commands_total() -> usize {
    TOTAL
}

/// The command or subcommand at an index that [`find`] gave.
#[must_use]
pub fn spec_by_index(index: u16) -> Option<Indexed> {
    // Containers are few, and this is for CLIENT LIST and statistics: a walk is good enough.
    let mut first = 0;
    for spec in TABLE.iter().copied() {
        let offset = usize::from(index) - first;
        if offset == 0 {
            return Some(Indexed { container: None, spec });
        }
        if offset <= spec.subcommands.len() {
            return Some(Indexed { container: Some(spec), spec: &spec.subcommands[offset - 1] });
        }
        first += 1 + spec.subcommands.len();
    }
    None
}

const TOTAL: usize = {
    let mut total = 0;
    let mut position = 0;
    while position < COMMANDS {
        total += 1 + JOINED[position].subcommands.len();
        position += 1;
    }
    total
};

const _: () = assert!(TOTAL <= u16::MAX as usize, "an index of the statistics is a u16");

/// The places of the keys among the arguments of a request: `arguments` in number, the name included. Empty if `keys`
/// does not fit the request.
pub fn key_positions<'a>(
    keys: Keys,
    arguments: usize,
    argument: impl Fn(usize) -> &'a [u8],
) -> std::iter::StepBy<std::ops::Range<usize>> {
    const NOTHING: std::ops::Range<usize> = 0..0;
    match keys {
        Keys::None => NOTHING.step_by(1),
        Keys::Range { first, last, step } => {
            let last = if last < 0 { arguments as i64 + i64::from(last) } else { i64::from(last) };
            let end = (last + 1).clamp(i64::from(first), (arguments as i64).max(i64::from(first))) as usize;
            (first as usize..end).step_by(step.max(1) as usize)
        }
        Keys::Counted { numkeys, step } => {
            let (first, step) = (numkeys + 1, step.max(1));
            if arguments <= first {
                return NOTHING.step_by(1);
            }
            let count = std::str::from_utf8(argument(numkeys)).ok().and_then(|text| text.parse::<usize>().ok());
            match count.and_then(|count| count.checked_mul(step)) {
                Some(span) if span <= arguments - first => (first..first + span).step_by(step),
                _ => NOTHING.step_by(1),
            }
        }
        Keys::BeforeOptions(groups) => {
            let end = end_of_keys(groups, arguments, argument);
            (1..end.max(1)).step_by(1)
        }
    }
}

/// Where the options behind the keys begin; see [`Keys::BeforeOptions`].
fn end_of_keys<'a>(groups: &[&[(&str, usize)]], mut end: usize, argument: impl Fn(usize) -> &'a [u8]) -> usize {
    let mut groups = groups.to_vec();
    loop {
        let stands_last = |(word, values): &&(&str, usize)| {
            end > values + 2 && argument(end - 1 - values).eq_ignore_ascii_case(word.as_bytes())
        };
        let last =
            groups.iter().enumerate().find_map(|(group, options)| Some((group, options.iter().find(stands_last)?.1)));
        let Some((group, values)) = last else { return end };
        groups.remove(group);
        end -= values + 1;
    }
}

/// The keys of a request.
pub fn keys_of<'a>(spec: &Spec, request: Request<'a>) -> impl Iterator<Item = &'a [u8]> {
    key_positions(spec.keys, request.len(), move |index| request.arg(index)).map(move |index| request.arg(index))
}

/// A name in lower case, in a form that compares in three steps. Names of 8 bytes and more fill both words from their
/// two ends, shorter ones leave `high` 0; with the length this tells all names apart.
#[derive(Clone, Copy)]
struct Folded {
    low: u64,
    high: u64,
    len: u8,
}

impl Folded {
    #[inline]
    const fn matches(&self, other: &Self) -> bool {
        self.low == other.low && self.high == other.high && self.len == other.len
    }

    #[inline]
    const fn place(&self) -> usize {
        // Fibonacci hashing: the upper bits of a product with an odd constant depend on all bits below.
        let mixed = (self.low ^ self.high.rotate_left(23) ^ self.len as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> (64 - LOOKUP_BITS)) as usize
    }
}

/// `None`: no command has so long a name, or an empty one.
#[inline]
const fn fold(name: &[u8]) -> Option<Folded> {
    let len = name.len();
    let (low, high) = match len {
        8..=NAME_BYTES_MAX => (eight(name, 0), eight(name, len - 8)),
        4..=7 => (four(name, 0) | four(name, len - 4) << 32, 0),
        1..=3 => (name[0] as u64 | (name[len / 2] as u64) << 8 | (name[len - 1] as u64) << 16, 0),
        _ => return None,
    };
    Some(Folded { low: lower(low), high: lower(high), len: len as u8 })
}

#[inline]
const fn eight(bytes: &[u8], at: usize) -> u64 {
    four(bytes, at) | four(bytes, at + 4) << 32
}

#[inline]
const fn four(bytes: &[u8], at: usize) -> u64 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as u64
}

/// Sets the case bit of each byte from `A` to `Z`, all eight at once.
#[inline]
const fn lower(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    // Without their top bits the bytes cannot carry into one another; a byte that had it is no letter.
    let seven = word & (0x7f * EACH);
    let from_a = seven + (0x80 - b'A' as u64) * EACH;
    let past_z = seven + (0x80 - b'Z' as u64 - 1) * EACH;
    let letters = from_a & !past_z & !word & (0x80 * EACH);
    word | (letters >> 2)
}

/// One place of the lookup table, with what every request needs of its command; `name.len == 0`: free.
#[derive(Clone, Copy)]
struct Row {
    name: Folded,
    spec: &'static Spec,
    /// In the statistics, where subcommands are counted too.
    index: u16,
    arity: i16,
    /// Not a container.
    is_plain: bool,
}

const LOOKUP_BITS: u32 = 9;
const LOOKUP_LEN: usize = 1 << LOOKUP_BITS;
// At a quarter full nearly every search ends at its first place.
const _: () = assert!(COMMANDS * 3 <= LOOKUP_LEN);

static LOOKUP: [Row; LOOKUP_LEN] = {
    let name = Folded { low: 0, high: 0, len: 0 };
    let free = Row { name, spec: &PLACEHOLDER, index: 0, arity: 0, is_plain: false };
    let mut rows = [free; LOOKUP_LEN];
    let (mut position, mut index) = (0, 0);
    while position < COMMANDS {
        let spec = JOINED[position];
        let Some(name) = fold(spec.name.as_bytes()) else { panic!("a command's name is empty or too long") };
        let mut place = name.place();
        while rows[place].name.len != 0 {
            assert!(!rows[place].name.matches(&name), "two commands have one name");
            place = (place + 1) % LOOKUP_LEN;
        }
        let is_plain = spec.subcommands.is_empty();
        rows[place] = Row { name, spec, index: index as u16, arity: spec.arity as i16, is_plain };
        index += 1 + spec.subcommands.len();
        position += 1;
    }
    rows
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Argument, ArgumentKind, Flags};
    use crate::testing::parse;

    fn find_words(words: &[&[u8]]) -> Result<(u16, &'static Spec), ReplyError> {
        let (parser, input) = parse(words);
        find(parser.request(&input))
    }

    #[test]
    fn every_name_is_found_in_any_case_and_no_neighbour_of_it() {
        for spec in TABLE.iter().copied() {
            let name = spec.name.as_bytes();
            let mixed: Vec<u8> =
                name.iter().enumerate().map(|(i, b)| if i % 2 == 0 { b.to_ascii_uppercase() } else { *b }).collect();
            for form in [name.to_vec(), name.to_ascii_uppercase(), mixed] {
                assert!(std::ptr::eq(command(&form).expect("a command of the table").1, spec), "{}", spec.name);
            }
            for place in 0..name.len() {
                // Each bit of each byte: only the case bit of a letter may be flipped.
                for bit in 0..8 {
                    let mut other = name.to_vec();
                    other[place] ^= 1 << bit;
                    let found = command(&other).is_some_and(|(_, found)| std::ptr::eq(found, spec));
                    assert_eq!(found, bit == 5 && name[place].is_ascii_alphabetic(), "{other:?}");
                }
            }
            let mut longer = name.to_vec();
            longer.push(0);
            assert!(command(&longer).is_none());
        }
        assert!(command(b"").is_none());
        assert!(command(&[b'a'; 4096]).is_none());
    }

    #[test]
    fn every_index_leads_back_to_its_command() {
        let mut seen = 0;
        for spec in TABLE.iter().copied() {
            let (index, _) = command(spec.name.as_bytes()).expect("in the table");
            assert_eq!(usize::from(index), seen);
            assert_eq!(spec_by_index(index).expect("in range").full_name(), spec.name);
            for (position, sub) in spec.subcommands.iter().enumerate() {
                let full = format!("{}|{}", spec.name, sub.name);
                let (index, found) = by_full_name(full.as_bytes()).expect("in the table");
                assert!(std::ptr::eq(found, sub));
                assert_eq!(usize::from(index), seen + 1 + position);
                assert_eq!(spec_by_index(index).expect("in range").full_name(), full);
            }
            seen += 1 + spec.subcommands.len();
        }
        assert_eq!(seen, commands_total());
        assert!(spec_by_index(seen as u16).is_none());
    }

    /// Every command and subcommand.
    fn all() -> impl Iterator<Item = Indexed> {
        (0..commands_total()).filter_map(|index| spec_by_index(index as u16))
    }

    #[test]
    fn every_row_is_complete() {
        let mut names = std::collections::HashSet::new();
        for row in all() {
            let (name, spec) = (row.full_name(), row.spec);
            assert!(names.insert(name.clone()), "{name} twice");
            assert_eq!(name, name.to_ascii_lowercase());
            assert!(!spec.summary.is_empty() && !spec.summary.ends_with('.'), "{name}: {}", spec.summary);
            assert!(!spec.summary.contains(['\r', '\n']), "{name}");
            assert!(spec.since.contains('.') && !spec.complexity.is_empty(), "{name}");
            assert!(!(spec.flags.has(Flags::WRITE) && spec.flags.has(Flags::READONLY)), "{name}");
            assert!(!spec.flags.has(Flags::DENYOOM) || spec.flags.has(Flags::WRITE), "{name}");
            assert!(spec.subcommands.iter().all(|sub| sub.subcommands.is_empty()), "{name}: two levels only");
            assert!(row.container.is_none() || !spec.name.contains('|'), "{name}");
        }
    }

    /// Least number of argument words, and whether more may follow.
    fn words(arguments: &[Argument]) -> (usize, bool) {
        let mut total = (0, false);
        for argument in arguments {
            let token = usize::from(argument.token.is_some());
            let (least, more) = match argument.kind {
                ArgumentKind::PureToken => (1, false),
                ArgumentKind::OneOf => {
                    let parts: Vec<_> = argument.parts.iter().map(|part| words(std::slice::from_ref(part))).collect();
                    let least = parts.iter().map(|part| part.0).min().expect("alternatives");
                    (token + least, parts.iter().any(|part| part.1 || part.0 != least))
                }
                ArgumentKind::Block => {
                    let (least, more) = words(argument.parts);
                    (token + least, more)
                }
                _ => (token + 1, false),
            };
            total.0 += if argument.optional { 0 } else { least };
            total.1 |= more || argument.optional || argument.multiple;
        }
        total
    }

    #[test]
    fn arity_is_what_the_documented_arguments_need() {
        for row in all().filter(|row| row.spec.subcommands.is_empty()) {
            let (least, more) = words(row.spec.arguments);
            let least = (least + 1 + usize::from(row.container.is_some())) as i32;
            // Redis documents no arguments of QUIT and ignores any.
            let more = more || row.spec.name == "quit";
            assert_eq!(row.spec.arity, if more { -least } else { least }, "{}", row.full_name());
        }
    }

    #[test]
    fn keys_stand_where_the_documented_arguments_say() {
        for row in all() {
            let (name, spec) = (row.full_name(), row.spec);
            let documents_keys = spec.arguments.iter().any(names_a_key);
            assert_eq!(!matches!(spec.keys, Keys::None), documents_keys, "{name}");
            // With the fewest arguments that the arity allows, every command has a key.
            let least = spec.arity.unsigned_abs() as usize;
            match spec.keys {
                Keys::None => {}
                Keys::Range { first, last, step } => {
                    assert!(first >= 1 && step >= 1 && (last < 0 || last >= first), "{name}");
                    assert!((first as usize) < least && last < least as i32, "{name}");
                    assert!(key_positions(spec.keys, least, |_| b"").len() >= 1, "{name}");
                }
                Keys::Counted { numkeys, step } => {
                    assert!(numkeys >= 1 && step >= 1 && numkeys + step < least, "{name}");
                    assert_eq!(key_positions(spec.keys, least, |_| b"1").len(), 1, "{name}");
                }
                Keys::BeforeOptions(_) => {
                    assert_eq!(key_positions(spec.keys, least, |_| b"").len(), least - 1, "{name}")
                }
            }
        }
    }

    fn names_a_key(argument: &Argument) -> bool {
        argument.kind == ArgumentKind::Key || argument.parts.iter().any(names_a_key)
    }

    #[test]
    fn a_wrong_number_of_arguments_is_refused_by_full_name_for_every_command() {
        for row in all().filter(|row| row.spec.arity.abs() > 1) {
            let name = row.full_name();
            let mut words: Vec<&[u8]> = name.split('|').map(str::as_bytes).collect();
            while words.len() < row.spec.arity.unsigned_abs() as usize - 1 {
                words.push(b"1");
            }
            words.truncate(row.spec.arity.unsigned_abs() as usize - 1);
            if row.container.is_some() && words.len() < 2 {
                continue;
            }
            let error = find_words(&words).expect_err("one argument too few");
            assert_eq!(error.to_string(), format!("ERR wrong number of arguments for '{name}' command"));
        }
    }

    #[test]
    fn unknown_commands_list_their_arguments() {
        let error = find_words(&[b"nosuch", b"a", b"b c"]).expect_err("no such command");
        assert_eq!(error.to_string(), "ERR unknown command 'nosuch', with args beginning with: 'a' 'b c' ");
        let error = find_words(&[b"nosuch"]).expect_err("no such command");
        assert_eq!(error.to_string(), "ERR unknown command 'nosuch', with args beginning with: ");
    }

    #[test]
    fn key_positions_follow_every_shape() {
        let places = |keys: Keys, words: &[&'static str]| -> Vec<usize> {
            key_positions(keys, words.len(), |index| words[index].as_bytes()).collect()
        };
        assert_eq!(places(Keys::ONE, &["get", "k"]), [1]);
        assert_eq!(places(Keys::ALL, &["mget", "a", "b", "c"]), [1, 2, 3]);
        assert_eq!(places(Keys::Range { first: 1, last: -1, step: 2 }, &["mset", "a", "1", "b", "2"]), [1, 3]);
        assert_eq!(places(Keys::Range { first: 2, last: -1, step: 1 }, &["bitop", "and", "d", "a"]), [2, 3]);
        assert_eq!(places(Keys::Range { first: 2, last: 2, step: 1 }, &["object", "encoding", "k"]), [2]);
        assert_eq!(places(Keys::Counted { numkeys: 1, step: 2 }, &["msetex", "2", "a", "1", "b", "2", "nx"]), [2, 4]);
        assert_eq!(places(Keys::Counted { numkeys: 1, step: 2 }, &["msetex", "3", "a", "1", "b", "2"]), [0; 0]);
        assert_eq!(places(Keys::Counted { numkeys: 1, step: 2 }, &["msetex", "18446744073709551615", "a"]), [0; 0]);
        let before = Keys::BeforeOptions(&[&[("VER", 1)], &[("STALE", 1), ("HARD", 0)]]);
        assert_eq!(places(before, &["inval", "a", "b"]), [1, 2]);
        assert_eq!(places(before, &["inval", "a", "b", "hard"]), [1, 2]);
        assert_eq!(places(before, &["inval", "hard"]), [1]);
        assert_eq!(places(before, &["inval", "a", "STALE", "5", "VER", "7"]), [1]);
        assert_eq!(places(before, &["inval", "a", "VER", "7", "HARD"]), [1]);
        assert_eq!(places(before, &["inval", "a", "HARD", "HARD"]), [1, 2]);
        assert_eq!(places(before, &["inval", "VER", "7"]), [1, 2]);
        assert_eq!(places(before, &["inval"]), [0; 0]);
        assert_eq!(places(Keys::ONE, &["get"]), [0; 0]);
        assert_eq!(places(Keys::None, &["ping", "k"]), [0; 0]);
    }
}
