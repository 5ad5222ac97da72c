//! Answers: how each response is put together.

use std::borrow::Cow;

use catena_format::{Epoch, Offset, PartitionIndex, ProducerEpoch, ProducerId};
use catena_log::io::Memory;
use catena_replication::{Durability as Level, Receipt};
use catena_wire::{
    Api, ApiRange, ConnectionLimits, CoreAddress, DescribeClusterResponse, DescribeTopicResponse,
    Durability, ErrorCode, FetchResponse, FrameHeader, HandshakeRequest, HandshakeResponse,
    HeadAddress, ListOffsetsResponse, Message, MetadataResponse, ProduceResponse,
    ProducerIdResponse, ReceiptFlags, Refusal, StatusResponse, SubscribeResponse, TrimResponse,
    WireError, encode_message, encode_refusal, limits::CREDIT_BYTES_MAX,
};

use crate::{
    limits::Limits,
    node::{Caller, Node, Send, SessionId},
};

/// What is answered with more than an error.
const SERVED: [Api; 22] = [
    Api::Handshake,
    Api::Produce,
    Api::Fetch,
    Api::Subscribe,
    Api::Credit,
    Api::Unsubscribe,
    Api::ListOffsets,
    Api::Metadata,
    Api::CreateTopic,
    Api::AlterTopic,
    Api::DeleteTopic,
    Api::DescribeTopic,
    Api::Trim,
    Api::ProducerId,
    Api::Ping,
    Api::JoinToken,
    Api::DescribeCluster,
    Api::RemoveNode,
    Api::DrainNode,
    Api::ReplicateTopic,
    Api::MovePartition,
    Api::AcceptLoss,
];

impl<M: Memory + Clone> Node<M> {
    pub(crate) fn answer<'r, R: Message<'r>>(&mut self, caller: Caller, response: &R) {
        self.answer_with(caller, response, Vec::new());
    }

    pub(crate) fn answer_with<'r, R: Message<'r>>(
        &mut self,
        caller: Caller,
        response: &R,
        mut shares: Vec<M::Share>,
    ) {
        let payload: usize = shares.iter().map(|share| share.as_ref().len()).sum();
        let mut bytes = Vec::with_capacity(128);
        let Caller { api, correlation, .. } = caller;
        if let Err(error) = encode_message(api, correlation, response, payload, &mut bytes) {
            // Whoever asks for more than fits a response is told so.
            let message = error.to_string().into();
            let refusal = Refusal { error: ErrorCode::FrameTooLarge, message };
            encode_refusal(api as u8, correlation, &refusal, &mut bytes).expect("it is short");
            shares.clear();
        }
        self.deliver(caller, bytes, shares);
    }

    pub(crate) fn answer_producer(
        &mut self,
        caller: Caller,
        (id, epoch): (ProducerId, ProducerEpoch),
    ) {
        let (error, message) = (ErrorCode::None, "".into());
        self.answer(caller, &ProducerIdResponse { error, id, epoch, message });
    }

    pub(crate) fn answer_status(&mut self, caller: Caller, error: ErrorCode, message: &str) {
        self.answer(caller, &StatusResponse { error, message: message.into() });
    }

    /// Answers a request of any kind with an error; a handshake that fails ends the connection.
    pub(crate) fn refuse(&mut self, caller: Caller, error: ErrorCode, message: &str) {
        self.refuse_and_tell(caller, error, message, None);
    }

