//! The client library against a server of several cores: each partition is written and read over a
//! connection to the core that owns it, also after the server has come back with other cores. What
//! was forwarded all the same, the server's metrics tell.

mod common;

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use catena_client::{
    Client, Connection, ConsumerOptions, FetchOptions, NewRecord, OffsetQuery, Options, Producer,
    ProducerOptions,
    format::{Offset, PartitionIndex},
    tokio as tasks,
};
use catena_wire::{Api, ErrorCode, ListOffsetsRequest, ListOffsetsResponse};
use common::{PATIENCE, Server, connect, free_address, greet};

const PARTITIONS: u32 = 6;

fn start(directory: &Path, address: &str, cores: u16, times: usize) -> Server {
    let server = Server::start(directory, address, &["--cores", &cores.to_string()]);
    server.wait_for("ready on", times);
    server
}

fn options(address: &str) -> Options {
    Options::new(address).with_request_timeout(Duration::from_secs(10))
}

/// Requests that were forwarded, once the metrics tell of all that was done until now: they do when
/// they tell of connections made since.
fn forwarded(server: &Server) -> u64 {
    const MORE: u64 = 20;
    let before = server.metric("catena_connections_total");
    for core in 0..before.len() {
        for _ in 0..MORE {
            greet(&mut connect(&server.address, Some(core as u16))).unwrap();
        }
    }
    let deadline = Instant::now() + PATIENCE;
    let told = |now: &[u64]| now.iter().zip(&before).all(|(now, before)| *now >= before + MORE);
    while !told(&server.metric("catena_connections_total")) {
        assert!(Instant::now() < deadline, "the metrics stand still");
        std::thread::sleep(Duration::from_millis(20));
    }
    server.metric("catena_requests_forwarded_total").iter().sum()
}

/// Sends `count` records to each partition and waits for their receipts.
fn produce(producer: &Producer, count: u64) {
    let mut tickets = Vec::new();
    for number in 0..count {
        for partition in (0..PARTITIONS).map(PartitionIndex::new) {
            let value = number.to_string();
            let record =
                NewRecord { partition: Some(partition), ..NewRecord::value(value.as_bytes()) };
            tickets.push(producer.append(&record).unwrap());
        }
    }
    for ticket in tickets {
        ticket.wait().unwrap();
    }
}

fn topic(address: &str) -> Client {
    let mut client = Client::new(options(address));
    client.create_topic("t", PARTITIONS, Vec::new()).unwrap();
    client
}

#[test]
fn nothing_is_forwarded_with_threads() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let server = start(directory.path(), &free_address(), 2, 1);
    let mut client = topic(&server.address);
    let producer = client.producer("t", ProducerOptions::default()).unwrap();
    produce(&producer, 50);
    producer.close().unwrap();
    let mut consumer = client.consumer("t", ConsumerOptions::default()).unwrap();
    let mut read = 0;
    while read < 50 * PARTITIONS as usize {
        read += consumer.next().unwrap().unwrap().records().count();
    }
    let id = client.topic("t").unwrap().id;
    let once = FetchOptions { max_bytes: 1 << 20, max_wait: Duration::ZERO };
    for partition in (0..PARTITIONS).map(PartitionIndex::new) {
        let end = client.offset(id, partition, OffsetQuery::Latest).unwrap().unwrap();
        let fetched = client.fetch(id, partition, Offset::ZERO, once).unwrap();
        assert_eq!((end.get(), fetched.high_watermark), (50, end));
        client.trim(id, partition, end).unwrap();
    }
    assert_eq!(forwarded(&server), 0);
    let requests = server.metric("catena_requests_total");
    assert!(requests.iter().all(|requests| *requests > 20 + 3), "{requests:?}: not both cores");

    // What goes to another core on purpose is counted.
    let mut first = Connection::open_with(client.options(), Some(0)).unwrap();
    let topic = client.topic("t").unwrap();
    let other = topic.partitions.iter().find(|partition| partition.core == 1).unwrap();
    let (topic, partition, query) = (topic.id, other.index, OffsetQuery::Latest);
    let request = ListOffsetsRequest { topic, partition, query };
    let (answer, _): (ListOffsetsResponse<'static>, _) =
        first.call(Api::ListOffsets, &request, &[]).unwrap();
    assert_eq!((answer.error, answer.offset.get()), (ErrorCode::None, 50));
    assert_eq!(forwarded(&server), 1);
}

#[test]
fn nothing_is_forwarded_with_tasks() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let server = start(directory.path(), &free_address(), 2, 1);
    topic(&server.address);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = tasks::Client::new(options(&server.address));
        let producer = client.producer("t", ProducerOptions::default()).await.unwrap();
        let mut tickets = Vec::new();
        for number in 0..50 * PARTITIONS {
            let partition = Some(PartitionIndex::new(number % PARTITIONS));
            let record = NewRecord { partition, ..NewRecord::value(b"x") };
            tickets.push(producer.append(&record).await.unwrap());
        }
        for ticket in tickets {
            ticket.await.unwrap();
        }
        producer.close().await.unwrap();
        let mut consumer = client.consumer("t", ConsumerOptions::default()).await.unwrap();
        let mut read = 0;
        while read < 50 * PARTITIONS as usize {
            read += consumer.next().await.unwrap().unwrap().records().count();
        }
    });
    assert_eq!(forwarded(&server), 0);
}

#[test]
fn connections_follow_a_server_that_comes_back_with_other_cores() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut server = start(directory.path(), &free_address(), 1, 1);
    let mut client = topic(&server.address);
    let producer = client.producer("t", ProducerOptions::default()).unwrap();
    let mut consumer = client.consumer("t", ConsumerOptions::default()).unwrap();
    let mut read: BTreeMap<PartitionIndex, Vec<String>> = BTreeMap::new();
    let mut rounds = 0;
    let mut round = |producer: &Producer| {
        produce(producer, 10);
        rounds += 10 * PARTITIONS as usize;
        while read.values().map(Vec::len).sum::<usize>() < rounds {
            let batch = consumer.next().unwrap().unwrap();
            let values = read.entry(batch.partition()).or_default();
            for record in batch.records() {
                let value = record.unwrap().1.value.unwrap().to_vec();
                values.push(String::from_utf8(value).unwrap());
            }
        }
        // Each once, in order.
        for values in read.values() {
            let numbers = (0..values.len()).map(|number| (number % 10).to_string());
            assert!(numbers.eq(values.iter().cloned()), "{values:?}");
        }
    };
    round(&producer);
    for (life, cores) in [(2, 3), (3, 2), (4, 1)] {
        let address = server.address.clone();
        server.kill();
        server = start(directory.path(), &address, cores, life);
        // The first requests may be forwarded, until the client has asked who owns what.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let before = forwarded(&server);
            round(&producer);
            if forwarded(&server) == before {
                break;
            }
            assert!(Instant::now() < deadline, "with {cores} cores requests are forwarded still");
        }
        let owners: Vec<u16> =
            client.topic("t").unwrap().partitions.iter().map(|partition| partition.core).collect();
        let spread = (0..cores).all(|core| owners.contains(&core));
        assert!(spread, "{owners:?}");
    }
    producer.close().unwrap();
}
