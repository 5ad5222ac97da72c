//! A node's state, its inputs and outputs.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Range,
    time::Duration,
};

use catena_format::{
    ClusterId, Incarnation, NodeId, Offset, PartitionIndex, PartitionUid, ProducerEpoch,
    ProducerId, TopicId, planted,
};
use catena_log::{
    Finding, LogIdentity, Now, OpenError, RecoveryReport, RepairError,
    io::{Done, IoError, Memory, Op, OpId},
};
use catena_replication::{
    Phase, Replica, Ticket,
    chain::Ignored,
    control::{Catalog, Orderer, OrdererEvent, ProposalId},
};
use catena_wire::{Api, ErrorCode, FrameHeader};

use crate::{
    catch_up::CatchUp,
    cores::{Content, FIRST, Gather, NOWHERE, Parcel, Place, Post, Raise},
    follow::Follower,
    held::{Awaited, Creating, Held, Pending},
    limits::Limits,
    links::Links,
    push::Name,
    scrub::Scrub,
    totals::Totals,
    window::{Fetching, Pushed, Pushing},
};

/// A client's connection, named by the shell.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId {
    /// The core that the connection is on.
    pub core: u16,
    /// Its number there.
    pub number: u64,
}

/// Whose files an operation is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Directory {
    /// The catalog's log.
    Catalog,
    /// A partition's.
    Partition(PartitionUid),
}

/// Bytes for a client: `bytes` (header and head), then the shares, uncopied.
#[derive(Debug)]
pub struct Send<S> {
    /// To whom.
    pub session: SessionId,
    /// Header and head.
    pub bytes: Vec<u8>,
    /// The payload.
    pub shares: Vec<S>,
    /// To be handed to [`Node::on_pushed`] once the client's side of the connection has the bytes.
    pub pushed: Option<Pushed>,
    /// The connection ends behind this.
    pub last: bool,
}

impl<S> Send<S> {
    pub(crate) fn new(session: SessionId, bytes: Vec<u8>, shares: Vec<S>) -> Self {
        Self { session, bytes, shares, pushed: None, last: false }
    }
}

/// Who the node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeIdentity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
}

/// What a new topic gets where its creator says nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicDefaults {
    /// How many partitions.
    pub partitions: u32,
    /// Settings by their dotted keys.
    pub settings: BTreeMap<String, String>,
}

impl Default for TopicDefaults {
    fn default() -> Self {
        Self { partitions: 1, settings: BTreeMap::new() }
    }
}

/// How the node stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// The catalog is being opened.
    Starting,
    /// It serves; partitions may still be opening.
    Serving,
    /// It ends.
    Draining,
    /// The catalog could not be opened.
    Failed(OpenError),
    /// The directory is an older copy of the node's, or another process has begun to be the node:
    /// this one must end.
    Outdated,
    /// The node was removed from the cluster: its process must end.
    Removed,
    /// The catalog's log failed: nothing about topics can be changed until the next start. All else
    /// is served, unless that was so from the beginning.
    Poisoned(IoError),
}

/// Counters, plain numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs)]
pub struct NodeStats {
    pub requests: u64,
    pub fetched_bytes: u64,
    pub errors: u64,
    pub sessions: u64,
    pub forwarded: u64,
    pub tails_dropped: u64,
    pub scrub_passes: u64,
}

/// How often memory is looked after while it is short.
const RELIEF_EVERY: Duration = Duration::from_millis(100);

/// To whom an answer goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Caller {
    pub(crate) session: SessionId,
    pub(crate) correlation: u32,
    pub(crate) api: Api,
    pub(crate) bytes: u64,
}

#[derive(Default)]
pub(crate) struct Session {
    pub(crate) greeted: bool,
    pub(crate) requests: u32,
    pub(crate) bytes: u64,
    /// Other cores that it has asked something.
    pub(crate) abroad: BTreeSet<u16>,
    /// Its subscriptions: the core on which each lives, and the correlation id of its request.
    pub(crate) subscriptions: BTreeMap<u32, (u16, u32)>,
}

