//! Reading: from the tail cache at once, from the disk by and by.

use std::{collections::btree_map::Entry, ops::Range};

use catena_format::{FileNumber, Millis, Offset, Position};

use crate::{
    fold::Fold,
    index::{self, Index},
    io::{FileName, IoError, Memory, Op},
    log::{Event, Log, Purpose, ReadAnswer, Segment, SegmentIndex},
    read::{Batches, Cold, Extent, Finding, Goal, Next, ReadError, ReadId, ReadOutcome},
};

/// A place that is damaged in another way each time that it is read; the next time it may not be.
const UNSTEADY: IoError = IoError::Device(5);

impl<M: Memory + Clone, F: Fold> Log<M, F> {
    /// Batches from the one that holds `from` on, all ending at or below `below` (the high
    /// watermark): at least one, if there is one, then as many as fit `max_bytes` and lie in one
    /// segment.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read(
        &mut self,
        from: Offset,
        max_bytes: usize,
        below: Offset,
    ) -> Result<ReadOutcome<Batches<M::Share>>, ReadError> {
        self.read_above(self.log_start, from, max_bytes, below)
    }

    /// Batches from `from` on, where one begins, for another log to hold: those below the log start
    /// that are still there, too, and those that are not durable yet.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read_copy(
        &mut self,
        from: Offset,
        max_bytes: usize,
    ) -> Result<ReadOutcome<Batches<M::Share>>, ReadError> {
        // What is not durable is in memory.
        let below = if self.tail.holds(from) { self.log_end } else { self.durable_end };
        self.read_above(self.held_start(), from, max_bytes, below)
    }

    /// Whether a read that begins there is answered from memory.
    pub fn holds(&self, from: Offset) -> bool {
        self.tail.holds(from)
    }

    fn read_above(
        &mut self,
        start: Offset,
        from: Offset,
        max_bytes: usize,
        below: Offset,
    ) -> Result<ReadOutcome<Batches<M::Share>>, ReadError> {
        if from < start || from > self.log_end {
            return Err(ReadError::OutOfRange { start, end: self.log_end });
        }
        // What has rotted on the disk may still be there in memory.
        if self.tail.holds(from) && from < below {
            return Ok(ReadOutcome::Ready(self.tail.read(from, max_bytes, below)));
        }
        if let Some(next_readable) = self.damaged.end_of(from) {
            return Err(ReadError::Damaged { next_readable });
        }
        if from >= below {
            return Ok(ReadOutcome::Ready(Batches::empty(from)));
        }
        let at = self.segments.partition_point(|s| s.entry.end <= from);
        if self.segments.get(at).is_none_or(|s| from < s.entry.base) {
            // Closed groups are in the cache; what is left is the open one, above `below`.
            return Ok(ReadOutcome::Ready(Batches::empty(from)));
        }
        let id = self.read_id();
        self.begin(id, at, Goal::Batches { from, max_bytes }, below);
        Ok(ReadOutcome::Pending(id))
    }

    /// Where the first batch below `below` begins that has a record of `time` or later.
    pub fn offset_for_time(&mut self, time: Millis, below: Offset) -> ReadOutcome<Option<Offset>> {
        let goal = Goal::Time { time, from: self.log_start };
        let found = |s: &Segment| s.entry.max_timestamp >= time && s.entry.end > self.log_start;
        let Some(at) = self.segments.iter().position(found) else {
            return ReadOutcome::Ready(None);
        };
        let base = self.segments[at].entry.base;
        if base >= below {
            return ReadOutcome::Ready(None);
        }
        if self.tail.holds(base.max(self.log_start)) {
            let offset = self.tail.at_time(time, self.log_start).filter(|offset| *offset < below);
            return ReadOutcome::Ready(offset.map(|offset| offset.max(self.log_start)));
        }
        if base >= self.durable_end {
            return ReadOutcome::Ready(None);
        }
        let id = self.read_id();
        self.begin(id, at, goal, below);
        ReadOutcome::Pending(id)
    }

    fn read_id(&mut self) -> ReadId {
        let id = ReadId(self.next_read);
        self.next_read += 1;
        id
    }

    fn begin(&mut self, id: ReadId, at: usize, goal: Goal, below: Offset) {
        self.stats.cold_reads += 1;
        let segment = &mut self.segments[at];
        segment.readers += 1;
        let (extent, uid) = (segment.extent(self.durable_end), self.identity.uid);
        let stride = self.config.index_stride;
        let (cold, missing) = match &segment.index {
            SegmentIndex::Resident(index) => {
                (Cold::new(uid, &extent, index, goal, below, stride), None)
            }
            SegmentIndex::OnDisk(bytes) => {
                (Cold::new(uid, &extent, &Index::default(), goal, below, stride), Some(*bytes))
            }
        };
        match missing {
            Some(bytes) => self.load_index(id, cold, bytes),
            None => self.go(id, cold),
        }
    }

    fn load_index(&mut self, id: ReadId, cold: Cold<M>, bytes: u64) {
        let length = usize::try_from(bytes.next_multiple_of(4096)).unwrap_or(0);
        if length == 0 {
            self.index_loaded(cold.file, None);
            self.go(id, cold);
            return;
        }
        let (file, position) = (FileName::Index(cold.file), Position::ZERO);
        self.reads.insert(id, cold);
        self.ask(Purpose::ReadIndex(id), Op::Read { file, position, length });
    }

    pub(crate) fn index_done(&mut self, id: ReadId, result: Result<M::Share, IoError>) {
        let cold = self.reads.remove(&id).expect("the read waits for its index");
        let uid = self.identity.uid;
        let image = result.ok().and_then(|b| index::read_image(uid, b.as_ref()).ok());
        let image = image.filter(|image| image.file == cold.file);
        self.index_loaded(cold.file, image.map(|image| image.index));
        let (file, goal, below) = (cold.file, cold.goal, cold.below());
        let (stride, durable_end) = (self.config.index_stride, self.durable_end);
        let Some(segment) = self.segment_or_dropped(file) else { return };
        let extent = segment.extent(durable_end);
        let SegmentIndex::Resident(index) = &segment.index else { return };
        let cold = Cold::new(uid, &extent, index, goal, below, stride);
        self.go(id, cold);
    }

    /// A missing index is begun anew: reads fill it as they go.
    fn index_loaded(&mut self, file: FileNumber, index: Option<Index>) {
        if let Some(segment) = self.segment_or_dropped(file)
            && matches!(segment.index, SegmentIndex::OnDisk(_))
        {
            segment.index = SegmentIndex::Resident(index.unwrap_or_default());
        }
    }

    fn segment_or_dropped(&mut self, file: FileNumber) -> Option<&mut Segment> {
        let live = self.segments.iter_mut();
        let mut all = live.chain(&mut self.dropped);
        all.find(|segment| segment.entry.file == file)
    }

    fn go(&mut self, id: ReadId, mut cold: Cold<M>) {
        let (position, length) = cold.begin();
        self.read_window(id, cold, position, length);
    }

    fn read_window(&mut self, id: ReadId, cold: Cold<M>, position: Position, length: usize) {
        let file = FileName::Segment(cold.file);
        let key = cold.window_key();
        self.reads.insert(id, cold);
        match self.windows.entry(key) {
            Entry::Occupied(mut others) => others.get_mut().push(id),
            Entry::Vacant(none) => {
                none.insert(Vec::new());
                self.ask(Purpose::Read(id), Op::Read { file, position, length });
            }
        }
    }

    /// A part of a segment was read, for the one that asked and for all that wait for the same.
    pub(crate) fn window_done(&mut self, id: ReadId, result: &Result<M::Share, IoError>) {
        let key = self.reads.get(&id).expect("the read is under way").window_key();
        let others = self.windows.remove(&key).expect("a window is known while it is read");
        for id in std::iter::once(id).chain(others) {
            self.read_done(id, result.clone());
        }
    }

    fn read_done(&mut self, id: ReadId, result: Result<M::Share, IoError>) {
        let mut cold = self.reads.remove(&id).expect("the read is under way");
        let file = cold.file;
        cold.raise_start(self.log_start);
        let segment = self.segment_or_dropped(file).expect("a segment that is read stays");
        let next = match (result, &mut segment.index) {
            (Ok(share), SegmentIndex::Resident(index)) => cold.on_window(&share, index),
            (Ok(share), SegmentIndex::OnDisk(_)) => cold.on_window(&share, &mut Index::default()),
            // Where the file is gone, no other attempt will find it.
            (Err(IoError::NotFound), _) => cold.at_end(),
            (Err(error), _) => return self.end_read(id, file, Err(ReadError::Io(error))),
        };
        let answer = match next {
            Next::Read(position, length) => return self.read_window(id, cold, position, length),
            Next::Batches(batches) => Ok(ReadAnswer::Batches(batches)),
            Next::Time(offset) => Ok(ReadAnswer::Offset(Some(offset.max(self.log_start)))),
            Next::Damaged(offsets, _) if matches!(cold.goal, Goal::Time { .. }) => {
                return self.read_again(id, &cold, offsets);
            }
            Next::Damaged(offsets, positions) => match self.believed(&cold, &offsets) {
                Some(offsets) if offsets.is_empty() => Err(ReadError::Io(UNSTEADY)),
                Some(offsets) => {
                    Err(self.damage(FileName::Segment(file), offsets, positions, false))
                }
                None => return self.read_again(id, &cold, offsets),
            },
            Next::Unknown(version) => Err(ReadError::Version(version)),
            Next::Nothing => match self.go_on(id, &cold) {
                Some(answer) => Ok(answer),
                None => return,
            },
        };
        self.end_read(id, file, answer);
    }

    /// What is damaged of offsets that a read did not find: what another read before it did not
    /// find either. `None`: there was none yet, or something was repaired meanwhile.
    fn believed(&self, cold: &Cold<M>, offsets: &Range<Offset>) -> Option<Range<Offset>> {
        if self.damaged.holds(offsets) {
            return Some(offsets.clone());
        }
        let first = cold.doubt.as_ref().filter(|_| !self.is_repaired_since(cold))?;
        Some(offsets.start.max(first.start)..offsets.end.min(first.end))
    }

    fn is_repaired_since(&self, cold: &Cold<M>) -> bool {
        let at = self.segment_of(cold.file);
        at.is_some_and(|at| self.segments[at].repairs != cold.repairs)
    }

    /// Reads once more from the beginning.
    fn read_again(&mut self, id: ReadId, cold: &Cold<M>, doubt: Range<Offset>) {
        let (uid, stride) = (self.identity.uid, self.config.index_stride);
        let durable_end = self.durable_end;
        let segment = self.segment_or_dropped(cold.file).expect("a segment that is read stays");
        let (none, extent) = (Index::default(), segment.extent(durable_end));
        let index = match &segment.index {
            SegmentIndex::Resident(index) => index,
            SegmentIndex::OnDisk(_) => &none,
        };
        let mut again = Cold::new(uid, &extent, index, cold.goal, cold.below(), stride);
        again.doubt = Some(doubt);
        self.go(id, again);
    }

    /// A time is looked for in the next segment; `None` when that is under way.
    fn go_on(&mut self, id: ReadId, cold: &Cold<M>) -> Option<ReadAnswer<M::Share>> {
        let (end, below) = (cold.segment_end(), cold.below());
        match cold.goal {
            Goal::Batches { from, .. } => {
                return Some(ReadAnswer::Batches(Batches::empty(from.max(end.min(below)))));
            }
            Goal::Time { .. } => {}
        }
        let next = self.segments.iter().position(|s| s.entry.base >= end);
        let below_durable = below.min(self.durable_end);
        let Some(at) = next.filter(|at| self.segments[*at].entry.base < below_durable) else {
            return Some(ReadAnswer::Offset(None));
        };
        self.release(cold.file);
        self.begin(id, at, cold.goal, below);
        None
    }

    /// The segment is read by one less.
    pub(crate) fn release(&mut self, file: FileNumber) {
        if let Some(segment) = self.segment_or_dropped(file) {
            segment.readers -= 1;
        }
    }

    /// Marks offsets as damaged, if that is not known yet, and tells the owner. What is not durable
    /// is on its way, and not lost.
    pub(crate) fn damage(
        &mut self,
        file: FileName,
        offsets: Range<Offset>,
        positions: Range<Position>,
        by_scrub: bool,
    ) -> ReadError {
        let next_readable = offsets.end;
        let offsets = offsets.start..offsets.end.min(self.durable_end);
        if let Some(offsets) = self.damaged.insert(offsets) {
            self.stats.damaged_found += 1;
            self.want_manifest();
            let found = Finding::Damaged { file, offsets, positions, by_scrub };
            self.events.push_back(Event::Found(found));
        }
        ReadError::Damaged { next_readable }
    }

    fn end_read(
        &mut self,
        id: ReadId,
        file: FileNumber,
        answer: Result<ReadAnswer<M::Share>, ReadError>,
    ) {
        self.release(file);
        self.events.push_back(Event::Read(id, answer));
        self.reap();
    }
}

impl Segment {
    /// What can be read of it: what is not durable is on its way, and not missed.
    fn extent(&self, durable_end: Offset) -> Extent {
        Extent {
            file: self.entry.file,
            base: self.entry.base,
            end: self.entry.end.min(durable_end.max(self.entry.base)),
            end_position: self.entry.end_position,
            max_timestamp_before: self.max_timestamp_before,
            repairs: self.repairs,
        }
    }
}
