//! How a node ends: nothing new is begun, and all that was taken is answered.

use catena_format::planted;
use catena_log::{Now, io::Memory};
use catena_replication::control::Orderer;
use catena_wire::ErrorCode;

use crate::{
    held::Awaited,
    node::{Directory, Node, Status},
};

impl<M: Memory + Clone> Node<M> {
    /// Refuses new work and lets what is under way end; what waits for new work is answered.
    pub fn drain(&mut self, now: Now) {
        self.status = Status::Draining;
        self.held.values_mut().for_each(|held| held.replica.close());
        self.stir();
        let uids: Vec<_> = self.held.keys().copied().collect();
        for uid in uids {
            self.end_subscriptions(uid, ErrorCode::ShuttingDown, "the node is shutting down");
            self.end_waits(uid, now);
        }
        self.close_catalog();
    }

    /// Closes the catalog of a node that ends, once nobody waits for a change of it.
    pub(crate) fn close_catalog(&mut self) {
        let waits = self.pending.values().any(|pending| pending.awaited == Awaited::Change);
        if let Some(orderer) = &mut self.orderer
            && !waits
        {
            orderer.close();
            self.dirty.insert(Directory::Catalog);
        }
    }

    /// Nothing is under way, and every request that came in here is answered.
    pub fn is_idle(&self) -> bool {
        self.orderer.as_ref().is_none_or(Orderer::is_idle)
            && self.held.values().all(|held| held.replica.is_idle() || planted!(IdleTooSoon))
            && self.sessions.values().all(|session| session.requests == 0)
    }
}
