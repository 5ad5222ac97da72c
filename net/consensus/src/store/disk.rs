//! The thread that writes the log and the vote.

use std::{io, time::Duration};

use catena_format::Offset;
use catena_log::Cut;
use openraft::storage::LogFlushed;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{
    FileError, file,
    log::{Entries, LogError},
    opening::{Paths, STATE_MAGIC},
};
use crate::types::{Entry, LogId, Types, Vote};

/// Jobs that wait, at most.
pub(super) const JOBS_MAX: usize = 256;
/// Appends that become durable together, at most.
const APPENDS_TOGETHER: usize = 64;

/// Time is looked at no more often than this.
const TICK_LEAST: Duration = Duration::from_millis(1);

pub(super) type Answer<T> = oneshot::Sender<Result<T, io::Error>>;

/// What is to be written; the committed entry is written where a file is anyway.
pub(super) enum Job {
    Vote(Vote, Option<LogId>, Answer<()>),
    Append(Vec<Entry>, LogFlushed<Types>),
    Truncate(u64),
    Purge(LogId, Option<LogId>),
    Stop(Option<LogId>, Answer<()>),
}

/// What the small file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
    pub(super) committed: Option<LogId>,
}

/// Why nothing is written any more.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum DiskError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("{0}: {1}")]
    File(&'static str, FileError),
}

/// The files, and what they say.
pub(super) struct Disk {
    pub(super) paths: Paths,
    pub(super) entries: Entries,
    pub(super) state: State,
    /// After one failure nothing is written: what the disk holds is not known any more.
    pub(super) failed: Option<DiskError>,
}

impl Disk {
    /// Does jobs until there will be none, or the last was to stop.
    pub(super) fn run(mut self, jobs: &flume::Receiver<Job>) {
        let mut next = None;
        loop {
            let job = match next.take() {
                Some(job) => job,
                None => match jobs.recv_timeout(self.tick()) {
                    Ok(job) => job,
                    Err(flume::RecvTimeoutError::Timeout) => continue,
                    Err(flume::RecvTimeoutError::Disconnected) => return,
                },
            };
            match job {
                Job::Append(entries, flushed) => {
                    next = self.append(vec![(entries, flushed)], jobs);
                }
                Job::Stop(committed, answer) => {
                    self.answer(answer, |disk| {
                        disk.write_state(State { committed, ..disk.state })?;
                        disk.entries.close();
                        Ok(())
                    });
                    return;
                }
                job => self.carry_out(job),
            }
        }
    }

    /// Appends, together with what else is to be appended by now; the job behind.
    fn append(
        &mut self,
        mut all: Vec<(Vec<Entry>, LogFlushed<Types>)>,
        jobs: &flume::Receiver<Job>,
    ) -> Option<Job> {
        let mut next = None;
        while all.len() < APPENDS_TOGETHER && next.is_none() {
            match jobs.try_recv() {
                Ok(Job::Append(entries, flushed)) => all.push((entries, flushed)),
                Ok(other) => next = Some(other),
                Err(_) => break,
            }
        }
        self.unless_failed(|disk| {
            let mut entries = all.iter().flat_map(|(entries, _)| entries);
            entries.try_for_each(|entry| disk.entries.append(entry))?;
            Ok(disk.entries.flush()?)
        });
        for (_, flushed) in all {
            flushed.log_io_completed(self.failure());
        }
        next
    }

    fn carry_out(&mut self, job: Job) {
        match job {
            Job::Vote(vote, committed, answer) => self.answer(answer, |disk| {
                disk.write_state(State { vote: Some(vote), committed, ..disk.state })
            }),
            Job::Truncate(since) => {
                let cut = Cut::Behind(Offset::new(since));
                self.unless_failed(|disk| Ok(disk.entries.cut(cut)?));
            }
            Job::Purge(upto, committed) => self.unless_failed(|disk| disk.purge(upto, committed)),
            Job::Append(..) | Job::Stop(..) => unreachable!("the loop does these"),
        }
    }

    fn write_state(&mut self, state: State) -> Result<(), DiskError> {
        if state != self.state {
            file::write(&self.paths.state(), STATE_MAGIC, &state)
                .map_err(|e| DiskError::File("state", e))?;
            self.state = state;
        }
        Ok(())
    }

    /// The file says first where the log is to begin: a crash in between leaves entries that
    /// nobody asks for.
    fn purge(&mut self, upto: LogId, committed: Option<LogId>) -> Result<(), DiskError> {
        let purged = self.state.purged.max(Some(upto));
        self.write_state(State { purged, committed, ..self.state })?;
        Ok(begin_behind(&mut self.entries, upto.index)?)
    }

    /// Does what time brings; how long there is nothing more.
    fn tick(&mut self) -> Duration {
        let mut wait = Duration::from_secs(1);
        self.unless_failed(|disk| {
            wait = disk.entries.tick()?.max(TICK_LEAST);
            Ok(())
        });
        wait
    }

    fn unless_failed(&mut self, work: impl FnOnce(&mut Self) -> Result<(), DiskError>) {
        if self.failed.is_none() {
            self.failed = work(self).err();
            if let Some(error) = &self.failed {
                tracing::error!(%error, "the consensus log cannot be written any more");
            }
        }
    }

    fn failure(&self) -> Result<(), io::Error> {
        self.failed.as_ref().map_or(Ok(()), |error| Err(io::Error::other(error.to_string())))
    }

    fn answer(
        &mut self,
        answer: Answer<()>,
        work: impl FnOnce(&mut Self) -> Result<(), DiskError>,
    ) {
        self.unless_failed(work);
        // Whoever asked may have gone.
        let _ = answer.send(self.failure());
    }
}

/// Has a log begin behind an index, whether it has come so far or not.
pub(super) fn begin_behind(entries: &mut Entries, index: u64) -> Result<(), LogError> {
    let first = index + 1;
    if entries.end() < first {
        return entries.cut(Cut::All { first: Offset::new(first), fold: Vec::new() });
    }
    if entries.start() < first { entries.trim(first) } else { Ok(()) }
}
