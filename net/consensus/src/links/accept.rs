//! A connection that another node has opened.

use std::{future::Future, sync::Arc};

use tokio::{
    net::TcpStream,
    sync::{Semaphore, mpsc},
    time::timeout,
};

use super::{
    Identity,
    frame::{self, Frame, FrameError, HANDSHAKE_BYTES_MAX, HandshakeRefusal, Hello, Kind, Welcome},
    stream::{self, Reader, Writer},
};
use crate::{
    options::{IDLE_MAX, ORDERS_PER_NODE, REQUESTS_PER_CONNECTION},
    tls::{NO_TLS_HERE, Tls},
};

/// Answers that wait to be sent, at most; behind it no further request is read.
const ANSWERS_WAITING: usize = 16;

/// Who answers requests.
pub(crate) trait Desk: Clone + Send + 'static {
    /// The answer where too many proposals and reads of that node are under way.
    fn busy(&self) -> Vec<u8>;

    /// The answer's body; `None`: the request means nothing, and the connection is closed.
    fn answer(&self, frame: Frame) -> impl Future<Output = Option<Vec<u8>>> + Send;
}

/// Why a connection came to nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the handshake was refused: {0}")]
    Refused(#[from] HandshakeRefusal),
}

/// Serves a connection until it ends.
pub(crate) async fn serve(
    identity: Identity,
    tls: Option<Arc<Tls>>,
    stream: TcpStream,
    desk: impl Desk,
) -> Result<(), ServeError> {
    stream.set_nodelay(true).map_err(FrameError::from)?;
    let greeting = async {
        let mut ways = stream::accepted(stream, tls.as_ref()).await?;
        let greeted = shake_hands(&identity, &mut ways).await;
        if tls.is_none() && matches!(greeted, Err(ServeError::Frame(FrameError::Tls(_)))) {
            let _ = frame::write(&mut ways.1, &NO_TLS_HERE).await;
        }
        greeted.map(|()| ways)
    };
    let greeted = timeout(identity.connect_within, greeting).await;
    let (mut reader, writer) = greeted.map_err(FrameError::from)??;
    let (answers, waiting) = mpsc::channel(ANSWERS_WAITING);
    let mut sender = tokio::spawn(send(identity, writer, waiting));
    let orders = Arc::new(Semaphore::new(ORDERS_PER_NODE));
    let requests = Arc::new(Semaphore::new(REQUESTS_PER_CONNECTION));
    loop {
        let read = timeout(IDLE_MAX, frame::read(&mut reader, identity.frame_bytes_max));
        let frame = tokio::select! {
            frame = read => frame.map_err(FrameError::from)??,
            _ = &mut sender => return Ok(()),
        };
        let permit = match frame.kind {
            Kind::Propose | Kind::ReadIndex => orders.clone().try_acquire_owned().ok(),
            _ => requests.clone().acquire_owned().await.ok(),
        };
        let Some(permit) = permit else {
            let busy = frame::encode(Kind::Answer, frame.request, &desk.busy());
            // The connection may have ended meanwhile.
            let _ = answers.send(Some(busy)).await;
            continue;
        };
        let (desk, answers) = (desk.clone(), answers.clone());
        tokio::spawn(async move {
            let request = frame.request;
            let answer = desk.answer(frame).await;
            let answer = answer.map(|body| frame::encode(Kind::Answer, request, &body));
            // The connection may have ended meanwhile.
            let _ = answers.send(answer).await;
            drop(permit);
        });
    }
}

/// Sends answers until there will be none, or one is wanting.
async fn send(
    identity: Identity,
    mut writer: Writer,
    mut answers: mpsc::Receiver<Option<Vec<u8>>>,
) {
    while let Some(Some(bytes)) = answers.recv().await {
        let written = timeout(identity.stall_max, frame::write(&mut writer, &bytes)).await;
        if !matches!(written, Ok(Ok(()))) {
            return;
        }
    }
}

async fn shake_hands(
    identity: &Identity,
    (reader, writer): &mut (Reader, Writer),
) -> Result<(), ServeError> {
    let heard = match frame::read_first(reader, HANDSHAKE_BYTES_MAX).await {
        Ok(frame) if frame.kind == Kind::Hello => weigh(identity, &frame.body)?,
        Ok(frame) => return Err(FrameError::Kind(frame.kind as u8).into()),
        Err(FrameError::Version(_)) => Err(HandshakeRefusal::Version(frame::VERSION)),
        Err(error) => return Err(error.into()),
    };
    let bytes = frame::encode(Kind::Welcome, 0, &frame::body(&heard));
    frame::write(writer, &bytes).await.map_err(FrameError::from)?;
    heard?;
    Ok(())
}

fn weigh(
    identity: &Identity,
    hello: &[u8],
) -> Result<Result<Welcome, HandshakeRefusal>, FrameError> {
    let hello: Hello = frame::parse(hello)?;
    Ok(if hello.cluster != identity.cluster {
        Err(HandshakeRefusal::Cluster(identity.cluster))
    } else if hello.to != identity.node || hello.from == identity.node {
        Err(HandshakeRefusal::Node(identity.node))
    } else {
        tracing::debug!(node = hello.from, incarnation = hello.incarnation, "a node is heard");
        Ok(Welcome { node: identity.node, incarnation: identity.incarnation })
    })
}
