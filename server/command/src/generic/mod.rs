//! Commands on keys of any type: deletion, names, lifetimes, iteration.

mod iteration;
mod lifetime;
mod memory;
mod name;
mod object;
mod presence;

use crate::spec::Spec;

/// The commands of this group.
pub static SPECS: &[&Spec] = &[
    &presence::DEL,
    &presence::UNLINK,
    &presence::EXISTS,
    &presence::TOUCH,
    &presence::TYPE,
    &name::RENAME,
    &name::RENAMENX,
    &name::COPY,
    &lifetime::EXPIRE,
    &lifetime::PEXPIRE,
    &lifetime::EXPIREAT,
    &lifetime::PEXPIREAT,
    &lifetime::TTL,
    &lifetime::PTTL,
    &lifetime::EXPIRETIME,
    &lifetime::PEXPIRETIME,
    &lifetime::PERSIST,
    &iteration::SCAN,
    &iteration::KEYS,
    &iteration::RANDOMKEY,
    &object::OBJECT,
    &memory::MEMORY,
];
