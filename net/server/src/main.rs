//! Floor 3, the composition root: the `catena` binary, server and command line.
#![forbid(unsafe_code)]

mod commands;
mod connection;
mod identity;
mod serve;
mod shell;

use std::{
    io::{BufReader, stdin},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
};

use catena_client::{Durability, Setting};
use catena_format::{Offset, PartitionIndex};
use clap::{Parser, Subcommand};

/// Catena: a distributed log engine. An acknowledged record is on the disk.
#[derive(Parser)]
#[command(name = "catena", version, about)]
struct Arguments {
    /// The server to talk to.
    #[arg(long, global = true, default_value = "127.0.0.1:9200", value_name = "ADDR")]
    server: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a server on a directory.
    Serve {
        /// Where the data is kept; created if absent.
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// Where clients connect.
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9200")]
        listen: SocketAddr,
        /// Memory for data on its way, in bytes.
        #[arg(long, default_value_t = 1 << 30)]
        memory_bytes: usize,
        /// Disk space that is left free, in bytes.
        #[arg(long, default_value_t = 512 << 20)]
        disk_reserve_bytes: u64,
        /// The most connections.
        #[arg(long, default_value_t = 12_000)]
        connections_max: usize,
    },
    /// Create, look at, change and delete topics.
    #[command(subcommand)]
    Topic(TopicCommand),
    /// Send each line of the input as a record.
    Produce {
        /// The topic.
        topic: String,
        /// Send all to this partition.
        #[arg(long)]
        partition: Option<u32>,
        /// What stands before the first of these is the key.
        #[arg(long, value_name = "TEXT")]
        key_separator: Option<String>,
        /// Send a batch when it has so many bytes.
        #[arg(long, default_value_t = 64 << 10)]
        batch_bytes: usize,
        /// When a batch counts as stored.
        #[arg(long, default_value_t = Durability::ChainDisk)]
        durability: Durability,
        /// Lines a second at most.
        #[arg(long)]
        rate: Option<f64>,
    },
    /// Print records.
    Consume {
        /// The topic.
        topic: String,
        /// Only this partition.
        #[arg(long)]
        partition: Option<u32>,
        /// beginning, end, an offset, or time:MILLISECONDS.
        #[arg(long, default_value = "beginning")]
        from: commands::From,
        /// `end`: stop at what was the end at the start. Without it go on for ever.
        #[arg(long, value_parser = ["end"])]
        until: Option<String>,
        /// Stop after so many records.
        #[arg(long)]
        count: Option<u64>,
        /// How to print: %v value, %k key, %p partition, %o offset, %t timestamp.
        #[arg(long, default_value = "%v\\n")]
        format: commands::Format,
    },
}

#[derive(Subcommand)]
enum TopicCommand {
    /// Create a topic.
    Create {
        /// Its name.
        name: String,
        /// How many partitions.
        #[arg(long, default_value_t = 1)]
        partitions: u32,
        /// A setting, KEY=VALUE; may be repeated.
        #[arg(long, value_parser = commands::setting)]
        config: Vec<Setting<'static>>,
    },
    /// List all topics.
    List,
    /// Tell everything about a topic.
    Describe {
        /// Its name.
        name: String,
    },
    /// Make and take back settings.
    Alter {
        /// Its name.
        name: String,
        /// A setting to make, KEY=VALUE; may be repeated.
        #[arg(long, value_parser = commands::setting)]
        set: Vec<Setting<'static>>,
        /// A setting to take back; may be repeated.
        #[arg(long, value_name = "KEY")]
        remove: Vec<String>,
    },
    /// Delete a topic and its records.
    Delete {
        /// Its name.
        name: String,
    },
    /// Forget the records of a partition below an offset.
    Trim {
        /// The topic.
        name: String,
        /// The partition.
        #[arg(long)]
        partition: u32,
        /// The first offset to keep.
        #[arg(long)]
        to: u64,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("catena: {error:#}");
            ExitCode::from(commands::exit_code(&error))
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut client = commands::client(&arguments.server);
    match arguments.command {
        Command::Serve { data_dir, listen, memory_bytes, disk_reserve_bytes, connections_max } => {
            let options = serve::ServeOptions {
                data_dir,
                listen,
                memory_bytes,
                disk_reserve_bytes,
                connections_max,
            };
            serve::serve(options)?;
        }
        Command::Topic(command) => topic(&mut client, command)?,
        Command::Produce { topic, partition, key_separator, batch_bytes, durability, rate } => {
            let options = commands::ProduceOptions {
                topic,
                partition,
                key_separator,
                batch_bytes,
                durability,
                rate,
            };
            let mut input = BufReader::with_capacity(1 << 20, stdin().lock());
            let lines = commands::produce(&mut client, &options, &mut input)?;
            eprintln!("catena: {lines} records acknowledged");
        }
        Command::Consume { topic, partition, from, until, count, format } => {
            let until_end = until.is_some();
            let options =
                commands::ConsumeOptions { topic, partition, from, until_end, count, format };
            commands::consume(&mut client, &options)?;
        }
    }
    Ok(())
}

fn topic(client: &mut catena_client::Client, command: TopicCommand) -> anyhow::Result<()> {
    match command {
        TopicCommand::Create { name, partitions, config } => {
            client.create_topic(&name, partitions, config)?;
            println!("created {name} with {partitions} partitions");
        }
        TopicCommand::List => commands::list_topics(client)?,
        TopicCommand::Describe { name } => commands::describe_topic(client, &name)?,
        TopicCommand::Alter { name, set, remove } => client.alter_topic(&name, set, remove)?,
        TopicCommand::Delete { name } => client.delete_topic(&name)?,
        TopicCommand::Trim { name, partition, to } => {
            let id = client.topic(&name)?.id;
            let log_start = client.trim(id, PartitionIndex::new(partition), Offset::new(to))?;
            println!("partition {partition} of {name} starts at {log_start}");
        }
    }
    Ok(())
}
