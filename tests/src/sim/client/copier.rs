//! The second connection of every producer: some batches are sent on it too, sooner or later.

use std::collections::{BTreeMap, VecDeque};

use catena_wire::{Api, Durability, ErrorCode, Message, ProduceRequest, ProduceResponse};

use super::{line::Line, producer::receipt};
use crate::sim::{
    deeds::Deed,
    oracle::{Batch, Oracle},
};

/// More copies are not kept.
const COPIES_MAX: usize = 16;

/// A batch to be sent once more.
#[derive(Clone, Debug)]
pub struct Copy {
    pub(super) batch: Batch,
    pub(super) durability: Durability,
    /// The producer id that it carries.
    pub(super) id: i64,
    pub(super) bytes: Vec<u8>,
}

/// Who sends them.
#[derive(Default)]
pub(super) struct Copier {
    waiting: VecDeque<Copy>,
    sent: BTreeMap<u32, Copy>,
}

impl Copier {
    pub(super) fn take(&mut self, copy: Copy) {
        if self.waiting.len() < COPIES_MAX {
            self.waiting.push_back(copy);
        }
    }

    pub(super) fn on_hang_up(&mut self) {
        self.sent.clear();
    }

    pub(super) fn on_wake(&mut self, line: &mut Line, oracle: &mut Oracle) {
        if line.random.chance(300_000) {
            return;
        }
        while let Some(copy) = self.waiting.pop_front() {
            // A producer that has given up an id sends nothing more under it.
            if !oracle.is_identity(copy.batch.first.0, copy.id) {
                continue;
            }
            let (topic, partition) = copy.batch.part;
            let request = ProduceRequest {
                topic,
                partition: catena_format::PartitionIndex::new(partition),
                durability: copy.durability,
                expect_next_offset: None,
                deadline_ms: 0,
            };
            oracle.attempted(&copy.batch);
            let correlation = line.call(Api::Produce, &request, &copy.bytes, oracle.now_ns);
            self.sent.insert(correlation, copy);
        }
    }

    pub(super) fn answered(
        &mut self,
        _line: &mut Line,
        correlation: u32,
        head: &[u8],
        oracle: &mut Oracle,
    ) -> Result<(), String> {
        let response = ProduceResponse::decode(head).map_err(|e| format!("a receipt: {e}"))?;
        let Some(copy) = self.sent.remove(&correlation) else { return Ok(()) };
        if response.error != ErrorCode::None {
            oracle.did(Deed::CopyRefused);
            return Ok(());
        }
        oracle.did(Deed::CopyAcked);
        oracle.acked(&copy.batch, &receipt(&copy.batch, copy.durability, &response)?)
    }
}
