//! Connections between the nodes: each node opens one to every other that it asks something, and
//! is asked over those that are handed in.

mod accept;
mod dial;
mod frame;
mod network;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use self::dial::{Asked, Line};
pub use self::frame::{FrameError, HandshakeRefusal};
pub(crate) use self::{
    accept::{Desk, ServeError, serve},
    dial::NotSent,
    frame::{Frame, Kind, body, parse},
    network::Network,
};
use crate::{options::ORDERS_PER_NODE, tls::Tls};

/// Requests to one node that wait to be sent, at most.
const REQUESTS_WAITING: usize = 2 * ORDERS_PER_NODE;

/// Who this node is to others, and its limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) cluster: u128,
    pub(crate) node: u64,
    pub(crate) incarnation: u64,
    pub(crate) preface: [u8; 16],
    pub(crate) frame_bytes_max: usize,
    pub(crate) snapshot_bytes_max: usize,
    pub(crate) connect_within: Duration,
    pub(crate) stall_max: Duration,
}

/// Why a request has no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// The other side has not seen a byte of it, and will not.
    #[error("not sent: {0}")]
    NotSent(#[from] NotSent),
    /// It may have been carried out, or be yet.
    #[error("the answer did not come")]
    Lost,
}

/// The connections that this node opens.
pub(crate) struct Links {
    identity: Identity,
    tls: Option<Arc<Tls>>,
    lines: Mutex<BTreeMap<u64, (String, mpsc::Sender<Asked>)>>,
}

impl Links {
    pub(crate) fn new(identity: Identity, tls: Option<Arc<Tls>>) -> Arc<Self> {
        Arc::new(Self { identity, tls, lines: Mutex::default() })
    }

    /// Asks a node, and waits for its answer for so long. Must be called within the runtime.
    pub(crate) async fn request(
        &self,
        node: u64,
        address: &str,
        kind: Kind,
        body: Vec<u8>,
        within: Duration,
    ) -> Result<Vec<u8>, RequestError> {
        let (answer, asked) = oneshot::channel();
        let line = self.line(node, address);
        line.try_send(Asked { kind, body, answer }).map_err(|_| NotSent::Busy)?;
        match tokio::time::timeout(within, asked).await {
            Ok(Ok(answer)) => answer,
            _ => Err(RequestError::Lost),
        }
    }

    /// The line to a node; one to another address ends once nobody asks over it any more.
    fn line(&self, node: u64, address: &str) -> mpsc::Sender<Asked> {
        let mut lines = self.lines.lock().unwrap_or_else(|e| e.into_inner());
        match lines.get(&node) {
            Some((known, line)) if known == address => line.clone(),
            _ => {
                let (line, asked) = mpsc::channel(REQUESTS_WAITING);
                let way = (node, address.to_owned(), self.tls.clone());
                tokio::spawn(Line::new(self.identity, way, asked).run());
                lines.insert(node, (address.to_owned(), line.clone()));
                line
            }
        }
    }

    /// Forgets the lines to nodes that are none any more.
    pub(crate) fn keep(&self, known: impl Fn(u64) -> bool) {
        let mut lines = self.lines.lock().unwrap_or_else(|e| e.into_inner());
        lines.retain(|node, _| known(*node));
    }
}
