//! How a process that is no node yet becomes one.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use catena_format::{JoinToken, PartitionUid};
use catena_node::NodeIdentity;
use catena_replication::control::NodeProfile;
use catena_wire::{
    Class, ErrorCode,
    limits::PEER_HEADER_BYTES,
    peer::{Join, PeerHeader, PeerMessage, PeerPreface, PeerThread},
};

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

/// Asks the node at an address for a number.
///
/// # Errors
/// Why there is none: the token allows nothing, or nobody answered in half a minute.
pub(super) fn join(
    address: &str,
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
    let message = PeerMessage::Join(join);
    let mut bytes = PeerPreface { to: PeerThread::Core(0) }.encode().to_vec();
    message.encode::<&[u8]>(PartitionUid::default(), &[], &mut bytes)?;
    let began = Instant::now();
    loop {
        match ask(address, &bytes) {
            Ok(node) => return Ok(node),
            Err(Failure::Lasting(error)) => return Err(error),
            Err(Failure::Passing(error)) if began.elapsed() > LONGEST => return Err(error),
            Err(Failure::Passing(_)) => thread::sleep(AGAIN_AFTER),
        }
    }
}

fn ask(address: &str, request: &[u8]) -> Result<NodeIdentity, Failure> {
    let answer = exchange(address, request);
    let answer = answer.with_context(|| format!("no node of the cluster answers at {address}"));
    let (header, head) = answer.map_err(Failure::Passing)?;
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

fn exchange(address: &str, request: &[u8]) -> anyhow::Result<(PeerHeader, Vec<u8>)> {
    let address = address.to_socket_addrs()?.next().context("the name has no address")?;
    let mut stream = TcpStream::connect_timeout(&address, ATTEMPT)?;
    stream.set_read_timeout(Some(ATTEMPT))?;
    stream.set_write_timeout(Some(ATTEMPT))?;
    stream.write_all(request)?;
    let mut header = [0; PEER_HEADER_BYTES];
    stream.read_exact(&mut header)?;
    let header = PeerHeader::parse(&header)?;
    let mut head = vec![0; header.head_bytes as usize];
    stream.read_exact(&mut head)?;
    Ok((header, head))
}
