//! Scrub: sealed segments are read again, one bounded read after another, and checked, so that rot
//! is found before somebody needs what has rotted.
//!
//! ```text
//! scrub() → one read → walk its frames ─┬ all whole: the next read goes on behind them
//!                                       ├ offsets are missing: again from the last whole frame
//!                                       │   ├ missing again: damage, as a read would mark it
//!                                       │   └ there: the first read was bad; counted
//!                                       └ the disk cannot read: once more, then left out and told
//! ```
//!
//! The owner decides when the next read is due. Between two reads nothing is held: a segment that
//! is dropped meanwhile is just left.

use std::{ops::Range, time::Duration};

use catena_format::{
    FileNumber, FrameSeed, Offset, PartitionUid, Position,
    limits::{BATCH_BYTES_MAX, BLOCK_BYTES},
};

use crate::{
    fold::Fold,
    index::{self, Index},
    io::{FileName, IoError, Memory, Op},
    log::{Event, Log, Purpose, Segment, SegmentIndex},
    manifest::DamagedRanges,
    read::{Finding, ReadError},
    walk::{Step, Walker, Window, check_batch},
};

/// How much the scrub reads at once; a frame that is larger is read whole.
pub const SCRUB_BYTES: usize = 256 << 10;

const _: () = assert!(SCRUB_BYTES.is_multiple_of(BLOCK_BYTES));

/// Where the scrub of a log stands.
#[derive(Default)]
pub(crate) struct Scrub {
    round: Option<Round>,
    check: Option<Check>,
    reading: bool,
}

/// A way through all sealed segments, from one of them on and around.
#[derive(Clone, Copy)]
struct Round {
    /// It ends before the segment that begins here.
    began: Offset,
    /// The next segment begins here or behind.
    next: Offset,
    wrapped: bool,
}

/// What is read of a segment's files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// The image of its index, so many bytes.
    Index(usize),
    Window(Position, usize),
}

/// A segment that is being checked.
struct Check {
    seed: FrameSeed,
    end: Offset,
    end_position: Position,
    /// How often something of it had been repaired when it was last read.
    repairs: u32,
    walker: Walker,
    /// The next whole frame's offset if nothing is missing.
    expected: Offset,
    /// Behind the last whole frame, or what was left out.
    sound: Position,
    /// The first offset of the last whole frame.
    last: Option<Offset>,
    /// What the segment's index image says, which has to agree with the frames.
    index: Option<Index>,
    index_wrong: bool,
    asked: Asked,
    /// Offsets that were missing in a first read.
    doubt: Option<Range<Offset>>,
    /// The last read failed.
    failed: bool,
    /// Bytes before the next whole frame were left out.
    blind: bool,
    /// Something could not be read: the segment does not count as checked.
    unread: bool,
}

/// What a window brought.
#[derive(Default)]
struct Brought {
    /// Offsets that are missing, and the bytes in which they should stand.
    damage: Vec<(Range<Offset>, Range<Position>)>,
    /// First reads that a second one contradicted.
    contradicted: u64,
    /// A frame of a version that this build does not know.
    unknown: Option<u8>,
    /// The segment is through.
    ended: bool,
}

impl<M: Memory + Clone, F: Fold> Log<M, F> {
    /// Asks for the next read of the scrub, and tells how many bytes that reads at most. `None`:
    /// all sealed segments were gone through (or there are none), and the next call begins anew.
    /// `spin` tells at which of them, as a fraction of 2⁶⁴.
    ///
    /// # Panics
    /// While a read of it is under way ([`Log::is_scrubbing`]).
    pub fn scrub(&mut self, spin: u64) -> Option<usize> {
        assert!(!self.scrub.reading, "the scrub reads one after another");
        let under_way = self.scrub.check.take().filter(|check| self.is_kept(check.seed.file));
        let check = match under_way {
            Some(check) => check,
            None => self.next_check(spin)?,
        };
        let file = check.seed.file;
        let at = self.segment_of(file).expect("what is checked is kept");
        // Until it is done the file stays.
        self.segments[at].readers += 1;
        let (file, position, length) = match check.asked {
            Asked::Index(length) => (FileName::Index(file), Position::ZERO, length),
            Asked::Window(position, length) => (FileName::Segment(file), position, length),
        };
        self.scrub = Scrub { check: Some(check), reading: true, ..std::mem::take(&mut self.scrub) };
        self.ask(Purpose::Scrub, Op::Read { file, position, length });
        Some(length)
    }

