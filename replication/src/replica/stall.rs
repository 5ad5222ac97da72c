//! Who holds a chain up: seen by its head, and of who joins behind it by its tail.
//!
//! A member does so when it has come no further for a while, lacks what was appended before that,
//! and nobody before it lacks it. Who is slow but goes on does not: it makes acknowledgements late,
//! and a chain without it has a copy less.

use std::time::Duration;

use catena_format::{Epoch, Offset};
use catena_log::{Now, io::Memory};

use super::{Event, Replica, extent, ready};
use crate::chain::{MemberId, Progress, Role, Side};

/// It is looked so often within the time that a member has.
const LOOKS: u32 = 8;
/// Who has not been heard of in this epoch has so many times that time: its log may have to be cut
/// and opened anew first.
const UNHEARD: u32 = 10;
/// How long the permission to wait for a joiner counts, and after which it is asked for again.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// How far something had come when it was looked, and since when.
#[derive(Clone, Copy)]
struct Mark {
    at: Option<Offset>,
    since: Duration,
}

impl Mark {
    fn look(&mut self, at: Option<Offset>, now: Now) {
        if self.at != at {
            *self = Self { at, since: now.monotonic };
        }
    }

    /// Whether it has come no further for so long.
    fn is_still(&self, after: Duration, now: Now) -> bool {
        let after = if self.at.is_some() { after } else { after * UNHEARD };
        now.monotonic.saturating_sub(self.since) >= after
    }

    fn lacks(&self, wanted: Offset) -> bool {
        self.at.unwrap_or_default() < wanted
    }
}

/// A member, as far as it was heard of.
#[derive(Clone, Copy)]
struct Seen {
    received: Mark,
    durable: Mark,
}

impl Seen {
    fn new(now: Now) -> Self {
        let mark = Mark { at: None, since: now.monotonic };
        Self { received: mark, durable: mark }
    }

    fn look(&mut self, progress: Option<Progress>, now: Now) {
        self.received.look(progress.map(|progress| progress.received), now);
        self.durable.look(progress.map(|progress| progress.durable), now);
    }
}

/// What is watched.
#[derive(Default)]
pub(super) struct Watch {
    /// When it is looked next.
    at: Duration,
    /// What waits to be committed, and since when.
    waits: Option<(Offset, Duration)>,
    /// The members, from head to tail.
    members: Vec<Seen>,
    joiner: Option<Seen>,
    /// Until when the tail may begin to wait for the joiner.
    may_close: Option<Duration>,
    ask_close: Duration,
}

impl<M: Memory + Clone> Replica<M> {
    /// Whether something is waited for that others have to do.
    pub(super) fn next_watch(&self) -> Duration {
        let waits = match self.member.role() {
            Role::Head => {
                self.log().is_some_and(|log| self.member.high_watermark() < log.log_end())
            }
            _ => false,
        };
        if waits || self.joiner().is_some() { self.watch.at } else { Duration::MAX }
    }

    /// Looks whether somebody holds the chain up.
    pub(super) fn watch(&mut self, now: Now) {
        self.ask_to_close(now);
        if now.monotonic < self.watch.at {
            return;
        }
        let after = self.config.evict_after;
        self.watch.at = now.monotonic + after / LOOKS;
        let stalled = self.stalled_member(after, now).or_else(|| self.stalled_joiner(after, now));
        if let (Some(member), Some(epoch)) = (stalled, self.member.epoch()) {
            self.watch.at = now.monotonic + after;
            self.events.push_back(Event::Stalled { epoch, member });
        }
    }

