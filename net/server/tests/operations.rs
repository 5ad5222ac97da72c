//! Real processes and the commands of an operator: nodes are listed, drained, removed, replaced by
//! others; copies are added and moved; a witness votes.

mod cluster_common;
mod common;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use catena_client::{Client, Options, TopicMetadata};
use catena_format::{NodeId, Offset};
use catena_wire::{
    Api, DescribeClusterRequest, DescribeClusterResponse, ErrorCode, Message, ProduceResponse,
};
use cluster_common::{
    Node, catena, client, cluster, connected, metadata, produce, produce_once, root, shown, token,
};
use common::{PATIENCE, ask, wait_until};

/// What a command prints once it succeeds: a node may not have heard yet of what another one said,
/// and for a moment nobody may lead.
fn told(node: &Node, arguments: &[&str]) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = catena(node, arguments);
        if output.status.success() {
            return text(&output.stdout);
        }
        let late = Instant::now() > deadline;
        assert!(!late, "{arguments:?}: {}{}", text(&output.stderr), text(&output.stdout));
    }
}

/// What a command says that must fail, with this exit code.
fn refused(node: &Node, arguments: &[&str], code: i32) -> String {
    let output: Output = catena(node, arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stderr) + &text(&output.stdout)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn described(node: &Node) -> DescribeClusterResponse<'static> {
    let mut stream = connected(&node.client).unwrap();
    let (_, head) = ask(&mut stream, Api::DescribeCluster, &DescribeClusterRequest {}).unwrap();
    DescribeClusterResponse::decode_owned(&head).unwrap()
}

fn is_well(node: &Node) -> bool {
    let described = described(node);
    described.impaired == 0 && described.nodes.iter().all(|node| node.up)
}

/// What a node says of the topic, once one does.
fn topic(nodes: &[Node]) -> TopicMetadata<'static> {
    let mut known = None;
    wait_until("a node knows the topic", || {
        known = metadata(nodes);
        known.is_some()
    });
    known.unwrap().0
}

/// The chains of the topic, by nodes' numbers.
fn chains(nodes: &[Node]) -> Vec<Vec<u64>> {
    let Some((topic, _)) = metadata(nodes) else { return Vec::new() };
    let chains = topic.partitions.iter().map(|p| p.chain.iter().map(|node| node.get()).collect());
    chains.collect()
}

