//! `cargo crash METHOD --cycles N --seed N`: faults to the real server, see `crash.rs`; it ends
//! with one line of JSON, and with `--record` it is booked. It is for root.
#![forbid(unsafe_code)]

use std::{env, process::ExitCode};

use catena_tests::crash::{
    run::{self, Method, Order},
    space,
};

const USAGE: &str =
    "usage: cargo crash power|os|kill|error|full|lie [--cycles N] [--seed N] [--record]";

fn main() -> ExitCode {
    let Some((order, record)) = order() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if let Some(missing) = space::missing() {
        eprintln!("cannot run: {missing}");
        return ExitCode::from(2);
    }
    if let Err(error) = space::enter() {
        eprintln!("cannot run: {error}");
        return ExitCode::from(2);
    }
    let arguments: Vec<String> = env::args().skip(1).collect();
    match run::report(order, record.then(|| format!("cargo crash {}", arguments.join(" ")))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the run could not be booked: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is asked for, and whether it is booked.
fn order() -> Option<(Order, bool)> {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    let record = arguments.pop_if(|last| last == "--record").is_some();
    let mut arguments = arguments.into_iter();
    let name = arguments.next()?;
    let method = Method::ALL.into_iter().find(|method| method.name() == name)?;
    let mut order = Order { method, cycles: 100, seed: 0 };
    while let Some(option) = arguments.next() {
        let value = arguments.next()?.parse().ok()?;
        match option.as_str() {
            "--cycles" => order.cycles = value,
            "--seed" => order.seed = value,
            _ => return None,
        }
    }
    Some((order, record))
}
