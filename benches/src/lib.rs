//! Benchmarks against rivals: the load generator, the floor it is measured against, and the records it leaves.
//!
//! The figure that counts is **server CPU time per operation**: it survives a noisy machine, where operations per second
//! do not. `README.md` says how a run goes and how to read its table. Workloads and rivals are data, in `workloads/`.

pub mod generator;
pub mod histogram;
pub mod keys;
pub mod keyspace;
pub mod miss_ratio;
pub mod postgres;
pub mod preload;
pub mod record;
pub mod rival;
pub mod served;
pub mod system;
pub mod wire;
pub mod workload;

/// Operations of one repetition of a case of the bench `micro`; `instructions` divides by them.
pub const OPERATIONS_PER_REPETITION: usize = 32_000;
