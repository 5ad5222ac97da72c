//! `catena topic`.

use clap::{Args, Subcommand};

use super::{cluster::WatchArgs, configure::pair};

/// What can be done with topics.
#[derive(Subcommand, Debug)]
pub(crate) enum TopicCommand {
    /// Create a topic.
    Create(CreateArgs),
    /// List all topics.
    List,
    /// Show a topic's settings and partitions.
    Describe(DescribeArgs),
    /// Make settings and take them back, add partitions, change the name, or how many copies.
    Alter(AlterArgs),
    /// Delete a topic and all its records. This cannot be undone.
    Delete(TopicArgs),
    /// Forget the records of a partition below an offset. This cannot be undone.
    Trim(TrimArgs),
}

/// One topic.
#[derive(Args, Debug)]
pub(crate) struct TopicArgs {
    /// The topic.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

/// One topic, told once or again and again.
#[derive(Args, Debug)]
pub(crate) struct DescribeArgs {
    /// The topic.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) watch: WatchArgs,
}

/// A topic to be.
#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    /// Its name: 1 to 249 letters, digits, `.`, `_` or `-`.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// How many partitions; without it the server's `topic.partitions`.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) partitions: Option<u32>,
    /// Copies of each partition, on as many nodes; without it three, or as many as there are nodes.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) replicas: Option<u8>,
    /// A setting, for instance `retention.ms=86400000`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) set: Vec<(String, String)>,
    /// Succeed also when the topic is there already, whatever its settings.
    #[arg(long)]
    pub(crate) if_not_exists: bool,
    /// Only say whether it could be created.
    #[arg(long, conflicts_with = "if_not_exists")]
    pub(crate) validate_only: bool,
}

/// What else `topic alter` can change.
const OTHERS: [&str; 5] = ["unset", "partitions", "rename", "replicas", "min_replicas"];
/// What it changes beside the copies, and not together with them.
const SETTINGS: [&str; 5] = ["set", "unset", "partitions", "rename", "validate_only"];

/// Changes of a topic.
#[derive(Args, Debug)]
pub(crate) struct AlterArgs {
    /// The topic.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// A setting to make; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    #[arg(required_unless_present_any = OTHERS)]
    pub(crate) set: Vec<(String, String)>,
    /// A setting to take back, so that the default holds; may be repeated.
    #[arg(long, value_name = "KEY")]
    pub(crate) unset: Vec<String>,
    /// How many partitions from now on, at least as many as there are. Records with a key go to
    /// other partitions then than those of the same key before.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) partitions: Option<u32>,
    /// Its name from now on.
    #[arg(long, value_name = "NEW")]
    pub(crate) rename: Option<String>,
    /// Copies of each partition from now on; they are made and removed in the background.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    #[arg(conflicts_with_all = SETTINGS)]
    pub(crate) replicas: Option<u8>,
    /// Copies that must be there for a partition to take records; without it as many as before, or
    /// all where there are fewer.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    #[arg(conflicts_with_all = SETTINGS)]
    pub(crate) min_replicas: Option<u8>,
    /// Only say whether it could be done.
    #[arg(long)]
    pub(crate) validate_only: bool,
}

/// A partition's new start.
#[derive(Args, Debug)]
pub(crate) struct TrimArgs {
    /// The topic.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// The partition.
    #[arg(long, value_name = "P")]
    pub(crate) partition: u32,
    /// The first offset to keep.
    #[arg(long, value_name = "OFFSET")]
    pub(crate) to: u64,
}

/// What can be done with partitions.
#[derive(Subcommand, Debug)]
pub(crate) enum PartitionCommand {
    /// Move a copy of a partition from a node to another.
    ///
    /// It is done in the background: the copy leaves once the other one is complete.
    Move(MoveArgs),
}

/// A copy on its way.
#[derive(Args, Debug)]
pub(crate) struct MoveArgs {
    /// The topic.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// The partition.
    #[arg(value_name = "PARTITION")]
    pub(crate) partition: u32,
    /// The node that has it.
    #[arg(long, value_name = "NODE")]
    pub(crate) from: u64,
    /// The node that is to.
    #[arg(long, value_name = "NODE")]
    pub(crate) to: u64,
}
