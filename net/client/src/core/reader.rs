//! A consumer: subscribes to each partition, keeps the order, and comes back after failures.
//!
//! ```text
//! idle ─(subscribe)─> subscribed ─ push, push, … ─> ready ─(taken)─> application
//!   ^────────────────────┘ ended, or lost     credit <────┘
//! ```
//!
//! The server pushes as far as a subscription's credit goes, from history to the live end. Each
//! partition has a share of the buffer, and its credit is what is free of that: what waits to be
//! taken and what may still come are never more than the share, but for one batch.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use catena_format::{BatchHeader, Offset, PartitionIndex, TopicId};
use catena_wire::{
    Api, Class, CreditRequest, ErrorCode, FetchResponse, HeadAddress, Message, PingRequest, Push,
    SubscribeRequest, SubscribeResponse, TopicMetadata, UnsubscribeRequest, head_told,
};

use super::{
    Step,
    backoff::Backoff,
    lane::{Lane, may_have_moved},
    link::{Answer, Hello, Response},
    nodes::Nodes,
    places::Places,
    session::{self, Session},
};
use crate::{
    batch::{Batch, split},
    error::Error,
    options::ConsumerOptions,
};

/// How long a connection to one of several nodes may be silent.
const QUIET: Duration = Duration::from_secs(1);

/// A batch as it came, not yet checked.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) partition: PartitionIndex,
    bytes: Bytes,
    from: Offset,
    limit: usize,
}

impl Fetched {
    /// Where it begins, as far as the application wants it.
    fn offset(&self) -> Option<Offset> {
        let header = BatchHeader::parse(&self.bytes).ok()?;
        Some(header.stored_offset().ok()?.max(self.from))
    }

    /// Checks and decompresses it.
    pub(crate) fn read(&self) -> Result<Batch, Error> {
        Batch::read(self.partition, &self.bytes, self.from, self.limit)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// To be subscribed to, not before this time.
    Idle(Option<Instant>),
    /// Subscribed to, or asked for, under a name.
    Subscribed(u32),
    /// Failed for good until somebody seeks.
    Failed,
}

#[derive(Debug)]
struct Cursor {
    lane: Lane,
    /// Where the next push begins.
    next: Offset,
    /// Where the application is.
    position: Offset,
    high_watermark: Offset,
    state: State,
    /// Since when there is something to read and no subscription brings it.
    failing: Option<Instant>,
    /// Bytes that wait to be taken.
    held: usize,
    /// Bytes that were taken and not credited yet; below zero: that were credited beyond the share.
    owed: i64,
    /// Added while others were read, and nothing came of it yet.
    added: bool,
    backoff: Backoff,
}

/// A connection, and the subscriptions on it.
#[derive(Debug)]
struct Line {
    session: Session,
    /// Names of subscriptions, by the correlation ids of what asks for them.
    waiting: BTreeMap<u32, u32>,
    /// Partitions by the names of their subscriptions.
    names: BTreeMap<u32, u32>,
    /// When the server last said something.
    heard: Instant,
    /// When something was last sent to it.
    spoke: Instant,
    /// When it was asked for a sign of life.
    pinged: Option<Instant>,
}

/// The state machine of a consumer.
#[derive(Debug)]
pub(crate) struct Reader {
    topic: TopicId,
    options: ConsumerOptions,
    request_timeout: Duration,
    hello: Hello,
    seed: u64,
    places: Places,
    lines: BTreeMap<Lane, Line>,
    cursors: BTreeMap<u32, Cursor>,
    /// Partitions that are to be subscribed to.
    idle: BTreeSet<u32>,
    /// Partitions whose subscription is owed enough credit to tell.
    owing: BTreeSet<u32>,
    /// A partition's part of the buffer.
    share: usize,
    next_name: u32,
    ready: VecDeque<Result<Fetched, Error>>,
    finished: bool,
}

impl Reader {
    /// A consumer that begins at the given offsets.
    pub(crate) fn new(
        (topic, nodes): (&TopicMetadata<'_>, Nodes),
        options: ConsumerOptions,
        hello: Hello,
        request_timeout: Duration,
        starts: &[(PartitionIndex, Offset)],
        seed: u64,
    ) -> Self {
        // Who chose partitions wants no others.
        let refresh = options.partitions.is_none().then_some(options.refresh);
        let places = Places::of(topic, nodes, refresh, seed);
        let cursor = |(partition, offset): &(PartitionIndex, Offset)| {
            let index = partition.get();
            (index, Cursor::new(places.lane(index), *offset, seed.wrapping_add(u64::from(index))))
        };
        let cursors: BTreeMap<u32, Cursor> = starts.iter().map(cursor).collect();
        Self {
            topic: topic.id,
            share: share(&options, cursors.len()),
            options,
            request_timeout,
            hello,
            seed,
            places,
            lines: BTreeMap::new(),
            idle: cursors.keys().copied().collect(),
            owing: BTreeSet::new(),
            cursors,
            next_name: 0,
            ready: VecDeque::new(),
            finished: false,
        }
    }

    /// The partitions that are read.
    pub(crate) fn partitions(&self) -> Vec<PartitionIndex> {
        self.cursors.keys().copied().map(PartitionIndex::new).collect()
    }

    /// The offset of a partition behind what was taken; `None`: it is not read.
    pub(crate) fn position(&self, partition: PartitionIndex) -> Option<Offset> {
        Some(self.cursors.get(&partition.get())?.position)
    }

    /// The end of a partition as far as it was told; zero before it was.
    pub(crate) fn high_watermark(&self, partition: PartitionIndex) -> Option<Offset> {
        Some(self.cursors.get(&partition.get())?.high_watermark)
    }

    /// Bytes that wait to be taken.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.cursors.values().map(|cursor| cursor.held).sum()
    }

