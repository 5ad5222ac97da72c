//! Repair: what was lost is written back from a copy, and nothing else is touched.

mod world;

use bytes::Bytes;
use catena_format::{BatchHeader, Offset, batch, frame};
use catena_log::{
    Event, LogConfig, ReadAnswer, ReadError, ReadOutcome, RepairError, Stamp,
    io::{Done, FileName, IoError, OpId, Outcome},
};
use world::{
    World,
    lost::{Copy, Ended, FIRST, Rig, ended, nothing_else_is_lost, sealed, torn_out, varied},
    open, small,
};

#[test]
fn one_byte_of_any_batch_or_header_is_repaired() {
    let count = sealed(&varied()).len();
    for at in 0..count {
        for header in [false, true] {
            let mut rig = varied();
            let Copy { base, next, .. } = sealed(&rig)[at];
            let before = rig.world.disk.files[&FIRST].clone();
            if header {
                rig.rot_header(base.get())
            } else {
                rig.rot_batch(base.get())
            }
            assert_eq!(rig.scrub(), 1);
            assert_eq!(rig.world.log.repairable(Offset::ZERO), Some(base..next));
            assert_eq!(rig.world.log.repairable(next), None);
            rig.begin(&(base..next)).unwrap();
            assert_eq!(ended(rig.world.run()), Ended::Repaired(base..next));
            let stats = rig.world.log.stats();
            assert_eq!(stats.repaired_offsets, next.since(base));
            // Its place is what it was: nothing but its header may say something else.
            if !header {
                let (frame, _) = rig.frame(base.get());
                let mut after = rig.world.disk.files[&FIRST].clone();
                after[frame + 48..frame + 64].copy_from_slice(&before[frame + 48..frame + 64]);
                assert!(after == before, "offset {base}");
            }
            if at % 8 == 0 {
                rig.check();
            }
        }
    }
}

#[test]
fn whatever_is_lost_in_a_row_is_repaired() {
    let count = sealed(&varied()).len();
    for from in (0..count).step_by(3) {
        for to in [from + 2, from + 5, from + 13, count] {
            for byte in [0, 0xff] {
                let mut rig = varied();
                let sealed = sealed(&rig);
                let to = to.min(count);
                let (begin, _) = rig.frame(sealed[from].base.get());
                let (last, length) = rig.frame(sealed[to - 1].base.get());
                rig.wipe(begin..last + 64 + length, byte);
                assert_eq!(rig.scrub(), 1);
                let lost = sealed[from].base..sealed[to - 1].next;
                assert_eq!(rig.world.log.damaged(), vec![lost.clone()]);
                assert_eq!(rig.repair_all(), 1);
                assert_eq!(rig.world.log.stats().repaired_offsets, lost.end.since(lost.start));
                if (from + to) % 4 == 0 {
                    rig.check();
                } else {
                    rig.world.log.drop_tail();
                    rig.world.check();
                    assert_eq!(rig.scrub(), 0);
                }
            }
        }
    }
}

#[test]
fn a_segment_is_repaired_in_parts() {
    for step in [1, 2, 3, 7] {
        let mut rig = varied();
        let sealed = sealed(&rig);
        let (begin, _) = rig.frame(sealed[2].base.get());
        let (last, length) = rig.frame(sealed[sealed.len() - 1].base.get());
        rig.wipe(begin..last + 64 + length, 0);
        assert_eq!(rig.scrub(), 1);
        for part in sealed[2..].chunks(step) {
            let lost = part[0].base..part[part.len() - 1].next;
            assert_eq!(rig.world.log.repairable(Offset::ZERO).unwrap().start, lost.start);
            rig.begin(&lost).unwrap();
            assert_eq!(ended(rig.world.run()), Ended::Repaired(lost.clone()));
            assert_eq!(rig.world.log.damaged().first().map(|r| r.start != lost.start), {
                let rest = lost.end < sealed[sealed.len() - 1].next;
                rest.then_some(true)
            });
            assert_eq!(rig.scrub(), 0);
            rig.world.log.drop_tail();
            for copy in part {
                assert_eq!(rig.world.read(copy.base, 1).unwrap()[0], copy.bytes);
            }
        }
        rig.check();
    }
}

