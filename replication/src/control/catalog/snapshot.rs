//! The catalog as bytes, and which bytes are believed to be one.

use std::collections::{BTreeMap, BTreeSet};

use catena_format::{
    Epoch, FrameHeader, Incarnation, NodeId, PartitionIndex, PartitionUid, TopicId, planted,
};
use catena_log::Fold;
use rkyv::{Archive, Deserialize, Serialize, rancor};

use super::{
    Catalog, ClusterNode, EPOCH_MAX, PARTITIONS_MAX, PRODUCER_IDS_BEGIN_MAX, Partition,
    RAISED_PRODUCERS_MAX, TOPICS_MAX, Topic,
    cluster::{NODES_MAX, REPLICAS_MAX, TOKENS_MAX},
    entry::{NodeProfile, archive, prefixed},
    name_is_good,
};
use crate::{
    chain::{Configuration, MemberId},
    control::TopicConfig,
};

mod older;

const VERSION: u8 = 4;

#[derive(Archive, Serialize, Deserialize)]
struct SnapshotV4 {
    version: u64,
    next_node: u64,
    nodes: Vec<NodeV4>,
    /// And until when each is valid.
    tokens: Vec<(u128, i64)>,
    next_uid: u64,
    next_producer_id: i64,
    topics: Vec<TopicV4>,
    producers: Vec<(i64, i16)>,
}

#[derive(Archive, Serialize, Deserialize)]
struct NodeV4 {
    id: u64,
    incarnation: u64,
    life: u64,
    up: bool,
    draining: bool,
    profile: NodeProfile,
}

#[derive(Archive, Serialize, Deserialize)]
struct TopicV4 {
    id: u128,
    name: String,
    ready: u32,
    config: Vec<(String, String)>,
    partitions: Vec<PartitionV4>,
    created: Vec<u64>,
    replicas: u8,
}

#[derive(Archive, Serialize, Deserialize)]
struct PartitionV4 {
    uid: u64,
    epoch: u32,
    /// Nodes and incarnations.
    chain: Vec<(u64, u64)>,
    joining: Option<(u64, u64)>,
    min_replicas: u8,
    homes: Vec<u64>,
    sick: Vec<(u64, u64)>,
    leaving: Vec<u64>,
}

/// Counters of a snapshot that are as large have not been counted to.
const COUNTED_MAX: u64 = 1 << 62;
const _: () = assert!(PRODUCER_IDS_BEGIN_MAX.cast_unsigned() * 2 < COUNTED_MAX);

impl SnapshotV4 {
    fn read(bytes: &[u8]) -> Option<Self> {
        let read = match archive(VERSION, bytes) {
            Some(archive) => rkyv::from_bytes::<Self, rancor::Error>(&archive).ok(),
            None => older::read(bytes),
        };
        read.filter(Self::is_sound)
    }

    /// Whether a catalog can have come to this.
    fn is_sound(&self) -> bool {
        let names: BTreeSet<&str> = self.topics.iter().map(|t| t.name.as_str()).collect();
        let partitions = || self.topics.iter().flat_map(|t| &t.partitions);
        let uids: BTreeSet<u64> = partitions().map(|p| p.uid).collect();
        let counted = [self.version, self.next_uid, self.next_producer_id.cast_unsigned()];
        let lives = self.nodes.iter().map(|node| node.incarnation);
        let mut counted = counted.into_iter().chain([self.next_node]).chain(lives);
        self.topics.is_sorted_by(|a, b| a.id < b.id)
            && self.nodes.is_sorted_by(|a, b| a.id < b.id)
            && self.nodes.last().is_none_or(|last| last.id < self.next_node)
            && self.nodes.len() <= NODES_MAX
            && self.tokens.is_sorted_by(|a, b| a.0 < b.0)
            && self.tokens.len() <= TOKENS_MAX
            && names.len() == self.topics.len()
            && names.iter().all(|name| name_is_good(name))
            && self.topics.len() <= TOPICS_MAX
            && uids.len() == partitions().count()
            && uids.len() <= PARTITIONS_MAX
            && self.topics.iter().all(|t| t.ready as usize <= t.partitions.len())
            && self.topics.iter().all(|t| (1..=REPLICAS_MAX).contains(&t.replicas))
            && self.topics.iter().all(TopicV4::is_configured)
            && uids.last().is_none_or(|last| *last < self.next_uid)
            && partitions().all(PartitionV4::is_sound)
            && self.producers.is_sorted_by(|a, b| a.0 < b.0)
            && self.producers.len() <= RAISED_PRODUCERS_MAX
            && self.producers.iter().all(|p| (0..self.next_producer_id).contains(&p.0) && p.1 >= 0)
            && counted.all(|counter| counter < COUNTED_MAX)
    }
}

impl TopicV4 {
    fn is_configured(&self) -> bool {
        let config: BTreeMap<_, _> = self.config.iter().cloned().collect();
        config.len() == self.config.len() && TopicConfig::parse(&config).is_ok()
    }
}

