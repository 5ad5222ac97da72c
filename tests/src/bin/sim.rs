//! `cargo sim --seed N` replays a history; `cargo sim --seeds A..B` runs a range and ends with one
//! line of JSON. A seed that fails prints the line that replays it.
#![forbid(unsafe_code)]

use std::{collections::BTreeMap, process::ExitCode};

use catena_tests::sim::world;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let range = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--seed", seed] => seed.parse().ok().map(|seed: u64| seed..seed + 1),
        ["--seeds", range] => {
            range.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?))
        }
        _ => None,
    };
    let Some(seeds) = range else {
        eprintln!("usage: cargo sim --seed N | --seeds A..B");
        return ExitCode::from(2);
    };
    let (mut acked, mut checked, mut restarts, mut fingerprint, mut failed) = (0, 0, 0, 0u64, 0);
    let (mut damaged, mut cut) = (0, 0);
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    let count = seeds.end.saturating_sub(seeds.start);
    for seed in seeds {
        match world::run(seed) {
            Ok(report) => {
                acked += report.acked;
                checked += report.checked;
                restarts += report.restarts;
                damaged += report.damaged;
                cut += report.cut;
                fingerprint = fingerprint.rotate_left(1) ^ report.fingerprint;
                for (kind, times) in report.faults {
                    *faults.entry(kind).or_insert(0) += times;
                }
            }
            Err(broken) => {
                failed += 1;
                println!("seed {seed}: {broken}\nreplay: cargo sim --seed {seed}");
            }
        }
    }
    let kinds: Vec<_> = faults.iter().map(|(kind, times)| format!("\"{kind}\":{times}")).collect();
    println!(
        "{{\"seeds\":{count},\"failed\":{failed},\"acked\":{acked},\"checked\":{checked},\
         \"damaged\":{damaged},\"cut\":{cut},\"faults\":{{{}}},\
         \"restarts\":{restarts},\"fingerprint\":\"{fingerprint:016x}\"}}",
        kinds.join(",")
    );
    if failed == 0 && count > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
