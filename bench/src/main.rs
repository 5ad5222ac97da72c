//! Beside the floors: puts load on a server and tells how it answered. It speaks to the server as
//! any client does and knows nothing else of it.
//!
//! ```text
//! args ── what is asked ─┬─ produce     load ─ pace ─ tally ─┐
//!                        ├─ end-to-end  load + consumers ────┤
//!                        ├─ consume     fetches ─────────────┼─ report: JSON or sentences
//!                        ├─ suite       produce, again and again, beside fio and round_trip
//!                        └─ chain       the same on chains of one node, two, three
//! ```
#![forbid(unsafe_code)]

mod args;
mod chain;
mod consume;
mod end_to_end;
mod error;
mod fio;
mod load;
mod pace;
mod payload;
mod produce;
mod report;
mod round_trip;
mod suite;
mod tally;
mod topic;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;

use crate::{
    args::{Cli, Command},
    error::Error,
};

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_closed_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("catena-bench: {error}");
            error.exit_code()
        }
    }
}

/// Prints the report, also of a run in which something went wrong; then says what did.
fn run(cli: &Cli) -> Result<(), Error> {
    let server = cli.remote.options()?;
    let report = match &cli.command {
        Command::Produce(args) => produce::run(&server, args)?,
        Command::Consume(args) => consume::run(&server, args)?,
        Command::EndToEnd(args) => end_to_end::run(&server, args)?,
        Command::Suite(args) => suite::run(&server, args)?,
        Command::Chain(args) => chain::run(&server, args)?,
    };
    let text = if cli.json { format!("{:#}\n", report.json()) } else { report.sentences() };
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::Output)?;
    report.failure.map_or(Ok(()), Err)
}
