//! String commands.

mod extended;
mod get;
mod lcs;
pub(crate) mod lifetime;
mod multi;
pub(crate) mod number;
mod range;
pub(crate) mod set;

use crate::spec::Spec;

pub(crate) use range::Positions;

/// The commands of this group.
pub static SPECS: &[&Spec] = &[
    &range::APPEND,
    &number::DECR,
    &number::DECRBY,
    &get::GET,
    &get::GETDEL,
    &get::GETEX,
    &range::GETRANGE,
    &set::GETSET,
    &number::INCR,
    &number::INCRBY,
    &number::INCRBYFLOAT,
    &lcs::LCS,
    &get::MGET,
    &multi::MSET,
    &multi::MSETEX,
    &multi::MSETNX,
    &set::PSETEX,
    &set::SET,
    &set::SETEX,
    &set::SETNX,
    &range::SETRANGE,
    &range::STRLEN,
    &range::SUBSTR,
];
