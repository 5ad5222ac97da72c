//! The words in which a log asks for I/O and hears of it.
//!
//! Hands (`engine/uring`, `engine/blocking`, the simulated disk) perform an [`Op`] on the files of
//! one directory and answer each with exactly one [`Done`]. Contracts:
//!
//! - Operations run concurrently and complete in any order, unless the asker waits.
//! - A [`Op::Write`] that is `durable` has, on completion, *its own bytes* on stable storage and
//!   nothing else's. Bytes of other writes count only after an [`Op::Sync`] that was issued after
//!   their completion.
//! - A directory entry (after create, rename, remove) is durable after an [`Op::SyncDirectory`]
//!   issued after the operation's completion.
//! - A short write is an error. A failed write or flush is never retried by the hands.
//! - An operation dropped with its process may land or not, whole or in part, at any later moment;
//!   [`Op::Claim`] waits until none of an earlier process is on its way to a file.

use std::{fmt, ops::Range};

use bytes::{Bytes, BytesMut};
use catena_format::FileNumber;
/// What hands need of the layouts.
pub use catena_format::{Position, limits::BLOCK_BYTES};

pub use crate::purse::Purse;

/// Names one operation within its log; given by the log, never reused in a life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OpId(pub u64);

/// One of the two copies of a manifest. A new one is written over the older of them, and over the
/// other once it is durable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Slot {
    /// `manifest.0`
    First,
    /// `manifest.1`
    Second,
}

impl Slot {
    /// The slot of the other copy.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// A file of a log's directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FileName {
    /// `manifest.0` and `manifest.1`.
    Manifest(Slot),
    /// `<file number, 16 hex digits>.seg`.
    Segment(FileNumber),
    /// `<file number, 16 hex digits>.idx`: the index image and dedup snapshot of a segment.
    Index(FileNumber),
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest(Slot::First) => f.write_str("manifest.0"),
            Self::Manifest(Slot::Second) => f.write_str("manifest.1"),
            Self::Segment(number) => write!(f, "{:016x}.seg", number.get()),
            Self::Index(number) => write!(f, "{:016x}.idx", number.get()),
        }
    }
}

impl FileName {
    /// The file that `name` names; `None` for a name that no log gives.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "manifest.0" => return Some(Self::Manifest(Slot::First)),
            "manifest.1" => return Some(Self::Manifest(Slot::Second)),
            _ => {}
        }
        let (stem, extension) = name.split_once('.')?;
        let hex = stem.len() == 16 && stem.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !hex {
            return None;
        }
        let number = FileNumber::new(u64::from_str_radix(stem, 16).ok()?);
        if number >= FileNumber::MAX {
            return None;
        }
        match extension {
            "seg" => Some(Self::Segment(number)),
            "idx" => Some(Self::Index(number)),
            _ => None,
        }
    }
}

