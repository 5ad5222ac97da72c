//! Nodes of a cluster as tests of the real binary start them, and what is asked of them without a
//! client library.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    fs,
    io::Write,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use catena_client::{Client, FetchOptions, OffsetQuery, Options, TopicMetadata};
use catena_format::{
    Millis, NodeId, Offset, PartitionIndex, ProducerEpoch, ProducerId, Sequence, TopicId,
    records::{BatchBuilder, Producer},
};
use catena_wire::{
    Api, ErrorCode, Message, MetadataRequest, MetadataResponse, Preface, ProduceResponse,
};
use tempfile::TempDir;

use crate::common::{
    PATIENCE, Server, ask, ask_with, free_address, greet, produce_request, wait_until,
};

/// A node, and where it is reached.
pub(crate) struct Node {
    pub(crate) directory: PathBuf,
    pub(crate) client: String,
    pub(crate) peer: String,
    pub(crate) server: Option<Server>,
}

impl Node {
    pub(crate) fn new(root: &Path, name: &str) -> Self {
        let (client, peer) = (free_address(), free_address());
        Self { directory: root.join(name), client, peer, server: None }
    }

    pub(crate) fn start(&mut self, more: &[&str]) {
        let own = ["--cores", "2", "--set", "storage.disk_reserve=0", "--peer", &self.peer];
        let all: Vec<&str> = own.into_iter().chain(more.iter().copied()).collect();
        self.server = Some(Server::start(&self.directory, &self.client, &all));
    }

    /// What the servers of its directory said.
    pub(crate) fn server_log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    pub(crate) fn wait(&self, text: &str, times: usize) {
        self.server.as_ref().expect("it runs").wait_for(text, times);
    }
}

pub(crate) fn client(address: &str) -> Client {
    Client::new(Options::new(address).with_request_timeout(Duration::from_secs(10)))
}

/// Three nodes of one cluster: one founds it, two join.
pub(crate) fn cluster(root: &Path) -> Vec<Node> {
    cluster_with(root, &[])
}

/// The same, of servers that are given more arguments.
pub(crate) fn cluster_with(root: &Path, more: &[&str]) -> Vec<Node> {
    let mut nodes: Vec<Node> = ["a", "b", "c"].map(|name| Node::new(root, name)).into();
    nodes[0].start(more);
    nodes[0].wait("ready on", 1);
    let token = token(&nodes[0], root, &[]);
    let peer = nodes[0].peer.clone();
    for node in &mut nodes[1..] {
        node.start(&[&["--join", &peer, "--token-file", &token], more].concat());
        // So that their numbers are in this order.
        node.wait("ready on", 1);
    }
    nodes[0].wait("nodes 1, 2, 3 vote", 1);
    for node in &nodes {
        wait_until("each knows of all", || known(node) == nodes.len());
    }
    nodes
}

/// Of how many nodes one knows.
pub(crate) fn known(node: &Node) -> usize {
    let mut stream = connected(&node.client).unwrap();
    let (_, head) =
        ask(&mut stream, Api::Metadata, &MetadataRequest { names: Vec::new() }).unwrap();
    MetadataResponse::decode(&head).unwrap().nodes.len()
}

/// A file with a token that allows to join.
pub(crate) fn token(node: &Node, root: &Path, more: &[&str]) -> String {
    let file = root.join("token");
    // Who leads may change meanwhile; a token too many harms nobody.
    wait_until("there is a token", || {
        let printed = catena(node, &[&["cluster", "token"], more].concat());
        fs::write(&file, printed.stdout).unwrap();
        printed.status.success()
    });
    file.to_str().expect("a path in UTF-8").to_owned()
}

pub(crate) fn connected(address: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(&Preface { core: None }.encode())?;
    greet(&mut stream)?;
    Ok(stream)
}

/// What one of the nodes that run says of the topic: its partitions, and where nodes are.
pub(crate) fn metadata(nodes: &[Node]) -> Option<(TopicMetadata<'static>, Vec<(NodeId, String)>)> {
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
pub(crate) fn produce(nodes: &[Node], partition: u32, sequence: i32) -> Offset {
    let deadline = Instant::now() + PATIENCE;
    let mut last = None;
    loop {
        assert!(Instant::now() < deadline, "{partition}/{sequence} is not acknowledged: {last:?}");
        let Some(response) = produce_once(nodes, partition, sequence) else { continue };
        match response.error {
            ErrorCode::None => return response.first_offset,
            error => last = Some((error, response.message)),
        }
    }
}

/// Sends a record to the head that is known; what that answers, if it does.
pub(crate) fn produce_once(
    nodes: &[Node],
    partition: u32,
    sequence: i32,
) -> Option<ProduceResponse<'static>> {
    let mut builder = BatchBuilder::new();
    let value = format!("{partition}/{sequence}");
    builder.push(Millis::new(1_700_000_000_000), None, Some(value.as_bytes()), &[]);
    let (id, epoch) = (ProducerId::new(0), ProducerEpoch::new(0));
    let batch = builder.build(Producer { id, epoch, sequence: Sequence::new(sequence) }).unwrap();
    let (topic, places) = metadata(nodes)?;
    let place = &topic.partitions[partition as usize];
    let (_, head) = places.iter().find(|(id, _)| id == place.chain.first().unwrap())?;
    let mut stream = connected(head).ok()?;
    let request = produce_request(topic.id, partition);
    let (_, answer) = ask_with(&mut stream, Api::Produce, &request, &batch).ok()?;
    Some(ProduceResponse::decode_owned(&answer).unwrap())
}

/// Everything that a node shows of a partition.
pub(crate) fn shown(node: &Node, topic: TopicId, partition: u32) -> Vec<String> {
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

pub(crate) fn root() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Runs a command against a node.
pub(crate) fn catena(node: &Node, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_catena"));
    command.args(["--server", &node.client]).args(arguments).output().unwrap()
}

/// Creates the topic with a copy on each node, also when one is believed gone for a moment, as on a
/// machine that is busy.
pub(crate) fn create_everywhere(admin: &mut Client, partitions: u32) {
    wait_until("each node can have a copy", || {
        admin.create_replicated_topic("events", partitions, 3, Vec::new()).is_ok()
    });
}
