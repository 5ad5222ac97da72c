//! Real processes that are a cluster: each is killed while records are produced, comes back, and
//! in the end each has every acknowledged record once, in order.

mod common;

use std::{
    collections::VecDeque,
    fs,
    io::Write,
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use catena_client::{
    Batch, Client, ConsumerOptions, FetchOptions, NewRecord, OffsetQuery, Options, ProducerOptions,
    Receipt, TopicMetadata, tokio as tasks,
};
use catena_format::{
    Millis, NodeId, Offset, PartitionIndex, ProducerEpoch, ProducerId, Sequence, TopicId,
    records::{BatchBuilder, Producer},
};
use catena_wire::{
    Api, ErrorCode, Message, MetadataRequest, MetadataResponse, Preface, ProduceResponse,
};
use common::{PATIENCE, Server, ask, ask_with, free_address, greet, produce_request, wait_until};
use tempfile::TempDir;

const PARTITIONS: u32 = 3;

/// A node, and where it is reached.
struct Node {
    directory: PathBuf,
    client: String,
    peer: String,
    server: Option<Server>,
}

impl Node {
    fn new(root: &Path, name: &str) -> Self {
        let (client, peer) = (free_address(), free_address());
        Self { directory: root.join(name), client, peer, server: None }
    }

    fn start(&mut self, more: &[&str]) {
        let own = ["--cores", "2", "--set", "storage.disk_reserve=0", "--peer", &self.peer];
        let all: Vec<&str> = own.into_iter().chain(more.iter().copied()).collect();
        self.server = Some(Server::start(&self.directory, &self.client, &all));
    }

    fn wait(&self, text: &str, times: usize) {
        self.server.as_ref().expect("it runs").wait_for(text, times);
    }
}

fn client(address: &str) -> Client {
    Client::new(Options::new(address).with_request_timeout(Duration::from_secs(10)))
}

/// Three nodes of one cluster: one founds it, two join.
fn cluster(root: &Path) -> Vec<Node> {
    let mut nodes: Vec<Node> = ["a", "b", "c"].map(|name| Node::new(root, name)).into();
    nodes[0].start(&[]);
    nodes[0].wait("ready on", 1);
    let token = token(&nodes[0], root, &[]);
    let peer = nodes[0].peer.clone();
    for node in &mut nodes[1..] {
        node.start(&["--join", &peer, "--token-file", &token]);
    }
    nodes.iter().for_each(|node| node.wait("ready on", 1));
    nodes[0].wait("nodes 1, 2, 3 vote", 1);
    for node in &nodes {
        wait_until("each knows of all", || known(node) == nodes.len());
    }
    nodes
}

/// Of how many nodes one knows.
fn known(node: &Node) -> usize {
    let mut stream = connected(&node.client).unwrap();
    let (_, head) =
        ask(&mut stream, Api::Metadata, &MetadataRequest { names: Vec::new() }).unwrap();
    MetadataResponse::decode(&head).unwrap().nodes.len()
}

/// A file with a token that allows to join.
fn token(node: &Node, root: &Path, more: &[&str]) -> String {
    let printed = Command::new(env!("CARGO_BIN_EXE_catena"))
        .args(["--server", &node.client, "cluster", "token"])
        .args(more)
        .output()
        .unwrap();
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let file = root.join("token");
    fs::write(&file, printed.stdout).unwrap();
    file.to_str().expect("a path in UTF-8").to_owned()
}

fn connected(address: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(&Preface { core: None }.encode())?;
    greet(&mut stream)?;
    Ok(stream)
}

/// What one of the nodes that run says of the topic: its partitions, and where nodes are.
fn metadata(nodes: &[Node]) -> Option<(TopicMetadata<'static>, Vec<(NodeId, String)>)> {
    let runs = nodes.iter().filter(|node| node.server.is_some());
    runs.filter_map(|node| {
        let mut stream = connected(&node.client).ok()?;
        let request = MetadataRequest { names: vec!["events".into()] };
        let (_, head) = ask(&mut stream, Api::Metadata, &request).ok()?;
        let mut response = MetadataResponse::decode_owned(&head).ok()?;
        let own = |(id, address): (NodeId, String)| match address.is_empty() {
            true => (id, node.client.clone()),
            false => (id, address),
        };
        let places = response.nodes.into_iter().map(|n| own((n.node, n.address.into_owned())));
        Some((response.topics.pop()?, places.collect()))
    })
    .next()
}

/// Sends a record until it is acknowledged, always under the same sequence; its offset.
fn produce(nodes: &[Node], partition: u32, sequence: i32) -> Offset {
    let mut builder = BatchBuilder::new();
    let value = format!("{partition}/{sequence}");
    builder.push(Millis::new(1_700_000_000_000), None, Some(value.as_bytes()), &[]);
    let (id, epoch) = (ProducerId::new(0), ProducerEpoch::new(0));
    let batch = builder.build(Producer { id, epoch, sequence: Sequence::new(sequence) }).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut last = None;
    loop {
        assert!(Instant::now() < deadline, "{value} is not acknowledged: {last:?}");
        let Some((topic, places)) = metadata(nodes) else { continue };
        let place = &topic.partitions[partition as usize];
        let Some((_, head)) = places.iter().find(|(id, _)| *id == place.chain[0]) else { continue };
        let Ok(mut stream) = connected(head) else { continue };
        let request = produce_request(topic.id, partition);
        let Ok((_, answer)) = ask_with(&mut stream, Api::Produce, &request, &batch) else {
            continue;
        };
        let response = ProduceResponse::decode_owned(&answer).unwrap();
        match response.error {
            ErrorCode::None => return response.first_offset,
            error => last = Some((error, response.message)),
        }
    }
}

/// Everything that a node shows of a partition.
fn shown(node: &Node, topic: TopicId, partition: u32) -> Vec<String> {
    let mut client = client(&node.client);
    let partition = PartitionIndex::new(partition);
    let end = client.offset(topic, partition, OffsetQuery::Latest).unwrap().unwrap();
    let (mut at, mut values) = (Offset::ZERO, Vec::new());
    while at < end {
        let options = FetchOptions { max_bytes: 1 << 20, max_wait: Duration::ZERO };
        let fetched = client.fetch(topic, partition, at, options).unwrap();
        let each = fetched.each_record::<catena_client::Error>(at, |_, record| {
            values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
            Ok(())
        });
        each.unwrap();
        at = fetched.next_offset;
    }
    values
}

fn root() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[test]
fn each_of_three_is_killed_and_nothing_is_lost_or_twice() {
    let root = root();
    let mut nodes = cluster(root.path());
    client(&nodes[1].client).create_topic("events", PARTITIONS, Vec::new()).unwrap();
    client(&nodes[2].client).producer_id().unwrap();
    let described = Command::new(env!("CARGO_BIN_EXE_catena"))
        .args(["--server", &nodes[0].client, "topic", "describe", "events"])
        .output()
        .unwrap();
    let described = String::from_utf8(described.stdout).unwrap();
    for node in 1..=3 {
        let column = described.lines().filter(|line| line.contains(&format!("  {node}>")));
        assert_eq!(column.count(), 1, "each is the head of one chain:\n{described}");
    }
    let mut next = vec![0; PARTITIONS as usize];
    let mut round = |nodes: &[Node], times: i32| {
        for partition in 0..PARTITIONS {
            for _ in 0..times {
                let sequence = &mut next[partition as usize];
                let offset = produce(nodes, partition, *sequence);
                assert_eq!(offset.get(), u64::try_from(*sequence).unwrap());
                *sequence += 1;
            }
        }
    };
    for (dies, starts) in [(0, 2), (1, 2), (2, 2), (0, 3)] {
        round(&nodes, 5);
        nodes[dies].server = None;
        round(&nodes, 5);
        nodes[dies].start(&[]);
        nodes[dies].wait("ready on", starts);
        wait_until("all are in every chain", || {
            let known = metadata(&nodes);
            known.is_some_and(|(topic, _)| topic.partitions.iter().all(|p| p.chain.len() == 3))
        });
    }
    round(&nodes, 1);
    let (topic, _) = metadata(&nodes).unwrap();
    for partition in 0..PARTITIONS {
        let all: Vec<String> = (0..41).map(|n| format!("{partition}/{n}")).collect();
        for node in &nodes {
            let mut last = Vec::new();
            wait_until("a node shows all", || {
                last = shown(node, topic.id, partition);
                last.len() >= all.len()
            });
            assert_eq!(last, all);
        }
    }
    an_older_copy_is_refused(&mut nodes[1]);
}

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

/// Creates the topic with a copy on each node, also when one is believed gone for a moment, as on a
/// machine that is busy.
fn create_everywhere(admin: &mut Client) {
    wait_until("each node can have a copy", || {
        admin.create_replicated_topic("events", PARTITIONS, 3, Vec::new()).is_ok()
    });
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
    create_everywhere(&mut admin);
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
    create_everywhere(&mut client(&nodes[0].client));
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

/// A node's directory is copied, lives on, and is replaced by the copy.
fn an_older_copy_is_refused(node: &mut Node) {
    node.server = None;
    let [data, copy] = ["data", "copy"].map(|name| node.directory.join(name));
    let copied = Command::new("cp").arg("-r").args([&data, &copy]).status();
    assert!(copied.unwrap().success());
    node.start(&[]);
    node.wait("ready on", 3);
    node.server = None;
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&copy, &data).unwrap();
    node.start(&[]);
    // It would run for ever otherwise.
    node.wait("older copy", 1);
    assert!(!node.server.as_mut().unwrap().child.wait().unwrap().success());
}

#[test]
fn a_directory_of_a_node_alone_grows_into_a_cluster_and_does_not_go_back() {
    let root = root();
    let mut node = Node::new(root.path(), "a");
    let alone = Server::start(&node.directory, &node.client, &["--set", "storage.disk_reserve=0"]);
    alone.wait_for("ready on", 1);
    client(&node.client).create_topic("events", 1, Vec::new()).unwrap();
    client(&node.client).producer_id().unwrap();
    let topic = client(&node.client).topic("events").unwrap().id;
    node.server = Some(alone);
    let nodes = [node];
    assert_eq!(produce(&nodes, 0, 0), Offset::ZERO);
    let [mut node] = nodes;
    node.server = None;
    node.start(&[]);
    node.wait("ready on", 2);
    let nodes = [node];
    assert_eq!(produce(&nodes, 0, 0), Offset::ZERO, "it is known");
    assert_eq!(produce(&nodes, 0, 1), Offset::new(1));
    assert_eq!(shown(&nodes[0], topic, 0), ["0/0", "0/1"]);
    let [mut node] = nodes;
    node.server = None;
    let mut back = Server::start(&node.directory, &node.client, &["--cores", "1"]);
    let status = back.child.wait().unwrap();
    assert!(!status.success());
    assert!(back.log().contains("(listen.peer)"), "{}", back.log());
}

#[test]
fn nobody_joins_with_a_token_that_allows_nothing() {
    let root = root();
    let mut founder = Node::new(root.path(), "a");
    founder.start(&[]);
    founder.wait("ready on", 1);
    let token = token(&founder, root.path(), &["--lifetime", "1day"]);
    let text = fs::read_to_string(&token).unwrap();
    let revoked = Command::new(env!("CARGO_BIN_EXE_catena"))
        .args(["--server", &founder.client, "cluster", "token", "--revoke", text.trim()])
        .status();
    assert!(revoked.unwrap().success());
    for told in [text.as_str(), "0123456789abcdef0123456789abcdef", "short"] {
        fs::write(&token, told).unwrap();
        let mut stranger = Node::new(root.path(), "b");
        stranger.start(&["--join", &founder.peer, "--token-file", &token]);
        let server = stranger.server.as_mut().unwrap();
        assert!(!server.child.wait().unwrap().success());
        assert!(server.log().contains("token"), "{}", server.log());
        assert!(!stranger.directory.join("data/meta/identity").exists());
    }
}
