//! Floor 2: who must have a batch before it is acknowledged.
//!
//! A [`Replica`] owns the log of one partition in a role of its chain; today there is one role,
//! *solo*: head and tail at once. It validates and deduplicates batches, gives them offsets, and
//! answers a producer when the level that was asked for is reached. [`control`] is the catalog that
//! says which partitions there are. Nothing here does I/O or reads a clock.
#![forbid(unsafe_code)]

pub mod chain;
pub mod control;
pub mod dedup;
mod replica;
pub mod validate;

pub use replica::{
    Durability, Event, Phase, ProduceError, ProduceRequest, Receipt, Refusal, Replica,
    ReplicaConfig, Reply, Ticket,
};
