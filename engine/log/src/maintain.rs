//! What a log does beside appending: sealing, checkpoints, the manifest, retention, trimming and
//! marks.

use std::time::Duration;

use catena_format::{
    FileNumber, Millis, Offset, Position, SegmentFooter, limits::BLOCK_BYTES, planted,
};

use crate::{
    config::{EXTEND_STEP_MIN, HOUSEKEEPING_EVERY, IDLE_AFTER, MARK_AFTER},
    flight::{FlightKind, FlightState},
    fold::Fold,
    group::Group,
    index,
    io::{FileName, IoError, Memory, MemoryExhausted, Op, Slot},
    log::{Event, Images, Log, PendingImage, Purpose, Segment, SegmentIndex, Spare},
    manifest::{Manifest, SegmentEntry},
    read::ReadError,
    time::Now,
};

/// How the manifest's writing stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ManifestWriter {
    pub(crate) wanted: u64,
    pub(crate) durable: u64,
    pub(crate) busy: bool,
    pub(crate) retry: bool,
    /// Where the next manifest is written first: not over the newest one.
    pub(crate) lead: Slot,
    /// There was no space, or no descriptor, for the copy.
    pub(crate) copy_refused: bool,
    /// The log start that the manifest being written says.
    pub(crate) start: Offset,
    /// The log end that it says, or the one before it said.
    pub(crate) end: Offset,
    /// How many segments, the first ones, it does not name any more.
    pub(crate) dropped: usize,
}

impl ManifestWriter {
    /// Of a log whose manifest is that `generation`, and says that `end`.
    pub(crate) fn of(generation: u64, end: Offset) -> Self {
        Self {
            wanted: generation,
            durable: generation,
            busy: false,
            retry: false,
            lead: Slot::First,
            copy_refused: false,
            start: Offset::ZERO,
            end,
            dropped: 0,
        }
    }
}

impl<M: Memory + Clone, F: Fold> Log<M, F> {
    /// Ends the active segment. The next append begins another.
    pub(crate) fn seal_active(&mut self) -> Result<(), MemoryExhausted> {
        self.close_group();
        let Some(active) = &self.active else { return Ok(()) };
        let (file, progress) = (active.file, active.progress);
        let fold = self.fold.snapshot();
        let segment = self.segments.back().expect("the active segment is the last");
        let SegmentIndex::Resident(index) = &segment.index else {
            unreachable!("the active segment's index is in memory")
        };
        let (uid, base) = (self.identity.uid, segment.entry.base);
        let image = index::write_image(uid, file, base, &progress, index, fold, &mut self.memory)?;
        let footer = self.footer_block(file, base)?;
        let position = progress.end_position;
        self.images.queue.push_back(PendingImage {
            file,
            end: progress.end,
            bytes: image,
            seals: true,
        });
        let space = self.segments.back().and_then(|s| s.space);
        if space.is_some_and(|s| s.ready && position.plus(BLOCK_BYTES as u64) <= s.written) {
            let file = FileName::Segment(file);
            let op = Op::Write { file, position, bytes: footer, durable: false };
            self.ask(Purpose::Hint, op);
        }
        self.active = None;
        self.stats.segments_rolled += 1;
        Ok(())
    }

    fn footer_block(
        &mut self,
        file: FileNumber,
        base: Offset,
    ) -> Result<M::Share, MemoryExhausted> {
        let progress = self.active.as_ref().expect("a segment is being sealed").progress;
        let mut block = self.memory.allocate(BLOCK_BYTES)?;
        let bytes = &mut block.as_mut()[..BLOCK_BYTES];
        bytes.fill(0);
        let footer = SegmentFooter {
            uid: self.identity.uid,
            file,
            base_offset: base,
            end_offset: progress.end,
            end_position: progress.end_position,
            batches: progress.batches,
            records: progress.records,
            max_timestamp: progress.max_timestamp,
            last_append_time: progress.last_append_time,
        };
        footer.write(bytes);
        Ok(self.memory.freeze(block, BLOCK_BYTES))
    }

    /// Asks for a manifest of the present state; tells its generation.
    pub(crate) fn want_manifest(&mut self) -> u64 {
        self.manifest.wanted += 1;
        self.manifest.wanted
    }

