//! Floor 1, the lowest room: ids, limits, byte layouts and checksums.
//!
//! It holds no state, does no I/O and decides nothing: every other room speaks in its words.
//!
//! ```text
//! segment file   ┌ header block ┐┌ flush group ──────────────┐┌ flush group ─ … ┌ footer block ┐
//!                │ 4 KiB        ││ frame │ frame │ 0 padding ││ frame │ …       │ 4 KiB        │
//! frame          ┌ header 64 B ─┬ batch (Kafka v2 RecordBatch) ─┬ 0 padding to 16 B ┐
//! ```
#![forbid(unsafe_code)]

pub mod batch;
pub mod checksum;
pub mod frame;
pub mod ids;
pub mod limits;
pub mod planted;
pub mod records;
pub mod segment;

mod bytes_le;

pub use batch::{BATCH_HEADER_BYTES, BatchError, BatchHeader, Codec, CodecUnknown};
pub use frame::{FRAME_HEADER_BYTES, FrameError, FrameHeader, FrameSeed};
pub use ids::{
    ClusterId, Epoch, FileNumber, Incarnation, JoinToken, Millis, NodeId, Offset, PartitionIndex,
    PartitionUid, Position, ProducerEpoch, ProducerId, Sequence, TopicId,
};
pub use segment::{SegmentFooter, SegmentHeader, SegmentHeaderError};
