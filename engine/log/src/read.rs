//! Cold reads: from the index to the right window, frame by frame to the batches asked for.

use std::{fmt, ops::Range};

use catena_format::{
    FileNumber, FrameHeader, FrameSeed, Millis, Offset, PartitionUid, Position,
    limits::BLOCK_BYTES, planted,
};

use crate::{
    index::Index,
    io::{FileName, Memory},
    walk::{Step, Walker, Window},
};

/// Names a read that waits for the disk; given by the log, never reused in a life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReadId(pub u64);

/// What a batch is stored with, beside what it holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stamp {
    /// The time of its append at the head.
    pub append_time: Millis,
    /// The CRC-32 of the batch from its byte 16 on.
    pub payload_crc: u32,
}

impl Stamp {
    pub(crate) fn of(frame: &FrameHeader) -> Self {
        Self { append_time: frame.append_time, payload_crc: frame.payload_crc }
    }
}

/// Batches in order, each a share of the memory that it was read into.
#[derive(Clone, Debug)]
pub struct Batches<S> {
    /// Bare record batches.
    pub shares: Vec<S>,
    /// What each is stored with.
    pub stamps: Vec<Stamp>,
    /// The offset to go on at.
    pub next: Offset,
    /// Bytes of all batches together.
    pub bytes: usize,
}

impl<S> Batches<S> {
    /// None, to go on at `next`.
    #[must_use]
    pub fn empty(next: Offset) -> Self {
        Self { shares: Vec::new(), stamps: Vec::new(), next, bytes: 0 }
    }

    /// Whether there is no batch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shares.is_empty()
    }
}

impl<S: AsRef<[u8]>> Batches<S> {
    pub(crate) fn push(&mut self, share: S, stamp: Stamp, next: Offset) {
        self.bytes += share.as_ref().len();
        self.shares.push(share);
        self.stamps.push(stamp);
        self.next = next;
    }
}

/// Why offsets cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The offset is below the log start or above the log end.
    #[error("offset out of range: the log holds {start} to {end}")]
    OutOfRange {
        /// The log start.
        start: Offset,
        /// The log end.
        end: Offset,
    },
    /// The offset's bytes are damaged, and this is the only copy.
    #[error("the records there are damaged; offset {next_readable} is the next that can be read")]
    Damaged {
        /// The first offset behind the damage.
        next_readable: Offset,
    },
    /// The disk could not read, or memory is exhausted; another attempt may succeed.
    #[error("reading failed: {0}")]
    Io(#[from] crate::io::IoError),
    /// The records there were written by a newer version.
    #[error("frame version {0} is unknown to this build")]
    Version(u8),
    /// The segment was dropped by retention meanwhile.
    #[error("the log was closed")]
    Closed,
}

/// What is not as it was written, for the operator.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Finding {
    /// Acknowledged offsets cannot be read any more; they are marked as damaged from now on.
    Damaged {
        /// The segment.
        file: FileName,
        /// Which offsets.
        offsets: Range<Offset>,
        /// Between which bytes of the file they should stand.
        positions: Range<Position>,
        /// The scrub found it, and not somebody who wanted to read it.
        by_scrub: bool,
    },
    /// The scrub could not read, and leaves out what stands there. Nothing is marked.
    Unreadable {
        /// The file.
        file: FileName,
        /// From where on.
        position: Position,
        /// Why.
        why: ReadError,
    },
    /// The image of an index is damaged or does not agree with its segment: it is done without.
    Unsound(FileName),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged { file, offsets, positions, by_scrub } => {
                let who = if *by_scrub { "the scrub" } else { "a read" };
                let Range { start, end } = offsets;
                write!(
                    f,
                    "{file}: offsets {start} to {end} are damaged, between bytes {} and {}; {who} \
                     found it",
                    positions.start, positions.end
                )
            }
            Self::Unreadable { file, position, why } => {
                write!(f, "{file}: the scrub left out what stands at {position}: {why}")
            }
            Self::Unsound(file) => {
                write!(f, "{file} is damaged: the segment is read through instead")
            }
        }
    }
}

/// What a read brings at once.
#[derive(Clone, Debug)]
pub enum ReadOutcome<T> {
    /// Everything.
    Ready(T),
    /// The disk is asked; the answer is an event with this id.
    Pending(ReadId),
}

