//! Random histories, held against books that know nothing of the disk's insides.

use std::collections::BTreeMap;

use super::*;
use crate::sim::choose::every_history;

const BLOCKS: u64 = 16;
const SECTORS: usize = BLOCK as usize / 512;
const STEPS: usize = 60;

/// What one sector may hold after a power loss: its floor, or anything written after it.
#[derive(Clone, Default)]
struct Sector {
    floor: u8,
    newer: Vec<u8>,
}

/// A write under way or complete, which no sync has covered yet.
struct Written {
    block: u64,
    fill: u8,
    durable: bool,
    completed: bool,
}

/// The books of one file.
struct Books {
    sectors: Vec<Sector>,
    writes: BTreeMap<OpId, Written>,
    /// The writes that each sync under way has to cover.
    syncs: BTreeMap<OpId, Vec<OpId>>,
}

impl Books {
    fn new() -> Self {
        let sectors = vec![Sector::default(); BLOCKS as usize * SECTORS];
        Self { sectors, writes: BTreeMap::new(), syncs: BTreeMap::new() }
    }

    fn block(&mut self, block: u64) -> &mut [Sector] {
        &mut self.sectors[block as usize * SECTORS..][..SECTORS]
    }

    fn is_busy(&self, block: u64) -> bool {
        self.writes.values().any(|write| write.block == block && !write.completed)
    }

    fn on_write(&mut self, id: OpId, block: u64, fill: u8, durable: bool) {
        self.block(block).iter_mut().for_each(|sector| sector.newer.push(fill));
        self.writes.insert(id, Written { block, fill, durable, completed: false });
    }

    fn on_sync(&mut self, id: OpId) {
        let covered = self.writes.iter().filter(|(_, write)| write.completed);
        self.syncs.insert(id, covered.map(|(id, _)| *id).collect());
    }

    fn on_done(&mut self, id: OpId) {
        for covered in self.syncs.remove(&id).unwrap_or_default() {
            if let Some(write) = self.writes.remove(&covered) {
                self.raise(write.block, write.fill);
            }
        }
        let Some(write) = self.writes.get_mut(&id) else { return };
        write.completed = true;
        if write.durable {
            let (block, fill) = (write.block, write.fill);
            self.writes.remove(&id);
            self.raise(block, fill);
        }
    }

    /// `fill` is durable: what came before it can't come back.
    fn raise(&mut self, block: u64, fill: u8) {
        for sector in self.block(block) {
            if let Some(at) = sector.newer.iter().position(|newer| *newer == fill) {
                sector.newer.drain(..=at);
                sector.floor = fill;
            }
        }
    }

    /// Everything is as it is in `image`, and durable.
    fn settle(&mut self, image: &[u8]) {
        *self = Self::new();
        for (sector, bytes) in self.sectors.iter_mut().zip(image.chunks(512)) {
            sector.floor = bytes[0];
        }
    }

    /// Checks an image after a power loss; how many sectors kept and lost newer bytes.
    fn check(&self, image: &[u8]) -> (usize, usize) {
        assert_eq!(image.len() as u64, BLOCKS * BLOCK);
        let (mut kept, mut lost) = (0, 0);
        for (index, (sector, bytes)) in self.sectors.iter().zip(image.chunks(512)).enumerate() {
            assert!(bytes.iter().all(|byte| *byte == bytes[0]), "sector {index} is torn inside");
            let (fill, Sector { floor, newer }) = (bytes[0], sector);
            assert!(fill == *floor || newer.contains(&fill), "{index}: {fill} {floor} {newer:?}");
            kept += usize::from(fill != *floor);
            lost += usize::from(fill == *floor && !newer.is_empty());
        }
        (kept, lost)
    }
}

/// A random history of writes, syncs and crashes on one file.
struct History {
    rig: Rig,
    random: Random,
    books: Books,
    kept: usize,
    lost: usize,
}

impl History {
    fn new(seed: u64, cache: DeviceCache) -> Self {
        let random = Random::new(seed);
        let mut rig = Rig::random(&random, DiskOptions::random(cache));
        rig.extended(A, BLOCKS);
        let random = random.stream("workload");
        Self { rig, random, books: Books::new(), kept: 0, lost: 0 }
    }

    fn step(&mut self, fill: u8) {
        let block = self.random.below(BLOCKS);
        match self.random.below(16) {
            0..10 if !self.books.is_busy(block) => {
                let durable = self.random.chance(300_000);
                let id = self.rig.submit(write(A, block * BLOCK, fill, durable));
                self.books.on_write(id, block, fill, durable);
            }
            10 | 11 => {
                let id = self.rig.submit(Op::Sync { file: A });
                self.books.on_sync(id);
            }
            12 => {
                self.rig.submit(write(B, block * BLOCK, fill, false));
            }
            _ => self.advance(),
        }
    }

