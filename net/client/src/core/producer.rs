//! A producer: records in, batches out, each stored once and in order.
//!
//! ```text
//! append ─> open ─(full, lingered, flushed)─> closed ─(sent)─> under way ─(receipt)─> settled
//!                                               ^─────────────────┘ refused, or lost
//! ```
//!
//! What was sent is sent again under the same sequence until it is answered, in the partition's
//! order, so that the server knows repetitions. A batch that fails for good leaves a gap in the
//! sequences: once no batch is left of which nobody knows whether it is stored, the producer's
//! epoch rises and the rest is sent under new sequences. See [`fence`] for how that becomes known.
//!
//! A batch with a condition is under way alone in its partition, see [`conditional`].
//!
//! A partition's batches go over one connection, that to the core which owns it on the head of its
//! chain. When another does, the partition changes over once nothing of it is under way: a node
//! that does not answer while another is the head is given up.

mod conditional;
mod fence;
mod lines;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use catena_format::{
    BATCH_HEADER_BYTES, Millis, PartitionIndex, ProducerEpoch, ProducerId, Sequence, TopicId,
    limits::BATCH_BYTES_MAX,
    records::{BatchBuilder, Producer as Stamp, RecordError, stamp},
};
use catena_wire::{
    Api, Class, Durability, ErrorCode, Message, ProduceRequest, ProduceResponse, TopicMetadata,
};

use self::{fence::Fence, lines::Line};
use super::{
    Step,
    lane::{Lane, may_have_moved},
    link::{Answer, Hello, Response},
    nodes::Nodes,
    partition::{Batch, BatchId, Open, Partition},
    partitioner::Partitioner,
    places::Places,
    session,
};
use crate::{
    error::Error,
    options::ProducerOptions,
    record::{NewRecord, Receipt},
};

/// What a batch came to.
pub(crate) type Settled = (BatchId, Result<Receipt, Error>);

/// Where a record went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Appended {
    pub(crate) batch: BatchId,
    /// Its place in the batch.
    pub(crate) index: u32,
}

/// Why a record was not taken.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The buffer is full: try again when something is settled.
    Full,
    /// It never will be.
    Error(Error),
}

/// What a producer writes to.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) topic: TopicId,
    pub(crate) places: Places,
    pub(crate) batch_bytes_max: usize,
    pub(crate) producer: (ProducerId, ProducerEpoch),
}

impl Target {
    /// As one of `nodes` describes it; whether there are more partitions is asked every `refresh`.
    pub(crate) fn of(
        topic: &TopicMetadata<'_>,
        nodes: Nodes,
        producer: (ProducerId, ProducerEpoch),
        refresh: Duration,
        seed: u64,
    ) -> Result<Self, Error> {
        if topic.partitions.is_empty() {
            return Err(Error::Protocol("a topic without partitions".to_owned()));
        }
        Ok(Self {
            topic: topic.id,
            places: Places::of(topic, nodes, Some(refresh), seed),
            batch_bytes_max: (topic.batch_bytes_max as usize).min(BATCH_BYTES_MAX),
            producer,
        })
    }
}

/// The state machine of a producer.
#[derive(Debug)]
pub(crate) struct Producer {
    options: ProducerOptions,
    request_timeout: Duration,
    target: Target,
    hello: Hello,
    seed: u64,
    lines: BTreeMap<Lane, Line>,
    partitioner: Partitioner,
    partitions: Vec<Partition>,
    /// Partitions that hold something.
    active: BTreeSet<u32>,
    /// Where sending goes on.
    turn: u32,
    next_batch: u64,
    buffered_bytes: usize,
    /// Batches under way on all lanes.
    in_flight: usize,
    settled: VecDeque<Settled>,
    retries: u64,
    raising: bool,
    fence: Fence,
    closing: bool,
    /// Why the last connection ended.
    trouble: Option<Error>,
    fatal: Option<Error>,
}

