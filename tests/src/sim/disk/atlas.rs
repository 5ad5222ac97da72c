//! What the oracle may know of a disk without asking the log: both images, and every wound.

use std::ops::Range;

use catena_log::io::FileName;

use super::{Disk, folder::FileId};
use crate::sim::fingerprint::Fingerprint;

/// How a range was damaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DamageKind {
    /// A bit turned.
    BitFlip,
    /// An acknowledged write never landed here.
    LostWrite,
    /// An acknowledged write landed elsewhere.
    MisdirectedWrite,
    /// A write meant for another place landed here.
    Overwritten,
    /// A sync failed: what was written here is not durable and will not be.
    SyncLost,
}

/// A range of a file that an injected fault damaged, and that was not durably written since. An
/// upper bound: the images tell the bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// The directory.
    pub directory: u64,
    /// The file, under its present name.
    pub file: FileName,
    /// From where to where.
    pub range: Range<u64>,
    /// How.
    pub kind: DamageKind,
    /// When, in nanoseconds.
    pub at_ns: u64,
}

impl Disk {
    /// What a read would see; `None` without such a file.
    #[must_use]
    pub fn live_bytes(&self, directory: u64, file: FileName) -> Option<Vec<u8>> {
        let id = self.folders.get(&directory)?.live.get(&file)?;
        self.images.get(id).map(|image| image.live.to_vec())
    }

    /// Whether a read there would see these bytes.
    #[must_use]
    pub fn live_holds(&self, directory: u64, file: FileName, position: u64, bytes: &[u8]) -> bool {
        let id = self.folders.get(&directory).and_then(|folder| folder.live.get(&file));
        let image = id.and_then(|id| self.images.get(id));
        image.is_some_and(|image| image.live.holds(position as usize, bytes))
    }

    /// What a power loss leaves at least, under the name that it leaves at least.
    #[must_use]
    pub fn durable_bytes(&self, directory: u64, file: FileName) -> Option<Vec<u8>> {
        let id = self.folders.get(&directory)?.durable.get(&file)?;
        self.images.get(id).map(|image| image.durable.to_vec())
    }

    /// The durable bytes of the file that now has this name, be the name durable or not.
    #[must_use]
    pub fn durable_bytes_of_live(&self, directory: u64, file: FileName) -> Option<Vec<u8>> {
        let id = self.folders.get(&directory)?.live.get(&file)?;
        self.images.get(id).map(|image| image.durable.to_vec())
    }

    /// The names of a directory as they are.
    pub fn live_files(&self, directory: u64) -> impl Iterator<Item = FileName> {
        self.folders.get(&directory).into_iter().flat_map(|folder| folder.live.keys().copied())
    }

    /// The names of a directory as they are durable.
    pub fn durable_files(&self, directory: u64) -> impl Iterator<Item = FileName> {
        self.folders.get(&directory).into_iter().flat_map(|folder| folder.durable.keys().copied())
    }

    /// The directories.
    pub fn directories(&self) -> impl Iterator<Item = u64> {
        self.folders.keys().copied()
    }

    /// Whether every name of a directory is durable.
    #[must_use]
    pub fn names_are_durable(&self, directory: u64) -> bool {
        self.folders.get(&directory).is_none_or(super::folder::Folder::is_synced)
    }

    /// How many bytes landed and are not durable, over all files.
    #[must_use]
    pub fn unsynced_bytes(&self) -> u64 {
        let extents = self.images.values().flat_map(|image| &image.unsynced);
        extents.map(|extent| extent.bytes.len() as u64).sum()
    }

    /// The hash of all that the future of a disk depends on after a crash, when no operation is
    /// under way and none was ever damaged: names, lengths and bytes, what of them is not durable,
    /// and what will land late. How it came about does not count.
    ///
    /// # Panics
    /// When an operation is under way.
    #[must_use]
    pub fn state_hash(&self) -> u64 {
        assert_eq!(self.in_flight(), 0, "the hash of a disk at rest");
        let (mut hash, mut files) = (Fingerprint::default(), Vec::new());
        for (&directory, folder) in &self.folders {
            hash.numbers([directory]);
            folder.hash(&mut hash, &mut files);
        }
        for late in self.late.values() {
            hash.numbers([place_of(&mut files, late.file), late.at_ns - self.now_ns]);
            late.hash(&mut hash);
        }
        for id in files {
            self.images[&id].hash(&mut hash);
        }
        hash.value()
    }

    /// Every damaged range of a file that has a name.
    #[must_use]
    pub fn damages(&self) -> Vec<Damage> {
        let mut damages = Vec::new();
        for (&directory, folder) in &self.folders {
            for (&file, id) in &folder.live {
                damages.extend(self.images[id].scars.iter().map(|scar| Damage {
                    directory,
                    file,
                    range: scar.range.clone(),
                    kind: scar.kind,
                    at_ns: scar.at_ns,
                }));
            }
        }
        damages
    }
}

/// The place of a file among those met so far, to which it is added.
pub(super) fn place_of(files: &mut Vec<FileId>, file: FileId) -> u64 {
    let place = files.iter().position(|known| *known == file);
    let place = place.unwrap_or_else(|| {
        files.push(file);
        files.len() - 1
    });
    place as u64
}
