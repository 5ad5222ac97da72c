//! A client that came to the wrong node of a cluster goes on at the right one: what it was refused
//! with says where that is, and nobody else is asked. How much was asked the metrics tell.

mod cluster_common;
mod common;

use catena_client::OffsetQuery;
use catena_format::{NodeId, Offset, PartitionIndex};
use catena_wire::{Api, ErrorCode, Message, TrimRequest, TrimResponse};
use cluster_common::{Node, client, cluster, metadata, root};
use common::{Server, ask, connect, greet, wait_until};

/// Clients that know one node only.
const STRANGERS: u64 = 40;
/// Connections behind theirs, each with one request.
const FURTHER: u64 = 10;

fn sum(server: &Server, metric: &str) -> u64 {
    server.metric(metric).iter().sum()
}

/// Requests that a node was asked, once the metrics tell of all that was done until now: they do
/// when they tell of connections made since.
fn requests(node: &Node) -> u64 {
    let server = node.server.as_ref().unwrap();
    let counted = || server.metric("catena_connections_total")[0];
    let before = counted();
    for _ in 0..FURTHER {
        greet(&mut connect(&node.client, Some(0))).unwrap();
    }
    wait_until("the metrics tell", || counted() >= before + FURTHER);
    sum(server, "catena_requests_total")
}

/// A node that has no copy of a partition.
fn other(nodes: &[Node], chain: &[NodeId]) -> usize {
    let has = |at: &usize| chain.contains(&NodeId::new(*at as u64 + 1));
    (0..nodes.len()).find(|at| !has(at)).expect("there is one")
}

#[test]
fn a_client_that_knows_the_wrong_node_only_is_sent_to_the_head() {
    let root = root();
    let nodes = cluster(root.path());
    wait_until("the topic is created", || {
        client(&nodes[0].client).create_replicated_topic("events", 2, 1, Vec::new()).is_ok()
    });
    let (topic, addresses) = metadata(&nodes).unwrap();
    for partition in &topic.partitions {
        let wrong = &nodes[other(&nodes, &partition.chain)];
        let before = requests(wrong);
        for _ in 0..STRANGERS {
            let mut stranger = client(&wrong.client);
            let end = stranger.offset(topic.id, partition.index, OffsetQuery::Latest);
            assert_eq!(end.unwrap(), Some(Offset::ZERO));
        }
        // A handshake and a refusal each.
        let (asked, least) = (requests(wrong) - before, 2 * STRANGERS);
        assert!((least..=least + 2 * FURTHER).contains(&asked), "{asked}");
        // Whichever core is asked, and what the tables say.
        for core in 0..2 {
            let mut stream = connect(&wrong.client, Some(core));
            greet(&mut stream).unwrap();
            let (topic, to) = (topic.id, Offset::ZERO);
            let request = TrimRequest { topic, partition: partition.index, to };
            let (_, head) = ask(&mut stream, Api::Trim, &request).unwrap();
            let refused = TrimResponse::decode(&head).unwrap();
            assert_eq!(refused.error, ErrorCode::NotHead);
            let told = refused.head.unwrap();
            assert_eq!((told.node, told.epoch), (partition.chain[0], partition.epoch));
            assert_eq!(told.core, partition.core);
            assert!(addresses.contains(&(told.node, told.address.into_owned())));
        }
    }
    // A member that is not the head, for what only the head does.
    wait_until("a topic on all nodes is created", || {
        client(&nodes[0].client).create_replicated_topic("more", 1, 3, Vec::new()).is_ok()
    });
    let topic = client(&nodes[0].client).topic("more").unwrap();
    for node in &nodes {
        let trimmed = client(&node.client).trim(topic.id, PartitionIndex::new(0), Offset::ZERO);
        assert_eq!(trimmed.unwrap(), Offset::ZERO);
    }
}
