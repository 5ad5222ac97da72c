//! What the threads of nodes say to each other, on a listener apart from the clients'.
//!
//! ```text
//! connection  ┌ preface 16 B ┐ ┌ hello │ welcome ┐ ┌ frame ┐ ┌ frame ┐ …   both ways
//! frame       ┌ header 24 B ─┬ head ─┬ payload: batches, or a fold, or nothing ┐
//! ```
//!
//! Numbers, texts, lists and tails stand as they do in the clients' protocol. Each frame has a CRC
//! over its header, its head and the first 16 bytes of each batch; over the rest of a batch goes
//! the CRC in its stamp, which was taken at the head's socket and is checked by whoever stores the
//! batch. `docs/peer-protocol.md` draws every byte.

mod batches;
mod error;
mod frame;
mod message;
mod preface;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod properties;

pub use self::{
    batches::batch_lengths,
    error::PeerError,
    frame::{PEER_VERSION, PeerFrame, PeerHeader},
    message::{
        Admitted, BatchStamp, ChainAppend, ChainCommit, ChainHello, ChainWelcome, EpochStart,
        Fenced, Join, MemberProgress, PeerHello, PeerKind, PeerMessage, PeerWelcome, Ping, Pong,
        RepairRequest, RepairResponse,
    },
    preface::{PeerPreface, PeerThread},
};
pub(crate) use preface::PREFACE_MAGIC;
