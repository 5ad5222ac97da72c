//! What was read: batches, checked and decompressed, and the records in them.

use bytes::Bytes;
use catena_format::{
    BATCH_HEADER_BYTES, BatchHeader, Codec, Epoch, Offset, PartitionIndex,
    records::{Record, Records},
};

use crate::{compression::Compression, error::Error};

/// A batch of a partition: its CRC-32C holds, and its records are decompressed. It shares the bytes
/// that came from the server when they were not compressed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    partition: PartitionIndex,
    header: BatchHeader,
    base: Offset,
    epoch: Epoch,
    from: Offset,
    records: Bytes,
}

impl Batch {
    /// Checks and decompresses the one batch that `bytes` are. Records below `from` are not shown;
    /// `limit` bounds the decompressed bytes.
    pub(crate) fn read(
        partition: PartitionIndex,
        bytes: &Bytes,
        from: Offset,
        limit: usize,
    ) -> Result<Self, Error> {
        let header = BatchHeader::parse(bytes)?;
        header.verify(bytes)?;
        let (base, epoch) = (header.stored_offset()?, header.stored_epoch()?);
        let mut records = bytes.slice(BATCH_HEADER_BYTES..);
        if header.codec != Codec::None {
            records = Compression::from(header.codec).decompress(&records, limit)?.into();
        }
        Ok(Self { partition, header, base, epoch, from, records })
    }

    /// The partition.
    #[must_use]
    pub fn partition(&self) -> PartitionIndex {
        self.partition
    }

    /// The first offset that is shown: where reading began, if that is within the batch.
    #[must_use]
    pub fn first_offset(&self) -> Offset {
        self.base.max(self.from)
    }

    /// The offset after the last record.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        Offset::new(self.base.get() + u64::from(self.header.count))
    }

    /// The epoch of the chain that took it.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How it was compressed.
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.header.codec.into()
    }

    /// Bytes of the records, decompressed.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.records.len()
    }

    /// The records with their offsets, borrowed from this batch. They are read as they are asked
    /// for: an error, [`Error::Record`], is the last item.
    pub fn records(&self) -> impl Iterator<Item = Result<(Offset, Record<'_>), Error>> {
        let records = Records::new(&self.records, self.header.count, self.header.base_timestamp);
        let shown = records.map(|record| {
            let record = record?;
            Ok((Offset::new(self.base.get() + u64::from(record.offset_delta)), record))
        });
        shown.filter(|read| read.as_ref().map_or(true, |(offset, _)| *offset >= self.from))
    }
}

/// What a fetch brought.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetched {
    /// The partition.
    pub partition: PartitionIndex,
    /// Record batches, back to back; the CRC-32C of each holds.
    pub batches: Bytes,
    /// The offset to go on at.
    pub next_offset: Offset,
    /// The end of what can be read by now.
    pub high_watermark: Offset,
    /// The first readable offset.
    pub log_start: Offset,
}

impl Fetched {
    /// The batches one by one, with their headers, as they were sent.
    ///
    /// # Errors
    /// [`Error::Batch`] where the bytes are none.
    pub fn batches(&self) -> impl Iterator<Item = Result<(BatchHeader, Bytes), Error>> {
        split(self.batches.clone()).map(|batch| {
            let batch = batch?;
            Ok((BatchHeader::parse(&batch)?, batch))
        })
    }

    /// Hands every record from offset `from` on to `each`, with its offset.
    ///
    /// # Errors
    /// The first of the batches', the records', or `each`'s own.
    pub fn each_record<E: From<Error>>(
        &self,
        from: Offset,
        mut each: impl FnMut(Offset, &Record<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let limit = crate::compression::DECOMPRESSED_BYTES_MAX;
        for bytes in split(self.batches.clone()) {
            let batch = Batch::read(self.partition, &bytes?, from, limit)?;
            for record in batch.records() {
                let (offset, record) = record?;
                each(offset, &record)?;
            }
        }
        Ok(())
    }
}

/// The batches that stand back to back in the payload of a fetch.
pub(crate) fn split(mut bytes: Bytes) -> impl Iterator<Item = Result<Bytes, Error>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let batch = match BatchHeader::length_of(&bytes) {
            Ok(length) if length <= bytes.len() => Ok(bytes.split_to(length)),
            Ok(_) => Err(Error::Protocol("the last batch of a fetch is incomplete".to_owned())),
            Err(error) => Err(Error::Batch(error)),
        };
        if batch.is_err() {
            bytes.clear();
        }
        Some(batch)
    })
}
