//! What the log writes can be read by the tables of the documentation: a decoder in another
//! language, which knows nothing but them, reads a segment back.

use std::{collections::BTreeMap, fs, path::Path, process::Command, time::Duration};

use bytes::Bytes;
use catena_format::{
    BatchHeader, ClusterId, Epoch, FileNumber, Millis, Offset, PartitionIndex, PartitionUid,
    TopicId, batch, frame,
    records::{BatchBuilder, Producer},
};
use catena_log::{
    Log, LogConfig, LogIdentity, Now, Opening, ReadOutcome,
    io::{Done, FileName, Heap, IoError, Op, Outcome},
};

const FIRST: FileName = FileName::Segment(FileNumber::new(1));
const SECOND: FileName = FileName::Segment(FileNumber::new(2));

/// Files in memory: each operation is performed at once.
#[derive(Default)]
struct Disk(BTreeMap<FileName, Vec<u8>>);

impl Disk {
    fn perform(&mut self, op: Op<Bytes>) -> Result<Outcome<Bytes>, IoError> {
        match op {
            Op::List => {
                let files = self.0.iter().map(|(name, bytes)| (*name, bytes.len() as u64));
                return Ok(Outcome::Files(files.collect()));
            }
            Op::Claim { file } | Op::Sync { file } if !self.0.contains_key(&file) => {
                return Err(IoError::NotFound);
            }
            Op::Claim { .. } | Op::Sync { .. } | Op::SyncDirectory => {}
            Op::Extend { file, from, to } => {
                let zeros = vec![0; usize::try_from(to.get() - from.get()).unwrap()];
                self.put(file, from.get(), &zeros);
            }
            Op::Write { file, position, bytes, .. } => self.put(file, position.get(), &bytes),
            Op::Remove { file } => drop(self.0.remove(&file)),
            Op::Read { file, .. } if !self.0.contains_key(&file) => return Err(IoError::NotFound),
            Op::Read { file, position, length } => {
                let (bytes, at) = (&self.0[&file], usize::try_from(position.get()).unwrap());
                let end = bytes.len().min(at + length);
                return Ok(Outcome::Read(Bytes::copy_from_slice(&bytes[at..end])));
            }
            op @ (Op::Rename { .. } | Op::Release { .. }) => {
                panic!("nobody asked for {op:?}")
            }
        }
        Ok(Outcome::Unit)
    }

