//! Topics, offsets and single fetches.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use catena_format::{
    JoinToken, NodeId, Offset, PartitionIndex, ProducerEpoch, ProducerId, TopicId,
};
use catena_wire::{
    DescribeClusterResponse, DescribeTopicResponse, HeadAddress, OffsetQuery, Setting,
    TopicMetadata,
};

use super::{connection::Connection, consumer::Consumer, producer::Producer};
use crate::{
    batch::Fetched,
    core::{
        backoff::Patience,
        call::{self, Call, Told},
        lane::Lane,
        link::Hello,
        nodes::Nodes,
        routes::{CONNECTIONS_MAX, Place, Routes},
    },
    error::Error,
    options::{ConsumerOptions, FetchOptions, Options, ProducerOptions, TopicChange, seed},
};

/// A client of one cluster. It makes its connections when they are needed: to the core that owns
/// the partition asked about on the head of its chain, once [`Client::topic`] or
/// [`Client::topics`] told which does, else to any node.
#[derive(Debug)]
pub struct Client {
    options: Options,
    /// Known from the first connection on.
    known: Option<(Hello, Routes)>,
    connections: BTreeMap<Lane, Connection>,
}

impl Client {
    /// A client; it connects with its first request.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options: options.bounded(), known: None, connections: BTreeMap::new() }
    }

    /// A client by a connection string, see [`Options`], which has reached a server.
    ///
    /// # Errors
    /// [`Error::Option`] when the string is not right, and as [`Client::ping`].
    pub fn connect(url: &str) -> Result<Self, Error> {
        let mut client = Self::new(url.parse()?);
        client.ping()?;
        Ok(client)
    }

    /// How it was set up.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What its connections say first.
    pub(super) fn hello(&mut self) -> Result<Hello, Error> {
        self.known().map(|(hello, _)| hello.clone())
    }

    /// Where its servers are, as far as that is known.
    pub(super) fn nodes(&mut self) -> Result<Nodes, Error> {
        self.routes().map(|routes| routes.nodes.clone())
    }

    fn routes(&mut self) -> Result<&mut Routes, Error> {
        self.known().map(|(_, routes)| routes)
    }

    fn known(&mut self) -> Result<&mut (Hello, Routes), Error> {
        if self.known.is_none() {
            let nodes = Nodes::new(self.options.servers()?);
            self.known = Some((self.options.hello()?, Routes::new(nodes)));
        }
        Ok(self.known.as_mut().expect("it was just made"))
    }

    /// The connection for what is about no partition, made if there is none: to any node. The next
    /// is tried when one failed.
    ///
    /// # Errors
    /// See [`Connection::open`].
    pub fn connection(&mut self) -> Result<&mut Connection, Error> {
        self.connection_to(Lane::HOME, self.options.request_timeout)
    }

    /// The connection of a lane, made if there is none, which takes so long at most.
    fn connection_to(&mut self, lane: Lane, wait: Duration) -> Result<&mut Connection, Error> {
        if !self.connections.contains_key(&lane) {
            let hello = Hello { core: lane.core, ..self.hello()? };
            let address = self.routes()?.nodes.address(lane.node, Instant::now());
            let connection = match Connection::open_as(&address, &hello, wait) {
                // That core takes no more: any answers for it.
                Err(Error::Server { .. }) => {
                    Connection::open_as(&address, &Hello { core: None, ..hello }, wait)?
                }
                opened => opened?,
            };
            lane.check(connection.greeting(), &address)?;
            self.keep(lane, connection);
        }
        Ok(self.connections.get_mut(&lane).expect("it was just opened"))
    }

    fn keep(&mut self, lane: Lane, connection: Connection) {
        if self.connections.len() >= CONNECTIONS_MAX {
            self.connections.pop_first();
        }
        self.connections.insert(lane, connection);
    }

    /// A request that changes nothing is tried again for as long as a request may take, when the
    /// server cannot answer it yet or the connection broke; any other when there was no connection,
    /// or it is to be asked elsewhere.
    fn run<T>(&mut self, call: Result<Call<T>, Error>, wait: Duration) -> Result<T, Error> {
        let call = call?;
        let whole = self.options.request_timeout;
        let mut patience = Patience::new(Instant::now() + whole, seed());
        loop {
            let share = patience.share(whole, self.routes()?.nodes.count() > 1);
            self.find(call.place, share, &patience)?;
            let lane = self.routes()?.lane_of(call.place);
            let error = match self.once(lane, &call, wait, share) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            match patience.pause(&error, call.repeatable, Instant::now()) {
                Some(_) if self.routes()?.take_redirected() => {}
                Some(pause) => thread::sleep(pause),
                None => return Err(error),
            }
        }
    }

    /// Asks one node after the other where a partition is, until there is no doubt or all were
    /// asked: then it is where it was, or anywhere.
    fn find(
        &mut self,
        place: Option<Place>,
        share: Duration,
        patience: &Patience,
    ) -> Result<(), Error> {
        for _ in 0..self.routes()?.nodes.count() {
            let Some((lane, names)) = self.routes()?.question(place) else { break };
            if patience.is_over(Instant::now()) {
                break;
            }
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            if let Ok(told) = self.once(lane, &call::metadata(&names)?, Duration::ZERO, share) {
                self.learn(lane, &told)?;
            }
            if place.is_some_and(|place| self.is_doubted(place)) {
                // The next is asked.
                self.connections.remove(&Lane::HOME);
            }
        }
        Ok(())
    }

    fn is_doubted(&self, place: Place) -> bool {
        self.known.as_ref().is_some_and(|(_, routes)| routes.is_doubted(place))
    }

    /// Takes in what was just told on a lane.
    fn learn(&mut self, lane: Lane, told: &Told) -> Result<(), Error> {
        let asked = self.connections.get(&lane).map(|asked| asked.address().to_owned());
        self.routes()?.on_told(told, &asked.unwrap_or_default());
        Ok(())
    }

    fn once<T>(
        &mut self,
        lane: Lane,
        call: &Call<T>,
        wait: Duration,
        share: Duration,
    ) -> Result<T, Error> {
        if !call.repeatable {
            self.look_after(lane, share);
        }
        let whole = self.options.request_timeout;
        let wait = if call.repeatable { share } else { whole }.saturating_add(wait);
        let mut head = None;
        let answer = self.connection_to(lane, share).and_then(|connection| {
            connection.set_wait(wait)?;
            let answer = connection.call_head(call.api, &call.head)?;
            head = call.head_told(&answer);
            (call.read)(answer)
        });
        self.settle(lane, call.place, &answer, head.as_ref());
        answer
    }

    /// What cannot be asked twice is not asked where the server is gone or, where others can be
    /// asked, does not answer: it may take its time.
    fn look_after(&mut self, lane: Lane, share: Duration) {
        let Some((_, routes)) = &self.known else { return };
        let Some(connection) = self.connections.get_mut(&lane) else { return };
        let answers = |connection: &mut Connection| -> Result<(), Error> {
            connection.set_wait(share)?;
            let ping = call::ping()?;
            (ping.read)(connection.call_head(ping.api, &ping.head)?)
        };
        let there =
            connection.is_open() && (routes.nodes.count() < 2 || answers(connection).is_ok());
        if !there {
            self.connections.remove(&lane);
        }
    }

    /// Remembers what an answer tells of a lane.
    fn settle<T>(
        &mut self,
        lane: Lane,
        place: Option<Place>,
        answer: &Result<T, Error>,
        head: Option<&HeadAddress<'_>>,
    ) {
        let Some((_, routes)) = &mut self.known else { return };
        match answer {
            Ok(_) => routes.on_done(place, lane),
            Err(_) if routes.on_moved(place, head) => {}
            Err(error) => {
                if routes.on_failed(place, lane, error, Instant::now()) {
                    self.connections.remove(&lane);
                }
            }
        }
    }

    fn ask<T>(&mut self, call: Result<Call<T>, Error>) -> Result<T, Error> {
        self.run(call, Duration::ZERO)
    }

    /// Asks for a sign of life.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn ping(&mut self) -> Result<(), Error> {
        self.ask(call::ping())
    }

    /// Creates a topic. With zero partitions it gets as many as the server's setting
    /// `topic.partitions` says.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn create_topic(
        &mut self,
        name: &str,
        partitions: u32,
        config: Vec<Setting<'_>>,
    ) -> Result<(), Error> {
        self.ask(call::create_topic(name, partitions, 0, config, false))
    }

    /// The same, with so many copies on as many nodes; zero: three, or as many as there are nodes.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn create_replicated_topic(
        &mut self,
        name: &str,
        partitions: u32,
        replicas: u8,
        config: Vec<Setting<'_>>,
    ) -> Result<(), Error> {
        self.ask(call::create_topic(name, partitions, replicas, config, false))
    }

    /// Says whether [`Client::create_topic`] would be carried out now; nothing is created.
    ///
    /// # Errors
    /// Why not, and see [`Error`].
    pub fn check_topic(
        &mut self,
        name: &str,
        partitions: u32,
        config: Vec<Setting<'_>>,
    ) -> Result<(), Error> {
        self.ask(call::create_topic(name, partitions, 0, config, true))
    }

    /// Makes and takes back settings of a topic.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn alter_topic(
        &mut self,
        name: &str,
        set: Vec<Setting<'_>>,
        remove: Vec<String>,
    ) -> Result<(), Error> {
        let change = TopicChange { set, remove, ..TopicChange::default() };
        self.change_topic(name, change)
    }

    /// Changes a topic: its settings, its name, how many partitions it has.
    ///
    /// # Errors
    /// [`catena_wire::ErrorCode::InvalidPartitions`] when there would be fewer partitions than
    /// there are; and see [`Error`].
    pub fn change_topic(&mut self, name: &str, change: TopicChange<'_>) -> Result<(), Error> {
        self.ask(call::alter_topic(name, change))
    }

    /// Deletes a topic and its records.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn delete_topic(&mut self, name: &str) -> Result<(), Error> {
        self.ask(call::delete_topic(name))
    }

    /// All topics.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn topics(&mut self) -> Result<Vec<TopicMetadata<'static>>, Error> {
        let told = self.ask(call::metadata(&[]))?;
        self.learn(Lane::HOME, &told)?;
        Ok(told.topics)
    }

    /// One topic.
    ///
    /// # Errors
    /// [`catena_wire::ErrorCode::UnknownTopic`] when there is none, and see [`Error`].
    pub fn topic(&mut self, name: &str) -> Result<TopicMetadata<'static>, Error> {
        let mut told = self.ask(call::topic(name))?;
        self.learn(Lane::HOME, &told)?;
        told.topics.pop().ok_or_else(|| Error::Protocol("no topic was answered".to_owned()))
    }

    /// Everything about a topic.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn describe_topic(&mut self, name: &str) -> Result<DescribeTopicResponse<'static>, Error> {
        self.ask(call::describe_topic(name))
    }

    /// An offset of a partition; `None`: no record is as late as the time asked for, or none can be
    /// read from the offset on.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn offset(
        &mut self,
        topic: TopicId,
        partition: PartitionIndex,
        query: OffsetQuery,
    ) -> Result<Option<Offset>, Error> {
        self.ask(call::offset(topic, partition, query))
    }

    /// Raises the log start of a partition; tells where it is.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn trim(
        &mut self,
        topic: TopicId,
        partition: PartitionIndex,
        to: Offset,
    ) -> Result<Offset, Error> {
        self.ask(call::trim(topic, partition, to))
    }

    /// Allows processes that show this token, drawn at random, to become nodes of the cluster for
    /// so long from now on; zero: no more.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn allow_join(&mut self, token: JoinToken, lifetime: Duration) -> Result<(), Error> {
        self.ask(call::allow_join(token, lifetime))
    }

    /// The nodes of the cluster, and what is not as it should be, as the server knows it.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn cluster(&mut self) -> Result<DescribeClusterResponse<'static>, Error> {
        self.ask(call::cluster())
    }

    /// Has a node leave the cluster for ever: one that does not run, or that is drained.
    ///
    /// # Errors
    /// [`catena_wire::ErrorCode::NodeNeeded`]; and see [`Error`].
    pub fn remove_node(&mut self, node: NodeId) -> Result<(), Error> {
        self.ask(call::remove_node(node))
    }

    /// A node is to hold nothing any more, or may again. It is answered when that is known; the
    /// partitions go in the background.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn drain_node(&mut self, node: NodeId, drain: bool) -> Result<(), Error> {
        self.ask(call::drain_node(node, drain))
    }

    /// Each partition whose chain has only nodes that are `lost` for good, none of which runs, and
    /// that has a copy on `node`, goes on with that copy: what it lacks is lost.
    ///
    /// # Errors
    /// [`catena_wire::ErrorCode::InvalidRequest`] when there is none; and see [`Error`].
    pub fn accept_loss(&mut self, node: NodeId, lost: Vec<NodeId>) -> Result<(), Error> {
        self.ask(call::accept_loss(node, lost))
    }

    /// A topic is to have another number of copies, and of members that a chain needs to take
    /// something; zero: as before. Copies are made and removed in the background.
    ///
    /// # Errors
    /// [`catena_wire::ErrorCode::InvalidReplicas`]; and see [`Error`].
    pub fn replicate_topic(
        &mut self,
        name: &str,
        replicas: u8,
        min_replicas: u8,
    ) -> Result<(), Error> {
        self.ask(call::replicate_topic(name, replicas, min_replicas))
    }

    /// A partition's copy goes from a node to another, in the background: it leaves once the other
    /// one is complete.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn move_partition(
        &mut self,
        name: &str,
        partition: PartitionIndex,
        from: NodeId,
        to: NodeId,
    ) -> Result<(), Error> {
        self.ask(call::move_partition(name, partition, (from, to)))
    }

    /// A producer id that nobody else has.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn producer_id(&mut self) -> Result<(ProducerId, ProducerEpoch), Error> {
        self.ask(call::producer_id())
    }

    /// The next epoch of a producer: from now on no partition takes a batch of an older one,
    /// whoever sends it. After the last epoch it is an id of its own.
    ///
    /// # Errors
    /// [`catena_wire::ErrorCode::ProducerFenced`] when somebody else has raised it further;
    /// [`catena_wire::ErrorCode::UnknownProducer`] when no producer has this id; and see [`Error`].
    /// It is not tried again: when the outcome is not known, ask for a new id.
    pub fn raise_producer(
        &mut self,
        id: ProducerId,
        epoch: ProducerEpoch,
    ) -> Result<(ProducerId, ProducerEpoch), Error> {
        self.ask(call::raise_producer(id, epoch))
    }

    /// Batches of a partition from an offset on. Each is checked against its CRC-32C.
    ///
    /// # Errors
    /// [`Error::Unreadable`] says where reading goes on; and see [`Error`].
    pub fn fetch(
        &mut self,
        topic: TopicId,
        partition: PartitionIndex,
        offset: Offset,
        options: FetchOptions,
    ) -> Result<Fetched, Error> {
        self.run(call::fetch(topic, partition, offset, options), options.max_wait)
    }

    /// A producer of a topic, on threads and connections of its own.
    ///
    /// # Errors
    /// When the topic is not known or no producer id can be had.
    pub fn producer(&mut self, topic: &str, options: ProducerOptions) -> Result<Producer, Error> {
        Producer::new(self, topic, options)
    }

    /// A consumer of a topic, on threads and connections of its own.
    ///
    /// # Errors
    /// When the topic or a partition is not known, or it cannot be found out where to begin.
    pub fn consumer(&mut self, topic: &str, options: ConsumerOptions) -> Result<Consumer, Error> {
        Consumer::new(self, topic, options)
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpStream, os::fd::AsFd};

    use super::*;
    use crate::brief;

    #[test]
    fn a_connection_that_ended_meanwhile_is_not_asked_what_cannot_be_asked_twice() {
        let mut client = Client::new(Options::new(brief::start()));
        client.ping().unwrap();
        for connection in client.connections.values() {
            let socket = TcpStream::from(connection.as_fd().try_clone_to_owned().unwrap());
            // Nothing more comes: it returns when the end is known here.
            assert_eq!(socket.peek(&mut [0]).unwrap(), 0);
        }
        client.delete_topic("t").unwrap();
    }
}
