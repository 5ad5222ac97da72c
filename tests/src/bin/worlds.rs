//! `cargo worlds --steps N` walks all workloads of up to N steps on one log, `cargo worlds --node
//! --steps N` those of a whole node, and ends with one line of JSON; with `--record` it is booked.
//! `cargo worlds --replay STATE` checks one state, as a failure names it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use catena_tests::{
    runs::Run,
    worlds::{
        state::{Errand, Scene},
        summary::{self, Extent, Summary},
    },
};

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let command = format!("cargo worlds {}", arguments.join(" "));
    let record = arguments.pop_if(|last| last == "--record").is_some();
    let summary = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--steps", steps] => walk(Scene::Log, steps),
        ["--node", "--steps", steps] => walk(Scene::Node, steps),
        ["--replay", state] if !record => Errand::parse(state).map(summary::replay),
        _ => None,
    };
    let Some(summary) = summary else {
        eprintln!("usage: cargo worlds [--node] --steps N [--record] | --replay STATE");
        return ExitCode::from(2);
    };
    summary.broken.iter().for_each(|broken| println!("{broken}"));
    println!("{}", summary.line());
    if record && let Err(error) = run(&summary, command).record() {
        eprintln!("the run could not be booked: {error}");
        return ExitCode::FAILURE;
    }
    if summary.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn walk(scene: Scene, steps: &str) -> Option<Summary> {
    steps.parse().ok().map(|steps| summary::run(Extent::long(scene, steps)))
}

fn run(summary: &Summary, command: String) -> Run {
    let tally = &summary.tally;
    let faults = tally.faults.iter().map(|(kind, times)| ((*kind).to_owned(), *times));
    Run {
        method: "worlds",
        command,
        units: tally.states,
        acked: tally.acked,
        checked: tally.checked,
        lost: summary.lost,
        duplicated: summary.duplicated,
        broken: summary.broken.len() as u64,
        faults: faults.collect(),
        notes: [("workloads", summary.workloads), ("capped", tally.capped)]
            .map(|(name, number)| (name.to_owned(), number))
            .into(),
        seconds: summary.seconds,
    }
}
