//! Opening a log: creation, and recovery after whatever ended the life before.
//!
//! ```text
//! list → settle and read the manifests → settle what is unsealed → newest index image with a fold
//!      → scan what follows → see that nothing lies behind it → write index images
//!      → write the manifest, twice → remove leftovers
//! ```
//!
//! To settle a file is to claim it and to sync it: what a dead process wrote without hearing that
//! it was durable can be read, and would be gone with the power; nothing may be concluded from it
//! before.
//!
//! Recovery writes no segment data. It seals every segment at its last good batch, so that the next
//! append goes to a new file; running it again, or being killed within it, changes nothing.

use std::collections::{BTreeMap, VecDeque};

use catena_format::{FileNumber, Millis, Offset, planted};

use crate::{
    config::{LogConfig, SEGMENTS_MAX},
    fold::Fold,
    image::ImageError,
    index::{self, Index, IndexImage, Progress},
    io::{Done, FileName, IoError, Memory, Op, OpId, Outcome, Slot},
    log::Log,
    manifest::{LogIdentity, Manifest, SegmentEntry, end_max, gaps},
    scan::{Scan, Scanned},
    time::Now,
};

mod cut;
mod leftovers;
mod report;

use leftovers::Leftovers;

pub use self::{cut::Cut, report::RecoveryReport};

/// The largest index file that is believed, in bytes.
const INDEX_FILE_BYTES_MAX: u64 = 256 << 20;

/// How often a block that the device cannot read is asked for before it counts as damaged.
pub(crate) const READ_TRIES: u32 = 4;

/// Why a log could not be opened. Its files are as they were.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no manifest and no other file: this log was never created here, or it was lost.
    #[error("the log's directory holds no manifest")]
    Missing,
    /// No copy of the manifest can be read. The log is not taken for an empty one.
    #[error("both copies of the manifest are unreadable ({0})")]
    Manifest(ImageError),
    /// A file was written by a newer version.
    #[error("segment file {0} was written by a version that this build does not know")]
    Unsupported(FileNumber),
    /// A batch means nothing to the state that is derived from the log.
    #[error("the batch at offset {0} was written by a version that this build does not know")]
    Batch(Offset),
    /// Entries of a log of which none may be missing cannot be read any more.
    #[error("acknowledged entries from offset {0} on are damaged: restore the log from a copy")]
    Damaged(Offset),
    /// The log cannot be cut there: it starts behind, or what was derived from what lies before
    /// means nothing to this build.
    #[error("the log cannot end, or begin anew, at offset {0}")]
    Cut(Offset),
    /// Reading the directory failed.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The memory budget does not suffice.
    #[error(transparent)]
    Memory(#[from] crate::io::MemoryExhausted),
}

impl OpenError {
    /// Something was wanting, and may be there later: nothing says that the log is not whole.
    #[must_use]
    pub fn is_want(&self) -> bool {
        matches!(self, Self::Memory(_) | Self::Io(IoError::NoDescriptors | IoError::NoSpace))
    }

    /// What is stored there is not, or not in a form that this build reads: no other attempt will
    /// bring more. Otherwise something failed, and nobody knows what is stored.
    #[must_use]
    pub fn is_of_stored(&self) -> bool {
        !matches!(self, Self::Memory(_) | Self::Io(_))
    }
}

/// A log's files as recovery leaves them.
pub(crate) struct Opened<F> {
    pub(crate) fold: F,
    pub(crate) manifest: Manifest,
    /// Of the segments in the manifest, the indexes that are in memory.
    pub(crate) indexes: BTreeMap<FileNumber, Index>,
    pub(crate) index_file_bytes: BTreeMap<FileNumber, u64>,
    /// The manifest could not be written: readable, not writable.
    pub(crate) poisoned: Option<IoError>,
    pub(crate) next_op: u64,
    pub(crate) report: RecoveryReport,
}

/// A step that makes what is found in the files final.
#[derive(Clone, Copy)]
enum Settle {
    Claim(FileName),
    Sync(FileName),
    Directory,
}

