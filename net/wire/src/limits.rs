//! Every limit of the protocol, in one place, with the relations between them asserted.

use catena_format::{
    BATCH_HEADER_BYTES,
    limits::{
        BATCH_BYTES_DEFAULT, BATCH_BYTES_MAX, PARTITIONS_PER_TOPIC_MAX, TOPIC_NAME_BYTES_MAX,
    },
};

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

/// The header of a frame between nodes.
pub const PEER_HEADER_BYTES: usize = 24;
/// The longest head between nodes that holds no long list: the handshake's, too.
pub const PEER_SHORT_HEAD_BYTES_MAX: u32 = 4 << 10;
/// The longest head between nodes: stamps of as many batches as a payload aims at, or the epochs
/// of a log.
pub const PEER_HEAD_BYTES_MAX: u32 = 256 << 10;
/// The longest payload of batches between nodes. A sender adds batches until they are a batch of
/// the default limit long; so the last one, of any length, may begin just below that.
pub const PEER_BATCHES_BYTES_MAX: u32 = 17 << 20;
/// The longest payload of what is known of a partition's producers: 20,000 of them, each with a
/// window of 256 batches that other producers' lie between, at 24 bytes each.
pub const PEER_FOLD_BYTES_MAX: u32 = 128 << 20;
/// The most batches in one message: as many of the smallest as a sender adds.
pub const PEER_STAMPS_MAX: usize = 16_000;
/// The most epochs of a log that can be told.
pub const PEER_EPOCHS_MAX: usize = 20_000;
/// The most members of a chain whose progress can be told.
pub const PEER_PROGRESS_MAX: usize = 32;

/// The smallest batch: its header and one record without key and value.
const BATCH_BYTES_MIN: usize = BATCH_HEADER_BYTES + 7;
/// Fields before a list of a chain's message and a tail behind it need no more.
const PEER_FIELDS_BYTES: usize = 1024;

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
const _: () = assert!(PEER_SHORT_HEAD_BYTES_MAX <= PEER_HEAD_BYTES_MAX);
const _: () = assert!(PEER_BATCHES_BYTES_MAX as usize >= BATCH_BYTES_DEFAULT + BATCH_BYTES_MAX);
const _: () = assert!(PEER_FOLD_BYTES_MAX as usize >= 20_000 * (40 + 256 * 24));
const _: () = assert!(BATCH_BYTES_DEFAULT / BATCH_BYTES_MIN < PEER_STAMPS_MAX);
const _: () = assert!(PEER_STAMPS_MAX * 16 + PEER_FIELDS_BYTES <= PEER_HEAD_BYTES_MAX as usize);
const _: () = assert!(PEER_EPOCHS_MAX * 12 + PEER_FIELDS_BYTES <= PEER_HEAD_BYTES_MAX as usize);
const _: () =
    assert!(PEER_PROGRESS_MAX * 16 + PEER_FIELDS_BYTES <= PEER_SHORT_HEAD_BYTES_MAX as usize);
