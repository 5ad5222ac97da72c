//! What is on its way between clients and nodes, and between the cores of a node.

use std::collections::BTreeSet;

use catena_node::{Dial, Node, Parcel, Pushed, SessionId, Status};
use catena_wire::{FRAME_HEADER_BYTES, FrameHeader, FrameLimits};

use super::{Machine, Purse, World, wires::End};

/// A crash that a client's request provokes comes within so many nanoseconds.
const PERIL_NS: u64 = 2_000_000;

/// A session of a client on a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seat {
    pub(super) node: usize,
    pub(super) session: SessionId,
}

pub(super) enum Delivery {
    Request {
        seat: Seat,
        bytes: Vec<u8>,
    },
    Response {
        seat: Seat,
        bytes: Vec<u8>,
        pushed: Option<Pushed>,
    },
    Parcel {
        node: usize,
        from: u16,
        to: u16,
        parcel: Parcel,
    },
    /// A node's process has dialled another node, maybe in vain.
    Dialled {
        node: usize,
        process: u64,
        core: u16,
        dial: Dial,
        given_up: bool,
    },
    /// A message for the other end of a link.
    Peer {
        from: End,
        bytes: Vec<u8>,
    },
    /// A link was ended from there.
    PeerEnds {
        from: End,
    },
    /// A link is gone, as that end hears.
    PeerGone {
        end: End,
    },
}

impl Delivery {
    /// Whether nobody is left for it when a node's process is gone.
    fn dies_with(&self, process: usize) -> bool {
        match self {
            Self::Request { seat, .. } | Self::Response { seat, .. } => seat.node == process,
            Self::Parcel { node, .. } | Self::Dialled { node, .. } => *node == process,
            Self::PeerGone { end } => end.node == process,
            Self::Peer { .. } | Self::PeerEnds { .. } => false,
        }
    }
}

/// A way on which messages keep their order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Link {
    ToNode(Seat),
    ToClient(Seat),
    Cores { node: usize, from: u16, to: u16 },
    Peer(End),
}

impl Link {
    /// The node at one of its ends.
    fn node(self) -> usize {
        match self {
            Self::ToNode(seat) | Self::ToClient(seat) => seat.node,
            Self::Cores { node, .. } => node,
            Self::Peer(end) => end.node,
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

    /// Until when nobody takes it.
    fn frozen_until_ns(&self, delivery: &Delivery) -> u64 {
        let node = match delivery {
            Delivery::Request { seat, .. } => seat.node,
            Delivery::Parcel { node, .. } | Delivery::Dialled { node, .. } => *node,
            Delivery::PeerGone { end } => end.node,
            Delivery::Peer { from, .. } | Delivery::PeerEnds { from } => {
                match self.wires.other(*from) {
                    Some(other) => other.node,
                    None => return 0,
                }
            }
            Delivery::Response { .. } => return 0,
        };
        self.machines[node].frozen_until_ns
    }

    /// Something happens after a while.
    pub(super) fn later(&mut self, delay_ns: u64, delivery: Delivery) {
        self.deliveries += 1;
        self.network.insert((self.now_ns + delay_ns, self.deliveries), delivery);
    }

    pub(super) fn deliver(&mut self) -> Result<(), String> {
        while let Some(entry) = self.network.first_entry() {
            let (at_ns, number) = *entry.key();
            if at_ns > self.now_ns {
                return Ok(());
            }
            let delivery = entry.remove();
            // What is for a process that stands still waits for it.
            let until_ns = self.frozen_until_ns(&delivery);
            if until_ns > self.now_ns {
                self.network.insert((until_ns, number), delivery);
                continue;
            }
            match delivery {
                Delivery::Peer { from, bytes } => self.heard_over(from, bytes)?,
                Delivery::PeerEnds { from } => self.ended_over(from),
                Delivery::PeerGone { end } => self.gone(end),
                Delivery::Dialled { node, process, core, dial, given_up } => {
                    self.dialled(node, process, core, dial, given_up);
                }
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

    /// Connects a client to a node that serves: to the one that it wants, or to any.
    fn connect(&mut self, client: usize) {
        let serves = |machine: &Machine| machine.status() == Some(Status::Serving);
        let all = self.machines.iter().enumerate();
        let serving: Vec<_> = all.filter(|(_, m)| serves(m)).map(|(at, m)| (at, m.id())).collect();
        let wanted = self.clients[client].wanted();
        let node = match serving.iter().find(|(_, id)| Some(*id) == wanted) {
            Some((node, _)) => *node,
            None if serving.is_empty() => return,
            None if serving.len() == 1 => serving[0].0,
            None => serving[self.random.below(serving.len() as u64) as usize].0,
        };
        let core = self.random.below(self.machines[node].cores.len() as u64) as u16;
        let seat = Seat { node, session: SessionId { core, number: self.next_session } };
        self.next_session += 1;
        self.sessions.insert(seat, client);
        self.core(seat).on_connect(seat.session);
        let id = self.machines[node].id();
        self.clients[client].on_connect(id, self.now_ns);
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
        self.network.retain(|_, delivery| !delivery.dies_with(node));
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
