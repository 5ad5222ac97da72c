//! The dedup table: which sequences of which producers the log holds, a fold of the log.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use catena_format::{BatchHeader, FrameHeader, Millis, Offset, ProducerEpoch, Sequence, planted};
use catena_log::Fold;
use rkyv::{Archive, Deserialize, Serialize, rancor, util::AlignedVec};

/// Batches remembered of each producer: a client never has more unacknowledged.
pub const DEDUP_WINDOW: u32 = 256;
/// The most producers of one partition.
pub const PRODUCERS_MAX: usize = 20_000;
/// A producer that was silent for so long (by the log's clock) is forgotten.
pub const PRODUCER_EXPIRY_MS: i64 = 7 * 24 * 3600 * 1000;
/// A producer that was silent for so long may be forgotten for a new one when the table is full.
pub const PRODUCER_IDLE_MS: i64 = 3600 * 1000;

/// Sequences of one producer that are remembered at most: beyond, they would repeat themselves.
const SEQUENCES_MAX: u32 = i32::MAX.cast_unsigned();

const SNAPSHOT_VERSION: u8 = 1;
const SNAPSHOT_PREFIX_BYTES: usize = 16;

/// Sequences and offsets that run side by side.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    sequence: i32,
    offset: u64,
    count: u32,
    batches: u32,
}

#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
struct ProducerState {
    id: i64,
    epoch: i16,
    next_sequence: i32,
    last_offset: u64,
    last_append_time: i64,
    runs: Vec<Run>,
}

#[derive(Archive, Serialize, Deserialize, Debug)]
struct SnapshotV1 {
    newest: i64,
    producers: Vec<ProducerState>,
}

/// What the table says of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The next of its producer, or of no producer.
    New,
    /// Already in the log, here.
    Duplicate {
        /// The first record's offset.
        base: Offset,
        /// The offset after the last record.
        next: Offset,
    },
    /// Already in the log, too long ago to know where.
    DuplicateOffsetUnknown,
    /// Something is missing before it.
    OutOfOrder {
        /// The sequence that would be next.
        expected: Sequence,
    },
    /// A newer generation of the producer has written.
    Fenced {
        /// That generation.
        current: ProducerEpoch,
    },
    /// The producer is not known (any more) and this is not its first batch.
    UnknownProducer,
    /// No further producer fits.
    TooManyProducers,
}

/// The table.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Dedup {
    producers: BTreeMap<i64, ProducerState>,
    /// Producers by the offset of their last batch: the longest silent first.
    by_age: BTreeMap<u64, i64>,
    /// The newest append time.
    newest: i64,
}

impl Dedup {
    /// What to do with a batch; `now` only matters for a full table.
    #[must_use]
    pub fn check(&self, batch: &BatchHeader, now: Millis) -> Verdict {
        let id = batch.producer_id.get();
        if id < 0 {
            return Verdict::New;
        }
        let Some(known) = self.producers.get(&id) else { return self.check_new(batch, now) };
        let (epoch, sequence) = (batch.producer_epoch.get(), batch.base_sequence);
        if epoch < known.epoch {
            return Verdict::Fenced { current: ProducerEpoch::new(known.epoch) };
        }
        let expected = if epoch > known.epoch { 0 } else { known.next_sequence };
        if sequence.get() == expected {
            return Verdict::New;
        }
        if epoch > known.epoch {
            return Verdict::OutOfOrder { expected: Sequence::new(0) };
        }
        known.check_old(sequence.get(), batch.count)
    }

    fn check_new(&self, batch: &BatchHeader, now: Millis) -> Verdict {
        if batch.base_sequence.get() != 0 {
            return Verdict::UnknownProducer;
        }
        let full = self.producers.len() >= PRODUCERS_MAX;
        let oldest = self.by_age.values().next().and_then(|id| self.producers.get(id));
        let idle =
            |p: &ProducerState| now.get().saturating_sub(p.last_append_time) >= PRODUCER_IDLE_MS;
        if full && !oldest.is_some_and(idle) { Verdict::TooManyProducers } else { Verdict::New }
    }

    /// Producers known.
    #[must_use]
    pub fn producers(&self) -> usize {
        self.producers.len()
    }

    fn forget_oldest(&mut self) {
        if let Some((_, id)) = self.by_age.pop_first() {
            self.producers.remove(&id);
        }
    }

    fn expire(&mut self) {
        while let Some(id) = self.by_age.values().next() {
            let silent = self.newest.saturating_sub(self.producers[id].last_append_time);
            if silent < PRODUCER_EXPIRY_MS {
                return;
            }
            self.forget_oldest();
        }
    }

