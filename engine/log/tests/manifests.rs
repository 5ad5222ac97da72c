//! The two copies of a manifest: the newest durable one stays until there is another, and a full
//! disk does not keep a log from becoming smaller.

mod world;

use bytes::Bytes;
use catena_format::{FileNumber, Millis, Offset};
use catena_log::{
    Event, Opening, ReadAnswer, ReadError, ReadOutcome,
    io::{Done, FileName, Heap, IoError, Op, OpId, Outcome, Slot},
};
use world::{TestLog, World, identity, open_with, rolled, run_with, small, tick};

#[test]
fn the_newer_manifest_is_not_touched_while_the_other_copy_is_old() {
    let mut world = rolled();
    // A roll of which the second copy cannot be written.
    for time in 60.. {
        world.append(1, 5_000, time);
        run_with(&mut world, |op| {
            let second = matches!(op, Op::Write { file: FileName::Manifest(Slot::Second), .. });
            second.then_some(IoError::NoDescriptors)
        });
        if world.log.disk_full() {
            break;
        }
    }
    assert_eq!(world.log.durable_end(), world.log.log_end());
    let durable = world.log.durable_end();
    // The next write of a manifest is torn.
    tick(&mut world);
    let now = world.now();
    world.log.trim(Offset::new(1)).unwrap();
    let mut torn = None;
    while let Some((id, op)) = world.log.poll_op() {
        if let Op::Write { file: file @ FileName::Manifest(_), .. } = op
            && torn.is_none()
        {
            torn = Some(file);
            world.disk.files.insert(file, vec![0; 4096]);
            continue;
        }
        let result = world.disk.perform(op);
        world.log.on_done(Done { id, result }, now);
    }
    assert_eq!(torn, Some(FileName::Manifest(Slot::Second)));
    world.log = open_with(&mut world, |_| None).unwrap();
    assert_eq!(world.log.log_end(), durable);
    world.check();
}

/// A log without its older half, of which only the first copy of the manifest knows.
fn trimmed() -> (World, Offset) {
    let mut world = rolled();
    let start = Offset::new(world.log.durable_end().get() / 2);
    let segments = world.log.segments();
    world.log.trim(start).unwrap();
    run_with(&mut world, |op| {
        let second = matches!(op, Op::Write { file: FileName::Manifest(Slot::Second), .. });
        second.then_some(IoError::NoDescriptors)
    });
    assert_eq!(world.log.log_start(), start);
    assert!(world.log.segments() < segments);
    (world, start)
}

#[test]
fn recovery_does_not_touch_the_newer_manifest_while_the_other_copy_is_old() {
    let (mut world, start) = trimmed();
    let mut torn = None;
    let opened = open_with(&mut world, |op| {
        let Op::Write { file: file @ FileName::Manifest(_), .. } = op else { return None };
        torn = torn.or(Some(*file));
        Some(IoError::Device(5))
    });
    drop(opened);
    world.disk.files.insert(torn.expect("a copy is repaired"), vec![0; 4096]);
    world.log = open_with(&mut world, |_| None).unwrap();
    assert_eq!(world.log.log_start(), start, "a trim that was answered is done");
    world.check();
}

/// Opens the log of a world; the first time that a file is read, wrong bytes come.
fn open_misread(world: &mut World, misread: FileName) -> TestLog {
    let now = world.now();
    let mut opening = Opening::new(identity(), world.config, false, Heap, Vec::new());
    let mut misread = Some(misread);
    loop {
        let (id, op): (OpId, _) = opening.poll_op().expect("opening goes on");
        let wrong = matches!(op, Op::Read { file, .. } if Some(file) == misread);
        let mut result = world.disk.perform(op);
        if wrong && let Ok(Outcome::Read(bytes)) = &mut result {
            misread = None;
            *bytes = vec![0; bytes.len()].into();
        }
        if let Some(log) = opening.on_done(Done { id, result }, now).unwrap() {
            assert_eq!(misread, None, "it was read");
            return log;
        }
    }
}

