//! Repair: batches that are lost here and whole in another log are written back to where they
//! stood.
//!
//! ```text
//! repair() → read the index → find the gap → read the edges, twice → write → sync → read back ─┐
//!                             ↑                                                    the next go ┤
//!                             └────────────────────────────────────────────────────────────────┤
//!                                            the offsets are not damaged any more · manifest ←─┘
//! ```
//!
//! Frames may stand anywhere between the whole ones around them, as long as offsets follow each
//! other. Nothing whole is changed: where a block holds something else, too, that is written as it
//! stands there, so that a torn write harms nothing. Until the manifest says otherwise the offsets
//! are damaged, and a repair that a crash interrupts is begun again.

use std::{collections::BTreeSet, ops::Range};

use catena_format::{
    BatchError, Epoch, FileNumber, FrameSeed, Offset, Position,
    limits::{BATCH_BYTES_MAX, BLOCK_BYTES},
};

use crate::{
    config::{DAMAGED_RANGES_MAX, GROUP_BYTES_MAX},
    flight::{Flight, FlightKind},
    fold::Fold,
    index::{self, Index},
    io::{FileName, IoError, Memory, MemoryExhausted, Op, Outcome},
    log::{Event, Log, Purpose, Segment, SegmentIndex},
    manifest::SegmentEntry,
    opening::READ_TRIES,
    read::Stamp,
    walk::Fault,
};

mod offer;
mod plan;
mod survey;

use offer::Piece;
use plan::Plan;
use survey::{Gap, Seen, Survey, Wanted};

