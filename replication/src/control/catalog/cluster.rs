//! Nodes, and the chains that they are in.

use std::collections::BTreeSet;

use catena_format::{Epoch, Incarnation, NodeId, TopicId};

use super::{
    Applied, Catalog, CatalogError, Partition, Topic,
    entry::{ChainChange, Entry, NodeProfile, same_process},
};
use crate::chain::{Configuration, MemberId};

/// The most nodes of a cluster.
pub const NODES_MAX: usize = 255;
/// The most nodes of a chain.
pub const REPLICAS_MAX: u8 = 16;

/// The most tokens that are valid at a time.
pub const TOKENS_MAX: usize = 100;

/// A node, as its cluster knows it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClusterNode {
    /// How often it has started.
    pub incarnation: Incarnation,
    /// Names its present process; zero: that of a node that is alone.
    pub life: u64,
    /// Its process runs, as far as anybody has said.
    pub up: bool,
    /// It is to hold nothing any more.
    pub draining: bool,
    /// What it is, and where.
    pub profile: NodeProfile,
}

impl ClusterNode {
    /// Whether it may be given partitions, as far as nothing but its process is in the way.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.profile.witness && !self.draining
    }
}

impl Catalog {
    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &ClusterNode)> {
        self.nodes.iter().map(|(id, node)| (*id, node))
    }

    /// A node.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&ClusterNode> {
        self.nodes.get(&id)
    }

    /// A node in its present life.
    #[must_use]
    pub fn member(&self, node: NodeId) -> MemberId {
        MemberId { node, incarnation: self.incarnation(node) }
    }

    /// Whether a node runs, and is in this life.
    #[must_use]
    pub fn runs(&self, member: MemberId) -> bool {
        let node = self.nodes.get(&member.node);
        node.is_some_and(|node| node.up && node.incarnation == member.incarnation)
    }

    /// The node that was alone founds a cluster, in the life that it is in.
    pub fn found(&mut self, node: NodeId, life: u64, profile: NodeProfile) {
        let known = self.nodes.entry(node).or_default();
        (known.life, known.up, known.profile) = (life, true, profile);
        self.next_node = self.next_node.max(node.get() + 1);
    }

    pub(super) fn apply_to_cluster(&mut self, entry: &Entry) -> Result<Applied, CatalogError> {
        match entry {
            Entry::PlaceTopic { id, name, config, nodes, replicas, min_replicas, .. } => {
                let homes: Vec<Vec<NodeId>> = chains_of(nodes, *replicas).collect();
                let chains: Vec<_> = homes.iter().map(|homes| self.members_of(homes)).collect();
                self.create(*id, name, config, &chains, *min_replicas);
                let topic = self.topic_mut(*id)?;
                topic.replicas = *replicas;
                for (partition, homes) in topic.partitions.iter_mut().zip(homes) {
                    partition.homes = homes;
                }
            }
            Entry::TopicCreated { id, node, partitions } => {
                let topic = self.topic_mut(*id)?;
                if topic.partition_count() == *partitions {
                    topic.created.insert(NodeId::new(*node));
                    topic.settle_ready();
                }
            }
            Entry::AdmitNode { life, profile, .. } => return Ok(self.admit(*life, profile)),
            Entry::AllowJoin { token, time, until } => {
                self.tokens.retain(|_, until| *until > *time);
                self.tokens.remove(token);
                if until > time {
                    self.tokens.insert(*token, *until);
                }
            }
            Entry::StartNode { node, life, profile, .. } => {
                return Ok(self.start(NodeId::new(*node), *life, profile));
            }
            Entry::NodeDown { node, .. } => self.down(NodeId::new(*node)),
            Entry::RemoveNode { node } => self.remove(NodeId::new(*node)),
            Entry::DrainNode { node, drain } => {
                if let Some(node) = self.nodes.get_mut(&NodeId::new(*node)) {
                    node.draining = *drain;
                }
            }
            Entry::ReplicateTopic { id, replicas, min_replicas } => {
                self.topic_mut(*id)?.replicate(*replicas, *min_replicas);
            }
            Entry::AcceptLoss { node, lost } => self.accept_loss(NodeId::new(*node), lost),
            Entry::ChangeChain { topic, partition, epoch, change } => {
                let next = self.next_chain(*topic, *partition, *epoch, change)?;
                let topic = self.topic_mut(*topic)?;
                if let Some(partition) = topic.partitions.get_mut(*partition as usize) {
                    *partition = next;
                }
                topic.settle_ready();
            }
            _ => {}
        }
        Ok(Applied::Done)
    }

    pub(super) fn check_of_cluster(&self, entry: &Entry) -> Result<(), CatalogError> {
        match entry {
            Entry::PlaceTopic { id, name, config, partitions, .. } => {
                self.check_new(*id, name, *partitions, config)?;
                self.check_places(entry)
            }
            Entry::TopicCreated { id, .. } => {
                self.topics.get(id).map(drop).ok_or(CatalogError::UnknownTopic)
            }
            Entry::AdmitNode { token, time, life, .. } => {
                let known = self.nodes.values().any(|node| node.life == *life);
                let allowed = self.tokens.get(token).is_some_and(|until| until > time);
                let room = self.nodes.len() < NODES_MAX;
                match (known, allowed, room) {
                    (true, ..) | (_, true, true) => Ok(()),
                    (_, true, false) => Err(CatalogError::TooManyNodes),
                    (_, false, _) => Err(CatalogError::Token),
                }
            }
            Entry::AllowJoin { token, time, until } => {
                let others = self.tokens.iter().filter(|(t, until)| *t != token && *until > time);
                let room = until <= time || others.count() < TOKENS_MAX;
                room.then_some(()).ok_or(CatalogError::TooManyTokens)
            }
            Entry::StartNode { node, life, known, .. } => {
                let last = self.known(*node)?.life;
                let mut known = known.iter().chain([life]);
                let is_known = known.any(|life| same_process(last, *life));
                is_known.then_some(()).ok_or(CatalogError::OlderDirectory(*node))
            }
            Entry::NodeDown { node, incarnation } => {
                let known = self.known(*node)?;
                let same = known.up && known.incarnation.get() == *incarnation;
                same.then_some(()).ok_or(CatalogError::NotRunning(*node))
            }
            Entry::RemoveNode { node } => self.check_removal(*node),
            Entry::DrainNode { node, .. } => self.known(*node).map(drop),
            Entry::AcceptLoss { node, lost } => self.check_loss(NodeId::new(*node), lost),
            Entry::ReplicateTopic { id, replicas, min_replicas } => {
                self.topics.get(id).ok_or(CatalogError::UnknownTopic)?;
                if !(1..=REPLICAS_MAX).contains(replicas) || !(1..=*replicas).contains(min_replicas)
                {
                    return Err(CatalogError::Replicas(*replicas));
                }
                let there = self.nodes.values().filter(|node| node.holds()).count();
                let (wished, enough) = (*replicas, usize::from(*replicas) <= there);
                enough.then_some(()).ok_or(CatalogError::FewerNodes { wished, there })
            }
            Entry::ChangeChain { topic, partition, epoch, change } => {
                self.next_chain(*topic, *partition, *epoch, change).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Who runs leaves when it holds nothing; who does not, when no chain waits for it.
    fn check_removal(&self, node: u64) -> Result<(), CatalogError> {
        let (known, id) = (self.known(node)?, NodeId::new(node));
        let others = self.nodes.iter().any(|(other, node)| *other != id && node.holds());
        if !others || (known.up && !known.draining) {
            return Err(CatalogError::NodeRuns(node));
        }
        let mut partitions = self.topics.values().flat_map(|topic| &topic.partitions);
        let needs = |partition: &Partition| {
            let configuration = &partition.configuration;
            let mut members = configuration.chain.iter().chain(&configuration.joining);
            members.any(|member| member.node == id) || (known.up && partition.homes.contains(&id))
        };
        if partitions.any(needs) { Err(CatalogError::NodeNeeded(node)) } else { Ok(()) }
    }

    fn check_loss(&self, id: NodeId, lost: &[u64]) -> Result<(), CatalogError> {
        self.known(id.get())?;
        for node in lost {
            if self.known(*node)?.up {
                return Err(CatalogError::Chain("a node that runs is not lost"));
            }
        }
        let mut partitions = self.topics.values().flat_map(|topic| &topic.partitions);
        let some = partitions.any(|partition| self.is_left_to(partition, id, lost));
        let text =
            "no partition whose chain has lost all its nodes has a copy there that can be used";
        some.then_some(()).ok_or(CatalogError::Chain(text))
    }

    /// Whether all members of a partition are lost, and there is a copy on this node, that runs.
    fn is_left_to(&self, partition: &Partition, id: NodeId, lost: &[u64]) -> bool {
        let mut chain = partition.configuration.chain.iter();
        let copy = self.member(id);
        partition.homes.contains(&id)
            && !partition.sick.contains(&copy)
            && self.runs(copy)
            && chain.all(|member| lost.contains(&member.node.get()) && !self.runs(*member))
    }

    /// What the copy on this node lacks is lost, where nobody else has it but who is lost.
    fn accept_loss(&mut self, id: NodeId, lost: &[u64]) {
        let copy = self.member(id);
        let mut topics = std::mem::take(&mut self.topics);
        for topic in topics.values_mut() {
            for partition in &mut topic.partitions {
                if self.is_left_to(partition, id, lost) {
                    let Configuration { epoch, min_replicas, .. } = partition.configuration;
                    let alone = Configuration::alone(epoch.plus(1), copy);
                    partition.configuration = Configuration { min_replicas, ..alone };
                }
            }
            topic.settle_ready();
        }
        self.topics = topics;
    }

    /// A node is none any more.
    fn remove(&mut self, id: NodeId) {
        self.nodes.remove(&id);
        for topic in self.topics.values_mut() {
            topic.created.remove(&id);
            topic.partitions.iter_mut().for_each(|partition| partition.forget(id));
        }
    }

    fn known(&self, node: u64) -> Result<&ClusterNode, CatalogError> {
        self.nodes.get(&NodeId::new(node)).ok_or(CatalogError::UnknownNode(node))
    }

    /// Whether the chains of a new topic can be.
    fn check_places(&self, entry: &Entry) -> Result<(), CatalogError> {
        let Entry::PlaceTopic { nodes, partitions, replicas, min_replicas, .. } = entry else {
            return Ok(());
        };
        if !(1..=REPLICAS_MAX).contains(replicas) || !(1..=*replicas).contains(min_replicas) {
            return Err(CatalogError::Chain("a chain has 1 to 16 nodes, and needs no more"));
        }
        if nodes.len() as u64 != u64::from(*partitions) * u64::from(*replicas) {
            return Err(CatalogError::Chain("each partition needs a chain"));
        }
        for node in nodes.iter().collect::<BTreeSet<_>>() {
            if self.known(*node)?.profile.witness {
                return Err(CatalogError::Chain("a witness holds no partition"));
            }
        }
        for homes in chains_of(nodes, *replicas) {
            if homes.iter().collect::<BTreeSet<_>>().len() != homes.len() {
                return Err(CatalogError::Chain("a node stands in a chain once"));
            }
            if !homes.iter().any(|node| self.runs(self.member(*node))) {
                return Err(CatalogError::NotRunning(homes[0].get()));
            }
        }
        Ok(())
    }

    /// Those that run, in their present lives; all, if none does.
    pub(super) fn members_of(&self, nodes: &[NodeId]) -> Vec<MemberId> {
        let members = nodes.iter().map(|node| self.member(*node));
        let running: Vec<_> = members.clone().filter(|member| self.runs(*member)).collect();
        if running.is_empty() { members.collect() } else { running }
    }

    fn admit(&mut self, life: u64, profile: &NodeProfile) -> Applied {
        if let Some((id, _)) = self.nodes.iter().find(|(_, node)| node.life == life) {
            return Applied::Node(*id);
        }
        let id = NodeId::new(self.next_node);
        self.next_node += 1;
        let node = ClusterNode { life, profile: profile.clone(), ..ClusterNode::default() };
        self.nodes.insert(id, node);
        Applied::Node(id)
    }

    fn start(&mut self, id: NodeId, life: u64, profile: &NodeProfile) -> Applied {
        let Some(node) = self.nodes.get_mut(&id) else { return Applied::Done };
        let begun = node.life == life && node.incarnation > Incarnation::default();
        (node.life, node.up, node.profile) = (life, true, profile.clone());
        if !begun {
            self.node_started(id.get(), 1);
        }
        Applied::Started(self.incarnation(id))
    }

    /// A process is gone: who copied stops, and chains go on without it, unless it is the last of
    /// one that runs, or none does: who comes back then must hold all that was acknowledged.
    fn down(&mut self, id: NodeId) {
        let gone = self.member(id);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.up = false;
        }
        let running = self.nodes.iter().filter(|(_, node)| node.up);
        let running: BTreeSet<_> = running
            .map(|(id, node)| MemberId { node: *id, incarnation: node.incarnation })
            .collect();
        for topic in self.topics.values_mut() {
            for partition in &mut topic.partitions {
                if let Some(next) = without(&partition.configuration, gone, &running) {
                    partition.configuration = next;
                }
            }
            topic.settle_ready();
        }
    }

    fn next_chain(
        &self,
        topic: u128,
        partition: u32,
        epoch: u32,
        change: &ChainChange,
    ) -> Result<Partition, CatalogError> {
        let topic = self.topic(TopicId::new(topic)).ok_or(CatalogError::UnknownTopic)?;
        let partition =
            topic.partitions.get(partition as usize).ok_or(CatalogError::UnknownTopic)?;
        let mut partition = partition.clone();
        let configuration = partition.configuration.clone();
        if configuration.epoch != Epoch::new(epoch) {
            return Err(CatalogError::ChainMoved(configuration.epoch));
        }
        let next = match change {
            ChainChange::Join(node) => self.begun(&mut partition, *node)?,
            ChainChange::Ready(node, incarnation) => {
                let incarnation = Incarnation::new(*incarnation);
                let joiner = MemberId { node: NodeId::new(*node), incarnation };
                configuration.joined(configuration.epoch, joiner)
            }
            ChainChange::Remove(node) => {
                let id = NodeId::new(*node);
                let next = self.removed(&configuration, id)?;
                partition.forget(id);
                next
            }
            ChainChange::Move(from, to) => self.moved(&mut partition, *from, *to)?,
            ChainChange::Leave(node, incarnation) => {
                let incarnation = Incarnation::new(*incarnation);
                let member = MemberId { node: NodeId::new(*node), incarnation };
                let there = configuration.chain.iter().chain(&configuration.joining);
                if !there.clone().any(|other| *other == member) {
                    return Err(CatalogError::NotRunning(*node));
                }
                partition.sick.retain(|other| other.node != member.node);
                partition.sick.push(member);
                self.removed(&configuration, member.node)?
            }
            ChainChange::Evict(node, incarnation) => {
                let incarnation = Incarnation::new(*incarnation);
                let member = MemberId { node: NodeId::new(*node), incarnation };
                self.evicted(&configuration, member)?
            }
            ChainChange::Close(node, incarnation) => {
                let incarnation = Incarnation::new(*incarnation);
                let joiner = MemberId { node: NodeId::new(*node), incarnation };
                let there = configuration.joining == Some(joiner);
                Some(configuration).filter(|_| there)
            }
            ChainChange::Reorder(nodes) => {
                let chain = nodes.iter().map(|node| self.member(NodeId::new(*node))).collect();
                configuration.reordered(chain)
            }
        };
        let next = next.ok_or(CatalogError::Chain("the chain allows no such change"))?;
        partition.configuration = next;
        Ok(partition)
    }

    /// With a node that runs and begins to copy, if the chain has room for it.
    fn begun(
        &self,
        partition: &mut Partition,
        node: u64,
    ) -> Result<Option<Configuration>, CatalogError> {
        let known = self.known(node)?;
        let joiner = self.member(NodeId::new(node));
        if known.profile.witness || !self.runs(joiner) {
            return Err(CatalogError::NotRunning(node));
        }
        let Partition { configuration, homes, sick, .. } = partition;
        if !homes.contains(&joiner.node) {
            homes.push(joiner.node);
        }
        sick.retain(|member| member.node != joiner.node);
        let room = configuration.chain.len() < usize::from(REPLICAS_MAX);
        Ok(configuration.with_joining(joiner).filter(|_| room))
    }

    /// With one node that is to keep a copy, and another that is not to.
    fn moved(
        &self,
        partition: &mut Partition,
        from: u64,
        to: u64,
    ) -> Result<Option<Configuration>, CatalogError> {
        let (from, to) = (NodeId::new(from), NodeId::new(to));
        let holds = self.known(to.get())?.holds();
        let Partition { configuration, homes, leaving, .. } = partition;
        let there = homes.contains(&from) && !leaving.contains(&from);
        if !there || !holds || homes.contains(&to) || homes.len() >= NODES_MAX {
            let text = "a copy goes from a node that keeps one to another that may";
            return Err(CatalogError::Chain(text));
        }
        homes.push(to);
        leaving.push(from);
        Ok(Some(configuration.restated()))
    }

    /// Without a member that holds the others up, or a joiner that comes no closer. A chain that
    /// takes nothing without it waits for it.
    fn evicted(
        &self,
        configuration: &Configuration,
        member: MemberId,
    ) -> Result<Option<Configuration>, CatalogError> {
        if configuration.joining == Some(member) {
            return Ok(configuration.without(member.node));
        }
        let left = configuration.chain.iter().filter(|other| **other != member);
        let left = left.filter(|other| self.runs(**other)).count();
        if left < usize::from(configuration.min_replicas).max(1) {
            return Err(CatalogError::NodeNeeded(member.node.get()));
        }
        Ok(configuration.without(member.node).filter(|_| configuration.chain.contains(&member)))
    }

    /// Without a node that is to hold no copy any more.
    fn removed(
        &self,
        configuration: &Configuration,
        node: NodeId,
    ) -> Result<Option<Configuration>, CatalogError> {
        let mut chain = configuration.chain.iter();
        let in_chain = chain.clone().any(|member| member.node == node);
        if in_chain && !chain.any(|other| other.node != node && self.runs(*other)) {
            return Err(CatalogError::NodeNeeded(node.get()));
        }
        // Of one that is only waited for the list of homes changes: what was thought of before
        // that is over all the same.
        let same = || configuration.restated();
        Ok(configuration.without(node).or_else(|| Some(same())))
    }
}

fn chains_of(nodes: &[u64], replicas: u8) -> impl Iterator<Item = Vec<NodeId>> {
    let chains = nodes.chunks(usize::from(replicas).max(1));
    chains.map(|chain| chain.iter().map(|node| NodeId::new(*node)).collect())
}

/// The chain without somebody who is gone, if it can go on.
fn without(
    configuration: &Configuration,
    gone: MemberId,
    running: &BTreeSet<MemberId>,
) -> Option<Configuration> {
    let copies = configuration.joining == Some(gone);
    let in_chain = configuration.chain.contains(&gone);
    let others = configuration.chain.iter().any(|m| *m != gone && running.contains(m));
    if copies || (in_chain && others) { configuration.without(gone.node) } else { None }
}

impl Partition {
    /// A node keeps no copy any more.
    fn forget(&mut self, id: NodeId) {
        self.homes.retain(|home| *home != id);
        self.leaving.retain(|home| *home != id);
        self.sick.retain(|member| member.node != id);
    }
}

impl Topic {
    /// Another number of copies: chains follow, but need so many members at once.
    fn replicate(&mut self, replicas: u8, min_replicas: u8) {
        self.replicas = replicas;
        for Partition { configuration, .. } in &mut self.partitions {
            if configuration.min_replicas != min_replicas {
                *configuration = Configuration { min_replicas, ..configuration.restated() };
            }
        }
    }

    /// Partitions that all members of their chains have created exist.
    pub(super) fn settle_ready(&mut self) {
        let fresh = self.partitions.iter().skip(self.ready as usize);
        let mut members = fresh.flat_map(|partition| &partition.configuration.chain);
        if members.all(|member| self.created.contains(&member.node)) {
            self.ready = self.partition_count();
            self.created.clear();
        }
    }
}
