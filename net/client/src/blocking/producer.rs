//! Records in, tickets out.

use std::{future::poll_fn, pin::pin, sync::Arc, thread::JoinHandle};

use catena_format::{Offset, PartitionIndex};

use super::{client::Client, driver::Driver};
use crate::{
    core::producer::{Producer as Core, Target},
    error::Error,
    options::{ProducerOptions, seed},
    record::NewRecord,
    shared::SharedProducer,
    ticket::{Ticket, block_on},
};

/// Sends records of one topic, from any number of threads.
///
/// Dropping it does not wait: a thread goes on to send what was appended, for at most the delivery
/// timeout, and tickets still come true. A process that ends meanwhile ends that too:
/// [`Producer::close`] waits.
#[derive(Debug)]
pub struct Producer {
    shared: Arc<SharedProducer>,
    thread: Option<JoinHandle<()>>,
}

impl Producer {
    pub(super) fn new(
        client: &mut Client,
        topic: &str,
        options: ProducerOptions,
    ) -> Result<Self, Error> {
        options.check()?;
        let (topic, producer) = (&client.topic(topic)?, client.producer_id()?);
        let target = Target::of(topic, client.nodes()?, producer, options.refresh, seed())?;
        let hello = client.hello()?;
        let wait = client.options().request_timeout;
        let (driver, bell) = Driver::new(wait);
        let core = Core::new(target, options, hello, wait, seed());
        let shared = Arc::new(SharedProducer::new(core, bell));
        let thread = Some(driver.spawn("catena-produce", shared.clone())?);
        Ok(Self { shared, thread })
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
    /// When nothing is under way it is sent on this thread, which does not wait for the socket.
    /// Records of one partition are stored in the order in which they were appended.
    ///
    /// # Errors
    /// When the record can never be stored: it is too large, its partition does not exist, or the
    /// producer has failed for good. Such a record is not sent.
    pub fn append(&self, record: &NewRecord<'_>) -> Result<Ticket, Error> {
        block_on(poll_fn(|context| self.shared.poll_append(record, context)))
    }

    /// Appends records to a partition as one batch, if the first of them gets the offset
    /// `expected`: if nobody has appended anything since the partition's next offset was that.
    /// Otherwise nothing is stored, and the ticket says [`Error::OffsetCondition`] with the next
    /// offset. An answer that was lost is asked for again. Records without a partition go to this
    /// one.
    ///
    /// The batch is sent when everything before it in its partition is answered, and what is
    /// behind it waits for its answer, whatever that is. Other partitions go on.
    ///
    /// ```no_run
    /// # use catena_client::Producer;
    /// # use catena_client::{Error, NewRecord, format::{Offset, PartitionIndex}};
    /// # fn add(producer: Producer) -> Result<(), Error> {
    /// let (partition, mut next) = (PartitionIndex::new(0), Offset::ZERO);
    /// loop {
    ///     let records = [NewRecord::value(b"the one and only")];
    ///     match producer.append_at(partition, next, &records)?.wait() {
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
    pub fn append_at(
        &self,
        partition: PartitionIndex,
        expected: Offset,
        records: &[NewRecord<'_>],
    ) -> Result<Ticket, Error> {
        block_on(poll_fn(|context| {
            self.shared.poll_append_at(partition, expected, records, context)
        }))
    }

    /// Sends everything and waits until all that was appended before is settled.
    ///
    /// # Errors
    /// The first failure since the last flush, whether or not somebody keeps the ticket.
    pub fn flush(&self) -> Result<(), Error> {
        block_on(pin!(self.shared.flush()))
    }

    /// Sends everything, waits until it is settled, and ends the producer's thread.
    ///
    /// # Errors
    /// As [`Producer::flush`].
    pub fn close(mut self) -> Result<(), Error> {
        let flushed = self.flush();
        self.shared.finish();
        let ended = self.thread.take().is_none_or(|thread| thread.join().is_ok());
        if ended { flushed } else { flushed.and(Err(Error::Closed { unclear: true })) }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.shared.finish();
    }
}
