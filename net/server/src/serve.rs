//! `catena serve`: from a directory and an address to a running node.

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use catena_consensus::{Consensus, Tls};
use catena_log::OpenError;
use catena_node::{Limits, Node, NodeIdentity, Post, Status};
use catena_replication::control::NodeProfile;
use catena_uring::{DmaMemory, Findings, Hands, HandsOptions, lock_directory, probe};
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, net::TcpListener};

use crate::{
    admin::Admin,
    cli::Exit,
    cluster::{self, Membership},
    config::{Config, Gathered, HostPort, Sources},
    cores::{Cargo, Shared, placement},
    identity::Identity,
    live::{Current, reload_on_hangup},
    logging::Logs,
    metrics::Metrics,
    remover::Remover,
    shell::{Shell, ShellOptions, bind, bind_alone},
    tasks::Task,
};

/// What a file system that copies on write means.
pub(crate) const COPIES_ON_WRITE: &str =
    "copies on write: commits cost more; ext4 or XFS is faster";

/// Direct I/O memory that is registered with the kernel, three times over.
const REGISTERED_BYTES: usize = 1 << 20;

/// Runs the server until it is told to stop.
pub(crate) fn serve(
    mut config: Config,
    sources: Sources,
    gathered: Gathered,
    logs: &Arc<Logs>,
) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let descriptors = raise_descriptor_limit()?;
    let data_dir = config.storage.data_dir;
    let _lock = lock_directory(&data_dir)?;
    let findings = probe(&data_dir)?;
    // The runtime opens directories by absolute paths only.
    config.storage.data_dir = data_dir.canonicalize().context("no data directory")?;
    announce(&config, &findings);
    // Without it a write beyond a file-size limit would kill the process.
    let ignored = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, ignored)?;
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let live = Arc::new(Current::of(&config)?);
    reload_on_hangup(sources, gathered, Arc::downgrade(logs), live.clone())?;
    let wished = usize::try_from(config.limits.descriptors)?;
    let cores = usize::try_from(config.node.cores.count().get())?;
    let files = wished.min(descriptors_for_files(descriptors));
    leave_descriptors(&mut config, descriptors.saturating_sub(files));
    let hands = HandsOptions {
        descriptors: (files / cores).max(16),
        memory_bytes: usize::try_from(config.memory_of_core())?,
        disk_reserve_bytes: config.storage.disk_reserve.0,
    };
    let metrics = Arc::new(Metrics::new(cores, config.node.name.0.clone(), Arc::downgrade(logs)));
    abort_on_panic();
    executor(0, cores)
        .make()
        .map_err(|e| anyhow::anyhow!("cannot start the first core's executor: {e}"))?
        .run(run(config, hands, live, metrics, stop))
}

/// The executor of a core.
///
/// When its preemption timer has run out before the first of the runnable tasks is polled, because
/// the kernel took the processor away in between, the runtime goes to sleep with these tasks unrun:
/// until something else completes, at a start for good. So the timer is longer than a processor is
/// taken away, and tasks that always find work go by [`breathe`](crate::shell::breathe) instead.
pub(crate) fn executor(core: usize, cores: usize) -> LocalExecutorBuilder {
    LocalExecutorBuilder::new(placement(core, cores))
        .name(&format!("core-{core}"))
        .io_memory(REGISTERED_BYTES)
        .ring_depth(256)
        .preempt_timer(Duration::from_millis(100))
        .spin_before_park(Duration::from_micros(20))
}

/// A core that has panicked is gone with its partitions; nothing goes on without it.
fn abort_on_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort();
    }));
}

