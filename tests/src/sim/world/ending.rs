//! How a seed ends: everything gets through, and everything is read back.

use std::collections::{BTreeMap, BTreeSet};

use catena_format::PartitionUid;
use catena_log::{OpenError, io::Heap};
use catena_node::Status;
use catena_replication::{Phase, Replica};

use super::{STUCK_NS, World};
use crate::sim::{
    client::{Client, Plan},
    disk::{FaultKind, FaultOptions, FileKinds},
};

/// Batches acknowledged while the disk decays.
const DECAY_ACKED: u64 = 60;
/// Within so much time the files of deleted partitions go.
const SETTLE_NS: u64 = 1_000_000_000;

impl World {
    /// No more faults: everything unacknowledged gets through, and everything is read back.
    pub(super) fn heal(&mut self) -> Result<(), String> {
        self.faults_on = false;
        self.disk.set_faults(FaultOptions::none());
        if self.jumps {
            self.oracle.wall.jump(self.now_ns, 0);
        }
        self.crash();
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
        self.disk.set_faults(FaultOptions::none());
        Ok(())
    }

    /// The directories with a file that does not hold what was written.
    fn wounds(&self) -> BTreeSet<u64> {
        self.disk.damages().into_iter().map(|wound| wound.directory).collect()
    }

    fn check(&mut self, mut wounds: BTreeSet<u64>) -> Result<(), String> {
        let Some(opened) = self.wait_open()? else { return Ok(()) };
        wounds.append(&mut self.wounds());
        let wounded = |r: &&Replica<Heap>| wounds.contains(&r.identity().uid.get());
        let wounded: BTreeSet<u32> =
            self.replicas().filter(wounded).map(|r| r.identity().partition.get()).collect();
        let there = opened.len() as u32;
        let plan = Plan { created: there, grown: there, ..self.plan.clone() };
        let first = self.clients.len();
        for partition in opened.keys() {
            let number = self.clients.len() as u32;
            let stream = self.random.numbered_stream("checker", u64::from(number));
            self.clients.push(Client::checker(number, stream, *partition, &plan));
        }
        let deadline = self.now_ns + STUCK_NS;
        loop {
            self.step()?;
            // A copy on its way may still add what a weak acknowledgement had lost.
            let ends = self.ends();
            let through = self.clients[first..].iter().filter_map(Client::checked);
            if through.clone().all(|((_, partition), offset, _)| offset >= ends[&partition]) {
                for (part, _, read) in through {
                    let cut = wounded.contains(&part.1).then_some(opened[&part.1]);
                    self.oracle.settle(part, cut, read)?;
                }
                return self.check_files();
            }
            if self.now_ns > deadline {
                return Err("stuck: the logs cannot be read to their ends".into());
            }
        }
    }

    /// In the life that deleted a partition its files go, too, and not only at the next start.
    fn settle_files(&mut self) -> Result<(), String> {
        let deadline = self.now_ns + SETTLE_NS;
        while self.check_files().is_err() && self.now_ns < deadline {
            self.step()?;
        }
        self.check_files()
    }

    /// Of a partition that was deleted no file is left.
    fn check_files(&self) -> Result<(), String> {
        let known = self.cores[0].known();
        let uids = self.disk.directories().filter(|uid| *uid != 0);
        for uid in uids.filter(|uid| !known.contains(&PartitionUid::new(*uid))) {
            if let Some(file) = self.disk.live_files(uid).next() {
                return Err(format!("{file} of deleted partition {uid} is left"));
            }
        }
        Ok(())
    }

    /// Where the partitions end, once all are open; `None`: the catalog is damaged and says so.
    pub(super) fn wait_open(&mut self) -> Result<Option<BTreeMap<u32, u64>>, String> {
        let deadline = self.now_ns + STUCK_NS;
        loop {
            self.step()?;
            if self.catalog_decayed() {
                *self.faults.entry("catalog_damaged").or_insert(0) += 1;
                return Ok(None);
            }
            let open = self.replicas().all(|replica| replica.phase() == Phase::Open);
            if open && self.cores.iter().all(|core| core.status() == Status::Serving) {
                return Ok(Some(self.ends()));
            }
            if self.now_ns > deadline {
                return Err("stuck: partitions do not open".into());
            }
        }
    }

    /// Up to where the partitions can be read.
    fn ends(&self) -> BTreeMap<u32, u64> {
        let end = |r: &Replica<Heap>| (r.identity().partition.get(), r.high_watermark().get());
        self.replicas().map(end).collect()
    }

    pub(super) fn catalog_decayed(&self) -> bool {
        let status = self.cores[0].status();
        self.oracle.decayed && matches!(status, Status::Failed(OpenError::Damaged(_)))
    }
}
