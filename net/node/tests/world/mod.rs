//! Nodes of a cluster on files in memory: consensus is a list, and links carry what is sent at
//! once.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use catena_format::{
    ClusterId, Millis, NodeId, Offset, PartitionIndex, ProducerEpoch, ProducerId, Sequence,
    TopicId,
    records::{BatchBuilder, Producer},
};
use catena_log::{
    Fold, Now,
    io::{Done, Op, OpId, Purse},
};
use catena_node::{Dial, Directory, Limits, LinkId, Node, NodeIdentity, Ordered, Parcel, Post};
use catena_replication::control::{Catalog, Entry, NodeProfile, encode};
use catena_wire::{
    Api, CreateTopicRequest, Durability, ErrorCode, FRAME_HEADER_BYTES, FetchRequest,
    FetchResponse, FrameHeader, FrameLimits, Message, MetadataRequest, MetadataResponse,
    PartitionMetadata, ProduceRequest, ProduceResponse, limits::PEER_HEADER_BYTES,
    peer::PeerHeader,
};

use crate::common::{Files, SESSION, Share, hello, perform};

pub(crate) const CORES: u16 = 2;
/// From dialling to a connection that stands.
pub(crate) const DIAL_TAKES: Duration = Duration::from_millis(15);

/// A process and its disk.
pub(crate) struct Machine {
    pub(crate) cores: Vec<Node<Purse>>,
    /// With how many it begins.
    pub(crate) count: u16,
    pub(crate) files: Files,
    pub(crate) up: bool,
    /// Its disk does nothing for now.
    pub(crate) stuck: bool,
    /// Nothing is heard of the list, and nothing gets there.
    pub(crate) deaf: bool,
    /// What its cores have asked it for.
    pub(crate) ops: VecDeque<(usize, Directory, OpId, Op<Share>)>,
    pub(crate) life: u64,
    /// What its disk knows of.
    pub(crate) lives: Vec<u64>,
    /// How much of the list it has heard.
    pub(crate) heard: usize,
    pub(crate) parcels: VecDeque<(u16, u16, Parcel)>,
    pub(crate) answers: BTreeMap<u32, (Vec<u8>, Vec<u8>)>,
}

/// One end of a link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct End {
    pub(crate) machine: usize,
    pub(crate) core: u16,
    pub(crate) link: LinkId,
}

/// Who proposed an entry: a machine, in one of its lives, under a number.
pub(crate) type Proposer = (usize, u64, u64);

pub(crate) struct World {
    pub(crate) machines: Vec<Machine>,
    pub(crate) founding: Vec<u8>,
    /// Entries in their order.
    pub(crate) list: Vec<(Vec<u8>, Option<Proposer>)>,
    pub(crate) leader: usize,
    pub(crate) links: BTreeMap<End, End>,
    /// Who is dialled from where, and when it stands.
    pub(crate) dials: VecDeque<(Duration, usize, u16, Dial)>,
    /// From whom to whom no connection comes about.
    pub(crate) unreachable: BTreeSet<(usize, usize)>,
    /// What has left a process that has not heard so, and whether it does not for now.
    pub(crate) owed: Vec<(End, usize)>,
    pub(crate) stuffed: bool,
    pub(crate) numbers: u64,
    pub(crate) clock: Duration,
    pub(crate) correlation: u32,
}

pub(crate) fn profile(node: usize) -> NodeProfile {
    let (client, peer) = (format!("client{node}:1"), format!("peer{node}:1"));
    NodeProfile { client, peer, rack: String::new(), cores: CORES, witness: false }
}

pub(crate) fn id(machine: usize) -> NodeId {
    NodeId::new(machine as u64 + 1)
}

