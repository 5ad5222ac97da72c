//! Nodes come and go, and their chains with them.

use super::*;
use std::collections::BTreeSet;

use crate::control::place;

fn due(catalog: &Catalog) -> Vec<Entry> {
    let due = crate::control::due(catalog, &BTreeSet::new(), &BTreeSet::new());
    due.into_iter().map(|due| due.entry).collect()
}

fn profile(rack: &str) -> NodeProfile {
    let (client, peer) = ("host:1".to_owned(), "host:2".to_owned());
    NodeProfile { client, peer, rack: rack.to_owned(), cores: 2, witness: false }
}

const TOKEN: u128 = 99;

fn admit(token: u128, time: i64, life: u64) -> Entry {
    Entry::AdmitNode { token, time, life: life << 16, profile: Box::new(profile("")) }
}

/// A process starts on the directory of its node's last life.
fn start(catalog: &mut Catalog, node: u64, life: u64) -> Incarnation {
    let known = vec![catalog.node(NodeId::new(node)).unwrap().life];
    let entry = Entry::StartNode { node, life: life << 16, known, profile: profile("") };
    match catalog.apply(&entry) {
        Ok(Applied::Started(incarnation)) => incarnation,
        other => panic!("{other:?}"),
    }
}

/// A node that was alone, with a topic, and two that have joined it.
fn cluster() -> Catalog {
    let mut catalog = Catalog::default();
    catalog.apply(&Entry::NodeStarted { node: 1 }).unwrap();
    catalog.apply(&create(1, "old", 1)).unwrap();
    catalog.apply(&Entry::TopicReady { id: 1 }).unwrap();
    catalog.found(NodeId::new(1), 11 << 16, profile(""));
    catalog.apply(&Entry::AllowJoin { token: TOKEN, time: 1000, until: 2000 }).unwrap();
    for (node, life) in [(2, 12), (3, 13)] {
        let admit = admit(TOKEN, 1999, life);
        assert_eq!(catalog.apply(&admit), Ok(Applied::Node(NodeId::new(node))));
        assert_eq!(start(&mut catalog, node, life), Incarnation::new(1));
    }
    catalog
}

fn topic(catalog: &mut Catalog, id: u128, partitions: u32, replicas: u8, min_replicas: u8) {
    let nodes = place(catalog, partitions, replicas).unwrap();
    let name = format!("t{id}");
    let config = Vec::new();
    let entry = Entry::PlaceTopic { id, name, config, nodes, partitions, replicas, min_replicas };
    catalog.apply(&entry).unwrap();
}

fn chain(catalog: &Catalog, id: u128, partition: usize) -> (u32, Vec<u64>, Option<u64>) {
    let topic = catalog.topic(TopicId::new(id)).unwrap();
    let configuration = &topic.partitions[partition].configuration;
    let chain = configuration.chain.iter().map(|member| member.node.get()).collect();
    (configuration.epoch.get(), chain, configuration.joining.map(|joiner| joiner.node.get()))
}

fn down(catalog: &mut Catalog, node: u64) {
    let incarnation = catalog.incarnation(NodeId::new(node)).get();
    catalog.apply(&Entry::NodeDown { node, incarnation }).unwrap();
}

/// The joiner of a chain is ready.
fn ready(catalog: &mut Catalog, id: u128, partition: u32) -> Result<Applied, CatalogError> {
    let topic = catalog.topic(TopicId::new(id)).unwrap();
    let configuration = &topic.partitions[partition as usize].configuration;
    let joiner = configuration.joining.unwrap();
    let change = ChainChange::Ready(joiner.node.get(), joiner.incarnation.get());
    let epoch = configuration.epoch.get();
    catalog.apply(&Entry::ChangeChain { topic: id, partition, epoch, change })
}

