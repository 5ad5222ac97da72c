//! Which epochs wrote a log, and how far two logs are the same.

use catena_format::{Epoch, Offset};

/// How far a log reaches, and what wrote it.
#[derive(Clone, Copy, Debug)]
pub struct Extent<'a> {
    /// The first offset that is still there.
    pub start: Offset,
    /// The first that may be read.
    pub log_start: Offset,
    /// The next offset to be given.
    pub end: Offset,
    /// The end of what is on this disk.
    pub durable: Offset,
    /// The epochs that wrote it, each with its first offset, in order.
    pub epochs: &'a [(Epoch, Offset)],
}

/// The same, as another node is told it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct History {
    /// The first offset that is still there.
    pub start: Offset,
    /// The next offset to be given.
    pub end: Offset,
    /// The end of what is on that disk.
    pub durable: Offset,
    /// The epochs that wrote it, each with its first offset, in order.
    pub epochs: Vec<(Epoch, Offset)>,
}

impl Extent<'_> {
    /// To be told.
    #[must_use]
    pub fn to_history(&self) -> History {
        let Self { start, end, durable, epochs, .. } = *self;
        History { start, end, durable, epochs: epochs.to_vec() }
    }

    /// How far the other log is the same as this one. An epoch has one head, which gives an offset
    /// once; so what stands at an offset, and all before it, is the same where the epoch is.
    #[must_use]
    pub fn common_end(&self, other: &History) -> Offset {
        let mut at = self.start.max(other.start);
        let to = self.end.min(other.end);
        while at < to {
            let (ours, theirs) = (epoch_at(self.epochs, at), epoch_at(&other.epochs, at));
            if ours.0 != theirs.0 {
                return at;
            }
            at = ours.1.min(theirs.1).min(to);
        }
        to
    }
}

/// Which epoch wrote an offset, and where the next one begins.
fn epoch_at(epochs: &[(Epoch, Offset)], at: Offset) -> (Option<Epoch>, Offset) {
    let next = epochs.partition_point(|(_, start)| *start <= at);
    let epoch = next.checked_sub(1).map(|last| epochs[last].0);
    (epoch, epochs.get(next).map_or(Offset::MAX, |(_, start)| *start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(start: u64, end: u64, epochs: &[(u32, u64)]) -> History {
        let epochs = epochs.iter().map(|(e, o)| (Epoch::new(*e), Offset::new(*o))).collect();
        let end = Offset::new(end);
        History { start: Offset::new(start), end, durable: end, epochs }
    }

    fn common(ours: &History, theirs: &History) -> u64 {
        let History { start, end, durable, ref epochs } = *ours;
        let ours = Extent { start, log_start: start, end, durable, epochs };
        ours.common_end(theirs).get()
    }

    #[test]
    fn logs_are_the_same_up_to_the_first_offset_of_another_epoch() {
        let ours = history(0, 10, &[(1, 0), (3, 6)]);
        assert_eq!(common(&ours, &history(0, 10, &[(1, 0), (3, 6)])), 10);
        assert_eq!(common(&ours, &history(0, 8, &[(1, 0), (3, 6)])), 8);
        assert_eq!(common(&ours, &history(0, 9, &[(1, 0)])), 6);
        assert_eq!(common(&ours, &history(0, 9, &[(1, 0), (2, 4)])), 4);
        assert_eq!(common(&ours, &history(0, 9, &[(1, 0), (2, 7)])), 6);
        assert_eq!(common(&ours, &history(0, 0, &[])), 0);
    }

    #[test]
    fn what_one_of_them_has_dropped_is_not_compared() {
        let ours = history(5, 10, &[(1, 0), (3, 6)]);
        assert_eq!(common(&ours, &history(0, 9, &[(1, 0), (3, 6)])), 9);
        assert_eq!(common(&ours, &history(0, 9, &[(1, 0), (2, 5)])), 5);
        assert_eq!(common(&ours, &history(7, 9, &[(3, 6)])), 9);
        // It ends before the other begins: it is told to begin anew.
        assert_eq!(common(&ours, &history(0, 3, &[(1, 0)])), 3);
    }
}
