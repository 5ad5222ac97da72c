//! A server in memory that fails in every way that the protocol knows, with one producer.

use std::collections::{BTreeMap, BTreeSet};

use catena_format::{
    BatchHeader, Epoch, Millis, NodeId, Offset, PartitionIndex, PartitionUid, ProducerEpoch,
    ProducerId, TopicId,
    batch::patch,
    records::{BatchBuilder, Producer as Stamp, Records},
};
use catena_wire::{
    Api, CreditRequest, Durability, ErrorCode, FRAME_HEADER_BYTES, FrameHeader, FrameLimits,
    HeadAddress, Message, MetadataResponse, NodeAddress, PartitionMetadata, ProduceRequest,
    ProduceResponse, ProducerIdRequest, ProducerIdResponse, Push, ReceiptFlags, Refusal,
    StatusResponse, SubscribeRequest, SubscribeResponse, TopicMetadata, UnsubscribeRequest,
    encode_message, encode_refusal,
};

use crate::{core::lane::Lane, greeting::greeting};

pub(super) const PARTITIONS: u32 = 3;
/// Nodes of a cluster, numbered from 1.
pub(super) const NODES: u64 = 3;
/// A record with this value is refused for good.
pub(super) const POISON: &str = "poison";

pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    pub(super) fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}

#[derive(Default)]
pub(super) struct Log {
    /// Values, by offset.
    pub(super) values: Vec<String>,
    pub(super) batches: Vec<(u64, Vec<u8>)>,
    /// The first offset that can be read.
    pub(super) start: u64,
    /// The newest epoch of any producer.
    pub(super) epoch: i16,
    producers: BTreeMap<i64, Known>,
}

/// What a log holds of a producer's epoch.
#[derive(Default)]
struct Known {
    epoch: i16,
    next_sequence: i32,
    /// Offsets by sequences.
    batches: BTreeMap<i32, u64>,
}

/// The most credit of a subscription that the server keeps account of.
pub(super) const CREDIT_BYTES_MAX: u32 = 64 << 10;

/// A server with a producer and some cores.
pub(super) struct Server {
    pub(super) logs: Vec<Log>,
    pub(super) cores: u16,
    pub(super) calm: bool,
    /// Requests that came to a core which does not own the partition.
    pub(super) forwarded: u64,
    /// A core that takes no connections.
    pub(super) full: Option<u16>,
    /// What comes is not read any more.
    pub(super) hangs: bool,
    /// Why nothing can be read.
    pub(super) unreadable: Option<ErrorCode>,
    /// How often it was asked for a sign of life.
    pub(super) pings: u64,
    /// How often the topic was asked for.
    pub(super) asked: u64,
    /// Of a cluster, by partition: the node that is the head, and in which epoch; none: the server
    /// is alone.
    pub(super) heads: Vec<(u64, u32)>,
    /// What a node that has not heard the newest thinks of the heads.
    pub(super) before: Vec<(u64, u32)>,
    /// Nodes that have not heard the newest, however often they are asked.
    pub(super) stale: BTreeSet<u64>,
    /// Nodes that have heard the newest tell where a head is when they are not.
    pub(super) tells: bool,
    /// Nodes that take connections, and then answer nothing.
    pub(super) stopped: BTreeSet<u64>,
    /// A batch or a subscription ends its connection.
    pub(super) cuts: bool,
    /// How many did.
    pub(super) cut: u64,
    /// Requests that came to a node which is not the head.
    pub(super) strayed: u64,
    /// The epochs of producers that were raised, and how often one was; the next producer's id.
    raised: BTreeMap<i64, i16>,
    pub(super) raises: u64,
    next_id: i64,
}

/// A connection as the server has it, to the core of a lane.
pub(super) struct Wire {
    pub(super) lane: Lane,
    /// The node at the other end.
    pub(super) node: u64,
    /// What the preface names.
    pub(super) core: u16,
    pub(super) inbound: Vec<u8>,
    pub(super) greeted: bool,
    pub(super) subscriptions: BTreeMap<u32, Subscription>,
    pub(super) to_client: Vec<u8>,
    /// The server has ended it.
    pub(super) cut: bool,
}

pub(super) struct Subscription {
    pub(super) correlation: u32,
    pub(super) partition: PartitionIndex,
    pub(super) next: u64,
    pub(super) credit: i64,
}

