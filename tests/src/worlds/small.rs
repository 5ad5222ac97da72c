//! What the small worlds have in common: devices, a disk with its clock, and how one is walked.

use std::{cell::RefCell, rc::Rc, time::Duration};

use bytes::Bytes;
use catena_format::Millis;
use catena_log::{
    Now,
    io::{Op, OpId},
};

use super::{
    books::Books,
    chooser::{Chooser, LATENCIES, Leaves, Order, Strike},
};
use crate::sim::{
    disk::{Crash, DeviceCache, Disk, DiskOptions, FaultOptions, Latency, Tearing},
    fingerprint::Fingerprint,
    random::MILLION,
    wall::steady_ms,
};

/// What is not through after so many events is stuck.
const EVENTS_MAX: usize = 100_000;

/// What the device and the process are like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kind {
    /// Of the device.
    pub cache: DeviceCache,
    /// In which order operations complete.
    pub order: Order,
}

impl Kind {
    /// Every one.
    pub const ALL: [Self; 4] = [
        Self { cache: DeviceCache::Fua, order: Order::Fifo },
        Self { cache: DeviceCache::Flush, order: Order::Lifo },
        Self { cache: DeviceCache::Fua, order: Order::Lifo },
        Self { cache: DeviceCache::Flush, order: Order::Fifo },
    ];

    /// Its name in a replay line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match (self.cache, self.order) {
            (DeviceCache::Fua, Order::Fifo) => "fua-fifo",
            (DeviceCache::Fua, Order::Lifo) => "fua-lifo",
            (DeviceCache::Flush, Order::Fifo) => "flush-fifo",
            (DeviceCache::Flush, Order::Lifo) => "flush-lifo",
        }
    }
}

/// Told of a world after each event.
pub type Watch<'w, W> = &'w mut dyn FnMut(&W) -> Result<(), String>;

/// A world that can be walked.
pub trait Small: Sized {
    /// What may happen in it.
    const LETTERS: &str;

    /// Whether a letter behind these says anything that a shorter workload does not.
    fn follows(workload: &str, letter: char) -> bool {
        let _ = (workload, letter);
        true
    }

    /// An empty disk, on which everything is to be created.
    fn new(kind: Kind, strike: Option<Strike>) -> Self;

    /// The same world after a crash at this moment; the next life has not begun, and no call fails
    /// any more. Back comes what is left to enumerate.
    fn crashed(&self, crash: Crash, leaves: Leaves) -> (Self, Leaves);

    /// Everything that what follows a crash depends on.
    fn hash(&self) -> u64;

    /// Whether the call that was to fail has failed.
    fn has_struck(&self) -> bool;

    /// Batches acknowledged.
    fn acked(&self) -> u64;

    /// What a letter of [`Small::LETTERS`] says, or `^`: the first life; `watch` sees every moment
    /// of it.
    ///
    /// # Errors
    /// Says what was broken.
    fn perform(&mut self, letter: char, watch: Watch<'_, Self>) -> Result<(), String>;

    /// The next life, held against the books: everything acknowledged is there, once; what was not
    /// is there whole or not at all, and sent again it is there once; the world takes more, and the
    /// life after it finds all of that. `watch` sees every moment of the first recovery. Tells how
    /// many records were compared.
    ///
    /// # Errors
    /// Says what was broken.
    fn verify(&mut self, watch: Watch<'_, Self>) -> Result<u64, String>;

    /// After a call failed: what is still promised holds, at once if the world goes on.
    ///
    /// # Errors
    /// Says what was broken.
    fn after_fault(&mut self) -> Result<u64, String>;
}

/// What a small world stands on: its disk, who decides for that, and the time.
pub(super) struct Ground {
    kind: Kind,
    pub(super) disk: Disk,
    chooser: Rc<RefCell<Chooser>>,
    life: u64,
    pub(super) now_ns: u64,
    events: usize,
}

impl Ground {
    /// An empty disk.
    pub(super) fn new(kind: Kind, strike: Option<Strike>) -> Self {
        let chooser = Chooser::new(kind.order, strike);
        let disk = Disk::with_chooser(Box::new(Rc::clone(&chooser)), disk_options(kind, strike));
        Self { kind, disk, chooser, life: 1, now_ns: 0, events: 0 }
    }

    /// The same, on which no call fails any more.
    pub(super) fn fork(&self) -> Self {
        let chooser = Chooser::new(self.kind.order, None);
        let mut disk = self.disk.fork(Box::new(Rc::clone(&chooser)));
        disk.set_faults(FaultOptions::none());
        let Self { kind, life, now_ns, .. } = *self;
        Self { kind, disk, chooser, life, now_ns, events: 0 }
    }

    /// A life ends, and the next one is to begin; back comes what is left to enumerate.
    pub(super) fn end_life(&mut self, crash: Crash, leaves: Leaves) -> Leaves {
        self.chooser.borrow_mut().crash(leaves);
        self.disk.crash(self.now_ns, crash);
        self.life += 1;
        self.chooser.borrow_mut().crashed().expect("nobody else takes it")
    }

    /// Of the books, of what else matters, and of the disk.
    pub(super) fn hash<const N: usize>(&self, books: &Books, rest: [u64; N]) -> u64 {
        let mut hash = Fingerprint::default();
        hash.numbers(books.numbers());
        hash.numbers([self.kind.cache as u64, self.kind.order as u64]);
        hash.numbers(rest);
        hash.numbers([self.disk.state_hash()]);
        hash.value()
    }

    /// Whether the call that was to fail has failed.
    pub(super) fn has_struck(&self) -> bool {
        self.chooser.borrow().has_struck()
    }

    /// What is submitted from now on is submitted together.
    pub(super) fn next_burst(&self) {
        self.chooser.borrow_mut().next_burst();
    }

    /// Hands an operation to the disk.
    pub(super) fn submit(&mut self, directory: u64, id: OpId, op: Op<Bytes>) {
        self.disk.submit(self.now_ns, directory, self.life, id, op);
    }

    pub(super) fn now(&self) -> Now {
        let wall = Millis::new(steady_ms(self.now_ns));
        Now { wall, monotonic: Duration::from_nanos(self.now_ns) }
    }

    /// Something happened.
    ///
    /// # Errors
    /// When so much happens that it does not end.
    pub(super) fn count(&mut self) -> Result<(), String> {
        self.events += 1;
        if self.events > EVENTS_MAX { Err("stuck".to_owned()) } else { Ok(()) }
    }
}

fn disk_options(kind: Kind, strike: Option<Strike>) -> DiskOptions {
    // Late writes land before a new life looks at their file, or while it does.
    let latency = Latency { step_ns: 1, steps: LATENCIES, slow_factor: 50_000, ..Latency::fixed() };
    let faults =
        strike.map_or(FaultOptions::none(), |s| FaultOptions::none().with(s.kind, MILLION / 2, 1));
    let mut options = DiskOptions::exhaustive(kind.cache);
    options.latency = latency;
    options.tearing = Tearing::Halves;
    options.faults = faults;
    options
}
