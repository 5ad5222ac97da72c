//! A model of small chains in which whatever can happen does, in every order: the members are the
//! product's ([`Member`], [`Configuration`]), their logs, disks, links and the control plane are
//! what this module makes of them.
//!
//! ```text
//! append, flush, deliver, break a link          on every node, at any time
//! crash (the unsynced end is lost, or is not)   and a new life: the control plane hears of it
//! remove, join, reorder                         by the control plane, of anybody
//! learn                                         the present configuration, or never
//! ```
//!
//! Held against it: what any tail has committed stands at its offset for ever (V3, V5), every
//! member of the present chain has all of it on its disk (V2), and nobody finds a contradiction.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    thread,
};

use catena_format::{Epoch, Incarnation, NodeId, Offset, planted};
use catena_replication::chain::{
    Configuration, Effect, Extent, Ignored, Member, MemberId, Message, Output, Role, Side,
};
use stateright::{Checker, HasDiscoveries, Model, Property};

/// What stands at an offset: who wrote it, and what.
pub type Entry = (Epoch, u8);

/// How much may happen.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Nodes.
    pub nodes: u8,
    /// So many of them are the first chain.
    pub members: u8,
    /// Batches appended at most.
    pub values: u8,
    /// The last epoch.
    pub epoch: u32,
    /// Crashes at most.
    pub crashes: u8,
    /// Links broken at most.
    pub breaks: u8,
    /// Whether anybody joins.
    pub joins: bool,
    /// Whether the chain is turned round.
    pub turns: bool,
    /// A shorter chain commits nothing.
    pub min_replicas: u8,
}

const COMMITTED_LATER: &str = "something is committed in a later epoch";

const THREE: Bounds = Bounds {
    nodes: 3,
    members: 3,
    values: 2,
    epoch: 3,
    crashes: 0,
    breaks: 0,
    joins: false,
    turns: true,
    min_replicas: 1,
};
const TWO: Bounds = Bounds { nodes: 2, members: 2, ..THREE };
const LONE: Bounds = Bounds { members: 1, joins: true, ..TWO };
const JOINS: Bounds = Bounds { members: 2, epoch: 4, joins: true, ..THREE };

/// The chains that are looked at, and what may happen in each.
pub const CHAINS: [(&str, Bounds); 10] = [
    ("two of them, turned round", Bounds { epoch: 4, ..TWO }),
    ("two of them, and two crashes", Bounds { epoch: 5, crashes: 2, ..TWO }),
    ("two of them, and two links break", Bounds { epoch: 2, breaks: 2, ..TWO }),
    ("one and a joiner, and a crash", Bounds { epoch: 5, crashes: 1, ..LONE }),
    ("one and a joiner, and a link breaks", Bounds { breaks: 1, ..LONE }),
    ("three of them", THREE),
    ("three of them, and a crash", Bounds { crashes: 1, ..THREE }),
    ("two of them and a joiner", JOINS),
    (
        "two that must be, and a joiner",
        Bounds { values: 1, min_replicas: 2, turns: false, ..JOINS },
    ),
    ("two of them and a joiner, and a link breaks", Bounds { breaks: 1, ..JOINS }),
];

/// What a search came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Search {
    /// States that differ from each other.
    pub states: usize,
    /// The most events from the beginning.
    pub depth: usize,
    /// There are no more.
    pub all: bool,
    /// Batches were committed in a later epoch than the first.
    pub committed_later: bool,
    /// What was broken, and the shortest way there.
    pub broken: Option<(String, Vec<Event>)>,
}

/// Goes through a chain's histories, the short ones first, until something is broken, so many
/// states were seen or there are no more.
#[must_use]
pub fn search(bounds: Bounds, states_max: usize) -> Search {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let checker = bounds.checker().threads(threads).target_state_count(states_max);
    let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let mut found = checker.discoveries();
    let committed_later = found.remove(COMMITTED_LATER).is_some();
    let broken = found.into_iter().next().map(|(property, path)| {
        let said = path.last_state().broken.clone().unwrap_or_else(|| format!("not: {property}"));
        (said, path.into_actions())
    });
    let states = checker.unique_state_count();
    let all = broken.is_none() && checker.state_count() < states_max;
    Search { states, depth: checker.max_depth(), all, committed_later, broken }
}

