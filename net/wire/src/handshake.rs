//! The first request of a connection, its response, and the refusal of anything.

use std::borrow::Cow;

use catena_format::{ClusterId, Incarnation, NodeId};

use crate::{api::Api, codec::wire_struct, error::ErrorCode, frame::VERSION};

wire_struct! {
    /// Versions of an API that a side knows.
    part ApiRange {
        /// The API's number.
        api: u8,
        /// The least version.
        min: u8,
        /// The greatest version.
        max: u8,
    }
}

wire_struct! {
    /// Where a core listens.
    part CoreAddress<'a> {
        /// The core.
        core: u16,
        /// Host and port; empty: where this connection went.
        address: Cow<'a, str>,
    }
}

wire_struct! {
    /// What a server grants a connection.
    part ConnectionLimits {
        /// The longest head taken, in bytes.
        head_bytes_max: u32,
        /// The longest payload taken, in bytes: no topic takes a larger batch.
        payload_bytes_max: u32,
        /// The most bytes of requests without an answer.
        in_flight_bytes_max: u32,
        /// The most requests without an answer.
        in_flight_max: u32,
        /// The most unacknowledged batches of a producer in a partition.
        dedup_window: u32,
        /// The most credit that a subscription can hold, in payload bytes.
        credit_bytes_max: u32,
    }
}

wire_struct! {
    /// Who the client is and what it speaks.
    message HandshakeRequest<'a> {
        /// The client's name.
        client: Cow<'a, str>,
        /// Its version.
        client_version: Cow<'a, str>,
        /// What it speaks.
        apis: Vec<ApiRange>,
        /// Features, as bits; none is defined yet, and unknown ones are ignored.
        features: u64,
        /// How it authenticates; empty: not at all.
        mechanism: Cow<'a, str>,
        /// The mechanism's message.
        authentication: Cow<'a, [u8]>,
    }
}

wire_struct! {
    /// Who the server is, what it speaks, and its limits.
    message HandshakeResponse<'a> {
        /// Why the handshake failed.
        error: ErrorCode,
        /// The server's version.
        server_version: Cow<'a, str>,
        /// What it speaks.
        apis: Vec<ApiRange>,
        /// Features, as bits; none is defined yet, and unknown ones are ignored.
        features: u64,
        /// What this connection may do.
        limits: ConnectionLimits,
        /// The cluster.
        cluster: ClusterId,
        /// The node.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
        /// The core that serves this connection.
        core: u16,
        /// Where each core listens.
        cores: Vec<CoreAddress<'a>>,
        /// How a client may authenticate, separated by blanks; empty: it need not.
        mechanisms: Cow<'a, str>,
        /// The mechanism's answer.
        authentication: Cow<'a, [u8]>,
        ; tail
        1 =>
            /// A sentence for a person.
            message: Cow<'a, str>,
    }
}

wire_struct! {
    /// The answer to a request of any API and version that could not be taken, under version 0.
    /// This layout never changes.
    message Refusal<'a> {
        /// Why.
        error: ErrorCode,
        ; tail
        1 =>
            /// A sentence for a person.
            message: Cow<'a, str>,
    }
}

impl ApiRange {
    /// The versions that this build speaks of each of `apis`.
    #[must_use]
    pub fn spoken(apis: &[Api]) -> Vec<Self> {
        let range = |api: &Api| Self { api: *api as u8, min: VERSION, max: VERSION };
        apis.iter().map(range).collect()
    }

    /// The greatest version of `api` that a peer and this build both speak.
    #[must_use]
    pub fn common(peer: &[Self], api: Api) -> Option<u8> {
        let range = peer.iter().find(|range| range.api == api as u8)?;
        (range.min..=range.max).contains(&VERSION).then_some(VERSION)
    }
}