enum State {
    Listing,
    SettlingManifests(VecDeque<Settle>),
    ReadingManifests(VecDeque<Slot>),
    SettlingSegments(VecDeque<Settle>),
    ReadingIndex(usize),
    ReadingFold,
    Scanning,
    ReadingHeader(FileNumber),
    SettlingLeftovers(VecDeque<Settle>),
    ScanningLeftovers,
    WritingFold,
    EnteringFold,
    WritingIndexes(FileNumber),
    WritingManifest(Slot),
    Removing(VecDeque<FileName>),
    Syncing,
    Finished,
}

/// A log on its way to be open.
pub struct Opening<M: Memory, F> {
    identity: LogIdentity,
    config: LogConfig,
    memory: M,
    create: bool,
    cut: Option<Cut>,
    state: State,
    outbox: VecDeque<(OpId, Op<M::Share>)>,
    next_op: u64,
    /// The read under way, and how often it was tried.
    reading: Option<(Op<M::Share>, u32)>,
    files: BTreeMap<FileName, u64>,
    copies: [Option<Result<Manifest, ImageError>>; 2],
    /// Where a repaired manifest is written first: not over the newer copy.
    lead: Slot,
    /// What was read last is read once more before anything is concluded from it.
    doubt: bool,
    manifest: Manifest,
    fold: Option<F>,
    scan: Option<Scan<M>>,
    leftovers: Option<Leftovers<M>>,
    images: VecDeque<(FileNumber, M::Share)>,
    indexes: BTreeMap<FileNumber, Index>,
    poisoned: Option<IoError>,
    report: RecoveryReport,
}

type Flow<F> = Result<Option<Opened<F>>, OpenError>;

impl<M: Memory + Clone, F: Fold> Opening<M, F> {
    /// Begins to open a log, or to create one. One that was created before is opened all the same:
    /// nothing is ever created over something.
    pub fn new(identity: LogIdentity, config: LogConfig, create: bool, memory: M, fold: F) -> Self {
        let mut opening = Self {
            identity,
            config,
            memory,
            create,
            cut: None,
            state: State::Listing,
            outbox: VecDeque::new(),
            next_op: 0,
            reading: None,
            files: BTreeMap::new(),
            copies: [None, None],
            lead: Slot::First,
            doubt: false,
            manifest: Manifest::empty(),
            fold: Some(fold),
            scan: None,
            leftovers: None,
            images: VecDeque::new(),
            indexes: BTreeMap::new(),
            poisoned: None,
            report: RecoveryReport::default(),
        };
        opening.ask(Op::List);
        opening
    }

    /// The next operation to perform.
    pub fn poll_op(&mut self) -> Option<(OpId, Op<M::Share>)> {
        self.outbox.pop_front()
    }

    /// Takes the completion of the one operation under way; the open log, once it is.
    ///
    /// # Errors
    /// Why the log cannot be opened.
    pub fn on_done(
        &mut self,
        done: Done<M::Share>,
        now: Now,
    ) -> Result<Option<Log<M, F>>, OpenError> {
        let opened = self.on_outcome(done)?;
        let (identity, config) = (self.identity, self.config);
        Ok(opened
            .map(|opened| Log::from_opened(identity, config, self.memory.clone(), opened, now)))
    }

    fn on_outcome(&mut self, done: Done<M::Share>) -> Flow<F> {
        let again = self.heed_read(done.result.as_ref().err())?;
        if again {
            return Ok(None);
        }
        match std::mem::replace(&mut self.state, State::Finished) {
            State::Listing => self.listed(done.result),
            State::SettlingManifests(rest) => {
                absent_is_fine(done.result)?;
                self.settle_manifests(rest)
            }
            State::ReadingManifests(rest) => self.manifest_read(rest, done.result),
            State::SettlingSegments(rest) => {
                absent_is_fine(done.result)?;
                self.settle_segments(rest)
            }
            State::ReadingIndex(at) => self.index_read(at, done.result),
            State::ReadingFold => self.fold_read(done.result),
            State::Scanning => self.scanned(done.result),
            State::ReadingHeader(file) => self.header_read(file, done.result),
            State::SettlingLeftovers(rest) => {
                absent_is_fine(done.result)?;
                self.settle_leftovers(rest)
            }
            State::ScanningLeftovers => self.leftover_scanned(done.result),
            State::WritingFold => match done.result {
                Ok(_) => {
                    self.ask(Op::SyncDirectory);
                    self.state = State::EnteringFold;
                    Ok(None)
                }
                Err(error) => self.not_written(error),
            },
            State::EnteringFold => match done.result {
                Ok(_) => self.write_manifest(self.lead),
                Err(error) => self.not_written(error),
            },
            State::WritingIndexes(file) => {
                // An index is a hint: without it the next recovery scans.
                if done.result.is_err() {
                    self.files.remove(&FileName::Index(file));
                }
                self.write_indexes()
            }
            State::WritingManifest(slot) => self.manifest_written(slot, done.result),
            State::Removing(rest) => self.remove(rest),
            State::Syncing => match done.result {
                Ok(_) => Ok(Some(self.finish())),
                Err(error) => self.not_written(error),
            },
            State::Finished => unreachable!("no operation is asked for once all is done"),
        }
    }

