//! `ACL`: who the connection is. There is one user, `default`.

use crate::context::Outcome;
use crate::help;
use crate::spec::{Flags, Group, Keys, Spec};

pub(super) static ACL: Spec = Spec {
    name: "acl",
    summary: "Tells about users",
    group: Group::Server,
    since: "6.0.0",
    subcommands: &[
        Spec {
            name: "whoami",
            summary: "Names the user of the connection",
            group: Group::Server,
            since: "6.0.0",
            complexity: "O(1)",
            arity: 2,
            flags: Flags::NOSCRIPT.with(Flags::LOADING).with(Flags::STALE),
            keys: Keys::None,
            arguments: &[],
            subcommands: &[],
            run: |context, _| {
                context.reply.bulk(b"default");
                Outcome::Replied
            },
        },
        help::subcommand(Group::Server, "6.0.0"),
    ],
    ..help::CONTAINER
};
