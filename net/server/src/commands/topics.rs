//! `catena topic`.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use catena_client::{
    Client, DescribeTopicResponse, Error, ErrorCode, Options, PartitionDetail, Setting,
    TopicChange, TopicMetadata,
};
use catena_format::{NodeId, Offset, PartitionIndex};
use catena_wire::{ConfigOrigin, SettingInForce};
use serde_json::{Value, json};

use super::{
    cluster::watch,
    members::{self, Members},
    print_json,
};
use crate::cli::{AlterArgs, CreateArgs, MoveArgs, Output, PartitionCommand, TopicCommand};

/// Does what is asked and prints what came of it.
pub(crate) fn topic(
    options: &Options,
    command: TopicCommand,
    output: Output,
) -> anyhow::Result<()> {
    let json = output == Output::Json;
    let client = &mut Client::new(options.clone());
    match command {
        TopicCommand::Create(args) => create(client, args, json),
        TopicCommand::List => list(&client.topics()?, json),
        TopicCommand::Describe(args) => {
            watch(&args.watch, || describe(&Described::ask(client, options, &args.name)?, json))
        }
        TopicCommand::Alter(args) => alter(client, args, json),
        TopicCommand::Delete(args) => {
            client.delete_topic(&args.name)?;
            done(json, &json!({ "name": args.name }), &format!("deleted {}", args.name))
        }
        TopicCommand::Trim(args) => {
            let id = client.topic(&args.name)?.id;
            let (partition, to) = (PartitionIndex::new(args.partition), Offset::new(args.to));
            let log_start = client.trim(id, partition, to)?.get();
            let (name, partition) = (args.name, args.partition);
            let text = format!("partition {partition} of {name} starts at {log_start}");
            let value = json!({ "name": name, "partition": partition, "log_start": log_start });
            done(json, &value, &text)
        }
    }
}

/// Does what is asked of a partition and prints what came of it.
pub(crate) fn partition(
    client: &mut Client,
    command: PartitionCommand,
    output: Output,
) -> anyhow::Result<()> {
    let PartitionCommand::Move(MoveArgs { name, partition, from, to }) = command;
    let (index, source, target) =
        (PartitionIndex::new(partition), NodeId::new(from), NodeId::new(to));
    client.move_partition(&name, index, source, target)?;
    let value = json!({ "name": name, "partition": partition, "from": from, "to": to });
    let text = format!("partition {partition} of {name} moves from node {from} to node {to}");
    done(output == Output::Json, &value, &text)
}

fn done(json: bool, value: &Value, text: &str) -> anyhow::Result<()> {
    if json {
        return Ok(print_json(value)?);
    }
    Ok(writeln!(io::stdout().lock(), "{text}")?)
}

fn create(client: &mut Client, args: CreateArgs, json: bool) -> anyhow::Result<()> {
    if args.validate_only {
        client.check_topic(&args.name, args.partitions.unwrap_or(0), settings(args.set))?;
        let value = json!({ "name": args.name, "valid": true });
        return done(json, &value, &format!("{} could be created", args.name));
    }
    // Zero: as many as the server gives a new topic.
    let (name, wished) = (args.name, args.partitions.unwrap_or(0));
    let (replicas, made) = (args.replicas.unwrap_or(0), settings(args.set));
    let created = match client.create_replicated_topic(&name, wished, replicas, made) {
        Ok(()) => true,
        Err(Error::Server { code: ErrorCode::TopicExists, .. }) if args.if_not_exists => false,
        Err(error) => return Err(error.into()),
    };
    let known = created && wished > 0;
    let partitions = if known { wished as usize } else { client.topic(&name)?.partitions.len() };
    let verb = if created { "created" } else { "exists:" };
    let value = json!({ "name": name, "partitions": partitions, "created": created });
    done(json, &value, &format!("{verb} {name} with {partitions} partitions"))
}