/// What a read is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Goal {
    /// Batches from an offset on.
    Batches { from: Offset, max_bytes: usize },
    /// The first batch that ends behind `from` and has a record of a time or later.
    Time { time: Millis, from: Offset },
}

/// A read under way in one segment.
pub(crate) struct Cold<M: Memory> {
    pub(crate) file: FileNumber,
    pub(crate) goal: Goal,
    below: Offset,
    /// Between index entries, and read at once, in bytes.
    stride: u64,
    walker: Walker,
    asked: (Position, usize),
    /// Where what is durable of the segment ended when it began.
    segment_end: Offset,
    end_position: Position,
    /// How often something of the segment had been repaired when it began.
    pub(crate) repairs: u32,
    found: Batches<M::Share>,
    /// Where the next frame's offset is expected: what is missing before a later one is damaged.
    expected: Offset,
    /// Behind the frame before that.
    sound: Position,
    /// Offsets that a first read did not find: only what a second one misses, too, is damaged.
    pub(crate) doubt: Option<Range<Offset>>,
    /// The greatest timestamp so far, when the walk began at the segment's start: only then may
    /// it add to the index.
    timestamps: Option<Millis>,
}

/// Names a part of a segment's file, and the end of what was durable in it before it is read: what
/// another read finds there may be older. So may what was read before a repair.
pub(crate) type WindowKey = (FileNumber, Position, usize, Offset, u32);

/// How a read goes on.
pub(crate) enum Next<S> {
    /// Read this part of the segment's file.
    Read(Position, usize),
    /// Batches were found.
    Batches(Batches<S>),
    /// The batch of that time begins here.
    Time(Offset),
    /// These offsets cannot be read; they should stand in these bytes.
    Damaged(Range<Offset>, Range<Position>),
    /// A frame of an unknown version stands there.
    Unknown(u8),
    /// The segment holds nothing (more) that was asked for.
    Nothing,
}

/// Where a segment's readable part lies: what is durable of it.
pub(crate) struct Extent {
    pub(crate) file: FileNumber,
    pub(crate) base: Offset,
    pub(crate) end: Offset,
    pub(crate) end_position: Position,
    /// The greatest timestamp of the log before the segment.
    pub(crate) max_timestamp_before: Millis,
    /// How often something of it was repaired.
    pub(crate) repairs: u32,
}

impl<M: Memory> Cold<M> {
    pub(crate) fn new(
        uid: PartitionUid,
        extent: &Extent,
        index: &Index,
        goal: Goal,
        below: Offset,
        stride: u64,
    ) -> Self {
        let hint = match goal {
            Goal::Batches { from, .. } => index.at_or_before(from),
            Goal::Time { time, .. } => index.before_time(time),
        };
        let first = (extent.base, Position::new(BLOCK_BYTES as u64));
        let (offset, position) = hint.unwrap_or(first);
        let seed = FrameSeed { uid, file: extent.file };
        let from = match goal {
            Goal::Batches { from, .. } => from,
            Goal::Time { from, .. } => from,
        };
        Self {
            file: extent.file,
            goal,
            below,
            stride,
            walker: Walker::new(seed, position, extent.end_position, offset),
            asked: (Position::ZERO, 0),
            segment_end: extent.end,
            end_position: extent.end_position,
            repairs: extent.repairs,
            found: Batches::empty(from),
            expected: offset,
            sound: position,
            doubt: None,
            timestamps: (offset == extent.base).then_some(extent.max_timestamp_before),
        }
    }

    /// The first window to read.
    pub(crate) fn begin(&mut self) -> (Position, usize) {
        let wish = match self.goal {
            Goal::Batches { max_bytes, .. } => max_bytes,
            Goal::Time { .. } => 0,
        };
        self.window(self.walker.position(), wish + self.window_bytes())
    }

    fn window(&mut self, from: Position, bytes: usize) -> (Position, usize) {
        let position = from.align_down(BLOCK_BYTES as u64);
        let lead = usize::try_from(from.get() - position.get()).expect("a block is small");
        // Memory is taken for what is there, not for what was asked for.
        let left = self.end_position.get().saturating_sub(position.get()).max(1);
        let length = (lead + bytes).min(usize::try_from(left).unwrap_or(usize::MAX));
        self.asked = (position, length.next_multiple_of(BLOCK_BYTES));
        self.asked
    }

    /// The log begins there by now: what ends before it is no time's first batch any more.
    pub(crate) fn raise_start(&mut self, start: Offset) {
        if let Goal::Time { from, .. } = &mut self.goal {
            *from = start.max(*from);
        }
    }

