//! The front end for threads.
//!
//! A [`Client`] asks and waits for the answer. A [`Producer`] and a [`Consumer`] have threads and
//! connections of their own.

mod client;
mod connection;
mod consumer;
mod driver;
mod producer;

pub use client::Client;
pub use connection::{Connection, Response};
pub use consumer::Consumer;
pub use producer::Producer;
