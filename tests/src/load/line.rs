//! A connection without a client library: what is sent is what is written here, byte by byte.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

use catena_format::{
    Millis, PartitionIndex, TopicId,
    records::{BatchBuilder, Producer},
};
use catena_wire::{
    Api, Durability, ErrorCode, FRAME_HEADER_BYTES, FrameHeader, FrameLimits, HandshakeRequest,
    HandshakeResponse, Message, Preface, ProduceRequest, ProduceResponse, encode_message,
};

use crate::live::PATIENCE;

/// A partition to write to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) topic: TopicId,
    pub(super) partition: u32,
    pub(super) core: u16,
}

/// How a request was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    Stored,
    Refused(ErrorCode),
}

/// A connection on which hands were shaken.
pub(super) struct Line {
    pub(super) stream: TcpStream,
}

/// Opens a connection and says the preface; reads and writes wait for [`PATIENCE`] at most.
pub(super) fn knock(address: &str, core: Option<u16>) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&Preface { core }.encode())?;
    Ok(stream)
}

/// The bytes of a handshake.
pub(super) fn handshake() -> Vec<u8> {
    let request = HandshakeRequest {
        client: "load".into(),
        client_version: "0".into(),
        apis: Vec::new(),
        features: 0,
        mechanism: "".into(),
        authentication: Vec::new().into(),
    };
    let mut bytes = Vec::new();
    encode_message(Api::Handshake, 1, &request, 0, &mut bytes).expect("it is small");
    bytes
}

/// A request to store one record of so many bytes, which begins with `who` and `number`.
pub(super) fn produce(target: Target, who: u32, number: u64, bytes: usize) -> Vec<u8> {
    let mut value = vec![0x5a; bytes.max(12)];
    value[..4].copy_from_slice(&who.to_le_bytes());
    value[4..12].copy_from_slice(&number.to_le_bytes());
    let mut builder = BatchBuilder::new();
    builder.push(Millis::new(1), None, Some(&value), &[]);
    let batch = builder.build(Producer::NONE).expect("one record is a batch");
    let request = ProduceRequest {
        topic: target.topic,
        partition: PartitionIndex::new(target.partition),
        durability: Durability::ChainDisk,
        deadline_ms: 0,
        expect_next_offset: None,
    };
    let mut message = Vec::new();
    let correlation = number as u32;
    encode_message(Api::Produce, correlation, &request, batch.len(), &mut message)
        .expect("it is small");
    message.extend_from_slice(&batch);
    message
}

/// Who sent a value, and which one it is.
pub(super) fn numbered(value: &[u8]) -> Option<(u32, u64)> {
    let who = u32::from_le_bytes(value.get(..4)?.try_into().ok()?);
    Some((who, u64::from_le_bytes(value.get(4..12)?.try_into().ok()?)))
}

impl Line {
    /// Connects and shakes hands.
    pub(super) fn open(address: &str, core: Option<u16>) -> io::Result<Self> {
        let mut line = Self { stream: knock(address, core)? };
        line.stream.write_all(&handshake())?;
        let (header, head) = line.read()?;
        if header.is_refusal() {
            return Err(io::Error::other("refused"));
        }
        match HandshakeResponse::decode(&head).map(|response| response.error) {
            Ok(ErrorCode::None) => Ok(line),
            Ok(error) => Err(io::Error::other(error.to_string())),
            Err(error) => Err(io::Error::other(error.to_string())),
        }
    }

    /// The next answer: its header and head.
    pub(super) fn read(&mut self) -> io::Result<(FrameHeader, Vec<u8>)> {
        let mut header = [0; FRAME_HEADER_BYTES];
        self.stream.read_exact(&mut header)?;
        let header =
            FrameHeader::parse(&header, FrameLimits::RESPONSE).map_err(io::Error::other)?;
        let mut rest = vec![0; header.head_bytes as usize + header.payload_bytes as usize];
        self.stream.read_exact(&mut rest)?;
        rest.truncate(header.head_bytes as usize);
        Ok((header, rest))
    }

    /// The next answer to a produce request, with the low half of its number.
    pub(super) fn receipt(&mut self) -> io::Result<(u32, Answer)> {
        let (header, head) = self.read()?;
        let code = head.get(..2).and_then(|code| code.try_into().ok()).map(u16::from_le_bytes);
        let code = match ProduceResponse::decode(&head) {
            _ if header.is_refusal() => ErrorCode::from_number(code.unwrap_or(u16::MAX)),
            Ok(response) => response.error,
            Err(error) => return Err(io::Error::other(error.to_string())),
        };
        let stored = code == ErrorCode::None;
        Ok((header.correlation, if stored { Answer::Stored } else { Answer::Refused(code) }))
    }

    /// Stores a record and waits for the answer; how long that took.
    pub(super) fn store(&mut self, message: &[u8]) -> io::Result<(Answer, Duration)> {
        let began = Instant::now();
        self.stream.write_all(message)?;
        let (_, answer) = self.receipt()?;
        Ok((answer, began.elapsed()))
    }
}

/// What became of something that was sent and deserves an answer or an end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Answered,
    Closed,
    /// Neither within [`PATIENCE`].
    Nothing,
}

/// Waits until something comes, or the connection ends.
pub(super) fn heard(stream: &mut TcpStream) -> End {
    match stream.read(&mut [0; 64]) {
        Ok(1..) => End::Answered,
        Ok(0) => End::Closed,
        Err(error) if is_wait(&error) => End::Nothing,
        Err(_) => End::Closed,
    }
}

/// Waits until the connection ends, and for the reason that the server told before that: the code
/// of the last refusal.
pub(super) fn ends(stream: TcpStream) -> (End, Option<ErrorCode>) {
    let (mut line, mut reason) = (Line { stream }, None);
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        match line.read() {
            Ok((header, head)) => {
                let code = head.get(..2).and_then(|code| code.try_into().ok());
                let code = code.map(|code| ErrorCode::from_number(u16::from_le_bytes(code)));
                reason = code.filter(|_| header.is_refusal()).or(reason);
            }
            Err(error) if is_wait(&error) => break,
            Err(_) => return (End::Closed, reason),
        }
    }
    (End::Nothing, reason)
}

pub(super) fn is_wait(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Nothing more is sent on it.
pub(super) fn half_close(stream: &TcpStream) {
    let _ = stream.shutdown(Shutdown::Write);
}
