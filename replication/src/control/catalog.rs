//! The state machine itself.

use std::collections::{BTreeMap, BTreeSet};

use catena_format::{
    BATCH_HEADER_BYTES, BatchHeader, Epoch, FrameHeader, Incarnation, Millis, NodeId, Offset,
    PartitionIndex, PartitionUid, ProducerEpoch, ProducerId, TopicId,
    limits::{PARTITIONS_PER_TOPIC_MAX, TOPIC_NAME_BYTES_MAX},
    planted,
    records::Records,
};
use catena_log::Fold;
use rkyv::{Archive, Deserialize, Serialize, rancor, util::AlignedVec};

use super::config::{ConfigError, TopicConfig};

#[cfg(test)]
mod tests;

/// The most partitions of all topics together.
pub const PARTITIONS_MAX: usize = 100_000;
/// The most topics.
pub const TOPICS_MAX: usize = 10_000;
/// Producers whose raised epochs are remembered; beyond it the one with the least id is forgotten.
pub const RAISED_PRODUCERS_MAX: usize = 100_000;

/// Producer ids of a life begin at its start, in ms since 1970, times this, or behind those of the
/// life before, whichever is more. As no node gives so many of them, an older copy of a catalog
/// goes on behind all that were given since.
const PRODUCER_IDS_PER_MS: i64 = 1024;
/// Where a clock that is far ahead stops to count.
const PRODUCER_IDS_BEGIN_MAX: i64 = 1 << 60;

/// Of entries. Variants are added without a new one: an older build refuses those.
const ENTRY_VERSION: u8 = 1;
const SNAPSHOT_VERSION: u8 = 2;
const PREFIX_BYTES: usize = 16;

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
}

/// A partition of a topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Partition {
    /// Its number.
    pub index: PartitionIndex,
    /// Its name on disk.
    pub uid: PartitionUid,
    /// The epoch of its chain's configuration.
    pub epoch: Epoch,
    /// Its chain, head first.
    pub chain: Vec<NodeId>,
}

/// A topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Topic {
    /// Its id.
    pub id: TopicId,
    /// Its name.
    pub name: String,
    /// How many of its partitions, from the first on, exist on the disk of their nodes; the others
    /// are being created.
    pub ready: u32,
    /// The settings made.
    pub config: BTreeMap<String, String>,
    /// Its partitions, in order.
    pub partitions: Vec<Partition>,
}

/// Why an entry changes nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// The name is taken.
    #[error("a topic `{0}` exists")]
    TopicExists(String),
    /// The name is not allowed.
    #[error("`{0}` is no topic name: 1 to 249 of A-Z a-z 0-9 . _ - and not . or ..")]
    TopicName(String),
    /// No such topic.
    #[error("no such topic")]
    UnknownTopic,
    /// Too few or too many partitions.
    #[error("{0} partitions: a topic has 1 to 10000")]
    Partitions(u32),
    /// Partitions are never taken away.
    #[error("{wished} partitions: the topic has {there}, and none is ever taken away")]
    FewerPartitions {
        /// How many were asked for.
        wished: u32,
        /// How many there are.
        there: u32,
    },
    /// Partitions are added one change after the other.
    #[error("partitions of the topic are being created")]
    Creating,
    /// The catalog is full.
    #[error("there are as many topics or partitions as there may be")]
    Full,
    /// This producer id was never given.
    #[error("no producer has the id {0}")]
    UnknownProducer(i64),
    /// The producer goes on under a newer epoch already.
    #[error("the producer is fenced by epoch {0}")]
    ProducerFenced(i16),
    /// A setting is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// What an entry brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Applied {
    /// Nothing to tell.
    Done,
    /// The first of the producer ids that were reserved.
    ProducerIds(i64),
    /// The producer's id and epoch from now on.
    Producer(i64, i16),
}

/// The catalog.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Catalog {
    version: u64,
    incarnations: BTreeMap<u64, u64>,
    topics: BTreeMap<u128, Topic>,
    names: BTreeMap<String, u128>,
    next_uid: u64,
    next_producer_id: i64,
    /// The epochs of producers that were raised.
    producers: BTreeMap<i64, i16>,
    partitions: usize,
    last: Option<Result<Applied, CatalogError>>,
    /// The first batch that means nothing to this build; nothing behind it is carried out.
    unreadable: Option<Offset>,
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

