//! Which states were checked, by their hashes.

use std::{collections::HashSet, sync::Mutex};

/// The hashes of all states that were checked.
#[derive(Debug, Default)]
pub struct Seen(Mutex<HashSet<u64>>);

impl Seen {
    /// Notes a state; false when it was there.
    pub fn insert(&self, hash: u64) -> bool {
        self.0.lock().is_ok_and(|mut seen| seen.insert(hash))
    }
}
