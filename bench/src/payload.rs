//! The batches that are sent: random bytes, so that nothing on the way can compress them.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use catena_client::format::{
    Millis, ProducerEpoch, ProducerId, Sequence,
    records::{BatchBuilder, Producer as Numbers},
};
use rand_xoshiro::{
    SplitMix64,
    rand_core::{Rng, SeedableRng},
};

use crate::error::Error;

/// Different batches: this many at most, and of this many bytes together, but at least one.
const VARIANTS: usize = 16;
const PREPARED_BYTES_MAX: usize = 8 << 20;
/// How far the values of one variant are shifted against those of the one before, in bytes.
const SHIFT_BYTES: usize = 64;

/// The bytes at the start of a value that tell when it was due, in nanoseconds.
pub(crate) const STAMP_BYTES: usize = 8;

/// Records in a batch of at most `batch_bytes`, but at least one.
///
/// What a record takes depends on its number in the batch, so they are counted, not computed.
pub(crate) fn records_per_batch(record_bytes: usize, batch_bytes: usize) -> u64 {
    let mut builder = BatchBuilder::new();
    let value = vec![0; record_bytes];
    builder.push(Millis::new(0), None, Some(&value), &[]);
    loop {
        builder.push(Millis::new(0), None, Some(&value), &[]);
        if builder.bytes() > batch_bytes {
            return u64::from(builder.count()) - 1;
        }
    }
}

/// What one producer sends.
pub(crate) struct Payload {
    record_bytes: usize,
    records: u64,
    noise: Vec<u8>,
    /// Finished batches; empty when each is made as it is sent.
    prepared: Vec<Vec<u8>>,
    numbering: Option<Numbering>,
    stamped: bool,
}

/// Who the producer is, and the next sequence of each of its partitions.
struct Numbering {
    id: ProducerId,
    epoch: ProducerEpoch,
    sequences: Vec<Sequence>,
}

impl Payload {
    /// Batches of `records` values of `record_bytes` each; `seed` tells producers apart.
    ///
    /// # Errors
    /// [`Error::Record`] when such a batch would be too large.
    pub(crate) fn new(record_bytes: usize, records: u64, seed: u64) -> Result<Self, Error> {
        let values = usize::try_from(records).unwrap_or(usize::MAX).saturating_mul(record_bytes);
        let mut noise = vec![0; values.saturating_add(VARIANTS * SHIFT_BYTES)];
        SplitMix64::seed_from_u64(seed).fill_bytes(&mut noise);
        let (prepared, numbering, stamped) = (Vec::new(), None, false);
        let mut payload = Self { record_bytes, records, noise, prepared, numbering, stamped };
        let first = payload.build(0, 0, Duration::ZERO)?;
        let variants = (PREPARED_BYTES_MAX / first.len()).clamp(1, VARIANTS);
        payload.prepared.push(first);
        for variant in 1..variants {
            let batch = payload.build(variant, 0, Duration::ZERO)?;
            payload.prepared.push(batch);
        }
        Ok(payload)
    }

    /// The same with numbers by which a repeated batch is recognised.
    pub(crate) fn numbered(self, id: ProducerId, epoch: ProducerEpoch, partitions: usize) -> Self {
        let sequences = vec![Sequence::new(0); partitions];
        let numbering = Some(Numbering { id, epoch, sequences });
        Self { prepared: Vec::new(), numbering, ..self }
    }

    /// The same with the time when it was due in each value.
    ///
    /// # Panics
    /// When a value has no room for it.
    pub(crate) fn stamped(self) -> Self {
        assert!(self.record_bytes >= STAMP_BYTES, "a value has room for its stamp");
        Self { prepared: Vec::new(), stamped: true, ..self }
    }

    /// Records in each batch.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    /// Bytes of each batch.
    pub(crate) fn batch_bytes(&mut self) -> Result<usize, Error> {
        match self.prepared.first() {
            Some(batch) => Ok(batch.len()),
            None => Ok(self.build(0, 0, Duration::ZERO)?.len()),
        }
    }

