//! Tasks by name: one that holds its core for long is named in the log, and one that holds it still
//! when somebody asks whether the core lives.

use std::{
    future::poll_fn,
    pin::pin,
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant},
};

/// A stretch of work without a pause that is worth a line in the log.
pub(crate) const STALL: Duration = Duration::from_millis(20);

/// What a task of a core is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Task {
    /// Takes connections.
    Listener = 1,
    /// Serves one.
    Connection,
    /// Performs an operation on a file, and hands its end to the node.
    Operation,
    /// Takes what other cores send.
    Parcels,
    /// Closes the files of a deleted partition.
    Removal,
    /// Does what time brings, and publishes the numbers.
    Clock,
    /// Speaks with another node.
    Link,
    /// Hands on what consensus has ordered, and looks after who takes part.
    Consensus,
}

impl Task {
    const ALL: [Self; 8] = [
        Self::Listener,
        Self::Connection,
        Self::Operation,
        Self::Parcels,
        Self::Removal,
        Self::Clock,
        Self::Link,
        Self::Consensus,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Connection => "connection",
            Self::Operation => "operation",
            Self::Parcels => "parcels",
            Self::Removal => "removal",
            Self::Clock => "clock",
            Self::Link => "link",
            Self::Consensus => "consensus",
        }
    }
}

/// The task that runs on a core now.
#[derive(Default)]
pub(crate) struct Running(AtomicU8);

impl Running {
    /// Its name, if one runs.
    pub(crate) fn name(&self) -> Option<&'static str> {
        let task = self.0.load(Ordering::Relaxed);
        Task::ALL.into_iter().find(|t| *t as u8 == task).map(Task::name)
    }

    /// Runs a task to its end under its name; `stalled` hears of each long stretch.
    pub(crate) async fn watch<T>(
        &self,
        task: Task,
        future: impl Future<Output = T>,
        stalled: impl Fn(Duration),
    ) -> T {
        let mut future = pin!(future);
        poll_fn(|cx| {
            // A task that is begun within another one runs at once: the outer one comes back.
            let outer = self.0.swap(task as u8, Ordering::Relaxed);
            let began = Instant::now();
            let result = future.as_mut().poll(cx);
            let took = began.elapsed();
            self.0.store(outer, Ordering::Relaxed);
            if took >= STALL {
                tracing::warn!("task `{}` held its core for {took:?}", task.name());
                stalled(took);
            }
            result
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, task::Poll, thread};

    use super::*;

    #[test]
    fn a_long_stretch_is_told_and_a_running_task_is_named() {
        let (running, told) = (Running::default(), Cell::new(0));
        let mut first = true;
        let work = poll_fn(|cx| {
            assert_eq!(running.name(), Some("operation"));
            if std::mem::take(&mut first) {
                thread::sleep(STALL);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(7)
        });
        let watched = running.watch(Task::Operation, work, |_| told.set(told.get() + 1));
        assert_eq!(futures_lite::future::block_on(watched), 7);
        assert_eq!((told.get(), running.name()), (1, None));
    }
}
