//! What stands for consensus among simulated nodes: a list of entries in their order, sometimes
//! silent, heard of late. What an entry does, the product's own catalog decides.
//!
//! ```text
//! a node's proposal ──► on its way ──► the list ──► each node hears of it, at its own pace
//!          └► refused, or in doubt: ordered or not     └► or of a snapshot, where it is far behind
//! ```

use std::collections::{BTreeMap, VecDeque};

use catena_format::NodeId;
use catena_log::Fold;
use catena_node::Ordered;
use catena_replication::control::{Catalog, ChainChange, Entry, NodeProfile, decode, encode};

use crate::sim::random::Random;

/// A snapshot is taken every so many entries.
const SNAPSHOT_EVERY: usize = 16;
/// Of a million proposals, those whose proposer is told that nobody knows.
const DOUBTED_PER_MILLION: u32 = 5_000;
/// A token with which all nodes of a world join.
const TOKEN: u128 = 1;

/// Who proposed an entry: a node, in one of its processes, under a number.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Proposer {
    node: usize,
    process: u64,
    number: u64,
}

/// A proposal on its way.
struct Proposal {
    by: Proposer,
    entry: Vec<u8>,
    /// Its proposer is told nothing more.
    doubted: bool,
}

/// How far a node has heard.
#[derive(Default)]
struct Seat {
    /// Entries heard.
    heard: usize,
    /// Its process; `None`: none runs.
    process: Option<u64>,
    /// When it hears of the next entry.
    next_ns: u64,
    /// What it hears beside entries, and when.
    asides: VecDeque<(u64, Ordered)>,
}

/// The list, and who has heard how much of it.
pub(super) struct Council {
    random: Random,
    catalog: Catalog,
    list: Vec<(Vec<u8>, Option<Proposer>)>,
    snapshots: BTreeMap<usize, Vec<u8>>,
    seats: Vec<Seat>,
    proposals: BTreeMap<(u64, u64), Proposal>,
    numbers: u64,
    leader: Option<usize>,
    elects_ns: u64,
    /// Somebody's life has ended or begun since this was asked.
    disturbed: bool,
    /// How many copies were evicted since this was asked.
    evicted: u64,
    /// Nothing is ordered until then.
    pub(super) silent_until_ns: u64,
    /// Nodes to which nothing comes of it, and from which nothing gets to it.
    cut_off: Vec<bool>,
}

impl Council {
    /// Of nodes that have all joined, each with the first of its lives.
    pub(super) fn new(
        random: Random,
        lives: &[u64],
        profile: impl Fn(usize) -> NodeProfile,
    ) -> Self {
        let mut catalog = Catalog::default();
        catalog.found(NodeId::new(1), lives[0], profile(0));
        let snapshots = BTreeMap::from([(0, catalog.snapshot())]);
        let mut council = Self {
            random,
            catalog,
            list: Vec::new(),
            snapshots,
            seats: lives.iter().map(|_| Seat::default()).collect(),
            proposals: BTreeMap::new(),
            numbers: 0,
            leader: None,
            elects_ns: 0,
            disturbed: false,
            evicted: 0,
            silent_until_ns: 0,
            cut_off: vec![false; lives.len()],
        };
        council.order(&Entry::AllowJoin { token: TOKEN, time: 0, until: 1 });
        for (node, life) in lives.iter().enumerate().skip(1) {
            let profile = Box::new(profile(node));
            council.order(&Entry::AdmitNode { token: TOKEN, time: 0, life: *life, profile });
        }
        council
    }

    fn order(&mut self, entry: &Entry) {
        self.append(encode(entry), None);
    }

    fn append(&mut self, bytes: Vec<u8>, by: Option<Proposer>) {
        let entry = decode(&bytes).expect("nodes propose what can be read");
        let evicts = matches!(&entry, Entry::ChangeChain { change: ChainChange::Evict(..), .. });
        self.disturbed |= match &entry {
            Entry::NodeDown { .. } | Entry::StartNode { .. } => true,
            Entry::ChangeChain { change, .. } => matches!(change, ChainChange::Leave(..)) || evicts,
            _ => false,
        };
        // What changes nothing is ordered all the same.
        let changes = self.catalog.apply(&entry).is_ok();
        self.evicted += u64::from(evicts && changes);
        self.list.push((bytes, by));
        if self.list.len().is_multiple_of(SNAPSHOT_EVERY) {
            self.snapshots.insert(self.list.len(), self.catalog.snapshot());
        }
    }