    /// A read of the scrub is under way.
    pub fn is_scrubbing(&self) -> bool {
        self.scrub.reading
    }

    /// Since when the sealed segment has not been checked that was not for the longest; at most
    /// since the log was opened.
    pub fn unchecked_since(&self) -> Option<Duration> {
        self.segments.iter().filter(|s| s.entry.sealed).map(|s| s.checked).min()
    }

    /// Whether a file is of a segment that stays for the time being.
    pub(crate) fn is_kept(&self, file: FileNumber) -> bool {
        let at = self.segment_of(file);
        at.is_some_and(|at| !self.segments[at].ends_below(self.wanted_start))
    }

    fn next_check(&mut self, spin: u64) -> Option<Check> {
        let first = self.segments.partition_point(|s| s.ends_below(self.wanted_start));
        let end = self.segments.partition_point(|s| s.entry.sealed);
        let base = |at: usize| self.segments[at].entry.base;
        let mut round = self.scrub.round.take().or_else(|| {
            let count = end.checked_sub(first).filter(|count| *count > 0)?;
            let began = base(first + fraction(spin, count));
            Some(Round { began, next: began, wrapped: false })
        })?;
        let mut at = self.segments.partition_point(|s| s.entry.base < round.next).max(first);
        if at >= end && !round.wrapped {
            (at, round.wrapped) = (first, true);
        }
        if at >= end || (round.wrapped && base(at) >= round.began) {
            return None;
        }
        round.next = base(at).checked_add(1)?;
        self.scrub.round = Some(round);
        Some(Check::new(self.identity.uid, &self.segments[at]))
    }

    pub(crate) fn scrub_done(&mut self, result: Result<M::Share, IoError>) {
        self.scrub.reading = false;
        let mut check = self.scrub.check.take().expect("a read of the scrub is of a segment");
        let file = check.seed.file;
        self.release(file);
        if let Ok(share) = &result {
            self.stats.scrubbed_bytes += share.as_ref().len() as u64;
        }
        // Whatever was read of a segment that is going is not looked at.
        let goes_on = self.is_kept(file)
            && match (check.asked, result) {
                _ if self.repaired_since(&mut check) => true,
                // Where the file is gone nothing follows.
                (Asked::Window(..), Err(IoError::NotFound)) => self.scrub_window(&mut check, &[]),
                (_, Err(error)) => self.scrub_failed(&mut check, error),
                (Asked::Index(_), Ok(share)) => self.scrub_index(&mut check, share.as_ref()),
                (Asked::Window(..), Ok(share)) => self.scrub_window(&mut check, share.as_ref()),
            };
        self.scrub.check = goes_on.then_some(check);
        self.reap();
    }

    /// Something of the segment was repaired since the read was asked for: it is read again from
    /// the last whole frame on.
    fn repaired_since(&self, check: &mut Check) -> bool {
        let at = self.segment_of(check.seed.file).expect("what is checked is kept");
        let repairs = self.segments[at].repairs;
        let since = std::mem::replace(&mut check.repairs, repairs) != repairs;
        if since && matches!(check.asked, Asked::Window(..)) {
            check.doubt = None;
            check.go_on_at(check.sound);
        }
        since
    }

