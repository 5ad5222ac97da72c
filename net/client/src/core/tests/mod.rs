//! A producer and a consumer against a server that fails in every way that the protocol knows: a
//! seed is a history. What was told is compared with what the server stored.

mod added;
mod cluster;
mod conditional;
mod reading;
mod redirect;
mod server;
mod silence;

use std::{
    collections::BTreeMap,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use catena_format::{Millis, Offset, PartitionIndex, ProducerEpoch, ProducerId, TopicId};
use catena_wire::{Class, ErrorCode};
use server::{CREDIT_BYTES_MAX, PARTITIONS, POISON, Random, Server, Wire, topic};

use super::{
    Step,
    lane::Lane,
    link::Hello,
    nodes::{Dial, Nodes},
    partition::BatchId,
    places::Places,
    producer::{Producer, Refused, Target},
    reader::Reader,
};
use crate::{
    error::Error,
    options::{ConsumerOptions, ProducerOptions},
    record::{NewRecord, Receipt},
};

fn hello() -> Hello {
    Hello { client_id: "test".to_owned(), core: None, trust: None }
}

fn nodes() -> Nodes {
    Nodes::new(vec!["test:1".to_owned()])
}

fn producer(options: ProducerOptions) -> Producer {
    producer_of(options, 0)
}

fn producer_of(options: ProducerOptions, epoch: i16) -> Producer {
    let target = Target {
        topic: TopicId::new(1),
        places: Places::of(&topic(2, PARTITIONS), nodes(), Some(options.refresh), 1),
        batch_bytes_max: 4096,
        producer: (ProducerId::new(1), ProducerEpoch::new(epoch)),
    };
    Producer::new(target, options, hello(), Duration::from_secs(1), 3)
}

/// The node that is dialled; the server that is alone is 0.
fn node_at(dial: &Dial) -> u64 {
    dial.address.strip_prefix("node:").map_or(0, |node| node.parse().unwrap())
}

fn broken() -> Error {
    let source = Arc::new(io::Error::from(io::ErrorKind::ConnectionReset));
    Error::Connection { address: "test".to_owned(), source }
}

/// A client's state machine, a server, and a network between them that breaks.
struct World {
    server: Server,
    random: Random,
    now: Instant,
    wires: BTreeMap<Lane, Wire>,
    /// What was on its way on connections that broke and comes yet; `None`: nothing does.
    late: Option<Vec<(Wire, Vec<u8>)>>,
    /// A node that takes no connections.
    dead: Option<u64>,
    /// Connections that were not to be had.
    refused: u64,
}

/// What a world drives.
trait Client {
    fn connected(&mut self, lane: Lane, now: Instant);
    fn bytes(&mut self, lane: Lane, bytes: &[u8], now: Instant);
    fn lost(&mut self, lane: Lane, now: Instant);
    fn next(&mut self, now: Instant) -> Step;
}

macro_rules! client {
    ($machine:ty) => {
        impl Client for $machine {
            fn connected(&mut self, lane: Lane, now: Instant) {
                self.on_connected(lane, now);
            }
            fn bytes(&mut self, lane: Lane, bytes: &[u8], now: Instant) {
                self.on_bytes(lane, bytes, now);
            }
            fn lost(&mut self, lane: Lane, now: Instant) {
                self.on_lost(lane, broken(), now);
            }
            fn next(&mut self, now: Instant) -> Step {
                self.step(now)
            }
        }
    };
}

client!(Producer);
client!(Reader);

impl World {
    fn new(seed: u64) -> Self {
        let random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (server, wires) = (Server::new(), BTreeMap::new());
        Self { server, random, now: Instant::now(), wires, late: None, dead: None, refused: 0 }
    }

    /// One step of the client; whether it is done.
    fn turn(&mut self, client: &mut impl Client) -> bool {
        match client.next(self.now) {
            Step::Connect(lane, dial) if self.is_refused(&dial) => {
                self.refused += 1;
                client.lost(lane, self.now);
            }
            Step::Connect(lane, dial) => {
                let before = self.wires.insert(lane, Wire::new(lane, node_at(&dial)));
                assert!(before.is_none(), "{lane:?} has a connection");
                client.connected(lane, self.now);
            }
            Step::Close(lane) => drop(self.wires.remove(&lane)),
            Step::Send(lane, bytes) => self.send(client, lane, &bytes),
            Step::Wait(until) => self.wait(client, until),
            Step::Done => return true,
        }
        false
    }

    fn is_refused(&mut self, dial: &Dial) -> bool {
        self.dead == Some(node_at(dial)) || !self.server.calm && self.random.one_in(4)
    }

    /// Some of the bytes arrive, and then perhaps nothing more.
    fn send(&mut self, client: &mut impl Client, lane: Lane, bytes: &[u8]) {
        let mut breaks = !self.server.calm && self.random.one_in(15);
        let arrive =
            if breaks { self.random.below(bytes.len() as u64 + 1) as usize } else { bytes.len() };
        let wire = self.wires.get_mut(&lane).expect("bytes go where there is a connection");
        self.server.on_bytes(wire, &bytes[..arrive], &mut self.random);
        breaks |= wire.cut;
        if breaks {
            let wire = self.wires.remove(&lane);
            if let (Some(late), Some(wire)) = (&mut self.late, wire) {
                late.push((wire, bytes[arrive..].to_vec()));
            }
            client.lost(lane, self.now);
        }
    }

    /// All that was on its way on connections that broke arrives.
    fn settle(&mut self) {
        for (mut wire, bytes) in self.late.take().into_iter().flatten() {
            self.server.on_bytes(&mut wire, &bytes, &mut self.random);
        }
    }

    fn wait(&mut self, client: &mut impl Client, until: Option<Instant>) {
        if let Some(late) = &mut self.late
            && !late.is_empty()
            && self.random.one_in(20)
        {
            let (mut wire, bytes) = late.swap_remove(self.random.below(late.len() as u64) as usize);
            self.server.on_bytes(&mut wire, &bytes, &mut self.random);
        }
        let lanes: Vec<Lane> = self.wires.keys().copied().collect();
        if !lanes.is_empty() && !self.server.calm && self.random.one_in(20) {
            // One breaks, or the server comes back with other cores.
            let restarts = self.random.one_in(4);
            if restarts {
                self.server.cores = self.random.below(3) as u16 + 1;
            }
            let one = lanes[self.random.below(lanes.len() as u64) as usize];
            for lane in lanes.into_iter().filter(|lane| restarts || *lane == one) {
                self.wires.remove(&lane);
                client.lost(lane, self.now);
            }
            return;
        }
        let mut full = self.wires.iter_mut().filter(|(_, wire)| !wire.to_client.is_empty());
        let wire = match full.next() {
            Some(first) if self.random.one_in(2) => Some(first),
            Some(first) => full.next().or(Some(first)),
            None => None,
        };
        let Some((lane, wire)) = wire.filter(|_| !self.random.one_in(3)) else {
            let step = Duration::from_millis(self.random.below(20) + 1);
            self.now = until.map_or(self.now + step, |until| until.min(self.now + step));
            return;
        };
        let some = self.random.below(wire.to_client.len() as u64) as usize + 1;
        let bytes: Vec<u8> = wire.to_client.drain(..some).collect();
        client.bytes(*lane, &bytes, self.now);
    }
}

type Outcomes = BTreeMap<BatchId, Result<Receipt, Error>>;

/// Appends until the time is over, then finishes; which record went where.
fn produce(
    world: &mut World,
    producer: &mut Producer,
    records: u64,
) -> (Vec<(String, BatchId, u32)>, Outcomes) {
    let (mut appended, mut outcomes) = (Vec::new(), Outcomes::new());
    let mut number = 0;
    for turn in 0.. {
        assert!(turn < 2_000_000, "it does not come to an end");
        if number < records && world.random.one_in(2) {
            let poison = world.random.one_in(60);
            let value = if poison { POISON.to_owned() } else { format!("{number}") };
            let key = number.to_be_bytes();
            let record = NewRecord::value(value.as_bytes()).with_key(&key);
            match producer.append(&record, Millis::new(5), world.now) {
                Ok(there) => appended.push((value, there.batch, there.index)),
                Err(Refused::Full) => number -= 1,
                Err(Refused::Error(error)) => panic!("{error}"),
            }
            number += 1;
            if number == records {
                world.server.calm = true;
                producer.finish();
            }
        }
        let done = world.turn(producer);
        while let Some((batch, result)) = producer.poll_settled() {
            assert!(outcomes.insert(batch, result).is_none(), "{batch:?} is settled twice");
        }
        if done {
            return (appended, outcomes);
        }
    }
    unreachable!("a loop without an end")
}

/// Every record whose ticket says so is stored once, where it says, in order; and no other is.
fn check(seed: u64, server: &Server, appended: &[(String, BatchId, u32)], outcomes: &Outcomes) {
    let mut stored: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (partition, log) in server.logs.iter().enumerate() {
        let numbers: Vec<u64> = log.values.iter().map(|value| value.parse().unwrap()).collect();
        assert!(numbers.is_sorted(), "seed {seed}: partition {partition} is out of order");
        for (offset, value) in log.values.iter().enumerate() {
            let twice = stored.insert(value, (partition, offset));
            assert!(twice.is_none(), "seed {seed}: {value} is stored twice");
        }
    }
    for (value, batch, index) in appended {
        let place = stored.get(value.as_str());
        match &outcomes[batch] {
            Ok(receipt) => {
                let (partition, offset) =
                    place.unwrap_or_else(|| panic!("seed {seed}: {value} is lost"));
                assert_eq!(receipt.partition.get() as usize, *partition);
                assert_eq!(receipt.first_offset.get() + u64::from(*index), *offset as u64);
            }
            Err(error) if error.class() == Class::Indeterminate => {}
            Err(Error::Server { code, .. }) => {
                assert!(place.is_none(), "seed {seed}: {value} is stored, but {code}");
                assert_eq!(*code, ErrorCode::BadBatch, "seed {seed}: only that ends a batch");
            }
            Err(error) => assert!(place.is_none(), "seed {seed}: {value} is stored, but {error}"),
        }
    }
}

#[test]
fn what_is_acknowledged_is_stored_once_and_in_order() {
    let mut retries = 0;
    for seed in 0..400 {
        let mut world = World::new(seed);
        let options = ProducerOptions {
            batch_bytes: 200,
            linger: Duration::from_millis(seed % 3 * 10),
            in_flight: 1 + (seed % 7) as usize,
            buffer_bytes: 4000,
            ..ProducerOptions::default()
        };
        let mut producer = producer(options);
        let (appended, outcomes) = produce(&mut world, &mut producer, 300);
        assert_eq!(appended.len(), 300, "seed {seed}");
        check(seed, &world.server, &appended, &outcomes);
        let acknowledged = outcomes.values().filter(|outcome| outcome.is_ok()).count();
        assert!(acknowledged > 10, "seed {seed}: {acknowledged} batches");
        retries += producer.retries();
    }
    assert!(retries > 10_000, "{retries} retries: the server hardly fails");
}

#[test]
fn what_takes_too_long_is_given_up_and_the_rest_still_stored() {
    let (mut given_up, mut raises) = (0, 0);
    for seed in 0..800 {
        let mut world = World::new(seed);
        world.late = (seed % 4 > 0).then(Vec::new);
        let options = ProducerOptions {
            batch_bytes: 200,
            delivery_timeout: Duration::from_millis(40),
            ..ProducerOptions::default()
        };
        let mut producer = producer(options);
        let (appended, outcomes) = produce(&mut world, &mut producer, 300);
        world.settle();
        check(seed, &world.server, &appended, &outcomes);
        raises += world.server.raises;
        let late = |outcome: &&Result<_, Error>| matches!(outcome, Err(Error::Undelivered { .. }));
        given_up += outcomes.values().filter(late).count();
    }
    assert!(given_up > 800, "{given_up} batches were given up");
    assert!(raises > 100, "{raises} times older epochs were fenced");
}

#[test]
fn a_consumer_reads_everything_once_and_in_order() {
    for seed in 0..200 {
        let mut world = World::new(seed);
        world.server.calm = true;
        let options = ProducerOptions { batch_bytes: 150, ..ProducerOptions::default() };
        produce(&mut world, &mut producer(options), 300);
        world.wires.clear();
        world.server.calm = false;
        let starts: Vec<_> =
            (0..PARTITIONS).map(|p| (PartitionIndex::new(p), Offset::new(seed % 20))).collect();
        let options = ConsumerOptions { buffer_bytes: 500, ..ConsumerOptions::default() };
        let patience = Duration::from_secs(1000);
        let mut reader =
            Reader::new((&topic(2, PARTITIONS), nodes()), options, hello(), patience, &starts, 1);
        let largest = world.server.logs.iter().flat_map(|log| &log.batches);
        let largest = largest.map(|(_, batch)| batch.len()).max().unwrap();
        let mut read = vec![Vec::new(); PARTITIONS as usize];
        let ends: Vec<u64> = world.server.logs.iter().map(|log| log.values.len() as u64).collect();
        let at_end = |reader: &Reader| {
            (0..).zip(&ends).all(|(partition, end)| {
                let position = reader.position(PartitionIndex::new(partition));
                position.is_some_and(|position| position.get() >= *end)
            })
        };
        while !at_end(&reader) {
            world.turn(&mut reader);
            assert!(reader.held() <= 500 + PARTITIONS as usize * largest, "seed {seed}");
            if world.random.one_in(3)
                && let Some(fetched) = reader.poll_fetched()
            {
                let batch = fetched.unwrap().read().unwrap();
                for record in batch.records() {
                    let (offset, record) = record.unwrap();
                    let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                    read[batch.partition().get() as usize].push((offset.get(), value));
                }
            }
        }
        for (log, read) in world.server.logs.iter().zip(&read) {
            let all = (0..).zip(log.values.iter().cloned());
            let expected: Vec<(u64, String)> = all.skip((seed % 20) as usize).collect();
            assert_eq!(read, &expected, "seed {seed}");
        }
    }
}

#[test]
fn a_full_buffer_refuses_until_something_is_settled() {
    let mut world = World::new(1);
    world.server.calm = true;
    let options = ProducerOptions { buffer_bytes: 1000, ..ProducerOptions::default() };
    let mut producer = producer(options);
    let large = vec![b'7'; 2000];
    let record = NewRecord::value(&large);
    assert!(producer.append(&record, Millis::new(0), world.now).is_ok(), "one is always taken");
    let refused = producer.append(&record, Millis::new(0), world.now);
    assert!(matches!(refused, Err(Refused::Full)));
    while producer.poll_settled().is_none() {
        world.turn(&mut producer);
    }
    assert!(producer.append(&record, Millis::new(0), world.now).is_ok());
    let huge = vec![0; 5000];
    let refused = producer.append(&NewRecord::value(&huge), Millis::new(0), world.now);
    assert!(matches!(refused, Err(Refused::Error(Error::Record(_)))));
}

/// Has a producer do what it can now; whether it sends something.
fn sends(producer: &mut Producer, now: Instant) -> bool {
    let mut sent = false;
    loop {
        match producer.step(now) {
            Step::Wait(_) | Step::Done => return sent,
            step => sent |= matches!(step, Step::Send(..)),
        }
    }
}

/// A producer whose first record is stored: it has a connection, and is idle.
fn idle(world: &mut World, options: ProducerOptions) -> Producer {
    world.server.calm = true;
    let mut producer = producer(options);
    append_to(&mut producer, 0, world.now);
    producer.flush();
    assert!(!producer.goes_at_once(), "there is no connection");
    while producer.poll_settled().is_none() {
        world.turn(&mut producer);
    }
    assert!(!producer.goes_at_once(), "there is nothing to send");
    producer
}

fn append_to(producer: &mut Producer, partition: u32, now: Instant) {
    let record = NewRecord::value(b"1").with_partition(PartitionIndex::new(partition));
    producer.append(&record, Millis::new(0), now).unwrap();
}

#[test]
fn a_lone_record_goes_at_once_where_a_connection_is_and_nothing_holds_it() {
    let mut world = World::new(1);
    let mut producer = idle(&mut world, ProducerOptions::default());
    append_to(&mut producer, 0, world.now);
    assert!(producer.goes_at_once());
    assert!(sends(&mut producer, world.now));
    append_to(&mut producer, 0, world.now);
    assert!(!producer.goes_at_once(), "something is under way");
    for lane in std::mem::take(&mut world.wires).into_keys() {
        producer.on_lost(lane, broken(), world.now);
    }
    assert!(!producer.goes_at_once(), "the connection is lost");
    assert!(!sends(&mut producer, world.now));
}

#[test]
fn what_lingers_goes_at_once_when_its_batch_is_full() {
    let mut world = World::new(1);
    let linger = Duration::from_secs(1);
    let options = ProducerOptions { linger, batch_bytes: 200, ..ProducerOptions::default() };
    let mut producer = idle(&mut world, options);
    append_to(&mut producer, 0, world.now);
    assert!(!producer.goes_at_once());
    assert!(!sends(&mut producer, world.now));
    for _ in 0..50 {
        append_to(&mut producer, 0, world.now);
    }
    assert!(producer.goes_at_once());
    assert!(sends(&mut producer, world.now));
}

/// A producer, and how often it was to send something at once.
struct Prompt(Producer, u64);

impl Client for Prompt {
    fn connected(&mut self, lane: Lane, now: Instant) {
        self.0.connected(lane, now);
    }
    fn bytes(&mut self, lane: Lane, bytes: &[u8], now: Instant) {
        self.0.bytes(lane, bytes, now);
    }
    fn lost(&mut self, lane: Lane, now: Instant) {
        self.0.lost(lane, now);
    }
    fn next(&mut self, now: Instant) -> Step {
        let at_once = self.0.goes_at_once();
        let step = self.0.step(now);
        assert!(!at_once || self.0.in_flight() > 0, "it does not go: {:?}", self.0);
        self.1 += u64::from(at_once);
        step
    }
}

#[test]
fn what_is_to_go_at_once_goes_however_the_server_fails() {
    let mut at_once = 0;
    for seed in 0..100 {
        let mut world = World::new(seed);
        let mut prompt = Prompt(producer(ProducerOptions::default()), 0);
        for _ in 0..1000 {
            if world.random.one_in(20) {
                append_to(&mut prompt.0, (seed % 2) as u32, world.now);
            }
            world.turn(&mut prompt);
            while prompt.0.poll_settled().is_some() {}
        }
        at_once += prompt.1;
    }
    assert!(at_once > 500, "{at_once} times");
}

#[test]
fn times_that_nobody_lives_to_see_are_times_like_others() {
    let mut world = World::new(1);
    world.server.calm = true;
    let ever = Duration::MAX;
    let options = ProducerOptions { linger: ever, delivery_timeout: ever, ..Default::default() };
    let mut producer = producer(ProducerOptions { refresh: ever, ..options });
    producer.append(&NewRecord::value(b"1"), Millis::new(0), world.now).unwrap();
    for _ in 0..100 {
        world.turn(&mut producer);
    }
    producer.flush();
    while producer.poll_settled().is_none() {
        world.turn(&mut producer);
    }
}

#[test]
fn behind_the_last_epoch_a_producer_has_another_id() {
    let mut world = World::new(1);
    world.server.calm = true;
    let mut producer = producer_of(ProducerOptions::default(), i16::MAX);
    let mut append = |value: &str| {
        let record = NewRecord::value(value.as_bytes()).with_partition(PartitionIndex::new(0));
        producer.append(&record, Millis::new(0), world.now).unwrap();
        loop {
            world.turn(&mut producer);
            if let Some((_, outcome)) = producer.poll_settled() {
                break outcome;
            }
        }
    };
    assert!(append("1").is_ok());
    assert_eq!(append(POISON).unwrap_err().class(), Class::Definite);
    assert!(append("2").is_ok());
    assert_eq!(world.server.logs[0].values, ["1", "2"]);
    assert_eq!(world.server.raises, 1);
}

#[test]
fn a_producer_that_is_shut_out_says_of_what_was_under_way_that_it_may_be_stored() {
    let mut under_way = 0;
    for seed in 0..20 {
        let mut classes = shut_out(seed);
        classes.sort_unstable_by_key(|class| *class as u8);
        // Whether the other is refused, too, before that is known is up to the network.
        assert_eq!(classes[0], Class::Definite);
        assert_ne!(classes[1], Class::Retriable);
        under_way += u64::from(classes[1] == Class::Indeterminate);
    }
    assert!((1..20).contains(&under_way), "{under_way} of 20");
}

/// What becomes of two batches, of which the first to be heard of shuts their producer out.
fn shut_out(seed: u64) -> Vec<Class> {
    let mut world = World::new(seed);
    (world.server.calm, world.server.cores) = (true, 1);
    world.server.shut_out(1, 1);
    let mut producer = producer(ProducerOptions::default());
    for partition in 0..2 {
        let record = NewRecord::value(b"1").with_partition(PartitionIndex::new(partition));
        producer.append(&record, Millis::new(0), world.now).unwrap();
    }
    let mut classes = Vec::new();
    while classes.len() < 2 {
        world.turn(&mut producer);
        let settled = std::iter::from_fn(|| producer.poll_settled());
        classes.extend(settled.map(|(_, outcome)| outcome.unwrap_err().class()));
    }
    classes
}

#[test]
fn a_batch_lingers_for_company_and_a_flush_ends_that() {
    let mut world = World::new(1);
    world.server.calm = true;
    let linger = Duration::from_secs(5);
    let mut producer = producer(ProducerOptions { linger, ..ProducerOptions::default() });
    let began = world.now;
    let record = NewRecord::value(b"1");
    producer.append(&record, Millis::new(0), world.now).unwrap();
    while producer.poll_settled().is_none() {
        world.turn(&mut producer);
    }
    assert!(world.now >= began + linger);
    let began = world.now;
    producer.append(&record, Millis::new(0), world.now).unwrap();
    producer.flush();
    while producer.poll_settled().is_none() {
        world.turn(&mut producer);
    }
    assert!(world.now < began + linger);
}

#[test]
fn a_core_that_takes_no_connections_is_reached_by_way_of_another() {
    let mut world = World::new(1);
    world.server.calm = true;
    world.server.full = Some(1);
    let mut producer = producer(ProducerOptions::default());
    let (appended, outcomes) = produce(&mut world, &mut producer, 300);
    check(1, &world.server, &appended, &outcomes);
    assert!(world.server.forwarded > 0);
    assert!(!world.server.logs[1].values.is_empty());
}

#[test]
fn a_server_that_falls_silent_is_given_up_and_one_with_nothing_to_say_is_not() {
    let mut world = World::new(1);
    world.server.calm = true;
    let starts = [(PartitionIndex::new(0), Offset::ZERO)];
    let partitions = Some(vec![PartitionIndex::new(0)]);
    let options = ConsumerOptions { partitions, ..ConsumerOptions::default() };
    let wait = Duration::from_secs(1);
    let mut reader =
        Reader::new((&topic(1, PARTITIONS), nodes()), options, hello(), wait, &starts, 1);
    let subscribed = |world: &World| world.wires.values().any(|w| !w.subscriptions.is_empty());
    while !subscribed(&world) {
        world.turn(&mut reader);
    }
    let began = world.now;
    while world.now < began + 100 * wait {
        world.turn(&mut reader);
        assert!(subscribed(&world), "there is nothing to read, and the server answers");
    }
    world.server.hangs = true;
    let began = world.now;
    while subscribed(&world) {
        world.turn(&mut reader);
        assert!(world.now < began + 3 * wait, "it is not given up");
    }
    world.server.hangs = false;
    while !subscribed(&world) {
        world.turn(&mut reader);
    }
}

#[test]
fn each_partition_is_written_and_read_on_the_core_that_owns_it() {
    let mut world = World::new(1);
    world.server.calm = true;
    let mut producer = producer(ProducerOptions::default());
    let (appended, outcomes) = produce(&mut world, &mut producer, 300);
    check(1, &world.server, &appended, &outcomes);
    assert_eq!(world.wires.len(), 2, "a connection for each core that owns a partition");
    assert_eq!(world.server.forwarded, 0);

    // The server comes back with other cores: that is noticed, and the connections follow.
    world.wires.clear();
    world.server.cores = 3;
    let starts: Vec<_> = (0..PARTITIONS).map(|p| (PartitionIndex::new(p), Offset::ZERO)).collect();
    let (options, wait) = (ConsumerOptions::default(), Duration::from_secs(1));
    let mut reader =
        Reader::new((&topic(2, PARTITIONS), nodes()), options, hello(), wait, &starts, 1);
    while world.wires.len() < 2 {
        world.turn(&mut reader);
    }
    for lane in std::mem::take(&mut world.wires).into_keys() {
        reader.on_lost(lane, broken(), world.now);
    }
    let at_home = |world: &World| {
        world.wires.values().all(|wire| {
            wire.subscriptions.len() == 1
                && wire
                    .subscriptions
                    .values()
                    .all(|s| Some(world.server.owner(s.partition)) == wire.lane.core)
        })
    };
    while world.wires.len() < 3 || !at_home(&world) {
        world.turn(&mut reader);
    }
}
