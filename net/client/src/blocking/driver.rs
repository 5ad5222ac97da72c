//! The threads that do what a producer or consumer decides.
//!
//! Each connection has a thread that makes it and reads from it, and a keeper has an eye on the
//! time. What is to be done next, whoever sees it first does, one at a time: a reading thread when
//! bytes came, the keeper when the time is there or the bell rings, and a thread that appends while
//! nothing is under way. So a lone record and its receipt change threads once, not four times.
//!
//! Nobody waits for a socket while he has [`Lines`]: what it does not take at once the keeper
//! sends.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{SendFlags, send},
};

use super::connection::{dial, lost};
use crate::{
    core::{Driven, Step, lane::Lane, nodes::Dial},
    error::Error,
    shared::Bell,
};

const READ_BYTES: usize = 64 << 10;

/// Waits for nothing, and raises no signal: Apple's sockets are told so when they are made.
#[cfg(not(target_vendor = "apple"))]
const AT_ONCE: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
#[cfg(target_vendor = "apple")]
const AT_ONCE: SendFlags = SendFlags::DONTWAIT;

/// What the threads share.
pub(super) struct Driver {
    lines: Mutex<Lines>,
    /// Wakes the keeper, who waits with `lines`.
    news: Condvar,
    /// Somebody is about to wake the keeper.
    rung: AtomicBool,
    wait: Duration,
}

/// The connections, and what is left to the keeper.
#[derive(Default)]
struct Lines {
    open: BTreeMap<Lane, Line>,
    /// Connections begun.
    number: u64,
    /// Lanes that need one.
    wanted: Vec<(Lane, Dial)>,
    /// Until when the keeper sleeps, if he does.
    asleep: Option<Instant>,
    done: bool,
}

/// A lane's connection.
struct Line {
    number: u64,
    address: String,
    /// There once it is connected.
    stream: Option<Arc<TcpStream>>,
    /// What the socket did not take.
    unsent: Vec<u8>,
    /// The keeper sends what goes before.
    sending: bool,
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream {
            // The reading thread ends with it.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

pub(super) struct Doorbell(Arc<Driver>);

impl Bell for Doorbell {
    fn ring(&self) {
        if !self.0.rung.swap(true, Ordering::SeqCst) {
            // Between his last look and his sleep the keeper has the lines.
            drop(self.0.lock());
            self.0.news.notify_one();
        }
    }

    fn drive(&self, driven: &dyn Driven) {
        self.0.drive(&mut self.0.lock(), driven);
    }
}

impl Driver {
    /// A driver that sends within `wait`, and its bell.
    pub(super) fn new(wait: Duration) -> (Arc<Self>, Box<Doorbell>) {
        let (lines, news, rung) = Default::default();
        let driver = Arc::new(Self { lines, news, rung, wait });
        (driver.clone(), Box::new(Doorbell(driver)))
    }

    /// Has it driven until nothing is left to do.
    pub(super) fn spawn(
        self: Arc<Self>,
        name: &str,
        driven: Arc<dyn Driven>,
    ) -> Result<JoinHandle<()>, Error> {
        let failed = |source| lost("a thread of its own", source).before_asking();
        let abandon = Abandon(self, driven);
        let run = move || {
            let Abandon(driver, driven) = &abandon;
            driver.keep(driven);
        };
        thread::Builder::new().name(name.to_owned()).spawn(run).map_err(failed)
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what is to be done now, and leaves the rest to the keeper. Tells when there is more.
    fn drive(&self, lines: &mut Lines, driven: &dyn Driven) -> Option<Instant> {
        let until = loop {
            match driven.step(Instant::now()) {
                Step::Connect(lane, dial) => lines.wanted.push((lane, dial)),
                Step::Close(lane) => {
                    lines.wanted.retain(|(wanted, _)| *wanted != lane);
                    drop(lines.open.remove(&lane));
                }
                Step::Send(lane, bytes) => lines.send(lane, &bytes, driven),
                Step::Wait(until) => break until,
                Step::Done => {
                    lines.done = true;
                    break None;
                }
            }
        };
        if let Some(asleep) = lines.asleep
            && (lines.is_left() || until.is_some_and(|until| until < asleep))
        {
            self.news.notify_one();
        }
        until
    }

    /// The keeper.
    fn keep(self: &Arc<Self>, driven: &Arc<dyn Driven>) {
        let mut lines = self.lock();
        loop {
            self.rung.swap(false, Ordering::SeqCst);
            let until = self.drive(&mut lines, &**driven);
            if lines.done {
                return;
            }
            if let Some((lane, dial)) = lines.wanted.pop() {
                if let Err(error) = self.connect(&mut lines, lane, dial, driven) {
                    driven.on_lost(lane, error, Instant::now());
                }
            } else if let Some((lane, number, stream, bytes)) = lines.take_unsent() {
                drop(lines);
                let sent = (&*stream).write_all(&bytes);
                lines = self.lock();
                lines.on_sent(lane, number, sent, &**driven);
            } else if !self.rung.load(Ordering::SeqCst) {
                lines = self.sleep(lines, until);
            }
        }
    }

    /// Sleeps until then, or until there is news. No longer than an answer may take: so a request
    /// that somebody else sends meanwhile, and its timeout, need not wake the keeper.
    fn sleep<'a>(
        &self,
        mut lines: MutexGuard<'a, Lines>,
        until: Option<Instant>,
    ) -> MutexGuard<'a, Lines> {
        let now = Instant::now();
        let latest = now + self.wait;
        let until = until.map_or(latest, |until| until.min(latest));
        lines.asleep = Some(until);
        let left = until.saturating_duration_since(now);
        let woken = self.news.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner);
        let mut lines = woken.0;
        lines.asleep = None;
        lines
    }

