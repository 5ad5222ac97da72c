//! A simulated disk: it performs the operations of `catena_log::io` for many directories, in
//! virtual time, and can lose its power, its process and its honesty.
//!
//! ```text
//! submit ──► taking effect (live image) ──► completion (durable image) ──► poll_done
//!    now        some moment between            now + latency
//!
//! power loss:    every unsynced byte and name, each on its own, survives or not
//! process kill:  what took effect stays; any other write under way lands later, in part, or never
//! ```
//!
//! Times are nanoseconds. Every decision goes through a [`Choose`], so that dice give a random
//! history and an odometer gives all of them. Without faults the contracts hold strictly, and
//! nothing beyond them.

mod atlas;
mod crash;
mod effects;
mod faults;
mod folder;
mod image;
mod options;
mod pages;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use catena_log::io::{Done, FileName, IoError, Op, OpId, Outcome};

pub use self::{
    atlas::{Damage, DamageKind},
    crash::Crash,
    options::{
        BLOCK_BYTES, DeviceCache, DiskOptions, Fault, FaultKind, FaultOptions, FileKinds, Latency,
        SECTOR_BYTES, Tearing,
    },
};
use self::{
    crash::LateWrite,
    faults::Faults,
    folder::{FileId, Folder},
    image::Image,
    pages::Pages,
};
use super::{
    choose::Choose,
    fingerprint::Fingerprint,
    random::{Dice, Random},
};

/// EIO, as the disk tells it.
pub const EIO: IoError = IoError::Device(5);

/// A disk with its directories.
pub struct Disk {
    options: DiskOptions,
    choice: Decisions,
    faults: Faults,
    now_ns: u64,
    events: BTreeMap<(u64, u64), Event>,
    flights: BTreeMap<u64, Flight>,
    late: BTreeMap<u64, LateWrite>,
    ready: VecDeque<(u64, OpId, Done<Bytes>)>,
    folders: BTreeMap<u64, Folder>,
    images: BTreeMap<FileId, Image>,
    /// Files of which a read was wrong.
    misread: BTreeSet<FileId>,
    removed: VecDeque<Pages>,
    numbers: u64,
    completions: u64,
    slow_until_ns: u64,
    read_only: bool,
    fingerprint: Fingerprint,
}

/// What happens at a moment, to the operation or late write of a key.
#[derive(Clone, Copy, Debug)]
enum Event {
    Effect(u64),
    Completion(u64),
    Late(u64),
}

/// An operation under way.
#[derive(Clone, Debug)]
struct Flight {
    directory: u64,
    life: u64,
    id: OpId,
    op: Op<Bytes>,
    /// The file that its name led to on submission, or when it took effect.
    file: Option<FileId>,
    /// How many operations had completed when it was issued.
    horizon: u64,
    /// Its number among all landings and changes, once it has one.
    order: u64,
    /// Its answer, once it took effect.
    result: Option<Result<Outcome<Bytes>, IoError>>,
}

/// The chooser, asked only where there is a choice.
struct Decisions(Box<dyn Choose>);

impl Decisions {
    fn pick(&mut self, n: usize, what: &str) -> usize {
        if n <= 1 { 0 } else { self.0.choose(n, what) }
    }

    fn chance(&mut self, per_million: u32, what: &str) -> bool {
        match per_million {
            0 => false,
            super::random::MILLION.. => true,
            _ => self.0.chance(per_million, what),
        }
    }
}

impl Disk {
    /// A disk whose history is `random`'s.
    #[must_use]
    pub fn new(random: &Random, options: DiskOptions) -> Self {
        Self::with_chooser(Box::new(Dice::new(random.stream("disk"))), options)
    }

    /// A disk whose every decision `choice` takes.
    #[must_use]
    pub fn with_chooser(choice: Box<dyn Choose>, options: DiskOptions) -> Self {
        Self {
            faults: Faults::new(options.faults.clone()),
            options,
            choice: Decisions(choice),
            now_ns: 0,
            events: BTreeMap::new(),
            flights: BTreeMap::new(),
            late: BTreeMap::new(),
            ready: VecDeque::new(),
            folders: BTreeMap::new(),
            images: BTreeMap::new(),
            misread: BTreeSet::new(),
            removed: VecDeque::new(),
            numbers: 0,
            completions: 0,
            slow_until_ns: 0,
            read_only: false,
            fingerprint: Fingerprint::default(),
        }
    }

