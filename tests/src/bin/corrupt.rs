//! `cargo corrupt --cases N --seed N`: corrupts the files of a real node and ends with one line of
//! JSON; with `--record` it is booked. A case that fails prints the line that replays it.
#![forbid(unsafe_code)]

use std::{path::PathBuf, process::ExitCode, time::Instant};

use catena_tests::{
    corrupt, live,
    runs::{Run, exit_code},
};

const USAGE: &str = "usage: cargo corrupt --cases N [--seed N] [--server PATH] [--record]";

fn main() -> ExitCode {
    exit_code(run())
}

fn run() -> Result<bool, String> {
    let (mut cases, mut seed, mut server, mut record) = (None, 0, None, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| USAGE.to_owned());
        match argument.as_str() {
            "--cases" => cases = Some(value()?.parse::<u64>().map_err(|_| USAGE)?),
            "--seed" => seed = value()?.parse().map_err(|_| USAGE)?,
            "--server" => server = Some(PathBuf::from(value()?)),
            "--record" => record = true,
            _ => return Err(USAGE.to_owned()),
        }
    }
    let cases = cases.ok_or(USAGE)?;
    let command = format!("cargo corrupt --cases {cases} --seed {seed}");
    let binary = live::binary(server)?;
    let scratch = live::scratch("corrupt")?;
    let began = Instant::now();
    let summary = corrupt::run(&binary, &scratch, seed..seed.saturating_add(cases));
    println!("{}", summary.line());
    if record {
        booked(&summary, command, began).record().map_err(|error| error.to_string())?;
    }
    Ok(summary.broken.is_empty())
}

fn booked(summary: &corrupt::Summary, command: String, began: Instant) -> Run {
    Run {
        method: "corruption",
        command,
        units: summary.cases,
        acked: summary.acked,
        checked: summary.checked,
        broken: summary.broken.len() as u64,
        faults: summary.faults.clone(),
        seconds: began.elapsed().as_secs(),
        ..Run::default()
    }
}
