//! A server as the tests of the real binary start it, and a connection without a client library.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use catena_format::{
    Millis, PartitionIndex, TopicId,
    records::{BatchBuilder, Producer},
};
use catena_wire::{
    Api, Durability, ErrorCode, FRAME_HEADER_BYTES, FrameHeader, FrameLimits, HandshakeRequest,
    HandshakeResponse, Message, Preface, ProduceRequest, encode_message,
};
use tempfile::TempDir;

/// How long anything is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running `catena serve`; killed when it is dropped.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) address: String,
    log: PathBuf,
}

impl Server {
    /// Starts a server within `directory`; what it says goes to a file beside its data.
    pub(crate) fn start<A: AsRef<OsStr>>(directory: &Path, address: &str, more: &[A]) -> Self {
        Self::start_in(directory, address, more, &[])
    }

    /// The same, with more in its environment.
    pub(crate) fn start_in<A: AsRef<OsStr>>(
        directory: &Path,
        address: &str,
        more: &[A],
        environment: &[(&str, &Path)],
    ) -> Self {
        let binary = Command::new(env!("CARGO_BIN_EXE_catena"));
        Self::start_by(binary, directory, address, more, environment)
    }

    /// The same, by a command that takes the binary's arguments.
    pub(crate) fn start_by<A: AsRef<OsStr>>(
        mut command: Command,
        directory: &Path,
        address: &str,
        more: &[A],
        environment: &[(&str, &Path)],
    ) -> Self {
        std::fs::create_dir_all(directory).unwrap();
        let log = directory.join("log");
        let mut file = std::fs::OpenOptions::new();
        let file = file.append(true).create(true).open(&log).unwrap();
        let child = command
            .args(["serve", "--data-dir"])
            .arg(directory.join("data"))
            .args(["--listen", address, "--admin", "127.0.0.1:0"])
            .args(more)
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("the binary starts");
        Self { child, address: address.to_owned(), log }
    }

    /// What the servers of the directory said.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the servers of the directory have said something `times` times.
    pub(crate) fn wait_for(&self, text: &str, times: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.log().matches(text).count() < times {
            assert!(Instant::now() < deadline, "`{text}` was not said:\n{}", self.log());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// What the admin address answers, head and all.
    pub(crate) fn get(&self, path: &str) -> String {
        let log = self.log();
        let (_, behind) = log.rsplit_once("(metrics on ").expect("it says where");
        let mut stream = TcpStream::connect(behind.split_once(')').unwrap().0).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// A metric of each core, as it was last published.
    pub(crate) fn metric(&self, name: &str) -> Vec<u64> {
        let (text, begin) = (self.get("/metrics"), format!("{name}{{core=\""));
        let lines = text.lines().filter_map(|line| line.strip_prefix(&begin));
        let cores: BTreeMap<u16, u64> = lines
            .map(|line| {
                let (core, value) = line.split_once("\"} ").unwrap();
                (core.parse().unwrap(), value.parse().unwrap())
            })
            .collect();
        cores.into_values().collect()
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().expect("the server is gone");
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.expect("there is a kill").success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("the server said:\n{}", self.log());
        }
    }
}

/// A server that has begun, in a directory of its own.
pub(crate) fn server(more: &[&str]) -> (TempDir, Server) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let server = Server::start(directory.path(), &free_address(), more);
    server.wait_for("ready on", 1);
    (directory, server)
}

/// A batch of one record, with a value of so many bytes.
pub(crate) fn batch(bytes: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    builder.push(Millis::new(1), None, Some(&vec![7; bytes]), &[]);
    builder.build(Producer::NONE).unwrap()
}

/// A request to store a batch for good, without a condition.
pub(crate) fn produce_request(topic: TopicId, partition: u32) -> ProduceRequest {
    ProduceRequest {
        topic,
        partition: PartitionIndex::new(partition),
        durability: Durability::ChainDisk,
        deadline_ms: 0,
        expect_next_offset: None,
    }
}

/// Reports that the running test does nothing, as the tests of the other rooms do.
pub(crate) fn skipped(reason: &str) {
    let current = thread::current();
    let line = format!("{}: {reason}\n", current.name().unwrap_or("a test"));
    eprint!("skipped {line}");
    let Some(path) = std::env::var_os("CATENA_SKIPS") else { return };
    let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).unwrap();
}

/// Waits until something is so.
pub(crate) fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "it never is so that {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// An address that nobody listens on, told once: below the ports that the system gives to whoever
/// asks for any, so that it stays free until a server is started there, and again after that.
pub(crate) fn free_address() -> String {
    const FIRST: u32 = 10_000;
    const PORTS: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        // Processes that run side by side begin in different places.
        let number = NEXT.fetch_add(1, Ordering::Relaxed) + std::process::id() * 97;
        let address = format!("127.0.0.1:{}", FIRST + number % PORTS);
        if TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}

/// Connects and asks for a core.
pub(crate) fn connect(address: &str, core: Option<u16>) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&Preface { core }.encode()).unwrap();
    stream
}

/// Sends a request and gives the answer's header and head.
pub(crate) fn ask<'r, R: Message<'r>>(
    stream: &mut (impl Read + Write),
    api: Api,
    request: &R,
) -> std::io::Result<(FrameHeader, Vec<u8>)> {
    ask_with(stream, api, request, &[])
}

/// The same, with a payload.
pub(crate) fn ask_with<'r, R: Message<'r>>(
    stream: &mut (impl Read + Write),
    api: Api,
    request: &R,
    payload: &[u8],
) -> std::io::Result<(FrameHeader, Vec<u8>)> {
    let mut bytes = Vec::new();
    encode_message(api, 7, request, payload.len(), &mut bytes).unwrap();
    bytes.extend_from_slice(payload);
    stream.write_all(&bytes)?;
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header)?;
    let header = FrameHeader::parse(&header, FrameLimits::RESPONSE).unwrap();
    let mut head = vec![0; header.head_bytes as usize];
    stream.read_exact(&mut head)?;
    Ok((header, head))
}

/// Shakes hands; the core that serves the connection.
pub(crate) fn greet(stream: &mut (impl Read + Write)) -> std::io::Result<u16> {
    let request = HandshakeRequest {
        client: "test".into(),
        client_version: "0".into(),
        apis: Vec::new(),
        features: 0,
        mechanism: "".into(),
        authentication: Vec::new().into(),
    };
    let (header, head) = ask(stream, Api::Handshake, &request)?;
    if header.is_refusal() {
        return Err(std::io::Error::other("refused"));
    }
    let response = HandshakeResponse::decode(&head).unwrap();
    match response.error {
        ErrorCode::None => Ok(response.core),
        error => Err(std::io::Error::other(error.to_string())),
    }
}
