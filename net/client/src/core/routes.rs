//! Where partitions are, as far as metadata told: the one table of producers, consumers and calls.
//!
//! A route is doubted when its connection is lost, silent, or refuses. The doubt ends with an
//! answer that is newer than what was refused, or when the partition is served there after all. Not
//! every node knows the newest: what is of an older epoch is not taken in, and ends no doubt. Who
//! refuses may tell where the head is: then nobody needs to be asked.

use std::{collections::BTreeMap, time::Instant};

use catena_format::{Epoch, PartitionIndex, TopicId};
use catena_wire::{HeadAddress, NodeAddress, TopicMetadata};

use super::{
    call::Told,
    lane::{Lane, may_have_moved},
    nodes::Nodes,
};
use crate::error::Error;

/// The most topics kept in mind.
const TOPICS_MAX: usize = 1000;
/// The most connections of a client.
pub(crate) const CONNECTIONS_MAX: usize = 100;

/// A partition.
pub(crate) type Place = (TopicId, PartitionIndex);

/// The lane of a partition, and the epoch of its chain in which it was that.
#[derive(Clone, Copy, Debug)]
struct Route {
    lane: Lane,
    epoch: Epoch,
    /// It may be another by now.
    doubted: bool,
}

impl Route {
    /// Whether what was told is newer: of a newer epoch, or the head has other cores since it
    /// started again.
    fn is_before(&self, told: Self) -> bool {
        let (same, head) = (self.epoch == told.epoch, self.lane.node == told.lane.node);
        self.epoch < told.epoch || same && head && self.lane.core != told.lane.core
    }
}

#[derive(Debug, Default)]
struct Known {
    /// Empty before it was told.
    name: String,
    /// By partition.
    routes: BTreeMap<u32, Route>,
}

impl Known {
    /// Takes in what was told of a partition, if that is new.
    fn take(&mut self, partition: u32, told: Route) -> bool {
        let new = self.routes.get(&partition).is_none_or(|route| route.is_before(told));
        if new {
            self.routes.insert(partition, told);
        }
        new
    }
}

/// The nodes of a cluster, and the partitions of the topics that somebody told of.
#[derive(Debug)]
pub(crate) struct Routes {
    pub(crate) nodes: Nodes,
    topics: BTreeMap<TopicId, Known>,
    /// What nobody told of, and is not where it was asked for.
    missed: Option<Place>,
    /// Who refused last: it may know who would not.
    refuser: Option<Lane>,
    /// The last call was told who is to be asked.
    redirected: bool,
}

impl Routes {
    /// Nothing was told yet.
    pub(crate) fn new(nodes: Nodes) -> Self {
        Self { nodes, topics: BTreeMap::new(), missed: None, refuser: None, redirected: false }
    }

    /// Takes in what a node told; whether anything of it is new.
    pub(crate) fn learn(&mut self, topic: &TopicMetadata<'_>) -> bool {
        let known = self.known(topic.id);
        known.name.clear();
        known.name.push_str(&topic.name);
        let mut news = false;
        for (index, partition) in (0..).zip(&topic.partitions) {
            let lane = Lane::of(partition);
            news |= known.take(index, Route { lane, epoch: partition.epoch, doubted: false });
        }
        if news {
            self.nodes.on_news();
        }
        news
    }

    /// Takes in where a node that is not the head says that the head is; whether that is new.
    pub(crate) fn on_redirect(&mut self, place: Place, head: &HeadAddress<'_>) -> bool {
        let HeadAddress { node, epoch, core, ref address } = *head;
        let lane = Lane { node: Some(node), core: Some(core) };
        if !self.known(place.0).take(place.1.get(), Route { lane, epoch, doubted: false }) {
            return false;
        }
        self.missed.take_if(|missed| *missed == place);
        if !address.is_empty() {
            self.nodes.learn(&[NodeAddress { node, address: address.as_ref().into() }], "");
        }
        self.nodes.on_news();
        true
    }

    fn known(&mut self, topic: TopicId) -> &mut Known {
        if self.topics.len() >= TOPICS_MAX && !self.topics.contains_key(&topic) {
            self.topics.clear();
        }
        self.topics.entry(topic).or_default()
    }

    fn route(&self, (topic, partition): Place) -> Option<&Route> {
        self.topics.get(&topic)?.routes.get(&partition.get())
    }

    fn route_mut(&mut self, (topic, partition): Place) -> Option<&mut Route> {
        self.topics.get_mut(&topic)?.routes.get_mut(&partition.get())
    }

    /// The lane of a partition that somebody told of.
    pub(crate) fn lane(&self, place: Place) -> Option<Lane> {
        self.route(place).map(|route| route.lane)
    }

