//! A node of a cluster: how it comes into one, its part in consensus, and its links to others.

mod found;
mod join;
mod links;
mod lives;
mod members;
mod names;
mod secure;

use std::{path::Path, rc::Rc, sync::Arc, time::Duration};

use anyhow::Context;
use catena_consensus::{Begin, Consensus, Machine, Options, Settings, Tls, Told};
use catena_format::NodeId;
use catena_log::Fold;
use catena_node::{NodeIdentity, Ordered, Quorum};
use catena_replication::control::{Catalog, NodeProfile, decode};
use catena_wire::peer::{PeerPreface, PeerThread};
use glommio::timer::sleep;

pub(crate) use self::links::{Links, dial, listen, serve_peer};
use crate::{
    config::Config,
    identity::Identity,
    machine::{random, wall_clock},
    shell::Shell,
    tasks::Task,
};

/// How often who leads looks whether others are to take part, or to vote.
const MEMBERS_EVERY: Duration = Duration::from_millis(100);

/// What this process is to its cluster.
pub(crate) struct Membership {
    pub(crate) node: NodeIdentity,
    /// Names the process.
    pub(crate) life: u64,
    /// The lives that the directory knew of.
    pub(crate) known: Vec<u64>,
    pub(crate) consensus: Arc<Consensus>,
    told: flume::Receiver<Told>,
}

/// What entries mean, to consensus: it keeps a catalog of its own, to make snapshots of.
struct Copy(Catalog);

impl Machine for Copy {
    fn apply(&mut self, index: u64, _time: i64, entry: &[u8]) {
        let Some(entry) = decode(entry) else {
            tracing::error!(
                "entry {index} of the cluster's catalog means nothing to this build: it is older \
                 than the others, and cannot go on"
            );
            std::process::abort();
        };
        // Whether it changed something the node finds out by itself.
        let _ = self.0.apply(&entry);
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.snapshot()
    }

    fn restore(&mut self, snapshot: &[u8]) -> bool {
        let mut read = Catalog::default();
        let restored = read.restore(snapshot);
        if restored {
            self.0 = read;
        }
        restored
    }
}

/// Takes part in the cluster that the directory belongs to, joins one, or founds it.
///
/// # Errors
/// What is in the way.
pub(crate) fn enter(
    config: &Config,
    tls: Option<Arc<Tls>>,
    profile: NodeProfile,
) -> anyhow::Result<Membership> {
    let root = &config.storage.data_dir;
    // The rest counts how often this process is believed to be gone.
    let life = u64::from_le_bytes(random()?) & !0xffff;
    let known = lives::read(root)?;
    // Before anybody can have heard of it.
    lives::write(root, &[&known[..], &[life]].concat())?;
    let identity = match (Identity::read(root)?, &config.cluster.join) {
        (Some(identity), _) => identity,
        (None, None) => Identity::open(root)?,
        (None, Some(address)) => {
            let token = config.cluster.token_file.as_deref().context("cluster.token_file")?;
            let node = join::join(&address.0, tls.as_deref(), token, life, &profile)?;
            let identity = Identity { node, founded: true, member: true };
            identity.write(root)?;
            tracing::info!("joined cluster {:032x} as node {}", node.cluster.get(), node.node);
            identity
        }
    };
    let begin = match identity.member {
        true => Begin::Member,
        false => Begin::Found { snapshot: found::catalog(root, &identity, &profile)?.snapshot() },
    };
    let (sender, told) = flume::unbounded();
    let options = Options {
        directory: root.join("raft"),
        cluster: identity.node.cluster,
        node: identity.node.node,
        incarnation: life,
        address: profile.peer.clone(),
        preface: PeerPreface { to: PeerThread::Consensus }.encode(),
        tls,
        settings: Settings::default(),
    };
    // Whoever would hear it has ended with the process.
    let tell = move |told| drop(sender.send(told));
    let consensus = Consensus::start(options, begin, Copy(Catalog::default()), tell)?;
    if !identity.member {
        Identity { founded: true, member: true, ..identity }.write(root)?;
        tracing::info!("founded cluster {:032x}", identity.node.cluster.get());
    }
    let node = identity.node;
    Ok(Membership { node, life, known, consensus: Arc::new(consensus), told })
}

