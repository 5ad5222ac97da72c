//! An open log: appends, what is durable, what can be read.
//!
//! ```text
//! append → group (tail buffer) → flight ──write──→ done → durable end
//!            roll: seal · index image · manifest        └→ tail cache → readers
//! ```
//!
//! Effects leave through [`Log::poll_op`], which also decides what is submitted: whatever was
//! appended since the last call goes out together, so commits group without a timer.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    time::Duration,
};

use catena_format::{Epoch, FileNumber, FrameSeed, Millis, Offset, Position, limits::BLOCK_BYTES};

use crate::{
    config::LogConfig,
    flight::{Flight, FlightKind, FlightState},
    fold::Fold,
    group::Group,
    index::{Index, Progress},
    io::{FileName, IoError, Memory, MemoryExhausted, Op, OpId},
    keeper::Keeper,
    maintain::ManifestWriter,
    manifest::{DamagedRanges, LogIdentity, SegmentEntry},
    opening::{NO_TIME, Opened, RecoveryReport, nothing_yet},
    read::{Batches, Cold, Finding, ReadError, ReadId, WindowKey},
    repair::{RepairError, Repairs},
    scrub::Scrub,
    space::Space,
    stage::Stage,
    tail::Tail,
    time::Now,
};

/// What a read brought.
#[derive(Clone, Debug)]
pub enum ReadAnswer<S> {
    /// Batches.
    Batches(Batches<S>),
    /// Where the first batch with a record of the time begins; `None`: no record is that late.
    Offset(Option<Offset>),
}

/// What happened inside, for the log's owner.
#[derive(Clone, Debug)]
pub enum Event<S> {
    /// A pending read ended.
    Read(ReadId, Result<ReadAnswer<S>, ReadError>),
    /// A write or flush failed: nothing more is acknowledged.
    Poisoned(IoError),
    /// The log start that was asked for is durable.
    Trimmed(Offset),
    /// Stored bytes are not what was written, or cannot be read.
    Found(Finding),
    /// Offsets that were lost stand in the log again. The manifest that says so follows.
    Repaired(Range<Offset>),
    /// Of these offsets nothing was repaired.
    RepairFailed(Range<Offset>, RepairError),
    /// What the owner derives from all batches before [`Log::held_start`], as it was then; empty:
    /// nothing, or it is lost.
    Fold(Offset, Vec<u8>),
}

/// Counters, plain numbers, never reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs)]
pub struct LogStats {
    pub batches_appended: u64,
    pub bytes_appended: u64,
    pub writes: u64,
    pub write_bytes: u64,
    pub manifests: u64,
    pub segments_rolled: u64,
    pub segments_dropped: u64,
    pub segments_recycled: u64,
    pub checkpoints: u64,
    pub cold_reads: u64,
    pub damaged_found: u64,
    pub hints_failed: u64,
    pub scrubbed_bytes: u64,
    /// Reads of the scrub that failed.
    pub scrub_errors: u64,
    /// Reads of the scrub that brought damage which a second one did not find.
    pub scrub_contradicted: u64,
    pub repaired_offsets: u64,
    /// From the first append of a flush group until its write leaves.
    pub gather: Stage,
    /// From there until it has reached the disk.
    pub write: Stage,
}

/// One segment of an open log.
pub(crate) struct Segment {
    pub(crate) entry: SegmentEntry,
    pub(crate) index: SegmentIndex,
    /// Present while the segment is written.
    pub(crate) space: Option<Space>,
    pub(crate) max_timestamp_before: Millis,
    pub(crate) readers: u32,
    /// The bytes of its index on the disk, with what is derived from the log up to its end; 0: it
    /// is not there.
    pub(crate) index_bytes: u64,
    /// It is known to be whole: it was written in this life, or read.
    pub(crate) index_whole: bool,
    /// In its index file a checkpoint stands, of a part of it.
    pub(crate) index_part: bool,
    /// Its places are not those of the frames, or nobody knows whether they are.
    pub(crate) index_wrong: bool,
    /// How often something of it was repaired: what was read before says nothing of it now.
    pub(crate) repairs: u32,
    /// When the scrub was through with it, or it came to be there for the scrub.
    pub(crate) checked: Duration,
}

pub(crate) enum SegmentIndex {
    Resident(Index),
    OnDisk(u64),
}