/// Counters of a snapshot that are as large have not been counted to.
const COUNTED_MAX: u64 = 1 << 62;
const _: () = assert!(PRODUCER_IDS_BEGIN_MAX.cast_unsigned() * 2 < COUNTED_MAX);
/// Nor have epochs, which the starts of a node count: none is greater.
const EPOCH_MAX: Epoch = Epoch::new(Epoch::MAX.get() / 2);

impl SnapshotV2 {
    /// Whether a catalog can have come to this.
    fn is_sound(&self) -> bool {
        let names: BTreeSet<&str> = self.topics.iter().map(|t| t.name.as_str()).collect();
        let partitions = || self.topics.iter().flat_map(|t| &t.partitions);
        let uids: BTreeSet<u64> = partitions().map(|p| p.uid).collect();
        let counted = [self.version, self.next_uid, self.next_producer_id.cast_unsigned()];
        let mut counted = counted.into_iter().chain(self.incarnations.iter().map(|(_, i)| *i));
        self.topics.is_sorted_by(|a, b| a.id < b.id)
            && self.incarnations.is_sorted_by(|a, b| a.0 < b.0)
            && names.len() == self.topics.len()
            && names.iter().all(|name| name_is_good(name))
            && self.topics.len() <= TOPICS_MAX
            && uids.len() == partitions().count()
            && uids.len() <= PARTITIONS_MAX
            && self.topics.iter().all(|t| t.ready as usize <= t.partitions.len())
            && self.topics.iter().all(TopicV2::is_configured)
            && uids.last().is_none_or(|last| *last < self.next_uid)
            && partitions().all(|p| p.epoch <= EPOCH_MAX.get())
            && self.producers.is_sorted_by(|a, b| a.0 < b.0)
            && self.producers.len() <= RAISED_PRODUCERS_MAX
            && self.producers.iter().all(|p| (0..self.next_producer_id).contains(&p.0) && p.1 >= 0)
            && counted.all(|counter| counter < COUNTED_MAX)
    }
}

impl TopicV2 {
    fn is_configured(&self) -> bool {
        let config: BTreeMap<_, _> = self.config.iter().cloned().collect();
        config.len() == self.config.len() && TopicConfig::parse(&config).is_ok()
    }
}

impl Default for Catalog {
    fn default() -> Self {
        Self {
            version: 0,
            incarnations: BTreeMap::new(),
            topics: BTreeMap::new(),
            names: BTreeMap::new(),
            // Zero is the catalog's own log.
            next_uid: 1,
            next_producer_id: 0,
            producers: BTreeMap::new(),
            partitions: 0,
            last: None,
            unreadable: None,
        }
    }
}

impl Catalog {
    /// Carries an entry out. The same entries in the same order give the same catalog.
    ///
    /// # Errors
    /// The entry changes nothing but the version.
    pub fn apply(&mut self, entry: &Entry) -> Result<Applied, CatalogError> {
        self.version += 1;
        self.check(entry)?;
        match entry {
            Entry::NodeStarted { node } => self.node_started(*node, 1),
            Entry::CreateTopic { id, name, partitions, config, node } => {
                self.create(*id, name, *partitions, config, *node);
            }
            Entry::TopicReady { id } => {
                let topic = self.topic_mut(*id)?;
                topic.ready = topic.partition_count();
            }
            Entry::AlterTopic { id, set, remove } => self.topic_mut(*id)?.set(set, remove),
            Entry::ChangeTopic { id, set, remove, partitions, name } => {
                self.topic_mut(*id)?.set(set, remove);
                self.rename(*id, name)?;
                self.grow(*id, *partitions)?;
            }
            Entry::DeleteTopic { id } => {
                let topic = self.topics.remove(id).ok_or(CatalogError::UnknownTopic)?;
                self.names.remove(&topic.name);
                self.partitions -= topic.partitions.len();
                if planted!(UidsReused) {
                    self.next_uid -= topic.partitions.len() as u64;
                }
            }
            Entry::ProducerIds { count } => {
                let first = self.next_producer_id;
                self.next_producer_id += i64::from(*count);
                return Ok(Applied::ProducerIds(first));
            }
            Entry::RaiseProducer { id, epoch } => return Ok(self.raise_producer(*id, *epoch)),
        }
        Ok(Applied::Done)
    }

