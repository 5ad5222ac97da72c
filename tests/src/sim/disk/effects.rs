//! How an operation takes effect on the live image, and what its completion makes durable.

use bytes::Bytes;
use catena_format::Position;
use catena_log::io::{Done, FileName, IoError, Op, Outcome};

use super::{
    DamageKind, DeviceCache, Disk, EIO, FaultKind, Flight, SECTOR_BYTES,
    faults::Fate,
    folder::FileId,
    image::{Extent, Image},
};

/// How many removed files leave their bytes behind in free blocks.
const REMOVED_MAX: usize = 4;
/// A sync that has something to keep fails so many times as often as one that has nothing.
const SYNC_ERROR_TIMES: u32 = 10;

type Answer = Result<Outcome<Bytes>, IoError>;

impl Disk {
    /// The moment of an operation: reads see it from now on.
    pub(super) fn take_effect(&mut self, key: u64) {
        let Some(mut flight) = self.flights.remove(&key) else { return };
        flight.result = Some(self.perform(&mut flight));
        self.flights.insert(key, flight);
    }

    /// Performs an operation on the live image.
    pub(super) fn perform(&mut self, flight: &mut Flight) -> Answer {
        let directory = flight.directory;
        flight.order = self.number();
        if flight.file.is_none() {
            flight.file = flight.op.file().and_then(|name| self.lookup(directory, name));
        }
        let by_name = matches!(
            flight.op,
            Op::List | Op::Claim { .. } | Op::Rename { .. } | Op::Remove { .. }
        );
        if by_name && self.strike(FaultKind::NameError) {
            // A new name may need room.
            let full =
                matches!(flight.op, Op::Rename { .. }) && self.choice.pick(2, "no room") == 1;
            return Err(if full { IoError::NoSpace } else { EIO });
        }
        match flight.op.clone() {
            Op::List => Ok(Outcome::Files(self.list(directory))),
            Op::SyncDirectory => self.known(directory).map(|()| Outcome::Unit),
            Op::Claim { .. } | Op::Sync { .. } => {
                flight.file.map(|_| Outcome::Unit).ok_or(IoError::NotFound)
            }
            Op::Read { position, length, .. } => self.read(flight.file, position, length),
            Op::Extend { file, from, to } => {
                assert!(from <= to, "an extension to {to} from {from}");
                let bytes = zeros(to.get() - from.get());
                self.write(flight, file, from, bytes, false)
            }
            Op::Write { file, position, bytes, .. } => {
                let silent = self.faults.silent_in(file);
                self.write(flight, file, position, bytes, silent)
            }
            Op::Release { file, from, to } => {
                let id = flight.file.ok_or(IoError::NotFound)?;
                assert!(from <= to, "a release to {to} from {from}");
                let end = to.get().min(self.images[&id].live_bytes());
                let bytes = zeros(end.saturating_sub(from.get()));
                self.write(flight, file, from, bytes, false)
            }
            Op::Rename { from, to } => {
                self.change(directory, |folder| folder.rename(flight.order, from, to))
            }
            Op::Remove { file } => {
                self.change(directory, |folder| folder.remove(flight.order, file))
            }
        }
    }

    fn list(&mut self, directory: u64) -> Vec<(FileName, u64)> {
        let folder = self.folders.entry(directory).or_default();
        folder.live.iter().map(|(name, id)| (*name, self.images[id].live_bytes())).collect()
    }

    fn known(&self, directory: u64) -> Result<(), IoError> {
        self.folders.get(&directory).map(|_| ()).ok_or(IoError::NotFound)
    }

    fn read(&mut self, file: Option<FileId>, position: Position, length: usize) -> Answer {
        let id = file.ok_or(IoError::NotFound)?;
        if self.strike(FaultKind::ReadError) {
            return Err(EIO);
        }
        let live = &self.images[&id].live;
        let start = (position.get() as usize).min(live.len());
        let end = start.saturating_add(length).min(live.len());
        let mut bytes = live.read(start..end);
        self.misread(id, &mut bytes);
        Ok(Outcome::Read(bytes.into()))
    }

    /// What a read brings may be wrong, once of a file: all of it, from some sector on, or a bit.
    fn misread(&mut self, id: FileId, bytes: &mut [u8]) {
        if bytes.is_empty() || self.misread.contains(&id) || !self.strike(FaultKind::Misread) {
            return;
        }
        self.misread.insert(id);
        let sectors = bytes.len().div_ceil(SECTOR_BYTES);
        match self.choice.pick(3, "misread") {
            0 => bytes.iter_mut().for_each(|byte| *byte = !*byte),
            1 => {
                let from = self.choice.pick(sectors, "misread sector") * SECTOR_BYTES;
                bytes[from..].iter_mut().for_each(|byte| *byte = !*byte);
            }
            _ => {
                let at = self.choice.pick(bytes.len(), "misread byte");
                bytes[at] ^= 1 << self.choice.pick(8, "misread bit");
            }
        }
    }

