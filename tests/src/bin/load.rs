//! `cargo load soak --minutes N` and `cargo load overload`: the real server under load for long,
//! and under more than it can take. Each ends with one line of JSON; with `--record` it is booked.
#![forbid(unsafe_code)]

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use catena_tests::{
    live,
    load::{overload, soak},
    runs::{Run, exit_code},
};

const USAGE: &str = "usage: cargo load soak --minutes N [--seed N] [--server PATH] [--record]
       cargo load overload [--seed N] [--server PATH] [--record]";

struct Wish {
    minutes: Option<u64>,
    seed: u64,
    server: Option<PathBuf>,
    record: bool,
}

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let kind = if arguments.is_empty() { String::new() } else { arguments.remove(0) };
    let ran = wish(arguments).and_then(|wish| match kind.as_str() {
        "soak" => soak(wish),
        "overload" => overload(wish),
        _ => Err(USAGE.to_owned()),
    });
    exit_code(ran)
}

fn wish(arguments: Vec<String>) -> Result<Wish, String> {
    let mut wish = Wish { minutes: None, seed: 0, server: None, record: false };
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| USAGE.to_owned());
        match argument.as_str() {
            "--minutes" => wish.minutes = Some(value()?.parse().map_err(|_| USAGE)?),
            "--seed" => wish.seed = value()?.parse().map_err(|_| USAGE)?,
            "--server" => wish.server = Some(PathBuf::from(value()?)),
            "--record" => wish.record = true,
            _ => return Err(USAGE.to_owned()),
        }
    }
    Ok(wish)
}

fn soak(wish: Wish) -> Result<bool, String> {
    let minutes = wish.minutes.ok_or(USAGE)?;
    let plan = soak::Plan {
        binary: live::binary(wish.server)?,
        scratch: live::scratch("soak")?,
        kills: 3,
        kill_every: Duration::from_secs(minutes.min(120)),
        duration: Duration::from_secs(60 * minutes),
        sample_every: Duration::from_secs(10),
        rate: 300,
        seed: wish.seed,
    };
    let began = Instant::now();
    let summary = soak::run(&plan)?;
    println!("{}", summary.line());
    let run = Run {
        method: "soak",
        command: format!("cargo load soak --minutes {minutes} --seed {}", wish.seed),
        units: summary.seconds / 60,
        acked: summary.acked,
        checked: summary.checked,
        lost: summary.lost,
        duplicated: summary.misplaced,
        broken: summary.broken.len() as u64,
        faults: [("kill".to_owned(), summary.kills), ("topic".to_owned(), summary.topics)].into(),
        notes: summary.trends,
        seconds: began.elapsed().as_secs(),
    };
    finish(wish.record, &run)
}

fn overload(wish: Wish) -> Result<bool, String> {
    let plan = overload::Plan {
        binary: live::binary(wish.server)?,
        scratch: live::scratch("overload")?,
        calm: Duration::from_secs(10),
        peak: Duration::from_secs(20),
        overload: Duration::from_secs(40),
        judged: true,
        seed: wish.seed,
    };
    let began = Instant::now();
    let summary = overload::run(&plan)?;
    println!("{}", summary.line());
    let run = Run {
        method: "overload",
        command: format!("cargo load overload --seed {}", wish.seed),
        units: 1,
        acked: summary.acked,
        checked: summary.checked,
        lost: summary.lost,
        duplicated: summary.duplicated,
        broken: summary.broken.len() as u64,
        faults: summary.faults,
        notes: summary.figures,
        seconds: began.elapsed().as_secs(),
    };
    finish(wish.record, &run)
}

fn finish(record: bool, run: &Run) -> Result<bool, String> {
    if record {
        run.record().map_err(|error| error.to_string())?;
    }
    Ok(run.broken == 0)
}
