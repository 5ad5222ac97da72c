//! `catena doctor`: what a start would find, by the checks of the start itself.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::bail;
use catena_uring::{Findings, ProbeError, lock_holder, probe};
use rustix::process::{Resource, getrlimit};
use serde_json::json;

use crate::{
    cli::Output,
    config::{Config, PeerTls, Tls},
    identity::Identity,
    serve::{COPIES_ON_WRITE, descriptors_for_files, executor, raise_descriptor_limit},
    shell::bind_alone,
    tls,
};

/// Locked memory below which rings are small.
const MEMLOCK_GOOD_BYTES: u64 = 64 << 20;
/// The oldest kernel that the rings are used with.
const KERNEL_MIN: (u32, u32) = (5, 8);
/// Files that the usual ways to keep the clock right leave while they run.
const CLOCK_KEEPERS: [&str; 5] = [
    "/run/systemd/timesync/synchronized",
    "/run/chrony/chronyd.pid",
    "/run/chronyd.pid",
    "/run/ntpd.pid",
    "/var/run/ntpd.pid",
];

/// What a finding means for a start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Ok,
    Warn,
    Refused,
}

impl Verdict {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Refused => "refused",
        }
    }
}

/// Something that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    found: String,
    /// What to do about it; empty where nothing is to be done.
    remedy: &'static str,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, found: found.into(), remedy: "" }
    }

    fn warn(name: &'static str, found: impl Into<String>, remedy: &'static str) -> Self {
        Self { name, verdict: Verdict::Warn, found: found.into(), remedy }
    }

    fn refused(name: &'static str, found: impl Into<String>, remedy: &'static str) -> Self {
        Self { name, verdict: Verdict::Refused, found: found.into(), remedy }
    }
}

/// Looks at everything and tells it.
///
/// # Errors
/// When `serve` would refuse to start.
pub(crate) fn run(config: &Config, output: Output, out: &mut impl io::Write) -> anyhow::Result<()> {
    let checks = checks(config);
    for check in &checks {
        tell(check, output, out)?;
    }
    match checks.iter().filter(|check| check.verdict == Verdict::Refused).count() {
        0 => Ok(()),
        refused => bail!("`catena serve` would refuse to start: {refused} findings above"),
    }
}

fn tell(check: &Check, output: Output, out: &mut impl io::Write) -> io::Result<()> {
    let Check { name, verdict, found, remedy } = check;
    let word = verdict.word();
    if output == Output::Json {
        let remedy = Some(remedy).filter(|remedy| !remedy.is_empty());
        let json = json!({ "check": name, "status": word, "found": found, "remedy": remedy });
        return writeln!(out, "{json}");
    }
    writeln!(out, "{word:<8} {name:<15} {found}")?;
    if remedy.is_empty() { Ok(()) } else { writeln!(out, "{:24} {remedy}", "") }
}

fn checks(config: &Config) -> Vec<Check> {
    let mut checks = vec![kernel(), memlock(), descriptors(config), cores()];
    checks.extend(rings(config));
    checks.push(admin(config));
    checks.extend(config.tls.as_ref().map(certificates));
    let address = config.peer_address().unwrap_or_default();
    checks.extend(config.peer_tls.as_ref().map(|tls| peer_certificates(tls, &address)));
    let root = &config.storage.data_dir;
    checks.extend(directory(root));
    match probed(root) {
        Ok(findings) => checks.extend(storage(&findings, config)),
        Err(error) => checks.push(no_storage(&error)),
    }
    checks.push(clock());
    checks
}

