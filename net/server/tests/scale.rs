//! Many idle connections, and many partitions of which some have traffic: what that costs in memory
//! and descriptors, and that every acknowledged record is back after SIGKILL.
//!
//! The sizes are small, unless the environment says otherwise: `docs/benchmarks.md` tells how.

mod common;

use std::{
    collections::VecDeque,
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use catena_client::{
    Client, Error, FetchOptions, NewRecord, OffsetQuery, Options, ProducerOptions, Record, Ticket,
};
use catena_format::{Offset, PartitionIndex};
use catena_wire::{Api, PingRequest};
use common::{PATIENCE, Server, ask, connect, free_address, greet, wait_until};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;

/// What an idle connection may cost, in bytes of resident memory.
const CONNECTION_BYTES_MAX: usize = 16 << 10;
/// What a partition without traffic may cost.
const PARTITION_BYTES_MAX: usize = 64 << 10;
/// What the measurements leave open: pages that the allocator takes ahead, what goes on beside.
const SLACK_BYTES: usize = 8 << 20;
/// Descriptors beside those of connections and segments.
const DESCRIPTORS_BESIDE: usize = 64;
const VALUE_BYTES: usize = 500;

/// How much there is of everything.
#[derive(Clone, Copy)]
struct Sizes {
    connections: usize,
    partitions: u32,
    /// Partitions with traffic.
    active: u32,
    /// Records that are acknowledged before the server is killed, and as many after it.
    records: u64,
}

impl Sizes {
    fn from_environment() -> Self {
        let number = |name: &str, small: u64| {
            let value = std::env::var(format!("CATENA_SCALE_{name}"));
            value.map_or(small, |value| value.parse().expect("a number"))
        };
        Self {
            connections: number("CONNECTIONS", 500) as usize,
            partitions: number("PARTITIONS", 200) as u32,
            active: number("ACTIVE", 10) as u32,
            records: number("RECORDS", 20_000),
        }
    }
}

/// A server, and how long it took until it was ready.
struct Node {
    server: Server,
    directory: TempDir,
    sizes: Sizes,
    /// How often it was started.
    lives: usize,
}

impl Node {
    fn new(sizes: Sizes) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let address = free_address();
        let server = Self::spawn(directory.path(), &address, sizes);
        Self { server, directory, sizes, lives: 1 }
    }

    fn spawn(directory: &Path, address: &str, sizes: Sizes) -> Server {
        // Fewer than the partitions could use, so that some are closed and opened again.
        let descriptors = Self::files(sizes).to_string();
        let environment = [("CATENA_LIMITS_DESCRIPTORS", Path::new(&descriptors))];
        Server::start_in(directory, address, &["--cores", "2"], &environment)
    }

    /// Descriptors that segments may have.
    fn files(sizes: Sizes) -> usize {
        2 * sizes.partitions as usize
    }

    /// Starts the server once more; it was ended.
    fn restart(&mut self) {
        let address = self.server.address.clone();
        self.server = Self::spawn(self.directory.path(), &address, self.sizes);
        self.lives += 1;
    }

    /// Where metrics and health are told.
    fn admin(&self) -> String {
        self.server.wait_for("ready on", self.lives);
        let log = self.server.log();
        let (_, admin) = log.rsplit_once("metrics on ").expect("it says where");
        admin.split_once(')').expect("in brackets").0.to_owned()
    }

    /// Waits until `/readyz` says that requests are taken.
    fn wait_until_ready(&self) {
        let admin = self.admin();
        wait_until("it is ready", || get(&admin, "readyz").is_some());
    }

    /// Waits until every partition is open; told twice a second.
    fn wait_for_partitions(&self) {
        let admin = self.admin();
        wait_until("every partition is open", || {
            let metrics = get(&admin, "metrics").unwrap_or_default();
            let open = metrics.lines().filter_map(|l| l.strip_prefix("catena_partitions_open{"));
            let open = open.filter_map(|line| line.split_once(' ')?.1.parse::<u32>().ok());
            open.sum::<u32>() == self.sizes.partitions
        });
    }

    fn client(&self) -> Client {
        client(&self.server.address)
    }

    /// Bytes of resident memory.
    fn resident(&self) -> usize {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.server.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.server.child.id())).unwrap().count()
    }

    /// Tells what the server uses.
    fn tell(&self, when: &str) {
        let mib = self.resident() as f64 / f64::from(1 << 20);
        println!("{when}: {mib:.1} MiB resident, {} descriptors", self.descriptors());
    }
}

fn client(address: &str) -> Client {
    Client::new(Options::new(address).with_request_timeout(PATIENCE))
}