    /// Writes the manifest if a newer one is wanted and none is being written.
    pub(crate) fn pump_manifest(&mut self) {
        if self.closing {
            self.tell_end();
        }
        self.read_keeper();
        let m = self.manifest;
        if m.busy || m.retry || self.poisoned.is_some() {
            return;
        }
        // While the copies differ, the newer one is not touched. But what finds no space there may
        // be followed by what needs less.
        if m.copy_refused && m.wanted != m.durable {
            self.manifest.copy_refused = false;
            self.manifest.lead = m.lead.other();
            self.manifest_copy = None;
        }
        if let Some(copy) = self.manifest_copy.clone() {
            self.manifest.busy = true;
            self.write_copy(m.lead.other(), copy, Purpose::ManifestSecond);
            return;
        }
        if m.wanted == m.durable {
            return;
        }
        self.manifest.dropped = self.to_drop();
        let image = self.manifest_now();
        let Ok(bytes) = image.write(&self.identity, &mut self.memory) else {
            self.manifest.retry = true;
            return;
        };
        self.manifest.busy = true;
        self.manifest.start = image.log_start;
        self.manifest.end = image.log_end;
        self.stats.manifests += 1;
        self.manifest_copy = Some(bytes.clone());
        self.write_copy(self.manifest.lead, bytes, Purpose::ManifestFirst(image.generation));
        if planted!(FilesBeforeManifest) {
            self.drop_below(image.log_start);
            self.reap();
        }
    }

    /// Asks for a manifest that says that all is durable, where none does: else nothing but a mark
    /// tells a segment that is cut off later from one that a crash cut.
    fn tell_end(&mut self) {
        if self.owes_end() && self.manifest.wanted == self.manifest.durable {
            self.want_manifest();
        }
    }

    /// Whether everything is durable, and the manifest that says so is still to come.
    pub(crate) fn owes_end(&self) -> bool {
        let ManifestWriter { wanted, durable, retry, end, .. } = self.manifest;
        let quiet = self.group.is_none() && self.flights.is_empty();
        let untold = wanted != durable || end < self.durable_end;
        quiet && untold && !retry && self.poisoned.is_none()
    }

    fn write_copy(&mut self, slot: Slot, bytes: M::Share, purpose: Purpose) {
        let (file, position) = (FileName::Manifest(slot), Position::ZERO);
        self.ask(purpose, Op::Write { file, position, bytes, durable: true });
    }

    fn manifest_now(&self) -> Manifest {
        let (start, dropped) = (self.wanted_start, self.manifest.dropped);
        let kept = self.segments.iter().skip(dropped);
        let last = dropped.checked_sub(1).map(|last| self.segments[last].entry.file);
        let mut damaged = self.damaged.clone();
        damaged.trim(start);
        Manifest {
            generation: self.manifest.wanted,
            log_start: if planted!(TrimUndone) { self.log_start } else { start },
            log_end: self.durable_end,
            next_file: self.files.next,
            fold_file: last.unwrap_or(self.fold_file),
            unnamed: self.files.unnamed,
            epochs: self.epochs.clone(),
            damaged,
            segments: kept.map(|s| s.entry).collect(),
        }
    }

    pub(crate) fn manifest_first(&mut self, generation: u64, error: Option<IoError>) {
        match error {
            None => {}
            Some(IoError::NoSpace | IoError::NoDescriptors) => {
                // The copy that matters is the other one, which was not touched.
                self.manifest_copy = None;
                self.manifest.busy = false;
                self.manifest.retry = true;
                self.disk_full = true;
                return;
            }
            Some(error) => {
                self.manifest.busy = false;
                self.poison(error);
                return;
            }
        }
        self.manifest.durable = generation;
        self.advance();
        self.drop_below(self.manifest.start);
        while self.trims.front().is_some_and(|(wanted, _)| *wanted <= generation) {
            let (_, start) = self.trims.pop_front().expect("there is a first trim");
            self.events.push_back(Event::Trimmed(start));
        }
        self.reap();
        self.manifest.busy = false;
        self.pump_manifest();
    }

    pub(crate) fn manifest_second(&mut self, error: Option<IoError>) {
        self.manifest.busy = false;
        match error {
            None => {
                self.manifest_copy = None;
                self.manifest.copy_refused = false;
            }
            Some(IoError::NoSpace | IoError::NoDescriptors) => {
                self.manifest.copy_refused = true;
                self.manifest.retry = true;
                self.disk_full = true;
            }
            Some(error) => self.poison(error),
        }
    }

