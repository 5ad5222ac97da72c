//! Memory for direct I/O, within a budget.

use std::{cell::Cell, ops::Range, rc::Rc};

use catena_log::io::{Memory, MemoryExhausted, unreserved};
use glommio::{
    io::{DmaBuffer, DmaFile, ReadResult},
    sync::{Semaphore, StaticPermit},
};

/// Direct I/O buffers of one executor; clones share the budget.
#[derive(Clone)]
pub struct DmaMemory {
    // Buffers come only from a file; this one is only kept for that.
    source: Rc<DmaFile>,
    used: Rc<Cell<usize>>,
    budget: usize,
    /// What reads may still take: half of the budget is theirs at most.
    reads: Rc<Semaphore>,
}

/// The least that a read counts, so that there are not too many at once.
const READ_BYTES_MIN: usize = 64 << 10;

/// A buffer owned alone.
pub struct Buffer {
    buffer: DmaBuffer,
    charge: Charge,
}

/// What a buffer costs until its last share is gone.
struct Charge {
    bytes: usize,
    used: Rc<Cell<usize>>,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.used.set(self.used.get() - self.bytes);
    }
}

/// Names a buffer for as long as there are shares of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BufferId(usize);

/// Frozen bytes: of a buffer that was filled here, or as they were read.
#[derive(Clone)]
pub struct Share(Inner);

#[derive(Clone)]
enum Inner {
    Written { buffer: Rc<DmaBuffer>, charge: Rc<Charge>, range: Range<usize> },
    Read { read: ReadResult, charge: Rc<ReadCharge> },
    Empty,
}

/// What bytes that were read cost until their last share is gone.
pub(crate) struct ReadCharge {
    _charge: Charge,
    /// What other reads cannot have meanwhile.
    bytes: usize,
    /// Of what all reads together may take.
    _permit: StaticPermit,
}

impl DmaMemory {
    /// Memory from `source`'s executor, `budget` bytes at most.
    pub(crate) fn new(source: Rc<DmaFile>, budget: usize) -> Self {
        let reads = Rc::new(Semaphore::new((budget / 2) as u64));
        Self { source, used: Rc::new(Cell::new(0)), budget, reads }
    }

    /// Waits until reads may take as much, in the order of asking. A read that waited is not
    /// refused for what writes take: they find less then, and caches are given back.
    pub(crate) async fn for_read(&self, bytes: usize) -> Option<ReadCharge> {
        let reserved = bytes.max(READ_BYTES_MIN).min(self.reads_max());
        let permit = self.reads.acquire_static_permit(reserved as u64).await.ok()?;
        self.used.set(self.used.get() + bytes);
        let charge = Charge { bytes, used: self.used.clone() };
        Some(ReadCharge { _charge: charge, bytes: reserved, _permit: permit })
    }

    fn take(&self, bytes: usize, most: usize) -> Result<Buffer, MemoryExhausted> {
        let used = self.used.get() + bytes;
        if used > most {
            return Err(MemoryExhausted);
        }
        self.used.set(used);
        let charge = Charge { bytes, used: self.used.clone() };
        Ok(Buffer { buffer: self.source.alloc_dma_buffer(bytes), charge })
    }

    fn reads_max(&self) -> usize {
        self.budget / 2
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.get()
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_bytes()
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        self.buffer.as_bytes_mut()
    }
}

impl AsRef<[u8]> for Share {
    fn as_ref(&self) -> &[u8] {
        match &self.0 {
            Inner::Written { buffer, range, .. } => &buffer.as_bytes()[range.clone()],
            Inner::Read { read, .. } => read,
            Inner::Empty => &[],
        }
    }
}

impl Share {
    /// What a read brought, cut to `bytes`.
    pub(crate) fn of_read(read: &ReadResult, bytes: usize, charge: ReadCharge) -> Self {
        let cut = if bytes == 0 { None } else { ReadResult::slice(read, 0, bytes) };
        let charge = Rc::new(charge);
        Self(cut.map_or(Inner::Empty, |read| Inner::Read { read, charge }))
    }

    /// What a read brought behind the end of a file.
    pub(crate) fn empty() -> Self {
        Self(Inner::Empty)
    }

    /// The memory that shares keep from being used for anything else: that of their whole buffers.
    /// A buffer counts once for shares of it that stand side by side.
    pub fn held(shares: &[Self]) -> usize {
        let mut last = None;
        let buffers = shares.iter().filter_map(Self::buffer);
        buffers
            .filter(|buffer| last.replace(*buffer) != Some(*buffer))
            .map(|(_, bytes)| bytes)
            .sum()
    }

    /// Which buffer it is of, and how much memory that takes.
    pub fn buffer(&self) -> Option<(BufferId, usize)> {
        match &self.0 {
            Inner::Written { charge, .. } => {
                Some((BufferId(Rc::as_ptr(charge).addr()), charge.bytes))
            }
            Inner::Read { charge, .. } => Some((BufferId(Rc::as_ptr(charge).addr()), charge.bytes)),
            Inner::Empty => None,
        }
    }

    /// The whole buffer, if the share is one.
    pub(crate) fn whole_buffer(&self) -> Option<Rc<DmaBuffer>> {
        match &self.0 {
            Inner::Written { buffer, range, .. } if *range == (0..buffer.len()) => {
                Some(buffer.clone())
            }
            _ => None,
        }
    }
}

impl Memory for DmaMemory {
    type Buffer = Buffer;
    type Share = Share;

    fn allocate(&mut self, bytes: usize) -> Result<Buffer, MemoryExhausted> {
        self.take(bytes, unreserved(self.budget))
    }

    fn allocate_reserved(&mut self, bytes: usize) -> Result<Buffer, MemoryExhausted> {
        self.take(bytes, self.budget)
    }

    fn is_short(&self) -> bool {
        self.used.get() > self.budget - self.budget / 4
    }

    fn freeze(&mut self, buffer: Buffer, bytes: usize) -> Share {
        let Buffer { mut buffer, charge } = buffer;
        if bytes < buffer.len() {
            buffer.trim_to_size(bytes);
        }
        let range = 0..buffer.len();
        Share(Inner::Written { buffer: Rc::new(buffer), charge: Rc::new(charge), range })
    }

    fn slice(share: &Share, range: Range<usize>) -> Share {
        Share(match &share.0 {
            Inner::Written { buffer, charge, range: whole } => {
                let range = whole.start + range.start..whole.start + range.end;
                assert!(range.end <= whole.end, "a slice lies within its share");
                Inner::Written { buffer: buffer.clone(), charge: charge.clone(), range }
            }
            Inner::Read { read, charge } => ReadResult::slice(read, range.start, range.len())
                .filter(|_| !range.is_empty())
                .map_or(Inner::Empty, |read| Inner::Read { read, charge: charge.clone() }),
            Inner::Empty => Inner::Empty,
        })
    }
}
