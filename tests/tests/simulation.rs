//! Whole nodes in simulated worlds: many seeds, each with crashes and power cuts, half of them with
//! a disk that fails. A seed that breaks a promise prints the command that replays it.

use std::{collections::BTreeMap, sync::Mutex, thread};

use catena_tests::sim::world::{self, Report};

const SEEDS: u64 = 1000;

fn run_all(seeds: u64) -> Vec<(u64, Result<Report, String>)> {
    let next = Mutex::new(0);
    let results = Mutex::new(Vec::new());
    let workers = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = {
                        let mut next = next.lock().unwrap();
                        *next += 1;
                        *next - 1
                    };
                    if seed >= seeds {
                        return;
                    }
                    let result = world::run(seed);
                    results.lock().unwrap().push((seed, result));
                }
            });
        }
    });
    results.into_inner().unwrap()
}

#[test]
fn acknowledged_records_survive_every_crash() {
    let mut broken = Vec::new();
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut acked, mut checked, mut pushes, mut restarts) = (0, 0, 0, 0);
    let (mut damaged, mut cut) = (0, 0);
    for (seed, result) in run_all(SEEDS) {
        match result {
            Ok(report) => {
                assert!(report.acked >= 200 && report.restarts >= 1, "seed {seed} did too little");
                acked += report.acked;
                checked += report.checked;
                pushes += report.pushes;
                restarts += report.restarts;
                damaged += report.damaged;
                cut += report.cut;
                for (kind, count) in report.faults {
                    *faults.entry(kind).or_insert(0) += count;
                }
            }
            Err(error) => broken.push(format!("{error}\nreplay: cargo sim --seed {seed}")),
        }
    }
    println!("{SEEDS} seeds: {acked} acked, {checked} checked, {pushes} pushed");
    println!("{restarts} restarts, {faults:?}");
    println!("{damaged} records said to be damaged, {cut} cut off at the end");
    assert!(damaged > 0, "the disk decayed, and nothing was damaged");
    assert!(pushes > SEEDS, "subscribers heard little: {pushes} pushes");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    let kinds = [
        "power_loss",
        "process_kill",
        "late_write",
        "write_error",
        "short_write",
        "sync_error",
        "directory_sync_error",
        "no_space",
        "no_descriptors",
        "read_error",
        "slow_period",
        "bit_flip",
        "lost_write",
        "misdirected_write",
    ];
    for kind in kinds {
        assert!(faults.get(kind).is_some_and(|count| *count > 0), "{kind} never came");
    }
}

#[test]
fn the_same_seed_is_the_same_history() {
    for seed in [0, 17, 404] {
        assert_eq!(world::run(seed), world::run(seed), "seed {seed}");
    }
}
