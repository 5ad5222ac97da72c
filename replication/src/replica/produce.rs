//! What a producer asks for, and what it is told.

use std::collections::BTreeMap;

use catena_format::{Epoch, Millis, Offset, ProducerEpoch, ProducerId, Sequence};
use catena_log::{AppendError, io::IoError};

use crate::validate::InvalidBatch;

/// When a produce is acknowledged. The high watermark, and with it what is served, does not depend
/// on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Durability {
    /// When the head has taken it: lost if the head's process ends.
    None,
    /// When it is on the head's disk: lost if that disk is lost.
    HeadDisk,
    /// When the tail has received it: lost if every member's process ends at once.
    ChainMemory,
    /// When it is on the disk of every member: lost only with all disks.
    #[default]
    ChainDisk,
}

impl Durability {
    /// All, the weakest first.
    pub const ALL: [Self; 4] = [Self::None, Self::HeadDisk, Self::ChainMemory, Self::ChainDisk];
}

/// The caller's handle of a produce or trim that was not answered at once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// A batch on its way in.
#[derive(Clone, Copy, Debug)]
pub struct ProduceRequest<'a> {
    /// Exactly one record batch.
    pub batch: &'a [u8],
    /// When to answer.
    pub durability: Durability,
    /// Append only if this is the next offset.
    pub expect_next_offset: Option<Offset>,
    /// Producers that were raised, and their epochs: batches of older ones are refused.
    pub raised: &'a BTreeMap<ProducerId, ProducerEpoch>,
    /// Named in the reply.
    pub ticket: Ticket,
}

/// What an acknowledged producer is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// The first record's offset.
    pub base: Offset,
    /// The offset after the last record.
    pub next: Offset,
    /// The epoch in which the receipt was given.
    pub epoch: Epoch,
    /// The server's time of the append; −1 for a duplicate.
    pub append_time: Millis,
    /// What was reached.
    pub level: Durability,
    /// Copies on disks; zero below a disk level.
    pub copies: u8,
    /// The batch was in the log before.
    pub duplicate: bool,
}

/// Why a batch was refused: for certain nothing was stored, unless the variant says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The batch is not acceptable.
    #[error(transparent)]
    Invalid(#[from] InvalidBatch),
    /// The log does not take it now, or not any more.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The log's next offset is another than the one expected.
    #[error("the next offset is {log_end}, another was expected")]
    OffsetCondition {
        /// The log's next offset.
        log_end: Offset,
    },
    /// Sequences are missing before this batch.
    #[error("sequence {expected} is next of this producer")]
    OutOfOrder {
        /// The sequence that would be next.
        expected: Sequence,
    },
    /// A newer generation of the producer has written.
    #[error("the producer is fenced by epoch {current}")]
    Fenced {
        /// That generation.
        current: ProducerEpoch,
    },
    /// The producer is not known here and this is not its first batch.
    #[error("the producer is not known in this partition")]
    UnknownProducer,
    /// The partition's table of producers is full.
    #[error("the partition has too many producers")]
    TooManyProducers,
    /// The batch is in the log, and durable, too long ago to know at which offset.
    #[error("the batch was stored before; its offset is no longer known")]
    DuplicateOffsetUnknown,
    /// The batch was taken in before, and then a write failed: it may be in the log after a
    /// restart, or not.
    #[error("a write failed ({0}); the batch may or may not be stored")]
    InDoubt(IoError),
    /// The batch was taken in before and is on its way to the disk, and so many repetitions wait
    /// for that already that no more may.
    #[error("the batch is on its way to the disk already, and too many repetitions wait for it")]
    TooManyRepetitions,
    /// Too many wait to be told where the log ends.
    #[error("too many ask where the partition ends")]
    TooManyQuestions,
    /// The log is being opened, or could not be.
    #[error("the partition is not open")]
    NotOpen,
    /// Another node gives offsets, or none does.
    #[error("this node is not the head of the partition's chain")]
    NotHead,
    /// The chain is shorter than it must be.
    #[error("the chain has {there} members and must have {needed}")]
    NotEnoughReplicas {
        /// How many there are.
        there: u8,
        /// How many there must be.
        needed: u8,
    },
}

impl Refusal {
    /// Whether it says what the log holds: of a chain that only all members know together.
    pub(super) fn rests_on_the_log(&self) -> bool {
        matches!(
            self,
            Self::OffsetCondition { .. }
                | Self::OutOfOrder { .. }
                | Self::Fenced { .. }
                | Self::UnknownProducer
        )
    }
}

/// Why a produce that was taken in was not acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProduceError {
    /// A write or flush failed: the batch may be in the log after a restart, or not.
    #[error("a write failed ({0}); the batch may or may not be stored")]
    Indeterminate(IoError),
    /// The batch is in the log, and durable, too long ago to know at which offset.
    #[error("the batch was stored before; its offset is no longer known")]
    DuplicateOffsetUnknown,
    /// The node is no longer the head: the batch may be in the log or not.
    #[error("this node is no longer the head; the batch may or may not be stored")]
    Moved,
    /// Nothing was stored, and the whole chain has confirmed that this is so for good.
    #[error(transparent)]
    Refused(Refusal),
}

/// A late answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply {
    /// Of which produce.
    pub ticket: Ticket,
    /// How it ended.
    pub result: Result<Receipt, ProduceError>,
}
