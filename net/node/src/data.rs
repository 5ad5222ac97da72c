//! Produce, fetch, list offsets, trim.

use std::time::Duration;

use catena_format::{BatchError, Offset, PartitionIndex, PartitionUid, TopicId};
use catena_log::{
    AppendError, Batches, Now, ReadAnswer, ReadError, ReadId, ReadOutcome,
    io::{IoError, Memory},
};
use catena_replication::{
    Event, Phase, ProduceError, ProduceRequest as Produce, Refusal, Reply, Ticket, chain::Role,
    control::ChainChange, validate::InvalidBatch,
};
use catena_wire::{
    ErrorCode, FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse, Message,
    OffsetQuery, ProduceRequest, TrimRequest, TrimResponse, WireError,
};

use crate::{
    answer::replica_level,
    held::{Awaited, Held, Reader, Waiter},
    node::{Caller, Directory, Node, Notice, SessionId, Status},
    window::FETCH_BYTES_MIN,
};

type Handled = Result<(), WireError>;

/// A request about a partition, as it came.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) topic: TopicId,
    pub(crate) partition: PartitionIndex,
    pub(crate) head: &'a [u8],
    pub(crate) payload: &'a [u8],
}

impl<M: Memory + Clone> Node<M> {
    pub(crate) fn produce(
        &mut self,
        caller: Caller,
        head: &[u8],
        payload: &[u8],
        now: Now,
    ) -> Handled {
        let request = ProduceRequest::decode(head)?;
        let asked = Asked { topic: request.topic, partition: request.partition, head, payload };
        let Some(uid) = self.serving(caller, asked) else { return Ok(()) };
        let ticket = Ticket(self.number());
        let offer = |node: &mut Self| {
            let produce = Produce {
                batch: payload,
                durability: replica_level(request.durability),
                expect_next_offset: request.expect_next_offset,
                raised: &node.raised,
                ticket,
            };
            let held = node.held.get_mut(&uid).expect("the partition was located");
            held.replica.on_produce(&produce, now)
        };
        let mut result = offer(self);
        if let Err(Refusal::Append(AppendError::Memory(_))) = result {
            self.relieve(payload.len());
            result = offer(self);
        }
        self.dirty.insert(Directory::Partition(uid));
        match result {
            Ok(Some(receipt)) => self.answer_receipt(caller, request.partition, &receipt),
            Ok(None) => {
                let own = Duration::from_millis(u64::from(request.deadline_ms));
                let wait = if own.is_zero() { self.limits.wait_max } else { own };
                self.park(ticket, caller, Awaited::Batch(uid), wait, now);
            }
            Err(refusal) => self.refused(uid, caller, &refusal),
        }
        Ok(())
    }

    fn refused(&mut self, uid: PartitionUid, caller: Caller, refusal: &Refusal) {
        match refusal {
            Refusal::OffsetCondition { log_end } => self.answer_condition(caller, *log_end),
            Refusal::NotHead => {
                let (place, text) = (self.place_held(uid), refusal.to_string());
                self.refuse_elsewhere(caller, place, ErrorCode::NotHead, &text);
            }
            refusal => self.refuse(caller, refusal_code(refusal), &refusal.to_string()),
        }
    }

    /// A partition that can be used now, here. Otherwise the caller's request is forwarded to the
    /// core that owns it, or the caller is told why not.
    pub(crate) fn serving(&mut self, caller: Caller, asked: Asked<'_>) -> Option<PartitionUid> {
        let place = match self.locate(asked.topic, asked.partition) {
            Ok(place) => place,
            Err(code) => {
                self.refuse(caller, code, &code.to_string());
                return None;
            }
        };
        if place.answering() != self.core {
            self.forward(place.answering(), caller, asked.head, asked.payload);
            return None;
        }
        let member = |held: &&Held<M>| held.replica.member().role() != Role::Outside;
        let held = self.held.get(&place.uid);
        // Before it has entered an epoch it says why itself.
        let Some(held) = held.filter(|held| held.replica.phase() != Phase::Open || member(held))
        else {
            let text = "other nodes are in the partition's chain";
            let place = (asked.topic, asked.partition);
            self.refuse_elsewhere(caller, place, ErrorCode::NotHead, text);
            return None;
        };
        let (code, text) = match held.replica.phase() {
            Phase::Failed(error) => (ErrorCode::PartitionFailed, error.to_string()),
            // Before it is durable that the partition exists, a crash would create it once more,
            // empty.
            _ if self.is_created(asked.topic, asked.partition) => {
                (ErrorCode::Starting, "the partition is being created".to_owned())
            }
            Phase::Open => return Some(place.uid),
            Phase::Opening => (ErrorCode::Starting, "the partition is being opened".to_owned()),
        };
        self.refuse(caller, code, &text);
        None
    }

