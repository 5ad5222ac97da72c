//! What operators have done with nodes and copies, in simulated clusters: whatever moves, nothing
//! that was acknowledged is lost, and chains take records all the while.

mod common;
mod world;

use std::{collections::BTreeSet, time::Duration};

use catena_format::{NodeId, Offset, PartitionIndex, TopicId};
use catena_node::{Limits, Quorum, Status};
use catena_wire::{
    AcceptLossRequest, Api, DescribeClusterRequest, DescribeClusterResponse, DrainNodeRequest,
    ErrorCode, Message, MovePartitionRequest, NodeDetail, RemoveNodeRequest, ReplicateTopicRequest,
    StatusResponse, TrimRequest,
};
use world::{World, id};

impl World {
    /// Asks a node for something that is answered with nothing but an error.
    fn operate<'r, R: Message<'r>>(&mut self, at: usize, api: Api, request: &R) -> ErrorCode {
        let (head, _) = self.ask(at, api, request, &[]);
        StatusResponse::decode(&head).unwrap().error
    }

    fn drain(&mut self, at: usize, node: usize, drain: bool) -> ErrorCode {
        self.operate(at, Api::DrainNode, &DrainNodeRequest { node: id(node), drain })
    }

    fn remove(&mut self, at: usize, node: usize) -> ErrorCode {
        self.operate(at, Api::RemoveNode, &RemoveNodeRequest { node: id(node) })
    }

    fn replicate(&mut self, at: usize, name: &str, replicas: u8, min_replicas: u8) -> ErrorCode {
        let request = ReplicateTopicRequest { name: name.into(), replicas, min_replicas };
        self.operate(at, Api::ReplicateTopic, &request)
    }

    fn describe(&mut self, at: usize) -> DescribeClusterResponse<'static> {
        let (head, _) = self.ask(at, Api::DescribeCluster, &DescribeClusterRequest {}, &[]);
        DescribeClusterResponse::decode_owned(&head).unwrap()
    }

    fn node(&mut self, at: usize, node: usize) -> NodeDetail<'static> {
        let described = self.describe(at);
        described.nodes.into_iter().find(|detail| detail.node == id(node)).unwrap()
    }

    /// All chains of a topic, by machines.
    fn chains(&mut self, at: usize, name: &str) -> Vec<Vec<usize>> {
        let (_, partitions) = self.partitions(at, name);
        let machine = |node: &NodeId| node.get() as usize - 1;
        partitions.iter().map(|p| p.chain.iter().map(machine).collect()).collect()
    }

    /// Appends one more batch to each partition of a topic, at whatever head there is.
    fn round(&mut self, at: usize, name: &str, topic: TopicId, sequence: i32) {
        for partition in 0..self.chains(at, name).len() {
            self.until("the head takes it", |w| {
                let head = w.chain(at, name, partition)[0];
                let receipt = w.produce(head, topic, partition as u32, sequence);
                let offset = Offset::new(u64::try_from(sequence).unwrap());
                receipt.error == ErrorCode::None && receipt.first_offset == offset
            });
        }
    }

    /// Every member of every chain shows so many batches, the same.
    fn all_show(&mut self, at: usize, name: &str, topic: TopicId, batches: u64) {
        for (partition, chain) in self.chains(at, name).into_iter().enumerate() {
            let shown = self.fetch(chain[0], topic, partition as u32);
            assert_eq!(shown.0, batches);
            for member in chain {
                self.until("each shows all", |w| w.fetch(member, topic, partition as u32) == shown);
            }
        }
    }
}

#[test]
fn a_drained_node_gives_its_partitions_away_while_they_take_records_and_then_leaves() {
    let mut world = World::new(4);
    assert_eq!(world.create(0, "events", 6, 3), ErrorCode::None);
    let (topic, _) = world.partitions(0, "events");
    world.round(0, "events", topic, 0);
    assert_eq!(world.remove(0, 3), ErrorCode::NodeNeeded, "it runs");
    assert_eq!(world.drain(0, 9, true), ErrorCode::NoSuchNode);
    assert_eq!(world.drain(1, 3, true), ErrorCode::None);
    let mut sequence = 1;
    world.until("it holds nothing", |w| {
        w.round(0, "events", topic, sequence);
        sequence += 1;
        w.node(2, 3).partitions == 0
    });
    let chains = world.chains(0, "events");
    assert!(chains.iter().all(|chain| chain.len() == 3 && !chain.contains(&3)), "{chains:?}");
    assert_eq!(world.create(0, "more", 8, 3), ErrorCode::None);
    assert!(world.chains(0, "more").iter().all(|chain| !chain.contains(&3)));
    assert_eq!(world.remove(0, 3), ErrorCode::None);
    world.until("its process ends", |w| w.machines[3].cores[0].status() == Status::Removed);
    world.kill(3);
    world.round(0, "events", topic, sequence);
    world.all_show(0, "events", topic, u64::try_from(sequence).unwrap() + 1);
    assert_eq!(world.describe(0).nodes.len(), 3);
}

