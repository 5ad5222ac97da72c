//! The messages between nodes, by kind.
//!
//! ```text
//! chain hello    0 epoch u32  4 session u64  12 start u64  20 end u64  28 durable u64
//!                36 epochs: count u32, (epoch u32, start u64)…  tail
//! chain welcome  0 epoch u32  4 session u64  12 keep u64  20 first u64  28 high watermark u64
//!                36 payload crc u32  40 tail
//! chain append   0 epoch u32  4 session u64  12 from u64  20 to u64  28 durable before u64
//!                36 log start u64
//!                44 stamps: count u32, (append time i64, payload crc u32, length u32)…  tail
//! chain commit   0 epoch u32  4 session u64  12 high watermark u64
//!                20 progress: count u32, (received u64, durable u64)…  tail
//! repair request   0 from u64  8 to u64  tail
//! repair response  0 from u64  8 to u64
//!                16 stamps: count u32, (append time i64, payload crc u32, length u32)…  tail
//! ```

use std::borrow::Cow;

use catena_format::{ClusterId, Epoch, Incarnation, JoinToken, Millis, NodeId, Offset};

use super::{PEER_VERSION, PeerError, PeerThread};
use crate::{
    codec::{Message, WireError, wire_struct},
    error::ErrorCode,
    frame::FrameLimits,
    limits::{
        PEER_BATCHES_BYTES_MAX, PEER_EPOCHS_MAX, PEER_FOLD_BYTES_MAX, PEER_HEAD_BYTES_MAX,
        PEER_PROGRESS_MAX, PEER_SHORT_HEAD_BYTES_MAX, PEER_STAMPS_MAX,
    },
};

wire_struct! {
    /// The first frame of who has dialled. This layout never changes.
    message PeerHello<'a> {
        /// The cluster.
        cluster: ClusterId,
        /// The node that was dialled.
        to_node: NodeId,
        /// Which of its lives; zero: any.
        to_incarnation: Incarnation,
        /// The node that has dialled.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
        /// Which of its threads: a core, or 65535 for the consensus.
        thread: PeerThread,
        /// How many cores it has.
        cores: u16,
        /// The least version of this protocol that it speaks.
        version_min: u16,
        /// The greatest.
        version_max: u16,
        /// Features, as bits; none is defined yet, and unknown ones are ignored.
        features: u64,
        /// Its software and that one's version.
        software: Cow<'a, str>,
    }
}

wire_struct! {
    /// The first frame of who was dialled. This layout never changes.
    message PeerWelcome<'a> {
        /// Why the link ends here.
        error: ErrorCode,
        /// The cluster.
        cluster: ClusterId,
        /// The node that was dialled.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
        /// Which of its threads: a core, or 65535 for the consensus.
        thread: PeerThread,
        /// How many cores it has.
        cores: u16,
        /// The least version of this protocol that it speaks.
        version_min: u16,
        /// The greatest.
        version_max: u16,
        /// The one that is spoken from here on; zero under an error.
        version: u16,
        /// Features, as bits; none is defined yet, and unknown ones are ignored.
        features: u64,
        /// Its software and that one's version.
        software: Cow<'a, str>,
        ; tail
        1 =>
            /// A sentence for a person.
            message: Cow<'a, str>,
    }
}

wire_struct! {
    /// The first frame of a process that has no number yet, and wants to become a node. The first
    /// core of any node takes it.
    message Join<'a> {
        /// What allows it to.
        token: JoinToken,
        /// Names the process, by chance: said again, it gets the same number.
        life: u64,
        /// Where clients reach it, host and port.
        client: Cow<'a, str>,
        /// Where other nodes reach it, host and port.
        peer: Cow<'a, str>,
        /// What it shares with the nodes that fail with it; empty: nothing that is known.
        rack: Cow<'a, str>,
        /// How many cores it has.
        cores: u16,
        /// It votes and holds no partition.
        witness: bool,
    }
}

wire_struct! {
    /// The answer, and the end of the connection.
    message Admitted<'a> {
        /// Why it has no number.
        error: ErrorCode,
        /// The cluster.
        cluster: ClusterId,
        /// Its number.
        node: NodeId,
        ; tail
        1 =>
            /// A sentence for a person.
            message: Cow<'a, str>,
    }
}

wire_struct! {
    /// Ask for a sign of life.
    message Ping {
        /// A time of the sender's choice, which comes back.
        time: u64,
    }
}

wire_struct! {
    /// A sign of life.
    message Pong {
        /// The time of the ping.
        time: u64,
    }
}

wire_struct! {
    /// What came was of an older epoch of the partition than the one here.
    message Fenced {
        /// The one here.
        epoch: Epoch,
    }
}

wire_struct! {
    /// An epoch that wrote a log.
    part EpochStart {
        /// The epoch.
        epoch: Epoch,
        /// Its first offset.
        start: Offset,
    }
}

