//! The cores of a node: each holds some of its partitions, the first one also the catalog.
//!
//! A client goes to the core that owns its partition, and no request crosses cores. One that comes
//! to another core all the same is forwarded with its bytes copied, and so is every question about
//! topics, to the first core. Cores share nothing: what they tell each other are [`Parcel`]s, which
//! the shell carries, each core's to another in their order.

use std::collections::BTreeMap;

use catena_format::{
    Epoch, Incarnation, PartitionIndex, PartitionUid, ProducerEpoch, ProducerId, TopicId,
};
use catena_log::{Now, io::Memory};
use catena_replication::{
    Phase, Ticket,
    control::{Entry, NodeProfile, RAISED_PRODUCERS_MAX, Topic},
};
use catena_wire::{Api, DescribeTopicResponse, ErrorCode, PartitionDetail};

use crate::{
    follow::{Beside, Part},
    held::Reader,
    node::{Caller, Directory, Node, Send, SessionId, Status, about_topics},
    window::Pushed,
};

/// The core that orders the catalog.
pub(crate) const FIRST: u16 = 0;

/// In place of a core: other nodes have it.
pub(crate) const NOWHERE: u16 = u16::MAX;

/// What a core is there for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Post {
    /// The first core orders the catalog and assigns partitions to all of them.
    First {
        /// The data directory is empty and becomes this node's.
        create: bool,
        /// How many cores there are.
        cores: u16,
    },
    /// The first core of a node of a cluster follows the catalog that consensus orders.
    Member {
        /// How many cores there are.
        cores: u16,
        /// Names this process, by chance, its last 16 bits zero.
        life: u64,
        /// The lives that the directory knows of.
        known: Vec<u64>,
        /// What the others are told of it.
        profile: NodeProfile,
    },
    /// A further core does as the first one tells it.
    Further {
        /// Its number, from 1.
        core: u16,
        /// How many cores there are.
        cores: u16,
    },
}

/// What one core has for another.
#[derive(Debug)]
pub struct Parcel(pub(crate) Content);

#[derive(Debug)]
pub(crate) enum Content {
    /// A request whose partition, or whose subject, is another core's.
    Request { caller: Caller, head: Vec<u8>, payload: Vec<u8> },
    /// Its answer, whole.
    Response { caller: Caller, bytes: Vec<u8> },
    /// Batches for a subscription of a connection there; `ended`: it was the last of the one of
    /// this name and this correlation id.
    Push { pushed: Pushed, bytes: Vec<u8>, ended: Option<(u32, u32)> },
    /// The client's side of the connection has the bytes of a push.
    Pushed(Pushed),
    /// A client is gone that had asked there.
    Gone(SessionId),
    /// A topic, which core owns each of some of its partitions, and the life that the node is in.
    Hold {
        topic: Topic,
        from: PartitionIndex,
        cores: Vec<u16>,
        create: bool,
        incarnation: Incarnation,
    },
    /// It is durable that all partitions of a topic exist.
    Ready(TopicId),
    /// A topic's settings have changed.
    Altered(Topic),
    /// A topic is gone.
    Deleted(TopicId),
    /// All topics are known: requests can be taken.
    Serve(Incarnation),
    /// Producers that were raised; older epochs of theirs are fenced from now on.
    Raised { ticket: Option<Ticket>, producers: Vec<(ProducerId, ProducerEpoch)> },
    /// They are.
    Fenced(Ticket),
    /// How the opening of a partition ended.
    Opened { uid: PartitionUid, topic: TopicId, phase: Phase },
    /// A partition of a cluster's topic, as its chain is from now on.
    Part(Box<Part>),
    /// The nodes of the cluster.
    Nodes(Vec<Beside>),
    /// The catalog is to have this entry, which is about that partition's chain.
    Propose(PartitionUid, Entry),
    /// The chain of a partition that this node heads is to change so.
    Plan(PartitionUid, Entry),
    /// The tail of a partition may wait for its joiner in this epoch.
    MayClose(PartitionUid, Epoch),
    /// How do the partitions of a topic stand?
    Describe { ticket: Ticket, topic: TopicId },
    /// They stand so.
    Details { ticket: Ticket, details: Vec<PartitionDetail> },
}

/// Where a partition is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) uid: PartitionUid,
    pub(crate) core: u16,
}

impl Place {
    /// The core that answers for it: of what only other nodes have the first one knows where.
    pub(crate) fn answering(self) -> u16 {
        if self.core == NOWHERE { FIRST } else { self.core }
    }
}

/// A raised producer that waits for all cores to fence its older epochs.
pub(crate) struct Raise {
    caller: Caller,
    producer: (ProducerId, ProducerEpoch),
    /// Cores that have not answered.
    missing: usize,
}

/// A description that waits for other cores.
pub(crate) struct Gather {
    caller: Caller,
    topic: TopicId,
    /// Cores that have not answered.
    missing: usize,
    details: BTreeMap<PartitionIndex, PartitionDetail>,
}