impl World {
    pub(crate) fn new(nodes: usize) -> Self {
        let mut catalog = Catalog::default();
        catalog.found(id(0), 1 << 16, profile(0));
        catalog.apply(&Entry::AllowJoin { token: 1, time: 0, until: 1 }).unwrap();
        let admitted = (1..nodes).map(|node| {
            let (life, profile) = ((10 + node as u64) << 16, Box::new(profile(node)));
            (encode(&Entry::AdmitNode { token: 1, time: 0, life, profile }), None)
        });
        let machine = |node: usize| Machine {
            lives: vec![if node == 0 { 1 << 16 } else { (10 + node as u64) << 16 }],
            cores: Vec::new(),
            count: CORES,
            files: Files::new(),
            up: false,
            stuck: false,
            deaf: false,
            ops: VecDeque::new(),
            life: 0,
            heard: 0,
            parcels: VecDeque::new(),
            answers: BTreeMap::new(),
        };
        let mut world = Self {
            machines: (0..nodes).map(machine).collect(),
            founding: catalog.snapshot(),
            list: admitted.collect(),
            leader: 0,
            links: BTreeMap::new(),
            dials: VecDeque::new(),
            unreachable: BTreeSet::new(),
            owed: Vec::new(),
            stuffed: false,
            numbers: 0,
            clock: Duration::from_secs(1),
            correlation: 0,
        };
        (0..nodes).for_each(|node| world.start(node));
        world
    }

    pub(crate) fn now(&self) -> Now {
        let wall = Millis::new(1_000_000 + self.clock.as_millis() as i64);
        Now { wall, monotonic: self.clock }
    }

    /// A process begins on its disk.
    pub(crate) fn begin(&mut self, at: usize) {
        self.numbers += 1;
        let life = (1000 + self.numbers) << 16;
        let known = self.machines[at].lives.clone();
        self.machines[at].lives.push(life);
        let identity = NodeIdentity { cluster: ClusterId::new(7), node: id(at) };
        let memory = Purse::new(256 << 20);
        let cores = self.machines[at].count;
        let profile = NodeProfile { cores, ..profile(at) };
        let node = |core| {
            let post = match core {
                0 => Post::Member { cores, life, known: known.clone(), profile: profile.clone() },
                core => Post::Further { core, cores },
            };
            Node::new(identity, Limits::default(), post, memory.clone())
        };
        let machine = &mut self.machines[at];
        machine.cores = (0..cores).map(node).collect();
        (machine.up, machine.life, machine.heard) = (true, life, 0);
        let (now, founding) = (self.now(), self.founding.clone());
        let first = &mut self.machines[at].cores[0];
        first.on_ordered(Ordered::Restored(founding), now);
        first.on_ordered(Ordered::Leads(self.leader == at), now);
        first.on_connect(SESSION);
        self.settle();
    }

    /// The same, and a client of it.
    pub(crate) fn start(&mut self, at: usize) {
        self.begin(at);
        let correlation = self.send(at, Api::Handshake, &hello(), &[]);
        assert!(self.machines[at].answers.contains_key(&correlation));
    }

    /// A process is gone, and its connections with it.
    pub(crate) fn kill(&mut self, at: usize) {
        self.machines[at].up = false;
        self.machines[at].cores.clear();
        self.machines[at].parcels.clear();
        self.machines[at].ops.clear();
        let broken: Vec<_> = self.links.iter().filter(|(end, _)| end.machine == at).collect();
        for (end, other) in broken.into_iter().map(|(a, b)| (*a, *b)).collect::<Vec<_>>() {
            self.links.remove(&end);
            if self.links.remove(&other).is_some() && self.machines[other.machine].up {
                let now = self.now();
                let core = usize::from(other.core);
                self.machines[other.machine].cores[core].on_link_lost(other.link, now);
            }
        }
        if self.leader == at {
            self.leader = (0..self.machines.len()).find(|at| self.machines[*at].up).unwrap_or(0);
            let now = self.now();
            if self.machines[self.leader].up {
                self.machines[self.leader].cores[0].on_ordered(Ordered::Leads(true), now);
            }
        }
        self.settle();
    }

    /// Another one orders what is proposed.
    pub(crate) fn lead(&mut self, at: usize) {
        let now = self.now();
        let before = std::mem::replace(&mut self.leader, at);
        self.machines[before].cores[0].on_ordered(Ordered::Leads(false), now);
        self.machines[at].cores[0].on_ordered(Ordered::Leads(true), now);
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.clock + time;
        while self.clock < end {
            self.clock += Duration::from_millis(5);
            let now = self.now();
            for machine in &mut self.machines {
                machine.cores.iter_mut().for_each(|core| core.on_tick(now));
            }
            self.dialled();
            self.settle();
        }
    }

