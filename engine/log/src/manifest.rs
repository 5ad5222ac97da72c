//! The manifest: which segments make up the log. It is kept in two copies, each synced, the second
//! written only after the first is durable, so that neither a torn write nor one rotten copy loses
//! it.

use std::{collections::BTreeSet, iter, ops::Range};

use catena_format::{
    ClusterId, Epoch, FileNumber, Millis, Offset, PartitionIndex, PartitionUid, Position, TopicId,
};
use rkyv::{Archive, Deserialize, Serialize, rancor};

use crate::{
    config::{DAMAGED_RANGES_MAX, SEGMENTS_MAX},
    image::{self, ImageError, Kind},
    io::{Memory, MemoryExhausted},
};

/// No segment ends behind this.
pub(crate) const FILE_END_MAX: u64 = 1 << 40;
/// As many manifests, files, batches or records no log has had. The name of a file that nobody made
/// raises the number of the next one to [`FileNumber::MAX`] at most, which is far below.
pub(crate) const COUNTED_MAX: u64 = 1 << 62;

/// Which log this is; written into its manifest and segments and checked when they are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogIdentity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The topic.
    pub topic: TopicId,
    /// The partition within the topic.
    pub partition: PartitionIndex,
    /// The partition's name on disk.
    pub uid: PartitionUid,
}

/// A manifest of a log that was never cut: byte 8 holds nothing.
const VERSION_UNCUT: u16 = 1;
/// One that was.
pub(crate) const VERSION_CUT: u16 = 2;

/// The manifest as archived, versions 1 and 2.
#[derive(Archive, Serialize, Deserialize, Debug)]
struct ManifestV2 {
    generation: u64,
    unnamed: u64,
    cluster: u128,
    topic: u128,
    partition: u32,
    log_start: u64,
    log_end: u64,
    next_file: u64,
    fold_file: u64,
    epochs: Vec<(u32, u64)>,
    damaged: Vec<(u64, u64)>,
    segments: Vec<SegmentV1>,
}

#[derive(Archive, Serialize, Deserialize, Debug)]
struct SegmentV1 {
    file: u64,
    base: u64,
    sealed: bool,
    end: u64,
    end_position: u64,
    file_bytes: u64,
    max_timestamp: i64,
    last_append_time: i64,
}

/// A segment as the manifest knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SegmentEntry {
    pub(crate) file: FileNumber,
    pub(crate) base: Offset,
    /// All of it is durable and what follows holds; otherwise recovery scans the file.
    pub(crate) sealed: bool,
    pub(crate) end: Offset,
    pub(crate) end_position: Position,
    pub(crate) file_bytes: u64,
    /// The greatest record timestamp of the log up to here.
    pub(crate) max_timestamp: Millis,
    pub(crate) last_append_time: Millis,
}

/// The manifest in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Manifest {
    pub(crate) generation: u64,
    pub(crate) log_start: Offset,
    /// Everything below was given and durable when this was written.
    pub(crate) log_end: Offset,
    pub(crate) next_file: FileNumber,
    /// The index file, of a segment that was dropped, with the fold where the first one begins;
    /// zero when the log has dropped none.
    pub(crate) fold_file: FileNumber,
    /// A file with a lower number that is not named here is nothing: the log was cut.
    pub(crate) unnamed: FileNumber,
    pub(crate) epochs: Vec<(Epoch, Offset)>,
    pub(crate) damaged: DamagedRanges,
    pub(crate) segments: Vec<SegmentEntry>,
}

impl Manifest {
    /// The manifest of a log that has just been created.
    pub(crate) fn empty() -> Self {
        Self {
            generation: 0,
            log_start: Offset::ZERO,
            log_end: Offset::ZERO,
            next_file: FileNumber::new(1),
            fold_file: FileNumber::new(0),
            unnamed: FileNumber::new(0),
            epochs: Vec::new(),
            damaged: DamagedRanges::default(),
            segments: Vec::new(),
        }
    }

