//! Clusters in which nodes come, go, and are drained: what is planned, and where it ends.

use std::collections::{BTreeMap, BTreeSet};

use catena_format::{NodeId, TopicId};

use super::*;
use crate::control::{Applied, ChainChange, Entry, NodeProfile, Partition, Topic};

const TOKEN: u128 = 1;

/// Numbers by chance, the same for a seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        usize::try_from((self.0 >> 33) % bound as u64).unwrap()
    }

    fn node(&mut self, world: &World) -> u64 {
        let nodes: Vec<_> = world.catalog.nodes().map(|(id, _)| id.get()).collect();
        nodes[self.below(nodes.len())]
    }
}

/// A cluster, and who is gone in it.
struct World {
    catalog: Catalog,
    gone: BTreeSet<NodeId>,
    lives: u64,
}

fn profile(rack: &str, witness: bool) -> NodeProfile {
    NodeProfile { rack: rack.to_owned(), cores: 1, witness, ..NodeProfile::default() }
}

impl World {
    fn new(racks: &[&str]) -> Self {
        let mut catalog = Catalog::default();
        catalog.found(NodeId::new(1), 1 << 16, profile(racks[0], false));
        catalog.apply(&Entry::AllowJoin { token: TOKEN, time: 0, until: 1 }).unwrap();
        let mut world = Self { catalog, gone: BTreeSet::new(), lives: 1 };
        racks[1..].iter().for_each(|rack| world.admit(rack, false));
        world
    }

    fn admit(&mut self, rack: &str, witness: bool) {
        self.lives += 1;
        let (life, profile) = (self.lives << 16, Box::new(profile(rack, witness)));
        let entry = Entry::AdmitNode { token: TOKEN, time: 0, life, profile };
        let Ok(Applied::Node(node)) = self.catalog.apply(&entry) else { panic!("not admitted") };
        self.start(node.get());
    }

    fn start(&mut self, node: u64) {
        self.lives += 1;
        let known = self.catalog.node(NodeId::new(node)).unwrap();
        let (profile, known) = (known.profile.clone(), vec![known.life]);
        let entry = Entry::StartNode { node, life: self.lives << 16, known, profile };
        self.catalog.apply(&entry).unwrap();
        self.gone.remove(&NodeId::new(node));
    }

    fn stop(&mut self, node: u64) {
        let incarnation = self.catalog.incarnation(NodeId::new(node)).get();
        // It may be down already.
        let _ = self.catalog.apply(&Entry::NodeDown { node, incarnation });
    }

    fn drain(&mut self, node: u64, drain: bool) {
        self.catalog.apply(&Entry::DrainNode { node, drain }).unwrap();
    }

    fn topic(&mut self, id: u128, partitions: u32, replicas: u8, min_replicas: u8) {
        let Some(nodes) = place(&self.catalog, partitions, replicas) else { return };
        let name = format!("t{id}");
        let config = Vec::new();
        let entry =
            Entry::PlaceTopic { id, name, config, nodes, partitions, replicas, min_replicas };
        self.catalog.apply(&entry).unwrap();
        for node in self.nodes() {
            self.catalog.apply(&Entry::TopicCreated { id, node, partitions }).unwrap();
        }
    }

    fn nodes(&self) -> Vec<u64> {
        self.catalog.nodes().map(|(id, _)| id.get()).collect()
    }

    fn each(&self) -> impl Iterator<Item = (&Topic, &Partition)> {
        self.catalog.topics().flat_map(|topic| topic.partitions.iter().map(move |p| (topic, p)))
    }

    fn partition(&self, topic: u128, partition: u32) -> &Partition {
        &self.catalog.topic(TopicId::new(topic)).unwrap().partitions[partition as usize]
    }

    fn chain(&self, topic: u128, partition: u32) -> Vec<u64> {
        let chain = &self.partition(topic, partition).configuration.chain;
        chain.iter().map(|member| member.node.get()).collect()
    }

    /// Does what is due, each of it checked; how much there was.
    fn round(&mut self) -> usize {
        let due = due(&self.catalog, &self.gone, &Resting::new());
        for Due { entry, head, .. } in &due {
            self.check(entry, *head);
            self.catalog.apply(entry).unwrap_or_else(|why| panic!("{entry:?}: {why}"));
        }
        let mut joins: BTreeMap<NodeId, usize> = BTreeMap::new();
        for joiner in self.each().filter_map(|(_, p)| p.configuration.joining) {
            *joins.entry(joiner.node).or_default() += 1;
        }
        assert!(joins.values().all(|joins| *joins <= 2), "{joins:?}");
        due.len()
    }

