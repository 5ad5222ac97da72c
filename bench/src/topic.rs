//! A topic of the tool's own, dropped when it is done with it.

use std::{
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use catena_client::{
    Client, Connection, Options,
    format::{PartitionIndex, TopicId},
};

use crate::error::Error;

static NEXT: AtomicU32 = AtomicU32::new(0);

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
        timeout: Duration,
    ) -> Result<Self, Error> {
        let mut client = client(server, timeout);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("catena-bench-{}-{number}", process::id());
        client.create_topic(&name, partitions, Vec::new())?;
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