impl<M: Memory + Clone> Node<M> {
    /// The next parcel, and the core it goes to.
    pub fn poll_parcel(&mut self) -> Option<(u16, Parcel)> {
        self.parcels.pop_front()
    }

    /// Takes what core `from` sent.
    pub fn on_parcel(&mut self, from: u16, parcel: Parcel, now: Now) {
        match parcel.0 {
            Content::Request { caller, head, payload } => {
                self.dispatch(caller, &head, &payload, now);
            }
            Content::Response { caller, bytes } => self.deliver(caller, bytes, Vec::new()),
            Content::Push { pushed, bytes, ended } => {
                let session = pushed.session();
                if let Some((subscription, correlation)) = ended {
                    self.forget_subscription((session, subscription), correlation);
                }
                if self.sessions.contains_key(&session) {
                    let send = Send::new(session, bytes, Vec::new());
                    self.sends.push_back(Send { pushed: Some(pushed), ..send });
                }
            }
            Content::Pushed(pushed) => self.on_pushed(pushed, now),
            Content::Gone(session) => self.forget(session),
            Content::Hold { topic, from, cores, create, incarnation } => {
                self.incarnation = incarnation;
                self.hold(&topic, from, &cores, create);
            }
            Content::Ready(topic) => drop(self.creating.remove(&topic)),
            Content::Altered(topic) => self.configure(&topic),
            Content::Deleted(topic) => drop(self.release(topic, now)),
            Content::Serve(incarnation) => {
                if std::mem::replace(&mut self.incarnation, incarnation) != incarnation {
                    self.links.hang_up_all();
                }
                if self.status == Status::Starting {
                    self.status = Status::Serving;
                }
            }
            Content::Opened { uid, topic, phase } => {
                // Unless it was deleted meanwhile.
                if self.knows_topic(topic) {
                    self.phases.insert(uid, phase);
                    self.topic_opened(topic, now);
                }
            }
            Content::Raised { ticket, producers } => {
                self.note_raised(&producers);
                if let Some(ticket) = ticket {
                    self.send_parcel(from, Content::Fenced(ticket));
                }
            }
            Content::Fenced(ticket) => self.fenced(ticket),
            Content::Part(part) => self.take_part(*part, now),
            Content::Nodes(nodes) => self.take_nodes(nodes),
            Content::Propose(uid, entry) => self.propose_chain(uid, &entry),
            Content::Plan(uid, entry) => self.plan(uid, entry, now),
            Content::MayClose(uid, epoch) => self.close_in(uid, epoch, now),
            Content::Describe { ticket, topic } => {
                let details = self.details_here(topic);
                self.send_parcel(from, Content::Details { ticket, details });
            }
            Content::Details { ticket, details } => self.gathered(ticket, details),
        }
    }

    pub(crate) fn send_parcel(&mut self, to: u16, content: Content) {
        self.parcels.push_back((to, Parcel(content)));
    }

    /// Tells every further core.
    pub(crate) fn tell_cores(&mut self, content: impl Fn() -> Content) {
        for core in 1..self.cores {
            self.send_parcel(core, content());
        }
    }

    /// Leaves a request to the core that can answer it.
    pub(crate) fn forward(&mut self, to: u16, caller: Caller, head: &[u8], payload: &[u8]) {
        self.stats.forwarded += u64::from(!about_topics(caller.api));
        if let Some(session) = self.sessions.get_mut(&caller.session) {
            session.abroad.insert(to);
        }
        let (head, payload) = (head.to_vec(), payload.to_vec());
        self.send_parcel(to, Content::Request { caller, head, payload });
    }

    /// Gives an answer to the client, through the core that its connection is on.
    pub(crate) fn deliver(&mut self, caller: Caller, mut bytes: Vec<u8>, shares: Vec<M::Share>) {
        if caller.session.core != self.core {
            shares.iter().for_each(|share| bytes.extend_from_slice(share.as_ref()));
            let home = caller.session.core;
            return self.send_parcel(home, Content::Response { caller, bytes });
        }
        if !self.settle(caller) {
            return;
        }
        if caller.api == Api::Subscribe {
            self.subscribe_answered(caller, &bytes);
        }
        self.sends.push_back(Send::new(caller.session, bytes, shares));
    }

    /// A request of a connection of this core is over; false when the connection is.
    pub(crate) fn settle(&mut self, caller: Caller) -> bool {
        let Some(session) = self.sessions.get_mut(&caller.session) else { return false };
        session.requests = session.requests.saturating_sub(1);
        session.bytes = session.bytes.saturating_sub(caller.bytes);
        self.bytes_in_flight = self.bytes_in_flight.saturating_sub(caller.bytes);
        true
    }

