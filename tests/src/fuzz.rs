//! What arbitrary bytes must not break: one function for each decoder of what comes from the
//! network or the disk.
//!
//! `tests/fuzz` hands them inputs that cargo-fuzz makes up; `tests/tests/fuzz_corpus.rs` hands them
//! the inputs that were kept. A checksum stops most of what is made up at the door, so that each
//! target also makes the checksums right and looks again: what lies behind must hold on its own.

mod disk;
mod log;
mod peer;
mod seal;
mod stored;
mod wire;

/// A decoder, and bytes to begin with.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: of the fuzz target, and of its folder in the corpus.
    pub name: &'static str,
    /// Hands it any bytes; panics when they broke something.
    pub run: fn(&[u8]),
    /// Inputs that get far, which others are made from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target, by name.
pub const TARGETS: [Target; 9] = [
    Target { name: "batch", run: stored::batch, seeds: stored::batch_seeds },
    Target { name: "catalog", run: stored::catalog, seeds: stored::catalog_seeds },
    Target { name: "dedup", run: stored::dedup, seeds: stored::dedup_seeds },
    Target { name: "frame", run: stored::frame, seeds: stored::frame_seeds },
    Target { name: "index", run: log::index, seeds: log::index_seeds },
    Target { name: "manifest", run: log::manifest, seeds: log::manifest_seeds },
    Target { name: "peer", run: peer::frame, seeds: peer::seeds },
    Target { name: "recovery", run: log::recovery, seeds: log::recovery_seeds },
    Target { name: "wire", run: wire::frame, seeds: wire::seeds },
];

/// Hands bytes to a target.
///
/// # Panics
/// When the bytes broke something, or no target has the name.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a target has that name").run)(bytes);
}
