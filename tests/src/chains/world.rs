//! A chain in a world of its own.

mod ending;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use catena_format::{
    BatchHeader, ClusterId, Millis, NodeId, Offset, PartitionIndex, PartitionUid, TopicId,
};
use catena_log::{
    Batches, LogConfig, LogIdentity, Now, OpenError, ReadAnswer, ReadId, ReadOutcome, io::Heap,
};
use catena_replication::{
    Durability, Event, ProduceError, ProduceRequest, Receipt, Refusal, Replica, ReplicaConfig,
    Reply, Ticket,
    chain::{MemberId, Message, Role},
    validate::BatchLimits,
};

use super::{
    books::{Books, Name, Placed},
    control::{Control, Seen, WIPED, index},
    deeds::{Deed, Deeds},
    network::{Arrival, Network},
    producer::Producer,
};
use crate::sim::{
    disk::{Crash, DeviceCache, Disk, DiskOptions, FaultKind, FaultOptions},
    fingerprint::Fingerprint,
    random::Random,
};

/// A chain that is not through after so much of its own time is stuck.
const STUCK_NS: u64 = 5_000_000_000;
/// The longest step of the clock.
const STEP_NS: u64 = 1_000_000;
/// Who holds the chain up for so long is told.
const EVICT_AFTER: Duration = Duration::from_millis(40);
/// What may be read at a time for who joins.
const ALLOWED_BYTES: u64 = 64 << 10;
const BATCHES: BatchLimits =
    BatchLimits { batch_bytes_max: 1 << 20, timestamp_ahead_ms_max: i64::MAX };
/// Batches that are acknowledged before all is healed.
const ACKED: u64 = 300;
/// What a replica asks for and tells at once, at most.
const ROUNDS_MAX: usize = 100_000;
/// The only directory of each disk.
const DIRECTORY: u64 = 1;

/// What a seed came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Batches acknowledged.
    pub acked: u64,
    /// Batches compared.
    pub checked: u64,
    /// Configurations of the chain.
    pub epochs: u64,
    /// What befell it.
    pub deeds: Deeds,
    /// Of the disks and the deeds.
    pub fingerprint: u64,
}

/// A node: one process after the other, on one disk.
struct Node {
    disk: Disk,
    number: NodeId,
    /// Who it is in this life, once it was told.
    id: Option<MemberId>,
    life: u64,
    /// Its process does not run until then.
    down_until_ns: Option<u64>,
    replica: Option<Replica<Heap>>,
    /// A log was made on its disk.
    created: bool,
    /// The configuration that it knows, by its place in the list.
    learned: Option<usize>,
    learns_ns: u64,
    shown: Offset,
    /// Where its log ended when its process died.
    ended: Offset,
    reads: BTreeSet<ReadId>,
    sick: bool,
}

/// A produce that was not answered at once.
struct Asked {
    name: Name,
    /// It was the first of what its producer has on its way.
    first: bool,
    node: usize,
    life: u64,
}

pub(super) struct World {
    random: Random,
    now_ns: u64,
    nodes: Vec<Node>,
    control: Control,
    network: Network,
    producers: Vec<Producer>,
    asked: BTreeMap<Ticket, Asked>,
    tickets: u64,
    /// Who asked where the log ends, and behind what was acknowledged by then.
    confirms: BTreeMap<Ticket, Offset>,
    books: Books,
    deeds: Deeds,
    calamity_ns: u64,
    mend_ns: u64,
    decide_ns: u64,
    healing: bool,
    config: ReplicaConfig,
    trims: bool,
    told: Told,
}

/// What happens, printed.
pub(super) struct Told {
    pub(super) on: bool,
}

impl Told {
    fn say(&self, now_ns: u64, at: usize, what: impl FnOnce() -> String) {
        if self.on {
            println!("{} us, node {at}: {}", now_ns / 1000, what());
        }
    }
}

/// The first words of something long.
fn short(what: &impl std::fmt::Debug) -> String {
    format!("{what:?}").chars().take(150).collect()
}

