//! What a node's part in consensus may be told, and within which limits.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use catena_format::{ClusterId, NodeId, limits::BATCH_BYTES_MAX};

use crate::{store::StoreError, tls::Tls};

/// What an entry has beside its bytes, at most, on its way and on the disk.
pub(crate) const ENTRY_OVERHEAD_BYTES: usize = 64 << 10;
/// So many bytes of entries go to another node at once, or one entry: openraft gives an answer to
/// them no more time than to a heartbeat.
pub(crate) const APPEND_BYTES: usize = 256 << 10;
/// A connection on which nothing was asked for so long is closed by who opened it.
pub(crate) const IDLE_CLOSE: Duration = Duration::from_secs(20);
/// One on which nothing came for so long is closed by the other side.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(60);
/// Proposals and reads of another node that the leader has under way at once. A node asks for no
/// more, so that openraft's own requests, over the same connection, are never behind them.
pub(crate) const ORDERS_PER_NODE: usize = 64;
/// Requests of openraft that are carried out at once for another node; it rarely has two.
pub(crate) const REQUESTS_PER_CONNECTION: usize = 16;

const _: () = assert!(IDLE_CLOSE.as_secs() * 2 < IDLE_MAX.as_secs());

/// Times and limits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// How often the leader is heard of, and how long an answer to it may take before it asks
    /// again.
    pub heartbeat: Duration,
    /// Without word of a leader for a time between these, a voter wants to be it.
    pub election: (Duration, Duration),
    /// A snapshot is taken after so many entries.
    pub snapshot_every: u64,
    /// So many entries before a snapshot stay, for nodes that are a little behind.
    pub entries_kept: u64,
    /// The bytes of an entry, at most. The same at all nodes, as are the limits of snapshots.
    pub entry_bytes_max: usize,
    /// The bytes of entries, kept in memory, above which a snapshot is taken early and nothing is
    /// kept before it.
    pub log_bytes_max: usize,
    /// The bytes of a snapshot that is taken from another node, at most. One that has grown beyond
    /// is kept and read here all the same.
    pub snapshot_bytes_max: usize,
    /// The bytes of a snapshot that go to another node at once.
    pub snapshot_chunk_bytes: usize,
    /// The bytes of a segment of the log.
    pub segment_bytes: u64,
    /// Proposals and requests under way, at most.
    pub proposals_max: usize,
    /// The bytes of all proposals under way, at most.
    pub proposals_bytes_max: usize,
    /// Connections of other nodes, at most.
    pub connections_max: usize,
    /// How long a connection, and its handshake, may take to come about.
    pub connect_within: Duration,
    /// How long a proposal is kept that nobody could be asked to order.
    pub place_within: Duration,
    /// How long an answer is waited for, and a stalled connection.
    pub answer_within: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(50),
            election: (Duration::from_millis(150), Duration::from_millis(300)),
            snapshot_every: 5_000,
            entries_kept: 1_000,
            entry_bytes_max: 1 << 20,
            log_bytes_max: 64 << 20,
            snapshot_bytes_max: 256 << 20,
            snapshot_chunk_bytes: 1 << 20,
            segment_bytes: 16 << 20,
            proposals_max: 1024,
            proposals_bytes_max: 64 << 20,
            connections_max: 64,
            connect_within: Duration::from_millis(200),
            place_within: Duration::from_secs(1),
            answer_within: Duration::from_secs(5),
        }
    }
}

/// Why settings are not possible.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// An election must take longer than a heartbeat, and not always the same time.
    #[error("an election needs two different times, both longer than two heartbeats")]
    Election,
    /// An entry must fit in a batch, and within what may be under way.
    #[error("an entry cannot have up to {0} bytes")]
    EntryBytes(usize),
    /// Something is zero.
    #[error("{0} cannot be zero")]
    Zero(&'static str),
}

impl Settings {
    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        let (least, most) = self.election;
        if self.heartbeat.as_millis() == 0 {
            return Err(SettingsError::Zero("the heartbeat"));
        }
        if least <= self.heartbeat * 2 || most.as_millis() <= least.as_millis() {
            return Err(SettingsError::Election);
        }
        let most = BATCH_BYTES_MAX - ENTRY_OVERHEAD_BYTES;
        if self.entry_bytes_max > most.min(self.proposals_bytes_max) {
            return Err(SettingsError::EntryBytes(self.entry_bytes_max));
        }
        let counts = [
            ("the entries of a snapshot", self.snapshot_every as usize),
            ("the bytes of a part of a snapshot", self.snapshot_chunk_bytes),
            ("what may be under way", self.proposals_max),
            ("the number of connections", self.connections_max),
        ];
        match counts.into_iter().find(|(_, count)| *count == 0) {
            Some((what, _)) => Err(SettingsError::Zero(what)),
            None => Ok(()),
        }
    }

    /// The largest body of a frame.
    pub(crate) fn frame_bytes_max(&self) -> usize {
        let entries = APPEND_BYTES + self.entry_bytes_max;
        entries.max(self.snapshot_chunk_bytes) + ENTRY_OVERHEAD_BYTES
    }
}

/// Who takes part, and where it keeps its things.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of nobody else. It is created.
    pub directory: PathBuf,
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// Names this life of the node: proposals of another one are nobody's.
    pub incarnation: u64,
    /// Where other nodes reach this one: `host:port`.
    pub address: String,
    /// With what each connection to another node begins, before the handshake; whoever accepts one
    /// there has taken it off.
    pub preface: [u8; 16],
    /// How nodes speak behind the preface: all of them so, or all in plaintext.
    pub tls: Option<Arc<Tls>>,
    /// Times and limits.
    pub settings: Settings,
}

/// How a node comes to take part. What a directory was created as, it stays.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Begin {
    /// It is the first of a cluster, and votes alone. If it has founded it before, it goes on.
    Found {
        /// The machine's state so far.
        snapshot: Vec<u8>,
    },
    /// It takes part already, or its directory is empty: then it waits until the leader adds it.
    Member,
}

/// Why a node cannot take part.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The settings are not possible.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// What the directory holds cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No thread could be had.
    #[error("the consensus thread cannot be started: {0}")]
    Thread(#[source] io::Error),
    /// openraft does not start.
    #[error("consensus does not start: {0}")]
    Consensus(String),
}
