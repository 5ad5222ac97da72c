//! The scan of recovery: what follows the newest checkpoint, what of it holds, where the log ends.
//!
//! A frame says what was durable when it was submitted. A gap before offsets that were durable is
//! damage: what lies behind is kept and the range is marked. A gap that nobody proves durable is
//! where a crash cut: the log ends there, and whole frames behind it are dropped, for none was
//! acknowledged. No gap is believed before its beginning was read twice.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

use catena_format::{
    FileNumber, FrameHeader, FrameSeed, Millis, Offset, PartitionUid, Position, SegmentHeader,
    SegmentHeaderError, limits::BLOCK_BYTES, planted,
};

use crate::{
    config::SCAN_BYTES,
    fold::Fold,
    index::{self, Index, IndexImage, Progress},
    io::{FileName, IoError, Memory, Op},
    manifest::{DamagedRanges, Manifest, SegmentEntry, end_max},
    opening::{NO_TIME, OpenError, RecoveryReport, nothing_yet},
    walk::{Step, Walker, Window},
};

/// How much is read again where a frame is missing; a frame that is larger is read whole.
const DOUBT_BYTES: usize = 64 << 10;

/// A frame, and where it stands.
struct Found {
    segment: usize,
    position: Position,
    header: FrameHeader,
}

/// What is rebuilt of one segment.
struct Build {
    index: Index,
    progress: Progress,
    fold: Option<Vec<u8>>,
    accepted: bool,
}

pub(crate) struct Scan<M: Memory> {
    uid: PartitionUid,
    /// Between index entries, in bytes.
    stride: u64,
    segments: Vec<SegmentEntry>,
    first: usize,
    builds: Vec<Build>,
    walker: Option<Walker>,
    window: Option<(Position, M::Share)>,
    asked: (Position, usize),
    /// What stands there was not what should, and is read again.
    doubted: Option<Position>,
    /// A window that could not be read at once is put together from its blocks.
    patching: Option<Patching<M>>,
    expected: Offset,
    log_start: Offset,
    /// Nothing behind it is looked for.
    limit: Offset,
    known_durable: Offset,
    max_timestamp: Millis,
    last_append_time: Millis,
    /// Frames behind a gap, until it is known whether they hold. Their batches are copies: a share
    /// of what was read would keep other logs, and this one, from reading on.
    undecided: VecDeque<(Found, Box<[u8]>)>,
    damaged: DamagedRanges,
    report: RecoveryReport,
    absent: bool,
    unknown: Option<FileNumber>,
}

/// A window of which some blocks cannot be read: zeros stand for those.
struct Patching<M: Memory> {
    buffer: M::Buffer,
    length: usize,
    filled: usize,
}

pub(crate) struct Scanned<M: Memory> {
    pub(crate) segments: Vec<SegmentEntry>,
    pub(crate) indexes: BTreeMap<FileNumber, Index>,
    pub(crate) images: Vec<(FileNumber, M::Share)>,
    pub(crate) log_end: Offset,
    pub(crate) damaged: DamagedRanges,
    pub(crate) report: RecoveryReport,
}

impl<M: Memory> Scan<M> {
    /// A scan of the segments from number `first` of the manifest on, there behind what `image`
    /// covers, and up to `limit`.
    pub(crate) fn new(
        uid: PartitionUid,
        stride: u64,
        manifest: &Manifest,
        first: usize,
        image: Option<IndexImage>,
        limit: Offset,
    ) -> Self {
        let segments = manifest.segments.clone();
        let sealed_end = segments.iter().filter(|s| s.sealed).map(|s| s.end).max();
        let before = first.checked_sub(1).map(|at| segments[at]);
        let base = segments.get(first).map_or(manifest.log_end, |s| s.base);
        let mut scan = Self {
            uid,
            stride,
            first,
            builds: Vec::new(),
            walker: None,
            window: None,
            asked: (Position::ZERO, 0),
            doubted: None,
            patching: None,
            expected: base,
            log_start: manifest.log_start,
            limit,
            known_durable: manifest.log_end.max(sealed_end.unwrap_or(Offset::ZERO)),
            max_timestamp: before.map_or(NO_TIME, |s| s.max_timestamp),
            last_append_time: before.map_or(NO_TIME, |s| s.last_append_time),
            undecided: VecDeque::new(),
            damaged: manifest.damaged.clone(),
            report: RecoveryReport::default(),
            absent: false,
            unknown: None,
            segments,
        };
        if scan.first < scan.segments.len() {
            scan.begin_segment(image);
        }
        scan
    }

    fn current(&self) -> usize {
        self.first + self.builds.len() - 1
    }

