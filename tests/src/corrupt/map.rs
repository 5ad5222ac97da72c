//! Where each batch lies in the files of a log, told by `catena segment dump` before anything is
//! corrupted; and what of it a node must still find afterwards.

use std::{collections::BTreeMap, fs, ops::Range, path::Path, process::Command};

use catena_format::{FRAME_HEADER_BYTES, FileNumber};
use catena_log::view::{ManifestView, SegmentView};
use serde_json::Value;

/// A batch, or a mark, in a segment file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Frame {
    /// Header and batch, without padding.
    pub(super) bytes: Range<usize>,
    pub(super) offsets: Range<u64>,
    pub(super) mark: bool,
    durable_end: u64,
}

impl Frame {
    /// What the CRC of the header covers.
    fn header(&self) -> Range<usize> {
        let end = self.bytes.start + FRAME_HEADER_BYTES;
        self.bytes.start..if self.mark { end } else { end + 16 }
    }
}

/// The frames of every segment file of a log.
#[derive(Clone, Debug, Default)]
pub(super) struct Map(pub(super) BTreeMap<String, Vec<Frame>>);

impl Map {
    /// The map of the log in `directory`.
    pub(super) fn of(binary: &Path, directory: &Path) -> Result<Self, String> {
        let dump = Command::new(binary)
            .args(["segment", "dump", "-o", "json"])
            .arg(directory)
            .output()
            .map_err(|error| error.to_string())?;
        let mut map = Self::default();
        let mut file = String::new();
        for line in String::from_utf8_lossy(&dump.stdout).lines() {
            let line: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
            match line["kind"].as_str() {
                Some("header") => {
                    let path = line["path"].as_str().map(Path::new);
                    let name = path.and_then(Path::file_name).ok_or("a file has no name")?;
                    file = name.to_string_lossy().into_owned();
                    map.0.entry(file.clone()).or_default();
                }
                Some("batch" | "mark") => {
                    let frame = frame(&line).ok_or_else(|| format!("{line} is no frame"))?;
                    map.0.entry(file.clone()).or_default().push(frame);
                }
                _ => {}
            }
        }
        Ok(map)
    }
}

fn frame(line: &Value) -> Option<Frame> {
    let number = |key: &str| line[key].as_u64();
    let start = usize::try_from(number("position")?).ok()?;
    let end = start + FRAME_HEADER_BYTES + usize::try_from(number("bytes")?).ok()?;
    let base = number("base_offset")?;
    Some(Frame {
        bytes: start..end,
        offsets: base..base + number("records")?,
        mark: line["kind"] == "mark",
        durable_end: number("durable_end")?,
    })
}

/// What a log must come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// Neither copy of its manifest can be read: it is not opened.
    Closed,
    /// It is opened.
    Open(Standing),
}

/// What an opened log must hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Standing {
    pub(super) start: u64,
    /// It ends there or behind: so much is intact, or proven by something that is.
    pub(super) end_min: u64,
    /// The batches that are intact.
    pub(super) intact: Vec<Range<u64>>,
    /// Those that are, too, in segments that an older manifest does not name and nothing proves: no
    /// one can tell them from what a crash left.
    pub(super) doubtful: Vec<Range<u64>>,
    /// Segment files that the manifest names, and that hold something or should.
    pub(super) files: Vec<String>,
}

impl Standing {
    /// Whether the batch that holds `offset` is intact.
    pub(super) fn holds(&self, offset: u64) -> bool {
        covers(&self.intact, offset)
    }

    /// Whether a record at `offset` may be served.
    pub(super) fn may_hold(&self, offset: u64) -> bool {
        self.holds(offset) || covers(&self.doubtful, offset)
    }
}

fn covers(batches: &[Range<u64>], offset: u64) -> bool {
    let at = batches.partition_point(|batch| batch.end <= offset);
    batches.get(at).is_some_and(|batch| batch.contains(&offset))
}