/// A node: its member of the chain, and what its disk and memory hold of the log.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Node {
    member: Member,
    log: Vec<Entry>,
    durable: usize,
}

/// What is on its way on one connection.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Parcel {
    message: Message,
    entries: Vec<Entry>,
}

/// A connection: from, to, and the session of the two in an epoch.
type Link = (MemberId, MemberId, Epoch, u64);

/// The world between two events.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    nodes: Vec<Node>,
    control: Configuration,
    links: BTreeMap<Link, VecDeque<Parcel>>,
    ready: BTreeSet<(Epoch, MemberId)>,
    committed: Vec<Entry>,
    broken: Option<String>,
    values: u8,
    crashes: u8,
    breaks: u8,
    /// Something was cut off a log.
    cut: bool,
}

/// What may happen next.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// The head takes a batch.
    Append(usize),
    /// What is in its memory is on its disk.
    Flush(usize),
    /// The next message of a connection arrives.
    Deliver(MemberId, MemberId, Epoch, u64),
    /// The link to its predecessor breaks.
    Break(usize),
    /// It hears of the present configuration.
    Learn(usize),
    /// It crashes, with or without the end that was not synced, and begins another life.
    Crash(usize, bool),
    /// The tail goes into joint mode.
    Joint(usize),
    /// The control plane hears that a joiner is ready.
    Ready(Epoch, MemberId),
    /// The control plane removes a node.
    Remove(usize),
    /// Or has one join.
    Join(usize),
    /// Or has the chain in another order.
    Reorder,
}

impl Node {
    fn epochs(&self) -> Vec<(Epoch, Offset)> {
        let mut epochs: Vec<(Epoch, Offset)> = Vec::new();
        for (at, (epoch, _)) in (0..).zip(&self.log) {
            if epochs.last().is_none_or(|(last, _)| last != epoch) {
                epochs.push((*epoch, Offset::new(at)));
            }
        }
        epochs
    }

    /// Has something done to the member, which sees the log.
    fn with<T>(&mut self, what: impl FnOnce(&mut Member, &Extent<'_>) -> T) -> T {
        let epochs = self.epochs();
        let [end, durable] = [self.log.len(), self.durable].map(|at| Offset::new(at as u64));
        what(
            &mut self.member,
            &Extent { start: Offset::ZERO, log_start: Offset::ZERO, end, durable, epochs: &epochs },
        )
    }

    fn is_member(&self) -> bool {
        !matches!(self.member.role(), Role::Joiner | Role::Outside)
    }
}

fn first_life(node: u8) -> MemberId {
    MemberId { node: NodeId::new(u64::from(node)), incarnation: Incarnation::new(1) }
}

fn index(member: MemberId) -> usize {
    member.node.get() as usize
}

impl World {
    fn new(bounds: &Bounds) -> Self {
        let chain = (0..bounds.members).map(first_life).collect();
        let Bounds { min_replicas, .. } = *bounds;
        let control = Configuration { epoch: Epoch::new(1), chain, joining: None, min_replicas };
        let node =
            |number| Node { member: Member::new(first_life(number)), log: vec![], durable: 0 };
        let mut world = Self {
            nodes: (0..bounds.nodes).map(node).collect(),
            control,
            links: BTreeMap::new(),
            ready: BTreeSet::new(),
            committed: Vec::new(),
            broken: None,
            values: 0,
            crashes: 0,
            breaks: 0,
            cut: false,
        };
        for at in 0..world.nodes.len() {
            world.learn(at);
        }
        // The first chain has greeted and welcomed each other.
        while let Some(link) = world.links.keys().next().copied() {
            world.deliver(link);
        }
        world
    }

    fn learn(&mut self, at: usize) {
        let configuration = self.control.clone();
        self.nodes[at].with(|member, log| member.enter(configuration, log));
        self.settle(at);
    }

