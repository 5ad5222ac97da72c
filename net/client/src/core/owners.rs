//! Which node and core to ask about a partition, as far as metadata told.

use std::{collections::BTreeMap, time::Duration};

use catena_format::{PartitionIndex, TopicId};

use super::{
    call::Told,
    lane::Lane,
    nodes::{Dial, Nodes},
};
use crate::error::Error;

/// Where what is about no partition is asked, and about those that nobody told of: any node, and
/// there the core that orders everything about topics.
pub(crate) const HOME: Lane = Lane { node: None, core: Some(0) };
/// The most topics kept in mind.
const TOPICS_MAX: usize = 1000;

/// The most connections of a client.
pub(crate) const CONNECTIONS_MAX: usize = 100;

/// A partition.
pub(crate) type Place = (TopicId, PartitionIndex);

#[derive(Debug)]
struct Known {
    name: String,
    /// The owner of each partition.
    lanes: Vec<Lane>,
    /// It may be another by now.
    doubted: bool,
}

/// The owners of the partitions that a client heard of, and where nodes are.
#[derive(Debug)]
pub(crate) struct Owners {
    nodes: Nodes,
    topics: BTreeMap<TopicId, Known>,
    /// A topic that nobody told of is not where it was asked for.
    missed: bool,
}

impl Owners {
    /// Nothing was told yet.
    pub(crate) fn new(servers: Vec<String>) -> Self {
        Self { nodes: Nodes::new(servers), topics: BTreeMap::new(), missed: false }
    }

    /// The nodes, as far as they are known.
    pub(crate) fn nodes(&self) -> Nodes {
        self.nodes.clone()
    }

    /// The server at `asked` just said so.
    pub(crate) fn learn(&mut self, told: &Told, asked: &str) {
        self.nodes.learn(&told.nodes, asked);
        for topic in &told.topics {
            if self.topics.len() >= TOPICS_MAX {
                self.topics.clear();
            }
            let lanes = topic.partitions.iter().map(Lane::of).collect();
            let known = Known { name: topic.name.to_string(), lanes, doubted: false };
            self.topics.insert(topic.id, known);
        }
    }

    /// Where to ask; `None`: it is about no partition.
    pub(crate) fn lane(&self, place: Option<Place>) -> Lane {
        let lane = place.and_then(|(topic, partition)| {
            self.topics.get(&topic)?.lanes.get(partition.get() as usize).copied()
        });
        lane.unwrap_or(HOME)
    }

    /// Where a lane's connection goes.
    pub(crate) fn dial(&mut self, lane: Lane, wait: Duration) -> Dial {
        Dial { address: self.nodes.address(lane.node), wait }
    }

    /// Whether there are several servers to ask.
    pub(crate) fn several(&self) -> bool {
        self.nodes.count() > 1
    }

    /// A connection was lost, or something is not where it was asked for: all may have changed.
    pub(crate) fn doubt(&mut self, place: Option<Place>) {
        self.missed |= place.is_some_and(|(topic, _)| !self.topics.contains_key(&topic));
        self.topics.values_mut().for_each(|known| known.doubted = true);
    }

    /// The topics to ask for before a partition is, none: all; told once for each doubt.
    pub(crate) fn take_doubt(&mut self, place: Option<Place>) -> Option<Vec<String>> {
        match self.topics.get_mut(&place?.0) {
            Some(known) => std::mem::take(&mut known.doubted).then(|| vec![known.name.clone()]),
            None => std::mem::take(&mut self.missed).then(Vec::new),
        }
    }
}

/// Whether what was asked on a connection is better asked on another.
pub(crate) fn is_left(error: &Error) -> bool {
    let broken = matches!(error, Error::Connection { .. } | Error::Protocol(_));
    broken || error.is_unreachable() || error.is_elsewhere()
}
