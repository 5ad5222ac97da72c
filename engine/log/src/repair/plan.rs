//! Where lost batches go: each where the index, or what is left of its frame, says that it stood,
//! or else right behind the one before. They stood there with as much room or more, so that all of
//! them fit before the next whole frame.

use std::ops::Range;

use catena_format::{FRAME_HEADER_BYTES, FrameHeader, FrameSeed, Position, limits::BLOCK_BYTES};

use super::{RepairError, offer::Piece, survey::Gap};
use crate::{index::Index, walk::check_batch};

const BLOCK: u64 = BLOCK_BYTES as u64;
/// How many zeros are written at once.
const ZEROS_BYTES: u64 = 256 << 10;

/// What is written in one go.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Plan {
    /// The batches, by number, and where their frames begin.
    pub(super) places: Vec<(usize, Position)>,
    /// Bytes in which nothing else stands; around them all stays.
    pub(super) own: Range<Position>,
    /// The blocks that are written.
    pub(super) blocks: Range<Position>,
    /// Of these the first, in which the frames stand.
    frames_end: Position,
    /// Up to there nothing whole stands.
    free_end: Position,
}

impl Plan {
    /// Places the batches that come behind the whole ones, as many as stand in the gap and, if
    /// there are several, in `bytes`.
    ///
    /// # Errors
    /// The first of them does not fit.
    pub(super) fn new(
        gap: &Gap,
        pieces: &[Piece],
        indexes: [Option<&Index>; 2],
        bytes: u64,
    ) -> Result<Self, RepairError> {
        let (mut cursor, limit) = (gap.positions.start, gap.positions.end);
        let mut places: Vec<(usize, Position)> = Vec::new();
        for (at, piece) in pieces.iter().enumerate().skip(gap.whole) {
            if gap.ends && piece.base() >= gap.offsets.end {
                break;
            }
            let place = place(piece, cursor, limit, gap, indexes);
            let begin = places.first().map_or(place.unwrap_or(cursor), |(_, first)| *first);
            let Some(place) = place else {
                if places.is_empty() {
                    return Err(RepairError::NoRoom(piece.base()));
                }
                break;
            };
            let end = place.plus(piece.header.frame_bytes() as u64);
            let length = end.align_up(BLOCK).get() - begin.align_down(BLOCK).get();
            if length > bytes && !places.is_empty() {
                break;
            }
            places.push((at, place));
            cursor = end;
        }
        Ok(Self::around(gap, pieces, places, cursor))
    }

    /// The blocks around the frames, which end at `end`; if they complete the gap, all that is left
    /// of it goes with them.
    fn around(gap: &Gap, pieces: &[Piece], places: Vec<(usize, Position)>, end: Position) -> Self {
        let next = places.last().map_or(gap.offsets.start, |(at, _)| pieces[*at].next());
        let complete = gap.ends && next >= gap.offsets.end;
        let own_end = if complete { gap.positions.end } else { end };
        let own = gap.positions.start..own_end;
        let first = match places.first() {
            Some((_, first)) => first.align_down(BLOCK),
            // Behind a whole frame only what is left of others is cleared away.
            None => own.start.align_up(BLOCK),
        };
        let blocks = first..own_end.align_up(BLOCK).max(first);
        let frames_end = if places.is_empty() { first } else { end.align_up(BLOCK) };
        Self { places, own, blocks, frames_end, free_end: gap.positions.end }
    }

    /// The blocks in which something else stands, too: the first and the last, or one, or none.
    pub(super) fn edges(&self) -> Vec<Position> {
        if self.blocks.is_empty() {
            return Vec::new();
        }
        let head = (self.blocks.start < self.own.start).then_some(self.blocks.start);
        let last = Position::new(self.blocks.end.get() - BLOCK);
        let tail = (self.own.end < self.blocks.end && head != Some(last)).then_some(last);
        head.into_iter().chain(tail).collect()
    }

