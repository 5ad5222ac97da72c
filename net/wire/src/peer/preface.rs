//! The first bytes of a connection between nodes.
//!
//! ```text
//! 0 magic [8] "CTPEER\r\n"  8 version u16  10 wanted thread u16 (0xffff: consensus)  12 zero u32
//! ```

use super::PeerError;
use crate::{codec::fields_as, frame, limits::PREFACE_BYTES};

pub(crate) const PREFACE_MAGIC: [u8; 8] = *b"CTPEER\r\n";
const PREFACE_VERSION: u16 = 1;

/// A thread of a node that speaks with others. On the wire: the core u16, or 0xffff.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PeerThread {
    /// That of a core, whose partitions the connection is about. There is no core 0xffff.
    Core(u16),
    /// That of the consensus.
    Consensus,
}

impl PeerThread {
    /// As it stands on the wire.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Core(core) => core,
            Self::Consensus => u16::MAX,
        }
    }

    /// From the wire.
    #[must_use]
    pub const fn from_number(number: u16) -> Self {
        match number {
            u16::MAX => Self::Consensus,
            core => Self::Core(core),
        }
    }
}

fields_as! {
    PeerThread as u16: |thread| thread.number(), |raw| Ok(Self::from_number(raw));
}

/// The first bytes of a connection: to whom of the node it should go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerPreface {
    /// Who is wanted.
    pub to: PeerThread,
}

impl PeerPreface {
    /// The bytes to send.
    #[must_use]
    pub fn encode(self) -> [u8; PREFACE_BYTES] {
        let mut bytes = [0; PREFACE_BYTES];
        bytes[..8].copy_from_slice(&PREFACE_MAGIC);
        bytes[8..10].copy_from_slice(&PREFACE_VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.to.number().to_le_bytes());
        bytes
    }

    /// Reads them.
    ///
    /// # Errors
    /// [`PeerError::Client`], [`PeerError::Magic`], [`PeerError::Version`] or
    /// [`PeerError::Reserved`].
    pub fn parse(bytes: &[u8; PREFACE_BYTES]) -> Result<Self, PeerError> {
        if bytes[..8] == frame::PREFACE_MAGIC {
            return Err(PeerError::Client);
        }
        if bytes[..8] != PREFACE_MAGIC {
            return Err(PeerError::Magic);
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != PREFACE_VERSION {
            return Err(PeerError::Version(version));
        }
        if bytes[12..] != [0; 4] {
            return Err(PeerError::Reserved);
        }
        Ok(Self { to: PeerThread::from_number(u16::from_le_bytes([bytes[10], bytes[11]])) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FrameError, Preface};

    #[test]
    fn clients_and_nodes_at_the_wrong_listener_are_told_so() {
        let client = Preface { core: Some(3) }.encode();
        let node = PeerPreface { to: PeerThread::Core(3) }.encode();
        assert_eq!(PeerPreface::parse(&client), Err(PeerError::Client));
        assert_eq!(Preface::parse(&node), Err(FrameError::Peer));
        assert_eq!(PeerPreface::parse(b"GET / HTTP/1.1\r\n"), Err(PeerError::Magic));
    }

    #[test]
    fn a_preface_reads_back_and_any_other_is_refused() {
        for to in [PeerThread::Core(0), PeerThread::Core(0xfffe), PeerThread::Consensus] {
            let preface = PeerPreface { to };
            assert_eq!(PeerPreface::parse(&preface.encode()), Ok(preface));
        }
        let mut bytes = PeerPreface { to: PeerThread::Consensus }.encode();
        assert_eq!(bytes[10..12], [0xff, 0xff]);
        bytes[12] = 1;
        assert_eq!(PeerPreface::parse(&bytes), Err(PeerError::Reserved));
        bytes[8] = 2;
        assert_eq!(PeerPreface::parse(&bytes), Err(PeerError::Version(2)));
    }
}
