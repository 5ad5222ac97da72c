//! Requests of this node and of others, each carried to where it can be done.

use std::{collections::BTreeSet, future::Future, sync::Arc, time::Duration};

use catena_format::NodeId;
use openraft::{
    BasicNode, ChangeMembers,
    error::{
        ChangeMembershipError, ClientWriteError, InstallSnapshotError, RaftError, SnapshotMismatch,
    },
    raft::InstallSnapshotRequest,
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    links::{Desk, Frame, Identity, Kind, Links, RequestError, body, parse},
    options::Settings,
    room::Place,
    teller::{Asked, Refusal, Teller},
    types::{Proposal, Raft, Trace, Types},
};

/// When nothing changes, the leader is looked for again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What this node wants.
pub(crate) enum Work {
    Propose { proposal: u64, time: i64, entry: Vec<u8> },
    AddLearner { request: u64, node: NodeId, address: String },
    SetVoters { request: u64, voters: BTreeSet<NodeId> },
    RemoveNode { request: u64, node: NodeId },
    ReadIndex { request: u64 },
}

impl Work {
    fn asked(&self) -> Asked {
        match self {
            Self::Propose { proposal, .. } => Asked::Proposal(*proposal),
            Self::ReadIndex { request } => Asked::Read(*request),
            Self::AddLearner { request, .. }
            | Self::SetVoters { request, .. }
            | Self::RemoveNode { request, .. } => Asked::Change(*request),
        }
    }
}

/// Why a node does not do what openraft asks of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Unable {
    /// openraft has ended there.
    #[error("consensus has ended there")]
    Stopped,
    /// The snapshot is longer than any may be.
    #[error("the snapshot is too large")]
    TooLarge,
    /// It is not that part of a snapshot that is wanted next.
    #[error(transparent)]
    Mismatch(SnapshotMismatch),
}

/// Why a node has not done what only the leader does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Undone {
    /// It has done nothing, and will not.
    NotHere,
    /// It, or the next leader, may have done it, or do it yet.
    InDoubt,
}

/// Where requests are dealt with.
#[derive(Clone)]
pub(crate) struct Office {
    pub(crate) raft: Raft,
    pub(crate) links: Arc<Links>,
    pub(crate) teller: Arc<Teller>,
    pub(crate) identity: Identity,
    /// What the leader may be asked for at once.
    pub(crate) orders: Arc<Semaphore>,
    pub(crate) settings: Settings,
}

impl Office {
    /// Begins what this node wants; what comes of it is told.
    pub(crate) fn work(&self, work: Work, place: Place) {
        self.teller.begin(work.asked(), place);
        let office = self.clone();
        tokio::spawn(async move { office.carry(work).await });
    }

    async fn carry(&self, work: Work) {
        match work {
            Work::Propose { proposal, time, entry } => self.propose(proposal, time, entry).await,
            Work::AddLearner { request, node, address } => {
                let node = (node.get(), BasicNode::new(address));
                let change = ChangeMembers::SetNodes([node].into());
                self.teller.changed(request, self.change(change).await);
            }
            Work::SetVoters { request, voters } => {
                let voters = voters.into_iter().map(NodeId::get).collect();
                let change = ChangeMembers::ReplaceAllVoters(voters);
                self.teller.changed(request, self.change(change).await);
            }
            Work::RemoveNode { request, node } => {
                let change = ChangeMembers::RemoveNodes([node.get()].into());
                self.teller.changed(request, self.change(change).await);
            }
            Work::ReadIndex { request } => self.teller.read(request, self.read().await),
        }
    }

    async fn propose(&self, proposal: u64, time: i64, entry: Vec<u8>) {
        let Identity { node, incarnation, .. } = self.identity;
        let trace = Trace::default();
        let asked = Proposal { node, incarnation, proposal, time, entry, trace };
        let order = || self.order(asked.clone());
        match self.at_leader(order, Kind::Propose, || body(&asked)).await {
            Ok(Ok(index)) => {
                // It is told when it is carried out here. Where it is not heard of for long, or
                // came here within a snapshot, nobody knows what came of it.
                self.carried_out(index).await;
                self.teller.doubt(proposal);
            }
            Ok(Err(Undone::InDoubt)) => self.teller.doubt(proposal),
            Ok(Err(Undone::NotHere)) | Err(Refusal::NoLeader) => {
                self.teller.refuse(proposal, Refusal::NoLeader);
            }
            Err(refusal) => self.teller.refuse(proposal, refusal),
        }
    }

    /// Has the leader do something, here or elsewhere. It is tried again only while it is certain
    /// that nobody has done it.
    async fn at_leader<F: Future<Output = Result<u64, Undone>>>(
        &self,
        here: impl Fn() -> F,
        kind: Kind,
        request: impl Fn() -> Vec<u8>,
    ) -> Result<Result<u64, Undone>, Refusal> {
        let end = Instant::now() + self.settings.place_within;
        let mut metrics = self.raft.metrics();
        loop {
            let (leader, address) = {
                let metrics = metrics.borrow_and_update();
                if metrics.running_state.is_err() {
                    return Err(Refusal::Stopped);
                }
                let membership = metrics.membership_config.membership();
                let leader = metrics.current_leader;
                let address = leader.and_then(|leader| membership.get_node(&leader));
                (leader, address.map(|node| node.addr.clone()))
            };
            let done = match (leader, address) {
                (Some(leader), _) if leader == self.identity.node => here().await,
                (Some(leader), Some(address)) => {
                    self.elsewhere(leader, &address, kind, &request, end).await
                }
                _ => Err(Undone::NotHere),
            };
            if done != Err(Undone::NotHere) {
                return Ok(done);
            }
            if Instant::now() >= end {
                return Err(Refusal::NoLeader);
            }
            // Whether something changed or not, it is tried again.
            if let Ok(Err(_)) = timeout(LOOK_AGAIN, metrics.changed()).await {
                return Err(Refusal::Stopped);
            }
        }
    }

