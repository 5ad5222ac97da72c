//! A node of a cluster follows the catalog that consensus orders: what is said there of its own
//! partitions it does, and what it wants changed it proposes.
//!
//! ```text
//! consensus ─► on_ordered ─► Catalog ─► Part ─► the core that owns the partition ─► Replica
//!      ▲                                                                              │
//!      └── poll_proposal ◄── what clients ask for, what is created, who is ready ◄────┘
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use catena_format::{Epoch, Incarnation, NodeId, Offset, PartitionIndex, PartitionUid, TopicId};
use catena_log::{AppendError, Fold, Now, OpenError, io::Memory};
use catena_replication::{
    Phase, Replica, ReplicaConfig, Ticket,
    chain::{MemberId, Role},
    control::{
        Applied, Catalog, CatalogError, ChainChange, ClusterNode, Due, Entry, NodeProfile,
        Partition, ProposalId, Resting, Topic, Touched, decode, due, encode, same_process,
    },
};
use catena_wire::{ErrorCode, JoinTokenRequest, Message, WireError};

use crate::{
    cores::{Content, FIRST, NOWHERE, Place},
    held::{Awaited, Creating, Held, Planned},
    node::{Caller, Directory, Node, Status},
    operations::{Absent, Quorum, catalog_code},
    stall::Rests,
    topics::Proposal,
};

/// Proposals that nothing is known of yet, at most.
const PROPOSALS_MAX: usize = 4096;
/// How often it is looked what is due, and how soon after a chain has changed.
const DUE_EVERY: Duration = Duration::from_millis(500);
const DUE_SOON: Duration = Duration::from_millis(10);
/// How long a head waits for the others before it proposes that one of them goes.
const PLANNED_AFTER: Duration = Duration::from_secs(5);
/// A plan that is not told again for so long is none any more.
const PLANNED_WHILE: Duration = Duration::from_secs(2);
/// How long the announcement of a start may take before it is made once more.
const ANNOUNCE_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What consensus tells the first core, in its order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ordered {
    /// The catalog as of now: at the start, and where entries were missed.
    Restored(Vec<u8>),
    /// The next entry, and the number that this node has proposed it under.
    Entry(Vec<u8>, Option<u64>),
    /// A proposal of this number is not ordered, and never will be.
    Refused(u64, String),
    /// Nobody knows what becomes of the proposal of this number.
    InDoubt(u64),
    /// Whether this node leads: what is due it proposes.
    Leads(bool),
}

/// A node of the cluster, for whoever decides who takes part in consensus.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterMember {
    /// The node.
    pub id: NodeId,
    /// Its process runs, as far as is known.
    pub up: bool,
    /// It holds no partition.
    pub witness: bool,
    /// Where other nodes reach it, host and port.
    pub peer: String,
}

/// What is due depends on.
type Looked = (u64, BTreeSet<NodeId>, Resting);

/// The catalog as far as it was ordered, and what this node says of itself.
pub(crate) struct Follower {
    pub(crate) catalog: Catalog,
    life: u64,
    /// Lives that the directory knows of.
    known: Vec<u64>,
    profile: NodeProfile,
    pub(crate) leads: bool,
    proposals: VecDeque<(ProposalId, Vec<u8>)>,
    /// What the cores were told of each partition: its epoch, and which core has it.
    pub(crate) told: BTreeMap<PartitionUid, (Epoch, u16)>,
    /// Who waits until a topic is ready.
    waiting: BTreeMap<TopicId, Vec<Ticket>>,
    /// Chains of which a change is proposed.
    changing: BTreeSet<PartitionUid>,
    /// When the start of this life is announced, again if need be.
    announce: Option<Duration>,
    /// When it is looked again what is due.
    due_at: Duration,
    /// What is, and of which version of the catalog, with which nodes gone and which copies
    /// resting.
    due: Option<(Looked, Vec<Due>)>,
    pub(crate) absent: Absent,
    pub(crate) quorum: Quorum,
    pub(crate) rests: Rests,
}