#[test]
fn a_segment_that_is_dropped_meanwhile_is_left_as_it_is() {
    for steps in 0.. {
        let (mut rig, lost) = torn_out(5, 21);
        rig.begin(&lost).unwrap();
        for _ in 0..steps {
            let (id, op) = rig.world.log.poll_op().unwrap();
            let result = rig.world.disk.perform(op);
            rig.world.log.on_done(Done { id, result }, rig.world.now());
        }
        if !rig.world.log.is_repairing() {
            break;
        }
        let held = rig.world.log.poll_op().unwrap();
        rig.world.log.trim(rig.world.log.durable_end()).unwrap();
        rig.world.run();
        assert_eq!(rig.world.log.repairable(Offset::ZERO), None);
        assert!(rig.world.disk.files.contains_key(&FIRST), "it is being repaired");
        let (id, op) = held;
        let result = rig.world.disk.perform(op);
        rig.world.log.on_done(Done { id, result }, rig.world.now());
        assert_eq!(ended(rig.world.run()), Ended::Failed(lost, RepairError::Gone));
        assert!(!rig.world.disk.files.contains_key(&FIRST));
        assert!(!rig.world.log.is_repairing() && rig.world.log.is_idle());
        rig.world.check();
    }
}

#[test]
fn a_log_that_is_closed_ends_the_repair() {
    let (mut rig, lost) = torn_out(5, 21);
    rig.begin(&lost).unwrap();
    let held = rig.world.log.poll_op().unwrap();
    rig.world.log.close();
    let result = rig.world.disk.perform(held.1);
    rig.world.log.on_done(Done { id: held.0, result }, rig.world.now());
    assert_eq!(ended(rig.world.run()), Ended::Failed(lost.clone(), RepairError::Closed));
    assert!(rig.world.log.is_idle());
    assert_eq!(rig.world.log.repairable(Offset::ZERO), None);
    assert_eq!(rig.begin(&lost), Err(RepairError::Closed));
    rig.world.restart();
    rig.repair_all();
    rig.check();
}

#[test]
fn what_was_not_lost_there_is_refused() {
    let (mut rig, lost) = torn_out(5, 21);
    let before = rig.world.disk.files.clone();
    let (stamps, payload) = rig.offer(&lost);
    let length = rig.copies[5].bytes.len();
    let refused = |rig: &mut Rig, stamps: &[Stamp], payload: &[u8]| {
        let refused = rig.world.log.repair(stamps, payload).unwrap_err();
        assert!(!rig.world.log.is_repairing());
        rig.world.run();
        assert!(rig.world.disk.files == before, "{refused}");
        refused
    };
    let with = |at: usize, byte: u8| {
        let mut changed = payload.clone();
        changed[at] ^= byte;
        changed
    };
    use RepairError::{Batch, Beyond, Busy, Epoch, Order, Sound, Stamps};
    assert!(matches!(refused(&mut rig, &stamps, &with(length - 1, 1)), Batch(_)));
    assert!(matches!(refused(&mut rig, &stamps, &with(16, 1)), Batch(_)));
    assert!(matches!(refused(&mut rig, &stamps, &payload[..payload.len() - 1]), Batch(_)));
    let fewer = &stamps[..stamps.len() - 1];
    assert_eq!(refused(&mut rig, fewer, &payload), Stamps(fewer.len()));
    assert_eq!(refused(&mut rig, &stamps[1..], &payload), RepairError::Stamp(lost.start));
    assert!(matches!(refused(&mut rig, &[], &[]), Stamps(0)));
    assert!(matches!(refused(&mut rig, &stamps, &with(15, 2)), Epoch(..)));
    let mut other = stamps.clone();
    other[0].payload_crc ^= 1;
    assert_eq!(refused(&mut rig, &other, &payload), RepairError::Stamp(lost.start));
    // The second one, or one of them twice, or the one before.
    assert!(matches!(refused(&mut rig, &stamps[1..], &payload[length..]), Sound(_)));
    let twice = [&payload[..length], &payload].concat();
    let other = [&stamps[..1], &stamps].concat();
    assert!(matches!(refused(&mut rig, &other, &twice), Order(_)));
    let (stamps, payload) = rig.offer(&(rig.copies[4].base..lost.end));
    assert!(matches!(refused(&mut rig, &stamps, &payload), Sound(_)));
    let (stamps, payload) = rig.offer(&(lost.start..rig.copies[22].next));
    assert_eq!(refused(&mut rig, &stamps, &payload), Beyond(lost.end));
    rig.begin(&lost).unwrap();
    assert_eq!(rig.begin(&lost), Err(Busy));
    assert_eq!(ended(rig.world.run()), Ended::Repaired(lost));
    rig.check();
}

