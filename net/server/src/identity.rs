//! Who this node is: one small file, written before anything else and never changed after.
//!
//! Little-endian, 64 bytes: `0 magic [8], 8 version u16, 10 founded u8, 11 zeros, 16 cluster u128,
//! 32 node u64, 40 zeros, 60 CRC-32 of bytes 0 to 60`. Version 1 is a node alone, which orders its
//! catalog itself, version 2 one of a cluster.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use catena_format::{ClusterId, NodeId, checksum::crc32};
use catena_node::NodeIdentity;

use crate::{
    cli::Exit,
    machine::{random, replace_file},
};

const MAGIC: [u8; 8] = *b"CTNNODE\0";
const VERSION_ALONE: u16 = 1;
const VERSION_MEMBER: u16 = 2;
const BYTES: usize = 64;

/// Why a directory has no usable identity.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error(
        "{0} holds data but no identity file: it is not an empty directory, and not a whole one"
    )]
    Missing(PathBuf),
    #[error("{0} is damaged; restore it from a copy of this node's directory")]
    Damaged(PathBuf),
    #[error("{0} was written by version {1} of the format, which this build does not know")]
    Version(PathBuf, u16),
    #[error("cannot use {0}: {1}")]
    Io(PathBuf, io::Error),
}

impl IdentityError {
    /// What is not readable will not be so after a restart.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Io(..) => Exit::Failure,
            Self::Missing(_) | Self::Damaged(_) | Self::Version(..) => Exit::Damaged,
        }
    }
}

/// An identity, and whether the catalog beside it was begun for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    pub(crate) node: NodeIdentity,
    pub(crate) founded: bool,
    /// It is of a cluster, whose consensus orders the catalog.
    pub(crate) member: bool,
}

impl Identity {
    /// Reads the identity in `root`; founds a cluster of one in an empty directory.
    pub(crate) fn open(root: &Path) -> Result<Self, IdentityError> {
        match Self::read(root)? {
            Some(identity) => Ok(identity),
            None => Self::found(root),
        }
    }

    /// Reads the identity in `root`; `None` in a directory that holds nothing yet.
    pub(crate) fn read(root: &Path) -> Result<Option<Self>, IdentityError> {
        let path = root.join("meta").join("identity");
        match fs::read(&path) {
            Ok(bytes) => Self::decode(&bytes, &path).map(Some),
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(IdentityError::Io(path, e)),
            Err(_) if root.join("p").exists() || root.join("meta").join("catalog").exists() => {
                Err(IdentityError::Missing(root.to_owned()))
            }
            Err(_) => Ok(None),
        }
    }

    fn found(root: &Path) -> Result<Self, IdentityError> {
        let io = |e: io::Error| IdentityError::Io(root.to_owned(), e);
        let cluster = ClusterId::new(u128::from_le_bytes(random().map_err(io)?));
        let node = NodeIdentity { cluster, node: NodeId::new(1) };
        let identity = Self { node, founded: false, member: false };
        identity.write(root)?;
        Ok(identity)
    }

    /// Notes, once, that the catalog is there: from now on it is not created any more.
    pub(crate) fn note_founded(self, root: &Path) -> Result<(), IdentityError> {
        if self.founded {
            return Ok(());
        }
        Self { founded: true, ..self }.write(root)
    }

    /// Writes the identity durably, whole or not at all.
    pub(crate) fn write(&self, root: &Path) -> Result<(), IdentityError> {
        let meta = root.join("meta");
        replace_file(&meta, "identity", &self.encode()).map_err(|e| IdentityError::Io(meta, e))
    }

    fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        let version = if self.member { VERSION_MEMBER } else { VERSION_ALONE };
        bytes[8..10].copy_from_slice(&version.to_le_bytes());
        bytes[10] = u8::from(self.founded);
        bytes[16..32].copy_from_slice(&self.node.cluster.get().to_le_bytes());
        bytes[32..40].copy_from_slice(&self.node.node.get().to_le_bytes());
        let crc = crc32(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8], path: &Path) -> Result<Self, IdentityError> {
        let damaged = || IdentityError::Damaged(path.to_owned());
        let bytes: &[u8; BYTES] = bytes.try_into().map_err(|_| damaged())?;
        if bytes[0..8] != MAGIC || crc32(&bytes[..60]).to_le_bytes() != bytes[60..] {
            return Err(damaged());
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if ![VERSION_ALONE, VERSION_MEMBER].contains(&version) {
            return Err(IdentityError::Version(path.to_owned(), version));
        }
        if bytes[10] > 1 {
            return Err(damaged());
        }
        let cluster = u128::from_le_bytes(bytes[16..32].try_into().map_err(|_| damaged())?);
        let node = u64::from_le_bytes(bytes[32..40].try_into().map_err(|_| damaged())?);
        let node = NodeIdentity { cluster: ClusterId::new(cluster), node: NodeId::new(node) };
        Ok(Self { node, founded: bytes[10] == 1, member: version == VERSION_MEMBER })
    }
}
