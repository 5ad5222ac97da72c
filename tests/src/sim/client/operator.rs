//! What an operator of several nodes asks for: nodes are drained and take part again, topics get
//! more copies or fewer, and copies are moved.

use std::collections::BTreeSet;

use catena_format::{NodeId, PartitionIndex};
use catena_wire::{
    Api, DrainNodeRequest, ErrorCode, MovePartitionRequest, ReplicateTopicRequest, StatusResponse,
};

use super::{TOPIC, line::Line};
use crate::sim::{deeds::Deed, oracle::Oracle};

/// Who has the say about nodes.
#[derive(Default)]
pub(super) struct Operator {
    /// Nodes that may be drained.
    drained: BTreeSet<NodeId>,
    /// Whom the last request was about, and whether it is to be drained.
    asked: Option<(NodeId, bool)>,
}

impl Operator {
    /// Every node takes part.
    pub(super) fn is_done(&self) -> bool {
        self.drained.is_empty()
    }

    /// Asks for something; in the end for every node to take part.
    pub(super) fn ask(&mut self, line: &mut Line, oracle: &Oracle) {
        let nodes = u64::from(line.plan.nodes);
        let mut any = || NodeId::new(1 + line.random.below(nodes));
        let (one, other) = (any(), any());
        self.asked = None;
        match (line.finishing, line.random.below(5)) {
            (true, _) => {
                if let Some(node) = self.drained.first().copied() {
                    self.drain(node, false, line, oracle);
                }
            }
            (false, 0) => self.drain(one, true, line, oracle),
            (false, 1) => self.drain(one, false, line, oracle),
            (false, 2) => {
                let replicas = 1 + line.random.below(nodes.min(3)) as u8;
                let request =
                    ReplicateTopicRequest { name: TOPIC.into(), replicas, min_replicas: 1 };
                line.call(Api::ReplicateTopic, &request, &[], oracle.now_ns);
            }
            (false, _) => {
                let partition = line.random.below(u64::from(line.plan.grown)) as u32;
                let request = MovePartitionRequest {
                    name: TOPIC.into(),
                    partition: PartitionIndex::new(partition),
                    from: one,
                    to: other,
                };
                line.call(Api::MovePartition, &request, &[], oracle.now_ns);
            }
        }
    }

    fn drain(&mut self, node: NodeId, drain: bool, line: &mut Line, oracle: &Oracle) {
        // Once it was asked for, nobody knows that it is not so.
        if drain {
            self.drained.insert(node);
        }
        self.asked = Some((node, drain));
        line.call(Api::DrainNode, &DrainNodeRequest { node, drain }, &[], oracle.now_ns);
    }

    /// What cannot be is refused; what was done is counted.
    pub(super) fn answered(
        &mut self,
        api: Api,
        response: &StatusResponse<'_>,
        oracle: &mut Oracle,
    ) {
        let asked = self.asked.take();
        if response.error != ErrorCode::None {
            return;
        }
        match (api, asked) {
            (Api::DrainNode, Some((_, true))) => oracle.did(Deed::NodeDrained),
            (Api::DrainNode, Some((node, false))) => {
                self.drained.remove(&node);
            }
            (Api::ReplicateTopic, _) => oracle.did(Deed::Replicated),
            (Api::MovePartition, _) => oracle.did(Deed::PartitionMoved),
            _ => {}
        }
    }
}
