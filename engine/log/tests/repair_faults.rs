//! Repair on disks that fail, lie, or stop within it: nothing that is whole is harmed, and it can
//! be done again.

mod world;

use std::ops::Range;

use bytes::Bytes;
use catena_format::{FileNumber, Offset};
use catena_log::{
    RepairError,
    io::{Done, FileName, IoError, Op, Outcome},
};
use world::{
    World,
    lost::{Copy, Ended, FIRST, Rig, ended, nothing_else_is_lost, sealed, torn_out, varied},
    open, run_with, small,
};

const EIO: IoError = IoError::Device(5);

/// Of a write that a crash interrupts, sectors arrive as `arrives` says.
fn tear(rig: &mut Rig, op: &Op<Bytes>, arrives: impl Fn(usize) -> bool) {
    let Op::Write { file, position, bytes, .. } = op else { return };
    for (sector, part) in bytes.chunks(512).enumerate().filter(|(sector, _)| arrives(*sector)) {
        let at = position.get() as usize + sector * 512;
        rig.world.disk.files.get_mut(file).unwrap()[at..at + 512].copy_from_slice(part);
    }
}

#[test]
fn a_crash_at_any_moment_of_a_repair_costs_nothing_that_was_whole() {
    let (mut writes, mut after) = (0, 0);
    for tearing in 0..4usize {
        for crash in 0.. {
            let (mut rig, lost) = torn_out(5, 21);
            rig.begin(&lost).unwrap();
            for _ in 0..crash {
                let Some((id, op)) = rig.world.log.poll_op() else { break };
                let result = rig.world.disk.perform(op);
                rig.world.log.on_done(Done { id, result }, rig.world.now());
            }
            let Some((_, op)) = rig.world.log.poll_op() else { break };
            let of_segment = matches!(op, Op::Write { file: FIRST, .. });
            writes += u32::from(of_segment);
            match tearing {
                _ if !of_segment => {}
                0 => {}
                1 => tear(&mut rig, &op, |sector| sector % 2 == 0),
                2 => tear(&mut rig, &op, |sector| sector % 3 != 1),
                _ => tear(&mut rig, &op, |sector| sector > 9),
            }
            rig.world.epoch = rig.world.epoch.plus(1);
            rig.world.log = open(&mut rig.world.disk, rig.world.config, false, 0).unwrap();
            nothing_else_is_lost(&mut rig, &lost);
            after += u32::from(rig.world.log.damaged().is_empty());
            rig.repair_all();
            rig.check();
        }
    }
    assert!(writes >= 4 && after >= 1, "{writes} {after}");
}

#[test]
fn frames_that_a_crash_left_are_made_durable_before_they_count() {
    let (mut rig, lost) = torn_out(5, 21);
    rig.begin(&lost).unwrap();
    let mut written = false;
    while !written {
        let (id, op) = rig.world.log.poll_op().unwrap();
        written = matches!(op, Op::Write { .. });
        let result = rig.world.disk.perform(op);
        rig.world.log.on_done(Done { id, result }, rig.world.now());
    }
    // The process dies before it hears of the flush.
    let mut settled = Vec::new();
    rig.world.log = world::open_with(&mut rig.world, |op| {
        settled.extend(matches!(op, Op::Claim { file: FIRST }).then_some("claimed"));
        settled.extend(matches!(op, Op::Sync { file: FIRST }).then_some("synced"));
        None
    })
    .unwrap();
    assert_eq!(settled, ["claimed", "synced"]);
    rig.begin(&lost).unwrap();
    let (mut synced, mut wrote) = (false, false);
    run_with(&mut rig.world, |op| {
        wrote |= matches!(op, Op::Write { file: FIRST, .. });
        synced |= matches!(op, Op::Sync { file: FIRST });
        assert!(synced || !matches!(op, Op::Write { file: FileName::Manifest(_), .. }));
        None
    });
    assert!(synced && !wrote, "they stand there");
    assert_eq!(rig.world.log.damaged(), []);
    rig.check();
}

