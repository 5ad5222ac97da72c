//! What a log may be told, and within which limits.

use std::time::Duration;

use catena_format::{
    Position,
    limits::{BATCH_BYTES_MAX, BLOCK_BYTES, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN},
};

/// The largest write of several batches together, in bytes; a larger batch goes alone.
pub const GROUP_BYTES_MAX: usize = 1 << 20;
/// A group that has gathered this much does not wait for the write in flight.
pub const GROUP_BYTES_EAGER: usize = 64 << 10;
/// A flight of one write after another: the most writes of one log at the disk together.
pub const WRITES_IN_FLIGHT_MAX: usize = 8;
/// Bytes accepted and not yet durable, at which further appends are refused.
pub const UNDURABLE_BYTES_MAX: usize = 64 << 20;
/// One index entry per so many bytes of segment, if nothing else is set.
pub const INDEX_STRIDE_DEFAULT: u64 = 32 << 10;
/// The least distance of index entries, in bytes.
pub const INDEX_STRIDE_MIN: u64 = BLOCK_BYTES as u64;
/// The greatest distance of index entries, in bytes.
pub const INDEX_STRIDE_MAX: u64 = BATCH_BYTES_MAX as u64;
/// The first step of pre-writing.
pub const EXTEND_STEP_MIN: u64 = 64 << 10;
/// The largest step of pre-writing in a file that is being written.
pub const EXTEND_STEP_MAX: u64 = 8 << 20;
/// A busy log has its next segment written with zeros so far.
pub const SPARE_BYTES_MAX: u64 = 256 << 20;
/// In steps of this: what a write may have in front of it on a slow disk.
pub const SPARE_STEP: u64 = 8 << 20;
/// How much recovery reads at once.
pub const SCAN_BYTES: usize = 1 << 20;
/// After so long without appends a mark says that all is durable.
pub const MARK_AFTER: Duration = Duration::from_millis(10);
/// After so long without appends an open log gives its tail buffers back.
pub const IDLE_AFTER: Duration = Duration::from_secs(5);
/// How often retention and age rolls are looked at, and a full disk is tried again.
pub const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(1);
/// The most damaged ranges that a manifest keeps apart; beyond it the nearest two are joined.
pub const DAMAGED_RANGES_MAX: usize = 1024;
/// The most segments of one log.
pub const SEGMENTS_MAX: usize = 100_000;
/// So many of them only a restart or a new epoch begins.
pub const SEGMENTS_RESERVE: usize = 1_000;

const _: () = assert!(GROUP_BYTES_EAGER <= GROUP_BYTES_MAX);
const _: () = assert!(GROUP_BYTES_MAX.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(EXTEND_STEP_MIN.is_multiple_of(BLOCK_BYTES as u64));
const _: () = assert!(EXTEND_STEP_MIN <= EXTEND_STEP_MAX && EXTEND_STEP_MAX <= SEGMENT_BYTES_MAX);
const _: () = assert!(SCAN_BYTES.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(UNDURABLE_BYTES_MAX >= 2 * BATCH_BYTES_MAX);

/// What may be set for one log; it can change while the log is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogConfig {
    /// A segment that would grow beyond is sealed; a larger batch gets a segment of its own.
    pub segment_bytes: u64,
    /// A segment whose first batch is older is sealed.
    pub segment_age: Duration,
    /// Sealed segments are dropped while the rest holds as much; `None` keeps all.
    pub retention_bytes: Option<u64>,
    /// Sealed segments are dropped whose last batch is older; `None` keeps all.
    pub retention_age: Option<Duration>,
    /// Recent bytes kept in memory for readers.
    pub tail_cache_bytes: usize,
    /// A checkpoint of index and fold after so many bytes: what recovery scans at most.
    pub checkpoint_bytes: u64,
    /// One index entry per so many bytes of segment; also what a read of old records begins with.
    pub index_stride: u64,
    /// Write the mark after [`MARK_AFTER`] without appends.
    pub marks: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 256 << 20,
            segment_age: Duration::from_secs(7 * 24 * 3600),
            retention_bytes: None,
            retention_age: None,
            tail_cache_bytes: 4 << 20,
            checkpoint_bytes: 64 << 20,
            index_stride: INDEX_STRIDE_DEFAULT,
            marks: true,
        }
    }
}

impl LogConfig {
    /// A log whose steps have grown to this is busy: it prepares whole segments.
    pub(crate) fn busy_step(&self) -> u64 {
        let part = (self.segment_bytes / 4).clamp(EXTEND_STEP_MIN, EXTEND_STEP_MAX);
        part / EXTEND_STEP_MIN * EXTEND_STEP_MIN
    }

    /// What a spare has when it is a whole segment.
    pub(crate) fn whole_spare(&self) -> Position {
        Position::new(self.segment_bytes.min(SPARE_BYTES_MAX))
    }

    /// The same configuration with every value inside its limits.
    #[must_use]
    pub fn clamped(mut self) -> Self {
        let block = BLOCK_BYTES as u64;
        self.segment_bytes =
            self.segment_bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX) / block * block;
        self.segment_age = self.segment_age.max(Duration::from_secs(1));
        self.checkpoint_bytes = self.checkpoint_bytes.max(SEGMENT_BYTES_MIN);
        self.index_stride = self.index_stride.clamp(INDEX_STRIDE_MIN, INDEX_STRIDE_MAX);
        self
    }
}
