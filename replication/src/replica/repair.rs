//! What is damaged here is asked for from a neighbour in the chain, and written back.
//!
//! ```text
//! a damaged range ─► Ask ─► a neighbour reads it ─► Give ─► Log::repair ─► Repaired
//!        ▲                        └ it is damaged there, too ─► the other neighbour
//!        └──────────────────────────────── later once more ◄──────┘
//! ```
//!
//! Who is asked for what is damaged on his side, too, asks whom he has behind him first: none is
//! what he answers when they have it neither. So it goes to the ends of the chain and back.
//!
//! Only what is committed is asked for: that is the same at every member, in whatever epoch.

use std::{collections::VecDeque, ops::Range, time::Duration};

use catena_format::{BatchHeader, Offset};
use catena_log::{
    Batches, Fold, Log, Now, ReadAnswer, ReadError, ReadId, ReadOutcome, RepairError, Stamp,
    config::DAMAGED_RANGES_MAX, io::Memory,
};

use super::{Event, Replica, ready};
use crate::chain::{MemberId, Role};

/// How long a neighbour has to answer before the next one is asked: at first, and at most, after
/// there was none for longer and longer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
const ANSWER_WITHIN_MAX: Duration = Duration::from_secs(60);
/// After which what nobody had is asked for once more.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Bytes of batches in an answer, unless one batch alone is larger.
const ANSWER_BYTES: usize = 1 << 20;
/// Others whose question waits to be read for, at most: one of each. Who else asks asks again.
const ASKED_MAX: usize = 16;
/// Of so many ranges it is remembered which neighbour does not have them either: beyond, readers
/// are told what they are told of what nobody has.
const DENIALS_MAX: usize = 2 * DAMAGED_RANGES_MAX;

/// What members of a chain say to each other about damaged batches.
#[derive(Clone, Debug)]
pub enum Mend<S> {
    /// These offsets are damaged here.
    Ask {
        /// Who is asked.
        to: MemberId,
        /// The offsets, all of them committed.
        offsets: Range<Offset>,
    },
    /// These batches are here, the first of those that were asked for; or none.
    Give {
        /// Who has asked.
        to: MemberId,
        /// The first offset that was asked for.
        from: Offset,
        /// The batches.
        batches: Batches<S>,
    },
}

/// A question to a neighbour.
struct Question {
    to: MemberId,
    /// Which of the neighbours that is.
    place: usize,
    /// What is damaged here.
    part: Range<Offset>,
    /// What of it was asked for.
    offsets: Range<Offset>,
    until: Duration,
}

/// What is asked for in turn: what is damaged here, and how many have not given it.
#[derive(Default)]
struct Trial {
    part: Range<Offset>,
    asked: usize,
}

/// A neighbour does not have something either, or nothing that can be written back.
struct Denial {
    place: usize,
    offsets: Range<Offset>,
}

/// Damage here, and what others ask of theirs.
pub(super) struct Repairs<S> {
    /// When it is looked for what is damaged, and from where on.
    due: Duration,
    at: Offset,
    /// The first that is damaged and not known to be committed begins there.
    uncommitted: Option<Offset>,
    /// What has not been answered.
    question: Option<Question>,
    /// How long who is asked next has to answer.
    patience: Duration,
    trial: Trial,
    /// What was answered, and is being written back.
    writing: Option<Question>,
    denials: Vec<Denial>,
    wanted: VecDeque<(MemberId, Range<Offset>)>,
    /// What of that waits until what is damaged here, too, was asked for.
    kept: VecDeque<(MemberId, Range<Offset>)>,
    reading: Option<(ReadId, MemberId, Range<Offset>)>,
    /// What is to be said. Nothing else is read before it is.
    asking: Option<Mend<S>>,
    giving: Option<Mend<S>>,
}

impl<S> Default for Repairs<S> {
    fn default() -> Self {
        Self {
            due: Duration::ZERO,
            at: Offset::ZERO,
            uncommitted: None,
            question: None,
            patience: ANSWER_WITHIN,
            trial: Trial::default(),
            writing: None,
            denials: Vec::new(),
            wanted: VecDeque::new(),
            kept: VecDeque::new(),
            reading: None,
            asking: None,
            giving: None,
        }
    }
}

impl<S> Repairs<S> {
    /// Something was found damaged, or has changed: it is looked at once.
    pub(super) fn look(&mut self) {
        (self.due, self.at) = (Duration::ZERO, Offset::ZERO);
    }

    /// Other neighbours may have what the ones before did not.
    pub(super) fn begin_anew(&mut self) {
        let reading = self.reading.take();
        *self = Self { reading, ..Self::default() };
    }

