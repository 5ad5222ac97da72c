//! Commands that need no server.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `catena segment`.
#[derive(Subcommand, Debug)]
pub(crate) enum SegmentCommand {
    /// Show the header, every frame and the footer of segment files.
    ///
    /// Each frame comes with its place, and with whether its checksums hold. Nothing is written.
    Dump {
        /// Segment files, or directories of logs.
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<PathBuf>,
        /// Show the head of each record, too: offset, timestamp, and lengths.
        #[arg(long)]
        records: bool,
    },
    /// Read what is stored through, and check every checksum and that no offset is missing.
    ///
    /// Damage is named with file, position and offsets, and ends with exit code 5; what cannot be
    /// read at all with 1. Nothing is written, and a server may be running. What stands behind the
    /// last offset that is proven durable, as a crash or a write under way leaves it, is a note.
    Verify {
        /// Segment files, directories of logs, or a data directory.
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<PathBuf>,
    },
}

/// `catena completions`.
#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
}

/// `catena man`.
#[derive(Args, Debug)]
pub(crate) struct ManArgs {
    /// The directory; created if missing.
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
}
