//! Three real processes that are a cluster, with producers and consumers of the Rust client, and a
//! nemesis that does one thing, or two at once, again and again.
//!
//! ```text
//! producers, consumers ─► history ◄─ everything read at the end
//!        │
//!  host0 ─ host1 ─ host2: a name space each, at a bridge, or ports of loopback
//!        ▲ kill, pause, cut, slow down, fill, spoil, power off … heal
//! ```

pub mod cluster;
pub mod failover;
pub mod faults;
pub mod history;
mod load;
mod network;
mod power;
mod rot;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{PoisonError, atomic::Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use catena_client::{OffsetQuery, format::PartitionIndex};
use serde_json::json;

use crate::{live, sim::random::Random};
use cluster::{Cluster, NODES};
use faults::{Fault, Struck};
use history::{Anomaly, Fate, Partition, Record, Verdict};
use load::{Consumed, Produced, Work};
pub use network::Network;

/// How many producers append; every other one gives up soon.
const PRODUCERS: usize = 3;
/// How many consumers poll.
const CONSUMERS: usize = 2;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server's binary.
    pub binary: PathBuf,
    /// Where its directories are made.
    pub folder: PathBuf,
    /// A network of the nodes' own; `None`: ports of loopback.
    pub network: Option<Network>,
    /// What befalls nodes, all at once.
    pub mix: Vec<Fault>,
    /// For how long.
    pub duration: Duration,
    /// How many partitions.
    pub partitions: u32,
    /// With fewer acknowledgements a second nothing is proved.
    pub floor: u64,
    /// Of the schedule.
    pub seed: u64,
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// What befell nodes.
    pub mix: String,
    /// The seed of the schedule.
    pub seed: u64,
    /// How long the nemesis was about.
    pub seconds: u64,
    /// How often what was done.
    pub faults: BTreeMap<String, u64>,
    /// Records acknowledged.
    pub acknowledged: u64,
    /// Records of which nobody was told.
    pub unknown: u64,
    /// Records refused.
    pub refused: u64,
    /// Records polled.
    pub polled: u64,
    /// Records there at the end.
    pub kept: u64,
    /// The longest time between two acknowledgements in a partition.
    pub gap_ms: u64,
    /// How long it took until all was whole at the end.
    pub healed_ms: u64,
    /// What was found.
    pub verdict: Verdict,
    /// Errors that producers and consumers were told.
    pub said: BTreeSet<String>,
    /// Too little was acknowledged to prove anything.
    pub void: bool,
}

impl Summary {
    /// One line of JSON.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = json!({
            "mix": self.mix,
            "seed": self.seed,
            "seconds": self.seconds,
            "faults": self.faults,
            "acknowledged": self.acknowledged,
            "unknown": self.unknown,
            "refused": self.refused,
            "polled": self.polled,
            "kept": self.kept,
            "max_gap_ms": self.gap_ms,
            "healed_ms": self.healed_ms,
            "void": self.void,
        });
        for anomaly in Anomaly::ALL {
            line[anomaly.name()] = self.verdict.count(anomaly).into();
        }
        line.to_string()
    }
}

/// The mixes of `all`, by their names; the control `lie` is none of them.
pub const ALL: [&str; 18] = [
    "kill",
    "pause",
    "isolate-control",
    "oneway",
    "isolate-head",
    "isolate-middle",
    "isolate-tail",
    "kill+pause",
    "kill+oneway",
    "pause+isolate-control",
    "kill+isolate-head",
    "kill+slow-disk",
    "pause+power-cut",
    "slow-link",
    "full-disk",
    "corrupt",
    "slow-disk",
    "power-cut",
];

/// The faults that a name stands for, such as `kill+pause`.
#[must_use]
pub fn mix(name: &str) -> Option<Vec<Fault>> {
    let fault = |name| Fault::ALL.into_iter().find(|fault| fault.name() == name);
    name.split('+').map(fault).collect()
}

