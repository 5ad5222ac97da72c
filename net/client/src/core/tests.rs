//! A producer and a consumer against a server that fails in every way that the protocol knows: a
//! seed is a history. What was told is compared with what the server stored.

use std::{
    collections::BTreeMap,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use catena_format::{
    BatchHeader, ClusterId, Epoch, Incarnation, Millis, NodeId, Offset, PartitionIndex,
    PartitionUid, ProducerEpoch, ProducerId, TopicId, batch::patch, records::Records,
};
use catena_wire::{
    Api, ApiRange, Class, ConnectionLimits, CreditRequest, Durability, ErrorCode,
    FRAME_HEADER_BYTES, FrameHeader, FrameLimits, HandshakeResponse, Message, MetadataResponse,
    PartitionMetadata, ProduceRequest, ProduceResponse, Push, ReceiptFlags, Refusal,
    StatusResponse, SubscribeRequest, SubscribeResponse, TopicMetadata, UnsubscribeRequest,
    encode_message, encode_refusal,
};

use super::{
    Step,
    lane::{Lane, Places},
    link::Hello,
    partition::BatchId,
    producer::{Producer, Refused, Target},
    reader::Reader,
};
use crate::{
    error::Error,
    options::{ConsumerOptions, ProducerOptions},
    record::{NewRecord, Receipt},
};

const PARTITIONS: u32 = 3;
/// A record with this value is refused for good.
const POISON: &str = "poison";

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}

#[derive(Default)]
struct Log {
    /// Values, by offset.
    values: Vec<String>,
    batches: Vec<(u64, Vec<u8>)>,
    /// The epoch and next sequence of the one producer, and where its batches are.
    epoch: i16,
    next_sequence: i32,
    known: BTreeMap<(i16, i32), u64>,
}

/// A server with one producer and some cores.
struct Server {
    logs: Vec<Log>,
    cores: u16,
    calm: bool,
    /// Requests that came to a core which does not own the partition.
    forwarded: u64,
    /// A core that takes no connections.
    full: Option<u16>,
    /// What comes is not read any more.
    hangs: bool,
}

/// A connection as the server has it, to the core of a lane.
#[derive(Default)]
struct Wire {
    lane: u16,
    /// What the preface names.
    core: u16,
    inbound: Vec<u8>,
    greeted: bool,
    subscriptions: BTreeMap<u32, Subscription>,
    to_client: Vec<u8>,
}

struct Subscription {
    correlation: u32,
    partition: PartitionIndex,
    next: u64,
    credit: i64,
}

impl Wire {
    /// The core at the other end; any is the first.
    fn serving(&self) -> u16 {
        if self.core == u16::MAX { 0 } else { self.core }
    }
}

impl Server {
    fn new() -> Self {
        let logs = (0..PARTITIONS).map(|_| Log::default()).collect();
        Self { logs, cores: 2, calm: false, forwarded: 0, full: None, hangs: false }
    }

    /// Takes bytes, and answers what is whole.
    fn on_bytes(&mut self, wire: &mut Wire, bytes: &[u8], random: &mut Random) {
        if self.hangs {
            return;
        }
        wire.inbound.extend_from_slice(bytes);
        if !wire.greeted {
            if wire.inbound.len() < 16 {
                return;
            }
            let core = u16::from_le_bytes([wire.inbound[10], wire.inbound[11]]);
            assert!(core == wire.lane || core == u16::MAX, "the preface names {core}");
            wire.core = core;
            wire.inbound.drain(..16);
            wire.greeted = true;
        }
        while let Some(header) = wire.inbound.first_chunk::<FRAME_HEADER_BYTES>() {
            let header = FrameHeader::parse(header, FrameLimits::REQUEST).unwrap();
            let whole = usize::try_from(header.frame_bytes()).unwrap();
            if wire.inbound.len() < whole {
                break;
            }
            let frame: Vec<u8> = wire.inbound.drain(..whole).collect();
            let (head, payload) = frame[FRAME_HEADER_BYTES..].split_at(header.head_bytes as usize);
            self.on_frame(wire, &header, head, payload, random);
        }
    }

