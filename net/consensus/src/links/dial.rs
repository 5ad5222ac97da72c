//! A connection that this node opens when there is something to ask.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};

use super::{
    Identity, RequestError,
    frame::{self, FrameError, HANDSHAKE_BYTES_MAX, HandshakeRefusal, Hello, Kind, Welcome},
    stream::{self, Reader, Writer},
};
use crate::{options::IDLE_CLOSE, tls::Tls};

/// Requests of one connection without an answer, at most.
const UNANSWERED_MAX: usize = 256;
/// After a connection could not be had, the next is tried after this; twice as late each time.
const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Why a request did not leave.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum NotSent {
    /// Too many requests wait.
    #[error("too many requests wait")]
    Busy,
    /// Nobody answers there, or did a moment ago.
    #[error("no connection: {0}")]
    Connect(#[from] FrameError),
    /// Somebody answers who does not want to hear it, or who should not.
    #[error("no connection: {0}")]
    Refused(#[from] HandshakeRefusal),
}

type Answer = oneshot::Sender<Result<Vec<u8>, RequestError>>;

/// A request.
pub(super) struct Asked {
    pub(super) kind: Kind,
    pub(super) body: Vec<u8>,
    pub(super) answer: Answer,
}

impl Asked {
    fn fail(self, why: impl Into<RequestError>) {
        // Whoever asked may have gone.
        let _ = self.answer.send(Err(why.into()));
    }
}

/// Requests that wait for their answers.
struct Waiting {
    answers: BTreeMap<u64, Answer>,
    /// When the other side was last heard, or had nothing to answer.
    heard: Instant,
}

type Unanswered = Arc<Mutex<Waiting>>;

fn lock(unanswered: &Unanswered) -> std::sync::MutexGuard<'_, Waiting> {
    unanswered.lock().unwrap_or_else(|e| e.into_inner())
}

/// What a node is asked, over one connection after another.
pub(super) struct Line {
    identity: Identity,
    node: u64,
    address: String,
    tls: Option<Arc<Tls>>,
    asked: mpsc::Receiver<Asked>,
    next_request: u64,
}

impl Line {
    pub(super) fn new(
        identity: Identity,
        (node, address, tls): (u64, String, Option<Arc<Tls>>),
        asked: mpsc::Receiver<Asked>,
    ) -> Self {
        Self { identity, node, address, tls, asked, next_request: 1 }
    }

    /// Until nobody can ask any more.
    pub(super) async fn run(mut self) {
        let mut backoff = BACKOFF_FIRST;
        let mut refused = None;
        while let Some(first) = self.asked.recv().await {
            if first.answer.is_closed() {
                continue;
            }
            match self.connect().await {
                Ok(ways) => {
                    (backoff, refused) = (BACKOFF_FIRST, None);
                    self.converse(ways, first).await;
                }
                Err(why) => {
                    match &why {
                        NotSent::Connect(FrameError::Tls(_)) if refused.as_ref() != Some(&why) => {
                            tracing::warn!("to node {} at {}: {why}", self.node, self.address);
                            refused = Some(why.clone());
                        }
                        _ => tracing::debug!(node = self.node, %why, "no connection"),
                    }
                    first.fail(why.clone());
                    self.refuse_for(backoff, &why).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    async fn refuse_for(&mut self, backoff: Duration, why: &NotSent) {
        let end = Instant::now() + backoff;
        while let Ok(Some(asked)) = timeout_at(end, self.asked.recv()).await {
            asked.fail(why.clone());
        }
    }

    async fn connect(&self) -> Result<(Reader, Writer), NotSent> {
        let connecting = async {
            let mut stream = TcpStream::connect(&self.address).await.map_err(FrameError::from)?;
            stream.set_nodelay(true).map_err(FrameError::from)?;
            stream.write_all(&self.identity.preface).await.map_err(FrameError::from)?;
            let mut ways = stream::dialled(stream, &self.address, self.tls.as_ref()).await?;
            self.shake_hands(&mut ways).await?;
            Ok(ways)
        };
        let connected = timeout(self.identity.connect_within, connecting).await;
        connected.unwrap_or_else(|elapsed| Err(FrameError::from(elapsed).into()))
    }

    async fn shake_hands(&self, (reader, writer): &mut (Reader, Writer)) -> Result<(), NotSent> {
        let Identity { cluster, node: from, incarnation, .. } = self.identity;
        let hello = frame::body(&Hello { cluster, from, incarnation, to: self.node });
        let said = frame::write(writer, &frame::encode(Kind::Hello, 0, &hello)).await;
        // Who has ended the connection may have said why.
        let answer = frame::read_first(reader, HANDSHAKE_BYTES_MAX).await?;
        said.map_err(FrameError::from)?;
        if answer.kind != Kind::Welcome {
            return Err(FrameError::Kind(answer.kind as u8).into());
        }
        let welcome = frame::parse::<Result<Welcome, HandshakeRefusal>>(&answer.body)??;
        if welcome.node == self.node {
            Ok(())
        } else {
            Err(HandshakeRefusal::Node(welcome.node).into())
        }
    }

    /// Asks over one connection until it ends, or has been idle for long.
    async fn converse(&mut self, (reader, mut writer): (Reader, Writer), first: Asked) {
        let waiting = Waiting { answers: BTreeMap::new(), heard: Instant::now() };
        let unanswered = Arc::new(Mutex::new(waiting));
        let mut listener = self.listen(reader, unanswered.clone());
        let mut next = Some(first);
        while let Some(asked) = next.take() {
            if !self.send(&mut writer, asked, &unanswered).await {
                break;
            }
            loop {
                tokio::select! {
                    asked = self.asked.recv() => next = asked,
                    _ = &mut listener => {}
                    () = tokio::time::sleep(IDLE_CLOSE) => {
                        let waiting = lock(&unanswered);
                        if !waiting.answers.is_empty() && !self.is_silent(&waiting) {
                            continue;
                        }
                    }
                }
                break;
            }
        }
        listener.abort();
        for answer in std::mem::take(&mut lock(&unanswered).answers).into_values() {
            let _ = answer.send(Err(RequestError::Lost));
        }
    }

    /// Nothing was heard for long, though there is something to answer: the other side is gone, or
    /// the way to it.
    fn is_silent(&self, waiting: &Waiting) -> bool {
        !waiting.answers.is_empty() && waiting.heard.elapsed() > self.identity.stall_max
    }

    /// Sends a request; whether the connection can be used further.
    async fn send(&mut self, writer: &mut Writer, asked: Asked, unanswered: &Unanswered) -> bool {
        if asked.answer.is_closed() {
            return true;
        }
        let request = self.next_request;
        self.next_request += 1;
        let bytes = frame::encode(asked.kind, request, &asked.body);
        {
            let mut waiting = lock(unanswered);
            if waiting.answers.is_empty() {
                waiting.heard = Instant::now();
            }
            if self.is_silent(&waiting) {
                drop(waiting);
                asked.fail(NotSent::Connect(FrameError::Io("the other side is silent".to_owned())));
                return false;
            }
            if waiting.answers.len() >= UNANSWERED_MAX {
                drop(waiting);
                asked.fail(NotSent::Busy);
                return true;
            }
            waiting.answers.insert(request, asked.answer);
        }
        let written = timeout(self.identity.stall_max, frame::write(writer, &bytes)).await;
        matches!(written, Ok(Ok(())))
    }

    /// Hands answers to whoever waits for them, until there will be none.
    fn listen(&self, mut reader: Reader, unanswered: Unanswered) -> JoinHandle<()> {
        let (bytes_max, node) = (self.identity.frame_bytes_max, self.node);
        tokio::spawn(async move {
            loop {
                match frame::read(&mut reader, bytes_max).await {
                    Ok(frame) if frame.kind == Kind::Answer => {
                        let mut waiting = lock(&unanswered);
                        waiting.heard = Instant::now();
                        if let Some(answer) = waiting.answers.remove(&frame.request) {
                            let _ = answer.send(Ok(frame.body));
                        }
                    }
                    Ok(frame) => {
                        tracing::warn!(node, kind = ?frame.kind, "this is no answer");
                        return;
                    }
                    Err(why) => {
                        tracing::debug!(node, %why, "the connection ended");
                        return;
                    }
                }
            }
        })
    }
}
