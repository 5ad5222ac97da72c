//! `cargo nemesis MIX --seconds N` and `cargo nemesis failover`: what befalls a cluster of real
//! processes, see `nemesis.rs`. Each mix ends with one line of JSON; with `--record` it is booked.
//! Root gives each node a network of its own; without it only what needs none can be done. The exit
//! code is 1 for what was found, 2 when it could not be run, 3 when a run proves nothing.
#![forbid(unsafe_code)]

use std::{path::PathBuf, process::ExitCode, time::Duration};

use catena_tests::{
    crash::space,
    live,
    nemesis::{self, Network, Plan, Summary, cluster::NODES, failover, history::Anomaly},
    runs::Run,
};
use serde_json::json;

const USAGE: &str = "usage: cargo nemesis MIX|all [--seconds N] [--seed N] [--partitions N] \
                     [--floor N] [--server PATH] [--loopback] [--record]
       cargo nemesis failover [--partitions N] [--kills N] [--silent] [--server PATH] [--loopback]
       a mix is one or several of kill, pause, isolate-control, oneway, isolate-head, \
       isolate-middle, isolate-tail, slow-link, full-disk, corrupt, slow-disk, power-cut, lie, \
       as kill+pause";

struct Wish {
    seconds: u64,
    seed: u64,
    partitions: u32,
    kills: u64,
    silent: bool,
    floor: u64,
    server: Option<PathBuf>,
    loopback: bool,
    record: bool,
}

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let name = if arguments.is_empty() { String::new() } else { arguments.remove(0) };
    match wish(arguments).and_then(|wish| ran(&name, wish)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn wish(arguments: Vec<String>) -> Result<Wish, String> {
    let mut wish = Wish {
        seconds: 60,
        seed: 0,
        partitions: 6,
        kills: 4,
        silent: false,
        floor: 50,
        server: None,
        loopback: false,
        record: false,
    };
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| USAGE.to_owned());
        match argument.as_str() {
            "--seconds" => wish.seconds = value()?.parse().map_err(|_| USAGE)?,
            "--seed" => wish.seed = value()?.parse().map_err(|_| USAGE)?,
            "--partitions" => wish.partitions = value()?.parse().map_err(|_| USAGE)?,
            "--kills" => wish.kills = value()?.parse().map_err(|_| USAGE)?,
            "--floor" => wish.floor = value()?.parse().map_err(|_| USAGE)?,
            "--server" => wish.server = Some(PathBuf::from(value()?)),
            "--silent" => wish.silent = true,
            "--loopback" => wish.loopback = true,
            "--record" => wish.record = true,
            _ => return Err(USAGE.to_owned()),
        }
    }
    Ok(wish)
}

fn ran(name: &str, wish: Wish) -> Result<ExitCode, String> {
    let named: Vec<&str> = if name == "all" { nemesis::ALL.to_vec() } else { vec![name] };
    let mixes: Option<Vec<_>> = named.iter().map(|name| nemesis::mix(name)).collect();
    let is_failover = name == "failover";
    let mixes = mixes.or(is_failover.then(Vec::new)).ok_or(USAGE)?;
    if !wish.loopback {
        if let Some(missing) = space::missing() {
            return Err(format!("{missing}; without that there is `--loopback`"));
        }
        space::enter_with(&["--net"]).map_err(|error| error.to_string())?;
    }
    let binary = live::binary(wish.server.clone())?;
    let network = if wish.loopback { None } else { Some(Network::new(NODES)?) };
    let scratch = live::scratch("nemesis")?;
    if is_failover {
        let folder = tempfile::tempdir_in(&scratch).map_err(|error| error.to_string())?;
        let (partitions, kills) = (wish.partitions, wish.kills);
        let folder = folder.path();
        let times = failover::run(&binary, folder, network, partitions, kills, wish.silent)?;
        for ((role, leads), times) in times {
            let [p50, max] = failover::figures(&times);
            println!(
                "{}",
                json!({ "killed": role, "silent": wish.silent, "leads_control": leads,
                "kills": times.len(), "p50_ms": p50, "max_ms": max })
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut code = 0;
    for (name, mix) in named.into_iter().zip(mixes) {
        if network.is_none() && mix.iter().any(|fault| fault.needs_room()) {
            eprintln!("{name}: not on loopback");
            continue;
        }
        let plan = Plan {
            binary: binary.clone(),
            folder: scratch.join(format!("{name}-{}", wish.seed)),
            network,
            mix,
            duration: Duration::from_secs(wish.seconds),
            partitions: wish.partitions,
            floor: wish.floor,
            seed: wish.seed,
        };
        let command =
            format!("cargo nemesis {name} --seconds {} --seed {}", wish.seconds, wish.seed);
        let found = match nemesis::run(&plan) {
            Ok(summary) => report(&summary, command, wish.record)?,
            Err(error) => {
                eprintln!("{name}: {error}");
                2
            }
        };
        // What was found says more than that it proves nothing.
        code = if code == 1 || found == 1 { 1 } else { code.max(found) };
    }
    Ok(ExitCode::from(code))
}

fn report(summary: &Summary, command: String, record: bool) -> Result<u8, String> {
    println!("{}", summary.line());
    summary.said.iter().for_each(|said| eprintln!("  told: {said}"));
    let verdict = &summary.verdict;
    let [lost, duplicated] = [Anomaly::Lost, Anomaly::Duplicated].map(|a| verdict.count(a));
    let run = Run {
        method: "nemesis",
        command,
        units: if summary.void { 0 } else { summary.seconds },
        acked: summary.acknowledged,
        checked: summary.kept,
        lost,
        duplicated,
        broken: verdict.all() - lost - duplicated,
        faults: summary.faults.clone(),
        notes: [
            ("unknown".to_owned(), summary.unknown),
            ("refused".to_owned(), summary.refused),
            ("polled".to_owned(), summary.polled),
            ("max_gap_ms".to_owned(), summary.gap_ms),
            ("void".to_owned(), u64::from(summary.void)),
        ]
        .into(),
        seconds: summary.seconds,
    };
    if record {
        run.record().map_err(|error| error.to_string())?;
    }
    let void = if summary.void { 3 } else { 0 };
    Ok(if verdict.all() > 0 { 1 } else { void })
}
