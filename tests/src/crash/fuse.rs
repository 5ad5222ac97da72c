//! The disk as one file that the kernel sees, by FUSE: what a loop device can stand on.

use std::{
    io,
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, UNIX_EPOCH},
};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyOpen, ReplyWrite, WriteFlags,
};

use super::disk::Disk;

/// How long the kernel may believe the file's attributes, which never change.
const FOREVER: Duration = Duration::from_secs(1 << 30);
/// The largest write that comes as one request.
const WRITE_BYTES_MAX: u32 = 1 << 20;
/// Requests under way at most.
const REQUESTS_MAX: u16 = 256;

/// Mounts the disk on `file`, which is it until the session ends.
///
/// # Errors
/// When it cannot be mounted.
pub fn mount(disk: Arc<Disk>, file: &Path) -> io::Result<BackgroundSession> {
    let (queue, jobs) = mpsc::channel();
    let slow = disk.clone();
    thread::Builder::new().name("slow-disk".to_owned()).spawn(move || work_slowly(&slow, jobs))?;
    fuser::spawn_mount(File { disk, queue }, file, &Config::default())
}

/// What a slow disk has before it.
enum Job {
    Write { offset: u64, bytes: Vec<u8>, reply: ReplyWrite },
    Flush { reply: ReplyEmpty },
}

impl Job {
    fn carry_out(self, disk: &Disk) {
        match self {
            Self::Write { offset, bytes, reply } => match disk.write(offset, &bytes) {
                Ok(()) => reply.written(u32::try_from(bytes.len()).expect("requests are small")),
                Err(_) => reply.error(Errno::EIO),
            },
            Self::Flush { reply } => match disk.flush() {
                Ok(()) => reply.ok(),
                Err(_) => reply.error(Errno::EIO),
            },
        }
    }
}

/// One request after the other, each as late as the disk is slow.
fn work_slowly(disk: &Disk, jobs: mpsc::Receiver<Job>) {
    for job in jobs {
        thread::sleep(disk.delay());
        job.carry_out(disk);
        disk.waited();
    }
}

struct File {
    disk: Arc<Disk>,
    queue: mpsc::Sender<Job>,
}

impl File {
    fn perform(&self, job: Job) {
        if self.disk.delay().is_zero() {
            return job.carry_out(&self.disk);
        }
        self.disk.waits();
        if let Err(mpsc::SendError(job)) = self.queue.send(job) {
            job.carry_out(&self.disk);
        }
    }

    fn attributes(&self) -> FileAttr {
        let size = self.disk.bytes() as u64;
        FileAttr {
            ino: INodeNo::ROOT,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: FileType::RegularFile,
            perm: 0o600,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for File {
    fn init(&mut self, _: &fuser::Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without the first, the loop device would have one write under way at a time.
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        let _ = config.set_max_write(WRITE_BYTES_MAX);
        let _ = config.set_max_background(REQUESTS_MAX);
        Ok(())
    }

    fn getattr(&self, _: &fuser::Request, _: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &self.attributes());
    }

    fn open(&self, _: &fuser::Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.disk.read(offset, size as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.perform(Job::Write { offset, bytes: data.to_vec(), reply });
    }

    fn fsync(&self, _: &fuser::Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.perform(Job::Flush { reply });
    }
}
