//! What the node says of its disk, held against what befell that; and rot that nobody reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use catena_format::{FrameSeed, Offset, PartitionUid, Position, SegmentHeader};
use catena_log::{
    Finding, OpenError, ReadError,
    io::{FileName, IoError, Slot},
    walk::{Step, Walker, Window},
};
use catena_node::{Node, Notice};
use catena_replication::{Phase, Replica};

use super::{Machine, Purse, STUCK_NS, World};
use crate::sim::{deeds::Deed, disk::SECTOR_BYTES, random::Random};

/// Bits that turn in the cold segments of a partition.
const ROTTEN_BITS: u64 = 3;

/// What partitions know to be lost.
pub(super) type Lost = BTreeMap<PartitionUid, Vec<Range<Offset>>>;

/// What a manifest says, read by what the documentation tells of its bytes.
struct Named {
    log_start: u64,
    fold_file: u64,
    /// The last segment that it names.
    last_file: u64,
}

impl Named {
    fn read(image: &[u8]) -> Option<Self> {
        let number = |at: usize| {
            let bytes = image.get(at..at + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
        };
        let archive_end = 32 + usize::try_from(number(16)?).ok()?;
        let root = archive_end.checked_sub(112)?;
        // A vector: how far its elements are from here, an i32, and how many.
        let vector = number(root + 104)?;
        let (distance, count) = (vector as u32 as i32, (vector >> 32) as usize);
        let segments = (root + 104).checked_add_signed(distance as isize)?;
        let last = count.checked_sub(1).map(|last| number(segments + 64 * last));
        Some(Self {
            log_start: number(root + 56)?,
            fold_file: number(root + 80)?,
            last_file: last.unwrap_or(Some(0))?,
        })
    }
}

impl Machine {
    /// Takes note of what the node says, if it is about its disk.
    pub(super) fn heed(&mut self, notice: Notice) -> Option<Deed> {
        let (log, finding) = match notice {
            Notice::Found(log, finding) => (log, finding),
            Notice::Opened(log, _) => {
                self.opened_after_stop(log.uid);
                return None;
            }
            Notice::Repaired(..) => return Some(Deed::RotRepaired),
            _ => return None,
        };
        let directory = log.uid.get();
        match &finding {
            // Only where the disk has lost or spoilt something.
            Finding::Damaged { file, offsets, positions, by_scrub } => {
                let missing = offsets.start.get()..offsets.end.get();
                self.shelf.told(&self.disk, directory, &missing);
                let place = positions.start.get()..positions.end.get();
                let wounded = self.disk.damages().into_iter().any(|wound| {
                    (wound.directory, wound.file) == (directory, *file)
                        && wound.range.start < place.end
                        && place.start < wound.range.end
                });
                if !wounded {
                    self.slander = Some(format!("{directory}: {finding}, and nothing befell it"));
                }
                by_scrub.then_some(Deed::RotScrubbed)
            }
            Finding::Unreadable { why: ReadError::Io(IoError::NotFound), .. } => {
                self.slander = Some(format!("{directory}: {finding}, and nobody removed it"));
                None
            }
            _ => None,
        }
    }

    /// Between two lives a copy of a manifest or an index rots, becomes an older one or is written
    /// to by mistake, or both copies become older ones: nothing may be lost by that. Let alone are
    /// manifests whose copies differ, for the older one does not know all, and the keepers of what
    /// is derived from dropped segments: that stands nowhere else.
    pub(super) fn rot_images(&mut self, random: &mut Random) -> Option<Deed> {
        let directories: Vec<u64> = self.disk.directories().collect();
        if directories.is_empty() || self.disk.late_writes() > 0 {
            return None;
        }
        let directory = directories[random.below(directories.len() as u64) as usize];
        let manifest = self.agreed_manifest(directory)?;
        // Of a log that was cut nothing else says so.
        if self.is_alone() && self.put_older_back(directory, &manifest) {
            return Some(Deed::ManifestOlder);
        }
        let keeper = Named::read(&manifest).map(|named| named.fold_file);
        self.older.insert(directory, manifest);
        let files = self.disk.live_files(directory);
        let indexes: Vec<_> = files
            .filter(|file| match file {
                FileName::Index(number) => Some(number.get()) != keeper,
                FileName::Segment(_) | FileName::Manifest(_) => false,
            })
            .collect();
        let (file, deed) = if !indexes.is_empty() && random.chance(500_000) {
            (indexes[random.below(indexes.len() as u64) as usize], Deed::IndexRotten)
        } else {
            let copy = [Slot::First, Slot::Second][random.below(2) as usize];
            (FileName::Manifest(copy), Deed::ManifestRotten)
        };
        let image = self.disk.live_bytes(directory, file).unwrap_or_default();
        let past = self.past.remove(&(directory, file));
        for other in self.disk.live_files(directory).collect::<Vec<_>>() {
            let bytes = self.disk.live_bytes(directory, other);
            let kept = bytes.filter(|_| !matches!(other, FileName::Segment(_)));
            self.past.extend(kept.map(|bytes| ((directory, other), bytes)));
        }
        let (deed, done) = match (random.below(3), past) {
            (0, Some(past)) if past != image => {
                (Deed::ImageOlder, self.disk.put_back(directory, file, &past))
            }
            (1, _) if image.len() > SECTOR_BYTES => {
                (Deed::ImageMisplaced, self.misplace(directory, file, &image, random))
            }
            _ => (deed, self.spoil(directory, file, random)),
        };
        done.then_some(deed)
    }

