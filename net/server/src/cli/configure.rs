//! Settings on the command line, and `catena config`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Output;
use crate::config::{self, Config, ConfigError, Flag, Sources};

/// Where the configuration comes from. Every setting is described in the configuration reference.
#[derive(Args, Debug, Default)]
pub(crate) struct SettingArgs {
    /// The configuration file, TOML.
    #[arg(long, value_name = "FILE", env = "CATENA_CONFIG", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,
    /// The directory that holds everything; created if missing (storage.data_dir).
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// The address for clients (listen.client).
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// What clients are told to connect to, when it is another address (listen.advertised).
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// The address for other nodes: makes the node one of a cluster (listen.peer).
    #[arg(long, value_name = "ADDR")]
    peer: Option<String>,
    /// What other nodes are told to connect to, when it is another (listen.peer_advertised).
    #[arg(long, value_name = "HOST:PORT")]
    advertise_peer: Option<String>,
    /// On an empty directory: the peer address of a node of the cluster to join (cluster.join).
    #[arg(long, value_name = "HOST:PORT")]
    join: Option<String>,
    /// The file with the token that allows it to (cluster.token_file).
    #[arg(long, value_name = "FILE")]
    token_file: Option<String>,
    /// Vote, and hold no partition (cluster.witness).
    #[arg(long, num_args = 0, default_missing_value = "true")]
    witness: Option<String>,
    /// The address of metrics and health checks, on loopback (listen.admin).
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// How many cores serve partitions, or `auto` (node.cores).
    #[arg(long, value_name = "N")]
    cores: Option<String>,
    /// What is logged: error, warn, info, debug, trace, or such by target (logging.level).
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// How a log line is written: pretty or json (logging.format).
    #[arg(long, value_name = "FORM")]
    log_format: Option<String>,
    /// Where log lines go: stdout, stderr or a file (logging.output).
    #[arg(long, value_name = "WHERE")]
    log_output: Option<String>,
    /// Any setting by its key; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
}

impl SettingArgs {
    /// The flags as settings, in the order in which they win.
    pub(crate) fn flags(&self) -> Vec<Flag> {
        let own = [
            ("--data-dir", "storage.data_dir", &self.data_dir),
            ("--listen", "listen.client", &self.listen),
            ("--advertise", "listen.advertised", &self.advertise),
            ("--peer", "listen.peer", &self.peer),
            ("--advertise-peer", "listen.peer_advertised", &self.advertise_peer),
            ("--join", "cluster.join", &self.join),
            ("--token-file", "cluster.token_file", &self.token_file),
            ("--witness", "cluster.witness", &self.witness),
            ("--admin", "listen.admin", &self.admin),
            ("--cores", "node.cores", &self.cores),
            ("--log-level", "logging.level", &self.log_level),
            ("--log-format", "logging.format", &self.log_format),
            ("--log-output", "logging.output", &self.log_output),
        ];
        let own =
            own.into_iter().filter_map(|(flag, key, value)| Some((flag, key, value.as_ref()?)));
        let set = self.set.iter().map(|(key, value)| ("--set", key.as_str(), value));
        own.chain(set)
            .map(|(flag, key, value)| Flag {
                flag: flag.to_owned(),
                key: key.to_owned(),
                value: value.clone(),
            })
            .collect()
    }

    /// File, environment and flags, ready to be loaded.
    pub(crate) fn sources(&self) -> Sources {
        Sources::of_process(self.config.clone(), self.flags())
    }
}

/// `catena config`.
#[derive(Subcommand, Debug)]
pub(crate) enum ConfigCommand {
    /// Say what is wrong with a file, or that it is fine. The environment is left out.
    Check {
        /// The configuration file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Show every setting with its value and where that was set.
    Print(SettingArgs),
    /// Explain every setting, as Markdown.
    Reference,
}

impl ConfigCommand {
    /// What is to be printed.
    ///
    /// # Errors
    /// Everything that is wrong with the configuration.
    pub(crate) fn run(&self, output: Output) -> Result<String, ConfigError> {
        match self {
            Self::Check { file } => {
                config::check(&Sources { file: Some(file.clone()), ..Sources::default() })
            }
            Self::Print(args) => {
                let (_, gathered) = Config::load(&args.sources())?;
                Ok(config::print(&gathered, output == Output::Json))
            }
            Self::Reference => Ok(config::reference()),
        }
    }
}

/// `KEY=VALUE`, as written.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it is written KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
