//! What neighbours in the chain send, and what they are sent.
//!
//! Messages from the predecessor wait in the inbox until the log can take them, in their order. Its
//! window bounds them: who is behind is sent no more than [`WINDOW_BYTES`] beyond what he said he
//! has taken.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use catena_format::{BatchHeader, Epoch, Offset, frame, planted};
use catena_log::{
    Batches, Cut, Now, ReadAnswer, ReadError, ReadId, ReadOutcome, Stamp, io::Memory,
};

use super::{Event, Replica, State, extent, ready};
use crate::chain::{Effect, Ignored, MemberId, Message, Output, Side};

/// Bytes of batches on their way to who is behind, at most.
pub const WINDOW_BYTES: usize = 4 << 20;
/// Bytes of batches taken after which the predecessor is told, whoever waits for it.
const TOLD_BYTES: usize = WINDOW_BYTES / 4;
/// How far everybody is is told so late at the latest.
const TELL_AFTER: Duration = Duration::from_millis(10);
/// Bytes of batches in one message, unless one batch alone is larger.
const MESSAGE_BYTES: usize = 1 << 20;
/// Messages of the predecessor that wait for the log, at most.
const INBOX_MAX: usize = 1024;
/// Neighbours whose newer epoch is not known here yet, of whom a message is kept.
const EARLY_MAX: usize = 16;

const SIDES: [Side; 2] = [Side::Successor, Side::Joiner];

/// A message for a neighbour, and what comes along.
#[derive(Clone, Debug)]
pub struct Parcel<S> {
    /// To whom.
    pub to: MemberId,
    /// What.
    pub message: Message,
    /// The batches of a [`Message::Append`].
    pub batches: Batches<S>,
    /// What is derived from all batches before the first one, for one that begins anew there, with
    /// a [`Message::Welcome`]; empty: nothing.
    pub fold: Vec<u8>,
}

/// A message of the predecessor that waits.
struct Delivery {
    from: MemberId,
    message: Message,
    stamps: Vec<Stamp>,
    payload: Vec<u8>,
}

/// What was sent to who is behind.
#[derive(Default)]
struct Forward {
    link: Option<(MemberId, u64)>,
    /// The disk is asked for what comes next.
    reading: Option<ReadId>,
    /// What is on its way: where each message ends, and its bytes.
    window: VecDeque<(Offset, usize)>,
    bytes: usize,
    /// What comes next could not be read; tried again by the next tick.
    stuck: bool,
}

impl Forward {
    /// Takes note of the session, and of what was taken.
    fn follow(&mut self, link: (MemberId, u64), received: Offset) {
        if self.link != Some(link) {
            *self = Self { link: Some(link), ..Self::default() };
        }
        while let Some((_, bytes)) = self.window.pop_front_if(|(end, _)| *end <= received) {
            self.bytes -= bytes;
        }
    }
}

/// The traffic with neighbours.
pub(super) struct Peers<S> {
    inbox: VecDeque<Delivery>,
    /// Batches of the first of them are being taken: how far that has come.
    taking: Option<(usize, usize)>,
    /// Of who is behind; heard of while the log was not open.
    later: VecDeque<(MemberId, Message)>,
    /// Of an epoch that is not known here yet: of each sender the last.
    early: BTreeMap<MemberId, Message>,
    forwards: [Forward; 2],
    /// A welcome that waits for what is to come along.
    welcome: Option<(MemberId, Message)>,
    fold: Option<(Offset, Vec<u8>)>,
    /// Where the predecessor's log starts.
    pub(super) start: Offset,
    outbox: VecDeque<Parcel<S>>,
    /// Bytes taken since the predecessor was told how far this log is.
    untold: usize,
    /// When he is told at the latest.
    tell_at: Option<Duration>,
}

impl<S> Default for Peers<S> {
    fn default() -> Self {
        Self {
            inbox: VecDeque::new(),
            taking: None,
            later: VecDeque::new(),
            early: BTreeMap::new(),
            forwards: <[Forward; 2]>::default(),
            welcome: None,
            fold: None,
            start: Offset::ZERO,
            outbox: VecDeque::new(),
            untold: 0,
            tell_at: None,
        }
    }
}

impl<S> Peers<S> {
    /// Another epoch begins: nothing of the present one is sent or taken any more. What came of
    /// newer ones is given back.
    pub(super) fn forget(&mut self) -> BTreeMap<MemberId, Message> {
        let Self { early, start, .. } = std::mem::take(self);
        self.start = start;
        early
    }

    /// What could not be read may be there now. Whether something waits for what is derived.
    pub(super) fn try_again(&mut self) -> bool {
        self.forwards.iter_mut().for_each(|forward| forward.stuck = false);
        self.welcome.is_some() && self.fold.is_none()
    }