#[test]
fn a_node_that_cannot_be_drained_says_so_and_one_that_may_stay_short_goes() {
    let mut world = World::new(2);
    assert_eq!(world.create(0, "short", 2, 2), ErrorCode::None);
    assert_eq!(world.create(0, "held", 1, 2), ErrorCode::None);
    assert_eq!(world.replicate(0, "held", 0, 2), ErrorCode::None);
    assert_eq!(world.drain(0, 1, true), ErrorCode::None);
    world.until("what can has gone", |w| w.node(0, 1).partitions == 1);
    let node = world.node(1, 1);
    assert_eq!((node.partitions, node.stuck, node.draining), (1, 1, true));
    assert_eq!(world.chain(0, "held", 0).len(), 2);
    assert!(world.chains(0, "short").iter().all(|chain| *chain == [0]));
    assert_eq!(world.remove(0, 1), ErrorCode::NodeNeeded);
    assert_eq!(world.drain(0, 1, false), ErrorCode::None);
    world.until("all is as it was", |w| w.chains(0, "short").iter().all(|c| c.len() == 2));
    let described = world.describe(0);
    assert_eq!((described.partitions, described.impaired), (3, 0), "{described:?}");
}

#[test]
fn a_dead_node_is_replaced_when_it_is_removed_or_has_been_gone_for_long() {
    let mut world = World::new(5);
    assert_eq!(world.create(0, "events", 4, 3), ErrorCode::None);
    let (topic, _) = world.partitions(0, "events");
    world.round(0, "events", topic, 0);
    // Removed by hand.
    let dies = world.chains(0, "events").concat().into_iter().find(|at| *at != 0).unwrap();
    world.kill(dies);
    world.until("it is down", |w| !w.node(0, dies).up);
    assert!(world.describe(0).impaired > 0);
    assert_eq!(world.remove(0, dies), ErrorCode::None);
    let whole = |w: &mut World| w.chains(0, "events").iter().all(|chain| chain.len() == 3);
    world.until("others have its copies", whole);
    world.round(0, "events", topic, 1);
    // Given up by time: not before.
    let second = world.chains(0, "events").concat().into_iter().find(|at| *at != 0).unwrap();
    world.machines[0].cores[0].limits_mut().replace_after = Duration::from_secs(10);
    world.kill(second);
    world.until("it is down", |w| !w.node(0, second).up);
    world.pass(Duration::from_secs(8));
    assert!(world.chains(0, "events").iter().any(|chain| chain.len() == 2));
    world.until("others have its copies", whole);
    world.round(0, "events", topic, 2);
    world.all_show(0, "events", topic, 3);
    assert_eq!(world.describe(0).impaired, 0);
    // It comes back, and holds nothing.
    world.until("nothing waits for it", |w| w.node(0, second).partitions == 0);
    world.start(second);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.node(0, second).partitions, 0);
}

#[test]
fn copies_are_added_and_taken_away_and_moved_while_records_come() {
    let mut world = World::new(4);
    assert_eq!(world.create(0, "events", 3, 2), ErrorCode::None);
    let (topic, _) = world.partitions(0, "events");
    world.round(0, "events", topic, 0);
    assert_eq!(world.replicate(0, "events", 5, 0), ErrorCode::InvalidReplicas);
    assert_eq!(world.replicate(0, "events", 3, 4), ErrorCode::InvalidReplicas);
    assert_eq!(world.replicate(0, "nothing", 3, 0), ErrorCode::UnknownTopic);
    let copies = |w: &mut World, n| w.chains(0, "events").iter().all(|chain| chain.len() == n);
    for (sequence, replicas) in [(1, 4), (2, 1), (3, 2)] {
        assert_eq!(world.replicate(1, "events", replicas, 0), ErrorCode::None);
        world.until("there are as many", |w| copies(w, usize::from(replicas)));
        world.round(0, "events", topic, sequence);
        world.all_show(0, "events", topic, u64::try_from(sequence).unwrap() + 1);
    }
    let chain = world.chain(0, "events", 1);
    let free = (0..4).find(|at| !chain.contains(at)).unwrap();
    let moves = |partition, from, to| MovePartitionRequest {
        name: "events".into(),
        partition: PartitionIndex::new(partition),
        from: id(from),
        to: id(to),
    };
    let there = world.operate(0, Api::MovePartition, &moves(1, chain[0], chain[1]));
    assert_eq!(there, ErrorCode::InvalidRequest);
    let unknown = world.operate(0, Api::MovePartition, &moves(7, chain[0], free));
    assert_eq!(unknown, ErrorCode::UnknownPartition);
    let nobody = world.operate(0, Api::MovePartition, &moves(1, chain[0], 8));
    assert_eq!(nobody, ErrorCode::NoSuchNode);
    let moved = world.operate(0, Api::MovePartition, &moves(1, chain[0], free));
    assert_eq!(moved, ErrorCode::None);
    world.until("it has moved", |w| {
        let now = w.chain(0, "events", 1);
        now.len() == 2 && now.contains(&free) && !now.contains(&chain[0])
    });
    world.round(0, "events", topic, 4);
    world.all_show(0, "events", topic, 5);
}

