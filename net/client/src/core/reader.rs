//! A consumer: fetches ahead from each partition, keeps the order, and comes back after failures.
//!
//! Each partition has one fetch under way, which the server answers when there is something. What
//! came waits until it is taken; while too much waits nothing more is asked for. A subscription
//! would take the fetch's place: its credit is the room in the same buffer.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use catena_format::{BatchHeader, Offset, PartitionIndex, TopicId};
use catena_wire::{Api, Class, ErrorCode, FetchRequest, FetchResponse, Message};

use super::{
    Step,
    backoff::Backoff,
    link::{Answer, Response},
    session::{self, Session},
};
use crate::{
    batch::{Batch, split},
    error::Error,
    options::ConsumerOptions,
};

/// With more partitions than fetches under way none waits longer for records than this.
const CROWDED_WAIT: Duration = Duration::from_millis(50);
/// The most fetches under way.
const FETCHES_MAX: usize = 64;

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
    /// To be asked, not before this time.
    Idle(Option<Instant>),
    /// Asked since then.
    Asked(Instant),
    /// Failed for good until somebody seeks.
    Failed,
}

#[derive(Debug)]
struct Cursor {
    /// Where to fetch.
    next: Offset,
    /// Where the application is.
    position: Offset,
    high_watermark: Offset,
    state: State,
    backoff: Backoff,
}

/// The state machine of a consumer.
#[derive(Debug)]
pub(crate) struct Reader {
    topic: TopicId,
    options: ConsumerOptions,
    request_timeout: Duration,
    session: Session,
    cursors: BTreeMap<u32, Cursor>,
    /// Where asking goes on.
    turn: u32,
    /// Partitions by the correlation ids under way.
    waiting: BTreeMap<u32, u32>,
    ready: VecDeque<Result<Fetched, Error>>,
    ready_bytes: usize,
    finished: bool,
}

