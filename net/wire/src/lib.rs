//! catena-wire
