//! `catena segment verify`: every checksum, and that nothing is missing between.
//!
//! A server may be writing meanwhile: a manifest is replaced, a segment removed, a group half
//! there. So a log in which damage is seen is looked at once more. What a crash, or a write under
//! way, leaves behind what is proven durable is no damage but a note, by the rule of recovery.

use std::{
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use catena_format::{
    FrameSeed, Offset, Position, SegmentFooter, SegmentHeader, SegmentHeaderError,
};
use catena_log::{
    LogIdentity,
    io::{FileName, Slot},
    view::{ManifestView, SegmentView, check_index},
    walk::Fault,
};
use serde_json::json;

use super::{Damaged, file::SegmentFile, names};
use crate::{
    cli::Output,
    identity::{Identity, IdentityError},
};

/// Places that are told one by one for each log; the rest is counted.
const TOLD_MAX: usize = 1000;

/// Something at some place.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Finding {
    path: PathBuf,
    position: Option<Position>,
    offsets: Option<Range<Offset>>,
    what: String,
}

/// What a look at a log, or at a single file, brought.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Look {
    damage: Vec<Finding>,
    notes: Vec<Finding>,
    segments: u64,
    batches: u64,
    records: u64,
}

/// What is known of a segment from elsewhere.
#[derive(Clone, Default)]
struct Known {
    identity: Option<LogIdentity>,
    segment: Option<SegmentView>,
    /// Every offset below was durable.
    proven: Offset,
    /// What is known to be lost.
    damaged: Vec<Range<Offset>>,
}

/// Checks files, logs and data directories.
///
/// # Errors
/// [`Damaged`], or what cannot be read.
pub(super) fn verify(
    paths: &[PathBuf],
    output: Output,
    out: &mut impl io::Write,
) -> anyhow::Result<()> {
    let mut report = Report { output, out, count: 0, first: None };
    for path in paths {
        for (subject, look) in subjects(path)? {
            let mut found = look(&subject)?;
            if !found.damage.is_empty() {
                found = look(&subject)?;
            }
            report.tell(&subject, &found)?;
        }
    }
    report.end()
}

type Looker = fn(&Path) -> anyhow::Result<Look>;

/// What a path stands for, each with how it is looked at.
fn subjects(path: &Path) -> anyhow::Result<Vec<(PathBuf, Looker)>> {
    let is_root = path.join("meta").is_dir();
    if !path.is_dir() {
        return Ok(vec![(path.to_owned(), lone_file)]);
    }
    if !is_root {
        if names(path)?.is_empty() {
            bail!("{} holds no log", path.display());
        }
        return Ok(vec![(path.to_owned(), log)]);
    }
    let mut subjects: Vec<(PathBuf, Looker)> = vec![(path.to_owned(), identity)];
    let mut logs = vec![path.join("meta").join("catalog")];
    let partitions = path.join("p");
    if partitions.is_dir() {
        let cannot = || format!("cannot read {}", partitions.display());
        for entry in fs::read_dir(&partitions).with_context(cannot)? {
            logs.push(entry.with_context(cannot)?.path());
        }
    }
    logs[1..].sort();
    subjects.extend(logs.into_iter().map(|path| (path, log as Looker)));
    Ok(subjects)
}

fn identity(root: &Path) -> anyhow::Result<Look> {
    let mut look = Look::default();
    let path = root.join("meta").join("identity");
    match Identity::read(root) {
        Ok(Some(_)) => {}
        Ok(None) | Err(IdentityError::Missing(_)) => look.damaged(&path, "is missing".to_owned()),
        Err(error) => look.damaged(&path, error.to_string()),
    }
    Ok(look)
}

fn lone_file(path: &Path) -> anyhow::Result<Look> {
    let mut look = Look::default();
    let file =
        SegmentFile::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    look.segment(&file, &Known::default())?;
    Ok(look)
}

fn log(directory: &Path) -> anyhow::Result<Look> {
    let mut look = Look::default();
    // A topic that is deleted meanwhile takes its directory along.
    if !directory.is_dir() {
        return Ok(look);
    }
    let Some(manifest) = look.manifest(directory)? else {
        for name in names(directory)?.into_iter().filter(|n| matches!(n, FileName::Segment(_))) {
            look.named(&directory.join(name.to_string()), &Known::default())?;
        }
        return Ok(look);
    };
    for lost in &manifest.damaged {
        look.damage.push(Finding {
            path: directory.to_owned(),
            position: None,
            offsets: Some(lost.clone()),
            what: "are lost, as the log knows".to_owned(),
        });
    }
    for (at, segment) in manifest.segments.iter().enumerate() {
        let next = manifest.segments.get(at + 1).map(|next| next.base);
        let known = Known {
            identity: Some(manifest.identity),
            segment: Some(*segment),
            proven: next.unwrap_or(manifest.log_end).min(manifest.log_end),
            damaged: manifest.damaged.clone(),
        };
        look.named(&directory.join(FileName::Segment(segment.file).to_string()), &known)?;
        let index = directory.join(FileName::Index(segment.file).to_string());
        if let Some(bytes) = read(&index)?
            && let Err(error) = check_index(&bytes, manifest.identity.uid, segment.file)
        {
            let what = format!("is {error}: the segment is read through instead");
            look.notes.push(Finding { path: index, position: None, offsets: None, what });
        }
    }
    Ok(look)
}

