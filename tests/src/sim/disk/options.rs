//! What kind of device a run has, and what may go wrong on it.

use std::collections::BTreeMap;

use catena_log::io::FileName;

use crate::sim::random::MILLION;

/// The unit of tearing and of durability.
pub const SECTOR_BYTES: usize = 512;

/// The unit of operations: positions and lengths are multiples of it.
pub const BLOCK_BYTES: u64 = 4096;

/// What a durable write does to the bytes before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceCache {
    /// It bypasses the cache: nothing else becomes durable.
    Fua,
    /// It flushes the cache: every byte written before it was issued becomes durable as well, in
    /// whatever file. Lengths are not the cache's affair: another write's growth stays unsynced.
    Flush,
}

/// How a write may be cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tearing {
    /// Never: all or nothing.
    Whole,
    /// Either half, both or none: for enumeration.
    Halves,
    /// At any sectors.
    Sectors,
}

/// How long operations take: `floor + choose(steps) * step + blocks * block`, rarely times
/// `slow_factor`.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    /// The least, in nanoseconds.
    pub floor_ns: u64,
    /// The width of a step, in nanoseconds.
    pub step_ns: u64,
    /// The time that 4 KiB take besides, in nanoseconds.
    pub block_ns: u64,
    /// How many steps there are to choose from; 1 leaves no choice.
    pub steps: usize,
    /// Within its latency an operation takes effect at one of this many moments, the first at once
    /// and the last on completion; 1 means on completion.
    pub moments: usize,
    /// How often an operation is slow, in a million.
    pub slow_per_million: u32,
    /// How slow, as a factor; also of late writes and of slow periods.
    pub slow_factor: u64,
    /// A write that outlives its process lands at one of this many moments, `step * slow_factor`
    /// apart.
    pub late_steps: usize,
    /// How long a slow period lasts, in nanoseconds.
    pub slow_period_ns: u64,
}

impl Latency {
    /// A small NVMe device: 20 to 220 us, rarely 100 times that.
    #[must_use]
    pub const fn random() -> Self {
        Self {
            floor_ns: 20_000,
            step_ns: 1000,
            block_ns: 1000,
            steps: 200,
            moments: 8,
            slow_per_million: 2000,
            slow_factor: 100,
            late_steps: 200,
            slow_period_ns: 200_000_000,
        }
    }

    /// No choice at all: operations complete in the order of their submission.
    #[must_use]
    pub const fn fixed() -> Self {
        Self {
            floor_ns: 1000,
            step_ns: 1000,
            block_ns: 0,
            steps: 1,
            moments: 1,
            slow_per_million: 0,
            slow_factor: 100,
            late_steps: 2,
            slow_period_ns: 0,
        }
    }
}

/// A fault that the disk may inject.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FaultKind {
    /// EIO on a write or extension, of which a part lands.
    WriteError,
    /// EIO or ENOSPC on a sync: what it covered never becomes durable, though later syncs succeed.
    /// It reads as the old bytes at once, or else after the next crash of either kind.
    SyncError,
    /// EIO or ENOSPC on a directory sync; the entries stay unsynced and a later sync takes them.
    DirectorySyncError,
    /// EIO on a read; the next one may succeed.
    ReadError,
    /// A read brings other bytes than stand there; later ones of that file do not.
    Misread,
    /// The file system is full, though not by its capacity; a prefix lands.
    NoSpace,
    /// A prefix of a write lands, and it says so.
    ShortWrite,
    /// No descriptor is free for a file that is to be created.
    NoDescriptors,
    /// EIO on a listing, on waiting for writes of a dead process, on a renaming or a removal, on a
    /// renaming ENOSPC, too; and nothing is changed.
    NameError,
    /// A bit of what lies durable turns.
    BitFlip,
    /// An acknowledged write lands elsewhere in its file.
    MisdirectedWrite,
    /// An acknowledged write lands nowhere.
    LostWrite,
    /// Everything is slow for a while.
    SlowPeriod,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::WriteError,
        Self::SyncError,
        Self::DirectorySyncError,
        Self::ReadError,
        Self::Misread,
        Self::NoSpace,
        Self::ShortWrite,
        Self::NoDescriptors,
        Self::NameError,
        Self::BitFlip,
        Self::MisdirectedWrite,
        Self::LostWrite,
        Self::SlowPeriod,
    ];

    /// The name under which it is counted.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::WriteError => "write_error",
            Self::SyncError => "sync_error",
            Self::DirectorySyncError => "directory_sync_error",
            Self::ReadError => "read_error",
            Self::Misread => "misread",
            Self::NoSpace => "no_space",
            Self::ShortWrite => "short_write",
            Self::NoDescriptors => "no_descriptors",
            Self::NameError => "name_error",
            Self::BitFlip => "bit_flip",
            Self::MisdirectedWrite => "misdirected_write",
            Self::LostWrite => "lost_write",
            Self::SlowPeriod => "slow_period",
        }
    }
}

