//! A reader: it fetches at places of its own choice, asks for offsets, and raises the log start.

use std::collections::BTreeMap;

use catena_format::{Millis, NodeId, Offset, PartitionIndex, TopicId};
use catena_wire::{
    Api, ErrorCode, FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse, Message,
    OffsetQuery, TrimRequest, TrimResponse,
};

use super::{
    line::{Call, Line},
    subscriber::Pushed,
};
use crate::sim::{
    deeds::Deed,
    oracle::{Name, Oracle, Part},
    wall::steady_ms,
};

/// A question for an offset.
#[derive(Clone, Copy, Debug)]
struct Question {
    query: OffsetQuery,
    /// What was known of log start and high watermark when it was asked.
    told: (u64, u64),
    /// And what was acknowledged to anybody by then: an offset behind it.
    promised: u64,
    /// The answer, which is judged once a later log start is known.
    answer: Option<Option<u64>>,
}

/// A reader.
pub(super) struct Reader {
    pub(super) partition: u32,
    pub(super) offset: u64,
    full: Option<BTreeMap<u64, Name>>,
    /// The node that it reads everything from.
    node: Option<NodeId>,
    /// It subscribes instead of fetching.
    pub(super) pushed: Option<Pushed>,
    question: Option<Question>,
    /// What was known of log start and high watermark when the last request was sent.
    pub(super) told: (u64, u64),
    /// And what this connection has told of them: another copy may be behind.
    seen: (u64, u64),
    trims_to: u64,
}

impl Reader {
    pub(super) fn new(partition: u32) -> Self {
        Self {
            partition,
            offset: 0,
            full: None,
            node: None,
            pushed: None,
            question: None,
            told: (0, 0),
            seen: (0, 0),
            trims_to: 0,
        }
    }

    pub(super) fn subscriber(partition: u32) -> Self {
        Self { pushed: Some(Pushed::default()), ..Self::new(partition) }
    }

    pub(super) fn checker(partition: u32, node: NodeId) -> Self {
        Self { full: Some(BTreeMap::new()), node: Some(node), ..Self::new(partition) }
    }

    pub(super) fn node(&self) -> Option<NodeId> {
        self.node
    }

    pub(super) fn on_hang_up(&mut self) {
        self.seen = (0, 0);
        self.question = None;
        if let Some(pushed) = &mut self.pushed {
            pushed.asked = None;
        }
    }

    /// With another topic, from its beginning.
    pub(super) fn begin(&mut self) {
        self.on_hang_up();
        self.offset = 0;
    }

    pub(super) fn pushes(&self) -> u64 {
        self.pushed.as_ref().map_or(0, |pushed| pushed.count)
    }

    pub(super) fn checked(
        &self,
        topic: TopicId,
    ) -> Option<(Part, NodeId, u64, &BTreeMap<u64, Name>)> {
        let (read, node) = self.full.as_ref().zip(self.node)?;
        Some(((topic, self.partition), node, self.offset, read))
    }

    pub(super) fn on_wake(&mut self, line: &mut Line, oracle: &mut Oracle) {
        let part = (line.topic, self.partition);
        if self.pushed.is_some() {
            if self.pushed.as_ref().is_some_and(|pushed| pushed.asked.is_none()) {
                self.told = oracle.told(part).unwrap_or(self.seen);
            }
            return self.subscribe(line, oracle);
        }
        if !line.calls.is_empty() {
            return;
        }
        self.told = oracle.told(part).unwrap_or(self.seen);
        if self.full.is_some() || self.question.is_some() {
            self.read(line, oracle);
        } else if line.plan.trims && line.random.chance(10_000) {
            self.trims_to = self.offset / 2;
            oracle.trims(part, self.trims_to);
            let (topic, partition) = (line.topic, PartitionIndex::new(self.partition));
            let request = TrimRequest { topic, partition, to: Offset::new(self.trims_to) };
            line.call(Api::Trim, &request, &[], oracle.now_ns);
        } else if line.random.chance(30_000) {
            self.ask(line, oracle);
        } else {
            self.read(line, oracle);
        }
    }

