//! openraft's requests over our connections.

use std::{sync::Arc, time::Duration};

use openraft::{
    BasicNode, RaftNetwork, RaftNetworkFactory,
    error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable},
    network::{Backoff, RPCOption},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest,
        InstallSnapshotResponse, VoteRequest, VoteResponse,
    },
};
use serde::{Serialize, de::DeserializeOwned};

use super::{Kind, Links, RequestError, body, parse};
use crate::{desk::Unable, types::Types};

/// openraft waits for so long before it asks a node again that could not be reached.
const BACKOFF: Duration = Duration::from_millis(100);

type Failure<E = openraft::error::Infallible> = RPCError<u64, BasicNode, RaftError<u64, E>>;

/// The way to one node.
pub(crate) struct Way {
    links: Arc<Links>,
    node: u64,
    address: String,
}

/// The ways to all.
pub(crate) struct Network(pub(crate) Arc<Links>);

impl RaftNetworkFactory<Types> for Network {
    type Network = Way;

    async fn new_client(&mut self, node: u64, known: &BasicNode) -> Way {
        Way { links: self.0.clone(), node, address: known.addr.clone() }
    }
}

impl Way {
    async fn ask<T: DeserializeOwned, E: std::error::Error>(
        &self,
        kind: Kind,
        request: &impl Serialize,
        option: &RPCOption,
    ) -> Result<Result<T, Unable>, Failure<E>> {
        let within = option.hard_ttl();
        let asked = self.links.request(self.node, &self.address, kind, body(request), within);
        let answer = asked.await.map_err(|error| match error {
            RequestError::NotSent(_) => RPCError::Unreachable(Unreachable::new(&error)),
            RequestError::Lost => RPCError::Network(NetworkError::new(&error)),
        })?;
        parse(&answer).map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))
    }
}

/// The other side does not take part at the moment.
fn unable<E: std::error::Error>(unable: Unable) -> Failure<E> {
    RPCError::Unreachable(Unreachable::new(&unable))
}

impl RaftNetwork<Types> for Way {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failure> {
        let answer = self.ask(Kind::Append, &request, &option).await?;
        answer.map_err(unable)
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<Types>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Failure<InstallSnapshotError>> {
        let answer = self.ask(Kind::Snapshot, &request, &option).await?;
        answer.map_err(|error| match error {
            Unable::Mismatch(mismatch) => {
                let mismatch = InstallSnapshotError::SnapshotMismatch(mismatch);
                let error = RemoteError::new(self.node, RaftError::APIError(mismatch));
                RPCError::RemoteError(error)
            }
            other => unable(other),
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, Failure> {
        let answer = self.ask(Kind::Vote, &request, &option).await?;
        answer.map_err(unable)
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(BACKOFF))
    }
}