/// What the log in `after` must come to, of which `before` is what it was; `map` is of that.
pub(super) fn fate(map: &Map, before: &Path, after: &Path) -> Fate {
    let Some(manifest) = newest(after) else { return Fate::Closed };
    let log_end = manifest.log_end.get();
    let mut proven = log_end;
    let mut intact: Vec<Range<u64>> = Vec::new();
    let mut files = BTreeMap::new();
    for segment in &manifest.segments {
        let name = segment_name(segment.file);
        let Some(frames) = map.0.get(&name) else { continue };
        let same = Same::of(&before.join(&name), &after.join(&name));
        for frame in frames.iter().filter(|frame| belongs(segment, frame)) {
            if segment.sealed.is_none() && same.holds(&frame.header()) {
                proven = proven.max(frame.durable_end);
            }
            if !frame.mark && same.holds(&frame.bytes) {
                intact.push(frame.offsets.clone());
            }
        }
        proven = proven.max(segment.sealed.map_or(0, |end| end.offset.get()));
        let found = intact.last().is_some_and(|batch| batch.start >= segment.base.get());
        let base = if found || segment.sealed.is_some() { 0 } else { segment.base.get() };
        files.insert(name, base);
    }
    proven = proven.max(index_end(&manifest, after));
    let (later, later_proven, later_files) = unnamed(map, &manifest, before, after);
    let taken_back = later_proven > proven;
    if taken_back {
        proven = later_proven;
        intact.extend_from_slice(&later);
        files.extend(later_files.into_iter().map(|name| (name, 0)));
    }
    let doubtful = if taken_back { Vec::new() } else { later };
    let mut end_min = proven;
    for batch in &intact {
        if batch.contains(&end_min) {
            end_min = batch.end;
        }
    }
    // What holds nothing that is known to have been there is a leftover of a crash.
    files.retain(|_, base| *base == 0 || *base < proven);
    let files = files.into_keys().collect();
    Fate::Open(Standing { start: manifest.log_start.get(), end_min, intact, doubtful, files })
}

/// The intact batches of the segments that were begun since an older manifest, how much they prove
/// to be durable, and their files.
fn unnamed(
    map: &Map,
    manifest: &ManifestView,
    before: &Path,
    after: &Path,
) -> (Vec<Range<u64>>, u64, Vec<String>) {
    let (mut intact, mut proven, mut files) = (Vec::new(), 0, Vec::new());
    let is_named = |file| manifest.segments.iter().any(|named| named.file == file);
    let newer = newest(before).filter(|newer| newer.generation > manifest.generation);
    let segments = newer.map(|newer| newer.segments).unwrap_or_default();
    for segment in segments.into_iter().filter(|segment| !is_named(segment.file)) {
        let name = segment_name(segment.file);
        let Some(frames) = map.0.get(&name) else { continue };
        let same = Same::of(&before.join(&name), &after.join(&name));
        for frame in frames.iter().filter(|frame| belongs(&segment, frame)) {
            if same.holds(&frame.header()) {
                proven = proven.max(frame.durable_end);
            }
            if !frame.mark && same.holds(&frame.bytes) {
                intact.push(frame.offsets.clone());
            }
        }
        files.push(name);
    }
    (intact, proven, files)
}

/// The newest copy of the manifest that can be read.
pub(super) fn newest(log: &Path) -> Option<ManifestView> {
    let copies = ["manifest.0", "manifest.1"].map(|name| fs::read(log.join(name)));
    let views = copies.iter().flatten().filter_map(|bytes| ManifestView::read(bytes).ok());
    views.max_by_key(|view| view.generation)
}

/// What the index of the first segment that is not sealed proves.
fn index_end(manifest: &ManifestView, log: &Path) -> u64 {
    let unsealed = manifest.segments.iter().find(|segment| segment.sealed.is_none());
    let Some(segment) = unsealed else { return 0 };
    let name = segment_name(segment.file).replace(".seg", ".idx");
    let Ok(bytes) = fs::read(log.join(name)) else { return 0 };
    if catena_log::view::check_index(&bytes, manifest.identity.uid, segment.file).is_err() {
        return 0;
    }
    // The root ends the archive, 80 bytes long; `end` stands at 16 of it.
    let word = |at: usize| bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
    word(32 + word(16) as usize - 80 + 16)
}

pub(super) fn segment_name(file: FileNumber) -> String {
    format!("{:016x}.seg", file.get())
}

/// Frames behind the end of a sealed segment are none.
fn belongs(segment: &SegmentView, frame: &Frame) -> bool {
    segment.sealed.is_none_or(|end| {
        frame.offsets.end <= end.offset.get() && frame.bytes.start < end.position.get() as usize
    })
}

/// Two versions of a file.
struct Same(Option<(Vec<u8>, Vec<u8>)>);

impl Same {
    fn of(before: &Path, after: &Path) -> Self {
        Self(fs::read(before).ok().zip(fs::read(after).ok()))
    }

    /// Whether a part is the same in both.
    fn holds(&self, part: &Range<usize>) -> bool {
        let Some((before, after)) = &self.0 else { return false };
        after.get(part.clone()).is_some_and(|bytes| before.get(part.clone()) == Some(bytes))
    }
}
