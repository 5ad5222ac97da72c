//! The command line, as it is written: definitions, and what is generated from them.
//!
//! Nothing here talks to a server or a disk. What a command does is for `main` to route.

mod cluster;
mod configure;
mod exit;
mod generate;
mod offline;
mod records;
#[cfg(test)]
mod reference;
mod remote;
mod topic;

use clap::{Parser, Subcommand, ValueEnum};

pub(crate) use self::{
    cluster::{ClusterCommand, DrainArgs, TokenArgs, WatchArgs, token},
    configure::{ConfigCommand, SettingArgs},
    exit::Exit,
    generate::{completions, man_pages},
    offline::{CompletionsArgs, ManArgs, SegmentCommand},
    records::{ConsumeArgs, ProduceArgs},
    remote::RemoteArgs,
    topic::{AlterArgs, CreateArgs, MoveArgs, PartitionCommand, TopicCommand},
};

/// Catena: a distributed log engine. What it has acknowledged is on the disk.
#[derive(Parser, Debug)]
#[command(name = "catena", version, about, after_help = exit::HELP, max_term_width = 100)]
#[command(arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
    /// How results are written: for people, or as JSON for scripts.
    #[arg(short, long, global = true, value_name = "FORM", env = "CATENA_OUTPUT")]
    #[arg(hide_env_values = true, default_value = "table")]
    pub(crate) output: Output,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How results are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Output {
    /// Columns and sentences.
    Table,
    /// One JSON document, or one object a line where there may be many.
    Json,
}

