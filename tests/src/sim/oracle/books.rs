//! The books of one partition.

use std::collections::{BTreeMap, BTreeSet};

use catena_format::Epoch;

use super::Name;

/// The books of one partition.
#[derive(Debug, Default)]
pub(super) struct Books {
    /// What stands at an offset, for good, once anybody was told.
    pub(super) at: BTreeMap<u64, Name>,
    /// Where a record stands.
    pub(super) of: BTreeMap<Name, u64>,
    /// What was promised to stay.
    pub(super) acked: BTreeMap<Name, u64>,
    /// Behind the last of these.
    pub(super) promised: u64,
    /// The earliest that what stands at an offset can have been appended, by the node's clock.
    pub(super) times: BTreeMap<u64, i64>,
    /// When the batch that begins at an offset was appended, as the node said.
    append_times: BTreeMap<u64, i64>,
    /// Behind it append times went back, as they may where nothing before is kept.
    begun_anew: u64,
    /// What the node says to have, in memory at least: it stays once the disk has it.
    tentative: BTreeMap<u64, (Name, i64)>,
    /// What an earlier life said to have: there it stands, or nowhere.
    pub(super) doubtful: BTreeMap<Name, u64>,
    /// Producers that may have lost something so.
    pub(super) shaken: BTreeSet<u32>,
    /// Records that are sent, and nobody knows whether they are stored.
    pub(super) open: u64,
    /// In this life, once somebody was told.
    pub(super) epoch: Option<Epoch>,
    /// In the lives before.
    pub(super) past_epoch: Option<Epoch>,
    /// A receipt for less than all disks that is of an earlier one promises nothing.
    pub(super) least_epoch: Epoch,
    pub(super) log_start: u64,
    pub(super) high_watermark: u64,
    /// The greatest log start that anybody asked for.
    pub(super) trimmed: u64,
    /// What was said to be damaged: where, and up to where.
    pub(super) damaged: BTreeMap<u64, u64>,
}

impl Books {
    /// A record stands there for good.
    pub(super) fn place(&mut self, name: Name, offset: u64) -> Result<(), String> {
        if let Some(there) = self.at.insert(offset, name).filter(|there| *there != name) {
            return Err(format!("offset {offset} held {there:?} and now holds {name:?}"));
        }
        if let Some(there) = self.of.insert(name, offset).filter(|there| *there != offset) {
            return Err(format!("record {name:?} stands at {there} and at {offset}"));
        }
        self.agrees(name, offset)
    }

    /// Whether that is what was said of it before.
    fn agrees(&self, name: Name, offset: u64) -> Result<(), String> {
        if let Some((there, _)) = self.tentative.get(&offset).filter(|(there, _)| *there != name) {
            return Err(format!("offset {offset} was to hold {there:?} and holds {name:?}"));
        }
        if let Some(there) = self.doubtful.get(&name).filter(|there| **there != offset) {
            return Err(format!("record {name:?} was at {there} and is at {offset}"));
        }
        Ok(())
    }

    /// A record stands there, and is promised to stay.
    pub(super) fn promise(&mut self, name: Name, offset: u64, ms: i64) -> Result<(), String> {
        self.place(name, offset)?;
        self.times.entry(offset).or_insert(ms);
        self.acked.insert(name, offset);
        self.promised = self.promised.max(offset + 1);
        Ok(())
    }

    /// The batch there was appended then: no batch before it was later, of those that are kept.
    pub(super) fn appended(&mut self, offset: u64, ms: i64) -> Result<(), String> {
        let before = self.append_times.range(..offset).next_back();
        let behind = self.append_times.range(offset + 1..).next();
        if behind.is_some_and(|(_, at)| *at < ms) {
            return Err(format!("{offset} was appended at {ms}, and {behind:?} behind it"));
        }
        if let Some((later, _)) = before.filter(|(_, at)| **at > ms) {
            // What lies between may be new as well, and its receipt still on its way.
            self.begun_anew = later + 1;
            self.append_times = self.append_times.split_off(&offset);
        }
        self.append_times.insert(offset, ms);
        Ok(())
    }

    /// Somebody read what stands there.
    pub(super) fn kept(&self, offset: u64) -> Result<(), String> {
        if offset >= self.begun_anew {
            return Ok(());
        }
        let anew = self.begun_anew;
        Err(format!("{offset} is kept, and something behind {anew} was appended earlier"))
    }

    /// A record is to stand there once the disk has it.
    pub(super) fn hope(&mut self, name: Name, offset: u64, ms: i64) -> Result<(), String> {
        self.agrees(name, offset)?;
        let known = self.at.get(&offset).copied().filter(|there| *there != name);
        if known.is_some() || self.of.get(&name).is_some_and(|there| *there != offset) {
            return Err(format!("record {name:?} is to stand at {offset}, where {known:?} does"));
        }
        if offset < self.high_watermark {
            return self.promise(name, offset, ms);
        }
        self.tentative.insert(offset, (name, ms));
        Ok(())
    }

    /// Everything below `end` is on the disk.
    pub(super) fn durable_to(&mut self, end: u64) -> Result<(), String> {
        self.high_watermark = self.high_watermark.max(end);
        while let Some(first) = self.tentative.first_entry().filter(|first| *first.key() < end) {
            let (offset, (name, ms)) = first.remove_entry();
            self.promise(name, offset, ms)?;
        }
        Ok(())
    }

    /// What the log ends at, or behind.
    pub(super) fn least_end(&self) -> u64 {
        let tentative = self.tentative.last_key_value().map_or(0, |(offset, _)| offset + 1);
        let placed = self.at.last_key_value().map_or(0, |(offset, _)| offset + 1);
        tentative.max(placed).max(self.high_watermark)
    }

    /// The node has died; of several, another may be sent what only it had, and put it elsewhere.
    pub(super) fn crashed(&mut self, cluster: bool) {
        self.past_epoch = self.epoch.take().max(self.past_epoch);
        for (offset, (name, _)) in std::mem::take(&mut self.tentative) {
            self.shaken.insert(name.0);
            // Once more nobody knows.
            self.open += 1;
            if !cluster {
                self.doubtful.insert(name, offset);
            }
        }
    }
}
