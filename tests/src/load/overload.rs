//! More than a node can take: calm, as much as it takes, ten times that beside clients that do what
//! they should not, and calm again.
//!
//! Every request must be answered or its connection closed, memory must stay within the budget,
//! what was acknowledged must be there once and in order, and afterwards the node must serve as
//! before.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, Write},
    net::Ipv4Addr,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use catena_client::{
    Client, Error, FetchOptions, OffsetQuery,
    format::{Offset, PartitionIndex},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    cgroup::Confined,
    hostile::{Idlers, Tally, flood, garble},
    line::{Answer, Line, Target, is_wait, numbered, produce},
    sample::resident_bytes,
};
use crate::{
    elsewhere::Elsewhere,
    live::{PATIENCE, Server},
};

const CORES: u64 = 2;
const PARTITIONS: u32 = 4;
/// What the server may use: batches and reads, a quarter of that for what arrives, and requests
/// that are to be decided, on each core.
const MEMORY_BYTES: u64 = 128 << 20;
const IN_FLIGHT_BYTES: u64 = 16 << 20;
const BUDGET_BYTES: u64 = MEMORY_BYTES + MEMORY_BYTES / 4 + CORES * IN_FLIGHT_BYTES;
/// Bytes of a record under load.
const RECORD_BYTES: usize = 32 << 10;
/// Connections, and requests unanswered on each, that show how much the node takes.
const PEAK_LINES: u32 = 8;
const PEAK_WINDOW: usize = 8;
/// Ten times as many offer ten times as much, and wait for four times as many answers: for more
/// than the node takes on.
const TIMES: u32 = 10;
const WINDOW: usize = 32;
/// The disk is made so slow that the generator can offer ten times of what it takes.
const DISK_BYTES_PER_SECOND: u64 = 32 << 20;
/// Latency is looked at so often.
const PROBE: Duration = Duration::from_millis(20);
/// As usual again: within twice the usual median, and this.
const USUAL: Duration = Duration::from_millis(5);

/// How long each phase is, and whether speed is judged.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server's binary.
    pub binary: PathBuf,
    /// Where its directory is made.
    pub scratch: PathBuf,
    /// Each calm phase.
    pub calm: Duration,
    /// As much as it takes.
    pub peak: Duration,
    /// Ten times that.
    pub overload: Duration,
    /// Whether speed is judged, on a slow disk and by a machine that does nothing else: goodput and
    /// latency. Memory always is.
    pub judged: bool,
    /// What is garbled how.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Summary {
    /// Records acknowledged.
    pub acked: u64,
    /// Records read back.
    pub checked: u64,
    /// Acknowledged records that were not there.
    pub lost: u64,
    /// Records that were there twice.
    pub duplicated: u64,
    /// What was done to the node, by kind.
    pub faults: BTreeMap<String, u64>,
    /// The figures of the phases.
    pub phases: Vec<Value>,
    /// What is judged: what was offered and the goodput in percent of the peak's, resident bytes at
    /// most, milliseconds until latency was as usual.
    pub figures: BTreeMap<String, u64>,
    /// Each criterion, and whether it was met.
    pub criteria: Vec<(&'static str, bool)>,
    /// What was broken.
    pub broken: Vec<String>,
}

impl Summary {
    /// One line of JSON.
    #[must_use]
    pub fn line(&self) -> String {
        let criteria: serde_json::Map<_, _> =
            self.criteria.iter().map(|(name, met)| ((*name).to_owned(), (*met).into())).collect();
        json!({
            "acked": self.acked, "checked": self.checked, "lost": self.lost,
            "duplicated": self.duplicated, "faults": self.faults, "phases": self.phases,
            "figures": self.figures, "criteria": criteria, "broken": self.broken,
        })
        .to_string()
    }
}

/// What a phase came to.
struct Flow {
    /// Bytes a second.
    sent: f64,
    /// Bytes a second of what was stored within the phase.
    goodput: f64,
    /// At most.
    resident_bytes: u64,
    /// No more was sent from then on.
    ended: Instant,
}

/// What the lines of a phase did.
#[derive(Default)]
struct Traffic {
    sent: AtomicU64,
    stored: AtomicU64,
    refused: AtomicU64,
    closed: AtomicU64,
    unanswered: AtomicU64,
    /// By line: the numbers that were acknowledged, in order of the answers.
    acked: Mutex<Vec<(u32, u64)>>,
}

