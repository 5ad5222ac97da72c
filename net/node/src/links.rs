//! Links to other nodes: one between two cores, over which all partitions speak that both have.
//!
//! The node with the smaller number dials. A link begins with a handshake, and a partition's chain
//! goes over it in sessions: when it breaks, who is behind greets anew.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use catena_format::{Incarnation, NodeId, PartitionUid};
use catena_log::{Batches, Now, Stamp, io::Memory};
use catena_replication::{
    Mend, Parcel, Replica,
    chain::{Configuration, MemberId, Message},
    control::{Entry, NodeProfile},
};
use catena_wire::{
    ErrorCode,
    peer::{
        Admitted, Join, PEER_VERSION, PeerHeader, PeerHello, PeerMessage, PeerThread, PeerWelcome,
        Ping, Pong, RepairRequest, RepairResponse,
    },
};

use crate::{
    cores::FIRST,
    follow::{Beside, core_of},
    node::{Directory, Node, Status},
    spoken::{chain_message, peer_message, stamp, stamps},
    topics::Proposal,
};

/// How often a sign of life is asked for.
const PING_EVERY: Duration = Duration::from_millis(100);
/// After so long without one a link is broken.
const SILENT_AFTER: Duration = Duration::from_millis(500);
/// When who is to be dialled is dialled again.
const DIAL_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// A node without a link to who leads for so long is gone.
const GONE_AFTER: Duration = Duration::from_millis(100);

/// Bytes that may wait for one link: beyond, its partitions say nothing more until some are sent.
const UNSENT_BYTES_MAX: usize = 32 << 20;

/// A connection to another node, never named twice; named by the shell.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkId(pub u64);

/// Another node's core that is to be connected to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dial {
    /// The node.
    pub node: NodeId,
    /// Which of its cores.
    pub core: u16,
    /// Host and port.
    pub address: String,
}

/// Bytes for another node: `bytes` (header and head), then the shares, uncopied.
#[derive(Debug)]
pub struct LinkSend<S> {
    /// Over which link.
    pub link: LinkId,
    /// Header and head.
    pub bytes: Vec<u8>,
    /// The payload.
    pub shares: Vec<S>,
    /// The link ends behind this.
    pub last: bool,
}

/// A core of another node.
#[derive(Default)]
pub(crate) struct Shard {
    /// What both have.
    pub(crate) partitions: BTreeSet<PartitionUid>,
    pub(crate) link: Option<LinkId>,
    dial_at: Option<Duration>,
    /// Since when it runs, in this life, without a link, as far as that was looked at.
    pub(crate) apart: Option<(Incarnation, Duration)>,
}

struct Open {
    /// Bytes that the shell has not sent yet.
    unsent: usize,
    /// What waits until some of them are.
    blocked: BTreeSet<PartitionUid>,
    /// Who was dialled.
    dialled: Option<(NodeId, u16)>,
    /// Who it is, once both sides have said so.
    peer: Option<(MemberId, u16)>,
    heard: Duration,
}

/// The links of a core.
pub(crate) struct Links<S> {
    pub(crate) nodes: BTreeMap<NodeId, Beside>,
    pub(crate) shards: BTreeMap<(NodeId, u16), Shard>,
    open: BTreeMap<LinkId, Open>,
    dials: VecDeque<Dial>,
    sends: VecDeque<LinkSend<S>>,
    next_ping: Duration,
    pub(crate) next_sick: Duration,
    /// Since when a node has no link to this core, or since when that counts.
    away: BTreeMap<NodeId, Duration>,
    /// Who was said to be gone, until that is decided.
    pub(crate) accused: BTreeSet<NodeId>,
}

impl<S> Default for Links<S> {
    fn default() -> Self {
        Self {
            nodes: BTreeMap::new(),
            shards: BTreeMap::new(),
            open: BTreeMap::new(),
            dials: VecDeque::new(),
            sends: VecDeque::new(),
            next_ping: Duration::ZERO,
            next_sick: Duration::ZERO,
            away: BTreeMap::new(),
            accused: BTreeSet::new(),
        }
    }
}

