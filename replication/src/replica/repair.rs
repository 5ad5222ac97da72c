//! What is damaged here is asked for from a neighbour in the chain, and written back.
//!
//! ```text
//! a damaged range ─► Ask ─► a neighbour reads it ─► Give ─► Log::repair ─► Repaired
//!        ▲                        └ it is damaged there, too ─► the other neighbour
//!        └──────────────────────────────── later once more ◄──────┘
//! ```
//!
//! Only what is committed is asked for: that is the same at every member, in whatever epoch.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    time::Duration,
};

use catena_format::{BatchHeader, Offset};
use catena_log::{
    Batches, Fold, Log, Now, ReadAnswer, ReadError, ReadId, ReadOutcome, RepairError, Stamp,
    io::Memory,
};

use super::{Event, Replica, ready};
use crate::chain::{MemberId, Role};

/// How long a neighbour has to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// After which what nobody had is asked for once more.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Bytes of batches in an answer, unless one batch alone is larger.
const ANSWER_BYTES: usize = 1 << 20;
/// What others have asked for and waits to be read, at most; who asks more asks again.
const ASKED_MAX: usize = 16;
/// Ranges of which it is remembered that nobody has them, at most.
const LOST_MAX: usize = 1024;

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

/// A question to a neighbour that has not been answered.
struct Question {
    to: MemberId,
    offsets: Range<Offset>,
    until: Duration,
}

/// Damage here, and what others ask of theirs.
pub(super) struct Repairs<S> {
    /// When it is looked for what is damaged, and from where on.
    due: Duration,
    at: Offset,
    /// The first that is damaged and not known to be committed begins there.
    uncommitted: Option<Offset>,
    question: Option<Question>,
    /// How many neighbours were asked for this range in vain, and how many have said that it is
    /// damaged there, too.
    asked: usize,
    denied: usize,
    /// What every neighbour has said not to have either.
    lost: BTreeMap<Offset, Offset>,
    wanted: VecDeque<(MemberId, Range<Offset>)>,
    reading: Option<(ReadId, MemberId, Range<Offset>)>,
    said: VecDeque<Mend<S>>,
}

impl<S> Default for Repairs<S> {
    fn default() -> Self {
        Self {
            due: Duration::ZERO,
            at: Offset::ZERO,
            uncommitted: None,
            question: None,
            asked: 0,
            denied: 0,
            lost: BTreeMap::new(),
            wanted: VecDeque::new(),
            reading: None,
            said: VecDeque::new(),
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

    /// A repair has ended: what is damaged behind it is next.
    pub(super) fn ended(&mut self, offsets: &Range<Offset>, repaired: bool) {
        (self.asked, self.denied, self.due) = (0, 0, Duration::ZERO);
        if repaired {
            self.lost.retain(|start, _| !offsets.contains(start));
        } else {
            self.at = offsets.end;
        }
    }

    pub(super) fn next_tick(&self) -> Duration {
        self.question.as_ref().map_or(self.due, |question| question.until)
    }

    pub(super) fn is_reading(&self, id: ReadId) -> bool {
        self.reading.as_ref().is_some_and(|(reading, ..)| *reading == id)
    }

    fn is_lost(&self, offset: Offset) -> bool {
        let before = self.lost.range(..=offset).next_back();
        before.is_some_and(|(_, end)| offset < *end)
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
        let may = !self.repairs.is_lost(offset) && !self.neighbours().is_empty();
        let below = self.high_watermark();
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
        if self.repairs.question.take().is_some() {
            self.in_vain(false, now);
        }
        let (neighbours, asked) = (self.neighbours(), self.repairs.asked);
        let Some(log) = ready(&mut self.state, self.cut.as_ref()) else { return };
        let none = neighbours.is_empty() || log.is_repairing();
        let range = part_from(log, self.repairs.at).filter(|part| part.start < below && !none);
        let Some(range) = range else {
            self.repairs.uncommitted = part_from(log, below).map(|part| part.start);
            // What cannot be repaired now may be able to be later.
            let again = !none && !log.damaged().is_empty();
            let wait = if again { AGAIN_AFTER } else { Duration::MAX };
            self.repairs.due = now.monotonic.saturating_add(wait);
            self.repairs.at = Offset::ZERO;
            return;
        };
        let offsets = range.start..range.end.min(below);
        let to = neighbours[asked % neighbours.len()];
        let until = now.monotonic + ANSWER_WITHIN;
        self.repairs.said.push_back(Mend::Ask { to, offsets: offsets.clone() });
        self.repairs.question = Some(Question { to, offsets, until });
    }

    /// A neighbour does not have what was asked for, or has not answered: the next one is asked,
    /// and after the last one it is gone on behind it.
    fn in_vain(&mut self, denied: bool, now: Now) {
        let count = self.neighbours().len();
        let below = self.high_watermark();
        let Some(log) = ready(&mut self.state, self.cut.as_ref()) else { return };
        let range = log.repairable(self.repairs.at);
        let repairs = &mut self.repairs;
        (repairs.asked, repairs.denied) = (repairs.asked + 1, repairs.denied + usize::from(denied));
        repairs.due = now.monotonic;
        if repairs.asked < count {
            return;
        }
        let nobody = repairs.denied >= count;
        (repairs.asked, repairs.denied) = (0, 0);
        let Some(range) = range else { return };
        let end = range.end.min(below);
        if nobody && repairs.lost.len() < LOST_MAX {
            repairs.lost.insert(range.start, end);
            self.events.push_back(Event::Lost(range.start..end));
        }
        self.repairs.at = end;
    }

    /// Another member of the chain has lost these batches.
    pub fn on_asked(&mut self, from: MemberId, offsets: Range<Offset>, now: Now) {
        if self.repairs.wanted.len() < ASKED_MAX {
            self.repairs.wanted.push_back((from, offsets));
        }
        self.mend(now);
    }

    /// Reads what another member has asked for.
    fn give_next(&mut self) {
        if self.repairs.wanted.is_empty() {
            return;
        }
        let below = self.high_watermark();
        while self.repairs.reading.is_none() {
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
        let batches = match read {
            Ok(read) => within(read, offsets),
            Err(ReadError::Damaged { .. } | ReadError::OutOfRange { .. }) => Batches::empty(from),
            // It may be readable when it is asked for again.
            Err(_) => return,
        };
        self.repairs.said.push_back(Mend::Give { to, from, batches });
    }

    /// A neighbour has answered: with batches from `from` on, back to back, or with none.
    pub fn on_given(
        &mut self,
        by: MemberId,
        from: Offset,
        stamps: &[Stamp],
        payload: &[u8],
        now: Now,
    ) {
        let asked = |question: &mut Question| question.to == by && question.offsets.start == from;
        if self.repairs.question.take_if(asked).is_none() {
            return;
        }
        let Some(log) = ready(&mut self.state, self.cut.as_ref()) else { return };
        let taken = if stamps.is_empty() { None } else { Some(log.repair(stamps, payload)) };
        match taken {
            // It is gone on when that has ended.
            Some(Ok(())) => self.repairs.due = Duration::MAX,
            Some(Err(RepairError::Memory(_) | RepairError::Busy | RepairError::Closed)) => {
                self.in_vain(false, now);
            }
            Some(Err(_)) | None => self.in_vain(true, now),
        }
        self.go_on(now);
    }

    /// The next thing to say to another member about damage.
    pub fn poll_mend(&mut self) -> Option<Mend<M::Share>> {
        self.repairs.said.pop_front()
    }
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