    /// What a topic was called when it was last told of.
    pub(crate) fn name(&self, topic: TopicId) -> Option<&str> {
        let name = self.topics.get(&topic).map(|known| known.name.as_str());
        name.filter(|name| !name.is_empty())
    }

    /// Whether a partition is on that lane.
    pub(crate) fn uses(&self, lane: Lane) -> bool {
        self.topics.values().flat_map(|known| known.routes.values()).any(|r| r.lane == lane)
    }

    /// A lane refused what is about a partition, and may know who would not; or it did not answer.
    pub(crate) fn doubt(&mut self, place: Place, lane: Lane) {
        match self.route_mut(place) {
            Some(route) => route.doubted |= route.lane == lane,
            None => self.missed = Some(place),
        }
    }

    /// A node said that it does not serve a partition: it is asked first who does.
    pub(crate) fn on_refused(&mut self, place: Place, lane: Lane) {
        self.doubt(place, lane);
        self.refuser = Some(lane);
    }

    /// A lane was lost, or is silent.
    pub(crate) fn doubt_lane(&mut self, lane: Lane) {
        let routes = self.topics.values_mut().flat_map(|known| known.routes.values_mut());
        routes.filter(|route| route.lane == lane).for_each(|route| route.doubted = true);
    }

    /// Whether a partition may be elsewhere by now.
    pub(crate) fn is_doubted(&self, place: Place) -> bool {
        self.route(place).map_or(self.missed == Some(place), |route| route.doubted)
    }

    /// A partition is served on a lane. Whether that ended the last doubt.
    pub(crate) fn on_served(&mut self, place: Place, lane: Lane) -> bool {
        match self.route_mut(place) {
            Some(route) if route.doubted && route.lane == lane => route.doubted = false,
            _ => return false,
        }
        let mut routes = self.topics.values().flat_map(|known| known.routes.values());
        !routes.any(|route| route.doubted)
    }

    /// Who is to be asked first; told once.
    pub(crate) fn take_refuser(&mut self) -> Option<Lane> {
        self.refuser.take()
    }

    /// Who is to be asked first.
    pub(crate) fn refuser(&self) -> Option<Lane> {
        self.refuser
    }
}

/// For calls, which are made one after the other.
impl Routes {
    /// Where a call is made that is about a partition, or about none.
    pub(crate) fn lane_of(&self, place: Option<Place>) -> Lane {
        place.and_then(|place| self.lane(place)).unwrap_or(Lane::HOME)
    }

    /// Whom to ask where a partition is before a call about it is made, and for which topics, none:
    /// all; `None`: there is no doubt.
    pub(crate) fn question(&mut self, place: Option<Place>) -> Option<(Lane, Vec<String>)> {
        let place = place.filter(|place| self.is_doubted(*place))?;
        let names = self.name(place.0).map(str::to_owned).into_iter().collect();
        Some((self.take_refuser().unwrap_or(Lane::HOME), names))
    }

    /// The server at `asked` just said so.
    pub(crate) fn on_told(&mut self, told: &Told, asked: &str) {
        self.nodes.learn(&told.nodes, asked);
        for topic in &told.topics {
            self.learn(topic);
        }
    }

    /// A call was answered.
    pub(crate) fn on_done(&mut self, place: Option<Place>, lane: Lane) {
        if let Some(place) = place {
            self.on_served(place, lane);
        }
    }

    /// A call came to a node that is not the head, and says who is; whether that is new.
    pub(crate) fn on_moved(
        &mut self,
        place: Option<Place>,
        head: Option<&HeadAddress<'_>>,
    ) -> bool {
        let told = place.zip(head);
        self.redirected = told.is_some_and(|(place, head)| self.on_redirect(place, head));
        self.redirected
    }

    /// Whether the last call was told where to go on: nobody needs to wait. Told once.
    pub(crate) fn take_redirected(&mut self) -> bool {
        std::mem::take(&mut self.redirected)
    }

    /// A call came to nothing on a lane. Whether its connection is of no use any more: it broke, or
    /// another node is better asked what any could be.
    pub(crate) fn on_failed(
        &mut self,
        place: Option<Place>,
        lane: Lane,
        error: &Error,
        now: Instant,
    ) -> bool {
        if let Error::Connection { address, .. } | Error::Unreachable { address, .. } = error {
            self.nodes.on_silent(address, now);
        }
        let broken = matches!(error, Error::Connection { .. } | Error::Protocol(_))
            || error.is_unreachable();
        if broken {
            self.doubt_lane(lane);
        }
        match place {
            Some(place) if broken => self.doubt(place, lane),
            Some(place) if may_have_moved(error) => self.on_refused(place, lane),
            _ => {}
        }
        broken || lane == Lane::HOME && error.is_elsewhere()
    }
}

#[cfg(test)]
mod tests {
    use catena_format::{NodeId, PartitionUid};
    use catena_wire::{ErrorCode, PartitionMetadata};

