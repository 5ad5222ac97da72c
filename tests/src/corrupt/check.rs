//! One case: a copy of a node's directory, corrupted, started twice, and held against the books.

use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use catena_client::{Client, Error, ErrorCode, NewRecord, OffsetQuery, ProducerOptions, Ticket};
use catena_format::{Offset, PartitionIndex};

use super::{
    base::{Base, Books, copy_tree},
    damage::{Corruption, Deed, Kind, Logs},
    map::{Fate, Standing, fate},
};
use crate::{
    live::{Ended, ReadBack, Server, read_back},
    sim::random::Random,
};

/// What a case came to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Outcome {
    /// All was served as before.
    Unharmed,
    /// Some offsets are damaged.
    Damaged,
    /// The log's end is gone, which nothing told from a write that a crash cut off.
    Cut,
    /// One partition is closed.
    Closed,
    /// The server does not start.
    Refused,
}

/// A case under way.
pub(super) struct Case<'a> {
    pub(super) binary: &'a Path,
    pub(super) base: &'a Base,
    pub(super) logs: &'a Logs,
    pub(super) corruption: &'a Corruption,
    /// Where its copy of the directory lies.
    pub(super) folder: &'a Path,
    /// Records compared.
    pub(super) checked: u64,
    random: Random,
    /// What each partition must come to, in the order of the books.
    fates: Vec<Fate>,
    catalog: Fate,
}

/// The directory of a partition's log.
pub(super) fn log_of(uid: u64) -> PathBuf {
    Path::new("p").join(format!("{uid:016x}"))
}

/// How a server ends that cannot read what it must: no restart mends that.
const DAMAGED: i32 = 5;

/// The directory of the catalog's log.
pub(super) const CATALOG: &str = "meta/catalog";

impl<'a> Case<'a> {
    pub(super) fn new(
        binary: &'a Path,
        base: &'a Base,
        logs: &'a Logs,
        corruption: &'a Corruption,
        folder: &'a Path,
        seed: u64,
    ) -> Self {
        let catalog = Fate::Closed;
        let random = Random::new(seed).stream("case");
        Self {
            binary,
            base,
            logs,
            corruption,
            folder,
            checked: 0,
            random,
            fates: Vec::new(),
            catalog,
        }
    }