#[test]
fn heads_are_spread_again_after_all_nodes_have_restarted() {
    let mut world = World::new(3);
    assert_eq!(world.create(0, "events", 9, 3), ErrorCode::None);
    let (topic, _) = world.partitions(0, "events");
    let heads = |w: &mut World| {
        let chains = w.chains(0, "events");
        [0, 1, 2].map(|at| chains.iter().filter(|chain| chain[0] == at).count())
    };
    assert_eq!(heads(&mut world), [3, 3, 3]);
    for (sequence, node) in (0..).zip([0, 1, 2]) {
        world.round(0, "events", topic, sequence);
        world.kill(node);
        let left = (node + 1) % 3;
        world.until("it is out", |w| w.chains(left, "events").iter().all(|c| c.len() == 2));
        world.start(node);
        world.until("it is back", |w| w.chains(left, "events").iter().all(|c| c.len() == 3));
    }
    world.until("heads are even", |w| heads(w) == [3, 3, 3]);
    world.round(0, "events", topic, 3);
    world.all_show(0, "events", topic, 4);
    // Tails follow; then what is even stays.
    world.pass(Duration::from_secs(3));
    let before = world.chains(0, "events");
    world.pass(Duration::from_secs(3));
    assert_eq!((heads(&mut world), world.chains(0, "events")), ([3, 3, 3], before));
}

#[test]
fn any_node_tells_of_all_nodes_and_of_what_is_missing() {
    let mut world = World::new(3);
    assert_eq!(world.create(0, "events", 3, 3), ErrorCode::None);
    let voters: BTreeSet<_> = [0, 1, 2].map(id).into();
    for machine in &mut world.machines {
        let quorum = Quorum { leader: Some(id(0)), voters: voters.clone() };
        machine.cores[0].on_quorum(quorum);
    }
    for at in 0..3 {
        let described = world.describe(at);
        assert_eq!((described.partitions, described.impaired), (3, 0));
        assert_eq!(described.leads, id(0));
        let facts = |node: &NodeDetail<'_>| (node.up, node.votes, node.partitions, node.heads);
        let all: Vec<_> = described.nodes.iter().map(facts).collect();
        assert_eq!(all, [(true, true, 3, 1); 3]);
    }
    world.kill(2);
    world.until("two know", |w| [0, 1].iter().all(|at| !w.node(*at, 2).up));
    let described = world.describe(1);
    assert_eq!(described.impaired, 3);
    let health = &described.listed[0];
    assert_eq!((health.replicas, health.min_replicas, health.chain.len()), (3, 2, 2));
}

#[test]
fn a_node_alone_tells_of_itself_and_has_no_cluster_to_change() {
    let mut alone = common::World::new(Limits::default(), 64 << 20);
    let answer = alone.ask(Api::DescribeCluster, &DescribeClusterRequest {}).unwrap();
    let described = DescribeClusterResponse::decode(&answer.head).unwrap();
    assert_eq!((described.error, described.nodes.len()), (ErrorCode::None, 1));
    assert!(described.nodes[0].votes && described.nodes[0].up);
    let drain = DrainNodeRequest { node: NodeId::new(1), drain: true };
    let refused = alone.ask(Api::DrainNode, &drain).unwrap();
    assert_eq!(refused.error(), ErrorCode::InvalidRequest);
}

