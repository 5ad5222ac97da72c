//! Which connection a partition's requests take: that to the core which owns it.

use std::time::Instant;

use catena_format::TopicId;
use catena_wire::{Api, Message, MetadataRequest, MetadataResponse, TopicMetadata};

use super::{
    backoff::Backoff,
    link::{Answer, Link},
};
use crate::error::Error;

/// A connection of a state machine, named by the core that is to serve it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Lane(pub(crate) u16);

#[derive(Debug)]
enum State {
    Known,
    /// To be asked for, not before this time.
    Doubted(Option<Instant>),
    /// Asked for on a lane, under a correlation id.
    Asked(Lane, u32),
}

/// The lane of each partition of a topic. A server may have other cores after a restart, so it is
/// asked again when a connection was lost; until it has answered, requests go where they went, and
/// are forwarded there.
#[derive(Debug)]
pub(crate) struct Places {
    topic: TopicId,
    name: String,
    lanes: Vec<Lane>,
    state: State,
    backoff: Backoff,
}

impl Places {
    /// As the server just said.
    pub(crate) fn of(topic: &TopicMetadata<'_>, seed: u64) -> Self {
        let name = topic.name.to_string();
        let backoff = Backoff::new(seed);
        Self { topic: topic.id, name, lanes: lanes(topic), state: State::Known, backoff }
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
        if matches!(self.state, State::Known) {
            self.state = State::Doubted(None);
        }
    }

    /// A lane's connection was lost, and with it what was asked on it.
    pub(crate) fn on_lost(&mut self, lane: Lane) {
        match self.state {
            State::Asked(asked, _) if asked == lane => self.state = State::Doubted(None),
            _ => self.doubt(),
        }
    }

    /// A lane's connection is ended because nothing needs it.
    pub(crate) fn on_closed(&mut self, lane: Lane) {
        if matches!(self.state, State::Asked(asked, _) if asked == lane) {
            self.state = State::Doubted(None);
        }
    }

    /// Asks on a lane that is up, when there is a doubt.
    pub(crate) fn ask(&mut self, lane: Lane, link: &mut Link, now: Instant) {
        let State::Doubted(not_before) = self.state else { return };
        if not_before.is_some_and(|not_before| now < not_before) {
            return;
        }
        let request = MetadataRequest { names: vec![self.name.as_str().into()] };
        self.state = match link.request(Api::Metadata, &request, &[]) {
            Ok(correlation) => State::Asked(lane, correlation),
            Err(_) => State::Doubted(Some(now + self.backoff.pause())),
        };
    }

    /// Takes an answer, if it is that to what was asked: `true`.
    pub(crate) fn on_answer(
        &mut self,
        lane: Lane,
        correlation: u32,
        answer: &Result<Answer, Error>,
        now: Instant,
    ) -> bool {
        if !matches!(self.state, State::Asked(on, under) if (on, under) == (lane, correlation)) {
            return false;
        }
        let response =
            answer.as_ref().ok().and_then(|answer| MetadataResponse::decode(&answer.head).ok());
        // Of a topic that is gone, or that goes by another name now, requests tell.
        self.state = match response.as_ref().map(|response| response.topics.as_slice()) {
            Some([topic]) if topic.id == self.topic && !topic.partitions.is_empty() => {
                self.lanes = lanes(topic);
                self.backoff.reset();
                State::Known
            }
            _ => State::Doubted(Some(now + self.backoff.pause())),
        };
        true
    }

    /// When it is to be asked for.
    pub(crate) fn timeout(&self) -> Option<Instant> {
        match self.state {
            State::Doubted(not_before) => not_before,
            _ => None,
        }
    }
}

fn lanes(topic: &TopicMetadata<'_>) -> Vec<Lane> {
    topic.partitions.iter().map(|partition| Lane(partition.core)).collect()
}
