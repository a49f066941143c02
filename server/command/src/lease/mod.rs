//! Lease commands: GETL, SETL, RELL, LEASES, LEASE KILL, INVAL, INVALTAG, INVALPREFIX (SPEC §2).

pub(crate) mod getl;
mod setl;

use crate::argument;
use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::glob;
use crate::help;
use crate::spec::{Argument, Flags, Group, Keys, Spec};
use crate::string::lifetime::EXPIRATION;
use crate::table::KEY_BYTES_MAX;
use leasehold_keyspace::{Claimant, Invalidation, Release};
use leasehold_protocol::Request;

/// The commands of this group.
pub static SPECS: &[&Spec] = &[&GETL, &SETL, &RELL, &LEASES, &LEASE, &INVAL, &INVALTAG, &INVALPREFIX];

/// Leases that LEASES lists when no COUNT is given.
const LEASES_COUNT: usize = 100;

/// Most leases that LEASES lists.
const LEASES_COUNT_MAX: u64 = 100_000;

const GETL: Spec = Spec {
    name: "getl",
    summary: "Answers a key, or gives the caller the right to fill it, or says who else is filling it",
    group: Group::Lease,
    since: "leasehold 0.1.0",
    complexity: "O(1)",
    arity: -2,
    flags: Flags::WRITE.with(Flags::FAST).with(Flags::BLOCKING).with(Flags::NOSCRIPT),
    keys: Keys::ONE,
    arguments: &[
        Argument::key("key"),
        Argument::integer("wait-ms").with_token("WAIT").optional(),
        Argument::integer("lease-ms").with_token("LEASE").optional(),
        Argument::one_of("stale", &[Argument::word("stale", "STALE"), Argument::word("nostale", "NOSTALE")]).optional(),
        Argument::integer("min-version").with_token("MINVER").optional(),
    ],
    subcommands: &[],
    run: getl::run,
};

const SETL: Spec = Spec {
    name: "setl",
    summary: "Fills a key under a lease, if nothing invalidated the key since the lease was given",
    group: Group::Lease,
    since: "leasehold 0.1.0",
    complexity: "O(1)",
    arity: -4,
    flags: Flags::WRITE.with(Flags::DENYOOM),
    keys: Keys::ONE,
    arguments: &[
        Argument::key("key"),
        Argument::integer("token"),
        Argument::string("value"),
        EXPIRATION,
        Argument::integer("stale-for-ms").with_token("STALEFOR").optional(),
        Argument::integer("version").with_token("VER").optional(),
        Argument::block("tags", &[Argument::integer("count"), Argument::string("tag").multiple()])
            .with_token("TAGS")
            .optional(),
    ],
    subcommands: &[],
    run: setl::run,
};

const RELL: Spec = Spec {
    name: "rell",
    summary: "Gives a lease back without filling the key",
    group: Group::Lease,
    since: "leasehold 0.1.0",
    complexity: "O(1)",
    arity: -3,
    flags: Flags::WRITE.with(Flags::FAST),
    keys: Keys::ONE,
    arguments: &[
        Argument::key("key"),
        Argument::integer("token"),
        Argument::integer("negative-ms").with_token("NEGATIVE").optional(),
        Argument::integer("backoff-ms").with_token("BACKOFF").optional(),
    ],
    subcommands: &[],
    run: rell,
};

const LEASES: Spec = Spec {
    name: "leases",
    summary: "Lists outstanding leases: who holds them, since when, how many wait",
    group: Group::Lease,
    since: "leasehold 0.1.0",
    complexity: "O(N) for N outstanding leases",
    arity: -1,
    flags: Flags::READONLY.with(Flags::ADMIN),
    keys: Keys::None,
    arguments: &[
        Argument::new("pattern", crate::spec::ArgumentKind::Pattern).with_token("MATCH").optional(),
        Argument::integer("count").with_token("COUNT").optional(),
    ],
    subcommands: &[],
    run: leases,
};