#[test]
fn what_is_read_wrongly_once_is_believed_where_it_is_read_right() {
    let (mut world, start) = trimmed();
    world.log = open_misread(&mut world, FileName::Manifest(Slot::First));
    assert_eq!(world.log.log_start(), start, "the older copy would undo the trim");
    world.check();
    // All is trimmed: what is derived from it stands in one file.
    world.epoch = world.epoch.plus(1);
    world.log.trim(world.log.durable_end()).unwrap();
    world.run();
    assert_eq!(world.log.segments(), 0);
    let index = world.disk.files.keys().find(|file| matches!(file, FileName::Index(_)));
    let index = *index.expect("it is kept");
    world.log = open_misread(&mut world, index);
    assert_eq!(world.log.fold().len(), world.model.len());
    world.check();
}

#[test]
fn a_segment_that_is_read_wrongly_once_is_neither_cut_nor_damaged() {
    let mut world = rolled();
    let end = world.log.durable_end();
    let segments = world.disk.files.keys().filter(|file| matches!(file, FileName::Segment(_)));
    let active = *segments.rev().nth(1).expect("a spare stands behind it");
    world.log = open_misread(&mut world, active);
    let report = world.log.recovery();
    assert_eq!((report.batches_cut, report.offsets_damaged), (0, 0), "{report}");
    assert_eq!(world.log.durable_end(), end);
    world.check();
}

#[test]
fn a_time_is_found_where_a_first_read_was_wrong() {
    let mut world = rolled();
    world.restart();
    let below = world.log.durable_end();
    // The last one goes by what the first ones noted in the index.
    for time in [5, 12, 0, 19, 3] {
        let found = world.log.offset_for_time(Millis::new(time), below);
        assert!(matches!(found, ReadOutcome::Pending(_)));
        let (mut misread, mut answer) = (true, None);
        while let Some((id, op)) = world.log.poll_op() {
            let segment = matches!(op, Op::Read { file: FileName::Segment(_), .. });
            let mut result = world.disk.perform(op);
            if let Ok(Outcome::Read(bytes)) = &mut result
                && segment
                && std::mem::take(&mut misread)
            {
                *bytes = vec![0; bytes.len()].into();
            }
            world.log.on_done(Done { id, result }, world.now());
            answer = world.log.poll_event().or(answer);
        }
        let Some(Event::Read(_, Ok(ReadAnswer::Offset(found)))) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(found, Some(Offset::new(time as u64)), "{time}");
        assert!(!misread && world.log.damaged().is_empty());
    }
}

/// Both copies of the manifest as they are now.
fn copies(world: &World) -> [Vec<u8>; 2] {
    [Slot::First, Slot::Second].map(|slot| world.disk.files[&FileName::Manifest(slot)].clone())
}

fn put_back(world: &mut World, copies: [Vec<u8>; 2]) {
    for (slot, copy) in [Slot::First, Slot::Second].into_iter().zip(copies) {
        world.disk.files.insert(FileName::Manifest(slot), copy);
    }
}

#[test]
fn segments_that_an_older_manifest_does_not_name_are_taken_back() {
    // Since it was written: restarts with an epoch each, one without an append, full segments.
    for (lives, appends) in [(1, 1), (1, 60), (3, 1), (3, 30), (2, 0)] {
        let mut world = rolled();
        let older = copies(&world);
        for life in 0..lives {
            world.restart();
            for time in 0..appends {
                world.append(1, 5_000, 60 + life * appends + time);
                world.run();
            }
        }
        // The mark.
        tick(&mut world);
        world.check();
        let epochs = world.log.epochs().to_vec();
        put_back(&mut world, older);
        world.log = open_with(&mut world, |_| None).unwrap();
        let report = world.log.recovery();
        assert_eq!(report.segments_unnamed > 0, appends > 0, "{report}");
        assert_eq!((report.offsets_damaged, report.batches_cut), (0, 0), "{report}");
        assert_eq!(world.log.epochs(), epochs);
        world.epoch = world.epoch.plus(1);
        world.append(2, 100, 1_000);
        world.restart();
        assert_eq!(world.log.recovery().segments_unnamed, 0);
        world.check();
    }
}