    /// What a failed read means: nothing is concluded from a want of descriptors or memory; what
    /// the device cannot read is asked for again before it counts as damaged. Whether it is asked
    /// for.
    fn heed_read(&mut self, error: Option<&IoError>) -> Result<bool, OpenError> {
        let (Some((op, tries)), Some(error)) = (self.reading.take(), error) else {
            return Ok(false);
        };
        match error {
            IoError::NotFound => Ok(false),
            error if !error.is_medium() => Err((*error).into()),
            _ if tries == READ_TRIES => Ok(false),
            _ => {
                self.ask(op.clone());
                self.reading = Some((op, tries + 1));
                Ok(true)
            }
        }
    }

    fn ask(&mut self, op: Op<M::Share>) {
        let tried_again = planted!(SyncRetried) && matches!(op, Op::Sync { .. });
        self.reading = (tried_again || matches!(op, Op::Read { .. })).then(|| (op.clone(), 1));
        self.outbox.push_back((OpId(self.next_op), op));
        self.next_op += 1;
    }

    fn listed(&mut self, result: Result<Outcome<M::Share>, IoError>) -> Flow<F> {
        self.files = result?.into_files().into_iter().collect();
        let manifests = [FileName::Manifest(Slot::First), FileName::Manifest(Slot::Second)];
        self.settle_manifests(manifests.into_iter().flat_map(both).collect())
    }

    fn settle_manifests(&mut self, mut rest: VecDeque<Settle>) -> Flow<F> {
        if let Some(step) = rest.pop_front() {
            self.ask_settle(step);
            self.state = State::SettlingManifests(rest);
            return Ok(None);
        }
        // What an interrupted creation left is settled too: its late writes must not come over
        // those of this one.
        self.read_manifests([Slot::First, Slot::Second].into())
    }

    fn ask_settle(&mut self, step: Settle) {
        self.ask(match step {
            Settle::Claim(file) if planted!(NoClaim) => Op::Sync { file },
            Settle::Claim(file) => Op::Claim { file },
            Settle::Sync(file) => Op::Sync { file },
            Settle::Directory => Op::SyncDirectory,
        });
    }

    fn read_manifests(&mut self, rest: VecDeque<Slot>) -> Flow<F> {
        let Some(slot) = rest.front() else { return self.choose_manifest() };
        let file = FileName::Manifest(*slot);
        let length = self.files.get(&file).copied().unwrap_or(0);
        let length = usize::try_from(length.next_multiple_of(4096)).unwrap_or(0).max(4096);
        self.ask(Op::Read { file, position: catena_format::Position::ZERO, length });
        self.state = State::ReadingManifests(rest);
        Ok(None)
    }

    fn manifest_read(
        &mut self,
        mut rest: VecDeque<Slot>,
        result: Result<Outcome<M::Share>, IoError>,
    ) -> Flow<F> {
        let slot = rest.pop_front().expect("a slot was being read");
        let copy = match result {
            Ok(Outcome::Read(bytes)) => Some(Manifest::read(bytes.as_ref(), &self.identity)),
            Err(IoError::NotFound) => None,
            // Unreadable is damaged: the other copy decides.
            _ => Some(Err(ImageError::Damaged)),
        };
        if self.is_doubted(copy.as_ref().is_some_and(Result::is_err)) {
            rest.push_front(slot);
        } else {
            self.copies[slot as usize] = copy;
        }
        self.read_manifests(rest)
    }