const LEASE: Spec = Spec {
    name: "lease",
    summary: "Acts on one outstanding lease",
    group: Group::Lease,
    since: "leasehold 0.1.0",
    complexity: "Depends on the subcommand",
    arity: -2,
    flags: Flags::NONE,
    keys: Keys::None,
    arguments: &[],
    subcommands: &[
        Spec {
            name: "kill",
            summary: "Ends the lease of a key; its token is void and the next waiter leads",
            group: Group::Lease,
            since: "leasehold 0.1.0",
            complexity: "O(1)",
            arity: 3,
            flags: Flags::WRITE.with(Flags::ADMIN),
            keys: Keys::Range { first: 2, last: 2, step: 1 },
            arguments: &[Argument::key("key")],
            subcommands: &[],
            run: kill,
        },
        help::subcommand(Group::Lease, "leasehold 0.1.0"),
    ],
    run: help::run,
};

const INVAL: Spec = Spec {
    name: "inval",
    summary: "Makes keys stale or removes them, and voids the leases that were given on them",
    group: Group::Lease,
    since: "leasehold 0.1.0",
    complexity: "O(N) for N keys",
    arity: -2,
    flags: Flags::WRITE.with(Flags::SUMMED),
    // In the order in which `keys_and_options` looks for them.
    keys: Keys::BeforeOptions(&[&[("VER", 1)], &[("STALE", 1), ("HARD", 0)]]),
    arguments: &[
        Argument::key("key").multiple(),
        Argument::one_of("mode", &[Argument::integer("stale-ms").with_token("STALE"), Argument::word("hard", "HARD")])
            .optional(),
        Argument::integer("version").with_token("VER").optional(),
    ],
    subcommands: &[],
    run: inval,
};

const INVALTAG: Spec = Spec {
    name: "invaltag",
    summary: "Makes all keys that were filled with a tag stale, and voids the leases on them",
    group: Group::Lease,
    since: "leasehold 0.1.0",
    complexity: "O(N) for N tags, however many keys have them",
    arity: -2,
    flags: Flags::WRITE.with(Flags::FAST),
    keys: Keys::None,
    arguments: &[Argument::string("tag").multiple()],
    subcommands: &[],
    run: |context, request| {
        request.args_from(1).for_each(|tag| context.keyspace.invalidate_tag(context.turn, tag));
        context.reply.simple("OK");
        Outcome::Replied
    },
};

const INVALPREFIX: Spec = Spec {
    name: "invalprefix",
    summary: "Makes all keys that start with a prefix stale, and voids the leases on them",
    group: Group::Lease,
    since: "leasehold 0.1.0",
    complexity: "O(1), however many keys start with it: they are gone through later, and as stale keys are read",
    arity: 2,
    flags: Flags::WRITE,
    keys: Keys::None,
    arguments: &[Argument::string("prefix")],
    subcommands: &[],
    run: |context, request| {
        let result = inval_prefix(context, request);
        context.conclude(result)
    },
};

fn rell(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let result = parse_release(request).map(|(token, mut release)| {
        let db = context.client.db;
        if context.host.writes_to_sources() && context.host.is_pending(db, request.arg(1)) {
            // The source has not heard of the key's last change.
            release.negative_ms = None;
        }
        let was_held = context.keyspace.release(context.turn, db, request.arg(1), token, release);
        context.reply.integer(i64::from(was_held));
    });
    context.conclude(result)
}

fn parse_release(request: Request<'_>) -> Result<(u64, Release), ReplyError> {
    let token = argument::token(request.arg(2))?;
    let mut release = Release::default();
    let mut index = 3;
    while let Some(word) = request.get(index) {
        let value = argument::milliseconds(request.get(index + 1).ok_or(ReplyError::Syntax)?);
        if argument::is_word(word, "NEGATIVE") {
            release.negative_ms = Some(value?);
        } else if argument::is_word(word, "BACKOFF") {
            release.backoff_ms = Some(value?);
        } else {
            return Err(ReplyError::Syntax);
        }
        index += 2;
    }
    Ok((token, release))
}

