//! What an operator tells a loader to do: LOADER PAUSE, RESUME and WARM; and all of them: LOADER RELOAD.

use super::through::{next_ticket, waiter};
use crate::argument::{self, is_word};
use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::host::{LoaderOrder, WarmKeys};
use crate::parked::{Awaited, Kind, Parked, Patience};
use crate::spec::{Argument, Flags, Group, Keys, Spec};
use bytes::Bytes;
use leasehold_protocol::Request;

/// Most keys a second.
pub const WARM_RATE_MAX: u32 = 1_000_000;

pub(super) const PAUSE: Spec = Spec {
    name: "pause",
    summary: "Starts no load of a loader until LOADER RESUME: readers get the stale value or an error",
    group: Group::Loader,
    since: "leasehold 0.1.0",
    complexity: "O(N) for N loaders",
    arity: 3,
    flags: Flags::ADMIN.with(Flags::NOSCRIPT),
    keys: Keys::None,
    arguments: &[Argument::string("name")],
    subcommands: &[],
    run: |context, request| order(context, request, LoaderOrder::Pause),
};

pub(super) const RESUME: Spec = Spec {
    name: "resume",
    summary: "Lets a paused loader load again",
    group: Group::Loader,
    since: "leasehold 0.1.0",
    complexity: "O(N) for N loaders",
    arity: 3,
    flags: Flags::ADMIN.with(Flags::NOSCRIPT),
    keys: Keys::None,
    arguments: &[Argument::string("name")],
    subcommands: &[],
    run: |context, request| order(context, request, LoaderOrder::Resume),
};

pub(super) const WARM: Spec = Spec {
    name: "warm",
    summary: "Loads keys of a loader that nobody has asked for yet, so many a second, behind those that somebody wants",
    group: Group::Loader,
    since: "leasehold 0.1.0",
    complexity: "O(N) for N keys, loaded after the reply",
    arity: -4,
    flags: Flags::ADMIN.with(Flags::NOSCRIPT),
    // They stand behind RATE or not, so they are no keys to COMMAND GETKEYS; it is for administrators anyway.
    keys: Keys::None,
    arguments: &[
        Argument::string("name"),
        Argument::integer("keys-per-second").with_token("RATE").optional(),
        Argument::one_of(
            "what",
            &[
                Argument::string("key").with_token("KEYS").multiple(),
                Argument::string("query").with_token("SQL"),
                Argument::word("stop", "STOP"),
            ],
        ),
    ],
    subcommands: &[],
    run: |context, request| match parse_warm(request) {
        Ok(wanted) => order(context, request, wanted),
        Err(error) => context.conclude(Err(error)),
    },
};

/// How long a client waits for the end of a reload, in ms: databases are asked whether statements fit.
const RELOAD_MS_MAX: u64 = 10 * 60 * 1000;

pub(super) const RELOAD: Spec = Spec {
    name: "reload",
    summary: "Reads the configuration file again and changes sources, loaders and feeds by it, all or nothing",
    group: Group::Loader,
    since: "leasehold 0.1.0",
    complexity: "O(N) for N loaders, and a question to the database for each that is not as it was",
    arity: 2,
    flags: Flags::ADMIN.with(Flags::BLOCKING).with(Flags::NOSCRIPT),
    keys: Keys::None,
    arguments: &[],
    subcommands: &[],
    run: reload,
};

fn reload(context: &mut Context<'_>, _: Request<'_>) -> Outcome {
    next_ticket(context);
    let waiter = waiter(context, 0);
    if let Err(text) = context.host.reload(waiter) {
        return context.conclude(Err(ReplyError::Text(text)));
    }
    let deadline_ms = context.turn.now_ms.saturating_add(RELOAD_MS_MAX);
    let (db, patience) = (context.client.db, Patience::Reload { deadline_ms });
    let awaited = Awaited { db, key: Bytes::new(), waiter, patience, answer: None };
    Parked::park_or_reply_one(context, Kind::One, awaited)
}

