//! What a server that a test makes up says of itself.

use catena_format::{ClusterId, Incarnation, NodeId};
use catena_wire::{Api, ApiRange, ConnectionLimits, ErrorCode, HandshakeResponse};

pub(crate) fn greeting(credit_bytes_max: u32) -> HandshakeResponse<'static> {
    HandshakeResponse {
        error: ErrorCode::None,
        server_version: "test".into(),
        apis: ApiRange::spoken(&Api::ALL),
        features: 0,
        limits: ConnectionLimits {
            head_bytes_max: 1 << 20,
            payload_bytes_max: 1 << 20,
            in_flight_bytes_max: 1 << 20,
            in_flight_max: 100,
            dedup_window: 8,
            credit_bytes_max,
        },
        cluster: ClusterId::new(1),
        node: NodeId::new(1),
        incarnation: Incarnation::new(1),
        core: 0,
        cores: Vec::new(),
        mechanisms: "".into(),
        authentication: Vec::new().into(),
        message: "".into(),
    }
}
