//! The connections of a producer: which are needed, and which have come to nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::Producer;
use crate::core::{
    Step,
    lane::Lane,
    partition::Partition,
    places::SUSPECT,
    session::{self, Session},
};

/// A connection, and what is under way on it.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) session: Session,
    pub(super) in_flight: usize,
    pub(super) in_flight_bytes: usize,
    /// Partitions by the correlation ids under way.
    pub(super) waiting: BTreeMap<u32, u32>,
    /// When the server last answered, or was asked while nothing else was under way.
    pub(super) progress: Option<Instant>,
}

impl Producer {
    /// Ends the connections on which an answer takes too long.
    pub(super) fn give_up_late(&mut self, now: Instant) {
        let timeout = self.request_timeout;
        let late = |(lane, line): (&Lane, &Line)| {
            let patience = if self.is_left(*lane) { SUSPECT.min(timeout) } else { timeout };
            let late = line.stalled_at(patience).is_some_and(|at| now >= at);
            (late || line.session.is_late(now)).then_some(*lane)
        };
        let late: Vec<Lane> = self.lines.iter().filter_map(late).collect();
        let scout = self.target.places.is_late(now).then_some(Lane::SCOUT);
        let late = late.into_iter().chain(scout).chain(self.late_fence(now));
        for lane in late.collect::<BTreeSet<_>>() {
            if let Some(line) = self.lines.get_mut(&lane) {
                line.session.fail(now);
            }
            self.unanswered(lane, &session::late(), now);
        }
    }

    /// The connection on which nobody ends the epoch in time, if nothing else is under way there.
    /// Another is asked to.
    fn late_fence(&mut self, now: Instant) -> Option<Lane> {
        let places = &mut self.target.places;
        let lane = self.fence.late(self.request_timeout, places.several(), now)?;
        let line = self.lines.get(&lane)?;
        places.on_silent(line.session.address(), now);
        self.fence.on_lost(lane, now);
        (line.in_flight == 0).then_some(lane)
    }

    /// Whether another node or core than that of a lane, where something is under way, owns the
    /// partitions by now.
    fn is_left(&self, lane: Lane) -> bool {
        let mut there = self.active.iter().filter(|index| {
            let partition = &self.partitions[**index as usize];
            partition.lane == lane && partition.in_flight() > 0
        });
        there.any(|index| self.target.places.lane(*index) != lane)
    }

    /// Has others asked about nodes that owe an answer.
    pub(super) fn suspect(&mut self, now: Instant) {
        for (lane, line) in &self.lines {
            if let Some(since) = line.waits_since() {
                self.target.places.suspect(*lane, line.session.address(), since, now);
            }
        }
    }

    /// Partitions that another core or node owns by now go there, once nothing of them is under
    /// way.
    pub(super) fn change_lanes(&mut self, now: Instant) {
        for index in &self.active {
            let partition = &mut self.partitions[*index as usize];
            let home = self.target.places.lane(*index);
            if partition.lane != home && partition.in_flight() == 0 {
                partition.lane = home;
                // It was asked of the other.
                partition.hold = None;
            }
        }
        let scout = self.scouts(now).then_some(Lane::SCOUT);
        let used = self.active.iter().map(|index| self.partitions[*index as usize].lane);
        for lane in used.chain(scout) {
            let new = || Line::new(Session::new(lane, self.hello.clone(), self.seed));
            self.lines.entry(lane).or_insert_with(new);
        }
    }

    /// Whether a partition that holds something may be elsewhere by now.
    pub(super) fn is_urgent(&self) -> bool {
        self.active.iter().any(|index| self.target.places.is_doubted(*index))
    }

    /// Whether a scout is to ask where the partitions are.
    fn scouts(&self, now: Instant) -> bool {
        let lines = self.lines.iter().map(|(lane, line)| (*lane, &line.session));
        self.target.places.scouts(self.is_urgent(), lines, now)
    }

    /// What a connection needs: a new one, an end, or bytes to be sent.
    pub(super) fn connections(&mut self, now: Instant) -> Option<Step> {
        let (mut unused, scouts, wait) = (None, self.scouts(now), self.request_timeout);
        let places = &mut self.target.places;
        for (lane, line) in &mut self.lines {
            let scout = *lane == Lane::SCOUT && scouts;
            let wanted = scout || wanted(&self.active, &self.partitions, *lane);
            if let Some(step) = line.session.step(now, wanted, || places.dial(*lane, wait, now)) {
                return Some(step);
            }
            if !wanted && !places.uses(*lane) {
                unused = Some(*lane);
            }
        }
        let lane = unused?;
        self.lines.remove(&lane);
        self.target.places.on_closed(lane);
        self.fence.on_lost(lane, now);
        Some(Step::Close(lane))
    }

    pub(super) fn timeout(&self, now: Instant) -> Option<Instant> {
        let places = &self.target.places;
        let scouts = self.scouts(now);
        let linger = self.options.linger;
        let partitions = self.active.iter().flat_map(|index| {
            let partition = &self.partitions[*index as usize];
            let lingered = partition.open.as_ref().map(|open| open.since + linger);
            let held = partition.hold.as_ref().map(|hold| hold.until);
            let closed = partition.closed.front().map(|batch| batch.since);
            let oldest = closed.or(partition.open.as_ref().map(|open| open.since));
            let expired = oldest.map(|since| since + self.options.delivery_timeout);
            [lingered, held, expired]
        });
        let lines = self.lines.iter().flat_map(|(lane, line)| {
            let scout = *lane == Lane::SCOUT && scouts;
            let wanted = scout || wanted(&self.active, &self.partitions, *lane);
            let suspect = line.waits_since().and_then(|since| places.suspects_at(*lane, since));
            [line.stalled_at(self.request_timeout), line.session.timeout(wanted), suspect]
        });
        let fence = self.fence.timeout(self.request_timeout, places.several());
        let asked = [places.timeout(self.is_urgent()), fence];
        // What is due already waits for something else to happen.
        partitions.chain(lines).chain(asked).flatten().filter(|at| *at > now).min()
    }
}

impl Line {
    fn new(session: Session) -> Self {
        let waiting = BTreeMap::new();
        Self { session, in_flight: 0, in_flight_bytes: 0, waiting, progress: None }
    }

    /// Since when the server owes something: an answer, or a connection.
    fn waits_since(&self) -> Option<Instant> {
        self.progress.filter(|_| self.in_flight > 0).or(self.session.trying_since())
    }

    /// When an answer is overdue, if nothing comes.
    fn stalled_at(&self, request_timeout: Duration) -> Option<Instant> {
        Some(self.progress.filter(|_| self.in_flight > 0)? + request_timeout)
    }
}

/// Whether something is to be sent on a lane, or under way there.
fn wanted(active: &BTreeSet<u32>, partitions: &[Partition], lane: Lane) -> bool {
    active.iter().any(|index| partitions[*index as usize].lane == lane)
}
