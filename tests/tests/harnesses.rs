//! A short dose of the harnesses that try out the real binary; the long forms are `cargo corrupt`
//! and `cargo load`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use catena_client::{NewRecord, ProducerOptions, Setting};
use catena_tests::{
    corrupt,
    live::{self, Server, read_back, value},
    load::{overload, soak},
};

const SCRATCH: &str = env!("CARGO_TARGET_TMPDIR");

fn binary() -> PathBuf {
    live::binary(None).unwrap()
}

#[test]
fn what_rots_costs_nothing_but_itself() {
    let summary = corrupt::run(&binary(), Path::new(SCRATCH), 0..20);
    println!("{}", summary.line());
    assert!(summary.broken.is_empty(), "{}", summary.broken.join("\n"));
    assert_eq!(summary.cases, 20);
}

#[test]
fn under_a_mixed_load_with_kills_nothing_is_lost() {
    let summary = soak::run(&soak::Plan {
        binary: binary(),
        scratch: PathBuf::from(SCRATCH),
        kills: 2,
        kill_every: Duration::from_secs(3),
        duration: Duration::from_secs(4),
        sample_every: Duration::from_secs(1),
        rate: 200,
        seed: 1,
    })
    .unwrap();
    println!("{}", summary.line());
    assert!(summary.broken.is_empty(), "{}", summary.broken.join("\n"));
    assert!(summary.kills == 2 && summary.acked > 0 && summary.checked >= summary.acked);
}

#[test]
fn under_overload_everything_is_answered_and_nothing_is_lost() {
    let summary = overload::run(&overload::Plan {
        binary: binary(),
        scratch: PathBuf::from(SCRATCH),
        calm: Duration::from_secs(1),
        peak: Duration::from_secs(2),
        overload: Duration::from_secs(5),
        judged: false,
        seed: 1,
    })
    .unwrap();
    println!("{}", summary.line());
    assert!(summary.broken.is_empty(), "{}", summary.broken.join("\n"));
    assert!(summary.acked > 0 && summary.faults.values().all(|count| *count > 0));
}

#[test]
fn a_file_that_is_cut_while_it_is_served_is_damaged_from_there_on() {
    let folder = tempfile::tempdir_in(SCRATCH).unwrap();
    let binary = binary();
    let start = || Server::start(&binary, folder.path(), "127.0.0.1:0", &["--cores", "1"]);
    let mut server = start().unwrap();
    let mut client = server.client();
    let set = vec![Setting { key: "segment.bytes".into(), value: "65536".into() }];
    client.create_topic("cut", 1, set).unwrap();
    let producer = client.producer("cut", ProducerOptions::default()).unwrap();
    for number in 0..40 {
        let ticket = producer.append(&NewRecord::value(&value(1, number, 6000))).unwrap();
        ticket.wait().unwrap();
    }
    producer.close().unwrap();
    server.stop().unwrap();
    // Nothing is in its memory, but the file is open and its length known.
    let server = start().unwrap();
    let mut client = server.client();
    let topic = client.topic("cut").unwrap();
    let whole = read_back(&mut client, topic.id, 0, 1 << 20).unwrap();
    assert_eq!((whole.end, whole.records.len()), (40, 40));
    let log = folder.path().join(format!("data/p/{:016x}", topic.partitions[0].uid.get()));
    let segment = log.join(format!("{:016x}.seg", 1));
    fs::OpenOptions::new().write(true).open(segment).unwrap().set_len(20_000).unwrap();
    let read = read_back(&mut client, topic.id, 0, 1 << 20).unwrap();
    let [lost] = &read.damaged[..] else { panic!("{:?}", read.damaged) };
    assert!(0 < lost.start && lost.end < 40 && read.silent.is_empty(), "{lost:?}");
    for (offset, value) in &whole.records {
        let expected = (!lost.contains(offset)).then_some(value);
        assert_eq!(read.records.get(offset), expected, "offset {offset}");
    }
}
