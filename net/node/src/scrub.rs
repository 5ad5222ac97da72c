//! When the scrub reads, and of which partition: one read after another on a core, at a rate,
//! behind what clients want.
//!
//! A *pass* goes through all partitions of the core, in the order of their ids and around. Where
//! the first one begins differs from start to start, so that a node which is often restarted gets
//! everywhere.

use std::{ops::Bound, time::Duration};

use catena_format::PartitionUid;
use catena_log::{Now, io::Memory};
use catena_replication::Phase;

use crate::node::{Directory, Node, Status};

/// With more bytes of requests under way a core has enough to do.
const BUSY_BYTES: u64 = 1 << 20;
/// How often it is looked whether that has ended,
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// and for how long at most a read waits for it.
const PATIENCE: Duration = Duration::from_secs(1);
/// The least time from one pass to the next.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// So many partitions that have nothing to read are passed by at a time.
const PASSED_BY_MAX: usize = 64;
/// 2⁶⁴ divided by the golden ratio: its multiples spread evenly, however many there are.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The scrub of a core.
#[derive(Default)]
pub(crate) struct Scrub {
    /// When the next read is due, or the next look whether there is something to read.
    due: Duration,
    /// Since when a read that is due waits for the core.
    waits: Option<Duration>,
    /// The partition whose turn it is.
    at: Option<PartitionUid>,
    pass: Option<Pass>,
    /// When the last whole pass began.
    last: Option<Duration>,
}

/// A way through all partitions.
#[derive(Clone, Copy)]
struct Pass {
    /// The partition with which it began.
    first: PartitionUid,
    since: Duration,
    /// None was passed by because it was not open yet.
    whole: bool,
}

impl<M: Memory + Clone> Node<M> {
    /// When [`Node::scrub`] has something to do, if that is known.
    pub(crate) fn next_scrub(&self) -> Option<Duration> {
        let serves = matches!(self.status, Status::Serving | Status::Poisoned(_));
        let held = self.scrub.at.and_then(|uid| self.held.get(&uid));
        let reading =
            held.and_then(|held| held.replica.log()).is_some_and(|log| log.is_scrubbing());
        if self.limits.scrub_rate == 0 || !serves || reading {
            return None;
        }
        let rests = self.scrub.last.filter(|_| self.scrub.pass.is_none());
        let rests = rests.map_or(Duration::ZERO, |at| at.saturating_add(self.limits.scrub_period));
        Some(self.scrub.due.max(rests))
    }

    /// Asks for the next read of the scrub, if it is due.
    pub(crate) fn scrub(&mut self, now: Now) {
        let now = now.monotonic;
        if self.next_scrub().is_none_or(|due| now < due) {
            return;
        }
        let since = *self.scrub.waits.get_or_insert(now);
        let busy = self.bytes_in_flight > BUSY_BYTES || self.memory.is_short();
        if busy && now < since + PATIENCE {
            self.scrub.due = now + LOOK_EVERY;
            return;
        }
        self.scrub.waits = None;
        self.scrub.due = now;
        for _ in 0..PASSED_BY_MAX {
            let Some(uid) = self.turn(now) else { return };
            let spin = self.spin().wrapping_mul(self.held.len() as u64);
            let held = self.held.get_mut(&uid).expect("only what is held has a turn");
            if let Some(bytes) = held.replica.scrub(spin) {
                let nanoseconds = bytes as u64 * 1_000_000_000 / self.limits.scrub_rate;
                self.scrub.due = now + Duration::from_nanos(nanoseconds);
                self.dirty.insert(Directory::Partition(uid));
                return;
            }
            let opening = held.replica.phase() == Phase::Opening;
            if let Some(pass) = &mut self.scrub.pass {
                pass.whole &= !opening;
            }
            self.next_turn(uid, now);
            if self.scrub.pass.is_none() {
                return;
            }
        }
    }

    /// Another number at each start, as a fraction of 2⁶⁴.
    fn spin(&self) -> u64 {
        self.incarnation.get().wrapping_mul(SPREAD)
    }

    /// The partition whose turn it is. A pass begins if none is under way.
    fn turn(&mut self, now: Duration) -> Option<PartitionUid> {
        let count = self.held.len() as u128;
        let spun = usize::try_from((u128::from(self.spin()) * count) >> u64::BITS).unwrap_or(0);
        let at = match self.scrub.at {
            Some(at) => self.held.range(at..).next().or(self.held.first_key_value()),
            None => self.held.iter().nth(spun),
        };
        let Some(at) = at.map(|(uid, _)| *uid) else {
            self.scrub = Scrub { due: now + PAUSE_MIN, ..Scrub::default() };
            return None;
        };
        self.scrub.at = Some(at);
        self.scrub.pass.get_or_insert(Pass { first: at, since: now, whole: true });
        Some(at)
    }

    /// The turn goes from one partition to the next; behind the last one the pass ends.
    fn next_turn(&mut self, from: PartitionUid, now: Duration) {
        let behind = self.held.range((Bound::Excluded(from), Bound::Unbounded)).next();
        let Some((next, _)) = behind.or(self.held.first_key_value()) else { return };
        let next = *next;
        self.scrub.at = Some(next);
        let Some(pass) = self.scrub.pass.filter(|pass| passes(from, next, pass.first)) else {
            return;
        };
        self.scrub.pass = None;
        self.scrub.due = now + PAUSE_MIN;
        if pass.whole {
            self.stats.scrub_passes += 1;
            self.scrub.last = Some(pass.since);
        }
    }
}

/// Whether the way from one partition around to the next leads to `place` or past it.
fn passes(from: PartitionUid, next: PartitionUid, place: PartitionUid) -> bool {
    let (behind, before) = (from < place, place <= next);
    if from < next { behind && before } else { behind || before }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_ends_where_it_began_even_if_that_partition_is_gone() {
        let passes = |from, next, place| {
            let uid = PartitionUid::new;
            passes(uid(from), uid(next), uid(place))
        };
        assert!(!passes(3, 5, 3) && !passes(3, 5, 6) && !passes(3, 5, 1));
        assert!(passes(3, 5, 5) && passes(3, 5, 4));
        // Around.
        assert!(passes(8, 2, 9) && passes(8, 2, 1) && passes(8, 2, 2));
        assert!(!passes(8, 2, 8) && !passes(8, 2, 3));
        // The only one.
        assert!(passes(4, 4, 4) && passes(4, 4, 9));
    }
}
