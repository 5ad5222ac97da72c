//! A connection's two ways, in plaintext or under TLS.

use std::{io, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::frame::FrameError;
use crate::tls::{Tls, name_at, why_not};

pub(super) type Reader = Box<dyn AsyncRead + Send + Unpin>;
pub(super) type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// The ways to who was dialled at an address.
pub(super) async fn dialled(
    stream: TcpStream,
    address: &str,
    tls: Option<&Arc<Tls>>,
) -> Result<(Reader, Writer), FrameError> {
    let Some(tls) = tls else { return Ok(plain(stream)) };
    let connector = TlsConnector::from(tls.current().dials);
    let stream = connector.connect(name_at(address)?, stream).await.map_err(in_handshake)?;
    let (reader, writer) = tokio::io::split(stream);
    Ok((Box::new(reader), Box::new(writer)))
}

/// The ways to who has dialled.
pub(super) async fn accepted(
    stream: TcpStream,
    tls: Option<&Arc<Tls>>,
) -> Result<(Reader, Writer), FrameError> {
    let Some(tls) = tls else { return Ok(plain(stream)) };
    let acceptor = TlsAcceptor::from(tls.current().accepts);
    let stream = acceptor.accept(stream).await.map_err(in_handshake)?;
    let (reader, writer) = tokio::io::split(stream);
    Ok((Box::new(reader), Box::new(writer)))
}

fn plain(stream: TcpStream) -> (Reader, Writer) {
    let (reader, writer) = stream.into_split();
    (Box::new(reader), Box::new(writer))
}

fn in_handshake(error: io::Error) -> FrameError {
    match why_not(&error) {
        Some(why) => FrameError::Tls(why),
        None => FrameError::Io(format!("within the handshake of TLS: {error}")),
    }
}