impl Producer {
    pub(crate) fn new(
        target: Target,
        options: ProducerOptions,
        hello: Hello,
        request_timeout: Duration,
        seed: u64,
    ) -> Self {
        let mut producer = Self {
            options: options.bounded(),
            request_timeout,
            hello,
            seed,
            lines: BTreeMap::new(),
            partitioner: Partitioner::new(target.places.partitions(), seed),
            partitions: Vec::new(),
            target,
            active: BTreeSet::new(),
            turn: 0,
            next_batch: 0,
            buffered_bytes: 0,
            in_flight: 0,
            settled: VecDeque::new(),
            retries: 0,
            raising: false,
            fence: Fence::new(seed),
            closing: false,
            trouble: None,
            fatal: None,
        };
        producer.grow();
        producer
    }

    /// Takes the partitions in that there are by now.
    fn grow(&mut self) {
        let partitions = self.target.places.partitions();
        for index in self.partitions.len() as u32..partitions {
            let seed = self.seed.wrapping_add(u64::from(index));
            self.partitions.push(Partition::new(self.target.places.lane(index), seed));
        }
        self.partitioner.grow(partitions);
    }

    /// Partitions of the topic, as far as they are known.
    pub(crate) fn partitions(&self) -> u32 {
        self.partitions.len() as u32
    }

    /// How often batches were sent again.
    pub(crate) fn retries(&self) -> u64 {
        self.retries
    }

    /// Batches under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether a step now would send what the only partition that holds something has, and nothing
    /// is under way.
    pub(crate) fn goes_at_once(&self) -> bool {
        let mut active = self.active.iter();
        let (Some(index), None) = (active.next(), active.next()) else { return false };
        let partition = &self.partitions[*index as usize];
        let line = self.lines.get(&partition.lane);
        self.in_flight == 0
            && !self.raising
            && partition.hold.is_none()
            && partition.lane == self.target.places.lane(*index)
            && (self.options.linger.is_zero() || !partition.closed.is_empty())
            && line.is_some_and(|line| line.session.is_up())
    }

    /// The name that the next batch will have.
    pub(crate) fn next_batch(&self) -> BatchId {
        BatchId(self.next_batch)
    }

    /// Takes a record in.
    ///
    /// # Errors
    /// See [`Refused`].
    pub(crate) fn append(
        &mut self,
        record: &NewRecord<'_>,
        timestamp: Millis,
        now: Instant,
    ) -> Result<Appended, Refused> {
        let chosen = record.partition.map(PartitionIndex::get);
        let index = chosen.unwrap_or_else(|| self.partitioner.partition(record.key));
        let bytes = record.bytes_max();
        self.admit(index, bytes)?;
        let open = &self.partitions[index as usize].open;
        let fits = |open: &Open| open.builder.bytes() + bytes <= self.target.batch_bytes_max;
        if !open.as_ref().is_none_or(fits) {
            self.close(index);
        }
        Ok(self.push(index, record, timestamp, now))
    }

    /// Whether a partition takes so many bytes of records now.
    fn admit(&mut self, index: u32, bytes: usize) -> Result<(), Refused> {
        if let Some(error) = &self.fatal {
            return Err(Refused::Error(error.clone()));
        }
        if index >= self.partitions() {
            // It may have been added.
            self.target.places.wish();
            let (code, partitions) = (ErrorCode::UnknownPartition, self.partitions());
            let message = format!("{index}, there are {partitions}");
            return Err(Refused::Error(Error::Server { code, message }));
        }
        if BATCH_HEADER_BYTES + bytes > self.target.batch_bytes_max {
            let refused = RecordError::TooLarge(BATCH_HEADER_BYTES + bytes);
            return Err(Refused::Error(refused.into()));
        }
        if self.buffered_bytes > 0 && self.buffered_bytes + bytes > self.options.buffer_bytes {
            return Err(Refused::Full);
        }
        Ok(())
    }

    fn push(
        &mut self,
        index: u32,
        record: &NewRecord<'_>,
        timestamp: Millis,
        now: Instant,
    ) -> Appended {
        self.active.insert(index);
        let next = &mut self.next_batch;
        let open = self.partitions[index as usize].open.get_or_insert_with(|| {
            let id = BatchId(*next);
            *next += 1;
            Open { id, builder: BatchBuilder::new(), since: now, hurry: false }
        });
        let before = if open.builder.count() == 0 { 0 } else { open.builder.bytes() };
        open.builder.push(timestamp, record.key, record.value, record.headers);
        let (after, batch) = (open.builder.bytes(), open.id);
        let place = open.builder.count() - 1;
        self.buffered_bytes += after - before;
        if after >= self.options.batch_bytes {
            self.close(index);
        }
        Appended { batch, index: place }
    }

