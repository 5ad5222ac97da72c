//! The client library against the real binary, with threads and with tasks.

mod common;

#[allow(dead_code)]
#[path = "../../client/examples/consume.rs"]
mod consume_example;
#[allow(dead_code)]
#[path = "../../client/examples/produce.rs"]
mod produce_example;
#[allow(dead_code)]
#[path = "../../client/examples/tasks.rs"]
mod tasks_example;

use std::{
    future::Future,
    thread,
    time::{Duration, Instant},
};

use catena_client::{
    Batch, Class, Client, Compression, ConsumerOptions, Durability, Error, ErrorCode, FetchOptions,
    Header, NewRecord, OffsetQuery, Options, ProducerOptions, Setting, Start,
    format::{Millis, Offset, PartitionIndex},
    tokio as tasks,
};
use tempfile::TempDir;

use common::{PATIENCE, Server, free_address};

const ONLY: PartitionIndex = PartitionIndex::new(0);

struct World {
    address: String,
    directory: TempDir,
    server: Option<Server>,
}

impl World {
    /// A server with a topic `t` of so many partitions.
    fn new(partitions: u32) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut world = Self { address: free_address(), directory, server: None };
        world.start();
        world.client().create_topic("t", partitions, Vec::new()).unwrap();
        world
    }

    fn start(&mut self) {
        let server = Server::start(self.directory.path(), &self.address, &["--cores", "2"]);
        let deadline = Instant::now() + PATIENCE;
        while self.client().topics().is_err() {
            assert!(Instant::now() < deadline, "the server does not answer:\n{}", server.log());
            thread::sleep(Duration::from_millis(2));
        }
        self.server = Some(server);
    }

    fn kill(&mut self) {
        self.server = None;
    }

    fn url(&self) -> String {
        format!("catena://{}?timeout=10s&client_id=test", self.address)
    }

    fn client(&self) -> Client {
        Client::new(Options::new(&self.address))
    }

    /// Everything in the topic, in the order of offsets where it has one partition.
    fn values(&self, records: usize) -> Vec<String> {
        let mut consumer = self.client().consumer("t", ConsumerOptions::default()).unwrap();
        let mut values = Vec::new();
        while values.len() < records {
            values.extend(texts(&consumer.next().unwrap().unwrap()));
        }
        values
    }
}

fn texts(batch: &Batch) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    batch.records().map(|record| text(record.unwrap().1.value.unwrap())).collect()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

#[test]
fn records_come_back_as_they_were_in_every_compression() {
    let world = World::new(1);
    let mut client = world.client();
    let mut offset = 0;
    for compression in Compression::ALL {
        let options = ProducerOptions {
            compression,
            linger: Duration::from_secs(60),
            ..ProducerOptions::default()
        };
        let producer = client.producer("t", options).unwrap();
        let headers =
            [Header { key: b"a", value: None }, Header { key: b"", value: Some(&b""[..]) }];
        let long = vec![b'x'; 3000];
        let records = [
            NewRecord::default(),
            NewRecord::value(b"").with_key(b""),
            NewRecord::value(&long).with_headers(&headers).with_timestamp(Millis::new(77)),
        ];
        let tickets: Vec<_> = records.iter().map(|r| producer.append(r).unwrap()).collect();
        producer.flush().unwrap();
        for (number, ticket) in (offset..).zip(tickets) {
            let receipt = ticket.outcome().unwrap().unwrap();
            assert_eq!(receipt.level, Durability::ChainDisk);
            assert_eq!((receipt.copies, receipt.tentative), (1, false));
            assert_eq!(ticket.offset_in(&receipt), Offset::new(number));
            assert_eq!(receipt.next_offset, Offset::new(offset + 3));
        }
        let start = Start::Offset(Offset::new(offset + 1));
        let options = ConsumerOptions { start, ..ConsumerOptions::default() };
        let batch = client.consumer("t", options).unwrap().next().unwrap().unwrap();
        assert_eq!(batch.compression(), compression);
        let read: Vec<_> = batch.records().map(Result::unwrap).collect();
        assert_eq!(read.len(), 2, "what lies before the start is not shown");
        assert_eq!(read[0].0, Offset::new(offset + 1));
        assert_eq!((read[0].1.key, read[0].1.value), (Some(&b""[..]), Some(&b""[..])));
        assert_eq!((read[1].1.key, read[1].1.value), (None, Some(&long[..])));
        assert_eq!(read[1].1.timestamp, Millis::new(77));
        assert!(read[1].1.headers().eq(headers));
        offset += 3;
    }
}

#[test]
fn a_dropped_ticket_and_a_dropped_producer_cancel_nothing() {
    let world = World::new(1);
    let producer = world.client().producer("t", ProducerOptions::default()).unwrap();
    for number in 0..500 {
        drop(producer.append(&NewRecord::value(number.to_string().as_bytes())).unwrap());
    }
    drop(producer);
    let expected: Vec<String> = (0..500).map(|number| number.to_string()).collect();
    assert_eq!(world.values(500), expected);
}

