//! Cycles of a method, world after world.

use std::{io, path::PathBuf};

use anyhow::{Result, bail};

use super::{books::Finding, server, tally::Tally, world::World};
use crate::sim::random::Random;

/// A world lives for so many cycles, so that its files age; then a new one begins.
const WORLD_CYCLES: u64 = 15;

/// In so many cycles of a method that ends a life under load so many batches must once have been in
/// flight: else nothing much was under way.
const DEEP_CYCLES: u64 = 100;
const IN_FLIGHT_MIN: u64 = 16;
/// Cycles that prove nothing: more of them than of the others, and so many, are too many.
const DISCARDED_MIN: u64 = 20;

/// So many findings are printed.
const FINDINGS_SHOWN: usize = 20;

/// What befalls the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// The power goes.
    Power,
    /// The operating system crashes.
    Os,
    /// The process is killed.
    Kill,
    /// The disk answers a write or a flush with an error.
    Error,
    /// The disk is full.
    Full,
    /// The power goes on a disk that lies: the control that must lose something.
    Lie,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Power, Self::Os, Self::Kill, Self::Error, Self::Full, Self::Lie];

    /// As the command line has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Power => "power",
            Self::Os => "os",
            Self::Kill => "kill",
            Self::Error => "error",
            Self::Full => "full",
            Self::Lie => "lie",
        }
    }
}

/// What is asked of a run.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// What befalls the server.
    pub method: Method,
    /// How often.
    pub cycles: u64,
    /// Where chance begins.
    pub seed: u64,
}

/// Runs all cycles; stops at the first that breaks a promise. On a disk that lies that is what is
/// wanted, and file systems that break are passed over.
///
/// # Errors
/// When the machine lacks something, or the server does not come back.
pub fn run(order: Order, tally: &mut Tally) -> Result<()> {
    let binary = server::binary()?;
    let worlds = Random::new(order.seed).stream(order.method.name());
    let mut index = 0;
    while tally.cycles < order.cycles && tally.findings.is_empty() {
        let seed = worlds.numbered_stream("world", index).bits();
        index += 1;
        match one_world(order, binary.clone(), seed, tally) {
            Err(_) if order.method == Method::Lie => {
                tally.fault("nothing to be read");
                tally.cycles += 1;
            }
            result => result?,
        }
        let (discarded, cycles) = (tally.discarded, tally.cycles);
        if discarded > cycles.max(DISCARDED_MIN) {
            bail!("{discarded} cycles proved nothing, and {cycles} something");
        }
    }
    let (deepest, slow) = tally.deepest();
    let deepest = if order.method == Method::Kill { slow } else { deepest };
    if is_deep(order.method) && tally.cycles >= DEEP_CYCLES && deepest < IN_FLIGHT_MIN {
        bail!("never more than {deepest} batches were in flight");
    }
    Ok(())
}

fn is_deep(method: Method) -> bool {
    matches!(method, Method::Power | Method::Os | Method::Kill)
}

fn one_world(order: Order, binary: PathBuf, seed: u64, tally: &mut Tally) -> Result<()> {
    let mut world = World::begin(binary, seed, order.method == Method::Full)?;
    let mut done = 0;
    let result = loop {
        if let Err(error) = cycle(order.method, &mut world, tally) {
            break Err(error);
        }
        done += 1;
        if !tally.findings.is_empty() || done == WORLD_CYCLES || tally.cycles == order.cycles {
            break Ok(());
        }
    };
    tally.acked += world.batches();
    let is_broken = result.is_err() || !tally.findings.is_empty();
    if is_broken && order.method == Method::Lie {
        return result;
    }
    if is_broken {
        let folder = std::env::temp_dir().join(format!("catena-crash-{seed:016x}"));
        match world.keep(&folder) {
            Ok(()) => eprintln!("kept: {}", folder.display()),
            Err(error) => eprintln!("not all is kept in {}: {error:#}", folder.display()),
        }
        return result;
    }
    world.end(tally)
}

fn cycle(method: Method, world: &mut World, tally: &mut Tally) -> Result<()> {
    let acked = world.work()?;
    match method {
        Method::Power => {
            world.cut(tally)?;
            world.bring_up(true, tally)?;
        }
        Method::Lie => {
            world.lie();
            world.work()?;
            world.cut(tally)?;
            world.bring_up(false, tally)?;
        }
        Method::Os => {
            world.shut_down(tally)?;
            world.bring_up(false, tally)?;
        }
        Method::Kill => world.kill(tally)?,
        Method::Error => world.fail(tally)?,
        Method::Full => world.fill(tally)?,
    }
    if acked {
        tally.cycles += 1;
    } else {
        tally.discarded += 1;
    }
    world.check(tally)
}

/// Runs an order and tells what came of it, at last in a line of JSON; whether all is good. With a
/// `command` the run is booked under it.
///
/// # Errors
/// When it cannot be booked.
pub fn report(order: Order, command: Option<String>) -> io::Result<bool> {
    let (name, seed) = (order.method.name(), order.seed);
    let mut tally = Tally::default();
    let result = run(order, &mut tally);
    for finding in tally.findings.iter().take(FINDINGS_SHOWN) {
        eprintln!("{finding}");
    }
    if let Err(error) = &result {
        eprintln!("failed: {error:#}");
        tally.broke();
    }
    // The control is good when it shows that the harness would notice.
    let shows = tally.findings.iter().any(|finding| matches!(finding, Finding::Lost(_)));
    let is_good = result.is_ok() && shows == (order.method == Method::Lie);
    if !is_good {
        eprintln!("again: cargo crash {name} --cycles {} --seed {seed}", order.cycles);
    }
    println!("{}", tally.line(name, seed));
    command.map_or(Ok(()), |command| tally.run(name, command).record())?;
    Ok(is_good)
}
