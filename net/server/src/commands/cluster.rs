//! `catena cluster`: what it asks and prints.

use std::{
    io::{self, Write},
    thread,
    time::Duration,
};

use anyhow::bail;
use catena_client::{
    Client, DescribeClusterResponse, ErrorCode, NodeDetail, Options,
    format::{JoinToken, NodeId},
};
use serde_json::{Value, json};

use super::{print_json, status};
use crate::{
    cli::{ClusterCommand, DrainArgs, Output, TokenArgs, WatchArgs},
    machine::random,
};

/// How often it is looked how far a node is that is drained.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Runs a command about the cluster of the server that is named.
///
/// # Errors
/// What the server refused, or why it could not be asked; or that the cluster is not healthy.
pub(crate) fn cluster(
    options: &Options,
    command: ClusterCommand,
    output: Output,
) -> anyhow::Result<()> {
    let mut client = Client::new(options.clone());
    let json = output == Output::Json;
    match command {
        ClusterCommand::Token(args) => token(&mut client, &args, json),
        ClusterCommand::Nodes(args) => watch(&args, || nodes(&client.cluster()?, json)),
        ClusterCommand::Status(args) => {
            let mut well = true;
            watch(&args, || {
                well = status::tell(&client.cluster()?, options, json)?;
                Ok(())
            })?;
            if well { Ok(()) } else { bail!("not all is as it should be") }
        }
        ClusterCommand::Remove(args) => {
            client.remove_node(NodeId::new(args.node))?;
            done(json, &json!({ "node": args.node }), &format!("removed node {}", args.node))
        }
        ClusterCommand::Drain(args) => drain(&mut client, &args, json),
        ClusterCommand::Recover(args) => {
            let lost = args.lost.iter().map(|node| NodeId::new(*node)).collect();
            client.accept_loss(NodeId::new(args.node), lost)?;
            let text = format!("partitions that had nobody left go on with node {}", args.node);
            done(json, &json!({ "node": args.node, "lost": args.lost }), &text)
        }
    }
}

/// Does something once, or again and again.
pub(super) fn watch(
    args: &WatchArgs,
    mut tell: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    loop {
        tell()?;
        if !args.watch {
            return Ok(());
        }
        thread::sleep(args.interval);
    }
}

fn done(json: bool, value: &Value, text: &str) -> anyhow::Result<()> {
    if json {
        return Ok(print_json(value)?);
    }
    Ok(writeln!(io::stdout().lock(), "{text}")?)
}

fn token(client: &mut Client, args: &TokenArgs, json: bool) -> anyhow::Result<()> {
    if let Some(token) = args.revoke {
        client.allow_join(JoinToken::new(token), Duration::ZERO)?;
        return Ok(());
    }
    let token = u128::from_le_bytes(random()?);
    client.allow_join(JoinToken::new(token), args.lifetime)?;
    let text = format!("{token:032x}");
    done(json, &json!({ "token": text }), &text)
}

fn nodes(cluster: &DescribeClusterResponse<'_>, json: bool) -> anyhow::Result<()> {
    if json {
        let node = |node: &NodeDetail<'_>| {
            json!({
                "node": node.node.get(),
                "incarnation": node.incarnation.get(),
                "state": state(node),
                "witness": node.witness,
                "votes": node.votes,
                "leads": node.node == cluster.leads,
                "client": node.client,
                "peer": node.peer,
                "rack": node.rack,
                "cores": node.cores,
                "partitions": node.partitions,
                "heads": node.heads,
            })
        };
        return Ok(print_json(&cluster.nodes.iter().map(node).collect())?);
    }
    let mut out = io::stdout().lock();
    let [a, b, c, d, e] = ["NODE", "STATE", "PARTITIONS", "HEADS", "CORES"];
    let [f, g, h, i] = ["RACK", "CATALOG", "CLIENTS", "PEERS"];
    writeln!(out, "{a:>4} {b:<8} {c:>10} {d:>6} {e:>5}  {f:<8} {g:<7} {h:<21} {i}")?;
    for node in &cluster.nodes {
        let catalog = match (node.node == cluster.leads, node.votes) {
            (true, _) => "leads",
            (_, true) => "votes",
            _ => "learns",
        };
        let NodeDetail { node: id, partitions, heads, cores, rack, client, peer, .. } = node;
        let state = state(node);
        writeln!(
            out,
            "{id:>4} {state:<8} {partitions:>10} {heads:>6} {cores:>5}  {rack:<8} {catalog:<7} \
             {client:<21} {peer}"
        )?;
    }
    Ok(out.flush()?)
}

/// How a node stands, in a word.
fn state(node: &NodeDetail<'_>) -> &'static str {
    match (node.up, node.draining, node.witness) {
        (false, ..) => "down",
        (_, _, true) => "witness",
        (_, true, _) => "draining",
        _ => "up",
    }
}

fn drain(client: &mut Client, args: &DrainArgs, json: bool) -> anyhow::Result<()> {
    let node = NodeId::new(args.node);
    client.drain_node(node, !args.undo)?;
    if args.undo {
        let text = format!("node {node} holds partitions again");
        return done(json, &json!({ "node": args.node, "draining": false }), &text);
    }
    if args.no_wait {
        let text = format!("node {node} gives its partitions away");
        return done(json, &json!({ "node": args.node, "draining": true }), &text);
    }
    let mut told = None;
    loop {
        // Who has not heard of it yet says nothing of it.
        let cluster = client.cluster()?;
        let known = cluster.nodes.iter().find(|detail| detail.node == node);
        let Some(known) = known.filter(|known| known.draining) else {
            bail!("node {node} is not drained any more");
        };
        let (left, stuck) = (known.partitions, known.stuck);
        if left == 0 {
            let text = format!("node {node} holds nothing");
            return done(json, &json!({ "node": args.node, "partitions": 0 }), &text);
        }
        if left == stuck {
            bail!(
                "node {node} keeps {left} partitions: without it fewer nodes are left than their \
                 chains need ({}); add a node, or lower what they need",
                ErrorCode::NotEnoughReplicas
            );
        }
        if told.replace(left) != Some(left) {
            writeln!(io::stderr().lock(), "node {node}: {left} partitions to go")?;
        }
        thread::sleep(PROGRESS_EVERY);
    }
}
