//! How long a partition takes nothing after a node of its chain was killed or fell silent.

use std::{
    collections::BTreeMap,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use catena_client::{NewRecord, ProducerOptions, format::PartitionIndex};

use super::{
    cluster::{Cluster, NODES, PATIENCE, TOPIC},
    history::Record,
    network::Network,
};

/// What a node is in a chain.
const ROLES: [&str; NODES] = ["head", "middle", "tail"];

/// Times in ms by what was killed, and whether that led the control plane.
pub type Times = BTreeMap<(&'static str, bool), Vec<u64>>;

/// Kills the head, the middle and the tail of a chain so many times each, or, if it is to be
/// silent, stops their processes; half of the time one that leads the control plane, where there
/// is one.
///
/// # Errors
/// When nodes do not start, or nothing is acknowledged any more.
pub fn run(
    binary: &Path,
    folder: &Path,
    network: Option<Network>,
    partitions: u32,
    kills: u64,
    silent: bool,
) -> Result<Times, String> {
    let mut cluster = Cluster::new(binary, folder, network, partitions, Vec::new())?;
    let options = ProducerOptions { delivery_timeout: PATIENCE, ..ProducerOptions::default() };
    let producer = cluster.client().producer(TOPIC, options).map_err(|error| error.to_string())?;
    let (mut times, mut number) = (Times::new(), 0);
    let mut append = |partition: u32| {
        let value = Record { who: partition, number }.value();
        number += 1;
        let record = NewRecord::value(&value).with_partition(PartitionIndex::new(partition));
        let stored = producer.append(&record).and_then(catena_client::Ticket::wait);
        stored.map(drop).map_err(|error| error.to_string())
    };
    for kill in 0..kills {
        for (place, role) in ROLES.into_iter().enumerate() {
            let control = cluster.control();
            let wanted = kill % 2 == 0;
            let (partition, victim) = chosen(&cluster, place, control, wanted)?;
            // The connection stands, and the chain is not at rest.
            (0..20).try_for_each(|_| append(partition))?;
            let began = Instant::now();
            match silent {
                true => cluster.nodes[victim].pause(true)?,
                false => cluster.nodes[victim].kill()?,
            }
            append(partition)?;
            let millis = began.elapsed().as_millis() as u64;
            let leads = control == Some(victim);
            eprintln!("{role} of {partition}, node {}: {millis} ms, {leads}", victim + 1);
            times.entry((role, leads)).or_default().push(millis);
            match silent {
                true => cluster.nodes[victim].pause(false)?,
                false => cluster.start(victim)?,
            }
            cluster.wait_until_well()?;
        }
    }
    Ok(times)
}

/// A partition and the node at this place of its chain; one that leads the control plane or not, as
/// wanted, if there is any.
fn chosen(
    cluster: &Cluster,
    place: usize,
    control: Option<usize>,
    wanted: bool,
) -> Result<(u32, usize), String> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let topic = cluster.topic().ok_or("nobody knows the topic")?;
        let members = topic.partitions.iter().filter_map(|partition| {
            let node = partition.chain.get(place)?.get().checked_sub(1)?;
            Some((partition.index.get(), node as usize))
        });
        let members: Vec<(u32, usize)> = members.collect();
        let fits = members.iter().find(|(_, node)| (control == Some(*node)) == wanted);
        match fits.or(members.first()) {
            Some(found) => return Ok(*found),
            None if Instant::now() > deadline => return Err("no chain is whole".to_owned()),
            None => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// The median and the longest.
#[must_use]
pub fn figures(times: &[u64]) -> [u64; 2] {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    [sorted.len() / 2, sorted.len().saturating_sub(1)]
        .map(|at| sorted.get(at).copied().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_and_the_longest_are_told() {
        assert_eq!([figures(&[]), figures(&[7]), figures(&[9, 1, 5])], [[0, 0], [7, 7], [5, 9]]);
    }
}