/// The segment that takes appends.
pub(crate) struct Active {
    pub(crate) file: FileNumber,
    /// Where the next group goes.
    pub(crate) cursor: Position,
    pub(crate) first_append: Option<Millis>,
    pub(crate) progress: Progress,
    pub(crate) checkpoint_position: Position,
}

/// A file prepared for the next roll.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Spare {
    None,
    Making(FileNumber),
    Ready(FileNumber, Space),
}

/// The segment files that no segment has yet.
pub(crate) struct Files {
    pub(crate) spare: Spare,
    /// The file of a dropped segment, and its bytes, that a busy log will use again.
    pub(crate) kept: Option<(FileNumber, Position)>,
    pub(crate) next: FileNumber,
    /// Files with lower numbers are of an earlier life, whose writes may still be on their way.
    pub(crate) first_own: FileNumber,
    /// Files with lower numbers that no manifest names are nothing.
    pub(crate) unnamed: FileNumber,
}

impl Files {
    fn new(next: FileNumber, unnamed: FileNumber) -> Self {
        Self { spare: Spare::None, kept: None, next, first_own: next, unnamed }
    }
}

/// Which question an operation answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    Flight(u64),
    Extend(FileNumber),
    NewFile(FileNumber, Position),
    NewFileEntry(FileNumber, Position),
    Release(FileNumber),
    ManifestFirst(u64),
    ManifestSecond,
    Image,
    ImageEntry,
    /// A checkpoint is overwritten.
    Spoil(FileNumber),
    /// Nothing hangs on it.
    Hint,
    Read(ReadId),
    ReadIndex(ReadId),
    ReadKeeper(FileNumber),
    ReadFold(Offset),
    Scrub,
    Repair,
}

/// An index image that waits until what it covers is durable.
pub(crate) struct PendingImage<S> {
    pub(crate) file: FileNumber,
    pub(crate) end: Offset,
    pub(crate) bytes: S,
    pub(crate) seals: bool,
}

/// The index images that are to be written, in order.
pub(crate) struct Images<S> {
    pub(crate) queue: VecDeque<PendingImage<S>>,
    /// The first is being written: of two at once the older could be the one that stays.
    pub(crate) busy: bool,
    /// The first could not be written; it is tried again.
    pub(crate) retry: bool,
    /// There was no space for it when it was last tried.
    pub(crate) no_space: bool,
}

impl<S> Images<S> {
    fn none() -> Self {
        Self { queue: VecDeque::new(), busy: false, retry: false, no_space: false }
    }
}

/// An open log.
pub struct Log<M: Memory, F> {
    pub(crate) identity: LogIdentity,
    pub(crate) config: LogConfig,
    pub(crate) memory: M,
    pub(crate) fold: F,
    pub(crate) report: RecoveryReport,
    pub(crate) stats: LogStats,
    pub(crate) outbox: VecDeque<(OpId, Op<M::Share>)>,
    /// What is under way: why, and at which file.
    pub(crate) purposes: BTreeMap<OpId, (Purpose, Option<FileName>)>,
    pub(crate) next_op: u64,
    pub(crate) events: VecDeque<Event<M::Share>>,
    pub(crate) now: Now,

    pub(crate) log_start: Offset,
    /// The log start that the next manifest will say; what lies below is dropped once that is
    /// durable.
    pub(crate) wanted_start: Offset,
    pub(crate) log_end: Offset,
    pub(crate) durable_end: Offset,
    pub(crate) epochs: Vec<(Epoch, Offset)>,
    pub(crate) damaged: DamagedRanges,
    pub(crate) segments: VecDeque<Segment>,
    pub(crate) active: Option<Active>,
    pub(crate) files: Files,
    pub(crate) fold_file: FileNumber,
    /// Retention drops nothing that reaches beyond it.
    pub(crate) committed: Offset,
    pub(crate) max_timestamp: Millis,
    pub(crate) last_append_time: Millis,

    pub(crate) group: Option<Group<M>>,
    pub(crate) flights: VecDeque<Flight<M::Share>>,
    pub(crate) first_flight: u64,
    pub(crate) undurable_bytes: usize,
    pub(crate) tail: Tail<M>,
    pub(crate) group_hint: usize,

