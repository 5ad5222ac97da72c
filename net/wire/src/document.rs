//! The tables of `docs/wire-protocol.md` and `docs/peer-protocol.md` that say what the code says
//! are made from the code. The others are read by the second decoder, see `golden.rs`.
//!
//! `CATENA_GOLDEN=write cargo test -p catena-wire` writes them anew.

use std::{env, fs, path::Path};

use crate::{Api, Class, Durability, ErrorCode, peer::PeerKind};

const WIRE: &str = "wire-protocol.md";
const PEER: &str = "peer-protocol.md";

fn document(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name)
}

/// Holds the text between the markers of `name` in a document against `table`.
fn pinned(of: &str, name: &str, table: &str) {
    let path = document(of);
    let text = fs::read_to_string(&path).unwrap();
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->\n"));
    let (before, rest) = text.split_once(&begin).expect("the table begins");
    let (stored, after) = rest.split_once(&end).expect("the table ends");
    if env::var_os("CATENA_GOLDEN").is_some_and(|value| value == "write") {
        fs::write(&path, format!("{before}{begin}{table}{end}{after}")).unwrap();
    } else {
        assert_eq!(stored, table, "the {name} in {} are not those of the code", path.display());
    }
}

fn errors() -> String {
    let mut table =
        "| number | name | class | Kafka | meaning |\n|--:|---|---|--:|---|\n".to_owned();
    for code in ErrorCode::ALL {
        let class = match (code, code.class()) {
            (ErrorCode::None, _) => "",
            (_, Class::Definite) => "definite",
            (_, Class::Retriable) => "retriable",
            (_, Class::Indeterminate) => "indeterminate",
        };
        let (number, name, kafka) = (code.number(), code.name(), code.kafka());
        table += &format!("| {number} | {name} | {class} | {kafka} | {} |\n", code.describe());
    }
    table
}

fn apis() -> String {
    let mut table = "| number | name |\n|--:|---|\n".to_owned();
    for api in Api::ALL {
        table += &format!("| {} | {api:?} |\n", api as u8);
    }
    table
}

fn kinds() -> String {
    let mut table = "| number | kind | about | head, at most | payload, at most |\n".to_owned();
    table += "|--:|---|---|--:|--:|\n";
    for kind in PeerKind::ALL {
        let about = if kind.is_about_partition() { "a partition" } else { "the link" };
        let limits = kind.limits();
        let [head, payload] = [limits.head_bytes_max, limits.payload_bytes_max].map(size);
        table += &format!("| {} | {kind:?} | {about} | {head} | {payload} |\n", *kind as u8);
    }
    table
}

fn size(bytes: u32) -> String {
    match bytes {
        0 => "0".to_owned(),
        bytes if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        bytes => format!("{} KiB", bytes >> 10),
    }
}

/// One after the other: they write the same file.
#[test]
fn the_tables_of_the_document_are_those_of_the_code() {
    pinned(WIRE, "errors", &errors());
    pinned(WIRE, "apis", &apis());
    pinned(PEER, "kinds", &kinds());
}

#[test]
fn the_document_names_every_durability_level() {
    let text = fs::read_to_string(document(WIRE)).unwrap();
    for level in Durability::ALL {
        let row = format!("| {} | `{level}` |", level as u8);
        assert!(text.contains(&row), "{row} is missing");
    }
}
