//! Every error of the protocol, numbered once.

use crate::codec::fields_as;

/// What a client may conclude from an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// The outcome is known, and trying again as it is will not change it. Nothing was done; but
    /// under [`ErrorCode::DuplicateOffsetUnknown`] the batch is stored.
    Definite,
    /// Nothing was done; the same request may succeed later.
    Retriable,
    /// It may have been done or not: the same sequence again tells.
    Indeterminate,
}

macro_rules! errors {
    ($($number:literal $name:ident $class:ident $kafka:literal $doc:literal;)*) => {
        /// An error of the protocol; [`ErrorCode::class`] says what to do.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $(#[doc = $doc] $name,)*
            /// A number that this build does not know: from a newer peer.
            Unknown(u16),
        }

        impl ErrorCode {
            /// Every code that this build knows.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The number on the wire.
            #[must_use]
            pub const fn number(self) -> u16 {
                match self { $(Self::$name => $number,)* Self::Unknown(number) => number }
            }

            /// The code of a number.
            #[must_use]
            pub const fn from_number(number: u16) -> Self {
                match number { $($number => Self::$name,)* unknown => Self::Unknown(unknown) }
            }

            /// Its name, as in the documentation.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* Self::Unknown(_) => "Unknown" }
            }

            /// One sentence for a person.
            #[must_use]
            pub const fn describe(self) -> &'static str {
                match self { $(Self::$name => $doc,)* Self::Unknown(_) => "An unknown error." }
            }

            /// What a client may conclude.
            #[must_use]
            pub const fn class(self) -> Class {
                match self {
                    $(Self::$name => Class::$class,)*
                    Self::Unknown(_) => Class::Indeterminate,
                }
            }

            /// The error code of the Kafka protocol that says the same, or comes nearest.
            #[must_use]
            pub const fn kafka(self) -> i16 {
                match self { $(Self::$name => $kafka,)* Self::Unknown(_) => -1 }
            }
        }
    };
}

