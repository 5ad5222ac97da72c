//! openraft's types with ours in them.

use std::{
    io::Cursor,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use openraft::{BasicNode, TokioRuntime};
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    /// What openraft is used with.
    pub(crate) Types:
        D = Proposal,
        R = (),
        NodeId = u64,
        Node = BasicNode,
        Entry = openraft::Entry<Types>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = TokioRuntime,
);

pub(crate) type Raft = openraft::Raft<Types>;
pub(crate) type Entry = openraft::Entry<Types>;
pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type Metrics = openraft::RaftMetrics<u64, BasicNode>;
pub(crate) type Meta = openraft::SnapshotMeta<u64, BasicNode>;
pub(crate) type Snapshot = openraft::Snapshot<Types>;
pub(crate) type Membership = openraft::StoredMembership<u64, BasicNode>;
pub(crate) type StorageError = openraft::StorageError<u64>;
pub(crate) type StorageIoError = openraft::StorageIOError<u64>;

/// An entry, and who proposed it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Proposal {
    pub(crate) node: u64,
    pub(crate) incarnation: u64,
    pub(crate) proposal: u64,
    /// Ms since 1970.
    pub(crate) time: i64,
    pub(crate) entry: Vec<u8>,
    #[serde(skip)]
    pub(crate) trace: Trace,
}

/// Whether a proposal has come to be in the log. openraft answers in the same words whether it
/// never took a proposal, or took it and later cut it off; only the first is certain.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace(Option<Arc<AtomicBool>>);

impl Trace {
    pub(crate) fn begin() -> Self {
        Self(Some(Arc::default()))
    }

    /// The proposal is being appended. The log keeps no more of it.
    pub(crate) fn leave(&mut self) {
        if let Some(seen) = self.0.take() {
            seen.store(true, Ordering::Release);
        }
    }

    pub(crate) fn was_left(&self) -> bool {
        self.0.as_ref().is_some_and(|seen| seen.load(Ordering::Acquire))
    }
}

/// A trace is no part of what is proposed.
impl PartialEq for Trace {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Trace {}
