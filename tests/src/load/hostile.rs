//! Clients that do what they should not: each must be answered, or lose its connection.

use std::{
    io::{self, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use catena_format::{Offset, PartitionIndex};
use catena_wire::{
    Api, ErrorCode, FRAME_HEADER_BYTES, FrameHeader, SubscribeRequest, encode_message,
};

use super::line::{End, Line, Target, ends, half_close, handshake, heard, knock, produce};
use crate::{elsewhere::Elsewhere, sim::random::Random};

/// Connections of each kind that are held open.
const HELD: usize = 20;
/// Between two connections of a flood, and two garbled ones: so that the generator is not the load.
const PAUSE: Duration = Duration::from_millis(1);
/// Those that drip send a byte so often.
const DRIP: Duration = Duration::from_millis(200);

/// How often something was done, and how it ended.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) floods: AtomicU64,
    pub(super) malformed: AtomicU64,
    pub(super) answered: AtomicU64,
    pub(super) closed: AtomicU64,
    /// Neither answered nor closed.
    pub(super) nothing: AtomicU64,
    /// Closed, and not told why although a client could be.
    pub(super) unexplained: AtomicU64,
    pub(super) vanished: AtomicU64,
    /// What the server must say of those that it ended without a word, at least.
    pub(super) late: AtomicU64,
    pub(super) idle: AtomicU64,
    pub(super) foreign: AtomicU64,
    pub(super) large: AtomicU64,
}

impl Tally {
    fn count(&self, end: End) {
        let counter = match end {
            End::Answered => &self.answered,
            End::Closed => &self.closed,
            End::Nothing => &self.nothing,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until a connection ends, which must not be without this reason.
    fn end(&self, stream: TcpStream, due: ErrorCode) {
        let (end, reason) = ends(stream);
        self.count(end);
        let unexplained = end == End::Closed && reason != Some(due);
        self.unexplained.fetch_add(u64::from(unexplained), Ordering::Relaxed);
    }
}

/// Opens connections as fast as it can, shakes hands, and leaves.
pub(super) fn flood(address: &str, stop: &AtomicBool, tally: &Tally) {
    let mut held = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(PAUSE);
        tally.floods.fetch_add(1, Ordering::Relaxed);
        let Ok(mut stream) = knock(address, None) else { continue };
        if stream.write_all(&handshake()).is_err() {
            continue;
        }
        tally.count(heard(&mut stream));
        held.push(stream);
        if held.len() > 10 * HELD {
            held.clear();
        }
    }
}

/// Sends what nobody can read, in every way that there is.
pub(super) fn garble(address: &str, target: Target, stop: &AtomicBool, tally: &Tally, seed: u64) {
    let mut random = Random::new(seed).stream("garble");
    for turn in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        thread::sleep(PAUSE);
        tally.malformed.fetch_add(1, Ordering::Relaxed);
        let which = turn % GARBLED;
        match garbled(address, target, which, &mut random) {
            Ok(stream) if TOO_LARGE.contains(&which) => {
                tally.large.fetch_add(1, Ordering::Relaxed);
                tally.end(stream, ErrorCode::FrameTooLarge);
            }
            // Only the end of what is sent tells that nothing more will come.
            Ok(mut stream) => {
                tally.foreign.fetch_add(u64::from(which == NO_FRAME), Ordering::Relaxed);
                half_close(&stream);
                tally.count(heard(&mut stream));
            }
            Err(_) => tally.count(End::Closed),
        }
    }
}

const GARBLED: u64 = 9;
/// No frame, behind a handshake.
const NO_FRAME: u64 = 2;
/// Frames over a limit, of these.
const TOO_LARGE: [u64; 2] = [3, 4];

fn garbled(
    address: &str,
    target: Target,
    which: u64,
    random: &mut Random,
) -> io::Result<TcpStream> {
    let mut noise = vec![0; 200];
    random.fill(&mut noise);
    if which == 0 {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(crate::live::PATIENCE))?;
        stream.write_all(&noise)?;
        return Ok(stream);
    }
    if which == 1 {
        let mut stream = knock(address, None)?;
        stream.write_all(&noise)?;
        return Ok(stream);
    }
    let mut stream = Line::open(address, None)?.stream;
    let header = |api: Api, head_bytes, payload_bytes| {
        let header =
            FrameHeader { api: api as u8, version: 1, correlation: 1, head_bytes, payload_bytes };
        header.encode()
    };
    let mut sound = produce(target, u32::MAX, 0, 300);
    let length = sound.len();
    match which {
        2 => stream.write_all(&noise)?,
        3 => stream.write_all(&header(Api::Produce, u32::MAX, 0))?,
        4 => stream.write_all(&header(Api::Produce, 34, u32::MAX))?,
        5 => {
            stream.write_all(&header(Api::Metadata, 200, 0))?;
            stream.write_all(&noise)?;
        }
        6 => {
            // The batch does not match its CRC.
            sound[length - 1] ^= 1;
            stream.write_all(&sound)?;
        }
        7 => {
            // A head, cut off.
            stream.write_all(&sound[..FRAME_HEADER_BYTES + 5])?;
        }
        _ => {
            let at =
                FRAME_HEADER_BYTES + random.below((length - FRAME_HEADER_BYTES) as u64) as usize;
            sound[at] ^= 1 << random.below(8);
            stream.write_all(&sound)?;
        }
    }
    Ok(stream)
}

