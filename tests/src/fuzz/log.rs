//! What a log makes of a directory: it opens or says why not, and never panics.

use std::{ops::Range, sync::OnceLock, time::Duration};

use bytes::Bytes;
use catena_format::{
    BatchHeader, ClusterId, Epoch, FileNumber, FrameSeed, Millis, PartitionIndex, PartitionUid,
    TopicId, frame,
    records::{BatchBuilder, Producer},
};
use catena_log::{
    Event, Log, LogConfig, LogIdentity, Now, OpenError, Opening, ReadAnswer, ReadError,
    ReadOutcome,
    io::{Done, FileName, Heap, Slot},
};

use super::{disk::Disk, seal};

const IDENTITY: LogIdentity = LogIdentity {
    cluster: ClusterId::new(1),
    topic: TopicId::new(2),
    partition: PartitionIndex::new(0),
    uid: PartitionUid::new(7),
};
/// The first segment, sealed, and the second, which was being written.
const SEALED: FileNumber = FileNumber::new(1);
const ACTIVE: FileNumber = FileNumber::new(2);
/// Files that an input of [`recovery`] can change.
const FILES: [FileName; 6] = [
    FileName::Segment(ACTIVE),
    FileName::Segment(SEALED),
    FileName::Index(SEALED),
    FileName::Manifest(Slot::First),
    FileName::Manifest(Slot::Second),
    FileName::Index(ACTIVE),
];
const MANIFEST: &[u8; 8] = b"CTNMANIF";
const INDEX: &[u8; 8] = b"CTNINDEX";
const NOW: Now = Now { wall: Millis::new(1_000), monotonic: Duration::ZERO };

/// The offsets of its batches are the fold.
type TestLog = Log<Heap, Vec<u64>>;

/// A directory as a crash leaves it, with `input` as one of its files.
fn with(file: FileName, input: Vec<u8>) -> Disk {
    let mut disk = crashed().clone();
    disk.0.insert(file, input);
    disk
}

/// The manifest of a log whose segments are there: an archive, made up.
pub(super) fn manifest(archive: &[u8]) {
    let image = seal::envelope(MANIFEST, IDENTITY.uid, archive);
    let mut disk = with(FileName::Manifest(Slot::First), image);
    disk.0.remove(&FileName::Manifest(Slot::Second));
    opened(disk);
}

/// The index, with its fold, of a segment: an archive, made up.
pub(super) fn index(archive: &[u8]) {
    let image = seal::envelope(INDEX, IDENTITY.uid, archive);
    for file in [SEALED, ACTIVE] {
        opened(with(FileName::Index(file), image.clone()));
    }
}

/// Files of a crash, changed by what the input says.
///
/// The input is a byte of options, then changes: a byte for what and where, three bytes of
/// position, a byte of length, and the bytes.
pub(super) fn recovery(input: &[u8]) {
    let Some((options, mut rest)) = input.split_first() else { return };
    let mut disk = crashed().clone();
    while let Some(([what, a, b, c, length], tail)) = rest.split_first_chunk() {
        let (bytes, tail) = tail.split_at(usize::from(*length).min(tail.len()));
        rest = tail;
        let at = usize::from(*a) | usize::from(*b) << 8 | usize::from(*c) << 16;
        change(&mut disk, what % 6, FILES[usize::from(what / 6) % FILES.len()], at, bytes);
    }
    if options & 1 == 0 {
        for number in [SEALED, ACTIVE] {
            if let Some(image) = disk.0.get_mut(&FileName::Segment(number)) {
                seal::frames(image, FrameSeed { uid: IDENTITY.uid, file: number }, 0);
            }
        }
    }
    opened(disk);
}

fn change(disk: &mut Disk, what: u8, file: FileName, at: usize, bytes: &[u8]) {
    let Some(image) = disk.0.get_mut(&file) else { return };
    let at = at % (image.len() + 1);
    let range = at..(at + bytes.len()).min(image.len());
    match what {
        0 => image[range.clone()].copy_from_slice(&bytes[..range.len()]),
        1 => image[range.clone()].iter_mut().zip(bytes).for_each(|(byte, with)| *byte ^= with),
        // Whole blocks of zeros, as from a write that was lost.
        2 => {
            if let Some(block) = blocks(at, bytes.len(), image) {
                image[block].fill(0);
            }
        }
        // A block in the place of another.
        3 => {
            let to = bytes.first().map_or(0, |block| usize::from(*block) * 4096);
            let block = blocks(at, 1, image).filter(|block| to + block.len() <= image.len());
            if let Some(block) = block {
                image.copy_within(block, to);
            }
        }
        4 => image.truncate(at),
        _ => drop(disk.0.remove(&file)),
    }
}

fn blocks(at: usize, count: usize, image: &[u8]) -> Option<Range<usize>> {
    let from = at / 4096 * 4096;
    let to = (from + count * 4096).min(image.len());
    (from < to).then_some(from..to)
}

