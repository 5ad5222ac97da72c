//! Whole nodes in a world of their own: disks, clients, links, a clock, and what befalls them.

mod council;
mod ending;
mod machine;
pub(crate) mod network;
mod peril;
mod rot;
mod stop;
mod trouble;
mod wires;

use std::{collections::BTreeMap, time::Duration};

use catena_format::{Millis, PartitionUid};
use catena_log::{
    Now, OpenError,
    io::{FileName, Op, Purse},
};
use catena_node::{Directory, Status};
use catena_replication::{Phase, Replica};
use catena_wire::Setting;

use self::{
    council::Council,
    machine::{Machine, first_life, on_the_disk, profile},
    network::{Delivery, Link, Seat},
    peril::Peril,
    trouble::Trouble,
    wires::Wires,
};
use super::{
    client::{Client, Plan},
    deeds::{Counts, Deed},
    disk::{DeviceCache, Disk, DiskOptions, FaultKind, FaultOptions},
    fingerprint::Fingerprint,
    oracle::{Oracle, Retention},
    random::Random,
    shrink::{ACKED_MIN, Bounds},
};

/// A seed that is not through after so much of its own time is stuck.
const STUCK_NS: u64 = 120_000_000_000;
/// One of several nodes.
const STUCK_CLUSTER_NS: u64 = 600_000_000_000;
/// The longest step of the clock.
const STEP_NS: u64 = 10_000_000;
const MINUTE_MS: i64 = 60_000;
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
    /// The nodes, each with a disk of its own.
    machines: Vec<Machine>,
    /// What orders the catalog of several.
    council: Option<Council>,
    /// The links between them, and what befalls these.
    wires: Wires,
    trouble: Trouble,
    now_ns: u64,
    plan: Plan,
    clients: Vec<Client>,
    /// Which of them is the second connection of producers.
    copier: usize,
    /// Who sits at the other end of a session.
    sessions: BTreeMap<Seat, usize>,
    next_session: u64,
    network: BTreeMap<(u64, u64), Delivery>,
    link_ns: BTreeMap<Link, u64>,
    deliveries: u64,
    oracle: Oracle,
    restarts: u64,
    faults: Counts,
    faults_on: bool,
    /// Memory of each core.
    budget: usize,
    /// The disks answer errors.
    says_no: bool,
    /// The wall clock does.
    jumps: bool,
    /// At the end the disks spoil what they hold.
    decays: bool,
    /// One of several copies has rotted.
    rotten: bool,
    bounds: Bounds,
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
            .with(FaultKind::Misread, 3_000, 6)
            .with(FaultKind::NameError, 2_000, 3);
    }
    options.faults.kinds.retain(|kind, _| bounds.has(kind.name()));
    options
}

