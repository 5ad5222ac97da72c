//! Floor 3: the Rust client of Catena, blocking. Neither the server nor its runtime is in its
//! dependency tree.
//!
//! A [`Client`] talks to a server; a [`Producer`] sends records in batches, several of them in
//! flight, and sends them again under the same sequences when a connection or the server fails, so
//! that each is stored once and in order; [`Client::fetch`] reads batches back.
#![forbid(unsafe_code)]

mod client;
mod connection;
mod error;
mod partitioner;
mod pipeline;
mod producer;

/// Ids, batches and records, as the disk and the wire have them.
pub use catena_format as format;
pub use catena_wire::{
    Class, DescribeTopicResponse, Durability, ErrorCode, OffsetQuery, PartitionDetail,
    ProduceRequest, ProduceResponse, Setting, TopicMetadata,
};
pub use client::{Client, FetchOptions, Fetched, Options};
pub use connection::Connection;
pub use error::Error;
pub use partitioner::{murmur2, partition_for_key};
pub use producer::{Producer, ProducerOptions, Receipt};
