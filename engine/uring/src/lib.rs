//! Floor 1: the hands. They perform a log's operations with glommio's direct files and decide
//! nothing. One [`Hands`] an executor; memory, files and completions stay on it.
//!
//! The only `unsafe` here lends a file's descriptor to `flock`.

mod hands;
mod memory;
mod probe;

pub use hands::{Folder, Hands, HandsOptions, HandsStats};
pub use memory::{DmaMemory, Share};
pub use probe::{
    DirectoryLock, Findings, LockError, ProbeError, lock_directory, lock_holder, probe,
};
