//! Topics: what the catalog says, and the replicas that follow from it.

use std::{borrow::Cow, collections::BTreeSet, ops::Range, time::Duration};

use catena_format::{
    Epoch, NodeId, Offset, PartitionIndex, PartitionUid, ProducerEpoch, ProducerId, TopicId,
    limits::PARTITIONS_PER_TOPIC_MAX, planted,
};
use catena_log::{
    LogConfig, Now,
    io::{IoError, Memory},
};
use catena_replication::{
    Phase, Replica, ReplicaConfig, Ticket,
    chain::MemberId,
    control::{
        Applied, BATCH_BYTES_KEY, CatalogError, Entry, Partition, ProposalId, TOPIC_SETTINGS,
        Topic, TopicConfig, TopicSetting, place,
    },
    validate::BatchLimits,
};
use catena_wire::{
    AlterTopicRequest, ConfigOrigin, CreateTopicRequest, DeleteTopicRequest, DescribeTopicRequest,
    ErrorCode, Message, MetadataRequest, MetadataResponse, NodeAddress, OffsetRange,
    PartitionDetail, PartitionMetadata, ProducerIdRequest, Setting, SettingInForce, TopicMetadata,
    WireError, limits::METADATA_NAMES_MAX,
};

use crate::{
    cores::{Content, FIRST, Place},
    data::append_code,
    follow::core_of,
    held::{Awaited, Creating, Held, Pending},
    links::LinkId,
    node::{Caller, Directory, Node, Notice, Status},
    operations::catalog_code,
};

type Handled = Result<(), WireError>;

/// Producer ids taken from the catalog at once.
const PRODUCER_ID_BLOCK: u32 = 1000;

/// Copies of a new topic whose creator says nothing, where there are as many nodes. So many need
/// two to take something, fewer need one.
const REPLICAS_DEFAULT: u8 = 3;

/// When the catalog is told again what its log did not take.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// A change of the catalog that is being made durable.
pub(crate) enum Proposal {
    Create(Ticket, TopicId),
    Ready(TopicId),
    Alter {
        ticket: Ticket,
        topic: TopicId,
        grows: bool,
        /// The name that the topic has until then, when it gets another.
        was: Option<String>,
    },
    Delete(Ticket, TopicId, String),
    /// A block of producer ids.
    ProducerIds,
    RaiseProducer(Ticket),
    /// Of a chain.
    Chain(PartitionUid),
    /// That a joiner is close, in this epoch.
    Close(PartitionUid, Epoch),
    NodeDown(NodeId),
    /// Of nodes and copies, by an operator.
    Operation(Ticket),
    Admit(LinkId),
}

impl<M: Memory + Clone> Node<M> {
    /// The catalog is open: every partition it names is opened, or created if that was interrupted.
    pub(crate) fn started(&mut self) {
        self.status = Status::Serving;
        let incarnation = self.catalog().incarnation(self.identity.node);
        self.incarnation = incarnation;
        let raised: Vec<_> = self.catalog().raised_producers().collect();
        self.note_raised(&raised);
        self.tell_cores(|| Content::Raised { ticket: None, producers: raised.clone() });
        let topics: Vec<Topic> = self.catalog().topics().cloned().collect();
        for topic in topics {
            self.place(&topic, 0..topic.ready, false);
            if topic.ready < topic.partition_count() {
                self.place(&topic, topic.ready..topic.partition_count(), true);
            }
        }
        self.tell_cores(|| Content::Serve(incarnation));
    }

    /// Gives partitions of a topic to cores and tells them.
    fn place(&mut self, topic: &Topic, partitions: Range<u32>, create: bool) {
        let (cores, incarnation) = (self.assign(partitions.len()), self.incarnation);
        let from = PartitionIndex::new(partitions.start);
        self.tell_cores(|| {
            let (topic, cores) = (topic.clone(), cores.clone());
            Content::Hold { topic, from, cores, create, incarnation }
        });
        self.hold(topic, from, &cores, create);
    }

