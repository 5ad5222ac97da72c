//! The numbers of a core, published twice a second, and how they are told over HTTP.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use catena_node::{NodeStats, Status};
use catena_replication::{Phase, Replica};
use catena_uring::{DmaMemory, HandsStats};
use prometheus::{Encoder, IntCounter, IntGauge, Registry, TextEncoder};

use crate::admin::Snapshot;

/// A core that has published nothing for so long hangs.
const HANGS_AFTER: Duration = Duration::from_secs(10);

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
    pub(crate) partitions: [u64; 3],
    pub(crate) poisoned: u64,
    pub(crate) disk_full: u64,
    pub(crate) segments: u64,
    pub(crate) log_bytes: u64,
    pub(crate) undurable_bytes: u64,
    pub(crate) damaged_offsets: u64,
    pub(crate) appended_batches: u64,
    pub(crate) appended_bytes: u64,
    pub(crate) flights: u64,
    pub(crate) cold_reads: u64,
}

impl Numbers {
    /// Adds a partition's.
    pub(crate) fn add(&mut self, replica: &Replica<DmaMemory>) {
        let phase = match replica.phase() {
            Phase::Open => 0,
            Phase::Opening => 1,
            Phase::Failed(_) => 2,
        };
        self.partitions[phase] += 1;
        let Some(log) = replica.log() else { return };
        let stats = log.stats();
        self.poisoned += u64::from(log.poisoned().is_some());
        self.disk_full += u64::from(log.disk_full());
        self.segments += log.segments() as u64;
        self.log_bytes += log.bytes();
        self.undurable_bytes += log.undurable_bytes() as u64;
        self.damaged_offsets += log.damaged().iter().map(|r| r.end.since(r.start)).sum::<u64>();
        self.appended_batches += stats.batches_appended;
        self.appended_bytes += stats.bytes_appended;
        self.flights += stats.writes;
        self.cold_reads += stats.cold_reads;
    }

    fn counters(&self) -> [(&'static str, &'static str, u64); 14] {
        let (node, hands) = (&self.node, &self.hands);
        [
            ("catena_requests_total", "Requests received.", node.requests),
            ("catena_request_errors_total", "Requests answered with an error.", node.errors),
            ("catena_connections_total", "Connections accepted.", node.sessions),
            ("catena_fetched_bytes_total", "Bytes of batches sent.", node.fetched_bytes),
            ("catena_appended_batches_total", "Batches appended.", self.appended_batches),
            ("catena_appended_bytes_total", "Bytes of batches appended.", self.appended_bytes),
            ("catena_log_writes_total", "Writes of flush groups.", self.flights),
            ("catena_cold_reads_total", "Reads that went to the disk.", self.cold_reads),
            ("catena_disk_write_bytes_total", "Bytes written.", hands.write_bytes),
            ("catena_disk_read_bytes_total", "Bytes read.", hands.read_bytes),
            ("catena_disk_prewritten_bytes_total", "Zeros written ahead.", hands.extended_bytes),
            ("catena_disk_syncs_total", "Explicit syncs.", hands.syncs),
            ("catena_disk_errors_total", "Failed operations.", hands.errors),
            ("catena_file_opens_total", "Files opened.", hands.opens),
        ]
    }

    fn gauges(&self) -> [(&'static str, &'static str, u64); 12] {
        let [open, opening, failed] = self.partitions;
        [
            ("catena_connections", "Connections open.", self.connections),
            ("catena_partitions_open", "Partitions that serve.", open),
            ("catena_partitions_opening", "Partitions being opened.", opening),
            ("catena_partitions_failed", "Partitions that cannot be opened.", failed),
            ("catena_partitions_poisoned", "Read-only since a write failed.", self.poisoned),
            ("catena_partitions_disk_full", "Refusing for want of space.", self.disk_full),
            ("catena_segments", "Segment files.", self.segments),
            ("catena_log_bytes", "Bytes of segments.", self.log_bytes),
            ("catena_undurable_bytes", "Bytes on their way to the disk.", self.undurable_bytes),
            ("catena_damaged_offsets", "Offsets that cannot be read.", self.damaged_offsets),
            ("catena_memory_bytes", "Memory of batches and reads.", self.memory_bytes),
            ("catena_descriptors", "Files of logs held open.", self.descriptors),
        ]
    }

    fn text(&self) -> Result<String, prometheus::Error> {
        let registry = Registry::new();
        for (name, help, value) in self.counters() {
            let counter = IntCounter::new(name, help)?;
            counter.inc_by(value);
            registry.register(Box::new(counter))?;
        }
        for (name, help, value) in self.gauges() {
            let gauge = IntGauge::new(name, help)?;
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            registry.register(Box::new(gauge))?;
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// Between the core that publishes and the thread that tells.
#[derive(Default)]
pub(crate) struct Metrics(Mutex<Numbers>);

impl Metrics {
    pub(crate) fn publish(&self, numbers: Numbers) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = numbers;
    }

    fn last(&self) -> Numbers {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Snapshot for Metrics {
    fn metrics(&self) -> String {
        self.last().text().unwrap_or_else(|error| format!("# {error}\n"))
    }

    fn live(&self) -> Result<(), String> {
        match self.last().at {
            Some(at) if at.elapsed() > HANGS_AFTER => {
                Err(format!("the core has been silent for {} s", at.elapsed().as_secs()))
            }
            _ => Ok(()),
        }
    }

    fn ready(&self) -> Result<(), String> {
        self.live()?;
        match self.last().status {
            Some(Status::Serving) => Ok(()),
            Some(status) => Err(format!("the node is not serving: {status:?}")),
            None => Err("the node is starting".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_in_the_usual_format() {
        let node = NodeStats { requests: 7, ..NodeStats::default() };
        let text = Numbers { node, ..Numbers::default() }.text().unwrap();
        assert!(text.contains("# TYPE catena_requests_total counter\ncatena_requests_total 7\n"));
        assert!(text.contains("# TYPE catena_connections gauge\ncatena_connections 0\n"));
    }

    #[test]
    fn a_node_is_ready_once_it_serves() {
        let metrics = Metrics::default();
        assert!(metrics.live().is_ok() && metrics.ready().is_err());
        let (at, status) = (Some(Instant::now()), Some(Status::Serving));
        metrics.publish(Numbers { at, status, ..Numbers::default() });
        assert!(metrics.ready().is_ok());
    }
}