    /// Looks through a window that was read; notes frames in the index on the way.
    pub(crate) fn on_window(&mut self, share: &M::Share, index: &mut Index) -> Next<M::Share> {
        let (at, asked) = self.asked;
        let bytes = share.as_ref();
        if bytes.len() < asked {
            self.walker.set_file_end(at.plus(bytes.len() as u64));
        }
        let window = Window { position: at, bytes };
        loop {
            match self.walker.step(window) {
                Step::Frame { header, .. } if header.mark => {}
                Step::Frame { position, header } => {
                    let batch = window.batch(position, &header);
                    if let Some(damage) = self.missing(header.base_offset, position) {
                        return damage;
                    }
                    // The log was cut before it, within a group, or it is on its way.
                    if header.next_offset() > self.segment_end {
                        return self.at_end();
                    }
                    if let Some(before) = self.timestamps {
                        index.note(self.stride, header.base_offset, position, before);
                        self.timestamps = Some(before.max(header.max_timestamp));
                    }
                    self.expected = header.next_offset();
                    self.sound = position.plus(header.frame_bytes() as u64);
                    if header.next_offset() > self.below {
                        return self.end();
                    }
                    match self.goal {
                        Goal::Time { time, from }
                            if header.max_timestamp >= time && header.next_offset() > from =>
                        {
                            return Next::Time(header.base_offset);
                        }
                        Goal::Batches { from, max_bytes } if header.next_offset() > from => {
                            let fits = self.found.bytes + batch.len() <= max_bytes;
                            if !(fits || self.found.is_empty()) {
                                return self.end();
                            }
                            let (share, stamp) = (M::slice(share, batch), Stamp::of(&header));
                            self.found.push(share, stamp, header.next_offset());
                        }
                        _ => {}
                    }
                }
                // The next whole frame, or the end, tells how far the damage goes.
                Step::BadPayload { .. } => {}
                Step::More { .. } if !self.found.is_empty() => return self.end(),
                Step::More { from, bytes } => {
                    let (position, length) = self.window(from, bytes.max(self.window_bytes()));
                    return Next::Read(position, length);
                }
                Step::Unknown { version } if self.found.is_empty() => {
                    return Next::Unknown(version);
                }
                Step::Unknown { .. } => return self.end(),
                Step::End => return self.at_end(),
            }
        }
    }

    /// Nothing follows in the file: what should, and was asked for, is damaged.
    pub(crate) fn at_end(&mut self) -> Next<M::Share> {
        let end = self.segment_end.min(self.below);
        let missing = self.missing(end, self.end_position);
        missing.unwrap_or_else(|| self.end())
    }

    /// Damage, if offsets are missing before `next`, at `position`, that this read wanted.
    fn missing(&mut self, next: Offset, position: Position) -> Option<Next<M::Share>> {
        let next = next.min(self.segment_end);
        if next <= self.expected {
            return None;
        }
        let gap = self.expected..next;
        self.expected = next;
        // How late they are is not known, so that the index says nothing of what follows.
        self.timestamps = None;
        match self.goal {
            Goal::Batches { from, .. } if gap.end <= from => None,
            Goal::Batches { .. } if !self.found.is_empty() => Some(self.end()),
            Goal::Batches { .. } => Some(Next::Damaged(gap, self.sound..position)),
            // What a second read misses, too, has no time.
            Goal::Time { .. } if self.doubt.is_some() || planted!(TimeOfOneRead) => None,
            Goal::Time { .. } => Some(Next::Damaged(gap, self.sound..position)),
        }
    }

    fn end(&mut self) -> Next<M::Share> {
        if self.found.is_empty() {
            return Next::Nothing;
        }
        let next = self.found.next;
        Next::Batches(std::mem::replace(&mut self.found, Batches::empty(next)))
    }
}

impl<M: Memory> Cold<M> {
    fn window_bytes(&self) -> usize {
        usize::try_from(self.stride).expect("a stride is small")
    }

    pub(crate) fn below(&self) -> Offset {
        self.below
    }

    /// What it reads now.
    pub(crate) fn window_key(&self) -> WindowKey {
        let (position, length) = self.asked;
        (self.file, position, length, self.below.min(self.segment_end), self.repairs)
    }

    /// Where to go on when the segment holds nothing that was asked for.
    pub(crate) fn segment_end(&self) -> Offset {
        self.segment_end
    }
}
