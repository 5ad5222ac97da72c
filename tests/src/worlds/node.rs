//! A small world of a whole node: one core with its catalog, a topic of one partition that comes
//! and goes, and a client.

use std::collections::{BTreeMap, BTreeSet};

use catena_format::{ClusterId, NodeId, Offset, PartitionIndex, PartitionUid, TopicId};
use catena_log::io::Heap;
use catena_node::{Limits, Node, NodeIdentity, Notice, Post, SessionId, Status};
use catena_replication::Replica;
use catena_wire::{
    Api, ApiRange, CreateTopicRequest, DeleteTopicRequest, Durability, ErrorCode, FetchRequest,
    FetchResponse, FrameLimits, HandshakeRequest, HandshakeResponse, Message, MetadataRequest,
    MetadataResponse, ProduceRequest, ProduceResponse, Setting, StatusResponse, TrimRequest,
    TrimResponse, encode_message,
};

use super::{
    books::{Books, Sent},
    chooser::{Leaves, Strike},
    small::{self, Ground, Kind, Small},
};
use crate::sim::{
    disk::Crash,
    world::{directory_of, key_of, network::parts},
};

/// The directory of the catalog; those of partitions have the numbers of these.
const CATALOG: u64 = 0;
const TOPIC: &str = "small";
const PARTITION: PartitionIndex = PartitionIndex::new(0);
const SESSION: SessionId = SessionId { core: 0, number: 1 };
/// A segment that was begun before is sealed, at the latest at the second housekeeping.
const ROLL_NS: u64 = 2_000_000_000;
/// What was written before is too old.
const AGE_NS: u64 = 2 * 3_600_000_000_000;
const RETENTION_MS: &str = "3600000";
/// What an error begins with that is an answer, or the want of one: no defect once a call failed.
const REFUSED: &str = "refused: ";

type Watch<'w> = small::Watch<'w, World>;

/// What the client knows of the topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Topic {
    Absent,
    /// Asked for, not answered.
    Creating,
    Present(TopicId),
    /// It was asked for that it go, and not answered.
    Deleting(TopicId),
}

/// The head and the payload of an answer.
struct Answer {
    head: Vec<u8>,
    payload: Vec<u8>,
}

/// A node, its disk and its client.
pub struct World {
    ground: Ground,
    node: Node<Heap>,
    /// The node served once.
    founded: bool,
    topic: Topic,
    /// Of the topic there is.
    books: Books,
    correlation: u32,
    answers: BTreeMap<u32, Answer>,
    /// Deleted partitions whose files go once nothing is under way in them.
    removals: BTreeSet<u64>,
    /// One call may fail: what is refused since then is no defect.
    faulty: bool,
    /// This life did not come so far that it could be held against the books.
    lame: bool,
}

fn node(create: bool) -> Node<Heap> {
    let identity = NodeIdentity { cluster: ClusterId::new(1), node: NodeId::new(1) };
    let limits =
        Limits { tail_cache_bytes: 16 << 10, catalog_segment_bytes: 64 << 10, ..Limits::default() };
    Node::new(identity, limits, Post::First { create, cores: 1 }, Heap)
}

impl Small for World {
    const LETTERS: &str = "CDARTESK";

    /// What a node refuses at once, and a second look at nothing new, are left out.
    fn follows(workload: &str, letter: char) -> bool {
        let there = workload.rfind(['C', 'D']).map(|at| &workload[at..]);
        match there.and_then(|since| since.strip_prefix('C')) {
            None => matches!(letter, 'C' | 'S' | 'K'),
            Some(since) => match letter {
                'C' => false,
                'R' | 'E' => since.contains('A') && !since.ends_with(letter),
                'T' => since.contains('A'),
                _ => true,
            },
        }
    }

