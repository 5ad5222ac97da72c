//! Repair in the midst of all else: operations take effect and end in any order, readers and the
//! scrub go on, and now and then the process dies.

mod world;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use catena_format::Offset;
use catena_log::{
    Event, ReadAnswer, ReadError, ReadId, ReadOutcome, RepairError,
    io::{Done, FileName, IoError, Op, OpId, Outcome},
};
use world::{
    lost::{Rig, varied},
    open,
};

struct Story {
    rig: Rig,
    random: u64,
    /// Asked for, and not done yet.
    asked: Vec<(OpId, Op<Bytes>)>,
    /// Done, and not heard of yet.
    done: Vec<(OpId, Result<Outcome<Bytes>, IoError>)>,
    reads: BTreeMap<ReadId, usize>,
    /// Batches of which something is not as it was.
    wounded: BTreeSet<usize>,
    repaired: u64,
    given_up: u64,
    crashes: u64,
}

impl Story {
    fn new(seed: u64) -> Self {
        Self {
            rig: varied(),
            random: seed,
            asked: Vec::new(),
            done: Vec::new(),
            reads: BTreeMap::new(),
            wounded: BTreeSet::new(),
            repaired: 0,
            given_up: 0,
            crashes: 0,
        }
    }

    /// A number below `below`.
    fn draw(&mut self, below: usize) -> usize {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((self.random >> 33) as usize) % below
    }

    /// Something in a sealed segment is overwritten.
    fn wound(&mut self) {
        let files = self.rig.world.disk.files.keys().copied();
        let files: Vec<_> = files.filter(|file| matches!(file, FileName::Segment(_))).collect();
        let sealed = self.rig.world.log.segments().saturating_sub(1).max(1);
        let file = files[self.draw(sealed.min(files.len()))];
        let length = self.rig.world.disk.files[&file].len();
        let from = 4096 + self.draw(length - 4096);
        let sizes = [1, 40, 3_000, 30_000];
        let size = sizes[self.draw(4)];
        let to = (from + 1 + self.draw(size)).min(length);
        let bytes = self.rig.world.disk.files.get_mut(&file).unwrap();
        let copies = self.rig.copies.iter().enumerate();
        let frames: Vec<_> =
            (4096..length).step_by(16).filter(|at| bytes[*at..].starts_with(b"CTNF")).collect();
        let hit = copies.filter(|(_, copy)| {
            let stands = |at: &&usize| bytes[**at + 64..].starts_with(&copy.bytes);
            let at = frames.iter().find(stands);
            at.is_some_and(|at| *at < to && from < at + 64 + copy.bytes.len())
        });
        self.wounded.extend(hit.map(|(at, _)| at));
        bytes[from..to].iter_mut().for_each(|byte| *byte ^= 0x5a);
    }

    fn step(&mut self) {
        while let Some(asked) = self.rig.world.log.poll_op() {
            self.asked.push(asked);
        }
        let heard = !self.done.is_empty() && self.draw(2) == 0;
        if heard {
            let at = self.draw(self.done.len());
            let (id, result) = self.done.swap_remove(at);
            self.rig.world.log.on_done(Done { id, result }, self.rig.world.now());
        } else if !self.asked.is_empty() {
            let at = self.draw(self.asked.len());
            let (id, op) = self.asked.swap_remove(at);
            self.done.push((id, self.rig.world.disk.perform(op)));
        }
        self.heed();
    }

    fn heed(&mut self) {
        while let Some(event) = self.rig.world.log.poll_event() {
            match event {
                Event::Read(id, answer) => {
                    let at = self.reads.remove(&id).expect("somebody reads");
                    match answer {
                        Ok(ReadAnswer::Batches(batches)) => {
                            assert_eq!(batches.shares[0], self.rig.copies[at].bytes);
                        }
                        Err(ReadError::Damaged { .. }) => assert!(self.wounded.contains(&at)),
                        other => panic!("{other:?}"),
                    }
                }
                Event::Repaired(range) => {
                    assert!(self.rig.world.log.damaged().iter().all(|damaged| {
                        damaged.end <= range.start || range.end <= damaged.start
                    }));
                    self.repaired += 1;
                }
                Event::RepairFailed(_, why) => {
                    assert!(matches!(why, RepairError::Unsteady | RepairError::NotKept), "{why}");
                    self.given_up += 1;
                }
                _ => {}
            }
        }
        for range in self.rig.world.log.damaged() {
            let copies = self.rig.copies.iter().enumerate();
            let mut within =
                copies.filter(|(_, copy)| range.start < copy.next && copy.base < range.end);
            let known = within.all(|(at, _)| self.wounded.contains(&at));
            assert!(known, "{range:?} of {:?}", self.wounded);
        }
    }

