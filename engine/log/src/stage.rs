//! How long a stage of the append path takes: durations counted by size.

use std::time::Duration;

/// Upper ends of the buckets; what is longer is counted in one more.
pub const STAGE_BOUNDS: [Duration; 16] = [
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(200),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

/// Durations of one stage. Never reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stage {
    counts: [u64; STAGE_BOUNDS.len() + 1],
    total: Duration,
}

impl Stage {
    /// Counts one.
    pub fn note(&mut self, took: Duration) {
        self.counts[STAGE_BOUNDS.partition_point(|bound| *bound < took)] += 1;
        self.total = self.total.saturating_add(took);
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.total = self.total.saturating_add(other.total);
    }

    /// How many were counted in each bucket; the last is of those beyond all bounds.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// All of them together.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_where_they_belong() {
        let mut stage = Stage::default();
        let (short, on_the_bound) = (Duration::from_nanos(1), Duration::from_micros(50));
        for took in [short, on_the_bound, Duration::from_micros(51), Duration::from_secs(60)] {
            stage.note(took);
        }
        let mut twice = stage;
        twice.add(&stage);
        assert_eq!((twice.counts()[0], twice.counts()[1], twice.counts()[16]), (4, 2, 2));
        assert_eq!(twice.total(), stage.total() * 2);
    }
}
