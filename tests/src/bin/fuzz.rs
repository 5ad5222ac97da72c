//! `cargo fuzz-all --minutes N [TARGET...]`: makes up inputs for each fuzz target, or for these, so
//! long each, and ends with one line of JSON; with `--record` it is booked. It takes cargo-fuzz and
//! a nightly compiler: `docs/fuzzing.md`. An input that breaks something is told and kept.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use catena_tests::runs::{Run, exit_code};
use serde_json::json;

const USAGE: &str = "usage: cargo fuzz-all --minutes N [TARGET...] [--record]";
/// The longest input, in bytes: a few frames, or an image.
const INPUT_BYTES_MAX: u32 = 8192;
/// What libFuzzer says at the end.
const EXECUTED: &str = "stat::number_of_executed_units:";

fn main() -> ExitCode {
    exit_code(run())
}

fn run() -> Result<bool, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let known = targets(folder).map_err(|error| error.to_string())?;
    let (mut minutes, mut chosen, mut record) = (None, Vec::new(), false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--minutes" => {
                let value = arguments.next().ok_or(USAGE)?;
                minutes = Some(value.parse::<u64>().map_err(|_| USAGE)?);
            }
            "--record" => record = true,
            target if known.iter().any(|known| known == target) => chosen.push(argument),
            _ => return Err(format!("{USAGE}\nthe targets are {}", known.join(", "))),
        }
    }
    // For none at all it would never end.
    let minutes = minutes.filter(|minutes| *minutes > 0).ok_or(USAGE)?;
    let words: Vec<_> = std::iter::once(format!("cargo fuzz-all --minutes {minutes}"))
        .chain(chosen.iter().cloned())
        .collect();
    let chosen = if chosen.is_empty() { known } else { chosen };
    let (began, mut executed, mut broken) = (Instant::now(), BTreeMap::new(), 0);
    for target in chosen {
        let (inputs, is_whole) = fuzz(folder, &target, minutes).map_err(|e| e.to_string())?;
        eprintln!("{target}: {inputs} inputs");
        executed.insert(target, inputs);
        broken += u64::from(!is_whole);
    }
    let run = Run {
        method: "fuzzing",
        command: words.join(" "),
        units: executed.values().sum(),
        broken,
        faults: executed,
        seconds: began.elapsed().as_secs(),
        ..Run::default()
    };
    let line = json!({
        "inputs": run.units,
        "targets": run.faults,
        "broken": run.broken,
        "seconds": run.seconds,
    });
    println!("{line}");
    if record {
        run.record().map_err(|error| error.to_string())?;
    }
    Ok(broken == 0)
}

/// The targets there are, by name.
fn targets(folder: &Path) -> io::Result<Vec<String>> {
    let files = fs::read_dir(folder.join("fuzz/fuzz_targets"))?;
    let names = files.map(|file| Ok(Path::new(&file?.file_name()).with_extension("")));
    let names: io::Result<Vec<_>> = names.collect();
    let mut names: Vec<_> = names?.iter().map(|name| name.display().to_string()).collect();
    names.sort_unstable();
    Ok(names)
}

/// Makes up inputs for one target: how many, and whether none broke anything.
fn fuzz(folder: &Path, target: &str, minutes: u64) -> io::Result<(u64, bool)> {
    // What is new is kept apart from the corpus, which is chosen by hand.
    let made = folder.join("fuzz/target/made").join(target);
    fs::create_dir_all(&made)?;
    // Its own compiler, whichever started this.
    let ended = Command::new("cargo")
        .args(["+nightly", "fuzz", "run", "--sanitizer", "none", target])
        .args([made, folder.join("fuzz/corpus").join(target)])
        .arg("--")
        .arg(format!("-max_total_time={}", minutes * 60))
        .arg(format!("-max_len={INPUT_BYTES_MAX}"))
        .args(["-print_final_stats=1", "-verbosity=0"])
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO")
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()?;
    let told = String::from_utf8_lossy(&ended.stderr);
    let inputs = told.lines().find_map(|line| line.strip_prefix(EXECUTED)?.trim().parse().ok());
    if !ended.status.success() {
        eprintln!("{told}");
    }
    match inputs {
        Some(inputs) => Ok((inputs, ended.status.success())),
        None if ended.status.success() => {
            Err(io::Error::other(format!("no count of inputs: {told}")))
        }
        // Nothing was run: there is no such tool, or the target does not build.
        None => Err(io::Error::other(format!("{target} was not run"))),
    }
}