impl Look {
    fn damaged(&mut self, path: &Path, what: String) {
        let path = path.to_owned();
        self.damage.push(Finding { path, position: None, offsets: None, what });
    }

    /// The newer of the two copies that can be read.
    fn manifest(&mut self, directory: &Path) -> anyhow::Result<Option<ManifestView>> {
        let mut newest: Option<ManifestView> = None;
        for slot in [Slot::First, Slot::Second] {
            let path = directory.join(FileName::Manifest(slot).to_string());
            match read(&path)?.map(|bytes| ManifestView::read(&bytes)) {
                None => self.damaged(&path, "is missing".to_owned()),
                Some(Err(error)) => self.damaged(&path, error.to_string()),
                Some(Ok(view)) => {
                    let newer = newest.as_ref().is_none_or(|n| n.generation < view.generation);
                    newest = if newer { Some(view) } else { newest };
                }
            }
        }
        Ok(newest)
    }

    /// A segment file that should be there.
    fn named(&mut self, path: &Path, known: &Known) -> anyhow::Result<()> {
        match SegmentFile::open(path) {
            Ok(file) => self.segment(&file, known),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.damaged(path, "is missing".to_owned());
                Ok(())
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn segment(&mut self, file: &SegmentFile, known: &Known) -> anyhow::Result<()> {
        let path = &file.path;
        let seed = match (known.identity, known.segment) {
            (Some(identity), Some(segment)) => {
                Some(FrameSeed { uid: identity.uid, file: segment.file })
            }
            _ => file.seed(),
        };
        let Some(seed) = seed else { bail!("{} is no segment file", path.display()) };
        self.segments += 1;
        let mut check = Check::new(file, known);
        check.header(&file.header, known)?;
        let sealed = known.segment.and_then(|segment| segment.sealed);
        let end = sealed.map_or(Position::new(u64::MAX), |end| end.position);
        let last = file.walk(seed, end, |frame| {
            check.frame(&frame);
            Ok(())
        })?;
        self.batches += check.batches;
        self.records += check.records;
        check.end(file, last)?;
        let Check { pending, proven, .. } = check;
        for (finding, surely) in pending {
            let lost = finding.offsets.as_ref().is_some_and(|offsets| offsets.start < proven);
            let told = finding.offsets.as_ref().is_some_and(|offsets| {
                known.damaged.iter().any(|d| d.start <= offsets.start && offsets.end <= d.end)
            });
            match surely || lost {
                true if told => {}
                true => self.damage.push(finding),
                false => self.notes.push(finding),
            }
        }
        Ok(())
    }
}

/// A segment while it is walked through.
struct Check<'a> {
    path: &'a Path,
    expected: Offset,
    /// Where the manifest says that the segment ends.
    end: Option<Offset>,
    /// Behind the last good frame.
    position: Position,
    proven: Offset,
    batches: u64,
    records: u64,
    /// What was found, and whether it is damage whatever is proven.
    pending: Vec<(Finding, bool)>,
}

impl<'a> Check<'a> {
    fn new(file: &'a SegmentFile, known: &Known) -> Self {
        let base = file.header.map_or(Offset::ZERO, |header| header.base_offset);
        let base = known.segment.map_or(base, |segment| segment.base);
        let (expected, proven, position) = (base, known.proven, Position::new(4096));
        let (batches, records, pending) = (0, 0, Vec::new());
        let end = known.segment.and_then(|segment| segment.sealed).map(|end| end.offset);
        Self { path: &file.path, expected, end, position, proven, batches, records, pending }
    }

    fn found(
        &mut self,
        position: Position,
        offsets: Option<Range<Offset>>,
        what: String,
        surely: bool,
    ) {
        let finding =
            Finding { path: self.path.to_owned(), position: Some(position), offsets, what };
        self.pending.push((finding, surely));
    }

    fn header(
        &mut self,
        header: &Result<SegmentHeader, SegmentHeaderError>,
        known: &Known,
    ) -> anyhow::Result<()> {
        let what = match header {
            Err(error @ (SegmentHeaderError::Version(_) | SegmentHeaderError::Features(_))) => {
                bail!("cannot read {}: {error}", self.path.display())
            }
            Err(error) => error.to_string(),
            Ok(header) => match foreign(header, known) {
                Some(what) => format!("the header belongs elsewhere, by its {what}"),
                None => return Ok(()),
            },
        };
        // A crash may have come before the header: then nothing is proven here.
        let next = self.expected.checked_add(1).unwrap_or(Offset::MAX);
        let surely = header.is_ok() || known.segment.is_none();
        self.found(Position::ZERO, Some(self.expected..next), what, surely);
        Ok(())
    }