    pub(crate) fn replica_events(&mut self, uid: PartitionUid, now: Now) {
        let mut committed = false;
        loop {
            let Some(held) = self.held.get_mut(&uid) else { return };
            let Some(event) = held.replica.poll_event() else { break };
            let log = *held.replica.identity();
            match event {
                Event::Opened(report) => {
                    self.notices.push_back(Notice::Opened(log, report));
                    self.partition_opened(uid, now);
                    self.leave_if_sick(uid);
                }
                Event::Postponed(error) => {
                    self.notices.push_back(Notice::Postponed(log, error));
                }
                Event::Failed(error) => {
                    self.notices.push_back(Notice::Failed(log, error));
                    self.partition_opened(uid, now);
                    self.leave_if_sick(uid);
                }
                Event::Reply(reply) => self.replied(uid, &reply),
                Event::Confirmed(ticket, end) => self.end_confirmed(uid, ticket, end),
                Event::Read(id, answer) => self.read_ended(uid, id, answer, now),
                Event::Committed(_) => committed = true,
                Event::Trimmed(log_start) => self.trimmed(uid, log_start),
                Event::Poisoned(error) => {
                    self.notices.push_back(Notice::Poisoned(log, error));
                    self.end_trims(uid, error);
                    self.leave_if_sick(uid);
                }
                Event::Found(finding) => {
                    self.notices.push_back(Notice::Found(log, finding));
                }
                Event::Repaired(offsets) => {
                    self.notices.push_back(Notice::Repaired(log, offsets));
                    // Whoever wanted to read there waits.
                    committed = true;
                }
                Event::RepairFailed(offsets, why) => {
                    self.notices.push_back(Notice::RepairFailed(log, offsets, why));
                }
                Event::Lost(offsets) => {
                    self.notices.push_back(Notice::Lost(log, offsets));
                    committed = true;
                }
                Event::Cut(end, report) => {
                    self.notices.push_back(Notice::Cut(log, end, report));
                }
                Event::Contradicted(why) => {
                    self.notices.push_back(Notice::Contradicted(log, why));
                }
                event => self.chain_event(uid, event),
            }
        }
        if committed {
            self.wake_waiters(uid, now);
            self.propose_planned(uid, now);
        }
    }

    /// What a replica says of its chain.
    fn chain_event(&mut self, uid: PartitionUid, event: Event<M::Share>) {
        match event {
            Event::JoinReady { epoch, joiner } => {
                let change = ChainChange::Ready(joiner.node.get(), joiner.incarnation.get());
                self.ask_for_chain(uid, epoch, change);
            }
            Event::JoinClose { epoch, joiner } => {
                let change = ChainChange::Close(joiner.node.get(), joiner.incarnation.get());
                self.ask_for_chain(uid, epoch, change);
            }
            Event::Stalled { epoch, member } => self.evict(uid, epoch, member),
            Event::Unlink(peer) => self.unlink(uid, peer),
            _ => unreachable!("it is told elsewhere"),
        }
    }

    fn replied(&mut self, uid: PartitionUid, reply: &Reply) {
        let Some(caller) = self.claim(reply.ticket) else { return };
        match &reply.result {
            Ok(receipt) => {
                let partition = self.held[&uid].replica.identity().partition;
                self.answer_receipt(caller, partition, receipt);
            }
            Err(ProduceError::Refused(refusal)) => self.refused(uid, caller, refusal),
            Err(ProduceError::Moved) => {
                let (place, text) = (self.place_held(uid), ProduceError::Moved.to_string());
                self.refuse_elsewhere(caller, place, ErrorCode::HeadMoved, &text);
            }
            Err(error) => {
                let code = match error {
                    ProduceError::DuplicateOffsetUnknown => ErrorCode::DuplicateOffsetUnknown,
                    _ => ErrorCode::StorageIo,
                };
                self.refuse(caller, code, &error.to_string());
            }
        }
    }

