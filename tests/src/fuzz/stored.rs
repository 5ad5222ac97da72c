//! What single bytes on the disk mean: frames, batches, folds.

use std::fmt::Debug;

use catena_format::{
    BATCH_HEADER_BYTES, BatchHeader, Codec, Epoch, FRAME_HEADER_BYTES, FileNumber, FrameHeader,
    FrameSeed, Millis, Offset, PartitionUid, Position, ProducerEpoch, ProducerId, SegmentFooter,
    SegmentHeader, Sequence, frame as layout,
    records::{BatchBuilder, Header, Producer, Record, Records},
};
use catena_log::{
    Fold,
    walk::{Step, Walker, Window},
};
use catena_replication::{
    control::{Catalog, Entry},
    dedup::Dedup,
    validate::{self, BatchLimits},
};

use super::seal;

const SEED: FrameSeed = FrameSeed { uid: PartitionUid::new(7), file: FileNumber::new(3) };
/// Where the bytes of [`frame`] stand in their file: behind the header.
const START: u64 = 4096;
const BLOCK: u64 = 4096;

/// Frames of a segment, its header, its footer.
pub(super) fn frame(bytes: &[u8]) {
    walked(bytes);
    let mut sealed = bytes.to_vec();
    seal::frames(&mut sealed, SEED, START);
    walked(&sealed);
    seal::block(&mut sealed);
    if let Ok(header) = SegmentHeader::read(&sealed) {
        let mut again = sealed.clone();
        header.write(&mut again);
        assert_eq!(SegmentHeader::read(&again), Ok(header));
    }
    if let Ok(footer) = SegmentFooter::read(&sealed) {
        let mut again = sealed.clone();
        footer.write(&mut again);
        assert_eq!(SegmentFooter::read(&again), Ok(footer));
    }
}

/// However small the windows are, a walk meets the same frames, in order, each as it was written.
fn walked(bytes: &[u8]) {
    let whole = steps(bytes, u64::MAX);
    assert_eq!(steps(bytes, BLOCK), whole);
    let mut before = Offset::ZERO;
    for step in whole {
        let (Step::Frame { position, header } | Step::BadPayload { position, header }) = step
        else {
            continue;
        };
        assert!(header.base_offset >= before, "{} after {before}", header.base_offset);
        before = header.next_offset();
        let at = usize::try_from(position.get() - START).expect("the bytes are few");
        let mut again = bytes[at..].to_vec();
        again[..FRAME_HEADER_BYTES].fill(0);
        header.write(&mut again, SEED, position);
        assert_eq!(again[..FRAME_HEADER_BYTES], bytes[at..at + FRAME_HEADER_BYTES]);
    }
}

/// Frames of a file that holds `bytes` behind its header, read in windows of `window` at least.
fn steps(bytes: &[u8], window: u64) -> Vec<Step> {
    let end = START + bytes.len() as u64;
    let mut walker = Walker::new(SEED, Position::new(START), Position::new(u64::MAX), Offset::ZERO);
    let (mut from, mut to) = (START, START.saturating_add(window).min(end));
    let mut found = Vec::new();
    for _ in 0..bytes.len() + 64 {
        if to == end {
            walker.set_file_end(Position::new(end));
        }
        let range = (from - START) as usize..(to - START) as usize;
        let step = walker.step(Window { position: Position::new(from), bytes: &bytes[range] });
        match step {
            Step::End | Step::Unknown { .. } => return found,
            Step::More { from: next, bytes } => {
                let wanted = next.get() + bytes as u64;
                assert!(next.get() < from || wanted > to, "what is there is asked for again");
                from = next.align_down(BLOCK).get().min(end);
                to = wanted.next_multiple_of(BLOCK).max(from.saturating_add(window)).min(end);
            }
            Step::Frame { .. } | Step::BadPayload { .. } => found.push(step),
        }
    }
    panic!("a walk over {} bytes does not end", bytes.len());
}

