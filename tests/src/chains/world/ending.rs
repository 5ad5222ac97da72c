//! How it ends: all is healed, and what everybody holds is compared.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use catena_format::{Millis, Offset};
use catena_log::{Batches, Now, ReadAnswer, ReadOutcome, Stamp};
use catena_replication::{Event, Phase, Replica, chain::MemberId, dedup::Dedup};

use super::{DIRECTORY, STUCK_NS, World, placed};
use crate::{
    chains::{books::Placed, control::index, producer::Producer},
    sim::disk::{Crash, FaultOptions},
};

impl World {
    /// Nothing goes wrong any more: everybody comes back, and the chain is whole in the end.
    pub(super) fn heal(&mut self) -> Result<(), String> {
        self.healing = true;
        self.control.silent_until_ns = 0;
        self.control.restless = false;
        self.mend();
        for at in 0..self.nodes.len() {
            let node = &mut self.nodes[at];
            node.disk.set_faults(FaultOptions::none());
            if node.sick {
                self.crash(at, Crash::ProcessKill);
            }
            self.nodes[at].down_until_ns = None;
        }
        self.producers.iter_mut().for_each(|producer| producer.done = true);
        let until = self.now_ns + STUCK_NS;
        while !self.is_whole() {
            self.step()?;
            for at in 0..self.nodes.len() {
                if self.nodes[at].sick {
                    self.crash(at, Crash::ProcessKill);
                    self.nodes[at].down_until_ns = None;
                }
            }
            if self.now_ns > until {
                return Err(format!("not whole: {}", self.standing()));
            }
        }
        Ok(())
    }

    fn members(&self) -> Vec<usize> {
        self.control.present().chain.iter().map(|member| index(*member)).collect()
    }

    fn is_whole(&self) -> bool {
        let present = self.control.present();
        let there = |member: &MemberId| {
            let node = &self.nodes[index(*member)];
            let Some(replica) = &node.replica else { return false };
            let Some(log) = replica.log() else { return false };
            let known = replica.epoch() == present.epoch && replica.member().is_synced();
            let same = replica.high_watermark() == log.log_end();
            known && same && replica.phase() == Phase::Open && node.id == Some(*member)
        };
        let ends: BTreeSet<_> = self.members().iter().map(|at| self.end_of(*at)).collect();
        present.joining.is_none()
            && present.chain.len() >= self.control.wanted()
            && present.chain.iter().all(there)
            && ends.len() == 1
            && self.producers.iter().all(Producer::is_idle)
    }

    fn end_of(&self, at: usize) -> Option<Offset> {
        Some(self.nodes[at].replica.as_ref()?.log()?.log_end())
    }

    /// How everything stands, for who has to find out why.
    pub(super) fn standing(&self) -> String {
        let nodes = self.nodes.iter().enumerate().map(|(at, node)| {
            let Some(replica) = &node.replica else { return format!("{at}: {:?} none", node.id) };
            let log = replica.log().map(|log| (log.log_start(), log.durable_end(), log.log_end()));
            let member = replica.member();
            format!(
                "\n{at}: {:?} hw {} log {log:?} sick {} epochs {:?}\n   {member:?}",
                replica.phase(),
                replica.high_watermark(),
                node.sick,
                replica.log().map(|log| log.epochs()),
            )
        });
        let nodes: Vec<_> = nodes.collect();
        let idle: Vec<_> = self.producers.iter().map(Producer::is_idle).collect();
        format!("{:?}, idle {idle:?}; {}", self.control.present(), nodes.join("; "))
    }

    /// All members hold the same, and it is what was promised.
    pub(super) fn compare(&mut self) -> Result<(), String> {
        let mut first: Option<(usize, Whole)> = None;
        for at in self.members() {
            let whole = self.read_whole(at)?;
            self.books.settle(whole.start, &whole.batches)?;
            let Some((other, before)) = &first else {
                first = Some((at, whole));
                continue;
            };
            if before.producers != whole.producers {
                let (a, b) = (&before.producers, &whole.producers);
                return Err(format!("nodes {other} and {at} know other producers: {a:?} {b:?}"));
            }
            let from = before.start.max(whole.start);
            let behind = |whole: &Whole| {
                let all = whole.batches.iter().zip(&whole.stamps);
                let kept = all.filter(|((base, _), _)| *base >= from);
                kept.map(|(batch, stamp)| (*batch, *stamp)).collect::<Vec<_>>()
            };
            if behind(before) != behind(&whole) {
                return Err(format!("nodes {other} and {at} hold different batches"));
            }
        }
        Ok(())
    }

    fn read_whole(&mut self, at: usize) -> Result<Whole, String> {
        let replica = self.nodes[at].replica.as_ref().ok_or("no replica")?;
        let log = replica.log().ok_or("no log")?;
        let (start, end) = (log.log_start(), log.log_end());
        let producers = log.fold().clone();
        let mut whole = Whole { start, batches: Vec::new(), stamps: Vec::new(), producers };
        let mut next = start;
        while next < end {
            let start = self.nodes[at].replica.as_ref().and_then(Replica::log);
            let start = start.map_or(next, |log| log.log_start());
            if start > next {
                // Retention went on meanwhile.
                whole = Whole { start, batches: Vec::new(), stamps: Vec::new(), ..whole };
                next = start;
                continue;
            }
            let batches = self.read_now(at, next)?;
            if batches.is_empty() {
                return Err(format!("LOST: nothing at {next} of node {at}, which ends at {end}"));
            }
            next = batches.next;
            for (bytes, stamp) in batches.shares.iter().zip(&batches.stamps) {
                whole.batches.push(placed(bytes)?);
                whole.stamps.push(*stamp);
            }
        }
        Ok(whole)
    }

    fn read_now(&mut self, at: usize, from: Offset) -> Result<Batches<Bytes>, String> {
        let wrong = |error| format!("node {at} at {from}: {error}");
        let replica = self.nodes[at].replica.as_mut().ok_or("no replica")?;
        let id = match replica.read(from, 1 << 20).map_err(wrong)? {
            ReadOutcome::Ready(batches) => return Ok(batches),
            ReadOutcome::Pending(id) => id,
        };
        loop {
            let node = &mut self.nodes[at];
            let replica = node.replica.as_mut().ok_or("no replica")?;
            while let Some((op, what)) = replica.poll_op() {
                node.disk.submit(self.now_ns, DIRECTORY, node.life, op, what);
            }
            self.now_ns = node.disk.next_event().unwrap_or(self.now_ns).max(self.now_ns);
            let now = Now {
                wall: Millis::new(1_800_000_000_000),
                monotonic: Duration::from_nanos(self.now_ns),
            };
            while let Some((_, _, done)) = node.disk.poll_done(self.now_ns) {
                replica.on_done(done, now);
            }
            while let Some(event) = replica.poll_event() {
                if let Event::Read(read, answer) = event
                    && read == id
                {
                    return match answer.map_err(wrong)? {
                        ReadAnswer::Batches(batches) => Ok(batches),
                        ReadAnswer::Offset(_) => Err("an offset".to_owned()),
                    };
                }
            }
        }
    }
}

/// All that a member holds.
struct Whole {
    start: Offset,
    batches: Vec<(Offset, Placed)>,
    stamps: Vec<Stamp>,
    producers: Dedup,
}
