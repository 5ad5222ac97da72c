//! A flush group: the batches that one write puts on the disk together.

use std::time::Duration;

use catena_format::{
    BatchHeader, Epoch, FRAME_HEADER_BYTES, FrameHeader, FrameSeed, Millis, Offset, Position,
    batch, frame, limits::BLOCK_BYTES,
};

use crate::{
    io::{Memory, MemoryExhausted},
    read::Stamp,
};

/// A frame within a group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameAt {
    at: usize,
    pub(crate) header: FrameHeader,
}

/// A group being filled.
pub(crate) struct Group<M: Memory> {
    buffer: M::Buffer,
    used: usize,
    pub(crate) position: Position,
    pub(crate) base: Offset,
    pub(crate) end: Offset,
    /// When it was begun, for its first batch.
    pub(crate) since: Duration,
    frames: Vec<FrameAt>,
}

/// A batch in the memory of a group that was closed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchAt {
    pub(crate) at: u32,
    pub(crate) length: u32,
    pub(crate) base: Offset,
    pub(crate) end: Offset,
    pub(crate) max_timestamp: Millis,
    pub(crate) stamp: Stamp,
}

/// A closed group: its bytes are frozen, on their way to the disk or there.
#[derive(Clone)]
pub(crate) struct Closed<S> {
    pub(crate) share: S,
    pub(crate) position: Position,
    pub(crate) base: Offset,
    pub(crate) end: Offset,
    pub(crate) batches: Vec<BatchAt>,
}

/// Where a batch is stored, and what with.
pub(crate) struct Stored {
    pub(crate) base_offset: Offset,
    pub(crate) epoch: Epoch,
    pub(crate) stamp: Stamp,
}

impl<M: Memory> Group<M> {
    /// An empty group of `capacity` bytes that will be written at `position`.
    ///
    /// # Errors
    /// When memory is exhausted.
    pub(crate) fn new(
        capacity: usize,
        position: Position,
        base: Offset,
        since: Duration,
        memory: &mut M,
    ) -> Result<Self, MemoryExhausted> {
        let buffer = memory.allocate(capacity.next_multiple_of(BLOCK_BYTES))?;
        Ok(Self { buffer, used: 0, position, base, end: base, since, frames: Vec::new() })
    }

    /// Bytes still free.
    pub(crate) fn room(&self) -> usize {
        self.buffer.as_ref().len() - self.used
    }

    /// Bytes filled.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Bytes that the write will have.
    pub(crate) fn write_bytes(&self) -> usize {
        self.used.next_multiple_of(BLOCK_BYTES)
    }

    /// Copies a batch in and patches it; its frame header is written when the group is closed.
    ///
    /// # Panics
    /// When there is no room for the frame.
    pub(crate) fn push(
        &mut self,
        bytes: &[u8],
        header: &BatchHeader,
        stored: &Stored,
    ) -> (Position, FrameHeader, &[u8]) {
        let frame = FrameHeader {
            mark: false,
            payload_length: u32::try_from(bytes.len()).expect("a batch is at most 16 MiB"),
            epoch: stored.epoch,
            base_offset: stored.base_offset,
            last_offset_delta: header.last_offset_delta,
            count: header.count,
            max_timestamp: header.max_timestamp,
            append_time: stored.stamp.append_time,
            durable_end: Offset::ZERO,
            payload_crc: stored.stamp.payload_crc,
        };
        let at = self.used;
        let start = at + FRAME_HEADER_BYTES;
        let end = start + bytes.len();
        let next = at + frame::frame_bytes(bytes.len());
        let room = &mut self.buffer.as_mut()[..next];
        room[start..end].copy_from_slice(bytes);
        batch::patch(&mut room[start..end], stored.base_offset, stored.epoch);
        room[end..next].fill(0);
        self.advance(at, next, frame);
        let position = self.position.plus(at as u64);
        (position, frame, &self.buffer.as_ref()[start..end])
    }

    /// Adds a mark: a frame that only says what is durable.
    pub(crate) fn push_mark(&mut self, epoch: Epoch, append_time: Millis) {
        let header = FrameHeader {
            mark: true,
            payload_length: 0,
            epoch,
            base_offset: self.end,
            last_offset_delta: 0,
            count: 0,
            max_timestamp: Millis::new(-1),
            append_time,
            durable_end: Offset::ZERO,
            payload_crc: 0,
        };
        self.advance(self.used, self.used + FRAME_HEADER_BYTES, header);
    }

    fn advance(&mut self, at: usize, next: usize, header: FrameHeader) {
        self.end = header.next_offset();
        self.used = next;
        self.frames.push(FrameAt { at, header });
    }

    /// Writes the frame headers with what is durable now, pads with zeros, freezes.
    pub(crate) fn close(
        mut self,
        seed: FrameSeed,
        durable_end: Offset,
        memory: &mut M,
    ) -> Closed<M::Share> {
        let bytes = self.write_bytes();
        let room = self.buffer.as_mut();
        room[self.used..bytes].fill(0);
        for frame in &mut self.frames {
            frame.header.durable_end = durable_end;
            frame.header.write(&mut room[frame.at..], seed, self.position.plus(frame.at as u64));
        }
        let batches = self.frames.iter().filter(|f| !f.header.mark).map(FrameAt::batch).collect();
        Closed {
            share: memory.freeze(self.buffer, bytes),
            position: self.position,
            base: self.base,
            end: self.end,
            batches,
        }
    }
}

impl FrameAt {
    fn batch(&self) -> BatchAt {
        BatchAt {
            at: u32::try_from(self.at + FRAME_HEADER_BYTES).expect("a group is small"),
            length: self.header.payload_length,
            base: self.header.base_offset,
            end: self.header.next_offset(),
            max_timestamp: self.header.max_timestamp,
            stamp: Stamp::of(&self.header),
        }
    }
}
