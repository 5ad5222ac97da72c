//! `catena-bench consume`: a topic read from its beginning to its end.

use std::{
    thread,
    time::{Duration, Instant},
};

use catena_client::{
    Client, Durability, FetchOptions, OffsetQuery, Options,
    format::{Offset, PartitionIndex, TopicId},
};

use crate::{
    args::{ConsumeArgs, LoadArgs},
    error::Error,
    produce::Load,
    report::Report,
    tally::Latencies,
    topic::{Topic, client},
};

/// Batches in flight while the topic is filled.
const FILL_IN_FLIGHT: u32 = 16;

/// Reads, and tells how fast.
///
/// # Errors
/// When the topic cannot be filled or read.
pub(crate) fn run(server: &Options, args: &ConsumeArgs) -> Result<Report, Error> {
    let mut report = Report::new();
    report.set("mode", "consume");
    report.set("fetch_bytes", args.fetch_bytes);
    let read = match &args.topic {
        Some(name) => {
            let topic = client(server, args.timeout).topic(name)?;
            let partitions = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
            read(server, args, name, partitions)?
        }
        None => {
            let topic = filled(server, args, &mut report)?;
            read(server, args, topic.name(), args.partitions)?
        }
    };
    report.set("partitions", read.partitions);
    report.set("records", read.records);
    report.set_latencies(&read.fetches);
    report.set_throughput(read.records, read.bytes, read.took.as_secs_f64());
    report.set("errors", 0);
    Ok(report)
}

/// A topic of our own with as much in it as was asked for.
fn filled(server: &Options, args: &ConsumeArgs, report: &mut Report) -> Result<Topic, Error> {
    let load = LoadArgs {
        replicas: 0,
        record_bytes: args.record_bytes,
        batch_bytes: args.batch_bytes,
        producers: 1,
        partitions: args.partitions,
        config: Vec::new(),
        in_flight: FILL_IN_FLIGHT,
        durability: Durability::ChainDisk,
        rate: None,
        // It ends by its number of batches.
        duration: Duration::from_secs(24 * 3600),
        warmup: Duration::ZERO,
        timeout: args.timeout,
        idempotent: false,
    };
    let topic = Topic::create(server, args.partitions, 0, &[], args.timeout)?;
    let mut filling = Load::open(server, &load, &topic, false)?;
    let batch = filling.records * args.record_bytes.max(1) as u64;
    filling.batches_max = args.fill.as_u64().div_ceil(batch).max(u64::from(args.partitions));
    report.set("record_bytes", args.record_bytes);
    report.set("records_per_batch", filling.records);
    report.set("level", load.durability.name());
    let tally = filling.run(Instant::now());
    tally.failure.map_or(Ok(topic), Err)
}

/// What was read, of all partitions.
struct Read {
    partitions: u32,
    fetches: Latencies,
    records: u64,
    bytes: u64,
    took: Duration,
}

fn read(server: &Options, args: &ConsumeArgs, topic: &str, partitions: u32) -> Result<Read, Error> {
    let began = Instant::now();
    let consumers: Result<Vec<Read>, Error> = thread::scope(|scope| {
        let partition = |index| {
            let partition = PartitionIndex::new(index);
            scope.spawn(move || consume(server, args, topic, partition))
        };
        let threads: Vec<_> = (0..partitions).map(partition).collect();
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(read) => read,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect()
    });
    let took = began.elapsed();
    let mut all = Read { partitions, fetches: Latencies::new(), records: 0, bytes: 0, took };
    for read in consumers? {
        all.fetches.add(&read.fetches);
        all.records += read.records;
        all.bytes += read.bytes;
    }
    if all.records == 0 { Err(Error::Empty) } else { Ok(all) }
}

/// One partition, up to where its end was at the start.
fn consume(
    server: &Options,
    args: &ConsumeArgs,
    topic: &str,
    partition: PartitionIndex,
) -> Result<Read, Error> {
    let mut client = client(server, args.timeout);
    let topic = client.topic(topic)?.id;
    let began = Instant::now();
    let end = find(&mut client, topic, partition, OffsetQuery::Latest)?;
    let mut at = find(&mut client, topic, partition, OffsetQuery::Earliest)?;
    let max_bytes = u32::try_from(args.fetch_bytes).unwrap_or(u32::MAX);
    let options = FetchOptions { max_bytes, max_wait: Duration::ZERO };
    let (mut fetches, mut records, mut bytes) = (Latencies::new(), 0, 0);
    while at < end {
        let asked = Instant::now();
        let fetched = client.fetch(topic, partition, at, options)?;
        fetches.record(asked.elapsed());
        for batch in fetched.batches() {
            records += u64::from(batch?.0.count);
        }
        bytes += fetched.batches.len() as u64;
        if fetched.next_offset <= at {
            return Err(Error::Stuck(at));
        }
        at = fetched.next_offset;
    }
    Ok(Read { partitions: 1, fetches, records, bytes, took: began.elapsed() })
}

fn find(
    client: &mut Client,
    topic: TopicId,
    partition: PartitionIndex,
    query: OffsetQuery,
) -> Result<Offset, Error> {
    Ok(client.offset(topic, partition, query)?.unwrap_or_default())
}
