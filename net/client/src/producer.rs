//! Sending records: batches in flight, retried under the same sequences until they are answered.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use catena_format::{
    Epoch, Millis, Offset, PartitionIndex, ProducerEpoch, ProducerId, Sequence, TopicId,
    records::{BatchBuilder, Header, Producer as ProducerStamp},
};
use catena_wire::{Api, Class, Durability, ErrorCode, Message, ProduceRequest, ProduceResponse};

use crate::{client::Client, compression::Compression, connection::Connection, error::Error};

const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// How a producer behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProducerOptions {
    /// A batch that has this many bytes is sent.
    pub batch_bytes: usize,
    /// The most batches in flight, all partitions together.
    pub in_flight: usize,
    /// When the server answers.
    pub durability: Durability,
    /// How batches are compressed; one that would not get smaller is sent as it is.
    pub compression: Compression,
    /// How long a batch is retried before it is given up as indeterminate.
    pub delivery_timeout: Duration,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            batch_bytes: 64 << 10,
            in_flight: 32,
            durability: Durability::ChainDisk,
            compression: Compression::None,
            delivery_timeout: Duration::from_secs(120),
        }
    }
}

/// What the server said of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// The partition.
    pub partition: PartitionIndex,
    /// The first record's offset.
    pub first_offset: Offset,
    /// The offset after the last record.
    pub next_offset: Offset,
    /// The epoch of the chain.
    pub epoch: Epoch,
    /// The level reached.
    pub level: Durability,
    /// Copies on disks.
    pub copies: u8,
    /// From the first sending to the receipt.
    pub latency: Duration,
}

struct Batch {
    partition: u32,
    bytes: Vec<u8>,
    correlation: Option<u32>,
    begun: Instant,
}

/// Sends records of one topic. Dropping it drops what was not flushed.
pub struct Producer<'a> {
    client: &'a mut Client,
    connection: Option<Connection>,
    topic: TopicId,
    options: ProducerOptions,
    stamp: (ProducerId, ProducerEpoch),
    sequences: Vec<i32>,
    open: Vec<BatchBuilder>,
    sent: VecDeque<Batch>,
    backoff: Duration,
    retries: u64,
    on_receipt: Box<dyn FnMut(&Receipt) + 'a>,
}

impl<'a> Producer<'a> {
    /// A producer of `topic`; `on_receipt` hears of every batch that was acknowledged.
    ///
    /// # Errors
    /// When the topic is not known or no producer id can be had.
    pub fn new(
        client: &'a mut Client,
        topic: &str,
        options: ProducerOptions,
        on_receipt: impl FnMut(&Receipt) + 'a,
    ) -> Result<Self, Error> {
        let metadata = client.topic(topic)?;
        let (id, epoch) = client.producer_id()?;
        let partitions = metadata.partitions.len();
        Ok(Self {
            client,
            connection: None,
            topic: metadata.id,
            options,
            stamp: (id, epoch),
            sequences: vec![0; partitions],
            open: vec![BatchBuilder::new(); partitions],
            sent: VecDeque::new(),
            backoff: BACKOFF_MIN,
            retries: 0,
            on_receipt: Box::new(on_receipt),
        })
    }

