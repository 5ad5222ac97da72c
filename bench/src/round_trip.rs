//! What the loopback does without a server: the bytes of a batch there, those of a receipt back.

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

/// The times of round trips, one after another, with a batch of so many bytes on the way there and
/// so many that pass it on, the last of whom answers.
pub(crate) fn measure(batch_bytes: usize, hops: u8) -> Result<Latencies, Error> {
    try_measure(batch_bytes, hops).map_err(Error::system("measure a round trip"))
}

fn try_measure(batch_bytes: usize, hops: u8) -> io::Result<Latencies> {
    let request = vec![1; REQUEST_BYTES + batch_bytes];
    let (bytes, (mut near, far)) = (request.len(), pair()?);
    let (mut from, mut threads) = (far, Vec::new());
    for _ in 1..hops {
        let (to, next) = pair()?;
        let here = std::mem::replace(&mut from, next);
        threads.push(thread::spawn(move || answer(here, Some(to), bytes)));
    }
    threads.push(thread::spawn(move || answer(from, None, bytes)));
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
    for thread in threads {
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
    Ok(latencies)
}

/// Both ends of a connection over loopback.
fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}

/// Answers requests of so many bytes, or passes them on and the answers back, until the other side
/// has had enough.
fn answer(mut stream: TcpStream, mut next: Option<TcpStream>, bytes: usize) {
    let (mut request, mut receipt) = (vec![0; bytes], [2; RECEIPT_BYTES]);
    while stream.read_exact(&mut request).is_ok() {
        let passed = next.as_mut().map_or(Ok(()), |next| {
            next.write_all(&request).and_then(|()| next.read_exact(&mut receipt))
        });
        if passed.and_then(|()| stream.write_all(&receipt)).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_are_counted() {
        for hops in [1, 3] {
            let latencies = measure(700, hops).unwrap();
            assert!(latencies.count() > 0 && latencies.max_us() > 0.0);
        }
    }
}
