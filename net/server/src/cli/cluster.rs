//! `catena cluster`.

use std::time::Duration;

use clap::{Args, Subcommand};

/// What can be done with a cluster.
#[derive(Subcommand, Debug)]
pub(crate) enum ClusterCommand {
    /// Print a token that lets processes join the cluster, or take one back.
    ///
    /// A process that is started on an empty directory with `--join` and this token in its
    /// `--token-file` becomes a node. Whoever has the token can do so until its time is over.
    Token(TokenArgs),
    /// List the nodes: what runs, what each holds, who votes, and who orders the catalog.
    Nodes(WatchArgs),
    /// Say whether all is as it should be, and what is not; then the exit code is 1.
    ///
    /// Told are nodes that are down, votes that are missing, nodes that cannot be drained, and
    /// partitions with too few copies, with how far each member of their chain is.
    Status(WatchArgs),
    /// Remove a node for ever: one that does not run any more, or one that is drained.
    ///
    /// What it kept is copied to other nodes, as far as there are any. Its directory is of no use
    /// any more.
    Remove(NodeArgs),
    /// Have a node give all that it holds to others, or take that back.
    ///
    /// Nothing new is placed there. It ends when the node holds nothing; or with exit code 1, when
    /// too few other nodes are left for what remains.
    Drain(DrainArgs),
    /// Give up what only lost nodes had: partitions without one go on with another node's copy.
    ///
    /// Of partitions whose chain has nobody left that runs, those that have a copy on this node go
    /// on with it. What it lacks is lost, acknowledged or not, and whoever of the chain comes back
    /// is cut to it. First see to it that they are lost for good: a node that only nobody can
    /// reach goes on acknowledging what will be lost.
    Recover(RecoverArgs),
}

/// Whether and how often something is told again.
#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    /// Tell it again and again.
    #[arg(long)]
    pub(crate) watch: bool,
    /// How often.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = lifetime)]
    #[arg(requires = "watch")]
    pub(crate) interval: Duration,
}

/// One node.
#[derive(Args, Debug)]
pub(crate) struct NodeArgs {
    /// The node, by its number.
    #[arg(value_name = "NODE")]
    pub(crate) node: u64,
}

/// A node that is to hold nothing.
#[derive(Args, Debug)]
pub(crate) struct DrainArgs {
    /// The node, by its number.
    #[arg(value_name = "NODE")]
    pub(crate) node: u64,
    /// It may hold something again.
    #[arg(long)]
    pub(crate) undo: bool,
    /// Do not wait until it holds nothing.
    #[arg(long, conflicts_with = "undo")]
    pub(crate) no_wait: bool,
}

/// Whose copies are to go on.
#[derive(Args, Debug)]
pub(crate) struct RecoverArgs {
    /// The node, by its number.
    #[arg(value_name = "NODE")]
    pub(crate) node: u64,
    /// The nodes that are lost for good, by their numbers, with commas between them.
    #[arg(long, value_name = "NODES", value_delimiter = ',', required = true)]
    pub(crate) lost: Vec<u64>,
    /// What its copies lack is lost.
    #[arg(long, required = true)]
    pub(crate) accept_loss: bool,
}

/// A token for nodes to be.
#[derive(Args, Debug)]
pub(crate) struct TokenArgs {
    /// How long it is valid.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = lifetime)]
    pub(crate) lifetime: Duration,
    /// Take this token back: nobody joins with it any more.
    #[arg(long, value_name = "TOKEN", conflicts_with = "lifetime", value_parser = token)]
    pub(crate) revoke: Option<u128>,
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let least = Duration::from_millis(1);
    if lifetime >= least { Ok(lifetime) } else { Err("shorter than a millisecond".to_owned()) }
}

/// Reads a token, as it is printed.
///
/// # Errors
/// What one looks like.
pub(crate) fn token(text: &str) -> Result<u128, String> {
    let digits = (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten();
    digits.ok_or_else(|| "a token is 32 hexadecimal digits".to_owned())
}