    /// What no change may bring, and who has the say.
    fn check(&self, entry: &Entry, head: Option<NodeId>) {
        let Entry::ChangeChain { topic, partition, change, .. } = entry else {
            panic!("{entry:?}")
        };
        let replicas = self.catalog.topic(TopicId::new(*topic)).unwrap().replicas;
        let partition = self.partition(*topic, *partition);
        let chain = &partition.configuration;
        let runs = |node: NodeId| self.catalog.node(node).is_some_and(|node| node.up);
        match change {
            ChainChange::Remove(node) => {
                let is_in = chain.chain.iter().any(|m| m.node.get() == *node);
                assert_eq!(head, is_in.then(|| chain.chain[0].node));
                let left = chain.chain.iter().filter(|m| m.node.get() != *node && runs(m.node));
                let (left, before) = (left.count(), chain.chain.iter().filter(|m| runs(m.node)));
                let able = self.catalog.nodes().filter(|(id, known)| {
                    let sick = partition.sick.contains(&self.catalog.member(*id));
                    known.holds() && !self.gone.contains(id) && !sick
                });
                let wished = usize::from(replicas).min(able.count());
                let least = wished.max(usize::from(chain.min_replicas)).min(before.count());
                assert!(left >= least, "{node} leaves {chain:?}, and {least} are to stay");
            }
            ChainChange::Join(node) if !partition.homes.contains(&NodeId::new(*node)) => {
                let stays = |id: &NodeId| {
                    let holds = self.catalog.node(*id).is_some_and(|node| node.holds());
                    let sick = partition.sick.contains(&self.catalog.member(*id));
                    holds && !sick && !self.gone.contains(id) && !partition.leaving.contains(id)
                };
                let beside = |id: NodeId| {
                    let keepers = partition.homes.iter().copied().filter(stays);
                    super::beside(&self.catalog, keepers, id)
                };
                let others = self.catalog.nodes().map(|(id, _)| id);
                let others = others.filter(|id| runs(*id) && stays(id));
                let others = others.filter(|id| !partition.homes.contains(id));
                let least = others.map(beside).min();
                assert_eq!(Some(beside(NodeId::new(*node))), least, "into the rack of another");
            }
            ChainChange::Reorder(nodes) => {
                assert_eq!(head, Some(chain.chain[0].node));
                assert!(nodes.iter().all(|node| runs(NodeId::new(*node))), "{nodes:?}");
            }
            _ => {}
        }
    }

    /// Those that copy hold all.
    fn ready(&mut self, chance: &mut Chance) {
        let joining: Vec<_> = self
            .each()
            .filter_map(|(topic, p)| {
                Some((topic.id, p.index, p.configuration.clone(), p.configuration.joining?))
            })
            .collect();
        for (topic, partition, chain, joiner) in joining {
            let tail = chain.chain[chain.chain.len() - 1];
            if !self.catalog.runs(joiner) || !self.catalog.runs(tail) || chance.below(3) == 0 {
                continue;
            }
            let change = ChainChange::Ready(joiner.node.get(), joiner.incarnation.get());
            let (topic, partition, epoch) = (topic.get(), partition.get(), chain.epoch.get());
            self.catalog.apply(&Entry::ChangeChain { topic, partition, epoch, change }).unwrap();
        }
    }

    /// Until nothing is due any more.
    fn settle(&mut self) {
        let mut chance = Chance(7);
        for _ in 0..2000 {
            let copies = self.each().any(|(_, p)| p.configuration.joining.is_some());
            if self.round() == 0 && !copies {
                return;
            }
            self.ready(&mut chance);
        }
        panic!("it never ends: {:?}", due(&self.catalog, &self.gone, &Resting::new()));
    }

