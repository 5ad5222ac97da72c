//! What should be: where a new topic goes, and which chains are to change.

use std::collections::BTreeMap;

use catena_format::{NodeId, PartitionUid};

use super::catalog::{Catalog, ChainChange, ClusterNode, Entry};

/// Chains that a node joins at a time.
const JOINS_MAX: usize = 2;

/// What a node has to do already.
#[derive(Clone, Copy, Default)]
struct Load {
    heads: usize,
    replicas: usize,
}

/// The nodes of each chain of a new topic, head first, one chain after the other: in as many racks
/// as there are, heads and copies spread evenly. `None`: fewer nodes run than a chain needs.
#[must_use]
pub fn place(catalog: &Catalog, partitions: u32, replicas: u8) -> Option<Vec<u64>> {
    let holds = |node: &ClusterNode| node.up && !node.profile.witness;
    let nodes: Vec<_> = catalog.nodes().filter(|(_, node)| holds(node)).collect();
    if nodes.len() < usize::from(replicas) {
        return None;
    }
    let mut loads: BTreeMap<NodeId, Load> = BTreeMap::new();
    for partition in catalog.topics().flat_map(|topic| &topic.partitions) {
        for (at, node) in partition.homes.iter().enumerate() {
            let load = loads.entry(*node).or_default();
            load.replicas += 1;
            load.heads += usize::from(at == 0);
        }
    }
    let mut placed = Vec::new();
    for _ in 0..partitions {
        let mut chain: Vec<(NodeId, &str)> = Vec::new();
        for at in 0..replicas {
            let score = |(id, node): &(NodeId, &ClusterNode)| {
                let rack = node.profile.rack.as_str();
                let beside = chain.iter().filter(|(_, other)| !rack.is_empty() && *other == rack);
                let load = loads.get(id).copied().unwrap_or_default();
                let heads = if at == 0 { load.heads } else { 0 };
                (beside.count(), heads, load.replicas, *id)
            };
            let free = nodes.iter().filter(|(id, _)| chain.iter().all(|(other, _)| other != id));
            let (id, node) = free.min_by_key(|node| score(node))?;
            chain.push((*id, &node.profile.rack));
            let load = loads.entry(*id).or_default();
            load.replicas += 1;
            load.heads += usize::from(at == 0);
        }
        placed.extend(chain.iter().map(|(id, _)| id.get()));
    }
    Some(placed)
}

/// Changes of chains that are due: a node that keeps a copy and runs again joins its chain, some at
/// a time. Each is of a partition.
#[must_use]
pub fn due(catalog: &Catalog) -> Vec<(PartitionUid, Entry)> {
    let mut joining: BTreeMap<NodeId, usize> = BTreeMap::new();
    let partitions = || catalog.topics().flat_map(|t| t.partitions.iter().map(move |p| (t.id, p)));
    for joiner in partitions().filter_map(|(_, partition)| partition.configuration.joining) {
        *joining.entry(joiner.node).or_default() += 1;
    }
    let mut due = Vec::new();
    for (topic, partition) in partitions() {
        let chain = &partition.configuration;
        if chain.joining.is_some() || !chain.chain.iter().any(|member| catalog.runs(*member)) {
            continue;
        }
        let away = |node: &&NodeId| {
            let outside = chain.chain.iter().all(|member| member.node != **node);
            let room = joining.get(*node).is_none_or(|joins| *joins < JOINS_MAX);
            let member = catalog.member(**node);
            outside && room && catalog.runs(member) && !partition.sick.contains(&member)
        };
        let Some(node) = partition.homes.iter().find(away) else { continue };
        *joining.entry(*node).or_default() += 1;
        let entry = Entry::ChangeChain {
            topic: topic.get(),
            partition: partition.index.get(),
            epoch: chain.epoch.get(),
            change: ChainChange::Join(node.get()),
        };
        due.push((partition.uid, entry));
    }
    due
}
