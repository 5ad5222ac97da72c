//! A whole node in a world of its own: its disk, its clients, its clock, and what befalls it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use catena_format::{ClusterId, Millis, NodeId};
use catena_log::{Now, OpenError, io::Heap};
use catena_node::{Directory, Limits, Node, NodeIdentity, Parcel, Post, Pushed, SessionId, Status};
use catena_replication::{Phase, Replica};
use catena_wire::{FRAME_HEADER_BYTES, FrameHeader, FrameLimits, Setting};

use super::{
    client::{Client, Partitions},
    disk::{Crash, DeviceCache, Disk, DiskOptions, FaultKind, FaultOptions, FileKinds},
    fingerprint::Fingerprint,
    oracle::Oracle,
    random::Random,
};

/// What a seed must reach before it may end.
const ACKED_MIN: u64 = 200;
/// Batches acknowledged while the disk decays.
const DECAY_ACKED: u64 = 60;
/// A seed that is not through after so much of its own time is stuck.
const STUCK_NS: u64 = 120_000_000_000;
/// The longest step of the clock.
const STEP_NS: u64 = 10_000_000;

/// What a seed came to.
#[derive(Clone, PartialEq, Eq, Debug)]
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
    pub faults: BTreeMap<&'static str, u64>,
    /// Of every operation, every message and the last image of the disk.
    pub fingerprint: u64,
}

enum Delivery {
    Request { session: SessionId, bytes: Vec<u8> },
    Response { session: SessionId, bytes: Vec<u8>, pushed: Option<Pushed> },
    Parcel { from: u16, to: u16, parcel: Parcel },
}

/// A way on which messages keep their order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Link {
    ToNode(SessionId),
    ToClient(SessionId),
    Cores(u16, u16),
}

struct World {
    random: Random,
    disk: Disk,
    /// The cores of the node; how many, each life decides anew.
    cores: Vec<Node<Heap>>,
    /// Which core works on a directory.
    owners: BTreeMap<u64, usize>,
    life: u64,
    founded: bool,
    now_ns: u64,
    clients: Vec<Client>,
    sessions: BTreeMap<SessionId, usize>,
    next_session: u64,
    network: BTreeMap<(u64, u64), Delivery>,
    link_ns: BTreeMap<Link, u64>,
    deliveries: u64,
    oracle: Oracle,
    restarts: u64,
    faults: BTreeMap<&'static str, u64>,
    faults_on: bool,
    /// At the end the disk spoils what it holds.
    decays: bool,
    next_crash_ns: u64,
    fingerprint: Fingerprint,
}

/// Runs one seed.
///
/// # Errors
/// Says what was broken.
pub fn run(seed: u64) -> Result<Report, String> {
    let mut world = World::new(seed);
    world.live()?;
    world.heal()?;
    Ok(world.report())
}

fn disk_options(random: &mut Random) -> DiskOptions {
    let cache = if random.chance(500_000) { DeviceCache::Fua } else { DeviceCache::Flush };
    let mut options = DiskOptions::random(cache);
    // Half of the seeds have a disk that only dies; the others one that also says no.
    options.faults = FaultOptions::none().with(FaultKind::SlowPeriod, 200, 3);
    if random.chance(500_000) {
        options.faults = options
            .faults
            .with(FaultKind::WriteError, 500, 3)
            .with(FaultKind::ShortWrite, 300, 2)
            .with(FaultKind::SyncError, 2_000, 2)
            .with(FaultKind::DirectorySyncError, 5_000, 2)
            .with(FaultKind::NoSpace, 1_000, 4)
            .with(FaultKind::NoDescriptors, 3_000, 3)
            .with(FaultKind::ReadError, 2_000, 3);
    }
    options
}

fn topic_config(random: &mut Random) -> Vec<Setting<'static>> {
    // The smallest, and one that is lengthened at first and then ends where its zeros do.
    let bytes = if random.chance(500_000) { "65536" } else { "262144" };
    let mut config = vec![Setting { key: "segment.bytes".into(), value: bytes.into() }];
    if random.chance(250_000) {
        config.push(Setting { key: "retention.bytes".into(), value: "300000".into() });
    }
    if random.chance(250_000) {
        config.push(Setting { key: "segment.ms".into(), value: "1000".into() });
    }
    config
}

/// A node of one to three cores.
fn node(create: bool, random: &mut Random) -> Vec<Node<Heap>> {
    let identity = NodeIdentity { cluster: ClusterId::new(77), node: NodeId::new(1) };
    let limits =
        Limits { tail_cache_bytes: 64 << 10, catalog_segment_bytes: 64 << 10, ..Limits::default() };
    let cores = 1 + random.below(3) as u16;
    let further = (1..cores).map(|core| Post::Further { core, cores });
    let posts = std::iter::once(Post::First { create, cores }).chain(further);
    posts.map(|post| Node::new(identity, limits, post, Heap)).collect()
}

