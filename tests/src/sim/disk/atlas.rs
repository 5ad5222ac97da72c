//! What the oracle may know of a disk without asking the log: both images, and every wound.

use std::ops::Range;

use catena_log::io::FileName;

use super::Disk;

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
    pub fn live_bytes(&self, directory: u64, file: FileName) -> Option<&[u8]> {
        let id = self.folders.get(&directory)?.live.get(&file)?;
        self.images.get(id).map(|image| image.live.as_slice())
    }

    /// What a power loss leaves at least, under the name that it leaves at least.
    #[must_use]
    pub fn durable_bytes(&self, directory: u64, file: FileName) -> Option<&[u8]> {
        let id = self.folders.get(&directory)?.durable.get(&file)?;
        self.images.get(id).map(|image| image.durable.as_slice())
    }

    /// The durable bytes of the file that now has this name, be the name durable or not.
    #[must_use]
    pub fn durable_bytes_of_live(&self, directory: u64, file: FileName) -> Option<&[u8]> {
        let id = self.folders.get(&directory)?.live.get(&file)?;
        self.images.get(id).map(|image| image.durable.as_slice())
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
