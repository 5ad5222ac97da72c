//! What is sent, and what the server says of it.

use std::time::Duration;

use catena_format::{Epoch, Millis, Offset, PartitionIndex, records::Header};
use catena_wire::{Durability, ProduceResponse};

/// The most bytes of a record beside its keys and values: its length, attributes, two deltas, three
/// lengths or counts, each as a varint.
const RECORD_OVERHEAD_BYTES_MAX: usize = 10 * 7 + 1;
/// The most bytes of a header beside its key and value.
const HEADER_OVERHEAD_BYTES_MAX: usize = 10 * 2;

/// A record to send. Null and empty keys and values are different things.
///
/// ```
/// # use catena_client::NewRecord;
/// let record = NewRecord::value(b"hello").with_key(b"greeting");
/// assert_eq!(record.key, Some(&b"greeting"[..]));
/// let tombstone = NewRecord { key: Some(b"greeting"), ..NewRecord::default() };
/// assert_eq!(tombstone.value, None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NewRecord<'a> {
    /// The partition; `None`: the key decides as in Kafka's clients, and records without a key go
    /// to one partition after the other, batch by batch.
    pub partition: Option<PartitionIndex>,
    /// Its time; `None`: now.
    pub timestamp: Option<Millis>,
    /// The key, which may be null.
    pub key: Option<&'a [u8]>,
    /// The value, which may be null.
    pub value: Option<&'a [u8]>,
    /// Headers, in order.
    pub headers: &'a [Header<'a>],
}

impl<'a> NewRecord<'a> {
    /// A record with a value and nothing else.
    #[must_use]
    pub fn value(value: &'a [u8]) -> Self {
        Self { value: Some(value), ..Self::default() }
    }

    /// The same with a key.
    #[must_use]
    pub fn with_key(self, key: &'a [u8]) -> Self {
        Self { key: Some(key), ..self }
    }

    /// The same with headers.
    #[must_use]
    pub fn with_headers(self, headers: &'a [Header<'a>]) -> Self {
        Self { headers, ..self }
    }

    /// The same for a partition.
    #[must_use]
    pub fn with_partition(self, partition: PartitionIndex) -> Self {
        Self { partition: Some(partition), ..self }
    }

    /// The same with a time.
    #[must_use]
    pub fn with_timestamp(self, timestamp: Millis) -> Self {
        Self { timestamp: Some(timestamp), ..self }
    }

    /// The most bytes that it takes in a batch, uncompressed.
    pub(crate) fn bytes_max(&self) -> usize {
        let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        let header = |h: &Header<'_>| HEADER_OVERHEAD_BYTES_MAX + h.key.len() + length(h.value);
        let headers: usize = self.headers.iter().map(header).sum();
        RECORD_OVERHEAD_BYTES_MAX + length(self.key) + length(self.value) + headers
    }
}

/// What the server said of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// The partition.
    pub partition: PartitionIndex,
    /// The first record's offset.
    pub first_offset: Offset,
    /// The offset after the last record.
    pub next_offset: Offset,
    /// The epoch of the chain.
    pub epoch: Epoch,
    /// The level reached.
    pub level: Durability,
    /// Copies on disks.
    pub copies: u8,
    /// The level reached is below `chain-disk`: should the server fail, other records may get these
    /// offsets.
    pub tentative: bool,
    /// From the first record of the batch to the receipt.
    pub latency: Duration,
}

impl Receipt {
    pub(crate) fn of(response: &ProduceResponse<'_>, latency: Duration) -> Self {
        Self {
            partition: response.partition,
            first_offset: response.first_offset,
            next_offset: response.next_offset,
            epoch: response.epoch,
            level: response.level,
            copies: response.copies,
            tentative: response.flags.tentative,
            latency,
        }
    }
}