    fn close(&mut self, index: u32) {
        let partition = &mut self.partitions[index as usize];
        let Some(open) = &partition.open else { return };
        self.buffered_bytes -= open.builder.bytes();
        match partition.close(self.options.compression) {
            Ok(()) => {
                let closed = partition.closed.back().expect("it was just closed");
                self.buffered_bytes += closed.bytes.len();
            }
            Err((id, error)) => self.settled.push_back((id, Err(error))),
        }
        self.partitioner.on_closed(index);
        self.rest(index);
    }

    /// Forgets a partition that holds nothing.
    fn rest(&mut self, index: u32) {
        let partition = &mut self.partitions[index as usize];
        if partition.is_empty() {
            partition.hold = None;
            self.active.remove(&index);
        }
    }

    /// What was gathered lingers no longer.
    pub(crate) fn flush(&mut self) {
        for index in &self.active {
            if let Some(open) = &mut self.partitions[*index as usize].open {
                open.hurry = true;
            }
        }
    }

    /// Nothing more is appended: once all is settled it is done.
    pub(crate) fn finish(&mut self) {
        self.flush();
        self.closing = true;
    }

    /// The next batch that was settled.
    pub(crate) fn poll_settled(&mut self) -> Option<Settled> {
        self.settled.pop_front()
    }

    pub(crate) fn on_connected(&mut self, lane: Lane, now: Instant) {
        let Some(line) = self.lines.get_mut(&lane) else { return };
        if let Err(error) = line.session.on_connected(now) {
            self.fail(error, now);
        }
    }

    pub(crate) fn on_bytes(&mut self, lane: Lane, bytes: &[u8], now: Instant) {
        let Some(line) = self.lines.get_mut(&lane) else { return };
        self.target.places.on_heard(line.session.address());
        if let Err(error) = line.session.on_bytes(bytes) {
            line.session.fail(now);
            return self.unanswered(lane, &error, now);
        }
        while let Some(line) = self.lines.get_mut(&lane)
            && let Some(response) = line.session.poll_response()
        {
            line.progress = Some(now);
            self.on_response(lane, response, now);
        }
    }

    pub(crate) fn on_lost(&mut self, lane: Lane, error: Error, now: Instant) {
        let Some(line) = self.lines.get_mut(&lane) else { return };
        let error = line.session.on_lost(error, now);
        self.unanswered(lane, &error, now);
    }

    /// What was under way on a lane may have been stored or not; all is sent again, in order and
    /// after a pause, for it may be what ended the connection.
    fn unanswered(&mut self, lane: Lane, error: &Error, now: Instant) {
        self.trouble = Some(error.clone());
        self.fence.on_lost(lane, now);
        let Some(line) = self.lines.get_mut(&lane) else { return };
        self.target.places.on_lost(lane, line.session.address(), now);
        line.waiting.clear();
        self.in_flight -= line.in_flight;
        (line.in_flight, line.in_flight_bytes, line.progress) = (0, 0, None);
        for index in &self.active {
            let partition = &mut self.partitions[*index as usize];
            if partition.lane != lane {
                continue;
            }
            if partition.in_flight() > 0 {
                partition.pause(Duration::ZERO, now);
            }
            for batch in partition.closed.iter_mut().filter(|b| b.correlation.is_some()) {
                batch.correlation = None;
                batch.tainted = true;
                batch.last = Some(error.clone());
                self.retries += 1;
            }
        }
    }

