//! Nodes with a machine that remembers everything, and books of what was proposed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use catena_consensus::{Begin, Consensus, Machine, Options, Refusal, Role, Settings, Status, Told};
use catena_format::{ClusterId, NodeId};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn settings() -> Settings {
    Settings {
        heartbeat: Duration::from_millis(80),
        election: (Duration::from_millis(300), Duration::from_millis(600)),
        connect_within: Duration::from_secs(1),
        answer_within: Duration::from_secs(2),
        entry_bytes_max: 64 << 10,
        ..Settings::default()
    }
}

pub(crate) fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// All entries, one behind the other.
#[derive(Clone, Default)]
struct Scroll(Arc<Mutex<Vec<u8>>>);

impl Machine for Scroll {
    fn apply(&mut self, _: u64, time: i64, entry: &[u8]) {
        assert_eq!(time, 1234);
        self.0.lock().unwrap().extend_from_slice(entry);
    }
    fn snapshot(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
    fn restore(&mut self, snapshot: &[u8]) -> bool {
        *self.0.lock().unwrap() = snapshot.to_vec();
        true
    }
}

/// How a proposal ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Applied,
    Refused(Refusal),
    InDoubt,
}

type Serving = Arc<Mutex<Option<Arc<Consensus>>>>;

/// Who is cut off from all others, and the connections there are.
#[derive(Default)]
struct Net {
    alone: Option<u64>,
    connections: Vec<(u64, u64, TcpStream)>,
}

/// Where a frame's body begins.
const BODY: usize = 24;

struct Node {
    address: String,
    serving: Serving,
    /// Of this life.
    scroll: Scroll,
    told: Arc<Mutex<Vec<Told>>>,
    incarnation: u64,
    /// What was told in lives before, by incarnation.
    before: BTreeMap<u64, Vec<Told>>,
}

pub(crate) struct Cluster {
    directory: TempDir,
    settings: Settings,
    net: Arc<Mutex<Net>>,
    nodes: BTreeMap<u64, Node>,
    numbers: AtomicU64,
    /// What was proposed: where, in which life, under which number.
    proposed: Mutex<BTreeMap<(u64, u64, u64), Vec<u8>>>,
}