    fn decode(snapshot: &[u8]) -> Option<SnapshotV1> {
        let (prefix, archive) = snapshot.split_at_checked(SNAPSHOT_PREFIX_BYTES)?;
        if prefix[0] != SNAPSHOT_VERSION || prefix[1..].iter().any(|byte| *byte != 0) {
            return None;
        }
        let mut aligned = AlignedVec::<16>::with_capacity(archive.len());
        aligned.extend_from_slice(archive);
        let read = rkyv::from_bytes::<SnapshotV1, rancor::Error>(&aligned).ok();
        read.filter(SnapshotV1::is_sound)
    }
}

impl SnapshotV1 {
    /// Whether a table can have come to this.
    fn is_sound(&self) -> bool {
        let ids_rise = self.producers.is_sorted_by(|a, b| a.id < b.id);
        let offsets: BTreeSet<u64> = self.producers.iter().map(|p| p.last_offset).collect();
        let sound = |p: &ProducerState| p.is_sound() && p.last_append_time <= self.newest;
        ids_rise
            && offsets.len() == self.producers.len()
            && self.producers.len() <= PRODUCERS_MAX
            && self.producers.iter().all(sound)
    }
}

impl ProducerState {
    fn check_old(&self, sequence: i32, count: u32) -> Verdict {
        let behind = |from: i32, to: i32| (i64::from(to) - i64::from(from)).rem_euclid(1 << 31);
        for run in &self.runs {
            let into = behind(run.sequence, sequence);
            if into + i64::from(count) <= i64::from(run.count) {
                let base = run.offset + into.cast_unsigned();
                let next = base + u64::from(count);
                return Verdict::Duplicate { base: Offset::new(base), next: Offset::new(next) };
            }
        }
        // One that goes on beyond what is stored is no repetition, though it begins within it.
        let stored = behind(sequence, self.next_sequence);
        if stored < 1 << 30 && i64::from(count) <= stored {
            return Verdict::DuplicateOffsetUnknown;
        }
        Verdict::OutOfOrder { expected: Sequence::new(self.next_sequence) }
    }

    fn add(&mut self, sequence: Sequence, offset: Offset, count: u32) {
        let (sequence, offset) = (sequence.get(), offset.get());
        let fits = |run: &Run| {
            run.offset + u64::from(run.count) == offset
                && Sequence::new(run.sequence).wrapping_add(run.count).get() == sequence
                && run.batches < DEDUP_WINDOW
                && run.count <= SEQUENCES_MAX - count
        };
        match self.runs.last_mut().filter(|run| fits(run)) {
            Some(run) => {
                run.count += count;
                run.batches += 1;
            }
            None => self.runs.push(Run { sequence, offset, count, batches: 1 }),
        }
        let mut batches: u32 = self.runs.iter().map(|run| run.batches).sum();
        let mut sequences = self.sequences();
        let mut runs: VecDeque<_> = std::mem::take(&mut self.runs).into();
        let too_old = |run: &Run, batches, sequences| {
            batches - run.batches >= DEDUP_WINDOW || sequences > u64::from(SEQUENCES_MAX)
        };
        while runs.front().is_some_and(|run| too_old(run, batches, sequences)) {
            let run = runs.pop_front().expect("there is a first run");
            batches -= run.batches;
            sequences -= u64::from(run.count);
        }
        self.runs = runs.into();
    }

    /// Sequences that are remembered.
    fn sequences(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.count)).sum()
    }

    /// Whether a producer's batches can have led here.
    fn is_sound(&self) -> bool {
        let run = |run: &Run| {
            let end = run.offset.checked_add(u64::from(run.count));
            run.sequence >= 0
                && (1..=DEDUP_WINDOW).contains(&run.batches)
                && run.batches <= run.count
                && end.is_some_and(|end| end <= Offset::MAX.get())
        };
        self.id >= 0
            && self.next_sequence >= 0
            && self.last_offset <= Offset::MAX.get()
            && self.runs.len() <= DEDUP_WINDOW as usize
            && self.runs.iter().all(run)
            && self.sequences() <= u64::from(SEQUENCES_MAX)
    }
}

impl Fold for Dedup {
    fn apply(&mut self, frame: &FrameHeader, batch: &[u8]) {
        self.newest = self.newest.max(frame.append_time.get());
        self.expire();
        let Ok(header) = BatchHeader::parse(batch) else { return };
        let id = header.producer_id.get();
        if id < 0 {
            return;
        }
        if !self.producers.contains_key(&id) && self.producers.len() >= PRODUCERS_MAX {
            self.forget_oldest();
        }
        let epoch = header.producer_epoch.get();
        let fresh = || ProducerState {
            id,
            epoch,
            next_sequence: 0,
            last_offset: u64::MAX,
            last_append_time: 0,
            runs: Vec::new(),
        };
        let state = self.producers.entry(id).or_insert_with(fresh);
        self.by_age.remove(&state.last_offset);
        if state.epoch != epoch {
            *state = fresh();
        }
        state.add(header.base_sequence, frame.base_offset, header.count);
        state.next_sequence = header.base_sequence.wrapping_add(header.count).get();
        state.last_offset = frame.base_offset.get();
        state.last_append_time = frame.append_time.get();
        self.by_age.insert(state.last_offset, id);
    }