/// Where segments are dropped, no disk is full: they would be given up without what was derived
/// from them, which is told, and lost.
fn options(random: &mut Random, drops: bool) -> DiskOptions {
    let cache = if random.chance(500_000) { DeviceCache::Fua } else { DeviceCache::Flush };
    let mut options = DiskOptions::random(cache);
    options.faults = FaultOptions::none().with(FaultKind::SlowPeriod, 200, 3);
    if random.chance(300_000) {
        options.faults = options
            .faults
            .with(FaultKind::WriteError, 500, 2)
            .with(FaultKind::SyncError, 10_000, 1)
            .with(FaultKind::NoDescriptors, 3_000, 3)
            .with(FaultKind::ReadError, 2_000, 3)
            .with(FaultKind::Misread, 3_000, 4);
        if !drops {
            options.faults = options.faults.with(FaultKind::NoSpace, 1_000, 3);
        }
    }
    options
}

impl World {
    pub(super) fn new(seed: u64, nodes: Option<usize>, told: Told) -> Self {
        let root = Random::new(seed);
        let mut setup = root.stream("setup");
        let count = nodes.unwrap_or_else(|| 2 + setup.below(4) as usize);
        let members = 1 + setup.below(count as u64) as usize;
        let min_replicas = if members > 1 { 1 + setup.below(2) as u8 } else { 1 };
        let control = Control::new(root.stream("control"), members, min_replicas);
        let segment_bytes = if setup.chance(500_000) { 64 << 10 } else { 256 << 10 };
        let retention_bytes = setup.chance(200_000).then_some(200_000);
        let trims = setup.chance(500_000);
        let drops = trims || retention_bytes.is_some();
        let mut node = |number: u64| Node {
            disk: Disk::new(&root.numbered_stream("disk", number), options(&mut setup, drops)),
            number: NodeId::new(number),
            id: None,
            life: 1,
            down_until_ns: None,
            replica: None,
            created: false,
            learned: None,
            learns_ns: 0,
            shown: Offset::ZERO,
            ended: Offset::ZERO,
            reads: BTreeSet::new(),
            sick: false,
        };
        let nodes = (0..count as u64).map(&mut node).collect();
        let log = LogConfig { segment_bytes, retention_bytes, ..LogConfig::default() };
        let producer = |id| Producer::new(id, root.numbered_stream("producer", id as u64));
        let mut world = Self {
            random: root.stream("world"),
            now_ns: 0,
            nodes,
            control,
            network: Network::new(root.stream("network")),
            producers: (0..1 + setup.below(3) as i64).map(producer).collect(),
            asked: BTreeMap::new(),
            tickets: 0,
            confirms: BTreeMap::new(),
            books: Books::default(),
            deeds: Deeds::default(),
            calamity_ns: 3_000_000,
            mend_ns: 0,
            decide_ns: 0,
            healing: false,
            config: ReplicaConfig { log, batches: BATCHES, evict_after: EVICT_AFTER },
            trims,
            told,
        };
        let first = world.control.present().chain.clone();
        for member in first {
            world.nodes[index(member)].id = Some(member);
        }
        if retention_bytes.is_some() {
            world.books.trim(Offset::MAX);
        }
        world
    }

    pub(super) fn run(mut self) -> Result<Report, String> {
        while self.books.acked() < ACKED {
            self.step()?;
            self.befall();
            if self.now_ns > STUCK_NS {
                return Err(format!(
                    "stuck with {} acknowledged: {}",
                    self.books.acked(),
                    self.standing()
                ));
            }
        }
        self.heal()?;
        self.compare()?;
        let mut fingerprint = Fingerprint::default();
        for node in &self.nodes {
            fingerprint.numbers([node.disk.fingerprint(), node.disk.final_image_hash()]);
        }
        self.deeds.add(Deed::StaleMessage, self.network.stale);
        Ok(Report {
            acked: self.books.acked(),
            checked: self.books.checked,
            epochs: self.control.history.len() as u64,
            deeds: self.deeds,
            fingerprint: fingerprint.value(),
        })
    }

    fn now(&self) -> Now {
        let wall = Millis::new(1_700_000_000_000 + (self.now_ns / 1_000_000).cast_signed());
        Now { wall, monotonic: Duration::from_nanos(self.now_ns) }
    }

