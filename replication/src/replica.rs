//! One node's copy of one partition, in the role *solo*: head and tail of a chain of one.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use catena_format::{Epoch, Millis, Offset, ProducerEpoch, ProducerId, Sequence, frame, planted};
use catena_log::{
    AppendError, Appended, Batches, Event as LogEvent, Finding, Log, LogConfig, LogIdentity,
    LogStats, Now, OpenError, Opening, ReadAnswer, ReadError, ReadId, ReadOutcome, RecoveryReport,
    io::{Done, IoError, Memory, Op, OpId},
    stage::Stage,
};

use crate::{
    dedup::{Dedup, Verdict},
    validate::{self, BatchLimits, InvalidBatch},
};

/// When a produce is acknowledged. The high watermark, and with it what is served, does not depend
/// on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Durability {
    /// When the head has taken it: lost if the head's process ends.
    None,
    /// When it is on the head's disk: lost if that disk is lost.
    HeadDisk,
    /// When the tail has received it: lost if every member's process ends at once.
    ChainMemory,
    /// When it is on the disk of every member: lost only with all disks.
    #[default]
    ChainDisk,
}

/// The caller's handle of a produce or trim that was not answered at once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// A batch on its way in.
#[derive(Clone, Copy, Debug)]
pub struct ProduceRequest<'a> {
    /// Exactly one record batch.
    pub batch: &'a [u8],
    /// When to answer.
    pub durability: Durability,
    /// Append only if this is the next offset.
    pub expect_next_offset: Option<Offset>,
    /// Producers that were raised, and their epochs: batches of older ones are refused.
    pub raised: &'a BTreeMap<ProducerId, ProducerEpoch>,
    /// Named in the reply.
    pub ticket: Ticket,
}

/// What an acknowledged producer is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// The first record's offset.
    pub base: Offset,
    /// The offset after the last record.
    pub next: Offset,
    /// The epoch in which the receipt was given.
    pub epoch: Epoch,
    /// The server's time of the append; −1 for a duplicate.
    pub append_time: Millis,
    /// What was reached.
    pub level: Durability,
    /// Copies on disks; zero below a disk level.
    pub copies: u8,
    /// The batch was in the log before.
    pub duplicate: bool,
}

/// Why a batch was refused: for certain nothing was stored, unless the variant says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The batch is not acceptable.
    #[error(transparent)]
    Invalid(#[from] InvalidBatch),
    /// The log does not take it now, or not any more.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The log's next offset is another than the one expected.
    #[error("the next offset is {log_end}, another was expected")]
    OffsetCondition {
        /// The log's next offset.
        log_end: Offset,
    },
    /// Sequences are missing before this batch.
    #[error("sequence {expected} is next of this producer")]
    OutOfOrder {
        /// The sequence that would be next.
        expected: Sequence,
    },
    /// A newer generation of the producer has written.
    #[error("the producer is fenced by epoch {current}")]
    Fenced {
        /// That generation.
        current: ProducerEpoch,
    },
    /// The producer is not known here and this is not its first batch.
    #[error("the producer is not known in this partition")]
    UnknownProducer,
    /// The partition's table of producers is full.
    #[error("the partition has too many producers")]
    TooManyProducers,
    /// The batch is in the log, and durable, too long ago to know at which offset.
    #[error("the batch was stored before; its offset is no longer known")]
    DuplicateOffsetUnknown,
    /// The batch was taken in before, and then a write failed: it may be in the log after a
    /// restart, or not.
    #[error("a write failed ({0}); the batch may or may not be stored")]
    InDoubt(IoError),
    /// The batch was taken in before and is on its way to the disk, and so many repetitions wait
    /// for that already that no more may.
    #[error("the batch is on its way to the disk already, and too many repetitions wait for it")]
    TooManyRepetitions,
    /// The log is being opened, or could not be.
    #[error("the partition is not open")]
    NotOpen,
}

