//! A node alone orders its own entries in a local synced log: the log of uid 0.

use std::collections::VecDeque;

use catena_format::{
    BatchHeader, ClusterId, Epoch, Millis, NodeId, Offset, PartitionIndex, PartitionUid, TopicId,
    frame, planted,
    records::{BatchBuilder, Producer},
};
use catena_log::{
    AppendError, Log, LogConfig, LogIdentity, Now, OpenError, Opening, RecoveryReport,
    io::{Done, IoError, Memory, Op, OpId},
};

use super::catalog::{Applied, Catalog, CatalogError, Entry, encode};

/// Segments of entries that are kept though a later one's index holds the catalog: so many indexes
/// can be damaged before it is.
const SEGMENTS_KEPT: u64 = 4;

/// Names a proposal; given by the caller.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ProposalId(pub u64);

/// What the orderer has to tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OrdererEvent {
    /// The catalog's log is open: what recovery found.
    Opened(RecoveryReport),
    /// This start is written in the catalog.
    Started,
    /// The catalog cannot be opened.
    Failed(OpenError),
    /// A proposal is durable and carried out, or changed nothing.
    Applied(ProposalId, Result<Applied, CatalogError>),
    /// A write failed: no proposal can be carried out any more, those under way may have been.
    Poisoned(IoError),
}

enum State<M: Memory> {
    Opening(Opening<M, Catalog>),
    Open(Log<M, Catalog>),
    Failed,
}

/// The catalog of a lone node, and the log that it is a fold of.
pub struct Orderer<M: Memory> {
    node: NodeId,
    /// In which this life's entries are written: above that of every start before, which the
    /// manifest knows too.
    epoch: Epoch,
    state: State<M>,
    waiting: VecDeque<(Offset, Option<ProposalId>, Result<Applied, CatalogError>)>,
    events: VecDeque<OrdererEvent>,
    empty: Catalog,
}

impl<M: Memory + Clone> Orderer<M> {
    /// Opens the log of a cluster's catalog, of segments of `segment_bytes`, or creates it on an
    /// empty directory.
    pub fn new(
        cluster: ClusterId,
        node: NodeId,
        segment_bytes: u64,
        create: bool,
        memory: M,
    ) -> Self {
        let identity = LogIdentity {
            cluster,
            topic: TopicId::new(0),
            partition: PartitionIndex::new(0),
            uid: PartitionUid::new(0),
        };
        let retention_bytes = Some(segment_bytes * SEGMENTS_KEPT);
        // Nobody reads it: what it says is in the catalog.
        let tail_cache_bytes = 0;
        let config =
            LogConfig { segment_bytes, retention_bytes, tail_cache_bytes, ..LogConfig::default() };
        let opening = Opening::new(identity, config, create, memory, Catalog::default());
        Self {
            node,
            epoch: Epoch::default(),
            state: State::Opening(opening),
            waiting: VecDeque::new(),
            events: VecDeque::new(),
            empty: Catalog::default(),
        }
    }

    /// Proposes a change; [`OrdererEvent::Applied`] follows.
    ///
    /// # Errors
    /// Why the log does not take it.
    pub fn propose(
        &mut self,
        proposal: ProposalId,
        entry: &Entry,
        now: Now,
    ) -> Result<(), AppendError> {
        self.append(Some(proposal), entry, now)
    }

    fn append(
        &mut self,
        proposal: Option<ProposalId>,
        entry: &Entry,
        now: Now,
    ) -> Result<(), AppendError> {
        let State::Open(log) = &mut self.state else { return Err(AppendError::Closed) };
        let mut builder = BatchBuilder::new();
        let time = Millis::new(now.wall.get().max(0));
        builder.push(time, None, Some(&encode(entry)), &[]);
        let batch =
            builder.build(Producer::NONE).map_err(|_| AppendError::TooLarge(builder.bytes()))?;
        let header = BatchHeader::parse(&batch).expect("the batch was just built");
        let crc = frame::payload_crc(&batch);
        let appended = log.append(&batch, &header, crc, self.epoch, now)?;
        let applied = log.fold_mut().take_last().expect("the entry was folded in");
        self.waiting.push_back((appended.next, proposal, applied));
        Ok(())
    }