    fn new(kind: Kind, strike: Option<Strike>) -> Self {
        Self {
            ground: Ground::new(kind, strike),
            node: node(true),
            founded: false,
            topic: Topic::Absent,
            books: Books::default(),
            correlation: 0,
            answers: BTreeMap::new(),
            removals: BTreeSet::new(),
            faulty: strike.is_some(),
            lame: false,
        }
    }

    fn crashed(&self, crash: Crash, leaves: Leaves) -> (Self, Leaves) {
        let mut world = Self {
            ground: self.ground.fork(),
            node: node(!self.founded),
            founded: self.founded,
            topic: self.topic,
            books: self.books.clone(),
            correlation: 0,
            answers: BTreeMap::new(),
            removals: BTreeSet::new(),
            faulty: false,
            lame: false,
        };
        let leaves = world.end_life(crash, leaves);
        (world, leaves)
    }

    fn hash(&self) -> u64 {
        let (known, id) = match self.topic {
            Topic::Absent => (0, TopicId::default()),
            Topic::Creating => (1, TopicId::default()),
            Topic::Present(id) => (2, id),
            Topic::Deleting(id) => (3, id),
        };
        let (high, low) = ((id.get() >> 64) as u64, id.get() as u64);
        // What is too old depends on the time.
        let time = self.ground.now_ns / ROLL_NS;
        self.ground.hash(&self.books, [u64::from(self.founded), known, high, low, time])
    }

    fn has_struck(&self) -> bool {
        self.ground.has_struck()
    }

    fn acked(&self) -> u64 {
        self.books.acked_batches()
    }

    fn perform(&mut self, letter: char, watch: Watch<'_>) -> Result<(), String> {
        if self.lame && !matches!(letter, 'S' | 'K') {
            return Ok(());
        }
        let performed = self.perform_strictly(letter, watch);
        performed.or_else(|error| if self.excuses(&error) { Ok(()) } else { Err(error) })
    }

    fn verify(&mut self, watch: Watch<'_>) -> Result<u64, String> {
        let before = self.books.clone();
        let lost = self.open(watch)?;
        let silent: Watch<'_> = &mut |_| Ok(());
        let mut checked = 0;
        if let Topic::Present(_) = self.topic {
            checked += self.compare(silent)?;
            let end = self.books.end();
            let mut there = before.sent.iter().filter(|sent| sent.next <= end);
            if let Some(last) = there.next_back() {
                self.produce(last, true, silent)?;
            }
            for sent in lost {
                self.books.sent.push(sent.clone());
                self.produce(&sent, false, silent)?;
            }
        } else {
            self.create(silent)?;
        }
        self.append(silent)?;
        let (mut next, _) = self.crashed(Crash::PowerLoss, Leaves::Nothing);
        checked += next.is_whole(silent)?;
        // Once its deletion was answered it never comes back, and its name is free.
        self.delete(silent)?;
        self.end_life(Crash::PowerLoss, Leaves::Nothing);
        self.open(silent)?;
        self.create(silent)?;
        self.append(silent)?;
        self.end_life(Crash::PowerLoss, Leaves::Nothing);
        Ok(checked + self.is_whole(silent)?)
    }

    fn after_fault(&mut self) -> Result<u64, String> {
        let silent: Watch<'_> = &mut |_| Ok(());
        self.wait(ROLL_NS, silent)?;
        let open = self.replica().is_some_and(|replica| replica.log().is_some());
        let Topic::Present(_) = self.topic else { return Ok(0) };
        if self.lame || !self.has_struck() {
            return Ok(0);
        }
        if !open {
            return Err("a partition that was open is not, and was not refused".to_owned());
        }
        let poisoned = |log: &catena_log::Log<Heap, _>| log.poisoned().is_some();
        if !self.replica().and_then(Replica::log).is_some_and(poisoned) {
            // It takes more: one call that failed is no reason to refuse for ever.
            self.append(silent)?;
        }
        self.compare(silent)
    }
}

