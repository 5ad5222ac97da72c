//! A failing seed, run again with less and less: what it needs to fail is told.
//!
//! What a history does without leaves the other decisions alone, as far as it can: each has a
//! stream of random numbers of its own. So it often fails all the same, and sooner.

use std::{collections::BTreeSet, fmt, panic};

use super::{disk::FaultKind, world};

/// Batches that a seed acknowledges before it may end.
pub const ACKED_MIN: u64 = 200;

/// What a seed can do without, beside each [`FaultKind`].
pub const PARTS: [&str; 20] = [
    "operator",
    "cuts",
    "breaks",
    "silence",
    "freezes",
    "power_loss",
    "process_kill",
    "stops",
    "decay",
    "rot",
    "perils",
    "clock",
    "pauses",
    "trims",
    "deletions",
    "retention",
    "subscribers",
    "second_producers",
    "growth",
    "little_memory",
];

/// What a history is cut down to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// How many nodes there are.
    pub nodes: u16,
    /// What it does without.
    pub without: BTreeSet<&'static str>,
    /// After how many acknowledged batches it may end.
    pub acked: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { nodes: 1, without: BTreeSet::new(), acked: ACKED_MIN }
    }
}

impl Bounds {
    /// Whether something may be.
    #[must_use]
    pub fn has(&self, part: &str) -> bool {
        !self.without.contains(part)
    }

    /// Reads what it is displayed as, argument by argument; `None` for anything else.
    #[must_use]
    pub fn parse(arguments: &[&str]) -> Option<Self> {
        let mut bounds = Self::default();
        for pair in arguments.chunks(2) {
            match *pair {
                ["--without", parts] => {
                    for part in parts.split(',') {
                        bounds.without.insert(all().find(|known| *known == part)?);
                    }
                }
                ["--nodes", nodes] => bounds.nodes = nodes.parse().ok().filter(is_few)?,
                ["--acked", acked] => bounds.acked = acked.parse().ok()?,
                _ => return None,
            }
        }
        Some(bounds)
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes != 1 {
            write!(f, " --nodes {}", self.nodes)?;
        }
        if self.acked != ACKED_MIN {
            write!(f, " --acked {}", self.acked)?;
        }
        let parts: Vec<_> = self.without.iter().copied().collect();
        if parts.is_empty() { Ok(()) } else { write!(f, " --without {}", parts.join(",")) }
    }
}

/// The most nodes of a world.
const NODES_MAX: u16 = 5;

#[allow(clippy::trivially_copy_pass_by_ref, reason = "a filter's")]
fn is_few(nodes: &u16) -> bool {
    (1..=NODES_MAX).contains(nodes)
}

fn all() -> impl Iterator<Item = &'static str> {
    PARTS.into_iter().chain(FaultKind::ALL.iter().map(|kind| kind.name()))
}

/// Runs a seed within bounds; a panic is an error, too.
///
/// # Errors
/// Says what was broken.
pub fn run(seed: u64, bounds: &Bounds) -> Result<world::Report, String> {
    // What panics says so by itself; here it is told which seed did.
    panic::catch_unwind(|| world::run_within(seed, bounds))
        .unwrap_or_else(|_| Err("a panic".to_owned()))
}

/// The narrowest bounds found in which a failing seed still fails, and what it says then.
#[must_use]
pub fn shrink(seed: u64, nodes: u16, error: &str) -> (Bounds, String) {
    let whole = Bounds { nodes, ..Bounds::default() };
    shrink_by(whole, error, |bounds| run(seed, bounds).err())
}

fn shrink_by(
    whole: Bounds,
    error: &str,
    fails: impl Fn(&Bounds) -> Option<String>,
) -> (Bounds, String) {
    let mut best = (whole, error.to_owned());
    // Lives end somehow.
    let can_go = |bounds: &Bounds, part| part != "process_kill" || bounds.has("power_loss");
    for part in all() {
        if !can_go(&best.0, part) {
            continue;
        }
        let mut less = best.0.clone();
        less.without.insert(part);
        if let Some(error) = fails(&less) {
            best = (less, error);
        }
    }
    let mut acked = best.0.acked / 2;
    while acked > 0 {
        let less = Bounds { acked, ..best.0.clone() };
        let Some(error) = fails(&less) else { break };
        best = (less, error);
        acked /= 2;
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failure_does_not_need_goes() {
        let fails = |bounds: &Bounds| {
            let needed = bounds.has("trims") && bounds.has("read_error") && bounds.acked > 30;
            needed.then(|| format!("lost at {}", bounds.acked))
        };
        let (bounds, error) = shrink_by(Bounds::default(), "lost", fails);
        assert_eq!((bounds.acked, error.as_str()), (50, "lost at 50"));
        let left: Vec<_> = all().filter(|part| bounds.has(part)).collect();
        assert_eq!(left, ["process_kill", "trims", "read_error"]);
        let told = bounds.to_string();
        let arguments: Vec<_> = told.split_whitespace().collect();
        assert_eq!(Bounds::parse(&arguments), Some(bounds));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert_eq!(Bounds::parse(&[]), Some(Bounds::default()));
        for wrong in [&["--without", "luck"][..], &["--acked"], &["--acked", "x"], &["--less", "1"]]
        {
            assert_eq!(Bounds::parse(wrong), None, "{wrong:?}");
        }
    }
}