    /// Whether the check goes on. What cannot be read the second time either is told, and left out.
    fn scrub_failed(&mut self, check: &mut Check, error: IoError) -> bool {
        self.stats.scrub_errors += 1;
        if !std::mem::replace(&mut check.failed, true) {
            return true;
        }
        let why = ReadError::Io(error);
        let (file, position) = match check.asked {
            Asked::Index(_) => (FileName::Index(check.seed.file), Position::ZERO),
            Asked::Window(position, _) => (FileName::Segment(check.seed.file), position),
        };
        self.events.push_back(Event::Found(Finding::Unreadable { file, position, why }));
        match check.asked {
            Asked::Index(_) => check.begin(),
            Asked::Window(position, length) => check.leave_out(position.plus(length as u64)),
        }
        check.sound < check.end_position
    }

    fn scrub_index(&mut self, check: &mut Check, image: &[u8]) -> bool {
        let read = index::read_image(self.identity.uid, image).ok();
        match read.filter(|read| read.file == check.seed.file) {
            Some(read) => check.index = Some(read.index),
            None if !std::mem::replace(&mut check.failed, true) => return true,
            None => self.unsound(check.seed.file),
        }
        check.begin();
        true
    }

    fn unsound(&mut self, file: FileNumber) {
        if let Some(at) = self.segment_of(file) {
            // It must not become the keeper.
            self.segments[at].index_whole = false;
        }
        self.events.push_back(Event::Found(Finding::Unsound(FileName::Index(file))));
    }

    fn scrub_window(&mut self, check: &mut Check, bytes: &[u8]) -> bool {
        check.failed = false;
        let brought = check.on_window(bytes, &self.damaged);
        self.stats.scrub_contradicted += brought.contradicted;
        let file = check.seed.file;
        for (offsets, positions) in brought.damage {
            self.damage(FileName::Segment(file), offsets, positions, true);
        }
        if let Some(version) = brought.unknown {
            let (file, why) = (FileName::Segment(file), ReadError::Version(version));
            let position = check.sound;
            self.events.push_back(Event::Found(Finding::Unreadable { file, position, why }));
            return false;
        }
        if brought.ended {
            self.checked(check);
        }
        !brought.ended
    }

    fn checked(&mut self, check: &Check) {
        let at = self.segment_of(check.seed.file).expect("what is checked is kept");
        if !check.unread {
            self.segments[at].checked = self.now.monotonic;
        }
        if check.index_wrong {
            // Reads make it anew as they go.
            self.segments[at].index = SegmentIndex::Resident(Index::default());
            self.segments[at].index_wrong = true;
            self.unsound(check.seed.file);
        }
    }
}

/// A part of `count`, told as a fraction of 2⁶⁴.
fn fraction(spin: u64, count: usize) -> usize {
    let part = (u128::from(spin) * count as u128) >> u64::BITS;
    usize::try_from(part).expect("it is below the count")
}

impl Check {
    fn new(uid: PartitionUid, segment: &Segment) -> Self {
        let (entry, first) = (&segment.entry, Position::new(BLOCK_BYTES as u64));
        let seed = FrameSeed { uid, file: entry.file };
        let mut check = Self {
            seed,
            end: entry.end,
            end_position: entry.end_position,
            repairs: segment.repairs,
            walker: Walker::new(seed, first, entry.end_position, entry.base),
            expected: entry.base,
            sound: first,
            last: None,
            index: None,
            index_wrong: false,
            asked: Asked::Index(0),
            doubt: None,
            failed: false,
            blind: false,
            unread: false,
        };
        // A larger image is no matter of one read.
        match usize::try_from(segment.index_bytes) {
            Ok(bytes @ 1..=BATCH_BYTES_MAX) => {
                check.asked = Asked::Index(bytes.next_multiple_of(BLOCK_BYTES));
            }
            _ => check.begin(),
        }
        check
    }

    fn begin(&mut self) {
        self.failed = false;
        self.ask_for(self.sound, SCRUB_BYTES);
    }

