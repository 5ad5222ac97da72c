//! `cargo model [STATES]`: the histories of small chains, up to so many states of each. A line of
//! JSON for each chain; `--bugs` lists the planted bugs that it is to find.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use catena_tests::chain::{CHAINS, search};
use serde_json::json;

/// States of a chain that are looked at if nothing else is said.
const STATES: usize = 2_000_000;

fn main() -> ExitCode {
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some("--bugs") {
        bugs();
        return ExitCode::SUCCESS;
    }
    let Ok(states_max) = argument.map_or(Ok(STATES), |states| states.parse()) else {
        eprintln!("usage: cargo model [STATES]");
        return ExitCode::from(2);
    };
    for (name, bounds) in CHAINS {
        let found = search(bounds, states_max);
        println!(
            "{}",
            json!({
                "chain": name, "states": found.states, "depth": found.depth, "all": found.all,
                "committed_later": found.committed_later,
                "broken": found.broken.as_ref().map(|(said, _)| said),
            })
        );
        if let Some((said, events)) = found.broken {
            events.iter().for_each(|event| eprintln!("  {event:?}"));
            eprintln!("{name}: after {} events: {said}", events.len());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

#[cfg(planted)]
fn bugs() {
    use catena_format::planted::Bug;
    let of_chain = Bug::ALL.iter().filter(|(_, bug)| bug.is_of_chain() && !bug.takes_log());
    of_chain.for_each(|(name, _)| println!("{name}"));
}

#[cfg(not(planted))]
fn bugs() {}
