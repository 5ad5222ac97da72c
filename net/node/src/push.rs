//! Subscriptions: batches are pushed as they are committed, as far as the client's credit goes.
//!
//! A subscription lives on the core that owns its partition, and reads from where it began to the
//! live end and on, by the same reads as a fetch: between history and the live end is no seam.
//! Nothing waits in it; what was read is sent. The credit bounds what is under way, and so does what
//! the client has not read yet: a slow one holds up its own subscriptions.

use std::collections::{BTreeMap, VecDeque};

use catena_format::Offset;
use catena_log::{Batches, ReadAnswer, ReadError, ReadId, ReadOutcome, io::Memory};
use catena_wire::{
    Api, CreditRequest, ErrorCode, FRAME_HEADER_BYTES, Message, Push, SubscribeRequest,
    SubscribeResponse, UnsubscribeRequest, WireError, encode_message, limits::CREDIT_BYTES_MAX,
};

use crate::{
    cores::Content,
    data::{Asked, read_code},
    node::{Caller, Directory, Node, Reader, Send, SessionId},
};

/// What is read for one push, at most, when no single batch is larger; half of what a core may
/// leave unread, where that is less.
const PUSH_BYTES_MAX: usize = 1 << 20;
/// The same while clients leave much unread.
const PUSH_BYTES_SCARCE: usize = 64 << 10;
/// A session with so much unread gets no more pushes.
const UNSENT_BYTES_MAX: u64 = 4 << 20;

/// A push whose bytes wait for the client to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pushed {
    pub(crate) session: SessionId,
    /// The core of the subscription.
    core: u16,
    bytes: u64,
}

/// What clients have not read of the pushes of this core's subscriptions, reads for them included.
#[derive(Default)]
pub(crate) struct Unsent {
    total: u64,
    sessions: BTreeMap<SessionId, Window>,
}

/// Of one session.
#[derive(Default)]
struct Window {
    bytes: u64,
    /// Subscriptions that wait for room, in the order in which they get it.
    waiting: VecDeque<u32>,
}

impl Unsent {
    /// How much may be read for a session's next push. A session that has left nothing unread is
    /// never held up, so that whatever waits has something of its own to wait for.
    fn room(&self, session: SessionId, core_max: u64) -> Option<usize> {
        let own = self.sessions.get(&session).map_or(0, |window| window.bytes);
        let most = usize::try_from(core_max / 2).unwrap_or(usize::MAX).min(PUSH_BYTES_MAX);
        match self.total < core_max {
            true if own < UNSENT_BYTES_MAX => Some(most),
            false if own == 0 => Some(PUSH_BYTES_SCARCE),
            _ => None,
        }
    }

    fn add(&mut self, session: SessionId, bytes: u64) {
        self.total += bytes;
        self.sessions.entry(session).or_default().bytes += bytes;
    }

    fn subtract(&mut self, session: SessionId, bytes: u64) {
        // It may be gone, with all it held.
        if let Some(window) = self.sessions.get_mut(&session) {
            window.bytes -= bytes;
            self.total -= bytes;
        }
    }

    fn wait(&mut self, name: Name) {
        self.sessions.entry(name.0).or_default().waiting.push_back(name.1);
    }

    /// The next that waits; a session of which nothing is left is forgotten.
    fn next(&mut self, session: SessionId) -> Option<u32> {
        let window = self.sessions.get_mut(&session)?;
        let next = window.waiting.pop_front();
        if next.is_none() && window.bytes == 0 {
            self.sessions.remove(&session);
        }
        next
    }

    pub(crate) fn forget(&mut self, session: SessionId) {
        self.total -= self.sessions.remove(&session).map_or(0, |window| window.bytes);
    }
}

/// A subscription's name: the client's, within its connection.
pub(crate) type Name = (SessionId, u32);

/// A subscription, kept with its partition.
pub(crate) struct Subscription {
    /// Of the request that began it.
    correlation: u32,
    /// The next offset to push.
    next: Offset,
    /// Payload bytes that the client still takes; a push may overshoot it by a batch.
    credit: i64,
    /// The read that is under way, and for how many bytes there is room.
    reading: Option<(ReadId, u64)>,
    /// It waits for room.
    waiting: bool,
}