#[test]
fn reads_go_on_while_it_is_repaired() {
    let (mut rig, lost) = torn_out(5, 21);
    nothing_else_is_lost(&mut rig, &lost);
    rig.begin(&lost).unwrap();
    // Between any two steps all is read, what is lost as well, by readers that know nothing of the
    // steps.
    while rig.world.log.is_repairing() {
        let (id, op) = rig.world.log.poll_op().unwrap();
        let result = rig.world.disk.perform(op.clone());
        rig.world.log.on_done(Done { id, result }, rig.world.now());
        if !rig.world.log.is_repairing() {
            break;
        }
        let held = rig.world.log.poll_op().unwrap();
        for copy in rig.copies.clone().into_iter().step_by(3) {
            match rig.world.log.read(copy.base, 1, rig.world.log.durable_end()) {
                Ok(ReadOutcome::Pending(_)) => {
                    let Some(Event::Read(_, answer)) = rig.world.run().pop() else { panic!() };
                    let Ok(ReadAnswer::Batches(batches)) = answer else { panic!("{answer:?}") };
                    assert_eq!(batches.shares[0], copy.bytes);
                }
                Ok(ReadOutcome::Ready(_)) => panic!("nothing is in memory"),
                Err(ReadError::Damaged { next_readable }) => {
                    assert!(lost.contains(&copy.base) && next_readable == lost.end);
                }
                Err(other) => panic!("{other}"),
            }
        }
        let result = rig.world.disk.perform(held.1);
        rig.world.log.on_done(Done { id: held.0, result }, rig.world.now());
    }
    assert_eq!(ended(rig.world.run()), Ended::Repaired(lost));
    rig.check();
}

type Held = (OpId, Result<Outcome<Bytes>, IoError>);

/// Performs the next operation and holds its answer back.
fn hold(rig: &mut Rig) -> Held {
    let (id, op) = rig.world.log.poll_op().unwrap();
    (id, rig.world.disk.perform(op))
}

fn deliver(rig: &mut Rig, held: Held) {
    let (id, result) = held;
    rig.world.log.on_done(Done { id, result }, rig.world.now());
}

fn begin_read(rig: &mut Rig, from: Offset) {
    match rig.world.log.read(from, 1, rig.world.log.durable_end()).unwrap() {
        ReadOutcome::Pending(_) => {}
        ReadOutcome::Ready(_) => panic!("nothing is in memory"),
    }
}

/// Reads that ended, with what they brought.
fn answers(rig: &mut Rig) -> Vec<Bytes> {
    let events = rig.world.run();
    let answers = events.into_iter().filter_map(|event| match event {
        Event::Read(_, Ok(ReadAnswer::Batches(batches))) => Some(batches.shares[0].clone()),
        Event::Read(_, other) => panic!("{other:?}"),
        Event::Found(finding) => panic!("{finding}"),
        _ => None,
    });
    answers.collect()
}

