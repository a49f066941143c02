//! Commands that store one whole value.

use super::lifetime::{EXPIRATION, Lifetime};
use crate::argument::{TimeUnit, is_word, version};
use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::spec::{Argument, Flags, Group, Keys, Spec};
use leasehold_keyspace::{Attributes, Entry, Expiry, Slot};
use leasehold_protocol::Request;

pub(super) static SET: Spec = Spec {
    name: "set",
    summary: "Stores a value; on request only under a condition, for a time, at a version, or with the old value as reply",
    group: Group::String,
    since: "1.0.0",
    complexity: "O(1)",
    arity: -3,
    flags: Flags::WRITE.with(Flags::DENYOOM),
    keys: Keys::ONE,
    arguments: &[
        Argument::key("key"),
        Argument::string("value"),
        Argument::one_of(
            "condition",
            &[
                Argument::word("nx", "NX"),
                Argument::word("xx", "XX"),
                Argument::string("ifeq-value").with_token("IFEQ"),
                Argument::string("ifne-value").with_token("IFNE"),
            ],
        )
        .optional(),
        Argument::word("get", "GET").optional(),
        EXPIRATION,
        Argument::integer("version").with_token("VER").optional(),
    ],
    subcommands: &[],
    run: set,
};

fn set(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    if request.len() > 3 {
        let result = set_with_options(context, request);
        return context.conclude(result);
    }
    let Context { keyspace, client, reply, turn, .. } = context;
    keyspace.update(turn, client.db, request.arg(1), |slot| slot.set(request.arg(2), Attributes::PLAIN));
    reply.ok();
    Outcome::Replied
}

fn set_with_options(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let options = Options::parse(request)?;
    let Context { keyspace, client, reply, turn, .. } = context;
    let expiry = options.lifetime.expiry(turn, "set")?;
    let external_version = options.version.map(version).transpose()?;
    let attributes = Attributes { expiry, external_version, ..Attributes::PLAIN };
    let value = request.arg(2);
    let accepted = keyspace.update(turn, client.db, request.arg(1), |slot| {
        if options.old_value_wanted {
            slot.touch();
            match slot.entry() {
                Some(entry) => reply.bulk(entry.value),
                None => reply.null(),
            }
        }
        if !options.condition.holds(slot.entry()) {
            return false;
        }
        match external_version.map_or(Versioned::Newer, |version| Versioned::compare(slot, version, value)) {
            Versioned::Older => false,
            Versioned::Repeated => true,
            Versioned::Newer => {
                slot.store(value, attributes);
                true
            }
        }
    });
    match (options.old_value_wanted, accepted) {
        (true, _) => {}
        (false, true) => reply.ok(),
        (false, false) => reply.null(),
    }
    Ok(())
}

/// The value of a SET, SETEX or PSETEX whose key is written to a source: it is stored whatever is there, and lives as long as the
/// loader says.
///
/// # Errors
/// As the command's own; and the options that look at what is there.
pub(crate) fn whole_value<'a>(context: &Context<'_>, request: Request<'a>) -> Result<&'a [u8], ReplyError> {
    if is_word(request.arg(0), "SET") {
        let options = Options::parse(request)?;
        options.lifetime.expiry(context.turn, "set")?;
        if options.condition != Condition::None || options.old_value_wanted || options.version.is_some() {
            return Err(ReplyError::err("SET of a key that a loader writes takes no NX, XX, IFEQ, IFNE, GET and VER"));
        }
        return Ok(request.arg(2));
    }
    let is_ms = is_word(request.arg(0), "PSETEX");
    let (unit, command) = if is_ms { (TimeUnit::Milliseconds, "psetex") } else { (TimeUnit::Seconds, "setex") };
    unit.deadline_ms(request.arg(2), context.turn, command)?;
    Ok(request.arg(3))
}

/// Everything behind the value.
#[derive(Default)]
struct Options<'a> {
    condition: Condition<'a>,
    lifetime: Lifetime<'a>,
    old_value_wanted: bool,
    version: Option<&'a [u8]>,
}

