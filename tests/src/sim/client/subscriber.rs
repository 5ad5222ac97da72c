//! A reader that is pushed batches.

use catena_format::{BatchHeader, Offset, PartitionIndex};
use catena_wire::{
    Api, CreditRequest, ErrorCode, FetchResponse, Message, Push, StatusResponse, SubscribeRequest,
    SubscribeResponse, UnsubscribeRequest,
};

use super::{
    line::{Call, Line},
    reader::Reader,
};
use crate::sim::{deeds::Deed, oracle::Oracle};

/// More credit than that is not given, in bytes.
const CREDIT_MAX: i64 = 30_000;

/// What a subscriber knows of its subscription.
#[derive(Default)]
pub(super) struct Pushed {
    /// Its name and the correlation id of its request, once it is asked for.
    pub(super) asked: Option<(u32, u32)>,
    /// It was pushed to since: only the first batch may begin before the offset asked for.
    heard: bool,
    names: u32,
    credit: i64,
    /// Until when it gives none.
    fasts_ns: u64,
    /// Pushes taken.
    pub(super) count: u64,
}

impl Reader {
    /// Begins a subscription, adds to its credit, or ends it.
    pub(super) fn subscribe(&mut self, line: &mut Line, oracle: &mut Oracle) {
        let grant = line.random.below(CREDIT_MAX.unsigned_abs()) as u32;
        let (end, fast) = (line.random.chance(10_000), line.random.chance(2_000));
        let now_ns = oracle.now_ns;
        let (topic, partition) = (line.topic, PartitionIndex::new(self.partition));
        let Some(pushed) = &mut self.pushed else { return };
        match pushed.asked {
            None => {
                pushed.names += 1;
                pushed.heard = false;
                let subscription = pushed.names % 3;
                pushed.credit = i64::from(grant);
                let request = SubscribeRequest {
                    subscription,
                    topic,
                    partition,
                    offset: Offset::new(self.offset),
                    credit_bytes: grant,
                };
                let correlation = line.call(Api::Subscribe, &request, &[], now_ns);
                pushed.asked = Some((subscription, correlation));
            }
            Some((subscription, _)) if end => {
                pushed.asked = None;
                let request = UnsubscribeRequest { subscription };
                line.call(Api::Unsubscribe, &request, &[], now_ns);
            }
            Some(_) if fast => {
                pushed.fasts_ns = now_ns + 20_000_000 + line.random.below(400_000_000);
            }
            Some((subscription, _)) if pushed.credit < CREDIT_MAX && pushed.fasts_ns <= now_ns => {
                if std::mem::take(&mut pushed.fasts_ns) > 0 && pushed.credit <= 0 {
                    oracle.did(Deed::Fasted);
                }
                pushed.credit += i64::from(grant);
                let request = CreditRequest { subscription, bytes: grant };
                let correlation = line.call(Api::Credit, &request, &[], now_ns);
                // It has no answer.
                line.calls.remove(&correlation);
            }
            Some(_) => {}
        }
    }

    pub(super) fn subscribed(
        &mut self,
        line: &mut Line,
        call: &Call,
        head: &[u8],
        oracle: &mut Oracle,
    ) -> Result<(), String> {
        let garbled = |e: catena_wire::WireError| format!("a response of {:?}: {e}", call.api);
        if call.api == Api::Unsubscribe {
            return StatusResponse::decode(head).map(drop).map_err(garbled);
        }
        let response = SubscribeResponse::decode(head).map_err(garbled)?;
        match response.error {
            ErrorCode::None => oracle.topics.served(line.topic, call.sent_ns),
            error => line.refused(self.partition, error, &response.message, oracle),
        }
    }

    pub(super) fn pushed(
        &mut self,
        line: &mut Line,
        correlation: u32,
        push: &Push<'_>,
        payload: &[u8],
        oracle: &mut Oracle,
    ) -> Result<(), String> {
        let Some(pushed) = &mut self.pushed else { return Err("a push for nobody".to_owned()) };
        // Of a subscription that was ended meanwhile.
        if pushed.asked != Some((push.subscription, correlation)) {
            return Ok(());
        }
        if push.error != ErrorCode::None {
            pushed.asked = None;
        } else {
            if pushed.credit <= 0 {
                return Err(format!("pushed without credit ({})", pushed.credit));
            }
            pushed.credit -= payload.len() as i64;
            pushed.count += 1;
            let base = BatchHeader::parse(payload).map_err(|e| e.to_string())?.base_offset;
            let heard = std::mem::replace(&mut pushed.heard, true);
            if heard && base.cast_unsigned() < self.offset {
                return Err(format!("pushed from {base} on once more, at {}", self.offset));
            }
        }
        let response = FetchResponse {
            next_offset: push.next_offset,
            log_start: push.log_start,
            high_watermark: push.high_watermark,
            epoch: push.epoch,
            ..FetchResponse::refused(push.error, "")
        };
        self.fetched(line, &response, payload, oracle)
    }
}
