//! What recovery tells.

use std::fmt;

/// What recovery found, for the operator.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RecoveryReport {
    /// Bytes of segments read.
    pub scanned_bytes: u64,
    /// Batches found behind the last checkpoint.
    pub batches: u64,
    /// Whole batches that were cut off: never acknowledged, behind a hole.
    pub batches_cut: u64,
    /// Their bytes.
    pub bytes_cut: u64,
    /// Acknowledged offsets that cannot be read any more, found now.
    pub offsets_damaged: u64,
    /// The log ended below its recorded durable end and goes on there.
    pub resumed_at_mark: bool,
    /// One copy of the manifest was unreadable and was replaced.
    pub manifest_repaired: bool,
    /// Segments that were taken back although the manifest does not name them: it was an older one.
    /// A trim that was answered since is undone.
    pub segments_unnamed: u64,
    /// What was derived from batches that are trimmed by now cannot be read any more: of a
    /// partition, producers that wrote nothing since are unknown.
    pub fold_lost: bool,
}

impl RecoveryReport {
    /// Something that was acknowledged, or derived from it, is gone, or may be.
    #[must_use]
    pub fn lost_something(&self) -> bool {
        self.offsets_damaged > 0
            || self.resumed_at_mark
            || self.fold_lost
            || self.segments_unnamed > 0
    }
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scanned_bytes, batches, batches_cut, bytes_cut, offsets_damaged, .. } = self;
        let unnamed = self.segments_unnamed;
        write!(f, "{scanned_bytes} bytes read, {batches} batches found behind the checkpoint")?;
        if *batches_cut > 0 {
            write!(f, ", {batches_cut} unacknowledged cut off ({bytes_cut} bytes)")?;
        }
        if *offsets_damaged > 0 {
            write!(f, ", {offsets_damaged} acknowledged offsets cannot be read any more")?;
        }
        if unnamed > 0 {
            write!(f, ", the manifest was an older one that did not name {unnamed} segments")?;
        }
        let more = [
            (self.resumed_at_mark, ", the end is damaged and the log goes on behind it"),
            (self.manifest_repaired, ", one copy of the manifest was replaced"),
            (self.fold_lost, ", producers that wrote nothing lately are unknown"),
        ];
        more.iter().filter(|(holds, _)| *holds).try_for_each(|(_, words)| f.write_str(words))
    }
}