    /// The same; where the head of a chain is is told to whoever asked about its partition.
    pub(crate) fn refuse_and_tell(
        &mut self,
        caller: Caller,
        error: ErrorCode,
        message: &str,
        head: Option<HeadAddress<'static>>,
    ) {
        self.stats.errors += 1;
        let message = message.into();
        match caller.api {
            Api::Produce => {
                let retry_after_ms = retry_after_ms(error);
                let refused = ProduceResponse::refused(error, message);
                self.answer(caller, &ProduceResponse { retry_after_ms, head, ..refused });
            }
            Api::Fetch => {
                let refused = FetchResponse::refused(error, message);
                self.answer(caller, &FetchResponse { head, ..refused });
            }
            Api::Subscribe => {
                let refused = SubscribeResponse::refused(error, message);
                self.answer(caller, &SubscribeResponse { head, ..refused });
            }
            Api::ListOffsets => {
                let (found, offset, epoch) = (false, Offset::ZERO, Epoch::default());
                let response = ListOffsetsResponse { error, found, offset, epoch, message, head };
                self.answer(caller, &response);
            }
            Api::Trim => {
                let log_start = Offset::ZERO;
                self.answer(caller, &TrimResponse { error, log_start, message, head });
            }
            Api::Handshake
            | Api::Metadata
            | Api::DescribeTopic
            | Api::DescribeCluster
            | Api::ProducerId => self.refuse_question(caller, error, message),
            Api::Unsubscribe
            | Api::Credit
            | Api::Push
            | Api::CreateTopic
            | Api::AlterTopic
            | Api::DeleteTopic
            | Api::Ping
            | Api::JoinToken
            | Api::RemoveNode
            | Api::DrainNode
            | Api::ReplicateTopic
            | Api::MovePartition
            | Api::AcceptLoss => {
                self.answer(caller, &StatusResponse { error, message });
            }
        }
    }

    /// The same for what is about no partition, and is answered with more than that it was done.
    fn refuse_question(&mut self, caller: Caller, error: ErrorCode, message: Cow<'_, str>) {
        match caller.api {
            Api::Handshake => {
                let response = self.greeting(error, message.into_owned());
                self.answer(caller, &response);
                self.end_behind();
            }
            Api::Metadata => {
                let (nodes, topics) = (Vec::new(), Vec::new());
                let response = MetadataResponse { error, version: 0, nodes, topics, message };
                self.answer(caller, &response);
            }
            Api::DescribeTopic => {
                self.answer(caller, &DescribeTopicResponse::refused(error, message));
            }
            Api::DescribeCluster => {
                self.answer(caller, &DescribeClusterResponse::refused(error, message));
            }
            _ => {
                let (id, epoch) = (ProducerId::NONE, ProducerEpoch::new(-1));
                self.answer(caller, &ProducerIdResponse { error, id, epoch, message });
            }
        }
    }

