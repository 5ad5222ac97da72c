//! `catena config check` and `catena config print`: what they say, not how it gets out.

use super::{
    Config, ConfigError, Gathered, Sources,
    error::Origin,
    settings::{SECTIONS, SETTINGS, Setting},
};

/// What `config check` says about a configuration that is fine.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn check(sources: &Sources) -> Result<String, ConfigError> {
    let (_, gathered) = Config::load(sources)?;
    let file = sources.file.as_ref().map(|file| format!("{}: ", file.display()));
    let (file, count) = (file.unwrap_or_default(), gathered.count());
    let made = if count == 1 { "1 setting".to_owned() } else { format!("{count} settings") };
    Ok(format!("{file}{made}, all fine\n"))
}

/// The effective configuration, every setting with its origin: TOML that reads back, or JSON.
pub(crate) fn print(gathered: &Gathered, json: bool) -> String {
    if json { as_json(gathered) } else { as_toml(gathered) }
}

fn as_toml(gathered: &Gathered) -> String {
    let mut text = String::new();
    for section in SECTIONS {
        let separator = if text.is_empty() { "" } else { "\n" };
        text.push_str(&format!("{separator}[{}]\n", section.name));
        for setting in of_section(section.name) {
            let (value, origin) = effective(gathered, setting);
            let name = &setting.key[section.name.len() + 1..];
            let assignment = format!("{name} = {}", toml::Value::String(value.to_owned()));
            text.push_str(&format!("{assignment:<48} # {origin}\n"));
        }
    }
    text
}

fn as_json(gathered: &Gathered) -> String {
    let settings = SETTINGS.iter().map(|setting| {
        let (value, origin) = effective(gathered, setting);
        serde_json::json!({ "key": setting.key, "value": value, "origin": origin.to_string() })
    });
    format!("{:#}\n", serde_json::Value::Array(settings.collect()))
}

/// The settings of a section, in their order.
pub(super) fn of_section(section: &str) -> impl Iterator<Item = &'static Setting> {
    let is_inside = move |setting: &&Setting| {
        setting.key.strip_prefix(section).is_some_and(|rest| rest.starts_with('.'))
    };
    SETTINGS.iter().filter(is_inside)
}

fn effective<'a>(gathered: &'a Gathered, setting: &Setting) -> (&'a str, Origin) {
    (gathered.text(setting.key), gathered.origin(setting.key))
}
