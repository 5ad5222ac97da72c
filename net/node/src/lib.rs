//! Floor 3: what a node decides. Sessions, budgets, long polls, topics coming and going; pure, so
//! that the simulator runs a whole node. The server's shell brings bytes, time and completions.
#![forbid(unsafe_code)]

mod answer;
mod catch_up;
mod cores;
mod data;
mod drain;
mod follow;
mod held;
mod limits;
mod links;
mod node;
mod operations;
mod push;
mod redirect;
mod scrub;
mod spoken;
mod stall;
mod topics;
mod totals;
mod window;

pub use cores::{Parcel, Post};
pub use follow::{ClusterMember, Ordered};
pub use limits::Limits;
pub use links::{Dial, LinkId, LinkSend};
pub use node::{
    Directory, Node, NodeIdentity, NodeStats, Notice, Send, SessionId, Status, TopicDefaults,
};
pub use operations::Quorum;
pub use totals::Totals;
pub use window::Pushed;