/// Runs it.
///
/// # Errors
/// When there is nothing to run: no server, no directory.
pub fn run(plan: &Plan) -> Result<Summary, String> {
    let folder = TempDir::new_in(&plan.scratch).map_err(|error| error.to_string())?;
    // What the process has beside its budget, and the kernel keeps for its sockets, needs room too.
    let confined =
        plan.judged.then(|| Confined::new(folder.path(), DISK_BYTES_PER_SECOND, 2 * BUDGET_BYTES));
    if let Some(confined) = &confined {
        confined.check()?;
    }
    let elsewhere = match Elsewhere::new() {
        Err(error) if plan.judged => return Err(format!("no peer can vanish: {error}")),
        Err(error) => {
            eprintln!("no peer vanishes: {error}");
            None
        }
        Ok(elsewhere) => Some(elsewhere),
    };
    let here = elsewhere.as_ref().map_or(Ipv4Addr::LOCALHOST, Elsewhere::here);
    let memory = format!("limits.memory={MEMORY_BYTES}");
    let in_flight = format!("limits.in_flight_per_core={IN_FLIGHT_BYTES}");
    let of_one = format!("limits.in_flight_per_connection={IN_FLIGHT_BYTES}");
    let mut options = vec!["--cores", "2", "--set", "limits.connections=400"];
    for setting in [&memory, &in_flight, &of_one, "timeouts.handshake=3s", "timeouts.idle=10s"] {
        options.extend(["--set", setting]);
    }
    let mut server = Server::start(&plan.binary, folder.path(), &format!("{here}:0"), &options)
        .map_err(|ended| ended.to_string())?;
    if let Some(confined) = &confined {
        confined.add(server.pid())?;
    }
    let targets = found(&server).map_err(|error| format!("the topic: {error}"))?;
    let mut scene = Scene {
        plan,
        server: &server,
        elsewhere: elsewhere.as_ref(),
        targets,
        at_rest: resident_bytes(server.pid()).unwrap_or_default(),
        summary: Summary::default(),
        acked: Vec::new(),
        tally: Tally::default(),
    };
    scene.play()?;
    let summary = scene.summary;
    if server.log().contains("panicked") {
        return Err(format!("the server panicked:\n{}", server.log()));
    }
    server.stop()?;
    Ok(summary)
}

fn found(server: &Server) -> Result<Vec<Target>, Error> {
    let mut client = server.client();
    client.create_topic("load", PARTITIONS, Vec::new())?;
    let topic = client.topic("load")?;
    let target = |partition: &catena_client::format::PartitionIndex, core| Target {
        topic: topic.id,
        partition: partition.get(),
        core,
    };
    Ok(topic.partitions.iter().map(|p| target(&p.index, p.core)).collect())
}

struct Scene<'a> {
    plan: &'a Plan,
    server: &'a Server,
    /// Where peers vanish, if there is such a place.
    elsewhere: Option<&'a Elsewhere>,
    targets: Vec<Target>,
    /// Resident memory before anything was done.
    at_rest: u64,
    summary: Summary,
    acked: Vec<(u32, u64)>,
    tally: Tally,
}

