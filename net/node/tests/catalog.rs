//! What is written to the catalog: changes, and nothing that changes nothing.

mod common;

use std::collections::BTreeSet;

use catena_node::{Directory, Limits};
use catena_wire::{
    Api, DeleteTopicRequest, ErrorCode, Message, MetadataRequest, MetadataResponse,
    ProducerIdRequest, ProducerIdResponse,
};
use common::World;

fn producer_id(world: &mut World) -> i64 {
    let answer = world.ask(Api::ProducerId, &ProducerIdRequest::fresh()).unwrap();
    let response = ProducerIdResponse::decode(&answer.head).unwrap();
    assert_eq!((response.error, response.epoch.get()), (ErrorCode::None, 0));
    response.id.get()
}

#[test]
fn producer_ids_are_taken_in_blocks_and_given_once() {
    let mut world = World::new(Limits::default(), 1 << 30);
    let mut given = BTreeSet::from([producer_id(&mut world)]);
    let operations = world.operations;
    for _ in 0..900 {
        assert!(given.insert(producer_id(&mut world)));
    }
    assert_eq!(world.operations, operations, "the catalog was written");
    for _ in 0..200 {
        assert!(given.insert(producer_id(&mut world)));
    }
    world.restart(Limits::default());
    assert!(given.insert(producer_id(&mut world)));
}

#[test]
fn producers_that_wait_for_a_block_each_get_an_id() {
    let mut world = World::new(Limits::default(), 1 << 30);
    world.judge = Box::new(|_, _| common::Verdict::Hold);
    let request = ProducerIdRequest::fresh();
    let waiting: Vec<u32> = (0..1500).map(|_| world.send(Api::ProducerId, &request, &[])).collect();
    world.resume();
    let answers = waiting.iter().map(|asked| world.answer(*asked).expect("it has an id"));
    let given: BTreeSet<i64> =
        answers.map(|a| ProducerIdResponse::decode(&a.head).unwrap().id.get()).collect();
    assert_eq!(given.len(), waiting.len());
}

#[test]
fn what_is_refused_is_not_written() {
    let mut world = World::new(Limits::default(), 1 << 30);
    world.topic("t", 1);
    world.pass(std::time::Duration::from_secs(1));
    let operations = world.operations;
    let again = world.create("t", 1);
    assert_eq!(world.answer(again).unwrap().error(), ErrorCode::TopicExists);
    let bad = world.create("no name", 1);
    assert_eq!(world.answer(bad).unwrap().error(), ErrorCode::TopicName);
    let delete = DeleteTopicRequest { name: "other".into() };
    assert_eq!(world.ask(Api::DeleteTopic, &delete).unwrap().error(), ErrorCode::UnknownTopic);
    assert_eq!(world.operations, operations);
}

#[test]
fn the_history_of_the_catalog_goes_and_the_catalog_stays() {
    let limits = Limits { catalog_segment_bytes: 64 << 10, ..Limits::default() };
    let mut world = World::new(limits, 1 << 30);
    let kept = world.topic("kept", 1);
    let first = producer_id(&mut world);
    let mut bytes = BTreeSet::new();
    for round in 0..300 {
        world.topic("passing", 1);
        let delete = DeleteTopicRequest { name: "passing".into() };
        assert_eq!(world.ask(Api::DeleteTopic, &delete).unwrap().error(), ErrorCode::None);
        world.pass(std::time::Duration::from_secs(1));
        if round > 100 {
            bytes.insert(world.bytes(Directory::Catalog));
        }
    }
    // 300 rounds of three entries are 3.6 MiB, at a block each.
    assert!(bytes.iter().all(|bytes| *bytes < 600 << 10), "{bytes:?}");
    for _ in 0..3 {
        world.restart(limits);
        assert_eq!(world.topic_id("kept"), kept);
        let delete = DeleteTopicRequest { name: "passing".into() };
        let answer = world.ask(Api::DeleteTopic, &delete).unwrap();
        assert_eq!(answer.error(), ErrorCode::UnknownTopic);
        assert!(producer_id(&mut world) > first);
    }
}

#[test]
fn a_topic_is_not_said_to_be_gone_before_that_is_durable() {
    fn metadata(world: &mut World) -> ErrorCode {
        let request = MetadataRequest { names: vec!["t".into()] };
        let answer = world.ask(Api::Metadata, &request).expect("an answer");
        MetadataResponse::decode(&answer.head).unwrap().topics[0].error
    }
    let mut world = World::new(Limits::default(), 1 << 30);
    world.topic("t", 1);
    world.judge = Box::new(|_, _| common::Verdict::Hold);
    let delete = DeleteTopicRequest { name: "t".into() };
    let first = world.send(Api::DeleteTopic, &delete, &[]);
    assert!(world.answer(first).is_none());
    assert_eq!(world.ask(Api::DeleteTopic, &delete).unwrap().error(), ErrorCode::Starting);
    assert_eq!(metadata(&mut world), ErrorCode::Starting);
    world.resume();
    assert_eq!(world.answer(first).unwrap().error(), ErrorCode::None);
    assert_eq!(metadata(&mut world), ErrorCode::UnknownTopic);
}
