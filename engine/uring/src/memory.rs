//! Memory for direct I/O, within a budget.

use std::{cell::Cell, ops::Range, rc::Rc};

use catena_log::io::{Memory, MemoryExhausted};
use glommio::io::{DmaBuffer, DmaFile, ReadResult};

/// Direct I/O buffers of one executor; clones share the budget.
#[derive(Clone)]
pub struct DmaMemory {
    // Buffers come only from a file; this one is only kept for that.
    source: Rc<DmaFile>,
    used: Rc<Cell<usize>>,
    budget: usize,
}

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

/// Frozen bytes: of a buffer that was filled here, or as they were read.
#[derive(Clone)]
pub struct Share(Inner);

#[derive(Clone)]
enum Inner {
    Written { buffer: Rc<DmaBuffer>, charge: Rc<Charge>, range: Range<usize> },
    Read(ReadResult),
    Empty,
}

impl DmaMemory {
    /// Memory from `source`'s executor, `budget` bytes at most.
    pub(crate) fn new(source: Rc<DmaFile>, budget: usize) -> Self {
        Self { source, used: Rc::new(Cell::new(0)), budget }
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
            Inner::Read(read) => read,
            Inner::Empty => &[],
        }
    }
}

impl Share {
    /// What a read brought, cut to `bytes`.
    pub(crate) fn of_read(read: &ReadResult, bytes: usize) -> Self {
        let cut = if bytes == 0 { None } else { ReadResult::slice(read, 0, bytes) };
        Self(cut.map_or(Inner::Empty, Inner::Read))
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
        let used = self.used.get() + bytes;
        if used > self.budget {
            return Err(MemoryExhausted);
        }
        self.used.set(used);
        let charge = Charge { bytes, used: self.used.clone() };
        Ok(Buffer { buffer: self.source.alloc_dma_buffer(bytes), charge })
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
            Inner::Read(read) => ReadResult::slice(read, range.start, range.len())
                .filter(|_| !range.is_empty())
                .map_or(Inner::Empty, Inner::Read),
            Inner::Empty => Inner::Empty,
        })
    }
}
