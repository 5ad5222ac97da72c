//! Walking the frames of a segment file, window by window: recovery, cold reads, scrub, offline
//! tools.

use std::ops::Range;

use catena_format::{
    BatchError, BatchHeader, FRAME_HEADER_BYTES, FrameError, FrameHeader, FrameSeed, Offset,
    Position,
    frame::FRAME_MAGIC,
    limits::{BLOCK_BYTES, FRAME_ALIGNMENT},
    planted,
};

/// A stretch of a file in memory.
#[derive(Clone, Copy, Debug)]
pub struct Window<'a> {
    /// Where it begins, a multiple of 4 KiB.
    pub position: Position,
    /// Its bytes.
    pub bytes: &'a [u8],
}

impl<'a> Window<'a> {
    fn from(&self, position: Position) -> Option<&'a [u8]> {
        let at = position.get().checked_sub(self.position.get())?;
        self.bytes.get(usize::try_from(at).ok()?..).filter(|rest| !rest.is_empty())
    }

    /// Where the batch of a frame lies in the window, of which a walk over it told.
    pub(crate) fn batch(&self, position: Position, header: &FrameHeader) -> Range<usize> {
        let at = position.get() - self.position.get();
        let start = usize::try_from(at).expect("in the window") + FRAME_HEADER_BYTES;
        start..start + header.payload_length as usize
    }

    fn end(&self) -> Position {
        self.position.plus(self.bytes.len() as u64)
    }
}

/// What a walk met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A whole frame.
    Frame {
        /// Where its header begins.
        position: Position,
        /// Its header.
        header: FrameHeader,
    },
    /// A frame whose header is good and whose batch is damaged or incomplete.
    BadPayload {
        /// Where its header begins.
        position: Position,
        /// Its header.
        header: FrameHeader,
    },
    /// A frame of a version that this build does not know: nothing may be concluded about what
    /// follows, nor may anything be cut.
    Unknown {
        /// The version.
        version: u8,
    },
    /// A window is needed that begins at or before `from` and has at least `bytes` behind it, or
    /// ends where the file ends.
    More {
        /// The first byte needed.
        from: Position,
        /// How many.
        bytes: usize,
    },
    /// Nothing is left before the end.
    End,
}

/// Walks from frame to frame; where one is damaged it searches the next whole one.
#[derive(Clone, Debug)]
pub struct Walker {
    seed: FrameSeed,
    /// Where the next frame is looked for.
    position: Position,
    /// Where to stop: the segment's or the file's end.
    end: Position,
    /// The offset that the next frame has if nothing is missing.
    expected: Offset,
    /// From where a search goes on after something unreadable; `None` while frames follow each
    /// other.
    searching: Option<Position>,
    /// The last window ended where the file ends.
    file_end: Option<Position>,
    /// How often the next frame was not where it belongs.
    searches: u64,
}

impl Walker {
    /// A walk over the frames between `position` and `end` of one file.
    #[must_use]
    pub fn new(seed: FrameSeed, position: Position, end: Position, expected: Offset) -> Self {
        Self { seed, position, end, expected, searching: None, file_end: None, searches: 0 }
    }

    /// Where the frame after the last good one would begin.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// How often the next frame was not where it belongs, and was searched for.
    pub(crate) fn searches(&self) -> u64 {
        self.searches
    }

    /// Says that the file has nothing from `position` on.
    pub fn set_file_end(&mut self, position: Position) {
        self.file_end = Some(position);
        self.end = self.end.min(position);
    }

    /// The next step, looking into `window`.
    pub fn step(&mut self, window: Window<'_>) -> Step {
        if self.searching.is_none() {
            if let Some(step) = self.follow(window) {
                return step;
            }
            self.searching = Some(self.position);
            self.searches += 1;
        }
        self.search(window)
    }

