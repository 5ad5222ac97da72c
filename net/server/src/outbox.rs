//! What waits for a client to read it: bounded for each connection and for the core.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    task::{Poll, Waker},
};

use catena_node::Send;
use catena_uring::Share;
use glommio::channels::local_channel::{LocalReceiver, LocalSender, new_unbounded};

/// The way to one client.
pub(crate) struct Outbox {
    sender: LocalSender<Send<Share>>,
    unsent: Rc<Unsent>,
}

impl Outbox {
    /// A way, and the end from which its connection takes; `core`: what is unsent on all of them.
    pub(crate) fn new(core: Rc<Cell<usize>>) -> (Self, LocalReceiver<Send<Share>>, Rc<Unsent>) {
        let (sender, receiver) = new_unbounded();
        let (bytes, cut, waker) = (Cell::new(0), Cell::new(false), RefCell::new(None));
        let unsent = Rc::new(Unsent { bytes, core, cut, waker });
        (Self { sender, unsent: unsent.clone() }, receiver, unsent)
    }

    /// Leaves something to be sent; false when the connection is gone.
    pub(crate) fn send(&self, send: Send<Share>) -> bool {
        let shares: usize = send.shares.iter().map(|share| share.as_ref().len()).sum();
        self.unsent.change(|bytes| bytes + send.bytes.len() + shares);
        self.sender.try_send(send).is_ok()
    }

    /// Bytes that wait.
    pub(crate) fn unsent(&self) -> usize {
        self.unsent.bytes.get()
    }

    /// Ends the connection at once, whatever waits; from now on nothing does.
    pub(crate) fn cut(&self) {
        self.unsent.change(|_| 0);
        self.unsent.cut.set(true);
        if let Some(waker) = self.unsent.waker.take() {
            waker.wake();
        }
    }
}

/// The books of one outbox.
pub(crate) struct Unsent {
    bytes: Cell<usize>,
    core: Rc<Cell<usize>>,
    cut: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Unsent {
    fn change(&self, change: impl FnOnce(usize) -> usize) {
        let (before, after) = (self.bytes.get(), change(self.bytes.get()));
        self.bytes.set(after);
        self.core.set(self.core.get() - before + after);
    }

    /// So many bytes have been given to the kernel.
    pub(crate) fn sent(&self, bytes: usize) {
        self.change(|before| before.saturating_sub(bytes));
    }

    /// Waits until the connection is to be cut.
    pub(crate) async fn cut(&self) {
        poll_fn(|cx| {
            if self.cut.get() {
                return Poll::Ready(());
            }
            self.waker.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.change(|_| 0);
    }
}
