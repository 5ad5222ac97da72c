//! Fetch: batches from an offset on; and asking for offsets.
//!
//! ```text
//! request   0 topic u128  16 partition u32  20 offset u64  28 max bytes u32  32 min bytes u32
//!           36 max wait ms u32  40 tail
//! response  0 error u16  2 partition u32  6 next offset u64  14 log start u64
//!           22 high watermark u64  30 epoch u32  34 tail
//! ```

use std::borrow::Cow;

use catena_format::{Epoch, Millis, Offset, PartitionIndex, TopicId};

use crate::{
    codec::{Field, Reader, WireError, Writer, wire_struct},
    error::ErrorCode,
    redirect::HeadAddress,
};

wire_struct! {
    /// Batches from an offset on, waiting until there are some.
    message FetchRequest {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: PartitionIndex,
        /// The offset; within a batch the whole batch is sent.
        offset: Offset,
        /// Bytes of batches to send at most, but at least one batch.
        max_bytes: u32,
        /// Bytes to wait for; zero: none.
        min_bytes: u32,
        /// How long to wait for them.
        max_wait_ms: u32,
    }
}

wire_struct! {
    /// The payload is bare record batches, back to back.
    message FetchResponse<'a> {
        /// Why there are none.
        error: ErrorCode,
        /// The partition.
        partition: PartitionIndex,
        /// Where to go on: behind the payload; under [`ErrorCode::Damaged`] and
        /// [`ErrorCode::OffsetOutOfRange`] the next readable offset; under
        /// [`ErrorCode::Truncated`] where the histories part.
        next_offset: Offset,
        /// The first readable offset.
        log_start: Offset,
        /// The end of what is on the disk of every member.
        high_watermark: Offset,
        /// The epoch of the chain.
        epoch: Epoch,
        ; tail
        1 =>
            /// A sentence for a person.
            message: Cow<'a, str>,
        2 =>
            /// Under [`ErrorCode::NotHead`] and [`ErrorCode::HeadMoved`], if it is known: where
            /// the head is.
            head: Option<HeadAddress<'a>>,
    }
}

impl<'a> FetchResponse<'a> {
    /// An answer without batches.
    #[must_use]
    pub fn refused(error: ErrorCode, message: impl Into<Cow<'a, str>>) -> Self {
        Self {
            error,
            partition: PartitionIndex::default(),
            next_offset: Offset::ZERO,
            log_start: Offset::ZERO,
            high_watermark: Offset::ZERO,
            epoch: Epoch::default(),
            message: message.into(),
            head: None,
        }
    }
}

/// Which offset is wanted. On the wire: kind u8, argument u64 (zero where there is none).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OffsetQuery {
    /// 0: the first readable one.
    Earliest,
    /// 1: the high watermark.
    Latest,
    /// 2: the next one to be given; what lies at and above the high watermark may still go away.
    LogEnd,
    /// 3: that of the first batch with a record of this time or later.
    AtTime(Millis),
    /// 4: the first readable one at or after this, behind what was trimmed or is damaged; none at
    /// or above the high watermark.
    AtOffset(Offset),
    /// 5: the high watermark, once the whole chain has confirmed that its head answers: all that
    /// was acknowledged before this was asked, by whichever node, lies below. Of the head only.
    Confirmed,
}

impl<'a> Field<'a> for OffsetQuery {
    type Owned = Self;
    const BYTES_MIN: usize = 9;
    fn put(&self, writer: &mut Writer<'_>) {
        let (kind, argument) = match self {
            Self::Earliest => (0u8, 0),
            Self::Latest => (1, 0),
            Self::LogEnd => (2, 0),
            Self::AtTime(time) => (3, time.get().cast_unsigned()),
            Self::AtOffset(offset) => (4, offset.get()),
            Self::Confirmed => (5, 0),
        };
        kind.put(writer);
        argument.put(writer);
    }
    fn take(reader: &mut Reader<'a>) -> Result<Self, WireError> {
        let kind = u8::take(reader)?;
        match kind {
            3 => return Ok(Self::AtTime(Millis::take(reader)?)),
            4 => return Ok(Self::AtOffset(Offset::take(reader)?)),
            _ => {}
        }
        match (kind, u64::take(reader)?) {
            (0, 0) => Ok(Self::Earliest),
            (1, 0) => Ok(Self::Latest),
            (2, 0) => Ok(Self::LogEnd),
            (5, 0) => Ok(Self::Confirmed),
            _ => Err(WireError::Value("query")),
        }
    }
    fn owned(self) -> Self {
        self
    }
}

wire_struct! {
    /// Ask for an offset.
    message ListOffsetsRequest {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: PartitionIndex,
        /// Which.
        query: OffsetQuery,
    }
}

wire_struct! {
    /// The offset asked for.
    message ListOffsetsResponse<'a> {
        /// Why there is none.
        error: ErrorCode,
        /// Whether there is one: no record may be as late as the time asked for, or none be
        /// readable from the offset on.
        found: bool,
        /// The offset; the high watermark when none was found.
        offset: Offset,
        /// The epoch of the chain.
        epoch: Epoch,
        ; tail
        1 =>
            /// A sentence for a person.
            message: Cow<'a, str>,
        2 =>
            /// Under [`ErrorCode::NotHead`] and [`ErrorCode::HeadMoved`], if it is known: where
            /// the head is.
            head: Option<HeadAddress<'a>>,
    }
}
