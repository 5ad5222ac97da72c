//! `catena-bench suite`: the check, several times over, the server and the disk by turns.

use std::time::Duration;

use catena_client::{Durability, Options};

use crate::{
    args::{LoadArgs, SuiteArgs},
    error::Error,
    fio::{Fio, block_bytes},
    payload::{Payload, records_per_batch},
    produce::{Measured, measure},
    report::Report,
    round_trip,
};

pub(crate) const RECORD_BYTES: usize = 512;
pub(crate) const BULK_BATCH_BYTES: usize = 64 << 10;
/// A topic that keeps so little soon writes to files that were written before, as fio does.
const RECYCLING: [(&str, &str); 2] =
    [("segment.bytes", "67108864"), ("retention.bytes", "67108864")];
const TIMEOUT: Duration = Duration::from_secs(30);

/// The figures of all runs, by name.
#[derive(Default)]
pub(crate) struct Runs(Vec<(&'static str, Vec<f64>)>);

impl Runs {
    pub(crate) fn push(&mut self, name: &'static str, figure: f64) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, figures)) => figures.push(figure),
            None => self.0.push((name, vec![figure])),
        }
    }

    fn figures(&self, name: &str) -> impl Iterator<Item = f64> {
        self.0.iter().filter(move |(known, _)| *known == name).flat_map(|(_, runs)| runs.clone())
    }

    /// The least of all runs; `None` where it was not measured.
    fn least(&self, name: &str) -> Option<f64> {
        self.figures(name).min_by(f64::total_cmp)
    }

    /// The most of all runs; `None` where it was not measured.
    fn most(&self, name: &str) -> Option<f64> {
        self.figures(name).max_by(f64::total_cmp)
    }

    /// The median and the spread of each.
    pub(crate) fn report(&self, report: &mut Report) {
        for (name, figures) in &self.0 {
            report.set_spread(name, figures.clone());
        }
    }

    /// The ratios of the best runs of each: others on the machine only ever make a run worse.
    fn report_best(&self, report: &mut Report) -> Option<()> {
        let alone = self.least("fio_p50_us")? + self.least("round_trip_p50_us")?;
        report.set_number("p50_ratio_of_best", self.least("p50_us")? / alone);
        let (ours, disk) = (self.most("bulk_bytes_per_s")?, self.most("fio_bytes_per_s")?);
        report.set_number("bandwidth_ratio_of_best", ours / disk);
        let steady = self.most("steady_bytes_per_s")?;
        report.set_number("steady_bandwidth_ratio_of_best", steady / disk);
        Some(())
    }
}

/// Measures everything `args.runs` times.
///
/// # Errors
/// The first that a run met: half a suite tells nothing.
pub(crate) fn run(server: &Options, args: &SuiteArgs) -> Result<Report, Error> {
    let fio = match &args.disk.fio_dir {
        Some(directory) => Fio::find(directory, &args.disk)?,
        None => None,
    };
    let mut report = Report::new();
    report.set("mode", "suite");
    report.set("runs", args.runs);
    report.set("level", Durability::ChainDisk.name());
    report.set("record_bytes", RECORD_BYTES);
    report.set("bulk_batch_bytes", BULK_BATCH_BYTES);
    report.set("bulk_in_flight", args.bulk_in_flight);
    report.set_fio(args.disk.fio_dir.is_some(), fio.as_ref());
    let mut runs = Runs::default();
    for _ in 0..args.runs {
        one_at_a_time(server, args, fio.as_ref(), &mut runs)?;
        bulk(server, args, fio.as_ref(), &mut runs)?;
    }
    runs.report(&mut report);
    // Without fio there are none.
    let _ = runs.report_best(&mut report);
    Ok(report)
}

fn one_at_a_time(
    server: &Options,
    args: &SuiteArgs,
    fio: Option<&Fio>,
    runs: &mut Runs,
) -> Result<(), Error> {
    let batch_bytes = batch_bytes(0)?;
    let round_trip = round_trip::measure(batch_bytes, 1)?.quantile_us(0.5);
    let disk = fio.map(|fio| fio.one_at_a_time(block_bytes(batch_bytes), 1)).transpose()?;
    let ours = load(server, args, (0, 1), 0, &[])?;
    let p50 = ours.tally.latencies.quantile_us(0.5);
    runs.push("p50_us", p50);
    runs.push("p99_us", ours.tally.latencies.quantile_us(0.99));
    runs.push("p999_us", ours.tally.latencies.quantile_us(0.999));
    runs.push("round_trip_p50_us", round_trip);
    if let Some(disk) = disk {
        runs.push("fio_p50_us", disk.p50_us);
        runs.push("fio_p99_us", disk.p99_us);
        runs.push("p50_ratio", p50 / (disk.p50_us + round_trip));
    }
    Ok(())
}

fn bulk(
    server: &Options,
    args: &SuiteArgs,
    fio: Option<&Fio>,
    runs: &mut Runs,
) -> Result<(), Error> {
    let block_bytes = block_bytes(batch_bytes(BULK_BATCH_BYTES)?);
    let disk = fio.map(|fio| fio.bulk(block_bytes)).transpose()?;
    let mut measure = |config: &[_], [bytes, p50, p99]: [&'static str; 3]| {
        let ours = load(server, args, (BULK_BATCH_BYTES, args.bulk_in_flight), 0, config)?;
        runs.push(bytes, ours.bytes_per_s());
        runs.push(p50, ours.tally.latencies.quantile_us(0.5));
        runs.push(p99, ours.tally.latencies.quantile_us(0.99));
        Ok::<_, Error>(ours.bytes_per_s())
    };
    let growing = measure(&[], ["bulk_bytes_per_s", "bulk_p50_us", "bulk_p99_us"])?;
    let steady = measure(&RECYCLING, ["steady_bytes_per_s", "steady_p50_us", "steady_p99_us"])?;
    if let Some(disk) = disk {
        runs.push("fio_bytes_per_s", disk.bytes_per_s);
        runs.push("fio_depth", f64::from(disk.depth));
        runs.push("bandwidth_ratio", growing / disk.bytes_per_s);
        runs.push("steady_bandwidth_ratio", steady / disk.bytes_per_s);
    }
    Ok(())
}

pub(crate) fn batch_bytes(wished: usize) -> Result<usize, Error> {
    Payload::new(RECORD_BYTES, records_per_batch(RECORD_BYTES, wished), 0)?.batch_bytes()
}

/// One producer in a closed loop, with batches of that size, so many in flight; anything that goes
/// wrong ends the suite.
pub(crate) fn load(
    server: &Options,
    args: &SuiteArgs,
    (batch_bytes, in_flight): (usize, u32),
    replicas: u8,
    config: &[(&str, &str)],
) -> Result<Measured, Error> {
    let load = LoadArgs {
        record_bytes: RECORD_BYTES,
        batch_bytes,
        producers: 1,
        partitions: 1,
        replicas,
        config: config.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        in_flight,
        durability: Durability::ChainDisk,
        rate: None,
        duration: args.duration,
        warmup: args.warmup,
        timeout: TIMEOUT,
        idempotent: false,
    };
    let mut measured = measure(server, &load)?;
    measured.tally.failure.take().map_or(Ok(measured), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratios_of_the_best_take_each_from_its_best_run() {
        let mut runs = Runs::default();
        for (p50, fio, ours, disk) in [(300.0, 100.0, 4.0, 8.0), (240.0, 110.0, 6.0, 5.0)] {
            runs.push("p50_us", p50);
            runs.push("round_trip_p50_us", 20.0);
            runs.push("bulk_bytes_per_s", ours);
            runs.push("steady_bytes_per_s", ours + 1.0);
            runs.push("fio_p50_us", fio);
            runs.push("fio_bytes_per_s", disk);
        }
        let mut report = Report::new();
        assert!(runs.report_best(&mut report).is_some());
        assert_eq!(report.json()["p50_ratio_of_best"], 2.0);
        assert_eq!(report.json()["bandwidth_ratio_of_best"], 0.75);
        assert_eq!(report.json()["steady_bandwidth_ratio_of_best"], 0.875);
    }

    #[test]
    fn without_fio_there_are_no_ratios() {
        let mut runs = Runs::default();
        runs.push("p50_us", 1.0);
        runs.push("round_trip_p50_us", 1.0);
        let mut report = Report::new();
        assert!(runs.report_best(&mut report).is_none());
        assert!(report.json().get("p50_ratio_of_best").is_none());
    }
}
