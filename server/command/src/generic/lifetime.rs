//! How long keys live: the `EXPIRE` family, the `TTL` family, `PERSIST`.
//!
//! The TTL is that of an entry's fresh life. A change of it is no write: leases stay, unless a time that has passed
//! deletes the key. Clients' absolute times are wall clock, the keyspace's are server time.

use crate::argument::{TimeUnit, integer_or_error, is_word};
use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::spec::{Argument, ArgumentKind, Flags, Group, Handler, Keys, Spec};
use leasehold_keyspace::Access;
use leasehold_protocol::Request;

const CONDITION: Argument = Argument::one_of(
    "condition",
    &[Argument::word("nx", "NX"), Argument::word("xx", "XX"), Argument::word("gt", "GT"), Argument::word("lt", "LT")],
)
.optional();

pub(super) static EXPIRE: Spec = setter(
    "expire",
    "Sets a key's time to live in seconds",
    "1.0.0",
    &[Argument::key("key"), Argument::integer("seconds"), CONDITION],
    |context, request| set(context, request, TimeUnit::Seconds, "expire"),
);

pub(super) static PEXPIRE: Spec = setter(
    "pexpire",
    "Sets a key's time to live in milliseconds",
    "2.6.0",
    &[Argument::key("key"), Argument::integer("milliseconds"), CONDITION],
    |context, request| set(context, request, TimeUnit::Milliseconds, "pexpire"),
);

pub(super) static EXPIREAT: Spec = setter(
    "expireat",
    "Sets the time in seconds since 1970 at which a key expires",
    "1.2.0",
    &[Argument::key("key"), Argument::new("unix-time-seconds", ArgumentKind::UnixTime), CONDITION],
    |context, request| set(context, request, TimeUnit::UnixSeconds, "expireat"),
);

pub(super) static PEXPIREAT: Spec = setter(
    "pexpireat",
    "Sets the time in milliseconds since 1970 at which a key expires",
    "2.6.0",
    &[Argument::key("key"), Argument::new("unix-time-milliseconds", ArgumentKind::UnixTime), CONDITION],
    |context, request| set(context, request, TimeUnit::UnixMilliseconds, "pexpireat"),
);

pub(super) static TTL: Spec = reader(
    "ttl",
    "Tells how many seconds a key will live: -1 if it has no TTL, -2 if it does not exist",
    "1.0.0",
    |context, request| tell(context, request, |left_ms, _| to_seconds(left_ms)),
);

pub(super) static PTTL: Spec = reader(
    "pttl",
    "Tells how many milliseconds a key will live: -1 if it has no TTL, -2 if it does not exist",
    "2.6.0",
    |context, request| tell(context, request, |left_ms, _| left_ms),
);

pub(super) static EXPIRETIME: Spec = reader(
    "expiretime",
    "Tells at which second since 1970 a key expires: -1 if it has no TTL, -2 if it does not exist",
    "7.0.0",
    |context, request| tell(context, request, |_, unix_ms| to_seconds(unix_ms)),
);

pub(super) static PEXPIRETIME: Spec = reader(
    "pexpiretime",
    "Tells at which millisecond since 1970 a key expires: -1 if it has no TTL, -2 if it does not exist",
    "7.0.0",
    |context, request| tell(context, request, |_, unix_ms| unix_ms),
);

pub(super) static PERSIST: Spec =
    Spec { arity: 2, ..setter("persist", "Removes a key's TTL", "2.2.0", &[Argument::key("key")], persist) };

const fn setter(
    name: &'static str,
    summary: &'static str,
    since: &'static str,
    arguments: &'static [Argument],
    run: Handler,
) -> Spec {
    let (group, flags, keys) = (Group::Generic, Flags::WRITE.with(Flags::FAST), Keys::ONE);
    Spec { name, summary, group, since, complexity: "O(1)", arity: -3, flags, keys, arguments, subcommands: &[], run }
}

const fn reader(name: &'static str, summary: &'static str, since: &'static str, run: Handler) -> Spec {
    let (group, flags, keys) = (Group::Generic, Flags::READONLY.with(Flags::FAST), Keys::ONE);
    const KEY: &[Argument] = &[Argument::key("key")];
    Spec {
        arguments: KEY,
        name,
        summary,
        group,
        since,
        complexity: "O(1)",
        arity: 2,
        flags,
        keys,
        subcommands: &[],
        run,
    }
}