    pub(crate) fn fetch(&mut self, caller: Caller, head: &[u8], now: Now) -> Handled {
        let request = FetchRequest::decode(head)?;
        let (topic, partition) = (request.topic, request.partition);
        let asked = Asked { topic, partition, head, payload: &[] };
        if let Some(uid) = self.serving(caller, asked) {
            let wait = Duration::from_millis(u64::from(request.max_wait_ms));
            let deadline = now.monotonic + wait.min(self.limits.wait_max);
            self.read(uid, Waiter { caller, request, deadline, appended: 0 }, now);
        }
        Ok(())
    }

    /// Serves a fetch, or parks it until there is enough for it or its time is up.
    fn read(&mut self, uid: PartitionUid, waiter: Waiter, now: Now) {
        let held = self.held.get_mut(&uid).expect("the partition was located");
        let from = waiter.request.offset;
        let high_watermark = held.replica.high_watermark();
        let within = held.replica.log().is_some_and(|log| from <= log.log_end());
        if from >= high_watermark && within {
            return self.fetched(uid, waiter, Batches::empty(from), now);
        }
        let session = waiter.caller.session;
        if !self.fetching.has_room(session, self.limits.push_bytes_core_max) {
            return self.fetching.wait(session, (uid, waiter));
        }
        let max = waiter.request.max_bytes.min(self.limits.fetch_bytes_max);
        self.dirty.insert(Directory::Partition(uid));
        match held.replica.read(from, max as usize) {
            Ok(ReadOutcome::Ready(batches)) => self.fetched(uid, waiter, batches, now),
            Ok(ReadOutcome::Pending(id)) => {
                let charge = self.fetching.charge(session, u64::from(max).max(FETCH_BYTES_MIN));
                held.readers.insert(id, Reader::Fetch(waiter, charge));
            }
            Err(error) => self.fetch_failed(uid, waiter, error, now),
        }
    }

    /// Begins fetches of a session that waited for others of its own.
    pub(crate) fn fetch_on(&mut self, session: SessionId, now: Now) {
        while self.fetching.has_room(session, self.limits.push_bytes_core_max) {
            let Some((uid, next)) = self.fetching.next(session) else { return };
            if self.held.contains_key(&uid) {
                self.read(uid, next, now);
            } else {
                self.refuse(next.caller, ErrorCode::UnknownTopic, "the topic was deleted");
            }
        }
    }

    /// The partition of a reader is gone.
    pub(crate) fn end_reader(&mut self, reader: Reader, now: Now) {
        match reader {
            Reader::Fetch(Waiter { caller, .. }, charge) => {
                self.refuse(caller, ErrorCode::UnknownTopic, "the topic was deleted");
                self.give_back(charge, now);
            }
            Reader::List(caller) | Reader::Seek(caller, _) => {
                self.refuse(caller, ErrorCode::UnknownTopic, "the topic was deleted");
            }
            Reader::Ended(charge) => self.give_back(charge, now),
            Reader::Push(_) => {}
        }
    }

    /// Answers a fetch with what was found, if that is enough for it or all it can get in time.
    fn fetched(
        &mut self,
        uid: PartitionUid,
        mut waiter: Waiter,
        batches: Batches<M::Share>,
        now: Now,
    ) {
        let held = self.held.get_mut(&uid).expect("the partition was located");
        let request = &waiter.request;
        let most = request.max_bytes.min(self.limits.fetch_bytes_max);
        let missing = (request.min_bytes.min(most) as usize).saturating_sub(batches.bytes);
        // A read that ended before the live end would not bring more later.
        let to_live_end = batches.next >= held.replica.high_watermark();
        let over = waiter.deadline <= now.monotonic || self.status == Status::Draining;
        if missing == 0 || !to_live_end || over {
            let from = waiter.request.offset;
            return self.answer_fetch(uid, waiter.caller, from, Ok(batches));
        }
        let log = held.replica.log();
        let appended = log.map_or(0, |log| log.stats().bytes_appended);
        let committed = appended - log.map_or(0, |log| log.undurable_bytes() as u64).min(appended);
        waiter.appended = committed + missing as u64;
        self.waits.insert((waiter.deadline, uid));
        held.waiters.push(waiter);
    }

