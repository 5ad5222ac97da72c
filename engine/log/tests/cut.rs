//! A log that is cut, as another one says: what stays, what never comes back, and a crash between.

mod world;

use bytes::Bytes;
use catena_format::{BatchHeader, Epoch, Millis, Offset, PartitionUid, frame};
use catena_log::{
    Cut, Fold, LogConfig, OpenError, Opening, ReadError, ReadOutcome, Stamp,
    io::{Done, FileName, Heap, IoError, Op, OpId, Outcome},
};

use crate::world::{TestLog, World, batch, identity, open, rolled, small};

/// Cuts the log of a world; the process ends before operation number `crash`.
fn cut_until(world: &mut World, cut: Cut, crash: usize) -> Result<Option<TestLog>, OpenError> {
    world.run();
    let mut opening = Opening::new(identity(), world.config, false, Heap, Vec::new()).cut(cut);
    for _ in 0..crash {
        let (id, op): (OpId, _) = opening.poll_op().expect("opening goes on");
        let result = world.disk.perform(op);
        let done = opening.on_done(Done { id, result }, world.now())?;
        if done.is_some() {
            return Ok(done);
        }
    }
    Ok(None)
}

fn cut(world: &mut World, at: Offset) {
    world.log = cut_until(world, Cut::Behind(at), usize::MAX).unwrap().expect("it is open");
    forget(world, at);
}

fn forget(world: &mut World, at: Offset) {
    world.model.retain(|batch| batch.1 <= at);
}

/// Where batches end, and where the log begins.
fn ends(world: &World) -> Vec<Offset> {
    [Offset::ZERO].into_iter().chain(world.model.iter().map(|batch| batch.1)).collect()
}

fn varied() -> World {
    let mut world = World::new(small());
    for time in 0..90 {
        world.append(1 + time as u32 % 3, 2_000 + 100 * time as usize, time);
        if time % 7 == 0 {
            world.run();
        }
        if time % 31 == 30 {
            world.restart();
        }
    }
    assert!(world.log.segments() >= 5);
    world
}

#[test]
fn a_cut_log_is_what_it_was_up_to_there_and_goes_on() {
    for at in (0..=90).rev().step_by(7) {
        let mut world = varied();
        let end = ends(&world)[at];
        cut(&mut world, end);
        world.check();
        assert!(world.log.epochs().iter().all(|(_, start)| *start < end));
        world.epoch = world.epoch.plus(1);
        for time in 0..30 {
            world.append(2, 3_000, 100 + time);
        }
        world.check();
        world.restart();
        world.check();
    }
}

#[test]
fn logs_are_cut_again_and_again() {
    let mut world = varied();
    for round in 0..12 {
        let ends = ends(&world);
        let keep = ends[ends.len() * 4 / 5];
        cut(&mut world, keep);
        world.epoch = world.epoch.plus(1);
        for time in 0..5 {
            world.append(1, 9_000, 200 + round * 5 + time);
        }
        world.check();
    }
    world.restart();
    world.check();
}

#[test]
fn a_crash_within_a_cut_leaves_the_log_as_it_was_or_cut() {
    let (mut before, mut after) = (0, 0);
    for crash in 0.. {
        let mut world = varied();
        let keep = ends(&world)[50];
        let whole = world.log.log_end();
        let done = cut_until(&mut world, Cut::Behind(keep), crash).unwrap();
        if done.is_some() {
            break;
        }
        world.restart();
        let end = world.log.log_end();
        assert!(end == keep || end == whole, "after {crash} operations it ends at {end}");
        let was_cut = end == keep;
        assert!(was_cut || after == 0, "it was cut before");
        before += u32::from(!was_cut);
        after += u32::from(was_cut);
        if was_cut {
            forget(&mut world, keep);
        }
        world.check();
        cut(&mut world, keep);
        world.check();
    }
    assert!(before > 3 && after > 3, "{before} {after}");
}