/// `NX`, `XX`, `GT`, `LT` of the `EXPIRE` family.
#[derive(Clone, Copy, Default)]
struct Conditions {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
}

impl Conditions {
    fn parse(request: Request<'_>) -> Result<Self, ReplyError> {
        let mut conditions = Self::default();
        for word in request.args_from(3) {
            let condition = match word {
                _ if is_word(word, "NX") => &mut conditions.nx,
                _ if is_word(word, "XX") => &mut conditions.xx,
                _ if is_word(word, "GT") => &mut conditions.gt,
                _ if is_word(word, "LT") => &mut conditions.lt,
                _ => {
                    let word = String::from_utf8_lossy(&word[..word.len().min(128)]);
                    return Err(ReplyError::err(format_args!("Unsupported option {word}")));
                }
            };
            *condition = true;
        }
        let Self { nx, xx, gt, lt } = conditions;
        if nx && (xx || gt || lt) {
            return Err(ReplyError::err("NX and XX, GT or LT options at the same time are not compatible"));
        }
        if gt && lt {
            return Err(ReplyError::err("GT and LT options at the same time are not compatible"));
        }
        Ok(conditions)
    }

    /// Whether a key that expires at `now` may expire at `wanted` instead. No TTL is longer than any.
    fn allow(self, now: Option<u64>, wanted: u64) -> bool {
        let Self { nx, xx, gt, lt } = self;
        match now {
            Some(now) => !nx && (!gt || wanted > now) && (!lt || wanted < now),
            None => !xx && !gt,
        }
    }
}

fn set(context: &mut Context<'_>, request: Request<'_>, unit: TimeUnit, command: &'static str) -> Outcome {
    let result = deadline(context, request, unit, command).map(|(conditions, expire_at_ms)| {
        let done = context.keyspace.update(context.turn, context.client.db, request.arg(1), |slot| {
            let Some(now) = slot.entry().map(|entry| entry.expire_at_ms) else { return false };
            conditions.allow(now, expire_at_ms) && slot.set_expiry(Some(expire_at_ms))
        });
        context.reply.integer(i64::from(done));
    });
    context.conclude(result)
}

fn deadline(
    context: &Context<'_>,
    request: Request<'_>,
    unit: TimeUnit,
    command: &'static str,
) -> Result<(Conditions, u64), ReplyError> {
    let conditions = Conditions::parse(request)?;
    let time = integer_or_error(request.arg(2))?;
    let expire_at_ms = unit.deadline_of(time, context.turn).ok_or(ReplyError::InvalidExpire { command })?;
    Ok((conditions, expire_at_ms))
}

/// Answers with `number` of the milliseconds left and of the end since 1970.
fn tell(context: &mut Context<'_>, request: Request<'_>, number: impl Fn(u64, u64) -> u64) -> Outcome {
    const NO_KEY: i64 = -2;
    const NO_TTL: i64 = -1;
    let (now_ms, wall_offset_ms) = (context.turn.now_ms, context.turn.wall_offset_ms);
    let expire_at_ms = context
        .keyspace
        .read(context.turn, context.client.db, request.arg(1), Access::Quiet, |entry| entry.expire_at_ms);
    context.reply.integer(match expire_at_ms {
        None => NO_KEY,
        Some(None) => NO_TTL,
        Some(Some(at_ms)) => {
            let number = number(at_ms.saturating_sub(now_ms), at_ms.saturating_add_signed(wall_offset_ms));
            i64::try_from(number).unwrap_or(i64::MAX)
        }
    });
    Outcome::Replied
}

/// Rounds to the nearest second, as Redis's TTL does.
fn to_seconds(ms: u64) -> u64 {
    ms.saturating_add(500) / 1000
}

fn persist(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let done = context.keyspace.update(context.turn, context.client.db, request.arg(1), |slot| {
        slot.entry().is_some_and(|entry| entry.expire_at_ms.is_some()) && slot.set_expiry(None)
    });
    context.reply.integer(i64::from(done));
    Outcome::Replied
}

#[cfg(test)]
mod tests {
    use crate::testing::{Node, START_MS};

