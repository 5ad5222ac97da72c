//! The header of a Kafka v2 record batch, the unit that is produced, stored, replicated, fetched.
//!
//! Layout, big-endian, from Kafka's `DefaultRecordBatch`:
//!
//! ```text
//!  0 base offset i64          8 batch length i32 (from byte 12 on)   12 partition leader epoch i32
//! 16 magic i8 (2)            17 CRC-32C u32 (from byte 21 on)        21 attributes i16
//! 23 last offset delta i32   27 base timestamp i64                   35 max timestamp i64
//! 43 producer id i64         51 producer epoch i16                   53 base sequence i32
//! 57 record count i32        61 records
//! ```
//!
//! The server patches bytes 0 to 8 (base offset) and 12 to 16 (epoch), which the CRC leaves out.

use crate::{
    bytes_le::array,
    checksum,
    ids::{Epoch, Millis, Offset, ProducerEpoch, ProducerId, Sequence},
    limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX},
};

/// Bytes before the first record.
pub const BATCH_HEADER_BYTES: usize = 61;
/// Bytes that the server may patch and that our frame's header CRC covers: up to the magic.
pub const BATCH_PREFIX_BYTES: usize = 16;
/// The only magic that Catena stores.
pub const MAGIC: i8 = 2;

const CODEC_MASK: i16 = 0b111;
const LOG_APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;
const KNOWN_ATTRIBUTES: i16 = CODEC_MASK | LOG_APPEND_TIME | TRANSACTIONAL | CONTROL;

/// How a batch's records are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Codec {
    /// Not at all.
    #[default]
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// Snappy in xerial's framing.
    Snappy,
    /// The LZ4 frame format.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// A codec number that Kafka has not given a meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("compression codec {0} is unknown")]
pub struct CodecUnknown(
    /// The number.
    pub u8,
);

impl TryFrom<u8> for Codec {
    type Error = CodecUnknown;

    fn try_from(number: u8) -> Result<Self, CodecUnknown> {
        Ok(match number {
            0 => Self::None,
            1 => Self::Gzip,
            2 => Self::Snappy,
            3 => Self::Lz4,
            4 => Self::Zstd,
            unknown => return Err(CodecUnknown(unknown)),
        })
    }
}

impl Codec {
    /// The number in a batch's attributes.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }
}

/// What is wrong with the bytes of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The bytes end before what the header needs or announces.
    #[error("a batch of {needed} bytes was announced, {given} were given")]
    Truncated {
        /// Bytes that the batch needs.
        needed: usize,
        /// Bytes at hand.
        given: usize,
    },
    /// The batch's length field is smaller than a header or larger than any batch may be.
    #[error("batch length {0} is not possible")]
    Length(i32),
    /// Not magic 2: an older or newer record format.
    #[error("record format {0} is not supported, only 2 is")]
    Magic(i8),
    /// Attribute bits that Kafka has not given a meaning.
    #[error("batch attributes {0:#06x} hold unknown bits")]
    Attributes(i16),
    /// See [`CodecUnknown`].
    #[error(transparent)]
    Codec(#[from] CodecUnknown),
    /// The record count is zero, negative or above the limit.
    #[error("record count {0} is not possible")]
    Count(i32),
    /// Last offset delta and record count disagree.
    #[error("last offset delta {delta} does not agree with {count} records")]
    Delta {
        /// The last record's offset less the first one's.
        delta: i32,
        /// Records announced.
        count: i32,
    },
    /// Base offset or epoch is negative.
    #[error("base offset {0} is negative")]
    BaseOffset(i64),
    /// The epoch is negative in a stored batch.
    #[error("partition leader epoch {0} is negative")]
    EpochNegative(i32),
    /// The CRC-32C does not match.
    #[error("batch CRC-32C is {stored:#010x}, its bytes give {computed:#010x}")]
    Checksum {
        /// As the header says.
        stored: u32,
        /// As computed.
        computed: u32,
    },
}

/// A batch's header, read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    /// The offset of the first record; whatever a producer likes before the server patches it.
    pub base_offset: i64,
    /// The whole batch in bytes, this header included.
    pub length: usize,
    /// The epoch, −1 where the producer has none.
    pub leader_epoch: i32,
    /// CRC-32C of everything from the attributes on.
    pub crc: u32,
    /// How the records are compressed.
    pub codec: Codec,
    /// The timestamps are the server's.
    pub log_append_time: bool,
    /// Part of a transaction.
    pub transactional: bool,
    /// Holds a transaction marker instead of records.
    pub control: bool,
    /// The last record's offset less the first one's.
    pub last_offset_delta: u32,
    /// The timestamp that the records' deltas start from.
    pub base_timestamp: Millis,
    /// The greatest timestamp of the records.
    pub max_timestamp: Millis,
    /// The producer, or [`ProducerId::NONE`].
    pub producer_id: ProducerId,
    /// Its generation.
    pub producer_epoch: ProducerEpoch,
    /// The first record's sequence.
    pub base_sequence: Sequence,
    /// Records in the batch.
    pub count: u32,
}