    fn begin_segment(&mut self, image: Option<IndexImage>) {
        let entry = self.segments[self.first + self.builds.len()];
        (self.window, self.doubted) = (None, None);
        // What is missing below was trimmed, or damaged behind that, and that was known.
        let trimmed = self.expected.max(self.log_start);
        let missing = self.damaged.end_of(trimmed).unwrap_or(trimmed);
        if self.undecided.is_empty() && missing >= entry.base {
            self.expected = self.expected.max(entry.base);
        }
        let (index, progress, accepted) = match image {
            Some(image) => {
                self.expected = image.progress.end;
                // What was lost when the image was made may be later.
                let known = if entry.sealed { entry.max_timestamp } else { NO_TIME };
                self.max_timestamp = image.progress.max_timestamp.max(known);
                self.last_append_time = image.progress.last_append_time;
                let some = image.progress.end > image.base;
                self.known_durable = self.known_durable.max(image.progress.end);
                (image.index, image.progress, some)
            }
            None => {
                let nothing = nothing_yet(entry.base, self.max_timestamp, self.last_append_time);
                (Index::default(), nothing, false)
            }
        };
        let end = if entry.sealed { entry.end_position } else { Position::new(u64::MAX) };
        let seed = FrameSeed { uid: self.uid, file: entry.file };
        self.walker = Some(Walker::new(seed, progress.end_position, end, progress.end));
        self.builds.push(Build { index, progress, fold: None, accepted });
    }

    /// Goes on until a read is needed or all is scanned.
    pub(crate) fn advance<F: Fold>(&mut self, fold: &mut F) -> Option<Op<M::Share>> {
        while let Some(mut walker) = self.walker.take() {
            let op = self.walk(&mut walker, fold);
            self.walker = Some(walker);
            if op.is_some() {
                return op;
            }
            if self.unknown.is_some() {
                return None;
            }
            if self.undecided.is_empty() {
                let at = self.builds.len() - 1;
                self.builds[at].fold = Some(fold.snapshot());
            }
            if self.current() + 1 == self.segments.len() {
                self.walker = None;
            } else {
                self.begin_segment(None);
            }
        }
        None
    }

    /// Walks the current segment; `None` at its end.
    fn walk<F: Fold>(&mut self, walker: &mut Walker, fold: &mut F) -> Option<Op<M::Share>> {
        loop {
            if std::mem::take(&mut self.absent) {
                walker.set_file_end(Position::ZERO);
                return None;
            }
            let Some((at, share)) = self.window.clone() else {
                return Some(self.read(walker.position(), SCAN_BYTES, SCAN_BYTES));
            };
            if at == self.asked.0 && share.as_ref().len() < self.asked.1 {
                walker.set_file_end(at.plus(share.as_ref().len() as u64));
            }
            let window = Window { position: at, bytes: share.as_ref() };
            let before = walker.clone();
            let step = walker.step(window);
            let missed = walker.searches() > before.searches();
            let bad = missed || matches!(step, Step::BadPayload { .. });
            if bad && !planted!(OneReadBelieved) && self.doubted != Some(before.position()) {
                *walker = before;
                (self.window, self.doubted) = (None, Some(walker.position()));
                return Some(self.read(walker.position(), DOUBT_BYTES, DOUBT_BYTES));
            }
            match step {
                Step::Frame { position, header } => {
                    let start = position.get() - at.get() + 64;
                    let start = usize::try_from(start).expect("a window is small");
                    let batch = &share.as_ref()[start..start + header.payload_length as usize];
                    self.frame(position, header, batch, fold);
                }
                Step::BadPayload { header, .. } => self.know(header.durable_end, fold),
                Step::More { from, bytes } => {
                    self.window = None;
                    return Some(self.read(from, bytes, SCAN_BYTES));
                }
                Step::Unknown { .. } => {
                    self.unknown = Some(self.segments[self.current()].file);
                    return None;
                }
                Step::End => return None,
            }
        }
    }

    /// Everything below was durable, as far as anything says that was met so far.
    pub(crate) fn known_durable(&self) -> Offset {
        self.known_durable
    }

    /// The file in which a frame of an unknown version stopped the scan.
    pub(crate) fn unknown(&self) -> Option<FileNumber> {
        self.unknown
    }

    fn check_header(&self, block: &[u8]) -> Result<(), OpenError> {
        let file = self.segments[self.current()].file;
        match SegmentHeader::read(block) {
            Err(SegmentHeaderError::Version(_) | SegmentHeaderError::Features(_)) => {
                Err(OpenError::Unsupported(file))
            }
            // A damaged header costs nothing: the frames prove where they belong.
            _ => Ok(()),
        }
    }

