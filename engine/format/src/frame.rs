//! The frame: our header in front of each batch in a segment file.
//!
//! Version 1, little-endian, 64 bytes:
//!
//! ```text
//!  0 magic u32        4 version u8     5 header length u8   6 flags u16     8 payload length u32
//! 12 epoch u32       16 base offset u64                    24 last offset delta u32  28 count u32
//! 32 max timestamp i64    40 append time i64    48 durable end u64   56 payload CRC  60 header CRC
//! ```
//!
//! `payload CRC` covers the batch from its byte 16 on, so it is free of position, offset and epoch
//! and travels with the batch. `header CRC` covers the 60 bytes before it and the batch's first 16
//! bytes, seeded with where the frame belongs: bytes that are misdirected, stale or recycled do not
//! validate. A *mark* is a frame without a batch: it only carries `durable end`.
//!
//! Every later version keeps bytes 0 to 6 and, in the last four bytes of its header, a CRC over the
//! same things: so a build can tell a frame that it does not know from a damaged one.

use crate::{
    batch::BATCH_PREFIX_BYTES,
    bytes_le::{i64_at, put_i64, put_u16, put_u32, put_u64, u16_at, u32_at, u64_at},
    checksum::{crc32, crc32_of},
    ids::{Epoch, FileNumber, Millis, Offset, PartitionUid, Position},
    limits::{BATCH_BYTES_MAX, FRAME_ALIGNMENT},
    planted,
};

/// Length of a frame header of version 1.
pub const FRAME_HEADER_BYTES: usize = 64;
/// `CTNF` as stored.
pub const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"CTNF");
/// The version written.
pub const FRAME_VERSION: u8 = 1;

const FLAG_MARK: u16 = 1;

/// The shortest header that another version may have: magic, version, length, CRC.
const OTHER_HEADER_BYTES_MIN: usize = 12;

/// Where a frame belongs: the seed of its header CRC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameSeed {
    /// The partition.
    pub uid: PartitionUid,
    /// The segment file.
    pub file: FileNumber,
}

/// Why bytes are not a frame that belongs here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The bytes end within the frame.
    #[error("the frame needs {needed} bytes, {given} are there")]
    Truncated {
        /// Bytes that the frame needs.
        needed: usize,
        /// Bytes at hand.
        given: usize,
    },
    /// The bytes do not start with a frame's magic.
    #[error("no frame starts here")]
    Absent,
    /// A version that this build does not know; its header CRC matches, so it was written for here.
    #[error("frame version {0} is unknown")]
    Version(u8),
    /// A field is not possible.
    #[error("a frame header field is not possible")]
    Field,
    /// The header CRC does not match: damaged, or written for another place.
    #[error("the frame header does not belong here or is damaged")]
    HeaderChecksum,
    /// The payload CRC does not match.
    #[error("the batch is damaged")]
    PayloadChecksum,
}

/// A frame header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// No batch follows: only `durable_end` counts.
    pub mark: bool,
    /// Length in bytes of the batch that follows.
    pub payload_length: u32,
    /// The epoch in which the head gave the offset.
    pub epoch: Epoch,
    /// The batch's first offset; of a mark, the log end.
    pub base_offset: Offset,
    /// The last record's offset less the first one's.
    pub last_offset_delta: u32,
    /// Records in the batch; zero in a mark.
    pub count: u32,
    /// The greatest timestamp of the batch's records.
    pub max_timestamp: Millis,
    /// The server's clock at append, never decreasing in a partition.
    pub append_time: Millis,
    /// Everything below was durable when this frame was submitted.
    pub durable_end: Offset,
    /// CRC-32 of the batch from its byte 16 on.
    pub payload_crc: u32,
}