    /// Whether something that was read is read once more: it is `bad` for the first time. The other
    /// copy may be older, and what is derived from a log stands nowhere else.
    fn is_doubted(&mut self, bad: bool) -> bool {
        self.doubt = bad && !self.doubt;
        self.doubt
    }

    fn choose_manifest(&mut self) -> Flow<F> {
        // A copy that a newer build wrote is the newer one, whatever the other says.
        let mut errors = self.copies.iter().flatten().filter_map(|copy| copy.as_ref().err());
        if let Some(newer) = errors.find(|error| matches!(error, ImageError::Version(_))) {
            return Err(OpenError::Manifest(*newer));
        }
        let generation = |copy: &Option<Result<Manifest, ImageError>>| match copy {
            Some(Ok(manifest)) => Some(manifest.generation),
            _ => None,
        };
        let (first, second) = (generation(&self.copies[0]), generation(&self.copies[1]));
        self.report.manifest_repaired =
            first.max(second).is_some() && (first.is_none() || second.is_none());
        let newest = usize::from(second > first);
        if first > second && !planted!(NewerCopyFirst) {
            self.lead = Slot::Second;
        }
        match self.copies[newest].take() {
            Some(Ok(manifest)) => self.manifest = manifest,
            damaged => {
                let error = [damaged, self.copies[1 - newest].take()].into_iter().flatten();
                let error = error.filter_map(Result::err).max_by_key(rank);
                return self.no_manifest(error);
            }
        }
        // It was created before, whatever its owner knows, and may hold something.
        self.create = false;
        self.report.manifest_repaired |= first != second;
        self.cut_manifest()?;
        let segments = &self.manifest.segments;
        // Index files are written one after the other: the last one there is may be on its way, or
        // one behind it.
        let has_index = |s: &SegmentEntry| self.files.contains_key(&FileName::Index(s.file));
        let last = segments.iter().rposition(has_index).unwrap_or(0);
        let damaged = &self.manifest.damaged;
        let is_there = |s: &SegmentEntry| self.files.contains_key(&FileName::Segment(s.file));
        let files = segments.iter().enumerate().flat_map(|(at, s)| {
            // A repair may have been on its way.
            let damaged = damaged.iter().any(|r| r.start < s.end && s.base < r.end);
            let written = !s.sealed || (damaged && is_there(s));
            let segment = written.then_some(FileName::Segment(s.file));
            let index = (!s.sealed || at >= last).then_some(FileName::Index(s.file));
            segment.into_iter().chain(index)
        });
        let mut steps: VecDeque<Settle> = files.flat_map(both).collect();
        steps.push_back(Settle::Directory);
        self.settle_segments(steps)
    }

    /// A log is created where there is none: no manifest, or what an interrupted creation left of
    /// it (torn, or with what its blocks held for some other log), and nothing that a manifest
    /// would name.
    fn no_manifest(&mut self, error: Option<ImageError>) -> Flow<F> {
        let torn = matches!(error, None | Some(ImageError::Damaged | ImageError::Foreign(_)));
        let held = self.files.keys().any(|file| !matches!(file, FileName::Manifest(_)));
        match error {
            _ if self.create && torn && !held => self.write_manifest(self.lead),
            None if self.files.is_empty() => Err(OpenError::Missing),
            error => Err(OpenError::Manifest(error.unwrap_or(ImageError::Damaged))),
        }
    }

    fn settle_segments(&mut self, mut rest: VecDeque<Settle>) -> Flow<F> {
        if let Some(step) = rest.pop_front() {
            self.ask_settle(step);
            self.state = State::SettlingSegments(rest);
            return Ok(None);
        }
        if let Some(anew) = self.begin_anew() {
            return anew;
        }
        let segments = &self.manifest.segments;
        let unsealed = segments.iter().position(|s| !s.sealed);
        match unsealed.or(segments.len().checked_sub(1)) {
            Some(from) => self.read_index(from),
            None => self.read_fold(),
        }
    }