    fn put(&mut self, file: FileName, at: u64, bytes: &[u8]) {
        let image = self.0.entry(file).or_default();
        let at = usize::try_from(at).unwrap();
        image.resize(image.len().max(at + bytes.len()), 0);
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// A log, and what a decoder must say of its first segment.
struct World {
    disk: Disk,
    log: Log<Heap, ()>,
    clock: u64,
    position: usize,
    expected: String,
}

impl World {
    fn new() -> Self {
        let identity = LogIdentity {
            cluster: ClusterId::new(1 << 100 | 7),
            topic: TopicId::new(1 << 90 | 8),
            partition: PartitionIndex::new(9),
            uid: PartitionUid::new(10),
        };
        let mut opening = Opening::new(identity, LogConfig::default(), true, Heap, ());
        let (mut disk, now) = (Disk::default(), now(0));
        let log = loop {
            let (id, op) = opening.poll_op().expect("opening goes on");
            let result = disk.perform(op);
            if let Some(log) = opening.on_done(Done { id, result }, now).unwrap() {
                break log;
            }
        };
        let expected = format!(
            "header at=0 version=1 length=128 features=0 cluster={} topic={} uid=10 file=1 \
             base_offset=0 partition=9 epoch=1 created=1000000\n",
            identity.cluster, identity.topic,
        );
        Self { disk, log, clock: 0, position: 4096, expected }
    }

    fn run(&mut self) {
        while let Some((id, op)) = self.log.poll_op() {
            let result = self.disk.perform(op);
            self.log.on_done(Done { id, result }, now(self.clock));
        }
        self.position = self.position.next_multiple_of(4096);
    }

    fn append(&mut self, epoch: u32, values: &[&str]) {
        let mut builder = BatchBuilder::new();
        let (time, durable) = (5_000 + self.clock, self.log.durable_end());
        for value in values {
            let time = Millis::new(i64::try_from(time).unwrap());
            builder.push(time, Some(b"key"), Some(value.as_bytes()), &[]);
        }
        let mut bytes = builder.build(Producer::NONE).unwrap();
        let header = BatchHeader::parse(&bytes).unwrap();
        let (crc, epoch) = (frame::payload_crc(&bytes), Epoch::new(epoch));
        let appended = self.log.append(&bytes, &header, crc, epoch, now(self.clock)).unwrap();
        batch::patch(&mut bytes, appended.base, epoch);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.expected += &format!(
            "frame at={} version=1 header_length=64 flags=0 payload_length={} epoch={epoch} \
             base_offset={} last_offset_delta={} count={} max_timestamp={time} append_time={} \
             durable_end={durable}\nbatch {hex}\n",
            self.position,
            bytes.len(),
            appended.base,
            values.len() - 1,
            values.len(),
            1_000_000 + self.clock,
        );
        self.position += frame::frame_bytes(bytes.len());
    }

    /// Time passes without appends: a mark.
    fn mark(&mut self, end: u64) {
        let appended = 1_000_000 + self.clock;
        self.clock += 50;
        self.log.on_tick(now(self.clock));
        self.expected += &format!(
            "mark at={} version=1 header_length=64 flags=1 payload_length=0 epoch=1 \
             base_offset={end} last_offset_delta=0 count=0 max_timestamp=-1 \
             append_time={appended} durable_end={end}\n",
            self.position,
        );
        self.position += 64;
        self.run();
    }
}

fn now(clock: u64) -> Now {
    Now {
        wall: Millis::new(1_000_000 + i64::try_from(clock).unwrap()),
        monotonic: Duration::from_millis(clock),
    }
}

/// Two groups of batches of several lengths, a mark, and a footer.
fn written() -> World {
    let mut world = World::new();
    world.append(1, &["a"]);
    world.append(1, &["bb", "ccc", "dddd"]);
    world.append(1, &[&"long ".repeat(100)]);
    world.run();
    world.clock += 5;
    let large = "large ".repeat(1000);
    world.append(1, &[&large, "e"]);
    world.run();
    world.mark(7);
    let position = world.position;
    let footer = format!(
        "footer at={position} version=1 length=128 uid=10 file=1 base_offset=0 end_offset=7 \
         end_position={position} batches=4 records=7 max_timestamp=5005 \
         last_append_time=1000005\n",
    );
    // Another epoch begins another segment.
    let expected = world.expected.clone() + &footer;
    world.append(2, &["another segment"]);
    world.run();
    world.expected = expected;
    assert_eq!(world.log.durable_end(), Offset::new(8));
    world
}

/// What the decoder says of a file, or of what is wrong with it; `None` without python3.
fn decoded(segment: &[u8]) -> Option<Result<String, String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.seg");
    fs::write(&file, segment).unwrap();
    let mut python = Command::new("python3");
    python.arg(root.join("tests/python/segment_decoder.py"));
    let output = match python.arg(root.join("docs/disk-format.md")).arg(file).output() {
        Ok(output) => output,
        Err(error) => {
            catena_tests::skip::skipped(&format!("python3 cannot be run: {error}"));
            return None;
        }
    };
    let said = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Some(if output.status.success() { Ok(said(output.stdout)) } else { Err(said(output.stderr)) })
}

#[test]
fn a_second_decoder_reads_what_the_log_wrote() {
    let world = written();
    let Some(text) = decoded(&world.disk.0[&FIRST]) else { return };
    assert_eq!(text, Ok(world.expected));
    // A segment without a footer ends in the zeros that wait for the next group.
    let Some(text) = decoded(&world.disk.0[&SECOND]) else { return };
    let text = text.unwrap();
    let kinds: Vec<_> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(kinds, ["header", "frame", "batch"]);
}

#[test]
fn a_second_decoder_refuses_bytes_that_belong_elsewhere() {
    let world = written();
    let mut segment = world.disk.0[&FIRST].clone();
    // The second group at the place of the first: whole, and misdirected.
    segment.copy_within(8192..12288, 4096);
    let Some(text) = decoded(&segment) else { return };
    let error = text.unwrap_err();
    assert!(error.contains("the frame at 4096 does not belong there"), "{error}");
}

#[test]
fn a_second_decoder_reads_what_was_repaired() {
    let mut world = written();
    let read = world.log.read(Offset::ZERO, 1 << 20, world.log.durable_end()).unwrap();
    let ReadOutcome::Ready(batches) = read else { panic!("it is in memory") };
    // The last frame of the first group and the first of the second are lost.
    let segment = world.disk.0.get_mut(&FIRST).unwrap();
    let headers = (4096..20_480).step_by(16).filter(|at| segment[*at..].starts_with(b"CTNF"));
    let headers: Vec<_> = headers.collect();
    assert_eq!((headers.len(), headers[3]), (5, 8192));
    segment[headers[2]..headers[4] - 1].fill(0xff);
    world.log.drop_tail();
    while world.log.scrub(0).is_some() {
        world.run();
    }
    assert_eq!(world.log.repairable(Offset::ZERO), Some(Offset::new(4)..Offset::new(7)));
    let lost = [batches.shares[2].as_ref(), &batches.shares[3]].concat();
    world.log.repair(&batches.stamps[2..4], &lost).unwrap();
    world.run();
    assert_eq!((world.log.is_repairing(), world.log.damaged().len()), (false, 0));
    let Some(text) = decoded(&world.disk.0[&FIRST]) else { return };
    let text = text.unwrap();
    // One frame has moved; what was durable at first is told no more.
    let stands = |line: &&str| line.starts_with("frame at=") && !line.contains("at=8192");
    assert_eq!(text.lines().filter(stands).count(), 4);
    let known = |text: &str| -> Vec<_> {
        let moved = |word: &&str| !word.starts_with("at=") && !word.starts_with("durable_end=");
        text.split_whitespace().filter(moved).map(str::to_owned).collect()
    };
    assert_eq!(known(&text), known(&world.expected));
}