impl Scene<'_> {
    fn play(&mut self) -> Result<(), String> {
        let plan = self.plan;
        let usual = self.calm("calm", Instant::now() + plan.calm)?;
        let peak = self.traffic("peak", PEAK_LINES, None, plan.peak);
        let offered = Some(peak.goodput * f64::from(TIMES));
        let over = self.traffic("overload", PEAK_LINES * TIMES, offered, plan.overload);
        let recovered = self.recover(usual)?;
        self.calm("calm again", Instant::now() + plan.calm)?;
        self.read_back()?;
        self.reasons()?;
        let most = (BUDGET_BYTES + self.at_rest) * 11 / 10;
        let resident = over.resident_bytes.max(peak.resident_bytes);
        let recovered = recovered.duration_since(over.ended);
        let [offered, share] = [over.sent, over.goodput].map(|rate| rate / peak.goodput);
        let figures = [
            ("offered_percent", (offered * 100.0) as u64),
            ("goodput_percent", (share * 100.0) as u64),
            ("resident_bytes_max", resident),
            ("recovery_ms", recovered.as_millis() as u64),
        ];
        self.summary.figures = figures.map(|(name, figure)| (name.to_owned(), figure)).into();
        self.criteria(resident <= most, offered, share, recovered);
        Ok(())
    }

    /// Stores a record now and then, in one partition after the other: the median of the latencies.
    fn calm(&mut self, name: &str, until: Instant) -> Result<Duration, String> {
        let mut latencies = Vec::new();
        let mut line = self.probe_line()?;
        while Instant::now() < until {
            latencies.push(self.probe(&mut line, latencies.len())?);
            thread::sleep(PROBE);
        }
        latencies.sort_unstable();
        let at = |share: usize| latencies[(latencies.len() - 1) * share / 100];
        let micros = |duration: Duration| duration.as_micros() as u64;
        self.summary.phases.push(json!({
            "phase": name, "probes": latencies.len(), "p50_us": micros(at(50)),
            "p99_us": micros(at(99)),
            "resident_bytes": resident_bytes(self.server.pid()),
        }));
        Ok(at(50))
    }

    fn probe_line(&self) -> Result<Line, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Line::open(self.server.address(), Some(self.targets[0].core)) {
                Ok(line) => return Ok(line),
                // Connections that have just ended may count until they are looked at.
                Err(_) if Instant::now() < deadline => thread::sleep(PROBE),
                Err(error) => return Err(format!("nobody serves the probe: {error}")),
            }
        }
    }

    fn probe(&self, line: &mut Line, number: usize) -> Result<Duration, String> {
        let target = self.targets[number % self.targets.len()];
        let message = produce(target, u32::MAX, 0, 100);
        let (answer, took) = line.store(&message).map_err(|error| format!("a probe: {error}"))?;
        if answer == Answer::Stored { Ok(took) } else { Err(format!("a probe: {answer:?}")) }
    }

    /// When a second's worth of probes was as usual in the middle.
    fn recover(&self, usual: Duration) -> Result<Instant, String> {
        let mut line = self.probe_line()?;
        let (mut recent, began) = (VecDeque::new(), Instant::now());
        for number in 0.. {
            let probed = Instant::now();
            // A partition may refuse as long as its backlog lasts.
            let took = self.probe(&mut line, number).unwrap_or(PATIENCE);
            recent.push_back((probed, took));
            if recent.len() > 50 {
                recent.pop_front();
            }
            let mut latencies: Vec<Duration> = recent.iter().map(|(_, took)| *took).collect();
            latencies.sort_unstable();
            let as_usual = latencies[latencies.len() / 2] <= 2 * usual + USUAL;
            if recent.len() == 50 && as_usual {
                return Ok(recent[0].0);
            }
            if began.elapsed() > PATIENCE {
                break;
            }
            thread::sleep(PROBE);
        }
        Err(format!("latency is not as usual after {PATIENCE:?}"))
    }

    /// So many lines write, each as fast as it is answered, or at an even rate that comes to
    /// `offered` bytes a second together; beside the latter, everybody who should not.
    fn traffic(
        &mut self,
        name: &str,
        lines: u32,
        offered: Option<f64>,
        duration: Duration,
    ) -> Flow {
        let (traffic, stop) = (Traffic::default(), AtomicBool::new(false));
        let (address, targets, tally) = (self.server.address(), &self.targets, &self.tally);
        let (pid, seed, elsewhere) = (self.server.pid(), self.plan.seed, self.elsewhere);
        let began = Instant::now();
        let (mut most, mut ended, mut done) = (0, began, [0, 0]);
        thread::scope(|scope| {
            let (traffic, stop) = (&traffic, &stop);
            let mut idlers = None;
            if offered.is_some() {
                idlers = Some(scope.spawn(move || {
                    let mut idlers = Idlers::open(address, targets[0], elsewhere);
                    idlers.drip(stop);
                    idlers
                }));
                scope.spawn(move || flood(address, stop, tally));
                scope.spawn(move || garble(address, targets[1], stop, tally, seed));
            }
            for who in 0..lines {
                let who = if offered.is_some() { who + PEAK_LINES } else { who };
                let target = targets[who as usize % targets.len()];
                let rate = offered.map(|all| all / f64::from(lines));
                scope.spawn(move || Sender::new(address, target, who, rate, traffic).run(stop));
            }
            while began.elapsed() < duration {
                most = most.max(resident_bytes(pid).unwrap_or_default());
                thread::sleep(PROBE);
            }
            stop.store(true, Ordering::Relaxed);
            ended = Instant::now();
            // What is answered from now on was not stored in this time.
            done = [&traffic.sent, &traffic.stored].map(|number| number.load(Ordering::Relaxed));
            if let Some(Ok(idlers)) = idlers.map(thread::ScopedJoinHandle::join) {
                idlers.outlast(tally);
            }
        });
        let seconds = duration.as_secs_f64();
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let rate = |batches: u64| batches as f64 * RECORD_BYTES as f64 / seconds;
        let [sent, goodput] = done.map(rate);
        self.summary.phases.push(json!({
            "phase": name, "seconds": seconds, "lines": lines, "sent": count(&traffic.sent),
            "offered_bytes_per_s": offered.unwrap_or(sent).round(),
            "sent_bytes_per_s": sent.round(),
            "goodput_bytes_per_s": goodput.round(), "refused": count(&traffic.refused),
            "closed": count(&traffic.closed), "resident_bytes_max": most,
        }));
        self.account(traffic);
        Flow { sent, goodput, resident_bytes: most, ended }
    }

    /// What was acknowledged must be there, and what was asked must be answered.
    fn account(&mut self, traffic: Traffic) {
        let unanswered = traffic.unanswered.into_inner();
        if unanswered > 0 {
            let what = format!("{unanswered} requests were neither answered nor ended");
            self.summary.broken.push(what);
        }
        self.acked.extend(traffic.acked.into_inner().unwrap_or_else(PoisonError::into_inner));
    }

    /// Everything acknowledged is there once, and in the order of each line.
    fn read_back(&mut self) -> Result<(), String> {
        let mut client = self.server.client();
        let mut there: BTreeMap<(u32, u64), u64> = BTreeMap::new();
        for target in &self.targets {
            let mut last: BTreeMap<u32, u64> = BTreeMap::new();
            let mut misplaced = 0;
            each_value(&mut client, *target, |value| {
                let Some((who, number)) = numbered(value) else { return };
                if who != u32::MAX {
                    *there.entry((who, number)).or_default() += 1;
                    misplaced += u64::from(last.insert(who, number).is_some_and(|l| l >= number));
                }
            })
            .map_err(|error| format!("reading back: {error}"))?;
            if misplaced > 0 {
                self.summary.broken.push(format!("{misplaced} records are out of order"));
            }
        }
        let summary = &mut self.summary;
        summary.acked = self.acked.len() as u64;
        summary.checked = there.values().sum();
        summary.duplicated = there.values().map(|times| times - 1).sum();
        summary.lost = self.acked.iter().filter(|acked| !there.contains_key(acked)).count() as u64;
        if summary.lost + summary.duplicated > 0 {
            summary.broken.push("acknowledged records are lost, or there twice".to_owned());
        }
        if summary.acked == 0 {
            summary.broken.push("nothing was acknowledged".to_owned());
        }
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let tally = &self.tally;
        let counts = [("connection", &tally.floods), ("malformed", &tally.malformed)];
        summary.phases.push(json!({
            "phase": "hostile", "answered": count(&tally.answered), "closed": count(&tally.closed),
        }));
        summary.faults = counts.map(|(name, n)| (name.to_owned(), count(n))).into();
        if self.elsewhere.is_some() {
            summary.faults.insert("vanished".to_owned(), count(&tally.vanished));
        }
        Ok(())
    }

    /// Every connection that did what it should not was answered or ended, and the server says why.
    fn reasons(&mut self) -> Result<(), String> {
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let Tally { nothing, unexplained, late, idle, foreign, large, .. } = &self.tally;
        let broken = &mut self.summary.broken;
        if self.elsewhere.is_some() && count(&self.tally.vanished) == 0 {
            broken.push("nobody has vanished".to_owned());
        }
        if count(nothing) > 0 {
            broken.push(format!("{} hostile connections were left open", count(nothing)));
        }
        if count(unexplained) > 0 {
            broken.push(format!("{} connections ended without a reason", count(unexplained)));
        }
        for (metric, due) in [
            ("catena_handshake_timeouts_total", count(late)),
            ("catena_idle_timeouts_total", count(idle)),
            ("catena_bad_frames_total", count(foreign)),
            ("catena_refusals_total", count(large)),
        ] {
            let counted = || self.server.metric(metric).ok_or(format!("there is no {metric}"));
            let deadline = Instant::now() + PATIENCE;
            // Who has vanished hears of nothing, and nobody here sees when that is over.
            while counted()? < due && Instant::now() < deadline {
                thread::sleep(PROBE);
            }
            let counted = counted()?;
            if counted < due {
                broken.push(format!("{metric} is {counted}, and {due} were due"));
            }
        }
        Ok(())
    }

    fn criteria(&mut self, within: bool, offered: f64, share: f64, recovered: Duration) {
        let summary = &mut self.summary;
        summary.criteria.push(("memory_within_budget_and_a_tenth", within));
        if self.plan.judged {
            let soon = recovered <= Duration::from_secs(5);
            // As much as is meant, but for what the generator's scheduling costs.
            let enough = offered >= 0.9 * f64::from(TIMES);
            summary.criteria.push(("offered_ten_times_the_peak", enough));
            summary.criteria.push(("goodput_at_least_80_of_100_of_peak", share >= 0.8));
            summary.criteria.push(("usual_latency_within_5_s", soon));
        }
        for (name, met) in &summary.criteria {
            if !met {
                let text = format!("not met: {name} ({offered:.1} offered, {share:.2} done)");
                summary.broken.push(text);
            }
        }
    }
}