/// What is watched is told until somebody has had enough.
fn is_told_again(node: &Node) {
    let mut watching = Command::new(env!("CARGO_BIN_EXE_catena"))
        .args(["--server", &node.client, "cluster", "nodes", "--watch", "--interval", "10ms"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let heads = lines.filter(|line| line.as_ref().unwrap().starts_with("NODE"));
    assert_eq!(heads.take(3).count(), 3);
    watching.kill().unwrap();
    watching.wait().unwrap();
}

#[test]
fn a_node_is_drained_and_removed_and_another_takes_its_place() {
    let root = root();
    let mut nodes = cluster(root.path());
    client(&nodes[0].client).create_topic("events", 3, Vec::new()).unwrap();
    wait_until("each knows who votes", || {
        nodes.iter().all(|node| described(node).nodes.iter().all(|node| node.votes))
    });
    let listed = told(&nodes[1], &["cluster", "nodes"]);
    assert_eq!(listed.lines().count(), 4, "{listed}");
    assert_eq!(listed.matches("leads").count(), 1, "{listed}");
    assert_eq!(listed.matches("votes").count(), 2, "{listed}");
    let status = told(&nodes[2], &["cluster", "status"]);
    assert!(status.starts_with("healthy: 3 nodes, 3 partitions"), "{status}");
    is_told_again(&nodes[1]);
    assert!(refused(&nodes[0], &["cluster", "remove", "3"], 1).contains("drained"));
    assert!(refused(&nodes[0], &["cluster", "remove", "9"], 1).contains("no node 9"));
    let mut next = [0; 3];
    let mut round = |nodes: &[Node]| {
        for (partition, sequence) in (0..).zip(&mut next) {
            let offset = produce(nodes, partition, *sequence);
            assert_eq!(offset, Offset::new(u64::try_from(*sequence).unwrap()));
            *sequence += 1;
        }
    };
    round(&nodes);
    // A fourth one, to go to.
    let mut fourth = Node::new(root.path(), "d");
    let token = token(&nodes[0], root.path(), &[]);
    fourth.start(&["--join", &nodes[0].peer, "--token-file", &token]);
    fourth.wait("ready on", 1);
    nodes.push(fourth);
    let drained = catena(&nodes[1], &["cluster", "drain", "3"]);
    assert!(drained.status.success(), "{}", text(&drained.stderr));
    assert!(text(&drained.stdout).contains("holds nothing"));
    round(&nodes);
    assert!(chains(&nodes).iter().all(|chain| chain.len() == 3 && !chain.contains(&3)));
    told(&nodes[0], &["cluster", "remove", "3"]);
    nodes[2].wait("removed from its cluster", 1);
    let ended = nodes[2].server.as_mut().unwrap().child.wait().unwrap();
    assert!(!ended.success());
    nodes[2].server = None;
    wait_until("three vote", || {
        let described = described(&nodes[0]);
        described.nodes.len() == 3 && described.nodes.iter().all(|node| node.votes)
    });
    // One of the three dies for good.
    nodes[1].server = None;
    wait_until("it is down", || described(&nodes[0]).nodes.iter().any(|node| !node.up));
    let status = refused(&nodes[0], &["cluster", "status"], 1);
    assert!(status.contains("node 2 is down") && status.contains("2 of 3 copies"), "{status}");
    round(&nodes);
    told(&nodes[0], &["cluster", "remove", "2"]);
    let topic = topic(&nodes);
    for partition in 0..3 {
        let all: Vec<String> = (0..3).map(|n| format!("{partition}/{n}")).collect();
        for node in [&nodes[0], &nodes[3]] {
            wait_until("each shows all", || shown(node, topic.id, partition) == all);
        }
    }
}

#[test]
fn copies_are_added_taken_away_and_moved_by_commands() {
    let root = root();
    let nodes = cluster(root.path());
    client(&nodes[0].client).create_replicated_topic("events", 2, 1, Vec::new()).unwrap();
    let offset = produce(&nodes, 0, 0);
    assert_eq!(offset, Offset::ZERO);
    told(&nodes[1], &["topic", "alter", "events", "--replicas", "3", "--min-replicas", "2"]);
    wait_until("three have it", || chains(&nodes).iter().all(|chain| chain.len() == 3));
    assert_eq!(produce(&nodes, 0, 1), Offset::new(1));
    let more = refused(&nodes[0], &["topic", "alter", "events", "--replicas", "4"], 1);
    assert!(more.contains("3 nodes can hold"), "{more}");
    told(&nodes[2], &["topic", "alter", "events", "--replicas", "1"]);
    wait_until("one has it", || chains(&nodes).iter().all(|chain| chain.len() == 1));
    let from = chains(&nodes)[0][0];
    let to = from % 3 + 1;
    let [source, target] = [from, to].map(|node| node.to_string());
    let moves = ["partition", "move", "events", "0", "--from", &source, "--to", &target];
    told(&nodes[0], &moves);
    wait_until("it has moved", || chains(&nodes)[0] == [to]);
    let nothing = refused(&nodes[0], &moves, 1);
    assert!(nothing.contains("keeps one"), "{nothing}");
    assert_eq!(produce(&nodes, 0, 2), Offset::new(2));
    let topic = topic(&nodes);
    let holder = &nodes[usize::try_from(to).unwrap() - 1];
    wait_until("it shows all", || shown(holder, topic.id, 0) == ["0/0", "0/1", "0/2"]);
    wait_until("all is well", || is_well(&nodes[0]));
}

/// Two nodes with data, and a witness.
fn with_witness(root: &Path) -> Vec<Node> {
    let mut nodes: Vec<Node> = ["a", "b", "w"].map(|name| Node::new(root, name)).into();
    nodes[0].start(&[]);
    nodes[0].wait("ready on", 1);
    let (token, peer) = (token(&nodes[0], root, &[]), nodes[0].peer.clone());
    nodes[1].start(&["--join", &peer, "--token-file", &token]);
    nodes[1].wait("ready on", 1);
    wait_until("both are there", || described(&nodes[0]).nodes.len() == 2);
    let warned = told(&nodes[0], &["cluster", "status"]);
    assert!(warned.contains("failover needs a third vote"), "{warned}");
    nodes[2].start(&["--witness", "--join", &peer, "--token-file", &token]);
    nodes[2].wait("ready on", 1);
    for node in &nodes {
        wait_until("three vote", || described(node).nodes.iter().filter(|n| n.votes).count() == 3);
    }
    nodes
}

/// Bytes that the files of a directory take on the disk.
fn disk_bytes(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let bytes = entries.map(|entry| match entry.file_type().unwrap().is_dir() {
        true => disk_bytes(&entry.path()),
        false => entry.metadata().unwrap().blocks() * 512,
    });
    bytes.sum()
}

#[test]
fn two_nodes_and_a_witness_survive_the_death_of_either_node() {
    let root = root();
    let mut nodes = with_witness(root.path());
    client(&nodes[0].client).create_replicated_topic("events", 1, 2, Vec::new()).unwrap();
    let three = client(&nodes[0].client).create_replicated_topic("more", 1, 3, Vec::new());
    assert!(three.is_err(), "a witness holds nothing");
    assert!(told(&nodes[0], &["cluster", "nodes"]).contains("witness"));
    let mut sequence = 0;
    for dies in [0, 1] {
        let survivor = 1 - dies;
        assert_eq!(produce(&nodes, 0, sequence).get(), u64::try_from(sequence).unwrap());
        sequence += 1;
        nodes[dies].server = None;
        // One is enough.
        assert_eq!(produce(&nodes, 0, sequence).get(), u64::try_from(sequence).unwrap());
        sequence += 1;
        // Two would be needed: now it takes nothing, and says why.
        told(&nodes[survivor], &["topic", "alter", "events", "--min-replicas", "2"]);
        wait_until("it is refused", || {
            let answer: Option<ProduceResponse<'_>> = produce_once(&nodes, 0, sequence);
            answer.is_some_and(|answer| answer.error == ErrorCode::NotEnoughReplicas)
        });
        let starts = nodes[dies].server_log().matches("ready on").count();
        nodes[dies].start(&[]);
        nodes[dies].wait("ready on", starts + 1);
        assert_eq!(produce(&nodes, 0, sequence).get(), u64::try_from(sequence).unwrap());
        sequence += 1;
        told(&nodes[survivor], &["topic", "alter", "events", "--min-replicas", "1"]);
        wait_until("both are there", || chains(&nodes[..2]).iter().all(|chain| chain.len() == 2));
    }
    let all: Vec<String> = (0..sequence).map(|n| format!("0/{n}")).collect();
    let topic = topic(&nodes);
    for node in &nodes[..2] {
        wait_until("each shows all", || shown(node, topic.id, 0) == all);
    }
    assert!(described(&nodes[0]).nodes.iter().all(|node| !node.witness || node.partitions == 0));
    let bytes = disk_bytes(&nodes[2].directory.join("data"));
    println!("the witness has {bytes} bytes on its disk");
    assert!(bytes < 64 << 20, "{bytes}");
    // It is asked like any other.
    let mut witness = Client::new(Options::new(&*nodes[2].client).with_request_timeout(LONG));
    let cluster = witness.cluster().unwrap();
    assert_eq!(
        cluster.nodes.iter().map(|n| n.node).collect::<Vec<_>>(),
        [1, 2, 3].map(NodeId::new)
    );
}

const LONG: Duration = Duration::from_secs(10);
