//! The numbers of each core, published twice a second, and how they are told over HTTP.

use std::{
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use catena_log::stage::{STAGE_BOUNDS, Stage};
use catena_node::{NodeStats, Status, Totals};
use catena_replication::{Phase, Replica};
use catena_uring::{DmaMemory, HandsStats};
use prometheus::proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::{admin::Snapshot, logging::Logs, tasks::Running};

/// A core that has published nothing for so long hangs.
const HANGS_AFTER: Duration = Duration::from_secs(10);

/// The stages of an append: until its write leaves; until that is on the disk; and all of it, from
/// the batch's arrival until it is on the disk of the whole chain.
const STAGES: [&str; 3] = ["gather", "write", "commit"];

/// How many connections the server has ended, and why.
#[derive(Clone, Copy, Default)]
pub(crate) struct ConnectionEnds {
    pub(crate) late: u64,
    pub(crate) idle: u64,
    pub(crate) bad_frames: u64,
    pub(crate) refused: u64,
    pub(crate) flooded: u64,
    /// Of nodes, for want of TLS that both agree on.
    pub(crate) peers: u64,
}

/// How a core stands.
#[derive(Clone, Copy, Default)]
pub(crate) struct Numbers {
    pub(crate) at: Option<Instant>,
    pub(crate) status: Option<Status>,
    pub(crate) node: NodeStats,
    pub(crate) hands: HandsStats,
    pub(crate) memory_bytes: u64,
    pub(crate) descriptors: u64,
    pub(crate) connections: u64,
    pub(crate) unsent_bytes: u64,
    pub(crate) receiving_bytes: u64,
    pub(crate) slow_consumers: u64,
    pub(crate) ends: ConnectionEnds,
    pub(crate) stalls: u64,
    pub(crate) totals: Totals,
    pub(crate) partitions: [u64; 3],
    pub(crate) poisoned: u64,
    pub(crate) disk_full: u64,
    pub(crate) segments: u64,
    pub(crate) log_bytes: u64,
    pub(crate) undurable_bytes: u64,
    pub(crate) damaged_offsets: u64,
    pub(crate) damaged_ranges: u64,
    pub(crate) unscrubbed: Duration,
}

impl Numbers {
    /// Adds how a partition stands; `now`: since the core began.
    pub(crate) fn add(&mut self, replica: &Replica<DmaMemory>, now: Duration) {
        let phase = match replica.phase() {
            Phase::Open => 0,
            Phase::Opening => 1,
            Phase::Failed(_) => 2,
        };
        self.partitions[phase] += 1;
        let Some(log) = replica.log() else { return };
        self.poisoned += u64::from(log.poisoned().is_some());
        self.disk_full += u64::from(log.disk_full());
        self.segments += log.segments() as u64;
        self.log_bytes += log.bytes();
        self.undurable_bytes += log.undurable_bytes() as u64;
        let damaged = log.damaged();
        self.damaged_offsets += damaged.iter().map(|r| r.end.since(r.start)).sum::<u64>();
        self.damaged_ranges += damaged.len() as u64;
        let unscrubbed = log.unchecked_since().map_or(Duration::ZERO, |at| now.saturating_sub(at));
        self.unscrubbed = self.unscrubbed.max(unscrubbed);
    }

    fn counters(&self) -> [(&'static str, &'static str, u64); 31] {
        let (node, hands, all, ends) = (&self.node, &self.hands, &self.totals, &self.ends);
        [
            ("catena_requests_total", "Requests received.", node.requests),
            ("catena_request_errors_total", "Requests answered with an error.", node.errors),
            ("catena_requests_forwarded_total", "Of data, left to another core.", node.forwarded),
            ("catena_connections_total", "Connections accepted.", node.sessions),
            ("catena_stalls_total", "Times that a task held its core too long.", self.stalls),
            ("catena_slow_consumers_total", "Connections cut unread.", self.slow_consumers),
            ("catena_handshake_timeouts_total", "Ended: no handshake in time.", ends.late),
            ("catena_idle_timeouts_total", "Connections ended: silent.", ends.idle),
            ("catena_bad_frames_total", "Connections ended: no frame, no TLS.", ends.bad_frames),
            ("catena_refusals_total", "Connections ended with an answer why.", ends.refused),
            ("catena_flooded_total", "Connections ended: too many to be told.", ends.flooded),
            ("catena_peer_tls_failures_total", "Of nodes, ended: no TLS.", ends.peers),
            ("catena_fetched_bytes_total", "Bytes of batches sent.", node.fetched_bytes),
            ("catena_appended_batches_total", "Batches appended.", all.appended_batches),
            ("catena_appended_bytes_total", "Bytes of batches appended.", all.appended_bytes),
            ("catena_log_writes_total", "Writes of flush groups.", all.writes),
            ("catena_cold_reads_total", "Reads that went to the disk.", all.cold_reads),
            ("catena_segments_rolled_total", "Segments that were ended.", all.segments_rolled),
            ("catena_segments_dropped_total", "Segments trimmed or expired.", all.segments_dropped),
            ("catena_segments_recycled_total", "Files used again.", all.segments_recycled),
            ("catena_scrub_read_bytes_total", "Bytes that the scrub read.", all.scrubbed_bytes),
            ("catena_scrub_passes_total", "Times that it was through.", node.scrub_passes),
            ("catena_scrub_read_errors_total", "Reads of it that failed.", all.scrub_errors),
            ("catena_scrub_bad_reads_total", "Reads of it proven wrong.", all.scrub_contradicted),
            ("catena_repaired_offsets_total", "Taken from another node.", all.repaired_offsets),
            ("catena_disk_write_bytes_total", "Bytes written.", hands.write_bytes),
            ("catena_disk_read_bytes_total", "Bytes read.", hands.read_bytes),
            ("catena_disk_prewritten_bytes_total", "Zeros written ahead.", hands.extended_bytes),
            ("catena_disk_syncs_total", "Explicit syncs.", hands.syncs),
            ("catena_disk_errors_total", "Failed operations.", hands.errors),
            ("catena_file_opens_total", "Files opened.", hands.opens),
        ]
    }

    fn gauges(&self) -> [(&'static str, &'static str, u64); 16] {
        let [open, opening, failed] = self.partitions;
        [
            ("catena_connections", "Connections open.", self.connections),
            ("catena_unsent_bytes", "Memory held by what waits for clients.", self.unsent_bytes),
            ("catena_receiving_bytes", "Memory for what clients send.", self.receiving_bytes),
            ("catena_partitions_open", "Partitions that serve.", open),
            ("catena_partitions_opening", "Partitions being opened.", opening),
            ("catena_partitions_failed", "Partitions that cannot be opened.", failed),
            ("catena_partitions_poisoned", "Read-only since a write failed.", self.poisoned),
            ("catena_partitions_disk_full", "Refusing for want of space.", self.disk_full),
            ("catena_segments", "Segment files.", self.segments),
            ("catena_log_bytes", "Bytes of segments.", self.log_bytes),
            ("catena_undurable_bytes", "Bytes on their way to the disk.", self.undurable_bytes),
            ("catena_damaged_offsets", "Offsets that cannot be read.", self.damaged_offsets),
            ("catena_damaged_ranges", "Ranges of them.", self.damaged_ranges),
            (
                "catena_scrub_oldest_seconds",
                "A segment's age unchecked.",
                self.unscrubbed.as_secs(),
            ),
            ("catena_memory_bytes", "Memory of batches and reads.", self.memory_bytes),
            ("catena_descriptors", "Files of logs held open.", self.descriptors),
        ]
    }
}

/// All cores' numbers as Prometheus text, one series a core; `node`: what people call it.
fn text(cores: &[Numbers], node: &str, lines_dropped: u64) -> Result<String, prometheus::Error> {
    let registry = Registry::new();
    let help = "The version that runs, and the name of the node.";
    let build = IntGaugeVec::new(Opts::new("catena_build_info", help), &["version", "node"])?;
    build.with_label_values(&[env!("CARGO_PKG_VERSION"), node]).set(1);
    registry.register(Box::new(build))?;
    let counters: Vec<_> = cores.iter().map(Numbers::counters).collect();
    for at in 0..counters.first().map_or(0, |numbers| numbers.len()) {
        let (name, help, _) = counters[0][at];
        let family = IntCounterVec::new(Opts::new(name, help), &["core"])?;
        for (core, numbers) in counters.iter().enumerate() {
            family.with_label_values(&[&core.to_string()]).inc_by(numbers[at].2);
        }
        registry.register(Box::new(family))?;
    }
    let gauges: Vec<_> = cores.iter().map(Numbers::gauges).collect();
    for at in 0..gauges.first().map_or(0, |numbers| numbers.len()) {
        let (name, help, _) = gauges[0][at];
        let family = IntGaugeVec::new(Opts::new(name, help), &["core"])?;
        for (core, numbers) in gauges.iter().enumerate() {
            let value = i64::try_from(numbers[at].2).unwrap_or(i64::MAX);
            family.with_label_values(&[&core.to_string()]).set(value);
        }
        registry.register(Box::new(family))?;
    }
    let help = "Log lines lost because the output was slower.";
    let dropped = IntCounter::new("catena_log_lines_dropped_total", help)?;
    dropped.inc_by(lines_dropped);
    registry.register(Box::new(dropped))?;
    let mut families = registry.gather();
    families.push(stages(cores));
    let mut text = Vec::new();
    TextEncoder::new().encode(&families, &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// How long the stages of an append took: a histogram for each core and stage.
fn stages(cores: &[Numbers]) -> MetricFamily {
    let mut metrics = Vec::new();
    for (core, numbers) in cores.iter().enumerate() {
        let Totals { gather, write, commit, .. } = &numbers.totals;
        for (name, stage) in STAGES.into_iter().zip([gather, write, commit]) {
            metrics.push(histogram(&core.to_string(), name, stage));
        }
    }
    let mut family = MetricFamily::default();
    family.set_name("catena_append_seconds".to_owned());
    family.set_help("How long a stage of an append took.".to_owned());
    family.set_field_type(MetricType::HISTOGRAM);
    family.set_metric(metrics);
    family
}

fn histogram(core: &str, name: &str, stage: &Stage) -> Metric {
    let mut counted = 0;
    let mut histogram = Histogram::default();
    let buckets = STAGE_BOUNDS.iter().zip(stage.counts()).map(|(bound, count)| {
        counted += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound.as_secs_f64());
        bucket.set_cumulative_count(counted);
        bucket
    });
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(stage.counts().iter().sum());
    histogram.set_sample_sum(stage.total().as_secs_f64());
    let label = |key: &str, value: &str| {
        let mut label = LabelPair::default();
        label.set_name(key.to_owned());
        label.set_value(value.to_owned());
        label
    };
    let mut metric = Metric::from_label(vec![label("core", core), label("stage", name)]);
    metric.set_histogram(histogram);
    metric
}

/// Between the cores that publish and the thread that tells.
pub(crate) struct Metrics {
    cores: Mutex<Vec<Numbers>>,
    running: Vec<Arc<Running>>,
    /// What people call the node.
    node: String,
    logs: Weak<Logs>,
}

impl Metrics {
    pub(crate) fn new(cores: usize, node: String, logs: Weak<Logs>) -> Self {
        let running = (0..cores).map(|_| Arc::default()).collect();
        Self { cores: Mutex::new(vec![Numbers::default(); cores]), running, node, logs }
    }

    /// The task that runs on a core.
    pub(crate) fn running(&self, core: u16) -> Arc<Running> {
        self.running[usize::from(core)].clone()
    }

    pub(crate) fn cores(&self) -> usize {
        self.last().len()
    }

    pub(crate) fn publish(&self, core: u16, numbers: Numbers) {
        let mut all = self.cores.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all[usize::from(core)] = numbers;
    }

    fn last(&self) -> Vec<Numbers> {
        self.cores.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

impl Snapshot for Metrics {
    fn metrics(&self) -> String {
        let dropped = self.logs.upgrade().map_or(0, |logs| logs.dropped_lines());
        text(&self.last(), &self.node, dropped as u64)
            .unwrap_or_else(|error| format!("# {error}\n"))
    }

    fn live(&self) -> Result<(), String> {
        for (core, numbers) in self.last().iter().enumerate() {
            let silent = numbers.at.map_or(Duration::ZERO, |at| at.elapsed());
            if silent > HANGS_AFTER {
                let task = self.running[core].name().unwrap_or("none");
                let silent = silent.as_secs();
                return Err(format!("core {core} has been silent for {silent} s, task: {task}"));
            }
        }
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        self.live()?;
        for (core, numbers) in self.last().iter().enumerate() {
            match numbers.status {
                Some(Status::Serving) => {}
                Some(Status::Poisoned(error)) => {
                    return Err(format!("topics cannot be changed until the next start: {error}"));
                }
                Some(status) => return Err(format!("core {core} is not serving: {status:?}")),
                None => return Err(format!("core {core} is starting")),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use catena_log::io::IoError;

    use super::*;

    #[test]
    fn numbers_are_told_in_the_usual_format() {
        let node = NodeStats { requests: 7, ..NodeStats::default() };
        let cores = [Numbers { node, ..Numbers::default() }, Numbers::default()];
        let text = text(&cores, "n1", 3).unwrap();
        let version = env!("CARGO_PKG_VERSION");
        let build = format!("catena_build_info{{node=\"n1\",version=\"{version}\"}} 1");
        assert!(text.contains(&build), "{text}");
        let requests = "# TYPE catena_requests_total counter\n\
                        catena_requests_total{core=\"0\"} 7\ncatena_requests_total{core=\"1\"} 0\n";
        assert!(text.contains(requests), "{text}");
        assert!(text.contains("catena_log_lines_dropped_total 3"));
        let bucket = "catena_append_seconds_bucket{core=\"1\",stage=\"write\",le=\"0.00005\"} 0";
        assert!(text.contains(bucket), "{text}");
        assert!(text.contains("# TYPE catena_connections gauge\ncatena_connections{core=\"0\"} 0"));
    }

    #[test]
    fn a_node_is_ready_once_every_core_serves() {
        let metrics = Metrics::new(2, String::new(), Weak::new());
        assert!(metrics.live().is_ok() && metrics.ready().is_err());
        let (at, status) = (Some(Instant::now()), Some(Status::Serving));
        metrics.publish(0, Numbers { at, status, ..Numbers::default() });
        assert_eq!(metrics.ready(), Err("core 1 is starting".to_owned()));
        metrics.publish(1, Numbers { at, status, ..Numbers::default() });
        assert!(metrics.ready().is_ok());
        let status = Some(Status::Poisoned(IoError::NoSpace));
        metrics.publish(0, Numbers { at, status, ..Numbers::default() });
        assert!(metrics.live().is_ok() && metrics.ready().unwrap_err().contains("topics"));
    }
}
