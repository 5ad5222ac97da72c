//! How long to wait before something is tried again.

use std::time::{Duration, Instant};

use crate::error::Error;

const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long the first of several servers may take.
const TRY_MIN: Duration = Duration::from_millis(500);

/// Pauses that grow by half up to a second, each shortened by up to half at random, so that many
/// clients do not come back at once. What is away for a while, as a head until there is another, is
/// noticed a fraction of that while later.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    next: Duration,
    random: u64,
}

impl Backoff {
    /// Pauses from the shortest on; the seed decides by how much each is shortened.
    pub(crate) fn new(seed: u64) -> Self {
        Self { next: PAUSE_MIN, random: seed | 1 }
    }

    /// The next pause.
    pub(crate) fn pause(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 3 / 2).min(PAUSE_MAX);
        self.shorten(whole)
    }

    /// Up to half of it less, at random.
    pub(crate) fn shorten(&mut self, whole: Duration) -> Duration {
        // Marsaglia's xorshift64.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        whole - whole / 512 * u32::from((self.random & 0xff) as u8)
    }

    /// It went well: the next pause is short again.
    pub(crate) fn reset(&mut self) {
        self.next = PAUSE_MIN;
    }
}

/// How long a request that changes nothing is tried again.
#[derive(Debug)]
pub(crate) struct Patience {
    until: Instant,
    backoff: Backoff,
    /// How long the next server may take, where there are others.
    next: Duration,
}

impl Patience {
    /// Patience until then.
    pub(crate) fn new(until: Instant, seed: u64) -> Self {
        Self { until, backoff: Backoff::new(seed), next: TRY_MIN }
    }

    /// How long a server may take where `others` could be asked as well, and `whole` at most: each
    /// time twice as long.
    pub(crate) fn share(&mut self, whole: Duration, others: bool) -> Duration {
        let share = self.next.min(whole);
        self.next = whole.min(self.next.saturating_mul(2));
        if others { share } else { whole }
    }

    /// Whether it has come to its end.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        now >= self.until
    }

    /// How long to wait before the request is tried again; `None`: not at all. One that is not
    /// `repeatable` is tried again only if it was not sent, or is to be asked elsewhere.
    pub(crate) fn pause(
        &mut self,
        error: &Error,
        repeatable: bool,
        now: Instant,
    ) -> Option<Duration> {
        let pause = self.backoff.pause();
        let again = error.is_retriable() || matches!(error, Error::Connection { .. });
        let elsewhere = error.is_unreachable() || error.is_elsewhere();
        let worth = if repeatable { again } else { elsewhere };
        (worth && now + pause < self.until).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_shrink_again() {
        let mut backoff = Backoff::new(7);
        for _ in 0..20 {
            let pause = backoff.pause();
            assert!(pause >= PAUSE_MIN / 2 && pause <= PAUSE_MAX, "{pause:?}");
        }
        assert!(backoff.pause() >= PAUSE_MAX / 2);
        backoff.reset();
        assert!(backoff.pause() <= PAUSE_MIN);
    }

    fn lost() -> Error {
        let source = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        Error::Connection { address: "one:9200".to_owned(), source: source.into() }
    }

    #[test]
    fn patience_ends_in_time_and_at_a_definite_error() {
        let now = Instant::now();
        let mut patience = Patience::new(now + Duration::from_secs(5), 1);
        let later =
            Error::Server { code: catena_wire::ErrorCode::Starting, message: String::new() };
        assert!(patience.pause(&later, true, now).is_some());
        assert!(patience.pause(&later, true, now + Duration::from_secs(5)).is_none());
        let never =
            Error::Server { code: catena_wire::ErrorCode::UnknownTopic, message: String::new() };
        assert!(patience.pause(&never, true, now).is_none());
        let broken = lost();
        assert!(patience.pause(&broken, true, now).is_some());
        assert!(patience.pause(&broken, false, now).is_none(), "it may have been done");
        assert!(patience.pause(&broken.before_asking(), false, now).is_some());
    }
}
