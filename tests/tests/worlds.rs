//! Exhaustive small worlds: all workloads of a few steps. A state that breaks a promise prints the
//! command that replays it.

use catena_tests::worlds::{
    state::Errand,
    summary::{self, Extent},
};

/// States that the dose comes to, at least.
const STATES_MIN: u64 = 20_000;
/// And that of whole nodes.
const NODE_STATES_MIN: u64 = 2_000;

fn holds(extent: Extent, states_min: u64) {
    let summary = summary::run(extent);
    println!("{}", summary.line());
    assert!(summary.broken.is_empty(), "{}", summary.broken.join("\n"));
    assert!(summary.tally.states >= states_min, "{} states", summary.tally.states);
}

#[test]
fn what_is_acknowledged_survives_every_crash_of_a_small_world() {
    holds(Extent::DOSE, STATES_MIN);
}

#[test]
fn topics_come_and_go_and_survive_every_crash_of_a_small_node() {
    holds(Extent::NODE_DOSE, NODE_STATES_MIN);
}

#[test]
fn a_disk_that_loses_a_write_is_found_out() {
    for (workload, least) in [("fua-fifo:AA", 2), ("node:fua-fifo:CAA", 3)] {
        let told = (0..40).filter(|nth| {
            let errand = Errand::parse(&format!("{workload}!lost_write.{nth}.0")).expect("a name");
            let broken = summary::replay(errand).broken;
            broken.iter().any(|broken| broken.contains("LOST"))
        });
        let told = told.count();
        assert!(told >= least, "{workload}: batches or topics were lost, and {told} times told");
    }
}
