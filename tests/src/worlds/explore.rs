//! Walks all states of one workload: every moment of its last step, every crash there, everything
//! that the crash may leave; and every call that may fail.

use std::{collections::BTreeMap, marker::PhantomData};

use super::{
    chooser::{Leaves, Strike},
    seen::Seen,
    small::Small,
    state::{Errand, Level, Spot},
};
use crate::sim::{
    choose::Odometer,
    disk::{Crash, FaultKind},
};

/// States of one crash at one moment that are looked at, at most.
pub const STATES_MAX: u64 = 4096;
/// What a fault leaves open is tried in so many ways.
const VARIANTS: usize = 4;
/// The errors that a call may end with, and a read that is wrong and does not say so.
const ERRORS: [FaultKind; 9] = [
    FaultKind::WriteError,
    FaultKind::SyncError,
    FaultKind::DirectorySyncError,
    FaultKind::ReadError,
    FaultKind::Misread,
    FaultKind::NoSpace,
    FaultKind::ShortWrite,
    FaultKind::NoDescriptors,
    FaultKind::NameError,
];

/// What a walk came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// States checked, each different from the others.
    pub states: u64,
    /// States that were the same as one that was checked.
    pub pruned: u64,
    /// Moments of a crash that left more than [`STATES_MAX`] states.
    pub capped: u64,
    /// Crashes by kind, calls that failed by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Batches acknowledged before a crash, over all states.
    pub acked: u64,
    /// Records compared.
    pub checked: u64,
}

impl Tally {
    /// Adds what another walk came to.
    pub fn add(&mut self, other: &Self) {
        self.states += other.states;
        self.pruned += other.pruned;
        self.capped += other.capped;
        self.acked += other.acked;
        self.checked += other.checked;
        for (kind, times) in &other.faults {
            *self.faults.entry(kind).or_insert(0) += times;
        }
    }

    fn count(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_insert(0) += 1;
    }
}

/// One walk through a world.
pub struct Walk<'w, W> {
    world: PhantomData<W>,
    errand: Errand,
    seen: &'w Seen,
    /// Crashes one within the recovery from another, at most.
    depth: usize,
    /// Of what a crash leaves open all is tried, or all and nothing and both but for one answer.
    whole: bool,
    /// Of a replay: the crashes that are to come, and nothing else.
    only: Option<Vec<Level>>,
    spot: &'w Spot,
    tally: Tally,
}

impl<'w, W: Small> Walk<'w, W> {
    /// A walk through all states of an errand, or through the one that it names.
    #[must_use]
    pub fn new(errand: Errand, depth: usize, whole: bool, seen: &'w Seen, spot: &'w Spot) -> Self {
        let only = (!errand.levels.is_empty()).then(|| errand.levels.clone());
        let (world, tally) = (PhantomData, Tally::default());
        Self { world, errand, seen, depth, whole, only, spot, tally }
    }

    /// Walks; what was broken first ends it.
    ///
    /// # Errors
    /// Says what was broken; the spot tells where.
    pub fn run(mut self) -> Result<Tally, String> {
        self.spot.set(&self.errand);
        match self.errand.strike {
            None => self.crashes()?,
            Some(strike) => {
                self.strike(strike)?;
            }
        }
        Ok(self.tally)
    }

    /// Walks through every call that may fail.
    ///
    /// # Errors
    /// As above.
    pub fn run_errors(mut self) -> Result<Tally, String> {
        for kind in ERRORS {
            for nth in 0.. {
                let mut came = false;
                for variant in 0..variants(kind) {
                    let strike = Strike { kind, nth, variant };
                    self.errand.strike = Some(strike);
                    self.spot.set(&self.errand);
                    came |= self.strike(strike)?;
                }
                if !came {
                    break;
                }
            }
        }
        Ok(self.tally)
    }

