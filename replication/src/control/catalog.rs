//! The state machine itself.

use std::collections::{BTreeMap, BTreeSet};

use catena_format::{
    BATCH_HEADER_BYTES, BatchHeader, Epoch, FrameHeader, Incarnation, Millis, NodeId, Offset,
    PartitionIndex, PartitionUid, ProducerEpoch, ProducerId, TopicId,
    limits::{PARTITIONS_PER_TOPIC_MAX, TOPIC_NAME_BYTES_MAX},
    planted,
    records::Records,
};

use super::config::{ConfigError, TopicConfig};
use crate::chain::{Configuration, MemberId};

mod cluster;
mod entry;
mod snapshot;
#[cfg(test)]
mod tests;

pub use self::{
    cluster::{ClusterNode, NODES_MAX, REPLICAS_MAX, TOKENS_MAX},
    entry::{ChainChange, Entry, NodeProfile, Touched, decode, encode, same_process},
};

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
/// Epochs, which the starts of a node count, too, are not counted further.
const EPOCH_MAX: Epoch = Epoch::new(Epoch::MAX.get() / 2);

/// A partition of a topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Partition {
    /// Its number.
    pub index: PartitionIndex,
    /// Its name on disk.
    pub uid: PartitionUid,
    /// Its chain.
    pub configuration: Configuration,
    /// The nodes that keep a copy: those of the chain, who joins, and who is to come back.
    pub homes: Vec<NodeId>,
    /// Nodes whose copy has failed them, each in the incarnation of which that is known.
    pub sick: Vec<MemberId>,
    /// Of those that keep a copy, who is to go.
    pub leaving: Vec<NodeId>,
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
    /// Copies that each partition is to have.
    pub replicas: u8,
    /// The settings made.
    pub config: BTreeMap<String, String>,
    /// Its partitions, in order.
    pub partitions: Vec<Partition>,
    /// The nodes on whose disk all exist that they have a part in.
    pub created: BTreeSet<NodeId>,
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
    /// No such node.
    #[error("the cluster has no node {0}")]
    UnknownNode(u64),
    /// The cluster has as many nodes as it may.
    #[error("the cluster has as many nodes as it may: {NODES_MAX}")]
    TooManyNodes,
    /// The token allows nothing, or not any more.
    #[error("the token is not known, was revoked, or is over")]
    Token,
    /// There are as many tokens as there may be.
    #[error("there are {TOKENS_MAX} tokens: revoke one, or wait until one is over")]
    TooManyTokens,
    /// The node's process is not the one that is meant, or does not run.
    #[error("node {0} does not run, or has started anew")]
    NotRunning(u64),
    /// The directory of a node that starts does not know of its last life.
    #[error("node {0} has lived since in another directory: this one is an older copy")]
    OlderDirectory(u64),
    /// The node is the only one that holds what it holds, or holds something at all.
    #[error("node {0} is needed by a partition")]
    NodeNeeded(u64),
    /// A node that runs leaves only when it is drained, and not as the last one.
    #[error("node {0} runs: it leaves when it is drained, and another one holds partitions")]
    NodeRuns(u64),
    /// A topic cannot have so many copies, or so many that it needs.
    #[error("{0} copies: a topic has 1 to 16, and needs no more than these")]
    Replicas(u8),
    /// There are fewer nodes than copies wished for.
    #[error("{wished} copies: {there} nodes can hold partitions")]
    FewerNodes {
        /// How many were asked for.
        wished: u8,
        /// How many there are.
        there: usize,
    },
    /// A chain cannot be like that.
    #[error("{0}")]
    Chain(&'static str),
    /// The chain has changed meanwhile.
    #[error("the chain is in epoch {0} by now")]
    ChainMoved(Epoch),
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
    /// The number of the node that was admitted.
    Node(NodeId),
    /// The incarnation of the node that has started.
    Started(Incarnation),
}

/// The catalog.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Catalog {
    version: u64,
    nodes: BTreeMap<NodeId, ClusterNode>,
    next_node: u64,
    /// What allows processes to become nodes, and until when.
    tokens: BTreeMap<u128, i64>,
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

