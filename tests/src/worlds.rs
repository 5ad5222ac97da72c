//! Exhaustive small worlds: every short workload on one log, and on a whole node with its catalog;
//! a crash after every event of the disk, everything that the crash may leave; and every call that
//! may fail.
//!
//! ```text
//! workloads ─► World (a log or a node, its client, a disk) ─ each moment of the last step ─► crash
//!                 ▲                                                                            │
//!                 └── verify: recover · compare with the books · send again · append ◄─────────┘
//!                             crash again · recover · compare          (one for each subset)
//! ```
//!
//! A workload is a word of these letters, each performed until nothing is under way, but for `a`:
//!
//! | letter | on one log ([`log`]) | on a node ([`node`]) |
//! |---|---|---|
//! | `A` | append a batch of one to three small records | the same |
//! | `a` | append such a batch, and wait for nothing | |
//! | `B` | append a batch of 34 KiB: of two the second begins a segment | |
//! | `M` | 10 ms pass: a mark is written | |
//! | `R` | time passes, and the segment is so old that it is sealed | the same |
//! | `T` | trim to the last durable batch; from there to the end | the same |
//! | `E` | time passes under retention: sealed segments go | the same |
//! | `C` | | create the topic |
//! | `D` | | delete it, with its files |
//! | `K` | the process is killed, with everything under way lost; the next life begins | the same |
//! | `S` | the log is closed, and the next life begins | the node is drained, the same |
//!
//! What befalls a workload befalls it in its last step, for the moments of the others were those of
//! shorter workloads; the empty one is the creation of the log, or of the node. At each moment the
//! power is lost, or the process is killed. Of a power loss every subset is tried of the names,
//! lengths and writes that are not durable, those under way included; of a kill every subset of the
//! writes under way that land later, before the next life looks at the disk or while it does.
//! Devices with FUA and such that flush; operations submitted together complete in order, or the
//! last one first.
//!
//! A call that fails does so anywhere in the workload, the recoveries included: each write,
//! extension, sync, directory sync, read, listing, claim, renaming and removal, with EIO, ENOSPC, a
//! short write or no descriptor, of a failed write none, either half or all of it landing, and each
//! read that is wrong and does not say so. Afterwards a log that is not poisoned takes more, a
//! partition that is open serves what it acknowledged, and that survives a kill, and a power loss
//! with all or nothing of what is not durable.
//!
//! The oracle are the producer's books ([`books`]): acknowledged or served is for good, the rest is
//! there whole or not at all, as a prefix; a repetition is told where the batch stands; a trim that
//! was told is not undone; the log takes more after each recovery, and the next recovery finds it.
//! A topic is there, and the same one, once its creation was answered, and never again once its
//! deletion was; in between it is there or not, whole.
//!
//! Caps: one torn write for each crash, in halves; all late writes of a kill land at one of two
//! moments; 4,096 states for one crash at one moment (`capped` counts the moments with more). In
//! longer workloads two of the four kinds of device, no second crash within the recovery, and no
//! failing calls; of more than four steps (in the suite's dose of the node: of more than one) not
//! every subset, but nothing and everything, and both but for one part: [`summary::Extent`]. On a
//! node a second crash comes within the first start only. What a node refuses at once, such as an
//! append to no topic, `R`, `E` and `T` of an empty topic, and a second `R` or `E` at once are left
//! out. A state whose durable bytes, names and
//! books are those of another is not checked again (`pruned`); only time stamps could differ in
//! what follows.
//!
//! Not covered: several topics, partitions, producers and cores, more than one failing call, silent
//! damage, disks that stay full: the simulator has these.

pub mod books;
pub mod chooser;
pub mod explore;
pub mod log;
pub mod node;
pub mod seen;
pub mod small;
pub mod state;
pub mod summary;