fn parse_warm(request: Request<'_>) -> Result<LoaderOrder, ReplyError> {
    let mut index = 3;
    let mut rate = None;
    if is_word(request.arg(index), "RATE") {
        let wish = request.get(index + 1).and_then(argument::unsigned).and_then(|wish| u32::try_from(wish).ok());
        let wish = wish.filter(|wish| (1..=WARM_RATE_MAX).contains(wish));
        let text = || format!("RATE is a number of keys a second, from 1 to {WARM_RATE_MAX}");
        rate = Some(wish.ok_or_else(|| ReplyError::err(text()))?);
        index += 2;
    }
    let word = request.get(index).ok_or(ReplyError::Syntax)?;
    let rest = request.len() - index - 1;
    if is_word(word, "KEYS") && rest > 0 {
        let keys = request.args_from(index + 1).map(Bytes::copy_from_slice).collect();
        return Ok(LoaderOrder::Warm { keys: WarmKeys::Named(keys), rate });
    }
    if is_word(word, "SQL") && rest == 1 {
        let query = String::from_utf8(request.arg(index + 1).to_vec());
        let query = query.map_err(|_| ReplyError::err("the query is not UTF-8"))?;
        return Ok(LoaderOrder::Warm { keys: WarmKeys::Selected(query), rate });
    }
    if is_word(word, "STOP") && rest == 0 && rate.is_none() {
        return Ok(LoaderOrder::StopWarm);
    }
    Err(ReplyError::Syntax)
}

/// Passes an order on to the loader that the request names.
fn order(context: &mut Context<'_>, request: Request<'_>, order: LoaderOrder) -> Outcome {
    let told = context.host.order_loader(request.arg(2), order).map_err(ReplyError::Text);
    if told.is_ok() {
        context.reply.ok();
    }
    context.conclude(told)
}

#[cfg(test)]
mod tests {
    use crate::host::{LoaderOrder, WarmKeys};
    use crate::testing::Node;
    use bytes::Bytes;

    fn order(line: &[&str]) -> Result<LoaderOrder, String> {
        let mut node = Node::new();
        let args: Vec<&[u8]> = line.iter().map(|word| word.as_bytes()).collect();
        let reply = String::from_utf8_lossy(&node.run_args(&args)).into_owned();
        match node.host.orders.take().pop() {
            Some((name, order)) => {
                assert_eq!((name.as_slice(), reply.as_str()), (&b"user"[..], "+OK\r\n"));
                Ok(order)
            }
            None => Err(reply),
        }
    }

    #[test]
    fn orders_reach_the_loader_as_they_are_meant() {
        let keys = |keys: &[&'static str]| {
            WarmKeys::Named(keys.iter().map(|key| Bytes::from_static(key.as_bytes())).collect())
        };
        for (line, wanted) in [
            (&["LOADER", "PAUSE", "user"][..], LoaderOrder::Pause),
            (&["LOADER", "resume", "user"], LoaderOrder::Resume),
            (&["LOADER", "WARM", "user", "STOP"], LoaderOrder::StopWarm),
            (
                &["LOADER", "WARM", "user", "KEYS", "user:1", "RATE"],
                LoaderOrder::Warm { keys: keys(&["user:1", "RATE"]), rate: None },
            ),
            (
                &["LOADER", "WARM", "user", "RATE", "50", "SQL", "SELECT id FROM users"],
                LoaderOrder::Warm { keys: WarmKeys::Selected("SELECT id FROM users".to_owned()), rate: Some(50) },
            ),
        ] {
            assert_eq!(order(line).as_ref(), Ok(&wanted), "{line:?}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let syntax = "-ERR syntax error\r\n";
        let rate = "-ERR RATE is a number of keys a second, from 1 to 1000000\r\n";
        for (line, reply) in [
            (&["WARM", "user", "KEYS"][..], syntax),
            (&["WARM", "user", "user:1"], syntax),
            (&["WARM", "user", "SQL", "SELECT 1", "2"], syntax),
            (&["WARM", "user", "STOP", "NOW"], syntax),
            (&["WARM", "user", "RATE", "5", "STOP"], syntax),
            (&["WARM", "user", "RATE", "5"], syntax),
            (&["WARM", "user", "RATE", "0", "KEYS", "user:1"], rate),
            (&["WARM", "user", "RATE", "1000001", "KEYS", "user:1"], rate),
            (&["WARM", "user", "RATE"], rate),
        ] {
            let line: Vec<&str> = std::iter::once("LOADER").chain(line.iter().copied()).collect();
            assert_eq!(order(&line), Err(reply.to_owned()), "{line:?}");
        }
    }
}
