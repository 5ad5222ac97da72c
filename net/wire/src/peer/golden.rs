//! Golden vectors of what nodes say to each other, pinned and read by a second decoder as the
//! clients' are, by the tables of `docs/peer-protocol.md`.
//!
//! `CATENA_GOLDEN=write cargo test -p catena-wire` writes them anew.

use catena_format::{
    BatchHeader, ClusterId, Epoch, Incarnation, JoinToken, Millis, NodeId, Offset, PartitionUid,
    batch,
    checksum::crc32,
    frame::payload_crc,
    records::{BatchBuilder, Producer},
};

use super::*;
use crate::{
    ErrorCode,
    golden::{Golden, Goldens},
};

const PARTITION: PartitionUid = PartitionUid::new(0x0102_0304_0506_0708);
const EPOCH: Epoch = Epoch::new(3);
const SESSION: u64 = 5;

fn golden(name: &'static str, message: PeerMessage<'static>, payload: &[u8]) -> Golden {
    let kind = message.kind();
    let partition = if kind.is_about_partition() { PARTITION } else { PartitionUid::default() };
    let mut bytes = Vec::new();
    message.encode(partition, &[payload], &mut bytes).unwrap();
    bytes.extend_from_slice(payload);
    let frame = PeerFrame::split(&bytes).unwrap().expect("the frame is whole");
    assert_eq!((frame.message().as_ref(), frame.rest), (Ok(&message), [].as_slice()), "{name}");
    let (number, crc) = (kind as u8, frame.header.crc);
    let mut text = format!("kind = {number}\nversion = 1\npartition = {partition}\ncrc = {crc}\n");
    for (field, value) in message.fields() {
        text += &format!("{field} = {value}\n");
    }
    let payload: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
    text += &format!("payload = \"{payload}\"\n");
    Golden { name, bytes, text }
}

fn goldens() -> Goldens {
    let mut all = vec![
        preface("preface", PeerThread::Core(3)),
        preface("preface-consensus", PeerThread::Consensus),
    ];
    all.extend(handshake());
    all.extend(joining());
    all.extend(links());
    all.extend(agreement());
    all.extend(batches());
    Goldens { folder: "net/wire/golden/peer", document: "docs/peer-protocol.md", all }
}

fn preface(name: &'static str, to: PeerThread) -> Golden {
    let text = format!("version = 1\nto = {}\n", to.number());
    Golden { name, bytes: PeerPreface { to }.encode().to_vec(), text }
}

fn handshake() -> [Golden; 3] {
    let hello = PeerHello {
        cluster: ClusterId::new(0xc105_7e12),
        to_node: NodeId::new(8),
        to_incarnation: Incarnation::new(4),
        node: NodeId::new(7),
        incarnation: Incarnation::new(12),
        thread: PeerThread::Core(1),
        cores: 2,
        version_min: 1,
        version_max: 1,
        features: 0,
        software: "catena 0.1.0".into(),
    };
    let welcome = PeerWelcome {
        error: ErrorCode::None,
        cluster: hello.cluster,
        node: NodeId::new(8),
        incarnation: Incarnation::new(4),
        thread: PeerThread::Consensus,
        cores: 4,
        version_min: 1,
        version_max: 2,
        version: 1,
        features: 0,
        software: "catena 0.2.0".into(),
        message: "".into(),
    };
    let refused = PeerWelcome {
        error: ErrorCode::OlderIncarnation,
        version: 0,
        message: "node 7 has an incarnation 13".into(),
        ..welcome.clone()
    };
    [
        golden("hello", PeerMessage::Hello(hello), &[]),
        golden("welcome", PeerMessage::Welcome(welcome), &[]),
        golden("welcome-refused", PeerMessage::Welcome(refused), &[]),
    ]
}

fn joining() -> [Golden; 2] {
    let join = Join {
        token: JoinToken::new(0x70_6b6e),
        life: 1_234_567,
        client: "log-3.example.com:9200".into(),
        peer: "log-3.example.com:9300".into(),
        rack: "east".into(),
        cores: 8,
        witness: false,
    };
    let joined = Admitted {
        error: ErrorCode::None,
        cluster: ClusterId::new(0xc105_7e12),
        node: NodeId::new(3),
        message: "".into(),
    };
    [
        golden("join", PeerMessage::Join(join), &[]),
        golden("admitted", PeerMessage::Admitted(joined), &[]),
    ]
}

