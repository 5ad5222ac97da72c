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
    disk::Disk,
    load::{self, Load, Style},
    server::{self, PATIENCE, Server, Setup},
    stack::Stack,
    tally::Tally,
};
use crate::sim::random::{MILLION, Random};

/// Bytes of the disk.
const DISK_BYTES: usize = 768 << 20;
/// Bytes of one that is to be full.
const SMALL_DISK_BYTES: usize = 96 << 20;
/// Bytes that the producers may send in one life of the server.
pub(super) const LIFE_BYTES: u64 = 4 << 20;
const PARTITIONS: u32 = 4;
/// As small as segments may be, so that there are rolls all the time.
const SEGMENT_BYTES: u64 = catena_client::format::limits::SEGMENT_BYTES_MIN;

/// A server on ext4 on a disk of ours, with its load and the books about both.
pub struct World {
    pub(super) random: Random,
    pub(super) stack: Stack,
    pub(super) setup: Setup,
    pub(super) server: Server,
    pub(super) client: Client,
    pub(super) topic: TopicId,
    /// Space is kept back, without which a node that finds the disk full does not start.
    pub(super) has_reserve: bool,
    pub(super) retention: Option<Retention>,
    pub(super) books: Arc<Books>,
    pub(super) load: Load,
    /// So far its log was searched for panics.
    searched: usize,
}

impl World {
    /// A new world, with a disk for its load, or one that is soon full.
    ///
    /// # Errors
    /// When the machine lacks something, or the server does not start.
    pub fn begin(binary: PathBuf, seed: u64, is_small: bool) -> Result<Self> {
        let mut random = Random::new(seed);
        let bytes = if is_small { SMALL_DISK_BYTES } else { DISK_BYTES };
        let disk = Arc::new(Disk::new(bytes, random.stream("disk")));
        let stack = Stack::new(disk)?;
        let reserve = if is_small { ["0", "4MiB", "16MiB"][random.below(3) as usize] } else { "0" };
        let setup = Setup {
            binary,
            address: server::free_address()?,
            data: stack.files().join("data"),
            log: stack.beside().join("log"),
            more: arguments(&mut random, reserve),
        };
        let mut server = Server::start(&setup)?;
        let mut client = server.wait()?;
        let style = Style::draw(&mut random);
        let retains = !is_small && random.chance(MILLION / 2);
        let retention = retains.then(|| Retention {
            bytes: SEGMENT_BYTES * (4 + random.below(28)),
            slack: 8 * SEGMENT_BYTES + style.buffer_bytes(),
        });
        let mut settings = vec![("segment.bytes", SEGMENT_BYTES)];
        settings.extend(retention.map(|retention| ("retention.bytes", retention.bytes)));
        let topic = load::create(&mut client, PARTITIONS, &settings)?;
        let books = Arc::new(Books::new(seed, PARTITIONS, style.producers));
        let load = Load::begin(&setup.address, books.clone(), style, &random.stream("load"))?;
        let has_reserve = reserve != "0";
        Ok(Self {
            random,
            stack,
            setup,
            server,
            client,
            topic,
            has_reserve,
            retention,
            books,
            load,
            searched: 0,
        })
    }

    /// Records acknowledged so far.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.books.acked()
    }

    /// Batches acknowledged so far.
    #[must_use]
    pub fn batches(&self) -> u64 {
        self.books.batches()
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

    /// Waits for the server and compares all that it has with the books.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn check(&mut self, tally: &mut Tally) -> Result<()> {
        self.client = self.server.wait()?;
        let checked = self.read_back()?;
        self.stack.disk().slow(Duration::ZERO);
        self.searched = look_for_panics(&self.setup.log, self.searched, tally)?;
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
        look_for_panics(&self.setup.log, self.searched, tally)?;
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

    pub(super) fn read_back(&mut self) -> Result<Checked> {
        check::everything(&mut self.client, self.topic, &self.books, self.retention)
            .context("reading back")
    }
}

/// No life may have panicked, whatever befell it; how far the log was searched by now.
fn look_for_panics(log: &Path, searched: usize, tally: &mut Tally) -> Result<usize> {
    let log = fs::read_to_string(log)?;
    let panics = log[searched..].lines().filter(|line| line.contains("panicked at"));
    tally.found(panics.map(|line| Finding::Wrong(line.to_owned())).collect());
    Ok(log.len())
}

/// How this world's server is started.
fn arguments(random: &mut Random, reserve: &str) -> Vec<String> {
    let cores = 1 + random.below(2);
    let checkpoint = ["64KiB", "1MiB", "64MiB"][random.below(3) as usize];
    let cache = ["0", "256KiB", "4MiB"][random.below(3) as usize];
    [
        format!("--cores={cores}"),
        format!("--set=storage.disk_reserve={reserve}"),
        format!("--set=storage.checkpoint={checkpoint}"),
        format!("--set=storage.tail_cache={cache}"),
    ]
    .into()
}
