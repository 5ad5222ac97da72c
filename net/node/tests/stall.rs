//! Chains of which two neighbours cannot reach each other, or one makes no headway.

mod common;
mod world;

use std::time::Duration;

use catena_replication::control::{ChainChange, Entry, decode};
use catena_wire::{Api, ErrorCode, Message, ReplicateTopicRequest, StatusResponse};
use world::World;

/// How often somebody was evicted from a chain, as the list has it.
fn evictions(world: &World) -> usize {
    let entries = world.list.iter().filter_map(|(bytes, _)| decode(bytes));
    let evicts =
        |entry: &Entry| matches!(entry, Entry::ChangeChain { change: ChainChange::Evict(..), .. });
    entries.filter(evicts).count()
}

#[test]
fn chains_go_on_though_two_nodes_cannot_reach_each_other() {
    let mut world = World::new(3);
    assert_eq!(world.create(0, "events", 6, 3), ErrorCode::None);
    let (topic, _) = world.partitions(0, "events");
    let chains: Vec<_> = (0..6).map(|at| world.chain(0, "events", at)).collect();
    for (at, chain) in chains.iter().enumerate() {
        assert_eq!(world.produce(chain[0], topic, at as u32, 0).error, ErrorCode::None);
    }
    // Whoever leads reaches both of them.
    world.cut(1, 2);
    world.pass(Duration::from_millis(300));
    assert_eq!(evictions(&world), 0, "it may be over in a moment");
    for at in 0..chains.len() {
        world.until("the chain goes on", |w| {
            let head = w.chain(0, "events", at)[0];
            w.produce(head, topic, at as u32, 1).error == ErrorCode::None
        });
        assert!(world.chain(0, "events", at).len() >= 2);
    }
    assert!(evictions(&world) > 0);
    world.unreachable.clear();
    for at in 0..chains.len() {
        world.until("all are back", |w| w.chain(0, "events", at).len() == 3);
        let head = world.chain(0, "events", at)[0];
        let shown = world.fetch(head, topic, at as u32);
        assert_eq!(shown.0, 2);
        for other in 0..3 {
            world.until("each shows all", |w| w.fetch(other, topic, at as u32) == shown);
        }
    }
    let before = evictions(&world);
    world.pass(Duration::from_secs(5));
    assert_eq!(evictions(&world), before, "nothing holds anybody up");
}

#[test]
fn who_starts_with_another_number_of_cores_is_reached_where_they_are() {
    let mut world = World::new(2);
    assert_eq!(world.create(0, "events", 6, 2), ErrorCode::None);
    for count in [3, 1, 2] {
        for at in [1, 0] {
            world.kill(at);
            world.machines[at].count = count;
            world.start(at);
            for partition in 0..6 {
                world.until("both are in", |w| w.chain(0, "events", partition).len() == 2);
            }
        }
        let before = evictions(&world);
        world.pass(Duration::from_secs(5));
        assert_eq!(evictions(&world), before, "{count} cores");
    }
}

#[test]
fn a_chain_that_would_be_too_short_waits_for_its_member() {
    let mut world = World::new(3);
    assert_eq!(world.create(0, "pairs", 6, 2), ErrorCode::None);
    let request = ReplicateTopicRequest { name: "pairs".into(), replicas: 2, min_replicas: 2 };
    let (head, _) = world.ask(0, Api::ReplicateTopic, &request, &[]);
    assert_eq!(StatusResponse::decode(&head).unwrap().error, ErrorCode::None);
    let (topic, _) = world.partitions(0, "pairs");
    let chains: Vec<_> = (0..6).map(|at| world.chain(0, "pairs", at)).collect();
    let cut = |chain: &Vec<usize>| !chain.contains(&0);
    assert!(chains.iter().any(cut), "{chains:?}");
    world.cut(1, 2);
    world.pass(Duration::from_secs(5));
    for (at, chain) in chains.iter().enumerate().filter(|(_, chain)| cut(chain)) {
        assert_eq!(&world.chain(0, "pairs", at), chain, "two are needed");
    }
    assert_eq!(evictions(&world), 0, "what would be refused is not asked for");
    world.unreachable.clear();
    for (at, chain) in chains.iter().enumerate() {
        world.until("it goes on", |w| {
            w.produce(chain[0], topic, at as u32, 0).error == ErrorCode::None
        });
    }
}

#[test]
fn a_member_whose_disk_stands_still_leaves_and_comes_back() {
    for stuck in 0..3 {
        let mut world = World::new(3);
        assert_eq!(world.create(0, "events", 1, 3), ErrorCode::None);
        let (topic, _) = world.partitions(0, "events");
        let chain = world.chain(0, "events", 0);
        assert_eq!(world.produce(chain[0], topic, 0, 0).error, ErrorCode::None);
        world.pass(Duration::from_secs(5));
        assert_eq!(evictions(&world), 0, "nobody waits for anything");
        world.machines[chain[stuck]].stuck = true;
        world.offer(chain[0], topic, 1, 100);
        world.until("the chain goes on", |w| w.chain(0, "events", 0).len() == 2);
        let left = world.chain(0, "events", 0);
        assert!(!left.contains(&chain[stuck]), "{left:?} of {chain:?}");
        for sequence in 1..4 {
            world.until("two disks are enough", |w| {
                let head = w.chain(0, "events", 0)[0];
                w.produce(head, topic, 0, sequence).error == ErrorCode::None
            });
        }
        // It joins now and then, and is given up before anybody waits for it.
        world.pass(Duration::from_secs(20));
        let head = world.chain(0, "events", 0)[0];
        assert!(evictions(&world) < 8, "{}", evictions(&world));
        assert_eq!(world.produce(head, topic, 0, 4).error, ErrorCode::None);
        world.machines[chain[stuck]].stuck = false;
        world.until("it is back", |w| w.chain(0, "events", 0).len() == 3);
        let shown = world.fetch(head, topic, 0);
        assert_eq!(shown.0, 5);
        for other in 0..3 {
            world.until("each shows all", |w| w.fetch(other, topic, 0) == shown);
        }
    }
}
