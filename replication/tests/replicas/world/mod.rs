//! A chain of replicas on files in memory: what they say to each other arrives at once, but for
//! what they say of damage, which can be kept back.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    time::Duration,
};

use catena_format::{
    ClusterId, Epoch, Incarnation, Millis, NodeId, Offset, PartitionIndex, PartitionUid, TopicId,
    records::{BatchBuilder, Producer},
};
use catena_log::{
    LogConfig, LogIdentity, Now, ReadAnswer, ReadError, ReadOutcome, Stamp,
    io::{Done, FileName, IoError, Memory, Op, Outcome, Purse},
};
use catena_replication::{
    Durability, Event, Mend, Parcel, ProduceRequest, Replica, ReplicaConfig, Ticket,
    chain::{Configuration, MemberId, Message},
    validate::BatchLimits,
};

pub(super) type Share = <Purse as Memory>::Share;

/// Bytes of the one value of a batch; a dozen of them are a segment.
const VALUE_BYTES: usize = 5_000;

/// A replica and its disk.
pub(super) struct Node {
    pub(super) replica: Replica<Purse>,
    pub(super) files: BTreeMap<FileName, Vec<u8>>,
    pub(super) told: Vec<Event<Share>>,
    /// What becomes of what it writes to a segment.
    pub(super) spoils: bool,
    /// Its disk does nothing.
    pub(super) stands: bool,
    /// How often it has told its predecessor how far it is.
    pub(super) reports: usize,
}

pub(super) struct World {
    pub(super) nodes: Vec<Node>,
    pub(super) clock: Duration,
    /// What was said of damage, by whom, and has not arrived.
    pub(super) said: VecDeque<(usize, Mend<Share>)>,
    /// Whether it arrives at once.
    pub(super) hears: bool,
    /// Whether it is taken from who says it.
    pub(super) speaks: bool,
    /// Whether anything else arrives.
    pub(super) linked: bool,
    epoch: u32,
}

fn id(at: usize) -> MemberId {
    MemberId { node: NodeId::new(at as u64 + 1), incarnation: Incarnation::new(1) }
}

/// In each epoch all members have begun anew.
fn member(at: usize, epoch: u32) -> MemberId {
    MemberId { incarnation: Incarnation::new(u64::from(epoch)), ..id(at) }
}

fn offset(offset: u64) -> Offset {
    Offset::new(offset)
}

pub(super) fn range(range: Range<u64>) -> Range<Offset> {
    offset(range.start)..offset(range.end)
}

fn replica(at: usize, epoch: u32, nodes: usize, create: bool) -> Replica<Purse> {
    let identity = LogIdentity {
        cluster: ClusterId::new(1),
        topic: TopicId::new(1),
        partition: PartitionIndex::new(0),
        uid: PartitionUid::new(1),
    };
    let log = LogConfig { segment_bytes: 64 << 10, tail_cache_bytes: 0, ..LogConfig::default() };
    let config = ReplicaConfig {
        log,
        batches: BatchLimits { batch_bytes_max: 1 << 20, timestamp_ahead_ms_max: i64::MAX },
        evict_after: Duration::MAX,
    };
    let memory = Purse::new(64 << 20);
    Replica::new(identity, config, (member(at, epoch), chain(epoch, nodes)), create, memory)
}

fn chain(epoch: u32, nodes: usize) -> Configuration {
    let chain = (0..nodes).map(|at| member(at, epoch)).collect();
    Configuration { epoch: Epoch::new(epoch), chain, joining: None, min_replicas: 1 }
}

impl World {
    /// A chain that holds so many batches, of one record each; nothing of them is in memory.
    pub(super) fn new(nodes: usize, batches: u64) -> Self {
        let node = |at| Node {
            replica: replica(at, 1, nodes, true),
            files: BTreeMap::new(),
            told: Vec::new(),
            spoils: false,
            stands: false,
            reports: 0,
        };
        let mut world = Self {
            nodes: (0..nodes).map(node).collect(),
            clock: Duration::from_secs(1),
            said: VecDeque::new(),
            hears: true,
            speaks: true,
            linked: true,
            epoch: 1,
        };
        world.settle();
        (0..batches).for_each(|_| world.produce());
        assert_eq!(world.nodes[nodes - 1].replica.high_watermark(), offset(batches));
        world.forget();
        world
    }

    pub(super) fn now(&self) -> Now {
        Now { wall: Millis::new(1_000_000), monotonic: self.clock }
    }

    /// All begin anew, on their disks.
    pub(super) fn restart(&mut self) {
        self.epoch += 1;
        let (epoch, nodes) = (self.epoch, self.nodes.len());
        for (at, node) in self.nodes.iter_mut().enumerate() {
            node.replica = replica(at, epoch, nodes, false);
            node.told.clear();
        }
        self.said.clear();
        self.settle();
    }

