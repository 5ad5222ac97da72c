//! The model of the chain, a dose of it: `cargo model` goes further.

use catena_tests::chain::{CHAINS, search};

/// States of each chain.
const STATES: usize = 200_000;

#[test]
fn small_chains_keep_what_they_have_committed() {
    for (name, bounds) in CHAINS {
        let found = search(bounds, STATES);
        println!("{name}: {} states, {} steps deep", found.states, found.depth);
        assert_eq!(found.broken, None, "{name}");
        assert!(found.all || found.states > STATES / 8, "{name}: {found:?}");
    }
}

#[test]
fn a_chain_commits_after_it_has_changed() {
    let later = CHAINS.iter().filter(|(_, bounds)| search(*bounds, STATES).committed_later).count();
    assert!(later >= CHAINS.len() / 2, "of {} chains only {later}", CHAINS.len());
}
