//! Bugs planted on purpose: each shows that a harness finds what it is there to find.
//!
//! A build with `--cfg planted` has all of them asleep, and wakes the one that the environment
//! variable `CATENA_PLANTED` names. In any other build [`planted!`](crate::planted!) is the
//! constant `false`, and nothing is left of them. An optimised build cannot have them.

#[cfg(all(planted, not(debug_assertions)))]
compile_error!("a release build has no planted bugs");

/// Whether a bug is awake: never, in a build without them.
#[cfg(not(planted))]
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}

/// Whether a bug is awake.
#[cfg(planted)]
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        $crate::planted::is_awake($crate::planted::Bug::$bug)
    };
}

#[cfg(planted)]
macro_rules! bugs {
    ($($(#[$doc:meta])* $bug:ident,)*) => {
        /// What can be wrong.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Bug { $($(#[$doc])* $bug,)* }

        impl Bug {
            /// All of them, by name.
            pub const ALL: &[(&str, Self)] = &[$((stringify!($bug), Self::$bug)),*];

            /// Whether it is one of the chain's, which the simulation of one node cannot find.
            #[must_use]
            pub fn is_of_chain(self) -> bool {
                self as usize >= Self::OldEpochResumed as usize
            }

            /// Whether it is one of the chain's that takes a log, which the model cannot find.
            #[must_use]
            pub fn takes_log(self) -> bool {
                self as usize >= Self::StrangeKept as usize
            }

            /// Whether it is one of the chain's that only the simulation of several nodes finds.
            #[must_use]
            pub fn takes_nodes(self) -> bool {
                self as usize >= Self::RefusedUnasked as usize
            }
        }
    };
}

// Bugs of the hands (a directory sync that is skipped there, a lock that is not waited for) are
// none of these: a simulated disk has hands of its own, and only a harness with the real binary
// on a real file system can see them.
#[cfg(planted)]
bugs! {
    /// Groups are written without waiting for stable storage.
    NoFlush,
    /// A batch is acknowledged, as if it were on the disk, when it is taken in.
    AckBeforeDurable,
    /// The high watermark is the log's end.
    WatermarkBeforeDurable,
    /// The durable end passes a write that is still on its way.
    DurableOverHole,
    /// A write is plain when another one follows it, as if that one's O_DSYNC were for both.
    PlainBytesCounted,
    /// A write that was cut short counts as done.
    ShortWriteIgnored,
    /// A write that failed counts as done.
    WriteErrorIgnored,
    /// A sync that failed is tried again, and believed.
    SyncRetried,
    /// The directory is not synced when a segment's file is made.
    NoDirectorySync,
    /// What is in a segment counts as durable before the manifest that names it is.
    AckBeforeManifest,
    /// A segment is called sealed while its end is on its way.
    SealedEarly,
    /// A log ends where the first bytes are damaged, whatever is behind.
    TruncateOnBadCrc,
    /// A frame's batch is not checked.
    PayloadNotChecked,
    /// The position of a frame is no part of its checksum.
    CrcWithoutPosition,
    /// Frames that an earlier segment left in a file are believed.
    UnzeroedRecycled,
    /// Recovery does not wait for writes of a dead process.
    NoClaim,
    /// Files are removed before the manifest is durable that does not name them.
    FilesBeforeManifest,
    /// The manifest tells the log start of the one before.
    TrimUndone,
    /// Recovery writes over the newer copy of the manifest first.
    NewerCopyFirst,
    /// Segments go at half their age.
    RetentionTooEager,
    /// The index leads to the entry behind the one that was looked for.
    IndexOffByOne,
    /// The first batch of a time is the first behind that time.
    TimeOffByOne,
    /// Recovery believes the first read of a segment.
    OneReadBelieved,
    /// A search by time believes the first read of a segment.
    TimeOfOneRead,
    /// Segments that an older manifest does not name are removed.
    UnnamedRemoved,
    /// A node that is drained ends while writes are on their way.
    IdleTooSoon,
    /// What is known of producers is not restored.
    DedupForgotten,
    /// A producer whose epoch was raised elsewhere is heard.
    FenceIgnored,
    /// A condition is held against the high watermark.
    ConditionAtWatermark,
    /// A condition is held against a batch that is stored already.
    ConditionOfStored,
    /// A start raises no epoch.
    EpochNotRaised,
    /// The ids of deleted partitions are given again.
    UidsReused,
    /// The ids of producers are given again after a restart.
    ProducerIdsReused,
    /// A change of the catalog is told before it is durable.
    CatalogBeforeDurable,
    /// A topic is said to be ready while its partitions are being created.
    ReadyBeforeCreated,
    /// The files of a deleted topic stay.
    RemovalForgotten,
    /// The oldest request that waits gets the answer.
    AnswerToAnother,
    /// A deleted topic is served on other cores.
    DeletionNotTold,
    /// Subscriptions are pushed to without credit.
    CreditIgnored,
    /// A subscription that goes on behind what was read from the disk leaves out a record.
    SeamSkips,
    /// It repeats one.
    SeamRepeats,
    // From here on, bugs of the chain.
    /// A restarted member acts in an epoch of its earlier life.
    OldEpochResumed,
    /// Messages of older epochs are taken.
    OldEpochTaken,
    /// And those of older sessions of a link.
    OldSessionTaken,
    /// A successor cuts its log at its high watermark.
    CutAtWatermark,
    /// It keeps what its predecessor does not have.
    NothingCut,
    /// The head answers for what is on its own disk.
    AckBeforeTail,
    /// The tail commits what is in memory.
    ChainMemoryCommitted,
    /// A joiner is called ready that has what is committed by now, and not all that still may be.
    ReadyAtWatermark,
    /// One is called ready while the tail commits without it.
    ReadyWithoutJoint,
    /// The tail commits without the joiner again when their link is lost.
    JointLeft,
    // And those that take a log.
    /// Of a joiner's log is kept what nobody can compare.
    StrangeKept,
    /// A joiner that begins anew is not told which producers there were.
    ProducersNotShipped,
    /// What is to be cut is shown as committed.
    UncutShown,
    /// Where the log ends is said before the chain has confirmed it.
    EndUnconfirmed,
    // And those that take whole nodes.
    /// The head says for certain what a log lacks before the chain has confirmed that it is the
    /// head.
    RefusedUnasked,
    /// It says where the log ends before it knows what the epochs before have committed.
    EndOfBeforeUnknown,
    /// A head has its chain changed before what it answered is on all its disks.
    ChangedUncommitted,
}

/// Whether this is the bug that the environment names.
///
/// # Panics
/// When the environment names a bug that there is not.
#[cfg(planted)]
#[must_use]
pub fn is_awake(bug: Bug) -> bool {
    static AWAKE: std::sync::OnceLock<Option<Bug>> = std::sync::OnceLock::new();
    let named = |name: String| {
        let known = Bug::ALL.iter().find(|(known, _)| *known == name);
        known.unwrap_or_else(|| panic!("CATENA_PLANTED names no bug: {name}")).1
    };
    *AWAKE.get_or_init(|| std::env::var("CATENA_PLANTED").ok().map(named)) == Some(bug)
}