    /// Takes note of partitions of a topic, and holds those that are this core's.
    pub(crate) fn hold(
        &mut self,
        topic: &Topic,
        from: PartitionIndex,
        cores: &[u16],
        create: bool,
    ) {
        if create {
            let creating = Creating { waiting: None, from, told: false };
            self.creating.entry(topic.id).or_insert(creating);
        }
        let config = self.replica_config(topic);
        let me = MemberId { node: self.identity.node, incarnation: self.incarnation };
        let partitions = topic.partitions.iter().skip(from.get() as usize);
        for (partition, core) in partitions.zip(cores) {
            let place = Place { uid: partition.uid, core: *core };
            self.places.insert((topic.id, partition.index), place);
            if place.core != self.core {
                continue;
            }
            let identity = self.log_of(topic.id, partition.index, partition.uid);
            let chain = (me, partition.configuration.clone());
            let replica = Replica::new(identity, config, chain, create, self.memory.clone());
            let mut held = Held::new(replica, topic.id);
            held.chain = partition.configuration.chain.iter().map(|m| m.node).collect();
            self.held.insert(partition.uid, held);
            self.dirty.insert(Directory::Partition(partition.uid));
        }
    }

    pub(crate) fn replica_config(&self, topic: &Topic) -> ReplicaConfig {
        let config = TopicConfig::parse(&topic.config).expect("the catalog took the settings");
        ReplicaConfig {
            log: LogConfig {
                segment_bytes: config.segment_bytes,
                segment_age: config.segment_age,
                retention_bytes: config.retention_bytes,
                retention_age: config.retention_age,
                tail_cache_bytes: self.limits.tail_cache_bytes,
                checkpoint_bytes: self.limits.checkpoint_bytes,
                index_stride: self.limits.index_stride,
                ..LogConfig::default()
            },
            batches: BatchLimits {
                batch_bytes_max: self.limits.batch_bytes_max_of(&config),
                timestamp_ahead_ms_max: self.limits.timestamp_ahead_ms_max,
            },
            evict_after: self.limits.evict_after,
        }
    }

    pub(crate) fn propose(
        &mut self,
        caller: Caller,
        proposal: impl FnOnce(Ticket) -> Proposal,
        entry: &Entry,
        now: Now,
    ) {
        let ticket = Ticket(self.number());
        match self.submit(proposal(ticket), entry, now) {
            Ok(()) => self.park(ticket, caller, Awaited::Change, self.limits.wait_max, now),
            Err(error) => self.refuse(caller, append_code(&error), &error.to_string()),
        }
    }

    fn submit(
        &mut self,
        proposal: Proposal,
        entry: &Entry,
        now: Now,
    ) -> Result<(), catena_log::AppendError> {
        if self.follower.is_some() {
            return self.submit_to_cluster(proposal, entry);
        }
        let id = ProposalId(self.number());
        let orderer = self.orderer.as_mut().expect("the first core decides about topics");
        orderer.propose(id, entry, now)?;
        self.proposals.insert(id, proposal);
        self.dirty.insert(Directory::Catalog);
        Ok(())
    }

    pub(crate) fn create_topic(&mut self, caller: Caller, head: &[u8], now: Now) -> Handled {
        let request = CreateTopicRequest::decode(head)?;
        let made = pairs(request.config);
        let id = self.fresh_topic_id(now);
        let partitions = match request.partitions {
            0 => self.topic_defaults.partitions,
            wished => wished,
        };
        let (name, config) = (request.name.into_owned(), self.with_defaults(&made));
        let Some(entry) = self.creation(id, name, partitions, config, request.replicas) else {
            let text = format!("{} copies need as many nodes that run", request.replicas);
            self.refuse(caller, ErrorCode::NotEnoughReplicas, &text);
            return Ok(());
        };
        if self.checked(caller, &made, &entry, request.validate_only) {
            self.propose(caller, |ticket| Proposal::Create(ticket, id), &entry, now);
        }
        Ok(())
    }

    /// The entry that creates a topic. `None`: there are fewer nodes than copies wished for.
    fn creation(
        &self,
        id: TopicId,
        name: String,
        partitions: u32,
        config: Vec<(String, String)>,
        replicas: u8,
    ) -> Option<Entry> {
        let (id, node) = (id.get(), self.identity.node.get());
        if self.follower.is_none() {
            let alone = Entry::CreateTopic { id, name, partitions, config, node };
            return (replicas <= 1).then_some(alone);
        }
        // What cannot be is refused for what it is, not for want of nodes.
        let counted = partitions.min(PARTITIONS_PER_TOPIC_MAX);
        let most = (1..=REPLICAS_DEFAULT).rev().find(|n| place(self.catalog(), 1, *n).is_some());
        let replicas = if replicas == 0 { most? } else { replicas };
        let nodes = place(self.catalog(), counted, replicas)?;
        let min_replicas = if replicas >= REPLICAS_DEFAULT { 2 } else { 1 };
        let entry =
            Entry::PlaceTopic { id, name, config, nodes, partitions, replicas, min_replicas };
        Some(entry)
    }

