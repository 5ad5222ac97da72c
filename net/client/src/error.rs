//! What can go wrong, and what may be concluded from it.

use std::io;

use catena_format::{BatchError, records::RecordError};
use catena_wire::{Class, ErrorCode, FrameError, WireError};

use crate::compression::CompressionError;

/// An error of the client.
#[derive(Debug, thiserror::Error)]
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
    /// The connection could not be made or broke: what was sent may have been done.
    #[error("connection to {address}: {source}")]
    Connection {
        /// Where to.
        address: String,
        /// Why.
        source: io::Error,
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
    /// Records cannot be compressed or decompressed.
    #[error(transparent)]
    Compression(#[from] CompressionError),
}

impl Error {
    /// What may be concluded.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Server { code, .. } => code.class(),
            Self::Connection { .. } | Self::Protocol(_) => Class::Indeterminate,
            Self::Batch(_) | Self::Record(_) | Self::Compression(_) => Class::Definite,
        }
    }

    /// The same request may succeed later.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        self.class() == Class::Retriable
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
