//! catena-blocking
#![forbid(unsafe_code)]
