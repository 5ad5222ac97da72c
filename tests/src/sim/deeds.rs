//! What befalls a world or is done in it, by name: a long range of seeds must have seen all of it.

use std::collections::BTreeMap;

use super::disk::FaultKind;

/// How often each kind came.
pub type Counts = BTreeMap<&'static str, u64>;

/// What the disk tells of crashes, beside its [`FaultKind`]s.
const CRASHES: [&str; 4] = ["power_loss", "process_kill", "late_write", "stale_blocks"];

macro_rules! deeds {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What a client does, or what is done to one or to the clock.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Deed { $($(#[$doc])* $name,)* }

        impl Deed {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The name under which it is counted.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

deeds! {
    /// An append under a condition was acknowledged.
    ConditionMet = "condition_met",
    /// One was refused, for the log ended elsewhere.
    ConditionFailed = "condition_failed",
    /// One that had been stored was asked for again, and told so.
    ConditionRepeated = "condition_repeated",
    /// A batch was sent twice on one connection.
    SentTwice = "sent_twice",
    /// A batch was sent on a second connection too, and acknowledged there.
    CopyAcked = "copy_acked",
    /// Or refused.
    CopyRefused = "copy_refused",
    /// A batch was acknowledged before it was on the disk.
    WeaklyAcked = "weakly_acked",
    /// One such was lost in a crash, and its producer heard of it.
    WeaklyLost = "weakly_lost",
    /// A producer asked for the next epoch.
    EpochRaised = "epoch_raised",
    /// A client hung up with requests under way.
    HungUp = "hung_up",
    /// A client neither read nor sent for a while.
    Paused = "paused",
    /// All clients did.
    AllPaused = "all_paused",
    /// A subscriber gave no credit for long, and then some.
    Fasted = "fasted",
    /// A log start was raised.
    Trimmed = "trimmed",
    /// Retention by age moved a log start.
    Expired = "expired",
    /// The first offset was asked for.
    AskedEarliest = "asked_earliest",
    /// The high watermark was asked for.
    AskedLatest = "asked_latest",
    /// The log's end was asked for.
    AskedLogEnd = "asked_log_end",
    /// The end that a whole chain confirms was asked for.
    AskedConfirmed = "asked_confirmed",
    /// An offset was asked for by time, and found.
    AskedTime = "asked_time",
    /// Or there was none.
    AskedTimeInVain = "asked_time_in_vain",
    /// A readable offset was asked for.
    AskedOffset = "asked_offset",
    /// Partitions were added.
    Grown = "grown",
    /// A topic was deleted.
    Deleted = "deleted",
    /// A request met a topic that was deleted.
    MetDeleted = "met_deleted",
    /// A start removed files of a deleted partition that a crash had left.
    LeftoversRemoved = "leftovers_removed",
    /// The wall clock jumped ahead.
    ClockAhead = "clock_ahead",
    /// It was set back.
    ClockBack = "clock_back",
    /// A life of the node in which the scrub was through with everything.
    Scrubbed = "scrubbed",
    /// The scrub found what had rotted.
    RotScrubbed = "rot_scrubbed",
    /// What had rotted was taken from another node.
    RotRepaired = "rot_repaired",
    /// A copy of a manifest rotted between two lives.
    ManifestRotten = "manifest_rotten",
    /// Both copies of a manifest became what they had been before segments were begun.
    ManifestOlder = "manifest_older",
    /// An index rotted between two lives.
    IndexRotten = "index_rotten",
    /// An index or a copy of a manifest became what it had been in an earlier life, as when its
    /// last write was lost.
    ImageOlder = "image_older",
    /// A sector of one became another of its sectors, as when a write went astray.
    ImageMisplaced = "image_misplaced",
    /// Both copies of a manifest rotted, and the partition was refused.
    PartitionRefused = "partition_refused",
    /// A crash came while a manifest was written.
    ManifestCut = "manifest_cut",
    /// One came within a start.
    StartCut = "start_cut",
    /// A life was ended, and came to its end.
    Drained = "drained",
    /// A life in which there was not enough memory for something.
    MemoryShort = "memory_short",
    /// A record was refused, for the clock was far behind it.
    TooFarAhead = "too_far_ahead",
    /// A link between nodes broke.
    LinkBroken = "link_broken",
    /// Nothing came through from one node to another.
    WayCut = "way_cut",
    /// A node was cut off from all others.
    Isolated = "isolated",
    /// Consensus ordered nothing for a while.
    Silenced = "silenced",
    /// Who led consensus leads no more, though its process runs.
    Deposed = "deposed",
    /// A node heard of nothing that was ordered for a while.
    Deafened = "deafened",
    /// A process stood still, and went on.
    Frozen = "frozen",
    /// A node was to give its copies away.
    NodeDrained = "node_drained",
    /// A topic was to have another number of copies.
    Replicated = "replicated",
    /// A chain went on without a member that ran, or gave up a joiner.
    Evicted = "evicted",
    /// A copy was to be moved.
    PartitionMoved = "partition_moved",
}

impl Deed {
    /// Whether it comes only where there are several nodes.
    const fn is_of_clusters(self) -> bool {
        matches!(
            self,
            Self::LinkBroken
                | Self::RotRepaired
                | Self::WayCut
                | Self::Isolated
                | Self::Silenced
                | Self::Deposed
                | Self::Deafened
                | Self::Frozen
                | Self::NodeDrained
                | Self::Replicated
                | Self::Evicted
                | Self::PartitionMoved
        )
    }

    /// Whether it comes only where a node is alone: topics are deleted there.
    const fn is_of_one(self) -> bool {
        matches!(
            self,
            Self::Deleted
                | Self::MetDeleted
                | Self::LeftoversRemoved
                | Self::PartitionRefused
                | Self::ManifestOlder
        )
    }
}

/// Every kind that a long range of so many nodes must have seen.
pub fn all_kinds(nodes: u16) -> impl Iterator<Item = &'static str> {
    let decay = [FaultKind::LostWrite, FaultKind::MisdirectedWrite];
    let faults = FaultKind::ALL.iter().filter(move |kind| nodes == 1 || !decay.contains(kind));
    let deeds = Deed::ALL.iter().filter(move |deed| match nodes {
        1 => !deed.is_of_clusters(),
        _ => !deed.is_of_one(),
    });
    faults.map(|kind| kind.name()).chain(CRASHES).chain(deeds.map(|deed| deed.name()))
}
