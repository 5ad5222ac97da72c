//! An idempotent producer: a window of batches, sent again under the same sequences until each is
//! acknowledged or refused for good.

use std::collections::{BTreeMap, VecDeque};

use catena_format::{
    Millis, Offset, PartitionIndex, ProducerEpoch, ProducerId, Sequence,
    records::{BatchBuilder, Producer as Stamp},
};
use catena_wire::{
    Api, Class, Durability, ErrorCode, Message, ProduceRequest, ProduceResponse, ProducerIdRequest,
    ProducerIdResponse,
};

use super::{
    copier::Copy,
    line::{Call, Line, Stage},
};
use crate::sim::{
    deeds::Deed,
    oracle::{Batch, Oracle, Receipt, value},
    random::Random,
    wall::steady_ms,
};

/// The node takes records up to an hour ahead of its clock.
const AHEAD_MS: i64 = 3_600_000;
/// Records claim to be up to so much older than they are, in milliseconds.
const OLDER_MS: u64 = 5_000;

/// What a producer asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Temper {
    /// Everything on the disk of the chain.
    Strict,
    /// Everything on a disk.
    Disk,
    /// Now this, now that.
    Mixed,
}

/// A batch that is not acknowledged.
struct Unacked {
    batch: Batch,
    durability: Durability,
    /// Its condition.
    expected: Option<u64>,
    bytes: Vec<u8>,
    /// The times it was sent on this connection, and not answered.
    calls: Vec<u32>,
    /// The last of them whose condition failed.
    failed: Option<u32>,
    /// The least that the log's end was when it was last sent.
    least_end: u64,
}

/// An attempt of a batch that was acknowledged meanwhile.
struct Echo {
    batch: Batch,
    durability: Durability,
    offset: u64,
    /// Not every disk had it.
    tentative: bool,
}

/// A producer.
pub(super) struct Producer {
    partition: u32,
    /// Id and epoch, once a server has given them.
    id: Option<(i64, i16)>,
    /// The next record's number.
    next: u64,
    /// And its sequence in this epoch.
    sequence: u32,
    unacked: VecDeque<Unacked>,
    window: u64,
    temper: Temper,
    /// A batch of an epoch that is fenced.
    ghost: Option<u32>,
    echoes: BTreeMap<u32, Echo>,
    /// To be sent on another connection.
    pub(super) copies: Vec<Copy>,
}

impl Producer {
    pub(super) fn new(partition: u32, random: &mut Random) -> Self {
        let window = 1 + random.below(6);
        let temper = match random.below(10) {
            0..6 => Temper::Strict,
            6 => Temper::Disk,
            _ => Temper::Mixed,
        };
        Self {
            partition,
            id: None,
            next: 0,
            sequence: 0,
            unacked: VecDeque::new(),
            window,
            temper,
            ghost: None,
            echoes: BTreeMap::new(),
            copies: Vec::new(),
        }
    }

    pub(super) fn partition(&self) -> u32 {
        self.partition
    }

    pub(super) fn is_done(&self) -> bool {
        self.unacked.is_empty()
    }

    pub(super) fn on_hang_up(&mut self) {
        self.ghost = None;
        self.echoes.clear();
        for batch in &mut self.unacked {
            batch.calls.clear();
            batch.failed = None;
        }
    }

    /// The name led to a topic, maybe to another one than before: there nobody knows the producer,
    /// and what was for the old one is forgotten.
    pub(super) fn located(&mut self, line: &mut Line, anew: bool, oracle: &mut Oracle) {
        if anew {
            self.unacked.clear();
            self.copies.clear();
            self.sequence = 0;
        }
        if self.id.is_none() {
            oracle.identity(line.number, None);
            line.stage = Stage::Identifying;
            line.call(Api::ProducerId, &ProducerIdRequest::fresh(), &[], oracle.now_ns);
        }
    }

    pub(super) fn on_wake(&mut self, line: &mut Line, oracle: &mut Oracle) {
        if self.raise(line, oracle) {
            return;
        }
        // One under a condition goes alone.
        let alone = self.unacked.iter().any(|unacked| unacked.expected.is_some());
        if !line.finishing && !alone && (self.unacked.len() as u64) < self.window {
            self.make(line, oracle);
        }
        self.transmit(line, oracle);
    }

