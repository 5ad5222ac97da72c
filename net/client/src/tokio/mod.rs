//! The front end for tasks, behind the cargo feature `tokio`.
//!
//! A [`Client`] asks and awaits the answer. A [`Producer`] and a [`Consumer`] have a task and
//! connections of their own; both are made within a runtime with I/O and time.

mod client;
mod connection;
mod consumer;
mod driver;
mod producer;

pub use client::Client;
pub use consumer::Consumer;
pub use producer::Producer;