    /// Whether a change can be proposed; if not, or if it is not wanted, the caller is told.
    pub(crate) fn checked(
        &mut self,
        caller: Caller,
        made: &[(String, String)],
        entry: &Entry,
        validate_only: bool,
    ) -> bool {
        if let Err(error) = self.catalog().check(entry) {
            self.refuse(caller, catalog_code(&error), &error.to_string());
            return false;
        }
        let max = self.limits.batch_bytes_max;
        let above = |(key, value): &&(String, String)| {
            key == BATCH_BYTES_KEY && value.parse().is_ok_and(|value: usize| value > max)
        };
        if let Some((key, value)) = made.iter().find(above) {
            let text = format!("`{key}` is {value}, this server takes at most {max}");
            self.refuse(caller, ErrorCode::BadConfig, &text);
            return false;
        }
        if validate_only {
            self.answer_status(caller, ErrorCode::None, "");
        }
        !validate_only
    }

    /// The settings made, and for the others what the node gives new topics.
    fn with_defaults(&self, made: &[(String, String)]) -> Vec<(String, String)> {
        let mut config = self.topic_defaults.settings.clone();
        config.extend(made.iter().cloned());
        config.into_iter().collect()
    }

    /// An id that this cluster has never given: a node's incarnation and what it numbers in it are
    /// never repeated.
    fn fresh_topic_id(&mut self, now: Now) -> TopicId {
        let version = self.number();
        let node = u128::from(self.identity.node.get());
        let life = u128::from(self.incarnation.get());
        let words = [self.identity.cluster.get(), node, life];
        let seed: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let high = u128::from(catena_format::checksum::crc32(&seed));
        let time = u128::from(now.wall.get().cast_unsigned() & 0xffff_ffff_ffff);
        TopicId::new(time << 80 | high << 48 | u128::from(version & 0xffff_ffff_ffff))
    }

    pub(crate) fn alter_topic(&mut self, caller: Caller, head: &[u8], now: Now) -> Handled {
        let request = AlterTopicRequest::decode(head)?;
        let Some(id) = self.topic_id(caller, &request.name) else { return Ok(()) };
        let set = pairs(request.set);
        let renames = !request.new_name.is_empty();
        let entry = Entry::ChangeTopic {
            id: id.get(),
            set: set.clone(),
            remove: request.remove.into_iter().map(Cow::into_owned).collect(),
            partitions: request.partitions,
            name: request.new_name.into_owned(),
        };
        if self.checked(caller, &set, &entry, request.validate_only) {
            let topic = self.catalog().topic(id);
            let grows = topic.is_some_and(|topic| request.partitions > topic.partition_count());
            let was = renames.then(|| request.name.into_owned());
            let alter = |ticket| Proposal::Alter { ticket, topic: id, grows, was };
            self.propose(caller, alter, &entry, now);
        }
        Ok(())
    }

    pub(crate) fn delete_topic(&mut self, caller: Caller, head: &[u8], now: Now) -> Handled {
        let request = DeleteTopicRequest::decode(head)?;
        let Some(id) = self.topic_id(caller, &request.name) else { return Ok(()) };
        let entry = Entry::DeleteTopic { id: id.get() };
        let name = request.name.into_owned();
        self.propose(caller, |ticket| Proposal::Delete(ticket, id, name), &entry, now);
        Ok(())
    }

    pub(crate) fn topic_id(&mut self, caller: Caller, name: &str) -> Option<TopicId> {
        let id = self.catalog().topic_named(name).map(|topic| topic.id);
        if id.is_none() {
            self.refuse(caller, self.missing_code(name), &format!("there is no topic `{name}`"));
        }
        id
    }

