//! Memory for what clients are sending: bounded for the core, given out in the order of asking.
//!
//! A buffer's first bytes are free of charge, for a connection has them as long as it lives. What
//! an ordinary message needs comes out of one pool and what only a large one needs out of another,
//! so that large messages never keep small ones waiting. Nobody holds memory for good while others
//! wait for it: [`Budget::sweep`] ends those who have had their time.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    pin::pin,
    rc::Rc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use futures_lite::future;

/// What an idle connection keeps.
pub(crate) const IDLE_BYTES: usize = 1 << 10;
/// What is read at once: a batch of 64 KiB with its headers, or many small messages.
pub(crate) const READ_BYTES: usize = 80 << 10;
/// The least that there is for ordinary messages.
const SMALL_BYTES_MIN: usize = 1 << 20;

/// The memory of a core.
pub(crate) struct Budget {
    /// For ordinary messages, and for the rest of large ones.
    pools: [Pool; 2],
    /// Buffers that cost something.
    seats: RefCell<BTreeMap<u64, Rc<Seat>>>,
    next: Cell<u64>,
}

/// Why a connection is woken that waits for bytes or memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Nudge {
    /// Nothing came for a while.
    Idle,
    /// It has had its time, and others wait for memory.
    Overdue,
}

impl Budget {
    /// About `bytes` of memory, but room for two messages of the largest kind.
    pub(crate) fn new(bytes: usize, message_bytes_max: usize) -> Rc<Self> {
        let small = (bytes / 4).max(SMALL_BYTES_MIN);
        let large = (bytes - bytes / 4).max(2 * message_bytes_max);
        Rc::new(Self {
            pools: [Pool::new(small), Pool::new(large)],
            seats: RefCell::new(BTreeMap::new()),
            next: Cell::new(0),
        })
    }

    /// Bytes given out.
    pub(crate) fn used(&self) -> usize {
        self.pools.iter().map(|pool| pool.bytes - pool.free.get()).sum()
    }

    /// A place for the buffer of one connection, of [`IDLE_BYTES`].
    pub(crate) fn place(self: &Rc<Self>) -> Place {
        let number = self.next.get();
        self.next.set(number + 1);
        Place { budget: self.clone(), seat: Rc::default(), number }
    }

    /// Tells buffers that have long been empty to shrink. While some wait for memory, ends those
    /// that have waited for longer than `patience`, and those that have held some for longer than
    /// half of it without a whole message.
    pub(crate) fn sweep(&self, now: Instant, patience: Duration) {
        let wanted = [0, 1].map(|pool: usize| !self.pools[pool].waiting.borrow().is_empty());
        for seat in self.seats.borrow().values() {
            let Some(since) = seat.since.get() else {
                if !seat.moved.replace(false) {
                    seat.nudge(Nudge::Idle);
                }
                continue;
            };
            let waits = seat.waits.get();
            let holds = (0..2).any(|pool| wanted[pool] && seat.held[pool].get() > 0);
            let allowed = if waits { patience } else { patience / 2 };
            if (waits || holds) && now.saturating_duration_since(since) > allowed {
                seat.nudge(Nudge::Overdue);
            }
        }
    }
}

/// What the pools give for a buffer of a length.
fn parts(bytes: usize) -> [usize; 2] {
    [bytes.min(READ_BYTES).saturating_sub(IDLE_BYTES), bytes.saturating_sub(READ_BYTES)]
}

/// What the budget knows of a buffer.
#[derive(Default)]
struct Seat {
    held: [Cell<usize>; 2],
    /// Since when a message has been arriving, or from when on it has had what it waited for.
    since: Cell<Option<Instant>>,
    waits: Cell<bool>,
    moved: Cell<bool>,
    nudge: Cell<Option<Nudge>>,
    waker: RefCell<Option<Waker>>,
}