#[test]
fn blocks_that_cannot_be_read_are_written_anew() {
    for (from, to, at_once) in [(3, 3, true), (5, 21, true), (5, 21, false), (0, 2, false)] {
        let mut rig = varied();
        let sealed = sealed(&rig);
        let (begin, _) = rig.frame(sealed[from].base.get());
        let (last, length) = rig.frame(sealed[to].base.get());
        let mut bad: Vec<u64> =
            (begin / 4096..=(last + 64 + length - 1) / 4096).map(|block| block as u64).collect();
        let mut refuse = move |op: &Op<Bytes>| match op {
            Op::Write { file: FIRST, position, bytes, .. } => {
                let first = position.get() / 4096;
                bad.retain(|block| !(first..first + bytes.len() as u64 / 4096).contains(block));
                None
            }
            Op::Read { file: FIRST, position, length } => {
                let first = position.get() / 4096;
                let read = first..first + *length as u64 / 4096;
                bad.iter().any(|block| read.contains(block)).then_some(EIO)
            }
            _ => None,
        };
        // Without indexes the start reads all segments through.
        rig.world.disk.files.retain(|file, _| !matches!(file, FileName::Index(_)));
        rig.world.lost = true;
        rig.world.epoch = rig.world.epoch.plus(1);
        rig.world.log = world::open_with(&mut rig.world, &mut refuse).unwrap();
        let damaged = rig.world.log.damaged();
        assert_eq!(damaged.len(), 1);
        assert!(damaged[0].contains(&sealed[from].base), "{damaged:?}");
        let lost = |copy: &&Copy| damaged[0].contains(&copy.base);
        let lost: Vec<_> = rig.copies.iter().filter(lost).cloned().collect();
        for part in lost.chunks(if at_once { lost.len() } else { 1 }) {
            let part = part[0].base..part[part.len() - 1].next;
            rig.begin(&part).unwrap();
            run_with(&mut rig.world, &mut refuse);
            assert_eq!(ended(rig.world.run()), Ended::Repaired(part));
        }
        assert_eq!(rig.world.log.damaged(), []);
        assert_eq!(rig.scrub(), 0);
        for copy in rig.copies.clone() {
            assert_eq!(rig.world.read(copy.base, 1).unwrap()[0], copy.bytes);
        }
    }
}

/// Repairs what is lost, with what befalls the answer to operation number `at`; false: it took not
/// so many.
fn repair_with(
    rig: &mut Rig,
    lost: &Range<Offset>,
    at: usize,
    befall: impl Fn(&mut Rig, Op<Bytes>) -> Result<Outcome<Bytes>, IoError>,
) -> bool {
    rig.begin(lost).unwrap();
    let mut number = 0;
    while rig.world.log.is_repairing() {
        let (id, op) = rig.world.log.poll_op().unwrap();
        let result = if number == at { befall(rig, op) } else { rig.world.disk.perform(op) };
        rig.world.log.on_done(Done { id, result }, rig.world.now());
        number += 1;
    }
    number > at
}

#[test]
fn a_repair_that_fails_is_no_failure_of_the_log_and_can_be_done_again() {
    for error in [EIO, IoError::NoDescriptors, IoError::ReadOnly, IoError::ShortWrite] {
        let (mut failed, mut flushes) = (0, 0);
        for at in 0.. {
            let (mut rig, lost) = torn_out(5, 21);
            let flush = std::cell::Cell::new(false);
            let there = repair_with(&mut rig, &lost, at, |_, op| {
                flush.set(matches!(op, Op::Sync { .. }));
                Err(error)
            });
            if !there {
                break;
            }
            let left = rig.world.log.repairable(Offset::ZERO);
            match ended(rig.world.run()) {
                Ended::Repaired(range) => assert_eq!(range, lost),
                Ended::Failed(range, why) => {
                    assert_eq!((range, why), (lost.clone(), RepairError::Io(error)));
                    assert_eq!(rig.world.log.damaged(), vec![lost.clone()]);
                    failed += 1;
                    // A flush is not believed a second time.
                    assert_eq!(left.is_none(), flush.get());
                }
            }
            flushes += u32::from(flush.get());
            assert_eq!(rig.world.log.poisoned(), None);
            nothing_else_is_lost(&mut rig, &lost);
            rig.world.append(1, 100, 1_000);
            rig.world.run();
            if flush.get() {
                rig.world.restart();
            }
            rig.repair_all();
            rig.check();
        }
        assert!(failed >= 2 && flushes == 1, "{failed} {flushes} of {error}");
    }
}