    /// Reads from there on so many bytes, and `least` if that is more.
    fn read(&mut self, from: Position, bytes: usize, least: usize) -> Op<M::Share> {
        let block = BLOCK_BYTES as u64;
        // The first read of a segment takes its header along.
        let position = if from.get() == block { Position::ZERO } else { from.align_down(block) };
        let lead = usize::try_from(from.get() - position.get()).expect("a block is small");
        let length = least.max((lead + bytes).next_multiple_of(BLOCK_BYTES));
        self.asked = (position, length);
        self.read_op(position, length)
    }

    fn read_op(&self, position: Position, length: usize) -> Op<M::Share> {
        Op::Read { file: FileName::Segment(self.segments[self.current()].file), position, length }
    }

    /// Takes the answer to the read asked for; the next read, when it has to be patched together.
    ///
    /// # Errors
    /// When a segment was written by a newer version, or memory is exhausted.
    pub(crate) fn on_read(
        &mut self,
        result: Result<M::Share, IoError>,
        memory: &mut M,
    ) -> Result<Option<Op<M::Share>>, OpenError> {
        let (position, asked) = self.asked;
        if self.patching.is_some() {
            return Ok(self.patch(result, memory));
        }
        match result {
            Ok(share) => {
                self.report.scanned_bytes += share.as_ref().len() as u64;
                if position == Position::ZERO {
                    self.check_header(share.as_ref())?;
                }
                self.window = Some((position, share));
                Ok(None)
            }
            Err(IoError::NotFound) => {
                self.absent = true;
                Ok(None)
            }
            Err(_) => {
                let buffer = memory.allocate(asked)?;
                self.patching = Some(Patching { buffer, length: asked, filled: 0 });
                Ok(Some(self.read_op(position, BLOCK_BYTES)))
            }
        }
    }

    fn patch(&mut self, result: Result<M::Share, IoError>, memory: &mut M) -> Option<Op<M::Share>> {
        let mut patching = self.patching.take().expect("a window is being patched");
        let (at, next) = (patching.filled, patching.filled + BLOCK_BYTES);
        let block = &mut patching.buffer.as_mut()[at..next];
        block.fill(0);
        let ended = match &result {
            Ok(share) => {
                let got = share.as_ref();
                block[..got.len()].copy_from_slice(got);
                got.len() < BLOCK_BYTES
            }
            Err(_) => false,
        };
        patching.filled = if ended { at } else { next };
        let position = self.asked.0;
        if ended || next == patching.length {
            let filled = patching.filled;
            self.window = Some((position, memory.freeze(patching.buffer, filled)));
            return None;
        }
        self.patching = Some(patching);
        Some(self.read_op(position.plus(next as u64), BLOCK_BYTES))
    }

    fn frame<F: Fold>(
        &mut self,
        position: Position,
        header: FrameHeader,
        batch: &[u8],
        fold: &mut F,
    ) {
        if header.next_offset() > end_max(&self.segments, self.current()).min(self.limit) {
            return;
        }
        if !header.mark {
            let found = Found { segment: self.current(), position, header };
            let follows = header.base_offset == self.expected || planted!(UnzeroedRecycled);
            if self.undecided.is_empty() && follows {
                self.accept(&found, batch, fold);
            } else if header.base_offset >= self.expected {
                self.undecided.push_back((found, batch.into()));
            }
        }
        self.know(header.durable_end, fold);
    }

    /// Learns that everything below `durable_end` was durable, and decides what that decides.
    fn know<F: Fold>(&mut self, durable_end: Offset, fold: &mut F) {
        self.known_durable = self.known_durable.max(durable_end.min(self.limit));
        while let Some((next, _)) = self.undecided.front() {
            let base = next.header.base_offset;
            let proven = base <= self.known_durable && !planted!(TruncateOnBadCrc);
            if base != self.expected && !proven {
                return;
            }
            let (found, batch) = self.undecided.pop_front().expect("there is a first frame");
            if base >= self.expected {
                self.accept(&found, &batch, fold);
            }
        }
    }

    fn accept<F: Fold>(&mut self, found: &Found, batch: &[u8], fold: &mut F) {
        let header = &found.header;
        self.damage(self.expected, header.base_offset);
        let build = &mut self.builds[found.segment - self.first];
        build.index.note(self.stride, header.base_offset, found.position, self.max_timestamp);
        build.accepted = true;
        self.expected = header.next_offset();
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
        self.last_append_time = self.last_append_time.max(header.append_time);
        let end = found.position.plus(header.frame_bytes() as u64);
        build.progress = Progress {
            end: self.expected,
            end_position: end.align_up(BLOCK_BYTES as u64),
            max_timestamp: self.max_timestamp,
            last_append_time: self.last_append_time,
            batches: build.progress.batches + 1,
            records: build.progress.records + u64::from(header.count),
        };
        self.report.batches += 1;
        fold.apply(header, batch);
    }