impl Seat {
    fn nudge(&self, nudge: Nudge) {
        self.nudge.set(Some(nudge));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The place of one buffer; what it holds is given back with it.
pub(crate) struct Place {
    budget: Rc<Budget>,
    seat: Rc<Seat>,
    number: u64,
}

impl Place {
    fn register(&self) {
        self.budget.seats.borrow_mut().entry(self.number).or_insert_with(|| self.seat.clone());
    }

    /// Waits until the buffer may be `bytes` long.
    pub(crate) async fn grow(&self, bytes: usize) -> Result<(), Nudge> {
        if self.try_grow(bytes) {
            return Ok(());
        }
        self.register();
        self.seat.waits.set(true);
        let mut take = pin!(async {
            let wanted = parts(bytes);
            for ((pool, held), wanted) in self.budget.pools.iter().zip(&self.seat.held).zip(wanted)
            {
                let more = wanted.saturating_sub(held.get());
                if more > 0 {
                    pool.take(self.number, more).await;
                    held.set(wanted);
                }
            }
        });
        self.seat.since.set(Some(self.seat.since.get().unwrap_or_else(Instant::now)));
        let taken = loop {
            match self.unless_nudged(take.as_mut()).await {
                Err(Nudge::Idle) => {}
                taken => break taken,
            }
        };
        self.seat.waits.set(false);
        self.begin();
        taken
    }

    /// Takes what a buffer of `bytes` costs, if there is as much and nobody waits for it.
    pub(crate) fn try_grow(&self, bytes: usize) -> bool {
        let more = |pool: usize| parts(bytes)[pool].saturating_sub(self.seat.held[pool].get());
        if !(0..2).all(|pool| more(pool) == 0 || self.budget.pools[pool].has(more(pool))) {
            return false;
        }
        self.register();
        for pool in 0..2 {
            let (free, more) = (&self.budget.pools[pool].free, more(pool));
            free.set(free.get() - more);
            let held = &self.seat.held[pool];
            held.set(held.get() + more);
        }
        true
    }

    /// The buffer is only `bytes` long now.
    pub(crate) fn shrink(&self, bytes: usize) {
        for ((pool, held), kept) in self.budget.pools.iter().zip(&self.seat.held).zip(parts(bytes))
        {
            let kept = kept.min(held.get());
            pool.give(held.replace(kept) - kept);
        }
        if bytes <= IDLE_BYTES {
            self.budget.seats.borrow_mut().remove(&self.number);
        }
    }

    /// A part of a message is there, or none.
    pub(crate) fn arriving(&self, some: bool) {
        match (some, self.seat.since.get()) {
            (true, None) => self.begin(),
            (false, Some(_)) => self.arrived(),
            _ => {}
        }
    }

    /// From now on counts how long a message takes.
    pub(crate) fn begin(&self) {
        self.seat.nudge.set(None);
        self.seat.since.set(Some(Instant::now()));
    }

    /// A message is whole.
    pub(crate) fn arrived(&self) {
        self.seat.nudge.set(None);
        self.seat.since.set(None);
        self.seat.moved.set(true);
    }

    /// Waits for `future`, or until the budget says something.
    pub(crate) async fn unless_nudged<T>(
        &self,
        future: impl Future<Output = T>,
    ) -> Result<T, Nudge> {
        let nudged = poll_fn(|cx| {
            if let Some(nudge) = self.seat.nudge.take() {
                return Poll::Ready(Err(nudge));
            }
            self.seat.waker.replace(Some(cx.waker().clone()));
            Poll::Pending
        });
        future::or(nudged, async { Ok(future.await) }).await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

/// Memory of one kind.
struct Pool {
    bytes: usize,
    free: Cell<usize>,
    /// Who waits, by the number of the place, the first before all others.
    waiting: RefCell<VecDeque<(u64, Option<Waker>)>>,
}

impl Pool {
    fn new(bytes: usize) -> Self {
        Self { bytes, free: Cell::new(bytes), waiting: RefCell::new(VecDeque::new()) }
    }

    fn has(&self, bytes: usize) -> bool {
        self.free.get() >= bytes && self.waiting.borrow().is_empty()
    }

    async fn take(&self, number: u64, bytes: usize) {
        self.waiting.borrow_mut().push_back((number, None));
        let _queued = Queued { pool: self, number };
        poll_fn(|cx| {
            let mut waiting = self.waiting.borrow_mut();
            let first = waiting.front().is_some_and(|(first, _)| *first == number);
            if first && self.free.get() >= bytes {
                self.free.set(self.free.get() - bytes);
                return Poll::Ready(());
            }
            if let Some((_, waker)) = waiting.iter_mut().find(|(waiting, _)| *waiting == number) {
                *waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    fn give(&self, bytes: usize) {
        self.free.set(self.free.get() + bytes);
        self.wake_first();
    }

    fn wake_first(&self) {
        let waker = self.waiting.borrow_mut().front_mut().and_then(|(_, waker)| waker.take());
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// One who waits; whoever is behind is first then.
struct Queued<'p> {
    pool: &'p Pool,
    number: u64,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.pool.waiting.borrow_mut().retain(|(number, _)| *number != self.number);
        self.pool.wake_first();
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;

    const MESSAGE: usize = 3 << 20;
    const PATIENCE: Duration = Duration::from_secs(10);

    /// One of 1 MiB for ordinary messages and of 6 MiB for large ones.
    fn budget() -> Rc<Budget> {
        Budget::new(0, MESSAGE)
    }

    fn after(patience: f64) -> Instant {
        Instant::now() + PATIENCE.mul_f64(patience)
    }

    #[test]
    fn memory_is_given_in_the_order_of_asking_and_comes_back() {
        let budget = budget();
        let places: Vec<_> = (0..4).map(|_| budget.place()).collect();
        assert!(places[0].try_grow(READ_BYTES + MESSAGE));
        assert!(places[1].try_grow(READ_BYTES + MESSAGE));
        let mut third = pin!(places[2].grow(READ_BYTES + MESSAGE));
        let mut fourth = pin!(places[3].grow(READ_BYTES + 1));
        assert_eq!(block_on(poll_once(third.as_mut())), None);
        assert_eq!(block_on(poll_once(fourth.as_mut())), None);
        places[0].shrink(READ_BYTES + MESSAGE / 2);
        // There is enough for the fourth, but the third asked first.
        assert_eq!(block_on(poll_once(fourth.as_mut())), None);
        assert_eq!(block_on(poll_once(third.as_mut())), None);
        places[0].shrink(IDLE_BYTES);
        assert_eq!(block_on(poll_once(third.as_mut())), Some(Ok(())));
        assert_eq!(block_on(poll_once(fourth.as_mut())), None);
        places[1].shrink(IDLE_BYTES);
        assert_eq!(block_on(poll_once(fourth.as_mut())), Some(Ok(())));
        places.iter().for_each(|place| place.shrink(IDLE_BYTES));
        assert_eq!(budget.used(), 0);
        assert!(budget.seats.borrow().is_empty());
    }

    #[test]
    fn who_no_longer_waits_lets_the_next_pass() {
        let budget = budget();
        let (holder, second) = (budget.place(), budget.place());
        assert!(holder.try_grow(READ_BYTES + 2 * MESSAGE - 1));
        {
            let first = budget.place();
            let mut first = pin!(first.grow(READ_BYTES + 2));
            assert_eq!(block_on(poll_once(first.as_mut())), None);
            assert!(!second.try_grow(READ_BYTES + 1));
        }
        assert!(second.try_grow(READ_BYTES + 1));
    }

    #[test]
    fn large_messages_leave_room_for_small_ones() {
        let budget = budget();
        let (large, waiting, small) = (budget.place(), budget.place(), budget.place());
        assert!(large.try_grow(READ_BYTES + 2 * MESSAGE));
        let mut waiting = pin!(waiting.grow(READ_BYTES + 1));
        assert_eq!(block_on(poll_once(waiting.as_mut())), None);
        assert!(small.try_grow(READ_BYTES));
    }

    #[test]
    fn who_holds_memory_that_others_wait_for_has_half_of_the_time_that_they_have() {
        let budget = budget();
        let (holder, waiter) = (budget.place(), budget.place());
        assert!(holder.try_grow(READ_BYTES + 2 * MESSAGE));
        holder.arriving(true);
        budget.sweep(after(9.0), PATIENCE);
        assert_eq!(block_on(poll_once(holder.unless_nudged(future::pending::<()>()))), None);
        let mut waiting = pin!(waiter.grow(READ_BYTES + 1));
        assert_eq!(block_on(poll_once(waiting.as_mut())), None);
        budget.sweep(after(0.6), PATIENCE);
        assert_eq!(block_on(poll_once(waiting.as_mut())), None);
        let nudged = holder.unless_nudged(future::pending::<()>());
        assert_eq!(block_on(poll_once(nudged)), Some(Err(Nudge::Overdue)));
        budget.sweep(after(1.1), PATIENCE);
        assert_eq!(block_on(poll_once(waiting.as_mut())), Some(Err(Nudge::Overdue)));
    }

    #[test]
    fn a_buffer_that_stays_empty_is_told_at_the_second_look() {
        let budget = budget();
        let place = budget.place();
        assert!(place.try_grow(READ_BYTES));
        place.arriving(true);
        place.arrived();
        let nudge = || block_on(poll_once(place.unless_nudged(future::pending::<()>())));
        budget.sweep(after(0.0), PATIENCE);
        assert_eq!(nudge(), None);
        budget.sweep(after(0.0), PATIENCE);
        assert_eq!(nudge(), Some(Err(Nudge::Idle)));
    }
}