fn i16_at(bytes: &[u8], at: usize) -> i16 {
    i16::from_be_bytes(array(bytes, at))
}
fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes(array(bytes, at))
}
fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_be_bytes(array(bytes, at))
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`, which may hold more behind the batch.
    ///
    /// The lengths and counts are checked against each other, the CRC is not (see
    /// [`BatchHeader::verify`]).
    ///
    /// # Errors
    /// Says which field is not possible.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        if bytes.len() < BATCH_HEADER_BYTES {
            return Err(BatchError::Truncated { needed: BATCH_HEADER_BYTES, given: bytes.len() });
        }
        let magic = i8::from_be_bytes([bytes[16]]);
        if magic != MAGIC {
            return Err(BatchError::Magic(magic));
        }
        let length = Self::length_of(bytes)?;
        if bytes.len() < length {
            return Err(BatchError::Truncated { needed: length, given: bytes.len() });
        }
        let attributes = i16_at(bytes, 21);
        if attributes & !KNOWN_ATTRIBUTES != 0 {
            return Err(BatchError::Attributes(attributes));
        }
        let (delta, count) = (i32_at(bytes, 23), i32_at(bytes, 57));
        if count < 1 || count.cast_unsigned() > BATCH_RECORDS_MAX {
            return Err(BatchError::Count(count));
        }
        if delta != count - 1 {
            return Err(BatchError::Delta { delta, count });
        }
        Ok(Self {
            base_offset: i64_at(bytes, 0),
            length,
            leader_epoch: i32_at(bytes, 12),
            crc: u32::from_be_bytes(array(bytes, 17)),
            codec: Codec::try_from((attributes & CODEC_MASK) as u8)?,
            log_append_time: attributes & LOG_APPEND_TIME != 0,
            transactional: attributes & TRANSACTIONAL != 0,
            control: attributes & CONTROL != 0,
            last_offset_delta: delta.cast_unsigned(),
            base_timestamp: Millis::new(i64_at(bytes, 27)),
            max_timestamp: Millis::new(i64_at(bytes, 35)),
            producer_id: ProducerId::new(i64_at(bytes, 43)),
            producer_epoch: ProducerEpoch::new(i16_at(bytes, 51)),
            base_sequence: Sequence::new(i32_at(bytes, 53)),
            count: count.cast_unsigned(),
        })
    }

    /// The whole length in bytes of the batch whose first 12 bytes (at least) are given.
    ///
    /// # Errors
    /// [`BatchError::Truncated`] below 12 bytes, [`BatchError::Length`] for a length that no batch
    /// has.
    pub fn length_of(bytes: &[u8]) -> Result<usize, BatchError> {
        if bytes.len() < 12 {
            return Err(BatchError::Truncated { needed: 12, given: bytes.len() });
        }
        let announced = i32_at(bytes, 8);
        let length = usize::try_from(announced).map_err(|_| BatchError::Length(announced))? + 12;
        if (BATCH_HEADER_BYTES..=BATCH_BYTES_MAX).contains(&length) {
            Ok(length)
        } else {
            Err(BatchError::Length(announced))
        }
    }

    /// Checks the CRC-32C over the batch's bytes, exactly one batch.
    ///
    /// # Errors
    /// [`BatchError::Truncated`] when `batch` is not as long as the header says,
    /// [`BatchError::Checksum`] when the bytes were changed.
    pub fn verify(&self, batch: &[u8]) -> Result<(), BatchError> {
        if batch.len() != self.length {
            return Err(BatchError::Truncated { needed: self.length, given: batch.len() });
        }
        let computed = checksum::crc32c(&batch[21..]);
        if computed == self.crc {
            Ok(())
        } else {
            Err(BatchError::Checksum { stored: self.crc, computed })
        }
    }

    /// The first offset of a stored batch.
    ///
    /// # Errors
    /// [`BatchError::BaseOffset`] when no server has patched it.
    pub fn stored_offset(&self) -> Result<Offset, BatchError> {
        u64::try_from(self.base_offset)
            .map(Offset::new)
            .map_err(|_| BatchError::BaseOffset(self.base_offset))
    }

    /// The epoch of a stored batch.
    ///
    /// # Errors
    /// [`BatchError::EpochNegative`] when no server has patched it.
    pub fn stored_epoch(&self) -> Result<Epoch, BatchError> {
        u32::try_from(self.leader_epoch)
            .map(Epoch::new)
            .map_err(|_| BatchError::EpochNegative(self.leader_epoch))
    }
}

/// Writes the offset and epoch that the head of the chain gave into a batch.
///
/// # Panics
/// When `batch` is shorter than [`BATCH_PREFIX_BYTES`].
pub fn patch(batch: &mut [u8], base_offset: Offset, epoch: Epoch) {
    batch[0..8].copy_from_slice(&base_offset.get().to_be_bytes());
    batch[12..16].copy_from_slice(&epoch.get().to_be_bytes());
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One record, value `catena`, as Kafka's Java client writes it.
    pub(crate) fn golden() -> Vec<u8> {
        let mut batch = Vec::new();
        batch.extend_from_slice(&0i64.to_be_bytes());
        batch.extend_from_slice(&0i32.to_be_bytes());
        batch.extend_from_slice(&(-1i32).to_be_bytes());
        batch.push(2);
        batch.extend_from_slice(&[0; 4]);
        batch.extend_from_slice(&0i16.to_be_bytes());
        batch.extend_from_slice(&0i32.to_be_bytes());
        batch.extend_from_slice(&1_700_000_000_000i64.to_be_bytes());
        batch.extend_from_slice(&1_700_000_000_000i64.to_be_bytes());
        batch.extend_from_slice(&(-1i64).to_be_bytes());
        batch.extend_from_slice(&(-1i16).to_be_bytes());
        batch.extend_from_slice(&(-1i32).to_be_bytes());
        batch.extend_from_slice(&1i32.to_be_bytes());
        batch.extend_from_slice(&[0x18, 0, 0, 0, 1, 12]);
        batch.extend_from_slice(b"catena");
        batch.push(0);
        let length = i32::try_from(batch.len() - 12).unwrap();
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        let crc = checksum::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        batch
    }

    #[test]
    fn a_good_batch_is_read_and_verified() {
        let batch = golden();
        let header = BatchHeader::parse(&batch).unwrap();
        assert_eq!(header.length, batch.len());
        assert_eq!(header.count, 1);
        assert_eq!(header.max_timestamp, Millis::new(1_700_000_000_000));
        header.verify(&batch).unwrap();
    }

    #[test]
    fn patching_leaves_the_crc_valid() {
        let mut batch = golden();
        patch(&mut batch, Offset::new(77), Epoch::new(3));
        let header = BatchHeader::parse(&batch).unwrap();
        assert_eq!(header.stored_offset(), Ok(Offset::new(77)));
        assert_eq!(header.stored_epoch(), Ok(Epoch::new(3)));
        header.verify(&batch).unwrap();
    }

    #[test]
    fn every_flipped_byte_behind_the_crc_is_found() {
        let batch = golden();
        let header = BatchHeader::parse(&batch).unwrap();
        for at in 21..batch.len() {
            let mut bad = batch.clone();
            bad[at] ^= 0x40;
            assert!(header.verify(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn bad_headers_are_named() {
        let with = |at: usize, bytes: &[u8]| {
            let mut batch = golden();
            batch[at..at + bytes.len()].copy_from_slice(bytes);
            BatchHeader::parse(&batch).unwrap_err()
        };
        assert_eq!(with(16, &[1]), BatchError::Magic(1));
        assert_eq!(with(8, &(-1i32).to_be_bytes()), BatchError::Length(-1));
        assert_eq!(with(8, &i32::MAX.to_be_bytes()), BatchError::Length(i32::MAX));
        assert_eq!(with(21, &[0, 7]), BatchError::Codec(CodecUnknown(7)));
        assert_eq!(with(21, &[1, 0]), BatchError::Attributes(0x100));
        assert_eq!(with(57, &[0; 4]), BatchError::Count(0));
        assert_eq!(with(23, &5i32.to_be_bytes()), BatchError::Delta { delta: 5, count: 1 });
        assert_eq!(
            BatchHeader::parse(&golden()[..60]),
            Err(BatchError::Truncated { needed: 61, given: 60 })
        );
        assert!(matches!(
            BatchHeader::parse(&golden()[..70]),
            Err(BatchError::Truncated { given: 70, .. })
        ));
    }
}
