//! Which connection a request takes: that to the core which owns its partition, on the head of the
//! partition's chain.

use std::{io, sync::Arc};

use catena_format::NodeId;
use catena_wire::{ErrorCode, HandshakeResponse, PartitionMetadata};

use crate::error::Error;

/// A connection of a state machine, named by the node and its core that are to serve it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Lane {
    /// `None`: any.
    pub(crate) node: Option<NodeId>,
    /// `None`: any.
    pub(crate) core: Option<u16>,
}

impl Lane {
    /// To any server that answers.
    pub(crate) const SCOUT: Self = Self { node: None, core: None };
    /// Where what is about no partition is asked, and about those that nobody told of: any node,
    /// and there the core that orders everything about topics.
    pub(crate) const HOME: Self = Self { node: None, core: Some(0) };

    /// To the core that owns a partition, on the head of its chain.
    pub(crate) fn of(partition: &PartitionMetadata) -> Self {
        Self { node: partition.chain.first().copied(), core: Some(partition.core) }
    }

    /// Whether the server at `address` is that node, as it says itself: nodes may change their
    /// addresses, and where one is whose address is not known any server is asked.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when it is another.
    pub(crate) fn check(
        self,
        greeting: &HandshakeResponse<'_>,
        address: &str,
    ) -> Result<(), Error> {
        match self.node {
            Some(node) if node != greeting.node => {
                let text = format!("node {} answers there, not {node}", greeting.node);
                let (address, source) = (address.to_owned(), Arc::new(io::Error::other(text)));
                Err(Error::Unreachable { address, source })
            }
            _ => Ok(()),
        }
    }

    /// So that not all connections of a client do the same at once.
    pub(crate) fn seed(self, seed: u64) -> u64 {
        let node = self.node.map_or(0, NodeId::get) << 16;
        seed.rotate_left(32).wrapping_add(node | u64::from(self.core.unwrap_or(u16::MAX)))
    }
}

/// Whether a refusal may mean that another node or core serves the partition by now, or soon.
pub(crate) fn may_have_moved(error: &Error) -> bool {
    use ErrorCode::{
        Fenced, HeadMoved, NotEnoughReplicas, NotHead, ShuttingDown, Starting, WrongCore,
    };
    let Error::Server { code, .. } = error else { return false };
    matches!(
        code,
        WrongCore | NotHead | HeadMoved | Fenced | NotEnoughReplicas | ShuttingDown | Starting
    )
}
