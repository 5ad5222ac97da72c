//! `catena serve`: from a directory and an address to a running node.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use catena_node::{Limits, Node, Status};
use catena_uring::{Findings, Hands, HandsOptions, lock_directory, probe};
use glommio::{LocalExecutorBuilder, Placement};

use crate::{
    identity::Identity,
    shell::{Shell, ShellOptions, bind},
};

/// How long a stopping server waits for what it has taken.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// Direct I/O memory that is registered with the kernel, three times over.
const REGISTERED_BYTES: usize = 1 << 20;

/// What `serve` was told.
pub(crate) struct ServeOptions {
    pub(crate) data_dir: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) memory_bytes: usize,
    pub(crate) disk_reserve_bytes: u64,
    pub(crate) connections_max: usize,
}

/// Runs the server until it is told to stop.
pub(crate) fn serve(mut options: ServeOptions) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let descriptors = raise_descriptor_limit()?;
    let _lock = lock_directory(&options.data_dir)?;
    let findings = probe(&options.data_dir)?;
    // The runtime opens directories by absolute paths only.
    options.data_dir = options.data_dir.canonicalize().context("no data directory")?;
    announce(&options, &findings);
    // Without it a write beyond a file-size limit would kill the process.
    for signal in [signal_hook::consts::SIGXFSZ, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let hands = HandsOptions {
        descriptors: (descriptors / 2).saturating_sub(64).max(16),
        memory_bytes: options.memory_bytes,
        disk_reserve_bytes: options.disk_reserve_bytes,
    };
    LocalExecutorBuilder::new(Placement::Unbound)
        .name("core-0")
        .io_memory(REGISTERED_BYTES)
        .ring_depth(256)
        .preempt_timer(Duration::from_millis(1))
        .spin_before_park(Duration::from_micros(20))
        .make()
        .map_err(|e| anyhow::anyhow!("cannot start the core's executor: {e}"))?
        .run(run(options, hands, stop))
}

async fn run(
    options: ServeOptions,
    hands_options: HandsOptions,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let listener = bind(options.listen).await?;
    let mut identity = Identity::open(&options.data_dir)?;
    let hands = Hands::start(&options.data_dir, hands_options).await?;
    let create = !identity.founded;
    let node = Node::new(identity.node, Limits::default(), create, hands.memory());
    let shell_options = ShellOptions {
        root: options.data_dir.clone(),
        connections_max: options.connections_max,
        stop: stop.clone(),
    };
    let shell = Shell::new(shell_options, node, hands);
    shell.carry_out();
    wait_for_catalog(&shell).await?;
    if create {
        identity.founded = true;
        identity.write(&options.data_dir)?;
    }
    let leftovers = shell.remove_leftovers().context("cannot look through the partitions")?;
    let partitions = shell.look(|node| node.replicas().count());
    let cluster = identity.node.cluster.get();
    eprintln!(
        "catena: ready on {} in {} ms: cluster {cluster:032x}, node {}, {partitions} partitions, \
         {leftovers} leftovers removed",
        options.listen,
        began.elapsed().as_millis(),
        identity.node.node,
    );
    glommio::spawn_local(shell.clone().listen(listener)).detach();
    let status = shell.run().await;
    if let Status::Failed(_) | Status::Poisoned(_) = status {
        bail!("the catalog's log failed: {status:?}");
    }
    shell.drain(DRAIN_MAX).await;
    eprintln!("catena: stopped");
    Ok(())
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

/// Raises the limit of open descriptors as far as it goes; tells how far that is.
fn raise_descriptor_limit() -> anyhow::Result<usize> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).context("cannot raise the limit of open files")?;
    Ok(usize::try_from(limit.maximum.unwrap_or(1 << 20)).unwrap_or(1 << 20))
}

fn announce(options: &ServeOptions, findings: &Findings) {
    let free = findings.free_bytes >> 20;
    eprintln!(
        "catena: {} on {}, {free} MiB free",
        options.data_dir.display(),
        findings.file_system
    );
    if findings.copy_on_write {
        eprintln!(
            "catena: {} copies on write: commits cost more; ext4 or XFS is faster",
            findings.file_system
        );
    }
}
