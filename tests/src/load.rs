//! The real server under load for long, and under more load than it can take.

mod cgroup;
mod hostile;
mod line;
pub mod overload;
pub mod sample;
pub mod soak;
