//! References in `docs/` that are generated from the code, and kept true by tests.

use std::{fs, path::Path};

/// Fails when `docs/<name>` is not `text`, after putting it right: the second run passes.
#[track_caller]
pub(crate) fn up_to_date(name: &str, text: &str) {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let path = docs.join(name);
    if fs::read_to_string(&path).is_ok_and(|kept| kept == text) {
        return;
    }
    fs::create_dir_all(&docs).unwrap();
    fs::write(&path, text).unwrap();
    panic!("docs/{name} was out of date and has been written anew: look at it and commit it");
}
