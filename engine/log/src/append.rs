//! Taking batches in: from a producer, or as another log has them.

use catena_format::{
    BatchHeader, Epoch, Millis, Offset, Position, frame,
    limits::{BATCH_BYTES_MAX, BLOCK_BYTES},
};

use crate::{
    config::{GROUP_BYTES_MAX, SEGMENTS_MAX, SEGMENTS_RESERVE, UNDURABLE_BYTES_MAX},
    fold::Fold,
    group::{Group, Stored},
    index::Progress,
    io::{IoError, Memory, MemoryExhausted},
    log::{Log, SegmentIndex},
    read::Stamp,
    time::Now,
};

/// Why a batch was not appended. Nothing of it was stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// A write or flush failed earlier: the log can be read and takes nothing more until reopened.
    #[error("the log is read-only since a write failed: {0}")]
    Poisoned(IoError),
    /// The disk, or the part of it that may be used, is full. Retry later.
    #[error("the disk is full")]
    DiskFull,
    /// Too much is on its way to the disk. Retry later.
    #[error("{0} bytes wait for the disk, more are not taken")]
    Backlog(usize),
    /// The memory budget is spent. Retry later.
    #[error(transparent)]
    Memory(#[from] MemoryExhausted),
    /// The batch is longer than any may be.
    #[error("a batch of {0} bytes is too large")]
    TooLarge(usize),
    /// The log has as many segments as it may have. Retention or a trim makes room.
    #[error("the log has {SEGMENTS_MAX} segments, more are not begun")]
    Segments,
    /// All offsets were given.
    #[error("the partition's offsets are exhausted")]
    OffsetsExhausted,
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}

/// Where a batch was put. It is durable once the durable end reaches `next`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    /// The first record's offset.
    pub base: Offset,
    /// The offset after the last record.
    pub next: Offset,
    /// The server's time that it was stored with.
    pub append_time: Millis,
}

impl<M: Memory + Clone, F: Fold> Log<M, F> {
    /// Appends a batch that its owner has validated: it is copied, patched with the next offset and
    /// `epoch`, and leaves for the disk with the next [`Log::poll_op`]. `payload_crc` is the CRC-32
    /// of the batch from its byte 16 on.
    ///
    /// # Errors
    /// Nothing is stored; see [`AppendError`].
    ///
    /// # Panics
    /// When `header` is not the header of `batch`.
    pub fn append(
        &mut self,
        batch: &[u8],
        header: &BatchHeader,
        payload_crc: u32,
        epoch: Epoch,
        now: Now,
    ) -> Result<Appended, AppendError> {
        let append_time = self.last_append_time.max(now.wall);
        let stamp = Stamp { append_time, payload_crc };
        self.take(batch, header, &Stored { base_offset: self.log_end, epoch, stamp }, now)
    }

    /// Appends a batch as it stands in another log, at the same offset: `header` is its own. The
    /// time is the one that it was stored with there.
    ///
    /// # Errors
    /// Nothing is stored; see [`AppendError`].
    ///
    /// # Panics
    /// When `header` is not the header of `batch`, or its base offset not this log's end.
    pub fn append_copy(
        &mut self,
        batch: &[u8],
        header: &BatchHeader,
        stamp: Stamp,
        now: Now,
    ) -> Result<Appended, AppendError> {
        let base_offset = Offset::new(header.base_offset.cast_unsigned());
        assert_eq!(base_offset, self.log_end, "a copy stands where the original does");
        let epoch = Epoch::new(header.leader_epoch.cast_unsigned());
        self.take(batch, header, &Stored { base_offset, epoch, stamp }, now)
    }

    fn take(
        &mut self,
        batch: &[u8],
        header: &BatchHeader,
        stored: &Stored,
        now: Now,
    ) -> Result<Appended, AppendError> {
        assert_eq!(batch.len(), header.length, "the header belongs to the batch");
        self.now = now;
        let next = self.admit(batch.len(), header)?;
        self.make_room(frame::frame_bytes(batch.len()), stored.epoch)?;
        let group = self.group.as_mut().expect("room was made");
        let (position, frame, bytes) = group.push(batch, header, stored);
        self.fold.apply(&frame, bytes);
        let appended = Appended { base: self.log_end, next, append_time: frame.append_time };
        self.note(position, &frame);
        assert_eq!(self.log_end, next, "offsets are given densely");
        Ok(appended)
    }

