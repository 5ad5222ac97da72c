//! A place of the harness's own: mounts and processes that nobody else sees, and that end with it.

use std::{
    env, fs, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, atomic::AtomicBool},
};

use signal_hook::consts::{SIGINT, SIGTERM};

/// Tells a process that it is inside.
const INSIDE: &str = "CATENA_CRASH_INSIDE";

/// The commands that the harness calls.
const COMMANDS: [&str; 7] =
    ["setpriv", "unshare", "losetup", "mkfs.ext4", "mount", "umount", "python3"];

/// What this machine lacks for a run, if anything: root, devices or commands.
#[must_use]
pub fn missing() -> Option<String> {
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt;
        own.uid() == 0
    });
    if !is_root {
        return Some("only root may mount".to_owned());
    }
    for device in ["/dev/fuse", "/dev/loop-control"] {
        if !Path::new(device).exists() {
            return Some(format!("there is no {device}"));
        }
    }
    let absent = COMMANDS.iter().find(|command| find(command).is_none());
    if let Some(absent) = absent {
        return Some(format!("there is no command {absent}"));
    }
    let tried = Command::new("unshare").args(["--mount", "--pid", "--fork", "true"]).output();
    let allowed = tried.is_ok_and(|tried| tried.status.success());
    (!allowed).then(|| "name spaces are not allowed here".to_owned())
}

/// Becomes process 1 of name spaces for mounts and processes: when it ends, or whoever started it,
/// every process in it is killed and every mount gone. Returns within.
///
/// # Errors
/// When that cannot be.
pub fn enter() -> io::Result<()> {
    enter_with(&[])
}

/// The same with more name spaces, as `unshare` calls them.
///
/// # Errors
/// When that cannot be.
pub fn enter_with(more: &[&str]) -> io::Result<()> {
    if env::var_os(INSIDE).is_some() {
        // Process 1 gets no signal that it does not ask for.
        for signal in [SIGINT, SIGTERM] {
            let at_once = Arc::new(AtomicBool::new(true));
            signal_hook::flag::register_conditional_shutdown(signal, 130, at_once)?;
        }
        return Ok(());
    }
    let error = Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .args(["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(more)
        .arg(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    Err(error)
}

/// A command on the path, or where the administrator's stand.
pub(super) fn find(command: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(command)).find(|file| file.is_file())
}
