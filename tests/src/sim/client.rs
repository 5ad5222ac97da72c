//! Simulated clients: producers that retry under the same sequences, readers that wander. They
//! speak the real protocol.
//!
//! ```text
//! Client ─┬ Line: connection, calls under way, greeting, which topic the name leads to
//!         └ Kind: Producer, Reader (fetches or subscribes), Admin, Copier
//! ```

mod admin;
mod copier;
mod line;
mod operator;
mod producer;
mod reader;
mod subscriber;

use std::collections::BTreeMap;

use catena_format::NodeId;
use catena_wire::{
    Api, ErrorCode, FrameHeader, Message, MetadataResponse, Push, Setting, TopicMetadata,
};

pub use self::copier::Copy;
use self::{
    admin::Admin,
    copier::Copier,
    line::{Line, Stage},
    producer::Producer,
    reader::Reader,
};
use super::{
    deeds::Deed,
    oracle::{Name, Oracle, Part},
    random::Random,
};

/// The topic that all use.
pub const TOPIC: &str = "t";

/// What all clients of a world know of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// How many partitions the topic has when it is created.
    pub created: u32,
    /// How many once they have been added to.
    pub grown: u32,
    /// The topic's settings.
    pub config: Vec<Setting<'static>>,
    /// Readers sometimes raise the log start.
    pub trims: bool,
    /// How often the topic is deleted, and created once more.
    pub deletions: u32,
    /// How many nodes there are.
    pub nodes: u16,
    /// Copies of each partition, at first.
    pub replicas: u8,
    /// Nodes are drained and copies moved.
    pub operates: bool,
}

enum Kind {
    Producer(Producer),
    Reader(Reader),
    Admin(Admin),
    Copier(Copier),
}

/// A client.
pub struct Client {
    line: Line,
    kind: Kind,
}

impl Client {
    fn new(number: u32, random: Random, plan: &Plan, kind: Kind) -> Self {
        Self { line: Line::new(number, random, plan.clone()), kind }
    }

    /// A producer.
    #[must_use]
    pub fn producer(number: u32, mut random: Random, plan: &Plan) -> Self {
        let kind = Kind::Producer(Producer::new(number % plan.grown, &mut random));
        Self::new(number, random, plan, kind)
    }

    /// A reader of random places.
    #[must_use]
    pub fn reader(number: u32, random: Random, plan: &Plan) -> Self {
        Self::new(number, random, plan, Kind::Reader(Reader::new(number % plan.grown)))
    }

    /// A reader that is pushed batches from random places on.
    #[must_use]
    pub fn subscriber(number: u32, random: Random, plan: &Plan) -> Self {
        Self::new(number, random, plan, Kind::Reader(Reader::subscriber(number % plan.grown)))
    }

    /// A reader that reads a partition once from end to end, as a node has it.
    #[must_use]
    pub fn checker(
        number: u32,
        random: Random,
        (partition, node): (u32, NodeId),
        plan: &Plan,
    ) -> Self {
        Self::new(number, random, plan, Kind::Reader(Reader::checker(partition, node)))
    }

    /// Who creates the topic, adds partitions, and deletes it.
    #[must_use]
    pub fn admin(number: u32, random: Random, plan: &Plan) -> Self {
        Self::new(number, random, plan, Kind::Admin(Admin::new(plan.deletions)))
    }

    /// The second connection of every producer.
    #[must_use]
    pub fn copier(number: u32, random: Random, plan: &Plan) -> Self {
        Self::new(number, random, plan, Kind::Copier(Copier::default()))
    }

    /// When it acts next by itself.
    #[must_use]
    pub fn wake_ns(&self) -> u64 {
        self.line.wake_ns
    }

    /// Until when it takes nothing.
    #[must_use]
    pub fn paused_ns(&self) -> u64 {
        self.line.paused_ns
    }

    /// It neither reads nor sends until then.
    pub fn pause(&mut self, until_ns: u64) {
        self.line.pause(until_ns);
    }

    /// It hung up and wants a new connection.
    #[must_use]
    pub fn hung_up(&self) -> bool {
        self.line.hung_up
    }

    /// It produces nothing new, or goes on.
    pub fn finish(&mut self, finishing: bool) {
        self.line.finishing = finishing;
    }

