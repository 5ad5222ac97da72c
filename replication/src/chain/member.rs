//! What one member of a chain may claim, take, pass on and answer for.

use catena_format::{Epoch, NodeId, Offset, planted};

use super::{Configuration, Extent, History, MemberId, Message, Progress, Role};

#[cfg(test)]
mod tests;

/// Behind a member: its successor, or who joins behind the tail.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Side {
    /// The next of the chain.
    Successor,
    /// The joiner.
    Joiner,
}

/// Why a message changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Ignored {
    /// It is of an older epoch: its sender is to hear of ours.
    #[error("a message of an older epoch than {0}")]
    Older(Epoch),
    /// It is of a newer epoch: ours is to be asked for, and the message kept until then.
    #[error("a message of the newer epoch {0}")]
    Newer(Epoch),
    /// It is of an earlier session of the link.
    #[error("a message of an earlier session")]
    Session,
    /// Its sender is no neighbour, or has nothing to say like that.
    #[error("a message from nobody who is to say that")]
    Stranger,
    /// Its batches do not follow on the log: the link is to be closed.
    #[error("batches from {from} on, and the log ends at {end}")]
    Gap {
        /// Where they begin.
        from: Offset,
        /// Where the log ends.
        end: Offset,
    },
    /// What is committed would have to go: somebody's disk or word is broken. Nothing is
    /// cut.
    #[error("offset {at} would be cut, and everything below {high_watermark} is committed")]
    Contradiction {
        /// From there on.
        at: Offset,
        /// What is known to be committed.
        high_watermark: Offset,
    },
}

/// What a message asks of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// To be cut behind `keep`, with its index, epochs and producers; where `first` is behind
    /// `keep`, to be dropped and begun anew at `first`. Once that is durable, [`Member::on_cut`].
    Cut {
        /// The end of what stays.
        keep: Offset,
        /// Where the next batch will begin.
        first: Offset,
    },
    /// To take the batches that came along.
    Append,
}

/// What a member wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// A message for a neighbour.
    Send {
        /// To whom.
        to: MemberId,
        /// What.
        message: Message,
    },
    /// The control plane is to be told that the joiner can be the tail.
    JoinReady {
        /// Of this epoch.
        epoch: Epoch,
        /// Who.
        joiner: MemberId,
    },
}

/// The link to the predecessor.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Uplink {
    peer: MemberId,
    session: u64,
    greeted: bool,
    welcomed: bool,
    /// The high watermark that it told with its welcome; ours once the log is cut.
    promised: Offset,
    /// What it was told last.
    told: Option<Report>,
}

/// What a predecessor is told: the high watermark, how far each is from here on, and what was
/// answered.
type Report = (Offset, Vec<Progress>, u64);

impl Uplink {
    fn to(peer: MemberId) -> Self {
        let (greeted, welcomed, promised) = (false, false, Offset::ZERO);
        Self { peer, session: 0, greeted, welcomed, promised, told: None }
    }
}

/// The link to the successor, or to the joiner.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Downlink {
    peer: MemberId,
    session: u64,
    /// It waits for a welcome.
    hello: Option<History>,
    sent: Offset,
    told_durable: Offset,
    told_start: Offset,
    told_question: u64,
    /// Its own first, then of all behind it.
    progress: Vec<Progress>,
    /// It has said so itself: its log was cut.
    reported: bool,
}

/// A node's part in the chain of one partition.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Member {
    me: MemberId,
    configuration: Option<Configuration>,
    role: Role,
    /// Its log is what the head's log was, as far as it reaches.
    synced: bool,
    /// The end of its log when this epoch was entered: no epoch before can commit anything behind.
    entered_end: Offset,
    /// What is durable at all members before.
    durable_before: Offset,
    high_watermark: Offset,
    /// Of the present link to the predecessor.
    session: u64,
    uplink: Option<Uplink>,
    successor: Option<Downlink>,
    joiner: Option<Downlink>,
    /// Nothing is committed any more that the joiner does not have. Only another epoch ends this:
    /// the word that it is ready may be on its way.
    joint: bool,
    ready_told: bool,
    /// A joiner's log cannot be cut to what the chain has: it begins anew.
    renounced: bool,
    /// Questions that the head has asked, as far as they came here, and how many came to the tail.
    questions: u64,
    answered: u64,
    /// That everything before was received is told at once.
    urgent: Offset,
    /// How far everybody is is told now, though nobody waits for it.
    tells: bool,
}

