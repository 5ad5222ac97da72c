//! Another host, as far as the network goes: a namespace of its own behind a cable that can be
//! pulled. Whoever was connected has then vanished without a word.

use std::{
    fs::File,
    net::Ipv4Addr,
    os::fd::AsFd,
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Numbers for those of one process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace and a pair of devices; both go when this is dropped.
#[derive(Debug)]
pub struct Elsewhere {
    name: String,
    here: Ipv4Addr,
}

impl Elsewhere {
    /// Wants root, `ip`, and a kernel with virtual Ethernet.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn new() -> Result<Self, String> {
        let number = process::id() << 4 | NEXT.fetch_add(1, Ordering::Relaxed) & 15;
        // Four addresses of 10.64.0.0/10 for each; a name of a device has at most 15 characters.
        let subnet = 0x0a40_0000 | number << 2 & 0x003f_fffc;
        let [here, there] = [1, 2].map(|host| Ipv4Addr::from_bits(subnet | host));
        let elsewhere = Self { name: format!("ct{number:x}"), here };
        let Self { name, .. } = &elsewhere;
        ip(&format!("netns add {name}"))?;
        ip(&format!("link add {name}h type veth peer name {name}t netns {name}"))?;
        ip(&format!("address add {here}/30 dev {name}h"))?;
        ip(&format!("link set {name}h up"))?;
        ip(&format!("-n {name} address add {there}/30 dev {name}t"))?;
        ip(&format!("-n {name} link set {name}t up"))?;
        Ok(elsewhere)
    }

    /// Our address at this end of the cable.
    #[must_use]
    pub fn here(&self) -> Ipv4Addr {
        self.here
    }

    /// Has it done there. A socket that is made there stays there.
    ///
    /// # Errors
    /// When a thread cannot go there.
    pub fn within<T: Send>(&self, what: impl FnOnce() -> T + Send) -> Result<T, String> {
        let path = format!("/run/netns/{}", self.name);
        let there = File::open(&path).map_err(|error| format!("{path}: {error}"))?;
        let go = || {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(there.as_fd(), network).map_err(|error| error.to_string())?;
            Ok(what())
        };
        // Where a thread is, all that it does is; so it is one that ends here.
        thread::scope(|scope| scope.spawn(go).join().map_err(|_| "a thread panicked".to_owned())?)
    }

    /// Pulls the cable.
    ///
    /// # Errors
    /// When that fails.
    pub fn cut(&self) -> Result<(), String> {
        let Self { name, .. } = self;
        ip(&format!("-n {name} link set {name}t down"))
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // What holds sockets there keeps the namespace alive, and not its name.
        drop(ip(&format!("link delete {}h", self.name)));
        drop(ip(&format!("netns delete {}", self.name)));
    }
}

/// Runs the command.
///
/// # Errors
/// What it said.
pub(crate) fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("ip {arguments}: {}", said.trim())) }
}