    fn on_response(&mut self, lane: Lane, response: Response, now: Instant) {
        let (correlation, answer) = (response.correlation, response.answer);
        if self.target.places.on_answer(lane, correlation, &answer, now) {
            return self.grow();
        }
        match self.fence.on_answer(lane, correlation, &answer, now) {
            None => {}
            Some(Ok(())) => return,
            Some(Err(error)) => return self.fail(error, now),
        }
        let Some(line) = self.lines.get_mut(&lane) else { return };
        let Some(index) = line.waiting.remove(&correlation) else { return };
        let partition = &mut self.partitions[index as usize];
        let Some(at) = partition.sent_under(correlation) else { return };
        let batch = &mut partition.closed[at];
        batch.correlation = None;
        self.in_flight -= 1;
        line.in_flight -= 1;
        line.in_flight_bytes -= batch.bytes.len();
        let since = batch.since;
        match answered(answer) {
            Ok((produced, _)) if produced.error == ErrorCode::None => {
                partition.backoff.reset();
                self.target.places.on_served(index, lane);
                let receipt = Receipt::of(&produced, now.saturating_duration_since(since));
                self.settle(index, at, Ok(receipt));
            }
            Ok((produced, _)) if produced.error == ErrorCode::OffsetConditionFailed => {
                self.on_condition_failed(index, at, produced.next_offset);
            }
            Ok((produced, message)) => {
                let wait = Duration::from_millis(u64::from(produced.retry_after_ms));
                if let Some(head) = &produced.head {
                    self.target.places.on_redirect(index, head);
                }
                let error = Error::Server { code: produced.error, message };
                self.on_refused(index, at, error, wait, now);
            }
            Err(error) => self.on_refused(index, at, error, Duration::ZERO, now),
        }
    }

    fn on_refused(&mut self, index: u32, at: usize, error: Error, wait: Duration, now: Instant) {
        let code = match &error {
            Error::Server { code, .. } => *code,
            _ => ErrorCode::Internal,
        };
        let partition = &mut self.partitions[index as usize];
        // Behind a batch that was refused for the moment, one is out of order for the moment.
        let follows = partition.hold.is_some() || self.raising;
        let forgotten = code == ErrorCode::UnknownProducer
            || code == ErrorCode::OutOfOrderSequence
                && self.options.durability != Durability::ChainDisk;
        match (code, error.class()) {
            // It is stored: no gap.
            (ErrorCode::DuplicateOffsetUnknown, _) => return self.settle(index, at, Err(error)),
            // Neither stored nor ever to be, under this sequence.
            (ErrorCode::ProducerFenced, _) if self.fence.is_ours() => {
                partition.closed[at].tainted = false;
            }
            (ErrorCode::ProducerFenced, _) => return self.fail(error, now),
            (ErrorCode::OutOfOrderSequence | ErrorCode::UnknownProducer, _)
                if partition.closed[at].is_stray() =>
            {
                return self.on_strayed(index, at, error, now);
            }
            (ErrorCode::OutOfOrderSequence | ErrorCode::UnknownProducer, _) if follows => {}
            (_, Class::Definite) if forgotten => self.raising = true,
            // Of a copy that was sent before this is not known.
            (_, Class::Definite) if partition.closed[at].tainted => {
                return self.on_strayed(index, at, error, now);
            }
            (_, Class::Definite) => {
                self.raising = true;
                return self.settle(index, at, Err(error));
            }
            (_, Class::Retriable) => {}
            (_, Class::Indeterminate) => partition.closed[at].tainted = true,
        }
        if may_have_moved(&error) {
            self.target.places.on_refused(index, partition.lane);
        }
        self.retries += 1;
        partition.closed[at].last = Some(error);
        partition.pause(wait, now);
    }

    fn settle(&mut self, index: u32, at: usize, result: Result<Receipt, Error>) {
        let batch = self.partitions[index as usize].closed.remove(at).expect("it was found");
        self.buffered_bytes -= batch.bytes.len();
        self.settled.push_back((batch.id, result));
        self.rest(index);
    }

    /// Nothing can be stored any more: all that waits gets the error, and so does what comes.
    /// What may be stored is told so.
    pub(crate) fn fail(&mut self, error: Error, now: Instant) {
        let told = |batch: &Batch| {
            if !batch.is_unclear() || error.class() == Class::Indeterminate {
                return error.clone();
            }
            let after = now.saturating_duration_since(batch.since);
            Error::Undelivered { after, unclear: true, last: Box::new(error.clone()) }
        };
        for index in std::mem::take(&mut self.active) {
            let partition = &mut self.partitions[index as usize];
            let closed = partition.closed.drain(..).map(|batch| (batch.id, Err(told(&batch))));
            let open = partition.open.take().map(|open| (open.id, Err(error.clone())));
            self.settled.extend(closed.chain(open));
        }
        for line in self.lines.values_mut() {
            line.waiting.clear();
            (line.in_flight, line.in_flight_bytes, line.progress) = (0, 0, None);
        }
        (self.in_flight, self.buffered_bytes) = (0, 0);
        self.fatal = Some(error);
    }

