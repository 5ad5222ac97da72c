//! Floor 3: the Rust client of Catena, blocking. Neither the server nor its runtime is in its
//! dependency tree.
//!
//! A [`Client`] talks to a server; a [`Producer`] sends records in batches, several of them in
//! flight, and sends them again under the same sequences when a connection or the server fails, so
//! that each is stored once and in order; [`Client::fetch`] reads batches back.
#![forbid(unsafe_code)]

mod batch;
mod client;
mod compression;
mod connection;
mod error;
mod partitioner;
mod producer;

pub use batch::{Batch, Fetched};
pub use catena_wire::{
    Class, DescribeTopicResponse, Durability, ErrorCode, OffsetQuery, PartitionDetail, Setting,
    TopicMetadata,
};
pub use client::{Client, FetchOptions, Options};
pub use compression::{Compression, CompressionError, CompressionUnknown, DECOMPRESSED_BYTES_MAX};
pub use connection::Connection;
pub use error::Error;
pub use partitioner::{murmur2, partition_for_key};
pub use producer::{Producer, ProducerOptions, Receipt};
