//! What a session has on its way: reads from the disk, and answers that its client has not read.
//!
//! A client that asks for much, or reads slowly, holds up itself and nobody else: what goes beyond
//! its window waits, in the order of asking, for what it has on its way to end.

use std::collections::{BTreeMap, VecDeque};

use catena_format::PartitionUid;
use catena_log::{Now, io::Memory};

use crate::{
    cores::Content,
    held::Waiter,
    node::{Node, SessionId},
};

/// A session with so much unread gets no more pushes.
const PUSHES_BYTES_MAX: u64 = 4 << 20;
/// What is read for one push, at most, when no single batch is larger.
const PUSH_BYTES_MAX: usize = 1 << 20;
/// The same while clients leave much unread.
const PUSH_BYTES_SCARCE: usize = 64 << 10;
/// A session whose fetches have so much on its way begins no further one.
const FETCHES_BYTES_MAX: u64 = 32 << 20;
/// The least that a read for a fetch counts, however little was asked for.
pub(crate) const FETCH_BYTES_MIN: u64 = 64 << 10;

/// A part of a session's window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Charge {
    session: SessionId,
    bytes: u64,
    kind: Kind,
}

/// What a window is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Push,
    Fetch,
}

/// Something sent whose bytes wait for the client to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pushed {
    /// The core of the window.
    core: u16,
    charge: Charge,
}

impl Pushed {
    pub(crate) fn session(&self) -> SessionId {
        self.charge.session
    }
}

/// Of one session: what counts, and what waits.
struct Window<T> {
    bytes: u64,
    waiting: VecDeque<T>,
}

/// Windows of the sessions that have something on its way.
pub(crate) struct Windows<T> {
    kind: Kind,
    total: u64,
    sessions: BTreeMap<SessionId, Window<T>>,
}

/// Of the subscriptions of a core, by their names in the session.
pub(crate) type Pushing = Windows<u32>;
/// Of the fetches on a core.
pub(crate) type Fetching = Windows<(PartitionUid, Waiter)>;

impl<T> Windows<T> {
    fn new(kind: Kind) -> Self {
        Self { kind, total: 0, sessions: BTreeMap::new() }
    }

    fn bytes(&self, session: SessionId) -> u64 {
        self.sessions.get(&session).map_or(0, |window| window.bytes)
    }

    fn of(&mut self, session: SessionId) -> &mut Window<T> {
        let empty = || Window { bytes: 0, waiting: VecDeque::new() };
        self.sessions.entry(session).or_insert_with(empty)
    }

    /// Counts bytes until the charge is given back.
    pub(crate) fn charge(&mut self, session: SessionId, bytes: u64) -> Charge {
        self.total += bytes;
        self.of(session).bytes += bytes;
        Charge { session, bytes, kind: self.kind }
    }

    pub(crate) fn subtract(&mut self, charge: Charge) {
        // The session may be gone, with all it held.
        if let Some(window) = self.sessions.get_mut(&charge.session) {
            window.bytes -= charge.bytes;
            self.total -= charge.bytes;
        }
    }

    /// Has something wait for room.
    pub(crate) fn wait(&mut self, session: SessionId, what: T) {
        self.of(session).waiting.push_back(what);
    }

    /// The next that waits; a session of which nothing is left is forgotten.
    pub(crate) fn next(&mut self, session: SessionId) -> Option<T> {
        let window = self.sessions.get_mut(&session)?;
        let next = window.waiting.pop_front();
        if next.is_none() && window.bytes == 0 {
            self.sessions.remove(&session);
        }
        next
    }

    fn forget(&mut self, session: SessionId) {
        self.total -= self.sessions.remove(&session).map_or(0, |window| window.bytes);
    }
}

impl Pushing {
    pub(crate) fn of_pushes() -> Self {
        Self::new(Kind::Push)
    }

    /// How much may be read for a session's next push. A session that has left nothing unread is
    /// never held up, so that whatever waits has something of its own to wait for.
    pub(crate) fn room(&self, session: SessionId, core_max: u64) -> Option<usize> {
        let own = self.bytes(session);
        match self.total < core_max {
            true if own < PUSHES_BYTES_MAX => Some(PUSH_BYTES_MAX),
            false if own == 0 => Some(PUSH_BYTES_SCARCE),
            _ => None,
        }
    }
}

impl Fetching {
    pub(crate) fn of_fetches() -> Self {
        Self::new(Kind::Fetch)
    }

    /// Whether another fetch of a session may begin.
    pub(crate) fn has_room(&self, session: SessionId, core_max: u64) -> bool {
        self.bytes(session) < FETCHES_BYTES_MAX.min(core_max)
    }
}

impl<M: Memory + Clone> Node<M> {
    /// The client's side of the connection has the bytes of a push or of an answer.
    pub fn on_pushed(&mut self, pushed: Pushed, now: Now) {
        if pushed.core == self.core {
            self.give_back(pushed.charge, now);
        } else {
            self.send_parcel(pushed.core, Content::Pushed(pushed));
        }
    }

    /// What is on its way no more makes room for what waits.
    pub(crate) fn give_back(&mut self, charge: Charge, now: Now) {
        match charge.kind {
            Kind::Push => {
                self.pushing.subtract(charge);
                self.push_on(charge.session);
            }
            Kind::Fetch => {
                self.fetching.subtract(charge);
                self.fetch_on(charge.session, now);
            }
        }
    }

    /// A charge that lasts until the client has the bytes that were sent for it.
    pub(crate) fn until_read(&self, charge: Charge) -> Pushed {
        Pushed { core: self.core, charge }
    }

    /// The answer to a fetch, just sent, counts until the client has it. One that goes through
    /// another core is a copy, and counts no more.
    pub(crate) fn charge_answer(&mut self, session: SessionId, bytes: u64) {
        let core = self.core;
        let sent = self.sends.back_mut().filter(|send| send.session == session);
        if let Some(send) = sent.filter(|_| bytes > 0 && session.core == core) {
            let charge = self.fetching.charge(session, bytes);
            send.pushed = Some(Pushed { core, charge });
        }
    }

    /// A session is gone, with all that waited for it.
    pub(crate) fn forget_windows(&mut self, session: SessionId) {
        self.pushing.forget(session);
        self.fetching.forget(session);
    }
}