    /// Does what the node wants, until it wants nothing, and looks at what it claims.
    fn settle(&mut self, at: usize) {
        while let Some(output) = self.nodes[at].with(Member::poll) {
            match output {
                Output::Send { to, message } => self.post(at, to, message, Vec::new()),
                Output::JoinReady { epoch, joiner } => drop(self.ready.insert((epoch, joiner))),
            }
        }
        for side in [Side::Successor, Side::Joiner] {
            let unsent = self.nodes[at].with(|member, log| member.unsent(side, log));
            let Some(range) = unsent else { continue };
            let sent = self.nodes[at].with(|member, log| member.send(side, range.end, log));
            let Some((to, message)) = sent else { continue };
            let [from, end] = [range.start, range.end].map(|offset| offset.get() as usize);
            let entries = self.nodes[at].log[from..end].to_vec();
            self.post(at, to, message, entries);
        }
        self.watch(at);
        self.prune();
    }

    fn post(&mut self, at: usize, to: MemberId, message: Message, entries: Vec<Entry>) {
        let link = (self.nodes[at].member.id(), to, message.epoch(), message.session());
        let queue = self.links.entry(link).or_default();
        // A later report says all that one says which was not sent yet.
        let report = |message: &Message| matches!(message, Message::Commit { .. });
        if report(&message) {
            queue.pop_back_if(|last| report(&last.message));
        }
        queue.push_back(Parcel { message, entries });
    }

    /// What the node shows as committed is what everybody shows there, for ever.
    fn watch(&mut self, at: usize) {
        let node = &self.nodes[at];
        let shown = node.member.high_watermark().get() as usize;
        if !node.is_member() {
            return;
        }
        if shown > node.log.len() {
            self.broken = Some(format!("node {at} shows {shown}, and has {}", node.log.len()));
            return;
        }
        for (offset, entry) in node.log[..shown].iter().enumerate() {
            match self.committed.get(offset) {
                None => self.committed.push(*entry),
                Some(there) if there == entry => {}
                Some(there) => {
                    let text = format!("at {offset} stands {entry:?} and was {there:?}");
                    self.broken = Some(text);
                    return;
                }
            }
        }
    }

    /// What would be ignored for certain, whenever it comes, is forgotten at once.
    fn prune(&mut self) {
        let Self { links, nodes, .. } = self;
        links.retain(|(_, to, epoch, _), queue| {
            let node = &nodes[index(*to)];
            let late = node.member.epoch() > Some(*epoch) && !planted!(OldEpochTaken);
            !queue.is_empty() && node.member.id() == *to && !late
        });
        let epoch = self.control.epoch;
        self.ready.retain(|(of, _)| *of == epoch);
    }

    fn deliver(&mut self, link: Link) -> bool {
        let (from, to, ..) = link;
        let Some(queue) = self.links.get_mut(&link) else { return false };
        let Some(Parcel { message, entries }) = queue.front().cloned() else { return false };
        let at = index(to);
        let taken = self.nodes[at].with(|member, log| member.on_message(from, &message, log));
        match taken {
            // It is held back until its receiver has come so far.
            Err(Ignored::Newer(_)) => return false,
            Err(Ignored::Contradiction { .. }) => {
                self.broken = Some(format!("node {at}: {taken:?} by {message:?}"));
            }
            Err(_) | Ok(None) => {}
            Ok(Some(Effect::Append)) => self.nodes[at].log.extend(&entries),
            Ok(Some(Effect::Cut { keep, .. })) => {
                let keep = keep.get() as usize;
                let node = &mut self.nodes[at];
                self.cut |= keep < node.log.len();
                node.log.truncate(keep);
                node.durable = node.durable.min(keep);
                node.with(Member::on_cut);
            }
        }
        if let Some(queue) = self.links.get_mut(&link) {
            queue.pop_front();
        }
        self.settle(at);
        true
    }