    /// Drops what a client waits for here.
    pub(crate) fn forget(&mut self, session: SessionId) {
        for held in self.held.values_mut() {
            held.waiters.retain(|waiter| waiter.caller.session != session);
            for reader in held.readers.values_mut() {
                if let Reader::Fetch(waiter, charge) = reader
                    && waiter.caller.session == session
                {
                    *reader = Reader::Ended(*charge);
                }
            }
        }
        let names = self.subscribed.range((session, 0)..=(session, u32::MAX));
        for name in names.map(|(name, _)| *name).collect::<Vec<_>>() {
            self.drop_subscription(name);
        }
        self.forget_windows(session);
    }

    /// Which core takes each partition of a topic: one after the other, so that partitions of a
    /// topic are spread, and topics of one partition too.
    pub(crate) fn assign(&mut self, partitions: usize) -> Vec<u16> {
        let mut next = || {
            let core = self.next_core;
            self.next_core = (core + 1) % self.cores;
            core
        };
        (0..partitions).map(|_| next()).collect()
    }

    /// How a partition stands, on whichever core.
    pub(crate) fn phase_of(&self, uid: PartitionUid) -> Phase {
        match self.held.get(&uid) {
            Some(held) => held.replica.phase(),
            None => self.phases.get(&uid).copied().unwrap_or(Phase::Opening),
        }
    }

    /// Fences the epochs of a producer before its newest on every core, then tells the caller.
    pub(crate) fn raise(&mut self, caller: Caller, producer: (ProducerId, ProducerEpoch)) {
        self.note_raised(&[producer]);
        let ticket = Ticket(self.number());
        let missing = usize::from(self.cores);
        self.raises.insert(ticket, Raise { caller, producer, missing });
        let producers = vec![producer];
        self.tell_cores(|| Content::Raised { ticket: Some(ticket), producers: producers.clone() });
        self.fenced(ticket);
    }

    /// As many are remembered as the catalog does.
    pub(crate) fn note_raised(&mut self, producers: &[(ProducerId, ProducerEpoch)]) {
        self.raised.extend(producers.iter().copied());
        while self.raised.len() > RAISED_PRODUCERS_MAX {
            self.raised.pop_first();
        }
    }

    fn fenced(&mut self, ticket: Ticket) {
        let Some(raise) = self.raises.get_mut(&ticket) else { return };
        raise.missing -= 1;
        if raise.missing > 0 {
            return;
        }
        let Some(Raise { caller, producer, .. }) = self.raises.remove(&ticket) else { return };
        self.answer_producer(caller, producer);
    }

    /// Describes a topic once every core that holds a part of it has answered.
    pub(crate) fn gather(&mut self, caller: Caller, topic: TopicId) {
        let details = self.details_here(topic);
        let of_topic = self.places.range((topic, PartitionIndex::new(0))..);
        let of_topic = of_topic.take_while(|((id, _), _)| *id == topic);
        let mut others: Vec<u16> = of_topic.map(|(_, place)| place.core).collect();
        others.sort_unstable();
        others.dedup();
        others.retain(|core| *core != self.core && *core != NOWHERE);
        let ticket = Ticket(self.number());
        let gather = Gather { caller, topic, missing: others.len() + 1, details: BTreeMap::new() };
        self.gathers.insert(ticket, gather);
        for core in others {
            self.send_parcel(core, Content::Describe { ticket, topic });
        }
        self.gathered(ticket, details);
    }

    fn gathered(&mut self, ticket: Ticket, details: Vec<PartitionDetail>) {
        let Some(gather) = self.gathers.get_mut(&ticket) else { return };
        gather.details.extend(details.into_iter().map(|d| (d.place.index, d)));
        gather.missing -= 1;
        if gather.missing > 0 {
            return;
        }
        let Some(Gather { caller, topic, details, .. }) = self.gathers.remove(&ticket) else {
            return;
        };
        let Some(topic) = self.catalog().topic(topic) else {
            return self.refuse(caller, ErrorCode::UnknownTopic, "the topic was deleted");
        };
        // What only other nodes have is told as far as it is known here.
        let elsewhere = topic.partitions.iter().filter(|p| !details.contains_key(&p.index));
        let elsewhere: Vec<_> =
            elsewhere.map(|p| (p.index, self.detail_elsewhere(topic, p))).collect();
        let mut details = details;
        details.extend(elsewhere);
        let response = DescribeTopicResponse {
            error: ErrorCode::None,
            id: topic.id,
            config_version: self.catalog().version(),
            config: self.settings_of(topic),
            partitions: details.into_values().collect(),
            message: "".into(),
        };
        self.answer(caller, &response);
    }

    fn details_here(&self, topic: TopicId) -> Vec<PartitionDetail> {
        self.held.values().filter(|held| held.topic == topic).map(|h| self.detail(h)).collect()
    }

    /// Marks all that is held here as having something to do.
    pub(crate) fn stir(&mut self) {
        let all = self.held.keys().map(|uid| Directory::Partition(*uid));
        self.dirty.extend(all);
    }
}
