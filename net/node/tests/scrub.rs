//! The scrub of a core: at the rate it was given, behind what clients want, through every
//! partition.

mod common;

use std::time::Duration;

use catena_format::{Offset, PartitionUid, TopicId, records::Producer};
use catena_log::{
    Finding,
    io::{FileName, IoError, Op},
};
use catena_node::{Directory, Limits, Notice};
use catena_wire::{Api, DeleteTopicRequest, ErrorCode, FetchResponse, Message};
use common::{Verdict, World, batch};

const PARTITIONS: u32 = 3;
/// What each partition holds, about.
const BYTES: u64 = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

fn limits(scrub_rate: u64) -> Limits {
    Limits { scrub_rate, scrub_period: HOUR, ..Limits::default() }
}

/// A node with partitions that hold sealed segments, started again.
fn world(limits: Limits) -> (World, TopicId) {
    let mut world = World::new(Limits::default(), 1 << 30);
    let topic = world.topic("t", PARTITIONS);
    let batch = batch(Producer::NONE, &[7; 128 << 10]);
    for partition in 0..PARTITIONS {
        for _ in 0..8 {
            let produced = world.produce(topic, partition, &batch);
            assert_eq!(world.answer(produced).unwrap().error(), ErrorCode::None);
        }
    }
    world.restart(limits);
    (world, topic)
}

fn scrubbed(world: &World) -> u64 {
    world.node.totals().scrubbed_bytes
}

fn passes(world: &World) -> u64 {
    world.node.stats().scrub_passes
}

#[test]
fn it_reads_at_its_rate_and_rests_until_the_next_pass() {
    let rate = 512 << 10;
    let (mut world, _) = world(limits(rate));
    let most = u64::from(PARTITIONS) * BYTES;
    // A read is due when the one before it has had its time: here every half second.
    for second in 1..6 {
        world.pass(SECOND);
        let read = scrubbed(&world);
        assert!(read <= second * rate + rate, "{read} bytes in {second} s");
        assert!(read >= (second - 1) * rate / 2, "{read} bytes in {second} s");
        assert_eq!(passes(&world), 0);
    }
    world.pass(60 * SECOND);
    let read = scrubbed(&world);
    assert_eq!(passes(&world), 1);
    assert!((most..2 * most).contains(&read), "{read} bytes are a pass");
    world.pass(HOUR - 120 * SECOND);
    assert_eq!((scrubbed(&world), passes(&world)), (read, 1), "it rests");
    world.pass(200 * SECOND);
    assert_eq!((scrubbed(&world), passes(&world)), (2 * read, 2));
    // It can be turned off, and on again.
    world.node.limits_mut().scrub_rate = 0;
    world.pass(2 * HOUR);
    assert_eq!(passes(&world), 2);
    world.node.limits_mut().scrub_rate = 100 * rate;
    world.pass(5 * SECOND);
    assert_eq!(passes(&world), 3);
}

#[test]
fn a_new_start_begins_elsewhere() {
    let (mut world, _) = world(limits(1));
    let mut begins = Vec::new();
    for _ in 0..6 {
        // One read, and the next one in days.
        world.pass(SECOND);
        let replicas = world.node.replicas();
        let begun = replicas.filter(|replica| replica.stats().scrubbed_bytes > 0);
        let begun: Vec<_> = begun.map(|replica| replica.identity().partition.get()).collect();
        assert_eq!(begun.len(), 1, "one read at a time");
        begins.extend(begun);
        world.restart(limits(1));
    }
    begins.sort_unstable();
    begins.dedup();
    assert_eq!(begins, [0, 1, 2]);
}

#[test]
fn a_read_waits_while_the_core_is_busy_but_not_for_ever() {
    let (mut world, topic) = world(Limits::default());
    // The disk holds still, and a client waits for more than a little.
    world.judge = Box::new(|_, op| match op {
        Op::Write { .. } => Verdict::Hold,
        _ => Verdict::Perform,
    });
    let batch = batch(Producer::NONE, &[7; 600 << 10]);
    let asked = [0; 2].map(|_| world.produce(topic, 0, &batch));
    *world.node.limits_mut() = limits(1 << 30);
    world.pass(9 * SECOND / 10);
    assert_eq!(scrubbed(&world), 0);
    world.pass(SECOND);
    let slow = scrubbed(&world);
    assert!(slow > 0 && passes(&world) == 0);
    world.resume();
    assert!(asked.into_iter().all(|asked| world.has_answer(asked)));
    world.pass(5 * SECOND);
    assert_eq!(passes(&world), 1);
}

#[test]
fn a_topic_that_is_deleted_while_it_is_read_holds_nothing_up() {
    let (mut world, _) = world(limits(1 << 30));
    let other = world.topic("other", 1);
    world.judge = Box::new(|_, op| match op {
        Op::Read { .. } => Verdict::Hold,
        _ => Verdict::Perform,
    });
    world.pass(SECOND);
    assert_eq!(world.held(), 1, "one read at a time");
    let delete = DeleteTopicRequest { name: "t".into() };
    assert_eq!(world.ask(Api::DeleteTopic, &delete).unwrap().error(), ErrorCode::None);
    let produced = world.produce(other, 0, &batch(Producer::NONE, &[7; 1000]));
    assert_eq!(world.answer(produced).unwrap().error(), ErrorCode::None);
    world.pass(SECOND);
    assert_eq!(passes(&world), 1);
    world.resume();
    world.pass(SECOND);
    assert_eq!(passes(&world), 1);
}

#[test]
fn what_it_finds_is_told_and_answered_as_damaged() {
    let (mut world, topic) = world(Limits::default());
    let directory = Directory::Partition(PartitionUid::new(1));
    let segment = FileName::Segment(catena_format::FileNumber::new(1));
    world.flip(directory, segment, 200_000);
    // The first read of another partition fails, and the second as well.
    world.judge = Box::new(|directory, op| match op {
        Op::Read { .. } if directory == Directory::Partition(PartitionUid::new(2)) => {
            Verdict::Fail(IoError::Device(5))
        }
        _ => Verdict::Perform,
    });
    *world.node.limits_mut() = limits(1 << 30);
    world.pass(10 * SECOND);
    assert_eq!(passes(&world), 1);
    let notices: Vec<Notice> = std::iter::from_fn(|| world.node.poll_notice()).collect();
    let found = notices.iter().filter_map(|notice| match notice {
        Notice::Found(log, finding) => Some((log.uid.get(), finding)),
        _ => None,
    });
    let (mut damaged, mut unreadable) = (Vec::new(), 0);
    for (uid, finding) in found {
        match finding {
            Finding::Damaged { offsets, .. } => damaged.push((uid, offsets.clone())),
            Finding::Unreadable { .. } if uid == 2 => unreadable += 1,
            other => panic!("{uid}: {other}"),
        }
    }
    assert_eq!(damaged, [(1, Offset::new(1)..Offset::new(2))]);
    assert!(unreadable > 0);
    assert_eq!(world.node.totals().scrub_errors, 2 * unreadable);
    let asked = world.fetch(topic, 1, 1, 0);
    let answer = world.answer(asked).unwrap();
    let response = FetchResponse::decode(&answer.head).unwrap();
    assert_eq!((response.error, response.next_offset), (ErrorCode::Damaged, Offset::new(2)));
    for whole in [0, 2] {
        let asked = world.fetch(topic, whole, 1, 0);
        assert_eq!(world.answer(asked).unwrap().error(), ErrorCode::None);
    }
}
