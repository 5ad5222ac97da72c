//! Who joins a chain is given what is on the disk at a rate that all joiners of a core share.

use std::{collections::BTreeSet, time::Duration};

use catena_format::PartitionUid;
use catena_log::{Now, io::Memory};

use crate::node::{Directory, Node};

/// How often something is allowed.
const EVERY: Duration = Duration::from_millis(10);
/// What is allowed at once is what the rate gives in so long, at most.
const BURST: Duration = Duration::from_millis(100);

/// The partitions of a core that wait to copy.
#[derive(Default)]
pub(crate) struct CatchUp {
    waiting: BTreeSet<PartitionUid>,
    /// When something was allowed.
    last: Duration,
}

impl<M: Memory + Clone> Node<M> {
    /// When [`Node::allow_copies`] has something to do, if ever.
    pub(crate) fn next_copies(&self) -> Option<Duration> {
        (!self.catch_up.waiting.is_empty()).then_some(self.catch_up.last + EVERY)
    }

    /// Takes note of a partition that has something for its joiner and waits.
    pub(crate) fn note_waiting(&mut self, uid: PartitionUid) {
        if self.held.get(&uid).is_some_and(|held| held.replica.waits_to_copy()) {
            self.catch_up.waiting.insert(uid);
        }
    }

    /// Shares what may be read now among those that wait.
    pub(crate) fn allow_copies(&mut self, now: Now) {
        if self.next_copies().is_none_or(|due| now.monotonic < due) {
            return;
        }
        let since = now.monotonic.saturating_sub(self.catch_up.last).min(BURST);
        self.catch_up.last = now.monotonic;
        let waiting = std::mem::take(&mut self.catch_up.waiting);
        let bytes = u128::from(self.limits.catch_up_rate) * since.as_nanos() / 1_000_000_000;
        let share = u64::try_from(bytes).unwrap_or(u64::MAX) / waiting.len() as u64;
        for uid in waiting {
            let Some(held) = self.held.get_mut(&uid) else { continue };
            held.replica.on_copies_allowed(share, now);
            self.dirty.insert(Directory::Partition(uid));
            self.replica_events(uid, now);
        }
    }
}
