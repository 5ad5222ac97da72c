//! A log, a disk that obeys, and a vector that says what the log must hold.

#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod lost;

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use catena_format::{
    BatchHeader, ClusterId, Epoch, Millis, Offset, PartitionIndex, PartitionUid, TopicId, checksum,
    frame,
};
use catena_log::{
    Event, Log, LogConfig, LogIdentity, Now, OpenError, Opening, ReadAnswer, ReadError,
    ReadOutcome,
    io::{Done, FileName, Heap, IoError, Op, OpId, Outcome},
};
pub(crate) type TestLog = Log<Heap, Vec<u64>>;

/// A disk that performs each operation at once and never fails.
#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) files: BTreeMap<FileName, Vec<u8>>,
}

impl Disk {
    pub(crate) fn perform(&mut self, op: Op<Bytes>) -> Result<Outcome<Bytes>, IoError> {
        match op {
            Op::List => {
                let files = self.files.iter().map(|(name, bytes)| (*name, bytes.len() as u64));
                return Ok(Outcome::Files(files.collect()));
            }
            Op::Claim { file } if !self.files.contains_key(&file) => return Err(IoError::NotFound),
            Op::Claim { .. } | Op::Sync { .. } | Op::SyncDirectory => {}
            Op::Extend { file, from, to } => {
                let bytes = self.files.entry(file).or_default();
                let length = bytes.len().max(to.get() as usize);
                bytes.resize(length, 0);
                bytes[from.get() as usize..to.get() as usize].fill(0);
            }
            Op::Release { file, from, to } => {
                let bytes = self.files.get_mut(&file).ok_or(IoError::NotFound)?;
                bytes[from.get() as usize..to.get() as usize].fill(0);
            }
            Op::Write { file, position, bytes, .. } => {
                let at = position.get() as usize;
                let image = self.files.entry(file).or_default();
                let length = image.len().max(at + bytes.len());
                image.resize(length, 0);
                image[at..at + bytes.len()].copy_from_slice(&bytes);
            }
            Op::Read { file, position, length } => {
                let image = self.files.get(&file).ok_or(IoError::NotFound)?;
                let at = (position.get() as usize).min(image.len());
                let end = (at + length).min(image.len());
                return Ok(Outcome::Read(Bytes::copy_from_slice(&image[at..end])));
            }
            Op::Rename { from, to } => {
                let image = self.files.remove(&from).ok_or(IoError::NotFound)?;
                self.files.insert(to, image);
            }
            Op::Remove { file } => {
                self.files.remove(&file).ok_or(IoError::NotFound)?;
            }
        }
        Ok(Outcome::Unit)
    }
}

pub(crate) fn identity() -> LogIdentity {
    LogIdentity {
        cluster: ClusterId::new(1),
        topic: TopicId::new(2),
        partition: PartitionIndex::new(0),
        uid: PartitionUid::new(3),
    }
}

