//! Exit codes: what a script may conclude.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// It was done.
    Success,
    /// It was refused or failed, and was not done.
    Failure,
    /// The command line or the configuration is wrong; nothing was tried.
    Usage,
    /// The server cannot be reached; nothing was done.
    Unreachable,
    /// The connection or the disk failed in between; it may have been done or not.
    Indeterminate,
    /// Stored bytes are damaged, or of a version that this build does not know.
    Damaged,
}

/// Each code with its meaning, for the reference.
#[cfg(test)]
pub(super) const CODES: [(Exit, &str); 6] = [
    (Exit::Success, "it was done"),
    (Exit::Failure, "it was refused or failed, and was not done"),
    (Exit::Usage, "the command line or the configuration is wrong; nothing was tried"),
    (Exit::Unreachable, "the server cannot be reached; nothing was done"),
    (Exit::Indeterminate, "it failed in between; it may have been done or not"),
    (Exit::Damaged, "stored bytes are damaged, or of a version that this build does not know"),
];

/// The end of the help.
pub(super) const HELP: &str = "\
Exit codes:
  0  it was done
  1  it was refused or failed, and was not done
  2  the command line or the configuration is wrong; nothing was tried
  3  the server cannot be reached; nothing was done
  4  it failed in between; it may have been done or not
  5  stored bytes are damaged, or of a version that this build does not know";

impl Exit {
    /// The number that the process returns.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Indeterminate => 4,
            Self::Damaged => 5,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_lists_the_codes() {
        let lines = CODES.iter().map(|(exit, meaning)| format!("\n  {}  {meaning}", exit.code()));
        assert_eq!(HELP, format!("Exit codes:{}", lines.collect::<String>()));
    }
}
