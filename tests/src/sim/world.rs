//! A whole node in a world of its own: its disk, its clients, its clock, and what befalls it.

mod ending;
pub(crate) mod network;
mod peril;
mod rot;
mod stop;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use catena_format::{ClusterId, Millis, NodeId, Offset, PartitionUid};
use catena_log::{
    Now, OpenError,
    io::{FileName, Op, Purse},
};
use catena_node::{Directory, Limits, Node, NodeIdentity, Post, SessionId, Status};
use catena_replication::{Phase, Replica};
use catena_wire::Setting;

use self::{
    network::{Delivery, Link},
    peril::Peril,
};
use super::{
    client::{Client, Plan},
    deeds::{Counts, Deed},
    disk::{DeviceCache, Disk, DiskOptions, FaultKind, FaultOptions},
    fingerprint::Fingerprint,
    oracle::{Oracle, Retention, Shelf},
    random::Random,
    shrink::{ACKED_MIN, Bounds},
};

/// A seed that is not through after so much of its own time is stuck.
const STUCK_NS: u64 = 120_000_000_000;
/// The longest step of the clock.
const STEP_NS: u64 = 10_000_000;
const MINUTE_MS: i64 = 60_000;
/// The most cores that a node has.
const CORES_MAX: u64 = 3;
/// In a million seeds, those in which each core has little memory.
const LITTLE_PER_MILLION: u32 = 200_000;
/// How little.
const LITTLE_BYTES: usize = 160 << 10;
/// In a million ends of a life, those after which a manifest or an index has rotted.
const IMAGE_ROTS_PER_MILLION: u32 = 100_000;

/// What a seed came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Batches acknowledged.
    pub acked: u64,
    /// Records compared.
    pub checked: u64,
    /// Pushes taken by subscribers.
    pub pushes: u64,
    /// Lives of the node but the first.
    pub restarts: u64,
    /// Acknowledged records that were said to be damaged, once the disk had decayed.
    pub damaged: u64,
    /// And those at a log's very end that nothing tells from ones that were never written.
    pub cut: u64,
    /// What was injected, by kind.
    pub faults: Counts,
    /// What clients and the clock did, by kind.
    pub deeds: Counts,
    /// Of every operation, every message and the last image of the disk.
    pub fingerprint: u64,
}

impl Report {
    /// Adds what the next seed came to.
    pub fn add(&mut self, other: &Self) {
        let sums = [
            (&mut self.acked, other.acked),
            (&mut self.checked, other.checked),
            (&mut self.pushes, other.pushes),
            (&mut self.restarts, other.restarts),
            (&mut self.damaged, other.damaged),
            (&mut self.cut, other.cut),
        ];
        for (sum, more) in sums {
            *sum += more;
        }
        add_counts(&mut self.faults, &other.faults);
        add_counts(&mut self.deeds, &other.deeds);
        self.fingerprint = self.fingerprint.rotate_left(1) ^ other.fingerprint;
    }
}

fn add_counts(counts: &mut Counts, more: &Counts) {
    for (kind, times) in more {
        *counts.entry(kind).or_insert(0) += times;
    }
}

struct World {
    random: Random,
    disk: Disk,
    /// Memory of each core, and what there is of it.
    budget: usize,
    purses: Vec<Purse>,
    /// The cores of the node; how many, each life decides anew.
    cores: Vec<Node<Purse>>,
    /// Which core works on a directory.
    owners: BTreeMap<u64, usize>,
    life: u64,
    founded: bool,
    now_ns: u64,
    plan: Plan,
    clients: Vec<Client>,
    /// Which of them is the second connection of producers.
    copier: usize,
    sessions: BTreeMap<SessionId, usize>,
    next_session: u64,
    network: BTreeMap<(u64, u64), Delivery>,
    link_ns: BTreeMap<Link, u64>,
    deliveries: u64,
    oracle: Oracle,
    shelf: Shelf,
    restarts: u64,
    faults: Counts,
    faults_on: bool,
    /// Deleted partitions whose files go once nothing is under way in them.
    removals: BTreeSet<u64>,
    /// What the node has said of its disk, and what is not so.
    slander: Option<String>,
    /// Where logs ended as the life before was ended.
    stopped: BTreeMap<PartitionUid, Offset>,
    /// In this life what deleted partitions left was looked for.
    swept: bool,
    /// The disk answers errors.
    says_no: bool,
    /// The wall clock does.
    jumps: bool,
    /// At the end the disk spoils what it holds.
    decays: bool,
    next_crash_ns: u64,
    peril: Peril,
    bounds: Bounds,
    /// Manifests of earlier lives, by directory.
    older: BTreeMap<u64, Vec<u8>>,
    /// The partition that lost both copies of its manifest.
    refused: Option<PartitionUid>,
    fingerprint: Fingerprint,
}