/// What the program can do.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run a server on a directory.
    ///
    /// SIGTERM ends it after the requests in flight; SIGHUP reads the configuration again and
    /// applies what can change while it runs.
    Serve(SettingArgs),
    /// Create, list, describe, change, delete and trim topics.
    #[command(subcommand)]
    Topic(TopicCommand),
    /// Move copies of partitions.
    #[command(subcommand)]
    Partition(PartitionCommand),
    /// Look at the nodes of a cluster, let processes join it, and nodes leave.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Send each line of the input as a record.
    ///
    /// A line that no batch of the topic can hold ends the input: it is named by its file and
    /// number, the lines before it are sent, and the exit code is 1. A line that is not stored ends
    /// it, too: the first one is named, with how many are acknowledged, and nothing further is
    /// sent. The exit code is 4 if it, or a line that was sent behind it, may be stored all the
    /// same.
    Produce(ProduceArgs),
    /// Print records.
    ///
    /// What waits for further records ends with SIGINT or SIGTERM, and the exit code is 0.
    Consume(ConsumeArgs),
    /// Look into segment files; no server is needed.
    #[command(subcommand)]
    Segment(SegmentCommand),
    /// Examine this machine and the data directory as `serve` would, and say what to do.
    ///
    /// Each finding is ok, a warning, or refused: then `serve` would not start, and the exit code
    /// is 1. A probe file is written and removed, nothing else is changed.
    Doctor(SettingArgs),
    /// Check and show configurations; no server is needed.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a completion script for a shell.
    Completions(CompletionsArgs),
    /// Write the manual pages into a directory.
    Man(ManArgs),
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, error::ErrorKind};

    use super::*;
    use crate::config::declared_flags;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_argument_is_explained() {
        fn walk(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for argument in command.get_arguments() {
                let explained = argument.get_help().is_some();
                assert!(explained, "{} {} has no help", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(walk);
        }
        walk(&Cli::command());
    }

    #[test]
    fn the_flags_of_serve_are_those_that_the_settings_declare() {
        let command = Cli::command();
        let serve = command.find_subcommand("serve").unwrap();
        let flags: Vec<&str> = serve.get_arguments().filter_map(|a| a.get_long()).collect();
        let own = |flag: &&str| {
            !["config", "set", "server", "output"].contains(flag) && !flag.starts_with("tls-")
        };
        let mut own: Vec<&str> = flags.into_iter().filter(own).collect();
        let mut declared = declared_flags();
        own.sort_unstable();
        declared.sort_unstable();
        assert_eq!(own, declared);
    }

    #[test]
    fn the_promised_forms_are_understood() {
        let lines = [
            "catena serve --data-dir DIR --listen 127.0.0.1:1 --admin 127.0.0.1:2",
            "catena --server a:1 topic create NAME --partitions 4",
            "catena --server a:1 produce NAME",
            r"catena --server a:1 consume NAME --from beginning --until end --format %v\n",
            "catena topic list --server catenas://a?ca=ca.pem",
            "catena --tls-ca a.pem --tls-cert c.pem --tls-key k.pem --tls-server-name a topic list",
            "catena produce NAME a.txt - --null-value NULL --header a=1 --header b=2 --skip-empty",
            "catena consume NAME --partition 3 --from time:5 --count 7 -o json",
            "catena consume NAME --from offset:5 --until offset:9",
            "catena consume NAME --from timestamp:2026-01-01T00:00:00Z --until count --count 7",
            "catena consume NAME --follow",
            "catena topic alter NAME --set retention.ms=5 --unset segment.ms",
            "catena topic alter NAME --replicas 3 --min-replicas 2",
            "catena partition move NAME 3 --from 1 --to 2",
            "catena cluster nodes --watch --interval 5s",
            "catena cluster status",
            "catena cluster drain 2 --undo",
            "catena cluster drain 2 --no-wait",
            "catena cluster remove 2",
            "catena serve --peer 127.0.0.1:1 --witness",
            "catena cluster token --lifetime 2days",
            "catena cluster token --revoke 0123456789abcdef0123456789abcdef",
            "catena serve --peer 127.0.0.1:1 --join a:1 --token-file f --advertise-peer b:2",
            "catena topic trim NAME --partition 0 --to 17",
            "catena segment verify a.seg b.seg",
            "catena config check catena.toml",
        ];
        for line in lines {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn wrong_usage_is_told_apart() {
        let kind = |line| parse(line).unwrap_err().kind();
        assert_eq!(kind("catena produce"), ErrorKind::MissingRequiredArgument);
        assert_eq!(kind("catena produce t --durability most"), ErrorKind::InvalidValue);
        assert_eq!(kind("catena consume t --from yesterday"), ErrorKind::ValueValidation);
        assert_eq!(kind("catena consume t --follow --until end"), ErrorKind::ArgumentConflict);
        assert_eq!(kind("catena consume t --until count"), ErrorKind::MissingRequiredArgument);
        assert_eq!(kind("catena produce t --batch-bytes 0B"), ErrorKind::ValueValidation);
        assert_eq!(kind("catena topic list --tls-cert a"), ErrorKind::MissingRequiredArgument);
        let both = "catena topic alter t --replicas 3 --partitions 4";
        assert_eq!(kind(both), ErrorKind::ArgumentConflict);
        assert_eq!(kind("catena topic alter t"), ErrorKind::MissingRequiredArgument);
        assert_eq!(kind("catena cluster token --lifetime 0s"), ErrorKind::ValueValidation);
        assert_eq!(kind("catena cluster token --revoke abc"), ErrorKind::ValueValidation);
        assert_eq!(kind("catena brew"), ErrorKind::InvalidSubcommand);
        assert_eq!(parse("catena brew").unwrap_err().exit_code(), i32::from(Exit::Usage.code()));
    }

    #[test]
    fn flags_become_settings() {
        let line = "catena serve --data-dir d --log-level debug --set limits.connections=7";
        let Command::Serve(args) = parse(line).unwrap().command else { panic!("not serve") };
        let flags: Vec<String> = args
            .flags()
            .iter()
            .map(|flag| format!("{} {}={}", flag.flag, flag.key, flag.value))
            .collect();
        assert_eq!(
            flags,
            [
                "--data-dir storage.data_dir=d",
                "--log-level logging.level=debug",
                "--set limits.connections=7"
            ]
        );
    }

    #[test]
    fn the_reference_in_docs_is_up_to_date() {
        crate::reference::up_to_date("cli.md", &reference::reference(&Cli::command()));
    }
}