/// Opens, reads everything, appends, and opens again, as after a crash.
fn opened(mut disk: Disk) {
    let Ok(mut log) = open(&mut disk, false) else { return };
    read_all(&mut log, &mut disk);
    let epoch = log.epochs().last().map_or(0, |(epoch, _)| epoch.get());
    let appended = epoch < Epoch::MAX.get() && append(&mut log, epoch + 1, 10);
    run(&mut log, &mut disk);
    let (end, poisoned) = (log.log_end(), log.poisoned());
    drop(log);
    let mut log = match open(&mut disk, false) {
        Ok(log) => log,
        Err(error) => panic!("what was recovered does not open again: {error}"),
    };
    assert_eq!(log.log_end(), end, "appended: {appended}, poisoned: {poisoned:?}");
    read_all(&mut log, &mut disk);
}

fn open(disk: &mut Disk, create: bool) -> Result<TestLog, OpenError> {
    let config = LogConfig {
        segment_bytes: 64 << 10,
        checkpoint_bytes: 64 << 10,
        tail_cache_bytes: 0,
        ..LogConfig::default()
    };
    let mut opening = Opening::new(IDENTITY, config, create, Heap, Vec::new());
    loop {
        let (id, op) = opening.poll_op().expect("an opening goes on until it has ended");
        let result = disk.perform(op);
        if let Some(log) = opening.on_done(Done { id, result }, NOW)? {
            return Ok(log);
        }
    }
}

fn run(log: &mut TestLog, disk: &mut Disk) -> Vec<Event<Bytes>> {
    while let Some((id, op)) = log.poll_op() {
        let result = disk.perform(op);
        log.on_done(Done { id, result }, NOW);
    }
    std::iter::from_fn(|| log.poll_event()).collect()
}

/// Whether the log takes a batch of two records.
fn append(log: &mut TestLog, epoch: u32, bytes: usize) -> bool {
    let mut builder = BatchBuilder::new();
    builder.push(Millis::new(5), None, Some(&vec![1; bytes]), &[]);
    builder.push(Millis::new(6), None, Some(b"second"), &[]);
    let batch = builder.build(Producer::NONE).expect("the batch is small");
    let header = BatchHeader::parse(&batch).expect("it was built");
    let epoch = Epoch::new(epoch);
    log.append(&batch, &header, frame::payload_crc(&batch), epoch, NOW).is_ok()
}

/// Every read answers, and goes on behind where it was asked.
fn read_all(log: &mut TestLog, disk: &mut Disk) {
    let (mut at, end) = (log.log_start(), log.durable_end());
    while at < end {
        let read = match log.read(at, 1 << 20, end) {
            Ok(ReadOutcome::Ready(batches)) => Ok(batches),
            Ok(ReadOutcome::Pending(_)) => match run(log, disk).pop() {
                Some(Event::Read(_, Ok(ReadAnswer::Batches(batches)))) => Ok(batches),
                Some(Event::Read(_, Err(error))) => Err(error),
                other => panic!("a read was answered by {other:?}"),
            },
            Err(error) => Err(error),
        };
        let next = match read {
            Ok(batches) => batches.next,
            Err(ReadError::Damaged { next_readable }) => next_readable,
            Err(
                ReadError::Io(_)
                | ReadError::Version(_)
                | ReadError::OutOfRange { .. }
                | ReadError::Closed,
            ) => return,
            Err(other) => panic!("{other}"),
        };
        assert!(next > at, "a read at {at} goes on at {next}, the log ends at {end}");
        at = next;
    }
}

/// A log that was killed: a sealed segment, and one with three groups.
fn crashed() -> &'static Disk {
    static DISK: OnceLock<Disk> = OnceLock::new();
    DISK.get_or_init(|| {
        let mut disk = Disk::default();
        let mut log = open(&mut disk, true).expect("a log can be created");
        for bytes in [20_000, 20_000, 10_000, 300, 5_000, 300, 400] {
            assert!(append(&mut log, 1, bytes), "the log takes batches");
            run(&mut log, &mut disk);
        }
        assert!(FILES[..5].iter().all(|file| disk.0.contains_key(file)), "{:?}", disk.0.keys());
        disk
    })
}

pub(super) fn manifest_seeds() -> Vec<Vec<u8>> {
    [Slot::First, Slot::Second].map(|slot| archive(MANIFEST, FileName::Manifest(slot))).into()
}

pub(super) fn index_seeds() -> Vec<Vec<u8>> {
    vec![archive(INDEX, FileName::Index(SEALED))]
}

/// The archive in a file, from which its target makes the same file.
fn archive(magic: &[u8; 8], file: FileName) -> Vec<u8> {
    let image = &crashed().0[&file];
    let archive = seal::opened(image).to_vec();
    let again = seal::envelope(magic, IDENTITY.uid, &archive);
    assert_eq!(again, *image, "the envelope of the target is the one that is written");
    archive
}

pub(super) fn recovery_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![0], vec![1]];
    // Each kind of change at each file, at the first frame of a segment.
    for what in 0..6u8 {
        for file in 0..5u8 {
            let mut seed = vec![u8::from(file > 2), what + 6 * file, 24, 16, 0, 4];
            seed.extend_from_slice(&[1, 2, 3, 4]);
            seeds.push(seed);
        }
    }
    seeds
}
