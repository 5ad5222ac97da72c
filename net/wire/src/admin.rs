//! Topics, their metadata, producer ids.

use crate::{error::ErrorCode, field::wire_struct};

wire_struct! {
    /// A setting.
    part Setting {
        /// Its key.
        key: String,
        /// Its value.
        value: String,
    }
}

wire_struct! {
    /// The answer of requests that bring nothing else.
    message StatusResponse {
        /// Why it was not done.
        error: ErrorCode,
        /// A sentence for a person.
        message: String,
    }
}

wire_struct! {
    /// Ask for topics.
    message MetadataRequest {
        /// Their names; none: all.
        names: Vec<String>,
    }
}

wire_struct! {
    /// Where a partition is.
    part PartitionMetadata {
        /// The partition.
        index: u32,
        /// The epoch of its chain.
        epoch: u32,
        /// The core that owns it on its head.
        core: u16,
        /// Its chain, head first.
        chain: Vec<u64>,
        /// Whether it serves; otherwise why not.
        error: ErrorCode,
    }
}

wire_struct! {
    /// A topic.
    part TopicMetadata {
        /// Why there is nothing more.
        error: ErrorCode,
        /// Its name.
        name: String,
        /// Its id.
        id: u128,
        /// The largest batch it takes, in bytes.
        batch_bytes_max: u32,
        /// Its partitions, in order.
        partitions: Vec<PartitionMetadata>,
    }
}

wire_struct! {
    /// Topics.
    message MetadataResponse {
        /// Why there are none.
        error: ErrorCode,
        /// The version of the catalog.
        version: u64,
        /// In the order asked for, or of their names.
        topics: Vec<TopicMetadata>,
    }
}

wire_struct! {
    /// Create a topic.
    message CreateTopicRequest {
        /// Its name.
        name: String,
        /// How many partitions.
        partitions: u32,
        /// Copies of each; zero: the default.
        replicas: u8,
        /// Settings to make.
        config: Vec<Setting>,
    }
}

wire_struct! {
    /// Make and take back settings of a topic.
    message AlterTopicRequest {
        /// Its name.
        name: String,
        /// Settings to make.
        set: Vec<Setting>,
        /// Settings to take back.
        remove: Vec<String>,
    }
}

wire_struct! {
    /// Delete a topic and all its records.
    message DeleteTopicRequest {
        /// Its name.
        name: String,
    }
}

wire_struct! {
    /// Ask for everything about a topic.
    message DescribeTopicRequest {
        /// Its name.
        name: String,
    }
}

wire_struct! {
    /// Everything about a partition.
    part PartitionDetail {
        /// Where it is.
        place: PartitionMetadata,
        /// Its name on disk.
        uid: u64,
        /// The first readable offset.
        log_start: u64,
        /// The end of what is on the disk of every member.
        high_watermark: u64,
        /// The next offset to give.
        log_end: u64,
        /// Bytes of segments.
        bytes: u64,
        /// Segments.
        segments: u32,
        /// Acknowledged offsets that cannot be read any more.
        damaged_offsets: u64,
    }
}

wire_struct! {
    /// Everything about a topic.
    message DescribeTopicResponse {
        /// Why there is nothing.
        error: ErrorCode,
        /// A sentence for a person.
        message: String,
        /// Its id.
        id: u128,
        /// The settings made.
        config: Vec<Setting>,
        /// Its partitions, in order.
        partitions: Vec<PartitionDetail>,
    }
}

wire_struct! {
    /// Raise the log start of a partition.
    message TrimRequest {
        /// The topic.
        topic: u128,
        /// The partition.
        partition: u32,
        /// The new first readable offset, at most the high watermark.
        to: u64,
    }
}

wire_struct! {
    /// The log start reached.
    message TrimResponse {
        /// Why it was not raised.
        error: ErrorCode,
        /// The first readable offset.
        log_start: u64,
        /// A sentence for a person.
        message: String,
    }
}

wire_struct! {
    /// Ask for a producer id of one's own.
    message ProducerIdRequest {
        /// Always zero; kept for transactions.
        reserved: u64,
    }
}

wire_struct! {
    /// The producer id.
    message ProducerIdResponse {
        /// Why there is none.
        error: ErrorCode,
        /// The producer.
        id: i64,
        /// Its generation.
        epoch: i16,
    }
}
