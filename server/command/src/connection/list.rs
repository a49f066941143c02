//! `CLIENT INFO` and `CLIENT LIST`: connections as lines of fields.

use super::client_command::{ANY_TIME, subcommand};
use crate::argument::{integer, is_word};
use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::spec::{Argument, Flags, Spec};
use leasehold_protocol::Request;

pub(super) const INFO: Spec =
    subcommand("info", "Describes the connection in one line of fields", "6.2.0", 2, &[], |context, _| {
        let own = context.client.id;
        answer(context, |id| id == own);
        Outcome::Replied
    });

pub(super) const LIST: Spec = Spec {
    flags: ANY_TIME.with(Flags::ADMIN),
    complexity: "O(N) for N connections",
    ..subcommand(
        "list",
        "Describes connections, a line of fields for each",
        "2.4.0",
        -2,
        &[
            Argument::one_of("client-type", &KINDS).with_token("TYPE").optional(),
            Argument::integer("client-id").with_token("ID").multiple().optional(),
        ],
        |context, request| {
            let result = list(context, request);
            context.conclude(result)
        },
    )
};

pub(super) const KINDS: [Argument; 4] = [
    Argument::word("normal", "NORMAL"),
    Argument::word("master", "MASTER"),
    Argument::word("replica", "REPLICA"),
    Argument::word("pubsub", "PUBSUB"),
];

/// The kinds of connections that clients may name. All of ours are normal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Master,
    Replica,
    PubSub,
}

impl Kind {
    pub(super) fn parse(word: &[u8]) -> Result<Self, ReplyError> {
        match word {
            _ if is_word(word, "normal") => Ok(Self::Normal),
            _ if is_word(word, "master") => Ok(Self::Master),
            _ if is_word(word, "replica") || is_word(word, "slave") => Ok(Self::Replica),
            _ if is_word(word, "pubsub") => Ok(Self::PubSub),
            _ => {
                let word = String::from_utf8_lossy(&word[..word.len().min(128)]);
                Err(ReplyError::err(format_args!("Unknown client type '{word}'")))
            }
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Master => "master",
            Self::Replica => "replica",
            Self::PubSub => "pubsub",
        }
    }
}

fn list(context: &mut Context<'_>, request: Request<'_>) -> Result<(), ReplyError> {
    match (request.len(), request.get(2)) {
        (2, _) => answer(context, |_| true),
        (4, Some(word)) if is_word(word, "TYPE") => {
            let kind = Kind::parse(request.arg(3))?;
            answer(context, |_| kind == Kind::Normal);
        }
        (4.., Some(word)) if is_word(word, "ID") => {
            let ids: Option<Vec<u64>> =
                request.args_from(3).map(|id| integer(id).and_then(|id| u64::try_from(id).ok())).collect();
            let ids = ids.ok_or_else(|| ReplyError::err("Invalid client ID"))?;
            answer(context, |id| ids.contains(&id));
        }
        _ => return Err(ReplyError::Syntax),
    }
    Ok(())
}

fn answer(context: &mut Context<'_>, wanted: impl Fn(u64) -> bool) {
    let mut text = String::new();
    for row in context.host.clients() {
        if wanted(row.id) {
            text.push_str(&row.line);
            text.push('\n');
        }
    }
    context.reply.verbatim(b"txt", text.as_bytes());
}

#[cfg(test)]
mod tests {
    use crate::host::ClientRow;
    use crate::testing::Node;

    #[test]
    fn lines_are_chosen_by_id_and_type() {
        let mut node = Node::new();
        node.host.rows = [3, 7].into_iter().map(|id| ClientRow { id, line: format!("id={id} name=") }).collect();
        assert_eq!(node.run("CLIENT LIST"), "$22\r\nid=3 name=\nid=7 name=\n\r\n");
        assert_eq!(node.run("CLIENT INFO"), "$11\r\nid=7 name=\n\r\n");
        assert_eq!(node.run("CLIENT LIST ID 3 9"), "$11\r\nid=3 name=\n\r\n");
        assert_eq!(node.run("CLIENT LIST TYPE normal"), "$22\r\nid=3 name=\nid=7 name=\n\r\n");
        assert_eq!(node.run("CLIENT LIST TYPE SLAVE"), "$0\r\n\r\n");
        assert_eq!(node.run("CLIENT LIST TYPE foo"), "-ERR Unknown client type 'foo'\r\n");
        assert_eq!(node.run("CLIENT LIST ID x"), "-ERR Invalid client ID\r\n");
        assert_eq!(node.run("CLIENT LIST ID"), "-ERR syntax error\r\n");
        assert_eq!(node.run("CLIENT LIST foo"), "-ERR syntax error\r\n");
        node.run("HELLO 3");
        assert_eq!(node.run("CLIENT INFO"), "=15\r\ntxt:id=7 name=\n\r\n");
    }
}