/// How often a fault comes, and how often at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// In a million operations that could suffer it.
    pub per_million: u32,
    /// In a run.
    pub budget: u32,
}

/// Files by kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileKinds {
    /// Segments.
    pub segment: bool,
    /// Index images.
    pub index: bool,
    /// Manifests.
    pub manifest: bool,
}

impl FileKinds {
    /// Every file.
    pub const ALL: Self = Self { segment: true, index: true, manifest: true };

    /// Segments alone.
    pub const SEGMENTS: Self = Self { segment: true, index: false, manifest: false };

    /// Whether `file` is of these kinds.
    #[must_use]
    pub const fn contains(self, file: FileName) -> bool {
        match file {
            FileName::Segment(_) => self.segment,
            FileName::Index(_) => self.index,
            FileName::Manifest(_) => self.manifest,
        }
    }
}

/// The faults of a run; without any the disk keeps the contracts of `catena_log::io` to the letter.
#[derive(Clone, Debug)]
pub struct FaultOptions {
    /// Those that may come.
    pub kinds: BTreeMap<FaultKind, Fault>,
    /// Where the silent ones (flips, misdirected and lost writes) may strike.
    pub silent_in: FileKinds,
}

impl FaultOptions {
    /// None.
    #[must_use]
    pub const fn none() -> Self {
        Self { kinds: BTreeMap::new(), silent_in: FileKinds::ALL }
    }

    /// One more.
    #[must_use]
    pub fn with(mut self, kind: FaultKind, per_million: u32, budget: u32) -> Self {
        self.kinds.insert(kind, Fault { per_million, budget });
        self
    }

    /// `kind` at the next occasion, `times` times.
    #[must_use]
    pub fn always(self, kind: FaultKind, times: u32) -> Self {
        self.with(kind, MILLION, times)
    }
}

/// A device and its faults.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// What a durable write does to the bytes before it.
    pub cache: DeviceCache,
    /// How long operations take.
    pub latency: Latency,
    /// How writes may be cut.
    pub tearing: Tearing,
    /// After a power loss, blocks that a file had grown by without their bytes may show those of
    /// removed files.
    pub stale_blocks: bool,
    /// How often a sync takes along what it need not, in a million.
    pub eager_sync_per_million: u32,
    /// How often an unsynced thing survives a power loss; each power loss picks one of these.
    pub survival_per_million: Vec<u32>,
    /// The bytes that all files may have together.
    pub capacity_bytes: Option<u64>,
    /// What may go wrong.
    pub faults: FaultOptions,
}

impl DiskOptions {
    /// For random histories, without faults.
    #[must_use]
    pub fn random(cache: DeviceCache) -> Self {
        Self {
            cache,
            latency: Latency::random(),
            tearing: Tearing::Sectors,
            stale_blocks: true,
            eager_sync_per_million: 300_000,
            survival_per_million: vec![0, 100_000, 500_000, 900_000],
            capacity_bytes: None,
            faults: FaultOptions::none(),
        }
    }

    /// For enumeration, without faults: little is left to choose but what survives a crash.
    #[must_use]
    pub fn exhaustive(cache: DeviceCache) -> Self {
        Self {
            cache,
            latency: Latency::fixed(),
            tearing: Tearing::Whole,
            stale_blocks: false,
            eager_sync_per_million: 0,
            survival_per_million: vec![500_000],
            capacity_bytes: None,
            faults: FaultOptions::none(),
        }
    }
}
