//! The tool against a real server: what it prints is complete, and what went wrong is told.

use std::{
    io::Read,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use catena_client::{Client, NewRecord, Options, ProducerOptions, format::JoinToken};
use serde_json::Value;

const TOOL: &str = env!("CARGO_BIN_EXE_catena-bench");

/// The server's binary, which lies beside the tool's. Tests of the whole workspace build both;
/// tests of this room alone build the tool only.
fn server_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let binary = Path::new(TOOL).with_file_name("catena");
        if !binary.exists() {
            let folder = binary.parent().and_then(Path::parent).expect("it lies in target/debug");
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "--quiet", "--package", "catena", "--target-dir"]).arg(folder);
            assert!(cargo.status().expect("cargo runs").success(), "the server can be built");
        }
        binary
    })
}

/// A server on a directory of its own; it ends with this value.
struct Server {
    child: Child,
    address: String,
    directory: tempfile::TempDir,
}

/// Addresses that nobody listens at.
fn free_addresses<const N: usize>() -> [String; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port is free"));
    listeners.map(|listener| listener.local_addr().unwrap().to_string())
}

impl Server {
    fn start() -> Self {
        let [address] = free_addresses();
        Self::start_with(address, &[])
    }

    fn start_with(address: String, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let child = Command::new(server_binary())
            .args(["serve", "--listen", &address, "--admin", "127.0.0.1:0", "--data-dir"])
            .arg(directory.path())
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        let server = Self { child, address, directory };
        let deadline = Instant::now() + Duration::from_secs(30);
        while server.topics().is_none() {
            assert!(Instant::now() < deadline, "the server does not answer");
            thread::sleep(Duration::from_millis(5));
        }
        server
    }

    fn client(&self) -> Client {
        Client::new(Options { server: self.address.clone(), ..Options::default() })
    }

    /// The names of its topics, once it answers.
    fn topics(&self) -> Option<Vec<String>> {
        let mut client = self.client();
        let topics = client.topics().ok()?;
        Some(topics.into_iter().map(|topic| topic.name.into_owned()).collect())
    }

    /// Records of its topics.
    fn records(&self) -> u64 {
        let mut client = self.client();
        let topics = client.topics().unwrap();
        let described = topics.iter().filter_map(|topic| client.describe_topic(&topic.name).ok());
        let partitions = described.flat_map(|topic| topic.partitions);
        partitions.map(|partition| partition.high_watermark.get()).sum()
    }

