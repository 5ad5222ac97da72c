//! What is counted.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::error::Error;

/// The longest latency that is told apart from longer ones.
const LATENCY_MAX: Duration = Duration::from_secs(3600);
/// Digits that hold of every latency.
const DIGITS: u8 = 3;

/// Latencies in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, nanoseconds(LATENCY_MAX), DIGITS);
        Self(histogram.expect("the bounds of the histogram are in order"))
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        self.0.saturating_record(nanoseconds(latency));
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// In microseconds; nothing when nothing was recorded.
    pub(crate) fn quantile_us(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }

    /// In microseconds.
    pub(crate) fn max_us(&self) -> f64 {
        self.0.max() as f64 / 1e3
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What came of the batches of one producer, or of all of them.
#[derive(Debug)]
pub(crate) struct Tally {
    /// From when a batch was due to its receipt; of one without, to when it was given up.
    pub(crate) latencies: Latencies,
    /// From when a batch was due to its sending: how late the tool itself was.
    pub(crate) delays: Latencies,
    /// Batches measured and acknowledged.
    pub(crate) batches: u64,
    /// All records acknowledged, also those that were not measured.
    pub(crate) acknowledged: u64,
    /// Batches that the server refused.
    pub(crate) refused: u64,
    /// Batches sent and not answered.
    pub(crate) unanswered: u64,
    /// Batches that were due and found no room until the end.
    pub(crate) unsent: u64,
    /// The last receipt of a batch that was measured.
    pub(crate) last: Option<Instant>,
    /// Why it ended early, or what is to be said of it.
    pub(crate) failure: Option<Error>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            latencies: Latencies::new(),
            delays: Latencies::new(),
            batches: 0,
            acknowledged: 0,
            refused: 0,
            unanswered: 0,
            unsent: 0,
            last: None,
            failure: None,
        }
    }

    /// The first failure stays.
    pub(crate) fn fail(&mut self, error: Error) {
        self.failure.get_or_insert(error);
    }

    pub(crate) fn merge(mut self, other: Self) -> Self {
        self.latencies.add(&other.latencies);
        self.delays.add(&other.delays);
        self.batches += other.batches;
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.unanswered += other.unanswered;
        self.unsent += other.unsent;
        self.last = self.last.max(other.last);
        self.failure = self.failure.or(other.failure);
        self
    }
}