impl FrameHeader {
    /// The next offset after the batch.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        let given = if self.mark { 0 } else { u64::from(self.last_offset_delta) + 1 };
        self.base_offset.checked_add(given).unwrap_or(Offset::MAX)
    }

    /// Header, batch and padding to the next frame, in bytes.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        frame_bytes(self.payload_length as usize)
    }

    /// Writes the header at the start of `frame`, whose batch (already patched) stands behind it.
    ///
    /// # Panics
    /// When `frame` is shorter than header and batch.
    pub fn write(&self, frame: &mut [u8], seed: FrameSeed, position: Position) {
        put_u32(frame, 0, FRAME_MAGIC);
        frame[4] = FRAME_VERSION;
        frame[5] = FRAME_HEADER_BYTES as u8;
        put_u16(frame, 6, if self.mark { FLAG_MARK } else { 0 });
        put_u32(frame, 8, self.payload_length);
        put_u32(frame, 12, self.epoch.get());
        put_u64(frame, 16, self.base_offset.get());
        put_u32(frame, 24, self.last_offset_delta);
        put_u32(frame, 28, self.count);
        put_i64(frame, 32, self.max_timestamp.get());
        put_i64(frame, 40, self.append_time.get());
        put_u64(frame, 48, self.durable_end.get());
        put_u32(frame, 56, self.payload_crc);
        let crc = header_crc(frame, self.payload_length as usize, seed, position);
        put_u32(frame, 60, crc);
    }

    /// Reads and checks the header at the start of `bytes`; of the batch behind it, its first 16
    /// bytes must be there too.
    ///
    /// # Errors
    /// Says why this is no frame of that place.
    pub fn read(bytes: &[u8], seed: FrameSeed, position: Position) -> Result<Self, FrameError> {
        if bytes.len() < FRAME_HEADER_BYTES {
            let (needed, given) = (FRAME_HEADER_BYTES, bytes.len());
            return Err(FrameError::Truncated { needed, given });
        }
        if u32_at(bytes, 0) != FRAME_MAGIC {
            return Err(FrameError::Absent);
        }
        if bytes[4] != FRAME_VERSION {
            return Err(other_version(bytes, seed, position));
        }
        let (flags, payload) = (u16_at(bytes, 6), u32_at(bytes, 8) as usize);
        if usize::from(bytes[5]) != FRAME_HEADER_BYTES
            || flags & !FLAG_MARK != 0
            || payload > BATCH_BYTES_MAX
            || (1..BATCH_PREFIX_BYTES).contains(&payload)
        {
            return Err(FrameError::Field);
        }
        let needed = FRAME_HEADER_BYTES + payload.min(BATCH_PREFIX_BYTES);
        if bytes.len() < needed {
            return Err(FrameError::Truncated { needed, given: bytes.len() });
        }
        if header_crc(bytes, payload, seed, position) != u32_at(bytes, 60) {
            return Err(FrameError::HeaderChecksum);
        }
        let header = Self {
            mark: flags & FLAG_MARK != 0,
            payload_length: u32_at(bytes, 8),
            epoch: Epoch::new(u32_at(bytes, 12)),
            base_offset: Offset::new(u64_at(bytes, 16)),
            last_offset_delta: u32_at(bytes, 24),
            count: u32_at(bytes, 28),
            max_timestamp: Millis::new(i64_at(bytes, 32)),
            append_time: Millis::new(i64_at(bytes, 40)),
            durable_end: Offset::new(u64_at(bytes, 48)),
            payload_crc: u32_at(bytes, 56),
        };
        if header.mark != (payload == 0)
            || header.epoch > Epoch::MAX
            || header.base_offset > Offset::MAX
            || header.durable_end > header.base_offset
        {
            return Err(FrameError::Field);
        }
        Ok(header)
    }

    /// The batch of the frame that starts `bytes`, checked against the payload CRC.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] or [`FrameError::PayloadChecksum`].
    pub fn payload<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], FrameError> {
        let needed = FRAME_HEADER_BYTES + self.payload_length as usize;
        let frame =
            bytes.get(..needed).ok_or(FrameError::Truncated { needed, given: bytes.len() })?;
        let batch = &frame[FRAME_HEADER_BYTES..];
        if self.mark || payload_crc(batch) == self.payload_crc {
            Ok(batch)
        } else {
            Err(FrameError::PayloadChecksum)
        }
    }
}

/// Bytes that a batch of `payload` bytes takes in a segment: header, batch, padding.
#[must_use]
pub const fn frame_bytes(payload: usize) -> usize {
    (FRAME_HEADER_BYTES + payload).next_multiple_of(FRAME_ALIGNMENT)
}

/// CRC-32 of a batch from its byte 16 on.
///
/// # Panics
/// When `batch` is shorter than 16 bytes.
#[must_use]
pub fn payload_crc(batch: &[u8]) -> u32 {
    crc32(&batch[BATCH_PREFIX_BYTES..])
}

fn header_crc(frame: &[u8], payload: usize, seed: FrameSeed, position: Position) -> u32 {
    sealed_crc(frame, FRAME_HEADER_BYTES, payload, seed, position)
}

