//! Memory for what clients send: it goes by what has come and not by what is announced, it is
//! bounded, and nobody keeps it for good from those who want it.

mod common;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
};

use catena_client::{Client, Options};
use catena_format::TopicId;
use catena_wire::{
    Api, ErrorCode, FRAME_HEADER_BYTES, FrameHeader, FrameLimits, Message, ProduceResponse,
    Refusal, Setting, encode_message,
};
use common::{Server, batch, connect, free_address, greet, produce_request, wait_until};
use tempfile::TempDir;

/// The largest payload that can be configured.
const LARGEST: usize = 16 << 20;
/// What everything else in the server may take meanwhile: generous.
const SLACK_BYTES: usize = 48 << 20;
/// What is given out of a core's memory for ordinary messages: a quarter of a quarter.
const SMALL_POOL_BYTES: usize = (1 << 30) / 16;

struct World {
    server: Server,
    _directory: TempDir,
    topic: TopicId,
}

impl World {
    fn new(settings: &[(&str, &str)]) -> Self {
        let largest = settings.iter().find(|(name, _)| *name == "CATENA_LIMITS_BATCH_BYTES");
        let largest = largest.expect("every test sets it").1;
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let settings: Vec<_> =
            settings.iter().map(|(name, value)| (*name, Path::new(*value))).collect();
        let address = free_address();
        let server = Server::start_in(directory.path(), &address, &["--cores", "1"], &settings);
        server.wait_for("ready on", 1);
        let mut client = Client::new(Options::new(&address));
        let set = vec![Setting { key: "max.batch.bytes".into(), value: largest.into() }];
        client.create_topic("t", 1, set).unwrap();
        let topic = client.topic("t").unwrap().id;
        Self { server, _directory: directory, topic }
    }

    fn connect(&self) -> TcpStream {
        let mut stream = connect(&self.server.address, None);
        greet(&mut stream).unwrap();
        stream
    }

    /// Bytes of resident memory.
    fn resident(&self) -> usize {
        let status = format!("/proc/{}/status", self.server.child.id());
        let status = fs::read_to_string(status).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
    }

    /// Memory for what clients send, as the metrics tell.
    fn receiving(&self) -> usize {
        usize::try_from(self.server.metric("catena_receiving_bytes")[0]).unwrap()
    }

    fn request(&self, payload_bytes: usize) -> Vec<u8> {
        let request = produce_request(self.topic, 0);
        let mut bytes = Vec::new();
        encode_message(Api::Produce, 9, &request, payload_bytes, &mut bytes).unwrap();
        bytes
    }

    /// Produces a batch that somebody else's memory must not keep from being stored.
    fn produce(&self, stream: &mut TcpStream, bytes: usize) {
        let batch = batch(bytes);
        stream.write_all(&self.request(batch.len())).unwrap();
        stream.write_all(&batch).unwrap();
        let (header, head) = answer(stream);
        assert!(!header.is_refusal(), "{:?}", Refusal::decode(&head));
        assert_eq!(ProduceResponse::decode(&head).unwrap().error, ErrorCode::None);
    }
}

fn answer(stream: &mut TcpStream) -> (FrameHeader, Vec<u8>) {
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header).unwrap();
    let header = FrameHeader::parse(&header, FrameLimits::RESPONSE).unwrap();
    let mut head = vec![0; header.head_bytes as usize];
    stream.read_exact(&mut head).unwrap();
    (header, head)
}

/// The refusal of a request, behind which the connection ends.
fn refusal(stream: &mut TcpStream) -> (ErrorCode, String) {
    let (header, head) = answer(stream);
    assert!(header.is_refusal());
    assert_eq!((header.api, header.correlation), (Api::Produce as u8, 9));
    let refusal = Refusal::decode(&head).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the connection ends");
    (refusal.error, refusal.message.into_owned())
}

#[test]
fn what_is_announced_costs_nothing() {
    let world = World::new(&[("CATENA_LIMITS_BATCH_BYTES", "16777216")]);
    let mut honest = world.connect();
    world.produce(&mut honest, 100);
    let before = world.resident();
    let mut announcing: Vec<_> = (0..200).map(|_| world.connect()).collect();
    for stream in &mut announcing {
        // A little of it: more than an idle connection has room for.
        stream.write_all(&world.request(LARGEST)).unwrap();
        stream.write_all(&[0; 4000]).unwrap();
    }
    // Each has grown by what it takes to read on.
    wait_until("all have begun", || world.receiving() >= announcing.len() * (64 << 10));
    assert!(world.receiving() <= SMALL_POOL_BYTES);
    let taken = world.resident().saturating_sub(before);
    println!("{} announcements: {} KiB resident", announcing.len(), taken >> 10);
    assert!(taken <= SMALL_POOL_BYTES + SLACK_BYTES, "{taken} B");
    world.produce(&mut honest, 100);
    world.produce(&mut honest, 500_000);
    world.produce(&mut world.connect(), 500_000);
    drop(announcing);
    // The one that is still there shrinks when it has been idle for a while.
    wait_until("all is given back", || world.receiving() == 0);
    world.produce(&mut honest, 500_000);
}

#[test]
fn who_holds_memory_that_others_wait_for_loses_it() {
    // 8 MiB for ordinary messages, and room for two of the largest.
    let settings = [
        ("CATENA_LIMITS_MEMORY", "128MiB"),
        ("CATENA_LIMITS_BATCH_BYTES", "16777216"),
        ("CATENA_TIMEOUTS_REQUEST", "5s"),
    ];
    let world = World::new(&settings);
    let mut small = world.connect();
    let mut holding: Vec<_> = (0..2).map(|_| world.connect()).collect();
    for stream in &mut holding {
        stream.write_all(&world.request(LARGEST)).unwrap();
        stream.write_all(&vec![0; LARGEST / 2]).unwrap();
    }
    wait_until("two are given out", || world.receiving() >= 2 * LARGEST);
    world.produce(&mut small, 60_000);
    // It waits for memory until one before it has had its time; the other may go on then.
    world.produce(&mut world.connect(), 8 << 20);
    let (error, message) = refusal(&mut holding[0]);
    assert_eq!(error, ErrorCode::MemoryBudget, "{message}");
}

#[test]
fn a_longer_message_than_allowed_is_told_the_limit() {
    let settings =
        [("CATENA_LIMITS_BATCH_BYTES", "65536"), ("CATENA_TOPIC_MAX_BATCH_BYTES", "64KiB")];
    let world = World::new(&settings);
    let mut stream = world.connect();
    stream.write_all(&world.request((64 << 10) + 1)).unwrap();
    // The client does not wait for the answer, and gets it nevertheless.
    stream.write_all(&[0; (64 << 10) + 1]).unwrap();
    let (error, message) = refusal(&mut stream);
    assert_eq!(error, ErrorCode::FrameTooLarge);
    assert!(message.contains("limit of 65536"), "{message}");
    world.produce(&mut world.connect(), 60_000);
    // Before the handshake no payload is taken at all.
    let mut stream = connect(&world.server.address, None);
    stream.write_all(&world.request(1)).unwrap();
    assert_eq!(refusal(&mut stream).0, ErrorCode::FrameTooLarge);
}