impl Wire {
    pub(super) fn new(lane: Lane, node: u64) -> Self {
        Self {
            lane,
            node,
            core: u16::MAX,
            inbound: Vec::new(),
            greeted: false,
            subscriptions: BTreeMap::new(),
            to_client: Vec::new(),
            cut: false,
        }
    }

    /// The core at the other end; any is the first.
    fn serving(&self) -> u16 {
        if self.core == u16::MAX { 0 } else { self.core }
    }
}

impl Server {
    pub(super) fn new() -> Self {
        let logs = (0..PARTITIONS).map(|_| Log::default()).collect();
        Self {
            logs,
            cores: 2,
            calm: false,
            forwarded: 0,
            full: None,
            hangs: false,
            unreadable: None,
            pings: 0,
            asked: 0,
            heads: Vec::new(),
            before: Vec::new(),
            stale: BTreeSet::new(),
            tells: false,
            stopped: BTreeSet::new(),
            cuts: false,
            cut: 0,
            strayed: 0,
            raised: BTreeMap::new(),
            raises: 0,
            next_id: 2,
        }
    }

    /// Stores so many batches of one record that somebody else produced.
    pub(super) fn fill(&mut self, partition: u32, batches: u64) {
        let log = &mut self.logs[partition as usize];
        for offset in log.values.len() as u64..log.values.len() as u64 + batches {
            let value = offset.to_string();
            let mut builder = BatchBuilder::new();
            builder.push(Millis::new(5), None, Some(value.as_bytes()), &[]);
            let mut stored = builder.build(Stamp::NONE).unwrap();
            patch(&mut stored, Offset::new(offset), Epoch::new(1));
            log.batches.push((offset, stored));
            log.values.push(value);
        }
    }

    /// Takes nothing of a producer before an epoch.
    pub(super) fn shut_out(&mut self, id: i64, epoch: i16) {
        self.raised.insert(id, epoch);
    }

    /// Takes bytes, and answers what is whole.
    pub(super) fn on_bytes(&mut self, wire: &mut Wire, bytes: &[u8], random: &mut Random) {
        if self.hangs || self.stopped.contains(&wire.node) {
            return;
        }
        wire.inbound.extend_from_slice(bytes);
        if !wire.greeted {
            if wire.inbound.len() < 16 {
                return;
            }
            let core = u16::from_le_bytes([wire.inbound[10], wire.inbound[11]]);
            let wanted =
                [wire.lane.core, None].contains(&Some(core).filter(|core| *core < u16::MAX));
            assert!(wanted, "the preface names {core}");
            wire.core = core;
            wire.inbound.drain(..16);
            wire.greeted = true;
        }
        while let Some(header) = wire.inbound.first_chunk::<FRAME_HEADER_BYTES>() {
            let header = FrameHeader::parse(header, FrameLimits::REQUEST).unwrap();
            let whole = usize::try_from(header.frame_bytes()).unwrap();
            if wire.inbound.len() < whole {
                break;
            }
            let frame: Vec<u8> = wire.inbound.drain(..whole).collect();
            let (head, payload) = frame[FRAME_HEADER_BYTES..].split_at(header.head_bytes as usize);
            self.on_frame(wire, &header, head, payload, random);
        }
    }