    /// Goes on elsewhere in a partition; what came from it is forgotten.
    pub(crate) fn seek(&mut self, partition: PartitionIndex, offset: Offset) -> Result<(), Error> {
        let index = partition.get();
        if !self.cursors.contains_key(&index) {
            let message = format!("{partition}, which this consumer does not read");
            return Err(Error::Server { code: ErrorCode::UnknownPartition, message });
        }
        self.forget(partition);
        self.unsubscribe(index, State::Idle(None));
        if let Some(cursor) = self.cursors.get_mut(&index) {
            (cursor.next, cursor.position, cursor.added) = (offset, offset, false);
        }
        Ok(())
    }

    fn forget(&mut self, partition: PartitionIndex) {
        let of = |ready: &Result<Fetched, Error>| match ready {
            Ok(fetched) => Some(fetched.partition),
            Err(error) => error.partition(),
        };
        self.ready.retain(|ready| of(ready) != Some(partition));
        if let Some(cursor) = self.cursors.get_mut(&partition.get()) {
            (cursor.held, cursor.failing) = (0, None);
        }
    }

    /// Ends the subscription of a partition, if there is one: what still comes of it is dropped.
    fn unsubscribe(&mut self, index: u32, state: State) {
        let Some(cursor) = self.cursors.get_mut(&index) else { return };
        if let State::Subscribed(name) = cursor.state
            && let Some(line) = self.lines.get_mut(&cursor.lane)
        {
            line.names.remove(&name);
            if let Some(link) = line.session.link() {
                // Where it cannot be sent, the connection has ended and the subscription with it.
                let request = UnsubscribeRequest { subscription: name };
                let _ = link.request(Api::Unsubscribe, &request, &[]);
            }
        }
        self.rest(index, state);
    }

    /// A partition has no subscription any more.
    fn rest(&mut self, index: u32, state: State) {
        let Some(cursor) = self.cursors.get_mut(&index) else { return };
        self.owing.remove(&index);
        match state {
            State::Idle(_) => self.idle.insert(index),
            State::Subscribed(_) | State::Failed => self.idle.remove(&index),
        };
        (cursor.state, cursor.owed) = (state, 0);
    }