    pub(crate) manifest: ManifestWriter,
    /// The manifest that was written last, until both copies are of it.
    pub(crate) manifest_copy: Option<M::Share>,
    pub(crate) images: Images<M::Share>,
    pub(crate) keeper: Keeper,
    /// Segments that the manifest no longer names, as long as somebody reads them.
    pub(crate) dropped: Vec<Segment>,
    /// Files that are to go.
    pub(crate) removals: Vec<FileName>,
    /// Index files of dropped segments that are still there.
    pub(crate) old_folds: Vec<FileNumber>,
    pub(crate) trims: VecDeque<(u64, Offset)>,
    pub(crate) poisoned: Option<IoError>,
    pub(crate) disk_full: bool,
    pub(crate) closing: bool,

    pub(crate) last_append: Duration,
    pub(crate) marked: Offset,
    pub(crate) next_housekeeping: Duration,

    pub(crate) reads: BTreeMap<ReadId, Cold<M>>,
    /// Parts of segments that are being read, and who else waits for the same.
    pub(crate) windows: BTreeMap<WindowKey, Vec<ReadId>>,
    pub(crate) next_read: u64,
    pub(crate) scrub: Scrub,
    pub(crate) repairs: Repairs<M>,
}

impl<M: Memory + Clone, F: Fold> Log<M, F> {
    pub(crate) fn from_opened(
        identity: LogIdentity,
        config: LogConfig,
        memory: M,
        opened: Opened<F>,
        now: Now,
    ) -> Self {
        let (manifest, bytes) = (opened.manifest, &opened.index_file_bytes);
        let segments = sealed_segments(&manifest.segments, opened.indexes, bytes, now.monotonic);
        Self {
            identity,
            config: config.clamped(),
            memory,
            fold: opened.fold,
            report: opened.report,
            stats: LogStats::default(),
            outbox: VecDeque::new(),
            purposes: BTreeMap::new(),
            next_op: opened.next_op,
            events: VecDeque::new(),
            now,
            log_start: manifest.log_start,
            wanted_start: manifest.log_start,
            log_end: manifest.log_end,
            durable_end: manifest.log_end,
            epochs: manifest.epochs,
            damaged: manifest.damaged,
            segments,
            active: None,
            files: Files::new(manifest.next_file, manifest.unnamed),
            fold_file: manifest.fold_file,
            committed: Offset::MAX,
            max_timestamp: manifest.segments.last().map_or(NO_TIME, |s| s.max_timestamp),
            last_append_time: manifest.segments.last().map_or(NO_TIME, |s| s.last_append_time),
            group: None,
            flights: VecDeque::new(),
            first_flight: 0,
            undurable_bytes: 0,
            tail: Tail::new(),
            group_hint: BLOCK_BYTES,
            manifest: ManifestWriter::of(manifest.generation, manifest.log_end),
            manifest_copy: None,
            images: Images::none(),
            keeper: Keeper::of(bytes.get(&manifest.fold_file)),
            dropped: Vec::new(),
            removals: Vec::new(),
            old_folds: vec![manifest.fold_file],
            trims: VecDeque::new(),
            poisoned: opened.poisoned,
            disk_full: false,
            closing: false,
            last_append: now.monotonic,
            marked: manifest.log_end,
            next_housekeeping: now.monotonic,
            reads: BTreeMap::new(),
            windows: BTreeMap::new(),
            next_read: 0,
            scrub: Scrub::default(),
            repairs: Repairs::default(),
        }
    }

    /// Ends the open group and puts it in line for the disk.
    pub(crate) fn close_group(&mut self) {
        let Some(group) = self.group.take() else { return };
        if group.used() == 0 {
            return;
        }
        let active = self.active.as_mut().expect("a group belongs to the active segment");
        self.group_hint = (group.used() * 2).max(self.group_hint / 2);
        let file = active.file;
        active.cursor = group.position.plus(group.write_bytes() as u64);
        active.progress.end_position = active.cursor;
        let segment = self.segments.back_mut().expect("the active segment is the last");
        segment.entry.end_position = active.cursor;
        let since = group.since;
        let closed = group.close(
            FrameSeed { uid: self.identity.uid, file },
            self.durable_end,
            &mut self.memory,
        );
        let (end, bytes) = (closed.end, closed.share.as_ref().len());
        self.flights.push_back(Flight {
            kind: FlightKind::Group { file, position: closed.position, end, bytes },
            share: Some(closed.share.clone()),
            state: FlightState::Waiting,
            since,
        });
        self.tail.push(closed);
    }

