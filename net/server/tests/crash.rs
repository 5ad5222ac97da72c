//! The real binary, killed again and again while a producer writes: every record is there once, in
//! order, at the offset that its receipt said.

mod common;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use catena_client::{
    Client, Error, FetchOptions, Fetched, OffsetQuery, Options, Producer, ProducerOptions, Receipt,
    Setting,
};
use catena_format::{PartitionIndex, TopicId};
use common::{PATIENCE, Server, free_address};

const PARTITIONS: u32 = 4;
const KILLS: usize = 12;

fn start(directory: &Path, address: &str) -> Server {
    Server::start(directory, address, &["--cores", "2"])
}

/// Waits until the server answers.
fn wait(server: &Server) {
    let deadline = Instant::now() + PATIENCE;
    while client(&server.address).topics().is_err() {
        assert!(Instant::now() < deadline, "the server does not answer:\n{}", server.log());
        thread::sleep(Duration::from_millis(2));
    }
}

fn client(address: &str) -> Client {
    let request_timeout = Duration::from_secs(10);
    Client::new(Options { server: address.to_owned(), request_timeout })
}

/// What the producer's thread tells.
#[derive(Default)]
struct Progress {
    in_flight: AtomicUsize,
    sent: AtomicU64,
    stop: AtomicBool,
}

/// Sends numbered records round robin until told to stop; the receipts by partition.
fn produce(address: &str, progress: &Progress) -> Result<Vec<Receipt>, Error> {
    let mut receipts = Vec::new();
    let mut client = client(address);
    let options = ProducerOptions { batch_bytes: 3000, in_flight: 24, ..Default::default() };
    let on_receipt = |receipt: &Receipt| receipts.push(*receipt);
    let mut producer = Producer::new(&mut client, "lines", options, on_receipt)?;
    let mut number = 0u64;
    while !progress.stop.load(Ordering::Relaxed) {
        let partition = (number % u64::from(PARTITIONS)) as u32;
        let value = format!("{number} {}", "x".repeat((number % 300) as usize));
        producer.append(partition, 1_700_000_000_000, None, Some(value.as_bytes()), &[])?;
        progress.in_flight.store(producer.in_flight(), Ordering::Relaxed);
        number += 1;
        progress.sent.store(number, Ordering::Relaxed);
    }
    producer.flush()?;
    drop(producer);
    Ok(receipts)
}

/// Everything in a partition, by offset.
fn consume(client: &mut Client, topic: TopicId, partition: u32) -> BTreeMap<u64, u64> {
    let mut read = BTreeMap::new();
    let partition = PartitionIndex::new(partition);
    let end = client.offset(topic, partition, OffsetQuery::Latest).unwrap().unwrap();
    let mut at = client.offset(topic, partition, OffsetQuery::Earliest).unwrap().unwrap();
    while at < end {
        let options = FetchOptions { max_bytes: 1 << 20, max_wait: Duration::ZERO };
        let fetched: Fetched = client.fetch(topic, partition, at, options).unwrap();
        fetched
            .each_record::<Error>(at, |offset, record| {
                let text = std::str::from_utf8(record.value.unwrap()).unwrap();
                let number = text.split(' ').next().unwrap().parse().unwrap();
                assert!(read.insert(offset.get(), number).is_none(), "offset {offset} came twice");
                Ok(())
            })
            .unwrap();
        assert!(fetched.next_offset > at, "reading stands still at {at}");
        at = fetched.next_offset;
    }
    read
}

#[test]
fn every_record_survives_kills_once_and_in_order() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let address = free_address();
    let mut server = start(directory.path(), &address);
    wait(&server);
    let set = vec![Setting { key: "segment.bytes".into(), value: (256 << 10).to_string().into() }];
    client(&address).create_topic("lines", PARTITIONS, set).unwrap();

    let progress = Arc::new(Progress::default());
    let producer = {
        let (progress, address) = (progress.clone(), address.clone());
        thread::spawn(move || produce(&address, &progress))
    };
    let mut in_flight = Vec::new();
    for kill in 0..KILLS {
        // Some kills hit recovery itself; the others wait until the producer got on.
        if kill % 4 != 3 {
            wait(&server);
            let goal = progress.sent.load(Ordering::Relaxed) + 2000 + 1500 * kill as u64;
            let deadline = Instant::now() + Duration::from_secs(60);
            while progress.sent.load(Ordering::Relaxed) < goal && !producer.is_finished() {
                assert!(Instant::now() < deadline, "the producer does not get on");
                thread::yield_now();
            }
        }
        in_flight.push(progress.in_flight.load(Ordering::Relaxed));
        server.kill();
        server = start(directory.path(), &address);
    }
    wait(&server);
    progress.stop.store(true, Ordering::Relaxed);
    let receipts = producer.join().unwrap().unwrap();
    println!("batches in flight at the kills: {in_flight:?}; {} receipts", receipts.len());
    assert!(in_flight.iter().sum::<usize>() > 0, "no kill hit a batch in flight");

    // A last life: what is read is what the disk holds.
    server.kill();
    let mut server = start(directory.path(), &address);
    wait(&server);
    every_record_is_there_once(&address, progress.sent.load(Ordering::Relaxed));
    receipts_follow_each_other(&receipts);
    server.kill();
}

/// All partitions together hold the numbers below `sent`, each in order.
fn every_record_is_there_once(address: &str, sent: u64) {
    let mut client = client(address);
    let topic = client.topic("lines").unwrap().id;
    let mut total = 0;
    for partition in 0..PARTITIONS {
        let read = consume(&mut client, topic, partition);
        let numbers: Vec<u64> = read.values().copied().collect();
        let expected: Vec<u64> =
            (0..sent).filter(|n| n % u64::from(PARTITIONS) == u64::from(partition)).collect();
        let (there, sent) = (numbers.len(), expected.len());
        assert!(numbers == expected, "partition {partition}: {there} of {sent}");
        assert!(read.keys().copied().eq(0..expected.len() as u64), "offsets are dense");
        total += numbers.len();
    }
    assert_eq!(total as u64, sent);
}

fn receipts_follow_each_other(receipts: &[Receipt]) {
    let mut ends: BTreeMap<PartitionIndex, u64> = BTreeMap::new();
    for receipt in receipts {
        let end = ends.entry(receipt.partition).or_insert(0);
        assert_eq!(receipt.first_offset.get(), *end, "receipts follow each other");
        *end = receipt.next_offset.get();
    }
}
