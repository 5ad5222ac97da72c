//! A state's name, from which it is reached again.
//!
//! ```text
//! fua-fifo:AaR/17p0.1.1/3k1     after the 17th event of the R the power is lost, of what is open
//!                               there the answers say what survives; in the recovery from that,
//!                               after its third event, the process is killed
//! flush-lifo:AB!sync_error.3.1  the fourth sync fails, in the second way
//! node:fua-fifo:CAD/4k          the same of a whole node
//! ```

use std::{cell::RefCell, fmt};

use super::{
    chooser::Strike,
    log, node,
    small::{Kind, Small},
};
use crate::sim::disk::{Crash, FaultKind};

/// What the names of states of a whole node begin with.
const NODE: &str = "node:";

/// A crash, and what it leaves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Level {
    /// After how many events of the last step, or of the recovery.
    pub moment: usize,
    /// Its kind.
    pub crash: Crash,
    /// What survives.
    pub answers: Vec<usize>,
}

/// What the world is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scene {
    /// One log.
    Log,
    /// A whole node.
    Node,
}

impl Scene {
    fn letters(self) -> &'static str {
        match self {
            Self::Log => log::World::LETTERS,
            Self::Node => node::World::LETTERS,
        }
    }

    fn follows(self, workload: &str, letter: char) -> bool {
        match self {
            Self::Log => log::World::follows(workload, letter),
            Self::Node => node::World::follows(workload, letter),
        }
    }

    /// The workloads that are one letter longer than this one.
    #[must_use]
    pub fn longer(self, workload: &str) -> Vec<String> {
        let letters = self.letters().chars().filter(|letter| self.follows(workload, *letter));
        letters.map(|letter| format!("{workload}{letter}")).collect()
    }
}

/// A workload on a kind of device, and what befalls it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Errand {
    /// The world.
    pub scene: Scene,
    /// The device.
    pub kind: Kind,
    /// The steps, letters of the world's.
    pub workload: String,
    /// The call that fails.
    pub strike: Option<Strike>,
    /// Crashes, each within the recovery from the one before.
    pub levels: Vec<Level>,
}

impl fmt::Display for Errand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scene = if self.scene == Scene::Node { NODE } else { "" };
        write!(f, "{scene}{}:{}", self.kind.name(), self.workload)?;
        if let Some(Strike { kind, nth, variant }) = self.strike {
            write!(f, "!{}.{nth}.{variant}", kind.name())?;
        }
        for Level { moment, crash, answers } in &self.levels {
            let crash = if *crash == Crash::PowerLoss { 'p' } else { 'k' };
            let answers: Vec<String> = answers.iter().map(usize::to_string).collect();
            write!(f, "/{moment}{crash}{}", answers.join("."))?;
        }
        Ok(())
    }
}

impl Errand {
    /// Reads a name; `None` when it is none.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let of_node = name.strip_prefix(NODE);
        let scene = if of_node.is_some() { Scene::Node } else { Scene::Log };
        let (kind, rest) = of_node.unwrap_or(name).split_once(':')?;
        let kind = Kind::ALL.into_iter().find(|known| known.name() == kind)?;
        let mut parts = rest.split('/');
        let first = parts.next()?;
        let (workload, strike) = first.split_once('!').map_or((first, None), |(w, s)| (w, Some(s)));
        let strike = match strike {
            None => None,
            Some(strike) => Some(parse_strike(strike)?),
        };
        let workload = workload.to_owned();
        let known = workload.chars().all(|letter| scene.letters().contains(letter));
        let levels = parts.map(parse_level).collect::<Option<Vec<_>>>()?;
        known.then_some(Self { scene, kind, workload, strike, levels })
    }
}

fn parse_strike(text: &str) -> Option<Strike> {
    let mut parts = text.split('.');
    let name = parts.next()?;
    let kind = FaultKind::ALL.into_iter().find(|kind| kind.name() == name)?;
    let (nth, variant) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(Strike { kind, nth, variant })
}

fn parse_level(text: &str) -> Option<Level> {
    let at = text.find(['p', 'k'])?;
    let crash = if &text[at..=at] == "p" { Crash::PowerLoss } else { Crash::ProcessKill };
    let answers = text[at + 1..].split('.').filter(|answer| !answer.is_empty());
    let answers = answers.map(|answer| answer.parse().ok()).collect::<Option<Vec<_>>>()?;
    Some(Level { moment: text[..at].parse().ok()?, crash, answers })
}

/// Where a walk is, for whoever must tell when it panics.
#[derive(Debug, Default)]
pub struct Spot(RefCell<Option<Errand>>);

impl Spot {
    /// It is there.
    pub fn set(&self, errand: &Errand) {
        self.0.replace(Some(errand.clone()));
    }

    /// The name of the state; empty before there is one.
    #[must_use]
    pub fn name(&self) -> String {
        self.0.borrow().as_ref().map_or_else(String::new, Errand::to_string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back() {
        for name in [
            "fua-fifo:",
            "flush-lifo:AaBMRTEKS",
            "fua-lifo:AaR/17p0.1.1/3k1",
            "flush-fifo:AB/0k",
            "flush-lifo:AB!sync_error.3.1",
            "node:fua-fifo:CAD/4k",
        ] {
            assert_eq!(Errand::parse(name).map(|errand| errand.to_string()).as_deref(), Some(name));
        }
        for name in
            ["fua:A", "fua-fifo:Z", "fua-fifo:A/x", "fua-fifo:A!none.1.2", "A", "fua-fifo:CA"]
        {
            assert_eq!(Errand::parse(name), None, "{name}");
        }
    }
}