    /// What a name is answered that leads nowhere: as long as the deletion of its topic, or that
    /// one's other name, is not durable, a crash may bring it back.
    fn missing_code(&self, name: &str) -> ErrorCode {
        let takes_away = |proposal: &Proposal| match proposal {
            Proposal::Delete(_, _, was) => was == name,
            Proposal::Alter { was, .. } => was.as_deref() == Some(name),
            _ => false,
        };
        let doubtful = self.proposals.values().any(takes_away);
        if doubtful { ErrorCode::Starting } else { ErrorCode::UnknownTopic }
    }

    pub(crate) fn producer_id(&mut self, caller: Caller, head: &[u8], now: Now) -> Handled {
        let request = ProducerIdRequest::decode(head)?;
        if request == ProducerIdRequest::fresh() {
            self.fresh_producer(caller, now);
            return Ok(());
        }
        let entry = Entry::RaiseProducer { id: request.id.get(), epoch: request.epoch.get() };
        if request.id != ProducerId::NONE && request.epoch.get() < 0 {
            self.refuse(caller, ErrorCode::InvalidRequest, "a producer has no negative epoch");
        } else if self.checked(caller, &[], &entry, false) {
            self.propose(caller, Proposal::RaiseProducer, &entry, now);
        }
        Ok(())
    }

    /// Gives a producer an id that nobody has: of a block that the catalog has given away, so that
    /// not every producer writes to it. What is left of a block at the end of a life is never used.
    fn fresh_producer(&mut self, caller: Caller, now: Now) {
        if let Some(id) = self.producer_ids.next() {
            let producer = (ProducerId::new(id), ProducerEpoch::new(0));
            return self.answer_producer(caller, producer);
        }
        if self.id_waiters.len() >= self.ids_asked {
            let entry = Entry::ProducerIds { count: PRODUCER_ID_BLOCK };
            if let Err(error) = self.submit(Proposal::ProducerIds, &entry, now) {
                return self.refuse(caller, append_code(&error), &error.to_string());
            }
            self.ids_asked += PRODUCER_ID_BLOCK as usize;
        }
        let ticket = Ticket(self.number());
        self.id_waiters.insert(ticket);
        self.park(ticket, caller, Awaited::Change, self.limits.wait_max, now);
    }

    /// No block of producer ids is to be had now.
    pub(crate) fn no_producer_ids(&mut self, code: ErrorCode, why: &str) {
        self.ids_asked -= PRODUCER_ID_BLOCK as usize;
        for ticket in std::mem::take(&mut self.id_waiters) {
            self.unchanged(ticket, code, why);
        }
    }

    /// A producer goes on under another epoch.
    pub(crate) fn raised(&mut self, ticket: Ticket, id: i64, epoch: i16) {
        if let Some(caller) = self.claim(ticket) {
            self.raise(caller, (ProducerId::new(id), ProducerEpoch::new(epoch)));
        }
    }

    /// A block of producer ids is this node's.
    pub(crate) fn take_producer_ids(&mut self, first: i64) {
        self.ids_asked -= PRODUCER_ID_BLOCK as usize;
        self.producer_ids = first..first + i64::from(PRODUCER_ID_BLOCK);
        while !self.producer_ids.is_empty()
            && let Some(ticket) = self.id_waiters.pop_first()
        {
            let Some(caller) = self.claim(ticket) else { continue };
            let Some(id) = self.producer_ids.next() else { return };
            self.answer_producer(caller, (ProducerId::new(id), ProducerEpoch::new(0)));
        }
    }

