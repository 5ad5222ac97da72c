//! Who waits for which level, and what he is told.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use catena_format::{Millis, Offset, planted};
use catena_log::{
    Appended, Now,
    io::{IoError, Memory},
};

use super::{
    Durability, Event, ProduceError, ProduceRequest, Receipt, Refusal, Replica, Reply, State,
    Ticket,
};
use crate::chain::{Role, Side};

/// Repetitions of batches that are on their way to the disk, each of which waits for an answer of
/// its own.
const PARKED_REPETITIONS_MAX: usize = 4096;
/// Those who wait to be told where the log ends.
const QUESTIONS_MAX: usize = 4096;

/// What waits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    New,
    /// A repetition of a batch.
    Duplicate,
    /// A repetition of one that is at the log's end at the latest.
    Unknown,
}

struct Parked {
    base: Offset,
    append_time: Millis,
    kind: Kind,
    since: Duration,
}

/// Produces that wait until a level is reached.
#[derive(Default)]
pub(super) struct Parking {
    waiting: BTreeMap<(Durability, Offset, Ticket), Parked>,
    /// Repetitions among them.
    repetitions: usize,
    /// Refusals that wait until the chain has answered a question: another member may hold what
    /// this one lacks, or another node may be the head.
    doubts: VecDeque<(u64, Ticket, Refusal)>,
    /// Who asks where the log ends, whatever another node may have taken for it.
    ends: VecDeque<(u64, Ticket)>,
    /// The chain is about to change: everybody waits for the disks of all of it. What was answered
    /// before lies below this.
    pub(super) strict_from: Option<Offset>,
}

impl Parking {
    fn take(&mut self, key: (Durability, Offset, Ticket)) -> Option<Parked> {
        let parked = self.waiting.remove(&key)?;
        self.repetitions -= usize::from(parked.kind != Kind::New);
        Some(parked)
    }

    /// Another node is the head: what became of them it will know, and this one may never.
    pub(super) fn leave<S>(&mut self, events: &mut VecDeque<Event<S>>) {
        self.repetitions = 0;
        let waiting = std::mem::take(&mut self.waiting);
        let moved = |(_, _, ticket)| Reply { ticket, result: Err(ProduceError::Moved) };
        events.extend(waiting.into_keys().map(moved).map(Event::Reply));
    }

    /// Another epoch begins: its head, if it is still this one, is asked anew.
    pub(super) fn leave_doubts<S>(&mut self, events: &mut VecDeque<Event<S>>) {
        let moved = |(_, ticket, _)| Reply { ticket, result: Err(ProduceError::Moved) };
        events.extend(self.doubts.drain(..).map(moved).map(Event::Reply));
        events.extend(self.ends.drain(..).map(|(_, ticket)| Event::Confirmed(ticket, None)));
    }
}

impl<M: Memory + Clone> Replica<M> {
    /// A retry is answered as the first attempt was or will be, even if a condition fails by now.
    pub(super) fn repeated(
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
        let under_way = next > self.high_watermark();
        match log.poisoned().filter(|_| under_way) {
            Some(error) => Err(Refusal::InDoubt(error)),
            None if under_way && self.parking.repetitions == PARKED_REPETITIONS_MAX => {
                Err(Refusal::TooManyRepetitions)
            }
            None => {
                let appended = Appended { base, next, append_time: Millis::new(-1) };
                Ok(self.park(request, appended, kind, now))
            }
        }
    }

    pub(super) fn park(
        &mut self,
        request: &ProduceRequest<'_>,
        appended: Appended,
        kind: Kind,
        now: Now,
    ) -> Option<Receipt> {
        let Appended { base, next, append_time } = appended;
        let parked = Parked { base, append_time, kind, since: now.monotonic };
        // Nobody knows where it stands: of what is stored somewhere only the whole is certain.
        let level = if kind == Kind::Unknown { Durability::ChainDisk } else { request.durability };
        if next <= self.reached(level) || planted!(AckBeforeDurable) {
            return Some(self.receipt(&parked, level, next));
        }
        if level == Durability::ChainMemory {
            self.member.hurry(next);
        }
        self.parking.repetitions += usize::from(kind != Kind::New);
        self.parking.waiting.insert((level, next, request.ticket), parked);
        None
    }

    /// A refusal that rests on what the log holds is told once the whole chain has confirmed it.
    pub(super) fn doubt(
        &mut self,
        ticket: Ticket,
        refusal: Refusal,
    ) -> Result<Option<Receipt>, Refusal> {
        if self.parking.doubts.len() == PARKED_REPETITIONS_MAX {
            return Err(Refusal::TooManyRepetitions);
        }
        let question = self.member.ask();
        if self.member.answered() >= question || planted!(RefusedUnasked) {
            return Err(refusal);
        }
        self.parking.doubts.push_back((question, ticket, refusal));
        self.converse();
        Ok(None)
    }

