//! catena-uring
