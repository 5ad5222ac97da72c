//! The real binary as a child process.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use catena_client::{Client, Options};

/// A server that ends with this value.
pub(crate) struct Server {
    child: Child,
    address: String,
    log: PathBuf,
}

impl Server {
    /// Starts a server.
    pub(crate) fn start(directory: &Path, address: &str) -> Self {
        let mut log = std::fs::OpenOptions::new();
        let log = log.append(true).create(true).open(directory.with_extension("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_catena"))
            .args(["serve", "--data-dir"])
            .arg(directory)
            .args(["--listen", address, "--admin", "127.0.0.1:0"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        Self { child, address: address.to_owned(), log: directory.with_extension("log") }
    }

    /// Waits until it answers.
    pub(crate) fn wait(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Client::new(options(&self.address)).topics().is_err() {
            let late = Instant::now() > deadline;
            assert!(!late, "the server does not answer:\n{}", self.log());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// What the servers of the directory said.
    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().expect("the server can be killed");
        self.child.wait().expect("the server is gone");
    }
}

/// How the tests reach a server.
pub(crate) fn options(address: &str) -> Options {
    Options::new(address).with_request_timeout(Duration::from_secs(10))
}

/// An address that nobody listens at.
pub(crate) fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it has an address").to_string()
}