    fn on_frame(
        &mut self,
        wire: &mut Wire,
        header: &FrameHeader,
        head: &[u8],
        payload: &[u8],
        random: &mut Random,
    ) {
        let (correlation, serving) = (header.correlation, wire.serving());
        let out = &mut wire.to_client;
        match Api::from_number(header.api).unwrap() {
            Api::Produce | Api::Subscribe if self.cuts => self.end(wire),
            Api::Handshake if self.full == Some(wire.core) => {
                let refusal = Refusal { error: ErrorCode::ConnectionBudget, message: "".into() };
                encode_refusal(Api::Handshake as u8, correlation, &refusal, out).unwrap();
            }
            Api::Handshake => {
                let mut greeting = greeting(CREDIT_BYTES_MAX);
                greeting.node = NodeId::new(wire.node);
                encode_message(Api::Handshake, correlation, &greeting, 0, out).unwrap();
            }
            Api::Produce => {
                let request = ProduceRequest::decode(head).unwrap();
                self.forwarded += u64::from(self.owner(request.partition) != serving);
                let answer = match self.is_head(wire.node, request.partition) {
                    true => self.produce(&request, payload, random),
                    false => self.stray(wire.node, request.partition),
                };
                encode_message(Api::Produce, correlation, &answer, 0, out).unwrap();
            }
            Api::ProducerId => {
                let answer = self.producer(&ProducerIdRequest::decode(head).unwrap(), random);
                encode_message(Api::ProducerId, correlation, &answer, 0, out).unwrap();
            }
            Api::Metadata => {
                let answer = self.metadata(wire.node, random);
                encode_message(Api::Metadata, correlation, &answer, 0, out).unwrap();
            }
            Api::Subscribe => {
                self.subscribe(wire, correlation, &SubscribeRequest::decode(head).unwrap(), random);
            }
            Api::Credit => {
                let request = CreditRequest::decode(head).unwrap();
                if let Some(there) = wire.subscriptions.get_mut(&request.subscription) {
                    there.credit += i64::from(request.bytes);
                }
            }
            Api::Unsubscribe => {
                let request = UnsubscribeRequest::decode(head).unwrap();
                wire.subscriptions.remove(&request.subscription);
                encode_message(Api::Unsubscribe, correlation, &done(), 0, out).unwrap();
            }
            Api::Ping => {
                self.pings += 1;
                encode_message(Api::Ping, correlation, &done(), 0, out).unwrap();
            }
            other => panic!("nobody asks for {other:?}"),
        }
        self.push(wire, random);
    }

    fn end(&mut self, wire: &mut Wire) {
        wire.cut = true;
        self.cut += 1;
    }

