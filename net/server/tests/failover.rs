//! Producers and consumers of the Rust client, with threads and with tasks, go on while nodes of a
//! cluster are killed, and one falls silent first: every record is there once, in order.

mod cluster_common;
mod common;

use std::{
    collections::VecDeque,
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use catena_client::{
    Batch, Client, ConsumerOptions, NewRecord, OffsetQuery, Options, ProducerOptions, Receipt,
    tokio as tasks,
};
use catena_format::{Offset, PartitionIndex};
use cluster_common::{Node, client, cluster, create_everywhere, metadata, root};
use common::wait_until;

const PARTITIONS: u32 = 3;

/// How far a producer has come.
#[derive(Default)]
struct Progress {
    acknowledged: [AtomicU64; PARTITIONS as usize],
    stop: AtomicBool,
    /// Somebody has panicked: nobody waits for the rest.
    failed: AtomicBool,
    /// How many records each partition has in the end.
    ends: Mutex<Option<[u64; PARTITIONS as usize]>>,
}

impl Progress {
    /// Waits until so many more records of each partition are acknowledged.
    fn wait_for(&self, more: u64) {
        let counts = || self.acknowledged.each_ref().map(|count| count.load(SeqCst));
        let before = counts();
        wait_until("records are acknowledged in every partition", || {
            counts().iter().zip(before).all(|(now, before)| *now >= before + more)
        });
    }

    fn settled(&self, receipt: &Receipt) {
        self.acknowledged[receipt.partition.get() as usize].fetch_add(1, SeqCst);
    }

    /// Whether a reader that has come so far has everything.
    fn is_all(&self, read: &[u64; PARTITIONS as usize]) -> bool {
        let failed = self.failed.load(SeqCst);
        failed || self.ends.lock().unwrap().is_some_and(|ends| ends == *read)
    }
}

/// However somebody ends, the others do not go on for ever.
struct Watch<'a>(&'a Progress);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.failed.store(true, SeqCst);
            self.0.stop.store(true, SeqCst);
        }
    }
}

/// Names of all nodes, as options take them.
fn servers(nodes: &[Node]) -> String {
    nodes.iter().map(|node| node.client.as_str()).collect::<Vec<_>>().join(",")
}

/// Appends to all partitions in turn until it is to stop; every record is acknowledged.
fn append_all(mut client: Client, progress: &Progress) {
    let _watch = Watch(progress);
    let producer = client.producer("events", ProducerOptions::default()).unwrap();
    let (mut tickets, mut ends) = (VecDeque::new(), [0; PARTITIONS as usize]);
    while !progress.stop.load(SeqCst) {
        for (partition, end) in (0..).zip(&mut ends) {
            let value = format!("{partition}/{end}");
            let record = NewRecord::value(value.as_bytes());
            let record = record.with_partition(PartitionIndex::new(partition));
            tickets.push_back(producer.append(&record).unwrap());
            *end += 1;
        }
        while tickets.len() > 60 {
            progress.settled(&tickets.pop_front().unwrap().wait().unwrap());
        }
    }
    tickets.into_iter().for_each(|ticket| progress.settled(&ticket.wait().unwrap()));
    producer.close().unwrap();
    *progress.ends.lock().unwrap() = Some(ends);
}

/// Takes the records of a batch, which are the next ones of their partition.
fn take(batch: &Batch, read: &mut [u64; PARTITIONS as usize]) {
    let partition = batch.partition().get();
    for record in batch.records() {
        let (offset, record) = record.unwrap();
        let next = &mut read[partition as usize];
        assert_eq!(record.value, Some(format!("{partition}/{next}").as_bytes()), "at {offset}");
        *next += 1;
    }
}

/// Reads all partitions until everything was read.
fn read_all(mut client: Client, progress: &Progress) {
    let _watch = Watch(progress);
    let mut consumer = client.consumer("events", ConsumerOptions::default()).unwrap();
    let mut read = [0; PARTITIONS as usize];
    while !progress.is_all(&read) {
        if let Some(batch) = consumer.next_within(Duration::from_millis(100)).unwrap() {
            take(&batch, &mut read);
        }
    }
}

