//! One client's connection: bytes in to whole messages, answers out, nothing decided.

use std::{cell::Cell, rc::Rc, time::Duration};

use catena_node::{Send, SessionId};
use catena_uring::Share;
use catena_wire::{Api, FRAME_HEADER_BYTES, FrameHeader, FrameLimits, PREFACE_BYTES, Preface};
use futures_lite::{
    AsyncReadExt, AsyncWriteExt, StreamExt,
    io::{ReadHalf, WriteHalf, split},
};
use glommio::{
    channels::local_channel::LocalReceiver,
    net::TcpStream,
    timer::{sleep, timeout},
};

use crate::shell::Shell;

/// What an idle connection keeps.
const IDLE_BYTES: usize = 1 << 10;
/// What is read at once when messages are small.
const READ_BYTES: usize = 64 << 10;
/// Above this a message is read to its end and not beyond, so that nothing has to be moved.
const EXACT_BYTES: usize = 16 << 10;
/// What a connection keeps of a buffer that a large message needed.
const KEPT_BYTES_MAX: usize = 2 << 20;
/// How often a connection that used up its budget looks whether something was answered.
const BUDGET_WAIT: Duration = Duration::from_micros(200);

/// Serves a connection to its end.
pub(crate) async fn run(
    shell: &Rc<Shell>,
    session: SessionId,
    stream: TcpStream,
    outbox: LocalReceiver<Send<Share>>,
    waiting: Rc<Cell<usize>>,
) {
    // Without it small answers wait for the client's acknowledgement.
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(shell.waits().idle));
    let (reader, writer) = split(stream);
    let writer = glommio::spawn_local(write(writer, outbox, waiting));
    let _ = read(shell, session, reader).await;
    writer.cancel().await;
}

/// Why a connection ends: the client's doing, all of it.
enum Ended {
    Closed,
    NotOurs,
}

impl From<std::io::Error> for Ended {
    fn from(_: std::io::Error) -> Self {
        Self::Closed
    }
}

async fn read(
    shell: &Rc<Shell>,
    session: SessionId,
    mut reader: ReadHalf<TcpStream>,
) -> Result<(), Ended> {
    let mut buffer = Received::new();
    // A client that has not said who it is by then is gone.
    timeout(shell.waits().handshake, async { Ok(greet(&mut reader, &mut buffer).await) })
        .await
        .map_err(|_| Ended::Closed)??;
    loop {
        while !shell.look(|node| node.may_read(session)) {
            sleep(BUDGET_WAIT).await;
        }
        let mut any = false;
        while let Some((header, head, payload)) = buffer.message()? {
            any = true;
            let now = shell.now();
            shell.message(session, &header, head, payload, now);
        }
        if any {
            // What came together goes to the disk together.
            shell.carry_out();
            glommio::yield_if_needed().await;
        }
        buffer.fill(&mut reader).await?;
    }
}

/// The preface and the whole of the first message, which must be a handshake.
async fn greet(reader: &mut ReadHalf<TcpStream>, buffer: &mut Received) -> Result<(), Ended> {
    let mut preface = [0; PREFACE_BYTES];
    reader.read_exact(&mut preface).await?;
    Preface::parse(&preface).map_err(|_| Ended::NotOurs)?;
    while !buffer.has_message()? {
        buffer.fill(reader).await?;
    }
    Ok(())
}

/// Header, head and payload.
type Message<'a> = (FrameHeader, &'a [u8], &'a [u8]);

/// Bytes received and not yet handed on.
struct Received {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    limits: FrameLimits,
    /// The last read brought as much as fitted.
    filled: bool,
}

impl Received {
    fn new() -> Self {
        Self {
            bytes: vec![0; IDLE_BYTES],
            start: 0,
            end: 0,
            limits: FrameLimits::HANDSHAKE,
            filled: false,
        }
    }

    /// Reads some more: at least what the message at hand lacks, when that is long.
    async fn fill(&mut self, reader: &mut ReadHalf<TcpStream>) -> Result<(), Ended> {
        let have = self.end - self.start;
        let needed = self.needed()?.max(FRAME_HEADER_BYTES);
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, have);
        }
        self.fit(needed);
        let lacking = needed - have.min(needed);
        if lacking > EXACT_BYTES {
            reader.read_exact(&mut self.bytes[self.end..self.end + lacking]).await?;
            self.end += lacking;
            return Ok(());
        }
        match reader.read(&mut self.bytes[self.end..]).await? {
            0 => Err(Ended::Closed),
            read => {
                self.end += read;
                self.filled = self.end == self.bytes.len();
                Ok(())
            }
        }
    }

    /// An idle connection holds little, a busy one what it can use, none for long what one large
    /// message needed.
    fn fit(&mut self, needed: usize) {
        let length = self.bytes.len();
        if self.end == 0 && length > KEPT_BYTES_MAX && needed <= READ_BYTES {
            self.bytes = vec![0; READ_BYTES];
        } else if self.filled && length < READ_BYTES {
            self.bytes.resize(READ_BYTES.max(needed), 0);
        } else if length < needed {
            self.bytes.resize(needed, 0);
        }
        self.filled = false;
    }

    /// Bytes of the message at hand, as far as its header is there.
    fn needed(&self) -> Result<usize, Ended> {
        let header = self.bytes[self.start..self.end].first_chunk::<FRAME_HEADER_BYTES>();
        let Some(header) = header else { return Ok(0) };
        let header = FrameHeader::parse(header, self.limits).map_err(|_| Ended::NotOurs)?;
        Ok(FRAME_HEADER_BYTES + header.head_bytes as usize + header.payload_bytes as usize)
    }

    fn has_message(&self) -> Result<bool, Ended> {
        let needed = self.needed()?;
        Ok(needed > 0 && self.end - self.start >= needed)
    }

    /// The next whole message, if there is one.
    fn message(&mut self) -> Result<Option<Message<'_>>, Ended> {
        let needed = self.needed()?;
        if !self.has_message()? {
            if self.start == self.end {
                (self.start, self.end) = (0, 0);
            }
            return Ok(None);
        }
        let message = &self.bytes[self.start..self.start + needed];
        self.start += needed;
        let (header, rest) =
            message.split_first_chunk::<FRAME_HEADER_BYTES>().ok_or(Ended::NotOurs)?;
        let header = FrameHeader::parse(header, self.limits).map_err(|_| Ended::NotOurs)?;
        if header.api == Api::Handshake as u8 {
            // One that fails ends the connection.
            self.limits = FrameLimits::REQUEST;
        }
        let (head, payload) = rest.split_at(header.head_bytes as usize);
        Ok(Some((header, head, payload)))
    }
}

async fn write(
    mut writer: WriteHalf<TcpStream>,
    outbox: LocalReceiver<Send<Share>>,
    waiting: Rc<Cell<usize>>,
) {
    let mut stream = Box::pin(outbox.stream());
    while let Some(send) = stream.next().await {
        let mut bytes = send.bytes.len();
        let mut sent = writer.write_all(&send.bytes).await;
        for share in &send.shares {
            bytes += share.as_ref().len();
            if sent.is_ok() {
                sent = writer.write_all(share.as_ref()).await;
            }
        }
        waiting.set(waiting.get() - bytes);
        if sent.is_err() || send.last {
            let _ = writer.close().await;
            return;
        }
    }
    let _ = writer.close().await;
}
