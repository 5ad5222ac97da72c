//! Topics: what the catalog says, and the replicas that follow from it.

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
};

use catena_format::{Offset, PartitionUid, ProducerEpoch, ProducerId, TopicId};
use catena_log::{LogConfig, LogIdentity, Now, io::Memory};
use catena_replication::{
    Phase, Replica, ReplicaConfig,
    control::{
        Applied, CatalogError, Entry, Partition, ProposalId, Topic, TopicConfig, TopicState,
    },
    validate::BatchLimits,
};
use catena_wire::{
    AlterTopicRequest, ConfigOrigin, CreateTopicRequest, DeleteTopicRequest, DescribeTopicRequest,
    ErrorCode, Message, MetadataRequest, MetadataResponse, NodeAddress, OffsetRange,
    PartitionDetail, PartitionMetadata, ProducerIdRequest, ProducerIdResponse, Setting,
    SettingInForce, TopicMetadata, WireError,
};

use crate::{
    cores::{Content, FIRST, Place},
    node::{Caller, Directory, Held, Node, Pending, Reader, Status},
};

type Handled = Result<(), WireError>;

/// A change of the catalog that is being made durable.
pub(crate) enum Proposal {
    Create(Caller, TopicId),
    Ready(TopicId),
    Alter(Caller, TopicId),
    Delete(Caller, TopicId),
    ProducerId(Caller),
}

impl<M: Memory + Clone> Node<M> {
    /// The catalog is open: every partition it names is opened, or created if that was interrupted.
    pub(crate) fn started(&mut self) {
        self.status = Status::Serving;
        let topics: Vec<Topic> = self.orderer().catalog().topics().cloned().collect();
        for topic in topics {
            self.place_topic(&topic, topic.state == TopicState::Creating);
        }
        let incarnation = self.orderer().catalog().incarnation(self.identity.node);
        self.incarnation = incarnation;
        self.tell_cores(|| Content::Serve(incarnation));
    }

    /// Gives the partitions of a topic to cores and tells them.
    fn place_topic(&mut self, topic: &Topic, create: bool) {
        let cores = self.assign(topic.partitions.len());
        self.tell_cores(|| Content::Hold { topic: topic.clone(), cores: cores.clone(), create });
        self.hold(topic, &cores, create);
    }

    /// Takes note of a topic, and holds the partitions that are this core's.
    pub(crate) fn hold(&mut self, topic: &Topic, cores: &[u16], create: bool) {
        if create {
            self.creating.entry(topic.id).or_insert(None);
        }
        let config = self.replica_config(topic);
        for (partition, core) in topic.partitions.iter().zip(cores) {
            let place = Place { uid: partition.uid, core: *core };
            self.places.insert((topic.id, partition.index), place);
            if place.core != self.core {
                continue;
            }
            let identity = LogIdentity {
                cluster: self.identity.cluster,
                topic: topic.id,
                partition: partition.index,
                uid: partition.uid,
            };
            let epoch = partition.epoch;
            let replica = Replica::new(identity, config, epoch, create, self.memory.clone());
            let held = Held {
                replica,
                topic: topic.id,
                chain: partition.chain.clone(),
                tick: None,
                waiters: Vec::new(),
                readers: BTreeMap::new(),
                trims: VecDeque::new(),
                subscriptions: BTreeMap::new(),
            };
            self.held.insert(partition.uid, held);
            self.dirty.insert(Directory::Partition(partition.uid));
        }
    }

    fn replica_config(&self, topic: &Topic) -> ReplicaConfig {
        let config = TopicConfig::parse(&topic.config).expect("the catalog took the settings");
        ReplicaConfig {
            log: LogConfig {
                segment_bytes: config.segment_bytes,
                segment_age: config.segment_age,
                retention_bytes: config.retention_bytes,
                retention_age: config.retention_age,
                tail_cache_bytes: self.limits.tail_cache_bytes,
                checkpoint_bytes: self.limits.checkpoint_bytes,
                ..LogConfig::default()
            },
            batches: BatchLimits {
                batch_bytes_max: config.batch_bytes_max.min(self.limits.batch_bytes_max),
                timestamp_ahead_ms_max: self.limits.timestamp_ahead_ms_max,
            },
        }
    }

