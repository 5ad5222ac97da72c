//! Scrub: what has rotted is found and marked as a read would mark it, and nothing else is.

mod world;

use std::collections::BTreeSet;

use bytes::Bytes;
use catena_format::{FileNumber, Offset};
use catena_log::{
    Event, Finding, LogConfig, ReadAnswer, ReadError, ReadOutcome,
    io::{Done, FileName, IoError, Op, Outcome},
    scrub::SCRUB_BYTES,
};
use world::{World, open, small};

const EIO: IoError = IoError::Device(5);

/// A log of several segments, all but the last sealed, with batches of some blocks each.
fn world() -> World {
    let mut world = World::new(small());
    for time in 0..80 {
        world.append(1, 5_000, time);
        world.run();
    }
    assert!(world.log.segments() >= 4);
    world
}

/// One of which each segment takes several reads.
fn large_world() -> World {
    let mut world = World::new(LogConfig { segment_bytes: 2 << 20, ..small() });
    for time in 0..90 {
        world.append(1, 60_000, time);
        world.run();
    }
    assert!(world.log.segments() >= 3);
    assert!(world.disk.files[&segment(1)].len() > 3 * SCRUB_BYTES);
    world
}

type Answer = Result<Outcome<Bytes>, IoError>;

/// The scrub goes through all sealed segments; `befall` may change what its reads bring.
fn scrub_with(
    world: &mut World,
    mut befall: impl FnMut(&Op<Bytes>, Answer) -> Answer,
) -> Vec<Finding> {
    let mut found = Vec::new();
    while world.log.scrub(0).is_some() {
        while let Some((id, op)) = world.log.poll_op() {
            let result = world.disk.perform(op.clone());
            let of_scrub = matches!(op, Op::Read { .. });
            let result = if of_scrub { befall(&op, result) } else { result };
            world.log.on_done(Done { id, result }, world.now());
        }
        found.extend(std::iter::from_fn(|| world.log.poll_event()).filter_map(
            |event| match event {
                Event::Found(finding) => Some(finding),
                _ => None,
            },
        ));
    }
    found
}

fn scrub(world: &mut World) -> Vec<Finding> {
    scrub_with(world, |_, result| result)
}

fn segment(number: u64) -> FileName {
    FileName::Segment(FileNumber::new(number))
}

fn index(number: u64) -> FileName {
    FileName::Index(FileNumber::new(number))
}

fn flip(world: &mut World, file: FileName, at: usize) {
    world.disk.files.get_mut(&file).unwrap()[at] ^= 1;
}

/// The offsets of the batch that stands at `block` of a segment of [`world`], from the model.
fn offset_at(world: &World, file: FileName, block: usize) -> u64 {
    let bytes = &world.disk.files[&file][block * 4096..];
    assert_eq!(&bytes[..4], b"CTNF", "a frame begins at block {block}");
    u64::from_le_bytes(bytes[16..24].try_into().unwrap())
}

#[test]
fn rot_is_found_and_marked_as_a_read_marks_it() {
    let mut world = world();
    // In a batch, in a frame header, and in the last batch of a segment.
    let blocks = world.disk.files[&segment(2)].len() / 4096;
    let last =
        (1..blocks).rfind(|b| world.disk.files[&segment(2)][b * 4096..].starts_with(b"CTNF"));
    let rotten = [(segment(1), 3, 500), (segment(1), 7, 30), (segment(2), last.unwrap(), 4_000)];
    let lost = rotten.map(|(file, block, at)| {
        let offset = offset_at(&world, file, block);
        flip(&mut world, file, block * 4096 + at);
        offset
    });
    let found = scrub(&mut world);
    assert_eq!(found.len(), 3, "{found:?}");
    for (finding, (rot, offset)) in found.iter().zip(rotten.iter().zip(lost)) {
        let Finding::Damaged { file, offsets, positions, by_scrub: true } = finding else {
            panic!("{finding:?}")
        };
        assert_eq!((file, offsets.start.get(), offsets.end.get()), (&rot.0, offset, offset + 1));
        let at = (rot.1 * 4096 + rot.2) as u64;
        assert!((positions.start.get()..positions.end.get()).contains(&at), "{finding:?}");
    }
    let told = found[0].to_string();
    assert!(told.starts_with("0000000000000001.seg: offsets"), "{told}");
    assert_eq!(world.log.stats().damaged_found, 3);
    // It is in the books, and nothing is found twice.
    assert_eq!(scrub(&mut world), []);
    world.log = open(&mut world.disk, world.config, false, world.clock).unwrap();
    assert_eq!(scrub(&mut world), []);
    assert_eq!(world.log.stats().scrub_contradicted, 0);
    for (offset, ..) in world.model.clone() {
        let read = world.read(offset, 1);
        if lost.contains(&offset.get()) {
            let next_readable = Offset::new(offset.get() + 1);
            assert_eq!(read.unwrap_err(), ReadError::Damaged { next_readable });
        } else {
            assert_eq!(read.unwrap()[0], world.model[offset.get() as usize].2);
        }
    }
}