impl World {
    fn perform_strictly(&mut self, letter: char, watch: Watch<'_>) -> Result<(), String> {
        match letter {
            '^' => self.open(watch).map(drop),
            // Only its end would tell what became of a topic whose deletion failed.
            'C' if self.topic != Topic::Absent => Ok(()),
            'C' => self.create(watch),
            'D' => self.delete(watch),
            'A' => self.append(watch),
            'R' => self.wait(ROLL_NS, watch),
            'T' => self.trim(watch),
            'E' => {
                self.books.start_most = self.books.end();
                self.ground.now_ns += AGE_NS;
                self.wait(ROLL_NS, watch)
            }
            'S' => {
                self.node.drain(self.ground.now());
                self.drain(watch)?;
                let excused = self.faulty && self.has_struck();
                if !excused && !self.node.is_idle() {
                    return Err("a node that is drained does not end".to_owned());
                }
                self.restart(watch)
            }
            'K' => self.restart(watch),
            other => Err(format!("{other:?} is none of {}", Self::LETTERS)),
        }
    }

    /// Whether an error is what a call that failed may lead to.
    fn excuses(&self, error: &str) -> bool {
        self.faulty && self.has_struck() && error.starts_with(REFUSED)
    }

    fn end_life(&mut self, crash: Crash, leaves: Leaves) -> Leaves {
        let leaves = self.ground.end_life(crash, leaves);
        self.node = node(!self.founded);
        self.answers.clear();
        self.removals.clear();
        self.lame = false;
        leaves
    }

    fn replica(&self) -> Option<&Replica<Heap>> {
        self.node.replicas().next()
    }

    /// Until nothing is under way.
    fn drain(&mut self, watch: Watch<'_>) -> Result<(), String> {
        loop {
            self.ground.next_burst();
            while let Some((directory, id, op)) = self.node.poll_op() {
                self.ground.submit(key_of(directory), id, op);
            }
            self.observe()?;
            watch(self)?;
            let Some(at_ns) = self.ground.disk.step() else { return Ok(()) };
            self.ground.now_ns = at_ns.max(self.ground.now_ns);
            while let Some((directory, _, done)) = self.ground.disk.poll_done(self.ground.now_ns) {
                self.node.on_done(directory_of(directory), done, self.ground.now());
            }
            self.remove();
            self.ground.count()?;
        }
    }

    /// Removes the files of deleted partitions, as the server does.
    fn remove(&mut self) {
        while let Some(uid) = self.node.poll_removal() {
            self.removals.insert(uid.get());
        }
        self.ground.disk.remove_idle(self.ground.now_ns, &mut self.removals);
    }

    /// Takes what the node tells.
    fn observe(&mut self) -> Result<(), String> {
        while let Some(send) = self.node.poll_send() {
            let (header, head, payload) = parts(&send.bytes, FrameLimits::RESPONSE)?;
            let (head, mut payload) = (head.to_vec(), payload.to_vec());
            send.shares.iter().for_each(|share| payload.extend_from_slice(share.as_ref()));
            self.answers.insert(header.correlation, Answer { head, payload });
        }
        while let Some(notice) = self.node.poll_notice() {
            match notice {
                Notice::Opened(_, report) | Notice::CatalogOpened(report) => {
                    if report.lost_something() {
                        return Err(format!("LOST: recovery says {report}"));
                    }
                }
                _ if self.faulty && self.has_struck() => {}
                other => return Err(format!("LOST: {other:?}")),
            }
        }
        let Topic::Present(_) = self.topic else { return Ok(()) };
        if self.lame {
            return Ok(());
        }
        let Some(replica) = self.replica() else { return Ok(()) };
        let end = replica.high_watermark().get();
        if let Some(log) = replica.log() {
            if !log.damaged().is_empty() {
                return Err(format!("LOST: damaged: {:?}", log.damaged()));
            }
            let start = log.log_start().get();
            self.books.begins_at(start)?;
            self.books.acked_to(end)?;
        }
        Ok(())
    }

