//! Chains of nodes of a cluster: what they promise while nodes fail and come back.

mod common;
mod world;

use std::time::Duration;

use catena_format::{Offset, PartitionIndex, TopicId};
use catena_log::Fold;
use catena_node::{Directory, Status};
use catena_replication::control::{Catalog, Entry, decode, encode};
use catena_wire::{
    Api, DescribeTopicRequest, DescribeTopicResponse, ErrorCode, HeadAddress, ListOffsetsRequest,
    ListOffsetsResponse, Message, OffsetQuery,
};
use world::{World, id, profile};

#[test]
fn a_batch_is_acknowledged_when_three_nodes_have_it_and_each_shows_it() {
    let mut world = World::new(3);
    assert!(world.machines.iter().all(|m| m.cores.iter().all(|c| c.status() == Status::Serving)));
    assert_eq!(world.create(1, "events", 6, 3), ErrorCode::None);
    let (topic, partitions) = world.partitions(2, "events");
    for (at, partition) in partitions.iter().enumerate() {
        let head = partition.chain[0].get() as usize - 1;
        assert_eq!((partition.chain.len(), partition.error), (3, ErrorCode::None));
        let receipt = world.produce(head, topic, at as u32, 0);
        assert_eq!((receipt.error, receipt.copies), (ErrorCode::None, 3), "{receipt:?}");
        let elsewhere = world.produce((head + 1) % 3, topic, at as u32, 1);
        assert_eq!(elsewhere.error, ErrorCode::NotHead);
        let shown = world.fetch(head, topic, at as u32);
        assert_eq!(shown.0, 1);
        for other in 0..3 {
            world.until("each shows it", |w| w.fetch(other, topic, at as u32) == shown);
        }
    }
}

#[test]
fn a_chain_goes_on_without_a_dead_node_and_takes_it_back() {
    for dies in 0..3 {
        let mut world = World::new(3);
        assert_eq!(world.create(0, "events", 1, 3), ErrorCode::None);
        let (topic, _) = world.partitions(0, "events");
        let chain = world.chain(0, "events", 0);
        for sequence in 0..5 {
            assert_eq!(world.produce(chain[0], topic, 0, sequence).error, ErrorCode::None);
        }
        let gone = chain[dies];
        world.kill(gone);
        let left = *chain.iter().find(|at| **at != gone).unwrap();
        world.until("it is out", |w| w.chain(left, "events", 0).len() == 2);
        let head = world.chain(left, "events", 0)[0];
        // What was sent before the death is known, and what comes now is new.
        world.until("the head takes something", |w| {
            let again = w.produce(head, topic, 0, 4);
            again.error == ErrorCode::None && again.first_offset == Offset::new(4)
        });
        assert_eq!(world.produce(head, topic, 0, 5).copies, 2);
        world.start(gone);
        world.until("it is back", |w| w.chain(left, "events", 0).len() == 3);
        assert_eq!(world.chain(left, "events", 0)[2], gone);
        world.until("three have it", |w| {
            let again = w.produce(head, topic, 0, 6);
            again.error == ErrorCode::None && again.copies == 3
        });
        let shown = world.fetch(head, topic, 0);
        assert_eq!(shown.0, 7);
        for other in 0..3 {
            world.until("each shows all", |w| w.fetch(other, topic, 0) == shown);
        }
    }
}

#[test]
fn two_of_three_are_enough_and_one_refuses() {
    let mut world = World::new(3);
    assert_eq!(world.create(0, "events", 1, 4), ErrorCode::NotEnoughReplicas);
    assert_eq!(world.create(0, "events", 1, 0), ErrorCode::None);
    let (topic, _) = world.partitions(0, "events");
    let chain = world.chain(0, "events", 0);
    assert_eq!(world.produce(chain[0], topic, 0, 0).copies, 3);
    for (dead, left) in [(2, 2), (1, 1)] {
        world.kill(chain[dead]);
        world.until("it is out", |w| w.chain(chain[0], "events", 0).len() == left);
    }
    let refused = world.produce(chain[0], topic, 0, 1);
    assert_eq!(refused.error, ErrorCode::NotEnoughReplicas, "{}", refused.message);
    assert_eq!(world.fetch(chain[0], topic, 0).0, 1);
    world.start(chain[1]);
    world.until("two are there", |w| w.chain(chain[0], "events", 0).len() == 2);
    world.until("it takes", |w| w.produce(chain[0], topic, 0, 1).error == ErrorCode::None);
}

