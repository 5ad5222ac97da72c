//! Which partitions there are, and which connection the requests of each take: that to the core
//! which owns it on the head of its chain.
//!
//! ```text
//! known ──(lost, refused, silent)──> doubted ──(any connection that is up, or a scout)──> asked
//!   ^───────────────────────────────────^────────(no answer in time)───────────────────────┘ │
//!   └────────────────────────────────────────────────────────(answer)────────────────────────┘
//! ```

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use catena_format::{Epoch, NodeId, TopicId};
use catena_wire::{
    Api, ErrorCode, HandshakeResponse, Message, MetadataRequest, MetadataResponse,
    PartitionMetadata, TopicMetadata,
};

use super::{
    backoff::Backoff,
    link::{Answer, Link},
    nodes::{Dial, Nodes},
};
use crate::error::Error;

/// The shortest time from an answer to the next question, if nothing was lost in between.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// A node that owes an answer for so long may be gone: others are asked.
pub(crate) const SUSPECT: Duration = Duration::from_millis(500);

/// A connection of a state machine, named by the node and its core that are to serve it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Lane {
    /// `None`: any.
    pub(crate) node: Option<NodeId>,
    /// `None`: any.
    pub(crate) core: Option<u16>,
}

impl Lane {
    /// To any server that answers.
    pub(crate) const SCOUT: Self = Self { node: None, core: None };

    /// To the core that owns a partition, on the head of its chain.
    pub(crate) fn of(partition: &PartitionMetadata) -> Self {
        Self { node: partition.chain.first().copied(), core: Some(partition.core) }
    }

    /// Whether the server at `address` is that node, as it says itself: nodes may change their
    /// addresses, and where one is whose address is not known any server is asked.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when it is another.
    pub(crate) fn check(
        self,
        greeting: &HandshakeResponse<'_>,
        address: &str,
    ) -> Result<(), Error> {
        match self.node {
            Some(node) if node != greeting.node => {
                let text = format!("node {} answers there, not {node}", greeting.node);
                let (address, source) = (address.to_owned(), Arc::new(io::Error::other(text)));
                Err(Error::Unreachable { address, source })
            }
            _ => Ok(()),
        }
    }

    /// So that not all connections of a client do the same at once.
    pub(crate) fn seed(self, seed: u64) -> u64 {
        let node = self.node.map_or(0, NodeId::get) << 16;
        seed.rotate_left(32).wrapping_add(node | u64::from(self.core.unwrap_or(u16::MAX)))
    }
}

/// A question that was asked.
#[derive(Clone, Copy, Debug)]
struct Asked {
    lane: Lane,
    correlation: u32,
    /// Whether there was a doubt.
    doubted: bool,
    /// When another is asked instead.
    until: Instant,
}

#[derive(Debug)]
enum State {
    /// To be asked for again at that time; `None`: that was not decided yet, or is never.
    Known(Option<Instant>),
    /// To be asked for, not before this time.
    Doubted(Option<Instant>),
    Asked(Asked),
}