impl Follower {
    pub(crate) fn new(life: u64, known: Vec<u64>, profile: NodeProfile) -> Self {
        Self {
            catalog: Catalog::default(),
            life,
            known,
            profile,
            leads: false,
            proposals: VecDeque::new(),
            told: BTreeMap::new(),
            waiting: BTreeMap::new(),
            changing: BTreeSet::new(),
            announce: None,
            due_at: Duration::ZERO,
            due: None,
            absent: Absent::default(),
            quorum: Quorum::default(),
            rests: Rests::default(),
        }
    }

    pub(crate) fn catalog(&self) -> &Catalog {
        &self.catalog
    }
}

/// A partition, as its chain is from now on.
#[derive(Debug)]
pub(crate) struct Part {
    topic: TopicId,
    partition: Partition,
    config: ReplicaConfig,
    /// Partitions of the topic before this one exist.
    ready: u32,
    core: u16,
    incarnation: Incarnation,
}

/// A node of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Beside {
    pub(crate) member: MemberId,
    pub(crate) up: bool,
    pub(crate) profile: NodeProfile,
}

/// Which core of a node has a partition.
pub(crate) fn core_of(uid: PartitionUid, cores: u16) -> u16 {
    let core = uid.get().wrapping_sub(1) % u64::from(cores.max(1));
    u16::try_from(core).expect("it is less than their number")
}

impl<M: Memory + Clone> Node<M> {
    /// The next entry for consensus, and the number to name it by. Of the first core.
    pub fn poll_proposal(&mut self) -> Option<(u64, Vec<u8>)> {
        let (id, entry) = self.follower.as_mut()?.proposals.pop_front()?;
        Some((id.0, entry))
    }

    /// The nodes of the cluster, as the catalog has them. Of the first core.
    pub fn cluster_nodes(&self) -> Vec<ClusterMember> {
        let nodes = self.follower.iter().flat_map(|follower| follower.catalog.nodes());
        let member = |(id, node): (NodeId, &ClusterNode)| ClusterMember {
            id,
            up: node.up,
            witness: node.profile.witness,
            peer: node.profile.peer.clone(),
        };
        nodes.map(member).collect()
    }

    /// Takes what consensus tells.
    pub fn on_ordered(&mut self, ordered: Ordered, now: Now) {
        // What could not be read may have been about anything.
        if matches!(self.status, Status::Failed(_) | Status::Outdated | Status::Removed) {
            return;
        }
        match ordered {
            Ordered::Restored(snapshot) => self.restored(&snapshot, now),
            Ordered::Entry(bytes, proposal) => self.ordered(&bytes, proposal, now),
            Ordered::Refused(proposal, why) => {
                self.not_ordered(proposal, ErrorCode::NoQuorum, &why, now);
            }
            Ordered::InDoubt(proposal) => {
                let text = Awaited::Change.in_doubt();
                self.not_ordered(proposal, ErrorCode::Timeout, text, now);
            }
            Ordered::Leads(leads) => {
                if let Some(follower) = &mut self.follower {
                    follower.leads = leads;
                }
                self.links.forgive(now);
                self.propose_due(now);
            }
        }
    }

    fn restored(&mut self, snapshot: &[u8], now: Now) {
        let Some(follower) = &mut self.follower else { return };
        let mut catalog = Catalog::default();
        if !catalog.restore(snapshot) {
            self.status = Status::Failed(OpenError::Batch(Offset::ZERO));
            return;
        }
        let before = std::mem::replace(&mut follower.catalog, catalog);
        if self.status == Status::Starting {
            follower.announce = Some(now.monotonic);
            return self.announce(now);
        }
        // Topics that are gone without their deletion having been heard of.
        let gone = |topic: &&Topic| self.catalog().topic(topic.id).is_none();
        let gone: Vec<_> = before.topics().filter(gone).map(|topic| topic.id).collect();
        gone.into_iter().for_each(|topic| self.follow_topic(topic, now));
        self.follow_nodes(now);
        let topics: Vec<_> = self.catalog().topics().map(|topic| topic.id).collect();
        topics.into_iter().for_each(|topic| self.follow_topic(topic, now));
        self.follow_producers();
        self.begin_anew(now);
    }