    fn propose(&mut self, caller: Caller, proposal: Proposal, entry: &Entry, now: Now) {
        if self.status == Status::Draining {
            return self.refuse(caller, ErrorCode::ShuttingDown, "the node is shutting down");
        }
        if let Err(error) = self.submit(proposal, entry, now) {
            self.refuse(caller, ErrorCode::Throttled, &error.to_string());
        }
    }

    fn submit(
        &mut self,
        proposal: Proposal,
        entry: &Entry,
        now: Now,
    ) -> Result<(), catena_log::AppendError> {
        let id = ProposalId(self.number());
        let orderer = self.orderer.as_mut().expect("the first core decides about topics");
        orderer.propose(id, entry, now)?;
        self.proposals.insert(id, proposal);
        self.dirty.insert(Directory::Catalog);
        Ok(())
    }

    pub(crate) fn create_topic(&mut self, caller: Caller, head: &[u8], now: Now) -> Handled {
        let request = CreateTopicRequest::decode(head)?;
        if request.replicas > 1 {
            let text = format!("{} copies need as many nodes; there is one", request.replicas);
            self.refuse(caller, ErrorCode::NotEnoughReplicas, &text);
            return Ok(());
        }
        if request.validate_only {
            let text = "validation alone is not served yet";
            self.refuse(caller, ErrorCode::InvalidRequest, text);
            return Ok(());
        }
        let id = self.fresh_topic_id(now);
        let partitions = match request.partitions {
            0 => self.topic_defaults.partitions,
            wished => wished,
        };
        let entry = Entry::CreateTopic {
            id: id.get(),
            name: request.name.into_owned(),
            partitions,
            config: self.with_defaults(pairs(request.config)),
            node: self.identity.node.get(),
        };
        self.propose(caller, Proposal::Create(caller, id), &entry, now);
        Ok(())
    }

    /// The settings made, and for the others what the node gives new topics.
    fn with_defaults(&self, made: Vec<(String, String)>) -> Vec<(String, String)> {
        let mut config = self.topic_defaults.settings.clone();
        config.extend(made);
        config.into_iter().collect()
    }

    /// An id that this cluster has never given: the catalog's version is never repeated.
    fn fresh_topic_id(&self, now: Now) -> TopicId {
        let version = self.orderer().catalog().version();
        let words = [self.identity.cluster.get(), u128::from(version)];
        let seed: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let high = u128::from(catena_format::checksum::crc32(&seed));
        let time = u128::from(now.wall.get().cast_unsigned() & 0xffff_ffff_ffff);
        TopicId::new(time << 80 | high << 48 | u128::from(version & 0xffff_ffff_ffff))
    }

    pub(crate) fn alter_topic(&mut self, caller: Caller, head: &[u8], now: Now) -> Handled {
        let request = AlterTopicRequest::decode(head)?;
        let Some(id) = self.topic_id(caller, &request.name) else { return Ok(()) };
        if request.partitions != 0 || !request.new_name.is_empty() {
            let text = "only settings can be altered yet";
            self.refuse(caller, ErrorCode::InvalidRequest, text);
            return Ok(());
        }
        let set = pairs(request.set);
        let remove = request.remove.into_iter().map(Cow::into_owned).collect();
        let entry = Entry::AlterTopic { id: id.get(), set, remove };
        self.propose(caller, Proposal::Alter(caller, id), &entry, now);
        Ok(())
    }