    /// Asks the chain of this head whether it is that still; [`Event::Confirmed`] tells the high
    /// watermark then, below which lies all that anybody acknowledged before this was asked.
    ///
    /// # Errors
    /// [`Refusal::NotOpen`], [`Refusal::NotHead`], [`Refusal::TooManyQuestions`].
    pub fn confirm_end(&mut self, ticket: Ticket, now: Now) -> Result<(), Refusal> {
        if !matches!(self.state, State::Open(_)) {
            return Err(Refusal::NotOpen);
        }
        if !matches!(self.member.role(), Role::Solo | Role::Head) {
            return Err(Refusal::NotHead);
        }
        if self.parking.ends.len() == QUESTIONS_MAX {
            return Err(Refusal::TooManyQuestions);
        }
        let question = self.member.ask();
        self.parking.ends.push_back((question, ticket));
        self.go_on(now);
        Ok(())
    }

    /// Of what an epoch before has acknowledged this one knows once it has committed as much as was
    /// there when it began.
    fn answer_ends(&mut self) {
        let answered = self.member.answered();
        let knows = self.member.covers_earlier() || planted!(EndOfBeforeUnknown);
        let end = self.high_watermark();
        let is_due =
            |(at, _): &mut (u64, Ticket)| knows && (*at <= answered || planted!(EndUnconfirmed));
        while let Some((_, ticket)) = self.parking.ends.pop_front_if(is_due) {
            self.events.push_back(Event::Confirmed(ticket, Some(end)));
        }
    }

    fn answer_doubts(&mut self) {
        let answered = self.member.answered();
        while let Some(first) = self.parking.doubts.pop_front_if(|(at, ..)| *at <= answered) {
            let (_, ticket, refusal) = first;
            let result = Err(ProduceError::Refused(refusal));
            self.events.push_back(Event::Reply(Reply { ticket, result }));
        }
    }

    /// How far the log has reached a level.
    fn reached(&self, level: Durability) -> Offset {
        let committed = self.high_watermark();
        let Some(log) = self.log() else { return committed };
        if self.parking.strict_from.is_some() {
            return committed;
        }
        let reached = match level {
            Durability::None => Offset::MAX,
            Durability::HeadDisk => log.durable_end(),
            Durability::ChainMemory => self.received(),
            Durability::ChainDisk => committed,
        };
        committed.max(reached)
    }

    /// How far the tail has come. Alone, its memory is the head's.
    fn received(&self) -> Offset {
        let behind = self.member.configuration().map_or(0, |c| c.chain.len().saturating_sub(1));
        let progress = self.member.progress(Side::Successor);
        match progress.last() {
            _ if behind == 0 => Offset::MAX,
            Some(tail) if progress.len() == behind => tail.received,
            _ => Offset::ZERO,
        }
    }

    fn receipt(&self, parked: &Parked, level: Durability, next: Offset) -> Receipt {
        let on_all = next <= self.high_watermark() || planted!(AckBeforeDurable);
        let here = self.log().is_some_and(|log| next <= log.durable_end());
        let behind = self.member.progress(Side::Successor);
        let copies = behind.iter().filter(|p| next <= p.durable).count() + usize::from(here);
        let members = self.member.configuration().map_or(1, |c| c.chain.len());
        let copies = match level {
            _ if on_all => members,
            Durability::None | Durability::ChainMemory => 0,
            Durability::HeadDisk | Durability::ChainDisk => copies,
        };
        Receipt {
            base: parked.base,
            next,
            epoch: self.epoch(),
            append_time: parked.append_time,
            level: if on_all { Durability::ChainDisk } else { level },
            copies: u8::try_from(copies).unwrap_or(u8::MAX),
            duplicate: parked.kind == Kind::Duplicate,
        }
    }

    /// Answers whoever waits for no more than was reached; after a failed write everybody else.
    pub(super) fn answer(&mut self, poisoned: Option<IoError>, now: Now) {
        self.answer_doubts();
        self.answer_ends();
        for level in Durability::ALL {
            let reached = self.reached(level);
            let from = (level, Offset::ZERO, Ticket(0));
            let to = (level, Offset::MAX, Ticket(u64::MAX));
            while let Some((&key, _)) = self.parking.waiting.range(from..=to).next() {
                let (_, next, ticket) = key;
                let is_reached = next <= reached;
                if !is_reached && poisoned.is_none() {
                    break;
                }
                let Some(parked) = self.parking.take(key) else { break };
                let result = match (is_reached, parked.kind, poisoned) {
                    (true, Kind::Unknown, _) => Err(ProduceError::DuplicateOffsetUnknown),
                    (true, Kind::New | Kind::Duplicate, _) => {
                        self.commits.note(now.monotonic.saturating_sub(parked.since));
                        Ok(self.receipt(&parked, level, next))
                    }
                    (false, _, Some(error)) => Err(ProduceError::Indeterminate(error)),
                    (false, _, None) => unreachable!("it waits on"),
                };
                self.events.push_back(Event::Reply(Reply { ticket, result }));
            }
        }
    }
}
