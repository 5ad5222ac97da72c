//! What goes over a connection between two nodes.
//!
//! ```text
//! 0 magic u32 │ 4 version u8 │ 5 kind u8 │ 6 zero u16 │ 8 request u64 │ 16 length u32 │
//! 20 CRC-32 u32 of all other bytes │ 24 body
//! ```
//!
//! Little-endian. Who opened the connection asks, the other side answers under the number of the
//! request, in any order. The first frame is a [`Hello`].

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::tls::{speaks_tls, why_not};

/// `CATR`.
const MAGIC: u32 = u32::from_le_bytes(*b"CATR");
pub(super) const VERSION: u8 = 1;
pub(super) const HEADER_BYTES: usize = 24;
/// The body of a handshake's frame, at most.
pub(super) const HANDSHAKE_BYTES_MAX: usize = 256;

/// Why bytes are not a frame. The connection is closed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// It is something else.
    #[error("it does not begin as a frame does")]
    Magic,
    /// The other side speaks another version.
    #[error("version {0} is unknown to this build")]
    Version(u8),
    /// No frame is of this kind, or not here.
    #[error("kind {0} is not expected")]
    Kind(u8),
    /// Bytes that must be zero are not.
    #[error("reserved bytes are not zero")]
    Reserved,
    /// Longer than any may be. Nothing of it was read.
    #[error("a body of {0} bytes is too large")]
    TooLarge(u32),
    /// The bytes are not those that were sent.
    #[error("its checksum does not agree")]
    Damaged,
    /// The body is as sent, and means nothing to this build.
    #[error("its body means nothing to this build")]
    Meaning,
    /// The two sides cannot speak TLS with each other, or only one of them does.
    #[error("no TLS: {0}")]
    Tls(String),
    /// The connection ended, or stalled.
    #[error("the connection failed: {0}")]
    Io(String),
}

impl From<std::io::Error> for FrameError {
    fn from(error: std::io::Error) -> Self {
        match why_not(&error) {
            Some(why) => Self::Tls(why),
            None => Self::Io(error.to_string()),
        }
    }
}

impl From<tokio::time::error::Elapsed> for FrameError {
    fn from(_: tokio::time::error::Elapsed) -> Self {
        Self::Io("nothing happens".to_owned())
    }
}

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    /// [`Hello`]: who asks, and whom.
    Hello = 1,
    /// Whether it is heard: `Result<Welcome, HandshakeRefusal>`.
    Welcome = 2,
    /// openraft's request for a vote.
    Vote = 3,
    /// openraft's entries, or its heartbeat.
    Append = 4,
    /// A part of openraft's snapshot.
    Snapshot = 5,
    /// An entry for the leader to order.
    Propose = 6,
    /// The index that a read has to wait for.
    ReadIndex = 7,
    /// To any of these.
    Answer = 8,
}

impl Kind {
    fn of(byte: u8) -> Result<Self, FrameError> {
        use Kind::*;
        let all = [Hello, Welcome, Vote, Append, Snapshot, Propose, ReadIndex, Answer];
        all.into_iter().find(|kind| *kind as u8 == byte).ok_or(FrameError::Kind(byte))
    }
}

/// A frame, whole and checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) request: u64,
    pub(crate) body: Vec<u8>,
}

/// Who asks, and whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) cluster: u128,
    pub(super) from: u64,
    pub(super) incarnation: u64,
    pub(super) to: u64,
}

/// Who answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Welcome {
    pub(super) node: u64,
    pub(super) incarnation: u64,
}

/// Why a node is not heard.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeRefusal {
    /// It speaks another version.
    #[error("the other side speaks version {0}")]
    Version(u8),
    /// It is of another cluster.
    #[error("the other side is of cluster {0:032x}")]
    Cluster(u128),
    /// It looks for another node, or another one answers.
    #[error("the other side is node {0}")]
    Node(u64),
}

/// A frame's bytes.
pub(crate) fn encode(kind: Kind, request: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(&MAGIC.to_le_bytes());
    bytes.extend_from_slice(&[VERSION, kind as u8, 0, 0]);
    bytes.extend_from_slice(&request.to_le_bytes());
    let length = u32::try_from(body.len()).expect("limits are far below this");
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&checksum(&bytes, body).to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// The next frame, with a body of at most `bytes_max`.
pub(crate) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> Result<Frame, FrameError> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    read_body(header, stream, bytes_max).await
}

/// The first frame of a connection. One that begins with TLS where that is not spoken is told
/// apart.
pub(super) async fn read_first(
    stream: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> Result<Frame, FrameError> {
    let mut header = [0; HEADER_BYTES];
    let (begin, rest) = header.split_at_mut(2);
    stream.read_exact(begin).await?;
    if let Some(why) = speaks_tls(begin) {
        return Err(FrameError::Tls(why.to_owned()));
    }
    stream.read_exact(rest).await?;
    read_body(header, stream, bytes_max).await
}

async fn read_body(
    header: [u8; HEADER_BYTES],
    stream: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> Result<Frame, FrameError> {
    let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four"));
    if u32_at(0) != MAGIC {
        return Err(FrameError::Magic);
    }
    if header[4] != VERSION {
        return Err(FrameError::Version(header[4]));
    }
    let kind = Kind::of(header[5])?;
    if header[6..8] != [0, 0] {
        return Err(FrameError::Reserved);
    }
    let length = u32_at(16);
    if length as usize > bytes_max {
        return Err(FrameError::TooLarge(length));
    }
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).await?;
    if checksum(&header[..20], &body) != u32_at(20) {
        return Err(FrameError::Damaged);
    }
    let request = u64::from_le_bytes(header[8..16].try_into().expect("eight bytes"));
    Ok(Frame { kind, request, body })
}

/// Writes a frame's bytes, until they have left.
pub(super) async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

fn checksum(header: &[u8], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(header);
    crc.update(body);
    crc.finalize()
}

pub(crate) fn body(value: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(value).expect("whatever is sent can be written to memory")
}

pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(FrameError::Meaning),
    }
}
