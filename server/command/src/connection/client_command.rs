//! `CLIENT`: the connection's own names and modes, and those of the others.

use super::handshake::checked_name;
use super::{kill, list};
use crate::argument::is_word;
use crate::client::{ReplyMode, is_name};
use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::help;
use crate::spec::{Argument, Flags, Group, Handler, Keys, Spec};
use leasehold_protocol::Request;

pub(super) const ANY_TIME: Flags = Flags::NOSCRIPT.with(Flags::LOADING).with(Flags::STALE);
pub(super) const ON_OR_OFF: Argument =
    Argument::one_of("enabled", &[Argument::word("on", "ON"), Argument::word("off", "OFF")]);

pub(super) static CLIENT: Spec = Spec {
    name: "client",
    summary: "Tells about connections and changes them",
    group: Group::Connection,
    since: "2.4.0",
    subcommands: &[
        subcommand("id", "Tells the number of the connection, unique on the node", "5.0.0", 2, &[], |context, _| {
            context.reply.integer(context.client.id as i64);
            Outcome::Replied
        }),
        subcommand(
            "setname",
            "Names the connection",
            "2.6.9",
            3,
            &[Argument::string("connection-name")],
            |context, request| {
                let result = checked_name(request.arg(2)).map(|name| {
                    context.client.names_mut().name = name.to_vec();
                    context.reply.ok();
                });
                context.conclude(result)
            },
        ),
        subcommand("getname", "Tells the name of the connection", "2.6.9", 2, &[], |context, _| {
            if context.client.name().is_empty() {
                context.reply.null();
            } else {
                context.reply.bulk(context.client.name());
            }
            Outcome::Replied
        }),
        subcommand(
            "setinfo",
            "Notes the name or version of the client library",
            "7.2.0",
            4,
            &[Argument::one_of(
                "attr",
                &[Argument::string("libname").with_token("LIB-NAME"), Argument::string("libver").with_token("LIB-VER")],
            )],
            |context, request| {
                let result = set_info(context, request);
                context.conclude(result)
            },
        ),
        list::INFO,
        list::LIST,
        kill::KILL,
        subcommand(
            "reply",
            "Turns replies off, on again, or off for one command",
            "3.2.0",
            3,
            &[Argument::one_of(
                "action",
                &[Argument::word("on", "ON"), Argument::word("off", "OFF"), Argument::word("skip", "SKIP")],
            )],
            |context, request| {
                let result = reply(context, request);
                context.conclude(result)
            },
        ),
        Spec {
            flags: ANY_TIME.with(Flags::ADMIN),
            ..subcommand(
                "no-evict",
                "Exempts the connection from closing when connections take too much memory",
                "7.0.0",
                3,
                &[ON_OR_OFF],
                |context, request| {
                    let result = on_or_off(request.arg(2)).map(|on| {
                        context.client.no_evict = on;
                        context.reply.ok();
                    });
                    context.conclude(result)
                },
            )
        },
        subcommand(
            "no-touch",
            "Makes reads of the connection no use of the entries",
            "7.2.0",
            3,
            &[ON_OR_OFF],
            |context, request| {
                let result = on_or_off(request.arg(2)).map(|on| {
                    context.client.no_touch = on;
                    context.reply.ok();
                });
                context.conclude(result)
            },
        ),
        subcommand(
            "getredir",
            "Tells where invalidation messages of the connection go; always -1, since there are none",
            "6.0.0",
            2,
            &[],
            |context, _| {
                context.reply.integer(-1);
                Outcome::Replied
            },
        ),
        subcommand(
            "maint_notifications",
            "Takes note that the client would hear of maintenance; none is ever announced",
            "8.2.0",
            -3,
            &[ON_OR_OFF, Argument::string("option").optional().multiple()],
            |context, _| {
                context.reply.ok();
                Outcome::Replied
            },
        ),
        help::subcommand(Group::Connection, "5.0.0"),
    ],
    ..help::CONTAINER
};

pub(super) const fn subcommand(
    name: &'static str,
    summary: &'static str,
    since: &'static str,
    arity: i32,
    arguments: &'static [Argument],
    run: Handler,
) -> Spec {
    let (group, flags, keys) = (Group::Connection, ANY_TIME, Keys::None);
    Spec { name, summary, group, since, complexity: "O(1)", arity, flags, keys, arguments, subcommands: &[], run }
}

fn set_info(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let (word, value) = (request.arg(2), request.arg(3));
    let (field, name) = match word {
        _ if is_word(word, "LIB-NAME") => (&mut context.client.names_mut().lib_name, "lib-name"),
        _ if is_word(word, "LIB-VER") => (&mut context.client.names_mut().lib_version, "lib-ver"),
        _ => {
            let word = String::from_utf8_lossy(&word[..word.len().min(128)]);
            return Err(ReplyError::err(format_args!("Unrecognized option '{word}'")));
        }
    };
    if !is_name(value) {
        return Err(ReplyError::err(format_args!("{name} cannot contain spaces, newlines or special characters.")));
    }
    *field = value.to_vec();
    context.reply.ok();
    Ok(())
}

