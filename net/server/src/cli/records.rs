//! `catena produce` and `catena consume`.

use std::{path::PathBuf, time::Duration};

use catena_client::{Compression, Durability};
use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};

use super::configure::pair;
use crate::commands;

/// What is sent, and how.
#[derive(Args, Debug)]
pub(crate) struct ProduceArgs {
    /// The topic.
    #[arg(value_name = "TOPIC")]
    pub(crate) topic: String,
    /// Files to read one after the other; without any, or for `-`, standard input. A last line
    /// without a line break is a line.
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Send all to this partition; without it keys decide, and records without a key take turns.
    #[arg(long, value_name = "P")]
    pub(crate) partition: Option<u32>,
    /// What stands before the first TEXT of a line is the key; lines without TEXT have none.
    #[arg(long, value_name = "TEXT")]
    pub(crate) key_separator: Option<String>,
    /// A header of every record; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) header: Vec<(String, String)>,
    /// A value that is exactly TEXT is sent as null: with a key, a tombstone.
    #[arg(long, value_name = "TEXT")]
    pub(crate) null_value: Option<String>,
    /// Leave empty lines out; without it they are records with an empty value.
    #[arg(long)]
    pub(crate) skip_empty: bool,
    /// At most so many lines a second.
    #[arg(long, value_name = "N", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// A batch goes out when it has so many bytes.
    #[arg(long, value_name = "SIZE", default_value = "64KiB", value_parser = size)]
    pub(crate) batch_bytes: usize,
    /// How long a batch waits for company; with 0s it goes out as soon as the server takes it.
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub(crate) linger: Duration,
    /// When a batch counts as stored.
    #[arg(long, value_name = "LEVEL", default_value = "chain-disk", value_parser = durability())]
    pub(crate) durability: Durability,
    /// How batches are compressed.
    #[arg(long, value_name = "CODEC", default_value = "none", value_parser = compression())]
    pub(crate) compression: Compression,
    /// Show no progress bar; without a terminal there is none anyway.
    #[arg(long)]
    pub(crate) no_progress: bool,
}

/// What is read, and how it is printed.
#[derive(Args, Debug)]
pub(crate) struct ConsumeArgs {
    /// The topic.
    #[arg(value_name = "TOPIC")]
    pub(crate) topic: String,
    /// Only this partition; without it all of them, each in its own order.
    #[arg(long, value_name = "P")]
    pub(crate) partition: Option<u32>,
    /// Where to begin: `beginning`, `end`, `offset:N`, or `timestamp:T`, which is Unix time in
    /// milliseconds or a date like 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "PLACE", default_value = "beginning")]
    pub(crate) from: commands::From,
    /// Where to stop: `end`, what was the end of each partition at the start; `offset:N`, before
    /// that offset of each; `count`, when there were as many records as --count says. Without it,
    /// `count` if there is --count, and else `end`, unless --follow or `--from end` is given.
    #[arg(long, value_name = "PLACE")]
    #[arg(requires_if("count", "count"))]
    pub(crate) until: Option<commands::Until>,
    /// Stop after so many records, wherever that is.
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Wait for further records at the end, until SIGINT or SIGTERM.
    #[arg(long, conflicts_with = "until")]
    pub(crate) follow: bool,
    /// How a record is printed: %v value, %k key, %h headers, %p partition, %o offset, %t
    /// timestamp, %%; \n, \r, \t, \0, \\ as usual, and \xHH for a byte; without it %v\n. With
    /// `--output json` each record is an object on a line of its own.
    #[arg(long, value_name = "TEXT")]
    pub(crate) format: Option<commands::Format>,
}

fn durability() -> impl TypedValueParser<Value = Durability> {
    let levels = ["none", "head-disk", "chain-memory", "chain-disk"];
    PossibleValuesParser::new(levels).try_map(|level| level.parse::<Durability>())
}

fn compression() -> impl TypedValueParser<Value = Compression> {
    let codecs = Compression::ALL.map(Compression::name);
    PossibleValuesParser::new(codecs).try_map(|codec| codec.parse::<Compression>())
}

fn size(text: &str) -> Result<usize, String> {
    let size: bytesize::ByteSize = text.parse()?;
    let size = usize::try_from(size.as_u64()).map_err(|_| "it is too large".to_owned())?;
    if size == 0 { Err("it is above zero".to_owned()) } else { Ok(size) }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| "it is a number above zero".to_owned())
}