    /// Whether nothing whole stands in a block.
    pub(super) fn is_free(&self, block: Position) -> bool {
        block >= self.own.start && block.plus(BLOCK) <= self.free_end
    }

    /// The bytes that are written together from `at` on.
    pub(super) fn stretch(&self, at: Position) -> usize {
        let end = if at < self.frames_end {
            self.frames_end
        } else {
            self.blocks.end.min(at.plus(ZEROS_BYTES))
        };
        usize::try_from(end.get() - at.get()).expect("a stretch is small")
    }

    /// The blocks in which the frames stand.
    pub(super) fn frames(&self) -> Range<Position> {
        self.blocks.start..self.frames_end
    }

    /// Fills `image`, the bytes from `at` on: frames, zeros, and around these what stands in the
    /// `edges`.
    pub(super) fn fill(
        &self,
        image: &mut [u8],
        at: Position,
        seed: FrameSeed,
        (pieces, payload): (&[Piece], &[u8]),
        edges: &[(Position, Box<[u8]>)],
    ) {
        image.fill(0);
        let length = image.len();
        let offset = |position: Position| {
            let within = position.get().saturating_sub(at.get());
            usize::try_from(within).unwrap_or(usize::MAX).min(length)
        };
        let ours = offset(self.own.start)..offset(self.own.end);
        let places = self.places.iter().filter(|_| at < self.frames_end);
        let places: Vec<_> = places.map(|(piece, place)| (*piece, offset(*place))).collect();
        for (position, bytes) in edges {
            if *position < at {
                continue;
            }
            let start = offset(*position);
            let end = (start + BLOCK_BYTES).min(length);
            for byte in (start..end).filter(|byte| !ours.contains(byte)) {
                image[byte] = bytes[byte - start];
            }
        }
        for (piece, start) in places {
            let Piece { header, at: batch } = &pieces[piece];
            let frame = &mut image[start..];
            frame[FRAME_HEADER_BYTES..][..batch.len()].copy_from_slice(&payload[batch.clone()]);
            header.write(frame, seed, at.plus(start as u64));
        }
    }

    /// Whether all frames are whole in `bytes`, which were read from `at` on.
    pub(super) fn is_in(
        &self,
        bytes: &[u8],
        at: Position,
        seed: FrameSeed,
        pieces: &[Piece],
    ) -> bool {
        self.places.iter().all(|(piece, place)| {
            let start = usize::try_from(place.get() - at.get()).expect("the frames are few");
            let frame = bytes.get(start..).unwrap_or(&[]);
            let Ok(header) = FrameHeader::read(frame, seed, *place) else { return false };
            let whole = |batch| check_batch(&header, batch).is_ok();
            header == pieces[*piece].header && header.payload(frame).is_ok_and(whole)
        })
    }
}

/// Where a batch goes, at `cursor` or behind and before `limit`; `None`: it does not fit.
fn place(
    piece: &Piece,
    cursor: Position,
    limit: Position,
    gap: &Gap,
    indexes: [Option<&Index>; 2],
) -> Option<Position> {
    let bytes = piece.header.frame_bytes() as u64;
    let known = indexes.into_iter().flatten().filter_map(|index| index.at_or_behind(piece.base()));
    let (mut fixed, mut limit) = (None::<Position>, limit);
    for (offset, position) in known {
        if offset == piece.base() {
            fixed = fixed.or(Some(position));
        } else {
            limit = limit.min(position);
        }
        // What the index says of other batches does not agree with this one.
        if offset > piece.base() && offset < piece.next() {
            return None;
        }
    }
    let fits = |at: &Position| *at >= cursor && at.plus(bytes) <= limit;
    if fixed.is_some() {
        return fixed.filter(fits);
    }
    let length = piece.header.payload_length;
    let hint = gap.hints.get(&piece.base()).filter(|(_, stood)| *stood == length);
    let hint = hint.map(|(position, _)| *position).filter(fits);
    hint.or_else(|| Some(cursor).filter(fits))
}
