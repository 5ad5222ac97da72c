//! The commands of the real binary against a real server.

mod common;

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread,
    time::Instant,
};

use catena_client::{Client, NewRecord, Options, ProducerOptions, format::Millis};
use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal, kill_process},
    pty,
};
use serde_json::{Value, json};

/// A server on a directory of its own; both end with this value.
struct Server {
    _process: common::Server,
    address: String,
    directory: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(more: &[&str]) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let address = common::free_address();
        let more = [&["--cores", "2"], more].concat();
        let process = common::Server::start(directory.path(), &address, &more);
        process.wait_for("ready on", 1);
        Self { _process: process, address, directory }
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_catena"));
        command.args(["--server", &self.address]).args(arguments.split_whitespace());
        command.env_remove("CATENA_OUTPUT");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end with `input`.
    fn run(&self, arguments: &str, input: impl AsRef<[u8]>) -> Output {
        let mut child = self.command(arguments).spawn().expect("the binary starts");
        let mut stdin = child.stdin.take().unwrap();
        let input = input.as_ref().to_vec();
        // A command that fails need not read its input.
        let writer = thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        let _ = writer.join().unwrap();
        output
    }

    /// What a command that succeeds prints.
    #[track_caller]
    fn output(&self, arguments: &str, input: impl AsRef<[u8]>) -> String {
        let output = self.run(arguments, input);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn json(&self, arguments: &str) -> Value {
        let text = self.output(&format!("-o json {arguments}"), "");
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{arguments}: {e}: {text}"))
    }

    /// The records of a topic, as `consume` prints them.
    #[track_caller]
    fn records(&self, topic: &str) -> Vec<Value> {
        let text = self.output(&format!("-o json consume {topic} --until end"), "");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

/// Exit code and words of a command that fails.
fn failure(output: &Output) -> (Option<i32>, String) {
    assert!(!output.status.success());
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn topics_are_told_as_json() {
    let server = Server::start();
    assert_eq!(server.json("topic list"), json!([]));
    let created = server.json("topic create a --partitions 3 --set retention.ms=86400000");
    assert_eq!(created, json!({ "name": "a", "partitions": 3, "created": true }));
    let listed = server.json("topic list");
    assert_eq!(listed[0]["name"], "a");
    assert_eq!(listed[0]["partitions"], 3);

    server.output("produce a --partition 1", "1\n2\n");
    let described = server.json("topic describe a");
    assert_eq!(described["id"], listed[0]["id"]);
    assert_eq!(described["partitions"].as_array().unwrap().len(), 3);
    assert_eq!(described["partitions"][1]["high_watermark"], 2);
    assert_eq!(described["partitions"][1]["state"], "open");
    let setting = json!({ "key": "retention.ms", "value": "86400000", "origin": "topic" });
    assert!(described["settings"].as_array().unwrap().contains(&setting), "{described:#}");

    let trimmed = server.json("topic trim a --partition 1 --to 1");
    assert_eq!(trimmed, json!({ "name": "a", "partition": 1, "log_start": 1 }));
    assert_eq!(server.json("topic delete a"), json!({ "name": "a" }));
    assert_eq!(server.json("topic list"), json!([]));
}

#[test]
fn a_topic_gets_as_many_partitions_as_the_server_says_when_its_creator_does_not() {
    let server = Server::start_with(&["--set", "topic.partitions=3"]);
    assert_eq!(server.output("topic create a", ""), "created a with 3 partitions\n");
    let created = server.json("topic create b --partitions 1");
    assert_eq!(created, json!({ "name": "b", "partitions": 1, "created": true }));
    let listed = server.json("topic list");
    assert_eq!((&listed[0]["partitions"], &listed[1]["partitions"]), (&json!(3), &json!(1)));
}

#[test]
fn a_topic_that_exists_is_created_again_only_if_that_is_fine() {
    let server = Server::start();
    server.output("topic create a --partitions 2", "");
    let (code, said) = failure(&server.run("topic create a", ""));
    assert_eq!(code, Some(1));
    assert!(said.contains("exists"), "{said}");
    let again = server.output("topic create a --if-not-exists --partitions 5", "");
    assert_eq!(again, "exists: a with 2 partitions\n");
    let created = server.output("topic create b --if-not-exists --partitions 5", "");
    assert_eq!(created, "created b with 5 partitions\n");
}

#[test]
fn lines_become_records_with_keys_headers_and_nulls() {
    let server = Server::start();
    server.output("topic create a", "");
    let options = "--key-separator : --header x=1 --header y= --null-value NULL --skip-empty";
    server.output(&format!("produce a {options}"), "k:v\n\nplain\nk:NULL\nk:\nNULL\n\nlast");
    let records = server.records("a");
    let told: Vec<Value> = records.iter().map(|r| json!([r["key"], r["value"]])).collect();
    let expected =
        json!([["k", "v"], [null, "plain"], ["k", null], ["k", ""], [null, null], [null, "last"],]);
    assert_eq!(Value::from(told), expected);
    let headers = json!([{ "key": "x", "value": "1" }, { "key": "y", "value": "" }]);
    assert!(records.iter().all(|record| record["headers"] == headers), "{records:?}");
    let text = server.output("consume a --count 1 --format %o/%p:%k=%v[%h]\\x21\\n", "");
    assert_eq!(text, "0/0:k=v[x=1,y=]!\n");
}

#[test]
fn bytes_that_are_no_text_survive() {
    let server = Server::start();
    server.output("topic create a", "");
    server.output("produce a", b"\xff\xfe\n");
    assert_eq!(server.records("a")[0]["value"], json!({ "base64": "//4=" }));
    assert_eq!(server.run("consume a", "").stdout, b"\xff\xfe\n");
}

#[test]
fn compressed_records_are_read_back() {
    let server = Server::start();
    let line = "abc".repeat(1000);
    let input = format!("{line}\n").repeat(10);
    let mut sizes = Vec::new();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        server.output(&format!("topic create {codec}"), "");
        server.output(&format!("produce {codec} --compression {codec} --linger 1s"), &input);
        assert_eq!(server.output(&format!("consume {codec}"), ""), input, "{codec}");
        sizes.push(
            server.json(&format!("topic describe {codec}"))["partitions"][0]["bytes"].clone(),
        );
    }
    let sizes: Vec<u64> = sizes.iter().map(|size| size.as_u64().unwrap()).collect();
    assert!(sizes[1..].iter().all(|size| *size < sizes[0]), "{sizes:?}");
}

#[test]
fn files_and_standard_input_are_read_one_after_the_other() {
    let server = Server::start();
    server.output("topic create a", "");
    let (first, second) = (server.file("first", "1\n2"), server.file("second", "4\n"));
    let files = format!("{} - {}", first.display(), second.display());
    let said = server.output(&format!("-o json produce a {files}"), "3");
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said, json!({ "topic": "a", "records": 4 }));
    assert_eq!(server.output("consume a", ""), "1\n2\n3\n4\n");
    let (code, said) = failure(&server.run("produce a missing-file", ""));
    assert_eq!(code, Some(1));
    assert!(said.contains("missing-file"), "{said}");
}

#[test]
fn a_line_that_is_too_long_is_named_and_those_before_it_are_stored() {
    let server = Server::start();
    server.output("topic create a --set max.batch.bytes=2048", "");
    let long = "x".repeat(1900);
    let fits = server.run("produce a --batch-bytes 2KiB", format!("a\n{long}\nb\n{long}\n"));
    assert!(fits.status.success(), "{}", String::from_utf8_lossy(&fits.stderr));
    let too_long = "x".repeat(3000);
    let output = server.run("produce a --batch-bytes 1KiB", format!("c\nd\n{too_long}\ne\n"));
    let (code, said) = failure(&output);
    assert_eq!(code, Some(1));
    assert!(said.contains("standard input:3: the line has more than"), "{said}");
    let text = server.output("consume a", "");
    assert_eq!(text, format!("a\n{long}\nb\n{long}\nc\nd\n"));
    // A line that fits, but not with its key, its headers and what a batch takes besides.
    let almost = "x".repeat(2000);
    let (code, said) = failure(&server.run("produce a --batch-bytes 1KiB", format!("{almost}\n")));
    assert_eq!(code, Some(1));
    assert!(said.contains("standard input:1: "), "{said}");
    let (code, said) = failure(&server.run("produce a --batch-bytes 4KiB", ""));
    assert_eq!(code, Some(2), "{said}");
}

#[test]
fn the_first_line_that_is_not_stored_ends_the_input_and_is_named() {
    let server = Server::start();
    server.output("topic create a", "");
    let mut producer = server.command("produce a").spawn().unwrap();
    let mut stdin = producer.stdin.take().unwrap();
    stdin.write_all(b"stored\n").unwrap();
    assert_eq!(server.output("consume a --until count --count 1", ""), "stored\n");
    server.output("topic delete a", "");
    server.output("topic create a", "");
    // The input stays open, and has more: the command ends by itself.
    let deadline = Instant::now() + common::PATIENCE;
    while producer.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it goes on");
        let _ = stdin.write_all(b"not stored\n");
    }
    let (code, said) = failure(&producer.wait_with_output().unwrap());
    assert!(said.contains("standard input:2: "), "{said}");
    assert!(said.contains("(1 of "), "{said}");
    // What was on its way is not waited for.
    assert!(matches!(code, Some(1 | 4)), "{code:?} {said}");
    assert_eq!(server.output("consume a --until end", ""), "");
}

#[test]
fn lines_go_out_while_the_input_is_open() {
    let server = Server::start();
    for (topic, linger) in [("a", "0s"), ("b", "5ms")] {
        server.output(&format!("topic create {topic} --partitions 2"), "");
        let arguments = format!("produce {topic} --linger {linger}");
        let mut producer = server.command(&arguments).spawn().unwrap();
        let mut stdin = producer.stdin.take().unwrap();
        stdin.write_all(b"early\nlate").unwrap();
        // The input stays open: this returns only because the line did not wait for its end.
        let text = server.output(&format!("consume {topic} --until count --count 1"), "");
        assert_eq!(text, "early\n");
        stdin.write_all(b"r\n").unwrap();
        drop(stdin);
        assert!(producer.wait_with_output().unwrap().status.success());
        let text = server.output(&format!("consume {topic}"), "");
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["early", "later"]);
    }
}