    /// The bytes of one copy.
    ///
    /// # Errors
    /// When memory is exhausted.
    pub(crate) fn write<M: Memory>(
        &self,
        identity: &LogIdentity,
        memory: &mut M,
    ) -> Result<M::Share, MemoryExhausted> {
        let archived = ManifestV2 {
            generation: self.generation,
            unnamed: self.unnamed.get(),
            cluster: identity.cluster.get(),
            topic: identity.topic.get(),
            partition: identity.partition.get(),
            log_start: self.log_start.get(),
            log_end: self.log_end.get(),
            next_file: self.next_file.get(),
            fold_file: self.fold_file.get(),
            epochs: self.epochs.iter().map(|(epoch, start)| (epoch.get(), start.get())).collect(),
            damaged: self.damaged.iter().map(|r| (r.start.get(), r.end.get())).collect(),
            segments: self.segments.iter().map(SegmentEntry::archived).collect(),
        };
        let archive = rkyv::to_bytes::<rancor::Error>(&archived)
            .expect("plain numbers and vectors can be archived");
        let cut = self.unnamed > FileNumber::new(0);
        let version = if cut { VERSION_CUT } else { VERSION_UNCUT };
        image::wrap((Kind::Manifest, version), identity.uid, &archive, memory)
    }

    /// Reads one copy.
    ///
    /// # Errors
    /// Says why there is none.
    pub(crate) fn read(bytes: &[u8], identity: &LogIdentity) -> Result<Self, ImageError> {
        let (owner, manifest) = Self::read_of(bytes, identity.uid)?;
        let ours = owner == *identity;
        if ours { Ok(manifest) } else { Err(ImageError::Foreign(identity.uid.get())) }
    }

    /// Reads one copy, of whatever topic the partition is.
    ///
    /// # Errors
    /// Says why there is none.
    pub(crate) fn read_of(
        bytes: &[u8],
        uid: PartitionUid,
    ) -> Result<(LogIdentity, Self), ImageError> {
        let archive = image::unwrap(Kind::Manifest, uid, bytes)?;
        let m = rkyv::from_bytes::<ManifestV2, rancor::Error>(&archive)
            .map_err(|_| ImageError::Damaged)?;
        let owner = LogIdentity {
            cluster: ClusterId::new(m.cluster),
            topic: TopicId::new(m.topic),
            partition: PartitionIndex::new(m.partition),
            uid,
        };
        if !m.is_sound() {
            return Err(ImageError::Damaged);
        }
        let ranges = m.damaged.iter().map(|(from, to)| Offset::new(*from)..Offset::new(*to));
        let (log_start, log_end) = (Offset::new(m.log_start), Offset::new(m.log_end));
        let segments: Vec<_> = m.segments.iter().map(SegmentEntry::from_archived).collect();
        let mut damaged: DamagedRanges =
            ranges.chain(gaps(log_start, &segments, log_end)).collect();
        damaged.trim(log_start);
        let manifest = Self {
            generation: m.generation,
            log_start,
            log_end,
            next_file: FileNumber::new(m.next_file),
            fold_file: FileNumber::new(m.fold_file),
            unnamed: FileNumber::new(m.unnamed),
            epochs: m.epochs.iter().map(|(e, o)| (Epoch::new(*e), Offset::new(*o))).collect(),
            damaged,
            segments,
        };
        Ok((owner, manifest))
    }
}

impl ManifestV2 {
    /// Whether a log can have come to this: numbers that are possible, segments in order.
    fn is_sound(&self) -> bool {
        let files: BTreeSet<u64> = self.segments.iter().map(|s| s.file).collect();
        let in_order = |before: &SegmentV1, next: &SegmentV1| {
            before.base <= next.base && (!before.sealed || before.end <= next.base)
        };
        let sound = |s: &SegmentV1| {
            let end = if s.sealed { s.end } else { s.base };
            s.base <= end && end <= Offset::MAX.get() && s.end_position <= FILE_END_MAX
        };
        self.log_start <= self.log_end
            && self.log_end <= Offset::MAX.get()
            && self.generation < COUNTED_MAX
            && self.next_file < COUNTED_MAX
            && self.unnamed <= self.next_file
            && self.segments.len() <= SEGMENTS_MAX
            && files.len() == self.segments.len()
            && files.last().is_none_or(|last| *last < self.next_file)
            && self.segments.iter().all(sound)
            && self.segments.is_sorted_by(in_order)
            && self.epochs.iter().all(|(epoch, _)| *epoch <= Epoch::MAX.get())
    }
}

