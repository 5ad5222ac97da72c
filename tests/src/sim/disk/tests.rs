//! Each test pins one behaviour of the disk.

mod crashes;
mod faults;
mod histories;
mod promises;

use bytes::Bytes;
use catena_format::{FileNumber, Position};
use catena_log::io::{FileName, IoError, Op, OpId, Outcome};

use super::{Crash, DeviceCache, Disk, DiskOptions, FaultKind, FaultOptions};
use crate::sim::{choose::Choose, random::Random};

const BLOCK: u64 = 4096;
const A: FileName = FileName::Segment(FileNumber::new(1));
const B: FileName = FileName::Segment(FileNumber::new(2));

type Answer = Result<Outcome<Bytes>, IoError>;

/// Answers some questions by name, and every other one with 0 or no.
#[derive(Default)]
struct Script(Vec<(&'static str, usize)>);

impl Choose for Script {
    fn choose(&mut self, n: usize, what: &str) -> usize {
        let answer = self.0.iter().find(|(name, _)| *name == what).map_or(0, |(_, answer)| *answer);
        answer.min(n - 1)
    }
}

/// A disk with one directory, driven one operation at a time.
struct Rig {
    disk: Disk,
    now_ns: u64,
    life: u64,
    ids: u64,
}

impl Rig {
    /// A strict disk that answers `script`.
    fn scripted(options: DiskOptions, script: &[(&'static str, usize)]) -> Self {
        Self::chosen(Box::new(Script(script.to_vec())), options)
    }

    /// A disk whose decisions `choice` takes.
    fn chosen(choice: Box<dyn Choose>, options: DiskOptions) -> Self {
        Self::listed(Disk::with_chooser(choice, options))
    }

    /// A disk with `random`'s history.
    fn random(random: &Random, options: DiskOptions) -> Self {
        Self::listed(Disk::new(random, options))
    }

    fn listed(disk: Disk) -> Self {
        let mut rig = Self { disk, now_ns: 0, life: 1, ids: 0 };
        rig.run(Op::List).expect("a listing");
        rig
    }

    /// A strict disk where whatever may be lost is lost.
    fn strict(cache: DeviceCache) -> Self {
        Self::scripted(DiskOptions::exhaustive(cache), &[])
    }

    /// A disk where these faults come as often as their budgets say.
    fn faulty(faults: &[FaultKind]) -> Self {
        let mut rig = Self::strict(DeviceCache::Fua);
        rig.fault(faults);
        rig
    }

    fn fault(&mut self, faults: &[FaultKind]) {
        let none = FaultOptions::none();
        self.disk.set_faults(faults.iter().fold(none, |options, kind| options.always(*kind, 1)));
    }

    fn submit(&mut self, op: Op<Bytes>) -> OpId {
        self.ids += 1;
        self.disk.submit(self.now_ns, 7, self.life, OpId(self.ids), op);
        OpId(self.ids)
    }

    fn wait(&mut self, id: OpId) -> Answer {
        loop {
            self.now_ns = self.disk.next_event().expect("an operation under way");
            while let Some((directory, done_id, done)) = self.disk.poll_done(self.now_ns) {
                assert_eq!((directory, done_id), (7, done.id));
                if done.id == id {
                    return done.result;
                }
            }
        }
    }

    fn run(&mut self, op: Op<Bytes>) -> Answer {
        let id = self.submit(op);
        self.wait(id)
    }

    fn write(&mut self, file: FileName, position: u64, fill: u8) {
        self.run(write(file, position, fill, false)).expect("a plain write");
    }

    fn write_durably(&mut self, file: FileName, position: u64, fill: u8) {
        self.run(write(file, position, fill, true)).expect("a durable write");
    }

    fn sync(&mut self, file: FileName) {
        self.run(Op::Sync { file }).expect("a sync");
    }

    fn sync_directory(&mut self) {
        self.run(Op::SyncDirectory).expect("a directory sync");
    }

    /// A file of so many durable blocks of zeros, its name durable.
    fn extended(&mut self, file: FileName, blocks: u64) {
        let (from, to) = (Position::ZERO, Position::new(blocks * BLOCK));
        self.run(Op::Extend { file, from, to }).expect("an extension");
        self.sync_directory();
    }

    fn crash(&mut self, crash: Crash) {
        self.disk.crash(self.now_ns, crash);
        self.life += 1;
    }

    /// The first byte of each block as reads see it; `None` without the file.
    fn live(&self, file: FileName) -> Option<Vec<u8>> {
        self.disk.live_bytes(7, file).map(|bytes| firsts(&bytes))
    }

    fn durable(&self, file: FileName) -> Option<Vec<u8>> {
        self.disk.durable_bytes(7, file).map(|bytes| firsts(&bytes))
    }

    fn skip_to_end(&mut self) {
        while let Some(at_ns) = self.disk.next_event() {
            self.now_ns = at_ns;
            while self.disk.poll_done(self.now_ns).is_some() {}
        }
    }
}

fn firsts(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(BLOCK as usize).map(|block| block[0]).collect()
}

fn write(file: FileName, position: u64, fill: u8, durable: bool) -> Op<Bytes> {
    let bytes = Bytes::from(vec![fill; BLOCK as usize]);
    Op::Write { file, position: Position::new(position), bytes, durable }
}