#[test]
fn what_is_read_ends_where_it_should() {
    let server = Server::start();
    server.output("topic create a", "");
    server.output("produce a --batch-bytes 1B", "0\n1\n2\n3\n4\n");
    let read = |arguments: &str| server.output(&format!("consume a --format %v {arguments}"), "");
    assert_eq!(read(""), "01234");
    assert_eq!(read("--until end --count 3"), "012");
    assert_eq!(read("--until end --count 9"), "01234");
    assert_eq!(read("--from 3"), "34");
    assert_eq!(read("--from offset:1 --until offset:3"), "12");
    assert_eq!(read("--from end --until end"), "");
    assert_eq!(read("--from timestamp:0 --count 2"), "01");
    assert_eq!(read("--from timestamp:2000-01-01T00:00:00Z --until offset:1"), "0");
    assert_eq!(read("--from timestamp:9999-01-01T00:00:00Z --until end"), "");
    let (code, said) = failure(&server.run("-o json consume a --format %v", ""));
    assert_eq!(code, Some(2), "{said}");
    assert_eq!(failure(&server.run("consume a --partition 1", "")).0, Some(2));
}

#[test]
fn behind_the_first_record_of_a_time_all_are_read_whatever_theirs() {
    let server = Server::start();
    server.output("topic create a", "");
    let mut client = Client::new(Options::new(&server.address));
    let producer = client.producer("a", ProducerOptions::default()).unwrap();
    for (value, time) in [("early", 10), ("first", 30), ("late", 20), ("last", 40)] {
        let record = NewRecord::value(value.as_bytes()).with_timestamp(Millis::new(time));
        producer.append(&record).unwrap().wait().unwrap();
    }
    assert_eq!(server.output("consume a --from timestamp:30", ""), "first\nlate\nlast\n");
}