    fn change(
        &mut self,
        directory: u64,
        change: impl FnOnce(&mut super::Folder) -> bool,
    ) -> Answer {
        let folder = self.folders.get_mut(&directory).ok_or(IoError::NotFound)?;
        if self.read_only {
            return Err(IoError::ReadOnly);
        }
        if change(folder) { Ok(Outcome::Unit) } else { Err(IoError::NotFound) }
    }

    fn write(
        &mut self,
        flight: &mut Flight,
        name: FileName,
        position: Position,
        bytes: Bytes,
        silent: bool,
    ) -> Answer {
        if flight.file.is_none() && self.strike(FaultKind::NoDescriptors) {
            return Err(IoError::NoDescriptors);
        }
        if flight.file.is_none() && self.strike(FaultKind::NoSpace) {
            return Err(IoError::NoSpace);
        }
        let id = self.open(flight, name)?;
        let position = position.get();
        let range = position..position + bytes.len() as u64;
        match self.fate(id, &range, silent) {
            Fate::Lands => self.land(id, flight.order, position, bytes),
            Fate::Fails(error, pieces) => {
                for piece in pieces {
                    let at = position + piece.start as u64;
                    self.land(id, flight.order, at, bytes.slice(piece));
                }
                return Err(error);
            }
            Fate::Lost => self.lose(id, flight.order, range),
            Fate::Misdirected(place) => {
                let hit = place..place + bytes.len() as u64;
                self.land(id, flight.order, place, bytes);
                self.scar(id, hit, DamageKind::Overwritten, flight.order);
                self.scar(id, range, DamageKind::MisdirectedWrite, flight.order);
            }
        }
        Ok(Outcome::Unit)
    }

    /// The file to write to, created if its name is absent.
    pub(super) fn open(&mut self, flight: &mut Flight, name: FileName) -> Result<FileId, IoError> {
        if self.read_only {
            return Err(IoError::ReadOnly);
        }
        if let Some(id) = flight.file {
            return Ok(id);
        }
        self.known(flight.directory)?;
        let id = FileId(self.number());
        let folder = self.folders.get_mut(&flight.directory).expect("the directory is known");
        folder.create(flight.order, name, id);
        self.images.insert(id, Image::default());
        flight.file = Some(id);
        Ok(id)
    }

    pub(super) fn land(&mut self, id: FileId, order: u64, position: u64, bytes: Bytes) {
        let image = self.images.get_mut(&id).expect("a file under way has an image");
        image.land(Extent { order, position, bytes, completed: None, forsaken: false });
    }

    /// A write that lands nowhere; the file system, which is honest, lets the file grow even so.
    fn lose(&mut self, id: FileId, order: u64, range: std::ops::Range<u64>) {
        let live = self.images[&id].live_bytes();
        if range.end > live {
            let bytes = zeros(range.end - live);
            self.land(id, order, live, bytes);
        }
        self.scar(id, range, DamageKind::LostWrite, order);
    }

    /// The end of an operation: what it promises holds from now on.
    pub(super) fn complete(&mut self, key: u64) {
        let Some(mut flight) = self.flights.remove(&key) else { return };
        if let Some(at_ns) = self.claim_waits_until(&flight) {
            let event = (at_ns, self.number());
            self.events.insert(event, super::Event::Completion(key));
            self.flights.insert(key, flight);
            return;
        }
        self.completions += 1;
        if let Some(folder) = self.folders.get_mut(&flight.directory) {
            folder.complete(flight.order, self.completions);
        }
        let result = flight.result.take().expect("an operation takes effect before it completes");
        let result = result.and_then(|outcome| self.keep_promise(&flight).map(|()| outcome));
        self.rot();
        let code = result.as_ref().map_or_else(|error| error_code(*error), |_| 0);
        self.fingerprint.numbers([self.now_ns, flight.directory, flight.life, flight.id.0, code]);
        self.ready.push_back((flight.directory, flight.id, Done { id: flight.id, result }));
    }

    fn claim_waits_until(&self, flight: &Flight) -> Option<u64> {
        let Op::Claim { .. } = flight.op else { return None };
        let id = flight.file?;
        let ours = self.late.values().filter(|late| late.file == id && late.life < flight.life);
        ours.map(|late| late.at_ns).max()
    }