    fn step(&mut self) -> Result<(), String> {
        let disks = self.nodes.iter().filter_map(|node| node.disk.next_event());
        let ticks = self.nodes.iter().filter_map(|node| node.replica.as_ref()?.next_tick());
        let ticks = ticks.map(|at| at.as_nanos() as u64);
        let producers = self.producers.iter().map(|producer| producer.wake_ns);
        let next = disks.chain(ticks).chain(producers).chain(self.network.next_ns()).min();
        let next = next.unwrap_or(u64::MAX).min(self.now_ns + STEP_NS);
        self.now_ns = self.now_ns.max(next);
        for at in 0..self.nodes.len() {
            while let Some((_, _, done)) = self.nodes[at].disk.poll_done(self.now_ns) {
                let now = self.now();
                if let Some(replica) = &mut self.nodes[at].replica {
                    replica.on_done(done, now);
                    self.carry_out(at)?;
                }
            }
            self.tick(at)?;
        }
        while let Some((at, arrival)) = self.network.poll(self.now_ns) {
            self.arrive(at, arrival)?;
        }
        self.govern()?;
        self.produce()?;
        self.look()
    }

    fn tick(&mut self, at: usize) -> Result<(), String> {
        let now = self.now();
        let Some(replica) = &mut self.nodes[at].replica else { return Ok(()) };
        if replica.next_tick().is_some_and(|due| due <= now.monotonic) {
            replica.on_tick(now);
            self.carry_out(at)?;
        }
        let replica = self.nodes[at].replica.as_mut().filter(|replica| replica.waits_to_copy());
        if let Some(replica) = replica
            && self.random.chance(200_000)
        {
            replica.on_copies_allowed(ALLOWED_BYTES, now);
            self.carry_out(at)?;
        }
        Ok(())
    }

    fn arrive(&mut self, at: usize, arrival: Arrival) -> Result<(), String> {
        self.told.say(self.now_ns, at, || match &arrival {
            Arrival::Parcel(from, parcel) => {
                format!("from {}: {}", from.node, short(&parcel.message))
            }
            Arrival::Broken(peer) => format!("the connection to {peer:?} is gone"),
        });
        let now = self.now();
        let Node { id, replica: Some(replica), .. } = &mut self.nodes[at] else { return Ok(()) };
        match arrival {
            Arrival::Parcel(from, parcel) if *id == Some(parcel.to) => {
                let payload: Vec<u8> = match parcel.message {
                    Message::Welcome { .. } => parcel.fold,
                    _ => parcel.batches.shares.concat(),
                };
                let _ =
                    replica.on_peer(from, parcel.message, &parcel.batches.stamps, &payload, now);
            }
            Arrival::Parcel(..) => return Ok(()),
            Arrival::Broken(peer) => replica.on_unlinked(peer, now),
        }
        self.carry_out(at)
    }

    /// Takes what a node's replica asks for and tells.
    fn carry_out(&mut self, at: usize) -> Result<(), String> {
        for _ in 0..ROUNDS_MAX {
            let node = &mut self.nodes[at];
            let (Some(replica), Some(id)) = (&mut node.replica, node.id) else { return Ok(()) };
            if let Some((op, what)) = replica.poll_op() {
                self.told.say(self.now_ns, at, || short(&what));
                node.disk.submit(self.now_ns, DIRECTORY, node.life, op, what);
            } else if let Some(parcel) = replica.poll_parcel() {
                let to = index(parcel.to);
                self.told.say(self.now_ns, at, || format!("to {to}: {:?}", parcel.message));
                self.network.send(self.now_ns, (at, to), id, parcel);
            } else if let Some(event) = replica.poll_event() {
                self.hear(at, event)?;
            } else {
                return Ok(());
            }
        }
        Err(format!("node {at} goes on for ever: {}", self.standing()))
    }