    /// Whether what an image covers is durable; of a sealed segment all that is to be written.
    fn may_write(&self, image: &PendingImage<M::Share>) -> bool {
        let of_file = |kind: &FlightKind| match kind {
            FlightKind::Group { file, .. } | FlightKind::Header { file } => *file == image.file,
            FlightKind::Manifest { .. } => false,
        };
        // A mark may still wait for space although all offsets are durable.
        let written = !image.seals || !self.flights.iter().any(|flight| of_file(&flight.kind));
        image.end <= self.durable_end && written
    }

    /// Calls segments sealed whose end is durable, and writes index images, one at a time.
    pub(crate) fn pump_images(&mut self) {
        for at in 0..self.images.queue.len() {
            let image = &self.images.queue[at];
            if image.seals && (self.may_write(image) || planted!(SealedEarly)) {
                self.call_sealed(image.file);
            }
        }
        // What is derived from dropped segments is wanted of the last one only.
        while let Some(PendingImage { file, .. }) =
            self.images.queue.front().filter(|_| !self.images.busy)
            && *file != self.fold_file
            && self.segment_of(*file).is_none()
        {
            self.images.queue.pop_front();
        }
        let Images { queue, busy, retry, .. } = &self.images;
        let Some(image) = queue.front().filter(|image| !busy && !retry && self.may_write(image))
        else {
            return;
        };
        let (file, position) = (FileName::Index(image.file), Position::ZERO);
        let op = Op::Write { file, position, bytes: image.bytes.clone(), durable: true };
        self.images.busy = true;
        self.ask(Purpose::Image, op);
    }

    fn call_sealed(&mut self, file: FileNumber) {
        // A full disk may have dropped it already.
        let Some(at) = self.segment_of(file) else { return };
        if !self.segments[at].entry.sealed {
            self.segments[at].entry.sealed = true;
            self.segments[at].checked = self.now.monotonic;
            self.release_behind(at);
            self.segments[at].space = None;
            // What is to go goes with the manifest that is written anyway.
            self.retain();
            self.want_manifest();
            self.pump_manifest();
        }
    }

    /// An index image is written, or not. That of a sealed segment is of use only with its name:
    /// once the segment is dropped, what is derived from it stands nowhere else.
    pub(crate) fn image_written(&mut self, error: Option<IoError>) {
        if error.is_none() && self.images.queue.front().is_some_and(|image| image.seals) {
            self.ask(Purpose::ImageEntry, Op::SyncDirectory);
        } else {
            self.image_done(error);
        }
    }

    pub(crate) fn image_entered(&mut self, error: Option<IoError>) {
        if let Some(error) =
            error.filter(|e| !matches!(e, IoError::NoSpace | IoError::NoDescriptors))
        {
            self.poison(error);
        }
        self.image_done(error);
    }

    /// An index image is durable, or not: recovery can do without a checkpoint, but what is derived
    /// from a dropped segment stands nowhere else.
    fn image_done(&mut self, error: Option<IoError>) {
        let failed = error.is_some();
        self.images.busy = false;
        self.stats.hints_failed += u64::from(failed);
        let seals = self.images.queue.front().is_some_and(|image| image.seals);
        self.images.no_space = seals && error == Some(IoError::NoSpace);
        if failed && seals && !self.closing {
            self.images.retry = true;
            if self.images.no_space {
                self.spoil_part();
                self.drop_without();
            }
            return;
        }
        let image = self.images.queue.pop_front().expect("an image was being written");
        if let Some(at) = self.segment_of(image.file) {
            let segment = &mut self.segments[at];
            if !failed {
                segment.index_part = !seals;
            }
            if !failed && seals {
                segment.index_bytes = image.bytes.as_ref().len() as u64;
                segment.index_whole = true;
            }
            if self.segments[at].ends_below(self.wanted_start) {
                self.want_manifest();
            }
        }
    }

    /// Where there was no space for an index, segments may be given up without.
    fn drop_without(&mut self) {
        if self.images.no_space && self.to_drop() > 0 {
            self.want_manifest();
        }
    }

