//! Records inside a batch, uncompressed: Kafka's v2 layout with zigzag varints.
//!
//! ```text
//! length varint │ attributes i8 (0) │ timestamp delta varlong │ offset delta varint
//! key length varint (−1: null) │ key │ value length varint (−1: null) │ value
//! header count varint │ each: key length varint │ key │ value length varint (−1: null) │ value
//! ```

use crate::{
    batch::{BATCH_HEADER_BYTES, Codec, MAGIC},
    checksum,
    ids::{Millis, ProducerEpoch, ProducerId, Sequence},
    limits::BATCH_BYTES_MAX,
};

/// Why bytes are not records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The bytes end within a record.
    #[error("the records end too early")]
    Truncated,
    /// A length or count is not possible.
    #[error("a record has a length that is not possible")]
    Length,
    /// A varint is longer than its type.
    #[error("a record has a number that is too large")]
    Varint,
    /// Bytes are left when all announced records were read.
    #[error("{0} bytes stand behind the last record")]
    Trailing(usize),
    /// The batch would be larger than any may be.
    #[error("the batch would have {0} bytes, more than any may have")]
    TooLarge(usize),
}

/// A header of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header<'a> {
    /// Its name.
    pub key: &'a [u8],
    /// Its value, which may be null.
    pub value: Option<&'a [u8]>,
}

/// A record, borrowed from its batch. Null and empty keys and values are different things.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// Its offset less the batch's base offset.
    pub offset_delta: u32,
    /// The producer's time.
    pub timestamp: Millis,
    /// The key, which may be null.
    pub key: Option<&'a [u8]>,
    /// The value, which may be null.
    pub value: Option<&'a [u8]>,
    headers: &'a [u8],
    header_count: usize,
}

impl<'a> Record<'a> {
    /// The headers, in order; they were checked when the record was read.
    pub fn headers(&self) -> impl Iterator<Item = Header<'a>> + use<'a> {
        let mut reader = Reader(self.headers);
        (0..self.header_count).map_while(move |_| reader.header().ok())
    }
}

/// Who sends a batch, for deduplication.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Producer {
    /// The producer, or [`ProducerId::NONE`].
    pub id: ProducerId,
    /// Its generation.
    pub epoch: ProducerEpoch,
    /// The first record's sequence.
    pub sequence: Sequence,
}

impl Producer {
    /// Nobody in particular: such batches are not deduplicated.
    pub const NONE: Self =
        Self { id: ProducerId::NONE, epoch: ProducerEpoch::new(-1), sequence: Sequence::NONE };
}