    /// The `number`th batch, for the producer's partition `at`, due so long after the start.
    pub(crate) fn batch(
        &mut self,
        number: u64,
        at: usize,
        due: Duration,
    ) -> Result<Cow<'_, [u8]>, Error> {
        let variants = if self.prepared.is_empty() { VARIANTS } else { self.prepared.len() };
        let variant = (number % variants as u64) as usize;
        if self.prepared.is_empty() {
            return Ok(self.build(variant, at, due)?.into());
        }
        Ok(self.prepared[variant].as_slice().into())
    }

    fn build(&mut self, variant: usize, at: usize, due: Duration) -> Result<Vec<u8>, Error> {
        let mut builder = BatchBuilder::new();
        let now = Millis::new(now_ms());
        let mut values = &self.noise[variant * SHIFT_BYTES..];
        let stamp = u64::try_from(due.as_nanos()).unwrap_or(u64::MAX).to_le_bytes();
        let mut stamped = vec![0; if self.stamped { self.record_bytes } else { 0 }];
        for _ in 0..self.records {
            let (value, rest) = values.split_at(self.record_bytes);
            values = rest;
            let value = if self.stamped {
                stamped.copy_from_slice(value);
                stamped[..STAMP_BYTES].copy_from_slice(&stamp);
                &stamped
            } else {
                value
            };
            builder.push(now, None, Some(value), &[]);
        }
        let numbers = match &mut self.numbering {
            None => Numbers::NONE,
            Some(numbering) => {
                let sequence = numbering.sequences[at];
                numbering.sequences[at] = sequence.wrapping_add(builder.count());
                Numbers { id: numbering.id, epoch: numbering.epoch, sequence }
            }
        };
        Ok(builder.build(numbers)?)
    }
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use catena_client::format::{BATCH_HEADER_BYTES, BatchHeader, records::Records};

    use super::*;

    #[test]
    fn a_batch_is_as_full_as_it_can_be() {
        assert_eq!(records_per_batch(512, 0), 1);
        for (record_bytes, batch_bytes) in [(512, 64 << 10), (1, 1000), (0, 500), (100, 162)] {
            let records = records_per_batch(record_bytes, batch_bytes);
            let bytes = |records| Payload::new(record_bytes, records, 1).unwrap().prepared[0].len();
            assert!(records == 1 || bytes(records) <= batch_bytes, "{record_bytes} {batch_bytes}");
            assert!(bytes(records + 1) > batch_bytes, "{record_bytes} {batch_bytes}");
        }
    }

    #[test]
    fn prepared_batches_hold_and_differ() {
        let mut payload = Payload::new(100, 3, 1).unwrap();
        let first = payload.batch(0, 0, Duration::ZERO).unwrap().into_owned();
        let second = payload.batch(1, 0, Duration::ZERO).unwrap().into_owned();
        assert_ne!(first, second);
        for batch in [first, second] {
            let header = BatchHeader::parse(&batch).unwrap();
            header.verify(&batch).unwrap();
            assert_eq!(header.count, 3);
        }
    }

    #[test]
    fn numbered_batches_follow_each_other_in_each_partition() {
        let (id, epoch) = (ProducerId::new(7), ProducerEpoch::new(0));
        let mut payload = Payload::new(10, 5, 1).unwrap().numbered(id, epoch, 2);
        let mut sequence = |number, at| {
            let batch = payload.batch(number, at, Duration::ZERO).unwrap().into_owned();
            BatchHeader::parse(&batch).unwrap().base_sequence.get()
        };
        assert_eq!([sequence(0, 0), sequence(1, 1), sequence(2, 0), sequence(3, 1)], [0, 0, 5, 5]);
    }

    #[test]
    fn every_record_of_a_stamped_batch_tells_when_it_was_due() {
        let mut payload = Payload::new(20, 2, 1).unwrap().stamped();
        let batch = payload.batch(0, 0, Duration::from_nanos(1234)).unwrap().into_owned();
        let header = BatchHeader::parse(&batch).unwrap();
        let records = Records::new(&batch[BATCH_HEADER_BYTES..], 2, header.base_timestamp);
        for record in records {
            let value = record.unwrap().value.unwrap();
            assert_eq!(value[..STAMP_BYTES], 1234u64.to_le_bytes());
            assert_eq!(value.len(), 20);
        }
    }
}
