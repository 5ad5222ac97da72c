//! Bytes that turn on a disk of which nobody takes note.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::sim::random::Random;

/// The first bytes of a segment file that hold no batch.
const HEADER_BYTES: u64 = 4096;
/// The last files of a partition: one is written, others stand ready.
const LAST: usize = 3;

/// Turns bits in a segment of a node that does not run, one that is complete by all appearances;
/// whether there is one.
///
/// # Errors
/// When files cannot be read or written.
pub(super) fn spoil(data: &Path, random: &mut Random) -> Result<bool, String> {
    let said = |error: std::io::Error| error.to_string();
    let mut complete = Vec::new();
    for folder in listed(&data.join("p")).map_err(said)? {
        let mut files = listed(&folder).map_err(said)?;
        files.retain(|file| file.extension().is_some_and(|extension| extension == "seg"));
        files.truncate(files.len().saturating_sub(LAST));
        complete.append(&mut files);
    }
    if complete.is_empty() {
        return Ok(false);
    }
    let path = &complete[random.below(complete.len() as u64) as usize];
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(said)?;
    let length = file.metadata().map_err(said)?.len();
    if length <= HEADER_BYTES + 64 {
        return Ok(false);
    }
    let at = HEADER_BYTES + random.below(length - HEADER_BYTES - 64);
    let mut bytes = [0; 64];
    file.read_exact_at(&mut bytes, at).map_err(said)?;
    for byte in &mut bytes {
        *byte ^= 1 << random.below(8);
    }
    file.write_all_at(&bytes, at).map_err(said)?;
    Ok(true)
}

/// What is in a directory, by name.
fn listed(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = entries.collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    Ok(paths)
}
