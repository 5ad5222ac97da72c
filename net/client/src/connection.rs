//! A connection: requests out, responses in, in whatever order they come.

use std::{
    io::{self, BufReader, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use catena_wire::{
    Api, ApiRange, FRAME_HEADER_BYTES, FrameHeader, FrameLimits, HandshakeRequest,
    HandshakeResponse, Message, Preface, Refusal, encode_message,
};

use crate::error::Error;

/// A connection to one server.
#[derive(Debug)]
pub struct Connection {
    address: String,
    reader: BufReader<TcpStream>,
    next_correlation: u32,
    greeting: Option<HandshakeResponse<'static>>,
}

/// A response, not yet read.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) correlation: u32,
    pub(crate) head: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Connection {
    /// Connects to `address` (`host:port`) and shakes hands; `wait` bounds each step.
    ///
    /// # Errors
    /// [`Error::Connection`], or what the server says.
    pub fn open(address: &str, wait: Duration) -> Result<Self, Error> {
        let failed = |source| Error::Connection { address: address.to_owned(), source };
        let stream = dial(address, wait).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(wait)).map_err(failed)?;
        stream.set_write_timeout(Some(wait)).map_err(failed)?;
        let mut connection = Self {
            address: address.to_owned(),
            reader: BufReader::with_capacity(64 << 10, stream),
            next_correlation: 0,
            greeting: None,
        };
        connection.write(&Preface { core: None }.encode())?;
        let request = HandshakeRequest {
            client: "catena-rust".into(),
            client_version: env!("CARGO_PKG_VERSION").into(),
            apis: ApiRange::spoken(&Api::ALL),
            features: 0,
            mechanism: "".into(),
            authentication: Vec::new().into(),
        };
        let (greeting, _) =
            connection.call::<_, HandshakeResponse<'_>>(Api::Handshake, &request, &[])?;
        Error::check(greeting.error, &greeting.message)?;
        connection.greeting = Some(greeting);
        Ok(connection)
    }

    /// What the server said of itself.
    ///
    /// # Panics
    /// Never: an open connection has shaken hands.
    #[must_use]
    pub fn greeting(&self) -> &HandshakeResponse<'static> {
        self.greeting.as_ref().expect("an open connection has shaken hands")
    }

    /// Waits for answers for so long from now on.
    pub(crate) fn set_wait(&self, wait: Duration) {
        // A connection that cannot be set up any more fails at its next use.
        let _ = self.reader.get_ref().set_read_timeout(Some(wait));
    }

    /// Sends a request and waits for its response: its head and payload.
    pub(crate) fn call<'q, Q: Message<'q>, R: Message<'static, Owned = R>>(
        &mut self,
        api: Api,
        request: &Q,
        payload: &[u8],
    ) -> Result<(R, Vec<u8>), Error> {
        let correlation = self.send(api, request, payload)?;
        loop {
            let response = self.receive()?;
            if response.correlation == correlation {
                return Ok((R::decode_owned(&response.head)?, response.payload));
            }
        }
    }

    /// Sends a request; tells its correlation id.
    pub(crate) fn send<'q, Q: Message<'q>>(
        &mut self,
        api: Api,
        request: &Q,
        payload: &[u8],
    ) -> Result<u32, Error> {
        let correlation = self.next_correlation;
        self.next_correlation = correlation.wrapping_add(1);
        let mut bytes = Vec::with_capacity(128 + payload.len());
        encode_message(api, correlation, request, payload.len(), &mut bytes)?;
        bytes.extend_from_slice(payload);
        self.write(&bytes)?;
        Ok(correlation)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.reader.get_mut().write_all(bytes).map_err(|source| self.failed(source))
    }

    /// The next response, whichever request it answers.
    pub(crate) fn receive(&mut self) -> Result<Response, Error> {
        let mut header = [0; FRAME_HEADER_BYTES];
        self.reader.read_exact(&mut header).map_err(|source| self.failed(source))?;
        let header = FrameHeader::parse(&header, FrameLimits::RESPONSE)?;
        let head = self.read(header.head_bytes)?;
        let payload = self.read(header.payload_bytes)?;
        if header.is_refusal() {
            let refusal = Refusal::decode(&head)?;
            let (code, message) = (refusal.error, refusal.message.into_owned());
            return Err(Error::Server { code, message });
        }
        Ok(Response { correlation: header.correlation, head, payload })
    }

    /// Whether bytes were received and not yet read: the socket alone does not tell about them.
    #[must_use]
    pub fn has_buffered(&self) -> bool {
        !self.reader.buffer().is_empty()
    }

    /// Whether a response, or part of one, has already arrived.
    pub(crate) fn has_response(&mut self) -> bool {
        if !self.reader.buffer().is_empty() {
            return true;
        }
        let stream = self.reader.get_ref();
        if stream.set_nonblocking(true).is_err() {
            return true;
        }
        let peeked = stream.peek(&mut [0]);
        let blocking = stream.set_nonblocking(false);
        let nothing = matches!(&peeked, Err(e) if e.kind() == io::ErrorKind::WouldBlock);
        !nothing || blocking.is_err()
    }

    fn read(&mut self, length: u32) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let read = (&mut self.reader).take(u64::from(length)).read_to_end(&mut bytes);
        let read = read.map_err(|source| self.failed(source))?;
        if read < length as usize {
            return Err(self.failed(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(bytes)
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Connection { address: self.address.clone(), source }
    }
}

/// The socket, to wait at; reading from it or writing to it garbles the conversation.
impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.get_ref().as_fd()
    }
}

fn dial(address: &str, wait: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, wait) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
