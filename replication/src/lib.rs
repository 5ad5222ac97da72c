//! catena-replication
