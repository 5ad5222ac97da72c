//! How far a segment's file is written with zeros ahead of the appends, and when to go further.

use std::time::Duration;

use catena_format::Position;

use crate::config::{EXTEND_STEP_MAX, EXTEND_STEP_MIN};

/// A step that was used up faster than this makes the next one larger.
const FAST: Duration = Duration::from_millis(500);
/// A step that lasted longer than this makes the next one smaller.
const SLOW: Duration = Duration::from_secs(10);

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
}

impl Space {
    /// Of a file that does not exist yet, or of a spare with `written` bytes.
    pub(crate) fn new(written: Position, ready: bool) -> Self {
        Self { written, extending: None, ready, step: EXTEND_STEP_MIN, last: None }
    }

    /// The range to extend next, when less than half a step is left ahead of `cursor`, or `needed`
    /// is not there; never beyond `limit` unless needed.
    pub(crate) fn wish(
        &mut self,
        cursor: Position,
        needed: Position,
        limit: Position,
        now: Duration,
    ) -> Option<(Position, Position)> {
        let ahead = self.written.get().saturating_sub(cursor.get());
        let short = needed > self.written || (ahead < self.step / 2 && self.written < limit);
        if !short || self.extending.is_some() {
            return None;
        }
        self.adapt(now);
        let to = self.written.plus(self.step).min(limit).max(needed);
        let to = to.align_up(EXTEND_STEP_MIN);
        self.extending = Some(to);
        Some((self.written, to))
    }

    fn adapt(&mut self, now: Duration) {
        if let Some(last) = self.last.replace(now) {
            let lasted = now.saturating_sub(last);
            if lasted < FAST {
                self.step = (self.step * 2).min(EXTEND_STEP_MAX);
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

    #[test]
    fn a_busy_log_extends_in_growing_steps_and_a_quiet_one_holds_little() {
        let limit = Position::new(1 << 30);
        let mut space = Space::new(Position::ZERO, true);
        let mut cursor = Position::new(4096);
        for millisecond in 0..20 {
            let now = Duration::from_millis(millisecond);
            space.wish(cursor, cursor, limit, now).unwrap();
            space.on_extended(true);
            cursor = space.written;
        }
        assert_eq!(space.step, EXTEND_STEP_MAX);
        for minute in 1..20 {
            let now = Duration::from_secs(minute * 60);
            space.wish(cursor, cursor, limit, now).unwrap();
            space.on_extended(true);
            cursor = space.written;
        }
        assert_eq!(space.step, EXTEND_STEP_MIN);
    }

    #[test]
    fn nothing_is_extended_while_enough_is_ahead_or_one_is_under_way() {
        let mut space = Space::new(Position::new(1 << 20), true);
        let (cursor, limit) = (Position::new(4096), Position::new(2 << 20));
        assert_eq!(space.wish(cursor, cursor, limit, Duration::ZERO), None);
        let near = Position::new(1 << 20);
        assert!(space.wish(near, near, limit, Duration::ZERO).is_some());
        assert_eq!(space.wish(near, near, limit, Duration::ZERO), None);
        space.on_extended(false);
        assert_eq!(space.written, near);
    }
}
