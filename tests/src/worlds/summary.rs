//! All workloads up to a length, on every processor, and what they came to.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use super::{
    explore::{Tally, Walk},
    log, node,
    seen::Seen,
    small::{Kind, Small},
    state::{Errand, Scene, Spot},
};
use crate::sim::deeds::Counts;

/// More that is broken is not told.
const BROKEN_MAX: usize = 10;

/// How far it goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// The world.
    pub scene: Scene,
    /// The longest workload, in steps.
    pub steps: usize,
    /// Up to so many steps on every kind of device, beyond on the first two.
    pub steps_every_kind: usize,
    /// Up to so many steps everything that a crash may leave, beyond all, nothing, and both but for
    /// one of the answers that make it up.
    pub steps_whole: usize,
    /// Up to so many steps a second crash comes within the recovery from the first; none: never.
    pub steps_twice: Option<usize>,
    /// Up to so many steps each call fails once; none: never.
    pub steps_errors: Option<usize>,
}

impl Extent {
    /// The dose of the test suite.
    pub const DOSE: Self = Self {
        scene: Scene::Log,
        steps: 2,
        steps_every_kind: 2,
        steps_whole: 2,
        steps_twice: Some(1),
        steps_errors: Some(2),
    };
    /// And of whole nodes.
    pub const NODE_DOSE: Self = Self {
        scene: Scene::Node,
        steps: 3,
        steps_every_kind: 0,
        steps_whole: 1,
        steps_twice: None,
        steps_errors: Some(1),
    };

    /// Of the long form, for workloads of up to `steps`.
    #[must_use]
    pub fn long(scene: Scene, steps: usize) -> Self {
        let less = |by: usize| steps.saturating_sub(by);
        let of_log = scene == Scene::Log;
        Self {
            scene,
            steps,
            steps_every_kind: less(1).min(if of_log { 3 } else { 2 }),
            steps_whole: 4,
            steps_twice: Some(if of_log { less(2).min(2) } else { 0 }),
            steps_errors: Some(less(if of_log { 1 } else { 2 }).min(3)),
        }
    }
}

/// What a run came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Workloads, each counted for each kind of device.
    pub workloads: u64,
    /// The sums.
    pub tally: Tally,
    /// States in which something acknowledged was lost.
    pub lost: u64,
    /// Or was there twice.
    pub duplicated: u64,
    /// What was broken, each with the line that replays it.
    pub broken: Vec<String>,
    /// How long it took.
    pub seconds: u64,
}

/// Walks all workloads of an extent.
#[must_use]
pub fn run(extent: Extent) -> Summary {
    let began = Instant::now();
    let jobs = jobs(extent);
    let (next, broken) = (AtomicUsize::new(0), AtomicU64::new(0));
    let (seen, results) = (Seen::default(), Mutex::new(Vec::new()));
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = walk(job, &seen);
                    broken.fetch_add(u64::from(result.is_err()), Ordering::Relaxed);
                    results.lock().expect("no worker panics with it").push(result);
                    if broken.load(Ordering::Relaxed) >= BROKEN_MAX as u64 {
                        return;
                    }
                }
            });
        }
    });
    let mut summary = Summary { workloads: jobs.len() as u64, ..Summary::default() };
    for result in results.into_inner().expect("no worker panics with it") {
        summary.add(result);
    }
    summary.hold_to_floors(extent);
    summary.seconds = began.elapsed().as_secs();
    summary
}

/// Walks to one state and checks it.
#[must_use]
pub fn replay(errand: Errand) -> Summary {
    let depth = errand.levels.len();
    let mut summary = Summary { workloads: 1, ..Summary::default() };
    let job = Job { errand, depth, whole: true, errors: false };
    summary.add(walk(&job, &Seen::default()));
    if summary.broken.is_empty() && summary.tally.states == 0 {
        summary.broken.push("there is no such state".to_owned());
    }
    summary
}

/// A workload on a kind of device, and what is done to it.
struct Job {
    errand: Errand,
    depth: usize,
    whole: bool,
    errors: bool,
}

