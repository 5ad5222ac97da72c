//! What bounds a node.

use std::time::Duration;

use catena_format::limits::BATCH_BYTES_MAX;
use catena_log::config::INDEX_STRIDE_DEFAULT;
use catena_replication::control::TopicConfig;
use catena_wire::FrameLimits;

/// Budgets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The most requests of a connection without an answer.
    pub requests_in_flight_max: u32,
    /// The most bytes of requests of a connection without an answer.
    pub bytes_in_flight_max: u64,
    /// The same of all connections of a core; what would go beyond is refused.
    pub bytes_in_flight_core_max: u64,
    /// The most subscriptions of a connection.
    pub subscriptions_max: u32,
    /// The most batches' bytes in one fetch response.
    pub fetch_bytes_max: u32,
    /// The longest wait of a fetch, and of a produce without a deadline of its own.
    pub wait_max: Duration,
    /// How far a timestamp may be ahead of the server's clock, in milliseconds.
    pub timestamp_ahead_ms_max: i64,
    /// Recent bytes of each partition kept for readers.
    pub tail_cache_bytes: usize,
    /// What recovery scans of a partition at most.
    pub checkpoint_bytes: u64,
    /// Bytes of segment from one index entry to the next.
    pub index_stride: u64,
    /// The largest batch that any topic may allow.
    pub batch_bytes_max: usize,
    /// Pushes of a core that clients have not read; beyond it a session gets one after another.
    pub push_bytes_core_max: u64,
    /// Of the catalog's log; four times as much of its history is kept.
    pub catalog_segment_bytes: u64,
    /// Bytes a second that the scrub reads on the core; 0: none.
    pub scrub_rate: u64,
    /// From one beginning of the scrub's way through all partitions to the next, at least.
    pub scrub_period: Duration,
    /// A node that has been down for so long is gone: others keep what it kept.
    pub replace_after: Duration,
    /// Who holds a chain up for so long, or has no link to who is beside it, is evicted from it.
    pub evict_after: Duration,
    /// Bytes a second that the core reads from the disk for copies that are being made, beyond
    /// what is appended meanwhile.
    pub catch_up_rate: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_in_flight_max: 4096,
            bytes_in_flight_max: 64 << 20,
            bytes_in_flight_core_max: 256 << 20,
            subscriptions_max: 1024,
            fetch_bytes_max: 16 << 20,
            wait_max: Duration::from_secs(30),
            timestamp_ahead_ms_max: 3_600_000,
            tail_cache_bytes: 4 << 20,
            checkpoint_bytes: 64 << 20,
            index_stride: INDEX_STRIDE_DEFAULT,
            batch_bytes_max: BATCH_BYTES_MAX,
            push_bytes_core_max: 64 << 20,
            catalog_segment_bytes: 16 << 20,
            scrub_rate: 0,
            scrub_period: Duration::ZERO,
            replace_after: Duration::from_secs(600),
            evict_after: Duration::from_millis(500),
            catch_up_rate: 64 << 20,
        }
    }
}

const _: () = assert!((64 << 20) >= BATCH_BYTES_MAX);

impl Limits {
    /// The longest request taken once the handshake has succeeded: its payload is one batch.
    #[must_use]
    pub fn frame_limits(&self) -> FrameLimits {
        let payload_bytes_max = u32::try_from(self.batch_bytes_max).unwrap_or(u32::MAX);
        FrameLimits { payload_bytes_max, ..FrameLimits::REQUEST }
    }

    /// The largest batch of a topic with these settings, in bytes.
    pub(crate) fn batch_bytes_max_of(&self, topic: &TopicConfig) -> usize {
        topic.batch_bytes_max.min(self.batch_bytes_max)
    }
}