fn each_value(
    client: &mut Client,
    target: Target,
    mut each: impl FnMut(&[u8]),
) -> Result<(), Error> {
    let partition = PartitionIndex::new(target.partition);
    let end = client.offset(target.topic, partition, OffsetQuery::Latest)?.unwrap_or_default();
    let mut at = Offset::ZERO;
    while at < end {
        let options = FetchOptions { max_bytes: 1 << 20, max_wait: Duration::ZERO };
        let fetched = client.fetch(target.topic, partition, at, options)?;
        fetched.each_record::<Error>(at, |_, record| {
            each(record.value.unwrap_or_default());
            Ok(())
        })?;
        at = fetched.next_offset;
    }
    Ok(())
}

/// A line that writes numbered records, and knows which of them are unanswered.
struct Sender<'a> {
    address: &'a str,
    target: Target,
    who: u32,
    /// Bytes a second; `None`: as fast as it is answered.
    rate: Option<f64>,
    traffic: &'a Traffic,
    line: Option<Line>,
    waiting: VecDeque<u64>,
    next: u64,
}

impl<'a> Sender<'a> {
    fn new(
        address: &'a str,
        target: Target,
        who: u32,
        rate: Option<f64>,
        traffic: &'a Traffic,
    ) -> Self {
        let (line, waiting) = (None, VecDeque::new());
        Self { address, target, who, rate, traffic, line, waiting, next: 0 }
    }