    /// A batch that was taken cannot be read: the partition stops there until somebody seeks. Tells
    /// what the application is told.
    pub(crate) fn on_unreadable(&mut self, fetched: &Fetched, error: Error) -> Error {
        let (partition, at) = (fetched.partition, fetched.offset().unwrap_or(fetched.from));
        self.forget(partition);
        self.unsubscribe(partition.get(), State::Failed);
        if let Some(cursor) = self.cursors.get_mut(&partition.get()) {
            (cursor.next, cursor.position) = (at, at);
        }
        Error::Partition { partition, offset: at, source: Box::new(error) }
    }

    /// Whether something waits to be taken.
    pub(crate) fn has_fetched(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether nothing comes any more unless somebody seeks.
    pub(crate) fn is_over(&self) -> bool {
        let failed = |cursor: &Cursor| cursor.state == State::Failed;
        self.ready.is_empty() && self.cursors.values().all(failed)
    }

    /// What came next.
    pub(crate) fn poll_fetched(&mut self) -> Option<Result<Fetched, Error>> {
        let ready = self.ready.pop_front()?;
        if let Ok(fetched) = &ready
            && let Some(cursor) = self.cursors.get_mut(&fetched.partition.get())
        {
            cursor.held -= fetched.bytes.len();
            cursor.owed += signed(fetched.bytes.len());
            // Half of the credit is left, so that the server does not wait.
            if cursor.owed.saturating_mul(2) >= signed(self.share)
                && matches!(cursor.state, State::Subscribed(_))
            {
                self.owing.insert(fetched.partition.get());
            }
            if let Ok(end) = end_of(&fetched.bytes) {
                cursor.position = end;
            }
        }
        Some(ready)
    }

    /// Nobody reads any more.
    pub(crate) fn finish(&mut self) {
        self.finished = true;
    }

    pub(crate) fn on_connected(&mut self, lane: Lane, now: Instant) {
        let Some(line) = self.lines.get_mut(&lane) else { return };
        (line.heard, line.spoke, line.pinged) = (now, now, None);
        if let Err(error) = line.session.on_connected(now) {
            line.session.fail(now);
            self.ready.push_back(Err(error));
        }
    }

    pub(crate) fn on_bytes(&mut self, lane: Lane, bytes: &[u8], now: Instant) {
        let Some(line) = self.lines.get_mut(&lane) else { return };
        (line.heard, line.pinged) = (now, None);
        self.places.on_heard(line.session.address());
        if let Err(error) = line.session.on_bytes(bytes) {
            line.session.fail(now);
            return self.unanswered(lane, &error, now);
        }
        while let Some(line) = self.lines.get_mut(&lane)
            && let Some(response) = line.session.poll_response()
        {
            self.on_response(lane, response, now);
        }
    }

    pub(crate) fn on_lost(&mut self, lane: Lane, error: Error, now: Instant) {
        let Some(line) = self.lines.get_mut(&lane) else { return };
        let error = line.session.on_lost(error, now);
        self.unanswered(lane, &error, now);
    }

    /// The subscriptions of a lane have ended with its connection. A server that stays away is told
    /// once for each time that a request may take.
    fn unanswered(&mut self, lane: Lane, error: &Error, now: Instant) {
        let Some(line) = self.lines.get_mut(&lane) else { return };
        self.places.on_lost(lane, line.session.address(), now);
        line.waiting.clear();
        (line.heard, line.pinged) = (now, None);
        let since = line.session.failing_since().unwrap_or(now);
        let long = now.saturating_duration_since(since) >= self.request_timeout;
        if long && lane != Lane::SCOUT && self.ready.is_empty() {
            line.session.forget_failing(now);
            self.ready.push_back(Err(error.clone()));
        }
        for index in std::mem::take(&mut line.names).into_values() {
            let again = self.cursors.get_mut(&index).map(|cursor| now + cursor.backoff.pause());
            self.rest(index, State::Idle(again));
        }
    }

    fn on_response(&mut self, lane: Lane, response: Response, now: Instant) {
        let Response { api, correlation, answer } = response;
        let Some(line) = self.lines.get_mut(&lane) else { return };
        if self.places.on_answer(lane, correlation, &answer, now) {
            self.change_lanes();
            return self.grow();
        }
        let head = answer.as_ref().ok().and_then(|answer| {
            head_told(Api::from_number(api)?, &answer.head).map(HeadAddress::into_owned)
        });
        let (name, taken) = if api == Api::Push as u8 {
            let read = answer.and_then(|answer| Ok((Push::decode_owned(&answer.head)?, answer)));
            match read {
                Ok((push, answer)) => (push.subscription, Ok(Said::Push(push, answer))),
                // Whose it is, nobody knows.
                Err(error) => {
                    line.session.fail(now);
                    return self.unanswered(lane, &error, now);
                }
            }
        } else {
            let Some(name) = line.waiting.remove(&correlation) else { return };
            (name, answer.and_then(subscribed))
        };
        let Some(index) = line.names.get(&name).copied() else { return };
        match taken.and_then(|said| self.take(index, said)) {
            Ok(()) => self.places.on_served(index, lane),
            Err(error) => self.on_ended(lane, name, error, now),
        }
        if head.is_some_and(|head| self.places.on_redirect(index, &head)) {
            self.change_lanes();
        }
    }

    fn on_ended(&mut self, lane: Lane, name: u32, error: Error, now: Instant) {
        let line = self.lines.get_mut(&lane);
        let Some(index) = line.and_then(|line| line.names.remove(&name)) else { return };
        let Some(cursor) = self.cursors.get_mut(&index) else { return };
        let state = match &error {
            // It begins where its beginning is by now.
            Error::Unreadable { code: ErrorCode::OffsetOutOfRange, next, .. }
                if cursor.added && *next > cursor.next =>
            {
                (cursor.next, cursor.position) = (*next, *next);
                State::Idle(None)
            }
            // It has been told of more: this replica comes there yet, or another is the head.
            Error::Unreadable { code: ErrorCode::OffsetOutOfRange, next, .. }
                if *next < cursor.next && cursor.next <= cursor.high_watermark =>
            {
                self.places.on_refused(index, lane);
                State::Idle(Some(now + cursor.backoff.pause()))
            }
            // The connection has as many as it may: that stays so.
            Error::Server { code: ErrorCode::SubscriptionBudget, .. } => State::Failed,
            Error::Server { code, .. } if code.class() != Class::Definite => {
                State::Idle(Some(now + cursor.backoff.pause()))
            }
            _ => State::Failed,
        };
        if may_have_moved(&error) {
            self.places.on_refused(index, lane);
        }
        let since = *cursor.failing.get_or_insert(now);
        let long = now.saturating_duration_since(since) >= self.request_timeout;
        if long {
            cursor.failing = Some(now);
        }
        if state == State::Failed || long {
            self.tell(index, error);
        }
        self.rest(index, state);
    }

    /// Says once why a partition is not read, and until that is taken no more.
    fn tell(&mut self, index: u32, error: Error) {
        let Some(cursor) = self.cursors.get(&index) else { return };
        let partition = PartitionIndex::new(index);
        let told = |ready: &Result<Fetched, Error>| {
            ready.as_ref().is_err_and(|error| error.partition() == Some(partition))
        };
        if !self.ready.iter().any(told) {
            let (offset, source) = (cursor.next, Box::new(error));
            self.ready.push_back(Err(match *source {
                error @ Error::Unreadable { .. } => error,
                _ => Error::Partition { partition, offset, source },
            }));
        }
    }

    fn take(&mut self, index: u32, said: Said) -> Result<(), Error> {
        let partition = PartitionIndex::new(index);
        let Some(cursor) = self.cursors.get_mut(&index) else { return Ok(()) };
        let (push, answer) = match said {
            Said::Push(push, answer) => (push, answer),
            Said::Begun(high_watermark) => {
                cursor.high_watermark = high_watermark.max(cursor.high_watermark);
                if cursor.next >= high_watermark {
                    cursor.failing = None;
                }
                return Ok(());
            }
        };
        readable(push.error, push.next_offset, &push.message, partition)?;
        cursor.high_watermark = push.high_watermark.max(cursor.high_watermark);
        cursor.failing = None;
        cursor.backoff.reset();
        cursor.added = false;
        let from = cursor.next;
        for bytes in split(answer.payload.into()) {
            let bytes = bytes?;
            cursor.held += bytes.len();
            let limit = self.options.decompressed_bytes_max;
            self.ready.push_back(Ok(Fetched { partition, bytes, from, limit }));
        }
        cursor.next = push.next_offset.max(cursor.next);
        Ok(())
    }

    /// What to do next.
    pub(crate) fn step(&mut self, now: Instant) -> Step {
        if self.finished {
            return Step::Done;
        }
        self.look_after(now);
        self.subscribe(now);
        self.give_credit();
        match self.connections(now) {
            Some(step) => step,
            None => Step::Wait(self.timeout(now)),
        }
    }

    /// Asks connections that are silent for a sign of life, and ends those that give none. One that
    /// only listens gives a sign of life itself: the server ends what it hears nothing from.
    fn look_after(&mut self, now: Instant) {
        let mut late = Vec::new();
        if self.places.is_late(now)
            && let Some(line) = self.lines.get_mut(&Lane::SCOUT)
        {
            line.session.fail(now);
            late.push(Lane::SCOUT);
        }
        let quiet = self.quiet();
        for (lane, line) in &mut self.lines {
            if let Some(since) = line.waits_since() {
                self.places.suspect(*lane, line.session.address(), since, now);
            }
            let dead = line.pinged.is_some_and(|at| now >= at + self.request_timeout);
            if line.session.is_late(now) || dead {
                line.session.fail(now);
                late.push(*lane);
                continue;
            }
            let Some(link) = line.session.link() else { continue };
            let silent = now >= line.heard.min(line.spoke) + quiet;
            if silent && !line.names.is_empty() && line.pinged.is_none() {
                // The answer is only listened for.
                let _ = link.request(Api::Ping, &PingRequest {}, &[]);
                line.pinged = Some(now);
            }
        }
        for lane in late {
            self.unanswered(lane, &session::late(), now);
        }
        let urgent = self.is_urgent();
        let lines = self.lines.iter_mut().map(|(lane, line)| (*lane, &mut line.session));
        self.places.ask(urgent, lines, now);
    }

    /// Whether a partition that is read may be elsewhere by now.
    fn is_urgent(&self) -> bool {
        let read = self.cursors.iter().filter(|(_, cursor)| cursor.state != State::Failed);
        read.map(|(index, _)| *index).any(|index| self.places.is_doubted(index))
    }

    /// How long a connection may be silent. Where another node may become the head, one that fell
    /// silent is to be noticed.
    fn quiet(&self) -> Duration {
        if self.places.several() { QUIET.min(self.request_timeout) } else { self.request_timeout }
    }

    /// Whether a scout is to ask where the partitions are.
    fn scouts(&self, now: Instant) -> bool {
        let lines = self.lines.iter().map(|(lane, line)| (*lane, &line.session));
        self.places.scouts(self.is_urgent(), lines, now)
    }

    /// Partitions that another core or node owns by now are subscribed to there.
    fn change_lanes(&mut self) {
        let moved = |(index, cursor): (&u32, &Cursor)| {
            (cursor.lane != self.places.lane(*index)).then_some(*index)
        };
        for index in self.cursors.iter().filter_map(moved).collect::<Vec<_>>() {
            if self.cursors[&index].state != State::Failed {
                self.unsubscribe(index, State::Idle(None));
            }
            let lane = self.places.lane(index);
            self.cursors.get_mut(&index).expect("it was just listed").lane = lane;
        }
    }

    /// Reads the partitions that were added from their beginning, if all are read. The shares of
    /// the others become smaller: what was credited beyond that is not credited again.
    fn grow(&mut self) {
        if self.options.partitions.is_none() {
            for index in 0..self.places.partitions() {
                if !self.cursors.contains_key(&index) {
                    let seed = self.seed.wrapping_add(u64::from(index));
                    let cursor = Cursor::new(self.places.lane(index), Offset::ZERO, seed);
                    self.cursors.insert(index, Cursor { added: true, ..cursor });
                    self.idle.insert(index);
                }
            }
        }
        let share = share(&self.options, self.cursors.len()).min(self.share);
        let beyond = signed(self.share - share);
        for cursor in self.cursors.values_mut() {
            if matches!(cursor.state, State::Subscribed(_)) {
                cursor.owed -= beyond;
            }
        }
        self.share = share;
    }

    /// Subscribes to the partitions that can be.
    fn subscribe(&mut self, now: Instant) {
        for index in self.idle.iter().copied().collect::<Vec<_>>() {
            let Some(cursor) = self.cursors.get_mut(&index) else { continue };
            let lane = cursor.lane;
            let line = self.lines.entry(lane).or_insert_with(|| {
                Line::new(Session::new(lane, self.hello.clone(), self.seed), now)
            });
            let due = matches!(cursor.state, State::Idle(until) if until.is_none_or(|t| now >= t));
            let Some(link) = line.session.link().filter(|_| due) else { continue };
            // More credit the server does not keep account of.
            let credit_max = link.greeting().map_or(u32::MAX, |g| g.limits.credit_bytes_max);
            self.share = self.share.min(credit_max.max(1) as usize);
            let name = self.next_name;
            let credit = self.share.saturating_sub(cursor.held);
            let request = SubscribeRequest {
                subscription: name,
                topic: self.topic,
                partition: PartitionIndex::new(index),
                offset: cursor.next,
                credit_bytes: u32::try_from(credit).unwrap_or(u32::MAX),
            };
            match link.request(Api::Subscribe, &request, &[]) {
                Ok(correlation) => {
                    self.next_name = name.wrapping_add(1);
                    line.waiting.insert(correlation, name);
                    line.names.insert(name, index);
                    let beyond = signed(cursor.held) - signed(self.share);
                    self.rest(index, State::Subscribed(name));
                    if let Some(cursor) = self.cursors.get_mut(&index) {
                        cursor.owed = (-beyond).min(0);
                    }
                }
                Err(error) => {
                    self.tell(index, error);
                    self.rest(index, State::Failed);
                }
            }
        }
    }

    /// Gives back what was taken.
    fn give_credit(&mut self) {
        for index in std::mem::take(&mut self.owing) {
            let Some(cursor) = self.cursors.get_mut(&index) else { continue };
            let State::Subscribed(subscription) = cursor.state else { continue };
            let Some(line) = self.lines.get_mut(&cursor.lane) else { continue };
            let Some(link) = line.session.link() else { continue };
            if cursor.owed <= 0 {
                continue;
            }
            let bytes = u32::try_from(cursor.owed).unwrap_or(u32::MAX);
            // Where it cannot be sent, the subscription has ended.
            let _ = link.request(Api::Credit, &CreditRequest { subscription, bytes }, &[]);
            cursor.owed = 0;
        }
    }

    /// What a connection needs: a new one, an end, or bytes to be sent.
    fn connections(&mut self, now: Instant) -> Option<Step> {
        let (mut unused, scouts, wait) = (None, self.scouts(now), self.request_timeout);
        if scouts {
            let session = || Session::new(Lane::SCOUT, self.hello.clone(), self.seed);
            self.lines.entry(Lane::SCOUT).or_insert_with(|| Line::new(session(), now));
        }
        let places = &mut self.places;
        for (lane, line) in &mut self.lines {
            let wanted = *lane == Lane::SCOUT && scouts || wanted(&self.cursors, *lane);
            if let Some(step) = line.session.step(now, wanted, || places.dial(*lane, wait, now)) {
                line.spoke = now;
                return Some(step);
            }
            if !wanted && !places.uses(*lane) {
                unused = Some(*lane);
            }
        }
        let lane = unused?;
        self.lines.remove(&lane);
        self.places.on_closed(lane);
        Some(Step::Close(lane))
    }

    fn timeout(&self, now: Instant) -> Option<Instant> {
        let paused = self.idle.iter().filter_map(|index| match self.cursors[index].state {
            State::Idle(until) => until,
            _ => None,
        });
        let (scouts, quiet) = (self.scouts(now), self.quiet());
        let lines = self.lines.iter().flat_map(|(lane, line)| {
            let dead = line.pinged.map(|at| at + self.request_timeout);
            let silent = dead.unwrap_or(line.heard.min(line.spoke) + quiet);
            let silent = (!line.names.is_empty()).then_some(silent);
            let wanted = *lane == Lane::SCOUT && scouts || wanted(&self.cursors, *lane);
            let since = line.waits_since();
            let suspect = since.and_then(|since| self.places.suspects_at(*lane, since));
            [silent, line.session.timeout(wanted), suspect]
        });
        let own = lines.chain([self.places.timeout(self.is_urgent())]).flatten();
        paused.chain(own).filter(|at| *at > now).min()
    }
}

impl Cursor {
    fn new(lane: Lane, offset: Offset, seed: u64) -> Self {
        Self {
            lane,
            next: offset,
            position: offset,
            high_watermark: Offset::ZERO,
            state: State::Idle(None),
            failing: None,
            held: 0,
            owed: 0,
            added: false,
            backoff: Backoff::new(seed),
        }
    }
}

impl Line {
    fn new(session: Session, now: Instant) -> Self {
        let (waiting, names) = (BTreeMap::new(), BTreeMap::new());
        Self { session, waiting, names, heard: now, spoke: now, pinged: None }
    }

