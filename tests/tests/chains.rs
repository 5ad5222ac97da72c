//! Simulated chains: a dose of them, and that a seed is one history.

use catena_tests::chains::{self, range};

#[test]
fn chains_lose_nothing_and_come_together_again() {
    let summary = range::run(0..800, None);
    assert!(summary.broken.is_empty(), "{:#?}", summary.broken);
}

#[test]
fn chains_of_any_length_do() {
    for nodes in 2..=5 {
        let summary = range::run(10_000..10_040, Some(nodes));
        assert!(summary.broken.is_empty(), "{nodes} nodes: {:#?}", summary.broken);
    }
}

#[test]
fn a_seed_is_one_history() {
    for seed in [3, 17, 208] {
        let [first, second] = [(); 2].map(|()| chains::run(seed, None, false).unwrap());
        assert_eq!(first, second);
        assert_ne!(first, chains::run(seed + 1, None, false).unwrap());
    }
}
