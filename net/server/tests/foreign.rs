//! Batches of somebody else through the real server, and ours read by them: the crate
//! `kafka-protocol`, both ways, in every compression.

mod common;
#[path = "../../client/tests/theirs/mod.rs"]
mod theirs;

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use catena_client::{
    Client, Compression, Header, NewRecord, Options, ProducerOptions,
    format::{Millis, Offset, PartitionIndex, TopicId},
};
use catena_wire::{
    Api, ErrorCode, FRAME_HEADER_BYTES, FetchRequest, FetchResponse, FrameHeader, FrameLimits,
    Message, ProduceResponse, encode_message,
};
use common::{Server, connect, greet, produce_request};
use kafka_protocol::{
    protocol::StrBytes,
    records::{Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions},
};
use tempfile::TempDir;
use theirs::{BASE_MS, Plain, plain, their_record, theirs};

const ONLY: PartitionIndex = PartitionIndex::new(0);
/// The offset of a batch, and the epoch: what the server sets, and the checksum leaves out.
const SET_BY_THE_SERVER: [std::ops::Range<usize>; 2] = [0..8, 12..16];

struct World {
    server: Server,
    _directory: TempDir,
}

impl World {
    fn new() -> Self {
        let (directory, server) = common::server(&["--cores", "1"]);
        Self { server, _directory: directory }
    }

    fn client(&self) -> Client {
        Client::new(Options::new(&self.server.address))
    }

    fn create_topic(&self, name: &str) -> TopicId {
        let mut client = self.client();
        client.create_topic(name, 1, Vec::new()).unwrap();
        client.topic(name).unwrap().id
    }

    fn connect(&self) -> TcpStream {
        let mut stream = connect(&self.server.address, None);
        greet(&mut stream).unwrap();
        stream
    }
}

/// What a record of theirs says.
fn plain_of(record: &Record) -> Plain {
    let owned = |bytes: &Option<Bytes>| bytes.as_deref().map(<[u8]>::to_vec);
    let header = record.headers.get(&StrBytes::from_static_str("h")).expect("each has one");
    (owned(&record.key), owned(&record.value), owned(header))
}

fn exchange(stream: &mut TcpStream, request: &[u8]) -> (Vec<u8>, Vec<u8>) {
    stream.write_all(request).unwrap();
    let mut read = |bytes: usize| {
        let mut buffer = vec![0; bytes];
        stream.read_exact(&mut buffer).unwrap();
        buffer
    };
    let header = read(FRAME_HEADER_BYTES).try_into().unwrap();
    let header = FrameHeader::parse(&header, FrameLimits::RESPONSE).unwrap();
    assert!(!header.is_refusal());
    (read(header.head_bytes as usize), read(header.payload_bytes as usize))
}

/// Produces a batch as it is; the offset of its first record.
fn produce(stream: &mut TcpStream, topic: TopicId, batch: &[u8]) -> Offset {
    let request = produce_request(topic, ONLY.get());
    let mut bytes = Vec::new();
    encode_message(Api::Produce, 1, &request, batch.len(), &mut bytes).unwrap();
    bytes.extend_from_slice(batch);
    let (head, _) = exchange(stream, &bytes);
    let response = ProduceResponse::decode(&head).unwrap();
    assert_eq!(response.error, ErrorCode::None, "{}", response.message);
    response.first_offset
}

/// The batches from an offset on, as they are on the wire, and where they end.
fn fetch(stream: &mut TcpStream, topic: TopicId, offset: Offset) -> (Vec<u8>, Offset) {
    let request = FetchRequest {
        topic,
        partition: ONLY,
        offset,
        max_bytes: 16 << 20,
        min_bytes: 1,
        max_wait_ms: 0,
    };
    let mut bytes = Vec::new();
    encode_message(Api::Fetch, 1, &request, 0, &mut bytes).unwrap();
    let (head, payload) = exchange(stream, &bytes);
    let response = FetchResponse::decode(&head).unwrap();
    assert_eq!(response.error, ErrorCode::None, "{}", response.message);
    (payload, response.next_offset)
}

#[test]
fn their_batches_come_back_as_they_were() {
    let world = World::new();
    let topic = world.create_topic("theirs");
    let records = plain();
    let written: Vec<Record> =
        (0..).zip(&records).map(|(number, record)| their_record(number, record)).collect();
    let mut stream = world.connect();
    for (round, compression) in (0..).zip(Compression::ALL) {
        let options = RecordEncodeOptions { version: 2, compression: theirs(compression) };
        let mut batch = BytesMut::new();
        RecordBatchEncoder::encode(&mut batch, &written, &options).unwrap();
        let first = produce(&mut stream, topic, &batch);
        assert_eq!(first.get(), round * records.len() as u64);
        let (fetched, next) = fetch(&mut stream, topic, first);
        assert_eq!(next.get(), first.get() + records.len() as u64);
        let mut expected = batch.to_vec();
        for range in SET_BY_THE_SERVER {
            expected[range.clone()].copy_from_slice(&fetched[range]);
        }
        assert!(fetched == expected, "{compression}: other bytes came back");
        let read = RecordBatchDecoder::decode(&mut Bytes::from(fetched)).unwrap();
        assert_eq!(read.compression, theirs(compression));
        assert_eq!(read.records.len(), written.len());
        for (mut read, written) in read.records.into_iter().zip(&written) {
            assert_eq!(read.offset, written.offset + i64::try_from(first.get()).unwrap());
            read.offset = written.offset;
            read.partition_leader_epoch = written.partition_leader_epoch;
            read.sequence = written.sequence;
            assert_eq!(&read, written, "{compression}");
        }
    }
}

#[test]
fn they_read_what_our_client_has_produced() {
    let world = World::new();
    let records = plain();
    for compression in Compression::ALL {
        let name = compression.to_string();
        let topic = world.create_topic(&name);
        // All in one batch: a few records alone may not become smaller, and stay as they are.
        let linger = Duration::from_secs(60);
        let options = ProducerOptions { compression, linger, ..ProducerOptions::default() };
        let producer = world.client().producer(&name, options).unwrap();
        for (number, (key, value, header)) in (0..).zip(&records) {
            let headers = [Header { key: b"h", value: header.as_deref() }];
            let record = NewRecord {
                key: key.as_deref(),
                value: value.as_deref(),
                headers: &headers,
                timestamp: Some(Millis::new(BASE_MS + number)),
                ..NewRecord::default()
            };
            let _ticket = producer.append(&record).unwrap();
        }
        producer.flush().unwrap();
        let (mut stream, mut at, mut read) = (world.connect(), Offset::ZERO, Vec::new());
        while (at.get() as usize) < records.len() {
            let (batches, next) = fetch(&mut stream, topic, at);
            assert!(next > at, "reading stands still at {at}");
            for batch in RecordBatchDecoder::decode_all(&mut Bytes::from(batches)).unwrap() {
                assert_eq!(batch.compression, theirs(compression));
                read.extend(batch.records);
            }
            at = next;
        }
        assert_eq!(read.len(), records.len());
        for (number, (record, plain)) in (0..).zip(read.iter().zip(&records)) {
            assert_eq!((record.offset, record.timestamp), (number, BASE_MS + number));
            assert!(plain_of(record) == *plain, "{compression}: record {number}");
        }
    }
}
