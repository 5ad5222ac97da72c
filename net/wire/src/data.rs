//! Producing and fetching.

use std::{fmt, str::FromStr};

use crate::{
    error::ErrorCode,
    field::{Field, Reader, WireError, wire_struct},
};

/// When a produce is acknowledged. What is served never depends on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum Durability {
    /// When the head has taken it: lost if the head's process ends.
    None = 0,
    /// When it is on the head's disk: lost if that disk is lost.
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

impl Field for Durability {
    const BYTES_MIN: usize = 1;
    fn put(&self, out: &mut Vec<u8>) {
        out.push(*self as u8);
    }
    fn get(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let number = u8::get(reader)?;
        let level = Self::ALL.get(usize::from(number)).copied();
        level.ok_or(WireError::Value("durability"))
    }
}

/// Bits of the flags of produce requests and responses.
pub mod flags {
    /// Request: append only at `expect_next_offset`.
    pub const CONDITIONAL: u8 = 1;
    /// Response: the batch was in the log before.
    pub const DUPLICATE: u8 = 1;
    /// Response: the offsets may still be given to other records after a failure.
    pub const TENTATIVE: u8 = 2;
}

wire_struct! {
    /// Append the one batch that is the payload.
    message ProduceRequest {
        /// The topic.
        topic: u128,
        /// The partition.
        partition: u32,
        /// When to answer.
        durability: Durability,
        /// See [`flags`].
        flags: u8,
        /// With [`flags::CONDITIONAL`]: the next offset that the log must have.
        expect_next_offset: u64,
        /// After so long the answer is a timeout; zero: the server's limit.
        deadline_ms: u32,
    }
}

wire_struct! {
    /// The receipt, or why there is none.
    message ProduceResponse {
        /// Why there is no receipt.
        error: ErrorCode,
        /// The level reached.
        level: Durability,
        /// See [`flags`].
        flags: u8,
        /// Copies on disks.
        copies: u8,
        /// The partition.
        partition: u32,
        /// The first record's offset.
        first_offset: u64,
        /// The offset after the last record; on a failed condition the log's next offset.
        next_offset: u64,
        /// The epoch in which the receipt was given.
        epoch: u32,
        /// The server's time of the append; −1 when not known.
        append_time: i64,
        /// A sentence for a person.
        message: String,
    }
}

wire_struct! {
    /// Batches from an offset on.
    message FetchRequest {
        /// The topic.
        topic: u128,
        /// The partition.
        partition: u32,
        /// The offset; within a batch the whole batch is sent.
        offset: u64,
        /// Bytes of batches to send at most, but at least one batch.
        max_bytes: u32,
        /// Bytes to wait for.
        min_bytes: u32,
        /// How long to wait for them.
        max_wait_ms: u32,
    }
}

wire_struct! {
    /// The payload is bare record batches, back to back.
    message FetchResponse {
        /// Why there are none.
        error: ErrorCode,
        /// The partition.
        partition: u32,
        /// Where to go on; behind damage, where reading is possible again.
        next_offset: u64,
        /// The first readable offset.
        log_start: u64,
        /// The end of what is on the disk of every member.
        high_watermark: u64,
        /// The epoch of the chain.
        epoch: u32,
        /// A sentence for a person.
        message: String,
    }
}

/// Which offset is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OffsetQuery {
    /// The first readable one.
    Earliest,
    /// The high watermark.
    Latest,
    /// That of the first batch with a record of this time (Unix milliseconds) or later.
    AtTime(i64),
}

impl Field for OffsetQuery {
    const BYTES_MIN: usize = 9;
    fn put(&self, out: &mut Vec<u8>) {
        let (kind, time) = match self {
            Self::Earliest => (0u8, 0),
            Self::Latest => (1, 0),
            Self::AtTime(time) => (2, *time),
        };
        kind.put(out);
        time.put(out);
    }
    fn get(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let (kind, time) = (u8::get(reader)?, i64::get(reader)?);
        match kind {
            0 => Ok(Self::Earliest),
            1 => Ok(Self::Latest),
            2 => Ok(Self::AtTime(time)),
            _ => Err(WireError::Value("query")),
        }
    }
}

wire_struct! {
    /// Ask for an offset.
    message ListOffsetsRequest {
        /// The topic.
        topic: u128,
        /// The partition.
        partition: u32,
        /// Which.
        query: OffsetQuery,
    }
}

wire_struct! {
    /// The offset asked for.
    message ListOffsetsResponse {
        /// Why there is none.
        error: ErrorCode,
        /// Whether there is one: no record may be as late as the time asked for.
        found: bool,
        /// The offset; the high watermark when none was found.
        offset: u64,
        /// The epoch of the chain.
        epoch: u32,
        /// A sentence for a person.
        message: String,
    }
}