fn leases(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let (pattern, count) = match parse_leases(request) {
        Ok(parsed) => parsed,
        Err(error) => return context.conclude(Err(error)),
    };
    let (db, now_ms) = (context.client.db, context.turn.now_ms);
    let wanted = |key: &[u8]| pattern.is_none_or(|pattern| glob::matches(pattern, key));
    let views = context.keyspace.leases(context.turn, db, count, wanted);
    let reply = &mut *context.reply;
    reply.array(views.len());
    for view in &views {
        reply.map(6);
        reply.bulk(b"key");
        reply.bulk(&view.key);
        reply.bulk(b"holder");
        reply.bulk(match view.claimant {
            Claimant::Client => b"client",
            Claimant::Server { .. } => b"server",
        });
        reply.bulk(b"token");
        reply.bulk_integer(i64::try_from(view.token).unwrap_or(i64::MAX));
        reply.bulk(b"held-ms");
        reply.integer(now_ms.saturating_sub(view.issued_at_ms) as i64);
        reply.bulk(b"lease-left-ms");
        reply.integer(view.lease_left_ms as i64);
        reply.bulk(b"waiters");
        reply.integer(view.waiters as i64);
    }
    Outcome::Replied
}

fn parse_leases(request: Request<'_>) -> Result<(Option<&[u8]>, usize), ReplyError> {
    let (mut pattern, mut count) = (None, LEASES_COUNT);
    let mut index = 1;
    while let Some(word) = request.get(index) {
        let value = request.get(index + 1).ok_or(ReplyError::Syntax)?;
        if argument::is_word(word, "MATCH") {
            pattern = Some(value);
        } else if argument::is_word(word, "COUNT") {
            let wanted = argument::unsigned(value).filter(|wanted| (1..=LEASES_COUNT_MAX).contains(wanted));
            count = wanted
                .ok_or_else(|| ReplyError::err(format_args!("COUNT must be a number from 1 to {LEASES_COUNT_MAX}")))?
                as usize;
        } else {
            return Err(ReplyError::Syntax);
        }
        index += 2;
    }
    Ok((pattern, count))
}

fn kill(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let was_held = context.keyspace.kill_lease(context.turn, context.client.db, request.arg(2));
    context.reply.integer(i64::from(was_held));
    Outcome::Replied
}

fn inval(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let options = match keys_and_options(request) {
        Ok(options) => options,
        Err(error) => return context.conclude(Err(error)),
    };
    let db = context.client.db;
    let mut hits = 0;
    for key in request.args_from(1).take(options.keys) {
        let was_hit = context.keyspace.invalidate(context.turn, db, key, options.invalidation, options.version);
        hits += i64::from(was_hit);
    }
    context.reply.integer(hits);
    Outcome::Replied
}

fn inval_prefix(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let prefix = request.arg(1);
    if prefix.len() > KEY_BYTES_MAX {
        let text = format_args!("prefix is too long: {} bytes, and at most {KEY_BYTES_MAX} are allowed", prefix.len());
        return Err(ReplyError::err(text));
    }
    context.keyspace.invalidate_prefix(context.turn, context.client.db, prefix);
    context.reply.simple("OK");
    Ok(())
}

struct InvalOptions {
    keys: usize,
    invalidation: Invalidation,
    version: Option<u64>,
}

/// The options stand last and are read from the end, so that any word may be a key as long as it does not stand there:
/// `INVAL HARD` invalidates the key `HARD`, `INVAL a HARD` removes `a`.
fn keys_and_options(request: Request<'_>) -> Result<InvalOptions, ReplyError> {
    let mut end = request.len();
    let mut invalidation = None;
    let mut version = None;
    loop {
        if end > 3 && version.is_none() && argument::is_word(request.arg(end - 2), "VER") {
            version = Some(argument::version(request.arg(end - 1))?);
            end -= 2;
        } else if end > 3 && invalidation.is_none() && argument::is_word(request.arg(end - 2), "STALE") {
            let stale_ms = Some(argument::milliseconds(request.arg(end - 1))?);
            invalidation = Some(Invalidation::Soft { stale_ms });
            end -= 2;
        } else if end > 2 && invalidation.is_none() && argument::is_word(request.arg(end - 1), "HARD") {
            invalidation = Some(Invalidation::Hard);
            end -= 1;
        } else {
            let invalidation = invalidation.unwrap_or(Invalidation::Soft { stale_ms: None });
            return Ok(InvalOptions { keys: end - 1, invalidation, version });
        }
    }
}