/// Why a produce that was taken in was not acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProduceError {
    /// A write or flush failed: the batch may be in the log after a restart, or not.
    #[error("a write failed ({0}); the batch may or may not be stored")]
    Indeterminate(IoError),
    /// The batch is in the log, and durable, too long ago to know at which offset.
    #[error("the batch was stored before; its offset is no longer known")]
    DuplicateOffsetUnknown,
}

/// A late answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply {
    /// Of which produce.
    pub ticket: Ticket,
    /// How it ended.
    pub result: Result<Receipt, ProduceError>,
}

/// What happened inside, for the shard.
#[derive(Clone, Debug)]
pub enum Event<S> {
    /// The log is open.
    Opened(RecoveryReport),
    /// It cannot be opened for want of something, and is tried again until it can; told once.
    Postponed(OpenError),
    /// It cannot be opened.
    Failed(OpenError),
    /// A produce is answered.
    Reply(Reply),
    /// A pending read ended.
    Read(ReadId, Result<ReadAnswer<S>, ReadError>),
    /// The high watermark rose.
    Committed(Offset),
    /// The log start that a trim asked for is durable.
    Trimmed(Offset),
    /// A write or flush failed: the partition is read-only.
    Poisoned(IoError),
    /// Stored bytes are not what was written, or cannot be read.
    Found(Finding),
}

/// What may be set for a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplicaConfig {
    /// The log's part.
    pub log: LogConfig,
    /// What batches are held to.
    pub batches: BatchLimits,
}

/// How far a replica has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Creation or recovery is under way.
    Opening,
    /// It serves.
    Open,
    /// It could not be opened.
    Failed(OpenError),
}

enum State<M: Memory> {
    Opening(Opening<M, Dedup>),
    Open(Log<M, Dedup>),
    /// Opening begins anew at this time.
    Postponed(Duration),
    Failed(OpenError),
}

/// After which what could not be opened for want of something is tried again.
const OPEN_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Repetitions of batches that are on their way to the disk, each of which waits for an answer of
/// its own.
const PARKED_REPETITIONS_MAX: usize = 4096;

struct Parked {
    ticket: Ticket,
    base: Offset,
    append_time: Millis,
    durability: Durability,
    kind: Kind,
    since: Duration,
}

/// What waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    New,
    /// A repetition of a batch.
    Duplicate,
    /// A repetition of one that is at the log's end at the latest.
    Unknown,
}

/// One partition's replica.
pub struct Replica<M: Memory> {
    identity: LogIdentity,
    config: ReplicaConfig,
    epoch: Epoch,
    create: bool,
    memory: M,
    state: State<M>,
    /// It is known that opening takes more than one attempt.
    postponed: bool,
    parked: BTreeMap<(Offset, Ticket), Parked>,
    /// Repetitions among them.
    repetitions: usize,
    high_watermark: Offset,
    events: VecDeque<Event<M::Share>>,
    commits: Stage,
}

impl<M: Memory + Clone> Replica<M> {
    /// Begins to open a replica, or to `create` one.
    pub fn new(
        identity: LogIdentity,
        config: ReplicaConfig,
        epoch: Epoch,
        create: bool,
        memory: M,
    ) -> Self {
        Self {
            identity,
            config,
            epoch,
            create,
            state: opening(identity, config, create, memory.clone()),
            memory,
            postponed: false,
            parked: BTreeMap::new(),
            repetitions: 0,
            high_watermark: Offset::ZERO,
            events: VecDeque::new(),
            commits: Stage::default(),
        }
    }

    /// From a batch's arrival until it is on the disk of the whole chain.
    pub fn commits(&self) -> &Stage {
        &self.commits
    }

