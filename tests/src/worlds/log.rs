//! A small world: one log with its producer, on a disk, one event at a time.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use catena_format::{
    ClusterId, Epoch, Incarnation, NodeId, Offset, PartitionIndex, PartitionUid, TopicId,
};
use catena_log::{
    Batches, LogConfig, LogIdentity, ReadAnswer, ReadError, ReadId, ReadOutcome, io::Heap,
};
use catena_replication::{
    Durability, Event, Phase, ProduceRequest, Receipt, Refusal, Replica, ReplicaConfig, Ticket,
    chain::{Configuration, MemberId},
    validate::BatchLimits,
};

use super::{
    books::{Books, Sent},
    chooser::{Leaves, Strike},
    small::{self, Ground, Kind, Small},
};
use crate::sim::disk::Crash;

/// The one directory.
const DIRECTORY: u64 = 1;
/// From one housekeeping to the next.
const SECOND_NS: u64 = 1_000_000_000;
/// After so long without appends a mark is written.
const MARK_NS: u64 = 10_000_000;
/// As often something is tried that one fault may have refused.
const TRIES: u32 = 3;

type Watch<'w> = small::Watch<'w, World>;

/// A log, its disk and its producer.
pub struct World {
    ground: Ground,
    replica: Replica<Heap>,
    /// The log was open once.
    created: bool,
    books: Books,
    /// Receipts by ticket, which is where the batch was to stand.
    receipts: BTreeMap<u64, Receipt>,
    reads: BTreeMap<ReadId, Result<Batches<Bytes>, ReadError>>,
    /// One call may fail: what is refused by then is no defect.
    faulty: bool,
}

fn replica(create: bool) -> Replica<Heap> {
    let identity = LogIdentity {
        cluster: ClusterId::new(1),
        topic: TopicId::new(2),
        partition: PartitionIndex::new(0),
        uid: PartitionUid::new(3),
    };
    let me = MemberId { node: NodeId::new(1), incarnation: Incarnation::new(1) };
    let alone = (me, Configuration::alone(Epoch::new(1), me));
    Replica::new(identity, config(LogConfig::default()), alone, create, Heap)
}

/// The smallest segments, and a cache that does not hold two.
fn config(log: LogConfig) -> ReplicaConfig {
    let log = LogConfig { segment_bytes: 64 << 10, tail_cache_bytes: 16 << 10, ..log };
    let batches = BatchLimits { batch_bytes_max: 1 << 20, timestamp_ahead_ms_max: 3_600_000 };
    ReplicaConfig { log, batches, evict_after: Duration::from_millis(500) }
}

impl Small for World {
    const LETTERS: &str = "AaBMRTEKS";

    fn new(kind: Kind, strike: Option<Strike>) -> Self {
        Self {
            ground: Ground::new(kind, strike),
            replica: replica(true),
            created: false,
            books: Books::default(),
            receipts: BTreeMap::new(),
            reads: BTreeMap::new(),
            faulty: strike.is_some(),
        }
    }

    fn crashed(&self, crash: Crash, leaves: Leaves) -> (Self, Leaves) {
        let mut world = Self {
            ground: self.ground.fork(),
            replica: replica(!self.created),
            created: self.created,
            books: self.books.clone(),
            receipts: BTreeMap::new(),
            reads: BTreeMap::new(),
            faulty: false,
        };
        let leaves = world.end_life(crash, leaves);
        (world, leaves)
    }

    fn hash(&self) -> u64 {
        self.ground.hash(&self.books, [u64::from(self.created)])
    }

    fn has_struck(&self) -> bool {
        self.ground.has_struck()
    }

    fn acked(&self) -> u64 {
        self.books.acked_batches()
    }