/// Writes the producer into a finished batch, and its CRC-32C anew.
///
/// # Panics
/// When `batch` is shorter than [`BATCH_HEADER_BYTES`].
pub fn stamp(batch: &mut [u8], producer: Producer) {
    assert!(batch.len() >= BATCH_HEADER_BYTES, "a batch has a header");
    batch[43..51].copy_from_slice(&producer.id.get().to_be_bytes());
    batch[51..53].copy_from_slice(&producer.epoch.get().to_be_bytes());
    batch[53..57].copy_from_slice(&producer.sequence.get().to_be_bytes());
    let crc = checksum::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// Puts records together to a batch.
#[derive(Clone, Debug, Default)]
pub struct BatchBuilder {
    records: Vec<u8>,
    scratch: Vec<u8>,
    count: u32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl BatchBuilder {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a record.
    pub fn push(
        &mut self,
        timestamp: Millis,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) {
        if self.count == 0 {
            self.base_timestamp = timestamp.get();
            self.max_timestamp = timestamp.get();
        }
        self.max_timestamp = self.max_timestamp.max(timestamp.get());
        let body = &mut self.scratch;
        body.clear();
        body.push(0);
        put_varint(body, timestamp.get().wrapping_sub(self.base_timestamp));
        put_varint(body, i64::from(self.count));
        put_bytes(body, key);
        put_bytes(body, value);
        put_varint(body, length_of(headers.len()));
        for header in headers {
            put_bytes(body, Some(header.key));
            put_bytes(body, header.value);
        }
        put_varint(&mut self.records, length_of(self.scratch.len()));
        self.records.extend_from_slice(&self.scratch);
        self.count += 1;
    }

    /// Records so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of the batch so far, uncompressed.
    #[must_use]
    pub fn bytes(&self) -> usize {
        BATCH_HEADER_BYTES + self.records.len()
    }

    /// The records as they stand behind an uncompressed batch's header.
    #[must_use]
    pub fn records(&self) -> &[u8] {
        &self.records
    }

    /// The finished batch, uncompressed.
    ///
    /// # Errors
    /// [`RecordError::TooLarge`].
    pub fn build(&self, producer: Producer) -> Result<Vec<u8>, RecordError> {
        self.build_with(producer, Codec::None, &self.records)
    }

    /// The finished batch around the records as `codec` compressed them.
    ///
    /// # Errors
    /// [`RecordError::TooLarge`].
    ///
    /// # Panics
    /// When no record was added.
    pub fn build_with(
        &self,
        producer: Producer,
        codec: Codec,
        records: &[u8],
    ) -> Result<Vec<u8>, RecordError> {
        assert!(self.count > 0, "a batch has a record");
        let total = BATCH_HEADER_BYTES + records.len();
        if total > BATCH_BYTES_MAX {
            return Err(RecordError::TooLarge(total));
        }
        let count = i32::try_from(self.count).map_err(|_| RecordError::Length)?;
        let mut batch = Vec::with_capacity(total);
        batch.extend_from_slice(&0i64.to_be_bytes());
        let length = i32::try_from(total - 12).expect("a batch is at most 16 MiB");
        batch.extend_from_slice(&length.to_be_bytes());
        batch.extend_from_slice(&(-1i32).to_be_bytes());
        batch.extend_from_slice(&MAGIC.to_be_bytes());
        batch.extend_from_slice(&[0; 4]);
        batch.extend_from_slice(&i16::from(codec.number()).to_be_bytes());
        batch.extend_from_slice(&(count - 1).to_be_bytes());
        batch.extend_from_slice(&self.base_timestamp.to_be_bytes());
        batch.extend_from_slice(&self.max_timestamp.to_be_bytes());
        batch.extend_from_slice(&producer.id.get().to_be_bytes());
        batch.extend_from_slice(&producer.epoch.get().to_be_bytes());
        batch.extend_from_slice(&producer.sequence.get().to_be_bytes());
        batch.extend_from_slice(&count.to_be_bytes());
        batch.extend_from_slice(records);
        let crc = checksum::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        Ok(batch)
    }
}

/// Reads `count` records, one after another, from uncompressed bytes.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    reader: Reader<'a>,
    left: u32,
    base_timestamp: Millis,
    failed: bool,
}

impl<'a> Records<'a> {
    /// The records of a batch: `bytes` is what stands behind its header, decompressed.
    #[must_use]
    pub fn new(bytes: &'a [u8], count: u32, base_timestamp: Millis) -> Self {
        Self { reader: Reader(bytes), left: count, base_timestamp, failed: false }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        if self.left == 0 {
            let trailing = self.reader.0.len();
            self.failed = trailing > 0;
            return self.failed.then_some(Err(RecordError::Trailing(trailing)));
        }
        self.left -= 1;
        let record = self.reader.record(self.base_timestamp);
        self.failed = record.is_err();
        Some(record)
    }
}

#[derive(Clone, Copy, Debug)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn record(&mut self, base: Millis) -> Result<Record<'a>, RecordError> {
        let length = usize::try_from(self.varint()?).map_err(|_| RecordError::Length)?;
        let mut body = Reader(self.take(length)?);
        body.take(1)?;
        let timestamp = Millis::new(base.get().wrapping_add(body.varint()?));
        let offset_delta = u32::try_from(body.varint()?).map_err(|_| RecordError::Length)?;
        let (key, value) = (body.bytes()?, body.bytes()?);
        let header_count = usize::try_from(body.varint()?).map_err(|_| RecordError::Length)?;
        let headers = body.0;
        // Each header takes at least two bytes: a count that is too large ends early.
        for _ in 0..header_count {
            body.header()?;
        }
        if !body.0.is_empty() {
            return Err(RecordError::Trailing(body.0.len()));
        }
        Ok(Record { offset_delta, timestamp, key, value, headers, header_count })
    }

    fn header(&mut self) -> Result<Header<'a>, RecordError> {
        let key = self.bytes()?.ok_or(RecordError::Length)?;
        Ok(Header { key, value: self.bytes()? })
    }

    fn bytes(&mut self) -> Result<Option<&'a [u8]>, RecordError> {
        match self.varint()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| RecordError::Length)?;
                self.take(length).map(Some)
            }
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], RecordError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(RecordError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<i64, RecordError> {
        let mut raw = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.take(1)?[0];
            if shift == 63 && byte > 1 {
                return Err(RecordError::Varint);
            }
            raw |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((raw >> 1).cast_signed() ^ -((raw & 1).cast_signed()));
            }
        }
        Err(RecordError::Varint)
    }
}

