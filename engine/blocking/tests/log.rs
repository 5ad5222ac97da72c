//! A log on ordinary files: what it has appended is there when it is opened again.

use std::{path::Path, time::Duration};

use catena_blocking::{Folder, Heap, Share};
use catena_format::{
    BatchHeader, ClusterId, Epoch, FileNumber, Millis, Offset, PartitionIndex, PartitionUid,
    Position, TopicId, batch, frame,
    records::{BatchBuilder, Producer},
};
use catena_log::{
    Event, Log, LogConfig, LogIdentity, Now, OpenError, Opening, ReadAnswer, ReadOutcome,
    io::{Done, FileName, IoError, Op, Outcome},
};

const IDENTITY: LogIdentity = LogIdentity {
    cluster: ClusterId::new(1),
    topic: TopicId::new(2),
    partition: PartitionIndex::new(0),
    uid: PartitionUid::new(3),
};
const NOW: Now = Now { wall: Millis::new(1_000), monotonic: Duration::ZERO };

/// A log with the offsets of its batches as its fold.
struct World {
    folder: Folder,
    log: Log<Heap, Vec<u64>>,
}

impl World {
    fn open(path: &Path, create: bool) -> Result<Self, OpenError> {
        let config = LogConfig {
            segment_bytes: 64 << 10,
            tail_cache_bytes: 0,
            marks: false,
            ..LogConfig::default()
        };
        let folder = Folder::new(path.join("log"));
        let mut opening = Opening::new(IDENTITY, config, create, Heap, Vec::new());
        loop {
            let (id, op) = opening.poll_op().expect("an opening goes on until it has ended");
            let result = folder.perform(op);
            if let Some(log) = opening.on_done(Done { id, result }, NOW)? {
                return Ok(Self { folder, log });
            }
        }
    }

    fn run(&mut self) -> Vec<Event<Share>> {
        while let Some((id, op)) = self.log.poll_op() {
            let result = self.folder.perform(op);
            self.log.on_done(Done { id, result }, NOW);
        }
        std::iter::from_fn(|| self.log.poll_event()).collect()
    }

    /// Appends a batch with one record; the bytes that a reader must get.
    fn append(&mut self, value: &[u8], epoch: u32) -> Vec<u8> {
        let mut builder = BatchBuilder::new();
        builder.push(Millis::new(5), None, Some(value), &[]);
        let mut bytes = builder.build(Producer::NONE).unwrap();
        let header = BatchHeader::parse(&bytes).unwrap();
        let (crc, epoch) = (frame::payload_crc(&bytes), Epoch::new(epoch));
        let appended = self.log.append(&bytes, &header, crc, epoch, NOW).unwrap();
        batch::patch(&mut bytes, appended.base, epoch);
        bytes
    }

    fn read_all(&mut self) -> Vec<Vec<u8>> {
        let (mut at, end) = (self.log.log_start(), self.log.durable_end());
        let mut found = Vec::new();
        while at < end {
            let batches = match self.log.read(at, 1 << 20, end).unwrap() {
                ReadOutcome::Ready(batches) => batches,
                ReadOutcome::Pending(_) => match self.run().pop() {
                    Some(Event::Read(_, Ok(ReadAnswer::Batches(batches)))) => batches,
                    other => panic!("{other:?}"),
                },
            };
            for share in &batches.shares {
                let header = BatchHeader::parse(share).unwrap();
                header.verify(share).unwrap();
                assert_eq!(header.stored_offset(), Ok(at));
                at = at.checked_add(u64::from(header.count)).unwrap();
                found.push(share.to_vec());
            }
        }
        found
    }
}

#[test]
fn what_was_appended_is_there_after_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::open(directory.path(), true).unwrap();
    let mut expected = Vec::new();
    for life in 1..4 {
        // Enough for several segments.
        for number in 0..10u8 {
            expected.push(world.append(&vec![number; 9000], life));
            world.run();
        }
        let end = Offset::new(expected.len() as u64);
        assert_eq!((world.log.log_end(), world.log.durable_end()), (end, end));
        // Without a word of goodbye, as after a crash.
        drop(world);
        world = World::open(directory.path(), false).unwrap();
        assert_eq!(world.log.recovery().offsets_damaged, 0);
        assert_eq!(world.log.durable_end(), end);
        assert_eq!(world.log.fold(), &(0..end.get()).collect::<Vec<_>>());
        assert_eq!(world.read_all(), expected);
    }
    let segments = world.folder.perform(Op::List).unwrap().into_files();
    let segments = segments.iter().filter(|(file, _)| matches!(file, FileName::Segment(_)));
    assert!(segments.count() > 3, "the segments are small");
}

#[test]
fn a_file_whose_number_nobody_has_counted_to_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::open(directory.path(), true).unwrap();
    let mut expected = vec![world.append(b"before", 1)];
    world.run();
    let strays = ["ffffffffffffffff.seg", "fffffffffffffffe.idx", "2000000000000000.seg"];
    let strays = strays.map(|name| world.folder.path().join(name));
    for stray in &strays {
        std::fs::write(stray, b"stray").unwrap();
    }
    for life in 2..4 {
        drop(world);
        world = World::open(directory.path(), false).unwrap();
        expected.push(world.append(b"behind", life));
        world.run();
        assert_eq!(world.read_all(), expected);
    }
    assert!(strays.iter().all(|stray| std::fs::read(stray).unwrap() == b"stray"));
}

#[test]
fn a_directory_without_a_log_is_not_taken_for_one() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(World::open(directory.path(), false).err(), Some(OpenError::Missing));
}

#[test]
fn operations_answer_as_the_contract_says() {
    let directory = tempfile::tempdir().unwrap();
    let folder = Folder::new(directory.path().join("log"));
    let (file, other) =
        (FileName::Segment(FileNumber::new(1)), FileName::Segment(FileNumber::new(2)));
    assert!(folder.perform(Op::List).unwrap().into_files().is_empty());
    let read = |position, length| {
        let op = Op::Read { file, position: Position::new(position), length };
        folder.perform(op).map(Outcome::into_read)
    };
    for missing in [Op::Claim { file }, Op::Sync { file }, Op::Remove { file }] {
        assert_eq!(folder.perform(missing).err(), Some(IoError::NotFound));
    }
    assert_eq!(read(0, 4096), Err(IoError::NotFound));

    let (from, to) = (Position::ZERO, Position::new(8192));
    folder.perform(Op::Extend { file, from, to }).unwrap();
    let bytes = Share::from(vec![7; 4096]);
    let position = Position::new(4096);
    folder.perform(Op::Write { file, position, bytes, durable: true }).unwrap();
    folder.perform(Op::Claim { file }).unwrap();
    folder.perform(Op::Sync { file }).unwrap();
    // What lies beyond the end is left out.
    assert_eq!(read(4096, 1 << 20).unwrap(), vec![7; 4096]);
    assert_eq!(read(0, 4096).unwrap(), vec![0; 4096]);
    assert_eq!(read(12_288, 4096).unwrap().len(), 0);

    // A name that no log gives is not told.
    std::fs::write(folder.path().join("notes.txt"), "x").unwrap();
    folder.perform(Op::Rename { from: file, to: other }).unwrap();
    folder.perform(Op::SyncDirectory).unwrap();
    assert_eq!(folder.perform(Op::List).unwrap().into_files(), [(other, 8192)]);
    folder.perform(Op::Remove { file: other }).unwrap();
    assert!(folder.perform(Op::List).unwrap().into_files().is_empty());
}
