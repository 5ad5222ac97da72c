//! What needs two rooms: the simulator, and the cluster and crash harnesses. Nothing here is part
//! of the product.
#![forbid(unsafe_code)]

pub mod fuzz;
pub mod runs;
pub mod sim;
pub mod skip;
pub mod worlds;
