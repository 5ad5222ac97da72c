//! Nodes of the cluster, and where copies are.

use std::borrow::Cow;

use catena_format::{Incarnation, NodeId, PartitionIndex};

use crate::{codec::wire_struct, error::ErrorCode};

wire_struct! {
    /// Ask for the nodes of the cluster, and for what is not as it should be.
    message DescribeClusterRequest {}
}

wire_struct! {
    /// A node of the cluster.
    part NodeDetail<'a> {
        /// The node.
        node: NodeId,
        /// How often it has started.
        incarnation: Incarnation,
        /// Its process runs, as far as is known.
        up: bool,
        /// It is to hold nothing any more.
        draining: bool,
        /// It votes and holds no partition.
        witness: bool,
        /// It votes on what is ordered.
        votes: bool,
        /// Host and port for clients.
        client: Cow<'a, str>,
        /// Host and port for other nodes.
        peer: Cow<'a, str>,
        /// What it shares with the nodes that fail with it.
        rack: Cow<'a, str>,
        /// How many cores it serves with.
        cores: u16,
        /// Partitions that it keeps a copy of.
        partitions: u32,
        /// Partitions of whose chain it is the head.
        heads: u32,
        /// Of a node that is drained: partitions that stay, for want of other nodes.
        stuck: u32,
    }
}

wire_struct! {
    /// A partition whose chain is not as it should be.
    part PartitionHealth<'a> {
        /// The topic.
        topic: Cow<'a, str>,
        /// The partition.
        partition: PartitionIndex,
        /// Copies that it should have.
        replicas: u8,
        /// A shorter chain takes nothing.
        min_replicas: u8,
        /// Its chain, head first.
        chain: Vec<NodeId>,
        /// Of these, those whose process runs.
        running: Vec<NodeId>,
        /// Who copies, to become the tail; one at most.
        joining: Vec<NodeId>,
        /// Nodes whose copy has failed them in their present life.
        sick: Vec<NodeId>,
    }
}

wire_struct! {
    /// The nodes of the cluster, and what is not as it should be.
    message DescribeClusterResponse<'a> {
        /// Why there is nothing.
        error: ErrorCode,
        /// The version of the catalog.
        version: u64,
        /// Who orders the catalog; zero: nobody, as far as is known.
        leads: NodeId,
        /// All nodes, by number.
        nodes: Vec<NodeDetail<'a>>,
        /// How many partitions there are.
        partitions: u32,
        /// How many of them are not as they should be.
        impaired: u32,
        /// The first 1,000 of these.
        listed: Vec<PartitionHealth<'a>>,
        ; tail
        1 =>
            /// A sentence for a person.
            message: Cow<'a, str>,
    }
}

wire_struct! {
    /// A node leaves the cluster for ever. The answer is a [`crate::StatusResponse`].
    message RemoveNodeRequest {
        /// The node.
        node: NodeId,
    }
}

wire_struct! {
    /// A node is to hold nothing any more, or may again. The answer is a
    /// [`crate::StatusResponse`].
    message DrainNodeRequest {
        /// The node.
        node: NodeId,
        /// It is to hold nothing; otherwise it may again.
        drain: bool,
    }
}

wire_struct! {
    /// A topic is to have another number of copies. The answer is a [`crate::StatusResponse`].
    message ReplicateTopicRequest<'a> {
        /// Its name.
        name: Cow<'a, str>,
        /// Copies of each partition; zero: as many as before.
        replicas: u8,
        /// A shorter chain takes nothing; zero: as before, or all copies where there are fewer.
        min_replicas: u8,
    }
}

wire_struct! {
    /// A partition's copy goes from a node to another. The answer is a
    /// [`crate::StatusResponse`].
    message MovePartitionRequest<'a> {
        /// The topic's name.
        name: Cow<'a, str>,
        /// The partition.
        partition: PartitionIndex,
        /// Who keeps the copy.
        from: NodeId,
        /// Who is to.
        to: NodeId,
    }
}

wire_struct! {
    /// Each partition whose chain has lost nodes only, and that has a copy on this node, goes on
    /// with that copy; what it lacks is lost. The answer is a [`crate::StatusResponse`].
    message AcceptLossRequest {
        /// The node; it runs.
        node: NodeId,
        /// The nodes that are lost for good; none of them runs.
        lost: Vec<NodeId>,
    }
}

impl<'a> DescribeClusterResponse<'a> {
    /// An answer without a description.
    #[must_use]
    pub fn refused(error: ErrorCode, message: impl Into<Cow<'a, str>>) -> Self {
        Self {
            error,
            version: 0,
            leads: NodeId::default(),
            nodes: Vec::new(),
            partitions: 0,
            impaired: 0,
            listed: Vec::new(),
            message: message.into(),
        }
    }
}