    fn keep_promise(&mut self, flight: &Flight) -> Result<(), IoError> {
        match flight.op {
            Op::Write { durable, .. } => self.finish_write(flight, durable),
            Op::Extend { .. } => self.finish_write(flight, true),
            Op::Release { .. } => self.finish_write(flight, false),
            Op::Sync { .. } => return self.sync(flight),
            Op::SyncDirectory => return self.sync_directory(flight),
            _ => {}
        }
        Ok(())
    }

    fn finish_write(&mut self, flight: &Flight, durable: bool) {
        let id = flight.file.expect("a write that succeeded has a file");
        let image = self.images.get_mut(&id).expect("a file under way has an image");
        image.complete(flight.order, self.completions);
        if durable {
            image.persist(|extent| extent.order == flight.order);
            self.flush_cache(flight.horizon);
        }
    }

    /// A device that flushes takes along whatever it had.
    fn flush_cache(&mut self, horizon: u64) {
        if self.options.cache == DeviceCache::Flush {
            self.images.values_mut().for_each(|image| image.flush(horizon));
        }
    }

    fn sync(&mut self, flight: &Flight) -> Result<(), IoError> {
        let id = flight.file.expect("a sync that succeeded has a file");
        // It matters where something waits for the sync.
        let waits = self.images[&id].waits_for_sync(flight.horizon);
        let times = if waits { SYNC_ERROR_TIMES } else { 1 };
        if self.strike_times(FaultKind::SyncError, times) {
            self.forsake(id, flight.horizon);
            return Err(self.flush_error());
        }
        let Self { images, choice, options, .. } = self;
        let image = images.get_mut(&id).expect("a file under way has an image");
        image.persist(|extent| {
            extent.completed.is_some_and(|at| at <= flight.horizon)
                || choice.chance(options.eager_sync_per_million, "eager sync")
        });
        self.flush_cache(flight.horizon);
        Ok(())
    }

    /// A flush has no room, or fails otherwise.
    fn flush_error(&mut self) -> IoError {
        [EIO, IoError::NoSpace.of_flush()][self.choice.pick(2, "error of a flush")]
    }

    fn forsake(&mut self, id: FileId, horizon: u64) {
        let reads_old = self.choice.pick(2, "what a failed sync covered reads as") == 1;
        let image = self.images.get_mut(&id).expect("a file under way has an image");
        let forsaken = image.forsake(horizon);
        if reads_old {
            image.revert_forsaken();
        }
        for (range, order) in forsaken {
            self.scar(id, range, DamageKind::SyncLost, order);
        }
    }

    fn sync_directory(&mut self, flight: &Flight) -> Result<(), IoError> {
        if self.strike(FaultKind::DirectorySyncError) {
            return Err(self.flush_error());
        }
        let Self { folders, choice, options, .. } = self;
        let folder = folders.get_mut(&flight.directory).expect("the directory is known");
        let eager = options.eager_sync_per_million;
        folder.sync(flight.horizon, || choice.chance(eager, "eager directory sync"));
        self.sweep();
        Ok(())
    }

    /// Frees the files that nothing leads to; their bytes stay in the free blocks for a while.
    pub(super) fn sweep(&mut self) {
        let mut reached: std::collections::BTreeSet<FileId> =
            self.folders.values().flat_map(super::Folder::files).collect();
        reached.extend(self.flights.values().filter_map(|flight| flight.file));
        reached.extend(self.late.values().map(|late| late.file));
        if reached.len() == self.images.len() {
            return;
        }
        for (_, image) in self.images.extract_if(.., |id, _| !reached.contains(id)) {
            self.removed.push_back(image.live);
        }
        self.removed.retain(|bytes| !bytes.is_empty());
        let surplus = self.removed.len().saturating_sub(REMOVED_MAX);
        self.removed.drain(..surplus);
    }
}

/// So many zeros, shared where they are not too many.
pub(super) fn zeros(bytes: u64) -> Bytes {
    static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
    let bytes = bytes as usize;
    if bytes <= ZEROS.len() { Bytes::from_static(&ZEROS[..bytes]) } else { vec![0; bytes].into() }
}

/// An error as a number, for the fingerprint.
fn error_code(error: IoError) -> u64 {
    match error {
        IoError::NotFound => 1,
        IoError::NoSpace => 2,
        IoError::NoDescriptors => 3,
        IoError::ReadOnly => 4,
        IoError::ShortWrite => 5,
        IoError::Device(errno) => 1000 + u64::from(errno.unsigned_abs()),
        _ => 6,
    }
}
