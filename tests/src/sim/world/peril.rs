//! Crashes at the worst moments: while a manifest is written, and soon after another crash.
//!
//! ```text
//! first copy ──► told ──► second copy       a crash here: the copies differ, the newer one counts
//! start: settle … indexes ──► manifests     and another one here tears what recovery writes
//! ```

use super::World;
use crate::sim::{
    deeds::Deed,
    disk::Crash,
    random::{MILLION, Random},
    shrink::Bounds,
};

/// In a million seeds, those in which writes of manifests are perilous.
const PERILOUS_PER_MILLION: u32 = 500_000;
/// In a million manifests' copies, those whose write is cut short there.
const COPY_PER_MILLION: u32 = 60_000;
/// And those that a doomed start writes: where one copy is newer than the other, and where not.
const DOOMED_NEWER_PER_MILLION: u32 = 700_000;
const DOOMED_COPY_PER_MILLION: u32 = 150_000;
/// In a million crashes, those that are followed by another soon.
const DOOMED_PER_MILLION: u32 = 150_000;
/// And of those that came as a manifest was written.
const AGAIN_PER_MILLION: u32 = 600_000;
/// In a million of these, the losses of power.
const PROVOKED_POWER_PER_MILLION: u32 = 800_000;
/// In a million lives, those that an operator ends.
const STOPS_PER_MILLION: u32 = 100_000;
/// A start that came so far is through.
const START_NS: u64 = 20_000_000;
/// A doomed start asks for at most so many operations.
const START_OPS: u64 = 200;
/// The catalog opens before all others: so many of its manifests count for one of theirs.
const CATALOG_SHARE: u32 = 10;
/// A perilous seed has at least so many lives, most of them short: manifests of many segments are
/// larger than a sector.
const LIVES_MIN: u64 = 20;
/// A crash comes within so many nanoseconds, which is what a small write takes.
const SOON_NS: u64 = 150_000;

/// What the next crash is waiting for, beside its time.
#[derive(Debug)]
pub(super) struct Peril {
    random: Random,
    perils: bool,
    perilous: bool,
    stops: bool,
    /// There are other nodes, which take their time to do without this one.
    beside: bool,
    /// All crashes are of this kind.
    only: Option<Crash>,
    /// A manifest has provoked the crash that comes.
    provoked: bool,
    /// This start is not to come through: until then, or after so many operations.
    doomed: Option<(u64, u64)>,
}

impl Peril {
    pub(super) fn new(mut random: Random, bounds: &Bounds) -> Self {
        let perils = bounds.has("perils");
        let perilous = random.chance(PERILOUS_PER_MILLION) && perils;
        let only = match (bounds.has("power_loss"), bounds.has("process_kill")) {
            (true, false) => Some(Crash::PowerLoss),
            (false, true) => Some(Crash::ProcessKill),
            _ => None,
        };
        let stops = bounds.has("stops");
        let beside = bounds.nodes > 1;
        Self { random, perils, perilous, stops, beside, only, provoked: false, doomed: None }
    }

    /// How many lives there are at least.
    pub(super) fn lives_min(&self) -> u64 {
        if self.perilous && !self.beside { LIVES_MIN } else { 2 }
    }

    /// The longest that a life lasts if nothing provokes its end.
    pub(super) fn life_ns_max(&mut self) -> u64 {
        // Short lives meet half-done starts; a long one sees what is done once a second.
        match self.random.below(100) {
            0..20 if self.beside => 50_000_000,
            20..70 if self.beside => 1_500_000_000,
            70.. if self.beside => 5_000_000_000,
            0..30 => 3_000_000,
            30..80 if self.perilous => 25_000_000,
            30..99 => 150_000_000,
            _ => 2_500_000_000,
        }
    }

    /// Whether the life is ended and does not just end.
    pub(super) fn stops(&mut self) -> bool {
        self.random.chance(STOPS_PER_MILLION) && self.stops
    }

    /// How the life ends: what a manifest has provoked is mostly a loss of power, which tears.
    pub(super) fn crash(&mut self) -> Crash {
        let power = if self.provoked { PROVOKED_POWER_PER_MILLION } else { MILLION / 2 };
        let any = if self.random.chance(power) { Crash::PowerLoss } else { Crash::ProcessKill };
        self.only.unwrap_or(any)
    }

    /// A life begins: maybe it does not last.
    pub(super) fn doom(&mut self, now_ns: u64) {
        let per_million = if self.provoked { AGAIN_PER_MILLION } else { DOOMED_PER_MILLION };
        self.provoked = false;
        let ops = 1 + self.random.below(START_OPS);
        let dooms = self.random.chance(per_million) && self.perils;
        self.doomed = dooms.then_some((now_ns + START_NS, ops));
    }
}

impl World {
    /// A node asks for an operation: a good moment for a crash, if it writes a manifest or if this
    /// start was not to come through.
    pub(super) fn endanger(&mut self, at: usize, directory: u64, writes_manifest: bool) {
        let machine = &mut self.machines[at];
        let differs = writes_manifest
            && machine.peril.doomed.is_some()
            && machine.agreed_manifest(directory).is_none();
        let Peril { random, perilous, provoked, doomed, .. } = &mut machine.peril;
        *doomed = doomed.filter(|(until_ns, _)| self.faults_on && self.now_ns < *until_ns);
        let per_million = match doomed {
            Some(_) if differs => DOOMED_NEWER_PER_MILLION,
            Some(_) => DOOMED_COPY_PER_MILLION,
            None if *perilous && self.faults_on => COPY_PER_MILLION,
            None => 0,
        };
        let per_million = if directory == 0 { per_million / CATALOG_SHARE } else { per_million };
        let cut = writes_manifest && random.chance(per_million);
        if let Some((_, ops)) = doomed {
            *ops -= 1;
        }
        if cut || doomed.is_some_and(|(_, ops)| ops == 0) {
            *provoked |= cut;
            let within = doomed.take().is_some();
            self.oracle.did(if within { Deed::StartCut } else { Deed::ManifestCut });
            let soon_ns = self.now_ns + random.below(SOON_NS);
            machine.next_crash_ns = machine.next_crash_ns.min(soon_ns);
        }
    }
}
