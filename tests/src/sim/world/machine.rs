//! A node and the machine that it runs on: its disk, its memory, and what is known of both.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use catena_format::{ClusterId, NodeId, Offset, PartitionUid};
use catena_log::{
    Now,
    io::{Done, FileName, Op, OpId, Purse},
};
use catena_node::{Limits, Node, NodeIdentity, Post, Status};
use catena_replication::{Phase, Replica, control::NodeProfile};

use super::{directory_of, peril::Peril};
use crate::sim::{disk::Disk, oracle::Shelf, random::Random};

/// The most cores that a node has.
const CORES_MAX: u64 = 3;

pub(super) struct Machine {
    number: usize,
    identity: NodeIdentity,
    /// The lives that its directory knows of, if it is one of several nodes.
    lives: Option<Vec<u64>>,
    pub(super) disk: Disk,
    /// Memory of each core.
    pub(super) purses: Vec<Purse>,
    /// The cores of the node; how many, each life decides anew.
    pub(super) cores: Vec<Node<Purse>>,
    /// Which core works on a directory.
    pub(super) owners: BTreeMap<u64, usize>,
    pub(super) life: u64,
    pub(super) founded: bool,
    /// Deleted partitions whose files go once nothing is under way in them.
    pub(super) removals: BTreeSet<u64>,
    /// In this life what deleted partitions left was looked for.
    pub(super) swept: bool,
    /// Where logs ended as the life before was ended, and what its catalog named.
    pub(super) stopped: BTreeMap<PartitionUid, Offset>,
    pub(super) known: Option<BTreeSet<PartitionUid>>,
    /// What the disk was asked to hold.
    pub(super) shelf: Shelf,
    /// What the node has said of its disk, and what is not so.
    pub(super) slander: Option<String>,
    pub(super) next_crash_ns: u64,
    /// Its process stands still until then.
    pub(super) frozen_until_ns: u64,
    pub(super) peril: Peril,
    /// Manifests of earlier lives, by directory.
    pub(super) older: BTreeMap<u64, Vec<u8>>,
    /// Indexes and copies of manifests of earlier lives.
    pub(super) past: BTreeMap<(u64, FileName), Vec<u8>>,
    /// The partition that lost both copies of its manifest.
    pub(super) refused: Option<PartitionUid>,
}

impl Machine {
    /// The machine of the node of that number, with so much memory for each core, before its first
    /// life.
    pub(super) fn new(number: u16, alone: bool, disk: Disk, peril: Peril) -> Self {
        let identity =
            NodeIdentity { cluster: ClusterId::new(77), node: NodeId::new(u64::from(number) + 1) };
        Self {
            number: usize::from(number),
            identity,
            lives: (!alone).then(|| vec![first_life(usize::from(number))]),
            disk,
            purses: Vec::new(),
            cores: Vec::new(),
            owners: BTreeMap::new(),
            life: 0,
            founded: false,
            removals: BTreeSet::new(),
            swept: false,
            stopped: BTreeMap::new(),
            known: None,
            shelf: Shelf::default(),
            slander: None,
            next_crash_ns: 0,
            frozen_until_ns: 0,
            peril,
            older: BTreeMap::new(),
            past: BTreeMap::new(),
            refused: None,
        }
    }

    pub(super) fn id(&self) -> NodeId {
        self.identity.node
    }

    /// There are no other nodes.
    pub(super) fn is_alone(&self) -> bool {
        self.lives.is_none()
    }

    /// No process of it runs.
    pub(super) fn is_down(&self) -> bool {
        self.cores.is_empty()
    }

    /// How its process stands, if one runs.
    pub(super) fn status(&self) -> Option<Status> {
        self.cores.first().map(Node::status)
    }

    /// A process begins, of one to three cores; nothing is left of the one before.
    pub(super) fn boot(&mut self, budget: usize, random: &mut Random) {
        let limits = Limits {
            tail_cache_bytes: 64 << 10,
            catalog_segment_bytes: 64 << 10,
            push_bytes_core_max: 20_000,
            scrub_rate: [0, 16 << 20, 1 << 30][random.below(3) as usize],
            ..Limits::default()
        };
        let cores = 1 + random.below(CORES_MAX) as u16;
        let first = match &mut self.lives {
            None => Post::First { create: !self.founded, cores },
            Some(lives) => {
                let (life, known) = ((1000 + self.life) << 16, lives.clone());
                lives.push(life);
                let profile = profile(self.number, cores);
                Post::Member { cores, life, known, profile }
            }
        };
        let further = (1..cores).map(|core| Post::Further { core, cores });
        let posts = std::iter::once(first).chain(further);
        self.purses = (0..cores).map(|_| Purse::new(budget)).collect();
        let own = posts.zip(&self.purses);
        let node =
            |(post, purse): (Post, &Purse)| Node::new(self.identity, limits, post, purse.clone());
        self.cores = own.map(node).collect();
        self.removals.clear();
        self.frozen_until_ns = 0;
        self.swept = false;
        self.owners.clear();
    }