fn links() -> [Golden; 3] {
    let time = 1_234_567_890_123;
    [
        golden("ping", PeerMessage::Ping(Ping { time }), &[]),
        golden("pong", PeerMessage::Pong(Pong { time }), &[]),
        golden("fenced", PeerMessage::Fenced(Fenced { epoch: Epoch::MAX }), &[]),
    ]
}

fn agreement() -> [Golden; 3] {
    let start = |epoch, start| EpochStart { epoch: Epoch::new(epoch), start: Offset::new(start) };
    let hello = ChainHello {
        epoch: EPOCH,
        session: SESSION,
        start: Offset::new(12),
        end: Offset::new(1010),
        durable: Offset::new(1000),
        epochs: vec![start(1, 0), start(2, 500)],
    };
    let same = ChainWelcome {
        epoch: EPOCH,
        session: SESSION,
        keep: Offset::new(1005),
        first: Offset::new(1005),
        high_watermark: Offset::new(990),
        payload_crc: 0,
    };
    let fold = b"what is known of the producers";
    let anew = ChainWelcome { keep: Offset::ZERO, payload_crc: crc32(fold), ..same.clone() };
    [
        golden("chain-hello", PeerMessage::ChainHello(hello), &[]),
        golden("chain-welcome", PeerMessage::ChainWelcome(same), &[]),
        golden("chain-welcome-anew", PeerMessage::ChainWelcome(anew), fold),
    ]
}

fn record_batch(base: u64, values: &[&str]) -> (BatchStamp, Vec<u8>) {
    let mut builder = BatchBuilder::new();
    for value in values {
        builder.push(Millis::new(1_800_000_000_000), None, Some(value.as_bytes()), &[]);
    }
    let mut bytes = builder.build(Producer::NONE).unwrap();
    batch::patch(&mut bytes, Offset::new(base), EPOCH);
    let length = u32::try_from(BatchHeader::parse(&bytes).unwrap().length).unwrap();
    let append_time = Millis::new(1_800_000_000_005);
    (BatchStamp { append_time, payload_crc: payload_crc(&bytes), length }, bytes)
}

fn batches() -> [Golden; 6] {
    let (first, mut payload) = record_batch(1005, &["a"]);
    let (second, bytes) = record_batch(1006, &["bb", "ccc"]);
    payload.extend_from_slice(&bytes);
    let append = ChainAppend {
        epoch: EPOCH,
        session: SESSION,
        from: Offset::new(1005),
        to: Offset::new(1008),
        durable_before: Offset::new(1003),
        log_start: Offset::new(12),
        question: 4,
        urgent: true,
        stamps: vec![first, second],
    };
    let wanted = RepairRequest { from: append.from, to: Offset::new(2000) };
    let (from, to, stamps) = (append.from, append.to, append.stamps.clone());
    let repair = RepairResponse { from, to, stamps };
    let none = RepairResponse { from, to: from, stamps: Vec::new() };
    let news = ChainAppend { from: append.to, urgent: false, stamps: Vec::new(), ..append.clone() };
    let progress = |received, durable| MemberProgress {
        received: Offset::new(received),
        durable: Offset::new(durable),
    };
    let commit = ChainCommit {
        epoch: EPOCH,
        session: SESSION,
        high_watermark: Offset::new(1003),
        answered: 3,
        progress: vec![progress(1008, 1005), progress(1005, 1003)],
    };
    [
        golden("chain-append", PeerMessage::ChainAppend(append), &payload),
        golden("chain-append-news", PeerMessage::ChainAppend(news), &[]),
        golden("chain-commit", PeerMessage::ChainCommit(commit), &[]),
        golden("repair-request", PeerMessage::RepairRequest(wanted), &[]),
        golden("repair-response", PeerMessage::RepairResponse(repair), &payload),
        golden("repair-response-none", PeerMessage::RepairResponse(none), &[]),
    ]
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

#[test]
fn every_kind_has_a_golden_vector() {
    let goldens = goldens();
    for kind in PeerKind::ALL {
        let frames = goldens.all.iter().filter(|golden| golden.bytes.starts_with(b"\x9e\xca"));
        assert!(frames.map(|g| g.bytes[2]).any(|number| number == *kind as u8), "{kind:?}");
    }
}