/// A batch of `count` records; the log never looks at the records, so they are filler.
pub(crate) fn batch(count: u32, filler: usize, time: i64) -> Vec<u8> {
    let mut batch = vec![0; 61 + filler];
    let length = i32::try_from(batch.len() - 12).unwrap();
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[16] = 2;
    batch[23..27].copy_from_slice(&(count as i32 - 1).to_be_bytes());
    batch[27..35].copy_from_slice(&time.to_be_bytes());
    batch[35..43].copy_from_slice(&time.to_be_bytes());
    batch[43..57].fill(0xff);
    batch[57..61].copy_from_slice(&count.to_be_bytes());
    batch[61..].iter_mut().enumerate().for_each(|(at, byte)| *byte = (at as i64 + time) as u8);
    let crc = checksum::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

/// Counts batches by their offset: what a fold sees must be what the log holds.
fn offsets(log: &TestLog) -> &Vec<u64> {
    log.fold()
}

pub(crate) struct World {
    pub(crate) disk: Disk,
    pub(crate) log: TestLog,
    pub(crate) model: Vec<(Offset, Offset, Vec<u8>, i64)>,
    pub(crate) start: Offset,
    pub(crate) clock: u64,
    pub(crate) epoch: Epoch,
    pub(crate) config: LogConfig,
    /// Index files were removed, and with them folds of what was trimmed.
    pub(crate) lost: bool,
}

impl World {
    pub(crate) fn new(config: LogConfig) -> Self {
        let mut disk = Disk::default();
        let log = open(&mut disk, config, true, 0).unwrap();
        let (model, start) = (Vec::new(), Offset::ZERO);
        Self { disk, log, model, start, clock: 0, epoch: Epoch::new(1), config, lost: false }
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            wall: Millis::new(1_000_000 + self.clock as i64),
            monotonic: Duration::from_millis(self.clock),
        }
    }

    pub(crate) fn run(&mut self) -> Vec<Event<Bytes>> {
        while let Some((id, op)) = self.log.poll_op() {
            let result = self.disk.perform(op);
            self.log.on_done(Done { id, result }, self.now());
        }
        std::iter::from_fn(|| self.log.poll_event()).collect()
    }

    pub(crate) fn append(&mut self, count: u32, filler: usize, time: i64) {
        let mut bytes = batch(count, filler, time);
        let header = BatchHeader::parse(&bytes).unwrap();
        let crc = frame::payload_crc(&bytes);
        let appended = self.log.append(&bytes, &header, crc, self.epoch, self.now()).unwrap();
        let end = self.model.last().map_or(Offset::ZERO, |b| b.1);
        assert_eq!(appended.base, end);
        catena_format::batch::patch(&mut bytes, appended.base, self.epoch);
        self.model.push((appended.base, appended.next, bytes, time));
    }

    pub(crate) fn restart(&mut self) {
        self.run();
        self.epoch = self.epoch.plus(1);
        self.log = open(&mut self.disk, self.config, false, self.clock).unwrap();
        let report = self.log.recovery();
        assert_eq!((report.offsets_damaged, report.resumed_at_mark), (0, false));
    }

    pub(crate) fn read(&mut self, from: Offset, max: usize) -> Result<Vec<Bytes>, ReadError> {
        let below = self.log.durable_end();
        match self.log.read(from, max, below)? {
            ReadOutcome::Ready(batches) => Ok(batches.shares),
            ReadOutcome::Pending(id) => match self.run().pop() {
                Some(Event::Read(done, answer)) if done == id => match answer? {
                    ReadAnswer::Batches(batches) => Ok(batches.shares),
                    ReadAnswer::Offset(_) => panic!("batches were asked for"),
                },
                other => panic!("{other:?}"),
            },
        }
    }

    pub(crate) fn check(&mut self) {
        self.run();
        let end = self.model.last().map_or(Offset::ZERO, |b| b.1);
        assert_eq!(self.log.log_end(), end);
        assert_eq!(self.log.durable_end(), end);
        assert!(self.log.log_start() >= self.start);
        self.start = self.log.log_start();
        let expected: Vec<_> = self.model.iter().filter(|b| b.1 > self.start).cloned().collect();
        let mut at = self.start;
        let mut found = Vec::new();
        while at < end {
            let batches = self.read(at, 20_000).unwrap();
            assert!(!batches.is_empty(), "nothing at {at}, the log ends at {end}");
            for bytes in batches {
                let header = BatchHeader::parse(&bytes).unwrap();
                header.verify(&bytes).unwrap();
                at = Offset::new(header.base_offset as u64 + u64::from(header.count));
                found.push(bytes);
            }
        }
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(&expected).all(|(got, want)| got == &want.2));
        let folded: Vec<_> = self.model.iter().map(|b| b.0.get()).collect();
        let fold = offsets(&self.log);
        assert!(folded.ends_with(fold), "{fold:?} of {folded:?}");
        let kept = self.model.iter().filter(|b| b.1 > self.start).count();
        assert!(fold.len() >= kept && (self.lost || fold.len() == folded.len()));
    }

    pub(crate) fn check_time(&mut self, time: i64) {
        let below = self.log.durable_end();
        let start = self.log.log_start();
        let expected = self.model.iter().find(|b| b.1 > start && b.3 >= time).map(|b| b.0);
        let found = match self.log.offset_for_time(Millis::new(time), below) {
            ReadOutcome::Ready(found) => found,
            ReadOutcome::Pending(_) => match self.run().pop() {
                Some(Event::Read(_, Ok(ReadAnswer::Offset(found)))) => found,
                other => panic!("{other:?}"),
            },
        };
        assert_eq!(found.map(|f| f.max(start)), expected.map(|e| e.max(start)), "time {time}");
    }
}

pub(crate) fn open(
    disk: &mut Disk,
    config: LogConfig,
    create: bool,
    clock: u64,
) -> Result<TestLog, OpenError> {
    open_as(identity(), disk, config, create, clock)
}

pub(crate) fn open_as(
    identity: LogIdentity,
    disk: &mut Disk,
    config: LogConfig,
    create: bool,
    clock: u64,
) -> Result<TestLog, OpenError> {
    let now = Now { wall: Millis::new(0), monotonic: Duration::from_millis(clock) };
    let mut opening = Opening::new(identity, config, create, Heap, Vec::new());
    loop {
        let (id, op): (OpId, _) = opening.poll_op().expect("opening goes on");
        let result = disk.perform(op);
        if let Some(log) = opening.on_done(Done { id, result }, now)? {
            return Ok(log);
        }
    }
}

pub(crate) fn small() -> LogConfig {
    LogConfig {
        segment_bytes: 128 << 10,
        checkpoint_bytes: 64 << 10,
        tail_cache_bytes: 32 << 10,
        ..LogConfig::default()
    }
}

/// Opens the log of a world; `refuse` may let an operation fail before anything is done.
pub(crate) fn open_with(
    world: &mut World,
    mut refuse: impl FnMut(&Op<Bytes>) -> Option<IoError>,
) -> Result<TestLog, OpenError> {
    let now = Now { wall: Millis::new(0), monotonic: Duration::ZERO };
    let mut opening = Opening::new(identity(), world.config, false, Heap, Vec::new());
    loop {
        let (id, op): (OpId, _) = opening.poll_op().expect("opening goes on");
        let result = refuse(&op).map_or_else(|| world.disk.perform(op), Err);
        if let Some(log) = opening.on_done(Done { id, result }, now)? {
            return Ok(log);
        }
    }
}

/// Performs what the log asks for; `refuse` may let an operation fail before anything is done.
pub(crate) fn run_with(world: &mut World, mut refuse: impl FnMut(&Op<Bytes>) -> Option<IoError>) {
    while let Some((id, op)) = world.log.poll_op() {
        let result = refuse(&op).map_or_else(|| world.disk.perform(op), Err);
        world.log.on_done(Done { id, result }, world.now());
    }
}

pub(crate) fn tick(world: &mut World) {
    world.clock += 1_001;
    let now = world.now();
    world.log.on_tick(now);
}

/// Three segments, the last of them not sealed.
pub(crate) fn rolled() -> World {
    let mut world = World::new(small());
    for time in 0..60 {
        world.append(1, 5_000, time);
        world.run();
    }
    assert!(world.log.segments() >= 3);
    world
}
