//! Records as the crate `kafka-protocol` has them.

use bytes::Bytes;
use catena_client::Compression;
use kafka_protocol::{
    indexmap::IndexMap,
    protocol::StrBytes,
    records::{Compression as TheirCompression, Record, TimestampType},
};

/// Key, value, and a header's value: null and empty are different things.
pub(crate) type Plain = (Option<Vec<u8>>, Option<Vec<u8>>, Option<Vec<u8>>);

pub(crate) const BASE_MS: i64 = 1_700_000_000_000;

/// Records of which the first are the odd ones, over several blocks of every framing.
pub(crate) fn plain() -> Vec<Plain> {
    let mut records: Vec<Plain> = vec![
        (None, None, None),
        (Some(vec![]), Some(vec![]), Some(vec![])),
        (Some(b"key".to_vec()), None, Some(b"header".to_vec())),
        (None, Some(vec![0xff; 100_000]), None),
    ];
    records.extend((0..2000u32).map(|number| {
        let value = format!("{number} {:08x}", number.wrapping_mul(0x9e37_79b9)).into_bytes();
        (Some(number.to_be_bytes().to_vec()), Some(value), None)
    }));
    records
}

/// What they call a compression.
pub(crate) fn theirs(compression: Compression) -> TheirCompression {
    match compression {
        Compression::None => TheirCompression::None,
        Compression::Gzip => TheirCompression::Gzip,
        Compression::Snappy => TheirCompression::Snappy,
        Compression::Lz4 => TheirCompression::Lz4,
        Compression::Zstd => TheirCompression::Zstd,
    }
}

/// A record as they have it, of no producer.
pub(crate) fn their_record(number: i64, (key, value, header): &Plain) -> Record {
    let header = (StrBytes::from_static_str("h"), header.clone().map(Bytes::from));
    Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: TimestampType::Creation,
        offset: number,
        // A batch has the sequence of its first record.
        sequence: i32::try_from(number).unwrap() - 1,
        timestamp: BASE_MS + number,
        key: key.clone().map(Bytes::from),
        value: value.clone().map(Bytes::from),
        headers: IndexMap::from([header]),
    }
}
