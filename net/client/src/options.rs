//! How clients, producers and consumers behave.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

use catena_format::{Millis, Offset, PartitionIndex, limits::BATCH_BYTES_MAX};
use catena_wire::{Durability, ErrorCode, OffsetQuery, Setting, TopicMetadata};

use crate::{
    compression::{Compression, DECOMPRESSED_BYTES_MAX},
    core::{link::Hello, secure::Trust},
    error::Error,
    tls::TlsOptions,
    url::server,
};

/// No time is longer: it could not be added to the time of day.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// How often producers and consumers ask whether there are more partitions.
const REFRESH: Duration = Duration::from_secs(60);

/// How a client behaves: from a connection string, see [`Options::from_str`], or step by step.
///
/// ```
/// # use std::time::Duration;
/// # use catena_client::Options;
/// let options = Options::new("one:9200,two:9200")
///     .with_client_id("billing")
///     .with_request_timeout(Duration::from_secs(5));
/// assert_eq!(options, "catena://one,two?client_id=billing&timeout=5s".parse()?);
/// # Ok::<(), catena_client::Error>(())
/// ```
///
/// [`Options::from_str`]: std::str::FromStr::from_str
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Where the servers are: `host:port`, several separated by commas. They are asked in turn, and
    /// tell of the other nodes of their cluster. The port is 9200 when left out.
    pub server: String,
    /// What the client calls itself, at most 65,535 bytes.
    pub client_id: String,
    /// How long a request may take, and one that changes nothing may be tried again.
    pub request_timeout: Duration,
    /// TLS, with whom and as whom; `None`: plaintext.
    pub tls: Option<TlsOptions>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            server: "127.0.0.1:9200".to_owned(),
            client_id: "catena-rust".to_owned(),
            request_timeout: Duration::from_secs(10),
            tls: None,
        }
    }
}

/// How a producer behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProducerOptions {
    /// A batch that has this many bytes, uncompressed, is sent. It may become one record larger.
    pub batch_bytes: usize,
    /// How long a batch waits for company. Zero: it is sent as soon as the connection and
    /// `in_flight` allow; what is appended meanwhile goes out together as the next.
    pub linger: Duration,
    /// The most batches in flight, all partitions together.
    pub in_flight: usize,
    /// The most bytes appended and not settled; above it an append waits. One record is taken
    /// however large.
    pub buffer_bytes: usize,
    /// When the server answers.
    pub durability: Durability,
    /// How batches are compressed; one that would not get smaller is sent as it is.
    pub compression: Compression,
    /// How long a batch is retried before it is given up as [`Error::Undelivered`].
    pub delivery_timeout: Duration,
    /// How long until the server is asked again whether the topic has got more partitions; each
    /// time up to half of it less, at random. 50 ms at least. An append to a partition that is not
    /// known is refused, and the server asked at once.
    pub refresh: Duration,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            batch_bytes: 64 << 10,
            linger: Duration::ZERO,
            in_flight: 32,
            buffer_bytes: 32 << 20,
            durability: Durability::ChainDisk,
            compression: Compression::None,
            delivery_timeout: Duration::from_secs(120),
            refresh: REFRESH,
        }
    }
}

/// What a fetch asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchOptions {
    /// Bytes of batches at most, but at least one batch.
    pub max_bytes: u32,
    /// How long to wait when there is nothing yet.
    pub max_wait: Duration,
}

/// How a topic changes; what is left out stays as it is. All of it is done, or nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TopicChange<'a> {
    /// Settings to make.
    pub set: Vec<Setting<'a>>,
    /// Keys of settings to take back.
    pub remove: Vec<String>,
    /// How many partitions from now on: at least as many as there are. Records with a key may go to
    /// another partition then than those of the same key before, from when their producer notices:
    /// see [`ProducerOptions::refresh`].
    pub partitions: Option<u32>,
    /// Its name from now on.
    pub new_name: Option<String>,
    /// Say whether it could be done, and do not.
    pub validate_only: bool,
}

/// Where a consumer begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Start {
    /// At the first readable offset.
    #[default]
    Beginning,
    /// Behind everything that can be read by now.
    End,
    /// At an offset, in every partition chosen.
    Offset(Offset),
    /// At the first batch with a record of this time or later; at the end when there is none.
    Time(Millis),
}

/// How a consumer behaves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsumerOptions {
    /// The partitions; `None`: all of the topic. Those that are added while it runs are noticed
    /// after `refresh` at the latest, and are read from their beginning, wherever the others began.
    pub partitions: Option<Vec<PartitionIndex>>,
    /// Where it begins.
    pub start: Start,
    /// Bytes of batches that wait to be taken or are on their way, at most: the partitions share it
    /// evenly, and each may exceed its share by one batch.
    pub buffer_bytes: usize,
    /// The most bytes that a batch may become when it is decompressed.
    pub decompressed_bytes_max: usize,
    /// How long until the server is asked again whether the topic has got more partitions; each
    /// time up to half of it less, at random. 50 ms at least. A consumer of chosen partitions does
    /// not ask.
    pub refresh: Duration,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self {
            partitions: None,
            start: Start::Beginning,
            buffer_bytes: 8 << 20,
            decompressed_bytes_max: DECOMPRESSED_BYTES_MAX,
            refresh: REFRESH,
        }
    }
}