/// What happened to a log, for the operator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// It is open: what recovery found.
    Opened(LogIdentity, RecoveryReport),
    /// It cannot be opened for want of something, and is tried again until it can.
    Postponed(LogIdentity, OpenError),
    /// It cannot be opened.
    Failed(LogIdentity, OpenError),
    /// A write or a flush failed: it takes nothing more until the next start.
    Poisoned(LogIdentity, IoError),
    /// The catalog's log is open: what recovery found.
    CatalogOpened(RecoveryReport),
    /// A write or a flush of the catalog's log failed.
    CatalogPoisoned(IoError),
    /// Stored bytes are not what was written, or cannot be read.
    Found(LogIdentity, Finding),
    /// Damaged batches are whole again: another node had them.
    Repaired(LogIdentity, Range<Offset>),
    /// They could not be written back.
    RepairFailed(LogIdentity, Range<Offset>, RepairError),
    /// They are damaged on the nodes beside this one, too.
    Lost(LogIdentity, Range<Offset>),
    /// It was cut where its chain says that it ends, and opened anew.
    Cut(LogIdentity, Offset, RecoveryReport),
    /// A neighbour's word and this log contradict each other: somebody's disk or word is broken.
    Contradicted(LogIdentity, Ignored),
    /// This node holds its chain up, or cannot be reached by who is beside it: the chain is to go
    /// on without it.
    Stalled(LogIdentity, NodeId),
}

/// One core of a node: its part of the replicas, its clients; the first core's has the catalog.
pub struct Node<M: Memory> {
    pub(crate) core: u16,
    pub(crate) cores: u16,
    pub(crate) incarnation: Incarnation,
    pub(crate) identity: NodeIdentity,
    pub(crate) limits: Limits,
    pub(crate) topic_defaults: TopicDefaults,
    /// Host and port that clients are told; empty: where they came to.
    pub(crate) advertised: String,
    pub(crate) memory: M,
    pub(crate) status: Status,
    pub(crate) orderer: Option<Orderer<M>>,
    /// Of a node of a cluster.
    pub(crate) follower: Option<Follower>,
    pub(crate) links: Links<M::Share>,
    pub(crate) held: BTreeMap<PartitionUid, Held<M>>,
    pub(crate) places: BTreeMap<(TopicId, PartitionIndex), Place>,
    /// How partitions on other cores stand.
    pub(crate) phases: BTreeMap<PartitionUid, Phase>,
    pub(crate) next_core: u16,
    pub(crate) gathers: BTreeMap<Ticket, Gather>,
    /// Producers that were raised, and their epochs: older ones are fenced.
    pub(crate) raised: BTreeMap<ProducerId, ProducerEpoch>,
    pub(crate) raises: BTreeMap<Ticket, Raise>,
    /// The partition of each subscription that lives here.
    pub(crate) subscribed: BTreeMap<Name, PartitionUid>,
    pub(crate) pushing: Pushing,
    pub(crate) fetching: Fetching,
    pub(crate) parcels: VecDeque<(u16, Parcel)>,
    pub(crate) notices: VecDeque<Notice>,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    /// Of all sessions.
    pub(crate) bytes_in_flight: u64,
    pub(crate) pending: BTreeMap<Ticket, Pending>,
    pub(crate) deadlines: BTreeSet<(Duration, Ticket)>,
    pub(crate) waits: BTreeSet<(Duration, PartitionUid)>,
    pub(crate) proposals: BTreeMap<ProposalId, crate::topics::Proposal>,
    pub(crate) creating: BTreeMap<TopicId, Creating>,
    /// Producer ids that the catalog gave this node, and that no producer has yet.
    pub(crate) producer_ids: Range<i64>,
    /// Who waits for some, and how many the catalog was asked for.
    pub(crate) id_waiters: BTreeSet<Ticket>,
    pub(crate) ids_asked: usize,
    /// Topics whose partitions exist, when the catalog is told so again.
    pub(crate) retries: BTreeSet<(Duration, TopicId)>,
    pub(crate) removals: VecDeque<PartitionUid>,
    pub(crate) dirty: BTreeSet<Directory>,
    pub(crate) ticks: BTreeSet<(Duration, Directory)>,
    pub(crate) orderer_tick: Option<Duration>,
    pub(crate) sends: VecDeque<Send<M::Share>>,
    /// When it is looked again whether memory is short.
    pub(crate) next_relief: Duration,
    pub(crate) scrub: Scrub,
    pub(crate) catch_up: CatchUp,
    pub(crate) next_number: u64,
    pub(crate) stats: NodeStats,
    /// Of partitions that are gone.
    pub(crate) past: Totals,
}