#[test]
fn a_topic_with_more_partitions_than_a_connection_subscribes_to_is_read_to_its_end() {
    let server = Server::start_with(&["--set", "limits.subscriptions_per_connection=512"]);
    server.output("topic create a --partitions 1100", "");
    for partition in [0, 600, 1099] {
        server.output(&format!("produce a --partition {partition}"), format!("{partition}\n"));
    }
    let text = server.output("consume a", "");
    assert_eq!(text, "0\n600\n1099\n");
}

#[test]
fn following_goes_on_at_the_live_end_until_it_is_interrupted() {
    let server = Server::start();
    server.output("topic create a --partitions 2", "");
    server.output("produce a --partition 0", "before\n");
    for arguments in ["consume a --follow", "consume a --follow --partition 0"] {
        let mut consumer = server.command(arguments).spawn().unwrap();
        let mut lines = BufReader::new(consumer.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "before");
        server.output("produce a --partition 0", "after\n");
        assert_eq!(lines.next().unwrap().unwrap(), "after");
        kill_process(Pid::from_child(&consumer), Signal::INT).unwrap();
        assert!(lines.next().is_none());
        assert_eq!(consumer.wait().unwrap().code(), Some(0), "{arguments}");
        server.output("topic delete a", "");
        server.output("topic create a --partitions 2", "");
        server.output("produce a --partition 0", "before\n");
    }
}