    /// These are whole again: what is damaged behind them is next.
    pub(super) fn repaired(&mut self, offsets: &Range<Offset>) {
        self.denials.retain(|denial| !offsets.contains(&denial.offsets.start));
        (self.writing, self.due) = (None, Duration::ZERO);
        self.wanted.append(&mut self.kept);
    }

    pub(super) fn next_tick(&self) -> Duration {
        self.question.as_ref().map_or(self.due, |question| question.until)
    }

    pub(super) fn is_reading(&self, id: ReadId) -> bool {
        self.reading.as_ref().is_some_and(|(reading, ..)| *reading == id)
    }

    /// Whether somebody is being answered from there on.
    fn is_giving(&self, asker: MemberId, start: Offset) -> bool {
        let read = |(_, to, of): &(ReadId, MemberId, Range<Offset>)| (*to, of.start);
        let given = match &self.giving {
            Some(Mend::Give { to, from, .. }) => Some((*to, *from)),
            _ => None,
        };
        [self.reading.as_ref().map(read), given].contains(&Some((asker, start)))
    }

    /// Somebody asks, and takes back what he has asked before.
    fn want(&mut self, asker: MemberId, offsets: Range<Offset>) {
        self.kept.retain(|(other, _)| *other != asker);
        if let Some((_, before)) = self.wanted.iter_mut().find(|(other, _)| *other == asker) {
            *before = offsets;
        } else if self.wanted.len() + self.kept.len() < ASKED_MAX {
            self.wanted.push_back((asker, offsets));
        }
    }

    fn has_denied(&self, place: usize, offsets: &Range<Offset>) -> bool {
        let mut denials = self.denials.iter().filter(|denial| denial.place == place);
        denials.any(|d| d.offsets.start <= offsets.start && offsets.end <= d.offsets.end)
    }

    /// Remembers a denial; whether that was the last one.
    fn deny(&mut self, place: usize, offsets: &Range<Offset>, neighbours: usize) -> bool {
        if self.has_denied(place, offsets) {
            return false;
        }
        let start = offsets.start;
        self.denials.retain(|denial| denial.place != place || denial.offsets.start != start);
        if self.denials.len() < DENIALS_MAX {
            self.denials.push(Denial { place, offsets: offsets.clone() });
        }
        (0..neighbours).all(|place| self.has_denied(place, offsets))
    }
}

impl<M: Memory + Clone> Replica<M> {
    /// Those who can be asked: the neighbours in the chain.
    fn neighbours(&self) -> Vec<MemberId> {
        let member = self.member();
        let within = matches!(member.role(), Role::Head | Role::Middle | Role::Tail);
        let Some(chain) = member.configuration().filter(|_| within) else { return Vec::new() };
        let node = member.node();
        [chain.predecessor(node), chain.successor(node)].into_iter().flatten().collect()
    }

    /// Whether what is damaged at an offset may be whole again soon, because another member has it.
    pub fn may_mend(&mut self, offset: Offset) -> bool {
        self.may_mend_without(None, offset)
    }

    /// Whether it may be, because another one has it than who has asked for it.
    fn may_mend_without(&mut self, asker: Option<MemberId>, offset: Offset) -> bool {
        let (below, neighbours) = (self.high_watermark(), self.neighbours());
        let repairs = &self.repairs;
        let one = offset..offset.checked_add(1).unwrap_or(Offset::MAX);
        let mut others = (0..neighbours.len()).filter(|place| Some(neighbours[*place]) != asker);
        let may = repairs.denials.len() < DENIALS_MAX
            && others.any(|place| !repairs.has_denied(place, &one));
        let Some(log) = ready(&mut self.state, self.cut.as_ref()).filter(|_| may) else {
            return false;
        };
        offset < below && log.repairable(offset).is_some_and(|range| range.contains(&offset))
    }

    /// Asks for what is damaged, if it is time, and reads what others ask for.
    pub(super) fn mend(&mut self, now: Now) {
        self.give_next();
        let below = self.high_watermark();
        if self.repairs.uncommitted.take_if(|start| *start < below).is_some() {
            self.repairs.look();
        }
        if self.repairs.next_tick() > now.monotonic {
            return;
        }
        if let Some(question) = self.repairs.question.take() {
            self.repairs.patience = ANSWER_WITHIN_MAX.min(self.repairs.patience * 2);
            self.in_vain(&question, false, now);
        }
        self.ask(below, now);
    }

