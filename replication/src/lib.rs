//! Floor 2: who must have a batch before it is acknowledged.
//!
//! A [`Replica`] owns the log of one partition in a role of its [`chain`]: as its head it validates
//! and deduplicates batches, gives them offsets, and answers a producer when the level that was
//! asked for is reached; behind the head it takes what its predecessor sends. [`control`] is the
//! catalog that says which partitions there are. Nothing here does I/O or reads a clock.
#![forbid(unsafe_code)]

pub mod chain;
pub mod control;
pub mod dedup;
mod replica;
pub mod validate;

pub use replica::{
    Durability, Event, Mend, Parcel, Phase, ProduceError, ProduceRequest, Receipt, Refusal,
    Replica, ReplicaConfig, Reply, Ticket, WINDOW_BYTES,
};
