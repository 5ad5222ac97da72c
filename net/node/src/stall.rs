//! Chains that do not go on: a member that holds the others up, or two neighbours that nothing
//! connects though both run. The chain goes on without one of them, who joins again behind the
//! tail.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use catena_format::{Epoch, Incarnation, NodeId, PartitionUid, TopicId};
use catena_log::{Now, io::Memory};
use catena_replication::{
    chain::MemberId,
    control::{Catalog, ChainChange, Entry, Resting},
};

use crate::{
    cores::{Content, FIRST, NOWHERE},
    follow::Follower,
    links::Links,
    node::{Node, Notice, Status},
};

/// How long who was evicted stays away: the first time, and at most.
const REST: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(30);
/// After so long without an eviction the next one is the first.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// Nodes of which copies are evicted at a time, at most; of a large cluster a quarter.
const EVICTED_MAX: usize = 2;

/// How often who is sick says so, until it has left.
const SICK_EVERY: Duration = Duration::from_secs(1);

struct Rest {
    life: Incarnation,
    until: Duration,
    long: Duration,
}

/// Who was evicted from which chain, and is not to join it again for a while.
#[derive(Default)]
pub(crate) struct Rests {
    all: BTreeMap<(PartitionUid, NodeId), Rest>,
    /// Those that rested when it was last looked.
    present: Resting,
}

impl Rests {
    /// Takes note of an eviction: the next one makes for a longer rest.
    fn note(&mut self, uid: PartitionUid, member: MemberId, now: Now) {
        let name = (uid, member.node);
        let known = self.all.get(&name).filter(|rest| rest.life == member.incarnation);
        let long = known.map_or(REST, |rest| REST_MAX.min(rest.long * 2));
        let rest = Rest { life: member.incarnation, until: now.monotonic + long, long };
        self.all.insert(name, rest);
        self.present.insert(name);
    }

    /// Who rests now.
    pub(crate) fn look(&mut self, catalog: &Catalog, now: Now) -> Resting {
        self.all.retain(|_, rest| now.monotonic < rest.until + FORGOTTEN_AFTER);
        let rests = |((_, node), rest): &(&(PartitionUid, NodeId), &Rest)| {
            now.monotonic < rest.until && catalog.member(*node).incarnation == rest.life
        };
        self.present = self.all.iter().filter(rests).map(|(name, _)| *name).collect();
        self.present.clone()
    }
}

impl Follower {
    /// Takes note of what was ordered, if it is an eviction.
    pub(crate) fn note_eviction(&mut self, entry: &Entry, now: Now) {
        let Entry::ChangeChain { topic, partition, change, .. } = entry else { return };
        let ChainChange::Evict(node, incarnation) = change else { return };
        let topic = self.catalog.topic(TopicId::new(*topic));
        let partition = topic.and_then(|topic| topic.partitions.get(*partition as usize));
        let (node, incarnation) = (NodeId::new(*node), Incarnation::new(*incarnation));
        if let Some(partition) = partition {
            self.rests.note(partition.uid, MemberId { node, incarnation }, now);
        }
    }

    /// Whether one more eviction would not put too many nodes aside.
    pub(crate) fn may_propose(&self, entry: &Entry) -> bool {
        let Entry::ChangeChain { change: ChainChange::Evict(node, _), .. } = entry else {
            return true;
        };
        let mut nodes: BTreeSet<_> = self.rests.present.iter().map(|(_, node)| *node).collect();
        nodes.insert(NodeId::new(*node));
        nodes.len() <= EVICTED_MAX.max(self.catalog.nodes().count() / 4)
    }
}

impl<S> Links<S> {
    /// Who runs and has had no link to this core for so long, though it is beside some of its
    /// partitions; told again after as long.
    fn cut_off(&mut self, after: Duration, now: Now) -> Vec<(MemberId, Vec<PartitionUid>)> {
        let mut cut_off = Vec::new();
        for ((node, _), shard) in &mut self.shards {
            let beside = self.nodes.get(node).filter(|beside| beside.up);
            let beside = beside.filter(|_| shard.link.is_none() && !shard.partitions.is_empty());
            let Some(member) = beside.map(|beside| beside.member) else {
                shard.apart = None;
                continue;
            };
            let known = shard.apart.filter(|(life, _)| *life == member.incarnation);
            let (_, since) =
                *shard.apart.insert(known.unwrap_or((member.incarnation, now.monotonic)));
            if now.monotonic.saturating_sub(since) >= after {
                shard.apart = None;
                cut_off.push((member, shard.partitions.iter().copied().collect()));
            }
        }
        cut_off
    }
}

impl<M: Memory + Clone> Node<M> {
    /// Of two neighbours without a link the one nearer to the tail leaves: the other one says so,
    /// or if that cannot be heard, it does of the other one.
    pub(crate) fn tell_cut_off(&mut self, now: Now) {
        if self.status != Status::Serving {
            return;
        }
        if self.links.next_sick <= now.monotonic {
            self.links.next_sick = now.monotonic + SICK_EVERY;
            let all: Vec<_> = self.held.keys().copied().collect();
            all.into_iter().for_each(|uid| self.leave_if_sick(uid));
        }
        for (member, partitions) in self.links.cut_off(self.limits.evict_after, now) {
            for uid in partitions {
                let Some(held) = self.held.get_mut(&uid) else { continue };
                let Some(chain) = held.replica.member().configuration() else { continue };
                let (me, epoch) = (self.identity.node, chain.epoch);
                let behind = chain.successor(me) == Some(member) || chain.joining == Some(member);
                let again = held.cut_off.replace((epoch, member)) == Some((epoch, member));
                if behind || again {
                    self.evict(uid, epoch, member);
                }
            }
        }
    }

    /// Has a chain go on without a member, if it is long enough.
    pub(crate) fn evict(&mut self, uid: PartitionUid, epoch: Epoch, member: MemberId) {
        let Some(held) = self.held.get(&uid).filter(|held| held.epoch == epoch) else { return };
        let Some(chain) = held.replica.member().configuration() else { return };
        let runs = |other: &&MemberId| {
            let known = self.links.nodes.get(&other.node);
            **other != member && known.is_some_and(|beside| beside.up && beside.member == **other)
        };
        let left = chain.chain.iter().filter(runs).count();
        let enough = left >= usize::from(chain.min_replicas).max(1);
        if enough || chain.joining == Some(member) {
            let change = ChainChange::Evict(member.node.get(), member.incarnation.get());
            self.notices.push_back(Notice::Stalled(*held.replica.identity(), member.node));
            self.ask_for_chain(uid, epoch, change);
        }
    }

    /// It was ordered that a joiner is close: its tail may wait for it.
    pub(crate) fn allow_close(&mut self, uid: PartitionUid, epoch: Epoch, now: Now) {
        let core = self.follower.as_ref().and_then(|follower| follower.told.get(&uid));
        match core {
            Some((_, core)) if *core != FIRST && *core != NOWHERE => {
                self.send_parcel(*core, Content::MayClose(uid, epoch));
            }
            _ => self.close_in(uid, epoch, now),
        }
    }

    /// The same, on the core that has the partition.
    pub(crate) fn close_in(&mut self, uid: PartitionUid, epoch: Epoch, now: Now) {
        self.with_replica(uid, now, |replica| replica.on_close_allowed(epoch, now));
    }
}
