//! The real server as a process of its own, for harnesses that try it out: started, asked, measured
//! and ended; what numbered records are made of; and a partition read back through the client.

use std::{
    collections::BTreeMap,
    env, fmt,
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    ops::Range,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use catena_client::{Client, Error, ErrorCode, FetchOptions, OffsetQuery, Options};
use catena_format::{Offset, PartitionIndex, TopicId};

use crate::{crash, sim::random::Random};

/// How long anything is waited for that must come.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The server's binary: `named`, or the one beside the running program, built first if need be.
///
/// # Errors
/// When that fails.
pub fn binary(named: Option<PathBuf>) -> Result<PathBuf, String> {
    named.map_or_else(|| crash::server::binary().map_err(|error| format!("{error:#}")), Ok)
}

/// A directory for the files of a harness, beside the running program.
///
/// # Errors
/// When it cannot be made.
pub fn scratch(name: &str) -> Result<PathBuf, String> {
    let own = env::current_exe().map_err(|error| error.to_string())?;
    let folder = own.with_file_name("scratch").join(name);
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

/// A server that ended before it was ready, or never was.
#[derive(Debug)]
pub struct Ended {
    /// How; `None`: it was killed because it did not get ready in time.
    pub status: Option<ExitStatus>,
    /// What it said.
    pub log: String,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server did not get ready ({:?}):\n{}", self.status, self.log)
    }
}

/// A running `catena serve`; killed when it is dropped.
pub struct Server {
    child: Child,
    log: PathBuf,
    address: String,
    admin: String,
}

impl Server {
    /// Starts a server on `directory/data`, listening on `address`, and waits until it is ready.
    /// What it says goes to `directory/log`, from the file's beginning on.
    ///
    /// # Errors
    /// When it ends, or does not get ready within [`PATIENCE`].
    pub fn start(
        binary: &Path,
        directory: &Path,
        address: &str,
        more: &[&str],
    ) -> Result<Self, Ended> {
        Self::start_by(Command::new(binary), directory, address, more)
    }

    /// The same, by a command that takes the binary's arguments.
    ///
    /// # Errors
    /// See [`Server::start`].
    pub fn start_by(
        mut command: Command,
        directory: &Path,
        address: &str,
        more: &[&str],
    ) -> Result<Self, Ended> {
        let said = |error: &dyn fmt::Display| Ended { status: None, log: error.to_string() };
        let log = directory.join("log");
        let file = File::create(&log).map_err(|error| said(&error))?;
        let child = command
            .args(["serve", "--data-dir"])
            .arg(directory.join("data"))
            .args(["--listen", address, "--admin", "127.0.0.1:0"])
            .args(more)
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .map_err(|error| said(&error))?;
        let mut server = Self { child, log, address: String::new(), admin: String::new() };
        let deadline = Instant::now() + PATIENCE;
        loop {
            // First whether it ended, then what it said: nothing is said after the end.
            let ended = server.child.try_wait().map_err(|error| said(&error))?;
            let log = server.log();
            if let Some((address, admin)) = addresses(&log) {
                (server.address, server.admin) = (address, admin);
                return Ok(server);
            }
            if ended.is_some() || Instant::now() > deadline {
                return Err(Ended { status: ended, log });
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Where it listens for clients.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it said so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// A client whose requests may take [`PATIENCE`].
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(Options::new(&self.address).with_request_timeout(PATIENCE))
    }

    /// What the admin address answers, head and all.
    ///
    /// # Errors
    /// When nobody answers there.
    pub fn get(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(&self.admin)?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// A metric as it was last published, the sum over the cores; `None`: it is not told.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<u64> {
        let (text, begin) = (self.get("/metrics").ok()?, format!("{name}{{core=\""));
        let lines = text.lines().filter_map(|line| line.strip_prefix(&begin));
        lines.map(|line| line.split_once("\"} ")?.1.parse::<u64>().ok()).sum()
    }

    /// Whether its process has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|ended| ended.is_some())
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    /// When it does not end well.
    pub fn stop(&mut self) -> Result<(), String> {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args(["-s", "TERM", &pid]).status();
        if !sent.is_ok_and(|sent| sent.success()) {
            return Err("the server cannot be asked to end".to_owned());
        }
        let status = self.child.wait().map_err(|error| error.to_string())?;
        if status.success() { Ok(()) } else { Err(format!("it ended badly: {status}")) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The addresses for clients and metrics that the log tells.
fn addresses(log: &str) -> Option<(String, String)> {
    let (_, behind) = log.split_once(" is ready on ")?;
    let (address, behind) = behind.split_once(" in ")?;
    let (admin, _) = behind.split_once("(metrics on ")?.1.split_once(')')?;
    Some((address.to_owned(), admin.to_owned()))
}

/// What record `number` of a run holds: its number, and up to `bytes_max` bytes that nothing
/// compresses.
#[must_use]
pub fn value(seed: u64, number: u64, bytes_max: u64) -> Vec<u8> {
    let mut random = Random::new(seed).numbered_stream("value", number);
    let mut bytes = vec![0; random.below(bytes_max + 1) as usize];
    random.fill(&mut bytes);
    let mut value = format!("{number} ").into_bytes();
    value.append(&mut bytes);
    value
}

/// What a partition answered, from its log start to its high watermark.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReadBack {
    /// The values by offset.
    pub records: BTreeMap<u64, Vec<u8>>,
    /// What it said is damaged, as it said it.
    pub damaged: Vec<Range<u64>>,
    /// What was passed over without a word.
    pub silent: Vec<Range<u64>>,
    /// The log start.
    pub start: u64,
    /// The high watermark.
    pub end: u64,
}

/// Reads a partition through, going on behind what is damaged.
///
/// # Errors
/// Whatever else it answers; or that an answer leads nowhere.
pub fn read_back(
    client: &mut Client,
    topic: TopicId,
    partition: u32,
    max_bytes: u32,
) -> Result<ReadBack, Error> {
    let partition = PartitionIndex::new(partition);
    let ask = |client: &mut Client, query| client.offset(topic, partition, query);
    let end = ask(client, OffsetQuery::Latest)?.unwrap_or_default();
    let mut at = ask(client, OffsetQuery::Earliest)?.unwrap_or_default();
    let mut read = ReadBack { start: at.get(), end: end.get(), ..ReadBack::default() };
    let options = FetchOptions { max_bytes, max_wait: Duration::ZERO };
    while at < end {
        let next = match client.fetch(topic, partition, at, options) {
            Ok(fetched) => {
                let mut expected = at;
                fetched.each_record::<Error>(at, |offset, record| {
                    read.pass_over(expected, offset);
                    expected = Offset::new(offset.get() + 1);
                    let value = record.value.unwrap_or_default().to_vec();
                    if read.records.insert(offset.get(), value).is_some() {
                        return Err(Error::Protocol(format!("offset {offset} came twice")));
                    }
                    Ok(())
                })?;
                read.pass_over(expected, fetched.next_offset);
                fetched.next_offset
            }
            Err(Error::Unreadable { code: ErrorCode::Damaged, next, .. }) => {
                read.damaged.push(at.get()..next.get());
                next
            }
            Err(error) => return Err(error),
        };
        if next <= at {
            return Err(Error::Protocol(format!("reading stands still at {at}")));
        }
        at = next;
    }
    Ok(read)
}

impl ReadBack {
    fn pass_over(&mut self, from: Offset, to: Offset) {
        if from < to {
            self.silent.push(from.get()..to.get());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_tells_the_addresses() {
        let line = "n is ready on 127.0.0.1:1 in 24 ms (metrics on 127.0.0.1:2): cluster";
        assert_eq!(addresses(line), Some(("127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned())));
        assert_eq!(addresses("is ready on"), None);
    }

    #[test]
    fn values_depend_on_seed_and_number_only() {
        assert_eq!(value(1, 7, 100), value(1, 7, 100));
        assert_ne!(value(1, 7, 100), value(2, 7, 100));
        assert!(value(1, 7, 0) == b"7 ");
    }
}
