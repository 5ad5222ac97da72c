//! One client's connection: bytes in to whole messages, answers out, nothing decided.

use std::{rc::Rc, time::Duration};

use catena_node::{Send, SessionId};
use catena_uring::{Share, detach_stream, stream_descriptor};
use catena_wire::{
    Api, ErrorCode, FRAME_HEADER_BYTES, FrameHeader, FrameLimits, PREFACE_BYTES, Preface, Refusal,
    encode_refusal,
};
use futures_lite::{AsyncReadExt, StreamExt, future};
use glommio::{
    channels::local_channel::LocalReceiver,
    net::TcpStream,
    timer::{sleep, timeout},
};
use rustix::net::sockopt;

use crate::{
    cores::Cargo,
    outbox::Unsent,
    shell::{Shell, breathe},
    socket::Socket,
};

/// What an idle connection keeps.
const IDLE_BYTES: usize = 1 << 10;
/// What is read at once: a batch of 64 KiB with its headers, or many small messages.
const READ_BYTES: usize = 80 << 10;
/// What a connection keeps of a buffer that a large message needed.
const KEPT_BYTES_MAX: usize = 2 << 20;
/// How often a connection that used up its budget looks whether something was answered.
const BUDGET_WAIT: Duration = Duration::from_micros(200);
/// Probes that may go unanswered before a silent peer is taken for gone.
const KEEPALIVE_PROBES: u32 = 3;

/// Where a connection ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// On this core.
    Here,
    /// It was handed to the core that its client asked for.
    Elsewhere,
}

/// Serves a connection to its end; `arrived`: its preface was read on another core.
pub(crate) async fn run(shell: &Rc<Shell>, mut stream: TcpStream, arrived: bool) -> End {
    set_options(shell, &stream);
    if !arrived {
        let Some(wanted) = preface(shell, &mut stream).await else { return End::Here };
        let core = wanted.unwrap_or(shell.core());
        if core != shell.core() && usize::from(core) < shell.shared().cores() {
            let Ok(descriptor) = detach_stream(stream) else { return End::Here };
            shell.shared().send(shell.core(), core, Cargo::Connection(descriptor));
            return End::Elsewhere;
        }
    }
    let Some(socket) = encrypt(shell, stream).await else { return End::Here };
    let mut buffer = Received::new();
    // A client that has not said who it is by then is gone.
    if within_handshake(shell, greet(&socket, &mut buffer)).await.is_none() {
        return End::Here;
    }
    let (session, outbox, unsent) = shell.open_session();
    let reads = async {
        let _ = read(shell, session, &socket, buffer).await;
    };
    // Whichever ends first ends the others: a client that does not read is not read from either.
    future::or(future::or(reads, write(&socket, outbox, &unsent)), unsent.cut()).await;
    shell.close_session(session);
    End::Here
}

/// Tells a client that the node has as many connections as it takes.
pub(crate) async fn refuse(shell: &Rc<Shell>, mut stream: TcpStream) {
    let refused = async {
        preface(shell, &mut stream).await?;
        let socket = encrypt(shell, stream).await?;
        let mut buffer = Received::new();
        greet(&socket, &mut buffer).await.ok()?;
        let (header, ..) = buffer.message().ok()??;
        let (error, text) = (ErrorCode::ConnectionBudget, "as many connections as it takes");
        let mut bytes = Vec::new();
        let refusal = Refusal { error, message: text.into() };
        encode_refusal(header.api, header.correlation, &refusal, &mut bytes).ok()?;
        socket.write_slices(&[&bytes]).await.ok()?;
        socket.close().await;
        Some(())
    };
    let _ = timeout(shell.live().handshake, async { Ok(refused.await) }).await;
}

fn set_options(shell: &Rc<Shell>, stream: &TcpStream) {
    // Without it small answers wait for the client's acknowledgement.
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(shell.live().idle));
    let descriptor = stream_descriptor(stream);
    let _ = sockopt::set_socket_keepalive(descriptor, true);
    let _ = sockopt::set_tcp_keepidle(descriptor, shell.keepalive());
    let _ = sockopt::set_tcp_keepintvl(descriptor, shell.keepalive());
    let _ = sockopt::set_tcp_keepcnt(descriptor, KEEPALIVE_PROBES);
}

