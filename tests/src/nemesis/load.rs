//! Producers, consumers, and a client that asks where partitions end, while the nemesis is about.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use catena_client::{
    Batch, Class, Client, Consumer, ConsumerOptions, Error, ErrorCode, NewRecord, OffsetQuery,
    Options, Producer, ProducerOptions, Receipt, Ticket, format::PartitionIndex,
};

use super::{
    cluster::{PATIENCE, TOPIC},
    history::{Fate, GARBLED, Read, Record},
};

/// A producer appends to every partition so often.
const TICK: Duration = Duration::from_millis(20);
/// How long what a producer sent may take that gives up soon.
const SOON: Duration = Duration::from_secs(2);

/// What all of them share.
#[derive(Debug)]
pub(super) struct Work {
    /// Where the nodes are.
    pub(super) servers: String,
    /// How many partitions there are.
    pub(super) partitions: usize,
    /// Nothing more is appended.
    pub(super) stop: AtomicBool,
    /// Records acknowledged.
    pub(super) acked: AtomicU64,
    /// How many there are of each partition, once nothing comes any more.
    pub(super) ends: Mutex<Option<Vec<u64>>>,
    producers: AtomicU32,
}

/// What a producer was told.
#[derive(Debug, Default)]
pub(super) struct Produced {
    /// By partition, and by producer: one that failed for good was followed by another.
    pub(super) sent: Vec<BTreeMap<u32, Vec<Fate>>>,
    /// The longest time between two acknowledgements in a partition.
    pub(super) gap: Duration,
    /// Why records were refused or nobody knows.
    pub(super) said: BTreeSet<String>,
    /// Of which records nothing was ever said.
    pub(super) hung: Vec<String>,
}

/// What a consumer saw.
#[derive(Debug, Default)]
pub(super) struct Consumed {
    /// By partition.
    pub(super) read: Vec<Read>,
    /// What it was told instead of records.
    pub(super) said: BTreeSet<String>,
}

impl Work {
    /// Nothing is done yet.
    #[must_use]
    pub(super) fn new(servers: String, partitions: usize) -> Self {
        Self {
            servers,
            partitions,
            stop: AtomicBool::new(false),
            acked: AtomicU64::new(0),
            ends: Mutex::default(),
            producers: AtomicU32::new(0),
        }
    }

    fn client(&self) -> Client {
        Client::new(Options::new(&self.servers).with_request_timeout(Duration::from_secs(10)))
    }

    fn told_ends(&self) -> MutexGuard<'_, Option<Vec<u64>>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends numbered records to all partitions at a steady rate until it is to stop, and waits
    /// until it is known what became of them. Every other one gives records up soon.
    #[must_use]
    pub(super) fn produce(&self, gives_up: bool) -> Produced {
        let nothing = ProducerOptions::default();
        let delivery_timeout = if gives_up { SOON } else { PATIENCE };
        let options = ProducerOptions { delivery_timeout, ..nothing };
        let sent = vec![BTreeMap::new(); self.partitions];
        let mut produced = Produced { sent, ..Produced::default() };
        while !self.stop.load(SeqCst) {
            match self.client().producer(TOPIC, options) {
                Ok(producer) => {
                    let who = self.producers.fetch_add(1, SeqCst);
                    Life::new(self, &mut produced, who).run(&producer);
                    // What was not stored was told by its ticket.
                    let _ = producer.close();
                }
                // Nobody is there who could say where the heads are.
                Err(error) => drop(produced.said.insert(brief(&error))),
            }
        }
        produced
    }

    /// Polls all partitions from the beginning on, until everything was polled or will not come.
    #[must_use]
    pub(super) fn consume(&self) -> Consumed {
        let mut consumed =
            Consumed { read: vec![Read::new(); self.partitions], ..Consumed::default() };
        let mut consumer = loop {
            match self.client().consumer(TOPIC, ConsumerOptions::default()) {
                Ok(consumer) => break consumer,
                // Not even now that all is over.
                Err(_) if self.told_ends().is_some() => return consumed,
                Err(error) => drop(consumed.said.insert(brief(&error))),
            }
        };
        let mut deadline = None;
        loop {
            match consumer.next_within(Duration::from_millis(100)) {
                Ok(batch) => batch.iter().for_each(|batch| consumed.take(batch)),
                Err(error) => consumed.failed(&mut consumer, &error),
            }
            let ends = self.told_ends();
            let Some(ends) = ends.as_ref() else { continue };
            let late = Instant::now() > *deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
            let read = consumed.read.iter().map(|read| read.last().map_or(0, |last| last.0 + 1));
            if late || read.zip(ends).all(|(read, end)| read >= *end) {
                return consumed;
            }
        }
    }

