//! Logs on ordinary files, looked at from outside.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use catena_blocking::{Folder, Heap};
use catena_format::{
    BatchHeader, ClusterId, Epoch, Millis, NodeId, PartitionIndex, PartitionUid, TopicId, frame,
    records::{BatchBuilder, Header, Producer},
};
use catena_log::{Log, LogConfig, LogIdentity, Now, Opening, io::Done};
use catena_node::NodeIdentity;
use tempfile::TempDir;

use super::*;
use crate::identity::Identity;

/// A data directory with one log, whose batches have two records each.
struct World {
    root: TempDir,
    folder: Folder,
    log: Log<Heap, ()>,
    clock: u64,
}

impl World {
    /// A log of a sealed segment with three batches, and an active one with five in two groups.
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let node = NodeIdentity { cluster: ClusterId::new(1), node: NodeId::new(1) };
        Identity { node, founded: true, member: false }.write(root.path()).unwrap();
        open(root.path().join("meta").join("catalog"), 0);
        let (folder, log) = open(root.path().join("p").join(format!("{:016x}", 7)), 7);
        let mut world = Self { root, folder, log, clock: 0 };
        for bytes in [20_000, 20_000, 20_000, 100, 200] {
            world.append(bytes);
            world.run();
        }
        for _ in 0..3 {
            world.append(300);
        }
        world.run();
        world
    }

    fn append(&mut self, bytes: usize) {
        let mut builder = BatchBuilder::new();
        builder.push(Millis::new(5), Some(b"key"), Some(&vec![9; bytes]), &[]);
        let headers = [Header { key: b"h", value: None }];
        builder.push(Millis::new(6), None, None, &headers);
        let batch = builder.build(Producer::NONE).unwrap();
        let header = BatchHeader::parse(&batch).unwrap();
        let (crc, now) = (frame::payload_crc(&batch), now(self.clock));
        self.log.append(&batch, &header, crc, Epoch::new(1), now).unwrap();
    }

    fn run(&mut self) {
        while let Some((id, op)) = self.log.poll_op() {
            let result = self.folder.perform(op);
            self.log.on_done(Done { id, result }, now(self.clock));
        }
    }

    /// Says that all is durable.
    fn mark(&mut self) {
        self.clock += 50;
        self.log.on_tick(now(self.clock));
        self.run();
    }

    fn segment(&self, number: u64) -> PathBuf {
        self.folder.path().join(format!("{number:016x}.seg"))
    }

    fn flip(&self, number: u64, at: usize) {
        let mut bytes = fs::read(self.segment(number)).unwrap();
        bytes[at] ^= 1;
        fs::write(self.segment(number), bytes).unwrap();
    }

    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    }
}

fn now(clock: u64) -> Now {
    let wall = Millis::new(1000 + clock.cast_signed());
    Now { wall, monotonic: Duration::from_millis(clock) }
}

fn open(path: PathBuf, uid: u64) -> (Folder, Log<Heap, ()>) {
    let identity = LogIdentity {
        cluster: ClusterId::new(1),
        topic: TopicId::new(2),
        partition: PartitionIndex::new(0),
        uid: PartitionUid::new(uid),
    };
    let config = LogConfig { segment_bytes: 64 << 10, ..LogConfig::default() };
    let folder = Folder::new(path);
    let mut opening = Opening::new(identity, config, true, Heap, ());
    loop {
        let (id, op) = opening.poll_op().unwrap();
        let result = folder.perform(op);
        if let Some(log) = opening.on_done(Done { id, result }, now(0)).unwrap() {
            return (folder, log);
        }
    }
}

fn said(command: &SegmentCommand, output: Output) -> (String, anyhow::Result<()>) {
    let mut out = Vec::new();
    let ran = run(command, output, &mut out);
    (String::from_utf8(out).unwrap(), ran)
}

fn verify(path: PathBuf) -> (String, anyhow::Result<()>) {
    said(&SegmentCommand::Verify { paths: vec![path] }, Output::Table)
}

/// What damage was told, the first of it in the error, too.
#[track_caller]
fn damage(path: PathBuf) -> String {
    let (text, ran) = verify(path);
    let error = ran.expect_err(&text);
    let first = &error.downcast_ref::<Damaged>().expect("damage is told apart").first;
    assert!(text.contains(&format!("damage: {first}\n")), "{first} is not in {text}");
    first.clone()
}

