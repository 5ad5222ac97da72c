//! What logs asked the disk to keep, and what of it is there: from their operations alone.

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;
use catena_log::io::{FileName, Op};

use crate::sim::disk::Disk;

/// A frame that was to be written.
#[derive(Debug)]
struct Frame {
    file: FileName,
    position: u64,
    bytes: Bytes,
    /// The offsets of its batch; nothing in a mark.
    offsets: Range<u64>,
    durable_end: u64,
    /// It was not whole when a log said so: what spoilt it may not have been durable itself, and be
    /// gone with a crash.
    spoilt: bool,
}

/// The frames of all logs, each in the order of its offsets.
#[derive(Debug, Default)]
pub struct Shelf {
    frames: BTreeMap<u64, Vec<Frame>>,
}

/// What the disk still has of a log.
#[derive(Debug, Default)]
pub struct Kept {
    /// The offsets of the batches that are whole, in order.
    whole: Vec<Range<u64>>,
    /// A whole frame says that everything below was durable.
    proven: u64,
}

impl Shelf {
    /// A log asks for an operation on a directory.
    pub fn asked(&mut self, directory: u64, op: &Op<Bytes>) {
        let Op::Write { file: file @ FileName::Segment(_), position, bytes, .. } = op else {
            return;
        };
        let frames = self.frames.entry(directory).or_default();
        let mut at = 0;
        while let Some(frame) = Frame::parse(*file, position.get(), bytes, at) {
            at = (at + frame.bytes.len()).next_multiple_of(16);
            // An earlier life gave these offsets and lost them.
            while frames.last().is_some_and(|last| last.offsets.end > frame.offsets.start) {
                frames.pop();
            }
            frames.push(frame);
        }
    }

    /// A log says that it cannot read these offsets.
    pub fn told(&mut self, disk: &Disk, directory: u64, damaged: &Range<u64>) {
        for frame in self.frames.entry(directory).or_default() {
            let meant = frame.offsets.start < damaged.end && damaged.start < frame.offsets.end;
            frame.spoilt |= meant && !frame.is_whole(disk, directory);
        }
    }

    /// What the disk has now.
    #[must_use]
    pub fn kept(&self, disk: &Disk) -> BTreeMap<u64, Kept> {
        let kept = |(&directory, frames): (&u64, &Vec<Frame>)| {
            let mut kept = Kept::default();
            for frame in frames.iter().filter(|frame| frame.is_whole(disk, directory)) {
                kept.whole.push(frame.offsets.clone());
                kept.proven = kept.proven.max(frame.durable_end);
            }
            (directory, kept)
        };
        self.frames.iter().map(kept).collect()
    }

    /// The disk has lost more since; what was proven when its last life began stays so.
    pub fn look_again(&self, disk: &Disk, kept: &mut BTreeMap<u64, Kept>) {
        for (directory, now) in self.kept(disk) {
            kept.entry(directory).or_default().whole = now.whole;
        }
    }
}

impl Kept {
    /// The batch with this offset is whole.
    #[must_use]
    pub fn holds(&self, offset: u64) -> bool {
        self.whole.iter().any(|offsets| offsets.contains(&offset))
    }

    /// Something that is whole says that this offset was durable.
    #[must_use]
    pub fn proves(&self, offset: u64) -> bool {
        offset < self.proven
    }
}

impl Frame {
    /// The frame at a place within a write, by the tables of the disk format.
    fn parse(file: FileName, position: u64, write: &Bytes, at: usize) -> Option<Self> {
        let header = write.get(at..at + 64).filter(|header| header.starts_with(b"CTNF"))?;
        let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four"));
        let u64_at = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight"));
        let (length, base) = (u32_at(8) as usize, u64_at(16));
        // A repair writes blocks, and not whole frames.
        write.get(..at + 64 + length)?;
        let given = if length == 0 { 0 } else { u64::from(u32_at(24)) + 1 };
        Some(Self {
            file,
            position: position + at as u64,
            bytes: write.slice(at..at + 64 + length),
            offsets: base..base + given,
            durable_end: u64_at(48),
            spoilt: false,
        })
    }

    fn is_whole(&self, disk: &Disk, directory: u64) -> bool {
        !self.spoilt && disk.live_holds(directory, self.file, self.position, &self.bytes)
    }
}
