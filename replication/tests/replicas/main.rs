//! Chains of replicas on files in memory, told what to do by hand.

mod repair;
mod reports;
mod world;
