//! Which core to ask about a partition, as far as metadata told.

use std::collections::BTreeMap;

use catena_format::{PartitionIndex, TopicId};
use catena_wire::TopicMetadata;

/// The core that orders everything about topics; it answers for partitions that nobody told of.
pub(crate) const FIRST: u16 = 0;
/// The most topics kept in mind.
const TOPICS_MAX: usize = 1000;

/// A partition.
pub(crate) type Place = (TopicId, PartitionIndex);

#[derive(Debug)]
struct Known {
    name: String,
    /// The owner of each partition.
    cores: Vec<u16>,
    /// The server may have other cores by now.
    doubted: bool,
}

/// The owners of the partitions that a client heard of.
#[derive(Debug, Default)]
pub(crate) struct Owners(BTreeMap<TopicId, Known>);

impl Owners {
    /// The server just said so.
    pub(crate) fn remember(&mut self, topic: &TopicMetadata<'_>) {
        if self.0.len() >= TOPICS_MAX {
            self.0.clear();
        }
        let cores = topic.partitions.iter().map(|partition| partition.core).collect();
        let known = Known { name: topic.name.to_string(), cores, doubted: false };
        self.0.insert(topic.id, known);
    }

    /// The core to ask; `None`: it is about no partition.
    pub(crate) fn core(&self, place: Option<Place>) -> u16 {
        let core = place.and_then(|(topic, partition)| {
            self.0.get(&topic)?.cores.get(partition.get() as usize).copied()
        });
        core.unwrap_or(FIRST)
    }

    /// A connection was lost: all of it may have changed.
    pub(crate) fn doubt(&mut self) {
        self.0.values_mut().for_each(|known| known.doubted = true);
    }

    /// The topic to ask for before the partition is; told once for each doubt.
    pub(crate) fn take_doubt(&mut self, place: Option<Place>) -> Option<String> {
        let known = self.0.get_mut(&place?.0).filter(|known| known.doubted)?;
        known.doubted = false;
        Some(known.name.clone())
    }
}
