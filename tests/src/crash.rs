//! The real server on a real file system, and what befalls machines: power cuts, crashes of the
//! operating system and of the process.
//!
//! ```text
//! catena-client: producers, reader ─► books ◄─ check: reads all back after each restart
//!        │
//! catena serve ─► ext4 ─► loop device ─► FUSE ─► Disk: live image, volatile cache, durable image
//!        ▲ SIGKILL  ▲ shutdown                    ▲ cut, lie, slow, errors
//! ```

pub mod books;
pub mod check;
pub mod disk;
pub mod faults;
pub mod fuse;
pub mod load;
pub mod run;
pub mod server;
pub mod space;
pub mod stack;
pub mod tally;
pub mod world;
