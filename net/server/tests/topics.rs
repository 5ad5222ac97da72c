//! What is asked about topics, over the wire, of the real binary.

mod common;

use std::{
    thread,
    time::{Duration, Instant},
};

use catena_client::{
    Client, Connection, ConsumerOptions, Error, ErrorCode, NewRecord, OffsetQuery, Options,
    ProducerOptions, Setting, TopicChange, TopicMetadata,
    format::{
        Millis, Offset, PartitionIndex, ProducerId, Sequence,
        records::{BatchBuilder, Producer as Stamp},
    },
};
use catena_wire::{Api, ConfigOrigin, MetadataRequest, MetadataResponse};
use tempfile::TempDir;

use common::{PATIENCE, Server, free_address, produce_request};

const ONLY: PartitionIndex = PartitionIndex::new(0);

struct World {
    directory: TempDir,
    address: String,
    server: Option<Server>,
}

impl World {
    fn new(settings: &[&str]) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut world = Self { directory, address: free_address(), server: None };
        world.start(settings);
        world
    }

    /// A new life, with other settings; the one before is killed.
    fn start(&mut self, settings: &[&str]) {
        self.server = None;
        let set = settings.iter().flat_map(|setting| ["--set", setting]);
        let more: Vec<&str> = ["--cores", "2"].into_iter().chain(set).collect();
        let server = Server::start(self.directory.path(), &self.address, &more);
        let deadline = Instant::now() + PATIENCE;
        while self.client().topics().is_err() {
            assert!(Instant::now() < deadline, "the server does not answer:\n{}", server.log());
            thread::sleep(Duration::from_millis(2));
        }
        self.server = Some(server);
    }

    fn client(&self) -> Client {
        Client::new(Options::new(&self.address))
    }
}

fn setting(key: &'static str, value: &'static str) -> Setting<'static> {
    Setting { key: key.into(), value: value.into() }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>, expected: ErrorCode) {
    match result {
        Err(Error::Server { code, .. }) if code == expected => {}
        other => panic!("{expected:?} was expected, not {other:?}"),
    }
}

fn change() -> TopicChange<'static> {
    TopicChange::default()
}

/// A topic whose partitions all serve.
fn ready(client: &mut Client, name: &str) -> TopicMetadata<'static> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match client.topic(name) {
            Ok(topic) if topic.partitions.iter().all(|p| p.error == ErrorCode::None) => {
                return topic;
            }
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn every_limit_of_a_batch_is_the_same_and_known_before_anything_is_sent() {
    let mut world = World::new(&[]);
    let large = || vec![setting("max.batch.bytes", "1048576")];
    world.client().create_topic("early", 1, large()).unwrap();
    let limits = ["limits.batch_bytes=64KiB", "topic.max.batch.bytes=32KiB"];
    world.start(&limits);
    let mut client = world.client();
    refused(client.create_topic("late", 1, large()), ErrorCode::BadConfig);
    client.create_topic("late", 1, Vec::new()).unwrap();
    refused(client.alter_topic("late", large(), Vec::new()), ErrorCode::BadConfig);
    assert_eq!(ready(&mut client, "late").batch_bytes_max, 32 << 10);
    let early = ready(&mut client, "early");
    assert_eq!(early.batch_bytes_max, 64 << 10);

    let producer = client.producer("early", ProducerOptions::default()).unwrap();
    let error = producer.append(&NewRecord::value(&vec![0; 64 << 10])).unwrap_err();
    assert!(matches!(error, Error::Record(_)), "{error}");
    let fits = vec![0; (64 << 10) - 200];
    producer.append(&NewRecord::value(&fits)).unwrap().wait().unwrap();
    producer.close().unwrap();

    let mut connection = Connection::open(&world.address, PATIENCE).unwrap();
    assert_eq!(connection.greeting().limits.payload_bytes_max, 64 << 10);
    let request = produce_request(early.id, ONLY.get());
    let sent = connection.send_batch(&request, &vec![0; (64 << 10) + 1]);
    refused(sent, ErrorCode::FrameTooLarge);
}

