//! One connection: the handshake, frames, and which response belongs to which request.

use std::{collections::VecDeque, io, sync::Arc};

use catena_wire::{
    Api, ApiRange, ErrorCode, FRAME_HEADER_BYTES, FrameHeader, FrameLimits, HandshakeRequest,
    HandshakeResponse, Message, Preface, Refusal, VERSION, encode_message,
};

use super::secure::{Secure, Trust};
use crate::{error::Error, tls::TlsError};

/// What a TLS record begins with that ends a connection.
const TLS_ALERT: u8 = 0x15;

const HANDSHAKE_CORRELATION: u32 = 0;

/// Who the client says it is.
#[derive(Clone, Debug)]
pub(crate) struct Hello {
    pub(crate) client_id: String,
    pub(crate) core: Option<u16>,
    /// Under TLS, and whom to trust.
    pub(crate) trust: Option<Trust>,
}

/// A response: head and payload, or the refusal in their place.
#[derive(Debug)]
pub(crate) struct Response {
    /// The API, by its number: a push is no answer.
    pub(crate) api: u8,
    pub(crate) correlation: u32,
    pub(crate) answer: Result<Answer, Error>,
}

/// Head and payload of a response, not yet read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) head: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

#[derive(Debug)]
enum Inbound {
    Header([u8; FRAME_HEADER_BYTES], usize),
    Body(FrameHeader, Answer),
}

/// A connection without its socket.
#[derive(Debug)]
pub(crate) struct Link {
    address: String,
    secure: Option<Secure>,
    /// What goes out ahead of everything, in plaintext.
    preface: Vec<u8>,
    inbound: Inbound,
    responses: VecDeque<Response>,
    outbound: Vec<u8>,
    next_correlation: u32,
    greeting: Option<HandshakeResponse<'static>>,
}

impl Link {
    /// A connection that begins: preface and handshake are to be sent.
    ///
    /// # Errors
    /// When the client's name is too long to send, or the server's is none.
    pub(crate) fn new(hello: &Hello, address: &str) -> Result<Self, Error> {
        let trust = hello.trust.as_ref();
        let secure = trust.map(|trust| Secure::new(trust, address)).transpose()?;
        let mut outbound = Vec::new();
        let request = HandshakeRequest {
            client: hello.client_id.as_str().into(),
            client_version: env!("CARGO_PKG_VERSION").into(),
            apis: ApiRange::spoken(&Api::ALL),
            features: 0,
            mechanism: "".into(),
            authentication: Vec::new().into(),
        };
        encode_message(Api::Handshake, HANDSHAKE_CORRELATION, &request, 0, &mut outbound)?;
        Ok(Self {
            address: address.to_owned(),
            secure,
            preface: Preface { core: hello.core }.encode().to_vec(),
            inbound: Inbound::Header([0; FRAME_HEADER_BYTES], 0),
            responses: VecDeque::new(),
            outbound,
            next_correlation: HANDSHAKE_CORRELATION + 1,
            greeting: None,
        })
    }