impl Cluster {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            settings,
            net: Arc::default(),
            nodes: BTreeMap::new(),
            numbers: AtomicU64::new(1),
            proposed: Mutex::default(),
        }
    }

    /// Three that vote.
    pub(crate) fn of_three(settings: Settings) -> Self {
        let mut cluster = Self::new(settings);
        cluster.start(1, Begin::Found { snapshot: b"founded;".to_vec() });
        cluster.start(2, Begin::Member);
        cluster.start(3, Begin::Member);
        assert_eq!(cluster.leader(), 1);
        assert_eq!(cluster.add_learner(1, 2), Ok(()));
        assert_eq!(cluster.add_learner(1, 3), Ok(()));
        assert_eq!(cluster.set_voters(1, &[1, 2, 3]), Ok(()));
        cluster
    }

    pub(crate) fn start(&mut self, node: u64, begin: Begin) {
        let known = self.nodes.entry(node).or_insert_with(|| Node::new(node, self.net.clone()));
        known.incarnation += 1;
        known.scroll = Scroll::default();
        known.told = Arc::default();
        let incarnation = known.incarnation;
        let options = self.options(node, incarnation);
        let known = &self.nodes[&node];
        let told = known.told.clone();
        let told = move |what| told.lock().unwrap().push(what);
        let consensus = Consensus::start(options, begin, known.scroll.clone(), told).unwrap();
        *known.serving.lock().unwrap() = Some(Arc::new(consensus));
    }

    pub(crate) fn options(&self, node: u64, incarnation: u64) -> Options {
        Options {
            directory: self.directory.path().join(node.to_string()),
            cluster: ClusterId::new(5),
            node: NodeId::new(node),
            incarnation,
            address: self.nodes.get(&node).map(|node| node.address.clone()).unwrap_or_default(),
            preface: *b"consensus tests\0",
            tls: None,
            settings: self.settings.clone(),
        }
    }

    pub(crate) fn stop(&mut self, node: u64) {
        let known = self.nodes.get_mut(&node).unwrap();
        let mut consensus = known.serving.lock().unwrap().take().expect("it runs");
        // The listener may hold it for a moment.
        let consensus = loop {
            match Arc::try_unwrap(consensus) {
                Ok(consensus) => break consensus,
                Err(shared) => consensus = shared,
            }
        };
        consensus.stop();
        known.before.insert(known.incarnation, known.told.lock().unwrap().clone());
    }

    fn consensus(&self, node: u64) -> Option<Arc<Consensus>> {
        self.nodes[&node].serving.lock().unwrap().clone()
    }

    fn with<T>(&self, node: u64, ask: impl FnOnce(&Consensus) -> T) -> T {
        ask(&self.consensus(node).expect("it runs"))
    }

    pub(crate) fn address(&self, node: u64) -> &str {
        &self.nodes[&node].address
    }

    pub(crate) fn move_to_another_address(&mut self, node: u64) {
        let known = self.nodes.get_mut(&node).unwrap();
        known.address = listen(node, known.serving.clone(), self.net.clone());
    }

    /// Cuts a node off from all others.
    pub(crate) fn isolate(&self, node: u64) {
        let mut net = self.net.lock().unwrap();
        net.alone = Some(node);
        for (from, to, connection) in &net.connections {
            if *from == node || *to == node {
                // The other side may have closed it.
                let _ = connection.shutdown(Shutdown::Both);
            }
        }
    }

    pub(crate) fn heal(&self) {
        self.net.lock().unwrap().alone = None;
    }

    pub(crate) fn lose_directory(&self, node: u64) {
        // At once: the node may be writing there.
        let path = self.directory.path().join(node.to_string());
        std::fs::rename(&path, path.with_extension("lost")).unwrap();
    }

    pub(crate) fn status(&self, node: u64) -> Status {
        self.with(node, Consensus::status)
    }

    /// The last entry of a node that is stopped, as the others can know it at most.
    pub(crate) fn last_of(&self, node: u64) -> u64 {
        let told = self.nodes[&node].told.lock().unwrap();
        let index = told.iter().filter_map(|told| match told {
            Told::Applied { index, .. } | Told::Restored { index, .. } => Some(*index),
            _ => None,
        });
        index.max().unwrap_or(0)
    }

    pub(crate) fn state(&self, node: u64) -> Vec<u8> {
        self.nodes[&node].scroll.snapshot()
    }

    pub(crate) fn told(&self, node: u64, at: usize) -> Told {
        self.nodes[&node].told.lock().unwrap()[at].clone()
    }

    pub(crate) fn all_told(&self, node: u64) -> Vec<Told> {
        self.nodes[&node].told.lock().unwrap().clone()
    }

    pub(crate) fn leader(&self) -> u64 {
        let mut leader = None;
        wait_for("a leader", || {
            let running = self.nodes.keys().filter_map(|node| self.consensus(*node));
            let statuses: Vec<Status> = running.map(|consensus| consensus.status()).collect();
            let leads = |status: &&Status| status.role == Role::Leader;
            let newest = statuses.iter().filter(leads).max_by_key(|status| status.term);
            leader = newest.map(|status| status.node.get());
            leader.is_some()
        });
        leader.unwrap()
    }

    /// What comes of a request: `pick` knows it.
    fn answer<T>(
        &self,
        node: u64,
        ask: impl FnOnce(&Consensus, u64) -> Result<(), Refusal>,
        pick: impl Fn(&Told, u64) -> Option<T>,
    ) -> T {
        let request = self.numbers.fetch_add(1, Ordering::Relaxed);
        self.with(node, |consensus| ask(consensus, request)).unwrap();
        let mut answer = None;
        wait_for("an answer", || {
            let told = self.nodes[&node].told.lock().unwrap();
            answer = told.iter().find_map(|told| pick(told, request));
            answer.is_some()
        });
        answer.unwrap()
    }

    fn change(
        &self,
        node: u64,
        ask: impl Fn(&Consensus, u64) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let pick = |told: &Told, request| match told {
            Told::Changed(of, result) if *of == request => Some(result.clone()),
            _ => None,
        };
        loop {
            match self.answer(node, &ask, pick) {
                Err(Refusal::ChangeUnderWay) => {}
                other => return other,
            }
        }
    }

    pub(crate) fn add_learner(&self, at: u64, node: u64) -> Result<(), Refusal> {
        let address = self.address(node).to_owned();
        self.change(at, |c, request| c.add_learner(request, NodeId::new(node), address.clone()))
    }

    pub(crate) fn set_voters(&self, at: u64, voters: &[u64]) -> Result<(), Refusal> {
        let voters: BTreeSet<NodeId> = voters.iter().copied().map(NodeId::new).collect();
        self.change(at, |c, request| c.set_voters(request, voters.clone()))
    }

    pub(crate) fn remove_node(&self, at: u64, node: u64) -> Result<(), Refusal> {
        self.change(at, |c, request| c.remove_node(request, NodeId::new(node)))
    }

    pub(crate) fn read_index(&self, node: u64) -> Result<u64, Refusal> {
        self.answer(node, Consensus::read_index, |told, request| match told {
            Told::Read(of, result) if *of == request => Some(result.clone()),
            _ => None,
        })
    }

    /// A change and a read; what comes of them is left to the caller.
    pub(crate) fn request_all(&self, node: u64) -> [u64; 2] {
        let requests = [(); 2].map(|()| self.numbers.fetch_add(1, Ordering::Relaxed));
        let learner = (NodeId::new(9), self.address(node).to_owned());
        self.with(node, |consensus| {
            consensus.add_learner(requests[0], learner.0, learner.1).unwrap();
            consensus.read_index(requests[1]).unwrap();
        });
        requests
    }

    pub(crate) fn try_propose(&self, node: u64, entry: Vec<u8>) -> Result<u64, Refusal> {
        let consensus = self.consensus(node).ok_or(Refusal::Stopped)?;
        let proposal = self.numbers.fetch_add(1, Ordering::Relaxed);
        let key = (node, self.nodes[&node].incarnation, proposal);
        self.proposed.lock().unwrap().insert(key, entry.clone());
        let proposed = consensus.propose(proposal, 1234, entry);
        if proposed.is_err() {
            self.proposed.lock().unwrap().remove(&key);
        }
        proposed.map(|()| proposal)
    }

    pub(crate) fn propose(&self, node: u64, entry: &[u8]) -> u64 {
        self.try_propose(node, entry.to_vec()).unwrap()
    }

    pub(crate) fn refused(&self, node: u64, entry: Vec<u8>) -> Refusal {
        self.try_propose(node, entry).unwrap_err()
    }

    pub(crate) fn wait_for_end(&self, node: u64, proposal: u64) -> End {
        let mut end = None;
        wait_for("the end of a proposal", || {
            end = ends(&self.all_told(node), proposal).pop();
            end.is_some()
        });
        end.unwrap()
    }

    /// Proposes until it is ordered: each time another entry, for one in doubt may be ordered too.
    pub(crate) fn propose_until_applied(&self, node: u64) {
        wait_for("an ordered proposal", || {
            let number = self.numbers.load(Ordering::Relaxed);
            let proposal = self.propose(node, format!("{node}:{number};").as_bytes());
            self.wait_for_end(node, proposal) == End::Applied
        });
    }

    pub(crate) fn propose_bytes(&self, node: u64, entry: &[u8]) {
        wait_for("an ordered proposal", || {
            let proposal = self.propose(node, entry);
            self.wait_for_end(node, proposal) == End::Applied
        });
    }

    /// All that run have carried out the same.
    pub(crate) fn wait_until_equal(&self) {
        wait_for("equal machines", || {
            let running: Vec<u64> =
                self.nodes.keys().copied().filter(|node| self.consensus(*node).is_some()).collect();
            let states: BTreeSet<Vec<u8>> = running.iter().map(|node| self.state(*node)).collect();
            states.len() == 1
        });
    }

    fn told_in(&self, node: u64, incarnation: u64) -> Vec<Told> {
        let known = &self.nodes[&node];
        match known.before.get(&incarnation) {
            Some(told) => told.clone(),
            None => self.all_told(node),
        }
    }

    pub(crate) fn wait_for_all_ends(&self) {
        let proposed = self.proposed.lock().unwrap().clone();
        for (node, incarnation, proposal) in proposed.into_keys() {
            wait_for("the end of a proposal", || {
                !ends(&self.told_in(node, incarnation), proposal).is_empty()
            });
        }
    }

    /// Each proposal has ended once; what was refused is nowhere, what was applied is there once.
    pub(crate) fn check_ends(&self) {
        self.wait_for_all_ends();
        let proposed = self.proposed.lock().unwrap().clone();
        let running = self.nodes.keys().filter(|node| self.consensus(**node).is_some());
        let states: Vec<Vec<u8>> = running.map(|node| self.state(*node)).collect();
        for ((node, incarnation, proposal), entry) in proposed {
            let ended = ends(&self.told_in(node, incarnation), proposal);
            assert_eq!(ended.len(), 1, "proposal {proposal}: {ended:?}");
            if !entry.ends_with(b";") {
                continue;
            }
            for state in &states {
                let count = state.windows(entry.len()).filter(|at| *at == entry).count();
                match ended[0] {
                    End::Applied => assert!(count <= 1, "applied {count} times"),
                    End::Refused(_) => assert_eq!(count, 0, "refused, and ordered"),
                    End::InDoubt => assert!(count <= 1),
                }
            }
            let applied = ended[0] == End::Applied;
            let longest = states.iter().max_by_key(|state| state.len());
            let there = longest.is_none_or(|s| s.windows(entry.len()).any(|at| at == entry));
            assert!(!applied || there, "proposal {proposal} was ordered, and is not there");
        }
    }
}