    fn act(&mut self) {
        match self.draw(12) {
            0 | 1 if !self.rig.world.log.is_scrubbing() => {
                self.rig.world.log.scrub(0);
            }
            2 | 3 => {
                let at = self.draw(self.rig.copies.len());
                let (base, end) = (self.rig.copies[at].base, self.rig.world.log.durable_end());
                match self.rig.world.log.read(base, 1, end) {
                    Ok(ReadOutcome::Pending(id)) => drop(self.reads.insert(id, at)),
                    Ok(ReadOutcome::Ready(_)) => {}
                    Err(error) => {
                        assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
                        assert!(self.wounded.contains(&at));
                    }
                }
            }
            4..8 if !self.rig.world.log.is_repairing() => {
                let Some(mut range) = self.rig.world.log.repairable(Offset::ZERO) else { return };
                if self.draw(3) > 0 {
                    let within = |end: &Offset| range.start < *end && *end <= range.end;
                    let ends = self.rig.copies.iter().map(|copy| copy.next);
                    let ends: Vec<_> = ends.filter(within).collect();
                    range.end = ends[self.draw(ends.len())];
                }
                self.rig.begin(&range).unwrap();
            }
            8 if self.draw(12) == 0 => self.crash(),
            9 if self.draw(24) == 0 => self.wound(),
            _ => {}
        }
    }

    /// The process dies; of what it asked for some has been done, and of that some sectors.
    fn crash(&mut self) {
        self.crashes += 1;
        for (_, op) in std::mem::take(&mut self.asked) {
            let Op::Write { file: file @ FileName::Segment(_), position, bytes, .. } = op else {
                continue;
            };
            for (at, sector) in (position.get()..).step_by(512).zip(bytes.chunks(512)) {
                let at = at as usize;
                if self.draw(2) == 0 {
                    let bytes = self.rig.world.disk.files.get_mut(&file).unwrap();
                    bytes[at..at + 512].copy_from_slice(sector);
                }
            }
        }
        (self.done, self.reads) = (Vec::new(), BTreeMap::new());
        let world = &mut self.rig.world;
        world.epoch = world.epoch.plus(1);
        world.log = open(&mut world.disk, world.config, false, 0).unwrap();
        self.heed();
    }

    fn settle(&mut self) {
        while self.rig.world.log.is_repairing() || !(self.asked.is_empty() && self.done.is_empty())
        {
            self.step();
        }
        self.rig.world.run();
        // What is left of one round, and another one.
        self.rig.scrub();
        self.rig.scrub();
        self.heed();
        while let Some(range) = self.rig.world.log.repairable(Offset::ZERO) {
            self.rig.begin(&range).unwrap();
            while self.rig.world.log.is_repairing() {
                self.step();
            }
        }
        while !(self.asked.is_empty() && self.done.is_empty()) {
            self.step();
        }
        self.rig.world.run();
        assert_eq!(self.rig.world.log.damaged(), []);
        self.wounded.clear();
        assert_eq!(self.rig.scrub(), 0);
        for copy in self.rig.copies.clone() {
            assert_eq!(self.rig.world.read(copy.base, 1).unwrap()[0], copy.bytes);
        }
    }
}

#[test]
fn repairs_and_all_else_do_each_other_no_harm() {
    let (mut repaired, mut given_up, mut crashes) = (0, 0, 0);
    for seed in 0..100 {
        let mut story = Story::new(seed);
        for _ in 0..5 {
            for _ in 0..=story.draw(4) {
                story.wound();
            }
            for _ in 0..300 {
                story.act();
                story.step();
                story.step();
            }
            story.settle();
        }
        story.rig.check();
        repaired += story.repaired;
        given_up += story.given_up;
        crashes += story.crashes;
    }
    assert!(repaired > 1_000 && given_up > 3 && crashes > 100, "{repaired} {given_up} {crashes}");
}
