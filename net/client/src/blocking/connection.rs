//! A connection: requests out, responses in, in whatever order they come.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::Duration,
};

use catena_wire::{Api, HandshakeResponse, Message, ProduceRequest, ProduceResponse};

use crate::{
    core::link::{Answer, Hello, Link},
    error::Error,
    options::Options,
};

const READ_BYTES: usize = 64 << 10;

/// A connection to one server, for whoever wants requests and responses as they are.
#[derive(Debug)]
pub struct Connection {
    address: String,
    stream: TcpStream,
    buffer: Vec<u8>,
    link: Link,
}

/// A response, not yet read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    /// The correlation id of the request.
    pub correlation: u32,
    /// The head, to be decoded as the API's response.
    pub head: Vec<u8>,
    /// The payload: record batches, or nothing.
    pub payload: Vec<u8>,
}

impl Connection {
    /// Connects to `address` (`host:port`) and shakes hands; `wait` bounds each step.
    ///
    /// # Errors
    /// [`Error::Unreachable`], or what the server says.
    pub fn open(address: &str, wait: Duration) -> Result<Self, Error> {
        Self::open_with(&Options::new(address).with_request_timeout(wait), None)
    }

    /// Connects to the first server that `options` name, under TLS if they say so, and shakes
    /// hands; the request timeout bounds each step. With a `core`, that is asked to serve it.
    ///
    /// # Errors
    /// [`Error::Option`], [`Error::Unreachable`], [`Error::Tls`], or what the server says.
    pub fn open_with(options: &Options, core: Option<u16>) -> Result<Self, Error> {
        let hello = Hello { core, ..options.hello()? };
        Self::open_as(&options.servers()?[0], &hello, options.request_timeout)
    }

    pub(crate) fn open_as(address: &str, hello: &Hello, wait: Duration) -> Result<Self, Error> {
        let opened = Self::dial(address, hello, wait);
        opened.and_then(Self::shake_hands).map_err(Error::before_asking)
    }

    fn dial(address: &str, hello: &Hello, wait: Duration) -> Result<Self, Error> {
        let failed = |source: io::Error| lost(address, source);
        let stream = dial(address, wait).map_err(failed)?;
        stream.set_read_timeout(Some(wait)).map_err(failed)?;
        stream.set_write_timeout(Some(wait)).map_err(failed)?;
        let link = Link::new(hello, address)?;
        Ok(Self { address: address.to_owned(), stream, buffer: vec![0; READ_BYTES], link })
    }

    fn shake_hands(mut self) -> Result<Self, Error> {
        self.write()?;
        while self.link.greeting().is_none() {
            if let Err(error) = self.read() {
                // Under TLS a server is told why.
                let _ = self.write();
                return Err(self.link.explain(error));
            }
            self.write()?;
        }
        Ok(self)
    }