    /// Begins a segment for the next append: header, manifest and the first groups go out together,
    /// and nothing in it is durable before all of them are.
    pub(crate) fn begin_segment(&mut self, epoch: Epoch) -> Result<(), MemoryExhausted> {
        let block = self.memory.allocate(BLOCK_BYTES)?;
        let file = self.take_spare();
        let header = catena_format::SegmentHeader {
            cluster: self.identity.cluster,
            topic: self.identity.topic,
            partition: self.identity.partition,
            uid: self.identity.uid,
            file,
            base_offset: self.log_end,
            epoch,
            created: self.now.wall,
        };
        let share = self.header_block(&header, block);
        let nothing = nothing_yet(self.log_end, self.max_timestamp, self.last_append_time);
        let first = Position::new(BLOCK_BYTES as u64);
        self.active = Some(Active {
            file,
            cursor: first,
            first_append: None,
            progress: nothing,
            checkpoint_position: first,
        });
        self.flights.push_back(Flight {
            kind: FlightKind::Header { file },
            share: Some(share),
            state: FlightState::Waiting,
            since: self.now.monotonic,
        });
        let generation = self.want_manifest();
        self.flights.push_back(Flight {
            kind: FlightKind::Manifest { generation },
            share: None,
            state: FlightState::Submitted,
            since: self.now.monotonic,
        });
        Ok(())
    }

    fn header_block(
        &mut self,
        header: &catena_format::SegmentHeader,
        mut block: M::Buffer,
    ) -> M::Share {
        let bytes = &mut block.as_mut()[..BLOCK_BYTES];
        bytes.fill(0);
        header.write(bytes);
        self.memory.freeze(block, BLOCK_BYTES)
    }

    /// The file for the next segment: the spare, or one that is made now.
    fn take_spare(&mut self) -> FileNumber {
        if self.files.spare == Spare::None {
            self.make_spare();
        }
        let (file, space) = match std::mem::replace(&mut self.files.spare, Spare::None) {
            Spare::Ready(file, space) => (file, space),
            Spare::Making(file) => (file, Space::new(Position::ZERO, false)),
            Spare::None => unreachable!("a spare is being made"),
        };
        let before = self.segments.back().and_then(|s| s.space);
        let space = before.map_or(space, |before| before.handed_on(space, self.now.monotonic));
        self.segments.push_back(Segment {
            entry: SegmentEntry {
                file,
                base: self.log_end,
                sealed: false,
                end: self.log_end,
                end_position: Position::new(BLOCK_BYTES as u64),
                file_bytes: 0,
                max_timestamp: self.max_timestamp,
                last_append_time: self.last_append_time,
            },
            index: SegmentIndex::Resident(Index::default()),
            space: Some(space),
            max_timestamp_before: self.max_timestamp,
            readers: 0,
            index_bytes: 0,
            index_whole: false,
            index_part: false,
            index_wrong: false,
            repairs: 0,
            checked: self.now.monotonic,
        });
        file
    }

    /// The next operation to perform. Submits what was appended since the last call.
    pub fn poll_op(&mut self) -> Option<(OpId, Op<M::Share>)> {
        if self.outbox.is_empty() {
            self.pump();
        }
        self.outbox.pop_front()
    }

    /// What happened since the last call.
    pub fn poll_event(&mut self) -> Option<Event<M::Share>> {
        self.events.pop_front()
    }

    pub(crate) fn ask(&mut self, purpose: Purpose, op: Op<M::Share>) {
        let id = OpId(self.next_op);
        self.next_op += 1;
        self.purposes.insert(id, (purpose, op.file()));
        self.outbox.push_back((id, op));
    }

    /// What the owner derives from the log.
    pub fn fold(&self) -> &F {
        &self.fold
    }

    /// The same, to take out what the owner keeps there beside the state.
    pub fn fold_mut(&mut self) -> &mut F {
        &mut self.fold
    }

    /// The first readable offset.
    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    /// The first offset that is still there, trimmed or not: a segment begins there.
    pub fn held_start(&self) -> Offset {
        self.segments.front().map_or(self.log_start, |first| first.entry.base.min(self.log_start))
    }

