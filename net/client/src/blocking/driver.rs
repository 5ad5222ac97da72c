//! The thread that does what a producer or consumer decides: one that connects and sends, and one
//! that reads from the connection at hand.

use std::{
    io::{Read, Write},
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
    core::{Driven, Step},
    error::Error,
    shared::Bell,
};

const READ_BYTES: usize = 64 << 10;
/// What was read and not yet taken in, in reads. A reader that is ahead waits.
const MAILBOX: usize = 16;

enum Mail {
    Bell,
    /// Bytes of the connection with this number.
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
        let failed = |source| lost("a thread of its own", source);
        let abandon = Abandon(driven);
        let run = move || {
            let abandon = abandon;
            Running { driver: self, connection: None, number: 0 }.run(&*abandon.0);
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
    connection: Option<Open>,
    number: u64,
}

struct Open {
    stream: TcpStream,
    address: String,
}

impl Drop for Open {
    fn drop(&mut self) {
        // The reading thread ends with it.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Running {
    fn run(mut self, driven: &dyn Driven) {
        loop {
            self.driver.rung.store(false, Ordering::Release);
            match driven.step(Instant::now()) {
                Step::Connect => match self.connect() {
                    Ok(address) => driven.on_connected(&address, Instant::now()),
                    Err(error) => driven.on_lost(error, Instant::now()),
                },
                Step::Close => self.connection = None,
                Step::Send(bytes) => {
                    let Some(open) = &mut self.connection else { continue };
                    if let Err(source) = open.stream.write_all(&bytes) {
                        let error = lost(&open.address, source);
                        self.connection = None;
                        driven.on_lost(error, Instant::now());
                    }
                }
                Step::Wait(until) => self.wait(until, driven),
                Step::Done => return,
            }
        }
    }

    fn connect(&mut self) -> Result<String, Error> {
        let turn = usize::try_from(self.number).unwrap_or(0) % self.driver.servers.len();
        let address = self.driver.servers[turn].clone();
        self.number += 1;
        let failed = |source| lost(&address, source);
        let stream = dial(&address, self.driver.wait).map_err(failed)?;
        stream.set_write_timeout(Some(self.driver.wait)).map_err(failed)?;
        let reading = stream.try_clone().map_err(failed)?;
        let (number, sender, name) = (self.number, self.driver.sender.clone(), address.clone());
        let read = move || read(reading, &name, number, &sender);
        thread::Builder::new().name("catena-read".to_owned()).spawn(read).map_err(failed)?;
        self.connection = Some(Open { stream, address: address.clone() });
        Ok(address)
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
        match letter {
            Mail::Bytes(number, bytes) if number == self.number && self.connection.is_some() => {
                driven.on_bytes(&bytes, now);
            }
            Mail::Lost(number, error) if number == self.number && self.connection.is_some() => {
                self.connection = None;
                driven.on_lost(error, now);
            }
            Mail::Bell | Mail::Bytes(..) | Mail::Lost(..) => {}
        }
    }
}

fn read(mut stream: TcpStream, address: &str, number: u64, mailbox: &SyncSender<Mail>) {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let letter = match stream.read(&mut buffer) {
            Ok(0) => Mail::Lost(number, lost(address, std::io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => Mail::Bytes(number, buffer[..count].to_vec()),
            Err(source) => Mail::Lost(number, lost(address, source)),
        };
        let over = matches!(letter, Mail::Lost(..));
        if mailbox.send(letter).is_err() || over {
            return;
        }
    }
}
