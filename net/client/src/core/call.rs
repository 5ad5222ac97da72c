//! Requests with one answer: topics, offsets, producer ids, single fetches.

use std::time::Duration;

use bytes::Bytes;
use catena_format::{
    BatchHeader, JoinToken, NodeId, Offset, PartitionIndex, ProducerEpoch, ProducerId, TopicId,
};
use catena_wire::{
    AcceptLossRequest, AlterTopicRequest, Api, CreateTopicRequest, DeleteTopicRequest,
    DescribeClusterRequest, DescribeClusterResponse, DescribeTopicRequest, DescribeTopicResponse,
    DrainNodeRequest, FetchRequest, FetchResponse, HeadAddress, JoinTokenRequest,
    ListOffsetsRequest, ListOffsetsResponse, Message, MetadataRequest, MetadataResponse,
    MovePartitionRequest, NodeAddress, OffsetQuery, PingRequest, ProducerIdRequest,
    ProducerIdResponse, RemoveNodeRequest, ReplicateTopicRequest, Setting, StatusResponse,
    TopicMetadata, TrimRequest, TrimResponse, head_told,
};

use super::{link::Answer, reader, routes::Place};
use crate::{
    batch::{Fetched, split},
    error::Error,
    options::{FetchOptions, TopicChange},
};

/// A request, encoded, and how to read its answer.
pub(crate) struct Call<T> {
    pub(crate) api: Api,
    pub(crate) head: Vec<u8>,
    /// The partition that it is about.
    pub(crate) place: Option<Place>,
    /// It changes nothing, or nothing that matters: it may be made again.
    pub(crate) repeatable: bool,
    pub(crate) read: Box<dyn Fn(Answer) -> Result<T, Error> + Send + Sync>,
}

impl<T> Call<T> {
    fn new<'q, Q: Message<'q>>(
        api: Api,
        request: &Q,
        read: impl Fn(Answer) -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let mut head = Vec::new();
        request.encode(&mut head)?;
        Ok(Self { api, head, place: None, repeatable: false, read: Box::new(read) })
    }

    fn at(self, topic: TopicId, partition: PartitionIndex) -> Self {
        Self { place: Some((topic, partition)), ..self }
    }

    fn repeatable(self) -> Self {
        Self { repeatable: true, ..self }
    }

    /// Where the head is that is to be asked, if the answer says so.
    pub(crate) fn head_told(&self, answer: &Answer) -> Option<HeadAddress<'static>> {
        head_told(self.api, &answer.head).map(HeadAddress::into_owned)
    }
}

fn status(answer: Answer) -> Result<(), Error> {
    let status = StatusResponse::decode(&answer.head)?;
    Error::check(status.error, &status.message)
}

pub(crate) fn ping() -> Result<Call<()>, Error> {
    Ok(Call::new(Api::Ping, &PingRequest {}, status)?.repeatable())
}

pub(crate) fn create_topic(
    name: &str,
    partitions: u32,
    replicas: u8,
    config: Vec<Setting<'_>>,
    validate_only: bool,
) -> Result<Call<()>, Error> {
    let name = name.into();
    let request = CreateTopicRequest { name, partitions, replicas, config, validate_only };
    Call::new(Api::CreateTopic, &request, status)
}

pub(crate) fn alter_topic(name: &str, change: TopicChange<'_>) -> Result<Call<()>, Error> {
    let TopicChange { set, remove, partitions, new_name, validate_only } = change;
    let remove = remove.into_iter().map(Into::into).collect();
    let (name, new_name) = (name.into(), new_name.unwrap_or_default().into());
    let partitions = partitions.unwrap_or(0);
    let request = AlterTopicRequest { name, set, remove, partitions, new_name, validate_only };
    Call::new(Api::AlterTopic, &request, status)
}

pub(crate) fn delete_topic(name: &str) -> Result<Call<()>, Error> {
    Call::new(Api::DeleteTopic, &DeleteTopicRequest { name: name.into() }, status)
}

/// What metadata tells.
pub(crate) struct Told {
    pub(crate) nodes: Vec<NodeAddress<'static>>,
    pub(crate) topics: Vec<TopicMetadata<'static>>,
}

/// Asks for topics by their names; none: for all.
pub(crate) fn metadata(names: &[&str]) -> Result<Call<Told>, Error> {
    let names = names.iter().map(|name| (*name).into()).collect();
    let call = Call::new(Api::Metadata, &MetadataRequest { names }, |answer| {
        let response = MetadataResponse::decode_owned(&answer.head)?;
        Error::check(response.error, &response.message)?;
        Ok(Told { nodes: response.nodes, topics: response.topics })
    });
    Ok(call?.repeatable())
}

/// Asks for one topic.
pub(crate) fn topic(name: &str) -> Result<Call<Told>, Error> {
    let call = metadata(&[name])?;
    let (told, name) = (call.read, name.to_owned());
    let read = Box::new(move |answer| {
        let told = told(answer)?;
        let topic = told.topics.first();
        let topic = topic.ok_or_else(|| Error::Protocol("no topic was answered".to_owned()))?;
        Error::check(topic.error, &format!("(topic `{name}`)"))?;
        Ok(told)
    });
    Ok(Call { read, ..call })
}

