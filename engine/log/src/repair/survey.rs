//! Looking for the place of what is lost: which bytes lie between the whole frames around it, and
//! what of it is whole after all.

use std::{collections::BTreeMap, ops::Range};

use catena_format::{FrameHeader, FrameSeed, Offset, Position, limits::BLOCK_BYTES};

use super::offer::Piece;
use crate::{
    scrub::SCRUB_BYTES,
    walk::{Step, Walker, Window, check_batch},
};

/// Behind each frame there may have been padding to the next block, and a mark.
const SLACK_BYTES: u64 = 2 * BLOCK_BYTES as u64;

/// A walk over a part of a segment.
pub(super) struct Survey {
    /// Where what is durable of the segment ends.
    end: Offset,
    end_position: Position,
    walker: Walker,
    /// The next whole frame's offset if nothing is missing.
    expected: Offset,
    /// Behind the last whole frame.
    sound: Position,
    /// Where frames stand whose header is whole.
    hints: BTreeMap<Offset, (Position, u32)>,
    /// Offsets that are missing before what is to be repaired.
    early: Vec<(Range<Offset>, Range<Position>)>,
    asked: (Position, usize),
}

/// What is to be written back, and how far.
pub(super) struct Wanted<'a> {
    /// All that was handed over.
    pub(super) pieces: &'a [Piece],
    /// The bytes that one go takes at most, if there is more than one batch.
    pub(super) bytes: u64,
    /// Behind the last batch nothing is damaged.
    pub(super) to_end: bool,
}

/// Bytes in which no whole frame stands, but for such as come before what is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Gap {
    /// How many of the wanted batches stand whole before it.
    pub(super) whole: usize,
    /// The offsets that belong there; where they end is known only with `ends`.
    pub(super) offsets: Range<Offset>,
    /// The bytes.
    pub(super) positions: Range<Position>,
    /// The next whole frame, or the segment's end, follows.
    pub(super) ends: bool,
    /// Offsets that are missing before it.
    pub(super) early: Vec<(Range<Offset>, Range<Position>)>,
    /// Where frames stood whose headers are whole, and with how long a batch.
    pub(super) hints: BTreeMap<Offset, (Position, u32)>,
}

/// What a window brought.
pub(super) enum Seen {
    /// This is to be read next.
    More,
    Gap(Gap),
    /// Another batch than the one that was offered.
    Other(Offset),
    /// A frame of a version that this build does not know.
    Unknown(u8),
}

impl Survey {
    /// A walk over a segment from a frame with the offset `expected` at `position` on, up to where
    /// what is durable of it ends.
    pub(super) fn new(
        seed: FrameSeed,
        (end, end_position): (Offset, Position),
        expected: Offset,
        position: Position,
    ) -> Self {
        let mut survey = Self {
            end,
            end_position,
            walker: Walker::new(seed, position, end_position, expected),
            expected,
            sound: position,
            hints: BTreeMap::new(),
            early: Vec::new(),
            asked: (Position::ZERO, 0),
        };
        survey.ask_for(position, 0);
        survey
    }

    /// What is to be read.
    pub(super) fn asked(&self) -> (Position, usize) {
        self.asked
    }

    fn ask_for(&mut self, from: Position, bytes: usize) {
        let position = from.align_down(BLOCK_BYTES as u64);
        let lead = usize::try_from(from.get() - position.get()).expect("a block is small");
        let left = self.end_position.get().saturating_sub(position.get()).max(1);
        let wish = (lead + bytes).max(SCRUB_BYTES);
        let length = wish.min(usize::try_from(left).unwrap_or(usize::MAX));
        self.asked = (position, length.next_multiple_of(BLOCK_BYTES));
    }

    /// Looks through the window that was asked for; `whole` of the batches were found before.
    pub(super) fn on_window(
        &mut self,
        bytes: &[u8],
        wanted: &Wanted<'_>,
        whole: &mut usize,
    ) -> Seen {
        let (at, asked) = self.asked;
        if bytes.len() < asked {
            self.walker.set_file_end(at.plus(bytes.len() as u64));
        }
        let window = Window { position: at, bytes };
        loop {
            match self.walker.step(window) {
                Step::Frame { position, header } => {
                    let batch = &bytes[window.batch(position, &header)];
                    if let Some(seen) = self.on_frame(position, &header, batch, wanted, whole) {
                        return seen;
                    }
                }
                Step::BadPayload { position, header } => {
                    self.hints.insert(header.base_offset, (position, header.payload_length));
                }
                Step::More { from, bytes } => {
                    if from >= self.sound.plus(reach(wanted, *whole)) {
                        return Seen::Gap(self.gap(*whole, self.expected, from, false));
                    }
                    self.ask_for(from, bytes);
                    return Seen::More;
                }
                Step::Unknown { version } => return Seen::Unknown(version),
                Step::End => {
                    return Seen::Gap(self.gap(*whole, self.end, self.end_position, true));
                }
            }
        }
    }

    fn on_frame(
        &mut self,
        position: Position,
        header: &FrameHeader,
        batch: &[u8],
        wanted: &Wanted<'_>,
        whole: &mut usize,
    ) -> Option<Seen> {
        let (base, next) = (header.base_offset, header.next_offset());
        // The log was cut before it, or it is on its way.
        if next > self.end {
            return None;
        }
        if !header.mark && check_batch(header, batch).is_err() {
            self.hints.insert(base, (position, header.payload_length));
            return None;
        }
        let piece = wanted.pieces.get(*whole);
        let begins = piece.map_or(self.expected, Piece::base);
        if base > begins || (piece.is_none() && base == begins && !header.mark) {
            return Some(Seen::Gap(self.gap(*whole, base, position, true)));
        }
        if self.expected < base {
            self.early.push((self.expected..base, self.sound..position));
        }
        if !header.mark && next > begins {
            if !piece.is_some_and(|piece| piece.is_in(header)) {
                return Some(Seen::Other(base));
            }
            *whole += 1;
        }
        self.expected = self.expected.max(next);
        self.sound = position.plus(header.frame_bytes() as u64);
        self.hints.clear();
        let through = *whole == wanted.pieces.len() && !wanted.to_end;
        through.then(|| Seen::Gap(self.gap(*whole, self.expected, self.sound, false)))
    }

    fn gap(&mut self, whole: usize, next: Offset, position: Position, ends: bool) -> Gap {
        Gap {
            whole,
            offsets: self.expected..next.max(self.expected),
            positions: self.sound..position.max(self.sound),
            ends,
            early: std::mem::take(&mut self.early),
            hints: std::mem::take(&mut self.hints),
        }
    }
}

/// How far behind the last whole frame the batches of one go may have stood. To the gap's end, if
/// these fill it.
fn reach(wanted: &Wanted<'_>, whole: usize) -> u64 {
    let mut bytes = SLACK_BYTES;
    for (at, piece) in wanted.pieces[whole..].iter().enumerate() {
        if at > 0 && bytes > wanted.bytes {
            return bytes;
        }
        bytes += piece.header.frame_bytes() as u64 + SLACK_BYTES;
    }
    if wanted.to_end { u64::MAX / 2 } else { bytes }
}