#[test]
fn a_node_is_admitted_once_and_another_life_is_another_incarnation() {
    let mut catalog = cluster();
    // An answer that was lost is asked for again, even if the token is over by now.
    assert_eq!(catalog.apply(&admit(TOKEN, 2000, 13)), Ok(Applied::Node(NodeId::new(3))));
    assert_eq!(start(&mut catalog, 3, 13), Incarnation::new(1));
    assert_eq!(start(&mut catalog, 3, 33), Incarnation::new(2));
    // Who founded the cluster goes on in the life it was alone in, and its next is another.
    assert_eq!(start(&mut catalog, 1, 11), Incarnation::new(1));
    assert_eq!(chain(&catalog, 1, 0), (1, vec![1], None));
    assert_eq!(start(&mut catalog, 1, 21), Incarnation::new(2));
    assert_eq!(chain(&catalog, 1, 0), (2, vec![1], None));
    let stranger = Entry::StartNode { node: 9, life: 1, known: vec![0], profile: profile("") };
    assert_eq!(catalog.apply(&stranger), Err(CatalogError::UnknownNode(9)));
    // A directory that does not know of the last life is an older copy; one that knows of more
    // than was ever ordered is not.
    let from =
        |known: Vec<u64>, life| Entry::StartNode { node: 3, life, known, profile: profile("") };
    let older = catalog.apply(&from(vec![13 << 16], 34 << 16));
    assert_eq!(older, Err(CatalogError::OlderDirectory(3)));
    let known = vec![33 << 16, 34 << 16, 35 << 16];
    let third = Ok(Applied::Started(Incarnation::new(3)));
    assert_eq!(catalog.apply(&from(known, 36 << 16)), third);
    // The same process, believed to be gone.
    let fourth = Ok(Applied::Started(Incarnation::new(4)));
    assert_eq!(catalog.apply(&from(Vec::new(), (36 << 16) + 1)), fourth);
    // The next one on its directory, which does not know that it was.
    let fifth = Ok(Applied::Started(Incarnation::new(5)));
    assert_eq!(catalog.apply(&from(vec![36 << 16], 37 << 16)), fifth);
    let late = Entry::NodeDown { node: 3, incarnation: 1 };
    assert_eq!(catalog.apply(&late), Err(CatalogError::NotRunning(3)));
}

#[test]
fn a_token_allows_for_a_time_and_can_be_taken_back() {
    let mut catalog = cluster();
    let allow = |token, time, until| Entry::AllowJoin { token, time, until };
    assert_eq!(catalog.apply(&admit(TOKEN, 2000, 14)), Err(CatalogError::Token));
    assert_eq!(catalog.apply(&admit(1, 1500, 14)), Err(CatalogError::Token));
    catalog.apply(&allow(TOKEN, 1500, 1500)).unwrap();
    assert_eq!(catalog.apply(&admit(TOKEN, 1600, 14)), Err(CatalogError::Token));
    for token in 0..TOKENS_MAX as u128 {
        catalog.apply(&allow(token, 3000, 4000)).unwrap();
    }
    assert_eq!(catalog.apply(&allow(1000, 3000, 4000)), Err(CatalogError::TooManyTokens));
    catalog.apply(&allow(5, 3000, 5000)).unwrap();
    let mut copy = Catalog::default();
    assert!(copy.restore(&catalog.snapshot()));
    assert_eq!(copy.tokens, catalog.tokens);
    // Those that are over make room.
    catalog.apply(&allow(1000, 4000, 4001)).unwrap();
    assert_eq!(catalog.tokens, [(5, 5000), (1000, 4001)].into());
}

#[test]
fn heads_and_copies_are_spread_over_nodes_and_racks() {
    let mut catalog = cluster();
    // The first has one that it is the head of.
    let nodes = place(&catalog, 5, 2).unwrap();
    let heads = |node: u64| nodes.iter().step_by(2).filter(|head| **head == node).count();
    assert_eq!([1, 2, 3].map(heads), [1, 2, 2], "{nodes:?}");
    let copies = |node: u64| nodes.iter().filter(|placed| **placed == node).count();
    assert!([1, 2, 3].map(copies).iter().all(|copies| (3..=4).contains(copies)), "{nodes:?}");
    assert_eq!(place(&catalog, 1, 4), None);
    for (node, rack) in [(1, "a"), (2, "a"), (3, "b")] {
        let known = vec![catalog.node(NodeId::new(node)).unwrap().life];
        let entry = Entry::StartNode { node, life: 90 << 16, known, profile: profile(rack) };
        catalog.apply(&entry).unwrap();
    }
    for chain in place(&catalog, 8, 2).unwrap().chunks(2) {
        assert!(chain.contains(&3), "{chain:?}");
    }
    down(&mut catalog, 3);
    assert_eq!(place(&catalog, 1, 3), None);
}

