//! The crash harness's command line.
#![forbid(unsafe_code)]

use std::{env, process::ExitCode};

use catena_tests::crash::{
    run::{self, Method, Order},
    space,
};

const USAGE: &str = "usage: cargo crash power|os|kill|error|full|lie [--cycles N] [--seed N]";

fn main() -> ExitCode {
    let Some(order) = order() else {
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
    run::report(order)
}

fn order() -> Option<Order> {
    let mut arguments = env::args().skip(1);
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
    Some(order)
}
