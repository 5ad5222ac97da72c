//! How a seed ends: everything gets through, and everything is read back.

use std::collections::{BTreeMap, BTreeSet};

use catena_format::NodeId;
use catena_log::OpenError;
use catena_node::Status;
use catena_replication::{Phase, Replica, control::due};

use super::{Machine, Purse, STUCK_NS, World};
use crate::sim::{
    client::{Client, Plan},
    disk::{FaultKind, FaultOptions, FileKinds},
    oracle::{Kept, Name, Part},
};

/// What a client has read of a copy: of which partition, on which node, and up to where.
type Checked<'a> = (Part, NodeId, u64, &'a BTreeMap<u64, Name>);
/// The copies of all partitions, and where they end.
pub(super) type Ends = BTreeMap<(u32, NodeId), Home>;

/// A copy of a partition.
#[derive(Clone, Copy)]
pub(super) struct Home {
    machine: usize,
    directory: u64,
    high: u64,
}

/// Batches acknowledged while the disk decays.
const DECAY_ACKED: u64 = 60;
/// In a million seeds, those in whose last life a partition has lost its manifest.
const REFUSED_PER_MILLION: u32 = 150_000;
/// Within so much time the files of deleted partitions go.
/// Of a million worlds of several nodes, those in which a copy rots at the end.
const ROTTEN_PER_MILLION: u32 = 500_000;
const SETTLE_NS: u64 = 1_000_000_000;

impl World {
    /// No more faults: everything unacknowledged gets through, and everything is read back.
    pub(super) fn heal(&mut self) -> Result<(), String> {
        self.faults_on = false;
        self.set_faults(&FaultOptions::none());
        self.relieve()?;
        if self.jumps {
            self.oracle.wall.jump(self.now_ns, 0);
        }
        self.each_machine(|world, at| match world.machines[at].is_down() {
            true => world.begin_life(at),
            false => world.crash(at),
        });
        self.clients.iter_mut().for_each(|client| client.finish(true));
        let deadline = self.now_ns + STUCK_NS;
        while !self.clients.iter().all(Client::is_done) {
            self.step()?;
            if self.now_ns > deadline {
                return Err("stuck: what was sent is not acknowledged after the faults".into());
            }
        }
        self.settle_files()?;
        // Recovery of what rots before it, with producers going on, is another matter: offsets in
        // doubt are cut, and their producers hear of a gap.
        if self.decays && self.wait_open()?.is_some() {
            self.decay()?;
        }
        // A wounded file in which nothing can be read is removed by the next life.
        let wounds: Vec<_> = self.machines.iter().map(Machine::wounds).collect();
        // One more life: what is read is what the disk holds. Who was told something at the last
        // moment does not make up for it behind the end that is checked.
        self.each_machine(Self::end_life);
        let alone = self.council.is_none();
        if self.random.chance(REFUSED_PER_MILLION) && self.bounds.has("rot") && alone {
            let deed = self.machines[0].rot_manifest(&mut self.random);
            deed.into_iter().for_each(|deed| self.oracle.did(deed));
        }
        self.each_machine(Self::begin_life);
        self.clients.iter_mut().for_each(|client| client.pause(u64::MAX));
        let kept = self.machines.iter().map(|m| m.shelf.kept(&m.disk)).collect();
        self.check(wounds, kept)
    }

    fn set_faults(&mut self, faults: &FaultOptions) {
        self.machines.iter_mut().for_each(|machine| machine.disk.set_faults(faults.clone()));
    }

    /// The disk loses, misplaces and spoils what it has acknowledged. From now on a record is read
    /// as it was, or said to be damaged.
    fn decay(&mut self) -> Result<(), String> {
        self.oracle.decayed = true;
        let mut faults = FaultOptions::none()
            .with(FaultKind::BitFlip, 20_000, 3)
            .with(FaultKind::LostWrite, 20_000, 2)
            .with(FaultKind::MisdirectedWrite, 20_000, 2);
        faults.kinds.retain(|kind, _| self.bounds.has(kind.name()));
        faults.silent_in = FileKinds::SEGMENTS;
        self.set_faults(&faults);
        self.clients.iter_mut().for_each(|client| client.finish(false));
        let (acked, deadline) = (self.oracle.acked_batches + DECAY_ACKED, self.now_ns + STUCK_NS);
        loop {
            let enough = self.oracle.acked_batches >= acked;
            self.clients.iter_mut().for_each(|client| client.finish(enough));
            if enough && self.clients.iter().all(Client::is_done) {
                break;
            }
            self.step()?;
            if self.now_ns > deadline {
                return Err("stuck: nothing is acknowledged while the disk decays".into());
            }
        }
        self.set_faults(&FaultOptions::none());
        Ok(())
    }