#[test]
fn a_log_is_not_cut_where_that_cannot_be_written_and_later_it_is() {
    for error in [IoError::NoSpace, IoError::NoDescriptors, IoError::Device(5)] {
        let mut world = rolled();
        world.run();
        let keep = ends(&world)[20];
        let mut opening =
            Opening::new(identity(), world.config, false, Heap, Vec::new()).cut(Cut::Behind(keep));
        let failed = loop {
            let (id, op): (OpId, _) = opening.poll_op().expect("opening goes on");
            let manifest = matches!(op, Op::Write { file: FileName::Manifest(_), .. });
            let result = if manifest { Err(error) } else { world.disk.perform(op) };
            match opening.on_done(Done { id, result }, world.now()) {
                Ok(None) => {}
                Ok(Some(_)) => panic!("it is taken for cut"),
                Err(failed) => break failed,
            }
        };
        assert_eq!(failed, OpenError::Io(error));
        cut(&mut world, keep);
        world.check();
    }
}

#[test]
fn what_lies_below_the_log_start_is_not_cut() {
    let mut world = rolled();
    world.run();
    world.log.trim(Offset::new(30)).unwrap();
    world.run();
    let refused = cut_until(&mut world, Cut::Behind(Offset::new(29)), usize::MAX);
    assert_eq!(refused.map(|_| ()), Err(OpenError::Cut(Offset::new(29))));
    cut(&mut world, Offset::new(30));
    assert_eq!((world.log.log_start(), world.log.log_end()), (Offset::new(30), Offset::new(30)));
    world.restart();
    assert_eq!(world.log.log_end(), Offset::new(30));
}

#[test]
fn a_log_begins_anew_elsewhere_with_what_is_derived_from_before() {
    let folded: Vec<u64> = (0..1000).collect();
    let first = Offset::new(1000);
    let (mut before, mut after) = (0, 0);
    for crash in (0..).chain([usize::MAX]) {
        let mut world = varied();
        let whole = world.log.log_end();
        let all = Cut::All { first, fold: folded.snapshot() };
        let done = cut_until(&mut world, all.clone(), crash).unwrap();
        let is_done = done.is_some();
        drop(done);
        world.restart();
        if world.log.log_end() == whole {
            assert_eq!(after, 0);
            before += 1;
            world.check();
            continue;
        }
        after += 1;
        assert_eq!((world.log.log_start(), world.log.log_end()), (first, first));
        assert_eq!((world.log.fold(), world.log.epochs()), (&folded, [].as_slice()));
        for time in 0..3 {
            let bytes = batch(1, 50, time);
            let header = BatchHeader::parse(&bytes).unwrap();
            let crc = frame::payload_crc(&bytes);
            world.log.append(&bytes, &header, crc, world.epoch, world.now()).unwrap();
        }
        world.run();
        world.restart();
        assert_eq!((world.log.log_start(), world.log.log_end()), (first, Offset::new(1003)));
        assert_eq!(world.log.fold().len(), 1003);
        assert!(matches!(world.read(Offset::new(999), 100), Err(ReadError::OutOfRange { .. })));
        assert_eq!(world.read(first, 100_000).unwrap().len(), 3);
        if is_done {
            break;
        }
    }
    assert!(before > 3 && after > 3, "{before} {after}");
}

#[test]
fn what_nobody_can_read_is_nothing_to_begin_with() {
    let mut world = rolled();
    let all = Cut::All { first: Offset::new(7), fold: vec![1, 2, 3] };
    let refused = cut_until(&mut world, all, usize::MAX);
    assert_eq!(refused.map(|_| ()), Err(OpenError::Cut(Offset::new(7))));
    world.restart();
    world.check();
}

