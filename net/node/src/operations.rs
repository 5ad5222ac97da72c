//! What operators ask about nodes and copies, and have done with them. Of the first core.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use catena_format::NodeId;
use catena_log::{Now, io::Memory};
use catena_replication::control::{
    CatalogError, ChainChange, ClusterNode, Entry, Partition, REPLICAS_MAX, Topic, stuck,
};
use catena_wire::{
    AcceptLossRequest, DescribeClusterRequest, DescribeClusterResponse, DrainNodeRequest,
    ErrorCode, Message, MovePartitionRequest, NodeDetail, PartitionHealth, RemoveNodeRequest,
    ReplicateTopicRequest, WireError,
};

use crate::{
    node::{Caller, Node},
    topics::Proposal,
};

/// Partitions that are not as they should be, told one by one at most.
const LISTED_MAX: usize = 1000;

/// Who takes part in ordering the catalog, as the shell knows it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Quorum {
    /// Who leads; `None`: nobody, as far as is known.
    pub leader: Option<NodeId>,
    /// Who votes.
    pub voters: BTreeSet<NodeId>,
}

/// Since when nodes have been down, as this process has seen it.
#[derive(Default)]
pub(crate) struct Absent(BTreeMap<NodeId, Duration>);

impl Absent {
    /// Takes note of who runs and who does not.
    pub(crate) fn note<'n>(
        &mut self,
        nodes: impl Iterator<Item = (NodeId, &'n ClusterNode)>,
        now: Now,
    ) {
        let down: BTreeSet<_> = nodes.filter(|(_, node)| !node.up).map(|(id, _)| id).collect();
        self.0.retain(|id, _| down.contains(id));
        for id in down {
            self.0.entry(id).or_insert(now.monotonic);
        }
    }

    /// Who has been down for so long.
    pub(crate) fn longer_than(&self, time: Duration, now: Now) -> BTreeSet<NodeId> {
        let long = self.0.iter().filter(|(_, since)| now.monotonic.saturating_sub(**since) >= time);
        long.map(|(id, _)| *id).collect()
    }
}

impl<M: Memory + Clone> Node<M> {
    /// Takes note of who orders the catalog.
    pub fn on_quorum(&mut self, quorum: Quorum) {
        if let Some(follower) = &mut self.follower {
            follower.quorum = quorum;
        }
    }

    /// Nodes that have been down for so long that others are to keep what they kept.
    pub(crate) fn gone(&self, now: Now) -> BTreeSet<NodeId> {
        let follower = self.follower.as_ref();
        let gone = follower.map(|f| f.absent.longer_than(self.limits.replace_after, now));
        gone.unwrap_or_default()
    }

    pub(crate) fn describe_cluster(
        &mut self,
        caller: Caller,
        head: &[u8],
        now: Now,
    ) -> Result<(), WireError> {
        let DescribeClusterRequest {} = DescribeClusterRequest::decode(head)?;
        let catalog = self.catalog();
        let own = self.identity.node;
        let alone = || Quorum { leader: Some(own), voters: BTreeSet::from([own]) };
        let quorum = self.follower.as_ref().map_or_else(alone, |f| f.quorum.clone());
        let (mut copies, mut heads) = (BTreeMap::<_, u32>::new(), BTreeMap::<_, u32>::new());
        let (mut partitions, mut impaired, mut listed) = (0, 0, Vec::new());
        for topic in catalog.topics() {
            for partition in &topic.partitions {
                partitions += 1;
                for home in &partition.homes {
                    *copies.entry(*home).or_default() += 1;
                }
                *heads.entry(partition.configuration.chain[0].node).or_default() += 1;
                let health = self.health(topic, partition);
                let Some(health) = health else { continue };
                impaired += 1;
                if listed.len() < LISTED_MAX {
                    listed.push(health);
                }
            }
        }
        let stuck = stuck(catalog, &self.gone(now));
        let count = |of: &BTreeMap<NodeId, u32>, id| of.get(&id).copied().unwrap_or(0);
        let detail = |(id, node): (NodeId, &ClusterNode)| NodeDetail {
            partitions: count(&copies, id),
            heads: count(&heads, id),
            stuck: stuck.get(&id).map_or(0, |n| u32::try_from(*n).unwrap_or(u32::MAX)),
            votes: quorum.voters.contains(&id),
            ..detail(id, node)
        };
        let response = DescribeClusterResponse {
            error: ErrorCode::None,
            version: catalog.version(),
            leads: quorum.leader.unwrap_or_default(),
            nodes: catalog.nodes().map(detail).collect(),
            partitions,
            impaired,
            listed,
            message: "".into(),
        };
        self.answer(caller, &response);
        Ok(())
    }

