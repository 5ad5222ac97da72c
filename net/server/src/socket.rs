//! A socket as its reader and its writer share it.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use catena_uring::stream_descriptor;
use futures_lite::{AsyncRead, AsyncWrite, future::poll_fn};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use glommio::net::TcpStream;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use rustls::{ClientConfig, ServerConfig, pki_types::ServerName};

/// The most slices given to the kernel at once.
const SLICES_MAX: usize = 64;

/// A socket with one reader and one writer, on one executor.
#[derive(Clone)]
pub(crate) struct Socket(Rc<RefCell<Stream>>);

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

impl Socket {
    /// A socket in plaintext.
    pub(crate) fn plain(stream: TcpStream) -> Self {
        Self(Rc::new(RefCell::new(Stream::Plain(stream))))
    }

    /// A socket under TLS, once both sides agree.
    pub(crate) async fn tls(stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        Ok(Self::of_tls(TlsAcceptor::from(config).accept(stream).await?.into()))
    }

    /// The same, when it is this side that has dialled: the other one has proven its name.
    pub(crate) async fn dial_tls(
        stream: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        Ok(Self::of_tls(TlsConnector::from(config).connect(name, stream).await?.into()))
    }

    /// A socket whose sides have agreed.
    pub(crate) fn of_tls(stream: TlsStream<TcpStream>) -> Self {
        Self(Rc::new(RefCell::new(Stream::Tls(Box::new(stream)))))
    }

    /// Whether it is under TLS.
    pub(crate) fn is_tls(&self) -> bool {
        matches!(*self.0.borrow(), Stream::Tls(_))
    }

    fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut dyn Duplex>, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        match &mut *self.0.borrow_mut() {
            Stream::Plain(stream) => poll(Pin::new(stream), cx),
            Stream::Tls(stream) => poll(Pin::new(&mut **stream), cx),
        }
    }

    /// Reads what is there, at least a byte; zero: the peer sends no more.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll(cx, |stream, cx| stream.poll_read(cx, buffer))).await
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match poll_fn(|cx| self.poll(cx, |stream, cx| stream.poll_write(cx, bytes))).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => bytes = &bytes[written..],
            }
        }
        Ok(())
    }

    /// Writes all slices in their order; in plaintext uncopied, and with as few calls as the
    /// kernel's buffer allows.
    pub(crate) async fn write_slices(&self, slices: &[&[u8]]) -> io::Result<()> {
        for slices in slices.chunks(SLICES_MAX) {
            let mut sent = self.send_now(slices);
            // What did not fit waits for room, slice by slice.
            for slice in slices {
                let skip = sent.min(slice.len());
                sent -= skip;
                self.write_all(&slice[skip..]).await?;
            }
        }
        poll_fn(|cx| self.poll(cx, |stream, cx| stream.poll_flush(cx))).await
    }

    /// Sends what the kernel takes at once. An error comes again with the write that follows.
    fn send_now(&self, slices: &[&[u8]]) -> usize {
        let Stream::Plain(stream) = &*self.0.borrow() else { return 0 };
        let slices: Vec<IoSlice<'_>> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let mut nothing = SendAncillaryBuffer::default();
        sendmsg(stream_descriptor(stream), &slices, &mut nothing, flags).unwrap_or(0)
    }

    /// Says that nothing more will be sent.
    pub(crate) async fn close(&self) {
        let _ = poll_fn(|cx| self.poll(cx, |stream, cx| stream.poll_close(cx))).await;
    }
}