#[test]
fn a_topic_is_ready_once_all_its_nodes_have_created_it() {
    let mut catalog = cluster();
    topic(&mut catalog, 2, 2, 3, 2);
    let ready = |catalog: &Catalog| catalog.topic(TopicId::new(2)).unwrap().ready;
    for node in [1, 2] {
        catalog.apply(&Entry::TopicCreated { id: 2, node, partitions: 2 }).unwrap();
        assert_eq!(ready(&catalog), 0);
        // A change that adds no partition keeps what was said.
        catalog.apply(&change(2, 0, "other")).unwrap();
        catalog.apply(&change(2, 2, "t2")).unwrap();
    }
    // The third dies in between: the chains are complete without it.
    down(&mut catalog, 3);
    assert_eq!(ready(&catalog), 2);
    assert_eq!(catalog.apply(&change(2, 4, "")), Ok(Applied::Done));
    assert_eq!(ready(&catalog), 2);
    assert_eq!(chain(&catalog, 2, 3).1.len(), 2);
    // What was said before they were added says nothing of these.
    for partitions in [2, 4] {
        assert_eq!(ready(&catalog), 2);
        for node in [1, 2] {
            catalog.apply(&Entry::TopicCreated { id: 2, node, partitions }).unwrap();
        }
    }
    assert_eq!(ready(&catalog), 4);
}

#[test]
fn a_dead_node_leaves_its_chains_comes_back_as_a_joiner_and_the_last_never_leaves() {
    let mut catalog = cluster();
    topic(&mut catalog, 2, 1, 3, 2);
    let (_, first, _) = chain(&catalog, 2, 0);
    assert!(due(&catalog).is_empty());
    down(&mut catalog, first[0]);
    assert_eq!(chain(&catalog, 2, 0), (2, first[1..].to_vec(), None));
    // Of the topic that only the first node has nothing changes.
    assert_eq!(chain(&catalog, 1, 0).1, [1]);
    start(&mut catalog, first[0], 50);
    let entries = due(&catalog);
    assert_eq!(entries.len(), 1);
    catalog.apply(&entries[0]).unwrap();
    assert_eq!(chain(&catalog, 2, 0), (3, first[1..].to_vec(), Some(first[0])));
    assert_eq!(catalog.apply(&entries[0]), Err(CatalogError::ChainMoved(Epoch::new(3))));
    assert!(due(&catalog).is_empty());
    // In another life it copies anew; the word of the one before counts for nothing.
    let before = catalog.incarnation(NodeId::new(first[0])).get();
    start(&mut catalog, first[0], 51);
    assert_eq!(chain(&catalog, 2, 0).0, 4);
    let change = ChainChange::Ready(first[0], before);
    let stale = Entry::ChangeChain { topic: 2, partition: 0, epoch: 4, change };
    assert!(matches!(catalog.apply(&stale), Err(CatalogError::Chain(_))));
    ready(&mut catalog, 2, 0).unwrap();
    assert_eq!(chain(&catalog, 2, 0), (5, vec![first[1], first[2], first[0]], None));
    for node in [first[1], first[2]] {
        down(&mut catalog, node);
    }
    assert_eq!(chain(&catalog, 2, 0), (7, vec![first[0]], None));
    down(&mut catalog, first[0]);
    assert_eq!(chain(&catalog, 2, 0), (7, vec![first[0]], None));
    // The others wait until the last is back, for only it has all.
    start(&mut catalog, first[1], 60);
    assert!(due(&catalog).is_empty());
    start(&mut catalog, first[0], 61);
    assert_eq!(chain(&catalog, 2, 0), (8, vec![first[0]], None));
    assert_eq!(due(&catalog).len(), 1);
}

