//! What a log's owner derives from its batches, in order: the dedup table of a partition, the
//! catalog of a node.

use catena_format::FrameHeader;

/// A state that is a function of the log alone: a snapshot at some offset, and a fold of what
/// follows. The log applies each batch at append and again at recovery, and keeps snapshots beside
/// its index.
pub trait Fold {
    /// Whether the log is of no use without the state: one whose old batches are gone, and every
    /// snapshot with them, is not opened then. Otherwise the state is as new, and the log reports
    /// so once.
    const INDISPENSABLE: bool = false;

    /// Takes in the next batch, patched with its offset and epoch.
    fn apply(&mut self, frame: &FrameHeader, batch: &[u8]);

    /// The state as bytes that [`Fold::restore`] reads.
    fn snapshot(&self) -> Vec<u8>;

    /// Becomes what `snapshot` says. False when its bytes mean nothing to this build; the state is
    /// then as new, and the log folds from an earlier snapshot or from its start.
    fn restore(&mut self, snapshot: &[u8]) -> bool;

    /// Becomes as new.
    fn reset(&mut self);
}

/// No state at all.
impl Fold for () {
    fn apply(&mut self, _: &FrameHeader, _: &[u8]) {}
    fn snapshot(&self) -> Vec<u8> {
        Vec::new()
    }
    fn restore(&mut self, snapshot: &[u8]) -> bool {
        snapshot.is_empty()
    }
    fn reset(&mut self) {}
}

/// The base offset of every batch.
impl Fold for Vec<u64> {
    fn apply(&mut self, frame: &FrameHeader, _: &[u8]) {
        self.push(frame.base_offset.get());
    }
    fn snapshot(&self) -> Vec<u8> {
        self.iter().flat_map(|offset| offset.to_le_bytes()).collect()
    }
    fn restore(&mut self, snapshot: &[u8]) -> bool {
        let offsets = snapshot.chunks_exact(8).map(|b| b.try_into().expect("eight bytes"));
        *self = offsets.map(u64::from_le_bytes).collect();
        snapshot.len().is_multiple_of(8)
    }
    fn reset(&mut self) {
        self.clear();
    }
}