fn jobs(extent: Extent) -> Vec<Job> {
    let mut jobs = Vec::new();
    let mut workloads = vec![String::new()];
    for steps in 0..=extent.steps {
        let kinds = if steps <= extent.steps_every_kind { &Kind::ALL[..] } else { &Kind::ALL[..2] };
        for workload in &workloads {
            for kind in kinds {
                let errand = Errand {
                    scene: extent.scene,
                    kind: *kind,
                    workload: workload.clone(),
                    strike: None,
                    levels: Vec::new(),
                };
                let within = |most: Option<usize>| most.is_some_and(|most| steps <= most);
                let depth = 1 + usize::from(within(extent.steps_twice));
                let (whole, errors) = (steps <= extent.steps_whole, within(extent.steps_errors));
                jobs.push(Job { errand, depth, whole, errors });
            }
        }
        workloads = workloads.iter().flat_map(|shorter| extent.scene.longer(shorter)).collect();
    }
    jobs
}

fn walk(job: &Job, seen: &Seen) -> Result<Tally, String> {
    match job.errand.scene {
        Scene::Log => walk_in::<log::World>(job, seen),
        Scene::Node => walk_in::<node::World>(job, seen),
    }
}

fn walk_in<W: Small>(job: &Job, seen: &Seen) -> Result<Tally, String> {
    let Job { errand, depth, whole, errors } = job;
    let walk = |spot: &Spot| Walk::<W>::new(errand.clone(), *depth, *whole, seen, spot).run();
    let mut tally = guarded(walk)?;
    if *errors {
        let failing =
            |spot: &Spot| Walk::<W>::new(errand.clone(), 1, *whole, seen, spot).run_errors();
        tally.add(&guarded(failing)?);
    }
    Ok(tally)
}

/// What panics is broken, too, and where is told.
fn guarded(walk: impl FnOnce(&Spot) -> Result<Tally, String>) -> Result<Tally, String> {
    let spot = Spot::default();
    let result = panic::catch_unwind(AssertUnwindSafe(|| walk(&spot)));
    let result = result.unwrap_or_else(|_| Err("a panic".to_owned()));
    result.map_err(|error| format!("{error}\nreplay: cargo worlds --replay '{}'", spot.name()))
}

impl Summary {
    fn add(&mut self, result: Result<Tally, String>) {
        match result {
            Ok(tally) => self.tally.add(&tally),
            Err(error) => {
                self.lost += u64::from(error.contains("LOST"));
                self.duplicated += u64::from(error.contains("DUPLICATED"));
                self.broken.push(error);
            }
        }
    }

    /// A run that enumerated little proves little.
    fn hold_to_floors(&mut self, extent: Extent) {
        let came = |kind: &str| self.tally.faults.get(kind).copied().unwrap_or(0);
        let workloads = self.workloads;
        let mut floors = vec![("power_loss", 3 * workloads), ("process_kill", workloads)];
        if extent.steps_errors.is_some_and(|steps| steps > 0) {
            let kinds = ["write_error", "sync_error", "directory_sync_error", "read_error"];
            floors.extend(kinds.map(|kind| (kind, 10)));
            let more = ["no_space", "short_write", "no_descriptors", "name_error"];
            floors.extend(more.map(|kind| (kind, 10)));
        }
        let missed: Vec<String> = floors
            .into_iter()
            .filter(|(kind, floor)| came(kind) < *floor)
            .map(|(kind, floor)| format!("{kind} came {} times, and not {floor}", came(kind)))
            .collect();
        self.broken.extend(missed);
        let few = if extent.scene == Scene::Log { 4 } else { 20 };
        // Of three steps most states of a node are those of its creation.
        let long = if extent.steps_twice.is_some() { 3 } else { 1 };
        if extent.steps > long && self.tally.acked < self.tally.states / few {
            self.broken.push(format!("{} batches acknowledged: too few", self.tally.acked));
        }
    }

    /// One line of JSON.
    #[must_use]
    pub fn line(&self) -> String {
        let Tally { states, pruned, capped, faults, acked, checked } = &self.tally;
        format!(
            "{{\"workloads\":{},\"states\":{states},\"pruned\":{pruned},\"capped\":{capped},\
             \"acked\":{acked},\"checked\":{checked},\"faults\":{},\"lost\":{},\
             \"duplicated\":{},\"broken\":{},\"seconds\":{}}}",
            self.workloads,
            json(faults),
            self.lost,
            self.duplicated,
            self.broken.len(),
            self.seconds,
        )
    }
}

fn json(counts: &Counts) -> String {
    let counts: Vec<_> = counts.iter().map(|(kind, times)| format!("\"{kind}\":{times}")).collect();
    format!("{{{}}}", counts.join(","))
}
