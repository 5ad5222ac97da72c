//! Golden vectors: one frame of every message, pinned, and read by a second decoder in Python that
//! knows the tables of `docs/wire-protocol.md` and nothing else.
//!
//! `CATENA_GOLDEN=write cargo test -p catena-wire` writes them anew.

use std::{
    env,
    fmt::Debug,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use catena_format::{
    ClusterId, Epoch, Incarnation, JoinToken, Millis, NodeId, Offset, PartitionIndex, PartitionUid,
    ProducerEpoch, ProducerId, TopicId,
};

use crate::{sample::Sample, *};

/// What stands in for record batches.
const PAYLOAD: &[u8] = b"payload";
const CORRELATION: u32 = 0x0102_0304;
const TOPIC: TopicId = TopicId::new(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);

/// Bytes, and what they say.
pub(crate) struct Golden {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) text: String,
}

/// The vectors of a document of the book, and their folder.
pub(crate) struct Goldens {
    pub(crate) folder: &'static str,
    pub(crate) document: &'static str,
    pub(crate) all: Vec<Golden>,
}

fn golden<M>(name: &'static str, api: Api, message: M, payload: &[u8]) -> Golden
where
    M: Message<'static, Owned = M> + Sample + PartialEq + Debug,
{
    let mut bytes = Vec::new();
    encode_message(api, CORRELATION, &message, payload.len(), &mut bytes).unwrap();
    framed(name, bytes, &message, payload)
}

fn framed<M>(name: &'static str, mut bytes: Vec<u8>, message: &M, payload: &[u8]) -> Golden
where
    M: Message<'static, Owned = M> + Sample + PartialEq + Debug,
{
    let header = bytes.first_chunk().expect("a frame begins with a header");
    let header = FrameHeader::parse(header, FrameLimits::RESPONSE).unwrap();
    assert_eq!(M::decode_owned(&bytes[FRAME_HEADER_BYTES..]).as_ref(), Ok(message), "{name}");
    bytes.extend_from_slice(payload);
    assert_eq!(bytes.len() as u64, header.frame_bytes());
    let FrameHeader { api, version, correlation, .. } = header;
    let mut text = format!("api = {api}\nversion = {version}\ncorrelation = {correlation}\n");
    for (field, value) in message.fields().expect("a message has fields") {
        text += &format!("{field} = {value}\n");
    }
    text += &format!("payload = \"{}\"\n", String::from_utf8_lossy(payload));
    Golden { name, bytes, text }
}

fn goldens() -> Goldens {
    let mut all = vec![preface(), refusal()];
    all.extend(handshake());
    all.extend(data());
    all.extend(offsets());
    all.extend(subscriptions());
    all.extend(topics());
    all.extend(metadata());
    all.push(description());
    all.extend(others());
    all.extend(cluster());
    Goldens { folder: "net/wire/golden", document: "docs/wire-protocol.md", all }
}

fn preface() -> Golden {
    let bytes = Preface { core: Some(3) }.encode().to_vec();
    Golden { name: "preface", bytes, text: "version = 1\ncore = 3\n".to_owned() }
}

fn refusal() -> Golden {
    let message = "this API is not known here".into();
    let refusal = Refusal { error: ErrorCode::UnknownApi, message };
    let mut bytes = Vec::new();
    encode_refusal(200, CORRELATION, &refusal, &mut bytes).unwrap();
    framed("refusal", bytes, &refusal, &[])
}

fn handshake() -> [Golden; 2] {
    let request = HandshakeRequest {
        client: "catena-rust".into(),
        client_version: "0.1.0".into(),
        apis: ApiRange::spoken(&[Api::Handshake, Api::Produce]),
        features: 0,
        mechanism: "PLAIN".into(),
        authentication: b"\0user\0secret".as_slice().into(),
    };
    let response = HandshakeResponse {
        error: ErrorCode::None,
        server_version: "0.1.0".into(),
        apis: ApiRange::spoken(&[Api::Handshake, Api::Produce, Api::Fetch]),
        features: 0,
        limits: ConnectionLimits {
            head_bytes_max: 1 << 20,
            payload_bytes_max: 16 << 20,
            in_flight_bytes_max: 64 << 20,
            in_flight_max: 4096,
            dedup_window: 256,
            credit_bytes_max: 1 << 30,
        },
        cluster: ClusterId::new(0xc105_7e12),
        node: NodeId::new(7),
        incarnation: Incarnation::new(12),
        core: 1,
        cores: vec![
            CoreAddress { core: 0, address: "".into() },
            CoreAddress { core: 1, address: "127.0.0.1:9201".into() },
        ],
        mechanisms: "PLAIN SCRAM-SHA-256".into(),
        authentication: b"".as_slice().into(),
        message: "".into(),
    };
    [
        golden("handshake-request", Api::Handshake, request, &[]),
        golden("handshake-response", Api::Handshake, response, &[]),
    ]
}

fn data() -> [Golden; 6] {
    let produce = ProduceRequest {
        topic: TOPIC,
        partition: PartitionIndex::new(5),
        durability: Durability::ChainDisk,
        expect_next_offset: Some(Offset::new(1000)),
        deadline_ms: 30_000,
    };
    let receipt = ProduceResponse {
        error: ErrorCode::None,
        level: Durability::HeadDisk,
        flags: ReceiptFlags { duplicate: true, tentative: true },
        copies: 1,
        partition: PartitionIndex::new(5),
        first_offset: Offset::new(1000),
        next_offset: Offset::new(1010),
        epoch: Epoch::new(3),
        append_time: Millis::new(1_800_000_000_000),
        retry_after_ms: 0,
        message: "".into(),
        head: None,
    };
    let throttled = ProduceResponse {
        retry_after_ms: 25,
        ..ProduceResponse::refused(ErrorCode::Throttled, "the chain is slow at node 2")
    };
    let head = HeadAddress {
        node: NodeId::new(8),
        epoch: Epoch::new(4),
        core: 1,
        address: "node8:9200".into(),
    };
    let moved = ProduceResponse {
        head: Some(head),
        ..ProduceResponse::refused(ErrorCode::NotHead, "this node is not the head")
    };
    let fetch = FetchRequest {
        topic: TOPIC,
        partition: PartitionIndex::new(5),
        offset: Offset::MAX,
        max_bytes: 1 << 20,
        min_bytes: 1,
        max_wait_ms: 500,
    };
    let fetched = FetchResponse {
        partition: PartitionIndex::new(5),
        next_offset: Offset::new(1010),
        log_start: Offset::new(12),
        high_watermark: Offset::new(2000),
        epoch: Epoch::MAX,
        ..FetchResponse::refused(ErrorCode::None, "")
    };
    [
        golden("produce-request", Api::Produce, produce, PAYLOAD),
        golden("produce-response", Api::Produce, receipt, &[]),
        golden("produce-response-refused", Api::Produce, throttled, &[]),
        golden("produce-response-moved", Api::Produce, moved, &[]),
        golden("fetch-request", Api::Fetch, fetch, &[]),
        golden("fetch-response", Api::Fetch, fetched, PAYLOAD),
    ]
}

fn offsets() -> [Golden; 3] {
    let ask = |query| ListOffsetsRequest { topic: TOPIC, partition: PartitionIndex::new(5), query };
    let at_time = OffsetQuery::AtTime(Millis::new(-1));
    let response = ListOffsetsResponse {
        error: ErrorCode::None,
        found: true,
        offset: Offset::new(77),
        epoch: Epoch::new(3),
        message: "".into(),
        head: None,
    };
    [
        golden("list-offsets-request", Api::ListOffsets, ask(at_time), &[]),
        golden("list-offsets-request-latest", Api::ListOffsets, ask(OffsetQuery::Latest), &[]),
        golden("list-offsets-response", Api::ListOffsets, response, &[]),
    ]
}

fn subscriptions() -> [Golden; 5] {
    let subscribe = SubscribeRequest {
        subscription: 9,
        topic: TOPIC,
        partition: PartitionIndex::new(5),
        offset: Offset::new(1000),
        credit_bytes: 4 << 20,
    };
    let subscribed = SubscribeResponse {
        error: ErrorCode::None,
        subscription: 9,
        log_start: Offset::new(12),
        high_watermark: Offset::new(2000),
        epoch: Epoch::new(3),
        message: "".into(),
        head: None,
    };
    let credit = CreditRequest { subscription: 9, bytes: 65_536 };
    let push = Push {
        error: ErrorCode::None,
        subscription: 9,
        next_offset: Offset::new(1010),
        log_start: Offset::new(12),
        high_watermark: Offset::new(2000),
        epoch: Epoch::new(3),
        message: "".into(),
        head: None,
    };
    [
        golden("subscribe-request", Api::Subscribe, subscribe, &[]),
        golden("subscribe-response", Api::Subscribe, subscribed, &[]),
        golden("credit-request", Api::Credit, credit, &[]),
        golden(
            "unsubscribe-request",
            Api::Unsubscribe,
            UnsubscribeRequest { subscription: 9 },
            &[],
        ),
        golden("push", Api::Push, push, PAYLOAD),
    ]
}

fn topics() -> [Golden; 5] {
    let setting =
        |key: &'static str, value: &'static str| Setting { key: key.into(), value: value.into() };
    let create = CreateTopicRequest {
        name: "orders".into(),
        partitions: 12,
        replicas: 3,
        config: vec![setting("retention.ms", "86400000"), setting("segment.bytes", "1048576")],
        validate_only: true,
    };
    let alter = AlterTopicRequest {
        name: "orders".into(),
        set: vec![setting("retention.ms", "1000")],
        remove: vec!["segment.bytes".into()],
        partitions: 24,
        new_name: "bestellungen-für-später".into(),
        validate_only: true,
    };
    let status = StatusResponse { error: ErrorCode::TopicExists, message: "it exists".into() };
    let describe = DescribeTopicRequest { name: "orders".into() };
    [
        golden("create-topic-request", Api::CreateTopic, create, &[]),
        golden("alter-topic-request", Api::AlterTopic, alter, &[]),
        golden(
            "delete-topic-request",
            Api::DeleteTopic,
            DeleteTopicRequest { name: "o".into() },
            &[],
        ),
        golden("describe-topic-request", Api::DescribeTopic, describe, &[]),
        golden("status-response", Api::CreateTopic, status, &[]),
    ]
}

fn place() -> PartitionMetadata {
    PartitionMetadata {
        index: PartitionIndex::new(0),
        uid: PartitionUid::new(44),
        epoch: Epoch::new(3),
        core: 1,
        chain: [7, 8, 9].map(NodeId::new).to_vec(),
        error: ErrorCode::None,
    }
}

fn metadata() -> [Golden; 2] {
    let request = MetadataRequest { names: vec!["orders".into(), "invoices".into()] };
    let response = MetadataResponse {
        error: ErrorCode::None,
        version: 88,
        nodes: vec![NodeAddress { node: NodeId::new(7), address: "node7:9200".into() }],
        topics: vec![
            TopicMetadata {
                error: ErrorCode::None,
                name: "orders".into(),
                id: TOPIC,
                config_version: 81,
                batch_bytes_max: 1 << 20,
                partitions: vec![place()],
            },
            TopicMetadata {
                error: ErrorCode::UnknownTopic,
                name: "invoices".into(),
                id: TopicId::default(),
                config_version: 0,
                batch_bytes_max: 0,
                partitions: Vec::new(),
            },
        ],
        message: "".into(),
    };
    [
        golden("metadata-request", Api::Metadata, request, &[]),
        golden("metadata-response", Api::Metadata, response, &[]),
    ]
}

fn description() -> Golden {
    let setting = SettingInForce {
        key: "retention.ms".into(),
        value: "86400000".into(),
        origin: ConfigOrigin::Topic,
    };
    let partition = PartitionDetail {
        place: place(),
        log_start: Offset::new(12),
        high_watermark: Offset::new(2000),
        durable_end: Offset::new(2010),
        log_end: Offset::new(2020),
        bytes: 123_456_789,
        segments: 4,
        damaged: vec![OffsetRange { start: Offset::new(100), end: Offset::new(110) }],
    };
    let response = DescribeTopicResponse {
        error: ErrorCode::None,
        id: TOPIC,
        config_version: 81,
        config: vec![setting],
        partitions: vec![partition],
        message: "".into(),
    };
    golden("describe-topic-response", Api::DescribeTopic, response, &[])
}

fn others() -> [Golden; 6] {
    let trim =
        TrimRequest { topic: TOPIC, partition: PartitionIndex::new(5), to: Offset::new(500) };
    let trimmed = TrimResponse {
        error: ErrorCode::None,
        log_start: Offset::new(500),
        message: "".into(),
        head: None,
    };
    let producer = ProducerIdResponse {
        error: ErrorCode::None,
        id: ProducerId::new(4711),
        epoch: ProducerEpoch::new(2),
        message: "".into(),
    };
    let allow = JoinTokenRequest { token: JoinToken::new(0x70_6b6e), lifetime_ms: 3_600_000 };
    [
        golden("trim-request", Api::Trim, trim, &[]),
        golden("trim-response", Api::Trim, trimmed, &[]),
        golden("producer-id-request", Api::ProducerId, ProducerIdRequest::fresh(), &[]),
        golden("producer-id-response", Api::ProducerId, producer, &[]),
        golden("ping-request", Api::Ping, PingRequest {}, &[]),
        golden("join-token-request", Api::JoinToken, allow, &[]),
    ]
}

fn cluster() -> [Golden; 7] {
    let node = NodeDetail {
        node: NodeId::new(7),
        incarnation: Incarnation::new(3),
        up: true,
        draining: true,
        witness: false,
        votes: true,
        client: "node7:9200".into(),
        peer: "node7:9202".into(),
        rack: "left".into(),
        cores: 4,
        partitions: 12,
        heads: 4,
        stuck: 1,
    };
    let partition = PartitionHealth {
        topic: "orders".into(),
        partition: PartitionIndex::new(5),
        replicas: 3,
        min_replicas: 2,
        chain: [7, 8].map(NodeId::new).to_vec(),
        running: vec![NodeId::new(7)],
        joining: vec![NodeId::new(9)],
        sick: Vec::new(),
    };
    let described = DescribeClusterResponse {
        error: ErrorCode::None,
        version: 88,
        leads: NodeId::new(7),
        nodes: vec![node],
        partitions: 12,
        impaired: 1,
        listed: vec![partition],
        message: "".into(),
    };
    let (from, to) = (NodeId::new(7), NodeId::new(9));
    let remove = RemoveNodeRequest { node: from };
    let drain = DrainNodeRequest { node: from, drain: true };
    let replicate = ReplicateTopicRequest { name: "orders".into(), replicas: 3, min_replicas: 2 };
    let partition = PartitionIndex::new(5);
    let loss = AcceptLossRequest { node: to, lost: vec![from] };
    let moves = MovePartitionRequest { name: "orders".into(), partition, from, to };
    [
        golden("describe-cluster-request", Api::DescribeCluster, DescribeClusterRequest {}, &[]),
        golden("describe-cluster-response", Api::DescribeCluster, described, &[]),
        golden("remove-node-request", Api::RemoveNode, remove, &[]),
        golden("drain-node-request", Api::DrainNode, drain, &[]),
        golden("replicate-topic-request", Api::ReplicateTopic, replicate, &[]),
        golden("move-partition-request", Api::MovePartition, moves, &[]),
        golden("accept-loss-request", Api::AcceptLoss, loss, &[]),
    ]
}

fn at_root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Sixteen bytes a line, as in the tables of the documentation.
fn hex(bytes: &[u8]) -> String {
    let line = |bytes: &[u8]| {
        let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        bytes.join(" ") + "\n"
    };
    bytes.chunks(16).map(line).collect()
}

fn pinned(path: &Path, expected: &str) {
    if env::var_os("CATENA_GOLDEN").is_some_and(|value| value == "write") {
        fs::write(path, expected).unwrap();
    }
    let stored = fs::read_to_string(path).unwrap_or_default();
    let path = path.display();
    assert_eq!(stored, expected, "{path} differs: a layout is changed only with its version");
}

impl Goldens {
    fn file(&self, golden: &Golden, extension: &str) -> PathBuf {
        at_root(self.folder).join(format!("{}.{extension}", golden.name))
    }

    pub(crate) fn stand_as_they_are_pinned(&self) {
        for golden in &self.all {
            pinned(&self.file(golden, "hex"), &hex(&golden.bytes));
            pinned(&self.file(golden, "txt"), &golden.text);
        }
    }

    pub(crate) fn are_all_files_of_their_folder(&self) {
        let known: Vec<&str> = self.all.iter().map(|golden| golden.name).collect();
        let entries =
            fs::read_dir(at_root(self.folder)).unwrap().map(|entry| entry.unwrap().path());
        for path in entries.filter(|path| path.is_file()) {
            let name = path.file_stem().unwrap().to_str().unwrap();
            assert!(known.contains(&name), "{} is no vector", path.display());
        }
    }

    pub(crate) fn are_read_by_a_second_decoder(&self) {
        let (script, document) = (at_root("tests/python/wire_decoder.py"), at_root(self.document));
        let files = self.all.iter().map(|golden| self.file(golden, "hex"));
        let output = match Command::new("python3").arg(script).arg(document).args(files).output() {
            Ok(output) => output,
            Err(error) => return skipped(&format!("python3 cannot be run: {error}")),
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let read = String::from_utf8(output.stdout).unwrap();
        let mut read = read.split_terminator("# ").skip(1);
        for golden in &self.all {
            let expected = format!("{}\n{}", golden.name, golden.text);
            assert_eq!(read.next(), Some(expected.as_str()));
        }
        assert_eq!(read.next(), None);
    }
}

#[test]
fn every_message_stands_as_its_golden_vector_says() {
    goldens().stand_as_they_are_pinned();
}

#[test]
fn every_file_of_the_golden_folder_is_a_vector() {
    goldens().are_all_files_of_their_folder();
}

#[test]
fn a_second_decoder_reads_every_golden_vector() {
    goldens().are_read_by_a_second_decoder();
}

/// Reports that the running test does nothing, as the tests of the other rooms do.
fn skipped(reason: &str) {
    let current = std::thread::current();
    let line = format!("{}: {reason}\n", current.name().unwrap_or("a test"));
    eprint!("skipped {line}");
    let Some(path) = env::var_os("CATENA_SKIPS") else { return };
    let file = fs::OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).unwrap();
}
