//! One file's bytes, twice: what reads see, and what survives the loss of power.
//!
//! ```text
//! live     = durable + every unsynced extent, in the order of landing
//! unsynced = what landed and is not durable: a list of extents; a later extent made durable
//!            supersedes the same bytes of earlier ones
//! ```

use std::ops::Range;

use bytes::Bytes;

use super::{atlas::DamageKind, options::SECTOR_BYTES, pages::Pages};
use crate::sim::fingerprint::Fingerprint;

/// Bytes that landed and are not durable.
#[derive(Clone, Debug)]
pub(super) struct Extent {
    /// Where it stands among all landings.
    pub(super) order: u64,
    /// Where in the file.
    pub(super) position: u64,
    pub(super) bytes: Bytes,
    /// When its write completed, as a count of completions.
    pub(super) completed: Option<u64>,
    /// A sync failed on it: no later one makes it durable.
    pub(super) forsaken: bool,
}

impl Extent {
    pub(super) fn range(&self) -> Range<u64> {
        self.position..self.position + self.bytes.len() as u64
    }

    /// The part of it in `range`, if there is one.
    pub(super) fn part(&self, range: Range<u64>) -> Option<Self> {
        let own = self.range();
        let (start, end) = (range.start.max(own.start), range.end.min(own.end));
        (start < end).then(|| Self {
            position: start,
            bytes: self.bytes.slice((start - own.start) as usize..(end - own.start) as usize),
            ..self.clone()
        })
    }
}

/// A range that a fault damaged.
#[derive(Clone, Debug)]
pub(super) struct Scar {
    pub(super) range: Range<u64>,
    pub(super) kind: DamageKind,
    pub(super) at_ns: u64,
    /// Where its cause stands among all landings.
    pub(super) order: u64,
}

/// A file: an inode, whatever its names are.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pub(super) live: Pages,
    pub(super) durable: Pages,
    pub(super) unsynced: Vec<Extent>,
    pub(super) scars: Vec<Scar>,
}

impl Image {
    pub(super) fn live_bytes(&self) -> u64 {
        self.live.len() as u64
    }

    /// By how much a write of `range` lets the file grow.
    pub(super) fn growth(&self, range: &Range<u64>) -> u64 {
        range.end.saturating_sub(self.live_bytes())
    }

    /// Bytes reach the live image.
    pub(super) fn land(&mut self, extent: Extent) {
        if extent.bytes.is_empty() {
            return;
        }
        self.live.write_at(extent.position as usize, &extent.bytes);
        self.unsynced.push(extent);
    }

    /// The write of the landing `order` completed as the `completion`th operation.
    pub(super) fn complete(&mut self, order: u64, completion: u64) {
        for extent in self.unsynced.iter_mut().filter(|extent| extent.order == order) {
            extent.completed = Some(completion);
        }
    }

    /// The writes of a dead process are the device's by now: a sync takes them.
    pub(super) fn complete_all(&mut self, completion: u64) {
        for extent in &mut self.unsynced {
            extent.completed.get_or_insert(completion);
        }
    }

    /// Makes the wanted extents durable, and the length that they reach.
    pub(super) fn persist(&mut self, mut wanted: impl FnMut(&Extent) -> bool) {
        if !self.unsynced.is_empty() {
            let all = std::mem::take(&mut self.unsynced);
            let (persisted, kept) = all.into_iter().partition(|e| !e.forsaken && wanted(e));
            self.unsynced = kept;
            self.make_durable(persisted);
        }
    }

    /// Makes durable what completed by `horizon` and lies below the durable length.
    pub(super) fn flush(&mut self, horizon: u64) {
        let end = self.durable.len() as u64;
        let mut persisted = Vec::new();
        let all = std::mem::take(&mut self.unsynced);
        for extent in all {
            let covered = extent.completed.is_some_and(|at| at <= horizon) && !extent.forsaken;
            if covered && extent.position < end {
                persisted.extend(extent.part(0..end));
                self.unsynced.extend(extent.part(end..u64::MAX));
            } else {
                self.unsynced.push(extent);
            }
        }
        self.make_durable(persisted);
    }

    fn make_durable(&mut self, persisted: Vec<Extent>) {
        for extent in persisted {
            self.durable.write_at(extent.position as usize, &extent.bytes);
            self.supersede(extent.order, &extent.range());
            self.heal(extent.order, &extent.range());
        }
    }