impl Member {
    /// A node that is in no epoch yet, in this life.
    #[must_use]
    pub fn new(me: MemberId) -> Self {
        Self {
            me,
            configuration: None,
            role: Role::Outside,
            synced: false,
            entered_end: Offset::ZERO,
            durable_before: Offset::ZERO,
            high_watermark: Offset::ZERO,
            session: 0,
            uplink: None,
            successor: None,
            joiner: None,
            joint: false,
            ready_told: false,
            renounced: false,
            questions: 0,
            answered: 0,
            urgent: Offset::ZERO,
            tells: false,
        }
    }

    /// Enters a newer epoch: no message of an older one is sent or taken any more. Tells whether it
    /// is newer. Nothing need be durable first: another life of this node is another member, which
    /// is in none of the epochs of this one.
    pub fn enter(&mut self, configuration: Configuration, log: &Extent<'_>) -> bool {
        self.enter_as(self.me, configuration, log)
    }

    /// The same, as another incarnation of its node.
    pub fn enter_as(
        &mut self,
        me: MemberId,
        configuration: Configuration,
        log: &Extent<'_>,
    ) -> bool {
        if self.epoch() >= Some(configuration.epoch) {
            return false;
        }
        let high_watermark = self.high_watermark;
        *self = Self::new(me);
        self.role = configuration.role(self.me);
        self.high_watermark = match self.role {
            // Who heads a chain holds what was committed, unless that was given up.
            Role::Solo | Role::Head => high_watermark.min(log.end),
            _ => high_watermark,
        };
        let first = matches!(self.role, Role::Solo | Role::Head);
        self.synced = first;
        self.durable_before = if first { Offset::MAX } else { Offset::ZERO };
        self.entered_end = log.end;
        let node = self.me.node;
        let before = configuration.predecessor(node).filter(|_| self.role != Role::Outside);
        self.uplink = before.map(Uplink::to);
        self.configuration = Some(configuration);
        true
    }

    /// Of a joiner that has not been heard of yet: its log is of no use, and begins anew.
    pub fn renounce(&mut self) {
        self.renounced |= self.role == Role::Joiner;
    }

