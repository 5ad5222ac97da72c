//! What the server copies in user space for a byte produced and a byte fetched in plaintext, told
//! by a library that is preloaded and counts `memcpy` and its kin: at most one, and none.

mod common;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
};

use catena_client::{Client, OffsetQuery, Options};
use catena_format::{
    Millis, Offset, PartitionIndex, TopicId,
    records::{BatchBuilder, Producer},
};
use catena_wire::{
    Api, ErrorCode, FRAME_HEADER_BYTES, FetchRequest, FetchResponse, FrameHeader, FrameLimits,
    Message, ProduceResponse, encode_message,
};
use common::{Server, connect, free_address, greet, produce_request, skipped};
use tempfile::TempDir;

/// Bytes of batches that go to and fro for each figure.
const TRAFFIC_BYTES: usize = 16 << 20;
/// Batches under way at once.
const IN_FLIGHT: usize = 8;
/// What is fetched at once at most.
const FETCH_BYTES: u32 = 1 << 20;
/// Long copies that are not of a batch, for each byte of one: tables that grow, the background.
const BESIDE_MAX: f64 = 0.02;
/// Bytes of a batch, about: as clients send them, longer than what is read at once, and two of
/// which some and a good part of another are read at once.
const BATCH_BYTES: [usize; 4] = [64 << 10, 200 << 10, 50 << 10, 7400];

/// A server that is watched as it copies.
struct World {
    server: Server,
    directory: TempDir,
    library: PathBuf,
    counters: PathBuf,
}

/// Bytes copied since the server started.
#[derive(Clone, Copy)]
struct Copied {
    all: u64,
    long: u64,
}

impl World {
    fn new(library: PathBuf, directory: TempDir) -> Self {
        let counters = directory.path().join("counters");
        let server = start(directory.path(), &library, &counters);
        Self { server, directory, library, counters }
    }

    /// Starts the server once more, so that nothing is in its memory.
    fn restart(&mut self) {
        self.server.signal("TERM");
        self.server.child.wait().unwrap();
        self.server = start(self.directory.path(), &self.library, &self.counters);
    }

    fn connect(&self) -> TcpStream {
        let mut stream = connect(&self.server.address, None);
        greet(&mut stream).unwrap();
        stream
    }

    fn copied(&self) -> Copied {
        let bytes = fs::read(&self.counters).unwrap();
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        Copied { all: number(0), long: number(8) }
    }

    /// Bytes copied while `bytes` went to and fro, for each of them.
    fn measure(&self, what: &str, traffic: impl FnOnce() -> usize) -> f64 {
        let before = self.copied();
        let bytes = traffic() as f64;
        let after = self.copied();
        let all = (after.all - before.all) as f64 / bytes;
        let long = (after.long - before.long) as f64 / bytes;
        println!("{what}: {all:.4} bytes copied for each byte, {long:.4} in long copies");
        long
    }
}

fn start(directory: &Path, library: &Path, counters: &Path) -> Server {
    fs::write(counters, [0; 16]).unwrap();
    let address = free_address();
    let environment = [("LD_PRELOAD", library), ("CATENA_COPIES", counters)];
    let started = fs::read_to_string(directory.join("log")).unwrap_or_default();
    let server = Server::start_in(directory, &address, &["--cores", "1"], &environment);
    server.wait_for("ready on", started.matches("ready on").count() + 1);
    server
}

/// The library, if there is a compiler for it.
fn compile(directory: &Path) -> Option<PathBuf> {
    let library = directory.join("counter.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/copies/counter.c");
    // Its own loops must not become calls of what it stands before.
    let own = ["-fno-builtin", "-fno-tree-loop-distribute-patterns"];
    let compiled = Command::new("gcc")
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"])
        .args(own)
        .arg("-o")
        .args([&library, Path::new(source)])
        .arg("-ldl")
        .status();
    match compiled {
        Ok(status) => assert!(status.success(), "counter.c compiles"),
        Err(error) => {
            skipped(&format!("no gcc: {error}"));
            return None;
        }
    }
    Some(library)
}

