//! A range of seeds: run on every processor, summed up in the order of the seeds, and held to
//! having done something.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Mutex, atomic::AtomicU64, atomic::Ordering},
    thread,
};

use super::{
    deeds::{Counts, all_kinds},
    shrink::{self, Bounds},
    world::Report,
};

/// Batches that a seed acknowledges, on average.
const ACKED_FLOOR: u64 = 200;
/// Faults that befall it, on average.
const FAULTS_FLOOR: u64 = 5;
/// And restarts.
const RESTARTS_FLOOR: u64 = 1;
/// In a range of so many seeds everything must come that can.
const ALL_KINDS_SEEDS: u64 = 1000;

/// What a range of seeds came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// How many were run.
    pub seeds: u64,
    /// The sums of those that broke nothing, and what the fingerprints come to.
    pub total: Report,
    /// What was broken, each with the line that replays it, and every floor that was missed.
    pub broken: Vec<String>,
    /// What the first seed that failed needs for it, with the line that replays that.
    pub shrunk: Option<String>,
}

/// Runs a range of seeds. What it comes to does not depend on how many processors there are.
#[must_use]
pub fn run(seeds: Range<u64>) -> Summary {
    run_within(seeds, &Bounds::default())
}

/// Runs what is left of a range of seeds.
#[must_use]
pub fn run_within(seeds: Range<u64>, bounds: &Bounds) -> Summary {
    let results = each(seeds, |seed| shrink::run(seed, bounds));
    let failed = results.iter().find_map(|(seed, result)| Some((*seed, result.as_ref().err()?)));
    let whole = Bounds { nodes: bounds.nodes, ..Bounds::default() };
    let shrunk = failed.filter(|_| *bounds == whole).map(|failed| shrunk(failed, bounds.nodes));
    let mut summary = sum_up(results, &whole);
    summary.shrunk = shrunk;
    summary
}

/// What every seed of a range comes to, run on all processors.
pub fn each<R: Send>(seeds: Range<u64>, run: impl Fn(u64) -> R + Sync) -> BTreeMap<u64, R> {
    let next = AtomicU64::new(seeds.start);
    let results = Mutex::new(BTreeMap::new());
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let result = run(seed);
                    results.lock().expect("no worker panics with it").insert(seed, result);
                }
            });
        }
    });
    results.into_inner().expect("no worker panics with it")
}

/// What the first seed that failed needs for it.
fn shrunk((seed, error): (u64, &String), nodes: u16) -> String {
    let (bounds, error) = shrink::shrink(seed, nodes, error);
    format!("shrunk: cargo sim --seed {seed}{bounds}\nwhich says: {error}")
}

fn sum_up(results: BTreeMap<u64, Result<Report, String>>, whole: &Bounds) -> Summary {
    let mut summary = Summary { seeds: results.len() as u64, ..Summary::default() };
    for (seed, result) in results {
        match result {
            Ok(report) => summary.total.add(&report),
            Err(error) => {
                summary
                    .broken
                    .push(format!("seed {seed}: {error}\nreplay: cargo sim --seed {seed}{whole}"));
            }
        }
    }
    summary.hold_to_floors(whole.nodes);
    summary
}

impl Summary {
    /// A range that did little proves little. A single seed is a replay, and may be anything.
    fn hold_to_floors(&mut self, nodes: u16) {
        let faults = self.total.faults.values().sum();
        let floors = [
            ("acknowledged batches", self.total.acked, ACKED_FLOOR),
            ("faults", faults, FAULTS_FLOOR),
            ("restarts", self.total.restarts, RESTARTS_FLOOR),
        ];
        let whole = self.seeds - self.broken.len() as u64;
        for (what, came, floor) in floors {
            if self.seeds != 1 && came < floor * whole.max(1) {
                self.broken.push(format!("{whole} seeds saw {came} {what}: too few"));
            }
        }
        if self.seeds >= ALL_KINDS_SEEDS {
            let total = &self.total;
            let came =
                |kind: &str| total.faults.contains_key(kind) || total.deeds.contains_key(kind);
            let missing = all_kinds(nodes).filter(|kind| !came(kind));
            self.broken.extend(missing.map(|kind| format!("{kind} never came")));
        }
    }

    /// One line of JSON.
    #[must_use]
    pub fn line(&self) -> String {
        let total = &self.total;
        format!(
            "{{\"seeds\":{},\"acked\":{},\"checked\":{},\"faults\":{},\"restarts\":{},\
             \"deeds\":{},\"pushes\":{},\"damaged\":{},\"cut\":{},\"broken\":{},\
             \"fingerprint\":\"{:016x}\"}}",
            self.seeds,
            total.acked,
            total.checked,
            json(&total.faults),
            total.restarts,
            json(&total.deeds),
            total.pushes,
            total.damaged,
            total.cut,
            self.broken.len(),
            total.fingerprint,
        )
    }
}

fn json(counts: &Counts) -> String {
    let counts: Vec<_> = counts.iter().map(|(kind, times)| format!("\"{kind}\":{times}")).collect();
    format!("{{{}}}", counts.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone() -> Bounds {
        Bounds::default()
    }

    fn report(acked: u64, skip: usize) -> Result<Report, String> {
        let faults = all_kinds(1).skip(skip).map(|kind| (kind, 10)).collect();
        Ok(Report { acked, restarts: 1, faults, fingerprint: acked, ..Report::default() })
    }

    #[test]
    fn a_range_that_does_little_is_broken() {
        let few = sum_up(BTreeMap::from([(0, report(199, 0)), (1, report(200, 0))]), &alone());
        assert_eq!(few.broken, ["2 seeds saw 399 acknowledged batches: too few"]);
        let none = sum_up(BTreeMap::new(), &alone());
        assert_eq!(none.broken.len(), 3, "{:?}", none.broken);
        let enough = sum_up(BTreeMap::from([(0, report(200, 0)), (1, report(201, 0))]), &alone());
        assert!(enough.broken.is_empty(), "{:?}", enough.broken);
        assert_ne!(enough.total.fingerprint, 0);
    }

    #[test]
    fn what_never_came_in_a_long_range_is_told() {
        let without = |seeds| (0..seeds).map(|seed| (seed, report(200, 1))).collect();
        assert!(sum_up(without(ALL_KINDS_SEEDS - 1), &alone()).broken.is_empty());
        let told = sum_up(without(ALL_KINDS_SEEDS), &alone()).broken;
        assert_eq!(told, [format!("{} never came", all_kinds(1).next().unwrap())]);
    }

    #[test]
    fn a_broken_seed_tells_how_to_replay_it() {
        let broken = sum_up(BTreeMap::from([(7, Err("lost".to_owned()))]), &alone());
        assert_eq!(broken.broken, ["seed 7: lost\nreplay: cargo sim --seed 7"]);
        assert!(broken.line().contains("\"broken\":1"));
    }
}
