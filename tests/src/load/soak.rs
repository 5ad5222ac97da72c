//! A mixed load of moderate rate for hours: producers of every level, consumers, fetches, topics
//! that come and go, retention; killed a few times, then left alone.
//!
//! The books are simple because nobody else writes: in a partition that is written at a disk level,
//! the number of every record is its offset. So a number that is missing was lost, and one
//! elsewhere than at its offset was duplicated or moved.

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use catena_client::{
    Batch, Class, Client, Consumer, ConsumerOptions, Durability, Error, ErrorCode, FetchOptions,
    NewRecord, OffsetQuery, Options, Producer, ProducerOptions, Setting, Ticket,
    format::{Millis, Offset, PartitionIndex},
};
use serde_json::json;
use tempfile::TempDir;

use super::sample::{Sample, trends};
use crate::{
    crash::server::free_address,
    live::{PATIENCE, Server, read_back, value},
    sim::random::Random,
};

/// The topic whose records must all be there, as long as retention keeps them: two partitions at
/// `chain-disk`, two at `head-disk`.
const KEPT: &str = "kept";
const KEPT_PARTITIONS: u32 = 4;
/// The topic that a kill may take records from: a partition at `chain-memory`, one at `none`.
const QUICK: &str = "quick";
const VALUE_BYTES_MAX: u64 = 400;
/// Producers append so often.
const TICK: Duration = Duration::from_millis(20);
/// What is not looked at after a start.
const WARM_UP: Duration = Duration::from_secs(60);
/// A life with fewer samples tells nothing about growth.
const SAMPLES_MIN: usize = 12;

/// How long and how hard.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server's binary.
    pub binary: PathBuf,
    /// Where its directory is made.
    pub scratch: PathBuf,
    /// How often it is killed before it is left alone.
    pub kills: u64,
    /// How long it lives until each of these kills.
    pub kill_every: Duration,
    /// How long it lives after them.
    pub duration: Duration,
    /// How often it is looked at.
    pub sample_every: Duration,
    /// Records a second of each of the four producers.
    pub rate: u64,
    /// What the values are made of.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Summary {
    /// Records acknowledged at a disk level.
    pub acked: u64,
    /// Records compared.
    pub checked: u64,
    /// Acknowledged records that were not there.
    pub lost: u64,
    /// Records that were not where they belong.
    pub misplaced: u64,
    /// Kills.
    pub kills: u64,
    /// Topics created, filled, read and deleted.
    pub topics: u64,
    /// How long it took.
    pub seconds: u64,
    /// What the process held in its longest life.
    pub trends: BTreeMap<String, u64>,
    /// What was broken.
    pub broken: Vec<String>,
}

impl Summary {
    /// One line of JSON.
    #[must_use]
    pub fn line(&self) -> String {
        json!({
            "seconds": self.seconds, "acked": self.acked, "checked": self.checked,
            "lost": self.lost, "misplaced": self.misplaced, "kills": self.kills,
            "topics": self.topics, "trends": self.trends, "broken": self.broken,
        })
        .to_string()
    }
}

/// What all threads know.
struct World {
    address: String,
    seed: u64,
    rate: u64,
    /// Nothing new is begun.
    stop: AtomicBool,
    /// Every producer has ended: `acked` is final.
    produced: AtomicBool,
    acked: AtomicU64,
    checked: AtomicU64,
    lost: AtomicU64,
    misplaced: AtomicU64,
    topics: AtomicU64,
    /// By kept partition: the offset after the last acknowledged record.
    ends: [AtomicU64; KEPT_PARTITIONS as usize],
    broken: Mutex<Vec<String>>,
}

/// What a thread that reads does.
type Reader = fn(&World) -> Result<(), String>;

