//! Time as an argument: no room below the shells reads a clock.

use std::time::Duration;

use catena_format::Millis;

/// The moment an input arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// Unix time, which may jump: for append times and retention only.
    pub wall: Millis,
    /// Since some fixed moment of this process, never going back: for every timer.
    pub monotonic: Duration,
}