#[test]
fn what_was_read_before_a_repair_says_nothing_behind_it() {
    // So few that one window shows them all.
    let (mut rig, lost) = torn_out(5, 8);
    let (first, second) = (rig.copies[5].clone(), rig.copies[7].clone());
    let parts = [lost.start..second.base, second.base..lost.end];
    // A start that knows of no damage yet.
    let known = rig.world.disk.files.clone();
    rig = varied();
    rig.world.disk.files.insert(FIRST, known[&FIRST].clone());
    begin_read(&mut rig, second.base);
    let one = hold(&mut rig);
    assert_eq!(rig.scrub(), 1);
    rig.begin(&parts[0]).unwrap();
    assert_eq!(ended(rig.world.run()), Ended::Repaired(parts[0].clone()));
    // Another reader of the same does not wait for what was read before.
    begin_read(&mut rig, first.base);
    assert_eq!(answers(&mut rig), [first.bytes]);
    // It reads again, and that is answered when the rest is repaired, too.
    deliver(&mut rig, one);
    let again = hold(&mut rig);
    rig.begin(&parts[1]).unwrap();
    assert_eq!(ended(rig.world.run()), Ended::Repaired(parts[1].clone()));
    deliver(&mut rig, again);
    assert_eq!(answers(&mut rig), [second.bytes]);
    assert_eq!(rig.world.log.damaged(), []);
    rig.check();
}

#[test]
fn what_the_scrub_read_before_a_repair_says_nothing_behind_it() {
    let (mut rig, lost) = torn_out(5, 21);
    let middle = rig.copies[14].base;
    // The index, and then the first segment.
    rig.world.log.scrub(0).unwrap();
    rig.world.run();
    rig.world.log.scrub(0).unwrap();
    let mut held = hold(&mut rig);
    for part in [lost.start..middle, middle..lost.end] {
        rig.begin(&part).unwrap();
        assert_eq!(ended(rig.world.run()), Ended::Repaired(part));
        deliver(&mut rig, held);
        rig.world.log.scrub(0).unwrap();
        held = hold(&mut rig);
    }
    deliver(&mut rig, held);
    assert_eq!(rig.scrub(), 0);
    assert_eq!(rig.world.log.damaged(), []);
    let stats = rig.world.log.stats();
    assert_eq!((stats.scrub_contradicted, stats.damaged_found), (0, 1));
    rig.check();
}

#[test]
fn a_batch_that_begins_below_the_log_start_is_repaired() {
    for known in [false, true] {
        let mut rig = varied();
        let copy = rig.copies.iter().skip(10).find(|c| c.next.since(c.base) == 3).unwrap().clone();
        let start = Offset::new(copy.base.get() + 1);
        let from = rig.copies.iter().position(|c| c.base == copy.base).unwrap();
        let (begin, _) = rig.frame(rig.copies[from - 4].base.get());
        let (last, length) = rig.frame(rig.copies[from + 6].base.get());
        rig.wipe(begin..last + 64 + length, 0);
        if known {
            assert_eq!(rig.scrub(), 1);
        }
        rig.world.log.trim(start).unwrap();
        rig.world.run();
        assert_eq!(rig.scrub(), usize::from(!known));
        let lost = start..rig.copies[from + 6].next;
        assert_eq!(rig.world.log.repairable(Offset::ZERO), Some(lost.clone()));
        rig.begin(&lost).unwrap();
        assert_eq!(ended(rig.world.run()), Ended::Repaired(copy.base..lost.end));
        assert_eq!(rig.world.log.stats().repaired_offsets, lost.end.since(lost.start));
        // What lies below is lost, and nobody misses it but who derives something anew.
        rig.check_with_indexes();
    }
}