#[test]
fn a_batch_that_rotted_before_it_was_framed_is_found_too() {
    let mut world = World::new(small());
    let mut bytes = world::batch(1, 100, 0);
    bytes[100] ^= 1;
    let header = catena_format::BatchHeader::parse(&bytes).unwrap();
    let crc = catena_format::frame::payload_crc(&bytes);
    world.log.append(&bytes, &header, crc, world.epoch, world.now()).unwrap();
    world.run();
    world.log = open(&mut world.disk, world.config, false, world.clock).unwrap();
    let found = scrub(&mut world);
    assert!(matches!(&found[..], [Finding::Damaged { .. }]), "{found:?}");
}

#[test]
fn what_is_intact_is_never_marked() {
    let config = LogConfig { segment_bytes: 1 << 20, ..small() };
    let mut world = World::new(config);
    for time in 0..60 {
        // Some share a group, some are larger than what the scrub reads at once.
        let filler = [10, 3_000, 70_000, SCRUB_BYTES + 5_000][time as usize % 4];
        world.append(1 + time as u32 % 5, filler, time);
        if time % 3 == 0 {
            world.run();
        }
        if time % 7 == 0 {
            world.clock += 20;
            let now = world.now();
            world.log.on_tick(now);
        }
        if time % 20 == 19 {
            world.restart();
        }
        if time == 40 {
            world.run();
            world.log.trim(Offset::new(17)).unwrap();
        }
    }
    world.run();
    world.clock += 77;
    let before = world.log.stats().scrubbed_bytes;
    assert_eq!(scrub(&mut world), []);
    assert_eq!(world.log.damaged(), []);
    let stats = world.log.stats();
    let read = stats.scrubbed_bytes - before;
    assert!(read >= 4 << 20, "only {read} bytes were read");
    assert_eq!((stats.scrub_errors, stats.scrub_contradicted), (0, 0));
    assert_eq!(world.log.unchecked_since(), Some(world.now().monotonic));
    world.check();
}

#[test]
fn one_bad_read_is_not_believed() {
    let mut world = world();
    let mut read = BTreeSet::new();
    let found = scrub_with(&mut world, |op, result| {
        let Op::Read { file, position, .. } = op else { unreachable!() };
        let mut bytes = result?.into_read().to_vec();
        // Each place once.
        for (byte, at) in bytes.iter_mut().zip(position.get()..) {
            if at % 20_480 == 8_192 && matches!(file, FileName::Segment(_)) {
                *byte ^= u8::from(read.insert((*file, at)));
            }
        }
        Ok(Outcome::Read(bytes.into()))
    });
    assert_eq!(found, []);
    assert_eq!(world.log.damaged(), []);
    assert!(world.log.stats().scrub_contradicted >= 3, "{:?}", world.log.stats());
    world.check();
}

#[test]
fn one_bad_read_for_a_reader_is_not_believed_either() {
    for trimmed in [false, true] {
        let mut world = world();
        world.restart();
        let offset = offset_at(&world, segment(1), 3);
        let id = match world.log.read(Offset::new(offset), 1, world.log.durable_end()).unwrap() {
            ReadOutcome::Pending(id) => id,
            ReadOutcome::Ready(_) => panic!("nothing is in memory after a start"),
        };
        let mut bad = 0;
        while let Some((id, op)) = world.log.poll_op() {
            let mut result = world.disk.perform(op.clone());
            if matches!(op, Op::Read { file: FileName::Segment(_), .. }) && bad == 0 {
                bad += 1;
                let read = result.unwrap().into_read();
                result = Ok(Outcome::Read(vec![0; read.len()].into()));
                if trimmed {
                    // What is below the log start matters no more, and is no more damaged for that.
                    world.log.trim(world.log.durable_end()).unwrap();
                    world.run();
                    assert!(world.log.log_start() > Offset::new(offset));
                }
            }
            world.log.on_done(Done { id, result }, world.now());
        }
        let mut events = std::iter::from_fn(|| world.log.poll_event());
        let read = events.find_map(|event| match event {
            Event::Read(done, answer) => Some((done, answer)),
            _ => None,
        });
        let Some((done, Ok(ReadAnswer::Batches(batches)))) = read else {
            panic!("the second read is good: {read:?}")
        };
        assert_eq!((done, bad), (id, 1));
        assert_eq!(batches.shares[0], world.model[offset as usize].2);
        assert_eq!(world.log.damaged(), []);
    }
}

