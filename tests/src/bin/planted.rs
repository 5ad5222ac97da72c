//! `cargo planted [BUG…]` plants bugs in the simulated node, one after the other, and tells after
//! how many seeds the simulator finds each; all, if none is named. The same seeds must pass without
//! a bug. It ends with one line of JSON, and fails if a bug is not found.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use catena_tests::planted::{Found, Planted};

/// A bug that so many seeds do not find is not found.
const SEEDS: u64 = 2000;
/// More of what an oracle says does not fit a line.
const SAID_CHARS: usize = 160;

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every bug was found, and nothing without one.
fn run(mut bugs: Vec<String>) -> Result<bool, String> {
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
    let mut found = Vec::new();
    for bug in &bugs {
        let hunted = planted.hunt(bug, SEEDS)?;
        println!("{}", row(bug, hunted.as_ref()));
        found.extend(hunted.map(|found| format!("\"{bug}\":{}", found.seed + 1)));
    }
    let missed = bugs.len() - found.len();
    println!("\n{{\"bugs\":{},\"missed\":{missed},\"seeds\":{{{}}}}}", bugs.len(), found.join(","));
    Ok(missed == 0 && !bugs.is_empty())
}

fn row(bug: &str, found: Option<&Found>) -> String {
    let Some(Found { seed, finder, said, took }) = found else {
        return format!("| `{bug}` | **nothing** | {SEEDS} | | |");
    };
    let (finder, seeds, seconds) = (finder.name(), seed + 1, took.as_secs_f64());
    let said: String = said.chars().take(SAID_CHARS).collect();
    format!("| `{bug}` | {finder} | {seeds} | {seconds:.1} | {} |", said.replace('|', "\\|"))
}
