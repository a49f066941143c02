//! What to keep when memory is full: the decisions, without the storage.
//!
//! The default policy is a size-aware W-TinyLFU (Einziger, Friedman and Manes 2017; Einziger and others 2021 for sizes). New
//! entries pass through a window in order of arrival. An entry that leaves the window must win a duel against what would
//! leave the main part, by its frequency per byte. Frequencies of entries stand in their control byte; those of keys that are
//! gone in a [`sketch::Sketch`], which only evictions write to.
//!
//! Nothing here holds an entry, reads a clock or draws a random number.

pub mod ageing;
pub mod duel;
pub mod miniature;
pub mod recency;
pub mod sketch;
pub mod window;
