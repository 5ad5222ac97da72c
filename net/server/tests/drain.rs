//! The end of a server: what it has taken it answers, on every core, and says how it stands.

mod common;

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use catena_client::{Client, Options};
use catena_format::{Offset, PartitionIndex, TopicId};
use catena_wire::{
    Api, ErrorCode, FRAME_HEADER_BYTES, FetchRequest, FetchResponse, FrameHeader, FrameLimits,
    Message, ProduceResponse, encode_message,
};
use common::{Server, batch, connect, free_address, greet, produce_request, wait_until};
use tempfile::TempDir;

const PARTITIONS: u32 = 4;

fn server(directory: &TempDir, drain: &str, starts: usize) -> Server {
    let config = directory.path().join("catena.toml");
    std::fs::write(&config, format!("[timeouts]\ndrain = \"{drain}\"\n")).unwrap();
    let more = ["--cores", "2", "--config", config.to_str().unwrap()];
    let server = Server::start(directory.path(), &free_address(), &more);
    server.wait_for("ready on", starts);
    server
}

fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn client(server: &Server) -> Client {
    Client::new(Options::new(&server.address).with_request_timeout(Duration::from_secs(20)))
}

fn greeted(server: &Server, core: u16) -> TcpStream {
    let mut stream = connect(&server.address, Some(core));
    assert_eq!(greet(&mut stream).unwrap(), core);
    stream
}

fn produce(topic: TopicId, partition: u32, batch: &[u8]) -> Vec<u8> {
    let request = produce_request(topic, partition);
    let mut bytes = Vec::new();
    encode_message(Api::Produce, partition, &request, batch.len(), &mut bytes).unwrap();
    bytes.extend_from_slice(batch);
    bytes
}

fn fetch(topic: TopicId, partition: u32, max_wait_ms: u32) -> Vec<u8> {
    let request = FetchRequest {
        topic,
        partition: PartitionIndex::new(partition),
        offset: Offset::ZERO,
        max_bytes: 16 << 20,
        min_bytes: 1,
        max_wait_ms,
    };
    let mut bytes = Vec::new();
    encode_message(Api::Fetch, partition, &request, 0, &mut bytes).unwrap();
    bytes
}

/// The next answer, if the connection does not end before: its head.
fn answer(stream: &mut TcpStream) -> Option<(FrameHeader, Vec<u8>)> {
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header).ok()?;
    let header = FrameHeader::parse(&header, FrameLimits::RESPONSE).unwrap();
    let mut rest = vec![0; (header.head_bytes + header.payload_bytes) as usize];
    stream.read_exact(&mut rest).ok()?;
    rest.truncate(header.head_bytes as usize);
    Some((header, rest))
}

/// The outcomes of produces until the connection ends.
fn outcomes(stream: &mut TcpStream) -> Vec<(u32, ErrorCode)> {
    let answers = std::iter::from_fn(|| answer(stream));
    let decoded = answers.map(|(header, head)| {
        let response = ProduceResponse::decode(&head).unwrap();
        (header.correlation, response.error)
    });
    decoded.collect()
}

#[test]
fn what_is_stored_was_acknowledged_though_the_server_was_told_to_end() {
    const ROUNDS: usize = 150;
    let directory = directory();
    let mut server = server(&directory, "30s", 1);
    client(&server).create_topic("t", PARTITIONS, Vec::new()).unwrap();
    let topic = client(&server).topic("t").unwrap().id;
    let batch = batch(8 << 10);
    // Half of these go to the other core.
    let round: Vec<u8> = (0..PARTITIONS).flat_map(|p| produce(topic, p, &batch)).collect();
    let streams: Vec<_> = (0..4).map(|n| greeted(&server, n % 2)).collect();
    let readers: Vec<_> = streams
        .iter()
        .map(|stream| {
            let mut stream = stream.try_clone().unwrap();
            std::thread::spawn(move || outcomes(&mut stream))
        })
        .collect();
    for (number, mut stream) in streams.iter().enumerate() {
        for _ in 0..ROUNDS {
            // The server may have ended: it was told so while the last is being sent.
            let sent = stream.write_all(&round);
            assert!(sent.is_ok() || number == streams.len() - 1, "{sent:?}");
            if number == streams.len() - 1 {
                server.signal("TERM");
            }
        }
    }
    assert!(server.child.wait().unwrap().success());
    let mut acknowledged = [0; PARTITIONS as usize];
    for (partition, error) in readers.into_iter().flat_map(|reader| reader.join().unwrap()) {
        match error {
            ErrorCode::None => acknowledged[partition as usize] += 1,
            error => assert_eq!(error, ErrorCode::ShuttingDown),
        }
    }
    let server = self::server(&directory, "30s", 2);
    wait_until("all partitions are open", || {
        server.metric("catena_partitions_open").iter().sum::<u64>() == u64::from(PARTITIONS)
    });
    let ends = client(&server).describe_topic("t").unwrap().partitions;
    let stored: Vec<_> = ends.iter().map(|partition| partition.log_end.get()).collect();
    assert_eq!(stored, acknowledged);
}

#[test]
fn a_fetch_that_waits_is_answered_at_the_end() {
    let directory = directory();
    let mut server = server(&directory, "30s", 1);
    client(&server).create_topic("t", 2, Vec::new()).unwrap();
    let topic = client(&server).topic("t").unwrap();
    let mut waiting = Vec::new();
    for partition in &topic.partitions {
        for core in 0..2 {
            let mut stream = greeted(&server, core);
            let index = partition.index.get();
            stream.write_all(&fetch(topic.id, index, 3_600_000)).unwrap();
            // It was taken when the next of that partition is answered.
            stream.write_all(&fetch(topic.id, index, 0)).unwrap();
            answer(&mut stream).expect("an empty answer");
            waiting.push(stream);
        }
    }
    server.signal("TERM");
    for stream in &mut waiting {
        let (_, head) = answer(stream).expect("an answer");
        assert_eq!(FetchResponse::decode(&head).unwrap().error, ErrorCode::None);
    }
    assert!(server.child.wait().unwrap().success());
}

#[test]
fn a_server_that_ends_goes_on_telling_how_it_stands() {
    let directory = directory();
    let mut server = server(&directory, "10m", 1);
    client(&server).create_topic("t", 1, Vec::new()).unwrap();
    let topic = client(&server).topic("t").unwrap().id;
    let mut slow = greeted(&server, 0);
    slow.write_all(&produce(topic, 0, &batch(1 << 19))).unwrap();
    answer(&mut slow).expect("it is stored");
    // More than sockets take: the end waits until it is read.
    for _ in 0..64 {
        slow.write_all(&fetch(topic, 0, 0)).unwrap();
    }
    wait_until("answers wait", || server.metric("catena_unsent_bytes").iter().any(|b| *b > 0));
    server.signal("TERM");
    wait_until("it ends", || server.get("/readyz").contains("Draining"));
    let before: u64 = server.metric("catena_connections_total").iter().sum();
    let _late = connect(&server.address, Some(0));
    let _later = connect(&server.address, Some(0));
    // The first core says that it ends; the other hears of it.
    wait_until("nobody is greeted any more", || {
        greet(&mut connect(&server.address, Some(1))).is_err()
    });
    wait_until("it tells of a new connection", || {
        server.metric("catena_connections_total").iter().sum::<u64>() > before
    });
    assert!(server.get("/livez").starts_with("HTTP/1.1 200"));
    for _ in 0..64 {
        answer(&mut slow).expect("every answer");
    }
    assert!(server.child.wait().unwrap().success());
}
