//! What is on its way between clients and nodes, and between the cores of a node.

use std::collections::BTreeSet;

use catena_node::{Node, Parcel, Pushed, SessionId, Status};
use catena_wire::{FRAME_HEADER_BYTES, FrameHeader, FrameLimits};

use super::{Machine, Purse, World};

/// A crash that a client's request provokes comes within so many nanoseconds.
const PERIL_NS: u64 = 2_000_000;

/// A session of a client on a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seat {
    pub(super) node: usize,
    pub(super) session: SessionId,
}

pub(super) enum Delivery {
    Request { seat: Seat, bytes: Vec<u8> },
    Response { seat: Seat, bytes: Vec<u8>, pushed: Option<Pushed> },
    Parcel { node: usize, from: u16, to: u16, parcel: Parcel },
}

impl Delivery {
    /// The node that sent it, or whose client did.
    fn node(&self) -> usize {
        match self {
            Self::Request { seat, .. } | Self::Response { seat, .. } => seat.node,
            Self::Parcel { node, .. } => *node,
        }
    }
}

/// A way on which messages keep their order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Link {
    ToNode(Seat),
    ToClient(Seat),
    Cores { node: usize, from: u16, to: u16 },
}

impl Link {
    /// The node at one of its ends.
    fn node(self) -> usize {
        match self {
            Self::ToNode(seat) | Self::ToClient(seat) => seat.node,
            Self::Cores { node, .. } => node,
        }
    }
}

impl World {
    /// What goes over a link arrives in its order.
    pub(super) fn transmit(&mut self, link: Link, delivery: Delivery) {
        let at = self.now_ns + 5_000 + self.random.below(60_000);
        let last = self.link_ns.entry(link).or_insert(0);
        *last = at.max(*last);
        let at = *last;
        self.deliveries += 1;
        self.network.insert((at, self.deliveries), delivery);
    }

    pub(super) fn deliver(&mut self) -> Result<(), String> {
        while let Some(entry) = self.network.first_entry() {
            let (at_ns, number) = *entry.key();
            if at_ns > self.now_ns {
                return Ok(());
            }
            match entry.remove() {
                Delivery::Request { seat, bytes } => {
                    let (header, head, payload) = parts(&bytes, FrameLimits::REQUEST)?;
                    let now = self.now();
                    self.core(seat).on_message(seat.session, &header, head, payload, now);
                }
                Delivery::Parcel { node, from, to, parcel } => {
                    let now = self.now();
                    self.machines[node].cores[usize::from(to)].on_parcel(from, parcel, now);
                }
                Delivery::Response { seat, bytes, pushed } => {
                    let Some(at) = self.sessions.get(&seat).copied() else { continue };
                    let paused_ns = self.clients[at].paused_ns();
                    if paused_ns > self.now_ns {
                        let response = Delivery::Response { seat, bytes, pushed };
                        self.hold_back(paused_ns, number, seat, response);
                        continue;
                    }
                    if let Some(pushed) = pushed {
                        let now = self.now();
                        self.core(seat).on_pushed(pushed, now);
                    }
                    let (header, head, payload) = parts(&bytes, FrameLimits::RESPONSE)?;
                    let client = &mut self.clients[at];
                    client.on_message(&header, head, payload, &mut self.oracle)?;
                    self.drop_session_of(at);
                    self.post(at);
                }
            }
        }
        Ok(())
    }

    /// Who has paused reads on then; what comes behind comes no earlier.
    fn hold_back(&mut self, until_ns: u64, number: u64, seat: Seat, response: Delivery) {
        let last = self.link_ns.entry(Link::ToClient(seat)).or_insert(0);
        *last = until_ns.max(*last);
        self.network.insert((until_ns, number), response);
    }

    pub(super) fn wake_clients(&mut self) {
        for at in 0..self.clients.len() {
            if self.clients[at].wake_ns() > self.now_ns {
                continue;
            }
            self.clients[at].on_wake(&mut self.oracle);
            self.drop_session_of(at);
            let ready = self.clients[at].hung_up() && self.clients[at].wake_ns() > self.now_ns;
            if ready {
                self.connect(at);
            }
            self.post(at);
        }
    }

    /// Connects a client to a node that serves.
    fn connect(&mut self, client: usize) {
        let serves = |machine: &Machine| machine.cores[0].status() == Status::Serving;
        let Some(node) = self.machines.iter().position(serves) else { return };
        let core = self.random.below(self.machines[node].cores.len() as u64) as u16;
        let seat = Seat { node, session: SessionId { core, number: self.next_session } };
        self.next_session += 1;
        self.sessions.insert(seat, client);
        self.core(seat).on_connect(seat.session);
        self.clients[client].on_connect(self.now_ns);
    }

    /// The core that a session is on.
    fn core(&mut self, seat: Seat) -> &mut Node<Purse> {
        &mut self.machines[seat.node].cores[usize::from(seat.session.core)]
    }

    fn seat_of(&self, client: usize) -> Option<Seat> {
        self.sessions.iter().find(|(_, of)| **of == client).map(|(seat, _)| *seat)
    }

    /// A node has died: so have its connections, and what was on its way to it or from it.
    pub(super) fn disconnect(&mut self, node: usize) {
        let elsewhere: BTreeSet<usize> = self
            .sessions
            .iter()
            .filter(|(s, _)| s.node != node)
            .map(|(_, client)| *client)
            .collect();
        for at in (0..self.clients.len()).filter(|at| !elsewhere.contains(at)) {
            self.clients[at].on_disconnect(self.now_ns);
        }
        self.sessions.retain(|seat, _| seat.node != node);
        self.network.retain(|_, delivery| delivery.node() != node);
        self.link_ns.retain(|link, _| link.node() != node);
    }

    /// The node hears when a client has hung up.
    fn drop_session_of(&mut self, at: usize) {
        if !self.clients[at].hung_up() {
            return;
        }
        if let Some(seat) = self.seat_of(at) {
            self.sessions.remove(&seat);
            self.core(seat).on_disconnect(seat.session);
        }
    }

    fn post(&mut self, at: usize) {
        let Some(seat) = self.seat_of(at) else { return };
        while let Some(bytes) = self.clients[at].poll_message() {
            self.fingerprint.bytes(&bytes);
            self.transmit(Link::ToNode(seat), Delivery::Request { seat, bytes });
        }
        while let Some(copy) = self.clients[at].poll_copy() {
            self.clients[self.copier].take_copy(copy);
        }
        if self.faults_on && self.clients[at].take_peril() {
            let soon_ns = self.now_ns + self.random.below(PERIL_NS);
            let machine = &mut self.machines[seat.node];
            machine.next_crash_ns = machine.next_crash_ns.min(soon_ns);
        }
    }
}

/// A message's header, head and payload.
pub(crate) fn parts(
    bytes: &[u8],
    limits: FrameLimits,
) -> Result<(FrameHeader, &[u8], &[u8]), String> {
    let (header, rest) =
        bytes.split_first_chunk::<FRAME_HEADER_BYTES>().ok_or("a message is short")?;
    let header = FrameHeader::parse(header, limits).map_err(|e| e.to_string())?;
    let (head, payload) = rest.split_at(header.head_bytes as usize);
    Ok((header, head, payload))
}