    /// A sector of an image stands elsewhere in it, too.
    fn misplace(
        &mut self,
        directory: u64,
        file: FileName,
        image: &[u8],
        random: &mut Random,
    ) -> bool {
        let sectors = (image.len() / SECTOR_BYTES) as u64;
        let [from, to] = [(); 2].map(|()| random.below(sectors) as usize * SECTOR_BYTES);
        let mut misplaced = image.to_vec();
        misplaced.copy_within(from..from + SECTOR_BYTES, to);
        misplaced != image && self.disk.put_back(directory, file, &misplaced)
    }

    /// Both copies of a manifest become what they were in an earlier life. Segments must have been
    /// begun since that prove it, and nothing dropped or trimmed, of which an older one knows
    /// nothing.
    fn put_older_back(&mut self, directory: u64, manifest: &[u8]) -> bool {
        let Some(older) = self.older.remove(&directory) else { return false };
        let Some((then, now)) = Named::read(&older).zip(Named::read(manifest)) else {
            return false;
        };
        let kept = (then.log_start, then.fold_file) == (now.log_start, now.fold_file);
        if !kept || !self.proves_later(directory, then.last_file) {
            return false;
        }
        let both = [Slot::First, Slot::Second].map(FileName::Manifest);
        both.map(|copy| self.disk.put_back(directory, copy, &older)) == [true, true]
    }

    /// Whether what is durable of segments behind one says that something in them was.
    fn proves_later(&self, directory: u64, last: u64) -> bool {
        let (mut base, mut durable) = (None, Offset::ZERO);
        for file in self.disk.live_files(directory) {
            let FileName::Segment(number) = file else { continue };
            let bytes = self.disk.durable_bytes_of_live(directory, file).unwrap_or_default();
            let Ok(header) = SegmentHeader::read(&bytes) else { continue };
            if number.get() <= last || header.file != number {
                continue;
            }
            base = base.or(Some(header.base_offset));
            let seed = FrameSeed { uid: header.uid, file: number };
            let (first, end) = (Position::new(4096), Position::new(bytes.len() as u64));
            let mut walker = Walker::new(seed, first, end, header.base_offset);
            let window = Window { position: Position::ZERO, bytes: &bytes };
            while let Step::Frame { header, .. } = walker.step(window) {
                durable = durable.max(header.durable_end);
            }
        }
        base.is_some_and(|base| base < durable)
    }

    /// Both copies of a partition's manifest rot: it must be refused, and nothing else.
    pub(super) fn rot_manifest(&mut self, random: &mut Random) -> Option<Deed> {
        let directories: Vec<u64> = self.disk.directories().filter(|uid| *uid != 0).collect();
        let known = self.cores[0].known();
        let there = |uid: &u64| {
            known.contains(&PartitionUid::new(*uid)) && self.agreed_manifest(*uid).is_some()
        };
        let directories: Vec<u64> = directories.into_iter().filter(there).collect();
        if directories.is_empty() || self.disk.late_writes() > 0 {
            return None;
        }
        let directory = directories[random.below(directories.len() as u64) as usize];
        let both = [Slot::First, Slot::Second].map(FileName::Manifest);
        if both.map(|copy| self.spoil(directory, copy, random)) != [true, true] {
            return None;
        }
        self.refused = Some(PartitionUid::new(directory));
        Some(Deed::PartitionRefused)
    }

    /// What both copies of a manifest are, durably.
    pub(super) fn agreed_manifest(&self, directory: u64) -> Option<Vec<u8>> {
        let [first, second] = [Slot::First, Slot::Second].map(|slot| {
            let file = FileName::Manifest(slot);
            let durable = self.disk.durable_bytes_of_live(directory, file);
            durable.filter(|bytes| self.disk.live_bytes(directory, file).as_ref() == Some(bytes))
        });
        first.filter(|first| second.as_ref() == Some(first))
    }

    /// A bit of an image turns, of those that are checked.
    fn spoil(&mut self, directory: u64, file: FileName, random: &mut Random) -> bool {
        let bytes = self.disk.live_bytes(directory, file).unwrap_or_default();
        // Magic, version and what fills the first 32 bytes, and the length of the archive in it.
        let Some(length) = bytes.get(16..24) else { return false };
        let length = u64::from_le_bytes(length.try_into().expect("eight bytes"));
        if length > bytes.len() as u64 {
            return false;
        }
        let position = random.below(32 + length);
        let bit = random.below(8) as u8;
        self.disk.flip_bit(directory, file, position, bit)
    }

