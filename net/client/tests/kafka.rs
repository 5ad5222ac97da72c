//! Batches read by somebody else, and theirs by us: the crate `kafka-protocol`, both ways, in every
//! compression.

mod theirs;

use bytes::{Bytes, BytesMut};
use catena_client::{Compression, DECOMPRESSED_BYTES_MAX};
use catena_format::{
    BATCH_HEADER_BYTES, BatchHeader, Millis, ProducerEpoch, ProducerId, Sequence,
    records::{BatchBuilder, Header, Producer, Records},
};
use kafka_protocol::{
    protocol::StrBytes,
    records::{Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions},
};
use theirs::{BASE_MS, Plain, plain, their_record, theirs};

fn built() -> impl Iterator<Item = Compression> {
    Compression::ALL.into_iter().filter(|c| cfg!(feature = "zstd") || *c != Compression::Zstd)
}

#[test]
fn they_read_what_we_write() {
    let records = plain();
    let mut builder = BatchBuilder::new();
    for (number, (key, value, header)) in (0..).zip(&records) {
        let header = Header { key: b"h", value: header.as_deref() };
        let time = Millis::new(BASE_MS + number);
        builder.push(time, key.as_deref(), value.as_deref(), &[header]);
    }
    let producer = Producer {
        id: ProducerId::new(7),
        epoch: ProducerEpoch::new(3),
        sequence: Sequence::new(5),
    };
    for compression in built() {
        let compressed = compression.compress(builder.records()).unwrap();
        let batch = builder.build_with(producer, compression.codec(), &compressed).unwrap();
        let mut bytes = Bytes::from(batch);
        let read = RecordBatchDecoder::decode(&mut bytes).unwrap();
        assert_eq!(read.compression, theirs(compression));
        assert_eq!(read.records.len(), records.len());
        for (number, (record, (key, value, header))) in (0..).zip(read.records.iter().zip(&records))
        {
            assert_eq!(record.key.as_deref(), key.as_deref(), "{compression}, record {number}");
            assert_eq!(record.value.as_deref(), value.as_deref(), "{compression}, {number}");
            let theirs = record.headers.get(&StrBytes::from_static_str("h")).unwrap();
            assert_eq!(theirs.as_deref(), header.as_deref(), "{compression}, record {number}");
            assert_eq!(record.timestamp, BASE_MS + number);
            assert_eq!((record.producer_id, record.producer_epoch), (7, 3));
        }
    }
}

#[test]
fn we_read_what_they_write() {
    let records = plain();
    let ours = |(number, record)| Record {
        partition_leader_epoch: 1,
        producer_id: 7,
        producer_epoch: 3,
        sequence: i32::try_from(number).unwrap(),
        ..their_record(number, record)
    };
    let written: Vec<Record> = (0..).zip(&records).map(ours).collect();
    for compression in built() {
        let options = RecordEncodeOptions { version: 2, compression: theirs(compression) };
        let mut batch = BytesMut::new();
        RecordBatchEncoder::encode(&mut batch, &written, &options).unwrap();
        let header = BatchHeader::parse(&batch).unwrap();
        header.verify(&batch).unwrap();
        assert_eq!(header.codec, compression.codec());
        let body = &batch[BATCH_HEADER_BYTES..];
        let body = compression.decompress(body, DECOMPRESSED_BYTES_MAX).unwrap();
        let read = Records::new(&body, header.count, header.base_timestamp);
        let read: Vec<Plain> = read
            .map(|record| {
                let record = record.unwrap();
                let value = record.headers().next().unwrap().value;
                let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
                (owned(record.key), owned(record.value), owned(value))
            })
            .collect();
        assert_eq!(read, records, "{compression}");
    }
}
