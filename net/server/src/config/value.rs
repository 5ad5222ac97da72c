//! The types of settings: how each is written, read and bounded.

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf, time::Duration};

use tracing_subscriber::EnvFilter;

/// What a setting can be.
pub(crate) trait Value: Sized + PartialOrd {
    /// What the setting takes, for the reference and for errors.
    const KIND: &'static str;

    /// Reads it; an error says what is wrong, or nothing when the kind says all.
    fn parse(text: &str) -> Result<Self, String>;

    /// Writes it so that it reads back.
    fn print(&self) -> String;

    /// Whether it lies between two others, both allowed.
    fn within(&self, min: &Self, max: &Self) -> bool {
        min <= self && self <= max
    }
}

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Bytes(pub(crate) u64);

/// A number of milliseconds, spelled as in the settings of topics.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Milliseconds(pub(crate) u64);

/// A node's name: what people call it; it identifies nothing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Debug)]
pub(crate) struct NodeName(pub(crate) String);

/// How many cores serve partitions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
pub(crate) enum Cores {
    /// As many as the process may use.
    Auto,
    /// So many.
    Count(NonZeroU32),
}

/// Host and port as clients will write them; the host may be a name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Debug)]
pub(crate) struct HostPort(pub(crate) String);

/// An address of this machine that no other machine reaches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
pub(crate) struct LoopbackAddr(pub(crate) SocketAddr);

/// What is logged: a level, or levels by target.
#[derive(Clone, PartialEq, Eq, PartialOrd, Debug)]
pub(crate) struct LogLevel(String);

/// How a log line is written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
pub(crate) enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// Where log lines go.
#[derive(Clone, PartialEq, Eq, PartialOrd, Debug)]
pub(crate) enum LogOutput {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file that is appended to.
    File(PathBuf),
}

impl Cores {
    /// The count, with `auto` resolved to what the process may use.
    pub(crate) fn count(self) -> NonZeroU32 {
        let Self::Count(count) = self else {
            let usable = std::thread::available_parallelism().map_or(1, usize::from);
            let usable = u32::try_from(usable).unwrap_or(u32::MAX);
            return NonZeroU32::new(usable).unwrap_or(NonZeroU32::MIN);
        };
        count
    }
}

impl LogLevel {
    /// The filter that it stands for.
    pub(crate) fn filter(&self) -> EnvFilter {
        // What the consensus library has to say about itself is for who asks for it.
        EnvFilter::builder().parse_lossy(format!("openraft=warn,{}", self.0))
    }
}

impl Value for Bytes {
    const KIND: &'static str = "a size such as `64MiB`";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map(|size: bytesize::ByteSize| Self(size.as_u64()))
    }

    fn print(&self) -> String {
        let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        let unit = units.iter().find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit));
        unit.map_or(self.0.to_string(), |(name, unit)| format!("{}{name}", self.0 / unit))
    }
}

impl Value for Milliseconds {
    const KIND: &'static str = "milliseconds, or a duration such as `7d`";

    fn parse(text: &str) -> Result<Self, String> {
        if let Ok(millis) = text.parse() {
            return Ok(Self(millis));
        }
        let duration = humantime::parse_duration(text).map_err(|e| e.to_string())?;
        u64::try_from(duration.as_millis()).map(Self).map_err(|_| "too long".to_owned())
    }

    fn print(&self) -> String {
        self.0.to_string()
    }
}

impl Value for Duration {
    const KIND: &'static str = "a duration such as `10s`";

    fn parse(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text).map_err(|error| error.to_string())
    }

    fn print(&self) -> String {
        humantime::format_duration(*self).to_string().replace(' ', "")
    }
}

impl Value for bool {
    const KIND: &'static str = "`true` or `false`";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| String::new())
    }

    fn print(&self) -> String {
        self.to_string()
    }
}

impl Value for u32 {
    const KIND: &'static str = "a whole number";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| String::new())
    }

    fn print(&self) -> String {
        self.to_string()
    }
}

impl Value for NodeName {
    const KIND: &'static str = "a name of 1 to 64 letters, digits, `.`, `_` or `-`";

    fn parse(text: &str) -> Result<Self, String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let fine = (1..=64).contains(&text.len()) && text.chars().all(allowed);
        fine.then(|| Self(text.to_owned())).ok_or_default()
    }

    fn print(&self) -> String {
        self.0.clone()
    }
}

