//! What a run came to, as people and programs read it.

use std::{collections::BTreeMap, fmt::Write, time::Instant};

use super::books::Finding;
use crate::runs::Run;

/// The counts of a run.
#[derive(Debug)]
pub struct Tally {
    begun: Instant,
    /// Cycles in which something was acknowledged before the fault.
    pub cycles: u64,
    /// Cycles in which nothing was: they prove nothing.
    pub discarded: u64,
    /// Batches acknowledged.
    pub acked: u64,
    checked: u64,
    lost: u64,
    duplicated: u64,
    wrong: u64,
    /// Sum and greatest of the batches in flight when a fault came.
    depth: (u64, u64),
    /// The most of them on a slow disk, and the most requests that the disk had before it then.
    slow_depth: (u64, u64),
    faults: BTreeMap<&'static str, u64>,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            cycles: 0,
            discarded: 0,
            acked: 0,
            checked: 0,
            lost: 0,
            duplicated: 0,
            wrong: 0,
            depth: (0, 0),
            slow_depth: (0, 0),
            faults: BTreeMap::new(),
            findings: Vec::new(),
        }
    }
}

impl Tally {
    /// A fault of a kind came.
    pub fn fault(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_default() += 1;
    }

    /// So many batches were in flight when it came.
    pub fn depth(&mut self, batches: u64) {
        self.depth = (self.depth.0 + batches, self.depth.1.max(batches));
    }

    /// So many were when it came on a slow disk, and so many requests waited there.
    pub fn slow_depth(&mut self, batches: u64, requests: u64) {
        self.slow_depth = (self.slow_depth.0.max(batches), self.slow_depth.1.max(requests));
    }

    /// The most batches that were in flight when a fault came, and when one came on a slow disk.
    #[must_use]
    pub fn deepest(&self) -> (u64, u64) {
        (self.depth.1, self.slow_depth.0)
    }

    /// So many records that had to be there were compared.
    pub fn checked(&mut self, records: u64) {
        self.checked += records;
    }

    /// A cycle broke a promise in another way than by what was read.
    pub fn broke(&mut self) {
        self.wrong += 1;
    }

    /// What is not as it should be.
    pub fn found(&mut self, findings: Vec<Finding>) {
        for finding in findings {
            match finding {
                Finding::Lost(_) => self.lost += 1,
                Finding::Duplicated(_) => self.duplicated += 1,
                Finding::Wrong(_) => self.wrong += 1,
            }
            self.findings.push(finding);
        }
    }

    /// The run for the books.
    #[must_use]
    pub fn run(&self, method: &'static str, command: String) -> Run {
        let faults = self.faults.iter().map(|(kind, times)| ((*kind).to_owned(), *times));
        Run {
            method,
            command,
            units: self.cycles,
            acked: self.acked,
            checked: self.checked,
            lost: self.lost,
            duplicated: self.duplicated,
            broken: self.wrong,
            faults: faults.collect(),
            notes: self.notes(),
            seconds: self.begun.elapsed().as_secs(),
        }
    }

    fn notes(&self) -> BTreeMap<String, u64> {
        let notes = [
            ("discarded", self.discarded),
            ("in_flight_mean", self.depth.0 / (self.cycles + self.discarded).max(1)),
            ("in_flight_max", self.depth.1),
            ("in_flight_slow_max", self.slow_depth.0),
            ("requests_slow_max", self.slow_depth.1),
        ];
        notes.map(|(name, number)| (name.to_owned(), number)).into()
    }

    /// One line of JSON.
    #[must_use]
    pub fn line(&self, method: &str, seed: u64) -> String {
        let mut faults = String::new();
        for (kind, times) in &self.faults {
            let comma = if faults.is_empty() { "" } else { "," };
            write!(faults, "{comma}\"{kind}\":{times}").expect("a string takes all");
        }
        format!(
            "{{\"method\":\"{method}\",\"seed\":{seed},\"cycles\":{},\"discarded\":{},\
             \"acked\":{},\"checked\":{},\"lost\":{},\"duplicated\":{},\"wrong\":{},\
             \"in_flight_mean\":{},\"in_flight_max\":{},\"faults\":{{{faults}}},\
             \"seconds\":{:.1}}}",
            self.cycles,
            self.discarded,
            self.acked,
            self.checked,
            self.lost,
            self.duplicated,
            self.wrong,
            self.depth.0 / (self.cycles + self.discarded).max(1),
            self.depth.1,
            self.begun.elapsed().as_secs_f64(),
        )
    }
}
