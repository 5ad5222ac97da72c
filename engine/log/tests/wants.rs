//! What a want of something does (descriptors, space, a device that answers only the second time):
//! nothing is concluded from it, and what was refused goes on by itself.

mod world;

use std::time::Duration;

use bytes::Bytes;
use catena_format::{FileNumber, Millis, Offset, Position};
use catena_log::{
    LogConfig, Now, OpenError, Opening,
    io::{Done, FileName, Heap, IoError, Op, OpId, Outcome, Slot},
};
use world::{World, identity, open_with, rolled, run_with, small, tick};

#[test]
fn a_read_that_wants_something_ends_the_opening_and_concludes_nothing() {
    let mut world = rolled();
    let files = world.disk.files.clone();
    for error in [IoError::NoDescriptors, IoError::Device(12)] {
        let mut refused = 0;
        loop {
            let mut reads = 0;
            let opened = open_with(&mut world, |op| {
                reads += u64::from(matches!(op, Op::Read { .. }));
                (reads == refused + 1).then_some(error)
            });
            if let Ok(log) = opened {
                assert_eq!(log.log_end(), world.log.log_end());
                break;
            }
            assert_eq!(opened.err(), Some(OpenError::Io(error)), "read {refused}");
            assert!(files == world.disk.files, "read {refused} changed something");
            refused += 1;
        }
        assert!(refused > 3, "there are manifests, indexes and segments to read");
        world.disk.files = files.clone();
    }
}

#[test]
fn what_the_device_reads_the_second_time_is_no_damage() {
    let mut world = rolled();
    let mut odd = false;
    let log = open_with(&mut world, |op| {
        odd = matches!(op, Op::Read { .. }) && !odd;
        odd.then_some(IoError::Device(5))
    });
    world.log = log.unwrap();
    let report = world.log.recovery();
    assert_eq!((report.offsets_damaged, report.manifest_repaired), (0, false), "{report:?}");
    world.check();
}

#[test]
fn what_the_device_never_reads_is_damage() {
    let mut world = rolled();
    let log = open_with(&mut world, |op| {
        let second = matches!(op, Op::Read { file: FileName::Manifest(Slot::Second), .. });
        second.then_some(IoError::Device(5))
    });
    world.log = log.unwrap();
    assert!(world.log.recovery().manifest_repaired);
    world.check();
}

#[test]
fn a_file_that_found_no_space_is_made_later_though_another_was_made_meanwhile() {
    let mut world = World::new(small());
    world.append(1, 100, 0);
    // The first segment and its spare are made at once, and only the spare finds space.
    let ops: Vec<_> = std::iter::from_fn(|| world.log.poll_op()).collect();
    let made = ops.iter().filter(|(_, op)| matches!(op, Op::Extend { .. })).count();
    assert_eq!(made, 2, "{ops:?}");
    let mut errors = std::iter::once(IoError::NoSpace);
    for (id, op) in ops {
        let refused = matches!(op, Op::Extend { .. }).then(|| errors.next()).flatten();
        let result = refused.map_or_else(|| world.disk.perform(op), Err);
        world.log.on_done(Done { id, result }, world.now());
    }
    world.run();
    assert_eq!(world.log.durable_end(), Offset::ZERO);
    tick(&mut world);
    world.check();
}

#[test]
fn a_write_that_found_no_descriptor_is_written_later() {
    let mut world = rolled();
    let before = world.log.durable_end();
    world.append(1, 100, 60);
    run_with(&mut world, |op| {
        let segment = matches!(op, Op::Write { file: FileName::Segment(_), .. });
        segment.then_some(IoError::NoDescriptors)
    });
    assert_eq!(world.log.poisoned(), None);
    assert_eq!(world.log.durable_end(), before, "nothing is called durable meanwhile");
    tick(&mut world);
    world.check();
}

#[test]
fn space_that_is_waited_for_is_asked_for_once_a_tick() {
    let mut world = World::new(LogConfig { segment_bytes: 1 << 20, ..small() });
    let mut refused = 0;
    let mut refuse = |world: &mut World| {
        run_with(world, |op| {
            let wants = matches!(op, Op::Extend { from, .. } if *from > Position::ZERO);
            refused += u32::from(wants);
            assert!(refused < 100, "a full disk is asked again and again");
            wants.then_some(IoError::NoSpace)
        });
        std::mem::take(&mut refused)
    };
    while !world.log.disk_full() || world.log.durable_end() == world.log.log_end() {
        if world.log.disk_full() {
            tick(&mut world);
        }
        world.append(1, 40_000, 1);
        refuse(&mut world);
    }
    for _ in 0..3 {
        tick(&mut world);
        assert_eq!(refuse(&mut world), 1);
    }
    tick(&mut world);
    world.run();
    assert_eq!(world.log.durable_end(), world.log.log_end());
    assert!(!world.log.disk_full());
    world.check();
}

