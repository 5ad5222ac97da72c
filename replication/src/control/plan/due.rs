//! Which chains are to change.

use std::collections::{BTreeMap, BTreeSet};

use catena_format::{NodeId, PartitionUid};

use super::{beside, loads};
use crate::control::catalog::{Catalog, ChainChange, Entry, Partition, REPLICAS_MAX, Topic};

/// Chains that a node joins at a time.
const JOINS_MAX: usize = 2;
/// Chains whose order changes at a time.
const REORDERS_MAX: usize = 8;

/// A change of a chain that is due.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Due {
    /// Of which partition.
    pub uid: PartitionUid,
    /// The change.
    pub entry: Entry,
    /// The head is to propose it, once nothing that it has answered can be lost with it; `None`:
    /// whoever leads.
    pub head: Option<NodeId>,
}

/// Copies that are not to join their partitions' chains yet: they were evicted from them.
pub type Resting = BTreeSet<(PartitionUid, NodeId)>;

/// Changes of chains that are due, at most one of each partition. `gone`: nodes that have been down
/// for so long that others are to keep what they kept.
///
/// A node that keeps a copy and runs again joins its chain. A copy on a node that is gone, is
/// drained, or is to give it away, or that has failed its node, is made on another one, as is one
/// that a topic lacks; what is too much leaves once the others hold all. When nothing of that is
/// under way, heads and tails are spread evenly.
#[must_use]
pub fn due(catalog: &Catalog, gone: &BTreeSet<NodeId>, resting: &Resting) -> Vec<Due> {
    let mut plan = Plan::new(catalog, gone, resting);
    for (topic, partition) in partitions(catalog) {
        if let Some(change) = plan.change(topic, partition) {
            plan.propose(topic, partition, change);
        }
    }
    if plan.due.is_empty() && plan.joining.is_empty() {
        plan.balance();
    }
    plan.due
}

/// Of each node that is drained, how many partitions stay on it: without it fewer nodes could hold
/// them than they need.
#[must_use]
pub fn stuck(catalog: &Catalog, gone: &BTreeSet<NodeId>) -> BTreeMap<NodeId, usize> {
    let nobody = Resting::new();
    let plan = Plan::new(catalog, gone, &nobody);
    let mut stuck = BTreeMap::new();
    for (_, partition) in partitions(catalog) {
        if plan.possible(partition) >= usize::from(partition.configuration.min_replicas) {
            continue;
        }
        for node in &partition.homes {
            if catalog.node(*node).is_some_and(|node| node.draining) {
                *stuck.entry(*node).or_default() += 1;
            }
        }
    }
    stuck
}

fn partitions(catalog: &Catalog) -> impl Iterator<Item = (&Topic, &Partition)> {
    catalog.topics().flat_map(|topic| topic.partitions.iter().map(move |p| (topic, p)))
}

/// What is planned, and what it is planned by.
struct Plan<'c> {
    catalog: &'c Catalog,
    gone: &'c BTreeSet<NodeId>,
    resting: &'c Resting,
    /// Chains that each node joins.
    joining: BTreeMap<NodeId, usize>,
    /// Copies that each node keeps.
    copies: BTreeMap<NodeId, usize>,
    due: Vec<Due>,
}

impl<'c> Plan<'c> {
    fn new(catalog: &'c Catalog, gone: &'c BTreeSet<NodeId>, resting: &'c Resting) -> Self {
        let mut joining: BTreeMap<NodeId, usize> = BTreeMap::new();
        for joiner in partitions(catalog).filter_map(|(_, p)| p.configuration.joining) {
            *joining.entry(joiner.node).or_default() += 1;
        }
        let copies = loads(catalog).into_iter().map(|(node, load)| (node, load.replicas));
        Self { catalog, gone, resting, joining, copies: copies.collect(), due: Vec::new() }
    }

    fn propose(&mut self, topic: &Topic, partition: &Partition, change: ChainChange) {
        if let ChainChange::Join(node) = change {
            let node = NodeId::new(node);
            *self.joining.entry(node).or_default() += 1;
            *self.copies.entry(node).or_default() += usize::from(!partition.homes.contains(&node));
        }
        let chain = &partition.configuration.chain;
        let of_member = match &change {
            ChainChange::Remove(node) => chain.iter().any(|member| member.node.get() == *node),
            change => matches!(change, ChainChange::Reorder(_)),
        };
        let entry = Entry::ChangeChain {
            topic: topic.id.get(),
            partition: partition.index.get(),
            epoch: partition.configuration.epoch.get(),
            change,
        };
        let head = of_member.then(|| chain[0].node);
        self.due.push(Due { uid: partition.uid, entry, head });
    }