    pub(super) fn forget_upstream(&mut self) {
        self.inbox.clear();
        self.taking = None;
    }

    /// For whom behind a read is, if it is for one.
    pub(super) fn side_reading(&self, id: ReadId) -> Option<Side> {
        SIDES.into_iter().find(|side| self.forwards[*side as usize].reading == Some(id))
    }

    pub(super) fn fold_read(&mut self, start: Offset, fold: Vec<u8>) {
        let fold = if planted!(ProducersNotShipped) { Vec::new() } else { fold };
        self.fold = Some((start, fold));
    }
}

impl<M: Memory + Clone> Replica<M> {
    /// Takes a neighbour's message, with the batches of an append back to back, or what comes along
    /// with a welcome. What the log cannot take now waits.
    ///
    /// # Errors
    /// It changed nothing. [`Ignored::Newer`] is kept until the epoch is entered.
    pub fn on_peer(
        &mut self,
        from: MemberId,
        message: Message,
        stamps: &[Stamp],
        payload: &[u8],
        now: Now,
    ) -> Result<(), Ignored> {
        let theirs = message.epoch();
        if self.member.epoch().is_none_or(|epoch| theirs > epoch) {
            self.keep_early(from, message);
            return Err(Ignored::Newer(theirs));
        }
        match message {
            Message::Welcome { .. } | Message::Append { .. } => {
                if self.peers.inbox.len() >= INBOX_MAX {
                    self.events.push_back(Event::Unlink(from));
                    return Err(Ignored::Session);
                }
                let (stamps, payload) = (stamps.to_vec(), payload.to_vec());
                self.peers.inbox.push_back(Delivery { from, message, stamps, payload });
            }
            Message::Hello { .. } | Message::Commit { .. } => {
                if self.peers.later.len() >= INBOX_MAX {
                    self.events.push_back(Event::Unlink(from));
                    return Err(Ignored::Session);
                }
                self.peers.later.push_back((from, message));
            }
        }
        self.go_on(now);
        Ok(())
    }

    /// Keeps what is of an epoch that is not known here yet: of each sender the newest, whatever an
    /// old connection still brings.
    fn keep_early(&mut self, from: MemberId, message: Message) {
        let age = |message: &Message| (message.epoch(), message.session());
        let early = &mut self.peers.early;
        match early.get(&from) {
            Some(known) if age(known) >= age(&message) => {}
            None if early.len() >= EARLY_MAX => self.events.push_back(Event::Unlink(from)),
            _ => {
                early.retain(|other, _| other.node != from.node || *other == from);
                early.insert(from, message);
            }
        }
    }

    /// The link to a neighbour broke: what was on its way may not have come.
    pub fn on_unlinked(&mut self, peer: MemberId, now: Now) {
        let configuration = self.member.configuration();
        let before = configuration.and_then(|c| c.predecessor(self.member.node()));
        if before == Some(peer) {
            self.peers.forget_upstream();
            self.member.on_link_lost();
        }
        for side in SIDES {
            if self.member.link(side).is_some_and(|(behind, _)| behind == peer) {
                self.member.on_downlink_lost(side);
            }
        }
        self.go_on(now);
    }

    /// Heeds what has come, as far as the log takes it.
    pub(super) fn take_in(&mut self, now: Now) {
        while ready(&mut self.state, self.cut.as_ref()).is_some()
            && let Some((from, message)) = self.peers.later.pop_front()
        {
            let _ = self.heed(from, &message);
        }
        while self.take_next(now) {}
    }

    fn heed(&mut self, from: MemberId, message: &Message) -> Result<Option<Effect>, Ignored> {
        let State::Open(log) = &self.state else { return Ok(None) };
        let taken = self.member.on_message(from, message, &extent(log));
        match &taken {
            Err(contradiction @ Ignored::Contradiction { .. }) => {
                self.events.push_back(Event::Contradicted(*contradiction));
            }
            Err(Ignored::Gap { .. }) => self.events.push_back(Event::Unlink(from)),
            _ => {}
        }
        taken
    }

    /// Takes the first of the inbox; false when it has to wait, or there is none.
    fn take_next(&mut self, now: Now) -> bool {
        if ready(&mut self.state, self.cut.as_ref()).is_none() {
            return false;
        }
        if self.peers.taking.is_some() {
            return self.take_batches(now);
        }
        let Some(Delivery { from, message, .. }) = self.peers.inbox.front() else { return false };
        let (from, message) = (*from, message.clone());
        let taken = self.heed(from, &message);
        if let (Ok(_), Message::Append { log_start, .. }) = (&taken, &message) {
            self.peers.start = self.peers.start.max(*log_start);
        }
        match taken {
            Ok(Some(Effect::Append)) => {
                self.peers.taking = Some((0, 0));
                return self.take_batches(now);
            }
            Ok(Some(Effect::Cut { keep, first })) => self.cut(keep, first),
            // Nothing of this session can be taken any more.
            Err(Ignored::Gap { .. }) => self.peers.forget_upstream(),
            Ok(None) | Err(_) => drop(self.peers.inbox.pop_front()),
        }
        true
    }