/// Sends what there is, then reads as many answers; the heads and payloads of these.
fn exchange(stream: &mut TcpStream, requests: &[u8], answers: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    stream.write_all(requests).unwrap();
    let mut read = |bytes: usize| {
        let mut buffer = vec![0; bytes];
        stream.read_exact(&mut buffer).unwrap();
        buffer
    };
    let mut answer = || {
        let header = read(FRAME_HEADER_BYTES).try_into().unwrap();
        let header = FrameHeader::parse(&header, FrameLimits::RESPONSE).unwrap();
        assert!(!header.is_refusal());
        (read(header.head_bytes as usize), read(header.payload_bytes as usize))
    };
    (0..answers).map(|_| answer()).collect()
}

fn batch(bytes: usize) -> Vec<u8> {
    let mut batch = BatchBuilder::new();
    let value: Vec<u8> = (0..500u32).map(|i| (i * 7 + i / 256) as u8).collect();
    while batch.bytes() < bytes {
        batch.push(Millis::new(1), None, Some(&value), &[]);
    }
    batch.build(Producer::NONE).unwrap()
}

/// Produces batches, some at once; their bytes.
fn produce(stream: &mut TcpStream, topic: TopicId, batch: &[u8]) -> usize {
    let request = produce_request(topic, 0);
    let mut requests = Vec::new();
    for _ in 0..IN_FLIGHT {
        encode_message(Api::Produce, 1, &request, batch.len(), &mut requests).unwrap();
        requests.extend_from_slice(batch);
    }
    let mut bytes = 0;
    while bytes < TRAFFIC_BYTES {
        for (head, _) in exchange(stream, &requests, IN_FLIGHT) {
            assert_eq!(ProduceResponse::decode(&head).unwrap().error, ErrorCode::None);
            bytes += batch.len();
        }
    }
    bytes
}

/// Fetches a partition from its beginning to its end; the bytes of the batches.
fn fetch(stream: &mut TcpStream, topic: TopicId) -> usize {
    let (mut bytes, mut offset) = (0, Offset::ZERO);
    loop {
        let request = FetchRequest {
            topic,
            partition: PartitionIndex::new(0),
            offset,
            max_bytes: FETCH_BYTES,
            min_bytes: 1,
            max_wait_ms: 0,
        };
        let mut requests = Vec::new();
        encode_message(Api::Fetch, 1, &request, 0, &mut requests).unwrap();
        for (head, payload) in exchange(stream, &requests, 1) {
            let response = FetchResponse::decode(&head).unwrap();
            assert_eq!(response.error, ErrorCode::None);
            if payload.is_empty() {
                assert_eq!(offset, response.high_watermark);
                return bytes;
            }
            bytes += payload.len();
            offset = response.next_offset;
        }
    }
}

#[test]
fn a_byte_is_copied_once_as_it_is_produced_and_never_as_it_is_fetched() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let Some(library) = compile(directory.path()) else { return };
    let mut world = World::new(library, directory);
    let mut topics = Vec::new();
    for bytes in BATCH_BYTES {
        let mut client = Client::new(Options::new(&world.server.address));
        let name = format!("t{bytes}");
        client.create_topic(&name, 1, Vec::new()).unwrap();
        let topic = client.topic(&name).unwrap().id;
        let (mut stream, batch) = (world.connect(), batch(bytes));
        let size = batch.len();
        let what = format!("batches of {size} B, produced");
        let produced = world.measure(&what, || produce(&mut stream, topic, &batch));
        // Less than one and nothing would be counted: the library would not see what it must see.
        assert!((1.0..=1.0 + BESIDE_MAX).contains(&produced), "{what}: {produced}");
        let what = format!("batches of {size} B, fetched from memory and disk");
        let fetched = world.measure(&what, || fetch(&mut stream, topic));
        assert!(fetched <= BESIDE_MAX, "{what}: {fetched}");
        topics.push((size, topic));
    }
    world.restart();
    for (size, topic) in topics {
        // The client waits until the partition is open.
        let mut client = Client::new(Options::new(&world.server.address));
        client.offset(topic, PartitionIndex::new(0), OffsetQuery::Latest).unwrap();
        let mut stream = world.connect();
        let what = format!("batches of {size} B, fetched from disk");
        let fetched = world.measure(&what, || fetch(&mut stream, topic));
        assert!(fetched <= BESIDE_MAX, "{what}: {fetched}");
    }
}
