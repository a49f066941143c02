//! What a connection begins and ends with: `HELLO`, `AUTH`, `SELECT`, `RESET`, `QUIT`.

use super::ALWAYS;
use crate::argument::{integer, integer_or_error, is_word};
use crate::client::{ReplyMode, is_name};
use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::spec::{Argument, Flags, Group, Keys, Spec};
use leasehold_keyspace::Db;
use leasehold_protocol::{Reply, Request, RespVersion};

/// The Redis version whose commands and replies we have; clients ask for it before they use a feature.
pub const REDIS_VERSION: &str = "7.4.0";

pub(super) static HELLO: Spec = Spec {
    name: "hello",
    summary: "Chooses the version of RESP, authenticates and names the connection in one step; tells who the server is",
    group: Group::Connection,
    since: "6.0.0",
    complexity: "O(1)",
    arity: -1,
    flags: ALWAYS,
    keys: Keys::None,
    arguments: &[Argument::block(
        "arguments",
        &[
            Argument::integer("protover"),
            Argument::block("auth", &[Argument::string("username"), Argument::string("password")])
                .with_token("AUTH")
                .optional(),
            Argument::string("clientname").with_token("SETNAME").optional(),
        ],
    )
    .optional()],
    subcommands: &[],
    run: |context, request| {
        let result = hello(context, request);
        context.conclude(result)
    },
};

pub(super) static AUTH: Spec = Spec {
    name: "auth",
    summary: "Authenticates the connection",
    group: Group::Connection,
    since: "1.0.0",
    complexity: "O(1)",
    arity: -2,
    flags: ALWAYS,
    keys: Keys::None,
    arguments: &[Argument::string("username").optional(), Argument::string("password")],
    subcommands: &[],
    run: |context, request| {
        let result = auth(context, request).map(|()| context.reply.ok());
        context.conclude(result)
    },
};

pub(super) static SELECT: Spec = Spec {
    name: "select",
    summary: "Chooses the database of the connection",
    group: Group::Connection,
    since: "1.0.0",
    complexity: "O(1)",
    arity: 2,
    flags: Flags::LOADING.with(Flags::STALE).with(Flags::FAST),
    keys: Keys::None,
    arguments: &[Argument::integer("index")],
    subcommands: &[],
    run: |context, request| {
        let result = select(context, request).map(|()| context.reply.ok());
        context.conclude(result)
    },
};

pub(super) static RESET: Spec = Spec {
    name: "reset",
    summary: "Makes the connection as if it had just been opened",
    group: Group::Connection,
    since: "6.2.0",
    complexity: "O(1)",
    arity: 1,
    flags: ALWAYS,
    keys: Keys::None,
    arguments: &[],
    subcommands: &[],
    run: |context, _| {
        reset(context);
        context.reply.simple("RESET");
        Outcome::Replied
    },
};

pub(super) static QUIT: Spec = Spec {
    name: "quit",
    summary: "Closes the connection once all replies are sent",
    group: Group::Connection,
    since: "1.0.0",
    complexity: "O(1)",
    arity: -1,
    flags: ALWAYS,
    keys: Keys::None,
    arguments: &[],
    subcommands: &[],
    run: |context, _| {
        context.reply.ok();
        Outcome::Close
    },
};

/// The user of every connection that names none; the only one.
pub(super) const DEFAULT_USER: &[u8] = b"default";

/// All options are read before the first of them acts: a client that is refused is left as it was.
fn hello(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let version = match request.get(1) {
        None => None,
        Some(argument) => Some(match integer(argument) {
            Some(2) => RespVersion::V2,
            Some(3) => RespVersion::V3,
            Some(_) => return Err(ReplyError::NoProto),
            None => return Err(ReplyError::err("Protocol version is not an integer or out of range")),
        }),
    };
    let (mut login, mut name) = (None, None);
    let mut index = 2;
    while index < request.len() {
        let (word, left) = (request.arg(index), request.len() - index - 1);
        if is_word(word, "AUTH") && left >= 2 {
            login = Some((request.arg(index + 1), request.arg(index + 2)));
            index += 3;
        } else if is_word(word, "SETNAME") && left >= 1 {
            name = Some(checked_name(request.arg(index + 1))?);
            index += 2;
        } else {
            let word = String::from_utf8_lossy(&word[..word.len().min(128)]);
            return Err(ReplyError::err(format_args!("Syntax error in HELLO option '{word}'")));
        }
    }
    if let Some((user, password)) = login {
        authenticate(context, user, password)?;
    }
    if !context.client.authenticated && context.host.password_required() {
        return Err(ReplyError::Text(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
             <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the \
             same time"
                .to_owned(),
        ));
    }
    if let Some(name) = name {
        context.client.names_mut().name = name.to_vec();
    }
    if let Some(version) = version {
        context.reply.set_version(version);
    }
    introduce(context);
    Ok(())
}

