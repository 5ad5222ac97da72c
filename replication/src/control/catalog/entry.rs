//! What is ordered: the changes of the catalog, and their bytes.

use catena_format::{PartitionIndex, TopicId};
use rkyv::{Archive, Deserialize, Serialize, rancor, util::AlignedVec};

/// Of entries. Variants are added without a new one: an older build refuses those.
pub(super) const ENTRY_VERSION: u8 = 1;
const PREFIX_BYTES: usize = 16;
/// An archive is read from its end, so that one that was written with fewer variants reads the same
/// only as long as none is longer than those.
const _: () = assert!(size_of::<ArchivedEntry>() == 64);

/// A change of the catalog.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    /// A node's process has started: its incarnation rises by one, or to the epoch of the entry's
    /// frame if that is more, the epochs of its partitions rise by as much, and its producer ids
    /// begin at 1024 times the time of the entry, in ms, if that is more.
    NodeStarted {
        /// The node.
        node: u64,
    },
    /// A topic is begun; it is served once it is ready.
    CreateTopic {
        /// Its id, chosen by the proposer so that no other topic of the cluster ever has it.
        id: u128,
        /// Its name.
        name: String,
        /// How many partitions.
        partitions: u32,
        /// The settings made.
        config: Vec<(String, String)>,
        /// The node that holds it.
        node: u64,
    },
    /// All partitions that a topic has by now exist on the disk of their nodes.
    TopicReady {
        /// The topic.
        id: u128,
    },
    /// Settings are made and taken back.
    AlterTopic {
        /// The topic.
        id: u128,
        /// Settings to make.
        set: Vec<(String, String)>,
        /// Settings to take back.
        remove: Vec<String>,
    },
    /// A topic is gone; its files are removed in the background.
    DeleteTopic {
        /// The topic.
        id: u128,
    },
    /// Producer ids are reserved.
    ProducerIds {
        /// How many.
        count: u32,
    },
    /// Settings are made and taken back, partitions added, the name changed: all or nothing.
    ChangeTopic {
        /// The topic.
        id: u128,
        /// Settings to make.
        set: Vec<(String, String)>,
        /// Settings to take back.
        remove: Vec<String>,
        /// How many partitions from now on; zero: as many. Those added exist once the topic is
        /// ready again.
        partitions: u32,
        /// The name from now on; empty: the same.
        name: String,
    },
    /// A producer goes on under the next epoch: nobody writes under an older one any more. After
    /// the last epoch it goes on under an id of its own.
    RaiseProducer {
        /// The producer.
        id: i64,
        /// Its epoch so far.
        epoch: i16,
    },
    /// A topic is begun on nodes of a cluster; it is served once it is ready.
    PlaceTopic {
        /// Its id, chosen by the proposer so that no other topic of the cluster ever has it.
        id: u128,
        /// Its name.
        name: String,
        /// The settings made.
        config: Vec<(String, String)>,
        /// The nodes of each partition's chain, from its head to its tail, one chain after the
        /// other.
        nodes: Vec<u64>,
        /// How many partitions.
        partitions: u32,
        /// How many nodes each chain has.
        replicas: u8,
        /// A shorter chain takes nothing.
        min_replicas: u8,
    },
    /// All partitions of a topic that this node has a part in exist on its disk.
    TopicCreated {
        /// The topic.
        id: u128,
        /// The node.
        node: u64,
        /// How many partitions the topic had then: it says nothing of those that are newer.
        partitions: u32,
    },
    /// A process that has no number yet becomes a node of the cluster.
    AdmitNode {
        /// What allows it to.
        token: u128,
        /// When it asked, in ms since 1970.
        time: i64,
        /// Names the process, by chance: said again, it changes nothing.
        life: u64,
        /// What it is.
        profile: Box<NodeProfile>,
    },
    /// Processes that show a token may become nodes, or may no more.
    AllowJoin {
        /// The token.
        token: u128,
        /// When this was asked for, in ms since 1970.
        time: i64,
        /// Until when, in ms since 1970; not behind `time`: from now on no more.
        until: i64,
    },
    /// A node's process has started: another incarnation of it goes behind all others of its
    /// chains.
    StartNode {
        /// The node.
        node: u64,
        /// Names the process, by chance, but for its last 16 bits, which count how often it was
        /// believed to be gone: said again, it changes nothing.
        life: u64,
        /// The lives that its directory knows of, one of each process: the last one must be of
        /// these.
        known: Vec<u64>,
        /// What it is from now on.
        profile: NodeProfile,
    },
    /// A node's process is gone: chains go on without it where another member runs.
    NodeDown {
        /// The node.
        node: u64,
        /// Which of its lives has ended.
        incarnation: u64,
    },
    /// A node leaves for good, that is in no chain, and does not run unless it is drained.
    RemoveNode {
        /// The node.
        node: u64,
    },
    /// The chain of a partition changes, if it is still in this epoch.
    ChangeChain {
        /// The topic.
        topic: u128,
        /// Which of its partitions.
        partition: u32,
        /// The epoch in which the change was thought of.
        epoch: u32,
        /// The change.
        change: ChainChange,
    },
    /// A node is to hold nothing any more, or may again.
    DrainNode {
        /// The node.
        node: u64,
        /// It is to hold nothing.
        drain: bool,
    },
    /// A topic is to have another number of copies.
    ReplicateTopic {
        /// The topic.
        id: u128,
        /// Copies of each partition.
        replicas: u8,
        /// A shorter chain takes nothing.
        min_replicas: u8,
    },
    /// Nodes are lost, and what they alone had is given up: each partition whose chain has nobody
    /// else, and that has a copy on this node, goes on with that copy.
    AcceptLoss {
        /// The node; it runs.
        node: u64,
        /// Those that are lost; none of them runs.
        lost: Vec<u64>,
    },
}