    fn metadata(&mut self, node: u64, random: &mut Random) -> MetadataResponse<'static> {
        self.asked += 1;
        let (error, nodes) = (ErrorCode::None, self.nodes());
        let busy = !self.calm && random.one_in(4);
        let topics = if busy { Vec::new() } else { vec![self.topic(node, random)] };
        MetadataResponse { error, version: 1, nodes, topics, message: "".into() }
    }

    /// Whether a node serves a partition, which is counted if not.
    fn is_head(&mut self, node: u64, partition: PartitionIndex) -> bool {
        let head = self.heads.get(partition.get() as usize).is_none_or(|head| head.0 == node);
        self.strayed += u64::from(!head);
        head
    }

    /// What a batch is answered by a node that is not the head.
    fn stray(&self, node: u64, partition: PartitionIndex) -> ProduceResponse<'static> {
        let head = self.head_told(node, partition);
        ProduceResponse { head, ..ProduceResponse::refused(ErrorCode::NotHead, "") }
    }

    /// What a node that is not the head tells of it, if it has heard of it and tells so.
    fn head_told(&self, node: u64, partition: PartitionIndex) -> Option<HeadAddress<'static>> {
        let head = self.heads.get(partition.get() as usize)?;
        (self.tells && !self.stale.contains(&node)).then(|| HeadAddress {
            node: NodeId::new(head.0),
            epoch: Epoch::new(head.1),
            core: self.owner(partition),
            address: at(head.0).into(),
        })
    }

    /// Where the nodes of a cluster are.
    fn nodes(&self) -> Vec<NodeAddress<'static>> {
        let nodes = if self.heads.is_empty() { 0..0 } else { 1..NODES + 1 };
        let address = |node| NodeAddress { node: NodeId::new(node), address: at(node).into() };
        nodes.map(address).collect()
    }

    /// The topic as a node knows it, which may not have heard the newest.
    pub(super) fn topic(&self, node: u64, random: &mut Random) -> TopicMetadata<'static> {
        let mut topic = topic(self.cores, self.logs.len() as u32);
        let late = self.stale.contains(&node) || !self.calm && random.one_in(3);
        let heads = if late { &self.before } else { &self.heads };
        for (partition, (head, epoch)) in topic.partitions.iter_mut().zip(heads) {
            partition.chain = vec![NodeId::new(*head)];
            partition.epoch = Epoch::new(*epoch);
        }
        topic
    }

    pub(super) fn owner(&self, partition: PartitionIndex) -> u16 {
        partition.get() as u16 % self.cores
    }

    fn subscribe(
        &mut self,
        wire: &mut Wire,
        correlation: u32,
        request: &SubscribeRequest,
        random: &mut Random,
    ) {
        self.forwarded += u64::from(self.owner(request.partition) != wire.serving());
        let head = self.is_head(wire.node, request.partition);
        let refused = !head || !self.calm && random.one_in(10);
        let error = match refused {
            true if head => ErrorCode::Starting,
            true => ErrorCode::NotHead,
            false => ErrorCode::None,
        };
        let told = self.head_told(wire.node, request.partition).filter(|_| !head);
        let log = &self.logs[request.partition.get() as usize];
        let answer = SubscribeResponse {
            head: told,
            subscription: request.subscription,
            high_watermark: Offset::new(log.values.len() as u64),
            ..SubscribeResponse::refused(error, "")
        };
        encode_message(Api::Subscribe, correlation, &answer, 0, &mut wire.to_client).unwrap();
        if refused {
            return;
        }
        let (partition, next) = (request.partition, request.offset.get());
        let credit = i64::from(request.credit_bytes.min(CREDIT_BYTES_MAX));
        let there = Subscription { correlation, partition, next, credit };
        let before = wire.subscriptions.insert(request.subscription, there);
        assert!(before.is_none(), "the name {} is in use", request.subscription);
    }

    /// Sends what the credit of each subscription covers; now and then one ends.
    fn push(&mut self, wire: &mut Wire, random: &mut Random) {
        let mut ended = Vec::new();
        for (name, there) in &mut wire.subscriptions {
            let log = &self.logs[there.partition.get() as usize];
            let end = log.values.len() as u64;
            let mut push = Push {
                error: ErrorCode::None,
                subscription: *name,
                next_offset: Offset::new(there.next),
                log_start: Offset::ZERO,
                high_watermark: Offset::new(end),
                epoch: Epoch::new(1),
                message: "".into(),
                head: None,
            };
            if let Some(error) = self.unreadable {
                push.error = error;
                let out = &mut wire.to_client;
                encode_message(Api::Push, there.correlation, &push, 0, out).unwrap();
                ended.push(*name);
                continue;
            }
            if there.next < log.start || there.next > end {
                push.error = ErrorCode::OffsetOutOfRange;
                push.next_offset = Offset::new(if there.next > end { end } else { log.start });
                let out = &mut wire.to_client;
                encode_message(Api::Push, there.correlation, &push, 0, out).unwrap();
                ended.push(*name);
                continue;
            }
            while there.credit > 0 && there.next < end {
                let behind = log.batches.partition_point(|(first, _)| *first <= there.next);
                let batch = &log.batches[behind - 1].1;
                there.next = log.batches.get(behind).map_or(end, |(first, _)| *first);
                there.credit -= batch.len() as i64;
                push.next_offset = Offset::new(there.next);
                let (out, bytes) = (&mut wire.to_client, batch.len());
                encode_message(Api::Push, there.correlation, &push, bytes, out).unwrap();
                out.extend_from_slice(batch);
            }
            if !self.calm && random.one_in(20) {
                push.error = ErrorCode::ShuttingDown;
                let out = &mut wire.to_client;
                encode_message(Api::Push, there.correlation, &push, 0, out).unwrap();
                ended.push(*name);
            }
        }
        for name in ended {
            wire.subscriptions.remove(&name);
        }
    }

    fn produce(
        &mut self,
        request: &ProduceRequest,
        payload: &[u8],
        random: &mut Random,
    ) -> ProduceResponse<'static> {
        if !self.calm && random.one_in(10) {
            return ProduceResponse::refused(ErrorCode::Throttled, "");
        }
        let header = BatchHeader::parse(payload).unwrap();
        header.verify(payload).unwrap();
        let values = values(&header, payload);
        let log = &mut self.logs[request.partition.get() as usize];
        let end = log.values.len() as u64;
        let (epoch, sequence) = (header.producer_epoch.get(), header.base_sequence.get());
        let receipt = |first, duplicate| receipt(request.partition, first, header.count, duplicate);
        let id = header.producer_id.get();
        let known = log.producers.entry(id).or_default();
        let same = epoch == known.epoch;
        if let Some(first) = known.batches.get(&sequence).filter(|_| same) {
            return receipt(*first, true);
        }
        if epoch < known.epoch || self.raised.get(&id).is_some_and(|raised| epoch < *raised) {
            return ProduceResponse::refused(ErrorCode::ProducerFenced, "");
        }
        if sequence != if same { known.next_sequence } else { 0 } {
            let code = if known.batches.is_empty() {
                ErrorCode::UnknownProducer
            } else {
                ErrorCode::OutOfOrderSequence
            };
            return ProduceResponse::refused(code, "");
        }
        if values.iter().any(|value| value == POISON) {
            return ProduceResponse::refused(ErrorCode::BadBatch, "");
        }
        if request.expect_next_offset.is_some_and(|expected| expected.get() != end) {
            return ProduceResponse {
                next_offset: Offset::new(end),
                ..ProduceResponse::refused(ErrorCode::OffsetConditionFailed, "")
            };
        }
        let first = end;
        log.values.extend(values);
        if !same {
            *known = Known { epoch, ..Known::default() };
        }
        known.next_sequence = header.base_sequence.wrapping_add(header.count).get();
        known.batches.insert(sequence, first);
        log.epoch = log.epoch.max(epoch);
        let mut stored = payload.to_vec();
        patch(&mut stored, Offset::new(first), Epoch::new(1));
        log.batches.push((first, stored));
        if !self.calm && random.one_in(20) {
            return ProduceResponse::refused(ErrorCode::Timeout, "");
        }
        receipt(first, false)
    }
}