    fn perform(&mut self, letter: char, watch: Watch<'_>) -> Result<(), String> {
        match letter {
            '^' => self.open(watch),
            'A' => {
                self.append(false)?;
                self.drain(watch)
            }
            'a' => {
                self.append(false)?;
                self.submit();
                self.observe()?;
                watch(self)
            }
            'B' => {
                self.append(true)?;
                self.drain(watch)
            }
            'M' => self.wait(MARK_NS, watch),
            'R' => {
                let segment_age = Duration::from_secs(1);
                self.housekeeping(LogConfig { segment_age, ..LogConfig::default() }, watch)
            }
            'E' => {
                // Of a log that nothing was sealed of yet nothing goes.
                self.books.start_most = self.books.end();
                let retention_bytes = Some(1);
                self.housekeeping(LogConfig { retention_bytes, ..LogConfig::default() }, watch)
            }
            'T' => self.trim(watch),
            'K' => {
                self.end_life(Crash::ProcessKill, Leaves::Nothing);
                self.open(watch)
            }
            'S' => {
                self.replica.close();
                self.drain(watch)?;
                if !self.replica.is_idle() && !self.faulty {
                    return Err("a closed log does not end".to_owned());
                }
                self.end_life(Crash::ProcessKill, Leaves::Nothing);
                self.open(watch)
            }
            other => Err(format!("{other:?} is none of {}", Self::LETTERS)),
        }
    }

    fn verify(&mut self, watch: Watch<'_>) -> Result<u64, String> {
        let before = self.books.clone();
        let lost = self.reopen(watch)?;
        let silent: Watch<'_> = &mut |_| Ok(());
        let mut checked = self.compare(silent)?;
        let doubtful = before.sent.iter().rev().take_while(|sent| sent.next > before.acked);
        let last = before.sent.iter().rfind(|sent| sent.next <= before.acked);
        let end = self.books.end();
        for sent in last.into_iter().chain(doubtful).filter(|sent| sent.next <= end) {
            self.repeat(sent, true, silent)?;
        }
        for sent in lost {
            self.books.sent.push(sent.clone());
            self.repeat(&sent, false, silent)?;
        }
        self.append(false)?;
        self.drain(silent)?;
        self.all_acked()?;
        let (mut next, _) = self.crashed(Crash::PowerLoss, Leaves::Nothing);
        checked += next.is_whole(silent)?;
        // Behind a trim the producer is known, and to an index of before the crash if need be.
        self.trim(silent)?;
        self.end_life(Crash::PowerLoss, Leaves::Nothing);
        Ok(checked + self.is_whole(silent)?)
    }

    fn after_fault(&mut self) -> Result<u64, String> {
        let silent: Watch<'_> = &mut |_| Ok(());
        let before = self.has_struck();
        self.pass(silent)?;
        // It may have failed only now.
        if self.has_struck() != before {
            self.pass(silent)?;
        }
        let end = self.books.end();
        if self.is_sound() {
            self.append(false)?;
            if self.books.end() == end {
                return Err("nothing failed for seconds, and nothing is taken".to_owned());
            }
        }
        // It may have been this one that failed.
        self.pass(silent)?;
        if self.is_sound() {
            self.all_acked()?;
        }
        if self.replica.log().is_none() {
            return Ok(0);
        }
        self.compare(silent)
    }
}

impl World {
    fn end_life(&mut self, crash: Crash, leaves: Leaves) -> Leaves {
        let leaves = self.ground.end_life(crash, leaves);
        self.replica = replica(!self.created);
        self.receipts.clear();
        self.reads.clear();
        leaves
    }

    /// Hands the log's operations to the disk.
    fn submit(&mut self) {
        self.ground.next_burst();
        while let Some((id, op)) = self.replica.poll_op() {
            self.ground.submit(DIRECTORY, id, op);
        }
    }

    /// Until nothing is under way.
    fn drain(&mut self, watch: Watch<'_>) -> Result<(), String> {
        loop {
            self.submit();
            self.observe()?;
            watch(self)?;
            let Some(at_ns) = self.ground.disk.step() else { return Ok(()) };
            self.ground.now_ns = at_ns;
            while let Some((_, _, done)) = self.ground.disk.poll_done(at_ns) {
                self.replica.on_done(done, self.ground.now());
            }
            self.ground.count()?;
        }
    }

