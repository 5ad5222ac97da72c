//! What is done to which bytes of which file.

use std::{
    fmt, fs,
    ops::Range,
    path::{Path, PathBuf},
};

use catena_format::FRAME_HEADER_BYTES;

use super::map::{Frame, Map, newest, segment_name};
use crate::sim::random::Random;

/// Blocks of the disk, and of the format.
const BLOCK: usize = 4096;
/// How often another place is looked for when a corruption would change nothing.
const TRIES: usize = 200;
/// Of these the first keep to what has its turn.
const IN_TURN: usize = 40;
/// Every so many seeds have a kind of file and a deed in turn.
const TURN_EVERY: u64 = 3;

/// A kind of file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Kind {
    Identity,
    Lock,
    Prime,
    Manifest,
    /// Both copies of one log.
    Manifests,
    Index,
    Sealed,
    Active,
    /// A segment file that no manifest names.
    Spare,
}

impl Kind {
    pub(super) const ALL: [Self; 9] = [
        Self::Identity,
        Self::Lock,
        Self::Prime,
        Self::Manifest,
        Self::Manifests,
        Self::Index,
        Self::Sealed,
        Self::Active,
        Self::Spare,
    ];

    /// How often it is chosen, of [`WEIGHTS`].
    fn weight(self) -> u64 {
        match self {
            Self::Lock | Self::Prime => 1,
            Self::Identity | Self::Manifests => 2,
            Self::Spare => 2,
            Self::Manifest | Self::Index => 6,
            Self::Sealed | Self::Active => 15,
        }
    }

    /// The regions of its files, as [`region`] names them.
    pub(super) fn regions(self) -> &'static [&'static str] {
        match self {
            Self::Lock | Self::Prime | Self::Spare => WHOLE,
            Self::Identity => &["all of it", "beyond the end", "fields", "checksum"],
            Self::Manifest | Self::Manifests | Self::Index => IMAGE,
            Self::Sealed | Self::Active => SEGMENT,
        }
    }

    /// Whether a deed can change anything in its files: some never change, or are one block.
    pub(super) fn meets(self, deed: Deed) -> bool {
        match self {
            Self::Lock | Self::Prime | Self::Identity | Self::Spare => {
                !matches!(deed, Deed::Older | Deed::Misplace)
            }
            Self::Index => deed != Deed::Older,
            Self::Manifest | Self::Manifests | Self::Sealed | Self::Active => true,
        }
    }

    fn choose(random: &mut Random) -> Self {
        let mut left = random.below(Self::ALL.iter().map(|kind| kind.weight()).sum());
        for kind in Self::ALL {
            if left < kind.weight() {
                return kind;
            }
            left -= kind.weight();
        }
        Self::Active
    }
}

const WHOLE: &[&str] = &["all of it", "beyond the end"];
const IMAGE: &[&str] = &[
    "all of it",
    "beyond the end",
    "magic and version",
    "checksum",
    "length and owner",
    "archive",
    "root of the archive",
    "padding",
];
const SEGMENT: &[&str] = &[
    "all of it",
    "beyond the end",
    "header",
    "behind the header",
    "frame header",
    "batch header",
    "records",
    "padding",
    "mark",
    "behind the last group",
];

/// What is done to bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Deed {
    /// One bit.
    Flip,
    Zero,
    /// Random bytes.
    Scribble,
    /// The file ends there.
    Truncate,
    /// What stood there earlier.
    Older,
    /// What stands in another block of the file.
    Misplace,
    /// The file is gone.
    Remove,
}

impl Deed {
    pub(super) const ALL: [Self; 7] = [
        Self::Flip,
        Self::Zero,
        Self::Scribble,
        Self::Truncate,
        Self::Older,
        Self::Misplace,
        Self::Remove,
    ];
}

/// One corruption.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Corruption {
    pub(super) kind: Kind,
    pub(super) deed: Deed,
    /// The files, relative to the data directory, with what they become; `None`: they are gone.
    pub(super) files: Vec<(PathBuf, Option<Vec<u8>>)>,
    /// The log that they are of, relative to the data directory; `None`: of none.
    pub(super) log: Option<PathBuf>,
    pub(super) region: &'static str,
    bytes: Range<usize>,
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, deed, files, region, bytes, .. } = self;
        let names: Vec<_> = files.iter().map(|(path, _)| path.display().to_string()).collect();
        write!(f, "{deed:?} {bytes:?} ({region}) of {} ({kind:?})", names.join(" and "))
    }
}

