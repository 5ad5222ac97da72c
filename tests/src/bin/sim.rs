//! `cargo sim --seed N` replays a history; `cargo sim --seeds A..B` runs a range and ends with one
//! line of JSON; with `--record` it is booked. A seed that fails prints the line that replays it,
//! the first of them also one that replays what is left of it: fewer batches, and parts left out.
#![forbid(unsafe_code)]

use std::{process::ExitCode, time::Instant};

#[cfg(planted)]
use catena_format::planted::Bug;
use catena_tests::{
    runs::Run,
    sim::{range, shrink::Bounds},
};

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    #[cfg(planted)]
    if let [bugs, nodes @ ..] = arguments.as_slice()
        && bugs == "--bugs"
    {
        let alone = nodes.is_empty();
        let found = |bug: Bug| if alone { !bug.is_of_chain() } else { bug.takes_nodes() };
        let here = Bug::ALL.iter().filter(|(_, bug)| found(*bug));
        here.for_each(|(bug, _)| println!("{bug}"));
        return ExitCode::SUCCESS;
    }
    let command = format!("cargo sim {}", arguments.join(" "));
    let record = arguments.pop_if(|last| last == "--record").is_some();
    let mut bounds = Some(Bounds::default());
    let seeds = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--seed", seed, ref less @ ..] => {
            bounds = Bounds::parse(less);
            seed.parse().ok().map(|seed: u64| seed..seed.saturating_add(1))
        }
        ["--seeds", range, ref less @ ..] => {
            bounds = Bounds::parse(less);
            range.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?))
        }
        _ => None,
    };
    let (Some(seeds), Some(bounds)) = (seeds, bounds) else {
        eprintln!(
            "usage: cargo sim --seed N | --seeds A..B [--nodes N] [--acked N] [--without PART,…] \
             [--record]"
        );
        return ExitCode::from(2);
    };
    let began = Instant::now();
    let summary = range::run_within(seeds, &bounds);
    summary.broken.iter().for_each(|broken| println!("{broken}"));
    summary.shrunk.iter().for_each(|shrunk| println!("{shrunk}"));
    println!("{}", summary.line());
    if record && let Err(error) = run(&summary, bounds.nodes, command, began).record() {
        eprintln!("the run could not be booked: {error}");
        return ExitCode::FAILURE;
    }
    if summary.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(summary: &range::Summary, nodes: u16, command: String, began: Instant) -> Run {
    let total = &summary.total;
    let broken = summary.broken.len() as u64;
    let faults = total.faults.iter().map(|(kind, times)| ((*kind).to_owned(), *times));
    Run {
        method: if nodes == 1 { "simulation" } else { "cluster" },
        command,
        units: summary.seeds,
        acked: total.acked,
        checked: total.checked,
        broken,
        faults: faults.chain([("restart".to_owned(), total.restarts)]).collect(),
        seconds: began.elapsed().as_secs(),
        ..Run::default()
    }
}
