//! What the node is told, each proposal's end exactly once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard},
};

use catena_format::NodeId;
use openraft::ServerState;

use crate::{
    room::Place,
    types::{Metrics, Proposal},
};

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// The machine's state as of `index`: at the start, and when the leader's replaced it.
    Restored {
        /// The index of the last entry in it.
        index: u64,
        /// The state, as [`crate::Machine::snapshot`] gives it.
        snapshot: Vec<u8>,
    },
    /// An entry was carried out.
    Applied {
        /// Its index; between two of them there may be others that are openraft's own.
        index: u64,
        /// When it was proposed, in ms since 1970.
        time: i64,
        /// The entry.
        entry: Vec<u8>,
        /// The proposal, if this node made it in this life and has not been told of its end.
        proposal: Option<u64>,
    },
    /// A proposal is not ordered and never will be.
    Refused(u64, Refusal),
    /// A proposal may be ordered, now or later, or not.
    InDoubt(u64),
    /// Another term, or another leader.
    Leader {
        /// The term.
        term: u64,
        /// Its leader, if one is known.
        leader: Option<NodeId>,
    },
    /// A change of who takes part has ended.
    Changed(u64, Result<(), Refusal>),
    /// The index that was asked for; the machine has carried it out.
    Read(u64, Result<u64, Refusal>),
    /// The disk failed, or openraft ended: nothing is ordered here until the next start.
    Failed(String),
}

/// Why something is not done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The entry is longer than any may be.
    #[error("an entry of {0} bytes is too large")]
    TooLarge(usize),
    /// Too much is under way. Retry later.
    #[error("too many proposals are under way")]
    Busy,
    /// No leader could be reached in time. Retry later.
    #[error("no leader could be reached")]
    NoLeader,
    /// Only the leader does this.
    #[error("this node does not lead{}", who(*leader))]
    NotLeader {
        /// Who it is, if it is known.
        leader: Option<NodeId>,
    },
    /// The change before has not ended.
    #[error("another change of the members is under way")]
    ChangeUnderWay,
    /// The change names a node that is not known, or leaves nobody, or would forget a voter.
    #[error("the change is not possible: {0}")]
    Impossible(String),
    /// The change may have been made, or be made yet: its answer did not come.
    #[error("whether the change was made is not known")]
    Unknown,
    /// Consensus has ended here.
    #[error("consensus has ended on this node")]
    Stopped,
}

fn who(leader: Option<NodeId>) -> String {
    leader.map(|leader| format!(", node {leader} does")).unwrap_or_default()
}

/// What a node is in the current term.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It learns what the others have ordered.
    Learner,
    /// It votes and follows the leader.
    Follower,
    /// It wants to lead.
    Candidate,
    /// It leads.
    Leader,
    /// It takes no part any more.
    Stopped,
}

/// How things stand at a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// The node.
    pub node: NodeId,
    /// What it is.
    pub role: Role,
    /// The term.
    pub term: u64,
    /// Who leads it, if that is known.
    pub leader: Option<NodeId>,
    /// Who votes.
    pub voters: BTreeSet<NodeId>,
    /// Who learns only.
    pub learners: BTreeSet<NodeId>,
    /// Where every one of them is reached.
    pub addresses: BTreeMap<NodeId, String>,
    /// The index of the last entry in the log here.
    pub last: Option<u64>,
    /// Of the last one known to be ordered, as it was last written down.
    pub committed: Option<u64>,
    /// Of the last one carried out.
    pub applied: Option<u64>,
    /// Of the last one in the snapshot.
    pub snapshot: Option<u64>,
    /// Of the last one that the log does not hold any more.
    pub purged: Option<u64>,
}

