//! A life that is ended and does not just end: the node takes nothing more and answers what it has.

use catena_format::PartitionUid;
use catena_log::Log;
use catena_node::Node;
use catena_replication::Replica;

use super::{Machine, World};
use crate::sim::deeds::Deed;

/// As long as an operator waits.
const DRAIN_NS: u64 = 10_000_000_000;
/// Of a million stops those that the operator cuts short, within so many nanoseconds.
const CUT_PER_MILLION: u32 = 300_000;
const CUT_NS: u64 = 2_000_000;

impl World {
    /// Has a node end; its requests, clients and faults go on meanwhile, and what comes last is a
    /// crash all the same.
    pub(super) fn stop(&mut self, at: usize) -> Result<(), String> {
        let (now, life) = (self.now(), self.machines[at].life);
        self.machines[at].cores.iter_mut().for_each(|core| core.drain(now));
        self.carry_out();
        let cut = self.random.chance(CUT_PER_MILLION);
        let longest_ns = if cut { self.random.below(CUT_NS) } else { DRAIN_NS };
        let deadline_ns = self.now_ns + longest_ns;
        while !self.machines[at].is_idle() && self.now_ns < deadline_ns {
            self.step()?;
            if self.machines[at].life != life {
                return Ok(());
            }
        }
        if self.machines[at].is_idle() {
            self.oracle.did(Deed::Drained);
            self.machines[at].note_stop(!self.says_no);
        } else if !cut && !self.says_no && self.council.is_none() {
            return Err("a node that is drained does not end".to_owned());
        }
        self.crash(at);
        Ok(())
    }
}

impl Machine {
    fn is_idle(&self) -> bool {
        self.cores.iter().all(Node::is_idle)
    }

    fn note_stop(&mut self, sound: bool) {
        let ends = self.replicas().filter_map(|replica| {
            let log = replica.log().filter(|log| log.poisoned().is_none())?;
            Some((replica.identity().uid, log.log_end()))
        });
        self.stopped = ends.collect();
        // Before it has served, a node knows nothing; and behind a write that failed, an entry may
        // be there or not.
        // Of several nodes each hears of it at its own pace.
        let alone = self.is_alone();
        self.known = (sound && self.swept && alone).then(|| self.cores[0].known());
    }

    /// What an ended life's catalog named is what the next one's names.
    pub(super) fn serves_after_stop(&mut self) -> Result<(), String> {
        let known = self.cores[0].known();
        let Some(stopped) = self.known.take().filter(|stopped| *stopped != known) else {
            return Ok(());
        };
        Err(format!("a clean stop left a catalog of {stopped:?}, it is now of {known:?}"))
    }

    /// What an ended life has left is durable, whether it was acknowledged or not.
    pub(super) fn opened_after_stop(&mut self, uid: PartitionUid) {
        let Some(end) = self.stopped.remove(&uid) else { return };
        let replica = self.replicas().find(|replica| replica.identity().uid == uid);
        let log = replica.and_then(Replica::log);
        if let Some(there) = log.map(Log::log_end).filter(|there| *there < end) {
            self.slander = Some(format!("a clean stop left {uid:?} to {end}, there is {there}"));
        }
    }
}
