//! `catena cluster status`: what is not as it should be.

use std::{
    collections::BTreeSet,
    io::{self, Write},
};

use catena_client::{DescribeClusterResponse, Options, PartitionHealth, format::NodeId};
use serde_json::{Value, json};

use super::{
    members::{self, Members},
    print_json,
};

/// Topics whose members are asked how far they are, at most.
const TOPICS_ASKED_MAX: usize = 16;
/// Prints what is not as it should be; whether that is nothing.
///
/// # Errors
/// When it cannot be printed.
pub(super) fn tell(
    cluster: &DescribeClusterResponse<'_>,
    options: &Options,
    json: bool,
) -> anyhow::Result<bool> {
    let (complaints, warnings) = (complaints(cluster), warnings(cluster));
    let members = members_of(cluster, options);
    let well = complaints.is_empty() && cluster.impaired == 0;
    if json {
        let partition = |health: &PartitionHealth<'_>| {
            let lags: Value = lags(health, &members)
                .into_iter()
                .map(|(node, lag)| json!({ "node": node.get(), "offsets": lag }))
                .collect();
            json!({
                "topic": health.topic,
                "partition": health.partition.get(),
                "replicas": health.replicas,
                "min_replicas": health.min_replicas,
                "chain": numbers(&health.chain),
                "running": numbers(&health.running),
                "joining": numbers(&health.joining),
                "sick": numbers(&health.sick),
                "behind": lags,
            })
        };
        print_json(&json!({
            "healthy": well,
            "leader": Some(cluster.leads.get()).filter(|leader| *leader > 0),
            "nodes": cluster.nodes.len(),
            "partitions": cluster.partitions,
            "impaired": cluster.impaired,
            "complaints": complaints,
            "warnings": warnings,
            "listed": cluster.listed.iter().map(partition).collect::<Value>(),
        }))?;
        return Ok(well);
    }
    let mut out = io::stdout().lock();
    let (nodes, partitions) = (cluster.nodes.len(), cluster.partitions);
    match well {
        true => writeln!(out, "healthy: {nodes} nodes, {partitions} partitions")?,
        false => writeln!(out, "not healthy: {nodes} nodes, {partitions} partitions")?,
    }
    for line in complaints.iter().chain(&warnings) {
        writeln!(out, "  {line}")?;
    }
    for health in &cluster.listed {
        writeln!(out, "  {}", line_of(health, &members))?;
    }
    let unlisted = usize::try_from(cluster.impaired)?.saturating_sub(cluster.listed.len());
    if unlisted > 0 {
        writeln!(out, "  and {unlisted} further partitions")?;
    }
    out.flush()?;
    Ok(well)
}

fn numbers(nodes: &[NodeId]) -> Value {
    nodes.iter().map(|node| node.get()).collect()
}

/// What is wrong with nodes.
fn complaints(cluster: &DescribeClusterResponse<'_>) -> Vec<String> {
    let mut complaints = Vec::new();
    if cluster.leads == NodeId::default() {
        complaints.push("nobody orders the catalog: too few of those that vote run".to_owned());
    }
    for node in &cluster.nodes {
        if !node.up {
            complaints.push(format!("node {} is down", node.node));
        }
        if node.stuck > 0 {
            let (id, stuck) = (node.node, node.stuck);
            complaints.push(format!(
                "node {id} cannot be drained: {stuck} partitions need it, for want of other nodes"
            ));
        }
    }
    complaints
}

/// What holds, and could be better.
fn warnings(cluster: &DescribeClusterResponse<'_>) -> Vec<String> {
    let votes = cluster.nodes.iter().filter(|node| node.votes).count();
    let short = cluster.nodes.len() > 1 && votes < 3;
    let text = format!("failover needs a third vote: {votes} nodes vote; a witness would do");
    if short { vec![text] } else { Vec::new() }
}

/// Asks the members of chains that are not as they should be how far they are.
fn members_of(cluster: &DescribeClusterResponse<'_>, options: &Options) -> Members {
    let topics: BTreeSet<&str> = cluster.listed.iter().map(|health| &*health.topic).collect();
    let topics: Vec<&str> = topics.into_iter().take(TOPICS_ASKED_MAX).collect();
    members::ask(&cluster.nodes, &topics, options)
}

/// How far each member is behind, as far as that is known.
fn lags(health: &PartitionHealth<'_>, members: &Members) -> Vec<(NodeId, u64)> {
    let nodes = health.chain.iter().chain(&health.joining).copied();
    members::lags(members, &health.topic, health.partition, nodes)
}

fn line_of(health: &PartitionHealth<'_>, members: &Members) -> String {
    let list = |nodes: &[NodeId], between: &str| {
        nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(between)
    };
    let (have, replicas) = (health.running.len(), health.replicas);
    let (topic, partition, chain) = (&health.topic, health.partition, list(&health.chain, ">"));
    let mut line = format!("{topic}/{partition}: {have} of {replicas} copies, chain {chain}");
    if have < usize::from(health.min_replicas) {
        line += &format!(", takes nothing below {}", health.min_replicas);
    }
    for (nodes, what) in [(&health.joining, "copies"), (&health.sick, "has failed")] {
        if !nodes.is_empty() {
            line += &format!(", node {} {what}", list(nodes, ", "));
        }
    }
    for (node, lag) in lags(health, members).into_iter().filter(|(_, lag)| *lag > 0) {
        line += &format!(", node {node} is {lag} offsets behind");
    }
    line
}

#[cfg(test)]
mod tests {
    use catena_client::{ErrorCode, format::PartitionIndex};

    use super::*;

    #[test]
    fn a_partition_is_told_with_what_it_lacks() {
        let ids = |ids: &[u64]| ids.iter().copied().map(NodeId::new).collect::<Vec<_>>();
        let health = PartitionHealth {
            topic: "events".into(),
            partition: PartitionIndex::new(3),
            replicas: 3,
            min_replicas: 2,
            chain: ids(&[1]),
            running: ids(&[1]),
            joining: ids(&[2]),
            sick: Vec::new(),
        };
        let end = |node, end| {
            let name = ("events".to_owned(), PartitionIndex::new(3), NodeId::new(node));
            (name, members::tests::durable_to(end))
        };
        let members = Members::from([end(1, 100), end(2, 60), end(3, 900)]);
        assert_eq!(
            line_of(&health, &members),
            "events/3: 1 of 3 copies, chain 1, takes nothing below 2, node 2 copies, node 2 is 40 \
             offsets behind"
        );
        let nobody = DescribeClusterResponse::refused(ErrorCode::None, "");
        assert_eq!(complaints(&nobody).len(), 1, "nobody leads");
    }
}
