//! What the loopback does without a server: as many bytes there and back as a batch and its
//! receipt.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use crate::{error::Error, tally::Latencies};

/// Header and head of a produce request, and the whole of a receipt, in bytes.
const REQUEST_BYTES: usize = 16 + 34;
const RECEIPT_BYTES: usize = 16 + 41;
/// Round trips before those that are measured.
const WARM: u32 = 200;
/// How long it is measured.
const DURATION: Duration = Duration::from_millis(500);

/// The times of round trips, one after another, with a batch of so many bytes on the way there.
pub(crate) fn measure(batch_bytes: usize) -> Result<Latencies, Error> {
    try_measure(batch_bytes).map_err(Error::system("measure a round trip"))
}

fn try_measure(batch_bytes: usize) -> io::Result<Latencies> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let request = vec![1; REQUEST_BYTES + batch_bytes];
    let echo = thread::spawn({
        let bytes = request.len();
        move || answer(far, bytes)
    });
    let mut latencies = Latencies::new();
    let mut receipt = [0; RECEIPT_BYTES];
    let mut trips = 0;
    let mut began = Instant::now();
    while trips < WARM || began.elapsed() < DURATION {
        let sent = Instant::now();
        near.write_all(&request)?;
        near.read_exact(&mut receipt)?;
        if trips >= WARM {
            latencies.record(sent.elapsed());
        }
        trips += 1;
        if trips == WARM {
            began = Instant::now();
        }
    }
    drop(near);
    match echo.join() {
        Ok(()) => Ok(latencies),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Answers requests of so many bytes until the other side has had enough.
fn answer(mut stream: TcpStream, bytes: usize) {
    let mut request = vec![0; bytes];
    while stream.read_exact(&mut request).is_ok() {
        if stream.write_all(&[2; RECEIPT_BYTES]).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_are_counted() {
        let latencies = measure(700).unwrap();
        assert!(latencies.count() > 0 && latencies.max_us() > 0.0);
    }
}