    /// So much time passes, in which the node does what is due.
    fn wait(&mut self, ns: u64, watch: Watch<'_>) -> Result<(), String> {
        let until_ns = self.ground.now_ns + ns;
        loop {
            self.drain(watch)?;
            let next = self.node.next_tick().map_or(u64::MAX, |at| at.as_nanos() as u64);
            if next > until_ns {
                break;
            }
            self.ground.now_ns = self.ground.now_ns.max(next);
            self.node.on_tick(self.ground.now());
            self.ground.count()?;
        }
        self.ground.now_ns = self.ground.now_ns.max(until_ns);
        Ok(())
    }

    fn restart(&mut self, watch: Watch<'_>) -> Result<(), String> {
        self.end_life(Crash::ProcessKill, Leaves::Nothing);
        self.open(watch).map(drop)
    }

    /// Begins a life, until the node serves and everything is in the books; tells which batches are
    /// lost that nobody promised.
    fn open(&mut self, watch: Watch<'_>) -> Result<Vec<Sent>, String> {
        self.lame = self.faulty;
        self.drain(watch)?;
        if self.faulty && self.has_struck() {
            // What cannot be opened is tried again.
            self.wait(ROLL_NS, watch)?;
        }
        if self.node.status() != Status::Serving {
            return Err(format!("{REFUSED}the node does not serve: {:?}", self.node.status()));
        }
        self.founded = true;
        self.sweep()?;
        self.node.on_connect(SESSION);
        let hello = HandshakeRequest {
            client: "small".into(),
            client_version: "".into(),
            apis: ApiRange::spoken(&Api::ALL),
            features: 0,
            mechanism: "".into(),
            authentication: (&[][..]).into(),
        };
        let answer = self.ask(Api::Handshake, &hello, &[], watch)?;
        let response = HandshakeResponse::decode(&answer.head).map_err(|e| e.to_string())?;
        done(Api::Handshake, response.error, &response.message)?;
        self.find_topic(watch)?;
        self.lame = false;
        let Some(log) = self.replica().and_then(Replica::log) else { return Ok(Vec::new()) };
        let end = log.log_end().get();
        self.books.ends_at(end)
    }

    /// Removes directories that the catalog does not name, as the server does.
    fn sweep(&mut self) -> Result<(), String> {
        let (known, next) = (self.node.known(), self.node.next_uid());
        let there: Vec<u64> =
            self.ground.disk.directories().filter(|uid| *uid != CATALOG).collect();
        for uid in there.into_iter().filter(|uid| !known.contains(&PartitionUid::new(*uid))) {
            if uid >= next.get() {
                return Err(format!("the catalog forgot that it gave {uid} away"));
            }
            self.ground.disk.remove_files(self.ground.now_ns, uid);
        }
        Ok(())
    }

    /// Holds what the catalog says of the topic against the books.
    fn find_topic(&mut self, watch: Watch<'_>) -> Result<(), String> {
        let there = self.look_up(watch)?;
        self.topic = match (self.topic, there) {
            (Topic::Absent | Topic::Creating | Topic::Deleting(_), None) => {
                self.books = Books::default();
                Topic::Absent
            }
            (Topic::Creating, Some(id)) => Topic::Present(id),
            (Topic::Present(id) | Topic::Deleting(id), Some(there)) if id == there => {
                Topic::Present(id)
            }
            (Topic::Present(_), None) => return Err("LOST: the topic is gone".to_owned()),
            (known, Some(there)) => {
                return Err(format!("{there:?} is there, and known was {known:?}"));
            }
        };
        Ok(())
    }