    /// Who of the chain does, as its head sees it.
    fn stalled_member(&mut self, after: Duration, now: Now) -> Option<MemberId> {
        let log = ready(&mut self.state, self.cut.as_ref())?;
        let log = extent(log);
        let chain = self.member.configuration().filter(|chain| chain.is_enough())?;
        let committed = self.member.high_watermark();
        if self.member.role() != Role::Head || committed >= log.end {
            self.watch.waits = None;
            self.watch.members.clear();
            return None;
        }
        let own = Progress { received: log.end, durable: log.durable };
        let behind = self.member.progress(Side::Successor).iter().copied();
        let mut progress = std::iter::once(own).chain(behind);
        let members = &mut self.watch.members;
        members.resize(chain.chain.len(), Seen::new(now));
        members.iter_mut().for_each(|seen| seen.look(progress.next(), now));
        let (wanted, since) = *self.watch.waits.get_or_insert((log.end, now.monotonic));
        if committed >= wanted {
            self.watch.waits = Some((log.end, now.monotonic));
            return None;
        }
        if now.monotonic.saturating_sub(since) < after {
            return None;
        }
        let (at, mark) = match members.iter().position(|seen| seen.received.lacks(wanted)) {
            Some(first) => (first, members[first].received),
            // All have it. One disk alone may be what is waited for.
            None => {
                let mut lacks = members.iter().enumerate();
                let mut lacks = lacks.by_ref().filter(|(_, seen)| seen.durable.lacks(wanted));
                let (at, seen) = lacks.next()?;
                (at, lacks.next().is_none().then_some(seen.durable)?)
            }
        };
        chain.chain.get(at).copied().filter(|_| mark.is_still(after, now))
    }

    /// Who joins behind this tail, and comes no closer.
    fn stalled_joiner(&mut self, after: Duration, now: Now) -> Option<MemberId> {
        let Some(joiner) = self.joiner() else {
            self.watch.joiner = None;
            return None;
        };
        if self.waits_to_copy() {
            // He waits for this node.
            self.watch.joiner = None;
        }
        let end = self.log()?.log_end();
        let progress = self.member.progress(Side::Joiner).first().copied();
        let seen = self.watch.joiner.get_or_insert(Seen::new(now));
        seen.look(progress, now);
        let complete = !seen.durable.lacks(end);
        let limit = if self.member.is_joint() { after } else { after * UNHEARD };
        let still = seen.received.is_still(limit, now) && seen.durable.is_still(limit, now);
        (still && !complete).then_some(joiner)
    }

    /// Who joins behind this node, if it is the tail.
    fn joiner(&self) -> Option<MemberId> {
        let tail = matches!(self.member.role(), Role::Solo | Role::Tail);
        self.member.configuration().filter(|_| tail)?.joining
    }

    /// Whether all there is was sent to the joiner, and no more than a window is on its way.
    fn joiner_is_close(&mut self) -> bool {
        let Some(log) = ready(&mut self.state, self.cut.as_ref()) else { return false };
        let unsent = self.member.unsent(Side::Joiner, &extent(log));
        self.member.link(Side::Joiner).is_some() && unsent.is_none_or(|range| range.is_empty())
    }

    /// Begins to wait for the joiner, if that is allowed.
    pub(super) fn close_in(&mut self) -> bool {
        let closes =
            self.watch.may_close.is_some() && !self.member.is_joint() && self.joiner_is_close();
        if closes {
            self.member.on_joiner_close();
        }
        closes
    }

    /// Only another epoch ends the waiting for a joiner: before it begins, it must be known that
    /// there can be one.
    fn ask_to_close(&mut self, now: Now) {
        if self.member.is_joint() || self.joiner().is_none() {
            return;
        }
        self.watch.may_close = self.watch.may_close.filter(|until| now.monotonic < *until);
        let asks = self.watch.may_close.is_none() && self.watch.ask_close <= now.monotonic;
        if asks
            && self.joiner_is_close()
            && let (Some(joiner), Some(epoch)) = (self.joiner(), self.member.epoch())
        {
            self.watch.ask_close = now.monotonic + CLOSE_WITHIN;
            self.events.push_back(Event::JoinClose { epoch, joiner });
        }
    }

    /// The answer to an [`Event::JoinClose`]: what was thought of in this epoch can be ordered.
    pub fn on_close_allowed(&mut self, epoch: Epoch, now: Now) {
        if self.member.epoch() == Some(epoch) {
            self.watch.may_close = Some(now.monotonic + CLOSE_WITHIN);
            self.go_on(now);
        }
    }
}
