//! A node on files in memory, of one core or several, whose hands can be told to fail or to hold
//! still.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use catena_format::{
    ClusterId, Millis, NodeId, Offset, PartitionIndex, TopicId,
    records::{BatchBuilder, Producer},
};
use catena_log::{
    Now,
    io::{Done, FileName, IoError, Memory, Op, OpId, Outcome, Purse},
};
use catena_node::{Directory, Limits, Node, NodeIdentity, Parcel, Post, Pushed, SessionId, Status};
use catena_wire::{
    Api, CreateTopicRequest, Durability, ErrorCode, FRAME_HEADER_BYTES, FetchRequest, FrameHeader,
    FrameLimits, HandshakeRequest, Message, MetadataRequest, MetadataResponse, ProduceRequest,
    StatusResponse, encode_message,
};

pub(crate) type Share = <Purse as Memory>::Share;
pub(crate) type Files = BTreeMap<(Directory, FileName), Vec<u8>>;

/// What becomes of an operation.
pub(crate) enum Verdict {
    Perform,
    Fail(IoError),
    Hold,
}

pub(crate) type Judge = Box<dyn Fn(Directory, &Op<Share>) -> Verdict>;

/// An answer or a push.
pub(crate) struct Answer {
    pub(crate) header: FrameHeader,
    pub(crate) head: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Answer {
    /// Every answer begins with it.
    pub(crate) fn error(&self) -> ErrorCode {
        ErrorCode::from_number(u16::from_le_bytes([self.head[0], self.head[1]]))
    }
}

pub(crate) struct World {
    /// Its first core, which has all connections.
    pub(crate) node: Node<Purse>,
    /// The others; their disk is always well.
    pub(crate) further: Vec<Node<Purse>>,
    /// What the others send to the first core is not delivered.
    pub(crate) cut_off: bool,
    parcels: VecDeque<(u16, u16, Parcel)>,
    pub(crate) memory: Purse,
    pub(crate) judge: Judge,
    pub(crate) answers: Vec<Answer>,
    /// Whether the client reads what is sent to it, at once.
    pub(crate) reads: bool,
    /// What it has not read.
    pub(crate) unread: Vec<Pushed>,
    /// Operations performed or failed.
    pub(crate) operations: u64,
    clock: Duration,
    files: Files,
    held: Vec<(Directory, OpId, Op<Share>)>,
    correlation: u32,
}

pub(crate) const SESSION: SessionId = SessionId { core: 0, number: 1 };

impl World {
    pub(crate) fn new(limits: Limits, budget: usize) -> Self {
        Self::of_cores(1, limits, budget)
    }

    pub(crate) fn of_cores(cores: u16, limits: Limits, budget: usize) -> Self {
        let memory = Purse::new(budget);
        let further = |core| node(limits, Post::Further { core, cores }, memory.clone());
        let mut world = Self {
            node: node(limits, Post::First { create: true, cores }, memory.clone()),
            further: (1..cores).map(further).collect(),
            cut_off: false,
            parcels: VecDeque::new(),
            memory,
            judge: Box::new(|_, _| Verdict::Perform),
            answers: Vec::new(),
            reads: true,
            unread: Vec::new(),
            operations: 0,
            clock: Duration::from_secs(1),
            files: Files::new(),
            held: Vec::new(),
            correlation: 0,
        };
        world.begin();
        world
    }

    /// Ends a node of one core and starts it again on its files.
    pub(crate) fn restart(&mut self, limits: Limits) {
        self.restart_with(limits, Box::new(|_, _| Verdict::Perform));
    }

    /// The same, with hands that may fail.
    pub(crate) fn restart_with(&mut self, limits: Limits, judge: Judge) {
        self.renew(limits, judge);
        self.begin();
    }

    /// The same as [`World::restart`], whether or not it comes to serve.
    pub(crate) fn restart_as_is(&mut self, limits: Limits) {
        self.renew(limits, Box::new(|_, _| Verdict::Perform));
        self.settle();
    }

    fn renew(&mut self, limits: Limits, judge: Judge) {
        let post = Post::First { create: false, cores: 1 };
        self.node = node(limits, post, self.memory.clone());
        self.judge = judge;
        self.held.clear();
        self.answers.clear();
    }

    /// Removes files of a log.
    pub(crate) fn lose(&mut self, directory: Directory, which: impl Fn(FileName) -> bool) {
        self.files.retain(|(of, file), _| *of != directory || !which(*file));
    }

    /// Turns a bit of a file.
    pub(crate) fn flip(&mut self, directory: Directory, file: FileName, at: usize) {
        self.files.get_mut(&(directory, file)).expect("the file is there")[at] ^= 1;
    }

    fn begin(&mut self) {
        self.settle();
        assert_eq!(self.node.status(), Status::Serving);
        self.node.on_connect(SESSION);
        assert_eq!(self.ask(Api::Handshake, &hello()).expect("an answer").error(), ErrorCode::None);
    }

