//! Links between nodes: in order while they last, held up while a way is cut, and broken so that
//! both ends hear of it, or one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use catena_node::{Dial, LinkId};
use catena_wire::{limits::PEER_HEADER_BYTES, peer::PeerHeader};

use super::{
    Purse, World,
    network::{Delivery, Link},
};
use crate::sim::deeds::Deed;

/// Until somebody who gets no answer gives a connection up.
const CONNECT_NS: u64 = 200_000_000;

/// One end of a link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct End {
    pub(super) node: usize,
    core: u16,
    link: LinkId,
}

/// All links, and which ways are cut.
#[derive(Default)]
pub(super) struct Wires {
    /// The other end of each.
    ends: BTreeMap<End, End>,
    numbers: u64,
    cut: BTreeSet<(usize, usize)>,
    /// What waits until a way is open again.
    held: BTreeMap<End, VecDeque<Vec<u8>>>,
}

impl Wires {
    /// Nothing comes through from one node to another.
    pub(super) fn cut(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    /// The other end of a link, while it lasts.
    pub(super) fn other(&self, end: End) -> Option<End> {
        self.ends.get(&end).copied()
    }

    /// One of the links that stand.
    fn any(&self, at: u64) -> Option<(End, End)> {
        let at = at.checked_rem(self.ends.len() as u64)?;
        self.ends.iter().nth(at as usize).map(|(end, other)| (*end, *other))
    }
}

impl World {
    /// A core wants a connection to one of another node.
    pub(super) fn dial(&mut self, node: usize, core: u16, dial: Dial) {
        let process = self.machines[node].life;
        let slow = if self.random.chance(50_000) { 20_000_000 } else { 400_000 };
        let delay_ns = 20_000 + self.random.below(slow);
        self.later(delay_ns, Delivery::Dialled { node, process, core, dial, given_up: false });
    }

    pub(super) fn dialled(&mut self, node: usize, process: u64, core: u16, dial: Dial, over: bool) {
        let now = self.now();
        let machine = &self.machines[node];
        if machine.life != process || machine.is_down() {
            return;
        }
        let to = self.machines.iter().position(|machine| machine.id() == dial.node);
        let to = to.filter(|to| !self.machines[*to].is_down());
        let to = to.filter(|to| usize::from(dial.core) < self.machines[*to].cores.len());
        let ways = to.map(|to| [(node, to), (to, node)]);
        let cut = ways.is_some_and(|ways| ways.iter().any(|way| self.wires.cut.contains(way)));
        if cut && !over {
            let again = Delivery::Dialled { node, process, core, dial, given_up: true };
            return self.later(CONNECT_NS, again);
        }
        let Some(to) = to.filter(|_| !cut && !over) else {
            let dialler = &mut self.machines[node].cores[usize::from(core)];
            return dialler.on_no_link(dial.node, dial.core, now);
        };
        self.wires.numbers += 2;
        let [here, there] = [(node, core, 0), (to, dial.core, 1)].map(|(node, core, number)| End {
            node,
            core,
            link: LinkId(self.wires.numbers + number),
        });
        self.wires.ends.extend([(here, there), (there, here)]);
        self.end(here).on_link(here.link, Some((dial.node, dial.core)), now);
        self.end(there).on_link(there.link, None, now);
    }

    fn end(&mut self, end: End) -> &mut catena_node::Node<Purse> {
        &mut self.machines[end.node].cores[usize::from(end.core)]
    }

    /// A core sends bytes over a link; behind the last the link ends.
    pub(super) fn send_over(
        &mut self,
        (node, core, link): (usize, u16, LinkId),
        bytes: Vec<u8>,
        last: bool,
    ) {
        let from = End { node, core, link };
        if self.wires.ends.contains_key(&from) {
            if !bytes.is_empty() {
                self.fingerprint.bytes(&bytes);
                self.transmit(Link::Peer(from), Delivery::Peer { from, bytes });
            }
            if last {
                self.transmit(Link::Peer(from), Delivery::PeerEnds { from });
            }
        }
        if last {
            self.later(1_000, Delivery::PeerGone { end: from });
        }
    }

    /// Something has come to the other end of a link, unless the way is cut.
    pub(super) fn heard_over(&mut self, from: End, bytes: Vec<u8>) -> Result<(), String> {
        let Some(to) = self.wires.ends.get(&from).copied() else { return Ok(()) };
        let cut = self.wires.cut.contains(&(from.node, to.node));
        if cut || self.wires.held.contains_key(&from) {
            self.wires.held.entry(from).or_default().push_back(bytes);
            return Ok(());
        }
        let now = self.now();
        let (header, rest) =
            bytes.split_first_chunk::<PEER_HEADER_BYTES>().ok_or("a peer's message is short")?;
        let header = PeerHeader::parse(header).map_err(|e| e.to_string())?;
        let (head, payload) = rest.split_at(header.head_bytes as usize);
        self.end(to).on_link_heard(to.link, now);
        self.end(to).on_link_message(to.link, &header, head, payload, now);
        self.end(from).on_link_sent(from.link, bytes.len());
        Ok(())
    }

    /// The other end of a link has ended it.
    pub(super) fn ended_over(&mut self, from: End) {
        let Some(to) = self.wires.ends.remove(&from) else { return };
        self.wires.ends.remove(&to);
        self.wires.held.remove(&from);
        self.wires.held.remove(&to);
        // Behind a way that is cut nobody hears of it: the silence tells.
        if !self.wires.cut.contains(&(from.node, to.node)) {
            self.gone(to);
        }
    }

    /// A link is gone, as one of its ends hears.
    pub(super) fn gone(&mut self, end: End) {
        let now = self.now();
        if !self.machines[end.node].is_down() {
            let cores = &mut self.machines[end.node].cores;
            if let Some(core) = cores.get_mut(usize::from(end.core)) {
                core.on_link_lost(end.link, now);
            }
        }
    }

    /// A link breaks: both ends hear of it sooner or later, or only one does.
    pub(super) fn break_a_link(&mut self) {
        let draw = self.random.bits();
        let Some((one, other)) = self.wires.any(draw) else { return };
        self.oracle.did(Deed::LinkBroken);
        self.sever(one, other);
        let silent = self.random.chance(200_000);
        for end in [one, other].into_iter().skip(usize::from(silent)) {
            let delay_ns = 1 + self.random.below(3_000_000);
            self.later(delay_ns, Delivery::PeerGone { end });
        }
    }

    fn sever(&mut self, one: End, other: End) {
        for end in [one, other] {
            self.wires.ends.remove(&end);
            self.wires.held.remove(&end);
        }
    }

    /// A process is gone: who was linked to it hears so, or nothing more.
    pub(super) fn cut_loose(&mut self, node: usize) {
        let links = self.wires.ends.iter().filter(|(end, _)| end.node == node);
        let links: Vec<(End, End)> = links.map(|(end, other)| (*end, *other)).collect();
        let silent = self.random.chance(300_000);
        for (end, other) in links {
            self.sever(end, other);
            let cut = self.wires.cut.contains(&(node, other.node));
            let delay_ns = 1 + self.random.below(2_000_000);
            if !silent && !cut {
                self.later(delay_ns, Delivery::PeerGone { end: other });
            }
        }
    }

    /// All ways are open: what waited comes through.
    pub(super) fn mend(&mut self) -> Result<(), String> {
        self.wires.cut.clear();
        for (from, waiting) in std::mem::take(&mut self.wires.held) {
            for bytes in waiting {
                self.heard_over(from, bytes)?;
            }
        }
        Ok(())
    }
}
