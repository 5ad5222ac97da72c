//! The end of an epoch of which a batch may still be on its way.
//!
//! Before a batch gets another sequence it must be certain that no copy of it is stored under the
//! old one, and none will be: one may lie unread at the server's end of a connection that was lost.
//! No answer to a repetition tells that. So the server is asked to take nothing new of the old
//! epoch on any core, and then for each such batch once more, under its old sequence: what is
//! stored is acknowledged, what is not is fenced, for good.

use std::time::{Duration, Instant};

use catena_format::{ProducerEpoch, ProducerId};
use catena_wire::{Api, Class, ErrorCode, Message, ProducerIdRequest, ProducerIdResponse};

use crate::{
    core::{
        backoff::Backoff,
        lane::Lane,
        link::{Answer, Link},
        places::SUSPECT,
    },
    error::Error,
};

/// A producer and its epoch.
pub(super) type Generation = (ProducerId, ProducerEpoch);

#[derive(Debug)]
enum State {
    /// Not asked for, or again not before this time.
    Idle(Option<Instant>),
    /// Asked for on a lane under a correlation id; the answer is overdue from then on.
    Asked { lane: Lane, correlation: u32, since: Instant },
    /// The old epoch has ended; this is the next.
    Done(Generation),
}

/// How far it has come.
#[derive(Debug)]
pub(super) struct Fence {
    state: State,
    /// An answer was lost: the epoch may have ended.
    maybe: bool,
    /// The epoch has ended, and with it what the lost answer told: a producer's id is wanted.
    fresh: bool,
    backoff: Backoff,
    /// How long an answer may take where others can be asked: each time twice as long.
    patience: Duration,
}

impl Fence {
    pub(super) fn new(seed: u64) -> Self {
        let backoff = Backoff::new(seed);
        let state = State::Idle(None);
        Self { state, maybe: false, fresh: false, backoff, patience: SUSPECT }
    }

    /// Whether the epoch has ended, or may have, because this producer asked for it.
    pub(super) fn is_ours(&self) -> bool {
        self.maybe || !matches!(self.state, State::Idle(_))
    }

    /// What comes next, once the old epoch has ended.
    pub(super) fn next(&self) -> Option<Generation> {
        match self.state {
            State::Done(next) => Some(next),
            State::Idle(_) | State::Asked { .. } => None,
        }
    }

    /// The next epoch has begun.
    pub(super) fn reset(&mut self) {
        (self.state, self.maybe, self.fresh) = (State::Idle(None), false, false);
        self.backoff.reset();
        self.patience = SUSPECT;
    }

    /// Asks on a lane that is up to end the epoch of `current`, unless that was asked for.
    ///
    /// # Errors
    /// When that cannot be asked for at all.
    pub(super) fn ask(
        &mut self,
        lane: Lane,
        link: &mut Link,
        current: Generation,
        now: Instant,
    ) -> Result<(), Error> {
        let State::Idle(not_before) = self.state else { return Ok(()) };
        if not_before.is_some_and(|not_before| now < not_before) {
            return Ok(());
        }
        let (id, epoch) = current;
        let raise = ProducerIdRequest { id, epoch };
        let request = if self.fresh { ProducerIdRequest::fresh() } else { raise };
        let correlation = link.request(Api::ProducerId, &request, &[])?;
        self.state = State::Asked { lane, correlation, since: now };
        Ok(())
    }

    /// Takes an answer, if it is that to what was asked: `None` otherwise.
    ///
    /// # Errors
    /// The producer has no next epoch.
    pub(super) fn on_answer(
        &mut self,
        lane: Lane,
        correlation: u32,
        answer: &Result<Answer, Error>,
        now: Instant,
    ) -> Option<Result<(), Error>> {
        let State::Asked { lane: on, correlation: under, .. } = self.state else { return None };
        if (on, under) != (lane, correlation) {
            return None;
        }
        let error = match answer.clone().and_then(|answer| told(&answer)) {
            Ok(next) => {
                self.state = State::Done(next);
                return Some(Ok(()));
            }
            Err(error) => error,
        };
        // What was asked for first and not answered is done. Nobody else knows the id.
        let ended = matches!(&error, Error::Server { code: ErrorCode::ProducerFenced, .. });
        self.fresh |= ended && self.maybe;
        self.maybe |= error.class() == Class::Indeterminate;
        self.state = State::Idle(Some(now + self.backoff.pause()));
        let over = error.class() == Class::Definite && !self.fresh;
        Some(if over { Err(error) } else { Ok(()) })
    }

    /// What was asked on a lane is not answered any more: its connection was lost, or it is silent.
    pub(super) fn on_lost(&mut self, lane: Lane, now: Instant) {
        if matches!(self.state, State::Asked { lane: on, .. } if on == lane) {
            (self.state, self.maybe) = (State::Idle(Some(now + self.backoff.pause())), true);
            self.patience = self.patience.saturating_mul(2);
        }
    }

    /// The lane on which an answer takes too long; `others` could be asked as well.
    pub(super) fn late(&self, whole: Duration, others: bool, now: Instant) -> Option<Lane> {
        match self.state {
            State::Asked { lane, since, .. } if now >= since + self.patience(whole, others) => {
                Some(lane)
            }
            _ => None,
        }
    }

    fn patience(&self, whole: Duration, others: bool) -> Duration {
        if others { self.patience.min(whole) } else { whole }
    }

    /// When there is something to do by itself.
    pub(super) fn timeout(&self, whole: Duration, others: bool) -> Option<Instant> {
        match self.state {
            State::Idle(not_before) => not_before,
            State::Asked { since, .. } => Some(since + self.patience(whole, others)),
            State::Done(_) => None,
        }
    }
}

fn told(answer: &Answer) -> Result<Generation, Error> {
    let response = ProducerIdResponse::decode(&answer.head)?;
    Error::check(response.error, &response.message)?;
    Ok((response.id, response.epoch))
}
