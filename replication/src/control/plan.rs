//! What should be: where a new topic goes, and which chains are to change.

use std::collections::BTreeMap;

use catena_format::NodeId;

use super::catalog::Catalog;

mod due;
#[cfg(test)]
mod tests;

pub use self::due::{Due, Resting, due, stuck};

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
    let nodes: Vec<_> = catalog.nodes().filter(|(_, node)| node.up && node.holds()).collect();
    if nodes.len() < usize::from(replicas) {
        return None;
    }
    let mut loads = loads(catalog);
    let mut placed = Vec::new();
    for _ in 0..partitions {
        let mut chain: Vec<NodeId> = Vec::new();
        for at in 0..replicas {
            let score = |id: NodeId| {
                let load = loads.get(&id).copied().unwrap_or_default();
                let heads = if at == 0 { load.heads } else { 0 };
                (beside(catalog, chain.iter().copied(), id), heads, load.replicas, id)
            };
            let free = nodes.iter().map(|(id, _)| *id).filter(|id| !chain.contains(id));
            let id = free.min_by_key(|id| score(*id))?;
            chain.push(id);
            let load = loads.entry(id).or_default();
            load.replicas += 1;
            load.heads += usize::from(at == 0);
        }
        placed.extend(chain.iter().map(|id| id.get()));
    }
    Some(placed)
}

/// What all nodes have to do.
fn loads(catalog: &Catalog) -> BTreeMap<NodeId, Load> {
    let mut loads: BTreeMap<NodeId, Load> = BTreeMap::new();
    for partition in catalog.topics().flat_map(|topic| &topic.partitions) {
        for (at, node) in partition.homes.iter().enumerate() {
            let load = loads.entry(*node).or_default();
            load.replicas += 1;
            load.heads += usize::from(at == 0);
        }
    }
    loads
}

/// How many of these nodes stand in the same rack as one more.
fn beside(catalog: &Catalog, nodes: impl Iterator<Item = NodeId>, one: NodeId) -> usize {
    let rack = |id| catalog.node(id).map_or("", |node| node.profile.rack.as_str());
    let own = rack(one);
    nodes.filter(|other| !own.is_empty() && rack(*other) == own).count()
}
