//! Repair: what was lost is written back from a copy, and nothing else is touched, whatever befalls
//! that.

mod world;

use std::ops::Range;

use bytes::Bytes;
use catena_format::{BatchHeader, FileNumber, Offset, batch, frame};
use catena_log::{
    Event, LogConfig, ReadAnswer, ReadError, ReadOutcome, RepairError, Stamp,
    io::{Done, FileName, IoError, Op, OpId, Outcome},
};
use world::{World, open, run_with, small};

const EIO: IoError = IoError::Device(5);
const FIRST: FileName = FileName::Segment(FileNumber::new(1));

/// A batch as another node has it, and what it is stored with there.
#[derive(Clone)]
struct Copy {
    base: Offset,
    next: Offset,
    bytes: Vec<u8>,
    stamp: Stamp,
}

/// A log, and all that it held before anything befell it.
struct Rig {
    world: World,
    copies: Vec<Copy>,
}

impl Rig {
    fn new(mut world: World) -> Self {
        world.run();
        let mut copies = Vec::new();
        for (base, next, bytes, _) in world.model.clone() {
            let batches = match world.log.read(base, 1, world.log.durable_end()).unwrap() {
                ReadOutcome::Ready(batches) => batches,
                ReadOutcome::Pending(_) => match world.run().pop() {
                    Some(Event::Read(_, Ok(ReadAnswer::Batches(batches)))) => batches,
                    other => panic!("{other:?}"),
                },
            };
            assert_eq!(batches.shares[0], bytes);
            copies.push(Copy { base, next, bytes, stamp: batches.stamps[0] });
        }
        world.log.drop_tail();
        Self { world, copies }
    }

    fn flip(&mut self, file: FileName, at: usize) {
        self.world.disk.files.get_mut(&file).unwrap()[at] ^= 1;
    }

    /// Where the frame of an offset stands in the first segment, and how long its batch is.
    fn frame(&self, offset: u64) -> (usize, usize) {
        let bytes = &self.world.disk.files[&FIRST];
        let is = |at: &usize| {
            bytes[*at..].starts_with(b"CTNF")
                && bytes[at + 6] == 0
                && bytes[at + 16..at + 24] == offset.to_le_bytes()
        };
        let at = (4096..bytes.len() - 64).step_by(16).find(is).expect("the frame is there");
        (at, u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize)
    }

    /// Rot in the batch of an offset.
    fn rot_batch(&mut self, offset: u64) {
        let (at, length) = self.frame(offset);
        self.flip(FIRST, at + 64 + length - 1);
    }

    /// Rot in the frame header of an offset.
    fn rot_header(&mut self, offset: u64) {
        let (at, _) = self.frame(offset);
        self.flip(FIRST, at + 20);
    }

    /// All of the bytes become `byte`.
    fn wipe(&mut self, range: Range<usize>, byte: u8) {
        self.world.disk.files.get_mut(&FIRST).unwrap()[range].fill(byte);
    }

    /// All sealed segments are checked: what is damaged is known.
    fn scrub(&mut self) -> usize {
        let mut found = 0;
        while self.world.log.scrub(0).is_some() {
            let events = self.world.run();
            found += events.iter().filter(|event| matches!(event, Event::Found(_))).count();
        }
        found
    }

    /// The copies of a range, as they are handed over.
    fn offer(&self, range: &Range<Offset>) -> (Vec<Stamp>, Vec<u8>) {
        let of = |copy: &&Copy| copy.next > range.start && copy.next <= range.end;
        let copies: Vec<_> = self.copies.iter().filter(of).collect();
        let stamps = copies.iter().map(|copy| copy.stamp).collect();
        (stamps, copies.iter().flat_map(|copy| copy.bytes.clone()).collect())
    }

    fn begin(&mut self, range: &Range<Offset>) -> Result<(), RepairError> {
        let (stamps, payload) = self.offer(range);
        self.world.log.repair(&stamps, &payload)
    }

    /// Repairs all that is known to be damaged; how many repairs that took.
    fn repair_all(&mut self) -> usize {
        let mut repairs = 0;
        while let Some(range) = self.world.log.repairable(Offset::ZERO) {
            self.begin(&range).unwrap();
            assert!(self.world.log.is_repairing());
            let ended = ended(self.world.run());
            assert!(matches!(ended, Ended::Repaired(_)), "{ended:?} of {range:?}");
            assert!(!self.world.log.is_repairing());
            repairs += 1;
        }
        assert_eq!(self.world.log.damaged(), []);
        repairs
    }

    /// All is there again: for readers, for the scrub, and after a start with and without indexes.
    fn check(&mut self) {
        self.check_with_indexes();
        self.world.disk.files.retain(|file, _| !matches!(file, FileName::Index(_)));
        self.world.lost = true;
        self.world.restart();
        assert_eq!((self.world.log.damaged(), self.scrub()), (vec![], 0));
        self.world.check();
    }

    fn check_with_indexes(&mut self) {
        self.world.log.drop_tail();
        self.world.check();
        assert_eq!(self.scrub(), 0);
        self.world.run();
        self.world.restart();
        assert_eq!((self.world.log.damaged(), self.scrub()), (vec![], 0));
        self.world.check();
        for (offset, next, bytes, _) in self.world.model.clone() {
            if next > self.world.log.log_start() {
                let from = offset.max(self.world.log.log_start());
                assert_eq!(self.world.read(from, 1).unwrap()[0], bytes);
            }
        }
        for time in (0..self.world.model.len() as i64).step_by(3) {
            self.world.check_time(time);
        }
    }
}

