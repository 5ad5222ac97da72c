//! Words of consensus, for the log.

use catena_format::NodeId;

/// Who leads.
pub(super) fn of_leader(leader: Option<NodeId>, me: NodeId) -> String {
    match leader {
        None => "nobody orders the catalog yet".to_owned(),
        Some(node) if node == me => "this node orders the catalog".to_owned(),
        Some(node) => format!("node {node} orders the catalog"),
    }
}