    fn hear(&mut self, at: usize, event: Event<Bytes>) -> Result<(), String> {
        self.told.say(self.now_ns, at, || short(&event));
        let node = &mut self.nodes[at];
        match event {
            Event::Opened(report) => {
                node.created = true;
                if report.lost_something() {
                    return Err(format!("node {at} lost something: {report}"));
                }
            }
            Event::Cut(end, report) => {
                if report.lost_something() {
                    return Err(format!("node {at} lost something when it was cut: {report}"));
                }
                let anew = node.replica.as_ref().and_then(Replica::log);
                let anew = anew.is_some_and(|log| log.log_start() == end && end > Offset::ZERO);
                self.deeds.did(if anew { Deed::BegunAnew } else { Deed::LogCut });
            }
            Event::Reply(reply) => return self.replied(&reply),
            Event::Confirmed(ticket, end) => {
                let promised = self.confirms.remove(&ticket).unwrap_or_default();
                if end.is_some_and(|end| end < promised) {
                    return Err(format!("UNSEEN: {end:?} is confirmed, {promised} was before"));
                }
            }
            Event::Committed(end) => {
                if end < node.shown {
                    return Err(format!("node {at} showed {}, and now {end}", node.shown));
                }
                node.shown = end;
            }
            Event::Read(id, answer) => {
                if node.reads.remove(&id)
                    && let Ok(ReadAnswer::Batches(batches)) = answer
                {
                    return self.show(&batches);
                }
            }
            event @ (Event::JoinReady { .. } | Event::JoinClose { .. } | Event::Stalled { .. }) => {
                self.hear_of_chain(at, &event)
            }
            Event::Contradicted(what) => {
                let standing = self.standing();
                return Err(format!("node {at}: {what}; {standing}"));
            }
            Event::Unlink(peer) => self.unlink(at, peer),
            // No disk rots here.
            Event::Repaired(what) | Event::RepairFailed(what, _) | Event::Lost(what) => {
                return Err(format!("node {at} repairs {what:?}"));
            }
            Event::Poisoned(_) => {
                self.deeds.did(Deed::Poisoned);
                node.sick = true;
            }
            Event::Failed(OpenError::Io(_)) if !self.healing => node.sick = true,
            Event::Failed(error) => return Err(format!("node {at} does not open: {error}")),
            Event::Found(finding) => return Err(format!("node {at}: {finding}")),
            Event::Postponed(_) | Event::Trimmed(_) => {}
        }
        Ok(())
    }

    /// What is for the control plane.
    fn hear_of_chain(&mut self, at: usize, event: &Event<Bytes>) {
        let now = self.now();
        match event {
            Event::JoinReady { epoch, joiner } => {
                self.control.hear_ready(self.now_ns, *epoch, *joiner);
            }
            Event::Stalled { epoch, member } => {
                self.control.hear_stalled(self.now_ns, *epoch, *member);
            }
            Event::JoinClose { epoch, .. } if self.control.hears(self.now_ns) => {
                if let Some(replica) = &mut self.nodes[at].replica {
                    replica.on_close_allowed(*epoch, now);
                }
            }
            _ => {}
        }
    }

    fn unlink(&mut self, at: usize, peer: MemberId) {
        let Some(id) = self.nodes[at].id else { return };
        // An earlier life's connections are gone with it.
        let gone = self.nodes[index(peer)].id != Some(peer);
        if gone || self.network.is_breaking(self.now_ns, at, index(peer)) {
            return;
        }
        self.network.break_between(self.now_ns, [(at, id), (index(peer), peer)]);
    }

    fn show(&mut self, batches: &Batches<Bytes>) -> Result<(), String> {
        for bytes in &batches.shares {
            let (base, placed) = placed(bytes)?;
            self.books.show(base, placed)?;
        }
        Ok(())
    }

    /// What control plane and nodes tell each other.
    fn govern(&mut self) -> Result<(), String> {
        for (at, node) in self.nodes.iter_mut().enumerate() {
            let Some(replica) = &node.replica else { continue };
            // Also one that was opened so.
            node.sick |= replica.log().is_some_and(|log| log.poisoned().is_some());
            let shows = replica.high_watermark();
            if shows < node.shown {
                return Err(format!("node {at} showed {}, and now {shows}", node.shown));
            }
            node.shown = shows;
        }
        if self.now_ns >= self.decide_ns {
            self.decide_ns = self.now_ns + 500_000;
            let seen = |node: &Node| Seen {
                id: node.id,
                up: node.down_until_ns.is_none(),
                sick: node.sick,
            };
            let seen: Vec<_> = self.nodes.iter().map(seen).collect();
            self.control.decide(self.now_ns, &seen, &mut self.deeds);
        }
        for at in 0..self.nodes.len() {
            self.start(at);
            self.learn(at)?;
        }
        Ok(())
    }