    /// It does something now at which a crash would be bad.
    pub fn take_peril(&mut self) -> bool {
        std::mem::take(&mut self.line.peril)
    }

    /// The connection is gone: everything unanswered is sent again on the next.
    pub fn on_disconnect(&mut self, now_ns: u64) {
        self.line.hang_up(now_ns);
        self.tidy();
    }

    /// The node that it wants to be connected to.
    #[must_use]
    pub fn wanted(&self) -> Option<NodeId> {
        self.line.wanted
    }

    /// A new connection stands.
    pub fn on_connect(&mut self, node: NodeId, now_ns: u64) {
        self.line.greet(node, now_ns);
    }

    /// The next message to send.
    pub fn poll_message(&mut self) -> Option<Vec<u8>> {
        self.line.out.pop_front()
    }

    /// The next batch that is to be sent on a second connection too.
    pub fn poll_copy(&mut self) -> Option<Copy> {
        match &mut self.kind {
            Kind::Producer(producer) => producer.copies.pop(),
            _ => None,
        }
    }

    /// A batch of a producer's, to be sent once more.
    pub fn take_copy(&mut self, copy: Copy) {
        if let Kind::Copier(copier) = &mut self.kind {
            copier.take(copy);
        }
    }

    /// A producer with nothing unacknowledged, or an admin that has added partitions.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match &self.kind {
            Kind::Producer(producer) => producer.is_done(),
            Kind::Admin(admin) => admin.is_done() && self.line.stage == Stage::Running,
            Kind::Reader(_) | Kind::Copier(_) => true,
        }
    }

    /// Pushes that a subscriber has taken.
    #[must_use]
    pub fn pushes(&self) -> u64 {
        match &self.kind {
            Kind::Reader(reader) => reader.pushes(),
            _ => 0,
        }
    }

    /// What a checker has read, and up to where.
    #[must_use]
    pub fn checked(&self) -> Option<(Part, NodeId, u64, &BTreeMap<u64, Name>)> {
        match &self.kind {
            Kind::Reader(reader) => reader.checked(self.line.topic),
            _ => None,
        }
    }

    /// What hung up in the middle of something forgets what it waited for.
    fn tidy(&mut self) {
        if self.line.stage != Stage::Away {
            return;
        }
        match &mut self.kind {
            Kind::Producer(producer) => producer.on_hang_up(),
            Kind::Reader(reader) => reader.on_hang_up(),
            Kind::Admin(_) => {}
            Kind::Copier(copier) => copier.on_hang_up(),
        }
    }

    /// Time to do something.
    pub fn on_wake(&mut self, oracle: &mut Oracle) {
        let line = &mut self.line;
        // Several nodes take longer, each time that one of them is gone.
        let longest_ns = if line.plan.nodes == 1 { 400_000 } else { 2_000_000 };
        line.wake_ns = oracle.now_ns + 20_000 + line.random.below(longest_ns);
        if line.stage != Stage::Running {
            return;
        }
        if line.random.chance(2_000) {
            if !line.calls.is_empty() {
                oracle.did(Deed::HungUp);
            }
            return self.on_disconnect(oracle.now_ns);
        }
        if line.random.chance(500) {
            oracle.did(Deed::Paused);
            let ns = 1_000_000 + line.random.below(200_000_000);
            return line.pause(oracle.now_ns + ns);
        }
        match &mut self.kind {
            Kind::Producer(producer) => producer.on_wake(line, oracle),
            Kind::Reader(reader) => reader.on_wake(line, oracle),
            Kind::Admin(admin) => admin.on_wake(line, oracle),
            Kind::Copier(copier) => copier.on_wake(line, oracle),
        }
        self.tidy();
    }

    /// A response has come.
    ///
    /// # Errors
    /// Says what the node broke.
    pub fn on_message(
        &mut self,
        header: &FrameHeader,
        head: &[u8],
        payload: &[u8],
        oracle: &mut Oracle,
    ) -> Result<(), String> {
        let result = self.take(header, head, payload, oracle);
        self.tidy();
        result.map_err(|error| format!("client {}: {error}", self.line.number))
    }

    fn take(
        &mut self,
        header: &FrameHeader,
        head: &[u8],
        payload: &[u8],
        oracle: &mut Oracle,
    ) -> Result<(), String> {
        let (line, correlation) = (&mut self.line, header.correlation);
        if header.api == Api::Push as u8 {
            let push = Push::decode(head).map_err(|e| format!("a push: {e}"))?;
            let Kind::Reader(reader) = &mut self.kind else { return Err("a push".to_owned()) };
            return reader.pushed(line, correlation, &push, payload, oracle);
        }
        let Some(call) = line.calls.remove(&correlation) else { return Ok(()) };
        let api = call.api;
        let garbled = |e: catena_wire::WireError| format!("a response of {api:?}: {e}");
        match (api, &mut self.kind) {
            (Api::Handshake, _) => {
                line.locate(oracle.now_ns);
                Ok(())
            }
            (Api::Metadata, _) => {
                let response = MetadataResponse::decode(head).map_err(garbled)?;
                self.located(&response, call.sent_ns, oracle)
            }
            (Api::Produce, Kind::Copier(copier)) => {
                copier.answered(line, correlation, head, oracle)
            }
            (Api::Produce | Api::ProducerId, Kind::Producer(producer)) => {
                producer.answered(line, &call, correlation, head, oracle)
            }
            (_, Kind::Reader(reader)) => reader.answered(line, &call, head, payload, oracle),
            (_, Kind::Admin(admin)) => admin.answered(line, &call, head, oracle),
            (other, _) => Err(format!("{other:?} was never asked")),
        }
    }

    /// What the topic's name leads to.
    fn located(
        &mut self,
        response: &MetadataResponse<'_>,
        asked_ns: u64,
        oracle: &mut Oracle,
    ) -> Result<(), String> {
        let line = &mut self.line;
        let topic = response.topics.first().filter(|_| response.error == ErrorCode::None);
        match topic.map(|topic| (topic.error, topic.id)) {
            Some((ErrorCode::UnknownTopic, _)) => {
                // A node of several may not have heard of it yet.
                if line.plan.nodes == 1 {
                    oracle.topics.missed(asked_ns)?;
                }
                match &mut self.kind {
                    Kind::Admin(admin) => admin.missed(line, oracle),
                    _ => line.hang_up(oracle.now_ns),
                }
                return Ok(());
            }
            // Before it is ready it may still go away in a crash.
            Some((ErrorCode::None, id)) => {
                oracle.topics.located(id, asked_ns, oracle.now_ns)?;
                let anew = std::mem::replace(&mut line.topic, id) != id;
                line.stage = Stage::Running;
                if let Some(topic) = topic
                    && let Some(other) = elsewhere(&self.kind, line, topic)
                {
                    line.hang_up(oracle.now_ns);
                    line.wanted = Some(other);
                    return Ok(());
                }
                match &mut self.kind {
                    Kind::Producer(producer) => producer.located(line, anew, oracle),
                    Kind::Reader(reader) if anew => reader.begin(),
                    Kind::Admin(admin) if anew => admin.begin(),
                    Kind::Reader(_) | Kind::Admin(_) | Kind::Copier(_) => {}
                }
            }
            _ => line.hang_up(oracle.now_ns),
        }
        Ok(())
    }
}

/// The node to go to for a client's partition, if that is not the one it has asked: producers need
/// the head of the chain, readers any member.
fn elsewhere(kind: &Kind, line: &mut Line, topic: &TopicMetadata<'_>) -> Option<NodeId> {
    let chain = |partition: u32| topic.partitions.get(partition as usize).map(|p| &*p.chain);
    match kind {
        Kind::Admin(_) => None,
        Kind::Producer(producer) => chain(producer.partition())?.first().copied(),
        Kind::Copier(_) => {
            let partition = line.random.below(topic.partitions.len().max(1) as u64) as u32;
            chain(partition)?.first().copied()
        }
        Kind::Reader(reader) => match reader.node() {
            Some(node) => Some(node),
            None => {
                let chain = chain(reader.partition)?;
                let any = line.random.below(chain.len().max(1) as u64) as usize;
                let there = chain.contains(&line.node);
                chain.get(any).copied().filter(|_| !there)
            }
        },
    }
    .filter(|node| *node != line.node)
}