/// What a command writes to its standard error when that is a terminal.
fn said_to_a_terminal(command: &mut Command) -> String {
    let master = pty::openpt(pty::OpenptFlags::RDWR | pty::OpenptFlags::NOCTTY).unwrap();
    pty::grantpt(&master).unwrap();
    pty::unlockpt(&master).unwrap();
    let name = pty::ptsname(&master, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let terminal = rustix::fs::open(name, flags, Mode::empty()).unwrap();
    let mut child = command.stdin(Stdio::null()).stderr(terminal).env("TERM", "xterm").spawn();
    // The command holds the terminal as well; a terminal that nobody holds is at its end.
    command.stderr(Stdio::null());
    let mut said = Vec::new();
    let mut master = File::from(master);
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = master.read(&mut piece) {
        said.extend_from_slice(&piece[..length]);
    }
    assert!(child.as_mut().unwrap().wait().unwrap().success());
    String::from_utf8_lossy(&said).into_owned()
}

#[test]
fn a_long_input_has_a_progress_bar_where_somebody_looks() {
    let server = Server::start();
    server.output("topic create a", "");
    let lines = server.file("lines", "line\n".repeat(40));
    // Forty lines at fifty a second take longer than what needs no bar.
    let arguments = format!("produce a --rate 50 {}", lines.display());
    let said = said_to_a_terminal(&mut server.command(&arguments));
    assert!(said.contains("lines"), "{said:?}");
    assert!(said.contains("40 records acknowledged"), "{said:?}");
    let said = said_to_a_terminal(&mut server.command(&format!("{arguments} --no-progress")));
    assert_eq!(said.trim(), "catena: 40 records acknowledged");
    let output = server.run(&arguments, "");
    assert_eq!(output.stderr, b"catena: 40 records acknowledged\n", "it is no terminal");
    assert_eq!(server.records("a").len(), 3 * 40);
}
