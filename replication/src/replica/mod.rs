//! One node's copy of one partition: a log, and the member of a chain that speaks for it.
//!
//! ```text
//! on_produce ─► validate · dedup ─► Log::append ──► parked until its level is reached ─► Reply
//! on_peer ────► inbox ─► Member ──┬─ Log::append_copy      ▲
//!                                 └─ Cut: close and open   │ commit
//! poll_parcel ◄─ Member ◄─────────── the log has grown, or more of it is durable
//! ```

use std::{collections::VecDeque, time::Duration};

use catena_format::{Epoch, Millis, Offset, frame, planted};
use catena_log::{
    Batches, Cut, Event as LogEvent, Finding, Log, LogConfig, LogIdentity, LogStats, Now,
    OpenError, Opening, ReadAnswer, ReadError, ReadId, ReadOutcome, RecoveryReport, RepairError,
    io::{Done, IoError, Memory, Op, OpId},
    stage::Stage,
};

use self::{
    answer::{Kind, Parking},
    pace::CatchUp,
    peers::Peers,
    repair::Repairs,
    stall::Watch,
};
use crate::{
    chain::{Configuration, Extent, Ignored, Member, MemberId, Role},
    dedup::{Dedup, Verdict},
    validate::{self, BatchLimits},
};

mod answer;
mod pace;
mod peers;
mod produce;
mod repair;
mod stall;

pub use self::{
    peers::{Parcel, WINDOW_BYTES},
    produce::{Durability, ProduceError, ProduceRequest, Receipt, Refusal, Reply, Ticket},
    repair::Mend,
};

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
    /// Where the log ends that is this chain's still, as [`Replica::confirm_end`] asked; `None`:
    /// another epoch has begun, and its head knows.
    Confirmed(Ticket, Option<Offset>),
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
    /// The log was cut where the chain says that it ends, and opened anew: what that found.
    Cut(Offset, RecoveryReport),
    /// The control plane is to be told that the joiner can be the tail.
    JoinReady {
        /// Of this epoch.
        epoch: Epoch,
        /// Who.
        joiner: MemberId,
    },
    /// The tail is about to wait for this joiner, which only another epoch ends: it does once
    /// [`Replica::on_close_allowed`] says that there can be one.
    JoinClose {
        /// Of this epoch.
        epoch: Epoch,
        /// Who.
        joiner: MemberId,
    },
    /// A member of the chain, or who joins it, holds it up; told again while it does.
    Stalled {
        /// Of this epoch.
        epoch: Epoch,
        /// Who; of the head's chain its own node, too.
        member: MemberId,
    },
    /// Batches that were damaged are whole again: another member had them.
    Repaired(std::ops::Range<Offset>),
    /// They could not be written back.
    RepairFailed(std::ops::Range<Offset>, RepairError),
    /// No neighbour in the chain has what is damaged here; it is asked for again later.
    Lost(std::ops::Range<Offset>),
    /// A neighbour's word and this log contradict each other: it is not heeded, and the chain does
    /// not go on until another epoch.
    Contradicted(Ignored),
    /// The link to this neighbour is to be begun anew.
    Unlink(MemberId),
}

/// What may be set for a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplicaConfig {
    /// The log's part.
    pub log: LogConfig,
    /// What batches are held to.
    pub batches: BatchLimits,
    /// A member that has come no further for so long holds its chain up.
    pub evict_after: Duration,
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

/// How long a predecessor has to answer a greeting before it is greeted anew: at first, at most.
const GREET_AFTER: Duration = Duration::from_millis(50);
const GREET_AFTER_MAX: Duration = Duration::from_secs(2);