#[test]
fn a_mark_that_waits_for_space_outlives_the_end_of_its_segment() {
    let config =
        LogConfig { segment_bytes: 1 << 20, segment_age: Duration::from_secs(1), ..small() };
    let mut world = World::new(config);
    let mut held = Vec::new();
    let hold = |world: &mut World, held: &mut Vec<_>| {
        while let Some((id, op)) = world.log.poll_op() {
            if matches!(op, Op::Extend { from, .. } if from > Position::ZERO) {
                held.push((id, op));
            } else {
                let result = world.disk.perform(op);
                world.log.on_done(Done { id, result }, world.now());
            }
        }
    };
    // The header and 15 blocks: all that is written with zeros at first.
    for time in 0..15 {
        world.append(1, 3_900, time);
        hold(&mut world, &mut held);
    }
    assert_eq!(world.log.durable_end(), world.log.log_end());
    world.clock += 20;
    let now = world.now();
    world.log.on_tick(now);
    hold(&mut world, &mut held);
    assert!(!world.log.is_idle() && !held.is_empty(), "the mark waits for zeros");
    let segments = world.log.segments();
    tick(&mut world);
    world.append(1, 3_900, 15);
    hold(&mut world, &mut held);
    assert!(world.log.segments() > segments, "its segment has ended by age");
    for (id, op) in held {
        let result = world.disk.perform(op);
        world.log.on_done(Done { id, result }, world.now());
    }
    world.check();
}

#[test]
fn a_segment_stays_until_its_index_is_written() {
    let mut world = World::new(small());
    let index = |op: &Op<Bytes>| matches!(op, Op::Write { file: FileName::Index(_), .. });
    let mut refused = 0;
    for time in 0..60 {
        world.append(1, 5_000, time);
        run_with(&mut world, |op| {
            refused += u32::from(index(op));
            index(op).then_some(IoError::NoDescriptors)
        });
    }
    assert!(refused > 0);
    let segments = world.log.segments();
    world.log.trim(world.log.durable_end()).unwrap();
    run_with(&mut world, |op| index(op).then_some(IoError::NoDescriptors));
    assert_eq!(world.log.segments(), segments, "what is derived from them stands nowhere else");
    tick(&mut world);
    world.run();
    tick(&mut world);
    world.run();
    assert!(world.log.segments() < segments);
    world.restart();
    assert_eq!(world.log.fold().len(), world.model.len());
}

#[test]
fn a_segment_stays_until_the_name_of_its_index_is_durable() {
    let mut world = World::new(LogConfig { segment_age: Duration::from_secs(1), ..small() });
    world.append(1, 100, 0);
    world.run();
    let unnamed =
        |op: &Op<Bytes>| matches!(op, Op::SyncDirectory).then_some(IoError::NoDescriptors);
    tick(&mut world);
    run_with(&mut world, unnamed);
    world.log.trim(world.log.durable_end()).unwrap();
    run_with(&mut world, unnamed);
    assert_eq!(world.log.segments(), 1, "what is derived from it stands nowhere else");
    tick(&mut world);
    world.run();
    assert_eq!(world.log.segments(), 0);
    world.restart();
    assert_eq!(world.log.fold().len(), 1);
}

/// A log of one sealed segment.
fn sealed() -> (World, FileName) {
    let mut world = World::new(LogConfig { segment_age: Duration::from_secs(1), ..small() });
    world.append(1, 100, 0);
    world.run();
    tick(&mut world);
    world.run();
    let index = world.disk.files.keys().find(|file| matches!(file, FileName::Index(_)));
    let index = *index.expect("the segment is sealed");
    (world, index)
}

#[test]
fn an_index_that_cannot_be_read_is_written_anew_before_its_segment_goes() {
    for torn in [true, false] {
        let (mut world, index) = sealed();
        if torn {
            world.disk.files.get_mut(&index).unwrap().fill(0);
        } else {
            world.disk.files.remove(&index);
        }
        world.restart();
        world.log.trim(world.log.durable_end()).unwrap();
        world.run();
        assert_eq!(world.log.segments(), 0);
        world.restart();
        assert!(!world.log.recovery().fold_lost);
        assert_eq!(world.log.fold().len(), 1);
    }
}