    fn crashes(&mut self) -> Result<(), String> {
        let mut world = W::new(self.errand.kind, None);
        let steps: Vec<char> = std::iter::once('^').chain(self.errand.workload.chars()).collect();
        let (last, before) = steps.split_last().expect("there is a first step");
        for step in before {
            world.perform(*step, &mut |_| Ok(()))?;
        }
        let mut moment = 0;
        world.perform(*last, &mut |world| {
            self.crash_at(world, moment, 0)?;
            moment += 1;
            Ok(())
        })
    }

    /// Every crash at this moment, within so many others.
    fn crash_at(&mut self, world: &W, moment: usize, within: usize) -> Result<(), String> {
        for crash in [Crash::PowerLoss, Crash::ProcessKill] {
            let wanted = match &self.only {
                None if self.whole => vec![Odometer::new()],
                None => [false, true].map(Odometer::nearly).into(),
                Some(only) => match only.get(within) {
                    Some(level) if level.moment == moment && level.crash == crash => {
                        vec![Odometer::replay(&level.answers)]
                    }
                    _ => continue,
                },
            };
            for odometer in wanted {
                let level = Level { moment, crash, answers: Vec::new() };
                self.enumerate(world, odometer, level, within)?;
            }
        }
        Ok(())
    }

    fn enumerate(
        &mut self,
        world: &W,
        mut odometer: Odometer,
        mut level: Level,
        within: usize,
    ) -> Result<(), String> {
        for count in 0.. {
            if count == STATES_MAX {
                self.tally.capped += 1;
                break;
            }
            let crash = level.crash;
            let (crashed, leaves) = world.crashed(crash, Leaves::Each(odometer));
            let Leaves::Each(turned) = leaves else { unreachable!("it was given as each") };
            odometer = turned;
            level.answers = odometer.answers();
            self.errand.levels.truncate(within);
            self.errand.levels.push(level.clone());
            self.spot.set(&self.errand);
            self.check(crashed, crash, within)?;
            if self.only.is_some() || !odometer.advance() {
                break;
            }
        }
        self.errand.levels.truncate(within);
        Ok(())
    }

    fn check(&mut self, mut crashed: W, crash: Crash, within: usize) -> Result<(), String> {
        // What was reached within another crash may be reached again with more to follow.
        let deeper = within + 1 < self.depth;
        if self.only.is_none() && !self.seen.insert(crashed.hash() ^ u64::from(deeper)) {
            self.tally.pruned += 1;
            return Ok(());
        }
        self.tally.acked += crashed.acked();
        let mut moment = 0;
        let checked = crashed.verify(&mut |world| {
            if deeper {
                self.crash_at(world, moment, within + 1)?;
                moment += 1;
            }
            Ok(())
        })?;
        self.tally.states += 1;
        self.tally.checked += checked;
        self.tally.count(match crash {
            Crash::PowerLoss => "power_loss",
            Crash::ProcessKill => "process_kill",
        });
        Ok(())
    }

    /// One call fails, and everything goes on as far as it can; whether it came to that.
    fn strike(&mut self, strike: Strike) -> Result<bool, String> {
        let mut world = W::new(self.errand.kind, Some(strike));
        for step in std::iter::once('^').chain(self.errand.workload.chars()) {
            world.perform(step, &mut |_| Ok(()))?;
        }
        self.tally.checked += world.after_fault()?;
        if !world.has_struck() {
            return Ok(false);
        }
        self.tally.count(strike.kind.name());
        let ends = [
            (Crash::ProcessKill, Leaves::Nothing),
            (Crash::PowerLoss, Leaves::Nothing),
            (Crash::PowerLoss, Leaves::Everything),
        ];
        for (crash, leaves) in ends {
            let (mut next, _) = world.crashed(crash, leaves);
            self.tally.acked += next.acked();
            self.tally.checked += next.verify(&mut |_| Ok(()))?;
            self.tally.states += 1;
        }
        Ok(true)
    }
}

fn variants(kind: FaultKind) -> usize {
    match kind {
        FaultKind::WriteError => VARIANTS,
        FaultKind::Misread => 3,
        FaultKind::SyncError
        | FaultKind::DirectorySyncError
        | FaultKind::NameError
        | FaultKind::NoSpace
        | FaultKind::ShortWrite => 2,
        _ => 1,
    }
}