impl<S> Links<S> {
    /// Who is away is so only from now on.
    pub(crate) fn forgive(&mut self, now: Now) {
        self.away.values_mut().for_each(|since| *since = now.monotonic);
    }

    /// Whether a later life of a node is known.
    fn is_over(&self, member: MemberId) -> bool {
        let known = self.nodes.get(&member.node);
        known.is_some_and(|known| member.incarnation < known.member.incarnation)
    }

    /// Ends all: this node goes on as another.
    pub(crate) fn hang_up_all(&mut self) {
        let links: Vec<_> = self.open.keys().copied().collect();
        links.into_iter().for_each(|link| self.hang_up(link));
    }

    fn linked(&self, node: NodeId, core: u16) -> Option<(LinkId, MemberId)> {
        let link = self.shards.get(&(node, core))?.link?;
        let (member, _) = self.open.get(&link)?.peer?;
        Some((link, member))
    }

    fn post(&mut self, link: LinkId, bytes: Vec<u8>, shares: Vec<S>, size: usize) {
        if let Some(open) = self.open.get_mut(&link) {
            open.unsent += size;
        }
        self.sends.push_back(LinkSend { link, bytes, shares, last: false });
    }

    /// Sends a message about no partition; they all are short.
    fn say(&mut self, link: LinkId, message: &PeerMessage<'_>, last: bool) {
        let mut bytes = Vec::new();
        let said = message.encode(PartitionUid::default(), &[] as &[&[u8]], &mut bytes);
        debug_assert!(said.is_ok(), "{said:?}");
        self.sends.push_back(LinkSend { link, bytes, shares: Vec::new(), last });
    }

    fn hang_up(&mut self, link: LinkId) {
        self.sends.push_back(LinkSend { link, bytes: Vec::new(), shares: Vec::new(), last: true });
    }
}

impl<M: Memory + Clone> Node<M> {
    /// The next core of another node to connect to; [`Node::on_link`] or [`Node::on_no_link`]
    /// follows.
    pub fn poll_dial(&mut self) -> Option<Dial> {
        self.links.dials.pop_front()
    }

    /// The next bytes for another node.
    pub fn poll_link_send(&mut self) -> Option<LinkSend<M::Share>> {
        self.links.sends.pop_front()
    }

    /// A connection to another node stands; `dialled`: it was asked for by [`Node::poll_dial`].
    pub fn on_link(&mut self, link: LinkId, dialled: Option<(NodeId, u16)>, now: Now) {
        self.links.open.insert(
            link,
            Open { unsent: 0, blocked: BTreeSet::new(), dialled, peer: None, heard: now.monotonic },
        );
        let Some((node, _)) = dialled else { return };
        if !self.links.nodes.contains_key(&node) {
            return self.links.hang_up(link);
        }
        let hello = PeerHello {
            cluster: self.identity.cluster,
            to_node: node,
            to_incarnation: Incarnation::default(),
            node: self.identity.node,
            incarnation: self.incarnation,
            thread: PeerThread::Core(self.core),
            cores: self.cores,
            version_min: PEER_VERSION,
            version_max: PEER_VERSION,
            features: 0,
            software: software(),
        };
        self.links.say(link, &PeerMessage::Hello(hello), false);
    }

    /// Nobody answers there.
    pub fn on_no_link(&mut self, node: NodeId, core: u16, now: Now) {
        if let Some(shard) = self.links.shards.get_mut(&(node, core)) {
            shard.dial_at = Some(now.monotonic + DIAL_AGAIN_AFTER);
        }
    }

    /// A connection is gone: what was on its way may not have come.
    pub fn on_link_lost(&mut self, link: LinkId, now: Now) {
        let Some(Open { dialled, peer, blocked, .. }) = self.links.open.remove(&link) else {
            return;
        };
        self.dirty.extend(blocked.into_iter().map(Directory::Partition));
        let shard = peer.map(|(member, core)| (member.node, core)).or(dialled);
        let Some(shard) = shard else { return };
        let Some(known) = self.links.shards.get_mut(&shard) else { return };
        // Another may have taken its place.
        if known.link.is_some_and(|present| present != link) {
            return;
        }
        known.link = None;
        if self.identity.node < shard.0 {
            known.dial_at = Some(now.monotonic + DIAL_AGAIN_AFTER);
        }
        let Some((member, core)) = peer else { return };
        if core == FIRST {
            self.links.away.insert(member.node, now.monotonic);
        }
        self.begin_sessions(member, core, now);
    }

