//! Producers and consumers behind a lock: one side belongs to the application, the other to
//! whatever drives them, a thread or a task. Waiting is by wakers, so both front ends share it.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use catena_format::{Millis, Offset, PartitionIndex};

use crate::{
    batch::Batch,
    core::{
        Driven, Step,
        lane::Lane,
        partition::BatchId,
        producer::{Appended, Producer, Refused},
        reader::{Fetched, Reader},
    },
    error::Error,
    record::NewRecord,
    ticket::{Outcome, Ticket, remember},
};

/// Tells whoever drives a state machine that there is something to do.
pub(crate) trait Bell: Send + Sync {
    fn ring(&self);

    /// Has it done at once and by the caller, where that is possible without waiting.
    fn drive(&self, _driven: &dyn Driven) {
        self.ring();
    }
}

/// A producer, for its application and its driver.
pub(crate) struct SharedProducer {
    state: Mutex<ProducerState>,
    bell: Box<dyn Bell>,
}

struct ProducerState {
    core: Producer,
    outcomes: BTreeMap<BatchId, Arc<Outcome>>,
    /// Appends that wait for room, and flushes.
    waiting: VecDeque<Waker>,
    /// The first failure since the last flush.
    failure: Option<Error>,
    closed: bool,
}

impl SharedProducer {
    pub(crate) fn new(core: Producer, bell: Box<dyn Bell>) -> Self {
        let state = ProducerState {
            core,
            outcomes: BTreeMap::new(),
            waiting: VecDeque::new(),
            failure: None,
            closed: false,
        };
        Self { state: Mutex::new(state), bell }
    }

    fn lock(&self) -> MutexGuard<'_, ProducerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the state machine says of itself.
    pub(crate) fn ask<T>(&self, ask: impl FnOnce(&Producer) -> T) -> T {
        ask(&self.lock().core)
    }

    /// Appends, or has the waker called when there may be room.
    pub(crate) fn poll_append(
        &self,
        record: &NewRecord<'_>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Ticket, Error>> {
        self.poll_take(context, |core, now| {
            core.append(record, record.timestamp.unwrap_or_else(wall_clock), now)
        })
    }

    /// Appends a batch with a condition, or has the waker called when there may be room.
    pub(crate) fn poll_append_at(
        &self,
        partition: PartitionIndex,
        expected: Offset,
        records: &[NewRecord<'_>],
        context: &mut Context<'_>,
    ) -> Poll<Result<Ticket, Error>> {
        self.poll_take(context, |core, now| {
            core.append_at(partition, expected, records, wall_clock(), now)
        })
    }

    fn poll_take(
        &self,
        context: &mut Context<'_>,
        take: impl FnOnce(&mut Producer, Instant) -> Result<Appended, Refused>,
    ) -> Poll<Result<Ticket, Error>> {
        let (appended, at_once) = {
            let mut state = self.lock();
            if state.closed {
                return Poll::Ready(Err(Error::Closed { unclear: false }));
            }
            match take(&mut state.core, Instant::now()) {
                Ok(appended) => {
                    let outcome = state.outcomes.entry(appended.batch).or_default().clone();
                    state.settle();
                    // What is appended while something is under way goes out together.
                    (Ticket::new(outcome, appended.index), state.core.goes_at_once())
                }
                Err(Refused::Full) => {
                    remember(&mut state.waiting, context.waker());
                    drop(state);
                    self.bell.ring();
                    return Poll::Pending;
                }
                Err(Refused::Error(error)) => {
                    drop(state);
                    // There may be something to ask the server.
                    self.bell.ring();
                    return Poll::Ready(Err(error));
                }
            }
        };
        if at_once {
            self.bell.drive(self)
        } else {
            self.bell.ring()
        }
        Poll::Ready(Ok(appended))
    }

    /// Waits until everything appended before is settled; the first failure since the last flush.
    pub(crate) async fn flush(&self) -> Result<(), Error> {
        let end = {
            let mut state = self.lock();
            state.core.flush();
            state.core.next_batch()
        };
        self.bell.ring();
        poll_fn(|context| self.poll_settled(end, context)).await
    }

    fn poll_settled(&self, end: BatchId, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut state = self.lock();
        if state.outcomes.first_key_value().is_some_and(|(first, _)| *first < end) {
            remember(&mut state.waiting, context.waker());
            return Poll::Pending;
        }
        Poll::Ready(state.failure.take().map_or(Ok(()), Err))
    }

    /// The first failure since the last flush.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.lock().failure.clone()
    }