    /// Runs it.
    pub(super) fn run(&mut self) -> Result<Outcome, String> {
        let data = self.data();
        copy_tree(&self.base.data(), &data).map_err(|error| error.to_string())?;
        // One that is gone may still be open.
        let Corruption { kind, deed, .. } = *self.corruption;
        let cold = kind == Kind::Sealed && deed != Deed::Remove && self.random.chance(250_000);
        let mut early = None;
        if cold {
            // The server reads the file while it runs, and not as it starts.
            early = Some(self.start().map_err(|ended| ended.to_string())?);
        }
        for (path, bytes) in &self.corruption.files {
            let path = data.join(path);
            let done = match bytes {
                Some(bytes) => fs::write(path, bytes),
                None => fs::remove_file(path),
            };
            done.map_err(|error| error.to_string())?;
        }
        self.foresee();
        let (server, mut server_refused) = match early {
            Some(server) => (Ok(server), false),
            None => (self.start(), true),
        };
        server_refused &= server.is_err();
        if server_refused {
            let refused = server.err().ok_or("a refusal has a reason")?;
            return self.refused(&refused);
        }
        let mut server = server.map_err(|ended| ended.to_string())?;
        let outcome = self.served(&mut server, cold);
        let outcome = outcome.map_err(|error| format!("{error}\n{}", server.log()))?;
        self.nothing_is_deleted()?;
        Ok(outcome)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn start(&mut self) -> Result<Server, Ended> {
        let cores = if self.random.chance(500_000) { "1" } else { "2" };
        Server::start(self.binary, self.folder, "127.0.0.1:0", &["--cores", cores])
    }

    /// What must come of it, from what the files hold now.
    fn foresee(&mut self) {
        let (before, after) = (self.base.data(), self.data());
        let fate = |log: &Path| {
            let map = self.logs.iter().find(|(path, _)| path == log).map(|(_, map)| map);
            map.map_or(Fate::Closed, |map| fate(map, &before.join(log), &after.join(log)))
        };
        self.fates = self.base.books.iter().map(|books| fate(&log_of(books.uid))).collect();
        self.catalog = fate(Path::new(CATALOG));
    }

    /// The server did not start: that must be right, be said, change nothing, and come again.
    fn refused(&mut self, refused: &Ended) -> Result<Outcome, String> {
        let log = self.corruption.log.as_deref();
        let named = match (self.corruption.kind, log) {
            // It is not known where one should be.
            (Kind::Identity, _) if self.corruption.deed == Deed::Remove => "no identity file",
            (Kind::Identity, _) => "meta/identity",
            (_, Some(log)) if log == Path::new(CATALOG) && !self.catalog_is_whole() => CATALOG,
            _ => return Err(format!("it must start: {refused}")),
        };
        let before = self.files()?;
        for ended in [None, Some(self.start())] {
            let ended = match &ended {
                None => refused,
                Some(Err(again)) => again,
                Some(Ok(_)) => return Err("it starts at the second attempt".to_owned()),
            };
            if ended.status.is_none_or(|status| status.code() != Some(DAMAGED)) {
                return Err(format!("it did not end in order: {ended}"));
            }
            if !ended.log.contains(named) {
                return Err(format!("the refusal does not name {named}: {ended}"));
            }
        }
        if self.files()? == before {
            Ok(Outcome::Refused)
        } else {
            Err("a start that is refused changes files".to_owned())
        }
    }

    /// Whether the catalog lost nothing, or nothing that nobody can miss.
    fn catalog_is_whole(&self) -> bool {
        let Fate::Open(standing) = &self.catalog else { return false };
        let map = self.logs.iter().find(|(path, _)| path == Path::new(CATALOG));
        let frames = map.into_iter().flat_map(|(_, map)| map.0.values().flatten());
        let mut batches = frames.filter(|frame| !frame.mark);
        batches.all(|frame| standing.holds(frame.offsets.start))
    }

    /// Every file, with its bytes, but for those that each start writes.
    fn files(&self) -> Result<BTreeMap<PathBuf, Vec<u8>>, String> {
        let mut files = BTreeMap::new();
        let mut open = vec![self.data()];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).map_err(|error| error.to_string())?.flatten() {
                let path = entry.path();
                if path.is_dir() {
                    open.push(path);
                } else if !path.ends_with("lock") && !path.ends_with("prime") {
                    let bytes = fs::read(&path).map_err(|error| error.to_string())?;
                    files.insert(path, bytes);
                }
            }
        }
        Ok(files)
    }

    /// The server started: in two lives it serves what is intact, and takes more.
    fn served(&mut self, server: &mut Server, cold: bool) -> Result<Outcome, String> {
        if self.corruption.kind == Kind::Identity {
            return Err("it starts without knowing who it is".to_owned());
        }
        let first = self.life(server, None)?;
        let outcome = self.judge(server, &first, cold)?;
        // The catalog stands in later indexes, too, once a segment of it is sealed.
        let kind = self.corruption.kind;
        let cut = outcome == Outcome::Cut || (kind == Kind::Active && !self.catalog_is_whole());
        if cut && self.base.stopped && kind != Kind::Manifests {
            return Err("the node was stopped in order, and what is missing is not missed".into());
        }
        if !self.catalog_is_whole() {
            // Its end is gone, and with it perhaps which producer ids were given: a new producer
            // may be taken for an old one.
            return Ok(Outcome::Cut);
        }
        let more = self.append(server)?;
        if self.random.chance(500_000) {
            server.kill()
        } else {
            server.stop()?
        }
        *server = self.start().map_err(|ended| format!("the second start: {ended}"))?;
        self.life(server, Some((&first, &more)))?;
        if server.log().contains("panicked") { Err("a panic".to_owned()) } else { Ok(outcome) }
    }

    /// Reads everything; what was read by the first life is read again.
    fn life(
        &mut self,
        server: &Server,
        earlier: Option<(&Reads, &[Option<u64>])>,
    ) -> Result<Reads, String> {
        let mut client = server.client();
        let mut reads = Vec::new();
        for at in 0..self.base.books.len() {
            let books = &self.base.books[at];
            let who = format!("{}/{}", books.name, books.partition);
            let bytes = [1, 5000, 100_000, 1 << 20][self.random.below(4) as usize];
            // Opening is waited for by the client.
            let _ = client.topic(books.name).map_err(|error| format!("{who}: {error}"))?;
            let read = match read_back(&mut client, books.topic, books.partition, bytes) {
                Err(Error::Server { code: ErrorCode::PartitionFailed, .. }) => None,
                other => Some(other.map_err(|error| format!("{who}: {error}"))?),
            };
            match (&self.fates[at], &read) {
                (Fate::Closed, None) => {}
                (Fate::Open(standing), Some(read)) => {
                    let known = earlier.map(|(reads, more)| (reads[at].as_ref(), more[at]));
                    self.checked += read.records.len() as u64;
                    hold(books, standing, read, known)
                        .map_err(|error| format!("{who}: {error}\n{standing:?}"))?;
                    self.places(&mut client, books, read)
                        .map_err(|error| format!("{who}: {error}"))?;
                }
                (fate, read) => return Err(format!("{who}: {fate:?}, but {read:?}")),
            }
            reads.push(read);
        }
        Ok(reads)
    }

    /// The server can tell the next readable offset of everything damaged.
    fn places(&self, client: &mut Client, books: &Books, read: &ReadBack) -> Result<(), String> {
        let partition = PartitionIndex::new(books.partition);
        for range in &read.damaged {
            let query = OffsetQuery::AtOffset(Offset::new(range.start));
            let told = client.offset(books.topic, partition, query);
            let told = told.map_err(|error| error.to_string())?.map(Offset::get);
            let next = read.records.range(range.start..).next().map(|(offset, _)| *offset);
            if told != next {
                return Err(format!("behind {range:?} the next is {next:?}, it says {told:?}"));
            }
        }
        let described = client.describe_topic(books.name).map_err(|error| error.to_string())?;
        let detail = described.partitions.iter().find(|p| p.place.index == partition);
        let told = detail.map(|p| p.damaged.iter().map(|r| r.start.get()..r.end.get()).collect());
        let told = joined(told.unwrap_or_default());
        let known = joined(read.damaged.clone());
        if told == known { Ok(()) } else { Err(format!("read {known:?}, but described {told:?}")) }
    }

    /// What it came to; and whether metrics and log say so.
    fn judge(&self, server: &Server, reads: &Reads, cold: bool) -> Result<Outcome, String> {
        let mut damaged = 0;
        let mut outcome = Outcome::Unharmed;
        for (books, read) in self.base.books.iter().zip(reads) {
            let name = format!("partition {} of topic {:032x}", books.partition, books.topic.get());
            let Some(read) = read else {
                wait_for_metric(server, "catena_partitions_failed", 1)?;
                says(server, &name, &log_of(books.uid))?;
                return Ok(Outcome::Closed);
            };
            if !read.damaged.is_empty() {
                damaged += read.damaged.iter().map(|range| range.end - range.start).sum::<u64>();
                says(server, &name, &log_of(books.uid))?;
                outcome = Outcome::Damaged;
            } else if read.end < books.end() {
                outcome = Outcome::Cut;
            }
        }
        if outcome == Outcome::Damaged || cold {
            wait_for_metric(server, "catena_damaged_offsets", damaged)?;
        }
        Ok(outcome)
    }

    /// Appends a record to every partition that is open; the offsets that they got.
    fn append(&self, server: &Server) -> Result<Vec<Option<u64>>, String> {
        let mut client = server.client();
        let mut offsets = Vec::new();
        for (books, fate) in self.base.books.iter().zip(&self.fates) {
            if *fate == Fate::Closed {
                offsets.push(None);
                continue;
            }
            let appended = append(&mut client, books);
            let what = |error| format!("{}/{} takes nothing: {error}", books.name, books.partition);
            offsets.push(Some(appended.map_err(what)?));
        }
        Ok(offsets)
    }

    /// Segment files with something in them are all there, as they were.
    fn nothing_is_deleted(&self) -> Result<(), String> {
        let logs = self.base.books.iter().map(|books| log_of(books.uid)).zip(&self.fates);
        for (log, fate) in logs.chain([(PathBuf::from(CATALOG), &self.catalog)]) {
            let Fate::Open(standing) = fate else { continue };
            for name in &standing.files {
                let path = log.join(name);
                let corrupted = self.corruption.files.iter().find(|(file, _)| *file == path);
                let expected = match corrupted {
                    Some((_, None)) => continue,
                    Some((_, Some(bytes))) => bytes.clone(),
                    None => fs::read(self.base.data().join(&path)).unwrap_or_default(),
                };
                let there = fs::read(self.data().join(&path))
                    .map_err(|error| format!("{} is gone: {error}", path.display()))?;
                if there.get(..expected.len()) != Some(&expected) {
                    return Err(format!("{} was changed", path.display()));
                }
            }
        }
        Ok(())
    }
}

