//! Floor 3: the Rust client of Catena. Neither the server nor its runtime is in its tree of
//! dependencies.
//!
//! One core decides and does nothing: connections, batches, retries, reading ahead. Two front ends
//! do it: [`blocking`] for threads, and `tokio` (behind the cargo feature of that name) for tasks.
//! They have the same things:
//!
//! - a `Client` asks: topics, offsets, single fetches;
//! - a `Producer` appends records and gives a [`Ticket`] for each, which becomes a [`Receipt`]. It
//!   sends them in batches, several in flight, and again under the same sequences when a connection
//!   or the server fails, or another node of a cluster becomes the head, so that each is stored
//!   once and in order;
//! - a `Consumer` reads [`Batch`]es ahead, whose records are borrowed from them.
//!
//! [`Error::class`] tells what is known after a failure: *definite*, not done; *retriable*, not
//! done and worth another try; *indeterminate*, done or not.
//!
//! ```no_run
//! use catena_client::{Client, ConsumerOptions, NewRecord, ProducerOptions};
//!
//! # fn main() -> Result<(), catena_client::Error> {
//! let mut client = Client::connect("catena://127.0.0.1:9200?client_id=greeter")?;
//! let producer = client.producer("greetings", ProducerOptions::default())?;
//! let ticket = producer.append(&NewRecord::value(b"hello"))?;
//! println!("stored at {}", ticket.wait()?.first_offset);
//! producer.close()?;
//!
//! for batch in client.consumer("greetings", ConsumerOptions::default())? {
//!     for record in batch?.records() {
//!         let (offset, record) = record?;
//!         println!("{offset}: {:?}", record.value);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod batch;
pub mod blocking;
#[cfg(test)]
mod brief;
mod compression;
mod core;
mod error;
#[cfg(test)]
#[path = "../tests/greeting/mod.rs"]
mod greeting;
mod options;
mod record;
mod shared;
mod ticket;
mod tls;
#[cfg(feature = "tokio")]
pub mod tokio;
mod url;

/// Ids, batches and records, as the disk and the wire have them.
pub use catena_format as format;
pub use catena_format::records::{Header, Record};
pub use catena_wire::{
    Class, DescribeClusterResponse, DescribeTopicResponse, Durability, ErrorCode, NodeDetail,
    OffsetQuery, PartitionDetail, PartitionHealth, PartitionMetadata, ProduceRequest,
    ProduceResponse, Setting, TopicMetadata,
};

pub use crate::core::partitioner::{murmur2, partition_for_key};
pub use batch::{Batch, Fetched};
pub use blocking::{Client, Connection, Consumer, Producer};
pub use compression::{Compression, CompressionError, CompressionUnknown, DECOMPRESSED_BYTES_MAX};
pub use error::Error;
pub use options::{ConsumerOptions, FetchOptions, Options, ProducerOptions, Start, TopicChange};
pub use record::{NewRecord, Receipt};
pub use ticket::Ticket;
pub use tls::{TlsError, TlsOptions};
