//! Which partitions there are, and which connection the requests of each take: that to the core
//! which owns it.

use std::time::{Duration, Instant};

use catena_format::TopicId;
use catena_wire::{Api, ErrorCode, Message, MetadataRequest, MetadataResponse, TopicMetadata};

use super::{
    backoff::Backoff,
    link::{Answer, Link},
};
use crate::error::Error;

/// The shortest time from an answer to the next question, if nothing was lost in between.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// A connection of a state machine, named by the core that is to serve it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Lane(pub(crate) u16);

#[derive(Debug)]
enum State {
    /// To be asked for again at that time; `None`: that was not decided yet, or is never.
    Known(Option<Instant>),
    /// To be asked for, not before this time.
    Doubted(Option<Instant>),
    /// Asked for on a lane, under a correlation id; whether there was a doubt.
    Asked(Lane, u32, bool),
}

/// The partitions of a topic and their lanes. A server may have other cores after a restart, so it
/// is asked again when a connection was lost; until it has answered, requests go where they went,
/// and are forwarded there. Partitions may be added, so it is asked now and then.
#[derive(Debug)]
pub(crate) struct Places {
    topic: TopicId,
    name: String,
    lanes: Vec<Lane>,
    /// Those that may be used.
    partitions: u32,
    state: State,
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
    /// As the server just said.
    pub(crate) fn of(topic: &TopicMetadata<'_>, refresh: Option<Duration>, seed: u64) -> Self {
        let lanes = lanes(topic);
        Self {
            topic: topic.id,
            name: topic.name.to_string(),
            partitions: u32::try_from(lanes.len()).unwrap_or(u32::MAX),
            lanes,
            state: State::Known(None),
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

    /// The lane of a partition; one that nobody told of has the first.
    pub(crate) fn lane(&self, partition: u32) -> Lane {
        self.lanes.get(partition as usize).copied().unwrap_or(Lane(0))
    }

    /// Whether a partition is on that lane.
    pub(crate) fn uses(&self, lane: Lane) -> bool {
        self.lanes.contains(&lane)
    }

    /// It may have changed.
    pub(crate) fn doubt(&mut self) {
        if matches!(self.state, State::Known(_)) {
            self.state = State::Doubted(None);
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

    /// Whether a connection is needed on that lane to ask.
    pub(crate) fn wants(&self, lane: Lane) -> bool {
        let asked = matches!(self.state, State::Asked(..));
        self.wished && !asked && self.lane(0) == lane
    }

    /// A lane's connection was lost, and with it what was asked on it.
    pub(crate) fn on_lost(&mut self, lane: Lane) {
        match self.state {
            State::Asked(asked, _, _) if asked == lane => self.state = State::Doubted(None),
            _ => self.doubt(),
        }
    }

    /// A lane's connection is ended because nothing needs it.
    pub(crate) fn on_closed(&mut self, lane: Lane) {
        if matches!(self.state, State::Asked(asked, _, _) if asked == lane) {
            self.state = State::Doubted(None);
        }
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
        let request = MetadataRequest { names: vec![self.name.as_str().into()] };
        self.state = match link.request(Api::Metadata, &request, &[]) {
            Ok(correlation) => State::Asked(lane, correlation, doubted),
            Err(_) => State::Doubted(Some(now + self.backoff.pause())),
        };
    }

    /// When to ask again though there is no doubt.
    fn again(&mut self, now: Instant) -> Option<Instant> {
        now.checked_add(self.backoff.shorten(self.refresh?))
    }

    /// Takes an answer, if it is that to what was asked: `true`.
    pub(crate) fn on_answer(
        &mut self,
        lane: Lane,
        correlation: u32,
        answer: &Result<Answer, Error>,
        now: Instant,
    ) -> bool {
        let State::Asked(on, under, doubted) = self.state else { return false };
        if (on, under) != (lane, correlation) {
            return false;
        }
        self.told = Some(now);
        self.wished = false;
        let response =
            answer.as_ref().ok().and_then(|answer| MetadataResponse::decode(&answer.head).ok());
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

    fn learn(&mut self, topic: &TopicMetadata<'_>) {
        self.lanes = lanes(topic);
        let added = topic.partitions.iter().skip(self.partitions as usize);
        let serving = added.take_while(|partition| partition.error == ErrorCode::None).count();
        self.partitions = self.partitions.saturating_add(u32::try_from(serving).unwrap_or(0));
    }

    /// When it is to be asked for.
    pub(crate) fn timeout(&self) -> Option<Instant> {
        match self.state {
            State::Known(at) | State::Doubted(at) => at,
            State::Asked(..) => None,
        }
    }
}

fn lanes(topic: &TopicMetadata<'_>) -> Vec<Lane> {
    topic.partitions.iter().map(|partition| Lane(partition.core)).collect()
}
