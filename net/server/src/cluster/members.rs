//! Who takes part in consensus, and who votes: one, or three as soon as three can. Two votes would
//! be worse than one, for both would be needed.

use std::{collections::BTreeSet, fmt};

use catena_consensus::Status;
use catena_format::NodeId;
use catena_node::ClusterMember;

/// So many vote, once there are so many nodes.
const VOTERS: usize = 3;

/// A change that is due.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// A node learns what is ordered, or is reached elsewhere than before.
    Learn(NodeId, String),
    /// These vote.
    Vote(BTreeSet<NodeId>),
    /// A node is gone.
    Forget(NodeId),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Learn(node, address) => write!(f, "node {node} takes part, at {address}"),
            Self::Vote(voters) => {
                let voters: Vec<_> = voters.iter().map(ToString::to_string).collect();
                write!(f, "nodes {} vote", voters.join(", "))
            }
            Self::Forget(node) => write!(f, "node {node} takes no part any more"),
        }
    }
}

/// The next change that is due, if one is.
pub(super) fn next(nodes: &[ClusterMember], status: &Status) -> Option<Change> {
    let elsewhere = |node: &&ClusterMember| status.addresses.get(&node.id) != Some(&node.peer);
    if let Some(node) = nodes.iter().find(elsewhere) {
        return Some(Change::Learn(node.id, node.peer.clone()));
    }
    let known = |id: &NodeId| nodes.iter().any(|node| node.id == *id);
    if let Some(gone) = status.learners.iter().find(|id| !known(id)) {
        return Some(Change::Forget(*gone));
    }
    // Those that vote go on, if they are still there; then those that run, witnesses first: they
    // have nothing else to do.
    let voting = status.voters.iter().copied().filter(known);
    let mut others: Vec<_> = nodes.iter().filter(|node| node.up).collect();
    others.sort_by_key(|node| (!node.witness, node.id));
    let others = others.into_iter().map(|node| node.id);
    let others = others.filter(|id| !status.voters.contains(id));
    let mut voters: BTreeSet<NodeId> = voting.chain(others).take(VOTERS).collect();
    let enough = voters.len() == VOTERS || voters.len() < status.voters.len();
    if voters.len() == 2 && voters.contains(&status.node) {
        voters = BTreeSet::from([status.node]);
    }
    (enough && voters != status.voters && !voters.is_empty()).then_some(Change::Vote(voters))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use catena_consensus::Role;

    use super::*;

    fn node(id: u64, witness: bool) -> ClusterMember {
        ClusterMember { id: NodeId::new(id), up: true, witness, peer: format!("n{id}:1") }
    }

    fn status(voters: &[u64], learners: &[u64]) -> Status {
        let ids = |ids: &[u64]| ids.iter().map(|id| NodeId::new(*id)).collect::<BTreeSet<_>>();
        let addresses = |id: &u64| (NodeId::new(*id), format!("n{id}:1"));
        let addresses: BTreeMap<_, _> = voters.iter().chain(learners).map(addresses).collect();
        Status {
            node: NodeId::new(1),
            role: Role::Leader,
            term: 1,
            leader: Some(NodeId::new(1)),
            voters: ids(voters),
            learners: ids(learners),
            addresses,
            last: None,
            committed: None,
            applied: None,
            snapshot: None,
            purged: None,
        }
    }

    fn vote(ids: &[u64]) -> Option<Change> {
        Some(Change::Vote(ids.iter().map(|id| NodeId::new(*id)).collect()))
    }

    #[test]
    fn one_votes_until_three_can() {
        let two = [node(1, false), node(2, false)];
        let learns = Change::Learn(NodeId::new(2), "n2:1".to_owned());
        assert_eq!(next(&two[..1], &status(&[1], &[])), None);
        assert_eq!(next(&two, &status(&[1], &[])), Some(learns));
        assert_eq!(next(&two, &status(&[1], &[2])), None);
        let three = [node(1, false), node(2, false), node(3, false)];
        assert_eq!(next(&three, &status(&[1], &[2, 3])), vote(&[1, 2, 3]));
        assert_eq!(next(&three, &status(&[1, 2, 3], &[])), None);
    }

    #[test]
    fn witnesses_vote_first_and_nobody_is_replaced_for_being_down() {
        let mut nodes = [node(1, false), node(2, false), node(3, false), node(4, true)];
        assert_eq!(next(&nodes, &status(&[1], &[2, 3, 4])), vote(&[1, 2, 4]));
        nodes[1].up = false;
        assert_eq!(next(&nodes, &status(&[1, 2, 4], &[3])), None);
    }

    #[test]
    fn who_is_gone_is_replaced_and_who_moved_is_found() {
        let mut nodes = vec![node(1, false), node(3, false), node(4, false)];
        assert_eq!(next(&nodes, &status(&[1, 2, 3], &[4])), vote(&[1, 3, 4]));
        let forgets = Some(Change::Forget(NodeId::new(2)));
        assert_eq!(next(&nodes, &status(&[1, 3, 4], &[2])), forgets);
        assert_eq!(next(&nodes[..2], &status(&[1, 2, 3], &[])), vote(&[1]), "not two");
        nodes[1].peer = "new:1".to_owned();
        let learns = Some(Change::Learn(NodeId::new(3), "new:1".to_owned()));
        assert_eq!(next(&nodes, &status(&[1, 3, 4], &[])), learns);
    }
}
