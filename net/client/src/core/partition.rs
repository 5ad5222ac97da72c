//! What a producer holds for one partition: an open batch, and closed ones in order.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use catena_format::{
    Offset, Sequence,
    records::{BatchBuilder, Producer as Stamp},
};

use super::{backoff::Backoff, lane::Lane};
use crate::{compression::Compression, error::Error};

/// A batch's name within its producer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct BatchId(pub(crate) u64);

/// Records being gathered.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) id: BatchId,
    pub(crate) builder: BatchBuilder,
    pub(crate) since: Instant,
    /// Somebody flushes: it does not linger.
    pub(crate) hurry: bool,
}

/// A closed batch.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) id: BatchId,
    pub(crate) bytes: Vec<u8>,
    pub(crate) count: u32,
    pub(crate) since: Instant,
    /// The offset that its first record is to get. Such a batch is under way alone.
    pub(crate) expected: Option<Offset>,
    /// Given when it is first sent, and kept until the producer's epoch rises.
    pub(crate) sequence: Option<Sequence>,
    /// Set while it is under way.
    pub(crate) correlation: Option<u32>,
    /// A copy of it may be stored, now or later: a connection broke, or the server could not say.
    pub(crate) tainted: bool,
    /// What was last said of it.
    pub(crate) last: Option<Error>,
}

impl Batch {
    /// Whether it may be stored, as far as is known.
    pub(crate) fn is_unclear(&self) -> bool {
        self.tainted || self.correlation.is_some()
    }
}

/// After a refusal, and when it is not known what became of something, nothing more is sent to a
/// partition until all that is under way is answered and a pause is over; then everything is sent
/// again, in order.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) until: Instant,
}

/// The batches of a partition.
#[derive(Debug)]
pub(crate) struct Partition {
    /// Where everything under way is. It changes only while nothing is.
    pub(crate) lane: Lane,
    pub(crate) open: Option<Open>,
    pub(crate) closed: VecDeque<Batch>,
    pub(crate) next_sequence: Sequence,
    pub(crate) hold: Option<Hold>,
    pub(crate) backoff: Backoff,
}

impl Partition {
    pub(crate) fn new(lane: Lane, seed: u64) -> Self {
        Self {
            lane,
            open: None,
            closed: VecDeque::new(),
            next_sequence: Sequence::new(0),
            hold: None,
            backoff: Backoff::new(seed),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_none() && self.closed.is_empty()
    }

    /// Batches under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.closed.iter().filter(|batch| batch.correlation.is_some()).count()
    }

    /// Nothing more is sent for a while, which grows, or for `wait` if that is longer; unless that
    /// is so already.
    pub(crate) fn pause(&mut self, wait: Duration, now: Instant) {
        if self.hold.is_none() {
            self.hold = Some(Hold { until: now + self.backoff.pause().max(wait) });
        }
    }

    /// Whether the open batch is to be closed by now.
    pub(crate) fn is_due(&self, linger: Duration, now: Instant) -> bool {
        self.open.as_ref().is_some_and(|open| open.hurry || now >= open.since + linger)
    }

    /// Closes the open batch, if there is one.
    ///
    /// # Errors
    /// When it cannot be built; the batch is gone then, and its name is told.
    pub(crate) fn close(&mut self, compression: Compression) -> Result<(), (BatchId, Error)> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let Open { id, builder, since, .. } = open;
        let bytes = build(&builder, compression).map_err(|error| (id, error))?;
        self.closed.push_back(Batch {
            id,
            bytes,
            count: builder.count(),
            since,
            expected: None,
            sequence: None,
            correlation: None,
            tainted: false,
            last: None,
        });
        Ok(())
    }

    /// Whether the batch under way has a condition: what it comes to, those behind wait for.
    pub(crate) fn awaits_condition(&self) -> bool {
        let first = self.closed.front();
        first.is_some_and(|batch| batch.expected.is_some() && batch.correlation.is_some())
    }

    /// The first batch that is not under way, if everything before it is.
    pub(crate) fn next_to_send(&self) -> Option<usize> {
        let at = self.closed.iter().position(|batch| batch.correlation.is_none())?;
        let behind = self.closed.iter().skip(at);
        debug_assert!(self.hold.is_some() || behind.clone().all(|b| b.correlation.is_none()));
        Some(at)
    }

    /// Where the batch is that was sent under this correlation id.
    pub(crate) fn sent_under(&self, correlation: u32) -> Option<usize> {
        self.closed.iter().position(|batch| batch.correlation == Some(correlation))
    }
}

/// The finished batch without a producer's stamp, compressed if that makes it smaller.
pub(crate) fn build(builder: &BatchBuilder, compression: Compression) -> Result<Vec<u8>, Error> {
    if compression != Compression::None {
        let compressed = compression.compress(builder.records())?;
        if compressed.len() < builder.records().len() {
            return Ok(builder.build_with(Stamp::NONE, compression.codec(), &compressed)?);
        }
    }
    Ok(builder.build(Stamp::NONE)?)
}
