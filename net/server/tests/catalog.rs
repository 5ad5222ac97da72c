//! The catalog of the real binary: what it does not name is removed only when it is whole, and it
//! goes on when the disk is full for everybody else.

mod common;

use std::{fs, path::Path, time::Duration};

use catena_client::{Client, NewRecord, Options, ProducerOptions};
use common::{Server, free_address};

fn client(server: &Server) -> Client {
    Client::new(Options::new(&server.address).with_request_timeout(Duration::from_secs(10)))
}

fn start(directory: &Path, more: &[&str]) -> Server {
    let server = Server::start(directory, &free_address(), more);
    let ready = fs::read_to_string(directory.join("log")).unwrap_or_default();
    server.wait_for("ready on", ready.matches("ready on").count() + 1);
    server
}

fn stop(mut server: Server) {
    server.signal("TERM");
    assert!(server.child.wait().expect("it ends").success());
}

/// Starts a server that refuses to; what it said.
fn refused(directory: &Path) -> String {
    let mut server = Server::start::<&str>(directory, &free_address(), &[]);
    assert!(!server.child.wait().expect("it ends").success());
    server.log()
}

fn partitions(directory: &Path) -> usize {
    fs::read_dir(directory.join("data").join("p")).unwrap().count()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_damaged_catalog_removes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), &[]);
    client(&server).create_topic("kept", 3, Vec::new()).unwrap();
    client(&server).create_topic("other", 1, Vec::new()).unwrap();
    stop(server);
    assert_eq!(partitions(directory.path()), 4);
    let catalog = directory.path().join("data").join("meta").join("catalog");
    let mut rotten = 0;
    for entry in fs::read_dir(catalog).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let segment = path.extension().is_some_and(|extension| extension == "seg");
        if let Some(at) = bytes.windows(4).position(|window| window == b"kept")
            && segment
        {
            bytes[at / 4096 * 4096..][..4096].fill(0);
            fs::write(&path, bytes).unwrap();
            rotten += 1;
        }
    }
    assert_eq!(rotten, 1, "the entry stands in one segment");
    for _ in 0..2 {
        let said = refused(directory.path());
        assert!(said.contains("acknowledged entries from offset"), "{said}");
        assert_eq!(partitions(directory.path()), 4);
    }
}

#[test]
fn an_older_catalog_removes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), &[]);
    client(&server).create_topic("first", 1, Vec::new()).unwrap();
    stop(server);
    let catalog = directory.path().join("data").join("meta").join("catalog");
    let saved = directory.path().join("saved");
    copy(&catalog, &saved);
    let server = start(directory.path(), &[]);
    client(&server).create_topic("second", 2, Vec::new()).unwrap();
    stop(server);
    fs::remove_dir_all(&catalog).unwrap();
    copy(&saved, &catalog);
    let said = refused(directory.path());
    assert!(said.contains("is of a partition that the catalog never had"), "{said}");
    assert_eq!(partitions(directory.path()), 3);
}

#[test]
fn under_an_older_catalog_no_new_producer_is_taken_for_another() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), &[]);
    client(&server).create_topic("there", 1, Vec::new()).unwrap();
    stop(server);
    let catalog = directory.path().join("data").join("meta").join("catalog");
    let saved = directory.path().join("saved");
    copy(&catalog, &saved);
    // Each is its producer's first: a repetition, if the two had one id.
    for (stored, value) in [(0, b"one"), (1, b"two")] {
        fs::remove_dir_all(&catalog).unwrap();
        copy(&saved, &catalog);
        let server = start(directory.path(), &[]);
        let mut client = client(&server);
        let producer = client.producer("there", ProducerOptions::default()).unwrap();
        let receipt = producer.append(&NewRecord::value(value)).unwrap().wait().unwrap();
        assert_eq!(receipt.first_offset.get(), stored);
        producer.close().unwrap();
        stop(server);
    }
}

#[test]
fn a_node_without_free_space_starts_and_lets_topics_be_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), &[]);
    client(&server).create_topic("full", 1, Vec::new()).unwrap();
    stop(server);
    // More than any disk has.
    let server = start(directory.path(), &["--set", "storage.disk_reserve=1024GiB"]);
    let mut client = client(&server);
    let brief = Duration::from_secs(1);
    let options = ProducerOptions { delivery_timeout: brief, ..ProducerOptions::default() };
    let mut append = || {
        let producer = client.producer("full", options).unwrap();
        producer.append(&NewRecord::value(b"refused")).unwrap().wait().unwrap_err().to_string()
    };
    // The first one waits for space, and finds out for the others.
    append();
    let error = append();
    assert!(error.contains("full"), "{error}");
    client.delete_topic("full").unwrap();
    assert!(client.topics().unwrap().is_empty());
    stop(server);
}
