//! Records that are stored only if they get a certain offset.
//!
//! Such a batch is sent once everything before it in its partition is answered, and what is behind
//! waits for its answer. So a condition that does not hold leaves no gap: the sequence goes to the
//! next batch, unless a copy of the refused one may still be on its way and could be stored yet.

use std::time::Instant;

use catena_format::{Millis, Offset, PartitionIndex, records::BatchBuilder};
use catena_wire::ErrorCode;

use super::{Appended, Producer, Refused};
use crate::{
    core::partition::{Batch, BatchId, Open},
    error::Error,
    record::NewRecord,
};

impl Producer {
    /// Takes in a batch of its own, to be stored only if its first record gets the offset
    /// `expected`. Records without a time get `timestamp`.
    ///
    /// # Errors
    /// See [`Refused`].
    pub(crate) fn append_at(
        &mut self,
        partition: PartitionIndex,
        expected: Offset,
        records: &[NewRecord<'_>],
        timestamp: Millis,
        now: Instant,
    ) -> Result<Appended, Refused> {
        let index = partition.get();
        let refused = |text: &str| Err(Refused::Error(Error::Option(text.to_owned())));
        if records.is_empty() {
            return refused("a conditional append has a record at least");
        }
        if records.iter().any(|record| record.partition.is_some_and(|own| own != partition)) {
            return refused("a conditional append has records of one partition");
        }
        self.admit(index, records.iter().map(NewRecord::bytes_max).sum())?;
        // What was appended before goes before.
        self.close(index);
        let mut builder = BatchBuilder::new();
        for record in records {
            let timestamp = record.timestamp.unwrap_or(timestamp);
            builder.push(timestamp, record.key, record.value, record.headers);
        }
        let id = BatchId(self.next_batch);
        self.next_batch += 1;
        self.active.insert(index);
        self.buffered_bytes += builder.bytes();
        self.partitions[index as usize].open = Some(Open { id, builder, since: now, hurry: false });
        self.close(index);
        if let Some(batch) = self.partitions[index as usize].closed.back_mut()
            && batch.id == id
        {
            batch.expected = Some(expected);
        }
        Ok(Appended { batch: id, index: 0 })
    }

    /// A condition does not hold; `next` is the partition's next offset.
    pub(super) fn on_condition_failed(&mut self, index: u32, at: usize, next: Offset) {
        let partition = &mut self.partitions[index as usize];
        let batch = &partition.closed[at];
        let (Some(expected), Some(sequence)) = (batch.expected, batch.sequence) else {
            let message = "(nothing was expected)".to_owned();
            self.raising = true;
            let error = Error::Server { code: ErrorCode::OffsetConditionFailed, message };
            return self.settle(index, at, Err(error));
        };
        // A copy on a connection that was lost finds the condition failed as well, for offsets
        // never go back: unless the log has not come there yet.
        let unclear = batch.is_stray() && next <= expected;
        if unclear {
            self.raising = true;
        } else {
            partition.next_sequence = sequence;
            partition.backoff.reset();
        }
        let partition = PartitionIndex::new(index);
        let error = Error::OffsetCondition { partition, expected, next, unclear };
        self.settle(index, at, Err(error));
    }

    /// The partition has forgotten the producer, so that a copy of the batch may be stored yet:
    /// sent under another sequence it could be stored twice, or refused although it is stored.
    pub(super) fn on_strayed(&mut self, index: u32, at: usize, error: Error, now: Instant) {
        let since = self.partitions[index as usize].closed[at].since;
        let (after, last) = (now.saturating_duration_since(since), Box::new(error));
        self.raising = true;
        self.settle(index, at, Err(Error::Undelivered { after, unclear: true, last }));
    }
}

impl Batch {
    /// It has a condition, and a copy of it may be on its way on a connection that was lost.
    pub(super) fn is_stray(&self) -> bool {
        self.expected.is_some() && self.tainted
    }
}