    /// Whether a partition is the one whose manifest is gone, and says so.
    pub(super) fn is_refused(&self, replica: &Replica<Purse>) -> bool {
        let refused = self.refused == Some(replica.identity().uid);
        refused && matches!(replica.phase(), Phase::Failed(OpenError::Manifest(_)))
    }

    /// Bits turn in segments of these partitions while nobody reads them.
    pub(super) fn rot(&mut self, random: &mut Random, of: impl Fn(PartitionUid) -> bool) {
        let directories = self.disk.directories().filter(|uid| *uid != 0);
        let directories: Vec<u64> = directories.filter(|uid| of(PartitionUid::new(*uid))).collect();
        for directory in directories {
            let files = self.disk.live_files(directory);
            let segments = files.filter(|file| matches!(file, FileName::Segment(_)));
            let mut segments: Vec<_> = segments.collect();
            if !self.is_alone() {
                // The end of what is being written is not repaired before it is sealed.
                segments.sort_unstable();
                segments.pop();
            }
            for _ in 0..ROTTEN_BITS.min(segments.len() as u64) {
                let file = segments[random.below(segments.len() as u64) as usize];
                let durable = self.disk.durable_bytes_of_live(directory, file);
                let length = durable.map_or(0, |bytes| bytes.len());
                if length > 0 {
                    let position = random.below(length as u64);
                    let bit = random.below(8) as u8;
                    self.disk.flip_bit(directory, file, position, bit);
                }
            }
        }
    }

    pub(super) fn lost(&self) -> Lost {
        let logs = self.replicas().filter_map(|r| r.log().map(|log| (r.identity().uid, log)));
        logs.map(|(uid, log)| (uid, log.damaged())).collect()
    }
}

impl World {
    /// Waits until the scrubs were through with everything, of which by now nothing changes; what
    /// is known to be lost then, on each node.
    pub(super) fn scrub(&mut self) -> Result<Vec<Lost>, String> {
        let passes = |core: &Node<_>| core.stats().scrub_passes;
        let cores = self.machines.iter_mut().flat_map(|machine| &mut machine.cores);
        // The pass that is under way may have gone by what has rotted since.
        let ends: Vec<u64> = cores
            .map(|core| {
                core.limits_mut().scrub_rate = 1 << 30;
                passes(core) + 2
            })
            .collect();
        let deadline = self.now_ns + STUCK_NS;
        loop {
            let all = self.machines.iter().flat_map(|machine| &machine.cores).zip(&ends);
            let open = |core: &Node<_>| core.replicas().any(|replica| replica.log().is_some());
            let mut busy = all.filter(|(core, _)| open(core));
            if busy.all(|(core, end)| passes(core) >= *end) {
                return Ok(self.machines.iter().map(Machine::lost).collect());
            }
            if self.now_ns > deadline {
                return Err("stuck: the scrub does not come through".into());
            }
            self.step()?;
        }
    }

    /// On one of several nodes bits turn in partitions that have another copy.
    pub(super) fn rot_one_copy(&mut self) {
        let Some(council) = &self.council else { return };
        let all = council.catalog().topics().flat_map(|topic| &topic.partitions);
        let at = self.random.below(self.machines.len() as u64) as usize;
        let node = self.machines[at].id();
        let copied = all.filter(|partition| {
            let chain = &partition.configuration.chain;
            chain.len() > 1 && chain.iter().any(|member| member.node == node)
        });
        let copied: BTreeSet<_> = copied.map(|partition| partition.uid).collect();
        self.rotten = true;
        self.machines[at].rot(&mut self.random, |uid| copied.contains(&uid));
    }

    /// Waits until what is known to be lost was taken from other copies.
    pub(super) fn wait_repaired(&mut self) -> Result<Vec<Lost>, String> {
        let deadline = self.now_ns + STUCK_NS;
        loop {
            let lost: Vec<Lost> = self.machines.iter().map(Machine::lost).collect();
            if lost.iter().flat_map(BTreeMap::values).all(Vec::is_empty) {
                return Ok(lost);
            }
            if self.now_ns > deadline {
                return Err(format!("stuck: {lost:?} is not repaired"));
            }
            self.step()?;
        }
    }

    /// After everything was read: the scrubs have found all that cannot be.
    pub(super) fn check_scrubbed(&self, known: &[Lost]) -> Result<(), String> {
        let lost: Vec<Lost> = self.machines.iter().map(Machine::lost).collect();
        if lost == known {
            return Ok(());
        }
        Err(format!("the scrub knew of {known:?}, and readers found {lost:?}"))
    }
}
