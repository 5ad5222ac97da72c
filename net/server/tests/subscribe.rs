//! A subscription on the real binary: from history to the live end, as far as its credit, and to
//! its end; on the core that owns the partition and on another one.

mod common;

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use catena_client::{Client, NewRecord, Options, ProducerOptions};
use catena_format::{BatchHeader, Offset, TopicId};
use catena_wire::{
    Api, CreditRequest, ErrorCode, FRAME_HEADER_BYTES, FetchRequest, FrameHeader, FrameLimits,
    Message, Push, StatusResponse, SubscribeRequest, SubscribeResponse, UnsubscribeRequest,
    encode_message,
};
use common::{Server, ask, connect, free_address, greet};

const TOPIC: &str = "pushed";

struct Subscriber {
    stream: TcpStream,
    topic: TopicId,
}

impl Subscriber {
    fn new(server: &Server, core: u16, topic: TopicId) -> Self {
        let mut stream = connect(&server.address, Some(core));
        assert_eq!(greet(&mut stream).unwrap(), core);
        Self { stream, topic }
    }

    fn subscribe(&mut self, subscription: u32, offset: u64, credit_bytes: u32) -> ErrorCode {
        let request = SubscribeRequest {
            subscription,
            topic: self.topic,
            partition: Default::default(),
            offset: Offset::new(offset),
            credit_bytes,
        };
        let (_, head) = ask(&mut self.stream, Api::Subscribe, &request).unwrap();
        SubscribeResponse::decode(&head).unwrap().error
    }

    fn credit(&mut self, subscription: u32, bytes: u32) {
        let mut message = Vec::new();
        let request = CreditRequest { subscription, bytes };
        encode_message(Api::Credit, 9, &request, 0, &mut message).unwrap();
        self.stream.write_all(&message).unwrap();
    }

    /// The next push: its error, its subscription, where it ends, and its payload.
    fn next(&mut self) -> (ErrorCode, u32, u64, Vec<u8>) {
        let mut header = [0; FRAME_HEADER_BYTES];
        self.stream.read_exact(&mut header).unwrap();
        let header = FrameHeader::parse(&header, FrameLimits::RESPONSE).unwrap();
        assert_eq!(header.api, Api::Push as u8);
        let mut head = vec![0; header.head_bytes as usize];
        self.stream.read_exact(&mut head).unwrap();
        let mut payload = vec![0; header.payload_bytes as usize];
        self.stream.read_exact(&mut payload).unwrap();
        let push = Push::decode(&head).unwrap();
        (push.error, push.subscription, push.next_offset.get(), payload)
    }

    /// Takes pushes up to `end`; each begins where the one before it ended.
    fn read_to(&mut self, mut at: u64, end: u64) {
        while at < end {
            let (error, _, next, payload) = self.next();
            assert_eq!(error, ErrorCode::None);
            assert_eq!(BatchHeader::parse(&payload).unwrap().base_offset as u64, at);
            at = next;
        }
        assert_eq!(at, end);
    }

    /// Nothing is on its way: what is asked next is answered next.
    fn hears_nothing(&mut self) {
        let ping = catena_wire::PingRequest {};
        let (header, _) = ask(&mut self.stream, Api::Ping, &ping).unwrap();
        assert_eq!(header.api, Api::Ping as u8);
    }
}

fn produce(client: &mut Client, from: u64, count: u64) {
    // Batches are cut by their bytes alone.
    let linger = Duration::from_secs(3600);
    let options = ProducerOptions { batch_bytes: 2000, linger, ..Default::default() };
    let producer = client.producer(TOPIC, options).unwrap();
    for number in from..from + count {
        let value = format!("{number} {}", "y".repeat(500));
        drop(producer.append(&NewRecord::value(value.as_bytes())).unwrap());
    }
    producer.close().unwrap();
}