    /// Nothing is missing, nothing is too much, and heads are even.
    fn is_well(&self) {
        let stuck = stuck(&self.catalog, &self.gone);
        let mut heads: BTreeMap<NodeId, usize> = BTreeMap::new();
        for (_, partition) in self.each() {
            *heads.entry(partition.configuration.chain[0].node).or_default() += 1;
        }
        for (topic, partition) in self.each() {
            let chain: BTreeSet<_> =
                partition.configuration.chain.iter().map(|member| member.node).collect();
            let homes: BTreeSet<_> = partition.homes.iter().copied().collect();
            assert_eq!(chain, homes, "{partition:?}");
            let able = self.catalog.nodes().filter(|(_, node)| node.holds()).count();
            let wished = usize::from(topic.replicas).min(able);
            let drained = |id: &NodeId| self.catalog.node(*id).unwrap().draining;
            if homes.iter().any(drained) {
                assert!(able < usize::from(partition.configuration.min_replicas), "{partition:?}");
                assert!(homes.iter().filter(|id| drained(id)).all(|id| stuck[id] > 0));
                continue;
            }
            assert_eq!(homes.len(), wished, "{partition:?}");
            let head = heads[&partition.configuration.chain[0].node];
            for other in &homes {
                assert!(head <= heads.get(other).copied().unwrap_or(0) + 1, "{heads:?}");
            }
        }
    }
}

fn chance_step(world: &mut World, chance: &mut Chance) {
    let node = chance.node(world);
    match chance.below(12) {
        0 | 1 => world.stop(node),
        2..=4 => world.start(node),
        5 => world.drain(node, true),
        6 => world.drain(node, false),
        7 => {
            let down = world.catalog.nodes().filter(|(_, node)| !node.up).map(|(id, _)| id);
            world.gone.extend(down);
        }
        8 if world.nodes().len() > 4 => {
            // It may be needed.
            let _ = world.catalog.apply(&Entry::RemoveNode { node });
            world.gone.retain(|id| world.catalog.node(*id).is_some());
        }
        9 if world.nodes().len() < 9 => world.admit(["", "a", "b", "c"][chance.below(4)], false),
        10 if chance.below(2) == 0 => {
            // A copy fails its node.
            let (topic, partition) = (1 + chance.below(2) as u128, 0);
            let chain = world.partition(topic, 0).configuration.clone();
            let member = chain.chain[chance.below(chain.chain.len())];
            let change = ChainChange::Leave(member.node.get(), member.incarnation.get());
            let epoch = chain.epoch.get();
            let _ = world.catalog.apply(&Entry::ChangeChain { topic, partition, epoch, change });
        }
        10 => {
            let (id, replicas) = (1 + chance.below(2) as u128, 1 + chance.below(4) as u8);
            let min_replicas = 1 + chance.below(usize::from(replicas)) as u8;
            let _ = world.catalog.apply(&Entry::ReplicateTopic { id, replicas, min_replicas });
        }
        _ => {
            let topic = 1 + chance.below(2) as u128;
            let partition = world.partition(topic, 0).clone();
            let (from, to) = (partition.homes[0].get(), chance.node(world));
            let epoch = partition.configuration.epoch.get();
            let change = ChainChange::Move(from, to);
            let _ = world.catalog.apply(&Entry::ChangeChain { topic, partition: 0, epoch, change });
        }
    }
}

#[test]
fn whatever_comes_and_goes_it_ends_with_all_copies_and_none_too_few_between() {
    for seed in 0..400 {
        let mut chance = Chance(seed);
        let racks = [&["", "", "", ""][..], &["a", "a", "b", "b", "c"], &["a", "b", "c"]];
        let mut world = World::new(racks[chance.below(3)]);
        world.admit("", true);
        world.topic(1, 1 + chance.below(6) as u32, 3, 2);
        world.topic(2, 1 + chance.below(6) as u32, 1 + chance.below(3) as u8, 1);
        for _ in 0..150 {
            match chance.below(4) {
                0 => chance_step(&mut world, &mut chance),
                1 | 2 => drop(world.round()),
                _ => world.ready(&mut chance),
            }
            let mut copy = Catalog::default();
            assert!(catena_log::Fold::restore(
                &mut copy,
                &catena_log::Fold::snapshot(&world.catalog)
            ));
        }
        let nodes = world.nodes();
        nodes.into_iter().for_each(|node| world.start(node));
        world.settle();
        world.is_well();
        assert_eq!(world.round(), 0, "what has ended has ended");
    }
}

