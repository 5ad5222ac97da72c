//! Where the head of a partition's chain is: told to whoever came to another node.

use catena_format::{Epoch, NodeId, PartitionIndex, PartitionUid, TopicId};
use catena_log::io::Memory;
use catena_wire::{ErrorCode, HeadAddress};

use crate::{
    follow::core_of,
    node::{Caller, Node},
};

impl<M: Memory + Clone> Node<M> {
    /// Refuses what another node is to be asked, and says which one.
    pub(crate) fn refuse_elsewhere(
        &mut self,
        caller: Caller,
        place: (TopicId, PartitionIndex),
        error: ErrorCode,
        message: &str,
    ) {
        let head = self.head_of(place);
        self.refuse_and_tell(caller, error, message, head);
    }

    /// Where the head of a partition's chain is, if that is another node, which runs as far as is
    /// known.
    pub(crate) fn head_of(&self, place: (TopicId, PartitionIndex)) -> Option<HeadAddress<'static>> {
        let uid = self.places.get(&place)?.uid;
        let (node, epoch) = self.head_known(place)?;
        let beside = self.links.nodes.get(&node).filter(|beside| beside.up)?;
        let (core, address) = (core_of(uid, beside.profile.cores), beside.profile.client.clone());
        (node != self.identity.node).then_some(HeadAddress {
            node,
            epoch,
            core,
            address: address.into(),
        })
    }

    /// Of which topic a partition is that this core holds, and which one.
    pub(crate) fn place_held(&self, uid: PartitionUid) -> (TopicId, PartitionIndex) {
        let identity = self.held[&uid].replica.identity();
        (identity.topic, identity.partition)
    }

    /// The first core has the catalog; another one knows of the partitions that it holds.
    fn head_known(&self, place: (TopicId, PartitionIndex)) -> Option<(NodeId, Epoch)> {
        if let Some(follower) = &self.follower {
            let topic = follower.catalog().topic(place.0)?;
            let configuration = &topic.partitions.get(place.1.get() as usize)?.configuration;
            return Some((configuration.chain.first()?.node, configuration.epoch));
        }
        let held = self.held.get(&self.places.get(&place)?.uid)?;
        Some((*held.chain.first()?, held.epoch))
    }
}