    pub(crate) fn delete_topic(&mut self, caller: Caller, head: &[u8], now: Now) -> Handled {
        let request = DeleteTopicRequest::decode(head)?;
        let Some(id) = self.topic_id(caller, &request.name) else { return Ok(()) };
        let entry = Entry::DeleteTopic { id: id.get() };
        self.propose(caller, Proposal::Delete(caller, id), &entry, now);
        Ok(())
    }

    fn topic_id(&mut self, caller: Caller, name: &str) -> Option<TopicId> {
        let id = self.orderer().catalog().topic_named(name).map(|topic| topic.id);
        if id.is_none() {
            self.refuse(caller, ErrorCode::UnknownTopic, &format!("there is no topic `{name}`"));
        }
        id
    }

    pub(crate) fn producer_id(&mut self, caller: Caller, head: &[u8], now: Now) -> Handled {
        if ProducerIdRequest::decode(head)? != ProducerIdRequest::fresh() {
            let text = "epochs are not raised yet: ask for a new producer id";
            self.refuse(caller, ErrorCode::InvalidRequest, text);
            return Ok(());
        }
        let entry = Entry::ProducerIds { count: 1 };
        self.propose(caller, Proposal::ProducerId(caller), &entry, now);
        Ok(())
    }

    /// A change of the catalog is durable.
    pub(crate) fn applied(&mut self, id: ProposalId, applied: Result<Applied, CatalogError>) {
        let Some(proposal) = self.proposals.remove(&id) else { return };
        match (proposal, applied) {
            (Proposal::Create(caller, topic), Ok(_)) => {
                if let Some(topic) = self.orderer().catalog().topic(topic).cloned() {
                    self.creating.insert(topic.id, Some(caller));
                    self.place_topic(&topic, true);
                }
            }
            (Proposal::Ready(topic), Ok(_)) => {
                self.tell_cores(|| Content::Ready(topic));
                if let Some(Some(caller)) = self.creating.remove(&topic) {
                    self.answer_status(caller, ErrorCode::None, "");
                }
            }
            (Proposal::Alter(caller, topic), Ok(_)) => {
                if let Some(topic) = self.orderer().catalog().topic(topic).cloned() {
                    self.tell_cores(|| Content::Altered(topic.clone()));
                    self.configure(&topic);
                }
                self.answer_status(caller, ErrorCode::None, "");
            }
            (Proposal::Delete(caller, topic), Ok(_)) => {
                self.tell_cores(|| Content::Deleted(topic));
                self.release(topic);
                self.answer_status(caller, ErrorCode::None, "");
            }
            (Proposal::ProducerId(caller), Ok(Applied::ProducerIds(first))) => {
                let (error, message) = (ErrorCode::None, "".into());
                let (id, epoch) = (ProducerId::new(first), ProducerEpoch::new(0));
                self.answer(caller, &ProducerIdResponse { error, id, epoch, message });
            }
            (
                Proposal::Create(caller, _)
                | Proposal::Alter(caller, _)
                | Proposal::Delete(caller, _)
                | Proposal::ProducerId(caller),
                Err(error),
            ) => self.refuse(caller, catalog_code(&error), &error.to_string()),
            // Deleted while it was being created.
            (Proposal::Ready(topic), Err(_)) => drop(self.creating.remove(&topic)),
            (Proposal::ProducerId(_), Ok(Applied::Done)) => {}
        }
    }

    pub(crate) fn configure(&mut self, topic: &Topic) {
        let config = self.replica_config(topic);
        for partition in &topic.partitions {
            if let Some(held) = self.held.get_mut(&partition.uid) {
                held.replica.set_config(config);
                self.dirty.insert(Directory::Partition(partition.uid));
            }
        }
    }