#[test]
fn a_drained_node_gives_all_away_and_only_then_goes() {
    let mut world = World::new(&["", "", "", ""]);
    world.topic(1, 8, 3, 2);
    world.drain(1, true);
    let remove = Entry::RemoveNode { node: 1 };
    assert!(world.catalog.check(&remove).is_err());
    world.settle();
    world.is_well();
    assert!(world.each().all(|(_, p)| !p.homes.contains(&NodeId::new(1)) && p.homes.len() == 3));
    world.catalog.apply(&remove).unwrap();
    // It is not the one that comes back under this number.
    assert_eq!(world.nodes(), [2, 3, 4]);
}

#[test]
fn where_there_is_nowhere_to_go_a_node_leaves_chains_that_do_without_it() {
    let mut world = World::new(&["", "", ""]);
    world.topic(1, 2, 3, 2);
    world.drain(3, true);
    world.settle();
    assert!(world.each().all(|(_, p)| p.homes.len() == 2));
    assert!(stuck(&world.catalog, &world.gone).is_empty());
    // Two are needed: a second one cannot.
    world.drain(2, true);
    world.settle();
    assert!(world.each().all(|(_, p)| p.configuration.chain.len() == 2));
    assert_eq!(stuck(&world.catalog, &world.gone), BTreeMap::from([(NodeId::new(2), 2)]));
    // It is taken back after a restart, for it is needed still.
    world.stop(2);
    assert_eq!(world.chain(1, 0), [1]);
    world.start(2);
    world.settle();
    assert_eq!(world.chain(1, 0).len(), 2);
    world.drain(3, false);
    world.settle();
    world.is_well();
}

#[test]
fn who_is_down_is_waited_for_until_it_is_gone() {
    let mut world = World::new(&["", "", "", ""]);
    world.topic(1, 1, 3, 2);
    let dies = world.chain(1, 0)[1];
    world.stop(dies);
    world.settle();
    assert_eq!(world.chain(1, 0).len(), 2);
    world.gone.insert(NodeId::new(dies));
    world.settle();
    assert_eq!(world.chain(1, 0).len(), 3);
    assert!(!world.partition(1, 0).homes.contains(&NodeId::new(dies)));
    // Where there is no fourth it stays one that may come back.
    let second = world.chain(1, 0)[1];
    world.stop(second);
    world.gone.insert(NodeId::new(second));
    world.settle();
    assert_eq!((world.chain(1, 0).len(), world.partition(1, 0).homes.len()), (2, 3));
    world.start(second);
    world.settle();
    assert!(world.chain(1, 0).contains(&second));
}

#[test]
fn copies_are_added_and_taken_away_and_moved() {
    let mut world = World::new(&["a", "a", "b", "c"]);
    world.topic(1, 4, 2, 1);
    let replicate =
        |replicas, min_replicas| Entry::ReplicateTopic { id: 1, replicas, min_replicas };
    world.catalog.apply(&replicate(3, 2)).unwrap();
    world.settle();
    world.is_well();
    for (_, partition) in world.each() {
        let both = [1, 2].iter().all(|node| partition.homes.contains(&NodeId::new(*node)));
        assert!(!both, "two in a rack: {:?}", partition.homes);
    }
    world.catalog.apply(&replicate(1, 1)).unwrap();
    world.settle();
    world.is_well();
    let from = world.chain(1, 0)[0];
    let to = from % 4 + 1;
    let moves = |world: &World, from, to| {
        let epoch = world.partition(1, 0).configuration.epoch.get();
        let change = ChainChange::Move(from, to);
        Entry::ChangeChain { topic: 1, partition: 0, epoch, change }
    };
    let there = moves(&world, from, to);
    world.catalog.apply(&there).unwrap();
    // The first copy is the only one until the second is complete.
    world.round();
    assert_eq!(world.chain(1, 0), [from]);
    world.settle();
    assert_eq!(world.chain(1, 0), [to]);
    assert!(world.catalog.check(&moves(&world, from, to)).is_err(), "it is not there");
    assert!(world.catalog.check(&moves(&world, to, to)).is_err());
    assert!(world.catalog.check(&moves(&world, to, 99)).is_err());
}