    fn wake_waiters(&mut self, uid: PartitionUid, now: Now) {
        let Some(held) = self.held.get_mut(&uid) else { return };
        let high_watermark = held.replica.high_watermark();
        let waiters = std::mem::take(&mut held.waiters);
        let appended = held.replica.stats().bytes_appended;
        let enough = |w: &Waiter| w.request.offset < high_watermark && w.appended <= appended;
        let (ready, rest): (Vec<_>, Vec<_>) = waiters.into_iter().partition(enough);
        held.waiters = rest;
        for waiter in ready {
            // Another one may wait to the same moment.
            if !self.held[&uid].waiters.iter().any(|w| w.deadline == waiter.deadline) {
                self.waits.remove(&(waiter.deadline, uid));
            }
            self.read(uid, waiter, now);
        }
        let Some(held) = self.held.get(&uid) else { return };
        let names: Vec<_> = held.subscriptions.keys().copied().collect();
        for name in names {
            self.push(name);
        }
    }

    /// Answers the fetches of a partition whose time is up with what there is; of a node that ends,
    /// all.
    pub(crate) fn end_waits(&mut self, uid: PartitionUid, now: Now) {
        let Some(held) = self.held.get_mut(&uid) else { return };
        let waiters = std::mem::take(&mut held.waiters);
        let ends = self.status == Status::Draining;
        let (over, rest): (Vec<_>, Vec<_>) =
            waiters.into_iter().partition(|w| ends || w.deadline <= now.monotonic);
        held.waiters = rest;
        for waiter in over {
            self.read(uid, waiter, now);
        }
    }

    fn read_ended(
        &mut self,
        uid: PartitionUid,
        id: ReadId,
        answer: Result<ReadAnswer<M::Share>, ReadError>,
        now: Now,
    ) {
        let Some(held) = self.held.get_mut(&uid) else { return };
        let reader = held.readers.remove(&id);
        let session = match &reader {
            Some(Reader::Fetch(waiter, charge)) => {
                self.fetching.subtract(*charge);
                Some(waiter.caller.session)
            }
            _ => None,
        };
        match (reader, answer) {
            (Some(Reader::Ended(charge)), _) => self.give_back(charge, now),
            (Some(Reader::Fetch(mut waiter, _)), Ok(ReadAnswer::Batches(batches))) => {
                // A gap between segments: go on behind it.
                if batches.is_empty() && batches.next > waiter.request.offset {
                    waiter.request.offset = batches.next;
                    self.read(uid, waiter, now);
                } else {
                    self.fetched(uid, waiter, batches, now);
                }
            }
            (Some(Reader::Fetch(waiter, _)), Err(error)) => {
                self.fetch_failed(uid, waiter, error, now);
            }
            (Some(Reader::List(caller)), Ok(ReadAnswer::Offset(offset))) => {
                self.answer_offset(uid, caller, offset);
            }
            (Some(Reader::List(caller)), Err(error)) => {
                self.refuse(caller, read_code(&error), &error.to_string());
            }
            (Some(Reader::Seek(caller, from)), Ok(ReadAnswer::Batches(batches))) => {
                if let Some(next) = self.sought(uid, caller, from, Ok(batches)) {
                    self.seek(uid, caller, next);
                }
            }
            (Some(Reader::Seek(caller, from)), Err(error)) => {
                if let Some(next) = self.sought(uid, caller, from, Err(error)) {
                    self.seek(uid, caller, next);
                }
            }
            (Some(Reader::Push(name)), answer) => self.push_read(name, answer),
            (None, _) | (Some(_), Ok(_)) => {}
        }
        if let Some(session) = session {
            self.fetch_on(session, now);
        }
    }

    /// Damage that another copy may mend is waited for, as what is not there yet.
    fn fetch_failed(&mut self, uid: PartitionUid, mut waiter: Waiter, error: ReadError, now: Now) {
        let held = self.held.get_mut(&uid).expect("the partition was located");
        let from = waiter.request.offset;
        let damaged = matches!(error, ReadError::Damaged { .. });
        if !damaged || !held.replica.may_mend(from) {
            return self.answer_fetch(uid, waiter.caller, from, Err(error));
        }
        if waiter.deadline <= now.monotonic || self.status == Status::Draining {
            return self.answer_fetch(uid, waiter.caller, from, Ok(Batches::empty(from)));
        }
        waiter.appended = 0;
        self.waits.insert((waiter.deadline, uid));
        held.waiters.push(waiter);
    }

