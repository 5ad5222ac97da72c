//! Floor 3: bytes to requests and responses and back, for both ends. No sockets here.
//!
//! ```text
//! connection  ┌ preface 16 B ┐ ┌ message ┐ ┌ message ┐ …
//! message     ┌ header 16 B ─┬ head ─┬ payload (record batches, never decoded here) ┐
//! ```
//!
//! All numbers are little-endian. Heads end with a tagged tail for additions, which an older reader
//! skips. `docs/wire-protocol.md` draws every byte.
#![forbid(unsafe_code)]

mod admin;
mod data;
mod error;
mod field;
mod frame;
mod handshake;

pub use admin::{
    AlterTopicRequest, CreateTopicRequest, DeleteTopicRequest, DescribeTopicRequest,
    DescribeTopicResponse, MetadataRequest, MetadataResponse, PartitionDetail, PartitionMetadata,
    ProducerIdRequest, ProducerIdResponse, Setting, StatusResponse, TopicMetadata, TrimRequest,
    TrimResponse,
};
pub use data::{
    Durability, DurabilityUnknown, FetchRequest, FetchResponse, ListOffsetsRequest,
    ListOffsetsResponse, OffsetQuery, ProduceRequest, ProduceResponse, flags,
};
pub use error::{Class, ErrorCode};
pub use field::{Message, WireError};
pub use frame::{
    Api, HEAD_BYTES_MAX, HEADER_BYTES, Header, HeaderError, PAYLOAD_BYTES_MAX, PREFACE_BYTES,
    Preface, VERSION, encode_message,
};
pub use handshake::{ApiRange, CoreAddress, HandshakeRequest, HandshakeResponse};