impl<M: Memory + Clone> Node<M> {
    pub(crate) fn subscribe(&mut self, caller: Caller, head: &[u8]) -> Result<(), WireError> {
        let request = SubscribeRequest::decode(head)?;
        let name = (caller.session, request.subscription);
        // The core of the connection knows where each of its subscriptions lives.
        let at_home = caller.session.core == self.core;
        if at_home && !self.may_subscribe(caller, name, &request) {
            return Ok(());
        }
        let (topic, partition) = (request.topic, request.partition);
        let asked = Asked { topic, partition, head, payload: &[] };
        let Some(uid) = self.serving(caller, asked) else { return Ok(()) };
        let held = self.held.get_mut(&uid).expect("the partition was located");
        let response = SubscribeResponse {
            error: ErrorCode::None,
            subscription: request.subscription,
            log_start: held.replica.log().map_or(Offset::ZERO, |log| log.log_start()),
            high_watermark: held.replica.high_watermark(),
            epoch: held.replica.epoch(),
            message: "".into(),
        };
        let subscription = Subscription {
            correlation: caller.correlation,
            next: request.offset,
            credit: i64::from(request.credit_bytes.min(CREDIT_BYTES_MAX)),
            reading: None,
            waiting: false,
        };
        held.subscriptions.insert(name, subscription);
        self.subscribed.insert(name, uid);
        self.answer(caller, &response);
        self.push(name);
        Ok(())
    }

    /// Whether the connection may have this subscription; the caller is told why not.
    fn may_subscribe(&mut self, caller: Caller, name: Name, request: &SubscribeRequest) -> bool {
        let place = self.locate(request.topic, request.partition);
        let limit = self.limits.subscriptions_max;
        let Some(session) = self.sessions.get_mut(&caller.session) else { return false };
        let (code, text) = match place {
            _ if session.subscriptions.contains_key(&name.1) => {
                (ErrorCode::InvalidRequest, "the connection has a subscription of that name")
            }
            _ if session.subscriptions.len() >= limit as usize => {
                (ErrorCode::SubscriptionBudget, "the connection has as many as it may")
            }
            Ok(place) => {
                session.subscriptions.insert(name.1, (place.core, caller.correlation));
                return true;
            }
            // The usual refusal follows.
            Err(_) => return true,
        };
        self.refuse(caller, code, text);
        false
    }

    pub(crate) fn credit(&mut self, caller: Caller, head: &[u8]) -> Result<(), WireError> {
        let request = CreditRequest::decode(head)?;
        let name = (caller.session, request.subscription);
        if let Some(core) = self.elsewhere(caller, request.subscription) {
            self.forward(core, caller, head, &[]);
        } else if let Some(subscription) = self.subscription(name) {
            let credit = subscription.credit + i64::from(request.bytes);
            subscription.credit = credit.min(i64::from(CREDIT_BYTES_MAX));
            self.push(name);
        }
        // Nothing answers it.
        self.settle(caller);
        Ok(())
    }

    pub(crate) fn unsubscribe(&mut self, caller: Caller, head: &[u8]) -> Result<(), WireError> {
        let request = UnsubscribeRequest::decode(head)?;
        let elsewhere = self.elsewhere(caller, request.subscription);
        if let Some(session) = self.sessions.get_mut(&caller.session) {
            session.subscriptions.remove(&request.subscription);
        }
        if let Some(core) = elsewhere {
            self.forward(core, caller, head, &[]);
            return Ok(());
        }
        self.drop_subscription((caller.session, request.subscription));
        self.go_on(caller.session);
        self.answer_status(caller, ErrorCode::None, "");
        Ok(())
    }

    /// The other core on which a subscription of this core's connection lives.
    fn elsewhere(&self, caller: Caller, subscription: u32) -> Option<u16> {
        let session = self.sessions.get(&caller.session)?;
        let core = session.subscriptions.get(&subscription).map(|(core, _)| *core);
        core.filter(|core| *core != self.core)
    }

