//! What a node must not forget, in one directory:
//!
//! ```text
//! member    whose directory this is; written last when it is created
//! state     the vote, and where the log begins
//! snapshot  the machine's state
//! log/      the entries behind the snapshot, and some before
//! ```
//!
//! Snapshots are written on a thread of their own; all else on another one, in the order in which
//! it is asked for. Entries that the log holds are in memory too, for readers; snapshots bound how
//! many that are.

mod disk;
mod file;
mod log;
mod opening;
mod snapshots;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt::Debug,
    io,
    ops::RangeBounds,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
};

use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{LogFlushed, RaftLogStorage},
};
use tokio::sync::{oneshot, watch};

pub(crate) use self::opening::{Opened, Place, open};
use self::{disk::Job, snapshots::SnapshotJob};
pub use self::{file::FileError, log::LogError};
use crate::{
    options::APPEND_BYTES,
    types::{Entry, LogId, Meta, StorageError, StorageIoError, Types, Vote},
};

/// The index of the last entry known to be ordered.
pub(crate) type Committed = Arc<Mutex<Option<u64>>>;

/// What an entry takes beside its bytes, roughly.
const ENTRY_BYTES: usize = 128;

/// Why a directory cannot be used. It is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file cannot be used. Without it the node could vote twice, or forget what it promised.
    #[error("{}: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        why: FileError,
    },
    /// The log cannot be used.
    #[error("{}: {why}", path.display())]
    Log {
        /// Its directory.
        path: PathBuf,
        /// Why.
        why: LogError,
    },
    /// The directory is that of another node, or of another cluster.
    #[error("{}: belongs to node {node} of cluster {cluster:032x}", path.display())]
    Other {
        /// The file that says so.
        path: PathBuf,
        /// The cluster.
        cluster: u128,
        /// The node.
        node: u64,
    },
    /// The directory holds something of a member, but not what every member has.
    #[error("{}: is missing, though {there} is there", path.display())]
    Incomplete {
        /// What is missing.
        path: PathBuf,
        /// What is there.
        there: &'static str,
    },
    /// Files do not belong together: one of them is older than another.
    #[error("{}: {what}", path.display())]
    Disagreement {
        /// The file that is too old.
        path: PathBuf,
        /// What does not agree.
        what: String,
    },
    /// The machine does not know its snapshot.
    #[error("{}: the snapshot means nothing to this build", path.display())]
    Machine {
        /// The file.
        path: PathBuf,
    },
    /// The directory cannot be created, or no thread be had.
    #[error("{}: {why}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
}

/// What is asked for in reading, as the disk will have it.
#[derive(Default)]
struct Memory {
    vote: Option<Vote>,
    purged: Option<LogId>,
    committed: Option<LogId>,
    entries: BTreeMap<u64, Entry>,
    bytes: usize,
}

impl Memory {
    fn insert(&mut self, entry: Entry) {
        self.bytes += weight(&entry);
        self.entries.insert(entry.log_id.index, entry);
    }

    /// Keeps what lies in a range of indexes.
    fn keep(&mut self, range: impl RangeBounds<u64>) {
        self.entries.retain(|index, _| range.contains(index));
        self.bytes = self.entries.values().map(weight).sum();
    }
}

fn weight(entry: &Entry) -> usize {
    let bytes = match &entry.payload {
        openraft::EntryPayload::Normal(proposal) => proposal.entry.len(),
        _ => 0,
    };
    bytes + ENTRY_BYTES
}

/// What is known of the snapshot on the disk.
#[derive(Clone, Copy, Default)]
struct Kept {
    last: Option<LogId>,
    /// A newer one could not be kept.
    failed: bool,
}

/// The log and the snapshot, for openraft.
#[derive(Clone)]
pub(crate) struct Store {
    memory: Arc<Mutex<Memory>>,
    disk: flume::Sender<Job>,
    snapshots: flume::Sender<SnapshotJob>,
    kept: Arc<watch::Sender<Kept>>,
    committed: Committed,
}

impl Store {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// See [`crate::Status::committed`].
    pub(crate) fn committed(&self) -> Committed {
        self.committed.clone()
    }

    /// The bytes of entries in memory, roughly.
    pub(crate) fn bytes(&self) -> usize {
        self.memory().bytes
    }

    async fn send(&self, job: Job) -> Result<(), io::Error> {
        self.disk.send_async(job).await.map_err(|_| gone())
    }