#[test]
fn an_older_manifest_names_a_segment_that_was_given_up() {
    // One was begun behind a batch that a crash kept from the disk.
    let mut world = World::new(small());
    world.append(1, 100, 0);
    world.run();
    world.append(1, 100, 1);
    let group = world.log.poll_op().expect("the group of the second batch");
    world.epoch = world.epoch.plus(1);
    world.append(1, 100, 2);
    let mut older = None;
    while let Some((id, op)) = world.log.poll_op() {
        let result = world.disk.perform(op);
        world.log.on_done(Done { id, result }, world.now());
        older = Some(copies(&world));
    }
    drop(group);
    world.model.truncate(1);
    world.log = open_with(&mut world, |_| None).unwrap();
    for time in 1..4 {
        world.epoch = world.epoch.plus(1);
        world.append(1, 100, time);
        world.run();
    }
    world.check();
    put_back(&mut world, older.expect("manifests were written"));
    world.log = open_with(&mut world, |_| None).unwrap();
    let report = world.log.recovery();
    assert_eq!((report.segments_unnamed, report.offsets_damaged), (3, 0), "{report}");
    world.check();
}

#[test]
fn what_lies_before_segments_that_are_taken_back_is_damaged() {
    let mut world = rolled();
    world.restart();
    let began = world.log.durable_end();
    world.log.trim(began).unwrap();
    world.run();
    assert_eq!(world.log.segments(), 0);
    let older = copies(&world);
    for time in 60..120 {
        world.append(1, 5_000, time);
        world.run();
    }
    world.log.trim(Offset::new(110)).unwrap();
    world.run();
    // The file that is kept of a dropped one would be taken back as well.
    let kept = *world.disk.files.keys().find(|file| matches!(file, FileName::Segment(_))).unwrap();
    world.disk.files.remove(&kept);
    put_back(&mut world, older);
    world.log = open_with(&mut world, |_| None).unwrap();
    let report = world.log.recovery().clone();
    let gone = world.log.damaged().first().expect("what was trimmed is gone").clone();
    assert!(gone.start == began && gone.end > began && gone.end <= Offset::new(110), "{gone:?}");
    assert_eq!(report.offsets_damaged, gone.end.since(gone.start), "{report}");
    assert_eq!(world.read(began, 1), Err(ReadError::Damaged { next_readable: gone.end }));
    assert!(!world.read(gone.end, 1_000).unwrap().is_empty());
}

#[test]
fn what_an_older_manifest_names_and_is_gone_is_damaged() {
    let mut world = rolled();
    let older = copies(&world);
    for time in 60..120 {
        world.append(1, 5_000, time);
        world.run();
    }
    let start = Offset::new(100);
    world.log.trim(start).unwrap();
    world.run();
    let held = world.log.segments();
    tick(&mut world);
    world.run();
    put_back(&mut world, older);
    world.log = open_with(&mut world, |_| None).unwrap();
    let report = world.log.recovery().clone();
    assert!(report.fold_lost, "what was derived from those is gone as well");
    assert!(report.segments_unnamed as usize >= held && report.lost_something(), "{report}");
    assert_eq!(world.log.log_end(), world.model.last().unwrap().1);
    let damaged = world.log.damaged();
    assert_eq!(damaged.len(), 1, "{damaged:?}");
    assert!(damaged[0].end <= start, "{damaged:?}");
    assert!(!world.read(start, 1_000).unwrap().is_empty());
}

