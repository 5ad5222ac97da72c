//! The preface of a connection and the header of a frame.
//!
//! ```text
//! preface  0 magic [8] "CATENA\r\n"  8 version u16  10 wanted core u16 (0xffff: any)  12 zero u32
//! header   0 magic u16  2 API u8  3 version u8  4 correlation u32  8 head u32  12 payload u32
//! ```
//!
//! The payload (record batches) stands behind the head, so that either end can keep it in buffers
//! of its own: nothing here ever copies it.

use crate::{
    api::Api,
    codec::{Message, WireError},
    limits::{
        FRAME_HEADER_BYTES, HANDSHAKE_HEAD_BYTES_MAX, PREFACE_BYTES, REQUEST_HEAD_BYTES_MAX,
        REQUEST_PAYLOAD_BYTES_MAX, RESPONSE_HEAD_BYTES_MAX, RESPONSE_PAYLOAD_BYTES_MAX,
    },
    peer,
};

/// The version of every request and response today.
pub const VERSION: u8 = 1;
/// The version of a [`crate::Refusal`], which stands for any response and never changes.
pub const VERSION_REFUSAL: u8 = 0;

pub(crate) const PREFACE_MAGIC: [u8; 8] = *b"CATENA\r\n";
const PREFACE_VERSION: u16 = 1;
const FRAME_MAGIC: u16 = 0xCA7E;

/// The first bytes of a connection: a hint to which core it should go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Preface {
    /// The core that owns what the client wants; `None` for any.
    pub core: Option<u16>,
}

/// Why a connection or a frame is not Catena's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Other first bytes: another protocol.
    #[error("this is not Catena's protocol")]
    Magic,
    /// The preface of a node that dials another one.
    #[error("this is the protocol of nodes among each other, which have a listener of their own")]
    Peer,
    /// A version of the protocol that this build does not speak.
    #[error("protocol version {0} is not spoken here")]
    Version(u16),
    /// Reserved bytes are not zero.
    #[error("reserved bytes are not zero")]
    Reserved,
    /// Head or payload is longer than allowed.
    #[error("a message of {bytes} bytes is longer than the limit of {limit}")]
    TooLarge {
        /// The announced length.
        bytes: u32,
        /// The limit.
        limit: u32,
    },
}

impl Preface {
    /// The bytes to send. Core 0xffff is no core: it means any.
    #[must_use]
    pub fn encode(self) -> [u8; PREFACE_BYTES] {
        let mut bytes = [0; PREFACE_BYTES];
        bytes[..8].copy_from_slice(&PREFACE_MAGIC);
        bytes[8..10].copy_from_slice(&PREFACE_VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.core.unwrap_or(u16::MAX).to_le_bytes());
        bytes
    }

    /// Reads them.
    ///
    /// # Errors
    /// See [`FrameError`].
    pub fn parse(bytes: &[u8; PREFACE_BYTES]) -> Result<Self, FrameError> {
        if bytes[..8] == peer::PREFACE_MAGIC {
            return Err(FrameError::Peer);
        }
        if bytes[..8] != PREFACE_MAGIC {
            return Err(FrameError::Magic);
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != PREFACE_VERSION {
            return Err(FrameError::Version(version));
        }
        if bytes[12..] != [0; 4] {
            return Err(FrameError::Reserved);
        }
        let core = u16::from_le_bytes([bytes[10], bytes[11]]);
        Ok(Self { core: (core != u16::MAX).then_some(core) })
    }
}

/// How long a frame may be, asked before anything is allocated for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameLimits {
    /// The longest head, in bytes.
    pub head_bytes_max: u32,
    /// The longest payload, in bytes.
    pub payload_bytes_max: u32,
}

impl FrameLimits {
    /// None at all, to read a header that is to be refused: [`FrameHeader::check`] comes next.
    pub const NONE: Self = Self { head_bytes_max: u32::MAX, payload_bytes_max: u32::MAX };
    /// What a server takes before the handshake has succeeded.
    pub const HANDSHAKE: Self =
        Self { head_bytes_max: HANDSHAKE_HEAD_BYTES_MAX, payload_bytes_max: 0 };
    /// What a server takes at most.
    pub const REQUEST: Self = Self {
        head_bytes_max: REQUEST_HEAD_BYTES_MAX,
        payload_bytes_max: REQUEST_PAYLOAD_BYTES_MAX,
    };
    /// What a client takes at most.
    pub const RESPONSE: Self = Self {
        head_bytes_max: RESPONSE_HEAD_BYTES_MAX,
        payload_bytes_max: RESPONSE_PAYLOAD_BYTES_MAX,
    };

    /// The longest frame, its header included.
    #[must_use]
    pub const fn frame_bytes_max(&self) -> u64 {
        FRAME_HEADER_BYTES as u64 + self.head_bytes_max as u64 + self.payload_bytes_max as u64
    }
}

/// The header of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// The number of the API; an unknown one is answered with an error.
    pub api: u8,
    /// The version of the head's layout.
    pub version: u8,
    /// Chosen by the client, repeated in the response.
    pub correlation: u32,
    /// Bytes of the head that follows.
    pub head_bytes: u32,
    /// Bytes of the payload behind it.
    pub payload_bytes: u32,
}

impl FrameHeader {
    /// The bytes to send.
    #[must_use]
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes[0..2].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
        bytes[2] = self.api;
        bytes[3] = self.version;
        bytes[4..8].copy_from_slice(&self.correlation.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.head_bytes.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes
    }

