//! A slow disk and little memory for one process, where the machine lets us: control groups, of the
//! first version or the second.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

const ROOT: &str = "/sys/fs/cgroup";

/// Control groups that are removed when this is dropped, after the process in them has ended.
#[derive(Debug, Default)]
pub(super) struct Confined {
    groups: Vec<PathBuf>,
    /// Whether the disk is slow.
    slow: bool,
    /// Whether the memory is little.
    little: bool,
}

impl Confined {
    /// Groups in which the disk of `folder` takes so many bytes a second, and the memory is so
    /// much; as far as that can be had.
    pub(super) fn new(folder: &Path, bytes_per_second: u64, memory_bytes: u64) -> Self {
        let mut confined = Self::default();
        let name = format!("catena-load-{}", std::process::id());
        let device = fs::metadata(folder).map_or(0, |folder| folder.dev());
        let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
        let memory = memory_bytes.to_string();
        let slow = format!("{device} {bytes_per_second}");
        let slow_too = format!("{device} wbps={bytes_per_second}");
        for (controller, file, value) in [
            ("blkio", "blkio.throttle.write_bps_device", &slow),
            ("memory", "memory.limit_in_bytes", &memory),
            ("", "io.max", &slow_too),
            ("", "memory.max", &memory),
        ] {
            let about_disk = file.contains("io");
            let group = Path::new(ROOT).join(controller).join(&name);
            if (if about_disk { confined.slow } else { confined.little })
                || !Path::new(ROOT).join(controller).join("cgroup.procs").exists()
            {
                continue;
            }
            if !group.exists() && fs::create_dir(&group).is_err() {
                continue;
            }
            if !confined.groups.contains(&group) {
                confined.groups.push(group.clone());
            }
            let set = fs::write(group.join(file), value).is_ok();
            *(if about_disk { &mut confined.slow } else { &mut confined.little }) |= set;
        }
        confined
    }

    /// Nothing can be judged on a fast disk, or where memory ends nowhere.
    pub(super) fn check(&self) -> Result<(), String> {
        match (self.slow, self.little) {
            (true, true) => Ok(()),
            (false, _) => Err("no control group makes the disk slow: it wants root".to_owned()),
            (_, false) => Err("no control group limits the memory: it wants root".to_owned()),
        }
    }

    /// Confines a process with all its threads.
    pub(super) fn add(&self, pid: u32) -> Result<(), String> {
        self.groups.iter().try_for_each(|group| {
            fs::write(group.join("cgroup.procs"), pid.to_string())
                .map_err(|error| format!("{}: {error}", group.display()))
        })
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        for group in &self.groups {
            let _ = fs::remove_dir(group);
        }
    }
}