wire_struct! {
    /// A successor begins a session: what its log holds.
    message ChainHello {
        /// In which epoch.
        epoch: Epoch,
        /// Of which session.
        session: u64,
        /// The first offset that is still there.
        start: Offset,
        /// The next offset to be given.
        end: Offset,
        /// The end of what is on its disk.
        durable: Offset,
        /// The epochs that wrote it, in order, at most 20,000.
        epochs: Vec<EpochStart>,
    }
}

wire_struct! {
    /// The answer: where the successor's log must be cut, and where batches follow from. The
    /// payload is what is known of the producers at `first`, or nothing.
    message ChainWelcome {
        /// In which epoch.
        epoch: Epoch,
        /// Of which session.
        session: u64,
        /// So far the logs are the same.
        keep: Offset,
        /// Batches follow from here; behind `keep`, if what lies between is kept nowhere.
        first: Offset,
        /// The predecessor's high watermark.
        high_watermark: Offset,
        /// CRC-32 of the whole payload; zero of none.
        payload_crc: u32,
    }
}

wire_struct! {
    /// What a batch is stored with, beside what it holds.
    part BatchStamp {
        /// The time of its append at the head.
        append_time: Millis,
        /// CRC-32 of the batch from its byte 16 on.
        payload_crc: u32,
        /// The whole batch in bytes.
        length: u32,
    }
}

wire_struct! {
    /// The payload is the batches of these offsets, back to back; none, if only the rest is news.
    message ChainAppend {
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
        /// Somebody waits for these batches to be received: that is told at once.
        urgent: bool,
        /// Of each batch, in order, at most 16,000.
        stamps: Vec<BatchStamp>,
    }
}

wire_struct! {
    /// How far a member has come.
    part MemberProgress {
        /// The end of what it has taken.
        received: Offset,
        /// The end of what is on its disk.
        durable: Offset,
    }
}

wire_struct! {
    /// What is durable everywhere, and how far each member is from the sender to the tail.
    message ChainCommit {
        /// In which epoch.
        epoch: Epoch,
        /// Of which session.
        session: u64,
        /// What is durable at all members.
        high_watermark: Offset,
        /// The last question that has come to the tail.
        answered: u64,
        /// The sender's first, at most 32.
        progress: Vec<MemberProgress>,
    }
}

wire_struct! {
    /// Committed batches whose bytes are damaged here are wanted from another member.
    message RepairRequest {
        /// The first damaged offset.
        from: Offset,
        /// Behind the last one.
        to: Offset,
    }
}

wire_struct! {
    /// The payload is the batches of these offsets, back to back: the first of those that were
    /// asked for, or none, if they are not there, or damaged here, too. Who may get these from
    /// somebody else than the one who asks answers when that has come to an end.
    message RepairResponse {
        /// The first offset that was asked for.
        from: Offset,
        /// Behind the last batch that comes along.
        to: Offset,
        /// Of each batch, in order, at most 16,000.
        stamps: Vec<BatchStamp>,
    }
}

macro_rules! kinds {
    ($($number:literal $name:ident($($message:tt)*) about $about:ident,
        head $head:ident, payload $payload:expr, $doc:literal;)*) => {
        /// What a message between nodes is. Numbers are never reused.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum PeerKind {
            $(#[doc = $doc] $name = $number,)*
        }

        impl PeerKind {
            /// Every kind, by number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The kind of a number.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// Whether it is about a partition.
            #[must_use]
            pub const fn is_about_partition(self) -> bool {
                match self { $(Self::$name => kinds!(@$about),)* }
            }

            /// How long its head and payload may be.
            #[must_use]
            pub const fn limits(self) -> FrameLimits {
                match self {
                    $(Self::$name => {
                        FrameLimits { head_bytes_max: $head, payload_bytes_max: $payload }
                    })*
                }
            }
        }

        /// A message between nodes.
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub enum PeerMessage<'a> {
            $(#[doc = $doc] $name($($message)*),)*
        }

        impl<'a> PeerMessage<'a> {
            /// What it is.
            #[must_use]
            pub const fn kind(&self) -> PeerKind {
                match self { $(Self::$name(_) => PeerKind::$name,)* }
            }

            /// Copies whatever is borrowed.
            #[must_use]
            pub fn into_owned(self) -> PeerMessage<'static> {
                match self { $(Self::$name(message) => PeerMessage::$name(message.into_owned()),)* }
            }

            pub(super) fn write(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
                match self { $(Self::$name(message) => message.encode(out),)* }
            }

            pub(super) fn read(kind: PeerKind, head: &'a [u8]) -> Result<Self, WireError> {
                Ok(match kind { $(PeerKind::$name => Self::$name(Message::decode(head)?),)* })
            }

            /// For the golden vectors.
            #[cfg(test)]
            pub(super) fn fields(&self) -> Vec<(&'static str, String)> {
                let fields = match self {
                    $(Self::$name(message) => $crate::sample::Sample::fields(message),)*
                };
                fields.expect("a message has fields")
            }

            #[cfg(test)]
            pub(super) fn sample(kind: PeerKind, source: &mut $crate::sample::Source<'_>) -> Self {
                match kind {
                    $(PeerKind::$name => Self::$name($crate::sample::Sample::sample(source)),)*
                }
            }
        }
    };
    (@partition) => { true };
    (@link) => { false };
}

