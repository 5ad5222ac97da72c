//! Simulated chains: replicas of one partition, each on a simulated disk, with links that break, a
//! control plane that falls silent, and producers that send again. One thread, one seed, one
//! history.
//!
//! ```text
//! Control: configurations in their order ──► nodes learn them, late
//! Producer ──► head ──► Network: in order, broken, one way, late ──► middle ──► tail
//!                └ Replica ◄─► Disk: crashes, power cuts, errors
//! Books: one batch at an offset, for ever; what was acknowledged is there, once, in its order
//! ```

pub mod books;
pub mod control;
pub mod deeds;
pub mod network;
pub mod producer;
pub mod range;
mod world;

pub use self::world::Report;

/// Runs one seed, of so many nodes if that is said; prints what happens if that is wanted.
///
/// # Errors
/// Says what was broken.
pub fn run(seed: u64, nodes: Option<usize>, told: bool) -> Result<Report, String> {
    world::World::new(seed, nodes, world::Told { on: told }).run()
}