    /// Asks where partitions end, again and again; the answers of each, the same one only once.
    #[must_use]
    pub(super) fn watch(&self) -> Vec<Vec<u64>> {
        let (mut told, mut client) = (vec![Vec::new(); self.partitions], self.client());
        let topic = loop {
            match client.topic(TOPIC) {
                Ok(topic) => break topic.id,
                Err(_) if self.stop.load(SeqCst) => return told,
                Err(_) => thread::sleep(TICK),
            }
        };
        while !self.stop.load(SeqCst) {
            for (partition, told) in (0..).zip(&mut told) {
                let asked =
                    client.offset(topic, PartitionIndex::new(partition), OffsetQuery::Latest);
                let Ok(Some(end)) = asked else { continue };
                if told.last() != Some(&end.get()) {
                    told.push(end.get());
                }
            }
            thread::sleep(TICK);
        }
        told
    }
}

/// A producer until it fails for good or is to stop.
struct Life<'a> {
    work: &'a Work,
    produced: &'a mut Produced,
    who: u32,
    tickets: Vec<VecDeque<(u32, Ticket)>>,
    /// When the last one was acknowledged.
    acked: Vec<Option<Instant>>,
}

impl<'a> Life<'a> {
    fn new(work: &'a Work, produced: &'a mut Produced, who: u32) -> Self {
        let tickets = (0..work.partitions).map(|_| VecDeque::new()).collect();
        Self { work, produced, who, tickets, acked: vec![None; work.partitions] }
    }

    fn run(mut self, producer: &Producer) {
        let (mut next, mut failed) = (Instant::now(), false);
        while !failed && !self.work.stop.load(SeqCst) {
            for partition in 0..self.work.partitions {
                failed |= self.append(producer, partition).is_err();
                self.settle(partition);
            }
            // Who was held up does not catch up.
            next = (next + TICK).max(Instant::now());
            thread::sleep(next - Instant::now());
        }
        let deadline = Instant::now() + 2 * PATIENCE;
        while self.tickets.iter().any(|tickets| !tickets.is_empty()) && Instant::now() < deadline {
            (0..self.work.partitions).for_each(|partition| self.settle(partition));
            thread::sleep(TICK);
        }
        for (partition, tickets) in self.tickets.iter().enumerate() {
            let hung = tickets.iter().map(|(number, _)| {
                format!("partition {partition}: {}/{number} was never answered", self.who)
            });
            self.produced.hung.extend(hung);
        }
    }

    fn fates(&mut self, partition: usize) -> &mut Vec<Fate> {
        self.produced.sent[partition].entry(self.who).or_default()
    }

    fn append(&mut self, producer: &Producer, partition: usize) -> Result<(), ()> {
        let number = self.fates(partition).len() as u32;
        let value = Record { who: self.who, number }.value();
        let index = PartitionIndex::new(partition as u32);
        let appended = producer.append(&NewRecord::value(&value).with_partition(index));
        // What was not even taken in is refused.
        let fate = if appended.is_ok() { Fate::Unknown } else { Fate::Refused };
        self.fates(partition).push(fate);
        match appended {
            Ok(ticket) => self.tickets[partition].push_back((number, ticket)),
            Err(error) => {
                self.produced.said.insert(brief(&error));
                return Err(());
            }
        }
        Ok(())
    }

    /// Books what became of records meanwhile.
    fn settle(&mut self, partition: usize) {
        while let Some((number, ticket)) = self.tickets[partition].front() {
            let Some(told) = ticket.outcome() else { return };
            let (number, fate) = (*number as usize, fate(ticket, &told));
            self.tickets[partition].pop_front();
            self.fates(partition)[number] = fate;
            if let Err(error) = told {
                self.produced.said.insert(brief(&error));
            }
            if let Fate::Stored(_) = fate {
                let now = Instant::now();
                let last = self.acked[partition].replace(now).unwrap_or(now);
                self.produced.gap = self.produced.gap.max(now - last);
                self.work.acked.fetch_add(1, SeqCst);
            }
        }
    }
}

/// What a producer may conclude.
fn fate(ticket: &Ticket, told: &Result<Receipt, Error>) -> Fate {
    match told {
        Ok(receipt) => Fate::Stored(Some(ticket.offset_in(receipt).get())),
        Err(Error::Server { code: ErrorCode::DuplicateOffsetUnknown, .. }) => Fate::Stored(None),
        Err(error) if error.class() == Class::Indeterminate => Fate::Unknown,
        Err(_) => Fate::Refused,
    }
}

impl Consumed {
    fn take(&mut self, batch: &Batch) {
        let read = &mut self.read[batch.partition().get() as usize];
        for record in batch.records() {
            match record {
                Ok((offset, record)) => {
                    read.push((offset.get(), Record::of(record.value.unwrap_or_default())));
                }
                Err(_) => read.push((batch.first_offset().get(), GARBLED)),
            }
        }
    }

    /// Goes on where it was.
    fn failed(&mut self, consumer: &mut Consumer, error: &Error) {
        self.said.insert(brief(error));
        let partition = match error {
            Error::Partition { partition, .. } | Error::Unreadable { partition, .. } => partition,
            _ => return,
        };
        if let Some(position) = Consumer::position(consumer, *partition) {
            drop(consumer.seek(*partition, position));
        }
    }
}

/// An error without its numbers, so that there are few.
fn brief(error: &Error) -> String {
    let text = error.to_string();
    text.chars().filter(|letter| !letter.is_ascii_digit()).take(200).collect()
}
