//! `catena-bench produce`: from the intended sending of a batch to its receipt.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    args::LoadArgs,
    error::Error,
    load::Producer,
    pace::Pace,
    payload::{Payload, records_per_batch},
    report::Report,
    tally::Tally,
    topic::{Topic, client, connect, share},
};

/// All threads are there when the load begins.
const START_DELAY: Duration = Duration::from_millis(20);

/// Measures on a topic of its own.
///
/// # Errors
/// When nothing could be measured; what went wrong within the run is in the report.
pub(crate) fn run(server: &str, args: &LoadArgs) -> Result<Report, Error> {
    let topic = Topic::create(server, args.partitions, args.timeout)?;
    let load = Load::open(server, args, &topic, false)?;
    let start = Instant::now() + START_DELAY;
    let tally = load.run(start);
    let mut report = Report::new();
    report.set("mode", "produce");
    load_figures(&mut report, args);
    report_tally(&mut report, args, tally, start + args.warmup);
    Ok(report)
}

/// Producers that are ready to start.
pub(crate) struct Load<'a> {
    args: &'a LoadArgs,
    producers: Vec<Producer>,
    records: u64,
    /// The most batches of each producer.
    batches_max: u64,
}

impl<'a> Load<'a> {
    /// Connects; `stamped` batches tell when they were due.
    pub(crate) fn open(
        server: &str,
        args: &'a LoadArgs,
        topic: &Topic,
        stamped: bool,
    ) -> Result<Self, Error> {
        let records = records_per_batch(args.record_bytes, args.batch_bytes);
        if let Some(rate) = args.rate
            && rate * (args.warmup + args.duration).as_secs_f64() < records as f64
        {
            return Err(Error::Rate { rate, records });
        }
        let mut producers = Vec::new();
        for index in 0..args.producers {
            let seed = u64::from(index) << 32 | u64::from(topic.id().get() as u32);
            let mut payload = Payload::new(args.record_bytes, records, seed)?;
            let partitions = share(index, args.producers, args.partitions);
            if args.idempotent {
                let (id, epoch) = client(server, args.timeout).producer_id()?;
                payload = payload.numbered(id, epoch, partitions.len());
            }
            if stamped {
                payload = payload.stamped();
            }
            let in_flight = args.in_flight as usize;
            let bytes = records as usize * args.record_bytes;
            producers.push(Producer {
                connection: connect(server, args.timeout, in_flight, bytes)?,
                topic: topic.id(),
                partitions,
                payload,
                durability: args.durability,
                in_flight,
                timeout: args.timeout,
            });
        }
        Ok(Self { args, producers, records, batches_max: u64::MAX })
    }

    /// The whole load, from `start` on, with a thread a producer.
    pub(crate) fn run(self, start: Instant) -> Tally {
        let Self { args, producers, records, batches_max } = self;
        let pace = Pace::closed(start, args.warmup, args.duration).at_most(batches_max);
        thread::scope(|scope| {
            let run = |(index, producer): (u32, Producer)| {
                let pace = match args.rate {
                    None => pace,
                    Some(rate) => pace.open(rate / records as f64, index, args.producers),
                };
                scope.spawn(move || producer.run(pace))
            };
            let threads: Vec<_> = (0..).zip(producers).map(run).collect();
            let tallies = threads.into_iter().map(|thread| match thread.join() {
                Ok(tally) => tally,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            tallies.fold(Tally::new(), Tally::merge)
        })
    }
}

/// What the load was.
pub(crate) fn load_figures(report: &mut Report, args: &LoadArgs) {
    let records = records_per_batch(args.record_bytes, args.batch_bytes);
    report.set("level", args.durability.name());
    report.set("open_loop", args.rate.is_some());
    report.set("rate", args.rate);
    report.set("producers", args.producers);
    report.set("partitions", args.partitions);
    report.set("in_flight", args.in_flight);
    report.set("idempotent", args.idempotent);
    report.set("record_bytes", args.record_bytes);
    report.set("records_per_batch", records);
    report.set("duration_s", args.duration.as_secs_f64());
}

/// What came of it, measured from `warm` on.
fn report_tally(report: &mut Report, args: &LoadArgs, tally: Tally, warm: Instant) {
    let records = tally.batches * records_per_batch(args.record_bytes, args.batch_bytes);
    let bytes = records * args.record_bytes as u64;
    let took = tally.last.map_or(Duration::ZERO, |last| last.saturating_duration_since(warm));
    report.set_latencies(&tally.latencies);
    report.set_throughput(records, bytes, took.as_secs_f64());
    report.set("send_delay_p99_us", tally.delays.quantile_us(0.99).round());
    report.set("errors", tally.refused + tally.unanswered);
    report.set("refused", tally.refused);
    report.set("unanswered", tally.unanswered);
    report.set("unsent", tally.unsent);
    report.failure = tally.failure.map(|error| error.of_all(tally.refused, tally.unanswered));
}