    /// Runs the tool; its one JSON object.
    fn measure(&self, arguments: &str) -> Value {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments}: {said}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{arguments}: {e}"))
    }

    fn run(&self, arguments: &str) -> Output {
        let mut tool = Command::new(TOOL);
        tool.args(["--server", &self.address, "--json"]).args(arguments.split_whitespace());
        tool.output().expect("the tool runs")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What every report of latencies has.
const FIGURES: [&str; 9] = [
    "p50_us",
    "p99_us",
    "p999_us",
    "p9999_us",
    "max_us",
    "count",
    "records_per_s",
    "bytes_per_s",
    "level",
];

#[track_caller]
fn is_complete(report: &Value) {
    for figure in FIGURES {
        assert!(report.get(figure).is_some_and(|f| !f.is_null()), "{figure} in {report:#}");
    }
    for figure in ["count", "records_per_s", "bytes_per_s", "p50_us", "max_us"] {
        assert!(report[figure].as_f64().unwrap() > 0.0, "{figure} in {report:#}");
    }
    assert_eq!(report["errors"], 0, "{report:#}");
}

#[test]
fn every_way_to_produce_tells_all_figures_and_leaves_no_topic() {
    let server = Server::start();
    let loads = [
        "--record-bytes 512 --producers 1 --durability chain-disk",
        "--record-bytes 100 --batch-bytes 8KiB --producers 3 --partitions 2 --in-flight 4",
        "--rate 500 --in-flight 16 --durability none --partitions 2",
        "--rate 400 --batch-bytes 4KiB --in-flight 4 --idempotent",
    ];
    for load in loads {
        let report = server.measure(&format!("produce --duration 300ms --warmup 50ms {load}"));
        is_complete(&report);
        assert_eq!(report["open_loop"], load.contains("--rate"), "{load}");
    }
    assert_eq!(server.topics(), Some(Vec::new()));
}

#[test]
fn chains_of_one_node_to_three_are_measured() {
    let [client, peer, second, its_peer, third, last_peer] = free_addresses();
    let mut nodes = vec![Server::start_with(client, &["--cores", "1", "--peer", &peer])];
    let token = JoinToken::new(7);
    nodes[0].client().allow_join(token, Duration::from_secs(600)).unwrap();
    let file = nodes[0].directory.path().join("token");
    std::fs::write(&file, format!("{:032x}", 7)).unwrap();
    let joins = ["--join", &peer, "--token-file", file.to_str().unwrap()];
    for (client, its_own) in [(second, its_peer), (third, last_peer)] {
        let arguments = [&["--cores", "1", "--peer", &its_own], &joins[..]].concat();
        nodes.push(Server::start_with(client, &arguments));
    }
    let report = nodes[1].measure("chain --runs 1 --duration 200ms --warmup 50ms");
    for members in 1..=3 {
        for figure in ["p50_us", "p99_us", "p999_us", "bytes_per_s"] {
            let figure = format!("chain_{members}_{figure}");
            assert!(report[&figure]["median"].as_f64().unwrap() > 0.0, "{figure}: {report:#}");
        }
        assert!(report[format!("relay_{members}_p50_us")]["median"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(nodes[0].topics(), Some(Vec::new()));
    let output = nodes[0].run("produce --partitions 6 --replicas 3 --duration 100ms");
    assert_eq!(output.status.code(), Some(2), "one producer has one connection");
}

#[test]
fn consumers_get_every_record_and_tell_when() {
    let server = Server::start();
    let loads = [
        "--rate 500 --in-flight 16",
        "--batch-bytes 4KiB --producers 2 --partitions 3 --in-flight 2 --idempotent",
    ];
    for load in loads {
        let report = server.measure(&format!("end-to-end --duration 300ms --warmup 50ms {load}"));
        is_complete(&report);
        assert_eq!(report["received"], report["acknowledged"], "{load}");
    }
    let output = server.run("end-to-end --record-bytes 7");
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(server.topics(), Some(Vec::new()));
}

#[test]
fn a_topic_is_read_from_its_beginning() {
    let server = Server::start();
    let report = server.measure("consume --fill 1MiB --partitions 2 --fetch-bytes 256KiB");
    is_complete(&report);
    assert!(report["records"].as_u64().unwrap() >= 2048, "{report:#}");
    assert_eq!(server.topics(), Some(Vec::new()));

    let mut client = server.client();
    client.create_topic("lines", 1, Vec::new()).unwrap();
    client.create_topic("catena-bench-1000000000-1-0", 1, Vec::new()).unwrap();
    server.measure("consume --fill 64KiB");
    assert_eq!(server.topics(), Some(vec!["lines".to_owned()]), "leftovers are dropped");
    let output = server.run("consume --topic lines");
    assert_eq!(output.status.code(), Some(1), "an empty topic has no throughput");
    let producer = client.producer("lines", ProducerOptions::default()).unwrap();
    for _ in 0..100 {
        drop(producer.append(&NewRecord::value(b"a line")).unwrap());
    }
    producer.close().unwrap();
    let report = server.measure("consume --topic lines");
    assert_eq!(report["records"], 100);
    assert_eq!(server.topics(), Some(vec!["lines".to_owned()]), "others' topics stay");
}

/// A directory with a program `fio` in it that prints `report`.
fn fio_that_prints(report: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let program = directory.path().join("fio");
    std::fs::write(&program, format!("#!/bin/sh\n/bin/echo '{report}'\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

#[test]
fn ratios_to_disk_and_round_trip_are_told() {
    let server = Server::start();
    let report = r#"{"jobs": [{"write": {"bw_bytes": 1000000, "clat_ns": {"percentile":
        {"50.000000": 100000, "99.000000": 200000}}}}]}"#;
    let directory = fio_that_prints(report);
    let mut tool = Command::new(TOOL);
    tool.env("PATH", directory.path()).args(["--server", &server.address, "--json", "produce"]);
    tool.args(["--duration", "200ms", "--warmup", "0s", "--fio", "--fio-bytes", "1MiB"]);
    tool.arg("--fio-dir").arg(directory.path());
    let output = tool.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    is_complete(&report);
    let figure = |name: &str| report[name].as_f64().unwrap_or_else(|| panic!("{name}: {report:#}"));
    let alone = figure("fio_p50_us") + figure("round_trip_p50_us");
    assert!((figure("p50_ratio") - figure("p50_us") / alone).abs() < 0.01, "{report:#}");
    let ratio = figure("bytes_per_s") / 1e6;
    assert!((figure("bandwidth_ratio") - ratio).abs() < 0.01, "{report:#}");
}

#[test]
fn the_suite_tells_every_run_and_that_fio_is_not_installed() {
    let server = Server::start();
    let nothing = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut tool = Command::new(TOOL);
    tool.env("PATH", nothing.path()).args(["--server", &server.address, "--json", "suite"]);
    tool.args(["--runs", "2", "--duration", "100ms", "--warmup", "0s"]);
    tool.arg("--fio-dir").arg(nothing.path());
    let output = tool.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["fio"], "not installed");
    for figure in ["p50_us", "p99_us", "round_trip_p50_us", "bulk_bytes_per_s"] {
        let spread = &report[figure];
        assert_eq!(spread["runs"].as_array().map(Vec::len), Some(2), "{figure} in {report:#}");
        assert!(spread["median"].as_f64().unwrap() > 0.0, "{figure} in {report:#}");
    }
    assert_eq!(server.topics(), Some(Vec::new()));
}

#[test]
fn sentences_tell_the_same_figures() {
    let server = Server::start();
    let mut tool = Command::new(TOOL);
    tool.args(["--server", &server.address, "produce", "--duration", "100ms", "--warmup", "0s"]);
    let output = tool.output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for figure in FIGURES {
        let name = figure.replace('_', " ");
        assert!(text.lines().any(|line| line.starts_with(&name)), "{name} in\n{text}");
    }
}

#[test]
fn a_server_that_is_not_there_is_told_by_the_exit_code() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let mut tool = Command::new(TOOL);
    let output = tool.args(["--server", &address, "produce"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stdout.is_empty());
}

#[test]
fn more_in_flight_than_the_server_grants_is_refused() {
    let server = Server::start();
    let output = server.run("produce --in-flight 60000");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("at most"));
}