    /// The epoch that was entered.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        self.configuration.as_ref().map(|configuration| configuration.epoch)
    }

    /// What it is in its epoch.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// The chain of its epoch.
    #[must_use]
    pub fn configuration(&self) -> Option<&Configuration> {
        self.configuration.as_ref()
    }

    /// Whether it gives offsets, in a chain that is long enough.
    #[must_use]
    pub fn takes_appends(&self) -> bool {
        let enough = self.configuration.as_ref().is_some_and(Configuration::is_enough);
        enough && matches!(self.role, Role::Solo | Role::Head)
    }

    /// The end of what it may answer for and show: durable at all members, as far as it has heard.
    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// Whether everything below its log's end when it entered its epoch is committed: that is all
    /// that any epoch before can have shown.
    #[must_use]
    pub fn covers_earlier(&self) -> bool {
        let counts = self.synced && !matches!(self.role, Role::Outside | Role::Joiner);
        counts && self.high_watermark >= self.entered_end
    }

    /// How far those behind it are: its successor first, then up to the tail.
    #[must_use]
    pub fn progress(&self, side: Side) -> &[Progress] {
        self.downlink(side).map_or(&[], |link| &link.progress)
    }

    /// Of the head: asks whether all members are still in its epoch, each with a log that is the
    /// head's; [`Member::answered`] reaches the number told once they all have said so. Then
    /// nothing was committed in a later epoch when this was asked, and nothing that was in another
    /// member's log alone ever will be: such a later epoch takes the word of one of them.
    pub fn ask(&mut self) -> u64 {
        self.questions += 1;
        self.questions
    }

    /// The last question that came through the whole chain; in joint mode to the joiner, too, who
    /// may be a member already of an epoch that nobody before it has heard of.
    #[must_use]
    pub fn answered(&self) -> u64 {
        match self.role {
            Role::Joiner => self.questions,
            Role::Solo | Role::Tail if !self.joint => self.questions,
            _ => self.answered,
        }
    }

    /// Nothing is committed without the joiner any more.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        self.joint
    }

    fn downlink(&self, side: Side) -> Option<&Downlink> {
        match side {
            Side::Successor => self.successor.as_ref(),
            Side::Joiner => self.joiner.as_ref(),
        }
    }

    fn downlink_mut(&mut self, side: Side) -> &mut Option<Downlink> {
        match side {
            Side::Successor => &mut self.successor,
            Side::Joiner => &mut self.joiner,
        }
    }

    fn is_tail(&self) -> bool {
        matches!(self.role, Role::Solo | Role::Tail)
    }

    /// Which neighbour somebody behind is.
    fn side(&self, from: MemberId) -> Option<Side> {
        let configuration = self.configuration.as_ref()?;
        if self.role != Role::Joiner && configuration.successor(self.me.node) == Some(from) {
            return Some(Side::Successor);
        }
        (self.is_tail() && configuration.joining == Some(from)).then_some(Side::Joiner)
    }

    /// The link to the predecessor broke: a new session begins.
    pub fn on_link_lost(&mut self) {
        self.session += 1;
        let session = self.session;
        if let Some(uplink) = &mut self.uplink {
            *uplink = Uplink { session, ..Uplink::to(uplink.peer) };
        }
    }

    /// The link to whom is behind broke: who that is begins another session.
    pub fn on_downlink_lost(&mut self, side: Side) {
        if planted!(JointLeft) && side == Side::Joiner {
            self.joint = false;
        }
    }

    /// The tail begins to commit nothing without the joiner, who is close by now. While the control
    /// plane cannot be reached that is not to be done: nothing else ends it.
    pub fn on_joiner_close(&mut self) {
        self.joint |= self.synced && self.is_tail() && self.welcomed(Side::Joiner).is_some();
    }

    /// Takes a message.
    ///
    /// # Errors
    /// Why it changed nothing.
    pub fn on_message(
        &mut self,
        from: MemberId,
        message: &Message,
        log: &Extent<'_>,
    ) -> Result<Option<Effect>, Ignored> {
        let epoch = self.epoch().ok_or(Ignored::Newer(message.epoch()))?;
        if message.epoch() < epoch && !planted!(OldEpochTaken) {
            return Err(Ignored::Older(epoch));
        }
        if message.epoch() > epoch {
            return Err(Ignored::Newer(message.epoch()));
        }
        match message {
            Message::Hello { session, history, .. } => {
                self.on_hello(from, *session, history)?;
                Ok(None)
            }
            Message::Welcome { session, keep, first, high_watermark, .. } => {
                self.on_welcome(from, *session, (*keep, *first), *high_watermark, log)
            }
            Message::Append {
                session, from: first, to, durable_before, question, urgent, ..
            } => {
                let effect = self.on_append(from, *session, (*first, *to), *durable_before, log)?;
                self.questions = self.questions.max(*question);
                if *urgent {
                    self.hurry(*to);
                }
                Ok(effect)
            }
            Message::Commit { session, high_watermark, progress, answered, .. } => {
                self.on_commit(from, *session, *high_watermark, progress, log)?;
                self.answered = self.answered.max(*answered);
                Ok(None)
            }
        }
    }

    fn on_hello(&mut self, from: MemberId, session: u64, history: &History) -> Result<(), Ignored> {
        let side = self.side(from).ok_or(Ignored::Stranger)?;
        if self.downlink(side).is_some_and(|link| link.session >= session) {
            return Err(Ignored::Session);
        }
        *self.downlink_mut(side) = Some(Downlink {
            peer: from,
            session,
            hello: Some(history.clone()),
            sent: Offset::ZERO,
            told_durable: Offset::ZERO,
            told_start: Offset::ZERO,
            told_question: 0,
            progress: Vec::new(),
            reported: false,
        });
        Ok(())
    }

    fn uplink_of(&mut self, from: MemberId, session: u64) -> Result<&mut Uplink, Ignored> {
        let uplink = self.uplink.as_mut().filter(|uplink| uplink.peer == from);
        let uplink = uplink.ok_or(Ignored::Stranger)?;
        let same = uplink.session == session || planted!(OldSessionTaken);
        if same { Ok(uplink) } else { Err(Ignored::Session) }
    }

    fn on_welcome(
        &mut self,
        from: MemberId,
        session: u64,
        (keep, first): (Offset, Offset),
        theirs: Offset,
        log: &Extent<'_>,
    ) -> Result<Option<Effect>, Ignored> {
        let (high_watermark, role, renounced) = (self.high_watermark, self.role, self.renounced);
        let uplink = self.uplink_of(from, session)?;
        if uplink.welcomed && !planted!(OldSessionTaken) {
            return Err(Ignored::Stranger);
        }
        // What is committed and here must be there, too. Only a joiner that was away for long may
        // have what nobody keeps any more, or what was given up.
        let joins = role == Role::Joiner;
        let outdated = joins && keep < first;
        let committed = if joins { Offset::ZERO } else { high_watermark.min(log.end) };
        let least = first.max(committed).max(log.log_start);
        if keep < least && !outdated && !renounced {
            if joins {
                self.renounced = true;
                self.on_link_lost();
            }
            return Err(Ignored::Contradiction { at: keep, high_watermark });
        }
        uplink.welcomed = true;
        // What is to be cut must not be shown.
        uplink.promised = theirs;
        if planted!(UncutShown) {
            self.high_watermark = high_watermark.max(theirs);
        }
        let keep = if planted!(CutAtWatermark) { high_watermark } else { keep };
        Ok(Some(Effect::Cut { keep, first }))
    }

    /// The log was cut as a welcome said, and that is durable.
    pub fn on_cut(&mut self, log: &Extent<'_>) {
        if !self.synced {
            self.entered_end = log.end;
        }
        if self.role == Role::Joiner {
            self.high_watermark = self.high_watermark.min(log.end);
        }
        self.synced = true;
        let promised = self.uplink.as_ref().map_or(Offset::ZERO, |uplink| uplink.promised);
        self.high_watermark = self.high_watermark.max(promised);
    }

    fn on_append(
        &mut self,
        sender: MemberId,
        session: u64,
        (from, to): (Offset, Offset),
        durable_before: Offset,
        log: &Extent<'_>,
    ) -> Result<Option<Effect>, Ignored> {
        let synced = self.synced;
        let uplink = self.uplink_of(sender, session)?;
        if !(synced && uplink.welcomed) {
            return Err(Ignored::Session);
        }
        if from != log.end {
            return Err(Ignored::Gap { from, end: log.end });
        }
        self.durable_before = self.durable_before.max(durable_before);
        Ok((from < to).then_some(Effect::Append))
    }

    fn on_commit(
        &mut self,
        from: MemberId,
        session: u64,
        high_watermark: Offset,
        progress: &[Progress],
        log: &Extent<'_>,
    ) -> Result<(), Ignored> {
        let side = self.side(from).ok_or(Ignored::Stranger)?;
        let durable_before = self.durable_before;
        let link = self.downlink_mut(side).as_mut().ok_or(Ignored::Session)?;
        if link.session != session || link.hello.is_some() {
            return Err(Ignored::Session);
        }
        let successor = side == Side::Successor;
        if successor && high_watermark > log.durable && durable_before != Offset::MAX {
            return Err(Ignored::Contradiction { at: log.durable, high_watermark });
        }
        link.progress = progress.to_vec();
        link.reported = true;
        if successor {
            self.high_watermark = self.high_watermark.max(high_watermark);
        }
        Ok(())
    }

    /// What is wanted next, if anything; to be asked until there is nothing, after each input and
    /// whenever the log has grown or more of it is durable.
    pub fn poll(&mut self, log: &Extent<'_>) -> Option<Output> {
        self.commit(log);
        self.greet(log)
            .or_else(|| self.welcome(Side::Successor, log))
            .or_else(|| self.welcome(Side::Joiner, log))
            .or_else(|| self.report(log))
            .or_else(|| self.ready())
    }

    /// The tail commits what is durable at all members; in joint mode, at the joiner, too.
    fn commit(&mut self, log: &Extent<'_>) {
        let enough = self.configuration.as_ref().is_some_and(Configuration::is_enough);
        if planted!(AckBeforeTail) && self.role == Role::Head {
            self.high_watermark = self.high_watermark.max(log.durable);
        }
        if !(self.synced && self.is_tail() && enough) {
            return;
        }
        let durable = if planted!(ChainMemoryCommitted) { log.end } else { log.durable };
        let mut committed = self.durable_before.min(durable);
        if self.joint {
            committed = committed.min(self.joiner_durable());
        }
        self.high_watermark = self.high_watermark.max(committed);
    }

    fn joiner_durable(&self) -> Offset {
        let progress = self.joiner.as_ref().and_then(|joiner| joiner.progress.first());
        progress.map_or(Offset::ZERO, |progress| progress.durable)
    }

    fn greet(&mut self, log: &Extent<'_>) -> Option<Output> {
        let epoch = self.epoch()?;
        let uplink = self.uplink.as_mut().filter(|uplink| !uplink.greeted)?;
        uplink.greeted = true;
        let history = if self.renounced { History::default() } else { log.to_history() };
        let session = uplink.session;
        let message = Message::Hello { epoch, session, history };
        Some(Output::Send { to: uplink.peer, message })
    }

    /// Whose own log counts already tells who is behind where it must be cut.
    fn welcome(&mut self, side: Side, log: &Extent<'_>) -> Option<Output> {
        let (epoch, high_watermark) = (self.epoch()?, self.high_watermark);
        if !self.synced {
            return None;
        }
        let link = self.downlink_mut(side).as_mut()?;
        let theirs = link.hello.take()?;
        let common = log.common_end(&theirs);
        // What we dropped was committed, so that every member has it. Of a joiner's log nobody
        // knows what it holds there, unless some of it is here, too.
        let strange = side == Side::Joiner && common <= log.start;
        let common = if strange && !planted!(StrangeKept) { Offset::ZERO } else { common };
        let keep = if planted!(NothingCut) { theirs.end.min(log.end) } else { common };
        let first = keep.max(log.start);
        let durable = if keep == first { theirs.durable.min(keep) } else { Offset::ZERO };
        link.sent = first;
        link.told_start = Offset::ZERO;
        link.progress = vec![Progress { received: first, durable }];
        let session = link.session;
        let message = Message::Welcome { epoch, session, keep, first, high_watermark };
        Some(Output::Send { to: link.peer, message })
    }

    /// Tells the predecessor what is durable, once something is news that is waited for.
    fn report(&mut self, log: &Extent<'_>) -> Option<Output> {
        let epoch = self.epoch()?;
        let news = self.news(log)?;
        let waited_for = self.is_waited_for(&news);
        let uplink = self.uplink.as_mut().filter(|_| waited_for || self.tells)?;
        self.tells = false;
        uplink.told = Some(news.clone());
        let (session, (high_watermark, progress, answered)) = (uplink.session, news);
        let message = Message::Commit { epoch, session, high_watermark, progress, answered };
        Some(Output::Send { to: uplink.peer, message })
    }

    /// What the predecessor has not been told.
    fn news(&self, log: &Extent<'_>) -> Option<Report> {
        let uplink = self.uplink.as_ref().filter(|uplink| self.synced && uplink.welcomed)?;
        let own = Progress { received: log.end, durable: log.durable };
        let behind = self.successor.iter().flat_map(|link| &link.progress);
        let progress = std::iter::once(own).chain(behind.copied()).collect();
        let news = (self.high_watermark, progress, self.answered());
        (uplink.told.as_ref() != Some(&news)).then_some(news)
    }

    /// Whether more was committed or answered, or somebody was heard of for the first time, or has
    /// received what he was to say so of; and all that a joiner has. How far somebody is, else, can
    /// go with what is committed next.
    fn is_waited_for(&self, (high_watermark, progress, answered): &Report) -> bool {
        let told = self.uplink.as_ref().and_then(|uplink| uplink.told.as_ref());
        let Some((told_watermark, told_progress, told_answered)) = told else { return true };
        let urgent = |(now, told): (&Progress, &Progress)| {
            told.received < self.urgent && told.received < now.received
        };
        self.role == Role::Joiner
            || told_watermark != high_watermark
            || told_answered != answered
            || told_progress.len() != progress.len()
            || progress.iter().zip(told_progress).any(urgent)
    }

    /// Whether the predecessor does not know how far everybody is, which [`Member::tell`] ends.
    #[must_use]
    pub fn has_untold(&self, log: &Extent<'_>) -> bool {
        self.news(log).is_some()
    }

    /// How far everybody is is to be told now, though nobody waits for it.
    pub fn tell(&mut self) {
        self.tells = true;
    }

    /// Somebody waits until everything before `end` was received by all.
    pub fn hurry(&mut self, end: Offset) {
        self.urgent = self.urgent.max(end);
    }

    /// The joiner holds what this epoch has committed, and what any before it has or can; and
    /// nothing else: what its log held that was cut here must not come back with it.
    fn ready(&mut self) -> Option<Output> {
        let epoch = self.epoch()?;
        let link = self.welcomed(Side::Joiner)?;
        let (joiner, cut) = (link.peer, link.reported);
        let entered = if planted!(ReadyAtWatermark) { Offset::ZERO } else { self.entered_end };
        let holds = self.joiner_durable() >= self.high_watermark.max(entered);
        let joint = self.joint || planted!(ReadyWithoutJoint);
        if !(joint && holds && cut) || self.ready_told {
            return None;
        }
        self.ready_told = true;
        Some(Output::JoinReady { epoch, joiner })
    }

    /// The word that the joiner is ready may be lost: it is given once more.
    pub fn repeat_ready(&mut self) {
        self.ready_told = false;
    }

    /// The offsets that are to be sent next; empty if only what is durable is news, or the start of
    /// the log.
    #[must_use]
    pub fn unsent(&self, side: Side, log: &Extent<'_>) -> Option<std::ops::Range<Offset>> {
        let link = self.welcomed(side)?;
        let wanted = self.synced && (link.sent < log.end || self.has_news(side, log));
        wanted.then_some(link.sent..log.end)
    }

    /// Whether more is durable than who is behind was told, the log starts later, or the head has
    /// asked something.
    #[must_use]
    pub fn has_news(&self, side: Side, log: &Extent<'_>) -> bool {
        self.welcomed(side).is_some_and(|link| {
            let durable = self.durable_here(side, log) > link.told_durable;
            let is_asked = side == Side::Successor || self.joint;
            let asked = self.questions > link.told_question && is_asked;
            self.synced && (durable || asked || log.log_start > link.told_start)
        })
    }

    /// Who is behind, was welcomed, and in which session.
    #[must_use]
    pub fn link(&self, side: Side) -> Option<(MemberId, u64)> {
        self.welcomed(side).map(|link| (link.peer, link.session))
    }

    fn welcomed(&self, side: Side) -> Option<&Downlink> {
        self.downlink(side).filter(|link| link.hello.is_none())
    }

    /// What is durable here and at all members before; the joiner's word counts for nothing.
    fn durable_here(&self, side: Side, log: &Extent<'_>) -> Offset {
        match side {
            Side::Successor => self.durable_before.min(log.durable),
            Side::Joiner => Offset::ZERO,
        }
    }

    /// The message for batches up to `to`, which come along.
    pub fn send(
        &mut self,
        side: Side,
        to: Offset,
        log: &Extent<'_>,
    ) -> Option<(MemberId, Message)> {
        let epoch = self.epoch()?;
        let (durable_before, question) = (self.durable_here(side, log), self.questions);
        let link = self.downlink_mut(side).as_mut()?;
        link.told_question = question;
        let from = std::mem::replace(&mut link.sent, to);
        link.told_durable = durable_before;
        link.told_start = log.log_start;
        let (session, log_start, peer) = (link.session, log.log_start, link.peer);
        let urgent = from < to && from < self.urgent;
        let message = Message::Append {
            epoch,
            session,
            from,
            to,
            durable_before,
            log_start,
            question,
            urgent,
        };
        Some((peer, message))
    }

    /// Who it is.
    #[must_use]
    pub fn id(&self) -> MemberId {
        self.me
    }

    /// Whether the predecessor's answer is not there yet.
    #[must_use]
    pub fn awaits_welcome(&self) -> bool {
        self.uplink.as_ref().is_some_and(|uplink| !uplink.welcomed)
    }

    /// Whether its log was made one with its predecessor's in this epoch.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Its node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.me.node
    }
}