/// An operation on the files of one directory. Positions and lengths of reads and writes are
/// multiples of 4 KiB, buffers are aligned likewise.
#[derive(Clone, Debug)]
pub enum Op<S> {
    /// Tell the names and lengths of all files of the directory (those that [`FileName::parse`]
    /// knows). Creates the directory, durably, if it is absent. → [`Outcome::Files`]
    List,
    /// Wait until no write of an earlier process is on its way to `file`, of which no operation of
    /// this log is under way. A missing file is [`IoError::NotFound`]. → [`Outcome::Unit`]
    Claim {
        /// The file.
        file: FileName,
    },
    /// Grow `file` (created if absent) by zeros over `from..to` and make them and the length
    /// durable, as one unit; its directory entry is not. → [`Outcome::Unit`]
    Extend {
        /// The file.
        file: FileName,
        /// Its length so far.
        from: Position,
        /// Its length afterwards.
        to: Position,
    },
    /// Write `bytes`; beyond the end the file grows, an absent file is created. → [`Outcome::Unit`]
    Write {
        /// The file.
        file: FileName,
        /// Where the first byte goes.
        position: Position,
        /// What to write.
        bytes: S,
        /// Complete only when the bytes are on stable storage.
        durable: bool,
    },
    /// Make all bytes durable whose writes completed before this was issued. One that fails is
    /// never a mere want of space: see [`IoError::of_flush`]. → [`Outcome::Unit`]
    Sync {
        /// The file.
        file: FileName,
    },
    /// Make the directory's entries durable; failing as [`Op::Sync`] does. → [`Outcome::Unit`]
    SyncDirectory,
    /// Read `length` bytes; what lies beyond the end of the file is left out, so the answer may be
    /// shorter. A missing file is [`IoError::NotFound`]. → [`Outcome::Read`]
    Read {
        /// The file.
        file: FileName,
        /// Where the first byte stands.
        position: Position,
        /// How many bytes.
        length: usize,
    },
    /// Give back the space of `from..to`, in which nothing is stored that counts and nothing is
    /// being written: it reads as zeros, and after a crash perhaps as before. → [`Outcome::Unit`]
    Release {
        /// The file.
        file: FileName,
        /// Where the range begins.
        from: Position,
        /// Where it ends.
        to: Position,
    },
    /// Rename a file over an absent name; open descriptors follow. → [`Outcome::Unit`]
    Rename {
        /// The file.
        from: FileName,
        /// Its new name.
        to: FileName,
    },
    /// Remove a file, to which nothing is on its way; a missing one is [`IoError::NotFound`].
    /// → [`Outcome::Unit`]
    Remove {
        /// The file.
        file: FileName,
    },
}

impl<S> Op<S> {
    /// The file that it reads, changes or removes under its present name.
    #[must_use]
    pub fn file(&self) -> Option<FileName> {
        match self {
            Self::Claim { file }
            | Self::Extend { file, .. }
            | Self::Write { file, .. }
            | Self::Sync { file }
            | Self::Read { file, .. }
            | Self::Release { file, .. }
            | Self::Rename { from: file, .. }
            | Self::Remove { file } => Some(*file),
            Self::List | Self::SyncDirectory => None,
        }
    }
}

/// What an operation brought.
#[derive(Clone, Debug)]
pub enum Outcome<S> {
    /// Done.
    Unit,
    /// The bytes of an [`Op::Read`].
    Read(S),
    /// The answer to [`Op::List`], in the order of the names.
    Files(Vec<(FileName, u64)>),
}

impl<S> Outcome<S> {
    /// The bytes of a read.
    ///
    /// # Panics
    /// When hands answered a read with something else, against the contract.
    #[must_use]
    pub fn into_read(self) -> S {
        match self {
            Self::Read(bytes) => bytes,
            Self::Unit | Self::Files(_) => panic!("a read was answered without bytes"),
        }
    }

    /// The files of a list.
    ///
    /// # Panics
    /// When hands answered a list with something else, against the contract.
    #[must_use]
    pub fn into_files(self) -> Vec<(FileName, u64)> {
        match self {
            Self::Files(files) => files,
            Self::Unit | Self::Read(_) => panic!("a list was answered without files"),
        }
    }
}

/// Why an operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoError {
    /// The file is not there.
    #[error("no such file")]
    NotFound,
    /// The file system, or the reserve that is kept on it, is full (ENOSPC, EDQUOT, EFBIG).
    #[error("the file system is full")]
    NoSpace,
    /// The process has no more descriptors (EMFILE, ENFILE).
    #[error("no descriptor is free")]
    NoDescriptors,
    /// The file system does not accept writes (EROFS).
    #[error("the file system is read-only")]
    ReadOnly,
    /// Fewer bytes were written than asked.
    #[error("a write was cut short")]
    ShortWrite,
    /// Anything else, most often EIO.
    #[error("input/output error (errno {0})")]
    Device(i32),
}

impl IoError {
    /// The medium does not give what is stored there (EIO, ENODATA, EILSEQ): no want of anything.
    #[must_use]
    pub fn is_medium(self) -> bool {
        matches!(self, Self::Device(5 | 61 | 84))
    }