    fn ask(&mut self, below: Offset, now: Now) {
        let neighbours = self.neighbours();
        let Some(log) = ready(&mut self.state, self.cut.as_ref()) else { return };
        let repairs = &mut self.repairs;
        if repairs.at == Offset::ZERO && !repairs.denials.is_empty() {
            let damaged = log.damaged();
            let is = |at: &Offset| damaged.iter().any(|range| range.contains(at));
            repairs.denials.retain(|denial| is(&denial.offsets.start));
        }
        let none = neighbours.is_empty() || log.is_repairing();
        let part = part_from(log, repairs.at).filter(|part| part.start < below && !none);
        let Some(part) = part else {
            repairs.uncommitted = part_from(log, below).map(|part| part.start);
            // What cannot be repaired now may be able to be later.
            let again = !none && !log.damaged().is_empty();
            let wait = if again { AGAIN_AFTER } else { Duration::MAX };
            (repairs.due, repairs.at) = (now.monotonic.saturating_add(wait), Offset::ZERO);
            return;
        };
        if repairs.trial.part != part {
            repairs.trial = Trial { part: part.clone(), asked: 0 };
        }
        let place = repairs.trial.asked % neighbours.len();
        let (to, until) = (neighbours[place], now.monotonic + repairs.patience);
        let offsets = part.start..part.end.min(below);
        repairs.asking = Some(Mend::Ask { to, offsets: offsets.clone() });
        repairs.question = Some(Question { to, place, part, offsets, until });
    }

    /// Who was asked has not given what is of use: the next one is asked, and after the last one
    /// it is gone on behind it.
    fn in_vain(&mut self, question: &Question, denied: bool, now: Now) {
        let Question { place, part, offsets, .. } = question;
        let neighbours = self.neighbours().len();
        let Some(log) = ready(&mut self.state, self.cut.as_ref()) else { return };
        let repairs = &mut self.repairs;
        repairs.due = now.monotonic;
        if log.repairable(part.start).as_ref() != Some(part) {
            // Something else is damaged now, which nobody was asked for.
            repairs.trial = Trial::default();
            return;
        }
        if denied {
            repairs.wanted.append(&mut repairs.kept);
        }
        if denied && repairs.deny(*place, offsets, neighbours) {
            self.events.push_back(Event::Lost(offsets.clone()));
        }
        if repairs.trial.part == *part {
            repairs.trial.asked += 1;
        }
        if repairs.trial.part == *part && repairs.trial.asked >= neighbours {
            (repairs.trial, repairs.at) = (Trial::default(), part.end);
        }
    }

    /// What a neighbour has given could not be written back.
    pub(super) fn repair_failed(&mut self, why: RepairError, now: Now) {
        self.repairs.due = now.monotonic;
        if let Some(question) = self.repairs.writing.take() {
            self.in_vain(&question, is_denial(why), now);
        }
    }

    /// Another member of the chain has lost these batches.
    pub fn on_asked(&mut self, from: MemberId, offsets: Range<Offset>, now: Now) {
        if !self.repairs.is_giving(from, offsets.start) {
            self.repairs.want(from, offsets);
        }
        self.mend(now);
    }

    /// Reads what another member has asked for.
    fn give_next(&mut self) {
        if self.repairs.wanted.is_empty() {
            return;
        }
        let below = self.high_watermark();
        while self.repairs.reading.is_none() && self.repairs.giving.is_none() {
            let Some(log) = ready(&mut self.state, self.cut.as_ref()) else { return };
            let Some((to, offsets)) = self.repairs.wanted.pop_front() else { return };
            // What is not known to be committed here is asked for again.
            let offsets = offsets.start..offsets.end.min(below);
            if offsets.is_empty() {
                continue;
            }
            match log.read_copy(offsets.start, ANSWER_BYTES) {
                Ok(ReadOutcome::Pending(id)) => self.repairs.reading = Some((id, to, offsets)),
                Ok(ReadOutcome::Ready(batches)) => self.give(to, &offsets, Ok(batches)),
                Err(error) => self.give(to, &offsets, Err(error)),
            }
        }
    }

    /// A read for another member has ended.
    pub(super) fn mend_read(&mut self, answer: Result<ReadAnswer<M::Share>, ReadError>) {
        let Some((_, to, offsets)) = self.repairs.reading.take() else { return };
        let batches = answer.and_then(|answer| match answer {
            ReadAnswer::Batches(batches) => Ok(batches),
            ReadAnswer::Offset(_) => Err(ReadError::Closed),
        });
        self.give(to, &offsets, batches);
        self.give_next();
    }

