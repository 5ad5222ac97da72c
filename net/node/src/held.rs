//! What a node holds: partitions, and who waits for what of them.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use catena_format::{Epoch, NodeId, Offset, PartitionIndex, PartitionUid, TopicId};
use catena_log::{ReadId, io::Memory};
use catena_replication::{Replica, Ticket, chain::MemberId, control::Entry};
use catena_wire::FetchRequest;

use crate::{
    node::Caller,
    push::{Name, Subscription},
    window::Charge,
};

/// A request that waits for something, no longer than to its deadline.
pub(crate) struct Pending {
    pub(crate) caller: Caller,
    pub(crate) deadline: Duration,
    pub(crate) awaited: Awaited,
}

/// What a request waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Awaited {
    /// That a batch is where its producer wants it.
    Batch(PartitionUid),
    /// That a log start is durable.
    Trim(PartitionUid),
    /// That a chain has confirmed where it ends.
    End(PartitionUid),
    /// That a change of the catalog is durable and carried out.
    Change,
}

impl Awaited {
    /// What is told when the deadline has passed: the outcome is not known, and may still come.
    pub(crate) fn in_doubt(self) -> &'static str {
        match self {
            Self::Batch(_) => "the batch may or may not be stored",
            Self::Trim(_) => "the log start may or may not be raised",
            Self::End(_) => "the chain has not confirmed where it ends",
            Self::Change => "the change may or may not be made",
        }
    }
}

/// A fetch that waits until there is enough for it.
pub(crate) struct Waiter {
    pub(crate) caller: Caller,
    pub(crate) request: FetchRequest,
    pub(crate) deadline: Duration,
    /// Before so many bytes have been appended there cannot be enough for it.
    pub(crate) appended: u64,
}

/// A read that waits for the disk.
pub(crate) enum Reader {
    Fetch(Waiter, Charge),
    List(Caller),
    /// For the first readable offset at this one or behind.
    Seek(Caller, Offset),
    Push(Name),
    /// Whoever it was for is gone; it counts until it ends.
    Ended(Charge),
}

/// A partition that the node holds.
pub(crate) struct Held<M: Memory> {
    pub(crate) replica: Replica<M>,
    pub(crate) topic: TopicId,
    pub(crate) chain: Vec<NodeId>,
    /// The newest that is known of the chain.
    pub(crate) epoch: Epoch,
    /// Nodes beside it in the chain.
    pub(crate) neighbours: Vec<NodeId>,
    /// How its chain is to change.
    pub(crate) planned: Option<Planned>,
    /// Whom nothing connects to this node, and in which epoch that was seen.
    pub(crate) cut_off: Option<(Epoch, MemberId)>,
    pub(crate) tick: Option<Duration>,
    pub(crate) waiters: Vec<Waiter>,
    pub(crate) readers: BTreeMap<ReadId, Reader>,
    pub(crate) trims: VecDeque<Ticket>,
    pub(crate) subscriptions: BTreeMap<Name, Subscription>,
}

/// A change of a chain that its head is to propose.
pub(crate) struct Planned {
    pub(crate) entry: Entry,
    /// Since when it is due, and when that was told last.
    pub(crate) since: Duration,
    pub(crate) told: Duration,
}

impl<M: Memory> Held<M> {
    pub(crate) fn new(replica: Replica<M>, topic: TopicId) -> Self {
        Self {
            replica,
            topic,
            chain: Vec::new(),
            epoch: Epoch::default(),
            neighbours: Vec::new(),
            planned: None,
            cut_off: None,
            tick: None,
            waiters: Vec::new(),
            readers: BTreeMap::new(),
            trims: VecDeque::new(),
            subscriptions: BTreeMap::new(),
        }
    }
}

/// Partitions of a topic that are being created: it is not durable yet that they exist.
#[derive(Clone, Copy)]
pub(crate) struct Creating {
    /// Who waits for it.
    pub(crate) waiting: Option<Ticket>,
    /// The first of them; all behind it are, too.
    pub(crate) from: PartitionIndex,
    /// The catalog was told that they exist.
    pub(crate) told: bool,
}
