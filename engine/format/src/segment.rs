//! The first block of a segment file, and the block that seals it.
//!
//! Header, little-endian, 128 bytes of a 4 KiB block, zeros behind:
//!
//! ```text
//!  0 magic [8]   8 version u16  10 length u16  12 incompatible features u32  16 cluster u128
//! 32 topic u128 48 uid u64      56 file u64    64 base offset u64            72 partition u32
//! 76 epoch u32  80 created i64  88 zeros       124 CRC-32 of bytes 0 to 124
//! ```
//!
//! Footer, the same way: `0 magic [8], 8 version u16, 10 length u16, 12 zeros, 16 uid, 24 file,
//! 32 base offset, 40 end offset, 48 end position, 56 batches, 64 records, 72 max timestamp,
//! 80 last append time, 88 zeros, 124 CRC-32`.

use crate::{
    bytes_le::{array, i64_at, put_i64, put_u16, put_u32, put_u64, put_u128},
    bytes_le::{u16_at, u32_at, u64_at, u128_at},
    checksum::crc32,
    ids::{
        ClusterId, Epoch, FileNumber, Millis, Offset, PartitionIndex, PartitionUid, Position,
        TopicId,
    },
};

const HEADER_MAGIC: [u8; 8] = *b"CTNSEGMT";
const FOOTER_MAGIC: [u8; 8] = *b"CTNSEALD";
const VERSION: u16 = 1;
const LENGTH: u16 = 128;
const CRC_AT: usize = 124;

/// Bytes of a header or footer that carry meaning.
pub const SEGMENT_HEADER_BYTES: usize = LENGTH as usize;

/// Why a block is not the header or footer that it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentHeaderError {
    /// Fewer bytes than a header has.
    #[error("a segment header has 128 bytes, {0} are there")]
    Truncated(usize),
    /// Another magic: not a segment, or an unwritten block.
    #[error("this is no segment header")]
    Magic,
    /// Damaged.
    #[error("the segment header is damaged")]
    Checksum,
    /// Written by a version that this build does not know.
    #[error("segment format version {0} is unknown to this build")]
    Version(u16),
    /// Needs a feature that this build does not have.
    #[error("the segment needs features {0:#x}, unknown to this build")]
    Features(u32),
}

/// What a segment file says of itself in its first block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// The cluster.
    pub cluster: ClusterId,
    /// The topic.
    pub topic: TopicId,
    /// The partition within the topic.
    pub partition: PartitionIndex,
    /// The partition's name on disk.
    pub uid: PartitionUid,
    /// This file's number.
    pub file: FileNumber,
    /// The offset of the first record that this file may hold.
    pub base_offset: Offset,
    /// The epoch in which it was begun.
    pub epoch: Epoch,
    /// When it was begun.
    pub created: Millis,
}

/// What sealing a segment left in its last block; a convenience of `segment dump`, never an
/// authority.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentFooter {
    /// The partition's name on disk.
    pub uid: PartitionUid,
    /// This file's number.
    pub file: FileNumber,
    /// The first offset.
    pub base_offset: Offset,
    /// The next offset after the last record.
    pub end_offset: Offset,
    /// Where the last frame's block ends: this block's place.
    pub end_position: Position,
    /// Batches in the segment.
    pub batches: u64,
    /// Records in the segment.
    pub records: u64,
    /// The greatest record timestamp.
    pub max_timestamp: Millis,
    /// The append time of the last batch.
    pub last_append_time: Millis,
}

fn start(block: &mut [u8], magic: [u8; 8]) {
    block[..LENGTH as usize].fill(0);
    block[0..8].copy_from_slice(&magic);
    put_u16(block, 8, VERSION);
    put_u16(block, 10, LENGTH);
}

fn finish(block: &mut [u8]) {
    let crc = crc32(&block[..CRC_AT]);
    put_u32(block, CRC_AT, crc);
}

fn check(block: &[u8], magic: [u8; 8]) -> Result<(), SegmentHeaderError> {
    if block.len() < LENGTH as usize {
        return Err(SegmentHeaderError::Truncated(block.len()));
    }
    if array::<8>(block, 0) != magic {
        return Err(SegmentHeaderError::Magic);
    }
    if crc32(&block[..CRC_AT]) != u32_at(block, CRC_AT) {
        return Err(SegmentHeaderError::Checksum);
    }
    if u16_at(block, 8) != VERSION || u16_at(block, 10) != LENGTH {
        return Err(SegmentHeaderError::Version(u16_at(block, 8)));
    }
    Ok(())
}

