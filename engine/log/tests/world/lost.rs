//! A log of which something is lost, and what it held before.

use std::ops::Range;

use bytes::Bytes;
use catena_format::{FileNumber, Offset};
use catena_log::{
    Event, LogConfig, ReadAnswer, ReadError, ReadOutcome, RepairError, Stamp, io::FileName,
};

use super::{World, small};

pub(crate) const FIRST: FileName = FileName::Segment(FileNumber::new(1));

/// A batch as another node has it, and what it is stored with there.
#[derive(Clone)]
pub(crate) struct Copy {
    pub(crate) base: Offset,
    pub(crate) next: Offset,
    pub(crate) bytes: Vec<u8>,
    pub(crate) stamp: Stamp,
}

/// A log, and all that it held before anything befell it.
pub(crate) struct Rig {
    pub(crate) world: World,
    pub(crate) copies: Vec<Copy>,
}

impl Rig {
    pub(crate) fn new(mut world: World) -> Self {
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

    pub(crate) fn flip(&mut self, file: FileName, at: usize) {
        self.world.disk.files.get_mut(&file).unwrap()[at] ^= 1;
    }

    /// Where the frame of an offset stands in the first segment, and how long its batch is.
    pub(crate) fn frame(&self, offset: u64) -> (usize, usize) {
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
    pub(crate) fn rot_batch(&mut self, offset: u64) {
        let (at, length) = self.frame(offset);
        self.flip(FIRST, at + 64 + length - 1);
    }

    /// Rot in the frame header of an offset.
    pub(crate) fn rot_header(&mut self, offset: u64) {
        let (at, _) = self.frame(offset);
        self.flip(FIRST, at + 20);
    }

    /// All of the bytes become `byte`.
    pub(crate) fn wipe(&mut self, range: Range<usize>, byte: u8) {
        self.world.disk.files.get_mut(&FIRST).unwrap()[range].fill(byte);
    }

    /// All sealed segments are checked: what is damaged is known.
    pub(crate) fn scrub(&mut self) -> usize {
        let mut found = 0;
        while self.world.log.scrub(0).is_some() {
            let events = self.world.run();
            found += events.iter().filter(|event| matches!(event, Event::Found(_))).count();
        }
        found
    }

    /// The copies of a range, as they are handed over.
    pub(crate) fn offer(&self, range: &Range<Offset>) -> (Vec<Stamp>, Vec<u8>) {
        let of = |copy: &&Copy| copy.next > range.start && copy.next <= range.end;
        let copies: Vec<_> = self.copies.iter().filter(of).collect();
        let stamps = copies.iter().map(|copy| copy.stamp).collect();
        (stamps, copies.iter().flat_map(|copy| copy.bytes.clone()).collect())
    }

    pub(crate) fn begin(&mut self, range: &Range<Offset>) -> Result<(), RepairError> {
        let (stamps, payload) = self.offer(range);
        self.world.log.repair(&stamps, &payload)
    }

    /// Repairs all that is known to be damaged; how many repairs that took.
    pub(crate) fn repair_all(&mut self) -> usize {
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
    pub(crate) fn check(&mut self) {
        self.check_with_indexes();
        self.world.disk.files.retain(|file, _| !matches!(file, FileName::Index(_)));
        self.world.lost = true;
        self.world.restart();
        assert_eq!((self.world.log.damaged(), self.scrub()), (vec![], 0));
        self.world.check();
    }

    pub(crate) fn check_with_indexes(&mut self) {
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
pub(crate) enum Ended {
    Repaired(Range<Offset>),
    Failed(Range<Offset>, RepairError),
}

pub(crate) fn ended(events: Vec<Event<Bytes>>) -> Ended {
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
pub(crate) fn varied() -> Rig {
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
pub(crate) fn sealed(rig: &Rig) -> Vec<Copy> {
    let other = rig.world.disk.files[&FileName::Segment(FileNumber::new(2))][64..72].to_vec();
    let end = Offset::new(u64::from_le_bytes(other.try_into().unwrap()));
    rig.copies.iter().filter(|copy| copy.next <= end).cloned().collect()
}

/// A log of which a row of batches in the first segment is lost, over several groups; with the
/// offsets.
pub(crate) fn torn_out(from: usize, to: usize) -> (Rig, Range<Offset>) {
    let mut rig = varied();
    let sealed = sealed(&rig);
    let (begin, _) = rig.frame(sealed[from].base.get());
    let (last, length) = rig.frame(sealed[to].base.get());
    rig.wipe(begins_within(begin)..last + 64 + length - 1, 0xff);
    assert_eq!(rig.scrub(), 1);
    let lost = sealed[from].base..sealed[to].next;
    assert_eq!(rig.world.log.damaged(), vec![lost.clone()]);
    (rig, lost)
}

/// The header of the first one stays, and says where it was.
pub(crate) fn begins_within(frame: usize) -> usize {
    frame + 100
}

/// Every batch outside of `lost` is read as it was.
pub(crate) fn nothing_else_is_lost(rig: &mut Rig, lost: &Range<Offset>) {
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