    /// Takes a batch in; the answer is at once or an [`Event::Reply`].
    ///
    /// # Errors
    /// Nothing was stored; see [`Refusal`].
    pub fn on_produce(
        &mut self,
        request: &ProduceRequest<'_>,
        now: Now,
    ) -> Result<Option<Receipt>, Refusal> {
        let State::Open(log) = &mut self.state else { return Err(Refusal::NotOpen) };
        let header = validate::batch(request.batch, &self.config.batches, now.wall)?;
        let raised = request.raised.get(&header.producer_id);
        let fenced = raised.filter(|current| header.producer_epoch < **current);
        let fenced = fenced.filter(|_| !planted!(FenceIgnored));
        let verdict = log.fold().check(&header, now.wall);
        match (verdict, fenced) {
            (Verdict::New, None) => {}
            // What is stored is told also to whom an epoch was raised: so he learns what is not.
            (Verdict::Duplicate { base, next }, _) => {
                return self.repeated(request, base, next, Kind::Duplicate, now);
            }
            // Nobody knows which of the producer's batches it is: it may be one on its way.
            (Verdict::DuplicateOffsetUnknown, _) if self.high_watermark < log.log_end() => {
                let end = log.log_end();
                return self.repeated(request, end, end, Kind::Unknown, now);
            }
            (Verdict::DuplicateOffsetUnknown, _) | (_, None) => return Err(refusal(verdict)),
            (_, Some(&current)) => return Err(Refusal::Fenced { current }),
        }
        let log_end = log.log_end();
        let end = if planted!(ConditionAtWatermark) { self.high_watermark } else { log_end };
        if request.expect_next_offset.is_some_and(|expected| expected != end) {
            return Err(Refusal::OffsetCondition { log_end });
        }
        let crc = frame::payload_crc(request.batch);
        let appended = log.append(request.batch, &header, crc, self.epoch, now)?;
        Ok(self.park(request, appended, Kind::New, now))
    }

    /// A retry is answered as the first attempt was or will be, even if a condition fails by now.
    fn repeated(
        &mut self,
        request: &ProduceRequest<'_>,
        base: Offset,
        next: Offset,
        kind: Kind,
        now: Now,
    ) -> Result<Option<Receipt>, Refusal> {
        let State::Open(log) = &self.state else { return Err(Refusal::NotOpen) };
        if planted!(ConditionOfStored) && request.expect_next_offset.is_some() {
            return Err(Refusal::OffsetCondition { log_end: log.log_end() });
        }
        let under_way = next > self.high_watermark;
        match log.poisoned().filter(|_| under_way) {
            Some(error) => Err(Refusal::InDoubt(error)),
            None if under_way && self.repetitions == PARKED_REPETITIONS_MAX => {
                Err(Refusal::TooManyRepetitions)
            }
            None => {
                let appended = Appended { base, next, append_time: Millis::new(-1) };
                Ok(self.park(request, appended, kind, now))
            }
        }
    }

    fn park(
        &mut self,
        request: &ProduceRequest<'_>,
        appended: Appended,
        kind: Kind,
        now: Now,
    ) -> Option<Receipt> {
        let Appended { base, next, append_time } = appended;
        let (ticket, durability, since) = (request.ticket, request.durability, now.monotonic);
        let parked = Parked { ticket, base, append_time, durability, kind, since };
        // Alone, the tail's memory is the head's: both are reached when the batch is taken in.
        let memory = kind != Kind::Unknown
            && matches!(durability, Durability::None | Durability::ChainMemory);
        if memory || next <= self.high_watermark || planted!(AckBeforeDurable) {
            return Some(self.receipt(&parked, next));
        }
        self.repetitions += usize::from(kind != Kind::New);
        self.parked.insert((next, request.ticket), parked);
        None
    }

    fn receipt(&self, parked: &Parked, next: Offset) -> Receipt {
        let on_disk = next <= self.high_watermark || planted!(AckBeforeDurable);
        let level = if on_disk { Durability::ChainDisk } else { parked.durability };
        Receipt {
            base: parked.base,
            next,
            epoch: self.epoch,
            append_time: parked.append_time,
            level,
            copies: u8::from(on_disk),
            duplicate: parked.kind == Kind::Duplicate,
        }
    }