    fn ordered(&mut self, bytes: &[u8], proposal: Option<u64>, now: Now) {
        let me = self.identity.node;
        let Some(follower) = &mut self.follower else { return };
        let Some(entry) = decode(bytes) else {
            self.status = Status::Failed(OpenError::Batch(Offset::new(follower.catalog.version())));
            return;
        };
        let result = follower.catalog.apply(&entry);
        if result.is_ok() {
            follower.note_eviction(&entry, now);
        }
        match (&entry, &result) {
            (Entry::StartNode { node, life, .. }, Ok(Applied::Started(incarnation)))
                if NodeId::new(*node) == me && *life == follower.life =>
            {
                follower.announce = None;
                self.begin_life(*incarnation, now);
            }
            (Entry::StartNode { node, life, .. }, Err(CatalogError::OlderDirectory(_)))
                if NodeId::new(*node) == me && *life == follower.life =>
            {
                self.status = Status::Outdated;
            }
            (Entry::StartNode { node, life, .. }, Err(CatalogError::UnknownNode(_)))
                if NodeId::new(*node) == me && *life == follower.life =>
            {
                self.status = Status::Removed;
            }
            (Entry::RaiseProducer { .. }, Ok(Applied::Producer(id, epoch))) => {
                let raised = [(
                    catena_format::ProducerId::new(*id),
                    catena_format::ProducerEpoch::new(*epoch),
                )];
                self.note_raised(&raised);
                let producers = raised.to_vec();
                self.tell_cores(|| Content::Raised { ticket: None, producers: producers.clone() });
            }
            _ => {}
        }
        if self.status != Status::Starting && result.is_ok() {
            self.follow(entry.touches(), now);
        }
        if let Some(proposal) = proposal {
            self.settled(ProposalId(proposal), result, now);
        }
        self.begin_anew(now);
        match entry.touches() {
            Touched::Everything => self.propose_due(now),
            Touched::Chain(..) | Touched::Topic(_) => self.look_soon(now),
            Touched::Nothing => {}
        }
    }

    /// The others believe that this process is gone, or in another life: it goes on as another.
    fn begin_anew(&mut self, now: Now) {
        let me = MemberId { node: self.identity.node, incarnation: self.incarnation };
        let serves = self.status == Status::Serving;
        let Some(follower) = &mut self.follower else { return };
        if serves && follower.catalog.node(me.node).is_none() {
            self.status = Status::Removed;
            return;
        }
        let known = follower.catalog.node(me.node).map_or(0, |node| node.life);
        if serves && !same_process(known, follower.life) {
            // Another process has begun to be this node.
            self.status = Status::Outdated;
            return;
        }
        if serves && follower.announce.is_none() && !follower.catalog.runs(me) {
            follower.life = follower.life.wrapping_add(1);
            follower.announce = Some(now.monotonic);
        }
        self.announce(now);
    }

    /// The start of this life is known everywhere: this is its number.
    fn begin_life(&mut self, incarnation: Incarnation, now: Now) {
        let first = self.status == Status::Starting;
        self.incarnation = incarnation;
        self.tell_cores(|| Content::Serve(incarnation));
        if !first {
            // A link is between two lives.
            return self.links.hang_up_all();
        }
        self.status = Status::Serving;
        self.follow_producers();
        self.follow(Touched::Everything, now);
    }

    fn follow_producers(&mut self) {
        let raised: Vec<_> = self.catalog().raised_producers().collect();
        self.note_raised(&raised);
        self.tell_cores(|| Content::Raised { ticket: None, producers: raised.clone() });
    }

    /// Says that this process has begun, until that is ordered.
    pub(crate) fn announce(&mut self, now: Now) {
        let node = self.identity.node.get();
        let id = ProposalId(self.number());
        let Some(follower) = &mut self.follower else { return };
        if follower.announce.is_some_and(|at| at <= now.monotonic) {
            follower.announce = Some(now.monotonic + ANNOUNCE_AGAIN_AFTER);
            let (life, profile) = (follower.life, follower.profile.clone());
            let entry = Entry::StartNode { node, life, known: follower.known.clone(), profile };
            follower.proposals.push_back((id, encode(&entry)));
        }
    }

    pub(crate) fn next_announcement(&self) -> Option<Duration> {
        let follower = self.follower.as_ref()?;
        follower.announce.into_iter().chain([follower.due_at]).min()
    }

