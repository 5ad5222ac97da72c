//! Which fault comes when, and how a write suffers it.

use std::{collections::BTreeMap, ops::Range};

use catena_log::io::{FileName, IoError};

use super::{
    BLOCK_BYTES, Disk, EIO, FaultKind, FaultOptions, SECTOR_BYTES, Tearing,
    atlas::DamageKind,
    folder::FileId,
    image::{Scar, sectors},
};

/// The faults of a run, what is left of their budgets, and what came.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    options: FaultOptions,
    counts: BTreeMap<&'static str, u64>,
}

impl Faults {
    pub(super) fn new(options: FaultOptions) -> Self {
        Self { options, counts: BTreeMap::new() }
    }

    pub(super) fn set(&mut self, options: FaultOptions) {
        self.options = options;
    }

    pub(super) fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }

    pub(super) fn count(&mut self, name: &'static str) {
        *self.counts.entry(name).or_default() += 1;
    }

    /// Whether silent faults may strike `name`.
    pub(super) fn silent_in(&self, name: FileName) -> bool {
        self.options.silent_in.contains(name)
    }

    fn per_million(&self, kind: FaultKind) -> u32 {
        let fault = self.options.kinds.get(&kind).filter(|fault| fault.budget > 0);
        fault.map_or(0, |fault| fault.per_million)
    }

    fn spend(&mut self, kind: FaultKind) {
        self.count(kind.name());
        if let Some(fault) = self.options.kinds.get_mut(&kind) {
            fault.budget -= 1;
        }
    }
}

/// What becomes of a write.
#[derive(Debug)]
pub(super) enum Fate {
    /// It lands.
    Lands,
    /// It fails, and these pieces of it land.
    Fails(IoError, Vec<Range<usize>>),
    /// It succeeds and lands nowhere.
    Lost,
    /// It succeeds and lands there.
    Misdirected(u64),
}

impl Disk {
    /// Whether a fault comes now; if so it is paid for.
    pub(super) fn strike(&mut self, kind: FaultKind) -> bool {
        self.strike_times(kind, 1)
    }

    /// The same, where it is so many times as likely.
    pub(super) fn strike_times(&mut self, kind: FaultKind, times: u32) -> bool {
        let strikes = self.choice.chance(self.faults.per_million(kind) * times, kind.name());
        if strikes {
            self.faults.spend(kind);
            self.fingerprint.numbers([self.now_ns, 100 + kind as u64]);
        }
        strikes
    }

    /// What becomes of a write of `range` to the file `id`, which may go wrong in silence.
    pub(super) fn fate(&mut self, id: FileId, range: &Range<u64>, silent: bool) -> Fate {
        let bytes = (range.end - range.start) as usize;
        if let Some(room) = self.room_for(id, range) {
            self.faults.count("capacity");
            let part = room / SECTOR_BYTES as u64 * SECTOR_BYTES as u64;
            return Fate::Fails(IoError::NoSpace, std::iter::once(0..part as usize).collect());
        }
        if self.strike(FaultKind::NoSpace) {
            return Fate::Fails(IoError::NoSpace, self.prefix(bytes));
        }
        if self.strike(FaultKind::WriteError) {
            return Fate::Fails(EIO, self.pieces(bytes, "failed write"));
        }
        if self.strike(FaultKind::ShortWrite) {
            return Fate::Fails(IoError::ShortWrite, self.prefix(bytes));
        }
        if silent {
            return self.silent_fate(id, range);
        }
        Fate::Lands
    }

    fn silent_fate(&mut self, id: FileId, range: &Range<u64>) -> Fate {
        if self.strike(FaultKind::LostWrite) {
            return Fate::Lost;
        }
        let bytes = range.end - range.start;
        let length = self.images[&id].live_bytes();
        let places = (length.saturating_sub(bytes) / BLOCK_BYTES) as usize;
        if range.end <= length && places > 0 && self.strike(FaultKind::MisdirectedWrite) {
            let place = self.choice.pick(places, "misdirected write") as u64 * BLOCK_BYTES;
            let beyond = if place >= range.start { BLOCK_BYTES } else { 0 };
            return Fate::Misdirected(place + beyond);
        }
        Fate::Lands
    }

    /// How much of a write fits when not all of it does.
    fn room_for(&self, id: FileId, range: &Range<u64>) -> Option<u64> {
        let capacity = self.options.capacity_bytes?;
        let growth = self.images[&id].growth(range);
        let files = self.folders.values().flat_map(|folder| folder.live.values());
        let used: u64 = files.map(|file| self.images[file].live_bytes()).sum();
        let free = capacity.saturating_sub(used);
        let bytes = range.end - range.start;
        (growth > free).then(|| (bytes + free).saturating_sub(growth))
    }