/// Offsets of a log that no segment holds, up to the first that is not sealed: given, and nowhere.
pub(crate) fn gaps(
    log_start: Offset,
    segments: &[SegmentEntry],
    log_end: Offset,
) -> Vec<Range<Offset>> {
    let (mut at, mut gaps) = (log_start, Vec::new());
    let holds = |s: &SegmentEntry| s.base..if s.sealed { s.end } else { Offset::MAX };
    for held in segments.iter().map(holds).chain(iter::once(log_end..Offset::MAX)) {
        if at < held.start {
            gaps.push(at..held.start);
        }
        at = at.max(held.end);
    }
    gaps
}

/// No frame of segment `at` ends behind this offset: the next segment begins there.
pub(crate) fn end_max(segments: &[SegmentEntry], at: usize) -> Offset {
    let next = segments.get(at + 1).map_or(Offset::MAX, |next| next.base);
    if segments[at].sealed { segments[at].end } else { next }
}

impl SegmentEntry {
    fn archived(&self) -> SegmentV1 {
        SegmentV1 {
            file: self.file.get(),
            base: self.base.get(),
            sealed: self.sealed,
            end: self.end.get(),
            end_position: self.end_position.get(),
            file_bytes: self.file_bytes,
            max_timestamp: self.max_timestamp.get(),
            last_append_time: self.last_append_time.get(),
        }
    }

    fn from_archived(s: &SegmentV1) -> Self {
        Self {
            file: FileNumber::new(s.file),
            base: Offset::new(s.base),
            sealed: s.sealed,
            end: Offset::new(s.end),
            end_position: Position::new(s.end_position),
            file_bytes: s.file_bytes,
            max_timestamp: Millis::new(s.max_timestamp),
            last_append_time: Millis::new(s.last_append_time),
        }
    }
}

/// Offsets that were acknowledged and cannot be read any more: sorted, apart, bounded in number,
/// and none below the log's start, where nothing is missed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct DamagedRanges {
    start: Offset,
    ranges: Vec<Range<Offset>>,
}

impl DamagedRanges {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Range<Offset>> {
        self.ranges.iter()
    }

    /// Adds a range; what of it matters, if that was not known whole before.
    pub(crate) fn insert(&mut self, range: Range<Offset>) -> Option<Range<Offset>> {
        let range = range.start.max(self.start)..range.end;
        if range.is_empty() || self.covers(&range) {
            return None;
        }
        self.ranges.push(range.clone());
        self.ranges.sort_by_key(|r| r.start);
        self.ranges.dedup_by(|next, before| {
            let joins = next.start <= before.end;
            if joins {
                before.end = before.end.max(next.end);
            }
            joins
        });
        self.bound();
        Some(range)
    }

    fn bound(&mut self) {
        let ranges = &mut self.ranges;
        while ranges.len() > DAMAGED_RANGES_MAX {
            let nearest = (1..ranges.len())
                .min_by_key(|i| ranges[*i].start.since(ranges[*i - 1].end))
                .expect("there are several ranges");
            ranges[nearest - 1].end = ranges[nearest].end;
            ranges.remove(nearest);
        }
    }

    /// Whether all of `range` that matters is known.
    pub(crate) fn covers(&self, range: &Range<Offset>) -> bool {
        range.end <= self.start || self.holds(&(range.start.max(self.start)..range.end))
    }

    /// Whether all of `range` is known, and not merely does not matter.
    pub(crate) fn holds(&self, range: &Range<Offset>) -> bool {
        self.iter().any(|r| r.start <= range.start && range.end <= r.end)
    }

    /// The end of the range that holds `offset`.
    pub(crate) fn end_of(&self, offset: Offset) -> Option<Offset> {
        self.iter().find(|r| r.contains(&offset)).map(|r| r.end)
    }