    /// A chain has changed: something else may be due.
    fn look_soon(&mut self, now: Now) {
        if let Some(follower) = &mut self.follower {
            follower.due_at = follower.due_at.min(now.monotonic + DUE_SOON);
        }
    }

    /// Does what time brings to who follows the catalog.
    pub(crate) fn tend_catalog(&mut self, now: Now) {
        self.announce(now);
        if self.follower.as_ref().is_some_and(|follower| follower.due_at <= now.monotonic) {
            self.propose_due(now);
        }
    }

    /// Leaves an entry to consensus.
    pub(crate) fn submit_to_cluster(
        &mut self,
        proposal: Proposal,
        entry: &Entry,
    ) -> Result<(), AppendError> {
        let id = ProposalId(self.number());
        if self.proposals.len() >= PROPOSALS_MAX {
            return Err(AppendError::Backlog(self.proposals.len()));
        }
        if let Some(follower) = &mut self.follower {
            follower.proposals.push_back((id, encode(entry)));
            self.proposals.insert(id, proposal);
        }
        Ok(())
    }

    /// Allows processes to become nodes, or no more.
    pub(crate) fn join_token(
        &mut self,
        caller: Caller,
        head: &[u8],
        now: Now,
    ) -> Result<(), WireError> {
        let JoinTokenRequest { token, lifetime_ms } = JoinTokenRequest::decode(head)?;
        let (token, time) = (token.get(), now.wall.get());
        let until = time.saturating_add_unsigned(lifetime_ms);
        let entry = Entry::AllowJoin { token, time, until };
        self.operate(caller, &[], &entry, now);
        Ok(())
    }

    /// Proposes a change of a chain, unless one is under way.
    pub(crate) fn propose_chain(&mut self, uid: PartitionUid, entry: &Entry) {
        let Some(follower) = &mut self.follower else { return };
        if !follower.may_propose(entry) {
            return;
        }
        let proposal = match entry {
            Entry::ChangeChain { change: ChainChange::Close(..), epoch, .. } => {
                Proposal::Close(uid, Epoch::new(*epoch))
            }
            _ => Proposal::Chain(uid),
        };
        if follower.changing.insert(uid)
            && self.submit_to_cluster(proposal, entry).is_err()
            && let Some(follower) = &mut self.follower
        {
            follower.changing.remove(&uid);
        }
    }

    /// A proposal of this node was carried out, or changed nothing.
    fn settled(&mut self, id: ProposalId, result: Result<Applied, CatalogError>, now: Now) {
        let Some(proposal) = self.proposals.remove(&id) else { return };
        match (proposal, result) {
            (Proposal::Create(ticket, topic), Ok(_))
            | (Proposal::Alter { ticket, topic, grows: true, .. }, Ok(_)) => {
                if let Some(follower) = &mut self.follower {
                    follower.waiting.entry(topic).or_default().push(ticket);
                }
                self.follow_topic(topic, now);
            }
            (
                Proposal::Alter { ticket, .. }
                | Proposal::Delete(ticket, ..)
                | Proposal::Operation(ticket),
                Ok(_),
            ) => self.changed(ticket),
            (Proposal::Admit(link), Ok(Applied::Node(node))) => {
                self.admitted(link, node, ErrorCode::None, "");
            }
            (Proposal::Admit(link), Err(error)) => {
                let code = catalog_code(&error);
                self.admitted(link, NodeId::default(), code, &error.to_string());
            }
            (Proposal::ProducerIds, Ok(Applied::ProducerIds(first))) => {
                self.take_producer_ids(first);
            }
            (Proposal::RaiseProducer(ticket), Ok(Applied::Producer(id, epoch))) => {
                self.raised(ticket, id, epoch);
            }
            (
                Proposal::Create(ticket, ..)
                | Proposal::Alter { ticket, .. }
                | Proposal::Delete(ticket, ..)
                | Proposal::Operation(ticket)
                | Proposal::RaiseProducer(ticket),
                Err(error),
            ) => self.unchanged(ticket, catalog_code(&error), &error.to_string()),
            (Proposal::Close(uid, epoch), Ok(_)) => {
                self.chain_settled(uid);
                self.allow_close(uid, epoch, now);
            }
            (Proposal::Chain(uid) | Proposal::Close(uid, _), _) => self.chain_settled(uid),
            (Proposal::NodeDown(node), _) => drop(self.links.accused.remove(&node)),
            (
                Proposal::Ready(_)
                | Proposal::ProducerIds
                | Proposal::RaiseProducer(_)
                | Proposal::Admit(_),
                _,
            ) => {}
        }
    }

