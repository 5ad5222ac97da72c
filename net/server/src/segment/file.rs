//! A segment file, walked from frame to frame with every checksum looked at.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use catena_format::{
    FRAME_HEADER_BYTES, FrameHeader, FrameSeed, Offset, PartitionUid, Position, SegmentFooter,
    SegmentHeader, SegmentHeaderError, limits::BLOCK_BYTES,
};
use catena_log::{
    io::FileName,
    walk::{Fault, Step, Walker, Window, check_batch},
};

/// How much is read at once.
const WINDOW_BYTES: usize = 1 << 20;

/// A frame that is where it belongs.
pub(super) struct Frame<'a> {
    pub(super) position: Position,
    pub(super) header: FrameHeader,
    /// Of the batch, as many bytes as there are.
    pub(super) batch: &'a [u8],
    pub(super) fault: Option<Fault>,
}

/// A segment file, open for reading.
pub(super) struct SegmentFile {
    pub(super) path: PathBuf,
    pub(super) header: Result<SegmentHeader, SegmentHeaderError>,
    file: File,
}

impl SegmentFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut block = vec![0; BLOCK_BYTES];
        let got = read_at(&file, &mut block, 0)?;
        Ok(Self { path: path.to_owned(), header: SegmentHeader::read(&block[..got]), file })
    }

    /// What the checksums of its frames begin with: as the header says or, where that is damaged,
    /// as the names of file and directory say.
    pub(super) fn seed(&self) -> Option<FrameSeed> {
        if let Ok(header) = self.header {
            return Some(FrameSeed { uid: header.uid, file: header.file });
        }
        let FileName::Segment(file) = FileName::parse(self.path.file_name()?.to_str()?)? else {
            return None;
        };
        let folder = self.path.parent()?.file_name()?.to_str()?;
        let uid = if folder == "catalog" { Ok(0) } else { u64::from_str_radix(folder, 16) };
        Some(FrameSeed { uid: PartitionUid::new(uid.ok()?), file })
    }

    /// Hands every frame before `end` to `each`; where the last one ends.
    pub(super) fn walk(
        &self,
        seed: FrameSeed,
        end: Position,
        mut each: impl FnMut(Frame<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<Position> {
        let base = self.header.map_or(Offset::ZERO, |header| header.base_offset);
        let mut walker = Walker::new(seed, Position::new(BLOCK_BYTES as u64), end, base);
        let mut window = Window { position: walker.position(), bytes: &[] };
        let mut memory;
        loop {
            let (position, header) = match walker.step(window) {
                Step::Frame { position, header } | Step::BadPayload { position, header } => {
                    (position, header)
                }
                Step::End => return Ok(walker.position()),
                Step::Unknown { version } => {
                    anyhow::bail!(
                        "{}: the frame at {} is of version {version}, unknown to this build",
                        self.path.display(),
                        walker.position(),
                    );
                }
                Step::More { from, bytes } => {
                    let position = from.align_down(BLOCK_BYTES as u64);
                    let lead = usize::try_from(from.get() - position.get())?;
                    let wanted = WINDOW_BYTES.max((lead + bytes).next_multiple_of(BLOCK_BYTES));
                    memory = self.read(position, wanted)?;
                    if memory.len() < wanted {
                        walker.set_file_end(position.plus(memory.len() as u64));
                    }
                    window = Window { position, bytes: &memory };
                    continue;
                }
            };
            let at = usize::try_from(position.get() - window.position.get())?;
            let frame = &window.bytes[at..];
            let ends = frame.len().min(FRAME_HEADER_BYTES + header.payload_length as usize);
            let batch = &frame[FRAME_HEADER_BYTES.min(ends)..ends];
            let fault = fault(&header, frame, batch);
            each(Frame { position, header, batch, fault })?;
        }
    }

    /// The footer behind the last group, which ends at `end`.
    pub(super) fn footer(&self, end: Position) -> anyhow::Result<Option<SegmentFooter>> {
        let block = self.read(end.align_up(BLOCK_BYTES as u64), BLOCK_BYTES)?;
        Ok(SegmentFooter::read(&block).ok())
    }

    /// Whether anything but a footer and zeros stands behind the last frame, which ends at `end`.
    pub(super) fn has_more(&self, end: Position) -> anyhow::Result<bool> {
        let mut at = end.align_up(BLOCK_BYTES as u64);
        let padding = usize::try_from(at.get() - end.get())?;
        if self.read(end, padding)?.iter().any(|byte| *byte != 0) {
            return Ok(true);
        }
        if self.footer(at)?.is_some() {
            at = at.plus(BLOCK_BYTES as u64);
        }
        loop {
            let bytes = self.read(at, WINDOW_BYTES)?;
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(true);
            }
            if bytes.len() < WINDOW_BYTES {
                return Ok(false);
            }
            at = at.plus(bytes.len() as u64);
        }
    }

    fn read(&self, position: Position, length: usize) -> anyhow::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let got = read_at(&self.file, &mut bytes, position.get())
            .with_context(|| format!("cannot read {} at {position}", self.path.display()))?;
        bytes.truncate(got);
        Ok(bytes)
    }
}

/// Fills `bytes` from `at` on; fewer where the file ends.
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// What is wrong with the batch of a frame, whose bytes begin `frame`.
fn fault(header: &FrameHeader, frame: &[u8], batch: &[u8]) -> Option<Fault> {
    if header.payload(frame).is_err() {
        return Some(Fault::Payload);
    }
    if header.mark { None } else { check_batch(header, batch).err() }
}
