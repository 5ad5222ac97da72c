//! The task that does what a producer or consumer decides.

use std::{
    collections::{BTreeMap, VecDeque},
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
    core::{Driven, Step, lane::Lane, nodes::Dial},
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
    wait: Duration,
}

impl Driver {
    /// A driver that sends within `wait`, and its bell.
    pub(super) fn new(wait: Duration) -> (Self, Box<dyn Bell>) {
        let rung = Arc::new(Notify::new());
        let bell = Doorbell(rung.clone());
        (Self { rung, wait }, Box::new(bell))
    }

    /// Drives on a task of its own until nothing is left to do.
    pub(super) fn spawn(self, driven: Arc<dyn Driven>) -> JoinHandle<()> {
        // A task that never runs is abandoned too.
        let abandon = Abandon(driven);
        tokio::spawn(async move {
            let abandon = abandon;
            Running { driver: self, lines: BTreeMap::new(), last: Lane::SCOUT }
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
    /// What is to be sent; nothing in it is empty.
    outbound: VecDeque<Vec<u8>>,
    /// How much of the first is sent.
    sent: usize,
    /// When the next bytes must be sent.
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
                Step::Connect(lane, dial) => self.connect(lane, dial),
                Step::Close(lane) => {
                    if let Some(Line::Open(mut open)) = self.lines.remove(&lane) {
                        open.send_last();
                    }
                }
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

    fn connect(&mut self, lane: Lane, Dial { address, wait }: Dial) {
        let name = address.clone();
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
                driven.on_connected(lane, now);
                *line = Line::Open(Open::new(stream, address, now));
                return;
            }
            (Happened::Read(Ok(count)), Line::Open(open)) if count > 0 => {
                return driven.on_bytes(lane, &open.inbound[..count], now);
            }
            (Happened::Written(Ok(count)), Line::Open(open)) if count > 0 => {
                open.send_by = now + wait;
                return open.on_sent(count);
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
            Self::Open(open) if !open.outbound.is_empty() => Some(open.send_by),
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
        let Some(first) = open.outbound.front() else { return Poll::Pending };
        let written = Pin::new(&mut open.stream).poll_write(context, &first[open.sent..]);
        written.map(Happened::Written)
    }
}

impl Open {
    fn new(stream: TcpStream, address: String, now: Instant) -> Self {
        let (inbound, outbound) = (vec![0; READ_BYTES], VecDeque::new());
        Self { stream, address, inbound, outbound, sent: 0, send_by: now }
    }

    /// Adds to what is to be sent, which what may be in flight bounds.
    fn send(&mut self, bytes: Vec<u8>, by: Instant) {
        if self.outbound.is_empty() {
            self.send_by = by;
        }
        if !bytes.is_empty() {
            self.outbound.push_back(bytes);
        }
    }

    /// So many bytes of the first are sent: of what is sent whole nothing is kept.
    fn on_sent(&mut self, count: usize) {
        self.sent += count;
        if self.outbound.front().is_some_and(|first| self.sent == first.len()) {
            self.outbound.pop_front();
            self.sent = 0;
        }
    }

    /// Sends what can be without waiting: under TLS a server is told why the connection ends.
    fn send_last(&mut self) {
        while let Some(first) = self.outbound.front()
            && let Ok(count @ 1..) = self.stream.try_write(&first[self.sent..])
        {
            self.on_sent(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    const CHUNK_BYTES: usize = 64 << 10;
    /// More than what lies between two sockets.
    const BACKLOG: usize = 256;
    const CHUNKS: usize = 4 * BACKLOG;

    /// Writes what can be written to a peer that takes no more than it must.
    async fn write_some(open: &mut Open, peer: &mut TcpStream, buffer: &mut [u8]) -> usize {
        let first = open.outbound.front().unwrap();
        let write =
            poll_fn(|context| Pin::new(&mut open.stream).poll_write(context, &first[open.sent..]));
        tokio::select! {
            biased;
            count = write => {
                let count = count.unwrap();
                open.on_sent(count);
                0
            }
            count = peer.read(buffer) => count.unwrap(),
        }
    }

    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test)
    }

    async fn pair() -> (Open, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stream = TcpStream::connect(&address).await.unwrap();
        let (peer, _) = listener.accept().await.unwrap();
        (Open::new(stream, address, Instant::now()), peer)
    }

    #[test]
    fn what_is_sent_is_not_kept_while_something_always_waits() {
        run(async {
            let (mut open, mut peer) = pair().await;
            let (mut buffer, mut received) = (vec![0; CHUNK_BYTES], 0);
            for _ in 0..CHUNKS {
                open.send(vec![7; CHUNK_BYTES], Instant::now());
                while open.outbound.len() > BACKLOG {
                    received += write_some(&mut open, &mut peer, &mut buffer).await;
                }
                assert!(!open.outbound.is_empty(), "something always waits");
                let kept: usize = open.outbound.iter().map(Vec::capacity).sum();
                assert!(kept <= (BACKLOG + 1) * CHUNK_BYTES, "{kept} bytes are kept");
            }
            while !open.outbound.is_empty() {
                received += write_some(&mut open, &mut peer, &mut buffer).await;
            }
            drop(open);
            loop {
                match peer.read(&mut buffer).await.unwrap() {
                    0 => break,
                    count => received += count,
                }
            }
            assert_eq!(received, CHUNKS * CHUNK_BYTES);
        });
    }

    #[test]
    fn a_peer_is_told_the_last_word() {
        run(async {
            let (mut open, mut peer) = pair().await;
            open.send(b"because".to_vec(), Instant::now());
            open.send_last();
            drop(open);
            let mut told = Vec::new();
            peer.read_to_end(&mut told).await.unwrap();
            assert_eq!(told, b"because");
        });
    }
}
