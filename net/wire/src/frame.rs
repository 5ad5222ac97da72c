//! The preface of a connection and the header of a message.

use crate::field::Message;

/// Length of the preface.
pub const PREFACE_BYTES: usize = 16;
/// Length of a message header.
pub const HEADER_BYTES: usize = 16;
/// The longest head.
pub const HEAD_BYTES_MAX: u32 = 8 << 20;
/// The longest payload: the largest batch, or as much as a fetch may bring.
pub const PAYLOAD_BYTES_MAX: u32 = 64 << 20;
/// The version of every request and response today.
pub const VERSION: u8 = 1;

const PREFACE_MAGIC: [u8; 8] = *b"CATENA\r\n";
const PREFACE_VERSION: u16 = 1;
const HEADER_MAGIC: u16 = 0xCA7E;

const _: () = assert!(PAYLOAD_BYTES_MAX as usize >= catena_format::limits::BATCH_BYTES_MAX);

/// What a request is about. Numbers are never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Api {
    Handshake = 0,
    Produce = 1,
    Fetch = 2,
    ListOffsets = 3,
    Metadata = 4,
    CreateTopic = 5,
    AlterTopic = 6,
    DeleteTopic = 7,
    DescribeTopic = 8,
    Trim = 9,
    ProducerId = 10,
    Ping = 11,
}

impl Api {
    /// Every API.
    pub const ALL: [Self; 12] = [
        Self::Handshake,
        Self::Produce,
        Self::Fetch,
        Self::ListOffsets,
        Self::Metadata,
        Self::CreateTopic,
        Self::AlterTopic,
        Self::DeleteTopic,
        Self::DescribeTopic,
        Self::Trim,
        Self::ProducerId,
        Self::Ping,
    ];

    /// The API of a number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|api| *api as u8 == number)
    }
}

/// The first bytes of a connection: a hint to which core it should go.
///
/// `0 magic [8] "CATENA\r\n", 8 version u16, 10 wanted core u16 (0xffff: any), 12 zero u32`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Preface {
    /// The core that owns what the client wants; `None` for any.
    pub core: Option<u16>,
}

/// Why a connection or a message is not Catena's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Other first bytes: another protocol.
    #[error("this is not Catena's protocol")]
    Magic,
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
    /// The bytes to send.
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
    /// See [`HeaderError`].
    pub fn decode(bytes: &[u8; PREFACE_BYTES]) -> Result<Self, HeaderError> {
        if bytes[..8] != PREFACE_MAGIC {
            return Err(HeaderError::Magic);
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != PREFACE_VERSION {
            return Err(HeaderError::Version(version));
        }
        if bytes[12..] != [0; 4] {
            return Err(HeaderError::Reserved);
        }
        let core = u16::from_le_bytes([bytes[10], bytes[11]]);
        Ok(Self { core: (core != u16::MAX).then_some(core) })
    }
}

/// The header of a message.
///
/// `0 magic u16, 2 API u8, 3 version u8, 4 correlation u32, 8 head length u32,
/// 12 payload length u32`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
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

impl Header {
    /// The bytes to send.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..2].copy_from_slice(&HEADER_MAGIC.to_le_bytes());
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
    /// See [`HeaderError`]: the connection cannot go on.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, HeaderError> {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four"));
        if bytes[0..2] != HEADER_MAGIC.to_le_bytes() {
            return Err(HeaderError::Magic);
        }
        let (head_bytes, payload_bytes) = (word(8), word(12));
        for (bytes, limit) in [(head_bytes, HEAD_BYTES_MAX), (payload_bytes, PAYLOAD_BYTES_MAX)] {
            if bytes > limit {
                return Err(HeaderError::TooLarge { bytes, limit });
            }
        }
        let (api, version) = (bytes[2], bytes[3]);
        Ok(Self { api, version, correlation: word(4), head_bytes, payload_bytes })
    }
}

/// Writes header and head of a message behind what `out` holds; the payload follows separately.
///
/// # Panics
/// When the head is longer than [`HEAD_BYTES_MAX`].
pub fn encode_message<M: Message>(
    api: Api,
    correlation: u32,
    message: &M,
    payload_bytes: u32,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    message.encode(out);
    let head_bytes = u32::try_from(out.len() - start - HEADER_BYTES).expect("a head is small");
    assert!(head_bytes <= HEAD_BYTES_MAX, "a head is small");
    let header =
        Header { api: api as u8, version: VERSION, correlation, head_bytes, payload_bytes };
    out[start..start + HEADER_BYTES].copy_from_slice(&header.encode());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefaces_read_back_and_strangers_are_told_apart() {
        for core in [None, Some(0), Some(7)] {
            assert_eq!(Preface::decode(&Preface { core }.encode()), Ok(Preface { core }));
        }
        assert_eq!(Preface::decode(b"GET / HTTP/1.1\r\n"), Err(HeaderError::Magic));
        let mut newer = Preface { core: None }.encode();
        newer[8] = 2;
        assert_eq!(Preface::decode(&newer), Err(HeaderError::Version(2)));
    }

    #[test]
    fn a_header_is_refused_before_its_length_is_believed() {
        let header =
            Header { api: 1, version: 1, correlation: 9, head_bytes: 40, payload_bytes: 100 };
        assert_eq!(Header::decode(&header.encode()), Ok(header));
        let giant = Header { payload_bytes: u32::MAX, ..header };
        assert!(matches!(Header::decode(&giant.encode()), Err(HeaderError::TooLarge { .. })));
    }

    #[test]
    fn api_numbers_are_distinct() {
        for (at, api) in Api::ALL.into_iter().enumerate() {
            assert_eq!(api as usize, at);
            assert_eq!(Api::from_number(api as u8), Some(api));
        }
        assert_eq!(Api::from_number(200), None);
    }
}