#[test]
fn what_a_crash_left_is_no_segment_that_a_manifest_should_name() {
    // The header and the first batch of the next segment are written, and its manifest is not.
    let mut world = rolled();
    tick(&mut world);
    world.run();
    world.epoch = world.epoch.plus(1);
    let end = world.log.log_end();
    world.append(1, 100, 60);
    run_with(&mut world, |op| {
        let manifest = matches!(op, Op::Write { file: FileName::Manifest(_), .. });
        manifest.then_some(IoError::NoDescriptors)
    });
    assert_eq!(world.log.durable_end(), end);
    let held = world.disk.files.len();
    world.log = open_with(&mut world, |_| None).unwrap();
    assert_eq!(world.log.recovery().segments_unnamed, 0);
    assert_eq!(world.log.log_end(), end);
    assert!(world.disk.files.len() < held, "it is removed");
    world.model.pop();
    world.check();
}

#[test]
fn epochs_that_ended_below_the_log_are_forgotten() {
    let mut world = World::new(small());
    for time in 0..50 {
        world.append(1, 100, time);
        world.restart();
    }
    assert_eq!(world.log.epochs().len(), 50);
    world.log.trim(Offset::new(45)).unwrap();
    world.run();
    let began: Vec<_> = world.log.epochs().iter().map(|(_, began)| began.get()).collect();
    assert_eq!(began, [45, 46, 47, 48, 49]);
    world.check();
}

/// A log of three lives that is wanted from the last segment on, whose index recovery has read:
/// that of the one before would keep what is derived from those that go. Tells how many segments
/// there are.
fn wanted_from_the_last(world: &mut World, keeper: impl FnOnce(&mut Vec<u8>)) -> usize {
    *world = rolled();
    world.restart();
    world.restart();
    let indexes = world.disk.files.iter_mut().rev();
    let mut indexes = indexes.filter(|(file, _)| matches!(file, FileName::Index(_)));
    keeper(indexes.nth(1).expect("there are several").1);
    let last = Offset::new(world.log.durable_end().get() - 1);
    world.log.trim(last).unwrap();
    world.log.segments()
}

#[test]
fn a_rotten_index_does_not_become_the_keeper_of_what_is_derived() {
    let mut world = World::new(small());
    let segments = wanted_from_the_last(&mut world, |index| index.fill(0));
    let trimmed = world.run();
    assert!(matches!(trimmed[..], [Event::Trimmed(_)]), "{trimmed:?}");
    assert_eq!((segments, world.log.segments()), (4, 2), "the index before it keeps");
    world.append(1, 100, 60);
    world.restart();
    assert_eq!(world.log.fold().len(), world.model.len());
    // Another keeps.
    world.log.trim(world.log.durable_end()).unwrap();
    world.run();
    assert_eq!(world.log.segments(), 0);
    world.restart();
    assert_eq!(world.log.fold().len(), world.model.len());
    world.check();
}

#[test]
fn a_keeper_that_cannot_be_read_for_now_is_read_later() {
    let mut world = World::new(small());
    let segments = wanted_from_the_last(&mut world, |_| {});
    let mut refused = 0;
    run_with(&mut world, |op| {
        let index = matches!(op, Op::Read { file: FileName::Index(_), .. });
        refused += u32::from(index);
        index.then_some(IoError::NoDescriptors)
    });
    assert_eq!((refused, world.log.segments()), (1, segments), "no read after another");
    tick(&mut world);
    world.run();
    assert_eq!(world.log.segments(), 1);
    world.restart();
    assert_eq!(world.log.fold().len(), world.model.len());
    world.check();
}

const BLOCK: usize = 4096;

/// A manifest that is larger than a block, or an index.
fn wants_space(op: &Op<Bytes>, slot: Option<Slot>) -> Option<IoError> {
    let wants = match op {
        Op::Write { file: FileName::Manifest(of), bytes, .. } => {
            slot.is_none_or(|slot| slot == *of) && bytes.len() > BLOCK
        }
        Op::Write { file: FileName::Index(_), .. } => true,
        _ => false,
    };
    wants.then_some(IoError::NoSpace)
}