    /// Since when the server owes something: a sign of life, or a connection.
    fn waits_since(&self) -> Option<Instant> {
        self.pinged.or(self.session.trying_since())
    }
}

/// A partition's part of the buffer.
fn share(options: &ConsumerOptions, partitions: usize) -> usize {
    (options.buffer_bytes / partitions.max(1)).max(1)
}

/// Bytes in memory as a number that may fall below zero.
fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Whether a partition is read on a lane.
fn wanted(cursors: &BTreeMap<u32, Cursor>, lane: Lane) -> bool {
    cursors.values().any(|cursor| cursor.lane == lane && cursor.state != State::Failed)
}

/// What the server says of a subscription that goes on.
enum Said {
    /// It has begun; the partition's end.
    Begun(Offset),
    Push(Push<'static>, Answer),
}

fn subscribed(answer: Answer) -> Result<Said, Error> {
    let response = SubscribeResponse::decode(&answer.head)?;
    Error::check(response.error, &response.message)?;
    Ok(Said::Begun(response.high_watermark))
}

/// The offset behind a stored batch.
fn end_of(batch: &[u8]) -> Result<Offset, Error> {
    let header = BatchHeader::parse(batch)?;
    Ok(Offset::new(header.stored_offset()?.get() + u64::from(header.count)))
}

/// What the server says of a fetch from a partition.
pub(crate) fn check(response: &FetchResponse<'_>, partition: PartitionIndex) -> Result<(), Error> {
    readable(response.error, response.next_offset, &response.message, partition)
}

/// Whether there is something to read, and if not, where it can be gone on.
fn readable(
    code: ErrorCode,
    next: Offset,
    message: &str,
    partition: PartitionIndex,
) -> Result<(), Error> {
    match code {
        ErrorCode::Damaged | ErrorCode::Truncated | ErrorCode::OffsetOutOfRange => {}
        code => return Error::check(code, message),
    }
    let space = if message.is_empty() { "" } else { " " };
    let message = format!("{message}{space}");
    Err(Error::Unreadable { code, partition, next, message })
}
