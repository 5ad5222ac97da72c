//! A copy that has lost what its producers had stored before its log starts.

mod common;
mod world;

use catena_format::{
    Millis, Offset, PartitionIndex, ProducerEpoch, ProducerId, Sequence, TopicId,
    records::{BatchBuilder, Producer},
};
use catena_log::io::FileName;
use catena_node::Directory;
use catena_wire::{
    AlterTopicRequest, Api, ErrorCode, Message, ProduceResponse, ReplicateTopicRequest, Setting,
    StatusResponse, TrimRequest,
};
use world::{World, produce_request};

fn offer(
    world: &mut World,
    at: usize,
    topic: TopicId,
    producer: i64,
    sequence: i32,
) -> Option<u64> {
    let mut builder = BatchBuilder::new();
    builder.push(Millis::new(1_000_000), None, Some(&[7; 20_000]), &[]);
    let (id, epoch, sequence) =
        (ProducerId::new(producer), ProducerEpoch::new(0), Sequence::new(sequence));
    let batch = builder.build(Producer { id, epoch, sequence }).unwrap();
    let (head, _) = world.ask(at, Api::Produce, &produce_request(topic, 0), &batch);
    let receipt = ProduceResponse::decode(&head).unwrap();
    (receipt.error == ErrorCode::None).then_some(receipt.first_offset.get())
}

fn done<'r, R: Message<'r>>(world: &mut World, api: Api, request: &R) {
    let (head, _) = world.ask(0, api, request, &[]);
    assert_eq!(StatusResponse::decode(&head).unwrap().error, ErrorCode::None);
}

#[test]
fn it_is_made_anew_where_two_others_know() {
    let mut world = World::new(3);
    assert_eq!(world.create(0, "events", 1, 3), ErrorCode::None);
    done(
        &mut world,
        Api::AlterTopic,
        &AlterTopicRequest {
            name: "events".into(),
            set: vec![Setting { key: "segment.bytes".into(), value: "65536".into() }],
            remove: Vec::new(),
            partitions: 0,
            new_name: "".into(),
            validate_only: false,
        },
    );
    let (replicas, min_replicas) = (3, 1);
    let alone = ReplicateTopicRequest { name: "events".into(), replicas, min_replicas };
    done(&mut world, Api::ReplicateTopic, &alone);
    let (topic, _) = world.partitions(0, "events");
    let chain = world.chain(0, "events", 0);
    assert_eq!(offer(&mut world, chain[0], topic, 7, 0), Some(0));
    for sequence in 0..12 {
        assert!(offer(&mut world, chain[0], topic, 5, sequence).is_some());
    }
    let trim = TrimRequest { topic, partition: PartitionIndex::new(0), to: Offset::new(12) };
    world.ask(chain[0], Api::Trim, &trim, &[]);
    world.pass(std::time::Duration::from_secs(5));
    let forgets = chain[2];
    world.kill(forgets);
    world.until("it is out", |w| w.chain(chain[0], "events", 0).len() == 2);
    let index = |(directory, file): &(Directory, FileName)| {
        matches!((directory, file), (Directory::Partition(_), FileName::Index(_)))
    };
    let before = world.machines[forgets].files.len();
    world.machines[forgets].files.retain(|name, _| !index(name));
    assert!(world.machines[forgets].files.len() < before, "there were some");
    world.start(forgets);
    world.until("it is back", |w| w.chain(chain[0], "events", 0).len() == 3);
    let others = [chain[0], chain[1]];
    world.lead(forgets);
    others.into_iter().for_each(|at| world.kill(at));
    world.until("it is alone", |w| w.chain(forgets, "events", 0) == [forgets]);
    world.until("it takes batches", |w| offer(w, forgets, topic, 5, 12).is_some());
    assert_eq!(offer(&mut world, forgets, topic, 7, 0), Some(0), "not a second time");
}