/// Why lost batches are not written back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// One repair is under way, and there is one at a time.
    #[error("another repair is under way")]
    Busy,
    /// A write or flush of the log failed earlier: it is read-only.
    #[error("the log is read-only since a write failed: {0}")]
    Poisoned(IoError),
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// The memory budget is spent. Retry later.
    #[error(transparent)]
    Memory(#[from] MemoryExhausted),
    /// No more than the largest batch is taken at once.
    #[error("{0} bytes are too many for one repair")]
    TooLarge(usize),
    /// The batches are not as many as their stamps.
    #[error("there are {0} stamps, and not as many batches")]
    Stamps(usize),
    /// The batch is none that a log holds.
    #[error(transparent)]
    Batch(#[from] Fault),
    /// The batch is not what it was stored with.
    #[error("the batch at offset {0} does not match its stamp")]
    Stamp(Offset),
    /// The batch does not follow the one before it.
    #[error("the batch at offset {0} does not follow the one before")]
    Order(Offset),
    /// The offset was given in another epoch.
    #[error("the batch at offset {0} is of epoch {1}, in which that was not given")]
    Epoch(Offset, Epoch),
    /// No damaged range begins there that could be repaired.
    #[error("nothing that can be repaired begins at offset {0}")]
    Sound(Offset),
    /// The batches go on behind the damaged range, which ends there.
    #[error("the damage ends at offset {0}, before the batches do")]
    Beyond(Offset),
    /// A batch stands there that is whole, and another one.
    #[error("another batch stands at offset {0}")]
    Other(Offset),
    /// There is no room for the batch before the next whole one.
    #[error("there is no room for the batch at offset {0}")]
    NoRoom(Offset),
    /// More is damaged than was known, or each read brings something else.
    #[error("not the same was read twice")]
    Unsteady,
    /// What was written was not what is read.
    #[error("what was written cannot be read back")]
    NotKept,
    /// Something there was written by a newer version.
    #[error("frame version {0} is unknown to this build")]
    Version(u8),
    /// The segment was dropped meanwhile.
    #[error("the segment is dropped")]
    Gone,
    /// Reading, writing, or making it durable failed.
    #[error("input or output failed: {0}")]
    Io(#[from] IoError),
}

impl From<BatchError> for RepairError {
    fn from(error: BatchError) -> Self {
        Self::Batch(Fault::Batch(error))
    }
}

/// The repairs of a log.
pub(crate) struct Repairs<M: Memory> {
    under_way: Option<Repair<M>>,
    /// In these files nothing can be repaired in this life.
    given_up: BTreeSet<FileNumber>,
    /// What was offered for these offsets does not fit; each ends where a damaged range does.
    tight: Vec<Range<Offset>>,
    /// Where the last one ended: the next offset, and behind which byte it goes on.
    last: Option<(FileNumber, Offset, Position)>,
}

impl<M: Memory> Default for Repairs<M> {
    fn default() -> Self {
        Self { under_way: None, given_up: BTreeSet::new(), tight: Vec::new(), last: None }
    }
}

impl<M: Memory> Repairs<M> {
    /// A damaged range without the offsets for which there is no room. Where more is damaged by
    /// now there may be.
    fn with_room(&self, part: Range<Offset>) -> Range<Offset> {
        let is = |tight: &&Range<Offset>| tight.end == part.end && tight.start < part.end;
        let tight = self.tight.iter().find(is).map(|tight| tight.start.max(part.start));
        part.start..tight.unwrap_or(part.end)
    }

    /// There is no room for these; false: too many are remembered.
    fn is_tight(&mut self, mut offsets: Range<Offset>) -> bool {
        let behind = self.tight.iter().position(|tight| tight.start == offsets.end);
        if let Some(at) = behind {
            offsets.end = self.tight.swap_remove(at).end;
        }
        let room = self.tight.len() < DAMAGED_RANGES_MAX;
        self.tight.extend(Some(offsets).filter(|_| room));
        room
    }
}

/// What is read or written.
enum Task<M: Memory> {
    /// The image of the segment's index, so many bytes; whether it was read before, and was none.
    Index(usize, bool),
    Survey,
    /// A window of which some blocks cannot be read: zeros stand for those.
    Patch(M::Buffer, usize),
    /// The edge of that number, for the first time, or the second.
    Edge(usize, Option<Box<[u8]>>),
    /// What is written from there on.
    Write(Position),
    Sync,
    /// What was written is read.
    Back,
}

/// A repair under way.
struct Repair<M: Memory> {
    seed: FrameSeed,
    pieces: Vec<Piece>,
    payload: M::Buffer,
    /// Where the damaged range ends.
    range_end: Offset,
    /// Batches that are durable in the log.
    kept: usize,
    /// Batches that are whole in it.
    whole: usize,
    task: Task<M>,
    /// How often the last read failed.
    failures: u32,
    /// The index as it stands on the disk.
    index: Option<Index>,
    survey: Survey,
    /// Damage that was not known.
    doubt: Option<Gap>,
    plan: Plan,
    edges: Vec<(Position, Box<[u8]>)>,
    /// Where all frames of this repair were placed.
    places: Vec<(Offset, Position)>,
    /// Behind what is durable.
    end: Position,
}

/// What comes next; `None`: all is done.
type Flow<M> = Result<Option<Task<M>>, RepairError>;

impl<M: Memory + Clone, F: Fold> Log<M, F> {
    /// The first known damaged range that ends behind `from` and can be repaired: it lies in a
    /// segment whose file is there, and is told as far as it lies in that one.
    pub fn repairable(&self, from: Offset) -> Option<Range<Offset>> {
        if self.poisoned.is_some() || self.closing {
            return None;
        }
        let behind = self.damaged.iter().filter(|range| range.end > from);
        behind.flat_map(|range| self.parts(range, from)).next()
    }

    /// A damaged range as far as it lies in each segment that can be repaired, behind `from`.
    fn parts(&self, range: &Range<Offset>, from: Offset) -> impl Iterator<Item = Range<Offset>> {
        let range = range.clone();
        let first = self.segments.partition_point(|s| s.entry.end <= range.start.max(from));
        let there = self.segments.range(first..).take_while({
            let end = range.end;
            move |segment| segment.entry.base < end
        });
        let there = there.filter(|segment| self.may_repair(segment));
        let durable_end = self.durable_end;
        let part = move |s: &Segment| {
            let end = s.entry.end.min(durable_end);
            let part = range.start.max(s.entry.base)..range.end.min(end);
            // What is being written ends where nobody can tell it from a gap.
            let there = s.entry.sealed || part.end < end;
            Some(self.repairs.with_room(part)).filter(|part| there && part.start < part.end)
        };
        there.filter_map(part)
    }

    fn may_repair(&self, segment: &Segment) -> bool {
        let entry = &segment.entry;
        // Of one in which recovery found nothing whole nobody knows where it ended.
        let ends = entry.end_position.get() > BLOCK_BYTES as u64;
        ends && !segment.ends_below(self.wanted_start)
            && !self.repairs.given_up.contains(&entry.file)
    }

    /// Writes back what was lost: whole batches, back to back and of consecutive offsets, the first
    /// where a damaged range begins, none beyond its end, each with what it is stored with in the
    /// log that they come from. [`Event::Repaired`] or [`Event::RepairFailed`] says how it ended.
    ///
    /// # Errors
    /// Nothing is written; see [`RepairError`].
    pub fn repair(&mut self, stamps: &[Stamp], payload: &[u8]) -> Result<(), RepairError> {
        if self.repairs.under_way.is_some() {
            return Err(RepairError::Busy);
        }
        if let Some(error) = self.poisoned {
            return Err(RepairError::Poisoned(error));
        }
        if self.closing {
            return Err(RepairError::Closed);
        }
        if payload.len() > BATCH_BYTES_MAX {
            return Err(RepairError::TooLarge(payload.len()));
        }
        let pieces = offer::pieces(stamps, payload)?;
        let range_end = self.belong(&pieces)?;
        let mut buffer = self.memory.allocate(payload.len().next_multiple_of(BLOCK_BYTES))?;
        buffer.as_mut()[..payload.len()].copy_from_slice(payload);
        self.begin_repair(pieces, buffer, range_end);
        Ok(())
    }

    /// A repair is under way.
    pub fn is_repairing(&self) -> bool {
        self.repairs.under_way.is_some()
    }

    /// Whether these batches are lost here; where the damage ends.
    fn belong(&self, pieces: &[Piece]) -> Result<Offset, RepairError> {
        let (first, last) = (&pieces[0], &pieces[pieces.len() - 1]);
        let (base, next) = (first.base(), first.next());
        let part = self.repairable(base).ok_or(RepairError::Sound(base))?;
        // What lies below the log start is not missed, though a batch may begin there.
        let within = base < part.start && part.start < next && part.start <= self.log_start;
        if base != part.start && !within {
            return Err(RepairError::Sound(base));
        }
        if last.next() > part.end {
            return Err(RepairError::Beyond(part.end));
        }
        let given = |at: Offset| self.epochs.iter().rev().find(|(_, began)| *began <= at);
        let strange = |piece: &&Piece| {
            given(piece.base()).is_some_and(|(epoch, _)| *epoch != piece.header.epoch)
        };
        match pieces.iter().find(strange) {
            Some(piece) => Err(RepairError::Epoch(piece.base(), piece.header.epoch)),
            None => Ok(part.end),
        }
    }

    fn begin_repair(&mut self, pieces: Vec<Piece>, payload: M::Buffer, range_end: Offset) {
        let at = self.segments.partition_point(|s| s.entry.end <= pieces[0].base());
        let segment = &mut self.segments[at];
        // Until it is done the file stays.
        segment.readers += 1;
        let file = segment.entry.file;
        let image = match segment.index {
            _ if segment.index_wrong => 0,
            SegmentIndex::OnDisk(bytes) => bytes,
            SegmentIndex::Resident(_) => segment.index_bytes,
        };
        let image = usize::try_from(image.next_multiple_of(BLOCK_BYTES as u64)).unwrap_or(0);
        let seed = FrameSeed { uid: self.identity.uid, file };
        let survey = self.survey(seed, pieces[0].base(), None);
        let repair = Repair {
            seed,
            pieces,
            payload,
            range_end,
            kept: 0,
            whole: 0,
            task: if image > 0 { Task::Index(image, false) } else { Task::Survey },
            failures: 0,
            index: None,
            survey,
            doubt: None,
            plan: Plan::default(),
            edges: Vec::new(),
            places: Vec::new(),
            end: Position::ZERO,
        };
        self.ask_repair(repair);
    }

    /// Begins to look for the gap in which `base` is lost.
    fn survey(&self, seed: FrameSeed, base: Offset, image: Option<&Index>) -> Survey {
        let at = self.segment_of(seed.file).expect("what is repaired is kept");
        let segment = &self.segments[at];
        let first = (segment.entry.base, Position::new(BLOCK_BYTES as u64));
        let resident = segment.resident().and_then(|index| index.at_or_before(base));
        let image = image.and_then(|index| index.at_or_before(base));
        let last = self.repairs.last.filter(|(file, ..)| *file == seed.file);
        let last = last.map(|(_, offset, position)| (offset, position));
        let known = [resident, image, last].into_iter().flatten();
        let known = known.filter(|(offset, _)| *offset <= base);
        let (offset, position) = known.fold(first, |a, b| if b.1 > a.1 { b } else { a });
        Survey::new(seed, self.durable(segment), offset, position)
    }

    /// Where what is durable of a segment ends: behind that groups may be on their way.
    fn durable(&self, segment: &Segment) -> (Offset, Position) {
        let SegmentEntry { file: of, end, end_position, .. } = segment.entry;
        let begins = |flight: &Flight<M::Share>| match flight.kind {
            FlightKind::Group { file, position, .. } if file == of => Some(position),
            _ => None,
        };
        let first = self.flights.iter().find_map(begins);
        let active = self.active.as_ref().is_some_and(|active| active.file == of);
        let open = self.group.as_ref().filter(|_| active).map(|group| group.position);
        (end.min(self.durable_end), first.or(open).unwrap_or(end_position))
    }

    /// Asks for what the repair needs next.
    fn ask_repair(&mut self, repair: Repair<M>) {
        let op = match repair.task {
            Task::Write(position) => match self.image(&repair, position) {
                Ok(bytes) => {
                    let file = FileName::Segment(repair.seed.file);
                    Op::Write { file, position, bytes, durable: false }
                }
                Err(error) => return self.end_repair(repair, Err(error.into())),
            },
            _ => repair.asks(),
        };
        self.repairs.under_way = Some(repair);
        self.ask(Purpose::Repair, op);
    }

    /// What is written from `position` on.
    fn image(
        &mut self,
        repair: &Repair<M>,
        position: Position,
    ) -> Result<M::Share, MemoryExhausted> {
        let length = repair.plan.stretch(position);
        let mut buffer = self.memory.allocate(length)?;
        let what = (&repair.pieces[..], repair.payload.as_ref());
        let image = &mut buffer.as_mut()[..length];
        repair.plan.fill(image, position, repair.seed, what, &repair.edges);
        Ok(self.memory.freeze(buffer, length))
    }

    pub(crate) fn repair_done(&mut self, result: Result<Outcome<M::Share>, IoError>) {
        let mut repair = self.repairs.under_way.take().expect("a repair is under way");
        let next = match self.poisoned {
            _ if !self.is_kept(repair.seed.file) => Err(RepairError::Gone),
            Some(error) => Err(RepairError::Poisoned(error)),
            None if self.closing => Err(RepairError::Closed),
            None => self.go_on_with(&mut repair, result),
        };
        match next {
            Ok(Some(task)) => {
                repair.task = task;
                self.ask_repair(repair);
            }
            Ok(None) => self.end_repair(repair, Ok(())),
            Err(error) => self.end_repair(repair, Err(error)),
        }
    }

    fn go_on_with(
        &mut self,
        repair: &mut Repair<M>,
        result: Result<Outcome<M::Share>, IoError>,
    ) -> Flow<M> {
        let task = std::mem::replace(&mut repair.task, Task::Sync);
        if let Err(error) = &result
            && !matches!(task, Task::Write(_) | Task::Sync | Task::Survey)
            && error.is_medium()
        {
            repair.failures += 1;
            if repair.failures < READ_TRIES {
                return Ok(Some(task));
            }
        }
        repair.failures = 0;
        match task {
            Task::Index(length, doubted) => self.index_seen(repair, length, doubted, result),
            Task::Survey => match result.map(Outcome::into_read) {
                Ok(bytes) => self.look(repair, bytes.as_ref()),
                Err(error) if error.is_medium() => {
                    let (_, length) = repair.survey.asked();
                    Ok(Some(Task::Patch(self.memory.allocate(length)?, 0)))
                }
                Err(error) => Err(error.into()),
            },
            Task::Patch(buffer, filled) => self.patch(repair, buffer, filled, result),
            Task::Edge(edge, first) => repair.edge(edge, first, result),
            Task::Write(position) => {
                result?;
                let next = position.plus(repair.plan.stretch(position) as u64);
                let more = next < repair.plan.blocks.end;
                Ok(Some(if more { Task::Write(next) } else { Task::Sync }))
            }
            Task::Sync => {
                if result.is_err() {
                    // What a failed flush was to keep may be gone, and another would not say so.
                    self.repairs.given_up.insert(repair.seed.file);
                }
                result?;
                let more = !repair.plan.places.is_empty();
                if more { Ok(Some(Task::Back)) } else { self.round_done(repair) }
            }
            Task::Back => {
                let bytes = result?.into_read();
                let at = repair.plan.frames().start;
                if !repair.plan.is_in(bytes.as_ref(), at, repair.seed, &repair.pieces) {
                    return Err(RepairError::NotKept);
                }
                self.round_done(repair)
            }
        }
    }

    /// The image of the index was read. Where there is none the second time either, frames are
    /// placed without it, and it may not be believed when it can be read again: it would look for
    /// them in other places.
    fn index_seen(
        &mut self,
        repair: &mut Repair<M>,
        length: usize,
        doubted: bool,
        result: Result<Outcome<M::Share>, IoError>,
    ) -> Flow<M> {
        let file = repair.seed.file;
        let (image, doubted) = match result.map(Outcome::into_read) {
            Ok(bytes) => (index::read_image(repair.seed.uid, bytes.as_ref()).ok(), doubted),
            Err(error) if error.is_medium() || error == IoError::NotFound => (None, true),
            Err(error) => return Err(error.into()),
        };
        let image = image.filter(|image| image.file == file);
        if image.is_none() && !doubted {
            return Ok(Some(Task::Index(length, true)));
        }
        if image.is_none() {
            self.disbelieve(file);
        }
        repair.index = image.map(|image| image.index);
        self.go_round(repair)
    }

    /// What the index file of a segment says of places is not believed any more in this life.
    fn disbelieve(&mut self, file: FileNumber) {
        let at = self.segment_of(file).expect("what is repaired is kept");
        let segment = &mut self.segments[at];
        (segment.index_wrong, segment.index_whole) = (true, false);
        // Reads make it anew as they go.
        if matches!(segment.index, SegmentIndex::OnDisk(_)) {
            segment.index = SegmentIndex::Resident(Index::default());
        }
    }

    /// A window of which some blocks cannot be read is put together from the others.
    fn patch(
        &mut self,
        repair: &mut Repair<M>,
        mut buffer: M::Buffer,
        at: usize,
        result: Result<Outcome<M::Share>, IoError>,
    ) -> Flow<M> {
        let (_, length) = repair.survey.asked();
        let block = &mut buffer.as_mut()[at..at + BLOCK_BYTES];
        block.fill(0);
        let filled = match result.map(Outcome::into_read) {
            Ok(read) => {
                let read = read.as_ref();
                block[..read.len()].copy_from_slice(read);
                at + read.len()
            }
            Err(error) if error.is_medium() => at + BLOCK_BYTES,
            Err(error) => return Err(error.into()),
        };
        if filled == at + BLOCK_BYTES && filled < length {
            return Ok(Some(Task::Patch(buffer, filled)));
        }
        self.look(repair, &buffer.as_ref()[..filled])
    }

    /// Looks for the next gap.
    fn go_round(&mut self, repair: &mut Repair<M>) -> Flow<M> {
        repair.whole = repair.kept;
        let base = repair.pieces[repair.kept].base();
        repair.survey = self.survey(repair.seed, base, repair.index.as_ref());
        Ok(Some(Task::Survey))
    }

    /// Looks through a window for the gap.
    fn look(&mut self, repair: &mut Repair<M>, bytes: &[u8]) -> Flow<M> {
        let last = repair.pieces.last().expect("something was offered");
        let wanted = Wanted {
            pieces: &repair.pieces,
            bytes: GROUP_BYTES_MAX as u64,
            to_end: last.next() == repair.range_end,
        };
        match repair.survey.on_window(bytes, &wanted, &mut repair.whole) {
            Seen::More => Ok(Some(Task::Survey)),
            Seen::Gap(gap) => self.gap_found(repair, gap),
            Seen::Other(base) => Err(RepairError::Other(base)),
            Seen::Unknown(version) => Err(RepairError::Version(version)),
        }
    }

    fn gap_found(&mut self, repair: &mut Repair<M>, gap: Gap) -> Flow<M> {
        let all = (gap.offsets.clone(), gap.positions.clone());
        let mut missing = gap.early.clone();
        missing.extend(Some(all).filter(|_| gap.ends));
        missing.retain(|(offsets, _)| !offsets.is_empty() && !self.damaged.covers(offsets));
        if !missing.is_empty() {
            // One bad read is not believed.
            let Some(first) = repair.doubt.replace(gap) else { return self.go_round(repair) };
            if repair.doubt == Some(first) {
                let file = FileName::Segment(repair.seed.file);
                for (offsets, positions) in missing {
                    self.damage(file, offsets, positions, false);
                }
            }
            return Err(RepairError::Unsteady);
        }
        let at = self.segment_of(repair.seed.file).expect("what is repaired is kept");
        let indexes = [repair.index.as_ref(), self.segments[at].resident()];
        repair.plan = Plan::new(&gap, &repair.pieces, indexes, GROUP_BYTES_MAX as u64)?;
        (repair.doubt, repair.edges) = (None, Vec::new());
        Ok(Some(repair.after_edge(0)))
    }

    /// What was written is durable.
    fn round_done(&mut self, repair: &mut Repair<M>) -> Flow<M> {
        let Repair { plan, pieces, places, end, .. } = repair;
        *end = plan.own.start;
        for (at, place) in &plan.places {
            let header = &pieces[*at].header;
            places.push((header.base_offset, *place));
            *end = place.plus(header.frame_bytes() as u64);
        }
        repair.whole += repair.plan.places.len();
        repair.kept = repair.whole;
        if repair.kept == repair.pieces.len() { Ok(None) } else { self.go_round(repair) }
    }

    fn end_repair(&mut self, repair: Repair<M>, result: Result<(), RepairError>) {
        let Repair { seed, pieces, kept, .. } = &repair;
        let file = seed.file;
        self.release(file);
        let gives_up = match result {
            Err(RepairError::Io(IoError::NotFound)) => true,
            Err(RepairError::NoRoom(from)) => !self.repairs.is_tight(from..repair.range_end),
            _ => false,
        };
        if gives_up {
            self.repairs.given_up.insert(file);
        }
        let base = pieces[0].base();
        let known = self.is_kept(file).then(|| self.segment_of(file)).flatten();
        match (known, result) {
            (Some(at), _) if *kept > 0 => {
                let range = base..pieces[kept - 1].next();
                let segment = &mut self.segments[at];
                segment.repairs = segment.repairs.wrapping_add(1);
                if let SegmentIndex::Resident(index) = &mut segment.index {
                    index.agree(&range, &repair.places);
                    index.raise(pieces[..*kept].iter().map(Piece::time));
                }
                self.raise_times(at, &pieces[..*kept]);
                self.stats.repaired_offsets += self.damaged.remove(&range);
                self.repairs.last = Some((file, range.end, repair.end));
                self.want_manifest();
                self.events.push_back(Event::Repaired(range));
            }
            (_, result) => {
                let range = base..pieces[pieces.len() - 1].next();
                let why = result.err().unwrap_or(RepairError::Gone);
                self.events.push_back(Event::RepairFailed(range, why));
            }
        }
        let segments = &self.segments;
        let there = |file: &FileNumber| segments.iter().any(|s| s.entry.file == *file);
        self.repairs.given_up.retain(there);
        self.repairs.tight.retain(|tight| self.damaged.holds(tight));
        self.reap();
    }
}

impl<M: Memory, F> Log<M, F> {
    /// Batches of segment `at` are there again that may be later than what is known of the log.
    fn raise_times(&mut self, at: usize, pieces: &[Piece]) {
        let Some(latest) = pieces.iter().map(|piece| piece.header.max_timestamp).max() else {
            return;
        };
        for (number, segment) in self.segments.iter_mut().enumerate().skip(at) {
            segment.entry.max_timestamp = segment.entry.max_timestamp.max(latest);
            if number > at {
                segment.max_timestamp_before = segment.max_timestamp_before.max(latest);
            }
        }
        self.max_timestamp = self.max_timestamp.max(latest);
        if let Some(active) = &mut self.active {
            active.progress.max_timestamp = active.progress.max_timestamp.max(latest);
        }
    }
}

impl Segment {
    fn resident(&self) -> Option<&Index> {
        match &self.index {
            SegmentIndex::Resident(index) => Some(index),
            SegmentIndex::OnDisk(_) => None,
        }
    }
}

impl<M: Memory> Repair<M> {
    /// What it asks for, when that is no write.
    fn asks(&self) -> Op<M::Share> {
        let file = FileName::Segment(self.seed.file);
        let (position, length) = match &self.task {
            Task::Index(length, _) => {
                let (file, length) = (FileName::Index(self.seed.file), *length);
                return Op::Read { file, position: Position::ZERO, length };
            }
            Task::Survey => self.survey.asked(),
            Task::Patch(_, filled) => (self.survey.asked().0.plus(*filled as u64), BLOCK_BYTES),
            Task::Edge(edge, _) => (self.plan.edges()[*edge], BLOCK_BYTES),
            Task::Write(_) => unreachable!("a write has bytes"),
            Task::Sync => return Op::Sync { file },
            Task::Back => {
                let frames = self.plan.frames();
                let length = frames.end.get() - frames.start.get();
                (frames.start, usize::try_from(length).expect("the frames are few"))
            }
        };
        Op::Read { file, position, length }
    }

    /// An edge was read. It is written as it stands there only if that is the same twice.
    fn edge(
        &mut self,
        number: usize,
        first: Option<Box<[u8]>>,
        result: Result<Outcome<M::Share>, IoError>,
    ) -> Flow<M> {
        let position = self.plan.edges()[number];
        let mut block = vec![0; BLOCK_BYTES].into_boxed_slice();
        match result.map(Outcome::into_read) {
            Ok(read) => block[..read.as_ref().len()].copy_from_slice(read.as_ref()),
            Err(error) if error.is_medium() && self.plan.is_free(position) => {}
            Err(error) => return Err(error.into()),
        }
        let Some(first) = first else { return Ok(Some(Task::Edge(number, Some(block)))) };
        if first != block {
            return Err(RepairError::Unsteady);
        }
        self.edges.push((position, block));
        Ok(Some(self.after_edge(number + 1)))
    }

    fn after_edge(&self, number: usize) -> Task<M> {
        if number < self.plan.edges().len() {
            return Task::Edge(number, None);
        }
        let blocks = &self.plan.blocks;
        if blocks.is_empty() { Task::Sync } else { Task::Write(blocks.start) }
    }
}