impl<M: Memory + Clone> Node<M> {
    /// One core of a node.
    pub fn new(identity: NodeIdentity, limits: Limits, post: Post, memory: M) -> Self {
        let (core, cores, orderer, follower) = order(identity, &limits, post, &memory);
        Self {
            core,
            cores,
            incarnation: Incarnation::default(),
            identity,
            limits,
            topic_defaults: TopicDefaults::default(),
            advertised: String::new(),
            memory,
            status: Status::Starting,
            dirty: orderer.iter().map(|_| Directory::Catalog).collect(),
            orderer,
            follower,
            links: Links::default(),
            held: BTreeMap::new(),
            places: BTreeMap::new(),
            sessions: BTreeMap::new(),
            bytes_in_flight: 0,
            pending: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            waits: BTreeSet::new(),
            proposals: BTreeMap::new(),
            creating: BTreeMap::new(),
            producer_ids: 0..0,
            id_waiters: BTreeSet::new(),
            ids_asked: 0,
            retries: BTreeSet::new(),
            removals: VecDeque::new(),
            phases: BTreeMap::new(),
            next_core: FIRST,
            gathers: BTreeMap::new(),
            raised: BTreeMap::new(),
            raises: BTreeMap::new(),
            subscribed: BTreeMap::new(),
            pushing: Pushing::of_pushes(),
            fetching: Fetching::of_fetches(),
            parcels: VecDeque::new(),
            notices: VecDeque::new(),
            ticks: BTreeSet::new(),
            orderer_tick: None,
            sends: VecDeque::new(),
            next_relief: Duration::ZERO,
            scrub: Scrub::default(),
            catch_up: CatchUp::default(),
            next_number: 0,
            stats: NodeStats::default(),
            past: Totals::default(),
        }
    }

    /// What a new topic gets where its creator says nothing.
    pub fn set_topic_defaults(&mut self, defaults: TopicDefaults) {
        self.topic_defaults = defaults;
    }

    /// What clients are told to connect to, host and port, when it is not the address that they
    /// came to. Every core is reached there.
    pub fn set_advertised(&mut self, address: String) {
        self.advertised = address;
    }

    /// A client has connected.
    pub fn on_connect(&mut self, session: SessionId) {
        self.stats.sessions += 1;
        self.sessions.insert(session, Session::default());
    }

    /// A client is gone; what it asked for and waits for is forgotten, what it produced is not.
    pub fn on_disconnect(&mut self, session: SessionId) {
        self.forget(session);
        let Some(session_state) = self.sessions.remove(&session) else { return };
        self.bytes_in_flight -= session_state.bytes;
        for core in session_state.abroad {
            self.send_parcel(core, Content::Gone(session));
        }
    }

    /// Whether a session may send more before something is answered: the shell reads on only then.
    pub fn may_read(&self, session: SessionId) -> bool {
        self.sessions.get(&session).is_some_and(|s| {
            s.requests < self.limits.requests_in_flight_max
                && s.bytes < self.limits.bytes_in_flight_max
        })
    }

    /// Whether a session's handshake has succeeded: only then may it send more than that.
    pub fn is_greeted(&self, session: SessionId) -> bool {
        self.sessions.get(&session).is_some_and(|s| s.greeted)
    }

