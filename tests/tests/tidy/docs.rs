//! The book holds together: its pages are listed, its links lead somewhere, its tables are true.

use std::{
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
};

use crate::{files, no_complaints, read, root};

#[test]
fn every_page_is_in_the_table_of_contents() {
    let summary = read(Path::new("docs/SUMMARY.md"));
    let pages = files().into_iter().filter(|f| f.starts_with("docs") && is_markdown(f));
    let listed = |page: &PathBuf| {
        let inside = page.strip_prefix("docs").expect("it lies there").display().to_string();
        summary.contains(&format!("({inside})")) || inside == "SUMMARY.md"
    };
    let lost = pages.filter(|page| !listed(page));
    let lost: Vec<String> =
        lost.map(|page| format!("{} is not in docs/SUMMARY.md", page.display())).collect();
    no_complaints(&lost);
}

#[test]
fn links_lead_to_files() {
    let mut complaints = Vec::new();
    for page in files().into_iter().filter(|file| is_markdown(file)) {
        let folder = page.parent().expect("a page lies in a folder");
        for link in links(&read(&page)) {
            let target = normalised(&folder.join(link.split('#').next().unwrap_or_default()));
            if !root().join(&target).exists() {
                complaints.push(format!("{}: {link} leads nowhere", page.display()));
            }
        }
    }
    no_complaints(&complaints);
}

#[test]
fn every_dependency_is_defended_in_one_line() {
    let manifest: toml::Table = read(Path::new("Cargo.toml")).parse().expect("cargo has read it");
    let dependencies = manifest["workspace"]["dependencies"].as_table().expect("it is a table");
    let named: BTreeSet<String> =
        dependencies.keys().filter(|name| !name.starts_with("catena-")).cloned().collect();
    let decision = read(Path::new("docs/adr/0002-dependencies.md"));
    let rows = decision.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let defended: BTreeSet<String> = rows.map(str::to_owned).collect();
    let undefended: Vec<_> = named.difference(&defended).collect();
    let gone: Vec<_> = defended.difference(&named).collect();
    assert!(undefended.is_empty(), "docs/adr/0002-dependencies.md must defend {undefended:?}");
    assert!(gone.is_empty(), "docs/adr/0002-dependencies.md defends what is gone: {gone:?}");
}

#[test]
fn the_readme_names_the_test_command_and_a_directory_that_git_ignores() {
    let readme = read(Path::new("README.md"));
    assert!(readme.contains("\n.ci/run\n"));
    assert!(readme.contains("--data-dir ./catena-data "));
    assert!(read(Path::new(".gitignore")).lines().any(|line| line == "/catena-data"));
}

fn is_markdown(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "md")
}

/// The targets of `[text](target)` that are files of ours.
fn links(text: &str) -> Vec<String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let ours = targets.filter(|link| !link.contains("://") && !link.starts_with('#'));
    ours.map(str::to_owned).collect()
}

/// The path without `..`, which a listing of files does not know.
fn normalised(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => assert!(plain.pop(), "{} leaves the tree", path.display()),
            part => plain.push(part),
        }
    }
    plain
}
