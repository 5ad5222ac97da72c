//! What the partitions of a core have done.

use catena_log::{io::Memory, stage::Stage};
use catena_replication::Replica;

use crate::node::Node;

/// Counters of many partitions, plain numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs)]
pub struct Totals {
    pub appended_batches: u64,
    pub appended_bytes: u64,
    pub writes: u64,
    pub cold_reads: u64,
    pub segments_rolled: u64,
    pub segments_dropped: u64,
    pub segments_recycled: u64,
    pub scrubbed_bytes: u64,
    /// Reads of the scrub that failed.
    pub scrub_errors: u64,
    /// Reads of the scrub that brought damage which a second one did not find.
    pub scrub_contradicted: u64,
    /// Damaged offsets that were taken from another node.
    pub repaired_offsets: u64,
    /// From the first append of a flush group until its write leaves.
    pub gather: Stage,
    /// From there until it has reached the disk.
    pub write: Stage,
    /// From a batch's arrival until it is on the disk of the whole chain.
    pub commit: Stage,
}

impl Totals {
    pub(crate) fn add<M: Memory + Clone>(&mut self, replica: &Replica<M>) {
        let Some(stats) = replica.log().map(|log| log.stats()) else { return };
        self.appended_batches += stats.batches_appended;
        self.appended_bytes += stats.bytes_appended;
        self.writes += stats.writes;
        self.cold_reads += stats.cold_reads;
        self.segments_rolled += stats.segments_rolled;
        self.segments_dropped += stats.segments_dropped;
        self.segments_recycled += stats.segments_recycled;
        self.scrubbed_bytes += stats.scrubbed_bytes;
        self.scrub_errors += stats.scrub_errors;
        self.scrub_contradicted += stats.scrub_contradicted;
        self.repaired_offsets += stats.repaired_offsets;
        self.gather.add(&stats.gather);
        self.write.add(&stats.write);
        self.commit.add(replica.commits());
    }
}

impl<M: Memory + Clone> Node<M> {
    /// Of all partitions that are or were held here: none of it ever falls.
    pub fn totals(&self) -> Totals {
        let mut totals = self.past;
        self.replicas().for_each(|replica| totals.add(replica));
        totals
    }
}
