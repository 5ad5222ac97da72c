//! What the data directory's file system can do, found out before anything depends on it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use catena_log::io::BLOCK_BYTES;
use glommio::io::DmaFile;
use rustix::fs::{FlockOperation, OFlags};

const PROBE_FILE: &str = "probe";

/// Why a directory cannot hold logs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The file system has no direct I/O.
    #[error(
        "{file_system} under {path} refuses direct I/O (O_DIRECT): put the data directory on \
         ext4 or XFS on a local disk"
    )]
    NoDirectIo {
        /// The directory.
        path: PathBuf,
        /// Its file system.
        file_system: &'static str,
    },
    /// What was written did not come back.
    #[error("direct I/O under {path} does not read back what it wrote")]
    Mismatch {
        /// The directory.
        path: PathBuf,
    },
    /// Anything else.
    #[error("cannot use {path}: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Findings {
    /// The file system.
    pub file_system: &'static str,
    /// Overwrites go elsewhere: pre-writing gains nothing, every commit costs a journal write.
    pub copy_on_write: bool,
    /// Bytes free for the server.
    pub free_bytes: u64,
}

/// Tries direct, synchronous writes in `root`, as commits make them.
///
/// # Errors
/// Names the file system and the remedy.
pub fn probe(root: &Path) -> Result<Findings, ProbeError> {
    let io = |source| ProbeError::Io { path: root.to_owned(), source };
    create_directory(root).map_err(io)?;
    let stat = rustix::fs::statfs(root).map_err(|e| io(e.into()))?;
    let (file_system, copy_on_write) = name(stat.f_type as u64);
    let path = root.join(PROBE_FILE);
    let flags = (OFlags::DIRECT | OFlags::DSYNC).bits();
    let flags = i32::try_from(flags).expect("flags fit");
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    let written = options.custom_flags(flags).open(&path).and_then(|file| {
        let mut aligned = Aligned([7; BLOCK_BYTES]);
        file.write_all_at(&aligned.0, 0)?;
        aligned.0.fill(0);
        file.read_exact_at(&mut aligned.0, 0)?;
        Ok(aligned.0 == [7; BLOCK_BYTES])
    });
    let _ = fs::remove_file(&path);
    match written {
        Ok(true) => {}
        Ok(false) => return Err(ProbeError::Mismatch { path: root.to_owned() }),
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
            return Err(ProbeError::NoDirectIo { path: root.to_owned(), file_system });
        }
        Err(e) => return Err(io(e)),
    }
    let space = rustix::fs::statvfs(root).map_err(|e| io(e.into()))?;
    let free_bytes = space.f_bavail.saturating_mul(space.f_frsize);
    Ok(Findings { file_system, copy_on_write, free_bytes })
}

/// Creates a directory and what lacks above it; once this returns, a power cut leaves them there.
///
/// # Errors
/// As creating and syncing directories fails.
pub fn create_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        _ if path.is_dir() => return Ok(()),
        Some(parent) if parent != Path::new("") => create_directory(parent)?,
        _ => {}
    }
    match fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[repr(align(4096))]
struct Aligned([u8; BLOCK_BYTES]);

/// Names of file systems by their magic (`linux/magic.h`), and whether they copy on write.
fn name(magic: u64) -> (&'static str, bool) {
    match magic {
        0xEF53 => ("ext4", false),
        0x5846_5342 => ("XFS", false),
        0x9123_683E => ("btrfs", true),
        0x2FC1_2FC1 => ("ZFS", true),
        0xCA45_1A4E => ("bcachefs", true),
        0x0102_1994 => ("tmpfs", false),
        0x794C_7630 => ("overlayfs", false),
        0x6969 => ("NFS", false),
        0x6573_5546 => ("FUSE", false),
        _ => ("this file system", false),
    }
}

/// The first file that an executor opens decides, for its device, how reads are polled; an empty
/// one would be mistaken for pollable. So a written one is opened first.
pub(crate) async fn prime(root: &Path) -> io::Result<DmaFile> {
    let path = root.join("prime");
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
    file.write_all(&[0; BLOCK_BYTES])?;
    file.sync_all()?;
    drop(file);
    let first = DmaFile::open(&path).await.map_err(io::Error::from)?;
    first.close().await.map_err(io::Error::from)?;
    DmaFile::open(&path).await.map_err(io::Error::from)
}

/// The lock of a data directory, held until it is dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

/// Why a directory cannot be locked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process holds it.
    #[error("{path} is in use by process {holder}")]
    Held {
        /// The directory.
        path: PathBuf,
        /// Its process id, as far as known.
        holder: String,
    },
    /// Anything else.
    #[error("cannot lock {path}: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// How long the lock is waited for: a process that was killed lets go of it only when the kernel
/// has taken it apart.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Locks a data directory against other servers; waits a little for one that is ending.
///
/// # Errors
/// Names the process that holds it.
pub fn lock_directory(root: &Path) -> Result<DirectoryLock, LockError> {
    let io = |source| LockError::Io { path: root.to_owned(), source };
    create_directory(root).map_err(io)?;
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(root.join("lock")).map_err(io)?;
    let began = Instant::now();
    while rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if began.elapsed() < LOCK_WAIT {
            std::thread::sleep(LOCK_PAUSE);
            continue;
        }
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder);
        let holder = holder.trim().to_owned();
        return Err(LockError::Held { path: root.to_owned(), holder });
    }
    file.set_len(0).map_err(io)?;
    write!(file, "{}", std::process::id()).map_err(io)?;
    Ok(DirectoryLock { _file: file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_server_and_the_next_waits_for_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let first = lock_directory(directory.path()).unwrap();
        let refused = lock_directory(directory.path()).unwrap_err();
        assert!(matches!(refused, LockError::Held { holder, .. }
            if holder == std::process::id().to_string()));
        let path = directory.path().to_owned();
        let next = std::thread::spawn(move || lock_directory(&path).map(drop));
        drop(first);
        next.join().unwrap().unwrap();
    }

    #[test]
    fn what_a_file_system_is_called() {
        assert_eq!(name(0xEF53), ("ext4", false));
        assert_eq!(name(0x9123_683E), ("btrfs", true));
        let directory = tempfile::tempdir().unwrap();
        match probe(directory.path()) {
            Ok(findings) => assert!(findings.free_bytes > 0),
            Err(ProbeError::NoDirectIo { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}
