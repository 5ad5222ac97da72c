//! The entries in a [`Log`], over ordinary files: an entry is a batch of one record, its index is
//! its offset.

use std::{
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use catena_blocking::{Folder, Heap, Share};
use catena_format::{
    BATCH_HEADER_BYTES, BatchHeader, Epoch, Millis, Offset, frame,
    records::{BatchBuilder, Producer, Records},
};
use catena_log::{
    AppendError, Cut, Event, Log, LogConfig, LogIdentity, Now, OpenError, Opening, ReadAnswer,
    ReadOutcome,
    io::{Done, IoError},
};

use crate::types::Entry;

/// Terms stand in the entries; to the log all is of one epoch.
const EPOCH: Epoch = Epoch::new(1);
/// The first byte of a record's value: how the rest is to be read.
const ENTRY_VERSION: u8 = 1;
/// How much is read at once when the log is opened.
const READ_BYTES: usize = 4 << 20;

/// Why the log cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Entries that others count on cannot be read any more.
    #[error("entries from index {0} on are damaged: add this node anew")]
    Damaged(Offset),
    /// An entry cannot be read.
    #[error("the entry at index {0} cannot be read: {1}")]
    Entry(Offset, String),
    /// Nothing more is written.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// A write failed.
    #[error(transparent)]
    Io(#[from] IoError),
}

/// The open log, and the files that it is in.
pub(super) struct Entries {
    folder: Folder,
    identity: LogIdentity,
    config: LogConfig,
    log: Log<Heap, ()>,
    born: Instant,
}

impl Entries {
    pub(super) fn open(
        path: &Path,
        identity: LogIdentity,
        segment_bytes: u64,
        create: bool,
        cut: Option<Cut>,
    ) -> Result<Self, LogError> {
        let config = LogConfig { segment_bytes, tail_cache_bytes: 0, ..LogConfig::default() };
        let (folder, born) = (Folder::new(path.to_owned()), Instant::now());
        let log = open(&folder, identity, config, create, cut, now(born))?;
        if let Some(damaged) = log.damaged().first() {
            return Err(LogError::Damaged(damaged.start));
        }
        Ok(Self { folder, identity, config, log, born })
    }

    /// The first index.
    pub(super) fn start(&self) -> u64 {
        self.log.log_start().get()
    }

    /// The next index to give.
    pub(super) fn end(&self) -> u64 {
        self.log.log_end().get()
    }

    /// Appends an entry that stands at [`Entries::end`]; it is not durable yet.
    pub(super) fn append(&mut self, entry: &Entry) -> Result<(), LogError> {
        let at = self.log.log_end();
        assert_eq!(entry.log_id.index, at.get(), "entries are appended without a gap");
        let unfit = |error: String| LogError::Entry(at, error);
        let value =
            postcard::to_extend(entry, vec![ENTRY_VERSION]).map_err(|e| unfit(e.to_string()))?;
        let mut builder = BatchBuilder::new();
        builder.push(now(self.born).wall, None, Some(&value), &[]);
        let batch = builder.build(Producer::NONE).map_err(|e| unfit(e.to_string()))?;
        let header = BatchHeader::parse(&batch).map_err(|e| unfit(e.to_string()))?;
        let crc = frame::payload_crc(&batch);
        if self.log.undurable_bytes() > catena_log::config::UNDURABLE_BYTES_MAX / 2 {
            self.flush()?;
        }
        self.log.append(&batch, &header, crc, EPOCH, now(self.born))?;
        Ok(())
    }

    /// Makes durable what was appended.
    pub(super) fn flush(&mut self) -> Result<(), LogError> {
        self.run();
        match self.log.poisoned() {
            Some(error) => Err(error.into()),
            None if self.log.durable_end() < self.log.log_end() => Err(IoError::ShortWrite.into()),
            None => Ok(()),
        }
    }

    fn run(&mut self) -> Vec<Event<Share>> {
        while let Some((id, op)) = self.log.poll_op() {
            let result = self.folder.perform(op);
            self.log.on_done(Done { id, result }, now(self.born));
        }
        std::iter::from_fn(|| self.log.poll_event()).collect()
    }

    /// Leaves something out; durable when it returns.
    pub(super) fn cut(&mut self, cut: Cut) -> Result<(), LogError> {
        self.flush()?;
        // Nothing is under way, and this log is not asked for anything any more.
        self.log =
            open(&self.folder, self.identity, self.config, false, Some(cut), now(self.born))?;
        Ok(())
    }

    /// Drops what stands before an index, a segment at a time.
    pub(super) fn trim(&mut self, start: u64) -> Result<(), LogError> {
        let at = Offset::new(start);
        self.log.trim(at).map_err(|e| LogError::Entry(at, e.to_string()))?;
        self.flush()
    }

    /// Does what time brings; when to come again.
    pub(super) fn tick(&mut self) -> Result<Duration, LogError> {
        self.log.on_tick(now(self.born));
        self.flush()?;
        Ok(self.log.next_tick().saturating_sub(self.born.elapsed()))
    }

    /// Leaves a mark that all is durable.
    pub(super) fn close(&mut self) {
        self.log.close();
        self.run();
    }

    /// All entries, in order.
    pub(super) fn read_all(&mut self) -> Result<Vec<Entry>, LogError> {
        let (mut at, end) = (self.log.log_start(), self.log.durable_end());
        let mut entries = Vec::new();
        while at < end {
            let unreadable = {
                let at = at;
                move |error: String| LogError::Entry(at, error)
            };
            let outcome = self.log.read(at, READ_BYTES, end);
            let batches = match outcome.map_err(|e| unreadable(e.to_string()))? {
                ReadOutcome::Ready(batches) => batches,
                ReadOutcome::Pending(_) => self
                    .run()
                    .into_iter()
                    .find_map(|event| match event {
                        Event::Read(_, Ok(ReadAnswer::Batches(batches))) => Some(batches),
                        _ => None,
                    })
                    .ok_or_else(|| unreadable("the disk does not give it".to_owned()))?,
            };
            for share in &batches.shares {
                let entry = decode(share).map_err(unreadable)?;
                if entry.log_id.index != at.get() {
                    return Err(unreadable(format!("it says that it is {}", entry.log_id)));
                }
                entries.push(entry);
                at = at.checked_add(1).ok_or(LogError::Damaged(at))?;
            }
            if batches.is_empty() {
                return Err(LogError::Damaged(at));
            }
        }
        Ok(entries)
    }
}

fn open(
    folder: &Folder,
    identity: LogIdentity,
    config: LogConfig,
    create: bool,
    cut: Option<Cut>,
    now: Now,
) -> Result<Log<Heap, ()>, OpenError> {
    let mut opening = Opening::new(identity, config, create, Heap, ());
    if let Some(cut) = cut {
        opening = opening.cut(cut);
    }
    loop {
        let (id, op) = opening.poll_op().expect("an opening goes on until it has ended");
        let result = folder.perform(op);
        if let Some(log) = opening.on_done(Done { id, result }, now)? {
            return Ok(log);
        }
    }
}

fn decode(batch: &[u8]) -> Result<Entry, String> {
    let header = BatchHeader::parse(batch).map_err(|e| e.to_string())?;
    header.verify(batch).map_err(|e| e.to_string())?;
    let records = Records::new(&batch[BATCH_HEADER_BYTES..], 1, header.base_timestamp);
    let mut values = records.map(|record| record.map(|record| record.value));
    match (header.count, values.next()) {
        (1, Some(Ok(Some([ENTRY_VERSION, rest @ ..])))) => match postcard::take_from_bytes(rest) {
            Ok((entry, [])) => Ok(entry),
            Ok(_) => Err("bytes are left behind it".to_owned()),
            Err(error) => Err(error.to_string()),
        },
        (1, Some(Ok(Some([version, ..])))) => {
            Err(format!("version {version} is unknown to this build"))
        }
        _ => Err("the batch is not that of an entry".to_owned()),
    }
}

fn now(born: Instant) -> Now {
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let wall = Millis::new(i64::try_from(wall.as_millis()).unwrap_or(i64::MAX));
    Now { wall, monotonic: born.elapsed() }
}
