//! `catena-bench produce`: from the intended sending of a batch to its receipt.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use catena_client::Options;

use crate::{
    args::{LoadArgs, ProduceArgs},
    error::Error,
    fio::{Fio, Writes, block_bytes},
    load::Producer,
    pace::Pace,
    payload::{Payload, records_per_batch},
    report::Report,
    round_trip,
    tally::Tally,
    topic::{Topic, client, connect, share},
};

/// All threads are there when the load begins.
pub(crate) const START_DELAY: Duration = Duration::from_millis(20);

/// Measures on a topic of its own; where it is asked for, beside the disk.
///
/// # Errors
/// When nothing could be measured; what went wrong within the run is in the report.
pub(crate) fn run(server: &Options, args: &ProduceArgs) -> Result<Report, Error> {
    let load = &args.load;
    let mut report = Report::new();
    report.set("mode", "produce");
    load_figures(&mut report, load);
    let beside = match &args.disk.fio_dir {
        Some(directory) if args.fio => Some(Beside::measure(directory, args)?),
        _ => None,
    };
    let measured = measure(server, load)?;
    let (p50, bytes_per_s) = (measured.tally.latencies.quantile_us(0.5), measured.bytes_per_s());
    report_measured(&mut report, measured);
    if let Some(beside) = beside {
        beside.report(&mut report, p50, bytes_per_s);
    }
    Ok(report)
}

/// What disk and network do alone with as many bytes.
struct Beside {
    fio: Option<(Fio, Writes, Writes)>,
    round_trip_us: f64,
}

impl Beside {
    fn measure(directory: &Path, args: &ProduceArgs) -> Result<Self, Error> {
        let load = &args.load;
        let records = records_per_batch(load.record_bytes, load.batch_bytes);
        let batch_bytes = Payload::new(load.record_bytes, records, 0)?.batch_bytes()?;
        let block = block_bytes(batch_bytes);
        let round_trip_us = round_trip::measure(batch_bytes, 1)?.quantile_us(0.5);
        let fio = match Fio::find(directory, &args.disk)? {
            None => None,
            Some(fio) => {
                let (one, bulk) = (fio.one_at_a_time(block, 1)?, fio.bulk(block)?);
                Some((fio, one, bulk))
            }
        };
        Ok(Self { fio, round_trip_us })
    }

    fn report(&self, report: &mut Report, p50_us: f64, bytes_per_s: f64) {
        report.set_number("round_trip_p50_us", self.round_trip_us);
        report.set_fio(true, self.fio.as_ref().map(|(fio, ..)| fio));
        if let Some((_, one, bulk)) = &self.fio {
            report.set_number("fio_p50_us", one.p50_us);
            report.set_number("fio_p99_us", one.p99_us);
            report.set_number("fio_bytes_per_s", bulk.bytes_per_s);
            report.set("fio_depth", bulk.depth);
            report.set_number("p50_ratio", p50_us / (one.p50_us + self.round_trip_us));
            report.set_number("bandwidth_ratio", bytes_per_s / bulk.bytes_per_s);
        }
    }
}

/// A load that is done.
pub(crate) struct Measured {
    pub(crate) tally: Tally,
    records_per_batch: u64,
    record_bytes: usize,
    /// From the end of the warm-up to the last receipt.
    took: Duration,
}

impl Measured {
    /// Records that were measured and acknowledged.
    fn records(&self) -> u64 {
        self.tally.batches * self.records_per_batch
    }

    /// Their values' bytes a second.
    pub(crate) fn bytes_per_s(&self) -> f64 {
        let bytes = self.records() as f64 * self.record_bytes as f64;
        if self.took.is_zero() { 0.0 } else { bytes / self.took.as_secs_f64() }
    }
}

/// Puts a load on a topic of its own.
///
/// # Errors
/// When the load cannot begin; what went wrong after that is in the tally.
pub(crate) fn measure(server: &Options, args: &LoadArgs) -> Result<Measured, Error> {
    let topic = Topic::create(server, args.partitions, args.replicas, &args.config, args.timeout)?;
    let load = Load::open(server, args, &topic, false)?;
    let records_per_batch = load.records;
    let start = Instant::now() + START_DELAY;
    let tally = load.run(start);
    let warm = start + args.warmup;
    let took = tally.last.map_or(Duration::ZERO, |last| last.saturating_duration_since(warm));
    Ok(Measured { tally, records_per_batch, record_bytes: args.record_bytes, took })
}

/// Producers that are ready to start.
pub(crate) struct Load<'a> {
    args: &'a LoadArgs,
    producers: Vec<Producer>,
    /// Records in each batch.
    pub(crate) records: u64,
    /// The most batches of each producer.
    pub(crate) batches_max: u64,
}

impl<'a> Load<'a> {
    /// Connects; `stamped` batches tell when they were due.
    pub(crate) fn open(
        server: &Options,
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
            let (head, core) = topic.head(server, &partitions)?;
            producers.push(Producer {
                connection: connect(&head, args.timeout, core, in_flight, bytes)?,
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
    report.set("replicas", args.replicas);
    report.set("in_flight", args.in_flight);
    report.set("idempotent", args.idempotent);
    report.set("record_bytes", args.record_bytes);
    report.set("records_per_batch", records);
    report.set("duration_s", args.duration.as_secs_f64());
}

/// What came of it.
pub(crate) fn report_measured(report: &mut Report, measured: Measured) {
    let records = measured.records();
    let bytes = records * measured.record_bytes as u64;
    let Measured { tally, took, .. } = measured;
    report.set_latencies(&tally.latencies);
    report.set_throughput(records, bytes, took.as_secs_f64());
    report.set("send_delay_p99_us", tally.delays.quantile_us(0.99).round());
    report.set("errors", tally.refused + tally.unanswered);
    report.set("refused", tally.refused);
    report.set("unanswered", tally.unanswered);
    report.set("unsent", tally.unsent);
    report.failure = tally.failure.map(|error| error.of_all(tally.refused, tally.unanswered));
}