    fn make(&mut self, line: &mut Line, oracle: &mut Oracle) {
        let count = 1 + line.random.below(5) as u32;
        let part = (line.topic, self.partition);
        let older = line.random.below(OLDER_MS).cast_signed();
        let latest_ms = steady_ms(oracle.now_ns) - older;
        let first = (line.number, self.next);
        let batch = Batch { part, first, count, latest_ms };
        let expected = (self.unacked.is_empty() && line.random.chance(100_000)).then(|| {
            let end = oracle.least_end(part);
            match line.random.below(4) {
                0 => line.random.below(end + 1),
                1 => end + line.random.below(3),
                _ => end,
            }
        });
        let durability = match (self.temper, line.random.below(4)) {
            (Temper::Strict, _) | (Temper::Mixed, 0) => Durability::ChainDisk,
            (Temper::Disk, _) | (Temper::Mixed, 1) => Durability::HeadDisk,
            (Temper::Mixed, 2) => Durability::ChainMemory,
            (Temper::Mixed, _) => Durability::None,
        };
        let bytes = self.stamp(&batch);
        self.unacked.push_back(Unacked {
            batch,
            durability,
            expected,
            bytes,
            calls: Vec::new(),
            failed: None,
            least_end: 0,
        });
        self.next += u64::from(count);
        oracle.made(batch);
    }

    /// A batch's bytes, under the next sequences.
    fn stamp(&mut self, batch: &Batch) -> Vec<u8> {
        let (client, first) = batch.first;
        let mut builder = BatchBuilder::new();
        for at in 0..u64::from(batch.count) {
            let value = value((client, first + at));
            builder.push(Millis::new(batch.latest_ms), None, Some(&value), &[]);
        }
        let (id, epoch) = self.id.expect("it runs with an id");
        let stamp = Stamp {
            id: ProducerId::new(id),
            epoch: ProducerEpoch::new(epoch),
            sequence: Sequence::new(self.sequence.cast_signed()),
        };
        self.sequence += batch.count;
        builder.build(stamp).expect("a small batch")
    }

    fn transmit(&mut self, line: &mut Line, oracle: &mut Oracle) {
        let Some((id, _)) = self.id else { return };
        for unacked in self.unacked.iter_mut().filter(|unacked| unacked.calls.is_empty()) {
            unacked.least_end = oracle.least_end(unacked.batch.part);
            let request = ProduceRequest {
                topic: line.topic,
                partition: PartitionIndex::new(self.partition),
                durability: unacked.durability,
                expect_next_offset: unacked.expected.map(Offset::new),
                deadline_ms: 0,
            };
            oracle.attempted(&unacked.batch);
            let twice = if unacked.expected.is_some() { 300_000 } else { 10_000 };
            let times = 1 + usize::from(line.random.chance(twice));
            if times > 1 {
                oracle.did(Deed::SentTwice);
            }
            for _ in 0..times {
                let call = line.call(Api::Produce, &request, &unacked.bytes, oracle.now_ns);
                unacked.calls.push(call);
            }
            if unacked.expected.is_none() && line.random.chance(10_000) {
                let (batch, durability, bytes) =
                    (unacked.batch, unacked.durability, unacked.bytes.clone());
                self.copies.push(Copy { batch, durability, id, bytes });
            }
        }
    }

    /// Asks for the next epoch, now and then when everything is acknowledged. Should the answer be
    /// lost nobody knows the epoch, and a new id is asked for.
    fn raise(&mut self, line: &mut Line, oracle: &mut Oracle) -> bool {
        let wanted = line.calls.is_empty() && !line.finishing && line.random.chance(5_000);
        if !wanted || !self.unacked.is_empty() {
            return false;
        }
        let Some((id, epoch)) = self.id.take() else { return false };
        oracle.did(Deed::EpochRaised);
        line.stage = Stage::Raising { id, epoch };
        let (id, epoch) = (ProducerId::new(id), ProducerEpoch::new(epoch));
        line.call(Api::ProducerId, &ProducerIdRequest { id, epoch }, &[], oracle.now_ns);
        true
    }