/// Clients decide by `server` and `version` what they may use, so these two are Redis's; `x_server` says what we are.
fn introduce(context: &mut Context<'_>) {
    let proto = match context.reply.version() {
        RespVersion::V2 => 2,
        RespVersion::V3 => 3,
    };
    let mode = if context.host.member().is_some() { "cluster" } else { "standalone" };
    let reply = &mut *context.reply;
    reply.map(9);
    text(reply, "server", "redis");
    text(reply, "version", REDIS_VERSION);
    for (name, value) in [("proto", proto), ("id", context.client.id as i64)] {
        reply.bulk(name.as_bytes());
        reply.integer(value);
    }
    text(reply, "mode", mode);
    text(reply, "role", "master");
    reply.bulk(b"modules");
    reply.array(0);
    text(reply, "x_server", "leasehold");
    text(reply, "x_version", env!("CARGO_PKG_VERSION"));
}

fn text(reply: &mut Reply, name: &str, value: &str) {
    reply.bulk(name.as_bytes());
    reply.bulk(value.as_bytes());
}

fn auth(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    match request.len() {
        2 if context.host.check_password(DEFAULT_USER, request.arg(1)).is_none() => Err(ReplyError::err(
            "AUTH <password> called without any password configured for the default user. Are you sure your \
             configuration is correct?",
        )),
        2 => authenticate(context, DEFAULT_USER, request.arg(1)),
        3 => authenticate(context, request.arg(1), request.arg(2)),
        _ => Err(ReplyError::Syntax),
    }
}

fn authenticate(context: &mut Context<'_>, user: &[u8], password: &[u8]) -> Result<(), ReplyError> {
    // Without a configured password, any will do for the default user, as in Redis.
    if !context.host.check_password(user, password).unwrap_or(user == DEFAULT_USER) {
        return Err(ReplyError::WrongPassword);
    }
    context.client.authenticated = true;
    Ok(())
}

fn select(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let index = integer_or_error(request.arg(1))?;
    if index != 0 && context.host.member().is_some() {
        return Err(ReplyError::SelectInCluster);
    }
    match u8::try_from(index) {
        Ok(index) if index < context.host.databases() => context.client.db = Db(index),
        _ => return Err(ReplyError::DbIndexOutOfRange),
    }
    Ok(())
}

fn reset(context: &mut Context<'_>) {
    let client = &mut *context.client;
    client.db = Db(0);
    client.authenticated = !context.host.password_required();
    if let Some(names) = &mut client.names {
        names.name.clear();
    }
    client.reply_mode = ReplyMode::On;
    client.no_evict = false;
    client.no_touch = false;
    client.routing.reset();
    context.reply.set_version(RespVersion::V2);
}

/// A name for `CLIENT SETNAME`, which `CLIENT LIST` can show on one line.
pub(super) fn checked_name(name: &[u8]) -> Result<&[u8], ReplyError> {
    if is_name(name) {
        Ok(name)
    } else {
        Err(ReplyError::err("Client names cannot contain spaces, newlines or special characters."))
    }
}

#[cfg(test)]
mod tests {
    use crate::context::Outcome;
    use crate::testing::Node;
    use leasehold_protocol::RespVersion;

    fn with_password() -> Node {
        let mut node = Node::new();
        node.host.password = Some(b"secret".to_vec());
        node
    }

    const NOAUTH: &str = "-NOAUTH Authentication required.\r\n";

    #[test]
    fn hello_chooses_the_version_and_says_redis() {
        let mut node = Node::new();
        let reply = node.run("HELLO");
        assert!(reply.starts_with("*18\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.4.0\r\n"), "{reply}");
        assert!(reply.contains("$5\r\nproto\r\n:2\r\n$2\r\nid\r\n:7\r\n"), "{reply}");
        let reply = node.run("HELLO 3 SETNAME me");
        assert!(reply.starts_with("%9\r\n"), "{reply}");
        assert!(reply.contains("$5\r\nproto\r\n:3\r\n"), "{reply}");
        assert!(reply.contains("$8\r\nx_server\r\n$9\r\nleasehold\r\n"), "{reply}");
        assert_eq!(node.version, RespVersion::V3);
        assert_eq!(node.run("CLIENT GETNAME"), "$2\r\nme\r\n");
        assert_eq!(node.run("GET nokey"), "_\r\n");
        assert!(node.run("HELLO 2").starts_with("*18\r\n"));
    }