/// What a node says of where a partition ends, if it says that.
fn end(world: &mut World, at: usize, topic: TopicId) -> Option<Offset> {
    let (partition, query) = (PartitionIndex::new(0), OffsetQuery::Latest);
    let request = ListOffsetsRequest { topic, partition, query };
    let (head, _) = world.ask(at, Api::ListOffsets, &request, &[]);
    let response = ListOffsetsResponse::decode(&head).unwrap();
    let elsewhere = [ErrorCode::Starting, ErrorCode::NotHead];
    assert!(response.error == ErrorCode::None || elsewhere.contains(&response.error));
    (response.error == ErrorCode::None).then_some(response.offset)
}

#[test]
fn an_end_that_was_told_does_not_go_back_when_all_have_started_anew() {
    let mut world = World::new(3);
    assert_eq!(world.create(0, "events", 1, 3), ErrorCode::None);
    let (topic, _) = world.partitions(0, "events");
    let head = world.chain(0, "events", 0)[0];
    for sequence in 0..3 {
        assert_eq!(world.produce(head, topic, 0, sequence).error, ErrorCode::None);
    }
    assert_eq!(end(&mut world, head, topic), Some(Offset::new(3)));
    (0..3).for_each(|at| world.kill(at));
    let mut told = 0;
    for (started, next) in [1, 2, 0].into_iter().enumerate() {
        world.start(next);
        for _ in 0..20 {
            for at in [1, 2, 0].into_iter().take(started + 1) {
                let end = end(&mut world, at, topic);
                assert!(end.is_none_or(|end| end == Offset::new(3)), "{end:?} at {at}");
                told += usize::from(end.is_some());
            }
            world.pass(Duration::from_millis(5));
        }
    }
    world.until("the end is told", |w| end(w, 0, topic).is_some());
    assert!(told > 0, "it is told before all is over");
}

#[test]
fn an_end_that_is_confirmed_holds_what_any_head_has_acknowledged() {
    let mut world = World::new(3);
    assert_eq!(world.create(0, "events", 1, 3), ErrorCode::None);
    let (topic, _) = world.partitions(0, "events");
    let chain = world.chain(0, "events", 0);
    let (head, next) = (chain[0], chain[1]);
    assert_eq!(world.produce(head, topic, 0, 0).error, ErrorCode::None);
    let partition = PartitionIndex::new(0);
    let ask = |query| ListOffsetsRequest { topic, partition, query };
    let answer = |world: &mut World, at: usize, asked: u32| {
        let (head, _) = world.machines[at].answers.remove(&asked)?;
        Some(ListOffsetsResponse::decode(&head).unwrap().into_owned())
    };
    let asked = world.send(head, Api::ListOffsets, &ask(OffsetQuery::Confirmed), &[]);
    assert_eq!(answer(&mut world, head, asked).unwrap().offset, Offset::new(1));
    // The others go on without it, and it hears nothing of that.
    world.machines[head].deaf = true;
    world.lead(next);
    [next, chain[2]].into_iter().for_each(|other| world.cut(head, other));
    world.until("another is the head", |w| w.chain(next, "events", 0)[0] == next);
    world.until("it takes something", |w| w.produce(next, topic, 0, 1).error == ErrorCode::None);
    assert_eq!(end(&mut world, head, topic), Some(Offset::new(1)), "it knows no better");
    let asked = world.send(head, Api::ListOffsets, &ask(OffsetQuery::Confirmed), &[]);
    world.pass(Duration::from_secs(2));
    assert_eq!(answer(&mut world, head, asked), None, "who is to confirm that?");
    world.machines[head].deaf = false;
    world.unreachable.clear();
    world.until("it hears", |w| w.machines[head].answers.contains_key(&asked));
    let moved = answer(&mut world, head, asked).unwrap();
    assert_eq!(moved.error, ErrorCode::HeadMoved);
    assert_eq!(moved.head.map(|head| head.node), Some(id(next)));
    let asked = world.send(next, Api::ListOffsets, &ask(OffsetQuery::Confirmed), &[]);
    world.until("it is known", |w| w.machines[next].answers.contains_key(&asked));
    assert_eq!(answer(&mut world, next, asked).unwrap().offset, Offset::new(2));
}

