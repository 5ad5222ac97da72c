//! `catena-bench chain`: what each further copy costs, beside what disk and loopback do alone.

use catena_client::{Durability, Options};

use crate::{
    args::SuiteArgs,
    error::Error,
    fio::{Fio, block_bytes},
    report::Report,
    round_trip,
    suite::{BULK_BATCH_BYTES, RECORD_BYTES, Runs, batch_bytes, load},
};

/// The names of the figures of one length of chain.
struct Names {
    members: u8,
    /// Of the server: median, 99 and 99.9 of 100.
    latencies: [&'static str; 3],
    /// Of as many writers of fio, of a relay over as many hops.
    fio: &'static str,
    relay: &'static str,
    ratio: &'static str,
    bytes: &'static str,
    bandwidth_ratio: &'static str,
}

const LENGTHS: [Names; 3] = [
    Names {
        members: 1,
        latencies: ["chain_1_p50_us", "chain_1_p99_us", "chain_1_p999_us"],
        fio: "fio_1_p50_us",
        relay: "relay_1_p50_us",
        ratio: "chain_1_p50_ratio",
        bytes: "chain_1_bytes_per_s",
        bandwidth_ratio: "chain_1_bandwidth_ratio",
    },
    Names {
        members: 2,
        latencies: ["chain_2_p50_us", "chain_2_p99_us", "chain_2_p999_us"],
        fio: "fio_2_p50_us",
        relay: "relay_2_p50_us",
        ratio: "chain_2_p50_ratio",
        bytes: "chain_2_bytes_per_s",
        bandwidth_ratio: "chain_2_bandwidth_ratio",
    },
    Names {
        members: 3,
        latencies: ["chain_3_p50_us", "chain_3_p99_us", "chain_3_p999_us"],
        fio: "fio_3_p50_us",
        relay: "relay_3_p50_us",
        ratio: "chain_3_p50_ratio",
        bytes: "chain_3_bytes_per_s",
        bandwidth_ratio: "chain_3_bandwidth_ratio",
    },
];

/// Measures everything `args.runs` times.
///
/// # Errors
/// The first that a run met: half of it tells nothing.
pub(crate) fn run(server: &Options, args: &SuiteArgs) -> Result<Report, Error> {
    let fio = match &args.disk.fio_dir {
        Some(directory) => Fio::find(directory, &args.disk)?,
        None => None,
    };
    let mut report = Report::new();
    report.set("mode", "chain");
    report.set("runs", args.runs);
    report.set("level", Durability::ChainDisk.name());
    report.set("record_bytes", RECORD_BYTES);
    report.set("bulk_batch_bytes", BULK_BATCH_BYTES);
    report.set("bulk_in_flight", args.bulk_in_flight);
    report.set_fio(args.disk.fio_dir.is_some(), fio.as_ref());
    let mut runs = Runs::default();
    for _ in 0..args.runs {
        for names in &LENGTHS {
            one_at_a_time(server, args, names, fio.as_ref(), &mut runs)?;
        }
        bulk(server, args, fio.as_ref(), &mut runs)?;
    }
    runs.report(&mut report);
    Ok(report)
}

fn one_at_a_time(
    server: &Options,
    args: &SuiteArgs,
    names: &Names,
    fio: Option<&Fio>,
    runs: &mut Runs,
) -> Result<(), Error> {
    let batch_bytes = batch_bytes(0)?;
    let relay = round_trip::measure(batch_bytes, names.members)?.quantile_us(0.5);
    let block = block_bytes(batch_bytes);
    let disk = fio.map(|fio| fio.one_at_a_time(block, names.members)).transpose()?;
    let ours = load(server, args, (0, 1), names.members, &[])?.tally.latencies;
    for (name, quantile) in names.latencies.into_iter().zip([0.5, 0.99, 0.999]) {
        runs.push(name, ours.quantile_us(quantile));
    }
    runs.push(names.relay, relay);
    if let Some(disk) = disk {
        runs.push(names.fio, disk.p50_us);
        runs.push(names.ratio, ours.quantile_us(0.5) / (disk.p50_us + relay));
    }
    Ok(())
}

/// The disk is measured once, by one writer: all copies together cannot be faster.
fn bulk(
    server: &Options,
    args: &SuiteArgs,
    fio: Option<&Fio>,
    runs: &mut Runs,
) -> Result<(), Error> {
    let block = block_bytes(batch_bytes(BULK_BATCH_BYTES)?);
    let disk = fio.map(|fio| fio.bulk(block)).transpose()?;
    if let Some(disk) = disk {
        runs.push("fio_bytes_per_s", disk.bytes_per_s);
    }
    for names in &LENGTHS {
        let load_of = (BULK_BATCH_BYTES, args.bulk_in_flight);
        let ours = load(server, args, load_of, names.members, &[])?.bytes_per_s();
        runs.push(names.bytes, ours);
        if let Some(disk) = disk {
            // All copies are on the one disk.
            let written = ours * f64::from(names.members);
            runs.push(names.bandwidth_ratio, written / disk.bytes_per_s);
        }
    }
    Ok(())
}