    fn chain_settled(&mut self, uid: PartitionUid) {
        if let Some(follower) = &mut self.follower {
            follower.changing.remove(&uid);
        }
    }

    /// A proposal was not ordered, or nobody knows.
    fn not_ordered(&mut self, id: u64, code: ErrorCode, why: &str, now: Now) {
        let Some(proposal) = self.proposals.remove(&ProposalId(id)) else { return };
        match proposal {
            Proposal::Create(ticket, ..)
            | Proposal::Alter { ticket, .. }
            | Proposal::Delete(ticket, ..)
            | Proposal::Operation(ticket)
            | Proposal::RaiseProducer(ticket) => self.unchanged(ticket, code, why),
            Proposal::Admit(link) => self.admitted(link, NodeId::default(), code, why),
            Proposal::ProducerIds => self.no_producer_ids(code, why),
            Proposal::Chain(uid) | Proposal::Close(uid, _) => self.chain_settled(uid),
            Proposal::Ready(topic) => self.tell_ready_later(topic, now),
            Proposal::NodeDown(node) => {
                self.links.accused.remove(&node);
                self.links.forgive(now);
            }
        }
    }

    /// Does what follows from a change of the catalog.
    fn follow(&mut self, touched: Touched, now: Now) {
        match touched {
            Touched::Nothing => {}
            Touched::Chain(topic, index) => {
                self.follow_chain(topic, index, now);
                self.follow_ready(topic);
            }
            Touched::Topic(topic) => self.follow_topic(topic, now),
            Touched::Everything => {
                self.follow_nodes(now);
                let Some(follower) = &self.follower else { return };
                let told = |p: &Partition| follower.told.get(&p.uid).map(|(epoch, _)| *epoch);
                let news = |p: &&Partition| told(p) != Some(p.configuration.epoch);
                let chains = follower.catalog.topics().flat_map(|topic| {
                    let changed = topic.partitions.iter().filter(news);
                    changed.map(|partition| (topic.id, partition.index))
                });
                let chains: Vec<_> = chains.collect();
                let topics: Vec<_> = follower.catalog.topics().map(|topic| topic.id).collect();
                for (topic, index) in chains {
                    self.follow_chain(topic, index, now);
                }
                topics.into_iter().for_each(|topic| self.follow_ready(topic));
            }
        }
    }

    fn follow_nodes(&mut self, now: Now) {
        if let Some(Follower { absent, catalog, .. }) = &mut self.follower {
            absent.note(catalog.nodes(), now);
        }
        let nodes = self.catalog().nodes().map(|(id, node)| Beside {
            member: MemberId { node: id, incarnation: node.incarnation },
            up: node.up,
            profile: node.profile.clone(),
        });
        let nodes: Vec<_> = nodes.collect();
        self.tell_cores(|| Content::Nodes(nodes.clone()));
        self.take_nodes(nodes);
    }

    fn follow_topic(&mut self, id: TopicId, now: Now) {
        let Some(topic) = self.catalog().topic(id).cloned() else {
            self.tell_cores(|| Content::Deleted(id));
            for uid in self.release(id, now) {
                self.follower.as_mut().and_then(|follower| follower.told.remove(&uid));
            }
            return self.answer_waiting(id, ErrorCode::UnknownTopic, "the topic was deleted");
        };
        for partition in &topic.partitions {
            self.follow_chain(id, partition.index, now);
        }
        self.tell_cores(|| Content::Altered(topic.clone()));
        self.configure(&topic);
        self.follow_ready(id);
    }

    fn follow_ready(&mut self, id: TopicId) {
        let topic = self.catalog().topic(id);
        if topic.is_none_or(|topic| topic.ready < topic.partition_count()) {
            return;
        }
        if self.creating.remove(&id).is_some() {
            self.tell_cores(|| Content::Ready(id));
        }
        self.answer_waiting(id, ErrorCode::None, "");
    }