    /// Whether a node was given up, has begun, or has given up a copy, since this was asked: what
    /// not every disk of a chain has may be lost with it.
    pub(super) fn was_disturbed(&mut self) -> bool {
        std::mem::take(&mut self.disturbed)
    }

    /// How many copies were evicted from their chains since this was asked.
    pub(super) fn take_evicted(&mut self) -> u64 {
        std::mem::take(&mut self.evicted)
    }

    /// What all will know.
    pub(super) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// A process of a node begins: what its consensus has kept, and what follows it.
    pub(super) fn begin(&mut self, node: usize, process: u64, now_ns: u64) {
        let heard = self.seats[node].heard;
        let known: Vec<usize> = self.snapshots.range(..=heard).map(|(at, _)| *at).collect();
        let kept = known[known.len() - 1 - self.random.below(known.len().min(2) as u64) as usize];
        let at_ns = now_ns + 1 + self.random.below(3_000_000);
        let restored = Ordered::Restored(self.snapshots[&kept].clone());
        let asides = VecDeque::from([(at_ns, restored)]);
        self.seats[node] = Seat { heard: kept, process: Some(process), next_ns: at_ns, asides };
    }

    /// A process of a node is gone.
    pub(super) fn end(&mut self, node: usize, now_ns: u64) {
        self.seats[node].process = None;
        self.seats[node].asides.clear();
        if self.leader == Some(node) {
            self.depose(now_ns);
        }
        // What was on its way has arrived, or never does.
        let random = &mut self.random;
        self.proposals.retain(|_, proposal| proposal.by.node != node || random.chance(500_000));
    }

    /// Nobody leads for a while.
    pub(super) fn depose(&mut self, now_ns: u64) {
        self.elects_ns = now_ns + 100_000_000 + self.random.below(700_000_000);
        let Some(old) = self.leader.take() else { return };
        let late_ns = now_ns + self.random.below(300_000_000);
        self.aside(old, late_ns, Ordered::Leads(false));
    }

    fn aside(&mut self, node: usize, at_ns: u64, said: Ordered) {
        let seat = &mut self.seats[node];
        if seat.process.is_some() {
            let at_ns = seat.asides.back().map_or(at_ns, |(last, _)| at_ns.max(*last));
            seat.asides.push_back((at_ns, said));
        }
    }

    /// A node proposes an entry.
    pub(super) fn propose(&mut self, node: usize, number: u64, entry: Vec<u8>, now_ns: u64) {
        let Some(process) = self.seats[node].process else { return };
        let takes_ns = 300_000 + self.random.below(4_000_000);
        let silent = now_ns < self.silent_until_ns || self.leader.is_none();
        if silent || self.cut_off[node] {
            // It is told so, or that nobody knows; then it may be ordered all the same.
            let told_ns = now_ns + takes_ns + self.random.below(500_000_000);
            if !self.random.chance(300_000) {
                let why = "no quorum".to_owned();
                return self.aside(node, told_ns, Ordered::Refused(number, why));
            }
            self.aside(node, told_ns, Ordered::InDoubt(number));
            if self.random.chance(500_000) {
                return;
            }
        }
        let doubted = silent || self.cut_off[node] || self.random.chance(DOUBTED_PER_MILLION);
        if doubted && !silent && !self.cut_off[node] {
            self.aside(node, now_ns + takes_ns, Ordered::InDoubt(number));
        }
        self.numbers += 1;
        let at_ns = (now_ns + takes_ns).max(self.silent_until_ns);
        let by = Proposer { node, process, number };
        self.proposals.insert((at_ns, self.numbers), Proposal { by, entry, doubted });
    }