    /// The next offset to give.
    pub fn log_end(&self) -> Offset {
        self.log_end
    }

    /// The end of what is durable here, prefix-closed.
    pub fn durable_end(&self) -> Offset {
        self.durable_end
    }

    /// The epoch of the last batch.
    pub fn last_epoch(&self) -> Option<Epoch> {
        let mut began = self.epochs.iter().rev();
        began.find(|(_, start)| *start < self.log_end).map(|(epoch, _)| *epoch)
    }

    /// The epochs and the offsets at which they began; of some that began at the end or behind it
    /// a crash may have left nothing else.
    pub fn epochs(&self) -> &[(Epoch, Offset)] {
        &self.epochs
    }

    /// Acknowledged offsets that cannot be read any more.
    pub fn damaged(&self) -> Vec<Range<Offset>> {
        self.damaged.iter().cloned().collect()
    }

    /// What recovery found when the log was opened.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.report
    }

    /// Counters.
    pub fn stats(&self) -> LogStats {
        self.stats
    }

    /// Segments, the active one included.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Bytes of segments up to their last batch.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.entry.end_position.get()).sum()
    }

    /// Bytes accepted and not yet durable.
    pub fn undurable_bytes(&self) -> usize {
        self.undurable_bytes
    }

    /// Memory held for readers of the recent end and by indexes, in bytes.
    pub fn memory_bytes(&self) -> usize {
        let index = |s: &Segment| match &s.index {
            SegmentIndex::Resident(index) => index.memory_bytes(),
            SegmentIndex::OnDisk(_) => 0,
        };
        self.tail.bytes() + self.segments.iter().map(index).sum::<usize>()
    }

    /// Of these, what is held for readers of the recent end.
    pub fn tail_bytes(&self) -> usize {
        self.tail.bytes()
    }

    /// Gives back what is held for readers of the recent end, as far as the disk has it.
    pub fn drop_tail(&mut self) {
        self.tail.evict(0, self.durable_end);
    }

    /// Why appends are refused, if they are.
    pub fn poisoned(&self) -> Option<IoError> {
        self.poisoned
    }

    /// Whether appends are refused for want of disk space.
    pub fn disk_full(&self) -> bool {
        self.disk_full
    }

    /// Changes the configuration; it applies from the next roll or housekeeping on.
    pub fn set_config(&mut self, config: LogConfig) {
        self.config = config.clamped();
    }

    /// Retention drops nothing that reaches beyond this: nobody else may have it yet.
    pub fn set_committed(&mut self, end: Offset) {
        self.committed = end;
    }

    /// Somebody waits for a read.
    pub fn has_reads(&self) -> bool {
        !self.reads.is_empty() || !self.events.is_empty()
    }

    /// Nothing is on its way to the disk and nothing waits for it.
    pub fn is_idle(&self) -> bool {
        self.group.is_none()
            && self.flights.is_empty()
            && self.purposes.is_empty()
            && self.images.queue.is_empty()
            && self.removals.is_empty()
            && !(self.closing && self.owes_end())
    }

    pub(crate) fn segment_of(&self, file: FileNumber) -> Option<usize> {
        self.segments.iter().rposition(|s| s.entry.file == file)
    }
}

/// The segments that a manifest names, each with its index where that is in memory.
fn sealed_segments(
    entries: &[SegmentEntry],
    mut indexes: BTreeMap<FileNumber, Index>,
    index_file_bytes: &BTreeMap<FileNumber, u64>,
    opened: Duration,
) -> VecDeque<Segment> {
    let mut before = NO_TIME;
    let segments = entries.iter().map(|entry| {
        let bytes = index_file_bytes.get(&entry.file).copied().unwrap_or(0);
        let index = indexes.remove(&entry.file);
        // Recovery has it in memory where it has read the file, or written it.
        let index_whole = index.is_some();
        let index = index.map_or(SegmentIndex::OnDisk(bytes), SegmentIndex::Resident);
        let max_timestamp_before = std::mem::replace(&mut before, entry.max_timestamp);
        Segment {
            entry: *entry,
            index,
            space: None,
            max_timestamp_before,
            readers: 0,
            index_bytes: bytes,
            index_whole,
            index_part: false,
            index_wrong: false,
            repairs: 0,
            checked: opened,
        }
    });
    segments.collect()
}