    pub(super) fn answered(
        &mut self,
        line: &mut Line,
        call: &Call,
        correlation: u32,
        head: &[u8],
        oracle: &mut Oracle,
    ) -> Result<(), String> {
        let garbled = |e: catena_wire::WireError| format!("a response of {:?}: {e}", call.api);
        if call.api == Api::ProducerId {
            let response = ProducerIdResponse::decode(head).map_err(garbled)?;
            return self.identified(line, &response, oracle);
        }
        let response = ProduceResponse::decode(head).map_err(garbled)?;
        if self.ghost == Some(correlation) {
            self.ghost = None;
            return match response.error {
                ErrorCode::None => Err("a fenced producer was heard".to_owned()),
                _ => Ok(()),
            };
        }
        if response.error == ErrorCode::None {
            oracle.topics.served(line.topic, call.sent_ns)?;
        }
        if let Some(echo) = self.echoes.remove(&correlation) {
            return echoed(&echo, &response, oracle);
        }
        let answered = self.unacked.iter().position(|b| b.calls.contains(&correlation));
        match answered {
            Some(at) => self.produced(at, line, correlation, &response, oracle),
            None => Ok(()),
        }
    }

    /// A producer id, or another epoch of the one there was.
    fn identified(
        &mut self,
        line: &mut Line,
        response: &ProducerIdResponse<'_>,
        oracle: &mut Oracle,
    ) -> Result<(), String> {
        let before = line.stage;
        let raising = matches!(before, Stage::Raising { .. });
        if response.error != ErrorCode::None {
            if raising && response.error.class() == Class::Definite {
                return Err(format!("not raised: {}", response.error.name()));
            }
            line.hang_up(oracle.now_ns);
            return Ok(());
        }
        self.id = Some((response.id.get(), response.epoch.get()));
        oracle.identity(line.number, Some(response.id.get()));
        // What is left from an id that was given up begins the new one's sequences.
        let unused = std::mem::take(&mut self.sequence);
        for at in 0..self.unacked.len() {
            let batch = self.unacked[at].batch;
            self.unacked[at].bytes = self.stamp(&batch);
        }
        line.stage = Stage::Running;
        if let Stage::Raising { id, epoch } = before {
            self.haunt(line, id, epoch, unused.cast_signed(), oracle);
        }
        Ok(())
    }

    /// Sends another batch of the epoch before, which nobody must take.
    fn haunt(&mut self, line: &mut Line, id: i64, epoch: i16, sequence: i32, oracle: &Oracle) {
        let mut builder = BatchBuilder::new();
        builder.push(Millis::new(steady_ms(oracle.now_ns)), None, Some(b"ghost"), &[]);
        let (id, epoch) = (ProducerId::new(id), ProducerEpoch::new(epoch));
        let stamp = Stamp { id, epoch, sequence: Sequence::new(sequence) };
        let bytes = builder.build(stamp).expect("a small batch");
        let request = ProduceRequest {
            topic: line.topic,
            partition: PartitionIndex::new(self.partition),
            durability: Durability::ChainDisk,
            expect_next_offset: None,
            deadline_ms: 0,
        };
        self.ghost = Some(line.call(Api::Produce, &request, &bytes, oracle.now_ns));
    }

    fn produced(
        &mut self,
        at: usize,
        line: &mut Line,
        correlation: u32,
        response: &ProduceResponse<'_>,
        oracle: &mut Oracle,
    ) -> Result<(), String> {
        let part = (line.topic, self.partition);
        match response.error {
            ErrorCode::None => self.receipt(at, correlation, response, oracle),
            ErrorCode::OffsetConditionFailed => self.condition(at, correlation, response, oracle),
            // Behind another one that was refused this is to be expected; alone it says that the
            // node forgot what it had acknowledged, which it may in a crash if it said so.
            ErrorCode::OutOfOrderSequence | ErrorCode::UnknownProducer => {
                if at == 0 {
                    if !oracle.may_have_lost(part, line.number) {
                        return Err(format!("{}: {}", response.error.name(), response.message));
                    }
                    oracle.did(Deed::WeaklyLost);
                    self.id = None;
                }
                line.hang_up(oracle.now_ns);
                Ok(())
            }
            ErrorCode::TimestampOutOfRange => {
                if !oracle.wall.was_behind(0, AHEAD_MS - OLDER_MS.cast_signed() - 1000) {
                    return Err(format!("{}: {}", response.error.name(), response.message));
                }
                oracle.did(Deed::TooFarAhead);
                line.hang_up(oracle.now_ns);
                Ok(())
            }
            error => line.refused(self.partition, error, &response.message, oracle),
        }
    }