#[test]
fn chains_change_as_they_may() {
    let mut catalog = cluster();
    catalog.apply(&Entry::DeleteTopic { id: 1 }).unwrap();
    topic(&mut catalog, 2, 1, 2, 1);
    let (_, nodes, _) = chain(&catalog, 2, 0);
    let other = 6 - nodes[0] - nodes[1];
    let change = |catalog: &mut Catalog, change: ChainChange| {
        let epoch = chain(catalog, 2, 0).0;
        catalog.apply(&Entry::ChangeChain { topic: 2, partition: 0, epoch, change })
    };
    change(&mut catalog, ChainChange::Reorder(vec![nodes[1], nodes[0]])).unwrap();
    assert_eq!(chain(&catalog, 2, 0), (2, vec![nodes[1], nodes[0]], None));
    let chain_error = change(&mut catalog, ChainChange::Reorder(vec![nodes[1]]));
    assert!(matches!(chain_error, Err(CatalogError::Chain(_))));
    change(&mut catalog, ChainChange::Join(other)).unwrap();
    ready(&mut catalog, 2, 0).unwrap();
    let incarnation = catalog.incarnation(NodeId::new(other)).get();
    let stale = change(&mut catalog, ChainChange::Leave(other, incarnation + 1));
    assert_eq!(stale, Err(CatalogError::NotRunning(other)));
    change(&mut catalog, ChainChange::Leave(other, incarnation)).unwrap();
    assert_eq!(chain(&catalog, 2, 0), (5, vec![nodes[1], nodes[0]], None));
    assert!(due(&catalog).is_empty(), "not in this life");
    start(&mut catalog, other, 70);
    assert_eq!(due(&catalog).len(), 1);
    change(&mut catalog, ChainChange::Join(other)).unwrap();
    ready(&mut catalog, 2, 0).unwrap();
    change(&mut catalog, ChainChange::Remove(nodes[0])).unwrap();
    assert_eq!(chain(&catalog, 2, 0), (8, vec![nodes[1], other], None));
    assert!(due(&catalog).is_empty(), "it was to go");
    down(&mut catalog, other);
    assert_eq!(
        change(&mut catalog, ChainChange::Remove(nodes[1])),
        Err(CatalogError::NodeNeeded(nodes[1]))
    );
    // Who runs is drained before, and who holds something does not go.
    let remove = |node| Entry::RemoveNode { node };
    let runs = CatalogError::NodeRuns(nodes[1]);
    assert_eq!(catalog.apply(&remove(nodes[1])), Err(runs));
    catalog.apply(&Entry::DrainNode { node: nodes[1], drain: true }).unwrap();
    assert_eq!(catalog.apply(&remove(nodes[1])), Err(CatalogError::NodeNeeded(nodes[1])));
    // Who is dead goes with all that it was to come back to.
    assert!(
        catalog.topic(TopicId::new(2)).unwrap().partitions[0].homes.contains(&NodeId::new(other))
    );
    catalog.apply(&remove(other)).unwrap();
    assert_eq!(
        catalog.topic(TopicId::new(2)).unwrap().partitions[0].homes,
        [NodeId::new(nodes[1])]
    );
    assert!(catalog.node(NodeId::new(other)).is_none());
    let mut copy = Catalog::default();
    assert!(copy.restore(&catalog.snapshot()));
    copy.last.clone_from(&catalog.last);
    assert_eq!(copy, catalog);
}

/// As a build wrote it that knew no draining: a node, a token, a topic of one partition.
const SNAPSHOT_PLACED: &str = concat!(
    "03000000000000000000000000000000612d6c6f6e6765722d686f73743a3200",
    "02000000000000000300000000000000000005000000000001000000686f7374",
    "3a31ffff8f000000ccffffff72ffffffffffffff020000000000000000000000",
    "0700000000000000000000000000000008000000000000000000000000000000",
    "0200000000000000030000000000000002000000000000000100000000000000",
    "01000000000000000100000000000000010000000000000004000000c4ffffff",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "01000000acffffff02000000b4ffffff01000000000000000000000000000000",
    "0900000000000000000000000000000074ffffffffffffff0100000064ffffff",
    "000000008cffffff01000000ccffffff00000000000000000000000000000000",
    "08000000000000000300000000000000d0feffff0100000008ffffff01000000",
    "0200000000000000000000000000000090ffffff01000000c8ffffff00000000",
);

#[test]
fn a_snapshot_from_before_draining_is_read() {
    let mut read = Catalog::default();
    assert!(read.restore(&unhex(SNAPSHOT_PLACED)));
    let node = read.node(NodeId::new(2)).unwrap();
    assert_eq!((node.up, node.draining, node.life), (true, false, 5 << 16));
    assert_eq!(node.profile.peer, "a-longer-host:2");
    let topic = read.topic(TopicId::new(9)).unwrap();
    // It wants as many copies as it was given.
    assert_eq!((topic.replicas, topic.ready, topic.name.as_str()), (2, 1, "t"));
    let Partition { homes, sick, leaving, .. } = &topic.partitions[0];
    let member =
        |node, life| MemberId { node: NodeId::new(node), incarnation: Incarnation::new(life) };
    assert_eq!((homes, sick), (&vec![NodeId::new(2), NodeId::new(1)], &vec![member(1, 1)]));
    assert!(leaving.is_empty());
    assert_eq!(chain(&read, 9, 0), (4, vec![2], None));
    let mut again = Catalog::default();
    assert!(again.restore(&read.snapshot()));
    assert_eq!(again, read);
}

