//! The sparse index of a segment: offset and timestamp to position. It is a hint: wrong or missing,
//! reads walk the segment and rebuild it as they go.

use std::ops::Range;

use catena_format::{FileNumber, Millis, Offset, PartitionUid, Position, planted};
use rkyv::{Archive, Deserialize, Serialize, rancor};

use crate::{
    image::{self, ImageError, Kind},
    io::{Memory, MemoryExhausted},
    manifest::{COUNTED_MAX, FILE_END_MAX, SegmentEntry},
};

/// Of index files.
pub(crate) const VERSION: u16 = 1;

/// A frame's place, and a timestamp that none of the segment's before it exceeds.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    offset: u64,
    position: u64,
    max_timestamp_before: i64,
}

/// Entries sorted by offset and position.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Index {
    entries: Vec<Entry>,
}

/// What the index file of a segment holds, version 1.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
struct ImageV1 {
    file: u64,
    base: u64,
    end: u64,
    end_position: u64,
    max_timestamp: i64,
    last_append_time: i64,
    batches: u64,
    records: u64,
    entries: Vec<Entry>,
    fold: Vec<u8>,
}

impl ImageV1 {
    /// Whether a segment can have come to this: numbers that are possible, entries in order.
    fn is_sound(&self) -> bool {
        let rises = |a: &Entry, b: &Entry| a.offset < b.offset && a.position < b.position;
        self.entries.is_sorted_by(rises)
            && self.entries.last().is_none_or(|last| last.position <= FILE_END_MAX)
            && self.base <= self.end
            && self.end <= Offset::MAX.get()
            && self.end_position <= FILE_END_MAX
            && self.batches < COUNTED_MAX
            && self.records < COUNTED_MAX
    }
}

/// How far a segment has come, with the running figures of the log at that place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Progress {
    pub(crate) end: Offset,
    pub(crate) end_position: Position,
    pub(crate) max_timestamp: Millis,
    pub(crate) last_append_time: Millis,
    pub(crate) batches: u64,
    pub(crate) records: u64,
}

/// An index file, read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct IndexImage {
    pub(crate) file: FileNumber,
    pub(crate) base: Offset,
    pub(crate) progress: Progress,
    pub(crate) index: Index,
    pub(crate) fold: Vec<u8>,
}

impl IndexImage {
    /// Whether it is of this segment, and of all of it once that is sealed.
    pub(crate) fn covers(&self, segment: &SegmentEntry) -> bool {
        let Progress { end, end_position, .. } = self.progress;
        (self.file, self.base) == (segment.file, segment.base)
            && (!segment.sealed || (end, end_position) == (segment.end, segment.end_position))
    }
}

impl Index {
    /// Notes a frame, if it is `stride` bytes from its neighbours and so worth an entry.
    pub(crate) fn note(&mut self, stride: u64, offset: Offset, position: Position, before: Millis) {
        let at = self.entries.partition_point(|e| e.offset < offset.get());
        let least = at.checked_sub(1).map(|at| self.entries[at].max_timestamp_before);
        let entry = Entry {
            offset: offset.get(),
            position: position.get(),
            max_timestamp_before: least.unwrap_or(i64::MIN).max(before.get()),
        };
        let far = |other: &Entry| other.position.abs_diff(entry.position) >= stride;
        let far_before = at == 0 || far(&self.entries[at - 1]);
        let far_behind = self.entries.get(at).is_none_or(|e| e.offset != entry.offset && far(e));
        if far_before && far_behind {
            self.entries.insert(at, entry);
        }
    }

    /// The last known frame at or before `offset`.
    pub(crate) fn at_or_before(&self, offset: Offset) -> Option<(Offset, Position)> {
        let at = self.entries.partition_point(|e| e.offset <= offset.get());
        let at = at + usize::from(planted!(IndexOffByOne));
        self.entries.get(at.checked_sub(1)?).map(Entry::place)
    }

    /// The first known frame at or behind `offset`.
    pub(crate) fn at_or_behind(&self, offset: Offset) -> Option<(Offset, Position)> {
        let at = self.entries.partition_point(|e| e.offset < offset.get());
        self.entries.get(at).map(Entry::place)
    }

    /// Forgets of these offsets what is not among their `places`.
    pub(crate) fn agree(&mut self, offsets: &Range<Offset>, places: &[(Offset, Position)]) {
        self.entries.retain(|entry| {
            let place = entry.place();
            !offsets.contains(&place.0) || places.contains(&place)
        });
    }

