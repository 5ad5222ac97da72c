//! Nodes of a cluster on files in memory: consensus is a list, and links carry what is sent at
//! once.

mod common;

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
    io::{Done, Purse},
};
use catena_node::{
    Dial, Directory, Limits, LinkId, Node, NodeIdentity, Ordered, Parcel, Post, Status,
};
use catena_replication::control::{Catalog, Entry, NodeProfile, decode, encode};
use catena_wire::{
    Api, CreateTopicRequest, DescribeTopicRequest, DescribeTopicResponse, Durability, ErrorCode,
    FRAME_HEADER_BYTES, FetchRequest, FetchResponse, FrameHeader, FrameLimits, Message,
    MetadataRequest, MetadataResponse, PartitionMetadata, ProduceRequest, ProduceResponse,
    limits::PEER_HEADER_BYTES, peer::PeerHeader,
};
use common::{Files, SESSION, hello, perform};

const CORES: u16 = 2;
/// From dialling to a connection that stands.
const DIAL_TAKES: Duration = Duration::from_millis(15);

/// A process and its disk.
struct Machine {
    cores: Vec<Node<Purse>>,
    files: Files,
    up: bool,
    life: u64,
    /// What its disk knows of.
    lives: Vec<u64>,
    /// How much of the list it has heard.
    heard: usize,
    parcels: VecDeque<(u16, u16, Parcel)>,
    answers: BTreeMap<u32, (Vec<u8>, Vec<u8>)>,
}

/// One end of a link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct End {
    machine: usize,
    core: u16,
    link: LinkId,
}

/// Who proposed an entry: a machine, in one of its lives, under a number.
type Proposer = (usize, u64, u64);

struct World {
    machines: Vec<Machine>,
    founding: Vec<u8>,
    /// Entries in their order.
    list: Vec<(Vec<u8>, Option<Proposer>)>,
    leader: usize,
    links: BTreeMap<End, End>,
    /// Who is dialled from where, and when it stands.
    dials: VecDeque<(Duration, usize, u16, Dial)>,
    /// From whom to whom no connection comes about.
    unreachable: BTreeSet<(usize, usize)>,
    /// What has left a process that has not heard so, and whether it does not for now.
    owed: Vec<(End, usize)>,
    stuffed: bool,
    numbers: u64,
    clock: Duration,
    correlation: u32,
}

fn profile(node: usize) -> NodeProfile {
    let (client, peer) = (format!("client{node}:1"), format!("peer{node}:1"));
    NodeProfile { client, peer, rack: String::new(), cores: CORES, witness: false }
}

fn id(machine: usize) -> NodeId {
    NodeId::new(machine as u64 + 1)
}