#[test]
fn damage_that_a_start_found_is_repaired() {
    let mut world = World::new(small());
    for time in 0..12 {
        world.append(2, 700, time);
        if time % 3 == 2 {
            world.run();
        }
    }
    let mut rig = Rig::new(world);
    let (begin, _) = rig.frame(8);
    let (end, _) = rig.frame(18);
    rig.wipe(begin..end, 0);
    rig.world.epoch = rig.world.epoch.plus(1);
    rig.world.log = open(&mut rig.world.disk, rig.world.config, false, 0).unwrap();
    assert_eq!(rig.world.log.damaged(), [Offset::new(8)..Offset::new(18)]);
    assert_eq!(rig.repair_all(), 1);
    // What was derived without the lost batches stays so until the log is read through.
    rig.world.disk.files.retain(|file, _| !matches!(file, FileName::Index(_)));
    rig.world.restart();
    rig.check();
}

#[test]
fn what_a_repair_brings_back_is_found_by_its_time() {
    for last in [25, 900] {
        let config = LogConfig { index_stride: 8 << 10, segment_bytes: 1 << 20, ..small() };
        let mut world = World::new(config);
        for batch in 0..26 {
            let time = [(10, 500), (25, last)].into_iter().find(|(at, _)| *at == batch);
            world.append(1, 3_000, time.map_or(batch, |(_, time)| time));
            world.run();
        }
        let mut rig = Rig::new(world);
        assert_eq!(rig.world.log.segments(), 1);
        rig.rot_header(10);
        // The process dies: what was lost has no time for the next one.
        rig.world.epoch = rig.world.epoch.plus(1);
        rig.world.log = open(&mut rig.world.disk, rig.world.config, false, 0).unwrap();
        assert_eq!(rig.world.log.damaged(), [Offset::new(10)..Offset::new(11)]);
        rig.world.append(1, 3_000, 30);
        rig.world.run();
        rig.world.lost = true;
        for _ in 0..3 {
            rig.repair_all();
            rig.world.append(1, 3_000, 31);
            rig.world.run();
            rig.world.log.drop_tail();
            for time in [0, 5, 9, 10, 11, 24, 25, 26, 30, 31, 400, 500, 501, 900, 901] {
                rig.world.check_time(time);
            }
            rig.world.restart();
        }
    }
}

#[test]
fn what_is_whole_after_all_stays_where_it_is() {
    let mut rig = varied();
    let whole = rig.world.disk.files[&FIRST].clone();
    let (torn, lost) = torn_out(5, 21);
    let bytes = torn.world.disk.files[&FIRST].clone();
    rig.world.disk.files.insert(FIRST, bytes);
    assert_eq!(rig.scrub(), 1);
    // Two of them come back.
    let mut places = Vec::new();
    for at in [9, 16] {
        let base = rig.copies[at].base;
        let (begin, length) = varied().frame(base.get());
        let place = begin..begin + 64 + length;
        let file = rig.world.disk.files.get_mut(&FIRST).unwrap();
        file[place.clone()].copy_from_slice(&whole[place.clone()]);
        places.push(place);
    }
    // Another batch at the offset of one of them is not taken for it.
    let (stamps, payload) = rig.offer(&lost);
    let at: usize = (5..9).map(|copy| rig.copies[copy].bytes.len()).sum();
    let length = rig.copies[9].bytes.len();
    let header = BatchHeader::parse(&payload[at..at + length]).unwrap();
    let mut other = world::batch(header.count, length - 61, 77);
    batch::patch(&mut other, rig.copies[9].base, rig.world.epoch);
    let (mut stamps, mut payload) = (stamps, payload);
    stamps[4].payload_crc = frame::payload_crc(&other);
    payload[at..at + length].copy_from_slice(&other);
    rig.world.log.repair(&stamps, &payload).unwrap();
    let first = lost.start..rig.copies[9].base;
    assert_eq!(ended(rig.world.run()), Ended::Repaired(first.clone()));
    let rest = first.end..lost.end;
    assert_eq!(rig.world.log.repairable(Offset::ZERO), Some(rest.clone()));
    assert_eq!(rig.world.log.repair(&stamps[4..], &payload[at..]), Ok(()));
    let refused = RepairError::Other(rest.start);
    assert_eq!(ended(rig.world.run()), Ended::Failed(rest.clone(), refused));
    rig.begin(&rest).unwrap();
    assert_eq!(ended(rig.world.run()), Ended::Repaired(rest));
    for place in places {
        assert!(rig.world.disk.files[&FIRST][place.clone()] == whole[place]);
    }
    rig.check();
}