    /// What is not as it should be with a partition, if anything is.
    fn health(&self, topic: &Topic, partition: &Partition) -> Option<PartitionHealth<'static>> {
        let (catalog, configuration) = (self.catalog(), &partition.configuration);
        let members = configuration.chain.iter();
        let chain: Vec<_> = members.clone().map(|member| member.node).collect();
        let running = members.filter(|member| self.follower.is_none() || catalog.runs(**member));
        let running: Vec<_> = running.map(|member| member.node).collect();
        let sick = partition.sick.iter().filter(|member| catalog.runs(**member));
        let sick: Vec<_> = sick.map(|member| member.node).collect();
        let joining: Vec<_> = configuration.joining.iter().map(|member| member.node).collect();
        let whole = running.len() >= usize::from(topic.replicas) && running.len() == chain.len();
        let is_well = whole && sick.is_empty() && joining.is_empty();
        (!is_well).then(|| PartitionHealth {
            topic: topic.name.clone().into(),
            partition: partition.index,
            replicas: topic.replicas,
            min_replicas: configuration.min_replicas,
            chain,
            running,
            joining,
            sick,
        })
    }

    pub(crate) fn remove_node(
        &mut self,
        caller: Caller,
        head: &[u8],
        now: Now,
    ) -> Result<(), WireError> {
        let RemoveNodeRequest { node } = RemoveNodeRequest::decode(head)?;
        self.operate(caller, &[node], &Entry::RemoveNode { node: node.get() }, now);
        Ok(())
    }

    pub(crate) fn drain_node(
        &mut self,
        caller: Caller,
        head: &[u8],
        now: Now,
    ) -> Result<(), WireError> {
        let DrainNodeRequest { node, drain } = DrainNodeRequest::decode(head)?;
        self.operate(caller, &[node], &Entry::DrainNode { node: node.get(), drain }, now);
        Ok(())
    }

    pub(crate) fn replicate_topic(
        &mut self,
        caller: Caller,
        head: &[u8],
        now: Now,
    ) -> Result<(), WireError> {
        let request = ReplicateTopicRequest::decode(head)?;
        let Some(id) = self.topic_id(caller, &request.name) else { return Ok(()) };
        let Some(topic) = self.catalog().topic(id) else { return Ok(()) };
        let least = topic.partitions.iter().map(|p| p.configuration.min_replicas).max();
        let replicas = if request.replicas == 0 { topic.replicas } else { request.replicas };
        let min_replicas = match request.min_replicas {
            0 => least.unwrap_or(1).min(replicas.clamp(1, REPLICAS_MAX)),
            wished => wished,
        };
        let entry = Entry::ReplicateTopic { id: id.get(), replicas, min_replicas };
        self.operate(caller, &[], &entry, now);
        Ok(())
    }

    pub(crate) fn move_partition(
        &mut self,
        caller: Caller,
        head: &[u8],
        now: Now,
    ) -> Result<(), WireError> {
        let MovePartitionRequest { name, partition, from, to } =
            MovePartitionRequest::decode(head)?;
        let Some(id) = self.topic_id(caller, &name) else { return Ok(()) };
        let topic = self.catalog().topic(id);
        let known = topic.and_then(|topic| topic.partitions.get(partition.get() as usize));
        let Some(known) = known else {
            self.refuse(caller, ErrorCode::UnknownPartition, "the topic has no such partition");
            return Ok(());
        };
        let entry = Entry::ChangeChain {
            topic: id.get(),
            partition: partition.get(),
            epoch: known.configuration.epoch.get(),
            change: ChainChange::Move(from.get(), to.get()),
        };
        self.operate(caller, &[from, to], &entry, now);
        Ok(())
    }

    pub(crate) fn accept_loss(
        &mut self,
        caller: Caller,
        head: &[u8],
        now: Now,
    ) -> Result<(), WireError> {
        let AcceptLossRequest { node, lost } = AcceptLossRequest::decode(head)?;
        let named: Vec<_> = lost.iter().copied().chain([node]).collect();
        let lost = lost.iter().map(|lost| lost.get()).collect();
        self.operate(caller, &named, &Entry::AcceptLoss { node: node.get(), lost }, now);
        Ok(())
    }

    /// Has an entry ordered that is about nodes; the caller hears of it.
    pub(crate) fn operate(&mut self, caller: Caller, nodes: &[NodeId], entry: &Entry, now: Now) {
        if self.follower.is_none() {
            let text = "the node is alone: it takes others when it listens for them (listen.peer)";
            return self.refuse(caller, ErrorCode::InvalidRequest, text);
        }
        if let Some(id) = nodes.iter().find(|id| self.catalog().node(**id).is_none()) {
            let text = format!("the cluster has no node {id}");
            return self.refuse(caller, ErrorCode::NoSuchNode, &text);
        }
        if self.checked(caller, &[], entry, false) {
            self.propose(caller, Proposal::Operation, entry, now);
        }
    }
}