    fn answer_fetch(
        &mut self,
        uid: PartitionUid,
        caller: Caller,
        from: Offset,
        result: Result<Batches<M::Share>, ReadError>,
    ) {
        let held = &self.held[&uid];
        let log_start = held.replica.log().map_or(Offset::ZERO, |log| log.log_start());
        let mut response = FetchResponse {
            partition: held.replica.identity().partition,
            log_start,
            high_watermark: held.replica.high_watermark(),
            epoch: held.replica.epoch(),
            ..FetchResponse::refused(ErrorCode::None, "")
        };
        match result {
            Ok(batches) => {
                response.next_offset = batches.next;
                self.stats.fetched_bytes += batches.bytes as u64;
                self.answer_with(caller, &response, batches.shares);
                self.charge_answer(caller.session, batches.bytes as u64);
            }
            Err(error) => {
                response.error = read_code(&error);
                response.message = error.to_string().into();
                response.next_offset = match error {
                    ReadError::Damaged { next_readable } => next_readable,
                    ReadError::OutOfRange { start, .. } if from < start => start,
                    ReadError::OutOfRange { .. } => response.high_watermark,
                    _ => from,
                };
                self.stats.errors += 1;
                self.answer(caller, &response);
            }
        }
    }

    pub(crate) fn list_offsets(&mut self, caller: Caller, head: &[u8], now: Now) -> Handled {
        let request = ListOffsetsRequest::decode(head)?;
        let (topic, partition) = (request.topic, request.partition);
        let asked = Asked { topic, partition, head, payload: &[] };
        let Some(uid) = self.serving(caller, asked) else { return Ok(()) };
        let held = self.held.get_mut(&uid).expect("the partition was located");
        // An end that is to be confirmed is by that.
        let by_log = !matches!(
            request.query,
            OffsetQuery::Latest | OffsetQuery::AtTime(_) | OffsetQuery::AtOffset(_)
        );
        if !(by_log || held.replica.is_settled()) {
            // An end that was told before must not seem to have gone back.
            let text = "the chain has not confirmed yet what is committed";
            self.refuse(caller, ErrorCode::Starting, text);
            return Ok(());
        }
        let log_start = held.replica.log().map(|log| log.log_start());
        let found = match request.query {
            OffsetQuery::Earliest => log_start,
            OffsetQuery::Latest => Some(held.replica.high_watermark()),
            OffsetQuery::LogEnd => held.replica.log().map(|log| log.log_end()),
            OffsetQuery::AtOffset(offset) => {
                self.seek(uid, caller, offset);
                return Ok(());
            }
            OffsetQuery::Confirmed => {
                self.confirm_end(uid, caller, now);
                return Ok(());
            }
            OffsetQuery::AtTime(time) => {
                self.dirty.insert(Directory::Partition(uid));
                match held.replica.offset_for_time(time) {
                    Ok(ReadOutcome::Ready(found)) => found,
                    Ok(ReadOutcome::Pending(id)) => {
                        held.readers.insert(id, Reader::List(caller));
                        return Ok(());
                    }
                    Err(_) => None,
                }
            }
        };
        self.answer_offset(uid, caller, found);
        Ok(())
    }

    /// Has the chain confirm where it ends.
    fn confirm_end(&mut self, uid: PartitionUid, caller: Caller, now: Now) {
        let ticket = Ticket(self.number());
        let held = self.held.get_mut(&uid).expect("the partition was located");
        self.dirty.insert(Directory::Partition(uid));
        match held.replica.confirm_end(ticket, now) {
            Ok(()) => {
                self.park(ticket, caller, Awaited::End(uid), self.limits.wait_max, now);
                self.replica_events(uid, now);
            }
            Err(refusal) => self.refused(uid, caller, &refusal),
        }
    }

    fn end_confirmed(&mut self, uid: PartitionUid, ticket: Ticket, end: Option<Offset>) {
        let Some(caller) = self.claim(ticket) else { return };
        if end.is_some() {
            return self.answer_offset(uid, caller, end);
        }
        let (place, text) = (self.place_held(uid), ProduceError::Moved.to_string());
        self.refuse_elsewhere(caller, place, ErrorCode::HeadMoved, &text);
    }