impl World {
    fn new(seed: u64) -> Self {
        let root = Random::new(seed);
        let mut setup = root.stream("setup");
        let created = 1 + setup.below(3) as u32;
        let partitions = Partitions { created, grown: created + setup.below(3) as u32 };
        let config = topic_config(&mut setup);
        let trims = setup.chance(300_000);
        let mut clients = Vec::new();
        for number in 0..partitions.grown + setup.below(3) as u32 {
            let stream = root.numbered_stream("client", u64::from(number));
            clients.push(Client::producer(number, stream, partitions, config.clone()));
        }
        for _ in 0..2 {
            let number = clients.len() as u32;
            let stream = root.numbered_stream("client", u64::from(number));
            clients.push(Client::reader(number, stream, partitions, trims));
        }
        for _ in 0..2 {
            let number = clients.len() as u32;
            let stream = root.numbered_stream("client", u64::from(number));
            clients.push(Client::subscriber(number, stream, partitions));
        }
        let number = clients.len() as u32;
        let stream = root.numbered_stream("client", u64::from(number));
        clients.push(Client::admin(number, stream, partitions));
        let disk = Disk::new(&root.stream("disk"), disk_options(&mut setup));
        let mut random = root.stream("world");
        let cores = node(true, &mut random);
        let mut world = Self {
            random,
            disk,
            cores,
            owners: BTreeMap::new(),
            life: 0,
            founded: false,
            now_ns: 0,
            clients,
            sessions: BTreeMap::new(),
            next_session: 0,
            network: BTreeMap::new(),
            link_ns: BTreeMap::new(),
            deliveries: 0,
            oracle: Oracle::default(),
            restarts: 0,
            faults: BTreeMap::new(),
            faults_on: true,
            decays: setup.chance(300_000),
            next_crash_ns: 0,
            fingerprint: Fingerprint::default(),
        };
        world.plan_crash();
        world
    }

    fn plan_crash(&mut self) {
        // Short lives meet half-done starts; a long one sees what is done once a second.
        let most = match self.random.below(100) {
            0..30 => 3_000_000,
            30..99 => 150_000_000,
            _ => 2_500_000_000,
        };
        self.next_crash_ns = self.now_ns + 100_000 + self.random.below(most);
    }

    fn now(&self) -> Now {
        let milliseconds = i64::try_from(self.now_ns / 1_000_000).unwrap_or(i64::MAX);
        Now {
            wall: Millis::new(1_000_000 + milliseconds),
            monotonic: Duration::from_nanos(self.now_ns),
        }
    }

    /// Faults and crashes until enough was acknowledged.
    fn live(&mut self) -> Result<(), String> {
        while self.oracle.acked_batches < ACKED_MIN || self.restarts < 2 {
            if self.now_ns > STUCK_NS {
                return Err(format!("stuck: {} acked", self.oracle.acked_batches));
            }
            self.step()?;
            if self.now_ns >= self.next_crash_ns {
                self.crash();
            }
        }
        Ok(())
    }

    /// No more faults: everything unacknowledged gets through, and everything is read back.
    fn heal(&mut self) -> Result<(), String> {
        self.faults_on = false;
        self.disk.set_faults(FaultOptions::none());
        self.crash();
        self.clients.iter_mut().for_each(|client| client.finishing = true);
        let deadline = self.now_ns + STUCK_NS;
        while !self.clients.iter().all(Client::is_done) {
            self.step()?;
            if self.now_ns > deadline {
                return Err("stuck: what was sent is not acknowledged after the faults".into());
            }
        }
        // Recovery of what rots before it, with producers going on, is another matter: offsets in
        // doubt are cut, and their producers hear of a gap.
        if self.decays && self.wait_open()?.is_some() {
            self.decay()?;
        }
        // A wounded file in which nothing can be read is removed by the next life.
        let wounds = self.wounds();
        // One more life: what is read is what the disk holds.
        self.crash();
        self.check(wounds)
    }

    /// The disk loses, misplaces and spoils what it has acknowledged. From now on a record is read
    /// as it was, or said to be damaged.
    fn decay(&mut self) -> Result<(), String> {
        self.oracle.decayed = true;
        let mut faults = FaultOptions::none()
            .with(FaultKind::BitFlip, 20_000, 3)
            .with(FaultKind::LostWrite, 20_000, 2)
            .with(FaultKind::MisdirectedWrite, 20_000, 2);
        faults.silent_in = FileKinds::SEGMENTS;
        self.disk.set_faults(faults);
        self.clients.iter_mut().for_each(|client| client.finishing = false);
        let (acked, deadline) = (self.oracle.acked_batches + DECAY_ACKED, self.now_ns + STUCK_NS);
        loop {
            let enough = self.oracle.acked_batches >= acked;
            self.clients.iter_mut().for_each(|client| client.finishing = enough);
            if enough && self.clients.iter().all(Client::is_done) {
                break;
            }
            self.step()?;
            if self.now_ns > deadline {
                return Err("stuck: nothing is acknowledged while the disk decays".into());
            }
        }
        self.disk.set_faults(FaultOptions::none());
        Ok(())
    }

