//! Whether the simulator finds the bugs that are planted for it, the model of the chain those of
//! its protocol, and the simulated chains those that take a log: a build that has them all, asleep,
//! and the first seed, or chain, that finds one once it is awake.
//!
//! ```text
//! cargo build --cfg planted ─► sim ─┬─ no bug awake ─► every seed passes
//!                                   └─ one awake ────► seeds 0..8, 8..16, 16..32 … until one fails
//! ```

use std::{
    env,
    ops::Range,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

/// The environment variable that wakes a bug.
pub const AWAKE: &str = "CATENA_PLANTED";

/// Seeds that are run at first; then as many again, and so on.
const FIRST_SEEDS: u64 = 8;

/// So many times as many chains as seeds are run.
const CHAINS_PER_SEED: u64 = 8;

/// What has the simulator run several nodes.
const SEVERAL: [&str; 2] = ["--nodes", "3"];

/// States of each chain that the model goes through.
const STATES: &str = "700000";

/// A simulator and a model with the bugs in them.
#[derive(Clone, Debug)]
pub struct Planted {
    sim: PathBuf,
    model: PathBuf,
    chains: PathBuf,
}

/// What found a bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finder {
    /// The oracle of the simulator.
    Oracle,
    /// An assertion, of the product or of the disk.
    Assertion,
    /// The model of the chain.
    Model,
    /// The books of a simulated chain.
    Books,
}

/// A bug that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// By the history of this seed, or of this of the model's chains; none before did.
    pub seed: u64,
    /// By what.
    pub finder: Finder,
    /// What it says.
    pub said: String,
    /// How long it took.
    pub took: Duration,
}