    /// What to do next.
    pub(crate) fn step(&mut self, now: Instant) -> Step {
        self.expire(now);
        self.suspect(now);
        self.give_up_late(now);
        self.release(now);
        self.raise();
        self.change_lanes(now);
        self.fill(now);
        if let Some(step) = self.connections(now) {
            return step;
        }
        let over = self.closing && self.active.is_empty();
        if over { Step::Done } else { Step::Wait(self.timeout(now)) }
    }

    /// Gives up what was not stored in time.
    fn expire(&mut self, now: Instant) {
        let timeout = self.options.delivery_timeout;
        let indices: Vec<u32> = self.active.iter().copied().collect();
        for index in indices {
            let late = |since: Instant| now >= since + timeout;
            let partition = &self.partitions[index as usize];
            if partition.closed.is_empty() && partition.open.as_ref().is_some_and(|o| late(o.since))
            {
                self.close(index);
            }
            while let Some(batch) = self.partitions[index as usize].closed.front()
                && late(batch.since)
            {
                let under_way = batch.correlation;
                let error = undelivered(batch, self.trouble.as_ref(), timeout);
                self.raising |= batch.sequence.is_some();
                let line = self.lines.get_mut(&self.partitions[index as usize].lane);
                if let (Some(correlation), Some(line)) = (under_way, line) {
                    line.waiting.remove(&correlation);
                    self.in_flight -= 1;
                    line.in_flight -= 1;
                    line.in_flight_bytes -= batch.bytes.len();
                }
                self.settle(index, 0, Err(error));
            }
        }
    }

    /// Ends the pauses that are over.
    fn release(&mut self, now: Instant) {
        for index in &self.active {
            let partition = &mut self.partitions[*index as usize];
            let over = partition.hold.as_ref().is_some_and(|hold| now >= hold.until);
            if over && partition.in_flight() == 0 {
                partition.hold = None;
            }
        }
    }

    /// Whether there are batches of the producer's epoch of which a condition holds.
    fn has_sent(&self, condition: impl Fn(&Batch) -> bool) -> bool {
        let sent = |batch: &Batch| batch.sequence.is_some() && condition(batch);
        let mut active = self.active.iter().map(|index| &self.partitions[*index as usize]);
        active.any(|partition| partition.closed.iter().any(sent))
    }

    /// Raises the epoch when a gap was left and every sequence that was given is known to be free.
    fn raise(&mut self) {
        if !self.raising || self.has_sent(Batch::is_unclear) {
            return;
        }
        let (id, epoch) = self.target.producer;
        let own = epoch.get().checked_add(1).map(|next| (id, ProducerEpoch::new(next)));
        // Behind the last epoch the server gives an id.
        let Some(next) = self.fence.next().or(own) else { return };
        self.raising = false;
        self.fence.reset();
        self.target.producer = next;
        for partition in &mut self.partitions {
            partition.next_sequence = Sequence::new(0);
            partition.hold = None;
            for batch in &mut partition.closed {
                batch.sequence = None;
            }
        }
    }

    /// Sends what may be sent.
    fn fill(&mut self, now: Instant) {
        let (_, epoch) = self.target.producer;
        let last = epoch.get() == i16::MAX;
        let fences = self.raising && (last || self.has_sent(|batch| batch.tainted));
        let urgent = self.is_urgent();
        let places = &mut self.target.places;
        places.ask(urgent, self.lines.iter_mut().map(|(l, line)| (*l, &mut line.session)), now);
        // Whoever is not silent.
        let silent = |line: &Line| places.is_silent(line.session.address(), now);
        let up = self
            .lines
            .iter_mut()
            .filter(|(lane, line)| fences && **lane != Lane::SCOUT && line.session.is_up());
        if let Some((lane, line)) = up.min_by_key(|(_, line)| silent(line))
            && let Some(link) = line.session.link()
            && let Err(error) = self.fence.ask(*lane, link, self.target.producer, now)
        {
            return self.fail(error, now);
        }
        let turn = self.turn;
        let order: Vec<u32> =
            self.active.range(turn..).chain(self.active.range(..turn)).copied().collect();
        for index in order {
            while self.send_next(index, now) {
                self.turn = index + 1;
            }
        }
    }

