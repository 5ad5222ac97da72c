//! A server on its stack, under load, and what befalls it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use catena_client::{Client, format::TopicId};

use super::{
    books::{Books, Finding},
    check::{self, Checked, Retention},
    disk::{Disk, Fault, Odds, Request},
    load::{self, Load, Style},
    server::{self, PATIENCE, Server, Setup},
    stack::Stack,
    tally::Tally,
};
use crate::sim::random::{MILLION, Random};

/// Bytes of the disk.
const DISK_BYTES: usize = 768 << 20;
/// Bytes that the producers may send in one life of the server.
const LIFE_BYTES: u64 = 8 << 20;
const PARTITIONS: u32 = 4;
/// As small as segments may be, so that there are rolls all the time.
const SEGMENT_BYTES: u64 = catena_client::format::limits::SEGMENT_BYTES_MIN;

/// A server on ext4 on a disk of ours, with its load and the books about both.
pub struct World {
    random: Random,
    stack: Stack,
    setup: Setup,
    server: Server,
    client: Client,
    topic: TopicId,
    retention: Option<Retention>,
    books: Arc<Books>,
    load: Load,
}

impl World {
    /// A new world.
    ///
    /// # Errors
    /// When the machine lacks something, or the server does not start.
    pub fn begin(binary: PathBuf, seed: u64) -> Result<Self> {
        let mut random = Random::new(seed);
        let disk = Arc::new(Disk::new(DISK_BYTES, random.stream("disk")));
        let stack = Stack::new(disk)?;
        let setup = Setup {
            binary,
            address: server::free_address()?,
            data: stack.files().join("data"),
            log: stack.beside().join("log"),
            more: arguments(&mut random),
        };
        let mut server = Server::start(&setup)?;
        let mut client = server.wait()?;
        let style = Style::draw(&mut random);
        let retention = random.chance(MILLION / 2).then(|| Retention {
            bytes: SEGMENT_BYTES * (4 + random.below(28)),
            slack: 8 * SEGMENT_BYTES + style.buffer_bytes(),
        });
        let mut settings = vec![("segment.bytes", SEGMENT_BYTES)];
        settings.extend(retention.map(|retention| ("retention.bytes", retention.bytes)));
        let topic = load::create(&mut client, PARTITIONS, &settings)?;
        let books = Arc::new(Books::new(seed, PARTITIONS, style.producers));
        let load = Load::begin(&setup.address, books.clone(), style, &random.stream("load"))?;
        Ok(Self { random, stack, setup, server, client, topic, retention, books, load })
    }

