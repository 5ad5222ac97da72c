//! The command line.

use std::{path::PathBuf, time::Duration};

use catena_client::{Durability, Options, TlsOptions, format::limits::BATCH_BYTES_MAX};
use clap::{
    Args, Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};

use crate::error::Error;

/// Measures a Catena server. It makes the topics that it needs, and drops them.
#[derive(Parser, Debug)]
#[command(name = "catena-bench", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
    /// Print one JSON object instead of sentences.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// What to measure.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the server is, and TLS with it.
#[derive(Args, Debug)]
pub(crate) struct RemoteArgs {
    /// The server to measure: host and port, or a connection string as `catenas://host?ca=FILE`.
    #[arg(long, global = true, value_name = "ADDR", env = "CATENA_SERVER", hide_env_values = true)]
    #[arg(default_value = "127.0.0.1:9200")]
    server: String,
    /// Speak TLS with the server, and trust the authorities in this PEM file.
    #[arg(long, global = true, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Our certificate, PEM, for a server that asks for one.
    #[arg(long, global = true, value_name = "FILE")]
    #[arg(requires_all = ["tls_ca", "tls_key"])]
    tls_cert: Option<PathBuf>,
    /// The private key of our certificate, PEM.
    #[arg(long, global = true, value_name = "FILE")]
    #[arg(requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The name that the server's certificate must be for; without it the host of --server.
    #[arg(long, global = true, value_name = "NAME", requires = "tls_ca")]
    tls_server_name: Option<String>,
}

impl RemoteArgs {
    /// How clients reach the server.
    ///
    /// # Errors
    /// When the connection string is not right, or says what flags say, too.
    pub(crate) fn options(&self) -> Result<Options, Error> {
        let identity = self.tls_cert.clone().zip(self.tls_key.clone());
        let server_name = self.tls_server_name.clone();
        let tls = self.tls_ca.clone().map(|ca| TlsOptions { ca, identity, server_name });
        Ok(Options::of(&self.server, tls)?)
    }
}

/// What can be measured.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// How long batches take from their intended sending to their receipt.
    ///
    /// With --rate the load is an open loop: batches are due at fixed times, whatever the server
    /// does, and each latency counts from when its batch was due. Without it the loop is closed: a
    /// producer sends as fast as it gets receipts, with --in-flight 1 one batch at a time.
    Produce(ProduceArgs),
    /// How fast a topic is read from its beginning.
    ///
    /// A thread and a connection for each partition; every batch is checked against its CRC-32C.
    /// Latencies are those of single fetches.
    Consume(ConsumeArgs),
    /// How long records take from their intended sending until a consumer has them.
    ///
    /// The load is that of `produce`, and each record carries the time when it was due. A consumer
    /// for each partition long-polls from the start on.
    EndToEnd(LoadArgs),
    /// The check: one record at a time, and batches in bulk, each beside what the disk does alone.
    ///
    /// Every run measures, in turn: fio with single writes, a round trip, one producer with one
    /// record of 512 B at a time; fio in bulk, one producer with batches of 64 KiB. Printed are the
    /// median and the spread over the runs.
    Suite(SuiteArgs),
    /// What each further copy costs: the check of a cluster, on chains of one node, two, three.
    ///
    /// Every run measures, in turn and for each length: fio with as many single writers at a time,
    /// a round trip that is relayed as often, one producer with one record of 512 B at a time; fio
    /// in bulk, one producer with batches of 64 KiB. Printed are the median and the spread over the
    /// runs. The nodes belong on one machine with one disk, or the ratios compare unlike things.
    Chain(SuiteArgs),
}

/// `catena-bench produce`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ProduceArgs {
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    /// Run fio first, with the same block as the server writes, and tell the ratios to it.
    #[arg(long, requires = "fio_dir")]
    pub(crate) fio: bool,
    #[command(flatten)]
    pub(crate) disk: FioArgs,
}

/// What fio does.
#[derive(Args, Clone, Debug)]
pub(crate) struct FioArgs {
    /// Where fio writes: a directory on the disk that the server writes to.
    #[arg(long, value_name = "DIR")]
    pub(crate) fio_dir: Option<PathBuf>,
    /// How long each measurement of fio takes.
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = duration)]
    pub(crate) fio_duration: Duration,
    /// The size of the file that fio writes over and over.
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    pub(crate) fio_bytes: bytesize::ByteSize,
}