impl PartitionV4 {
    fn is_sound(&self) -> bool {
        let nodes: BTreeSet<u64> = self.chain.iter().chain(&self.joining).map(|m| m.0).collect();
        let members = self.chain.len() + usize::from(self.joining.is_some());
        self.epoch <= EPOCH_MAX.get()
            && (1..=usize::from(REPLICAS_MAX)).contains(&self.chain.len())
            && nodes.len() == members
            && (1..=REPLICAS_MAX).contains(&self.min_replicas)
            && self.homes.len() <= NODES_MAX
            && self.sick.len() <= NODES_MAX
            && nodes.iter().chain(&self.leaving).all(|node| self.homes.contains(node))
            && self.leaving.len() <= self.homes.len()
    }
}

impl Fold for Catalog {
    /// Topics would be missing, and with them the reason to keep their files.
    const INDISPENSABLE: bool = true;

    fn apply(&mut self, frame: &FrameHeader, batch: &[u8]) {
        if self.unreadable.is_none() && self.apply_batch(frame, batch).is_none() {
            self.unreadable = Some(frame.base_offset);
        }
    }

    fn snapshot(&self) -> Vec<u8> {
        // A catalog that lacks entries must not be taken for one: nothing restores from this.
        if self.unreadable.is_some() {
            return Vec::new();
        }
        let archived = SnapshotV4 {
            version: self.version,
            next_node: self.next_node,
            tokens: self.tokens.iter().map(|(token, until)| (*token, *until)).collect(),
            nodes: self.nodes.iter().map(|(id, node)| node.archived(*id)).collect(),
            next_uid: self.next_uid,
            next_producer_id: self.next_producer_id,
            topics: self.topics.values().map(Topic::archived).collect(),
            producers: self.producers.iter().map(|(id, epoch)| (*id, *epoch)).collect(),
        };
        let archive =
            rkyv::to_bytes::<rancor::Error>(&archived).expect("a catalog can be archived");
        prefixed(VERSION, &archive)
    }

    fn restore(&mut self, snapshot: &[u8]) -> bool {
        self.reset();
        let Some(read) = SnapshotV4::read(snapshot) else { return false };
        self.version = read.version;
        self.next_node = read.next_node;
        self.tokens = read.tokens.into_iter().collect();
        self.nodes = read.nodes.into_iter().map(ClusterNode::from_archived).collect();
        self.next_uid = read.next_uid;
        self.next_producer_id = if planted!(ProducerIdsReused) { 0 } else { read.next_producer_id };
        self.producers = read.producers.into_iter().collect();
        for topic in read.topics {
            self.partitions += topic.partitions.len();
            self.names.insert(topic.name.clone(), topic.id);
            self.topics.insert(topic.id, Topic::from_archived(topic));
        }
        true
    }

    fn reset(&mut self) {
        *self = Self::default();
    }
}

impl ClusterNode {
    fn archived(&self, id: NodeId) -> NodeV4 {
        let Self { incarnation, life, up, draining, profile } = self.clone();
        NodeV4 { id: id.get(), incarnation: incarnation.get(), life, up, draining, profile }
    }

    fn from_archived(node: NodeV4) -> (NodeId, Self) {
        let NodeV4 { id, incarnation, life, up, draining, profile } = node;
        let incarnation = Incarnation::new(incarnation);
        (NodeId::new(id), Self { incarnation, life, up, draining, profile })
    }
}

impl Topic {
    fn archived(&self) -> TopicV4 {
        let member = |member: &MemberId| (member.node.get(), member.incarnation.get());
        let partition = |p: &Partition| PartitionV4 {
            uid: p.uid.get(),
            epoch: p.configuration.epoch.get(),
            chain: p.configuration.chain.iter().map(member).collect(),
            joining: p.configuration.joining.as_ref().map(member),
            min_replicas: p.configuration.min_replicas,
            homes: p.homes.iter().map(|node| node.get()).collect(),
            sick: p.sick.iter().map(member).collect(),
            leaving: p.leaving.iter().map(|node| node.get()).collect(),
        };
        TopicV4 {
            id: self.id.get(),
            name: self.name.clone(),
            ready: self.ready,
            replicas: self.replicas,
            config: self.config.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
            partitions: self.partitions.iter().map(partition).collect(),
            created: self.created.iter().map(|node| node.get()).collect(),
        }
    }

    fn from_archived(topic: TopicV4) -> Self {
        let member = |(node, incarnation): (u64, u64)| MemberId {
            node: NodeId::new(node),
            incarnation: Incarnation::new(incarnation),
        };
        let partition = |(index, p): (usize, PartitionV4)| Partition {
            index: PartitionIndex::new(u32::try_from(index).expect("partitions are few")),
            uid: PartitionUid::new(p.uid),
            configuration: Configuration {
                epoch: Epoch::new(p.epoch),
                chain: p.chain.into_iter().map(member).collect(),
                joining: p.joining.map(member),
                min_replicas: p.min_replicas,
            },
            homes: p.homes.into_iter().map(NodeId::new).collect(),
            sick: p.sick.into_iter().map(member).collect(),
            leaving: p.leaving.into_iter().map(NodeId::new).collect(),
        };
        Self {
            id: TopicId::new(topic.id),
            name: topic.name,
            ready: topic.ready,
            replicas: topic.replicas,
            config: topic.config.into_iter().collect(),
            partitions: topic.partitions.into_iter().enumerate().map(partition).collect(),
            created: topic.created.into_iter().map(NodeId::new).collect(),
        }
    }
}
