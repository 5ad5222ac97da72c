//! A disk with a volatile cache, in memory: what is written is read back at once, and is on the
//! medium after the next flush only.
//!
//! ```text
//! write ─► live image, unsynced writes ─ flush ─► durable image
//!                           └─ cut: each kept, torn or dropped ─► durable image ─ on ─► live image
//! ```

use std::{
    collections::BTreeMap,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::sim::random::{MILLION, Random};

/// What a disk never writes a part of.
const SECTOR_BYTES: usize = 512;
/// The disk's first block is never torn: there ext4 has its superblock, which it writes in place
/// and takes for atomic. With two of its sectors from two writes it mounts no more.
const SUPERBLOCK_BYTES: usize = 4096;

/// The disk has failed, or it is off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the disk answers with an error")]
pub struct Failed;

/// A request that the disk counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Request {
    /// Bytes to write.
    Write,
    /// What was written before is to be durable.
    Flush,
}

/// What befalls a request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// The power goes: the request is under way, and nothing is answered until it is back.
    Cut,
    /// The request fails. Of a write any sectors may be there all the same.
    Error,
}

/// How a power cut treats what is in the cache, in parts of a million: kept, else torn, else
/// dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Odds {
    /// Writes that reach the medium.
    pub kept: u32,
    /// Of the others, those of which any sectors do.
    pub torn: u32,
}

/// What a disk has seen.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Writes that were carried out.
    pub writes: u64,
    /// Flushes that were.
    pub flushes: u64,
    /// Writes in the cache when the power went: kept, torn, dropped.
    pub fates: BTreeMap<&'static str, u64>,
}

/// A disk; any thread may use it.
#[derive(Debug)]
pub struct Disk {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug)]
struct Inner {
    live: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Write>,
    is_on: bool,
    /// Flushes are answered and not carried out.
    lies: bool,
    /// How long a write or a flush takes.
    delay: Duration,
    /// Requests that wait because of it.
    waiting: u64,
    plan: Option<Plan>,
    random: Random,
    odds: Odds,
    counts: Counts,
}

#[derive(Debug)]
struct Write {
    offset: usize,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    request: Request,
    /// So many of them go well before.
    spare: u64,
    fault: Fault,
}