    /// A change of the catalog is durable.
    pub(crate) fn applied(
        &mut self,
        id: ProposalId,
        applied: Result<Applied, CatalogError>,
        now: Now,
    ) {
        let Some(proposal) = self.proposals.remove(&id) else { return };
        match (proposal, applied) {
            (Proposal::Create(ticket, topic), Ok(_)) => self.begin_creation(ticket, topic),
            (Proposal::Ready(topic), Ok(_)) => {
                self.tell_cores(|| Content::Ready(topic));
                if let Some(Creating { waiting: Some(ticket), .. }) = self.creating.remove(&topic) {
                    self.changed(ticket);
                }
            }
            (Proposal::Alter { ticket, topic: id, grows, .. }, Ok(_)) => {
                if let Some(topic) = self.catalog().topic(id).cloned() {
                    self.tell_cores(|| Content::Altered(topic.clone()));
                    self.configure(&topic);
                }
                if grows {
                    self.begin_creation(ticket, id);
                } else {
                    self.changed(ticket);
                }
            }
            (Proposal::Delete(ticket, topic, _), Ok(_)) => {
                if !planted!(DeletionNotTold) {
                    self.tell_cores(|| Content::Deleted(topic));
                }
                self.release(topic, now);
                self.changed(ticket);
            }
            (Proposal::ProducerIds, Ok(Applied::ProducerIds(first))) => {
                self.take_producer_ids(first);
            }
            (Proposal::RaiseProducer(ticket), Ok(Applied::Producer(id, epoch))) => {
                self.raised(ticket, id, epoch);
            }
            (
                Proposal::Create(ticket, ..)
                | Proposal::Alter { ticket, .. }
                | Proposal::Delete(ticket, ..)
                | Proposal::RaiseProducer(ticket),
                Err(error),
            ) => self.unchanged(ticket, catalog_code(&error), &error.to_string()),
            // Deleted while it was being created.
            (Proposal::Ready(topic), Err(_)) => drop(self.creating.remove(&topic)),
            // What such entries never bring, and what a node alone never proposes.
            (
                Proposal::ProducerIds
                | Proposal::RaiseProducer(_)
                | Proposal::Chain(_)
                | Proposal::Close(..)
                | Proposal::NodeDown(_)
                | Proposal::Operation(_)
                | Proposal::Admit(_),
                _,
            ) => {}
        }
    }

    /// The catalog takes nothing more, and nobody knows what becomes of the changes under way.
    pub(crate) fn catalog_poisoned(&mut self, error: IoError) {
        self.notices.push_back(Notice::CatalogPoisoned(error));
        if self.status != Status::Draining {
            self.status = Status::Poisoned(error);
        }
        // The others may become durable all the same.
        self.proposals.retain(|_, proposal| !matches!(proposal, Proposal::ProducerIds));
        self.id_waiters.clear();
        self.ids_asked = 0;
        let text = format!("a write failed ({error}); {}", Awaited::Change.in_doubt());
        let changes = self.pending.iter().filter(|(_, p)| p.awaited == Awaited::Change);
        for ticket in changes.map(|(ticket, _)| *ticket).collect::<Vec<_>>() {
            self.unchanged(ticket, ErrorCode::StorageIo, &text);
        }
    }

    /// Answers that a change is made.
    pub(crate) fn changed(&mut self, ticket: Ticket) {
        if let Some(caller) = self.claim(ticket) {
            self.answer_status(caller, ErrorCode::None, "");
        }
    }

    pub(crate) fn unchanged(&mut self, ticket: Ticket, error: ErrorCode, message: &str) {
        if let Some(caller) = self.claim(ticket) {
            self.refuse(caller, error, message);
        }
    }

    /// Creates the partitions of a topic that do not exist yet; the caller hears when they do.
    fn begin_creation(&mut self, ticket: Ticket, id: TopicId) {
        let Some(topic) = self.catalog().topic(id).cloned() else {
            return self.unchanged(ticket, ErrorCode::UnknownTopic, "the topic was deleted");
        };
        let from = PartitionIndex::new(topic.ready);
        self.creating.insert(id, Creating { waiting: Some(ticket), from, told: false });
        self.place(&topic, topic.ready..topic.partition_count(), true);
    }

