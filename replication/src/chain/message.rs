//! What neighbours in a chain say to each other.

use catena_format::{Epoch, Offset};

use super::History;

/// How far a member has come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Progress {
    /// The end of what it has taken.
    pub received: Offset,
    /// The end of what is on its disk.
    pub durable: Offset,
}

/// A message between neighbours, about one partition. The session is that of their link, numbered
/// by the successor within an epoch: what an older one still brings is dropped.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Message {
    /// A successor begins a session: what its log holds.
    Hello {
        /// In which epoch.
        epoch: Epoch,
        /// Of which session.
        session: u64,
        /// Of its log.
        history: History,
    },
    /// The answer: where its log must be cut, and where batches follow from.
    Welcome {
        /// In which epoch.
        epoch: Epoch,
        /// Of which session.
        session: u64,
        /// So far the logs are the same.
        keep: Offset,
        /// Batches follow from here; behind `keep`, if what lies between is kept nowhere: then the
        /// log begins anew here, with what the head knew of its producers at this offset.
        first: Offset,
        /// The predecessor's high watermark.
        high_watermark: Offset,
    },
    /// Batches of these offsets come along; of none, if only the rest is news.
    Append {
        /// In which epoch.
        epoch: Epoch,
        /// Of which session.
        session: u64,
        /// The first offset.
        from: Offset,
        /// Behind the last one.
        to: Offset,
        /// What is durable at all members before.
        durable_before: Offset,
        /// Where the sender's log starts.
        log_start: Offset,
        /// The last question of the head whether this epoch is still that of all members.
        question: u64,
        /// Somebody waits for these batches to be received, not only until they are on the disks:
        /// it is to be told at once.
        urgent: bool,
    },
    /// What is durable everywhere, and how far each is from the sender to the tail.
    Commit {
        /// In which epoch.
        epoch: Epoch,
        /// Of which session.
        session: u64,
        /// What is durable at all members.
        high_watermark: Offset,
        /// The sender's first.
        progress: Vec<Progress>,
        /// The last question that has come to the tail.
        answered: u64,
    },
}

impl Message {
    /// Of which session of the link.
    #[must_use]
    pub fn session(&self) -> u64 {
        match self {
            Self::Hello { session, .. }
            | Self::Welcome { session, .. }
            | Self::Append { session, .. }
            | Self::Commit { session, .. } => *session,
        }
    }

    /// The epoch that its sender is in.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        match self {
            Self::Hello { epoch, .. }
            | Self::Welcome { epoch, .. }
            | Self::Append { epoch, .. }
            | Self::Commit { epoch, .. } => *epoch,
        }
    }
}
