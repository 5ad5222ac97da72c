//! The threads that do what a producer or consumer decides: one that drives it and sends, and one
//! for each connection, which makes it and reads from it.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::connection::{dial, lost};
use crate::{
    core::{Driven, Step, lane::Lane},
    error::Error,
    shared::Bell,
};

const READ_BYTES: usize = 64 << 10;
/// What was read and not yet taken in, in reads. A reader that is ahead waits.
const MAILBOX: usize = 16;

enum Mail {
    Bell,
    /// The connection with this number is there.
    Connected(u64, TcpStream),
    /// Bytes of it.
    Bytes(u64, Vec<u8>),
    /// The end of it.
    Lost(u64, Error),
}

/// Wakes the thread, once until it has looked.
pub(super) struct Doorbell {
    rung: Arc<AtomicBool>,
    mailbox: SyncSender<Mail>,
}

impl Bell for Doorbell {
    fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            // A full mailbox wakes the thread as well; without a thread nobody listens.
            let _ = self.mailbox.try_send(Mail::Bell);
        }
    }
}

/// What the thread is given, before there is something to drive.
pub(super) struct Driver {
    rung: Arc<AtomicBool>,
    sender: SyncSender<Mail>,
    mailbox: Receiver<Mail>,
    servers: Vec<String>,
    wait: Duration,
}

impl Driver {
    /// A driver that connects to one of `servers`, which takes at most `wait`; and its bell.
    pub(super) fn new(servers: Vec<String>, wait: Duration) -> (Self, Box<Doorbell>) {
        let (sender, mailbox) = sync_channel(MAILBOX);
        let rung = Arc::new(AtomicBool::new(false));
        let bell = Doorbell { rung: rung.clone(), mailbox: sender.clone() };
        (Self { rung, sender, mailbox, servers, wait }, Box::new(bell))
    }

    /// Drives on a thread of its own until nothing is left to do.
    pub(super) fn spawn(
        self,
        name: &str,
        driven: Arc<dyn Driven>,
    ) -> Result<JoinHandle<()>, Error> {
        let failed = |source| lost("a thread of its own", source).before_asking();
        let abandon = Abandon(driven);
        let run = move || {
            let abandon = abandon;
            Running { driver: self, lines: BTreeMap::new(), number: 0 }.run(&*abandon.0);
        };
        thread::Builder::new().name(name.to_owned()).spawn(run).map_err(failed)
    }
}

/// However the thread ends, whoever waits hears of it.
struct Abandon(Arc<dyn Driven>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.on_abandoned();
    }
}

struct Running {
    driver: Driver,
    lines: BTreeMap<Lane, Line>,
    /// Connections begun.
    number: u64,
}

/// A lane's connection.
struct Line {
    number: u64,
    address: String,
    /// There once it is connected.
    stream: Option<TcpStream>,
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream {
            // The reading thread ends with it.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Running {
    fn run(mut self, driven: &dyn Driven) {
        loop {
            self.driver.rung.store(false, Ordering::Release);
            match driven.step(Instant::now()) {
                Step::Connect(lane) => {
                    if let Err(error) = self.connect(lane) {
                        driven.on_lost(lane, error, Instant::now());
                    }
                }
                Step::Close(lane) => drop(self.lines.remove(&lane)),
                Step::Send(lane, bytes) => self.send(lane, &bytes, driven),
                Step::Wait(until) => self.wait(until, driven),
                Step::Done => return,
            }
        }
    }

    /// Has a thread connect and read.
    fn connect(&mut self, lane: Lane) -> Result<(), Error> {
        let turn = usize::try_from(self.number).unwrap_or(0) % self.driver.servers.len();
        let address = self.driver.servers[turn].clone();
        self.number += 1;
        let (number, wait, mailbox) = (self.number, self.driver.wait, self.driver.sender.clone());
        let name = address.clone();
        let run = move || {
            if let Err(source) = dial(&name, wait).and_then(|s| read(s, number, wait, &mailbox)) {
                let _ = mailbox.send(Mail::Lost(number, lost(&name, source)));
            }
        };
        let spawned = thread::Builder::new().name("catena-read".to_owned()).spawn(run);
        spawned.map_err(|source| lost(&address, source))?;
        self.lines.insert(lane, Line { number, address, stream: None });
        Ok(())
    }

    fn send(&mut self, lane: Lane, bytes: &[u8], driven: &dyn Driven) {
        let Some(line) = self.lines.get_mut(&lane) else { return };
        let Some(stream) = &mut line.stream else { return };
        if let Err(source) = stream.write_all(bytes) {
            let error = lost(&line.address, source);
            self.lines.remove(&lane);
            driven.on_lost(lane, error, Instant::now());
        }
    }

    /// Waits for mail, and takes in all there is.
    fn wait(&mut self, until: Option<Instant>, driven: &dyn Driven) {
        let first = match until {
            None => self.driver.mailbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                self.driver.mailbox.recv_timeout(left)
            }
        };
        let mut mail = first.ok();
        while let Some(letter) = mail {
            self.open(letter, driven);
            mail = self.driver.mailbox.try_recv().ok();
        }
    }

    fn open(&mut self, letter: Mail, driven: &dyn Driven) {
        let now = Instant::now();
        let (Mail::Connected(number, _) | Mail::Bytes(number, _) | Mail::Lost(number, _)) = &letter
        else {
            return;
        };
        let found = self.lines.iter_mut().find(|(_, line)| line.number == *number);
        match (found, letter) {
            (Some((lane, line)), Mail::Connected(_, stream)) => {
                line.stream = Some(stream);
                driven.on_connected(*lane, &line.address, now);
            }
            (Some((lane, _)), Mail::Bytes(_, bytes)) => driven.on_bytes(*lane, &bytes, now),
            (Some((lane, _)), Mail::Lost(_, error)) => {
                let lane = *lane;
                self.lines.remove(&lane);
                driven.on_lost(lane, error, now);
            }
            // Nobody wants it any more; its reading thread ends with it.
            (None, Mail::Connected(_, stream)) => drop(stream.shutdown(Shutdown::Both)),
            (None, _) | (_, Mail::Bell) => {}
        }
    }
}

/// Reads until the connection ends, or nobody wants to hear of it.
fn read(
    mut stream: TcpStream,
    number: u64,
    wait: Duration,
    mailbox: &SyncSender<Mail>,
) -> io::Result<()> {
    stream.set_write_timeout(Some(wait))?;
    if mailbox.send(Mail::Connected(number, stream.try_clone()?)).is_err() {
        return Ok(());
    }
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if mailbox.send(Mail::Bytes(number, buffer[..count].to_vec())).is_err() {
            return Ok(());
        }
    }
}
