//! What is on its way to the disk: submitted in order, several at once, counted durable only as a
//! prefix.

use std::{collections::BTreeMap, time::Duration};

use catena_format::{FileNumber, Offset, Position, limits::BLOCK_BYTES, planted};

use crate::{
    config::{GROUP_BYTES_EAGER, WRITES_IN_FLIGHT_MAX},
    fold::Fold,
    io::{Done, FileName, IoError, Memory, Op, Outcome},
    log::{Event, Log, Purpose, Spare},
    space::Space,
};

/// A step towards durability. The durable end passes it when it and all before it are done.
pub(crate) struct Flight<S> {
    pub(crate) kind: FlightKind,
    /// The bytes to write, until they are written.
    pub(crate) share: Option<S>,
    pub(crate) state: FlightState,
    /// When its first batch was appended; once it is submitted, when it was.
    pub(crate) since: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FlightKind {
    Header { file: FileNumber },
    Group { file: FileNumber, position: Position, end: Offset, bytes: usize },
    Manifest { generation: u64 },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FlightState {
    Waiting,
    Submitted,
    /// Not begun for want of a descriptor; it waits until that is looked at again.
    Refused,
    Done,
}

impl<M: Memory + Clone, F: Fold> Log<M, F> {
    /// Submits what may go, makes space ahead, writes the manifest and images that are due.
    pub(crate) fn pump(&mut self) {
        if self.poisoned.is_none() {
            self.submit_flights();
            self.submit_group();
            self.extend();
        }
        self.pump_manifest();
        self.pump_images();
        self.pump_removals();
    }

    fn in_flight(&self) -> usize {
        let submitted = |f: &&Flight<M::Share>| {
            f.state == FlightState::Submitted && matches!(f.kind, FlightKind::Group { .. })
        };
        self.flights.iter().filter(submitted).count()
    }

    /// Closes the open group unless it should wait for company.
    fn submit_group(&mut self) {
        let Some(group) = &self.group else { return };
        let waiting = self.flights.iter().any(|f| f.state == FlightState::Waiting);
        let in_flight = self.in_flight();
        let eager = group.used() >= GROUP_BYTES_EAGER && in_flight < WRITES_IN_FLIGHT_MAX;
        if group.used() > 0 && !waiting && (in_flight == 0 || eager) {
            self.close_group();
            self.submit_flights();
        }
    }

    fn submit_flights(&mut self) {
        let mut in_flight = self.in_flight();
        for at in 0..self.flights.len() {
            if self.flights[at].state != FlightState::Waiting {
                continue;
            }
            if in_flight >= WRITES_IN_FLIGHT_MAX || !self.may_submit(at) {
                return;
            }
            self.submit(at);
            in_flight += 1;
        }
    }

    fn may_submit(&self, at: usize) -> bool {
        let (file, end) = match self.flights[at].kind {
            FlightKind::Header { file } => (file, Position::new(BLOCK_BYTES as u64)),
            FlightKind::Group { file, position, bytes, .. } => (file, position.plus(bytes as u64)),
            FlightKind::Manifest { .. } => return false,
        };
        let segment = self.segment_of(file).map(|at| &self.segments[at]);
        let space = segment.and_then(|s| s.space).expect("a segment that is written has space");
        space.ready && end <= space.written
    }

    fn submit(&mut self, at: usize) {
        let flight = &mut self.flights[at];
        flight.state = FlightState::Submitted;
        let now = self.now.monotonic;
        let gathered = now.saturating_sub(std::mem::replace(&mut flight.since, now));
        if matches!(flight.kind, FlightKind::Group { .. }) {
            self.stats.gather.note(gathered);
        }
        let bytes = flight.share.clone().expect("a waiting flight has its bytes");
        let (file, position) = match flight.kind {
            FlightKind::Header { file } => (file, Position::ZERO),
            FlightKind::Group { file, position, .. } => (file, position),
            FlightKind::Manifest { .. } => unreachable!("manifests are written elsewhere"),
        };
        self.stats.writes += 1;
        self.stats.write_bytes += bytes.as_ref().len() as u64;
        let number = self.first_flight + at as u64;
        let file = FileName::Segment(file);
        let next = self.flights.get(at + 1).map(|next| next.state);
        let behind = planted!(PlainBytesCounted) && next == Some(FlightState::Waiting);
        let durable = !(planted!(NoFlush) || behind);
        self.ask(Purpose::Flight(number), Op::Write { file, position, bytes, durable });
    }

    /// Writes zeros ahead of the groups.
    fn extend(&mut self) {
        let waiting = self.flights.iter().filter_map(|f| match f.kind {
            FlightKind::Group { file, position, bytes, .. } if f.state == FlightState::Waiting => {
                Some((file, position.plus(bytes as u64)))
            }
            _ => None,
        });
        let mut needed: BTreeMap<FileNumber, Position> = waiting.collect();
        let active = self.active.as_ref().map(|a| (a.file, a.cursor));
        if let Some((file, cursor)) = active {
            needed.entry(file).or_insert(cursor);
        }
        for (file, end) in needed {
            let at = self.segment_of(file).expect("the segment is listed");
            let cursor = self.segments[at].entry.end_position.max(end);
            self.extend_segment(at, cursor, end);
        }
        if let Some((_, cursor)) = active
            && !self.disk_full
        {
            self.prepare(cursor);
        }
    }

    /// Prepares the file of the next segment: of a busy log with all its zeros.
    fn prepare(&mut self, cursor: Position) {
        let (busy, whole) = (self.is_busy(), self.config.whole_spare());
        match &mut self.files.spare {
            Spare::None if busy || cursor.get() > self.config.segment_bytes / 2 => {
                self.make_spare();
            }
            Spare::Ready(file, space) if busy => {
                let file = *file;
                if let Some((from, to)) = space.grow(whole, cursor) {
                    let op = Op::Extend { file: FileName::Segment(file), from, to };
                    self.ask(Purpose::Extend(file), op);
                }
            }
            _ => {}
        }
    }

    /// A spare has all its zeros.
    pub(crate) fn has_whole_spare(&self) -> bool {
        let whole = self.config.whole_spare();
        matches!(self.files.spare, Spare::Ready(_, space) if space.written >= whole)
    }

    fn extend_segment(&mut self, at: usize, cursor: Position, needed: Position) {
        // Ahead of what is needed only while no other file is there to go on in.
        let whole = self.has_whole_spare();
        let limit = Position::new(if whole { 0 } else { self.config.segment_bytes });
        let (step_max, now) = (self.config.busy_step(), self.now.monotonic);
        let segment = &mut self.segments[at];
        let file = segment.entry.file;
        let Some(space) = segment.space.as_mut().filter(|s| s.ready) else { return };
        // What is waited for, too, is asked for again by the next tick only.
        if self.disk_full {
            return;
        }
        if let Some((from, to)) = space.wish(cursor, needed, limit, step_max, now) {
            self.ask(Purpose::Extend(file), Op::Extend { file: FileName::Segment(file), from, to });
        }
    }

    /// Takes the completion of an operation.
    ///
    /// # Panics
    /// When `done` names an operation that was not asked for: a defect of the hands.
    pub fn on_done(&mut self, done: Done<M::Share>, now: crate::time::Now) {
        self.now = now;
        let (purpose, _) = self.purposes.remove(&done.id).expect("an operation of this log");
        match purpose {
            Purpose::Flight(number) => self.flight_done(number, done.result.err()),
            Purpose::Extend(file) => self.extended(file, done.result.err()),
            Purpose::NewFile(file, written) => self.file_made(file, written, done.result.err()),
            Purpose::NewFileEntry(file, written) => {
                self.file_entered(file, written, done.result.err());
            }
            Purpose::Release(file) => self.released(file, done.result.is_err()),
            Purpose::ManifestFirst(generation) => {
                self.manifest_first(generation, done.result.err());
            }
            Purpose::ManifestSecond => self.manifest_second(done.result.err()),
            Purpose::Image => self.image_written(done.result.err()),
            Purpose::ImageEntry => self.image_entered(done.result.err()),
            Purpose::Spoil(file) => self.part_spoilt(file, done.result.err()),
            Purpose::Hint => {
                self.stats.hints_failed += u64::from(done.result.is_err());
            }
            Purpose::ReadKeeper(file) => {
                self.keeper_read(file, done.result.map(Outcome::into_read));
            }
            Purpose::ReadFold(start) => self.fold_read(start, done.result.map(Outcome::into_read)),
            Purpose::Scrub => self.scrub_done(done.result.map(Outcome::into_read)),
            Purpose::Repair => self.repair_done(done.result),
            Purpose::Read(id) => self.window_done(id, &done.result.map(Outcome::into_read)),
            Purpose::ReadIndex(id) => self.index_done(id, done.result.map(Outcome::into_read)),
        }
    }

    fn flight_done(&mut self, number: u64, error: Option<IoError>) {
        let error = error.filter(|e| !(planted!(ShortWriteIgnored) && *e == IoError::ShortWrite));
        let error = error.filter(|e| !(planted!(WriteErrorIgnored) && e.is_medium()));
        if planted!(DurableOverHole) && number < self.first_flight {
            return;
        }
        let at = usize::try_from(number - self.first_flight).expect("flights are few");
        let flight = &mut self.flights[at];
        match error {
            None => {
                flight.state = FlightState::Done;
                flight.share = None;
            }
            Some(IoError::NoDescriptors) => {
                // The file could not be opened: nothing was written, and that can be tried again.
                flight.state = FlightState::Refused;
                self.disk_full = true;
                return;
            }
            Some(error) => return self.poison(error),
        }
        if matches!(flight.kind, FlightKind::Group { .. }) {
            self.stats.write.note(self.now.monotonic.saturating_sub(flight.since));
        }
        self.advance();
    }

    /// Moves the durable end over the flights that are done, up to the first that is not.
    pub(crate) fn advance(&mut self) {
        if self.poisoned.is_some() {
            return;
        }
        while let Some(flight) = self.flights.front() {
            let done = match flight.kind {
                FlightKind::Manifest { generation } => {
                    self.manifest.durable >= generation || planted!(AckBeforeManifest)
                }
                _ => flight.state == FlightState::Done,
            };
            let is_done = |f: &Flight<M::Share>| f.state == FlightState::Done;
            let overlooked = planted!(DurableOverHole) && self.flights.iter().any(is_done);
            if !done && !overlooked {
                break;
            }
            if let FlightKind::Group { end, .. } = flight.kind {
                let gone = end.since(self.durable_end);
                self.durable_end = end;
                if gone == 0 {
                    self.marked = end;
                }
            }
            self.flights.pop_front();
            self.first_flight += 1;
        }
        if self.flights.is_empty() && self.group.is_none() {
            self.undurable_bytes = 0;
        } else {
            self.undurable_bytes = self.waiting_bytes();
        }
        self.tail.evict(self.config.tail_cache_bytes, self.durable_end);
    }

    /// Bytes of groups that the durable end has not passed.
    pub(crate) fn waiting_bytes(&self) -> usize {
        let flights = self.flights.iter().map(|f| match f.kind {
            FlightKind::Group { bytes, .. } => bytes,
            _ => 0,
        });
        flights.sum::<usize>() + self.group.as_ref().map_or(0, |g| g.used())
    }

    /// A failed write or flush: nothing more is acknowledged, nothing is tried again.
    pub(crate) fn poison(&mut self, error: IoError) {
        if self.poisoned.is_none() {
            self.poisoned = Some(error);
            self.events.push_back(Event::Poisoned(error));
        }
    }

    fn extended(&mut self, file: FileNumber, error: Option<IoError>) {
        if let Some(space) = self.space_of(file) {
            space.on_extended(error.is_none());
        }
        self.heed_space(error);
    }

    fn released(&mut self, file: FileNumber, failed: bool) {
        if let Some(space) = self.space_of(file) {
            space.on_extended(false);
        }
        self.stats.hints_failed += u64::from(failed);
    }

    /// The space of a segment that is written, or of the spare.
    fn space_of(&mut self, file: FileNumber) -> Option<&mut Space> {
        let at = self.segment_of(file);
        match &mut self.files.spare {
            Spare::Ready(spare, space) if *spare == file => Some(space),
            _ => self.segments[at?].space.as_mut(),
        }
    }

    /// A full disk is waited out; any other failure of pre-writing ends the log's writing.
    pub(crate) fn heed_space(&mut self, error: Option<IoError>) {
        match error {
            None => self.disk_full = false,
            // Zeros of which only some were written: the rest says why, when it is tried again.
            Some(IoError::NoSpace | IoError::NoDescriptors | IoError::ShortWrite) => {
                self.disk_full = true;
                self.remove_kept();
            }
            Some(error) => self.poison(error),
        }
    }

    /// Makes the spare: of the file kept of a dropped segment, which needs no zeros, or a new one.
    pub(crate) fn make_spare(&mut self) {
        let file = self.files.next;
        self.files.next = file.next();
        self.files.spare = Spare::Making(file);
        let Some((old, written)) = self.files.kept.take() else { return self.make_file(file) };
        self.stats.segments_recycled += 1;
        let op = Op::Rename { from: FileName::Segment(old), to: FileName::Segment(file) };
        self.ask(Purpose::NewFile(file, written), op);
    }

    /// Whether the active segment's space is used up fast.
    pub(crate) fn is_busy(&self) -> bool {
        let space = self.segments.back().and_then(|s| s.space);
        space.is_some_and(|space| space.is_busy(self.config.busy_step()))
    }

    /// Makes a segment file with its first step of zeros, then its directory entry durable.
    pub(crate) fn make_file(&mut self, file: FileNumber) {
        let to = Position::new(crate::config::EXTEND_STEP_MIN);
        let op = Op::Extend { file: FileName::Segment(file), from: Position::ZERO, to };
        self.ask(Purpose::NewFile(file, to), op);
    }

    fn file_made(&mut self, file: FileNumber, written: Position, error: Option<IoError>) {
        if error.is_some() {
            self.no_file(file, error);
        } else if planted!(NoDirectorySync) {
            self.file_entered(file, written, None);
        } else {
            self.ask(Purpose::NewFileEntry(file, written), Op::SyncDirectory);
        }
    }

    fn file_entered(&mut self, file: FileNumber, written: Position, error: Option<IoError>) {
        if error.is_some() {
            self.no_file(file, error);
            return;
        }
        self.disk_full = false;
        if self.files.spare == Spare::Making(file) {
            self.files.spare = Spare::Ready(file, Space::new(written, true));
        } else if let Some(at) = self.segment_of(file)
            && let Some(space) = &mut self.segments[at].space
        {
            space.ready = true;
            space.written = space.written.max(written);
        }
    }

    fn no_file(&mut self, file: FileNumber, error: Option<IoError>) {
        if self.files.spare == Spare::Making(file) {
            self.files.spare = Spare::None;
        }
        self.heed_space(error);
    }
}