    /// Has a thread connect and read.
    fn connect(
        self: &Arc<Self>,
        lines: &mut Lines,
        lane: Lane,
        Dial { address, wait }: Dial,
        driven: &Arc<dyn Driven>,
    ) -> Result<(), Error> {
        lines.number += 1;
        let number = lines.number;
        let (driver, driven, name) = (self.clone(), driven.clone(), address.clone());
        let run = move || {
            if let Err(source) = driver.read(lane, number, (&name, wait), &*driven) {
                let mut lines = driver.lock();
                if lines.is_current(lane, number) {
                    lines.lose(lane, source, &*driven);
                    driver.drive(&mut lines, &*driven);
                }
            }
        };
        let spawned = thread::Builder::new().name("catena-read".to_owned()).spawn(run);
        spawned.map_err(|source| lost(&address, source))?;
        let (unsent, sending) = (Vec::new(), false);
        lines.open.insert(lane, Line { number, address, stream: None, unsent, sending });
        Ok(())
    }

    /// Reads until the connection ends, or nobody wants to hear of it.
    fn read(
        &self,
        lane: Lane,
        number: u64,
        (address, wait): (&str, Duration),
        driven: &dyn Driven,
    ) -> io::Result<()> {
        let stream = Arc::new(dial(address, wait)?);
        stream.set_write_timeout(Some(self.wait))?;
        let mut lines = self.lock();
        match lines.open.get_mut(&lane).filter(|line| line.number == number) {
            Some(line) => line.stream = Some(stream.clone()),
            None => return Ok(()),
        }
        driven.on_connected(lane, Instant::now());
        self.drive(&mut lines, driven);
        drop(lines);
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let count = (&*stream).read(&mut buffer)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut lines = self.lock();
            if !lines.is_current(lane, number) {
                return Ok(());
            }
            driven.on_bytes(lane, &buffer[..count], Instant::now());
            self.drive(&mut lines, driven);
        }
    }
}

/// However the keeper ends, whoever waits hears of it.
struct Abandon(Arc<Driver>, Arc<dyn Driven>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.lock().open.clear();
        self.1.on_abandoned();
    }
}

impl Lines {
    /// Whether there is something that only the keeper does.
    fn is_left(&self) -> bool {
        let unsent = |line: &Line| !line.sending && !line.unsent.is_empty();
        self.done || !self.wanted.is_empty() || self.open.values().any(unsent)
    }

    /// Whether a lane's connection is still that with this number.
    fn is_current(&self, lane: Lane, number: u64) -> bool {
        self.open.get(&lane).is_some_and(|line| line.number == number)
    }

    /// Sends what the socket takes at once; the rest, and what comes behind it, waits.
    fn send(&mut self, lane: Lane, bytes: &[u8], driven: &dyn Driven) {
        let Some(line) = self.open.get_mut(&lane) else { return };
        let Some(stream) = &line.stream else { return };
        let mut sent = 0;
        if !line.sending && line.unsent.is_empty() {
            sent = match send(stream, bytes, AT_ONCE) {
                Ok(sent) => sent,
                Err(Errno::AGAIN | Errno::INTR) => 0,
                Err(error) => return self.lose(lane, error.into(), driven),
            };
        }
        line.unsent.extend_from_slice(&bytes[sent..]);
    }

