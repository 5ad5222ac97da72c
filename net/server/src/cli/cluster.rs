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