/// What each partition answered; `None`: that it is closed.
type Reads = Vec<Option<ReadBack>>;

/// How long lines of the log and metrics are waited for.
const TOLD: Duration = Duration::from_secs(20);

/// The value of a record that is appended after the corruption.
const MORE: &[u8] = b"more";

fn append(client: &mut Client, books: &Books) -> Result<u64, Error> {
    let producer = client.producer(books.name, ProducerOptions::default())?;
    let record = NewRecord::value(MORE).with_partition(PartitionIndex::new(books.partition));
    let ticket: Ticket = producer.append(&record)?;
    producer.flush()?;
    let receipt = ticket.outcome().expect("all is flushed")?;
    let offset = ticket.offset_in(&receipt).get();
    producer.close()?;
    Ok(offset)
}

/// Holds what was read against books and disk: every intact record is there, with its bytes; every
/// other one is answered as damaged, or lies behind an end that may be there.
fn hold(
    books: &Books,
    standing: &Standing,
    read: &ReadBack,
    earlier: Option<(Option<&ReadBack>, Option<u64>)>,
) -> Result<(), String> {
    if let Some(range) = read.silent.first() {
        return Err(format!("{range:?} was passed over in silence"));
    }
    if read.start != standing.start {
        return Err(format!("it begins at {}", read.start));
    }
    let end = match earlier {
        Some((Some(first), Some(offset))) => {
            if offset != first.end || read.end != offset + 1 {
                let ends = (first.end, read.end);
                return Err(format!("appended at {offset}, the ends were {ends:?}"));
            }
            if read.records.get(&offset).map(Vec::as_slice) != Some(MORE) {
                return Err(format!("what was appended at {offset} is not there"));
            }
            let damage = joined(read.damaged.clone());
            if damage != joined(first.damaged.clone()) {
                return Err(format!("damaged were {:?}, now {damage:?}", first.damaged));
            }
            first.end
        }
        _ => read.end,
    };
    if end < standing.end_min || end > books.end().max(standing.end_min) {
        return Err(format!("it ends at {end}, written were {}", books.end()));
    }
    for (offset, number) in books.records.range(read.start..end) {
        let held = (standing.holds(*offset), standing.may_hold(*offset));
        match (read.records.get(offset), held) {
            (Some(value), _) if *value != books.value(*number) => {
                return Err(format!("offset {offset} has other bytes"));
            }
            (None, (true, _)) => return Err(format!("offset {offset} is intact and not served")),
            (Some(_), (_, false)) => return Err(format!("offset {offset} is served from nowhere")),
            _ => {}
        }
    }
    let known = |offset: &u64| books.records.contains_key(offset);
    match read.records.range(..end).find(|(offset, _)| !known(offset)) {
        Some((offset, _)) => Err(format!("nobody wrote offset {offset}")),
        None => Ok(()),
    }
}

/// Ranges in order, those that touch made one.
fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// A line of the log names the partition and where it lies.
fn says(server: &Server, name: &str, log: &Path) -> Result<(), String> {
    let log = log.display().to_string();
    let deadline = Instant::now() + TOLD;
    // Lines are written by a thread of their own.
    while !server.log().lines().any(|line| line.contains(name) && line.contains(&log)) {
        if Instant::now() > deadline {
            return Err(format!("no line of the log names {name} and {log}"));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn wait_for_metric(server: &Server, name: &str, value: u64) -> Result<(), String> {
    let deadline = Instant::now() + TOLD;
    loop {
        let told = server.metric(name);
        if told == Some(value) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("{name} is {told:?}, not {value}"));
        }
        thread::sleep(Duration::from_millis(5));
    }
}
