//! Connections between nodes in plaintext or under TLS, and what is said when it comes to nothing.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    rc::Rc,
    time::Duration,
};

use catena_consensus::{name_at, why_not};
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use futures_rustls::TlsAcceptor;
use glommio::{net::TcpStream, timer::timeout};

use super::links::CONNECT_WITHIN;
use crate::{shell::Shell, socket::Socket};

/// What is read and dropped of a connection that was refused, so that the other side reads why.
const DISCARDED_BYTES_MAX: usize = 1 << 20;

/// The socket to who was dialled.
pub(super) async fn dialled(
    shell: &Rc<Shell>,
    stream: TcpStream,
    address: &str,
) -> io::Result<Socket> {
    match shell.shared().live.peer_tls() {
        None => Ok(Socket::plain(stream)),
        Some(tls) => Socket::dial_tls(stream, tls.current().dials, name_at(address)?).await,
    }
}

/// The socket to who has dialled, if it proves in time that it is a node.
pub(super) async fn accepted(shell: &Rc<Shell>, stream: TcpStream) -> Option<Socket> {
    let Some(tls) = shell.shared().live.peer_tls() else { return Some(Socket::plain(stream)) };
    let peer = host_of(&stream);
    let accept = TlsAcceptor::from(tls.current().accepts).accept(stream).into_fallible();
    // It would be part of every task that serves a link.
    let accept = Box::pin(accept);
    let refused = match timeout(CONNECT_WITHIN, async { Ok(accept.await) }).await {
        Ok(Ok(stream)) => return Some(Socket::of_tls(stream.into())),
        Ok(Err((error, stream))) => {
            match why_not(&error) {
                Some(why) => {
                    complain(shell, &format!("no TLS with {peer}, which dials as a node: {why}"));
                }
                None => tracing::debug!("{peer}, which dials as a node, is gone: {error}"),
            }
            Some(stream)
        }
        Err(_) => {
            complain(shell, &format!("no TLS in time with {peer}, which dials as a node"));
            None
        }
    };
    if let Some(stream) = refused {
        let _ = timeout(CONNECT_WITHIN, async { Ok(discard(stream).await) }).await;
    }
    None
}

/// Without it the other side may be told of a broken connection in place of why.
async fn discard(mut stream: TcpStream) -> io::Result<()> {
    stream.close().await?;
    let (mut buffer, mut left) = (vec![0; 16 << 10], DISCARDED_BYTES_MAX);
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            read => left = left.checked_sub(read).ok_or(io::ErrorKind::FileTooLarge)?,
        }
    }
}

/// The host that somebody has dialled from.
pub(super) fn host_of(stream: &TcpStream) -> IpAddr {
    stream.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip())
}

/// Counts and tells that two nodes cannot speak with each other.
pub(super) fn complain(shell: &Rc<Shell>, complaint: &str) {
    shell.peer_refused();
    if shell.links().complaints.is_news(complaint) {
        tracing::warn!("{complaint}");
    }
}

/// So long who cannot be spoken with is not dialled again: neither a setting nor a certificate
/// changes by itself.
pub(super) const REFUSED_WAIT: Duration = Duration::from_secs(1);
