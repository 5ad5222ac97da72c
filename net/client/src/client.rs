//! Topics and reading.

use std::time::{Duration, Instant};

use bytes::Bytes;
use catena_format::{BatchHeader, Offset, PartitionIndex, ProducerEpoch, ProducerId, TopicId};
use catena_wire::{
    AlterTopicRequest, Api, CreateTopicRequest, DeleteTopicRequest, DescribeTopicRequest,
    DescribeTopicResponse, ErrorCode, FetchRequest, FetchResponse, ListOffsetsRequest,
    ListOffsetsResponse, Message, MetadataRequest, MetadataResponse, OffsetQuery,
    ProducerIdRequest, ProducerIdResponse, Setting, StatusResponse, TopicMetadata, TrimRequest,
    TrimResponse,
};

use crate::{
    batch::{Fetched, split},
    connection::Connection,
    error::Error,
};

/// How a client behaves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Where the server is, `host:port`.
    pub server: String,
    /// How long a request may take.
    pub request_timeout: Duration,
}

/// A client of one server, with a connection that is made when needed.
#[derive(Debug)]
pub struct Client {
    options: Options,
    connection: Option<Connection>,
}

/// What a fetch asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchOptions {
    /// Bytes of batches at most, but at least one batch.
    pub max_bytes: u32,
    /// How long to wait when there is nothing yet.
    pub max_wait: Duration,
}