    /// Overwrites the checkpoint of a segment that may be given up without an index, which takes no
    /// space: the next start would take it for all that the dropped segments brought.
    fn spoil_part(&mut self) {
        let Some(file) = self.images.queue.front().map(|image| image.file) else { return };
        if F::INDISPENSABLE || !self.segment_of(file).is_some_and(|at| self.segments[at].index_part)
        {
            return;
        }
        let Ok(mut block) = self.memory.allocate_reserved(BLOCK_BYTES) else { return };
        block.as_mut()[..BLOCK_BYTES].fill(0);
        let bytes = self.memory.freeze(block, BLOCK_BYTES);
        // Nothing else is written to that file meanwhile.
        self.images.busy = true;
        let (of, position) = (FileName::Index(file), Position::ZERO);
        self.ask(Purpose::Spoil(file), Op::Write { file: of, position, bytes, durable: true });
    }

    pub(crate) fn part_spoilt(&mut self, file: FileNumber, error: Option<IoError>) {
        self.images.busy = false;
        if error.is_none()
            && let Some(at) = self.segment_of(file)
        {
            self.segments[at].index_part = false;
        }
        self.drop_without();
    }

    /// The time of the next [`Log::on_tick`] that has something to do.
    pub fn next_tick(&self) -> Duration {
        if self.may_mark() {
            return self.next_housekeeping.min(self.last_append + MARK_AFTER);
        }
        self.next_housekeeping
    }

    /// Does what is due: marks, age rolls, retention, another try at a full disk.
    pub fn on_tick(&mut self, now: Now) {
        self.now = now;
        if now.monotonic >= self.last_append + MARK_AFTER {
            self.mark();
        }
        if now.monotonic < self.next_housekeeping {
            return;
        }
        self.next_housekeeping = now.monotonic + HOUSEKEEPING_EVERY;
        if now.monotonic >= self.last_append + IDLE_AFTER && self.flights.is_empty() {
            self.tail.evict(0, self.durable_end);
            self.give_back();
            self.tell_end();
        }
        self.manifest.retry = false;
        self.images.retry = false;
        self.try_keeper_again();
        self.try_again();
        if self.poisoned.is_none() {
            self.roll_by_age();
            self.checkpoint();
            self.retain();
        }
        self.reap();
    }

    /// A log that has nothing to do holds little space: no large spare and few zeros.
    fn give_back(&mut self) {
        if let Spare::Ready(file, space) = self.files.spare
            && space.extending.is_none()
            && space.written.get() > EXTEND_STEP_MIN
        {
            self.files.spare = Spare::None;
            self.remove(FileName::Segment(file));
        }
        self.remove_kept();
        if self.active.is_some() && self.group.is_none() {
            self.release_behind(self.segments.len() - 1);
        }
    }

    /// Whether the file of a dropped segment may become another's: nothing may be on its way to it,
    /// no footer, no release, nor anything of an earlier life.
    fn may_keep(&self, file: FileNumber) -> bool {
        let wanted = self.is_busy() && !self.disk_full && self.files.kept.is_none();
        wanted && file >= self.files.first_own && !self.is_used(FileName::Segment(file))
    }

    /// Whether an operation on a file is under way.
    fn is_used(&self, file: FileName) -> bool {
        self.purposes.values().any(|(_, used)| *used == Some(file))
    }

    pub(crate) fn remove_kept(&mut self) {
        if let Some((file, _)) = self.files.kept.take() {
            self.remove(FileName::Segment(file));
        }
    }

    /// Gives back what was prepared of a segment behind its last group and footer.
    fn release_behind(&mut self, at: usize) {
        let (entry, keep) = (self.segments[at].entry, self.config.busy_step());
        let end = entry.end_position.plus(BLOCK_BYTES as u64);
        let space = self.segments[at].space.as_mut();
        if let Some((from, to)) = space.and_then(|space| space.shrink(end, keep)) {
            let op = Op::Release { file: FileName::Segment(entry.file), from, to };
            self.ask(Purpose::Release(entry.file), op);
        }
    }

