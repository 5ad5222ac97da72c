//! The simulator: a world in one thread, whose history is its seed.
//!
//! ```text
//! Random (seed) ──► Choose ──► Disk: directories ► files ► live image, unsynced, durable image
//!                              ├─► atlas (images, damages) ─► oracle
//!                              └─► fingerprint ─► replay check
//! ```

pub mod choose;
pub mod client;
pub mod disk;
pub mod fingerprint;
pub mod oracle;
pub mod random;
pub mod world;
