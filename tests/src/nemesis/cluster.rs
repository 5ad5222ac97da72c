//! Three nodes of the real binary that are a cluster.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use catena_client::{
    Client, DescribeClusterResponse, Options, Setting, TopicMetadata,
    format::{JoinToken, NodeId},
};
use rustix::process::{Pid, Signal, kill_process};

use super::network::Network;
use crate::crash::{
    server::free_address,
    stack::{Stack, copy},
};

/// The topic of all records.
pub const TOPIC: &str = "events";
/// How many nodes.
pub const NODES: usize = 3;
/// How long anything is waited for that must come once all is healed.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How soon to look again.
const SOON: Duration = Duration::from_millis(20);

/// A node and its process.
pub struct Node {
    /// Where its files are; what it says in `log`.
    pub directory: PathBuf,
    /// Where its data is: in `directory`, or on a disk of its own.
    pub data: PathBuf,
    /// That disk.
    pub stack: Option<Stack>,
    /// Where clients reach it.
    pub client: String,
    peer: String,
    host: Option<String>,
    child: Option<Child>,
    join: Vec<String>,
}

impl Node {
    fn new(
        root: &Path,
        number: usize,
        network: Option<Network>,
        stack: Option<Stack>,
        free: &mut BTreeSet<String>,
    ) -> Result<Self, String> {
        let directory = root.join(format!("node{}", number + 1));
        fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
        let mut free = || free.pop_first().ok_or("no port is free");
        let [client, peer] = match network {
            Some(_) => [9200, 9201].map(|port| format!("{}:{port}", Network::address(number))),
            None => [free()?, free()?],
        };
        let host = network.map(|_| Network::host(number));
        let data = stack.as_ref().map_or(directory.clone(), Stack::files).join("data");
        Ok(Self { directory, data, stack, client, peer, host, child: None, join: Vec::new() })
    }