    /// What is due of a partition.
    fn change(&self, topic: &Topic, partition: &Partition) -> Option<ChainChange> {
        let chain = &partition.configuration;
        if chain.joining.is_some() || self.running(partition).count() == 0 {
            return None;
        }
        let back = self.keepers(partition).find(|node| self.can_join(partition, *node));
        if let Some(node) = back {
            return Some(ChainChange::Join(node.get()));
        }
        // What is being created is where it was placed until it exists.
        if partition.index.get() >= topic.ready {
            return None;
        }
        if let Some(node) = self.superfluous(topic, partition) {
            return Some(ChainChange::Remove(node.get()));
        }
        let lacks = self.keepers(partition).count() < usize::from(topic.replicas);
        let fresh = if lacks { self.fresh(partition) } else { None };
        // Who is to go stays as long as there is nobody else.
        let needed = || {
            let lacks = chain.chain.len() < self.needed(topic, partition);
            let mut homes = partition.homes.iter().filter(|_| lacks).copied();
            homes.find(|node| self.can_join(partition, *node))
        };
        match fresh {
            Some(node) if self.has_room(node) => Some(ChainChange::Join(node.get())),
            Some(_) => None,
            None => needed().map(|node| ChainChange::Join(node.get())),
        }
    }

    /// The nodes of a chain that run.
    fn running(&self, partition: &'c Partition) -> impl Iterator<Item = NodeId> {
        let members = partition.configuration.chain.iter();
        members.filter(|member| self.catalog.runs(**member)).map(|member| member.node)
    }

    /// Whether a node has a copy that can be counted on, or could have one: it may be down for a
    /// while, or be about to give it away.
    fn could_keep(&self, partition: &Partition, node: NodeId) -> bool {
        let holds = self.catalog.node(node).is_some_and(|node| node.holds());
        holds && !self.is_lost(partition, node)
    }

    /// Whether a copy is not to be waited for, though it may come back.
    fn is_lost(&self, partition: &Partition, node: NodeId) -> bool {
        self.gone.contains(&node) || partition.sick.contains(&self.catalog.member(node))
    }

    /// Whether a node that keeps a copy is to go on doing so.
    fn stays(&self, partition: &Partition, node: NodeId) -> bool {
        self.could_keep(partition, node) && !partition.leaving.contains(&node)
    }