/// What the admin address answers, if it is 200.
fn get(admin: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(admin).ok()?;
    stream.write_all(format!("GET /{path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.lines().next()?.contains(" 200 ").then_some(answer)
}

/// What the producer's thread tells and is told.
#[derive(Default)]
struct Progress {
    acknowledged: AtomicU64,
    stop: AtomicBool,
}

impl Progress {
    fn wait_for(&self, records: u64) {
        wait_until("enough is acknowledged", || {
            self.acknowledged.load(Ordering::Relaxed) >= records
        });
    }
}

/// Sends numbered records round and round until told to stop; the offset of each, by its number.
fn produce(address: &str, active: u32, progress: &Progress) -> Result<Vec<Offset>, Error> {
    let producer = client(address).producer("many", ProducerOptions::default())?;
    let (mut number, mut tickets, mut told) = (0u64, VecDeque::new(), Vec::new());
    while !progress.stop.load(Ordering::Relaxed) {
        let value = format!("{number:<VALUE_BYTES$}");
        let partition = PartitionIndex::new((number % u64::from(active)) as u32);
        let record = NewRecord::value(value.as_bytes()).with_partition(partition);
        tickets.push_back(producer.append(&record)?);
        number += 1;
        while let Some(receipt) = tickets.front().and_then(Ticket::outcome) {
            let ticket = tickets.pop_front().expect("there is a first");
            told.push(ticket.offset_in(&receipt?));
            progress.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }
    producer.flush()?;
    for ticket in tickets {
        let receipt = ticket.outcome().expect("it was flushed")?;
        told.push(ticket.offset_in(&receipt));
    }
    Ok(told)
}

/// Every record is where its receipt said, and nothing else is there.
fn every_record_is_back(client: &mut Client, active: u32, told: &[Offset]) {
    let topic = client.topic("many").unwrap().id;
    for partition in 0..active {
        let index = PartitionIndex::new(partition);
        let mut expected = (u64::from(partition)..).step_by(active as usize);
        let end = client.offset(topic, index, OffsetQuery::Latest).unwrap().unwrap();
        let mut at = Offset::ZERO;
        while at < end {
            let options = FetchOptions { max_bytes: 1 << 20, max_wait: Duration::ZERO };
            let fetched = client.fetch(topic, index, at, options).unwrap();
            let each = |offset: Offset, record: &Record<'_>| {
                let text = std::str::from_utf8(record.value.unwrap()).unwrap();
                let number: u64 = text.trim_end().parse().unwrap();
                assert_eq!(Some(number), expected.next(), "partition {partition}");
                assert_eq!(told[number as usize], offset, "record {number}");
                Ok::<_, Error>(())
            };
            fetched.each_record(at, each).unwrap();
            assert!(fetched.next_offset > at, "reading stands still at {at}");
            at = fetched.next_offset;
        }
        let next = expected.next().expect("there is always one more");
        assert!(next >= told.len() as u64, "record {next} of {} is lost", told.len());
    }
}

/// Idle connections cost little, and each still answers.
fn connect_idle(node: &Node) -> Vec<TcpStream> {
    let (resident, descriptors) = (node.resident(), node.descriptors());
    let count = node.sizes.connections;
    let connections: Vec<_> = (0..count)
        .map(|_| {
            let mut stream = connect(&node.server.address, None);
            greet(&mut stream).unwrap();
            stream
        })
        .collect();
    node.tell(&format!("{count} idle connections"));
    let bytes = node.resident().saturating_sub(resident);
    println!("{} B resident for each connection", bytes / count);
    assert!(bytes <= count * CONNECTION_BYTES_MAX + SLACK_BYTES, "{bytes} B");
    let opened = node.descriptors() - descriptors;
    assert!(opened <= count + DESCRIPTORS_BESIDE, "{opened} descriptors");
    connections
}

fn create_partitions(node: &Node) {
    let resident = node.resident();
    let (count, began) = (node.sizes.partitions, Instant::now());
    node.client().create_topic("many", count, Vec::new()).unwrap();
    println!("{count} partitions were created in {:?}", began.elapsed());
    node.tell(&format!("{count} partitions"));
    let (bytes, count) = (node.resident().saturating_sub(resident), count as usize);
    println!("{} B resident for each partition", bytes / count);
    assert!(bytes <= count * PARTITION_BYTES_MAX + SLACK_BYTES, "{bytes} B");
}

/// Raises this process's own limit of open files as far as it goes.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

#[test]
fn idle_connections_and_partitions_cost_little_and_a_kill_loses_nothing() {
    raise_descriptor_limit();
    let sizes = Sizes::from_environment();
    let began = Instant::now();
    let mut node = Node::new(sizes);
    node.wait_until_ready();
    println!("an empty node was ready after {:?}", began.elapsed());
    node.tell("an empty node");
    let mut connections = connect_idle(&node);
    create_partitions(&node);

    let progress = Arc::new(Progress::default());
    let producer = {
        let (progress, address) = (progress.clone(), node.server.address.clone());
        thread::spawn(move || produce(&address, sizes.active, &progress))
    };
    progress.wait_for(sizes.records);
    node.tell(&format!("traffic on {}", sizes.active));
    let descriptors_max = sizes.connections + Node::files(sizes) + DESCRIPTORS_BESIDE;
    assert!(node.descriptors() <= descriptors_max, "{} descriptors", node.descriptors());
    for stream in &mut connections {
        let (header, _) = ask(stream, Api::Ping, &PingRequest {}).unwrap();
        assert!(!header.is_refusal());
    }

    let began = Instant::now();
    node.server.kill();
    println!("it was gone {:?} after SIGKILL", began.elapsed());
    drop(connections);
    let began = Instant::now();
    node.restart();
    node.wait_until_ready();
    println!("ready {:?} after its start after SIGKILL", began.elapsed());
    node.wait_for_partitions();
    println!("every partition was open after {:?}", began.elapsed());
    node.tell("after SIGKILL");
    progress.wait_for(progress.acknowledged.load(Ordering::Relaxed) + sizes.records);
    progress.stop.store(true, Ordering::Relaxed);
    let told = producer.join().unwrap().unwrap();
    every_record_is_back(&mut node.client(), sizes.active, &told);

    node.server.signal("TERM");
    let began = Instant::now();
    assert!(node.server.child.wait().unwrap().success());
    println!("it stopped {:?} after SIGTERM", began.elapsed());
    let began = Instant::now();
    node.restart();
    node.wait_until_ready();
    println!("ready {:?} after its start after SIGTERM", began.elapsed());
    node.wait_for_partitions();
    println!("every partition was open after {:?}", began.elapsed());
    node.tell("after SIGTERM");
    every_record_is_back(&mut node.client(), sizes.active, &told);
}