/// The first core: it opens the catalog, starts the others, and ends when all have ended.
async fn run(
    config: Config,
    hands_options: HandsOptions,
    live: Arc<Current>,
    metrics: Arc<Metrics>,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let data_dir = &config.storage.data_dir;
    let First { shell, shared, node, standing, admin, listener, arrivals, others } =
        begin(&config, hands_options, live, metrics, stop).await?;
    if !wait_for_catalog(&shell).await? {
        tracing::info!("stopped before the catalog was open");
        return Ok(());
    }
    match standing {
        Standing::Alone(identity) => identity.note_founded(data_dir)?,
        Standing::Member(membership) => membership.note_life(data_dir)?,
    }
    let leftovers = shell.remove_leftovers().context("cannot look through the partitions")?;
    let partitions = shell.look(|node| node.known().len());
    let threads = start_further(&config, hands_options, node, &shared, others).await?;
    for arrivals in arrivals {
        shell.spawn(Task::Parcels, shell.clone().receive(arrivals));
    }
    let (cluster, id, cores) = (node.cluster.get(), node.node, shared.cores());
    tracing::info!(
        "{} is ready on {} in {} ms (metrics on {}): cluster {cluster:032x}, node {id}, {cores} \
         cores, {leftovers} leftovers removed, {partitions} partitions that serve as they open",
        config.node.name.0,
        shared.address,
        began.elapsed().as_millis(),
        admin.address(),
    );
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    shell.spawn(Task::Listener, shell.clone().listen(listener));
    shell.watch(Task::Clock, shell.run()).await;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    shell.watch(Task::Clock, shell.drain()).await;
    for thread in threads {
        thread.join().map_err(|e| anyhow::anyhow!("a core ended badly: {e}"))?;
    }
    admin.stop();
    if let Some(why) = shared.failure() {
        bail!(why);
    }
    tracing::info!("stopped");
    Ok(())
}

/// The first core, as it opens the catalog.
struct First {
    shell: Rc<Shell>,
    shared: Arc<Shared>,
    node: NodeIdentity,
    standing: Standing,
    admin: Admin,
    listener: TcpListener,
    arrivals: Vec<flume::Receiver<(u16, Cargo)>>,
    /// Of the further cores.
    others: Vec<flume::Receiver<(u16, Cargo)>>,
}