    /// The directories with a file that does not hold what was written.
    fn wounds(&self) -> BTreeSet<u64> {
        self.disk.damages().into_iter().map(|wound| wound.directory).collect()
    }

    fn check(&mut self, mut wounds: BTreeSet<u64>) -> Result<(), String> {
        let Some(ends) = self.wait_open()? else { return Ok(()) };
        wounds.append(&mut self.wounds());
        let wounded = |r: &&Replica<Heap>| wounds.contains(&r.identity().uid.get());
        let wounded: BTreeSet<u32> =
            self.replicas().filter(wounded).map(|r| r.identity().partition.get()).collect();
        let there = ends.len() as u32;
        let partitions = Partitions { created: there, grown: there };
        let first = self.clients.len();
        for partition in ends.keys() {
            let number = self.clients.len() as u32;
            let stream = self.random.numbered_stream("checker", u64::from(number));
            self.clients.push(Client::checker(number, stream, *partition, partitions));
        }
        let deadline = self.now_ns + STUCK_NS;
        loop {
            self.step()?;
            let through = self.clients[first..].iter().filter_map(Client::checked);
            if through.clone().all(|(partition, offset, _)| offset >= ends[&partition]) {
                for (partition, _, read) in through {
                    let cut = wounded.contains(&partition).then_some(ends[&partition]);
                    self.oracle.settle(partition, cut, read)?;
                }
                return Ok(());
            }
            if self.now_ns > deadline {
                return Err("stuck: the logs cannot be read to their ends".into());
            }
        }
    }

    fn replicas(&self) -> impl Iterator<Item = &Replica<Heap>> {
        self.cores.iter().flat_map(Node::replicas)
    }

    /// Where the partitions end, once all are open; `None`: the catalog is damaged and says so.
    fn wait_open(&mut self) -> Result<Option<BTreeMap<u32, u64>>, String> {
        let deadline = self.now_ns + STUCK_NS;
        loop {
            self.step()?;
            if self.catalog_decayed() {
                *self.faults.entry("catalog_damaged").or_insert(0) += 1;
                return Ok(None);
            }
            let open = self.replicas().all(|replica| replica.phase() == Phase::Open);
            if open && self.cores.iter().all(|core| core.status() == Status::Serving) {
                let end =
                    |r: &Replica<Heap>| (r.identity().partition.get(), r.high_watermark().get());
                return Ok(Some(self.replicas().map(end).collect()));
            }
            if self.now_ns > deadline {
                return Err("stuck: partitions do not open".into());
            }
        }
    }

    /// Ends the node's life and begins the next.
    fn crash(&mut self) {
        let kind = if self.random.chance(500_000) { Crash::PowerLoss } else { Crash::ProcessKill };
        *self.faults.entry(crash_name(kind)).or_insert(0) += 1;
        self.disk.crash(self.now_ns, kind);
        self.life += 1;
        self.restarts += 1;
        self.cores = node(!self.founded, &mut self.random);
        for at in 0..self.clients.len() {
            self.clients[at].on_disconnect(self.now_ns);
        }
        self.owners.clear();
        self.sessions.clear();
        self.network.clear();
        self.link_ns.clear();
        self.plan_crash();
        self.carry_out();
    }

    /// On to the next event.
    fn step(&mut self) -> Result<(), String> {
        let tick = self.cores.iter().filter_map(Node::next_tick).min();
        let tick = tick.map(|at| at.as_nanos() as u64);
        let network = self.network.first_key_value().map(|((at, _), _)| *at);
        let wake = self.clients.iter().map(|client| client.wake_ns).min();
        let next = [self.disk.next_event(), tick, network, wake].into_iter().flatten().min();
        let next = next.unwrap_or(u64::MAX).min(self.now_ns + STEP_NS);
        self.now_ns = self.now_ns.max(next);
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
        self.watch()
    }

    fn catalog_decayed(&self) -> bool {
        let status = self.cores[0].status();
        self.oracle.decayed && matches!(status, Status::Failed(OpenError::Damaged(_)))
    }