    use super::*;

    const TOPIC: TopicId = TopicId::new(1);
    const PLACE: Place = (TOPIC, PartitionIndex::new(0));

    fn told(node: u64, core: u16, epoch: u32) -> TopicMetadata<'static> {
        let partition = PartitionMetadata {
            index: PartitionIndex::new(0),
            uid: PartitionUid::new(1),
            epoch: Epoch::new(epoch),
            core,
            chain: vec![NodeId::new(node)],
            error: ErrorCode::None,
        };
        TopicMetadata {
            error: ErrorCode::None,
            name: "t".into(),
            id: TOPIC,
            config_version: 1,
            batch_bytes_max: 4096,
            partitions: vec![partition],
        }
    }

    fn lane(node: u64, core: u16) -> Lane {
        Lane { node: Some(NodeId::new(node)), core: Some(core) }
    }

    #[test]
    fn what_is_of_an_older_epoch_is_not_believed_and_only_what_is_newer_ends_a_doubt() {
        let mut routes = Routes::new(Nodes::new(vec!["a:1".to_owned()]));
        assert!(routes.learn(&told(1, 0, 5)));
        assert!(!routes.learn(&told(2, 0, 4)), "it is older");
        assert_eq!(routes.lane(PLACE), Some(lane(1, 0)));
        routes.doubt(PLACE, lane(2, 0));
        assert!(!routes.is_doubted(PLACE), "another was asked");
        routes.doubt(PLACE, lane(1, 0));
        for stale in [told(1, 0, 5), told(2, 0, 4), told(2, 0, 5)] {
            assert!(!routes.learn(&stale));
            assert!(routes.is_doubted(PLACE));
        }
        // It has other cores since it started again.
        assert!(routes.learn(&told(1, 1, 5)));
        assert!(!routes.is_doubted(PLACE));
        routes.doubt_lane(lane(1, 1));
        assert!(routes.learn(&told(2, 0, 6)));
        assert_eq!(routes.lane(PLACE), Some(lane(2, 0)));
        assert!(!routes.is_doubted(PLACE));
    }

    #[test]
    fn who_refuses_tells_where_the_head_is_and_is_not_believed_if_that_is_older() {
        let mut routes = Routes::new(Nodes::new(vec!["a:1".to_owned()]));
        let head = |node: u64, epoch: u32| HeadAddress {
            node: NodeId::new(node),
            epoch: Epoch::new(epoch),
            core: 1,
            address: format!("node{node}:1").into(),
        };
        // Nothing was told of the topic, and nobody is asked.
        assert_eq!(routes.lane_of(Some(PLACE)), Lane::HOME);
        assert!(routes.on_moved(Some(PLACE), Some(&head(2, 5))));
        assert!(routes.take_redirected() && !routes.take_redirected());
        assert_eq!(routes.lane_of(Some(PLACE)), lane(2, 1));
        assert_eq!(routes.question(Some(PLACE)), None);
        assert_eq!(routes.nodes.address(Some(NodeId::new(2)), Instant::now()), "node2:1");
        for stale in [head(3, 4), head(3, 5), head(2, 5)] {
            assert!(!routes.on_moved(Some(PLACE), Some(&stale)));
            assert_eq!(routes.lane_of(Some(PLACE)), lane(2, 1));
        }
        // Then others are asked, and for all topics where its name is not known.
        routes.on_refused(PLACE, lane(2, 1));
        assert_eq!(routes.question(Some(PLACE)), Some((lane(2, 1), Vec::new())));
        assert!(routes.on_moved(Some(PLACE), Some(&head(3, 6))));
        assert_eq!(routes.question(Some(PLACE)), None);
        assert!(!routes.learn(&told(2, 1, 5)), "metadata is older");
        assert!(routes.learn(&told(1, 0, 7)));
        assert!(!routes.on_moved(None, Some(&head(3, 8))));
    }

    #[test]
    fn a_doubt_ends_where_the_partition_is_served_after_all() {
        let mut routes = Routes::new(Nodes::new(vec!["a:1".to_owned()]));
        routes.learn(&told(1, 0, 5));
        routes.doubt_lane(lane(1, 0));
        assert!(!routes.on_served(PLACE, lane(2, 0)), "that was asked before");
        assert!(routes.is_doubted(PLACE));
        assert!(routes.on_served(PLACE, lane(1, 0)));
        assert!(!routes.is_doubted(PLACE));
        assert!(!routes.on_served(PLACE, lane(1, 0)), "there was none");
        let unknown = (TopicId::new(2), PartitionIndex::new(0));
        assert!(!routes.is_doubted(unknown));
        routes.on_refused(unknown, Lane::HOME);
        assert!(routes.is_doubted(unknown));
    }
}