    /// Partitions of the topic.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        u32::try_from(self.open.len()).expect("partitions are few")
    }

    /// How often batches were sent again.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.retries
    }

    /// Batches sent and not acknowledged.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.sent.len()
    }

    /// Whether nothing is gathered for a partition.
    #[must_use]
    pub fn is_empty(&self, partition: u32) -> bool {
        self.open[partition as usize].count() == 0
    }

    /// Adds a record to its partition's batch; a full batch is sent, and waits while too many are
    /// in flight. True when a batch was sent.
    ///
    /// # Errors
    /// When a batch was refused for good, or not answered in time.
    pub fn append(
        &mut self,
        partition: u32,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) -> Result<bool, Error> {
        let builder = &mut self.open[partition as usize];
        builder.push(Millis::new(timestamp), key, value, headers);
        let full = builder.bytes() >= self.options.batch_bytes;
        if full {
            self.send(partition)?;
        }
        Ok(full)
    }

    /// Sends what was gathered for a partition.
    ///
    /// # Errors
    /// As [`Producer::append`].
    pub fn send(&mut self, partition: u32) -> Result<(), Error> {
        let at = partition as usize;
        let builder = std::mem::take(&mut self.open[at]);
        if builder.count() == 0 {
            return Ok(());
        }
        let (id, epoch) = self.stamp;
        let sequence = Sequence::new(self.sequences[at]);
        let stamp = ProducerStamp { id, epoch, sequence };
        let bytes = build(&builder, stamp, self.options.compression)?;
        self.sequences[at] = sequence.wrapping_add(builder.count()).get();
        self.sent.push_back(Batch { partition, bytes, correlation: None, begun: Instant::now() });
        while self.sent.len() > self.options.in_flight {
            self.progress()?;
        }
        self.transmit()?;
        while self.connection.as_mut().is_some_and(Connection::has_response) {
            self.progress()?;
        }
        Ok(())
    }

    /// Sends everything and waits until it is acknowledged.
    ///
    /// # Errors
    /// As [`Producer::append`].
    pub fn flush(&mut self) -> Result<(), Error> {
        for partition in 0..self.partitions() {
            self.send(partition)?;
        }
        while !self.sent.is_empty() {
            self.progress()?;
        }
        Ok(())
    }

    /// Sends, in order, every batch that is not under way.
    fn transmit(&mut self) -> Result<(), Error> {
        if let Err(error) = self.try_transmit() {
            self.again(error)?;
        }
        Ok(())
    }

    fn try_transmit(&mut self) -> Result<(), Error> {
        if self.connection.is_none() {
            let options = self.client.options();
            let opened = Connection::open(&options.server, options.request_timeout)?;
            self.connection = Some(opened);
        }
        let connection = self.connection.as_mut().expect("a connection was just opened");
        for batch in self.sent.iter_mut().filter(|batch| batch.correlation.is_none()) {
            let request = ProduceRequest {
                topic: self.topic,
                partition: PartitionIndex::new(batch.partition),
                durability: self.options.durability,
                expect_next_offset: None,
                deadline_ms: 0,
            };
            let correlation = connection.send(Api::Produce, &request, &batch.bytes)?;
            batch.correlation = Some(correlation);
        }
        Ok(())
    }

    /// Takes one answer, having sent what there is to send.
    fn progress(&mut self) -> Result<(), Error> {
        if let Err(error) = self.try_progress() {
            self.again(error)?;
        }
        Ok(())
    }

    fn try_progress(&mut self) -> Result<(), Error> {
        self.try_transmit()?;
        let connection = self.connection.as_mut().expect("batches were just sent");
        let response = connection.receive()?;
        let answered = |b: &Batch| b.correlation == Some(response.correlation);
        let Some(at) = self.sent.iter().position(answered) else { return Ok(()) };
        let produced = ProduceResponse::decode(&response.head)?;
        match produced.error {
            ErrorCode::None => {
                let batch = self.sent.remove(at).expect("the batch was found");
                self.backoff = BACKOFF_MIN;
                (self.on_receipt)(&receipt(&produced, batch.begun.elapsed()));
                Ok(())
            }
            ErrorCode::DuplicateOffsetUnknown => {
                self.sent.remove(at);
                Ok(())
            }
            code => Err(Error::Server { code, message: produced.message.into_owned() }),
        }
    }

    /// After a failure everything unanswered is sent again, in order, under the same sequences; a
    /// refusal for good ends it.
    fn again(&mut self, error: Error) -> Result<(), Error> {
        // A batch behind one that was refused for the moment is out of order for the moment.
        let follows = matches!(
            &error,
            Error::Server { code: ErrorCode::OutOfOrderSequence | ErrorCode::UnknownProducer, .. }
        );
        let late = self
            .sent
            .front()
            .is_some_and(|batch| batch.begun.elapsed() > self.options.delivery_timeout);
        if (error.class() == Class::Definite && !follows) || late {
            return Err(error);
        }
        // Answers to the first sending must not be taken for those to the second.
        self.connection = None;
        for batch in &mut self.sent {
            batch.correlation = None;
        }
        self.retries += 1;
        std::thread::sleep(self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        Ok(())
    }
}

/// The finished batch, compressed if that makes it smaller.
pub(crate) fn build(
    builder: &BatchBuilder,
    stamp: ProducerStamp,
    compression: Compression,
) -> Result<Vec<u8>, Error> {
    if compression != Compression::None {
        let compressed = compression.compress(builder.records())?;
        if compressed.len() < builder.records().len() {
            return Ok(builder.build_with(stamp, compression.codec(), &compressed)?);
        }
    }
    Ok(builder.build(stamp)?)
}

fn receipt(response: &ProduceResponse<'_>, latency: Duration) -> Receipt {
    Receipt {
        partition: response.partition,
        first_offset: response.first_offset,
        next_offset: response.next_offset,
        epoch: response.epoch,
        level: response.level,
        copies: response.copies,
        latency,
    }
}