    fn on_frame(
        &mut self,
        wire: &mut Wire,
        header: &FrameHeader,
        head: &[u8],
        payload: &[u8],
        random: &mut Random,
    ) {
        let correlation = header.correlation;
        let serving = wire.serving();
        let out = &mut wire.to_client;
        match Api::from_number(header.api).unwrap() {
            Api::Handshake if self.full == Some(wire.core) => {
                let refusal = Refusal { error: ErrorCode::ConnectionBudget, message: "".into() };
                encode_refusal(Api::Handshake as u8, correlation, &refusal, out).unwrap();
            }
            Api::Handshake => {
                encode_message(Api::Handshake, correlation, &greeting(), 0, out).unwrap();
            }
            Api::Produce => {
                let request = ProduceRequest::decode(head).unwrap();
                self.forwarded += u64::from(self.owner(request.partition) != serving);
                let answer = self.produce(&request, payload, random);
                encode_message(Api::Produce, correlation, &answer, 0, out).unwrap();
            }
            Api::Metadata => {
                let (error, nodes) = (ErrorCode::None, Vec::new());
                let busy = !self.calm && random.one_in(4);
                let topics = if busy { Vec::new() } else { vec![topic(self.cores)] };
                let answer =
                    MetadataResponse { error, version: 1, nodes, topics, message: "".into() };
                encode_message(Api::Metadata, correlation, &answer, 0, out).unwrap();
            }
            Api::Subscribe => {
                let request = SubscribeRequest::decode(head).unwrap();
                self.subscribe(wire, correlation, &request, random);
            }
            Api::Credit => {
                let request = CreditRequest::decode(head).unwrap();
                if let Some(there) = wire.subscriptions.get_mut(&request.subscription) {
                    there.credit += i64::from(request.bytes);
                }
            }
            Api::Unsubscribe => {
                let request = UnsubscribeRequest::decode(head).unwrap();
                wire.subscriptions.remove(&request.subscription);
                let answer = StatusResponse { error: ErrorCode::None, message: "".into() };
                encode_message(Api::Unsubscribe, correlation, &answer, 0, out).unwrap();
            }
            Api::Ping => {
                let answer = StatusResponse { error: ErrorCode::None, message: "".into() };
                encode_message(Api::Ping, correlation, &answer, 0, out).unwrap();
            }
            other => panic!("nobody asks for {other:?}"),
        }
        self.push(wire, random);
    }

    fn owner(&self, partition: PartitionIndex) -> u16 {
        partition.get() as u16 % self.cores
    }

    fn subscribe(
        &mut self,
        wire: &mut Wire,
        correlation: u32,
        request: &SubscribeRequest,
        random: &mut Random,
    ) {
        self.forwarded += u64::from(self.owner(request.partition) != wire.serving());
        let refused = !self.calm && random.one_in(10);
        let error = if refused { ErrorCode::Starting } else { ErrorCode::None };
        let answer = SubscribeResponse {
            subscription: request.subscription,
            ..SubscribeResponse::refused(error, "")
        };
        encode_message(Api::Subscribe, correlation, &answer, 0, &mut wire.to_client).unwrap();
        if refused {
            return;
        }
        let (partition, next) = (request.partition, request.offset.get());
        let credit = i64::from(request.credit_bytes);
        let there = Subscription { correlation, partition, next, credit };
        let before = wire.subscriptions.insert(request.subscription, there);
        assert!(before.is_none(), "the name {} is in use", request.subscription);
    }

