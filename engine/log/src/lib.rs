//! Floor 1: the log of one partition. It decides what to write and never writes: operations leave
//! through `poll_op`, completions enter through `on_done`. No clock, no thread, no file here.
#![forbid(unsafe_code)]

pub mod io;
