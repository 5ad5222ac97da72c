//! The chain of one partition: who holds it, in which order, and what each of them may claim.
//!
//! ```text
//! Configuration (epoch, chain, joiner)    decided by the control plane, one change an epoch
//!        │ enter
//!        ▼
//!     Member ── Hello ──► predecessor     which histories they share
//!            ◄─ Welcome ─                 cut there; from there on the predecessor's log counts
//!            ◄─ Append ──                 batches, and what is durable at all before
//!            ── Commit ─►                 what is durable at all behind: the tail's word first
//! ```
//!
//! A [`Member`] decides and keeps no batch: the log it speaks for is the caller's, who tells how
//! far it reaches ([`Extent`]). After R. van Renesse and F. B. Schneider, *Chain Replication for
//! Supporting High Throughput and Availability*, OSDI 2004, with the truncation by epochs of
//! Kafka's KIP-101 and KIP-279. The model checker in `tests` runs this code.

mod configuration;
mod history;
mod member;
mod message;

pub use self::{
    configuration::{Configuration, MemberId, Role},
    history::{Extent, History},
    member::{Effect, Ignored, Member, Output, Side},
    message::{Message, Progress},
};