    /// Lets go of all that belongs to a topic that is deleted.
    pub(crate) fn release(&mut self, topic: TopicId) {
        if let Some(Some(caller)) = self.creating.remove(&topic) {
            self.refuse(caller, ErrorCode::UnknownTopic, "the topic was deleted");
        }
        let of_topic = self.places.extract_if(.., |(id, _), _| *id == topic);
        let uids: Vec<_> = of_topic.map(|(_, place)| place.uid).collect();
        for uid in &uids {
            self.phases.remove(uid);
            self.end_subscriptions(*uid, ErrorCode::UnknownTopic, "the topic was deleted");
            let Some(held) = self.held.remove(uid) else { continue };
            self.removals.push_back(*uid);
            for waiter in held.waiters {
                self.refuse(waiter.caller, ErrorCode::UnknownTopic, "the topic was deleted");
            }
            for reader in held.readers.into_values() {
                if let Reader::Fetch(caller, _) | Reader::List(caller) = reader {
                    self.refuse(caller, ErrorCode::UnknownTopic, "the topic was deleted");
                }
            }
        }
        let of_topic = |pending: &Pending| match pending {
            Pending::Produce { uid, .. } | Pending::Trim { uid, .. } => uids.contains(uid),
        };
        let gone = self.pending.iter().filter(|(_, p)| of_topic(p)).map(|(t, _)| *t);
        for ticket in gone.collect::<Vec<_>>() {
            match self.pending.remove(&ticket) {
                Some(Pending::Produce { caller, .. } | Pending::Trim { caller, .. }) => {
                    self.refuse(caller, ErrorCode::UnknownTopic, "the topic was deleted")
                }
                None => {}
            }
        }
    }

    /// A partition is open, or cannot be.
    pub(crate) fn partition_opened(&mut self, uid: PartitionUid, now: Now) {
        let topic = self.held[&uid].topic;
        if self.core == FIRST {
            return self.topic_opened(topic, now);
        }
        let phase = self.phase_of(uid);
        self.send_parcel(FIRST, Content::Opened { uid, topic, phase });
    }

    /// A topic whose partitions all are open becomes ready.
    pub(crate) fn topic_opened(&mut self, id: TopicId, now: Now) {
        if !self.creating.contains_key(&id) {
            return;
        }
        let Some(topic) = self.orderer().catalog().topic(id).cloned() else { return };
        let phases = topic.partitions.iter().map(|p| self.phase_of(p.uid));
        let phases: Vec<_> = phases.collect();
        if let Some(Phase::Failed(error)) = phases.iter().find(|p| matches!(p, Phase::Failed(_))) {
            if let Some(Some(caller)) = self.creating.remove(&id) {
                self.refuse(caller, ErrorCode::PartitionFailed, &error.to_string());
            }
        } else if phases.iter().all(|phase| *phase == Phase::Open) {
            // When the catalog's log takes nothing more, the next start goes on here.
            let _ = self.submit(Proposal::Ready(id), &Entry::TopicReady { id: id.get() }, now);
        }
    }