fn length_of(length: usize) -> i64 {
    i64::try_from(length).expect("a length in memory fits 63 bits")
}

fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut raw = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while raw >= 0x80 {
        out.push((raw & 0x7f) as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => put_varint(out, -1),
        Some(bytes) => {
            put_varint(out, length_of(bytes.len()));
            out.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::{BatchHeader, tests::golden};

    #[test]
    fn one_record_is_built_as_kafka_builds_it() {
        let mut builder = BatchBuilder::new();
        builder.push(Millis::new(1_700_000_000_000), None, Some(b"catena"), &[]);
        assert_eq!(builder.build(Producer::NONE).unwrap(), golden());
    }

    #[test]
    fn a_stamped_batch_is_as_if_built_so() {
        let mut builder = BatchBuilder::new();
        builder.push(Millis::new(1_700_000_000_000), None, Some(b"catena"), &[]);
        let (id, epoch) = (ProducerId::new(7), ProducerEpoch::new(2));
        let producer = Producer { id, epoch, sequence: Sequence::new(9) };
        let mut batch = builder.build(Producer::NONE).unwrap();
        stamp(&mut batch, producer);
        assert_eq!(batch, builder.build(producer).unwrap());
    }

    #[test]
    fn an_announced_record_that_is_missing_is_an_error() {
        let batch = golden();
        let mut records = Records::new(&batch[61..], 2, Millis::new(0));
        assert!(records.next().unwrap().is_ok());
        assert_eq!(records.next(), Some(Err(RecordError::Truncated)));
        assert_eq!(records.next(), None);
        let mut records = Records::new(&batch[61..], 0, Millis::new(0));
        assert_eq!(records.next(), Some(Err(RecordError::Trailing(13))));
    }

    type Owned = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

    fn owned() -> impl Strategy<Value = Owned> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..200);
        let headers = prop::collection::vec((bytes(), prop::option::of(bytes())), 0..4);
        (0..i64::MAX / 4, prop::option::of(bytes()), prop::option::of(bytes()), headers)
    }

    proptest! {
        #[test]
        fn records_read_back(records in prop::collection::vec(owned(), 1..20)) {
            let mut builder = BatchBuilder::new();
            for (time, key, value, headers) in &records {
                let headers: Vec<_> = headers.iter().map(|(key, value)| Header {
                    key, value: value.as_deref(),
                }).collect();
                builder.push(Millis::new(*time), key.as_deref(), value.as_deref(), &headers);
            }
            let batch = builder.build(Producer::NONE).unwrap();
            let header = BatchHeader::parse(&batch).unwrap();
            header.verify(&batch).unwrap();
            let read = Records::new(&batch[61..], header.count, header.base_timestamp);
            let read: Vec<_> = read.map(|record| {
                let record = record.unwrap();
                let headers = record.headers();
                let headers = headers.map(|h| (h.key.to_vec(), h.value.map(<[u8]>::to_vec)));
                let (key, value) = (record.key, record.value);
                (record.timestamp.get(), key.map(<[u8]>::to_vec), value.map(<[u8]>::to_vec),
                    headers.collect::<Vec<_>>())
            }).collect();
            prop_assert_eq!(read, records);
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let total = Records::new(&bytes, 1_000_000, Millis::new(0)).flatten().count();
            prop_assert!(total <= bytes.len());
            let _ = BatchHeader::parse(&bytes);
        }
    }
}
