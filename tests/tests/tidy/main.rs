//! The repository tests itself: arrows between the rooms, names, widths, lengths, dead files.
//!
//! Each test names a fact and fails with every place where it is not so.

mod crates;
mod docs;
mod source;
mod text;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The root of the workspace.
fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests/ lies in the workspace").to_owned()
}

/// Every file that is tracked, or would be: relative to the root, sorted.
fn files() -> Vec<PathBuf> {
    let listing = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git runs");
    assert!(listing.status.success(), "git lists the files of the repository");
    let listing = String::from_utf8(listing.stdout).expect("file names are UTF-8");
    let mut files: Vec<PathBuf> = listing.split('\0').map(PathBuf::from).collect();
    files.retain(|file| root().join(file).is_file());
    files.sort();
    files.dedup();
    assert!(files.len() > 50, "only {} files: the listing is broken", files.len());
    files
}

/// Every Rust file, with its text.
fn rust_files() -> Vec<(PathBuf, String)> {
    let rust = files().into_iter().filter(|file| file.extension().is_some_and(|e| e == "rs"));
    rust.map(|file| (file.clone(), read(&file))).collect()
}

/// The text of a file; other than UTF-8 is replaced.
fn read(file: &Path) -> String {
    let bytes = fs::read(root().join(file)).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Fails with every complaint on a line of its own.
#[track_caller]
fn no_complaints(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}