    fn start(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.down_until_ns.is_some_and(|until| until <= self.now_ns) {
            node.down_until_ns = None;
        }
        if node.down_until_ns.is_none() && node.id.is_none() {
            node.id = self.control.started(self.now_ns, node.number);
        }
    }

    fn learn(&mut self, at: usize) -> Result<(), String> {
        let newest = self.control.history.len() - 1;
        let now = self.now();
        let node = &mut self.nodes[at];
        let Some(id) = node.id else { return Ok(()) };
        let silent = self.now_ns < self.control.silent_until_ns;
        if node.learned >= Some(newest) || self.now_ns < node.learns_ns || silent {
            return Ok(());
        }
        let slow = if self.random.chance(100_000) { 20_000_000 } else { 1_000_000 };
        node.learns_ns = self.now_ns + self.random.below(slow);
        // Deltas come in order, sometimes several at once.
        let next = node.learned.map_or(newest, |learned| learned + 1);
        let next = if self.random.chance(500_000) { newest } else { next };
        node.learned = Some(next);
        let configuration = self.control.history[next].clone();
        self.told.say(self.now_ns, at, || format!("learns {configuration:?}"));
        match &mut node.replica {
            Some(replica) => replica.enter(configuration, now),
            None if configuration.role(id) == Role::Outside => return Ok(()),
            None => {
                let create = !node.created;
                let seat = (id, configuration);
                node.replica = Some(Replica::new(identity(), self.config, seat, create, Heap));
            }
        }
        self.carry_out(at)
    }

    fn produce(&mut self) -> Result<(), String> {
        for number in 0..self.producers.len() {
            while let Some((name, batch)) = self.producers[number].next(self.now_ns) {
                self.offer(number, name, &batch)?;
            }
        }
        Ok(())
    }

    /// A producer sends a batch to whom it takes for the head.
    fn offer(&mut self, number: usize, name: Name, batch: &[u8]) -> Result<(), String> {
        let newest = self.control.history.len() - 1;
        let producer = &mut self.producers[number];
        if producer.believes < newest && self.random.chance(300_000) {
            producer.believes = newest;
        }
        let head = self.control.history[producer.believes].chain[0];
        let at = index(head);
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let now = self.now();
        let node = &mut self.nodes[at];
        let request = ProduceRequest {
            batch,
            durability: Durability::ChainDisk,
            expect_next_offset: None,
            raised: &BTreeMap::new(),
            ticket,
        };
        let Some(replica) = &mut node.replica else {
            self.producers[number].again(self.now_ns);
            return Ok(());
        };
        let first = self.producers[number].is_first(name.1);
        match replica.on_produce(&request, now) {
            Ok(Some(receipt)) => self.acked(name, &receipt)?,
            Ok(None) => {
                self.asked.insert(ticket, Asked { name, first, node: at, life: node.life });
            }
            Err(refusal) => self.refused(name, first, refusal)?,
        }
        self.carry_out(at)
    }

    fn refused(&mut self, name: Name, first: bool, refusal: Refusal) -> Result<(), String> {
        let number = name.0 as usize;
        match refusal {
            Refusal::NotHead | Refusal::NotOpen => {
                self.deeds.did(Deed::Moved);
                self.producers[number].believes = self.control.history.len() - 1;
            }
            Refusal::NotEnoughReplicas { .. } => self.deeds.did(Deed::TooFew),
            Refusal::Append(_) | Refusal::InDoubt(_) => {}
            // What is before it may be on its way.
            Refusal::OutOfOrder { .. } | Refusal::UnknownProducer if !first => {}
            refusal => return Err(format!("{name:?} is refused: {refusal}")),
        }
        self.producers[number].again(self.now_ns);
        Ok(())
    }

    fn replied(&mut self, reply: &Reply) -> Result<(), String> {
        let asked = self.asked.remove(&reply.ticket);
        let Some(Asked { name, first, node, life }) = asked else { return Ok(()) };
        if self.nodes[node].life != life {
            return Ok(());
        }
        match reply.result {
            Ok(receipt) => self.acked(name, &receipt),
            Err(ProduceError::Refused(refusal)) => self.refused(name, first, refusal),
            Err(_) => {
                self.producers[name.0 as usize].again(self.now_ns);
                Ok(())
            }
        }
    }