    /// Reads on at `from`, `bytes` at least.
    fn ask_for(&mut self, from: Position, bytes: usize) {
        let position = from.align_down(BLOCK_BYTES as u64);
        let lead = usize::try_from(from.get() - position.get()).expect("a block is small");
        let left = self.end_position.get().saturating_sub(position.get()).max(1);
        let wish = (lead + bytes).max(SCRUB_BYTES);
        let length = wish.min(usize::try_from(left).unwrap_or(usize::MAX));
        self.asked = Asked::Window(position, length.next_multiple_of(BLOCK_BYTES));
    }

    /// Goes on at `position`; what is missing before that is not known to be damaged.
    fn leave_out(&mut self, position: Position) {
        (self.blind, self.unread, self.failed, self.doubt) = (true, true, false, None);
        self.go_on_at(position);
    }

    fn go_on_at(&mut self, position: Position) {
        self.sound = position;
        self.walker = Walker::new(self.seed, position, self.end_position, self.expected);
        self.ask_for(position, SCRUB_BYTES);
    }

    /// Looks through a window. Afterwards the next one is to be asked for, unless this was all.
    fn on_window(&mut self, bytes: &[u8], known: &DamagedRanges) -> Brought {
        let mut brought = Brought::default();
        let Asked::Window(at, asked) = self.asked else { unreachable!("a window was asked for") };
        if bytes.len() < asked {
            self.walker.set_file_end(at.plus(bytes.len() as u64));
        }
        let window = Window { position: at, bytes };
        loop {
            match self.walker.step(window) {
                Step::Frame { header, .. } if header.mark => {}
                Step::Frame { position, header } => {
                    let batch = &bytes[window.batch(position, &header)];
                    let belongs = header.next_offset() <= self.end;
                    if !belongs || check_batch(&header, batch).is_err() {
                        continue;
                    }
                    let missing = self.expected < header.base_offset;
                    if !self.settle(header.base_offset, position, known, &mut brought) {
                        return brought;
                    }
                    self.agree(header.base_offset, position, missing);
                    self.last = Some(header.base_offset);
                    self.expected = header.next_offset();
                    self.sound = position.plus(header.frame_bytes() as u64);
                }
                // The next whole frame, or the end, tells how far the damage goes.
                Step::BadPayload { .. } => {}
                Step::More { from, bytes } => {
                    self.ask_for(from, bytes);
                    return brought;
                }
                Step::Unknown { version } => {
                    brought.unknown = Some(version);
                    return brought;
                }
                Step::End => {
                    brought.ended = self.settle(self.end, self.end_position, known, &mut brought);
                    return brought;
                }
            }
        }
    }

    /// A whole frame, or the segment's end, comes with the offset `next`. What is missing before it
    /// is damaged if it was missing in the read before, too; false: it is to be read again.
    fn settle(
        &mut self,
        next: Offset,
        position: Position,
        known: &DamagedRanges,
        brought: &mut Brought,
    ) -> bool {
        let gap = self.expected..next;
        let matters = !known.covers(&gap);
        match self.doubt.take() {
            _ if std::mem::take(&mut self.blind) => {}
            Some(_) if gap.is_empty() => brought.contradicted += 1,
            _ if gap.is_empty() || !matters => {}
            None => {
                self.doubt = Some(gap);
                self.go_on_at(self.sound);
                return false;
            }
            Some(first) => {
                let both = gap.start..gap.end.min(first.end);
                brought.damage.push((both, self.sound..position));
            }
        }
        true
    }

    /// Holds the index against a whole frame: it has this place or none, and, where no frame is
    /// missing, none between this and the one before.
    fn agree(&mut self, base: Offset, position: Position, missing: bool) {
        let Some(index) = &self.index else { return };
        let Some((offset, at)) = index.at_or_before(base) else { return };
        let between = self.last.is_some_and(|last| last < offset) && !missing;
        self.index_wrong |= if offset == base { at != position } else { between };
    }
}
