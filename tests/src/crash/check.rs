//! Reads back all that can be read and compares it with the books.

use std::{collections::BTreeMap, time::Duration};

use catena_client::{
    Client, Error, ErrorCode, FetchOptions, Fetched, OffsetQuery,
    format::{Offset, PartitionIndex, TopicId},
};

use super::books::{Books, Finding, Id, Page};

/// What a log frame and its group may take beside the batch.
const GROUP_BYTES: u64 = 4096 + 64;

/// What the topic may do with old records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention {
    /// So many bytes of each partition are kept.
    pub bytes: u64,
    /// So many fewer may be there: segments are dropped whole, headers and marks count, and so did
    /// the end of the log that a crash took.
    pub slack: u64,
}

/// What a comparison came to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Checked {
    /// Records that were read.
    pub read: u64,
    /// Of those that had to be there.
    pub must: u64,
}

/// Compares every partition with the books. What is not as it should be is noted there.
///
/// # Errors
/// When the server does not answer.
pub fn everything(
    client: &mut Client,
    topic: TopicId,
    books: &Books,
    retention: Option<Retention>,
) -> Result<Checked, Error> {
    let mut sum = Checked::default();
    for partition in 0..books.partitions() {
        // The books first: what comes meanwhile may be there, what they hold must be.
        let page = books.copy_of(partition);
        let mut reading = Reading::new(page, retention);
        match reading.read(client, topic, partition, books) {
            Ok(()) => books.found(partition, reading.compare()),
            Err(Stop::Broken(finding)) => books.found::<()>(partition, Err(finding)),
            Err(Stop::Failed(error)) => return Err(error),
        }
        sum.read += reading.read;
        sum.must += reading.met;
        books.on_start(partition, reading.start);
    }
    Ok(sum)
}

/// Why reading stopped.
enum Stop {
    Broken(Finding),
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        match error {
            Error::Unreadable { .. } => Self::Broken(Finding::Lost(error.to_string())),
            error => Self::Failed(error),
        }
    }
}

impl From<Finding> for Stop {
    fn from(finding: Finding) -> Self {
        Self::Broken(finding)
    }
}

/// A partition as it is read.
struct Reading {
    page: Page,
    retention: Option<Retention>,
    start: u64,
    next: u64,
    end: u64,
    /// The last number of each producer.
    last: BTreeMap<u32, u32>,
    read: u64,
    /// Records that had to be there and are.
    met: u64,
    /// What is read may take so many bytes on the disk.
    bytes: u64,
}

impl Reading {
    fn new(page: Page, retention: Option<Retention>) -> Self {
        let last = BTreeMap::new();
        Self { page, retention, start: 0, next: 0, end: 0, last, read: 0, met: 0, bytes: 0 }
    }

    fn read(
        &mut self,
        client: &mut Client,
        topic: TopicId,
        partition: u32,
        books: &Books,
    ) -> Result<(), Stop> {
        let index = PartitionIndex::new(partition);
        let ask = |client: &mut Client, query| {
            let offset = client.offset(topic, index, query)?;
            Ok::<_, Stop>(offset.map_or(0, Offset::get))
        };
        self.end = ask(client, OffsetQuery::Latest)?;
        self.begin(ask(client, OffsetQuery::Earliest)?);
        if self.end < self.page.seen_end {
            let (end, seen) = (self.end, self.page.seen_end);
            return Err(Finding::Lost(format!("it ends at {end}, readers saw {seen}")).into());
        }
        while self.next < self.end {
            let options = FetchOptions { max_bytes: 1 << 20, max_wait: Duration::ZERO };
            match client.fetch(topic, index, Offset::new(self.next), options) {
                Ok(fetched) => self.take(&fetched, partition, books)?,
                Err(error) if self.is_trimmed(&error) => {
                    self.begin(ask(client, OffsetQuery::Earliest)?);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reading begins here: at first, and again when retention was faster.
    fn begin(&mut self, start: u64) {
        (self.start, self.next) = (start, start);
        self.last.clear();
        (self.read, self.met, self.bytes) = (0, 0, 0);
    }

    fn is_trimmed(&self, error: &Error) -> bool {
        let out = matches!(error, Error::Unreadable { code: ErrorCode::OffsetOutOfRange, .. });
        out && self.retention.is_some()
    }

    fn take(&mut self, fetched: &Fetched, partition: u32, books: &Books) -> Result<(), Stop> {
        let from = self.next;
        for batch in fetched.batches() {
            self.bytes += batch?.1.len() as u64 + GROUP_BYTES;
        }
        fetched.each_record(Offset::new(from), |offset, record| {
            let id = books.id(partition, record.value.unwrap_or_default())?;
            Ok::<_, Stop>(self.record(offset.get(), id)?)
        })?;
        if fetched.next_offset.get() != self.next || self.next == from {
            let text = format!("a fetch from {from} goes on at {}", fetched.next_offset);
            return Err(Finding::Wrong(text).into());
        }
        Ok(())
    }

    fn record(&mut self, offset: u64, id: Id) -> Result<(), Finding> {
        if offset != self.next {
            return Err(Finding::Wrong(format!("offset {offset} follows {}", self.next)));
        }
        self.next += 1;
        self.read += 1;
        match self.page.must.get(&offset) {
            Some(known) if *known != id => {
                return Err(Finding::Lost(format!("offset {offset} was {known}, and is {id}")));
            }
            Some(_) => self.met += 1,
            None => {}
        }
        // Numbers follow each other; where old records are gone, from any on.
        let first = if self.start == 0 { Some(0) } else { None };
        let expected = self.last.get(&id.producer).map(|last| last + 1).or(first);
        self.last.insert(id.producer, id.number);
        match expected {
            Some(expected) if id.number < expected => {
                Err(Finding::Duplicated(format!("{id} at offset {offset}")))
            }
            Some(expected) if id.number > expected => {
                Err(Finding::Lost(format!("{id} at offset {offset} comes where {expected} should")))
            }
            _ => Ok(()),
        }
    }

    /// What the books have and the partition has not.
    fn compare(&self) -> Result<(), Finding> {
        let due = self.page.must.range(self.start..);
        let behind = self.page.must.range(self.end..).next();
        if let Some((offset, id)) = behind {
            let end = self.end;
            return Err(Finding::Lost(format!("{id} at offset {offset}: it ends at {end}")));
        }
        let due = due.count() as u64;
        if self.met != due {
            return Err(Finding::Lost(format!("{} of {due} records are there", self.met)));
        }
        let kept = self.retention.map_or(0, |kept| kept.bytes.saturating_sub(kept.slack));
        let too_much = self.start > self.page.start && self.bytes < kept;
        if self.start > 0 && self.retention.is_none() && self.start != self.page.start || too_much {
            let (start, bytes) = (self.start, self.bytes);
            return Err(Finding::Lost(format!("it begins at {start}, with {bytes} bytes or less")));
        }
        Ok(())
    }
}
