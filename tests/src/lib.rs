//! catena-tests
