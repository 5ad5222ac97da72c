//! What the entries mean, and openraft's view of it.

use std::{
    io::Cursor,
    sync::{Arc, Mutex},
};

use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, storage::RaftStateMachine};

use crate::{
    store::Store,
    teller::Teller,
    types::{Entry, LogId, Membership, Meta, Snapshot, StorageError, StorageIoError, Types},
};

/// What the entries mean: the catalog. All of it is in memory.
pub trait Machine: Send + 'static {
    /// Carries out an entry that a majority holds. `time` is when it was proposed, in ms since
    /// 1970, by the proposer's clock. The same entries in the same order lead to the same state.
    fn apply(&mut self, index: u64, time: i64, entry: &[u8]);

    /// The state as bytes that [`Machine::restore`] reads.
    fn snapshot(&self) -> Vec<u8>;

    /// Becomes what `snapshot` says. False: the bytes are not a snapshot of this machine, which is
    /// as before.
    fn restore(&mut self, snapshot: &[u8]) -> bool;
}

/// A machine, and how far it has come.
pub(crate) struct Applier {
    /// openraft shares it in its types, though nowhere else.
    machine: Mutex<Box<dyn Machine>>,
    applied: Option<LogId>,
    membership: Membership,
    store: Store,
    teller: Arc<Teller>,
}

impl Applier {
    /// As of the snapshot, or as new. `None`: the snapshot is not one of this machine.
    pub(crate) fn new(
        mut machine: Box<dyn Machine>,
        snapshot: Option<(Meta, Vec<u8>)>,
        store: Store,
        teller: Arc<Teller>,
    ) -> Option<Self> {
        let (meta, bytes) = match snapshot {
            Some((_, bytes)) if !machine.restore(&bytes) => return None,
            Some(snapshot) => snapshot,
            None => (Meta::default(), machine.snapshot()),
        };
        let applied = meta.last_log_id;
        teller.restored(applied.map_or(0, |id| id.index), bytes);
        let membership = meta.last_membership;
        Some(Self { machine: Mutex::new(machine), applied, membership, store, teller })
    }

    fn machine(&mut self) -> &mut dyn Machine {
        &mut **self.machine.get_mut().unwrap_or_else(|e| e.into_inner())
    }

    fn carry_out(&mut self, entry: Entry) {
        let index = entry.log_id.index;
        self.applied = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(proposal) => {
                self.machine().apply(index, proposal.time, &proposal.entry);
                self.teller.applied(index, &proposal);
            }
            EntryPayload::Membership(membership) => {
                self.membership = Membership::new(Some(entry.log_id), membership);
            }
        }
    }
}

/// A machine's state, on its way to the disk.
pub(crate) struct Builder {
    meta: Meta,
    bytes: Vec<u8>,
    store: Store,
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let bytes = std::mem::take(&mut self.bytes);
        self.store.keep_snapshot(self.meta.clone(), bytes.clone()).await?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot: Box::new(Cursor::new(bytes)) })
    }
}

impl RaftStateMachine<Types> for Applier {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        Ok(entries.into_iter().map(|entry| self.carry_out(entry)).collect())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let last = self.applied;
        let snapshot_id = last.map_or("none".to_owned(), |id| format!("{id}"));
        let last_membership = self.membership.clone();
        let meta = Meta { last_log_id: last, last_membership, snapshot_id };
        Builder { meta, bytes: self.machine().snapshot(), store: self.store.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &Meta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let bytes = snapshot.into_inner();
        if !self.machine().restore(&bytes) {
            self.store.lose_snapshot();
            let foreign = std::io::Error::other("the leader's snapshot means nothing here");
            let signature = Some(meta.signature());
            return Err(StorageIoError::read_snapshot(signature, &foreign).into());
        }
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.store.keep_snapshot(meta.clone(), bytes.clone()).await?;
        self.teller.restored(meta.last_log_id.map_or(0, |id| id.index), bytes);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let snapshot = self.store.read_snapshot().await?;
        Ok(snapshot.map(|(meta, bytes)| Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) }))
    }
}
