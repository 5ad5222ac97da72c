//! catena-node