#[test]
fn a_full_buffer_waits_while_the_server_is_away() {
    let mut world = World::new(1);
    let options = ProducerOptions { buffer_bytes: 2000, ..ProducerOptions::default() };
    run(async {
        let mut client = tasks::Client::connect(&world.url()).await.unwrap();
        let producer = client.producer("t", options).await.unwrap();
        world.kill();
        let mut appended = 0;
        loop {
            let value = format!("{appended:0>100}");
            let record = NewRecord::value(value.as_bytes());
            let mut append = Box::pin(producer.append(&record));
            // Nobody takes it in time: it is dropped, and has taken nothing.
            match futures_lite::future::poll_once(&mut append).await {
                Some(ticket) => drop(ticket.unwrap()),
                None => break,
            }
            appended += 1;
        }
        assert!((5..20).contains(&appended), "{appended} records fit");
        world.start();
        let last = producer.append(&NewRecord::value(b"last")).await.unwrap();
        let receipt = last.await.unwrap();
        producer.close().await.unwrap();
        let values = world.values(appended + 1);
        assert_eq!(values.len(), appended + 1);
        assert_eq!(values[appended], "last");
        assert_eq!(receipt.next_offset, Offset::new(appended as u64 + 1));
    });
}

#[test]
fn a_runtime_that_ends_is_told_to_the_tickets() {
    let mut world = World::new(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (producer, ticket) = runtime.block_on(async {
        let mut client = tasks::Client::connect(&world.url()).await.unwrap();
        let producer = client.producer("t", ProducerOptions::default()).await.unwrap();
        world.kill();
        let ticket = producer.append(&NewRecord::value(b"lost")).await.unwrap();
        (producer, ticket)
    });
    drop(runtime);
    let error = ticket.wait().unwrap_err();
    assert!(matches!(error, Error::Closed { unclear: true }), "{error}");
    assert_eq!(error.class(), Class::Indeterminate);
    let refused = run(producer.append(&NewRecord::value(b"late"))).unwrap_err();
    assert!(matches!(refused, Error::Closed { unclear: false }), "{refused}");
}

#[test]
fn a_definite_refusal_is_one_record_s_own() {
    let world = World::new(2);
    let mut client = world.client();
    let set = vec![Setting { key: "max.batch.bytes".into(), value: "2048".into() }];
    client.alter_topic("t", set, Vec::new()).unwrap();
    let producer = client.producer("t", ProducerOptions::default()).unwrap();
    let large = vec![0; 4000];
    let refused = producer.append(&NewRecord::value(&large)).unwrap_err();
    assert_eq!(refused.class(), Class::Definite);
    let nowhere = NewRecord::value(b"x").with_partition(PartitionIndex::new(2));
    let refused = producer.append(&nowhere).unwrap_err();
    assert!(matches!(refused, Error::Server { code: ErrorCode::UnknownPartition, .. }));
    // The server refuses a time far in the future; what follows is stored all the same.
    let future = NewRecord::value(b"x").with_timestamp(Millis::new(i64::MAX / 2));
    let refused = producer.append(&future.with_partition(ONLY)).unwrap();
    let error = refused.wait().unwrap_err();
    assert!(matches!(error, Error::Server { code: ErrorCode::TimestampOutOfRange, .. }), "{error}");
    let ticket = producer.append(&NewRecord::value(b"y").with_partition(ONLY)).unwrap();
    assert_eq!(ticket.wait().unwrap().first_offset, Offset::ZERO);
    let flushed = producer.flush().unwrap_err();
    assert!(matches!(flushed, Error::Server { code: ErrorCode::TimestampOutOfRange, .. }));
    producer.close().unwrap();
}

#[test]
fn a_consumer_says_where_nothing_can_be_read_and_goes_on_after_a_seek() {
    let world = World::new(1);
    let mut client = world.client();
    let producer = client.producer("t", ProducerOptions::default()).unwrap();
    for number in 0..10 {
        let value = number.to_string();
        producer.append(&NewRecord::value(value.as_bytes())).unwrap().wait().unwrap();
    }
    let topic = client.topic("t").unwrap().id;
    assert_eq!(client.trim(topic, ONLY, Offset::new(4)).unwrap(), Offset::new(4));
    let start = Start::Offset(Offset::ZERO);
    let options = ConsumerOptions { start, ..ConsumerOptions::default() };
    let mut consumer = client.consumer("t", options).unwrap();
    let next = match consumer.next().unwrap() {
        Err(Error::Unreadable { code: ErrorCode::OffsetOutOfRange, next, .. }) => next,
        other => panic!("{other:?}"),
    };
    assert!(consumer.next().is_none(), "its only partition has failed");
    consumer.seek(ONLY, next).unwrap();
    assert_eq!(texts(&consumer.next().unwrap().unwrap()), ["4"]);
    consumer.seek(ONLY, Offset::new(8)).unwrap();
    assert_eq!(texts(&consumer.next().unwrap().unwrap()), ["8"]);
    assert_eq!(consumer.position(ONLY), Some(Offset::new(9)));
    assert_eq!(texts(&consumer.next().unwrap().unwrap()), ["9"]);
    assert!(consumer.next_within(Duration::ZERO).unwrap().is_none(), "that was the end");
    assert!(consumer.seek(PartitionIndex::new(1), Offset::ZERO).is_err());
    consumer.seek(ONLY, Offset::new(1000)).unwrap();
    let beyond = consumer.next().unwrap();
    assert!(
        matches!(beyond, Err(Error::Unreadable { next, .. }) if next.get() == 10),
        "{beyond:?}"
    );
}

#[test]
fn what_a_dropped_consumer_did_not_take_another_reads() {
    let world = World::new(1);
    let mut client = world.client();
    let producer = client.producer("t", ProducerOptions::default()).unwrap();
    for value in ["1", "2", "3"] {
        producer.append(&NewRecord::value(value.as_bytes())).unwrap().wait().unwrap();
    }
    let mut consumer = client.consumer("t", ConsumerOptions::default()).unwrap();
    assert_eq!(texts(&consumer.next().unwrap().unwrap()), ["1"]);
    drop(consumer);
    assert_eq!(world.values(3), ["1", "2", "3"], "the server keeps no trace");
}

#[test]
fn whoever_is_ready_to_wait_for_ever_is_served() {
    let world = World::new(1);
    let options = Options::new(&world.address).with_request_timeout(Duration::MAX);
    let mut client = Client::new(options.clone());
    let producer = client.producer("t", ProducerOptions::default()).unwrap();
    producer.append(&NewRecord::value(b"x")).unwrap().wait().unwrap();
    let mut consumer = client.consumer("t", ConsumerOptions::default()).unwrap();
    assert!(consumer.next_within(Duration::MAX).unwrap().is_some());
    let fetch = FetchOptions { max_bytes: 1, max_wait: Duration::MAX };
    let topic = client.topic("t").unwrap().id;
    assert_eq!(client.fetch(topic, ONLY, Offset::ZERO, fetch).unwrap().next_offset.get(), 1);
    run(async {
        let mut client = tasks::Client::new(options);
        client.fetch(topic, ONLY, Offset::ZERO, fetch).await.unwrap();
        let mut consumer = client.consumer("t", ConsumerOptions::default()).await.unwrap();
        assert!(consumer.next().await.unwrap().is_ok());
    });
}

#[test]
fn topics_are_administered_by_threads() {
    let world = World::new(1);
    let mut client = Client::connect(&world.url()).unwrap();
    client.create_topic("other", 3, Vec::new()).unwrap();
    let names: Vec<_> = client.topics().unwrap().into_iter().map(|t| t.name).collect();
    assert_eq!(names, ["other", "t"]);
    let set = vec![Setting { key: "segment.bytes".into(), value: "1048576".into() }];
    client.alter_topic("other", set, Vec::new()).unwrap();
    let described = client.describe_topic("other").unwrap();
    assert_eq!(described.partitions.len(), 3);
    assert!(described.config.iter().any(|s| s.key == "segment.bytes" && s.value == "1048576"));
    client.delete_topic("other").unwrap();
    let gone = client.topic("other").unwrap_err();
    assert!(matches!(gone, Error::Server { code: ErrorCode::UnknownTopic, .. }));
}

#[test]
fn topics_are_administered_by_tasks() {
    let world = World::new(1);
    run(async {
        let mut client = tasks::Client::connect(&world.url()).await.unwrap();
        client.create_topic("other", 3, Vec::new()).await.unwrap();
        assert_eq!(client.topics().await.unwrap().len(), 2);
        let set = vec![Setting { key: "segment.bytes".into(), value: "1048576".into() }];
        client.alter_topic("other", set, Vec::new()).await.unwrap();
        assert_eq!(client.describe_topic("other").await.unwrap().partitions.len(), 3);
        let topic = client.topic("other").await.unwrap().id;
        let end = client.offset(topic, ONLY, OffsetQuery::Latest).await.unwrap();
        assert_eq!(end, Some(Offset::ZERO));
        assert_eq!(client.trim(topic, ONLY, Offset::ZERO).await.unwrap(), Offset::ZERO);
        client.delete_topic("other").await.unwrap();
        let gone = client.topic("other").await.unwrap_err();
        assert!(matches!(gone, Error::Server { code: ErrorCode::UnknownTopic, .. }));
    });
}

#[test]
fn the_second_server_is_tried_when_the_first_is_away() {
    let world = World::new(1);
    let url = format!("catena://{},{}", free_address(), world.address);
    let mut client = Client::connect(&url).unwrap();
    let producer = client.producer("t", ProducerOptions::default()).unwrap();
    producer.append(&NewRecord::value(b"x")).unwrap().wait().unwrap();
    assert_eq!(world.values(1), ["x"]);
}

#[test]
fn the_examples_do_what_they_say() {
    let world = World::new(2);
    let url = world.url();
    let receipts = produce_example::produce(&url, "t", &["hello", "world"]).unwrap();
    assert_eq!(receipts.len(), 2);
    let mut read = Vec::new();
    consume_example::consume(&url, "t", |value| read.push(value.to_vec())).unwrap();
    read.sort();
    assert_eq!(read, [&b"hello"[..], b"world"]);
    assert_eq!(run(tasks_example::round_trip(&url, "t", 5000)).unwrap(), 5000);
}
