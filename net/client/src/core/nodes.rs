//! Where the servers are: those that the options name, and the nodes that metadata tells of.

use std::{collections::BTreeMap, time::Duration};

use catena_format::NodeId;
use catena_wire::NodeAddress;

use crate::url;

/// The most nodes kept in mind.
const NODES_MAX: usize = 1000;
/// What a server that may be any may take, to be connected to or to answer, before the next one is
/// tried. When all have been, each may take twice as long.
const TRY_MIN: Duration = Duration::from_millis(300);
const TRY_MAX: Duration = Duration::from_secs(5);

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
}

impl Nodes {
    /// The servers that are known before one was asked; there is one at least.
    pub(crate) fn new(servers: Vec<String>) -> Self {
        Self { servers, known: BTreeMap::new(), turn: 0, failed: 0 }
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
    pub(crate) fn address(&mut self, node: Option<NodeId>) -> String {
        match node.and_then(|node| self.known.get(&node)) {
            Some(address) => address.clone(),
            None => self.next(),
        }
    }

    /// One address after the other.
    fn next(&mut self) -> String {
        let further = self.known.values().filter(|address| !self.servers.contains(address));
        let all: Vec<&String> = self.servers.iter().chain(further).collect();
        let next = all[self.turn % all.len()].clone();
        self.turn = self.turn.wrapping_add(1);
        next
    }

    /// How many addresses there are.
    pub(crate) fn count(&self) -> usize {
        let further = self.known.values().filter(|address| !self.servers.contains(address));
        self.servers.len() + further.count()
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
        let two = Some(NodeId::new(2));
        assert_eq!((nodes.address(two), nodes.address(two)), ("a:1".to_owned(), "b:1".to_owned()));
        // Nothing that is no address is taken in.
        nodes.learn(&[told(1, ""), told(2, "c:1"), told(3, "no address")], "b:1");
        assert_eq!(nodes.address(two), "c:1");
        assert_eq!(nodes.address(Some(NodeId::new(1))), "b:1");
        let any: Vec<String> = (0..4).map(|_| nodes.address(None)).collect();
        assert_eq!(any, ["c:1", "a:1", "b:1", "c:1"]);
        // It comes back elsewhere.
        nodes.learn(&[told(2, "d:1")], "a:1");
        assert_eq!(nodes.address(two), "d:1");
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
