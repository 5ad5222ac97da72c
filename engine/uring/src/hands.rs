//! Operations on the files of the logs of one executor.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fs, io,
    os::fd::{AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use catena_log::io::{BLOCK_BYTES, FileName, IoError, Op, Outcome, Position};
use glommio::{
    GlommioError,
    io::{DmaBuffer, DmaFile, OpenOptions},
    timer::sleep,
};
use rustix::fs::{FlockOperation, OFlags};

use crate::{
    memory::{DmaMemory, Share},
    probe::{create_directory, prime},
};

/// Zeros are written in steps of this.
const ZEROS_BYTES: usize = 1 << 20;
/// So many of them are at the disk together.
const ZEROS_IN_FLIGHT: usize = 4;
/// How long a claim waits before it asks again: the writes of a dead process take micro- to
/// milliseconds, on a throttled disk seconds.
const CLAIM_WAIT_MIN: Duration = Duration::from_micros(200);
const CLAIM_WAIT_MAX: Duration = Duration::from_millis(20);

/// Budgets of the hands of one executor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HandsOptions {
    /// The most open descriptors.
    pub descriptors: usize,
    /// Bytes of buffers.
    pub memory_bytes: usize,
    /// Files grow only while the file system has so many bytes free.
    pub disk_reserve_bytes: u64,
}

/// Counters, plain numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs)]
pub struct HandsStats {
    pub writes: u64,
    pub write_bytes: u64,
    pub syncs: u64,
    pub reads: u64,
    pub read_bytes: u64,
    pub extended_bytes: u64,
    pub opens: u64,
    pub closes: u64,
    pub errors: u64,
}

/// How a file is open.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Mode {
    /// For reads, and writes that are durable only after a sync.
    Plain,
    /// Every write is durable when it completes (O_DSYNC).
    Durable,
}

struct Open {
    file: DmaFile,
    used: Cell<u64>,
}

type Key = (u64, FileName, Mode);

struct Inner {
    options: HandsOptions,
    memory: DmaMemory,
    zeros: RefCell<Option<Rc<DmaBuffer>>>,
    source: Rc<DmaFile>,
    files: RefCell<BTreeMap<Key, Rc<Open>>>,
    /// Lengths of files that these hands have looked at or changed.
    lengths: RefCell<BTreeMap<(u64, FileName), u64>>,
    clock: Cell<u64>,
    next_folder: Cell<u64>,
    stats: Cell<HandsStats>,
}

/// The hands of one executor.
#[derive(Clone)]
pub struct Hands(Rc<Inner>);

/// The directory of one log.
#[derive(Clone)]
pub struct Folder {
    hands: Hands,
    id: u64,
    path: Rc<PathBuf>,
    /// Whether the reserve of the disk may be used.
    reserved: bool,
}

impl Hands {
    /// Hands for directories under `root`, on the executor that runs this.
    ///
    /// # Errors
    /// When the file system refuses direct I/O.
    pub async fn start(root: &Path, options: HandsOptions) -> io::Result<Self> {
        let source = Rc::new(prime(root).await?);
        let memory = DmaMemory::new(source.clone(), options.memory_bytes);
        Ok(Self(Rc::new(Inner {
            options,
            memory,
            zeros: RefCell::new(None),
            source,
            files: RefCell::new(BTreeMap::new()),
            lengths: RefCell::new(BTreeMap::new()),
            clock: Cell::new(0),
            next_folder: Cell::new(0),
            stats: Cell::new(HandsStats::default()),
        })))
    }

    /// The memory that operations use.
    #[must_use]
    pub fn memory(&self) -> DmaMemory {
        self.0.memory.clone()
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> HandsStats {
        self.0.stats.get()
    }

    /// Descriptors open now.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        self.0.files.borrow().len()
    }

    /// A log's directory; an [`Op::List`] creates it.
    #[must_use]
    pub fn folder(&self, path: PathBuf) -> Folder {
        let id = self.0.next_folder.get();
        self.0.next_folder.set(id + 1);
        Folder { hands: self.clone(), id, path: Rc::new(path), reserved: false }
    }

    fn count(&self, change: impl FnOnce(&mut HandsStats)) {
        let mut stats = self.0.stats.get();
        change(&mut stats);
        self.0.stats.set(stats);
    }

    /// Zeros to write, shared by all.
    fn zeros(&self) -> Rc<DmaBuffer> {
        let mut zeros = self.0.zeros.borrow_mut();
        let make = || {
            let mut buffer = self.0.source.alloc_dma_buffer(ZEROS_BYTES);
            buffer.as_bytes_mut().fill(0);
            Rc::new(buffer)
        };
        zeros.get_or_insert_with(make).clone()
    }

