//! Every limit of the protocol, in one place, with the relations between them asserted.

use catena_format::limits::{BATCH_BYTES_MAX, PARTITIONS_PER_TOPIC_MAX, TOPIC_NAME_BYTES_MAX};

/// The preface of a connection.
pub const PREFACE_BYTES: usize = 16;
/// The header of a frame.
pub const FRAME_HEADER_BYTES: usize = 16;
/// The longest head of a frame before the handshake has succeeded: strangers get little.
pub const HANDSHAKE_HEAD_BYTES_MAX: u32 = 64 << 10;
/// The longest head of a request.
pub const REQUEST_HEAD_BYTES_MAX: u32 = 1 << 20;
/// The longest payload of a request: one batch.
pub const REQUEST_PAYLOAD_BYTES_MAX: u32 = 16 << 20;
/// The longest head of a response: the metadata of every partition of a cluster.
pub const RESPONSE_HEAD_BYTES_MAX: u32 = 16 << 20;
/// The longest payload of a response or push.
pub const RESPONSE_PAYLOAD_BYTES_MAX: u32 = 64 << 20;
/// The most credit that a subscription can hold, in payload bytes; more is cut to this.
pub const CREDIT_BYTES_MAX: u32 = 1 << 30;
/// The longest text, list of bytes, or value of a tag: their lengths are u16.
pub const TEXT_BYTES_MAX: usize = u16::MAX as usize;
/// A sentence for a person is cut to so many bytes.
pub const SENTENCE_BYTES_MAX: usize = 1024;

/// The most names in a metadata request: each topic there may be, once.
pub const METADATA_NAMES_MAX: usize = CLUSTER_TOPICS as usize;

/// Partitions of a cluster, of which each takes about 64 bytes in a metadata response.
const CLUSTER_PARTITIONS: u32 = 100_000;
/// Topics of a cluster, of which each takes its name and about 64 bytes.
const CLUSTER_TOPICS: u32 = 10_000;
const METADATA_BYTES: u32 =
    CLUSTER_PARTITIONS * 64 + CLUSTER_TOPICS * (TOPIC_NAME_BYTES_MAX as u32 + 64);

const _: () = assert!(REQUEST_PAYLOAD_BYTES_MAX as usize == BATCH_BYTES_MAX);
const _: () = assert!(RESPONSE_PAYLOAD_BYTES_MAX >= REQUEST_PAYLOAD_BYTES_MAX);
const _: () = assert!(HANDSHAKE_HEAD_BYTES_MAX <= REQUEST_HEAD_BYTES_MAX);
const _: () = assert!(REQUEST_HEAD_BYTES_MAX <= RESPONSE_HEAD_BYTES_MAX);
const _: () = assert!(METADATA_BYTES <= RESPONSE_HEAD_BYTES_MAX);
// Names that no topic has are told, too, each once.
const _: () = assert!(
    METADATA_BYTES + REQUEST_HEAD_BYTES_MAX + METADATA_NAMES_MAX as u32 * 64
        <= RESPONSE_HEAD_BYTES_MAX
);
const _: () = assert!(PARTITIONS_PER_TOPIC_MAX <= CLUSTER_PARTITIONS);
const _: () = assert!(TOPIC_NAME_BYTES_MAX <= TEXT_BYTES_MAX);
const _: () = assert!(SENTENCE_BYTES_MAX <= TEXT_BYTES_MAX);
const _: () = assert!(CREDIT_BYTES_MAX >= RESPONSE_PAYLOAD_BYTES_MAX);