    /// Nothing of what is on the disks is in memory.
    pub(super) fn forget(&mut self) {
        for node in &mut self.nodes {
            node.replica.drop_tail();
        }
    }

    pub(super) fn produce(&mut self) {
        self.produce_at(Durability::None);
    }

    /// Produces a batch, to be answered at this level.
    pub(super) fn produce_at(&mut self, durability: Durability) {
        let mut builder = BatchBuilder::new();
        builder.push(Millis::new(1_000_000), None, Some(&[7; VALUE_BYTES]), &[]);
        let batch = builder.build(Producer::NONE).unwrap();
        let request = ProduceRequest {
            batch: &batch,
            durability,
            expect_next_offset: None,
            raised: &BTreeMap::new(),
            ticket: Ticket(1),
        };
        let now = self.now();
        self.nodes[0].replica.on_produce(&request, now).unwrap();
        self.settle();
    }

    /// Lets time pass, in steps in which all do what is due.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.clock + time;
        while self.clock < end {
            self.clock = end.min(self.clock + Duration::from_millis(50));
            let now = self.now();
            self.nodes.iter_mut().for_each(|node| node.replica.on_tick(now));
            self.settle();
        }
    }

    /// Does what all ask for, until they ask for nothing more.
    pub(super) fn settle(&mut self) {
        loop {
            let acted = (0..self.nodes.len()).map(|at| self.act(at)).fold(false, |a, b| a | b);
            let heard = self.hears && !self.said.is_empty();
            if heard {
                self.hear(0);
            }
            if !acted && !heard {
                return;
            }
        }
    }

    fn act(&mut self, at: usize) -> bool {
        let (now, mut any) = (self.now(), false);
        let node = &mut self.nodes[at];
        while !node.stands
            && let Some((id, op)) = node.replica.poll_op()
        {
            let result = node.perform(op);
            node.replica.on_done(Done { id, result }, now);
            any = true;
        }
        while let Some(event) = node.replica.poll_event() {
            node.told.push(event);
        }
        while self.speaks
            && let Some(mend) = self.nodes[at].replica.poll_mend()
        {
            self.said.push_back((at, mend));
            any = true;
        }
        while let Some(parcel) = self.nodes[at].replica.poll_parcel() {
            self.deliver(at, &parcel);
            any = true;
        }
        any
    }

    fn deliver(&mut self, from: usize, parcel: &Parcel<Share>) {
        self.nodes[from].reports += usize::from(matches!(parcel.message, Message::Commit { .. }));
        let to = parcel.to.node.get() as usize - 1;
        if !self.linked || parcel.to != member(to, self.epoch) {
            return;
        }
        let Parcel { message, batches, fold, .. } = parcel;
        let mut payload = fold.clone();
        batches.shares.iter().for_each(|share| payload.extend_from_slice(share.as_ref()));
        let (now, from) = (self.now(), member(from, self.epoch));
        let to = &mut self.nodes[to].replica;
        let _ = to.on_peer(from, message.clone(), &batches.stamps, &payload, now);
    }

    /// What was said of damage arrives, of what has not the one with this number.
    pub(super) fn hear(&mut self, number: usize) {
        let (by, mend) = self.said.remove(number).expect("it was said");
        let (now, from) = (self.now(), member(by, self.epoch));
        match mend {
            Mend::Ask { to, offsets } => {
                let to = &mut self.nodes[to.node.get() as usize - 1].replica;
                to.on_asked(from, offsets, now);
            }
            Mend::Give { to, from: first, batches } => {
                let payload = payload(&batches.shares);
                self.give(by, to.node.get() as usize - 1, first, &batches.stamps, &payload);
            }
        }
        self.act_all();
    }

    fn act_all(&mut self) {
        while (0..self.nodes.len()).map(|at| self.act(at)).fold(false, |a, b| a | b) {}
    }

    /// One says to another that it has these batches.
    pub(super) fn give(
        &mut self,
        by: usize,
        to: usize,
        first: Offset,
        stamps: &[Stamp],
        payload: &[u8],
    ) {
        let (now, by) = (self.now(), member(by, self.epoch));
        self.nodes[to].replica.on_given(by, first, stamps, payload, now);
    }

    /// One asks another for batches.
    pub(super) fn ask(&mut self, by: usize, to: usize, batches: Range<u64>) {
        let (now, by) = (self.now(), member(by, self.epoch));
        self.nodes[to].replica.on_asked(by, range(batches), now);
    }

    /// One says to another that it does not have them.
    pub(super) fn deny(&mut self, by: usize, to: usize, first: u64) {
        self.give(by, to, offset(first), &[], &[]);
        self.act_all();
    }

    /// A byte of a batch turns.
    pub(super) fn rot(&mut self, at: usize, batch: u64) {
        let files = &mut self.nodes[at].files;
        let segments = files.iter_mut().filter(|(file, _)| matches!(file, FileName::Segment(_)));
        for (_, bytes) in segments {
            let is = |at: &usize| {
                let frame = &bytes[*at..];
                let whole = frame.starts_with(b"CTNF") && frame[6] == 0;
                whole && frame[16..24] == batch.to_le_bytes()
            };
            let places = (4096..bytes.len().saturating_sub(64)).step_by(16);
            if let Some(place) = places.clone().find(is) {
                bytes[place + 200] ^= 1;
                return;
            }
        }
        panic!("there is no batch {batch}");
    }

    /// Batches rot, and are read.
    pub(super) fn damage(&mut self, at: usize, batches: Range<u64>) {
        for batch in batches.clone() {
            self.rot(at, batch);
        }
        self.forget();
        for batch in batches {
            let _ = self.read(at, batch);
        }
    }

    /// The batch at an offset.
    pub(super) fn read(&mut self, at: usize, batch: u64) -> Result<Vec<u8>, ReadError> {
        let answer = match self.nodes[at].replica.read(offset(batch), 1) {
            Ok(ReadOutcome::Ready(batches)) => Ok(batches),
            Ok(ReadOutcome::Pending(id)) => {
                self.settle();
                let told = &mut self.nodes[at].told;
                let is = |event: &Event<Share>| matches!(event, Event::Read(of, _) if *of == id);
                let place = told.iter().position(is).expect("a read ends");
                match told.remove(place) {
                    Event::Read(_, Ok(ReadAnswer::Batches(batches))) => Ok(batches),
                    Event::Read(_, Err(error)) => Err(error),
                    other => panic!("{other:?}"),
                }
            }
            Err(error) => Err(error),
        };
        answer.map(|batches| payload(&batches.shares))
    }

    pub(super) fn damaged(&self, at: usize) -> Vec<Range<Offset>> {
        self.nodes[at].replica.log().map(|log| log.damaged()).unwrap_or_default()
    }

    pub(super) fn may_mend(&mut self, at: usize, batch: u64) -> bool {
        self.nodes[at].replica.may_mend(offset(batch))
    }

    /// What is said of damage and has not arrived: by whom, to whom, from where on, how many
    /// batches; of a question `None`.
    pub(super) fn on_its_way(&self) -> Vec<(usize, usize, u64, Option<usize>)> {
        let place = |to: &MemberId| to.node.get() as usize - 1;
        let said = self.said.iter().map(|(by, mend)| match mend {
            Mend::Ask { to, offsets } => (*by, place(to), offsets.start.get(), None),
            Mend::Give { to, from, batches } => {
                (*by, place(to), from.get(), Some(batches.shares.len()))
            }
        });
        said.collect()
    }

    /// How often a node has said that nobody has something.
    pub(super) fn lost(&self, at: usize) -> Vec<Range<Offset>> {
        let told = self.nodes[at].told.iter();
        let lost = told.filter_map(|event| match event {
            Event::Lost(offsets) => Some(offsets.clone()),
            _ => None,
        });
        lost.collect()
    }
}