    /// Whether an entry could be carried out now.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, entry: &Entry) -> Result<(), CatalogError> {
        match entry {
            Entry::NodeStarted { .. } | Entry::ProducerIds { .. } => Ok(()),
            Entry::CreateTopic { id, name, partitions, config, .. } => {
                self.check_name(name)?;
                if self.topics.contains_key(id) {
                    return Err(CatalogError::TopicExists(name.clone()));
                }
                self.check_partitions(*partitions, *partitions)?;
                if self.topics.len() >= TOPICS_MAX {
                    return Err(CatalogError::Full);
                }
                TopicConfig::parse(&config.iter().cloned().collect())?;
                Ok(())
            }
            Entry::RaiseProducer { id, epoch } => {
                if !(0..self.next_producer_id).contains(id) {
                    return Err(CatalogError::UnknownProducer(*id));
                }
                match self.producers.get(id) {
                    Some(known) if epoch < known => Err(CatalogError::ProducerFenced(*known)),
                    _ => Ok(()),
                }
            }
            Entry::TopicReady { id } | Entry::DeleteTopic { id } => {
                self.topics.get(id).map(drop).ok_or(CatalogError::UnknownTopic)
            }
            Entry::AlterTopic { id, set, remove } => self.check_settings(*id, set, remove),
            Entry::ChangeTopic { id, set, remove, partitions, name } => {
                self.check_settings(*id, set, remove)?;
                let topic = self.topics.get(id).ok_or(CatalogError::UnknownTopic)?;
                if !name.is_empty() && *name != topic.name {
                    self.check_name(name)?;
                }
                self.check_growth(topic, *partitions)
            }
        }
    }

    fn check_name(&self, name: &str) -> Result<(), CatalogError> {
        if !name_is_good(name) {
            return Err(CatalogError::TopicName(name.to_owned()));
        }
        if self.names.contains_key(name) {
            return Err(CatalogError::TopicExists(name.to_owned()));
        }
        Ok(())
    }

    fn check_partitions(&self, wished: u32, added: u32) -> Result<(), CatalogError> {
        if !(1..=PARTITIONS_PER_TOPIC_MAX).contains(&wished) {
            return Err(CatalogError::Partitions(wished));
        }
        let room = PARTITIONS_MAX - self.partitions;
        if added as usize > room { Err(CatalogError::Full) } else { Ok(()) }
    }

    fn check_growth(&self, topic: &Topic, wished: u32) -> Result<(), CatalogError> {
        let there = topic.partition_count();
        if wished == 0 || wished == there {
            return Ok(());
        }
        if wished < there {
            return Err(CatalogError::FewerPartitions { wished, there });
        }
        if topic.ready < there {
            return Err(CatalogError::Creating);
        }
        self.check_partitions(wished, wished - there)
    }

    fn check_settings(
        &self,
        id: u128,
        set: &[(String, String)],
        remove: &[String],
    ) -> Result<(), CatalogError> {
        let topic = self.topics.get(&id).ok_or(CatalogError::UnknownTopic)?;
        let mut config = topic.config.clone();
        config.extend(set.iter().cloned());
        for key in remove {
            config.remove(key).ok_or_else(|| ConfigError::Unknown(key.clone()))?;
        }
        TopicConfig::parse(&config)?;
        Ok(())
    }

    /// So many starts of a node.
    fn node_started(&mut self, node: u64, starts: u32) {
        *self.incarnations.entry(node).or_insert(0) += u64::from(starts);
        let id = NodeId::new(node);
        for partition in self.topics.values_mut().flat_map(|topic| &mut topic.partitions) {
            if partition.chain.contains(&id) && !planted!(EpochNotRaised) {
                partition.epoch = partition.epoch.plus(starts).min(EPOCH_MAX);
            }
        }
    }

    /// A life writes under an epoch above those of all earlier ones, its own entry lost or not:
    /// what is missing between them are starts that nothing else tells of.
    fn make_up_starts(&mut self, node: u64, epoch: Epoch) {
        let known = self.incarnation(NodeId::new(node)).get();
        let known = u32::try_from(known).unwrap_or(u32::MAX);
        self.node_started(node, epoch.get().saturating_sub(known));
    }

    /// A life begins: the ids of its producers are behind those of earlier lives, also of those
    /// that this catalog knows nothing of.
    fn begin_producer_ids(&mut self, start: Millis) {
        if planted!(ProducerIdsReused) {
            return;
        }
        let from = start.get().saturating_mul(PRODUCER_IDS_PER_MS).min(PRODUCER_IDS_BEGIN_MAX);
        self.next_producer_id = self.next_producer_id.max(from);
    }

    fn create(
        &mut self,
        id: u128,
        name: &str,
        partitions: u32,
        config: &[(String, String)],
        node: u64,
    ) {
        let topic = Topic {
            id: TopicId::new(id),
            name: name.to_owned(),
            ready: 0,
            config: config.iter().cloned().collect(),
            partitions: self.fresh_partitions(0, partitions, &[NodeId::new(node)]),
        };
        self.names.insert(name.to_owned(), id);
        self.topics.insert(id, topic);
    }

    fn fresh_partitions(&mut self, from: u32, count: u32, chain: &[NodeId]) -> Vec<Partition> {
        let first = self.next_uid;
        self.next_uid += u64::from(count);
        self.partitions += count as usize;
        let partition = |at: u32| Partition {
            index: PartitionIndex::new(from + at),
            uid: PartitionUid::new(first + u64::from(at)),
            epoch: Epoch::new(1),
            chain: chain.to_vec(),
        };
        (0..count).map(partition).collect()
    }

    fn raise_producer(&mut self, id: i64, epoch: i16) -> Applied {
        let raised = epoch.checked_add(1);
        self.producers.insert(id, raised.unwrap_or(i16::MAX));
        if self.producers.len() > RAISED_PRODUCERS_MAX {
            self.producers.pop_first();
        }
        match raised {
            Some(epoch) => Applied::Producer(id, epoch),
            None => {
                let fresh = self.next_producer_id;
                self.next_producer_id += 1;
                Applied::Producer(fresh, 0)
            }
        }
    }

    fn rename(&mut self, id: u128, name: &str) -> Result<(), CatalogError> {
        if name.is_empty() {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.topic_mut(id)?.name, name.to_owned());
        self.names.remove(&before);
        self.names.insert(name.to_owned(), id);
        Ok(())
    }

    /// Partitions that are added have the chain of the first.
    fn grow(&mut self, id: u128, wished: u32) -> Result<(), CatalogError> {
        let topic = self.topic_mut(id)?;
        let there = topic.partition_count();
        let chain = topic.partitions.first().map(|first| first.chain.clone()).unwrap_or_default();
        let added = self.fresh_partitions(there, wished.saturating_sub(there), &chain);
        self.topic_mut(id)?.partitions.extend(added);
        Ok(())
    }

    fn topic_mut(&mut self, id: u128) -> Result<&mut Topic, CatalogError> {
        self.topics.get_mut(&id).ok_or(CatalogError::UnknownTopic)
    }

    /// A topic by id.
    #[must_use]
    pub fn topic(&self, id: TopicId) -> Option<&Topic> {
        self.topics.get(&id.get())
    }

    /// A topic by name.
    #[must_use]
    pub fn topic_named(&self, name: &str) -> Option<&Topic> {
        self.topics.get(self.names.get(name)?)
    }

    /// All topics, in the order of their ids.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.values()
    }

    /// The partition ids below this were given.
    #[must_use]
    pub fn next_uid(&self) -> PartitionUid {
        PartitionUid::new(self.next_uid)
    }

    /// Producers that were raised, and their epochs: older ones are fenced.
    pub fn raised_producers(&self) -> impl Iterator<Item = (ProducerId, ProducerEpoch)> {
        let raised = self.producers.iter();
        raised.map(|(id, epoch)| (ProducerId::new(*id), ProducerEpoch::new(*epoch)))
    }

    /// How many entries made this catalog.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How often a node has started.
    #[must_use]
    pub fn incarnation(&self, node: NodeId) -> Incarnation {
        Incarnation::new(self.incarnations.get(&node.get()).copied().unwrap_or(0))
    }

    /// Where an entry stands that this build cannot read, so that the catalog cannot be used.
    #[must_use]
    pub fn unreadable(&self) -> Option<Offset> {
        self.unreadable
    }

    fn apply_batch(&mut self, frame: &FrameHeader, batch: &[u8]) -> Option<()> {
        let header = BatchHeader::parse(batch).ok()?;
        let records = batch.get(BATCH_HEADER_BYTES..)?;
        for record in Records::new(records, header.count, header.base_timestamp) {
            let archive = record.ok()?.value.and_then(|value| archive(ENTRY_VERSION, value))?;
            let entry = rkyv::from_bytes::<Entry, rancor::Error>(&archive).ok()?;
            self.last = Some(self.apply(&entry));
            if let Entry::NodeStarted { node } = entry {
                self.make_up_starts(node, frame.epoch);
                self.begin_producer_ids(frame.append_time);
            }
        }
        Some(())
    }

    /// What the last entry that was folded in brought.
    pub(crate) fn take_last(&mut self) -> Option<Result<Applied, CatalogError>> {
        self.last.take()
    }
}

