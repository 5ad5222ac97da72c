//! Topics, offsets and single fetches.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use catena_format::{
    JoinToken, NodeId, Offset, PartitionIndex, ProducerEpoch, ProducerId, TopicId,
};
use catena_wire::{
    DescribeClusterResponse, DescribeTopicResponse, HeadAddress, OffsetQuery, Setting,
    TopicMetadata,
};
use tokio::time::sleep;

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
/// [`Client::topics`] told which does, else to any node. A call that is dropped may have been done
/// or not.
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
    pub async fn connect(url: &str) -> Result<Self, Error> {
        let mut client = Self::new(url.parse()?);
        client.ping().await?;
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

    /// The connection of a lane, made if there is none, which takes so long at most. What is not
    /// `repeatable` is not asked where the server is gone or, where others can be asked, does not
    /// answer: it may take its time.
    async fn take_connection(
        &mut self,
        lane: Lane,
        repeatable: bool,
        wait: Duration,
    ) -> Result<Connection, Error> {
        if let Some(mut connection) = self.connections.remove(&lane) {
            let others = self.routes()?.nodes.count() > 1;
            let there =
                repeatable || connection.is_open() && (!others || connection.answers(wait).await);
            if there {
                return Ok(connection);
            }
        }
        let hello = Hello { core: lane.core, ..self.hello()? };
        let address = self.routes()?.nodes.address(lane.node, Instant::now());
        let connection = match Connection::open(&address, &hello, wait).await {
            // That core takes no more: any answers for it.
            Err(Error::Server { .. }) => {
                Connection::open(&address, &Hello { core: None, ..hello }, wait).await?
            }
            opened => opened?,
        };
        lane.check(connection.greeting(), &address)?;
        Ok(connection)
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
    async fn run<T>(&mut self, call: Result<Call<T>, Error>, wait: Duration) -> Result<T, Error> {
        let call = call?;
        let whole = self.options.request_timeout;
        let mut patience = Patience::new(Instant::now() + whole, seed());
        loop {
            let share = patience.share(whole, self.routes()?.nodes.count() > 1);
            self.find(call.place, share, &patience).await?;
            let lane = self.routes()?.lane_of(call.place);
            let error = match self.once(lane, &call, wait, share).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            match patience.pause(&error, call.repeatable, Instant::now()) {
                Some(_) if self.routes()?.take_redirected() => {}
                Some(pause) => sleep(pause).await,
                None => return Err(error),
            }
        }
    }

    /// Asks one node after the other where a partition is, until there is no doubt or all were
    /// asked: then it is where it was, or anywhere.
    async fn find(
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
            if let Ok(told) = self.once(lane, &call::metadata(&names)?, Duration::ZERO, share).await
            {
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

    async fn once<T>(
        &mut self,
        lane: Lane,
        call: &Call<T>,
        wait: Duration,
        share: Duration,
    ) -> Result<T, Error> {
        let mut head = None;
        // Whoever drops the call drops the connection with it: half a request may be sent.
        let answer = match self.take_connection(lane, call.repeatable, share).await {
            Ok(mut connection) => {
                let whole = self.options.request_timeout;
                let wait = if call.repeatable { share } else { whole }.saturating_add(wait);
                let answer = connection.call(call.api, &call.head, wait).await;
                self.keep(lane, connection);
                head = answer.as_ref().ok().and_then(|answer| call.head_told(answer));
                answer.and_then(|answer| (call.read)(answer))
            }
            Err(error) => Err(error),
        };
        self.settle(lane, call.place, &answer, head.as_ref());
        answer
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

    async fn ask<T>(&mut self, call: Result<Call<T>, Error>) -> Result<T, Error> {
        self.run(call, Duration::ZERO).await
    }

    /// Asks for a sign of life.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ping(&mut self) -> Result<(), Error> {
        self.ask(call::ping()).await
    }

    /// Creates a topic. With zero partitions it gets as many as the server's setting
    /// `topic.partitions` says.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create_topic(
        &mut self,
        name: &str,
        partitions: u32,
        config: Vec<Setting<'_>>,
    ) -> Result<(), Error> {
        self.ask(call::create_topic(name, partitions, 0, config, false)).await
    }

    /// The same, with so many copies on as many nodes; zero: three, or as many as there are nodes.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create_replicated_topic(
        &mut self,
        name: &str,
        partitions: u32,
        replicas: u8,
        config: Vec<Setting<'_>>,
    ) -> Result<(), Error> {
        self.ask(call::create_topic(name, partitions, replicas, config, false)).await
    }

    /// Says whether [`Client::create_topic`] would be carried out now; nothing is created.
    ///
    /// # Errors
    /// Why not, and see [`Error`].
    pub async fn check_topic(
        &mut self,
        name: &str,
        partitions: u32,
        config: Vec<Setting<'_>>,
    ) -> Result<(), Error> {
        self.ask(call::create_topic(name, partitions, 0, config, true)).await
    }

    /// Makes and takes back settings of a topic.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn alter_topic(
        &mut self,
        name: &str,
        set: Vec<Setting<'_>>,
        remove: Vec<String>,
    ) -> Result<(), Error> {
        let change = TopicChange { set, remove, ..TopicChange::default() };
        self.change_topic(name, change).await
    }

    /// Changes a topic: its settings, its name, how many partitions it has.
    ///
    /// # Errors
    /// [`catena_wire::ErrorCode::InvalidPartitions`] when there would be fewer partitions than
    /// there are; and see [`Error`].
    pub async fn change_topic(&mut self, name: &str, change: TopicChange<'_>) -> Result<(), Error> {
        self.ask(call::alter_topic(name, change)).await
    }

    /// Deletes a topic and its records.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete_topic(&mut self, name: &str) -> Result<(), Error> {
        self.ask(call::delete_topic(name)).await
    }

    /// All topics.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn topics(&mut self) -> Result<Vec<TopicMetadata<'static>>, Error> {
        let told = self.ask(call::metadata(&[])).await?;
        self.learn(Lane::HOME, &told)?;
        Ok(told.topics)
    }

    /// One topic.
    ///
    /// # Errors
    /// [`catena_wire::ErrorCode::UnknownTopic`] when there is none, and see [`Error`].
    pub async fn topic(&mut self, name: &str) -> Result<TopicMetadata<'static>, Error> {
        let mut told = self.ask(call::topic(name)).await?;
        self.learn(Lane::HOME, &told)?;
        told.topics.pop().ok_or_else(|| Error::Protocol("no topic was answered".to_owned()))
    }

    /// Everything about a topic.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn describe_topic(
        &mut self,
        name: &str,
    ) -> Result<DescribeTopicResponse<'static>, Error> {
        self.ask(call::describe_topic(name)).await
    }

    /// An offset of a partition; `None`: no record is as late as the time asked for, or none can be
    /// read from the offset on.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn offset(
        &mut self,
        topic: TopicId,
        partition: PartitionIndex,
        query: OffsetQuery,
    ) -> Result<Option<Offset>, Error> {
        self.ask(call::offset(topic, partition, query)).await
    }

    /// Raises the log start of a partition; tells where it is.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn trim(
        &mut self,
        topic: TopicId,
        partition: PartitionIndex,
        to: Offset,
    ) -> Result<Offset, Error> {
        self.ask(call::trim(topic, partition, to)).await
    }

    /// Allows processes that show this token, drawn at random, to become nodes of the cluster for
    /// so long from now on; zero: no more.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn allow_join(&mut self, token: JoinToken, lifetime: Duration) -> Result<(), Error> {
        self.ask(call::allow_join(token, lifetime)).await
    }

    /// The nodes of the cluster, and what is not as it should be, as the server knows it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn cluster(&mut self) -> Result<DescribeClusterResponse<'static>, Error> {
        self.ask(call::cluster()).await
    }

    /// Has a node leave the cluster for ever: one that does not run, or that is drained.
    ///
    /// # Errors
    /// [`catena_wire::ErrorCode::NodeNeeded`]; and see [`Error`].
    pub async fn remove_node(&mut self, node: NodeId) -> Result<(), Error> {
        self.ask(call::remove_node(node)).await
    }

    /// A node is to hold nothing any more, or may again. It is answered when that is known; the
    /// partitions go in the background.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn drain_node(&mut self, node: NodeId, drain: bool) -> Result<(), Error> {
        self.ask(call::drain_node(node, drain)).await
    }

    /// Each partition whose chain has only nodes that are `lost` for good, none of which runs, and
    /// that has a copy on `node`, goes on with that copy: what it lacks is lost.
    ///
    /// # Errors
    /// [`catena_wire::ErrorCode::InvalidRequest`] when there is none; and see [`Error`].
    pub async fn accept_loss(&mut self, node: NodeId, lost: Vec<NodeId>) -> Result<(), Error> {
        self.ask(call::accept_loss(node, lost)).await
    }

    /// A topic is to have another number of copies, and of members that a chain needs to take
    /// something; zero: as before. Copies are made and removed in the background.
    ///
    /// # Errors
    /// [`catena_wire::ErrorCode::InvalidReplicas`]; and see [`Error`].
    pub async fn replicate_topic(
        &mut self,
        name: &str,
        replicas: u8,
        min_replicas: u8,
    ) -> Result<(), Error> {
        self.ask(call::replicate_topic(name, replicas, min_replicas)).await
    }

    /// A partition's copy goes from a node to another, in the background: it leaves once the other
    /// one is complete.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn move_partition(
        &mut self,
        name: &str,
        partition: PartitionIndex,
        from: NodeId,
        to: NodeId,
    ) -> Result<(), Error> {
        self.ask(call::move_partition(name, partition, (from, to))).await
    }

    /// A producer id that nobody else has.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn producer_id(&mut self) -> Result<(ProducerId, ProducerEpoch), Error> {
        self.ask(call::producer_id()).await
    }

    /// The next epoch of a producer: from now on no partition takes a batch of an older one,
    /// whoever sends it. After the last epoch it is an id of its own.
    ///
    /// # Errors
    /// [`catena_wire::ErrorCode::ProducerFenced`] when somebody else has raised it further;
    /// [`catena_wire::ErrorCode::UnknownProducer`] when no producer has this id; and see [`Error`].
    /// It is not tried again: when the outcome is not known, ask for a new id.
    pub async fn raise_producer(
        &mut self,
        id: ProducerId,
        epoch: ProducerEpoch,
    ) -> Result<(ProducerId, ProducerEpoch), Error> {
        self.ask(call::raise_producer(id, epoch)).await
    }

    /// Batches of a partition from an offset on. Each is checked against its CRC-32C.
    ///
    /// # Errors
    /// [`Error::Unreadable`] says where reading goes on; and see [`Error`].
    pub async fn fetch(
        &mut self,
        topic: TopicId,
        partition: PartitionIndex,
        offset: Offset,
        options: FetchOptions,
    ) -> Result<Fetched, Error> {
        self.run(call::fetch(topic, partition, offset, options), options.max_wait).await
    }

    /// A producer of a topic, on a task and connections of its own.
    ///
    /// # Errors
    /// When the topic is not known or no producer id can be had.
    pub async fn producer(
        &mut self,
        topic: &str,
        options: ProducerOptions,
    ) -> Result<Producer, Error> {
        Producer::new(self, topic, options).await
    }

    /// A consumer of a topic, on a task and connections of its own.
    ///
    /// # Errors
    /// When the topic or a partition is not known, or it cannot be found out where to begin.
    pub async fn consumer(
        &mut self,
        topic: &str,
        options: ConsumerOptions,
    ) -> Result<Consumer, Error> {
        Consumer::new(self, topic, options).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brief;

    #[test]
    fn a_connection_that_ended_meanwhile_is_not_asked_what_cannot_be_asked_twice() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut client = Client::new(Options::new(brief::start()));
            client.ping().await.unwrap();
            for connection in client.connections.values() {
                connection.ended().await;
            }
            client.delete_topic("t").await.unwrap();
        });
    }
}