/// The socket as both sides speak on it: under TLS, where that is configured.
async fn encrypt(shell: &Rc<Shell>, stream: TcpStream) -> Option<Socket> {
    let live = shell.live();
    let Some(tls) = live.tls.clone() else { return Some(Socket::plain(stream)) };
    let peer = stream.peer_addr();
    match timeout(live.handshake, async { Ok(Socket::tls(stream, tls).await) }).await.ok()? {
        Ok(socket) => Some(socket),
        Err(error) => {
            let peer = peer.map_or_else(|_| "a client".to_owned(), |peer| peer.to_string());
            tracing::warn!("no TLS with {peer}: {error}");
            None
        }
    }
}

async fn within_handshake<T>(
    shell: &Rc<Shell>,
    step: impl Future<Output = Result<T, Ended>>,
) -> Option<T> {
    timeout(shell.live().handshake, async { Ok(step.await) }).await.ok()?.ok()
}

/// The core that a client asks for, if it speaks our protocol.
async fn preface(shell: &Rc<Shell>, stream: &mut TcpStream) -> Option<Option<u16>> {
    let read = async {
        let mut preface = [0; PREFACE_BYTES];
        stream.read_exact(&mut preface).await?;
        Preface::parse(&preface).map_err(|_| Ended::NotOurs)
    };
    within_handshake(shell, read).await.map(|preface| preface.core)
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
    socket: &Socket,
    mut buffer: Received,
) -> Result<(), Ended> {
    let mut turns = 0;
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
            breathe(&mut turns).await;
        }
        buffer.fill(socket).await?;
    }
}

/// The whole of the first message, which must be a handshake.
async fn greet(socket: &Socket, buffer: &mut Received) -> Result<(), Ended> {
    while !buffer.has_message()? {
        buffer.fill(socket).await?;
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

    /// Reads some more. Messages begin within the first [`READ_BYTES`]; one that ends beyond them
    /// is read to its end and no further, so that what was received is never moved.
    async fn fill(&mut self, socket: &Socket) -> Result<(), Ended> {
        let needed = self.needed()?.max(FRAME_HEADER_BYTES);
        let until = self.start + needed;
        self.fit(needed, until);
        if until > READ_BYTES {
            socket.read_exact(&mut self.bytes[self.end..until]).await?;
            self.end = until;
            return Ok(());
        }
        let room = self.bytes.len().min(READ_BYTES);
        match socket.read(&mut self.bytes[self.end..room]).await? {
            0 => Err(Ended::Closed),
            read => {
                self.end += read;
                self.filled = self.end == room;
                Ok(())
            }
        }
    }

    /// An idle connection holds little, a busy one what it can use, none for long what one large
    /// message needed.
    fn fit(&mut self, needed: usize, until: usize) {
        let length = self.bytes.len();
        if self.end == 0 && length > KEPT_BYTES_MAX && needed <= READ_BYTES {
            self.bytes = vec![0; READ_BYTES];
        } else if length < until && until > READ_BYTES {
            // Wherever the next of this size begins, it will fit.
            self.bytes.resize(READ_BYTES + needed, 0);
        } else if self.filled && length < READ_BYTES {
            self.bytes.resize(READ_BYTES, 0);
        } else if length < until {
            self.bytes.resize(until, 0);
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

async fn write(socket: &Socket, outbox: LocalReceiver<Send<Share>>, unsent: &Unsent) {
    let mut stream = Box::pin(outbox.stream());
    while let Some(send) = stream.next().await {
        let mut slices = vec![&*send.bytes];
        slices.extend(send.shares.iter().map(AsRef::as_ref));
        let sent = socket.write_slices(&slices).await;
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        unsent.sent(bytes);
        if sent.is_err() || send.last {
            break;
        }
    }
    socket.close().await;
}
