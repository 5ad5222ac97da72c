//! What needs two rooms: the simulator, and the cluster and crash harnesses. Nothing here is part
//! of the product.
#![forbid(unsafe_code)]

pub mod chain;
pub mod chains;
pub mod corrupt;
pub mod crash;
pub mod elsewhere;
pub mod fuzz;
pub mod live;
pub mod load;
pub mod nemesis;
pub mod planted;
pub mod runs;
pub mod sim;
pub mod skip;
pub mod worlds;