fn ends(told: &[Told], proposal: u64) -> Vec<End> {
    let ends = told.iter().filter_map(|told| match told {
        Told::Applied { proposal: Some(of), .. } if *of == proposal => Some(End::Applied),
        Told::Refused(of, refusal) if *of == proposal => Some(End::Refused(refusal.clone())),
        Told::InDoubt(of) if *of == proposal => Some(End::InDoubt),
        _ => None,
    });
    ends.collect()
}

impl Node {
    fn new(node: u64, net: Arc<Mutex<Net>>) -> Self {
        let serving = Serving::default();
        Self {
            address: listen(node, serving.clone(), net),
            serving,
            scroll: Scroll::default(),
            told: Arc::default(),
            incarnation: 0,
            before: BTreeMap::new(),
        }
    }
}

/// Hands connections to whoever serves at the moment, if nothing is between the two.
fn listen(node: u64, serving: Serving, net: Arc<Mutex<Net>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream): Result<TcpStream, _> = stream else { return };
            if stream.read_exact(&mut [0; 16]).is_err() {
                continue;
            }
            let Some(from) = caller(&stream) else { continue };
            let mut net = net.lock().unwrap();
            if net.alone.is_some_and(|alone| alone == from || alone == node) {
                continue;
            }
            net.connections.push((from, node, stream.try_clone().unwrap()));
            let consensus = serving.lock().unwrap().clone();
            if let Some(consensus) = consensus {
                consensus.accept(stream);
            }
        }
    });
    address
}

/// Who opened a connection, as its first frame says: behind the cluster, both of one byte.
fn caller(stream: &TcpStream) -> Option<u64> {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut hello = [0; BODY + 2];
    while stream.peek(&mut hello).ok()? < hello.len() {
        thread::yield_now();
    }
    stream.set_read_timeout(None).unwrap();
    Some(u64::from(hello[BODY + 1]))
}
