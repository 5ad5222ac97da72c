//! Snapshots of builds before: they are read, and not written any more.

use std::collections::BTreeMap;

use rkyv::{Archive, Deserialize, Serialize, rancor};

use super::{super::cluster::REPLICAS_MAX, NodeV4, PartitionV4, SnapshotV4, TopicV4};
use crate::control::catalog::entry::{NodeProfile, archive};

/// Of builds that knew no draining, and of no number of copies that a topic is to have.
const VERSION_PLACED: u8 = 3;
/// Of a node alone, before there were clusters.
const VERSION_ALONE: u8 = 2;

/// A snapshot of an older version, as it would stand in the present one.
pub(super) fn read(bytes: &[u8]) -> Option<SnapshotV4> {
    if let Some(archive) = archive(VERSION_PLACED, bytes) {
        return rkyv::from_bytes::<SnapshotV3, rancor::Error>(&archive).ok().map(Into::into);
    }
    let archive = archive(VERSION_ALONE, bytes)?;
    let alone = rkyv::from_bytes::<SnapshotV2, rancor::Error>(&archive).ok()?;
    Some(SnapshotV3::from(alone).into())
}

#[derive(Archive, Serialize, Deserialize)]
struct SnapshotV3 {
    version: u64,
    next_node: u64,
    nodes: Vec<NodeV3>,
    tokens: Vec<(u128, i64)>,
    next_uid: u64,
    next_producer_id: i64,
    topics: Vec<TopicV3>,
    producers: Vec<(i64, i16)>,
}

#[derive(Archive, Serialize, Deserialize)]
struct NodeV3 {
    id: u64,
    incarnation: u64,
    life: u64,
    up: bool,
    profile: NodeProfile,
}

#[derive(Archive, Serialize, Deserialize)]
struct TopicV3 {
    id: u128,
    name: String,
    ready: u32,
    config: Vec<(String, String)>,
    partitions: Vec<PartitionV3>,
    created: Vec<u64>,
}

#[derive(Archive, Serialize, Deserialize)]
struct PartitionV3 {
    uid: u64,
    epoch: u32,
    chain: Vec<(u64, u64)>,
    joining: Option<(u64, u64)>,
    min_replicas: u8,
    homes: Vec<u64>,
    sick: Vec<(u64, u64)>,
}

#[derive(Archive, Serialize, Deserialize)]
struct SnapshotV2 {
    version: u64,
    incarnations: Vec<(u64, u64)>,
    next_uid: u64,
    next_producer_id: i64,
    topics: Vec<TopicV2>,
    producers: Vec<(i64, i16)>,
}

#[derive(Archive, Serialize, Deserialize)]
struct TopicV2 {
    id: u128,
    name: String,
    ready: u32,
    config: Vec<(String, String)>,
    partitions: Vec<PartitionV2>,
}

#[derive(Archive, Serialize, Deserialize)]
struct PartitionV2 {
    uid: u64,
    epoch: u32,
    chain: Vec<u64>,
}

impl From<SnapshotV3> for SnapshotV4 {
    fn from(old: SnapshotV3) -> Self {
        let node = |node: NodeV3| {
            let NodeV3 { id, incarnation, life, up, profile } = node;
            NodeV4 { id, incarnation, life, up, draining: false, profile }
        };
        let partition = |partition: PartitionV3| {
            let PartitionV3 { uid, epoch, chain, joining, min_replicas, homes, sick } = partition;
            let leaving = Vec::new();
            PartitionV4 { uid, epoch, chain, joining, min_replicas, homes, sick, leaving }
        };
        let topic = |topic: TopicV3| {
            let TopicV3 { id, name, ready, config, partitions, created } = topic;
            // As many as it was given.
            let replicas = partitions.iter().map(|partition| partition.homes.len()).max();
            let replicas =
                replicas.and_then(|most| u8::try_from(most).ok()).unwrap_or(REPLICAS_MAX);
            let replicas = replicas.clamp(1, REPLICAS_MAX);
            let partitions = partitions.into_iter().map(partition).collect();
            TopicV4 { id, name, ready, replicas, config, partitions, created }
        };
        Self {
            version: old.version,
            next_node: old.next_node,
            nodes: old.nodes.into_iter().map(node).collect(),
            tokens: old.tokens,
            next_uid: old.next_uid,
            next_producer_id: old.next_producer_id,
            topics: old.topics.into_iter().map(topic).collect(),
            producers: old.producers,
        }
    }
}

impl From<SnapshotV2> for SnapshotV3 {
    fn from(old: SnapshotV2) -> Self {
        let incarnations: BTreeMap<u64, u64> = old.incarnations.iter().copied().collect();
        let node = |(id, incarnation)| {
            let profile = NodeProfile::default();
            NodeV3 { id, incarnation, life: 0, up: true, profile }
        };
        let in_life = |node: &u64| (*node, incarnations.get(node).copied().unwrap_or(0));
        let partition = |partition: PartitionV2| PartitionV3 {
            uid: partition.uid,
            epoch: partition.epoch,
            chain: partition.chain.iter().map(in_life).collect(),
            joining: None,
            min_replicas: 1,
            homes: partition.chain,
            sick: Vec::new(),
        };
        let topic = |topic: TopicV2| TopicV3 {
            id: topic.id,
            name: topic.name,
            ready: topic.ready,
            config: topic.config,
            partitions: topic.partitions.into_iter().map(partition).collect(),
            created: Vec::new(),
        };
        let most = old.incarnations.iter().map(|(id, _)| id.saturating_add(1)).max();
        Self {
            version: old.version,
            next_node: most.unwrap_or(2).max(2),
            tokens: Vec::new(),
            nodes: old.incarnations.into_iter().map(node).collect(),
            next_uid: old.next_uid,
            next_producer_id: old.next_producer_id,
            topics: old.topics.into_iter().map(topic).collect(),
            producers: old.producers,
        }
    }
}