    /// When something happens by itself; `frozen`: until when a node hears nothing.
    pub(super) fn next_ns(&self, frozen: impl Fn(usize) -> u64) -> Option<u64> {
        let proposal = self.proposals.first_key_value().map(|((at, _), _)| *at);
        let proposal = proposal.filter(|_| self.leader.is_some());
        let election = self.leader.is_none().then_some(self.elects_ns);
        let decides = [proposal, election].into_iter().flatten();
        let decides = decides.map(|at| at.max(self.silent_until_ns));
        let seats = || self.seats.iter().enumerate();
        let asides = seats().filter_map(|(at, s)| Some(s.asides.front()?.0.max(frozen(at))));
        let lags = |(node, seat): &(usize, &Seat)| {
            seat.process.is_some() && !self.cut_off[*node] && seat.heard < self.list.len()
        };
        let entries = seats().filter(lags).map(|(at, seat)| seat.next_ns.max(frozen(at)));
        decides.chain(asides).chain(entries).min()
    }

    /// Orders what has arrived, if anybody leads.
    pub(super) fn decide(&mut self, now_ns: u64) {
        if now_ns < self.silent_until_ns {
            return;
        }
        self.elect(now_ns);
        if self.leader.is_none() {
            return;
        }
        while let Some(entry) = self.proposals.first_entry().filter(|e| e.key().0 <= now_ns) {
            let Proposal { by, entry, doubted } = entry.remove();
            self.append(entry, Some(by).filter(|_| !doubted));
        }
    }

    fn elect(&mut self, now_ns: u64) {
        if self.leader.is_some() || now_ns < self.elects_ns {
            return;
        }
        let can = |node: &usize| self.seats[*node].process.is_some() && !self.cut_off[*node];
        let can: Vec<usize> = (0..self.seats.len()).filter(can).collect();
        if can.len() * 2 <= self.seats.len() {
            self.elects_ns = now_ns + 10_000_000;
            return;
        }
        let leader = can[self.random.below(can.len() as u64) as usize];
        self.leader = Some(leader);
        let at_ns = now_ns + self.random.below(5_000_000);
        self.aside(leader, at_ns, Ordered::Leads(true));
    }

    /// What a node hears next.
    pub(super) fn poll(&mut self, node: usize, now_ns: u64) -> Option<Ordered> {
        let process = self.seats[node].process?;
        if self.seats[node].asides.front().is_some_and(|(at, _)| *at <= now_ns) {
            return self.seats[node].asides.pop_front().map(|(_, said)| said);
        }
        let begun = !matches!(self.seats[node].asides.front(), Some((_, Ordered::Restored(_))));
        let seat = &mut self.seats[node];
        if self.cut_off[node] || !begun || now_ns < seat.next_ns {
            return None;
        }
        let behind = self.list.len() - seat.heard;
        if behind == 0 {
            return None;
        }
        let late = if self.random.chance(3_000) { 300_000_000 } else { 1_000_000 };
        seat.next_ns = now_ns + self.random.below(late);
        // Who is far behind is given a snapshot at times.
        let newest = self.snapshots.last_key_value().map_or(0, |(at, _)| *at);
        if behind > SNAPSHOT_EVERY && newest > seat.heard && self.random.chance(200_000) {
            seat.heard = newest;
            return Some(Ordered::Restored(self.snapshots[&newest].clone()));
        }
        let (entry, by) = &self.list[seat.heard];
        seat.heard += 1;
        let own = by.filter(|by| (by.node, by.process) == (node, process));
        Some(Ordered::Entry(entry.clone(), own.map(|by| by.number)))
    }

    /// Nothing comes to a node, and nothing from it: if it led it does so no more.
    pub(super) fn cut_off(&mut self, node: usize, now_ns: u64) {
        self.cut_off[node] = true;
        if self.leader == Some(node) {
            self.depose(now_ns);
        }
    }

    /// Nobody is cut off any more.
    pub(super) fn join_again(&mut self) {
        self.cut_off.fill(false);
    }

    /// A node hears nothing until then.
    pub(super) fn deafen(&mut self, node: usize, until_ns: u64) {
        self.seats[node].next_ns = until_ns;
    }
}
