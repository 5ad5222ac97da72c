//! What the client decides, without sockets, threads or a clock: bytes in, bytes out.
//!
//! ```text
//!              append ┌──────────┐ Settled                 ┌────────┐ batches
//! application ───────>│ Producer │────────> tickets        │ Reader │────────> application
//!                     └────┬─────┘                         └───┬────┘
//!                  ┌───────┴──────────────────────────────────-┴───────┐
//!                  │ Session: connect, shake hands, back off           │
//!                  │  └ Link: TLS, frames, correlation ids, limits     │
//!                  └───────┬───────────────────────────────────────────┘
//! sockets  on_connected, on_bytes, on_lost │ step: Connect, Close, Send, Wait until, Done
//! ```
//!
//! There is a session for each core of each node that owns a partition in use: a [`Lane`]. Which
//! that is [`routes::Routes`] knows; [`places::Places`] asks the nodes again when there is a doubt.
//!
//! Inputs are calls named `on_*`, which get the time as an argument; what is to be done is fetched
//! with `step`. The front ends, `blocking` and `tokio`, do it.

pub(crate) mod backoff;
pub(crate) mod call;
pub(crate) mod lane;
pub(crate) mod link;
pub(crate) mod nodes;
pub(crate) mod partition;
pub(crate) mod partitioner;
pub(crate) mod places;
pub(crate) mod producer;
pub(crate) mod reader;
pub(crate) mod routes;
#[cfg(feature = "tls")]
pub(crate) mod secure;
#[cfg(not(feature = "tls"))]
#[path = "insecure.rs"]
pub(crate) mod secure;
pub(crate) mod session;
#[cfg(test)]
mod tests;

use std::time::Instant;

use self::{lane::Lane, nodes::Dial};
use crate::error::Error;

/// What a state machine wants done next.
#[derive(Debug)]
pub(crate) enum Step {
    /// Make a connection for a lane that has none, then `on_connected` or `on_lost`.
    Connect(Lane, Dial),
    /// Drop the lane's connection, whether it is there or not yet.
    Close(Lane),
    /// Send these bytes.
    Send(Lane, Vec<u8>),
    /// Nothing until bytes come, something is appended, or the time is there.
    Wait(Option<Instant>),
    /// Nothing ever again.
    Done,
}

/// A state machine behind a lock, as the front ends drive it.
pub(crate) trait Driven: Send + Sync {
    /// The connection asked for is there.
    fn on_connected(&self, lane: Lane, now: Instant);
    /// Bytes came on it.
    fn on_bytes(&self, lane: Lane, bytes: &[u8], now: Instant);
    /// It could not be made, or broke.
    fn on_lost(&self, lane: Lane, error: Error, now: Instant);
    /// What to do next.
    fn step(&self, now: Instant) -> Step;
    /// Nobody drives it any more: whoever waits must hear of it.
    fn on_abandoned(&self);
}