/// Runs one. When anything is wrong the files of the nodes stay where they are.
///
/// # Errors
/// When it could not be run to its end, or chains do not become whole.
pub fn run(plan: &Plan) -> Result<Summary, String> {
    let folder = &plan.folder;
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|error| error.to_string())?;
    }
    fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    let small = plan.mix.contains(&Fault::FullDisk);
    if small {
        small_disks(folder)?;
    }
    let ran = tried(plan);
    if small {
        for number in 0..NODES {
            network::run("umount", &format!("{}/node{}/data", folder.display(), number + 1))?;
        }
    }
    let said = |error: String| format!("{error}\nseed {}, files: {}", plan.seed, folder.display());
    let summary = ran.map_err(said)?;
    if summary.verdict.all() == 0 {
        fs::remove_dir_all(folder).map_err(|error| error.to_string())?;
    } else {
        let told = summary.verdict.told.join("\n");
        fs::write(folder.join("anomalies"), &told).map_err(|error| error.to_string())?;
        eprintln!("{told}\nfiles: {}", folder.display());
    }
    Ok(summary)
}

/// A small disk for each node.
fn small_disks(folder: &Path) -> Result<(), String> {
    for number in 0..NODES {
        let data = folder.join(format!("node{}/data", number + 1));
        fs::create_dir_all(&data).map_err(|error| error.to_string())?;
        network::run("mount", &format!("-t tmpfs -o size=96m none {}", data.display()))?;
    }
    Ok(())
}

/// Makes the nodes and runs it; of what was found, files on other disks are kept beside.
fn tried(plan: &Plan) -> Result<Summary, String> {
    let disks = plan.mix.iter().any(|fault| fault.needs_disk());
    let stacks = if disks { power::disks(plan.seed)? } else { Vec::new() };
    let (folder, partitions) = (&plan.folder, plan.partitions);
    let mut cluster = Cluster::new(&plan.binary, folder, plan.network, partitions, stacks)?;
    let mut ran = tormented(plan, &mut cluster);
    for node in &mut cluster.nodes {
        let panics = node.panics()?;
        match &mut ran {
            Ok(summary) => {
                let verdict = &mut summary.verdict;
                panics.into_iter().for_each(|line| verdict.found(Anomaly::Panicked, line));
            }
            Err(error) => panics.iter().for_each(|line| error.extend(["\n", line])),
        }
    }
    let fine = ran.as_ref().is_ok_and(|summary| summary.verdict.all() == 0);
    if !fine && (disks || plan.mix.contains(&Fault::FullDisk)) {
        cluster.keep()?;
    }
    ran
}

fn tormented(plan: &Plan, cluster: &mut Cluster) -> Result<Summary, String> {
    let work = Work::new(cluster.addresses(), plan.partitions as usize);
    let mut summary = Summary {
        mix: plan.mix.iter().map(|fault| fault.name()).collect::<Vec<_>>().join("+"),
        seed: plan.seed,
        ..Summary::default()
    };
    let partitions = thread::scope(|scope| {
        let produce = |number| {
            scope.spawn({
                let work = &work;
                move || work.produce(number % 2 == 1)
            })
        };
        let producers: Vec<_> = (0..PRODUCERS).map(produce).collect();
        let consumers: Vec<_> = (0..CONSUMERS).map(|_| scope.spawn(|| work.consume())).collect();
        let watcher = scope.spawn(|| work.watch());
        let struck = torment(plan, cluster, &work, &mut summary);
        let begun = Instant::now();
        let whole = struck.and_then(|()| cluster.wait_until_well()).map(|since| {
            summary.healed_ms = (since - begun).as_millis() as u64;
        });
        work.stop.store(true, SeqCst);
        let joined = producers.into_iter().map(|thread| thread.join().map_err(|_| "a producer"));
        let produced = joined.collect::<Result<Vec<Produced>, _>>();
        let kept = produced.as_ref().map_err(|who| (*who).to_owned()).and(whole);
        let kept = kept.and_then(|()| read_all(cluster, plan.partitions));
        let end = |part: &Partition| part.kept.last().map_or(0, |last| last.0 + 1);
        let ends = kept.as_ref().map_or_else(
            |_| vec![0; plan.partitions as usize],
            |kept| kept.iter().map(end).collect(),
        );
        *work.ends.lock().unwrap_or_else(PoisonError::into_inner) = Some(ends);
        let joined = consumers.into_iter().map(|thread| thread.join().map_err(|_| "a consumer"));
        let consumed = joined.collect::<Result<Vec<Consumed>, _>>()?;
        let ends = watcher.join().map_err(|_| "a watcher panicked")?;
        Ok::<_, String>(gathered(kept?, produced?, consumed, ends, &mut summary))
    })?;
    for (number, partition) in partitions.iter().enumerate() {
        summary.verdict.judge(number, partition);
    }
    summary.void = summary.acknowledged < plan.floor * summary.seconds;
    Ok(summary)
}