/// Refuses a directory that is of a cluster, for a node that would be alone.
///
/// # Errors
/// When it is.
pub(crate) fn refuse_member(root: &Path, identity: &Identity) -> anyhow::Result<()> {
    if !identity.member {
        return Ok(());
    }
    anyhow::bail!(
        "{} is of a node of cluster {:032x}: say where other nodes reach it (listen.peer)",
        root.display(),
        identity.node.cluster.get(),
    )
}

impl Membership {
    /// The cluster has taken note of this life.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub(crate) fn note_life(&self, root: &Path) -> anyhow::Result<()> {
        lives::write(root, &[self.life])
    }

    /// Begins the tasks of the first core.
    pub(crate) fn begin(&self, shell: &Rc<Shell>) {
        let follow = Self::follow(self.told.clone(), self.node.node, shell.clone());
        shell.spawn(Task::Consensus, follow);
        let tend = tend_members(shell.clone(), self.consensus.clone());
        shell.spawn(Task::Consensus, tend);
    }

    /// Hands on what consensus tells, for as long as the server runs.
    async fn follow(told: flume::Receiver<Told>, me: NodeId, shell: Rc<Shell>) {
        let mut turns = 0;
        while let Ok(told) = told.recv_async().await {
            let ordered = match told {
                Told::Restored { snapshot, .. } => Ordered::Restored(snapshot),
                Told::Applied { entry, proposal, .. } => Ordered::Entry(entry, proposal),
                Told::Refused(proposal, why) => Ordered::Refused(proposal, why.to_string()),
                Told::InDoubt(proposal) => Ordered::InDoubt(proposal),
                Told::Leader { term, leader } => {
                    tracing::info!("term {term}: {}", names::of_leader(leader, me));
                    Ordered::Leads(leader == Some(me))
                }
                Told::Changed(_, Err(why)) => {
                    tracing::debug!("who takes part did not change: {why}");
                    continue;
                }
                Told::Failed(why) => {
                    tracing::error!("consensus has ended here until the next start: {why}");
                    continue;
                }
                Told::Changed(..) | Told::Read(..) => continue,
            };
            shell.input(|node, now| node.on_ordered(ordered, now));
            crate::shell::breathe(&mut turns).await;
        }
    }
}

/// Of the node that leads: has those take part that the catalog names.
async fn tend_members(shell: Rc<Shell>, consensus: Arc<Consensus>) {
    let mut request = 0;
    while !shell.shared().stops() {
        sleep(MEMBERS_EVERY).await;
        let status = consensus.status();
        let quorum = Quorum { leader: status.leader, voters: status.voters.clone() };
        shell.input(|node, _| node.on_quorum(quorum));
        if status.leader != Some(status.node) {
            continue;
        }
        let nodes = shell.look(|node| node.cluster_nodes());
        let Some(change) = members::next(&nodes, &status) else { continue };
        tracing::info!("{change}");
        request += 1;
        let asked = match change {
            members::Change::Learn(node, address) => consensus.add_learner(request, node, address),
            members::Change::Vote(voters) => consensus.set_voters(request, voters),
            members::Change::Forget(node) => consensus.remove_node(request, node),
        };
        if let Err(why) = asked {
            tracing::debug!("not asked for: {why}");
        }
    }
}

/// Proposes what the node wants ordered.
pub(crate) fn propose(consensus: &Consensus, proposal: u64, entry: Vec<u8>) -> Option<Ordered> {
    let refused = consensus.propose(proposal, wall_clock().get(), entry).err()?;
    Some(Ordered::Refused(proposal, refused.to_string()))
}