#[test]
fn an_index_that_may_still_be_on_its_way_is_settled_before_it_is_believed() {
    let (mut world, index) = sealed();
    let mut steps = Vec::new();
    world.log = open_with(&mut world, |op| {
        match op {
            Op::Claim { file } if *file == index => steps.push("claim"),
            Op::Sync { file } if *file == index => steps.push("sync"),
            Op::Read { file, .. } if *file == index => steps.push("read"),
            _ => {}
        }
        None
    })
    .unwrap();
    assert_eq!(steps, ["claim", "sync", "read"]);
}

/// A log whose last two records of five are gone, trimmed to `start`, with one record behind them
/// and nothing yet that says that it is durable. No index is written.
fn behind_damage(start: Offset) -> World {
    let mut world = World::new(small());
    for time in 0..5 {
        world.append(1, 1000, time);
        world.run();
    }
    world.clock += 50;
    let now = world.now();
    world.log.on_tick(now);
    world.run();
    // The last two records are gone, the mark behind them stays.
    let segment = FileName::Segment(FileNumber::new(1));
    world.disk.files.get_mut(&segment).unwrap()[4 * 4096..6 * 4096].fill(0);
    world.log = open_with(&mut world, no_index).unwrap();
    assert!(world.log.recovery().resumed_at_mark);
    world.log.trim(start).unwrap();
    run_with(&mut world, no_index);
    world.epoch = world.epoch.plus(1);
    world.append(1, 10, 99);
    run_with(&mut world, no_index);
    assert_eq!(world.log.durable_end(), Offset::new(6));
    world
}

fn no_index(op: &Op<Bytes>) -> Option<IoError> {
    let index = matches!(op, Op::Write { file: FileName::Index(_), .. });
    index.then_some(IoError::NoDescriptors)
}

#[test]
fn what_follows_trimmed_damage_is_kept_where_no_index_can_be_written() {
    // The log starts behind the damage, or in it and what lies before is damaged by now, too.
    for (start, lost) in [(5, false), (4, true), (5, true)] {
        let mut world = behind_damage(Offset::new(start));
        if lost {
            let segment = FileName::Segment(FileNumber::new(1));
            world.disk.files.get_mut(&segment).unwrap().fill(0);
        }
        for _ in 0..2 {
            world.log = open_with(&mut world, no_index).unwrap();
            let log = &world.log;
            assert_eq!((log.log_start(), log.log_end()), (Offset::new(start), Offset::new(6)));
            assert_eq!(world.read(Offset::new(5), 1).unwrap().len(), 1);
        }
    }
}

#[test]
fn recovery_keeps_nothing_of_what_it_has_read_while_it_reads_on() {
    let config = LogConfig { segment_bytes: 64 << 20, ..small() };
    let mut world = World::new(config);
    world.append(1, 10, 0);
    world.run();
    // Many groups together at the disk, of which the first is lost.
    let lost = world.log.log_end();
    for time in 0..8 {
        world.append(1, 900 << 10, time);
    }
    world.run();
    let segment = world.disk.files.keys().find(|file| matches!(file, FileName::Segment(_)));
    let segment = *segment.unwrap();
    let bytes = world.disk.files.get_mut(&segment).unwrap();
    bytes[12 << 10..400 << 10].fill(0);
    let now = Now { wall: Millis::new(0), monotonic: Duration::ZERO };
    let mut opening = Opening::new(identity(), config, false, Heap, Vec::new());
    let mut read: Vec<Bytes> = Vec::new();
    let log = loop {
        let (id, op): (OpId, _) = opening.poll_op().expect("opening goes on");
        // A read may wait until all that was read before is free.
        let of_segment = matches!(&op, Op::Read { file: FileName::Segment(_), .. });
        assert!(!of_segment || read.iter().all(Bytes::is_unique));
        let result = world.disk.perform(op);
        if let Ok(Outcome::Read(bytes)) = &result
            && of_segment
        {
            read.push(bytes.clone());
        }
        if let Some(log) = opening.on_done(Done { id, result }, now).unwrap() {
            break log;
        }
    };
    assert!(read.len() > 6 && log.recovery().batches_cut == 7, "{:?}", log.recovery());
    assert_eq!(log.log_end(), lost);
}
