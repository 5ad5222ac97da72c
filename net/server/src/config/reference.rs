//! `docs/configuration.md`, generated from the declarations.

use super::{
    gather::variable,
    print::of_section,
    settings::{SECTIONS, Section, Setting},
};

const OPENING: &str = "\
<!-- Generated from net/server/src/config/settings.rs; the tests of the server keep it true. -->

# Configuration

Settings come from four places, the stronger one below:

1. the default,
2. the file named by `--config FILE` or `CATENA_CONFIG` (TOML),
3. the environment: `storage.data_dir` is `CATENA_STORAGE_DATA_DIR`,
4. flags of `catena serve`: its own where the table names one, `--set KEY=VALUE` for all.

A key that does not exist is an error that names the nearest one that does.
`catena config check FILE` reads a file and says what is wrong with it;
`catena config print` shows every setting with its value and where that was set.

Sizes are written `64MiB` or `64MB` (1024 or 1000 to the step) or as plain bytes; durations `10s`,
`1h30m`, `7days`. `none` leaves a setting out. Settings marked *live* follow the file on SIGHUP; all
others take effect at the next start, and the log names those that changed.

```toml
[listen]
client = \"0.0.0.0:9200\"
advertised = \"log-1.example.com:9200\"

[storage]
data_dir = \"/var/lib/catena\"

[topic]
retention.ms = \"7d\"
```
";

/// The whole reference.
pub(crate) fn reference() -> String {
    let sections: Vec<String> = SECTIONS.iter().map(section).collect();
    format!("{OPENING}\n{}", sections.join("\n"))
}

fn section(section: &Section) -> String {
    let rows: String = of_section(section.name).map(row).collect();
    format!(
        "## `[{}]`\n\n{}\n\n\
         | key | takes | default | from – to | flag | meaning |\n\
         |---|---|---|---|---|---|\n{rows}",
        section.name,
        section.doc.trim(),
    )
}

fn row(setting: &Setting) -> String {
    let code = |text: &str| format!("`{text}`");
    let limits = setting.limits.map(|(min, max)| format!("{} – {}", code(min), code(max)));
    let flag = setting.flag.map(|flag| code(&format!("--{flag}")));
    let live = if setting.live { " *live*" } else { "" };
    format!(
        "| `{}`<br>`{}` | {} | `{}` | {} | {} | {}{live} |\n",
        setting.key,
        variable(setting.key),
        setting.kind,
        setting.default,
        limits.unwrap_or_default(),
        flag.unwrap_or_default(),
        setting.doc.trim(),
    )
}
