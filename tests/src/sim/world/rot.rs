//! What the node says of its disk, held against what befell that; and rot that nobody reads.

use std::{collections::BTreeMap, ops::Range};

use catena_format::{Offset, PartitionUid};
use catena_log::{
    Finding, ReadError,
    io::{FileName, IoError},
};
use catena_node::{Node, Notice};

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
            let mut busy = all.filter(|(core, _)| core.replicas().next().is_some());
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
