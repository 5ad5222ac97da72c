//! Floor 1: the log of one partition. It decides what to write and never writes: operations leave
//! through `poll_op`, completions enter through `on_done`. No clock, no thread, no file here.
#![forbid(unsafe_code)]

mod append;
mod cold;
pub mod config;
mod flight;
pub mod fold;
mod group;
pub mod image;
mod index;
pub mod io;
mod keeper;
mod log;
mod maintain;
mod manifest;
mod opening;
mod purse;
pub mod read;
mod repair;
mod scan;
pub mod scrub;
mod space;
pub mod stage;
mod tail;
pub mod time;
pub mod view;
pub mod walk;

pub use append::{AppendError, Appended};
pub use config::LogConfig;
pub use fold::Fold;
pub use log::{Event, Log, LogStats, ReadAnswer};
pub use manifest::LogIdentity;
pub use opening::{Cut, OpenError, Opening, RecoveryReport};
pub use read::{Batches, Finding, ReadError, ReadId, ReadOutcome, Stamp};
pub use repair::RepairError;
pub use time::Now;
