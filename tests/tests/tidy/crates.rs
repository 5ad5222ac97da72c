//! What may import what: the arrows of the architecture, from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};

use crate::{files, no_complaints, read, root};

/// Every room, and the rooms it may import. Imports only go down.
const ARROWS: [(&str, &[&str]); 12] = [
    ("catena-format", &[]),
    ("catena-log", &["catena-format"]),
    ("catena-blocking", &["catena-log", "catena-format"]),
    ("catena-uring", &["catena-log"]),
    ("catena-replication", &["catena-log", "catena-format"]),
    ("catena-wire", &["catena-format"]),
    ("catena-client", &["catena-wire", "catena-format"]),
    ("catena-node", &["catena-wire", "catena-replication", "catena-log", "catena-format"]),
    ("catena-consensus", &["catena-blocking", "catena-log", "catena-format"]),
    ("catena", BELOW_THE_SERVER),
    ("catena-bench", &["catena-client"]),
    ("catena-tests", ALL),
];

const BELOW_THE_SERVER: &[&str] = &[
    "catena-format",
    "catena-log",
    "catena-blocking",
    "catena-uring",
    "catena-replication",
    "catena-wire",
    "catena-client",
    "catena-node",
    "catena-consensus",
];

const ALL: &[&str] = &[
    "catena-format",
    "catena-log",
    "catena-blocking",
    "catena-uring",
    "catena-replication",
    "catena-wire",
    "catena-client",
    "catena-node",
    "catena-consensus",
    "catena",
    "catena-bench",
];

/// Libraries, and the only rooms that may name them.
const GUESTS: [(&str, &[&str]); 2] =
    [("glommio", &["catena-uring", "catena"]), ("openraft", &["catena-consensus"])];

/// Rooms that decide and never do, with the libraries that must not even be in their trees.
const PURE: [&str; 5] =
    ["catena-format", "catena-log", "catena-replication", "catena-wire", "catena-node"];
const NEVER_IN_PURE: [&str; 6] = ["tokio", "glommio", "async-std", "mio", "rustix", "openraft"];
const NEVER_IN_CLIENT: [&str; 4] = ["glommio", "openraft", "catena", "catena-log"];

/// Where an unsafe block may stand at all.
const UNSAFE: [&str; 1] = ["catena-uring"];

#[test]
fn every_room_is_on_the_map_and_imports_only_what_lies_below() {
    let metadata = metadata();
    let rooms: BTreeSet<String> =
        metadata.workspace_packages().iter().map(|room| room.name.to_string()).collect();
    let arrows: BTreeMap<&str, &[&str]> = ARROWS.into();
    let mut complaints = Vec::new();
    for room in metadata.workspace_packages() {
        let Some(allowed) = arrows.get(room.name.as_str()) else {
            complaints.push(format!("{} is on no floor of the architecture", room.name));
            continue;
        };
        for dependency in room.dependencies.iter().filter(|d| rooms.contains(&d.name)) {
            if !allowed.contains(&dependency.name.as_str()) {
                complaints.push(format!("{} must not import {}", room.name, dependency.name));
            }
        }
    }
    no_complaints(&complaints);
}

#[test]
fn guests_are_named_in_their_rooms_only() {
    let mut complaints = Vec::new();
    for room in metadata().workspace_packages() {
        for (guest, rooms) in GUESTS {
            let named = room.dependencies.iter().any(|d| d.name == guest);
            if named && !rooms.contains(&room.name.as_str()) {
                complaints.push(format!("{} must not name {guest}", room.name));
            }
        }
    }
    no_complaints(&complaints);
}

#[test]
fn pure_rooms_have_no_runtime_in_their_trees() {
    let metadata = metadata();
    let mut complaints = Vec::new();
    for room in PURE {
        let tree = tree(&metadata, room);
        assert!(tree.contains("thiserror"), "the tree of {room} cannot be true: {tree:?}");
        for never in NEVER_IN_PURE.iter().filter(|never| tree.contains(**never)) {
            complaints.push(format!("{room} must not bring {never}"));
        }
    }
    no_complaints(&complaints);
}

#[test]
fn the_client_brings_no_part_of_the_server() {
    let tree = tree(&metadata(), "catena-client");
    let found: Vec<&str> = NEVER_IN_CLIENT.into_iter().filter(|n| tree.contains(*n)).collect();
    assert!(found.is_empty(), "catena-client must not bring {found:?}");
}