    /// The catalog, including entries that are not durable yet.
    pub fn catalog(&self) -> &Catalog {
        match &self.state {
            State::Open(log) => log.fold(),
            _ => &self.empty,
        }
    }

    /// The next operation to perform.
    pub fn poll_op(&mut self) -> Option<(OpId, Op<M::Share>)> {
        match &mut self.state {
            State::Opening(opening) => opening.poll_op(),
            State::Open(log) => log.poll_op(),
            State::Failed => None,
        }
    }

    /// Takes the completion of an operation.
    pub fn on_done(&mut self, done: Done<M::Share>, now: Now) {
        match &mut self.state {
            State::Opening(opening) => match opening.on_done(done, now) {
                Ok(None) => {}
                Ok(Some(log)) => self.opened(log, now),
                Err(error) => self.fail(error),
            },
            State::Open(log) => {
                log.on_done(done, now);
                self.settle();
            }
            State::Failed => {}
        }
    }

    fn opened(&mut self, log: Log<M, Catalog>, now: Now) {
        if let Some(offset) = log.fold().unreadable() {
            return self.fail(OpenError::Batch(offset));
        }
        self.events.push_back(OrdererEvent::Opened(log.recovery().clone()));
        // Without an entry the rest means something else: topics would be missing, and with them
        // the reason to keep their files.
        if let Some(damaged) = log.damaged().first() {
            return self.fail(OpenError::Damaged(damaged.start));
        }
        let written = log.epochs().last().map_or(0, |(epoch, _)| epoch.get());
        let started = log.fold().incarnation(self.node).get();
        let before = written.max(u32::try_from(started).unwrap_or(u32::MAX));
        self.epoch = Epoch::new(before).plus(1);
        self.state = State::Open(log);
        let started = Entry::NodeStarted { node: self.node.get() };
        if let Err(error) = self.append(None, &started, now) {
            let error = match error {
                AppendError::Poisoned(error) => error,
                _ => IoError::NoSpace,
            };
            self.fail(error.into());
        }
    }

    fn fail(&mut self, error: OpenError) {
        self.state = State::Failed;
        self.events.push_back(OrdererEvent::Failed(error));
    }

    fn settle(&mut self) {
        let State::Open(log) = &mut self.state else { return };
        let durable =
            if planted!(CatalogBeforeDurable) { log.log_end() } else { log.durable_end() };
        while self.waiting.front().is_some_and(|(next, _, _)| *next <= durable) {
            let (_, proposal, applied) = self.waiting.pop_front().expect("there is a first");
            self.events.push_back(match proposal {
                Some(proposal) => OrdererEvent::Applied(proposal, applied),
                None => OrdererEvent::Started,
            });
        }
        while let Some(event) = log.poll_event() {
            if let catena_log::Event::Poisoned(error) = event {
                self.events.push_back(OrdererEvent::Poisoned(error));
            }
        }
    }

    /// Does what time brings.
    pub fn on_tick(&mut self, now: Now) {
        if let State::Open(log) = &mut self.state {
            log.on_tick(now);
        }
    }

    /// When [`Orderer::on_tick`] has something to do, if ever.
    pub fn next_tick(&self) -> Option<std::time::Duration> {
        match &self.state {
            State::Open(log) => Some(log.next_tick()),
            _ => None,
        }
    }

    /// What happened since the last call.
    pub fn poll_event(&mut self) -> Option<OrdererEvent> {
        self.events.pop_front()
    }

    /// Refuses proposals from now on and lets what is under way end.
    pub fn close(&mut self) {
        if let State::Open(log) = &mut self.state {
            log.close();
        }
    }

    /// Nothing is under way.
    pub fn is_idle(&self) -> bool {
        match &self.state {
            State::Opening(_) => false,
            State::Open(log) => log.is_idle() || log.poisoned().is_some(),
            State::Failed => true,
        }
    }
}
