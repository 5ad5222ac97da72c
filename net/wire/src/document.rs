//! The tables of `docs/wire-protocol.md` that say what the code says are made from the code. The
//! others are read by the second decoder, see `golden.rs`.
//!
//! `CATENA_GOLDEN=write cargo test -p catena-wire` writes them anew.

use std::{env, fs, path::Path};

use crate::{Api, Class, Durability, ErrorCode};

fn document() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/wire-protocol.md")
}

/// Holds the text between the markers of `name` against `table`.
fn pinned(name: &str, table: &str) {
    let path = document();
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

/// One after the other: they write the same file.
#[test]
fn the_tables_of_the_document_are_those_of_the_code() {
    pinned("errors", &errors());
    pinned("apis", &apis());
}

#[test]
fn the_document_names_every_durability_level() {
    let text = fs::read_to_string(document()).unwrap();
    for level in Durability::ALL {
        let row = format!("| {} | `{level}` |", level as u8);
        assert!(text.contains(&row), "{row} is missing");
    }
}