    /// These offsets can be read again; how many of them were known to be lost.
    pub(crate) fn remove(&mut self, range: &Range<Offset>) -> u64 {
        let count =
            |ranges: &[Range<Offset>]| -> u64 { ranges.iter().map(|r| r.end.since(r.start)).sum() };
        let before = count(&self.ranges);
        let rest =
            |r: &Range<Offset>| [r.start..r.end.min(range.start), r.start.max(range.end)..r.end];
        self.ranges = self.ranges.iter().flat_map(rest).filter(|r| r.start < r.end).collect();
        let removed = before - count(&self.ranges);
        self.bound();
        removed
    }

    /// The log ends there.
    pub(crate) fn cut(&mut self, end: Offset) {
        self.ranges.retain(|r| r.start < end);
        if let Some(last) = self.ranges.last_mut() {
            last.end = last.end.min(end);
        }
    }

    /// The log starts there, or behind: what lies below does not matter.
    pub(crate) fn trim(&mut self, start: Offset) {
        self.start = self.start.max(start);
        self.ranges.retain(|r| r.end > start);
        if let Some(first) = self.ranges.first_mut() {
            first.start = first.start.max(start);
        }
    }
}

impl FromIterator<Range<Offset>> for DamagedRanges {
    fn from_iter<I: IntoIterator<Item = Range<Offset>>>(ranges: I) -> Self {
        let mut all = Self::default();
        for range in ranges {
            all.insert(range);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Heap;

    fn identity() -> LogIdentity {
        LogIdentity {
            cluster: ClusterId::new(1),
            topic: TopicId::new(2),
            partition: PartitionIndex::new(3),
            uid: PartitionUid::new(4),
        }
    }

    fn range(from: u64, to: u64) -> Range<Offset> {
        Offset::new(from)..Offset::new(to)
    }

    #[test]
    fn a_manifest_reads_back_and_belongs_to_one_log() {
        let mut manifest = Manifest { generation: 5, ..Manifest::empty() };
        manifest.next_file = FileNumber::new(2);
        manifest.epochs.push((Epoch::new(1), Offset::new(0)));
        manifest.damaged.insert(range(3, 9));
        manifest.segments.push(SegmentEntry {
            file: FileNumber::new(1),
            base: Offset::new(0),
            sealed: true,
            end: Offset::new(12),
            end_position: Position::new(8192),
            file_bytes: 12288,
            max_timestamp: Millis::new(-1),
            last_append_time: Millis::new(77),
        });
        let bytes = manifest.write(&identity(), &mut Heap).unwrap();
        assert_eq!(Manifest::read(&bytes, &identity()).unwrap(), manifest);
        let other = LogIdentity { partition: PartitionIndex::new(9), ..identity() };
        assert!(Manifest::read(&bytes, &other).is_err());
    }

    fn segment(file: u64, base: u64, end: u64) -> SegmentEntry {
        SegmentEntry {
            file: FileNumber::new(file),
            base: Offset::new(base),
            sealed: true,
            end: Offset::new(end),
            end_position: Position::new(8192),
            file_bytes: 0,
            max_timestamp: Millis::new(-1),
            last_append_time: Millis::new(-1),
        }
    }

    /// Two segments, changed, as they are read back.
    fn changed(change: fn(&mut Manifest)) -> Result<Manifest, ImageError> {
        let mut manifest = Manifest { log_end: Offset::new(20), ..Manifest::empty() };
        manifest.next_file = FileNumber::new(3);
        manifest.segments = vec![segment(1, 0, 10), segment(2, 10, 20)];
        change(&mut manifest);
        Manifest::read(&manifest.write(&identity(), &mut Heap).unwrap(), &identity())
    }

    #[test]
    fn a_manifest_that_no_log_makes_is_damaged() {
        assert!(changed(|_| {}).is_ok());
        // What is not sealed has no end yet, and may lie above what is durable.
        let active = changed(|m| {
            let end = Offset::ZERO;
            m.segments[1] = SegmentEntry { sealed: false, end, ..segment(2, 30, 0) };
        });
        assert!(active.is_ok());
        let refused = |change| changed(change).err() == Some(ImageError::Damaged);
        assert!(refused(|m| m.generation = u64::MAX));
        assert!(refused(|m| m.log_start = Offset::new(21)));
        assert!(refused(|m| m.log_end = Offset::new(u64::MAX)));
        assert!(refused(|m| m.next_file = FileNumber::new(2)));
        assert!(refused(|m| m.segments[1].file = FileNumber::new(1)));
        assert!(refused(|m| m.segments[1].base = Offset::new(9)));
        assert!(refused(|m| m.segments[1].end = Offset::new(9)));
        assert!(refused(|m| m.segments[1].end = Offset::new(u64::MAX)));
        assert!(refused(|m| m.segments[1].end_position = Position::new(u64::MAX)));
        assert!(refused(|m| m.segments.swap(0, 1)));
    }

    #[test]
    fn what_lies_between_segments_is_damaged() {
        let read = changed(|m| m.segments[1] = segment(2, 15, 20)).unwrap();
        assert_eq!(read.damaged.iter().cloned().collect::<Vec<_>>(), [range(10, 15)]);
        let empty = changed(|m| {
            m.segments.remove(0);
            m.segments[0].base = Offset::new(15);
            m.log_end = Offset::new(30);
        });
        let empty: Vec<_> = empty.unwrap().damaged.iter().cloned().collect();
        assert_eq!(empty, [range(0, 15), range(20, 30)]);
        let trimmed = changed(|m| {
            m.segments[1] = segment(2, 15, 20);
            m.log_start = Offset::new(15);
        });
        assert_eq!(trimmed.unwrap().damaged.iter().count(), 0);
    }

    #[test]
    fn damaged_ranges_join() {
        let mut ranges = DamagedRanges::default();
        assert!(ranges.insert(range(10, 20)).is_some());
        assert!(ranges.insert(range(30, 40)).is_some());
        assert!(ranges.insert(range(12, 20)).is_none());
        assert!(ranges.insert(range(20, 30)).is_some());
        assert_eq!(ranges.iter().cloned().collect::<Vec<_>>(), [range(10, 40)]);
        assert_eq!(ranges.end_of(Offset::new(39)), Some(Offset::new(40)));
        assert_eq!(ranges.end_of(Offset::new(40)), None);
        assert!(ranges.insert(range(5, 5)).is_none());
    }

    #[test]
    fn what_is_damaged_below_the_start_does_not_matter() {
        let mut ranges: DamagedRanges = [range(10, 20), range(30, 40)].into_iter().collect();
        ranges.trim(Offset::new(35));
        assert_eq!(ranges.iter().cloned().collect::<Vec<_>>(), [range(35, 40)]);
        assert!(ranges.covers(&range(10, 40)) && !ranges.covers(&range(10, 41)));
        assert_eq!(ranges.insert(range(20, 35)), None);
        assert_eq!(ranges.insert(range(20, 45)), Some(range(35, 45)));
        assert_eq!(ranges.iter().cloned().collect::<Vec<_>>(), [range(35, 45)]);
    }

    #[test]
    fn what_is_repaired_is_not_damaged_any_more() {
        let all = || DamagedRanges::from_iter([range(10, 20), range(30, 40), range(50, 60)]);
        let without = |from, to| {
            let mut ranges = all();
            let removed = ranges.remove(&range(from, to));
            (removed, ranges.ranges)
        };
        assert_eq!(without(0, 10), (0, all().ranges));
        assert_eq!(without(20, 30), (0, all().ranges));
        assert_eq!(without(30, 40), (10, vec![range(10, 20), range(50, 60)]));
        let split = vec![range(10, 20), range(30, 32), range(35, 40), range(50, 60)];
        assert_eq!(without(32, 35), (3, split));
        assert_eq!(without(8, 55), (25, vec![range(55, 60)]));
    }

    #[test]
    fn damaged_ranges_are_bounded() {
        let ranges: DamagedRanges =
            (0..3000).map(|i| range(i * 10, i * 10 + 2 + u64::from(i < 3))).collect();
        assert_eq!(ranges.iter().count(), DAMAGED_RANGES_MAX);
        assert!((0..3000).all(|i| ranges.end_of(Offset::new(i * 10)).is_some()));
    }
}
