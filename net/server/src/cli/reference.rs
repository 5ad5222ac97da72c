//! `docs/cli.md`, generated from the definitions.

use clap::{Arg, ArgAction, Command};

use super::exit::CODES;

const OPENING: &str = "\
<!-- Generated from net/server/src/cli; the tests of the server keep it true. -->

# Command line

Every command takes the global options; `catena help COMMAND` tells the same in the terminal,
`catena completions SHELL` and `catena man DIR` generate completions and manual pages.
Results go to standard output, everything else to standard error.
";

/// The whole reference.
pub(super) fn reference(root: &Command) -> String {
    let mut root = root.clone();
    root.build();
    let mut text = format!("{OPENING}\n## Exit codes\n\n| code | meaning |\n|---|---|\n");
    for (exit, meaning) in CODES {
        text.push_str(&format!("| {} | {meaning} |\n", exit.code()));
    }
    let global = root.get_arguments().filter(|argument| argument.is_global_set());
    text.push_str(&format!("\n## Global options\n\n{}", options(global)));
    for command in root.get_subcommands() {
        section(command, "catena", &mut text);
    }
    text
}

/// The command, or, where it has commands of its own, those.
fn section(command: &Command, parent: &str, text: &mut String) {
    if command.get_name() == "help" {
        return;
    }
    let name = format!("{parent} {}", command.get_name());
    if command.has_subcommands() {
        return command.get_subcommands().for_each(|inner| section(inner, &name, text));
    }
    let about = command.get_long_about().or(command.get_about());
    let about = about.map(ToString::to_string).unwrap_or_default();
    text.push_str(&format!("\n## `{name}`\n\n{}\n\n", full_stop(&about)));
    text.push_str(&format!("```text\n{}\n```\n", usage(command, &name)));
    let own = |argument: &&Arg| !argument.is_global_set() && argument.get_id() != "help";
    let own: Vec<&Arg> = command.get_arguments().filter(own).collect();
    if !own.is_empty() {
        text.push_str(&format!("\n{}", options(own.into_iter())));
    }
}

fn usage(command: &Command, name: &str) -> String {
    let given = command.clone().bin_name(name).render_usage().to_string();
    given.trim_start_matches("Usage: ").to_owned()
}

fn options<'a>(arguments: impl Iterator<Item = &'a Arg>) -> String {
    let rows: String = arguments.map(row).collect();
    format!("| argument | default | meaning |\n|---|---|---|\n{rows}")
}

fn row(argument: &Arg) -> String {
    let code = |text: &str| format!("`{}`", text.replace('|', "\\|"));
    let default = argument.get_default_values().iter().map(|value| value.to_string_lossy());
    let default: Vec<String> = default.map(|value| code(&value)).collect();
    let default = if takes_value(argument) { default.join(" ") } else { String::new() };
    let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let mut meaning = full_stop(&help).replace('|', "\\|");
    let possible = argument.get_possible_values();
    let possible = possible.iter().filter(|value| !value.is_hide_set());
    let possible: Vec<String> = possible.map(|value| code(value.get_name())).collect();
    if takes_value(argument) && !possible.is_empty() {
        meaning.push_str(&format!(" One of {}.", possible.join(", ")));
    }
    if let Some(variable) = argument.get_env() {
        meaning.push_str(&format!(" Also by `{}`.", variable.to_string_lossy()));
    }
    format!("| {} | {default} | {meaning} |\n", code(&spelling(argument)))
}

/// `-o, --output <FORM>`, or `<FILE>...`.
fn spelling(argument: &Arg) -> String {
    let values = argument.get_value_names().unwrap_or_default();
    let values: Vec<String> = values.iter().map(|value| format!("<{value}>")).collect();
    let values = if takes_value(argument) { values.join(" ") } else { String::new() };
    let short = argument.get_short().map(|short| format!("-{short}"));
    let long = argument.get_long().map(|long| format!("--{long}"));
    let names: Vec<String> = short.into_iter().chain(long).collect();
    match (names.is_empty(), matches!(argument.get_action(), ArgAction::Append)) {
        (true, true) => format!("{values}..."),
        (true, false) => values,
        (false, _) => format!("{} {values}", names.join(", ")).trim_end().to_owned(),
    }
}

fn takes_value(argument: &Arg) -> bool {
    argument.get_action().takes_values()
}

/// The help as a sentence: clap takes its last full stop away.
fn full_stop(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() || text.ends_with(['.', '!', '?']) {
        text.to_owned()
    } else {
        format!("{text}.")
    }
}
