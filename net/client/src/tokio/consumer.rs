//! Batches, one after another.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use catena_format::{Offset, PartitionIndex};
use futures_core::Stream;

use super::{client::Client, driver::Driver};
use crate::{
    batch::Batch,
    core::reader::Reader,
    error::Error,
    options::{ConsumerOptions, seed, starts},
    shared::SharedReader,
};

/// Reads a topic, batch by batch: a stream.
///
/// Within a partition batches come in order; between partitions there is no order. After an error
/// of one partition the others go on, and that one does after a [`Consumer::seek`]; the stream
/// ends when every partition has failed. Dropping it forgets what was fetched and not taken; the
/// server keeps no trace of a consumer.
#[derive(Debug)]
pub struct Consumer {
    shared: Arc<SharedReader>,
}

impl Consumer {
    pub(super) async fn new(
        client: &mut Client,
        topic: &str,
        options: ConsumerOptions,
    ) -> Result<Self, Error> {
        let metadata = client.topic(topic).await?;
        let mut begin = Vec::new();
        for (partition, start) in starts(&metadata, &options)? {
            let mut offset = start.offset();
            for query in start.queries() {
                if offset.is_none() {
                    offset = client.offset(metadata.id, partition, query).await?;
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
        drop(driver.spawn(shared.clone()));
        Ok(Self { shared })
    }

    /// The next batch, as the stream gives it; `None`: there will be none. Dropped while it waits,
    /// it has taken nothing.
    pub async fn next(&mut self) -> Option<Result<Batch, Error>> {
        poll_fn(|context| self.shared.poll_next(context)).await
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

impl Stream for Consumer {
    type Item = Result<Batch, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.shared.poll_next(context)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.shared.finish();
    }
}
