//! Completion scripts and manual pages, generated from the definitions.

use std::{fs, io, path::Path};

use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;

/// The completion script for a shell.
pub(crate) fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "catena", &mut script);
    script
}

/// Writes a page for the program and one for each command.
///
/// # Errors
/// When the directory cannot be written.
pub(crate) fn man_pages(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Cli::command(), directory)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_gets_a_script() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(completions(*shell)).unwrap();
            assert!(script.contains("consume"), "{shell}");
        }
    }

    #[test]
    fn every_command_gets_a_page() {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("man1");
        man_pages(&inside).unwrap();
        for page in ["catena.1", "catena-serve.1", "catena-topic-create.1", "catena-consume.1"] {
            let text = fs::read_to_string(inside.join(page)).unwrap();
            assert!(text.contains(".SH SYNOPSIS"), "{page}");
        }
    }
}