/// Runs one seed.
///
/// # Errors
/// Says what was broken.
pub fn run(seed: u64) -> Result<Report, String> {
    run_within(seed, &Bounds::default())
}

/// Runs what is left of one seed.
///
/// # Errors
/// Says what was broken.
pub fn run_within(seed: u64, bounds: &Bounds) -> Result<Report, String> {
    let mut world = World::new(seed, bounds);
    world.live()?;
    world.heal()?;
    Ok(world.report())
}

fn disk_options(random: &mut Random, bounds: &Bounds) -> DiskOptions {
    let cache = if random.chance(500_000) { DeviceCache::Fua } else { DeviceCache::Flush };
    let mut options = DiskOptions::random(cache);
    // Half of the seeds have a disk that only dies; the others one that also says no.
    options.faults = FaultOptions::none().with(FaultKind::SlowPeriod, 200, 3);
    if random.chance(500_000) {
        options.faults = options
            .faults
            .with(FaultKind::WriteError, 500, 3)
            .with(FaultKind::ShortWrite, 300, 2)
            .with(FaultKind::SyncError, 20_000, 2)
            .with(FaultKind::DirectorySyncError, 5_000, 2)
            .with(FaultKind::NoSpace, 1_000, 4)
            .with(FaultKind::NoDescriptors, 3_000, 3)
            .with(FaultKind::ReadError, 2_000, 3)
            .with(FaultKind::Misread, 3_000, 6);
    }
    options.faults.kinds.retain(|kind, _| bounds.has(kind.name()));
    options
}

fn plan(random: &mut Random, bounds: &Bounds) -> (Plan, Retention) {
    let created = 1 + random.below(3) as u32;
    let grown = created + random.below(3) as u32;
    // The smallest, and one that is lengthened at first and then ends where its zeros do.
    let bytes = if random.chance(500_000) { "65536" } else { "262144" };
    let mut config = vec![setting("segment.bytes", bytes)];
    let mut retention = Retention::default();
    if random.chance(250_000) {
        config.push(setting("retention.bytes", "300000"));
        retention.by_bytes = true;
    }
    if random.chance(250_000) {
        config.push(setting("segment.ms", "1000"));
    }
    if random.chance(250_000) {
        let ms = [200, 3_600_000][random.below(2) as usize];
        config.push(Setting { key: "retention.ms".into(), value: ms.to_string().into() });
        retention.ms = Some(ms);
    }
    let trims = random.chance(300_000);
    let deletions = if random.chance(400_000) { 1 + random.below(3) as u32 } else { 0 };
    let mut plan = Plan { created, grown, config, trims, deletions };
    if !bounds.has("growth") {
        plan.grown = created;
    }
    plan.trims &= bounds.has("trims");
    if !bounds.has("deletions") {
        plan.deletions = 0;
    }
    if !bounds.has("retention") {
        plan.config.retain(|setting| !setting.key.starts_with("retention."));
        retention = Retention::default();
    }
    (plan, retention)
}

fn setting(key: &'static str, value: &'static str) -> Setting<'static> {
    Setting { key: key.into(), value: value.into() }
}

fn clients(root: &Random, plan: &Plan, producers: u32, bounds: &Bounds) -> Vec<Client> {
    type Make = fn(u32, Random, &Plan) -> Client;
    let few: [Make; 6] = [
        Client::reader,
        Client::reader,
        Client::subscriber,
        Client::subscriber,
        Client::admin,
        Client::copier,
    ];
    let makes = std::iter::repeat_n(Client::producer as Make, producers as usize).chain(few);
    let numbered = (0..).zip(makes);
    let make = |(number, make): (u32, Make)| {
        make(number, root.numbered_stream("client", u64::from(number)), plan)
    };
    let mut clients: Vec<Client> = numbered.map(make).collect();
    let (first, readers) = (plan.grown as usize, producers as usize + 2);
    if !bounds.has("second_producers") {
        clients[first..producers as usize].iter_mut().for_each(|client| client.pause(u64::MAX));
    }
    if !bounds.has("subscribers") {
        clients[readers..readers + 2].iter_mut().for_each(|client| client.pause(u64::MAX));
    }
    clients
}

