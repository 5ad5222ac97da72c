//! A range of seeds, on every processor.

use std::{any::Any, collections::BTreeMap, ops::Range, panic};

use super::{Report, deeds::Deed};
use crate::sim::range::each;

/// Batches that a seed acknowledges, at least.
const ACKED_FLOOR: u64 = 300;
/// Configurations of its chain, on average.
const EPOCHS_FLOOR: u64 = 5;
/// In a range of so many seeds everything must come that can.
const ALL_KINDS_SEEDS: u64 = 500;

/// What a range of seeds came to.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// How many were run.
    pub seeds: u64,
    /// The sums of those that broke nothing.
    pub total: Report,
    /// What was broken, and every floor that was missed.
    pub broken: Vec<String>,
}

/// Runs a range of seeds.
#[must_use]
pub fn run(seeds: Range<u64>, nodes: Option<usize>) -> Summary {
    sum_up(each(seeds, |seed| {
        let result = panic::catch_unwind(|| super::run(seed, nodes, false));
        result.unwrap_or_else(|told| Err(message(told.as_ref())))
    }))
}

fn message(told: &(dyn Any + Send)) -> String {
    let text = told.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| told.downcast_ref::<&str>().copied());
    format!("a panic: {}", text.unwrap_or("without a word"))
}

fn sum_up(results: BTreeMap<u64, Result<Report, String>>) -> Summary {
    let mut summary = Summary { seeds: results.len() as u64, ..Summary::default() };
    for (seed, result) in results {
        match result {
            Ok(report) => summary.total.add(&report),
            Err(error) => summary.broken.push(format!("seed {seed}: {error}")),
        }
    }
    let (total, whole) = (&summary.total, summary.seeds - summary.broken.len() as u64);
    let floors = [
        ("acknowledged batches", total.acked, ACKED_FLOOR),
        ("configurations", total.epochs, EPOCHS_FLOOR),
    ];
    let few = floors
        .into_iter()
        .filter(|(_, came, floor)| summary.seeds != 1 && *came < floor * whole.max(1));
    let few: Vec<_> =
        few.map(|(what, came, _)| format!("{whole} seeds saw {came} {what}: too few")).collect();
    let missing = Deed::ALL.into_iter().filter(|deed| !total.deeds.0.contains_key(deed.name()));
    let missing: Vec<_> = match summary.seeds {
        ALL_KINDS_SEEDS.. => missing.map(|deed| format!("{} never came", deed.name())).collect(),
        _ => Vec::new(),
    };
    summary.broken.extend(few);
    summary.broken.extend(missing);
    summary
}

impl Report {
    fn add(&mut self, other: &Self) {
        self.acked += other.acked;
        self.checked += other.checked;
        self.epochs += other.epochs;
        for (deed, times) in &other.deeds.0 {
            *self.deeds.0.entry(deed).or_insert(0) += times;
        }
        self.fingerprint = self.fingerprint.rotate_left(1) ^ other.fingerprint;
    }
}

impl Summary {
    /// One line of JSON.
    #[must_use]
    pub fn line(&self) -> String {
        let Report { acked, checked, epochs, deeds, fingerprint } = &self.total;
        serde_json::json!({
            "seeds": self.seeds, "acked": acked, "checked": checked, "epochs": epochs,
            "deeds": deeds.0, "broken": self.broken.len(),
            "fingerprint": format!("{fingerprint:016x}"),
        })
        .to_string()
    }
}