fn name_is_good(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=TOPIC_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(allowed)
        && name != "."
        && name != ".."
}

/// An entry as the value of a record.
pub(crate) fn encode(entry: &Entry) -> Vec<u8> {
    let archive = rkyv::to_bytes::<rancor::Error>(entry).expect("an entry can be archived");
    prefixed(ENTRY_VERSION, &archive)
}

fn prefixed(version: u8, archive: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; PREFIX_BYTES];
    bytes[0] = version;
    bytes.extend_from_slice(archive);
    bytes
}

fn archive(version: u8, bytes: &[u8]) -> Option<AlignedVec<16>> {
    let (prefix, archive) = bytes.split_at_checked(PREFIX_BYTES)?;
    if prefix[0] != version || prefix[1..].iter().any(|byte| *byte != 0) {
        return None;
    }
    let mut aligned = AlignedVec::with_capacity(archive.len());
    aligned.extend_from_slice(archive);
    Some(aligned)
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
        let archived = SnapshotV2 {
            version: self.version,
            incarnations: self.incarnations.iter().map(|(n, i)| (*n, *i)).collect(),
            next_uid: self.next_uid,
            next_producer_id: self.next_producer_id,
            topics: self.topics.values().map(Topic::archived).collect(),
            producers: self.producers.iter().map(|(id, epoch)| (*id, *epoch)).collect(),
        };
        let archive =
            rkyv::to_bytes::<rancor::Error>(&archived).expect("a catalog can be archived");
        prefixed(SNAPSHOT_VERSION, &archive)
    }

    fn restore(&mut self, snapshot: &[u8]) -> bool {
        self.reset();
        let read = archive(SNAPSHOT_VERSION, snapshot);
        let read = read.and_then(|a| rkyv::from_bytes::<SnapshotV2, rancor::Error>(&a).ok());
        let Some(read) = read.filter(SnapshotV2::is_sound) else { return false };
        self.version = read.version;
        self.incarnations = read.incarnations.into_iter().collect();
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

impl Topic {
    /// How many partitions it has, those that are being created included.
    #[must_use]
    pub fn partition_count(&self) -> u32 {
        u32::try_from(self.partitions.len()).expect("partitions are few")
    }

    fn set(&mut self, set: &[(String, String)], remove: &[String]) {
        self.config.extend(set.iter().cloned());
        self.config.retain(|key, _| !remove.contains(key));
    }

    fn archived(&self) -> TopicV2 {
        let partition = |p: &Partition| PartitionV2 {
            uid: p.uid.get(),
            epoch: p.epoch.get(),
            chain: p.chain.iter().map(|node| node.get()).collect(),
        };
        TopicV2 {
            id: self.id.get(),
            name: self.name.clone(),
            ready: self.ready,
            config: self.config.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
            partitions: self.partitions.iter().map(partition).collect(),
        }
    }

    fn from_archived(topic: TopicV2) -> Self {
        let partition = |(index, p): (usize, PartitionV2)| Partition {
            index: PartitionIndex::new(u32::try_from(index).expect("partitions are few")),
            uid: PartitionUid::new(p.uid),
            epoch: Epoch::new(p.epoch),
            chain: p.chain.into_iter().map(NodeId::new).collect(),
        };
        Self {
            id: TopicId::new(topic.id),
            name: topic.name,
            ready: topic.ready,
            config: topic.config.into_iter().collect(),
            partitions: topic.partitions.into_iter().enumerate().map(partition).collect(),
        }
    }
}
