//! What the node says of its disk, held against what befell that; and rot that nobody reads.

use std::{collections::BTreeMap, ops::Range};

use catena_format::{Offset, PartitionUid};
use catena_log::{
    Finding, OpenError, ReadError,
    io::{FileName, Heap, IoError, Slot},
};
use catena_node::{Node, Notice};
use catena_replication::{Phase, Replica};

use super::{STUCK_NS, World};
use crate::sim::deeds::Deed;

/// Bits that turn in the cold segments of a partition.
const ROTTEN_BITS: u64 = 3;

/// What partitions know to be lost.
pub(super) type Lost = BTreeMap<PartitionUid, Vec<Range<Offset>>>;

impl World {
    /// Takes note of what the node says, if it is about its disk.
    pub(super) fn heed(&mut self, notice: Notice) {
        let Notice::Found(log, finding) = notice else { return };
        let directory = log.uid.get();
        match &finding {
            // Only where the disk has lost or spoilt something.
            Finding::Damaged { file, positions, by_scrub, .. } => {
                let place = positions.start.get()..positions.end.get();
                let wounded = self.disk.damages().into_iter().any(|wound| {
                    (wound.directory, wound.file) == (directory, *file)
                        && wound.range.start < place.end
                        && place.start < wound.range.end
                });
                if !wounded {
                    self.slander = Some(format!("{directory}: {finding}, and nothing befell it"));
                }
                if *by_scrub {
                    self.oracle.did(Deed::RotScrubbed);
                }
            }
            Finding::Unreadable { why: ReadError::Io(IoError::NotFound), .. } => {
                self.slander = Some(format!("{directory}: {finding}, and nobody removed it"));
            }
            _ => {}
        }
    }

    /// Between two lives a copy of a manifest or an index rots: nothing may be lost by that. Let
    /// alone are manifests whose copies differ, for the older one does not know all, and the keepers
    /// of what is derived from dropped segments: that stands nowhere else.
    pub(super) fn rot_images(&mut self) {
        let directories: Vec<u64> = self.disk.directories().collect();
        if directories.is_empty() || self.disk.late_writes() > 0 {
            return;
        }
        let directory = directories[self.random.below(directories.len() as u64) as usize];
        let files: Vec<_> = self.disk.live_files(directory).collect();
        let drops = directory != 0 && self.plan.drops();
        let indexes = files.iter().copied().filter(|file| matches!(file, FileName::Index(_)));
        let indexes: Vec<_> = indexes.filter(|_| !drops).collect();
        let index = (!indexes.is_empty() && self.random.chance(500_000))
            .then(|| indexes[self.random.below(indexes.len() as u64) as usize]);
        let copy = [Slot::First, Slot::Second][self.random.below(2) as usize];
        let copy = self.copies_agree(directory).then_some(FileName::Manifest(copy));
        let (file, deed) = match (index, copy) {
            (Some(index), _) => (index, Deed::IndexRotten),
            (None, Some(copy)) => (copy, Deed::ManifestRotten),
            (None, None) => return,
        };
        if self.spoil(directory, file) {
            self.oracle.did(deed);
        }
    }

    /// Both copies of a partition's manifest rot: it must be refused, and nothing else.
    pub(super) fn rot_manifest(&mut self) {
        let directories: Vec<u64> = self.disk.directories().filter(|uid| *uid != 0).collect();
        let known = self.cores[0].known();
        let there = |uid: &u64| known.contains(&PartitionUid::new(*uid)) && self.copies_agree(*uid);
        let directories: Vec<u64> = directories.into_iter().filter(there).collect();
        if directories.is_empty() || self.disk.late_writes() > 0 {
            return;
        }
        let directory = directories[self.random.below(directories.len() as u64) as usize];
        let both = [Slot::First, Slot::Second].map(FileName::Manifest);
        if both.map(|copy| self.spoil(directory, copy)) == [true, true] {
            self.refused = Some(PartitionUid::new(directory));
            self.oracle.did(Deed::PartitionRefused);
        }
    }

