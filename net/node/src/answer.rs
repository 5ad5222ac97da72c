//! Answers: how each response is put together.

use catena_format::Offset;
use catena_log::io::Memory;
use catena_replication::{Durability as Level, Receipt};
use catena_wire::{
    Api, ApiRange, CoreAddress, Durability, ErrorCode, FetchResponse, HandshakeRequest,
    HandshakeResponse, ListOffsetsResponse, Message, MetadataResponse, PAYLOAD_BYTES_MAX,
    ProduceResponse, ProducerIdResponse, StatusResponse, TrimResponse, WireError, encode_message,
    flags,
};

use crate::node::{Caller, Node, Send};

impl<M: Memory + Clone> Node<M> {
    pub(crate) fn answer<R: Message>(&mut self, caller: Caller, response: &R) {
        self.answer_with(caller, response, Vec::new());
    }

    pub(crate) fn answer_with<R: Message>(
        &mut self,
        caller: Caller,
        response: &R,
        shares: Vec<M::Share>,
    ) {
        let Some(session) = self.sessions.get_mut(&caller.session) else { return };
        session.requests = session.requests.saturating_sub(1);
        session.bytes = session.bytes.saturating_sub(caller.bytes);
        let payload: usize = shares.iter().map(|share| share.as_ref().len()).sum();
        let payload = u32::try_from(payload).expect("a fetch is bounded");
        assert!(payload <= PAYLOAD_BYTES_MAX, "a fetch is bounded");
        let mut bytes = Vec::with_capacity(128);
        encode_message(caller.api, caller.correlation, response, payload, &mut bytes);
        self.sends.push_back(Send { session: caller.session, bytes, shares, last: false });
    }

    pub(crate) fn answer_status(&mut self, caller: Caller, error: ErrorCode, message: &str) {
        self.answer(caller, &StatusResponse { error, message: message.to_owned() });
    }

    /// Answers a request of any kind with an error.
    pub(crate) fn refuse(&mut self, caller: Caller, error: ErrorCode, message: &str) {
        self.stats.errors += 1;
        let message = message.to_owned();
        match caller.api {
            Api::Produce => self.answer(caller, &no_receipt(error, message)),
            Api::Fetch => self.answer(caller, &no_batches(error, message)),
            Api::ListOffsets => {
                let (found, offset, epoch) = (false, 0, 0);
                let response = ListOffsetsResponse { error, found, offset, epoch, message };
                self.answer(caller, &response);
            }
            Api::Metadata => {
                self.answer(caller, &MetadataResponse { error, version: 0, topics: Vec::new() });
            }
            Api::DescribeTopic => self.refuse_description(caller, error, message),
            Api::Trim => self.answer(caller, &TrimResponse { error, log_start: 0, message }),
            Api::ProducerId => {
                self.answer(caller, &ProducerIdResponse { error, id: -1, epoch: -1 });
            }
            Api::Handshake => {
                let response = self.greeting(error, message);
                self.answer(caller, &response);
            }
            Api::CreateTopic | Api::AlterTopic | Api::DeleteTopic | Api::Ping => {
                self.answer(caller, &StatusResponse { error, message });
            }
        }
    }

    /// Answers with an error and ends the connection behind it.
    pub(crate) fn hang_up(&mut self, caller: Caller, error: ErrorCode, message: &str) {
        self.refuse(caller, error, message);
        if let Some(send) = self.sends.back_mut() {
            send.last = true;
        }
    }

    pub(crate) fn handshake(&mut self, caller: Caller, head: &[u8]) -> Result<(), WireError> {
        let request = HandshakeRequest::decode(head)?;
        if !request.mechanism.is_empty() {
            let text = "no authentication mechanism is configured";
            self.hang_up(caller, ErrorCode::AuthenticationFailed, text);
            return Ok(());
        }
        if let Some(session) = self.sessions.get_mut(&caller.session) {
            session.greeted = true;
        }
        let response = self.greeting(ErrorCode::None, String::new());
        self.answer(caller, &response);
        Ok(())
    }

    fn greeting(&self, error: ErrorCode, message: String) -> HandshakeResponse {
        let incarnation = self.orderer.catalog().incarnation(self.identity.node);
        let in_flight_bytes_max = u32::try_from(self.limits.bytes_in_flight_max);
        HandshakeResponse {
            error,
            message,
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            apis: ApiRange::spoken(),
            features: 0,
            cluster: self.identity.cluster.get(),
            node: self.identity.node.get(),
            incarnation: incarnation.get(),
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            in_flight_bytes_max: in_flight_bytes_max.unwrap_or(u32::MAX),
            in_flight_max: self.limits.requests_in_flight_max,
            dedup_window: catena_replication::dedup::DEDUP_WINDOW,
            core: 0,
            cores: vec![CoreAddress { core: 0, address: String::new() }],
        }
    }

    pub(crate) fn answer_receipt(&mut self, caller: Caller, partition: u32, receipt: &Receipt) {
        let tentative = if receipt.copies == 0 { flags::TENTATIVE } else { 0 };
        let duplicate = if receipt.duplicate { flags::DUPLICATE } else { 0 };
        let response = ProduceResponse {
            error: ErrorCode::None,
            level: wire_level(receipt.level),
            flags: tentative | duplicate,
            copies: receipt.copies,
            partition,
            first_offset: receipt.base.get(),
            next_offset: receipt.next.get(),
            epoch: receipt.epoch.get(),
            append_time: receipt.append_time.get(),
            message: String::new(),
        };
        self.answer(caller, &response);
    }

    pub(crate) fn answer_condition(&mut self, caller: Caller, log_end: Offset) {
        let message = format!("the next offset is {log_end}");
        let response = ProduceResponse {
            next_offset: log_end.get(),
            ..no_receipt(ErrorCode::OffsetCondition, message)
        };
        self.answer(caller, &response);
    }
}

pub(crate) fn no_receipt(error: ErrorCode, message: String) -> ProduceResponse {
    ProduceResponse {
        error,
        level: Durability::None,
        flags: 0,
        copies: 0,
        partition: 0,
        first_offset: 0,
        next_offset: 0,
        epoch: 0,
        append_time: -1,
        message,
    }
}

pub(crate) fn no_batches(error: ErrorCode, message: String) -> FetchResponse {
    FetchResponse {
        error,
        partition: 0,
        next_offset: 0,
        log_start: 0,
        high_watermark: 0,
        epoch: 0,
        message,
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
