//! What happens to bytes that were durable: found, marked, never served, never taken for a crash.

mod world;

use catena_format::{FileNumber, Millis, Offset, checksum};
use catena_log::{
    Event, LogConfig, OpenError, ReadAnswer, ReadError, ReadOutcome, RecoveryReport,
    io::{Done, FileName, Op, Slot},
};
use world::{World, open, small, tick};

const SEGMENT: FileName = FileName::Segment(FileNumber::new(1));

/// `count` batches of one record, each in a group of its own: at block 1, 2, and so on.
fn world(count: i64) -> World {
    world_of(small(), count)
}

fn world_of(config: LogConfig, count: i64) -> World {
    let mut world = World::new(config);
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
fn batches_behind_a_rotten_header_in_the_last_group_of_a_segment_are_served() {
    let mut world = World::new(small());
    for time in 0..3 {
        world.append(1, 300, time);
    }
    world.restart();
    // The second frame of the one group, behind 64 bytes of header and 361 of batch.
    world.disk.files.get_mut(&SEGMENT).unwrap()[4096 + 432 + 20] ^= 1;
    assert_eq!(readable(&mut world, 3), [0, 2]);
    reopen(&mut world);
    assert_eq!(readable(&mut world, 3), [0, 2]);
}

#[test]
fn a_segment_that_is_gone_is_damaged_as_a_whole_and_the_rest_is_served() {
    let mut world = world(4);
    world.restart();
    world.append(1, 1000, 9);
    world.run();
    world.disk.files.remove(&SEGMENT);
    world.epoch = world.epoch.plus(1);
    reopen(&mut world);
    assert_eq!(world.log.log_end(), Offset::new(5));
    assert_eq!(world.log.damaged(), vec![Offset::new(0)..Offset::new(4)]);
    assert_eq!(world.log.recovery().offsets_damaged, 4);
    assert_eq!(readable(&mut world, 5), [4]);
}

#[test]
fn the_same_damage_found_again_changes_nothing() {
    let mut world = world(3);
    world.restart();
    world.append(1, 1000, 9);
    world.run();
    world.log.close();
    world.run();
    let last = |name: &&FileName| matches!(name, FileName::Segment(file) if file.get() > 1);
    let last = *world.disk.files.keys().find(last).unwrap();
    world.disk.files.remove(&last);
    reopen(&mut world);
    assert_eq!(world.log.damaged(), vec![Offset::new(3)..Offset::new(4)]);
    let files = world.disk.files.clone();
    reopen(&mut world);
    assert!(world.disk.files == files, "a start writes though nothing had to change");
}

#[test]
fn a_segment_that_goes_while_the_log_is_open_is_damaged_and_no_read_is_tried_for_ever() {
    for scrubbed in [false, true] {
        let mut world = world(4);
        world.restart();
        world.append(1, 1000, 9);
        world.disk.files.remove(&SEGMENT);
        world.run();
        while scrubbed && world.log.scrub(0).is_some() {
            world.run();
        }
        let known = if scrubbed { vec![Offset::new(0)..Offset::new(4)] } else { vec![] };
        assert_eq!(world.log.damaged(), known);
        assert_eq!(readable(&mut world, 5), [4]);
        assert_eq!(world.log.damaged(), vec![Offset::new(0)..Offset::new(4)]);
    }
}

/// Cuts the segment, or fills it with zeros, from a block on: its last batch and what proves it.
fn cut_off(world: &mut World, block: usize, zeros: bool) {
    let bytes = world.disk.files.get_mut(&SEGMENT).unwrap();
    match zeros {
        true => bytes[block * 4096..].fill(0),
        false => bytes.truncate(block * 4096),
    }
}

/// The last of three batches is gone, and that is known; its offset is not given again.
fn the_last_is_missed(world: &mut World) {
    for _ in 0..2 {
        world.epoch = world.epoch.plus(1);
        reopen(world);
        assert_eq!(world.log.damaged(), vec![Offset::new(2)..Offset::new(3)]);
        assert_eq!(world.log.log_end(), Offset::new(3));
        assert_eq!(readable(world, 3), [0, 1]);
    }
    world.append(1, 1000, 9);
    world.run();
    assert_eq!(readable(world, 4), [0, 1, 3]);
}

#[test]
fn a_segment_cut_off_after_a_clean_stop_is_damage() {
    for zeros in [false, true] {
        let mut world = world(3);
        world.log.close();
        world.run();
        assert!(world.log.is_idle());
        cut_off(&mut world, 3, zeros);
        the_last_is_missed(&mut world);
    }
}

#[test]
fn a_segment_of_an_idle_log_that_is_cut_off_is_damage() {
    for zeros in [false, true] {
        let mut world = world(3);
        for _ in 0..6 {
            tick(&mut world);
            world.run();
        }
        cut_off(&mut world, 3, zeros);
        the_last_is_missed(&mut world);
    }
}

#[test]
fn a_log_tells_its_end_once_in_a_pause_and_never_in_steady_use() {
    // Large segments: none is begun.
    let mut world = world_of(LogConfig::default(), 3);
    let begun = world.log.stats().manifests;
    for time in 0..8 {
        for _ in 0..4 {
            tick(&mut world);
            world.run();
        }
        world.append(1, 1000, time);
        world.run();
    }
    assert_eq!(world.log.stats().manifests, begun);
    for pause in 1..=2 {
        for _ in 0..20 {
            tick(&mut world);
            world.run();
        }
        assert_eq!(world.log.stats().manifests, begun + pause);
        world.append(1, 1000, 0);
        world.run();
    }
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
fn the_last_batch_stays_when_the_one_before_it_is_damaged() {
    let mut world = world(6);
    // All that proves it durable is the durable end in the header of the last one.
    zero(&mut world, 5);
    reopen(&mut world);
    assert_eq!(world.log.recovery().offsets_damaged, 1);
    assert_eq!(world.log.log_end(), Offset::new(6));
    assert_eq!(readable(&mut world, 6), [0, 1, 2, 3, 5]);
}

#[test]
fn the_file_stays_in_which_nothing_that_was_durable_can_be_read() {
    let mut world = world(3);
    for block in 1..4 {
        world.disk.files.get_mut(&SEGMENT).unwrap()[block * 4096 + 500] ^= 1;
    }
    let rotten = world.disk.files[&SEGMENT].clone();
    // The headers prove the first two batches.
    for _ in 0..2 {
        world.epoch = world.epoch.plus(1);
        reopen(&mut world);
        assert_eq!(world.log.log_end(), Offset::new(2));
        assert_eq!(readable(&mut world, 2), [0u64; 0]);
        assert_eq!(world.disk.files[&SEGMENT], rotten);
    }
    world.model.truncate(2);
    world.append(1, 1000, 9);
    world.run();
    // No time is as early as that of a log without batches: the search begins in that file.
    let found = match world.log.offset_for_time(Millis::new(-1), Offset::new(3)) {
        ReadOutcome::Ready(found) => found,
        ReadOutcome::Pending(_) => match world.run().pop() {
            Some(Event::Read(_, Ok(ReadAnswer::Offset(found)))) => found,
            other => panic!("{other:?}"),
        },
    };
    assert_eq!(found, Some(Offset::new(2)));
    world.restart();
    assert_eq!(readable(&mut world, 3), [2]);
    // It goes with the offsets.
    world.log.trim(Offset::new(3)).unwrap();
    world.run();
    assert!(!world.disk.files.contains_key(&SEGMENT));
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
    let RecoveryReport { batches_cut, bytes_cut, .. } = *world.log.recovery();
    let cut = &world.model[world.model.len() - batches_cut as usize..];
    assert!(batches_cut > 0);
    assert_eq!(bytes_cut, cut.iter().map(|batch| batch.2.len() as u64).sum::<u64>());
    let told = format!("{batches_cut} unacknowledged cut off ({bytes_cut} bytes)");
    assert!(world.log.recovery().to_string().contains(&told));
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
    let told = world.log.recovery().to_string();
    assert!(told.contains("2 acknowledged offsets cannot be read any more"), "{told}");
    assert_eq!(world.log.log_end(), Offset::new(5));
    assert_eq!(readable(&mut world, 5), [0, 1, 2]);
    // No offset is given twice: the next append goes behind the gap.
    world.epoch = world.epoch.plus(1);
    world.append(1, 10, 99);
    world.run();
    assert_eq!(world.log.durable_end(), Offset::new(6));
    assert_eq!(world.read(Offset::new(5), 1).unwrap().len(), 1);
    reopen(&mut world);
    assert_eq!(world.log.log_end(), Offset::new(6));
    assert_eq!(readable(&mut world, 6), [0, 1, 2, 5]);
}

fn number(world: &World) -> u64 {
    let segments = world.disk.files.keys().filter_map(|file| match file {
        FileName::Segment(number) => Some(number.get()),
        _ => None,
    });
    segments.max().expect("the log has a segment")
}

#[test]
fn a_leftover_file_keeps_its_number_to_itself_for_ever() {
    let mut world = world(2);
    world.restart();
    // What an append that failed left behind: a file that no manifest names.
    let left = number(&world) + 5;
    world.disk.files.insert(FileName::Segment(FileNumber::new(left)), vec![0; 4096]);
    reopen(&mut world);
    assert!(!world.disk.files.contains_key(&FileName::Segment(FileNumber::new(left))));
    reopen(&mut world);
    world.epoch = world.epoch.plus(1);
    world.append(1, 10, 9);
    world.run();
    assert!(number(&world) > left, "file {} was given twice", number(&world));
}

#[test]
fn a_frame_of_a_later_version_ends_the_opening_and_changes_nothing() {
    let mut world = world(3);
    let seed = [3u64, 1, 4 * 4096].map(u64::to_le_bytes).concat();
    let mut later = vec![9; 80 + 16];
    later[..6].copy_from_slice(&[b'C', b'T', b'N', b'F', 2, 80]);
    let crc = checksum::crc32_of(&[&seed, &later[..76], &later[80..]]);
    later[76..80].copy_from_slice(&crc.to_le_bytes());
    world.disk.files.get_mut(&SEGMENT).unwrap()[4 * 4096..][..96].copy_from_slice(&later);
    let before = world.disk.files.clone();
    let refused = open(&mut world.disk, world.config, false, world.clock).err();
    assert_eq!(refused, Some(OpenError::Unsupported(FileNumber::new(1))));
    assert_eq!(world.disk.files, before);
    // The same bytes elsewhere are damage: they do not belong there.
    zero(&mut world, 4);
    world.disk.files.get_mut(&SEGMENT).unwrap()[5 * 4096..][..96].copy_from_slice(&later);
    reopen(&mut world);
    assert_eq!(world.log.log_end(), Offset::new(3));
}

#[test]
fn a_manifest_of_a_later_version_is_never_overwritten_by_an_older_copy() {
    let mut world = world(2);
    world.restart();
    let second = world.disk.files.get_mut(&FileName::Manifest(Slot::Second)).unwrap();
    second[8] = 3;
    let length = u64::from_le_bytes(second[16..24].try_into().unwrap()) as usize;
    let crc = checksum::crc32_of(&[&second[..12], &second[16..32 + length]]);
    second[12..16].copy_from_slice(&crc.to_le_bytes());
    let before = world.disk.files.clone();
    let refused = open(&mut world.disk, world.config, false, world.clock).err();
    assert!(matches!(refused, Some(OpenError::Manifest(_))), "{refused:?}");
    assert_eq!(world.disk.files, before);
}
