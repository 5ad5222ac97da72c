//! Producers and consumers of the client library go on to partitions that are added to their topic.

mod common;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use catena_client::{
    Client, ConsumerOptions, Error, ErrorCode, NewRecord, Options, ProducerOptions, Start,
    TopicChange, format::PartitionIndex, tokio as tasks,
};
use common::{PATIENCE, Server, free_address};

const BEFORE: u32 = 2;
const AFTER: u32 = 5;
/// Often, for a test.
const REFRESH: Duration = Duration::from_millis(50);

fn start(directory: &std::path::Path) -> (Server, Client) {
    let server = Server::start(directory, &free_address(), &["--cores", "2"]);
    server.wait_for("ready on", 1);
    let mut client = Client::new(Options::new(&server.address));
    client.create_topic("t", BEFORE, Vec::new()).unwrap();
    (server, client)
}

fn add_partitions(client: &mut Client) {
    let change = TopicChange { partitions: Some(AFTER), ..TopicChange::default() };
    client.change_topic("t", change).unwrap();
}

#[test]
fn threads_notice_partitions_that_are_added() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (_server, mut client) = start(directory.path());
    let options = ProducerOptions { refresh: REFRESH, ..ProducerOptions::default() };
    let producer = client.producer("t", options).unwrap();
    let options =
        ConsumerOptions { refresh: REFRESH, start: Start::End, ..ConsumerOptions::default() };
    let mut consumer = client.consumer("t", options).unwrap();
    let (mut used, mut appended, deadline) = (BTreeSet::new(), 0, Instant::now() + PATIENCE);
    while used.len() < AFTER as usize {
        if used.len() == BEFORE as usize && producer.partitions() == BEFORE {
            add_partitions(&mut client);
        }
        let receipt = producer.append(&NewRecord::value(b"x")).unwrap().wait().unwrap();
        used.insert(receipt.partition);
        appended += 1;
        assert!(Instant::now() < deadline, "only {used:?} are written to");
    }
    let mut read = 0;
    while read < appended {
        read += consumer.next().unwrap().unwrap().records().count();
    }
    assert_eq!(consumer.partitions().len(), AFTER as usize);
}

#[test]
fn tasks_notice_partitions_that_are_added_and_named() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (server, mut client) = start(directory.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut tasks = tasks::Client::new(Options::new(&server.address));
        let options = ConsumerOptions { refresh: REFRESH, ..ConsumerOptions::default() };
        let mut consumer = tasks.consumer("t", options).await.unwrap();
        // Only an append that names one makes this producer ask.
        let options = ProducerOptions { refresh: Duration::MAX, ..ProducerOptions::default() };
        let producer = tasks.producer("t", options).await.unwrap();
        add_partitions(&mut client);
        let last = PartitionIndex::new(AFTER - 1);
        let record = NewRecord::value(b"x").with_partition(last);
        let deadline = Instant::now() + PATIENCE;
        let ticket = loop {
            match producer.append(&record).await {
                Ok(ticket) => break ticket,
                Err(Error::Server { code: ErrorCode::UnknownPartition, .. }) => {
                    assert!(Instant::now() < deadline, "the producer does not ask");
                    tokio::task::yield_now().await;
                }
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(ticket.await.unwrap().partition, last);
        assert_eq!(consumer.next().await.unwrap().unwrap().partition(), last);
    });
}