impl SegmentHeader {
    /// Writes the header at the start of `block`; what stands behind its 128 bytes stays.
    ///
    /// # Panics
    /// When `block` is shorter than the header.
    pub fn write(&self, block: &mut [u8]) {
        start(block, HEADER_MAGIC);
        put_u128(block, 16, self.cluster.get());
        put_u128(block, 32, self.topic.get());
        put_u64(block, 48, self.uid.get());
        put_u64(block, 56, self.file.get());
        put_u64(block, 64, self.base_offset.get());
        put_u32(block, 72, self.partition.get());
        put_u32(block, 76, self.epoch.get());
        put_i64(block, 80, self.created.get());
        finish(block);
    }

    /// Reads and checks the header at the start of `block`.
    ///
    /// # Errors
    /// Says why it is none, or why this build must not read the file.
    pub fn read(block: &[u8]) -> Result<Self, SegmentHeaderError> {
        check(block, HEADER_MAGIC)?;
        if u32_at(block, 12) != 0 {
            return Err(SegmentHeaderError::Features(u32_at(block, 12)));
        }
        Ok(Self {
            cluster: ClusterId::new(u128_at(block, 16)),
            topic: TopicId::new(u128_at(block, 32)),
            uid: PartitionUid::new(u64_at(block, 48)),
            file: FileNumber::new(u64_at(block, 56)),
            base_offset: Offset::new(u64_at(block, 64)),
            partition: PartitionIndex::new(u32_at(block, 72)),
            epoch: Epoch::new(u32_at(block, 76)),
            created: Millis::new(i64_at(block, 80)),
        })
    }
}

impl SegmentFooter {
    /// Writes the footer at the start of `block`; what stands behind its 128 bytes stays.
    ///
    /// # Panics
    /// When `block` is shorter than the footer.
    pub fn write(&self, block: &mut [u8]) {
        start(block, FOOTER_MAGIC);
        put_u64(block, 16, self.uid.get());
        put_u64(block, 24, self.file.get());
        put_u64(block, 32, self.base_offset.get());
        put_u64(block, 40, self.end_offset.get());
        put_u64(block, 48, self.end_position.get());
        put_u64(block, 56, self.batches);
        put_u64(block, 64, self.records);
        put_i64(block, 72, self.max_timestamp.get());
        put_i64(block, 80, self.last_append_time.get());
        finish(block);
    }

    /// Reads and checks the footer at the start of `block`.
    ///
    /// # Errors
    /// Says why it is none.
    pub fn read(block: &[u8]) -> Result<Self, SegmentHeaderError> {
        check(block, FOOTER_MAGIC)?;
        Ok(Self {
            uid: PartitionUid::new(u64_at(block, 16)),
            file: FileNumber::new(u64_at(block, 24)),
            base_offset: Offset::new(u64_at(block, 32)),
            end_offset: Offset::new(u64_at(block, 40)),
            end_position: Position::new(u64_at(block, 48)),
            batches: u64_at(block, 56),
            records: u64_at(block, 64),
            max_timestamp: Millis::new(i64_at(block, 72)),
            last_append_time: Millis::new(i64_at(block, 80)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            cluster: ClusterId::new(1 << 100),
            topic: TopicId::new(2 << 90),
            partition: PartitionIndex::new(3),
            uid: PartitionUid::new(4),
            file: FileNumber::new(5),
            base_offset: Offset::new(6),
            epoch: Epoch::new(7),
            created: Millis::new(8),
        }
    }

    #[test]
    fn header_and_footer_read_back() {
        let mut block = vec![0; 4096];
        header().write(&mut block);
        assert_eq!(SegmentHeader::read(&block), Ok(header()));
        let footer = SegmentFooter {
            uid: PartitionUid::new(1),
            file: FileNumber::new(2),
            base_offset: Offset::new(3),
            end_offset: Offset::new(4),
            end_position: Position::new(5),
            batches: 6,
            records: 7,
            max_timestamp: Millis::new(8),
            last_append_time: Millis::new(9),
        };
        footer.write(&mut block);
        assert_eq!(SegmentFooter::read(&block), Ok(footer));
        assert_eq!(SegmentHeader::read(&block), Err(SegmentHeaderError::Magic));
    }

    #[test]
    fn unknown_features_refuse() {
        let mut block = vec![0; 4096];
        header().write(&mut block);
        put_u32(&mut block, 12, 2);
        assert_eq!(SegmentHeader::read(&block), Err(SegmentHeaderError::Checksum));
        finish(&mut block);
        assert_eq!(SegmentHeader::read(&block), Err(SegmentHeaderError::Features(2)));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let mut good = vec![0; 4096];
        header().write(&mut good);
        for bit in 0..LENGTH as usize * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::read(&bad).is_err(), "bit {bit}");
        }
    }

    /// Pins the bytes: a change here is a change of the disk format.
    #[test]
    fn golden_header() {
        let mut block = vec![0; 4096];
        header().write(&mut block);
        let hex: String = block[..128].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, include_str!("../golden/segment-header-v1.hex").trim());
    }
}