    /// Whatever was said to a core of another node may be lost: it is said in a new session.
    fn begin_sessions(&mut self, member: MemberId, core: u16, now: Now) {
        let shard = self.links.shards.get(&(member.node, core));
        let partitions: Vec<_> =
            shard.map(|shard| shard.partitions.iter().copied().collect()).unwrap_or_default();
        for uid in partitions {
            let Some(held) = self.held.get_mut(&uid) else { continue };
            held.replica.on_unlinked(member, now);
            self.dirty.insert(Directory::Partition(uid));
            self.replica_events(uid, now);
        }
    }

    /// Some bytes have come over a link: it is not silent.
    pub fn on_link_heard(&mut self, link: LinkId, now: Now) {
        if let Some(open) = self.links.open.get_mut(&link) {
            open.heard = now.monotonic;
        }
    }

    /// So many bytes of what [`Node::poll_link_send`] gave were sent; whether somebody waited for
    /// that.
    pub fn on_link_sent(&mut self, link: LinkId, bytes: usize) -> bool {
        let Some(open) = self.links.open.get_mut(&link) else { return false };
        open.unsent = open.unsent.saturating_sub(bytes);
        if open.unsent > UNSENT_BYTES_MAX / 2 || open.blocked.is_empty() {
            return false;
        }
        let blocked = std::mem::take(&mut open.blocked);
        self.dirty.extend(blocked.into_iter().map(Directory::Partition));
        true
    }

    /// Whether a link to somebody beside a partition has as much to send as it may; then the
    /// partition is woken when it has less.
    fn is_blocked(&mut self, uid: PartitionUid) -> bool {
        let Some(held) = self.held.get_mut(&uid) else { return false };
        let neighbours = std::mem::take(&mut held.neighbours);
        let mut blocked = false;
        for node in neighbours.iter().copied() {
            let linked = self.links.linked(node, self.core_there(node, uid));
            let open = linked.and_then(|(link, _)| self.links.open.get_mut(&link));
            if let Some(open) = open.filter(|open| open.unsent >= UNSENT_BYTES_MAX) {
                open.blocked.insert(uid);
                blocked = true;
            }
        }
        if let Some(held) = self.held.get_mut(&uid) {
            held.neighbours = neighbours;
        }
        blocked
    }

    /// A whole message has come over a link.
    pub fn on_link_message(
        &mut self,
        link: LinkId,
        header: &PeerHeader,
        head: &[u8],
        payload: &[u8],
        now: Now,
    ) {
        let Some(open) = self.links.open.get_mut(&link) else { return };
        open.heard = now.monotonic;
        let peer = open.peer;
        let Ok(message) = header.decode(head, payload) else {
            return self.links.hang_up(link);
        };
        match (message, peer) {
            (PeerMessage::Hello(hello), None) => self.greeted(link, &hello, now),
            (PeerMessage::Join(join), None) => self.join(link, join, now),
            (PeerMessage::Welcome(welcome), None) => self.welcomed(link, &welcome, now),
            (PeerMessage::Ping(Ping { time }), Some(_)) => {
                self.links.say(link, &PeerMessage::Pong(Pong { time }), false);
            }
            (PeerMessage::Pong(_) | PeerMessage::Fenced(_), Some(_)) => {}
            (PeerMessage::RepairRequest(wanted), Some((from, _))) => {
                let RepairRequest { from: first, to } = wanted;
                self.with_replica(header.partition, now, |replica| {
                    replica.on_asked(from, first..to, now);
                });
            }
            (PeerMessage::RepairResponse(RepairResponse { from: first, stamps, .. }), Some(by)) => {
                let stamps: Vec<_> = stamps.into_iter().map(stamp).collect();
                self.with_replica(header.partition, now, |replica| {
                    replica.on_given(by.0, first, &stamps, payload, now);
                });
            }
            (message, Some((from, _))) => match chain_message(message, header.partition) {
                Some((uid, message, stamps)) => {
                    self.heard(uid, from, message, &stamps, payload, now);
                }
                None => self.links.hang_up(link),
            },
            // Nobody has said who it is.
            (_, None) => self.links.hang_up(link),
        }
    }

