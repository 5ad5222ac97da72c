//! What is offered for a repair: batches as another log has them, looked through before anything
//! is written.

use std::ops::Range;

use catena_format::{BatchHeader, Epoch, FrameHeader, Millis, Offset, frame};

use super::RepairError;
use crate::{read::Stamp, walk::check_batch};

/// A batch that is to stand in the log again.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    /// Of its frame.
    pub(super) header: FrameHeader,
    /// Where it lies in what was handed over.
    pub(super) at: Range<usize>,
}

impl Piece {
    pub(super) fn base(&self) -> Offset {
        self.header.base_offset
    }

    pub(super) fn next(&self) -> Offset {
        self.header.next_offset()
    }

    /// Where it begins, and its latest record.
    pub(super) fn time(&self) -> (Offset, Millis) {
        (self.header.base_offset, self.header.max_timestamp)
    }

    /// Whether a frame holds just this batch.
    pub(super) fn is_in(&self, frame: &FrameHeader) -> bool {
        FrameHeader { durable_end: self.header.durable_end, ..*frame } == self.header
    }
}

/// The batches that stand back to back in `payload`.
///
/// # Errors
/// Says why they are not what a log holds.
pub(super) fn pieces(stamps: &[Stamp], payload: &[u8]) -> Result<Vec<Piece>, RepairError> {
    let (mut pieces, mut at) = (Vec::<Piece>::new(), 0);
    for stamp in stamps {
        let piece = piece(*stamp, &payload[at..], at)?;
        if pieces.last().is_some_and(|before| before.next() != piece.base()) {
            return Err(RepairError::Order(piece.base()));
        }
        at = piece.at.end;
        pieces.push(piece);
    }
    if pieces.is_empty() || at < payload.len() {
        return Err(RepairError::Stamps(stamps.len()));
    }
    Ok(pieces)
}

/// The batch that begins `bytes`, which stand at `at` of the payload.
fn piece(stamp: Stamp, bytes: &[u8], at: usize) -> Result<Piece, RepairError> {
    let batch = BatchHeader::parse(bytes)?;
    let base_offset = batch.stored_offset()?;
    let header = FrameHeader {
        mark: false,
        payload_length: u32::try_from(batch.length).expect("a batch is at most 16 MiB"),
        epoch: batch.stored_epoch()?,
        base_offset,
        last_offset_delta: batch.last_offset_delta,
        count: batch.count,
        max_timestamp: batch.max_timestamp,
        append_time: stamp.append_time,
        // What lies below was durable long before this is written.
        durable_end: base_offset,
        payload_crc: stamp.payload_crc,
    };
    let bytes = &bytes[..batch.length];
    check_batch(&header, bytes)?;
    if frame::payload_crc(bytes) != stamp.payload_crc {
        return Err(RepairError::Stamp(base_offset));
    }
    let given = u64::from(batch.last_offset_delta) + 1;
    if header.epoch > Epoch::MAX || base_offset.checked_add(given).is_none() {
        return Err(RepairError::Order(base_offset));
    }
    Ok(Piece { header, at: at..at + bytes.len() })
}
