//! The envelope around every rkyv archive on disk.
//!
//! Little-endian, 32 bytes, then the archive, then zeros to the block's end:
//!
//! ```text
//!  0 magic [8]   8 version u16   10 zero u16   12 CRC-32 u32   16 archive length u64   24 uid u64
//! ```
//!
//! The CRC covers bytes 0 to 12, 16 to 32 and the archive; it is checked before rkyv sees a byte.

use catena_format::{PartitionUid, checksum::crc32_of, limits::BLOCK_BYTES};
use rkyv::util::AlignedVec;

use crate::io::Memory;

const ENVELOPE_BYTES: usize = 32;

/// Which archive an envelope holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Manifest,
    Index,
}

impl Kind {
    const fn magic(self) -> [u8; 8] {
        match self {
            Self::Manifest => *b"CTNMANIF",
            Self::Index => *b"CTNINDEX",
        }
    }
    /// The newest version that this build knows.
    const fn newest(self) -> u16 {
        match self {
            Self::Manifest => crate::manifest::VERSION_CUT,
            Self::Index => crate::index::VERSION,
        }
    }
}

/// Why bytes are not the image looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Nothing, or something else, stands there; or its bytes are damaged.
    #[error("damaged or absent")]
    Damaged,
    /// A version that this build does not know.
    #[error("format version {0} is unknown to this build")]
    Version(u16),
    /// It belongs to another partition.
    #[error("it belongs to partition {0}")]
    Foreign(u64),
}

/// Puts `archive` into its envelope, in memory that can be written.
///
/// # Errors
/// When memory is exhausted.
pub(crate) fn wrap<M: Memory>(
    (kind, version): (Kind, u16),
    uid: PartitionUid,
    archive: &[u8],
    memory: &mut M,
) -> Result<M::Share, crate::io::MemoryExhausted> {
    let bytes = (ENVELOPE_BYTES + archive.len()).next_multiple_of(BLOCK_BYTES);
    // The groups of a segment hold memory until the manifest names it.
    let mut buffer = match kind {
        Kind::Manifest => memory.allocate_reserved(bytes),
        Kind::Index => memory.allocate(bytes),
    }?;
    let image = &mut buffer.as_mut()[..bytes];
    image[0..8].copy_from_slice(&kind.magic());
    image[8..10].copy_from_slice(&version.to_le_bytes());
    image[10..12].fill(0);
    image[16..24].copy_from_slice(&(archive.len() as u64).to_le_bytes());
    image[24..32].copy_from_slice(&uid.get().to_le_bytes());
    let end = ENVELOPE_BYTES + archive.len();
    image[ENVELOPE_BYTES..end].copy_from_slice(archive);
    image[end..].fill(0);
    let crc = crc32_of(&[&image[..12], &image[16..end]]);
    image[12..16].copy_from_slice(&crc.to_le_bytes());
    Ok(memory.freeze(buffer, bytes))
}

/// Whose image it says it is, unchecked.
pub(crate) fn owner(image: &[u8]) -> Option<PartitionUid> {
    let word = image.get(24..32)?.try_into().ok()?;
    Some(PartitionUid::new(u64::from_le_bytes(word)))
}

/// Checks an envelope and hands out the archive, aligned for rkyv.
///
/// # Errors
/// Says why there is none.
pub(crate) fn unwrap(
    kind: Kind,
    uid: PartitionUid,
    image: &[u8],
) -> Result<AlignedVec<16>, ImageError> {
    let word = |at: usize| image.get(at..at + 8).and_then(|b| <[u8; 8]>::try_from(b).ok());
    if word(0) != Some(kind.magic()) {
        return Err(ImageError::Damaged);
    }
    let length = word(16).map(u64::from_le_bytes).ok_or(ImageError::Damaged)?;
    let end = usize::try_from(length).ok().and_then(|l| l.checked_add(ENVELOPE_BYTES));
    let end = end.filter(|end| *end <= image.len()).ok_or(ImageError::Damaged)?;
    let crc = crc32_of(&[&image[..12], &image[16..end]]);
    if image[12..16] != crc.to_le_bytes() {
        return Err(ImageError::Damaged);
    }
    let version = u16::from_le_bytes([image[8], image[9]]);
    if !(1..=kind.newest()).contains(&version) {
        return Err(ImageError::Version(version));
    }
    let owner = word(24).map_or(0, u64::from_le_bytes);
    if owner != uid.get() {
        return Err(ImageError::Foreign(owner));
    }
    let mut archive = AlignedVec::with_capacity(end - ENVELOPE_BYTES);
    archive.extend_from_slice(&image[ENVELOPE_BYTES..end]);
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Heap;

    #[test]
    fn an_image_is_whole_or_nothing() {
        let uid = PartitionUid::new(9);
        let share = wrap((Kind::Index, 1), uid, &[7; 5000], &mut Heap).unwrap();
        assert_eq!(share.len(), 8192);
        assert_eq!(unwrap(Kind::Index, uid, &share).unwrap().as_slice(), [7; 5000]);
        assert_eq!(unwrap(Kind::Manifest, uid, &share).unwrap_err(), ImageError::Damaged);
        let other = PartitionUid::new(8);
        assert_eq!(unwrap(Kind::Index, other, &share).unwrap_err(), ImageError::Foreign(9));
        for at in 0..5032 {
            let mut bad = share.to_vec();
            bad[at] ^= 1;
            assert_eq!(unwrap(Kind::Index, uid, &bad).unwrap_err(), ImageError::Damaged, "{at}");
        }
        for length in [0, 7, 31, 32, 5031] {
            assert!(unwrap(Kind::Index, uid, &share[..length]).is_err());
        }
    }
}