    fn heard(
        &mut self,
        uid: PartitionUid,
        from: MemberId,
        message: Message,
        stamps: &[Stamp],
        payload: &[u8],
        now: Now,
    ) {
        self.with_replica(uid, now, |replica| {
            let _ = replica.on_peer(from, message, stamps, payload, now);
        });
    }

    /// Tells a replica something. Of one that is not known here yet: it is said again.
    pub(crate) fn with_replica(
        &mut self,
        uid: PartitionUid,
        now: Now,
        tell: impl FnOnce(&mut Replica<M>),
    ) {
        let Some(held) = self.held.get_mut(&uid) else { return };
        tell(&mut held.replica);
        self.dirty.insert(Directory::Partition(uid));
        self.replica_events(uid, now);
    }

    /// Somebody has dialled.
    fn greeted(&mut self, link: LinkId, hello: &PeerHello<'_>, now: Now) {
        let known = self.links.nodes.get(&hello.node).map(|beside| beside.member.incarnation);
        let PeerThread::Core(core) = hello.thread else { return self.links.hang_up(link) };
        let version = hello.common_version();
        let error = if hello.cluster != self.identity.cluster {
            ErrorCode::WrongCluster
        } else if hello.to_node != self.identity.node {
            ErrorCode::WrongNode
        } else if known.is_none() {
            ErrorCode::UnknownNode
        } else if known.is_some_and(|known| hello.incarnation < known) {
            ErrorCode::OlderIncarnation
        } else if version.is_none() {
            ErrorCode::UnsupportedVersion
        } else {
            ErrorCode::None
        };
        let welcome = PeerWelcome {
            error,
            cluster: self.identity.cluster,
            node: self.identity.node,
            incarnation: self.incarnation,
            thread: PeerThread::Core(self.core),
            cores: self.cores,
            version_min: PEER_VERSION,
            version_max: PEER_VERSION,
            version: version.filter(|_| error == ErrorCode::None).unwrap_or(0),
            features: 0,
            software: software(),
            message: error.to_string().into(),
        };
        self.links.say(link, &PeerMessage::Welcome(welcome), error != ErrorCode::None);
        if error == ErrorCode::None {
            let member = MemberId { node: hello.node, incarnation: hello.incarnation };
            self.link_stands(link, member, core, now);
        }
    }

    /// A process wants to become a node.
    fn join(&mut self, link: LinkId, join: Join<'_>, now: Now) {
        let (nobody, serves) = (NodeId::default(), self.status == Status::Serving);
        if self.core != FIRST || self.follower.is_none() || !serves {
            let text = "the node does not serve yet";
            return self.admitted(link, nobody, ErrorCode::Starting, text);
        }
        let entry = Entry::AdmitNode {
            token: join.token.get(),
            time: now.wall.get(),
            life: join.life,
            profile: Box::new(NodeProfile {
                client: join.client.into_owned(),
                peer: join.peer.into_owned(),
                rack: join.rack.into_owned(),
                cores: join.cores,
                witness: join.witness,
            }),
        };
        if let Err(error) = self.submit_to_cluster(Proposal::Admit(link), &entry) {
            self.admitted(link, nobody, ErrorCode::Throttled, &error.to_string());
        }
    }

    /// Tells a process its number, or why it has none.
    pub(crate) fn admitted(&mut self, link: LinkId, node: NodeId, error: ErrorCode, text: &str) {
        let (cluster, message) = (self.identity.cluster, text.into());
        let admitted = Admitted { error, cluster, node, message };
        if self.links.open.contains_key(&link) {
            self.links.say(link, &PeerMessage::Admitted(admitted), true);
        }
    }