kinds! {
    1 Hello(PeerHello<'a>) about link,
        head PEER_SHORT_HEAD_BYTES_MAX, payload 0, "Who has dialled: the first frame of a link.";
    2 Welcome(PeerWelcome<'a>) about link,
        head PEER_SHORT_HEAD_BYTES_MAX, payload 0, "Who was dialled: the first frame back.";
    3 Ping(Ping) about link,
        head PEER_SHORT_HEAD_BYTES_MAX, payload 0, "Ask for a sign of life.";
    4 Pong(Pong) about link,
        head PEER_SHORT_HEAD_BYTES_MAX, payload 0, "A sign of life.";
    5 Fenced(Fenced) about partition,
        head PEER_SHORT_HEAD_BYTES_MAX, payload 0, "The partition's epoch is newer here.";
    6 ChainHello(ChainHello) about partition,
        head PEER_HEAD_BYTES_MAX, payload 0, "What a successor's log holds.";
    7 ChainWelcome(ChainWelcome) about partition,
        head PEER_SHORT_HEAD_BYTES_MAX, payload PEER_FOLD_BYTES_MAX, "Where it goes on.";
    8 ChainAppend(ChainAppend) about partition,
        head PEER_HEAD_BYTES_MAX, payload PEER_BATCHES_BYTES_MAX, "Batches, and what is durable.";
    9 ChainCommit(ChainCommit) about partition,
        head PEER_SHORT_HEAD_BYTES_MAX, payload 0, "What is durable everywhere.";
    10 Join(Join<'a>) about link,
        head PEER_SHORT_HEAD_BYTES_MAX, payload 0, "Who wants to become a node.";
    11 Admitted(Admitted<'a>) about link,
        head PEER_SHORT_HEAD_BYTES_MAX, payload 0, "As which it is known from now on.";
    12 RepairRequest(RepairRequest) about partition,
        head PEER_SHORT_HEAD_BYTES_MAX, payload 0, "Which batches are damaged.";
    13 RepairResponse(RepairResponse) about partition,
        head PEER_HEAD_BYTES_MAX, payload PEER_BATCHES_BYTES_MAX, "They, from another copy.";
}

impl PeerHello<'_> {
    /// The greatest version that who has dialled and this build both speak.
    #[must_use]
    pub fn common_version(&self) -> Option<u16> {
        (self.version_min..=self.version_max).contains(&PEER_VERSION).then_some(PEER_VERSION)
    }
}

impl PeerMessage<'_> {
    /// Of the batches that come along.
    pub(super) fn stamps(&self) -> &[BatchStamp] {
        match self {
            Self::ChainAppend(append) => &append.stamps,
            Self::RepairResponse(response) => &response.stamps,
            _ => &[],
        }
    }

    /// Whether its fields can be true together.
    pub(super) fn check(&self) -> Result<(), PeerError> {
        match self {
            Self::ChainHello(hello) => hello.check(),
            Self::ChainWelcome(welcome) => {
                so(welcome.keep <= welcome.first, "a log goes on before what it keeps ends")
            }
            Self::ChainAppend(append) => offsets(append.from, append.to, &append.stamps),
            Self::RepairRequest(wanted) => so(wanted.from < wanted.to, "a repair of no offsets"),
            Self::RepairResponse(response) => offsets(response.from, response.to, &response.stamps),
            Self::ChainCommit(commit) => few("members", &commit.progress, PEER_PROGRESS_MAX),
            _ => Ok(()),
        }
    }
}

impl ChainHello {
    fn check(&self) -> Result<(), PeerError> {
        few("epochs", &self.epochs, PEER_EPOCHS_MAX)?;
        so(self.start <= self.end, "a log ends before its start")?;
        let rising = |a: &EpochStart, b: &EpochStart| a.epoch < b.epoch && a.start <= b.start;
        so(self.epochs.is_sorted_by(rising), "the epochs of a log are not in order")
    }
}

fn offsets(from: Offset, to: Offset, stamps: &[BatchStamp]) -> Result<(), PeerError> {
    few("batches", stamps, PEER_STAMPS_MAX)?;
    so(from <= to, "batches end before their first offset")?;
    let both_empty = (from == to) == stamps.is_empty();
    so(both_empty, "batches without offsets, or offsets without batches")
}

fn few<T>(what: &'static str, list: &[T], limit: usize) -> Result<(), PeerError> {
    let count = list.len();
    if count <= limit { Ok(()) } else { Err(PeerError::TooMany { what, count, limit }) }
}

fn so(holds: bool, otherwise: &'static str) -> Result<(), PeerError> {
    if holds { Ok(()) } else { Err(PeerError::Contradiction(otherwise)) }
}
