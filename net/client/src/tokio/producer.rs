//! Records in, tickets out.

use std::{future::poll_fn, sync::Arc};

use catena_format::{Offset, PartitionIndex};
use tokio::task::JoinHandle;

use super::{client::Client, driver::Driver};
use crate::{
    core::producer::{Producer as Core, Target},
    error::Error,
    options::{ProducerOptions, seed},
    record::NewRecord,
    shared::SharedProducer,
    ticket::Ticket,
};

/// Sends records of one topic, from any number of tasks.
///
/// Dropping it does not wait: its task goes on to send what was appended, for at most the delivery
/// timeout, and tickets still come true. A runtime or process that ends meanwhile ends that too,
/// and tickets then say [`Error::Closed`]: [`Producer::close`] waits.
#[derive(Debug)]
pub struct Producer {
    shared: Arc<SharedProducer>,
    task: Option<JoinHandle<()>>,
}

impl Producer {
    pub(super) async fn new(
        client: &mut Client,
        topic: &str,
        options: ProducerOptions,
    ) -> Result<Self, Error> {
        options.check()?;
        let (topic, producer) = (&client.topic(topic).await?, client.producer_id().await?);
        let target = Target::of(topic, client.nodes()?, producer, options.refresh, seed())?;
        let hello = client.hello()?;
        let wait = client.options().request_timeout;
        let (driver, bell) = Driver::new(wait);
        let core = Core::new(target, options, hello, wait, seed());
        let shared = Arc::new(SharedProducer::new(core, bell));
        let task = Some(driver.spawn(shared.clone()));
        Ok(Self { shared, task })
    }

    /// Partitions of the topic. Those that are added are noticed after
    /// [`ProducerOptions::refresh`] at the latest while it is connected.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.shared.ask(Core::partitions)
    }

    /// How often batches were sent again.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.shared.ask(Core::retries)
    }

    /// Batches sent and not acknowledged.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.ask(Core::in_flight)
    }

    /// The first failure since the last flush, whether or not somebody keeps the ticket: what the
    /// next flush says, as far as it is known.
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        self.shared.failure()
    }

    /// Takes a record in, and gives a ticket for its receipt. While the buffer is full it waits.
    /// Records of one partition are stored in the order in which they were appended. Dropped while
    /// it waits, it has taken nothing.
    ///
    /// # Errors
    /// When the record can never be stored: it is too large, its partition does not exist, or the
    /// producer has failed for good. Such a record is not sent.
    pub async fn append(&self, record: &NewRecord<'_>) -> Result<Ticket, Error> {
        poll_fn(|context| self.shared.poll_append(record, context)).await
    }

    /// Appends records to a partition as one batch, if the first of them gets the offset
    /// `expected`: if nobody has appended anything since the partition's next offset was that.
    /// Otherwise nothing is stored, and the ticket says [`Error::OffsetCondition`] with the next
    /// offset. An answer that was lost is asked for again. Records without a partition go to this
    /// one.
    ///
    /// The batch is sent when everything before it in its partition is answered, and what is
    /// behind it waits for its answer, whatever that is. Other partitions go on. Dropped while it
    /// waits for room, it has taken nothing.
    ///
    /// ```no_run
    /// # use catena_client::tokio::Producer;
    /// # use catena_client::{Error, NewRecord, format::{Offset, PartitionIndex}};
    /// # async fn add(producer: Producer) -> Result<(), Error> {
    /// let (partition, mut next) = (PartitionIndex::new(0), Offset::ZERO);
    /// loop {
    ///     let records = [NewRecord::value(b"the one and only")];
    ///     match producer.append_at(partition, next, &records).await?.await {
    ///         Ok(receipt) => break println!("stored at {}", receipt.first_offset),
    ///         // Look at what is there by now, and whether to go on.
    ///         Err(Error::OffsetCondition { next: now, unclear: false, .. }) => next = now,
    ///         Err(error) => return Err(error),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Producer::append`]; together the records are at most as large as a batch may be, and
    /// there is one at least.
    pub async fn append_at(
        &self,
        partition: PartitionIndex,
        expected: Offset,
        records: &[NewRecord<'_>],
    ) -> Result<Ticket, Error> {
        poll_fn(|context| self.shared.poll_append_at(partition, expected, records, context)).await
    }

    /// Sends everything and waits until all that was appended before is settled.
    ///
    /// # Errors
    /// The first failure since the last flush, whether or not somebody keeps the ticket.
    pub async fn flush(&self) -> Result<(), Error> {
        self.shared.flush().await
    }

    /// Sends everything, waits until it is settled, and ends the producer's task.
    ///
    /// # Errors
    /// As [`Producer::flush`].
    pub async fn close(mut self) -> Result<(), Error> {
        let flushed = self.flush().await;
        self.shared.finish();
        let ended = match self.task.take() {
            Some(task) => task.await.is_ok(),
            None => true,
        };
        if ended { flushed } else { flushed.and(Err(Error::Closed { unclear: true })) }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.shared.finish();
    }
}