    #[test]
    fn a_ttl_is_set_told_in_every_unit_and_removed() {
        let mut node = Node::new();
        node.run("SET a 1");
        assert_eq!(node.run("TTL a"), ":-1\r\n");
        assert_eq!(node.run("EXPIRETIME a"), ":-1\r\n");
        assert_eq!(node.run("EXPIRE a 10"), ":1\r\n");
        assert_eq!(node.run("PTTL a"), ":10000\r\n");
        node.advance_ms(501);
        assert_eq!(node.run("TTL a"), ":9\r\n");
        assert_eq!(node.run("PEXPIRETIME a"), format!(":{}\r\n", START_MS + 10_000));
        assert_eq!(node.run("EXPIRETIME a"), format!(":{}\r\n", START_MS / 1000 + 10));
        assert_eq!(node.run("PERSIST a"), ":1\r\n");
        assert_eq!(node.run("PERSIST a"), ":0\r\n");
        assert_eq!(node.run("PTTL a"), ":-1\r\n");
        assert_eq!(node.run("PEXPIRE a 20"), ":1\r\n");
        node.advance_ms(20);
        for command in ["TTL", "PTTL", "EXPIRETIME", "PEXPIRETIME"] {
            assert_eq!(node.run(&format!("{command} a")), ":-2\r\n");
        }
        assert_eq!(node.run("PERSIST a"), ":0\r\n");
        assert_eq!(node.run("EXPIRE a 10"), ":0\r\n");
    }

    #[test]
    fn absolute_times_are_wall_clock() {
        let mut node = Node::new();
        node.turn.wall_offset_ms = -3_000;
        node.run("SET a 1");
        let in_five_s = START_MS - 3_000 + 5_000;
        assert_eq!(node.run(&format!("PEXPIREAT a {in_five_s}")), ":1\r\n");
        assert_eq!(node.run("PTTL a"), ":5000\r\n");
        assert_eq!(node.run("PEXPIRETIME a"), format!(":{in_five_s}\r\n"));
        assert_eq!(node.run(&format!("EXPIREAT a {}", in_five_s / 1000)), ":1\r\n");
        assert_eq!(node.run("TTL a"), ":5\r\n");
    }

    #[test]
    fn a_time_that_has_passed_deletes() {
        for command in ["EXPIRE a -1", "EXPIRE a 0", "PEXPIREAT a -1", "EXPIREAT a 1000"] {
            let mut node = Node::new();
            node.run("SET a 1");
            assert_eq!(node.run(command), ":1\r\n");
            assert_eq!(node.run("EXISTS a"), ":0\r\n");
            assert_eq!(node.run(command), ":0\r\n");
        }
    }

    #[test]
    fn conditions_compare_with_the_ttl_now() {
        let mut node = Node::new();
        let mut expect = |line: &str, answer: i64| assert_eq!(node.run(line), format!(":{answer}\r\n"), "{line}");
        expect("APPEND a 1", 1);
        expect("EXPIRE a 10 XX", 0);
        expect("EXPIRE a 10 GT", 0);
        expect("EXPIRE a 100 LT", 1);
        expect("EXPIRE a 100 nx", 0);
        expect("EXPIRE a 100 GT", 0);
        expect("EXPIRE a 100 LT", 0);
        expect("EXPIRE a 101 GT", 1);
        expect("EXPIRE a 50 LT", 1);
        expect("EXPIRE a 60 XX", 1);
        expect("EXPIRE a 70 XX GT", 1);
        expect("EXPIRE a 60 XX GT", 0);
        expect("PERSIST a", 1);
        expect("EXPIRE a 60 NX", 1);
    }

    #[test]
    fn bad_times_and_conditions_are_named() {
        let mut node = Node::new();
        node.run("SET a 1");
        let mut expect = |line: &str, text: &str| assert_eq!(node.run(line), format!("-ERR {text}\r\n"), "{line}");
        expect("EXPIRE a", "wrong number of arguments for 'expire' command");
        expect("TTL", "wrong number of arguments for 'ttl' command");
        expect("EXPIRE a x", "value is not an integer or out of range");
        expect("EXPIRE a x FOO", "Unsupported option FOO");
        expect("EXPIRE a 1 NX XX", "NX and XX, GT or LT options at the same time are not compatible");
        expect("EXPIRE a 1 GT LT", "GT and LT options at the same time are not compatible");
        expect("EXPIRE a 9223372036854775807", "invalid expire time in 'expire' command");
        expect("PEXPIRE nokey 9223372036854775807", "invalid expire time in 'pexpire' command");
        expect("EXPIREAT a -9223372036854775808", "invalid expire time in 'expireat' command");
    }
}