/// A node of one to three cores.
fn node(create: bool, random: &mut Random, purses: &[Purse]) -> Vec<Node<Purse>> {
    let identity = NodeIdentity { cluster: ClusterId::new(77), node: NodeId::new(1) };
    let limits = Limits {
        tail_cache_bytes: 64 << 10,
        catalog_segment_bytes: 64 << 10,
        push_bytes_core_max: 20_000,
        scrub_rate: [0, 16 << 20, 1 << 30][random.below(3) as usize],
        ..Limits::default()
    };
    let cores = 1 + random.below(CORES_MAX) as u16;
    let further = (1..cores).map(|core| Post::Further { core, cores });
    let posts = std::iter::once(Post::First { create, cores }).chain(further);
    let own = posts.zip(purses);
    own.map(|(post, purse)| Node::new(identity, limits, post, purse.clone())).collect()
}

impl World {
    fn new(seed: u64, bounds: &Bounds) -> Self {
        let root = Random::new(seed);
        let mut setup = root.stream("setup");
        let (plan, retention) = plan(&mut setup, bounds);
        let clients = clients(&root, &plan, plan.grown + setup.below(3) as u32, bounds);
        let options = disk_options(&mut setup, bounds);
        let says_no = options.faults.kinds.keys().any(|kind| *kind != FaultKind::SlowPeriod);
        let disk = Disk::new(&root.stream("disk"), options);
        let mut random = root.stream("world");
        let little = setup.chance(LITTLE_PER_MILLION) && bounds.has("little_memory");
        let budget = if little { LITTLE_BYTES } else { usize::MAX };
        let purses = purses(budget);
        let cores = node(true, &mut random, &purses);
        let mut world = Self {
            random,
            disk,
            budget,
            purses,
            cores,
            owners: BTreeMap::new(),
            life: 0,
            founded: false,
            now_ns: 0,
            plan,
            copier: clients.len() - 1,
            clients,
            sessions: BTreeMap::new(),
            next_session: 0,
            network: BTreeMap::new(),
            link_ns: BTreeMap::new(),
            deliveries: 0,
            oracle: Oracle::new(retention),
            shelf: Shelf::default(),
            restarts: 0,
            faults: BTreeMap::new(),
            faults_on: true,
            removals: BTreeSet::new(),
            slander: None,
            stopped: BTreeMap::new(),
            swept: false,
            says_no,
            jumps: setup.chance(400_000) && bounds.has("clock"),
            decays: setup.chance(300_000) && bounds.has("decay"),
            next_crash_ns: 0,
            peril: Peril::new(root.stream("peril"), bounds),
            bounds: bounds.clone(),
            older: BTreeMap::new(),
            refused: None,
            fingerprint: Fingerprint::default(),
        };
        world.plan_crash();
        world
    }

    fn plan_crash(&mut self) {
        self.next_crash_ns = self.now_ns + 100_000 + self.random.below(self.peril.life_ns_max());
        if self.faults_on && self.jumps && self.random.chance(300_000) {
            self.jump();
        }
        if self.faults_on && self.random.chance(50_000) && self.bounds.has("pauses") {
            self.pause_all();
        }
    }

    /// The wall clock jumps, but no producer becomes so old that it is forgotten.
    fn jump(&mut self) {
        let skew_ms = match self.random.below(10) {
            0..3 => 2_000 - self.random.below(4_000).cast_signed(),
            3..6 => 50 * MINUTE_MS - self.random.below(100).cast_signed() * MINUTE_MS,
            6..8 => self.random.below(24 * 60).cast_signed() * MINUTE_MS,
            8 => 5 * 24 * 60 * MINUTE_MS,
            _ => -2 * 60 * MINUTE_MS,
        };
        let ahead = skew_ms > self.oracle.wall.skew_ms();
        self.oracle.did(if ahead { Deed::ClockAhead } else { Deed::ClockBack });
        self.oracle.wall.jump(self.now_ns, skew_ms);
    }

    /// Nothing happens for longer than the node waits until it looks after its logs.
    fn pause_all(&mut self) {
        let until_ns = self.now_ns + 1_050_000_000 + self.random.below(500_000_000);
        self.clients.iter_mut().for_each(|client| client.pause(until_ns));
        self.next_crash_ns = self.next_crash_ns.max(until_ns) + 100_000;
        self.oracle.did(Deed::AllPaused);
    }

    fn now(&self) -> Now {
        Now {
            wall: Millis::new(self.oracle.wall.now_ms(self.now_ns)),
            monotonic: Duration::from_nanos(self.now_ns),
        }
    }

