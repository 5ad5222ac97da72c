//! Small files that are replaced as a whole.
//!
//! ```text
//! 0 magic [8] │ 8 version u32 │ 12 CRC-32 u32 of all other bytes │ 16 length u64 │ 24 body
//! ```
//!
//! A new one is written beside the old, made durable, and takes its name: a crash leaves the one or
//! the other. One that cannot be read is never taken for none.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};

const HEADER_BYTES: usize = 24;
const VERSION: u32 = 1;

/// Why a file cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It is not there, though it should be.
    #[error("it is missing")]
    Missing,
    /// It is another kind of file.
    #[error("it does not begin as such a file does")]
    Magic,
    /// A newer version wrote it.
    #[error("version {0} is unknown to this build")]
    Version(u32),
    /// It is shorter or longer than it says.
    #[error("it has {0} bytes, other than it says")]
    Length(u64),
    /// It is longer than any may be.
    #[error("it has {0} bytes, more than any may have")]
    TooLarge(u64),
    /// Its bytes are not what was written.
    #[error("its checksum does not agree")]
    Damaged,
    /// Its bytes are as written, and mean nothing to this build.
    #[error("what it says means nothing to this build")]
    Meaning,
    /// The disk could not.
    #[error("{0}")]
    Io(String),
}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

/// Replaces a file; durable when it returns.
pub(super) fn write(path: &Path, magic: [u8; 8], value: &impl Serialize) -> Result<(), FileError> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes = postcard::to_extend(value, bytes).map_err(|_| FileError::Meaning)?;
    let length = (bytes.len() - HEADER_BYTES) as u64;
    bytes[..8].copy_from_slice(&magic);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(&bytes);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    Ok(File::open(folder)?.sync_all()?)
}

/// Reads a file of at most `bytes_max` bytes; `None`: there is none.
pub(super) fn read<T: DeserializeOwned>(
    path: &Path,
    magic: [u8; 8],
    bytes_max: usize,
) -> Result<Option<T>, FileError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let length = file.metadata()?.len();
    if length > bytes_max as u64 {
        return Err(FileError::TooLarge(length));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    parse(&bytes, magic).map(Some)
}

fn parse<T: DeserializeOwned>(bytes: &[u8], magic: [u8; 8]) -> Result<T, FileError> {
    let length = bytes.len() as u64;
    let Some((header, body)) = bytes.split_at_checked(HEADER_BYTES) else {
        return Err(FileError::Length(length));
    };
    if header[..8] != magic {
        return Err(FileError::Magic);
    }
    let version = u32::from_le_bytes(header[8..12].try_into().expect("four bytes"));
    if version != VERSION {
        return Err(FileError::Version(version));
    }
    let said = u64::from_le_bytes(header[16..24].try_into().expect("eight bytes"));
    if said != body.len() as u64 {
        return Err(FileError::Length(length));
    }
    if header[12..16] != checksum(bytes).to_le_bytes() {
        return Err(FileError::Damaged);
    }
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(FileError::Meaning),
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..12]);
    crc.update(&bytes[16..]);
    crc.finalize()
}
