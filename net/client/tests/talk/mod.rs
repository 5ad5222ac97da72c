//! Requests in and answers out, for a server that a test makes up.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
};

use catena_wire::{
    Api, FRAME_HEADER_BYTES, FrameHeader, FrameLimits, HandshakeResponse, Message, encode_message,
};

/// What a client sends before its first request.
pub(crate) const PREFACE_BYTES: usize = 16;

/// The first request, which is answered with the greeting.
pub(crate) fn shake_hands(
    stream: &mut TcpStream,
    greeting: &HandshakeResponse<'static>,
) -> io::Result<()> {
    let handshake = request(stream)?;
    answer(stream, handshake, greeting)
}

/// The next request, whose body is left out.
pub(crate) fn request(stream: &mut TcpStream) -> io::Result<FrameHeader> {
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header)?;
    let header = FrameHeader::parse(&header, FrameLimits::REQUEST).unwrap();
    let body = header.frame_bytes() - FRAME_HEADER_BYTES as u64;
    io::copy(&mut stream.take(body), &mut io::sink())?;
    Ok(header)
}

pub(crate) fn answer<'m, M: Message<'m>>(
    stream: &mut TcpStream,
    asked: FrameHeader,
    message: &M,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    let api = Api::from_number(asked.api).unwrap();
    encode_message(api, asked.correlation, message, 0, &mut bytes).unwrap();
    stream.write_all(&bytes)
}