    fn read(&mut self, line: &mut Line, oracle: &Oracle) {
        let request = FetchRequest {
            topic: line.topic,
            partition: PartitionIndex::new(self.partition),
            offset: Offset::new(self.offset),
            max_bytes: 1 + line.random.below(60_000) as u32,
            min_bytes: 1,
            max_wait_ms: line.random.below(5) as u32,
        };
        line.call(Api::Fetch, &request, &[], oracle.now_ns);
    }

    fn ask(&mut self, line: &mut Line, oracle: &Oracle) {
        let query = match line.random.below(9) {
            0 => OffsetQuery::Earliest,
            1 => OffsetQuery::Latest,
            2 => OffsetQuery::LogEnd,
            3 => OffsetQuery::AtOffset(Offset::new(line.random.below(self.told.1 + 2))),
            4 => OffsetQuery::Confirmed,
            _ => {
                let older = line.random.below(6_000 + oracle.now_ns / 1_000_000).cast_signed();
                let spot = line.random.below(2 * self.told.1 + 1);
                // Half of the times are those of batches.
                let known = oracle.time_at((line.topic, self.partition), spot);
                let time = known.unwrap_or(steady_ms(oracle.now_ns) - older);
                OffsetQuery::AtTime(Millis::new(time))
            }
        };
        let promised = oracle.promised_end((line.topic, self.partition));
        self.question = Some(Question { query, told: self.told, promised, answer: None });
        let (topic, partition) = (line.topic, PartitionIndex::new(self.partition));
        let request = ListOffsetsRequest { topic, partition, query };
        line.call(Api::ListOffsets, &request, &[], oracle.now_ns);
    }

    pub(super) fn answered(
        &mut self,
        line: &mut Line,
        call: &Call,
        head: &[u8],
        payload: &[u8],
        oracle: &mut Oracle,
    ) -> Result<(), String> {
        let garbled = |e: catena_wire::WireError| format!("a response of {:?}: {e}", call.api);
        match call.api {
            Api::Fetch => {
                let response = FetchResponse::decode(head).map_err(garbled)?;
                if response.error == ErrorCode::None {
                    oracle.topics.served(line.topic, call.sent_ns)?;
                }
                self.fetched(line, &response, payload, oracle)
            }
            Api::ListOffsets => {
                let response = ListOffsetsResponse::decode(head).map_err(garbled)?;
                if response.error == ErrorCode::None {
                    oracle.topics.served(line.topic, call.sent_ns)?;
                }
                self.told_offset(line, &response, oracle)
            }
            Api::Trim => {
                let response = TrimResponse::decode(head).map_err(garbled)?;
                self.trimmed(line, &response, oracle)
            }
            Api::Subscribe | Api::Unsubscribe => self.subscribed(line, call, head, oracle),
            other => Err(format!("{other:?} was never asked")),
        }
    }

    /// Nothing is asked of what such a trim was refused for: it may be above what is on the disk.
    fn trimmed(
        &mut self,
        line: &Line,
        response: &TrimResponse<'_>,
        oracle: &mut Oracle,
    ) -> Result<(), String> {
        if response.error != ErrorCode::None {
            return Ok(());
        }
        let (to, log_start) = (self.trims_to, response.log_start.get());
        if log_start < to {
            return Err(format!("trimmed to {to}, and the log begins at {log_start}"));
        }
        oracle.did(Deed::Trimmed);
        oracle.log_start((line.topic, self.partition), self.told.0, log_start)
    }