    /// A whole message has arrived.
    pub fn on_message(
        &mut self,
        session: SessionId,
        header: &FrameHeader,
        head: &[u8],
        payload: &[u8],
        now: Now,
    ) {
        self.stats.requests += 1;
        let api = match Api::of_request(header.api, header.version) {
            Ok(api) => api,
            Err(error) => return self.refuse_unknown(session, header, error),
        };
        let Some(state) = self.sessions.get_mut(&session) else { return };
        let bytes = (head.len() + payload.len()) as u64;
        state.requests += 1;
        state.bytes += bytes;
        self.bytes_in_flight += bytes;
        let greeted = state.greeted;
        let correlation = header.correlation;
        let caller = Caller { session, correlation, api, bytes };
        if !greeted && api != Api::Handshake {
            let text = "the first message must be a handshake";
            return self.hang_up(caller, ErrorCode::HandshakeRequired, text);
        }
        // Credit is small and never answered: it must not get lost.
        if api == Api::Credit {
            return self.dispatch(caller, head, payload, now);
        }
        if self.bytes_in_flight > self.limits.bytes_in_flight_core_max {
            let text = "the core has as many bytes in flight as it takes";
            return self.refuse(caller, ErrorCode::InFlightBudget, text);
        }
        self.dispatch(caller, head, payload, now);
    }

    pub(crate) fn dispatch(&mut self, caller: Caller, head: &[u8], payload: &[u8], now: Now) {
        // Credit is never answered.
        if caller.api != Api::Credit
            && let Some((error, text)) = self.out_of_service()
        {
            return self.refuse(caller, error, text);
        }
        if self.core != FIRST && about_topics(caller.api) {
            return self.forward(FIRST, caller, head, payload);
        }
        let result = match caller.api {
            Api::Handshake => self.handshake(caller, head),
            Api::Produce => self.produce(caller, head, payload, now),
            Api::Fetch => self.fetch(caller, head, now),
            Api::ListOffsets => self.list_offsets(caller, head, now),
            Api::Metadata => self.metadata(caller, head),
            Api::CreateTopic => self.create_topic(caller, head, now),
            Api::AlterTopic => self.alter_topic(caller, head, now),
            Api::DeleteTopic => self.delete_topic(caller, head, now),
            Api::DescribeTopic => self.describe_topic(caller, head),
            Api::Trim => self.trim(caller, head, now),
            Api::ProducerId => self.producer_id(caller, head, now),
            Api::JoinToken => self.join_token(caller, head, now),
            Api::DescribeCluster => self.describe_cluster(caller, head, now),
            Api::RemoveNode => self.remove_node(caller, head, now),
            Api::DrainNode => self.drain_node(caller, head, now),
            Api::ReplicateTopic => self.replicate_topic(caller, head, now),
            Api::MovePartition => self.move_partition(caller, head, now),
            Api::AcceptLoss => self.accept_loss(caller, head, now),
            Api::Ping => {
                self.answer_status(caller, ErrorCode::None, "");
                Ok(())
            }
            Api::Subscribe => self.subscribe(caller, head),
            Api::Credit => self.credit(caller, head),
            Api::Unsubscribe => self.unsubscribe(caller, head),
            Api::Push => {
                self.refuse(caller, ErrorCode::UnknownApi, "only a server pushes");
                Ok(())
            }
        };
        match result {
            Ok(()) => {}
            // Whose credit it was nobody can tell, and the client waits for no answer.
            Err(error) if caller.api == Api::Credit => {
                self.hang_up(caller, ErrorCode::InvalidRequest, &error.to_string());
            }
            Err(error) => self.refuse(caller, ErrorCode::InvalidRequest, &error.to_string()),
        }
    }