    fn subscription(&mut self, name: Name) -> Option<&mut Subscription> {
        let held = self.held.get_mut(self.subscribed.get(&name)?)?;
        held.subscriptions.get_mut(&name)
    }

    pub(crate) fn drop_subscription(&mut self, name: Name) -> Option<Subscription> {
        let uid = self.subscribed.remove(&name)?;
        let subscription = self.held.get_mut(&uid)?.subscriptions.remove(&name)?;
        self.unsent.subtract(name.0, subscription.reading.map_or(0, |(_, room)| room));
        Some(subscription)
    }

    /// Sends what is committed and what the credit covers.
    pub(crate) fn push(&mut self, name: Name) {
        let Some(uid) = self.subscribed.get(&name).copied() else { return };
        self.dirty.insert(Directory::Partition(uid));
        loop {
            let Some(held) = self.held.get_mut(&uid) else { return };
            let Some(subscription) = held.subscriptions.get_mut(&name) else { return };
            let next = subscription.next;
            let idle = subscription.credit <= 0 || subscription.reading.is_some();
            let live_end = held.replica.high_watermark();
            let ahead = held.replica.log().is_some_and(|log| next <= log.log_end());
            if idle || (next >= live_end && ahead) {
                return;
            }
            let Some(room) = self.unsent.room(name.0, self.limits.push_bytes_core_max) else {
                if !std::mem::replace(&mut subscription.waiting, true) {
                    self.unsent.wait(name);
                }
                return;
            };
            let most = usize::try_from(subscription.credit).unwrap_or(usize::MAX).min(room);
            match held.replica.read(next, most) {
                Ok(ReadOutcome::Ready(batches)) if batches.next <= next => return,
                Ok(ReadOutcome::Ready(batches)) => self.pushed(name, batches),
                Ok(ReadOutcome::Pending(id)) => {
                    subscription.reading = Some((id, most as u64));
                    self.unsent.add(name.0, most as u64);
                    held.readers.insert(id, Reader::Push(name));
                    return;
                }
                Err(error) => return self.end_subscription(name, &error),
            }
        }
    }

    /// The client's side of the connection has the bytes of a push.
    pub fn on_pushed(&mut self, pushed: Pushed) {
        if pushed.core != self.core {
            return self.send_parcel(pushed.core, Content::Pushed(pushed));
        }
        self.unsent.subtract(pushed.session, pushed.bytes);
        self.go_on(pushed.session);
    }

    /// Gives room to subscriptions that wait for it.
    fn go_on(&mut self, session: SessionId) {
        while self.unsent.room(session, self.limits.push_bytes_core_max).is_some() {
            let Some(subscription) = self.unsent.next(session) else { return };
            let name = (session, subscription);
            if let Some(subscription) = self.subscription(name) {
                subscription.waiting = false;
                self.push(name);
            }
        }
    }

    /// A read for a subscription ended.
    pub(crate) fn push_read(
        &mut self,
        name: Name,
        id: ReadId,
        answer: Result<ReadAnswer<M::Share>, ReadError>,
    ) {
        // It may have been ended meanwhile, and another one begun under its name.
        let Some(subscription) = self.subscription(name) else { return };
        let Some((_, room)) = subscription.reading.take_if(|(reading, _)| *reading == id) else {
            return;
        };
        self.unsent.subtract(name.0, room);
        match answer {
            Ok(ReadAnswer::Batches(batches)) => self.pushed(name, batches),
            Ok(ReadAnswer::Offset(_)) => {}
            Err(error) => return self.end_subscription(name, &error),
        }
        self.push(name);
        self.go_on(name.0);
    }

    fn pushed(&mut self, name: Name, batches: Batches<M::Share>) {
        let Some(subscription) = self.subscription(name) else { return };
        subscription.next = subscription.next.max(batches.next);
        // A gap between segments: there is nothing in it.
        if batches.is_empty() {
            return;
        }
        subscription.credit -= batches.bytes as i64;
        self.stats.fetched_bytes += batches.bytes as u64;
        self.send_push(name, ErrorCode::None, batches.next, "", batches.shares);
    }

