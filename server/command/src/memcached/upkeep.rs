//! Verbs about the connection and the node.

use super::dispatch::{BAD_FORMAT, ERROR, answer};
use super::entry::expire_at_ms;
use super::table::Verb;
use super::{VERSION as MEMCACHED_VERSION, buffer};
use crate::context::{Context, Outcome};
use crate::host::{Count, StatsOf};
use crate::spec::{Flags, Keys};
use leasehold_protocol::memcached::{Request, parser, reply};

/// The verbs of this file.
pub(super) static VERBS: &[&Verb] = &[&FLUSH_ALL, &STATS, &VERSION, &VERBOSITY, &CACHE_MEMLIMIT, &SHUTDOWN, &QUIT];

static FLUSH_ALL: Verb = Verb {
    name: "flush_all",
    usage: "[delay] [noreply]",
    summary: "Deletes everything, as FLUSHALL; on request later",
    words_min: 1,
    keys: Keys::None,
    flags: Flags::DANGEROUS,
    noreply_from: Some(2),
    run: flush_all,
};

fn flush_all(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    context.host.count(Count::CmdFlush, 1);
    let delay = match request.word(1) {
        None => Some(0),
        Some(b"noreply") if request.len() == 2 => Some(0),
        Some(word) => parser::signed(word),
    };
    let Some(delay) = delay else { return answer(context, b"CLIENT_ERROR invalid exptime argument") };
    match expire_at_ms(delay, context.turn).filter(|&at_ms| at_ms > context.turn.now_ms) {
        Some(at_ms) => context.host.flush_at(Some(at_ms)),
        None => {
            context.host.flush_at(None);
            context.keyspace.flush(context.turn, None);
        }
    }
    answer(context, b"OK")
}

static STATS: Verb = Verb {
    name: "stats",
    usage: "[settings|items|slabs|sizes|conns|reset|detail <on|off|dump>|cachedump <class> <limit>]",
    summary: "Answers what the server counts",
    words_min: 1,
    keys: Keys::None,
    flags: Flags::NONE,
    noreply_from: None,
    run: stats,
};

fn stats(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let of = match request.word(1) {
        None => StatsOf::General,
        Some(b"settings") => StatsOf::Settings,
        Some(b"items") => StatsOf::Items,
        Some(b"slabs") => StatsOf::Slabs,
        Some(b"sizes") => StatsOf::Sizes,
        Some(b"conns") => StatsOf::Connections,
        Some(b"reset") => {
            context.host.reset_stats();
            return answer(context, b"RESET");
        }
        Some(b"detail") => return detail(context, request),
        Some(b"cachedump") => return cachedump(context, request),
        Some(_) => return answer(context, ERROR),
    };
    let host = context.host;
    let buffer = buffer(context);
    for (name, value) in host.memcached_stats(of) {
        reply::stat(buffer, &name, value);
    }
    buffer.extend_from_slice(b"END\r\n");
    Outcome::Replied
}

/// Counts for each prefix of keys, which memcached keeps after `on` only. None are kept here.
fn detail(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    match request.word(2) {
        Some(b"on") => answer(context, b"SERVER_ERROR there are no statistics of prefixes"),
        Some(b"off") => answer(context, b"OK"),
        Some(b"dump") => answer(context, b"END"),
        _ => answer(context, b"CLIENT_ERROR usage: stats detail on|off|dump"),
    }
}

/// The largest number of a class in memcached.
const CLASS_MAX: u64 = 63;

/// The keys of a class of sizes. The only one here, 1, has all, and is not listed, as that would hold the keyspace for long: SCAN lists keys. The
/// line is that of `memcached -X`, which tools know.
fn cachedump(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let (Some(class), Some(limit)) = (request.word(2), request.word(3)) else {
        return answer(context, b"CLIENT_ERROR bad command line");
    };
    match (parser::unsigned(class), parser::unsigned(limit)) {
        (Some(class), Some(_)) if class > CLASS_MAX => answer(context, b"CLIENT_ERROR Illegal slab id"),
        (Some(1), Some(_)) => answer(context, b"CLIENT_ERROR stats cachedump not allowed"),
        (Some(_), Some(_)) => answer(context, b"END"),
        _ => answer(context, BAD_FORMAT),
    }
}