#[test]
fn what_cannot_be_read_is_told_and_not_marked() {
    let mut world = large_world();
    world.restart();
    world.clock += 99;
    // Rot behind the place that cannot be read, in the same segment.
    let behind = 700_000;
    let block =
        (behind / 4096..).find(|b| world.disk.files[&segment(1)][b * 4096..].starts_with(b"CTNF"));
    let block = block.unwrap();
    let offset = offset_at(&world, segment(1), block);
    flip(&mut world, segment(1), block * 4096 + 100);
    let found = scrub_with(&mut world, |op, result| match op {
        Op::Read { file, position, length } if *file == segment(1) => {
            let there = position.get()..position.get() + *length as u64;
            if there.contains(&400_000) { Err(EIO) } else { result }
        }
        _ => result,
    });
    let [Finding::Unreadable { file, position, why: ReadError::Io(EIO) }, damaged] = &found[..]
    else {
        panic!("{found:?}")
    };
    assert!(*file == segment(1) && position.get() <= 400_000);
    let Finding::Damaged { offsets, .. } = damaged else { panic!("{damaged:?}") };
    assert_eq!((offsets.start.get(), offsets.end.get()), (offset, offset + 1));
    assert_eq!(world.log.damaged(), [Offset::new(offset)..Offset::new(offset + 1)]);
    assert_eq!(world.log.stats().scrub_errors, 2);
    // What was left out was not checked.
    assert!(world.log.unchecked_since().unwrap() < world.now().monotonic);
}

#[test]
fn a_segment_that_is_dropped_meanwhile_is_left() {
    for in_flight in [false, true] {
        let mut world = large_world();
        // The index, and then a part of the first segment.
        for _ in 0..2 {
            world.log.scrub(0).unwrap();
            world.run();
        }
        flip(&mut world, segment(1), 300_000);
        flip(&mut world, segment(1), 700_000);
        let mut held = None;
        if in_flight {
            world.log.scrub(u64::MAX).unwrap();
            held = world.log.poll_op();
            assert!(held.is_some());
        }
        world.log.trim(world.log.durable_end()).unwrap();
        world.run();
        assert!(world.log.segments() <= 2, "the manifest names it no more");
        if let Some((id, op)) = held {
            assert!(world.disk.files.contains_key(&segment(1)), "it is being read");
            let result = world.disk.perform(op);
            world.log.on_done(Done { id, result }, world.now());
            world.run();
        }
        assert_eq!(scrub(&mut world), []);
        assert_eq!(world.log.damaged(), []);
        world.check();
    }
}

#[test]
fn every_sealed_segment_has_its_turn_wherever_the_round_begins() {
    let mut world = world();
    for spin in [0, 1 << 62, 1 << 63, u64::MAX] {
        let mut order = Vec::new();
        while world.log.scrub(spin).is_some() {
            while let Some((id, op)) = world.log.poll_op() {
                if let Op::Read { file: FileName::Segment(number), .. } = op {
                    order.push(number.get());
                }
                let result = world.disk.perform(op);
                world.log.on_done(Done { id, result }, world.now());
            }
        }
        order.dedup();
        let sealed = world.log.segments() as u64 - 1;
        let began = order[0];
        assert_eq!(began, 1 + ((u128::from(spin) * u128::from(sealed)) >> 64) as u64);
        let around: Vec<u64> = (began..=sealed).chain(1..began).collect();
        assert_eq!(order, around);
    }
}

#[test]
fn an_index_that_is_rotten_or_wrong_is_told_and_done_without() {
    let mut world = world();
    world.restart();
    flip(&mut world, index(1), 100);
    // The index of another segment, with a checksum that holds: it says another file number, too.
    let other = world.disk.files[&index(3)].clone();
    world.disk.files.insert(index(2), other);
    assert_eq!(scrub(&mut world), [Finding::Unsound(index(1)), Finding::Unsound(index(2))]);
    assert_eq!(world.log.damaged(), []);
    world.check();
}

#[test]
fn appends_do_not_wait_for_the_scrub() {
    let mut world = world();
    world.log.scrub(0).unwrap();
    // This read never ends.
    let held = world.log.poll_op();
    assert!(matches!(held, Some((_, Op::Read { .. }))));
    let end = world.log.durable_end();
    for time in 80..120 {
        world.append(1, 5_000, time);
        world.run();
    }
    assert_eq!(world.log.durable_end().since(end), 40);
    world.check();
    assert!(world.log.is_scrubbing());
}

#[test]
fn what_memory_still_has_is_served_though_it_has_rotted_on_the_disk() {
    let mut world = World::new(LogConfig { tail_cache_bytes: 1 << 20, ..small() });
    for time in 0..80 {
        world.append(1, 5_000, time);
        world.run();
    }
    let offset = offset_at(&world, segment(1), 3);
    flip(&mut world, segment(1), 3 * 4096 + 100);
    assert_eq!(scrub(&mut world).len(), 1);
    assert_eq!(world.read(Offset::new(offset), 1).unwrap()[0], world.model[offset as usize].2);
    world.log.drop_tail();
    assert!(matches!(world.read(Offset::new(offset), 1), Err(ReadError::Damaged { .. })));
}
