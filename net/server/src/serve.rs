//! `catena serve`: from a directory and an address to a running node.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use catena_node::{Limits, Node, Status};
use catena_uring::{Findings, Hands, HandsOptions, lock_directory, probe};
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};

use crate::{
    admin::Admin,
    config::{Config, Timeouts},
    identity::Identity,
    metrics::Metrics,
    shell::{Shell, ShellOptions, Waits, bind},
};

/// What a file system that copies on write means.
pub(crate) const COPIES_ON_WRITE: &str =
    "copies on write: commits cost more; ext4 or XFS is faster";

/// Direct I/O memory that is registered with the kernel, three times over.
const REGISTERED_BYTES: usize = 1 << 20;

/// Runs the server until it is told to stop.
pub(crate) fn serve(mut config: Config) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let descriptors = raise_descriptor_limit()?;
    let data_dir = config.storage.data_dir;
    let _lock = lock_directory(&data_dir)?;
    let findings = probe(&data_dir)?;
    // The runtime opens directories by absolute paths only.
    config.storage.data_dir = data_dir.canonicalize().context("no data directory")?;
    announce(&config, &findings);
    // Without it a write beyond a file-size limit would kill the process.
    for signal in [signal_hook::consts::SIGXFSZ, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let wished = usize::try_from(config.limits.descriptors)?;
    let hands = HandsOptions {
        descriptors: wished.min(descriptors_for_files(descriptors)),
        memory_bytes: usize::try_from(config.limits.memory.0)?,
        disk_reserve_bytes: config.storage.disk_reserve.0,
    };
    executor()?.run(run(config, hands, stop))
}

/// The executor of a core, on this thread.
///
/// # Errors
/// When io_uring cannot be had.
pub(crate) fn executor() -> anyhow::Result<LocalExecutor> {
    LocalExecutorBuilder::new(Placement::Unbound)
        .name("core-0")
        .io_memory(REGISTERED_BYTES)
        .ring_depth(256)
        .preempt_timer(Duration::from_millis(1))
        .spin_before_park(Duration::from_micros(20))
        .make()
        .map_err(|e| anyhow::anyhow!("cannot start the core's executor: {e}"))
}

async fn run(
    config: Config,
    hands_options: HandsOptions,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let data_dir = &config.storage.data_dir;
    let listener = bind(config.listen.client).await?;
    let address = listener.local_addr().map_err(|e| anyhow::anyhow!("no local address: {e}"))?;
    let mut identity = Identity::open(data_dir)?;
    let hands = Hands::start(data_dir, hands_options).await?;
    let create = !identity.founded;
    let mut node = Node::new(identity.node, limits(&config)?, create, hands.memory());
    node.set_topic_defaults(config.topic_settings());
    let metrics = Arc::new(Metrics::default());
    let admin = Admin::start(config.listen.admin.0, metrics.clone())
        .with_context(|| format!("cannot listen on {}", config.listen.admin.0))?;
    let shell = Shell::new(shell_options(&config, stop, metrics)?, node, hands);
    shell.carry_out();
    wait_for_catalog(&shell).await?;
    if create {
        identity.founded = true;
        identity.write(data_dir)?;
    }
    let leftovers = shell.remove_leftovers().context("cannot look through the partitions")?;
    let partitions = shell.look(|node| node.replicas().count());
    let (cluster, node) = (identity.node.cluster.get(), identity.node.node);
    let milliseconds = began.elapsed().as_millis();
    tracing::info!(
        "ready on {address} in {milliseconds} ms (metrics on {}): cluster {cluster:032x}, \
         node {node}, {partitions} partitions, {leftovers} leftovers removed",
        admin.address(),
    );
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    glommio::spawn_local(shell.clone().listen(listener)).detach();
    let status = shell.run().await;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    if let Status::Failed(_) | Status::Poisoned(_) = status {
        bail!("the catalog's log failed: {status:?}");
    }
    shell.drain(config.timeouts.drain).await;
    admin.stop();
    tracing::info!("stopped");
    Ok(())
}

fn limits(config: &Config) -> anyhow::Result<Limits> {
    Ok(Limits {
        bytes_in_flight_max: config.limits.in_flight_per_connection.0,
        wait_max: config.timeouts.request,
        tail_cache_bytes: usize::try_from(config.storage.tail_cache.0)?,
        checkpoint_bytes: config.storage.checkpoint.0,
        batch_bytes_max: usize::try_from(config.limits.batch_bytes.0)?,
        ..Limits::default()
    })
}

fn shell_options(
    config: &Config,
    stop: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
) -> anyhow::Result<ShellOptions> {
    let Timeouts { handshake, idle, .. } = config.timeouts;
    Ok(ShellOptions {
        root: config.storage.data_dir.clone(),
        connections_max: usize::try_from(config.limits.connections)?,
        waits: Waits { handshake, idle },
        stop,
        metrics,
    })
}

async fn wait_for_catalog(shell: &std::rc::Rc<Shell>) -> anyhow::Result<()> {
    loop {
        match shell.look(Node::status) {
            Status::Starting => glommio::timer::sleep(Duration::from_millis(1)).await,
            Status::Failed(error) => bail!("the catalog cannot be opened: {error}"),
            Status::Poisoned(error) => bail!("the catalog cannot be written: {error}"),
            Status::Serving | Status::Draining => return Ok(()),
        }
    }
}

/// How many of a process's descriptors segments may take; connections have the rest.
pub(crate) fn descriptors_for_files(descriptors: usize) -> usize {
    (descriptors / 2).saturating_sub(64).max(16)
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
