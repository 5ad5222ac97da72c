//! Floor 3: orders the catalog's entries among the nodes of a cluster. What an entry means is the
//! business of a [`Machine`]; who sits in which chain is decided by what the entries say, not here.
//!
//! ```text
//! propose → leader? ─yes→ openraft → store (own thread: log, vote) → a majority has it
//!             └─no──→ link ──→ the leader's node                         │
//! told ← Machine::apply ←────────────────────────────────────────────────┘
//! ```
//!
//! openraft runs on a thread of its own, within a runtime of its own; nothing else of the node
//! waits for it. In this crate, and only here, *leader* means the node that leads the control
//! plane.
#![forbid(unsafe_code)]

mod desk;
mod driver;
mod links;
mod machine;
mod options;
mod room;
mod store;
mod teller;
mod tls;
mod types;

use std::{collections::BTreeSet, net::TcpStream, thread::JoinHandle};

use catena_format::NodeId;
use tokio::sync::{mpsc, watch};

use self::{desk::Work, driver::Command, room::Room, types::Metrics};
pub use self::{
    links::{FrameError, HandshakeRefusal},
    machine::Machine,
    options::{Begin, Options, Settings, SettingsError, StartError},
    store::{FileError, LogError, StoreError},
    teller::{Refusal, Role, Status, Told},
    tls::{Complaints, Identities, NO_TLS_HERE, Tls, name_at, speaks_tls, why_not},
};

/// One node's part in ordering entries. Dropped, it stops as with [`Consensus::stop`]; neither may
/// happen where it is told something, which would wait for itself.
pub struct Consensus {
    commands: mpsc::Sender<Command>,
    /// For what is under way, until its end was told.
    room: Room,
    entry_bytes_max: usize,
    node: NodeId,
    metrics: watch::Receiver<Metrics>,
    committed: store::Committed,
    thread: Option<JoinHandle<()>>,
}

impl Consensus {
    /// Opens the directory and takes part from then on. `told` is called on the consensus thread,
    /// from before this returns; it must not wait for anything. The first it is told is
    /// [`Told::Restored`].
    ///
    /// # Errors
    /// [`StartError`]; the directory is as it was, or a founding goes on with the next start.
    pub fn start(
        options: Options,
        begin: Begin,
        machine: impl Machine,
        told: impl Fn(Told) + Send + 'static,
    ) -> Result<Self, StartError> {
        driver::start(options, begin, Box::new(machine), Box::new(told))
    }

    /// Proposes an entry, made at `time` (ms since 1970). Exactly one of [`Told::Applied`] with
    /// this number, [`Told::Refused`] and [`Told::InDoubt`] follows. `proposal` is never used
    /// twice in an incarnation.
    ///
    /// # Errors
    /// Nothing is proposed, and nothing is told: [`Refusal::TooLarge`], [`Refusal::Busy`],
    /// [`Refusal::Stopped`].
    pub fn propose(&self, proposal: u64, time: i64, entry: Vec<u8>) -> Result<(), Refusal> {
        if entry.len() > self.entry_bytes_max {
            return Err(Refusal::TooLarge(entry.len()));
        }
        let bytes = entry.len();
        self.ask_with(bytes, Work::Propose { proposal, time, entry })
    }

    /// Has a node learn all entries, or be known under a new address. Only the leader does it;
    /// [`Told::Changed`] follows. No number is used for two requests that are under way together.
    ///
    /// # Errors
    /// [`Refusal::Busy`], [`Refusal::Stopped`]: nothing is told.
    pub fn add_learner(&self, request: u64, node: NodeId, address: String) -> Result<(), Refusal> {
        self.ask(Work::AddLearner { request, node, address })
    }

    /// Has these nodes vote, which must be known, and nobody else; the others go on learning. Only
    /// the leader does it; [`Told::Changed`] follows.
    ///
    /// # Errors
    /// [`Refusal::Busy`], [`Refusal::Stopped`]: nothing is told.
    pub fn set_voters(&self, request: u64, voters: BTreeSet<NodeId>) -> Result<(), Refusal> {
        self.ask(Work::SetVoters { request, voters })
    }

    /// Forgets a node that does not vote. Only the leader does it; [`Told::Changed`] follows.
    ///
    /// # Errors
    /// [`Refusal::Busy`], [`Refusal::Stopped`]: nothing is told.
    pub fn remove_node(&self, request: u64, node: NodeId) -> Result<(), Refusal> {
        self.ask(Work::RemoveNode { request, node })
    }

    /// Asks for the index of the last entry that anybody can have been told of by now.
    /// [`Told::Read`] follows, once the machine here has carried it out.
    ///
    /// # Errors
    /// [`Refusal::Busy`], [`Refusal::Stopped`]: nothing is told.
    pub fn read_index(&self, request: u64) -> Result<(), Refusal> {
        self.ask(Work::ReadIndex { request })
    }

    /// Serves a connection of another node, whose handshake is still to come. It is closed at once
    /// where there are too many.
    pub fn accept(&self, stream: TcpStream) {
        // A node that is not heard tries again.
        let _ = self.commands.try_send(Command::Accept(stream));
    }

    /// How things stand.
    pub fn status(&self) -> Status {
        let committed = *self.committed.lock().unwrap_or_else(|e| e.into_inner());
        let ended = self.metrics.has_changed().is_err();
        Status::of(self.node, &self.metrics.borrow(), committed, ended)
    }

    /// Ends, with all durable that was told. What is under way is told as in doubt, or as ended.
    pub fn stop(self) {
        drop(self);
    }

    fn ask(&self, work: Work) -> Result<(), Refusal> {
        self.ask_with(0, work)
    }

    fn ask_with(&self, bytes: usize, work: Work) -> Result<(), Refusal> {
        let place = self.room.take(bytes).ok_or(Refusal::Busy)?;
        self.commands.try_send(Command::Work(work, place)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refusal::Busy,
            mpsc::error::TrySendError::Closed(_) => Refusal::Stopped,
        })
    }
}

impl Drop for Consensus {
    fn drop(&mut self) {
        // The thread ends once nobody can ask it for anything.
        let (closed, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut self.commands, closed));
        if let Some(thread) = self.thread.take() {
            // It has told of its failure before it panicked, if it did.
            let _ = thread.join();
        }
    }
}
