//! Several cores in the real binary: a connection goes where its client asks, a request is answered
//! wherever it comes in, and connections beyond the limit are told so.

mod common;

use std::{collections::BTreeSet, io::Read, time::Duration};

use catena_client::{Client, FetchOptions, Options};
use catena_format::Offset;
use catena_wire::{
    Api, ErrorCode, ListOffsetsRequest, ListOffsetsResponse, Message, OffsetQuery, PingRequest,
    Refusal,
};
use common::{Server, ask, batch, connect, free_address, greet, produce_request, server};

#[test]
fn a_connection_goes_to_its_core_and_every_core_answers_for_all() {
    let (_directory, server) = server(&["--cores", "3"]);
    for core in 0..3 {
        assert_eq!(greet(&mut connect(&server.address, Some(core))).unwrap(), core);
    }
    // A core that does not exist counts as any.
    assert!(greet(&mut connect(&server.address, Some(700))).unwrap() < 3);

    let request_timeout = Duration::from_secs(10);
    let mut client =
        Client::new(Options::new(&server.address).with_request_timeout(request_timeout));
    client.create_topic("t", 6, Vec::new()).unwrap();
    let topic = client.topic("t").unwrap();
    let owners: BTreeSet<u16> = topic.partitions.iter().map(|p| p.core).collect();
    assert_eq!(owners, BTreeSet::from([0, 1, 2]), "partitions are spread");
    // Described by the first core, which asks the others.
    assert_eq!(client.describe_topic("t").unwrap().partitions.len(), 6);

    for core in 0..3 {
        let mut stream = connect(&server.address, Some(core));
        greet(&mut stream).unwrap();
        for partition in &topic.partitions {
            let request = ListOffsetsRequest {
                topic: topic.id,
                partition: partition.index,
                query: OffsetQuery::Latest,
            };
            let (_, head) = ask(&mut stream, Api::ListOffsets, &request).unwrap();
            let response = ListOffsetsResponse::decode(&head).unwrap();
            assert_eq!(response.error, ErrorCode::None, "core {core}, {partition:?}");
        }
    }
}

#[test]
fn a_connection_over_the_limit_is_told_so() {
    let (directory, server) = server(&["--cores", "1"]);
    drop(server);
    let config = directory.path().join("catena.toml");
    std::fs::write(&config, "[limits]\nconnections = 2\n").unwrap();
    let config = config.to_str().unwrap();
    let server = Server::start(directory.path(), &free_address(), &["--config", config]);
    server.wait_for("ready on", 2);
    let mut first = connect(&server.address, None);
    let mut second = connect(&server.address, None);
    greet(&mut first).unwrap();
    greet(&mut second).unwrap();
    let mut third = connect(&server.address, None);
    let (header, head) = ask(&mut third, Api::Ping, &PingRequest {}).unwrap();
    assert!(header.is_refusal());
    assert_eq!(Refusal::decode(&head).unwrap().error, ErrorCode::ConnectionBudget);
    assert_eq!(third.read(&mut [0]).unwrap(), 0, "and its connection ends");
    ask(&mut first, Api::Ping, &PingRequest {}).unwrap();
    // A place that becomes free is taken.
    drop(second);
    let deadline = std::time::Instant::now() + common::PATIENCE;
    while greet(&mut connect(&server.address, None)).is_err() {
        assert!(std::time::Instant::now() < deadline, "the place does not become free");
    }
}

#[test]
fn connections_leave_the_files_of_logs_their_descriptors() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut limited = std::process::Command::new("sh");
    let script = "ulimit -n 700; exec \"$0\" \"$@\"";
    limited.args(["-c", script, env!("CARGO_BIN_EXE_catena")]);
    let address = free_address();
    let more = ["--cores", "1"];
    let server = Server::start_by(limited, directory.path(), &address, &more, &[]);
    server.wait_for("ready on", 1);
    // Half of them but 64 are for files, 256 for the rest.
    let said = "158 connections are taken at most, not 12000";
    assert!(server.log().contains(said), "{}", server.log());
    let connections: Vec<_> = (0..158)
        .map(|_| {
            let mut stream = connect(&address, None);
            greet(&mut stream).unwrap();
            stream
        })
        .collect();
    let mut client = Client::new(Options::new(&address));
    let error = client.create_topic("t", 1, Vec::new()).unwrap_err();
    assert!(error.to_string().contains("connections"), "{error}");
    drop(connections);
}

#[test]
fn an_answer_to_a_fetch_is_no_more_than_may_wait_for_clients() {
    const BATCHES: u64 = 24;
    const BATCH_BYTES: usize = 1000 << 10;
    let (directory, server) = server(&["--cores", "2"]);
    drop(server);
    let config = directory.path().join("catena.toml");
    std::fs::write(&config, "[limits]\nmemory = \"64MiB\"\n").unwrap();
    let more = ["--cores", "2", "--config", config.to_str().unwrap()];
    let server = Server::start(directory.path(), &free_address(), &more);
    server.wait_for("ready on", 2);
    let mut client = Client::new(Options::new(&server.address));
    client.create_topic("t", 1, Vec::new()).unwrap();
    let topic = client.topic("t").unwrap().id;
    let batch = batch(BATCH_BYTES);
    let request = produce_request(topic, 0);
    for _ in 0..BATCHES {
        let connection = client.connection().unwrap();
        connection.send_batch(&request, &batch).unwrap();
        assert_eq!(connection.receive_answer().unwrap().1.error, ErrorCode::None);
    }
    // All of it is asked for at once, again and again.
    let all = FetchOptions { max_bytes: 64 << 20, max_wait: Duration::ZERO };
    let mut offset = Offset::ZERO;
    while offset.get() < BATCHES {
        let fetched = client.fetch(topic, request.partition, offset, all).unwrap();
        assert!(fetched.next_offset > offset);
        offset = fetched.next_offset;
    }
    let cut: u64 = server.metric("catena_slow_consumers_total").iter().sum();
    assert_eq!(cut, 0);
}
