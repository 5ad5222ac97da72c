//! A topic of the tool's own, dropped when it is done with it, or a day later by another run.

use std::{
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use catena_client::{
    Client, Connection, Options, Setting,
    format::{PartitionIndex, TopicId},
};

use crate::error::Error;

static NEXT: AtomicU32 = AtomicU32::new(0);

const PREFIX: &str = "catena-bench-";
/// No measurement takes so long: a topic as old was left by a run that was killed.
const LEFTOVER_SECONDS: u64 = 24 * 3600;

/// A topic that is deleted with this value.
pub(crate) struct Topic {
    name: String,
    id: TopicId,
    /// The core that owns each partition.
    cores: Vec<u16>,
    client: Client,
}

/// A client of `server` whose requests may take `timeout`.
pub(crate) fn client(server: &Options, timeout: Duration) -> Client {
    Client::new(server.clone().with_request_timeout(timeout))
}

impl Topic {
    /// Creates a topic, and waits until its partitions serve.
    pub(crate) fn create(
        server: &Options,
        partitions: u32,
        config: &[(String, String)],
        timeout: Duration,
    ) -> Result<Self, Error> {
        let mut client = client(server, timeout);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        drop_leftovers(&mut client, now)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{now}-{}-{number}", process::id());
        let setting = |(key, value): &(String, String)| Setting {
            key: key.clone().into(),
            value: value.clone().into(),
        };
        client.create_topic(&name, partitions, config.iter().map(setting).collect())?;
        let topic = client.topic(&name)?;
        let cores = topic.partitions.iter().map(|partition| partition.core).collect();
        Ok(Self { name, id: topic.id, cores, client })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn id(&self) -> TopicId {
        self.id
    }

    /// The core that owns a partition.
    pub(crate) fn core(&self, partition: PartitionIndex) -> Option<u16> {
        self.cores.get(partition.get() as usize).copied()
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        if let Err(error) = self.client.delete_topic(&self.name) {
            eprintln!("catena-bench: topic {} is left over: {error}", self.name);
        }
    }
}

/// Deletes what runs that were killed have left.
fn drop_leftovers(client: &mut Client, now: u64) -> Result<(), Error> {
    for topic in client.topics()?.iter().filter(|topic| is_leftover(&topic.name, now)) {
        match client.delete_topic(&topic.name) {
            Ok(()) => eprintln!("catena-bench: topic {} of an earlier run is dropped", topic.name),
            // Another run was faster, or may do it.
            Err(error) => eprintln!("catena-bench: topic {} is left over: {error}", topic.name),
        }
    }
    Ok(())
}

/// Whether a run that began a day or more before `now`, in Unix seconds, has made this topic.
fn is_leftover(name: &str, now: u64) -> bool {
    let Some(parts) = name.strip_prefix(PREFIX) else { return false };
    let numbers: Option<Vec<u64>> = parts.split('-').map(|part| part.parse().ok()).collect();
    let made = numbers.filter(|numbers| numbers.len() == 3).map(|numbers| numbers[0]);
    made.is_some_and(|made| now.saturating_sub(made) >= LEFTOVER_SECONDS)
}

/// The partitions, of so many, that a producer or consumer of so many takes care of.
pub(crate) fn share(index: u32, of: u32, partitions: u32) -> Vec<PartitionIndex> {
    let first = index % partitions;
    (first..partitions).step_by(of as usize).map(PartitionIndex::new).collect()
}

/// A connection to a core, with no more in flight than the server grants.
pub(crate) fn connect(
    server: &Options,
    timeout: Duration,
    core: Option<u16>,
    in_flight: usize,
    batch_bytes: usize,
) -> Result<Connection, Error> {
    let connection = Connection::open_with(&server.clone().with_request_timeout(timeout), core)?;
    let limits = &connection.greeting().limits;
    let by_bytes = limits.in_flight_bytes_max as usize / batch_bytes.max(1);
    let granted = (limits.in_flight_max as usize).min(by_bytes.max(1));
    if in_flight > granted {
        return Err(Error::InFlight { asked: in_flight, granted });
    }
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_topics_of_runs_long_ago_are_leftovers() {
        let now = 2_000_000_000;
        let made = |ago: u64| format!("catena-bench-{}-77-0", now - ago);
        assert!(is_leftover(&made(LEFTOVER_SECONDS), now));
        assert!(!is_leftover(&made(LEFTOVER_SECONDS - 1), now));
        for name in ["catena-bench-77-0", "catena-bench-", "mine-1-77-0", "catena-bench-1-77-x"] {
            assert!(!is_leftover(name, now), "{name}");
        }
    }

    #[test]
    fn partitions_are_shared_out() {
        let numbers = |index, of, partitions| {
            let share = share(index, of, partitions);
            share.into_iter().map(PartitionIndex::get).collect::<Vec<_>>()
        };
        assert_eq!(numbers(0, 1, 3), [0, 1, 2]);
        assert_eq!([numbers(0, 2, 3), numbers(1, 2, 3)], [vec![0, 2], vec![1]]);
        assert_eq!([numbers(0, 3, 2), numbers(1, 3, 2), numbers(2, 3, 2)], [[0], [1], [0]]);
    }
}