    /// Sends what the credit of each subscription covers; now and then one ends.
    fn push(&mut self, wire: &mut Wire, random: &mut Random) {
        let mut ended = Vec::new();
        for (name, there) in &mut wire.subscriptions {
            let log = &self.logs[there.partition.get() as usize];
            let end = log.values.len() as u64;
            let mut push = Push {
                error: ErrorCode::None,
                subscription: *name,
                next_offset: Offset::new(there.next),
                log_start: Offset::ZERO,
                high_watermark: Offset::new(end),
                epoch: Epoch::new(1),
                message: "".into(),
            };
            while there.credit > 0 && there.next < end {
                let behind = log.batches.partition_point(|(first, _)| *first <= there.next);
                let batch = &log.batches[behind - 1].1;
                there.next = log.batches.get(behind).map_or(end, |(first, _)| *first);
                there.credit -= batch.len() as i64;
                push.next_offset = Offset::new(there.next);
                let (out, bytes) = (&mut wire.to_client, batch.len());
                encode_message(Api::Push, there.correlation, &push, bytes, out).unwrap();
                out.extend_from_slice(batch);
            }
            if !self.calm && random.one_in(20) {
                push.error = ErrorCode::ShuttingDown;
                let out = &mut wire.to_client;
                encode_message(Api::Push, there.correlation, &push, 0, out).unwrap();
                ended.push(*name);
            }
        }
        for name in ended {
            wire.subscriptions.remove(&name);
        }
    }

    fn produce(
        &mut self,
        request: &ProduceRequest,
        payload: &[u8],
        random: &mut Random,
    ) -> ProduceResponse<'static> {
        if !self.calm && random.one_in(10) {
            return ProduceResponse::refused(ErrorCode::Throttled, "");
        }
        let header = BatchHeader::parse(payload).unwrap();
        header.verify(payload).unwrap();
        let values = values(&header, payload);
        let log = &mut self.logs[request.partition.get() as usize];
        let (epoch, sequence) = (header.producer_epoch.get(), header.base_sequence.get());
        let expected = if epoch > log.epoch { 0 } else { log.next_sequence };
        if epoch < log.epoch {
            return ProduceResponse::refused(ErrorCode::ProducerFenced, "");
        }
        let receipt = |first: u64, duplicate: bool| ProduceResponse {
            error: ErrorCode::None,
            level: Durability::ChainDisk,
            flags: ReceiptFlags { duplicate, tentative: false },
            copies: 1,
            partition: request.partition,
            first_offset: Offset::new(first),
            next_offset: Offset::new(first + u64::from(header.count)),
            epoch: Epoch::new(1),
            append_time: Millis::new(0),
            retry_after_ms: 0,
            message: "".into(),
        };
        if let Some(first) = log.known.get(&(epoch, sequence)) {
            return receipt(*first, true);
        }
        if sequence != expected {
            let code = if log.next_sequence == 0 && log.epoch == 0 {
                ErrorCode::UnknownProducer
            } else {
                ErrorCode::OutOfOrderSequence
            };
            return ProduceResponse::refused(code, "");
        }
        if values.iter().any(|value| value == POISON) {
            return ProduceResponse::refused(ErrorCode::BadBatch, "");
        }
        let first = log.values.len() as u64;
        log.values.extend(values);
        log.epoch = epoch;
        log.next_sequence = header.base_sequence.wrapping_add(header.count).get();
        log.known.insert((epoch, sequence), first);
        let mut stored = payload.to_vec();
        patch(&mut stored, Offset::new(first), Epoch::new(1));
        log.batches.push((first, stored));
        if !self.calm && random.one_in(20) {
            return ProduceResponse::refused(ErrorCode::Timeout, "");
        }
        receipt(first, false)
    }
}

fn values(header: &BatchHeader, batch: &[u8]) -> Vec<String> {
    let records = Records::new(&batch[61..], header.count, header.base_timestamp);
    let value = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    records.map(|record| value(record.unwrap().value.unwrap())).collect()
}

fn greeting() -> HandshakeResponse<'static> {
    HandshakeResponse {
        error: ErrorCode::None,
        server_version: "test".into(),
        apis: ApiRange::spoken(&Api::ALL),
        features: 0,
        limits: ConnectionLimits {
            head_bytes_max: 1 << 20,
            payload_bytes_max: 1 << 20,
            in_flight_bytes_max: 1 << 20,
            in_flight_max: 100,
            dedup_window: 8,
            credit_bytes_max: 1 << 20,
        },
        cluster: ClusterId::new(1),
        node: NodeId::new(1),
        incarnation: Incarnation::new(1),
        core: 0,
        cores: Vec::new(),
        mechanisms: "".into(),
        authentication: Vec::new().into(),
        message: "".into(),
    }
}