    /// The topic's id, if there is one.
    fn look_up(&mut self, watch: Watch<'_>) -> Result<Option<TopicId>, String> {
        let request = MetadataRequest { names: vec![TOPIC.into()] };
        let answer = self.ask(Api::Metadata, &request, &[], watch)?;
        let response = MetadataResponse::decode(&answer.head).map_err(|e| e.to_string())?;
        let topic = response.topics.first().ok_or("metadata of no topic")?;
        match topic.error {
            ErrorCode::None => {
                let partition = topic.partitions.first().ok_or("a topic without partitions")?;
                if partition.error != ErrorCode::None {
                    let name = partition.error.name();
                    return Err(format!("{REFUSED}LOST: the partition: {name}"));
                }
                Ok(Some(topic.id))
            }
            ErrorCode::UnknownTopic => Ok(None),
            other => Err(format!("{REFUSED}the topic: {}", other.name())),
        }
    }

    /// Sends a request; the answer, once nothing is under way.
    fn ask<'m, M: Message<'m>>(
        &mut self,
        api: Api,
        request: &M,
        payload: &[u8],
        watch: Watch<'_>,
    ) -> Result<Answer, String> {
        self.correlation += 1;
        let (correlation, mut bytes) = (self.correlation, Vec::new());
        encode_message(api, correlation, request, payload.len(), &mut bytes)
            .map_err(|e| e.to_string())?;
        let (header, head, _) = parts(&bytes, FrameLimits::REQUEST)?;
        self.node.on_message(SESSION, &header, head, payload, self.ground.now());
        self.drain(watch)?;
        if self.faulty && !self.answers.contains_key(&correlation) {
            // What finds no space is tried again.
            self.wait(ROLL_NS, watch)?;
        }
        let answer = self.answers.remove(&correlation);
        answer.ok_or_else(|| format!("{REFUSED}{api:?} is not answered"))
    }

    /// Asks for something that must be done.
    fn order<'m, M: Message<'m>>(
        &mut self,
        api: Api,
        request: &M,
        watch: Watch<'_>,
    ) -> Result<(), String> {
        let answer = self.ask(api, request, &[], watch)?;
        let response = StatusResponse::decode(&answer.head).map_err(|e| e.to_string())?;
        done(api, response.error, &response.message)
    }

    fn create(&mut self, watch: Watch<'_>) -> Result<(), String> {
        self.topic = Topic::Creating;
        self.books = Books::default();
        let setting = |key: &'static str, value: &'static str| Setting {
            key: key.into(),
            value: value.into(),
        };
        let request = CreateTopicRequest {
            name: TOPIC.into(),
            partitions: 1,
            replicas: 0,
            config: vec![
                setting("segment.bytes", "65536"),
                setting("segment.ms", "1000"),
                setting("retention.ms", RETENTION_MS),
            ],
            validate_only: false,
        };
        self.order(Api::CreateTopic, &request, watch)?;
        let id = self.look_up(watch)?.ok_or("a topic that was created is not there")?;
        self.topic = Topic::Present(id);
        Ok(())
    }

    fn delete(&mut self, watch: Watch<'_>) -> Result<(), String> {
        self.topic = Topic::Deleting(self.id()?);
        self.order(Api::DeleteTopic, &DeleteTopicRequest { name: TOPIC.into() }, watch)?;
        self.topic = Topic::Absent;
        self.books = Books::default();
        self.remove();
        // What a crash brings back of the files is nobody's.
        watch(self)
    }

    fn id(&self) -> Result<TopicId, String> {
        match self.topic {
            Topic::Present(id) => Ok(id),
            other => Err(format!("{REFUSED}there is no topic: {other:?}")),
        }
    }

    /// The producer's next batch.
    fn append(&mut self, watch: Watch<'_>) -> Result<(), String> {
        let sent = Sent::new(self.books.end(), false);
        self.books.sent.push(sent.clone());
        let produced = self.produce(&sent, false, watch);
        let log = self.replica().and_then(Replica::log);
        // What was not even taken in is sent to the next life as another one.
        if produced.is_err() && log.is_some_and(|log| log.log_end().get() <= sent.base) {
            self.books.sent.pop();
        }
        produced
    }

