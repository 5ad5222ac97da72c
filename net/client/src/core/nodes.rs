//! Where the servers are: those that the options name, and the nodes that metadata tells of.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use catena_format::NodeId;
use catena_wire::NodeAddress;

use crate::url;

/// The most nodes kept in mind.
const NODES_MAX: usize = 1000;
/// What a server that may be any may take, to be connected to or to answer, before the next one is
/// tried. When all have been, each may take twice as long.
const TRY_MIN: Duration = Duration::from_millis(300);
const TRY_MAX: Duration = Duration::from_secs(5);
/// How long nothing is asked of a server that fell silent, where others can be asked.
const SILENT: Duration = Duration::from_secs(2);

/// Where to connect to, and how long that may take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Dial {
    pub(crate) address: String,
    pub(crate) wait: Duration,
}

/// The servers of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Nodes {
    /// As the options name them.
    servers: Vec<String>,
    known: BTreeMap<NodeId, String>,
    /// Which one is next where any will do.
    turn: usize,
    /// Tries since one came to something.
    failed: usize,
    /// Addresses where nothing was answered in time, and until when they are left alone.
    silent: BTreeMap<String, Instant>,
    /// Addresses that were asked, and could tell nothing new, since somebody could.
    asked: BTreeSet<String>,
}

impl Nodes {
    /// The servers that are known before one was asked; there is one at least.
    pub(crate) fn new(servers: Vec<String>) -> Self {
        let (known, silent, asked) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { servers, known, turn: 0, failed: 0, silent, asked }
    }