/// Runs it.
///
/// # Errors
/// When there is nothing to run: no server, no directory.
pub fn run(plan: &Plan) -> Result<Summary, String> {
    let folder = TempDir::new_in(&plan.scratch).map_err(|error| error.to_string())?;
    let address = free_address().map_err(|error| error.to_string())?;
    let began = Instant::now();
    let mut server = start(plan, folder.path(), &address)?;
    let world = World::new(plan, address);
    world.found().map_err(|error| format!("the topics: {error}"))?;
    let mut samples = Vec::new();
    let kills = thread::scope(|scope| {
        let readers: [Reader; 4] =
            [World::consume_kept, World::consume_quick, World::come_and_go, World::look_around];
        let readers = readers.map(|reader| {
            let world = &world;
            scope.spawn(move || world.note(reader(world)))
        });
        let writers = [
            (KEPT, [0, 1], Durability::ChainDisk),
            (KEPT, [2, 3], Durability::HeadDisk),
            (QUICK, [0, 0], Durability::ChainMemory),
            (QUICK, [1, 1], Durability::None),
        ];
        let writers = writers.map(|(topic, partitions, level)| {
            let world = &world;
            scope.spawn(move || world.note(world.produce(topic, partitions, level)))
        });
        let kills = watch(plan, folder.path(), &world, &mut server, began, &mut samples);
        world.stop.store(true, Ordering::Relaxed);
        let panicked = writers.into_iter().filter_map(|thread| thread.join().err()).count();
        world.produced.store(true, Ordering::Relaxed);
        let panicked = panicked + readers.into_iter().filter_map(|t| t.join().err()).count();
        if panicked == 0 { kills } else { Err("a thread of the harness panicked".to_owned()) }
    })?;
    server.stop()?;
    world.note(verify(plan, folder.path()));
    let server = start(plan, folder.path(), &world.address)?;
    world.note(world.read_everything(&server));
    Ok(world.sum_up(&samples, kills, began))
}

fn start(plan: &Plan, folder: &Path, address: &str) -> Result<Server, String> {
    let options = ["--cores", "2", "--set", "limits.memory=128MiB"];
    Server::start(&plan.binary, folder, address, &options).map_err(|ended| ended.to_string())
}

/// Looks at the server now and then, and kills it as planned; how often it did.
fn watch(
    plan: &Plan,
    folder: &Path,
    world: &World,
    server: &mut Server,
    began: Instant,
    samples: &mut Vec<Sample>,
) -> Result<u64, String> {
    let (mut kills, mut sampled, mut started) = (0, began, began);
    while kills < plan.kills || started.elapsed() < plan.duration {
        thread::sleep(Duration::from_millis(50));
        if server.has_ended() {
            return Err(format!("the server ended by itself:\n{}", server.log()));
        }
        if sampled.elapsed() >= plan.sample_every {
            sampled = Instant::now();
            samples.extend(Sample::take(kills, began, server.pid(), &folder.join("data")));
        }
        if kills < plan.kills && started.elapsed() >= plan.kill_every {
            server.kill();
            kills += 1;
            *server = start(plan, folder, &world.address)?;
            started = Instant::now();
        }
    }
    Ok(kills)
}

/// Every checksum in the directory of a server that has ended.
fn verify(plan: &Plan, folder: &Path) -> Result<(), String> {
    let verify = Command::new(&plan.binary)
        .args(["segment", "verify"])
        .arg(folder.join("data"))
        .output()
        .map_err(|error| error.to_string())?;
    let told = String::from_utf8_lossy(&verify.stdout);
    if verify.status.success() { Ok(()) } else { Err(format!("the files are not sound:\n{told}")) }
}

impl World {
    fn new(plan: &Plan, address: String) -> Self {
        Self {
            address,
            seed: plan.seed,
            rate: plan.rate,
            stop: AtomicBool::new(false),
            produced: AtomicBool::new(false),
            acked: AtomicU64::new(0),
            checked: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            misplaced: AtomicU64::new(0),
            topics: AtomicU64::new(0),
            ends: Default::default(),
            broken: Mutex::default(),
        }
    }

