//! A frame between nodes.
//!
//! ```text
//! header  0 magic u16  2 kind u8  3 version u8  4 head u32  8 payload u32  12 partition uid u64
//!         20 crc u32
//! ```
//!
//! The CRC-32 goes over the header with zeros in its own place, the head, and the first 16 bytes of
//! each batch in the payload. What is not batches has a CRC of its own in the head.

use catena_format::{PartitionUid, checksum::Crc32};

use super::{PeerError, PeerKind, PeerMessage, batches};
use crate::limits::PEER_HEADER_BYTES;

/// The version of the peers' protocol that this build speaks.
pub const PEER_VERSION: u16 = 1;

const FRAME_MAGIC: u16 = 0xCA9E;
/// The version of every frame today.
const FRAME_VERSION: u8 = 1;

/// The header of a frame between nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerHeader {
    /// What the message is.
    pub kind: PeerKind,
    /// Bytes of the head that follows.
    pub head_bytes: u32,
    /// Bytes of the payload behind it.
    pub payload_bytes: u32,
    /// Which partition the message is about; zero: none.
    pub partition: PartitionUid,
    /// The CRC-32 of the frame.
    pub crc: u32,
}

impl PeerHeader {
    /// The bytes to send.
    #[must_use]
    pub fn encode(&self) -> [u8; PEER_HEADER_BYTES] {
        let mut bytes = [0; PEER_HEADER_BYTES];
        bytes[0..2].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
        bytes[2..4].copy_from_slice(&[self.kind as u8, FRAME_VERSION]);
        bytes[4..8].copy_from_slice(&self.head_bytes.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.partition.get().to_le_bytes());
        bytes[20..24].copy_from_slice(&self.crc.to_le_bytes());
        bytes
    }

    /// Reads them, and checks the limits of the kind, before anything is allocated for head or
    /// payload. The CRC can be checked once both are there: [`PeerHeader::decode`].
    ///
    /// # Errors
    /// See [`PeerError`].
    pub fn parse(bytes: &[u8; PEER_HEADER_BYTES]) -> Result<Self, PeerError> {
        let word = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().expect("four bytes"));
        if bytes[0..2] != FRAME_MAGIC.to_le_bytes() {
            return Err(PeerError::Magic);
        }
        if bytes[3] != FRAME_VERSION {
            return Err(PeerError::Version(bytes[3].into()));
        }
        let kind = PeerKind::from_number(bytes[2]).ok_or(PeerError::Kind(bytes[2]))?;
        let (head_bytes, payload_bytes, crc) = (word(4), word(8), word(20));
        let partition = u64::from_le_bytes(*bytes[12..].first_chunk().expect("eight bytes"));
        let partition = PartitionUid::new(partition);
        let header = Self { kind, head_bytes, payload_bytes, partition, crc };
        fitting(kind, head_bytes.into(), payload_bytes.into())?;
        about(kind, partition)?;
        Ok(header)
    }

    /// Bytes of the whole frame, this header included.
    #[must_use]
    pub const fn frame_bytes(&self) -> u64 {
        PEER_HEADER_BYTES as u64 + self.head_bytes as u64 + self.payload_bytes as u64
    }

    /// Reads the message of this header. Of batches only their first 16 bytes are checked, and that
    /// they are as long as their stamps say: the rest is under each stamp's `payload_crc`.
    ///
    /// # Errors
    /// Says what is wrong with the bytes.
    pub fn decode<'a>(&self, head: &'a [u8], payload: &[u8]) -> Result<PeerMessage<'a>, PeerError> {
        exact("head", self.head_bytes, head)?;
        exact("payload", self.payload_bytes, payload)?;
        let message = PeerMessage::read(self.kind, head)?;
        if self.crc_of(head, &message, &[payload])? != self.crc {
            return Err(PeerError::Checksum);
        }
        message.check()?;
        Ok(message)
    }

    /// The CRC-32 of a frame of this header; what comes along with a welcome is checked beside it.
    pub(super) fn crc_of<S: AsRef<[u8]>>(
        &self,
        head: &[u8],
        message: &PeerMessage<'_>,
        payload: &[S],
    ) -> Result<u32, PeerError> {
        let mut crc = Crc32::default();
        crc.update(&Self { crc: 0, ..*self }.encode());
        crc.update(head);
        match message {
            PeerMessage::ChainWelcome(welcome) => {
                let mut fold = Crc32::default();
                payload.iter().for_each(|part| fold.update(part.as_ref()));
                if fold.finish() != welcome.payload_crc {
                    return Err(PeerError::FoldChecksum);
                }
            }
            message => batches::update_crc(&mut crc, message.stamps(), payload)?,
        }
        Ok(crc.finish())
    }
}