#[test]
fn a_topic_has_as_many_copies_as_nodes_can_hold() {
    let mut catalog = cluster();
    topic(&mut catalog, 2, 2, 2, 1);
    let replicate =
        |replicas, min_replicas| Entry::ReplicateTopic { id: 2, replicas, min_replicas };
    let fewer = CatalogError::FewerNodes { wished: 4, there: 3 };
    assert_eq!(catalog.apply(&replicate(4, 1)), Err(fewer));
    assert_eq!(catalog.apply(&replicate(2, 3)), Err(CatalogError::Replicas(2)));
    assert_eq!(catalog.apply(&replicate(0, 0)), Err(CatalogError::Replicas(0)));
    let (epoch, nodes, _) = chain(&catalog, 2, 1);
    catalog.apply(&replicate(3, 1)).unwrap();
    assert_eq!(chain(&catalog, 2, 1), (epoch, nodes.clone(), None));
    // How many are needed is part of the chain.
    catalog.apply(&replicate(3, 2)).unwrap();
    assert_eq!(chain(&catalog, 2, 1), (epoch + 1, nodes, None));
    let min_replicas = |catalog: &Catalog| {
        catalog.topic(TopicId::new(2)).unwrap().partitions[1].configuration.min_replicas
    };
    assert_eq!(min_replicas(&catalog), 2);
    catalog.apply(&Entry::DrainNode { node: 3, drain: true }).unwrap();
    let fewer = CatalogError::FewerNodes { wished: 3, there: 2 };
    assert_eq!(catalog.apply(&replicate(3, 1)), Err(fewer));
    assert_eq!(place(&catalog, 1, 3), None, "nothing new goes to who is drained");
}

#[test]
fn who_holds_a_chain_up_leaves_it_as_long_as_that_takes_records() {
    let mut catalog = cluster();
    catalog.apply(&Entry::DeleteTopic { id: 1 }).unwrap();
    topic(&mut catalog, 2, 1, 3, 2);
    let (_, nodes, _) = chain(&catalog, 2, 0);
    let life = |catalog: &Catalog, node: u64| catalog.incarnation(NodeId::new(node)).get();
    let change = |catalog: &mut Catalog, change: ChainChange| {
        let epoch = chain(catalog, 2, 0).0;
        catalog.apply(&Entry::ChangeChain { topic: 2, partition: 0, epoch, change })
    };
    let (still, other) = (nodes[1], nodes[2]);
    let lives = (life(&catalog, still), life(&catalog, other));
    assert!(change(&mut catalog, ChainChange::Evict(still, lives.0 + 1)).is_err(), "another life");
    change(&mut catalog, ChainChange::Evict(still, lives.0)).unwrap();
    assert_eq!(chain(&catalog, 2, 0), (2, vec![nodes[0], other], None));
    let needed = change(&mut catalog, ChainChange::Evict(other, lives.1));
    assert_eq!(needed, Err(CatalogError::NodeNeeded(other)), "two must be there");
    let uid = catalog.topic(TopicId::new(2)).unwrap().partitions[0].uid;
    let resting = BTreeSet::from([(uid, NodeId::new(still))]);
    assert!(crate::control::due(&catalog, &BTreeSet::new(), &resting).is_empty(), "not yet");
    assert_eq!(due(&catalog).len(), 1, "it keeps its copy");
    change(&mut catalog, ChainChange::Join(still)).unwrap();
    let before = chain(&catalog, 2, 0);
    change(&mut catalog, ChainChange::Close(still, lives.0)).unwrap();
    assert_eq!(chain(&catalog, 2, 0), before, "it says something, and changes nothing");
    assert!(change(&mut catalog, ChainChange::Close(other, lives.1)).is_err(), "no joiner");
    change(&mut catalog, ChainChange::Evict(still, lives.0)).unwrap();
    assert_eq!(chain(&catalog, 2, 0), (4, vec![nodes[0], other], None), "nor does who joins wait");
}