    /// Batches that begin there are back, with records that late; they come in order.
    pub(crate) fn raise(&mut self, batches: impl Iterator<Item = (Offset, Millis)>) {
        let (mut batches, mut latest) = (batches.peekable(), i64::MIN);
        for entry in &mut self.entries {
            while let Some((_, time)) = batches.next_if(|(base, _)| base.get() < entry.offset) {
                latest = latest.max(time.get());
            }
            entry.max_timestamp_before = entry.max_timestamp_before.max(latest);
        }
    }

    /// How late what stands before each frame is nobody knows.
    fn forget_times(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.max_timestamp_before = i64::MAX);
    }

    /// The last known frame before which no record has a timestamp of `time` or later.
    pub(crate) fn before_time(&self, time: Millis) -> Option<(Offset, Position)> {
        let at = self.entries.partition_point(|e| e.max_timestamp_before < time.get());
        self.entries.get(at.checked_sub(1)?).map(Entry::place)
    }

    /// Bytes of memory, about.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
    }
}

impl Entry {
    fn place(&self) -> (Offset, Position) {
        (Offset::new(self.offset), Position::new(self.position))
    }
}

/// The bytes of an index file.
///
/// # Errors
/// When memory is exhausted.
pub(crate) fn write_image<M: Memory>(
    uid: PartitionUid,
    file: FileNumber,
    base: Offset,
    progress: &Progress,
    index: &Index,
    fold: Vec<u8>,
    memory: &mut M,
) -> Result<M::Share, MemoryExhausted> {
    let archived = ImageV1 {
        file: file.get(),
        base: base.get(),
        end: progress.end.get(),
        end_position: progress.end_position.get(),
        max_timestamp: progress.max_timestamp.get(),
        last_append_time: progress.last_append_time.get(),
        batches: progress.batches,
        records: progress.records,
        entries: index.entries.clone(),
        fold,
    };
    let archive = rkyv::to_bytes::<rancor::Error>(&archived)
        .expect("plain numbers and vectors can be archived");
    image::wrap((Kind::Index, VERSION), uid, &archive, memory)
}