#[test]
fn batches_that_a_stopped_server_never_answers_are_in_the_latencies() {
    let server = Server::start();
    let mut tool = Command::new(TOOL);
    tool.args(["--server", &server.address, "--json", "produce", "--rate", "200"])
        .args(["--in-flight", "4", "--duration", "10s", "--warmup", "0s", "--timeout", "1s"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut tool = tool.spawn().unwrap();
    // Once it has some records, the server stands still.
    let deadline = Instant::now() + Duration::from_secs(30);
    while server.records() == 0 {
        assert!(Instant::now() < deadline, "the tool sends nothing");
        thread::sleep(Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_child(&server.child);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let (mut json, mut said) = (String::new(), String::new());
    tool.stdout.take().unwrap().read_to_string(&mut json).unwrap();
    tool.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let code = tool.wait().unwrap().code();
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    let report: Value = serde_json::from_str(&json).unwrap_or_else(|e| panic!("{e}: {said}"));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("were not answered"), "{said}");
    assert!(report["unanswered"].as_u64().unwrap() > 0, "{report:#}");
    assert!(report["unsent"].as_u64().unwrap() > 0, "{report:#}");
    // What was due while the server stood still has its age as its latency.
    assert!(report["max_us"].as_f64().unwrap() >= 1e6, "{report:#}");
}