fn subscription_from_history_to_its_end(core: u16) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let server = Server::start(directory.path(), &free_address(), &["--cores", "2"]);
    server.wait_for("ready on", 1);
    let request_timeout = Duration::from_secs(10);
    let mut client =
        Client::new(Options::new(&server.address).with_request_timeout(request_timeout));
    client.create_topic(TOPIC, 1, Vec::new()).unwrap();
    let topic = client.topic(TOPIC).unwrap().id;
    produce(&mut client, 0, 300);

    let mut subscriber = Subscriber::new(&server, core, topic);
    assert_eq!(subscriber.subscribe(1, 0, 1 << 20), ErrorCode::None);
    subscriber.read_to(0, 300);
    // A name that is in use is refused, and the subscription goes on.
    assert_eq!(subscriber.subscribe(1, 0, 10), ErrorCode::InvalidRequest);
    produce(&mut client, 300, 50);
    subscriber.read_to(300, 350);

    // Without credit nothing comes; with a little, one batch.
    assert_eq!(subscriber.subscribe(2, 0, 0), ErrorCode::None);
    subscriber.hears_nothing();
    subscriber.credit(2, 1);
    let (_, name, next, payload) = subscriber.next();
    assert!(name == 2 && next > 0 && payload.len() > 1);
    subscriber.hears_nothing();

    let unsubscribe = UnsubscribeRequest { subscription: 2 };
    let (_, head) = ask(&mut subscriber.stream, Api::Unsubscribe, &unsubscribe).unwrap();
    assert_eq!(StatusResponse::decode(&head).unwrap().error, ErrorCode::None);
    assert_eq!(subscriber.subscribe(2, 1000, 1), ErrorCode::None);
    let (error, name, next, _) = subscriber.next();
    assert_eq!((error, name, next), (ErrorCode::OffsetOutOfRange, 2, 350));
    assert_eq!(subscriber.subscribe(2, 350, 1), ErrorCode::None, "an end frees the name");

    client.delete_topic(TOPIC).unwrap();
    let mut ended = [subscriber.next(), subscriber.next()];
    ended.sort_by_key(|(_, name, ..)| *name);
    assert!(ended.iter().all(|(error, ..)| *error == ErrorCode::UnknownTopic), "{ended:?}");
    assert_eq!(subscriber.subscribe(3, 0, 1), ErrorCode::UnknownTopic);
}

#[test]
fn on_the_core_that_owns_the_partition() {
    subscription_from_history_to_its_end(0);
}

#[test]
fn on_a_core_that_forwards_it() {
    subscription_from_history_to_its_end(1);
}

/// A server with little memory, and a topic of one partition, on core 0.
fn small_server(directory: &std::path::Path, cores: &str) -> (Server, Client, TopicId) {
    let config = directory.join("catena.toml");
    std::fs::write(&config, "[limits]\nmemory = '64MiB'\nin_flight_per_core = '32MiB'\n").unwrap();
    let more = ["--cores", cores, "--config", config.to_str().unwrap()];
    let server = Server::start(directory, &free_address(), &more);
    server.wait_for("ready on", 1);
    let request_timeout = Duration::from_secs(10);
    let mut client =
        Client::new(Options::new(&server.address).with_request_timeout(request_timeout));
    client.create_topic(TOPIC, 1, Vec::new()).unwrap();
    let topic = client.topic(TOPIC).unwrap().id;
    (server, client, topic)
}

/// Subscribes on a core, leaves far more unread than the kernel's buffers and a quarter of the
/// memory take, and then reads it.
fn a_slow_consumer(core: u16, cores: &str) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (server, mut client, topic) = small_server(directory.path(), cores);
    let mut slow = Subscriber::new(&server, core, topic);
    assert_eq!(slow.subscribe(1, 0, 1 << 30), ErrorCode::None);
    let mut reader = Subscriber::new(&server, core, topic);
    assert_eq!(reader.subscribe(1, 0, 1 << 30), ErrorCode::None);
    let mut at = 0;
    while at < 80_000 {
        produce(&mut client, at, 4000);
        reader.read_to(at, at + 4000);
        at += 4000;
    }
    slow.read_to(0, at);
    assert!(!server.log().contains("was cut"));
}

#[test]
fn a_slow_consumer_costs_the_others_nothing_and_loses_nothing() {
    a_slow_consumer(0, "1");
}

#[test]
fn nor_does_one_on_a_core_that_forwards_it() {
    a_slow_consumer(1, "2");
}

#[test]
fn answers_that_nobody_reads_do_not_keep_others_from_reading() {
    const BATCHES: u64 = 2000;
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (server, mut client, topic) = small_server(directory.path(), "1");
    let options = ProducerOptions { batch_bytes: 1, ..Default::default() };
    let producer = client.producer(TOPIC, options).unwrap();
    for _ in 0..BATCHES {
        drop(producer.append(&NewRecord::value(&[7; 16 << 10])).unwrap());
    }
    producer.close().unwrap();
    // Each asks for next to nothing, and gets a batch that holds all that was read for it.
    let mut silent = Subscriber::new(&server, 0, topic);
    let mut requests = Vec::new();
    for offset in 0..BATCHES {
        let request = FetchRequest {
            topic,
            partition: Default::default(),
            offset: Offset::new(offset),
            max_bytes: 1,
            min_bytes: 1,
            max_wait_ms: 0,
        };
        let mut message = Vec::new();
        encode_message(Api::Fetch, 9, &request, 0, &mut message).unwrap();
        requests.extend(message);
    }
    silent.stream.write_all(&requests).unwrap();
    server.wait_for("was cut", 1);
    let mut reader = Subscriber::new(&server, 0, topic);
    assert_eq!(reader.subscribe(1, 0, 1 << 30), ErrorCode::None);
    let mut at = 0;
    while at < BATCHES {
        let (error, _, next, _) = reader.next();
        assert_eq!(error, ErrorCode::None);
        at = next;
    }
}