    fn client(&self) -> Client {
        Client::new(Options::new(&self.address).with_request_timeout(PATIENCE))
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn note(&self, result: Result<(), String>) {
        if let Err(error) = result {
            eprintln!("{error}");
            self.broken.lock().unwrap_or_else(PoisonError::into_inner).push(error);
        }
    }

    fn found(&self) -> Result<(), Error> {
        let mut client = self.client();
        for (name, partitions) in [(KEPT, KEPT_PARTITIONS), (QUICK, 2)] {
            let set = [("segment.bytes", "262144"), ("retention.bytes", "4194304")];
            let set = set.map(|(key, value)| Setting { key: key.into(), value: value.into() });
            client.create_topic(name, partitions, set.to_vec())?;
        }
        Ok(())
    }

    /// Appends numbered records to two partitions, or twice to one, at a steady rate.
    fn produce(&self, topic: &str, partitions: [u32; 2], level: Durability) -> Result<(), String> {
        let options = ProducerOptions {
            durability: level,
            linger: Duration::from_millis(5),
            ..ProducerOptions::default()
        };
        let told = |error: Error| format!("the producer of {topic} at {level:?}: {error}");
        let producer = self.client().producer(topic, options).map_err(told)?;
        let (mut tickets, mut next) = (VecDeque::new(), [0u64; KEPT_PARTITIONS as usize]);
        while !self.stops() {
            let burst = self.rate * TICK.as_millis() as u64 / 1000;
            for turn in 0..burst.max(1) {
                let partition = partitions[turn as usize % 2];
                let number = &mut next[partition as usize];
                let ticket = self.append(&producer, partition, *number).map_err(told)?;
                tickets.push_back((partition, *number, ticket));
                *number += 1;
            }
            while tickets.front().is_some_and(|(_, _, ticket)| ticket.outcome().is_some()) {
                let (partition, number, ticket) = tickets.pop_front().ok_or("there is a first")?;
                self.settle(topic == KEPT, partition, number, &ticket)?;
            }
            thread::sleep(TICK);
        }
        let closed = producer.close();
        if topic == KEPT {
            closed.map_err(told)?;
        }
        tickets.iter().try_for_each(|(p, n, ticket)| self.settle(topic == KEPT, *p, *n, ticket))
    }

    fn append(&self, producer: &Producer, partition: u32, number: u64) -> Result<Ticket, Error> {
        let value = value(self.seed, number, VALUE_BYTES_MAX);
        let record = NewRecord::value(&value)
            .with_partition(PartitionIndex::new(partition))
            .with_timestamp(Millis::new(1_700_000_000_000));
        producer.append(&record)
    }

    fn settle(
        &self,
        kept: bool,
        partition: u32,
        number: u64,
        ticket: &Ticket,
    ) -> Result<(), String> {
        match ticket.outcome() {
            Some(Ok(receipt)) if kept => {
                let offset = ticket.offset_in(&receipt).get();
                self.acked.fetch_add(1, Ordering::Relaxed);
                self.ends[partition as usize].fetch_max(offset + 1, Ordering::Relaxed);
                if offset == number {
                    return Ok(());
                }
                self.misplaced.fetch_add(1, Ordering::Relaxed);
                Err(format!("{KEPT}/{partition}: record {number} was told to be at {offset}"))
            }
            Some(Err(error)) if kept => {
                Err(format!("{KEPT}/{partition}: record {number} was given up: {error}"))
            }
            // What a kill takes from memory is nobody's fault.
            _ => Ok(()),
        }
    }

    /// Reads all of a topic as it comes, until `done`, and hands every record on.
    fn consume(
        &self,
        topic: &str,
        done: impl Fn(&Consumer) -> bool,
        mut each: impl FnMut(&Batch) -> Result<(), String>,
    ) -> Result<(), String> {
        let told = |error: Error| format!("the consumer of {topic}: {error}");
        let mut client = self.client();
        let mut consumer = client.consumer(topic, ConsumerOptions::default()).map_err(told)?;
        let mut deadline = None;
        while !(self.produced.load(Ordering::Relaxed) && done(&consumer)) {
            if self.produced.load(Ordering::Relaxed)
                && *deadline.get_or_insert_with(|| Instant::now() + PATIENCE) < Instant::now()
            {
                return Err(format!("the consumer of {topic} does not come to the end"));
            }
            match consumer.next_within(Duration::from_millis(100)) {
                Ok(Some(batch)) => each(&batch)?,
                Ok(None) => {}
                Err(Error::Unreadable {
                    code: ErrorCode::OffsetOutOfRange,
                    partition,
                    next,
                    ..
                }) => consumer.seek(partition, next).map_err(told)?,
                Err(error) if error.class() != Class::Definite => {}
                Err(error) => return Err(told(error)),
            }
        }
        Ok(())
    }

    fn consume_kept(&self) -> Result<(), String> {
        let mut expected = [0u64; KEPT_PARTITIONS as usize];
        let done = |consumer: &Consumer| {
            (0..KEPT_PARTITIONS).all(|partition| {
                let position = consumer.position(PartitionIndex::new(partition));
                let end = self.ends[partition as usize].load(Ordering::Relaxed);
                position.is_none_or(|position| position.get() >= end)
            })
        };
        let mut client = self.client();
        let topic = client.topic(KEPT).map_err(|error| error.to_string())?.id;
        self.consume(KEPT, done, |batch| {
            let partition = batch.partition();
            let expected = &mut expected[partition.get() as usize];
            let first = batch.first_offset();
            if first.get() > *expected {
                // Retention may have been faster, but nothing else.
                let start = client.offset(topic, partition, OffsetQuery::Earliest);
                let start = start.map_err(|error| error.to_string())?.unwrap_or_default();
                if start < first {
                    self.lost.fetch_add(first.get() - *expected, Ordering::Relaxed);
                    return Err(format!("{KEPT}/{partition}: {expected} to {first} never came"));
                }
            }
            *expected = batch.next_offset().get();
            self.compare(batch)
        })
    }

    /// Every record of a batch of the kept topic is the one of its offset.
    fn compare(&self, batch: &Batch) -> Result<(), String> {
        for record in batch.records() {
            let (offset, record) = record.map_err(|error| error.to_string())?;
            self.compare_one(batch.partition(), offset, record.value.unwrap_or_default())?;
        }
        Ok(())
    }

    fn compare_one(
        &self,
        partition: PartitionIndex,
        offset: Offset,
        bytes: &[u8],
    ) -> Result<(), String> {
        self.checked.fetch_add(1, Ordering::Relaxed);
        if bytes == value(self.seed, offset.get(), VALUE_BYTES_MAX) {
            return Ok(());
        }
        self.misplaced.fetch_add(1, Ordering::Relaxed);
        Err(format!("{KEPT}/{partition}: at {offset} stands another record"))
    }

    /// What a kill takes may be missing, but what is there is in order and there once.
    fn consume_quick(&self) -> Result<(), String> {
        let mut last = [None; 2];
        let done = |consumer: &Consumer| {
            consumer
                .partitions()
                .into_iter()
                .all(|partition| consumer.position(partition) >= consumer.high_watermark(partition))
        };
        self.consume(QUICK, done, |batch| {
            let partition = batch.partition();
            for record in batch.records() {
                let (offset, record) = record.map_err(|error| error.to_string())?;
                let number = number_of(record.value.unwrap_or_default());
                self.checked.fetch_add(1, Ordering::Relaxed);
                let last = &mut last[partition.get() as usize];
                if number.is_none() || number <= *last {
                    self.misplaced.fetch_add(1, Ordering::Relaxed);
                    return Err(format!(
                        "{QUICK}/{partition} at {offset}: {number:?} after {last:?}"
                    ));
                }
                *last = number;
            }
            Ok(())
        })
    }

    /// Creates a topic, fills it, reads it back and deletes it, again and again.
    fn come_and_go(&self) -> Result<(), String> {
        for turn in 0u64.. {
            if self.stops() {
                break;
            }
            match self.one_topic(&format!("gone-{turn}")) {
                Ok(problem) => problem.map_or(Ok(()), Err)?,
                // A kill came between: whether it was done is not known, and the name is not used
                // again.
                Err(error) if error.class() != Class::Definite => {}
                Err(error) => return Err(format!("topic gone-{turn}: {error}")),
            }
            self.topics.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    }

    /// What is wrong with the topic's records, or why it could not be made and unmade.
    fn one_topic(&self, name: &str) -> Result<Option<String>, Error> {
        const RECORDS: u64 = 100;
        let mut client = self.client();
        client.create_topic(name, 2, Vec::new())?;
        let topic = client.topic(name)?.id;
        let producer = client.producer(name, ProducerOptions::default())?;
        for number in 0..RECORDS {
            drop(self.append(&producer, 1, number)?);
        }
        producer.close()?;
        let read = read_back(&mut client, topic, 1, 1 << 20)?;
        let mut numbers = read.records.iter();
        let right = numbers.all(|(o, bytes)| *bytes == value(self.seed, *o, VALUE_BYTES_MAX));
        client.delete_topic(name)?;
        let whole = right && read.records.len() as u64 == RECORDS && read.end == RECORDS;
        Ok((!whole).then(|| format!("{name} held {} records up to {}", numbers.len(), read.end)))
    }

    /// Fetches from anywhere, recent and cold.
    fn look_around(&self) -> Result<(), String> {
        let mut random = Random::new(self.seed).stream("fetches");
        let mut client = self.client();
        let topic = client.topic(KEPT).map_err(|error| error.to_string())?.id;
        while !self.stops() {
            thread::sleep(TICK);
            let partition = PartitionIndex::new(random.below(u64::from(KEPT_PARTITIONS)) as u32);
            let at = random.below(1 + self.ends[partition.get() as usize].load(Ordering::Relaxed));
            let options = FetchOptions { max_bytes: 1 << 16, max_wait: Duration::ZERO };
            match client.fetch(topic, partition, Offset::new(at), options) {
                Ok(fetched) => fetched
                    .each_record::<Problem>(Offset::new(at), |offset, record| {
                        let bytes = record.value.unwrap_or_default();
                        self.compare_one(partition, offset, bytes).map_err(Problem)
                    })
                    .map_err(|problem| problem.0)?,
                Err(Error::Unreadable { code: ErrorCode::OffsetOutOfRange, .. }) => {}
                Err(error) if error.class() != Class::Definite => {}
                Err(error) => return Err(format!("a fetch of {KEPT}/{partition}: {error}")),
            }
        }
        Ok(())
    }

    /// After the last start all that retention keeps is there.
    fn read_everything(&self, server: &Server) -> Result<(), String> {
        let mut client = server.client();
        let topic = client.topic(KEPT).map_err(|error| error.to_string())?.id;
        for partition in 0..KEPT_PARTITIONS {
            let read = read_back(&mut client, topic, partition, 1 << 20);
            let read = read.map_err(|error| format!("{KEPT}/{partition}: {error}"))?;
            let end = self.ends[partition as usize].load(Ordering::Relaxed);
            let there = read.records.range(..end).count() as u64;
            let missing = (end - read.start.min(end)) - there;
            if missing > 0 {
                self.lost.fetch_add(missing, Ordering::Relaxed);
                return Err(format!("{KEPT}/{partition}: {missing} records are not there"));
            }
            for (offset, bytes) in &read.records {
                self.compare_one(PartitionIndex::new(partition), Offset::new(*offset), bytes)?;
            }
        }
        Ok(())
    }

    fn sum_up(&self, samples: &[Sample], kills: u64, began: Instant) -> Summary {
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let mut broken =
            std::mem::take(&mut *self.broken.lock().unwrap_or_else(PoisonError::into_inner));
        let lives = samples.chunk_by(|a, b| a.life == b.life);
        let enough = lives.map(<[Sample]>::len).max() >= Some(SAMPLES_MIN);
        let (trends, grown) = trends(samples, WARM_UP);
        broken.extend(grown.into_iter().filter(|_| enough));
        Summary {
            acked: count(&self.acked),
            checked: count(&self.checked),
            lost: count(&self.lost),
            misplaced: count(&self.misplaced),
            kills,
            topics: count(&self.topics),
            seconds: began.elapsed().as_secs(),
            trends,
            broken,
        }
    }
}

/// The number that a value begins with.
fn number_of(value: &[u8]) -> Option<u64> {
    let digits = value.split(|byte| *byte == b' ').next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// What is wrong with what was fetched.
struct Problem(String);

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self(error.to_string())
    }
}