    /// Sends the next batch of a partition, if it has one that may be sent.
    fn send_next(&mut self, index: u32, now: Instant) -> bool {
        let partition = &self.partitions[index as usize];
        // It is about to change over.
        if partition.lane != self.target.places.lane(index) {
            return false;
        }
        let Some(line) = self.lines.get_mut(&partition.lane) else { return false };
        let (under_way, under_way_bytes) = (line.in_flight, line.in_flight_bytes);
        let greeting = line.session.link().and_then(|link| link.greeting());
        let Some(limits) = greeting.map(|greeting| &greeting.limits) else { return false };
        let full = self.in_flight >= self.options.in_flight
            || under_way >= limits.in_flight_max.max(1) as usize;
        let window = limits.dedup_window.max(1) as usize;
        let room = limits.in_flight_bytes_max as usize;
        let blocked = partition.hold.is_some() || partition.awaits_condition();
        if full || blocked || partition.in_flight() >= window {
            return false;
        }
        let at = if self.raising {
            // What became of it is not certain before the epoch has ended.
            let ended = self.fence.next().is_some();
            let unclear = |batch: &Batch| ended && batch.tainted && batch.correlation.is_none();
            partition.closed.iter().position(unclear)
        } else {
            partition.next_to_send()
        };
        let due = !self.raising && at.is_none() && partition.is_due(self.options.linger, now);
        if due {
            self.close(index);
        }
        let partition = &self.partitions[index as usize];
        let at = if due { partition.next_to_send() } else { at };
        let Some(at) = at else { return false };
        let batch = &partition.closed[at];
        // A condition waits until everything before it is answered.
        if batch.expected.is_some() && at > 0 {
            return false;
        }
        let bytes = batch.bytes.len();
        if under_way > 0 && under_way_bytes + bytes > room {
            return false;
        }
        self.send(index, at, now)
    }

    fn send(&mut self, index: u32, at: usize, now: Instant) -> bool {
        let partition = &mut self.partitions[index as usize];
        let batch = &mut partition.closed[at];
        let fresh = batch.sequence.is_none();
        let sequence = batch.sequence.unwrap_or(partition.next_sequence);
        let (id, epoch) = self.target.producer;
        stamp(&mut batch.bytes, Stamp { id, epoch, sequence });
        let request = ProduceRequest {
            topic: self.target.topic,
            partition: PartitionIndex::new(index),
            durability: self.options.durability,
            expect_next_offset: batch.expected,
            deadline_ms: 0,
        };
        let line = self.lines.get_mut(&partition.lane).expect("its limits are known");
        let link = line.session.link().expect("its limits are known");
        match link.request(Api::Produce, &request, &batch.bytes) {
            Ok(correlation) => {
                batch.correlation = Some(correlation);
                batch.sequence = Some(sequence);
                if fresh {
                    partition.next_sequence = sequence.wrapping_add(batch.count);
                }
                if line.in_flight == 0 {
                    line.progress = Some(now);
                }
                self.in_flight += 1;
                line.in_flight += 1;
                line.in_flight_bytes += batch.bytes.len();
                line.waiting.insert(correlation, index);
            }
            Err(error) => {
                self.raising |= !fresh;
                self.settle(index, at, Err(error));
            }
        }
        true
    }
}

fn answered(answer: Result<Answer, Error>) -> Result<(ProduceResponse<'static>, String), Error> {
    let produced = ProduceResponse::decode_owned(&answer?.head)?;
    let message = produced.message.to_string();
    Ok((produced, message))
}

/// What a batch that was given up is told.
fn undelivered(batch: &Batch, trouble: Option<&Error>, after: Duration) -> Error {
    let last = batch.last.clone().or_else(|| trouble.cloned()).unwrap_or_else(session::late);
    Error::Undelivered { after, unclear: batch.is_unclear(), last: Box::new(last) }
}
