//! Simulated clients: producers that retry under the same sequences, readers that wander. They
//! speak the real protocol.

use std::collections::{BTreeMap, VecDeque};

use catena_format::{
    BatchHeader, Millis, Offset, PartitionIndex, ProducerEpoch, ProducerId, Sequence, TopicId,
    records::{BatchBuilder, Producer},
};
use catena_wire::{
    AlterTopicRequest, Api, ApiRange, CreateTopicRequest, CreditRequest, Durability, ErrorCode,
    FetchRequest, FetchResponse, FrameHeader, HandshakeRequest, Message, MetadataRequest,
    MetadataResponse, ProduceRequest, ProduceResponse, ProducerIdRequest, ProducerIdResponse, Push,
    Setting, StatusResponse, SubscribeRequest, SubscribeResponse, TrimRequest, TrimResponse,
    UnsubscribeRequest, encode_message,
};

use super::{
    oracle::{Oracle, value},
    random::Random,
};

/// The topic that all use.
pub const TOPIC: &str = "t";
/// How long a client waits before it tries again, in nanoseconds.
const RETRY_NS: u64 = 3_000_000;

/// What a client does with itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Away,
    Greeting,
    Creating,
    Locating,
    Identifying,
    Raising { id: i64, epoch: i16 },
    Running,
}

/// How many partitions the topic has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Partitions {
    /// When it is created.
    pub created: u32,
    /// Once they have been added to.
    pub grown: u32,
}

/// A batch that is not acknowledged.
struct Unacked {
    first: u64,
    count: u32,
    bytes: Vec<u8>,
    correlation: Option<u32>,
}

/// What kind of client.
enum Kind {
    Producer {
        /// Id and epoch, once a server has given them.
        id: Option<(i64, i16)>,
        /// The record whose sequence is zero in this epoch.
        base: u64,
        /// A batch of an epoch that is fenced.
        ghost: Option<u32>,
        partition: u32,
        next: u64,
        unacked: VecDeque<Unacked>,
        window: u64,
    },
    Reader {
        partition: u32,
        offset: u64,
        full: Option<BTreeMap<u64, super::oracle::Name>>,
        /// It subscribes instead of fetching.
        pushed: Option<Pushed>,
    },
    /// It adds partitions, and then tries to take them away again.
    Admin {
        /// How many it asked for.
        asked: u32,
        grown: bool,
    },
}

/// What a subscriber knows of its subscription.
#[derive(Default)]
struct Pushed {
    /// Its name and the correlation id of its request, once it is asked for.
    asked: Option<(u32, u32)>,
    names: u32,
    credit: i64,
    /// Pushes taken.
    count: u64,
}

/// A client.
pub struct Client {
    number: u32,
    random: Random,
    kind: Kind,
    stage: Stage,
    topic: TopicId,
    partitions: Partitions,
    config: Vec<Setting<'static>>,
    /// When it acts next by itself.
    pub wake_ns: u64,
    correlation: u32,
    calls: BTreeMap<u32, Api>,
    out: Vec<Vec<u8>>,
    /// It hung up and wants a new connection.
    pub hung_up: bool,
    /// It produces nothing new.
    pub finishing: bool,
    trims: bool,
    /// What was known of log start and high watermark when the last fetch was asked for.
    told: (u64, u64),
}

impl Client {
    /// A producer.
    #[must_use]
    pub fn producer(
        number: u32,
        random: Random,
        partitions: Partitions,
        config: Vec<Setting<'static>>,
    ) -> Self {
        let partition = number % partitions.grown;
        let mut random = random;
        let window = 1 + random.below(6);
        let unacked = VecDeque::new();
        let kind =
            Kind::Producer { id: None, base: 0, ghost: None, partition, next: 0, unacked, window };
        Self::new(number, random, kind, partitions, config, false)
    }

    /// A reader of random places; `trims`: it sometimes raises the log start.
    #[must_use]
    pub fn reader(number: u32, random: Random, partitions: Partitions, trims: bool) -> Self {
        let partition = number % partitions.grown;
        let kind = Kind::Reader { partition, offset: 0, full: None, pushed: None };
        Self::new(number, random, kind, partitions, Vec::new(), trims)
    }

