//! Segments that the manifest does not name: spares, what a crash left of a segment's first writes,
//! or segments that were dropped. They are removed.
//!
//! But where both copies of the manifest were replaced by older ones, no segment is named that was
//! begun since. Each frame says what was durable when it was submitted, and what was durable is
//! never more than what the newest manifest leads to. So a frame that knows of more than recovery
//! found proves that the manifest is an older one, and the segments begun since are taken back.

use std::collections::VecDeque;

use catena_format::{
    Epoch, FileNumber, FrameHeader, FrameSeed, Offset, PartitionUid, Position, SegmentHeader,
    limits::BLOCK_BYTES, planted,
};

use super::{Flow, OpenError, Opening, Settle, State, both, nothing_yet};
use crate::{
    config::SEGMENTS_MAX,
    fold::Fold,
    image::ImageError,
    io::{FileName, IoError, Memory, Op, Outcome},
    manifest::{Manifest, SegmentEntry},
    scan::{Scan, Scanned},
};

/// A look at segments that may have been begun since the manifest was written.
pub(super) struct Leftovers<M: Memory> {
    /// What the segments came to that the manifest names.
    scanned: Scanned<M>,
    /// Files behind the last one named, in the order of their numbers; not looked at yet.
    rest: VecDeque<FileNumber>,
    /// Those with something of this log, in the order in which they were begun.
    begun: Vec<Begun>,
    scan: Option<Scan<M>>,
}

/// A segment as its first two blocks tell of it.
struct Begun {
    file: FileNumber,
    base: Offset,
    epoch: Epoch,
}

impl Begun {
    /// From the header, or where a crash kept that from the disk, from the first frame.
    fn read(uid: PartitionUid, file: FileNumber, bytes: &[u8]) -> Option<Self> {
        let header = SegmentHeader::read(bytes).ok();
        let header = header.filter(|header| (header.uid, header.file) == (uid, file));
        let frame = || {
            let first = bytes.get(BLOCK_BYTES..)?;
            let position = Position::new(BLOCK_BYTES as u64);
            FrameHeader::read(first, FrameSeed { uid, file }, position).ok()
        };
        let (base, epoch) = match header {
            Some(header) => (header.base_offset, header.epoch),
            None => frame().map(|frame| (frame.base_offset, frame.epoch))?,
        };
        let possible = epoch <= Epoch::MAX && base <= Offset::MAX;
        possible.then_some(Self { file, base, epoch })
    }
}

impl<M: Memory + Clone, F: Fold> Opening<M, F> {
    /// Looks at what is not named before the line is drawn at what was `scanned`.
    pub(super) fn look_behind(&mut self, scanned: Scanned<M>) -> Flow<F> {
        let named = self.manifest.segments.iter().map(|s| s.file);
        let last = named.max().unwrap_or(FileNumber::new(0));
        let segments = self.files.keys().filter_map(|file| match file {
            FileName::Segment(number) => Some(*number),
            FileName::Index(_) | FileName::Manifest(_) => None,
        });
        let begun = |number: &FileNumber| *number > last && *number >= self.manifest.unnamed;
        let rest = segments.filter(begun).collect();
        self.leftovers = Some(Leftovers { scanned, rest, begun: Vec::new(), scan: None });
        self.look_at_next()
    }

    fn leftovers(&mut self) -> &mut Leftovers<M> {
        self.leftovers.as_mut().expect("leftovers are looked at")
    }

    fn look_at_next(&mut self) -> Flow<F> {
        let leftovers = self.leftovers();
        if let Some(number) = leftovers.rest.pop_front() {
            return self.read_header(number);
        }
        let begun = leftovers.begun.iter().map(|segment| segment.file);
        let files = begun.flat_map(|file| [FileName::Segment(file), FileName::Index(file)]);
        let steps = files.flat_map(both).collect();
        self.settle_leftovers(steps)
    }

    fn read_header(&mut self, number: FileNumber) -> Flow<F> {
        let file = FileName::Segment(number);
        self.ask(Op::Read { file, position: Position::ZERO, length: 2 * BLOCK_BYTES });
        self.state = State::ReadingHeader(number);
        Ok(None)
    }

