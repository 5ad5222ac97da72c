//! What the small worlds have in common: devices, and how one is walked.

use super::chooser::{LATENCIES, Leaves, Order, Strike};
use crate::sim::{
    disk::{Crash, DeviceCache, DiskOptions, FaultOptions, Latency, Tearing},
    random::MILLION,
};

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

/// The disk of a small world.
#[must_use]
pub fn disk_options(kind: Kind, strike: Option<Strike>) -> DiskOptions {
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
