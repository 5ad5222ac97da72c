//! Widths, words and paths: what can be seen line by line.

use std::path::Path;

use crate::{files, no_complaints, read, rust_files};

const WIDTH_MAX: usize = 100;
const LINES_MAX: usize = 800;

/// Words that mean something else elsewhere, with ours.
///
/// They are looked for in documentation only: names that others gave (the fields of Kafka's batch)
/// keep their spelling where they are quoted, see [`QUOTED`].
const WORDS: [(&str, &str); 9] = [
    ("leader", "head"),
    ("leaders", "heads"),
    ("follower", "successor, or member of the chain"),
    ("followers", "successors, or members of the chain"),
    ("whitelist", "list of what is allowed"),
    ("blacklist", "list of what is refused"),
    ("TODO", "a finished sentence, or an issue"),
    ("FIXME", "a finished sentence, or an issue"),
    ("XXX", "a finished sentence, or an issue"),
];

/// Where `leader` and `follower` mean what they do in every text about consensus.
const OF_CONSENSUS: &str = "net/consensus";
const WORDS_OF_CONSENSUS: [&str; 4] = ["leader", "leaders", "follower", "followers"];

/// Names of other systems that contain such a word.
const QUOTED: [&str; 2] = ["partition leader epoch", "control-plane leader"];

#[test]
fn lines_fit_the_width() {
    let mut complaints = Vec::new();
    for (file, text) in rust_files() {
        for (number, line) in numbered(&text).filter(|(_, l)| l.chars().count() > WIDTH_MAX) {
            let width = line.chars().count();
            complaints.push(format!("{}:{number}: {width} columns wide", file.display()));
        }
    }
    no_complaints(&complaints);
}

#[test]
fn files_can_be_read_in_one_sitting() {
    let mut complaints = Vec::new();
    for (file, text) in rust_files() {
        let lines = text.lines().count();
        if lines > LINES_MAX {
            complaints.push(format!("{}: {lines} lines, {LINES_MAX} at most", file.display()));
        }
    }
    no_complaints(&complaints);
}

#[test]
fn documentation_uses_our_words() {
    let mut complaints = Vec::new();
    let here = Path::new("tests/tests/tidy/text.rs");
    for file in files().into_iter().filter(|file| file != here && documents(file)) {
        let is_rust = file.extension().is_some_and(|e| e == "rs");
        let text = read(&file);
        let prose = numbered(&text).filter(|(_, line)| !is_rust || is_comment(line));
        for (number, line) in prose {
            let own = |word: &str| file.starts_with(OF_CONSENSUS) && is_of_consensus(word);
            for (word, ours) in banned_in(line).into_iter().filter(|(word, _)| !own(word)) {
                let place = file.display();
                complaints.push(format!("{place}:{number}: `{word}` is not our word: {ours}"));
            }
        }
    }
    no_complaints(&complaints);
}

#[test]
fn no_file_names_a_directory_of_somebody() {
    let personal = [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/wo", "rk/")];
    let mut complaints = Vec::new();
    for file in files() {
        let text = read(&file);
        for (number, line) in numbered(&text) {
            for path in personal.iter().filter(|path| starts_a_path(line, path)) {
                complaints.push(format!("{}:{number}: names {path}", file.display()));
            }
        }
    }
    no_complaints(&complaints);
}

#[test]
fn text_ends_with_one_line_break_and_has_no_blanks_at_line_ends() {
    let mut complaints = Vec::new();
    for file in files().into_iter().filter(|file| documents(file)) {
        let text = read(&file);
        if !text.ends_with('\n') || text.ends_with("\n\n") {
            complaints.push(format!("{}: ends with other than one line break", file.display()));
        }
        for (number, _) in numbered(&text).filter(|(_, line)| line.ends_with([' ', '\t', '\r'])) {
            complaints.push(format!("{}:{number}: blanks at the end", file.display()));
        }
    }
    no_complaints(&complaints);
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split('\n').enumerate().map(|(index, line)| (index + 1, line))
}

fn documents(file: &Path) -> bool {
    file.extension().is_some_and(|e| e == "rs" || e == "md" || e == "toml")
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

fn is_of_consensus(word: &str) -> bool {
    WORDS_OF_CONSENSUS.contains(&word)
}

fn banned_in(line: &str) -> Vec<(&'static str, &'static str)> {
    let mut line = line.to_owned();
    for quoted in QUOTED {
        line = line.replace(quoted, "");
    }
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let words: Vec<&str> = line.split(|c| !is_word(c)).collect();
    WORDS.into_iter().filter(|(banned, _)| words.contains(banned)).collect()
}

fn starts_a_path(line: &str, path: &str) -> bool {
    let before = |at: usize| line[..at].chars().next_back();
    line.match_indices(path)
        .any(|(at, _)| !before(at).is_some_and(|c| c.is_alphanumeric() || "._-~".contains(c)))
}