    fn end_subscription(&mut self, name: Name, error: &ReadError) {
        let next = match error {
            ReadError::Damaged { next_readable } => *next_readable,
            ReadError::OutOfRange { start, end } => {
                let asked = self.subscription(name).map_or(*start, |s| s.next);
                asked.clamp(*start, *end)
            }
            _ => self.subscription(name).map_or(Offset::ZERO, |s| s.next),
        };
        self.end_push(name, read_code(error), next, &error.to_string());
    }

    /// Ends a subscription with an error; it is the last that its client hears of it.
    fn end_push(&mut self, name: Name, error: ErrorCode, next: Offset, message: &str) {
        self.stats.errors += 1;
        self.send_push(name, error, next, message, Vec::new());
        if let Some(subscription) = self.drop_subscription(name) {
            self.forget_subscription(name, subscription.correlation);
        }
    }

    /// An answer to a subscribe request passes through: a name that was refused is free again.
    pub(crate) fn subscribe_answered(&mut self, caller: Caller, answer: &[u8]) {
        let head = answer.get(FRAME_HEADER_BYTES..).unwrap_or_default();
        let begun =
            SubscribeResponse::decode(head).is_ok_and(|answer| answer.error == ErrorCode::None);
        if let Some(session) = self.sessions.get_mut(&caller.session).filter(|_| !begun) {
            session.subscriptions.retain(|_, (_, asked)| *asked != caller.correlation);
        }
    }

    /// The connection may use the name again, unless it does so already.
    pub(crate) fn forget_subscription(&mut self, name: Name, correlation: u32) {
        let Some(session) = self.sessions.get_mut(&name.0) else { return };
        if session.subscriptions.get(&name.1).is_some_and(|(_, asked)| *asked == correlation) {
            session.subscriptions.remove(&name.1);
        }
    }

    /// Ends all subscriptions of a partition that goes away, or of a node that does.
    pub(crate) fn end_subscriptions(
        &mut self,
        uid: catena_format::PartitionUid,
        error: ErrorCode,
        message: &str,
    ) {
        let Some(held) = self.held.get(&uid) else { return };
        let names: Vec<_> = held.subscriptions.iter().map(|(name, s)| (*name, s.next)).collect();
        for (name, next) in names {
            self.end_push(name, error, next, message);
        }
    }

    fn send_push(
        &mut self,
        name: Name,
        error: ErrorCode,
        next_offset: Offset,
        message: &str,
        mut shares: Vec<M::Share>,
    ) {
        let Some(held) = self.subscribed.get(&name).and_then(|uid| self.held.get(uid)) else {
            return;
        };
        let Some(subscription) = held.subscriptions.get(&name) else { return };
        let push = Push {
            error,
            subscription: name.1,
            next_offset,
            log_start: held.replica.log().map_or(Offset::ZERO, |log| log.log_start()),
            high_watermark: held.replica.high_watermark(),
            epoch: held.replica.epoch(),
            message: message.into(),
        };
        let payload = shares.iter().map(|share| share.as_ref().len()).sum();
        let mut bytes = Vec::with_capacity(128);
        encode_message(Api::Push, subscription.correlation, &push, payload, &mut bytes)
            .expect("a push is within the limits of a response");
        let session = name.0;
        let pushed = Pushed { session, core: self.core, bytes: payload as u64 };
        self.unsent.add(session, pushed.bytes);
        if session.core == self.core {
            let send = Send::new(session, bytes, shares);
            self.sends.push_back(Send { pushed: Some(pushed), ..send });
            return;
        }
        shares.drain(..).for_each(|share| bytes.extend_from_slice(share.as_ref()));
        let ended = (error != ErrorCode::None).then_some((name.1, subscription.correlation));
        self.send_parcel(session.core, Content::Push { pushed, bytes, ended });
    }
}
