//! How connections end that the server refuses: each hears why, and none stays.

mod common;

use std::{
    io::{Read, Write},
    path::Path,
};

use catena_client::{Client, Options};
use catena_format::{Offset, PartitionIndex};
use catena_wire::{
    Api, ErrorCode, FRAME_HEADER_BYTES, FetchRequest, FrameHeader, FrameLimits, HandshakeRequest,
    HandshakeResponse, Message, PingRequest, encode_message,
};
use common::{Server, ask, batch, connect, free_address, greet, produce_request, wait_until};
use tempfile::TempDir;

fn server() -> (TempDir, Server) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let settings = [("CATENA_TIMEOUTS_HANDSHAKE", Path::new("2s"))];
    let address = free_address();
    let server = Server::start_in(directory.path(), &address, &["--cores", "1"], &settings);
    server.wait_for("ready on", 1);
    (directory, server)
}

fn hello(mechanism: &str) -> HandshakeRequest<'_> {
    HandshakeRequest {
        client: "test".into(),
        client_version: "0".into(),
        apis: Vec::new(),
        features: 0,
        mechanism: mechanism.into(),
        authentication: Vec::new().into(),
    }
}

#[test]
fn a_handshake_that_fails_is_answered_and_ends_the_connection() {
    let (_directory, server) = server();
    let mut stream = connect(&server.address, None);
    let (_, head) = ask(&mut stream, Api::Handshake, &hello("kerberos")).unwrap();
    let error = HandshakeResponse::decode(&head).unwrap().error;
    assert_eq!(error, ErrorCode::AuthenticationFailed);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);

    // One that cannot be read: it ends too early.
    let mut stream = connect(&server.address, None);
    let mut bytes = Vec::new();
    encode_message(Api::Handshake, 7, &PingRequest {}, 0, &mut bytes).unwrap();
    stream.write_all(&bytes).unwrap();
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header).unwrap();
    let header = FrameHeader::parse(&header, FrameLimits::RESPONSE).unwrap();
    let mut head = vec![0; header.head_bytes as usize];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(HandshakeResponse::decode(&head).unwrap().error, ErrorCode::InvalidRequest);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn who_is_refused_and_does_not_read_why_is_cut() {
    let (_directory, server) = server();
    let topic = {
        let mut client = Client::new(Options::new(&server.address));
        client.create_topic("t", 1, Vec::new()).unwrap();
        let topic = client.topic("t").unwrap().id;
        let batch = batch(1 << 19);
        let request = produce_request(topic, 0);
        let connection = client.connection().unwrap();
        connection.send_batch(&request, &batch).unwrap();
        connection.receive_answer().unwrap();
        topic
    };
    let mut stream = connect(&server.address, None);
    greet(&mut stream).unwrap();
    let request = FetchRequest {
        topic,
        partition: PartitionIndex::new(0),
        offset: Offset::ZERO,
        max_bytes: 1 << 20,
        min_bytes: 1,
        max_wait_ms: 0,
    };
    let mut bytes = Vec::new();
    (0..64).for_each(|_| encode_message(Api::Fetch, 1, &request, 0, &mut bytes).unwrap());
    stream.write_all(&bytes).unwrap();
    wait_until("answers wait", || server.metric("catena_unsent_bytes")[0] > 0);
    // Longer than any request may be.
    let mut bytes = Vec::new();
    encode_message(Api::Produce, 2, &request, 16 << 20, &mut bytes).unwrap();
    stream.write_all(&bytes).unwrap();
    wait_until("it is cut", || server.metric("catena_connections")[0] == 0);
}

#[test]
fn why_connections_were_ended_is_counted() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let timeouts = ["CATENA_TIMEOUTS_HANDSHAKE", "CATENA_TIMEOUTS_IDLE"];
    let settings = timeouts.map(|name| (name, Path::new("2s")));
    let address = free_address();
    let server = Server::start_in(directory.path(), &address, &["--cores", "1"], &settings);
    server.wait_for("ready on", 1);
    let counted = |name: &str, least: u64| {
        wait_until(name, || server.metric(name)[0] >= least);
        assert_eq!(server.metric(name)[0], least, "{name}");
    };

    // One says nothing, one not all of its handshake.
    let mut mute = std::net::TcpStream::connect(&server.address).unwrap();
    let mut late = connect(&server.address, None);
    late.write_all(b"C").unwrap();
    assert_eq!((mute.read(&mut [0]).unwrap(), late.read(&mut [0]).unwrap()), (0, 0));
    counted("catena_handshake_timeouts_total", 2);

    let mut silent = connect(&server.address, None);
    greet(&mut silent).unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    counted("catena_idle_timeouts_total", 1);

    // No preface; and no frame behind a handshake.
    let mut foreign = std::net::TcpStream::connect(&server.address).unwrap();
    foreign.write_all(b"GET / HTTP/1.1\r\nHost: catena\r\n\r\n").unwrap();
    let mut garbled = connect(&server.address, None);
    greet(&mut garbled).unwrap();
    garbled.write_all(&[0x5a; FRAME_HEADER_BYTES]).unwrap();
    counted("catena_bad_frames_total", 2);

    let mut large = connect(&server.address, None);
    greet(&mut large).unwrap();
    let mut bytes = Vec::new();
    encode_message(Api::Produce, 2, &PingRequest {}, 16 << 20, &mut bytes).unwrap();
    large.write_all(&bytes).unwrap();
    counted("catena_refusals_total", 1);
}

#[test]
fn who_is_one_too_many_is_told_and_counted_so_though_it_stays() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let settings = [
        ("CATENA_TIMEOUTS_HANDSHAKE", Path::new("2s")),
        ("CATENA_LIMITS_CONNECTIONS", "1".as_ref()),
    ];
    let address = free_address();
    let server = Server::start_in(directory.path(), &address, &["--cores", "1"], &settings);
    server.wait_for("ready on", 1);
    let mut first = connect(&server.address, None);
    greet(&mut first).unwrap();
    let mut second = connect(&server.address, None);
    let (header, head) = ask(&mut second, Api::Handshake, &hello("")).unwrap();
    assert!(header.is_refusal());
    assert_eq!(head[..2], ErrorCode::ConnectionBudget.number().to_le_bytes());
    let refused = || server.metric("catena_refusals_total")[0];
    wait_until("it is counted", || refused() == 1);
    assert_eq!(server.metric("catena_handshake_timeouts_total")[0], 0);
}