/// The CRC that ends a header of `header` bytes with a batch of `payload` bytes behind it.
fn sealed_crc(
    frame: &[u8],
    header: usize,
    payload: usize,
    seed: FrameSeed,
    position: Position,
) -> u32 {
    let file = if planted!(UnzeroedRecycled) { 0 } else { seed.file.get() };
    let position = if planted!(CrcWithoutPosition) { 0 } else { position.get() };
    crc32_of(&[
        &seed.uid.get().to_le_bytes(),
        &file.to_le_bytes(),
        &position.to_le_bytes(),
        &frame[..header - 4],
        &frame[header..header + payload.min(BATCH_PREFIX_BYTES)],
    ])
}

/// What a frame is whose version is not ours: of a version yet unknown, or damaged.
fn other_version(bytes: &[u8], seed: FrameSeed, position: Position) -> FrameError {
    let header = usize::from(bytes[5]);
    if header < OTHER_HEADER_BYTES_MIN {
        return FrameError::Field;
    }
    let needed = header + BATCH_PREFIX_BYTES;
    if bytes.len() < needed {
        return FrameError::Truncated { needed, given: bytes.len() };
    }
    // With a batch behind it, or without one.
    let known = [BATCH_PREFIX_BYTES, 0].map(|payload| {
        sealed_crc(bytes, header, payload, seed, position) == u32_at(bytes, header - 4)
    });
    if known.contains(&true) { FrameError::Version(bytes[4]) } else { FrameError::HeaderChecksum }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::tests::golden;

    const SEED: FrameSeed = FrameSeed { uid: PartitionUid::new(7), file: FileNumber::new(3) };

    fn frame() -> Vec<u8> {
        let batch = golden();
        let header = FrameHeader {
            mark: false,
            payload_length: batch.len() as u32,
            epoch: Epoch::new(2),
            base_offset: Offset::new(41),
            last_offset_delta: 0,
            count: 1,
            max_timestamp: Millis::new(1_700_000_000_000),
            append_time: Millis::new(1_700_000_000_005),
            durable_end: Offset::new(40),
            payload_crc: payload_crc(&batch),
        };
        let mut frame = vec![0; header.frame_bytes()];
        frame[64..64 + batch.len()].copy_from_slice(&batch);
        header.write(&mut frame, SEED, Position::new(4096));
        frame
    }

    #[test]
    fn a_frame_reads_back_where_it_was_written() {
        let frame = frame();
        let header = FrameHeader::read(&frame, SEED, Position::new(4096)).unwrap();
        assert_eq!(header.base_offset, Offset::new(41));
        assert_eq!(header.next_offset(), Offset::new(42));
        assert_eq!(header.payload(&frame).unwrap(), golden());
    }

    #[test]
    fn a_frame_does_not_belong_elsewhere() {
        let frame = frame();
        let other_file = FrameSeed { file: FileNumber::new(4), ..SEED };
        let other_uid = FrameSeed { uid: PartitionUid::new(8), ..SEED };
        for (seed, position) in [(other_file, 4096), (other_uid, 4096), (SEED, 8192)] {
            let read = FrameHeader::read(&frame, seed, Position::new(position));
            assert_eq!(read, Err(FrameError::HeaderChecksum));
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let good = frame();
        let end = 64 + golden().len();
        for bit in 0..end * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let read = FrameHeader::read(&bad, SEED, Position::new(4096))
                .and_then(|header| header.payload(&bad).map(<[u8]>::len));
            assert!(read.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn another_version_is_told_from_damage() {
        for (header, payload) in [(72, 400), (48, 0), (255, 16)] {
            let mut later = vec![7; header + payload.max(16)];
            later[..4].copy_from_slice(b"CTNF");
            (later[4], later[5]) = (2, header as u8);
            let crc = sealed_crc(&later, header, payload, SEED, Position::new(4096));
            put_u32(&mut later, header - 4, crc);
            let read = |at| FrameHeader::read(&later, SEED, Position::new(at));
            assert_eq!(read(4096), Err(FrameError::Version(2)));
            assert_eq!(read(8192), Err(FrameError::HeaderChecksum));
        }
        let mut flipped = frame();
        flipped[4] ^= 2;
        let read = FrameHeader::read(&flipped, SEED, Position::new(4096));
        assert_eq!(read, Err(FrameError::HeaderChecksum));
    }

    /// Pins the bytes: a change here is a change of the disk format.
    #[test]
    fn golden_frame() {
        let hex: String = frame()[..64].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, include_str!("../golden/frame-v1.hex").trim());
    }
}