    fn check(
        &mut self,
        mut wounds: Vec<BTreeSet<u64>>,
        mut kept: Vec<BTreeMap<u64, Kept>>,
    ) -> Result<(), String> {
        let Some(ends) = self.wait_open()? else { return Ok(()) };
        if self.oracle.decayed {
            for (machine, kept) in self.machines.iter_mut().zip(&mut kept) {
                machine.rot(&mut self.random, |_| true);
                machine.shelf.look_again(&machine.disk, kept);
            }
        }
        let several = self.council.is_some();
        if several && self.bounds.has("rot") && self.random.chance(ROTTEN_PER_MILLION) {
            self.rot_one_copy();
        }
        let known = self.scrub()?;
        let known = if several { self.wait_repaired()? } else { known };
        for (machine, wounds) in self.machines.iter().zip(&mut wounds) {
            wounds.append(&mut machine.wounds());
        }
        let first = self.read_all(&ends);
        let deadline = self.now_ns + STUCK_NS;
        loop {
            self.step()?;
            let through = self.clients[first..].iter().filter_map(Client::checked);
            let end = |(part, node, ..): &Checked<'_>| ends[&(part.1, *node)];
            if through.clone().all(|read| read.2 >= end(&read).high) {
                for read in through {
                    let Home { machine, directory, high } = end(&read);
                    let cut = wounds[machine].contains(&directory).then_some(high);
                    let nothing = Kept::default();
                    let kept = kept[machine].get(&directory).unwrap_or(&nothing);
                    self.oracle.settle(read.0, cut, kept, read.3)?;
                }
                self.check_scrubbed(&known)?;
                return self.check_files();
            }
            if self.now_ns > deadline {
                return Err("stuck: the logs cannot be read to their ends".into());
            }
        }
    }

    /// Has every copy of every partition read from end to end; the first client that does so.
    fn read_all(&mut self, ends: &Ends) -> usize {
        let refused = self.machines.iter().filter(|machine| machine.refused.is_some()).count();
        let partitions = ends.keys().map(|(partition, _)| *partition).collect::<BTreeSet<_>>();
        let there = (partitions.len() + refused) as u32;
        let plan = Plan { created: there, grown: there, ..self.plan.clone() };
        let first = self.clients.len();
        for copy in ends.keys() {
            let number = self.clients.len() as u32;
            let stream = self.random.numbered_stream("checker", u64::from(number));
            self.clients.push(Client::checker(number, stream, *copy, &plan));
        }
        first
    }

    /// In the life that deleted a partition its files go, too, and not only at the next start.
    fn settle_files(&mut self) -> Result<(), String> {
        let deadline = self.now_ns + SETTLE_NS;
        while self.check_files().is_err() && self.now_ns < deadline {
            self.step()?;
        }
        self.check_files()
    }

    fn check_files(&self) -> Result<(), String> {
        self.machines.iter().try_for_each(Machine::check_files)
    }

    /// Where the partitions end, once all are open and their copies agree; `None`: the catalog is
    /// damaged and says so.
    pub(super) fn wait_open(&mut self) -> Result<Option<Ends>, String> {
        let deadline = self.now_ns + STUCK_NS;
        loop {
            self.step()?;
            if (0..self.machines.len()).any(|at| self.catalog_decayed(at)) {
                *self.faults.entry("catalog_damaged").or_insert(0) += 1;
                return Ok(None);
            }
            let apart = self.apart();
            if apart.is_none() && self.machines.iter().all(Machine::is_open) {
                return Ok(Some(self.ends()));
            }
            if self.now_ns > deadline {
                return Err(format!("stuck: partitions do not open {}", apart.unwrap_or_default()));
            }
        }
    }

    fn ends(&self) -> Ends {
        let machines = self.machines.iter().enumerate();
        let all = machines.flat_map(|(at, machine)| machine.replicas().map(move |r| (at, r)));
        let open = all.filter(|(at, replica)| {
            replica.phase() == Phase::Open && self.is_in_chain(*at, replica)
        });
        let end = |(machine, replica): (usize, &Replica<Purse>)| {
            let identity = replica.identity();
            let home = Home {
                machine,
                directory: identity.uid.get(),
                high: replica.high_watermark().get(),
            };
            ((identity.partition.get(), self.machines[machine].id()), home)
        };
        open.map(end).collect()
    }

    /// Whether a copy is one of its partition's chain: who has left one keeps its copy until it
    /// starts again.
    fn is_in_chain(&self, at: usize, replica: &Replica<Purse>) -> bool {
        let (uid, node) = (replica.identity().uid, self.machines[at].id());
        self.council.as_ref().is_none_or(|council| {
            let mut all = council.catalog().topics().flat_map(|topic| &topic.partitions);
            let partition = all.find(|partition| partition.uid == uid);
            partition.is_some_and(|p| p.configuration.chain.iter().any(|m| m.node == node))
        })
    }

    /// What keeps the copies of several nodes from being equal and complete.
    fn apart(&self) -> Option<String> {
        let council = self.council.as_ref()?;
        let due = due(council.catalog(), &BTreeSet::new(), &BTreeSet::new());
        if !due.is_empty() {
            return Some(format!("{due:?} is due"));
        }
        let all = council.catalog().topics();
        for (topic, partition) in all.flat_map(|t| t.partitions.iter().map(move |p| (t, p))) {
            let chain = &partition.configuration;
            if chain.chain.len() != usize::from(topic.replicas) || chain.joining.is_some() {
                return Some(format!("{:?} has {chain:?}", partition.uid));
            }
            let machines = self.machines.iter().enumerate();
            let all = machines.flat_map(|(at, machine)| machine.replicas().map(move |r| (at, r)));
            let copies =
                all.filter(|(at, r)| r.identity().uid == partition.uid && self.is_in_chain(*at, r));
            let ends: Vec<_> = copies
                .map(|(_, r)| (r.high_watermark(), r.log().map(catena_log::Log::log_end)))
                .collect();
            let agree = ends.iter().all(|end| *end == ends[0] && end.1 == Some(end.0));
            if ends.len() != chain.chain.len() || !agree {
                return Some(format!("{:?} ends at {ends:?}", partition.uid));
            }
        }
        None
    }

    pub(super) fn catalog_decayed(&self, at: usize) -> bool {
        let status = self.machines[at].cores[0].status();
        self.oracle.decayed && matches!(status, Status::Failed(OpenError::Damaged(_)))
    }
}
