//! The thread that writes and reads snapshots: long work, for which no vote and no entry waits.

use std::{io, path::PathBuf};

use super::{
    disk::Answer,
    file::{self, FileError},
    opening::SNAPSHOT_MAGIC,
};
use crate::types::{LogId, Meta};

/// Jobs that wait, at most.
pub(super) const SNAPSHOT_JOBS_MAX: usize = 4;

pub(super) enum SnapshotJob {
    /// Replaces the snapshot, unless there is a newer one.
    Keep(Meta, Vec<u8>, Answer<()>),
    Read(Answer<Option<(Meta, Vec<u8>)>>),
}

/// The file, and how far the snapshot in it goes.
pub(super) struct Snapshots {
    pub(super) path: PathBuf,
    /// What other nodes take, at most.
    pub(super) bytes_max: usize,
    pub(super) last: Option<LogId>,
}

impl Snapshots {
    /// Does jobs until there will be none.
    pub(super) fn run(mut self, jobs: &flume::Receiver<SnapshotJob>) {
        // Whoever asked may have gone.
        while let Ok(job) = jobs.recv() {
            match job {
                SnapshotJob::Keep(meta, bytes, answer) => {
                    let _ = answer.send(self.keep(&(meta, bytes)).map_err(failure));
                }
                SnapshotJob::Read(answer) => {
                    let read = file::read(&self.path, SNAPSHOT_MAGIC, usize::MAX);
                    let _ = answer.send(read.map_err(failure));
                }
            }
        }
    }

    fn keep(&mut self, snapshot: &(Meta, Vec<u8>)) -> Result<(), FileError> {
        let last = snapshot.0.last_log_id;
        // One that was begun before the leader's came, and ended after.
        if last < self.last {
            return Ok(());
        }
        if snapshot.1.len() > self.bytes_max {
            tracing::error!(bytes = snapshot.1.len(), "no other node can take this snapshot");
        }
        file::write(&self.path, SNAPSHOT_MAGIC, snapshot)?;
        self.last = last;
        Ok(())
    }
}

fn failure(error: FileError) -> io::Error {
    tracing::error!(%error, "the snapshot cannot be written or read");
    io::Error::other(format!("snapshot: {error}"))
}
