//! Floor 3, the composition root: the `catena` binary, server and command line.
#![forbid(unsafe_code)]

mod admin;
mod cli;
mod commands;
#[allow(dead_code, unused_imports, reason = "serve reads the more of it the more it can do")]
mod config;
mod connection;
mod identity;
#[allow(dead_code, reason = "its counter and its level wait for metrics and SIGHUP")]
mod logging;
mod metrics;
#[cfg(test)]
mod reference;
mod serve;
mod shell;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::Parser;

use crate::{
    cli::{Cli, Command, Exit, SettingArgs},
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
        Command::Topic(command) => commands::topic(&mut client, command, cli.output),
        Command::Produce(args) => commands::produce(&mut client, &args, cli.output),
        Command::Consume(args) => commands::consume(&mut client, &args, cli.output),
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
const UNSERVED: [&str; 6] = [
    "node.cores",
    "listen.advertised",
    "limits.in_flight_per_core",
    "limits.subscriptions_per_connection",
    "storage.index_stride",
    "timeouts.keepalive",
];

fn serve(args: &SettingArgs) -> anyhow::Result<()> {
    let (config, gathered) = Config::load(&args.sources())?;
    refuse(&[("tls.cert", config.tls.is_some())])?;
    refuse(&UNSERVED.map(|key| (key, gathered.found(key).is_some())))?;
    let _logs = logging::Logs::start(&config.logging)?;
    serve::serve(config)
}

/// Fails on what is defined and not done yet, so that nothing is silently left out.
fn refuse(asked: &[(&str, bool)]) -> anyhow::Result<()> {
    match asked.iter().find(|(_, asked)| *asked) {
        Some((what, _)) => bail!("this build cannot do `{what}` yet"),
        None => Ok(()),
    }
}
