//! Creates the topic, adds partitions to it and tries to take them away again, and deletes it.

use catena_format::TopicId;
use catena_wire::{
    AlterTopicRequest, Api, Class, CreateTopicRequest, DeleteTopicRequest, ErrorCode, Message,
    StatusResponse,
};

use super::{
    TOPIC,
    line::{Call, Line, Stage},
    operator::Operator,
};
use crate::sim::{deeds::Deed, oracle::Oracle};

/// Who has the say about the topic.
pub(super) struct Admin {
    /// How many partitions it asked for.
    asked: u32,
    grown: bool,
    /// How often it will still delete the topic.
    deletions: u32,
    /// The one that it is deleting.
    deleting: Option<TopicId>,
    operator: Operator,
}

impl Admin {
    pub(super) fn new(deletions: u32) -> Self {
        let operator = Operator::default();
        Self { asked: 0, grown: false, deletions, deleting: None, operator }
    }

    pub(super) fn is_done(&self) -> bool {
        self.grown && self.deleting.is_none() && self.operator.is_done()
    }

    /// With another topic.
    pub(super) fn begin(&mut self) {
        self.grown = false;
    }

    /// The name leads nowhere: what was to be deleted is gone, and the next one is to be created.
    pub(super) fn missed(&mut self, line: &mut Line, oracle: &mut Oracle) {
        if self.deleting.take().is_some() {
            oracle.topics.deleted(oracle.now_ns);
            oracle.did(Deed::Deleted);
        }
        line.stage = Stage::Creating;
        let request = CreateTopicRequest {
            name: TOPIC.into(),
            partitions: line.plan.created,
            replicas: if line.plan.nodes == 1 { 0 } else { line.plan.replicas },
            config: line.plan.config.clone(),
            validate_only: false,
        };
        line.call(Api::CreateTopic, &request, &[], oracle.now_ns);
        line.peril = line.random.chance(200_000);
    }

    pub(super) fn on_wake(&mut self, line: &mut Line, oracle: &mut Oracle) {
        if !line.calls.is_empty() {
            return;
        }
        // A deletion that was asked for goes on whatever else happens.
        let again = self.deleting == Some(line.topic);
        if again || self.deletions > 0 && !line.finishing && line.random.chance(10_000) {
            self.delete(line, oracle);
        } else if line.finishing && !self.grown || line.random.chance(5_000) {
            self.alter(line, oracle);
        } else if line.plan.operates && (line.finishing || line.random.chance(4_000)) {
            self.operator.ask(line, oracle);
        }
    }

    fn delete(&mut self, line: &mut Line, oracle: &mut Oracle) {
        if self.deleting.replace(line.topic).is_none() {
            self.deletions -= 1;
            oracle.topics.deletes();
        }
        line.call(Api::DeleteTopic, &DeleteTopicRequest { name: TOPIC.into() }, &[], oracle.now_ns);
        line.peril = line.random.chance(500_000);
    }

    /// Asks for more partitions; once they are there sometimes for fewer, which must be refused.
    fn alter(&mut self, line: &mut Line, oracle: &Oracle) {
        let wished = line.plan.grown;
        self.asked = if self.grown { wished - 1 } else { wished };
        let request = AlterTopicRequest {
            name: TOPIC.into(),
            set: Vec::new(),
            remove: Vec::new(),
            partitions: self.asked,
            new_name: "".into(),
            validate_only: false,
        };
        if request.partitions > 0 {
            line.call(Api::AlterTopic, &request, &[], oracle.now_ns);
        }
    }

    pub(super) fn answered(
        &mut self,
        line: &mut Line,
        call: &Call,
        head: &[u8],
        oracle: &mut Oracle,
    ) -> Result<(), String> {
        let response = StatusResponse::decode(head).map_err(|e| format!("{:?}: {e}", call.api))?;
        match call.api {
            Api::CreateTopic => {
                if response.error == ErrorCode::None {
                    oracle.topics.created(oracle.now_ns);
                }
                line.locate(oracle.now_ns);
                Ok(())
            }
            Api::DeleteTopic
                if matches!(response.error, ErrorCode::None | ErrorCode::UnknownTopic) =>
            {
                self.missed(line, oracle);
                Ok(())
            }
            Api::DeleteTopic => unexpected(line, &response, oracle),
            Api::AlterTopic => self.altered(line, &response, oracle),
            Api::DrainNode | Api::ReplicateTopic | Api::MovePartition => {
                self.operator.answered(call.api, &response, oracle);
                Ok(())
            }
            other => Err(format!("{other:?} was never asked")),
        }
    }

    fn altered(
        &mut self,
        line: &mut Line,
        response: &StatusResponse<'_>,
        oracle: &mut Oracle,
    ) -> Result<(), String> {
        let fewer = self.asked < line.plan.grown;
        match response.error {
            ErrorCode::None if fewer => Err("partitions were taken away".to_owned()),
            ErrorCode::None => {
                self.grown = true;
                oracle.did(Deed::Grown);
                Ok(())
            }
            ErrorCode::InvalidPartitions if fewer => Ok(()),
            _ => unexpected(line, response, oracle),
        }
    }
}

fn unexpected(
    line: &mut Line,
    response: &StatusResponse<'_>,
    oracle: &Oracle,
) -> Result<(), String> {
    if response.error.class() == Class::Definite {
        return Err(format!("{}: {}", response.error.name(), response.message));
    }
    line.hang_up(oracle.now_ns);
    Ok(())
}