/// A trim where there is space for neither an index nor a larger manifest, in one copy or in both,
/// gives up segments.
fn trim_without_space(slot: Option<Slot>) {
    let mut world = World::new(small());
    let mut refused = false;
    for time in 0.. {
        world.append(1, 60_000, time);
        run_with(&mut world, |op| {
            let error = wants_space(op, slot);
            refused |=
                error.is_some() && matches!(op, Op::Write { file: FileName::Manifest(_), .. });
            error
        });
        if refused {
            break;
        }
        tick(&mut world);
    }
    let (segments, end) = (world.log.segments(), world.log.durable_end());
    world.log.trim(end).unwrap();
    for _ in 0..3 {
        run_with(&mut world, |op| wants_space(op, slot));
        tick(&mut world);
    }
    assert!(matches!(world.log.poll_event(), Some(Event::Trimmed(to)) if to == end));
    assert!(world.log.segments() < segments);
    world.lost = true;
    world.restart();
    assert_eq!(world.log.log_start(), end);
    world.check();
}

#[test]
fn a_trim_needs_no_space() {
    trim_without_space(None);
}

#[test]
fn a_trim_needs_no_space_where_one_copy_of_the_manifest_has_grown() {
    trim_without_space(Some(Slot::Second));
}

#[test]
fn a_checkpoint_of_a_part_keeps_nothing() {
    let mut world = World::new(small());
    // What is there can be overwritten.
    let is_index = |op: &Op<Bytes>| match op {
        Op::Write { file: FileName::Index(_), bytes, .. } => bytes.iter().any(|byte| *byte != 0),
        _ => false,
    };
    let second = FileName::Index(FileNumber::new(2));
    while !world.disk.files.contains_key(&second) {
        assert!(world.log.segments() <= 2, "a checkpoint comes before its end");
        world.append(1, 5_000, 0);
        world.run();
        tick(&mut world);
        world.run();
    }
    // The disk is full before all of that segment is in an index, and it is given up.
    while world.log.segments() < 3 {
        world.append(1, 5_000, 0);
        run_with(&mut world, |op| is_index(op).then_some(IoError::NoSpace));
    }
    world.log.trim(world.log.durable_end()).unwrap();
    for _ in 0..3 {
        run_with(&mut world, |op| is_index(op).then_some(IoError::NoSpace));
        tick(&mut world);
    }
    assert_eq!(world.log.segments(), 1);
    world.log = open_with(&mut world, |_| None).unwrap();
    assert!(world.log.recovery().fold_lost, "{}", world.log.recovery());
    world.lost = true;
    world.check();
}

#[test]
fn no_file_is_removed_while_something_is_on_its_way_to_it() {
    let mut world = World::new(small());
    let is_index = |op: &Op<Bytes>| matches!(op, Op::Write { file: FileName::Index(_), .. });
    for time in 0..60 {
        world.append(1, 5_000, time);
        run_with(&mut world, |op| is_index(op).then_some(IoError::NoSpace));
    }
    assert!(world.log.segments() > 2);
    world.log.trim(world.log.durable_end()).unwrap();
    tick(&mut world);
    let mut held = None;
    let mut removed = Vec::new();
    while let Some((id, op)) = world.log.poll_op() {
        if let Op::Write { file: file @ FileName::Index(_), .. } = op
            && held.is_none()
        {
            held = Some((id, file, op));
            continue;
        }
        if let Op::Remove { file } = op {
            removed.push(file);
        }
        let result = world.disk.perform(op);
        world.log.on_done(Done { id, result }, world.now());
    }
    let (id, file, op) = held.expect("an index is written");
    assert!(!removed.is_empty() && !removed.contains(&file), "{removed:?}");
    let result = world.disk.perform(op);
    world.log.on_done(Done { id, result }, world.now());
    world.run();
    world.lost = true;
    world.restart();
    world.check();
}
