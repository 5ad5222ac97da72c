//! Floor 1: the hands of tests and of tools that work on a directory without a server. They perform
//! a log's operations with ordinary files, one after another, and decide nothing.
//!
//! The contract is that of [`catena_log::io`], with less speed: no direct I/O, no descriptor is
//! kept between two operations, and a durable write is a write with a flush behind it. Memory is
//! the log's own [`Heap`]: ordinary files take bytes from anywhere.
#![forbid(unsafe_code)]

mod hands;

pub use catena_log::io::Heap;
pub use hands::{Folder, Share};