    fn acked(&mut self, name: Name, receipt: &Receipt) -> Result<(), String> {
        if receipt.duplicate {
            self.deeds.did(Deed::Repeated);
        }
        if receipt.level != Durability::ChainDisk || receipt.copies == 0 {
            return Err(format!("{name:?} has the receipt {receipt:?}"));
        }
        let producer = &mut self.producers[name.0 as usize];
        producer.acked(self.now_ns, name.1);
        // Who acknowledged is newer than who is believed to be the head, or the same.
        let epoch = |at: usize| self.control.history[at].epoch;
        while epoch(producer.believes) < receipt.epoch {
            producer.believes += 1;
        }
        self.books.ack(name, receipt.base)
    }

    /// Somebody reads somewhere; somebody trims.
    fn look(&mut self) -> Result<(), String> {
        if !self.random.chance(100_000) {
            return Ok(());
        }
        let at = self.random.below(self.nodes.len() as u64) as usize;
        let drawn = self.random.below(1_000_000);
        // What somebody wrote last before he died may be what was given to others since.
        let last = self.nodes[self.random.below(self.nodes.len() as u64) as usize].ended;
        let now = self.now();
        let Some(replica) = &mut self.nodes[at].replica else { return Ok(()) };
        let Some(log) = replica.log() else { return Ok(()) };
        let (start, end) = (log.log_start(), replica.high_watermark().min(log.log_end()));
        if start >= end {
            return Ok(());
        }
        let mut from = Offset::new(start.get() + self.random.below(end.since(start)));
        let ended = last > start && last <= end;
        let heads = matches!(replica.member().role(), Role::Head | Role::Solo);
        if self.trims && heads && drawn < if ended { 200_000 } else { 20_000 } {
            if ended {
                from = last;
            }
            if replica.trim(from).is_ok() {
                self.deeds.did(Deed::Trimmed);
                self.books.trim(from);
            }
            return self.carry_out(at);
        }
        if drawn.is_multiple_of(4) {
            self.tickets += 1;
            let ticket = Ticket(self.tickets);
            if replica.confirm_end(ticket, now).is_ok() {
                self.deeds.did(Deed::Confirmed);
                self.confirms.insert(ticket, self.books.promised);
            }
            return self.carry_out(at);
        }
        match replica.read(from, 30_000) {
            Ok(ReadOutcome::Ready(batches)) => self.show(&batches)?,
            Ok(ReadOutcome::Pending(id)) => drop(self.nodes[at].reads.insert(id)),
            Err(_) => {}
        }
        self.carry_out(at)
    }

    /// What goes wrong.
    fn befall(&mut self) {
        if self.network.is_cut() && self.now_ns >= self.mend_ns {
            self.mend();
        }
        for at in 0..self.nodes.len() {
            if self.nodes[at].sick && self.random.chance(2_000) {
                self.crash(at, Crash::ProcessKill);
            }
        }
        if self.now_ns < self.calamity_ns {
            return;
        }
        self.calamity_ns = self.now_ns + 1_000_000 + self.random.below(40_000_000);
        let count = self.nodes.len() as u64;
        let (at, other) = (self.random.below(count) as usize, self.random.below(count) as usize);
        match self.random.below(100) {
            0..25 => self.crash(at, Crash::ProcessKill),
            25..40 => self.crash(at, Crash::PowerLoss),
            40..45 => {
                self.deeds.did(Deed::PowerLostByAll);
                (0..self.nodes.len()).for_each(|at| self.crash(at, Crash::PowerLoss));
            }
            45..48 => self.wipe(at),
            48..58 => {
                self.deeds.did(Deed::Silence);
                self.control.silent_until_ns = self.now_ns + self.random.below(60_000_000);
            }
            58..75 if at != other => {
                if let (Some(a), Some(b)) = (self.nodes[at].id, self.nodes[other].id) {
                    self.deeds.did(Deed::LinkBroken);
                    self.network.break_between(self.now_ns, [(at, a), (other, b)]);
                }
            }
            75..90 if at != other && !self.network.is_cut() => self.cut(at, other),
            _ => {}
        }
    }

