//! What a produced batch must be before anything of it is stored.

use catena_format::{BatchError, BatchHeader, Millis};

/// Why a batch is not taken, for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidBatch {
    /// See [`BatchError`].
    #[error(transparent)]
    Header(#[from] BatchError),
    /// More bytes than the topic allows.
    #[error("a batch of {bytes} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// The batch's bytes.
        bytes: usize,
        /// The topic's limit.
        limit: usize,
    },
    /// More or fewer bytes were sent than the batch has.
    #[error("{given} bytes were sent for a batch of {length}")]
    NotOneBatch {
        /// What its header says.
        length: usize,
        /// What came.
        given: usize,
    },
    /// A transaction's batch.
    #[error("transactional batches are not supported")]
    Transactional,
    /// A control batch, which only a server writes.
    #[error("control batches are not taken from clients")]
    Control,
    /// The log-append-time bit, which only a server sets.
    #[error("the log-append-time bit is not taken from clients")]
    LogAppendTime,
    /// A timestamp before 1970 or too far in the future.
    #[error("timestamp {timestamp} is negative or more than {ahead_max_ms} ms ahead of the server")]
    Timestamp {
        /// The timestamp, Unix milliseconds.
        timestamp: i64,
        /// How far ahead it may be.
        ahead_max_ms: i64,
    },
    /// Producer id, epoch and sequence do not agree on whether there is a producer.
    #[error("producer id, epoch and sequence do not agree")]
    Producer,
}

/// The limits that batches are held to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchLimits {
    /// The largest batch, in bytes.
    pub batch_bytes_max: usize,
    /// How far a timestamp may be ahead of the server's clock, in milliseconds.
    pub timestamp_ahead_ms_max: i64,
}

/// Checks everything that can be known of a batch from its header and checksum.
///
/// # Errors
/// Says what is wrong.
pub fn batch(bytes: &[u8], limits: &BatchLimits, now: Millis) -> Result<BatchHeader, InvalidBatch> {
    let header = BatchHeader::parse(bytes)?;
    if header.length != bytes.len() {
        return Err(InvalidBatch::NotOneBatch { length: header.length, given: bytes.len() });
    }
    if bytes.len() > limits.batch_bytes_max {
        let limit = limits.batch_bytes_max;
        return Err(InvalidBatch::TooLarge { bytes: bytes.len(), limit });
    }
    match header {
        BatchHeader { transactional: true, .. } => return Err(InvalidBatch::Transactional),
        BatchHeader { control: true, .. } => return Err(InvalidBatch::Control),
        BatchHeader { log_append_time: true, .. } => return Err(InvalidBatch::LogAppendTime),
        _ => {}
    }
    timestamps(&header, limits, now)?;
    producer(&header)?;
    header.verify(bytes)?;
    Ok(header)
}

fn timestamps(header: &BatchHeader, limits: &BatchLimits, now: Millis) -> Result<(), InvalidBatch> {
    let ahead_max_ms = limits.timestamp_ahead_ms_max;
    let latest = now.get().saturating_add(ahead_max_ms);
    for timestamp in [header.base_timestamp.get(), header.max_timestamp.get()] {
        if timestamp < 0 || timestamp > latest {
            return Err(InvalidBatch::Timestamp { timestamp, ahead_max_ms });
        }
    }
    Ok(())
}

fn producer(header: &BatchHeader) -> Result<(), InvalidBatch> {
    let (id, epoch) = (header.producer_id.get(), header.producer_epoch.get());
    let sequence = header.base_sequence.get();
    let known = id >= 0 && epoch >= 0 && sequence >= 0;
    let nobody = id == -1 && epoch == -1 && sequence == -1;
    if known || nobody { Ok(()) } else { Err(InvalidBatch::Producer) }
}

#[cfg(test)]
mod tests {
    use catena_format::records::{BatchBuilder, Producer};

    use super::*;

    const LIMITS: BatchLimits = BatchLimits { batch_bytes_max: 200, timestamp_ahead_ms_max: 10 };

    fn good(time: i64, bytes: usize) -> Vec<u8> {
        let mut builder = BatchBuilder::new();
        builder.push(Millis::new(time), None, Some(&vec![7; bytes]), &[]);
        builder.build(Producer::NONE).unwrap()
    }

    fn check(bytes: &[u8]) -> Result<BatchHeader, InvalidBatch> {
        batch(bytes, &LIMITS, Millis::new(1000))
    }

    #[test]
    fn a_good_batch_passes() {
        assert!(check(&good(1010, 50)).is_ok());
    }

    #[test]
    fn each_fault_has_its_name() {
        assert!(matches!(check(&good(1000, 300)), Err(InvalidBatch::TooLarge { .. })));
        assert!(matches!(check(&good(1011, 5)), Err(InvalidBatch::Timestamp { .. })));
        assert!(matches!(check(&good(-1, 5)), Err(InvalidBatch::Timestamp { .. })));
        let mut two = good(1, 5);
        two.extend(good(1, 5));
        assert!(matches!(check(&two), Err(InvalidBatch::NotOneBatch { .. })));
        let with = |at: usize, value: u8| {
            let mut bytes = good(1, 5);
            bytes[at] = value;
            check(&bytes).unwrap_err()
        };
        assert_eq!(with(22, 1 << 3), InvalidBatch::LogAppendTime);
        assert_eq!(with(22, 1 << 4), InvalidBatch::Transactional);
        assert_eq!(with(22, 1 << 5), InvalidBatch::Control);
        assert_eq!(with(43, 0), InvalidBatch::Producer);
        assert!(matches!(with(65, 9), InvalidBatch::Header(BatchError::Checksum { .. })));
    }
}
