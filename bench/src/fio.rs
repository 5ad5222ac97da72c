//! What the disk does without a server: fio writes blocks of the same size, each durable before it
//! counts, over a file that is written already, so that no metadata has to follow.

use std::{
    ffi::OsString,
    io::{self, Write},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rand_xoshiro::{
    SplitMix64,
    rand_core::{Rng, SeedableRng},
};
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::{args::FioArgs, error::Error};

/// The unit of direct writes, and the header that the server puts before each batch, in bytes.
const BLOCK_BYTES: usize = 4096;
const FRAME_HEADER_BYTES: usize = catena_client::format::FRAME_HEADER_BYTES;
/// Writes in flight in bulk; the best of them counts.
const DEPTHS: [u32; 3] = [1, 4, 16];

/// fio, and the file that it writes over.
pub(crate) struct Fio {
    /// As fio names itself.
    pub(crate) version: String,
    file: NamedTempFile,
    bytes: u64,
    duration: Duration,
}

/// One measurement.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Writes {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) bytes_per_s: f64,
    pub(crate) depth: u32,
}

/// What the server writes for one batch when no other comes with it, in bytes.
pub(crate) fn block_bytes(batch_bytes: usize) -> usize {
    (FRAME_HEADER_BYTES + batch_bytes).next_multiple_of(BLOCK_BYTES)
}

impl Fio {
    /// Writes the file; `None` where fio is not installed.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub(crate) fn find(directory: &Path, args: &FioArgs) -> Result<Option<Self>, Error> {
        let version = match Command::new("fio").arg("--version").output() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::system("run fio")(error)),
            Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        };
        let bytes = args.fio_bytes.as_u64();
        let file = written(directory, bytes).map_err(Error::system("write fio's file"))?;
        Ok(Some(Self { version, file, bytes, duration: args.fio_duration }))
    }

    /// So many writers, each with one write at a time, in a part of the file of its own.
    pub(crate) fn one_at_a_time(&self, block_bytes: usize, jobs: u8) -> Result<Writes, Error> {
        self.run(block_bytes, "psync", 1, jobs)
    }

    /// As much as the disk takes: the best of several depths.
    pub(crate) fn bulk(&self, block_bytes: usize) -> Result<Writes, Error> {
        let mut best: Option<Writes> = None;
        for depth in DEPTHS {
            let writes = self.run(block_bytes, "io_uring", depth, 1)?;
            if best.is_none_or(|best| best.bytes_per_s < writes.bytes_per_s) {
                best = Some(writes);
            }
        }
        Ok(best.expect("there are depths"))
    }

    fn run(&self, block_bytes: usize, engine: &str, depth: u32, jobs: u8) -> Result<Writes, Error> {
        let part = self.bytes / u64::from(jobs) / block_bytes as u64 * block_bytes as u64;
        let mut filename = OsString::from("--filename=");
        filename.push(self.file.path());
        let output = Command::new("fio")
            .args(["--name=catena", "--rw=write", "--direct=1", "--sync=dsync", "--overwrite=1"])
            .args(["--allow_file_create=0", "--time_based", "--output-format=json"])
            .arg(filename)
            .arg(format!("--ioengine={engine}"))
            .arg(format!("--iodepth={depth}"))
            .arg(format!("--bs={block_bytes}"))
            .arg(format!("--numjobs={jobs}"))
            .arg(format!("--offset_increment={part}"))
            .arg(format!("--size={part}"))
            .arg("--group_reporting")
            .arg(format!("--runtime={}ms", self.duration.as_millis()))
            .stdin(Stdio::null())
            .output()
            .map_err(Error::system("run fio"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::Fio(if said.is_empty() { output.status.to_string() } else { said }));
        }
        parse(&output.stdout, depth)
    }
}

/// A file of random bytes that is on the disk.
fn written(directory: &Path, bytes: u64) -> io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new().prefix("catena-bench-").tempfile_in(directory)?;
    let mut noise = vec![0; 1 << 20];
    let mut random = SplitMix64::seed_from_u64(bytes);
    let mut left = bytes;
    while left > 0 {
        random.fill_bytes(&mut noise);
        let step = usize::try_from(left).unwrap_or(usize::MAX).min(noise.len());
        file.write_all(&noise[..step])?;
        left -= step as u64;
    }
    file.as_file().sync_all()?;
    Ok(file)
}

/// What fio's JSON says; some versions print notes before it.
fn parse(output: &[u8], depth: u32) -> Result<Writes, Error> {
    let begin = output.iter().position(|byte| *byte == b'{').unwrap_or_default();
    let report: Value = serde_json::from_slice(&output[begin..])
        .map_err(|error| Error::FioReport(error.to_string()))?;
    let figure = |path: &str| {
        let found = report.pointer(path).and_then(Value::as_f64).filter(|figure| *figure > 0.0);
        found.ok_or_else(|| Error::FioReport(format!("{path} is missing")))
    };
    Ok(Writes {
        p50_us: figure("/jobs/0/write/clat_ns/percentile/50.000000")? / 1e3,
        p99_us: figure("/jobs/0/write/clat_ns/percentile/99.000000")? / 1e3,
        bytes_per_s: figure("/jobs/0/write/bw_bytes")?,
        depth,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_hold_a_frame_and_are_whole() {
        assert_eq!(block_bytes(1), 4096);
        assert_eq!(block_bytes(4096 - FRAME_HEADER_BYTES), 4096);
        assert_eq!(block_bytes(4096), 8192);
    }

    #[test]
    fn a_report_of_fio_is_understood() {
        let report = br#"fio: a note
            {"jobs": [{"write": {"bw_bytes": 38720607, "clat_ns": {"percentile":
            {"50.000000": 101888, "99.000000": 250880}}}}]}"#;
        let writes = parse(report, 4).unwrap();
        let expected =
            Writes { p50_us: 101.888, p99_us: 250.88, bytes_per_s: 38_720_607.0, depth: 4 };
        assert_eq!(writes, expected);
    }

    #[test]
    fn a_report_without_figures_is_an_error() {
        for report in ["", "no JSON", "{}", r#"{"jobs": [{"write": {"bw_bytes": 0}}]}"#] {
            let error = parse(report.as_bytes(), 1).unwrap_err();
            assert!(matches!(error, Error::FioReport(_)), "{report}: {error}");
        }
    }
}