    /// What the server at `asked` says of the nodes. One that is not named any more is still
    /// remembered, for it may come back.
    pub(crate) fn learn(&mut self, told: &[NodeAddress<'_>], asked: &str) {
        for NodeAddress { node, address } in told {
            if self.known.len() >= NODES_MAX {
                self.known.clear();
            }
            if address.is_empty() {
                self.known.insert(*node, asked.to_owned());
            } else if let Ok(address) = url::server(address) {
                self.known.insert(*node, address);
            }
        }
    }

    /// The address of a node, if it is known, else of any.
    pub(crate) fn address(&mut self, node: Option<NodeId>, now: Instant) -> String {
        match node.and_then(|node| self.known.get(&node)) {
            Some(address) => address.clone(),
            None => self.next(now),
        }
    }

    /// One address after the other: those first that can be asked, then those that are not silent.
    fn next(&mut self, now: Instant) -> String {
        let all: Vec<&String> = self.all().collect();
        let (before, behind) = all.split_at(self.turn % all.len());
        let mut from = behind.iter().chain(before).enumerate();
        let found = from.clone().find(|(_, address)| self.may_ask(address, now));
        let found = found.or_else(|| from.clone().find(|(_, at)| !self.is_silent(at, now)));
        let (skipped, next) = found.or_else(|| from.next()).expect("there is one at least");
        let next = next.to_string();
        self.turn = self.turn.wrapping_add(skipped + 1);
        next
    }

    fn all(&self) -> impl Iterator<Item = &String> {
        let further = self.known.values().filter(|address| !self.servers.contains(address));
        self.servers.iter().chain(further)
    }

    /// How many addresses there are.
    pub(crate) fn count(&self) -> usize {
        self.all().count()
    }

    /// Whether nothing was answered there, a short while ago.
    pub(crate) fn is_silent(&self, address: &str, now: Instant) -> bool {
        self.silent.get(address).is_some_and(|until| now < *until)
    }

    /// Whether a question there may be answered soon, with something new.
    pub(crate) fn may_ask(&self, address: &str, now: Instant) -> bool {
        !self.asked.contains(address) && !self.is_silent(address, now)
    }

    /// Nothing was answered there in time: others are asked.
    pub(crate) fn on_silent(&mut self, address: &str, now: Instant) {
        self.silent.retain(|_, until| now < *until);
        self.silent.insert(address.to_owned(), now + SILENT);
        self.begin_anew(now);
    }

    /// Something came from there.
    pub(crate) fn on_heard(&mut self, address: &str) {
        self.silent.remove(address);
    }

    /// What was asked there came to nothing new. Before one is asked again all others are: whether
    /// they were.
    pub(crate) fn on_asked(&mut self, address: &str, now: Instant) -> bool {
        self.asked.insert(address.to_owned());
        self.begin_anew(now)
    }

    fn begin_anew(&mut self, now: Instant) -> bool {
        let all = !self.all().any(|address| self.may_ask(address, now));
        if all {
            self.asked.clear();
        }
        all
    }

    /// Somebody told something new: whoever could not, may now.
    pub(crate) fn on_news(&mut self) {
        self.asked.clear();
    }

    /// How long one that may be any is waited for.
    pub(crate) fn patience(&self) -> Duration {
        let rounds = u32::try_from(self.failed / self.count()).unwrap_or(u32::MAX);
        TRY_MIN.saturating_mul(1 << rounds.min(8)).min(TRY_MAX)
    }

    /// One that may be any came to nothing.
    pub(crate) fn on_failed(&mut self) {
        self.failed = self.failed.saturating_add(1);
    }

    /// One has answered.
    pub(crate) fn on_answered(&mut self) {
        self.failed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(node: u64, address: &str) -> NodeAddress<'_> {
        NodeAddress { node: NodeId::new(node), address: address.into() }
    }

    #[test]
    fn a_node_is_where_it_was_told_to_be_and_any_is_each_in_turn() {
        let mut nodes = Nodes::new(vec!["a:1".to_owned(), "b:1".to_owned()]);
        let (two, now) = (Some(NodeId::new(2)), Instant::now());
        let any = [nodes.address(two, now), nodes.address(two, now)];
        assert_eq!(any, ["a:1", "b:1"]);
        // Nothing that is no address is taken in.
        nodes.learn(&[told(1, ""), told(2, "c:1"), told(3, "no address")], "b:1");
        assert_eq!(nodes.address(two, now), "c:1");
        assert_eq!(nodes.address(Some(NodeId::new(1)), now), "b:1");
        let any: Vec<String> = (0..4).map(|_| nodes.address(None, now)).collect();
        assert_eq!(any, ["c:1", "a:1", "b:1", "c:1"]);
        // It comes back elsewhere.
        nodes.learn(&[told(2, "d:1")], "a:1");
        assert_eq!(nodes.address(two, now), "d:1");
    }

    #[test]
    fn each_is_asked_before_one_is_asked_again_and_silent_ones_are_left_alone_for_a_while() {
        let mut nodes = Nodes::new(["a:1", "b:1", "c:1"].map(str::to_owned).into());
        let now = Instant::now();
        assert!(!nodes.on_asked("a:1", now));
        nodes.on_silent("b:1", now);
        let any: Vec<String> = (0..2).map(|_| nodes.address(None, now)).collect();
        assert_eq!(any, ["c:1", "c:1"]);
        // All were asked that answer: they are asked again, in turn.
        assert!(nodes.on_asked("c:1", now));
        assert!(nodes.may_ask("a:1", now) && nodes.may_ask("c:1", now));
        assert!(!nodes.may_ask("b:1", now));
        assert!(nodes.may_ask("b:1", now + SILENT));
        nodes.on_heard("b:1");
        assert!(nodes.may_ask("b:1", now));
        // Where all are silent it is tried all the same.
        ["a:1", "b:1", "c:1"].iter().for_each(|address| nodes.on_silent(address, now));
        let mut any: Vec<String> = (0..3).map(|_| nodes.address(None, now)).collect();
        any.sort();
        assert_eq!(any, ["a:1", "b:1", "c:1"]);
    }

    #[test]
    fn all_are_tried_before_one_may_take_longer() {
        let mut nodes = Nodes::new(vec!["a:1".to_owned(), "b:1".to_owned()]);
        nodes.on_failed();
        assert_eq!(nodes.patience(), TRY_MIN);
        nodes.on_failed();
        assert_eq!(nodes.patience(), 2 * TRY_MIN);
        (0..100).for_each(|_| nodes.on_failed());
        assert_eq!(nodes.patience(), TRY_MAX);
        nodes.on_answered();
        assert_eq!(nodes.patience(), TRY_MIN);
    }

    #[test]
    fn there_are_only_so_many_nodes() {
        let mut nodes = Nodes::new(vec!["a:1".to_owned()]);
        for node in 0..3 * NODES_MAX as u64 {
            nodes.learn(&[told(node, "b:1")], "a:1");
        }
        assert!(nodes.known.len() <= NODES_MAX);
    }
}