    /// Takes what the log tells.
    fn observe(&mut self) -> Result<(), String> {
        while let Some(event) = self.replica.poll_event() {
            match event {
                Event::Opened(report) => {
                    if report.lost_something() {
                        return Err(format!("LOST: recovery says {report}"));
                    }
                    self.created = true;
                }
                Event::Reply(reply) => match reply.result {
                    Ok(receipt) => self.receipt(reply.ticket.0, receipt)?,
                    Err(_) if self.faulty => {}
                    Err(error) => return Err(format!("a produce ended: {error}")),
                },
                Event::Committed(end) => self.books.acked_to(end.get())?,
                Event::Trimmed(start) => {
                    self.books.start_least = self.books.start_least.max(start.get());
                }
                Event::Read(id, answer) => {
                    let batches = answer.map(|answer| match answer {
                        ReadAnswer::Batches(batches) => batches,
                        ReadAnswer::Offset(_) => unreachable!("nobody asks for a time"),
                    });
                    self.reads.insert(id, batches);
                }
                Event::Confirmed(..)
                | Event::Cut(..)
                | Event::JoinReady { .. }
                | Event::JoinClose { .. }
                | Event::Stalled { .. }
                | Event::Contradicted(_)
                | Event::Repaired(_)
                | Event::RepairFailed(..)
                | Event::Lost(_)
                | Event::Unlink(_) => unreachable!("it is alone"),
                Event::Failed(error) if !self.faulty => return Err(format!("not open: {error}")),
                Event::Poisoned(error) if !self.faulty => return Err(format!("poisoned: {error}")),
                Event::Postponed(error) if !self.faulty => return Err(format!("later: {error}")),
                Event::Found(found) if !self.faulty => return Err(format!("LOST: {found}")),
                Event::Failed(_) | Event::Poisoned(_) | Event::Postponed(_) | Event::Found(_) => {}
            }
        }
        if let Some(log) = self.replica.log() {
            if !log.damaged().is_empty() {
                return Err(format!("LOST: damaged: {:?}", log.damaged()));
            }
            self.books.begins_at(log.log_start().get())?;
        }
        Ok(())
    }

    fn receipt(&mut self, ticket: u64, receipt: Receipt) -> Result<(), String> {
        let sent = self.books.sent.iter().find(|sent| sent.base == ticket);
        let sent = sent.ok_or_else(|| format!("a receipt for {ticket}, which was not sent"))?;
        let (base, next) = (receipt.base.get(), receipt.next.get());
        if (base, next) != (sent.base, sent.next) {
            return Err(format!("DUPLICATED: {ticket} stands at {base}..{next}"));
        }
        if receipt.level != Durability::ChainDisk || receipt.copies != 1 {
            return Err(format!("a receipt that does not keep its word: {receipt:?}"));
        }
        self.receipts.insert(ticket, receipt);
        self.books.acked_to(next)
    }

    /// Begins a life, to its end in sight: the log is open, and what it holds is in the books.
    fn open(&mut self, watch: Watch<'_>) -> Result<(), String> {
        self.reopen(watch).map(drop)
    }

    /// As above; tells what is lost.
    fn reopen(&mut self, watch: Watch<'_>) -> Result<Vec<Sent>, String> {
        for _ in 0..=TRIES {
            self.drain(watch)?;
            match self.replica.phase() {
                Phase::Open => {
                    let log = self.replica.log().expect("it is open");
                    return self.books.ends_at(log.log_end().get());
                }
                // Whoever runs the node starts it again.
                Phase::Failed(_) => {
                    self.end_life(Crash::ProcessKill, Leaves::Nothing);
                }
                Phase::Opening => self.wait(SECOND_NS, watch)?,
            }
        }
        Err("the log does not open".to_owned())
    }

    /// So much time passes.
    fn wait(&mut self, ns: u64, watch: Watch<'_>) -> Result<(), String> {
        self.ground.now_ns += ns;
        self.replica.on_tick(self.ground.now());
        self.drain(watch)
    }

    /// A second passes, under another configuration.
    fn housekeeping(&mut self, log: LogConfig, watch: Watch<'_>) -> Result<(), String> {
        self.replica.set_config(config(log));
        let waited = self.wait(SECOND_NS, watch);
        self.replica.set_config(config(LogConfig::default()));
        waited
    }

    /// The producer's next batch.
    fn append(&mut self, large: bool) -> Result<(), String> {
        let sent = Sent::new(self.books.end(), large);
        match self.send(&sent) {
            // What is durable at once does not exist.
            Ok(None) => self.books.sent.push(sent),
            Ok(Some(receipt)) => return Err(format!("a receipt at once: {receipt:?}")),
            Err(_) if self.faulty => {}
            Err(error) => return Err(format!("a produce was refused: {error}")),
        }
        Ok(())
    }

