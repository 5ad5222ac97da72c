//! Floor 3, the composition root: the `catena` binary, server and command line.
#![forbid(unsafe_code)]

mod admin;
mod cli;
mod commands;
#[allow(dead_code, unused_imports, reason = "serve reads the more of it the more it can do")]
mod config;
mod connection;
mod cores;
mod identity;
mod live;
mod logging;
mod metrics;
mod outbox;
#[cfg(test)]
mod reference;
mod serve;
mod shell;
mod socket;
mod tls;

use std::{
    io::{self, BufReader, Write, stdin},
    process::ExitCode,
};

use anyhow::{Context, bail};
use catena_client::{Client, Setting};
use catena_format::{Offset, PartitionIndex};
use clap::Parser;

use crate::{
    cli::{Cli, Command, ConsumeArgs, Exit, Output, ProduceArgs, SettingArgs, TopicCommand},
    config::{Config, ConfigError},
};

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => Exit::Success.into(),
        Err(error) if is_closed_pipe(&error) => Exit::Success.into(),
        Err(error) => {
            eprintln!("catena: {error:#}");
            exit(&error).into()
        }
    }
}

/// What the failure means to a script.
fn exit(error: &anyhow::Error) -> Exit {
    if error.is::<ConfigError>() { Exit::Usage } else { commands::exit(error) }
}

/// Whoever read our output has had enough, as `head` has: that is no failure.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let closed = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    error.downcast_ref::<io::Error>().is_some_and(closed)
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let mut client = commands::client(&cli.server);
    match cli.command {
        Command::Serve(args) => serve(&args),
        Command::Topic(command) => topic(&mut client, command, cli.output),
        Command::Produce(args) => produce(&mut client, args),
        Command::Consume(args) => consume(&mut client, args, cli.output),
        Command::Segment(_) | Command::Doctor(_) => bail!("this build cannot do that yet"),
        Command::Config(command) => print(command.run(cli.output)?.as_bytes()),
        Command::Completions(args) => print(&cli::completions(args.shell)),
        Command::Man(args) => cli::man_pages(&args.directory)
            .with_context(|| format!("cannot write to {}", args.directory.display())),
    }
}

fn print(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// Settings that this build knows and does not serve: made by anybody, they are refused.
const UNSERVED: [&str; 2] = ["listen.advertised", "storage.index_stride"];

fn serve(args: &SettingArgs) -> anyhow::Result<()> {
    let sources = args.sources();
    let (config, gathered) = Config::load(&sources)?;
    refuse(&UNSERVED.map(|key| (key, gathered.found(key).is_some())))?;
    let logs = std::sync::Arc::new(logging::Logs::start(&config.logging)?);
    serve::serve(config, sources, gathered, &logs)
}

fn topic(client: &mut Client, command: TopicCommand, output: Output) -> anyhow::Result<()> {
    refuse(&[("--output json", output == Output::Json)])?;
    match command {
        TopicCommand::Create(args) => {
            refuse(&[("--if-not-exists", args.if_not_exists)])?;
            let partitions = args.partitions.unwrap_or(1);
            client.create_topic(&args.name, partitions, settings(args.set))?;
            println!("created {} with {partitions} partitions", args.name);
        }
        TopicCommand::List => commands::list_topics(client)?,
        TopicCommand::Describe(args) => commands::describe_topic(client, &args.name)?,
        TopicCommand::Alter(args) => {
            client.alter_topic(&args.name, settings(args.set), args.unset)?;
        }
        TopicCommand::Delete(args) => client.delete_topic(&args.name)?,
        TopicCommand::Trim(args) => {
            let id = client.topic(&args.name)?.id;
            let log_start =
                client.trim(id, PartitionIndex::new(args.partition), Offset::new(args.to))?;
            println!("partition {} of {} starts at {log_start}", args.partition, args.name);
        }
    }
    Ok(())
}

fn produce(client: &mut Client, args: ProduceArgs) -> anyhow::Result<()> {
    refuse(&[
        ("FILE", !args.files.is_empty()),
        ("--header", !args.header.is_empty()),
        ("--null", args.null.is_some()),
        ("--skip-empty", args.skip_empty),
        ("--linger", !args.linger.is_zero()),
        ("--compression", args.compression != cli::Compression::None),
    ])?;
    let options = commands::ProduceOptions {
        topic: args.topic,
        partition: args.partition,
        key_separator: args.key_separator,
        batch_bytes: args.batch_bytes,
        durability: args.durability,
        rate: args.rate,
    };
    let mut input = BufReader::with_capacity(1 << 20, stdin().lock());
    let lines = commands::produce(client, &options, &mut input)?;
    eprintln!("catena: {lines} records acknowledged");
    Ok(())
}

fn consume(client: &mut Client, args: ConsumeArgs, output: Output) -> anyhow::Result<()> {
    refuse(&[("--output json", output == Output::Json)])?;
    let options = commands::ConsumeOptions {
        topic: args.topic,
        partition: args.partition,
        from: args.from,
        until_end: args.until.is_some(),
        count: args.count,
        format: args.format,
    };
    commands::consume(client, &options)?;
    Ok(())
}

fn settings(pairs: Vec<(String, String)>) -> Vec<Setting<'static>> {
    let setting = |(key, value): (String, String)| Setting { key: key.into(), value: value.into() };
    pairs.into_iter().map(setting).collect()
}

/// Fails on what is defined and not done yet, so that nothing is silently left out.
fn refuse(asked: &[(&str, bool)]) -> anyhow::Result<()> {
    match asked.iter().find(|(_, asked)| *asked) {
        Some((what, _)) => bail!("this build cannot do `{what}` yet"),
        None => Ok(()),
    }
}