#[test]
fn a_partition_that_has_lost_all_members_goes_on_with_another_copy_when_that_is_accepted() {
    let mut world = World::new(3);
    assert_eq!(world.create(0, "events", 1, 2), ErrorCode::None);
    let (topic, _) = world.partitions(0, "events");
    let [first, second] = world.chain(0, "events", 0)[..] else { panic!("two copies") };
    let other = (0..3).find(|at| ![first, second].contains(at)).unwrap();
    world.round(other, "events", topic, 0);
    world.kill(second);
    world.until("it is out", |w| w.chain(other, "events", 0) == [first]);
    // Only the first copy has this one.
    world.round(other, "events", topic, 1);
    let accept = |w: &mut World, node| {
        let lost = vec![id(first)];
        w.operate(other, Api::AcceptLoss, &AcceptLossRequest { node: id(node), lost })
    };
    world.start(second);
    assert_eq!(accept(&mut world, second), ErrorCode::InvalidRequest, "nothing is lost");
    world.kill(second);
    world.kill(first);
    world.until("both are down", |w| [first, second].iter().all(|at| !w.node(other, *at).up));
    assert_eq!(accept(&mut world, second), ErrorCode::InvalidRequest, "it does not run");
    world.start(second);
    world.until("it is up", |w| w.node(other, second).up);
    assert_eq!(accept(&mut world, other), ErrorCode::InvalidRequest, "it has no copy");
    assert_eq!(world.chain(other, "events", 0), [first]);
    let wrong = AcceptLossRequest { node: id(second), lost: vec![id(second)] };
    assert_eq!(world.operate(other, Api::AcceptLoss, &wrong), ErrorCode::InvalidRequest, "it runs");
    let none = AcceptLossRequest { node: id(second), lost: Vec::new() };
    assert_eq!(world.operate(other, Api::AcceptLoss, &none), ErrorCode::InvalidRequest, "who?");
    assert_eq!(accept(&mut world, second), ErrorCode::None);
    world.until("it goes on", |w| w.chain(other, "events", 0) == [second]);
    world.until("it serves", |w| w.fetch(second, topic, 0).0 == 1);
    world.round(other, "events", topic, 1);
    world.round(other, "events", topic, 2);
    // Who comes back is cut to that.
    world.start(first);
    world.until("it is in again", |w| w.chain(other, "events", 0) == [second, first]);
    world.all_show(other, "events", topic, 3);
}

/// A partition of two copies, whose first alone has records that are given up; who of the three
/// nodes has none, and has the first and the second.
fn given_up(world: &mut World, before: impl FnOnce(&mut World, usize, TopicId)) -> [usize; 3] {
    assert_eq!(world.create(0, "events", 1, 2), ErrorCode::None);
    let (topic, _) = world.partitions(0, "events");
    let [first, second] = world.chain(0, "events", 0)[..] else { panic!("two copies") };
    let other = (0..3).find(|at| ![first, second].contains(at)).unwrap();
    world.lead(other);
    world.round(other, "events", topic, 0);
    world.kill(second);
    world.until("it is out", |w| w.chain(other, "events", 0) == [first]);
    (1..4).for_each(|sequence| world.round(other, "events", topic, sequence));
    before(world, first, topic);
    world.machines[first].deaf = true;
    world.cut(first, other);
    world.cut(first, second);
    world.until("it is believed gone", |w| !w.node(other, first).up);
    world.start(second);
    world.until("it is up", |w| w.node(other, second).up);
    let accept = AcceptLossRequest { node: id(second), lost: vec![id(first)] };
    world.until("it goes on", |w| {
        w.operate(other, Api::AcceptLoss, &accept) == ErrorCode::None
            || w.chain(other, "events", 0)[0] == second
    });
    [other, first, second]
}

#[test]
fn who_was_only_out_of_reach_is_cut_to_what_is_left_in_the_same_life() {
    let mut world = World::new(3);
    let [other, first, second] = given_up(&mut world, |_, _, _| {});
    let (topic, _) = world.partitions(other, "events");
    world.round(other, "events", topic, 1);
    world.unreachable.clear();
    world.machines[first].deaf = false;
    world.until("it is in again", |w| w.chain(other, "events", 0) == [second, first]);
    world.all_show(other, "events", topic, 2);
}

#[test]
fn who_has_trimmed_what_is_left_begins_anew() {
    let mut world = World::new(3);
    let [other, first, second] = given_up(&mut world, |world, first, topic| {
        let (partition, to) = (PartitionIndex::new(0), Offset::new(3));
        let trim = TrimRequest { topic, partition, to };
        world.ask(first, Api::Trim, &trim, &[]);
    });
    let (topic, _) = world.partitions(other, "events");
    world.round(other, "events", topic, 1);
    world.unreachable.clear();
    world.machines[first].deaf = false;
    world.until("it is in again", |w| w.chain(other, "events", 0) == [second, first]);
    world.all_show(other, "events", topic, 2);
}
