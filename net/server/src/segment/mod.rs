//! `catena segment`: looks into the files of a log. It opens them for reading only, locks nothing
//! and needs no server; one that runs meanwhile is not disturbed.

mod dump;
mod file;
#[cfg(test)]
mod tests;
mod verify;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use catena_log::io::FileName;

use crate::cli::{Exit, Output, SegmentCommand};

/// Stored bytes are not what was written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("damage found: {count}, the first: {first}")]
pub(crate) struct Damaged {
    count: u64,
    first: String,
}

impl Damaged {
    /// What it means to a script.
    pub(crate) const EXIT: Exit = Exit::Damaged;
}

/// Carries a command out; what it says goes to `out`.
///
/// # Errors
/// [`Damaged`], or what cannot be read.
pub(crate) fn run(
    command: &SegmentCommand,
    output: Output,
    out: &mut impl io::Write,
) -> anyhow::Result<()> {
    match command {
        SegmentCommand::Dump { paths, records } => {
            for path in paths {
                for file in segments(path)? {
                    dump::dump(&file, *records, output, out)?;
                }
            }
            Ok(())
        }
        SegmentCommand::Verify { paths } => verify::verify(paths, output, out),
    }
}

/// The segment files that `path` stands for: itself, or those of a log's directory.
fn segments(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let names = names(path)?.into_iter();
    let files = names.filter(|name| matches!(name, FileName::Segment(_)));
    let files: Vec<PathBuf> = files.map(|name| path.join(name.to_string())).collect();
    if files.is_empty() {
        bail!("{} holds no segment file", path.display());
    }
    Ok(files)
}

/// The files of a log in a directory, in the order of their names.
fn names(directory: &Path) -> anyhow::Result<Vec<FileName>> {
    let cannot = || format!("cannot read {}", directory.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).with_context(cannot)? {
        let name = entry.with_context(cannot)?.file_name();
        names.extend(name.to_str().and_then(FileName::parse));
    }
    names.sort_unstable();
    Ok(names)
}
