//! Batches, one after another.

use std::{
    future::poll_fn,
    sync::Arc,
    time::{Duration, Instant},
};

use catena_format::{Offset, PartitionIndex};

use super::{client::Client, driver::Driver};
use crate::{
    batch::Batch,
    core::reader::Reader,
    error::Error,
    options::{ConsumerOptions, seed, starts},
    shared::SharedReader,
    ticket::{block_on, block_until},
};

/// Reads a topic, batch by batch: an iterator that waits.
///
/// Within a partition batches come in order; between partitions there is no order. After an error
/// of one partition the others go on, and that one does after a [`Consumer::seek`]; the iterator
/// ends when every partition has failed. Dropping it forgets what was fetched and not taken; the
/// server keeps no trace of a consumer.
#[derive(Debug)]
pub struct Consumer {
    shared: Arc<SharedReader>,
}

impl Consumer {
    pub(super) fn new(
        client: &mut Client,
        topic: &str,
        options: ConsumerOptions,
    ) -> Result<Self, Error> {
        let metadata = client.topic(topic)?;
        let mut begin = Vec::new();
        for (partition, start) in starts(&metadata, &options)? {
            let mut offset = start.offset();
            for query in start.queries() {
                if offset.is_none() {
                    offset = client.offset(metadata.id, partition, query)?;
                }
            }
            begin.push((partition, offset.unwrap_or_default()));
        }
        let hello = client.hello()?;
        let (nodes, wait) = (client.nodes()?, client.options().request_timeout);
        let (driver, bell) = Driver::new(wait);
        let topic = (&metadata, nodes);
        let core = Reader::new(topic, options, hello, wait, &begin, seed());
        let shared = Arc::new(SharedReader::new(core, bell));
        driver.spawn("catena-consume", shared.clone())?;
        Ok(Self { shared })
    }

    /// The next batch, waiting for so long at most; `None`: there was none in time, or there will
    /// be none.
    ///
    /// # Errors
    /// See [`Consumer`] and [`Error`].
    pub fn next_within(&mut self, wait: Duration) -> Result<Option<Batch>, Error> {
        let until = Instant::now().checked_add(wait);
        let next = poll_fn(|context| self.shared.poll_next(context));
        block_until(next, until).flatten().transpose()
    }

    /// Goes on at another offset of a partition.
    ///
    /// # Errors
    /// When the consumer does not read that partition.
    pub fn seek(&mut self, partition: PartitionIndex, offset: Offset) -> Result<(), Error> {
        self.shared.with(|core| core.seek(partition, offset))
    }

    /// The partitions that are read.
    #[must_use]
    pub fn partitions(&self) -> Vec<PartitionIndex> {
        self.shared.with(|core| core.partitions())
    }

    /// The offset of a partition behind what was taken; `None`: it is not read.
    #[must_use]
    pub fn position(&self, partition: PartitionIndex) -> Option<Offset> {
        self.shared.with(|core| core.position(partition))
    }

    /// The end of a partition as the server last told it; zero before it did.
    #[must_use]
    pub fn high_watermark(&self, partition: PartitionIndex) -> Option<Offset> {
        self.shared.with(|core| core.high_watermark(partition))
    }
}

impl Iterator for Consumer {
    type Item = Result<Batch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        block_on(poll_fn(|context| self.shared.poll_next(context)))
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.shared.finish();
    }
}