/// Connections that do next to nothing, as long as the load lasts.
#[derive(Default)]
pub(super) struct Idlers {
    /// Send their handshake byte by byte, and never to its end.
    dripping: Vec<TcpStream>,
    /// Shook hands and say nothing more.
    silent: Vec<TcpStream>,
    /// Announce a large batch, and send it byte by byte.
    slow: Vec<TcpStream>,
    /// Asked for all there is, and read none of it.
    deaf: Vec<TcpStream>,
    /// Are gone, half of them while something was sent to them, and the server was not told.
    vanished: Vec<TcpStream>,
}

impl Idlers {
    /// Opens them; what cannot be opened under this load is left out.
    pub(super) fn open(address: &str, target: Target, elsewhere: Option<&Elsewhere>) -> Self {
        let mut idlers = Self::default();
        if let Some(elsewhere) = elsewhere {
            idlers.vanished = vanish(address, target, elsewhere).unwrap_or_default();
        }
        for at in 0..HELD as u32 {
            idlers.dripping.extend(knock(address, None));
            idlers.silent.extend(Line::open(address, None).map(|line| line.stream));
            idlers.slow.extend(Line::open(address, None).and_then(|mut line| {
                line.stream.write_all(&produce(target, u32::MAX, 1, 500_000)[..200])?;
                Ok(line.stream)
            }));
            idlers.deaf.extend(Line::open(address, Some(target.core)).and_then(|mut line| {
                line.stream.write_all(&subscribe(target, at))?;
                Ok(line.stream)
            }));
        }
        idlers
    }

    /// Lets them drip until told to stop.
    pub(super) fn drip(&mut self, stop: &AtomicBool) {
        let bytes = handshake();
        for byte in bytes.iter().take(bytes.len() - 1).chain(std::iter::repeat(&0)) {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            self.dripping.iter_mut().for_each(|stream| drop(stream.write(&[*byte])));
            self.slow.iter_mut().for_each(|stream| drop(stream.write(&[0])));
            thread::sleep(DRIP);
        }
    }

    /// Waits until the server has ended those that it must end, the others being ended here.
    pub(super) fn outlast(self, tally: &Tally) {
        drop(self.slow);
        drop(self.deaf);
        tally.late.fetch_add(self.dripping.len() as u64, Ordering::Relaxed);
        let idle = self.silent.len() + self.vanished.len();
        tally.idle.fetch_add(idle as u64, Ordering::Relaxed);
        tally.vanished.fetch_add(self.vanished.len() as u64, Ordering::Relaxed);
        self.dripping.into_iter().chain(self.silent).for_each(|stream| tally.count(ends(stream).0));
    }
}

/// Shakes hands with the server from elsewhere, and is there no more.
fn vanish(address: &str, target: Target, elsewhere: &Elsewhere) -> Result<Vec<TcpStream>, String> {
    let open = |at| {
        let mut line = Line::open(address, Some(target.core)).ok()?;
        let busy = at % 2 == 0;
        (!busy || line.stream.write_all(&subscribe(target, at)).is_ok()).then_some(line.stream)
    };
    let vanished = elsewhere.within(|| (0..HELD as u32).filter_map(open).collect())?;
    elsewhere.cut()?;
    Ok(vanished)
}

fn subscribe(target: Target, subscription: u32) -> Vec<u8> {
    let request = SubscribeRequest {
        subscription,
        topic: target.topic,
        partition: PartitionIndex::new(target.partition),
        offset: Offset::ZERO,
        credit_bytes: 64 << 20,
    };
    let mut bytes = Vec::new();
    encode_message(Api::Subscribe, 1, &request, 0, &mut bytes).expect("it is small");
    bytes
}