impl Server {
    /// A producer's next epoch, or a producer's id.
    fn producer(
        &mut self,
        request: &ProducerIdRequest,
        random: &mut Random,
    ) -> ProducerIdResponse<'static> {
        let refused = |error| ProducerIdResponse {
            error,
            id: ProducerId::NONE,
            epoch: ProducerEpoch::new(-1),
            message: "".into(),
        };
        if !self.calm && random.one_in(4) {
            return refused(ErrorCode::Starting);
        }
        let (id, epoch) = (request.id.get(), request.epoch.get());
        if self.raised.get(&id).is_some_and(|raised| epoch < *raised) {
            return refused(ErrorCode::ProducerFenced);
        }
        let next = epoch.checked_add(1).filter(|_| id >= 0);
        if id >= 0 {
            self.raised.insert(id, next.unwrap_or(i16::MAX));
            self.raises += 1;
        }
        if !self.calm && random.one_in(4) {
            return refused(ErrorCode::Timeout);
        }
        let fresh = self.next_id;
        self.next_id += i64::from(next.is_none());
        let id = ProducerId::new(if next.is_some() { id } else { fresh });
        let epoch = ProducerEpoch::new(next.unwrap_or(0));
        ProducerIdResponse { error: ErrorCode::None, id, epoch, message: "".into() }
    }
}

fn done() -> StatusResponse<'static> {
    StatusResponse { error: ErrorCode::None, message: "".into() }
}

fn receipt(
    partition: PartitionIndex,
    first: u64,
    count: u32,
    duplicate: bool,
) -> ProduceResponse<'static> {
    ProduceResponse {
        error: ErrorCode::None,
        level: Durability::ChainDisk,
        flags: ReceiptFlags { duplicate, tentative: false },
        copies: 1,
        partition,
        first_offset: Offset::new(first),
        next_offset: Offset::new(first + u64::from(count)),
        epoch: Epoch::new(1),
        append_time: Millis::new(0),
        retry_after_ms: 0,
        message: "".into(),
        head: None,
    }
}

fn values(header: &BatchHeader, batch: &[u8]) -> Vec<String> {
    let records = Records::new(&batch[61..], header.count, header.base_timestamp);
    let value = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    records.map(|record| value(record.unwrap().value.unwrap())).collect()
}

/// The address of a node.
pub(super) fn at(node: u64) -> String {
    format!("node:{node}")
}

pub(super) fn topic(cores: u16, partitions: u32) -> TopicMetadata<'static> {
    let partition = |index: u32| PartitionMetadata {
        index: PartitionIndex::new(index),
        uid: PartitionUid::new(u64::from(index)),
        epoch: Epoch::new(1),
        core: index as u16 % cores,
        chain: Vec::new(),
        error: ErrorCode::None,
    };
    TopicMetadata {
        error: ErrorCode::None,
        name: "t".into(),
        id: TopicId::new(1),
        config_version: 1,
        batch_bytes_max: 4096,
        partitions: (0..partitions).map(partition).collect(),
    }
}
