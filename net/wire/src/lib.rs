//! Floor 3: bytes to requests and responses and back, for both ends. No sockets here.
//!
//! ```text
//! connection  ┌ preface 16 B ┐ ┌ frame ┐ ┌ frame ┐ …
//! frame       ┌ header 16 B ─┬ head ─┬ payload (record batches, never decoded here) ┐
//! ```
//!
//! All numbers are little-endian. Heads end with a tagged tail for additions, which an older reader
//! skips. Every response begins with its error. `docs/wire-protocol.md` draws every byte. What
//! nodes say to each other is in [`peer`].
#![forbid(unsafe_code)]

mod admin;
mod api;
mod cluster;
mod codec;
mod error;
mod fetch;
mod frame;
mod handshake;
pub mod limits;
pub mod peer;
mod produce;
mod redirect;
mod subscribe;

#[cfg(test)]
mod document;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod sample;

pub use admin::{
    AlterTopicRequest, ConfigOrigin, CreateTopicRequest, DeleteTopicRequest, DescribeTopicRequest,
    DescribeTopicResponse, JoinTokenRequest, MetadataRequest, MetadataResponse, NodeAddress,
    OffsetRange, PartitionDetail, PartitionMetadata, PingRequest, ProducerIdRequest,
    ProducerIdResponse, Setting, SettingInForce, StatusResponse, TopicMetadata, TrimRequest,
    TrimResponse,
};
pub use api::Api;
pub use cluster::{
    AcceptLossRequest, DescribeClusterRequest, DescribeClusterResponse, DrainNodeRequest,
    MovePartitionRequest, NodeDetail, PartitionHealth, RemoveNodeRequest, ReplicateTopicRequest,
};
pub use codec::{Message, WireError};
pub use error::{Class, ErrorCode};
pub use fetch::{
    FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse, OffsetQuery,
};
pub use frame::{
    FrameError, FrameHeader, FrameLimits, Preface, VERSION, VERSION_REFUSAL, encode_message,
    encode_refusal,
};
pub use handshake::{
    ApiRange, ConnectionLimits, CoreAddress, HandshakeRequest, HandshakeResponse, Refusal,
};
pub use limits::{FRAME_HEADER_BYTES, PREFACE_BYTES};
pub use produce::{Durability, DurabilityUnknown, ProduceRequest, ProduceResponse, ReceiptFlags};
pub use redirect::{HeadAddress, head_told};
pub use subscribe::{CreditRequest, Push, SubscribeRequest, SubscribeResponse, UnsubscribeRequest};