fn topic(cores: u16) -> TopicMetadata<'static> {
    let partition = |index: u32| PartitionMetadata {
        index: PartitionIndex::new(index),
        uid: PartitionUid::new(u64::from(index)),
        epoch: Epoch::new(1),
        core: index as u16 % cores,
        chain: Vec::new(),
        error: ErrorCode::None,
    };
    TopicMetadata {
        error: ErrorCode::None,
        name: "t".into(),
        id: TopicId::new(1),
        config_version: 1,
        batch_bytes_max: 4096,
        partitions: (0..PARTITIONS).map(partition).collect(),
    }
}

fn hello() -> Hello {
    Hello { client_id: "test".to_owned(), core: None, trust: None }
}

fn producer(options: ProducerOptions) -> Producer {
    let target = Target {
        topic: TopicId::new(1),
        places: Places::of(&topic(2), 1),
        partitions: PARTITIONS,
        batch_bytes_max: 4096,
        producer: (ProducerId::new(1), ProducerEpoch::new(0)),
    };
    Producer::new(target, options, hello(), Duration::from_secs(1), 3)
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
                self.on_connected(lane, "test", now);
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
        Self { server: Server::new(), random, now: Instant::now(), wires: BTreeMap::new() }
    }

    /// One step of the client; whether it is done.
    fn turn(&mut self, client: &mut impl Client) -> bool {
        match client.next(self.now) {
            Step::Connect(lane) if !self.server.calm && self.random.one_in(4) => {
                client.lost(lane, self.now);
            }
            Step::Connect(lane) => {
                let before = self.wires.insert(lane, Wire { lane: lane.0, ..Wire::default() });
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

    /// Some of the bytes arrive, and then perhaps nothing more.
    fn send(&mut self, client: &mut impl Client, lane: Lane, bytes: &[u8]) {
        let breaks = !self.server.calm && self.random.one_in(15);
        let arrive =
            if breaks { self.random.below(bytes.len() as u64 + 1) as usize } else { bytes.len() };
        let wire = self.wires.get_mut(&lane).expect("bytes go where there is a connection");
        self.server.on_bytes(wire, &bytes[..arrive], &mut self.random);
        if breaks {
            self.wires.remove(&lane);
            client.lost(lane, self.now);
        }
    }

    fn wait(&mut self, client: &mut impl Client, until: Option<Instant>) {
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
    let mut given_up = 0;
    for seed in 0..200 {
        let mut world = World::new(seed);
        let options = ProducerOptions {
            batch_bytes: 200,
            delivery_timeout: Duration::from_millis(40),
            ..ProducerOptions::default()
        };
        let mut producer = producer(options);
        let (appended, outcomes) = produce(&mut world, &mut producer, 300);
        check(seed, &world.server, &appended, &outcomes);
        let late = |outcome: &&Result<_, Error>| matches!(outcome, Err(Error::Undelivered { .. }));
        given_up += outcomes.values().filter(late).count();
    }
    assert!(given_up > 200, "{given_up} batches were given up");
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
        let mut reader = Reader::new(&topic(2), options, hello(), patience, &starts, 1);
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
    let (options, wait) = (ConsumerOptions::default(), Duration::from_secs(1));
    let mut reader = Reader::new(&topic(1), options, hello(), wait, &starts, 1);
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
    while !world.wires.is_empty() {
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
    let mut reader = Reader::new(&topic(2), options, hello(), wait, &starts, 1);
    while world.wires.len() < 2 {
        world.turn(&mut reader);
    }
    for lane in std::mem::take(&mut world.wires).into_keys() {
        reader.on_lost(lane, broken(), world.now);
    }
    let at_home = |world: &World| {
        world.wires.values().all(|wire| {
            wire.subscriptions.len() == 1
                && wire.subscriptions.values().all(|s| world.server.owner(s.partition) == wire.lane)
        })
    };
    while world.wires.len() < 3 || !at_home(&world) {
        world.turn(&mut reader);
    }
}
