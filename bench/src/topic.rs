//! A topic of the tool's own, dropped when it is done with it, or a day later by another run.

use std::{
    process,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use catena_client::{
    Client, Connection, ErrorCode, Options, PartitionMetadata, Setting,
    format::{PartitionIndex, TopicId},
};

use crate::error::Error;

static NEXT: AtomicU32 = AtomicU32::new(0);

const PREFIX: &str = "catena-bench-";
/// How soon to look again whether chains are whole.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// No measurement takes so long: a topic as old was left by a run that was killed.
const LEFTOVER_SECONDS: u64 = 24 * 3600;

/// A topic that is deleted with this value.
pub(crate) struct Topic {
    name: String,
    id: TopicId,
    /// The head of each partition's chain, and the core there that owns it.
    heads: Vec<(String, u16)>,
    client: Client,
}

/// A client of `server` whose requests may take `timeout`.
pub(crate) fn client(server: &Options, timeout: Duration) -> Client {
    Client::new(server.clone().with_request_timeout(timeout))
}

impl Topic {
    /// Creates a topic with so many copies, 0: as many as the servers give one; and waits until
    /// its partitions serve, with all of these.
    pub(crate) fn create(
        server: &Options,
        partitions: u32,
        replicas: u8,
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
        let config = config.iter().map(setting).collect();
        client.create_replicated_topic(&name, partitions, replicas, config)?;
        let id = client.topic(&name)?.id;
        let mut topic = Self { name, id, heads: Vec::new(), client };
        topic.heads = topic.wait_for_heads(server, replicas, timeout)?;
        Ok(topic)
    }

    /// Where the heads are, once all chains are as long as they are to be.
    fn wait_for_heads(
        &mut self,
        server: &Options,
        replicas: u8,
        timeout: Duration,
    ) -> Result<Vec<(String, u16)>, Error> {
        let deadline = Instant::now() + timeout;
        loop {
            let partitions = self.client.topic(&self.name)?.partitions;
            let nodes = self.client.cluster()?.nodes;
            let head = |partition: &PartitionMetadata| {
                let chain = &partition.chain;
                let node = nodes.iter().find(|node| Some(&node.node) == chain.first())?;
                let whole = partition.error == ErrorCode::None;
                let whole = whole && chain.len() >= usize::from(replicas);
                let address = if nodes.len() > 1 { &node.client } else { server.server.as_str() };
                whole.then(|| (address.to_owned(), partition.core))
            };
            let heads: Option<Vec<_>> = partitions.iter().map(head).collect();
            match heads {
                Some(heads) => return Ok(heads),
                None if Instant::now() > deadline => {
                    return Err(Error::NotWhole { topic: self.name.clone(), replicas });
                }
                None => thread::sleep(LOOK_EVERY),
            }
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn id(&self) -> TopicId {
        self.id
    }

    /// How the head of the chain of all of these partitions is reached, and its core that owns the
    /// first of them.
    ///
    /// # Errors
    /// [`Error::Heads`] when they have not all one.
    pub(crate) fn head(
        &self,
        server: &Options,
        partitions: &[PartitionIndex],
    ) -> Result<(Options, Option<u16>), Error> {
        let mut heads = partitions.iter().filter_map(|p| self.heads.get(p.get() as usize));
        let Some((address, core)) = heads.next() else { return Ok((server.clone(), None)) };
        if heads.any(|(other, _)| other != address) {
            return Err(Error::Heads);
        }
        Ok((Options { server: address.clone(), ..server.clone() }, Some(*core)))
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