/// What a node is, and where.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeProfile {
    /// Host and port for clients.
    pub client: String,
    /// Host and port for other nodes.
    pub peer: String,
    /// What it shares with the nodes that fail with it; empty: nothing that is known.
    pub rack: String,
    /// How many cores it serves with.
    pub cores: u16,
    /// It votes and holds no partition.
    pub witness: bool,
}

/// Whether two lives are of one process.
#[must_use]
pub const fn same_process(one: u64, other: u64) -> bool {
    one >> 16 == other >> 16
}

/// A change of a chain; each but [`ChainChange::Close`] raises its epoch by one.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum ChainChange {
    /// A node that runs begins to copy, to become the tail.
    Join(u64),
    /// The joiner in this incarnation holds what the tail must.
    Ready(u64, u64),
    /// A node leaves; another member runs.
    Remove(u64),
    /// The same members stand in another order, from head to tail.
    Reorder(Vec<u64>),
    /// A node whose copy fails it leaves, in this incarnation; another member runs. It comes back
    /// in its next one.
    Leave(u64, u64),
    /// A node's copy is to go to another one: that one keeps a copy from now on, and the first
    /// leaves once it is not needed.
    Move(u64, u64),
    /// A node, in this incarnation, holds the others up, or cannot be reached by who is beside it:
    /// the chain goes on without it, where it stays long enough. It keeps its copy, and joins
    /// again.
    Evict(u64, u64),
    /// The joiner in this incarnation is close behind. It changes nothing: that it is ordered shows
    /// that a change would be, without which a tail that has begun to wait for it waits for ever.
    Close(u64, u64),
}

/// What a node that follows the catalog has to look at after an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touched {
    /// Nothing of the sort.
    Nothing,
    /// One topic.
    Topic(TopicId),
    /// The chain of one partition.
    Chain(TopicId, PartitionIndex),
    /// Nodes, and any chain.
    Everything,
}

impl Entry {
    /// What it changes, if it does.
    #[must_use]
    pub fn touches(&self) -> Touched {
        match self {
            Self::CreateTopic { id, .. }
            | Self::PlaceTopic { id, .. }
            | Self::TopicReady { id }
            | Self::TopicCreated { id, .. }
            | Self::AlterTopic { id, .. }
            | Self::ChangeTopic { id, .. }
            | Self::ReplicateTopic { id, .. }
            | Self::DeleteTopic { id } => Touched::Topic(TopicId::new(*id)),
            Self::ChangeChain { topic, partition, .. } => {
                Touched::Chain(TopicId::new(*topic), PartitionIndex::new(*partition))
            }
            Self::ProducerIds { .. } | Self::RaiseProducer { .. } | Self::AllowJoin { .. } => {
                Touched::Nothing
            }
            Self::NodeStarted { .. }
            | Self::AdmitNode { .. }
            | Self::StartNode { .. }
            | Self::NodeDown { .. }
            | Self::DrainNode { .. }
            | Self::AcceptLoss { .. }
            | Self::RemoveNode { .. } => Touched::Everything,
        }
    }
}

/// An entry as the value of a record.
#[must_use]
pub fn encode(entry: &Entry) -> Vec<u8> {
    let archive = rkyv::to_bytes::<rancor::Error>(entry).expect("an entry can be archived");
    prefixed(ENTRY_VERSION, &archive)
}

pub(super) fn prefixed(version: u8, archive: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; PREFIX_BYTES];
    bytes[0] = version;
    bytes.extend_from_slice(archive);
    bytes
}

pub(super) fn archive(version: u8, bytes: &[u8]) -> Option<AlignedVec<16>> {
    let (prefix, archive) = bytes.split_at_checked(PREFIX_BYTES)?;
    if prefix[0] != version || prefix[1..].iter().any(|byte| *byte != 0) {
        return None;
    }
    let mut aligned = AlignedVec::with_capacity(archive.len());
    aligned.extend_from_slice(archive);
    Some(aligned)
}

/// The entry whose bytes these are; `None`: this build knows none like that.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<Entry> {
    let archive = archive(ENTRY_VERSION, bytes)?;
    rkyv::from_bytes::<Entry, rancor::Error>(&archive).ok()
}