impl Default for Catalog {
    fn default() -> Self {
        Self {
            version: 0,
            nodes: BTreeMap::new(),
            // The first founds the cluster, and is not admitted.
            next_node: 2,
            tokens: BTreeMap::new(),
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
                let member = self.member(NodeId::new(*node));
                let chains = vec![vec![member]; *partitions as usize];
                self.create(*id, name, config, &chains, 1);
            }
            Entry::PlaceTopic { .. }
            | Entry::TopicCreated { .. }
            | Entry::AdmitNode { .. }
            | Entry::AllowJoin { .. }
            | Entry::StartNode { .. }
            | Entry::NodeDown { .. }
            | Entry::RemoveNode { .. }
            | Entry::DrainNode { .. }
            | Entry::AcceptLoss { .. }
            | Entry::ReplicateTopic { .. }
            | Entry::ChangeChain { .. } => return self.apply_to_cluster(entry),
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
                self.check_new(*id, name, *partitions, config)
            }
            Entry::PlaceTopic { .. }
            | Entry::TopicCreated { .. }
            | Entry::AdmitNode { .. }
            | Entry::AllowJoin { .. }
            | Entry::StartNode { .. }
            | Entry::NodeDown { .. }
            | Entry::RemoveNode { .. }
            | Entry::DrainNode { .. }
            | Entry::AcceptLoss { .. }
            | Entry::ReplicateTopic { .. }
            | Entry::ChangeChain { .. } => self.check_of_cluster(entry),
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

    fn check_new(
        &self,
        id: u128,
        name: &str,
        partitions: u32,
        config: &[(String, String)],
    ) -> Result<(), CatalogError> {
        self.check_name(name)?;
        if self.topics.contains_key(&id) {
            return Err(CatalogError::TopicExists(name.to_owned()));
        }
        self.check_partitions(partitions, partitions)?;
        if self.topics.len() >= TOPICS_MAX {
            return Err(CatalogError::Full);
        }
        TopicConfig::parse(&config.iter().cloned().collect())?;
        Ok(())
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
        let id = NodeId::new(node);
        let entry = self.nodes.entry(id).or_default();
        entry.incarnation = Incarnation::new(entry.incarnation.get() + u64::from(starts));
        entry.up = true;
        let member = self.member(id);
        for partition in self.topics.values_mut().flat_map(|topic| &mut topic.partitions) {
            let Some(next) = partition.configuration.restarted(member) else { continue };
            let epoch = partition.configuration.epoch;
            let raised = if planted!(EpochNotRaised) { 0 } else { starts };
            let epoch = epoch.plus(raised).min(EPOCH_MAX);
            partition.configuration = Configuration { epoch, ..next };
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
        config: &[(String, String)],
        chains: &[Vec<MemberId>],
        min_replicas: u8,
    ) {
        let homes = chains.iter().map(|chain| chain.iter().map(|m| m.node).collect());
        let homes: Vec<Vec<NodeId>> = homes.collect();
        let topic = Topic {
            id: TopicId::new(id),
            name: name.to_owned(),
            ready: 0,
            replicas: 1,
            config: config.iter().cloned().collect(),
            partitions: self.fresh_partitions(0, chains, &homes, min_replicas),
            created: BTreeSet::new(),
        };
        self.names.insert(name.to_owned(), id);
        self.topics.insert(id, topic);
    }

    fn fresh_partitions(
        &mut self,
        from: u32,
        chains: &[Vec<MemberId>],
        homes: &[Vec<NodeId>],
        min_replicas: u8,
    ) -> Vec<Partition> {
        let first = self.next_uid;
        self.next_uid += chains.len() as u64;
        self.partitions += chains.len();
        let partition = |(at, (chain, homes)): (u32, (&Vec<MemberId>, &Vec<NodeId>))| Partition {
            index: PartitionIndex::new(from + at),
            uid: PartitionUid::new(first + u64::from(at)),
            configuration: Configuration {
                epoch: Epoch::new(1),
                chain: chain.clone(),
                joining: None,
                min_replicas,
            },
            homes: homes.clone(),
            sick: Vec::new(),
            leaving: Vec::new(),
        };
        (0..).zip(chains.iter().zip(homes)).map(partition).collect()
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

    /// Partitions that are added are kept where those before them are, in their order.
    fn grow(&mut self, id: u128, wished: u32) -> Result<(), CatalogError> {
        let topic = self.topic_mut(id)?;
        let there = topic.partition_count();
        if wished <= there {
            return Ok(());
        }
        let like = topic.partitions.iter().cycle().take((wished - there) as usize);
        let homes: Vec<Vec<NodeId>> = like.map(|partition| partition.homes.clone()).collect();
        let least = topic.partitions.iter().map(|p| p.configuration.min_replicas).max();
        topic.created.clear();
        let chains: Vec<_> = homes.iter().map(|homes| self.members_of(homes)).collect();
        let added = self.fresh_partitions(there, &chains, &homes, least.unwrap_or(1));
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
        self.nodes.get(&node).map_or(Incarnation::default(), |node| node.incarnation)
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
            let entry = decode(record.ok()?.value?)?;
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
}