pub(super) fn frame_seeds() -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    for (offset, values) in [(0, &["a", "bb"][..]), (2, &["ccc"]), (3, &[])] {
        let batch = if values.is_empty() { Vec::new() } else { built(values, Producer::NONE) };
        let header = FrameHeader {
            mark: batch.is_empty(),
            last_offset_delta: (values.len() as u32).saturating_sub(1),
            count: values.len() as u32,
            ..framed(&batch, offset)
        };
        let at = bytes.len();
        bytes.resize(at + FRAME_HEADER_BYTES, 0);
        bytes.extend_from_slice(&batch);
        header.write(&mut bytes[at..], SEED, Position::new(START + at as u64));
        bytes.resize(at + header.frame_bytes(), 0);
    }
    let mut sealed = bytes.clone();
    sealed[56..64].fill(0);
    seal::frames(&mut sealed, SEED, START);
    assert_eq!(sealed, bytes, "the checksums of the target are those that are written");
    let padded = {
        let mut padded = bytes.clone();
        padded.resize(bytes.len().next_multiple_of(4096), 0);
        padded.extend_from_slice(&bytes);
        padded
    };
    vec![bytes, padded]
}

fn framed(batch: &[u8], offset: u64) -> FrameHeader {
    FrameHeader {
        mark: false,
        payload_length: batch.len() as u32,
        epoch: Epoch::new(1),
        base_offset: Offset::new(offset),
        last_offset_delta: 0,
        count: 1,
        max_timestamp: Millis::new(5),
        append_time: Millis::new(6),
        durable_end: Offset::new(offset),
        payload_crc: if batch.is_empty() { 0 } else { layout::payload_crc(batch) },
    }
}

fn built(values: &[&str], producer: Producer) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    for value in values {
        let headers = [Header { key: b"h", value: None }];
        builder.push(Millis::new(5), Some(b"key"), Some(value.as_bytes()), &headers);
    }
    builder.build(producer).expect("the batch is small")
}

fn producer(id: i64, epoch: i16, sequence: i32) -> Producer {
    let (id, epoch) = (ProducerId::new(id), ProducerEpoch::new(epoch));
    Producer { id, epoch, sequence: Sequence::new(sequence) }
}

/// A record batch, as a producer sends it and as it is read back.
pub(super) fn batch(bytes: &[u8]) {
    read_batch(bytes);
    let mut sealed = bytes.to_vec();
    seal::batch(&mut sealed);
    read_batch(&sealed);
}

fn read_batch(bytes: &[u8]) {
    let limits = BatchLimits { batch_bytes_max: 1 << 20, timestamp_ahead_ms_max: 1000 };
    let taken = validate::batch(bytes, &limits, Millis::new(1000));
    let Ok(header) = BatchHeader::parse(bytes) else {
        assert!(taken.is_err(), "a batch without a header is taken");
        return;
    };
    let batch = &bytes[..header.length];
    if taken.is_ok() {
        assert_eq!((header.verify(batch), batch.len()), (Ok(()), bytes.len()));
    }
    let records = Records::new(&batch[BATCH_HEADER_BYTES..], header.count, header.base_timestamp);
    let Ok(records) = records.collect::<Result<Vec<_>, _>>() else { return };
    assert_eq!(records.len(), header.count as usize);
    let mut builder = BatchBuilder::new();
    for record in &records {
        let headers: Vec<_> = record.headers().collect();
        builder.push(record.timestamp, record.key, record.value, &headers);
    }
    let again = builder.build(Producer::NONE).expect("varints do not grow by being read");
    let header = BatchHeader::parse(&again).expect("what was built can be read");
    assert_eq!((header.verify(&again), header.codec), (Ok(()), Codec::None));
    let again = Records::new(&again[BATCH_HEADER_BYTES..], header.count, header.base_timestamp);
    let again: Vec<_> = again.map(|record| record.expect("what was built can be read")).collect();
    assert!(again.iter().map(content).eq(records.iter().map(content)));
}

type Content<'a> = (Millis, Option<&'a [u8]>, Option<&'a [u8]>, Vec<Header<'a>>);

fn content<'a>(record: &Record<'a>) -> Content<'a> {
    (record.timestamp, record.key, record.value, record.headers().collect())
}

pub(super) fn batch_seeds() -> Vec<Vec<u8>> {
    let seeds = vec![
        built(&["catena"], Producer::NONE),
        built(&["", "b", &"long ".repeat(30)], producer(7, 1, 9)),
    ];
    let mut sealed = seeds.clone();
    for batch in &mut sealed {
        batch[17..21].fill(0);
        seal::batch(batch);
    }
    assert_eq!(sealed, seeds, "the checksums of the target are those that are written");
    seeds
}