    fn crash(&mut self, at: usize, keeps: bool) {
        let node = &mut self.nodes[at];
        let mut id = node.member.id();
        if !planted!(OldEpochResumed) {
            id.incarnation = Incarnation::new(id.incarnation.get() + 1);
        }
        if !keeps {
            node.log.truncate(node.durable);
        }
        node.durable = node.log.len();
        node.member = Member::new(id);
        if planted!(OldEpochResumed) {
            self.learn(at);
        }
        if let Some(next) = self.control.restarted(id) {
            self.control = next;
        }
        self.prune();
    }
}

impl Model for Bounds {
    type State = World;
    type Action = Event;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, events: &mut Vec<Event>) {
        if world.broken.is_some() {
            return;
        }
        let changes = world.control.epoch.get() < self.epoch;
        for (at, node) in world.nodes.iter().enumerate() {
            let id = node.member.id();
            if node.member.takes_appends() && world.values < self.values {
                events.push(Event::Append(at));
            }
            if node.durable < node.log.len() {
                events.push(Event::Flush(at));
            }
            if Some(world.control.epoch) > node.member.epoch() {
                events.push(Event::Learn(at));
            }
            let linked = !matches!(node.member.role(), Role::Solo | Role::Head | Role::Outside);
            if linked && world.breaks < self.breaks {
                events.push(Event::Break(at));
            }
            if world.crashes < self.crashes && changes {
                events.push(Event::Crash(at, false));
                if node.durable < node.log.len() {
                    events.push(Event::Crash(at, true));
                }
            }
            if !node.member.is_joint() && !node.member.progress(Side::Joiner).is_empty() {
                events.push(Event::Joint(at));
            }
            if changes && world.control.without(id.node).is_some() {
                events.push(Event::Remove(at));
            }
            if changes && self.joins && world.control.with_joining(id).is_some() {
                events.push(Event::Join(at));
            }
        }
        if changes && self.turns && world.control.chain.len() > 1 {
            events.push(Event::Reorder);
        }
        if changes {
            events.extend(world.ready.iter().map(|(epoch, id)| Event::Ready(*epoch, *id)));
        }
        let links = world.links.keys();
        events.extend(links.map(|(from, to, epoch, n)| Event::Deliver(*from, *to, *epoch, *n)));
    }

    fn next_state(&self, before: &World, event: Event) -> Option<World> {
        let mut world = before.clone();
        match event {
            Event::Append(at) => {
                world.values += 1;
                let epoch = world.nodes[at].member.epoch()?;
                world.nodes[at].log.push((epoch, world.values));
                world.settle(at);
            }
            Event::Flush(at) => {
                world.nodes[at].durable = world.nodes[at].log.len();
                world.settle(at);
            }
            Event::Deliver(from, to, epoch, session) => {
                if !world.deliver((from, to, epoch, session)) {
                    return None;
                }
            }
            Event::Break(at) => {
                world.breaks += 1;
                world.nodes[at].member.on_link_lost();
                let before =
                    world.nodes[at].member.configuration()?.predecessor(NodeId::new(at as u64))?;
                for side in [Side::Successor, Side::Joiner] {
                    world.nodes[index(before)].member.on_downlink_lost(side);
                }
                world.settle(at);
            }
            Event::Learn(at) => world.learn(at),
            Event::Crash(at, keeps) => {
                world.crashes += 1;
                world.crash(at, keeps);
            }
            Event::Joint(at) => {
                world.nodes[at].member.on_joiner_close();
                world.settle(at);
            }
            Event::Ready(epoch, joiner) => world.control = world.control.joined(epoch, joiner)?,
            Event::Remove(at) => world.control = world.control.without(NodeId::new(at as u64))?,
            Event::Join(at) => {
                let id = world.nodes[at].member.id();
                world.control = world.control.with_joining(id)?;
            }
            Event::Reorder => {
                let chain = world.control.chain.iter().rev().copied().collect();
                world.control = world.control.reordered(chain)?;
            }
        }
        world.prune();
        (world != *before).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let all_hold = |_: &Bounds, world: &World| {
            world.control.chain.iter().all(|member| {
                let node = &world.nodes[index(*member)];
                let committed = world.committed.len();
                node.durable >= committed && node.log[..committed] == world.committed
            })
        };
        vec![
            Property::always("one batch at an offset, for ever", |_, world: &World| {
                world.broken.is_none()
            }),
            Property::always("every member holds what is committed", all_hold),
            Property::sometimes(COMMITTED_LATER, |_, world: &World| {
                world.committed.iter().any(|(epoch, _)| epoch.get() > 1)
            }),
        ]
    }
}
