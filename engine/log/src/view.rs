//! What the images of a log say, for tools that look at its files and never open it.

use std::ops::Range;

use catena_format::{FileNumber, Offset, PartitionUid, Position};

use crate::{
    image::{self, ImageError},
    index,
    manifest::{LogIdentity, Manifest, SegmentEntry},
};

/// A manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ManifestView {
    /// Which log it is of.
    pub identity: LogIdentity,
    /// One more with every manifest.
    pub generation: u64,
    /// The first offset that can be read.
    pub log_start: Offset,
    /// Every offset below was given and durable when it was written.
    pub log_end: Offset,
    /// Offsets that are known to be lost.
    pub damaged: Vec<Range<Offset>>,
    /// The segments, in the order of their offsets.
    pub segments: Vec<SegmentView>,
}

/// A segment as a manifest knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentView {
    /// The number of its file.
    pub file: FileNumber,
    /// Its first offset.
    pub base: Offset,
    /// Where it ends; `None` while it may grow.
    pub sealed: Option<SegmentEnd>,
}

/// Where a sealed segment ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentEnd {
    /// The next offset after its last record.
    pub offset: Offset,
    /// Where its last group ends.
    pub position: Position,
}

impl ManifestView {
    /// Reads one copy of a manifest, whosever it is.
    ///
    /// # Errors
    /// Says why it is none.
    pub fn read(bytes: &[u8]) -> Result<Self, ImageError> {
        let uid = image::owner(bytes).ok_or(ImageError::Damaged)?;
        let (identity, manifest) = Manifest::read_of(bytes, uid)?;
        let segment = |s: &SegmentEntry| SegmentView {
            file: s.file,
            base: s.base,
            sealed: s.sealed.then_some(SegmentEnd { offset: s.end, position: s.end_position }),
        };
        Ok(Self {
            identity,
            generation: manifest.generation,
            log_start: manifest.log_start,
            log_end: manifest.log_end,
            damaged: manifest.damaged.iter().cloned().collect(),
            segments: manifest.segments.iter().map(segment).collect(),
        })
    }
}

/// Checks the index file of a segment; its fold is not looked at.
///
/// # Errors
/// Says why it is none.
pub fn check_index(bytes: &[u8], uid: PartitionUid, file: FileNumber) -> Result<(), ImageError> {
    let image = index::read_image(uid, bytes)?;
    if image.file == file { Ok(()) } else { Err(ImageError::Damaged) }
}
