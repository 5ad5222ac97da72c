//! The consensus thread: starts openraft, carries requests to it, and tells what changes.

use std::{net::TcpStream, sync::Arc, thread};

use catena_format::NodeId;
use openraft::Config;
use tokio::{
    runtime,
    sync::{Semaphore, mpsc, watch},
};

use crate::{
    Consensus,
    desk::{Office, Work},
    links::{FrameError, Identity, Links, Network, ServeError, serve},
    machine::{Applier, Machine},
    options::{Begin, ORDERS_PER_NODE, Options, Settings, StartError},
    room::{Place, Room},
    store::{self, Committed, Opened, Store, StoreError},
    teller::{Teller, Told},
    tls::{Complaints, Tls},
    types::{Metrics, Raft},
};

/// What the thread is asked for.
pub(crate) enum Command {
    Work(Work, Place),
    Accept(TcpStream),
}

/// What openraft is started with.
struct Start {
    options: Options,
    begin: Begin,
    machine: Box<dyn Machine>,
    told: Box<dyn Fn(Told) + Send>,
}

type Started = Result<(watch::Receiver<Metrics>, Committed), StartError>;

/// Starts the thread; it ends once nobody can ask it for anything.
pub(crate) fn start(
    options: Options,
    begin: Begin,
    machine: Box<dyn Machine>,
    told: Box<dyn Fn(Told) + Send>,
) -> Result<Consensus, StartError> {
    options.settings.check()?;
    let Settings { proposals_max, connections_max, entry_bytes_max, .. } = options.settings;
    let (node, room) = (options.node, Room::new(&options.settings));
    let (commands, asked) = mpsc::channel(proposals_max + connections_max);
    let (started, result) = flume::bounded(1);
    let start = Start { options, begin, machine, told };
    let thread = thread::Builder::new().name("consensus".to_owned());
    let thread = thread.spawn(move || run(start, asked, &started)).map_err(StartError::Thread)?;
    let ended = || StartError::Consensus("its thread has ended".to_owned());
    let (metrics, committed) = result.recv().unwrap_or_else(|_| Err(ended()))?;
    let thread = Some(thread);
    Ok(Consensus { commands, room, entry_bytes_max, node, metrics, committed, thread })
}

fn run(start: Start, asked: mpsc::Receiver<Command>, started: &flume::Sender<Started>) {
    // Whoever starts it waits for the answer.
    let tell = |result| drop(started.send(result));
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tell(Err(StartError::Thread(error))),
    };
    let opened = match store::open(&store::Place::of(&start.options), &start.begin) {
        Ok(opened) => opened,
        Err(error) => return tell(Err(error.into())),
    };
    let Opened { store, snapshot, threads } = opened;
    runtime.block_on(async {
        match Driver::begin(start, store, snapshot).await {
            Ok(driver) => {
                tell(Ok((driver.office.raft.metrics(), driver.store.committed())));
                driver.drive(asked).await;
            }
            Err(error) => tell(Err(error)),
        }
    });
    // With the runtime goes whatever could still write. A name that is being looked up is not
    // waited for.
    runtime.shutdown_background();
    // It has logged what went wrong, if anything did.
    let _ = threads.join();
}

struct Driver {
    office: Office,
    store: Store,
    metrics: watch::Receiver<Metrics>,
    connections: Arc<Semaphore>,
    identity: Identity,
    tls: Option<Arc<Tls>>,
    complaints: Arc<Complaints>,
    log_bytes_max: usize,
    /// The term and its leader that were told last.
    told_leader: (u64, Option<u64>),
    failed: bool,
}

impl Driver {
    async fn begin(
        start: Start,
        store: Store,
        snapshot: Option<(crate::types::Meta, Vec<u8>)>,
    ) -> Result<Self, StartError> {
        let Start { options, machine, told, .. } = start;
        let settings = &options.settings;
        let (node, incarnation) = (options.node.get(), options.incarnation);
        let teller = Arc::new(Teller::new(node, incarnation, told));
        let applier = Applier::new(machine, snapshot, store.clone(), teller.clone());
        let path = store::Place::of(&options).snapshot();
        let applier = applier.ok_or(StoreError::Machine { path })?;
        let identity = Identity {
            cluster: options.cluster.get(),
            node,
            incarnation,
            preface: options.preface,
            frame_bytes_max: settings.frame_bytes_max(),
            snapshot_bytes_max: settings.snapshot_bytes_max,
            connect_within: settings.connect_within,
            stall_max: settings.answer_within,
        };
        let links = Links::new(identity, options.tls.clone());
        let network = Network(links.clone());
        let config = Arc::new(config(settings)?);
        let raft = Raft::new(node, config, network, store.clone(), applier).await;
        let raft = raft.map_err(|error| StartError::Consensus(error.to_string()))?;
        let mut metrics = raft.metrics();
        metrics.mark_changed();
        let connections = Arc::new(Semaphore::new(settings.connections_max));
        let log_bytes_max = settings.log_bytes_max;
        let orders = Arc::new(Semaphore::new(ORDERS_PER_NODE));
        let settings = settings.clone();
        let office = Office { raft, links, teller, identity, orders, settings };
        let told_leader = (0, None);
        let failed = false;
        let driver = Self {
            office,
            store,
            metrics,
            connections,
            identity,
            tls: options.tls,
            complaints: Arc::default(),
            log_bytes_max,
            told_leader,
            failed,
        };
        Ok(driver)
    }

