//! Topics, offsets and single fetches.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use catena_format::{JoinToken, Offset, PartitionIndex, ProducerEpoch, ProducerId, TopicId};
use catena_wire::{DescribeTopicResponse, OffsetQuery, Setting, TopicMetadata};

use super::{connection::Connection, consumer::Consumer, producer::Producer};
use crate::{
    batch::Fetched,
    core::{
        backoff::Patience,
        call::{self, Call},
        link::Hello,
        owners::{FIRST, Owners},
    },
    error::Error,
    options::{ConsumerOptions, FetchOptions, Options, ProducerOptions, TopicChange, seed},
};

/// A client of one cluster. It makes its connections when they are needed: to the core that owns
/// the partition asked about, once [`Client::topic`] or [`Client::topics`] told which does, else to
/// the first.
#[derive(Debug)]
pub struct Client {
    options: Options,
    /// Known from the first connection on.
    hello: Option<Hello>,
    /// By the core that was asked for.
    connections: BTreeMap<u16, Connection>,
    owners: Owners,
    /// Which server is next.
    turn: usize,
}

impl Client {
    /// A client; it connects with its first request.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let (connections, owners) = (BTreeMap::new(), Owners::default());
        Self { options: options.bounded(), hello: None, connections, owners, turn: 0 }
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
        if self.hello.is_none() {
            self.hello = Some(self.options.hello()?);
        }
        Ok(self.hello.clone().expect("it was just made"))
    }

    /// The connection for what is about no partition, made if there is none. With several servers
    /// the next is tried when one failed.
    ///
    /// # Errors
    /// See [`Connection::open`].
    pub fn connection(&mut self) -> Result<&mut Connection, Error> {
        self.connection_to(FIRST)
    }

    fn connection_to(&mut self, core: u16) -> Result<&mut Connection, Error> {
        if !self.connections.contains_key(&core) {
            let hello = Hello { core: Some(core), ..self.hello()? };
            let servers = self.options.servers()?;
            let server = &servers[self.turn % servers.len()];
            self.turn = self.turn.wrapping_add(1);
            let wait = self.options.request_timeout;
            let connection = match Connection::open_as(server, &hello, wait) {
                // That core takes no more: any answers for it.
                Err(Error::Server { .. }) => {
                    Connection::open_as(server, &Hello { core: None, ..hello }, wait)?
                }
                opened => opened?,
            };
            self.connections.insert(core, connection);
        }
        Ok(self.connections.get_mut(&core).expect("it was just opened"))
    }

    /// A request that changes nothing is tried again for as long as a request may take, when the
    /// server cannot answer it yet or the connection broke; any other when there was no connection.
    fn run<T>(&mut self, call: Result<Call<T>, Error>, wait: Duration) -> Result<T, Error> {
        let call = call?;
        let mut patience = Patience::new(Instant::now() + self.options.request_timeout, seed());
        loop {
            if let Some(topic) = self.owners.take_doubt(call.place) {
                // What is not known goes to any core, which forwards it.
                if let Ok(topic) = self.once(&call::topic(&topic)?, Duration::ZERO) {
                    self.owners.remember(&topic);
                }
            }
            let error = match self.once(&call, wait) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            match patience.pause(&error, call.repeatable, Instant::now()) {
                Some(pause) => thread::sleep(pause),
                None => return Err(error),
            }
        }
    }

    fn once<T>(&mut self, call: &Call<T>, wait: Duration) -> Result<T, Error> {
        let wait = self.options.request_timeout.saturating_add(wait);
        let core = self.owners.core(call.place);
        // What cannot be asked twice is not asked where the server is gone.
        let gone = |connection: &mut Connection| !call.repeatable && !connection.is_open();
        if self.connections.get_mut(&core).is_some_and(gone) {
            self.connections.remove(&core);
            self.owners.doubt();
        }
        let connection = self.connection_to(core)?;
        let answer = connection
            .set_wait(wait)
            .and_then(|()| connection.call_head(call.api, &call.head))
            .and_then(|answer| (call.read)(answer));
        if matches!(answer, Err(Error::Connection { .. } | Error::Protocol(_))) {
            self.connections.remove(&core);
            self.owners.doubt();
        }
        answer
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
        let topics = self.ask(call::topics())?;
        topics.iter().for_each(|topic| self.owners.remember(topic));
        Ok(topics)
    }

    /// One topic.
    ///
    /// # Errors
    /// [`catena_wire::ErrorCode::UnknownTopic`] when there is none, and see [`Error`].
    pub fn topic(&mut self, name: &str) -> Result<TopicMetadata<'static>, Error> {
        let topic = self.ask(call::topic(name))?;
        self.owners.remember(&topic);
        Ok(topic)
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