    /// Does what an operator does: restarts a node that says it must be.
    fn watch(&mut self) -> Result<(), String> {
        if self.cores[0].status() == Status::Serving {
            self.founded = true;
        }
        let failed = match self.cores[0].status() {
            Status::Failed(error) => Some(error),
            _ => self.replicas().find_map(|replica| match replica.phase() {
                Phase::Failed(error) => Some(error),
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
        let poisoned = |r: &Replica<Heap>| r.log().is_some_and(|log| log.poisoned().is_some());
        let sick =
            matches!(self.cores[0].status(), Status::Poisoned(_)) || self.replicas().any(poisoned);
        if sick && self.random.chance(20_000) {
            self.crash();
        }
        let damaged = |r: &Replica<Heap>| r.log().is_some_and(|log| !log.damaged().is_empty());
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
                let key = key_of(directory);
                self.owners.insert(key, core);
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
            while self.cores[core].poll_notice().is_some() {}
        }
    }

    /// What goes over a link arrives in its order.
    fn transmit(&mut self, link: Link, delivery: Delivery) {
        let at = self.now_ns + 5_000 + self.random.below(60_000);
        let last = self.link_ns.entry(link).or_insert(0);
        *last = at.max(*last);
        let at = *last;
        self.deliveries += 1;
        self.network.insert((at, self.deliveries), delivery);
    }

    fn deliver(&mut self) -> Result<(), String> {
        while let Some(entry) = self.network.first_entry() {
            if entry.key().0 > self.now_ns {
                return Ok(());
            }
            match entry.remove() {
                Delivery::Request { session, bytes } => {
                    let (header, head, payload) = parts(&bytes, FrameLimits::REQUEST)?;
                    let now = self.now();
                    let core = &mut self.cores[usize::from(session.core)];
                    core.on_message(session, &header, head, payload, now);
                }
                Delivery::Parcel { from, to, parcel } => {
                    let now = self.now();
                    self.cores[usize::from(to)].on_parcel(from, parcel, now);
                }
                Delivery::Response { session, bytes, pushed } => {
                    if let Some(pushed) = pushed {
                        self.cores[usize::from(session.core)].on_pushed(pushed);
                    }
                    let Some(at) = self.sessions.get(&session).copied() else { continue };
                    let (header, head, payload) = parts(&bytes, FrameLimits::RESPONSE)?;
                    let client = &mut self.clients[at];
                    client.on_message(&header, head, payload, self.now_ns, &mut self.oracle)?;
                    self.drop_session_of(at);
                    self.post(at);
                }
            }
        }
        Ok(())
    }

    fn wake_clients(&mut self) {
        for at in 0..self.clients.len() {
            if self.clients[at].wake_ns > self.now_ns {
                continue;
            }
            self.clients[at].on_wake(self.now_ns, &self.oracle);
            self.drop_session_of(at);
            let ready = self.clients[at].hung_up && self.clients[at].wake_ns > self.now_ns;
            if ready && self.cores[0].status() == Status::Serving {
                self.connect(at);
            }
            self.post(at);
        }
    }

    fn connect(&mut self, at: usize) {
        let core = self.random.below(self.cores.len() as u64) as u16;
        let session = SessionId { core, number: self.next_session };
        self.next_session += 1;
        self.sessions.insert(session, at);
        self.cores[usize::from(core)].on_connect(session);
        self.clients[at].on_connect();
    }

    /// The node hears when a client has hung up.
    fn drop_session_of(&mut self, at: usize) {
        if !self.clients[at].hung_up {
            return;
        }
        let of_client = self.sessions.iter().find(|(_, client)| **client == at);
        if let Some(session) = of_client.map(|(session, _)| *session) {
            self.sessions.remove(&session);
            self.cores[usize::from(session.core)].on_disconnect(session);
        }
    }

    fn post(&mut self, at: usize) {
        let of_client = self.sessions.iter().find(|(_, client)| **client == at);
        let Some(session) = of_client.map(|(session, _)| *session) else { return };
        while let Some(bytes) = self.clients[at].poll_message() {
            self.fingerprint.bytes(&bytes);
            self.transmit(Link::ToNode(session), Delivery::Request { session, bytes });
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
            fingerprint: self.fingerprint.value(),
        }
    }
}

fn crash_name(kind: Crash) -> &'static str {
    match kind {
        Crash::PowerLoss => "power_loss",
        Crash::ProcessKill => "process_kill",
    }
}

fn key_of(directory: Directory) -> u64 {
    match directory {
        Directory::Catalog => 0,
        Directory::Partition(uid) => uid.get(),
    }
}

fn directory_of(key: u64) -> Directory {
    match key {
        0 => Directory::Catalog,
        uid => Directory::Partition(catena_format::PartitionUid::new(uid)),
    }
}

fn parts(bytes: &[u8], limits: FrameLimits) -> Result<(FrameHeader, &[u8], &[u8]), String> {
    let (header, rest) =
        bytes.split_first_chunk::<FRAME_HEADER_BYTES>().ok_or("a message is short")?;
    let header = FrameHeader::parse(header, limits).map_err(|e| e.to_string())?;
    let (head, payload) = rest.split_at(header.head_bytes as usize);
    Ok((header, head, payload))
}
