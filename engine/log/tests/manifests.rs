//! The two copies of a manifest: the newest durable one stays until there is another, and a full
//! disk does not keep a log from becoming smaller.

mod world;

use bytes::Bytes;
use catena_format::Offset;
use catena_log::{
    Event, Opening,
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
    world.epoch = world.epoch.next();
    world.log.trim(world.log.durable_end()).unwrap();
    world.run();
    assert_eq!(world.log.segments(), 0);
    let index = world.disk.files.keys().find(|file| matches!(file, FileName::Index(_)));
    let index = *index.expect("it is kept");
    world.log = open_misread(&mut world, index);
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