    /// Why nothing is taken now.
    fn out_of_service(&self) -> Option<(ErrorCode, &'static str)> {
        match self.status {
            Status::Starting => Some((ErrorCode::Starting, "the catalog is being opened")),
            Status::Draining => Some((ErrorCode::ShuttingDown, "the node is shutting down")),
            Status::Outdated => Some((ErrorCode::ShuttingDown, "another process is this node")),
            Status::Removed => {
                Some((ErrorCode::ShuttingDown, "the node was removed from the cluster"))
            }
            Status::Failed(_) if self.follower.is_some() => {
                Some((ErrorCode::PartitionFailed, "the cluster's catalog cannot be read here"))
            }
            Status::Serving | Status::Failed(_) | Status::Poisoned(_) => None,
        }
    }

    /// The next operation to perform, and whose files it is about.
    pub fn poll_op(&mut self) -> Option<(Directory, OpId, Op<M::Share>)> {
        while let Some(directory) = self.dirty.first().copied() {
            let op = match directory {
                Directory::Catalog => self.orderer.as_mut().and_then(Orderer::poll_op),
                Directory::Partition(uid) => {
                    self.held.get_mut(&uid).and_then(|held| held.replica.poll_op())
                }
            };
            if let Some((id, op)) = op {
                return Some((directory, id, op));
            }
            // What it says to its neighbours may ask the disk for more.
            if self.speak(directory) {
                continue;
            }
            self.dirty.remove(&directory);
            if let Directory::Partition(uid) = directory {
                self.note_waiting(uid);
            }
            self.plan_tick(directory);
        }
        None
    }

    /// Takes the completion of an operation.
    pub fn on_done(&mut self, directory: Directory, done: Done<M::Share>, now: Now) {
        match directory {
            Directory::Catalog => {
                if let Some(orderer) = &mut self.orderer {
                    orderer.on_done(done, now);
                }
                self.orderer_events(now);
            }
            Directory::Partition(uid) => {
                // A deleted partition's operations end after it.
                if let Some(held) = self.held.get_mut(&uid) {
                    held.replica.on_done(done, now);
                    self.replica_events(uid, now);
                }
            }
        }
        self.dirty.insert(directory);
    }

    fn orderer_events(&mut self, now: Now) {
        while let Some(event) = self.orderer.as_mut().and_then(Orderer::poll_event) {
            match event {
                OrdererEvent::Opened(report) => {
                    self.notices.push_back(Notice::CatalogOpened(report));
                }
                OrdererEvent::Started => self.started(),
                OrdererEvent::Failed(error) => self.status = Status::Failed(error),
                OrdererEvent::Applied(proposal, applied) => self.applied(proposal, applied, now),
                OrdererEvent::Poisoned(error) => self.catalog_poisoned(error),
            }
        }
    }

    /// Gives back recent bytes that are kept for readers, of the partitions with most of them
    /// first, until memory is not short and `needed` bytes are free: writes go before.
    pub(crate) fn relieve(&mut self, needed: usize) {
        let bytes = |held: &Held<M>| held.replica.log().map_or(0, |log| log.tail_bytes());
        let tails = self.held.iter().map(|(uid, held)| (bytes(held), *uid));
        let mut tails: Vec<_> = tails.filter(|(bytes, _)| *bytes > 0).collect();
        tails.sort_unstable_by(|a, b| b.cmp(a));
        let mut freed = 0;
        for (_, uid) in tails {
            if freed >= needed && !self.memory.is_short() {
                return;
            }
            let Some(held) = self.held.get_mut(&uid) else { continue };
            freed += held.replica.drop_tail();
            self.stats.tails_dropped += 1;
        }
    }

