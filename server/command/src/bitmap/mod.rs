//! Bitmap commands: values as strings of bits. Bit 0 is the top bit of byte 0, as in Redis.

mod bit;
mod count;
mod field;
mod operation;

use crate::spec::Spec;

/// The commands of this group.
pub static SPECS: &[&Spec] = &[
    &count::BITCOUNT,
    &field::BITFIELD,
    &field::BITFIELD_RO,
    &operation::BITOP,
    &count::BITPOS,
    &bit::GETBIT,
    &bit::SETBIT,
];
