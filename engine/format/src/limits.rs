//! Every limit that the formats know, in one place, with the relations between them asserted.

/// The unit of direct I/O: flush groups, segment headers and footers start on a multiple of it,
/// whatever the device says.
pub const BLOCK_BYTES: usize = 4096;
/// Frames start on multiples of it.
pub const FRAME_ALIGNMENT: usize = 16;
/// The largest batch that any configuration may allow, in bytes.
pub const BATCH_BYTES_MAX: usize = 16 << 20;
/// The largest batch by default, in bytes.
pub const BATCH_BYTES_DEFAULT: usize = 1 << 20;
/// The most records in one batch.
pub const BATCH_RECORDS_MAX: u32 = 1 << 24;
/// The largest segment file, in bytes.
pub const SEGMENT_BYTES_MAX: u64 = 16 << 30;
/// The smallest segment file, in bytes: a header, a footer and something between.
pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// The longest topic name, in bytes.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;
/// The most partitions of one topic.
pub const PARTITIONS_PER_TOPIC_MAX: u32 = 10_000;

const _: () = assert!(BLOCK_BYTES.is_power_of_two() && BLOCK_BYTES.is_multiple_of(FRAME_ALIGNMENT));
const _: () = assert!(BATCH_BYTES_DEFAULT <= BATCH_BYTES_MAX);
const _: () = assert!(SEGMENT_BYTES_MIN < SEGMENT_BYTES_MAX);
const _: () = assert!(SEGMENT_BYTES_MIN.is_multiple_of(BLOCK_BYTES as u64));
