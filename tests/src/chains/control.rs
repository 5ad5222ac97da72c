//! The control plane of a simulated chain: a list of configurations in their order, written by what
//! the product's rules allow, sometimes silent, and heard of late.

use std::collections::BTreeMap;

use catena_format::{Epoch, Incarnation, NodeId};
use catena_replication::chain::{Configuration, MemberId};

use super::deeds::{Deed, Deeds};
use crate::sim::random::Random;

/// Which node of the world somebody is: a disk that was wiped makes another node of it.
#[must_use]
pub fn index(member: MemberId) -> usize {
    (member.node.get() % WIPED) as usize
}

/// What a wiped disk adds to a node's number.
pub const WIPED: u64 = 100;

/// A node as the control plane sees it.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Who it is, once it was told.
    pub id: Option<MemberId>,
    /// Its process runs.
    pub up: bool,
    /// Its log failed.
    pub sick: bool,
}

/// What a member says of its chain.
#[derive(Clone, Copy, Debug)]
enum Word {
    /// Its joiner can be the tail.
    Ready(MemberId),
    /// Somebody holds the chain up.
    Stalled(MemberId),
}

/// The control plane.
pub struct Control {
    random: Random,
    /// The configurations, the last in force.
    pub history: Vec<Configuration>,
    /// The last incarnation given to each.
    incarnations: BTreeMap<NodeId, u64>,
    /// It decides nothing, and tells nothing, until then.
    pub silent_until_ns: u64,
    /// How many members it wants.
    target: usize,
    /// Words of members, on their way.
    words: BTreeMap<(u64, u64), (Epoch, Word)>,
    numbers: u64,
    /// Since when a member is not heard of.
    missed: BTreeMap<NodeId, u64>,
    /// Healthy members are moved, removed and added, too.
    pub restless: bool,
}

impl Control {
    /// Of a chain of the first nodes.
    #[must_use]
    pub fn new(random: Random, members: usize, min_replicas: u8) -> Self {
        let mut control = Self {
            random,
            history: Vec::new(),
            incarnations: BTreeMap::new(),
            silent_until_ns: 0,
            target: members,
            words: BTreeMap::new(),
            numbers: 0,
            missed: BTreeMap::new(),
            restless: true,
        };
        let chain = (0..members as u64).map(|node| control.admit(NodeId::new(node))).collect();
        let epoch = Epoch::new(1);
        control.history.push(Configuration { epoch, chain, joining: None, min_replicas });
        control
    }

    /// How many members it wants.
    #[must_use]
    pub fn wanted(&self) -> usize {
        self.target
    }

    /// What is in force.
    #[must_use]
    pub fn present(&self) -> &Configuration {
        self.history.last().expect("there is a first one")
    }

    fn admit(&mut self, node: NodeId) -> MemberId {
        let incarnation = self.incarnations.entry(node).or_insert(0);
        *incarnation += 1;
        MemberId { node, incarnation: Incarnation::new(*incarnation) }
    }

    /// A node's process has started: who it is from now on. `None` while nobody decides.
    pub fn started(&mut self, now_ns: u64, node: NodeId) -> Option<MemberId> {
        if now_ns < self.silent_until_ns {
            return None;
        }
        let member = self.admit(node);
        self.missed.remove(&node);
        let next = self.present().restarted(member);
        self.history.extend(next);
        Some(member)
    }

    /// Whether it decides anything now.
    #[must_use]
    pub fn hears(&self, now_ns: u64) -> bool {
        now_ns >= self.silent_until_ns
    }

    /// A tail says that its joiner is ready.
    pub fn hear_ready(&mut self, now_ns: u64, epoch: Epoch, joiner: MemberId) {
        self.hear(now_ns, epoch, Word::Ready(joiner));
    }

    /// A member says that another one, or its joiner, holds the chain up.
    pub fn hear_stalled(&mut self, now_ns: u64, epoch: Epoch, member: MemberId) {
        self.hear(now_ns, epoch, Word::Stalled(member));
    }

    fn hear(&mut self, now_ns: u64, epoch: Epoch, word: Word) {
        self.numbers += 1;
        let at_ns = now_ns + self.random.below(3_000_000);
        self.words.insert((at_ns, self.numbers), (epoch, word));
    }

    /// Decides what is to be decided now.
    pub fn decide(&mut self, now_ns: u64, nodes: &[Seen], deeds: &mut Deeds) {
        if !self.hears(now_ns) {
            return;
        }
        while let Some(entry) = self.words.first_entry().filter(|entry| entry.key().0 <= now_ns) {
            let (epoch, word) = entry.remove();
            let next = match word {
                Word::Ready(joiner) => {
                    self.present().joined(epoch, joiner).map(|next| (next, Deed::Joined))
                }
                Word::Stalled(member) => {
                    self.without_stalled(epoch, member, nodes).map(|next| (next, Deed::Stalled))
                }
            };
            if let Some((next, deed)) = next {
                deeds.did(deed);
                self.history.push(next);
            }
        }
        if let Some((next, deed)) = self.change(now_ns, nodes) {
            deeds.did(deed);
            self.history.push(next);
        }
    }

    /// The chain without who holds it up, if it is long enough then.
    fn without_stalled(
        &self,
        epoch: Epoch,
        member: MemberId,
        nodes: &[Seen],
    ) -> Option<Configuration> {
        let present = Some(self.present()).filter(|present| present.epoch == epoch)?;
        let runs = |other: &&MemberId| {
            let seen = nodes[index(**other)];
            **other != member && seen.id == Some(**other) && seen.up && !seen.sick
        };
        let left = present.chain.iter().filter(runs).count();
        let enough = left >= usize::from(present.min_replicas).max(1);
        let joins = present.joining == Some(member);
        present.without(member.node).filter(|_| enough || joins)
    }

    fn change(&mut self, now_ns: u64, nodes: &[Seen]) -> Option<(Configuration, Deed)> {
        let present = self.present().clone();
        let runs = |member: &MemberId| {
            let seen = nodes[index(*member)];
            seen.id == Some(*member) && seen.up && !seen.sick
        };
        for member in present.chain.iter().chain(&present.joining) {
            if runs(member) {
                self.missed.remove(&member.node);
                continue;
            }
            let since = *self.missed.entry(member.node).or_insert(now_ns);
            // Who is left must run: of a chain that is all dead nobody knows who comes back.
            let others = present.chain.iter().any(|other| other != member && runs(other));
            if others && now_ns - since > 500_000 + self.random.below(60_000_000) {
                self.missed.remove(&member.node);
                if let Some(next) = present.without(member.node) {
                    return Some((next, Deed::Removed));
                }
            }
        }
        if present.joining.is_none() && present.chain.len() < self.target {
            let there = |id: MemberId| present.chain.iter().any(|m| m.node == id.node);
            let mut free = nodes.iter().filter_map(|seen| seen.id).filter(|id| runs(id));
            let joiner = free.find(|id| !there(*id));
            if let Some(next) = joiner.and_then(|joiner| present.with_joining(joiner)) {
                return Some((next, Deed::Joining));
            }
        }
        if !self.restless || !self.random.chance(20_000) {
            return None;
        }
        let at = self.random.below(present.chain.len() as u64) as usize;
        if self.random.chance(600_000) {
            let mut chain = present.chain.clone();
            chain.rotate_left(at);
            return Some((present.reordered(chain)?, Deed::Reordered));
        }
        let node = present.joining.unwrap_or(present.chain[at]).node;
        let others = present.chain.iter().any(|other| other.node != node && runs(other));
        Some((present.without(node).filter(|_| others)?, Deed::Evicted))
    }
}