    /// Until told to stop; then until everything is answered.
    fn run(mut self, stop: &AtomicBool) {
        let began = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let due = self.rate.is_none_or(|rate| {
                self.next as f64 * (RECORD_BYTES as f64) < rate * began.elapsed().as_secs_f64()
            });
            let window = if self.rate.is_some() { WINDOW } else { PEAK_WINDOW };
            let done = if due && self.waiting.len() < window {
                self.send()
            } else if self.waiting.is_empty() {
                thread::sleep(Duration::from_millis(1));
                Ok(())
            } else {
                self.hear()
            };
            if done.is_err() {
                self.lost_line();
            }
        }
        while !self.waiting.is_empty() {
            if let Err(error) = self.hear() {
                if is_wait(&error) {
                    let unanswered = self.waiting.len() as u64;
                    self.traffic.unanswered.fetch_add(unanswered, Ordering::Relaxed);
                }
                self.lost_line();
            }
        }
    }

    fn send(&mut self) -> io::Result<()> {
        if self.line.is_none() {
            self.line = Some(Line::open(self.address, Some(self.target.core))?);
        }
        let line = self.line.as_mut().expect("it was just opened");
        let message = produce(self.target, self.who, self.next, RECORD_BYTES);
        self.waiting.push_back(self.next);
        self.next += 1;
        self.traffic.sent.fetch_add(1, Ordering::Relaxed);
        line.stream.write_all(&message)
    }

    fn hear(&mut self) -> io::Result<()> {
        let line = self.line.as_mut().ok_or_else(|| io::Error::other("there is no line"))?;
        let (correlation, answer) = line.receipt()?;
        let at = self.waiting.iter().position(|number| *number as u32 == correlation);
        let number = at.and_then(|at| self.waiting.remove(at));
        let number = number.ok_or_else(|| io::Error::other("an answer to nothing"))?;
        match answer {
            Answer::Stored => {
                self.traffic.stored.fetch_add(1, Ordering::Relaxed);
                let mut acked = self.traffic.acked.lock().unwrap_or_else(PoisonError::into_inner);
                acked.push((self.who, number));
            }
            Answer::Refused(_) => {
                self.traffic.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// What waits on a connection that ended is answered by that.
    fn lost_line(&mut self) {
        self.traffic.closed.fetch_add(1, Ordering::Relaxed);
        self.line = None;
        self.waiting.clear();
        thread::sleep(Duration::from_millis(10));
    }
}
