//! Who asks where the partitions of a topic are, and when.
//!
//! ```text
//! known ──(lost, refused, silent)──> doubted ──(who refused, one that is up, a scout)──> asked
//!   ^                                   ^──────────(no answer, or nothing newer)─────────┘ │
//!   └────────────────────────────────────────────────────────(what is newer)───────────────┘
//! ```
//!
//! One node after the other is asked, and when all were, all again after a pause that grows.

use std::time::{Duration, Instant};

use catena_format::{PartitionIndex, TopicId};
use catena_wire::{
    Api, ErrorCode, HeadAddress, Message, MetadataRequest, MetadataResponse, TopicMetadata,
};

use super::{
    backoff::Backoff,
    lane::Lane,
    link::Answer,
    nodes::{Dial, Nodes},
    routes::{Place, Routes},
    session::Session,
};
use crate::error::Error;

/// The shortest time from an answer to the next question, if nothing was lost in between.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// A node that owes an answer for so long may be gone: others are asked.
pub(crate) const SUSPECT: Duration = Duration::from_millis(500);

/// A question that was asked.
#[derive(Debug)]
struct Asked {
    lane: Lane,
    address: String,
    correlation: u32,
    /// Whether there was a doubt about partitions in use.
    urgent: bool,
    /// When another is asked instead.
    until: Instant,
}

/// The partitions of a topic and their lanes. Another node may become the head, and a server may
/// have other cores after a restart, so it is asked again when a connection was lost or a request
/// refused; until there is an answer, requests go where they went. Partitions may be added, so it
/// is asked now and then.
#[derive(Debug)]
pub(crate) struct Places {
    topic: TopicId,
    routes: Routes,
    /// Those that may be used.
    partitions: u32,
    asked: Option<Asked>,
    /// Before then none is asked again, for all were.
    pause: Option<Instant>,
    /// Somebody named a partition that is not known: until there is an answer, a connection is made
    /// to ask.
    wished: bool,
    /// How often to ask whether there are more partitions; `None`: nobody wants to know.
    refresh: Option<Duration>,
    /// When to ask that again; `None`: that was not decided yet, or is never.
    again: Option<Instant>,
    /// When a server last answered.
    told: Option<Instant>,
    backoff: Backoff,
}