    /// Reads them, before anything is allocated for head or payload.
    ///
    /// # Errors
    /// See [`FrameError`]: the connection cannot go on.
    pub fn parse(
        bytes: &[u8; FRAME_HEADER_BYTES],
        limits: FrameLimits,
    ) -> Result<Self, FrameError> {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four"));
        if bytes[0..2] != FRAME_MAGIC.to_le_bytes() {
            return Err(FrameError::Magic);
        }
        let (api, version) = (bytes[2], bytes[3]);
        let (head_bytes, payload_bytes) = (word(8), word(12));
        let header = Self { api, version, correlation: word(4), head_bytes, payload_bytes };
        header.check(limits)?;
        Ok(header)
    }

    /// Whether the frame is as short as it must be.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`].
    pub fn check(&self, limits: FrameLimits) -> Result<(), FrameError> {
        within(self.head_bytes, limits.head_bytes_max)?;
        within(self.payload_bytes, limits.payload_bytes_max)
    }

    /// Bytes of the whole frame, this header included.
    #[must_use]
    pub const fn frame_bytes(&self) -> u64 {
        FRAME_HEADER_BYTES as u64 + self.head_bytes as u64 + self.payload_bytes as u64
    }

    /// Whether the head is a [`crate::Refusal`] in place of a response.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        self.version == VERSION_REFUSAL
    }
}

fn within(bytes: u32, limit: u32) -> Result<(), FrameError> {
    if bytes <= limit { Ok(()) } else { Err(FrameError::TooLarge { bytes, limit }) }
}

/// Writes header and head of a message behind what `out` holds; the payload follows separately.
///
/// # Errors
/// [`WireError::TextTooLong`] or [`WireError::MessageTooLong`]; `out` is then as it was.
pub fn encode_message<'m, M: Message<'m>>(
    api: Api,
    correlation: u32,
    message: &M,
    payload_bytes: usize,
    out: &mut Vec<u8>,
) -> Result<(), WireError> {
    encode_version((api as u8, VERSION), correlation, message, payload_bytes, out)
}

/// Writes a refusal in place of the response to a request of any API and version, known or not.
///
/// # Errors
/// None in practice: a refusal is short. `out` would be as it was.
pub fn encode_refusal(
    api: u8,
    correlation: u32,
    refusal: &crate::Refusal<'_>,
    out: &mut Vec<u8>,
) -> Result<(), WireError> {
    encode_version((api, VERSION_REFUSAL), correlation, refusal, 0, out)
}

fn encode_version<'m, M: Message<'m>>(
    (api, version): (u8, u8),
    correlation: u32,
    message: &M,
    payload_bytes: usize,
    out: &mut Vec<u8>,
) -> Result<(), WireError> {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    let head = message.encode(out).and_then(|()| {
        let limits = FrameLimits::RESPONSE;
        let head_bytes = fitting(out.len() - start - FRAME_HEADER_BYTES, limits.head_bytes_max)?;
        let payload_bytes = fitting(payload_bytes, limits.payload_bytes_max)?;
        Ok(FrameHeader { api, version, correlation, head_bytes, payload_bytes })
    });
    match head {
        Ok(header) => {
            out[start..start + FRAME_HEADER_BYTES].copy_from_slice(&header.encode());
            Ok(())
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

fn fitting(bytes: usize, limit: u32) -> Result<u32, WireError> {
    let fits = u32::try_from(bytes).ok().filter(|bytes| *bytes <= limit);
    fits.ok_or(WireError::MessageTooLong(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DeleteTopicRequest, PingRequest};

    const HEADER: FrameHeader =
        FrameHeader { api: 1, version: 1, correlation: 9, head_bytes: 40, payload_bytes: 100 };

    #[test]
    fn strangers_are_told_apart_by_their_first_bytes() {
        assert_eq!(Preface::parse(b"GET / HTTP/1.1\r\n"), Err(FrameError::Magic));
        let mut newer = Preface { core: None }.encode();
        newer[8] = 2;
        assert_eq!(Preface::parse(&newer), Err(FrameError::Version(2)));
        newer[8..13].copy_from_slice(&[1, 0, 0, 0, 1]);
        assert_eq!(Preface::parse(&newer), Err(FrameError::Reserved));
    }

    #[test]
    fn a_length_is_refused_before_it_is_believed() {
        let parse = |header: FrameHeader, limits| FrameHeader::parse(&header.encode(), limits);
        assert_eq!(parse(HEADER, FrameLimits::REQUEST), Ok(HEADER));
        let giant = FrameHeader { payload_bytes: u32::MAX, ..HEADER };
        let limit = REQUEST_PAYLOAD_BYTES_MAX;
        let error = FrameError::TooLarge { bytes: u32::MAX, limit };
        assert_eq!(parse(giant, FrameLimits::REQUEST), Err(error));
        let error = FrameError::TooLarge { bytes: 100, limit: 0 };
        assert_eq!(parse(HEADER, FrameLimits::HANDSHAKE), Err(error));
    }

    #[test]
    fn what_cannot_be_sent_leaves_the_buffer_as_it_was() {
        let mut out = vec![1, 2, 3];
        let long = DeleteTopicRequest { name: "n".repeat(65_536).into() };
        let refused = encode_message(Api::DeleteTopic, 1, &long, 0, &mut out);
        assert_eq!(refused, Err(WireError::TextTooLong(65_536)));
        let payload = RESPONSE_PAYLOAD_BYTES_MAX as usize + 1;
        let refused = encode_message(Api::Ping, 1, &PingRequest {}, payload, &mut out);
        assert_eq!(refused, Err(WireError::MessageTooLong(payload)));
        assert_eq!(out, [1, 2, 3]);
    }
}