    /// A reader that is pushed batches from random places on.
    #[must_use]
    pub fn subscriber(number: u32, random: Random, partitions: Partitions) -> Self {
        let partition = number % partitions.grown;
        let pushed = Some(Pushed::default());
        let kind = Kind::Reader { partition, offset: 0, full: None, pushed };
        Self::new(number, random, kind, partitions, Vec::new(), false)
    }

    /// A reader that reads a partition once from end to end.
    #[must_use]
    pub fn checker(number: u32, random: Random, partition: u32, partitions: Partitions) -> Self {
        let full = Some(BTreeMap::new());
        let kind = Kind::Reader { partition, offset: 0, full, pushed: None };
        Self::new(number, random, kind, partitions, Vec::new(), false)
    }

    /// Who adds partitions to the topic.
    #[must_use]
    pub fn admin(number: u32, random: Random, partitions: Partitions) -> Self {
        let kind = Kind::Admin { asked: 0, grown: false };
        Self::new(number, random, kind, partitions, Vec::new(), false)
    }

    fn new(
        number: u32,
        random: Random,
        kind: Kind,
        partitions: Partitions,
        config: Vec<Setting<'static>>,
        trims: bool,
    ) -> Self {
        Self {
            number,
            random,
            kind,
            stage: Stage::Away,
            topic: TopicId::default(),
            partitions,
            config,
            wake_ns: 0,
            correlation: 0,
            calls: BTreeMap::new(),
            out: Vec::new(),
            hung_up: true,
            finishing: false,
            trims,
            told: (0, 0),
        }
    }

    /// The connection is gone: everything unanswered is sent again on the next.
    pub fn on_disconnect(&mut self, now_ns: u64) {
        self.stage = Stage::Away;
        self.calls.clear();
        self.out.clear();
        self.hung_up = true;
        self.wake_ns = now_ns + RETRY_NS + self.random.below(RETRY_NS);
        match &mut self.kind {
            Kind::Producer { unacked, ghost, .. } => {
                *ghost = None;
                unacked.iter_mut().for_each(|batch| batch.correlation = None);
            }
            Kind::Reader { pushed: Some(pushed), .. } => pushed.asked = None,
            Kind::Reader { .. } | Kind::Admin { .. } => {}
        }
    }

    /// A new connection stands.
    pub fn on_connect(&mut self) {
        self.hung_up = false;
        self.stage = Stage::Greeting;
        let request = HandshakeRequest {
            client: "simulated".into(),
            client_version: "".into(),
            apis: ApiRange::spoken(&Api::ALL),
            features: 0,
            mechanism: "".into(),
            authentication: (&[][..]).into(),
        };
        self.call(Api::Handshake, &request, &[]);
    }

    /// The next message to send.
    pub fn poll_message(&mut self) -> Option<Vec<u8>> {
        if self.out.is_empty() { None } else { Some(self.out.remove(0)) }
    }