impl<'a> Options<'a> {
    fn parse(request: Request<'a>) -> Result<Self, ReplyError> {
        let mut options = Self::default();
        let mut index = 3;
        while index < request.len() {
            if let Some(next) = options.lifetime.take("KEEPTTL", request, index)? {
                index = next;
                continue;
            }
            let word = request.arg(index);
            let operand = request.get(index + 1);
            if is_word(word, "NX") {
                options.condition.become_one(Condition::Absent)?;
            } else if is_word(word, "XX") {
                options.condition.become_one(Condition::Present)?;
            } else if is_word(word, "GET") {
                options.old_value_wanted = true;
            } else if let (true, Some(operand)) = (is_word(word, "IFEQ"), operand) {
                options.condition.become_one(Condition::Equal(operand))?;
                index += 1;
            } else if let (true, Some(operand)) = (is_word(word, "IFNE"), operand) {
                options.condition.become_one(Condition::NotEqual(operand))?;
                index += 1;
            } else if let (true, Some(operand), None) = (is_word(word, "VER"), operand, options.version) {
                options.version = Some(operand);
                index += 1;
            } else {
                return Err(ReplyError::Syntax);
            }
            index += 1;
        }
        Ok(options)
    }
}

/// What must hold of the fresh entry.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Condition<'a> {
    #[default]
    None,
    Absent,
    Present,
    /// An absent key has no value to be equal.
    Equal(&'a [u8]),
    /// An absent key is not equal to anything.
    NotEqual(&'a [u8]),
}

impl Condition<'_> {
    /// One condition only; `NX` and `XX` may be repeated.
    fn become_one(&mut self, wanted: Self) -> Result<(), ReplyError> {
        let repeated = *self == wanted && matches!(wanted, Self::Absent | Self::Present);
        if *self != Self::None && !repeated {
            return Err(ReplyError::Syntax);
        }
        *self = wanted;
        Ok(())
    }

    fn holds(self, entry: Option<Entry<'_>>) -> bool {
        match (self, entry) {
            (Self::None, _) | (Self::Absent | Self::NotEqual(_), None) | (Self::Present, Some(_)) => true,
            (Self::Absent, Some(_)) | (Self::Present | Self::Equal(_), None) => false,
            (Self::Equal(value), Some(entry)) => entry.value == value,
            (Self::NotEqual(value), Some(entry)) => entry.value != value,
        }
    }
}

/// How a `VER` write stands to what is stored (SPEC §5).
pub(crate) enum Versioned {
    Newer,
    /// The same write again, by a client that did not see the reply to the first.
    Repeated,
    Older,
}

impl Versioned {
    pub(crate) fn compare(slot: &Slot<'_>, version: u64, value: &[u8]) -> Self {
        if slot.version_floor().is_none_or(|floor| version > floor) {
            return Self::Newer;
        }
        match slot.entry() {
            Some(entry) if entry.external_version == Some(version) && entry.value == value => Self::Repeated,
            _ => Self::Older,
        }
    }
}

pub(super) static SETNX: Spec = Spec {
    name: "setnx",
    summary: "Stores a value if the key has none",
    group: Group::String,
    since: "1.0.0",
    complexity: "O(1)",
    arity: 3,
    flags: Flags::WRITE.with(Flags::DENYOOM).with(Flags::FAST),
    keys: Keys::ONE,
    arguments: &[Argument::key("key"), Argument::string("value")],
    subcommands: &[],
    run: setnx,
};

fn setnx(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let Context { keyspace, client, reply, turn, .. } = context;
    let stored = keyspace.update(turn, client.db, request.arg(1), |slot| {
        let absent = slot.entry().is_none();
        if absent {
            slot.set(request.arg(2), Attributes::PLAIN);
        }
        absent
    });
    reply.integer(i64::from(stored));
    Outcome::Replied
}

pub(super) static SETEX: Spec = Spec {
    name: "setex",
    summary: "Stores a value for a number of seconds",
    group: Group::String,
    since: "2.0.0",
    complexity: "O(1)",
    arity: 4,
    flags: Flags::WRITE.with(Flags::DENYOOM),
    keys: Keys::ONE,
    arguments: &[Argument::key("key"), Argument::integer("seconds"), Argument::string("value")],
    subcommands: &[],
    run: |context, request| {
        let result = set_for(context, request, TimeUnit::Seconds, "setex");
        context.conclude(result)
    },
};