/// Batches of one log, stored in another as they are.
#[test]
fn a_copy_is_the_original_batch_by_batch() {
    let mut world = varied();
    world.run();
    let (mut disk, config) = (world::Disk::default(), LogConfig { ..small() });
    let mut copy = open(&mut disk, config, true, 0).unwrap();
    let mut at = Offset::ZERO;
    let end = world.log.log_end();
    while at < end {
        let batches = match world.log.read(at, 30_000, end).unwrap() {
            ReadOutcome::Ready(batches) => batches,
            ReadOutcome::Pending(_) => match world.run().pop() {
                Some(catena_log::Event::Read(_, Ok(catena_log::ReadAnswer::Batches(batches)))) => {
                    batches
                }
                other => panic!("{other:?}"),
            },
        };
        at = batches.next;
        for (bytes, stamp) in batches.shares.iter().zip(&batches.stamps) {
            append(&mut copy, bytes, *stamp, &world);
        }
        run(&mut copy, &mut disk, &world);
    }
    assert_eq!((copy.log_end(), copy.durable_end()), (end, end));
    assert_eq!((copy.epochs(), copy.fold()), (world.log.epochs(), world.log.fold()));
    world.disk = disk;
    world.log = copy;
    world.check();
    world.restart();
    world.check();
}

fn append(log: &mut TestLog, bytes: &Bytes, stamp: Stamp, world: &World) {
    assert_eq!(stamp.payload_crc, frame::payload_crc(bytes));
    assert!(stamp.append_time >= Millis::new(1_000_000));
    let header = BatchHeader::parse(bytes).unwrap();
    let appended = log.append_copy(bytes, &header, stamp, world.now()).unwrap();
    assert_eq!(appended.append_time, stamp.append_time);
}

fn run(log: &mut TestLog, disk: &mut world::Disk, world: &World) {
    while let Some((id, op)) = log.poll_op() {
        let result = disk.perform(op);
        log.on_done(Done { id, result }, world.now());
    }
}

#[test]
fn a_log_that_was_never_cut_is_written_as_it_always_was() {
    let mut world = rolled();
    world.run();
    let version = |world: &World| {
        let manifest = FileName::parse("manifest.0").unwrap();
        world.disk.files[&manifest][8]
    };
    assert_eq!(version(&world), 1);
    cut(&mut world, Offset::new(9));
    world.run();
    assert_eq!(version(&world), 2);
    world.restart();
    world.check();
    assert_eq!((identity().uid, world.epoch), (PartitionUid::new(3), Epoch::new(2)));
}

#[test]
fn an_epoch_of_which_a_crash_left_nothing_is_none() {
    let mut world = rolled();
    world.run();
    let end = world.log.log_end();
    world.epoch = Epoch::new(5);
    world.append(1, 100, 1_000);
    // The manifest is there that names the segment, and nothing of the segment.
    while let Some((id, op)) = world.log.poll_op() {
        let named = matches!(op, Op::Write { file: FileName::Manifest(_), .. });
        let group = matches!(op, Op::Write { file: FileName::Segment(_), .. });
        let result = if group { Ok(Outcome::Unit) } else { world.disk.perform(op) };
        if named {
            break;
        }
        if !group {
            world.log.on_done(Done { id, result }, world.now());
        }
    }
    world.log = open(&mut world.disk, world.config, false, world.clock).unwrap();
    assert_eq!((world.log.log_end(), world.log.last_epoch()), (end, Some(Epoch::new(1))));
    // What stands there is of an older epoch, as another log has it.
    let mut bytes = batch(1, 100, 2_000);
    catena_format::batch::patch(&mut bytes, end, Epoch::new(1));
    let header = BatchHeader::parse(&bytes).unwrap();
    let stamp = Stamp { append_time: Millis::new(0), payload_crc: frame::payload_crc(&bytes) };
    world.log.append_copy(&bytes, &header, stamp, world.now()).unwrap();
    world.run();
    assert_eq!(world.log.epochs(), [(Epoch::new(1), Offset::ZERO)]);
    world.log = open(&mut world.disk, world.config, false, world.clock).unwrap();
    assert_eq!(world.log.log_end(), Offset::new(end.get() + 1));
    assert_eq!(world.log.epochs(), [(Epoch::new(1), Offset::ZERO)]);
}
