//! catena-client
#![forbid(unsafe_code)]