async fn begin(
    config: &Config,
    hands_options: HandsOptions,
    live: Arc<Current>,
    metrics: Arc<Metrics>,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<First> {
    let listener = bind_alone(config.listen.client).await?;
    let address = listener.local_addr().map_err(|e| anyhow::anyhow!("no local address: {e}"))?;
    let peers = match config.listen.peer {
        Some(peer) => Some(bind_alone(peer).await?),
        None => None,
    };
    let peer_address = peers.as_ref().and_then(|peers| peers.local_addr().ok());
    let cores = u16::try_from(metrics.cores())?;
    let tls = live.peer_tls().cloned();
    let (node, post, standing) = enter(config, tls, address, peer_address, cores)?;
    let hands = Hands::start(&config.storage.data_dir, hands_options).await?;
    let admin = Admin::start(config.listen.admin.0, metrics.clone())
        .with_context(|| format!("cannot listen on {}", config.listen.admin.0))?;
    let remover = Remover::start().context("cannot start the thread that removes files")?;
    let consensus = standing.consensus();
    let addresses = (address, peer_address);
    let (shared, mut arrivals) =
        Shared::new(cores, addresses, consensus, stop, metrics, live, remover);
    let others = arrivals.split_off(1);
    let decides = make_node(config, node, post, &hands)?;
    let shell = Shell::new(shell_options(config, 0, &shared)?, decides, hands);
    shell.carry_out();
    if let Standing::Member(membership) = &standing {
        membership.begin(&shell);
    }
    if let Some(peers) = peers {
        shell.spawn(Task::Listener, cluster::listen(shell.clone(), peers));
    }
    Ok(First { shell, shared, node, standing, admin, listener, arrivals, others })
}

/// What a node is to others.
enum Standing {
    Alone(Identity),
    Member(Membership),
}

impl Standing {
    fn consensus(&self) -> Option<Arc<Consensus>> {
        match self {
            Self::Alone(_) => None,
            Self::Member(membership) => Some(membership.consensus.clone()),
        }
    }
}

/// Finds out who this node is, alone or in a cluster.
fn enter(
    config: &Config,
    tls: Option<Arc<Tls>>,
    client: SocketAddr,
    peer: Option<SocketAddr>,
    cores: u16,
) -> anyhow::Result<(NodeIdentity, Post, Standing)> {
    let Some(peer) = peer else {
        let identity = Identity::open(&config.storage.data_dir)?;
        cluster::refuse_member(&config.storage.data_dir, &identity)?;
        let post = Post::First { create: !identity.founded, cores };
        return Ok((identity.node, post, Standing::Alone(identity)));
    };
    let told = |given: &Option<HostPort>, bound: SocketAddr| {
        given.as_ref().map_or_else(|| bound.to_string(), |given| given.0.clone())
    };
    let witness = config.cluster.witness;
    let profile = NodeProfile {
        client: told(&config.listen.advertised, client),
        peer: told(&config.listen.peer_advertised, peer),
        rack: config.node.rack.as_ref().map(|rack| rack.0.clone()).unwrap_or_default(),
        cores,
        witness,
    };
    let membership = cluster::enter(config, tls, profile.clone())?;
    let (life, known) = (membership.life, membership.known.clone());
    let post = Post::Member { cores, life, known, profile };
    Ok((membership.node, post, Standing::Member(membership)))
}

/// Starts the further cores and waits until they listen.
async fn start_further(
    config: &Config,
    hands_options: HandsOptions,
    node: NodeIdentity,
    shared: &Arc<Shared>,
    arrivals: Vec<flume::Receiver<(u16, Cargo)>>,
) -> anyhow::Result<Vec<ExecutorJoinHandle<()>>> {
    let mut threads = Vec::new();
    for (core, arrivals) in (1..).zip(arrivals) {
        let (config, shared) = (config.clone(), shared.clone());
        let all = shared.cores();
        let further = move || further(config, hands_options, core, node, shared, arrivals);
        let thread = executor(usize::from(core), all).spawn(further);
        threads.push(thread.map_err(|e| anyhow::anyhow!("cannot start core {core}: {e}"))?);
    }
    while shared.listening.load(Ordering::Relaxed) < threads.len() && !shared.stops() {
        glommio::timer::sleep(Duration::from_millis(1)).await;
    }
    Ok(threads)
}

/// A further core, from its start to its end.
async fn further(
    config: Config,
    hands_options: HandsOptions,
    core: u16,
    identity: NodeIdentity,
    shared: Arc<Shared>,
    arrivals: flume::Receiver<(u16, Cargo)>,
) {
    if let Err(error) = serve_core(&config, hands_options, core, identity, &shared, arrivals).await
    {
        shared.note_idle(true);
        shared.fail(format!("core {core}: {error:#}"));
    }
}

async fn serve_core(
    config: &Config,
    hands_options: HandsOptions,
    core: u16,
    identity: NodeIdentity,
    shared: &Arc<Shared>,
    arrivals: flume::Receiver<(u16, Cargo)>,
) -> anyhow::Result<()> {
    let hands = Hands::start(&config.storage.data_dir, hands_options).await?;
    let post = Post::Further { core, cores: u16::try_from(shared.cores())? };
    let node = make_node(config, identity, post, &hands)?;
    let shell = Shell::new(shell_options(config, core, shared)?, node, hands);
    shell.spawn(Task::Parcels, shell.clone().receive(arrivals));
    let listener = bind(shared.address)?;
    shell.spawn(Task::Listener, shell.clone().listen(listener));
    if let Some(peers) = shared.peer_address {
        shell.spawn(Task::Listener, cluster::listen(shell.clone(), bind(peers)?));
    }
    shared.listening.fetch_add(1, Ordering::Relaxed);
    shell.watch(Task::Clock, shell.run()).await;
    shell.watch(Task::Clock, shell.drain()).await;
    Ok(())
}

fn make_node(
    config: &Config,
    identity: NodeIdentity,
    post: Post,
    hands: &Hands,
) -> anyhow::Result<Node<DmaMemory>> {
    let mut node = Node::new(identity, limits(config)?, post, hands.memory());
    node.set_topic_defaults(config.topic_defaults());
    node.set_advertised(config.advertised());
    Ok(node)
}

fn limits(config: &Config) -> anyhow::Result<Limits> {
    let share = config.memory_of_core();
    let most = Limits::default().fetch_bytes_max;
    Ok(Limits {
        bytes_in_flight_max: config.limits.in_flight_per_connection.0,
        bytes_in_flight_core_max: config.limits.in_flight_per_core.0,
        subscriptions_max: config.limits.subscriptions_per_connection,
        wait_max: config.timeouts.request,
        tail_cache_bytes: usize::try_from(config.storage.tail_cache.0)?,
        checkpoint_bytes: config.storage.checkpoint.0,
        index_stride: config.storage.index_stride.0,
        batch_bytes_max: usize::try_from(config.limits.batch_bytes.0)?,
        // One answer must not be more than what may wait for clients.
        fetch_bytes_max: u32::try_from(share / 8).unwrap_or(u32::MAX).min(most),
        push_bytes_core_max: share / 8,
        scrub_rate: config.scrub_rate_of_core(),
        scrub_period: config.storage.scrub_period,
        replace_after: config.cluster.replace_after,
        evict_after: config.cluster.evict_after,
        catch_up_rate: config.catch_up_rate_of_core(),
        ..Limits::default()
    })
}

fn shell_options(config: &Config, core: u16, shared: &Arc<Shared>) -> anyhow::Result<ShellOptions> {
    let memory = usize::try_from(config.memory_of_core())?;
    Ok(ShellOptions {
        core,
        root: config.storage.data_dir.clone(),
        connections_max: usize::try_from(config.limits.connections)?,
        unsent_bytes_max: memory / 4,
        receive_bytes_max: memory / 4,
        keepalive: config.timeouts.keepalive,
        shared: shared.clone(),
    })
}

/// Why a process ends that is not its node any more.
pub(crate) const OUTDATED: &str = "another process has been this node since: this directory is an \
     older copy, or a copy of it is in use";

/// Why a process ends whose node is none any more.
pub(crate) const REMOVED: &str = "the node was removed from its cluster: what its directory holds \
     is of no use any more";

/// After so long without a catalog something is wrong: the log says so, once.
const CATALOG_WAIT: Duration = Duration::from_secs(5);

/// The catalog cannot be opened, and without it nobody knows what there is.
#[derive(Debug, thiserror::Error)]
#[error("the catalog in meta/catalog cannot be opened: {0}")]
pub(crate) struct CatalogClosed(pub(crate) OpenError);

impl CatalogClosed {
    /// What is not readable will not be so after a restart.
    pub(crate) fn exit(&self) -> Exit {
        if self.0.is_of_stored() { Exit::Damaged } else { Exit::Failure }
    }
}

/// Waits until the catalog is open; false when the process is to end before.
async fn wait_for_catalog(shell: &std::rc::Rc<Shell>) -> anyhow::Result<bool> {
    let (began, mut told) = (Instant::now(), false);
    loop {
        match shell.look(Node::status) {
            Status::Starting if shell.shared().stops() => return Ok(false),
            Status::Starting => {
                glommio::timer::sleep(Duration::from_millis(1)).await;
                shell.input(Node::on_tick);
                if !told && began.elapsed() > CATALOG_WAIT {
                    told = true;
                    tracing::warn!("the catalog is not open yet: is the disk full, or very slow?");
                }
            }
            Status::Outdated => bail!(OUTDATED),
            Status::Removed => bail!(REMOVED),
            Status::Failed(error) => bail!(CatalogClosed(error)),
            Status::Poisoned(error) => bail!("the catalog cannot be written: {error}"),
            Status::Serving | Status::Draining => return Ok(true),
        }
    }
}

/// Descriptors for what is neither a file of a log nor a connection that is served: rings,
/// listeners, connections that are refused, directories that are synced.
const DESCRIPTORS_BESIDE: usize = 256;

/// How many of a process's descriptors segments may take; connections have the rest.
pub(crate) fn descriptors_for_files(descriptors: usize) -> usize {
    (descriptors / 2).saturating_sub(64).max(16)
}

/// Takes no more connections than leave the files of logs their descriptors, and some for the rest.
fn leave_descriptors(config: &mut Config, left: usize) {
    let most = u32::try_from(left.saturating_sub(DESCRIPTORS_BESIDE).max(1)).unwrap_or(u32::MAX);
    let wished = config.limits.connections;
    if most < wished {
        config.limits.connections = most;
        tracing::warn!(
            "{most} connections are taken at most, not {wished} (limits.connections): the limit of \
             open files leaves no more; raise `ulimit -Hn`, or LimitNOFILE of the unit"
        );
    }
}

/// Raises the limit of open descriptors as far as it goes; tells how far that is.
pub(crate) fn raise_descriptor_limit() -> anyhow::Result<usize> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).context("cannot raise the limit of open files")?;
    Ok(usize::try_from(limit.maximum.unwrap_or(1 << 20)).unwrap_or(1 << 20))
}

fn announce(config: &Config, findings: &Findings) {
    let (path, system) = (config.storage.data_dir.display(), findings.file_system);
    tracing::info!("{path} on {system}, {} MiB free", findings.free_bytes >> 20);
    if findings.copy_on_write {
        tracing::warn!("{system} {COPIES_ON_WRITE}");
    }
}
