//! Links between cores of nodes: bytes in to whole messages, messages out, nothing decided.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    io,
    net::{SocketAddr, ToSocketAddrs},
    rc::Rc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use catena_consensus::{Complaints, NO_TLS_HERE, speaks_tls, why_not};
use catena_format::NodeId;
use catena_node::{Dial, LinkId, LinkSend};
use catena_uring::{Share, detach_stream};
use catena_wire::{
    PREFACE_BYTES,
    limits::PEER_HEADER_BYTES,
    peer::{PeerHeader, PeerPreface, PeerThread},
};
use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
use glommio::{
    net::TcpStream,
    timer::{sleep, timeout},
};

use super::secure::{self, REFUSED_WAIT, complain};
use crate::{
    cores::Cargo,
    shell::{Shell, breathe},
    socket::Socket,
    tasks::Task,
};

/// How long a connection may take to come about, its preface to come, and TLS behind that.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_millis(500);
/// What a link receives into at first, and again when what was larger is through.
const RECEIVE_BYTES: usize = 256 << 10;
/// Bytes that may wait for one other core; beyond, the link ends and begins anew.
const UNSENT_BYTES_MAX: usize = 256 << 20;

/// What waits for another node.
#[derive(Default)]
struct Out {
    queue: RefCell<VecDeque<LinkSend<Share>>>,
    bytes: Cell<usize>,
    waker: RefCell<Option<Waker>>,
    /// It takes nothing more.
    over: Cell<bool>,
}

/// The links of a core.
#[derive(Default)]
pub(crate) struct Links {
    /// What was told of nodes that cannot be spoken with.
    pub(super) complaints: Complaints,
    /// When it was found that another node's core, which is dialled, cannot be spoken with.
    refused: RefCell<BTreeMap<(NodeId, u16), Instant>>,
    next: Cell<u64>,
    open: RefCell<BTreeMap<LinkId, Rc<Out>>>,
}

fn bytes_of(send: &LinkSend<Share>) -> usize {
    send.bytes.len() + send.shares.iter().map(|share| share.as_ref().len()).sum::<usize>()
}

impl Links {
    fn begin(&self) -> (LinkId, Rc<Out>) {
        let number = self.next.get();
        self.next.set(number + 1);
        let (link, out) = (LinkId(number), Rc::new(Out::default()));
        self.open.borrow_mut().insert(link, out.clone());
        (link, out)
    }

    /// Leaves something to be sent.
    pub(crate) fn send(&self, send: LinkSend<Share>) {
        let Some(out) = self.open.borrow().get(&send.link).cloned() else { return };
        let bytes = out.bytes.get() + bytes_of(&send);
        out.bytes.set(bytes);
        if bytes > UNSENT_BYTES_MAX {
            tracing::warn!("{:?} ends: the other node does not take {bytes} bytes", send.link);
            out.over.set(true);
        } else {
            out.queue.borrow_mut().push_back(send);
        }
        if let Some(waker) = out.waker.take() {
            waker.wake();
        }
    }
}