#[test]
fn a_sound_directory_is_sound_and_stays_as_it_is() {
    let mut world = World::new();
    world.mark();
    let before = world.files();
    let (text, ran) = verify(world.root.path().to_owned());
    ran.unwrap();
    assert!(text.ends_with("2 segments, 8 batches, 16 records: sound\n"), "{text}");
    assert!(!text.contains("note"), "{text}");
    for path in [world.folder.path().to_owned(), world.segment(1), world.segment(2)] {
        assert!(verify(path).1.is_ok());
    }
    assert_eq!(world.files(), before);
}

#[test]
fn damage_below_what_is_durable_is_named_with_its_place() {
    let mut world = World::new();
    world.mark();
    // Magic, frame header, the server's part of the batch, its header, its records.
    for at in [0, 17, 64 + 3, 64 + 30, 64 + 100] {
        for number in [1, 2] {
            world.flip(number, 4096 + at);
            let first = damage(world.root.path().to_owned());
            assert!(first.contains(&format!("{number:016x}.seg at 4096, offsets ")), "{first}");
            world.flip(number, 4096 + at);
        }
    }
    world.flip(1, 40);
    assert!(damage(world.segment(1)).contains("at 0, offsets 0 to 1: the segment header"));
}

#[test]
fn what_a_crash_cuts_off_is_no_damage() {
    let world = World::new();
    let lengths: Vec<u64> = {
        let (text, _) = said(
            &SegmentCommand::Dump { paths: vec![world.segment(2)], records: false },
            Output::Json,
        );
        let lines = text.lines().map(serde_json::from_str::<serde_json::Value>);
        lines.filter_map(|line| line.unwrap()["position"].as_u64()).collect()
    };
    // No mark says that the last group was durable.
    world.flip(2, usize::try_from(lengths[lengths.len() - 1]).unwrap() + 70);
    let (text, ran) = verify(world.folder.path().to_owned());
    assert!(ran.is_ok(), "{text}");
    assert!(text.contains("note: "), "{text}");
}

#[test]
fn files_that_are_missing_are_named() {
    let mut world = World::new();
    world.mark();
    let missing = |path: PathBuf| {
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let first = damage(world.root.path().to_owned());
        fs::write(&path, bytes).unwrap();
        assert_eq!(first, format!("{}: is missing", path.display()));
    };
    missing(world.segment(1));
    missing(world.segment(2));
    missing(world.folder.path().join("manifest.1"));
    missing(world.root.path().join("meta").join("identity"));
    assert!(verify(world.root.path().to_owned()).1.is_ok());
}

#[test]
fn what_cannot_be_read_is_told_apart_from_damage() {
    let world = World::new();
    for path in ["nowhere", "."] {
        let root = world.root.path();
        let path = if path == "." { tempfile::tempdir().unwrap().keep() } else { root.join(path) };
        let (text, ran) = verify(path);
        let error = ran.expect_err(&text);
        assert!(!error.is::<Damaged>(), "{error}");
    }
}

#[test]
fn a_dump_tells_header_frames_records_and_footer() {
    let mut world = World::new();
    world.mark();
    let dump = |output, records| {
        let paths = vec![world.folder.path().to_owned()];
        let (text, ran) = said(&SegmentCommand::Dump { paths, records }, output);
        ran.unwrap();
        text
    };
    let text = dump(Output::Table, true);
    let key = "offset 0, timestamp 5, key 3, value 20000, headers 0";
    for part in ["uid 7, file 1, base offset 0", key, "key null, value null, headers 1", "footer"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let kinds = |text: &str| {
        let mut kinds = BTreeMap::new();
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            *kinds.entry(line["kind"].as_str().unwrap().to_owned()).or_insert(0) += 1;
        }
        kinds
    };
    let counted = kinds(&dump(Output::Json, true));
    // The third is the file that waits for the next segment.
    let expected = [("batch", 8), ("footer", 1), ("header", 3), ("mark", 1), ("record", 16)];
    assert_eq!(counted, expected.map(|(kind, count)| (kind.to_owned(), count)).into());
    assert!(!kinds(&dump(Output::Json, false)).contains_key("record"));
}