    /// Who was dialled has answered.
    fn welcomed(&mut self, link: LinkId, welcome: &PeerWelcome<'_>, now: Now) {
        let dialled = self.links.open.get(&link).and_then(|open| open.dialled);
        let expected = dialled.is_some_and(|(node, core)| {
            welcome.node == node && welcome.thread == PeerThread::Core(core)
        });
        if welcome.error != ErrorCode::None || !expected {
            return self.links.hang_up(link);
        }
        let member = MemberId { node: welcome.node, incarnation: welcome.incarnation };
        if self.links.is_over(member) {
            return self.links.hang_up(link);
        }
        let PeerThread::Core(core) = welcome.thread else { return };
        self.link_stands(link, member, core, now);
    }

    fn link_stands(&mut self, link: LinkId, member: MemberId, core: u16, now: Now) {
        if let Some(open) = self.links.open.get_mut(&link) {
            open.peer = Some((member, core));
        }
        let shard = self.links.shards.entry((member.node, core)).or_default();
        shard.dial_at = None;
        if let Some(before) = shard.link.replace(link) {
            self.links.hang_up(before);
        }
        if core == FIRST {
            self.links.away.remove(&member.node);
        }
        self.begin_sessions(member, core, now);
    }

    /// Who is beside a partition of this core in its chain: it needs a link to each.
    pub(crate) fn beside(&mut self, uid: PartitionUid, chain: &Configuration, me: MemberId) {
        let node = me.node;
        let within = chain.role(me) != catena_replication::chain::Role::Outside;
        let joiner = chain.joining.filter(|_| chain.is_tail(node));
        let beside = [chain.predecessor(node), chain.successor(node), joiner];
        let beside = beside.into_iter().flatten().filter(|_| within).map(|member| member.node);
        let beside: Vec<NodeId> = beside.collect();
        let Some(held) = self.held.get_mut(&uid) else { return };
        let before = std::mem::replace(&mut held.neighbours, beside.clone());
        for node in before.into_iter().filter(|node| !beside.contains(node)) {
            let shard = (node, self.core_there(node, uid));
            if let Some(shard) = self.links.shards.get_mut(&shard) {
                shard.partitions.remove(&uid);
            }
        }
        for node in beside {
            let shard = (node, self.core_there(node, uid));
            self.links.shards.entry(shard).or_default().partitions.insert(uid);
            self.want(shard);
        }
    }

    /// A partition is gone.
    pub(crate) fn nobody_beside(&mut self, uid: PartitionUid) {
        self.links.shards.values_mut().for_each(|shard| {
            shard.partitions.remove(&uid);
        });
    }

    fn core_there(&self, node: NodeId, uid: PartitionUid) -> u16 {
        core_of(uid, self.links.nodes.get(&node).map_or(1, |beside| beside.profile.cores))
    }

    /// A link is needed: the smaller node dials.
    fn want(&mut self, (node, core): (NodeId, u16)) {
        let shard = self.links.shards.entry((node, core)).or_default();
        let dials = self.identity.node < node && shard.link.is_none() && shard.dial_at.is_none();
        // Who is not there says so when it is.
        let needed = !shard.partitions.is_empty() || (self.core, core) == (FIRST, FIRST);
        let dials = dials && needed;
        if let Some(beside) = self.links.nodes.get(&node).filter(|beside| dials && beside.up) {
            // Until the shell has told what became of it.
            shard.dial_at = Some(Duration::MAX);
            let address = beside.profile.peer.clone();
            self.links.dials.push_back(Dial { node, core, address });
        }
    }