#[derive(Debug, PartialEq)]
enum Ended {
    Repaired(Range<Offset>),
    Failed(Range<Offset>, RepairError),
}

fn ended(events: Vec<Event<Bytes>>) -> Ended {
    let mut ended = events.into_iter().filter_map(|event| match event {
        Event::Repaired(range) => Some(Ended::Repaired(range)),
        Event::RepairFailed(range, why) => Some(Ended::Failed(range, why)),
        _ => None,
    });
    let first = ended.next().expect("a repair ends");
    assert_eq!(ended.next(), None);
    first
}

/// Segments of batches of several sizes, alone and together in their groups, with marks between;
/// each begins anew with an index of its own.
fn varied() -> Rig {
    let config = LogConfig { index_stride: 8 << 10, ..small() };
    let mut world = World::new(config);
    for time in 0..120 {
        world.append(1 + time as u32 % 3, [100, 700, 2_500, 40, 6_000][time as usize % 5], time);
        if time % 4 == 0 {
            world.run();
        }
        if time % 17 == 16 {
            world.run();
            world.clock += 20;
            let now = world.now();
            world.log.on_tick(now);
            world.run();
        }
    }
    assert!(world.log.segments() >= 3);
    Rig::new(world)
}

/// The batches of the first segment.
fn sealed(rig: &Rig) -> Vec<Copy> {
    let other = rig.world.disk.files[&FileName::Segment(FileNumber::new(2))][64..72].to_vec();
    let end = Offset::new(u64::from_le_bytes(other.try_into().unwrap()));
    rig.copies.iter().filter(|copy| copy.next <= end).cloned().collect()
}

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
                assert_eq!(rig.world.log.damaged(), [lost.clone()]);
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

/// A log of which a row of batches in the first segment is lost, over several groups; with the
/// offsets.
fn torn_out(from: usize, to: usize) -> (Rig, Range<Offset>) {
    let mut rig = varied();
    let sealed = sealed(&rig);
    let (begin, _) = rig.frame(sealed[from].base.get());
    let (last, length) = rig.frame(sealed[to].base.get());
    rig.wipe(begins_within(begin)..last + 64 + length - 1, 0xff);
    assert_eq!(rig.scrub(), 1);
    let lost = sealed[from].base..sealed[to].next;
    assert_eq!(rig.world.log.damaged(), [lost.clone()]);
    (rig, lost)
}

/// The header of the first one stays, and says where it was.
fn begins_within(frame: usize) -> usize {
    frame + 100
}

/// Every batch outside of `lost` is read as it was.
fn nothing_else_is_lost(rig: &mut Rig, lost: &Range<Offset>) {
    rig.world.log.drop_tail();
    for copy in rig.copies.clone() {
        if copy.next <= lost.start || copy.base >= lost.end {
            assert_eq!(rig.world.read(copy.base, 1).unwrap()[0], copy.bytes);
        } else {
            match rig.world.read(copy.base, 1) {
                Ok(batches) => assert_eq!(batches[0], copy.bytes),
                Err(error) => assert!(matches!(error, ReadError::Damaged { .. }), "{error}"),
            }
        }
    }
    let known = |range: &Range<Offset>| lost.start <= range.start && range.end <= lost.end;
    assert!(rig.world.log.damaged().iter().all(known), "{:?}", rig.world.log.damaged());
}

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
    for (from, to) in [(3, 3), (5, 21), (0, 2)] {
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
        rig.begin(&damaged[0]).unwrap();
        run_with(&mut rig.world, &mut refuse);
        assert_eq!(ended(rig.world.run()), Ended::Repaired(damaged[0].clone()));
        assert_eq!(rig.world.log.damaged(), []);
        assert_eq!(rig.scrub(), 0);
        for copy in rig.copies.clone() {
            assert_eq!(rig.world.read(copy.base, 1).unwrap()[0], copy.bytes);
        }
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
    let (mut rig, lost) = torn_out(5, 21);
    let (first, second) = (rig.copies[5].clone(), rig.copies[14].clone());
    let parts = [lost.start..second.base, second.base..lost.end];
    // A start that knows of no damage yet.
    let known = rig.world.disk.files.clone();
    rig = varied();
    rig.world.disk.files.insert(FIRST, known[&FIRST].clone());
    begin_read(&mut rig, second.base);
    let one = hold(&mut rig);
    begin_read(&mut rig, first.base);
    let two = hold(&mut rig);
    assert_eq!(rig.scrub(), 1);
    rig.begin(&parts[0]).unwrap();
    assert_eq!(ended(rig.world.run()), Ended::Repaired(parts[0].clone()));
    // Another reader of the same does not wait for what was read before.
    begin_read(&mut rig, first.base);
    assert_eq!(answers(&mut rig), [first.bytes.clone()]);
    deliver(&mut rig, two);
    assert_eq!(answers(&mut rig), [first.bytes.clone()]);
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
                    assert_eq!(rig.world.log.damaged(), [lost.clone()]);
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
            assert_eq!(rig.world.log.damaged(), [lost.clone()]);
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
    rig.world.restart();
    rig.repair_all();
    rig.check();
}