#[test]
fn a_write_that_never_arrives_is_found() {
    let mut found = 0;
    for at in 0.. {
        let (mut rig, lost) = torn_out(5, 21);
        let write = std::cell::Cell::new(false);
        let there = repair_with(&mut rig, &lost, at, |rig, op| {
            write.set(matches!(op, Op::Write { .. }));
            if write.get() { Ok(Outcome::Unit) } else { rig.world.disk.perform(op) }
        });
        if !there {
            break;
        }
        let ended = ended(rig.world.run());
        if write.get() && ended != Ended::Repaired(lost.clone()) {
            assert_eq!(ended, Ended::Failed(lost.clone(), RepairError::NotKept));
            assert_eq!(rig.world.log.damaged(), vec![lost.clone()]);
            found += 1;
        }
        rig.repair_all();
        rig.check();
    }
    assert_eq!(found, 1);
}

#[test]
fn one_bad_read_harms_nothing_that_is_whole() {
    let mut unsteady = 0;
    for at in 0.. {
        for place in [0, 100, 2_000, 4_095, 9_000, 30_000, 60_000, usize::MAX] {
            let (mut rig, lost) = torn_out(5, 21);
            let there =
                repair_with(&mut rig, &lost, at, |rig, op| match rig.world.disk.perform(op)? {
                    Outcome::Read(bytes) => {
                        let mut bytes = bytes.to_vec();
                        let place = place.min(bytes.len() - 1);
                        bytes[place] ^= 1;
                        Ok(Outcome::Read(bytes.into()))
                    }
                    other => Ok(other),
                });
            if !there {
                assert!(unsteady >= 4, "{unsteady}");
                return;
            }
            match ended(rig.world.run()) {
                Ended::Repaired(range) => assert_eq!(range, lost),
                Ended::Failed(_, RepairError::Unsteady) => unsteady += 1,
                Ended::Failed(_, RepairError::NotKept) => {}
                failed => panic!("{failed:?}"),
            }
            nothing_else_is_lost(&mut rig, &lost);
            rig.repair_all();
            rig.check();
        }
    }
}

const INDEX: FileName = FileName::Index(FileNumber::new(1));

/// The same in a log that was opened anew: its indexes are on the disk.
fn torn_out_anew() -> (Rig, Range<Offset>) {
    let (mut rig, lost) = torn_out(5, 21);
    rig.world.epoch = rig.world.epoch.plus(1);
    rig.world.log = open(&mut rig.world.disk, rig.world.config, false, 0).unwrap();
    assert_eq!(rig.world.log.damaged(), vec![lost.clone()]);
    (rig, lost)
}

/// Repairs what is lost, while of the first `bad` reads of the index each brings something else.
fn repair_with_bad_index(rig: &mut Rig, lost: &Range<Offset>, mut bad: usize) -> Ended {
    rig.begin(lost).unwrap();
    while rig.world.log.is_repairing() {
        let (id, op) = rig.world.log.poll_op().unwrap();
        let of_index = matches!(op, Op::Read { file: INDEX, .. });
        let mut result = rig.world.disk.perform(op);
        if of_index && bad > 0 {
            bad -= 1;
            let mut bytes = result.unwrap().into_read().to_vec();
            bytes[200] ^= 1;
            result = Ok(Outcome::Read(bytes.into()));
        }
        rig.world.log.on_done(Done { id, result }, rig.world.now());
    }
    ended(rig.world.run())
}

