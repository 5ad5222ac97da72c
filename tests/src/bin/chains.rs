//! `cargo chains --seeds A..B [--nodes N] [--record]` runs simulated chains, and ends with one line
//! of JSON; `--seed N` replays one and prints what happens.
#![forbid(unsafe_code)]

use std::{ops::Range, process::ExitCode, time::Instant};

#[cfg(planted)]
use catena_format::planted::Bug;
use catena_tests::{
    chains::{self, range},
    runs::Run,
};

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    #[cfg(planted)]
    if arguments == ["--bugs"] {
        let of_logs = Bug::ALL.iter().filter(|(_, bug)| bug.takes_log() && !bug.takes_nodes());
        of_logs.for_each(|(bug, _)| println!("{bug}"));
        return ExitCode::SUCCESS;
    }
    let command = format!("cargo chains {}", arguments.join(" "));
    let record = arguments.pop_if(|last| last == "--record").is_some();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (seeds, nodes) = match arguments[..] {
        [ref seeds @ .., "--nodes", nodes] => (seeds, nodes.parse().ok().map(Some)),
        ref seeds => (seeds, Some(None)),
    };
    let nodes = nodes.filter(|nodes: &Option<usize>| nodes.is_none_or(|n| (2..=5).contains(&n)));
    match (seeds, nodes) {
        (["--seed", seed], Some(nodes)) if seed.parse::<u64>().is_ok() => replay(seed, nodes),
        (["--seeds", seeds], Some(nodes)) if range_of(seeds).is_some() => {
            run(range_of(seeds).unwrap_or_default(), nodes, command, record)
        }
        _ => {
            eprintln!("usage: cargo chains --seed N | --seeds A..B, [--nodes 2 to 5] [--record]");
            ExitCode::from(2)
        }
    }
}

fn range_of(text: &str) -> Option<Range<u64>> {
    text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?))
}

fn replay(seed: &str, nodes: Option<usize>) -> ExitCode {
    match chains::run(seed.parse().unwrap_or(0), nodes, true) {
        Ok(report) => {
            println!("{report:?}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("seed {seed}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(seeds: Range<u64>, nodes: Option<usize>, command: String, record: bool) -> ExitCode {
    let began = Instant::now();
    let summary = range::run(seeds, nodes);
    summary.broken.iter().for_each(|broken| println!("{broken}"));
    println!("{}", summary.line());
    let total = &summary.total;
    let run = Run {
        method: "chains",
        command,
        units: summary.seeds,
        acked: total.acked,
        checked: total.checked,
        broken: summary.broken.len() as u64,
        faults: total.deeds.0.iter().map(|(deed, times)| ((*deed).to_owned(), *times)).collect(),
        seconds: began.elapsed().as_secs(),
        ..Run::default()
    };
    if record && let Err(error) = run.record() {
        eprintln!("the run could not be booked: {error}");
        return ExitCode::FAILURE;
    }
    if summary.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
