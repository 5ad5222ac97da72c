//! The real binary: found, started, waited for, killed.

use std::{
    env, fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use catena_client::{Client, Options};

use crate::sim::random::Random;

/// How long anything is waited for: a server must not hang, but a machine may be busy or stopped.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// How soon to look again whether a server that does not answer yet is alive.
const SOON: Duration = Duration::from_millis(100);

/// Ports that the kernel gives to no connection by default, so that nobody takes ours while the
/// server is down, and no client of it talks to itself.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// The signal of [`Server::kill`].
const KILL: i32 = rustix::process::Signal::KILL.as_raw();

/// How a server is started.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The binary.
    pub binary: PathBuf,
    /// Where it listens.
    pub address: String,
    /// Where its data is.
    pub data: PathBuf,
    /// What it says goes there.
    pub log: PathBuf,
    /// More arguments.
    pub more: Vec<String>,
}

/// A running server; killed when it is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// Starts one.
    ///
    /// # Errors
    /// When the binary cannot be run.
    pub fn start(setup: &Setup) -> Result<Self> {
        let log = fs::OpenOptions::new().append(true).create(true).open(&setup.log)?;
        let child = Command::new(&setup.binary)
            .args(["serve", "--data-dir"])
            .arg(&setup.data)
            .args(["--listen", &setup.address, "--admin", "127.0.0.1:0"])
            .args(&setup.more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} does not start", setup.binary.display()))?;
        Ok(Self { child, address: setup.address.clone() })
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// When it ends instead, or does not.
    pub fn wait(&mut self) -> Result<Client> {
        let until = Instant::now() + PATIENCE;
        loop {
            let soon = Options::new(&self.address).with_request_timeout(SOON);
            match Client::new(soon).ping() {
                Ok(()) => return Ok(client(&self.address)),
                Err(error) if Instant::now() > until => bail!("the server hangs: {error}"),
                Err(_) => self.must_live()?,
            }
        }
    }

    /// # Errors
    /// When it has ended.
    pub fn must_live(&mut self) -> Result<()> {
        let ended = self.child.try_wait()?;
        ensure!(ended.is_none(), "the server died: {}", ended.expect("it ended"));
        Ok(())
    }

    /// A metric, over all cores, as it was last published.
    ///
    /// # Errors
    /// When it is not told.
    pub fn metric(&self, setup: &Setup, name: &str) -> Result<u64> {
        let log = fs::read_to_string(&setup.log)?;
        let (_, behind) = log.rsplit_once("(metrics on ").context("it does not say where")?;
        let (address, _) = behind.split_once(')').context("it does not say where")?;
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: crash\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let begin = format!("{name}{{");
        let values = answer.lines().filter_map(|line| line.strip_prefix(&begin)?.rsplit_once(' '));
        let values = values.map(|(_, value)| value.parse::<u64>());
        values.sum::<Result<u64, _>>().context(name.to_owned())
    }

    /// Kills it and waits until it is gone; its writes that are under way are not waited for.
    ///
    /// # Errors
    /// When it cannot be waited for, or a signal had ended it before.
    pub fn kill(&mut self) -> Result<()> {
        let ended = self.child.try_wait()?;
        let signal = ended.as_ref().and_then(ExitStatusExt::signal);
        ensure!(signal.is_none_or(|signal| signal == KILL), "the server died: {ended:?}");
        // It may have ended by itself.
        let _ = self.child.kill();
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// A client that asks as long as anything is waited for.
#[must_use]
pub fn client(address: &str) -> Client {
    Client::new(Options::new(address).with_request_timeout(PATIENCE))
}

/// An address that is free, and stays so.
///
/// # Errors
/// When there is none.
pub fn free_address() -> Result<String> {
    let clock = SystemTime::UNIX_EPOCH.elapsed()?.as_nanos() as u64;
    let mut random = Random::new(clock);
    for _ in 0..100 {
        let port = PORTS.start + random.below(PORTS.len() as u64) as u16;
        let address = format!("127.0.0.1:{port}");
        if TcpListener::bind(&address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port is free")
}

/// The server's binary beside this one, built by the same profile. One that is missing or older
/// than its sources is built first.
///
/// # Errors
/// When that fails.
pub fn binary() -> Result<PathBuf> {
    let own = env::current_exe()?;
    let beside = own.ancestors().find(|folder| folder.join("catena.d").is_file());
    let beside = beside.map(|folder| folder.join("catena"));
    if let Some(binary) = beside.filter(|binary| is_fresh(binary)) {
        return Ok(binary);
    }
    let folder = own.parent().context("a binary lies in a folder")?;
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("release") => "release",
        _ => "test",
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--package", "catena", "--profile", profile])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()?;
    ensure!(built.success(), "the server is not built");
    Ok(folder.join("catena"))
}

/// Whether a binary is as new as everything that cargo made it from, which stands in a file beside.
fn is_fresh(binary: &Path) -> bool {
    let modified = |file: &Path| fs::metadata(file).and_then(|file| file.modified()).ok();
    let Ok(sources) = fs::read_to_string(binary.with_extension("d")) else { return false };
    let Some((_, sources)) = sources.split_once(": ") else { return false };
    let Some(built) = modified(binary) else { return false };
    let mut sources = sources.split_whitespace().map(Path::new);
    sources.all(|source| modified(source).is_some_and(|modified| modified <= built))
}
