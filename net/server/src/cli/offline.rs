//! Commands that need no server.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `catena segment`.
#[derive(Subcommand, Debug)]
pub(crate) enum SegmentCommand {
    /// Show the header, the footer and every frame of segment files.
    Dump {
        /// Segment files.
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        /// Show the records of each batch, too.
        #[arg(long)]
        records: bool,
    },
    /// Read segment files through and check every checksum.
    Verify {
        /// Segment files.
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
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
