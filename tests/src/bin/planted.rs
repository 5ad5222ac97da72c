//! `cargo planted [BUG…]` plants bugs in the simulated node, one after the other, and tells after
//! how many seeds the simulator finds each; all, if none is named. The same seeds must pass without
//! a bug. It ends with one line of JSON, and fails if a bug is not found; with `--record` it is
//! booked.
#![forbid(unsafe_code)]

use std::{collections::BTreeMap, process::ExitCode, time::Instant};

use catena_tests::{
    planted::{Found, Planted},
    runs::{Run, exit_code},
};
use serde_json::json;

/// A bug that so many seeds do not find is not found.
const SEEDS: u64 = 4000;
/// More of what an oracle says does not fit a line.
const SAID_CHARS: usize = 160;

fn main() -> ExitCode {
    let mut bugs: Vec<String> = std::env::args().skip(1).collect();
    let record = bugs.pop_if(|last| last == "--record").is_some();
    exit_code(run(bugs, record))
}

/// Whether every bug was found, and nothing without one.
fn run(mut bugs: Vec<String>, record: bool) -> Result<bool, String> {
    let began = Instant::now();
    let planted = Planted::build()?;
    let known = planted.bugs()?;
    if let Some(unknown) = bugs.iter().find(|bug| !known.contains(bug)) {
        return Err(format!("there is no bug {unknown}, only {}", known.join(", ")));
    }
    if bugs.is_empty() {
        bugs = known;
    }
    planted.clean(0..SEEDS)?;
    println!("{SEEDS} seeds pass without a bug\n");
    println!("| bug | found by | after seeds | seconds | what it said |\n|---|---|---|---|---|");
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    for bug in &bugs {
        let hunted = planted.hunt(bug, SEEDS)?;
        println!("{}", row(bug, hunted.as_ref()));
        found.extend(hunted.map(|found| (bug.clone(), found.seed + 1)));
    }
    let missed = bugs.len() - found.len();
    println!("\n{}", json!({ "bugs": bugs.len(), "missed": missed, "seeds": found }));
    if record {
        booked(&bugs, found, began).record().map_err(|error| error.to_string())?;
    }
    Ok(missed == 0 && !bugs.is_empty())
}

/// The bugs are what was injected; that one was missed breaks what is said of the harness.
fn booked(bugs: &[String], found: BTreeMap<String, u64>, began: Instant) -> Run {
    Run {
        method: "planted",
        command: "cargo planted".to_owned(),
        units: bugs.len() as u64,
        broken: (bugs.len() - found.len()) as u64,
        faults: bugs.iter().map(|bug| (bug.clone(), 1)).collect(),
        notes: found,
        seconds: began.elapsed().as_secs(),
        ..Run::default()
    }
}

fn row(bug: &str, found: Option<&Found>) -> String {
    let Some(Found { seed, finder, said, took }) = found else {
        return format!("| `{bug}` | **nothing** | {SEEDS} | | |");
    };
    let (finder, seeds, seconds) = (finder.name(), seed + 1, took.as_secs_f64());
    let said: String = said.chars().take(SAID_CHARS).collect();
    format!("| `{bug}` | {finder} | {seeds} | {seconds:.1} | {} |", said.replace('|', "\\|"))
}
