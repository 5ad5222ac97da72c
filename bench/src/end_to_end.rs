//! `catena-bench end-to-end`: from the intended sending of a record until a consumer has it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use catena_client::{
    FetchOptions, OffsetQuery, Options,
    format::{Offset, PartitionIndex},
};

use crate::{
    args::LoadArgs,
    error::Error,
    payload::STAMP_BYTES,
    produce::{Load, START_DELAY, load_figures},
    report::Report,
    tally::{Latencies, Tally},
    topic::{Topic, client},
};

/// The most bytes that a fetch brings.
const FETCH_BYTES: u32 = 1 << 20;
/// How long the server holds a fetch that finds nothing.
const POLL: Duration = Duration::from_millis(500);

/// Measures on a topic of its own.
///
/// # Errors
/// When the load cannot begin, or a consumer fails.
pub(crate) fn run(server: &Options, args: &LoadArgs) -> Result<Report, Error> {
    if args.record_bytes < STAMP_BYTES {
        return Err(Error::RecordBytes { asked: args.record_bytes, least: STAMP_BYTES });
    }
    let topic = Topic::create(server, args.partitions, args.replicas, &args.config, args.timeout)?;
    let load = Load::open(server, args, &topic, true)?;
    let start = Instant::now() + START_DELAY;
    let (tally, received) = together(server, args, &topic, load, start)?;
    let mut report = Report::new();
    report.set("mode", "end-to-end");
    load_figures(&mut report, args);
    let measured = received.latencies.count();
    let warm = start + args.warmup;
    let took = received.last.map_or(Duration::ZERO, |last| last.saturating_duration_since(warm));
    report.set_latencies(&received.latencies);
    let bytes = measured * args.record_bytes as u64;
    report.set_throughput(measured, bytes, took.as_secs_f64());
    report.set("received", received.records);
    report.set("acknowledged", tally.acknowledged);
    report.set("errors", tally.refused + tally.unanswered);
    report.set("unsent", tally.unsent);
    let (records, acknowledged) = (received.records, tally.acknowledged);
    let missing = Error::Missing { received: records, acknowledged };
    let missing = (records < acknowledged).then_some(missing);
    let failure = tally.failure.map(|error| error.of_all(tally.refused, tally.unanswered));
    report.failure = missing.or(failure);
    Ok(report)
}

/// What consumers got.
struct Received {
    latencies: Latencies,
    /// All records, also those that were not measured.
    records: u64,
    /// The last that was measured.
    last: Option<Instant>,
}

/// Runs the load and, for each partition, a consumer until it has everything.
fn together(
    server: &Options,
    args: &LoadArgs,
    topic: &Topic,
    load: Load<'_>,
    start: Instant,
) -> Result<(Tally, Received), Error> {
    let name = topic.name();
    let ends: Vec<AtomicU64> = (0..args.partitions).map(|_| AtomicU64::new(u64::MAX)).collect();
    thread::scope(|scope| {
        let consumer = |(index, end)| {
            let partition = PartitionIndex::new(index);
            scope.spawn(move || consume(server, args, name, partition, start, end))
        };
        let consumers: Vec<_> = (0..).zip(&ends).map(consumer).collect();
        let tally = load.run(start);
        let told = tell_ends(server, args, name, &ends);
        let mut all = Received { latencies: Latencies::new(), records: 0, last: None };
        for consumer in consumers {
            let joined = consumer.join();
            let received = joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            all.latencies.add(&received.latencies);
            all.records += received.records;
            all.last = all.last.max(received.last);
        }
        told.map(|()| (tally, all))
    })
}

/// Tells the consumers where to stop: also when that cannot be found out, for they would wait.
fn tell_ends(
    server: &Options,
    args: &LoadArgs,
    topic: &str,
    ends: &[AtomicU64],
) -> Result<(), Error> {
    let mut client = client(server, args.timeout);
    let mut told = Ok(());
    let id = client.topic(topic).map(|topic| topic.id);
    for (index, end) in (0..).zip(ends) {
        let partition = PartitionIndex::new(index);
        // Below chain-disk receipts come before records can be read: the end is that of the log.
        let found = id.clone().and_then(|id| client.offset(id, partition, OffsetQuery::LogEnd));
        let found = found.unwrap_or_else(|error| {
            told = Err(error.into());
            None
        });
        end.store(found.unwrap_or_default().get(), Ordering::Release);
    }
    told
}

/// One partition from its beginning until `end`, once that is known.
fn consume(
    server: &Options,
    args: &LoadArgs,
    topic: &str,
    partition: PartitionIndex,
    start: Instant,
    end: &AtomicU64,
) -> Result<Received, Error> {
    let mut client = client(server, args.timeout);
    let topic = client.topic(topic)?.id;
    let options = FetchOptions { max_bytes: FETCH_BYTES, max_wait: POLL };
    let mut received = Received { latencies: Latencies::new(), records: 0, last: None };
    let mut at = Offset::ZERO;
    let mut moved = start;
    loop {
        let end = end.load(Ordering::Acquire);
        if at.get() >= end {
            return Ok(received);
        }
        if end < u64::MAX && moved.elapsed() > args.timeout {
            return Err(Error::Stuck(at));
        }
        let fetched = client.fetch(topic, partition, at, options)?;
        let now = Instant::now();
        fetched.each_record::<Error>(at, |_, record| {
            let stamp = record.value.and_then(|value| value.first_chunk::<STAMP_BYTES>());
            let due = Duration::from_nanos(u64::from_le_bytes(*stamp.ok_or(Error::Stamp)?));
            received.records += 1;
            if due >= args.warmup {
                let due = start.checked_add(due).ok_or(Error::Stamp)?;
                received.latencies.record(now.saturating_duration_since(due));
                received.last = Some(now);
            }
            Ok(())
        })?;
        if at < fetched.next_offset {
            (at, moved) = (fetched.next_offset, now);
        }
    }
}