fn kernel() -> Check {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let old = || Check::warn("kernel", format!("Linux {release}"), "Linux 5.8 or newer is needed");
    match version(release) {
        Some(version) if version >= KERNEL_MIN => Check::ok("kernel", format!("Linux {release}")),
        _ => old(),
    }
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn memlock() -> Check {
    let name = "locked memory";
    match getrlimit(Resource::Memlock).current {
        Some(bytes) if bytes < MEMLOCK_GOOD_BYTES => {
            let remedy = "raise `ulimit -l`, or LimitMEMLOCK of the unit, to 64 MiB for each core";
            Check::warn(name, format!("at most {} KiB", bytes >> 10), remedy)
        }
        Some(bytes) => Check::ok(name, format!("at most {} MiB", bytes >> 20)),
        None => Check::ok(name, "unlimited"),
    }
}

fn descriptors(config: &Config) -> Check {
    let name = "descriptors";
    let limit = match raise_descriptor_limit() {
        Ok(limit) => limit,
        Err(error) => return Check::refused(name, format!("{error:#}"), "allow setrlimit"),
    };
    let (files, wished) = (descriptors_for_files(limit), config.limits.descriptors);
    let found = format!("at most {limit}, {files} of them for segments");
    if (files as u64) < u64::from(wished) {
        let remedy = "raise `ulimit -Hn`, or LimitNOFILE of the unit, or lower limits.descriptors";
        return Check::warn(name, format!("{found}, {wished} are wished for"), remedy);
    }
    Check::ok(name, found)
}

fn cores() -> Check {
    match std::thread::available_parallelism() {
        Ok(cores) => Check::ok("cores", format!("{cores} can be used")),
        Err(error) => Check::warn("cores", error.to_string(), "find out why they are not told"),
    }
}

/// io_uring, and what needs it to be looked at.
fn rings(config: &Config) -> Vec<Check> {
    let executor = match executor(0, 1).make() {
        Ok(executor) => executor,
        Err(error) => {
            let remedy = "allow io_uring: container profiles and kernel.io_uring_disabled forbid \
                          it, `ulimit -l` below 512 KiB does, too";
            return vec![Check::refused("io_uring", format!("{error:#}"), remedy)];
        }
    };
    let (name, address) = ("client address", config.listen.client);
    let bound = match executor.run(async move { bind_alone(address).await.map(drop) }) {
        Ok(()) => Check::ok(name, format!("{address} is free")),
        Err(error) => {
            let remedy = "end what listens there, or choose another (listen.client)";
            Check::refused(name, format!("{address}: {error:#}"), remedy)
        }
    };
    vec![Check::ok("io_uring", "rings can be made"), bound]
}

/// Where metrics and health will be told.
fn admin(config: &Config) -> Check {
    let (name, address) = ("admin address", config.listen.admin.0);
    match std::net::TcpListener::bind(address) {
        Ok(_) => Check::ok(name, format!("{address} is free")),
        Err(error) => {
            let remedy = "end what listens there, or choose another (listen.admin)";
            Check::refused(name, format!("{address}: {error}"), remedy)
        }
    }
}

/// What TLS on the client listener needs.
fn certificates(config: &Tls) -> Check {
    match tls::load(config) {
        Ok(_) => Check::ok("TLS", format!("{} and its key are usable", config.cert.display())),
        Err(error) => {
            let remedy = "name files that the server's user can read, in PEM, that belong together";
            Check::refused("TLS", error.to_string(), remedy)
        }
    }
}

/// What TLS between nodes needs.
fn peer_certificates(config: &PeerTls, address: &str) -> Check {
    let name = "TLS of nodes";
    if let Err(error) = tls::load_peer(config) {
        let remedy = "name files that the server's user can read, in PEM, that belong together";
        return Check::refused(name, error.to_string(), remedy);
    }
    match tls::suits(config, address) {
        Ok(()) => Check::ok(name, format!("{} is good for {address}", config.cert.display())),
        Err(error) => {
            let remedy = "have it signed by an authority of `cluster.tls.ca`, as a server's and \
                          as a client's, for the host of `listen.peer_advertised`";
            Check::warn(name, error.to_string(), remedy)
        }
    }
}

/// Who holds the directory, and whose it is.
fn directory(root: &Path) -> [Check; 2] {
    let path = root.display();
    let held = match lock_holder(root) {
        Ok(None) => Check::ok("data directory", format!("{path} is used by nobody")),
        Ok(Some(process)) => {
            let found = format!("{path} is in use by process {process}");
            Check::refused("data directory", found, "one server at a time: it runs already")
        }
        Err(error) => {
            Check::refused("data directory", error.to_string(), "let the server's user read it")
        }
    };
    let identity = match Identity::read(root) {
        Ok(Some(identity)) => {
            let (cluster, node) = (identity.node.cluster.get(), identity.node.node);
            Check::ok("identity", format!("node {node} of cluster {cluster:032x}"))
        }
        Ok(None) => Check::ok("identity", "none yet: a start founds a cluster of one"),
        Err(error) => {
            let remedy = "name the right directory, or restore it from a copy";
            Check::refused("identity", error.to_string(), remedy)
        }
    };
    [held, identity]
}

/// Tries direct I/O where the data directory is or will be.
fn probed(root: &Path) -> Result<Findings, ProbeError> {
    if root.is_dir() {
        return probe(root);
    }
    let io = |source| ProbeError::Io { path: root.to_owned(), source };
    let absolute = std::path::absolute(root).map_err(io)?;
    let above = absolute.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let trial: PathBuf = above.join(format!(".catena-doctor-{}", std::process::id()));
    let found = probe(&trial);
    // A directory that could not be made is not there to be removed.
    let _ = fs::remove_dir(&trial);
    found
}

fn storage(findings: &Findings, config: &Config) -> [Check; 3] {
    let system = findings.file_system;
    let kind = if findings.copy_on_write {
        Check::warn("file system", format!("{system} {COPIES_ON_WRITE}"), "use ext4 or XFS")
    } else {
        Check::ok("file system", system)
    };
    [kind, Check::ok("direct I/O", "reads back what it writes"), space(findings, config)]
}

fn space(findings: &Findings, config: &Config) -> Check {
    let (free, reserve) = (findings.free_bytes, config.storage.disk_reserve.0);
    let found = format!("{} MiB free, {} MiB are kept in reserve", free >> 20, reserve >> 20);
    if free > reserve {
        return Check::ok("free space", found);
    }
    let remedy = "free space, or lower storage.disk_reserve: writes are refused until then";
    Check::warn("free space", found, remedy)
}

fn no_storage(error: &ProbeError) -> Check {
    let remedy = match error {
        ProbeError::NoDirectIo { .. } => "use ext4 or XFS on a local disk",
        ProbeError::Mismatch { .. } => "the disk or its driver is broken: use another",
        _ => "let the server's user write there",
    };
    Check::refused("direct I/O", error.to_string(), remedy)
}

fn clock() -> Check {
    match CLOCK_KEEPERS.iter().find(|path| Path::new(path).exists()) {
        Some(keeper) => Check::ok("clock", format!("kept right, by {keeper}")),
        None => {
            let remedy = "run systemd-timesyncd or chrony, unless the host keeps it: timestamps \
                          and retention go by the clock";
            Check::warn("clock", "nothing is known to keep it right", remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Flag, Sources},
        tls::{certificates::Authority, tests::peer_files},
    };

    fn config(root: &Path, more: &[(&str, &str)]) -> Config {
        let root = root.display().to_string();
        let own = [
            ("storage.data_dir", root.as_str()),
            ("listen.client", "127.0.0.1:0"),
            ("listen.admin", "127.0.0.1:0"),
        ];
        let flag = |(key, value): &(&str, &str)| Flag {
            flag: "--set".into(),
            key: (*key).into(),
            value: (*value).into(),
        };
        let flags = own.iter().chain(more).map(flag).collect();
        Config::load(&Sources { flags, ..Sources::default() }).unwrap().0
    }

    fn verdict(checks: &[Check], name: &str) -> Verdict {
        let found = checks.iter().find(|check| check.name == name);
        found.unwrap_or_else(|| panic!("no {name} in {checks:?}")).verdict
    }

    #[test]
    fn an_absent_directory_is_looked_at_and_not_made() {
        let above = tempfile::tempdir().unwrap();
        let root = above.path().join("data").join("catena");
        let found = checks(&config(&root, &[]));
        assert_eq!(verdict(&found, "data directory"), Verdict::Ok);
        assert_eq!(verdict(&found, "identity"), Verdict::Ok);
        assert_eq!(fs::read_dir(above.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn what_serve_refuses_is_refused() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("p")).unwrap();
        let lock = catena_uring::lock_directory(root.path()).unwrap();
        let found = checks(&config(root.path(), &[]));
        assert_eq!(verdict(&found, "data directory"), Verdict::Refused);
        assert_eq!(verdict(&found, "identity"), Verdict::Refused);
        drop(lock);
        let mut told = Vec::new();
        let ran = run(&config(root.path(), &[]), Output::Json, &mut told);
        assert!(ran.unwrap_err().to_string().contains("would refuse"));
        let told = String::from_utf8(told).unwrap();
        let lines = told.lines().map(serde_json::from_str::<serde_json::Value>);
        let lines: Vec<_> = lines.map(Result::unwrap).collect();
        let status =
            |name: &str| lines.iter().find(|l| l["check"] == name).unwrap()["status"].clone();
        assert_eq!((status("data directory"), status("identity")), ("ok".into(), "refused".into()));
    }

    #[test]
    fn an_admin_address_in_use_and_a_certificate_that_is_none_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener.local_addr().unwrap().to_string();
        let absent = root.path().join("absent.pem").display().to_string();
        let settings = [
            ("listen.admin", taken.as_str()),
            ("tls.cert", absent.as_str()),
            ("tls.key", absent.as_str()),
            ("listen.peer", "127.0.0.1:1"),
            ("cluster.tls.cert", absent.as_str()),
            ("cluster.tls.key", absent.as_str()),
            ("cluster.tls.ca", absent.as_str()),
        ];
        let found = checks(&config(root.path(), &settings));
        assert_eq!(verdict(&found, "admin address"), Verdict::Refused);
        assert_eq!(verdict(&found, "TLS"), Verdict::Refused);
        assert_eq!(verdict(&found, "TLS of nodes"), Verdict::Refused);
        let found = checks(&config(root.path(), &[]));
        assert_eq!(verdict(&found, "admin address"), Verdict::Ok);
        assert!(found.iter().all(|check| !check.name.starts_with("TLS")));
    }

    #[test]
    fn a_certificate_that_other_nodes_refuse_is_told() {
        let (root, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let tls = |host| peer_files(root.path(), &authority.node(host), &authority);
        let found = peer_certificates(&tls("10.0.0.1"), "10.0.0.1:9202");
        assert_eq!(found.verdict, Verdict::Ok, "{found:?}");
        let found = peer_certificates(&tls("10.0.0.2"), "10.0.0.1:9202");
        assert_eq!(found.verdict, Verdict::Warn, "{found:?}");
        assert!(found.found.contains("10.0.0.1"), "{found:?}");
    }

    #[test]
    fn a_reserve_that_is_not_free_is_told() {
        let root = tempfile::tempdir().unwrap();
        let findings = Findings { file_system: "ext4", copy_on_write: true, free_bytes: 1 << 20 };
        let found = storage(&findings, &config(root.path(), &[("storage.disk_reserve", "1GiB")]));
        assert_eq!(verdict(&found, "free space"), Verdict::Warn);
        assert_eq!(verdict(&found, "file system"), Verdict::Warn);
        let found = storage(&findings, &config(root.path(), &[("storage.disk_reserve", "0")]));
        assert_eq!(verdict(&found, "free space"), Verdict::Ok);
    }

    #[test]
    fn kernel_versions_are_read() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("5.8-rc1"), Some((5, 8)));
        assert_eq!(version(""), None);
        assert!(version("5.15.3").unwrap() >= KERNEL_MIN && version("5.4.0").unwrap() < KERNEL_MIN);
    }
}
