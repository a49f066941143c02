//! Key specifications of `COMMAND INFO`: where a command's keys stand, and what is done with them.
//!
//! The words are Redis's. The first says what happens to the value (`RO` read, `RW` changed, `OW` overwritten, `RM`
//! removed), the others what that means for data: `access` (told or copied), `update`, `insert`, `delete`.

use crate::spec::{Flags, Keys, Spec};
use leasehold_protocol::Reply;

/// Keys of a command with which the same is done.
#[derive(Clone, Copy)]
pub(super) struct KeyRole {
    pub(super) keys: Keys,
    words: &'static [&'static str],
}

impl KeyRole {
    pub(super) fn write_words(&self, reply: &mut Reply) {
        reply.set(self.words.len());
        self.words.iter().for_each(|word| reply.simple(word));
    }
}

/// The roles of a command's keys, in their order among the arguments.
pub(super) fn roles(spec: &Spec) -> Vec<KeyRole> {
    const READ: &[&str] = &["RO", "access"];
    const OVERWRITE: &[&str] = &["OW", "update"];
    const MOVE_AWAY: &[&str] = &["RW", "access", "delete"];
    let at = |first, last, words| KeyRole { keys: Keys::Range { first, last, step: 1 }, words };
    let one = |words| vec![KeyRole { keys: spec.keys, words }];
    match spec.name {
        _ if matches!(spec.keys, Keys::None) => Vec::new(),
        "rename" => vec![at(1, 1, MOVE_AWAY), at(2, 2, OVERWRITE)],
        "renamenx" => vec![at(1, 1, MOVE_AWAY), at(2, 2, &["OW", "insert"])],
        "copy" => vec![at(1, 1, READ), at(2, 2, OVERWRITE)],
        "bitop" => vec![at(2, 2, OVERWRITE), at(3, -1, READ)],
        "del" | "unlink" => one(&["RM", "delete"]),
        // The keys end where options begin, which no specification can say.
        "inval" => one(&["RW", "access", "update", "incomplete"]),
        "getdel" => one(MOVE_AWAY),
        "mset" | "setex" | "psetex" => one(OVERWRITE),
        "msetnx" | "setnx" => one(&["OW", "insert"]),
        "append" => one(&["RW", "insert"]),
        "set" | "bitfield" => one(&["RW", "access", "update", "variable_flags"]),
        "setrange" | "expire" | "pexpire" | "expireat" | "pexpireat" | "persist" => one(&["RW", "update"]),
        "strlen" | "exists" | "touch" | "type" | "encoding" | "freq" | "idletime" | "refcount" | "usage" => {
            one(&["RO"])
        }
        _ if spec.flags.has(Flags::WRITE) => one(&["RW", "access", "update"]),
        _ => one(READ),
    }
}

pub(super) fn write_specs(reply: &mut Reply, spec: &Spec) {
    let roles = roles(spec);
    reply.set(roles.len());
    for role in &roles {
        match role.keys {
            Keys::None => {}
            Keys::Range { first, last, step } => {
                // Counted from the first key, unless from the end.
                let last = if last < 0 { last } else { last - first };
                write_spec(reply, role, first, "range", [("lastkey", last), ("keystep", step), ("limit", 0)]);
            }
            Keys::Counted { numkeys, step } => {
                let fields = [("keynumidx", 0), ("firstkey", 1), ("keystep", step as i32)];
                write_spec(reply, role, numkeys as i32, "keynum", fields);
            }
            Keys::BeforeOptions(_) => {
                write_spec(reply, role, 1, "range", [("lastkey", 0), ("keystep", 1), ("limit", 0)]);
            }
        }
    }
}

fn write_spec(reply: &mut Reply, role: &KeyRole, begin: i32, kind: &str, fields: [(&str, i32); 3]) {
    reply.map(3);
    reply.bulk(b"flags");
    role.write_words(reply);
    reply.bulk(b"begin_search");
    write_part(reply, "index", &[("index", begin)]);
    reply.bulk(b"find_keys");
    write_part(reply, kind, &fields);
}

fn write_part(reply: &mut Reply, kind: &str, fields: &[(&str, i32)]) {
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(kind.as_bytes());
    reply.bulk(b"spec");
    reply.map(fields.len());
    for (name, value) in fields {
        reply.bulk(name.as_bytes());
        reply.integer(i64::from(*value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{TABLE, key_positions};

    #[test]
    fn roles_cover_the_keys_of_every_command_once() {
        for spec in TABLE.iter().flat_map(|spec| std::iter::once(*spec).chain(spec.subcommands)) {
            let len = spec.arity.unsigned_abs() as usize + 4;
            let all: Vec<usize> = key_positions(spec.keys, len, |_| b"2").collect();
            let by_role: Vec<usize> =
                roles(spec).iter().flat_map(|role| key_positions(role.keys, len, |_| b"2")).collect();
            assert_eq!(by_role, all, "{}", spec.name);
        }
    }
}