impl Disk {
    /// A disk of zeros. Memory is taken for what is written.
    #[must_use]
    pub fn new(bytes: usize, random: Random) -> Self {
        let inner = Inner {
            live: vec![0; bytes],
            durable: vec![0; bytes],
            unsynced: Vec::new(),
            is_on: true,
            lies: false,
            delay: Duration::ZERO,
            waiting: 0,
            plan: None,
            random,
            odds: Odds { kept: MILLION / 3, torn: MILLION / 2 },
            counts: Counts::default(),
        };
        Self { inner: Mutex::new(inner), changed: Condvar::new() }
    }

    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lock().live.len()
    }

    /// Reads `bytes` from `offset` on; less at the end.
    ///
    /// # Errors
    /// When the disk is off.
    pub fn read(&self, offset: u64, bytes: usize) -> Result<Vec<u8>, Failed> {
        let inner = self.lock();
        if !inner.is_on {
            return Err(Failed);
        }
        let begin = usize::try_from(offset).unwrap_or(usize::MAX).min(inner.live.len());
        let end = begin.saturating_add(bytes).min(inner.live.len());
        Ok(inner.live[begin..end].to_vec())
    }

    /// Writes into the cache.
    ///
    /// # Errors
    /// When the disk is off, the bytes lie outside, or the request fails as it was planned.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Failed> {
        let mut inner = self.lock();
        let offset = usize::try_from(offset).map_err(|_| Failed)?;
        let end = offset.checked_add(bytes.len()).ok_or(Failed)?;
        if !inner.is_on || end > inner.live.len() {
            return Err(Failed);
        }
        match inner.fault(Request::Write) {
            None => inner.take(Write { offset, bytes: bytes.to_vec() }),
            Some(Fault::Error) => {
                let torn = inner.tear(Write { offset, bytes: bytes.to_vec() });
                torn.into_iter().for_each(|write| inner.take(write));
                self.changed.notify_all();
                return Err(Failed);
            }
            Some(Fault::Cut) => {
                inner.take(Write { offset, bytes: bytes.to_vec() });
                inner.cut();
                self.changed.notify_all();
                return Err(Failed);
            }
        }
        inner.counts.writes += 1;
        Ok(())
    }

    /// Makes durable what was written before.
    ///
    /// # Errors
    /// When the disk is off, or the request fails as it was planned; nothing is durable then.
    pub fn flush(&self) -> Result<(), Failed> {
        let mut inner = self.lock();
        if !inner.is_on {
            return Err(Failed);
        }
        match inner.fault(Request::Flush) {
            None => {}
            Some(fault) => {
                if fault == Fault::Cut {
                    inner.cut();
                }
                self.changed.notify_all();
                return Err(Failed);
            }
        }
        inner.counts.flushes += 1;
        if !inner.lies {
            for write in std::mem::take(&mut inner.unsynced) {
                inner.store(&write);
            }
        }
        Ok(())
    }

    /// From now on a write or a flush takes so long, one after the other.
    pub fn slow(&self, delay: Duration) {
        self.lock().delay = delay;
    }

    /// How long a write or a flush takes.
    #[must_use]
    pub fn delay(&self) -> Duration {
        self.lock().delay
    }

    /// A request waits until the slow disk has time for it.
    pub(super) fn waits(&self) {
        self.lock().waiting += 1;
    }

    /// It was carried out.
    pub(super) fn waited(&self) {
        self.lock().waiting -= 1;
    }

    /// How many requests wait.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.lock().waiting
    }

    /// From now on flushes are answered, and nothing becomes durable by them.
    pub fn lie(&self) {
        self.lock().lies = true;
    }

    /// After `spare` more requests of a kind the next one meets a fault.
    pub fn plan(&self, request: Request, spare: u64, fault: Fault) {
        self.lock().plan = Some(Plan { request, spare, fault });
    }

    /// Waits until what was planned has come, or for so long; whether it has.
    #[must_use]
    pub fn wait_for_plan(&self, patience: Duration) -> bool {
        let inner = self.lock();
        let (inner, _) = self
            .changed
            .wait_timeout_while(inner, patience, |inner| inner.plan.is_some())
            .unwrap_or_else(PoisonError::into_inner);
        inner.plan.is_none()
    }

    /// How the next cuts treat the cache.
    pub fn treat(&self, odds: Odds) {
        self.lock().odds = odds;
    }

    /// Cuts the power, if it is on.
    pub fn cut(&self) {
        let mut inner = self.lock();
        if inner.is_on {
            inner.cut();
        }
    }

    /// Switches the disk on again: it holds what is durable. No plan and no lie is left.
    pub fn switch_on(&self) {
        let mut inner = self.lock();
        inner.is_on = true;
        inner.lies = false;
        inner.plan = None;
    }

    /// Whether it has power.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.lock().is_on
    }

    /// What it has seen.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.lock().counts.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no user of the disk panics with it")
    }
}

impl Inner {
    /// What befalls this request.
    fn fault(&mut self, request: Request) -> Option<Fault> {
        let plan = self.plan.as_mut().filter(|plan| plan.request == request)?;
        if plan.spare > 0 {
            plan.spare -= 1;
            return None;
        }
        self.plan.take().map(|plan| plan.fault)
    }

    fn take(&mut self, write: Write) {
        self.live[write.range()].copy_from_slice(&write.bytes);
        self.unsynced.push(write);
    }

    fn store(&mut self, write: &Write) {
        self.durable[write.range()].copy_from_slice(&write.bytes);
    }

    /// Any sectors of a write, each a write of its own.
    fn tear(&mut self, write: Write) -> Vec<Write> {
        let whole = write.offset < SUPERBLOCK_BYTES;
        let unit = if whole { SUPERBLOCK_BYTES } else { SECTOR_BYTES };
        let units = write.bytes.chunks(unit).enumerate();
        let reach = units.filter(|_| self.random.chance(MILLION / 2));
        let at = |index| write.offset + index * unit;
        reach.map(|(index, bytes)| Write { offset: at(index), bytes: bytes.to_vec() }).collect()
    }

