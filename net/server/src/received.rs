//! What one connection has received and not yet handed on. Memory grows with what has come, never
//! with what is announced, and only as the budget of the core allows.

use std::rc::Rc;

use catena_wire::{ErrorCode, FRAME_HEADER_BYTES, FrameHeader, FrameLimits};

use crate::{
    budget::{Budget, IDLE_BYTES, Nudge, Place, READ_BYTES},
    socket::Socket,
};

/// What a connection keeps of a buffer that a large message needed.
const KEPT_BYTES_MAX: usize = 2 << 20;
/// How much longer a buffer becomes that was filled and is still too short.
const GROWTH: usize = 4;

/// Why a connection ends: the client's doing, or want of memory.
pub(crate) enum Ended {
    Closed,
    /// These bytes are no preface and no frame.
    NotOurs,
    /// The handshake did not come in time, or a header while memory was short.
    Late,
    /// Nothing came for long.
    Idle,
    /// With an answer to the message whose header this is; the rest of it was not read.
    Refused(FrameHeader, ErrorCode, String),
}

impl From<std::io::Error> for Ended {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            // Reads have a timeout.
            std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => Self::Idle,
            _ => Self::Closed,
        }
    }
}

/// Header, head and payload.
pub(crate) type Message<'a> = (FrameHeader, &'a [u8], &'a [u8]);

/// Bytes received and not yet handed on.
pub(crate) struct Received {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    limits: FrameLimits,
    /// The last read brought as much as fitted.
    filled: bool,
    /// The longest buffer that a large message has filled: the next may have it at once.
    proven: usize,
    place: Place,
}

impl Received {
    /// A small buffer, for a handshake.
    pub(crate) fn new(budget: &Rc<Budget>) -> Self {
        Self {
            bytes: vec![0; IDLE_BYTES],
            start: 0,
            end: 0,
            limits: FrameLimits::HANDSHAKE,
            filled: false,
            proven: 0,
            place: budget.place(),
        }
    }

    /// The handshake has succeeded: from now on so much is taken.
    pub(crate) fn grant(&mut self, limits: FrameLimits) {
        self.limits = limits;
    }

    /// The server has let the client wait: that counts against nobody.
    pub(crate) fn forgive(&self) {
        self.place.begin();
    }

    /// Reads some more. Messages begin within the first [`READ_BYTES`]; one that ends beyond them
    /// is read to its end and no further, so that what was received is never moved there.
    pub(crate) async fn fill(&mut self, socket: &Socket) -> Result<(), Ended> {
        let needed = self.needed()?.max(FRAME_HEADER_BYTES);
        let until = self.start + needed;
        self.place.arriving(self.start < self.end);
        self.fit(needed, until).await?;
        let length = self.bytes.len();
        let room = length.min(if until > READ_BYTES { until } else { READ_BYTES });
        let read = socket.read(&mut self.bytes[self.end..room]);
        match self.place.unless_nudged(read).await {
            Ok(read) => match read? {
                0 => Err(Ended::Closed),
                read => {
                    self.end += read;
                    self.filled = self.end == room;
                    Ok(())
                }
            },
            Err(nudge) => self.nudged(nudge),
        }
    }

    fn nudged(&mut self, nudge: Nudge) -> Result<(), Ended> {
        match nudge {
            Nudge::Idle if self.end == 0 => {
                self.shrink(IDLE_BYTES);
                self.proven = 0;
                Ok(())
            }
            Nudge::Overdue if self.start < self.end => Err(self.overdue()),
            Nudge::Idle | Nudge::Overdue => Ok(()),
        }
    }

    fn overdue(&self) -> Ended {
        let Ok(Some(header)) = self.header() else { return Ended::Late };
        let message =
            "memory for messages that arrive is short on this core, and this one took long";
        Ended::Refused(header, ErrorCode::MemoryBudget, message.to_owned())
    }

    /// An idle connection holds little, a busy one what it can use, none for long what one large
    /// message needed.
    async fn fit(&mut self, needed: usize, until: usize) -> Result<(), Ended> {
        let length = self.bytes.len();
        if self.end == 0 && length > KEPT_BYTES_MAX && needed <= READ_BYTES {
            self.shrink(READ_BYTES);
        } else if self.end == length && length < until {
            // Wherever the next of this size begins, it will fit.
            let whole = if until > READ_BYTES { READ_BYTES + needed } else { until };
            let earned = (GROWTH * length).max(READ_BYTES).max(self.proven);
            let length = whole.min(earned);
            if self.place.grow(length).await.is_err() {
                return Err(self.overdue());
            }
            self.bytes.resize(length, 0);
        } else if self.filled && length < READ_BYTES && self.place.try_grow(READ_BYTES) {
            self.bytes.resize(READ_BYTES, 0);
        }
        self.filled = false;
        Ok(())
    }

    fn shrink(&mut self, bytes: usize) {
        if self.bytes.len() > bytes {
            self.bytes = vec![0; bytes];
            self.place.shrink(bytes);
        }
    }

    /// The header of the message at hand, if it is there.
    fn header(&self) -> Result<Option<FrameHeader>, Ended> {
        let header = self.bytes[self.start..self.end].first_chunk::<FRAME_HEADER_BYTES>();
        let Some(header) = header else { return Ok(None) };
        let header = FrameHeader::parse(header, FrameLimits::NONE).map_err(|_| Ended::NotOurs)?;
        let refused = |e| Ended::Refused(header, ErrorCode::FrameTooLarge, format!("{e}"));
        header.check(self.limits).map_err(refused)?;
        Ok(Some(header))
    }

    /// Bytes of the message at hand, as far as its header is there.
    fn needed(&self) -> Result<usize, Ended> {
        Ok(self.header()?.as_ref().map_or(0, message_bytes))
    }

    /// The header of the message at hand, if that is whole.
    fn whole(&self) -> Result<Option<FrameHeader>, Ended> {
        Ok(self.header()?.filter(|header| self.end - self.start >= message_bytes(header)))
    }

    /// Whether the message at hand is whole.
    pub(crate) fn has_message(&self) -> Result<bool, Ended> {
        Ok(self.whole()?.is_some())
    }

    /// The next whole message, if there is one.
    pub(crate) fn message(&mut self) -> Result<Option<Message<'_>>, Ended> {
        let Some(header) = self.whole()? else {
            if self.start == self.end {
                (self.start, self.end) = (0, 0);
            }
            return Ok(None);
        };
        let rest = self.start + FRAME_HEADER_BYTES;
        self.start += message_bytes(&header);
        if self.start > READ_BYTES {
            self.proven = self.bytes.len();
        }
        self.place.arrived();
        let (head, payload) = self.bytes[rest..self.start].split_at(header.head_bytes as usize);
        Ok(Some((header, head, payload)))
    }
}

fn message_bytes(header: &FrameHeader) -> usize {
    FRAME_HEADER_BYTES + header.head_bytes as usize + header.payload_bytes as usize
}
