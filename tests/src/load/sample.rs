//! What a process holds, looked at from outside, and whether it grows.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// What a process holds at some time.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sample {
    /// How often the process was started before.
    pub life: u64,
    /// Since the run began.
    pub at: Duration,
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
    /// Files in its data directory.
    pub files: u64,
}

/// The resident memory of a process, in bytes; `None`: it has ended.
#[must_use]
pub fn resident_bytes(pid: u32) -> Option<u64> {
    Some(status(pid, "VmRSS:")? << 10)
}

/// A number of `/proc/PID/status`.
fn status(pid: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

fn files_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let count = |path: &Path| if path.is_dir() { files_below(path) } else { 1 };
    entries.map(|entry| count(&entry.path())).sum()
}

impl Sample {
    /// Looks at a process and its data directory; `None`: it has ended.
    #[must_use]
    pub fn take(life: u64, began: Instant, pid: u32, data: &Path) -> Option<Self> {
        Some(Self {
            life,
            at: began.elapsed(),
            resident_bytes: resident_bytes(pid)?,
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64,
            threads: status(pid, "Threads:")?,
            files: files_below(data),
        })
    }
}

/// Something that must not grow.
#[derive(Clone, Copy)]
struct Measure {
    name: &'static str,
    of: fn(&Sample) -> u64,
    /// What it may grow by in any case; else it is a tenth.
    slack: u64,
}

const MEASURES: [Measure; 4] = [
    Measure { name: "resident_bytes", of: |sample| sample.resident_bytes, slack: 16 << 20 },
    Measure { name: "descriptors", of: |sample| sample.descriptors, slack: 32 },
    Measure { name: "threads", of: |sample| sample.threads, slack: 2 },
    Measure { name: "files", of: |sample| sample.files, slack: 32 },
];

/// How the measures went in the longest life, its first `warm_up` left out: the medians of the
/// first and the second half, the most, and what the line through all samples rises by in an hour.
/// Then what grew beyond its bound.
#[must_use]
pub fn trends(samples: &[Sample], warm_up: Duration) -> (BTreeMap<String, u64>, Vec<String>) {
    let lives = samples.chunk_by(|a, b| a.life == b.life);
    let longest = lives.max_by_key(|life| life.len()).unwrap_or_default();
    let begin = longest.first().map_or(Duration::ZERO, |sample| sample.at) + warm_up;
    let settled: Vec<&Sample> = longest.iter().filter(|sample| sample.at >= begin).collect();
    let (mut told, mut grown) = (BTreeMap::new(), Vec::new());
    for Measure { name, of, slack } in MEASURES {
        let values: Vec<u64> = settled.iter().map(|sample| of(sample)).collect();
        let (first, second) = values.split_at(values.len() / 2);
        let (first, second) = (median(first), median(second));
        let points: Vec<(f64, f64)> =
            settled.iter().map(|s| (s.at.as_secs_f64() / 3600.0, of(s) as f64)).collect();
        let slope = slope(&points);
        let max = values.iter().max().copied().unwrap_or_default();
        told.extend([
            (format!("{name}_first_half"), first),
            (format!("{name}_second_half"), second),
            (format!("{name}_max"), max),
            (format!("{name}_per_hour"), slope.max(0.0).round() as u64),
        ]);
        if second > first + slack.max(first / 10) {
            grown.push(format!("{name} grew from {first} to {second}"));
        }
    }
    told.insert("samples".to_owned(), settled.len() as u64);
    (told, grown)
}

fn median(values: &[u64]) -> u64 {
    let mut values = values.to_vec();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// The slope of the line that fits best.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len().max(1) as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let above: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let below: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    if below > 0.0 { above / below } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(resident: impl Fn(u64) -> u64) -> Vec<Sample> {
        let sample = |at| Sample {
            life: 0,
            at: Duration::from_secs(at * 10),
            resident_bytes: resident(at),
            descriptors: 100,
            threads: 9,
            files: 50,
        };
        (0..100).map(sample).collect()
    }

    #[test]
    fn what_stays_is_flat_and_what_grows_is_told() {
        let flat = samples(|at| (100 << 20) + (at % 3) * 1000);
        assert_eq!(trends(&flat, Duration::ZERO).1, [""; 0]);
        let leaking = samples(|at| (100 << 20) + at * (1 << 20));
        let (told, grown) = trends(&leaking, Duration::ZERO);
        assert_eq!(grown.len(), 1, "{grown:?}");
        // A mebibyte in ten seconds.
        assert_eq!(told["resident_bytes_per_hour"], 360 << 20);
    }

    #[test]
    fn the_warm_up_is_left_out() {
        let warming = samples(|at| if at < 50 { at << 20 } else { 50 << 20 });
        assert_eq!(trends(&warming, Duration::from_secs(500)).1, [""; 0]);
        assert_eq!(trends(&warming, Duration::ZERO).1.len(), 1);
    }
}
