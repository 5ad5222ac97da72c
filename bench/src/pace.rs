//! When batches are due: at even times that nothing delays, or whenever there is room.

use std::time::{Duration, Instant};

/// The time table of one producer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    start: Instant,
    warm: Instant,
    end: Instant,
    /// Where the loop is open: the first batch's time after the start and the time between two, in
    /// nanoseconds.
    times: Option<(f64, f64)>,
    /// The most batches.
    batches_max: u64,
}

impl Pace {
    /// A closed loop: a batch is due as soon as there is room for it.
    pub(crate) fn closed(start: Instant, warmup: Duration, duration: Duration) -> Self {
        let warm = start + warmup;
        Self { start, warm, end: warm + duration, times: None, batches_max: u64::MAX }
    }

    /// An open loop: batches of all producers together are due `per_second`, in turn.
    pub(crate) fn open(self, per_second: f64, producer: u32, producers: u32) -> Self {
        let between = 1e9 / per_second;
        let first = between * f64::from(producer);
        Self { times: Some((first, between * f64::from(producers))), ..self }
    }

    /// The same, but no more than so many batches.
    pub(crate) fn at_most(self, batches_max: u64) -> Self {
        Self { batches_max, ..self }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.times.is_some()
    }

    /// When the `number`th batch is due; `None`: it is not to be sent.
    pub(crate) fn due(&self, number: u64, now: Instant) -> Option<Instant> {
        let due = match self.times {
            None => now.max(self.start),
            Some((first, between)) => {
                self.start + Duration::from_nanos((first + number as f64 * between) as u64)
            }
        };
        (due < self.end && number < self.batches_max).then_some(due)
    }

    /// Whether a batch that was due then is measured.
    pub(crate) fn is_measured(&self, due: Instant) -> bool {
        due >= self.warm
    }

    /// When the load begins.
    pub(crate) fn start(&self) -> Instant {
        self.start
    }

    /// When the load ends: nothing is sent from then on.
    pub(crate) fn end(&self) -> Instant {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_loop_is_due_whatever_the_time_is() {
        let start = Instant::now();
        let pace = Pace::closed(start, Duration::from_secs(1), Duration::from_secs(1));
        let second = pace.open(1000.0, 1, 2);
        for late in [start, start + Duration::from_secs(1)] {
            assert_eq!(second.due(0, late), Some(start + Duration::from_millis(1)));
            assert_eq!(second.due(10, late), Some(start + Duration::from_millis(21)));
        }
        assert_eq!(second.due(1000, start), None, "it is due behind the end");
        assert_eq!(second.at_most(10).due(10, start), None);
    }

    #[test]
    fn a_closed_loop_is_due_now() {
        let start = Instant::now();
        let pace = Pace::closed(start, Duration::ZERO, Duration::from_secs(1));
        let now = start + Duration::from_millis(5);
        assert_eq!(pace.due(77, now), Some(now));
        assert_eq!(pace.due(77, start + Duration::from_secs(1)), None);
    }
}
