//! What can go wrong.

use std::{io, process::ExitCode, time::Duration};

use catena_client::{
    Class, Durability, Error as ClientError,
    format::{Offset, records::RecordError},
};

/// An error of the tool.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The server refused, or cannot be reached.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The records of a batch make none.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The server grants less than was asked for.
    #[error("--in-flight {asked}: the server takes at most {granted} batches of this size at once")]
    InFlight {
        /// What was asked for.
        asked: usize,
        /// What the handshake grants.
        granted: usize,
    },
    /// A topic's chains stay shorter than asked for.
    #[error("topic {topic}: its chains do not get {replicas} members: how many nodes run?")]
    NotWhole {
        /// The topic.
        topic: String,
        /// Copies asked for.
        replicas: u8,
    },
    /// One producer has partitions of several nodes, and one connection.
    #[error(
        "--producers: the partitions of one of them are on several nodes; at most as many \
             --partitions as --producers"
    )]
    Heads,
    /// A rate below one batch in the time of the run.
    #[error("at --rate {rate} no batch of {records} records is due in the whole run")]
    Rate {
        /// Records a second.
        rate: f64,
        /// Records in a batch.
        records: u64,
    },
    /// Some batches were refused; the report counts them.
    #[error("{batches} batches were refused, the first: {first}")]
    Refused {
        /// How many.
        batches: u64,
        /// What was said of the first.
        first: ClientError,
    },
    /// A receipt tells of less than was asked for.
    #[error("a receipt says {reached} where {asked} was asked for")]
    Level {
        /// The level asked for.
        asked: Durability,
        /// The level of the receipt.
        reached: Durability,
    },
    /// Some batches were never answered; the report has their age as their latency.
    #[error("{batches} batches were not answered within {}", humantime::format_duration(*.waited))]
    Unanswered {
        /// How many.
        batches: u64,
        /// How long one was waited for.
        waited: Duration,
    },
    /// A value has no room for the time when it was due.
    #[error("--record-bytes {asked}: a record that tells its time has at least {least}")]
    RecordBytes {
        /// What was asked for.
        asked: usize,
        /// What it takes.
        least: usize,
    },
    /// The consumers did not get what was acknowledged.
    #[error("{received} records were received of {acknowledged} that were acknowledged")]
    Missing {
        /// What they got.
        received: u64,
        /// What they should have got.
        acknowledged: u64,
    },
    /// A record is none of ours.
    #[error("a record of the tool's own topic does not tell when it was due")]
    Stamp,
    /// Reading does not get on.
    #[error("fetches from offset {0} bring nothing")]
    Stuck(Offset),
    /// There is nothing to read.
    #[error("the topic is empty")]
    Empty,
    /// fio ended with an error.
    #[error("fio failed: {0}")]
    Fio(String),
    /// What fio printed is not what is known of it.
    #[error("fio's report cannot be read: {0}")]
    FioReport(String),
    /// The system refused something that the measurement needs.
    #[error("cannot {what}: {source}")]
    System {
        /// What for.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The report cannot be written.
    #[error("cannot write the report: {0}")]
    Output(io::Error),
}

impl Error {
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }

    /// Whether an answer did not come in time.
    pub(crate) fn is_timeout(&self) -> bool {
        match self {
            Self::Unanswered { .. } => true,
            Self::Client(ClientError::Connection { source, .. }) => {
                source.kind() == io::ErrorKind::TimedOut
            }
            _ => false,
        }
    }

    /// The same with the batches of all producers.
    pub(crate) fn of_all(self, refused: u64, unanswered: u64) -> Self {
        match self {
            Self::Refused { first, .. } => Self::Refused { batches: refused, first },
            Self::Unanswered { waited, .. } => Self::Unanswered { batches: unanswered, waited },
            error => error,
        }
    }

    /// Whoever read the report has had enough: that is no failure.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// What a script may conclude: as of `catena` itself.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::InFlight { .. }
            | Self::Rate { .. }
            | Self::RecordBytes { .. }
            | Self::NotWhole { .. }
            | Self::Heads => ExitCode::from(2),
            Self::Client(ClientError::Option(_)) => ExitCode::from(2),
            Self::Client(ClientError::Unreachable { .. } | ClientError::Tls { .. }) => {
                ExitCode::from(3)
            }
            Self::Client(error) if error.class() == Class::Indeterminate => ExitCode::from(4),
            _ => ExitCode::FAILURE,
        }
    }
}
