//! Repair: what was lost is written back from a copy, and nothing else is touched, whatever befalls
//! that.

mod world;

use std::ops::Range;

use bytes::Bytes;
use catena_format::{FileNumber, Offset};
use catena_log::{
    Event, LogConfig, ReadAnswer, ReadError, ReadOutcome, RepairError, Stamp,
    io::{Done, FileName, IoError, Op, Outcome},
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
        self.world.log.drop_tail();
        self.world.check();
        assert_eq!(self.scrub(), 0);
        self.world.run();
        self.world.restart();
        assert_eq!((self.world.log.damaged(), self.scrub()), (vec![], 0));
        self.world.check();
        for (offset, next, bytes, _) in self.world.model.clone() {
            if next > self.world.log.log_start() {
                assert_eq!(self.world.read(offset, 1).unwrap()[0], bytes);
            }
        }
        for time in (0..self.world.model.len() as i64).step_by(3) {
            self.world.check_time(time);
        }
        self.world.disk.files.retain(|file, _| !matches!(file, FileName::Index(_)));
        self.world.lost = true;
        self.world.restart();
        assert_eq!((self.world.log.damaged(), self.scrub()), (vec![], 0));
        self.world.check();
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

fn range(from: u64, to: u64) -> Range<Offset> {
    Offset::new(from)..Offset::new(to)
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