impl Planted {
    /// Builds it, beside all other builds.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn build() -> Result<Self, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies within");
        let target = env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
        let target = target.join("planted");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--profile", "test", "-p", "catena-tests"]);
        cargo.args(["--bin", "sim", "--bin", "model", "--bin", "chains"]);
        cargo.arg("--target-dir").arg(&target).current_dir(root);
        cargo.env("RUSTFLAGS", "--cfg planted").env_remove("CARGO_ENCODED_RUSTFLAGS");
        let built = cargo.status().map_err(|error| format!("cargo: {error}"))?;
        if !built.success() {
            return Err("the simulator with planted bugs cannot be built".to_owned());
        }
        let [sim, model, chains] =
            ["sim", "model", "chains"].map(|name| target.join("debug").join(name));
        Ok(Self { sim, model, chains })
    }

    /// The simulator.
    #[must_use]
    pub fn sim(&self) -> &Path {
        &self.sim
    }

    fn run(&self, bug: Option<&str>, arguments: &[&str]) -> Result<Output, String> {
        run(&self.sim, bug, arguments)
    }

    /// The names of all bugs.
    ///
    /// # Errors
    /// When the simulator or the model cannot be run.
    pub fn bugs(&self) -> Result<Vec<String>, String> {
        Ok([listed(&self.sim, &[])?, self.bugs_of_chain()?].concat())
    }

    /// The names of those that the model, the simulated chains or clusters are to find.
    ///
    /// # Errors
    /// When they cannot be run.
    pub fn bugs_of_chain(&self) -> Result<Vec<String>, String> {
        let of_nodes = listed(&self.sim, &SEVERAL)?;
        Ok([listed(&self.model, &[])?, listed(&self.chains, &[])?, of_nodes].concat())
    }

    /// The first of the model's chains in which it finds a bug.
    fn hunt_in_chains(&self, bug: &str) -> Result<Option<Found>, String> {
        let start = Instant::now();
        let output = run(&self.model, Some(bug), &[STATES])?;
        let told = String::from_utf8_lossy(&output.stdout);
        let chains = told.lines().map(serde_json::from_str::<serde_json::Value>);
        for (seed, chain) in (0..).zip(chains) {
            let chain = chain.map_err(|error| format!("{told}: {error}"))?;
            if let Some(said) = chain["broken"].as_str() {
                let (finder, took) = (Finder::Model, start.elapsed());
                return Ok(Some(Found { seed, finder, said: said.to_owned(), took }));
            }
        }
        Ok(None)
    }

    /// Runs seeds with no bug awake; what the simulator sums up.
    ///
    /// # Errors
    /// What was broken.
    pub fn clean(&self, seeds: Range<u64>) -> Result<String, String> {
        let output = self.run(None, &["--seeds", &format!("{}..{}", seeds.start, seeds.end)])?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(told) } else { Err(told) }
    }

    /// The first of so many seeds that finds a bug, of eight times as many where it is the
    /// simulated chains' to find, which take milliseconds; or the first of the model's chains.
    ///
    /// # Errors
    /// When the simulator or the model cannot be run.
    pub fn hunt(&self, bug: &str, seeds: u64) -> Result<Option<Found>, String> {
        if listed(&self.model, &[])?.iter().any(|known| known == bug) {
            return self.hunt_in_chains(bug);
        }
        let of_log = listed(&self.chains, &[])?.iter().any(|known| known == bug);
        let program = if of_log { &self.chains } else { &self.sim };
        let seeds = if of_log { CHAINS_PER_SEED * seeds } else { seeds };
        let of_nodes = listed(&self.sim, &SEVERAL)?.iter().any(|known| known == bug);
        let nodes = if of_nodes { &SEVERAL[..] } else { &[] };
        let start = Instant::now();
        let (mut from, mut to) = (0, FIRST_SEEDS.min(seeds));
        while from < to {
            let range = format!("{from}..{to}");
            let output = run(program, Some(bug), &[&["--seeds", &range], nodes].concat())?;
            let told = String::from_utf8_lossy(&output.stdout);
            // What a range of seeds as a whole came short of says nothing of a bug.
            let first = told.lines().find_map(|line| line.strip_prefix("seed ")?.split_once(": "));
            if let Some((seed, said)) = first {
                let seed = seed.parse().map_err(|_| format!("no seed: {seed}"))?;
                let (finder, said) = match of_log {
                    true => (Finder::Books, said.to_owned()),
                    false => self.explain(bug, seed, nodes, said)?,
                };
                return Ok(Some(Found { seed, finder, said, took: start.elapsed() }));
            }
            (from, to) = (to, (2 * to).min(seeds));
        }
        Ok(None)
    }

    /// What a seed that finds a bug is shrunk to: the arguments that replay it.
    ///
    /// # Errors
    /// When it tells none, or the replay finds nothing or needs no bug for it.
    pub fn shrunk(&self, bug: &str, seed: u64) -> Result<Vec<String>, String> {
        let output = self.run(Some(bug), &["--seed", &seed.to_string()])?;
        let told = String::from_utf8_lossy(&output.stdout);
        let line = told.lines().find_map(|line| line.strip_prefix("shrunk: cargo sim "));
        let line = line.ok_or_else(|| format!("nothing was shrunk: {told}"))?;
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let replayed = self.run(Some(bug), &arguments)?;
        let without = self.run(None, &arguments)?;
        if replayed.status.success() || !without.status.success() {
            return Err(format!("{line}: {replayed:?}, and without the bug: {without:?}"));
        }
        Ok(arguments.into_iter().map(str::to_owned).collect())
    }

    /// A panic is told with its message.
    fn explain(
        &self,
        bug: &str,
        seed: u64,
        nodes: &[&str],
        said: &str,
    ) -> Result<(Finder, String), String> {
        if said != "a panic" {
            return Ok((Finder::Oracle, said.to_owned()));
        }
        let seed = seed.to_string();
        let output = self.run(Some(bug), &[&["--seed", &seed], nodes].concat())?;
        let errors = String::from_utf8_lossy(&output.stderr);
        let message = errors.lines().skip_while(|line| !line.contains("panicked at")).nth(1);
        Ok((Finder::Assertion, message.unwrap_or(said).to_owned()))
    }
}

fn run(program: &Path, bug: Option<&str>, arguments: &[&str]) -> Result<Output, String> {
    let mut command = Command::new(program);
    command.args(arguments).env_remove(AWAKE);
    command.envs(bug.map(|bug| (AWAKE, bug)));
    command.output().map_err(|error| format!("{}: {error}", program.display()))
}

fn listed(program: &Path, nodes: &[&str]) -> Result<Vec<String>, String> {
    let listing = run(program, None, &[&["--bugs"], nodes].concat())?;
    Ok(String::from_utf8_lossy(&listing.stdout).lines().map(str::to_owned).collect())
}

impl Finder {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Oracle => "oracle",
            Self::Assertion => "assertion",
            Self::Model => "model",
            Self::Books => "books",
        }
    }
}
