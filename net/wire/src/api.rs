//! What can be asked, by number.

use crate::{error::ErrorCode, frame::VERSION};

/// What a request is about. Numbers are never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Api {
    /// Who is there, what is spoken, and the limits: the first request of a connection.
    Handshake = 0,
    /// Append a batch.
    Produce = 1,
    /// Read batches, waiting for them if need be.
    Fetch = 2,
    /// Be sent batches as they are committed.
    Subscribe = 3,
    /// Take more bytes of a subscription. It has no response.
    Credit = 4,
    /// End a subscription.
    Unsubscribe = 5,
    /// Ask for an offset.
    ListOffsets = 6,
    /// Ask for topics and where their partitions are.
    Metadata = 7,
    /// Create a topic.
    CreateTopic = 8,
    /// Change a topic's settings, partitions or name.
    AlterTopic = 9,
    /// Delete a topic and its records.
    DeleteTopic = 10,
    /// Ask for everything about a topic.
    DescribeTopic = 11,
    /// Raise the log start of a partition.
    Trim = 12,
    /// Ask for a producer id, or for the next epoch of one.
    ProducerId = 13,
    /// Ask for a sign of life.
    Ping = 14,
    /// Batches for a subscription, from server to client. It has no response.
    Push = 15,
    /// Allow processes to become nodes of the cluster.
    JoinToken = 16,
    /// Ask for the nodes of the cluster, and for what is not as it should be.
    DescribeCluster = 17,
    /// A node leaves the cluster for ever.
    RemoveNode = 18,
    /// A node is to hold nothing any more, or may again.
    DrainNode = 19,
    /// A topic is to have another number of copies.
    ReplicateTopic = 20,
    /// A partition's copy goes from a node to another.
    MovePartition = 21,
    /// Partitions whose members are lost go on with another copy, which may lack something.
    AcceptLoss = 22,
}

impl Api {
    /// Every API, by number.
    pub const ALL: [Self; 23] = [
        Self::Handshake,
        Self::Produce,
        Self::Fetch,
        Self::Subscribe,
        Self::Credit,
        Self::Unsubscribe,
        Self::ListOffsets,
        Self::Metadata,
        Self::CreateTopic,
        Self::AlterTopic,
        Self::DeleteTopic,
        Self::DescribeTopic,
        Self::Trim,
        Self::ProducerId,
        Self::Ping,
        Self::Push,
        Self::JoinToken,
        Self::DescribeCluster,
        Self::RemoveNode,
        Self::DrainNode,
        Self::ReplicateTopic,
        Self::MovePartition,
        Self::AcceptLoss,
    ];

    /// The API of a number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The API of a request, when this build takes it in that version.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownApi`] or [`ErrorCode::UnsupportedVersion`], for a refusal.
    pub fn of_request(number: u8, version: u8) -> Result<Self, ErrorCode> {
        match Self::from_number(number) {
            None | Some(Self::Push) => Err(ErrorCode::UnknownApi),
            Some(_) if version != VERSION => Err(ErrorCode::UnsupportedVersion),
            Some(api) => Ok(api),
        }
    }

    /// Whether a request is answered.
    #[must_use]
    pub const fn has_response(self) -> bool {
        !matches!(self, Self::Credit | Self::Push)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back_and_only_requests_are_taken() {
        for (number, api) in (0..).zip(Api::ALL) {
            assert_eq!(api as u8, number);
            assert_eq!(Api::from_number(number), Some(api));
        }
        assert_eq!(Api::of_request(1, VERSION), Ok(Api::Produce));
        assert_eq!(Api::of_request(1, VERSION + 1), Err(ErrorCode::UnsupportedVersion));
        assert_eq!(Api::of_request(1, 0), Err(ErrorCode::UnsupportedVersion));
        assert_eq!(Api::of_request(15, VERSION), Err(ErrorCode::UnknownApi));
        assert_eq!(Api::of_request(23, VERSION), Err(ErrorCode::UnknownApi));
    }
}
