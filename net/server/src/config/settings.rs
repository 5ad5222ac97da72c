//! Every setting, declared once: its key, type, default, limits, flag and meaning.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    error::Problem,
    gather::Gathered,
    value::{
        Bytes, Cores, HostPort, LogFormat, LogLevel, LogOutput, LoopbackAddr, Milliseconds,
        NodeName, Value,
    },
};

/// What is known about a setting before it has a value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    /// The dotted key: in the file, on the command line, in errors.
    pub(crate) key: &'static str,
    /// What it means, a sentence or two.
    pub(crate) doc: &'static str,
    /// What it takes.
    pub(crate) kind: &'static str,
    /// Its value when nobody set it.
    pub(crate) default: &'static str,
    /// The least and the greatest value, where there are such.
    pub(crate) limits: Option<(&'static str, &'static str)>,
    /// Its flag of `catena serve`, where it has one of its own.
    pub(crate) flag: Option<&'static str>,
    /// Whether SIGHUP applies a change; all others wait for the next start.
    pub(crate) live: bool,
}

/// A section of the file, for the reference.
pub(crate) struct Section {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it is about.
    pub(crate) doc: &'static str,
}

macro_rules! settings {
    ($(
        #[doc = $section_doc:literal]
        $section:ident as $Section:ident {
            $(
                $(#[doc = $doc:literal])+
                $field:ident: $type:ty = $default:literal
                $(, key $key:literal)?
                $(, from $min:literal to $max:literal)?
                $(, flag $flag:literal)?
                $(, live $live:literal)?
                ;
            )+
        }
    )+) => {
        $(
            #[doc = $section_doc]
            #[derive(Clone, PartialEq, Debug)]
            pub(crate) struct $Section {
                $( $(#[doc = $doc])+ pub(crate) $field: $type, )+
            }
        )+

        /// Every section with every value.
        #[derive(Clone, PartialEq, Debug)]
        pub(crate) struct Settings {
            $( #[doc = $section_doc] pub(crate) $section: $Section, )+
        }

        /// The sections, in the order of the reference.
        pub(crate) const SECTIONS: &[Section] = &[
            $( Section { name: stringify!($section), doc: $section_doc }, )+
        ];

        /// The settings, in the order of the reference.
        pub(crate) const SETTINGS: &[Setting] = &[ $( $( Setting {
            key: settings!(@key $section $field $($key)?),
            doc: concat!($($doc),+),
            kind: <$type as Value>::KIND,
            default: $default,
            limits: settings!(@limits $($min $max)?),
            flag: settings!(@flag $($flag)?),
            live: settings!(@live $($live)?),
        }, )+ )+ ];

        impl Settings {
            /// Reads every value; one that cannot be read is a problem, and its default is taken
            /// for the time being.
            pub(crate) fn parse(gathered: &Gathered, problems: &mut Vec<Problem>) -> Self {
                Self { $( $section: $Section { $(
                    $field: value(
                        gathered,
                        settings!(@key $section $field $($key)?),
                        $default,
                        settings!(@limits $($min $max)?),
                        problems,
                    ),
                )+ }, )+ }
            }
        }
    };
    (@key $section:ident $field:ident) => {
        concat!(stringify!($section), ".", stringify!($field))
    };
    (@key $section:ident $field:ident $key:literal) => { concat!(stringify!($section), ".", $key) };
    (@limits) => { None };
    (@limits $min:literal $max:literal) => { Some(($min, $max)) };
    (@flag) => { None };
    (@flag $flag:literal) => { Some($flag) };
    (@live) => { false };
    (@live $live:literal) => { true };
}

settings! {
    /// The node itself.
    node as Node {
        /// What people call this node, in logs and metrics. It identifies nothing: the id in the
        /// data directory does.
        name: NodeName = "catena";
        /// How many cores serve partitions, one pinned thread each. It may change between starts.
        cores: Cores = "auto", from "1" to "1024", flag "cores";
        /// What the node shares with those that fail together with it, such as a power line: copies
        /// are kept in different racks where there are such.
        rack: Option<NodeName> = "none";
    }
    /// Where the node listens.
    listen as Listen {
        /// The address for clients. Port 0 takes a free one and the log names it.
        client: SocketAddr = "127.0.0.1:9200", flag "listen";
        /// What clients are told to connect to, when it is not the address listened on.
        advertised: Option<HostPort> = "none", flag "advertise";
        /// The address for other nodes: with it the node is one of a cluster, which it founds on a
        /// directory that has none. Who reaches it can read and write everything, unless nodes show
        /// certificates (`cluster.tls.cert`): else it belongs in a network of the nodes' own.
        peer: Option<SocketAddr> = "none", flag "peer";
        /// What other nodes are told to connect to, when it is not the address listened on.
        peer_advertised: Option<HostPort> = "none", flag "advertise-peer";
        /// The address of metrics and health checks, on loopback.
        admin: LoopbackAddr = "127.0.0.1:9201", flag "admin";
    }
    /// How the node comes into a cluster, and what it is there.
    cluster as Cluster {
        /// The peer address of any node of the cluster to join; needed on an empty directory only.
        join: Option<HostPort> = "none", flag "join";
        /// A file with a token of that cluster, as `catena cluster token` prints it.
        token_file: Option<PathBuf> = "none", flag "token-file";
        /// Whether the node votes and holds no partition: with two others it makes three votes, so
        /// that any one of them may fail.
        witness: bool = "false", flag "witness";
        /// How long a node is down until others get copies of what it kept. Whoever orders the
        /// catalog goes by its own value, and counts from its own start at the earliest.
        replace_after: Duration = "10m", from "1s" to "10years";
        /// A node that makes no headway for so long while its chain waits for it, or that its
        /// neighbour cannot reach, leaves the chain, if that stays long enough, and joins it again
        /// later.
        evict_after: Duration = "500ms", from "100ms" to "10years";
        /// Bytes a second that the node reads from its disk for copies that are being made on other
        /// nodes, over all cores, each with an equal part; what producers append meanwhile comes on
        /// top, and what is still in memory does not count.
        catch_up_rate: Bytes = "64MiB", from "1MiB" to "1024GiB", live "SIGHUP";
        /// TLS 1.3 between nodes, in plaintext without it: the node's certificate chain, PEM, its
        /// own first. It is for the address by which other nodes reach it, as a server's and as a
        /// client's. All nodes have one, or none; whether is settled at the start. A changed file
        /// is read on SIGHUP.
        tls_cert: Option<PathBuf> = "none", key "tls.cert", live "SIGHUP";
        /// The certificate's private key, PEM.
        tls_key: Option<PathBuf> = "none", key "tls.key", live "SIGHUP";
        /// The authorities that sign certificates of nodes, and of nobody else, PEM.
        tls_ca: Option<PathBuf> = "none", key "tls.ca", live "SIGHUP";
    }
    /// How long the node waits.
    timeouts as Timeouts {
        /// From a connection's beginning to the end of its handshake, preface and TLS included.
        handshake: Duration = "10s", from "100ms" to "10m", live "SIGHUP";
        /// The longest that any request waits, a long poll included; a shorter wish is granted.
        request: Duration = "30s", from "100ms" to "1h", live "SIGHUP";
        /// A connection that has said nothing for so long is closed.
        idle: Duration = "10m", from "1s" to "1day", live "SIGHUP";
        /// After so long in silence the peer is probed (TCP keepalive).
        keepalive: Duration = "30s", from "1s" to "1h";
        /// What SIGTERM grants to requests in flight.
        drain: Duration = "10s", from "0s" to "10m", live "SIGHUP";
    }
    /// What the node says about itself.
    logging as Logging {
        /// What is logged; by target, for instance `info,catena_log=debug`.
        level: LogLevel = "info", flag "log-level", live "SIGHUP";
        /// How a line is written.
        format: LogFormat = "pretty", flag "log-format";
        /// Where lines go. A file is appended to and never rotated by the server.
        output: LogOutput = "stderr", flag "log-output";
    }
    /// At which point the node refuses, with a typed error.
    limits as Limits {
        /// Client connections, over all cores; fewer where the limit of open files leaves no more.
        connections: u32 = "12000", from "1" to "1000000";
        /// Memory for batches on their way to the disk, kept for readers of the recent end, and
        /// read from the disk for clients, over all cores, each with an equal part: eight of the
        /// largest batches, and 4 MiB, at least. A fetch brings an eighth of it at most. Beyond it
        /// a quarter as much may be taken by requests that are arriving. Not in it: requests that
        /// wait to be decided (`limits.in_flight_per_core`), indexes and tables of producers,
        /// TLS, sockets.
        memory: Bytes = "1GiB", from "64MiB" to "1024GiB";
        /// Bytes of one connection's requests that have no reply yet; further ones stay unread.
        in_flight_per_connection: Bytes = "32MiB", from "64KiB" to "1GiB";
        /// The same over all connections of a core; beyond, requests are refused for the moment.
        /// Producers wait until this is on the disk: one of 100 MiB/s takes 2.6 s for the default
        /// of each core, and twice as long where no segment is recycled.
        in_flight_per_core: Bytes = "256MiB", from "1MiB" to "64GiB";
        /// Open segment files, over all cores; the rest is closed and reopened as needed.
        descriptors: u32 = "4096", from "64" to "1000000";
        /// The largest batch that any topic may allow.
        batch_bytes: Bytes = "1MiB", from "1KiB" to "16MiB";
        /// Subscriptions of one connection.
        subscriptions_per_connection: u32 = "1024", from "1" to "100000";
    }
    /// Where and how the node stores.
    storage as Storage {
        /// The directory that holds everything. It is created if missing, and locked.
        data_dir: PathBuf = "catena-data", flag "data-dir";
        /// Free space at which writes are refused; reads and trims go on, writes resume by
        /// themselves.
        disk_reserve: Bytes = "512MiB", from "0" to "1024GiB";
        /// One index entry per so many bytes of segment.
        index_stride: Bytes = "32KiB", from "4KiB" to "16MiB";
        /// Recent bytes of each active partition kept in memory for readers.
        tail_cache: Bytes = "4MiB", from "0" to "1GiB";
        /// A checkpoint of the index after so many bytes: what recovery scans of a partition at
        /// most.
        checkpoint: Bytes = "64MiB", from "64KiB" to "16GiB";
        /// Bytes a second that the scrub reads again and checks, over all cores, each with an equal
        /// part; it takes whole segments, and none that is being written. 0: no scrub.
        scrub_rate: Bytes = "8MiB", from "0" to "16GiB", live "SIGHUP";
        /// From one beginning of the scrub's way through all of a core's partitions to the next. It
        /// takes longer where the rate is too low for what is stored.
        scrub_period: Duration = "7days", from "0s" to "10years", live "SIGHUP";
    }
    /// What a new topic gets where its creator said nothing. The keys are those of `topic alter`.
    topic as Topic {
        /// How many partitions.
        partitions: u32 = "1", from "1" to "10000";
        /// The largest batch taken.
        max_batch_bytes: Bytes = "1MiB", key "max.batch.bytes", from "1KiB" to "16MiB";
        /// Bytes kept of each partition; older segments are dropped.
        retention_bytes: Option<Bytes> = "none", key "retention.bytes";
        /// How long records are kept after their append.
        retention_ms: Option<Milliseconds> = "none", key "retention.ms";
        /// The size at which a segment file is sealed.
        segment_bytes: Bytes = "256MiB", key "segment.bytes", from "64KiB" to "16GiB";
        /// The age at which a segment file is sealed.
        segment_ms: Milliseconds = "604800000", key "segment.ms", from "1000" to "1000years";
    }
    /// TLS 1.3 on the client listener; plaintext without a certificate.
    tls as TlsSettings {
        /// The certificate chain, PEM, the server's own first. A changed file is read on SIGHUP.
        cert: Option<PathBuf> = "none", live "SIGHUP";
        /// The certificate's private key, PEM.
        key: Option<PathBuf> = "none", live "SIGHUP";
        /// The authorities that sign client certificates, PEM. When set, clients must show one.
        client_ca: Option<PathBuf> = "none", live "SIGHUP";
    }
}

/// The value of a setting, or its default and a problem.
fn value<T: Value>(
    gathered: &Gathered,
    key: &'static str,
    default: &'static str,
    limits: Option<(&'static str, &'static str)>,
    problems: &mut Vec<Problem>,
) -> T {
    let declared = |text| T::parse(text).expect("declared values can be read");
    let Some((text, origin)) = gathered.found(key) else { return declared(default) };
    let origin = origin.clone();
    match (T::parse(text), limits) {
        (Ok(value), Some((min, max))) if !value.within(&declared(min), &declared(max)) => {
            problems.push(Problem::Limit { origin, key, min, max, found: value.print() });
            declared(default)
        }
        (Ok(value), _) => value,
        (Err(why), _) => {
            let (expected, found) = (T::KIND, text.to_owned());
            problems.push(Problem::Value { origin, key, expected, found, why });
            declared(default)
        }
    }
}
