//! Hosts for the nodes, as far as the network goes: a name space for each, at a bridge.

use std::{fs, process::Command};

use crate::elsewhere::ip;

/// Where the nodes' hosts are, and ours.
const SUBNET: &str = "10.77.0";
const OWN: u32 = 254;
/// Nobody's: what is sent there does not arrive.
const NOWHERE: &str = "02:00:00:00:00:99";

/// A bridge with as many hosts. All of it goes with the name spaces of the process, see
/// [`crate::crash::space::enter_with`].
#[derive(Clone, Copy, Debug)]
pub struct Network {
    hosts: usize,
}

impl Network {
    /// Wants a network name space that is ours alone, and its mounts.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn new(hosts: usize) -> Result<Self, String> {
        fs::create_dir_all("/run/netns").map_err(|error| format!("/run/netns: {error}"))?;
        run("mount", "-t tmpfs none /run/netns")?;
        ip("link set lo up")?;
        ip("link add bridge type bridge")?;
        ip(&format!("address add {SUBNET}.{OWN}/24 dev bridge"))?;
        ip("link set bridge up")?;
        for host in 0..hosts {
            let (name, address) = (Self::host(host), Self::address(host));
            ip(&format!("netns add {name}"))?;
            ip(&format!("link add {name} type veth peer name cable netns {name}"))?;
            ip(&format!("link set {name} master bridge up"))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {name} address add {address}/24 dev cable"))?;
            ip(&format!("-n {name} link set cable up"))?;
        }
        Ok(Self { hosts })
    }

    /// The address of a host.
    #[must_use]
    pub fn address(host: usize) -> String {
        format!("{SUBNET}.{}", host + 1)
    }

    /// The name space of a host.
    #[must_use]
    pub fn host(host: usize) -> String {
        format!("host{host}")
    }

    /// Drops what goes from one host to another, or lets it through again.
    ///
    /// # Errors
    /// When that cannot be.
    pub fn pass(self, [from, to]: [usize; 2], passes: bool) -> Result<(), String> {
        let (name, address) = (Self::host(from), Self::address(to));
        match passes {
            true => ip(&format!("-n {name} neigh del {address} dev cable")),
            false => ip(&format!(
                "-n {name} neigh replace {address} lladdr {NOWHERE} dev cable nud permanent"
            )),
        }
    }

    /// Cuts a host off from all others in both directions, or not any more; clients reach it.
    ///
    /// # Errors
    /// When that cannot be.
    pub fn isolate(self, host: usize, isolated: bool) -> Result<(), String> {
        for other in (0..self.hosts).filter(|other| *other != host) {
            self.pass([host, other], !isolated)?;
            self.pass([other, host], !isolated)?;
        }
        Ok(())
    }

    /// Pulls the cable of a host, or plugs it in: for other nodes and for clients.
    ///
    /// # Errors
    /// When that cannot be.
    pub fn plug(self, host: usize, plugged: bool) -> Result<(), String> {
        let state = if plugged { "up" } else { "down" };
        ip(&format!("link set {} {state}", Self::host(host)))
    }

    /// Lets a host send so much only, and what does not fit wait, or not any more.
    ///
    /// # Errors
    /// When that cannot be.
    pub fn slow(self, host: usize, slow: bool) -> Result<(), String> {
        let name = Self::host(host);
        let at = format!("netns exec {name} tc qdisc");
        match slow {
            true => ip(&format!(
                "{at} replace dev cable root tbf rate 256kbit burst 3000 latency 500ms"
            )),
            false => ip(&format!("{at} del dev cable root")),
        }
    }
}

/// Runs a command whose arguments have no spaces.
///
/// # Errors
/// What it said.
pub(super) fn run(command: &str, arguments: &str) -> Result<(), String> {
    let output = Command::new(command).args(arguments.split(' ')).output();
    let output = output.map_err(|error| format!("{command}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let fails = || format!("{command} {arguments}: {}", said.trim());
    if output.status.success() { Ok(()) } else { Err(fails()) }
}