    /// Answers with the first offset from `from` on that can be read: read, not looked up, since
    /// nobody may know yet that something is damaged.
    fn seek(&mut self, uid: PartitionUid, caller: Caller, mut from: Offset) {
        self.dirty.insert(Directory::Partition(uid));
        loop {
            let held = self.held.get_mut(&uid).expect("the partition was located");
            let log_start = held.replica.log().map_or(Offset::ZERO, |log| log.log_start());
            from = from.max(log_start);
            if from >= held.replica.high_watermark() {
                return self.answer_offset(uid, caller, None);
            }
            let read = match held.replica.read(from, 1) {
                Ok(ReadOutcome::Ready(batches)) => Ok(batches),
                Ok(ReadOutcome::Pending(id)) => {
                    held.readers.insert(id, Reader::Seek(caller, from));
                    return;
                }
                Err(error) => Err(error),
            };
            match self.sought(uid, caller, from, read) {
                Some(next) => from = next,
                None => return,
            }
        }
    }

    /// What a read at `from` brought: an answer, or where to go on.
    fn sought(
        &mut self,
        uid: PartitionUid,
        caller: Caller,
        from: Offset,
        read: Result<Batches<M::Share>, ReadError>,
    ) -> Option<Offset> {
        match read {
            Ok(batches) if batches.is_empty() && batches.next > from => Some(batches.next),
            Ok(batches) => {
                self.answer_offset(uid, caller, (!batches.is_empty()).then_some(from));
                None
            }
            Err(ReadError::Damaged { next_readable }) if next_readable > from => {
                let held = self.held.get_mut(&uid).expect("the partition was located");
                if held.replica.may_mend(from) {
                    self.answer_offset(uid, caller, Some(from));
                    return None;
                }
                Some(next_readable)
            }
            Err(ReadError::OutOfRange { start, .. }) if start > from => Some(start),
            Err(error) => {
                self.refuse(caller, read_code(&error), &error.to_string());
                None
            }
        }
    }

    fn answer_offset(&mut self, uid: PartitionUid, caller: Caller, found: Option<Offset>) {
        let replica = &self.held[&uid].replica;
        let response = ListOffsetsResponse {
            error: ErrorCode::None,
            found: found.is_some(),
            offset: found.unwrap_or(replica.high_watermark()),
            epoch: replica.epoch(),
            message: "".into(),
            head: None,
        };
        self.answer(caller, &response);
    }

    pub(crate) fn trim(&mut self, caller: Caller, head: &[u8], now: Now) -> Handled {
        let request = TrimRequest::decode(head)?;
        let (topic, partition) = (request.topic, request.partition);
        let asked = Asked { topic, partition, head, payload: &[] };
        let Some(uid) = self.serving(caller, asked) else { return Ok(()) };
        let ticket = Ticket(self.number());
        let held = self.held.get_mut(&uid).expect("the partition was located");
        if let Some(error) = held.replica.log().and_then(|log| log.poisoned()) {
            let error = AppendError::Poisoned(error);
            self.refuse(caller, ErrorCode::Poisoned, &error.to_string());
            return Ok(());
        }
        if !matches!(held.replica.member().role(), Role::Solo | Role::Head) {
            let text = "only the head of a chain decides where its log starts";
            self.refuse_elsewhere(caller, (topic, partition), ErrorCode::NotHead, text);
            return Ok(());
        }
        match held.replica.trim(request.to) {
            Ok(()) => {
                held.trims.push_back(ticket);
                self.park(ticket, caller, Awaited::Trim(uid), self.limits.wait_max, now);
                self.dirty.insert(Directory::Partition(uid));
            }
            Err(error) => self.refuse(caller, read_code(&error), &error.to_string()),
        }
        Ok(())
    }

    fn trimmed(&mut self, uid: PartitionUid, log_start: Offset) {
        let held = self.held.get_mut(&uid).expect("its replica spoke");
        let Some(ticket) = held.trims.pop_front() else { return };
        if let Some(caller) = self.claim(ticket) {
            let (error, message) = (ErrorCode::None, "".into());
            self.answer(caller, &TrimResponse { error, log_start, message, head: None });
        }
    }