    async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, io::Error>>) -> Job,
    ) -> Result<T, io::Error> {
        let (answer, asked) = oneshot::channel();
        self.send(job(answer)).await?;
        asked.await.unwrap_or_else(|_| Err(gone()))
    }

    async fn ask_snapshot<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, io::Error>>) -> SnapshotJob,
    ) -> Result<T, io::Error> {
        let (answer, asked) = oneshot::channel();
        self.snapshots.send_async(job(answer)).await.map_err(|_| gone())?;
        asked.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Replaces the snapshot, unless there is a newer one; durable when it returns.
    pub(crate) async fn keep_snapshot(
        &self,
        meta: Meta,
        bytes: Vec<u8>,
    ) -> Result<(), StorageError> {
        let (signature, last) = (Some(meta.signature()), meta.last_log_id);
        let kept = self.ask_snapshot(|answer| SnapshotJob::Keep(meta, bytes, answer)).await;
        match kept {
            Ok(()) => self.kept.send_modify(|kept| kept.last = kept.last.max(last)),
            Err(_) => self.lose_snapshot(),
        }
        Ok(kept.map_err(|e| StorageIoError::write_snapshot(signature, &e))?)
    }

    /// The leader's snapshot will not be kept: nobody needs to wait for it.
    pub(crate) fn lose_snapshot(&self) {
        self.kept.send_modify(|kept| kept.failed = true);
    }

    pub(crate) async fn read_snapshot(&self) -> Result<Option<(Meta, Vec<u8>)>, StorageError> {
        let read = self.ask_snapshot(SnapshotJob::Read).await;
        Ok(read.map_err(|e| StorageIoError::read_snapshot(None, &e))?)
    }

    /// Ends the thread of the log once all is durable; that of snapshots ends with the last store.
    pub(crate) async fn stop(&self) -> Result<(), io::Error> {
        let committed = self.memory().committed;
        self.ask(|answer| Job::Stop(committed, answer)).await
    }
}

fn gone() -> io::Error {
    io::Error::other("the consensus log's thread has ended")
}

impl RaftLogReader<Types> for Store {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        Ok(self.memory().entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        let memory = self.memory();
        let (mut found, mut bytes) = (Vec::new(), 0);
        for entry in memory.entries.range(start..end).map(|(_, entry)| entry) {
            bytes += weight(entry);
            if bytes > APPEND_BYTES && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }
}

impl RaftLogStorage<Types> for Store {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let memory = self.memory();
        let last = memory.entries.values().next_back().map(|entry| entry.log_id);
        let last_purged_log_id = memory.purged;
        Ok(LogState { last_purged_log_id, last_log_id: last.or(last_purged_log_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let committed = self.memory().committed;
        let saved = self.ask(|answer| Job::Vote(*vote, committed, answer)).await;
        saved.map_err(|e| StorageIoError::write_vote(&e))?;
        self.memory().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.memory().vote)
    }

    /// A hint, so it is written with whatever comes next.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.memory().committed = committed;
        let mut told = self.committed.lock().unwrap_or_else(|e| e.into_inner());
        *told = committed.map(|id| id.index);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.memory().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        flushed: LogFlushed<Types>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut entries: Vec<Entry> = entries.into_iter().collect();
        for entry in &mut entries {
            if let openraft::EntryPayload::Normal(proposal) = &mut entry.payload {
                proposal.trace.leave();
            }
            self.memory().insert(entry.clone());
        }
        let sent = self.send(Job::Append(entries, flushed)).await;
        Ok(sent.map_err(|e| StorageIoError::write_logs(&e))?)
    }

    /// The order of jobs is enough: what takes the place of the entries is durable only after they
    /// are gone, and a crash before leaves a log that had not heard of it yet.
    async fn truncate(&mut self, since: LogId) -> Result<(), StorageError> {
        self.memory().keep(..since.index);
        let sent = self.send(Job::Truncate(since.index)).await;
        Ok(sent.map_err(|e| StorageIoError::write_logs(&e))?)
    }

    /// openraft asks for this while the leader's snapshot is still on its way to the disk: until it
    /// is there, the entries are all that the node has.
    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        let mut kept = self.kept.subscribe();
        let holds = |kept: &Kept| kept.failed || kept.last.is_some_and(|k| k.index >= upto.index);
        if kept.wait_for(holds).await.is_ok_and(|kept| kept.failed) {
            let lost = io::Error::other("the snapshot that holds the entries is not kept");
            return Err(StorageIoError::write_snapshot(None, &lost).into());
        }
        let committed = {
            let mut memory = self.memory();
            memory.purged = memory.purged.max(Some(upto));
            memory.keep(upto.index + 1..);
            memory.committed
        };
        let sent = self.send(Job::Purge(upto, committed)).await;
        Ok(sent.map_err(|e| StorageIoError::write_logs(&e))?)
    }
}
