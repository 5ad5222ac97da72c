//! The task that does what a producer or consumer decides.

use std::{
    collections::BTreeMap,
    future::{pending, poll_fn},
    io,
    ops::Bound,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
    task::JoinHandle,
    time::sleep_until,
};

use super::connection::{dial, lost};
use crate::{
    core::{Driven, Step, lane::Lane},
    shared::Bell,
};

const READ_BYTES: usize = 64 << 10;

struct Doorbell(Arc<Notify>);

impl Bell for Doorbell {
    fn ring(&self) {
        self.0.notify_one();
    }
}

/// What the task is given, before there is something to drive.
pub(super) struct Driver {
    rung: Arc<Notify>,
    servers: Vec<String>,
    wait: Duration,
}

impl Driver {
    /// A driver that connects to one of `servers`, which takes at most `wait`; and its bell.
    pub(super) fn new(servers: Vec<String>, wait: Duration) -> (Self, Box<dyn Bell>) {
        let rung = Arc::new(Notify::new());
        let bell = Doorbell(rung.clone());
        (Self { rung, servers, wait }, Box::new(bell))
    }

    /// Drives on a task of its own until nothing is left to do.
    pub(super) fn spawn(self, driven: Arc<dyn Driven>) -> JoinHandle<()> {
        // A task that never runs is abandoned too.
        let abandon = Abandon(driven);
        tokio::spawn(async move {
            let abandon = abandon;
            Running { driver: self, lines: BTreeMap::new(), turn: 0, last: Lane(0) }
                .run(&*abandon.0)
                .await;
        })
    }
}

/// However the task ends, and be it with its runtime, whoever waits hears of it.
struct Abandon(Arc<dyn Driven>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.on_abandoned();
    }
}

struct Running {
    driver: Driver,
    lines: BTreeMap<Lane, Line>,
    turn: usize,
    /// Where something happened last: the others are looked at first.
    last: Lane,
}

/// A lane's connection.
enum Line {
    Dialling(String, Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>),
    Open(Open),
}

struct Open {
    stream: TcpStream,
    address: String,
    inbound: Vec<u8>,
    outbound: Vec<u8>,
    /// How much of it is sent.
    sent: usize,
    /// When the next bytes of it must be sent.
    send_by: Instant,
}

enum Happened {
    Connected(io::Result<TcpStream>),
    Read(io::Result<usize>),
    Written(io::Result<usize>),
}

impl Running {
    async fn run(mut self, driven: &dyn Driven) {
        loop {
            match driven.step(Instant::now()) {
                Step::Connect(lane) => self.connect(lane),
                Step::Close(lane) => drop(self.lines.remove(&lane)),
                Step::Send(lane, bytes) => {
                    if let Some(Line::Open(open)) = self.lines.get_mut(&lane) {
                        open.send(bytes, Instant::now() + self.driver.wait);
                    }
                }
                Step::Wait(until) => self.wait(until, driven).await,
                Step::Done => return,
            }
        }
    }

    fn connect(&mut self, lane: Lane) {
        let address = self.driver.servers[self.turn % self.driver.servers.len()].clone();
        self.turn = self.turn.wrapping_add(1);
        let (name, wait) = (address.clone(), self.driver.wait);
        let dialling = Box::pin(async move { dial(&name, wait).await });
        self.lines.insert(lane, Line::Dialling(address, dialling));
    }

    /// Waits for something to happen on a connection, for the bell or the time.
    async fn wait(&mut self, until: Option<Instant>, driven: &dyn Driven) {
        let rung = self.driver.rung.clone();
        let send_by = self.lines.values().filter_map(Line::send_by).min();
        let late = async {
            match until.into_iter().chain(send_by).min() {
                Some(until) => sleep_until(until.into()).await,
                None => pending().await,
            }
        };
        let (lines, last) = (&mut self.lines, self.last);
        let (lane, happened) = tokio::select! {
            happened = poll_fn(|context| poll_lines(lines, last, context)) => happened,
            () = rung.notified() => return,
            () = late => match self.overdue(Instant::now()) {
                Some(lane) => (lane, Happened::Written(Err(io::ErrorKind::TimedOut.into()))),
                None => return,
            },
        };
        self.last = lane;
        self.happened(lane, happened, driven);
    }

