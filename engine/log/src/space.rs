//! How far a segment's file is written with zeros ahead of the appends, and when to go further.
//!
//! A commit that goes to a file whose length was just changed waits for the file system's journal.
//! So only a log with little traffic lengthens the file that it writes, step by step. A busy one
//! prepares its next segment whole, in a file of its own, and goes on there when the present one's
//! zeros are used up; a segment that retention drops becomes that file without any writing.

use std::time::Duration;

use catena_format::Position;

use crate::config::{EXTEND_STEP_MIN, SPARE_STEP};

/// A step that was used up faster than this makes the next one larger.
const FAST: Duration = Duration::from_millis(500);
/// A step that lasted longer than this makes the next one smaller.
const SLOW: Duration = Duration::from_secs(10);
/// A whole segment that lasted longer than this was too much.
const SLOW_SEGMENT: Duration = Duration::from_secs(30);

/// The pre-written part of one segment file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Space {
    /// Everything below is zeros or data on the disk; writes go only there.
    pub(crate) written: Position,
    /// An extension is under way to here.
    pub(crate) extending: Option<Position>,
    /// The file exists and its directory entry is durable.
    pub(crate) ready: bool,
    step: u64,
    last: Option<Duration>,
    /// Of a spare: where the log stood when the last step was asked for.
    grown_at: Position,
}

impl Space {
    /// Of a file that does not exist yet, or of a spare with `written` bytes.
    pub(crate) fn new(written: Position, ready: bool) -> Self {
        let (step, last, grown_at) = (EXTEND_STEP_MIN, None, Position::ZERO);
        Self { written, extending: None, ready, step, last, grown_at }
    }

    /// What the segment that follows this one begins with, in a file that has `spare`.
    pub(crate) fn handed_on(self, spare: Self, now: Duration) -> Self {
        let slow = self.last.is_some_and(|last| now.saturating_sub(last) > SLOW_SEGMENT);
        let step = if slow { (self.step / 2).max(EXTEND_STEP_MIN) } else { self.step };
        Self { step, last: Some(now), ..spare }
    }

    /// Whether the steps have grown to `step`.
    pub(crate) fn is_busy(&self, step: u64) -> bool {
        self.step >= step
    }

    /// The range to write next of a spare that shall have `whole`, when the log, at `cursor` of the
    /// segment in front of it, has taken half as much since the last step: zeros are written while
    /// the log is written, not behind a burst, where they stand in the way of what comes next.
    pub(crate) fn grow(
        &mut self,
        whole: Position,
        cursor: Position,
    ) -> Option<(Position, Position)> {
        if self.extending.is_some() || self.written >= whole {
            return None;
        }
        let to = self.written.plus(SPARE_STEP).min(whole);
        let half = (to.get() - self.written.get()) / 2;
        if cursor < self.grown_at.plus(half) {
            return None;
        }
        self.grown_at = cursor;
        self.extending = Some(to);
        Some((self.written, to))
    }

    /// The range behind `cursor` to give back when more than `keep` bytes are there.
    pub(crate) fn shrink(&mut self, cursor: Position, keep: u64) -> Option<(Position, Position)> {
        let from = cursor.align_up(EXTEND_STEP_MIN);
        let to = self.written;
        if self.extending.is_some() || !self.ready || from.plus(keep) >= to {
            return None;
        }
        self.step = EXTEND_STEP_MIN;
        self.written = from;
        // Nothing is written there until that is done.
        self.extending = Some(from);
        Some((from, to))
    }

    /// The range to extend next, when less than half a step is left ahead of `cursor`, or `needed`
    /// is not there; never beyond `limit` unless needed. Steps grow to `step_max`.
    pub(crate) fn wish(
        &mut self,
        cursor: Position,
        needed: Position,
        limit: Position,
        step_max: u64,
        now: Duration,
    ) -> Option<(Position, Position)> {
        let ahead = self.written.get().saturating_sub(cursor.get());
        let short = needed > self.written || (ahead < self.step / 2 && self.written < limit);
        if !short || self.extending.is_some() {
            return None;
        }
        self.adapt(step_max, now);
        let to = self.written.plus(self.step).min(limit).max(needed);
        let to = to.align_up(EXTEND_STEP_MIN);
        self.extending = Some(to);
        Some((self.written, to))
    }

    fn adapt(&mut self, step_max: u64, now: Duration) {
        if let Some(last) = self.last.replace(now) {
            let lasted = now.saturating_sub(last);
            if lasted < FAST {
                self.step = (self.step * 2).min(step_max);
            } else if lasted > SLOW {
                self.step = (self.step / 2).max(EXTEND_STEP_MIN);
            }
        }
    }

    /// The extension under way ended.
    pub(crate) fn on_extended(&mut self, ok: bool) {
        let to = self.extending.take();
        if ok && let Some(to) = to {
            self.written = self.written.max(to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EXTEND_STEP_MAX;

    #[test]
    fn a_busy_log_extends_in_growing_steps_and_a_quiet_one_holds_little() {
        let limit = Position::new(1 << 30);
        let mut space = Space::new(Position::ZERO, true);
        let mut cursor = Position::new(4096);
        for millisecond in 0..20 {
            let now = Duration::from_millis(millisecond);
            space.wish(cursor, cursor, limit, EXTEND_STEP_MAX, now).unwrap();
            space.on_extended(true);
            cursor = space.written;
        }
        assert_eq!(space.step, EXTEND_STEP_MAX);
        for minute in 1..20 {
            let now = Duration::from_secs(minute * 60);
            space.wish(cursor, cursor, limit, EXTEND_STEP_MAX, now).unwrap();
            space.on_extended(true);
            cursor = space.written;
        }
        assert_eq!(space.step, EXTEND_STEP_MIN);
    }

    #[test]
    fn a_spare_grows_with_the_log_and_waits_with_it() {
        let (whole, half) = (Position::new(2 * SPARE_STEP), SPARE_STEP / 2);
        let mut spare = Space::new(Position::ZERO, true);
        assert_eq!(spare.grow(whole, Position::new(half - 1)), None);
        let first = spare.grow(whole, Position::new(half));
        assert_eq!(first, Some((Position::ZERO, Position::new(SPARE_STEP))));
        assert_eq!(spare.grow(whole, Position::new(9 * half)), None, "one at a time");
        spare.on_extended(true);
        assert_eq!(spare.grow(whole, Position::new(2 * half - 1)), None, "the log waits");
        let second = spare.grow(whole, Position::new(2 * half));
        assert_eq!(second, Some((Position::new(SPARE_STEP), whole)));
        spare.on_extended(true);
        assert_eq!(spare.grow(whole, Position::new(9 * half)), None, "it is whole");
    }

    #[test]
    fn nothing_is_extended_while_enough_is_ahead_or_one_is_under_way() {
        let mut space = Space::new(Position::new(1 << 20), true);
        let (cursor, limit) = (Position::new(4096), Position::new(2 << 20));
        assert_eq!(space.wish(cursor, cursor, limit, EXTEND_STEP_MAX, Duration::ZERO), None);
        let near = Position::new(1 << 20);
        assert!(space.wish(near, near, limit, EXTEND_STEP_MAX, Duration::ZERO).is_some());
        assert_eq!(space.wish(near, near, limit, EXTEND_STEP_MAX, Duration::ZERO), None);
        space.on_extended(false);
        assert_eq!(space.written, near);
    }
}