    /// The first sectors of a write, up to all but one.
    fn prefix(&mut self, bytes: usize) -> Vec<Range<usize>> {
        let count = match self.options.tearing {
            Tearing::Whole => 0,
            Tearing::Halves => sectors(bytes) / 2 * self.choice.pick(2, "prefix"),
            Tearing::Sectors => self.choice.pick(sectors(bytes), "prefix"),
        };
        std::iter::once(0..(count * SECTOR_BYTES).min(bytes)).collect()
    }

    /// The pieces of a write that land when it is torn.
    pub(super) fn pieces(&mut self, bytes: usize, what: &str) -> Vec<Range<usize>> {
        match self.options.tearing {
            Tearing::Whole if self.choice.pick(2, what) == 0 => Vec::new(),
            Tearing::Whole => std::iter::once(0..bytes).collect(),
            Tearing::Halves => self.halves(bytes, what),
            Tearing::Sectors => self.runs(bytes, what),
        }
    }

    fn halves(&mut self, bytes: usize, what: &str) -> Vec<Range<usize>> {
        let middle = (sectors(bytes) / 2 * SECTOR_BYTES).min(bytes);
        let chosen = self.choice.pick(4, what);
        let halves = [0..middle, middle..bytes];
        halves
            .into_iter()
            .enumerate()
            .filter(|(i, _)| chosen & (1 << i) != 0)
            .map(|h| h.1)
            .collect()
    }

    /// Runs of sectors that land and runs that don't, by turns.
    fn runs(&mut self, bytes: usize, what: &str) -> Vec<Range<usize>> {
        let mut pieces = Vec::new();
        let mut lands = self.choice.pick(2, what) == 1;
        let mut start = 0;
        while start < bytes {
            let longest = (1_usize << self.choice.pick(8, what)).min(sectors(bytes - start));
            let run = 1 + self.choice.pick(longest, what);
            let end = (start + run * SECTOR_BYTES).min(bytes);
            if lands {
                pieces.push(start..end);
            }
            lands = !lands;
            start = end;
        }
        pieces
    }

    /// Notes a damaged range.
    pub(super) fn scar(&mut self, id: FileId, range: Range<u64>, kind: DamageKind, order: u64) {
        let at_ns = self.now_ns;
        if let Some(image) = self.images.get_mut(&id) {
            image.scars.push(Scar { range, kind, at_ns, order });
        }
    }

    /// A bit of some durable byte may turn.
    pub(super) fn rot(&mut self) {
        let chance = self.faults.per_million(FaultKind::BitFlip);
        if !self.choice.chance(chance, FaultKind::BitFlip.name()) {
            return;
        }
        let kinds = self.faults.options.silent_in;
        let names = self.folders.values().flat_map(|folder| &folder.live);
        let files: Vec<FileId> =
            names.filter(|(name, _)| kinds.contains(**name)).map(|(_, id)| *id).collect();
        if let Some(&id) = files.get(self.choice.pick(files.len(), "rotten file")) {
            let length = self.images[&id].durable.len();
            let position = self.choice.pick(length, "rotten byte") as u64;
            let bit = self.choice.pick(8, "rotten bit") as u8;
            if self.flip(id, position, bit) {
                self.faults.spend(FaultKind::BitFlip);
            }
        }
    }

    /// Turns a bit of a file's both images now; false when there is no durable byte.
    pub fn flip_bit(&mut self, directory: u64, file: FileName, position: u64, bit: u8) -> bool {
        assert!(bit < 8, "a byte has eight bits");
        let Some(id) = self.lookup(directory, file) else { return false };
        let flipped = self.flip(id, position, bit);
        if flipped {
            self.faults.count(FaultKind::BitFlip.name());
        }
        flipped
    }

    /// A file is again what it was, live and durable; false when something is on its way to it.
    pub fn put_back(&mut self, directory: u64, file: FileName, bytes: &[u8]) -> bool {
        let Some(id) = self.lookup(directory, file) else { return false };
        let image = self.images.get_mut(&id).expect("a named file has an image");
        let settled = image.is_settled();
        if settled {
            image.put_back(bytes);
            self.fingerprint.numbers([self.now_ns, id.0]);
            self.fingerprint.bytes(bytes);
        }
        settled
    }

    fn flip(&mut self, id: FileId, position: u64, bit: u8) -> bool {
        let now_ns = self.now_ns;
        let order = self.number();
        let image = self.images.get_mut(&id).expect("a named file has an image");
        let flipped = image.flip(position, bit);
        if flipped {
            self.fingerprint.numbers([now_ns, id.0, position, u64::from(bit)]);
            self.scar(id, position..position + 1, DamageKind::BitFlip, order);
        }
        flipped
    }
}