/// The partitions of a topic and their lanes. Another node may become the head, and a server may
/// have other cores after a restart, so it is asked again when a connection was lost or a request
/// refused; until there is an answer, requests go where they went. Partitions may be added, so it
/// is asked now and then.
#[derive(Debug)]
pub(crate) struct Places {
    topic: TopicId,
    name: String,
    pub(crate) nodes: Nodes,
    /// Of each partition, and the epoch in which it was that.
    lanes: Vec<(Lane, Epoch)>,
    /// Those that may be used.
    partitions: u32,
    state: State,
    /// One that owes an answer: others are asked.
    silent: Option<Lane>,
    /// When one was last suspected.
    suspected: Option<Instant>,
    /// Somebody named a partition that is not known: until there is an answer, a connection is made
    /// to ask.
    wished: bool,
    /// How often to ask whether there are more partitions; `None`: nobody wants to know.
    refresh: Option<Duration>,
    /// When the server last answered.
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
        let lanes: Vec<_> = topic.partitions.iter().map(|p| (Lane::of(p), p.epoch)).collect();
        Self {
            topic: topic.id,
            name: topic.name.to_string(),
            nodes,
            partitions: u32::try_from(lanes.len()).unwrap_or(u32::MAX),
            lanes,
            state: State::Known(None),
            silent: None,
            suspected: None,
            wished: false,
            refresh: refresh.map(|refresh| refresh.max(PAUSE_MIN)),
            told: None,
            backoff: Backoff::new(seed),
        }
    }

    /// Partitions that may be used: those of the beginning, and since then those that served.
    pub(crate) fn partitions(&self) -> u32 {
        self.partitions
    }

    /// The lane of a partition that somebody told of.
    pub(crate) fn lane(&self, partition: u32) -> Lane {
        self.lanes.get(partition as usize).map_or(Lane::SCOUT, |(lane, _)| *lane)
    }

    /// Whether a partition is on that lane.
    pub(crate) fn uses(&self, lane: Lane) -> bool {
        self.lanes.iter().any(|(used, _)| *used == lane)
    }

    /// Where a lane's next connection goes, and how long that may take: `wait` if it must be that
    /// node.
    pub(crate) fn dial(&mut self, lane: Lane, wait: Duration) -> Dial {
        let wait = if lane == Lane::SCOUT { wait.min(self.nodes.patience()) } else { wait };
        Dial { address: self.nodes.address(lane.node), wait }
    }

    /// It may have changed.
    pub(crate) fn doubt(&mut self) {
        if matches!(self.state, State::Known(_)) {
            self.state = State::Doubted(None);
        }
    }

    /// When a lane that owes an answer since then is suspected; `None`: nobody else could be asked.
    pub(crate) fn suspects_at(&self, lane: Lane, since: Instant) -> Option<Instant> {
        let others = lane != Lane::SCOUT && self.nodes.count() > 1;
        others.then(|| self.suspected.map_or(since, |last| last.max(since)) + SUSPECT)
    }

    /// Has others asked about a lane that owes an answer since then, if that is long ago.
    pub(crate) fn suspect(&mut self, lane: Lane, since: Instant, now: Instant) {
        if self.suspects_at(lane, since).is_some_and(|at| now >= at) {
            (self.silent, self.suspected) = (Some(lane), Some(now));
            self.doubt();
        }
    }

    /// There may be more partitions, for somebody named one.
    pub(crate) fn wish(&mut self, now: Instant) {
        self.wished = true;
        if matches!(self.state, State::Known(_)) {
            let soon = self.told.map_or(now, |told| told + PAUSE_MIN);
            self.state = State::Known(Some(soon));
        }
    }

    /// Whether a scout is needed to ask, where no connection is up that [`Places::may_ask`] on;
    /// `used`: somebody needs to know where partitions are.
    pub(crate) fn scouts(&self, used: bool, now: Instant) -> bool {
        match &self.state {
            State::Doubted(at) => (used || self.wished) && at.is_none_or(|at| now >= at),
            State::Known(at) => self.wished && at.is_some_and(|at| now >= at),
            State::Asked(asked) => asked.lane == Lane::SCOUT,
        }
    }

    /// Whether a question on a lane may be answered soon.
    pub(crate) fn may_ask(&self, lane: Lane) -> bool {
        let same = |silent: Lane| silent == lane || lane.node.is_some() && silent.node == lane.node;
        !self.silent.is_some_and(same)
    }

    /// A lane's connection was lost, and with it what was asked on it.
    pub(crate) fn on_lost(&mut self, lane: Lane) {
        if lane == Lane::SCOUT {
            self.nodes.on_failed();
            return self.on_closed(lane);
        }
        match &self.state {
            State::Asked(asked) if asked.lane == lane => self.state = State::Doubted(None),
            _ => self.doubt(),
        }
    }

    /// A lane's connection is ended because nothing needs it.
    pub(crate) fn on_closed(&mut self, lane: Lane) {
        if matches!(&self.state, State::Asked(asked) if asked.lane == lane) {
            self.state = State::Doubted(None);
        }
    }

    /// Whether a scout takes too long to answer. Where another lane does, others are asked.
    pub(crate) fn is_late(&mut self, now: Instant) -> bool {
        let State::Asked(asked) = &self.state else { return false };
        if now < asked.until {
            return false;
        }
        let scout = asked.lane == Lane::SCOUT;
        if !scout {
            self.silent = Some(asked.lane);
            self.state = State::Doubted(None);
        }
        scout
    }

    /// Asks on a lane that is up, when there is a doubt or it is time.
    pub(crate) fn ask(&mut self, lane: Lane, link: &mut Link, now: Instant) {
        let doubted = match self.state {
            State::Doubted(at) if at.is_none_or(|at| now >= at) => true,
            State::Known(Some(at)) if now >= at => false,
            State::Known(None) => {
                self.state = State::Known(self.again(now));
                return;
            }
            _ => return,
        };
        if !self.may_ask(lane) {
            return;
        }
        let request = MetadataRequest { names: vec![self.name.as_str().into()] };
        let until = now + self.nodes.patience();
        self.state = match link.request(Api::Metadata, &request, &[]) {
            Ok(correlation) => State::Asked(Asked { lane, correlation, doubted, until }),
            Err(_) => State::Doubted(Some(now + self.backoff.pause())),
        };
    }

    /// When to ask again though there is no doubt.
    fn again(&mut self, now: Instant) -> Option<Instant> {
        now.checked_add(self.backoff.shorten(self.refresh?))
    }

    /// Takes an answer of the server at `address`, if it is that to what was asked: `true`.
    pub(crate) fn on_answer(
        &mut self,
        (lane, address): (Lane, &str),
        correlation: u32,
        answer: &Result<Answer, Error>,
        now: Instant,
    ) -> bool {
        let State::Asked(asked) = &self.state else { return false };
        let doubted = asked.doubted;
        if (asked.lane, asked.correlation) != (lane, correlation) {
            return false;
        }
        self.told = Some(now);
        self.wished = false;
        self.silent = None;
        self.nodes.on_answered();
        let response =
            answer.as_ref().ok().and_then(|answer| MetadataResponse::decode(&answer.head).ok());
        if let Some(response) = &response {
            self.nodes.learn(&response.nodes, address);
        }
        // Of a topic that is gone, or that goes by another name now, requests tell.
        self.state = match response.as_ref().map(|response| response.topics.as_slice()) {
            Some([topic]) if topic.id == self.topic && !topic.partitions.is_empty() => {
                self.learn(topic);
                self.backoff.reset();
                State::Known(self.again(now))
            }
            _ if doubted => State::Doubted(Some(now + self.backoff.pause())),
            _ => State::Known(self.again(now)),
        };
        true
    }

    /// Not every node knows the newest: what is of an older epoch is not taken in.
    fn learn(&mut self, topic: &TopicMetadata<'_>) {
        for (index, partition) in topic.partitions.iter().enumerate() {
            let told = (Lane::of(partition), partition.epoch);
            match self.lanes.get_mut(index) {
                Some(known) if known.1 <= told.1 => *known = told,
                Some(_) => {}
                None => self.lanes.push(told),
            }
        }
        let added = topic.partitions.iter().skip(self.partitions as usize);
        let serving = added.take_while(|partition| partition.error == ErrorCode::None).count();
        self.partitions = self.partitions.saturating_add(u32::try_from(serving).unwrap_or(0));
    }

    /// When it is to be asked for.
    pub(crate) fn timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Known(at) | State::Doubted(at) => *at,
            State::Asked(asked) => Some(asked.until),
        }
    }
}

/// Whether a refusal may mean that another node or core serves the partition by now, or soon.
pub(crate) fn may_have_moved(error: &Error) -> bool {
    use ErrorCode::{
        Fenced, HeadMoved, NotEnoughReplicas, NotHead, ShuttingDown, Starting, WrongCore,
    };
    let Error::Server { code, .. } = error else { return false };
    matches!(
        code,
        WrongCore | NotHead | HeadMoved | Fenced | NotEnoughReplicas | ShuttingDown | Starting
    )
}