    /// Begins an operation for the log of `directory`; `life` counts that log's lives, and `id` is
    /// unique in one.
    ///
    /// # Panics
    /// When time runs backwards, or the operation breaks a contract: a position or length that is
    /// no multiple of [`BLOCK_BYTES`], or (once it takes effect) a rename over a present name.
    pub fn submit(&mut self, now_ns: u64, directory: u64, life: u64, id: OpId, op: Op<Bytes>) {
        self.run_to(now_ns);
        assert_aligned(&op);
        if matches!(op, Op::Remove { .. }) {
            let is_of =
                |f: &Flight| (f.directory, f.life, f.op.file()) == (directory, life, op.file());
            let other = self.flights.values().find(|flight| is_of(flight));
            assert!(other.is_none(), "removed while {:?} is under way", other.map(|f| &f.op));
        }
        self.note_submission(directory, life, id, &op);
        let key = self.number();
        let (effect_ns, completion_ns) = self.times(&op);
        self.events.insert((effect_ns, key), Event::Effect(key));
        let completion = (completion_ns, self.number());
        self.events.insert(completion, Event::Completion(key));
        let file = op.file().and_then(|name| self.lookup(directory, name));
        let horizon = self.completions;
        let flight = Flight { directory, life, id, op, file, horizon, order: 0, result: None };
        self.flights.insert(key, flight);
    }

    /// The same disk once more, with all that is under way; whatever it leaves open from now on
    /// `choice` decides.
    #[must_use]
    pub fn fork(&self, choice: Box<dyn Choose>) -> Self {
        Self {
            options: self.options.clone(),
            choice: Decisions(choice),
            faults: self.faults.clone(),
            now_ns: self.now_ns,
            events: self.events.clone(),
            flights: self.flights.clone(),
            late: self.late.clone(),
            ready: self.ready.clone(),
            folders: self.folders.clone(),
            images: self.images.clone(),
            misread: self.misread.clone(),
            removed: self.removed.clone(),
            numbers: self.numbers,
            completions: self.completions,
            slow_until_ns: self.slow_until_ns,
            read_only: self.read_only,
            fingerprint: self.fingerprint,
        }
    }

    /// Lets the next event happen, alone, and tells when that was; `None` when none is to come.
    pub fn step(&mut self) -> Option<u64> {
        let ((at_ns, _), event) = self.events.pop_first()?;
        self.now_ns = at_ns;
        self.happen(event);
        Some(at_ns)
    }

    /// The next completion by `now_ns`, with its directory.
    pub fn poll_done(&mut self, now_ns: u64) -> Option<(u64, OpId, Done<Bytes>)> {
        self.run_to(now_ns);
        self.ready.pop_front()
    }

    /// When something happens next; the present when a completion waits to be polled. Not every
    /// event ends in a completion.
    #[must_use]
    pub fn next_event(&self) -> Option<u64> {
        if self.ready.is_empty() {
            self.events.first_key_value().map(|(&(at_ns, _), _)| at_ns)
        } else {
            Some(self.now_ns)
        }
    }