/// A node by what the catalog says of it alone.
fn detail(id: NodeId, node: &ClusterNode) -> NodeDetail<'static> {
    let ClusterNode { incarnation, up, draining, profile, .. } = node.clone();
    NodeDetail {
        node: id,
        incarnation,
        up,
        draining,
        witness: profile.witness,
        votes: false,
        client: profile.client.into(),
        peer: profile.peer.into(),
        rack: profile.rack.into(),
        cores: profile.cores,
        partitions: 0,
        heads: 0,
        stuck: 0,
    }
}

/// What a change is refused with that the catalog does not take.
pub(crate) fn catalog_code(error: &CatalogError) -> ErrorCode {
    match error {
        CatalogError::TopicExists(_) => ErrorCode::TopicExists,
        CatalogError::TopicName(_) => ErrorCode::TopicName,
        CatalogError::UnknownTopic => ErrorCode::UnknownTopic,
        CatalogError::Partitions(_) | CatalogError::FewerPartitions { .. } => {
            ErrorCode::InvalidPartitions
        }
        CatalogError::Creating => ErrorCode::Starting,
        CatalogError::UnknownProducer(_) => ErrorCode::UnknownProducer,
        CatalogError::ProducerFenced(_) => ErrorCode::ProducerFenced,
        CatalogError::Full => ErrorCode::PartitionsLimit,
        CatalogError::Config(_) => ErrorCode::BadConfig,
        // The nodes have changed since it was thought of.
        CatalogError::UnknownNode(_) | CatalogError::NotRunning(_) => ErrorCode::NotEnoughReplicas,
        CatalogError::NodeNeeded(_) | CatalogError::NodeRuns(_) => ErrorCode::NodeNeeded,
        CatalogError::Replicas(_) | CatalogError::FewerNodes { .. } => ErrorCode::InvalidReplicas,
        CatalogError::Chain(_) => ErrorCode::InvalidRequest,
        CatalogError::ChainMoved(_) => ErrorCode::Fenced,
        CatalogError::Token => ErrorCode::NotAuthorized,
        CatalogError::TooManyTokens | CatalogError::TooManyNodes => ErrorCode::NodesLimit,
        _ => ErrorCode::Internal,
    }
}
