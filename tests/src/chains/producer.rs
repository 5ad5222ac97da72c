//! A producer: sends in order, several batches at once, and sends again what was not answered.

use std::collections::VecDeque;

use catena_format::{Millis, ProducerEpoch, ProducerId, Sequence, records};

use super::books::Name;
use crate::sim::random::Random;

/// Batches under way at most.
const WINDOW: usize = 5;
/// After so long without an answer all is sent again.
const PATIENCE_NS: u64 = 30_000_000;

/// A batch that is not answered yet.
#[derive(Clone, Copy, Debug)]
struct Owed {
    sequence: i32,
    count: u32,
    sent: bool,
}

/// The producer.
pub struct Producer {
    /// Its id.
    pub id: i64,
    random: Random,
    next_sequence: i32,
    owed: VecDeque<Owed>,
    /// When it does something next.
    pub wake_ns: u64,
    /// When it sends all again.
    patience_ns: u64,
    /// It makes no new batches.
    pub done: bool,
    /// The newest configuration that it knows of, by its place in the list.
    pub believes: usize,
}

impl Producer {
    /// With nothing sent.
    #[must_use]
    pub fn new(id: i64, random: Random) -> Self {
        Self {
            id,
            random,
            next_sequence: 0,
            owed: VecDeque::new(),
            wake_ns: 0,
            patience_ns: 0,
            done: false,
            believes: 0,
        }
    }

    /// Nothing is owed.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.owed.is_empty()
    }

    /// Whether this is the first batch that is not answered.
    #[must_use]
    pub fn is_first(&self, sequence: i32) -> bool {
        self.owed.front().is_some_and(|owed| owed.sequence == sequence)
    }

    /// The next batch to send now.
    pub fn next(&mut self, now_ns: u64) -> Option<(Name, Vec<u8>)> {
        if now_ns < self.wake_ns {
            return None;
        }
        if !self.owed.is_empty() && now_ns >= self.patience_ns {
            self.again(now_ns);
        }
        if !self.done && self.owed.len() < WINDOW && self.owed.iter().all(|owed| owed.sent) {
            let count = 1 + self.random.below(3) as u32;
            self.owed.push_back(Owed { sequence: self.next_sequence, count, sent: false });
            self.next_sequence += count.cast_signed();
        }
        let Some(owed) = self.owed.iter_mut().find(|owed| !owed.sent) else {
            self.wake_ns = now_ns + 200_000;
            return None;
        };
        owed.sent = true;
        let owed = *owed;
        let pause = if self.random.chance(50_000) { 5_000_000 } else { 60_000 };
        self.wake_ns = now_ns + self.random.below(pause);
        Some(((self.id, owed.sequence), self.batch(owed)))
    }

    fn batch(&mut self, owed: Owed) -> Vec<u8> {
        let bytes = match self.random.below(20) {
            0 => 20_000,
            1..5 => 3_000,
            _ => 30,
        };
        let mut builder = records::BatchBuilder::new();
        for record in 0..owed.count.cast_signed() {
            let mut value = vec![0; bytes];
            value[..8].copy_from_slice(&self.id.to_le_bytes());
            value[8..12].copy_from_slice(&(owed.sequence + record).to_le_bytes());
            builder.push(Millis::new(1), None, Some(&value), &[]);
        }
        let producer = records::Producer {
            id: ProducerId::new(self.id),
            epoch: ProducerEpoch::new(0),
            sequence: Sequence::new(owed.sequence),
        };
        builder.build(producer).expect("it is small")
    }

    /// It was told that a batch is stored.
    pub fn acked(&mut self, now_ns: u64, sequence: i32) {
        self.owed.retain(|owed| owed.sequence != sequence);
        self.patience_ns = now_ns + PATIENCE_NS;
    }

    /// Everything is sent again, a little later.
    pub fn again(&mut self, now_ns: u64) {
        self.owed.iter_mut().for_each(|owed| owed.sent = false);
        self.patience_ns = now_ns + PATIENCE_NS;
        self.wake_ns = now_ns + 100_000 + self.random.below(1_000_000);
    }
}
