//! What was done to a chain, counted.

use std::collections::BTreeMap;

/// What may befall a chain, or come of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs)]
pub enum Deed {
    Killed,
    PowerLost,
    PowerLostByAll,
    Wiped,
    Removed,
    Evicted,
    Stalled,
    Joining,
    Joined,
    Reordered,
    Silence,
    LinkBroken,
    LinkCut,
    StaleMessage,
    LogCut,
    BegunAnew,
    Trimmed,
    Repeated,
    Moved,
    TooFew,
    Poisoned,
    Confirmed,
}

impl Deed {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::Killed,
        Self::PowerLost,
        Self::PowerLostByAll,
        Self::Wiped,
        Self::Removed,
        Self::Evicted,
        Self::Stalled,
        Self::Joining,
        Self::Joined,
        Self::Reordered,
        Self::Silence,
        Self::LinkBroken,
        Self::LinkCut,
        Self::StaleMessage,
        Self::LogCut,
        Self::BegunAnew,
        Self::Trimmed,
        Self::Repeated,
        Self::Moved,
        Self::TooFew,
        Self::Poisoned,
        Self::Confirmed,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::PowerLost => "power_lost",
            Self::PowerLostByAll => "power_lost_by_all",
            Self::Wiped => "wiped",
            Self::Removed => "removed",
            Self::Evicted => "evicted",
            Self::Stalled => "stalled",
            Self::Joining => "joining",
            Self::Joined => "joined",
            Self::Reordered => "reordered",
            Self::Silence => "silence",
            Self::LinkBroken => "link_broken",
            Self::LinkCut => "link_cut",
            Self::StaleMessage => "stale_message",
            Self::LogCut => "log_cut",
            Self::BegunAnew => "begun_anew",
            Self::Trimmed => "trimmed",
            Self::Repeated => "repeated",
            Self::Moved => "moved",
            Self::TooFew => "too_few",
            Self::Poisoned => "poisoned",
            Self::Confirmed => "confirmed",
        }
    }
}

/// How often each.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Deeds(pub BTreeMap<&'static str, u64>);

impl Deeds {
    /// Once more.
    pub fn did(&mut self, deed: Deed) {
        self.add(deed, 1);
    }

    /// So many times more.
    pub fn add(&mut self, deed: Deed, times: u64) {
        if times > 0 {
            *self.0.entry(deed.name()).or_insert(0) += times;
        }
    }
}
