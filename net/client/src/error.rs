//! What can go wrong, and what may be concluded from it.

use std::{io, sync::Arc, time::Duration};

use catena_format::{BatchError, Offset, PartitionIndex, records::RecordError};
use catena_wire::{Class, ErrorCode, FrameError, WireError};

use crate::{compression::CompressionError, tls::TlsError};

/// An error of the client.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server refused.
    #[error("{}{}{message}", code.describe(), if message.is_empty() { "" } else { " " })]
    Server {
        /// Why.
        code: ErrorCode,
        /// The server's words.
        message: String,
    },
    /// There is no connection: nothing was asked of the server.
    #[error("no connection to {address}: {source}")]
    Unreachable {
        /// Where to.
        address: String,
        /// Why.
        source: Arc<io::Error>,
    },
    /// A connection broke, or the answer took too long: what was asked may have been done.
    #[error("connection to {address}: {source}")]
    Connection {
        /// Where to.
        address: String,
        /// Why.
        source: Arc<io::Error>,
    },
    /// There is no TLS with the server, or it wants TLS: nothing was asked of it.
    #[error("no connection to {address}: {source}")]
    Tls {
        /// Where to.
        address: String,
        /// Why.
        source: TlsError,
    },
    /// The server's bytes make no sense.
    #[error("the server's answer makes no sense: {0}")]
    Protocol(String),
    /// A batch that was read is damaged.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A record that was read is damaged, or one to send is too large.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Records were given up because they could not be stored in time.
    #[error("not stored after {after:?}{}: {last}", if *unclear { ", or perhaps" } else { "" })]
    Undelivered {
        /// How long it was tried.
        after: Duration,
        /// Whether they may be stored all the same.
        unclear: bool,
        /// What was last in the way.
        last: Box<Self>,
    },
    /// Records were to be stored at a certain offset only, and the partition's next offset is
    /// another: they are not stored.
    #[error(
        "partition {partition}: the next offset is {next} and not {expected}{}",
        if *unclear { "; by now the records may be stored" } else { "" }
    )]
    OffsetCondition {
        /// The partition.
        partition: PartitionIndex,
        /// The offset that the first record was to get.
        expected: Offset,
        /// The next offset when the server looked.
        next: Offset,
        /// Whether they may be stored all the same: a connection was lost with a copy of them, and
        /// `next` is less than `expected`, so that the copy may find the condition true.
        unclear: bool,
    },
    /// Nothing can be read at an offset of a partition; reading can go on at another.
    #[error("partition {partition}: {} {message}(go on at {next})", code.describe())]
    Unreadable {
        /// Why: [`ErrorCode::Damaged`], [`ErrorCode::OffsetOutOfRange`] or
        /// [`ErrorCode::Truncated`].
        code: ErrorCode,
        /// The partition.
        partition: PartitionIndex,
        /// The next readable offset.
        next: Offset,
        /// The server's words.
        message: String,
    },
    /// A partition cannot be read from an offset on: for good, or, if that is retriable, for as
    /// long as a request may take by now; then it is still tried.
    #[error("partition {partition} from offset {offset} on: {source}")]
    Partition {
        /// The partition.
        partition: PartitionIndex,
        /// Where the application is in it.
        offset: Offset,
        /// Why.
        source: Box<Self>,
    },
    /// The producer or consumer is closed, or what drives it has ended; `unclear`: the record may
    /// be stored all the same.
    #[error("it is closed{}", if *unclear { "; the record may be stored or not" } else { "" })]
    Closed {
        /// Whether a record may be stored all the same.
        unclear: bool,
    },
    /// An option or a connection string is not right.
    #[error("{0}")]
    Option(String),
    /// Records cannot be compressed or decompressed.
    #[error(transparent)]
    Compression(#[from] CompressionError),
}

impl Error {
    /// What may be concluded.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Server { code, .. } | Self::Unreadable { code, .. } => code.class(),
            Self::Partition { source, .. } => source.class(),
            Self::Undelivered { unclear: true, .. }
            | Self::OffsetCondition { unclear: true, .. }
            | Self::Closed { unclear: true } => Class::Indeterminate,
            Self::OffsetCondition { unclear: false, .. } => {
                ErrorCode::OffsetConditionFailed.class()
            }
            Self::Undelivered { unclear: false, .. }
            | Self::Unreachable { .. }
            | Self::Tls { source: TlsError::Silent, .. } => Class::Retriable,
            Self::Option(_) | Self::Tls { .. } | Self::Closed { unclear: false } => Class::Definite,
            Self::Connection { .. } | Self::Protocol(_) => Class::Indeterminate,
            Self::Batch(_) | Self::Record(_) | Self::Compression(_) => Class::Definite,
        }
    }

    /// The same request may succeed later.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        self.class() == Class::Retriable
    }

    /// The partition that it is about, where a consumer says so.
    pub(crate) fn partition(&self) -> Option<PartitionIndex> {
        match self {
            Self::Partition { partition, .. } | Self::Unreadable { partition, .. } => {
                Some(*partition)
            }
            _ => None,
        }
    }

    /// The same where nothing was asked yet: there is no connection.
    pub(crate) fn before_asking(self) -> Self {
        match self {
            Self::Connection { address, source } => Self::Unreachable { address, source },
            error => error,
        }
    }

    /// Whether another connection may do better, and nothing was asked on this one.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Tls { source: TlsError::Silent, .. })
    }

    /// Whether nothing was done here and another node may do it.
    pub(crate) fn is_elsewhere(&self) -> bool {
        use ErrorCode::{NoQuorum, NotHead, ShuttingDown, WrongCore};
        let Self::Server { code, .. } = self else { return false };
        matches!(code, NotHead | WrongCore | NoQuorum | ShuttingDown)
    }

    pub(crate) fn check(code: ErrorCode, message: &str) -> Result<(), Self> {
        let message = message.to_owned();
        if code == ErrorCode::None { Ok(()) } else { Err(Self::Server { code, message }) }
    }
}

impl From<FrameError> for Error {
    fn from(error: FrameError) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        Self::Protocol(error.to_string())
    }
}
