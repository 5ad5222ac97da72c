//! Operations on the files of one log.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use catena_log::io::{FileName, Heap, IoError, Memory, Op, Outcome, Position};
use rustix::{fs::FallocateFlags, io::Errno};

/// Zeros are written in steps of this.
const ZEROS_BYTES: usize = 1 << 20;

/// Frozen bytes, as [`Heap`] makes them.
pub type Share = <Heap as Memory>::Share;

/// The directory of one log.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// A log's directory; an [`Op::List`] creates it.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Performs an operation, and returns when it is done.
    ///
    /// # Errors
    /// As the contract of [`catena_log::io`] says.
    pub fn perform(&self, op: Op<Share>) -> Result<Outcome<Share>, IoError> {
        match op {
            Op::List => return self.list().map(Outcome::Files).map_err(|e| io_error(&e)),
            Op::Read { file, position, length } => {
                let read = self.read(file, position, length);
                return read.map(Outcome::Read).map_err(|e| io_error(&e));
            }
            Op::Write { file, position, bytes, durable } => {
                self.write(file, position, &bytes, durable)
            }
            Op::Claim { file } => self.open(file).and_then(|file| file.lock()),
            Op::Extend { file, from, to } => self.extend(file, from, to),
            Op::Sync { file } => {
                return flushed(self.open(file).and_then(|file| file.sync_data()));
            }
            Op::SyncDirectory => return flushed(sync_directory(&self.path)),
            Op::Release { file, from, to } => self.release(file, from, to),
            Op::Rename { from, to } => fs::rename(self.of(from), self.of(to)),
            Op::Remove { file } => fs::remove_file(self.of(file)),
        }
        .map(|()| Outcome::Unit)
        .map_err(|e| io_error(&e))
    }

    fn of(&self, file: FileName) -> PathBuf {
        self.path.join(file.to_string())
    }

    fn open(&self, file: FileName) -> io::Result<File> {
        File::open(self.of(file))
    }

    fn create(&self, file: FileName) -> io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(false).open(self.of(file))
    }

    fn list(&self) -> io::Result<Vec<(FileName, u64)>> {
        if !self.path.is_dir() {
            fs::create_dir_all(&self.path)?;
            sync_directory(self.path.parent().unwrap_or(Path::new("/")))?;
        }
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if let Some(file) = entry.file_name().to_str().and_then(FileName::parse) {
                files.push((file, entry.metadata()?.len()));
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    fn extend(&self, file: FileName, from: Position, to: Position) -> io::Result<()> {
        let file = self.create(file)?;
        let zeros = vec![0; ZEROS_BYTES];
        let mut at = from.get();
        while at < to.get() {
            let step = usize::try_from(to.get() - at).unwrap_or(ZEROS_BYTES).min(ZEROS_BYTES);
            file.write_all_at(&zeros[..step], at)?;
            at += step as u64;
        }
        file.sync_data()
    }

    fn release(&self, file: FileName, from: Position, to: Position) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(self.create(file)?, flags, from.get(), to.get() - from.get())?)
    }

    fn write(
        &self,
        file: FileName,
        position: Position,
        bytes: &[u8],
        durable: bool,
    ) -> io::Result<()> {
        let file = self.create(file)?;
        file.write_all_at(bytes, position.get())?;
        if durable { file.sync_data() } else { Ok(()) }
    }

    fn read(&self, file: FileName, position: Position, length: usize) -> io::Result<Share> {
        let file = self.open(file)?;
        let left = file.metadata()?.len().saturating_sub(position.get());
        let mut bytes = vec![0; length.min(usize::try_from(left).unwrap_or(usize::MAX))];
        file.read_exact_at(&mut bytes, position.get())?;
        Ok(bytes.into())
    }
}

fn flushed(result: io::Result<()>) -> Result<Outcome<Share>, IoError> {
    result.map(|()| Outcome::Unit).map_err(|e| io_error(&e).of_flush())
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn io_error(error: &io::Error) -> IoError {
    if error.kind() == io::ErrorKind::WriteZero {
        return IoError::ShortWrite;
    }
    match Errno::from_io_error(error) {
        Some(Errno::NOENT) => IoError::NotFound,
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => IoError::NoSpace,
        Some(Errno::MFILE | Errno::NFILE) => IoError::NoDescriptors,
        Some(Errno::ROFS) => IoError::ReadOnly,
        other => IoError::Device(other.unwrap_or(Errno::IO).raw_os_error()),
    }
}