/// Reads an index file.
///
/// # Errors
/// Says why it is none.
pub(crate) fn read_image(uid: PartitionUid, bytes: &[u8]) -> Result<IndexImage, ImageError> {
    let archive = image::unwrap(Kind::Index, uid, bytes)?;
    let image =
        rkyv::from_bytes::<ImageV1, rancor::Error>(&archive).map_err(|_| ImageError::Damaged)?;
    if !image.is_sound() {
        return Err(ImageError::Damaged);
    }
    let mut index = Index { entries: image.entries };
    // It was made while some of them were lost, which may be there again.
    if image.records < image.end - image.base {
        index.forget_times();
    }
    Ok(IndexImage {
        file: FileNumber::new(image.file),
        base: Offset::new(image.base),
        progress: Progress {
            end: Offset::new(image.end),
            end_position: Position::new(image.end_position),
            max_timestamp: Millis::new(image.max_timestamp),
            last_append_time: Millis::new(image.last_append_time),
            batches: image.batches,
            records: image.records,
        },
        index,
        fold: image.fold,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Heap;

    const STRIDE: u64 = crate::config::INDEX_STRIDE_DEFAULT;

    fn index() -> Index {
        let mut index = Index::default();
        for i in 0..100u64 {
            let before = Millis::new(i64::try_from(i).unwrap() * 10 - 10);
            index.note(STRIDE, Offset::new(i * 5), Position::new(4096 + i * 8192), before);
        }
        index
    }

    #[test]
    fn one_entry_a_stride() {
        assert_eq!(index().entries.len(), 25);
        for (stride, entries) in [(4096, 100), (16 << 10, 50), (1 << 20, 1)] {
            let mut index = Index::default();
            for i in 0..100u64 {
                let at = Position::new(4096 + i * 8192);
                index.note(stride, Offset::new(i), at, Millis::new(0));
            }
            assert_eq!(index.entries.len(), entries, "{stride}");
        }
    }

    #[test]
    fn lookups_start_at_or_before() {
        let index = index();
        assert_eq!(index.at_or_before(Offset::new(0)).unwrap().0, Offset::new(0));
        assert_eq!(index.at_or_before(Offset::new(39)).unwrap().0, Offset::new(20));
        assert_eq!(index.at_or_before(Offset::new(40)).unwrap().0, Offset::new(40));
        assert_eq!(index.before_time(Millis::new(-11)), None);
        // Frame 4 starts at offset 20 and 30 is the greatest timestamp before it.
        assert_eq!(index.before_time(Millis::new(30)).unwrap().0, Offset::new(0));
        assert_eq!(index.before_time(Millis::new(31)).unwrap().0, Offset::new(20));
    }

    #[test]
    fn entries_found_late_keep_the_order() {
        let mut late = Index::default();
        for i in [90u64, 10, 50, 30, 10] {
            late.note(STRIDE, Offset::new(i), Position::new(i * 40_960), Millis::new(0));
        }
        assert!(late.entries.is_sorted_by_key(|e| e.offset));
        assert_eq!(late.entries.len(), 4);
    }

    #[test]
    fn what_does_not_agree_with_a_repair_is_forgotten() {
        let mut index = index();
        let (kept, moved) = (index.entries[4].place(), index.entries[5].place());
        let elsewhere = (moved.0, Position::new(moved.1.get() - 16));
        let offsets = Offset::new(75)..Offset::new(121);
        index.agree(&offsets, &[kept, elsewhere]);
        let left: Vec<_> = index.entries.iter().map(|e| e.offset).collect();
        assert_eq!(left[3..6], [60, 80, 140]);
        assert_eq!(index.at_or_behind(Offset::new(81)).unwrap().0, Offset::new(140));
        assert_eq!(index.at_or_behind(kept.0), Some(kept));
    }

    const PROGRESS: Progress = Progress {
        end: Offset::new(500),
        end_position: Position::new(900_000),
        max_timestamp: Millis::new(5),
        last_append_time: Millis::new(6),
        batches: 7,
        records: 500,
    };

    fn read_back(progress: Progress, index: &Index) -> Result<IndexImage, ImageError> {
        let (uid, file, base) = (PartitionUid::new(1), FileNumber::new(2), Offset::new(0));
        let image = write_image(uid, file, base, &progress, index, vec![1, 2], &mut Heap);
        read_image(uid, &image.unwrap())
    }

    #[test]
    fn an_image_reads_back() {
        let read = read_back(PROGRESS, &index()).unwrap();
        assert_eq!(read.file, FileNumber::new(2));
        assert_eq!((read.progress, read.fold), (PROGRESS, vec![1, 2]));
        assert_eq!(read.index, index());
    }

    #[test]
    fn an_image_of_which_records_were_lost_says_nothing_of_times() {
        let read = read_back(Progress { records: 499, ..PROGRESS }, &index()).unwrap().index;
        assert_eq!(read.before_time(Millis::new(5_000)), None);
        assert_eq!(read.at_or_before(Offset::new(39)), index().at_or_before(Offset::new(39)));
    }

    #[test]
    fn what_is_late_and_was_lost_is_not_passed_by() {
        let mut index = index();
        let at = |index: &Index, time| index.before_time(Millis::new(time)).unwrap().0;
        assert_eq!(at(&index, 400), Offset::new(200));
        let back = [(Offset::new(45), Millis::new(300)), (Offset::new(60), Millis::new(500))];
        index.raise(back.into_iter());
        assert!(index.entries.is_sorted_by_key(|e| e.max_timestamp_before));
        // The frames at 60 and before it come before what is that late.
        let found: Vec<_> = [300, 301, 500, 501].map(|time| at(&index, time).get()).into();
        assert_eq!(found, [40, 60, 60, 240]);
    }

    #[test]
    fn an_image_that_no_segment_makes_is_damaged() {
        let far = Position::new(u64::MAX);
        let mut late = Index::default();
        late.note(STRIDE, Offset::new(1), far, Millis::new(0));
        let mut disordered = index();
        disordered.entries.swap(3, 4);
        for index in [late, disordered] {
            assert_eq!(read_back(PROGRESS, &index), Err(ImageError::Damaged));
        }
        for progress in [
            Progress { end_position: far, ..PROGRESS },
            Progress { end: Offset::new(u64::MAX), ..PROGRESS },
            Progress { batches: u64::MAX, ..PROGRESS },
            Progress { records: u64::MAX, ..PROGRESS },
        ] {
            assert_eq!(read_back(progress, &index()), Err(ImageError::Damaged));
        }
    }
}