    fn admit(&self, bytes: usize, header: &BatchHeader) -> Result<Offset, AppendError> {
        if let Some(error) = self.poisoned {
            return Err(AppendError::Poisoned(error));
        }
        if self.closing {
            return Err(AppendError::Closed);
        }
        if bytes > BATCH_BYTES_MAX {
            return Err(AppendError::TooLarge(bytes));
        }
        if self.disk_full {
            return Err(AppendError::DiskFull);
        }
        if self.undurable_bytes + bytes > UNDURABLE_BYTES_MAX {
            return Err(AppendError::Backlog(self.undurable_bytes));
        }
        let given = u64::from(header.last_offset_delta) + 1;
        self.log_end.checked_add(given).ok_or(AppendError::OffsetsExhausted)
    }

    /// Sees to it that the open group has room for a frame; nothing changes on an error.
    fn make_room(&mut self, frame: usize, epoch: Epoch) -> Result<(), AppendError> {
        let end = self.log_end;
        // Of epochs that began at the end or behind it a crash has left nothing.
        if self.epochs.last().is_some_and(|(_, start)| *start >= end) {
            self.epochs.retain(|(began, start)| *start < end || (*began, *start) == (epoch, end));
        }
        if self.epochs.last().is_none_or(|(last, _)| *last < epoch) {
            // A new epoch begins with a segment, whose manifest carries the epoch table.
            self.seal_active()?;
            self.epochs.push((epoch, end));
        }
        if self.group.as_ref().is_some_and(|group| group.room() >= frame) {
            return Ok(());
        }
        self.close_group();
        let capacity = self.group_hint.clamp(BLOCK_BYTES, GROUP_BYTES_MAX).max(frame);
        let capacity = capacity.next_multiple_of(BLOCK_BYTES);
        let footer = BLOCK_BYTES as u64;
        if let Some(active) = &self.active {
            let end = active.cursor.plus(frame as u64 + footer);
            let begun = active.progress.batches > 0;
            if begun && end.get() > self.segment_end() && self.may_roll() {
                self.seal_active()?;
            }
        }
        if self.active.is_none() {
            if self.segments.len() >= SEGMENTS_MAX {
                return Err(AppendError::Segments);
            }
            self.begin_segment(epoch)?;
        }
        let active = self.active.as_ref().expect("a segment was begun");
        let left = self.segment_end().saturating_sub(active.cursor.get() + footer);
        let left = usize::try_from(left).unwrap_or(usize::MAX) / BLOCK_BYTES * BLOCK_BYTES;
        let least = frame.next_multiple_of(BLOCK_BYTES);
        let capacity = capacity.min(left.max(least));
        self.group = Some(Group::new(
            capacity,
            active.cursor,
            self.log_end,
            self.now.monotonic,
            &mut self.memory,
        )?);
        Ok(())
    }

    /// Whether there may be one more segment; beyond that the active one grows. Some are left for
    /// those that a restart or an epoch begins.
    pub(crate) fn may_roll(&self) -> bool {
        self.segments.len() < SEGMENTS_MAX - SEGMENTS_RESERVE
    }

    /// Where the active segment ends: where its zeros do once a whole segment is prepared.
    fn segment_end(&self) -> u64 {
        let space = self.segments.back().and_then(|s| s.space).filter(|space| space.ready);
        match space {
            Some(space) if self.has_whole_spare() => {
                space.written.get().min(self.config.segment_bytes)
            }
            _ => self.config.segment_bytes,
        }
    }

    /// Takes note of a frame that was pushed into the open group.
    fn note(&mut self, position: Position, frame: &catena_format::FrameHeader) {
        let active = self.active.as_mut().expect("frames go to the active segment");
        let segment = self.segments.back_mut().expect("the active segment is the last");
        if let SegmentIndex::Resident(index) = &mut segment.index {
            index.note(self.config.index_stride, frame.base_offset, position, self.max_timestamp);
        }
        self.log_end = frame.next_offset();
        self.max_timestamp = self.max_timestamp.max(frame.max_timestamp);
        self.last_append_time = frame.append_time;
        self.last_append = self.now.monotonic;
        self.undurable_bytes += frame.frame_bytes();
        self.stats.batches_appended += 1;
        self.stats.bytes_appended += u64::from(frame.payload_length);
        active.first_append.get_or_insert(frame.append_time);
        let end = position.plus(frame.frame_bytes() as u64).align_up(BLOCK_BYTES as u64);
        active.progress = Progress {
            end: self.log_end,
            end_position: end,
            max_timestamp: self.max_timestamp,
            last_append_time: self.last_append_time,
            batches: active.progress.batches + 1,
            records: active.progress.records + u64::from(frame.count),
        };
        segment.entry.end = active.progress.end;
        segment.entry.end_position = active.progress.end_position;
        segment.entry.max_timestamp = active.progress.max_timestamp;
        segment.entry.last_append_time = active.progress.last_append_time;
    }
}