    /// Does what time brings.
    pub fn on_tick(&mut self, now: Now) {
        if self.status == Status::Draining {
            self.close_catalog();
        }
        if now.monotonic >= self.next_relief && self.memory.is_short() {
            self.next_relief = now.monotonic + RELIEF_EVERY;
            self.relieve(0);
        }
        self.scrub(now);
        self.allow_copies(now);
        self.tend_links(now);
        self.tend_catalog(now);
        while let Some((at, directory)) = self.ticks.first().copied() {
            if at > now.monotonic {
                break;
            }
            self.ticks.pop_first();
            self.tick(directory, now);
        }
        while let Some((at, ticket)) = self.deadlines.first().copied() {
            if at > now.monotonic {
                break;
            }
            self.deadlines.pop_first();
            self.timed_out(ticket);
        }
        while let Some((at, topic)) = self.retries.first().copied() {
            if at > now.monotonic {
                break;
            }
            self.retries.pop_first();
            self.topic_opened(topic, now);
        }
        while let Some((at, uid)) = self.waits.first().copied() {
            if at > now.monotonic {
                break;
            }
            self.waits.pop_first();
            self.end_waits(uid, now);
        }
    }

    fn tick(&mut self, directory: Directory, now: Now) {
        match directory {
            Directory::Catalog => {
                self.orderer_tick = None;
                if let Some(orderer) = &mut self.orderer {
                    orderer.on_tick(now);
                }
            }
            Directory::Partition(uid) => {
                if let Some(held) = self.held.get_mut(&uid) {
                    held.tick = None;
                    held.replica.on_tick(now);
                    self.replica_events(uid, now);
                }
            }
        }
        self.dirty.insert(directory);
    }

    fn plan_tick(&mut self, directory: Directory) {
        let (next, slot) = match directory {
            Directory::Catalog => {
                (self.orderer.as_ref().and_then(Orderer::next_tick), &mut self.orderer_tick)
            }
            Directory::Partition(uid) => match self.held.get_mut(&uid) {
                Some(held) => (held.replica.next_tick(), &mut held.tick),
                None => return,
            },
        };
        if let Some(at) = next
            && slot.is_none_or(|planned| at < planned)
        {
            if let Some(planned) = slot.replace(at) {
                self.ticks.remove(&(planned, directory));
            }
            self.ticks.insert((at, directory));
        }
    }

    /// When [`Node::on_tick`] has something to do, if ever.
    pub fn next_tick(&self) -> Option<Duration> {
        let ticks = self.ticks.first().map(|(at, _)| *at);
        let deadlines = self.deadlines.first().map(|(at, _)| *at);
        let waits = self.waits.first().map(|(at, _)| *at);
        let retries = self.retries.first().map(|(at, _)| *at);
        let others = [self.next_scrub(), self.next_copies(), self.next_link_tick()];
        let others = others.into_iter().chain([self.next_announcement()]);
        [ticks, deadlines, waits, retries].into_iter().chain(others).flatten().min()
    }

    /// Lets a request wait, `longest` at most and no longer than any may; claimed by its ticket.
    pub(crate) fn park(
        &mut self,
        ticket: Ticket,
        caller: Caller,
        awaited: Awaited,
        longest: Duration,
        now: Now,
    ) {
        let deadline = now.monotonic + longest.min(self.limits.wait_max);
        self.deadlines.insert((deadline, ticket));
        self.pending.insert(ticket, Pending { caller, deadline, awaited });
    }

    /// Whom to answer what a request waited for, unless its deadline has passed.
    pub(crate) fn claim(&mut self, ticket: Ticket) -> Option<Caller> {
        let oldest = if planted!(AnswerToAnother) { self.pending.keys().next() } else { None };
        let ticket = oldest.copied().unwrap_or(ticket);
        let Pending { caller, deadline, .. } = self.pending.remove(&ticket)?;
        self.deadlines.remove(&(deadline, ticket));
        Some(caller)
    }

    fn timed_out(&mut self, ticket: Ticket) {
        self.id_waiters.remove(&ticket);
        if let Some(Pending { caller, awaited, .. }) = self.pending.remove(&ticket) {
            self.refuse(caller, ErrorCode::Timeout, awaited.in_doubt());
        }
    }

    /// The next bytes for a client.
    pub fn poll_send(&mut self) -> Option<Send<M::Share>> {
        self.sends.pop_front()
    }