    /// Nothing comes through from one to another, or nothing from or to a node at all.
    fn cut(&mut self, at: usize, other: usize) {
        self.deeds.did(Deed::LinkCut);
        self.mend_ns = self.now_ns + self.random.below(80_000_000);
        match self.random.below(4) {
            0 => self.network.cut(at, other),
            1 => [(at, other), (other, at)].into_iter().for_each(|(a, b)| self.network.cut(a, b)),
            way => {
                for peer in (0..self.nodes.len()).filter(|peer| *peer != at) {
                    self.network.cut(at, peer);
                    if way == 2 {
                        self.network.cut(peer, at);
                    }
                }
            }
        }
    }

    fn mend(&mut self) {
        for (a, b) in self.network.mend() {
            if let (Some(from), Some(to)) = (self.nodes[a].id, self.nodes[b].id) {
                self.network.break_between(self.now_ns, [(a, from), (b, to)]);
            }
        }
    }

    fn crash(&mut self, at: usize, crash: Crash) {
        let down_ns = match self.random.below(3) {
            0 => 100_000,
            1 => 5_000_000,
            _ => 150_000_000,
        };
        let until = self.now_ns + self.random.below(down_ns);
        let node = &mut self.nodes[at];
        if node.down_until_ns.is_none() {
            let power = matches!(crash, Crash::PowerLoss);
            self.deeds.did(if power { Deed::PowerLost } else { Deed::Killed });
        }
        if let Some(log) = node.replica.as_ref().and_then(Replica::log) {
            node.ended = log.log_end();
        }
        node.disk.crash(self.now_ns, crash);
        node.life += 1;
        node.down_until_ns = Some(until);
        (node.id, node.replica, node.learned, node.sick) = (None, None, None, false);
        (node.shown, node.learns_ns) = (Offset::ZERO, 0);
        node.reads.clear();
        self.network.forget(at);
        self.tell_of(at);
    }

    /// Neighbours hear that the connection to a node is gone.
    fn tell_of(&mut self, at: usize) {
        let number = self.nodes[at].number;
        let present = self.control.history.iter().rev().take(3);
        let mut lives: BTreeSet<MemberId> =
            present.flat_map(|c| c.chain.iter().chain(&c.joining)).copied().collect();
        lives.retain(|member| member.node == number);
        for peer in (0..self.nodes.len()).filter(|peer| *peer != at) {
            for life in &lives {
                self.network.tell(self.now_ns, peer, *life);
            }
        }
    }

    /// A node's disk is replaced, where others hold all there is: it is another node now.
    fn wipe(&mut self, at: usize) {
        let present = self.control.present();
        let inside = present.chain.iter().any(|member| index(*member) == at);
        let others = present.chain.iter().filter(|member| index(**member) != at);
        let others = others.filter(|m| self.nodes[index(**m)].id == Some(**m)).count();
        if inside && others == 0 {
            return;
        }
        self.deeds.did(Deed::Wiped);
        self.crash(at, Crash::PowerLoss);
        let node = &mut self.nodes[at];
        let replaced = self.random.numbered_stream("disk", node.number.get() + WIPED);
        node.disk = Disk::new(&replaced, DiskOptions::random(DeviceCache::Fua));
        node.number = NodeId::new(node.number.get() + WIPED);
        node.created = false;
    }
}

fn identity() -> LogIdentity {
    LogIdentity {
        cluster: ClusterId::new(1),
        topic: TopicId::new(2),
        partition: PartitionIndex::new(0),
        uid: PartitionUid::new(3),
    }
}

/// Which batch it is, and where it stands.
fn placed(bytes: &[u8]) -> Result<(Offset, Placed), String> {
    let header = BatchHeader::parse(bytes).map_err(|error| error.to_string())?;
    header.verify(bytes).map_err(|error| error.to_string())?;
    let base = Offset::new(header.base_offset.cast_unsigned());
    let next = base.checked_add(u64::from(header.count)).ok_or("an offset beyond all")?;
    let epoch = catena_format::Epoch::new(header.leader_epoch.cast_unsigned());
    let name = (header.producer_id.get(), header.base_sequence.get());
    Ok((base, Placed { name, next, epoch }))
}