    /// Whether a partition is being created.
    pub(crate) fn is_created(&self, topic: TopicId, partition: PartitionIndex) -> bool {
        self.creating.get(&topic).is_some_and(|creating| partition >= creating.from)
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

    /// Lets go of all that belongs to a topic that is deleted; tells its partitions.
    pub(crate) fn release(&mut self, topic: TopicId, now: Now) -> Vec<PartitionUid> {
        let creating = self.creating.remove(&topic);
        if let Some(ticket) = creating.and_then(|creating| creating.waiting) {
            self.unchanged(ticket, ErrorCode::UnknownTopic, "the topic was deleted");
        }
        let of_topic = self.places.extract_if(.., |(id, _), _| *id == topic);
        let uids: Vec<_> = of_topic.map(|(_, place)| place.uid).collect();
        for uid in &uids {
            self.phases.remove(uid);
            self.nobody_beside(*uid);
            self.end_subscriptions(*uid, ErrorCode::UnknownTopic, "the topic was deleted");
            let Some(held) = self.held.remove(uid) else { continue };
            self.past.add(&held.replica);
            if !planted!(RemovalForgotten) {
                self.removals.push_back(*uid);
            }
            for waiter in held.waiters {
                self.refuse(waiter.caller, ErrorCode::UnknownTopic, "the topic was deleted");
            }
            for reader in held.readers.into_values() {
                self.end_reader(reader, now);
            }
        }
        let of_topic = |pending: &Pending| match pending.awaited {
            Awaited::Batch(uid) | Awaited::Trim(uid) | Awaited::End(uid) => uids.contains(&uid),
            Awaited::Change => false,
        };
        let gone = self.pending.iter().filter(|(_, p)| of_topic(p)).map(|(t, _)| *t);
        for ticket in gone.collect::<Vec<_>>() {
            self.unchanged(ticket, ErrorCode::UnknownTopic, "the topic was deleted");
        }
        uids
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

    /// Once all partitions that are being created are open, they exist. So does one of which the
    /// disk holds what cannot be read: it was created before, and keeps no other from serving.
    pub(crate) fn topic_opened(&mut self, id: TopicId, now: Now) {
        let Some(Creating { waiting, from, told: false }) = self.creating.get(&id).copied() else {
            return;
        };
        let Some(topic) = self.catalog().topic(id) else { return };
        let (own, partitions) = (self.identity.node, topic.partition_count());
        let created = topic.partitions.iter().skip(from.get() as usize);
        let here = |partition: &&Partition| self.is_here(topic.id, partition.index);
        let created = created.filter(here);
        let phases: Vec<_> = created.map(|partition| self.phase_of(partition.uid)).collect();
        let exists = |phase: &Phase| match phase {
            Phase::Open => true,
            Phase::Opening => false,
            Phase::Failed(error) => error.is_of_stored(),
        };
        let all_exist = phases.iter().all(exists) || planted!(ReadyBeforeCreated);
        let failed = phases.into_iter().find(|phase| matches!(phase, Phase::Failed(_)));
        if let (Some(Phase::Failed(error)), Some(ticket)) = (failed, waiting) {
            // None of them serves before the next start, which creates them once more.
            self.creating.insert(id, Creating { waiting: None, from, told: false });
            self.unchanged(ticket, ErrorCode::PartitionFailed, &error.to_string());
        } else if all_exist {
            let ready = match &self.follower {
                None => Entry::TopicReady { id: id.get() },
                Some(_) => Entry::TopicCreated { id: id.get(), node: own.get(), partitions },
            };
            let told = self.submit(Proposal::Ready(id), &ready, now).is_ok();
            self.creating.insert(id, Creating { waiting, from, told });
            if !told {
                self.tell_ready_later(id, now);
            }
        }
    }

    /// The catalog is told again that partitions of a topic exist.
    pub(crate) fn tell_ready_later(&mut self, topic: TopicId, now: Now) {
        if let Some(creating) = self.creating.get_mut(&topic) {
            creating.told = false;
            self.retries.insert((now.monotonic + RETRY_AFTER, topic));
        }
    }

    /// Whether this node is in a partition's chain now. Of the first core.
    fn is_here(&self, topic: TopicId, partition: PartitionIndex) -> bool {
        let topic = self.catalog().topic(topic);
        let partition = topic.and_then(|topic| topic.partitions.get(partition.get() as usize));
        partition.is_some_and(|partition| {
            partition.configuration.chain.iter().any(|m| m.node == self.identity.node)
        })
    }

    pub(crate) fn metadata(&mut self, caller: Caller, head: &[u8]) -> Handled {
        let request = MetadataRequest::decode(head)?;
        let (names, max) = (request.names.len(), METADATA_NAMES_MAX);
        if names > max {
            let text = format!("{names} names; a request has at most {max}");
            self.refuse(caller, ErrorCode::InvalidRequest, &text);
            return Ok(());
        }
        let catalog = self.catalog();
        let topics: Vec<TopicMetadata<'_>> = if request.names.is_empty() {
            let mut all: Vec<_> = catalog.topics().map(|t| self.topic_metadata(t)).collect();
            all.sort_by(|a, b| a.name.cmp(&b.name));
            all
        } else {
            let mut told = BTreeSet::new();
            let once = request.names.iter().filter(|name| told.insert(&***name));
            once.map(|name| self.named_metadata(name)).collect()
        };
        let version = catalog.version();
        let nodes = self.addresses();
        let (error, message) = (ErrorCode::None, "".into());
        let response = MetadataResponse { error, version, nodes, topics, message };
        self.answer(caller, &response);
        Ok(())
    }

    /// Where clients reach the nodes of the cluster.
    fn addresses(&self) -> Vec<NodeAddress<'static>> {
        let own = self.advertised.clone();
        let others = self.catalog().nodes().filter(|(id, _)| *id != self.identity.node);
        let others = others.filter(|(_, node)| node.up && !node.profile.witness);
        let others = others.map(|(id, node)| (id, node.profile.client.clone()));
        std::iter::once((self.identity.node, own))
            .chain(others)
            .map(|(node, address)| NodeAddress { node, address: address.into() })
            .collect()
    }