    /// Appends the batches that the first message of the inbox brought.
    fn take_batches(&mut self, now: Now) -> bool {
        let (Some((mut number, mut at)), Some(delivery)) =
            (self.peers.taking, self.peers.inbox.front())
        else {
            return false;
        };
        let State::Open(log) = &mut self.state else { return false };
        let epoch = self.member.epoch().unwrap_or_default();
        while at < delivery.payload.len() {
            let rest = &delivery.payload[at..];
            let stamp = delivery.stamps.get(number).copied();
            let before = log.last_epoch().unwrap_or_default();
            let Some((header, stamp)) = copy(rest, stamp, log.log_end(), before..=epoch) else {
                return self.unlink();
            };
            match log.append_copy(&rest[..header.length], &header, stamp, now) {
                Ok(_) => {}
                // Later, when there is room; or never, by a log that failed.
                Err(_) => {
                    self.peers.taking = Some((number, at));
                    return false;
                }
            }
            number += 1;
            at += header.length;
            self.peers.untold += header.length;
        }
        self.peers.taking = None;
        self.peers.inbox.pop_front();
        true
    }

    /// What came is not what was sent.
    fn unlink(&mut self) -> bool {
        if let Some(delivery) = self.peers.inbox.front() {
            self.events.push_back(Event::Unlink(delivery.from));
        }
        self.peers.forget_upstream();
        false
    }

    fn cut(&mut self, keep: Offset, first: Offset) {
        let delivery = self.peers.inbox.pop_front();
        let Some(log) = ready(&mut self.state, None) else { return };
        if keep == first && keep == log.log_end() {
            self.member.on_cut(&extent(log));
            return;
        }
        log.close();
        let anew = keep < first || keep < log.log_start();
        self.cut = Some(match delivery {
            Some(Delivery { payload: fold, .. }) if anew => Cut::All { first, fold },
            _ => Cut::Behind(keep),
        });
    }

    /// Says what there is to say.
    pub(super) fn converse(&mut self) {
        if self.peers.untold >= TOLD_BYTES {
            // The predecessor sends no more than a window ahead of what he knows.
            self.member.tell();
        }
        self.speak();
        self.send_welcome();
        for side in SIDES {
            while self.forward(side) {}
        }
        if self.close_in() {
            self.speak();
        }
    }

    fn speak(&mut self) {
        loop {
            let Some(log) = ready(&mut self.state, self.cut.as_ref()) else { return };
            match self.member.poll(&extent(log)) {
                Some(Output::Send { to, message }) => {
                    if matches!(message, Message::Commit { .. }) {
                        self.peers.untold = 0;
                    }
                    self.say(to, message);
                }
                Some(Output::JoinReady { epoch, joiner }) => {
                    self.events.push_back(Event::JoinReady { epoch, joiner });
                }
                None => return,
            }
        }
    }

    /// What nobody waits for is told once some time has passed, if nothing has taken it along.
    pub(super) fn tell_late(&mut self, now: Now) {
        let Some(log) = ready(&mut self.state, self.cut.as_ref()) else { return };
        if !self.member.has_untold(&extent(log)) {
            self.peers.tell_at = None;
            return;
        }
        let at = *self.peers.tell_at.get_or_insert(now.monotonic + TELL_AFTER);
        if at <= now.monotonic {
            self.peers.tell_at = None;
            self.member.tell();
            self.speak();
        }
    }

    /// When [`Replica::tell_late`] has something to tell.
    pub(super) fn next_telling(&self) -> Duration {
        self.peers.tell_at.unwrap_or(Duration::MAX)
    }

    fn say(&mut self, to: MemberId, message: Message) {
        if let Message::Welcome { keep, first, .. } = message
            && keep < first
            && let State::Open(log) = &mut self.state
        {
            (self.peers.welcome, self.peers.fold) = (Some((to, message)), None);
            return log.read_fold();
        }
        let (batches, fold) = (Batches::empty(Offset::ZERO), Vec::new());
        self.peers.outbox.push_back(Parcel { to, message, batches, fold });
    }

    /// Sends the welcome that waits, once what comes along was read.
    fn send_welcome(&mut self) {
        let Some((_, Message::Welcome { first, .. })) = self.peers.welcome else { return };
        let Some((start, fold)) = self.peers.fold.take() else { return };
        let Some((to, message)) = self.peers.welcome.take() else { return };
        if start != first {
            // Something was dropped meanwhile: it begins there.
            return self.events.push_back(Event::Unlink(to));
        }
        let batches = Batches::empty(Offset::ZERO);
        self.peers.outbox.push_back(Parcel { to, message, batches, fold });
    }

