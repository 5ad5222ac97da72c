//! What the server has to do: producers that never rest, and a reader at their heels.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Result;
use catena_client::{
    Client, Compression, Consumer, ConsumerOptions, Error, NewRecord, Producer, ProducerOptions,
    Ticket, format::PartitionIndex,
};

use super::{
    books::{Books, Finding, Id},
    server::client,
};
use crate::sim::random::Random;

/// The topic.
pub const TOPIC: &str = "lines";

/// No batch is given up while servers come and go.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(3600);
/// How long a producer or reader that has nothing to do looks away.
const NAP: Duration = Duration::from_millis(1);

/// What producers are like.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// How many there are.
    pub producers: u32,
    /// What they are told.
    pub options: ProducerOptions,
}

impl Style {
    /// A style that follows from a seed.
    #[must_use]
    pub fn draw(random: &mut Random) -> Self {
        let mut of = |among: &[usize]| among[random.below(among.len() as u64) as usize];
        let options = ProducerOptions {
            batch_bytes: of(&[500, 3000, 20_000, 100_000]),
            in_flight: of(&[4, 24, 64]),
            buffer_bytes: of(&[100_000, 400_000]),
            compression: [Compression::None, Compression::Lz4][of(&[0, 1])],
            delivery_timeout: DELIVERY_TIMEOUT,
            ..ProducerOptions::default()
        };
        Self { producers: of(&[1, 2, 4]) as u32, options }
    }

    /// What may be on its way at most.
    #[must_use]
    pub fn buffer_bytes(&self) -> u64 {
        u64::from(self.producers) * (self.options.buffer_bytes + self.options.batch_bytes) as u64
    }
}

/// Producers and a reader on threads of their own.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<(), Error>>>,
}

#[derive(Debug)]
struct Shared {
    books: Arc<Books>,
    stop: AtomicBool,
    /// Bytes that may still be sent.
    allowance: AtomicI64,
    /// Batches on their way, by producer.
    in_flight: Vec<AtomicU64>,
}

impl Load {
    /// Begins. Nothing is sent before it is allowed.
    ///
    /// # Errors
    /// When the topic cannot be had.
    pub fn begin(address: &str, books: Arc<Books>, style: Style, random: &Random) -> Result<Self> {
        let shared = Arc::new(Shared {
            books,
            stop: AtomicBool::new(false),
            allowance: AtomicI64::new(0),
            in_flight: (0..style.producers).map(|_| AtomicU64::new(0)).collect(),
        });
        let mut client = client(address);
        let mut threads = Vec::new();
        for index in 0..style.producers {
            let producer = client.producer(TOPIC, style.options)?;
            let random = random.numbered_stream("producer", u64::from(index));
            let shared = shared.clone();
            threads.push(thread::spawn(move || shared.produce(producer, index, random)));
        }
        let consumer = client.consumer(TOPIC, ConsumerOptions::default())?;
        let reader = shared.clone();
        threads.push(thread::spawn(move || reader.read(consumer)));
        Ok(Self { shared, threads })
    }

    /// From now on so many bytes may be sent.
    pub fn allow(&self, bytes: u64) {
        self.shared.allowance.store(bytes as i64, Ordering::Relaxed);
    }

    /// Batches on their way.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.shared.in_flight.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Ends: whatever was sent is settled.
    ///
    /// # Errors
    /// When a record was refused, or not stored.
    pub fn end(self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow::anyhow!("a thread of the load panicked"))??;
        }
        Ok(())
    }
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn produce(&self, producer: Producer, index: u32, mut random: Random) -> Result<(), Error> {
        let partitions = self.books.partitions();
        let mut waiting: Vec<_> = (0..partitions).map(|_| VecDeque::new()).collect();
        let mut value = Vec::new();
        while !self.is_stopped() {
            if self.allowance.load(Ordering::Relaxed) <= 0 {
                thread::sleep(NAP);
            } else {
                let partition = random.below(u64::from(partitions)) as u32;
                let id = self.books.send(partition, index);
                self.books.value(partition, id, &mut value);
                let index = PartitionIndex::new(partition);
                let record = NewRecord::value(&value).with_partition(index);
                waiting[partition as usize].push_back((id, producer.append(&record)?));
                self.allowance.fetch_sub(value.len() as i64, Ordering::Relaxed);
            }
            // Now and then it is quiet, so that the log comes to rest.
            if random.chance(1_000) {
                thread::sleep(Duration::from_millis(random.below(30)));
            }
            self.in_flight[index as usize].store(producer.in_flight() as u64, Ordering::Relaxed);
            self.settle(&mut waiting)?;
        }
        producer.close()?;
        self.settle(&mut waiting)
    }

    /// Notes what the server has told since.
    fn settle(&self, waiting: &mut [VecDeque<(Id, Ticket)>]) -> Result<(), Error> {
        for (partition, waiting) in waiting.iter_mut().enumerate() {
            while let Some(outcome) = waiting.front().and_then(|(_, ticket)| ticket.outcome()) {
                let (id, ticket) = waiting.pop_front().expect("there is a first");
                let receipt = outcome?;
                let (first, offset) = (receipt.first_offset, ticket.offset_in(&receipt));
                self.books.on_acked(partition as u32, first.get(), offset.get(), id);
            }
        }
        Ok(())
    }

    fn read(&self, mut consumer: Consumer) -> Result<(), Error> {
        while !self.is_stopped() {
            match consumer.next_within(Duration::from_millis(20)) {
                Ok(None) => {}
                Ok(Some(batch)) => {
                    for record in batch.records() {
                        let (offset, record) = record?;
                        let value = record.value.unwrap_or_default();
                        self.books.on_seen(batch.partition().get(), offset.get(), value);
                    }
                }
                // Whether that was by right is for the check to say: it reads from the start on.
                Err(Error::Unreadable { partition, next, .. }) => consumer.seek(partition, next)?,
                Err(error) if error.is_retriable() => {}
                Err(error) => {
                    let text = format!("a reader hears: {error}");
                    self.books.found::<()>(0, Err(Finding::Wrong(text)));
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// The partitions' topic, made anew.
///
/// # Errors
/// When it cannot be.
pub fn create(
    client: &mut Client,
    partitions: u32,
    settings: &[(&str, u64)],
) -> Result<catena_client::format::TopicId> {
    let settings = settings.iter().map(|(key, value)| catena_client::Setting {
        key: (*key).into(),
        value: value.to_string().into(),
    });
    client.create_topic(TOPIC, partitions, settings.collect())?;
    Ok(client.topic(TOPIC)?.id)
}