    fn answer_waiting(&mut self, id: TopicId, code: ErrorCode, text: &str) {
        let Some(follower) = &mut self.follower else { return };
        for ticket in follower.waiting.remove(&id).unwrap_or_default() {
            match code {
                ErrorCode::None => self.changed(ticket),
                code => self.unchanged(ticket, code, text),
            }
        }
    }

    /// Tells the cores of a partition's chain, if it is news.
    fn follow_chain(&mut self, id: TopicId, index: PartitionIndex, now: Now) {
        let Some(topic) = self.catalog().topic(id) else { return };
        let Some(partition) = topic.partitions.get(index.get() as usize) else { return };
        let home = partition.homes.contains(&self.identity.node);
        let core = if home { core_of(partition.uid, self.cores) } else { NOWHERE };
        let news = (partition.configuration.epoch, core);
        let (uid, ready, incarnation) = (partition.uid, topic.ready, self.incarnation);
        let Some(follower) = &self.follower else { return };
        let before = follower.told.get(&uid).copied();
        if before == Some(news) {
            return;
        }
        let (partition, config) = (partition.clone(), self.replica_config(topic));
        if let Some(follower) = &mut self.follower {
            follower.told.insert(uid, news);
        }
        let part = || {
            let (topic, partition) = (id, partition.clone());
            Box::new(Part { topic, partition, config, ready, core, incarnation })
        };
        let moves = before.is_none_or(|(_, before)| before != core);
        for other in 1..self.cores {
            if moves || other == core {
                self.send_parcel(other, Content::Part(part()));
            }
        }
        self.take_part(*part(), now);
    }

    /// A partition's chain changes; where this core has it, its replica enters the epoch.
    pub(crate) fn take_part(&mut self, part: Part, now: Now) {
        let Part { topic, partition, config, ready, core, incarnation } = part;
        self.incarnation = incarnation;
        let uid = partition.uid;
        self.places.insert((topic, partition.index), Place { uid, core });
        let me = MemberId { node: self.identity.node, incarnation };
        let configuration = partition.configuration;
        let role = configuration.role(me);
        let fresh = partition.index.get() >= ready && !matches!(role, Role::Outside);
        if core == self.core && role != Role::Outside && !self.held.contains_key(&uid) {
            let create = fresh || role == Role::Joiner;
            let identity = self.log_of(topic, partition.index, uid);
            let chain = (me, configuration.clone());
            let replica = Replica::new(identity, config, chain, create, self.memory.clone());
            self.held.insert(uid, Held::new(replica, topic));
        }
        if fresh {
            let creating =
                Creating { waiting: None, from: PartitionIndex::new(ready), told: false };
            let known = self.creating.entry(topic).or_insert(creating);
            if known.from < creating.from {
                *known = creating;
            }
        }
        let Some(held) = self.held.get_mut(&uid) else { return };
        held.chain = configuration.chain.iter().map(|member| member.node).collect();
        held.epoch = configuration.epoch;
        held.replica.enter_as(me, configuration.clone(), now);
        self.beside(uid, &configuration, me);
        self.leave_if_sick(uid);
        self.dirty.insert(Directory::Partition(uid));
        self.replica_events(uid, now);
        if role == Role::Outside {
            let text = "the node is not in the partition's chain any more";
            self.end_subscriptions(uid, ErrorCode::NotHead, text);
        }
    }

    /// A replica that cannot be opened, or takes nothing more, keeps its chain from going on: it
    /// leaves, and the others have what it had; after its next start it copies what it lacks. The
    /// last of a chain stays.
    pub(crate) fn leave_if_sick(&mut self, uid: PartitionUid) {
        let Some(held) = self.held.get(&uid) else { return };
        let me = self.identity.node;
        let failed = matches!(held.replica.phase(), Phase::Failed(_));
        let poisoned = held.replica.log().is_some_and(|log| log.poisoned().is_some());
        let runs = |node: &NodeId| self.links.nodes.get(node).is_some_and(|beside| beside.up);
        let others = held.chain.iter().any(|node| *node != me && runs(node));
        if (failed || poisoned) && others && !held.neighbours.is_empty() {
            let change = ChainChange::Leave(me.get(), self.incarnation.get());
            self.ask_for_chain(uid, held.epoch, change);
        } else if held.replica.is_forgetful() && others {
            self.evict(uid, held.epoch, MemberId { node: me, incarnation: self.incarnation });
        }
    }