    /// No manifest is written any more: nobody will know what became of these.
    fn end_trims(&mut self, uid: PartitionUid, error: IoError) {
        let held = self.held.get_mut(&uid).expect("its replica spoke");
        for ticket in std::mem::take(&mut held.trims) {
            if let Some(caller) = self.claim(ticket) {
                let text = format!("a write failed ({error}); {}", Awaited::Trim(uid).in_doubt());
                self.refuse(caller, ErrorCode::StorageIo, &text);
            }
        }
    }
}

fn refusal_code(refusal: &Refusal) -> ErrorCode {
    match refusal {
        Refusal::Invalid(invalid) => invalid_code(invalid),
        Refusal::Append(error) => append_code(error),
        Refusal::InDoubt(_) => ErrorCode::StorageIo,
        Refusal::TooManyRepetitions | Refusal::TooManyQuestions => ErrorCode::Timeout,
        Refusal::OffsetCondition { .. } => ErrorCode::OffsetConditionFailed,
        Refusal::OutOfOrder { .. } => ErrorCode::OutOfOrderSequence,
        Refusal::Fenced { .. } => ErrorCode::ProducerFenced,
        Refusal::UnknownProducer => ErrorCode::UnknownProducer,
        Refusal::TooManyProducers => ErrorCode::TooManyProducers,
        Refusal::DuplicateOffsetUnknown => ErrorCode::DuplicateOffsetUnknown,
        Refusal::NotOpen => ErrorCode::Starting,
        Refusal::NotHead => ErrorCode::NotHead,
        Refusal::NotEnoughReplicas { .. } => ErrorCode::NotEnoughReplicas,
        _ => ErrorCode::Internal,
    }
}

pub(crate) fn append_code(error: &AppendError) -> ErrorCode {
    match error {
        AppendError::Poisoned(_) => ErrorCode::Poisoned,
        AppendError::DiskFull | AppendError::Segments => ErrorCode::DiskFull,
        AppendError::Backlog(_) => ErrorCode::Throttled,
        AppendError::Memory(_) => ErrorCode::MemoryBudget,
        AppendError::TooLarge(_) => ErrorCode::BatchTooLarge,
        AppendError::OffsetsExhausted => ErrorCode::OffsetsExhausted,
        AppendError::Closed => ErrorCode::ShuttingDown,
        _ => ErrorCode::Internal,
    }
}

fn invalid_code(invalid: &InvalidBatch) -> ErrorCode {
    match invalid {
        InvalidBatch::Header(BatchError::Magic(_)) => ErrorCode::BadMagic,
        InvalidBatch::Header(BatchError::Checksum { .. }) => ErrorCode::BadChecksum,
        InvalidBatch::Header(BatchError::Codec(_)) => ErrorCode::UnsupportedCodec,
        InvalidBatch::TooLarge { .. } => ErrorCode::BatchTooLarge,
        InvalidBatch::Timestamp { .. } => ErrorCode::TimestampOutOfRange,
        InvalidBatch::Transactional => ErrorCode::TransactionalUnsupported,
        InvalidBatch::Control => ErrorCode::ControlBatch,
        InvalidBatch::LogAppendTime => ErrorCode::LogAppendTime,
        _ => ErrorCode::BadBatch,
    }
}

pub(crate) fn read_code(error: &ReadError) -> ErrorCode {
    match error {
        ReadError::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        ReadError::Damaged { .. } => ErrorCode::Damaged,
        ReadError::Io(IoError::NoDescriptors) => ErrorCode::DescriptorBudget,
        ReadError::Io(_) => ErrorCode::ReadFailed,
        // Until there is another build on it.
        ReadError::Version(_) => ErrorCode::PartitionFailed,
        _ => ErrorCode::Starting,
    }
}

#[cfg(test)]
mod tests {
    use catena_wire::Class;

    use super::*;

    #[test]
    fn what_another_attempt_does_not_change_is_definite() {
        let class = |error| read_code(&error).class();
        assert_eq!(class(ReadError::Version(9)), Class::Definite);
        assert_eq!(class(ReadError::Io(IoError::NoDescriptors)), Class::Retriable);
        assert_eq!(class(ReadError::Closed), Class::Retriable);
    }
}