    /// Lets time pass until something is so.
    pub(crate) fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        for _ in 0..4000 {
            if holds(self) {
                return;
            }
            self.pass(Duration::from_millis(5));
        }
        panic!("it does not come that {what}");
    }

    /// Does what all processes ask for, until they ask for nothing more.
    pub(crate) fn settle(&mut self) {
        loop {
            let mut any = false;
            for at in 0..self.machines.len() {
                if self.machines[at].up {
                    any |= self.settle_one(at) | self.order(at) | self.connect(at);
                }
            }
            if !any {
                return;
            }
        }
    }

    pub(crate) fn settle_one(&mut self, at: usize) -> bool {
        let now = self.now();
        let machine = &mut self.machines[at];
        let mut any = false;
        for (core, node) in machine.cores.iter_mut().enumerate() {
            while let Some((directory, id, op)) = node.poll_op() {
                machine.ops.push_back((core, directory, id, op));
            }
            while let Some((to, parcel)) = node.poll_parcel() {
                machine.parcels.push_back((core as u16, to, parcel));
            }
            while let Some(send) = node.poll_send() {
                let (header, head) = send.bytes.split_first_chunk::<FRAME_HEADER_BYTES>().unwrap();
                let header = FrameHeader::parse(header, FrameLimits::RESPONSE).unwrap();
                let (head, payload) = head.split_at(header.head_bytes as usize);
                let (head, mut payload) = (head.to_vec(), payload.to_vec());
                send.shares.iter().for_each(|share| payload.extend_from_slice(share.as_ref()));
                machine.answers.insert(header.correlation, (head, payload));
            }
            while node.poll_notice().is_some() {}
        }
        while let Some((core, directory, id, op)) = machine.ops.pop_front_if(|_| !machine.stuck) {
            let result = perform(&mut machine.files, directory, op);
            machine.cores[core].on_done(directory, Done { id, result }, now);
            any = true;
        }
        while let Some((from, to, parcel)) = machine.parcels.pop_front() {
            machine.cores[usize::from(to)].on_parcel(from, parcel, now);
            any = true;
        }
        any
    }

    /// What it proposes stands in the list at once, and it hears of the next of it.
    pub(crate) fn order(&mut self, at: usize) -> bool {
        let now = self.now();
        let machine = &mut self.machines[at];
        let mut any = false;
        if machine.deaf {
            return std::iter::from_fn(|| machine.cores[0].poll_proposal()).count() > 0;
        }
        while let Some((number, entry)) = machine.cores[0].poll_proposal() {
            self.list.push((entry, Some((at, machine.life, number))));
            any = true;
        }
        if let Some((entry, proposer)) = self.list.get(machine.heard) {
            machine.heard += 1;
            let own = proposer.filter(|(by, life, _)| (*by, *life) == (at, machine.life));
            let ordered = Ordered::Entry(entry.clone(), own.map(|(.., number)| number));
            machine.cores[0].on_ordered(ordered, now);
            any = true;
        }
        any
    }

    /// Whoever has sent something hears that it has left.
    pub(crate) fn pay(&mut self) {
        for (end, bytes) in std::mem::take(&mut self.owed) {
            if let Some(node) = self.machines[end.machine].cores.get_mut(usize::from(end.core)) {
                node.on_link_sent(end.link, bytes);
            }
        }
    }

    /// Connections that have come about by now stand, if somebody takes them.
    pub(crate) fn dialled(&mut self) {
        let now = self.now();
        while let Some((_, at, core, dial)) = self.dials.pop_front_if(|d| d.0 <= now.monotonic) {
            if self.machines[at].cores.len() <= usize::from(core) {
                continue;
            }
            let to = dial.node.get() as usize - 1;
            assert_eq!(dial.address, profile(to).peer);
            let nobody = self.machines[to].cores.len() <= usize::from(dial.core);
            let refused = nobody || self.unreachable.contains(&(at, to));
            let node = &mut self.machines[at].cores[usize::from(core)];
            if refused {
                node.on_no_link(dial.node, dial.core, now);
                continue;
            }
            self.numbers += 2;
            let here = End { machine: at, core, link: LinkId(self.numbers) };
            let there = End { machine: to, core: dial.core, link: LinkId(self.numbers + 1) };
            self.links.insert(here, there);
            self.links.insert(there, here);
            node.on_link(here.link, Some((dial.node, dial.core)), now);
            let node = &mut self.machines[to].cores[usize::from(dial.core)];
            node.on_link(there.link, None, now);
        }
    }

    /// All connections between two processes break, and no other comes about.
    pub(crate) fn cut(&mut self, one: usize, other: usize) {
        let most = self.machines[one].count.max(self.machines[other].count);
        (0..most).for_each(|core| self.part_cores(one, other, core));
    }

    /// The connections between the first cores of two processes break, and no other comes about.
    pub(crate) fn part(&mut self, one: usize, other: usize) {
        self.part_cores(one, other, 0);
    }

    fn part_cores(&mut self, one: usize, other: usize, core: u16) {
        self.unreachable.extend([(one, other), (other, one)]);
        let now = self.now();
        let between = |(here, there): (&End, &End)| {
            let ends = (here.machine, there.machine);
            here.core == core && (ends == (one, other) || ends == (other, one))
        };
        let broken = self.links.iter().filter(|link| between(*link));
        let broken: Vec<_> = broken.flat_map(|(here, there)| [*here, *there]).collect();
        for end in broken {
            if self.links.remove(&end).is_some() {
                let node = &mut self.machines[end.machine].cores[usize::from(end.core)];
                node.on_link_lost(end.link, now);
            }
        }
        self.settle();
    }

    pub(crate) fn connect(&mut self, at: usize) -> bool {
        let now = self.now();
        let mut any = false;
        let cores = u16::try_from(self.machines[at].cores.len()).unwrap();
        for core in 0..cores {
            while let Some(dial) = self.machines[at].cores[usize::from(core)].poll_dial() {
                self.dials.push_back((self.clock + DIAL_TAKES, at, core, dial));
            }
            let mut sends = Vec::new();
            while let Some(send) = self.machines[at].cores[usize::from(core)].poll_link_send() {
                sends.push(send);
            }
            for send in sends {
                any = true;
                let here = End { machine: at, core, link: send.link };
                let Some(there) = self.links.get(&here).copied() else { continue };
                let mut bytes = send.bytes;
                send.shares.iter().for_each(|share| bytes.extend_from_slice(share.as_ref()));
                if !bytes.is_empty() {
                    let (header, rest) = bytes.split_first_chunk::<PEER_HEADER_BYTES>().unwrap();
                    let header = PeerHeader::parse(header).unwrap();
                    let (head, payload) = rest.split_at(header.head_bytes as usize);
                    let node = &mut self.machines[there.machine].cores[usize::from(there.core)];
                    node.on_link_message(there.link, &header, head, payload, now);
                    self.owed.push((here, bytes.len()));
                }
                if !self.stuffed {
                    self.pay();
                }
                if send.last {
                    self.links.remove(&here);
                    self.links.remove(&there);
                    for end in [here, there] {
                        let node = &mut self.machines[end.machine].cores[usize::from(end.core)];
                        node.on_link_lost(end.link, now);
                    }
                }
            }
        }
        any
    }

    pub(crate) fn send<'r, R: Message<'r>>(
        &mut self,
        at: usize,
        api: Api,
        head: &R,
        payload: &[u8],
    ) -> u32 {
        self.correlation += 1;
        let mut bytes = Vec::new();
        catena_wire::encode_message(api, self.correlation, head, payload.len(), &mut bytes)
            .unwrap();
        let (header, head) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>().unwrap();
        let header = FrameHeader::parse(header, FrameLimits::REQUEST).unwrap();
        let now = self.now();
        self.machines[at].cores[0].on_message(SESSION, &header, head, payload, now);
        self.settle();
        self.correlation
    }

    pub(crate) fn ask<'r, R: Message<'r>>(
        &mut self,
        at: usize,
        api: Api,
        head: &R,
        payload: &[u8],
    ) -> (Vec<u8>, Vec<u8>) {
        let correlation = self.send(at, api, head, payload);
        self.until("it is answered", |w| w.machines[at].answers.contains_key(&correlation));
        self.machines[at].answers.remove(&correlation).unwrap()
    }

    pub(crate) fn create(
        &mut self,
        at: usize,
        name: &str,
        partitions: u32,
        replicas: u8,
    ) -> ErrorCode {
        let request = CreateTopicRequest {
            name: name.into(),
            partitions,
            replicas,
            config: Vec::new(),
            validate_only: false,
        };
        let (head, _) = self.ask(at, Api::CreateTopic, &request, &[]);
        ErrorCode::from_number(u16::from_le_bytes([head[0], head[1]]))
    }

    pub(crate) fn partitions(
        &mut self,
        at: usize,
        name: &str,
    ) -> (TopicId, Vec<PartitionMetadata>) {
        let request = MetadataRequest { names: vec![name.into()] };
        let (head, _) = self.ask(at, Api::Metadata, &request, &[]);
        let topic = MetadataResponse::decode(&head).unwrap().topics.remove(0);
        (topic.id, topic.partitions)
    }

    /// The chain of a partition, by machines, as one of them knows it.
    pub(crate) fn chain(&mut self, at: usize, name: &str, partition: usize) -> Vec<usize> {
        let (_, partitions) = self.partitions(at, name);
        let machine = |node: &NodeId| node.get() as usize - 1;
        partitions[partition].chain.iter().map(machine).collect()
    }

    pub(crate) fn produce(
        &mut self,
        at: usize,
        topic: TopicId,
        partition: u32,
        sequence: i32,
    ) -> ProduceResponse<'static> {
        let (head, _) =
            self.ask(at, Api::Produce, &produce_request(topic, partition), &batch(sequence));
        ProduceResponse::decode(&head).unwrap().into_owned()
    }

    /// Sends a large batch, and does not wait for the answer.
    pub(crate) fn offer(&mut self, at: usize, topic: TopicId, sequence: i32, bytes: usize) {
        let batch = batch_of(sequence, &vec![7; bytes]);
        self.send(at, Api::Produce, &produce_request(topic, 0), &batch);
    }

    /// What a node shows of a partition: its high watermark, and all batches below.
    pub(crate) fn fetch(&mut self, at: usize, topic: TopicId, partition: u32) -> (u64, Vec<u8>) {
        let (mut high_watermark, mut all) = (0, Vec::new());
        loop {
            // A batch is a record.
            let next = all.len() / batch(0).len();
            let request = FetchRequest {
                topic,
                partition: PartitionIndex::new(partition),
                offset: Offset::new(next as u64),
                max_bytes: 1 << 20,
                min_bytes: 0,
                max_wait_ms: 0,
            };
            let (head, payload) = self.ask(at, Api::Fetch, &request, &[]);
            let response = FetchResponse::decode(&head).unwrap();
            assert_eq!(response.error, ErrorCode::None, "{}", response.message);
            high_watermark = response.high_watermark.get().max(high_watermark);
            if payload.is_empty() {
                return (high_watermark, all);
            }
            all.extend(payload);
        }
    }
}

pub(crate) fn produce_request(topic: TopicId, partition: u32) -> ProduceRequest {
    ProduceRequest {
        topic,
        partition: PartitionIndex::new(partition),
        durability: Durability::ChainDisk,
        deadline_ms: 0,
        expect_next_offset: None,
    }
}

pub(crate) fn batch(sequence: i32) -> Vec<u8> {
    batch_of(sequence, &[sequence as u8; 300])
}

pub(crate) fn batch_of(sequence: i32, value: &[u8]) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    builder.push(Millis::new(1_000_000), None, Some(value), &[]);
    let (id, epoch, sequence) =
        (ProducerId::new(5), ProducerEpoch::new(0), Sequence::new(sequence));
    builder.build(Producer { id, epoch, sequence }).unwrap()
}