    /// Takes note of the nodes of the cluster; the first cores of all are linked.
    pub(crate) fn take_nodes(&mut self, nodes: Vec<Beside>) {
        let nodes: BTreeMap<_, _> = nodes.into_iter().map(|n| (n.member.node, n)).collect();
        let before = std::mem::replace(&mut self.links.nodes, nodes);
        // Who has begun another life has not been away in it.
        let same = |node: &NodeId| {
            let [then, now] = [before.get(node), self.links.nodes.get(node)];
            let life = |beside: &Beside| (beside.member.incarnation, beside.up);
            then.map(life) == now.map(life)
        };
        self.links.away.retain(|node, _| same(node));
        self.place_anew();
        // A link is between two lives: of one that is over nothing more is heard.
        let over = |open: &Open| {
            let peer = open.peer.map(|(member, _)| member);
            peer.is_some_and(|peer| self.links.is_over(peer))
        };
        let over = self.links.open.iter().filter(|(_, open)| over(open));
        for link in over.map(|(link, _)| *link).collect::<Vec<_>>() {
            self.links.hang_up(link);
        }
        let others = self.links.nodes.keys().copied().filter(|id| *id != self.identity.node);
        let first = others.filter(|_| self.core == FIRST).map(|node| (node, FIRST));
        let wanted: BTreeSet<_> = self.links.shards.keys().copied().chain(first).collect();
        wanted.into_iter().for_each(|shard| self.want(shard));
    }

    /// A node that has started anew may have another number of cores: its partitions are on others.
    fn place_anew(&mut self) {
        let shards = self.links.shards.iter();
        let all = shards.flat_map(|(at, shard)| shard.partitions.iter().map(|uid| (*at, *uid)));
        let moved = all.filter(|((node, core), uid)| self.core_there(*node, *uid) != *core);
        for ((node, core), uid) in moved.collect::<Vec<_>>() {
            let there = self.core_there(node, uid);
            self.links.shards.entry((node, core)).or_default().partitions.remove(&uid);
            self.links.shards.entry((node, there)).or_default().partitions.insert(uid);
        }
    }

    /// Does what time brings to links.
    pub(crate) fn tend_links(&mut self, now: Now) {
        if self.links.shards.is_empty() && self.links.open.is_empty() {
            return;
        }
        let due = |shard: &Shard| shard.dial_at.is_some_and(|at| at <= now.monotonic);
        let due = self.links.shards.iter().filter(|(_, shard)| due(shard));
        for shard in due.map(|(shard, _)| *shard).collect::<Vec<_>>() {
            if let Some(known) = self.links.shards.get_mut(&shard) {
                known.dial_at = None;
            }
            self.want(shard);
        }
        if now.monotonic >= self.links.next_ping {
            self.links.next_ping = now.monotonic + PING_EVERY;
            self.ping(now);
            self.tell_cut_off(now);
        }
        self.tell_gone(now);
    }

    fn ping(&mut self, now: Now) {
        let time = u64::try_from(now.monotonic.as_nanos()).unwrap_or(u64::MAX);
        let links: Vec<_> = self.links.open.iter().map(|(id, open)| (*id, open.heard)).collect();
        for (link, heard) in links {
            if heard + SILENT_AFTER <= now.monotonic {
                self.links.hang_up(link);
            } else if self.links.open.get(&link).is_some_and(|open| open.peer.is_some()) {
                self.links.say(link, &PeerMessage::Ping(Ping { time }), false);
            }
        }
    }

    /// Of the node that leads: who has no link to it any more, and did not come back at once, is
    /// gone.
    fn tell_gone(&mut self, now: Now) {
        if !self.accuses() {
            return;
        }
        let up = self.links.nodes.values().filter(|beside| beside.up);
        let others: Vec<_> =
            up.map(|beside| beside.member).filter(|m| m.node != self.identity.node).collect();
        for MemberId { node, incarnation } in others {
            if self.links.linked(node, FIRST).is_some() {
                continue;
            }
            let since = *self.links.away.entry(node).or_insert(now.monotonic);
            if since + GONE_AFTER <= now.monotonic && self.links.accused.insert(node) {
                let (node, incarnation) = (node.get(), incarnation.get());
                let entry = Entry::NodeDown { node, incarnation };
                let proposal = Proposal::NodeDown(NodeId::new(node));
                if self.submit_to_cluster(proposal, &entry).is_err() {
                    self.links.accused.remove(&NodeId::new(node));
                }
            }
        }
    }