#[test]
fn one_bad_read_of_an_index_moves_no_frame() {
    let (mut rig, lost) = torn_out_anew();
    assert_eq!(repair_with_bad_index(&mut rig, &lost, 1), Ended::Repaired(lost));
    // The scrub holds the frames against the index.
    assert_eq!(rig.scrub(), 0);
    rig.check();
}

#[test]
fn without_a_descriptor_for_the_index_nothing_is_repaired() {
    for error in [IoError::NoDescriptors, IoError::ReadOnly] {
        let (mut rig, lost) = torn_out_anew();
        let before = rig.world.disk.files[&FIRST].clone();
        assert!(repair_with(&mut rig, &lost, 0, |_, op| {
            assert!(matches!(op, Op::Read { file: INDEX, .. }));
            Err(error)
        }));
        let failed = Ended::Failed(lost.clone(), RepairError::Io(error));
        assert_eq!(ended(rig.world.run()), failed);
        assert!(rig.world.disk.files[&FIRST] == before);
        assert_eq!(rig.repair_all(), 1);
        assert_eq!(rig.scrub(), 0);
        rig.check();
    }
}

#[test]
fn an_index_that_could_not_be_read_for_a_repair_is_not_believed_behind_it() {
    let (mut rig, lost) = torn_out_anew();
    assert_eq!(repair_with_bad_index(&mut rig, &lost, 2), Ended::Repaired(lost));
    for more in [12, 20, 25] {
        for copy in rig.copies.clone() {
            assert_eq!(rig.world.read(copy.base, 1).unwrap()[0], copy.bytes);
        }
        assert_eq!(rig.world.log.damaged(), []);
        let Copy { base, next, .. } = rig.copies[more];
        rig.rot_batch(base.get());
        assert!(rig.world.read(base, 1).is_err());
        assert_eq!(rig.world.log.damaged(), [base..next]);
        assert_eq!(rig.repair_all(), 1);
    }
    rig.world.disk.files.remove(&INDEX);
    rig.world.restart();
    rig.check();
}

#[test]
fn an_index_of_which_the_scrub_knows_that_it_is_wrong_is_not_believed() {
    let mut other = World::new(small());
    for time in 0..400 {
        other.append(1, 300, time);
    }
    other.run();
    assert!(other.log.segments() >= 2);
    let mut rig = varied();
    rig.world.restart();
    rig.world.disk.files.insert(INDEX, other.disk.files[&INDEX].clone());
    assert_eq!(rig.scrub(), 1);
    let sealed = sealed(&rig);
    let (begin, _) = rig.frame(sealed[8].base.get());
    let (last, length) = rig.frame(sealed[30].base.get());
    rig.wipe(begin..last + 64 + length, 0);
    assert!(rig.world.read(sealed[8].base, 1).is_err());
    assert_eq!(rig.world.log.damaged(), [sealed[8].base..sealed[30].next]);
    assert_eq!(rig.repair_all(), 1);
    for copy in rig.copies.clone() {
        assert_eq!(rig.world.read(copy.base, 1).unwrap()[0], copy.bytes);
    }
    rig.world.disk.files.remove(&INDEX);
    rig.world.restart();
    rig.check();
}

#[test]
fn damage_that_nobody_knew_of_is_marked_first() {
    let mut marked = [0, 0];
    for from in 4..10 {
        for behind in [false, true] {
            let (mut rig, lost) = torn_out(from, 21);
            let more = if behind { 22 } else { from - 1 };
            let copy = rig.copies[more].clone();
            rig.rot_batch(copy.base.get());
            rig.begin(&lost).unwrap();
            match ended(rig.world.run()) {
                Ended::Failed(range, why) => {
                    assert_eq!((range, why), (lost.clone(), RepairError::Unsteady));
                    marked[usize::from(behind)] += 1;
                    let all = lost.start.min(copy.base)..lost.end.max(copy.next);
                    assert_eq!(rig.world.log.damaged(), [all]);
                }
                // With a frame in the index nobody looks at what stands before.
                Ended::Repaired(range) => {
                    assert!(range == lost && !behind);
                    assert_eq!(rig.scrub(), 1);
                }
            }
            assert_eq!(rig.repair_all(), 1);
            rig.check();
        }
    }
    assert!(marked[0] >= 2 && marked[1] == 6, "{marked:?}");
}