#[test]
fn pure_rooms_are_linted_for_purity() {
    let metadata = metadata();
    let mut configurations = BTreeMap::new();
    for room in metadata.workspace_packages() {
        let folder = room.manifest_path.parent().expect("a manifest lies in a folder");
        if PURE.contains(&room.name.as_str()) {
            let lint = folder.join(".clippy.toml").into_std_path_buf();
            configurations.insert(room.name.to_string(), read(&lint));
        }
    }
    assert_eq!(configurations.len(), PURE.len());
    let different: BTreeSet<&String> = configurations.values().collect();
    assert_eq!(different.len(), 1, "every pure room has the same .clippy.toml");
    for banned in ["Instant::now", "SystemTime::now", "thread::spawn", "HashMap", "HashSet"] {
        assert!(different.iter().all(|text| text.contains(banned)), "{banned} is not banned");
    }
}

#[test]
fn every_manifest_takes_the_lints_of_the_workspace() {
    let mut complaints = Vec::new();
    for room in metadata().workspace_packages() {
        let text = read(room.manifest_path.as_std_path());
        let manifest: toml::Table = text.parse().expect("cargo has read it before");
        let lints = manifest.get("lints").and_then(|lints| lints.get("workspace"));
        if lints.and_then(toml::Value::as_bool) != Some(true) {
            complaints.push(format!("{}: lints.workspace = true is missing", room.name));
        }
        complaints.extend(versions_of_its_own(room, &manifest));
    }
    no_complaints(&complaints);
}

#[test]
fn unsafe_is_forbidden_but_where_it_is_needed() {
    let mut complaints = Vec::new();
    for room in metadata().workspace_packages() {
        for target in room.targets.iter().filter(|t| t.is_lib() || t.is_bin()) {
            let text = read(target.src_path.as_std_path());
            let forbidden = text.contains("#![forbid(unsafe_code)]");
            if !forbidden && !UNSAFE.contains(&room.name.as_str()) {
                complaints.push(format!("{}: #![forbid(unsafe_code)] is missing", target.src_path));
            }
        }
    }
    no_complaints(&complaints);
}

/// What stands at the top of the repository; files whose names start with a dot are free.
const TOP: [&str; 10] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "bench",
    "docs",
    "engine",
    "net",
    "replication",
    "tests",
];

#[test]
fn nothing_else_stands_at_the_top() {
    let names = files().into_iter().filter_map(|file| {
        let first = file.components().next()?;
        Some(first.as_os_str().to_string_lossy().into_owned())
    });
    let names: BTreeSet<String> = names.filter(|name| !name.starts_with('.')).collect();
    let unknown: Vec<&String> = names.iter().filter(|name| !TOP.contains(&name.as_str())).collect();
    assert!(unknown.is_empty(), "not at the top of the repository: {unknown:?}");
}

/// Versions belong to the root: a room says only `name.workspace = true`.
fn versions_of_its_own(room: &Package, manifest: &toml::Table) -> Vec<String> {
    let tables = ["dependencies", "dev-dependencies", "build-dependencies"];
    let tables = tables.iter().filter_map(|name| manifest.get(*name)?.as_table());
    let own = tables.flatten().filter(|(_, value)| value.get("workspace").is_none());
    own.map(|(name, _)| format!("{}: {name} has a version of its own", room.name)).collect()
}

fn metadata() -> Metadata {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut command = MetadataCommand::new();
    command.manifest_path(root().join("Cargo.toml"));
    command.other_options(vec!["--filter-platform".to_owned(), platform]);
    command.exec().expect("cargo tells about the workspace")
}

/// The names of everything that the room brings when it is built, itself left out.
fn tree(metadata: &Metadata, room: &str) -> BTreeSet<String> {
    let nodes = &metadata.resolve.as_ref().expect("dependencies are resolved").nodes;
    let edges: BTreeMap<&PackageId, _> = nodes.iter().map(|node| (&node.id, &node.deps)).collect();
    let is_room = |package: &&&Package| package.name.as_str() == room;
    let packages = metadata.workspace_packages();
    let start = packages.iter().find(is_room).unwrap_or_else(|| panic!("no room is called {room}"));
    let (mut seen, mut open) = (BTreeSet::new(), vec![&start.id]);
    while let Some(id) = open.pop() {
        let built = edges[id].iter().filter(|edge| {
            edge.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development)
        });
        open.extend(built.map(|edge| &edge.pkg).filter(|id| seen.insert((*id).clone())));
    }
    seen.iter().map(|id| metadata[id].name.to_string()).collect()
}