impl Client {
    /// A client; it connects with its first request.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options, connection: None }
    }

    /// How it was set up.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The connection, made if there is none.
    ///
    /// # Errors
    /// See [`Connection::open`].
    pub fn connection(&mut self) -> Result<&mut Connection, Error> {
        if self.connection.is_none() {
            let opened = Connection::open(&self.options.server, self.options.request_timeout)?;
            self.connection = Some(opened);
        }
        Ok(self.connection.as_mut().expect("a connection was just opened"))
    }

    fn call<'q, Q: Message<'q>, R: Message<'static, Owned = R>>(
        &mut self,
        api: Api,
        request: &Q,
    ) -> Result<(R, Vec<u8>), Error> {
        let answer = self.connection()?.call(api, request, &[]);
        if matches!(answer, Err(Error::Connection { .. } | Error::Protocol(_))) {
            self.connection = None;
        }
        answer
    }

    /// A request that changes nothing is tried again for as long as a request may take, when the
    /// server cannot answer it yet or the connection broke.
    fn patiently<T>(
        &mut self,
        mut ask: impl FnMut(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let began = Instant::now();
        let mut pause = Duration::from_millis(2);
        loop {
            match ask(self) {
                Err(error)
                    if (error.is_retriable() || matches!(error, Error::Connection { .. }))
                        && began.elapsed() + pause < self.options.request_timeout =>
                {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(200));
                }
                answer => return answer,
            }
        }
    }

    fn status<'q, Q: Message<'q>>(&mut self, api: Api, request: &Q) -> Result<(), Error> {
        let (status, _) = self.call::<_, StatusResponse<'_>>(api, request)?;
        Error::check(status.error, &status.message)
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn create_topic(
        &mut self,
        name: &str,
        partitions: u32,
        config: Vec<Setting<'_>>,
    ) -> Result<(), Error> {
        let (name, validate_only) = (name.into(), false);
        let request = CreateTopicRequest { name, partitions, replicas: 0, config, validate_only };
        self.status(Api::CreateTopic, &request)
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
        let remove = remove.into_iter().map(Into::into).collect();
        let (name, partitions, new_name) = (name.into(), 0, "".into());
        let request = AlterTopicRequest { name, set, remove, partitions, new_name };
        self.status(Api::AlterTopic, &request)
    }

    /// Deletes a topic and its records.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn delete_topic(&mut self, name: &str) -> Result<(), Error> {
        self.status(Api::DeleteTopic, &DeleteTopicRequest { name: name.into() })
    }

    /// All topics.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn topics(&mut self) -> Result<Vec<TopicMetadata<'static>>, Error> {
        let request = MetadataRequest { names: Vec::new() };
        let (response, _) = self.call::<_, MetadataResponse<'_>>(Api::Metadata, &request)?;
        Error::check(response.error, &response.message)?;
        Ok(response.topics)
    }

    /// One topic.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownTopic`] when there is none, and see [`Error`].
    pub fn topic(&mut self, name: &str) -> Result<TopicMetadata<'static>, Error> {
        let request = MetadataRequest { names: vec![name.into()] };
        self.patiently(|client| {
            let (response, _) = client.call::<_, MetadataResponse<'_>>(Api::Metadata, &request)?;
            Error::check(response.error, &response.message)?;
            let topic = response.topics.into_iter().next();
            let topic = topic.ok_or_else(|| Error::Protocol("no topic was answered".to_owned()))?;
            Error::check(topic.error, &format!("(topic `{name}`)"))?;
            Ok(topic)
        })
    }

    /// Everything about a topic.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn describe_topic(&mut self, name: &str) -> Result<DescribeTopicResponse<'static>, Error> {
        let request = DescribeTopicRequest { name: name.into() };
        let (response, _) =
            self.call::<_, DescribeTopicResponse<'_>>(Api::DescribeTopic, &request)?;
        Error::check(response.error, &response.message)?;
        Ok(response)
    }

    /// An offset of a partition; `None`: no record is as late as the time asked for.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn offset(
        &mut self,
        topic: TopicId,
        partition: PartitionIndex,
        query: OffsetQuery,
    ) -> Result<Option<Offset>, Error> {
        let request = ListOffsetsRequest { topic, partition, query };
        self.patiently(|client| {
            let (response, _) =
                client.call::<_, ListOffsetsResponse<'_>>(Api::ListOffsets, &request)?;
            Error::check(response.error, &response.message)?;
            Ok(response.found.then_some(response.offset))
        })
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
        let request = TrimRequest { topic, partition, to };
        let (response, _) = self.call::<_, TrimResponse<'_>>(Api::Trim, &request)?;
        Error::check(response.error, &response.message)?;
        Ok(response.log_start)
    }

    /// A producer id that nobody else has.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn producer_id(&mut self) -> Result<(ProducerId, ProducerEpoch), Error> {
        let request = ProducerIdRequest::fresh();
        let (response, _) = self.call::<_, ProducerIdResponse<'_>>(Api::ProducerId, &request)?;
        Error::check(response.error, &response.message)?;
        Ok((response.id, response.epoch))
    }

    /// Batches of a partition from an offset on. Each is checked against its CRC-32C.
    ///
    /// # Errors
    /// [`ErrorCode::Damaged`] says in `next_offset` of its message where reading goes on; and see
    /// [`Error`].
    pub fn fetch(
        &mut self,
        topic: TopicId,
        partition: PartitionIndex,
        offset: Offset,
        options: FetchOptions,
    ) -> Result<Fetched, Error> {
        self.patiently(|client| client.fetch_once(topic, partition, offset, options))
    }

    fn fetch_once(
        &mut self,
        topic: TopicId,
        partition: PartitionIndex,
        offset: Offset,
        options: FetchOptions,
    ) -> Result<Fetched, Error> {
        let max_wait_ms = u32::try_from(options.max_wait.as_millis()).unwrap_or(u32::MAX);
        let wait = self.options.request_timeout + options.max_wait;
        self.connection()?.set_wait(wait);
        let max_bytes = options.max_bytes;
        let request =
            FetchRequest { topic, partition, offset, max_bytes, min_bytes: 1, max_wait_ms };
        let (response, batches) = self.call::<_, FetchResponse<'_>>(Api::Fetch, &request)?;
        if response.error == ErrorCode::Damaged {
            let message = format!("{} (go on at {})", response.message, response.next_offset);
            return Err(Error::Server { code: response.error, message });
        }
        Error::check(response.error, &response.message)?;
        let batches = Bytes::from(batches);
        for batch in split(batches.clone()) {
            let batch = batch?;
            BatchHeader::parse(&batch)?.verify(&batch)?;
        }
        Ok(Fetched {
            partition,
            batches,
            next_offset: response.next_offset,
            high_watermark: response.high_watermark,
            log_start: response.log_start,
        })
    }
}
