//! The configuration: what may be set, where it was set, and what it comes to.
//!
//! ```text
//! defaults < file (TOML) < environment (CATENA_…) < flags        each setting remembers its origin
//!         Sources -> gather -> Gathered -> Settings -> Config
//! ```
//!
//! Every setting is declared once, in [`settings`]: parsing, the reference in `docs/`, and
//! `catena config print` all come from that declaration. A [`Config`] is complete and possible:
//! whoever holds one checks nothing again.

mod error;
mod gather;
mod print;
mod reference;
mod settings;
#[cfg(test)]
mod tests;
mod value;

use std::path::PathBuf;

use catena_node::TopicDefaults;
use catena_replication::control::TOPIC_SETTINGS;

use self::value::{Bytes, Value};
pub(crate) use self::{
    error::ConfigError,
    gather::{Flag, Gathered, Sources},
    print::{check, print},
    reference::reference,
    settings::{Cluster, Limits, Listen, Logging, Node, Settings, Storage, Timeouts, Topic},
    value::{HostPort, LogFormat, LogLevel, LogOutput},
};

/// The largest batches that the memory of a core has room for, at least. What waits for clients may
/// take a quarter of it, and one answer takes an eighth at most.
const CORE_BATCHES_MIN: u64 = 8;
/// The least memory of a core, however small batches are.
const CORE_BYTES_MIN: u64 = 4 << 20;

/// Everything that the server is told, parsed: nothing is missing, nothing contradicts.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Config {
    /// The node itself.
    pub(crate) node: Node,
    /// Where it listens.
    pub(crate) listen: Listen,
    /// How it comes into a cluster.
    pub(crate) cluster: Cluster,
    /// How long it waits.
    pub(crate) timeouts: Timeouts,
    /// What it says.
    pub(crate) logging: Logging,
    /// What it refuses.
    pub(crate) limits: Limits,
    /// Where and how it stores.
    pub(crate) storage: Storage,
    /// What a new topic gets where its creator said nothing.
    pub(crate) topic: Topic,
    /// TLS on the client listener, if it is wanted.
    pub(crate) tls: Option<Tls>,
    /// TLS between nodes, if it is wanted.
    pub(crate) peer_tls: Option<PeerTls>,
}

/// TLS on the client listener.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Tls {
    /// The certificate chain, PEM, the server's own first.
    pub(crate) cert: PathBuf,
    /// Its private key, PEM.
    pub(crate) key: PathBuf,
    /// The authorities that sign client certificates; clients must show one when it is given.
    pub(crate) client_ca: Option<PathBuf>,
}

/// TLS between nodes, on both sides of each connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PeerTls {
    /// The node's certificate chain, PEM, its own first.
    pub(crate) cert: PathBuf,
    /// Its private key, PEM.
    pub(crate) key: PathBuf,
    /// The authorities that sign certificates of nodes.
    pub(crate) ca: PathBuf,
}

impl Config {
    /// Reads every source, in order of precedence, and keeps where each value came from.
    ///
    /// # Errors
    /// All problems at once, each with its place and remedy.
    pub(crate) fn load(sources: &Sources) -> Result<(Self, Gathered), ConfigError> {
        let (gathered, mut problems) = Gathered::from(sources);
        let settings = Settings::parse(&gathered, &mut problems);
        let config = Self::resolve(settings, &gathered, &mut problems);
        if problems.is_empty() { Ok((config, gathered)) } else { Err(ConfigError::new(problems)) }
    }

    /// What new topics get; settings as the dotted keys and numbers of the catalog and the wire,
    /// without those that the catalog gives by itself.
    pub(crate) fn topic_defaults(&self) -> TopicDefaults {
        let unlimited = |value: Option<u64>| value.map_or("-1".to_owned(), |v| v.to_string());
        let topic = &self.topic;
        let numbers = [
            ("max.batch.bytes", topic.max_batch_bytes.0.to_string()),
            ("retention.bytes", unlimited(topic.retention_bytes.map(|bytes| bytes.0))),
            ("retention.ms", unlimited(topic.retention_ms.map(|millis| millis.0))),
            ("segment.bytes", topic.segment_bytes.0.to_string()),
            ("segment.ms", topic.segment_ms.0.to_string()),
        ];
        let is_default = |key: &str, value: &str| {
            let known = TOPIC_SETTINGS.iter().find(|setting| setting.key == key);
            known.is_some_and(|setting| setting.default.to_string() == value)
        };
        let made = numbers.into_iter().filter(|(key, value)| !is_default(key, value));
        let settings = made.map(|(key, value)| (key.to_owned(), value)).collect();
        TopicDefaults { partitions: topic.partitions, settings }
    }

    /// Each core's part of `limits.memory`, in bytes: room for some of the largest batches.
    pub(crate) fn memory_of_core(&self) -> u64 {
        self.limits.memory.0 / u64::from(self.node.cores.count().get())
    }

    /// Each core's part of `storage.scrub_rate`, in bytes a second; only 0 is none.
    pub(crate) fn scrub_rate_of_core(&self) -> u64 {
        self.storage.scrub_rate.0.div_ceil(u64::from(self.node.cores.count().get()))
    }

    /// Each core's part of `cluster.catch_up_rate`, in bytes a second.
    pub(crate) fn catch_up_rate_of_core(&self) -> u64 {
        self.cluster.catch_up_rate.0.div_ceil(u64::from(self.node.cores.count().get()))
    }

    /// What clients are told to connect to, host and port; empty: where they came to.
    pub(crate) fn advertised(&self) -> String {
        self.listen.advertised.as_ref().map(|address| address.0.clone()).unwrap_or_default()
    }