    /// Whether it is this node that says who is gone.
    fn accuses(&self) -> bool {
        let leads = self.follower.as_ref().is_some_and(|follower| follower.leads);
        leads && self.status == Status::Serving
    }

    /// When [`Node::on_tick`] has something to do about links, if ever.
    pub(crate) fn next_link_tick(&self) -> Option<Duration> {
        if self.links.shards.is_empty() && self.links.open.is_empty() {
            return None;
        }
        let dials = self.links.shards.values().filter_map(|shard| shard.dial_at).min();
        let accusable = |node: &NodeId| {
            !self.links.accused.contains(node) && self.links.nodes.get(node).is_some_and(|n| n.up)
        };
        let away = self.links.away.iter().filter(|(node, _)| accusable(node));
        let gone = away.map(|(_, since)| *since + GONE_AFTER).min();
        let gone = gone.filter(|_| self.accuses());
        [Some(self.links.next_ping), dials, gone].into_iter().flatten().min()
    }

    /// Sends what a partition has for its neighbours; whether there was anything.
    pub(crate) fn speak(&mut self, directory: Directory) -> bool {
        let Directory::Partition(uid) = directory else { return false };
        let mut any = false;
        loop {
            let Some(held) = self.held.get(&uid) else { return any };
            if held.neighbours.is_empty() || self.is_blocked(uid) {
                return any;
            }
            let Some(held) = self.held.get_mut(&uid) else { return any };
            if let Some(parcel) = held.replica.poll_parcel() {
                let Parcel { to, message, batches, fold } = parcel;
                let message = peer_message(message, &batches, &fold);
                self.send_to_neighbour(uid, to, message, batches, &fold);
            } else if let Some(mend) = held.replica.poll_mend() {
                self.send_mend(uid, mend);
            } else {
                return any;
            }
            any = true;
        }
    }

    fn send_mend(&mut self, uid: PartitionUid, mend: Mend<M::Share>) {
        let (to, message, batches) = match mend {
            Mend::Ask { to, offsets } => {
                let wanted = RepairRequest { from: offsets.start, to: offsets.end };
                (to, Some(PeerMessage::RepairRequest(wanted)), Batches::empty(offsets.start))
            }
            Mend::Give { to, from, batches } => {
                let next = batches.next;
                let given = |stamps| RepairResponse { from, to: next, stamps };
                (to, stamps(&batches).map(given).map(PeerMessage::RepairResponse), batches)
            }
        };
        self.send_to_neighbour(uid, to, message, batches, &[]);
    }

    fn send_to_neighbour(
        &mut self,
        uid: PartitionUid,
        to: MemberId,
        message: Option<PeerMessage<'_>>,
        batches: Batches<M::Share>,
        fold: &[u8],
    ) {
        let core = self.core_there(to.node, uid);
        // Without a link, or to another life, it is lost: a session begins when one stands.
        let Some((link, _)) = self.links.linked(to.node, core).filter(|(_, m)| *m == to) else {
            return;
        };
        let mut bytes = Vec::new();
        let said = message.map(|message| match fold.is_empty() {
            true => message.encode(uid, &batches.shares, &mut bytes),
            false => message.encode(uid, &[fold], &mut bytes),
        });
        match said {
            Some(Ok(())) => {
                bytes.extend_from_slice(fold);
                let size = bytes.len() + batches.bytes;
                self.links.post(link, bytes, batches.shares, size);
            }
            // What is too long for a message never gets there; the link must not stand for that.
            Some(Err(_)) | None => self.links.hang_up(link),
        }
    }

    /// The link to a neighbour is to begin anew.
    pub(crate) fn unlink(&mut self, uid: PartitionUid, peer: MemberId) {
        let core = self.core_there(peer.node, uid);
        if let Some((link, _)) = self.links.linked(peer.node, core).filter(|(_, m)| *m == peer) {
            self.links.hang_up(link);
        }
    }
}

fn software() -> std::borrow::Cow<'static, str> {
    concat!("catena ", env!("CARGO_PKG_VERSION")).into()
}