errors! {
    0 None Definite 0 "No error.";
    1 UnsupportedVersion Definite 35 "This version of the request is not known here.";
    2 UnknownApi Definite 35 "This API is not known here.";
    3 BadFrame Definite 42 "The bytes are no frame of this protocol: the connection ends.";
    4 FrameTooLarge Definite 10 "The frame is longer than allowed.";
    5 InvalidRequest Definite 42 "The request is malformed.";
    6 HandshakeRequired Definite 42 "The first request must be a handshake.";
    7 HandshakeTimeout Definite 7 "The handshake did not come in time: the connection ends.";
    8 IdleTimeout Definite 7 "Nothing came for long: the connection ends.";
    9 Starting Retriable 5 "The node or partition is being opened.";
    10 ShuttingDown Retriable 5 "The node is shutting down.";
    20 UnknownTopic Definite 3 "There is no such topic.";
    21 UnknownPartition Definite 3 "The topic has no such partition.";
    22 TopicExists Definite 36 "A topic of that name exists.";
    23 TopicName Definite 17 "The topic name is not allowed.";
    24 InvalidPartitions Definite 37 "The number of partitions is not allowed.";
    25 PartitionsLimit Definite 44 "There are as many topics or partitions as there may be.";
    26 BadConfig Definite 40 "A setting is unknown or its value not allowed.";
    27 PartitionFailed Definite 56 "The partition could not be opened; the server's log says why.";
    28 NodesLimit Definite 44 "There are as many nodes, or tokens for nodes, as there may be.";
    29 NodeNeeded Definite 42 "The node runs, or a partition needs it.";
    30 InvalidReplicas Definite 38 "The number of copies is not allowed, or there are fewer nodes.";
    31 NoSuchNode Definite 42 "The cluster has no such node.";
    40 BadBatch Definite 87 "The payload is not exactly one well-formed batch.";
    41 BadMagic Definite 43 "Only record format 2 is taken.";
    42 BadChecksum Definite 2 "The batch's CRC-32C does not match.";
    43 BatchTooLarge Definite 10 "The batch is larger than the topic allows.";
    44 UnsupportedCodec Definite 76 "The compression codec is unknown.";
    45 TransactionalUnsupported Definite 48 "Transactional batches are not taken.";
    46 ControlBatch Definite 87 "Control batches are not taken from clients.";
    47 LogAppendTime Definite 32 "Records carry their creator's time, not the log's.";
    48 TimestampOutOfRange Definite 32 "A timestamp is negative or too far in the future.";
    60 OutOfOrderSequence Definite 45 "Sequences are missing before this batch.";
    61 ProducerFenced Definite 90 "A newer generation of the producer has written.";
    62 UnknownProducer Definite 59 "The producer is not known in this partition.";
    63 TooManyProducers Retriable 89 "The partition has too many producers.";
    64 DuplicateOffsetUnknown Definite 46 "The batch was stored before; no longer known where.";
    65 OffsetConditionFailed Definite 87 "The next offset is not the one expected.";
    66 OffsetsExhausted Definite 56 "The partition has given all its offsets.";
    80 OffsetOutOfRange Definite 1 "The offset is not in the log.";
    81 Damaged Definite 2 "The records there are damaged, and no other copy has them.";
    82 Truncated Definite 74 "The log was cut below that offset in a newer epoch.";
    100 DiskFull Retriable 56 "The disk is full.";
    101 Poisoned Retriable 56 "A write failed: the partition is read-only until it is reopened.";
    102 StorageIo Indeterminate 56 "A write failed: the batch may be stored or not.";
    103 ReadFailed Retriable 56 "The disk could not be read.";
    120 Throttled Retriable 89 "Too much is on its way to the disk or along the chain.";
    121 MemoryBudget Retriable 89 "The core's memory budget is spent.";
    122 InFlightBudget Retriable 89 "The connection or its core has too much in flight.";
    123 ConnectionBudget Retriable 89 "The core has as many connections as it takes.";
    124 DescriptorBudget Retriable 89 "The core has as many files open as it may.";
    125 SubscriptionBudget Retriable 89 "There are as many subscriptions as there may be.";
    126 SlowConsumer Retriable 89 "What was sent is not read: the subscription or connection ends.";
    140 WrongCore Retriable 6 "Another core of the node owns the partition.";
    141 NotHead Retriable 6 "Another node is the head of the partition's chain.";
    142 Fenced Retriable 74 "The request is of an older epoch of the chain.";
    143 NotEnoughReplicas Retriable 19 "The chain has fewer members than it must have.";
    144 Timeout Indeterminate 7 "The deadline passed before the outcome was known.";
    145 HeadMoved Indeterminate 7 "Another node became the head before the outcome was known.";
    146 NoQuorum Retriable 5 "The nodes that decide about topics and chains cannot be reached.";
    160 AuthenticationFailed Definite 58 "Authentication failed.";
    161 NotAuthorized Definite 29 "Not allowed.";
    180 WrongCluster Definite 104 "The peer is of another cluster.";
    181 WrongNode Definite 42 "Another node, or another life of it, was dialled than answers.";
    182 UnknownNode Retriable 102 "The peer's node is not known here.";
    183 OlderIncarnation Definite 77 "A later life of the peer's node is known here.";
    255 Internal Indeterminate -1 "An internal error.";
}

fields_as! {
    ErrorCode as u16: |code| code.number(), |raw| Ok(Self::from(raw));
}

impl From<u16> for ErrorCode {
    fn from(number: u16) -> Self {
        Self::from_number(number)
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown(number) => write!(f, "unknown error {number}"),
            known => f.write_str(known.describe().trim_end_matches('.')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_distinct_and_read_back() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_number(code.number()), *code);
        }
        assert_eq!(ErrorCode::from_number(9999), ErrorCode::Unknown(9999));
    }
}
