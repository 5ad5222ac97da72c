//! What the server stands on: ext4, on a loop device, on the disk.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use fuser::BackgroundSession;
use tempfile::TempDir;

use super::{disk::Disk, fuse, space};

/// How long a file system may stay busy after its last user was killed: the writes of the dead
/// end first, on a slow disk too.
const BUSY_MAX: Duration = Duration::from_secs(300);

/// Shuts a file system down as a crash of the kernel does, without its journal, when a line comes:
/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`.
const SHUT_DOWN: &str = "
import fcntl, os, struct, sys
directory = os.open(sys.argv[1], os.O_RDONLY)
print(flush=True)
sys.stdin.readline()
fcntl.ioctl(directory, 0x8004587d, struct.pack('I', 2))
";

/// The disk with what stands on it. Unmounts what it can when it is dropped; the rest goes with
/// the harness's name space.
pub struct Stack {
    disk: Arc<Disk>,
    session: Option<BackgroundSession>,
    folder: TempDir,
    is_mounted: bool,
}

impl Stack {
    /// Makes a file system on the disk and mounts it.
    ///
    /// # Errors
    /// When the machine lacks something.
    pub fn new(disk: Arc<Disk>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("disk"), "")?;
        fs::create_dir(folder.path().join("files"))?;
        let session = fuse::mount(disk.clone(), &folder.path().join("disk"))
            .context("the FUSE disk cannot be mounted")?;
        let mut stack = Self { disk, session: Some(session), folder, is_mounted: false };
        let device = stack.attach()?;
        // Nothing may be written later that no request asked for.
        let lazy = "nodiscard,lazy_itable_init=0,lazy_journal_init=0";
        let made = run("mkfs.ext4", &["-q", "-N", "32768", "-J", "size=8", "-E", lazy, &device]);
        stack.mount_device(&device, made)?;
        Ok(stack)
    }

    /// The disk.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Where its files are.
    #[must_use]
    pub fn files(&self) -> PathBuf {
        self.folder.path().join("files")
    }

    /// A folder beside, on the machine's own disk.
    #[must_use]
    pub fn beside(&self) -> &Path {
        self.folder.path()
    }

    /// Mounts the file system by a new loop device, which knows nothing of the one before.
    ///
    /// # Errors
    /// When the disk fails meanwhile, or the file system is damaged.
    pub fn mount(&mut self) -> Result<()> {
        assert!(!self.is_mounted);
        let device = self.attach()?;
        self.mount_device(&device, Ok(()))
    }

    /// Takes the file system down and its loop device with it. Nobody may use it any more.
    ///
    /// # Errors
    /// When it stays busy.
    pub fn unmount(&mut self) -> Result<()> {
        let until = Instant::now() + BUSY_MAX;
        while self.is_mounted {
            match run("umount", &[path(&self.files())?]) {
                Ok(()) => self.is_mounted = false,
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(2)),
            }
        }
        Ok(())
    }

    /// Prepares a crash of the operating system.
    ///
    /// # Errors
    /// When the helper does not start.
    pub fn prepare_shutdown(&self) -> Result<Shutdown> {
        let python = ["/usr/bin/python3".into(), space::find("python3").unwrap_or_default()];
        let python = python.iter().find(|file| file.is_file()).context("there is no python3")?;
        let mut helper = Command::new(python)
            .args(["-c", SHUT_DOWN])
            .arg(self.files())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut ready = [0];
        io::Read::read_exact(helper.stdout.as_mut().context("it has an output")?, &mut ready)?;
        Ok(Shutdown(helper))
    }

    fn attach(&self) -> Result<String> {
        let disk = self.folder.path().join("disk");
        let attached = Command::new("losetup")
            .args(["--find", "--show", "--direct-io=on"])
            .arg(disk)
            .output()?;
        ensure!(attached.status.success(), "losetup: {}", text(&attached.stderr));
        Ok(text(&attached.stdout).trim().to_owned())
    }

    /// Mounts a loop device, if all went well so far. It is detached in any case: one that is
    /// mounted goes with its mount.
    fn mount_device(&mut self, device: &str, so_far: Result<()>) -> Result<()> {
        let files = self.files();
        let mounted = so_far.and_then(|()| {
            run(
                "mount",
                &[
                    "-t",
                    "ext4",
                    "-o",
                    "noinit_itable,noatime,errors=remount-ro",
                    device,
                    path(&files)?,
                ],
            )
        });
        self.is_mounted = mounted.is_ok();
        run("losetup", &["--detach", device])?;
        mounted
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // What still waits for the disk gets its answer.
        self.disk.cut();
        if self.is_mounted {
            let _ = run("umount", &["--lazy", &self.files().display().to_string()]);
        }
        if let Some(session) = self.session.take() {
            // The session's thread ends when the loop device is gone.
            drop(session);
        }
    }
}

/// A crash of the operating system that is about to be.
pub struct Shutdown(Child);

impl Shutdown {
    /// Now: what the file system has not on the disk yet is lost, and everything fails from now on.
    ///
    /// # Errors
    /// When it did not happen.
    pub fn carry_out(mut self) -> Result<()> {
        drop(self.0.stdin.take());
        let ended = self.0.wait()?;
        ensure!(ended.success(), "the file system was not shut down: {ended}");
        Ok(())
    }
}

/// Runs a command to its end.
fn run(command: &str, arguments: &[&str]) -> Result<()> {
    let program = space::find(command).with_context(|| format!("there is no {command}"))?;
    let ended = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    if !ended.status.success() {
        bail!("{command} {}: {}{}", arguments.join(" "), text(&ended.stdout), text(&ended.stderr));
    }
    Ok(())
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is no text", path.display()))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Copies a folder with all that is in it.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    run("cp", &["--recursive", "--sparse=always", path(from)?, path(to)?])
}
