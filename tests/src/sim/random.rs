//! Seeded randomness, split into streams by name: a draw more in one stream changes no other.

use std::collections::BTreeMap;

use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::choose::Choose;

/// One in this many is the unit of all chances.
pub const MILLION: u32 = 1_000_000;

/// A stream of random numbers, and the root of further streams.
#[derive(Clone, Debug)]
pub struct Random {
    seed: u64,
    generator: Xoshiro256PlusPlus,
}

impl Random {
    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, generator: Xoshiro256PlusPlus::seed_from_u64(seed) }
    }

    /// The stream called `name`: it depends on this one's seed, not on what was drawn from it.
    #[must_use]
    pub fn stream(&self, name: &str) -> Self {
        Self::new(xxh3_64_with_seed(name.as_bytes(), self.seed))
    }

    /// The `index`th stream called `name`, for things of which there are many.
    #[must_use]
    pub fn numbered_stream(&self, name: &str, index: u64) -> Self {
        Self::new(xxh3_64_with_seed(&index.to_le_bytes(), self.stream(name).seed))
    }

    /// All 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.generator.next_u64()
    }

    /// A number below `end`, even enough for a simulator (the bias is below `end` / 2^64).
    ///
    /// # Panics
    /// When `end` is zero.
    pub fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0, "nothing lies below zero");
        ((u128::from(self.bits()) * u128::from(end)) >> 64) as u64
    }

    /// True `per_million` times in a million.
    pub fn chance(&mut self, per_million: u32) -> bool {
        self.below(u64::from(MILLION)) < u64::from(per_million)
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.generator.fill_bytes(bytes);
    }
}

/// Chooses at random, each question from a stream of its own.
#[derive(Clone, Debug)]
pub struct Dice {
    root: Random,
    streams: BTreeMap<String, Random>,
}

impl Dice {
    /// Dice whose streams derive from `root`.
    #[must_use]
    pub fn new(root: Random) -> Self {
        Self { root, streams: BTreeMap::new() }
    }

    fn stream(&mut self, what: &str) -> &mut Random {
        if !self.streams.contains_key(what) {
            self.streams.insert(what.to_owned(), self.root.stream(what));
        }
        self.streams.get_mut(what).expect("the stream was just opened")
    }
}

impl Choose for Dice {
    fn choose(&mut self, n: usize, what: &str) -> usize {
        self.stream(what).below(n as u64) as usize
    }

    fn chance(&mut self, per_million: u32, what: &str) -> bool {
        self.stream(what).chance(per_million)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_depends_on_seed_and_name_only() {
        let mut drawn = Random::new(7);
        let fresh = drawn.stream("disk").bits();
        drawn.bits();
        assert_eq!(drawn.stream("disk").bits(), fresh);
        assert_ne!(drawn.stream("network").bits(), fresh);
        assert_ne!(Random::new(8).stream("disk").bits(), fresh);
        assert_ne!(
            drawn.numbered_stream("disk", 0).bits(),
            drawn.numbered_stream("disk", 1).bits()
        );
    }

    #[test]
    fn a_further_question_changes_no_other_answer() {
        let mut one = Dice::new(Random::new(1));
        let mut two = Dice::new(Random::new(1));
        let plain: Vec<_> = (0..32).map(|_| one.choose(1000, "latency")).collect();
        let mixed: Vec<_> = (0..32)
            .map(|_| {
                two.choose(3, "fate");
                two.choose(1000, "latency")
            })
            .collect();
        assert_eq!(plain, mixed);
    }

    #[test]
    fn the_generator_never_changes() {
        let mut random = Random::new(42).stream("disk");
        assert_eq!([random.bits(), random.below(1000)], [3_837_632_004_573_698_172, 957]);
    }
}