#[test]
fn what_is_only_validated_is_not_done() {
    let world = World::new(&[]);
    let mut client = world.client();
    let bad = || vec![setting("retention.ms", "soon")];
    client.check_topic("a", 3, Vec::new()).unwrap();
    refused(client.check_topic("a b", 3, Vec::new()), ErrorCode::TopicName);
    refused(client.check_topic("a", 3, bad()), ErrorCode::BadConfig);
    refused(client.check_topic("a", 10_001, Vec::new()), ErrorCode::InvalidPartitions);
    assert!(client.topics().unwrap().is_empty());

    client.create_topic("a", 3, Vec::new()).unwrap();
    refused(client.check_topic("a", 3, Vec::new()), ErrorCode::TopicExists);
    let only = |change| TopicChange { validate_only: true, ..change };
    let set = vec![setting("retention.ms", "1000")];
    let more = TopicChange { set, partitions: Some(4), new_name: Some("b".into()), ..change() };
    client.change_topic("a", only(more)).unwrap();
    refused(
        client.change_topic("a", only(TopicChange { set: bad(), ..change() })),
        ErrorCode::BadConfig,
    );
    let fewer = TopicChange { partitions: Some(2), ..change() };
    refused(client.change_topic("a", only(fewer)), ErrorCode::InvalidPartitions);
    refused(client.change_topic("b", only(change())), ErrorCode::UnknownTopic);
    let topic = client.describe_topic("a").unwrap();
    assert_eq!(topic.partitions.len(), 3);
    assert!(topic.config.iter().all(|setting| setting.origin == ConfigOrigin::Default));
}

#[test]
fn partitions_are_added_under_load_and_outlive_a_crash() {
    let mut world = World::new(&[]);
    let mut client = world.client();
    client.create_topic("a", 1, Vec::new()).unwrap();
    let append = |client: &mut Client, topic: &str, partition: u32, value: &str| {
        let producer = client.producer(topic, ProducerOptions::default()).unwrap();
        let record = NewRecord::value(value.as_bytes());
        let record = record.with_partition(PartitionIndex::new(partition));
        producer.append(&record).unwrap().wait().unwrap();
        producer.close().unwrap();
    };
    append(&mut client, "a", 0, "0");
    client.change_topic("a", TopicChange { partitions: Some(4), ..change() }).unwrap();
    let fewer = TopicChange { partitions: Some(3), ..change() };
    refused(client.change_topic("a", fewer), ErrorCode::InvalidPartitions);
    assert_eq!(ready(&mut client, "a").partitions.len(), 4);
    append(&mut client, "a", 3, "3");
    append(&mut client, "a", 0, "4");
    let rename = TopicChange { new_name: Some("b".into()), ..change() };
    client.change_topic("a", rename).unwrap();
    refused(client.topic("a"), ErrorCode::UnknownTopic);

    world.start(&[]);
    let mut client = world.client();
    assert_eq!(ready(&mut client, "b").partitions.len(), 4);
    append(&mut client, "b", 3, "5");
    let mut consumer = client.consumer("b", ConsumerOptions::default()).unwrap();
    let mut values = Vec::new();
    while values.len() < 4 {
        let batch = consumer.next().unwrap().unwrap();
        values.extend(batch.records().map(|record| record.unwrap().1.value.unwrap().to_vec()));
    }
    values.sort();
    assert_eq!(values, [b"0", b"3", b"4", b"5"]);
}

#[test]
fn a_description_names_every_setting_and_its_origin() {
    let mut world = World::new(&["topic.retention.ms=7d"]);
    world.client().create_topic("a", 1, vec![setting("segment.ms", "5000")]).unwrap();
    let described = |world: &World| {
        let topic = world.client().describe_topic("a").unwrap();
        let settings = topic.config.into_iter();
        let told = |s: catena_wire::SettingInForce<'static>| {
            (s.key.into_owned(), s.value.into_owned(), s.origin)
        };
        settings.map(told).collect::<Vec<_>>()
    };
    let row = |key: &str, value: &str, origin| (key.to_owned(), value.to_owned(), origin);
    let mut expected = [
        row("max.batch.bytes", "1048576", ConfigOrigin::Default),
        row("retention.bytes", "-1", ConfigOrigin::Default),
        row("retention.ms", "604800000", ConfigOrigin::Topic),
        row("segment.bytes", "268435456", ConfigOrigin::Default),
        row("segment.ms", "5000", ConfigOrigin::Topic),
    ];
    assert_eq!(described(&world), expected);
    // What the server allows holds for topics that were made before it did.
    world.start(&["limits.batch_bytes=64KiB", "topic.max.batch.bytes=64KiB"]);
    expected[0] = row("max.batch.bytes", "65536", ConfigOrigin::Server);
    assert_eq!(described(&world), expected);
    let remove = vec!["segment.ms".to_owned()];
    world.client().alter_topic("a", Vec::new(), remove).unwrap();
    expected[4] = row("segment.ms", "604800000", ConfigOrigin::Default);
    assert_eq!(described(&world), expected);
}

