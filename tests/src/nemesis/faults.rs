//! What the nemesis does, and how it is undone.

use std::{
    fs::{self, File},
    io::Write,
};

use super::{
    cluster::{Cluster, NODES},
    network::Network,
    power,
};
use crate::sim::random::Random;

/// Something that befalls a node, for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It is killed, and started again.
    Kill,
    /// Its process stands still.
    Pause,
    /// What it sends to one other node does not arrive.
    OneWay,
    /// Who leads the control plane is cut off.
    IsolateControl,
    /// The head of a chain is cut off.
    IsolateHead,
    /// One between the head and the tail is.
    IsolateMiddle,
    /// The tail is.
    IsolateTail,
    /// What it sends goes out slowly.
    SlowLink,
    /// Its disk is full.
    FullDisk,
    /// While it is down, bytes of a file that is complete turn.
    Corrupt,
    /// Its disk takes its time for everything.
    SlowDisk,
    /// All nodes lose their power at once, and disks what was not flushed.
    PowerCut,
    /// The control: all disks say that they have flushed and have not, and then the power goes.
    /// Acknowledged records must be lost by that, or power cuts prove nothing.
    Lie,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Kill,
        Self::Pause,
        Self::IsolateControl,
        Self::OneWay,
        Self::IsolateHead,
        Self::IsolateMiddle,
        Self::IsolateTail,
        Self::SlowLink,
        Self::FullDisk,
        Self::Corrupt,
        Self::SlowDisk,
        Self::PowerCut,
        Self::Lie,
    ];

    /// Its name on command lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::OneWay => "oneway",
            Self::IsolateControl => "isolate-control",
            Self::IsolateHead => "isolate-head",
            Self::IsolateMiddle => "isolate-middle",
            Self::IsolateTail => "isolate-tail",
            Self::SlowLink => "slow-link",
            Self::FullDisk => "full-disk",
            Self::Corrupt => "corrupt",
            Self::SlowDisk => "slow-disk",
            Self::PowerCut => "power-cut",
            Self::Lie => "lie",
        }
    }

    /// Whether it needs a network of the nodes' own, or disks.
    #[must_use]
    pub const fn needs_room(self) -> bool {
        !matches!(self, Self::Kill | Self::Pause | Self::Corrupt)
    }

    /// Whether it needs disks with a cache of their own.
    #[must_use]
    pub const fn needs_disk(self) -> bool {
        matches!(self, Self::SlowDisk | Self::PowerCut | Self::Lie)
    }

    /// Does it to some node, if it can be done now; the one whose turn it is, if that is free.
    ///
    /// # Errors
    /// When the means are missing.
    pub fn strike(
        self,
        cluster: &mut Cluster,
        turn: usize,
        random: &mut Random,
    ) -> Result<Option<Struck>, String> {
        let other = (turn + 1 + random.below(NODES as u64 - 1) as usize) % NODES;
        let (mut to, mut unplugged) = (other, false);
        let victim = match self {
            Self::IsolateControl => cluster.control(),
            Self::IsolateHead | Self::IsolateMiddle | Self::IsolateTail => {
                let partitions = cluster.topic().map_or(0, |topic| topic.partitions.len());
                let partition = (partitions > 0).then(|| random.below(partitions as u64) as u32);
                partition.and_then(|partition| self.placed(&cluster.chain(partition)))
            }
            _ => Some(turn),
        };
        let Some(victim) = victim else { return Ok(None) };
        match self {
            Self::Kill => cluster.nodes[victim].kill()?,
            Self::Pause => cluster.nodes[victim].pause(true)?,
            Self::OneWay => network(cluster)?.pass([victim, to], false)?,
            Self::IsolateControl | Self::IsolateHead | Self::IsolateMiddle | Self::IsolateTail => {
                unplugged = random.below(2) == 0;
                match unplugged {
                    true => network(cluster)?.plug(victim, false)?,
                    false => network(cluster)?.isolate(victim, true)?,
                }
            }
            Self::SlowLink => network(cluster)?.slow(victim, true)?,
            Self::FullDisk => fill(cluster, victim)?,
            Self::Corrupt => {
                cluster.nodes[victim].kill()?;
                if !super::rot::spoil(&cluster.nodes[victim].data, random)? {
                    to = victim;
                }
            }
            Self::SlowDisk => power::slow(cluster, victim, Some(random))?,
            Self::PowerCut => power::cut(cluster, random)?,
            Self::Lie => power::lie(cluster)?,
        }
        Ok(Some(Struck { fault: self, victim, to, unplugged }))
    }

    /// Who of a chain is cut off.
    fn placed(self, chain: &[usize]) -> Option<usize> {
        match self {
            Self::IsolateMiddle if chain.len() == NODES => chain.get(1),
            Self::IsolateTail if chain.len() > 1 => chain.last(),
            Self::IsolateHead => chain.first(),
            _ => None,
        }
        .copied()
    }
}

/// What was done, to whom.
#[derive(Clone, Copy, Debug)]
pub struct Struck {
    /// What.
    pub fault: Fault,
    /// To whom.
    pub victim: usize,
    to: usize,
    unplugged: bool,
}

impl Struck {
    /// Whether anything was done.
    #[must_use]
    pub fn is_real(&self) -> bool {
        self.fault != Fault::Corrupt || self.to != self.victim
    }

    /// Undoes it.
    ///
    /// # Errors
    /// When that cannot be.
    pub fn heal(self, cluster: &mut Cluster) -> Result<(), String> {
        let Self { fault, victim, to, unplugged } = self;
        match fault {
            Fault::Kill | Fault::Corrupt if cluster.nodes[victim].is_started() => Ok(()),
            Fault::Kill | Fault::Corrupt => cluster.start(victim),
            Fault::Pause => cluster.nodes[victim].pause(false),
            Fault::OneWay => network(cluster)?.pass([victim, to], true),
            Fault::IsolateControl
            | Fault::IsolateHead
            | Fault::IsolateMiddle
            | Fault::IsolateTail => match unplugged {
                true => network(cluster)?.plug(victim, true),
                false => network(cluster)?.isolate(victim, false),
            },
            Fault::SlowLink => network(cluster)?.slow(victim, false),
            Fault::FullDisk => {
                let file = cluster.nodes[victim].data.join("filler");
                fs::remove_file(file).map_err(|error| error.to_string())
            }
            Fault::SlowDisk => power::slow(cluster, victim, None),
            Fault::PowerCut => power::restore(cluster),
            Fault::Lie => power::expose(cluster),
        }
    }
}

fn network(cluster: &Cluster) -> Result<Network, String> {
    cluster.network.ok_or_else(|| "there is no network to break".to_owned())
}

/// Fills a node's disk with a file, to the last byte.
fn fill(cluster: &Cluster, victim: usize) -> Result<(), String> {
    let file = cluster.nodes[victim].data.join("filler");
    let mut file = File::create(file).map_err(|error| error.to_string())?;
    let mut bytes = 1 << 20;
    while bytes > 0 {
        match file.write(&vec![0x5a; bytes]) {
            Ok(written) if written > 0 => {}
            // What is left may be smaller.
            _ => bytes /= 2,
        }
    }
    Ok(())
}