    pub(crate) fn metadata(&mut self, caller: Caller, head: &[u8]) -> Handled {
        let request = MetadataRequest::decode(head)?;
        let catalog = self.orderer().catalog();
        let topics: Vec<TopicMetadata<'_>> = if request.names.is_empty() {
            let mut all: Vec<_> = catalog.topics().map(|t| self.topic_metadata(t)).collect();
            all.sort_by(|a, b| a.name.cmp(&b.name));
            all
        } else {
            request.names.iter().map(|name| self.named_metadata(name)).collect()
        };
        let version = catalog.version();
        let nodes = vec![NodeAddress { node: self.identity.node, address: "".into() }];
        let (error, message) = (ErrorCode::None, "".into());
        let response = MetadataResponse { error, version, nodes, topics, message };
        self.answer(caller, &response);
        Ok(())
    }

    fn named_metadata<'n>(&self, name: &'n str) -> TopicMetadata<'n> {
        match self.orderer().catalog().topic_named(name) {
            Some(topic) => self.topic_metadata(topic),
            None => TopicMetadata {
                error: ErrorCode::UnknownTopic,
                name: name.into(),
                id: TopicId::default(),
                config_version: 0,
                batch_bytes_max: 0,
                partitions: Vec::new(),
            },
        }
    }

    fn topic_metadata(&self, topic: &Topic) -> TopicMetadata<'static> {
        let config = TopicConfig::parse(&topic.config).expect("the catalog took the settings");
        let ready = topic.state == TopicState::Ready && !self.creating.contains_key(&topic.id);
        TopicMetadata {
            error: if ready { ErrorCode::None } else { ErrorCode::Starting },
            name: topic.name.clone().into(),
            id: topic.id,
            config_version: self.orderer().catalog().version(),
            batch_bytes_max: u32::try_from(config.batch_bytes_max).unwrap_or(u32::MAX),
            partitions: topic.partitions.iter().map(|p| self.place(topic.id, p)).collect(),
        }
    }

    fn place(&self, topic: TopicId, partition: &Partition) -> PartitionMetadata {
        let place = self.places.get(&(topic, partition.index));
        PartitionMetadata {
            index: partition.index,
            uid: partition.uid,
            epoch: partition.epoch,
            core: place.map_or(FIRST, |place| place.core),
            chain: partition.chain.clone(),
            error: phase_code(self.phase_of(partition.uid)),
        }
    }

    pub(crate) fn describe_topic(&mut self, caller: Caller, head: &[u8]) -> Handled {
        let request = DescribeTopicRequest::decode(head)?;
        if let Some(id) = self.topic_id(caller, &request.name) {
            self.gather(caller, id);
        }
        Ok(())
    }

    pub(crate) fn detail(&self, held: &Held<M>) -> PartitionDetail {
        let (replica, log) = (&held.replica, held.replica.log());
        let range = |r: &std::ops::Range<Offset>| OffsetRange { start: r.start, end: r.end };
        PartitionDetail {
            place: PartitionMetadata {
                index: replica.identity().partition,
                uid: replica.identity().uid,
                epoch: replica.epoch(),
                core: self.core,
                chain: held.chain.clone(),
                error: phase_code(replica.phase()),
            },
            log_start: log.map_or(Offset::ZERO, |log| log.log_start()),
            high_watermark: replica.high_watermark(),
            durable_end: log.map_or(Offset::ZERO, |log| log.durable_end()),
            log_end: log.map_or(Offset::ZERO, |log| log.log_end()),
            bytes: log.map_or(0, |log| log.bytes()),
            segments: log.map_or(0, |log| u32::try_from(log.segments()).unwrap_or(u32::MAX)),
            damaged: log.map(|log| log.damaged()).unwrap_or_default().iter().map(range).collect(),
        }
    }
}

/// The settings that are made for a topic.
pub(crate) fn settings_of(topic: &Topic) -> Vec<SettingInForce<'static>> {
    let setting = |(key, value): (&String, &String)| {
        let (key, value) = (key.clone().into(), value.clone().into());
        SettingInForce { key, value, origin: ConfigOrigin::Topic }
    };
    topic.config.iter().map(setting).collect()
}

fn phase_code(phase: Phase) -> ErrorCode {
    match phase {
        Phase::Open => ErrorCode::None,
        Phase::Failed(_) => ErrorCode::PartitionFailed,
        Phase::Opening => ErrorCode::Starting,
    }
}

fn pairs(settings: Vec<Setting<'_>>) -> Vec<(String, String)> {
    settings.into_iter().map(|s| (s.key.into_owned(), s.value.into_owned())).collect()
}

fn catalog_code(error: &CatalogError) -> ErrorCode {
    match error {
        CatalogError::TopicExists(_) => ErrorCode::TopicExists,
        CatalogError::TopicName(_) => ErrorCode::TopicName,
        CatalogError::UnknownTopic => ErrorCode::UnknownTopic,
        CatalogError::Partitions(_) => ErrorCode::InvalidPartitions,
        CatalogError::Full => ErrorCode::PartitionsLimit,
        CatalogError::Config(_) => ErrorCode::BadConfig,
        _ => ErrorCode::Internal,
    }
}
