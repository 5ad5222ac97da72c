//! What can be wrong with a configuration, each with its place.

use std::{fmt, path::PathBuf};

/// Where a value was set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// Nobody set it.
    Default,
    /// In a file.
    File {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// In an environment variable of this name.
    Environment(String),
    /// By this flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, line } => write!(f, "{}:{line}", file.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// One thing that is wrong.
#[derive(PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Problem {
    /// The file cannot be read.
    #[error("{}: {error}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system says.
        error: String,
    },
    /// The file is not TOML.
    #[error("{origin}: not TOML: {error}")]
    Syntax {
        /// Where.
        origin: Origin,
        /// What the parser says.
        error: String,
    },
    /// No setting is called so.
    #[error("{origin}: there is no setting `{key}`{}", did_you_mean(near.as_deref()))]
    Unknown {
        /// Where.
        origin: Origin,
        /// The key, or the name of the variable.
        key: String,
        /// What was probably meant.
        near: Option<String>,
    },
    /// A table or list stands where one value belongs, or a value where a table does.
    #[error("{origin}: `{key}` takes {expected}, not {found}")]
    Shape {
        /// Where.
        origin: Origin,
        /// The key.
        key: String,
        /// What belongs there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// The value cannot be read as what the setting takes.
    #[error("{origin}: `{key}` takes {expected}, not `{found}`{}", because(why))]
    Value {
        /// Where.
        origin: Origin,
        /// The key.
        key: &'static str,
        /// What the setting takes.
        expected: &'static str,
        /// What was given.
        found: String,
        /// What is wrong with it; may be empty.
        why: String,
    },
    /// The value lies outside its limits.
    #[error("{origin}: `{key}` must be from {min} to {max}, not {found}")]
    Limit {
        /// Where.
        origin: Origin,
        /// The key.
        key: &'static str,
        /// The least.
        min: &'static str,
        /// The greatest.
        max: &'static str,
        /// What was given.
        found: String,
    },
    /// One setting may not exceed another.
    #[error("{origin}: `{key}` must not be above `{other}`")]
    Above {
        /// Where the first was set.
        origin: Origin,
        /// The setting that is too large.
        key: &'static str,
        /// The one that bounds it.
        other: &'static str,
    },
    /// The memory of each core is too little for the batches that may come.
    #[error(
        "{origin}: `limits.memory` must be at least {least}: eight of the largest batches \
         (`limits.batch_bytes`), and 4 MiB, for each of {cores} cores (`node.cores`)"
    )]
    Share {
        /// Where the memory was set.
        origin: Origin,
        /// The least that will do.
        least: String,
        /// How many cores share it.
        cores: u64,
    },
    /// One setting makes no sense without another.
    #[error("{origin}: `{key}` needs `{missing}` beside it")]
    Needs {
        /// Where.
        origin: Origin,
        /// The setting that is there.
        key: &'static str,
        /// The one that is not.
        missing: &'static str,
    },
}

fn did_you_mean(near: Option<&str>) -> String {
    near.map(|near| format!(": did you mean `{near}`?")).unwrap_or_default()
}

fn because(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(": {why}") }
}

/// Everything that is wrong, one problem a line.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    /// # Panics
    /// When there is no problem.
    pub(crate) fn new(problems: Vec<Problem>) -> Self {
        assert!(!problems.is_empty());
        Self { problems }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.problems.iter().map(Problem::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ConfigError {}