    /// A lane whose bytes are not taken.
    fn overdue(&self, now: Instant) -> Option<Lane> {
        let overdue = |line: &Line| line.send_by().is_some_and(|by| now >= by);
        self.lines.iter().find(|(_, line)| overdue(line)).map(|(lane, _)| *lane)
    }

    fn happened(&mut self, lane: Lane, happened: Happened, driven: &dyn Driven) {
        let now = Instant::now();
        let wait = self.driver.wait;
        let Some(line) = self.lines.get_mut(&lane) else { return };
        let failure = match (happened, &mut *line) {
            (Happened::Connected(Ok(stream)), Line::Dialling(address, _)) => {
                let address = std::mem::take(address);
                driven.on_connected(lane, &address, now);
                *line = Line::Open(Open::new(stream, address, now));
                return;
            }
            (Happened::Read(Ok(count)), Line::Open(open)) if count > 0 => {
                return driven.on_bytes(lane, &open.inbound[..count], now);
            }
            (Happened::Written(Ok(count)), Line::Open(open)) if count > 0 => {
                open.sent += count;
                open.send_by = now + wait;
                return;
            }
            (Happened::Read(Ok(_)), _) => io::ErrorKind::UnexpectedEof.into(),
            (Happened::Connected(Ok(_)) | Happened::Written(Ok(_)), _) => {
                io::ErrorKind::WriteZero.into()
            }
            (
                Happened::Connected(Err(error))
                | Happened::Read(Err(error))
                | Happened::Written(Err(error)),
                _,
            ) => error,
        };
        let error = lost(line.address(), failure);
        self.lines.remove(&lane);
        driven.on_lost(lane, error, now);
    }
}

/// What happens next on a connection. Bytes that come go before bytes that leave.
fn poll_lines(
    lines: &mut BTreeMap<Lane, Line>,
    last: Lane,
    context: &mut Context<'_>,
) -> Poll<(Lane, Happened)> {
    for range in
        [(Bound::Excluded(last), Bound::Unbounded), (Bound::Unbounded, Bound::Included(last))]
    {
        for (lane, line) in lines.range_mut(range) {
            if let Poll::Ready(happened) = line.poll(context) {
                return Poll::Ready((*lane, happened));
            }
        }
    }
    Poll::Pending
}

impl Line {
    fn address(&self) -> &str {
        match self {
            Self::Dialling(address, _) => address,
            Self::Open(open) => &open.address,
        }
    }

    /// When bytes must be sent, if any wait.
    fn send_by(&self) -> Option<Instant> {
        match self {
            Self::Open(open) if open.sent < open.outbound.len() => Some(open.send_by),
            _ => None,
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Happened> {
        let open = match self {
            Self::Dialling(_, dialling) => {
                return dialling.as_mut().poll(context).map(Happened::Connected);
            }
            Self::Open(open) => open,
        };
        let mut buffer = ReadBuf::new(&mut open.inbound);
        if let Poll::Ready(read) = Pin::new(&mut open.stream).poll_read(context, &mut buffer) {
            return Poll::Ready(Happened::Read(read.map(|()| buffer.filled().len())));
        }
        if open.sent == open.outbound.len() {
            return Poll::Pending;
        }
        let written = Pin::new(&mut open.stream).poll_write(context, &open.outbound[open.sent..]);
        written.map(Happened::Written)
    }
}

impl Open {
    fn new(stream: TcpStream, address: String, now: Instant) -> Self {
        let (inbound, outbound) = (vec![0; READ_BYTES], Vec::new());
        Self { stream, address, inbound, outbound, sent: 0, send_by: now }
    }

    /// Adds to what is to be sent, which what may be in flight bounds.
    fn send(&mut self, bytes: Vec<u8>, by: Instant) {
        if self.sent == self.outbound.len() {
            (self.outbound, self.sent, self.send_by) = (bytes, 0, by);
        } else {
            self.outbound.extend_from_slice(&bytes);
        }
    }
}