fn plan(random: &mut Random, bounds: &Bounds) -> (Plan, Retention) {
    let nodes = bounds.nodes;
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
    let replicas = match nodes {
        1 => 1,
        nodes => nodes.min(2 + u16::from(random.chance(700_000))) as u8,
    };
    let deletions = if nodes == 1 { deletions } else { 0 };
    let operates = nodes > 1 && bounds.has("operator") && random.chance(500_000);
    let mut plan = Plan { created, grown, config, trims, deletions, nodes, replicas, operates };
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

impl World {
    fn new(seed: u64, bounds: &Bounds) -> Self {
        let root = Random::new(seed);
        let mut setup = root.stream("setup");
        let (plan, retention) = plan(&mut setup, bounds);
        let clients = clients(&root, &plan, plan.grown + setup.below(3) as u32, bounds);
        let options = disk_options(&mut setup, bounds);
        let says_no = options.faults.kinds.keys().any(|kind| *kind != FaultKind::SlowPeriod);
        let mut random = root.stream("world");
        let little = setup.chance(LITTLE_PER_MILLION) && bounds.has("little_memory");
        let budget = if little { LITTLE_BYTES } else { usize::MAX };
        let alone = bounds.nodes == 1;
        let machine = |number: u16| {
            let stream = |name| root.numbered_stream(name, u64::from(number));
            let disk = Disk::new(&stream("disk"), options.clone());
            Machine::new(number, alone, disk, Peril::new(stream("peril"), bounds))
        };
        let mut machines: Vec<Machine> = (0..bounds.nodes).map(machine).collect();
        machines.iter_mut().for_each(|machine| machine.boot(budget, &mut random));
        let lives: Vec<u64> = (0..machines.len()).map(first_life).collect();
        let council =
            (!alone).then(|| Council::new(root.stream("council"), &lives, |at| profile(at, 1)));
        let mut world = Self {
            random,
            machines,
            council,
            wires: Wires::default(),
            trouble: Trouble::new(root.stream("trouble"), bounds),
            now_ns: 0,
            plan,
            copier: clients.len() - 1,
            clients,
            sessions: BTreeMap::new(),
            next_session: 0,
            network: BTreeMap::new(),
            link_ns: BTreeMap::new(),
            deliveries: 0,
            oracle: Oracle::new(retention, bounds.nodes),
            restarts: 0,
            faults: BTreeMap::new(),
            faults_on: true,
            budget,
            says_no,
            jumps: setup.chance(400_000) && bounds.has("clock"),
            decays: setup.chance(300_000) && bounds.has("decay") && alone,
            rotten: false,
            bounds: bounds.clone(),
            fingerprint: Fingerprint::default(),
        };
        world.each_machine(Self::plan_crash);
        world.each_machine(Self::attend);
        world
    }

    /// Has it done to one machine after the other.
    fn each_machine(&mut self, mut what: impl FnMut(&mut Self, usize)) {
        (0..self.machines.len()).for_each(|at| what(self, at));
    }

    fn plan_crash(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        let mut life_ns = self.random.below(machine.peril.life_ns_max());
        // What was to be acknowledged is: the rest is soon over.
        if self.council.is_some() && self.oracle.acked_batches >= self.bounds.acked {
            life_ns = life_ns.min(200_000_000);
        }
        machine.next_crash_ns = self.now_ns + 100_000 + life_ns;
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
        for machine in &mut self.machines {
            machine.next_crash_ns = machine.next_crash_ns.max(until_ns) + 100_000;
        }
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
        let stuck_ns = if self.council.is_some() { STUCK_CLUSTER_NS } else { STUCK_NS };
        let acked = self.bounds.acked;
        let lives = self.machines.iter().map(|machine| machine.peril.lives_min()).sum::<u64>();
        let lives = lives * acked / ACKED_MIN;
        while self.oracle.acked_batches < acked || self.restarts < lives {
            if self.now_ns > stuck_ns {
                return Err(format!("stuck: {} acked", self.oracle.acked_batches));
            }
            self.step()?;
            self.befall()?;
            for at in 0..self.machines.len() {
                if self.machines[at].is_down() {
                    self.rise(at);
                } else if self.now_ns >= self.machines[at].next_crash_ns {
                    if self.machines[at].peril.stops() { self.stop(at)? } else { self.crash(at) }
                }
            }
        }
        Ok(())
    }

    /// Ends a node's life and begins the next: one of several nodes takes its time.
    fn crash(&mut self, at: usize) {
        self.end_life(at);
        if self.council.is_some() && self.faults_on {
            self.machines[at].fall(self.now_ns, &mut self.random);
            self.disconnect(at);
        } else {
            self.begin_life(at);
        }
    }

    /// A node that is down begins to run when it is time.
    fn rise(&mut self, at: usize) {
        if self.now_ns >= self.machines[at].next_crash_ns {
            self.begin_life(at);
        }
    }

    /// The process of a node takes part in what consensus orders.
    fn attend(&mut self, at: usize) {
        let life = self.machines[at].life;
        if let Some(council) = &mut self.council {
            council.begin(at, life, self.now_ns);
        }
    }

    fn end_life(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        if machine.purses.iter().any(|purse| purse.refused() > 0) {
            self.oracle.did(Deed::MemoryShort);
        }
        if !machine.cores.iter().all(|core| core.status() == Status::Draining) {
            machine.stopped.clear();
            machine.known = None;
        }
        machine.disk.crash(self.now_ns, machine.peril.crash());
        if self.random.chance(IMAGE_ROTS_PER_MILLION) && self.bounds.has("rot") {
            let deed = machine.rot_images(&mut self.random);
            deed.into_iter().for_each(|deed| self.oracle.did(deed));
        }
        if machine.cores.iter().any(|core| core.stats().scrub_passes > 0) {
            self.oracle.did(Deed::Scrubbed);
        }
        if let Some(council) = &mut self.council {
            council.end(at, self.now_ns);
        }
        self.cut_loose(at);
    }

    fn begin_life(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        machine.life += 1;
        self.restarts += 1;
        machine.boot(self.budget, &mut self.random);
        self.attend(at);
        self.disconnect(at);
        self.oracle.crashed();
        self.plan_crash(at);
        self.machines[at].peril.doom(self.now_ns);
        self.carry_out();
    }

    /// On to the next event.
    fn step(&mut self) -> Result<(), String> {
        let machines = self.machines.iter().filter_map(Machine::next_ns).min();
        let network = self.network.first_key_value().map(|((at, _), _)| *at);
        let wake = self.clients.iter().map(Client::wake_ns).min();
        let frozen = |node: usize| self.machines[node].frozen_until_ns;
        let council = self.council.as_ref().and_then(|council| council.next_ns(frozen));
        let next = [machines, network, wake, council].into_iter().flatten().min();
        let next = next.unwrap_or(u64::MAX).min(self.now_ns + STEP_NS);
        self.now_ns = self.now_ns.max(next);
        self.oracle.now_ns = self.now_ns;
        let now = self.now();
        for at in 0..self.machines.len() {
            while let Some(done) = self.machines[at].poll_done(self.now_ns) {
                self.machines[at].on_done(done, now);
                self.carry_out();
            }
        }
        let now_ns = self.now_ns;
        for machine in self.machines.iter_mut().filter(|machine| !machine.is_frozen(now_ns)) {
            machine.cores.iter_mut().for_each(|core| core.on_tick(now));
        }
        self.listen();
        self.deliver()?;
        self.wake_clients();
        self.carry_out();
        self.machines.iter_mut().for_each(|machine| machine.remove(self.now_ns));
        (0..self.machines.len()).try_for_each(|at| self.watch(at))
    }

    /// The nodes hear what consensus has ordered.
    fn listen(&mut self) {
        let now = self.now();
        let Some(council) = &mut self.council else { return };
        council.decide(self.now_ns);
        (0..council.take_evicted()).for_each(|_| self.oracle.did(Deed::Evicted));
        if council.was_disturbed() {
            for topic in council.catalog().topics() {
                for partition in &topic.partitions {
                    let part = (topic.id, partition.index.get());
                    self.oracle.disturbed(part, partition.configuration.epoch);
                }
            }
        }
        for (at, machine) in self.machines.iter_mut().enumerate() {
            if machine.is_down() || machine.is_frozen(self.now_ns) {
                continue;
            }
            while let Some(said) = council.poll(at, self.now_ns) {
                machine.cores[0].on_ordered(said, now);
            }
        }
    }

    /// What a server does when it has the catalog: removes what deleted partitions left.
    fn sweep(&mut self, at: usize) -> Result<(), String> {
        let alone = self.council.is_none();
        let Machine { disk, cores, stopped, .. } = &mut self.machines[at];
        let (known, next) = (cores[0].known(), cores[0].next_uid());
        let there: Vec<u64> = disk.directories().filter(|uid| *uid != 0).collect();
        for uid in there.into_iter().filter(|uid| !known.contains(&PartitionUid::new(*uid))) {
            if uid >= next.get() && !self.oracle.decayed {
                return Err(format!("the catalog forgot that it gave {uid} away"));
            }
            stopped.remove(&PartitionUid::new(uid));
            if disk.live_files(uid).next().is_some() {
                self.oracle.did(Deed::LeftoversRemoved);
                // A partition of a deleted topic never comes back, a moved copy may.
                match alone {
                    true => disk.remove_files(self.now_ns, uid),
                    false => disk.remove_files_durably(self.now_ns, uid),
                }
            }
        }
        Ok(())
    }

    /// Does what an operator does: restarts a node that says it must be.
    fn watch(&mut self, at: usize) -> Result<(), String> {
        let machine = &mut self.machines[at];
        machine.slander.take().map_or(Ok(()), Err)?;
        let Some(status) = machine.status() else { return Ok(()) };
        if status == Status::Serving {
            machine.founded = true;
            if !std::mem::replace(&mut machine.swept, true) {
                machine.serves_after_stop()?;
                self.sweep(at)?;
            }
        }
        let machine = &self.machines[at];
        let failed = match status {
            Status::Failed(error) => Some(error),
            Status::Outdated => return Err(format!("node {at} is told that it is not itself")),
            _ => machine.replicas().find_map(|replica| match replica.phase() {
                Phase::Failed(error) if !machine.is_refused(replica) => Some(error),
                _ => None,
            }),
        };
        match failed {
            Some(OpenError::Io(_)) if self.faults_on => {
                self.crash(at);
                return Ok(());
            }
            Some(_) if self.catalog_decayed(at) => return Ok(()),
            Some(error) => return Err(format!("a log cannot be opened: {error}")),
            None => {}
        }
        let poisoned = |r: &Replica<Purse>| r.log().is_some_and(|log| log.poisoned().is_some());
        let sick = matches!(status, Status::Poisoned(_)) || machine.replicas().any(poisoned);
        if sick && self.random.chance(20_000) {
            self.crash(at);
        }
        let damaged = |r: &Replica<Purse>| r.log().is_some_and(|log| !log.damaged().is_empty());
        if let Some(replica) = self.machines[at].replicas().find(|replica| damaged(replica))
            && !self.oracle.decayed
            && !self.rotten
        {
            let ranges = replica.log().map(catena_log::Log::damaged);
            let report = replica.log().map(catena_log::Log::recovery);
            let partition = replica.identity().partition;
            return Err(format!("{partition:?} damaged: {ranges:?}, {report:?}"));
        }
        Ok(())
    }

    /// Takes what the nodes ask for and tell.
    fn carry_out(&mut self) {
        for at in 0..self.machines.len() {
            for core in 0..self.machines[at].cores.len() {
                self.carry_out_of(at, core);
            }
        }
    }

    fn carry_out_of(&mut self, at: usize, core: usize) {
        let number = core as u16;
        while let Some((directory, id, op)) = self.machines[at].cores[core].poll_op() {
            let (key, op) = (key_of(directory), on_the_disk(op));
            let machine = &mut self.machines[at];
            machine.owners.insert(key, core);
            machine.shelf.asked(key, &op);
            let file = op.file().filter(|_| matches!(op, Op::Write { .. }));
            self.endanger(at, key, matches!(file, Some(FileName::Manifest(_))));
            let machine = &mut self.machines[at];
            machine.disk.submit(self.now_ns, key, machine.life, id, op);
        }
        while let Some(send) = self.machines[at].cores[core].poll_send() {
            let mut bytes = send.bytes;
            for share in &send.shares {
                bytes.extend_from_slice(share);
            }
            self.fingerprint.bytes(&bytes);
            let (seat, pushed) = (Seat { node: at, session: send.session }, send.pushed);
            self.transmit(Link::ToClient(seat), Delivery::Response { seat, bytes, pushed });
        }
        while let Some((to, parcel)) = self.machines[at].cores[core].poll_parcel() {
            let link = Link::Cores { node: at, from: number, to };
            self.transmit(link, Delivery::Parcel { node: at, from: number, to, parcel });
        }
        while let Some(dial) = self.machines[at].cores[core].poll_dial() {
            self.dial(at, number, dial);
        }
        while let Some(send) = self.machines[at].cores[core].poll_link_send() {
            let mut bytes = send.bytes;
            send.shares.iter().for_each(|share| bytes.extend_from_slice(share));
            self.send_over((at, number, send.link), bytes, send.last);
        }
        while let Some((number, entry)) = self.machines[at].cores[core].poll_proposal() {
            self.fingerprint.bytes(&entry);
            if let Some(council) = &mut self.council {
                council.propose(at, number, entry, self.now_ns);
            }
        }
        while let Some(uid) = self.machines[at].cores[core].poll_removal() {
            self.machines[at].removals.insert(uid.get());
        }
        while let Some(notice) = self.machines[at].cores[core].poll_notice() {
            let deed = self.machines[at].heed(notice);
            deed.into_iter().for_each(|deed| self.oracle.did(deed));
        }
    }

    fn report(mut self) -> Report {
        for Machine { disk, .. } in &self.machines {
            for (kind, count) in disk.counts() {
                *self.faults.entry(kind).or_insert(0) += count;
            }
            self.fingerprint.numbers([disk.fingerprint(), disk.final_image_hash()]);
        }
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
