//! Subscriptions: batches are pushed as they are committed, as far as the client's credit goes.
//!
//! A subscription lives on the core that owns its partition, and reads from where it began to the
//! live end and on, by the same reads as a fetch: between history and the live end is no seam.
//! Nothing waits in it; what was read is sent. The credit bounds what is under way, and so does
//! what the client has not read yet: a slow one holds up its own subscriptions.

use catena_format::{Offset, planted};
use catena_log::{Batches, ReadAnswer, ReadError, ReadId, ReadOutcome, io::Memory};
use catena_wire::{
    Api, CreditRequest, ErrorCode, FRAME_HEADER_BYTES, Message, Push, SubscribeRequest,
    SubscribeResponse, UnsubscribeRequest, WireError, encode_message, limits::CREDIT_BYTES_MAX,
};

use crate::{
    cores::Content,
    data::{Asked, read_code},
    held::Reader,
    node::{Caller, Directory, Node, Send, SessionId},
    window::Charge,
};

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
    /// The read that is under way, and what it counts.
    reading: Option<(ReadId, Charge)>,
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
            head: None,
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
                session.subscriptions.insert(name.1, (place.answering(), caller.correlation));
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
        let held = self.held.get_mut(&uid)?;
        let subscription = held.subscriptions.remove(&name)?;
        if let Some((id, charge)) = subscription.reading {
            held.readers.insert(id, Reader::Ended(charge));
        }
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
            let broke = subscription.credit <= 0 && !planted!(CreditIgnored);
            let idle = broke || subscription.reading.is_some();
            let live_end = held.replica.high_watermark();
            let ahead = held.replica.log().is_some_and(|log| next <= log.log_end());
            if idle || (next >= live_end && ahead) {
                return;
            }
            let Some(room) = self.pushing.room(name.0, self.limits.push_bytes_core_max) else {
                if !std::mem::replace(&mut subscription.waiting, true) {
                    self.pushing.wait(name.0, name.1);
                }
                return;
            };
            let most = usize::try_from(subscription.credit).unwrap_or(usize::MAX).min(room);
            match held.replica.read(next, most) {
                Ok(ReadOutcome::Ready(batches)) if batches.next <= next => return,
                Ok(ReadOutcome::Ready(batches)) => self.pushed(name, batches),
                Ok(ReadOutcome::Pending(id)) => {
                    let charge = self.pushing.charge(name.0, most as u64);
                    subscription.reading = Some((id, charge));
                    held.readers.insert(id, Reader::Push(name));
                    return;
                }
                Err(error) => return self.push_failed(name, &error),
            }
        }
    }

    /// Damage that another copy may mend is waited for, as what is not there yet.
    fn push_failed(&mut self, name: Name, error: &ReadError) {
        let next = self.subscription(name).map(|subscription| subscription.next);
        let uid = self.subscribed.get(&name);
        let held = uid.and_then(|uid| self.held.get_mut(uid));
        let waits = match (error, held, next) {
            (ReadError::Damaged { .. }, Some(held), Some(next)) => held.replica.may_mend(next),
            _ => false,
        };
        if !waits {
            self.end_subscription(name, error);
        }
    }

    /// Gives room to subscriptions that wait for it.
    pub(crate) fn push_on(&mut self, session: SessionId) {
        while self.pushing.room(session, self.limits.push_bytes_core_max).is_some() {
            let Some(subscription) = self.pushing.next(session) else { return };
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
        answer: Result<ReadAnswer<M::Share>, ReadError>,
    ) {
        let Some(subscription) = self.subscription(name) else { return };
        let Some((_, charge)) = subscription.reading.take() else { return };
        self.pushing.subtract(charge);
        match answer {
            Ok(ReadAnswer::Batches(batches)) => self.pushed(name, batches),
            Ok(ReadAnswer::Offset(_)) => {}
            Err(error) => {
                self.push_failed(name, &error);
                return self.push_on(name.0);
            }
        }
        if planted!(SeamSkips)
            && let Some(subscription) = self.subscription(name)
        {
            subscription.next = Offset::new(subscription.next.get() + 1);
        }
        if planted!(SeamRepeats)
            && let Some(subscription) = self.subscription(name)
        {
            subscription.next = Offset::new(subscription.next.get() - 1);
        }
        self.push(name);
        self.push_on(name.0);
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
        let place = (held.topic, held.replica.identity().partition);
        let push = Push {
            error,
            subscription: name.1,
            next_offset,
            log_start: held.replica.log().map_or(Offset::ZERO, |log| log.log_start()),
            high_watermark: held.replica.high_watermark(),
            epoch: held.replica.epoch(),
            message: message.into(),
            head: self.head_of(place).filter(|_| error == ErrorCode::NotHead),
        };
        let payload = shares.iter().map(|share| share.as_ref().len()).sum();
        let mut bytes = Vec::with_capacity(128);
        encode_message(Api::Push, subscription.correlation, &push, payload, &mut bytes)
            .expect("a push is within the limits of a response");
        let session = name.0;
        let charge = self.pushing.charge(session, payload as u64);
        let pushed = self.until_read(charge);
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