#[test]
fn heads_and_tails_are_even_again_after_all_have_restarted() {
    let mut world = World::new(&["", "", ""]);
    world.topic(1, 12, 3, 2);
    for node in [1, 2, 3] {
        world.stop(node);
        world.start(node);
        // Without what evens them out.
        while world.each().any(|(_, p)| p.configuration.chain.len() < 3) {
            world.round();
            world.ready(&mut Chance(1));
        }
    }
    let count = |world: &World, at: fn(&[u64]) -> u64| {
        let chains = (0..12).map(|partition| world.chain(1, partition));
        let ends: Vec<u64> = chains.map(|chain| at(&chain)).collect();
        [1, 2, 3].map(|node| ends.iter().filter(|end| **end == node).count())
    };
    assert_ne!(count(&world, |chain| chain[0]), [4, 4, 4]);
    assert!(
        (1..=8).contains(&due(&world.catalog, &world.gone, &Resting::new()).len()),
        "some at a time"
    );
    world.settle();
    assert_eq!(count(&world, |chain| chain[0]), [4, 4, 4]);
    let tails = count(&world, |chain| chain[chain.len() - 1]);
    assert!(tails.iter().max().unwrap() - tails.iter().min().unwrap() <= 2, "{tails:?}");
}

#[test]
fn a_copy_that_fails_its_node_is_made_on_another_one_if_there_is_one() {
    let fails = |world: &mut World, node: u64| {
        let epoch = world.partition(1, 0).configuration.epoch.get();
        let incarnation = world.catalog.incarnation(NodeId::new(node)).get();
        let change = ChainChange::Leave(node, incarnation);
        let entry = Entry::ChangeChain { topic: 1, partition: 0, epoch, change };
        world.catalog.apply(&entry).unwrap();
    };
    let mut world = World::new(&["", "", "", ""]);
    world.topic(1, 1, 3, 2);
    let first = world.chain(1, 0)[0];
    fails(&mut world, first);
    world.settle();
    let all: BTreeSet<_> = world.chain(1, 0).into_iter().collect();
    assert_eq!(all, (1..=4).filter(|node| *node != first).collect());
    assert_eq!(world.partition(1, 0).homes.len(), 3);
    // Nobody else has room for the next one: it waits for its node to start again.
    let second = world.chain(1, 0)[0];
    world.drain(first, true);
    fails(&mut world, second);
    world.settle();
    assert_eq!((world.chain(1, 0).len(), world.partition(1, 0).homes.len()), (2, 3));
    world.start(second);
    world.settle();
    assert_eq!(world.chain(1, 0).len(), 3);
    // Of two that are needed, one fails, and the other is drained: it cannot go.
    let [third, drained] = [1, 2].map(|at| world.chain(1, 0)[at]);
    fails(&mut world, third);
    world.drain(drained, true);
    let last = world.chain(1, 0)[0];
    world.drain(last, true);
    world.settle();
    assert_eq!(world.chain(1, 0).len(), 2);
    assert_eq!(stuck(&world.catalog, &world.gone)[&NodeId::new(drained)], 1);
}

#[test]
fn nobody_goes_because_others_are_down_for_a_while() {
    let mut world = World::new(&["", "", "", ""]);
    world.topic(1, 1, 3, 2);
    let chain = world.chain(1, 0);
    let other = (1..=4).find(|node| !chain.contains(node)).unwrap();
    world.stop(other);
    world.drain(chain[1], true);
    world.settle();
    assert_eq!(world.chain(1, 0), chain, "the fourth may come back");
    world.gone.insert(NodeId::new(other));
    world.settle();
    assert_eq!(world.chain(1, 0).len(), 2);
    // A copy that is to move stays where it is until the other one is complete.
    let mut world = World::new(&["", "", ""]);
    world.topic(1, 1, 2, 1);
    let chain = world.chain(1, 0);
    let other = (1..=3).find(|node| !chain.contains(node)).unwrap();
    let epoch = world.partition(1, 0).configuration.epoch.get();
    let change = ChainChange::Move(chain[0], other);
    world.catalog.apply(&Entry::ChangeChain { topic: 1, partition: 0, epoch, change }).unwrap();
    world.stop(other);
    for is_gone in [false, true] {
        world.gone.extend(is_gone.then_some(NodeId::new(other)));
        world.settle();
        let left: BTreeSet<_> = world.chain(1, 0).into_iter().collect();
        assert_eq!(left, chain.iter().copied().collect(), "gone: {is_gone}");
    }
    world.start(other);
    world.settle();
    assert!(!world.chain(1, 0).contains(&chain[0]) && world.chain(1, 0).contains(&other));
}