    fn send(&mut self, sent: &Sent) -> Result<Option<Receipt>, Refusal> {
        let request = ProduceRequest {
            batch: &sent.bytes,
            durability: Durability::ChainDisk,
            expect_next_offset: None,
            raised: &BTreeMap::new(),
            ticket: Ticket(sent.base),
        };
        self.replica.on_produce(&request, self.ground.now())
    }

    /// Raises the log start to the last durable batch; from there to the end.
    fn trim(&mut self, watch: Watch<'_>) -> Result<(), String> {
        let Some(log) = self.replica.log() else { return Ok(()) };
        let (start, end) = (log.log_start().get(), self.books.acked);
        let last = self.books.sent.iter().rfind(|sent| sent.next <= end).map_or(0, |s| s.base);
        let to = if last > start { last } else { end };
        self.books.start_most = self.books.start_most.max(to);
        match self.replica.trim(Offset::new(to)) {
            Err(error) if !self.faulty => return Err(format!("a trim was refused: {error}")),
            _ => {}
        }
        self.drain(watch)
    }

    /// The next life holds everything that was sent, for all of that was acknowledged.
    fn is_whole(&mut self, watch: Watch<'_>) -> Result<u64, String> {
        let end = self.books.end();
        self.open(watch)?;
        if self.books.end() != end {
            return Err(format!("LOST: {end} was acknowledged before the second crash"));
        }
        let last = self.books.sent.last().cloned();
        last.map_or(Ok(()), |sent| self.repeat(&sent, true, watch))?;
        self.compare(watch)
    }

    /// A batch is sent again, and told to be stored where it is.
    fn repeat(&mut self, sent: &Sent, stored: bool, watch: Watch<'_>) -> Result<(), String> {
        self.receipts.remove(&sent.base);
        let answer = self.send(sent).map_err(|error| format!("{} again: {error}", sent.base))?;
        if let Some(receipt) = answer {
            self.receipt(sent.base, receipt)?;
        }
        self.drain(watch)?;
        let receipt = self.receipts.get(&sent.base);
        let receipt = receipt.ok_or_else(|| format!("{} is not acknowledged again", sent.base))?;
        if receipt.duplicate != stored {
            return Err(format!("DUPLICATED: {} was stored ({stored}): {receipt:?}", sent.base));
        }
        Ok(())
    }

    /// Time enough for another try passes.
    fn pass(&mut self, watch: Watch<'_>) -> Result<(), String> {
        self.drain(watch)?;
        (0..TRIES).try_for_each(|_| self.wait(SECOND_NS, watch))
    }

    fn is_sound(&self) -> bool {
        self.replica.log().is_some_and(|log| log.poisoned().is_none())
    }

    fn all_acked(&self) -> Result<(), String> {
        let (acked, end) = (self.books.acked, self.books.end());
        if acked == end {
            return Ok(());
        }
        Err(format!("{end} was sent, and only {acked} is acknowledged"))
    }

    /// Reads everything from the log start to the high watermark; tells how many records.
    fn compare(&mut self, watch: Watch<'_>) -> Result<u64, String> {
        let Some(log) = self.replica.log() else { return Err("not open".to_owned()) };
        let start = log.log_start().get();
        let end = self.replica.high_watermark().get();
        if end < self.books.acked {
            return Err(format!("LOST: {} acknowledged, readable to {end}", self.books.acked));
        }
        let mut at = start;
        while at < end {
            let batches = self.read(at, watch)?;
            if batches.is_empty() {
                return Err(format!("LOST: nothing at {at}, readable to {end}"));
            }
            for stored in batches {
                at = self.books.read(at, &stored).map_err(|error| format!("at {at}: {error}"))?;
            }
        }
        Ok(end - start)
    }

    fn read(&mut self, at: u64, watch: Watch<'_>) -> Result<Vec<Bytes>, String> {
        for _ in 0..TRIES {
            let answer = match self.replica.read(Offset::new(at), 1 << 20) {
                Ok(ReadOutcome::Ready(batches)) => Ok(batches),
                Ok(ReadOutcome::Pending(id)) => {
                    self.drain(watch)?;
                    self.reads.remove(&id).ok_or("a read does not end")?
                }
                Err(error) => Err(error),
            };
            match answer {
                Ok(batches) => return Ok(batches.shares),
                Err(ReadError::Io(_)) if self.faulty => {}
                Err(error) => return Err(format!("LOST: at {at}: {error}")),
            }
        }
        Err(format!("LOST: {at} cannot be read"))
    }
}