    /// An offset that was asked for.
    fn told_offset(
        &mut self,
        line: &mut Line,
        response: &ListOffsetsResponse<'_>,
        oracle: &mut Oracle,
    ) -> Result<(), String> {
        let Some(question) = &mut self.question else { return Ok(()) };
        let part = (line.topic, self.partition);
        let (at, found) = (response.offset.get(), response.found);
        if response.error != ErrorCode::None {
            self.question = None;
            return line.refused(self.partition, response.error, &response.message, oracle);
        }
        let (start, high) = question.told;
        match question.query {
            OffsetQuery::Earliest => {
                oracle.did(Deed::AskedEarliest);
                oracle.log_start(part, start, at)?;
            }
            OffsetQuery::Latest => {
                oracle.did(Deed::AskedLatest);
                oracle.bounds(part, question.told, start, at)?;
            }
            OffsetQuery::Confirmed => {
                oracle.did(Deed::AskedConfirmed);
                let promised = question.promised;
                if at < promised && !oracle.decayed {
                    return Err(format!("UNSEEN: {at} is confirmed, and {promised} was before"));
                }
                oracle.bounds(part, question.told, start, at)?;
            }
            OffsetQuery::LogEnd => {
                oracle.did(Deed::AskedLogEnd);
                if at < high && !oracle.decayed {
                    return Err(format!("the log ends at {at}, behind {high}"));
                }
            }
            OffsetQuery::AtTime(_) | OffsetQuery::AtOffset(_) => {
                question.answer = Some(found.then_some(at));
                if found {
                    self.offset = at;
                }
                return Ok(());
            }
        }
        self.question = None;
        Ok(())
    }

    /// Judges an answer, now that a later log start is known.
    fn judge(&mut self, line: &Line, log_start: u64, oracle: &mut Oracle) -> Result<(), String> {
        let Some(Question { query, told, answer: Some(answer), .. }) = self.question else {
            return Ok(());
        };
        self.question = None;
        match query {
            OffsetQuery::AtTime(time) => {
                let vain = answer.is_none();
                oracle.did(if vain { Deed::AskedTimeInVain } else { Deed::AskedTime });
                let part = (line.topic, self.partition);
                oracle.timed(part, time.get(), answer, told.1, log_start)
            }
            OffsetQuery::AtOffset(asked) if !oracle.decayed => {
                oracle.did(Deed::AskedOffset);
                let asked = asked.get();
                match answer {
                    Some(at) if at < asked || at > asked.max(log_start) => {
                        Err(format!("from {asked} on {at} is said to be readable"))
                    }
                    None if told.1 > asked.max(log_start) => {
                        Err(format!("from {asked} on nothing is said to be readable"))
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    pub(super) fn fetched(
        &mut self,
        line: &mut Line,
        response: &FetchResponse<'_>,
        payload: &[u8],
        oracle: &mut Oracle,
    ) -> Result<(), String> {
        let jump = line.random.chance(50_000);
        let high = response.high_watermark.get();
        let log_start = response.log_start.get();
        let spot = line.random.below(high.max(1));
        let part = (line.topic, self.partition);
        let subscribed = self.pushed.as_ref().is_some_and(|pushed| pushed.asked.is_some());
        match response.error {
            ErrorCode::None => {}
            ErrorCode::OffsetOutOfRange => {
                oracle.bounds(part, self.told, log_start, high)?;
                // Of several nodes one may have been replaced and not know it.
                if self.offset > high && !oracle.decayed && line.plan.nodes == 1 {
                    return Err(format!("offset {}, read before, is out of range", self.offset));
                }
                self.seen = (log_start, high);
                self.offset = log_start;
                return self.judge(line, log_start, oracle);
            }
            ErrorCode::Damaged => {
                let next = response.next_offset.get();
                oracle.damaged(part, self.offset, next)?;
                self.offset = next;
                return Ok(());
            }
            error => return line.refused(self.partition, error, &response.message, oracle),
        }
        oracle.bounds(part, self.told, log_start, high)?;
        self.seen = (log_start, high);
        let records = oracle.fetched(part, payload)?;
        oracle.epoch(part, response.epoch)?;
        if let Some((first, _)) = records.first().filter(|(first, _)| *first > self.offset) {
            return Err(format!("served from {first} on, at {}: there is a seam", self.offset));
        }
        let next = records.last().map_or(0, |(offset, _)| offset + 1);
        if next > high {
            return Err(format!("offset {next} was served above the high watermark"));
        }
        if next != 0 && response.next_offset.get() != next {
            return Err(format!("a fetch ends at {next} and says {}", response.next_offset));
        }
        self.judge(line, log_start, oracle)?;
        self.offset = response.next_offset.get().max(self.offset);
        if let Some(read) = &mut self.full {
            read.extend(records);
        } else if jump && !subscribed {
            self.offset = spot;
        }
        Ok(())
    }
}