    /// Has the first core propose a change of a partition's chain that was thought of in an epoch.
    pub(crate) fn ask_for_chain(&mut self, uid: PartitionUid, epoch: Epoch, change: ChainChange) {
        let Some(held) = self.held.get(&uid) else { return };
        let partition = held.replica.identity().partition.get();
        let (topic, epoch) = (held.topic.get(), epoch.get());
        let entry = Entry::ChangeChain { topic, partition, epoch, change };
        if self.core == FIRST {
            self.propose_chain(uid, &entry);
        } else {
            self.send_parcel(FIRST, Content::Propose(uid, entry));
        }
    }

    /// Proposes what is due, again if need be: who leads what endangers nothing, and of the chains
    /// that this node heads the core that has them what only the head may change.
    pub(crate) fn propose_due(&mut self, now: Now) {
        let (gone, me) = (self.gone(now), self.identity.node);
        let Some(follower) = &mut self.follower else { return };
        follower.due_at = now.monotonic + DUE_EVERY;
        let resting = follower.rests.look(&follower.catalog, now);
        let looked = (follower.catalog.version(), gone, resting);
        if self.status != Status::Serving {
            return;
        }
        let known = follower.due.take_if(|(known, _)| *known == looked).map(|(_, due)| due);
        let due = known.unwrap_or_else(|| due(&follower.catalog, &looked.1, &looked.2));
        let leads = follower.leads;
        for Due { uid, entry, head } in due.clone() {
            let changing = |follower: &Follower| follower.changing.contains(&uid);
            match head {
                None if leads => self.propose_chain(uid, &entry),
                Some(head) if head == me && !self.follower.as_ref().is_some_and(changing) => {
                    match self.follower.as_ref().and_then(|follower| follower.told.get(&uid)) {
                        Some((_, core)) if *core != FIRST => {
                            self.send_parcel(*core, Content::Plan(uid, entry));
                        }
                        _ => self.plan(uid, entry, now),
                    }
                }
                _ => {}
            }
        }
        if let Some(follower) = &mut self.follower {
            follower.due = Some((looked, due));
        }
    }

    /// The chain of a partition that this node heads is to change so.
    pub(crate) fn plan(&mut self, uid: PartitionUid, entry: Entry, now: Now) {
        let Some(held) = self.held.get_mut(&uid) else { return };
        let known = held.planned.take().filter(|known| known.entry == entry);
        let since = known.map_or(now.monotonic, |known| known.since);
        held.planned = Some(Planned { entry, since, told: now.monotonic });
        self.propose_planned(uid, now);
    }

    /// Proposes the change that is planned, once all that was answered is on every disk of the
    /// chain: then whoever of it goes, and whoever is its head, nothing of that is lost. The head
    /// that stays has it all: for who holds the others up and is to go, it does not wait for long.
    pub(crate) fn propose_planned(&mut self, uid: PartitionUid, now: Now) {
        let me = self.identity.node.get();
        let Some(held) = self.held.get_mut(&uid) else { return };
        let Some(Planned { entry, since, told }) = &held.planned else { return };
        let Entry::ChangeChain { epoch, change, .. } = entry else { return };
        let (epoch, change) = (Epoch::new(*epoch), change.clone());
        if now.monotonic.saturating_sub(*told) >= PLANNED_WHILE {
            // It is not due any more.
            held.planned = None;
            return held.replica.need_not_change();
        }
        if held.epoch != epoch || held.replica.epoch() != epoch {
            // It was thought of in an epoch that is over, or was not entered yet.
            if held.epoch > epoch {
                held.planned = None;
            }
            return;
        }
        let stays = matches!(change, ChainChange::Remove(node) if node != me);
        let late = now.monotonic.saturating_sub(*since) >= PLANNED_AFTER;
        if held.replica.may_change() || (stays && late) {
            held.planned = None;
            self.ask_for_chain(uid, epoch, change);
        }
    }
}