    /// Batches from the one that holds `from` on, below the high watermark.
    ///
    /// # Errors
    /// See [`ReadError`]; [`ReadError::Closed`] while the replica is not open.
    pub fn read(
        &mut self,
        from: Offset,
        max_bytes: usize,
    ) -> Result<ReadOutcome<Batches<M::Share>>, ReadError> {
        let below = self.high_watermark;
        let State::Open(log) = &mut self.state else { return Err(ReadError::Closed) };
        if from > below {
            return Err(ReadError::OutOfRange { start: log.log_start(), end: below });
        }
        log.read(from, max_bytes, below)
    }

    /// Where the first batch begins that has a record of `time` or later.
    ///
    /// # Errors
    /// [`ReadError::Closed`] while the replica is not open.
    pub fn offset_for_time(
        &mut self,
        time: Millis,
    ) -> Result<ReadOutcome<Option<Offset>>, ReadError> {
        let below = self.high_watermark;
        let State::Open(log) = &mut self.state else { return Err(ReadError::Closed) };
        Ok(log.offset_for_time(time, below))
    }

    /// Raises the log start; [`Event::Trimmed`] follows.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn trim(&mut self, to: Offset) -> Result<(), ReadError> {
        let State::Open(log) = &mut self.state else { return Err(ReadError::Closed) };
        log.trim(to)
    }

    /// Asks for the next read of the scrub; see [`Log::scrub`]. `None` also while it is not open.
    pub fn scrub(&mut self, spin: u64) -> Option<usize> {
        let State::Open(log) = &mut self.state else { return None };
        log.scrub(spin)
    }

    /// The next operation to perform.
    pub fn poll_op(&mut self) -> Option<(OpId, Op<M::Share>)> {
        match &mut self.state {
            State::Opening(opening) => opening.poll_op(),
            State::Open(log) => log.poll_op(),
            State::Postponed(_) | State::Failed(_) => None,
        }
    }

    /// Takes the completion of an operation.
    pub fn on_done(&mut self, done: Done<M::Share>, now: Now) {
        match &mut self.state {
            State::Opening(opening) => match opening.on_done(done, now) {
                Ok(None) => {}
                Ok(Some(mut log)) => {
                    // It may have been changed since the opening began.
                    log.set_config(self.config.log);
                    self.high_watermark = log.durable_end();
                    self.events.push_back(Event::Opened(log.recovery().clone()));
                    self.state = State::Open(log);
                }
                Err(error) if error.is_want() => {
                    self.state = State::Postponed(now.monotonic + OPEN_AGAIN_AFTER);
                    if !std::mem::replace(&mut self.postponed, true) {
                        self.events.push_back(Event::Postponed(error));
                    }
                }
                Err(error) => {
                    self.events.push_back(Event::Failed(error));
                    self.state = State::Failed(error);
                }
            },
            State::Open(log) => {
                log.on_done(done, now);
                self.commit(now);
            }
            State::Postponed(_) | State::Failed(_) => {}
        }
    }

    /// Does what time brings.
    pub fn on_tick(&mut self, now: Now) {
        match &mut self.state {
            State::Open(log) => log.on_tick(now),
            State::Postponed(at) if *at <= now.monotonic => {
                let memory = self.memory.clone();
                self.state = opening(self.identity, self.config, self.create, memory);
            }
            State::Opening(_) | State::Postponed(_) | State::Failed(_) => {}
        }
    }

    /// When [`Replica::on_tick`] has something to do, if ever.
    pub fn next_tick(&self) -> Option<std::time::Duration> {
        match &self.state {
            State::Open(log) => Some(log.next_tick()),
            State::Postponed(at) => Some(*at),
            State::Opening(_) | State::Failed(_) => None,
        }
    }

    /// The chain of one commits what is durable here.
    fn commit(&mut self, now: Now) {
        let State::Open(log) = &mut self.state else { return };
        let durable_end =
            if planted!(WatermarkBeforeDurable) { log.log_end() } else { log.durable_end() };
        if durable_end > self.high_watermark {
            self.high_watermark = durable_end;
            self.events.push_back(Event::Committed(durable_end));
        }
        while let Some(event) = log.poll_event() {
            self.events.push_back(match event {
                LogEvent::Read(id, answer) => Event::Read(id, answer),
                LogEvent::Trimmed(start) => Event::Trimmed(start),
                LogEvent::Poisoned(error) => Event::Poisoned(error),
                LogEvent::Found(finding) => Event::Found(finding),
            });
        }
        let poisoned = log.poisoned();
        self.answer(poisoned, now);
    }

    fn answer(&mut self, poisoned: Option<IoError>, now: Now) {
        while let Some(((next, ticket), parked)) = self.parked.pop_first() {
            let result = if next <= self.high_watermark {
                self.commits.note(now.monotonic.saturating_sub(parked.since));
                match parked.kind {
                    Kind::Unknown => Err(ProduceError::DuplicateOffsetUnknown),
                    Kind::New | Kind::Duplicate => Ok(self.receipt(&parked, next)),
                }
            } else if let Some(error) = poisoned {
                Err(ProduceError::Indeterminate(error))
            } else {
                self.parked.insert((next, ticket), parked);
                return;
            };
            self.repetitions -= usize::from(parked.kind != Kind::New);
            self.events.push_back(Event::Reply(Reply { ticket: parked.ticket, result }));
        }
    }

    /// What happened since the last call.
    pub fn poll_event(&mut self) -> Option<Event<M::Share>> {
        self.events.pop_front()
    }

    /// How far the replica has come.
    pub fn phase(&self) -> Phase {
        match &self.state {
            State::Opening(_) | State::Postponed(_) => Phase::Opening,
            State::Open(_) => Phase::Open,
            State::Failed(error) => Phase::Failed(*error),
        }
    }

    /// Which log this is.
    pub fn identity(&self) -> &LogIdentity {
        &self.identity
    }

    /// The epoch of the chain's configuration.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The end of what every member has on its disk.
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// The open log, to look at.
    pub fn log(&self) -> Option<&Log<M, Dedup>> {
        match &self.state {
            State::Open(log) => Some(log),
            _ => None,
        }
    }

    /// The log's counters.
    pub fn stats(&self) -> LogStats {
        self.log().map_or_else(LogStats::default, Log::stats)
    }

    /// Gives back what is held for readers of the recent end, as far as the disk has it; tells how
    /// many bytes that were.
    pub fn drop_tail(&mut self) -> usize {
        let State::Open(log) = &mut self.state else { return 0 };
        let before = log.tail_bytes();
        log.drop_tail();
        before - log.tail_bytes()
    }

    /// Changes the configuration.
    pub fn set_config(&mut self, config: ReplicaConfig) {
        self.config = config;
        if let State::Open(log) = &mut self.state {
            log.set_config(config.log);
        }
    }

    /// Refuses appends from now on and lets what is under way end.
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
            State::Postponed(_) | State::Failed(_) => true,
        }
    }
}

fn opening<M: Memory + Clone>(
    identity: LogIdentity,
    config: ReplicaConfig,
    create: bool,
    memory: M,
) -> State<M> {
    State::Opening(Opening::new(identity, config.log, create, memory, Dedup::default()))
}

fn refusal(verdict: Verdict) -> Refusal {
    match verdict {
        Verdict::OutOfOrder { expected } => Refusal::OutOfOrder { expected },
        Verdict::Fenced { current } => Refusal::Fenced { current },
        Verdict::UnknownProducer => Refusal::UnknownProducer,
        Verdict::TooManyProducers => Refusal::TooManyProducers,
        Verdict::DuplicateOffsetUnknown => Refusal::DuplicateOffsetUnknown,
        Verdict::New | Verdict::Duplicate { .. } => unreachable!("these are not refused"),
    }
}
