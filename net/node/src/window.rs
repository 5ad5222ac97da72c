//! What a session has on its way: reads from the disk, and answers that its client has not read.
//!
//! A client that asks for much, or reads slowly, holds up itself and nobody else: what goes beyond
//! its window waits, in the order of asking, for what it has on its way to end.

use std::collections::{BTreeMap, VecDeque};

use catena_format::PartitionUid;
use catena_log::{Now, io::Memory};

use crate::{
    cores::Content,
    node::{Node, SessionId, Waiter},
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
    /// For what.
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Push,
    Fetch,
}

/// Something sent whose bytes wait for the client to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pushed {
    pub(crate) session: SessionId,
    /// The core of the window.
    core: u16,
    charge: Charge,
}

/// Of one session: what counts, and what waits.
struct Window<T> {
    bytes: u64,
    waiting: VecDeque<T>,
}

/// Windows of the sessions that have something on its way.
struct Windows<T> {
    total: u64,
    sessions: BTreeMap<SessionId, Window<T>>,
}

impl<T> Default for Windows<T> {
    fn default() -> Self {
        Self { total: 0, sessions: BTreeMap::new() }
    }
}

impl<T> Windows<T> {
    fn bytes(&self, session: SessionId) -> u64 {
        self.sessions.get(&session).map_or(0, |window| window.bytes)
    }

    fn of(&mut self, session: SessionId) -> &mut Window<T> {
        let empty = || Window { bytes: 0, waiting: VecDeque::new() };
        self.sessions.entry(session).or_insert_with(empty)
    }

    fn add(&mut self, session: SessionId, bytes: u64) {
        self.total += bytes;
        self.of(session).bytes += bytes;
    }

    fn subtract(&mut self, charge: Charge) {
        // The session may be gone, with all it held.
        if let Some(window) = self.sessions.get_mut(&charge.session) {
            window.bytes -= charge.bytes;
            self.total -= charge.bytes;
        }
    }

    /// The next that waits; a session of which nothing is left is forgotten.
    fn next(&mut self, session: SessionId) -> Option<T> {
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

/// Of the subscriptions of a core.
#[derive(Default)]
pub(crate) struct Pushing(Windows<u32>);

impl Pushing {
    /// How much may be read for a session's next push. A session that has left nothing unread is
    /// never held up, so that whatever waits has something of its own to wait for.
    pub(crate) fn room(&self, session: SessionId, core_max: u64) -> Option<usize> {
        let own = self.0.bytes(session);
        match self.0.total < core_max {
            true if own < PUSHES_BYTES_MAX => Some(PUSH_BYTES_MAX),
            false if own == 0 => Some(PUSH_BYTES_SCARCE),
            _ => None,
        }
    }

    pub(crate) fn charge(&mut self, session: SessionId, bytes: u64) -> Charge {
        self.0.add(session, bytes);
        Charge { session, bytes, kind: Kind::Push }
    }

    pub(crate) fn subtract(&mut self, charge: Charge) {
        self.0.subtract(charge);
    }

    pub(crate) fn wait(&mut self, session: SessionId, subscription: u32) {
        self.0.of(session).waiting.push_back(subscription);
    }

    pub(crate) fn next(&mut self, session: SessionId) -> Option<u32> {
        self.0.next(session)
    }
}

/// Of the fetches on a core.
#[derive(Default)]
pub(crate) struct Fetching(Windows<(PartitionUid, Waiter)>);

impl Fetching {
    /// Whether another fetch of a session may begin.
    pub(crate) fn room(&self, session: SessionId, core_max: u64) -> Option<()> {
        (self.0.bytes(session) < FETCHES_BYTES_MAX.min(core_max)).then_some(())
    }

    pub(crate) fn charge(&mut self, session: SessionId, bytes: u64) -> Charge {
        self.0.add(session, bytes);
        Charge { session, bytes, kind: Kind::Fetch }
    }

    pub(crate) fn subtract(&mut self, charge: Charge) {
        self.0.subtract(charge);
    }

    pub(crate) fn wait(&mut self, uid: PartitionUid, waiter: Waiter) {
        self.0.of(waiter.caller.session).waiting.push_back((uid, waiter));
    }

    pub(crate) fn next(&mut self, session: SessionId) -> Option<(PartitionUid, Waiter)> {
        self.0.next(session)
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
        Pushed { session: charge.session, core: self.core, charge }
    }

    /// The answer to a fetch, just sent, counts until the client has it. One that goes through
    /// another core is a copy, and counts no more.
    pub(crate) fn charge_answer(&mut self, session: SessionId, bytes: u64) {
        let sent = self.sends.back_mut().filter(|send| send.session == session);
        if bytes == 0 || session.core != self.core || sent.is_none() {
            return;
        }
        let charge = self.fetching.charge(session, bytes);
        let pushed = self.until_read(charge);
        if let Some(send) = self.sends.back_mut() {
            send.pushed = Some(pushed);
        }
    }

    /// A session is gone, with all that waited for it.
    pub(crate) fn forget_windows(&mut self, session: SessionId) {
        self.pushing.0.forget(session);
        self.fetching.0.forget(session);
    }
}