static VERSION: Verb = Verb {
    name: "version",
    usage: "",
    summary: "Answers the version of memcached whose behaviour this is",
    words_min: 1,
    keys: Keys::None,
    flags: Flags::FAST,
    noreply_from: None,
    run: |context, _| answer(context, format!("VERSION {MEMCACHED_VERSION}").as_bytes()),
};

static VERBOSITY: Verb = Verb {
    name: "verbosity",
    usage: "<level> [noreply]",
    summary: "Is taken and changes nothing: CONFIG SET loglevel does",
    words_min: 2,
    keys: Keys::None,
    flags: Flags::FAST,
    noreply_from: Some(2),
    run: |context, request| match request.word(1).and_then(parser::unsigned) {
        Some(_) => answer(context, b"OK"),
        None => answer(context, BAD_FORMAT),
    },
};

static CACHE_MEMLIMIT: Verb = Verb {
    name: "cache_memlimit",
    usage: "<megabytes> [noreply]",
    summary: "Changes the memory limit, as CONFIG SET maxmemory",
    words_min: 1,
    keys: Keys::None,
    flags: Flags::ADMIN,
    noreply_from: Some(2),
    run: cache_memlimit,
};

/// memcached sets no lower limit than this.
const MEMLIMIT_MB_MIN: u64 = 8;

/// From here on a number is more likely one of bytes.
const MEMLIMIT_MB_MAX: u64 = 1_000_000_000;

fn cache_memlimit(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let Some(megabytes) = request.word(1).and_then(parser::unsigned) else { return answer(context, ERROR) };
    if megabytes < MEMLIMIT_MB_MIN {
        return answer(context, b"MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m");
    }
    if megabytes > MEMLIMIT_MB_MAX {
        return answer(context, b"MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes");
    }
    let bytes = (megabytes << 20).to_string();
    match context.host.config_set(&[(b"maxmemory", bytes.as_bytes())]) {
        Ok(()) => answer(context, b"OK"),
        Err(error) => {
            reply::error(buffer(context), "MEMLIMIT_ADJUST_FAILED", &error.to_string());
            Outcome::Replied
        }
    }
}

static SHUTDOWN: Verb = Verb {
    name: "shutdown",
    usage: "[graceful]",
    summary: "Ends the server, if memcached-shutdown allows it",
    words_min: 1,
    keys: Keys::None,
    flags: Flags::ADMIN,
    noreply_from: Some(2),
    run: shutdown,
};

fn shutdown(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    match (context.host.may_shut_down(), request.word(1)) {
        (false, _) => answer(context, b"SERVER_ERROR: shutdown not enabled"),
        (true, None | Some(b"graceful")) if request.len() <= 2 => {
            context.host.shut_down();
            Outcome::Close
        }
        (true, _) => answer(context, b"CLIENT_ERROR invalid shutdown mode"),
    }
}

static QUIT: Verb = Verb {
    name: "quit",
    usage: "",
    summary: "Closes the connection",
    words_min: 1,
    keys: Keys::None,
    flags: Flags::FAST,
    noreply_from: None,
    run: |_: &mut Context<'_>, _| Outcome::Close,
};

#[cfg(test)]
mod tests {
    use crate::context::Outcome;
    use crate::testing::{Node, START_MS};

    #[test]
    fn flush_all_deletes_at_once_or_asks_for_later() {
        let mut node = Node::new();
        for now in ["flush_all", "flush_all 0", "flush_all noreply", "flush_all 0 noreply", "flush_all -1"] {
            node.talk("set a 0 0 1\r\n1\r\n");
            node.talk(format!("{now}\r\n"));
            assert_eq!(node.talk("get a\r\n"), "END\r\n", "{now}");
        }
        node.talk("set a 0 0 1\r\n1\r\n");
        assert_eq!(node.talk("flush_all 10\r\n"), "OK\r\n");
        assert_eq!(node.host.flush_at_ms.get(), Some(START_MS + 10_000));
        assert_eq!(node.talk("get a\r\n"), "VALUE a 0 1\r\n1\r\nEND\r\n");
        assert_eq!(node.talk("flush_all x\r\n"), "CLIENT_ERROR invalid exptime argument\r\n");
        assert_eq!(node.talk("flush_all 1 2 3\r\n"), "OK\r\n");
        node.talk("flush_all\r\n");
        assert_eq!(node.host.flush_at_ms.get(), None, "the newest word counts");
    }

