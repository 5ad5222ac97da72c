//! What happens to bytes that were durable: found, marked, never served, never taken for a crash.

mod world;

use catena_format::{FileNumber, Offset};
use catena_log::{
    ReadError,
    io::{Done, FileName, Op},
};
use world::{World, open, small};

const SEGMENT: FileName = FileName::Segment(FileNumber::new(1));

/// `count` batches of one record, each in a group of its own: at block 1, 2, and so on.
fn world(count: i64) -> World {
    let mut world = World::new(small());
    for time in 0..count {
        world.append(1, 1000, time);
        world.run();
    }
    world
}

fn zero(world: &mut World, block: usize) {
    let bytes = world.disk.files.get_mut(&SEGMENT).unwrap();
    bytes[block * 4096..(block + 1) * 4096].fill(0);
}

fn reopen(world: &mut World) {
    world.log = open(&mut world.disk, world.config, false, world.clock).unwrap();
}

/// Which of `0..end` can be read, each from a read that starts there.
fn readable(world: &mut World, end: u64) -> Vec<u64> {
    let mut found = Vec::new();
    for offset in 0..end {
        match world.read(Offset::new(offset), 1) {
            Ok(batches) => {
                assert_eq!(batches[0], world.model[offset as usize].2, "offset {offset}");
                found.push(offset);
            }
            Err(ReadError::Damaged { next_readable }) => assert!(next_readable.get() > offset),
            Err(other) => panic!("{other}"),
        }
    }
    found
}

#[test]
fn a_rotten_batch_in_a_sealed_segment_is_damaged_alone() {
    let mut world = world(6);
    world.restart();
    for (block, byte) in [(2, 30), (4, 500)] {
        world.disk.files.get_mut(&SEGMENT).unwrap()[block * 4096 + byte] ^= 1;
    }
    assert_eq!(readable(&mut world, 6), [0, 2, 4, 5]);
    // It is remembered, and the log goes on.
    world.run();
    reopen(&mut world);
    assert_eq!(world.log.damaged().len(), 2);
    assert_eq!(world.log.log_end(), Offset::new(6));
    assert_eq!(readable(&mut world, 6), [0, 2, 4, 5]);
}

#[test]
fn a_segment_that_is_gone_is_damaged_as_a_whole_and_the_rest_is_served() {
    let mut world = world(4);
    world.restart();
    world.append(1, 1000, 9);
    world.run();
    world.disk.files.remove(&SEGMENT);
    world.epoch = world.epoch.next();
    reopen(&mut world);
    assert_eq!(world.log.log_end(), Offset::new(5));
    let missing = world.read(Offset::new(1), 1);
    assert!(missing.is_err(), "{missing:?}");
    assert_eq!(world.read(Offset::new(4), 1).unwrap().len(), 1);
}

#[test]
fn damage_below_what_later_frames_prove_durable_is_not_a_crash() {
    let mut world = world(6);
    zero(&mut world, 3);
    reopen(&mut world);
    assert_eq!(world.log.recovery().offsets_damaged, 1);
    assert_eq!(world.log.log_end(), Offset::new(6));
    assert_eq!(readable(&mut world, 6), [0, 1, 3, 4, 5]);
}

#[test]
fn a_hole_that_nobody_proves_durable_is_where_the_log_ends() {
    let mut world = world(3);
    // Groups on their way together: the last of them says that only the first three batches were
    // durable when it left.
    let mut writes = Vec::new();
    for time in 10..13 {
        world.append(1, 20_000, time);
        while let Some((id, op)) = world.log.poll_op() {
            if let Op::Write { file: SEGMENT, position, bytes, .. } = op {
                writes.push((position, bytes));
            } else {
                let result = world.disk.perform(op);
                world.log.on_done(Done { id, result }, world.now());
            }
        }
        world.append(1, 66_000 / 2, time);
    }
    assert!(writes.len() >= 2, "several writes are in flight");
    // The crash loses the first of them and keeps the others.
    for (position, bytes) in writes.into_iter().skip(1) {
        let at = position.get() as usize;
        let file = world.disk.files.get_mut(&SEGMENT).unwrap();
        let end = file.len().max(at + bytes.len());
        file.resize(end, 0);
        file[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    reopen(&mut world);
    assert_eq!(world.log.recovery().offsets_damaged, 0);
    assert!(world.log.recovery().batches_cut > 0);
    assert_eq!(world.log.log_end(), Offset::new(3));
}

#[test]
fn a_log_that_lost_its_durable_end_goes_on_at_the_mark() {
    let mut world = world(5);
    world.clock += 50;
    let now = world.now();
    world.log.on_tick(now);
    world.run();
    // Batches 3 and 4 are gone, the mark behind them stays.
    zero(&mut world, 4);
    zero(&mut world, 5);
    reopen(&mut world);
    assert!(world.log.recovery().resumed_at_mark);
    assert_eq!(world.log.log_end(), Offset::new(5));
    assert_eq!(readable(&mut world, 5), [0, 1, 2]);
    // No offset is given twice: the next append goes behind the gap.
    world.epoch = world.epoch.next();
    world.append(1, 10, 99);
    world.run();
    assert_eq!(world.log.durable_end(), Offset::new(6));
    assert_eq!(world.read(Offset::new(5), 1).unwrap().len(), 1);
    reopen(&mut world);
    assert_eq!(world.log.log_end(), Offset::new(6));
    assert_eq!(readable(&mut world, 6), [0, 1, 2, 5]);
}
