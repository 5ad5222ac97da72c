//! `cargo sim --seed N` replays a history; `cargo sim --seeds A..B` runs a range and ends with one
//! line of JSON. A seed that fails prints the line that replays it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use catena_tests::sim::range;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    #[cfg(planted)]
    if arguments == ["--bugs"] {
        catena_format::planted::Bug::ALL.iter().for_each(|(bug, _)| println!("{bug}"));
        return ExitCode::SUCCESS;
    }
    let seeds = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--seed", seed] => seed.parse().ok().map(|seed: u64| seed..seed.saturating_add(1)),
        ["--seeds", range] => {
            range.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?))
        }
        _ => None,
    };
    let Some(seeds) = seeds else {
        eprintln!("usage: cargo sim --seed N | --seeds A..B");
        return ExitCode::from(2);
    };
    let summary = range::run(seeds);
    summary.broken.iter().for_each(|broken| println!("{broken}"));
    println!("{}", summary.line());
    if summary.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