pub(crate) fn describe_topic(name: &str) -> Result<Call<DescribeTopicResponse<'static>>, Error> {
    let request = DescribeTopicRequest { name: name.into() };
    let call = Call::new(Api::DescribeTopic, &request, |answer| {
        let response = DescribeTopicResponse::decode_owned(&answer.head)?;
        Error::check(response.error, &response.message)?;
        Ok(response)
    });
    Ok(call?.repeatable())
}

pub(crate) fn offset(
    topic: TopicId,
    partition: PartitionIndex,
    query: OffsetQuery,
) -> Result<Call<Option<Offset>>, Error> {
    let request = ListOffsetsRequest { topic, partition, query };
    let call = Call::new(Api::ListOffsets, &request, |answer| {
        let response = ListOffsetsResponse::decode(&answer.head)?;
        Error::check(response.error, &response.message)?;
        Ok(response.found.then_some(response.offset))
    });
    Ok(call?.at(topic, partition).repeatable())
}

pub(crate) fn trim(
    topic: TopicId,
    partition: PartitionIndex,
    to: Offset,
) -> Result<Call<Offset>, Error> {
    let call = Call::new(Api::Trim, &TrimRequest { topic, partition, to }, |answer| {
        let response = TrimResponse::decode(&answer.head)?;
        Error::check(response.error, &response.message)?;
        Ok(response.log_start)
    });
    Ok(call?.at(topic, partition))
}

/// Repeated, it allows the same once more.
pub(crate) fn allow_join(token: JoinToken, lifetime: Duration) -> Result<Call<()>, Error> {
    let lifetime_ms = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
    let request = JoinTokenRequest { token, lifetime_ms };
    Ok(Call::new(Api::JoinToken, &request, status)?.repeatable())
}

pub(crate) fn cluster() -> Result<Call<DescribeClusterResponse<'static>>, Error> {
    let call = Call::new(Api::DescribeCluster, &DescribeClusterRequest {}, |answer| {
        let response = DescribeClusterResponse::decode_owned(&answer.head)?;
        Error::check(response.error, &response.message)?;
        Ok(response)
    });
    Ok(call?.repeatable())
}

pub(crate) fn remove_node(node: NodeId) -> Result<Call<()>, Error> {
    Call::new(Api::RemoveNode, &RemoveNodeRequest { node }, status)
}

/// Repeated, it says the same.
pub(crate) fn drain_node(node: NodeId, drain: bool) -> Result<Call<()>, Error> {
    Ok(Call::new(Api::DrainNode, &DrainNodeRequest { node, drain }, status)?.repeatable())
}

/// Repeated, it says the same.
pub(crate) fn replicate_topic(
    name: &str,
    replicas: u8,
    min_replicas: u8,
) -> Result<Call<()>, Error> {
    let request = ReplicateTopicRequest { name: name.into(), replicas, min_replicas };
    Ok(Call::new(Api::ReplicateTopic, &request, status)?.repeatable())
}

pub(crate) fn move_partition(
    name: &str,
    partition: PartitionIndex,
    (from, to): (NodeId, NodeId),
) -> Result<Call<()>, Error> {
    let request = MovePartitionRequest { name: name.into(), partition, from, to };
    Call::new(Api::MovePartition, &request, status)
}

pub(crate) fn accept_loss(node: NodeId, lost: Vec<NodeId>) -> Result<Call<()>, Error> {
    Call::new(Api::AcceptLoss, &AcceptLossRequest { node, lost }, status)
}

/// An id that was asked for and never used harms nobody.
pub(crate) fn producer_id() -> Result<Call<(ProducerId, ProducerEpoch)>, Error> {
    Ok(producer(&ProducerIdRequest::fresh())?.repeatable())
}

/// Repeated it would be refused, for the first time it fenced its epoch.
pub(crate) fn raise_producer(
    id: ProducerId,
    epoch: ProducerEpoch,
) -> Result<Call<(ProducerId, ProducerEpoch)>, Error> {
    producer(&ProducerIdRequest { id, epoch })
}

fn producer(request: &ProducerIdRequest) -> Result<Call<(ProducerId, ProducerEpoch)>, Error> {
    Call::new(Api::ProducerId, request, |answer| {
        let response = ProducerIdResponse::decode(&answer.head)?;
        Error::check(response.error, &response.message)?;
        Ok((response.id, response.epoch))
    })
}

pub(crate) fn fetch(
    topic: TopicId,
    partition: PartitionIndex,
    offset: Offset,
    options: FetchOptions,
) -> Result<Call<Fetched>, Error> {
    let max_wait_ms = u32::try_from(options.max_wait.as_millis()).unwrap_or(u32::MAX);
    let max_bytes = options.max_bytes;
    let request = FetchRequest { topic, partition, offset, max_bytes, min_bytes: 1, max_wait_ms };
    let call = Call::new(Api::Fetch, &request, move |answer| {
        let response = FetchResponse::decode(&answer.head)?;
        reader::check(&response, partition)?;
        let batches = Bytes::from(answer.payload);
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
    });
    Ok(call?.at(topic, partition).repeatable())
}