    fn copies_agree(&self, directory: u64) -> bool {
        let [first, second] = [Slot::First, Slot::Second].map(|slot| {
            let file = FileName::Manifest(slot);
            let durable = self.disk.durable_bytes_of_live(directory, file);
            durable.filter(|bytes| self.disk.live_bytes(directory, file).as_ref() == Some(bytes))
        });
        first.is_some() && first == second
    }

    /// A bit of an image turns, of those that are checked.
    fn spoil(&mut self, directory: u64, file: FileName) -> bool {
        let bytes = self.disk.live_bytes(directory, file).unwrap_or_default();
        // Magic, version and what fills the first 32 bytes, and the length of the archive in it.
        let Some(length) = bytes.get(16..24) else { return false };
        let length = u64::from_le_bytes(length.try_into().expect("eight bytes"));
        if length > bytes.len() as u64 {
            return false;
        }
        let position = self.random.below(32 + length);
        let bit = self.random.below(8) as u8;
        self.disk.flip_bit(directory, file, position, bit)
    }

    /// Whether a partition is the one whose manifest is gone, and says so.
    pub(super) fn is_refused(&self, replica: &Replica<Heap>) -> bool {
        let refused = self.refused == Some(replica.identity().uid);
        refused && matches!(replica.phase(), Phase::Failed(OpenError::Manifest(_)))
    }

    /// Bits turn in segments while nobody reads them.
    pub(super) fn rot(&mut self) {
        let directories: Vec<u64> = self.disk.directories().filter(|uid| *uid != 0).collect();
        for directory in directories {
            let files = self.disk.live_files(directory);
            let segments: Vec<_> = files.filter(|f| matches!(f, FileName::Segment(_))).collect();
            for _ in 0..ROTTEN_BITS.min(segments.len() as u64) {
                let file = segments[self.random.below(segments.len() as u64) as usize];
                let durable = self.disk.durable_bytes_of_live(directory, file);
                let length = durable.map_or(0, |bytes| bytes.len());
                if length > 0 {
                    let position = self.random.below(length as u64);
                    let bit = self.random.below(8) as u8;
                    self.disk.flip_bit(directory, file, position, bit);
                }
            }
        }
    }

    /// Waits until the scrub was through with everything, of which by now nothing changes; what is
    /// known to be lost then.
    pub(super) fn scrub(&mut self) -> Result<Lost, String> {
        let passes = |core: &Node<_>| core.stats().scrub_passes;
        // The pass that is under way may have gone by what has rotted since.
        let ends: Vec<u64> = self.cores.iter().map(|core| passes(core) + 2).collect();
        self.cores.iter_mut().for_each(|core| core.limits_mut().scrub_rate = 1 << 30);
        let deadline = self.now_ns + STUCK_NS;
        loop {
            let all = self.cores.iter().zip(&ends);
            let open = |core: &Node<_>| core.replicas().any(|replica| replica.log().is_some());
            let mut busy = all.filter(|(core, _)| open(core));
            if busy.all(|(core, end)| passes(core) >= *end) {
                return Ok(self.lost());
            }
            if self.now_ns > deadline {
                return Err("stuck: the scrub does not come through".into());
            }
            self.step()?;
        }
    }

    /// After everything was read: the scrub has found all that cannot be.
    pub(super) fn check_scrubbed(&self, known: &Lost) -> Result<(), String> {
        let lost = self.lost();
        if lost == *known {
            return Ok(());
        }
        Err(format!("the scrub knew of {known:?}, and readers found {lost:?}"))
    }

    fn lost(&self) -> Lost {
        let logs = self.replicas().filter_map(|r| r.log().map(|log| (r.identity().uid, log)));
        logs.map(|(uid, log)| (uid, log.damaged())).collect()
    }
}
