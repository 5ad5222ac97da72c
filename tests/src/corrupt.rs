//! A real node's files, corrupted one by one: whatever rots, all that is intact is served, what is
//! not is answered with an error that says so, nothing is deleted, and the node starts, or says
//! which file keeps it from starting.
//!
//! ```text
//! base directory and books ─ copy ─ corrupt ─ what must come of it ─ start, read, append ─ again
//! ```
//!
//! A seed is a case: which base (built by the server itself, and shared by some cases), which file,
//! which bytes, what is done to them. A base is not the same to the byte when it is built again, so
//! that a case which fails leaves its directory behind.

mod base;
mod check;
mod damage;
mod map;

use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use base::Base;
use check::{CATALOG, Case, Outcome, log_of};
use damage::{Deed, Kind, Logs};
use map::Map;
use serde_json::json;
use tempfile::TempDir;

/// So many cases share a base.
const BASE_CASES: u64 = 20;
/// In so many cases every deed must be done to every kind of file.
const ALL_DEEDS_CASES: u64 = 500;
/// And to every region of it, in so many.
const ALL_REGIONS_CASES: u64 = 1000;

/// What the cases came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// How many were run.
    pub cases: u64,
    /// Batches that the bases acknowledged.
    pub acked: u64,
    /// Records that were compared.
    pub checked: u64,
    /// How often each kind of file met each deed.
    pub faults: BTreeMap<String, u64>,
    /// How often it was in which of its regions.
    pub regions: BTreeMap<String, u64>,
    /// What became of the node, by kind.
    pub outcomes: BTreeMap<String, u64>,
    /// What was broken, each with the line that replays it.
    pub broken: Vec<String>,
}

/// Runs the cases of `seeds` against the server at `binary`, in directories below `scratch`.
#[must_use]
pub fn run(binary: &Path, scratch: &Path, seeds: Range<u64>) -> Summary {
    let chunks = seeds.start / BASE_CASES..seeds.end.div_ceil(BASE_CASES);
    let next = AtomicU64::new(chunks.start);
    let total = Mutex::new(Summary::default());
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let chunk = next.fetch_add(1, Ordering::Relaxed);
                    if chunk >= chunks.end {
                        return;
                    }
                    let cases = chunk * BASE_CASES..(chunk + 1) * BASE_CASES;
                    let cases = cases.start.max(seeds.start)..cases.end.min(seeds.end);
                    let summary = run_chunk(binary, scratch, chunk, cases);
                    total.lock().expect("no worker panics with it").add(summary);
                }
            });
        }
    });
    let mut total = total.into_inner().expect("no worker panics with it");
    total.hold_to_floors();
    total
}

fn run_chunk(binary: &Path, scratch: &Path, chunk: u64, seeds: Range<u64>) -> Summary {
    let mut summary = Summary::default();
    let built = Base::build(binary, scratch, chunk).and_then(|base| {
        let logs = map_logs(binary, &base)?;
        Ok((base, logs))
    });
    match built {
        Ok((base, logs)) => {
            summary.acked += base.acked;
            seeds.for_each(|seed| summary.run_case(binary, scratch, &base, &logs, seed));
        }
        Err(error) => {
            eprintln!("base {chunk}: {error}");
            summary.broken.push(format!("base {chunk}: {error}"));
        }
    }
    summary
}

fn map_logs(binary: &Path, base: &Base) -> Result<Logs, String> {
    let partitions = base.books.iter().map(|books| log_of(books.uid));
    let directories = partitions.chain([PathBuf::from(CATALOG)]);
    directories.map(|log| Ok((log.clone(), Map::of(binary, &base.data().join(log))?))).collect()
}

impl Summary {
    fn run_case(&mut self, binary: &Path, scratch: &Path, base: &Base, logs: &Logs, seed: u64) {
        let corruption = damage::choose(&base.data(), &base.older, logs, seed);
        let folder = TempDir::new_in(scratch).expect("a directory can be made");
        let mut case = Case::new(binary, base, logs, &corruption, folder.path(), seed);
        let outcome = case.run();
        self.cases += 1;
        self.checked += case.checked;
        let damage::Corruption { kind, deed, region, .. } = &corruption;
        *self.faults.entry(format!("{kind:?}/{deed:?}")).or_default() += 1;
        *self.regions.entry(format!("{kind:?}/{region}")).or_default() += 1;
        match outcome {
            Ok(outcome) => *self.outcomes.entry(format!("{outcome:?}")).or_default() += 1,
            Err(error) => {
                let kept = scratch.join(format!("broken-{seed}"));
                let _ = fs::remove_dir_all(&kept);
                let _ = base::copy_tree(&base.data(), &kept.join("before"));
                let _ = fs::rename(folder.path().join("data"), kept.join("after"));
                let broken = format!(
                    "seed {seed}: {corruption}: {error}\nthe files: {}\n\
                     replay: cargo corrupt --seed {seed} --cases 1",
                    kept.display()
                );
                eprintln!("{broken}");
                self.broken.push(broken);
            }
        }
    }

    fn add(&mut self, other: Self) {
        self.cases += other.cases;
        self.acked += other.acked;
        self.checked += other.checked;
        self.broken.extend(other.broken);
        for (sums, more) in [
            (&mut self.faults, other.faults),
            (&mut self.regions, other.regions),
            (&mut self.outcomes, other.outcomes),
        ] {
            for (kind, count) in more {
                *sums.entry(kind).or_default() += count;
            }
        }
    }

    /// Many cases that never did something, or to which nothing ever came, prove little.
    fn hold_to_floors(&mut self) {
        if self.cases == 0 {
            self.broken.push("no case was run".to_owned());
        }
        if self.cases < ALL_DEEDS_CASES {
            return;
        }
        let outcomes = [Outcome::Unharmed, Outcome::Damaged, Outcome::Closed, Outcome::Refused];
        let outcomes = outcomes.map(|outcome| format!("{outcome:?}"));
        let never = outcomes.into_iter().filter(|outcome| !self.outcomes.contains_key(outcome));
        let deeds = Kind::ALL.into_iter().flat_map(|kind| {
            let deeds = Deed::ALL.into_iter().filter(move |deed| kind.meets(*deed));
            deeds.map(move |deed| format!("{kind:?}/{deed:?}"))
        });
        let deeds = deeds.filter(|pair| !self.faults.contains_key(pair));
        let regions = Kind::ALL
            .into_iter()
            .flat_map(|kind| kind.regions().iter().map(move |region| format!("{kind:?}/{region}")));
        let enough = self.cases >= ALL_REGIONS_CASES;
        let regions = regions.filter(|pair| enough && !self.regions.contains_key(pair));
        let missing: Vec<String> = never.chain(deeds).chain(regions).collect();
        self.broken.extend(missing.iter().map(|what| format!("{what} never came")));
    }

    /// One line of JSON.
    #[must_use]
    pub fn line(&self) -> String {
        json!({
            "cases": self.cases, "acked": self.acked, "checked": self.checked,
            "faults": self.faults, "regions": self.regions, "outcomes": self.outcomes,
            "broken": self.broken.len(),
        })
        .to_string()
    }
}