    /// Nothing more is appended; what was is still sent.
    pub(crate) fn finish(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.core.finish();
        drop(state);
        self.bell.ring();
    }

    fn with(&self, input: impl FnOnce(&mut Producer)) {
        let mut state = self.lock();
        input(&mut state.core);
        state.settle();
    }
}

impl ProducerState {
    /// Tells the tickets.
    fn settle(&mut self) {
        let mut some = false;
        while let Some((batch, result)) = self.core.poll_settled() {
            some = true;
            if let Err(error) = &result {
                self.failure.get_or_insert_with(|| error.clone());
            }
            if let Some(outcome) = self.outcomes.remove(&batch) {
                outcome.settle(result);
            }
        }
        if some {
            self.waiting.drain(..).for_each(Waker::wake);
        }
    }
}

impl Driven for SharedProducer {
    fn on_connected(&self, lane: Lane, now: Instant) {
        self.with(|core| core.on_connected(lane, now));
    }

    fn on_bytes(&self, lane: Lane, bytes: &[u8], now: Instant) {
        self.with(|core| core.on_bytes(lane, bytes, now));
    }

    fn on_lost(&self, lane: Lane, error: Error, now: Instant) {
        self.with(|core| core.on_lost(lane, error, now));
    }

    fn step(&self, now: Instant) -> Step {
        let mut state = self.lock();
        let step = state.core.step(now);
        state.settle();
        step
    }

    fn on_abandoned(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.core.fail(Error::Closed { unclear: true }, Instant::now());
        state.settle();
        state.waiting.drain(..).for_each(Waker::wake);
    }
}

impl fmt::Debug for SharedProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lock().core.fmt(f)
    }
}

/// A consumer, for its application and its driver.
pub(crate) struct SharedReader {
    state: Mutex<ReaderState>,
    bell: Box<dyn Bell>,
}

struct ReaderState {
    core: Reader,
    waiting: Option<Waker>,
    closed: bool,
}

impl SharedReader {
    pub(crate) fn new(core: Reader, bell: Box<dyn Bell>) -> Self {
        Self { state: Mutex::new(ReaderState { core, waiting: None, closed: false }), bell }
    }

    fn lock(&self) -> MutexGuard<'_, ReaderState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at or changes the state machine.
    pub(crate) fn with<T>(&self, input: impl FnOnce(&mut Reader) -> T) -> T {
        let output = input(&mut self.lock().core);
        self.bell.ring();
        output
    }

    /// The next batch; `None`: there will be none, for every partition has failed.
    pub(crate) fn poll_next(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Batch, Error>>> {
        let mut state = self.lock();
        if let Some(fetched) = state.core.poll_fetched() {
            drop(state);
            self.bell.ring();
            return Poll::Ready(Some(fetched.and_then(|fetched| self.read(&fetched))));
        }
        if state.closed || state.core.is_over() {
            return Poll::Ready(None);
        }
        state.waiting = Some(context.waker().clone());
        Poll::Pending
    }

    /// Checks and decompresses, on the application's side and outside the lock.
    fn read(&self, fetched: &Fetched) -> Result<Batch, Error> {
        fetched.read().map_err(|error| self.lock().core.on_unreadable(fetched, error))
    }

    /// The application is gone.
    pub(crate) fn finish(&self) {
        self.lock().core.finish();
        self.bell.ring();
    }

    fn drive(&self, input: impl FnOnce(&mut Reader)) {
        let mut state = self.lock();
        input(&mut state.core);
        state.wake();
    }
}

impl ReaderState {
    fn wake(&mut self) {
        if (self.closed || self.core.has_fetched() || self.core.is_over())
            && let Some(waker) = self.waiting.take()
        {
            waker.wake();
        }
    }
}

impl Driven for SharedReader {
    fn on_connected(&self, lane: Lane, now: Instant) {
        self.drive(|core| core.on_connected(lane, now));
    }

    fn on_bytes(&self, lane: Lane, bytes: &[u8], now: Instant) {
        self.drive(|core| core.on_bytes(lane, bytes, now));
    }

    fn on_lost(&self, lane: Lane, error: Error, now: Instant) {
        self.drive(|core| core.on_lost(lane, error, now));
    }

    fn step(&self, now: Instant) -> Step {
        let mut state = self.lock();
        let step = state.core.step(now);
        state.wake();
        step
    }

    fn on_abandoned(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.wake();
    }
}

impl fmt::Debug for SharedReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lock().core.fmt(f)
    }
}

/// The time of records that have none of their own.
fn wall_clock() -> Millis {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::new(i64::try_from(now.as_millis()).unwrap_or(i64::MAX))
}