/// The logs of a node: their directories, relative to its own, and their maps.
pub(super) type Logs = Vec<(PathBuf, Map)>;

/// Chooses a corruption of the node in `data`, of which `older` are copies.
pub(super) fn choose(data: &Path, older: &[PathBuf], logs: &Logs, seed: u64) -> Corruption {
    let mut random = Random::new(seed).stream("corruption");
    for attempt in 0..TRIES {
        let kind = Kind::choose(&mut random);
        let deed = Deed::ALL[random.below(Deed::ALL.len() as u64) as usize];
        let turn = seed.is_multiple_of(TURN_EVERY) && attempt < IN_TURN;
        let (kind, deed) = if turn { in_turn(seed / TURN_EVERY) } else { (kind, deed) };
        let Some((log, paths)) = target(data, logs, kind, &mut random) else { continue };
        let map = logs.iter().find(|(path, _)| Some(path) == log.as_ref()).map(|(_, map)| map);
        let Some(bytes) = paths.first().and_then(|path| fs::read(data.join(path)).ok()) else {
            continue;
        };
        let frames = paths[0].file_name().and_then(|name| map?.0.get(&*name.to_string_lossy()));
        let (region, part) = region(kind, &bytes, frames.map_or(&[], Vec::as_slice), &mut random);
        let mut files = Vec::new();
        for path in paths {
            let Ok(bytes) = fs::read(data.join(&path)) else { continue };
            let earlier: Vec<Vec<u8>> =
                older.iter().filter_map(|copy| fs::read(copy.join(&path)).ok()).collect();
            let changed = change(deed, &bytes, &part, &earlier, &mut random);
            let changed = changed.filter(|changed| *changed != bytes).map(Some);
            let changed = if deed == Deed::Remove { Some(None) } else { changed };
            files.extend(changed.map(|changed| (path, changed)));
        }
        if files.len() == if kind == Kind::Manifests { 2 } else { 1 } {
            return Corruption { kind, deed, files, log, region, bytes: part };
        }
    }
    panic!("no corruption changes anything in {}", data.display());
}

/// Every deed to every kind of file, one after the other.
fn in_turn(turn: u64) -> (Kind, Deed) {
    let turn = turn as usize % (Kind::ALL.len() * Deed::ALL.len());
    (Kind::ALL[turn % Kind::ALL.len()], Deed::ALL[turn / Kind::ALL.len()])
}

/// A log and the files of it, or files of no log.
fn target(
    data: &Path,
    logs: &Logs,
    kind: Kind,
    random: &mut Random,
) -> Option<(Option<PathBuf>, Vec<PathBuf>)> {
    let alone = |path: &str| Some((None, vec![PathBuf::from(path)]));
    match kind {
        Kind::Identity => return alone("meta/identity"),
        Kind::Lock => return alone("lock"),
        Kind::Prime => return alone("prime"),
        _ => {}
    }
    let log = &logs[random.below(logs.len() as u64) as usize].0;
    let manifest = newest(&data.join(log))?;
    let named = |sealed: bool| {
        let segments = manifest.segments.iter().filter(move |s| s.sealed.is_some() == sealed);
        segments.map(|segment| segment_name(segment.file))
    };
    let ending = |suffix: &str| -> Vec<String> {
        let names = fs::read_dir(data.join(log)).into_iter().flatten().flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|name| name.ends_with(suffix)).collect();
        names.sort();
        names
    };
    let mut names = match kind {
        Kind::Manifest | Kind::Manifests => vec!["manifest.0".to_owned(), "manifest.1".to_owned()],
        Kind::Index => ending(".idx"),
        Kind::Sealed => named(true).collect(),
        Kind::Active => named(false).collect(),
        _ => {
            let all = ending(".seg").into_iter();
            all.filter(|name| !named(true).chain(named(false)).any(|named| named == *name))
                .collect()
        }
    };
    if kind != Kind::Manifests && !names.is_empty() {
        names = vec![names.swap_remove(random.below(names.len() as u64) as usize)];
    }
    Some((Some(log.clone()), names.into_iter().map(|name| log.join(name)).collect()))
}