#[test]
fn the_first_readable_offset_from_an_offset_on_is_found() {
    let world = World::new(&[]);
    let mut client = world.client();
    client.create_topic("a", 1, Vec::new()).unwrap();
    let topic = client.topic("a").unwrap().id;
    let at = |client: &mut Client, offset| {
        let query = OffsetQuery::AtOffset(Offset::new(offset));
        client.offset(topic, ONLY, query).unwrap().map(Offset::get)
    };
    assert_eq!(at(&mut client, 0), None);
    let producer = client.producer("a", ProducerOptions::default()).unwrap();
    for _ in 0..10 {
        producer.append(&NewRecord::value(b"x")).unwrap().wait().unwrap();
    }
    client.trim(topic, ONLY, Offset::new(4)).unwrap();
    let found: Vec<_> = [0, 4, 9, 10, 11, 1 << 40].map(|offset| at(&mut client, offset)).into();
    assert_eq!(found, [Some(4), Some(4), Some(9), None, None, None]);
}

#[test]
fn clients_are_told_the_advertised_address_for_every_core() {
    let mut world = World::new(&[]);
    let told = |world: &World| {
        let mut connection = Connection::open(&world.address, PATIENCE).unwrap();
        let cores = connection.greeting().cores.iter().map(|core| core.address.to_string());
        let mut told: Vec<String> = cores.collect();
        let request = MetadataRequest { names: Vec::new() };
        let (response, _): (MetadataResponse<'_>, _) =
            connection.call(Api::Metadata, &request, &[]).unwrap();
        told.extend(response.nodes.into_iter().map(|node| node.address.into_owned()));
        told
    };
    assert_eq!(told(&world), ["", "", ""]);
    world.start(&["listen.advertised=log-1.example.com:9200"]);
    assert_eq!(told(&world), ["log-1.example.com:9200"; 3]);
}

#[test]
fn a_raised_producer_fences_its_older_epochs_everywhere_and_for_ever() {
    let mut world = World::new(&[]);
    let mut client = world.client();
    client.create_topic("a", 4, Vec::new()).unwrap();
    let topic = ready(&mut client, "a").id;
    let (id, first) = client.producer_id().unwrap();
    let produce = |world: &World, partition, epoch, sequence| {
        let mut builder = BatchBuilder::new();
        builder.push(Millis::new(1), None, Some(b"x"), &[]);
        let sequence = Sequence::new(sequence);
        let batch = builder.build(Stamp { id, epoch, sequence }).unwrap();
        let mut connection = Connection::open(&world.address, PATIENCE).unwrap();
        let request = produce_request(topic, partition);
        let sent = connection.send_batch(&request, &batch).unwrap();
        let (answered, response) = connection.receive_answer().unwrap();
        assert_eq!(answered, sent);
        response.error
    };
    assert_eq!(produce(&world, 0, first, 0), ErrorCode::None);
    let (same, second) = client.raise_producer(id, first).unwrap();
    assert_eq!((same, second.get()), (id, first.get() + 1));
    refused(client.raise_producer(id, first), ErrorCode::ProducerFenced);
    // What is stored already is told, until the next epoch begins.
    assert_eq!(produce(&world, 0, first, 0), ErrorCode::None);
    // Ids are given in blocks; this one is far behind the first.
    let nobody = ProducerId::new(id.get() + 1_000_000);
    refused(client.raise_producer(nobody, first), ErrorCode::UnknownProducer);
    // Wherever a partition lives, and whether or not the producer has written to it.
    for life in 0..2 {
        for partition in 0..4 {
            assert_eq!(produce(&world, partition, first, 1), ErrorCode::ProducerFenced);
            assert_eq!(produce(&world, partition, first, 2), ErrorCode::ProducerFenced);
            assert_eq!(produce(&world, partition, second, life), ErrorCode::None);
        }
        world.start(&[]);
        ready(&mut world.client(), "a");
    }
}