fn payload(shares: &[Share]) -> Vec<u8> {
    shares.iter().flat_map(|share| share.as_ref().to_vec()).collect()
}

impl Node {
    fn perform(&mut self, op: Op<Share>) -> Result<Outcome<Share>, IoError> {
        let files = &mut self.files;
        match op {
            Op::List => {
                let list = files.iter().map(|(file, bytes)| (*file, bytes.len() as u64));
                return Ok(Outcome::Files(list.collect()));
            }
            Op::Claim { file } | Op::Sync { file } => {
                files.get(&file).ok_or(IoError::NotFound)?;
            }
            Op::Extend { file, from, to } | Op::Release { file, from, to } => {
                let stored = files.entry(file).or_default();
                stored.resize(stored.len().max(to.get() as usize), 0);
                stored[from.get() as usize..to.get() as usize].fill(0);
            }
            Op::Write { file, position, bytes, .. } => {
                let stored = files.entry(file).or_default();
                let (at, bytes) = (position.get() as usize, bytes.as_ref());
                stored.resize(stored.len().max(at + bytes.len()), 0);
                let kept = !(self.spoils && matches!(file, FileName::Segment(_)));
                if kept {
                    stored[at..at + bytes.len()].copy_from_slice(bytes);
                }
            }
            Op::SyncDirectory => {}
            Op::Read { file, position, length } => {
                let stored = files.get(&file).ok_or(IoError::NotFound)?;
                let at = stored.len().min(position.get() as usize);
                let bytes = stored[at..stored.len().min(at + length)].to_vec();
                return Ok(Outcome::Read(bytes.into()));
            }
            Op::Rename { from, to } => {
                let bytes = files.remove(&from).ok_or(IoError::NotFound)?;
                files.insert(to, bytes);
            }
            Op::Remove { file } => {
                files.remove(&file).ok_or(IoError::NotFound)?;
            }
        }
        Ok(Outcome::Unit)
    }
}