impl Value for Cores {
    const KIND: &'static str = "a whole number above zero, or `auto`";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            count => count.parse().map(Self::Count).map_err(|_| String::new()),
        }
    }

    fn print(&self) -> String {
        match self {
            Self::Auto => "auto".to_owned(),
            Self::Count(count) => count.to_string(),
        }
    }

    fn within(&self, min: &Self, max: &Self) -> bool {
        *self == Self::Auto || (min <= self && self <= max)
    }
}

impl Value for SocketAddr {
    const KIND: &'static str = "an IP address with a port such as `127.0.0.1:9200`";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| String::new())
    }

    fn print(&self) -> String {
        self.to_string()
    }
}

impl Value for LoopbackAddr {
    const KIND: &'static str = "a loopback address with a port such as `127.0.0.1:9201`";

    fn parse(text: &str) -> Result<Self, String> {
        let address = <SocketAddr as Value>::parse(text)?;
        let reachable = "it has no authentication and must not be reached from elsewhere";
        if address.ip().is_loopback() { Ok(Self(address)) } else { Err(reachable.to_owned()) }
    }

    fn print(&self) -> String {
        self.0.to_string()
    }
}

impl Value for HostPort {
    const KIND: &'static str = "a host with a port such as `log-1.example.com:9200`";

    fn parse(text: &str) -> Result<Self, String> {
        let (host, port) = text.rsplit_once(':').ok_or_default()?;
        let named = !host.is_empty() && !host.contains(char::is_whitespace);
        let port = port.parse::<u16>().is_ok_and(|port| port != 0);
        (named && port).then(|| Self(text.to_owned())).ok_or_default()
    }

    fn print(&self) -> String {
        self.0.clone()
    }
}

impl Value for LogLevel {
    const KIND: &'static str = "`error`, `warn`, `info`, `debug`, `trace`, or such by target";

    fn parse(text: &str) -> Result<Self, String> {
        // The filter takes any word for a target, so that a misspelled level would log nothing.
        let levels = ["off", "error", "warn", "info", "debug", "trace"];
        let known = |level: &str| levels.contains(&level.to_ascii_lowercase().as_str());
        let directives = || text.split(',').map(|part| part.rsplit('=').next().unwrap_or(part));
        if let Some(odd) = directives().find(|level| !known(level.trim())) {
            return Err(format!("`{odd}` is no level"));
        }
        EnvFilter::builder().parse(text).map_err(|error| error.to_string())?;
        Ok(Self(text.to_owned()))
    }

    fn print(&self) -> String {
        self.0.clone()
    }
}

impl Value for LogFormat {
    const KIND: &'static str = "`pretty` or `json`";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "pretty" => Ok(Self::Pretty),
            "json" => Ok(Self::Json),
            _ => Err(String::new()),
        }
    }

    fn print(&self) -> String {
        match self {
            Self::Pretty => "pretty".to_owned(),
            Self::Json => "json".to_owned(),
        }
    }
}

impl Value for LogOutput {
    const KIND: &'static str = "`stdout`, `stderr`, or the path of a file";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "stdout" => Ok(Self::Stdout),
            "stderr" => Ok(Self::Stderr),
            path => PathBuf::parse(path).map(Self::File),
        }
    }

    fn print(&self) -> String {
        match self {
            Self::Stdout => "stdout".to_owned(),
            Self::Stderr => "stderr".to_owned(),
            Self::File(path) => path.print(),
        }
    }
}

impl Value for PathBuf {
    const KIND: &'static str = "a path";

    fn parse(text: &str) -> Result<Self, String> {
        (!text.is_empty()).then(|| Self::from(text)).ok_or_default()
    }

    fn print(&self) -> String {
        self.display().to_string()
    }
}

/// What may be left out: `none`, or −1 as the settings of topics have it.
impl<T: Value> Value for Option<T> {
    const KIND: &'static str = T::KIND;

    fn parse(text: &str) -> Result<Self, String> {
        if text == "none" || text == "-1" { Ok(None) } else { T::parse(text).map(Some) }
    }

    fn print(&self) -> String {
        self.as_ref().map_or("none".to_owned(), Value::print)
    }

    fn within(&self, min: &Self, max: &Self) -> bool {
        self.is_none() || (min <= self && self <= max)
    }
}

/// An error without a reason of its own: the kind says all.
trait OrDefault<T> {
    fn ok_or_default(self) -> Result<T, String>;
}

impl<T> OrDefault<T> for Option<T> {
    fn ok_or_default(self) -> Result<T, String> {
        self.ok_or_else(String::new)
    }
}