/// A region of a file, and a part of it.
fn region(
    kind: Kind,
    bytes: &[u8],
    frames: &[Frame],
    random: &mut Random,
) -> (&'static str, Range<usize>) {
    let length = bytes.len();
    let mut regions = vec![("all of it", 0..length), ("beyond the end", length..length + BLOCK)];
    match kind {
        Kind::Manifest | Kind::Manifests | Kind::Index if length >= 40 => {
            let archive = bytes[16..24].try_into().map_or(0, u64::from_le_bytes) as usize;
            let end = (32 + archive).min(length);
            let root = end.saturating_sub(112).max(32);
            regions.extend([
                ("magic and version", 0..12),
                ("checksum", 12..16),
                ("length and owner", 16..32),
                ("archive", 32..end),
                ("root of the archive", root..end),
                ("padding", end..length),
            ]);
        }
        Kind::Identity => regions.extend([("fields", 0..60), ("checksum", 60..64)]),
        Kind::Sealed | Kind::Active => regions.extend(of_segment(length, frames, random)),
        _ => {}
    }
    regions.retain(|(_, region)| !region.is_empty());
    let (name, region) = regions.swap_remove(random.below(regions.len() as u64) as usize);
    (name, part(region, random))
}

fn of_segment(
    length: usize,
    frames: &[Frame],
    random: &mut Random,
) -> Vec<(&'static str, Range<usize>)> {
    let mut regions = vec![("header", 0..128), ("behind the header", 128..BLOCK)];
    let batches: Vec<&Frame> = frames.iter().filter(|frame| !frame.mark).collect();
    let count = batches.len();
    if count > 0 {
        let places = [0, random.below(count as u64) as usize, count.saturating_sub(2), count - 1];
        for place in places {
            let Range { start, end } = batches[place].bytes;
            let batch = start + FRAME_HEADER_BYTES;
            regions.extend([
                ("frame header", start..batch),
                ("batch header", batch..(batch + 61).min(end)),
                ("records", (batch + 61).min(end)..end),
                ("padding", end..end.next_multiple_of(16)),
            ]);
        }
    }
    let mark = frames.iter().rfind(|frame| frame.mark);
    regions.extend(mark.map(|mark| ("mark", mark.bytes.clone())));
    let end = frames.last().map_or(BLOCK, |frame| frame.bytes.end.next_multiple_of(BLOCK));
    regions.push(("behind the last group", end.min(length)..length));
    regions
}

/// All of a region, the sector or the block that a byte of it lies in, or that byte.
fn part(region: Range<usize>, random: &mut Random) -> Range<usize> {
    let at = region.start + random.below(region.len() as u64) as usize;
    let around = |size: usize| at / size * size..at / size * size + size;
    match random.below(4) {
        0 => region,
        1 => around(512),
        2 => around(BLOCK),
        _ => at..at + 1,
    }
}

/// What a file becomes; `None` where that cannot be done.
fn change(
    deed: Deed,
    bytes: &[u8],
    part: &Range<usize>,
    earlier: &[Vec<u8>],
    random: &mut Random,
) -> Option<Vec<u8>> {
    let mut changed = bytes.to_vec();
    if deed == Deed::Truncate {
        changed.truncate(part.start);
        return Some(changed);
    }
    if changed.len() < part.end {
        changed.resize(part.end, 0);
    }
    match deed {
        Deed::Flip => {
            let at = part.start + random.below(part.len() as u64) as usize;
            changed[at] ^= 1 << random.below(8);
        }
        Deed::Zero => changed[part.clone()].fill(0),
        Deed::Scribble => random.fill(&mut changed[part.clone()]),
        Deed::Older => {
            let older = earlier.get(random.below(earlier.len().max(1) as u64) as usize)?;
            // Now and then the whole file.
            if random.chance(300_000) {
                return Some(older.clone());
            }
            changed[part.clone()].copy_from_slice(older.get(part.clone())?);
        }
        Deed::Misplace => {
            let blocks = bytes.len() / BLOCK;
            let (to, from) = (part.start / BLOCK, random.below(blocks.max(1) as u64) as usize);
            let from = bytes.get(from * BLOCK..(from + 1) * BLOCK)?;
            changed.get_mut(to * BLOCK..(to + 1) * BLOCK)?.copy_from_slice(from);
        }
        Deed::Truncate | Deed::Remove => {}
    }
    Some(changed)
}
