//! Produce: one batch in, one receipt out.
//!
//! ```text
//! request   0 topic u128  16 partition u32  20 durability u8  21 flags u8 (bit 0: an offset is
//!           expected)  22 expected next offset u64  30 deadline ms u32  34 tail
//! response  0 error u16  2 level u8  3 flags u8 (bit 0: duplicate, bit 1: tentative)  4 copies u8
//!           5 partition u32  9 first offset u64  17 next offset u64  25 epoch u32
//!           29 append time i64  37 retry after ms u32  41 tail
//! ```

use std::{borrow::Cow, fmt, str::FromStr};

use catena_format::{Epoch, Millis, Offset, PartitionIndex, TopicId};

use crate::{
    codec::{WireError, fields_as, wire_struct},
    error::ErrorCode,
    redirect::HeadAddress,
};

/// When a produce is acknowledged. What is served never depends on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum Durability {
    /// When the head has taken it: lost if the head's process ends.
    None = 0,
    /// When it is on the head's disk: lost if that disk, or the head for good, is lost.
    HeadDisk = 1,
    /// When the tail has received it: lost if every member's process ends at once.
    ChainMemory = 2,
    /// When it is on the disk of every member: lost only with all disks.
    #[default]
    ChainDisk = 3,
}

/// No such durability level.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is no durability level: none, head-disk, chain-memory or chain-disk")]
pub struct DurabilityUnknown(
    /// What was given.
    pub String,
);

impl Durability {
    /// Every level, the weakest first.
    pub const ALL: [Self; 4] = [Self::None, Self::HeadDisk, Self::ChainMemory, Self::ChainDisk];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::HeadDisk => "head-disk",
            Self::ChainMemory => "chain-memory",
            Self::ChainDisk => "chain-disk",
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Durability {
    type Err = DurabilityUnknown;
    fn from_str(name: &str) -> Result<Self, DurabilityUnknown> {
        let level = Self::ALL.into_iter().find(|level| level.name() == name);
        level.ok_or_else(|| DurabilityUnknown(name.to_owned()))
    }
}

/// What else a receipt says; bits that this build does not know are ignored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ReceiptFlags {
    /// The batch was in the log before.
    pub duplicate: bool,
    /// The offsets may still be given to other records after a failure: the level reached is below
    /// [`Durability::ChainDisk`].
    pub tentative: bool,
}

impl ReceiptFlags {
    /// As they stand on the wire.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.duplicate as u8 | (self.tentative as u8) << 1
    }

    /// From the wire.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self { duplicate: bits & 1 != 0, tentative: bits & 2 != 0 }
    }
}

fields_as! {
    Durability as u8: |level| level as u8, |raw| {
        let level = Self::ALL.get(usize::from(raw)).copied();
        level.ok_or(WireError::Value("durability"))
    };
    ReceiptFlags as u8: |flags| flags.bits(), |raw| Ok(Self::from_bits(raw));
}

wire_struct! {
    /// Append the one batch that is the payload: exactly one Kafka v2 record batch. Several in one
    /// request would need several receipts; a pipeline of requests does as well.
    message ProduceRequest {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: PartitionIndex,
        /// When to answer.
        durability: Durability,
        /// Append only if the first record gets this offset.
        expect_next_offset: Option<Offset>,
        /// After so long the answer is a timeout; zero: the server's limit.
        deadline_ms: u32,
    }
}

wire_struct! {
    /// The receipt, or why there is none.
    message ProduceResponse<'a> {
        /// Why there is no receipt.
        error: ErrorCode,
        /// The level reached.
        level: Durability,
        /// What else is to be said.
        flags: ReceiptFlags,
        /// Copies on disks.
        copies: u8,
        /// The partition.
        partition: PartitionIndex,
        /// The first record's offset.
        first_offset: Offset,
        /// The offset after the last record; on a failed condition the log's next offset.
        next_offset: Offset,
        /// The epoch in which the receipt was given.
        epoch: Epoch,
        /// The server's time of the append; −1 when not known.
        append_time: Millis,
        /// When refused for the moment: how long to wait before trying again; zero: as you like.
        retry_after_ms: u32,
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

impl<'a> ProduceResponse<'a> {
    /// An answer without a receipt.
    #[must_use]
    pub fn refused(error: ErrorCode, message: impl Into<Cow<'a, str>>) -> Self {
        Self {
            error,
            level: Durability::None,
            flags: ReceiptFlags::default(),
            copies: 0,
            partition: PartitionIndex::default(),
            first_offset: Offset::ZERO,
            next_offset: Offset::ZERO,
            epoch: Epoch::default(),
            append_time: Millis::new(-1),
            retry_after_ms: 0,
            message: message.into(),
            head: None,
        }
    }
}
