//! A connection: one request, one answer.

use std::{
    io::{self, Read},
    os::fd::AsFd,
    sync::Arc,
    time::Duration,
};

use catena_wire::{Api, HandshakeResponse};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    core::{
        call,
        link::{Answer, Hello, Link},
    },
    error::Error,
};

const READ_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Connection {
    address: String,
    stream: TcpStream,
    buffer: Vec<u8>,
    link: Link,
}

impl Connection {
    /// Connects to `address` (`host:port`) and shakes hands; `wait` bounds each step.
    pub(super) async fn open(address: &str, hello: &Hello, wait: Duration) -> Result<Self, Error> {
        let opened = Self::shake_hands(address, hello, wait).await;
        opened.map_err(Error::before_asking)
    }

    async fn shake_hands(address: &str, hello: &Hello, wait: Duration) -> Result<Self, Error> {
        let stream = dial(address, wait).await.map_err(|source| lost(address, source))?;
        let link = Link::new(hello, address)?;
        let (address, buffer) = (address.to_owned(), vec![0; READ_BYTES]);
        let mut connection = Self { address, stream, buffer, link };
        connection.write(wait).await?;
        while connection.link.greeting().is_none() {
            if let Err(error) = connection.read(wait).await {
                // Under TLS a server is told why.
                let _ = connection.write(wait).await;
                return Err(connection.link.explain(error));
            }
            connection.write(wait).await?;
        }
        Ok(connection)
    }

    /// Where it goes.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// What the server said of itself.
    pub(super) fn greeting(&self) -> &HandshakeResponse<'static> {
        self.link.greeting().expect("an open connection has shaken hands")
    }

    /// Asks and awaits the answer. When it is dropped before, the connection is of no use.
    pub(super) async fn call(
        &mut self,
        api: Api,
        head: &[u8],
        wait: Duration,
    ) -> Result<Answer, Error> {
        let correlation = self.link.request_head(api, head, &[])?;
        self.write(wait).await?;
        loop {
            while let Some(response) = self.link.poll_response() {
                if response.correlation == correlation {
                    return response.answer;
                }
            }
            self.read(wait).await?;
        }
    }

    /// Whether the server has not ended it, as far as is known here.
    pub(super) fn is_open(&mut self) -> bool {
        // The socket itself is asked: its runtime may not have looked at it for long.
        let socket = self.stream.as_fd().try_clone_to_owned();
        let Ok(mut socket) = socket.map(std::net::TcpStream::from) else { return false };
        loop {
            let open = match socket.read(&mut self.buffer) {
                Ok(0) => false,
                Ok(count) => self.link.on_bytes(&self.buffer[..count]).is_ok(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => false,
            };
            if !open {
                return false;
            }
        }
    }

    /// Whether it answers in time.
    pub(super) async fn answers(&mut self, wait: Duration) -> bool {
        let Ok(ping) = call::ping() else { return false };
        self.call(ping.api, &ping.head, wait).await.is_ok()
    }

    /// Waits until the end is known here; what has come and is not read yet is a panic.
    #[cfg(test)]
    pub(super) async fn ended(&self) {
        assert_eq!(self.stream.peek(&mut [0]).await.unwrap(), 0);
    }

    async fn write(&mut self, wait: Duration) -> Result<(), Error> {
        let bytes = self.link.take_outbound();
        let written = in_time(wait, self.stream.write_all(&bytes)).await;
        written.map_err(|source| lost(&self.address, source))
    }

    async fn read(&mut self, wait: Duration) -> Result<(), Error> {
        let read = in_time(wait, self.stream.read(&mut self.buffer)).await;
        match read.map_err(|source| lost(&self.address, source))? {
            0 => Err(lost(&self.address, io::ErrorKind::UnexpectedEof.into())),
            count => self.link.on_bytes(&self.buffer[..count]),
        }
    }
}

/// Connects without delay of small packets.
pub(super) async fn dial(address: &str, wait: Duration) -> io::Result<TcpStream> {
    let stream = in_time(wait, TcpStream::connect(address)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What breaks a connection.
pub(super) fn lost(address: &str, source: io::Error) -> Error {
    Error::Connection { address: address.to_owned(), source: Arc::new(source) }
}

async fn in_time<T>(wait: Duration, io: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(wait, io).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
