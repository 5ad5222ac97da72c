//! How a process that is no node yet becomes one.

use std::{
    fs,
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use catena_consensus::{Tls, name_at, speaks_tls, why_not};
use catena_format::{JoinToken, PartitionUid};
use catena_node::NodeIdentity;
use catena_replication::control::NodeProfile;
use catena_wire::{
    Class, ErrorCode,
    limits::PEER_HEADER_BYTES,
    peer::{Join, PeerHeader, PeerMessage, PeerPreface, PeerThread},
};
use rustls::{ClientConnection, StreamOwned};

use crate::cli;

/// How long it is tried.
const LONGEST: Duration = Duration::from_secs(30);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(5);
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Why an attempt came to nothing.
enum Failure {
    /// It may go better the next time.
    Passing(anyhow::Error),
    /// It will not.
    Lasting(anyhow::Error),
}

/// Asks the node at an address for a number, under TLS if nodes speak so.
///
/// # Errors
/// Why there is none: the token allows nothing, nobody answered in half a minute, or the two sides
/// cannot speak TLS with each other.
pub(super) fn join(
    address: &str,
    tls: Option<&Tls>,
    token_file: &Path,
    life: u64,
    profile: &NodeProfile,
) -> anyhow::Result<NodeIdentity> {
    let token = fs::read_to_string(token_file)
        .with_context(|| format!("cannot read the token in {}", token_file.display()))?;
    let token = cli::token(token.trim());
    let token = token.map_err(|why| anyhow!("{} holds none: {why}", token_file.display()))?;
    let join = Join {
        token: JoinToken::new(token),
        life,
        client: profile.client.as_str().into(),
        peer: profile.peer.as_str().into(),
        rack: profile.rack.as_str().into(),
        cores: profile.cores,
        witness: profile.witness,
    };
    if tls.is_some() {
        name_at(address)?;
    }
    let message = PeerMessage::Join(join);
    let mut bytes = Vec::new();
    message.encode::<&[u8]>(PartitionUid::default(), &[], &mut bytes)?;
    let began = Instant::now();
    loop {
        match ask(address, tls, &bytes) {
            Ok(node) => return Ok(node),
            Err(Failure::Lasting(error)) => return Err(error),
            Err(Failure::Passing(error)) if began.elapsed() > LONGEST => return Err(error),
            Err(Failure::Passing(_)) => thread::sleep(AGAIN_AFTER),
        }
    }
}

fn ask(address: &str, tls: Option<&Tls>, request: &[u8]) -> Result<NodeIdentity, Failure> {
    let answer = exchange(address, tls, request).map_err(|error| {
        let none = format!("no node of the cluster answers at {address}");
        match error.downcast_ref().and_then(why_not) {
            Some(why) => Failure::Lasting(anyhow!("no TLS with the node at {address}: {why}")),
            None if error.is::<Disagreement>() => Failure::Lasting(error.context(none)),
            None => Failure::Passing(error.context(none)),
        }
    });
    let (header, head) = answer?;
    let message = header.decode(&head, &[]);
    let message = message.context("the answer cannot be read").map_err(Failure::Lasting)?;
    let PeerMessage::Admitted(admitted) = message else {
        let error = anyhow!("{address} answers something else");
        return Err(Failure::Lasting(error));
    };
    if admitted.error == ErrorCode::None {
        return Ok(NodeIdentity { cluster: admitted.cluster, node: admitted.node });
    }
    let error = anyhow!("the cluster at {address} does not take it: {}", admitted.message);
    // Asked again in the same life it gets the same number.
    match admitted.error.class() {
        Class::Definite => Err(Failure::Lasting(error)),
        Class::Retriable | Class::Indeterminate => Err(Failure::Passing(error)),
    }
}

/// One side speaks TLS, and the other plaintext.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Disagreement(&'static str);

fn exchange(
    name: &str,
    tls: Option<&Tls>,
    request: &[u8],
) -> anyhow::Result<(PeerHeader, Vec<u8>)> {
    let address = name.to_socket_addrs()?.next().context("the name has no address")?;
    let mut stream = TcpStream::connect_timeout(&address, ATTEMPT)?;
    stream.set_read_timeout(Some(ATTEMPT))?;
    stream.set_write_timeout(Some(ATTEMPT))?;
    stream.write_all(&PeerPreface { to: PeerThread::Core(0) }.encode())?;
    match tls {
        None => converse(&mut stream, request),
        Some(tls) => {
            let connection = ClientConnection::new(tls.current().dials, name_at(name)?)?;
            converse(&mut StreamOwned::new(connection, stream), request)
        }
    }
}

fn converse(
    stream: &mut (impl Read + Write),
    request: &[u8],
) -> anyhow::Result<(PeerHeader, Vec<u8>)> {
    if let Err(error) = stream.write_all(request).and_then(|()| stream.flush())
        && error.kind() == io::ErrorKind::InvalidData
    {
        // Whoever has merely ended the connection may have said why.
        return Err(error.into());
    }
    let mut header = [0; PEER_HEADER_BYTES];
    let (begin, rest) = header.split_at_mut(2);
    stream.read_exact(begin)?;
    if let Some(why) = speaks_tls(begin) {
        return Err(Disagreement(why).into());
    }
    stream.read_exact(rest)?;
    let header = PeerHeader::parse(&header)?;
    let mut head = vec![0; header.head_bytes as usize];
    stream.read_exact(&mut head)?;
    Ok((header, head))
}