    /// Faults and crashes until enough was acknowledged.
    fn live(&mut self) -> Result<(), String> {
        let acked = self.bounds.acked;
        let lives = self.peril.lives_min() * acked / ACKED_MIN;
        while self.oracle.acked_batches < acked || self.restarts < lives {
            if self.now_ns > STUCK_NS {
                return Err(format!("stuck: {} acked", self.oracle.acked_batches));
            }
            self.step()?;
            if self.now_ns >= self.next_crash_ns {
                if self.peril.stops() { self.stop()? } else { self.crash() }
            }
        }
        Ok(())
    }

    fn replicas(&self) -> impl Iterator<Item = &Replica<Purse>> {
        self.cores.iter().flat_map(Node::replicas)
    }

    /// Ends the node's life and begins the next.
    fn crash(&mut self) {
        self.end_life();
        self.begin_life();
    }

    fn end_life(&mut self) {
        if self.purses.iter().any(|purse| purse.refused() > 0) {
            self.oracle.did(Deed::MemoryShort);
        }
        if !self.cores.iter().all(|core| core.status() == Status::Draining) {
            self.stopped.clear();
        }
        self.disk.crash(self.now_ns, self.peril.crash());
        if self.random.chance(IMAGE_ROTS_PER_MILLION) && self.bounds.has("rot") {
            self.rot_images();
        }
        if self.cores.iter().any(|core| core.stats().scrub_passes > 0) {
            self.oracle.did(Deed::Scrubbed);
        }
    }

    fn begin_life(&mut self) {
        self.life += 1;
        self.restarts += 1;
        self.purses = purses(self.budget);
        self.cores = node(!self.founded, &mut self.random, &self.purses);
        for at in 0..self.clients.len() {
            self.clients[at].on_disconnect(self.now_ns);
        }
        self.oracle.crashed();
        self.removals.clear();
        self.swept = false;
        self.owners.clear();
        self.sessions.clear();
        self.network.clear();
        self.link_ns.clear();
        self.plan_crash();
        self.doom();
        self.carry_out();
    }

    /// On to the next event.
    fn step(&mut self) -> Result<(), String> {
        let tick = self.cores.iter().filter_map(Node::next_tick).min();
        let tick = tick.map(|at| at.as_nanos() as u64);
        let network = self.network.first_key_value().map(|((at, _), _)| *at);
        let wake = self.clients.iter().map(Client::wake_ns).min();
        let next = [self.disk.next_event(), tick, network, wake].into_iter().flatten().min();
        let next = next.unwrap_or(u64::MAX).min(self.now_ns + STEP_NS);
        self.now_ns = self.now_ns.max(next);
        self.oracle.now_ns = self.now_ns;
        while let Some((directory, id, done)) = self.disk.poll_done(self.now_ns) {
            let done = catena_log::io::Done { id, result: done.result };
            let now = self.now();
            let core = self.owners[&directory];
            self.cores[core].on_done(directory_of(directory), done, now);
            self.carry_out();
        }
        let now = self.now();
        self.cores.iter_mut().for_each(|core| core.on_tick(now));
        self.deliver()?;
        self.wake_clients();
        self.carry_out();
        self.remove();
        self.watch()
    }

    /// Removes the files of deleted partitions once nothing is under way in them.
    fn remove(&mut self) {
        let idle: Vec<u64> =
            self.removals.iter().copied().filter(|uid| !self.disk.is_busy(*uid)).collect();
        for uid in idle {
            self.removals.remove(&uid);
            self.disk.remove_files(self.now_ns, uid);
        }
    }

    /// What a server does when it has the catalog: removes what deleted partitions left.
    fn sweep(&mut self) -> Result<(), String> {
        let (known, next) = (self.cores[0].known(), self.cores[0].next_uid());
        let there: Vec<u64> = self.disk.directories().filter(|uid| *uid != 0).collect();
        for uid in there.into_iter().filter(|uid| !known.contains(&PartitionUid::new(*uid))) {
            if uid >= next.get() && !self.oracle.decayed {
                return Err(format!("the catalog forgot that it gave {uid} away"));
            }
            if self.disk.live_files(uid).next().is_some() {
                self.oracle.did(Deed::LeftoversRemoved);
                self.disk.remove_files(self.now_ns, uid);
            }
        }
        Ok(())
    }

