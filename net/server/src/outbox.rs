//! What waits for a client to read it: bounded for each connection and for the core, by the memory
//! that it holds. A small batch holds all of the buffer that it was read or gathered into; one that
//! waits for many clients holds it once.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use catena_node::Send;
use catena_uring::{BufferId, Share};

/// What all outboxes of a core hold.
#[derive(Default)]
pub(crate) struct Unsent {
    bytes: Cell<usize>,
    /// What goes as soon as connections that were cut have ended.
    leaving: Cell<usize>,
    /// By how many that wait each buffer is held.
    buffers: RefCell<HashMap<BufferId, usize>>,
}

impl Unsent {
    /// Memory that is held, and goes on being held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get().saturating_sub(self.leaving.get())
    }

    fn add(&self, send: &Send<Share>) {
        let mut bytes = send.bytes.len();
        for (buffer, size) in send.shares.iter().filter_map(Share::buffer) {
            let mut buffers = self.buffers.borrow_mut();
            let holders = buffers.entry(buffer).or_insert(0);
            *holders += 1;
            bytes += if *holders == 1 { size } else { 0 };
        }
        self.bytes.set(self.bytes.get() + bytes);
    }

    fn subtract(&self, send: &Send<Share>) {
        let mut bytes = send.bytes.len();
        for (buffer, size) in send.shares.iter().filter_map(Share::buffer) {
            let mut buffers = self.buffers.borrow_mut();
            let holders = buffers.get_mut(&buffer).expect("it was added");
            *holders -= 1;
            if *holders == 0 {
                buffers.remove(&buffer);
                bytes += size;
            }
        }
        self.bytes.set(self.bytes.get() - bytes);
    }
}

/// The way to one client.
pub(crate) struct Outbox {
    queue: RefCell<VecDeque<Held>>,
    /// What this client's part would hold alone.
    bytes: Rc<Cell<usize>>,
    core: Rc<Unsent>,
    /// What was being written when it was cut.
    cut: Cell<Option<usize>>,
    /// Of who waits for the next to send, and for the cut.
    wakers: [RefCell<Option<Waker>>; 2],
}

/// Something to be sent; it counts until it is dropped.
pub(crate) struct Held {
    pub(crate) send: Send<Share>,
    bytes: usize,
    outbox: Rc<Cell<usize>>,
    core: Rc<Unsent>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.outbox.set(self.outbox.get() - self.bytes);
        self.core.subtract(&self.send);
    }
}

impl Outbox {
    /// An empty one; `core`: of all on the core.
    pub(crate) fn new(core: Rc<Unsent>) -> Rc<Self> {
        Rc::new(Self {
            queue: RefCell::default(),
            bytes: Rc::default(),
            core,
            cut: Cell::new(None),
            wakers: Default::default(),
        })
    }

    /// Leaves something to be sent.
    pub(crate) fn send(&self, send: Send<Share>) {
        self.core.add(&send);
        let bytes = send.bytes.len() + Share::held(&send.shares);
        self.bytes.set(self.bytes.get() + bytes);
        let (outbox, core) = (self.bytes.clone(), self.core.clone());
        self.queue.borrow_mut().push_back(Held { send, bytes, outbox, core });
        self.wake(0);
    }

    /// Memory of what waits.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Ends the connection at once, whatever waits.
    pub(crate) fn cut(&self) {
        self.queue.take();
        let rest = self.bytes.get();
        self.cut.set(Some(rest));
        self.core.leaving.set(self.core.leaving.get() + rest);
        self.wake(1);
    }

    fn wake(&self, which: usize) {
        if let Some(waker) = self.wakers[which].take() {
            waker.wake();
        }
    }

    /// Waits for the next to send.
    pub(crate) async fn next(&self) -> Held {
        poll_fn(|cx| match self.queue.borrow_mut().pop_front() {
            Some(held) => Poll::Ready(held),
            None => self.wait(0, cx),
        })
        .await
    }

    /// Waits until the connection is to be cut.
    pub(crate) async fn is_cut(&self) {
        poll_fn(|cx| if self.cut.get().is_some() { Poll::Ready(()) } else { self.wait(1, cx) })
            .await;
    }

    fn wait<T>(&self, which: usize, cx: &Context<'_>) -> Poll<T> {
        self.wakers[which].replace(Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let rest = self.cut.get().unwrap_or(0);
        self.core.leaving.set(self.core.leaving.get() - rest);
    }
}