    /// The frame right behind the last one, or at the next block boundary; `None`: neither.
    fn follow(&mut self, window: Window<'_>) -> Option<Step> {
        if self.position >= self.end {
            return Some(Step::End);
        }
        let block = self.position.align_up(BLOCK_BYTES as u64);
        // Where no further group can be, the rest of this one is still searched.
        for position in [self.position, block].into_iter().filter(|at| *at < self.end) {
            match self.look(window, position) {
                // The window must hold both places, or the two would ask in turns.
                Look::More(bytes) => {
                    let lead = usize::try_from(position.get() - self.position.get());
                    let bytes = bytes + lead.expect("a block is small");
                    return Some(Step::More { from: self.position, bytes });
                }
                Look::Frame(header)
                    if header.base_offset == self.expected || planted!(UnzeroedRecycled) =>
                {
                    return Some(self.take(window, position, header));
                }
                Look::Unknown(version) => return Some(Step::Unknown { version }),
                Look::Frame(_) | Look::Nothing => {}
            }
        }
        None
    }

    /// The next readable frame anywhere behind the damage.
    fn search(&mut self, window: Window<'_>) -> Step {
        let mut position = self.searching.unwrap_or(self.position);
        loop {
            if position >= self.end {
                return Step::End;
            }
            match self.look(window, position) {
                Look::More(bytes) => {
                    self.searching = Some(position);
                    return Step::More { from: position, bytes };
                }
                Look::Frame(header) if header.base_offset >= self.expected => {
                    return self.take(window, position, header);
                }
                Look::Unknown(version) => return Step::Unknown { version },
                Look::Frame(_) | Look::Nothing => position = position.plus(FRAME_ALIGNMENT as u64),
            }
        }
    }

    fn look(&self, window: Window<'_>, position: Position) -> Look {
        let cut = window.end() >= self.end;
        let Some(rest) = window.from(position) else {
            return if cut && position >= window.position {
                Look::Nothing
            } else {
                Look::More(SMALL)
            };
        };
        let starts = rest.len() >= 4 && rest[..4] == FRAME_MAGIC.to_le_bytes();
        if !starts && rest.len() >= 4 {
            return Look::Nothing;
        }
        match FrameHeader::read(rest, self.seed, position) {
            Ok(header) if rest.len() >= header.frame_bytes() || cut => Look::Frame(header),
            Ok(header) => Look::More(header.frame_bytes()),
            Err(FrameError::Truncated { needed, .. }) if !cut => Look::More(needed),
            Err(FrameError::Version(version)) => Look::Unknown(version),
            Err(_) => Look::Nothing,
        }
    }

    fn take(&mut self, window: Window<'_>, position: Position, header: FrameHeader) -> Step {
        let rest = window.from(position).unwrap_or(&[]);
        self.searching = None;
        self.position = position.plus(header.frame_bytes() as u64);
        self.expected = header.next_offset();
        if header.payload(rest).is_ok() || planted!(PayloadNotChecked) {
            Step::Frame { position, header }
        } else {
            Step::BadPayload { position, header }
        }
    }
}

/// What is wrong with a batch whose frame is where it belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The frame's CRC-32 of it does not match, or it is cut off.
    #[error("the batch does not match its frame's CRC-32")]
    Payload,
    /// See [`BatchError`].
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Both checksums hold, and they say different things.
    #[error("frame and batch do not agree on {0}")]
    Disagree(&'static str),
}

/// Checks the batch of a frame whose own checksums hold: its CRC-32C, as its producer made it, and
/// that it says the same as the frame.
///
/// # Errors
/// Says what is wrong.
pub fn check_batch(header: &FrameHeader, bytes: &[u8]) -> Result<(), Fault> {
    let batch = BatchHeader::parse(bytes)?;
    batch.verify(bytes)?;
    let agreed = [
        ("the base offset", batch.stored_offset()? == header.base_offset),
        ("the epoch", batch.stored_epoch()? == header.epoch),
        ("the last offset", batch.last_offset_delta == header.last_offset_delta),
        ("the number of records", batch.count == header.count),
        ("the greatest timestamp", batch.max_timestamp == header.max_timestamp),
    ];
    match agreed.into_iter().find(|(_, agreed)| !agreed) {
        Some((what, _)) => Err(Fault::Disagree(what)),
        None => Ok(()),
    }
}

/// Enough for a frame header and the batch prefix that its CRC covers.
const SMALL: usize = FRAME_HEADER_BYTES + 16;

enum Look {
    Frame(FrameHeader),
    Unknown(u8),
    Nothing,
    More(usize),
}