    pub(super) fn header_read(
        &mut self,
        number: FileNumber,
        result: Result<Outcome<M::Share>, IoError>,
    ) -> Flow<F> {
        let begun = match &result {
            Ok(Outcome::Read(bytes)) => Begun::read(self.identity.uid, number, bytes.as_ref()),
            _ => None,
        };
        if self.is_doubted(begun.is_none()) {
            return self.read_header(number);
        }
        // Others were dropped: behind the manifest a segment begins at what was durable by then, or
        // later. What a newer one begins at or before was given up, empty.
        let sealed = self.manifest.segments.iter().filter(|s| s.sealed).map(|s| s.end);
        let durable = sealed.fold(self.manifest.log_end, Offset::max);
        if let Some(segment) = begun.filter(|segment| segment.base >= durable) {
            let begun = &mut self.leftovers().begun;
            begun.truncate(begun.partition_point(|other| other.base < segment.base));
            begun.push(segment);
        }
        self.look_at_next()
    }

    pub(super) fn settle_leftovers(&mut self, mut rest: VecDeque<Settle>) -> Flow<F> {
        if let Some(step) = rest.pop_front() {
            self.ask_settle(step);
            self.state = State::SettlingLeftovers(rest);
            return Ok(None);
        }
        let (uid, log_start) = (self.identity.uid, self.manifest.log_start);
        let leftovers = self.leftovers();
        let (segments, log_end) = (leftovers.entries(), leftovers.scanned.log_end);
        let unnamed = Manifest { log_start, log_end, segments, ..Manifest::empty() };
        // No index is made of it.
        leftovers.scan = Some(Scan::new(uid, u64::MAX, &unnamed, 0, None, Offset::MAX));
        self.look_on()
    }

    fn look_on(&mut self) -> Flow<F> {
        let leftovers = self.leftovers();
        let scan = leftovers.scan.as_mut().expect("leftovers are scanned");
        if let Some(op) = scan.advance(&mut ()) {
            self.ask(op);
            self.state = State::ScanningLeftovers;
            return Ok(None);
        }
        if let Some(file) = scan.unknown() {
            return Err(OpenError::Unsupported(file));
        }
        let known = scan.known_durable();
        let proven = known > leftovers.scanned.log_end && !planted!(UnnamedRemoved);
        let leftovers = self.leftovers.take().expect("leftovers are looked at");
        if proven { self.take_back(&leftovers) } else { self.settle(leftovers.scanned) }
    }

    pub(super) fn leftover_scanned(
        &mut self,
        result: Result<Outcome<M::Share>, IoError>,
    ) -> Flow<F> {
        let leftovers = self.leftovers.as_mut().expect("leftovers are looked at");
        let scan = leftovers.scan.as_mut().expect("leftovers are scanned");
        match scan.on_read(result.map(Outcome::into_read), &mut self.memory)? {
            Some(op) => {
                self.ask(op);
                self.state = State::ScanningLeftovers;
                Ok(None)
            }
            None => self.look_on(),
        }
    }

    /// The manifest is an older one: goes on as if it named the segments begun since.
    fn take_back(&mut self, leftovers: &Leftovers<M>) -> Flow<F> {
        if let Some(first) = leftovers.begun.first() {
            self.manifest.segments.retain(|named| named.sealed || named.base < first.base);
        }
        if self.manifest.segments.len() + leftovers.begun.len() > SEGMENTS_MAX {
            return Err(OpenError::Manifest(ImageError::Damaged));
        }
        self.manifest.segments.extend(leftovers.entries());
        for Begun { base, epoch, .. } in &leftovers.begun {
            if self.manifest.epochs.last().is_none_or(|(last, _)| last < epoch) {
                self.manifest.epochs.push((*epoch, *base));
            }
        }
        self.report.segments_unnamed = leftovers.begun.len() as u64;
        self.report.fold_lost = false;
        self.fold.as_mut().expect("the fold is here until the end").reset();
        self.settle_segments(VecDeque::new())
    }
}

impl<M: Memory> Leftovers<M> {
    /// As a manifest names segments that are not sealed.
    fn entries(&self) -> Vec<SegmentEntry> {
        let entry = |segment: &Begun| {
            let nothing = nothing_yet(segment.base, super::NO_TIME, super::NO_TIME);
            SegmentEntry {
                file: segment.file,
                base: segment.base,
                sealed: false,
                end: nothing.end,
                end_position: nothing.end_position,
                file_bytes: 0,
                max_timestamp: nothing.max_timestamp,
                last_append_time: nothing.last_append_time,
            }
        };
        self.begun.iter().map(entry).collect()
    }
}