    /// Sends a batch, which then is where it belongs; `stored`: was there before.
    fn produce(&mut self, sent: &Sent, stored: bool, watch: Watch<'_>) -> Result<(), String> {
        let request = ProduceRequest {
            topic: self.id()?,
            partition: PARTITION,
            durability: Durability::ChainDisk,
            expect_next_offset: None,
            deadline_ms: 0,
        };
        let answer = self.ask(Api::Produce, &request, &sent.bytes, watch)?;
        let response = ProduceResponse::decode(&answer.head).map_err(|e| e.to_string())?;
        done(Api::Produce, response.error, &response.message)?;
        let place = (response.first_offset.get(), response.next_offset.get());
        if place != (sent.base, sent.next) || response.flags.duplicate != stored {
            let base = sent.base;
            return Err(format!("DUPLICATED: {base} was stored ({stored}): {response:?}"));
        }
        if response.level != Durability::ChainDisk || response.flags.tentative {
            return Err(format!("a receipt that does not keep its word: {response:?}"));
        }
        self.books.acked_to(sent.next)
    }

    /// Raises the log start to the last batch; from there to the end.
    fn trim(&mut self, watch: Watch<'_>) -> Result<(), String> {
        let (start, end) = (self.books.start_least, self.books.end());
        let last = self.books.sent.last().map_or(0, |sent| sent.base);
        let to = if last > start { last } else { end };
        self.books.start_most = self.books.start_most.max(to);
        let request = TrimRequest { topic: self.id()?, partition: PARTITION, to: Offset::new(to) };
        let answer = self.ask(Api::Trim, &request, &[], watch)?;
        let response = TrimResponse::decode(&answer.head).map_err(|e| e.to_string())?;
        done(Api::Trim, response.error, &response.message)?;
        self.books.begins_at(response.log_start.get())
    }

    /// The next life holds everything that was sent, for all of that was acknowledged.
    fn is_whole(&mut self, watch: Watch<'_>) -> Result<u64, String> {
        let lost = self.open(watch)?;
        if !lost.is_empty() {
            return Err("LOST: what was acknowledged before the second crash".to_owned());
        }
        if let Some(last) = self.books.sent.last().cloned() {
            self.produce(&last, true, watch)?;
        }
        self.compare(watch)
    }

    /// Reads everything as a client does; tells how many records.
    fn compare(&mut self, watch: Watch<'_>) -> Result<u64, String> {
        let log = self.replica().and_then(Replica::log).ok_or("the partition is not open")?;
        let (start, end) = (log.log_start().get(), self.books.acked);
        let mut at = start;
        while at < end {
            let request = FetchRequest {
                topic: self.id()?,
                partition: PARTITION,
                offset: Offset::new(at),
                max_bytes: 1 << 20,
                min_bytes: 0,
                max_wait_ms: 0,
            };
            let answer = self.ask(Api::Fetch, &request, &[], watch)?;
            let response = FetchResponse::decode(&answer.head).map_err(|e| e.to_string())?;
            if response.error != ErrorCode::None || answer.payload.is_empty() {
                return Err(format!("LOST: at {at}: {response:?}"));
            }
            let mut rest = &answer.payload[..];
            while !rest.is_empty() {
                let bytes = batch_bytes(rest).ok_or("half a batch is sent")?;
                let (stored, behind) = rest.split_at(bytes);
                at = self.books.read(at, stored).map_err(|error| format!("at {at}: {error}"))?;
                rest = behind;
            }
        }
        Ok(end - start)
    }
}

/// How many bytes the first batch has; `None` when it is not whole.
fn batch_bytes(batches: &[u8]) -> Option<usize> {
    let length = batches.get(8..12)?.try_into().ok()?;
    let bytes = 12 + usize::try_from(i32::from_be_bytes(length)).ok()?;
    (bytes <= batches.len()).then_some(bytes)
}

fn done(api: Api, error: ErrorCode, message: &str) -> Result<(), String> {
    match error {
        ErrorCode::None => Ok(()),
        error => Err(format!("{REFUSED}{api:?}: {}: {message}", error.name())),
    }
}
