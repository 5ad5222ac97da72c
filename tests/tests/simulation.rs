//! Whole nodes in simulated worlds: many seeds, each with crashes and power cuts, half of them with
//! a disk that fails. A seed that breaks a promise prints the command that replays it.

use catena_tests::sim::{range, world};

const SEEDS: u64 = 1000;

#[test]
fn acknowledged_records_survive_every_crash() {
    let summary = range::run(0..SEEDS);
    println!("{}", summary.line());
    let shrunk = summary.shrunk.unwrap_or_default();
    assert!(summary.broken.is_empty(), "{}\n{shrunk}", summary.broken.join("\n"));
    let total = summary.total;
    assert!(total.damaged > 0, "the disk decayed, and nothing was damaged");
    assert!(total.pushes > SEEDS, "subscribers heard little: {} pushes", total.pushes);
}

#[test]
fn the_same_seed_is_the_same_history() {
    for seed in [0, 17, 404] {
        assert_eq!(world::run(seed), world::run(seed), "seed {seed}");
    }
}
