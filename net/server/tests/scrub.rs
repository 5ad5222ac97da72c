//! The real binary finds what rots in a cold segment while nobody reads it.

mod common;

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use catena_client::{
    Client, FetchOptions, NewRecord, Options, ProducerOptions, Setting,
    format::{Offset, PartitionIndex},
};
use common::wait_until;

const ONLY: PartitionIndex = PartitionIndex::new(0);
const RECORDS: u64 = 64;
/// The first frame of a segment, whose batch begins 64 bytes behind.
const FIRST_FRAME: u64 = 4096;

/// What a disk may do: turns a bit in the first batch of a log's second segment, and tells the name
/// of that file and the batch's offset.
fn rot(log: &Path) -> (String, u64) {
    let files = fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|it| it == "seg")).collect();
    segments.sort_unstable();
    let file = OpenOptions::new().read(true).write(true).open(&segments[1]).unwrap();
    let mut frame = [0; 24];
    file.read_exact_at(&mut frame, FIRST_FRAME).unwrap();
    assert_eq!(&frame[..4], b"CTNF");
    let (mut byte, at) = ([0], FIRST_FRAME + 1_000);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.sync_all().unwrap();
    let name = segments[1].file_name().unwrap().to_str().unwrap();
    (name.to_owned(), u64::from_le_bytes(frame[16..].try_into().unwrap()))
}

#[test]
fn rot_in_a_cold_segment_is_found_and_the_rest_is_served() {
    // From one pass to the next without a rest, with nothing kept in memory for readers.
    let (directory, server) = common::server(&[
        "--cores",
        "1",
        "--set",
        "storage.scrub_rate=1GiB",
        "--set",
        "storage.scrub_period=0s",
        "--set",
        "storage.tail_cache=0",
    ]);
    let mut client = Client::new(Options::new(&server.address));
    let segments = Setting { key: "segment.bytes".into(), value: "65536".into() };
    client.create_topic("t", 1, vec![segments]).unwrap();
    let producer = client.producer("t", ProducerOptions::default()).unwrap();
    for _ in 0..RECORDS {
        // Each alone in its batch.
        producer.append(&NewRecord::value(&[7; 8_000])).unwrap().wait().unwrap();
    }
    let passes = || server.metric("catena_scrub_passes_total")[0];
    let before = passes();
    wait_until("all was gone through once more", || passes() >= before + 2);
    assert!(server.metric("catena_scrub_read_bytes_total")[0] > 0);
    assert_eq!(server.metric("catena_damaged_ranges"), [0]);
    let (name, rotten) = rot(&directory.path().join("data/p/0000000000000001"));
    // Nobody has read a record.
    wait_until("the damage is known", || server.metric("catena_damaged_ranges") == [1]);
    assert_eq!(server.metric("catena_damaged_offsets"), [1]);
    assert_eq!(server.metric("catena_cold_reads_total"), [0]);
    let next = rotten + 1;
    let line = format!("p/0000000000000001/{name}: offsets {rotten} to {next} are damaged");
    server.wait_for(&line, 1);
    assert!(server.log().contains("partition 0 of topic"), "{}", server.log());
    let topic = client.topic("t").unwrap().id;
    let options = FetchOptions { max_bytes: 1, max_wait: Duration::ZERO };
    for offset in 0..RECORDS {
        let fetched = client.fetch(topic, ONLY, Offset::new(offset), options);
        if offset == rotten {
            let error = fetched.unwrap_err().to_string();
            assert!(error.contains(&format!("offset {next} is the next")), "{error}");
        } else {
            assert_eq!(fetched.unwrap().next_offset, Offset::new(offset + 1));
        }
    }
    assert_eq!(server.log().matches("are damaged").count(), 1);
}
