//! The simulator: a world in one thread, whose history is its seed.
//!
//! ```text
//! Random (seed) ─┬► Choose ──► Disk: directories ► files ► live image, unsynced, durable image
//!                │             └─► atlas (images, damages) ─┐
//!                ├► World: cores of a node, network, clock  ├─► oracle ─► what is broken
//!                └► Clients ──► what they sent and were told ┘
//! all of it ──► fingerprint ─► replay check          range: many seeds, and what each must reach
//!                                                    shrink: what a failure does not need
//! ```

pub mod choose;
pub mod client;
pub mod deeds;
pub mod disk;
pub mod fingerprint;
pub mod oracle;
pub mod random;
pub mod range;
pub mod shrink;
pub mod wall;
pub mod world;
