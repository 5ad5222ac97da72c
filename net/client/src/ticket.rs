//! What an append gives: a ticket for the receipt to come.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Instant,
};

use catena_format::Offset;

use crate::{error::Error, record::Receipt};

/// The promise of a receipt for an appended record: a future, for any runtime, and
/// [`Ticket::wait`] for threads.
///
/// Dropping a ticket cancels nothing: the record is sent all the same, and a failure is told by the
/// producer's `flush`.
#[must_use = "the record is stored when the ticket says so; `flush` tells it for all together"]
pub struct Ticket {
    outcome: Arc<Outcome>,
    index: u32,
}

impl Ticket {
    pub(crate) fn new(outcome: Arc<Outcome>, index: u32) -> Self {
        Self { outcome, index }
    }

    /// What became of the record, if that is known: the receipt of its batch.
    #[must_use]
    pub fn outcome(&self) -> Option<Result<Receipt, Error>> {
        self.outcome.lock().result.clone()
    }

    /// The record's own offset within a receipt.
    #[must_use]
    pub fn offset_in(&self, receipt: &Receipt) -> Offset {
        Offset::new(receipt.first_offset.get() + u64::from(self.index))
    }

    /// Waits on this thread until it is known what became of the record. That takes at most the
    /// producer's delivery timeout.
    ///
    /// # Errors
    /// Why the record is not stored, or may not be: [`Error::class`] says which. Under
    /// [`catena_wire::ErrorCode::DuplicateOffsetUnknown`] it is stored, but no longer known where.
    pub fn wait(mut self) -> Result<Receipt, Error> {
        block_on(&mut self)
    }
}

impl Future for Ticket {
    type Output = Result<Receipt, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.outcome.lock();
        match &state.result {
            Some(result) => Poll::Ready(result.clone()),
            None => {
                remember(&mut state.wakers, context.waker());
                Poll::Pending
            }
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("outcome", &self.outcome()).finish_non_exhaustive()
    }
}

/// What becomes of a batch, shared by the tickets of its records.
#[derive(Debug, Default)]
pub(crate) struct Outcome(Mutex<OutcomeState>);

#[derive(Debug, Default)]
struct OutcomeState {
    result: Option<Result<Receipt, Error>>,
    wakers: VecDeque<Waker>,
}

impl Outcome {
    fn lock(&self) -> MutexGuard<'_, OutcomeState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is known: whoever waits is woken.
    pub(crate) fn settle(&self, result: Result<Receipt, Error>) {
        let wakers = {
            let mut state = self.lock();
            state.result = Some(result);
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Keeps a waker once, however often it is shown in a row.
pub(crate) fn remember(wakers: &mut VecDeque<Waker>, waker: &Waker) {
    if !wakers.iter().rev().take(8).any(|known| known.will_wake(waker)) {
        wakers.push_back(waker.clone());
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a future on this thread.
pub(crate) fn block_on<F: Future + Unpin>(future: F) -> F::Output {
    block_until(future, None).expect("without an end it is waited for")
}

/// Waits for a future on this thread, until then at most.
pub(crate) fn block_until<F: Future + Unpin>(
    mut future: F,
    until: Option<Instant>,
) -> Option<F::Output> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = Pin::new(&mut future).poll(&mut context) {
            return Some(output);
        }
        match until.map(|until| until.saturating_duration_since(Instant::now())) {
            None => thread::park(),
            Some(left) if left.is_zero() => return None,
            Some(left) => thread::park_timeout(left),
        }
    }
}