    /// What a flush fails with. Whoever waits for space tries again; but what a failed flush was to
    /// keep may be gone, and a second one would succeed and not say so.
    #[must_use]
    pub fn of_flush(self) -> Self {
        const ENOSPC: i32 = 28;
        if self == Self::NoSpace { Self::Device(ENOSPC) } else { self }
    }
}

/// The completion of an operation.
#[derive(Clone, Debug)]
pub struct Done<S> {
    /// Which one.
    pub id: OpId,
    /// How it went.
    pub result: Result<Outcome<S>, IoError>,
}

/// Memory is exhausted: the budget is spent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no memory within the budget")]
pub struct MemoryExhausted;

/// Aligned memory for writes, and cheap shares of it.
///
/// A buffer is filled by its one owner, then frozen; from then on its bytes never change, and the
/// disk, the readers' sockets and the successor's link all hold shares of the same bytes.
pub trait Memory {
    /// Aligned to 4 KiB, owned alone. Its content is unspecified until written.
    type Buffer: AsRef<[u8]> + AsMut<[u8]>;
    /// A share of frozen bytes: cloning and slicing copy nothing.
    type Share: AsRef<[u8]> + Clone;

    /// A buffer of `bytes`, a multiple of 4 KiB.
    ///
    /// # Errors
    /// [`MemoryExhausted`] at the budget, but for what is left for [`Memory::allocate_reserved`].
    fn allocate(&mut self, bytes: usize) -> Result<Self::Buffer, MemoryExhausted>;

    /// A buffer for what others wait for with all that they have: at the budget itself.
    ///
    /// # Errors
    /// [`MemoryExhausted`] at the budget.
    fn allocate_reserved(&mut self, bytes: usize) -> Result<Self::Buffer, MemoryExhausted> {
        self.allocate(bytes)
    }

    /// Whether so little of the budget is left that caches are to be given back.
    fn is_short(&self) -> bool {
        false
    }

    /// Ends the filling; keeps the first `bytes` (a multiple of 4 KiB).
    fn freeze(&mut self, buffer: Self::Buffer, bytes: usize) -> Self::Share;

    /// A part of a share.
    ///
    /// # Panics
    /// When the range lies outside of it.
    fn slice(share: &Self::Share, range: Range<usize>) -> Self::Share;
}

/// What [`Memory::allocate`] may use of a budget: a sixteenth is left for what others wait for.
#[must_use]
pub const fn unreserved(budget: usize) -> usize {
    budget - budget / 16
}

/// Memory from the heap, for offline tools, tests and the simulator; its alignment is the heap's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heap;

impl Memory for Heap {
    type Buffer = BytesMut;
    type Share = Bytes;

    fn allocate(&mut self, bytes: usize) -> Result<BytesMut, MemoryExhausted> {
        Ok(BytesMut::zeroed(bytes))
    }

    fn freeze(&mut self, mut buffer: BytesMut, bytes: usize) -> Bytes {
        buffer.truncate(bytes);
        buffer.freeze()
    }

    fn slice(share: &Bytes, range: Range<usize>) -> Bytes {
        share.slice(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_that_fails_is_no_want_of_space() {
        assert_eq!(IoError::NoSpace.of_flush(), IoError::Device(28));
        assert_eq!(IoError::NoDescriptors.of_flush(), IoError::NoDescriptors);
        assert!(crate::OpenError::from(IoError::NoSpace).is_want());
        assert!(!crate::OpenError::from(IoError::NoSpace.of_flush()).is_want());
    }

    #[test]
    fn file_names_read_back() {
        for file in [
            FileName::Manifest(Slot::First),
            FileName::Manifest(Slot::Second),
            FileName::Segment(FileNumber::new(0)),
            FileName::Index(FileNumber::new(FileNumber::MAX.get() - 1)),
        ] {
            assert_eq!(FileName::parse(&file.to_string()), Some(file));
        }
        let names = [
            "",
            "x",
            "manifest.2",
            "12.seg",
            "00000000000000AB.seg",
            "+000000000000001.seg",
            "2000000000000000.seg",
            "ffffffffffffffff.idx",
        ];
        for name in names {
            assert_eq!(FileName::parse(name), None, "{name}");
        }
    }
}