/// One partition's replica.
pub struct Replica<M: Memory> {
    identity: LogIdentity,
    config: ReplicaConfig,
    create: bool,
    memory: M,
    state: State<M>,
    /// It is known that opening takes more than one attempt.
    postponed: bool,
    /// What is left out of the log: it ends what is under way, and is opened anew.
    cut: Option<Cut>,
    member: Member,
    /// To be entered once the log is open.
    next: Option<(MemberId, Configuration)>,
    /// When the predecessor is greeted anew that has not answered, and how long it had.
    greet: Option<(Duration, Duration)>,
    peers: Peers<M::Share>,
    catch_up: CatchUp,
    parking: Parking,
    repairs: Repairs<M::Share>,
    watch: Watch,
    /// What was told of the high watermark.
    told: Offset,
    /// What its producers had stored before its log starts is not known here any more.
    is_forgetful: bool,
    /// It has come to where it was before this process began, or nobody knows of more.
    is_settled: bool,
    events: VecDeque<Event<M::Share>>,
    commits: Stage,
}

impl<M: Memory + Clone> Replica<M> {
    /// Begins to open a replica, or to `create` one, of who that is and what is known of its chain.
    pub fn new(
        identity: LogIdentity,
        config: ReplicaConfig,
        (me, chain): (MemberId, Configuration),
        create: bool,
        memory: M,
    ) -> Self {
        Self {
            identity,
            config,
            create,
            state: State::Opening(opening(identity, config, create, memory.clone())),
            memory,
            postponed: false,
            cut: None,
            member: Member::new(me),
            next: Some((me, chain)),
            greet: None,
            peers: Peers::default(),
            catch_up: CatchUp::default(),
            parking: Parking::default(),
            repairs: Repairs::default(),
            watch: Watch::default(),
            told: Offset::ZERO,
            is_forgetful: false,
            is_settled: false,
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
        match self.offer(request, now) {
            Err(refusal) if refusal.rests_on_the_log() => self.doubt(request.ticket, refusal),
            result => result,
        }
    }

    fn offer(
        &mut self,
        request: &ProduceRequest<'_>,
        now: Now,
    ) -> Result<Option<Receipt>, Refusal> {
        let high_watermark = self.high_watermark();
        let State::Open(log) = &mut self.state else { return Err(Refusal::NotOpen) };
        takes(&self.member)?;
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
            (Verdict::DuplicateOffsetUnknown, _) if high_watermark < log.log_end() => {
                let end = log.log_end();
                return self.repeated(request, end, end, Kind::Unknown, now);
            }
            (Verdict::DuplicateOffsetUnknown, _) | (_, None) => return Err(refusal(verdict)),
            (_, Some(&current)) => return Err(Refusal::Fenced { current }),
        }
        let log_end = log.log_end();
        let end = if planted!(ConditionAtWatermark) { high_watermark } else { log_end };
        if request.expect_next_offset.is_some_and(|expected| expected != end) {
            return Err(Refusal::OffsetCondition { log_end });
        }
        let crc = frame::payload_crc(request.batch);
        let epoch = self.member.epoch().expect("a head is in an epoch");
        let appended = log.append(request.batch, &header, crc, epoch, now)?;
        Ok(self.park(request, appended, Kind::New, now))
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
        let below = self.high_watermark();
        let log = ready(&mut self.state, self.cut.as_ref()).ok_or(ReadError::Closed)?;
        // Another member may have shown more than has come here.
        let may_come =
            from <= log.log_end() || !matches!(self.member.role(), Role::Solo | Role::Head);
        if from > below && may_come {
            return Ok(ReadOutcome::Ready(Batches::empty(from)));
        }
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
        let below = self.high_watermark();
        let log = ready(&mut self.state, self.cut.as_ref()).ok_or(ReadError::Closed)?;
        Ok(log.offset_for_time(time, below))
    }