    pub(crate) fn now(&self) -> Now {
        let wall = Millis::new(1_000_000 + self.clock.as_millis() as i64);
        Now { wall, monotonic: self.clock }
    }

    /// Lets time pass, in steps in which the node does what is due.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.clock + time;
        while self.clock < end {
            self.clock = end.min(self.clock + Duration::from_millis(100));
            let now = self.now();
            self.node.on_tick(now);
            self.further.iter_mut().for_each(|node| node.on_tick(now));
            self.settle();
        }
    }

    /// Refuses what is new, on all cores.
    pub(crate) fn drain(&mut self) {
        let now = self.now();
        self.node.drain(now);
        self.further.iter_mut().for_each(|node| node.drain(now));
        self.settle();
    }

    /// Performs what the cores ask for until they ask for nothing more.
    pub(crate) fn settle(&mut self) {
        loop {
            self.settle_first();
            while self.reads && !self.unread.is_empty() {
                self.read();
                self.settle_first();
            }
            (0..self.further.len()).for_each(|at| self.settle_further(at));
            while let Some((to, parcel)) = self.node.poll_parcel() {
                self.parcels.push_back((0, to, parcel));
            }
            let next = self.parcels.iter().position(|(_, to, _)| *to != 0 || !self.cut_off);
            let Some((from, to, parcel)) = next.and_then(|at| self.parcels.remove(at)) else {
                return;
            };
            let now = self.now();
            let to = match to {
                0 => &mut self.node,
                core => &mut self.further[usize::from(core) - 1],
            };
            to.on_parcel(from, parcel, now);
        }
    }

    fn settle_further(&mut self, at: usize) {
        while let Some((directory, id, op)) = self.further[at].poll_op() {
            let result = perform(&mut self.files, directory, op);
            let now = self.now();
            self.further[at].on_done(directory, Done { id, result }, now);
        }
        while let Some((to, parcel)) = self.further[at].poll_parcel() {
            self.parcels.push_back((at as u16 + 1, to, parcel));
        }
    }

    /// Does so for the first core, as the judge says.
    fn settle_first(&mut self) {
        while let Some((directory, id, op)) = self.node.poll_op() {
            let result = match (self.judge)(directory, &op) {
                Verdict::Perform => perform(&mut self.files, directory, op),
                Verdict::Fail(error) => Err(error),
                Verdict::Hold => {
                    self.held.push((directory, id, op));
                    continue;
                }
            };
            self.operations += 1;
            let now = self.now();
            self.node.on_done(directory, Done { id, result }, now);
        }
        while let Some(send) = self.node.poll_send() {
            let (header, head) = send.bytes.split_first_chunk::<FRAME_HEADER_BYTES>().unwrap();
            let header = FrameHeader::parse(header, FrameLimits::RESPONSE).unwrap();
            let (head, payload) = head.split_at(header.head_bytes as usize);
            let (head, mut payload) = (head.to_vec(), payload.to_vec());
            send.shares.iter().for_each(|share| payload.extend_from_slice(share.as_ref()));
            self.answers.push(Answer { header, head, payload });
            self.unread.extend(send.pushed);
        }
    }

    /// Of all files of a log.
    pub(crate) fn bytes(&self, directory: Directory) -> usize {
        let of = self.files.iter().filter(|((of, _), _)| *of == directory);
        of.map(|(_, bytes)| bytes.len()).sum()
    }

    /// Operations that are held.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// The client reads the first of what it has not read.
    pub(crate) fn read(&mut self) {
        let (pushed, now) = (self.unread.remove(0), self.now());
        self.node.on_pushed(pushed, now);
    }

    /// Goes on with what was held, on a disk that is well again.
    pub(crate) fn resume(&mut self) {
        self.resume_with(Box::new(|_, _| Verdict::Perform));
    }

    /// Goes on with what was held, and with another judge.
    pub(crate) fn resume_with(&mut self, judge: Judge) {
        self.judge = judge;
        self.cut_off = false;
        for (directory, id, op) in std::mem::take(&mut self.held) {
            let result = perform(&mut self.files, directory, op);
            let now = self.now();
            self.node.on_done(directory, Done { id, result }, now);
        }
        self.settle();
    }

    /// Sends a request; its correlation id.
    pub(crate) fn send<'r, R: Message<'r>>(&mut self, api: Api, head: &R, payload: &[u8]) -> u32 {
        self.correlation += 1;
        let mut bytes = Vec::new();
        encode_message(api, self.correlation, head, payload.len(), &mut bytes).unwrap();
        let (header, head) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>().unwrap();
        let header = FrameHeader::parse(header, FrameLimits::REQUEST).unwrap();
        let now = self.now();
        self.node.on_message(SESSION, &header, head, payload, now);
        self.settle();
        self.correlation
    }

    /// The answer to a request, once it is there.
    pub(crate) fn answer(&mut self, correlation: u32) -> Option<Answer> {
        let at = self.answers.iter().position(|a| a.header.correlation == correlation)?;
        Some(self.answers.remove(at))
    }