    /// Where it goes.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// What the server said of itself.
    ///
    /// # Panics
    /// Never: an open connection has shaken hands.
    #[must_use]
    pub fn greeting(&self) -> &HandshakeResponse<'static> {
        self.link.greeting().expect("an open connection has shaken hands")
    }

    /// Waits for answers for so long from now on.
    ///
    /// # Errors
    /// [`Error::Connection`].
    pub fn set_wait(&self, wait: Duration) -> Result<(), Error> {
        self.stream.set_read_timeout(Some(wait)).map_err(|source| lost(&self.address, source))
    }

    /// Sends a request and waits for its response: its head, decoded, and its payload. Responses to
    /// other requests are dropped.
    ///
    /// # Errors
    /// [`Error::Connection`], after which the connection is of no use; [`Error::Protocol`]; and the
    /// refusal in place of a response.
    pub fn call<'q, Q: Message<'q>, R: Message<'static, Owned = R>>(
        &mut self,
        api: Api,
        request: &Q,
        payload: &[u8],
    ) -> Result<(R, Vec<u8>), Error> {
        let correlation = self.send(api, request, payload)?;
        let answer = self.answer(correlation)?;
        Ok((R::decode_owned(&answer.head)?, answer.payload))
    }

    pub(crate) fn call_head(&mut self, api: Api, head: &[u8]) -> Result<Answer, Error> {
        let correlation = self.link.request_head(api, head, &[])?;
        self.write()?;
        self.answer(correlation)
    }

    fn answer(&mut self, correlation: u32) -> Result<Answer, Error> {
        loop {
            while let Some(response) = self.link.poll_response() {
                if response.correlation == correlation {
                    return response.answer;
                }
            }
            self.read()?;
        }
    }

    /// Sends a request; tells its correlation id.
    ///
    /// # Errors
    /// [`Error::Connection`]; and what the server does not speak or take is not sent.
    pub fn send<'q, Q: Message<'q>>(
        &mut self,
        api: Api,
        request: &Q,
        payload: &[u8],
    ) -> Result<u32, Error> {
        let correlation = self.link.request(api, request, payload)?;
        self.write()?;
        Ok(correlation)
    }

    /// The next response, whichever request it answers.
    ///
    /// # Errors
    /// [`Error::Connection`], after which the connection is of no use; [`Error::Protocol`]; and the
    /// refusal in place of a response.
    pub fn receive(&mut self) -> Result<Response, Error> {
        loop {
            if let Some(response) = self.link.poll_response() {
                let (correlation, answer) = (response.correlation, response.answer?);
                let Answer { head, payload } = answer;
                return Ok(Response { correlation, head, payload });
            }
            self.read()?;
        }
    }

    /// Sends one finished batch; tells the correlation id that its answer will have. Nothing is
    /// gathered, retried or waited for: [`crate::blocking::Producer`] does that.
    ///
    /// # Errors
    /// As [`Connection::send`]; after [`Error::Connection`] the batch may have been stored.
    pub fn send_batch(&mut self, request: &ProduceRequest, batch: &[u8]) -> Result<u32, Error> {
        self.send(Api::Produce, request, batch)
    }

    /// Waits for the next answer to a batch; tells its correlation id. Answers of different
    /// partitions may overtake each other. Whether it is a receipt, its `error` says.
    ///
    /// # Errors
    /// As [`Connection::receive`].
    pub fn receive_answer(&mut self) -> Result<(u32, ProduceResponse<'static>), Error> {
        let response = self.receive()?;
        Ok((response.correlation, ProduceResponse::decode_owned(&response.head)?))
    }

    /// Whether a response was received and not yet taken: the socket alone does not tell about it.
    #[must_use]
    pub fn has_buffered(&self) -> bool {
        self.link.has_response()
    }

    /// Whether the server has not ended it, as far as is known here.
    pub(super) fn is_open(&mut self) -> bool {
        let mut open = self.stream.set_nonblocking(true).is_ok();
        while open {
            open = match self.stream.read(&mut self.buffer) {
                Ok(0) => false,
                Ok(count) => self.link.on_bytes(&self.buffer[..count]).is_ok(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => false,
            };
        }
        open && self.stream.set_nonblocking(false).is_ok()
    }

    fn write(&mut self) -> Result<(), Error> {
        let bytes = self.link.take_outbound();
        if bytes.is_empty() {
            return Ok(());
        }
        self.stream.write_all(&bytes).map_err(|source| lost(&self.address, source))
    }

    fn read(&mut self) -> Result<(), Error> {
        let failed = |source| lost(&self.address, source);
        match self.stream.read(&mut self.buffer).map_err(failed)? {
            0 => Err(failed(io::ErrorKind::UnexpectedEof.into())),
            count => self.link.on_bytes(&self.buffer[..count]),
        }
    }
}

/// The socket, to wait at; reading from it or writing to it garbles the conversation.
impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Connects without delay of small packets.
pub(super) fn dial(address: &str, wait: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, wait) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What breaks a connection.
pub(super) fn lost(address: &str, source: io::Error) -> Error {
    // So a socket says that its time is up.
    let late = source.kind() == io::ErrorKind::WouldBlock;
    let source = if late { io::ErrorKind::TimedOut.into() } else { source };
    Error::Connection { address: address.to_owned(), source: Arc::new(source) }
}
