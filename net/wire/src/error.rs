//! Every error of the protocol, numbered once.

use crate::field::{Field, Reader, WireError};

/// What a client may conclude from an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Nothing was done, and nothing will be if it is tried again as it is.
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
    3 InvalidRequest Definite 42 "The request is malformed.";
    4 FrameTooLarge Definite 10 "The message is longer than allowed.";
    5 HandshakeRequired Definite 42 "The first message must be a handshake.";
    6 Starting Retriable 5 "The node or partition is being opened.";
    7 ShuttingDown Retriable 5 "The node is shutting down.";
    8 UnknownTopic Definite 3 "There is no such topic.";
    9 UnknownPartition Definite 3 "The topic has no such partition.";
    10 TopicExists Definite 36 "A topic of that name exists.";
    11 TopicName Definite 17 "The topic name is not allowed.";
    12 InvalidPartitions Definite 37 "The number of partitions is not allowed.";
    13 InvalidConfig Definite 40 "A setting is unknown or its value not allowed.";
    14 CatalogFull Definite 44 "There are as many topics or partitions as there may be.";
    20 InvalidBatch Definite 87 "The batch is not acceptable.";
    21 BatchMagic Definite 43 "Only record format 2 is taken.";
    22 BatchChecksum Definite 2 "The batch's CRC-32C does not match.";
    23 BatchTooLarge Definite 10 "The batch is larger than the topic allows.";
    24 UnknownCodec Definite 76 "The compression codec is unknown.";
    25 Timestamp Definite 32 "A timestamp is negative or too far in the future.";
    30 OutOfOrderSequence Definite 45 "Sequences are missing before this batch.";
    31 ProducerFenced Definite 90 "A newer generation of the producer has written.";
    32 UnknownProducer Definite 59 "The producer is not known in this partition.";
    33 TooManyProducers Retriable 44 "The partition has too many producers.";
    34 DuplicateOffsetUnknown Definite 46 "The batch was stored before; no longer known where.";
    35 OffsetCondition Definite 87 "The next offset is not the one expected.";
    36 OffsetsExhausted Definite 56 "The partition has given all its offsets.";
    40 OffsetOutOfRange Definite 1 "The offset is not in the log.";
    41 Damaged Definite 2 "The records there are damaged and this is the only copy.";
    50 DiskFull Retriable 56 "The disk is full.";
    51 Poisoned Retriable 56 "A write failed: the partition is read-only until it is reopened.";
    52 StorageFailed Indeterminate 56 "A write failed: the batch may be stored or not.";
    53 ReadFailed Retriable 56 "The disk could not be read.";
    54 PartitionFailed Definite 56 "The partition could not be opened; the server's log says why.";
    60 Throttled Retriable 89 "Too much is on its way to the disk.";
    61 MemoryBudget Retriable 89 "The node's memory budget is spent.";
    62 InFlightBudget Retriable 89 "The connection has too many requests or bytes in flight.";
    63 ConnectionBudget Retriable 89 "The node has as many connections as it takes.";
    70 WrongCore Retriable 6 "Another core of the node owns the partition.";
    71 NotHead Retriable 6 "Another node is the head of the partition's chain.";
    72 NotEnoughReplicas Retriable 19 "The chain has fewer members than it must have.";
    80 Timeout Indeterminate 7 "The deadline passed before the answer was known.";
    90 AuthenticationFailed Definite 58 "Authentication failed.";
    91 NotAuthorized Definite 29 "Not allowed.";
    99 Internal Indeterminate -1 "An internal error.";
}

impl Field for ErrorCode {
    const BYTES_MIN: usize = 2;
    fn put(&self, out: &mut Vec<u8>) {
        self.number().put(out);
    }
    fn get(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        u16::get(reader).map(Self::from_number)
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