    async fn elsewhere(
        &self,
        leader: u64,
        address: &str,
        kind: Kind,
        request: &impl Fn() -> Vec<u8>,
        end: Instant,
    ) -> Result<u64, Undone> {
        let order = timeout_at(end, self.orders.acquire()).await;
        let Ok(Ok(_order)) = order else { return Err(Undone::NotHere) };
        let within = self.settings.answer_within;
        match self.links.request(leader, address, kind, request(), within).await {
            Ok(answer) => parse(&answer).unwrap_or(Err(Undone::InDoubt)),
            Err(RequestError::NotSent(_)) => Err(Undone::NotHere),
            Err(RequestError::Lost) => Err(Undone::InDoubt),
        }
    }

    /// Orders an entry, if this node leads.
    async fn order(&self, mut proposal: Proposal) -> Result<u64, Undone> {
        let trace = Trace::begin();
        proposal.trace = trace.clone();
        match timeout(self.settings.answer_within, self.raft.client_write(proposal)).await {
            Ok(Ok(written)) => Ok(written.log_id.index),
            // It never came to be in the log, and openraft does not hold it any more.
            Ok(Err(_)) if !trace.was_left() => Err(Undone::NotHere),
            Ok(Err(_)) | Err(_) => Err(Undone::InDoubt),
        }
    }

    /// The index that a read has to wait for, if this node leads.
    async fn lead_read(&self) -> Result<u64, Undone> {
        let asked = timeout(self.settings.answer_within, self.raft.get_read_log_id()).await;
        match asked {
            Ok(Ok((read, _))) => Ok(read.map_or(0, |id| id.index)),
            Ok(Err(_)) | Err(_) => Err(Undone::NotHere),
        }
    }

    async fn read(&self) -> Result<u64, Refusal> {
        let asked = self.at_leader(|| self.lead_read(), Kind::ReadIndex, Vec::new).await?;
        let index = asked.map_err(|_| Refusal::NoLeader)?;
        if self.carried_out(index).await { Ok(index) } else { Err(Refusal::NoLeader) }
    }

    /// Waits until the machine here has carried out an index; false: it takes too long.
    async fn carried_out(&self, index: u64) -> bool {
        let wait = self.raft.wait(Some(self.settings.answer_within));
        wait.applied_index_at_least(Some(index), "carried out").await.is_ok()
    }

    async fn change(&self, change: ChangeMembers<u64, BasicNode>) -> Result<(), Refusal> {
        let leader = self.raft.metrics().borrow().current_leader;
        if leader != Some(self.identity.node) {
            return Err(Refusal::NotLeader { leader: leader.map(NodeId::new) });
        }
        // It has two steps, and is not given up between them.
        let raft = self.raft.clone();
        let changing = tokio::spawn(async move { raft.change_membership(change, true).await });
        match timeout(self.settings.answer_within, changing).await {
            Ok(Ok(Ok(_))) => Ok(()),
            Ok(Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))))) => {
                Err(match error {
                    ChangeMembershipError::InProgress(_) => Refusal::ChangeUnderWay,
                    other => Refusal::Impossible(other.to_string()),
                })
            }
            _ => Err(Refusal::Unknown),
        }
    }

    /// A part of the leader's snapshot.
    async fn install(&self, request: InstallSnapshotRequest<Types>) -> Vec<u8> {
        let end = request.offset.saturating_add(request.data.len() as u64);
        if end > self.identity.snapshot_bytes_max as u64 {
            return body(&Err::<(), _>(Unable::TooLarge));
        }
        let installed = self.raft.install_snapshot(request).await;
        body(&installed.map_err(|error| match error {
            RaftError::APIError(InstallSnapshotError::SnapshotMismatch(mismatch)) => {
                Unable::Mismatch(mismatch)
            }
            RaftError::Fatal(_) => Unable::Stopped,
        }))
    }
}

impl Desk for Office {
    fn busy(&self) -> Vec<u8> {
        body(&Err::<u64, _>(Undone::NotHere))
    }

    async fn answer(&self, frame: Frame) -> Option<Vec<u8>> {
        let Frame { kind, body: request, .. } = frame;
        Some(match kind {
            Kind::Vote => {
                let answer = self.raft.vote(parse(&request).ok()?).await;
                body(&answer.map_err(|_| Unable::Stopped))
            }
            Kind::Append => {
                let answer = self.raft.append_entries(parse(&request).ok()?).await;
                body(&answer.map_err(|_| Unable::Stopped))
            }
            Kind::Snapshot => self.install(parse(&request).ok()?).await,
            Kind::Propose => {
                let proposal: Proposal = parse(&request).ok()?;
                if proposal.entry.len() > self.settings.entry_bytes_max {
                    return None;
                }
                body(&self.order(proposal).await)
            }
            Kind::ReadIndex => body(&self.lead_read().await),
            Kind::Hello | Kind::Welcome | Kind::Answer => return None,
        })
    }
}
