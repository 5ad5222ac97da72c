//! One client's connection: bytes in to whole messages, answers out, nothing decided.

use std::{
    cell::Cell,
    io::ErrorKind,
    rc::Rc,
    time::{Duration, Instant},
};

use catena_node::{Node, SessionId};
use catena_uring::{detach_stream, stream_descriptor};
use catena_wire::{Api, ErrorCode, FrameHeader, PREFACE_BYTES, Preface, Refusal, encode_refusal};
use futures_lite::{AsyncReadExt, future};
use glommio::{
    net::TcpStream,
    timer::{sleep, timeout},
};
use rustix::net::sockopt;

use crate::{
    budget::IDLE_BYTES,
    cores::Cargo,
    outbox::Outbox,
    received::{Ended, Received},
    shell::{Shell, breathe},
    socket::Socket,
};

/// How often a connection that used up its budget looks whether something was answered.
const BUDGET_WAIT: Duration = Duration::from_micros(200);
/// Probes that may go unanswered before a silent peer is taken for gone.
const KEEPALIVE_PROBES: u32 = 3;
/// What is read and dropped of a client that was refused, so that it reads why.
const DISCARDED_BYTES_MAX: usize = 64 << 20;

/// Where a connection ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// On this core.
    Here,
    /// It was handed to the core that its client asked for.
    Elsewhere,
}

/// Serves a connection to its end; `arrived`: its preface was read on another core. A client that
/// has not said by the deadline who it is is gone.
pub(crate) async fn run(
    shell: &Rc<Shell>,
    mut stream: TcpStream,
    deadline: Instant,
    arrived: bool,
) -> End {
    set_options(shell, &stream);
    if !arrived {
        let wanted = match preface(deadline, &mut stream).await {
            Ok(wanted) => wanted,
            Err(ended) => return shell.connection_ended(&ended),
        };
        let core = wanted.unwrap_or(shell.core());
        if core != shell.core() && usize::from(core) < shell.shared().cores() {
            let Ok(descriptor) = detach_stream(stream) else { return End::Here };
            shell.shared().send(shell.core(), core, Cargo::Connection(descriptor, deadline));
            return End::Elsewhere;
        }
    }
    let socket = match encrypt(shell, deadline, stream).await {
        Ok(socket) => socket,
        Err(ended) => return shell.connection_ended(&ended),
    };
    let mut buffer = shell.receive_buffer();
    if let Err(ended) = by(deadline, greet(&socket, &mut buffer)).await {
        if let Ended::Refused(header, error, message) = &ended {
            drop(buffer);
            for_a_while(shell, tell_refused(&socket, header, *error, message)).await;
        }
        return shell.connection_ended(&ended);
    }
    let (session, outbox) = shell.open_session();
    let refused = Cell::new(false);
    let reads = async {
        let Err(ended) = read(shell, session, &socket, buffer).await else { return };
        shell.connection_ended(&ended);
        if let Ended::Refused(header, error, message) = ended {
            refused.set(true);
            shell.input(|node, _| node.refuse_unread(session, &header, error, message));
            // The answer is the last that is written, if its client reads in time.
            sleep(shell.live().handshake).await;
        }
    };
    // Whichever ends first ends the others: a client that does not read is not read from either.
    future::or(future::or(reads, write(shell, &socket, &outbox)), outbox.is_cut()).await;
    shell.close_session(session);
    drop(outbox);
    if refused.get() {
        for_a_while(shell, discard(&socket)).await;
    }
    End::Here
}

/// Tells a client that the node has as many connections as it takes.
pub(crate) async fn refuse(shell: &Rc<Shell>, mut stream: TcpStream, deadline: Instant) {
    let asked = async {
        preface(deadline, &mut stream).await?;
        let socket = encrypt(shell, deadline, stream).await?;
        let mut buffer = shell.receive_buffer();
        greet(&socket, &mut buffer).await?;
        let header = buffer.message()?.map(|(header, ..)| header);
        Ok((socket, header.ok_or(Ended::Closed)?))
    };
    let ended = match by(deadline, asked).await {
        Ok((socket, header)) => {
            let (error, text) = (ErrorCode::ConnectionBudget, "as many connections as it takes");
            for_a_while(shell, tell_refused(&socket, &header, error, text)).await;
            Ended::Refused(header, error, text.to_owned())
        }
        Err(ended) => ended,
    };
    shell.connection_ended(&ended);
}

