//! The catalog: a pure, versioned state machine of topics, partitions and producer-id blocks.
//!
//! Alone, a node orders its own entries in a local log ([`Orderer`]); in a cluster consensus will
//! order them. What an entry does is the same.

mod catalog;
mod config;
mod orderer;
mod plan;

pub use catalog::{
    Applied, Catalog, CatalogError, ChainChange, ClusterNode, Entry, NODES_MAX, NodeProfile,
    PARTITIONS_MAX, Partition, RAISED_PRODUCERS_MAX, REPLICAS_MAX, TOKENS_MAX, TOPICS_MAX, Topic,
    Touched, decode, encode, same_process,
};
pub use config::{BATCH_BYTES_KEY, ConfigError, TOPIC_SETTINGS, TopicConfig, TopicSetting};
pub use orderer::{Orderer, OrdererEvent, ProposalId};
pub use plan::{Due, Resting, due, place, stuck};