impl Out {
    /// The next to send; `None`: nothing more is to be.
    async fn next(&self) -> Option<LinkSend<Share>> {
        poll_fn(|cx| {
            if self.over.get() {
                return Poll::Ready(None);
            }
            match self.queue.borrow_mut().pop_front() {
                Some(send) => Poll::Ready(Some(send)),
                None => {
                    self.waker.replace(Some(cx.waker().clone()));
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// Connects to a core of another node, and speaks with it until the link ends.
pub(crate) async fn dial(shell: Rc<Shell>, dial: Dial) {
    let Dial { node, core, address } = dial;
    let refused = shell.links().refused.borrow_mut().remove(&(node, core));
    if let Some(at) = refused {
        sleep(REFUSED_WAIT.saturating_sub(at.elapsed())).await;
    }
    // It would be part of every task that serves a link.
    let connecting = Box::pin(connect(&shell, &address, core));
    let why = match timeout(CONNECT_WITHIN, async { Ok(connecting.await) }).await {
        Ok(Ok(socket)) => {
            let peer = format!("node {node} at {address}");
            return converse(&shell, &socket, &peer, Some((node, core))).await;
        }
        Ok(Err(error)) => why_not(&error),
        Err(_) => None,
    };
    if let Some(why) = why {
        complain(&shell, &format!("no TLS with node {node} at {address}: {why}"));
        shell.links().refused.borrow_mut().insert((node, core), Instant::now());
    }
    shell.input(|at, now| at.on_no_link(node, core, now));
}

async fn connect(shell: &Rc<Shell>, address: &str, core: u16) -> io::Result<Socket> {
    let mut stream = match address.parse::<SocketAddr>() {
        Ok(address) => TcpStream::connect(address).await?,
        Err(_) => TcpStream::connect(resolve(address.to_owned()).await?).await?,
    };
    stream.set_nodelay(true)?;
    stream.write_all(&PeerPreface { to: PeerThread::Core(core) }.encode()).await?;
    secure::dialled(shell, stream, address).await
}

/// Names are looked up beside the executor.
async fn resolve(address: String) -> io::Result<SocketAddr> {
    let resolving = glommio::executor().spawn_blocking(move || address.to_socket_addrs());
    let mut found = resolving.await?;
    found.next().ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Serves a connection to the peers' listener, here or on the thread that it is for; `arrived`: it
/// is here because of that.
pub(crate) async fn serve_peer(shell: &Rc<Shell>, mut stream: TcpStream, arrived: bool) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    if !arrived {
        let mut preface = [0; PREFACE_BYTES];
        let read = async { Ok(stream.read_exact(&mut preface).await) };
        if !matches!(timeout(CONNECT_WITHIN, read).await, Ok(Ok(()))) {
            return;
        }
        let to = match PeerPreface::parse(&preface) {
            Ok(preface) => preface.to,
            Err(error) => return tracing::warn!("a connection to the peers' listener: {error}"),
        };
        if to != PeerThread::Core(shell.core()) {
            let Ok(descriptor) = detach_stream(stream) else { return };
            return match (to, &shell.shared().consensus) {
                (PeerThread::Consensus, Some(consensus)) => consensus.accept(descriptor.into()),
                (PeerThread::Core(core), _) if usize::from(core) < shell.shared().cores() => {
                    shell.shared().send(shell.core(), core, Cargo::Peer(descriptor));
                }
                _ => {}
            };
        }
    }
    let peer = secure::host_of(&stream);
    let Some(socket) = secure::accepted(shell, stream).await else { return };
    converse(shell, &socket, &format!("{peer}, which dials as a node"), None).await;
}

/// Speaks over a link until it ends.
async fn converse(shell: &Rc<Shell>, socket: &Socket, peer: &str, dialled: Option<(NodeId, u16)>) {
    let (link, out) = shell.links().begin();
    shell.input(|node, now| node.on_link(link, dialled, now));
    let writes = async {
        write(shell, link, socket, &out).await;
        None
    };
    let ended = future::or(read(shell, link, socket), writes).await;
    shell.links().open.borrow_mut().remove(&link);
    if let Some(why) = ended {
        complain(shell, &format!("no TLS with {peer}: {why}"));
        if let Some(dialled) = dialled {
            shell.links().refused.borrow_mut().insert(dialled, Instant::now());
        } else if !socket.is_tls() {
            let _ = socket.write_slices(&[&NO_TLS_HERE]).await;
        }
    }
    shell.input(|node, now| node.on_link_lost(link, now));
}

/// Takes what comes until the link ends; given is why, if the sides do not agree on TLS.
async fn read(shell: &Rc<Shell>, link: LinkId, socket: &Socket) -> Option<String> {
    let (mut buffer, mut start, mut end) = (vec![0; RECEIVE_BYTES], 0, 0);
    let mut turns = 0;
    loop {
        let mut needed = PEER_HEADER_BYTES;
        let mut any = false;
        while let Some(header) = buffer[start..end].first_chunk() {
            let Ok(header) = PeerHeader::parse(header) else {
                let why = speaks_tls(&buffer[start..end]).map(str::to_owned);
                if why.is_none() {
                    tracing::warn!("{link:?} ends: what came is no frame of a peer");
                }
                return why;
            };
            needed = usize::try_from(header.frame_bytes()).unwrap_or(usize::MAX);
            let Some(frame) = buffer[start..end].get(PEER_HEADER_BYTES..needed) else { break };
            let (head, payload) = frame.split_at(header.head_bytes as usize);
            let now = shell.now();
            shell.link_message(link, &header, head, payload, now);
            start += needed;
            needed = PEER_HEADER_BYTES;
            any = true;
        }
        if any {
            // What came together goes to the disk together.
            shell.carry_out();
            breathe(&mut turns).await;
        }
        if start > 0 {
            buffer.copy_within(start..end, 0);
            (start, end) = (0, end - start);
        }
        if buffer.len() < needed {
            buffer.resize(needed, 0);
        } else if end == 0 && buffer.len() > RECEIVE_BYTES {
            buffer = vec![0; RECEIVE_BYTES];
        }
        match socket.read(&mut buffer[end..]).await {
            Ok(0) => return speaks_tls(&buffer[..end]).map(str::to_owned),
            Err(error) => return why_not(&error),
            Ok(read) => {
                end += read;
                shell.link_heard(link);
            }
        }
    }
}

async fn write(shell: &Rc<Shell>, link: LinkId, socket: &Socket, out: &Out) {
    while let Some(send) = out.next().await {
        let mut slices = vec![&*send.bytes];
        slices.extend(send.shares.iter().map(AsRef::as_ref));
        let sent = socket.write_slices(&slices).await;
        if sent.is_err() || send.last {
            break;
        }
        let bytes = bytes_of(&send);
        out.bytes.set(out.bytes.get() - bytes);
        shell.link_sent(link, bytes);
    }
    socket.close().await;
}

/// Takes connections of other nodes for as long as the server runs.
pub(crate) async fn listen(shell: Rc<Shell>, listener: glommio::net::TcpListener) {
    loop {
        match listener.accept().await {
            Ok(stream) => {
                let serving = shell.clone();
                shell.spawn(Task::Link, async move { serve_peer(&serving, stream, false).await });
            }
            Err(_) => glommio::timer::sleep(Duration::from_millis(20)).await,
        }
    }
}