    fn keepers<'p>(
        &self,
        partition: &'p Partition,
    ) -> impl Iterator<Item = NodeId> + use<'_, 'p, 'c> {
        let homes = partition.homes.iter().copied();
        homes.filter(|node| self.stays(partition, *node))
    }

    /// Nodes that could begin to keep a copy.
    fn candidates<'p>(
        &self,
        partition: &'p Partition,
    ) -> impl Iterator<Item = NodeId> + use<'_, 'p, 'c> {
        let nodes = self.catalog.nodes().filter(|(_, node)| node.up).map(|(id, _)| id);
        nodes.filter(move |id| !partition.homes.contains(id) && self.could_keep(partition, *id))
    }

    /// How many nodes could keep a copy.
    fn possible(&self, partition: &Partition) -> usize {
        let nodes = self.catalog.nodes().map(|(id, _)| id);
        nodes.filter(|id| self.could_keep(partition, *id)).count()
    }

    fn has_room(&self, node: NodeId) -> bool {
        self.joining.get(&node).is_none_or(|joins| *joins < JOINS_MAX)
    }

    /// Whether a node that keeps a copy runs outside of the chain, and may come in.
    fn can_join(&self, partition: &Partition, node: NodeId) -> bool {
        let member = self.catalog.member(node);
        let chain = &partition.configuration.chain;
        chain.iter().all(|other| other.node != node)
            && chain.len() < usize::from(REPLICAS_MAX)
            && self.has_room(node)
            && self.catalog.runs(member)
            && !partition.sick.contains(&member)
            && !self.resting.contains(&(partition.uid, node))
    }

    /// Members that must be left when one goes: as many as there are to be, or can be; and never
    /// fewer than the chain needs.
    fn needed(&self, topic: &Topic, partition: &Partition) -> usize {
        let wished = usize::from(topic.replicas).min(self.possible(partition));
        wished.max(usize::from(partition.configuration.min_replicas))
    }

    /// Who keeps a copy that is not needed: who is to go, whose copy is lost and replaced, or one
    /// too many.
    fn superfluous(&self, topic: &Topic, partition: &Partition) -> Option<NodeId> {
        let homes = || partition.homes.iter().copied();
        let replicas = usize::from(topic.replicas);
        let keepers = self.keepers(partition).count();
        let in_chain =
            |node: NodeId| partition.configuration.chain.iter().any(|member| member.node == node);
        // Where nobody takes its place, what is lost may come back.
        let holds = |node| self.catalog.node(node).is_some_and(|node| node.holds());
        let waits = |node| holds(node) && self.is_lost(partition, node) && keepers < replicas;
        let goes = |node: &NodeId| !self.stays(partition, *node) && !waits(*node);
        let first = homes().filter(goes).min_by_key(|node| (in_chain(*node), *node));
        let too_many = || {
            let surplus = homes().filter(|_| keepers > replicas);
            let surplus = surplus.filter(|node| self.stays(partition, *node));
            surplus.min_by_key(|node| {
                let others = self.keepers(partition).filter(|other| other != node);
                let shared = beside(self.catalog, others, *node) > 0;
                let copies = self.copies.get(node).copied().unwrap_or(0);
                let is_head = partition.configuration.chain[0].node == *node;
                (in_chain(*node), !shared, is_head, usize::MAX - copies, *node)
            })
        };
        let node = first.or_else(too_many)?;
        let left = self.running(partition).filter(|other| *other != node).count();
        (left >= self.needed(topic, partition)).then_some(node)
    }

    /// Who should begin to keep a copy, though it may have no room for now.
    fn fresh(&self, partition: &Partition) -> Option<NodeId> {
        if partition.configuration.chain.len() >= usize::from(REPLICAS_MAX) {
            return None;
        }
        self.candidates(partition).min_by_key(|node| {
            let beside = beside(self.catalog, self.keepers(partition), *node);
            let copies = self.copies.get(node).copied().unwrap_or(0);
            (beside, !self.has_room(*node), copies, *node)
        })
    }

    /// Spreads heads evenly over nodes, and where that is done, tails. Each change makes it more
    /// even, so that they end.
    fn balance(&mut self) {
        let catalog = self.catalog;
        let (mut heads, mut tails) = (BTreeMap::new(), BTreeMap::new());
        for (_, partition) in partitions(catalog) {
            let chain = &partition.configuration.chain;
            *heads.entry(chain[0].node).or_default() += 1;
            *tails.entry(chain[chain.len() - 1].node).or_default() += 1;
        }
        for (topic, partition) in partitions(catalog) {
            if self.due.len() >= REORDERS_MAX {
                return;
            }
            let chain: Vec<_> = partition.configuration.chain.iter().map(|m| m.node).collect();
            let settled = partition.index.get() < topic.ready
                && chain.iter().all(|node| self.stays(partition, *node))
                && self.running(partition).count() == chain.len();
            let order = settled.then(|| evener(&chain, &heads, &tails)).flatten();
            let Some(order) = order else { continue };
            for (counts, at) in [(&mut heads, 0), (&mut tails, chain.len() - 1)] {
                *counts.entry(chain[at]).or_default() -= 1;
                *counts.entry(order[at]).or_default() += 1;
            }
            let order = order.iter().map(|node| node.get()).collect();
            self.propose(topic, partition, ChainChange::Reorder(order));
        }
    }
}

/// A chain in an order that makes heads more even, or tails and leaves heads as they are.
fn evener(
    chain: &[NodeId],
    heads: &BTreeMap<NodeId, usize>,
    tails: &BTreeMap<NodeId, usize>,
) -> Option<Vec<NodeId>> {
    let count = |of: &BTreeMap<NodeId, usize>, node: &NodeId| of.get(node).copied().unwrap_or(0);
    let (head, others) = chain.split_first()?;
    let other = others.iter().min_by_key(|node| (count(heads, node), **node))?;
    if count(heads, head) > count(heads, other) + 1 {
        let rest = chain.iter().filter(|node| *node != other);
        return Some(std::iter::once(other).chain(rest).copied().collect());
    }
    let (tail, between) = others.split_last()?;
    let other = between.iter().min_by_key(|node| (count(tails, node), **node))?;
    if count(tails, tail) > count(tails, other) + 1 {
        let rest = chain.iter().filter(|node| *node != other);
        return Some(rest.chain([other]).copied().collect());
    }
    None
}
