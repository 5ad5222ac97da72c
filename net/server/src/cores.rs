//! What the cores of the process have in common: the ways between them, and how they start and end.

use std::{
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use catena_consensus::Consensus;
use catena_node::Parcel;
use glommio::Placement;

use crate::{live::Current, metrics::Metrics, remover::Remover};

/// What goes from one core to another.
pub(crate) enum Cargo {
    /// From node to node.
    Parcel(Parcel),
    /// A connection whose client asked for that core, and when its handshake must have ended.
    Connection(OwnedFd, Instant),
    /// A connection of another node that is for that core.
    Peer(OwnedFd),
}

/// What all cores share: counters and ways, no data.
pub(crate) struct Shared {
    /// The process is to end.
    pub(crate) stop: Arc<AtomicBool>,
    /// Numbers of all cores.
    pub(crate) metrics: Arc<Metrics>,
    /// The settings in force that may change.
    pub(crate) live: Arc<Current>,
    /// Removes the files of deleted topics.
    pub(crate) remover: Remover,
    /// Of a node of a cluster.
    pub(crate) consensus: Option<Arc<Consensus>>,
    /// Where other nodes connect, if they do.
    pub(crate) peer_address: Option<SocketAddr>,
    /// Connections open, over all cores.
    pub(crate) connections: AtomicUsize,
    /// Where clients connect, from the moment the first core listens.
    pub(crate) address: SocketAddr,
    /// Cores that take connections.
    pub(crate) listening: AtomicUsize,
    /// Cores that end and have nothing to do.
    idle: AtomicUsize,
    /// All cores had nothing to do at a time.
    drained: AtomicBool,
    /// Why a core had to end.
    failure: Mutex<Option<String>>,
    /// What goes between two cores is bounded by what their clients may have in flight.
    ways: Vec<flume::Sender<(u16, Cargo)>>,
}

impl Shared {
    /// The shared part and each core's end of the ways.
    pub(crate) fn new(
        cores: u16,
        (address, peer_address): (SocketAddr, Option<SocketAddr>),
        consensus: Option<Arc<Consensus>>,
        stop: Arc<AtomicBool>,
        metrics: Arc<Metrics>,
        live: Arc<Current>,
        remover: Remover,
    ) -> (Arc<Self>, Vec<flume::Receiver<(u16, Cargo)>>) {
        let (ways, arrivals) = (0..cores).map(|_| flume::unbounded()).unzip();
        let shared = Self {
            stop,
            metrics,
            live,
            remover,
            consensus,
            peer_address,
            connections: AtomicUsize::new(0),
            address,
            listening: AtomicUsize::new(0),
            idle: AtomicUsize::new(0),
            drained: AtomicBool::new(false),
            failure: Mutex::new(None),
            ways,
        };
        (Arc::new(shared), arrivals)
    }

    /// How many cores there are.
    pub(crate) fn cores(&self) -> usize {
        self.ways.len()
    }

    /// Sends something to another core; that core may have ended.
    pub(crate) fn send(&self, from: u16, to: u16, cargo: Cargo) {
        if let Some(way) = self.ways.get(usize::from(to)) {
            let _ = way.send((from, cargo));
        }
    }

    /// A core that ends has nothing to do, or has something again.
    pub(crate) fn note_idle(&self, idle: bool) {
        if idle {
            self.idle.fetch_add(1, Ordering::SeqCst);
        } else {
            self.idle.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Whether all cores end and had nothing to do at a time: none may be waited for any more.
    pub(crate) fn drained(&self) -> bool {
        let all = self.idle.load(Ordering::SeqCst) >= self.cores();
        self.drained.fetch_or(all, Ordering::SeqCst) || all
    }

    /// Ends the process because a core cannot go on.
    pub(crate) fn fail(&self, why: String) {
        let mut failure = self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        failure.get_or_insert(why);
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Why the process had to end, if it had.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Whether the process is to end.
    pub(crate) fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Where the executor of a core runs: on a processor of its own, when there is one for each.
pub(crate) fn placement(core: usize, cores: usize) -> Placement {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else { return Placement::Unbound };
    let mut cpus = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    let enough = allowed.count() as usize >= cores;
    match cpus.nth(core) {
        // A lone core stays free to go where nothing else runs.
        Some(cpu) if enough && cores > 1 => Placement::Fixed(cpu),
        _ => Placement::Unbound,
    }
}
