//! Commands that store several whole values in one step.

use super::lifetime::{EXPIRATION, Lifetime, store};
use crate::argument::{integer, is_word};
use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::spec::{Argument, Flags, Group, Keys, Spec};
use leasehold_keyspace::{Attributes, Db};
use leasehold_protocol::Request;

const KEY_AND_VALUE: Argument = Argument::block("data", &[Argument::key("key"), Argument::string("value")]).multiple();

pub(super) static MSET: Spec = Spec {
    name: "mset",
    summary: "Stores several values in one step",
    group: Group::String,
    since: "1.0.1",
    complexity: "O(N) where N is the number of keys",
    arity: -3,
    flags: Flags::WRITE.with(Flags::DENYOOM),
    keys: Keys::Range { first: 1, last: -1, step: 2 },
    arguments: &[KEY_AND_VALUE],
    subcommands: &[],
    run: |context, request| {
        let result = mset(context, request);
        context.conclude(result)
    },
};

fn mset(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let pairs = Pairs::until_end(request, "mset")?;
    let stored = pairs.store(context, Wanted::Always, Attributes::PLAIN);
    debug_assert!(stored);
    context.reply.ok();
    Ok(())
}

pub(super) static MSETNX: Spec = Spec {
    name: "msetnx",
    summary: "Stores several values in one step if none of the keys has one",
    group: Group::String,
    since: "1.0.1",
    complexity: "O(N) where N is the number of keys",
    arity: -3,
    flags: Flags::WRITE.with(Flags::DENYOOM),
    keys: Keys::Range { first: 1, last: -1, step: 2 },
    arguments: &[KEY_AND_VALUE],
    subcommands: &[],
    run: |context, request| {
        let result = msetnx(context, request);
        context.conclude(result)
    },
};

fn msetnx(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let pairs = Pairs::until_end(request, "msetnx")?;
    let stored = pairs.store(context, Wanted::AllAbsent, Attributes::PLAIN);
    context.reply.integer(i64::from(stored));
    Ok(())
}

pub(super) static MSETEX: Spec = Spec {
    name: "msetex",
    summary: "Stores several values in one step with one time to live, on request only if all or none of the keys exist",
    group: Group::String,
    since: "8.4.0",
    complexity: "O(N) where N is the number of keys",
    arity: -4,
    flags: Flags::WRITE.with(Flags::DENYOOM).with(Flags::MOVABLEKEYS),
    keys: Keys::Counted { numkeys: 1, step: 2 },
    arguments: &[
        Argument::integer("numkeys"),
        KEY_AND_VALUE,
        Argument::one_of("condition", &[Argument::word("nx", "NX"), Argument::word("xx", "XX")]).optional(),
        EXPIRATION,
    ],
    subcommands: &[],
    run: |context, request| {
        let result = msetex(context, request);
        context.conclude(result)
    },
};

fn msetex(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let count = integer(request.arg(1)).and_then(|count| usize::try_from(count).ok()).filter(|count| *count > 0);
    let count = count.ok_or(ReplyError::Numkeys)?;
    if count > (request.len() - 2) / 2 {
        return Err(ReplyError::KeyValuePairs);
    }
    let pairs = Pairs { request, first: 2, count };
    let mut lifetime = Lifetime::default();
    let mut wanted = Wanted::Always;
    let mut index = 2 + 2 * count;
    while index < request.len() {
        if let Some(next) = lifetime.take("KEEPTTL", request, index)? {
            index = next;
            continue;
        }
        wanted = match (request.arg(index), wanted) {
            (word, Wanted::Always | Wanted::AllAbsent) if is_word(word, "NX") => Wanted::AllAbsent,
            (word, Wanted::Always | Wanted::AllPresent) if is_word(word, "XX") => Wanted::AllPresent,
            _ => return Err(ReplyError::Syntax),
        };
        index += 1;
    }
    let expiry = lifetime.expiry(context.turn, "msetex")?;
    let stored = pairs.store(context, wanted, Attributes { expiry, ..Attributes::PLAIN });
    context.reply.integer(i64::from(stored));
    Ok(())
}

/// Keys and values in turn, among the arguments of a request.
#[derive(Clone, Copy)]
struct Pairs<'a> {
    request: Request<'a>,
    /// Index of the first key.
    first: usize,
    count: usize,
}

/// What must hold of the keys.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Always,
    AllAbsent,
    AllPresent,
}

impl<'a> Pairs<'a> {
    /// All arguments are pairs.
    fn until_end(request: Request<'a>, command: &'static str) -> Result<Self, ReplyError> {
        if request.len().is_multiple_of(2) {
            return Err(ReplyError::WrongArity { command: command.to_owned() });
        }
        Ok(Self { request, first: 1, count: request.len() / 2 })
    }

    fn key(&self, index: usize) -> &'a [u8] {
        self.request.arg(self.first + 2 * index)
    }

    fn value(&self, index: usize) -> &'a [u8] {
        self.request.arg(self.first + 2 * index + 1)
    }

    /// Stores all pairs, a later one of the same key over an earlier; or none, if the condition does not hold.
    fn store(&self, context: &mut Context<'_>, wanted: Wanted, attributes: Attributes) -> bool {
        let Context { keyspace, client, turn, .. } = context;
        let keys: Vec<(Db, &[u8])> = (0..self.count).map(|index| (client.db, self.key(index))).collect();
        let now_ms = turn.now_ms;
        keyspace.update_many(turn, &keys, |slots| {
            let mut held = 0..self.count;
            let holds = match wanted {
                Wanted::Always => true,
                Wanted::AllAbsent => held.all(|index| slots.slot(index).entry().is_none()),
                Wanted::AllPresent => held.all(|index| slots.slot(index).entry().is_some()),
            };
            if holds {
                for index in 0..self.count {
                    store(&mut slots.slot(index), self.value(index), attributes, now_ms);
                }
            }
            holds
        })
    }
}