    /// Records acknowledged so far.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.books.acked()
    }

    /// Lets the producers work until some more records are acknowledged and some time has passed;
    /// whether any were.
    ///
    /// # Errors
    /// When the server dies of it, or nothing is acknowledged any more.
    pub fn work(&mut self) -> Result<bool> {
        self.load.allow(LIFE_BYTES);
        let before = self.acked();
        let goal = before + self.random.below(500);
        let until = Instant::now() + PATIENCE;
        while self.acked() < goal {
            self.server.must_live()?;
            if Instant::now() > until {
                bail!("the producers do not get on");
            }
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_micros(self.random.below(30_000)));
        Ok(self.acked() > before)
    }

    /// Cuts the power: at once, or at a write or flush that comes.
    ///
    /// # Errors
    /// When what is left cannot be taken down.
    pub fn cut(&mut self, tally: &mut Tally) -> Result<()> {
        self.draw_odds();
        let disk = self.stack.disk();
        match self.random.below(3) {
            0 => tally.fault("cut at once"),
            at => {
                let (request, name) =
                    [(Request::Write, "cut at a write"), (Request::Flush, "cut at a flush")]
                        [at as usize - 1];
                disk.plan(request, self.random.below(50), Fault::Cut);
                let came = disk.wait_for_plan(Duration::from_secs(1));
                tally.fault(if came { name } else { "cut at once" });
            }
        }
        tally.depth(self.load.in_flight());
        disk.cut();
        self.take_down()
    }

    /// Crashes the operating system: what ext4 has not written yet is lost.
    ///
    /// # Errors
    /// When that does not happen, or what is left cannot be taken down.
    pub fn shut_down(&mut self, tally: &mut Tally) -> Result<()> {
        let shutdown = self.stack.prepare_shutdown()?;
        tally.depth(self.load.in_flight());
        tally.fault("shutdown");
        shutdown.carry_out()?;
        self.take_down()
    }

    /// From now on the disk lies.
    pub fn lie(&mut self) {
        self.stack.disk().lie();
    }

    /// Kills the server, perhaps while the disk is slow, and starts the next at once.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn kill(&mut self, tally: &mut Tally) -> Result<()> {
        if self.random.chance(MILLION / 3) {
            self.stack.disk().slow(Duration::from_micros(200 + self.random.below(3_000)));
            thread::sleep(Duration::from_micros(self.random.below(60_000)));
            tally.fault("kill on a slow disk");
        } else {
            tally.fault("kill");
        }
        tally.depth(self.load.in_flight());
        self.server.kill()?;
        self.server = Server::start(&self.setup)?;
        while self.random.chance(MILLION / 4) {
            thread::sleep(Duration::from_micros(self.random.below(60_000)));
            tally.fault("kill in recovery");
            self.server.kill()?;
            self.server = Server::start(&self.setup)?;
        }
        Ok(())
    }

    /// Switches everything on again, now and then with a further cut while it comes back.
    ///
    /// # Errors
    /// When the file system or the server does not come back.
    pub fn bring_up(&mut self, cuts: bool, tally: &mut Tally) -> Result<()> {
        while cuts && self.random.chance(MILLION / 4) {
            self.stack.disk().switch_on();
            self.draw_odds();
            self.stack.disk().plan(Request::Write, self.random.below(60), Fault::Cut);
            if self.stack.mount().is_ok() {
                self.server = Server::start(&self.setup)?;
                let patience = Duration::from_millis(20 + self.random.below(100));
                let came = self.stack.disk().wait_for_plan(patience);
                tally.fault(if came { "cut in recovery" } else { "cut after recovery" });
            } else {
                tally.fault("cut in journal recovery");
            }
            self.stack.disk().cut();
            self.take_down()?;
        }
        self.stack.disk().switch_on();
        self.stack.mount()?;
        self.server = Server::start(&self.setup)?;
        Ok(())
    }

    /// Waits for the server and compares all that it has with the books.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn check(&mut self, tally: &mut Tally) -> Result<()> {
        self.client = self.server.wait()?;
        let checked = self.read_back()?;
        self.stack.disk().slow(Duration::ZERO);
        tally.checked(checked.must);
        tally.found(self.books.take_findings());
        Ok(())
    }

    /// Ends the load, in which everything that was sent is stored, and compares a last time.
    ///
    /// # Errors
    /// When a record was refused, or the server does not answer.
    pub fn end(mut self, tally: &mut Tally) -> Result<()> {
        self.load.end()?;
        let checked = check::everything(&mut self.client, self.topic, &self.books, self.retention)
            .context("the last check")?;
        tally.checked(checked.must);
        tally.found(self.books.take_findings());
        for partition in 0..self.books.partitions() {
            let page = self.books.copy_of(partition);
            let (sent, last) = (page.sent.iter().sum::<u32>(), page.must.last_key_value());
            let end = last.map_or(page.start, |(offset, _)| offset + 1);
            if end != u64::from(sent) {
                let text = format!("partition {partition}: {sent} were sent, {end} are there");
                tally.found(vec![Finding::Wrong(text)]);
            }
        }
        self.server.kill()?;
        self.stack.unmount()
    }

    /// Copies what a failure leaves behind to a folder.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn keep(&mut self, folder: &Path) -> Result<()> {
        self.server.kill()?;
        fs::create_dir_all(folder)?;
        fs::copy(&self.setup.log, folder.join("log"))?;
        super::stack::copy(&self.setup.data, folder)
    }

    fn read_back(&mut self) -> Result<Checked> {
        check::everything(&mut self.client, self.topic, &self.books, self.retention)
            .context("reading back")
    }

    /// Nobody uses the file system any more, and it is gone.
    fn take_down(&mut self) -> Result<()> {
        self.server.kill()?;
        self.stack.unmount()
    }

    fn draw_odds(&mut self) {
        let of = |random: &mut Random| [0, MILLION / 3, MILLION * 3 / 4][random.below(3) as usize];
        let odds = Odds { kept: of(&mut self.random), torn: of(&mut self.random) };
        self.stack.disk().treat(odds);
    }
}

/// How this world's server is started.
fn arguments(random: &mut Random) -> Vec<String> {
    let cores = 1 + random.below(2);
    let checkpoint = ["64KiB", "1MiB", "64MiB"][random.below(3) as usize];
    let cache = ["0", "256KiB", "4MiB"][random.below(3) as usize];
    [
        format!("--cores={cores}"),
        "--set=storage.disk_reserve=0".to_owned(),
        format!("--set=storage.checkpoint={checkpoint}"),
        format!("--set=storage.tail_cache={cache}"),
    ]
    .into()
}
