//! Real processes repair what has rotted on one of them from the others, while nobody reads it.

mod cluster_common;
mod common;

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use catena_client::{NewRecord, ProducerOptions, Setting};
use cluster_common::{Node, client, cluster_with, metadata, root};
use common::wait_until;

const RECORDS: usize = 64;
/// The first frame of a segment, whose batch begins 64 bytes behind.
const FIRST_FRAME: u64 = 4096;
/// The log of the only partition.
const LOG: &str = "data/p/0000000000000001";

/// Turns a bit in the first batch of one of a log's segments.
fn rot(log: &Path, number: usize) {
    let files = fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|it| it == "seg")).collect();
    segments.sort_unstable();
    let file = OpenOptions::new().read(true).write(true).open(&segments[number]).unwrap();
    let (mut byte, at) = ([0], FIRST_FRAME + 1_000);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.sync_all().unwrap();
}

fn sum(node: &Node, metric: &str) -> u64 {
    node.server.as_ref().unwrap().metric(metric).iter().sum()
}

#[test]
fn what_rots_on_one_node_after_the_other_is_taken_from_the_others() {
    let root = root();
    // From one pass to the next without a rest, with nothing kept in memory for readers.
    let settings = ["storage.scrub_rate=1GiB", "storage.scrub_period=0s", "storage.tail_cache=0"];
    let more: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let nodes = cluster_with(root.path(), &more);
    let mut admin = client(&nodes[0].client);
    wait_until("each node can have a copy", || {
        let segments = Setting { key: "segment.bytes".into(), value: "65536".into() };
        admin.create_replicated_topic("events", 1, 3, vec![segments]).is_ok()
    });
    let producer = admin.producer("events", ProducerOptions::default()).unwrap();
    for _ in 0..RECORDS {
        // Each alone in its batch, and on every disk.
        producer.append(&NewRecord::value(&[7; 8_000])).unwrap().wait().unwrap();
    }
    for (number, node) in nodes.iter().enumerate() {
        let before = sum(node, "catena_repaired_offsets_total");
        rot(&node.directory.join(LOG), 1 + number);
        wait_until("it is found and repaired", || {
            sum(node, "catena_repaired_offsets_total") == before + 1
                && sum(node, "catena_damaged_offsets") == 0
        });
        node.wait("are repaired", 1);
    }
    let (topic, _) = metadata(&nodes).unwrap();
    assert_eq!(topic.partitions[0].chain.len(), 3, "nobody left for it");
    for node in &nodes {
        // A server may be running.
        let mut verify = Command::new(env!("CARGO_BIN_EXE_catena"));
        let verified = verify.args(["segment", "verify"]).arg(node.directory.join(LOG));
        let output = verified.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