/// `catena-bench consume`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ConsumeArgs {
    /// Read this topic up to its end; without it, a topic that is made and filled first.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["fill", "record_bytes", "batch_bytes"])]
    #[arg(conflicts_with = "partitions")]
    pub(crate) topic: Option<String>,
    /// How much to fill in, in values of records.
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    pub(crate) fill: bytesize::ByteSize,
    /// The size of a record's value.
    #[arg(long, value_name = "SIZE", default_value = "512B", value_parser = bytes)]
    pub(crate) record_bytes: usize,
    /// A batch has as many records as fit into so many bytes, but at least one.
    #[arg(long, value_name = "SIZE", default_value = "64KiB", value_parser = bytes)]
    pub(crate) batch_bytes: usize,
    /// Partitions of the topic.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) partitions: u32,
    /// The most bytes of batches that one fetch brings.
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = bytes)]
    pub(crate) fetch_bytes: usize,
    /// How long a request may take.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

/// `catena-bench suite`.
#[derive(Args, Clone, Debug)]
pub(crate) struct SuiteArgs {
    /// How often everything is measured.
    #[arg(long, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) runs: u32,
    /// How long each measurement of the server takes.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// The same load before that, not measured.
    #[arg(long, value_name = "TIME", default_value = "1s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub(crate) warmup: Duration,
    /// The batches in flight in bulk.
    #[arg(long, value_name = "N", default_value_t = 16)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) bulk_in_flight: u32,
    #[command(flatten)]
    pub(crate) disk: FioArgs,
}

/// The load.
#[derive(Args, Clone, Debug)]
pub(crate) struct LoadArgs {
    /// The size of a record's value.
    #[arg(long, value_name = "SIZE", default_value = "512B", value_parser = bytes)]
    pub(crate) record_bytes: usize,
    /// A batch has as many records as fit into so many bytes, but at least one.
    #[arg(long, value_name = "SIZE", default_value = "0B", value_parser = bytes)]
    pub(crate) batch_bytes: usize,
    /// Producers, each with a thread and a connection of its own, to the core that owns its first
    /// partition.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) producers: u32,
    /// Partitions of the topic, shared out among the producers.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) partitions: u32,
    /// Copies of each partition, on as many nodes; 0: as many as the servers give a topic.
    #[arg(long, value_name = "N", default_value_t = 0)]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=16))]
    pub(crate) replicas: u8,
    /// A setting of the topic, as of `catena topic create`.
    #[arg(long, value_name = "KEY=VALUE", value_parser = setting)]
    pub(crate) config: Vec<(String, String)>,
    /// The most batches that a producer has in flight.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) in_flight: u32,
    /// When a batch counts as stored.
    #[arg(long, value_name = "LEVEL", default_value = "chain-disk", value_parser = durability())]
    pub(crate) durability: Durability,
    /// Records a second of all producers together, at even intervals; without it as fast as they
    /// are acknowledged.
    #[arg(long, value_name = "N", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// How long to measure.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// The same load before that, not measured.
    #[arg(long, value_name = "TIME", default_value = "2s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub(crate) warmup: Duration,
    /// How long to wait for an answer before a batch counts as unanswered.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Number the batches, so that a repeated one would be recognised: what the client library
    /// always does. Batches are then put together as they are sent, not before.
    #[arg(long)]
    pub(crate) idempotent: bool,
}

fn durability() -> impl TypedValueParser<Value = Durability> {
    let levels = Durability::ALL.map(Durability::name);
    PossibleValuesParser::new(levels).try_map(|level| level.parse::<Durability>())
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it is written KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn bytes(text: &str) -> Result<usize, String> {
    let size: bytesize::ByteSize = text.parse()?;
    let size = usize::try_from(size.as_u64()).ok().filter(|size| *size <= BATCH_BYTES_MAX);
    size.ok_or_else(|| format!("a batch has at most {BATCH_BYTES_MAX} bytes"))
}

fn duration(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time.is_zero() { Err("it takes some time".to_owned()) } else { Ok(time) }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| "it is a number above zero".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_promised_forms_are_understood() {
        let lines = [
            "catena-bench --server a:1 produce --record-bytes 512 --batch-bytes 65536 \
             --producers 2 --durability head-disk --duration 10s --json",
            "catena-bench --server a:1 --tls-ca ca.pem --tls-server-name b suite",
            "catena-bench produce --rate 1000 --partitions 4 --in-flight 8 --warmup 0s",
            "catena-bench produce --fio --fio-dir .",
            "catena-bench consume --fill 1MiB --partitions 2",
            "catena-bench consume --topic lines --fetch-bytes 64KiB",
            "catena-bench end-to-end --rate 100",
            "catena-bench suite --runs 3 --fio-dir . --json",
            "catena-bench --server a:1,b:1,c:1 chain --runs 3 --fio-dir . --json",
            "catena-bench produce --replicas 3",
        ];
        for line in lines {
            Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }
}
