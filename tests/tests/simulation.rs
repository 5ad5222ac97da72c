//! Whole nodes in simulated worlds: many seeds, each with crashes and power cuts, half of them with
//! a disk that fails. A seed that breaks a promise prints the command that replays it.

use catena_tests::sim::{range, shrink::Bounds, world};

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
fn a_cluster_loses_nothing_whatever_befalls_its_nodes() {
    for (nodes, seeds) in [(2, 60), (3, 120), (5, 40)] {
        let summary = range::run_within(0..seeds, &Bounds { nodes, ..Bounds::default() });
        println!("{nodes} nodes: {}", summary.line());
        let shrunk = summary.shrunk.unwrap_or_default();
        assert!(summary.broken.is_empty(), "{}\n{shrunk}", summary.broken.join("\n"));
    }
}

#[test]
fn the_same_seed_is_the_same_history() {
    for seed in [0, 17, 404] {
        assert_eq!(world::run(seed), world::run(seed), "seed {seed}");
        let cluster = Bounds { nodes: 3, ..Bounds::default() };
        let run = || world::run_within(seed, &cluster);
        assert_eq!(run(), run(), "seed {seed} of three nodes");
    }
}
