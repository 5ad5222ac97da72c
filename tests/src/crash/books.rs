//! The oracle's books: what was sent, what was acknowledged and where, what readers saw. They lie
//! in the harness's memory and are never asked of the server.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::sim::random::Random;

/// Bytes of a value that say which record it is.
const HEAD_BYTES: usize = 8;

/// A record: the `number`th that a producer sent to a partition.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Id {
    /// Which producer.
    pub producer: u32,
    /// From zero on, in each partition.
    pub number: u32,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {} of producer {}", self.number, self.producer)
    }
}

/// What is not as it was promised.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// What was acknowledged, or read once, is not there.
    Lost(String),
    /// A record is there twice.
    Duplicated(String),
    /// Anything else.
    Wrong(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(what) => write!(f, "lost: {what}"),
            Self::Duplicated(what) => write!(f, "duplicated: {what}"),
            Self::Wrong(what) => write!(f, "wrong: {what}"),
        }
    }
}

/// The books of one topic.
#[derive(Debug)]
pub struct Books {
    seed: u64,
    pages: Vec<Mutex<Page>>,
    acked: AtomicU64,
    batches: AtomicU64,
    findings: Mutex<Vec<Finding>>,
}

/// What is known of a partition.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// How many records each producer has sent.
    pub sent: Vec<u32>,
    /// What must be there, by offset: it was acknowledged, or a reader saw it.
    pub must: BTreeMap<u64, Id>,
    /// The end of what readers saw.
    pub seen_end: u64,
    /// Below it records may be gone: readers saw that, or it was trimmed.
    pub start: u64,
}

impl Page {
    /// What was at an offset once; the same must be there for ever.
    fn must_be(&mut self, offset: u64, id: Id) -> Result<(), Finding> {
        let known = *self.must.entry(offset).or_insert(id);
        if known == id {
            return Ok(());
        }
        Err(Finding::Lost(format!("offset {offset} was {known}, and is {id}")))
    }
}

impl Books {
    /// Empty books.
    #[must_use]
    pub fn new(seed: u64, partitions: u32, producers: u32) -> Self {
        let page = Page { sent: vec![0; producers as usize], ..Page::default() };
        let pages = (0..partitions).map(|_| Mutex::new(page.clone())).collect();
        let [acked, batches] = [0, 0].map(AtomicU64::new);
        Self { seed, pages, acked, batches, findings: Mutex::default() }
    }

    /// How many partitions there are.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.pages.len() as u32
    }

    /// Records that were acknowledged so far.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// Batches that were.
    #[must_use]
    pub fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    /// The next record of a producer for a partition; from now on it may be there.
    #[must_use]
    pub fn send(&self, partition: u32, producer: u32) -> Id {
        let mut page = self.page(partition);
        let sent = &mut page.sent[producer as usize];
        *sent += 1;
        Id { producer, number: *sent - 1 }
    }

    /// A record was acknowledged, as one of a batch that begins at `first`.
    pub fn on_acked(&self, partition: u32, first: u64, offset: u64, id: Id) {
        let kept = self.page(partition).must_be(offset, id);
        self.acked.fetch_add(1, Ordering::Relaxed);
        self.batches.fetch_add(u64::from(first == offset), Ordering::Relaxed);
        self.found(partition, kept);
    }

    /// A reader got a record.
    pub fn on_seen(&self, partition: u32, offset: u64, value: &[u8]) {
        let seen = self.id(partition, value).and_then(|id| {
            let mut page = self.page(partition);
            page.seen_end = page.seen_end.max(offset + 1);
            page.must_be(offset, id)
        });
        self.found(partition, seen);
    }

    /// What is below is gone by right.
    pub fn on_start(&self, partition: u32, start: u64) {
        let mut page = self.page(partition);
        page.start = page.start.max(start);
        page.must = page.must.split_off(&start);
    }

    /// Notes what is not as it should be.
    pub fn found<T>(&self, partition: u32, result: Result<T, Finding>) {
        let Err(finding) = result else { return };
        let place = |what| format!("partition {partition}: {what}");
        let finding = match finding {
            Finding::Lost(what) => Finding::Lost(place(what)),
            Finding::Duplicated(what) => Finding::Duplicated(place(what)),
            Finding::Wrong(what) => Finding::Wrong(place(what)),
        };
        self.findings.lock().expect("nobody panics with it").push(finding);
    }

    /// What was found since it was asked last.
    #[must_use]
    pub fn take_findings(&self) -> Vec<Finding> {
        std::mem::take(&mut self.findings.lock().expect("nobody panics with it"))
    }

    /// All that is known of a partition by now.
    #[must_use]
    pub fn copy_of(&self, partition: u32) -> Page {
        self.page(partition).clone()
    }

    /// The value of a record: which it is, and bytes that follow from that.
    pub fn value(&self, partition: u32, id: Id, value: &mut Vec<u8>) {
        let mut random = Random::new(self.seed)
            .numbered_stream("value", u64::from(partition) << 32 | u64::from(id.producer))
            .numbered_stream("number", u64::from(id.number));
        let bytes = match random.below(1000) {
            0..850 => random.below(300),
            850..990 => random.below(5_000),
            _ => random.below(60_000),
        };
        value.clear();
        value.extend_from_slice(&id.producer.to_le_bytes());
        value.extend_from_slice(&id.number.to_le_bytes());
        value.resize(HEAD_BYTES + bytes as usize, 0);
        random.fill(&mut value[HEAD_BYTES..]);
    }

    /// The record that a value is; it must be one that was sent, to the byte.
    ///
    /// # Errors
    /// When it is not.
    pub fn id(&self, partition: u32, value: &[u8]) -> Result<Id, Finding> {
        let number = |at: usize| Some(u32::from_le_bytes(value.get(at..at + 4)?.try_into().ok()?));
        let id = number(0).zip(number(4)).map(|(producer, number)| Id { producer, number });
        let id = id.ok_or_else(|| Finding::Wrong("a value is too short".to_owned()))?;
        let sent = self.page(partition).sent.get(id.producer as usize).copied();
        if sent.is_none_or(|sent| id.number >= sent) {
            return Err(Finding::Wrong(format!("{id} was never sent")));
        }
        let mut expected = Vec::new();
        self.value(partition, id, &mut expected);
        if value != expected {
            return Err(Finding::Wrong(format!("{id} has other bytes than were sent")));
        }
        Ok(id)
    }

    fn page(&self, partition: u32) -> MutexGuard<'_, Page> {
        self.pages[partition as usize].lock().expect("nobody panics with it")
    }
}