    fn frame(&mut self, frame: &super::file::Frame<'_>) {
        let (header, position) = (&frame.header, frame.position);
        // The log was cut before it.
        if self.end.is_some_and(|end| header.next_offset() > end) {
            return;
        }
        self.gap(header.base_offset, "no frame holds them");
        self.proven = self.proven.max(header.durable_end);
        self.expected = header.next_offset();
        self.position = position.plus(header.frame_bytes() as u64);
        match frame.fault {
            Some(fault) => {
                let offsets = header.base_offset..header.next_offset();
                // A batch that is not whole may be a write under way; another was never right.
                let surely = fault != Fault::Payload;
                self.found(position, Some(offsets), fault.to_string(), surely);
            }
            None if !header.mark => {
                self.batches += 1;
                self.records += u64::from(header.count);
            }
            None => {}
        }
    }

    fn gap(&mut self, next: Offset, what: &str) {
        if self.expected < next {
            let gap = self.expected..next;
            self.found(self.position, Some(gap), what.to_owned(), false);
        }
    }

    /// What is behind the last frame.
    fn end(&mut self, file: &SegmentFile, last: Position) -> anyhow::Result<()> {
        if let Some(end) = self.end {
            self.proven = self.proven.max(end);
            self.gap(end, "the segment ends before");
        } else {
            self.gap(self.proven, "they were durable, and the segment ends before");
            if file.has_more(last)? {
                let what = "something behind the last frame is no frame: a write that was cut off";
                self.found(last, None, what.to_owned(), false);
            }
        }
        let whole = self.pending.is_empty();
        // One that tells of more was written before the log was cut.
        let cut = |footer: &SegmentFooter| self.end.is_some_and(|end| footer.end_offset > end);
        if let Some(footer) = file.footer(last)?.filter(|footer| whole && !cut(footer)) {
            let counted = (footer.end_offset, footer.batches, footer.records);
            if counted != (self.expected, self.batches, self.records) {
                let (end, batches, records) = counted;
                let what = format!(
                    "the footer tells of {batches} batches and {records} records to offset {end}, \
                     the frames of {} and {} to {}",
                    self.batches, self.records, self.expected
                );
                self.found(footer.end_position, None, what, true);
            }
        }
        Ok(())
    }
}

/// In what the header of a file does not agree with the manifest.
fn foreign(header: &SegmentHeader, known: &Known) -> Option<&'static str> {
    let (identity, segment) = (known.identity?, known.segment?);
    let agreed = [
        ("cluster", header.cluster == identity.cluster),
        ("topic", header.topic == identity.topic),
        ("partition", header.partition == identity.partition),
        ("uid", header.uid == identity.uid),
        ("file number", header.file == segment.file),
        ("base offset", header.base_offset == segment.base),
    ];
    agreed.into_iter().find(|(_, agreed)| !agreed).map(|(what, _)| what)
}

/// The bytes of a small file; `None` when it is not there.
fn read(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

struct Report<'a, W> {
    output: Output,
    out: &'a mut W,
    count: u64,
    first: Option<Finding>,
}

impl<W: io::Write> Report<'_, W> {
    fn tell(&mut self, subject: &Path, look: &Look) -> anyhow::Result<()> {
        self.count += look.damage.len() as u64;
        self.first = self.first.take().or_else(|| look.damage.first().cloned());
        for finding in look.notes.iter().take(TOLD_MAX) {
            self.finding("note", finding)?;
        }
        for finding in look.damage.iter().take(TOLD_MAX) {
            self.finding("damage", finding)?;
        }
        let (path, damage) = (subject.display().to_string(), look.damage.len());
        let Look { segments, batches, records, .. } = look;
        if self.output == Output::Json {
            let json = json!({
                "kind": "checked", "path": path, "segments": segments, "batches": batches,
                "records": records, "damage": damage, "notes": look.notes.len(),
            });
            return Ok(writeln!(self.out, "{json}")?);
        }
        let verdict = if damage == 0 { "sound".to_owned() } else { format!("damaged: {damage}") };
        let counted = format!("{segments} segments, {batches} batches, {records} records");
        Ok(writeln!(self.out, "{path}: {counted}: {verdict}")?)
    }

    fn finding(&mut self, kind: &str, finding: &Finding) -> anyhow::Result<()> {
        if self.output == Output::Json {
            let json = json!({
                "kind": kind, "path": finding.path.display().to_string(),
                "position": finding.position.map(Position::get),
                "from": finding.offsets.as_ref().map(|offsets| offsets.start.get()),
                "to": finding.offsets.as_ref().map(|offsets| offsets.end.get()),
                "what": finding.what,
            });
            return Ok(writeln!(self.out, "{json}")?);
        }
        Ok(writeln!(self.out, "{kind}: {finding}")?)
    }

    fn end(self) -> anyhow::Result<()> {
        match self.first {
            None => Ok(()),
            Some(first) => Err(Damaged { count: self.count, first: first.to_string() }.into()),
        }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(position) = self.position {
            write!(f, " at {position}")?;
        }
        if let Some(offsets) = &self.offsets {
            write!(f, ", offsets {} to {}", offsets.start, offsets.end)?;
        }
        write!(f, ": {}", self.what)
    }
}
