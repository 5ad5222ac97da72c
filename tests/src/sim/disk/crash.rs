//! What a crash leaves: of the bytes, of the names, and of the writes under way.

use std::{collections::BTreeSet, ops::Range};

use bytes::Bytes;
use catena_format::Position;
use catena_log::io::{FileName, Op};

use super::{
    BLOCK_BYTES, Disk, Event, Flight, Tearing,
    effects::zeros,
    folder::FileId,
    image::{Extent, Image},
    pages::Pages,
};
use crate::sim::fingerprint::Fingerprint;

/// How often a write that does not survive whole is torn, in a million.
const TORN_PER_MILLION: u32 = 600_000;

/// How often something that nothing is known of happens, in a million.
const EVEN_PER_MILLION: u32 = 500_000;

/// How everything ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// The machine's power is lost: what is not durable survives or not, each byte on its own.
    PowerLoss,
    /// The process dies: what took effect stays, what is under way may land later.
    ProcessKill,
}

/// A write of a dead process that will land, or what will of it.
#[derive(Clone, Debug)]
pub(super) struct LateWrite {
    pub(super) file: FileId,
    pub(super) life: u64,
    pub(super) at_ns: u64,
    position: u64,
    bytes: Bytes,
    pieces: Vec<Range<usize>>,
}

impl LateWrite {
    /// Feeds what will land of it, and where.
    pub(super) fn hash(&self, hash: &mut Fingerprint) {
        hash.numbers([self.position]);
        for piece in &self.pieces {
            hash.numbers([piece.start as u64]);
            hash.bytes(&self.bytes[piece.clone()]);
        }
    }
}

impl Disk {
    /// Ends every life on this disk; no operation under way is heard of again.
    pub fn crash(&mut self, now_ns: u64, crash: Crash) {
        self.run_to(now_ns);
        self.fingerprint.numbers([now_ns, 200 + crash as u64]);
        match crash {
            Crash::PowerLoss => self.lose_power(),
            Crash::ProcessKill => self.kill(None),
        }
    }

    /// Ends the life of one log: its operations are heard of no more, its writes may land later.
    pub fn kill_directory(&mut self, now_ns: u64, directory: u64) {
        self.run_to(now_ns);
        self.fingerprint.numbers([now_ns, 300, directory]);
        self.kill(Some(directory));
    }

    /// How many writes of dead processes have still to land.
    #[must_use]
    pub fn late_writes(&self) -> usize {
        self.late.len()
    }

    fn kill(&mut self, only: Option<u64>) {
        self.faults.count("process_kill");
        let dies = |directory: u64| only.is_none_or(|only| only == directory);
        self.ready.retain(|(directory, ..)| !dies(*directory));
        let dead: Vec<Flight> =
            self.flights.extract_if(.., |_, f| dies(f.directory)).map(|(_, f)| f).collect();
        for flight in dead.into_iter().filter(|flight| flight.result.is_none()) {
            self.outlive(flight);
        }
        self.completions += 1;
        for (_, folder) in self.folders.iter_mut().filter(|(directory, _)| dies(**directory)) {
            folder.complete_all(self.completions);
            for id in folder.files().collect::<BTreeSet<_>>() {
                let image = self.images.get_mut(&id).expect("a named file has an image");
                image.complete_all(self.completions);
                image.revert_forsaken();
            }
        }
        self.forget_events();
        self.sweep();
    }

    /// An operation that had not taken effect when its process died.
    fn outlive(&mut self, mut flight: Flight) {
        if let Some((name, position, bytes)) = payload(&flight.op) {
            self.outlive_write(flight, name, position, bytes);
        } else if is_change(&flight.op) && self.choice.chance(EVEN_PER_MILLION, "last change") {
            let _ = self.perform(&mut flight);
        }
    }

    fn outlive_write(
        &mut self,
        mut flight: Flight,
        name: FileName,
        position: Position,
        bytes: Bytes,
    ) {
        if !self.choice.chance(EVEN_PER_MILLION, "late write") {
            return;
        }
        flight.order = self.number();
        if flight.file.is_none() {
            flight.file = self.lookup(flight.directory, name);
        }
        let Ok(file) = self.open(&mut flight, name) else { return };
        let torn = self.options.tearing != Tearing::Whole
            && self.choice.chance(TORN_PER_MILLION, "torn late write");
        let pieces = if torn {
            self.pieces(bytes.len(), "late pieces")
        } else {
            std::iter::once(0..bytes.len()).collect()
        };
        let latency = &self.options.latency;
        let step_ns = latency.step_ns * latency.slow_factor;
        let wait_ns = latency.floor_ns
            + step_ns * self.choice.pick(latency.late_steps, "late write's moment") as u64;
        let at_ns = self.now_ns + wait_ns;
        let key = self.number();
        self.events.insert((at_ns, key), Event::Late(key));
        let position = position.get();
        self.late
            .insert(key, LateWrite { file, life: flight.life, at_ns, position, bytes, pieces });
        self.faults.count("late_write");
    }

    /// A late write lands; the device has it, so that the next sync takes it.
    pub(super) fn land_late(&mut self, key: u64) {
        let Some(late) = self.late.remove(&key) else { return };
        let order = self.number();
        self.completions += 1;
        self.fingerprint.numbers([self.now_ns, 400, late.file.0, late.position]);
        let image = self.images.get_mut(&late.file).expect("a late write's file has an image");
        for piece in late.pieces {
            let position = late.position + piece.start as u64;
            let bytes = late.bytes.slice(piece);
            let completed = Some(self.completions);
            image.land(Extent { order, position, bytes, completed, forsaken: false });
        }
    }