    /// What the server said of itself; `None` before the handshake has succeeded.
    pub(crate) fn greeting(&self) -> Option<&HandshakeResponse<'static>> {
        self.greeting.as_ref()
    }

    /// Takes bytes that came.
    ///
    /// # Errors
    /// The connection cannot go on.
    pub(crate) fn on_bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some(secure) = &mut self.secure else {
            let fresh = self.greeting.is_none() && matches!(self.inbound, Inbound::Header(_, 0));
            if fresh && bytes.first() == Some(&TLS_ALERT) {
                let (address, source) = (self.address.clone(), TlsError::Expected);
                return Err(Error::Tls { address, source });
            }
            return self.on_plain(bytes);
        };
        let mut plain = Vec::new();
        let opened = secure.open(bytes, &mut plain);
        self.on_plain(&plain)?;
        opened.map_err(|error| match error {
            // What was asked may have been done.
            Error::Tls { address, source } if self.greeting.is_some() => {
                Error::Connection { address, source: Arc::new(io::Error::other(source)) }
            }
            error => error,
        })
    }

    /// What the end of the connection means.
    pub(crate) fn explain(&self, error: Error) -> Error {
        match &self.secure {
            Some(secure) => secure.explain(error),
            None => error,
        }
    }

    fn on_plain(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        loop {
            match &mut self.inbound {
                Inbound::Header(header, filled) => {
                    let take = bytes.len().min(FRAME_HEADER_BYTES - *filled);
                    header[*filled..*filled + take].copy_from_slice(&bytes[..take]);
                    *filled += take;
                    bytes = &bytes[take..];
                    if *filled < FRAME_HEADER_BYTES {
                        return Ok(());
                    }
                    let header = FrameHeader::parse(header, FrameLimits::RESPONSE)?;
                    self.inbound = Inbound::Body(header, Answer::default());
                }
                Inbound::Body(header, answer) => {
                    fill(&mut answer.head, header.head_bytes, &mut bytes);
                    fill(&mut answer.payload, header.payload_bytes, &mut bytes);
                    let whole = (answer.head.len() + answer.payload.len() + FRAME_HEADER_BYTES)
                        as u64
                        == header.frame_bytes();
                    if !whole {
                        return Ok(());
                    }
                    let (header, answer) = (*header, std::mem::take(answer));
                    self.inbound = Inbound::Header([0; FRAME_HEADER_BYTES], 0);
                    self.on_frame(&header, answer)?;
                }
            }
        }
    }

    fn on_frame(&mut self, header: &FrameHeader, answer: Answer) -> Result<(), Error> {
        let correlation = header.correlation;
        let answer = if header.is_refusal() {
            let refusal = Refusal::decode(&answer.head)?;
            Err(Error::Server { code: refusal.error, message: refusal.message.into_owned() })
        } else {
            Ok(answer)
        };
        if self.greeting.is_some() {
            self.responses.push_back(Response { api: header.api, correlation, answer });
            return Ok(());
        }
        let greeting = HandshakeResponse::decode_owned(&answer?.head)?;
        Error::check(greeting.error, &greeting.message)?;
        self.greeting = Some(greeting);
        Ok(())
    }

    /// The next response, in the order in which they came.
    pub(crate) fn poll_response(&mut self) -> Option<Response> {
        self.responses.pop_front()
    }

    /// Whether a response waits to be taken.
    pub(crate) fn has_response(&self) -> bool {
        !self.responses.is_empty()
    }

    /// Asks; tells the request's correlation id.
    ///
    /// # Errors
    /// When the server does not speak the API, or takes no message of that length. Nothing is sent.
    pub(crate) fn request<'q, Q: Message<'q>>(
        &mut self,
        api: Api,
        request: &Q,
        payload: &[u8],
    ) -> Result<u32, Error> {
        let mut head = Vec::with_capacity(64);
        request.encode(&mut head)?;
        self.request_head(api, &head, payload)
    }

    /// As [`Link::request`], with a head that was encoded before.
    ///
    /// # Errors
    /// As [`Link::request`].
    pub(crate) fn request_head(
        &mut self,
        api: Api,
        head: &[u8],
        payload: &[u8],
    ) -> Result<u32, Error> {
        let not_yet = || Error::Protocol("a request before the handshake".to_owned());
        let greeting = self.greeting.as_ref().ok_or_else(not_yet)?;
        if ApiRange::common(&greeting.apis, api).is_none() {
            let message = format!("the server does not speak {api:?} as this client does");
            return Err(Error::Server { code: ErrorCode::UnsupportedVersion, message });
        }
        let length = |bytes: &[u8], max: u32| {
            let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= max);
            let message = || format!("{} bytes, the server takes {max}", bytes.len());
            length
                .ok_or_else(|| Error::Server { code: ErrorCode::FrameTooLarge, message: message() })
        };
        let correlation = self.next_correlation;
        let header = FrameHeader {
            api: api as u8,
            version: VERSION,
            correlation,
            head_bytes: length(head, greeting.limits.head_bytes_max)?,
            payload_bytes: length(payload, greeting.limits.payload_bytes_max)?,
        };
        self.next_correlation = correlation.wrapping_add(1);
        self.outbound.reserve(FRAME_HEADER_BYTES + head.len() + payload.len());
        self.outbound.extend_from_slice(&header.encode());
        self.outbound.extend_from_slice(head);
        self.outbound.extend_from_slice(payload);
        Ok(correlation)
    }

    /// Everything that is to be sent by now; empty: nothing.
    pub(crate) fn take_outbound(&mut self) -> Vec<u8> {
        let plain = std::mem::take(&mut self.outbound);
        let mut bytes = std::mem::take(&mut self.preface);
        match &mut self.secure {
            Some(secure) => secure.seal(&plain, &mut bytes),
            None if bytes.is_empty() => return plain,
            None => bytes.extend_from_slice(&plain),
        }
        bytes
    }
}

/// Moves bytes until `into` is as long as announced. Memory grows with what came, not with what
/// was announced.
fn fill(into: &mut Vec<u8>, announced: u32, bytes: &mut &[u8]) {
    let take = bytes.len().min(announced as usize - into.len());
    into.extend_from_slice(&bytes[..take]);
    *bytes = &bytes[take..];
}
