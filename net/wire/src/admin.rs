//! Topics, their metadata, producer ids.

use std::borrow::Cow;

use catena_format::{
    Epoch, JoinToken, NodeId, Offset, PartitionIndex, PartitionUid, ProducerEpoch, ProducerId,
    TopicId,
};

use crate::{
    codec::{WireError, fields_as, wire_struct},
    error::ErrorCode,
    redirect::HeadAddress,
};

wire_struct! {
    /// A setting to make.
    part Setting<'a> {
        /// Its key, dotted.
        key: Cow<'a, str>,
        /// Its value.
        value: Cow<'a, str>,
    }
}

/// Where the value of a setting comes from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum ConfigOrigin {
    /// Nobody made it: the default.
    Default = 0,
    /// The server's configuration.
    Server = 1,
    /// The topic's own.
    Topic = 2,
}

impl ConfigOrigin {
    /// Every origin, by number.
    pub const ALL: [Self; 3] = [Self::Default, Self::Server, Self::Topic];
}

fields_as! {
    ConfigOrigin as u8: |origin| origin as u8, |raw| {
        Self::ALL.get(usize::from(raw)).copied().ok_or(WireError::Value("origin"))
    };
}

wire_struct! {
    /// A setting as it stands.
    part SettingInForce<'a> {
        /// Its key, dotted.
        key: Cow<'a, str>,
        /// Its value.
        value: Cow<'a, str>,
        /// Where the value comes from.
        origin: ConfigOrigin,
    }
}

wire_struct! {
    /// The answer of requests that bring nothing else.
    message StatusResponse<'a> {
        /// Why it was not done.
        error: ErrorCode,
        ; tail
        1 =>
            /// A sentence for a person.
            message: Cow<'a, str>,
    }
}

wire_struct! {
    /// Ask for a sign of life. The answer is a [`StatusResponse`].
    message PingRequest {}
}

wire_struct! {
    /// Ask for topics.
    message MetadataRequest<'a> {
        /// Their names, at most 10,000; none: all.
        names: Vec<Cow<'a, str>>,
    }
}

wire_struct! {
    /// Where a node takes connections.
    part NodeAddress<'a> {
        /// The node.
        node: NodeId,
        /// Host and port; empty: where this connection went.
        address: Cow<'a, str>,
    }
}

wire_struct! {
    /// Where a partition is.
    part PartitionMetadata {
        /// The partition.
        index: PartitionIndex,
        /// Its name on disk.
        uid: PartitionUid,
        /// The epoch of its chain.
        epoch: Epoch,
        /// The core that owns it on its head.
        core: u16,
        /// Its chain, head first.
        chain: Vec<NodeId>,
        /// Its state: [`ErrorCode::None`] when it serves, otherwise why not.
        error: ErrorCode,
    }
}

wire_struct! {
    /// A topic.
    part TopicMetadata<'a> {
        /// Why there is nothing more.
        error: ErrorCode,
        /// Its name.
        name: Cow<'a, str>,
        /// Its id.
        id: TopicId,
        /// Rises with every change of its settings, maybe with others too.
        config_version: u64,
        /// The largest batch it takes, in bytes.
        batch_bytes_max: u32,
        /// Its partitions, in order.
        partitions: Vec<PartitionMetadata>,
    }
}

wire_struct! {
    /// Topics.
    message MetadataResponse<'a> {
        /// Why there are none.
        error: ErrorCode,
        /// The version of the catalog.
        version: u64,
        /// The nodes of the cluster.
        nodes: Vec<NodeAddress<'a>>,
        /// Each once, in the order asked for, or of their names.
        topics: Vec<TopicMetadata<'a>>,
        ; tail
        1 =>
            /// A sentence for a person.
            message: Cow<'a, str>,
    }
}

wire_struct! {
    /// Create a topic. The answer is a [`StatusResponse`].
    message CreateTopicRequest<'a> {
        /// Its name.
        name: Cow<'a, str>,
        /// How many partitions; zero: as many as the server gives a new topic.
        partitions: u32,
        /// Copies of each; zero: the default.
        replicas: u8,
        /// Settings to make.
        config: Vec<Setting<'a>>,
        /// Say whether it could be done, and do not.
        validate_only: bool,
    }
}