    fn give(
        &mut self,
        to: MemberId,
        offsets: &Range<Offset>,
        read: Result<Batches<M::Share>, ReadError>,
    ) {
        let from = offsets.start;
        let damaged = matches!(read, Err(ReadError::Damaged { .. }));
        if damaged && self.may_mend_without(Some(to), from) {
            // He is answered when that is over, if he has not asked anew by then.
            let repairs = &mut self.repairs;
            if repairs.wanted.iter().all(|(asker, _)| *asker != to) {
                repairs.kept.push_back((to, offsets.clone()));
            }
            return;
        }
        let batches = match read {
            Ok(read) => within(read, offsets),
            Err(ReadError::Damaged { .. } | ReadError::OutOfRange { .. }) => Batches::empty(from),
            // It may be readable when it is asked for again.
            Err(_) => return,
        };
        self.repairs.giving = Some(Mend::Give { to, from, batches });
    }

    /// A neighbour has answered: with batches from `from` on, back to back, or with none. Batches
    /// that come late are as good: the log looks at each.
    pub fn on_given(
        &mut self,
        by: MemberId,
        from: Offset,
        stamps: &[Stamp],
        payload: &[u8],
        now: Now,
    ) {
        let asked = |question: &mut Question| question.to == by && question.offsets.start == from;
        let question = match self.repairs.question.take_if(asked) {
            Some(question) => {
                self.repairs.patience = ANSWER_WITHIN.max(self.repairs.patience / 2);
                Some(question)
            }
            None if stamps.is_empty() => None,
            None => self.asked_before(by, from, now),
        };
        let Some(question) = question else { return };
        let Some(log) = ready(&mut self.state, self.cut.as_ref()) else { return };
        let taken = (!stamps.is_empty()).then(|| log.repair(stamps, payload));
        match taken {
            // It is gone on when that has ended.
            Some(Ok(())) => {
                let repairs = &mut self.repairs;
                (repairs.question, repairs.asking) = (None, None);
                (repairs.writing, repairs.due) = (Some(question), Duration::MAX);
            }
            Some(Err(why)) => self.in_vain(&question, is_denial(why), now),
            None => self.in_vain(&question, true, now),
        }
        self.go_on(now);
    }

    /// What a neighbour was asked when it has not answered in time, by what is damaged now.
    fn asked_before(&mut self, to: MemberId, from: Offset, now: Now) -> Option<Question> {
        let place = self.neighbours().iter().position(|neighbour| *neighbour == to)?;
        let below = self.high_watermark();
        let log = ready(&mut self.state, self.cut.as_ref()).filter(|log| !log.is_repairing())?;
        let part = log.repairable(from).filter(|part| part.start == from && from < below)?;
        let offsets = from..part.end.min(below);
        Some(Question { to, place, part, offsets, until: now.monotonic })
    }

    /// The next thing to say to another member about damage.
    pub fn poll_mend(&mut self) -> Option<Mend<M::Share>> {
        if let Some(question) = self.repairs.asking.take() {
            return Some(question);
        }
        let answer = self.repairs.giving.take();
        self.give_next();
        answer
    }
}

/// Whether batches that are refused so, or were not written back, are of no use as that neighbour
/// has them.
fn is_denial(why: RepairError) -> bool {
    !matches!(
        why,
        RepairError::Memory(_)
            | RepairError::Busy
            | RepairError::Poisoned(_)
            | RepairError::Closed
            | RepairError::Gone
            | RepairError::Sound(_)
            | RepairError::Beyond(_)
    )
}

/// The first damaged range that begins at `from` or behind and can be repaired.
fn part_from<M: Memory + Clone, F: Fold>(log: &Log<M, F>, from: Offset) -> Option<Range<Offset>> {
    let part = log.repairable(from)?;
    if part.start >= from { Some(part) } else { log.repairable(part.end) }
}

/// The batches that lie in a range, of those that were read from its start on.
fn within<S: AsRef<[u8]>>(read: Batches<S>, offsets: &Range<Offset>) -> Batches<S> {
    let mut within = Batches::empty(offsets.start);
    for (share, stamp) in read.shares.into_iter().zip(read.stamps) {
        let header = BatchHeader::parse(share.as_ref()).ok();
        let next = header.and_then(|header| {
            let first = header.stored_offset().ok()?;
            let next = first.checked_add(u64::from(header.last_offset_delta) + 1)?;
            // Of the first batch somebody may have trimmed the first records.
            let follows = first == within.next || (within.is_empty() && first < offsets.start);
            (follows && within.next < next && next <= offsets.end).then_some(next)
        });
        let Some(next) = next else { break };
        within.bytes += share.as_ref().len();
        within.shares.push(share);
        within.stamps.push(stamp);
        within.next = next;
    }
    within
}