/// Does something for a client that is not served, as long as a handshake may take.
async fn for_a_while<T>(shell: &Rc<Shell>, act: impl Future<Output = T>) {
    let act = async {
        act.await;
        Ok(())
    };
    let _ = timeout(shell.live().handshake, act).await;
}

/// Tells a client why it is not served, and waits until it has heard.
async fn tell_refused(socket: &Socket, header: &FrameHeader, error: ErrorCode, message: &str) {
    let mut bytes = Vec::new();
    let refusal = Refusal { error, message: message.into() };
    if encode_refusal(header.api, header.correlation, &refusal, &mut bytes).is_ok()
        && socket.write_slices(&[&bytes]).await.is_ok()
    {
        socket.close().await;
        discard(socket).await;
    }
}

/// Reads what a client still sends until it closes: were that left unread, the kernel would throw
/// the answer away.
async fn discard(socket: &Socket) {
    let (mut bytes, mut total) = (vec![0; IDLE_BYTES], 0);
    while let Ok(read @ 1..) = socket.read(&mut bytes).await
        && total < DISCARDED_BYTES_MAX
    {
        total += read;
    }
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
async fn encrypt(shell: &Rc<Shell>, deadline: Instant, stream: TcpStream) -> Result<Socket, Ended> {
    let Some(tls) = shell.live().tls.clone() else { return Ok(Socket::plain(stream)) };
    let peer = stream.peer_addr();
    let agreed = async { Ok(Socket::tls(stream, tls).await) };
    by(deadline, agreed).await?.map_err(|error| {
        let peer = peer.map_or_else(|_| "a client".to_owned(), |peer| peer.to_string());
        tracing::warn!("no TLS with {peer}: {error}");
        match error.kind() {
            ErrorKind::InvalidData => Ended::NotOurs,
            _ => error.into(),
        }
    })
}

/// A step on the way to the end of a handshake, which must be over by the deadline.
async fn by<T>(
    deadline: Instant,
    step: impl Future<Output = Result<T, Ended>>,
) -> Result<T, Ended> {
    let left = deadline.saturating_duration_since(Instant::now());
    // Every layer around it would keep room for it, as long as the connection lives.
    let step = Box::pin(step);
    match timeout(left, async { Ok(step.await) }).await.unwrap_or(Err(Ended::Late)) {
        Err(Ended::Idle) => Err(Ended::Late),
        ended => ended,
    }
}

/// The core that a client asks for, if it speaks our protocol.
async fn preface(deadline: Instant, stream: &mut TcpStream) -> Result<Option<u16>, Ended> {
    let read = async {
        let mut preface = [0; PREFACE_BYTES];
        stream.read_exact(&mut preface).await?;
        Preface::parse(&preface).map_err(|_| Ended::NotOurs)
    };
    by(deadline, read).await.map(|preface| preface.core)
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
            buffer.forgive();
        }
        let mut any = false;
        while let Some((header, head, payload)) = buffer.message()? {
            any = true;
            let now = shell.now();
            if !shell.message(session, &header, head, payload, now) {
                // What was asked for already is more than its client reads.
                return Err(Ended::Closed);
            }
            if header.api == Api::Handshake as u8 {
                let greeted =
                    |node: &Node<_>| node.is_greeted(session).then(|| node.limits().frame_limits());
                if let Some(limits) = shell.look(greeted) {
                    buffer.grant(limits);
                }
            }
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

async fn write(shell: &Rc<Shell>, socket: &Socket, outbox: &Outbox) {
    loop {
        let held = outbox.next().await;
        let mut slices = vec![&*held.send.bytes];
        slices.extend(held.send.shares.iter().map(AsRef::as_ref));
        let sent = socket.write_slices(&slices).await;
        if sent.is_err() || held.send.last {
            break;
        }
        let pushed = held.send.pushed;
        drop(held);
        if let Some(pushed) = pushed {
            shell.input(|node, now| node.on_pushed(pushed, now));
        }
    }
    socket.close().await;
}