/// How often a node has been given up, as the list has it.
fn given_up(world: &World) -> usize {
    let entries = world.list.iter().filter_map(|(bytes, _)| decode(bytes));
    entries.filter(|entry| matches!(entry, Entry::NodeDown { .. })).count()
}

#[test]
fn a_node_that_comes_back_is_not_given_up_again_before_it_can_be_reached() {
    let mut world = World::new(3);
    assert_eq!(world.create(0, "events", 3, 3), ErrorCode::None);
    // The last leads, so that it is the other that has to dial.
    world.kill(0);
    world.kill(1);
    world.until("both are out", |w| given_up(w) == 2);
    for back in [0, 1] {
        world.pass(Duration::from_secs(3));
        world.start(back);
    }
    world.until("all are back", |w| {
        (0..3).all(|partition| w.chain(2, "events", partition).len() == 3)
    });
    world.pass(Duration::from_secs(5));
    assert_eq!(given_up(&world), 2);
}

#[test]
fn a_node_that_was_given_up_alive_goes_on_as_another() {
    let mut world = World::new(3);
    assert_eq!(world.create(0, "events", 6, 3), ErrorCode::None);
    let (topic, _) = world.partitions(0, "events");
    let incarnation = |w: &World| {
        let mut catalog = Catalog::default();
        assert!(catalog.restore(&w.founding));
        w.list.iter().for_each(|(bytes, _)| drop(catalog.apply(&decode(bytes).unwrap())));
        catalog.incarnation(id(2))
    };
    let before = incarnation(&world);
    // The link to who leads is gone for a while; those to the other, and of other cores, stand.
    world.part(0, 2);
    world.until("it is given up", |w| given_up(w) > 0);
    world.unreachable.clear();
    world.until("it is another", |w| incarnation(w) > before);
    world.until("it is back in all chains", |w| {
        (0..6).all(|partition| w.chain(0, "events", partition).len() == 3)
    });
    for partition in 0..6 {
        let head = world.chain(0, "events", partition)[0];
        world.until("three have it", |w| {
            let receipt = w.produce(head, topic, partition as u32, 0);
            receipt.error == ErrorCode::None && receipt.copies == 3
        });
    }
}

#[test]
fn a_node_tells_of_partitions_that_only_others_have() {
    let mut world = World::new(4);
    assert_eq!(world.create(3, "events", 4, 3), ErrorCode::None);
    let (topic, partitions) = world.partitions(1, "events");
    for at in 0..4 {
        let request = DescribeTopicRequest { name: "events".into() };
        let (head, _) = world.ask(at, Api::DescribeTopic, &request, &[]);
        let described = DescribeTopicResponse::decode(&head).unwrap();
        assert_eq!(described.partitions.len(), 4);
        for (partition, place) in (0..).zip(&partitions) {
            let known = &described.partitions[partition as usize].place;
            assert_eq!((known.index, &known.chain), (place.index, &place.chain));
            let receipt = world.produce(at, topic, partition, 0);
            let is_head = place.chain[0] == id(at);
            let expected = if is_head { ErrorCode::None } else { ErrorCode::NotHead };
            assert_eq!(receipt.error, expected, "node {at}, partition {partition}");
            let told = HeadAddress {
                node: place.chain[0],
                epoch: place.epoch,
                core: place.core,
                address: profile(place.chain[0].get() as usize - 1).client.into(),
            };
            assert_eq!(receipt.head, (!is_head).then_some(told));
        }
    }
}

