//! Real processes that are a cluster: each is killed while records are produced, comes back, and
//! in the end each has every acknowledged record once, in order.

mod cluster_common;
mod common;

use std::{fs, process::Command};

use catena_format::Offset;
use cluster_common::{
    Node, catena, client, cluster, create_everywhere, metadata, produce, root, shown, token,
};
use common::{Server, wait_until};

const PARTITIONS: u32 = 3;

#[test]
fn each_of_three_is_killed_and_nothing_is_lost_or_twice() {
    let root = root();
    let mut nodes = cluster(root.path());
    create_everywhere(&mut client(&nodes[1].client), PARTITIONS);
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
    let described = catena(&nodes[1], &["--output", "json", "topic", "describe", "events"]);
    let described: serde_json::Value = serde_json::from_slice(&described.stdout).unwrap();
    for partition in described["partitions"].as_array().unwrap() {
        let members = partition["members"].as_array().unwrap();
        let roles: Vec<_> = members.iter().map(|m| (&m["role"], &m["behind"])).collect();
        assert_eq!(roles.len(), 3, "{described:#}");
        let role = |at: usize| roles[at].0.as_str().unwrap();
        assert_eq!([role(0), role(1), role(2)], ["head", "middle", "tail"]);
        assert!(roles.iter().all(|(_, behind)| **behind == 0), "{described:#}");
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
