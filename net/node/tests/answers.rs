//! Every request is answered, whatever the disk does.

mod common;

use catena_format::{
    Offset, PartitionIndex, PartitionUid, ProducerEpoch, ProducerId, Sequence, TopicId,
    records::Producer,
};
use catena_log::io::{FileName, IoError, Op};
use catena_node::{Directory, Limits, Notice, Status};
use catena_wire::{Api, DeleteTopicRequest, ErrorCode, ProducerIdRequest, TrimRequest};
use common::{Share, Verdict, World, batch};

fn world() -> World {
    World::new(Limits::default(), 1 << 30)
}

fn of_catalog(directory: Directory) -> bool {
    directory == Directory::Catalog
}

fn to_segment(op: &Op<Share>) -> bool {
    matches!(op, Op::Write { file: FileName::Segment(_), .. })
}

fn trim(topic: TopicId, to: u64) -> TrimRequest {
    TrimRequest { topic, partition: PartitionIndex::new(0), to: Offset::new(to) }
}

fn producer(sequence: i32) -> Producer {
    Producer {
        id: ProducerId::new(9),
        epoch: ProducerEpoch::new(0),
        sequence: Sequence::new(sequence),
    }
}

fn errors(world: &mut World, requests: &[u32]) -> Vec<ErrorCode> {
    requests.iter().map(|r| world.answer(*r).expect("it was answered").error()).collect()
}

#[test]
fn trims_end_when_the_partition_is_poisoned() {
    let mut world = world();
    let topic = world.topic("t", 1);
    world.produce(topic, 0, &batch(Producer::NONE, b"one"));
    // The first trim waits for its manifest, the write fails meanwhile.
    world.judge = Box::new(|_, op| match op {
        Op::Write { file: FileName::Manifest(_), .. } => Verdict::Hold,
        op if to_segment(op) => Verdict::Fail(IoError::Device(5)),
        _ => Verdict::Perform,
    });
    let under_way = world.send(Api::Trim, &trim(topic, 1), &[]);
    assert!(world.answer(under_way).is_none());
    let lost = world.produce(topic, 0, &batch(Producer::NONE, b"two"));
    let later = world.send(Api::Trim, &trim(topic, 1), &[]);
    let found = errors(&mut world, &[under_way, lost, later]);
    assert_eq!(found, [ErrorCode::StorageIo, ErrorCode::StorageIo, ErrorCode::Poisoned]);
    // That the manifest is written after all is nobody's business any more.
    world.resume();
}

#[test]
fn a_trim_is_answered_by_its_deadline() {
    let mut world = world();
    let topic = world.topic("t", 1);
    world.produce(topic, 0, &batch(Producer::NONE, b"one"));
    world.judge = Box::new(|_, op| match op {
        Op::Write { file: FileName::Manifest(_), .. } => Verdict::Fail(IoError::NoSpace),
        _ => Verdict::Perform,
    });
    let waits = world.send(Api::Trim, &trim(topic, 1), &[]);
    assert!(world.answer(waits).is_none());
    world.pass(Limits::default().wait_max);
    assert_eq!(world.answer(waits).unwrap().error(), ErrorCode::Timeout);
    // What is done later is not answered once more, and the next one is answered for itself.
    let next = world.send(Api::Trim, &trim(topic, 1), &[]);
    world.resume();
    world.pass(std::time::Duration::from_secs(2));
    assert_eq!(world.answer(next).unwrap().error(), ErrorCode::None);
    assert!(world.answer(waits).is_none());
}

#[test]
fn a_retry_of_what_is_in_doubt_is_told_so_at_once() {
    let mut world = world();
    let topic = world.topic("t", 1);
    world.judge = Box::new(|_, op| match op {
        op if to_segment(op) => Verdict::Fail(IoError::Device(5)),
        _ => Verdict::Perform,
    });
    let batch = batch(producer(0), b"one");
    let first = world.produce(topic, 0, &batch);
    let again = world.produce(topic, 0, &batch);
    let found = errors(&mut world, &[first, again]);
    assert_eq!(found, [ErrorCode::StorageIo, ErrorCode::StorageIo]);
}

#[test]
fn changes_behind_a_full_disk_are_answered_by_their_deadline() {
    let mut world = world();
    world.judge = Box::new(|directory, _| match of_catalog(directory) {
        true => Verdict::Hold,
        false => Verdict::Perform,
    });
    let create = world.create("t", 1);
    let id = world.send(Api::ProducerId, &ProducerIdRequest::fresh(), &[]);
    world.pass(Limits::default().wait_max);
    let found = errors(&mut world, &[create, id]);
    assert_eq!(found, [ErrorCode::Timeout, ErrorCode::Timeout]);
    world.resume();
    // It was made after all, which the same request finds out.
    let again = world.create("t", 1);
    assert_eq!(world.answer(again).unwrap().error(), ErrorCode::TopicExists);
}