#[test]
fn behind_an_entry_that_cannot_be_read_nothing_is_done() {
    let mut world = World::new(1);
    assert_eq!(world.create(0, "events", 1, 1), ErrorCode::None);
    let (topic, _) = world.partitions(0, "events");
    let mut strange = encode(&Entry::NodeStarted { node: 1 });
    strange[0] = 200;
    world.list.push((strange, None));
    world.list.push((encode(&Entry::DeleteTopic { id: topic.get() }), None));
    world.settle();
    assert!(matches!(world.machines[0].cores[0].status(), Status::Failed(_)));
    assert!(world.machines[0].files.keys().any(|(of, _)| *of != Directory::Catalog));
    let refused = world.produce(0, topic, 0, 0).error;
    assert_eq!(refused, ErrorCode::PartitionFailed);
}

#[test]
fn an_older_copy_of_a_directory_is_refused_and_of_two_processes_the_first_ends() {
    let mut world = World::new(3);
    assert_eq!(world.create(0, "events", 1, 3), ErrorCode::None);
    let status = |w: &World| w.machines[2].cores[0].status();
    let older = world.machines[2].lives.clone();
    world.kill(2);
    world.start(2);
    assert_eq!(status(&world), Status::Serving);
    // Somebody copies the directory, and begins to be the node.
    let known = world.machines[2].lives.clone();
    let entry = Entry::StartNode { node: 3, life: 77 << 16, known, profile: profile(2) };
    world.list.push((encode(&entry), None));
    world.settle();
    assert_eq!(status(&world), Status::Outdated);
    world.kill(2);
    world.machines[2].lives = older;
    world.begin(2);
    world.settle();
    assert_eq!(status(&world), Status::Outdated);
}

#[test]
fn a_node_whose_copy_is_gone_does_not_keep_its_chain_from_going_on() {
    let mut world = World::new(3);
    assert_eq!(world.create(0, "events", 1, 3), ErrorCode::None);
    let (topic, _) = world.partitions(0, "events");
    let chain = world.chain(0, "events", 0);
    for sequence in 0..3 {
        assert_eq!(world.produce(chain[0], topic, 0, sequence).copies, 3);
    }
    let sick = chain[1];
    world.kill(sick);
    world.machines[sick].files.retain(|(of, _), _| *of == Directory::Catalog);
    world.start(sick);
    world.until("it is out", |w| !w.chain(chain[0], "events", 0).contains(&sick));
    world.until("the others go on", |w| {
        let receipt = w.produce(chain[0], topic, 0, 3);
        receipt.error == ErrorCode::None && receipt.copies == 2
    });
    let shown = world.fetch(chain[0], topic, 0);
    assert_eq!(shown.0, 4);
    // It does not come back in the life in which it has nothing, and does in the next.
    world.pass(Duration::from_secs(2));
    assert!(!world.chain(chain[0], "events", 0).contains(&sick));
    world.kill(sick);
    world.start(sick);
    world.until("it is back", |w| w.chain(chain[0], "events", 0).contains(&sick));
    world.until("it shows all", |w| w.fetch(sick, topic, 0) == shown);
}

#[test]
fn what_a_link_does_not_take_waits_with_its_partitions() {
    let mut world = World::new(2);
    assert_eq!(world.create(0, "events", 1, 2), ErrorCode::None);
    let (topic, _) = world.partitions(0, "events");
    let chain = world.chain(0, "events", 0);
    assert_eq!(world.produce(chain[0], topic, 0, 0).copies, 2);
    let stored = |w: &World, at: usize| {
        let held = w.machines[at].cores.iter().flat_map(|core| core.replicas());
        held.map(|replica| replica.log().unwrap().log_end().get()).max().unwrap()
    };
    // It leaves, and nobody says so.
    world.stuffed = true;
    let (most, limit) = (48, 32);
    for sequence in 1..most {
        world.offer(chain[0], topic, sequence, 1_000_000);
    }
    world.pass(Duration::from_millis(50));
    assert_eq!(stored(&world, chain[0]), most as u64);
    let there = stored(&world, chain[1]);
    assert!((limit..most as u64).contains(&there), "{there} of {most}");
    world.stuffed = false;
    world.pay();
    world.until("all of it is there", |w| {
        w.settle();
        stored(w, chain[1]) == most as u64
    });
}