    async fn drive(mut self, mut asked: mpsc::Receiver<Command>) {
        loop {
            tokio::select! {
                command = asked.recv() => match command {
                    Some(Command::Work(work, place)) => self.office.work(work, place),
                    Some(Command::Accept(stream)) => self.accept(stream),
                    None => break,
                },
                changed = self.metrics.changed(), if !self.failed => match changed {
                    Ok(()) => self.look().await,
                    Err(_) => self.fail("openraft has ended".to_owned()),
                },
            }
        }
        self.stop().await;
    }

    async fn stop(self) {
        let Self { office, store, .. } = self;
        if let Err(error) = office.raft.shutdown().await {
            tracing::error!(%error, "openraft did not end as it should");
        }
        office.teller.doubt_all();
        if let Err(error) = store.stop().await {
            tracing::error!(%error, "the consensus log was not closed as it should be");
        }
    }

    fn fail(&mut self, why: String) {
        self.failed = true;
        self.office.teller.doubt_all();
        self.office.teller.tell(Told::Failed(why));
    }

    /// Something has changed.
    async fn look(&mut self) {
        let metrics = self.metrics.borrow_and_update().clone();
        if let Err(error) = &metrics.running_state {
            return self.fail(error.to_string());
        }
        let leader = (metrics.current_term, metrics.current_leader);
        if self.told_leader != leader {
            self.told_leader = leader;
            let (term, leader) = (leader.0, leader.1.map(NodeId::new));
            self.office.teller.tell(Told::Leader { term, leader });
        }
        let membership = metrics.membership_config.membership();
        self.office.links.keep(|node| membership.get_node(&node).is_some());
        if self.store.bytes() > self.log_bytes_max {
            self.shrink(&metrics).await;
        }
    }

    /// Entries take more memory than they may: those in the snapshot are dropped, or the rest is
    /// put in one.
    async fn shrink(&self, metrics: &Metrics) {
        let trigger = self.office.raft.trigger();
        let shrunk = match metrics.snapshot {
            Some(snapshot) if metrics.purged < Some(snapshot) => {
                trigger.purge_log(snapshot.index).await
            }
            snapshot if snapshot < metrics.last_applied => trigger.snapshot().await,
            _ => Ok(()),
        };
        if let Err(error) = shrunk {
            tracing::debug!(%error, "openraft has ended");
        }
    }

    fn accept(&self, stream: TcpStream) {
        let Ok(permit) = self.connections.clone().try_acquire_owned() else {
            tracing::warn!("too many connections of other nodes: one is closed");
            return;
        };
        let stream =
            stream.set_nonblocking(true).and_then(|()| tokio::net::TcpStream::from_std(stream));
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => return tracing::warn!(%error, "a connection cannot be served"),
        };
        let (identity, office) = (self.identity, self.office.clone());
        let (tls, complaints) = (self.tls.clone(), self.complaints.clone());
        let peer = stream.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
        tokio::spawn(async move {
            match serve(identity, tls, stream, office).await {
                Ok(()) => {}
                Err(ServeError::Frame(FrameError::Io(error))) => {
                    tracing::debug!(error, "the connection of another node has ended");
                }
                Err(error) => {
                    let complaint = format!("a connection from {peer} to consensus: {error}");
                    if complaints.is_news(&complaint) {
                        tracing::warn!("{complaint}");
                    }
                }
            }
            drop(permit);
        });
    }
}

fn config(settings: &Settings) -> Result<Config, StartError> {
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: "catena".to_owned(),
        heartbeat_interval: millis(settings.heartbeat),
        election_timeout_min: millis(settings.election.0),
        election_timeout_max: millis(settings.election.1),
        install_snapshot_timeout: millis(settings.answer_within),
        snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(settings.snapshot_every),
        snapshot_max_chunk_size: settings.snapshot_chunk_bytes as u64,
        max_in_snapshot_log_to_keep: settings.entries_kept,
        replication_lag_threshold: settings.snapshot_every.saturating_add(settings.entries_kept),
        ..Config::default()
    };
    config.validate().map_err(|error| StartError::Consensus(error.to_string()))
}