pub(super) static PSETEX: Spec = Spec {
    name: "psetex",
    summary: "Stores a value for a number of milliseconds",
    group: Group::String,
    since: "2.6.0",
    complexity: "O(1)",
    arity: 4,
    flags: Flags::WRITE.with(Flags::DENYOOM),
    keys: Keys::ONE,
    arguments: &[Argument::key("key"), Argument::integer("milliseconds"), Argument::string("value")],
    subcommands: &[],
    run: |context, request| {
        let result = set_for(context, request, TimeUnit::Milliseconds, "psetex");
        context.conclude(result)
    },
};

fn set_for(
    context: &mut Context<'_>,
    request: Request<'_>,
    unit: TimeUnit,
    command: &'static str,
) -> Result<(), ReplyError> {
    let Context { keyspace, client, reply, turn, .. } = context;
    let expiry = Expiry::At(unit.deadline_ms(request.arg(2), turn, command)?);
    keyspace.update(turn, client.db, request.arg(1), |slot| {
        slot.set(request.arg(3), Attributes { expiry, ..Attributes::PLAIN })
    });
    reply.ok();
    Ok(())
}

pub(super) static GETSET: Spec = Spec {
    name: "getset",
    summary: "Stores a value and returns the one before",
    group: Group::String,
    since: "1.0.0",
    complexity: "O(1)",
    arity: 3,
    flags: Flags::WRITE.with(Flags::DENYOOM).with(Flags::FAST),
    keys: Keys::ONE,
    arguments: &[Argument::key("key"), Argument::string("value")],
    subcommands: &[],
    run: getset,
};

fn getset(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let Context { keyspace, client, reply, turn, .. } = context;
    keyspace.update(turn, client.db, request.arg(1), |slot| {
        slot.touch();
        match slot.entry() {
            Some(entry) => reply.bulk(entry.value),
            None => reply.null(),
        }
        slot.set(request.arg(2), Attributes::PLAIN);
    });
    Outcome::Replied
}

#[cfg(test)]
mod tests {
    use crate::testing::{Node, START_MS};
    use leasehold_protocol::RespVersion;

    #[test]
    fn plain_set_drops_the_ttl_and_keepttl_keeps_it() {
        let mut node = Node::new();
        assert_eq!(node.run("SET k 1 EX 10"), "+OK\r\n");
        assert_eq!(node.run("SET k 2 KEEPTTL"), "+OK\r\n");
        node.advance_ms(9_999);
        assert_eq!(node.run("GET k"), "$1\r\n2\r\n");
        node.advance_ms(1);
        assert_eq!(node.run("GET k"), "$-1\r\n");
        node.run("SET k 3 PX 10");
        node.run("SET k 4");
        node.advance_ms(10);
        assert_eq!(node.run("GET k"), "$1\r\n4\r\n");
    }

    #[test]
    fn conditions_decide_and_get_replies_the_value_before() {
        let mut node = Node::new();
        for (line, reply) in [
            ("SET k a XX", "$-1\r\n"),
            ("SET k a NX", "+OK\r\n"),
            ("SET k b nx", "$-1\r\n"),
            ("SET k b NX GET", "$1\r\na\r\n"),
            ("SET k b XX GET", "$1\r\na\r\n"),
            ("SET k c IFEQ a", "$-1\r\n"),
            ("SET k c IFEQ b", "+OK\r\n"),
            ("SET k d IFNE c GET", "$1\r\nc\r\n"),
            ("SET k d IFNE x", "+OK\r\n"),
            ("SET new 1 IFEQ 1", "$-1\r\n"),
            ("SET new 1 IFNE 1", "+OK\r\n"),
            ("SET other 1 GET", "$-1\r\n"),
            ("MGET k new other", "*3\r\n$1\r\nd\r\n$1\r\n1\r\n$1\r\n1\r\n"),
        ] {
            assert_eq!(node.run(line), reply, "{line}");
        }
        node.version = RespVersion::V3;
        assert_eq!(node.run("SET k e NX"), "_\r\n");
    }

