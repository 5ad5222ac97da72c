//! What happens while logs are being opened, and when they cannot be.

mod common;

use std::{cell::Cell, rc::Rc, time::Duration};

use catena_format::records::Producer;
use catena_log::{
    OpenError,
    io::{FileName, IoError},
};
use catena_node::{Directory, Limits, Notice, Status};
use catena_wire::{AlterTopicRequest, Api, DeleteTopicRequest, ErrorCode, Setting};
use common::{Verdict, World, batch};

fn is_partition(directory: Directory) -> bool {
    matches!(directory, Directory::Partition(_))
}

fn notices(world: &mut World) -> Vec<Notice> {
    std::iter::from_fn(|| world.node.poll_notice()).collect()
}

#[test]
fn a_setting_made_while_a_log_is_opened_is_in_force() {
    let mut world = World::new(Limits::default(), 1 << 30);
    let topic = world.topic("t", 1);
    let keep = |value: &'static str| AlterTopicRequest {
        name: "t".into(),
        set: vec![Setting { key: "retention.ms".into(), value: value.into() }],
        remove: Vec::new(),
        partitions: 0,
        new_name: "".into(),
        validate_only: false,
    };
    let altered = world.ask(Api::AlterTopic, &keep("1000")).unwrap();
    assert_eq!(altered.error(), ErrorCode::None);
    let stored = world.produce(topic, 0, &batch(Producer::NONE, b"one"));
    assert_eq!(world.answer(stored).unwrap().error(), ErrorCode::None);
    world.restart_with(
        Limits::default(),
        Box::new(|directory, _| match directory {
            Directory::Catalog => Verdict::Perform,
            Directory::Partition(_) => Verdict::Hold,
        }),
    );
    let altered = world.ask(Api::AlterTopic, &keep("-1")).unwrap();
    assert_eq!(altered.error(), ErrorCode::None);
    world.resume();
    world.pass(Duration::from_secs(5));
    let fetched = world.fetch(topic, 0, 1, 0);
    assert_eq!(world.answer(fetched).unwrap().error(), ErrorCode::None);
}

#[test]
fn a_log_that_finds_no_descriptor_is_opened_later() {
    let mut world = World::new(Limits::default(), 1 << 30);
    let topic = world.topic("t", 1);
    let stored = world.produce(topic, 0, &batch(Producer::NONE, b"one"));
    assert_eq!(world.answer(stored).unwrap().error(), ErrorCode::None);
    // Whichever operation it is that finds none.
    let mut postponed = 0;
    for nth in 0..30 {
        let count = Rc::new(Cell::new(0));
        let counted = count.clone();
        world.restart_with(
            Limits::default(),
            Box::new(move |directory, _| {
                if !is_partition(directory) {
                    return Verdict::Perform;
                }
                let at = counted.replace(counted.get() + 1);
                if at == nth { Verdict::Fail(IoError::NoDescriptors) } else { Verdict::Perform }
            }),
        );
        let told = notices(&mut world);
        let told = told.iter().filter(|notice| matches!(notice, Notice::Postponed(..))).count();
        let fetched = world.fetch(topic, 0, 1, 0);
        let found = world.answer(fetched).unwrap().error();
        if told == 0 {
            // It was not opening that found none.
            break;
        }
        assert_eq!(found, ErrorCode::Starting);
        postponed += told;
        world.pass(Duration::from_secs(2));
        let fetched = world.fetch(topic, 0, 1, 0);
        assert_eq!(world.answer(fetched).unwrap().error(), ErrorCode::None, "{nth}");
    }
    assert!(postponed > 5, "{postponed}");
}

#[test]
fn a_topic_whose_partition_finds_no_descriptor_is_created_later() {
    let mut world = World::new(Limits::default(), 1 << 30);
    let refusals = Rc::new(Cell::new(3));
    let left = refusals.clone();
    world.judge = Box::new(move |directory, _| {
        if !is_partition(directory) || left.get() == 0 {
            return Verdict::Perform;
        }
        left.set(left.get() - 1);
        Verdict::Fail(IoError::NoDescriptors)
    });
    let create = world.create("t", 1);
    assert!(world.answer(create).is_none());
    world.pass(Duration::from_secs(4));
    assert_eq!(world.answer(create).unwrap().error(), ErrorCode::None);
    assert_eq!(refusals.get(), 0);
    let told = notices(&mut world);
    let postponed = told.iter().filter(|notice| matches!(notice, Notice::Postponed(..)));
    assert_eq!(postponed.count(), 1, "it is told once");
}

#[test]
fn a_catalog_whose_indexes_are_lost_is_refused_however_often() {
    let limits = Limits { catalog_segment_bytes: 64 << 10, ..Limits::default() };
    let mut world = World::new(limits, 1 << 30);
    world.topic("kept", 1);
    for _ in 0..100 {
        world.topic("passing", 1);
        let delete = DeleteTopicRequest { name: "passing".into() };
        assert_eq!(world.ask(Api::DeleteTopic, &delete).unwrap().error(), ErrorCode::None);
        world.pass(Duration::from_secs(1));
    }
    world.lose(Directory::Catalog, |file| matches!(file, FileName::Index(_)));
    for _ in 0..3 {
        world.restart_as_is(limits);
        let status = world.node.status();
        assert!(matches!(status, Status::Failed(OpenError::Damaged(_))), "{status:?}");
    }
}
