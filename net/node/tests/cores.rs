//! A node of two cores: what they tell each other may take its time.

mod common;

use catena_format::{Offset, PartitionIndex, TopicId, records::Producer};
use catena_node::Limits;
use catena_wire::{
    Api, CreditRequest, DeleteTopicRequest, ErrorCode, SubscribeRequest, UnsubscribeRequest,
};
use common::{World, batch};

fn world() -> World {
    World::of_cores(2, Limits::default(), 1 << 30)
}

fn subscribe(world: &mut World, topic: TopicId, partition: u32) -> u32 {
    let request = SubscribeRequest {
        topic,
        partition: PartitionIndex::new(partition),
        subscription: 1,
        offset: Offset::ZERO,
        credit_bytes: 1,
    };
    world.send(Api::Subscribe, &request, &[])
}

#[test]
fn a_node_is_not_idle_before_another_core_has_answered() {
    let mut world = world();
    let topic = world.topic("t", 2);
    world.cut_off = true;
    let produced = world.produce(topic, 1, &batch(Producer::NONE, b"one"));
    world.drain();
    assert!(!world.node.is_idle() && world.further[0].is_idle());
    world.cut_off = false;
    world.settle();
    assert_eq!(world.answer(produced).unwrap().error(), ErrorCode::None);
    assert!(world.node.is_idle() && world.further[0].is_idle());
}

#[test]
fn what_was_taken_before_the_end_is_answered() {
    let mut world = world();
    let topic = world.topic("t", 2);
    let waits = world.fetch(topic, 0, 1, 30_000);
    world.judge = Box::new(|_, _| common::Verdict::Hold);
    let produced = world.produce(topic, 0, &batch(Producer::NONE, b"one"));
    let create = world.create("u", 2);
    world.drain();
    assert_eq!(world.answer(waits).unwrap().error(), ErrorCode::None);
    assert!(!world.node.is_idle());
    let late = world.fetch(topic, 0, 1, 30_000);
    assert_eq!(world.answer(late).unwrap().error(), ErrorCode::ShuttingDown);
    world.resume();
    for request in [produced, create] {
        assert_eq!(world.answer(request).unwrap().error(), ErrorCode::None);
    }
    world.pass(std::time::Duration::from_millis(100));
    assert!(world.node.is_idle());
}

#[test]
fn the_end_of_a_subscription_leaves_the_next_of_its_name_alone() {
    let mut world = world();
    let (topic, other) = (world.topic("t", 2), world.topic("u", 2));
    world.produce(other, 1, &batch(Producer::NONE, b"one"));
    world.produce(other, 1, &batch(Producer::NONE, b"two"));
    let first = subscribe(&mut world, topic, 1);
    assert_eq!(world.answer(first).unwrap().error(), ErrorCode::None);
    // It ends with its topic; before its client hears that, it begins another of that name.
    world.cut_off = true;
    world.send(Api::DeleteTopic, &DeleteTopicRequest { name: "t".into() }, &[]);
    world.send(Api::Unsubscribe, &UnsubscribeRequest { subscription: 1 }, &[]);
    let second = subscribe(&mut world, other, 1);
    world.cut_off = false;
    world.settle();
    assert_eq!(world.answer(second).unwrap().error(), ErrorCode::None);
    let pushes = |world: &World, of: u32| {
        let pushed = |a: &&common::Answer| a.header.correlation == of && !a.payload.is_empty();
        world.answers.iter().filter(pushed).count()
    };
    assert_eq!(pushes(&world, second), 1);
    world.send(Api::Credit, &CreditRequest { subscription: 1, bytes: 1000 }, &[]);
    assert_eq!(pushes(&world, second), 2, "its credit goes where it lives");
}
