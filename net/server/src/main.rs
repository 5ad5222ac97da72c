//! Floor 3, the composition root: the `catena` binary, server and command line.
#![forbid(unsafe_code)]

mod admin;
mod budget;
mod cli;
mod cluster;
mod commands;
mod config;
mod connection;
mod cores;
mod doctor;
mod identity;
mod live;
mod logging;
mod machine;
mod metrics;
mod outbox;
mod received;
#[cfg(test)]
mod reference;
mod remover;
mod segment;
mod serve;
mod shell;
mod socket;
mod tasks;
mod tls;

use std::{
    io::{self, BufWriter, Write},
    process::ExitCode,
};

use anyhow::Context;
use clap::Parser;

use crate::{
    cli::{Cli, Command, Exit, SettingArgs},
    config::{Config, ConfigError, Gathered, Sources},
};

/// What the budgets take back must leave the process: the C library's allocator keeps most of it
/// once aligned buffers of many lengths have come and gone.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    if error.is::<ConfigError>() {
        Exit::Usage
    } else if error.is::<segment::Damaged>() {
        segment::Damaged::EXIT
    } else if let Some(error) = error.downcast_ref::<serve::CatalogClosed>() {
        error.exit()
    } else if let Some(error) = error.downcast_ref::<identity::IdentityError>() {
        error.exit()
    } else {
        commands::exit(error)
    }
}

/// Whoever read our output has had enough, as `head` has: that is no failure.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let closed = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    error.downcast_ref::<io::Error>().is_some_and(closed)
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let client = || commands::client(&cli.remote);
    let remote = matches!(
        cli.command,
        Command::Topic(_)
            | Command::Partition(_)
            | Command::Cluster(_)
            | Command::Produce(_)
            | Command::Consume(_)
    );
    if !remote {
        commands::no_remote(&cli.remote)?;
    }
    match cli.command {
        Command::Serve(args) => serve(&args),
        Command::Topic(command) => {
            commands::topic(&commands::options(&cli.remote)?, command, cli.output)
        }
        Command::Partition(command) => commands::partition(&mut client()?, command, cli.output),
        Command::Cluster(command) => {
            commands::cluster(&commands::options(&cli.remote)?, command, cli.output)
        }
        Command::Produce(args) => commands::produce(&mut client()?, &args, cli.output),
        Command::Consume(args) => commands::consume(&mut client()?, &args, cli.output),
        Command::Segment(command) => {
            let mut out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
            let ran = segment::run(&command, cli.output, &mut out);
            out.flush()?;
            ran
        }
        Command::Doctor(args) => doctor::run(&load(&args)?.0, cli.output, &mut io::stdout().lock()),
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

/// The configuration and where it came from.
fn load(args: &SettingArgs) -> anyhow::Result<(Config, Sources, Gathered)> {
    let sources = args.sources();
    let (config, gathered) = Config::load(&sources)?;
    Ok((config, sources, gathered))
}

fn serve(args: &SettingArgs) -> anyhow::Result<()> {
    let (config, sources, gathered) = load(args)?;
    let logs = std::sync::Arc::new(logging::Logs::start(&config.logging)?);
    serve::serve(config, sources, gathered, &logs)
}