    fn damage(&mut self, from: Offset, to: Offset) {
        damage(&mut self.damaged, &mut self.report, from..to);
    }

    /// Draws the line: what was scanned is sealed where its last good batch ends.
    pub(crate) fn finish<F: Fold>(
        mut self,
        manifest: &Manifest,
        fold: &F,
        memory: &mut M,
    ) -> Scanned<M> {
        self.report.batches_cut = self.undecided.len() as u64;
        self.report.bytes_cut = self.undecided.iter().map(|(_, batch)| batch.len() as u64).sum();
        let proven_end = self.known_durable.max(manifest.log_end);
        let log_end = if planted!(TruncateOnBadCrc) { self.expected } else { proven_end };
        let log_end = log_end.max(self.expected);
        self.report.resumed_at_mark = log_end > self.expected;
        self.damage(self.expected, log_end);
        // Nothing is lost of what was never given.
        self.damaged.cut(log_end);
        if let Some(last) = self.builds.iter_mut().rfind(|build| build.accepted) {
            last.fold = Some(fold.snapshot());
        }
        let mut scanned = Scanned {
            segments: self.segments[..self.first].to_vec(),
            indexes: BTreeMap::new(),
            images: Vec::new(),
            log_end,
            damaged: self.damaged,
            report: self.report,
        };
        for (at, build) in (self.first..).zip(self.builds) {
            let entry = self.segments[at];
            // Offsets that were there and of which none can be read: whoever looks into the file
            // by other means may still find something, so that it stays.
            let end = end_max(&self.segments, at).min(log_end);
            let lost = entry.base < end && self.log_start < end;
            if entry.sealed || build.accepted || lost {
                scanned.take(self.uid, entry, end, build, memory);
            }
        }
        scanned
    }
}

/// Marks offsets as damaged, and counts them if that is new.
fn damage(damaged: &mut DamagedRanges, report: &mut RecoveryReport, offsets: Range<Offset>) {
    if let Some(offsets) = damaged.insert(offsets) {
        report.offsets_damaged += offsets.end.since(offsets.start);
    }
}

impl<M: Memory> Scanned<M> {
    /// Offsets that were given cannot be read any more.
    pub(crate) fn damage(&mut self, offsets: Range<Offset>) {
        damage(&mut self.damaged, &mut self.report, offsets);
    }

    /// Takes a segment; if nothing in it can be read, it held the offsets up to `lost`.
    fn take(
        &mut self,
        uid: PartitionUid,
        mut entry: SegmentEntry,
        lost: Offset,
        build: Build,
        memory: &mut M,
    ) {
        let mut progress = build.progress;
        let whole = if entry.sealed { progress.end == entry.end } else { build.accepted };
        if entry.sealed && whole {
            // Behind the last batch a mark may stand.
            progress.end_position = entry.end_position;
        } else if !entry.sealed {
            entry.sealed = true;
            entry.end = if build.accepted { progress.end } else { lost };
            entry.end_position = progress.end_position;
            entry.max_timestamp = progress.max_timestamp;
            entry.last_append_time = progress.last_append_time;
        }
        if let Some(fold) = build.fold.filter(|_| whole) {
            let (file, base) = (entry.file, entry.base);
            // Without memory for it the index stays unwritten, and the next recovery scans.
            let image = index::write_image(uid, file, base, &progress, &build.index, fold, memory);
            self.images.extend(image.ok().map(|image| (file, image)));
        }
        self.segments.push(entry);
        self.indexes.insert(entry.file, build.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Heap;

    #[test]
    fn nothing_is_damaged_behind_the_end_of_the_log() {
        let mut manifest = Manifest { log_end: Offset::new(5), ..Manifest::empty() };
        manifest.damaged.insert(Offset::new(3)..Offset::new(9));
        manifest.damaged.insert(Offset::new(12)..Offset::new(14));
        let uid = PartitionUid::new(1);
        let scan = Scan::<Heap>::new(uid, 4096, &manifest, 0, None, Offset::MAX);
        let scanned = scan.finish(&manifest, &(), &mut Heap);
        assert_eq!(scanned.log_end, Offset::new(5));
        let left: Vec<_> = scanned.damaged.iter().cloned().collect();
        assert_eq!(left, [Offset::new(3)..Offset::new(5)]);
    }
}
