//! Files in memory: each operation is performed at once.

use std::collections::BTreeMap;

use bytes::Bytes;
use catena_log::io::{FileName, IoError, Op, Outcome};

/// The files of one log.
#[derive(Clone, Default, Debug)]
pub(super) struct Disk(pub(super) BTreeMap<FileName, Vec<u8>>);

impl Disk {
    pub(super) fn perform(&mut self, op: Op<Bytes>) -> Result<Outcome<Bytes>, IoError> {
        match op {
            Op::List => {
                let files = self.0.iter().map(|(name, bytes)| (*name, bytes.len() as u64));
                return Ok(Outcome::Files(files.collect()));
            }
            Op::Claim { file } | Op::Sync { file } if !self.0.contains_key(&file) => {
                return Err(IoError::NotFound);
            }
            Op::Claim { .. } | Op::Sync { .. } | Op::SyncDirectory => {}
            Op::Extend { file, from, to } => {
                self.grown(file, from.get(), to.get() - from.get())?.fill(0);
            }
            Op::Release { file, from, to } => {
                let held = self.0.get_mut(&file).ok_or(IoError::NotFound)?;
                let end = (to.get() as usize).min(held.len());
                held[(from.get() as usize).min(end)..end].fill(0);
            }
            Op::Write { file, position, bytes, .. } => {
                self.grown(file, position.get(), bytes.len() as u64)?.copy_from_slice(&bytes);
            }
            Op::Read { file, position, length } => {
                let image = self.0.get(&file).ok_or(IoError::NotFound)?;
                let at = usize::try_from(position.get()).unwrap_or(usize::MAX).min(image.len());
                let end = at.saturating_add(length).min(image.len());
                return Ok(Outcome::Read(Bytes::copy_from_slice(&image[at..end])));
            }
            Op::Rename { from, to } => {
                let image = self.0.remove(&from).ok_or(IoError::NotFound)?;
                self.0.insert(to, image);
            }
            Op::Remove { file } => drop(self.0.remove(&file).ok_or(IoError::NotFound)?),
        }
        Ok(Outcome::Unit)
    }

    /// The bytes at a place of a file, which grows as far; a disk has 16 MiB.
    fn grown(&mut self, file: FileName, at: u64, bytes: u64) -> Result<&mut [u8], IoError> {
        let end = at.checked_add(bytes).filter(|end| *end <= 16 << 20).ok_or(IoError::NoSpace)?;
        let range = at as usize..end as usize;
        let image = self.0.entry(file).or_default();
        image.resize(image.len().max(range.end), 0);
        Ok(&mut image[range])
    }
}