#[test]
fn a_batch_that_is_too_large_for_its_place_is_not_written() {
    let mut rig = varied();
    let Copy { base, next, bytes, stamp } = rig.copies[9].clone();
    rig.rot_header(base.get());
    assert_eq!(rig.scrub(), 1);
    let before = rig.world.disk.files.clone();
    let count = next.since(base) as u32;
    let mut other = world::batch(count, bytes.len() + 9_000, 9);
    batch::patch(&mut other, base, rig.world.epoch);
    let stamp = Stamp { payload_crc: frame::payload_crc(&other), ..stamp };
    rig.world.log.repair(&[stamp], &other).unwrap();
    let refused = RepairError::NoRoom(base);
    assert_eq!(ended(rig.world.run()), Ended::Failed(base..next, refused));
    assert!(rig.world.disk.files == before);
    assert_eq!(rig.world.log.repairable(Offset::ZERO), None);
    // What else is lost in the segment is repaired all the same, on both sides of it.
    for other in [3, 20] {
        let Copy { base: other, next: end, .. } = rig.copies[other];
        rig.rot_batch(other.get());
        assert_eq!(rig.scrub(), 1);
        assert_eq!(rig.world.log.repairable(Offset::ZERO), Some(other..end));
        rig.begin(&(other..end)).unwrap();
        assert_eq!(ended(rig.world.run()), Ended::Repaired(other..end));
    }
    assert_eq!(rig.world.log.damaged(), [base..next]);
    assert_eq!(rig.world.log.repairable(Offset::ZERO), None);
    rig.world.restart();
    rig.repair_all();
    rig.check();
}

#[test]
fn what_does_not_fit_is_offered_once_more_when_more_is_lost_there() {
    for behind in [false, true] {
        let mut rig = varied();
        let Copy { base, next, bytes, stamp } = rig.copies[9].clone();
        rig.rot_header(base.get());
        assert_eq!(rig.scrub(), 1);
        let mut other = world::batch(next.since(base) as u32, bytes.len() + 9_000, 9);
        batch::patch(&mut other, base, rig.world.epoch);
        let stamp = Stamp { payload_crc: frame::payload_crc(&other), ..stamp };
        rig.world.log.repair(&[stamp], &other).unwrap();
        assert_eq!(ended(rig.world.run()), Ended::Failed(base..next, RepairError::NoRoom(base)));
        let Copy { base: beside, next: end, .. } = rig.copies[if behind { 10 } else { 8 }];
        rig.rot_batch(beside.get());
        assert_eq!(rig.scrub(), 1);
        let lost = base.min(beside)..next.max(end);
        assert_eq!(rig.world.log.damaged(), std::slice::from_ref(&lost));
        let expected = if behind { lost } else { beside..base };
        assert_eq!(rig.world.log.repairable(Offset::ZERO), Some(expected.clone()));
        rig.begin(&expected).unwrap();
        assert_eq!(ended(rig.world.run()), Ended::Repaired(expected));
        assert_eq!(rig.world.log.repairable(Offset::ZERO), None);
        rig.world.restart();
        rig.repair_all();
        rig.check();
    }
}