    /// The next partition whose directory is to be removed with all it holds.
    pub fn poll_removal(&mut self) -> Option<PartitionUid> {
        self.removals.pop_front()
    }

    /// The partitions that the catalog names; directories of others are leftovers. Of the first
    /// core, once it serves.
    pub fn known(&self) -> BTreeSet<PartitionUid> {
        let here = self.places.values().filter(|place| place.core != NOWHERE);
        here.map(|place| place.uid).collect()
    }

    /// The partition ids below this were given at some time.
    pub fn next_uid(&self) -> PartitionUid {
        self.catalog().next_uid()
    }

    /// The next thing that an operator should hear.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// How the node stands.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Counters.
    pub fn stats(&self) -> NodeStats {
        self.stats
    }

    /// The limits in force, to change.
    pub fn limits_mut(&mut self) -> &mut Limits {
        &mut self.limits
    }

    /// The replicas held.
    pub fn replicas(&self) -> impl Iterator<Item = &Replica<M>> {
        self.held.values().map(|held| &held.replica)
    }

    /// The catalog: everything about topics is forwarded to the first core.
    pub(crate) fn catalog(&self) -> &Catalog {
        match (&self.follower, &self.orderer) {
            (Some(follower), _) => follower.catalog(),
            (None, orderer) => orderer.as_ref().expect("the first core decides").catalog(),
        }
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Which log a partition's is.
    pub(crate) fn log_of(
        &self,
        topic: TopicId,
        partition: PartitionIndex,
        uid: PartitionUid,
    ) -> LogIdentity {
        LogIdentity { cluster: self.identity.cluster, topic, partition, uid }
    }

    pub(crate) fn knows_topic(&self, topic: TopicId) -> bool {
        let mut from_it = self.places.range((topic, PartitionIndex::new(0))..);
        from_it.next().is_some_and(|((id, _), _)| *id == topic)
    }

    pub(crate) fn locate(
        &self,
        topic: TopicId,
        partition: PartitionIndex,
    ) -> Result<Place, ErrorCode> {
        match self.places.get(&(topic, partition)) {
            Some(place) => Ok(*place),
            None if self.knows_topic(topic) => Err(ErrorCode::UnknownPartition),
            None => Err(ErrorCode::UnknownTopic),
        }
    }

    /// The high watermark of a partition, for tests and tools.
    pub fn high_watermark(&self, uid: PartitionUid) -> Option<Offset> {
        self.held.get(&uid).map(|held| held.replica.high_watermark())
    }
}

/// Which core it is, of how many, and who orders the catalog for it, if it asks.
fn order<M: Memory + Clone>(
    identity: NodeIdentity,
    limits: &Limits,
    post: Post,
    memory: &M,
) -> (u16, u16, Option<Orderer<M>>, Option<Follower>) {
    match post {
        Post::First { create, cores } => {
            let (segment, memory) = (limits.catalog_segment_bytes, memory.clone());
            let orderer = Orderer::new(identity.cluster, identity.node, segment, create, memory);
            (FIRST, cores, Some(orderer), None)
        }
        Post::Member { cores, life, known, profile } => {
            (FIRST, cores, None, Some(Follower::new(life, known, profile)))
        }
        Post::Further { core, cores } => (core, cores, None, None),
    }
}

/// What only the first core can answer.
pub(crate) fn about_topics(api: Api) -> bool {
    match api {
        Api::Metadata
        | Api::CreateTopic
        | Api::AlterTopic
        | Api::DeleteTopic
        | Api::DescribeTopic
        | Api::ProducerId
        | Api::JoinToken
        | Api::DescribeCluster
        | Api::RemoveNode
        | Api::DrainNode
        | Api::ReplicateTopic
        | Api::MovePartition
        | Api::AcceptLoss => true,
        Api::Handshake
        | Api::Produce
        | Api::Fetch
        | Api::ListOffsets
        | Api::Trim
        | Api::Ping
        | Api::Subscribe
        | Api::Credit
        | Api::Unsubscribe
        | Api::Push => false,
    }
}
