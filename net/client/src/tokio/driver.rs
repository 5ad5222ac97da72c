//! The task that does what a producer or consumer decides.

use std::{
    future::pending,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
    task::JoinHandle,
    time::sleep_until,
};

use super::connection::{dial, lost};
use crate::{
    core::{Driven, Step},
    error::Error,
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
            Running { driver: self, connection: None, turn: 0 }.run(&*abandon.0).await;
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
    connection: Option<Open>,
    turn: usize,
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
    Read(io::Result<usize>),
    Written(io::Result<usize>),
    Rung,
}

impl Running {
    async fn run(mut self, driven: &dyn Driven) {
        loop {
            // What is being sent is sent before anything else is decided, but for what comes.
            if self.connection.as_ref().is_some_and(|open| open.sent < open.outbound.len()) {
                self.send(driven).await;
                continue;
            }
            match driven.step(Instant::now()) {
                Step::Connect => match self.connect().await {
                    Ok(address) => driven.on_connected(&address, Instant::now()),
                    Err(error) => driven.on_lost(error, Instant::now()),
                },
                Step::Close => self.connection = None,
                Step::Send(bytes) => {
                    if let Some(open) = &mut self.connection {
                        (open.outbound, open.sent) = (bytes, 0);
                        open.send_by = Instant::now() + self.driver.wait;
                    }
                }
                Step::Wait(until) => self.wait(until, driven).await,
                Step::Done => return,
            }
        }
    }

    async fn connect(&mut self) -> Result<String, Error> {
        let address = self.driver.servers[self.turn % self.driver.servers.len()].clone();
        self.turn = self.turn.wrapping_add(1);
        let stream = dial(&address, self.driver.wait).await;
        let stream = stream.map_err(|source| lost(&address, source))?;
        let inbound = vec![0; READ_BYTES];
        let (outbound, sent, send_by) = (Vec::new(), 0, Instant::now());
        let name = address.clone();
        self.connection = Some(Open { stream, address, inbound, outbound, sent, send_by });
        Ok(name)
    }

    /// Sends some bytes, or takes some that come meanwhile.
    async fn send(&mut self, driven: &dyn Driven) {
        let Some(open) = &mut self.connection else { return };
        let (mut reading, mut writing) = open.stream.split();
        let happened = tokio::select! {
            read = reading.read(&mut open.inbound) => Happened::Read(read),
            written = writing.write(&open.outbound[open.sent..]) => Happened::Written(written),
            () = sleep_until(open.send_by.into()) => {
                Happened::Written(Err(io::ErrorKind::TimedOut.into()))
            }
        };
        self.happened(happened, driven);
    }

    /// Waits for bytes, the bell or the time.
    async fn wait(&mut self, until: Option<Instant>, driven: &dyn Driven) {
        let rung = self.driver.rung.notified();
        let late = async {
            match until {
                Some(until) => sleep_until(until.into()).await,
                None => pending().await,
            }
        };
        let Some(open) = &mut self.connection else {
            tokio::select! {
                () = rung => {}
                () = late => {}
            }
            return;
        };
        let happened = tokio::select! {
            read = open.stream.read(&mut open.inbound) => Happened::Read(read),
            () = rung => Happened::Rung,
            () = late => Happened::Rung,
        };
        self.happened(happened, driven);
    }

    fn happened(&mut self, happened: Happened, driven: &dyn Driven) {
        let Some(open) = &mut self.connection else { return };
        let now = Instant::now();
        let failure = match happened {
            Happened::Rung => return,
            Happened::Read(Ok(0)) => io::ErrorKind::UnexpectedEof.into(),
            Happened::Read(Ok(count)) => return driven.on_bytes(&open.inbound[..count], now),
            Happened::Written(Ok(0)) => io::ErrorKind::WriteZero.into(),
            Happened::Written(Ok(count)) => {
                open.sent += count;
                open.send_by = now + self.driver.wait;
                return;
            }
            Happened::Read(Err(error)) | Happened::Written(Err(error)) => error,
        };
        let error = lost(&open.address, failure);
        self.connection = None;
        driven.on_lost(error, now);
    }
}
