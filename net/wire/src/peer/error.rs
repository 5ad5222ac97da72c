//! What can be wrong with the bytes of another node.

use crate::codec::WireError;

/// Why bytes are no message of another node, or a message cannot be sent. Either way the link ends:
/// what followed could not be trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The preface of a client.
    #[error("this is the protocol of clients, which have a listener of their own")]
    Client,
    /// Other first bytes: another protocol.
    #[error("this is not the protocol of Catena's nodes")]
    Magic,
    /// A version of preface or frame that this build does not speak.
    #[error("version {0} of the peers' protocol is not spoken here")]
    Version(u16),
    /// Reserved bytes are not zero.
    #[error("reserved bytes are not zero")]
    Reserved,
    /// A kind of message that this build does not know.
    #[error("messages of kind {0} are not known here")]
    Kind(u8),
    /// A message about a partition names none, or one about none names one.
    #[error("the message must name a partition if it is about one, and none otherwise")]
    Partition,
    /// Head or payload is longer than its kind may be.
    #[error("a {part} of {bytes} bytes is longer than the limit of {limit}")]
    TooLarge {
        /// Head or payload.
        part: &'static str,
        /// How long it is.
        bytes: u64,
        /// How long it may be.
        limit: u32,
    },
    /// Head or payload is not as long as the header says.
    #[error("a {part} of {announced} bytes was announced, {given} were given")]
    Length {
        /// Head or payload.
        part: &'static str,
        /// As the header says.
        announced: u32,
        /// What is there.
        given: usize,
    },
    /// The head cannot be read or written. When it was read the CRC had not been checked: the bytes
    /// may also have changed on their way.
    #[error(transparent)]
    Head(#[from] WireError),
    /// A list is longer than it may be.
    #[error("{count} {what} are more than the limit of {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Two fields contradict each other.
    #[error("{0}")]
    Contradiction(&'static str),
    /// The batches that are stamped are not as long as the payload.
    #[error("the stamps are of {stamped} bytes of batches, the payload has {payload}")]
    Stamps {
        /// The lengths of all stamps.
        stamped: u64,
        /// The payload's.
        payload: u64,
    },
    /// A batch has another length than its stamp says, or one that no batch has.
    #[error("batch {number} of the payload is not as long as its stamp says, or no batch")]
    Batch {
        /// Which one, from zero.
        number: usize,
    },
    /// The frame's CRC-32 does not match.
    #[error("the frame's CRC-32 does not match")]
    Checksum,
    /// The CRC-32 of what comes along with a welcome does not match.
    #[error("the CRC-32 of a fold does not match")]
    FoldChecksum,
}