impl Options {
    /// Servers, `host:port`, separated by commas; everything else by default.
    #[must_use]
    pub fn new(server: impl Into<String>) -> Self {
        Self { server: server.into(), ..Self::default() }
    }

    /// As command lines say it: a connection string, see [`Options::from_str`], or else servers and
    /// the TLS with them.
    ///
    /// # Errors
    /// [`Error::Option`] names what is not right; a connection string itself says whether it is
    /// TLS.
    ///
    /// [`Options::from_str`]: std::str::FromStr::from_str
    pub fn of(server: &str, tls: Option<TlsOptions>) -> Result<Self, Error> {
        if !server.contains("://") {
            let options = Self { tls, ..Self::new(server) };
            return options.servers().map(|_| options);
        }
        if tls.is_some() {
            let text = "TLS options go with a plain host and port: a connection string has `ca`";
            return Err(Error::Option(text.to_owned()));
        }
        server.parse()
    }

    /// The same under another name.
    #[must_use]
    pub fn with_client_id(self, client_id: impl Into<String>) -> Self {
        Self { client_id: client_id.into(), ..self }
    }

    /// The same with another time for a request.
    #[must_use]
    pub fn with_request_timeout(self, request_timeout: Duration) -> Self {
        Self { request_timeout, ..self }
    }

    /// The same under TLS.
    #[must_use]
    pub fn with_tls(self, tls: TlsOptions) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// The same with no time that is longer than can be reckoned with.
    pub(crate) fn bounded(self) -> Self {
        Self { request_timeout: self.request_timeout.min(FOREVER), ..self }
    }

    /// The servers, in the order given.
    ///
    /// # Errors
    /// [`Error::Option`] when there is none, or one cannot be.
    pub(crate) fn servers(&self) -> Result<Vec<String>, Error> {
        let names = self.server.split(',').map(str::trim).filter(|name| !name.is_empty());
        let servers: Vec<String> = names.map(server).collect::<Result<_, _>>()?;
        if servers.is_empty() {
            return Err(Error::Option("no server is named".to_owned()));
        }
        Ok(servers)
    }

    /// What is said to servers first. Reads the files that TLS needs.
    ///
    /// # Errors
    /// [`Error::Option`] names the file that is of no use.
    pub(crate) fn hello(&self) -> Result<Hello, Error> {
        let trust = self.tls.as_ref().map(Trust::load).transpose()?;
        Ok(Hello { client_id: self.client_id.clone(), core: None, trust })
    }
}

/// Where a partition begins: known, or to be asked for, the first answer that there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begin(Start);

impl Begin {
    /// The offset, if nobody needs to be asked.
    pub(crate) fn offset(self) -> Option<Offset> {
        match self.0 {
            Start::Offset(offset) => Some(offset),
            _ => None,
        }
    }

    /// What to ask, one after the other until there is an answer.
    pub(crate) fn queries(self) -> impl Iterator<Item = OffsetQuery> {
        let (first, then) = match self.0 {
            Start::Beginning => (Some(OffsetQuery::Earliest), None),
            Start::End => (Some(OffsetQuery::Latest), None),
            Start::Offset(_) => (None, None),
            Start::Time(time) => (Some(OffsetQuery::AtTime(time)), Some(OffsetQuery::Latest)),
        };
        first.into_iter().chain(then)
    }
}

/// The partitions that a consumer reads, and where each begins.
///
/// # Errors
/// When the topic has not a partition that was named.
pub(crate) fn starts(
    topic: &TopicMetadata<'_>,
    options: &ConsumerOptions,
) -> Result<Vec<(PartitionIndex, Begin)>, Error> {
    let known: Vec<PartitionIndex> = topic.partitions.iter().map(|p| p.index).collect();
    let mut chosen = options.partitions.clone().unwrap_or_else(|| known.clone());
    chosen.sort_unstable();
    chosen.dedup();
    if let Some(unknown) = chosen.iter().find(|partition| !known.contains(partition)) {
        let message = format!("{unknown}, topic `{}` has {}", topic.name, known.len());
        return Err(Error::Server { code: ErrorCode::UnknownPartition, message });
    }
    if chosen.is_empty() {
        return Err(Error::Option("a consumer reads a partition at least".to_owned()));
    }
    Ok(chosen.into_iter().map(|partition| (partition, Begin(options.start))).collect())
}

/// A number that nobody else has, so that clients do not all do the same at once.
pub(crate) fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

impl ProducerOptions {
    /// The same with no time that is longer than can be reckoned with.
    pub(crate) fn bounded(self) -> Self {
        let linger = self.linger.min(FOREVER);
        Self { linger, delivery_timeout: self.delivery_timeout.min(FOREVER), ..self }
    }

    /// # Errors
    /// [`Error::Option`] names what cannot be.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let refused = |text: &str| Err(Error::Option(text.to_owned()));
        if self.batch_bytes == 0 || self.batch_bytes > BATCH_BYTES_MAX {
            return refused("batch_bytes is between 1 and 16 MiB");
        }
        if self.in_flight == 0 {
            return refused("in_flight is at least 1");
        }
        if self.buffer_bytes == 0 {
            return refused("buffer_bytes is at least 1");
        }
        Ok(())
    }
}
