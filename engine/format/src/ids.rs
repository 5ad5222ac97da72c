//! Newtypes for every number that crosses a function: none converts into another by accident.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name($inner);

        impl $name {
            /// Wraps a raw number.
            #[must_use]
            pub const fn new(raw: $inner) -> Self {
                Self(raw)
            }

            /// The raw number.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

number!(
    /// A cluster, chosen at random when its first node starts on an empty directory.
    ClusterId(u128)
);
number!(
    /// Who shows it may become a node of the cluster; drawn at random, and valid for a time.
    JoinToken(u128)
);
number!(
    /// A node, created on an empty directory and never reused.
    NodeId(u64)
);
number!(
    /// How often a node's process has started: raised by one at every start.
    Incarnation(u64)
);
number!(
    /// A topic, never reused; it survives a rename of the topic.
    TopicId(u128)
);
number!(
    /// A partition's number within its topic, from zero.
    PartitionIndex(u32)
);
number!(
    /// A partition's name on disk, cluster wide and never reused: it seeds checksums.
    PartitionUid(u64)
);
number!(
    /// A segment file's number within its partition; never reused, a recycled file gets a new one.
    FileNumber(u64)
);
number!(
    /// A record's number in its partition; at most [`Offset::MAX`].
    Offset(u64)
);
number!(
    /// A byte's place in a file.
    Position(u64)
);
number!(
    /// The number of a chain configuration, at most `i32::MAX`: the batch's partition leader epoch.
    Epoch(u32)
);
number!(
    /// An idempotent producer.
    ProducerId(i64)
);
number!(
    /// A producer's generation: a higher one fences the lower.
    ProducerEpoch(i16)
);
number!(
    /// A record's number among those of one producer in one partition; wraps from `i32::MAX` to 0.
    Sequence(i32)
);
number!(
    /// Unix time in milliseconds.
    Millis(i64)
);

impl Offset {
    /// The first offset of every log.
    pub const ZERO: Self = Self(0);
    /// The highest offset: Kafka's offsets are signed.
    pub const MAX: Self = Self(i64::MAX as u64);

    /// The offset `count` records later, if it can be given.
    #[must_use]
    pub const fn checked_add(self, count: u64) -> Option<Self> {
        match self.0.checked_add(count) {
            Some(raw) if raw <= Self::MAX.0 => Some(Self(raw)),
            _ => None,
        }
    }

    /// How many offsets lie between `earlier` and this one; zero when `earlier` is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Position {
    /// The start of a file.
    pub const ZERO: Self = Self(0);

    /// The position `bytes` further on.
    ///
    /// # Panics
    /// When the sum does not fit 64 bits, which no file reaches.
    #[must_use]
    pub const fn plus(self, bytes: u64) -> Self {
        Self(self.0.checked_add(bytes).expect("a file position fits 64 bits"))
    }

    /// The next multiple of `unit` (a power of two) at or after this position.
    #[must_use]
    pub const fn align_up(self, unit: u64) -> Self {
        Self(self.0.next_multiple_of(unit))
    }

    /// The last multiple of `unit` (a power of two) at or before this position.
    #[must_use]
    pub const fn align_down(self, unit: u64) -> Self {
        Self(self.0 - self.0 % unit)
    }
}

impl Epoch {
    /// The highest epoch: Kafka's is signed.
    pub const MAX: Self = Self(i32::MAX as u32);

    /// The epoch so many configurations later. Nobody counts to [`Epoch::MAX`]: there it stays.
    #[must_use]
    pub const fn plus(self, configurations: u32) -> Self {
        let sum = self.0.saturating_add(configurations);
        if sum < Self::MAX.0 { Self(sum) } else { Self::MAX }
    }
}

impl FileNumber {
    /// Greater than any file's number: nobody can have counted so far.
    pub const MAX: Self = Self(1 << 61);

    /// The number of the next file. Names and manifests stop far below the last.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl ProducerId {
    /// What a batch of a producer without an id carries.
    pub const NONE: Self = Self(-1);
}

impl Sequence {
    /// What a batch of a producer without an id carries.
    pub const NONE: Self = Self(-1);

    /// The sequence `count` records later, wrapping from `i32::MAX` to 0 as Kafka's does.
    #[must_use]
    pub const fn wrapping_add(self, count: u32) -> Self {
        let sum = self.0 as i64 + count as i64;
        Self((sum % (1 << 31)) as i32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_wrap_to_zero_after_the_greatest() {
        assert_eq!(Sequence::new(i32::MAX).wrapping_add(1), Sequence::new(0));
        assert_eq!(Sequence::new(i32::MAX - 1).wrapping_add(3), Sequence::new(1));
        assert_eq!(Sequence::new(5).wrapping_add(0), Sequence::new(5));
    }

    #[test]
    fn offsets_end_where_kafka_s_do() {
        assert_eq!(Offset::MAX.checked_add(1), None);
        assert_eq!(Offset::new(1).checked_add(2), Some(Offset::new(3)));
        assert_eq!(Offset::new(0).checked_add(u64::MAX), None);
    }
}