#[test]
fn a_topic_becomes_ready_when_the_catalog_takes_it_again() {
    let mut world = world();
    let full_catalog = |directory, op: &Op<Share>| match op {
        Op::Extend { .. } if of_catalog(directory) => Some(Verdict::Fail(IoError::NoSpace)),
        _ => None,
    };
    // The partition's files are made when the catalog's disk is full.
    world.judge = Box::new(move |directory, op| match full_catalog(directory, op) {
        Some(verdict) => verdict,
        None if of_catalog(directory) => Verdict::Perform,
        None => Verdict::Hold,
    });
    let create = world.create("t", 1);
    let mut names = 0..100;
    loop {
        let other = world.create(&format!("other-{}", names.next().expect("it is full")), 1);
        if world.answer(other).is_some_and(|answer| answer.error() == ErrorCode::DiskFull) {
            break;
        }
    }
    world.resume_with(Box::new(move |directory, op| {
        full_catalog(directory, op).unwrap_or(Verdict::Perform)
    }));
    assert!(world.answer(create).is_none(), "the catalog takes nothing");
    world.resume();
    world.pass(std::time::Duration::from_secs(3));
    assert_eq!(world.answer(create).unwrap().error(), ErrorCode::None);
    let topic = world.topic_id("t");
    let produced = world.produce(topic, 0, &batch(Producer::NONE, b"one"));
    assert_eq!(world.answer(produced).unwrap().error(), ErrorCode::None);
}

#[test]
fn a_topic_that_is_half_made_takes_nothing() {
    let mut world = world();
    let second = Directory::Partition(PartitionUid::new(2));
    world.judge = Box::new(move |directory, op| match op {
        Op::List if directory == second => Verdict::Fail(IoError::Device(5)),
        _ => Verdict::Perform,
    });
    let create = world.create("t", 2);
    assert_eq!(world.answer(create).unwrap().error(), ErrorCode::PartitionFailed);
    let topic = world.topic_id("t");
    // The next start creates all of it once more, empty.
    let produced = world.produce(topic, 0, &batch(Producer::NONE, b"one"));
    assert_eq!(world.answer(produced).unwrap().error(), ErrorCode::Starting);
    world.restart(Limits::default());
    let produced = world.produce(topic, 0, &batch(Producer::NONE, b"one"));
    assert_eq!(world.answer(produced).unwrap().error(), ErrorCode::None);
}

#[test]
fn repetitions_that_wait_for_the_disk_are_bounded() {
    let mut world = world();
    let topic = world.topic("t", 1);
    world.judge = Box::new(|_, op| if to_segment(op) { Verdict::Hold } else { Verdict::Perform });
    let batch = batch(producer(0), b"one");
    let first = world.produce(topic, 0, &batch);
    // Each has had its time when the next one comes.
    let waiting: Vec<u32> = (0..4096).map(|_| world.produce(topic, 0, &batch)).collect();
    world.pass(Limits::default().wait_max);
    assert_eq!(errors(&mut world, &waiting), [ErrorCode::Timeout; 4096]);
    let beyond = world.produce(topic, 0, &batch);
    assert_eq!(errors(&mut world, &[first, beyond]), [ErrorCode::Timeout; 2]);
    world.resume();
    let later = world.produce(topic, 0, &batch);
    assert_eq!(errors(&mut world, &[later]), [ErrorCode::None]);
}

#[test]
fn a_repetition_of_one_of_many_is_known_to_be_stored_once_all_are() {
    let mut world = world();
    let topic = world.topic("t", 1);
    world.judge = Box::new(|_, op| if to_segment(op) { Verdict::Hold } else { Verdict::Perform });
    for sequence in 0..600 {
        world.produce(topic, 0, &batch(producer(sequence), b"one"));
    }
    let first = batch(producer(0), b"one");
    let early = world.produce(topic, 0, &first);
    assert!(world.answer(early).is_none(), "it may be among those on their way");
    world.resume();
    let late = world.produce(topic, 0, &first);
    let found = errors(&mut world, &[early, late]);
    assert_eq!(found, [ErrorCode::DuplicateOffsetUnknown; 2]);
}

#[test]
fn a_catalog_that_failed_takes_no_changes_and_all_else_goes_on() {
    let mut world = world();
    let topic = world.topic("t", 1);
    world.judge = Box::new(|directory, op| match op {
        op if of_catalog(directory) && to_segment(op) => Verdict::Fail(IoError::Device(5)),
        _ => Verdict::Perform,
    });
    let create = world.create("u", 1);
    let id = world.send(Api::ProducerId, &ProducerIdRequest::fresh(), &[]);
    let found = errors(&mut world, &[create, id]);
    assert_eq!(found, [ErrorCode::StorageIo, ErrorCode::Poisoned]);
    assert_eq!(world.node.status(), Status::Poisoned(IoError::Device(5)));
    let notices: Vec<_> = std::iter::from_fn(|| world.node.poll_notice()).collect();
    assert!(notices.contains(&Notice::CatalogPoisoned(IoError::Device(5))));
    let produced = world.produce(topic, 0, &batch(Producer::NONE, b"one"));
    let fetched = world.fetch(topic, 0, 1, 0);
    let create = world.create("v", 1);
    let found = errors(&mut world, &[produced, fetched, create]);
    assert_eq!(found, [ErrorCode::None, ErrorCode::None, ErrorCode::Poisoned]);
    world.drain();
    assert!(world.node.is_idle());
    world.restart(Limits::default());
    let create = world.create("v", 1);
    assert_eq!(world.answer(create).unwrap().error(), ErrorCode::None);
}

#[test]
fn what_partitions_have_done_counts_when_they_are_gone() {
    let mut world = world();
    let topic = world.topic("t", 1);
    world.produce(topic, 0, &batch(Producer::NONE, b"one"));
    let before = world.node.totals();
    assert_eq!(before.appended_batches, 1);
    let deleted = world.send(Api::DeleteTopic, &DeleteTopicRequest { name: "t".into() }, &[]);
    assert_eq!(world.answer(deleted).unwrap().error(), ErrorCode::None);
    assert_eq!(world.node.replicas().count(), 0);
    assert_eq!(world.node.totals(), before);
}