    /// A producer with nothing unacknowledged, or an admin that has added partitions.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match &self.kind {
            Kind::Producer { unacked, .. } => unacked.is_empty(),
            Kind::Reader { .. } => true,
            Kind::Admin { grown, .. } => *grown,
        }
    }

    /// Pushes that a subscriber has taken.
    #[must_use]
    pub fn pushes(&self) -> u64 {
        match &self.kind {
            Kind::Reader { pushed: Some(pushed), .. } => pushed.count,
            _ => 0,
        }
    }

    /// What a checker has read, once it reached `end`.
    #[must_use]
    pub fn checked(&self) -> Option<(u32, u64, &BTreeMap<u64, super::oracle::Name>)> {
        match &self.kind {
            Kind::Reader { partition, offset, full: Some(read), .. } => {
                Some((*partition, *offset, read))
            }
            _ => None,
        }
    }

    fn call<'m, M: Message<'m>>(&mut self, api: Api, message: &M, payload: &[u8]) -> u32 {
        self.correlation += 1;
        let mut bytes = Vec::new();
        encode_message(api, self.correlation, message, payload.len(), &mut bytes)
            .expect("requests are small");
        bytes.extend_from_slice(payload);
        self.calls.insert(self.correlation, api);
        self.out.push(bytes);
        self.correlation
    }

    /// Time to do something.
    pub fn on_wake(&mut self, now_ns: u64, oracle: &Oracle) {
        self.wake_ns = now_ns + 20_000 + self.random.below(400_000);
        if self.stage != Stage::Running {
            return;
        }
        if self.random.chance(2_000) {
            self.on_disconnect(now_ns);
            return;
        }
        match &self.kind {
            Kind::Producer { .. } => self.produce(now_ns),
            Kind::Reader { partition, pushed: Some(pushed), .. } => {
                if pushed.asked.is_none() {
                    self.told = oracle.told(*partition);
                }
                self.subscribe();
            }
            Kind::Reader { partition, .. } if self.calls.is_empty() => {
                self.told = oracle.told(*partition);
                self.read();
            }
            Kind::Admin { .. } if self.calls.is_empty() => self.alter(),
            Kind::Reader { .. } | Kind::Admin { .. } => {}
        }
    }

    /// Asks for more partitions; once they are there sometimes for fewer, which must be refused.
    fn alter(&mut self) {
        if !self.random.chance(5_000) && !self.finishing {
            return;
        }
        let wished = self.partitions.grown;
        let Kind::Admin { asked, grown } = &mut self.kind else { return };
        *asked = if *grown { wished - 1 } else { wished };
        let request = AlterTopicRequest {
            name: TOPIC.into(),
            set: Vec::new(),
            remove: Vec::new(),
            partitions: *asked,
            new_name: "".into(),
            validate_only: false,
        };
        if request.partitions > 0 {
            self.call(Api::AlterTopic, &request, &[]);
        }
    }

    fn altered(&mut self, response: &StatusResponse<'_>, now_ns: u64) -> Result<(), String> {
        let wished = self.partitions.grown;
        let Kind::Admin { asked, grown } = &mut self.kind else { return Ok(()) };
        match response.error {
            ErrorCode::None if *asked < wished => Err("partitions were taken away".to_owned()),
            ErrorCode::None => {
                *grown = true;
                Ok(())
            }
            ErrorCode::InvalidPartitions if *asked < wished => Ok(()),
            error if error.class() == catena_wire::Class::Definite => {
                Err(format!("{}: {}", error.name(), response.message))
            }
            _ => {
                self.on_disconnect(now_ns);
                Ok(())
            }
        }
    }

    /// Of a partition that may not have been added yet.
    fn may_be_unknown(&self, error: ErrorCode) -> bool {
        let partition = match &self.kind {
            Kind::Producer { partition, .. } | Kind::Reader { partition, .. } => *partition,
            Kind::Admin { .. } => return false,
        };
        error == ErrorCode::UnknownPartition && partition >= self.partitions.created
    }

    /// Asks for the next epoch, now and then when everything is acknowledged. Should the answer be
    /// lost nobody knows the epoch, and a new id is asked for.
    fn raise(&mut self) -> bool {
        let wanted = self.calls.is_empty() && !self.finishing && self.random.chance(5_000);
        let Kind::Producer { id, unacked, .. } = &mut self.kind else { return false };
        if !wanted || !unacked.is_empty() {
            return false;
        }
        let Some((id, epoch)) = id.take() else { return false };
        self.stage = Stage::Raising { id, epoch };
        let (id, epoch) = (ProducerId::new(id), ProducerEpoch::new(epoch));
        self.call(Api::ProducerId, &ProducerIdRequest { id, epoch }, &[]);
        true
    }

    /// A producer id, or another epoch of the one there was.
    fn identified(&mut self, response: &ProducerIdResponse<'_>, now_ns: u64) -> Result<(), String> {
        let before = self.stage;
        if response.error != ErrorCode::None {
            if matches!(before, Stage::Raising { .. })
                && response.error.class() == catena_wire::Class::Definite
            {
                return Err(format!("not raised: {}", response.error.name()));
            }
            self.on_disconnect(now_ns);
            return Ok(());
        }
        let Kind::Producer { id, base, next, .. } = &mut self.kind else { return Ok(()) };
        let unused = Sequence::new((*next - *base) as i32);
        *id = Some((response.id.get(), response.epoch.get()));
        *base = *next;
        self.stage = Stage::Running;
        if let Stage::Raising { id, epoch } = before {
            self.haunt(id, epoch, unused, now_ns);
        }
        Ok(())
    }

    /// Sends another batch of the epoch before, which nobody must take.
    fn haunt(&mut self, id: i64, epoch: i16, sequence: Sequence, now_ns: u64) {
        let Kind::Producer { partition, .. } = &self.kind else { return };
        let request = self.produce_request(*partition);
        let mut builder = BatchBuilder::new();
        let time = Millis::new(1_000_000 + (now_ns / 1_000_000) as i64);
        builder.push(time, None, Some(b"ghost"), &[]);
        let (id, epoch) = (ProducerId::new(id), ProducerEpoch::new(epoch));
        let stamp = Producer { id, epoch, sequence };
        let bytes = builder.build(stamp).expect("a small batch");
        let correlation = self.call(Api::Produce, &request, &bytes);
        if let Kind::Producer { ghost, .. } = &mut self.kind {
            *ghost = Some(correlation);
        }
    }

    fn produce_request(&self, partition: u32) -> ProduceRequest {
        ProduceRequest {
            topic: self.topic,
            partition: PartitionIndex::new(partition),
            durability: Durability::ChainDisk,
            expect_next_offset: None,
            deadline_ms: 0,
        }
    }

    fn produce(&mut self, now_ns: u64) {
        if self.raise() {
            return;
        }
        let count = 1 + self.random.below(5) as u32;
        let number = self.number;
        let Kind::Producer { id, base, next, unacked, window, .. } = &mut self.kind else {
            return;
        };
        if !self.finishing && (unacked.len() as u64) < *window {
            let mut builder = BatchBuilder::new();
            for at in 0..u64::from(count) {
                let time = Millis::new(1_000_000 + (now_ns / 1_000_000) as i64);
                builder.push(time, None, Some(&value((number, *next + at))), &[]);
            }
            let (id, epoch) = id.expect("it runs with an id");
            let producer = Producer {
                id: ProducerId::new(id),
                epoch: ProducerEpoch::new(epoch),
                sequence: Sequence::new((*next - *base) as i32),
            };
            let bytes = builder.build(producer).expect("a small batch");
            unacked.push_back(Unacked { first: *next, count, bytes, correlation: None });
            *next += u64::from(count);
        }
        self.transmit();
    }

    fn transmit(&mut self) {
        let Kind::Producer { partition, unacked, .. } = &self.kind else { return };
        let request = self.produce_request(*partition);
        let unsent = unacked.iter().enumerate().filter(|(_, b)| b.correlation.is_none());
        let unsent: Vec<_> = unsent.map(|(at, b)| (at, b.bytes.clone())).collect();
        for (at, bytes) in unsent {
            let correlation = self.call(Api::Produce, &request, &bytes);
            let Kind::Producer { unacked, .. } = &mut self.kind else { return };
            unacked[at].correlation = Some(correlation);
        }
    }

    /// Begins a subscription, adds to its credit, or ends it.
    fn subscribe(&mut self) {
        let (grant, end) = (self.random.below(30_000) as u32, self.random.chance(10_000));
        let topic = self.topic;
        let Kind::Reader { partition, offset, pushed: Some(pushed), .. } = &mut self.kind else {
            return;
        };
        let (partition, offset) = (PartitionIndex::new(*partition), Offset::new(*offset));
        match pushed.asked {
            None => {
                pushed.names += 1;
                let subscription = pushed.names % 3;
                pushed.credit = i64::from(grant);
                let request = SubscribeRequest {
                    subscription,
                    topic,
                    partition,
                    offset,
                    credit_bytes: grant,
                };
                let correlation = self.call(Api::Subscribe, &request, &[]);
                if let Kind::Reader { pushed: Some(pushed), .. } = &mut self.kind {
                    pushed.asked = Some((subscription, correlation));
                }
            }
            Some((subscription, _)) if end => {
                pushed.asked = None;
                self.call(Api::Unsubscribe, &UnsubscribeRequest { subscription }, &[]);
            }
            Some((subscription, _)) if pushed.credit < 30_000 => {
                pushed.credit += i64::from(grant);
                let request = CreditRequest { subscription, bytes: grant };
                let correlation = self.call(Api::Credit, &request, &[]);
                // It has no answer.
                self.calls.remove(&correlation);
            }
            Some(_) => {}
        }
    }

    fn pushed(
        &mut self,
        correlation: u32,
        push: &Push<'_>,
        payload: &[u8],
        now_ns: u64,
        oracle: &mut Oracle,
    ) -> Result<(), String> {
        let Kind::Reader { offset, pushed: Some(pushed), .. } = &mut self.kind else {
            return Err("a push for nobody".to_owned());
        };
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
            if base as u64 > *offset {
                return Err(format!("pushed from {base} on, at {offset}: there is a seam"));
            }
        }
        let response = FetchResponse {
            next_offset: push.next_offset,
            log_start: push.log_start,
            high_watermark: push.high_watermark,
            epoch: push.epoch,
            ..FetchResponse::refused(push.error, "")
        };
        self.fetched(&response, payload, now_ns, oracle)
    }

    fn read(&mut self) {
        let max_bytes = 1 + self.random.below(60_000) as u32;
        let max_wait_ms = self.random.below(5) as u32;
        let trim = self.trims && self.random.chance(10_000);
        let Kind::Reader { partition, offset, .. } = &self.kind else { return };
        let topic = self.topic;
        let (partition, offset) = (PartitionIndex::new(*partition), Offset::new(*offset));
        if trim {
            let to = Offset::new(offset.get() / 2);
            self.call(Api::Trim, &TrimRequest { topic, partition, to }, &[]);
            return;
        }
        let request =
            FetchRequest { topic, partition, offset, max_bytes, min_bytes: 1, max_wait_ms };
        self.call(Api::Fetch, &request, &[]);
    }

    /// A response has come.
    ///
    /// # Errors
    /// Says what the node broke.
    pub fn on_message(
        &mut self,
        header: &FrameHeader,
        head: &[u8],
        payload: &[u8],
        now_ns: u64,
        oracle: &mut Oracle,
    ) -> Result<(), String> {
        if header.api == Api::Push as u8 {
            let push = Push::decode(head).map_err(|e| format!("a push: {e}"))?;
            return self.pushed(header.correlation, &push, payload, now_ns, oracle);
        }
        let Some(api) = self.calls.remove(&header.correlation) else { return Ok(()) };
        let garbled = |e: catena_wire::WireError| format!("a response of {api:?}: {e}");
        match api {
            Api::Handshake => self.locate(),
            Api::Metadata => {
                self.located(&MetadataResponse::decode(head).map_err(garbled)?, now_ns);
            }
            Api::CreateTopic => self.locate(),
            Api::AlterTopic => {
                let response = StatusResponse::decode(head).map_err(garbled)?;
                self.altered(&response, now_ns)?;
            }
            Api::ProducerId => {
                let response = ProducerIdResponse::decode(head).map_err(garbled)?;
                self.identified(&response, now_ns)?;
            }
            Api::Produce => {
                let response = ProduceResponse::decode(head).map_err(garbled)?;
                self.produced(header.correlation, &response, now_ns, oracle)?;
            }
            Api::Fetch => {
                let response = FetchResponse::decode(head).map_err(garbled)?;
                self.fetched(&response, payload, now_ns, oracle)?;
            }
            Api::Subscribe => {
                let response = SubscribeResponse::decode(head).map_err(garbled)?;
                match response.error {
                    ErrorCode::None => {}
                    error if self.may_be_unknown(error) => self.on_disconnect(now_ns),
                    error if error.class() == catena_wire::Class::Definite => {
                        return Err(format!("{}: {}", error.name(), response.message));
                    }
                    _ => self.on_disconnect(now_ns),
                }
            }
            Api::Unsubscribe => drop(StatusResponse::decode(head).map_err(garbled)?),
            Api::Trim => drop(TrimResponse::decode(head).map_err(garbled)?),
            other => return Err(format!("{other:?} was never asked")),
        }
        Ok(())
    }

    fn locate(&mut self) {
        self.stage = Stage::Locating;
        let names = vec![TOPIC.into()];
        self.call(Api::Metadata, &MetadataRequest { names }, &[]);
    }

    fn located(&mut self, response: &MetadataResponse<'_>, now_ns: u64) {
        let topic = response.topics.first().filter(|_| response.error == ErrorCode::None);
        match topic.map(|topic| (topic.error, topic.id)) {
            Some((ErrorCode::None, id)) => {
                self.topic = id;
                let identified = match &self.kind {
                    Kind::Producer { id, .. } => id.is_some(),
                    Kind::Reader { .. } | Kind::Admin { .. } => true,
                };
                if identified {
                    self.stage = Stage::Running;
                } else {
                    self.stage = Stage::Identifying;
                    let request = ProducerIdRequest::fresh();
                    self.call(Api::ProducerId, &request, &[]);
                }
            }
            Some((ErrorCode::UnknownTopic, _)) if self.number == 0 => {
                self.stage = Stage::Creating;
                let (name, config) = (TOPIC.into(), self.config.clone());
                let partitions = self.partitions.created;
                let request = CreateTopicRequest {
                    name,
                    partitions,
                    replicas: 0,
                    config,
                    validate_only: false,
                };
                self.call(Api::CreateTopic, &request, &[]);
            }
            _ => self.on_disconnect(now_ns),
        }
    }

    fn produced(
        &mut self,
        correlation: u32,
        response: &ProduceResponse<'_>,
        now_ns: u64,
        oracle: &mut Oracle,
    ) -> Result<(), String> {
        let (number, may_be_unknown) = (self.number, self.may_be_unknown(response.error));
        let Kind::Producer { partition, unacked, ghost, .. } = &mut self.kind else {
            return Ok(());
        };
        if *ghost == Some(correlation) {
            *ghost = None;
            return match response.error {
                ErrorCode::None => Err(format!("client {number}: a fenced producer was heard")),
                _ => Ok(()),
            };
        }
        let answered = unacked.iter().position(|b| b.correlation == Some(correlation));
        let Some(at) = answered else { return Ok(()) };
        match response.error {
            ErrorCode::None => {
                if at != 0 {
                    return Err(format!("client {number}: answers came out of order"));
                }
                let batch = unacked.pop_front().expect("the batch was found");
                let count = u64::from(batch.count);
                if response.next_offset.since(response.first_offset) != count {
                    return Err(format!("client {number}: a receipt of another length"));
                }
                let offset = response.first_offset.get();
                oracle.acked(*partition, number, batch.first, count, offset)
            }
            // Behind another one that was refused this is to be expected; alone it says that the
            // node forgot what it had acknowledged.
            ErrorCode::OutOfOrderSequence | ErrorCode::UnknownProducer if at == 0 => {
                Err(format!("client {number}: {}: {}", response.error.name(), response.message))
            }
            ErrorCode::DuplicateOffsetUnknown => {
                Err(format!("client {number}: a batch within the window was not found"))
            }
            error
                if error.class() == catena_wire::Class::Definite
                    && !may_be_unknown
                    && !matches!(
                        error,
                        ErrorCode::OutOfOrderSequence
                            | ErrorCode::UnknownProducer
                            | ErrorCode::PartitionFailed
                    ) =>
            {
                Err(format!("client {number}: {}: {}", error.name(), response.message))
            }
            _ => {
                self.on_disconnect(now_ns);
                Ok(())
            }
        }
    }

    fn fetched(
        &mut self,
        response: &FetchResponse<'_>,
        payload: &[u8],
        now_ns: u64,
        oracle: &mut Oracle,
    ) -> Result<(), String> {
        let jump = self.random.chance(50_000);
        let high = response.high_watermark.get();
        let log_start = response.log_start.get();
        let spot = self.random.below(high.max(1));
        let Kind::Reader { partition, offset, full, pushed } = &mut self.kind else {
            return Ok(());
        };
        let subscribed = pushed.as_ref().is_some_and(|pushed| pushed.asked.is_some());
        match response.error {
            ErrorCode::None => {}
            ErrorCode::OffsetOutOfRange => {
                oracle.bounds(*partition, self.told, log_start, high)?;
                if *offset > high && !oracle.decayed {
                    return Err(format!("offset {offset}, read before, is out of range"));
                }
                *offset = log_start;
                return Ok(());
            }
            ErrorCode::Damaged => {
                let next = response.next_offset.get();
                oracle.damaged(*partition, *offset, next)?;
                *offset = next;
                return Ok(());
            }
            _ => {
                self.on_disconnect(now_ns);
                return Ok(());
            }
        }
        oracle.bounds(*partition, self.told, log_start, high)?;
        let records = oracle.fetched(*partition, payload)?;
        let next = records.last().map_or(0, |(offset, _)| offset + 1);
        if next > high {
            return Err(format!("offset {next} was served above the high watermark"));
        }
        if next != 0 && response.next_offset.get() != next {
            return Err(format!("a fetch ends at {next} and says {}", response.next_offset));
        }
        *offset = response.next_offset.get().max(*offset);
        if let Some(read) = full {
            read.extend(records);
        } else if jump && !subscribed {
            *offset = spot;
        }
        Ok(())
    }
}
