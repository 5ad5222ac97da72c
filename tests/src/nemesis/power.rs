//! Disks whose cache goes with the power, one for each node, and the power cut of all at once.

use std::{sync::Arc, time::Duration};

use super::cluster::{Cluster, NODES};
use crate::{
    crash::{
        disk::{Disk, Odds},
        stack::Stack,
    },
    sim::random::{MILLION, Random},
};

/// Bytes of a node's disk; memory is taken for what is written.
const DISK_BYTES: usize = 384 << 20;
/// How long a write or a flush may take on a slow disk; ext4 makes several of one.
const SLOW_MS: std::ops::Range<u64> = 2..40;

/// A disk of its own for each node, with a file system on it.
///
/// # Errors
/// When the machine lacks something.
pub(super) fn disks(seed: u64) -> Result<Vec<Stack>, String> {
    let random = Random::new(seed);
    let stack = |node| {
        let random = random.stream(&format!("disk of node {node}"));
        Stack::new(Arc::new(Disk::new(DISK_BYTES, random)))
    };
    (1..=NODES).map(|node| stack(node).map_err(|error| format!("{error:#}"))).collect()
}

/// Slows the disk of a node down, or, without chance, not any more.
pub(super) fn slow(cluster: &Cluster, victim: usize, random: Option<&mut Random>) -> Done {
    let drawn = |random: &mut Random| SLOW_MS.start + random.below(SLOW_MS.end - SLOW_MS.start);
    let stack = cluster.nodes[victim].stack.as_ref().ok_or(NONE)?;
    stack.disk().slow(Duration::from_millis(random.map_or(0, drawn)));
    Ok(())
}

/// Cuts the power of all nodes. Half of the time their processes stand still by then; else they
/// may see that the disk answers nothing any more, as when it goes a moment before the processor.
pub(super) fn cut(cluster: &mut Cluster, random: &mut Random) -> Done {
    if random.below(2) == 0 {
        cluster.nodes.iter().try_for_each(|node| node.pause(true))?;
    }
    for node in &cluster.nodes {
        let disk = node.stack.as_ref().ok_or(NONE)?.disk();
        let mut of = || [0, MILLION / 3, MILLION * 3 / 4][random.below(3) as usize];
        disk.treat(Odds { kept: of(), torn: of() });
        disk.cut();
    }
    cluster.nodes.iter_mut().try_for_each(super::cluster::Node::kill)
}

/// From now on all disks lie.
pub(super) fn lie(cluster: &Cluster) -> Done {
    cluster.nodes.iter().try_for_each(|node| {
        node.stack.as_ref().ok_or(NONE)?.disk().lie();
        Ok(())
    })
}

/// The power goes, and nothing is there of what disks have said since they lie; then it is back.
pub(super) fn expose(cluster: &mut Cluster) -> Done {
    for node in &cluster.nodes {
        let disk = node.stack.as_ref().ok_or(NONE)?.disk();
        disk.treat(Odds { kept: 0, torn: 0 });
        disk.cut();
    }
    cluster.nodes.iter_mut().try_for_each(super::cluster::Node::kill)?;
    restore(cluster)
}

/// The power is back: all start on what their disks hold.
pub(super) fn restore(cluster: &mut Cluster) -> Done {
    for node in &mut cluster.nodes {
        let stack = node.stack.as_mut().ok_or(NONE)?;
        // A slow disk is so no more: whoever made it so heals it later, which does nothing.
        stack.disk().slow(Duration::ZERO);
        stack.unmount().map_err(|error| format!("{error:#}"))?;
        stack.disk().switch_on();
        stack.mount().map_err(|error| format!("{error:#}"))?;
    }
    (0..NODES).try_for_each(|number| cluster.start(number))
}

const NONE: &str = "there is no disk to break";

type Done = Result<(), String>;