    #[test]
    fn options_that_contradict_each_other_are_a_syntax_error() {
        let mut node = Node::new();
        for options in [
            "NX XX",
            "XX IFEQ 1",
            "IFEQ 1 IFNE 2",
            "IFEQ",
            "EX",
            "EX 1 PX 1",
            "EX 1 KEEPTTL",
            "KEEPTTL PXAT 1",
            "PERSIST",
            "VER",
            "VER 1 VER 2",
            "NX EX x XX",
            "word",
        ] {
            assert_eq!(node.run(&format!("SET k v {options}")), "-ERR syntax error\r\n", "{options}");
        }
        assert_eq!(node.run("SET k v NX NX EX 10 EX 20"), "+OK\r\n");
        assert_eq!(node.run("SET k v EX x NX"), "-ERR value is not an integer or out of range\r\n");
        assert_eq!(node.run("SET k v EX 0"), "-ERR invalid expire time in 'set' command\r\n");
        assert_eq!(node.run("SETEX k 0 v"), "-ERR invalid expire time in 'setex' command\r\n");
        assert_eq!(node.run("PSETEX k -1 v"), "-ERR invalid expire time in 'psetex' command\r\n");
        assert_eq!(node.run("SETEX k v 1"), "-ERR value is not an integer or out of range\r\n");
    }

    #[test]
    fn absolute_times_are_those_of_the_wall_clock_and_one_that_has_passed_deletes() {
        let mut node = Node::new();
        node.turn.wall_offset_ms = 5_000;
        node.run(&format!("SET k v PXAT {}", START_MS + 5_001));
        assert_eq!(node.run("GET k"), "$1\r\nv\r\n");
        node.advance_ms(1);
        assert_eq!(node.run("GET k"), "$-1\r\n");
        node.run("SET k v");
        assert_eq!(node.run("SET k w EXAT 1"), "+OK\r\n");
        assert_eq!(node.run("GET k"), "$-1\r\n");
    }

    #[test]
    fn versioned_write_is_stored_only_if_newer() {
        let mut node = Node::new();
        for (line, reply) in [
            ("SET k a VER 5", "+OK\r\n"),
            ("SET k b VER 4", "$-1\r\n"),
            ("SET k b VER 5", "$-1\r\n"),
            ("SET k a VER 5", "+OK\r\n"),
            ("SET k b VER 4 GET", "$1\r\na\r\n"),
            ("GET k", "$1\r\na\r\n"),
            ("SET k c VER 6 NX", "$-1\r\n"),
            ("SET k c VER 18446744073709551615", "+OK\r\n"),
            ("SET k d", "+OK\r\n"),
            ("SET k e VER 0", "+OK\r\n"),
            ("SET k f VER -1", "-ERR version is not an unsigned 64-bit integer\r\n"),
            ("GET k", "$1\r\ne\r\n"),
        ] {
            assert_eq!(node.run(line), reply, "{line}");
        }
    }

    #[test]
    fn repeated_versioned_write_leaves_the_ttl_alone() {
        let mut node = Node::new();
        node.run("SET k a VER 5 PX 100");
        assert_eq!(node.run("SET k a VER 5 PX 900"), "+OK\r\n");
        node.advance_ms(100);
        assert_eq!(node.run("GET k"), "$-1\r\n");
    }

    #[test]
    fn a_version_is_remembered_whose_value_is_over_at_once() {
        let mut node = Node::new();
        assert_eq!(node.run("SET k a VER 5 PXAT 1"), "+OK\r\n");
        assert_eq!(node.run("SET k old VER 4"), "$-1\r\n");
        assert_eq!(node.run("SET k new VER 6"), "+OK\r\n");
    }

    #[test]
    fn setnx_and_getset_reply_about_what_was_there() {
        let mut node = Node::new();
        assert_eq!(node.run("SETNX k 1"), ":1\r\n");
        assert_eq!(node.run("SETNX k 2"), ":0\r\n");
        assert_eq!(node.run("GETSET k 3"), "$1\r\n1\r\n");
        assert_eq!(node.run("GETSET new 3"), "$-1\r\n");
        assert_eq!(node.run("SET k"), "-ERR wrong number of arguments for 'set' command\r\n");
        assert_eq!(node.run("SETNX k"), "-ERR wrong number of arguments for 'setnx' command\r\n");
    }
}