    /// Looks for a fold to start from, from segment `at` downwards.
    fn read_index(&mut self, at: usize) -> Flow<F> {
        if !self.ask_index(self.manifest.segments[at].file) {
            return self.no_index(at);
        }
        self.state = State::ReadingIndex(at);
        Ok(None)
    }

    /// Asks for an index file; false when there is none to read.
    fn ask_index(&mut self, file: FileNumber) -> bool {
        let file = FileName::Index(file);
        let length = self.files.get(&file).copied().filter(|l| *l <= INDEX_FILE_BYTES_MAX);
        let length = length.and_then(|l| usize::try_from(l.next_multiple_of(4096)).ok());
        let Some(length) = length.filter(|l| *l > 0) else { return false };
        self.ask(Op::Read { file, position: catena_format::Position::ZERO, length });
        true
    }

    /// Looks for the fold where the first segment begins, kept when an older one was dropped.
    fn read_fold(&mut self) -> Flow<F> {
        if self.ask_index(self.manifest.fold_file) {
            self.state = State::ReadingFold;
            return Ok(None);
        }
        // What is derived from a log that has all its segments is derived anew. One that is not
        // sealed may have been given up, unless others were begun behind it.
        let there = |s: &SegmentEntry| self.files.contains_key(&FileName::Segment(s.file));
        let begun = |s: &&SegmentEntry| s.sealed || self.report.segments_unnamed > 0;
        let whole = self.manifest.segments.iter().filter(begun).all(there);
        if whole && self.manifest.fold_file == FileNumber::new(0) {
            return self.begin_scan(0, None);
        }
        self.lose_fold()
    }

    /// Goes on without what the dropped segments brought, if that is of any use. Nothing was
    /// written yet: an index of now would say at the next start that all is well.
    fn lose_fold(&mut self) -> Flow<F> {
        if F::INDISPENSABLE {
            let start = self.manifest.segments.first().map_or(self.manifest.log_end, |s| s.base);
            return Err(OpenError::Damaged(start));
        }
        self.report.fold_lost = true;
        self.begin_scan(0, None)
    }

    fn fold_read(&mut self, result: Result<Outcome<M::Share>, IoError>) -> Flow<F> {
        let bytes = result.ok().map(Outcome::into_read);
        let image = bytes.and_then(|b| index::read_image(self.identity.uid, b.as_ref()).ok());
        let image = image.filter(|image| image.file == self.manifest.fold_file);
        if self.is_doubted(image.is_none()) {
            return self.read_fold();
        }
        let fold = self.fold.as_mut().expect("the fold is here until the end");
        if !image.is_some_and(|image| fold.restore(&image.fold)) {
            fold.reset();
            return self.lose_fold();
        }
        self.begin_scan(0, None)
    }

    fn index_read(&mut self, at: usize, result: Result<Outcome<M::Share>, IoError>) -> Flow<F> {
        let image = match &result {
            Ok(Outcome::Read(bytes)) => index::read_image(self.identity.uid, bytes.as_ref()).ok(),
            _ => None,
        };
        let segment = self.manifest.segments[at];
        let end_max = end_max(&self.manifest.segments, at).min(self.limit());
        let image = image.filter(|image| image.covers(&segment) && image.progress.end <= end_max);
        if self.is_doubted(image.is_none()) {
            return self.read_index(at);
        }
        let fold = self.fold.as_mut().expect("the fold is here until the end");
        match image {
            Some(image) if fold.restore(&image.fold) => self.begin_scan(at, Some(image)),
            _ => self.no_index(at),
        }
    }

    fn no_index(&mut self, at: usize) -> Flow<F> {
        // What cannot be read counts as none: the segment must not be dropped for it.
        self.files.remove(&FileName::Index(self.manifest.segments[at].file));
        match at.checked_sub(1) {
            Some(before) => self.read_index(before),
            None => self.read_fold(),
        }
    }

    fn begin_scan(&mut self, at: usize, image: Option<IndexImage>) -> Flow<F> {
        let stride = self.config.clamped().index_stride;
        let (uid, limit) = (self.identity.uid, self.limit());
        self.scan = Some(Scan::new(uid, stride, &self.manifest, at, image, limit));
        self.scan_on()
    }