    /// Closes the longest unused descriptors until another one fits.
    async fn make_room(&self) {
        while self.0.files.borrow().len() >= self.0.options.descriptors.max(2) {
            let idle = {
                let files = self.0.files.borrow();
                let idle = files.iter().filter(|(_, open)| Rc::strong_count(open) == 1);
                idle.min_by_key(|(_, open)| open.used.get()).map(|(key, _)| *key)
            };
            // All are in use: one more for the time being.
            let Some(key) = idle else { return };
            self.close(key).await;
        }
    }

    async fn close(&self, key: Key) {
        let open = self.0.files.borrow_mut().remove(&key);
        if let Some(open) = open.and_then(Rc::into_inner) {
            self.count(|s| s.closes += 1);
            // Nothing is lost with a failed close: every write was checked.
            let _ = open.file.close().await;
        }
    }

    /// Whether files may still grow.
    fn space(&self, path: &Path, reserve: u64, bytes: u64) -> Result<(), IoError> {
        let stat = rustix::fs::statvfs(path).map_err(|e| errno(e.raw_os_error()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < reserve.saturating_add(bytes) {
            return Err(IoError::NoSpace);
        }
        Ok(())
    }
}

impl Folder {
    /// Performs an operation. The caller detaches this: a submitted write cannot be taken back.
    ///
    /// # Errors
    /// As the contract of [`catena_log::io`] says.
    pub async fn perform(&self, op: Op<Share>) -> Result<Outcome<Share>, IoError> {
        let result = match op {
            Op::List => self.list().map(Outcome::Files),
            Op::Claim { file } => self.claim(file).await.map(unit),
            Op::Extend { file, from, to } => self.extend(file, from, to).await.map(unit),
            Op::Write { file, position, bytes, durable } => {
                self.write(file, position, &bytes, durable).await.map(unit)
            }
            Op::Sync { file } => self.sync(file).await.map(unit),
            Op::SyncDirectory => self.sync_directory().await.map(unit),
            Op::Read { file, position, length } => {
                self.read(file, position, length).await.map(Outcome::Read)
            }
            Op::Release { file, from, to } => self.release(file, from, to).await.map(unit),
            Op::Rename { from, to } => self.rename(from, to).await.map(unit),
            Op::Remove { file } => self.remove(file).await.map(unit),
        };
        if result.is_err() {
            self.hands.count(|s| s.errors += 1);
        }
        result
    }

    /// The same directory, of a log that is small and must go on when the disk is full for others:
    /// it may use what is kept in reserve.
    #[must_use]
    pub fn with_reserve(self) -> Self {
        Self { reserved: true, ..self }
    }

    /// Whether `file` may grow by `bytes`. Retention, which makes room, needs manifests and
    /// indexes: these may use the reserve. But many small segments have many indexes, and a log can
    /// do without: half of it is left to manifests and to what must go on.
    fn space(&self, file: FileName, bytes: u64) -> Result<(), IoError> {
        let reserve = self.hands.0.options.disk_reserve_bytes;
        let left = match file {
            _ if self.reserved => 0,
            FileName::Segment(_) => reserve,
            FileName::Index(_) => reserve / 2,
            FileName::Manifest(_) => 0,
        };
        self.hands.space(&self.path, left, bytes)
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes all descriptors of the directory.
    pub async fn close(&self) {
        for key in self.keys() {
            self.hands.close(key).await;
        }
        self.hands.0.lengths.borrow_mut().retain(|(id, _), _| *id != self.id);
    }

    fn keys(&self) -> Vec<Key> {
        let files = self.hands.0.files.borrow();
        files.keys().filter(|(id, ..)| *id == self.id).copied().collect()
    }

    fn of(&self, file: FileName) -> PathBuf {
        self.path.join(file.to_string())
    }

    fn list(&self) -> Result<Vec<(FileName, u64)>, IoError> {
        create_directory(&self.path).map_err(|e| io_error(&e))?;
        let mut files = Vec::new();
        for entry in fs::read_dir(&*self.path).map_err(|e| io_error(&e))? {
            let entry = entry.map_err(|e| io_error(&e))?;
            let name = entry.file_name();
            if let Some(file) = name.to_str().and_then(FileName::parse) {
                files.push((file, entry.metadata().map_err(|e| io_error(&e))?.len()));
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    async fn open(&self, file: FileName, mode: Mode, create: bool) -> Result<Rc<Open>, IoError> {
        let clock = self.hands.0.clock.get() + 1;
        self.hands.0.clock.set(clock);
        let key = (self.id, file, mode);
        if let Some(open) = self.hands.0.files.borrow().get(&key) {
            open.used.set(clock);
            return Ok(open.clone());
        }
        self.hands.make_room().await;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(create);
        if mode == Mode::Durable {
            let flags = i32::try_from(OFlags::DSYNC.bits()).expect("a flag fits");
            options.custom_flags(flags);
        }
        let path = self.of(file);
        // Opening a path that vanishes meanwhile would panic in the runtime; logs create files
        // before they use them and remove them last.
        if !create && !path.exists() {
            return Err(IoError::NotFound);
        }
        let opened = options.dma_open(&path).await.map_err(|e| glommio_error(&e))?;
        self.hands.count(|s| s.opens += 1);
        // As long as this is held nobody claims the file; the kernel keeps it for writes under way
        // when the process dies.
        flock(&opened, FlockOperation::NonBlockingLockShared)?;
        let length = fs::metadata(&path).map_err(|e| io_error(&e))?.len();
        self.hands.0.lengths.borrow_mut().entry((self.id, file)).or_insert(length);
        let open = Rc::new(Open { file: opened, used: Cell::new(clock) });
        // Another operation may have opened it meanwhile: one of the two is closed later.
        self.hands.0.files.borrow_mut().entry(key).or_insert(open.clone());
        Ok(open)
    }

    fn length(&self, file: FileName) -> u64 {
        self.hands.0.lengths.borrow().get(&(self.id, file)).copied().unwrap_or(0)
    }

    fn grown(&self, file: FileName, length: u64) {
        let mut lengths = self.hands.0.lengths.borrow_mut();
        let known = lengths.entry((self.id, file)).or_insert(0);
        *known = (*known).max(length);
    }

    async fn write(
        &self,
        file: FileName,
        position: Position,
        bytes: &Share,
        durable: bool,
    ) -> Result<(), IoError> {
        let mode = if durable { Mode::Durable } else { Mode::Plain };
        let open = self.open(file, mode, true).await?;
        let length = bytes.as_ref().len();
        let end = position.get() + length as u64;
        if end > self.length(file) {
            self.space(file, length as u64)?;
        }
        self.hands.count(|s| {
            s.writes += 1;
            s.write_bytes += length as u64;
        });
        let buffer = bytes.whole_buffer().unwrap_or_else(|| {
            let mut copy = open.file.alloc_dma_buffer(length);
            copy.as_bytes_mut().copy_from_slice(bytes.as_ref());
            Rc::new(copy)
        });
        let written = open.file.write_rc_at(buffer, position.get()).await;
        self.whole(written, length)?;
        self.grown(file, end);
        Ok(())
    }

    fn whole(
        &self,
        written: Result<usize, GlommioError<()>>,
        length: usize,
    ) -> Result<(), IoError> {
        match written.map_err(|e| glommio_error(&e))? {
            written if written == length => Ok(()),
            _ => Err(IoError::ShortWrite),
        }
    }

    async fn extend(&self, file: FileName, from: Position, to: Position) -> Result<(), IoError> {
        self.space(file, to.get() - from.get())?;
        let open = self.open(file, Mode::Plain, true).await?;
        let next = Rc::new(Cell::new(from.get()));
        let lanes = [(); ZEROS_IN_FLIGHT].map(|()| {
            let (folder, open, next) = (self.clone(), open.clone(), next.clone());
            glommio::spawn_local(async move { folder.write_zeros(&open, &next, to.get()).await })
        });
        let mut written = Ok(());
        // Also after a failure: nothing is on its way when this ends.
        for lane in lanes {
            written = written.and(lane.await);
        }
        written?;
        open.file.fdatasync().await.map_err(|e| glommio_error(&e))?;
        self.hands.count(|s| {
            s.syncs += 1;
            s.extended_bytes += to.get() - from.get();
        });
        self.grown(file, to.get());
        Ok(())
    }

    /// Writes zeros from `next`, which it shares with others that do the same, to `end`.
    async fn write_zeros(&self, open: &Open, next: &Cell<u64>, end: u64) -> Result<(), IoError> {
        while next.get() < end {
            let at = next.get();
            let step = usize::try_from(end - at).unwrap_or(ZEROS_BYTES).min(ZEROS_BYTES);
            next.set(at + step as u64);
            let buffer = if step == ZEROS_BYTES {
                self.hands.zeros()
            } else {
                let mut part = open.file.alloc_dma_buffer(step);
                part.as_bytes_mut().fill(0);
                Rc::new(part)
            };
            let written = open.file.write_rc_at(buffer, at).await;
            self.whole(written, step)?;
        }
        Ok(())
    }

    async fn release(&self, file: FileName, from: Position, to: Position) -> Result<(), IoError> {
        let open = self.open(file, Mode::Plain, false).await?;
        let released = open.file.deallocate(from.get(), to.get() - from.get()).await;
        released.map_err(|e| glommio_error(&e))
    }

    async fn sync(&self, file: FileName) -> Result<(), IoError> {
        let open = self.open(file, Mode::Plain, false).await?;
        self.hands.count(|s| s.syncs += 1);
        open.file.fdatasync().await.map_err(|e| glommio_error(&e).of_flush())
    }

    async fn sync_directory(&self) -> Result<(), IoError> {
        let directory = glommio::io::Directory::open(&*self.path).await;
        let directory = directory.map_err(|e| glommio_error(&e))?;
        self.hands.count(|s| s.syncs += 1);
        let synced = directory.sync().await.map_err(|e| glommio_error(&e).of_flush());
        let _ = directory.close().await;
        synced
    }

    async fn read(
        &self,
        file: FileName,
        position: Position,
        length: usize,
    ) -> Result<Share, IoError> {
        let wanted = length.next_multiple_of(BLOCK_BYTES);
        let charge = self.hands.0.memory.for_read(wanted).await.ok_or(IoError::Device(EIO))?;
        let open = self.open(file, Mode::Plain, false).await?;
        let left = self.length(file).saturating_sub(position.get());
        let length = length.min(usize::try_from(left).unwrap_or(usize::MAX));
        if length == 0 {
            return Ok(Share::empty());
        }
        let aligned = length.next_multiple_of(BLOCK_BYTES);
        let read = open.file.read_at_aligned(position.get(), aligned).await;
        let read = read.map_err(|e| glommio_error(&e))?;
        self.hands.count(|s| {
            s.reads += 1;
            s.read_bytes += read.len() as u64;
        });
        if read.len() < length {
            // Who cut the file since it was looked at took what stood there; the rest is there.
            let there = open.file.file_size().await.map_err(|e| glommio_error(&e))?;
            if position.get() + (read.len() as u64) < there {
                return Err(IoError::Device(EIO));
            }
        }
        let length = length.min(read.len());
        Ok(if length == 0 { Share::empty() } else { Share::of_read(&read, length, charge) })
    }

    /// Waits until no write of an earlier process is on its way: the kernel drops the shared lock
    /// of a dead process only with its last write.
    async fn claim(&self, file: FileName) -> Result<(), IoError> {
        // A descriptor of this process has the lock, too.
        self.forget(file).await;
        let path = self.of(file);
        let opened = fs::OpenOptions::new().read(true).open(&path).map_err(|e| io_error(&e))?;
        let mut wait = CLAIM_WAIT_MIN;
        loop {
            match rustix::fs::flock(&opened, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(()),
                Err(rustix::io::Errno::WOULDBLOCK) => sleep(wait).await,
                Err(error) => return Err(errno(error.raw_os_error())),
            }
            wait = (wait * 2).min(CLAIM_WAIT_MAX);
        }
    }

    async fn forget(&self, file: FileName) {
        for mode in [Mode::Plain, Mode::Durable] {
            self.hands.close((self.id, file, mode)).await;
        }
        self.hands.0.lengths.borrow_mut().remove(&(self.id, file));
    }

    async fn rename(&self, from: FileName, to: FileName) -> Result<(), IoError> {
        self.forget(from).await;
        glommio::io::rename(self.of(from), self.of(to)).await.map_err(|e| glommio_error(&e))
    }

    async fn remove(&self, file: FileName) -> Result<(), IoError> {
        self.forget(file).await;
        glommio::io::remove(self.of(file)).await.map_err(|e| glommio_error(&e))
    }
}

const EIO: i32 = 5;

fn unit((): ()) -> Outcome<Share> {
    Outcome::Unit
}

fn flock(file: &DmaFile, operation: FlockOperation) -> Result<(), IoError> {
    // SAFETY: the descriptor belongs to `file`, which is open for as long as it is borrowed here.
    #[allow(unsafe_code)]
    let descriptor = unsafe { BorrowedFd::borrow_raw(file.as_raw_fd()) };
    rustix::fs::flock(descriptor, operation).map_err(|e| errno(e.raw_os_error()))
}

fn errno(number: i32) -> IoError {
    use rustix::io::Errno;
    match Errno::from_raw_os_error(number) {
        Errno::NOENT => IoError::NotFound,
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => IoError::NoSpace,
        Errno::MFILE | Errno::NFILE => IoError::NoDescriptors,
        Errno::ROFS => IoError::ReadOnly,
        other => IoError::Device(other.raw_os_error()),
    }
}

fn io_error(error: &io::Error) -> IoError {
    error.raw_os_error().map_or(IoError::Device(EIO), errno)
}

fn glommio_error<T>(error: &GlommioError<T>) -> IoError {
    match error {
        GlommioError::IoError(source) | GlommioError::EnhancedIoError { source, .. } => {
            io_error(source)
        }
        _ => IoError::Device(EIO),
    }
}