fn on_or_off(word: &[u8]) -> Result<bool, ReplyError> {
    match word {
        _ if is_word(word, "ON") => Ok(true),
        _ if is_word(word, "OFF") => Ok(false),
        _ => Err(ReplyError::Syntax),
    }
}

/// Sets the mode; the dispatcher acts on it.
fn reply(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    let word = request.arg(2);
    if is_word(word, "ON") {
        context.client.reply_mode = ReplyMode::On;
        context.reply.ok();
    } else if is_word(word, "OFF") {
        context.client.reply_mode = ReplyMode::Off;
    } else if is_word(word, "SKIP") {
        if context.client.reply_mode != ReplyMode::Off {
            context.client.reply_mode = ReplyMode::SkipNext;
        }
    } else {
        return Err(ReplyError::Syntax);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::Node;

    #[test]
    fn names_and_library_are_kept_if_they_fit_a_line() {
        let mut node = Node::new();
        assert_eq!(node.run("CLIENT ID"), ":7\r\n");
        assert_eq!(node.run("CLIENT GETNAME"), "$-1\r\n");
        assert_eq!(node.run("CLIENT SETNAME me"), "+OK\r\n");
        assert_eq!(node.run("CLIENT GETNAME"), "$2\r\nme\r\n");
        assert!(node.run_args(&[b"CLIENT", b"SETNAME", b"a b"]).starts_with(b"-ERR Client names cannot"));
        assert!(node.run_args(&[b"CLIENT", b"SETNAME", "\u{e9}".as_bytes()]).starts_with(b"-ERR Client names cannot"));
        assert_eq!(node.run_args(&[b"CLIENT", b"SETNAME", b""]), b"+OK\r\n");
        assert_eq!(node.run("CLIENT GETNAME"), "$-1\r\n");
        assert_eq!(node.run("CLIENT SETINFO lib-name redis-py"), "+OK\r\n");
        assert_eq!(node.run("CLIENT SETINFO LIB-VER 8.0.0"), "+OK\r\n");
        let names = node.client.names.take().expect("it said so");
        assert_eq!((&*names.lib_name, &*names.lib_version), (&b"redis-py"[..], &b"8.0.0"[..]));
        assert_eq!(node.run("CLIENT SETINFO foo bar"), "-ERR Unrecognized option 'foo'\r\n");
        assert_eq!(
            String::from_utf8_lossy(&node.run_args(&[b"CLIENT", b"SETINFO", b"lib-name", b"a b"])),
            "-ERR lib-name cannot contain spaces, newlines or special characters.\r\n"
        );
    }

    #[test]
    fn reply_modes_swallow_what_they_should() {
        let mut node = Node::new();
        assert_eq!(node.run("CLIENT REPLY OFF"), "");
        assert_eq!(node.run("PING"), "");
        assert_eq!(node.run("NOSUCH"), "");
        assert_eq!(node.run("CLIENT REPLY SKIP"), "");
        assert_eq!(node.run("PING"), "");
        assert_eq!(node.run("PING"), "");
        assert_eq!(node.run("CLIENT REPLY ON"), "+OK\r\n");
        assert_eq!(node.run("CLIENT REPLY SKIP"), "");
        assert_eq!(node.run("SET a 1"), "");
        assert_eq!(node.run("GET a"), "$1\r\n1\r\n");
        assert_eq!(node.run("CLIENT REPLY SKIP"), "");
        assert_eq!(node.run("CLIENT REPLY SKIP"), "");
        assert_eq!(node.run("CLIENT REPLY ON"), "+OK\r\n");
        assert_eq!(node.run("PING"), "+PONG\r\n");
        assert_eq!(node.run("CLIENT REPLY foo"), "-ERR syntax error\r\n");
    }

    #[test]
    fn modes_take_on_and_off_only() {
        let mut node = Node::new();
        for name in ["NO-EVICT", "NO-TOUCH"] {
            assert_eq!(node.run(&format!("CLIENT {name} on")), "+OK\r\n");
            assert_eq!(node.run(&format!("CLIENT {name} maybe")), "-ERR syntax error\r\n");
            assert_eq!(
                node.run(&format!("CLIENT {name}")),
                format!("-ERR wrong number of arguments for 'client|{}' command\r\n", name.to_lowercase())
            );
        }
        assert!(node.client.no_evict && node.client.no_touch);
        assert_eq!(node.run("CLIENT MAINT_NOTIFICATIONS ON moving-endpoint-type none"), "+OK\r\n");
        assert_eq!(node.run("CLIENT GETREDIR"), ":-1\r\n");
        assert_eq!(node.run("CLIENT foo"), "-ERR unknown subcommand 'foo'. Try CLIENT HELP.\r\n");
        assert_eq!(node.run("CLIENT"), "-ERR wrong number of arguments for 'client' command\r\n");
        let help = node.run("CLIENT HELP");
        assert!(help.contains("+SETNAME connection-name\r\n+    Names the connection.\r\n"), "{help}");
    }
}