    /// What a socket did not take, for the keeper to send.
    fn take_unsent(&mut self) -> Option<(Lane, u64, Arc<TcpStream>, Vec<u8>)> {
        self.open.iter_mut().find_map(|(lane, line)| {
            let stream = line.stream.clone().filter(|_| !line.unsent.is_empty())?;
            line.sending = true;
            Some((*lane, line.number, stream, std::mem::take(&mut line.unsent)))
        })
    }

    /// The keeper has sent what he took.
    fn on_sent(&mut self, lane: Lane, number: u64, sent: io::Result<()>, driven: &dyn Driven) {
        let Some(line) = self.open.get_mut(&lane).filter(|line| line.number == number) else {
            return;
        };
        line.sending = false;
        if let Err(source) = sent {
            self.lose(lane, source, driven);
        }
    }

    fn lose(&mut self, lane: Lane, source: io::Error, driven: &dyn Driven) {
        let Some(line) = self.open.remove(&lane) else { return };
        driven.on_lost(lane, lost(&line.address, source), Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, net::TcpListener, sync::mpsc};

    use super::*;

    const LANE: Lane = Lane::SCOUT;
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Wants done what it is told to, and tells what happens.
    struct Script {
        steps: Mutex<VecDeque<Step>>,
        told: mpsc::Sender<String>,
    }

    impl Script {
        fn want(&self, step: Step) {
            self.steps.lock().unwrap().push_back(step);
        }
    }

    impl Driven for Script {
        fn on_connected(&self, _lane: Lane, _now: Instant) {
            let _ = self.told.send("connected".to_owned());
        }
        fn on_bytes(&self, _lane: Lane, bytes: &[u8], _now: Instant) {
            let _ = self.told.send(format!("{} bytes", bytes.len()));
        }
        fn on_lost(&self, _lane: Lane, error: Error, _now: Instant) {
            let _ = self.told.send(error.to_string());
        }
        fn step(&self, _now: Instant) -> Step {
            self.steps.lock().unwrap().pop_front().unwrap_or(Step::Wait(None))
        }
        fn on_abandoned(&self) {
            let _ = self.told.send("abandoned".to_owned());
        }
    }

    #[test]
    fn nobody_waits_for_a_full_socket_and_the_order_is_kept() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (driver, bell) = Driver::new(PATIENCE);
        let (told, hear) = mpsc::channel();
        let script = Arc::new(Script { steps: Mutex::default(), told });
        script.want(Step::Connect(LANE, Dial { address, wait: PATIENCE }));
        let keeper = driver.spawn("test", script.clone()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        assert_eq!(hear.recv_timeout(PATIENCE).unwrap(), "connected");
        // More than sockets hold: nobody has read anything when this comes back.
        let mut expected = Vec::new();
        for number in 0..40u8 {
            let bytes = vec![number; 1 << 20];
            expected.extend_from_slice(&bytes);
            script.want(Step::Send(LANE, bytes));
            if number % 3 == 0 { bell.ring() } else { bell.drive(&*script) }
        }
        let mut came = vec![0; expected.len()];
        far.read_exact(&mut came).unwrap();
        assert!(came == expected, "something was left out or overtaken");
        // What comes is taken in by whoever reads it.
        far.write_all(b"answer").unwrap();
        assert_eq!(hear.recv_timeout(PATIENCE).unwrap(), "6 bytes");
        drop(far);
        assert!(hear.recv_timeout(PATIENCE).unwrap().contains("connection to"));
        script.want(Step::Done);
        bell.drive(&*script);
        keeper.join().unwrap();
        assert_eq!(hear.recv_timeout(PATIENCE).unwrap(), "abandoned");
    }

    #[test]
    fn an_earlier_time_wakes_the_keeper() {
        let (driver, bell) = Driver::new(PATIENCE * 10);
        let (told, hear) = mpsc::channel();
        let script = Arc::new(Script { steps: Mutex::default(), told });
        let keeper = driver.clone().spawn("test", script.clone()).unwrap();
        while driver.lock().asleep.is_none() {
            thread::yield_now();
        }
        // Only the keeper can see the end, and only if he does not sleep on.
        script.want(Step::Wait(Some(Instant::now())));
        script.want(Step::Done);
        bell.drive(&*script);
        keeper.join().unwrap();
        assert_eq!(hear.recv_timeout(PATIENCE).unwrap(), "abandoned");
    }
}
