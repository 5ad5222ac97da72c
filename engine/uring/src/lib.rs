//! Floor 1: the hands. They perform a log's operations with glommio's direct files and decide
//! nothing. One [`Hands`] an executor; memory, files and completions stay on it.
//!
//! The only `unsafe` here lends descriptors that the runtime owns, and hands sockets over.

mod hands;
mod memory;
mod probe;
mod socket;

pub use hands::{Folder, Hands, HandsOptions, HandsStats};
pub use memory::{BufferId, DmaMemory, Share};
pub use probe::{
    DirectoryLock, Findings, LockError, ProbeError, create_directory, lock_directory, lock_holder,
    probe,
};
pub use socket::{attach_stream, detach_stream, stream_descriptor};
