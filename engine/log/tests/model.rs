//! The log against a plain vector: random operations, restarts included, on a disk that obeys.

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
use proptest::prelude::*;

type TestLog = Log<Heap, Vec<u64>>;

/// A disk that performs each operation at once and never fails.
#[derive(Default)]
struct Disk {
    files: BTreeMap<FileName, Vec<u8>>,
}

impl Disk {
    fn perform(&mut self, op: Op<Bytes>) -> Result<Outcome<Bytes>, IoError> {
        match op {
            Op::List => {
                let files = self.files.iter().map(|(name, bytes)| (*name, bytes.len() as u64));
                return Ok(Outcome::Files(files.collect()));
            }
            Op::Claim { file } if !self.files.contains_key(&file) => return Err(IoError::NotFound),
            Op::Claim { .. } | Op::Sync { .. } | Op::SyncDirectory => {}
            Op::Extend { file, to, .. } => {
                let bytes = self.files.entry(file).or_default();
                let length = bytes.len().max(to.get() as usize);
                bytes.resize(length, 0);
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

fn identity() -> LogIdentity {
    LogIdentity {
        cluster: ClusterId::new(1),
        topic: TopicId::new(2),
        partition: PartitionIndex::new(0),
        uid: PartitionUid::new(3),
    }
}

/// A batch of `count` records; the log never looks at the records, so they are filler.
fn batch(count: u32, filler: usize, time: i64) -> Vec<u8> {
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

struct World {
    disk: Disk,
    log: TestLog,
    model: Vec<(Offset, Offset, Vec<u8>, i64)>,
    start: Offset,
    clock: u64,
    epoch: Epoch,
    config: LogConfig,
    /// Index files were removed, and with them folds of what was trimmed.
    lost: bool,
}

impl World {
    fn new(config: LogConfig) -> Self {
        let mut disk = Disk::default();
        let log = open(&mut disk, config, true, 0).unwrap();
        let (model, start) = (Vec::new(), Offset::ZERO);
        Self { disk, log, model, start, clock: 0, epoch: Epoch::new(1), config, lost: false }
    }

    fn now(&self) -> Now {
        Now {
            wall: Millis::new(1_000_000 + self.clock as i64),
            monotonic: Duration::from_millis(self.clock),
        }
    }

    fn run(&mut self) -> Vec<Event<Bytes>> {
        while let Some((id, op)) = self.log.poll_op() {
            let result = self.disk.perform(op);
            self.log.on_done(Done { id, result }, self.now());
        }
        std::iter::from_fn(|| self.log.poll_event()).collect()
    }

    fn append(&mut self, count: u32, filler: usize, time: i64) {
        let mut bytes = batch(count, filler, time);
        let header = BatchHeader::parse(&bytes).unwrap();
        let crc = frame::payload_crc(&bytes);
        let appended = self.log.append(&bytes, &header, crc, self.epoch, self.now()).unwrap();
        let end = self.model.last().map_or(Offset::ZERO, |b| b.1);
        assert_eq!(appended.base, end);
        catena_format::batch::patch(&mut bytes, appended.base, self.epoch);
        self.model.push((appended.base, appended.next, bytes, time));
    }

    fn restart(&mut self) {
        self.run();
        self.epoch = self.epoch.next();
        self.log = open(&mut self.disk, self.config, false, self.clock).unwrap();
        let report = self.log.recovery();
        assert_eq!((report.offsets_damaged, report.resumed_at_mark), (0, false));
    }

    fn read(&mut self, from: Offset, max: usize) -> Result<Vec<Bytes>, ReadError> {
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

    fn check(&mut self) {
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

    fn check_time(&mut self, time: i64) {
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

fn open(
    disk: &mut Disk,
    config: LogConfig,
    create: bool,
    clock: u64,
) -> Result<TestLog, OpenError> {
    let now = Now { wall: Millis::new(0), monotonic: Duration::from_millis(clock) };
    let mut opening = Opening::new(identity(), config, create, Heap, Vec::new());
    loop {
        let (id, op): (OpId, _) = opening.poll_op().expect("opening goes on");
        let result = disk.perform(op);
        if let Some(log) = opening.on_done(Done { id, result }, now)? {
            return Ok(log);
        }
    }
}

#[derive(Clone, Debug)]
enum Action {
    Append(u32, usize, i64),
    Run,
    Tick(u64),
    Restart,
    Trim(u64),
    LoseIndexes,
    Check,
    Time(i64),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        8 => (1..20u32, 0..9_000usize, 0..500i64).prop_map(|(c, f, t)| Action::Append(c, f, t)),
        1 => (1..20u32, 9_000..200_000usize, 0..500i64)
            .prop_map(|(c, f, t)| Action::Append(c, f, t)),
        4 => Just(Action::Run),
        3 => (1..3_000u64).prop_map(Action::Tick),
        1 => Just(Action::Restart),
        1 => (0..100u64).prop_map(Action::Trim),
        1 => Just(Action::LoseIndexes),
        1 => Just(Action::Check),
        1 => (0..600i64).prop_map(Action::Time),
    ];
    prop::collection::vec(action, 1..80)
}

fn small() -> LogConfig {
    LogConfig {
        segment_bytes: 128 << 10,
        checkpoint_bytes: 64 << 10,
        tail_cache_bytes: 32 << 10,
        ..LogConfig::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(300)
    })]

    #[test]
    fn a_log_is_a_vector(actions in actions()) {
        let mut world = World::new(small());
        for action in actions {
            match action {
                Action::Append(count, filler, time) => world.append(count, filler, time),
                Action::Run => { world.run(); }
                Action::Tick(milliseconds) => {
                    world.clock += milliseconds;
                    let now = world.now();
                    world.log.on_tick(now);
                }
                Action::Restart => world.restart(),
                Action::Trim(percent) => {
                    world.run();
                    let end = world.log.durable_end().get();
                    world.log.trim(Offset::new(end * percent / 100)).unwrap();
                }
                Action::LoseIndexes => {
                    world.lost = true;
                    world.disk.files.retain(|name, _| !matches!(name, FileName::Index(_)));
                }
                Action::Check => world.check(),
                Action::Time(time) => { world.run(); world.check_time(time); }
            }
        }
        world.check();
        world.restart();
        world.check();
    }
}

#[test]
fn retention_by_size_drops_whole_segments_from_the_front() {
    let config = LogConfig { retention_bytes: Some(300 << 10), ..small() };
    let mut world = World::new(config);
    for step in 0..200 {
        world.append(1, 8_000, step);
        world.clock += 100;
        world.run();
        let now = world.now();
        world.log.on_tick(now);
        world.run();
    }
    assert!(world.log.log_start() > Offset::ZERO);
    assert!(world.log.bytes() < 600 << 10, "{}", world.log.bytes());
    let segments = world.disk.files.keys().filter(|f| matches!(f, FileName::Segment(_))).count();
    assert!(segments <= world.log.segments() + 1, "{segments} files");
}

#[test]
fn an_idle_segment_is_sealed_by_age_and_then_expires() {
    let config = LogConfig {
        segment_age: Duration::from_secs(10),
        retention_age: Some(Duration::from_secs(60)),
        ..small()
    };
    let mut world = World::new(config);
    world.append(3, 100, 5);
    world.run();
    for _ in 0..90 {
        world.clock += 1_000;
        let now = world.now();
        world.log.on_tick(now);
        world.run();
    }
    assert_eq!(world.log.log_start(), Offset::new(3));
    assert_eq!(world.log.segments(), 0);
    let now = world.now();
    assert!(matches!(
        world.log.read(Offset::new(2), 1, Offset::new(3)),
        Err(ReadError::OutOfRange { .. })
    ));
    world.log.on_tick(now);
    world.restart();
    assert_eq!(world.log.log_end(), Offset::new(3));
}

#[test]
fn a_log_that_lost_both_manifests_is_not_an_empty_one() {
    let mut world = World::new(small());
    world.append(1, 100, 5);
    world.run();
    world.disk.files.retain(|name, _| !matches!(name, FileName::Manifest(_)));
    let opened = open(&mut world.disk, small(), false, 0);
    assert!(matches!(opened, Err(OpenError::Manifest(_))));
}

#[test]
fn one_rotten_manifest_is_replaced() {
    let mut world = World::new(small());
    for step in 0..100 {
        world.append(1, 5_000, step);
        world.run();
    }
    for slot in [catena_log::io::Slot::First, catena_log::io::Slot::Second] {
        world.disk.files.get_mut(&FileName::Manifest(slot)).unwrap()[40] ^= 1;
        world.restart();
        assert!(world.log.recovery().manifest_repaired);
        world.check();
    }
}
