//! Commands that store one whole value.

use super::lifetime::{EXPIRATION, Lifetime, store};
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
    let now_ms = turn.now_ms;
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
                store(slot, value, attributes, now_ms);
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
enum Versioned {
    Newer,
    /// The same write again, by a client that did not see the reply to the first.
    Repeated,
    Older,
}

impl Versioned {
    fn compare(slot: &Slot<'_>, version: u64, value: &[u8]) -> Self {
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