    fn receipt(
        &mut self,
        at: usize,
        correlation: u32,
        response: &ProduceResponse<'_>,
        oracle: &mut Oracle,
    ) -> Result<(), String> {
        let unacked = self.unacked.remove(at).expect("the batch was found");
        let (batch, durability) = (unacked.batch, unacked.durability);
        let mut before = self.unacked.iter().take(at);
        if !response.flags.duplicate && before.any(|b| b.durability == durability) {
            return Err("answers came out of order".to_owned());
        }
        let receipt = receipt(&batch, durability, response)?;
        if unacked.failed.is_some_and(|failed| failed > correlation) {
            return Err(format!("{batch:?} was stored, and its repetition failed its condition"));
        }
        if let Some(expected) = unacked.expected {
            if receipt.offset != expected {
                return Err(format!("{batch:?} expected {expected} and is at {}", receipt.offset));
            }
            let repeated = response.flags.duplicate;
            oracle.did(if repeated { Deed::ConditionRepeated } else { Deed::ConditionMet });
        }
        for call in unacked.calls.iter().filter(|call| **call != correlation) {
            self.echoes.insert(
                *call,
                Echo { batch, durability, offset: receipt.offset, tentative: receipt.tentative },
            );
        }
        oracle.acked(&batch, &receipt)
    }

    /// A condition did not hold: once no attempt is left the batch is given up, and the next one
    /// gets its sequence.
    fn condition(
        &mut self,
        at: usize,
        correlation: u32,
        response: &ProduceResponse<'_>,
        oracle: &mut Oracle,
    ) -> Result<(), String> {
        let unacked = &mut self.unacked[at];
        let batch = unacked.batch;
        let expected = unacked.expected.ok_or("a condition failed that nobody made")?;
        oracle.did(Deed::ConditionFailed);
        oracle.refused(&batch, expected, unacked.least_end, response.next_offset.get())?;
        unacked.calls.retain(|call| *call != correlation);
        unacked.failed = unacked.failed.max(Some(correlation));
        if unacked.calls.is_empty() {
            self.unacked.remove(at);
            self.sequence -= batch.count;
            oracle.never(&batch);
        }
        Ok(())
    }
}

/// Another attempt of what was acknowledged is answered.
fn echoed(echo: &Echo, response: &ProduceResponse<'_>, oracle: &mut Oracle) -> Result<(), String> {
    // What not every disk had may have been lost with a node, and be elsewhere by now, or nowhere.
    let may_move = echo.tentative && oracle.is_cluster();
    match response.error {
        ErrorCode::None => {
            let receipt = receipt(&echo.batch, echo.durability, response)?;
            if receipt.offset != echo.offset && !may_move {
                return Err(format!(
                    "{:?} is at {} and at {}",
                    echo.batch, echo.offset, receipt.offset
                ));
            }
            oracle.acked(&echo.batch, &receipt)
        }
        _ if may_move => Ok(()),
        error if error.class() == Class::Definite && error != ErrorCode::UnknownTopic => {
            Err(format!("{:?} was acknowledged, and then: {}", echo.batch, error.name()))
        }
        _ => Ok(()),
    }
}

/// What a response says, in the oracle's words.
pub(super) fn receipt(
    batch: &Batch,
    asked: Durability,
    response: &ProduceResponse<'_>,
) -> Result<Receipt, String> {
    if response.next_offset.since(response.first_offset) != u64::from(batch.count) {
        return Err(format!("a receipt of another length for {batch:?}"));
    }
    Ok(Receipt {
        offset: response.first_offset.get(),
        epoch: response.epoch,
        asked,
        level: response.level,
        tentative: response.flags.tentative,
        copies: response.copies,
        append_ms: Some(response.append_time.get()).filter(|_| !response.flags.duplicate),
    })
}