    /// Starts it, and does not wait; not one whose disk has no power.
    ///
    /// # Errors
    /// When the binary cannot be run.
    pub fn start(&mut self, binary: &Path) -> Result<(), String> {
        if self.stack.as_ref().is_some_and(|stack| !stack.disk().is_on()) {
            return Ok(());
        }
        let log = self.directory.join("log");
        let log = OpenOptions::new().append(true).create(true).open(log);
        let log = log.map_err(|error| error.to_string())?;
        let host = self.host.is_some();
        let mut command = Command::new(if host { Path::new("nsenter") } else { binary });
        if let Some(host) = &self.host {
            // It becomes the binary: the process is the same, and so are its mounts.
            command.arg(format!("--net=/run/netns/{host}")).arg(binary);
        }
        command.args(["serve", "--cores", "2", "--data-dir"]).arg(&self.data);
        command.args(["--listen", &self.client, "--peer", &self.peer]);
        command.args(["--admin", "127.0.0.1:0", "--set", "storage.disk_reserve=0"]);
        command.args(&self.join).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().map_err(|error| error.to_string())?);
        Ok(())
    }

    /// Whether it has been started, and not killed since.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// How it ended, if it did so by itself.
    ///
    /// # Errors
    /// That it has.
    pub fn must_live(&mut self) -> Result<(), String> {
        let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
        let directory = self.directory.display();
        ended.map_or(Ok(()), |ended| Err(format!("{directory}: the node ended: {ended}")))
    }

    /// Kills it and waits until it is gone.
    ///
    /// # Errors
    /// When it ended by itself before.
    pub fn kill(&mut self) -> Result<(), String> {
        let lived = self.must_live();
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        lived
    }

    /// What it said of panics.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn panics(&self) -> Result<Vec<String>, String> {
        let log = fs::read(self.directory.join("log")).map_err(|error| error.to_string())?;
        let log = String::from_utf8_lossy(&log);
        let panics = log.lines().filter(|line| line.contains("panicked at"));
        Ok(panics.map(str::to_owned).collect())
    }

    /// Stops its process, or has it go on.
    ///
    /// # Errors
    /// When that cannot be.
    pub fn pause(&self, paused: bool) -> Result<(), String> {
        let Some(child) = &self.child else { return Ok(()) };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let signal = if paused { Signal::STOP } else { Signal::CONT };
        kill_process(pid.ok_or("no process")?, signal).map_err(|error| error.to_string())
    }

    fn ask(&self) -> Client {
        Client::new(Options::new(&self.client).with_request_timeout(Duration::from_secs(2)))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// The nodes; killed when this is dropped.
pub struct Cluster {
    /// By number, from zero: node 1 of the cluster is the first.
    pub nodes: Vec<Node>,
    /// Their network, if it is one of their own.
    pub network: Option<Network>,
    binary: PathBuf,
}

impl Cluster {
    /// Starts three nodes with a topic of so many partitions, with a copy on each; on disks of
    /// their own, as far as there are some.
    ///
    /// # Errors
    /// When one does not start, or they do not find each other.
    pub fn new(
        binary: &Path,
        root: &Path,
        network: Option<Network>,
        partitions: u32,
        stacks: Vec<Stack>,
    ) -> Result<Self, String> {
        let mut stacks = stacks.into_iter();
        // None of them is told twice.
        let mut free = BTreeSet::new();
        while free.len() < 2 * NODES {
            free.insert(free_address().map_err(|error| error.to_string())?);
        }
        let nodes =
            (0..NODES).map(|number| Node::new(root, number, network, stacks.next(), &mut free));
        let nodes = nodes.collect::<Result<Vec<_>, _>>()?;
        let mut cluster = Self { nodes, network, binary: binary.to_owned() };
        cluster.start(0)?;
        let token = root.join("token");
        fs::write(&token, format!("{:032x}", 7)).map_err(|error| error.to_string())?;
        let day = Duration::from_secs(86_400);
        cluster.wait("allow to join", |cluster| {
            cluster.nodes[0].ask().allow_join(JoinToken::new(7), day).is_ok()
        })?;
        for number in 1..NODES {
            let join = ["--join", &cluster.nodes[0].peer, "--token-file"].map(str::to_owned);
            let token = token.to_str().ok_or("no path in UTF-8")?.to_owned();
            cluster.nodes[number].join = join.into_iter().chain([token]).collect();
            cluster.start(number)?;
            // So that their numbers are in this order.
            cluster.wait("a node joins", |cluster| {
                let known = cluster.nodes[0].ask().cluster();
                known.is_ok_and(|known| known.nodes.len() == number + 1)
            })?;
        }
        cluster.wait_until_whole(PATIENCE)?;
        let setting = |key: &'static str, value: &'static str| Setting {
            key: key.into(),
            value: value.into(),
        };
        let (mut client, mut said) = (cluster.client(), String::new());
        let created = cluster.wait("the topic is created", |_| {
            let set = vec![setting("segment.bytes", "65536")];
            let created = client.create_replicated_topic(TOPIC, partitions, 3, set);
            said = created.as_ref().err().map(ToString::to_string).unwrap_or_default();
            created.is_ok()
        });
        created.map_err(|error| format!("{error}: {said}"))?;
        let done = client.replicate_topic(TOPIC, 3, 2);
        done.map_err(|error| format!("two copies at least: {error}"))?;
        cluster.wait_until_whole(PATIENCE)?;
        Ok(cluster)
    }

    /// Starts a node.
    ///
    /// # Errors
    /// When the binary cannot be run.
    pub fn start(&mut self, number: usize) -> Result<(), String> {
        self.nodes[number].start(&self.binary)
    }

    /// Kills all, and copies their data beside what they said.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn keep(&mut self) -> Result<(), String> {
        for node in &mut self.nodes {
            let _ = node.kill();
            let kept = node.directory.join("kept");
            copy(&node.data, &kept).map_err(|error| format!("{error:#}"))?;
        }
        Ok(())
    }

    /// Where all of them are, as options take it.
    #[must_use]
    pub fn addresses(&self) -> String {
        self.nodes.iter().map(|node| node.client.as_str()).collect::<Vec<_>>().join(",")
    }

    /// A client that knows all of them.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(Options::new(self.addresses()).with_request_timeout(Duration::from_secs(10)))
    }

    /// What a node that runs says of the cluster, one that knows who leads the control plane.
    #[must_use]
    pub fn described(&self) -> Option<DescribeClusterResponse<'static>> {
        let runs = self.nodes.iter().filter(|node| node.is_started());
        let mut told = runs.filter_map(|node| node.ask().cluster().ok());
        told.find(|told| told.leads.get() > 0)
    }

    /// Who leads the control plane.
    #[must_use]
    pub fn control(&self) -> Option<usize> {
        self.described().and_then(|told| number(told.leads))
    }

    /// The topic, as somebody knows it.
    #[must_use]
    pub fn topic(&self) -> Option<TopicMetadata<'static>> {
        self.client().topic(TOPIC).ok()
    }

    /// The chain of a partition, head first.
    #[must_use]
    pub fn chain(&self, partition: u32) -> Vec<usize> {
        let chain = self.topic().and_then(|topic| {
            let found = topic.partitions.iter().find(|p| p.index.get() == partition)?;
            Some(found.chain.iter().filter_map(|node| number(*node)).collect())
        });
        chain.unwrap_or_default()
    }

    /// Whether every node says that all run and all chains are whole.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.nodes.iter().all(|node| {
            node.ask().cluster().is_ok_and(|told| {
                let up = told.nodes.iter().filter(|node| node.up && node.votes).count();
                up == NODES && told.impaired == 0 && told.leads.get() > 0
            })
        })
    }

    /// Waits until it is and is so still when all have heard of what was; since when.
    ///
    /// # Errors
    /// What is not as it should be.
    pub fn wait_until_well(&mut self) -> Result<Instant, String> {
        loop {
            self.wait_until_whole(PATIENCE)?;
            let since = Instant::now();
            thread::sleep(Duration::from_secs(1));
            if self.is_whole() {
                return Ok(since);
            }
        }
    }

    /// Waits until it is.
    ///
    /// # Errors
    /// What is not as it should be, as each node says it.
    pub fn wait_until_whole(&mut self, patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        while !self.is_whole() {
            self.nodes.iter_mut().try_for_each(Node::must_live)?;
            if Instant::now() > deadline {
                let told = self.nodes.iter().map(|node| format!("{:?}", node.ask().cluster()));
                let told: Vec<String> = told.collect();
                return Err(format!("not whole after {patience:?}:\n{}", told.join("\n")));
            }
            thread::sleep(SOON);
        }
        Ok(())
    }

    fn wait(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            self.nodes.iter_mut().try_for_each(Node::must_live)?;
            if Instant::now() > deadline {
                return Err(format!("in vain is waited that {what}"));
            }
            thread::sleep(SOON);
        }
        Ok(())
    }
}

/// The place of a node among ours.
fn number(node: NodeId) -> Option<usize> {
    usize::try_from(node.get()).ok()?.checked_sub(1).filter(|number| *number < NODES)
}