    /// How many operations are under way or completed and not polled.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flights.len() + self.ready.len()
    }

    /// Whether operations are under way in a directory.
    fn is_busy(&self, directory: u64) -> bool {
        self.flights.values().any(|flight| flight.directory == directory)
    }

    /// Removes all files of a directory, at once and not durably: after a power loss any of them
    /// may be there again.
    pub fn remove_files(&mut self, now_ns: u64, directory: u64) {
        self.run_to(now_ns);
        self.fingerprint.numbers([now_ns, 500, directory]);
        for name in self.live_files(directory).collect::<Vec<_>>() {
            let order = self.number();
            self.completions += 1;
            let folder = self.folders.get_mut(&directory).expect("it has files");
            folder.remove(order, name);
            folder.complete(order, self.completions);
        }
        self.sweep();
    }

    /// The same, durably: of none anything is there again.
    pub fn remove_files_durably(&mut self, now_ns: u64, directory: u64) {
        self.remove_files(now_ns, directory);
        if let Some(folder) = self.folders.get_mut(&directory) {
            folder.sync(u64::MAX, || false);
        }
        self.sweep();
    }

    /// Removes all files of those directories in which no operation is under way, and takes them
    /// off the list.
    pub fn remove_idle(&mut self, now_ns: u64, directories: &mut BTreeSet<u64>) {
        for idle in directories.extract_if(.., |uid| !self.is_busy(*uid)).collect::<Vec<_>>() {
            self.remove_files(now_ns, idle);
        }
    }

    /// The hash of every operation, completion, crash and fault so far.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint.value()
    }

    /// The hash of both images of every file, with their names.
    #[must_use]
    pub fn final_image_hash(&self) -> u64 {
        let mut hash = Fingerprint::default();
        for (&directory, folder) in &self.folders {
            for (durable, names) in [(0, &folder.live), (1, &folder.durable)] {
                for (name, id) in names {
                    let image = &self.images[id];
                    let [kind, number] = code(*name);
                    hash.numbers([directory, durable, kind, number]);
                    let pages = if durable == 0 { &image.live } else { &image.durable };
                    pages.hash(&mut hash);
                }
            }
        }
        hash.value()
    }

    /// How often each kind of fault and crash came.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<&'static str, u64> {
        self.faults.counts()
    }

    /// From now on these faults, with their budgets anew.
    pub fn set_faults(&mut self, faults: FaultOptions) {
        self.faults.set(faults);
    }

    /// From now on this capacity.
    pub fn set_capacity(&mut self, capacity_bytes: Option<u64>) {
        self.options.capacity_bytes = capacity_bytes;
    }

    /// From now on the file system accepts writes or not.
    pub fn set_read_only(&mut self, read_only: bool) {
        self.read_only = read_only;
    }

    /// Everything that happens up to a time.
    fn run_to(&mut self, now_ns: u64) {
        assert!(now_ns >= self.now_ns, "the disk's time runs backwards");
        while let Some(entry) = self.events.first_entry() {
            let &(at_ns, _) = entry.key();
            if at_ns > now_ns {
                break;
            }
            let event = entry.remove();
            self.now_ns = at_ns;
            self.happen(event);
        }
        self.now_ns = now_ns;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Effect(key) => self.take_effect(key),
            Event::Completion(key) => self.complete(key),
            Event::Late(key) => self.land_late(key),
        }
    }

    /// When an operation takes effect, and when it completes.
    fn times(&mut self, op: &Op<Bytes>) -> (u64, u64) {
        let latency = self.options.latency;
        let mut ns = latency.floor_ns
            + latency.step_ns * self.choice.pick(latency.steps, "latency") as u64
            + latency.block_ns * (op_bytes(op) / BLOCK_BYTES);
        if self.strike(FaultKind::SlowPeriod) {
            self.slow_until_ns = self.now_ns + latency.slow_period_ns;
        }
        let slow = self.choice.chance(latency.slow_per_million, "slow operation");
        if slow || self.now_ns < self.slow_until_ns {
            ns *= latency.slow_factor;
        }
        let last = latency.moments.max(1) - 1;
        let moment = if last == 0 { 1 } else { self.choice.pick(last + 1, "moment") };
        let effect_ns = self.now_ns + ns * moment as u64 / last.max(1) as u64;
        (effect_ns, self.now_ns + ns)
    }

    /// The next number, of operations, landings, changes and files alike.
    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn lookup(&self, directory: u64, name: FileName) -> Option<FileId> {
        self.folders.get(&directory)?.live.get(&name).copied()
    }

    fn note_submission(&mut self, directory: u64, life: u64, id: OpId, op: &Op<Bytes>) {
        let [kind, number] = op.file().map_or([9, 0], code);
        let tag = op_tag(op);
        let (a, b) = arguments(op);
        self.fingerprint.numbers([self.now_ns, directory, life, id.0, tag, kind, number, a, b]);
        if let Op::Write { bytes, .. } = op {
            self.fingerprint.bytes(bytes);
        }
    }
}

/// How many bytes an operation moves.
fn op_bytes(op: &Op<Bytes>) -> u64 {
    match op {
        Op::Extend { from, to, .. } => to.get().saturating_sub(from.get()),
        // Whatever their length: a matter of the file system alone.
        Op::Release { .. } => 0,
        Op::Write { bytes, .. } => bytes.len() as u64,
        Op::Read { length, .. } => *length as u64,
        _ => 0,
    }
}

fn op_tag(op: &Op<Bytes>) -> u64 {
    match op {
        Op::List => 0,
        Op::Claim { .. } => 1,
        Op::Extend { .. } => 2,
        Op::Write { durable: false, .. } => 3,
        Op::Write { durable: true, .. } => 4,
        Op::Sync { .. } => 5,
        Op::SyncDirectory => 6,
        Op::Read { .. } => 7,
        Op::Rename { .. } => 8,
        Op::Remove { .. } => 9,
        Op::Release { .. } => 10,
    }
}

/// The rest of an operation as numbers, for the fingerprint.
fn arguments(op: &Op<Bytes>) -> (u64, u64) {
    match op {
        Op::Extend { from, to, .. } | Op::Release { from, to, .. } => (from.get(), to.get()),
        Op::Write { position, bytes, .. } => (position.get(), bytes.len() as u64),
        Op::Read { position, length, .. } => (position.get(), *length as u64),
        Op::Rename { to, .. } => {
            let [kind, number] = code(*to);
            (kind, number)
        }
        _ => (0, 0),
    }
}

/// A file name as numbers.
fn code(name: FileName) -> [u64; 2] {
    match name {
        FileName::Manifest(slot) => [0, slot as u64],
        FileName::Segment(number) => [1, number.get()],
        FileName::Index(number) => [2, number.get()],
    }
}

fn assert_aligned(op: &Op<Bytes>) {
    let (a, b) = match op {
        Op::Rename { .. } => return,
        _ => arguments(op),
    };
    assert!(a.is_multiple_of(BLOCK_BYTES) && b.is_multiple_of(BLOCK_BYTES), "unaligned: {op:?}");
}