impl Status {
    pub(crate) fn of(node: NodeId, metrics: &Metrics, committed: Option<u64>, ended: bool) -> Self {
        let membership = metrics.membership_config.membership();
        let stopped = ended || metrics.running_state.is_err();
        let role = match metrics.state {
            _ if stopped => Role::Stopped,
            ServerState::Learner => Role::Learner,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Leader => Role::Leader,
            ServerState::Shutdown => Role::Stopped,
        };
        let index = |id: &Option<crate::types::LogId>| id.map(|id| id.index);
        let nodes = membership.nodes();
        Self {
            node,
            role,
            term: metrics.current_term,
            leader: metrics.current_leader.map(NodeId::new),
            voters: membership.voter_ids().map(NodeId::new).collect(),
            learners: membership.learner_ids().map(NodeId::new).collect(),
            addresses: nodes.map(|(id, node)| (NodeId::new(*id), node.addr.clone())).collect(),
            last: metrics.last_log_index,
            committed,
            applied: index(&metrics.last_applied),
            snapshot: index(&metrics.snapshot),
            purged: index(&metrics.purged),
        }
    }
}

/// What the node waits to be told the end of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Asked {
    Proposal(u64),
    Change(u64),
    Read(u64),
}

/// Tells the node; keeps what it waits to be told the end of.
pub(crate) struct Teller {
    node: u64,
    incarnation: u64,
    told: Mutex<Box<dyn Fn(Told) + Send>>,
    waiting: Mutex<BTreeMap<Asked, Place>>,
}

impl Teller {
    pub(crate) fn new(node: u64, incarnation: u64, told: Box<dyn Fn(Told) + Send>) -> Self {
        Self { node, incarnation, told: Mutex::new(told), waiting: Mutex::default() }
    }

    pub(crate) fn tell(&self, told: Told) {
        let call = self.told.lock().unwrap_or_else(|e| e.into_inner());
        call(told);
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<Asked, Place>> {
        self.waiting.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Something begins.
    pub(crate) fn begin(&self, asked: Asked, place: Place) {
        let before = self.waiting().insert(asked, place);
        assert!(before.is_none(), "{asked:?} is under way already");
    }

    /// It ends; false: that was told before.
    fn end(&self, asked: Asked) -> bool {
        self.waiting().remove(&asked).is_some()
    }

    pub(crate) fn refuse(&self, proposal: u64, refusal: Refusal) {
        if self.end(Asked::Proposal(proposal)) {
            self.tell(Told::Refused(proposal, refusal));
        }
    }

    pub(crate) fn doubt(&self, proposal: u64) {
        if self.end(Asked::Proposal(proposal)) {
            self.tell(Told::InDoubt(proposal));
        }
    }

    pub(crate) fn changed(&self, request: u64, result: Result<(), Refusal>) {
        if self.end(Asked::Change(request)) {
            self.tell(Told::Changed(request, result));
        }
    }

    pub(crate) fn read(&self, request: u64, result: Result<u64, Refusal>) {
        if self.end(Asked::Read(request)) {
            self.tell(Told::Read(request, result));
        }
    }

    /// Nothing more will be heard of anything.
    pub(crate) fn doubt_all(&self) {
        let all = std::mem::take(&mut *self.waiting());
        for asked in all.into_keys() {
            self.tell(match asked {
                Asked::Proposal(proposal) => Told::InDoubt(proposal),
                Asked::Change(request) => Told::Changed(request, Err(Refusal::Unknown)),
                Asked::Read(request) => Told::Read(request, Err(Refusal::Stopped)),
            });
        }
    }

    pub(crate) fn applied(&self, index: u64, from: &Proposal) {
        let own = (from.node, from.incarnation) == (self.node, self.incarnation);
        let proposal = (own && self.end(Asked::Proposal(from.proposal))).then_some(from.proposal);
        let (time, entry) = (from.time, from.entry.clone());
        self.tell(Told::Applied { index, time, entry, proposal });
    }

    pub(crate) fn restored(&self, index: u64, snapshot: Vec<u8>) {
        self.tell(Told::Restored { index, snapshot });
    }
}
