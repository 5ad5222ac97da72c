//! Collects what was set, and where: texts by key, before any of them is read.

use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};

use super::{
    error::{Origin, Problem},
    settings::{SECTIONS, SETTINGS},
};

/// Variables that belong to the command line, not to a setting.
const OTHER_VARIABLES: [&str; 3] = ["CATENA_CONFIG", "CATENA_SERVER", "CATENA_OUTPUT"];
/// How like a key a wrong one must be to be offered.
const NEAR: f64 = 0.7;

/// Where settings may come from, the strongest last.
#[derive(Clone, Default, Debug)]
pub(crate) struct Sources {
    /// The file, if one is named.
    pub(crate) file: Option<PathBuf>,
    /// The environment; other programs' variables are left alone.
    pub(crate) environment: Vec<(String, String)>,
    /// The flags.
    pub(crate) flags: Vec<Flag>,
}

/// A setting made by a flag.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Flag {
    /// The flag as it was written, for messages.
    pub(crate) flag: String,
    /// The key of the setting.
    pub(crate) key: String,
    /// Its text.
    pub(crate) value: String,
}

impl Sources {
    /// The file, the environment of this process, and the flags.
    pub(crate) fn of_process(file: Option<PathBuf>, flags: Vec<Flag>) -> Self {
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let environment = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
        Self { file, environment: environment.collect(), flags }
    }
}

/// What was set, by key; the strongest source has won.
#[derive(Clone, Default, Debug)]
pub(crate) struct Gathered {
    values: BTreeMap<&'static str, (String, Origin)>,
}

impl Gathered {
    /// Reads all sources; keys that do not exist are problems.
    pub(super) fn from(sources: &Sources) -> (Self, Vec<Problem>) {
        let (mut gathered, mut problems) = (Self::default(), Vec::new());
        if let Some(file) = &sources.file {
            gathered.file(file, &mut problems);
        }
        for (name, value) in &sources.environment {
            gathered.variable(name, value, &mut problems);
        }
        for Flag { flag, key, value } in &sources.flags {
            gathered.set(key, value.clone(), Origin::Flag(flag.clone()), &mut problems);
        }
        (gathered, problems)
    }

    /// What was set, and where; `None` when nobody did.
    pub(crate) fn found(&self, key: &str) -> Option<(&str, &Origin)> {
        self.values.get(key).map(|(text, origin)| (text.as_str(), origin))
    }

    /// The text of a setting: what was set, or its default.
    pub(crate) fn text(&self, key: &str) -> &str {
        let default = || SETTINGS.iter().find(|s| s.key == key).map_or("", |s| s.default);
        self.found(key).map_or_else(default, |(text, _)| text)
    }

    /// Where a setting was set.
    pub(super) fn origin(&self, key: &str) -> Origin {
        self.found(key).map_or(Origin::Default, |(_, origin)| origin.clone())
    }

    /// How many settings were made at all.
    pub(super) fn count(&self) -> usize {
        self.values.len()
    }

    fn set(&mut self, key: &str, text: String, origin: Origin, problems: &mut Vec<Problem>) {
        match SETTINGS.iter().find(|setting| setting.key == key) {
            Some(setting) => {
                self.values.insert(setting.key, (text, origin));
            }
            None => {
                let near = nearest(key, SETTINGS.iter().map(|s| s.key.to_owned()));
                problems.push(Problem::Unknown { origin, key: key.to_owned(), near });
            }
        }
    }

    fn file(&mut self, file: &Path, problems: &mut Vec<Problem>) {
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) => {
                let (file, error) = (file.to_owned(), error.to_string());
                return problems.push(Problem::Unreadable { file, error });
            }
        };
        let at = |span: Range<usize>| Origin::File {
            file: file.to_owned(),
            line: 1 + text.bytes().take(span.start).filter(|byte| *byte == b'\n').count(),
        };
        match DeTable::parse(&text) {
            Ok(table) => self.table("", table.get_ref(), &at, problems),
            Err(error) => problems.push(Problem::Syntax {
                origin: at(error.span().unwrap_or(0..0)),
                error: error.message().to_owned(),
            }),
        }
    }

    /// Flattens a table: `[topic]` with `retention.ms` inside is `topic.retention.ms`.
    fn table(
        &mut self,
        prefix: &str,
        table: &DeTable<'_>,
        at: &dyn Fn(Range<usize>) -> Origin,
        problems: &mut Vec<Problem>,
    ) {
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            let origin = at(name.span());
            match value.get_ref() {
                DeValue::Table(inner) if is_prefix(&key) => {
                    self.table(&format!("{key}."), inner, at, problems);
                }
                scalar => self.scalar(&key, scalar, origin, problems),
            }
        }
    }

    fn scalar(
        &mut self,
        key: &str,
        value: &DeValue<'_>,
        origin: Origin,
        problems: &mut Vec<Problem>,
    ) {
        let setting = SETTINGS.iter().find(|setting| setting.key == key);
        let shape = |expected| Problem::Shape {
            origin: origin.clone(),
            key: key.to_owned(),
            expected,
            found: format!("a TOML {}", value.type_str()),
        };
        match (setting, value) {
            (None, _) if is_prefix(key) => problems.push(shape("a table of settings")),
            (None, _) => self.set(key, String::new(), origin, problems),
            (Some(_), DeValue::String(text)) => self.set(key, text.to_string(), origin, problems),
            (Some(_), DeValue::Integer(number)) if number.radix() == 10 => {
                self.set(key, number.as_str().to_owned(), origin, problems);
            }
            (Some(setting), _) => problems.push(shape(setting.kind)),
        }
    }

    fn variable(&mut self, name: &str, value: &str, problems: &mut Vec<Problem>) {
        if OTHER_VARIABLES.contains(&name) {
            return;
        }
        // Only names that begin as a setting's do are ours to judge: container platforms set
        // variables such as CATENA_SERVICE_HOST by themselves.
        let of_section =
            |s: &super::settings::Section| name.starts_with(&variable(&dotted(s.name)));
        if !SECTIONS.iter().any(of_section) {
            return;
        }
        let origin = Origin::Environment(name.to_owned());
        match SETTINGS.iter().find(|setting| variable(setting.key) == name) {
            Some(setting) => self.set(setting.key, value.to_owned(), origin, problems),
            None => {
                let near = nearest(name, SETTINGS.iter().map(|s| variable(s.key)));
                problems.push(Problem::Unknown { origin, key: name.to_owned(), near });
            }
        }
    }
}

/// The environment variable of a setting.
pub(super) fn variable(key: &str) -> String {
    format!("CATENA_{}", key.replace('.', "_").to_ascii_uppercase())
}

fn dotted(section: &str) -> String {
    format!("{section}.")
}

/// Whether some setting's key continues this one.
fn is_prefix(key: &str) -> bool {
    SETTINGS.iter().any(|s| s.key.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
}

/// What was probably meant: the likest of all, or one whose last part is the same.
fn nearest(wrong: &str, all: impl Iterator<Item = String>) -> Option<String> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |key: &String| {
        let same_part = if last(key) == last(wrong) { NEAR } else { 0.0 };
        strsim::normalized_damerau_levenshtein(wrong, key).max(same_part)
    };
    let scored = all.map(|key| (likeness(&key), key)).filter(|(score, _)| *score >= NEAR);
    scored.max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, key)| key)
}