impl Places {
    /// As one of `nodes` just said.
    pub(crate) fn of(
        topic: &TopicMetadata<'_>,
        nodes: Nodes,
        refresh: Option<Duration>,
        seed: u64,
    ) -> Self {
        let mut routes = Routes::new(nodes);
        routes.learn(topic);
        Self {
            topic: topic.id,
            routes,
            partitions: u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX),
            asked: None,
            pause: None,
            wished: false,
            refresh: refresh.map(|refresh| refresh.max(PAUSE_MIN)),
            again: None,
            told: None,
            backoff: Backoff::new(seed),
        }
    }

    /// Partitions that may be used: those of the beginning, and since then those that served.
    pub(crate) fn partitions(&self) -> u32 {
        self.partitions
    }

    fn place(&self, partition: u32) -> Place {
        (self.topic, PartitionIndex::new(partition))
    }

    /// The lane of a partition that somebody told of.
    pub(crate) fn lane(&self, partition: u32) -> Lane {
        self.routes.lane(self.place(partition)).unwrap_or(Lane::SCOUT)
    }

    /// Whether a partition may be elsewhere by now.
    pub(crate) fn is_doubted(&self, partition: u32) -> bool {
        self.routes.is_doubted(self.place(partition))
    }

    /// Whether a partition is on that lane.
    pub(crate) fn uses(&self, lane: Lane) -> bool {
        self.routes.uses(lane)
    }

    /// Whether there are several servers to ask.
    pub(crate) fn several(&self) -> bool {
        self.routes.nodes.count() > 1
    }

    /// Whether a server did not answer in time, a short while ago.
    pub(crate) fn is_silent(&self, address: &str, now: Instant) -> bool {
        self.routes.nodes.is_silent(address, now)
    }

    /// Where a lane's next connection goes, and how long that may take: `wait` if it must be that
    /// node.
    pub(crate) fn dial(&mut self, lane: Lane, wait: Duration, now: Instant) -> Dial {
        let nodes = &mut self.routes.nodes;
        let wait = if lane == Lane::SCOUT { wait.min(nodes.patience()) } else { wait };
        Dial { address: nodes.address(lane.node, now), wait }
    }

    /// A partition is served on a lane.
    pub(crate) fn on_served(&mut self, partition: u32, lane: Lane) {
        if self.routes.on_served(self.place(partition), lane) {
            self.backoff.reset();
            self.pause = None;
            self.routes.nodes.on_news();
        }
    }

    /// A partition is not served on a lane, as it says itself.
    pub(crate) fn on_refused(&mut self, partition: u32, lane: Lane) {
        self.routes.on_refused(self.place(partition), lane);
    }

    /// A node that does not serve a partition says which one does; whether that is new.
    pub(crate) fn on_redirect(&mut self, partition: u32, head: &HeadAddress<'_>) -> bool {
        let news = self.routes.on_redirect(self.place(partition), head);
        if news {
            self.backoff.reset();
            self.pause = None;
        }
        news
    }

    /// Bytes came from a server.
    pub(crate) fn on_heard(&mut self, address: &str) {
        self.routes.nodes.on_heard(address);
    }

    /// When a lane that owes an answer since then is suspected; `None`: nobody else could be asked.
    pub(crate) fn suspects_at(&self, lane: Lane, since: Instant) -> Option<Instant> {
        (lane != Lane::SCOUT && self.several()).then(|| since + SUSPECT)
    }

    /// Has others asked about a lane that owes an answer since then, if that is long ago.
    pub(crate) fn suspect(&mut self, lane: Lane, address: &str, since: Instant, now: Instant) {
        if self.suspects_at(lane, since).is_some_and(|at| now >= at) {
            self.routes.doubt_lane(lane);
            self.on_silent(address, now);
        }
    }

    /// A server did not answer in time.
    pub(crate) fn on_silent(&mut self, address: &str, now: Instant) {
        self.routes.nodes.on_silent(address, now);
    }

    /// There may be more partitions, for somebody named one.
    pub(crate) fn wish(&mut self) {
        self.wished = true;
    }

    /// From when on there is something to ask; `urgent`: about partitions that are in use.
    fn due(&self, urgent: bool) -> Option<Due> {
        let soon = self.told.map(|told| told + PAUSE_MIN);
        let wished = self.wished.then_some(Due(soon.max(self.pause)));
        let doubted = urgent.then_some(Due(self.pause));
        [wished, doubted].into_iter().flatten().min()
    }

    /// Whether a question on a connection may be answered soon.
    fn may_ask(&self, session: &Session, now: Instant) -> bool {
        session.is_up() && self.routes.nodes.may_ask(session.address(), now)
    }

    /// Whether a scout is needed to ask, where no other connection can be asked. One that has had
    /// its answer is not: the next one goes elsewhere.
    pub(crate) fn scouts<'l>(
        &self,
        urgent: bool,
        mut lines: impl Iterator<Item = (Lane, &'l Session)>,
        now: Instant,
    ) -> bool {
        if let Some(asked) = &self.asked {
            return asked.lane == Lane::SCOUT;
        }
        let due = self.due(urgent).is_some_and(|due| due.is_over(now));
        due && !lines.any(|(lane, line)| match lane {
            Lane::SCOUT => line.is_up() && !self.may_ask(line, now),
            _ => self.may_ask(line, now),
        })
    }

    /// Asks on one of these connections, when there is a doubt or it is time: that of whoever
    /// refused, if it can be, since it knows why.
    pub(crate) fn ask<'l>(
        &mut self,
        urgent: bool,
        lines: impl Iterator<Item = (Lane, &'l mut Session)>,
        now: Instant,
    ) {
        self.again = self.again.or_else(|| self.later(now));
        let due = self.due(urgent).is_some_and(|due| due.is_over(now));
        if self.asked.is_some() || !due && self.again.is_none_or(|again| now < again) {
            return;
        }
        let refuser = self.routes.refuser();
        // It may have been asked before it knew.
        let lines = lines.filter(|(lane, line)| {
            let refused = Some(*lane) == refuser && line.is_up();
            refused || self.may_ask(line, now)
        });
        let first = lines.min_by_key(|(lane, _)| (Some(*lane) != refuser, *lane));
        let Some((lane, session)) = first else { return };
        let address = session.address().to_owned();
        let Some(link) = session.link() else { return };
        let name = self.routes.name(self.topic).unwrap_or_default();
        let request = MetadataRequest { names: vec![name.into()] };
        match link.request(Api::Metadata, &request, &[]) {
            Ok(correlation) => {
                let until = now + self.routes.nodes.patience();
                self.asked = Some(Asked { lane, address, correlation, urgent, until });
                self.routes.take_refuser();
            }
            Err(_) => self.on_nothing(&address, now),
        }
    }

    /// When to ask again though there is no doubt.
    fn later(&mut self, now: Instant) -> Option<Instant> {
        now.checked_add(self.backoff.shorten(self.refresh?))
    }

    /// What was asked there came to nothing new: others are asked, or all again after a pause.
    fn on_nothing(&mut self, address: &str, now: Instant) {
        if self.routes.nodes.on_asked(address, now) {
            self.pause = Some(now + self.backoff.pause());
        }
    }

    /// A lane's connection was lost, and with it what was asked on it.
    pub(crate) fn on_lost(&mut self, lane: Lane, address: &str, now: Instant) {
        self.routes.doubt_lane(lane);
        if lane == Lane::SCOUT {
            self.routes.nodes.on_failed();
        }
        if self.asked.take_if(|asked| asked.lane == lane).is_some() || lane == Lane::SCOUT {
            self.on_nothing(address, now);
        }
    }

    /// A lane's connection is ended because nothing needs it.
    pub(crate) fn on_closed(&mut self, lane: Lane) {
        self.asked.take_if(|asked| asked.lane == lane);
    }

    /// Whether a scout takes too long to answer. Where another lane does, others are asked.
    pub(crate) fn is_late(&mut self, now: Instant) -> bool {
        let late = |asked: &Asked| now >= asked.until;
        if self.asked.as_ref().is_some_and(|asked| late(asked) && asked.lane == Lane::SCOUT) {
            return true;
        }
        if let Some(asked) = self.asked.take_if(|asked| late(asked)) {
            self.routes.nodes.on_failed();
            self.routes.nodes.on_silent(&asked.address, now);
        }
        false
    }

    /// Takes an answer, if it is that to what was asked: `true`.
    pub(crate) fn on_answer(
        &mut self,
        lane: Lane,
        correlation: u32,
        answer: &Result<Answer, Error>,
        now: Instant,
    ) -> bool {
        let same = |asked: &mut Asked| (asked.lane, asked.correlation) == (lane, correlation);
        let Some(asked) = self.asked.take_if(same) else { return false };
        (self.told, self.wished, self.again) = (Some(now), false, self.later(now));
        self.routes.nodes.on_answered();
        let response =
            answer.as_ref().ok().and_then(|answer| MetadataResponse::decode(&answer.head).ok());
        if let Some(response) = &response {
            self.routes.nodes.learn(&response.nodes, &asked.address);
        }
        // Of a topic that is gone, or that goes by another name now, requests tell.
        let news = match response.as_ref().map(|response| response.topics.as_slice()) {
            Some([topic]) if topic.id == self.topic => self.learn(topic),
            _ => false,
        };
        if news {
            self.backoff.reset();
            self.pause = None;
        } else if asked.urgent {
            self.on_nothing(&asked.address, now);
        }
        true
    }

    fn learn(&mut self, topic: &TopicMetadata<'_>) -> bool {
        let news = self.routes.learn(topic);
        let added = topic.partitions.iter().skip(self.partitions as usize);
        let serving = added.take_while(|partition| partition.error == ErrorCode::None).count();
        self.partitions = self.partitions.saturating_add(u32::try_from(serving).unwrap_or(0));
        news
    }

    /// When there is something to ask, or an answer is late.
    pub(crate) fn timeout(&self, urgent: bool) -> Option<Instant> {
        match &self.asked {
            Some(asked) => Some(asked.until),
            None => self.due(urgent).and_then(|due| due.0).into_iter().chain(self.again).min(),
        }
    }
}

/// The time from when on something is to be done; `None`: at once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Due(Option<Instant>);

impl Due {
    fn is_over(self, now: Instant) -> bool {
        self.0.is_none_or(|at| now >= at)
    }
}
