//! What befalls several nodes beside crashes: links break, ways are cut, consensus is silent, and
//! processes stand still.

use super::World;
use crate::sim::{deeds::Deed, random::Random, shrink::Bounds};

/// How long it takes at most from one trouble to the next.
const EVERY_NS: u64 = 3_000_000_000;
/// And how long one lasts at most; a way that is cut, until its chains are to go on without it.
const LASTS_NS: u64 = 1_200_000_000;
const CUT_LASTS_NS: u64 = 4_000_000_000;

/// When the next comes, and until when the present one lasts.
pub(super) struct Trouble {
    random: Random,
    next_ns: u64,
    mends_ns: u64,
    kinds: Vec<Kind>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Break,
    Cut,
    Isolate,
    Silence,
    Depose,
    Deafen,
    Freeze,
}

impl Trouble {
    pub(super) fn new(mut random: Random, bounds: &Bounds) -> Self {
        let all = [
            (Kind::Break, "breaks"),
            (Kind::Cut, "cuts"),
            (Kind::Isolate, "cuts"),
            (Kind::Silence, "silence"),
            (Kind::Depose, "silence"),
            (Kind::Deafen, "silence"),
            (Kind::Freeze, "freezes"),
        ];
        let kinds = all.into_iter().filter(|(_, part)| bounds.has(part)).map(|(kind, _)| kind);
        let kinds: Vec<Kind> = if bounds.nodes > 1 { kinds.collect() } else { Vec::new() };
        let next_ns = if kinds.is_empty() { u64::MAX } else { random.below(EVERY_NS) };
        Self { random, next_ns, mends_ns: u64::MAX, kinds }
    }

    fn lasts(&mut self) -> u64 {
        // Some last longer than it takes to be given up.
        let longest = [LASTS_NS / 20, LASTS_NS][self.random.below(2) as usize];
        1 + self.random.below(longest)
    }
}

impl World {
    /// Brings the next trouble if it is time, and ends what has lasted.
    pub(super) fn befall(&mut self) -> Result<(), String> {
        if self.now_ns >= self.trouble.mends_ns {
            self.relieve()?;
        }
        if self.now_ns < self.trouble.next_ns {
            return Ok(());
        }
        self.trouble.next_ns = self.now_ns + self.trouble.random.below(EVERY_NS);
        let which = self.trouble.random.below(self.trouble.kinds.len() as u64) as usize;
        let until_ns = self.now_ns + self.trouble.lasts();
        let nodes = self.machines.len() as u64;
        let node = self.trouble.random.below(nodes) as usize;
        let other =
            (node + 1 + self.trouble.random.below(nodes - 1) as usize) % self.machines.len();
        match self.trouble.kinds[which] {
            Kind::Break => self.break_a_link(),
            Kind::Cut => {
                self.oracle.did(Deed::WayCut);
                self.wires.cut(node, other);
                if self.trouble.random.chance(500_000) {
                    self.wires.cut(other, node);
                }
                let longest = [0, CUT_LASTS_NS][self.trouble.random.below(2) as usize];
                self.trouble.mends_ns = until_ns + self.trouble.random.below(1 + longest);
            }
            Kind::Isolate => self.isolate(node, until_ns),
            Kind::Silence => {
                self.oracle.did(Deed::Silenced);
                self.council.iter_mut().for_each(|council| council.silent_until_ns = until_ns);
            }
            Kind::Depose => {
                self.oracle.did(Deed::Deposed);
                self.council.iter_mut().for_each(|council| council.depose(self.now_ns));
            }
            Kind::Deafen => {
                self.oracle.did(Deed::Deafened);
                self.council.iter_mut().for_each(|council| council.deafen(node, until_ns));
            }
            Kind::Freeze => {
                self.oracle.did(Deed::Frozen);
                self.machines[node].frozen_until_ns = until_ns;
            }
        }
        Ok(())
    }

    /// A node is cut off from all others, and may be from consensus.
    fn isolate(&mut self, node: usize, until_ns: u64) {
        self.oracle.did(Deed::Isolated);
        for other in (0..self.machines.len()).filter(|other| *other != node) {
            self.wires.cut(node, other);
            self.wires.cut(other, node);
        }
        let from_council = self.trouble.random.chance(700_000);
        if let Some(council) = self.council.as_mut().filter(|_| from_council) {
            council.cut_off(node, self.now_ns);
        }
        self.trouble.mends_ns = until_ns;
    }

    /// Everything comes through again.
    pub(super) fn relieve(&mut self) -> Result<(), String> {
        self.trouble.mends_ns = u64::MAX;
        self.council.iter_mut().for_each(|council| council.join_again());
        self.mend()
    }
}