impl PeerMessage<'_> {
    /// Writes header and head behind what `out` holds; the payload follows separately. It may be
    /// cut into slices anywhere, and is read for the CRC only.
    ///
    /// # Errors
    /// What the other side would refuse is not sent; `out` is then as it was.
    pub fn encode<S: AsRef<[u8]>>(
        &self,
        partition: PartitionUid,
        payload: &[S],
        out: &mut Vec<u8>,
    ) -> Result<(), PeerError> {
        let start = out.len();
        let header = self.append(partition, payload, out);
        match header {
            Ok(header) => {
                out[start..start + PEER_HEADER_BYTES].copy_from_slice(&header.encode());
                Ok(())
            }
            Err(error) => {
                out.truncate(start);
                Err(error)
            }
        }
    }

    fn append<S: AsRef<[u8]>>(
        &self,
        partition: PartitionUid,
        payload: &[S],
        out: &mut Vec<u8>,
    ) -> Result<PeerHeader, PeerError> {
        let kind = self.kind();
        about(kind, partition)?;
        self.check()?;
        let head_at = out.len() + PEER_HEADER_BYTES;
        out.resize(head_at, 0);
        self.write(out)?;
        let head = &out[head_at..];
        let (head_bytes, payload_bytes) =
            fitting(kind, head.len() as u64, batches::bytes_of(payload))?;
        let header = PeerHeader { kind, head_bytes, payload_bytes, partition, crc: 0 };
        Ok(PeerHeader { crc: header.crc_of(head, self, payload)?, ..header })
    }
}

/// A frame that has come whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerFrame<'a> {
    /// Its header.
    pub header: PeerHeader,
    /// Its head, not read yet.
    pub head: &'a [u8],
    /// Its payload.
    pub payload: &'a [u8],
    /// What stands behind it.
    pub rest: &'a [u8],
}

impl<'a> PeerFrame<'a> {
    /// The frame that `bytes` begin with; `None` when more must come.
    ///
    /// # Errors
    /// As of [`PeerHeader::parse`].
    pub fn split(bytes: &'a [u8]) -> Result<Option<Self>, PeerError> {
        let Some((header, rest)) = bytes.split_first_chunk() else { return Ok(None) };
        let header = PeerHeader::parse(header)?;
        let head = rest.split_at_checked(header.head_bytes as usize);
        let payload =
            head.and_then(|(_, rest)| rest.split_at_checked(header.payload_bytes as usize));
        let frame = head.zip(payload);
        Ok(frame.map(|((head, _), (payload, rest))| Self { header, head, payload, rest }))
    }

    /// Its message.
    ///
    /// # Errors
    /// As of [`PeerHeader::decode`].
    pub fn message(&self) -> Result<PeerMessage<'a>, PeerError> {
        self.header.decode(self.head, self.payload)
    }
}

/// Both lengths, if messages of the kind may be as long.
fn fitting(kind: PeerKind, head: u64, payload: u64) -> Result<(u32, u32), PeerError> {
    let limits = kind.limits();
    let within = |part, bytes: u64, limit| {
        let fits = u32::try_from(bytes).ok().filter(|bytes| *bytes <= limit);
        fits.ok_or(PeerError::TooLarge { part, bytes, limit })
    };
    let head = within("head", head, limits.head_bytes_max)?;
    Ok((head, within("payload", payload, limits.payload_bytes_max)?))
}

fn about(kind: PeerKind, partition: PartitionUid) -> Result<(), PeerError> {
    let names_one = partition != PartitionUid::default();
    if kind.is_about_partition() == names_one { Ok(()) } else { Err(PeerError::Partition) }
}

fn exact(part: &'static str, announced: u32, bytes: &[u8]) -> Result<(), PeerError> {
    let given = bytes.len();
    let is_exact = announced as usize == given;
    if is_exact { Ok(()) } else { Err(PeerError::Length { part, announced, given }) }
}