    fn snapshot(&self) -> Vec<u8> {
        let producers = self.producers.values().cloned().collect();
        let archived = SnapshotV1 { newest: self.newest, producers };
        let archive = rkyv::to_bytes::<rancor::Error>(&archived)
            .expect("plain numbers and vectors can be archived");
        let mut snapshot = vec![0; SNAPSHOT_PREFIX_BYTES];
        snapshot[0] = SNAPSHOT_VERSION;
        snapshot.extend_from_slice(&archive);
        snapshot
    }

    fn restore(&mut self, snapshot: &[u8]) -> bool {
        self.reset();
        if planted!(DedupForgotten) {
            return true;
        }
        let Some(read) = Self::decode(snapshot) else { return false };
        self.newest = read.newest;
        for producer in read.producers {
            self.by_age.insert(producer.last_offset, producer.id);
            self.producers.insert(producer.id, producer);
        }
        true
    }

    fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use catena_format::{
        Epoch, ProducerId,
        limits::BATCH_RECORDS_MAX,
        records::{BatchBuilder, Producer},
    };

    use super::*;

    fn batch(id: i64, epoch: i16, sequence: i32, count: u32) -> Vec<u8> {
        let mut builder = BatchBuilder::new();
        for _ in 0..count {
            builder.push(Millis::new(5), None, Some(b"x"), &[]);
        }
        let producer = Producer {
            id: ProducerId::new(id),
            epoch: ProducerEpoch::new(epoch),
            sequence: Sequence::new(sequence),
        };
        builder.build(producer).unwrap()
    }

    struct Bench {
        dedup: Dedup,
        next: u64,
    }

    impl Bench {
        fn check(&self, id: i64, epoch: i16, sequence: i32, count: u32) -> Verdict {
            let batch = batch(id, epoch, sequence, count);
            self.dedup.check(&BatchHeader::parse(&batch).unwrap(), Millis::new(0))
        }

        fn apply(&mut self, id: i64, epoch: i16, sequence: i32, count: u32) {
            self.apply_batch(&batch(id, epoch, sequence, count));
        }

        fn apply_batch(&mut self, batch: &[u8]) {
            let BatchHeader { count, .. } = BatchHeader::parse(batch).unwrap();
            let frame = FrameHeader {
                mark: false,
                payload_length: batch.len() as u32,
                epoch: Epoch::new(1),
                base_offset: Offset::new(self.next),
                last_offset_delta: count - 1,
                count,
                max_timestamp: Millis::new(5),
                append_time: Millis::new(5),
                durable_end: Offset::ZERO,
                payload_crc: 0,
            };
            self.dedup.apply(&frame, batch);
            self.next += u64::from(count);
        }
    }

    fn bench() -> Bench {
        Bench { dedup: Dedup::default(), next: 0 }
    }

    fn duplicate(base: u64, next: u64) -> Verdict {
        Verdict::Duplicate { base: Offset::new(base), next: Offset::new(next) }
    }

    #[test]
    fn a_retry_gets_its_first_offset() {
        let mut b = bench();
        b.apply(1, 0, 0, 3);
        b.apply(2, 0, 0, 2);
        b.apply(1, 0, 3, 4);
        assert_eq!(b.check(1, 0, 0, 3), duplicate(0, 3));
        assert_eq!(b.check(1, 0, 3, 4), duplicate(5, 9));
        assert_eq!(b.check(1, 0, 7, 1), Verdict::New);
        assert_eq!(b.check(1, 0, 8, 1), Verdict::OutOfOrder { expected: Sequence::new(7) });
    }

    #[test]
    fn a_new_epoch_fences_the_old_and_starts_at_zero() {
        let mut b = bench();
        b.apply(1, 0, 0, 1);
        assert_eq!(b.check(1, 1, 5, 1), Verdict::OutOfOrder { expected: Sequence::new(0) });
        assert_eq!(b.check(1, 1, 0, 1), Verdict::New);
        b.apply(1, 1, 0, 1);
        assert_eq!(b.check(1, 0, 1, 1), Verdict::Fenced { current: ProducerEpoch::new(1) });
        assert_eq!(b.check(9, 0, 4, 1), Verdict::UnknownProducer);
    }