wire_struct! {
    /// Change a topic. The answer is a [`StatusResponse`].
    message AlterTopicRequest<'a> {
        /// Its name.
        name: Cow<'a, str>,
        /// Settings to make.
        set: Vec<Setting<'a>>,
        /// Keys of settings to take back.
        remove: Vec<Cow<'a, str>>,
        /// How many partitions from now on, at least as many as there are; zero: as many.
        partitions: u32,
        /// Its name from now on; empty: the same.
        new_name: Cow<'a, str>,
        /// Say whether it could be done, and do not.
        validate_only: bool,
    }
}

wire_struct! {
    /// Delete a topic and all its records. The answer is a [`StatusResponse`].
    message DeleteTopicRequest<'a> {
        /// Its name.
        name: Cow<'a, str>,
    }
}

wire_struct! {
    /// Ask for everything about a topic.
    message DescribeTopicRequest<'a> {
        /// Its name.
        name: Cow<'a, str>,
    }
}

wire_struct! {
    /// Some offsets.
    part OffsetRange {
        /// The first.
        start: Offset,
        /// The one behind the last.
        end: Offset,
    }
}

wire_struct! {
    /// Everything about a partition.
    part PartitionDetail {
        /// Where it is.
        place: PartitionMetadata,
        /// The first readable offset.
        log_start: Offset,
        /// The end of what is on the disk of every member.
        high_watermark: Offset,
        /// The end of what is on the disk of the node that answers.
        durable_end: Offset,
        /// The next offset to give.
        log_end: Offset,
        /// Bytes of segments.
        bytes: u64,
        /// Segments.
        segments: u32,
        /// Acknowledged offsets that cannot be read any more, in order.
        damaged: Vec<OffsetRange>,
    }
}

wire_struct! {
    /// Everything about a topic.
    message DescribeTopicResponse<'a> {
        /// Why there is nothing.
        error: ErrorCode,
        /// Its id.
        id: TopicId,
        /// Rises with every change of its settings, maybe with others too.
        config_version: u64,
        /// Its settings, by key.
        config: Vec<SettingInForce<'a>>,
        /// Its partitions, in order.
        partitions: Vec<PartitionDetail>,
        ; tail
        1 =>
            /// A sentence for a person.
            message: Cow<'a, str>,
    }
}

wire_struct! {
    /// Raise the log start of a partition.
    message TrimRequest {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: PartitionIndex,
        /// The new first readable offset, at most the high watermark.
        to: Offset,
    }
}

wire_struct! {
    /// The log start reached.
    message TrimResponse<'a> {
        /// Why it was not raised.
        error: ErrorCode,
        /// The first readable offset.
        log_start: Offset,
        ; tail
        1 =>
            /// A sentence for a person.
            message: Cow<'a, str>,
        2 =>
            /// Under [`ErrorCode::NotHead`] and [`ErrorCode::HeadMoved`], if it is known: where
            /// the head is.
            head: Option<HeadAddress<'a>>,
    }
}

wire_struct! {
    /// Ask for a producer id of one's own, or for the next epoch of the one at hand.
    message ProducerIdRequest {
        /// The one at hand; [`ProducerId::NONE`]: a new one is wanted.
        id: ProducerId,
        /// Its epoch; −1 with a new one.
        epoch: ProducerEpoch,
    }
}

wire_struct! {
    /// The producer id.
    message ProducerIdResponse<'a> {
        /// Why there is none.
        error: ErrorCode,
        /// The producer.
        id: ProducerId,
        /// Its generation.
        epoch: ProducerEpoch,
        ; tail
        1 =>
            /// A sentence for a person.
            message: Cow<'a, str>,
    }
}

wire_struct! {
    /// Allow processes that show a token to become nodes of the cluster, or no more. The answer is
    /// a [`StatusResponse`].
    message JoinTokenRequest {
        /// The token, drawn at random by who asks.
        token: JoinToken,
        /// For how long, in milliseconds; zero: from now on no more.
        lifetime_ms: u64,
    }
}

impl<'a> DescribeTopicResponse<'a> {
    /// An answer without a description.
    #[must_use]
    pub fn refused(error: ErrorCode, message: impl Into<Cow<'a, str>>) -> Self {
        Self {
            error,
            id: TopicId::default(),
            config_version: 0,
            config: Vec::new(),
            partitions: Vec::new(),
            message: message.into(),
        }
    }
}

impl ProducerIdRequest {
    /// Asks for a new producer.
    #[must_use]
    pub const fn fresh() -> Self {
        Self { id: ProducerId::NONE, epoch: ProducerEpoch::new(-1) }
    }
}
