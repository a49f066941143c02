//! Key specifications of `COMMAND INFO`: where a command's keys stand, and what is done with them.

use crate::spec::{Flags, Keys, Spec};
use leasehold_protocol::Reply;

/// What is done with the keys. A command that both reads some and writes others says the stronger of both for all.
fn words(spec: &Spec) -> &'static [&'static str] {
    match spec.name {
        "del" | "unlink" => &["RM", "delete"],
        _ if spec.flags.has(Flags::WRITE) => &["RW", "access", "update"],
        _ => &["RO", "access"],
    }
}

pub(super) fn write_flags(reply: &mut Reply, spec: &Spec) {
    let words = words(spec);
    reply.set(words.len());
    words.iter().for_each(|word| reply.simple(word));
}

/// None or one specification.
pub(super) fn write_specs(reply: &mut Reply, spec: &Spec) {
    match spec.keys {
        Keys::None => reply.set(0),
        Keys::Range { first, last, step } => {
            // Counted from the first key, unless from the end.
            let last = if last < 0 { last } else { last - first };
            let fields = [("lastkey", last), ("keystep", step), ("limit", 0)];
            write_spec(reply, spec, first, "range", fields);
        }
        Keys::Counted { numkeys, step } => {
            let fields = [("keynumidx", 0), ("firstkey", 1), ("keystep", step as i32)];
            write_spec(reply, spec, numkeys as i32, "keynum", fields);
        }
    }
}

fn write_spec(reply: &mut Reply, spec: &Spec, begin: i32, kind: &str, fields: [(&str, i32); 3]) {
    reply.set(1);
    reply.map(3);
    reply.bulk(b"flags");
    write_flags(reply, spec);
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