    /// Whether a mark has something to say and a place to say it: nothing is on its way to the disk
    /// and the active segment has room.
    fn may_mark(&self) -> bool {
        let unmarked = self.config.marks && self.marked < self.durable_end;
        let quiet = self.group.is_none() && self.flights.is_empty();
        let writable = self.poisoned.is_none() && !self.disk_full;
        let room = self.active.as_ref().is_some_and(|active| {
            active.cursor.get() + 2 * BLOCK_BYTES as u64 <= self.config.segment_bytes
        });
        unmarked && quiet && writable && room
    }

    /// Says on the disk that everything is durable.
    fn mark(&mut self) {
        if !self.may_mark() {
            return;
        }
        let Some(active) = &self.active else { return };
        let (epoch, _) = *self.epochs.last().expect("an active segment has an epoch");
        let (cursor, time) = (active.cursor, self.last_append_time);
        match Group::new(BLOCK_BYTES, cursor, self.log_end, self.now.monotonic, &mut self.memory) {
            Ok(mut group) => {
                group.push_mark(epoch, time);
                self.group = Some(group);
            }
            // Later, when memory is there again.
            Err(MemoryExhausted) => self.last_append = self.now.monotonic,
        }
    }

    /// Begins anew what was refused. That another file found space meanwhile, and the disk does not
    /// count as full, helps it nothing.
    fn try_again(&mut self) {
        // The next extension, file or manifest tells whether there is space again.
        self.disk_full = false;
        for flight in self.flights.iter_mut().filter(|f| f.state == FlightState::Refused) {
            flight.state = FlightState::Waiting;
        }
        // Those that are being written are the last ones.
        let written = self.segments.iter().rev().map_while(|s| Some((s.entry.file, s.space?)));
        let missing: Vec<_> =
            written.filter(|(_, space)| !space.ready).map(|(file, _)| file).collect();
        for file in missing {
            let made = |(p, _): &(Purpose, Option<FileName>)| match p {
                Purpose::NewFile(f, _) | Purpose::NewFileEntry(f, _) => *f == file,
                _ => false,
            };
            if !self.purposes.values().any(made) {
                self.make_file(file);
            }
        }
    }

    fn roll_by_age(&mut self) {
        let Some(first) = self.active.as_ref().and_then(|a| a.first_append) else { return };
        let age = self.now.wall.get().saturating_sub(first.get());
        let limit = i64::try_from(self.config.segment_age.as_millis()).unwrap_or(i64::MAX);
        if age >= limit && self.may_roll() {
            // Without memory for the image the next tick tries again.
            let _ = self.seal_active();
        }
    }

    /// Saves index and fold of the active segment, so that recovery scans only what follows.
    fn checkpoint(&mut self) {
        let Some(active) = &self.active else { return };
        let since = active.cursor.get() - active.checkpoint_position.get();
        if since < self.config.checkpoint_bytes || !self.images.queue.is_empty() {
            return;
        }
        self.close_group();
        let active = self.active.as_mut().expect("it was there");
        active.checkpoint_position = active.cursor;
        let (file, progress) = (active.file, active.progress);
        let segment = self.segments.back().expect("the active segment is the last");
        let SegmentIndex::Resident(index) = &segment.index else { return };
        let (uid, base, fold) = (self.identity.uid, segment.entry.base, self.fold.snapshot());
        let image = index::write_image(uid, file, base, &progress, index, fold, &mut self.memory);
        if let Ok(bytes) = image {
            self.stats.checkpoints += 1;
            self.images.queue.push_back(PendingImage {
                file,
                end: progress.end,
                bytes,
                seals: false,
            });
        }
    }

    /// Drops sealed segments by size and age; constant work for each.
    fn retain(&mut self) {
        let mut rest = self.durable_bytes();
        let mut start = self.wanted_start;
        for segment in self.segments.iter().take_while(|s| s.entry.sealed) {
            rest = rest.saturating_sub(segment.entry.end_position.get());
            let by_size = self.config.retention_bytes.is_some_and(|limit| rest >= limit);
            let old = by_size || self.expired(segment.entry.last_append_time);
            if !old || segment.entry.end > self.committed {
                break;
            }
            start = start.max(segment.entry.end);
        }
        if start > self.wanted_start {
            self.wanted_start = start;
            self.want_manifest();
        }
    }

