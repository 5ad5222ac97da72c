//! The first request of a connection and its response.

use crate::{
    error::ErrorCode,
    field::wire_struct,
    frame::{Api, VERSION},
};

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
    part CoreAddress {
        /// The core.
        core: u16,
        /// Host and port; empty: where this connection went.
        address: String,
    }
}

wire_struct! {
    /// Who the client is and what it speaks.
    message HandshakeRequest {
        /// The client's name.
        client: String,
        /// Its version.
        client_version: String,
        /// What it speaks.
        apis: Vec<ApiRange>,
        /// Features, as bits; none is defined yet.
        features: u64,
        /// How it authenticates; empty: not at all.
        mechanism: String,
        /// The mechanism's first message.
        authentication: Vec<u8>,
    }
}

wire_struct! {
    /// Who the server is, what it speaks, and its limits.
    message HandshakeResponse {
        /// Why the handshake failed.
        error: ErrorCode,
        /// A sentence for a person.
        message: String,
        /// The server's version.
        server_version: String,
        /// What it speaks.
        apis: Vec<ApiRange>,
        /// Features, as bits; none is defined yet.
        features: u64,
        /// The cluster.
        cluster: u128,
        /// The node.
        node: u64,
        /// Its incarnation.
        incarnation: u64,
        /// The longest payload taken, in bytes.
        payload_bytes_max: u32,
        /// The most bytes of requests without an answer, per connection.
        in_flight_bytes_max: u32,
        /// The most requests without an answer, per connection.
        in_flight_max: u32,
        /// The most unacknowledged batches of a producer in a partition.
        dedup_window: u32,
        /// The core that serves this connection.
        core: u16,
        /// Where each core listens.
        cores: Vec<CoreAddress>,
    }
}

impl ApiRange {
    /// What this build speaks.
    #[must_use]
    pub fn spoken() -> Vec<Self> {
        let range = |api| Self { api: api as u8, min: VERSION, max: VERSION };
        Api::ALL.into_iter().map(range).collect()
    }
}