    /// Where other nodes reach this one, if they do; the port may not be known yet.
    pub(crate) fn peer_address(&self) -> Option<String> {
        let bound = || self.listen.peer.map(|address| address.to_string());
        self.listen.peer_advertised.as_ref().map(|address| address.0.clone()).or_else(bound)
    }

    /// Which settings differ between two loads and take effect only at the next start.
    pub(crate) fn needs_restart(before: &Gathered, after: &Gathered) -> Vec<&'static str> {
        let fixed = settings::SETTINGS.iter().filter(|setting| !setting.live);
        let keys = fixed.map(|setting| setting.key);
        keys.filter(|key| before.text(key) != after.text(key)).collect()
    }

    fn resolve(
        settings: Settings,
        gathered: &Gathered,
        problems: &mut Vec<error::Problem>,
    ) -> Self {
        let Settings { node, listen, cluster, timeouts, logging, limits, storage, topic, tls } =
            settings;
        resolve_cluster(&listen, &cluster, gathered, problems);
        if topic.max_batch_bytes > limits.batch_bytes {
            problems.push(error::Problem::Above {
                origin: gathered.origin("topic.max.batch.bytes"),
                key: "topic.max.batch.bytes",
                other: "limits.batch_bytes",
            });
        }
        if limits.in_flight_per_connection < limits.batch_bytes {
            problems.push(error::Problem::Above {
                origin: gathered.origin("limits.batch_bytes"),
                key: "limits.batch_bytes",
                other: "limits.in_flight_per_connection",
            });
        }
        if limits.in_flight_per_core < limits.in_flight_per_connection {
            problems.push(error::Problem::Above {
                origin: gathered.origin("limits.in_flight_per_connection"),
                key: "limits.in_flight_per_connection",
                other: "limits.in_flight_per_core",
            });
        }
        let cores = u64::from(node.cores.count().get());
        let of_core = (CORE_BATCHES_MIN * limits.batch_bytes.0).max(CORE_BYTES_MIN);
        let least = Bytes(cores * of_core);
        if limits.memory < least {
            problems.push(error::Problem::Share {
                origin: gathered.origin("limits.memory"),
                least: least.print(),
                cores,
            });
        }
        let tls = resolve_tls(tls, gathered, problems);
        let peer_tls = resolve_peer_tls(&listen, &cluster, gathered, problems);
        Self { node, listen, cluster, timeouts, logging, limits, storage, topic, tls, peer_tls }
    }
}

/// The flags of `catena serve` that the settings declare as theirs.
#[cfg(test)]
pub(crate) fn declared_flags() -> Vec<&'static str> {
    settings::SETTINGS.iter().filter_map(|setting| setting.flag).collect()
}

/// Who joins needs a token, and to be reached; and others must be told addresses that lead here.
fn resolve_cluster(
    listen: &Listen,
    cluster: &Cluster,
    gathered: &Gathered,
    problems: &mut Vec<error::Problem>,
) {
    let mut needs = |key, missing| {
        problems.push(error::Problem::Needs { origin: gathered.origin(key), key, missing });
    };
    let Some(peer) = listen.peer else {
        if cluster.join.is_some() {
            needs("cluster.join", "listen.peer");
        }
        if cluster.witness {
            needs("cluster.witness", "listen.peer");
        }
        return;
    };
    match (&cluster.join, &cluster.token_file) {
        (Some(_), None) => needs("cluster.join", "cluster.token_file"),
        (None, Some(_)) => needs("cluster.token_file", "cluster.join"),
        _ => {}
    }
    if peer.ip().is_unspecified() && listen.peer_advertised.is_none() {
        needs("listen.peer", "listen.peer_advertised");
    }
    if listen.client.ip().is_unspecified() && listen.advertised.is_none() {
        needs("listen.peer", "listen.advertised");
    }
}

fn resolve_tls(
    tls: settings::TlsSettings,
    gathered: &Gathered,
    problems: &mut Vec<error::Problem>,
) -> Option<Tls> {
    let mut needs = |key, missing| {
        problems.push(error::Problem::Needs { origin: gathered.origin(key), key, missing });
        None
    };
    match (tls.cert, tls.key, tls.client_ca) {
        (Some(cert), Some(key), client_ca) => Some(Tls { cert, key, client_ca }),
        (Some(_), None, _) => needs("tls.cert", "tls.key"),
        (None, Some(_), _) => needs("tls.key", "tls.cert"),
        (None, None, Some(_)) => needs("tls.client_ca", "tls.cert"),
        (None, None, None) => None,
    }
}

/// All three or none, and only of a node that others reach.
fn resolve_peer_tls(
    listen: &Listen,
    cluster: &Cluster,
    gathered: &Gathered,
    problems: &mut Vec<error::Problem>,
) -> Option<PeerTls> {
    let (cert, key, ca) = (&cluster.tls_cert, &cluster.tls_key, &cluster.tls_ca);
    let all = [
        ("cluster.tls.cert", cert.is_some()),
        ("cluster.tls.key", key.is_some()),
        ("cluster.tls.ca", ca.is_some()),
    ];
    let (present, _) = all.into_iter().find(|(_, is_set)| *is_set)?;
    let missing = all.into_iter().find(|(_, is_set)| !is_set).map(|(missing, _)| missing);
    let missing = missing.or(listen.peer.is_none().then_some("listen.peer"));
    if let Some(missing) = missing {
        let origin = gathered.origin(present);
        problems.push(error::Problem::Needs { origin, key: present, missing });
    }
    Some(PeerTls { cert: cert.clone()?, key: key.clone()?, ca: ca.clone()? })
}