    #[test]
    fn hello_refuses_and_leaves_the_connection_as_it_was() {
        let mut node = Node::new();
        for (line, text) in [
            ("HELLO 4", "-NOPROTO unsupported protocol version\r\n"),
            ("HELLO 1", "-NOPROTO unsupported protocol version\r\n"),
            ("HELLO x", "-ERR Protocol version is not an integer or out of range\r\n"),
            ("HELLO 3 AUTH a", "-ERR Syntax error in HELLO option 'AUTH'\r\n"),
            ("HELLO 3 foo", "-ERR Syntax error in HELLO option 'foo'\r\n"),
            ("HELLO 3 AUTH nouser x", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
        ] {
            assert_eq!(node.run(line), text, "{line}");
            assert_eq!(node.version, RespVersion::V2, "{line}");
        }
        assert!(node.run_args(&[b"HELLO", b"3", b"SETNAME", b"a b"]).starts_with(b"-ERR Client names cannot"));
        assert!(node.run("HELLO 3 AUTH default anything").starts_with("%9\r\n"), "no password is configured");
    }

    #[test]
    fn nothing_but_the_handshake_runs_before_authentication() {
        let mut node = with_password();
        assert_eq!(node.run("GET a"), NOAUTH);
        assert_eq!(node.run("PING"), NOAUTH);
        assert!(node.run("HELLO 3").starts_with("-NOAUTH HELLO must be called"));
        // What does not exist is told first, as Redis does.
        assert!(node.run("NOSUCH").starts_with("-ERR unknown command 'NOSUCH'"));
        assert_eq!(node.run("GET"), "-ERR wrong number of arguments for 'get' command\r\n");
        assert_eq!(node.run("AUTH wrong"), "-WRONGPASS invalid username-password pair or user is disabled.\r\n");
        assert_eq!(node.run("GET a"), NOAUTH);
        assert_eq!(node.run("AUTH secret"), "+OK\r\n");
        assert_eq!(node.run("PING"), "+PONG\r\n");
        assert_eq!(node.run("RESET"), "+RESET\r\n");
        assert_eq!(node.run("PING"), NOAUTH);
        assert!(node.run("HELLO 3 AUTH default secret").starts_with("%9\r\n"));
        assert_eq!(node.run("PING"), "+PONG\r\n");
        assert_eq!(node.run("AUTH a b c"), "-ERR syntax error\r\n");
    }

    #[test]
    fn a_password_set_later_does_not_lock_out_who_is_in() {
        let mut node = Node::new();
        assert!(node.run("AUTH x").starts_with("-ERR AUTH <password> called without any password configured"));
        node.run("PING");
        node.host.password = Some(b"secret".to_vec());
        assert_eq!(node.run("PING"), "+PONG\r\n");
    }

    #[test]
    fn reset_forgets_all_that_was_chosen() {
        let mut node = Node::new();
        node.run("HELLO 3 SETNAME me");
        node.run("SELECT 3");
        node.run("CLIENT NO-TOUCH ON");
        assert_eq!(node.run("RESET"), "+RESET\r\n");
        assert_eq!(node.version, RespVersion::V2);
        assert_eq!(node.client.db.0, 0);
        assert!(!node.client.no_touch);
        assert_eq!(node.run("CLIENT GETNAME"), "$-1\r\n");
    }

    #[test]
    fn databases_are_apart_and_counted() {
        let mut node = Node::new();
        node.run("SET a zero");
        assert_eq!(node.run("SELECT 15"), "+OK\r\n");
        assert_eq!(node.run("GET a"), "$-1\r\n");
        for line in ["SELECT 16", "SELECT -1", "SELECT 256"] {
            assert_eq!(node.run(line), "-ERR DB index is out of range\r\n");
        }
        assert_eq!(node.run("SELECT x"), "-ERR value is not an integer or out of range\r\n");
        assert_eq!(node.client.db.0, 15);
    }

    #[test]
    fn quit_answers_and_closes() {
        let mut node = with_password();
        assert_eq!(node.run("QUIT"), "+OK\r\n");
        assert!(matches!(node.outcome, Outcome::Close));
    }
}