/// Kills a node, which before its third start falls silent first; starts it for the n-th time, and
/// waits until it is in every chain.
fn kill_and_start(nodes: &mut [Node], (dies, starts): (usize, usize), progress: &Progress) {
    progress.wait_for(20);
    if starts > 2 {
        nodes[dies].server.as_ref().unwrap().signal("STOP");
        progress.wait_for(20);
    }
    nodes[dies].server = None;
    progress.wait_for(20);
    let listed = Command::new(env!("CARGO_BIN_EXE_catena"))
        .args(["--server", &servers(nodes), "topic", "list"])
        .output()
        .unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    nodes[dies].start(&[]);
    nodes[dies].wait("ready on", starts);
    wait_until("all are in every chain", || {
        let known = metadata(nodes);
        known.is_some_and(|(topic, _)| topic.partitions.iter().all(|p| p.chain.len() == 3))
    });
}

#[test]
fn producers_and_consumers_follow_the_heads_of_chains() {
    let root = root();
    let mut nodes = cluster(root.path());
    // One server is named: of the others it tells.
    let mut admin = client(&nodes[0].client);
    create_everywhere(&mut admin, PARTITIONS);
    let progress = Progress::default();
    thread::scope(|scope| {
        let _watch = Watch(&progress);
        let first = client(&servers(&nodes));
        let one = client(&nodes[1].client);
        let appends = scope.spawn(|| append_all(first, &progress));
        let reads = scope.spawn(|| read_all(one, &progress));
        for (dies, starts) in [(0, 2), (1, 2), (2, 2), (0, 3)] {
            kill_and_start(&mut nodes, (dies, starts), &progress);
            // It was told of one server only, which was gone meanwhile.
            let topic = admin.topic("events").unwrap();
            for partition in topic.partitions {
                let end = admin.offset(topic.id, partition.index, OffsetQuery::Latest);
                assert!(end.unwrap().unwrap() > Offset::ZERO);
            }
        }
        progress.stop.store(true, SeqCst);
        appends.join().unwrap();
        reads.join().unwrap();
    });
    // A client that was told of nothing finds the heads too.
    let topic = admin.topic("events").unwrap();
    for partition in topic.partitions {
        let mut stranger = client(&nodes[0].client);
        let trimmed = stranger.trim(topic.id, partition.index, Offset::new(5)).unwrap();
        assert_eq!(trimmed, Offset::new(5));
    }
}

/// Appends with tasks until it is to stop; what was appended is read at once.
async fn append_and_read(options: Options, progress: &Progress) {
    let mut client = tasks::Client::new(options);
    let producer = client.producer("events", ProducerOptions::default()).await.unwrap();
    let mut consumer = client.consumer("events", ConsumerOptions::default()).await.unwrap();
    let mut read = [0; PARTITIONS as usize];
    while !progress.is_all(&read) {
        if progress.stop.load(SeqCst) {
            let ends = progress.acknowledged.each_ref().map(|count| count.load(SeqCst));
            *progress.ends.lock().unwrap() = Some(ends);
        } else {
            for partition in 0..PARTITIONS {
                let end = progress.acknowledged[partition as usize].load(SeqCst);
                let value = format!("{partition}/{end}");
                let record = NewRecord::value(value.as_bytes());
                let record = record.with_partition(PartitionIndex::new(partition));
                let ticket = producer.append(&record).await.unwrap();
                progress.settled(&ticket.await.unwrap());
            }
            for _ in 0..PARTITIONS {
                take(&consumer.next().await.unwrap().unwrap(), &mut read);
            }
        }
    }
    producer.close().await.unwrap();
}

#[test]
fn tasks_follow_the_heads_of_chains() {
    let root = root();
    let mut nodes = cluster(root.path());
    create_everywhere(&mut client(&nodes[0].client), PARTITIONS);
    let progress = Progress::default();
    let options = Options::new(&nodes[0].client);
    thread::scope(|scope| {
        let _watch = Watch(&progress);
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(append_and_read(options, &progress));
        });
        for (dies, starts) in [(0, 2), (1, 2)] {
            kill_and_start(&mut nodes, (dies, starts), &progress);
        }
        progress.stop.store(true, SeqCst);
    });
}