#[test]
fn a_segment_whose_file_is_gone_is_not_repaired() {
    let mut rig = varied();
    rig.world.disk.files.remove(&FIRST);
    assert_eq!(rig.scrub(), 1);
    let sealed = sealed(&rig);
    let lost = sealed[0].base..sealed[sealed.len() - 1].next;
    assert_eq!(rig.world.log.repairable(Offset::ZERO), Some(lost.clone()));
    // What lies in the next one is told apart, though it is one range.
    let second = FileName::Segment(FileNumber::new(2));
    rig.flip(second, 4096 + 200);
    assert_eq!(rig.scrub(), 1);
    assert_eq!(rig.world.log.damaged().len(), 1);
    rig.begin(&lost).unwrap();
    let gone = RepairError::Io(IoError::NotFound);
    assert_eq!(ended(rig.world.run()), Ended::Failed(lost.clone(), gone));
    assert!(!rig.world.disk.files.contains_key(&FIRST));
    assert_eq!(rig.begin(&lost), Err(RepairError::Sound(lost.start)));
    let next = rig.world.log.repairable(Offset::ZERO).unwrap();
    assert_eq!(next.start, lost.end);
    rig.begin(&next).unwrap();
    assert_eq!(ended(rig.world.run()), Ended::Repaired(next.clone()));
    assert_eq!(rig.world.log.repairable(Offset::ZERO), None);
    assert_eq!(rig.world.log.damaged(), [lost]);
    assert!(rig.world.read(next.start, 1).is_ok());
}

#[test]
fn what_is_on_its_way_to_the_disk_is_not_taken_for_lost() {
    for by_repair in [false, true] {
        let mut world = World::new(small());
        for time in 0..12 {
            world.append(1, 700, time);
            world.run();
        }
        let mut rig = Rig::new(world);
        let (lost, durable) = (Offset::new(4), Offset::new(12));
        rig.rot_header(lost.get());
        if by_repair {
            assert!(rig.world.read(lost, 1).is_err());
            assert_eq!(rig.world.log.repairable(Offset::ZERO), Some(lost..Offset::new(5)));
        }
        // All that follows is lost, too, and of a group the end is there before its beginning.
        (5..12).for_each(|offset| rig.rot_header(offset));
        (0..2).for_each(|_| rig.world.append(1, 1_500, 50));
        let (held, op) = rig.world.log.poll_op().unwrap();
        tear(&mut rig, &op, |sector| sector >= 3);
        assert!(rig.frame(13).0 > 4096);
        if by_repair {
            rig.begin(&(lost..Offset::new(5))).unwrap();
        } else {
            rig.world.log.read(lost, 1, rig.world.log.durable_end()).unwrap();
        }
        let events = rig.world.run();
        assert_eq!(rig.world.log.damaged(), [lost..durable], "{events:?}");
        // Nothing whole stands behind them yet.
        assert_eq!(rig.world.log.repairable(Offset::ZERO), None);
        if by_repair {
            // The process dies.
            rig.world.model.truncate(12);
            rig.world.epoch = rig.world.epoch.plus(1);
            rig.world.log = open(&mut rig.world.disk, rig.world.config, false, 0).unwrap();
            rig.world.append(1, 900, 60);
        } else {
            let result = rig.world.disk.perform(op);
            rig.world.log.on_done(Done { id: held, result }, rig.world.now());
        }
        rig.world.run();
        rig.world.log.drop_tail();
        for (base, _, bytes, _) in rig.world.model.clone().split_off(12) {
            assert_eq!(rig.world.read(base, 1).unwrap()[0], bytes);
        }
        // What a start has found at the end of a segment belongs to none.
        if !by_repair {
            assert_eq!(rig.repair_all(), 1);
            nothing_else_is_lost(&mut rig, &(lost..lost));
        }
    }
}
