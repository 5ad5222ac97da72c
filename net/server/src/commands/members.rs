//! How far the members of chains are: each is asked for itself.

use std::{collections::BTreeMap, time::Duration};

use catena_client::{
    Client, ErrorCode, NodeDetail, Options, PartitionDetail,
    format::{NodeId, Offset, PartitionIndex},
};

/// How long a node may take that is asked.
const ASKED_FOR: Duration = Duration::from_secs(2);

/// What each member says of its copy of each partition; who cannot be asked is left out.
pub(super) type Members = BTreeMap<(String, PartitionIndex, NodeId), PartitionDetail>;

/// Asks the nodes that run and hold partitions.
pub(super) fn ask(nodes: &[NodeDetail<'_>], topics: &[&str], options: &Options) -> Members {
    let mut members = Members::new();
    if topics.is_empty() {
        return members;
    }
    for node in nodes.iter().filter(|node| node.up && !node.witness) {
        let server = if node.client.is_empty() { &*options.server } else { &*node.client };
        let options = Options { server: server.to_owned(), ..options.clone() };
        let mut client = Client::new(options.with_request_timeout(ASKED_FOR));
        for topic in topics {
            let Ok(described) = client.describe_topic(topic) else { break };
            let held = |detail: &PartitionDetail| {
                let within = detail.place.chain.contains(&node.node);
                detail.segments > 0 || within && detail.place.error == ErrorCode::None
            };
            let of_topic = described.partitions.into_iter().filter(held);
            members.extend(
                of_topic
                    .map(|detail| (((*topic).to_owned(), detail.place.index, node.node), detail)),
            );
        }
    }
    members
}

/// How far each of these is behind the one that is farthest, as far as that is known.
pub(super) fn lags(
    members: &Members,
    topic: &str,
    partition: PartitionIndex,
    nodes: impl Iterator<Item = NodeId>,
) -> Vec<(NodeId, u64)> {
    let known = nodes.filter_map(|node| {
        let detail = members.get(&(topic.to_owned(), partition, node))?;
        Some((node, detail.durable_end))
    });
    let known: Vec<_> = known.collect();
    let most = known.iter().map(|(_, end)| *end).max().unwrap_or(Offset::ZERO);
    known.into_iter().map(|(node, end)| (node, most.since(end))).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use catena_format::{Epoch, PartitionUid};
    use catena_wire::PartitionMetadata;

    use super::*;

    /// What a member says whose disk has so much.
    pub(crate) fn durable_to(end: u64) -> PartitionDetail {
        let place = PartitionMetadata {
            index: PartitionIndex::new(3),
            uid: PartitionUid::new(1),
            epoch: Epoch::new(1),
            core: 0,
            chain: Vec::new(),
            error: ErrorCode::None,
        };
        PartitionDetail {
            place,
            log_start: Offset::ZERO,
            high_watermark: Offset::ZERO,
            durable_end: Offset::new(end),
            log_end: Offset::new(end),
            bytes: 0,
            segments: 1,
            damaged: Vec::new(),
        }
    }
}
