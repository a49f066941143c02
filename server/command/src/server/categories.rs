//! ACL categories of commands, from their group and flags.

use crate::spec::{Flags, Group, Spec};

/// All categories that a command of ours may have, in the order in which `COMMAND INFO` lists them.
const CATEGORIES: [(&str, Holds); 13] = [
    ("keyspace", |spec| spec.group == Group::Generic || (spec.group == Group::Server && is_about_data(spec))),
    ("read", |spec| spec.flags.has(Flags::READONLY)),
    ("write", |spec| spec.flags.has(Flags::WRITE)),
    ("string", |spec| spec.group == Group::String),
    ("bitmap", |spec| spec.group == Group::Bitmap),
    ("admin", |spec| spec.flags.has(Flags::ADMIN)),
    ("fast", |spec| spec.flags.has(Flags::FAST)),
    ("slow", |spec| !spec.flags.has(Flags::FAST)),
    ("blocking", |spec| spec.flags.has(Flags::BLOCKING)),
    ("dangerous", |spec| spec.flags.has(Flags::ADMIN) || spec.flags.has(Flags::DANGEROUS)),
    ("connection", |spec| spec.group == Group::Connection || is_about_redirects(spec)),
    ("lease", |spec| spec.group == Group::Lease),
    ("loader", |spec| spec.group == Group::Loader),
];

/// Whether a command belongs to a category.
type Holds = fn(&Spec) -> bool;

/// The categories of a command, without their `@`. A container has but one: its subcommands have the others.
pub(super) fn of(spec: &'static Spec) -> impl Iterator<Item = &'static str> {
    let is_container = !spec.subcommands.is_empty();
    let applies = move |name: &str| !is_container || name == "slow";
    CATEGORIES.iter().filter(move |(name, holds)| applies(name) && holds(spec)).map(|(name, _)| *name)
}

/// `READONLY` and its kind, which set what a connection is in Redis.
fn is_about_redirects(spec: &Spec) -> bool {
    spec.group == Group::Cluster && spec.flags.has(Flags::FAST)
}

fn is_about_data(spec: &Spec) -> bool {
    spec.flags.has(Flags::READONLY) || spec.flags.has(Flags::WRITE)
}
