//! The real binary, killed again and again while a producer writes: every record is there once, in
//! order, at the offset that its receipt said.

mod common;

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use catena_client::{
    Client, Compression, Error, FetchOptions, Fetched, NewRecord, OffsetQuery, Options,
    ProducerOptions, Setting, Ticket,
};
use catena_format::{Millis, PartitionIndex, TopicId, limits::SEGMENT_BYTES_MIN};
use catena_log::view::ManifestView;
use common::{PATIENCE, Server, free_address};

const PARTITIONS: u32 = 4;
/// So many kills there are at least, and more until one has hit a roll, but not for ever.
const KILLS: usize = 12;
const KILLS_MAX: usize = 100;
/// As small as segments may be, so that there are rolls all the time.
const SEGMENT_BYTES: u64 = SEGMENT_BYTES_MIN;

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
    Client::new(Options::new(address).with_request_timeout(Duration::from_secs(10)))
}

/// What the producer's thread tells.
#[derive(Default)]
struct Progress {
    in_flight: AtomicUsize,
    sent: AtomicU64,
    stop: AtomicBool,
}

/// Sends numbered records round robin until told to stop; the offsets that the receipts told, by
/// partition and number.
fn produce(address: &str, progress: &Progress) -> Result<Vec<Vec<(u64, u64)>>, Error> {
    let mut told = vec![Vec::new(); PARTITIONS as usize];
    let mut take = |number: u64, ticket: Ticket| {
        let receipt = ticket.outcome().unwrap_or_else(|| panic!("{number} is not settled"))?;
        let partition = &mut told[receipt.partition.get() as usize];
        partition.push((number, ticket.offset_in(&receipt).get()));
        Ok::<_, Error>(())
    };
    let mut client = client(address);
    let options = ProducerOptions {
        batch_bytes: 3000,
        in_flight: 24,
        buffer_bytes: 200_000,
        compression: Compression::Lz4,
        ..Default::default()
    };
    let producer = client.producer("lines", options)?;
    let (mut number, mut tickets) = (0u64, VecDeque::new());
    while !progress.stop.load(Ordering::Relaxed) {
        let partition = PartitionIndex::new((number % u64::from(PARTITIONS)) as u32);
        let value = format!("{number} {}", noise(number));
        let record = NewRecord::value(value.as_bytes())
            .with_partition(partition)
            .with_timestamp(Millis::new(1_700_000_000_000));
        tickets.push_back((number, producer.append(&record)?));
        while tickets.front().is_some_and(|(_, ticket)| ticket.outcome().is_some()) {
            let (number, ticket) = tickets.pop_front().expect("there is a first");
            take(number, ticket)?;
        }
        progress.in_flight.store(producer.in_flight(), Ordering::Relaxed);
        number += 1;
        progress.sent.store(number, Ordering::Relaxed);
    }
    producer.close()?;
    for (number, ticket) in tickets {
        take(number, ticket)?;
    }
    Ok(told)
}

/// Something that compression leaves about as long as it is.
fn noise(seed: u64) -> String {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        char::from(b'!' + (state >> 33) as u8 % 90)
    };
    (0..seed % 300).map(next).collect()
}

/// Partitions that the kill found as they rolled: the newest manifest names the next segment, and
/// the one before it is not sealed yet. Both are of one life, for recovery seals what it finds.
fn rolling(directory: &Path) -> usize {
    let logs = fs::read_dir(directory.join("data/p")).unwrap();
    logs.filter(|log| {
        let log = log.as_ref().unwrap().path();
        let manifests = ["manifest.0", "manifest.1"].map(|name| fs::read(log.join(name)));
        let views = manifests.iter().flatten().filter_map(|bytes| ManifestView::read(bytes).ok());
        let newest = views.max_by_key(|view| view.generation);
        let segments = newest.map_or(Vec::new(), |view| view.segments);
        segments.iter().filter(|segment| segment.sealed.is_none()).count() > 1
    })
    .count()
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
    let set =
        vec![Setting { key: "segment.bytes".into(), value: SEGMENT_BYTES.to_string().into() }];
    client(&address).create_topic("lines", PARTITIONS, set).unwrap();

    let progress = Arc::new(Progress::default());
    let producer = {
        let (progress, address) = (progress.clone(), address.clone());
        thread::spawn(move || produce(&address, &progress))
    };
    let (mut in_flight, mut rolls, mut kill) = (Vec::new(), Vec::new(), 0);
    while kill < KILLS || rolls.iter().sum::<usize>() == 0 {
        assert!(kill < KILLS_MAX, "no kill hit a roll");
        // Some kills hit recovery itself; the others wait until the producer got on.
        let recovers = kill % 4 == 3;
        if !recovers {
            wait(&server);
            let goal = progress.sent.load(Ordering::Relaxed) + 2000 + 1500 * (kill % KILLS) as u64;
            let deadline = Instant::now() + Duration::from_secs(60);
            while progress.sent.load(Ordering::Relaxed) < goal && !producer.is_finished() {
                assert!(Instant::now() < deadline, "the producer does not get on");
                thread::yield_now();
            }
        }
        in_flight.push(progress.in_flight.load(Ordering::Relaxed));
        server.kill();
        // What a kill within recovery finds may be the roll that the one before it found.
        rolls.push(if recovers { 0 } else { rolling(directory.path()) });
        server = start(directory.path(), &address);
        kill += 1;
    }
    wait(&server);
    progress.stop.store(true, Ordering::Relaxed);
    let told = producer.join().unwrap().unwrap();
    println!("batches in flight at the kills: {in_flight:?}, partitions in a roll: {rolls:?}");
    assert!(in_flight.iter().sum::<usize>() > 0, "no kill hit a batch in flight");

    // A last life: what is read is what the disk holds.
    server.kill();
    let mut server = start(directory.path(), &address);
    wait(&server);
    every_record_is_there_once(&address, progress.sent.load(Ordering::Relaxed), &told);
    server.kill();
}

/// All partitions together hold the numbers below `sent`, each in order and where its receipt said.
fn every_record_is_there_once(address: &str, sent: u64, told: &[Vec<(u64, u64)>]) {
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
        let read: Vec<(u64, u64)> = read.into_iter().map(|(at, number)| (number, at)).collect();
        assert!(read == told[partition as usize], "partition {partition}: not where it was said");
        total += numbers.len();
    }
    assert_eq!(total as u64, sent);
}