    /// Sends who is behind what comes next; false when there is nothing, or it has to wait.
    fn forward(&mut self, side: Side) -> bool {
        let Some(link) = self.member.link(side) else { return false };
        if self.peers.welcome.as_ref().is_some_and(|(to, _)| *to == link.0) {
            return false;
        }
        let received = self.member.progress(side).first().map_or(Offset::ZERO, |p| p.received);
        let forward = &mut self.peers.forwards[side as usize];
        forward.follow(link, received);
        let Some(log) = ready(&mut self.state, self.cut.as_ref()) else { return false };
        let Some(unsent) = self.member.unsent(side, &extent(log)) else { return false };
        if forward.reading.is_some() {
            return false;
        }
        let room = WINDOW_BYTES.saturating_sub(forward.bytes);
        let more = !unsent.is_empty() && room > 0 && !forward.stuck;
        let joins = side == Side::Joiner && !self.member.is_joint();
        let more = more && !(joins && self.catch_up.waits(log.holds(unsent.start)));
        let read = more.then(|| log.read_copy(unsent.start, room.min(MESSAGE_BYTES)));
        match read {
            Some(Ok(ReadOutcome::Ready(batches))) if !batches.is_empty() => {
                self.send(side, batches);
                return true;
            }
            Some(Ok(ReadOutcome::Pending(id))) => forward.reading = Some(id),
            Some(Err(error)) => self.unread(side, error),
            Some(Ok(ReadOutcome::Ready(_))) | None => {}
        }
        // What is durable is not kept waiting for batches.
        let State::Open(log) = &self.state else { return false };
        let news = self.peers.forwards[side as usize].reading.is_none()
            && self.member.has_news(side, &extent(log));
        if news {
            self.send(side, Batches::empty(unsent.start));
        }
        news
    }

    /// Takes what was read for who is behind.
    pub(super) fn copied(&mut self, side: Side, answer: Result<ReadAnswer<M::Share>, ReadError>) {
        if let (Side::Joiner, Ok(ReadAnswer::Batches(batches))) = (side, &answer) {
            self.catch_up.copied(batches.bytes);
        }
        let forward = &mut self.peers.forwards[side as usize];
        forward.reading = None;
        if forward.link != self.member.link(side) {
            return;
        }
        match answer {
            Ok(ReadAnswer::Batches(batches)) if !batches.is_empty() => self.send(side, batches),
            Ok(_) => {}
            Err(error) => self.unread(side, error),
        }
    }

    fn unread(&mut self, side: Side, error: ReadError) {
        let forward = &mut self.peers.forwards[side as usize];
        forward.stuck = true;
        // It was dropped: who is behind begins anew.
        if let (ReadError::OutOfRange { .. }, Some((peer, _))) = (error, forward.link) {
            self.events.push_back(Event::Unlink(peer));
        }
    }

    fn send(&mut self, side: Side, batches: Batches<M::Share>) {
        let State::Open(log) = &self.state else { return };
        let Some((to, message)) = self.member.send(side, batches.next, &extent(log)) else {
            return;
        };
        let forward = &mut self.peers.forwards[side as usize];
        if !batches.is_empty() {
            forward.bytes += batches.bytes;
            forward.window.push_back((batches.next, batches.bytes));
        }
        self.peers.outbox.push_back(Parcel { to, message, batches, fold: Vec::new() });
    }

    /// The next message for a neighbour.
    pub fn poll_parcel(&mut self) -> Option<Parcel<M::Share>> {
        if self.peers.outbox.is_empty() {
            // What was appended since has left for the disk by now, and leaves for who is behind.
            self.converse();
        }
        self.peers.outbox.pop_front()
    }
}

/// The first batch of `bytes`, if it is one that may follow at `end`, as the head has stored it.
fn copy(
    bytes: &[u8],
    stamp: Option<Stamp>,
    end: Offset,
    epochs: std::ops::RangeInclusive<Epoch>,
) -> Option<(BatchHeader, Stamp)> {
    let (header, stamp) = BatchHeader::parse(bytes).ok().zip(stamp)?;
    let batch = bytes.get(..header.length)?;
    let epoch = Epoch::new(u32::try_from(header.leader_epoch).ok()?);
    let follows = u64::try_from(header.base_offset).is_ok_and(|base| base == end.get());
    let sound =
        follows && epochs.contains(&epoch) && frame::payload_crc(batch) == stamp.payload_crc;
    sound.then_some((header, stamp))
}
