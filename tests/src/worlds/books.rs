//! What a small log must hold, from its producer's books: one producer, whose sequences are the
//! offsets.

use std::rc::Rc;

use catena_format::{
    BatchHeader, Millis, ProducerEpoch, ProducerId, Sequence,
    records::{BatchBuilder, Producer},
};

use crate::sim::wall::steady_ms;

/// Bytes of the record of a large batch: two of them do not fit a segment.
const LARGE_BYTES: usize = 34 << 10;

/// A batch that was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Where it stands, if anywhere.
    pub base: u64,
    /// And the next one.
    pub next: u64,
    /// As it was sent.
    pub bytes: Rc<[u8]>,
}

impl Sent {
    /// The batch that stands at `base`: one large record, or one to three small ones.
    #[must_use]
    pub fn new(base: u64, large: bool) -> Self {
        let count = if large { 1 } else { 1 + base % 3 };
        let mut builder = BatchBuilder::new();
        for at in base..base + count {
            let length = if large { LARGE_BYTES } else { 20 + (at as usize * 7) % 50 };
            let value: Vec<u8> = (0..length).map(|byte| (at as usize * 31 + byte) as u8).collect();
            builder.push(Millis::new(steady_ms(0)), None, Some(&value), &[]);
        }
        let stamp = Producer {
            id: ProducerId::new(7),
            epoch: ProducerEpoch::new(0),
            sequence: Sequence::new(base as i32),
        };
        let bytes = builder.build(stamp).expect("a small batch");
        Self { base, next: base + count, bytes: bytes.into() }
    }
}

/// The books of one log.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// What stands in the log, if nothing was lost: each begins where the one before ends.
    pub sent: Vec<Sent>,
    /// Below it everything was acknowledged, or told to readers.
    pub acked: u64,
    /// The log begins there or behind: it was told.
    pub start_least: u64,
    /// Or in front: nobody asked for more.
    pub start_most: u64,
}

impl Books {
    /// Where the next batch goes.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.sent.last().map_or(0, |sent| sent.next)
    }

    /// Batches acknowledged.
    #[must_use]
    pub fn acked_batches(&self) -> u64 {
        self.sent.partition_point(|sent| sent.next <= self.acked) as u64
    }

    /// Everything below is acknowledged.
    ///
    /// # Errors
    /// When nothing was sent that ends there.
    pub fn acked_to(&mut self, end: u64) -> Result<(), String> {
        if end != 0 && !self.sent.iter().any(|sent| sent.next == end) {
            return Err(format!("the high watermark {end} is no end of a batch"));
        }
        self.acked = self.acked.max(end);
        Ok(())
    }

    /// The log begins there, as it says itself.
    ///
    /// # Errors
    /// When it was told to begin behind, or nobody asked for so much.
    pub fn begins_at(&mut self, start: u64) -> Result<(), String> {
        if !(self.start_least..=self.start_most).contains(&start) {
            let (least, most) = (self.start_least, self.start_most);
            return Err(format!("the log begins at {start}, and not within {least}..={most}"));
        }
        self.start_least = start;
        Ok(())
    }

    /// After a crash the log ends there: what was sent behind is lost, and given back.
    ///
    /// # Errors
    /// When something acknowledged is lost, or half a batch is there.
    pub fn ends_at(&mut self, end: u64) -> Result<Vec<Sent>, String> {
        if end < self.acked {
            return Err(format!("LOST: {} was acknowledged, the log ends at {end}", self.acked));
        }
        if end > self.end() {
            return Err(format!("{} was sent, the log ends at {end}", self.end()));
        }
        let kept = self.sent.partition_point(|sent| sent.next <= end);
        let lost = self.sent.split_off(kept);
        if self.end() != end {
            return Err(format!("half a batch is there: the log ends at {end}"));
        }
        self.acked = end;
        Ok(lost)
    }

    /// A stored batch was read where `at` stands.
    ///
    /// # Errors
    /// When it is not what was sent there.
    pub fn read(&self, at: u64, stored: &[u8]) -> Result<u64, String> {
        let there = self.sent.iter().find(|sent| sent.base <= at && at < sent.next);
        let sent = there.ok_or_else(|| format!("at {at} something stands that was never sent"))?;
        let header = BatchHeader::parse(stored).map_err(|e| format!("read at {at}: {e}"))?;
        if header.base_offset != sent.base.cast_signed() {
            return Err(format!("DUPLICATED: at {at} stands a batch of {}", header.base_offset));
        }
        // Offset and epoch are the server's; the rest is as it was sent.
        if stored[8..12] != sent.bytes[8..12] || stored[16..] != sent.bytes[16..] {
            return Err(format!("the batch at {at} came back changed"));
        }
        Ok(sent.next)
    }

    /// What matters of them for what comes.
    #[must_use]
    pub fn numbers(&self) -> [u64; 5] {
        // Two lists with the same ends may differ in which batches were large.
        let shape = self.sent.iter().fold(0_u64, |shape, sent| {
            shape.wrapping_mul(1_000_003).wrapping_add(sent.next ^ (sent.bytes.len() as u64) << 32)
        });
        [self.acked, self.start_least, self.start_most, self.sent.len() as u64, shape]
    }
}
