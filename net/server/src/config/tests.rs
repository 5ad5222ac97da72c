use std::{fs, path::PathBuf, time::Duration};

use tempfile::TempDir;

use super::*;

/// A directory with a `catena.toml` of this text, and what loading it comes to.
fn load(text: &str) -> Result<Config, String> {
    load_with(text, &[], &[])
}

fn load_with(
    text: &str,
    environment: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Result<Config, String> {
    let (directory, sources) = sources(text, environment, flags);
    let place = format!("{}/", directory.path().display());
    let loaded = Config::load(&sources);
    loaded.map(|(config, _)| config).map_err(|error| error.to_string().replace(&place, ""))
}

fn sources(text: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> (TempDir, Sources) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("catena.toml");
    fs::write(&file, text).unwrap();
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let flag = |(key, value): &(&str, &str)| Flag {
        flag: "--set".to_owned(),
        key: (*key).to_owned(),
        value: (*value).to_owned(),
    };
    let sources = Sources {
        file: Some(file),
        environment: environment.iter().map(pair).collect(),
        flags: flags.iter().map(flag).collect(),
    };
    (directory, sources)
}

#[track_caller]
fn refused(text: &str, message: &str) {
    assert_eq!(load(text).unwrap_err(), message);
}

#[test]
fn an_empty_file_gives_every_default() {
    let config = load("").unwrap();
    assert_eq!(config.listen.client.to_string(), "127.0.0.1:9200");
    assert_eq!(config.storage.data_dir, PathBuf::from("catena-data"));
    assert_eq!(config.timeouts.handshake, Duration::from_secs(10));
    assert_eq!(config.limits.batch_bytes.0, 1 << 20);
    assert_eq!((config.topic.retention_bytes, config.tls), (None, None));
    assert!(config.node.cores.count().get() >= 1);
}

#[test]
fn every_declared_default_lies_within_its_limits() {
    for setting in settings::SETTINGS {
        let set = [(setting.key, setting.default)];
        load_with("", &[], &set).unwrap_or_else(|error| panic!("{}: {error}", setting.key));
        for limit in setting.limits.iter().flat_map(|(min, max)| [*min, *max]) {
            let error = load_with("", &[], &[(setting.key, limit)]).err().unwrap_or_default();
            assert!(
                !error.contains("must be from"),
                "{} refuses its own limit {limit}",
                setting.key
            );
        }
    }
}

#[test]
fn flags_are_above_the_environment_and_the_environment_above_the_file() {
    let file = "[node]\nname = 'from-file'\ncores = 3\n[logging]\nlevel = 'warn'\n";
    let environment = [("CATENA_NODE_NAME", "from-env"), ("CATENA_NODE_CORES", "5")];
    let config = load_with(file, &environment, &[("node.name", "from-flag")]).unwrap();
    assert_eq!(config.node.name, value::NodeName("from-flag".to_owned()));
    assert_eq!(config.node.cores.count().get(), 5);
    assert_eq!(config.logging.level, value::Value::parse("warn").unwrap());
}

#[test]
fn values_are_written_with_units() {
    let config = load(
        "[limits]\nmemory = '128MiB'\nbatch_bytes = 65536\n[timeouts]\nrequest = '1m30s'\n\
         [topic]\nmax.batch.bytes = '64KiB'\nretention.ms = '7d'\nsegment.ms = 60000\n",
    )
    .unwrap();
    assert_eq!((config.limits.memory.0, config.limits.batch_bytes.0), (128 << 20, 65536));
    assert_eq!(config.timeouts.request, Duration::from_secs(90));
    let topic = config.topic_defaults().settings;
    assert_eq!(
        (topic["retention.ms"].as_str(), topic["segment.ms"].as_str()),
        ("604800000", "60000")
    );
    assert_eq!((topic.get("retention.bytes"), topic["max.batch.bytes"].as_str()), (None, "65536"));
}

#[test]
fn topic_defaults_are_what_the_catalog_knows() {
    let none = load("").unwrap().topic_defaults();
    assert_eq!((none.partitions, none.settings.len()), (1, 0));
    let all = "[limits]\nbatch_bytes = 4096\n[topic]\npartitions = 7\nmax.batch.bytes = 4096\n\
               retention.bytes = 1\nretention.ms = 2\nsegment.bytes = 65536\nsegment.ms = 1000\n";
    let set = load(all).unwrap().topic_defaults();
    assert_eq!(set.partitions, 7);
    catena_replication::control::TopicConfig::parse(&set.settings).unwrap();
    let known = catena_replication::control::TOPIC_SETTINGS.iter().map(|setting| setting.key);
    assert!(known.eq(set.settings.keys().map(String::as_str)));
}

#[test]
fn unknown_keys_name_the_near_miss_with_file_and_line() {
    refused(
        "[storage]\n\ndata-dir = 'x'\n",
        "catena.toml:3: there is no setting `storage.data-dir`: did you mean `storage.data_dir`?",
    );
    refused("[server]\ndata_dir = 'x'\n", "catena.toml:1: there is no setting `server`");
    refused(
        "[listen]\ndata_dir = 'x'\n",
        "catena.toml:2: there is no setting `listen.data_dir`: did you mean `storage.data_dir`?",
    );
    refused("[limits]\nqqq = 1\n", "catena.toml:2: there is no setting `limits.qqq`");
}

#[test]
fn unknown_variables_of_ours_are_named_and_others_left_alone() {
    let odd = [("CATENA_STORAGE_DATADIR", "x"), ("CATENA_SERVICE_HOST", "x"), ("PATH", "x")];
    assert_eq!(
        load_with("", &odd, &[]).unwrap_err(),
        "environment CATENA_STORAGE_DATADIR: there is no setting `CATENA_STORAGE_DATADIR`: \
         did you mean `CATENA_STORAGE_DATA_DIR`?"
    );
}

#[test]
fn unknown_flags_name_the_near_miss() {
    assert_eq!(
        load_with("", &[], &[("limits.conections", "1")]).unwrap_err(),
        "flag --set: there is no setting `limits.conections`: did you mean `limits.connections`?"
    );
}

#[test]
fn files_that_are_missing_or_no_toml_say_so() {
    let sources = Sources { file: Some(PathBuf::from("/nonexistent.toml")), ..Sources::default() };
    let error = Config::load(&sources).unwrap_err().to_string();
    assert_eq!(error, "/nonexistent.toml: No such file or directory (os error 2)");
    let error = load("[node]\nname = \n").unwrap_err();
    assert!(error.starts_with("catena.toml:2: not TOML: "), "{error}");
    let error = load("[node]\nname = 'a'\nname = 'b'\n").unwrap_err();
    assert_eq!(error, "catena.toml:3: not TOML: duplicate key");
}

#[test]
fn shapes_that_do_not_fit_say_what_does() {
    refused(
        "[node]\nname = ['a']\n",
        "catena.toml:2: `node.name` takes a name of 1 to 64 letters, digits, `.`, `_` or `-`, \
         not a TOML array",
    );
    refused("node = 1\n", "catena.toml:1: `node` takes a table of settings, not a TOML integer");
}

#[test]
fn values_that_cannot_be_read_say_what_can() {
    let cases = [
        ("node.name", "a b", "a name of 1 to 64 letters, digits, `.`, `_` or `-`, not `a b`"),
        ("node.cores", "0", "a whole number above zero, or `auto`, not `0`"),
        ("listen.client", "x", "an IP address with a port such as `127.0.0.1:9200`, not `x`"),
        (
            "listen.advertised",
            "log-1",
            "a host with a port such as `log-1.example.com:9200`, not `log-1`",
        ),
        (
            "listen.admin",
            "0.0.0.0:9201",
            "a loopback address with a port such as `127.0.0.1:9201`, not `0.0.0.0:9201`: \
             it has no authentication and must not be reached from elsewhere",
        ),
        ("limits.connections", "many", "a whole number, not `many`"),
        ("logging.format", "xml", "`pretty` or `json`, not `xml`"),
        ("storage.data_dir", "", "a path, not ``"),
        (
            "logging.level",
            "catena=verbose",
            "`error`, `warn`, `info`, `debug`, `trace`, or such by target, not `catena=verbose`: \
             `verbose` is no level",
        ),
    ];
    for (key, text, message) in cases {
        let error = load_with("", &[], &[(key, text)]).unwrap_err();
        assert_eq!(error, format!("flag --set: `{key}` takes {message}"));
    }
    let error = load("[limits]\nmemory = '12 apples'\n").unwrap_err();
    assert!(
        error.starts_with(
            "catena.toml:2: `limits.memory` takes a size such as `64MiB`, not `12 apples`: "
        ),
        "{error}"
    );
    let error = load("[timeouts]\nrequest = 10\n").unwrap_err();
    assert!(
        error.contains("takes a duration such as `10s`, not `10`: time unit needed"),
        "{error}"
    );
}

#[test]
fn values_outside_their_limits_name_them() {
    refused(
        "[limits]\nbatch_bytes = '17MiB'\n",
        "catena.toml:2: `limits.batch_bytes` must be from 1KiB to 16MiB, not 17MiB",
    );
    refused(
        "[timeouts]\nrequest = '2h'\n",
        "catena.toml:2: `timeouts.request` must be from 100ms to 1h, not 2h",
    );
}

#[test]
fn memory_must_be_enough_for_the_largest_batches_on_every_core() {
    let of = |cores: u32, batch: &str| {
        format!(
            "[node]\ncores = {cores}\n[limits]\nmemory = '64MiB'\nbatch_bytes = '{batch}'\n\
                 [topic]\n'max.batch.bytes' = '1KiB'\n"
        )
    };
    assert!(load(&of(8, "1MiB")).is_ok());
    refused(
        &of(9, "1MiB"),
        "catena.toml:4: `limits.memory` must be at least 72MiB: eight of the largest batches \
         (`limits.batch_bytes`), and 4 MiB, for each of 9 cores (`node.cores`)",
    );
    assert!(load(&of(16, "1KiB")).is_ok());
    let error = load(&of(17, "1KiB")).unwrap_err();
    assert!(error.contains("must be at least 68MiB"), "{error}");
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    refused(
        "[topic]\nmax.batch.bytes = '2MiB'\n",
        "catena.toml:2: `topic.max.batch.bytes` must not be above `limits.batch_bytes`",
    );
    refused(
        "[limits]\nin_flight_per_connection = '512MiB'\n",
        "catena.toml:2: `limits.in_flight_per_connection` must not be above \
         `limits.in_flight_per_core`",
    );
    refused("[tls]\ncert = 'a.pem'\n", "catena.toml:2: `tls.cert` needs `tls.key` beside it");
    refused("[tls]\nkey = 'a.pem'\n", "catena.toml:2: `tls.key` needs `tls.cert` beside it");
    refused(
        "[tls]\nclient_ca = 'a'\n",
        "catena.toml:2: `tls.client_ca` needs `tls.cert` beside it",
    );
}

#[test]
fn tls_between_nodes_is_whole_or_not_there() {
    let parts = ["cert", "key", "ca"];
    let of = |parts: &[&str], peer: &str| {
        let parts: Vec<_> = parts.iter().map(|part| format!("tls.{part} = '{part}'\n")).collect();
        format!("[cluster]\n{}[listen]\n{peer}", parts.concat())
    };
    let peer = "peer = '127.0.0.1:1'\n";
    for (parts, text) in [
        (&parts[..2], "catena.toml:2: `cluster.tls.cert` needs `cluster.tls.ca` beside it"),
        (&parts[..1], "catena.toml:2: `cluster.tls.cert` needs `cluster.tls.key` beside it"),
        (&parts[1..], "catena.toml:2: `cluster.tls.key` needs `cluster.tls.cert` beside it"),
        (&parts[2..], "catena.toml:2: `cluster.tls.ca` needs `cluster.tls.cert` beside it"),
    ] {
        refused(&of(parts, peer), text);
    }
    refused(&of(&parts, ""), "catena.toml:2: `cluster.tls.cert` needs `listen.peer` beside it");
    let config = load(&of(&parts, peer)).unwrap();
    let [cert, key, ca] = parts.map(PathBuf::from);
    assert_eq!(config.peer_tls, Some(PeerTls { cert, key, ca }));
    assert_eq!(config.peer_address().as_deref(), Some("127.0.0.1:1"));
    assert_eq!(load(&of(&[], peer)).unwrap().peer_tls, None);
}

#[test]
fn all_problems_are_told_at_once() {
    let error = load("[limits]\nbatch_bytes = 1\nqqq = 1\n[node]\ncores = 'x'\n").unwrap_err();
    assert_eq!(error.lines().count(), 3, "{error}");
}

#[test]
fn check_counts_and_print_shows_origins() {
    let (directory, sources) = sources("[node]\nname = 'a'\n", &[("CATENA_NODE_CORES", "2")], &[]);
    let file = directory.path().join("catena.toml");
    assert_eq!(check(&sources).unwrap(), format!("{}: 2 settings, all fine\n", file.display()));
    let (_, gathered) = Config::load(&sources).unwrap();
    let text = print(&gathered, false);
    let name = text.lines().nth(1).unwrap();
    assert!(name.starts_with("name = \"a\" "), "{text}");
    assert!(name.ends_with(&format!(" # {}:2", file.display())), "{text}");
    assert!(text.contains("# environment CATENA_NODE_CORES\n"), "{text}");
    assert!(text.contains("retention.ms = \"none\" "), "{text}");
    let json: serde_json::Value = serde_json::from_str(&print(&gathered, true)).unwrap();
    assert_eq!(json[1]["value"], "2");
}

#[test]
fn what_print_says_reads_back_as_the_same_configuration() {
    let odd = [("node.name", "odd"), ("limits.memory", "100MB"), ("logging.output", "a \"b\".log")];
    let (_directory, given) = sources("", &[], &odd);
    let (config, gathered) = Config::load(&given).unwrap();
    assert_eq!(load(&print(&gathered, false)).unwrap(), config);
}

#[test]
fn a_reload_tells_what_waits_for_a_restart() {
    let gathered = |set: &[(&str, &str)]| {
        let (_directory, sources) = sources("", &[], set);
        Config::load(&sources).unwrap().1
    };
    let after = gathered(&[("node.cores", "2"), ("timeouts.drain", "1s")]);
    assert_eq!(Config::needs_restart(&gathered(&[]), &after), ["node.cores"]);
}

#[test]
fn the_reference_in_docs_is_up_to_date() {
    crate::reference::up_to_date("configuration.md", &reference());
}