/// Does what is planned until the time is over; in the end all is healed.
fn torment(
    plan: &Plan,
    cluster: &mut Cluster,
    work: &Work,
    summary: &mut Summary,
) -> Result<(), String> {
    let mut random = Random::new(plan.seed).stream("nemesis");
    let mut wait = |from: u64, to: u64| {
        let millis = from + random.below(to - from);
        thread::sleep(Duration::from_millis(millis));
    };
    let mut choice = Random::new(plan.seed).stream("choice");
    let (began, mut turn) = (Instant::now(), 0);
    while began.elapsed() < plan.duration {
        wait(500, 3000);
        let mut struck: Vec<Struck> = Vec::new();
        for (at, fault) in plan.mix.iter().enumerate() {
            let done = fault.strike(cluster, (turn + at) % NODES, &mut choice)?;
            let real = done.filter(Struck::is_real);
            *summary.faults.entry(fault.name().to_owned()).or_default() +=
                u64::from(real.is_some());
            if let Some(done) = done {
                eprintln!(
                    "{:>6} ms: {} node {}",
                    began.elapsed().as_millis(),
                    fault.name(),
                    done.victim + 1
                );
            }
            struck.extend(done);
            wait(0, 500);
        }
        wait(300, 6000);
        while !struck.is_empty() {
            let next = struck.swap_remove(choice.below(struck.len() as u64) as usize);
            next.heal(cluster)?;
            eprintln!(
                "{:>6} ms: healed {}, {} acknowledged",
                began.elapsed().as_millis(),
                next.victim + 1,
                work.acked.load(SeqCst)
            );
            wait(0, 500);
        }
        cluster.nodes.iter_mut().try_for_each(cluster::Node::must_live)?;
        // One time in three it goes on before all is as it was.
        if choice.below(3) > 0 {
            let _ = cluster.wait_until_whole(Duration::from_secs(20));
        }
        turn += 1;
    }
    summary.seconds = began.elapsed().as_secs().max(1);
    Ok(())
}

/// All that there is, by partition.
fn read_all(cluster: &Cluster, partitions: u32) -> Result<Vec<Partition>, String> {
    let mut client = cluster.client();
    let topic = client.topic(cluster::TOPIC).map_err(|error| error.to_string())?.id;
    let read = |partition| {
        let read = live::read_back(&mut client, topic, partition, 1 << 20);
        let read = read.map_err(|error| format!("partition {partition} at the end: {error}"))?;
        let kept = read.records.iter().map(|(offset, value)| (*offset, Record::of(value)));
        // The same client asked before.
        let query = client.offset(topic, PartitionIndex::new(partition), OffsetQuery::Latest);
        let end = query.map_err(|error| error.to_string())?.unwrap_or_default().get();
        Ok(Partition {
            kept: kept.collect(),
            ends: vec![vec![read.end, end]],
            ..Partition::default()
        })
    };
    (0..partitions).map(read).collect()
}

/// Puts together what everybody saw.
fn gathered(
    mut partitions: Vec<Partition>,
    produced: Vec<Produced>,
    consumed: Vec<Consumed>,
    ends: Vec<Vec<u64>>,
    summary: &mut Summary,
) -> Vec<Partition> {
    for produced in produced {
        summary.gap_ms = summary.gap_ms.max(produced.gap.as_millis() as u64);
        summary.said.extend(produced.said);
        produced.hung.into_iter().for_each(|what| summary.verdict.found(Anomaly::Hung, what));
        for (partition, sent) in partitions.iter_mut().zip(produced.sent) {
            for fate in sent.values().flatten() {
                *match fate {
                    Fate::Stored(_) => &mut summary.acknowledged,
                    Fate::Refused => &mut summary.refused,
                    Fate::Unknown => &mut summary.unknown,
                } += 1;
            }
            partition.sent.extend(sent);
        }
    }
    for consumed in consumed {
        summary.said.extend(consumed.said);
        for (partition, read) in partitions.iter_mut().zip(consumed.read) {
            summary.polled += read.len() as u64;
            partition.polled.push(read);
        }
    }
    for (partition, told) in partitions.iter_mut().zip(ends) {
        summary.kept += partition.kept.len() as u64;
        partition.ends.push(told);
    }
    partitions
}