    fn advance(&mut self) {
        self.rig.now_ns += self.random.below(100_000);
        while let Some((_, id, _)) = self.rig.disk.poll_done(self.rig.now_ns) {
            self.books.on_done(id);
        }
    }

    fn cut(&mut self) {
        self.rig.crash(Crash::PowerLoss);
        let image = self.rig.disk.live_bytes(7, A).expect("its name was durable");
        let (kept, lost) = self.books.check(&image);
        self.kept += kept;
        self.lost += lost;
        self.books.settle(&image);
    }

    /// After a claim and a sync all that a dead process left is durable.
    fn kill(&mut self) {
        self.rig.crash(Crash::ProcessKill);
        self.rig.run(Op::Claim { file: A }).expect("a claim");
        self.rig.sync(A);
        self.books.settle(&self.rig.disk.live_bytes(7, A).expect("the file"));
    }

    fn run(&mut self) {
        for round in 0..4 {
            (1..=STEPS as u8).for_each(|step| self.step(round * STEPS as u8 + step));
            if self.random.chance(500_000) {
                self.kill();
            } else {
                self.cut();
            }
        }
        self.cut();
    }

    fn hashes(&self) -> (u64, u64) {
        (self.rig.disk.fingerprint(), self.rig.disk.final_image_hash())
    }
}

#[test]
fn after_a_power_loss_every_sector_holds_what_it_may_hold() {
    for cache in [DeviceCache::Fua, DeviceCache::Flush] {
        let (mut kept, mut lost) = (0, 0);
        for seed in 0..300 {
            let mut history = History::new(seed, cache);
            history.run();
            kept += history.kept;
            lost += history.lost;
        }
        assert!(kept > 1000 && lost > 1000, "the cut is too weak: {kept} kept, {lost} lost");
    }
}

#[test]
fn same_seed_same_fingerprint() {
    let run = |seed| {
        let mut history = History::new(seed, DeviceCache::Fua);
        history.run();
        history.hashes()
    };
    let hashes: Vec<_> = (0..20).map(run).collect();
    assert_eq!(hashes, (0..20).map(run).collect::<Vec<_>>());
    let different: std::collections::BTreeSet<_> = hashes.iter().map(|hash| hash.0).collect();
    assert_eq!(different.len(), hashes.len());
}

#[test]
fn every_fault_comes_and_is_counted() {
    let kinds = [
        FaultKind::WriteError,
        FaultKind::SyncError,
        FaultKind::NoSpace,
        FaultKind::ShortWrite,
        FaultKind::BitFlip,
        FaultKind::MisdirectedWrite,
        FaultKind::LostWrite,
        FaultKind::SlowPeriod,
    ];
    let none = FaultOptions::none();
    let faults = kinds.iter().fold(none, |options, kind| options.with(*kind, 50_000, 2));
    let mut counts = BTreeMap::new();
    for seed in 0..50 {
        let mut history = History::new(seed, DeviceCache::Flush);
        history.rig.disk.set_faults(faults.clone());
        for step in 1..200 {
            history.step(step);
        }
        for (name, count) in history.rig.disk.counts() {
            assert!(*count <= 2, "{name} beyond its budget");
            *counts.entry(*name).or_insert(0) += count;
        }
    }
    for kind in kinds {
        assert!(counts.get(kind.name()).is_some_and(|count| *count > 10), "{kind:?}: {counts:?}");
    }
}

/// The images of one block that a plain write, then a durable one to the block beside it leave.
fn exhaust(cache: DeviceCache) -> Vec<Vec<u8>> {
    let mut seen = std::collections::BTreeSet::new();
    every_history(|chooser| {
        let mut rig = Rig::chosen(Box::new(chooser), DiskOptions::exhaustive(cache));
        rig.extended(A, 2);
        rig.write(A, 0, 5);
        rig.write_durably(A, BLOCK, 6);
        rig.crash(Crash::PowerLoss);
        seen.insert(rig.live(A).expect("the file"));
    });
    seen.into_iter().collect()
}

#[test]
fn an_odometer_finds_every_outcome() {
    assert_eq!(exhaust(DeviceCache::Fua), [vec![0, 6], vec![5, 6]]);
    assert_eq!(exhaust(DeviceCache::Flush), [vec![5, 6]]);
}

#[test]
fn a_budget_of_one_fails_each_operation_in_turn() {
    let mut options = DiskOptions::exhaustive(DeviceCache::Fua);
    options.faults = FaultOptions::none().with(FaultKind::NoSpace, 1, 1);
    let mut failed = Vec::new();
    let histories = every_history(|chooser| {
        let mut rig = Rig::chosen(Box::new(chooser), options.clone());
        failed.push((0..5).find(|block| rig.run(write(A, block * BLOCK, 1, true)).is_err()));
    });
    failed.sort();
    // The first may fail as the file is created, or with its bytes.
    assert_eq!(histories, 7);
    assert_eq!(failed, [None, Some(0), Some(0), Some(1), Some(2), Some(3), Some(4)]);
}