    fn named_metadata<'n>(&self, name: &'n str) -> TopicMetadata<'n> {
        match self.catalog().topic_named(name) {
            Some(topic) => self.topic_metadata(topic),
            None => TopicMetadata {
                error: self.missing_code(name),
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
        let ready = topic.ready > 0 && !self.is_created(topic.id, PartitionIndex::new(0));
        TopicMetadata {
            error: if ready { ErrorCode::None } else { ErrorCode::Starting },
            name: topic.name.clone().into(),
            id: topic.id,
            config_version: self.catalog().version(),
            batch_bytes_max: u32::try_from(self.limits.batch_bytes_max_of(&config))
                .unwrap_or(u32::MAX),
            partitions: topic.partitions.iter().map(|p| self.place_of(topic, p)).collect(),
        }
    }

    fn place_of(&self, topic: &Topic, partition: &Partition) -> PartitionMetadata {
        let chain = &partition.configuration.chain;
        let head = chain.first().map_or(self.identity.node, |head| head.node);
        let place = self.places.get(&(topic.id, partition.index));
        let created = self.is_created(topic.id, partition.index);
        let exists = !created && partition.index.get() < topic.ready;
        let phase = match self.phase_of(partition.uid) {
            // Of others nobody knows more here.
            _ if head != self.identity.node && exists => Phase::Open,
            Phase::Open if !exists => Phase::Opening,
            phase => phase,
        };
        let core = match self.catalog().node(head) {
            Some(node) if self.follower.is_some() => core_of(partition.uid, node.profile.cores),
            _ => place.map_or(FIRST, |place| place.core),
        };
        PartitionMetadata {
            index: partition.index,
            uid: partition.uid,
            epoch: partition.configuration.epoch,
            core,
            chain: chain.iter().map(|member| member.node).collect(),
            error: phase_code(phase),
        }
    }

    pub(crate) fn describe_topic(&mut self, caller: Caller, head: &[u8]) -> Handled {
        let request = DescribeTopicRequest::decode(head)?;
        if let Some(id) = self.topic_id(caller, &request.name) {
            self.gather(caller, id);
        }
        Ok(())
    }

    /// Every setting of a topic as it stands, in the order of their keys.
    pub(crate) fn settings_of(&self, topic: &Topic) -> Vec<SettingInForce<'static>> {
        let in_force = |known: &TopicSetting| {
            let (value, origin) = match topic.config.get(known.key) {
                Some(value) => (value.clone(), ConfigOrigin::Topic),
                None => (known.default.to_string(), ConfigOrigin::Default),
            };
            let max = self.limits.batch_bytes_max;
            let above = value.parse().is_ok_and(|value: usize| value > max);
            let (value, origin) = match known.key {
                BATCH_BYTES_KEY if above => (max.to_string(), ConfigOrigin::Server),
                _ => (value, origin),
            };
            SettingInForce { key: known.key.into(), value: value.into(), origin }
        };
        TOPIC_SETTINGS.iter().map(in_force).collect()
    }

    /// Of a partition that only other nodes have.
    pub(crate) fn detail_elsewhere(&self, topic: &Topic, partition: &Partition) -> PartitionDetail {
        PartitionDetail {
            place: self.place_of(topic, partition),
            log_start: Offset::ZERO,
            high_watermark: Offset::ZERO,
            durable_end: Offset::ZERO,
            log_end: Offset::ZERO,
            bytes: 0,
            segments: 0,
            damaged: Vec::new(),
        }
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