    /// Bytes of segments that a crash would leave.
    fn durable_bytes(&self) -> u64 {
        let open = self.group.as_ref().map_or(0, |group| group.used());
        let waiting = self.waiting_bytes() + open.next_multiple_of(BLOCK_BYTES) - open;
        self.bytes().saturating_sub(waiting as u64)
    }

    fn expired(&self, last_append: Millis) -> bool {
        let Some(limit) = self.config.retention_age else { return false };
        let limit = if planted!(RetentionTooEager) { limit / 2 } else { limit };
        let age = self.now.wall.get().saturating_sub(last_append.get());
        u128::try_from(age).is_ok_and(|age| age > limit.as_millis())
    }

    /// The manifest that says so is durable: what lies below `start` is gone.
    fn drop_below(&mut self, start: Offset) {
        self.log_start = self.log_start.max(start);
        self.damaged.trim(self.log_start);
        for _ in 0..std::mem::take(&mut self.manifest.dropped) {
            let segment = self.segments.pop_front().expect("there is a first segment");
            self.stats.segments_dropped += 1;
            self.fold_file = segment.entry.file;
            self.keeper.bytes = segment.index_bytes;
            self.dropped.push(segment);
        }
        // Of the epochs that ended below what is still there the last is enough.
        let held = self.held_start();
        let ended = self.epochs.partition_point(|(_, began)| *began <= held);
        self.epochs.drain(..ended.saturating_sub(1));
    }

    /// Raises the log start to `to` (at most the durable end); [`Event::Trimmed`] says when that is
    /// durable.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] above the durable end.
    pub fn trim(&mut self, to: Offset) -> Result<(), ReadError> {
        if to > self.durable_end {
            return Err(ReadError::OutOfRange { start: self.log_start, end: self.durable_end });
        }
        self.wanted_start = self.wanted_start.max(to);
        let generation = self.want_manifest();
        self.trims.push_back((generation, self.wanted_start));
        Ok(())
    }

    /// Raises the log start to `to`, or as far as the disk has it: another log begins there.
    pub fn follow_start(&mut self, to: Offset) {
        let to = to.min(self.durable_end);
        if to > self.wanted_start {
            self.wanted_start = to;
            self.want_manifest();
        }
    }

    /// Removes the files of dropped segments that nobody reads.
    pub(crate) fn reap(&mut self) {
        let dropped = std::mem::take(&mut self.dropped).into_iter();
        let (gone, kept): (Vec<_>, Vec<_>) = dropped.partition(|segment| segment.readers == 0);
        self.dropped = kept;
        for segment in gone {
            let SegmentEntry { file, end_position, .. } = segment.entry;
            if self.may_keep(file) {
                self.files.kept = Some((file, end_position));
            } else {
                self.remove(FileName::Segment(file));
            }
            self.old_folds.push(file);
        }
        // The youngest of the dropped segments' index files keeps the fold.
        let keep = self.fold_file;
        let old = std::mem::take(&mut self.old_folds).into_iter();
        let (kept, old): (Vec<_>, Vec<_>) = old.partition(|file| *file == keep);
        self.old_folds = kept;
        for file in old {
            self.remove(FileName::Index(file));
        }
    }

    fn remove(&mut self, file: FileName) {
        self.removals.push(file);
    }

    /// Removes what is to go and is not used any more.
    pub(crate) fn pump_removals(&mut self) {
        for file in std::mem::take(&mut self.removals) {
            if self.is_used(file) {
                self.removals.push(file);
            } else {
                self.ask(Purpose::Hint, Op::Remove { file });
            }
        }
    }

    /// Refuses appends from now on and says on the disk, as far as it can, that all is durable: by
    /// a mark, and in the manifest. The log is closed well once [`Log::is_idle`].
    pub fn close(&mut self) {
        self.closing = true;
        self.mark();
    }

    /// Whether anything that was appended is not durable yet.
    pub fn has_undurable(&self) -> bool {
        self.group.as_ref().is_some_and(|g| g.used() > 0)
            || self.flights.iter().any(|f| f.state != FlightState::Done)
    }

    /// A spare file is being made or lies ready.
    pub fn has_spare(&self) -> bool {
        self.files.spare != Spare::None
    }
}

impl Segment {
    /// Sealed, and all of it below `start`.
    pub(crate) fn ends_below(&self, start: Offset) -> bool {
        self.entry.sealed && self.entry.end <= start
    }
}