    fn cut(&mut self) {
        self.is_on = false;
        self.plan = None;
        let unsynced = std::mem::take(&mut self.unsynced);
        let ranges: Vec<_> = unsynced.iter().map(Write::range).collect();
        for write in unsynced {
            let odds = self.odds;
            let fate = if self.random.chance(odds.kept) {
                self.store(&write);
                "kept"
            } else if self.random.chance(odds.torn) {
                let torn = self.tear(write);
                torn.iter().for_each(|write| self.store(write));
                "torn"
            } else {
                "dropped"
            };
            *self.counts.fates.entry(fate).or_default() += 1;
        }
        for range in ranges {
            self.live[range.clone()].copy_from_slice(&self.durable[range]);
        }
    }
}

impl Write {
    fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 1 << 20;

    fn disk(odds: Odds) -> Disk {
        let disk = Disk::new(BYTES, Random::new(1));
        disk.treat(odds);
        disk
    }

    fn byte(disk: &Disk, at: u64) -> u8 {
        disk.read(at, 1).unwrap()[0]
    }

    #[test]
    fn what_was_flushed_survives_a_cut_and_the_rest_as_the_odds_say() {
        for (kept, there) in [(MILLION, 2), (0, 1)] {
            let disk = disk(Odds { kept, torn: 0 });
            disk.write(4096, &[1; 4096]).unwrap();
            disk.flush().unwrap();
            disk.write(4096, &[2; 4096]).unwrap();
            assert_eq!(byte(&disk, 5000), 2, "what is written is read back at once");
            disk.cut();
            assert_eq!(disk.read(4096, 1), Err(Failed));
            assert_eq!(disk.write(0, &[3]), Err(Failed));
            assert_eq!(disk.flush(), Err(Failed));
            disk.switch_on();
            assert_eq!(byte(&disk, 5000), there);
            assert_eq!(byte(&disk, 0), 0);
        }
    }

    #[test]
    fn a_torn_write_has_old_and_new_sectors() {
        let disk = disk(Odds { kept: 0, torn: MILLION });
        let first = SUPERBLOCK_BYTES as u64;
        disk.write(0, &[2; SUPERBLOCK_BYTES]).unwrap();
        disk.write(first, &vec![1; BYTES - SUPERBLOCK_BYTES]).unwrap();
        disk.cut();
        disk.switch_on();
        let image = disk.read(first, BYTES).unwrap();
        let sectors = || image.chunks(SECTOR_BYTES);
        assert!(sectors().all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        let new = sectors().filter(|sector| sector[0] == 1).count();
        assert!((100..sectors().len() - 100).contains(&new), "{new} sectors are new");
        let superblock = disk.read(0, SUPERBLOCK_BYTES).unwrap();
        assert!(superblock.iter().all(|byte| *byte == superblock[0]));
    }

    #[test]
    fn a_lying_disk_answers_flushes_and_loses_what_they_covered() {
        let disk = disk(Odds { kept: 0, torn: 0 });
        disk.lie();
        disk.write(0, &[1; 512]).unwrap();
        disk.flush().unwrap();
        disk.cut();
        disk.switch_on();
        assert_eq!(byte(&disk, 0), 0);
        disk.write(0, &[1; 512]).unwrap();
        disk.flush().unwrap();
        disk.cut();
        disk.switch_on();
        assert_eq!(byte(&disk, 0), 1, "it lies no more");
    }

    #[test]
    fn what_is_planned_befalls_the_request_that_was_named() {
        let disk = disk(Odds { kept: 0, torn: 0 });
        disk.plan(Request::Flush, 1, Fault::Error);
        disk.write(0, &[1; 512]).unwrap();
        disk.flush().unwrap();
        disk.write(512, &[1; 512]).unwrap();
        assert!(!disk.wait_for_plan(Duration::ZERO));
        assert_eq!(disk.flush(), Err(Failed));
        assert!(disk.wait_for_plan(Duration::ZERO));
        disk.plan(Request::Write, 0, Fault::Cut);
        assert_eq!(disk.write(1024, &[1; 512]), Err(Failed));
        disk.switch_on();
        assert_eq!([0, 512, 1024].map(|at| byte(&disk, at)), [1, 0, 0]);
    }
}