    /// Forgets the bytes of `range` of landings before `order`: newer ones are durable.
    fn supersede(&mut self, order: u64, range: &Range<u64>) {
        let hit = |extent: &Extent| {
            let own = extent.range();
            extent.order < order && own.start < range.end && range.start < own.end
        };
        if self.unsynced.iter().any(hit) {
            let all = std::mem::take(&mut self.unsynced);
            for extent in all {
                if hit(&extent) {
                    self.unsynced.extend(extent.part(0..range.start));
                    self.unsynced.extend(extent.part(range.end..u64::MAX));
                } else {
                    self.unsynced.push(extent);
                }
            }
        }
    }

    /// Lets the extents that a sync failed on read as what is durable; the length stays.
    pub(super) fn revert_forsaken(&mut self) {
        if self.unsynced.iter().any(|extent| extent.forsaken) {
            self.unsynced.retain(|extent| !extent.forsaken);
            let length = self.live.len();
            self.live.clone_from(&self.durable);
            self.live.grow(length);
            for extent in &self.unsynced {
                self.live.write_at(extent.position as usize, &extent.bytes);
            }
        }
    }

    /// What is written anew and durable is whole again.
    fn heal(&mut self, order: u64, range: &Range<u64>) {
        if self.scars.is_empty() {
            return;
        }
        let scars = std::mem::take(&mut self.scars);
        for scar in scars {
            let hit = scar.range.start < range.end && range.start < scar.range.end;
            if !hit || scar.order >= order {
                self.scars.push(scar);
                continue;
            }
            for rest in
                [scar.range.start..range.start.max(scar.range.start), range.end..scar.range.end]
            {
                if !rest.is_empty() {
                    self.scars.push(Scar { range: rest, ..scar.clone() });
                }
            }
        }
    }

    /// Whether a sync has anything to keep.
    pub(super) fn waits_for_sync(&self, horizon: u64) -> bool {
        let waits = |e: &Extent| !e.forsaken && e.completed.is_some_and(|at| at <= horizon);
        self.unsynced.iter().any(waits)
    }

    /// The syncs of what completed by `horizon` failed for good; what that was.
    pub(super) fn forsake(&mut self, horizon: u64) -> Vec<(Range<u64>, u64)> {
        let covered = |extent: &&mut Extent| extent.completed.is_some_and(|at| at <= horizon);
        let forsaken = self.unsynced.iter_mut().filter(covered).map(|extent| {
            extent.forsaken = true;
            (extent.range(), extent.order)
        });
        forsaken.collect()
    }

    /// Turns a bit of both images; false where they are about to be overwritten or end.
    pub(super) fn flip(&mut self, position: u64, bit: u8) -> bool {
        let at = position as usize;
        let pending = self.unsynced.iter().any(|extent| extent.range().contains(&position));
        if pending || at >= self.live.len().min(self.durable.len()) {
            return false;
        }
        self.live.flip(at, bit);
        self.durable.flip(at, bit);
        true
    }

    /// Both images are these bytes from the start on; what stands behind stays.
    pub(super) fn put_back(&mut self, bytes: &[u8]) {
        self.live.write_at(0, bytes);
        self.durable.write_at(0, bytes);
    }

    /// Feeds both images and what lies between them.
    pub(super) fn hash(&self, hash: &mut Fingerprint) {
        self.live.hash(hash);
        self.durable.hash(hash);
        for extent in &self.unsynced {
            let (completed, forsaken) = (extent.completed.is_some(), extent.forsaken);
            hash.numbers([extent.position, u64::from(completed), u64::from(forsaken)]);
            hash.bytes(&extent.bytes);
        }
    }

    /// Whether both images are the same.
    pub(super) fn is_settled(&self) -> bool {
        self.unsynced.is_empty() && self.live.len() == self.durable.len()
    }

    /// After a power loss: what is durable is all there is.
    pub(super) fn settle(&mut self) {
        self.unsynced.clear();
        self.live.clone_from(&self.durable);
    }
}

/// How many sectors so many bytes have.
pub(super) const fn sectors(bytes: usize) -> usize {
    bytes.div_ceil(SECTOR_BYTES)
}