fn alter(client: &mut Client, args: AlterArgs, json: bool) -> anyhow::Result<()> {
    if args.replicas.is_some() || args.min_replicas.is_some() {
        let (replicas, least) = (args.replicas.unwrap_or(0), args.min_replicas.unwrap_or(0));
        client.replicate_topic(&args.name, replicas, least)?;
        return done(json, &json!({ "name": args.name }), &format!("altered {}", args.name));
    }
    let change = TopicChange {
        set: settings(args.set),
        remove: args.unset,
        partitions: args.partitions,
        new_name: args.rename.clone(),
        validate_only: args.validate_only,
    };
    client.change_topic(&args.name, change)?;
    if args.validate_only {
        let value = json!({ "name": args.name, "valid": true });
        return done(json, &value, &format!("{} could be altered", args.name));
    }
    let name = args.rename.as_ref().unwrap_or(&args.name);
    done(json, &json!({ "name": name }), &format!("altered {}", args.name))
}

fn settings(pairs: Vec<(String, String)>) -> Vec<Setting<'static>> {
    let setting = |(key, value): (String, String)| Setting { key: key.into(), value: value.into() };
    pairs.into_iter().map(setting).collect()
}

fn list(topics: &[TopicMetadata<'_>], json: bool) -> anyhow::Result<()> {
    if json {
        let topic = |topic: &TopicMetadata<'_>| {
            let id = format!("{:032x}", topic.id.get());
            json!({ "name": topic.name, "id": id, "partitions": topic.partitions.len() })
        };
        return Ok(print_json(&topics.iter().map(topic).collect())?);
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{:<40} {:>10}  ID", "NAME", "PARTITIONS")?;
    for topic in topics {
        let (name, id) = (&topic.name, topic.id.get());
        writeln!(out, "{name:<40} {:>10}  {id:032x}", topic.partitions.len())?;
    }
    Ok(())
}

/// A topic, and its copies.
struct Described {
    name: String,
    topic: DescribeTopicResponse<'static>,
    members: Members,
    /// Who copies, to become a tail.
    joining: BTreeMap<PartitionIndex, Vec<NodeId>>,
}

impl Described {
    fn ask(client: &mut Client, options: &Options, name: &str) -> Result<Self, Error> {
        let mut topic = client.describe_topic(name)?;
        let cluster = client.cluster()?;
        let several = cluster.nodes.len() > 1;
        let asked: &[&str] = if several { &[name] } else { &[] };
        let members = members::ask(&cluster.nodes, asked, options);
        // A head knows best how its partition stands.
        for partition in &mut topic.partitions {
            let head = partition.place.chain.first().copied().unwrap_or_default();
            let known = members.get(&(name.to_owned(), partition.place.index, head));
            if let Some(known) = known.filter(|known| known.place.epoch >= partition.place.epoch) {
                *partition = known.clone();
            }
        }
        let listed = cluster.listed.into_iter().filter(|health| health.topic == name);
        let joining = listed.map(|health| (health.partition, health.joining)).collect();
        Ok(Self { name: name.to_owned(), topic, members, joining })
    }

    /// The members of a chain and who joins it: what each is there, and how far it is behind.
    fn members(&self, p: &PartitionDetail) -> Vec<(NodeId, &'static str, Option<u64>)> {
        let (chain, index) = (&p.place.chain, p.place.index);
        let joining = self.joining.get(&index).map_or(&[][..], Vec::as_slice);
        let nodes = || chain.iter().chain(joining).copied();
        let lags: BTreeMap<_, _> =
            members::lags(&self.members, &self.name, index, nodes()).into_iter().collect();
        let role = |at: usize| match (at, chain.len()) {
            (0, 1) => "alone",
            (0, _) => "head",
            (at, members) if at + 1 == members => "tail",
            (at, members) if at < members => "middle",
            _ => "joins",
        };
        let all = nodes().enumerate();
        all.map(|(at, node)| (node, role(at), lags.get(&node).copied())).collect()
    }
}

fn describe(described: &Described, json: bool) -> anyhow::Result<()> {
    if json {
        return Ok(print_json(&description(described))?);
    }
    let (name, topic) = (&described.name, &described.topic);
    let mut out = io::stdout().lock();
    writeln!(out, "topic {name}, id {:032x}", topic.id.get())?;
    for setting in &topic.config {
        writeln!(out, "  {} = {} ({})", setting.key, setting.value, origin_name(setting.origin))?;
    }
    let [a, b, c, d] = ["PARTITION", "EPOCH", "LOG START", "HIGH WATERMARK"];
    let [e, f, g, h] = ["BYTES", "SEGMENTS", "CHAIN", "STATE"];
    writeln!(out, "{a:>9} {b:>6} {c:>12} {d:>14} {e:>14} {f:>8}  {g:<8} {h}")?;
    for p in &topic.partitions {
        writeln!(
            out,
            "{:>9} {:>6} {:>12} {:>14} {:>14} {:>8}  {:<8} {}",
            p.place.index,
            p.place.epoch,
            p.log_start,
            p.high_watermark,
            p.bytes,
            p.segments,
            chain(p),
            state(p) + &behind(&described.members(p))
        )?;
    }
    Ok(out.flush()?)
}

/// Who joins and who is behind, in words.
fn behind(members: &[(NodeId, &'static str, Option<u64>)]) -> String {
    let mut text = String::new();
    for (node, role, lag) in members {
        match (*role, lag) {
            ("joins", Some(lag)) => text += &format!(", node {node} joins, {lag} offsets behind"),
            ("joins", None) => text += &format!(", node {node} joins"),
            (_, Some(lag)) if *lag > 0 => text += &format!(", node {node} {lag} offsets behind"),
            _ => {}
        }
    }
    text
}

/// The nodes of a chain, from its head to its tail.
fn chain(partition: &PartitionDetail) -> String {
    let nodes: Vec<String> = partition.place.chain.iter().map(ToString::to_string).collect();
    nodes.join(">")
}

fn state(partition: &PartitionDetail) -> String {
    let damaged: u64 = partition.damaged.iter().map(|range| range.end.since(range.start)).sum();
    match (partition.place.error, damaged) {
        (ErrorCode::None, 0) => "open".to_owned(),
        (ErrorCode::None, offsets) => format!("{offsets} offsets damaged"),
        (error, _) => error.to_string(),
    }
}

fn origin_name(origin: ConfigOrigin) -> &'static str {
    match origin {
        ConfigOrigin::Default => "default",
        ConfigOrigin::Server => "server",
        ConfigOrigin::Topic => "topic",
    }
}

fn description(described: &Described) -> Value {
    let (name, topic) = (&described.name, &described.topic);
    let setting = |setting: &_| {
        let SettingInForce { key, value, origin } = setting;
        json!({ "key": key, "value": value, "origin": origin_name(*origin) })
    };
    let partition = |p: &PartitionDetail| {
        let members = described.members(p).into_iter().map(
            |(node, role, behind)| json!({ "node": node.get(), "role": role, "behind": behind }),
        );
        let damaged = p.damaged.iter().map(|range| json!([range.start.get(), range.end.get()]));
        json!({
            "partition": p.place.index.get(),
            "epoch": p.place.epoch.get(),
            "chain": p.place.chain.iter().map(|node| node.get()).collect::<Value>(),
            "members": members.collect::<Value>(),
            "core": p.place.core,
            "log_start": p.log_start.get(),
            "high_watermark": p.high_watermark.get(),
            "durable_end": p.durable_end.get(),
            "log_end": p.log_end.get(),
            "bytes": p.bytes,
            "segments": p.segments,
            "damaged": damaged.collect::<Value>(),
            "state": state(p),
        })
    };
    json!({
        "name": name,
        "id": format!("{:032x}", topic.id.get()),
        "settings": topic.config.iter().map(setting).collect::<Value>(),
        "partitions": topic.partitions.iter().map(partition).collect::<Value>(),
    })
}