    fn forget_events(&mut self) {
        let (flights, late) = (&self.flights, &self.late);
        self.events.retain(|_, event| match event {
            Event::Effect(key) | Event::Completion(key) => flights.contains_key(key),
            Event::Late(key) => late.contains_key(key),
        });
    }

    fn lose_power(&mut self) {
        self.faults.count("power_loss");
        self.begin_all();
        let strengths = self.options.survival_per_million.len();
        let strength = self.choice.pick(strengths, "power loss");
        let survival = self.options.survival_per_million.get(strength).copied().unwrap_or(0);
        let Self { folders, choice, .. } = self;
        for folder in folders.values_mut() {
            folder.cut(|| choice.chance(survival, "name survives"));
        }
        self.events.clear();
        self.ready.clear();
        let named: BTreeSet<FileId> =
            self.folders.values().flat_map(super::Folder::files).collect();
        for id in named {
            let mut image = self.images.remove(&id).expect("a named file has an image");
            self.cut(&mut image, survival);
            self.images.insert(id, image);
        }
        self.sweep();
    }

    /// Whatever is under way may have begun: it joins what is unsynced, whose survival is open.
    fn begin_all(&mut self) {
        for key in self.late.keys().copied().collect::<Vec<_>>() {
            self.land_late(key);
        }
        for mut flight in std::mem::take(&mut self.flights).into_values() {
            if flight.result.is_some() {
                continue;
            }
            if let Some((name, position, bytes)) = payload(&flight.op) {
                flight.order = self.number();
                if flight.file.is_none() {
                    flight.file = self.lookup(flight.directory, name);
                }
                if let Ok(id) = self.open(&mut flight, name) {
                    self.land(id, flight.order, position.get(), bytes);
                }
            } else if is_change(&flight.op) {
                let _ = self.perform(&mut flight);
            }
        }
    }

    /// Cuts one file down to what is durable and what survives besides.
    fn cut(&mut self, image: &mut Image, survival: u32) {
        if image.is_settled() {
            return;
        }
        let extents = std::mem::take(&mut image.unsynced);
        if !extents.is_empty() {
            let length = self.surviving_length(image.durable.len() as u64, &extents);
            self.grow(&mut image.durable, length, &extents);
            for extent in extents.iter().filter(|extent| !extent.forsaken) {
                // Nothing is open where the same bytes stand already.
                let part = extent.part(0..length);
                if part.is_none_or(|p| image.durable.holds(p.position as usize, &p.bytes)) {
                    continue;
                }
                for piece in self.surviving_pieces(extent.bytes.len(), survival) {
                    let start = extent.position + piece.start as u64;
                    let end = (extent.position + piece.end as u64).min(length);
                    if start < end {
                        let bytes = &extent.bytes[piece.start..][..(end - start) as usize];
                        image.durable.write_at(start as usize, bytes);
                    }
                }
            }
        }
        image.settle();
    }

    fn surviving_pieces(&mut self, bytes: usize, survival: u32) -> Vec<Range<usize>> {
        if self.choice.chance(survival, "bytes survive") {
            return std::iter::once(0..bytes).collect();
        }
        let tears = self.options.tearing != Tearing::Whole && survival > 0;
        if tears && self.choice.chance(TORN_PER_MILLION, "bytes are torn") {
            return self.pieces(bytes, "torn pieces");
        }
        Vec::new()
    }

    /// The length after a power loss: the durable one, or one that unsynced writes reached.
    fn surviving_length(&mut self, durable: u64, extents: &[Extent]) -> u64 {
        let ends: BTreeSet<u64> = extents.iter().map(|extent| extent.range().end).collect();
        let lengths: Vec<u64> =
            std::iter::once(durable).chain(ends.into_iter().filter(|end| *end > durable)).collect();
        let length = lengths[self.choice.pick(lengths.len(), "length")];
        let blocks = (length - durable) / BLOCK_BYTES;
        let inside = self.options.tearing == Tearing::Sectors
            && blocks > 1
            && self.choice.chance(EVEN_PER_MILLION / 2, "length inside");
        if inside {
            return durable
                + self.choice.pick(blocks as usize, "length inside") as u64 * BLOCK_BYTES;
        }
        length
    }

    /// Grows a file without its bytes: by zeros, or by what free blocks held.
    fn grow(&mut self, durable: &mut Pages, length: u64, extents: &[Extent]) {
        let before = durable.len() as u64;
        durable.grow(length as usize);
        if !self.options.stale_blocks || self.removed.is_empty() {
            return;
        }
        for extent in extents {
            let range = extent.range().start.max(before)..extent.range().end.min(length);
            if range.start < range.end && self.choice.chance(EVEN_PER_MILLION, "stale blocks") {
                let stale = &self.removed[self.choice.pick(self.removed.len(), "stale file")];
                show_stale(durable, range, stale);
                self.faults.count("stale_blocks");
            }
        }
    }
}

/// What a write or an extension lets land, and where.
fn payload(op: &Op<Bytes>) -> Option<(FileName, Position, Bytes)> {
    match op {
        Op::Write { file, position, bytes, .. } => Some((*file, *position, bytes.clone())),
        Op::Extend { file, from, to } | Op::Release { file, from, to } => {
            Some((*file, *from, zeros(to.get() - from.get())))
        }
        _ => None,
    }
}

fn is_change(op: &Op<Bytes>) -> bool {
    matches!(op, Op::Rename { .. } | Op::Remove { .. })
}

/// Fills a range with the blocks of another file, those at the same positions first.
fn show_stale(image: &mut Pages, range: Range<u64>, stale: &Pages) {
    let block = BLOCK_BYTES as usize;
    let range = range.start as usize..range.end as usize;
    for at in range.clone().step_by(block) {
        let start = at % stale.len();
        let bytes = stale.read(start..stale.len().min(start + block.min(range.end - at)));
        image.write_at(at, &bytes);
    }
}
