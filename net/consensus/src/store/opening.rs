//! Opening a member's directory, or creating it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use catena_format::{PartitionIndex, PartitionUid, TopicId};
use catena_log::LogIdentity;
use openraft::{BasicNode, CommittedLeaderId};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    FileError, Kept, Memory, Store, StoreError,
    disk::{Disk, JOBS_MAX, State, begin_behind},
    file,
    log::{Entries, LogError},
    snapshots::{SNAPSHOT_JOBS_MAX, Snapshots},
};
use crate::{
    options::{Begin, Options},
    types::{Entry, LogId, Membership, Meta, Vote},
};

pub(super) const MEMBER_MAGIC: [u8; 8] = *b"CATCMEMB";
pub(super) const STATE_MAGIC: [u8; 8] = *b"CATCSTAT";
pub(super) const SNAPSHOT_MAGIC: [u8; 8] = *b"CATCSNAP";

/// The small files are not longer than this.
const SMALL_BYTES_MAX: usize = 4096;
/// What the log is of; no partition has this uid.
const UID: PartitionUid = PartitionUid::new(u64::MAX);

/// Where the files are.
#[derive(Clone)]
pub(super) struct Paths(PathBuf);

impl Paths {
    pub(super) fn member(&self) -> PathBuf {
        self.0.join("member")
    }

    pub(super) fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    pub(super) fn snapshot(&self) -> PathBuf {
        self.0.join("snapshot")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.0.join("log")
    }
}

/// Whose directory it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Member {
    cluster: u128,
    node: u64,
}

/// A directory, and what to take care of in it.
pub(crate) struct Place {
    paths: Paths,
    member: Member,
    address: String,
    segment_bytes: u64,
    snapshot_bytes_max: usize,
}

/// The threads that write. They end with the last store.
pub(crate) struct Threads([JoinHandle<()>; 2]);

impl Threads {
    pub(crate) fn join(self) -> thread::Result<()> {
        self.0.into_iter().try_for_each(JoinHandle::join)
    }
}

/// An open directory.
pub(crate) struct Opened {
    pub(crate) store: Store,
    pub(crate) snapshot: Option<(Meta, Vec<u8>)>,
    pub(crate) threads: Threads,
}

impl Place {
    pub(crate) fn of(options: &Options) -> Self {
        let Options { directory, cluster, node, address, settings, .. } = options;
        Self {
            paths: Paths(directory.clone()),
            member: Member { cluster: cluster.get(), node: node.get() },
            address: address.clone(),
            segment_bytes: settings.segment_bytes,
            snapshot_bytes_max: settings.snapshot_bytes_max,
        }
    }

    pub(crate) fn snapshot(&self) -> PathBuf {
        self.paths.snapshot()
    }

    fn identity(&self) -> LogIdentity {
        LogIdentity {
            cluster: catena_format::ClusterId::new(self.member.cluster),
            topic: TopicId::new(0),
            partition: PartitionIndex::new(0),
            uid: UID,
        }
    }

    fn open_log(&self, create: bool) -> Result<Entries, StoreError> {
        let path = self.paths.log();
        let opened = Entries::open(&path, self.identity(), self.segment_bytes, create, None);
        opened.map_err(|why| StoreError::Log { path, why })
    }

    fn log_error(&self) -> impl Fn(LogError) -> StoreError {
        let path = self.paths.log();
        move |why| StoreError::Log { path: path.clone(), why }
    }

    fn read_state(&self) -> Result<Option<State>, StoreError> {
        let path = self.paths.state();
        file::read(&path, STATE_MAGIC, SMALL_BYTES_MAX).map_err(of(&path))
    }

    fn read_snapshot(&self) -> Result<Option<(Meta, Vec<u8>)>, StoreError> {
        let path = self.paths.snapshot();
        file::read(&path, SNAPSHOT_MAGIC, usize::MAX).map_err(of(&path))
    }
}

fn of(path: &Path) -> impl Fn(FileError) -> StoreError {
    let path = path.to_owned();
    move |why| StoreError::File { path: path.clone(), why }
}