    fn scan_on(&mut self) -> Flow<F> {
        let scan = self.scan.as_mut().expect("a scan is under way");
        let fold = self.fold.as_mut().expect("the fold is here until the end");
        if let Some(op) = scan.advance(fold) {
            return self.scan_read(op);
        }
        if let Some(file) = scan.unknown() {
            return Err(OpenError::Unsupported(file));
        }
        let scan = self.scan.take().expect("a scan is under way");
        let scanned = scan.finish(&self.manifest, fold, &mut self.memory);
        self.look_behind(scanned)
    }

    fn scan_read(&mut self, op: Op<M::Share>) -> Flow<F> {
        self.ask(op);
        self.state = State::Scanning;
        Ok(None)
    }

    fn scanned(&mut self, result: Result<Outcome<M::Share>, IoError>) -> Flow<F> {
        let scan = self.scan.as_mut().expect("a scan is under way");
        let result = result.map(Outcome::into_read);
        match scan.on_read(result, &mut self.memory)? {
            Some(op) => self.scan_read(op),
            None => self.scan_on(),
        }
    }

    /// Takes over what the scan found: every segment sealed where its last good batch ends.
    fn settle(&mut self, mut scanned: Scanned<M>) -> Flow<F> {
        self.miss_segments(&mut scanned);
        self.miss_offsets(&mut scanned);
        let RecoveryReport { manifest_repaired, fold_lost, segments_unnamed, .. } = self.report;
        self.report =
            RecoveryReport { manifest_repaired, fold_lost, segments_unnamed, ..scanned.report };
        self.indexes = scanned.indexes;
        self.images = scanned.images.into();
        // An index file that does not come to cover the whole segment is no index of it.
        let covered = |file: &FileNumber| self.images.iter().any(|(other, _)| other == file);
        for file in self.indexes.keys().filter(|file| !covered(file)) {
            self.files.remove(&FileName::Index(*file));
        }
        let unsealed = self.manifest.segments.iter().any(|s| !s.sealed);
        // The number of a leftover file is known only until that file is removed.
        let numbered = self.free_file() > self.manifest.next_file;
        let lacks_index =
            |image: &(FileNumber, _)| !self.files.contains_key(&FileName::Index(image.0));
        // A segment without an index gets one, for once it is dropped the fold stands nowhere else.
        let changed = unsealed
            || self.cut.is_some()
            || self.images.iter().any(lacks_index)
            || scanned.segments != self.manifest.segments
            || scanned.log_end != self.manifest.log_end
            || scanned.damaged != self.manifest.damaged;
        self.manifest.segments = scanned.segments;
        self.manifest.log_end = scanned.log_end;
        self.manifest.damaged = scanned.damaged;
        assert!(self.manifest.segments.len() <= SEGMENTS_MAX, "a manifest lists too many segments");
        if !changed {
            self.images.clear();
        }
        if changed || numbered || self.report.manifest_repaired {
            self.write_indexes()
        } else {
            self.clean()
        }
    }

    /// What a segment held whose file is gone is damaged. A log of which only what is derived from
    /// it is wanted has that.
    fn miss_segments(&self, scanned: &mut Scanned<M>) {
        if F::INDISPENSABLE {
            return;
        }
        let gone = |s: &&SegmentEntry| !self.files.contains_key(&FileName::Segment(s.file));
        let start = self.manifest.log_start;
        let held = scanned.segments.iter().filter(gone).map(|s| s.base.max(start)..s.end);
        held.collect::<Vec<_>>().into_iter().for_each(|held| scanned.damage(held));
    }

    /// So is what lies between segments: those that an older manifest did not name may begin behind
    /// the ones that were dropped since.
    fn miss_offsets(&self, scanned: &mut Scanned<M>) {
        for gap in gaps(self.manifest.log_start, &scanned.segments, scanned.log_end) {
            scanned.damage(gap);
        }
    }

    fn write_indexes(&mut self) -> Flow<F> {
        let Some((file, bytes)) = self.images.pop_front() else {
            return self.write_manifest(self.lead);
        };
        self.files.insert(FileName::Index(file), bytes.as_ref().len() as u64);
        let position = catena_format::Position::ZERO;
        self.ask(Op::Write { file: FileName::Index(file), position, bytes, durable: true });
        self.state = State::WritingIndexes(file);
        Ok(None)
    }

