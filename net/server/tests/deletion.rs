//! Topics that are deleted while they are written and read: nobody but their clients notices.

mod common;

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use catena_client::{Client, Error, ErrorCode, Options, Setting, TopicMetadata};
use catena_format::{Offset, PartitionIndex, TopicId};
use catena_wire::{
    Api, Durability, FRAME_HEADER_BYTES, FetchRequest, FrameHeader, FrameLimits, ProduceRequest,
    encode_message,
};
use common::{Server, batch, connect, free_address, greet, produce_request};

const TOPICS: u64 = 60;

fn produce(topic: TopicId, partition: u32) -> Vec<u8> {
    let request =
        ProduceRequest { durability: Durability::None, ..produce_request(topic, partition) };
    let (mut bytes, batch) = (Vec::new(), batch(2000));
    encode_message(Api::Produce, 1, &request, batch.len(), &mut bytes).unwrap();
    bytes.extend_from_slice(&batch);
    bytes
}

fn fetch(topic: TopicId, partition: u32) -> Vec<u8> {
    let request = FetchRequest {
        topic,
        partition: PartitionIndex::new(partition),
        offset: Offset::ZERO,
        max_bytes: 1 << 20,
        min_bytes: 0,
        max_wait_ms: 0,
    };
    let mut bytes = Vec::new();
    encode_message(Api::Fetch, 1, &request, 0, &mut bytes).unwrap();
    bytes
}

/// Sends all that is asked for in one go, then takes as many answers.
fn load(stream: &mut (impl std::io::Read + std::io::Write), topic: TopicId, partitions: u32) {
    let mut bytes = Vec::new();
    for partition in 0..partitions {
        for _ in 0..4 {
            bytes.extend(produce(topic, partition));
            bytes.extend(fetch(topic, partition));
        }
    }
    stream.write_all(&bytes).unwrap();
    for _ in 0..partitions * 8 {
        let mut header = [0; FRAME_HEADER_BYTES];
        stream.read_exact(&mut header).unwrap();
        let header = FrameHeader::parse(&header, FrameLimits::RESPONSE).unwrap();
        let mut rest = vec![0; header.head_bytes as usize + header.payload_bytes as usize];
        stream.read_exact(&mut rest).unwrap();
    }
}

#[test]
fn topics_go_away_under_load() {
    const PARTITIONS: u32 = 4;
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let config = directory.path().join("catena.toml");
    // Hardly a descriptor is kept and no batch in memory, so that files are opened all the time.
    std::fs::write(&config, "[limits]\ndescriptors = 64\n[storage]\ntail_cache = \"0\"\n").unwrap();
    let more = ["--cores", "2", "--config", config.to_str().unwrap()];
    let server = Server::start(directory.path(), &free_address(), &more);
    server.wait_for("ready on", 1);
    let admin = || {
        let timeout = Duration::from_secs(20);
        Client::new(Options::new(&server.address).with_request_timeout(timeout))
    };
    let (newest, ended) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut stream = connect(&server.address, None);
                greet(&mut stream).unwrap();
                let mut client = admin();
                while !ended.load(Ordering::Relaxed) {
                    let name = format!("t{}", newest.load(Ordering::Relaxed));
                    let Ok(topic) = client.topic(&name) else { continue };
                    load(&mut stream, topic.id, PARTITIONS);
                }
            });
        }
        let mut client = admin();
        for number in 0..TOPICS {
            let name = format!("t{number}");
            client.create_topic(&name, PARTITIONS, Vec::new()).unwrap();
            newest.store(number, Ordering::Relaxed);
            let topic = client.topic(&name).unwrap().id;
            let mut stream = connect(&server.address, None);
            greet(&mut stream).unwrap();
            load(&mut stream, topic, PARTITIONS);
            client.delete_topic(&name).unwrap();
        }
        ended.store(true, Ordering::Relaxed);
    });
    let error = admin().topic("t0").unwrap_err();
    let unknown = matches!(error, Error::Server { code: ErrorCode::UnknownTopic, .. });
    assert!(unknown, "it is up, and they are gone: {error}");
    let left = directory.path().join("data/p");
    let deadline = std::time::Instant::now() + common::PATIENCE;
    while std::fs::read_dir(&left).unwrap().count() > 0 {
        assert!(std::time::Instant::now() < deadline, "directories of deleted topics stay");
        thread::yield_now();
    }
}

/// Segments of one topic are removed while those of a large one still are.
#[test]
fn files_of_a_deleted_topic_hold_up_no_other() {
    const FILES: usize = 100_000;
    let (directory, server) = common::server(&["--cores", "1"]);
    let mut client = Client::new(Options::new(&server.address));
    client.create_topic("large", 1, Vec::new()).unwrap();
    let small = [("segment.bytes", "65536"), ("retention.bytes", "65536")];
    let small = small.map(|(key, value)| Setting { key: key.into(), value: value.into() });
    client.create_topic("small", 1, small.to_vec()).unwrap();
    let (large, small) = (client.topic("large").unwrap(), client.topic("small").unwrap());
    let path = |topic: &TopicMetadata<'_>| {
        let uid = topic.partitions[0].uid.get();
        directory.path().join("data/p").join(format!("{uid:016x}"))
    };
    let first = path(&small).join(format!("{:016x}.seg", 1));
    let mut stream = connect(&server.address, None);
    greet(&mut stream).unwrap();
    load(&mut stream, small.id, 1);
    common::wait_until("a segment is written", || first.exists());
    let large = path(&large);
    (0..FILES).for_each(|file| drop(std::fs::File::create(large.join(file.to_string())).unwrap()));
    client.delete_topic("large").unwrap();
    let deadline = std::time::Instant::now() + common::PATIENCE;
    while first.exists() {
        assert!(std::time::Instant::now() < deadline, "no segment is dropped");
        load(&mut stream, small.id, 1);
    }
    assert!(large.exists(), "all of it was removed first");
}