/// The table of producers as an index holds it: an archive behind its version.
pub(super) fn dedup(archive: &[u8]) {
    let mut table = Dedup::default();
    if !table.restore(&versioned::<Dedup>(archive)) {
        assert_eq!(table, Dedup::default(), "what is refused leaves nothing");
        return;
    }
    let mut copy = Dedup::default();
    assert!(copy.restore(&table.snapshot()), "what was written can be read");
    assert_eq!(copy, table);
    for id in [-1, 0, 1, 2, 3, i64::MAX] {
        for (epoch, sequence) in [(0, 0), (0, 2), (1, 0), (1, i32::MAX)] {
            let batch = built(&["a", "b"], producer(id, epoch, sequence));
            let header = BatchHeader::parse(&batch).expect("it was built");
            let _ = table.check(&header, Millis::new(0));
            table.apply(&framed(&batch, 1 << 40), &batch);
            let _ = table.check(&header, Millis::new(0));
        }
    }
}

/// An archive behind the version that `F` writes.
fn versioned<F: Fold + Default>(archive: &[u8]) -> Vec<u8> {
    let mut snapshot = F::default().snapshot()[..16].to_vec();
    snapshot.extend_from_slice(archive);
    snapshot
}

/// The archive of a fold, from which its target makes the same fold.
fn archive<F: Fold + Default + PartialEq + Debug>(fold: &F) -> Vec<u8> {
    let archive = fold.snapshot()[16..].to_vec();
    let mut copy = F::default();
    assert!(copy.restore(&versioned::<F>(&archive)), "the target reads what is written");
    assert_eq!(copy, *fold);
    archive
}

pub(super) fn dedup_seeds() -> Vec<Vec<u8>> {
    let mut table = Dedup::default();
    let mut seeds = vec![archive(&table)];
    for (offset, (id, sequence)) in [(1, 0), (2, 0), (1, 2), (3, 0)].into_iter().enumerate() {
        let batch = built(&["a", "b"], producer(id, 0, sequence));
        table.apply(&framed(&batch, 2 * offset as u64), &batch);
    }
    seeds.push(archive(&table));
    seeds
}

/// The catalog as an index holds it: an archive behind its version.
pub(super) fn catalog(archive: &[u8]) {
    let mut catalog = Catalog::default();
    if !catalog.restore(&versioned::<Catalog>(archive)) {
        assert_eq!(catalog, Catalog::default(), "what is refused leaves nothing");
        return;
    }
    let mut copy = Catalog::default();
    assert!(copy.restore(&catalog.snapshot()), "what was written can be read");
    assert_eq!(copy, catalog);
    let first = catalog.topics().next().map(|topic| topic.id.get());
    for entry in entries(77, "fuzz").into_iter().chain(entries(first.unwrap_or(1), "other")) {
        let _ = catalog.apply(&entry);
    }
}

fn entries(id: u128, name: &str) -> [Entry; 8] {
    let config = vec![("retention.ms".to_owned(), "5000".to_owned())];
    [
        Entry::NodeStarted { node: 1 },
        Entry::CreateTopic { id, name: name.to_owned(), partitions: 2, config, node: 1 },
        Entry::TopicReady { id },
        Entry::AlterTopic { id, set: Vec::new(), remove: vec!["retention.ms".to_owned()] },
        Entry::ChangeTopic {
            id,
            set: vec![("retention.ms".to_owned(), "6000".to_owned())],
            remove: Vec::new(),
            partitions: 3,
            name: "renamed".to_owned(),
        },
        Entry::ProducerIds { count: 1000 },
        Entry::RaiseProducer { id: 0, epoch: 7 },
        Entry::DeleteTopic { id },
    ]
}

pub(super) fn catalog_seeds() -> Vec<Vec<u8>> {
    let mut catalog = Catalog::default();
    let mut seeds = vec![archive(&catalog)];
    for (id, name) in [(1, "orders"), (2, "a-topic-with-a-longer-name")] {
        for entry in &entries(id, name)[..3] {
            catalog.apply(entry).expect("the entries are good");
        }
    }
    seeds.push(archive(&catalog));
    seeds
}