    /// Its process is gone, for a while.
    pub(super) fn fall(&mut self, now_ns: u64, random: &mut Random) {
        self.cores.clear();
        let longest_ns = match random.below(10) {
            0..5 => 20_000_000,
            5..8 => 300_000_000,
            _ => 1_500_000_000,
        };
        self.next_crash_ns = now_ns + 1_000_000 + random.below(longest_ns);
    }

    pub(super) fn replicas(&self) -> impl Iterator<Item = &Replica<Purse>> {
        self.cores.iter().flat_map(Node::replicas)
    }

    /// All of its partitions are open, but for the one whose manifest is gone.
    pub(super) fn is_open(&self) -> bool {
        if self.is_down() {
            return false;
        }
        let open = self.replicas().all(|r| r.phase() == Phase::Open || self.is_refused(r));
        open && self.cores.iter().all(|core| core.status() == Status::Serving)
    }

    /// When its disk or its process does something next.
    pub(super) fn next_ns(&self) -> Option<u64> {
        let tick = self.cores.iter().filter_map(Node::next_tick).min();
        let tick = tick.map(|at| at.as_nanos() as u64);
        let next = [self.disk.next_event(), tick].into_iter().flatten().min();
        next.map(|at| at.max(self.frozen_until_ns))
    }

    pub(super) fn is_frozen(&self, now_ns: u64) -> bool {
        now_ns < self.frozen_until_ns
    }

    /// The next operation that has ended, if its process can hear of it.
    pub(super) fn poll_done(&mut self, now_ns: u64) -> Option<(u64, OpId, Done<Bytes>)> {
        if self.is_frozen(now_ns) { None } else { self.disk.poll_done(now_ns) }
    }

    /// The core that works on a directory hears how its operation ended.
    pub(super) fn on_done(&mut self, (key, _, done): (u64, OpId, Done<Bytes>), now: Now) {
        self.cores[self.owners[&key]].on_done(directory_of(key), done, now);
    }

    /// Removes the files of deleted partitions once nothing is under way in them.
    pub(super) fn remove(&mut self, now_ns: u64) {
        self.disk.remove_idle(now_ns, &mut self.removals);
    }

    /// The directories with a file that does not hold what was written.
    pub(super) fn wounds(&self) -> BTreeSet<u64> {
        self.disk.damages().into_iter().map(|wound| wound.directory).collect()
    }

    /// Of a partition that was deleted no file is left. Of several nodes those stay until the next
    /// start whose copy was moved.
    pub(super) fn check_files(&self) -> Result<(), String> {
        if self.is_down() || !self.is_alone() {
            return Ok(());
        }
        let known = self.cores[0].known();
        let uids = self.disk.directories().filter(|uid| *uid != 0);
        for uid in uids.filter(|uid| !known.contains(&PartitionUid::new(*uid))) {
            if let Some(file) = self.disk.live_files(uid).next() {
                return Err(format!("{file} of deleted partition {uid} is left"));
            }
        }
        Ok(())
    }
}

/// The life in which a node of several has joined.
pub(super) fn first_life(number: usize) -> u64 {
    (number as u64 + 1) << 16
}

/// What a node of several says of itself.
pub(super) fn profile(number: usize, cores: u16) -> NodeProfile {
    let (client, peer) = (format!("client{number}:1"), format!("peer{number}:1"));
    NodeProfile { client, peer, rack: String::new(), cores, witness: false }
}

/// What the disk and the oracle hold takes no memory of the node.
pub(super) fn on_the_disk(op: Op<Bytes>) -> Op<Bytes> {
    match op {
        Op::Write { file, position, bytes, durable } => {
            Op::Write { file, position, bytes: Bytes::copy_from_slice(&bytes), durable }
        }
        op => op,
    }
}