impl Reader {
    /// A consumer that begins at the given offsets.
    pub(crate) fn new(
        topic: TopicId,
        options: ConsumerOptions,
        session: Session,
        request_timeout: Duration,
        starts: &[(PartitionIndex, Offset)],
        seed: u64,
    ) -> Self {
        let cursor = |(partition, offset): &(PartitionIndex, Offset)| {
            let (next, position) = (*offset, *offset);
            let backoff = Backoff::new(seed.wrapping_add(u64::from(partition.get())));
            let (high_watermark, state) = (Offset::ZERO, State::Idle(None));
            (partition.get(), Cursor { next, position, high_watermark, state, backoff })
        };
        Self {
            topic,
            options,
            request_timeout,
            session,
            cursors: starts.iter().map(cursor).collect(),
            turn: 0,
            waiting: BTreeMap::new(),
            ready: VecDeque::new(),
            ready_bytes: 0,
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

    /// The end of a partition as the server last told it; zero before it did.
    pub(crate) fn high_watermark(&self, partition: PartitionIndex) -> Option<Offset> {
        Some(self.cursors.get(&partition.get())?.high_watermark)
    }

    /// Goes on elsewhere in a partition; what came from it is forgotten.
    pub(crate) fn seek(&mut self, partition: PartitionIndex, offset: Offset) -> Result<(), Error> {
        let Some(cursor) = self.cursors.get_mut(&partition.get()) else {
            let message = format!("{partition}, which this consumer does not read");
            return Err(Error::Server { code: ErrorCode::UnknownPartition, message });
        };
        (cursor.next, cursor.position, cursor.state) = (offset, offset, State::Idle(None));
        self.waiting.retain(|_, asked| *asked != partition.get());
        self.forget(partition);
        Ok(())
    }

    fn forget(&mut self, partition: PartitionIndex) {
        self.ready.retain(|ready| {
            let gone = ready.as_ref().is_ok_and(|fetched| fetched.partition == partition);
            if let (true, Ok(fetched)) = (gone, ready) {
                self.ready_bytes -= fetched.bytes.len();
            }
            !gone
        });
    }

    /// A batch that was taken cannot be read: the partition stops there until somebody seeks.
    pub(crate) fn on_unreadable(&mut self, fetched: &Fetched) {
        let (partition, at) = (fetched.partition, fetched.offset().unwrap_or(fetched.from));
        if let Some(cursor) = self.cursors.get_mut(&partition.get()) {
            (cursor.state, cursor.next, cursor.position) = (State::Failed, at, at);
            self.waiting.retain(|_, asked| *asked != partition.get());
            self.forget(partition);
        }
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
        if let Ok(fetched) = &ready {
            self.ready_bytes -= fetched.bytes.len();
            if let (Some(cursor), Ok(end)) =
                (self.cursors.get_mut(&fetched.partition.get()), end_of(&fetched.bytes))
            {
                cursor.position = end;
            }
        }
        Some(ready)
    }

    /// Nobody reads any more.
    pub(crate) fn finish(&mut self) {
        self.finished = true;
    }

    pub(crate) fn on_connected(&mut self, address: &str, now: Instant) {
        if let Err(error) = self.session.on_connected(address, now) {
            self.session.fail(now);
            self.ready.push_back(Err(error));
        }
    }

    pub(crate) fn on_bytes(&mut self, bytes: &[u8], now: Instant) {
        if let Err(error) = self.session.on_bytes(bytes) {
            self.session.fail(now);
            return self.unanswered(&error, now);
        }
        while let Some(response) = self.session.poll_response() {
            self.on_response(response, now);
        }
    }

    pub(crate) fn on_lost(&mut self, error: Error, now: Instant) {
        let error = self.session.on_lost(error, now);
        self.unanswered(&error, now);
    }

    /// Everything is asked for again. A server that stays away is told once for each time that a
    /// request may take.
    fn unanswered(&mut self, error: &Error, now: Instant) {
        self.waiting.clear();
        for cursor in self.cursors.values_mut() {
            if matches!(cursor.state, State::Asked(_)) {
                cursor.state = State::Idle(None);
            }
        }
        let since = self.session.failing_since().unwrap_or(now);
        if now.saturating_duration_since(since) >= self.request_timeout && self.ready.is_empty() {
            self.session.forget_failing(now);
            self.ready.push_back(Err(error.clone()));
        }
    }

    fn on_response(&mut self, response: Response, now: Instant) {
        let Some(index) = self.waiting.remove(&response.correlation) else { return };
        let partition = PartitionIndex::new(index);
        let fetched = response.answer.and_then(|answer| self.take(partition, answer));
        let Some(cursor) = self.cursors.get_mut(&index) else { return };
        match fetched {
            Ok(()) => {
                cursor.backoff.reset();
                cursor.state = State::Idle(None);
            }
            Err(Error::Server { code, .. }) if code.class() != Class::Definite => {
                cursor.state = State::Idle(Some(now + cursor.backoff.pause()));
            }
            Err(error) => {
                cursor.state = State::Failed;
                self.ready.push_back(Err(error));
            }
        }
    }

    fn take(&mut self, partition: PartitionIndex, answer: Answer) -> Result<(), Error> {
        let response = FetchResponse::decode(&answer.head)?;
        let cursor = self.cursors.get_mut(&partition.get()).expect("it was asked for");
        check(&response, partition)?;
        cursor.high_watermark = response.high_watermark;
        let from = cursor.next;
        for bytes in split(answer.payload.into()) {
            let bytes = bytes?;
            self.ready_bytes += bytes.len();
            let limit = self.options.decompressed_bytes_max;
            self.ready.push_back(Ok(Fetched { partition, bytes, from, limit }));
        }
        cursor.next = response.next_offset.max(cursor.next);
        Ok(())
    }

    /// What to do next.
    pub(crate) fn step(&mut self, now: Instant) -> Step {
        if self.finished {
            return Step::Done;
        }
        let late = self.stalled_at().is_some_and(|at| now >= at) || self.session.is_late(now);
        if late {
            self.session.fail(now);
            self.unanswered(&session::late(), now);
        }
        self.ask(now);
        match self.session.step(now, true) {
            Some(step) => step,
            None => Step::Wait(self.timeout(now)),
        }
    }

    fn stalled_at(&self) -> Option<Instant> {
        let asked = self.cursors.values().filter_map(|cursor| match cursor.state {
            State::Asked(since) => Some(since),
            _ => None,
        });
        Some(asked.min()? + self.options.max_wait + self.request_timeout)
    }

    fn timeout(&self, now: Instant) -> Option<Instant> {
        let paused = self.cursors.values().filter_map(|cursor| match cursor.state {
            State::Idle(until) => until,
            _ => None,
        });
        let own = [self.stalled_at(), self.session.timeout(true)];
        paused.chain(own.into_iter().flatten()).filter(|at| *at > now).min()
    }

    /// Asks each partition in turn for what comes next, while there is room for it.
    fn ask(&mut self, now: Instant) {
        let Some(link) = self.session.link() else { return };
        let Some(limits) = link.greeting().map(|greeting| greeting.limits.clone()) else { return };
        let most = FETCHES_MAX.min(limits.in_flight_max as usize).max(1);
        let crowded = self.cursors.len() > most;
        let wait =
            if crowded { self.options.max_wait.min(CROWDED_WAIT) } else { self.options.max_wait };
        let turn = self.turn;
        let order = self.cursors.range(turn..).chain(self.cursors.range(..turn));
        let order: Vec<u32> = order.map(|(index, _)| *index).collect();
        for index in order {
            if self.ready_bytes >= self.options.buffer_bytes || self.waiting.len() >= most {
                return;
            }
            let cursor = self.cursors.get_mut(&index).expect("it was just listed");
            if !matches!(cursor.state, State::Idle(until) if until.is_none_or(|until| now >= until))
            {
                continue;
            }
            let request = FetchRequest {
                topic: self.topic,
                partition: PartitionIndex::new(index),
                offset: cursor.next,
                max_bytes: self.options.fetch_bytes,
                min_bytes: 1,
                max_wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
            };
            match link.request(Api::Fetch, &request, &[]) {
                Ok(correlation) => {
                    self.waiting.insert(correlation, index);
                    cursor.state = State::Asked(now);
                    self.turn = index + 1;
                }
                Err(error) => {
                    cursor.state = State::Failed;
                    self.ready.push_back(Err(error));
                }
            }
        }
    }
}

/// The offset behind a stored batch.
fn end_of(batch: &[u8]) -> Result<Offset, Error> {
    let header = BatchHeader::parse(batch)?;
    Ok(Offset::new(header.stored_offset()?.get() + u64::from(header.count)))
}

/// What the server says of a fetch from a partition.
pub(crate) fn check(response: &FetchResponse<'_>, partition: PartitionIndex) -> Result<(), Error> {
    let code = response.error;
    match code {
        ErrorCode::Damaged | ErrorCode::Truncated | ErrorCode::OffsetOutOfRange => {}
        code => return Error::check(code, &response.message),
    }
    let space = if response.message.is_empty() { "" } else { " " };
    let message = format!("{}{space}", response.message);
    Err(Error::Unreadable { code, partition, next: response.next_offset, message })
}