impl World {
    fn new(nodes: usize) -> Self {
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
            files: Files::new(),
            up: false,
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

    fn now(&self) -> Now {
        let wall = Millis::new(1_000_000 + self.clock.as_millis() as i64);
        Now { wall, monotonic: self.clock }
    }

    /// A process begins on its disk.
    fn begin(&mut self, at: usize) {
        self.numbers += 1;
        let life = (1000 + self.numbers) << 16;
        let known = self.machines[at].lives.clone();
        self.machines[at].lives.push(life);
        let identity = NodeIdentity { cluster: ClusterId::new(7), node: id(at) };
        let memory = Purse::new(256 << 20);
        let node = |core| {
            let post = match core {
                0 => {
                    Post::Member { cores: CORES, life, known: known.clone(), profile: profile(at) }
                }
                core => Post::Further { core, cores: CORES },
            };
            Node::new(identity, Limits::default(), post, memory.clone())
        };
        let machine = &mut self.machines[at];
        machine.cores = (0..CORES).map(node).collect();
        (machine.up, machine.life, machine.heard) = (true, life, 0);
        let (now, founding) = (self.now(), self.founding.clone());
        let first = &mut self.machines[at].cores[0];
        first.on_ordered(Ordered::Restored(founding), now);
        first.on_ordered(Ordered::Leads(self.leader == at), now);
        first.on_connect(SESSION);
        self.settle();
    }

    /// The same, and a client of it.
    fn start(&mut self, at: usize) {
        self.begin(at);
        let correlation = self.send(at, Api::Handshake, &hello(), &[]);
        assert!(self.machines[at].answers.contains_key(&correlation));
    }

    /// A process is gone, and its connections with it.
    fn kill(&mut self, at: usize) {
        self.machines[at].up = false;
        self.machines[at].cores.clear();
        self.machines[at].parcels.clear();
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

    fn pass(&mut self, time: Duration) {
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
    fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        for _ in 0..4000 {
            if holds(self) {
                return;
            }
            self.pass(Duration::from_millis(5));
        }
        panic!("it does not come that {what}");
    }

    /// Does what all processes ask for, until they ask for nothing more.
    fn settle(&mut self) {
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

    fn settle_one(&mut self, at: usize) -> bool {
        let now = self.now();
        let machine = &mut self.machines[at];
        let mut any = false;
        for (core, node) in machine.cores.iter_mut().enumerate() {
            while let Some((directory, id, op)) = node.poll_op() {
                let result = perform(&mut machine.files, directory, op);
                node.on_done(directory, Done { id, result }, now);
                any = true;
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
        while let Some((from, to, parcel)) = machine.parcels.pop_front() {
            machine.cores[usize::from(to)].on_parcel(from, parcel, now);
            any = true;
        }
        any
    }

    /// What it proposes stands in the list at once, and it hears of the next of it.
    fn order(&mut self, at: usize) -> bool {
        let now = self.now();
        let machine = &mut self.machines[at];
        let mut any = false;
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
    fn pay(&mut self) {
        for (end, bytes) in std::mem::take(&mut self.owed) {
            if let Some(node) = self.machines[end.machine].cores.get_mut(usize::from(end.core)) {
                node.on_link_sent(end.link, bytes);
            }
        }
    }

    /// Connections that have come about by now stand, if somebody takes them.
    fn dialled(&mut self) {
        let now = self.now();
        while let Some((_, at, core, dial)) = self.dials.pop_front_if(|d| d.0 <= now.monotonic) {
            if !self.machines[at].up {
                continue;
            }
            let to = dial.node.get() as usize - 1;
            assert_eq!(dial.address, profile(to).peer);
            let refused = !self.machines[to].up || self.unreachable.contains(&(at, to));
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

    /// The connections between the first cores of two processes break, and no other comes about.
    fn part(&mut self, one: usize, other: usize) {
        self.unreachable.extend([(one, other), (other, one)]);
        let now = self.now();
        let between = |(here, there): (&End, &End)| {
            let ends = (here.machine, there.machine, here.core, there.core);
            ends == (one, other, 0, 0) || ends == (other, one, 0, 0)
        };
        let broken: Vec<_> =
            self.links.iter().filter(|link| between(*link)).map(|(end, _)| *end).collect();
        for end in broken {
            self.links.remove(&end);
            self.machines[end.machine].cores[0].on_link_lost(end.link, now);
        }
        self.settle();
    }

    fn connect(&mut self, at: usize) -> bool {
        let now = self.now();
        let mut any = false;
        for core in 0..CORES {
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

    fn send<'r, R: Message<'r>>(&mut self, at: usize, api: Api, head: &R, payload: &[u8]) -> u32 {
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

    fn ask<'r, R: Message<'r>>(
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

    fn create(&mut self, at: usize, name: &str, partitions: u32, replicas: u8) -> ErrorCode {
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

    fn partitions(&mut self, at: usize, name: &str) -> (TopicId, Vec<PartitionMetadata>) {
        let request = MetadataRequest { names: vec![name.into()] };
        let (head, _) = self.ask(at, Api::Metadata, &request, &[]);
        let topic = MetadataResponse::decode(&head).unwrap().topics.remove(0);
        (topic.id, topic.partitions)
    }

    /// The chain of a partition, by machines, as one of them knows it.
    fn chain(&mut self, at: usize, name: &str, partition: usize) -> Vec<usize> {
        let (_, partitions) = self.partitions(at, name);
        let machine = |node: &NodeId| node.get() as usize - 1;
        partitions[partition].chain.iter().map(machine).collect()
    }

    fn produce(
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
    fn offer(&mut self, at: usize, topic: TopicId, sequence: i32, bytes: usize) {
        let batch = batch_of(sequence, &vec![7; bytes]);
        self.send(at, Api::Produce, &produce_request(topic, 0), &batch);
    }

    /// What a node shows of a partition: its high watermark, and all batches below.
    fn fetch(&mut self, at: usize, topic: TopicId, partition: u32) -> (u64, Vec<u8>) {
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

fn produce_request(topic: TopicId, partition: u32) -> ProduceRequest {
    ProduceRequest {
        topic,
        partition: PartitionIndex::new(partition),
        durability: Durability::ChainDisk,
        deadline_ms: 0,
        expect_next_offset: None,
    }
}

fn batch(sequence: i32) -> Vec<u8> {
    batch_of(sequence, &[sequence as u8; 300])
}

fn batch_of(sequence: i32, value: &[u8]) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    builder.push(Millis::new(1_000_000), None, Some(value), &[]);
    let (id, epoch, sequence) =
        (ProducerId::new(5), ProducerEpoch::new(0), Sequence::new(sequence));
    builder.build(Producer { id, epoch, sequence }).unwrap()
}

#[test]
fn a_batch_is_acknowledged_when_three_nodes_have_it_and_each_shows_it() {
    let mut world = World::new(3);
    assert!(world.machines.iter().all(|m| m.cores.iter().all(|c| c.status() == Status::Serving)));
    assert_eq!(world.create(1, "events", 6, 3), ErrorCode::None);
    let (topic, partitions) = world.partitions(2, "events");
    for (at, partition) in partitions.iter().enumerate() {
        let head = partition.chain[0].get() as usize - 1;
        assert_eq!((partition.chain.len(), partition.error), (3, ErrorCode::None));
        let receipt = world.produce(head, topic, at as u32, 0);
        assert_eq!((receipt.error, receipt.copies), (ErrorCode::None, 3), "{receipt:?}");
        let elsewhere = world.produce((head + 1) % 3, topic, at as u32, 1);
        assert_eq!(elsewhere.error, ErrorCode::NotHead);
        let shown = world.fetch(head, topic, at as u32);
        assert_eq!(shown.0, 1);
        for other in 0..3 {
            world.until("each shows it", |w| w.fetch(other, topic, at as u32) == shown);
        }
    }
}

#[test]
fn a_chain_goes_on_without_a_dead_node_and_takes_it_back() {
    for dies in 0..3 {
        let mut world = World::new(3);
        assert_eq!(world.create(0, "events", 1, 3), ErrorCode::None);
        let (topic, _) = world.partitions(0, "events");
        let chain = world.chain(0, "events", 0);
        for sequence in 0..5 {
            assert_eq!(world.produce(chain[0], topic, 0, sequence).error, ErrorCode::None);
        }
        let gone = chain[dies];
        world.kill(gone);
        let left = *chain.iter().find(|at| **at != gone).unwrap();
        world.until("it is out", |w| w.chain(left, "events", 0).len() == 2);
        let head = world.chain(left, "events", 0)[0];
        // What was sent before the death is known, and what comes now is new.
        world.until("the head takes something", |w| {
            let again = w.produce(head, topic, 0, 4);
            again.error == ErrorCode::None && again.first_offset == Offset::new(4)
        });
        assert_eq!(world.produce(head, topic, 0, 5).copies, 2);
        world.start(gone);
        world.until("it is back", |w| w.chain(left, "events", 0).len() == 3);
        assert_eq!(world.chain(left, "events", 0)[2], gone);
        world.until("three have it", |w| {
            let again = w.produce(head, topic, 0, 6);
            again.error == ErrorCode::None && again.copies == 3
        });
        let shown = world.fetch(head, topic, 0);
        assert_eq!(shown.0, 7);
        for other in 0..3 {
            world.until("each shows all", |w| w.fetch(other, topic, 0) == shown);
        }
    }
}

#[test]
fn two_of_three_are_enough_and_one_refuses() {
    let mut world = World::new(3);
    assert_eq!(world.create(0, "events", 1, 4), ErrorCode::NotEnoughReplicas);
    assert_eq!(world.create(0, "events", 1, 0), ErrorCode::None);
    let (topic, _) = world.partitions(0, "events");
    let chain = world.chain(0, "events", 0);
    assert_eq!(world.produce(chain[0], topic, 0, 0).copies, 3);
    for (dead, left) in [(2, 2), (1, 1)] {
        world.kill(chain[dead]);
        world.until("it is out", |w| w.chain(chain[0], "events", 0).len() == left);
    }
    let refused = world.produce(chain[0], topic, 0, 1);
    assert_eq!(refused.error, ErrorCode::NotEnoughReplicas, "{}", refused.message);
    assert_eq!(world.fetch(chain[0], topic, 0).0, 1);
    world.start(chain[1]);
    world.until("two are there", |w| w.chain(chain[0], "events", 0).len() == 2);
    world.until("it takes", |w| w.produce(chain[0], topic, 0, 1).error == ErrorCode::None);
}

/// How often a node has been given up, as the list has it.
fn given_up(world: &World) -> usize {
    let entries = world.list.iter().filter_map(|(bytes, _)| decode(bytes));
    entries.filter(|entry| matches!(entry, Entry::NodeDown { .. })).count()
}

#[test]
fn a_node_that_comes_back_is_not_given_up_again_before_it_can_be_reached() {
    let mut world = World::new(3);
    assert_eq!(world.create(0, "events", 3, 3), ErrorCode::None);
    // The last leads, so that it is the other that has to dial.
    world.kill(0);
    world.kill(1);
    world.until("both are out", |w| given_up(w) == 2);
    for back in [0, 1] {
        world.pass(Duration::from_secs(3));
        world.start(back);
    }
    world.until("all are back", |w| {
        (0..3).all(|partition| w.chain(2, "events", partition).len() == 3)
    });
    world.pass(Duration::from_secs(5));
    assert_eq!(given_up(&world), 2);
}

#[test]
fn a_node_that_was_given_up_alive_goes_on_as_another() {
    let mut world = World::new(3);
    assert_eq!(world.create(0, "events", 6, 3), ErrorCode::None);
    let (topic, _) = world.partitions(0, "events");
    let incarnation = |w: &World| {
        let mut catalog = Catalog::default();
        assert!(catalog.restore(&w.founding));
        w.list.iter().for_each(|(bytes, _)| drop(catalog.apply(&decode(bytes).unwrap())));
        catalog.incarnation(id(2))
    };
    let before = incarnation(&world);
    // The link to who leads is gone for a while; those to the other, and of other cores, stand.
    world.part(0, 2);
    world.until("it is given up", |w| given_up(w) > 0);
    world.unreachable.clear();
    world.until("it is another", |w| incarnation(w) > before);
    world.until("it is back in all chains", |w| {
        (0..6).all(|partition| w.chain(0, "events", partition).len() == 3)
    });
    for partition in 0..6 {
        let head = world.chain(0, "events", partition)[0];
        world.until("three have it", |w| {
            let receipt = w.produce(head, topic, partition as u32, 0);
            receipt.error == ErrorCode::None && receipt.copies == 3
        });
    }
}

#[test]
fn a_node_tells_of_partitions_that_only_others_have() {
    let mut world = World::new(4);
    assert_eq!(world.create(3, "events", 4, 3), ErrorCode::None);
    let (topic, partitions) = world.partitions(1, "events");
    for at in 0..4 {
        let request = DescribeTopicRequest { name: "events".into() };
        let (head, _) = world.ask(at, Api::DescribeTopic, &request, &[]);
        let described = DescribeTopicResponse::decode(&head).unwrap();
        assert_eq!(described.partitions.len(), 4);
        for (partition, place) in (0..).zip(&partitions) {
            let known = &described.partitions[partition as usize].place;
            assert_eq!((known.index, &known.chain), (place.index, &place.chain));
            let receipt = world.produce(at, topic, partition, 0);
            let is_head = place.chain[0] == id(at);
            let expected = if is_head { ErrorCode::None } else { ErrorCode::NotHead };
            assert_eq!(receipt.error, expected, "node {at}, partition {partition}");
        }
    }
}

#[test]
fn behind_an_entry_that_cannot_be_read_nothing_is_done() {
    let mut world = World::new(1);
    assert_eq!(world.create(0, "events", 1, 1), ErrorCode::None);
    let (topic, _) = world.partitions(0, "events");
    let mut strange = encode(&Entry::NodeStarted { node: 1 });
    strange[0] = 200;
    world.list.push((strange, None));
    world.list.push((encode(&Entry::DeleteTopic { id: topic.get() }), None));
    world.settle();
    assert!(matches!(world.machines[0].cores[0].status(), Status::Failed(_)));
    assert!(world.machines[0].files.keys().any(|(of, _)| *of != Directory::Catalog));
    let refused = world.produce(0, topic, 0, 0).error;
    assert_eq!(refused, ErrorCode::PartitionFailed);
}

#[test]
fn an_older_copy_of_a_directory_is_refused_and_of_two_processes_the_first_ends() {
    let mut world = World::new(3);
    assert_eq!(world.create(0, "events", 1, 3), ErrorCode::None);
    let status = |w: &World| w.machines[2].cores[0].status();
    let older = world.machines[2].lives.clone();
    world.kill(2);
    world.start(2);
    assert_eq!(status(&world), Status::Serving);
    // Somebody copies the directory, and begins to be the node.
    let known = world.machines[2].lives.clone();
    let entry = Entry::StartNode { node: 3, life: 77 << 16, known, profile: profile(2) };
    world.list.push((encode(&entry), None));
    world.settle();
    assert_eq!(status(&world), Status::Outdated);
    world.kill(2);
    world.machines[2].lives = older;
    world.begin(2);
    world.settle();
    assert_eq!(status(&world), Status::Outdated);
}

#[test]
fn a_node_whose_copy_is_gone_does_not_keep_its_chain_from_going_on() {
    let mut world = World::new(3);
    assert_eq!(world.create(0, "events", 1, 3), ErrorCode::None);
    let (topic, _) = world.partitions(0, "events");
    let chain = world.chain(0, "events", 0);
    for sequence in 0..3 {
        assert_eq!(world.produce(chain[0], topic, 0, sequence).copies, 3);
    }
    let sick = chain[1];
    world.kill(sick);
    world.machines[sick].files.retain(|(of, _), _| *of == Directory::Catalog);
    world.start(sick);
    world.until("it is out", |w| !w.chain(chain[0], "events", 0).contains(&sick));
    world.until("the others go on", |w| {
        let receipt = w.produce(chain[0], topic, 0, 3);
        receipt.error == ErrorCode::None && receipt.copies == 2
    });
    let shown = world.fetch(chain[0], topic, 0);
    assert_eq!(shown.0, 4);
    // It does not come back in the life in which it has nothing, and does in the next.
    world.pass(Duration::from_secs(2));
    assert!(!world.chain(chain[0], "events", 0).contains(&sick));
    world.kill(sick);
    world.start(sick);
    world.until("it is back", |w| w.chain(chain[0], "events", 0).contains(&sick));
    world.until("it shows all", |w| w.fetch(sick, topic, 0) == shown);
}

#[test]
fn what_a_link_does_not_take_waits_with_its_partitions() {
    let mut world = World::new(2);
    assert_eq!(world.create(0, "events", 1, 2), ErrorCode::None);
    let (topic, _) = world.partitions(0, "events");
    let chain = world.chain(0, "events", 0);
    assert_eq!(world.produce(chain[0], topic, 0, 0).copies, 2);
    let stored = |w: &World, at: usize| {
        let held = w.machines[at].cores.iter().flat_map(|core| core.replicas());
        held.map(|replica| replica.log().unwrap().log_end().get()).max().unwrap()
    };
    // It leaves, and nobody says so.
    world.stuffed = true;
    let (most, limit) = (48, 32);
    for sequence in 1..most {
        world.offer(chain[0], topic, sequence, 1_000_000);
    }
    world.pass(Duration::from_millis(50));
    assert_eq!(stored(&world, chain[0]), most as u64);
    let there = stored(&world, chain[1]);
    assert!((limit..most as u64).contains(&there), "{there} of {most}");
    world.stuffed = false;
    world.pay();
    world.until("all of it is there", |w| {
        w.settle();
        stored(w, chain[1]) == most as u64
    });
}
