//! Who decides for a small world: completions come in a fixed order, one call may fail, and what a
//! crash leaves is enumerated.

use std::{cell::RefCell, rc::Rc};

use crate::sim::{
    choose::{Choose, Odometer},
    disk::FaultKind,
};

/// In which order operations complete that were submitted together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// As they were submitted.
    Fifo,
    /// The last one first.
    Lifo,
}

/// What becomes of whatever a crash leaves open.
#[derive(Clone, Debug)]
pub enum Leaves {
    /// Each in turn.
    Each(Odometer),
    /// All of it is lost.
    Nothing,
    /// All of it survives, whole.
    Everything,
}

/// A call that fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Strike {
    /// How.
    pub kind: FaultKind,
    /// Which of those that could: 0 is the first.
    pub nth: u32,
    /// What the fault leaves open, such as what of a failed write lands.
    pub variant: usize,
}

/// How many latencies there are to choose from.
pub const LATENCIES: usize = 1024;
/// Of operations submitted together so many complete apart.
const BURST_MAX: usize = LATENCIES / JITTER - 1;
/// And those of different bursts hardly ever together.
const JITTER: usize = 16;
/// Writes that one crash tears at most.
const TORN_MAX: u32 = 1;

/// The chooser of one world.
#[derive(Debug)]
pub struct Chooser {
    order: Order,
    /// Operations submitted since the last event.
    burst: usize,
    submitted: usize,
    /// While the disk crashes.
    leaves: Option<Leaves>,
    /// Writes that this crash has torn.
    torn: u32,
    /// When all of its late writes land.
    moment: Option<usize>,
    strike: Option<Strike>,
    /// Calls that could have failed so far.
    occasions: u32,
}

impl Chooser {
    /// For completions in that order.
    #[must_use]
    pub fn new(order: Order, strike: Option<Strike>) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            order,
            burst: 0,
            submitted: 0,
            leaves: None,
            torn: 0,
            moment: None,
            strike,
            occasions: 0,
        }))
    }

    /// What is submitted from now on is submitted together.
    pub fn next_burst(&mut self) {
        self.burst = 0;
    }

    /// The disk is about to crash.
    pub fn crash(&mut self, leaves: Leaves) {
        self.leaves = Some(leaves);
        self.torn = 0;
        self.moment = None;
    }

    /// It has.
    pub fn crashed(&mut self) -> Option<Leaves> {
        self.leaves.take()
    }

    /// Whether the call that was to fail has failed.
    #[must_use]
    pub fn has_struck(&self) -> bool {
        self.strike.is_some_and(|strike| self.occasions > strike.nth)
    }

    fn latency(&mut self) -> usize {
        let at = self.burst.min(BURST_MAX);
        self.burst += 1;
        self.submitted += 1;
        let place = match self.order {
            Order::Fifo => at,
            Order::Lifo => BURST_MAX - at,
        };
        place * JITTER + self.submitted % JITTER
    }
}

impl Choose for Chooser {
    fn choose(&mut self, n: usize, what: &str) -> usize {
        // Of four ways to tear in two, neither and both are no tears.
        let tears = matches!(what, "torn pieces" | "late pieces");
        match (&mut self.leaves, what) {
            (_, "latency") => self.latency(),
            (Some(Leaves::Each(odometer)), "late write's moment") => {
                *self.moment.get_or_insert_with(|| odometer.choose(n, what))
            }
            (Some(Leaves::Each(odometer)), _) if tears => 1 + odometer.choose(2, what),
            (Some(Leaves::Each(odometer)), _) => odometer.choose(n, what),
            (Some(Leaves::Nothing), _) => 0,
            (Some(Leaves::Everything), _) => n - 1,
            (None, _) => self.strike.map_or(0, |strike| strike.variant.min(n - 1)),
        }
    }

    fn chance(&mut self, _per_million: u32, what: &str) -> bool {
        let tears = matches!(what, "bytes are torn" | "torn late write");
        match &mut self.leaves {
            Some(Leaves::Each(_)) if tears && self.torn == TORN_MAX => false,
            // What is left of everything is whole at first, too.
            Some(Leaves::Each(odometer)) if tears => {
                let torn = odometer.choose_from_none(2, what) == 1;
                self.torn += u32::from(torn);
                torn
            }
            Some(Leaves::Each(odometer)) => odometer.choose(2, what) == 1,
            Some(Leaves::Nothing) => false,
            Some(Leaves::Everything) => !tears,
            None => match self.strike {
                Some(strike) if strike.kind.name() == what => {
                    self.occasions += 1;
                    self.occasions == strike.nth + 1
                }
                _ => false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of two writes in each of the histories near one end: lost, whole or torn.
    fn near(from_last: bool) -> Vec<[&'static str; 2]> {
        let chooser = Chooser::new(Order::Fifo, None);
        let (mut odometer, mut all) = (Odometer::nearly(from_last), Vec::new());
        loop {
            let mut chooser = chooser.borrow_mut();
            chooser.crash(Leaves::Each(odometer));
            all.push([(); 2].map(|()| {
                if !chooser.chance(500_000, "bytes survive") {
                    "lost"
                } else if chooser.chance(500_000, "bytes are torn") {
                    "torn"
                } else {
                    "whole"
                }
            }));
            let Some(Leaves::Each(turned)) = chooser.crashed() else {
                unreachable!("it was given")
            };
            odometer = turned;
            if !odometer.advance() {
                return all;
            }
        }
    }

    #[test]
    fn near_everything_each_write_is_lost_or_torn_alone() {
        assert_eq!(near(false), [["lost"; 2], ["lost", "whole"], ["whole", "lost"]]);
        let but_one = [["lost", "whole"], ["torn", "whole"], ["whole", "lost"], ["whole", "torn"]];
        let mut found = near(true);
        assert_eq!(found.remove(0), ["whole"; 2]);
        found.sort_unstable();
        assert_eq!(found, but_one);
    }
}
