//! The tail cache: the log's recent end in memory, served uncopied.

use std::collections::VecDeque;

use catena_format::{Millis, Offset, planted};

use crate::{
    group::{BatchAt, Closed},
    io::Memory,
    read::Batches,
};

/// The last closed groups, contiguous in offsets.
pub(crate) struct Tail<M: Memory> {
    groups: VecDeque<Closed<M::Share>>,
    bytes: usize,
}

impl<M: Memory> Tail<M> {
    pub(crate) fn new() -> Self {
        Self { groups: VecDeque::new(), bytes: 0 }
    }

    /// Adds the next group.
    pub(crate) fn push(&mut self, group: Closed<M::Share>) {
        self.bytes += group.share.as_ref().len();
        self.groups.push_back(group);
    }

    /// Gives back the oldest groups beyond `budget` bytes, of those that lie below `durable_end`.
    pub(crate) fn evict(&mut self, budget: usize, durable_end: Offset) {
        while self.bytes > budget && self.groups.front().is_some_and(|g| g.end <= durable_end) {
            let gone = self.groups.pop_front().expect("there is a first group");
            self.bytes -= gone.share.as_ref().len();
        }
    }

    /// Bytes of memory held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether `offset` is among what is held.
    pub(crate) fn holds(&self, offset: Offset) -> bool {
        self.groups.front().is_some_and(|g| g.base <= offset)
            && self.groups.back().is_some_and(|g| offset < g.end)
    }

    /// Batches from the one that holds `from` on, ending at or below `below`: at least one, then
    /// as many as fit `max_bytes`.
    pub(crate) fn read(&self, from: Offset, max_bytes: usize, below: Offset) -> Batches<M::Share> {
        let mut found = Batches::empty(from);
        let first = self.groups.partition_point(|g| g.end <= from);
        for group in self.groups.iter().skip(first) {
            let skip = group.batches.partition_point(|b| b.end <= from);
            for batch in &group.batches[skip..] {
                let fits = found.bytes + batch.length as usize <= max_bytes;
                if batch.end > below || !(fits || found.is_empty()) {
                    return found;
                }
                found.push(M::slice(&group.share, batch.range()), batch.stamp, batch.end);
            }
        }
        found
    }

    /// The first batch held that ends behind `from` and has a record of `time` or later.
    pub(crate) fn at_time(&self, time: Millis, from: Offset) -> Option<Offset> {
        let time = if planted!(TimeOffByOne) { Millis::new(time.get() + 1) } else { time };
        let mut batches = self.groups.iter().flat_map(|g| &g.batches);
        batches.find(|b| b.end > from && b.max_timestamp >= time).map(|b| b.base)
    }
}

impl BatchAt {
    fn range(&self) -> std::ops::Range<usize> {
        self.at as usize..self.at as usize + self.length as usize
    }
}