/// Opens a directory; creates what is in it, if nothing says that it was created before.
pub(crate) fn open(place: &Place, begin: &Begin) -> Result<Opened, StoreError> {
    let path = &place.paths.0;
    let io = |why: io::Error| StoreError::Io { path: path.clone(), why };
    fs::create_dir_all(path).map_err(io)?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(io)?;
    let member = place.paths.member();
    match file::read::<Member>(&member, MEMBER_MAGIC, SMALL_BYTES_MAX).map_err(of(&member))? {
        Some(found) if found != place.member => {
            let Member { cluster, node } = found;
            return Err(StoreError::Other { path: member, cluster, node });
        }
        Some(_) => {}
        None => create(place, begin)?,
    }
    let state = place.read_state()?.ok_or(StoreError::Incomplete {
        path: place.paths.state(),
        there: "the marker of a member",
    })?;
    let snapshot = place.read_snapshot()?;
    let (entries, found) = read_log(place, &state, snapshot.as_ref())?;
    let committed = Arc::new(Mutex::new(state.committed.map(|id| id.index)));
    let mut memory = Memory {
        vote: state.vote.map(|vote| not_leading(vote, place.member.node)),
        purged: state.purged,
        committed: state.committed,
        ..Memory::default()
    };
    found.into_iter().for_each(|entry| memory.insert(entry));
    let disk = Disk { paths: place.paths.clone(), entries, state, failed: None };
    let last = snapshot.as_ref().and_then(|(meta, _)| meta.last_log_id);
    let (path, bytes_max) = (place.paths.snapshot(), place.snapshot_bytes_max);
    let keeper = Snapshots { path, bytes_max, last };
    let (to_disk, jobs) = flume::bounded(JOBS_MAX);
    let (to_snapshots, snapshot_jobs) = flume::bounded(SNAPSHOT_JOBS_MAX);
    let thread = |name: &str| thread::Builder::new().name(name.to_owned());
    let log_thread = thread("consensus-log").spawn(move || disk.run(&jobs)).map_err(io)?;
    let snapshot_thread = thread("consensus-snap").spawn(move || keeper.run(&snapshot_jobs));
    let threads = Threads([log_thread, snapshot_thread.map_err(io)?]);
    let store = Store {
        memory: Arc::new(Mutex::new(memory)),
        disk: to_disk,
        snapshots: to_snapshots,
        kept: Arc::new(watch::Sender::new(Kept { last, failed: false })),
        committed,
    };
    Ok(Opened { store, snapshot, threads })
}

/// Makes a directory one of a member. The marker comes last: without it this is done again, unless
/// there is something that only a complete member can have.
fn create(place: &Place, begin: &Begin) -> Result<(), StoreError> {
    let missing = |there| StoreError::Incomplete { path: place.paths.member(), there };
    let log = place.open_log(true)?;
    if (log.start(), log.end()) != (0, 0) {
        return Err(missing("a log with entries"));
    }
    drop(log);
    if place.read_state()?.is_some_and(|state| state.vote.is_some()) {
        return Err(missing("a vote"));
    }
    let snapshot = place.paths.snapshot();
    let mut state = State::default();
    match begin {
        Begin::Member if place.read_snapshot()?.is_some() => return Err(missing("a snapshot")),
        Begin::Member => {}
        Begin::Found { snapshot: bytes } => {
            let meta = founding(place);
            (state.purged, state.committed) = (meta.last_log_id, meta.last_log_id);
            file::write(&snapshot, SNAPSHOT_MAGIC, &(meta, bytes)).map_err(of(&snapshot))?;
        }
    }
    let path = place.paths.state();
    file::write(&path, STATE_MAGIC, &state).map_err(of(&path))?;
    let path = place.paths.member();
    file::write(&path, MEMBER_MAGIC, &place.member).map_err(of(&path))
}

/// openraft would have a node that led go on leading its term. On a directory that is an older copy
/// it would then order other entries under numbers that were given, and nobody could tell; so
/// whoever starts is elected anew, by others who know what there is.
fn not_leading(vote: Vote, node: u64) -> Vote {
    let led = vote.leader_id.node_id == node;
    Vote { committed: vote.committed && !led, ..vote }
}

/// The founder's first snapshot stands for an entry with index 0, which makes it the only voter.
pub(super) fn founding(place: &Place) -> Meta {
    let node = place.member.node;
    let first = LogId::new(CommittedLeaderId::new(0, node), 0);
    let nodes = BTreeMap::from([(node, BasicNode::new(&place.address))]);
    let members = openraft::Membership::new(vec![BTreeSet::from([node])], nodes);
    Meta {
        last_log_id: Some(first),
        last_membership: Membership::new(Some(first), members),
        snapshot_id: "founding".to_owned(),
    }
}

/// The log as the state says that it begins, and what it holds.
fn read_log(
    place: &Place,
    state: &State,
    snapshot: Option<&(Meta, Vec<u8>)>,
) -> Result<(Entries, Vec<Entry>), StoreError> {
    let held = snapshot.and_then(|(meta, _)| meta.last_log_id);
    if held < state.purged {
        let what = format!("ends before entry {}, where the log begins", index(state.purged));
        return Err(StoreError::Disagreement { path: place.paths.snapshot(), what });
    }
    let mut log = place.open_log(false)?;
    let first = state.purged.map_or(0, |id| id.index + 1);
    if log.start() > first {
        let what = format!("says that the log begins at {first}, it does at {}", log.start());
        return Err(StoreError::Disagreement { path: place.paths.state(), what });
    }
    if let Some(purged) = state.purged {
        begin_behind(&mut log, purged.index).map_err(place.log_error())?;
    }
    let entries = log.read_all().map_err(place.log_error())?;
    let last = entries.last().map(|entry| entry.log_id);
    if entries.windows(2).any(|pair| pair[1].log_id <= pair[0].log_id) {
        let what = "terms go back within it".to_owned();
        return Err(StoreError::Disagreement { path: place.paths.log(), what });
    }
    if last.map(|id| id.leader_id) > state.vote.map(|vote| vote.leader_id) {
        let what = "its vote is older than the log's last entry".to_owned();
        return Err(StoreError::Disagreement { path: place.paths.state(), what });
    }
    if state.committed > last.max(held) {
        let what = format!("ends before entry {}, which was ordered", index(state.committed));
        return Err(StoreError::Disagreement { path: place.paths.log(), what });
    }
    Ok((log, entries))
}

fn index(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index)
}
