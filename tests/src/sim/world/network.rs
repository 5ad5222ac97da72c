//! What is on its way between clients and cores, and between cores.

use catena_node::{Parcel, Pushed, SessionId, Status};
use catena_wire::{FRAME_HEADER_BYTES, FrameHeader, FrameLimits};

use super::World;

/// A crash that a client's request provokes comes within so many nanoseconds.
const PERIL_NS: u64 = 2_000_000;

pub(super) enum Delivery {
    Request { session: SessionId, bytes: Vec<u8> },
    Response { session: SessionId, bytes: Vec<u8>, pushed: Option<Pushed> },
    Parcel { from: u16, to: u16, parcel: Parcel },
}

/// A way on which messages keep their order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Link {
    ToNode(SessionId),
    ToClient(SessionId),
    Cores(u16, u16),
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
                Delivery::Request { session, bytes } => {
                    let (header, head, payload) = parts(&bytes, FrameLimits::REQUEST)?;
                    let now = self.now();
                    let core = &mut self.cores[usize::from(session.core)];
                    core.on_message(session, &header, head, payload, now);
                }
                Delivery::Parcel { from, to, parcel } => {
                    let now = self.now();
                    self.cores[usize::from(to)].on_parcel(from, parcel, now);
                }
                Delivery::Response { session, bytes, pushed } => {
                    let Some(at) = self.sessions.get(&session).copied() else { continue };
                    let paused_ns = self.clients[at].paused_ns();
                    if paused_ns > self.now_ns {
                        let response = Delivery::Response { session, bytes, pushed };
                        self.hold_back(paused_ns, number, session, response);
                        continue;
                    }
                    if let Some(pushed) = pushed {
                        let now = self.now();
                        self.cores[usize::from(session.core)].on_pushed(pushed, now);
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
    fn hold_back(&mut self, until_ns: u64, number: u64, session: SessionId, response: Delivery) {
        let last = self.link_ns.entry(Link::ToClient(session)).or_insert(0);
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
            if ready && self.cores[0].status() == Status::Serving {
                self.connect(at);
            }
            self.post(at);
        }
    }

    fn connect(&mut self, at: usize) {
        let core = self.random.below(self.cores.len() as u64) as u16;
        let session = SessionId { core, number: self.next_session };
        self.next_session += 1;
        self.sessions.insert(session, at);
        self.cores[usize::from(core)].on_connect(session);
        self.clients[at].on_connect(self.now_ns);
    }

    /// The node hears when a client has hung up.
    fn drop_session_of(&mut self, at: usize) {
        if !self.clients[at].hung_up() {
            return;
        }
        let of_client = self.sessions.iter().find(|(_, client)| **client == at);
        if let Some(session) = of_client.map(|(session, _)| *session) {
            self.sessions.remove(&session);
            self.cores[usize::from(session.core)].on_disconnect(session);
        }
    }

    fn post(&mut self, at: usize) {
        let of_client = self.sessions.iter().find(|(_, client)| **client == at);
        let Some(session) = of_client.map(|(session, _)| *session) else { return };
        while let Some(bytes) = self.clients[at].poll_message() {
            self.fingerprint.bytes(&bytes);
            self.transmit(Link::ToNode(session), Delivery::Request { session, bytes });
        }
        while let Some(copy) = self.clients[at].poll_copy() {
            self.clients[self.copier].take_copy(copy);
        }
        if self.faults_on && self.clients[at].take_peril() {
            let soon_ns = self.now_ns + self.random.below(PERIL_NS);
            self.next_crash_ns = self.next_crash_ns.min(soon_ns);
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