    /// Answers a request of an API or version that is not known here; before the handshake that
    /// ends the connection.
    pub(crate) fn refuse_unknown(
        &mut self,
        session: SessionId,
        header: &FrameHeader,
        error: ErrorCode,
    ) {
        let Some(last) = self.sessions.get(&session).map(|state| !state.greeted) else { return };
        self.stats.errors += 1;
        let refusal = Refusal { error, message: error.to_string().into() };
        let mut bytes = Vec::with_capacity(128);
        encode_refusal(header.api, header.correlation, &refusal, &mut bytes).expect("it is short");
        self.sends.push_back(Send { last, ..Send::new(session, bytes, Vec::new()) });
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Answers a request that is not read to its end, and ends the connection behind the answer.
    pub fn refuse_unread(
        &mut self,
        session: SessionId,
        header: &FrameHeader,
        error: ErrorCode,
        message: String,
    ) {
        self.stats.errors += 1;
        let refusal = Refusal { error, message: message.into() };
        let mut bytes = Vec::with_capacity(128);
        if encode_refusal(header.api, header.correlation, &refusal, &mut bytes).is_ok() {
            self.sends.push_back(Send { last: true, ..Send::new(session, bytes, Vec::new()) });
        }
    }

    /// Answers with an error and ends the connection behind it.
    pub(crate) fn hang_up(&mut self, caller: Caller, error: ErrorCode, message: &str) {
        self.refuse(caller, error, message);
        self.end_behind();
    }

    /// The connection ends behind the answer that was just given.
    fn end_behind(&mut self) {
        if let Some(send) = self.sends.back_mut() {
            send.last = true;
        }
    }

    pub(crate) fn handshake(&mut self, caller: Caller, head: &[u8]) -> Result<(), WireError> {
        let request = HandshakeRequest::decode(head)?;
        if !request.mechanism.is_empty() {
            let text = "no authentication mechanism is configured";
            self.refuse(caller, ErrorCode::AuthenticationFailed, text);
            return Ok(());
        }
        if let Some(session) = self.sessions.get_mut(&caller.session) {
            session.greeted = true;
        }
        let response = self.greeting(ErrorCode::None, String::new());
        self.answer(caller, &response);
        Ok(())
    }

    fn greeting(&self, error: ErrorCode, message: String) -> HandshakeResponse<'static> {
        let address = |core| CoreAddress { core, address: self.advertised.clone().into() };
        let in_flight_bytes_max = u32::try_from(self.limits.bytes_in_flight_max);
        HandshakeResponse {
            error,
            server_version: env!("CARGO_PKG_VERSION").into(),
            apis: ApiRange::spoken(&SERVED),
            features: 0,
            limits: ConnectionLimits {
                head_bytes_max: self.limits.frame_limits().head_bytes_max,
                payload_bytes_max: self.limits.frame_limits().payload_bytes_max,
                in_flight_bytes_max: in_flight_bytes_max.unwrap_or(u32::MAX),
                in_flight_max: self.limits.requests_in_flight_max,
                dedup_window: catena_replication::dedup::DEDUP_WINDOW,
                credit_bytes_max: CREDIT_BYTES_MAX,
            },
            cluster: self.identity.cluster,
            node: self.identity.node,
            incarnation: self.incarnation,
            core: self.core,
            cores: (0..self.cores).map(address).collect(),
            mechanisms: "".into(),
            authentication: Vec::new().into(),
            message: message.into(),
        }
    }

    pub(crate) fn answer_receipt(
        &mut self,
        caller: Caller,
        partition: PartitionIndex,
        receipt: &Receipt,
    ) {
        let response = ProduceResponse {
            error: ErrorCode::None,
            level: wire_level(receipt.level),
            flags: ReceiptFlags {
                duplicate: receipt.duplicate,
                tentative: receipt.level != Level::ChainDisk,
            },
            copies: receipt.copies,
            partition,
            first_offset: receipt.base,
            next_offset: receipt.next,
            epoch: receipt.epoch,
            append_time: receipt.append_time,
            retry_after_ms: 0,
            message: "".into(),
            head: None,
        };
        self.answer(caller, &response);
    }

    pub(crate) fn answer_condition(&mut self, caller: Caller, log_end: Offset) {
        let message = format!("the next offset is {log_end}");
        let response = ProduceResponse {
            next_offset: log_end,
            ..ProduceResponse::refused(ErrorCode::OffsetConditionFailed, message)
        };
        self.answer(caller, &response);
    }
}

/// How long a producer that is refused for the moment should wait.
fn retry_after_ms(error: ErrorCode) -> u32 {
    match error {
        // So often it is looked whether there is space again.
        ErrorCode::DiskFull => 1000,
        // A few writes of the disk.
        ErrorCode::Throttled | ErrorCode::MemoryBudget | ErrorCode::InFlightBudget => 20,
        _ => 0,
    }
}

pub(crate) fn wire_level(level: Level) -> Durability {
    match level {
        Level::None => Durability::None,
        Level::HeadDisk => Durability::HeadDisk,
        Level::ChainMemory => Durability::ChainMemory,
        Level::ChainDisk => Durability::ChainDisk,
    }
}

pub(crate) fn replica_level(level: Durability) -> Level {
    match level {
        Durability::None => Level::None,
        Durability::HeadDisk => Level::HeadDisk,
        Durability::ChainMemory => Level::ChainMemory,
        Durability::ChainDisk => Level::ChainDisk,
    }
}