    #[test]
    fn behind_the_window_only_the_fact_is_known() {
        let mut b = bench();
        for sequence in 0..600 {
            b.apply(1, 0, sequence, 1);
            b.apply(2, 0, sequence, 1);
        }
        assert_eq!(b.check(1, 0, 0, 1), Verdict::DuplicateOffsetUnknown);
        assert_eq!(b.check(1, 0, 600 - 256, 1), duplicate(2 * (600 - 256), 2 * (600 - 256) + 1));
    }

    #[test]
    fn a_batch_of_which_only_a_part_is_stored_is_no_duplicate() {
        let mut b = bench();
        b.apply(1, 0, 0, 3);
        b.apply(2, 0, 0, 1);
        b.apply(1, 0, 3, 2);
        let out_of_order = Verdict::OutOfOrder { expected: Sequence::new(5) };
        assert_eq!(b.check(1, 0, 4, 2), out_of_order);
        assert_eq!(b.check(1, 0, 0, 6), out_of_order);
        // All of it is stored, but not in one place.
        assert_eq!(b.check(1, 0, 2, 3), Verdict::DuplicateOffsetUnknown);
        for sequence in 5..5 + 2 * DEDUP_WINDOW.cast_signed() {
            b.apply(1, 0, sequence, 1);
            b.apply(2, 0, sequence - 4, 1);
        }
        let next = Sequence::new(5 + 2 * DEDUP_WINDOW.cast_signed());
        let count = next.get().cast_unsigned();
        assert_eq!(b.check(1, 0, 0, count), Verdict::DuplicateOffsetUnknown);
        assert_eq!(b.check(1, 0, 0, count + 1), Verdict::OutOfOrder { expected: next });
    }

    #[test]
    fn sequences_wrap() {
        let mut b = bench();
        b.apply(1, 0, 0, 1);
        b.dedup.producers.get_mut(&1).unwrap().next_sequence = i32::MAX;
        b.apply(1, 0, i32::MAX, 2);
        assert_eq!(b.check(1, 0, 1, 1), Verdict::New);
        assert_eq!(b.check(1, 0, i32::MAX, 2), duplicate(1, 3));
        assert_eq!(b.check(1, 0, 0, 1), duplicate(0, 1));
    }

    #[test]
    fn batches_that_claim_the_most_records_do_not_overflow_the_window() {
        let (mut b, count) = (bench(), BATCH_RECORDS_MAX);
        let claiming = |sequence: Sequence| {
            let mut bytes = batch(1, 0, sequence.get(), 1);
            let delta = (count - 1).to_be_bytes();
            bytes[23..27].copy_from_slice(&delta);
            bytes[57..61].copy_from_slice(&count.to_be_bytes());
            bytes
        };
        let mut sequence = Sequence::new(0);
        let mut last = (sequence, 0);
        for _ in 0..2 * DEDUP_WINDOW {
            let bytes = claiming(sequence);
            b.apply_batch(&bytes);
            last = (sequence, b.next - u64::from(count));
            sequence = sequence.wrapping_add(count);
        }
        // Sequences have come round: the last batch is known by its own offset, not an older one's.
        let retry = BatchHeader::parse(&claiming(last.0)).unwrap();
        assert_eq!(b.dedup.check(&retry, Millis::new(0)), duplicate(last.1, b.next));
        assert!(Dedup::default().restore(&b.dedup.snapshot()));
    }

    #[test]
    fn a_snapshot_that_no_table_makes_is_refused() {
        let refused = |spoil: fn(&mut ProducerState)| {
            let mut b = bench();
            b.apply(1, 0, 0, 3);
            spoil(b.dedup.producers.get_mut(&1).unwrap());
            !Dedup::default().restore(&b.dedup.snapshot())
        };
        assert!(!refused(|_| {}));
        assert!(refused(|p| p.runs[0].offset = u64::MAX));
        assert!(refused(|p| p.runs[0].count = u32::MAX));
        assert!(refused(|p| p.runs[0].sequence = -1));
        assert!(refused(|p| p.runs[0].batches = 0));
        assert!(refused(|p| p.next_sequence = -1));
        assert!(refused(|p| p.last_append_time = 6));
        assert!(refused(|p| p.id = -1));
    }

    #[test]
    fn a_snapshot_is_the_table() {
        let mut b = bench();
        for sequence in 0..300 {
            b.apply(sequence % 7, 0, 0, 1);
        }
        let mut copy = Dedup::default();
        assert!(copy.restore(&b.dedup.snapshot()));
        assert_eq!(copy, b.dedup);
        assert!(!copy.restore(&[2; 40]));
        assert_eq!(copy, Dedup::default());
    }
}