    fn write_manifest(&mut self, slot: Slot) -> Flow<F> {
        if slot == self.lead {
            self.manifest.generation += 1;
            self.manifest.next_file = self.free_file();
        }
        let bytes = self.manifest.write(&self.identity, &mut self.memory)?;
        let position = catena_format::Position::ZERO;
        self.ask(Op::Write { file: FileName::Manifest(slot), position, bytes, durable: true });
        self.state = State::WritingManifest(slot);
        Ok(None)
    }

    /// A file number above all that the manifest or the directory knows.
    fn free_file(&self) -> FileNumber {
        let listed = self.files.keys().filter_map(|file| match file {
            FileName::Segment(number) | FileName::Index(number) => Some(number.next()),
            FileName::Manifest(_) => None,
        });
        listed.fold(self.manifest.next_file, FileNumber::max)
    }

    fn manifest_written(
        &mut self,
        slot: Slot,
        result: Result<Outcome<M::Share>, IoError>,
    ) -> Flow<F> {
        match (result, slot) {
            (Ok(_), slot) if slot == self.lead => self.write_manifest(slot.other()),
            (Ok(_), _) => self.clean(),
            (Err(error), _) => self.not_written(error),
        }
    }

    /// What is there can be read; nothing may be added. But a log whose manifest may vanish does
    /// not exist yet, one that could not be cut is not what it is taken for, and descriptors will
    /// be free again.
    fn not_written(&mut self, error: IoError) -> Flow<F> {
        if self.create || self.cut.is_some() || error == IoError::NoDescriptors {
            return Err(error.into());
        }
        self.poisoned = Some(error);
        Ok(Some(self.finish()))
    }

    fn clean(&mut self) -> Flow<F> {
        let listed: Vec<_> = self.manifest.segments.iter().map(|s| s.file).collect();
        let fold_file = self.manifest.fold_file;
        let leftovers = self.files.keys().copied().filter(|file| match file {
            FileName::Segment(number) => !listed.contains(number),
            FileName::Index(number) => !listed.contains(number) && *number != fold_file,
            FileName::Manifest(_) => false,
        });
        let leftovers = leftovers.collect();
        self.remove(leftovers)
    }

    fn remove(&mut self, mut rest: VecDeque<FileName>) -> Flow<F> {
        if let Some(file) = rest.pop_front() {
            self.files.remove(&file);
            self.ask(Op::Remove { file });
            self.state = State::Removing(rest);
            return Ok(None);
        }
        self.ask(Op::SyncDirectory);
        self.state = State::Syncing;
        Ok(None)
    }

    fn finish(&mut self) -> Opened<F> {
        let index_files = self.files.iter().filter_map(|(file, length)| match file {
            FileName::Index(number) => Some((*number, *length)),
            _ => None,
        });
        Opened {
            fold: self.fold.take().expect("the fold is here until the end"),
            manifest: self.manifest.clone(),
            indexes: std::mem::take(&mut self.indexes),
            index_file_bytes: index_files.collect(),
            poisoned: self.poisoned,
            next_op: self.next_op,
            report: self.report.clone(),
        }
    }
}

fn both(file: FileName) -> [Settle; 2] {
    [Settle::Claim(file), Settle::Sync(file)]
}

fn absent_is_fine<S>(result: Result<Outcome<S>, IoError>) -> Result<(), IoError> {
    match result {
        Ok(_) | Err(IoError::NotFound) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Which error says most: a version or an owner that does not fit, over mere damage.
fn rank(error: &ImageError) -> u8 {
    match error {
        ImageError::Damaged => 0,
        ImageError::Foreign(_) => 1,
        ImageError::Version(_) => 2,
    }
}

/// The time of a log that has no batch yet.
pub(crate) const NO_TIME: Millis = Millis::new(-1);

/// The progress of a segment that holds nothing yet.
pub(crate) fn nothing_yet(base: Offset, max_timestamp: Millis, last_append: Millis) -> Progress {
    Progress {
        end: base,
        end_position: catena_format::Position::new(4096),
        max_timestamp,
        last_append_time: last_append,
        batches: 0,
        records: 0,
    }
}
