//! How fast a joiner is given what has to be read from the disk: no faster than is allowed, so that
//! producers and consumers keep theirs.

use catena_log::{Now, io::Memory};

use super::{Replica, State};

/// What a joiner may be given.
#[derive(Default)]
pub(super) struct CatchUp {
    /// Bytes that may still be read for it; none where the last read brought more than was left.
    allowed: i64,
    /// To the log, when something was allowed last; nothing, since it was in memory.
    appended: Option<u64>,
    is_waiting: bool,
}

impl CatchUp {
    /// Whether the next read has to wait; what is in memory has not.
    pub(super) fn waits(&mut self, in_memory: bool) -> bool {
        if in_memory {
            *self = Self::default();
        }
        self.is_waiting = !in_memory && self.allowed <= 0;
        self.is_waiting
    }

    pub(super) fn copied(&mut self, bytes: usize) {
        self.allowed = self.allowed.saturating_sub_unsigned(bytes as u64);
    }

    /// So many bytes may be read, and as many as came to the log since the last time: otherwise who
    /// joins a log that grows faster would never come to its end.
    fn allow(&mut self, bytes: u64, appended: u64) {
        let before = self.appended.replace(appended).unwrap_or(appended);
        let gained = appended.saturating_sub(before);
        self.is_waiting = false;
        self.allowed = self.allowed.min(0).saturating_add_unsigned(bytes.saturating_add(gained));
    }
}

impl<M: Memory + Clone> Replica<M> {
    /// Whether a joiner waits for [`Replica::on_copies_allowed`].
    pub fn waits_to_copy(&self) -> bool {
        self.catch_up.is_waiting
    }

    /// Of what lies on the disk so many bytes may be read for who joins, and as many as were
    /// appended since this was last said; what was allowed before and not read is forfeited.
    pub fn on_copies_allowed(&mut self, bytes: u64, now: Now) {
        if let State::Open(log) = &self.state {
            self.catch_up.allow(bytes, log.stats().bytes_appended);
        }
        self.go_on(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_joiner_gains_what_is_allowed_on_a_log_that_grows() {
        let mut catch_up = CatchUp::default();
        assert!(!catch_up.waits(true), "what is in memory does not wait");
        assert!(catch_up.waits(false));
        catch_up.allow(100, 5_000_000);
        catch_up.copied(100);
        assert!(catch_up.waits(false), "what was appended before does not count");
        catch_up = CatchUp::default();
        catch_up.allow(100, 0);
        assert!(!catch_up.waits(false));
        // One read brings more; twice what is allowed has to come before the next.
        catch_up.copied(250);
        catch_up.allow(100, 0);
        assert!(catch_up.waits(false));
        catch_up.allow(100, 0);
        assert!(!catch_up.waits(false));
        // What was not used is not saved up, and what was appended counts once.
        catch_up.allow(100, 1_000);
        catch_up.copied(1_100);
        assert!(catch_up.waits(false));
        catch_up.allow(100, 1_000);
        catch_up.copied(99);
        assert!(!catch_up.waits(false));
        // Whoever has come to what is in memory is not given for later what is appended then.
        assert!(!catch_up.waits(true));
        catch_up.allow(100, 9_000);
        catch_up.copied(100);
        assert!(catch_up.waits(false));
    }
}