    /// Whether a request was answered.
    pub(crate) fn has_answer(&self, correlation: u32) -> bool {
        self.answers.iter().any(|a| a.header.correlation == correlation)
    }

    /// Sends a request; its answer, if it comes at once.
    pub(crate) fn ask<'r, R: Message<'r>>(&mut self, api: Api, request: &R) -> Option<Answer> {
        let correlation = self.send(api, request, &[]);
        self.answer(correlation)
    }

    pub(crate) fn create(&mut self, name: &str, partitions: u32) -> u32 {
        let request = CreateTopicRequest {
            name: name.into(),
            partitions,
            replicas: 0,
            config: Vec::new(),
            validate_only: false,
        };
        self.send(Api::CreateTopic, &request, &[])
    }

    /// Creates a topic and tells its id.
    pub(crate) fn topic(&mut self, name: &str, partitions: u32) -> TopicId {
        let correlation = self.create(name, partitions);
        let answer = self.answer(correlation).expect("it is created at once");
        assert_eq!(StatusResponse::decode(&answer.head).unwrap().error, ErrorCode::None);
        self.topic_id(name)
    }

    pub(crate) fn topic_id(&mut self, name: &str) -> TopicId {
        let request = MetadataRequest { names: vec![name.into()] };
        let answer = self.ask(Api::Metadata, &request).expect("an answer");
        MetadataResponse::decode(&answer.head).unwrap().topics[0].id
    }

    pub(crate) fn produce(&mut self, topic: TopicId, partition: u32, batch: &[u8]) -> u32 {
        let request = ProduceRequest {
            topic,
            partition: PartitionIndex::new(partition),
            durability: Durability::ChainDisk,
            deadline_ms: 0,
            expect_next_offset: None,
        };
        self.send(Api::Produce, &request, batch)
    }

    pub(crate) fn fetch(
        &mut self,
        topic: TopicId,
        offset: u64,
        min_bytes: u32,
        max_wait_ms: u32,
    ) -> u32 {
        let request = FetchRequest {
            topic,
            partition: PartitionIndex::new(0),
            offset: Offset::new(offset),
            max_bytes: 1 << 20,
            min_bytes,
            max_wait_ms,
        };
        self.send(Api::Fetch, &request, &[])
    }
}

/// What a client says first.
pub(crate) fn hello() -> HandshakeRequest<'static> {
    HandshakeRequest {
        client: "test".into(),
        client_version: "0".into(),
        apis: Vec::new(),
        features: 0,
        mechanism: "".into(),
        authentication: Vec::new().into(),
    }
}

/// Performs an operation on files in memory.
pub(crate) fn perform(
    files: &mut Files,
    directory: Directory,
    op: Op<Share>,
) -> Result<Outcome<Share>, IoError> {
    match op {
        Op::List => {
            let all = files.iter().filter(|((of, _), _)| *of == directory);
            let list = all.map(|((_, file), bytes)| (*file, bytes.len() as u64)).collect();
            return Ok(Outcome::Files(list));
        }
        Op::Claim { file } | Op::Sync { file } => {
            files.get(&(directory, file)).ok_or(IoError::NotFound)?;
        }
        Op::Extend { file, from, to } | Op::Release { file, from, to } => {
            let stored = files.entry((directory, file)).or_default();
            stored.resize(stored.len().max(to.get() as usize), 0);
            stored[from.get() as usize..to.get() as usize].fill(0);
        }
        Op::Write { file, position, bytes, .. } => {
            let stored = files.entry((directory, file)).or_default();
            let (at, bytes) = (position.get() as usize, bytes.as_ref());
            stored.resize(stored.len().max(at + bytes.len()), 0);
            stored[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Op::SyncDirectory => {}
        Op::Read { file, position, length } => {
            let stored = files.get(&(directory, file)).ok_or(IoError::NotFound)?;
            let at = stored.len().min(position.get() as usize);
            let bytes = stored[at..stored.len().min(at + length)].to_vec();
            return Ok(Outcome::Read(bytes.into()));
        }
        Op::Rename { from, to } => {
            let bytes = files.remove(&(directory, from)).ok_or(IoError::NotFound)?;
            files.insert((directory, to), bytes);
        }
        Op::Remove { file } => {
            files.remove(&(directory, file)).ok_or(IoError::NotFound)?;
        }
    }
    Ok(Outcome::Unit)
}

fn node(limits: Limits, post: Post, memory: Purse) -> Node<Purse> {
    let identity = NodeIdentity { cluster: ClusterId::new(7), node: NodeId::new(1) };
    Node::new(identity, limits, post, memory)
}

/// A batch of one record.
pub(crate) fn batch(producer: Producer, value: &[u8]) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    builder.push(Millis::new(1_000_000), None, Some(value), &[]);
    builder.build(producer).unwrap()
}
