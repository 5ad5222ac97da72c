//! catena-blocking
