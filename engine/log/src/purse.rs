//! Memory from the heap with a budget, as each core of a server has it.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use crate::io::{Memory, MemoryExhausted, unreserved};
use bytes::Bytes;

/// Memory from the heap, within a budget, for tests and the simulator; clones share it.
#[derive(Clone, Debug)]
pub struct Purse {
    budget: usize,
    used: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
}

/// A buffer that counts until its last share is gone.
#[derive(Debug)]
pub struct Charged {
    bytes: Vec<u8>,
    charge: usize,
    used: Arc<AtomicUsize>,
}

impl Drop for Charged {
    fn drop(&mut self) {
        self.used.fetch_sub(self.charge, Relaxed);
    }
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsMut<[u8]> for Charged {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Purse {
    /// Memory of so many bytes.
    #[must_use]
    pub fn new(budget: usize) -> Self {
        Self { budget, used: Arc::default(), refused: Arc::default() }
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    fn take(&self, bytes: usize, most: usize) -> Result<Charged, MemoryExhausted> {
        if self.used.load(Relaxed) + bytes > most {
            self.refused.fetch_add(1, Relaxed);
            return Err(MemoryExhausted);
        }
        self.used.fetch_add(bytes, Relaxed);
        Ok(Charged { bytes: vec![0; bytes], charge: bytes, used: Arc::clone(&self.used) })
    }

    /// How often there was not enough.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed) as u64
    }
}

impl Memory for Purse {
    type Buffer = Charged;
    type Share = Bytes;

    fn allocate(&mut self, bytes: usize) -> Result<Charged, MemoryExhausted> {
        self.take(bytes, unreserved(self.budget))
    }

    fn allocate_reserved(&mut self, bytes: usize) -> Result<Charged, MemoryExhausted> {
        self.take(bytes, self.budget)
    }

    fn is_short(&self) -> bool {
        self.used.load(Relaxed) > self.budget - self.budget / 4
    }

    fn freeze(&mut self, mut buffer: Charged, bytes: usize) -> Bytes {
        buffer.bytes.truncate(bytes);
        Bytes::from_owner(buffer)
    }

    fn slice(share: &Bytes, range: Range<usize>) -> Bytes {
        share.slice(range)
    }
}