    #[test]
    fn cache_memlimit_is_config_set_maxmemory() {
        let mut node = Node::new();
        for (input, reply) in [
            ("cache_memlimit\r\n", "ERROR\r\n"),
            ("cache_memlimit x\r\n", "ERROR\r\n"),
            ("cache_memlimit 7\r\n", "MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n"),
            ("cache_memlimit 8\r\n", "OK\r\n"),
            ("cache_memlimit 1000000001\r\n", "MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes\r\n"),
        ] {
            assert_eq!(node.talk(input), reply);
        }
        assert_eq!(node.host.options.borrow().get("maxmemory").map(String::as_str), Some("8388608"));
        assert_eq!(node.talk("cache_memlimit 16 noreply\r\n"), "");
        assert_eq!(node.host.options.borrow().get("maxmemory").map(String::as_str), Some("16777216"));
    }

    #[test]
    fn shutdown_needs_leave() {
        let mut node = Node::new();
        assert_eq!(node.talk("shutdown\r\n"), "SERVER_ERROR: shutdown not enabled\r\n");
        assert!(!node.host.has_shut_down.get());
        node.host.may_shut_down = true;
        assert_eq!(node.talk("shutdown now\r\n"), "CLIENT_ERROR invalid shutdown mode\r\n");
        assert!(!node.host.has_shut_down.get());
        assert_eq!(node.talk("shutdown graceful\r\n"), "");
        assert!(node.host.has_shut_down.get() && matches!(node.outcome, Outcome::Close));
    }

    #[test]
    fn stats_are_lines_that_end() {
        let mut node = Node::new();
        assert_eq!(node.talk("stats\r\n"), "STAT asked General\r\nEND\r\n");
        assert_eq!(node.talk("stats conns\r\n"), "STAT asked Connections\r\nEND\r\n");
        assert_eq!(node.talk("stats nothing\r\n"), "ERROR\r\n");
        for (input, reply) in [
            ("stats detail", "CLIENT_ERROR usage: stats detail on|off|dump"),
            ("stats detail x", "CLIENT_ERROR usage: stats detail on|off|dump"),
            ("stats detail on", "SERVER_ERROR there are no statistics of prefixes"),
            ("stats detail off", "OK"),
            ("stats detail dump", "END"),
            ("stats cachedump 1", "CLIENT_ERROR bad command line"),
            ("stats cachedump x 1", "CLIENT_ERROR bad command line format"),
            ("stats cachedump 1 x", "CLIENT_ERROR bad command line format"),
            ("stats cachedump 64 1", "CLIENT_ERROR Illegal slab id"),
            ("stats cachedump 1 0", "CLIENT_ERROR stats cachedump not allowed"),
            ("stats cachedump 2 0", "END"),
        ] {
            assert_eq!(node.talk(format!("{input}\r\n")), format!("{reply}\r\n"));
        }
        assert_eq!(node.talk("stats reset\r\n"), "RESET\r\n");
        assert_eq!(node.host.stats_resets.get(), 1);
    }

    #[test]
    fn verbosity_takes_a_number_and_quit_closes() {
        let mut node = Node::new();
        let format = "CLIENT_ERROR bad command line format\r\n";
        assert_eq!(node.talk("verbosity 1\r\nverbosity 1 noreply\r\nverbosity noreply\r\n"), "OK\r\n");
        assert_eq!(node.talk("verbosity\r\nverbosity x\r\n"), format.repeat(2));
        assert_eq!(node.talk("quit\r\nversion\r\n"), "");
        assert!(matches!(node.outcome, Outcome::Close));
    }
}
