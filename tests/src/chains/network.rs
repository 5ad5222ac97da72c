//! Connections between nodes: in order while they last, and broken one way, the other, or both.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use catena_replication::{
    Parcel,
    chain::{MemberId, Message},
};

use crate::sim::random::Random;

/// The least that a message takes.
const HOP_NS: u64 = 5_000;

/// What arrives.
pub enum Arrival {
    /// A message of `from`.
    Parcel(MemberId, Parcel<Bytes>),
    /// The connection to a node is gone.
    Broken(MemberId),
}

/// A connection in one direction.
#[derive(Default)]
struct Wire {
    /// When the last message arrives.
    busy_ns: u64,
    /// Messages in their order.
    queue: VecDeque<(u64, MemberId, Parcel<Bytes>)>,
}

/// All of them, between numbered nodes.
pub struct Network {
    random: Random,
    wires: BTreeMap<(usize, usize), Wire>,
    /// Nothing comes through.
    cut: BTreeSet<(usize, usize)>,
    /// Who hears of a broken connection, when, and whose other end it was.
    news: BTreeMap<(u64, u64), (usize, MemberId)>,
    /// What an old connection still brings.
    late: BTreeMap<(u64, u64), (usize, MemberId, Parcel<Bytes>)>,
    /// Who has not heard yet that a connection is broken: what he sends is lost.
    unheard: BTreeMap<(usize, usize), u64>,
    numbers: u64,
    /// Old connections' messages that arrived late.
    pub stale: u64,
}

impl Network {
    /// With nothing on its way.
    #[must_use]
    pub fn new(random: Random) -> Self {
        Self {
            random,
            wires: BTreeMap::new(),
            cut: BTreeSet::new(),
            news: BTreeMap::new(),
            late: BTreeMap::new(),
            unheard: BTreeMap::new(),
            numbers: 0,
            stale: 0,
        }
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Takes a message along, unless nothing comes through.
    pub fn send(
        &mut self,
        now_ns: u64,
        (from, to): (usize, usize),
        sender: MemberId,
        parcel: Parcel<Bytes>,
    ) {
        let unheard = self.unheard.get(&(from, to)).is_some_and(|until| now_ns < *until);
        if self.cut.contains(&(from, to)) || unheard {
            return;
        }
        let slow = if self.random.chance(20_000) { 100 } else { 1 };
        let takes = (HOP_NS + self.random.below(30_000)) * slow;
        let wire = self.wires.entry((from, to)).or_default();
        wire.busy_ns = wire.busy_ns.max(now_ns + takes);
        wire.queue.push_back((wire.busy_ns, sender, parcel));
    }

    /// When the next thing arrives.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        let wires = self.wires.values().filter_map(|wire| Some(wire.queue.front()?.0));
        let news = self.news.keys().chain(self.late.keys()).map(|(at, _)| *at).min();
        wires.chain(news).min()
    }

    /// The next thing that has arrived by now, and at which node.
    pub fn poll(&mut self, now_ns: u64) -> Option<(usize, Arrival)> {
        if let Some(entry) = self.news.first_entry().filter(|entry| entry.key().0 <= now_ns) {
            let (at, peer) = entry.remove();
            return Some((at, Arrival::Broken(peer)));
        }
        if let Some(entry) = self.late.first_entry().filter(|entry| entry.key().0 <= now_ns) {
            let (at, from, parcel) = entry.remove();
            self.stale += 1;
            return Some((at, Arrival::Parcel(from, parcel)));
        }
        let due = |wire: &Wire| wire.queue.front().is_some_and(|(at, ..)| *at <= now_ns);
        let (&(sender, to), wire) = self.wires.iter_mut().find(|(_, wire)| due(wire))?;
        let (_, from, parcel) = wire.queue.pop_front()?;
        // Who says hello has a new connection, on which he is answered.
        if matches!(parcel.message, Message::Hello { .. }) {
            self.unheard.remove(&(to, sender));
        }
        Some((to, Arrival::Parcel(from, parcel)))
    }

    /// Whether a connection between two is broken, and one of them has not heard of it yet.
    #[must_use]
    pub fn is_breaking(&self, now_ns: u64, one: usize, other: usize) -> bool {
        let known = [(one, other), (other, one)].map(|way| self.unheard.get(&way).copied());
        known.into_iter().flatten().any(|until| now_ns < until)
    }

    /// A connection breaks: what was on its way is lost, or comes late, and each end hears of it at
    /// its own time.
    pub fn break_between(&mut self, now_ns: u64, ends: [(usize, MemberId); 2]) {
        for (here, there) in [(0, 1), (1, 0)] {
            let (at, peer) = (ends[here].0, ends[there].1);
            let key = (now_ns + 1 + self.random.below(3_000_000), self.number());
            self.news.insert(key, (at, peer));
            self.unheard.insert((at, ends[there].0), key.0);
            let Some(wire) = self.wires.remove(&(ends[there].0, at)) else { continue };
            let kept = self.random.below(wire.queue.len() as u64 + 1) as usize;
            let mut arrives_ns = now_ns;
            for (_, from, parcel) in wire.queue.into_iter().take(kept) {
                arrives_ns += self.random.below(2_000_000);
                let key = (arrives_ns, self.number());
                self.late.insert(key, (at, from, parcel));
            }
        }
    }

    /// Somebody's process is gone, and a node hears that its connection is.
    pub fn tell(&mut self, now_ns: u64, at: usize, gone: MemberId) {
        let key = (now_ns + self.random.below(5_000_000), self.number());
        self.news.insert(key, (at, gone));
    }

    /// From now on nothing comes through from one to the other.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    /// Whether something does not come through.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        !self.cut.is_empty()
    }

    /// Everything comes through again: who was cut off hears that its connections are broken.
    pub fn mend(&mut self) -> Vec<(usize, usize)> {
        std::mem::take(&mut self.cut).into_iter().collect()
    }

    /// A node's process ended.
    pub fn forget(&mut self, node: usize) {
        self.wires.retain(|(from, to), _| *from != node && *to != node);
        self.news.retain(|_, (at, _)| *at != node);
        self.late.retain(|_, (at, ..)| *at != node);
        self.unheard.retain(|(from, to), _| *from != node && *to != node);
    }
}
