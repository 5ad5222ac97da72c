//! A short dose of the nemesis, on loopback; the long forms are `cargo nemesis`.

use std::{path::Path, time::Duration};

use catena_tests::{
    live,
    nemesis::{self, Plan},
};

#[test]
fn nodes_are_killed_in_turn_and_nothing_is_lost() {
    let summary = nemesis::run(&Plan {
        binary: live::binary(None).unwrap(),
        folder: Path::new(env!("CARGO_TARGET_TMPDIR")).join("nemesis-kill"),
        network: None,
        mix: nemesis::mix("kill").unwrap(),
        duration: Duration::from_secs(10),
        partitions: 3,
        floor: 5,
        seed: 1,
    })
    .unwrap();
    println!("{}", summary.line());
    assert!(summary.verdict.all() == 0, "{}", summary.verdict.told.join("\n"));
    assert!(!summary.void && summary.polled > 0 && summary.faults["kill"] > 0);
}