    /// Does what an operator does: restarts a node that says it must be.
    fn watch(&mut self) -> Result<(), String> {
        self.slander.take().map_or(Ok(()), Err)?;
        if self.cores[0].status() == Status::Serving {
            self.founded = true;
            if !std::mem::replace(&mut self.swept, true) {
                self.sweep()?;
            }
        }
        let failed = match self.cores[0].status() {
            Status::Failed(error) => Some(error),
            _ => self.replicas().find_map(|replica| match replica.phase() {
                Phase::Failed(error) if !self.is_refused(replica) => Some(error),
                _ => None,
            }),
        };
        match failed {
            Some(OpenError::Io(_)) if self.faults_on => {
                self.crash();
                return Ok(());
            }
            Some(_) if self.catalog_decayed() => return Ok(()),
            Some(error) => return Err(format!("a log cannot be opened: {error}")),
            None => {}
        }
        let poisoned = |r: &Replica<Purse>| r.log().is_some_and(|log| log.poisoned().is_some());
        let sick =
            matches!(self.cores[0].status(), Status::Poisoned(_)) || self.replicas().any(poisoned);
        if sick && self.random.chance(20_000) {
            self.crash();
        }
        let damaged = |r: &Replica<Purse>| r.log().is_some_and(|log| !log.damaged().is_empty());
        if let Some(replica) = self.replicas().find(|replica| damaged(replica))
            && !self.oracle.decayed
        {
            let ranges = replica.log().map(catena_log::Log::damaged);
            let report = replica.log().map(catena_log::Log::recovery);
            let partition = replica.identity().partition;
            return Err(format!("{partition:?} damaged: {ranges:?}, {report:?}"));
        }
        Ok(())
    }

    fn carry_out(&mut self) {
        for core in 0..self.cores.len() {
            let number = core as u16;
            while let Some((directory, id, op)) = self.cores[core].poll_op() {
                let (key, op) = (key_of(directory), on_the_disk(op));
                self.owners.insert(key, core);
                self.shelf.asked(key, &op);
                let file = op.file().filter(|_| matches!(op, Op::Write { .. }));
                self.endanger(key, matches!(file, Some(FileName::Manifest(_))));
                self.disk.submit(self.now_ns, key, self.life, id, op);
            }
            while let Some(send) = self.cores[core].poll_send() {
                let mut bytes = send.bytes;
                for share in &send.shares {
                    bytes.extend_from_slice(share);
                }
                let (session, pushed) = (send.session, send.pushed);
                self.fingerprint.bytes(&bytes);
                let response = Delivery::Response { session, bytes, pushed };
                self.transmit(Link::ToClient(session), response);
            }
            while let Some((to, parcel)) = self.cores[core].poll_parcel() {
                let from = number;
                self.transmit(Link::Cores(from, to), Delivery::Parcel { from, to, parcel });
            }
            while let Some(uid) = self.cores[core].poll_removal() {
                self.removals.insert(uid.get());
            }
            while let Some(notice) = self.cores[core].poll_notice() {
                self.heed(notice);
            }
        }
    }

    fn report(mut self) -> Report {
        for (kind, count) in self.disk.counts() {
            *self.faults.entry(kind).or_insert(0) += count;
        }
        let disk = [self.disk.fingerprint(), self.disk.final_image_hash()];
        self.fingerprint.numbers(disk);
        Report {
            acked: self.oracle.acked_batches,
            checked: self.oracle.checked,
            pushes: self.clients.iter().map(Client::pushes).sum(),
            restarts: self.restarts,
            damaged: self.oracle.reported,
            cut: self.oracle.cut,
            faults: self.faults,
            deeds: self.oracle.deeds,
            fingerprint: self.fingerprint.value(),
        }
    }
}

fn purses(budget: usize) -> Vec<Purse> {
    (0..CORES_MAX).map(|_| Purse::new(budget)).collect()
}

/// What the disk and the oracle hold takes no memory of the node.
fn on_the_disk(op: Op<Bytes>) -> Op<Bytes> {
    match op {
        Op::Write { file, position, bytes, durable } => {
            Op::Write { file, position, bytes: Bytes::copy_from_slice(&bytes), durable }
        }
        op => op,
    }
}

pub(crate) fn key_of(directory: Directory) -> u64 {
    match directory {
        Directory::Catalog => 0,
        Directory::Partition(uid) => uid.get(),
    }
}

pub(crate) fn directory_of(key: u64) -> Directory {
    match key {
        0 => Directory::Catalog,
        uid => Directory::Partition(PartitionUid::new(uid)),
    }
}