    /// Raises the log start; [`Event::Trimmed`] follows.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn trim(&mut self, to: Offset) -> Result<(), ReadError> {
        let below = self.high_watermark();
        let log = ready(&mut self.state, self.cut.as_ref()).ok_or(ReadError::Closed)?;
        if to > below {
            return Err(ReadError::OutOfRange { start: log.log_start(), end: below });
        }
        log.trim(to)
    }

    /// Asks for the next read of the scrub; see [`Log::scrub`]. `None` also while it is not open.
    pub fn scrub(&mut self, spin: u64) -> Option<usize> {
        let log = ready(&mut self.state, self.cut.as_ref())?;
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
                Ok(Some(log)) => self.opened(log, now),
                Err(error) if error.is_want() => {
                    self.state = State::Postponed(now.monotonic + OPEN_AGAIN_AFTER);
                    if !std::mem::replace(&mut self.postponed, true) {
                        self.events.push_back(Event::Postponed(error));
                    }
                }
                Err(error) => self.fail(error),
            },
            State::Open(log) => {
                log.on_done(done, now);
                self.go_on(now);
            }
            State::Postponed(_) | State::Failed(_) => {}
        }
    }

    fn opened(&mut self, mut log: Log<M, Dedup>, now: Now) {
        // It may have been changed since the opening began.
        log.set_config(self.log_config());
        log.set_committed(self.member.high_watermark());
        self.create = false;
        if matches!(self.cut, Some(Cut::All { .. })) {
            self.is_forgetful = false;
        }
        self.is_forgetful |= log.recovery().fold_lost;
        if self.cut.take().is_some() {
            self.events.push_back(Event::Cut(log.log_end(), log.recovery().clone()));
            self.member.on_cut(&extent(&log));
        } else {
            self.events.push_back(Event::Opened(log.recovery().clone()));
        }
        self.state = State::Open(log);
        self.repairs.look();
        if let Some((me, next)) = self.next.take() {
            self.enter_as(me, next, now);
        }
        self.go_on(now);
    }

    fn fail(&mut self, error: OpenError) {
        self.events.push_back(Event::Failed(error));
        self.state = State::Failed(error);
    }

    /// Opens the log anew once nothing of it is under way.
    fn reopen(&mut self) {
        let State::Open(log) = &self.state else { return };
        if self.cut.is_none() {
            return;
        }
        if let Some(error) = log.poisoned().filter(|_| !log.has_reads()) {
            return self.fail(error.into());
        }
        if log.is_idle() {
            self.state = State::Opening(self.opening());
        }
    }

    fn opening(&self) -> Opening<M, Dedup> {
        let opening = opening(self.identity, self.config, self.create, self.memory.clone());
        match &self.cut {
            Some(cut) => opening.cut(cut.clone()),
            None => opening,
        }
    }

    /// Enters an epoch of the chain, if it is newer than the present one, once the log is open.
    pub fn enter(&mut self, configuration: Configuration, now: Now) {
        self.enter_as(self.member.id(), configuration, now);
    }

    /// The same, as another incarnation of its node: this process goes on, but as if it had
    /// started anew.
    pub fn enter_as(&mut self, me: MemberId, configuration: Configuration, now: Now) {
        let newest = self.next.as_ref().map(|(_, next)| next.epoch).max(self.member.epoch());
        if newest >= Some(configuration.epoch) {
            return;
        }
        let Some(log) = ready(&mut self.state, self.cut.as_ref()) else {
            self.next = Some((me, configuration));
            return;
        };
        self.member.enter_as(me, configuration, &extent(log));
        if matches!(self.member.role(), Role::Solo | Role::Head) {
            // What it copied may never come, and what takes its place is not to be dropped.
            self.peers.start = self.peers.start.min(log.log_end());
        }
        if self.is_forgetful && self.others_keep_enough() {
            self.member.renounce();
        }
        self.greet = None;
        self.repairs.begin_anew();
        self.watch = Watch::default();
        self.catch_up = CatchUp::default();
        let early = self.peers.forget();
        if !self.is_head() {
            self.parking.leave(&mut self.events);
        }
        self.parking.leave_doubts(&mut self.events);
        self.parking.strict_from = None;
        self.set_config(self.config);
        self.go_on(now);
        for (from, message) in early {
            // What is newer still is kept once more.
            let _ = self.on_peer(from, message, &[], &[], now);
        }
    }

    /// Whether this copy should be made anew, by leaving the chain and joining it again: it does
    /// not know any more what producers had stored, and as head would take that for new.
    pub fn is_forgetful(&self) -> bool {
        let within = matches!(self.member.role(), Role::Head | Role::Middle | Role::Tail);
        within && self.is_forgetful && self.others_keep_enough()
    }

    /// Whether two others hold what this one does, so that its own copy can be done without.
    fn others_keep_enough(&self) -> bool {
        let me = self.member.node();
        let chain = self.member.configuration().map_or(&[][..], |chain| &chain.chain);
        chain.iter().filter(|member| member.node != me).count() >= 2
    }

    /// Of the head: whether the chain may change as somebody has planned, and nothing is lost that
    /// was answered at whatever level: it is on all disks of the chain. Once this was asked, every
    /// level waits for that until the next epoch.
    pub fn may_change(&mut self) -> bool {
        let committed = self.high_watermark();
        let Some(log) = ready(&mut self.state, self.cut.as_ref()) else { return false };
        let answered = *self.parking.strict_from.get_or_insert(log.log_end());
        self.is_head() && (committed >= answered || planted!(ChangedUncommitted))
    }

    /// The chain need not change as [`Replica::may_change`] was asked, and nobody has proposed it.
    pub fn need_not_change(&mut self) {
        self.parking.strict_from = None;
    }

    fn is_head(&self) -> bool {
        matches!(self.member.role(), Role::Solo | Role::Head)
    }

    /// Only the head decides what is dropped.
    fn log_config(&self) -> LogConfig {
        let config = self.config.log;
        if self.is_head() {
            return config;
        }
        LogConfig { retention_bytes: None, retention_age: None, ..config }
    }

    /// Does what time brings.
    pub fn on_tick(&mut self, now: Now) {
        self.greet_again(now);
        match &mut self.state {
            State::Open(log) => {
                log.on_tick(now);
                self.member.repeat_ready();
                if self.peers.try_again() {
                    log.read_fold();
                }
                self.go_on(now);
            }
            State::Postponed(at) if *at <= now.monotonic => {
                self.state = State::Opening(self.opening());
            }
            State::Opening(_) | State::Postponed(_) | State::Failed(_) => {}
        }
    }

    /// When [`Replica::on_tick`] has something to do, if ever.
    pub fn next_tick(&self) -> Option<Duration> {
        match &self.state {
            State::Open(log) => {
                let greet = self.greet.map_or(Duration::MAX, |(at, _)| at);
                let others = self.repairs.next_tick().min(self.next_watch());
                let others = others.min(self.next_telling());
                Some(log.next_tick().min(greet).min(others))
            }
            State::Postponed(at) => Some(*at),
            State::Opening(_) | State::Failed(_) => None,
        }
    }

    /// A greeting that is not answered for long is said anew: it may have come before who is
    /// greeted had a part in the chain.
    fn greet_again(&mut self, now: Now) {
        if let Some((_, waited)) = self.greet.take_if(|(at, _)| *at <= now.monotonic)
            && self.member.awaits_welcome()
        {
            self.peers.forget_upstream();
            self.member.on_link_lost();
            let wait = GREET_AFTER_MAX.min(waited * 2);
            self.greet = Some((now.monotonic + wait, wait));
        }
    }

    /// Something was taken, written or heard: commits, passes on, answers.
    fn go_on(&mut self, now: Now) {
        if self.greet.is_none() && self.member.awaits_welcome() {
            self.greet = Some((now.monotonic + GREET_AFTER, GREET_AFTER));
        }
        self.take_in(now);
        self.converse();
        self.tell_late(now);
        self.drain(now);
        self.reopen();
        self.mend(now);
        self.watch(now);
    }

    /// What the log has to tell.
    fn drain(&mut self, now: Now) {
        let high_watermark = self.high_watermark();
        let State::Open(log) = &mut self.state else { return };
        if high_watermark > self.told {
            self.told = high_watermark;
            self.events.push_back(Event::Committed(high_watermark));
        }
        self.is_settled |= self.member.covers_earlier();
        log.set_committed(high_watermark);
        log.follow_start(self.peers.start.min(high_watermark));
        let (mut copied, mut given, mut failed) = (Vec::new(), None, None);
        while let Some(event) = log.poll_event() {
            self.events.push_back(match event {
                LogEvent::Fold(start, fold) => {
                    self.peers.fold_read(start, fold);
                    continue;
                }
                LogEvent::Read(id, answer) if self.repairs.is_reading(id) => {
                    given = Some(answer);
                    continue;
                }
                LogEvent::Read(id, answer) => match self.peers.side_reading(id) {
                    None => Event::Read(id, answer),
                    Some(side) => {
                        copied.push((side, answer));
                        continue;
                    }
                },
                LogEvent::Trimmed(start) => Event::Trimmed(start),
                LogEvent::Poisoned(error) => Event::Poisoned(error),
                LogEvent::Found(finding) => {
                    self.repairs.look();
                    Event::Found(finding)
                }
                LogEvent::Repaired(offsets) => {
                    self.repairs.repaired(&offsets);
                    Event::Repaired(offsets)
                }
                LogEvent::RepairFailed(offsets, why) => {
                    failed = Some(why);
                    Event::RepairFailed(offsets, why)
                }
            });
        }
        let poisoned = log.poisoned();
        if let Some(why) = failed {
            self.repair_failed(why, now);
        }
        for (side, answer) in copied {
            self.copied(side, answer);
        }
        if let Some(answer) = given {
            self.mend_read(answer);
        }
        self.answer(poisoned, now);
    }

    /// What happened since the last call.
    pub fn poll_event(&mut self) -> Option<Event<M::Share>> {
        self.events.pop_front()
    }

    /// How far the replica has come.
    pub fn phase(&self) -> Phase {
        match &self.state {
            State::Opening(_) | State::Postponed(_) => Phase::Opening,
            State::Open(_) if self.cut.is_some() => Phase::Opening,
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
        self.member.epoch().unwrap_or_default()
    }

    /// Its part in the chain.
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// The end of what every member has on its disk, as far as this one has it, too: it may have
    /// been told of more than it has taken yet.
    pub fn high_watermark(&self) -> Offset {
        let here = self.log().map_or(self.told, |log| extent(log).durable);
        self.member.high_watermark().min(here)
    }

    /// Whether the high watermark counts as the end: at the start of a process it is zero, until
    /// the chain has confirmed what was committed before.
    pub fn is_settled(&self) -> bool {
        self.is_settled
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
        let config = self.log_config();
        if let State::Open(log) = &mut self.state {
            log.set_config(config);
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
            State::Open(_) if self.cut.is_some() => false,
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
) -> Opening<M, Dedup> {
    Opening::new(identity, config.log, create, memory, Dedup::default())
}

/// The log, if it is open and stays so.
fn ready<'a, M: Memory>(
    state: &'a mut State<M>,
    cut: Option<&Cut>,
) -> Option<&'a mut Log<M, Dedup>> {
    match state {
        State::Open(log) if cut.is_none() => Some(log),
        _ => None,
    }
}

/// How far a log reaches.
fn extent<M: Memory + Clone>(log: &Log<M, Dedup>) -> Extent<'_> {
    let durable = if planted!(WatermarkBeforeDurable) { log.log_end() } else { log.durable_end() };
    Extent {
        start: log.held_start(),
        log_start: log.log_start(),
        end: log.log_end(),
        durable,
        epochs: log.epochs(),
    }
}

/// Whether a member may take a producer's batch.
fn takes(member: &Member) -> Result<(), Refusal> {
    if member.takes_appends() {
        return Ok(());
    }
    match member.configuration() {
        Some(configuration) if matches!(member.role(), Role::Solo | Role::Head) => {
            let there = u8::try_from(configuration.chain.len()).unwrap_or(u8::MAX);
            Err(Refusal::NotEnoughReplicas { there, needed: configuration.min_replicas })
        }
        _ => Err(Refusal::NotHead),
    }
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
