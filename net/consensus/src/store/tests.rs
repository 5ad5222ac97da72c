//! What the store promises to openraft, and what damage does to it.

use std::{
    fmt::Debug,
    fs,
    ops::RangeBounds,
    path::{Path, PathBuf},
    sync::Arc,
};

use catena_format::{ClusterId, NodeId};
use openraft::{
    CommittedLeaderId, EntryPayload, LogState, OptionalSend, RaftLogReader, StorageError,
    storage::{LogFlushed, RaftLogStorage, RaftLogStorageExt},
    testing::{StoreBuilder, Suite},
};
use tempfile::TempDir;

use super::{FileError, LogError, Opened, Place, Store, StoreError, open, opening::Threads};
use crate::{
    Begin, Machine, Options, Settings,
    machine::Applier,
    teller::Teller,
    types::{Entry, LogId, Meta, Proposal, Trace, Types, Vote},
};

struct Nothing;

impl Machine for Nothing {
    fn apply(&mut self, _: u64, _: i64, _: &[u8]) {}
    fn snapshot(&self) -> Vec<u8> {
        b"nothing".to_vec()
    }
    fn restore(&mut self, snapshot: &[u8]) -> bool {
        snapshot == b"nothing"
    }
}

const FOUND: fn() -> Begin = || Begin::Found { snapshot: b"nothing".to_vec() };

fn place(path: &Path) -> Place {
    place_of(path, 7, 1)
}

fn place_of(path: &Path, cluster: u128, node: u64) -> Place {
    let settings = Settings { segment_bytes: 64 << 10, ..Settings::default() };
    Place::of(&Options {
        directory: path.to_owned(),
        cluster: ClusterId::new(cluster),
        node: NodeId::new(node),
        incarnation: 1,
        address: "127.0.0.1:1".to_owned(),
        preface: [0; 16],
        tls: None,
        settings,
    })
}

/// A store under the hands of openraft's suite, which now and then leaves out entries, where blank
/// ones are put then, or appends what was purged, which is dropped. openraft itself does neither.
struct Filled(Store);

impl RaftLogReader<Types> for Filled {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError<u64>> {
        self.0.try_get_log_entries(range).await
    }
}

impl RaftLogStorage<Types> for Filled {
    type LogReader = Store;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError<u64>> {
        self.0.get_log_state().await
    }
    async fn get_log_reader(&mut self) -> Store {
        self.0.get_log_reader().await
    }
    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError<u64>> {
        self.0.save_vote(vote).await
    }
    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError<u64>> {
        self.0.read_vote().await
    }
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError<u64>> {
        self.0.save_committed(committed).await
    }
    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError<u64>> {
        self.0.read_committed().await
    }
    async fn append<I>(
        &mut self,
        entries: I,
        flushed: LogFlushed<Types>,
    ) -> Result<(), StorageError<u64>>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let last = self.0.get_log_state().await?.last_log_id;
        let next = last.map_or(0, |id| id.index + 1);
        let (mut filled, mut end) = (Vec::new(), next);
        for entry in entries.into_iter().filter(|entry| entry.log_id.index >= next) {
            for index in end..entry.log_id.index {
                let log_id = LogId::new(entry.log_id.leader_id, index);
                filled.push(Entry { log_id, payload: EntryPayload::Blank });
            }
            end = entry.log_id.index + 1;
            filled.push(entry);
        }
        self.0.append(filled, flushed).await
    }
    async fn truncate(&mut self, since: LogId) -> Result<(), StorageError<u64>> {
        self.0.truncate(since).await
    }
    /// The suite keeps no snapshots.
    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError<u64>> {
        self.0.kept.send_modify(|kept| kept.last = Some(upto));
        self.0.purge(upto).await
    }
}

struct Builder;

impl StoreBuilder<Types, Filled, Applier, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, Filled, Applier), StorageError<u64>> {
        let directory = tempfile::tempdir().unwrap();
        let Opened { store, snapshot, .. } =
            open(&place(directory.path()), &Begin::Member).unwrap();
        let teller = Arc::new(Teller::new(1, 1, Box::new(|_| {})));
        let applier = Applier::new(Box::new(Nothing), snapshot, store.clone(), teller).unwrap();
        Ok((directory, Filled(store), applier))
    }
}

#[test]
fn the_store_passes_the_suite_of_openraft() {
    Suite::test_all(Builder).unwrap();
}

/// A store, and what it must hold.
struct World {
    directory: TempDir,
    runtime: tokio::runtime::Runtime,
    store: Option<(Store, Threads)>,
    entries: Vec<Entry>,
    purged: Option<LogId>,
    vote: Option<Vote>,
}

impl World {
    fn new(begin: &Begin) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let opened = open(&place(&directory.path().join("raft")), begin).unwrap();
        let Opened { mut store, threads, .. } = opened;
        let purged = runtime.block_on(store.get_log_state()).unwrap().last_purged_log_id;
        let store = Some((store, threads));
        Self { directory, runtime, store, entries: Vec::new(), purged, vote: None }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("raft")
    }

    fn store(&mut self) -> (&tokio::runtime::Runtime, &mut Store) {
        (&self.runtime, &mut self.store.as_mut().expect("it is open").0)
    }

    fn next(&self) -> u64 {
        let last = self.entries.last().map(|entry| entry.log_id).or(self.purged);
        last.map_or(0, |id| id.index + 1)
    }

    fn vote(&mut self, term: u64) {
        let vote = Vote::new(term, 1);
        self.vote = Some(vote);
        let (runtime, store) = self.store();
        runtime.block_on(store.save_vote(&vote)).unwrap();
    }

    fn append(&mut self, term: u64, count: u64, bytes: usize) {
        let entries = (0..count).map(|i| entry(term, self.next() + i, bytes)).collect::<Vec<_>>();
        self.entries.extend(entries.clone());
        let (runtime, store) = self.store();
        runtime.block_on(store.blocking_append(entries)).unwrap();
    }

    fn truncate(&mut self, since: u64) {
        let at = self.entries.iter().position(|entry| entry.log_id.index == since).unwrap();
        let id = self.entries[at].log_id;
        self.entries.truncate(at);
        let (runtime, store) = self.store();
        runtime.block_on(store.truncate(id)).unwrap();
    }

    fn purge(&mut self, upto: LogId) {
        let meta = Meta { last_log_id: Some(upto), ..Meta::default() };
        self.purged = Some(upto);
        self.entries.retain(|entry| entry.log_id.index > upto.index);
        let (runtime, store) = self.store();
        runtime.block_on(store.keep_snapshot(meta, b"nothing".to_vec())).unwrap();
        runtime.block_on(store.purge(upto)).unwrap();
    }

    /// Everything so far is done.
    fn settle(&mut self) {
        let (runtime, store) = self.store();
        runtime.block_on(store.blocking_append([])).unwrap();
    }

    /// The files as they are now: what a process leaves that is killed.
    fn killed(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(&self.path(), copy.path());
        copy
    }

    fn check(&mut self, path: &Path) {
        let Opened { mut store, threads, .. } = open(&place(path), &Begin::Member).unwrap();
        let state = self.runtime.block_on(store.get_log_state()).unwrap();
        let found = self.runtime.block_on(store.try_get_log_entries(..)).unwrap();
        assert_eq!(found, self.entries);
        assert_eq!(state.last_purged_log_id, self.purged);
        let last = self.entries.last().map(|entry| entry.log_id);
        assert_eq!(state.last_log_id, last.or(self.purged));
        assert_eq!(self.runtime.block_on(store.read_vote()).unwrap(), self.vote);
        drop(store);
        threads.join().unwrap();
    }

    fn stop(&mut self) {
        let (store, threads) = self.store.take().expect("it is open");
        self.runtime.block_on(store.stop()).unwrap();
        drop(store);
        threads.join().unwrap();
    }
}

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let proposal = Proposal {
        node: 1,
        incarnation: 2,
        proposal: index,
        time: 3,
        entry: vec![index as u8; bytes],
        trace: Trace::default(),
    };
    let log_id = LogId::new(CommittedLeaderId::new(term, 1), index);
    Entry { log_id, payload: EntryPayload::Normal(proposal) }
}

fn copy_folder(from: &Path, to: &Path) {
    for file in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            fs::create_dir(&to).unwrap();
            copy_folder(&file.path(), &to);
        } else {
            fs::copy(file.path(), to).unwrap();
        }
    }
}

/// As random as a test needs.
fn dice(seed: &mut u64, sides: u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed % sides
}

#[test]
fn what_was_reported_durable_is_there_after_a_kill() {
    for mut seed in 1..6 {
        let mut world = World::new(&FOUND());
        let mut term = 0;
        for _ in 0..25 {
            match dice(&mut seed, 6) {
                0 | 1 if term > 0 => {
                    let (count, bytes) = (1 + dice(&mut seed, 5), dice(&mut seed, 9000) as usize);
                    world.append(term, count, bytes);
                }
                2 if !world.entries.is_empty() => {
                    let at = dice(&mut seed, world.entries.len() as u64) as usize;
                    let since = world.entries[at].log_id.index;
                    world.truncate(since);
                    world.settle();
                }
                3 if !world.entries.is_empty() => {
                    let at = dice(&mut seed, world.entries.len() as u64) as usize;
                    let upto = world.entries[at].log_id;
                    world.purge(upto);
                    world.settle();
                }
                4 if term > 0 && dice(&mut seed, 3) == 0 => {
                    // The leader's snapshot, ahead of the log.
                    let ahead = world.next() + 10;
                    world.purge(LogId::new(CommittedLeaderId::new(term, 1), ahead));
                    world.settle();
                }
                _ => {
                    term += 1;
                    world.vote(term);
                }
            }
            let copy = world.killed();
            world.check(copy.path());
            // Opening it has changed nothing.
            world.check(copy.path());
        }
    }
}

#[test]
fn entries_are_cut_off_or_not_when_the_process_is_killed_within() {
    let mut world = World::new(&FOUND());
    world.vote(1);
    world.append(1, 20, 100);
    let whole = world.entries.clone();
    world.truncate(11);
    let copy = world.killed();
    let opened = open(&place(copy.path()), &Begin::Member);
    // The files are copied one after the other while they change: what is found may be neither,
    // but then it is not taken for something else.
    if let Ok(Opened { mut store, threads, .. }) = opened {
        let found = world.runtime.block_on(store.try_get_log_entries(..)).unwrap();
        assert!(found == whole || found == world.entries, "{} entries", found.len());
        drop(store);
        threads.join().unwrap();
    }
    world.append(1, 3, 200);
    let copy = world.killed();
    world.check(copy.path());
}

#[test]
fn entries_stay_until_the_snapshot_that_holds_them_is_durable() {
    let mut world = World::new(&FOUND());
    world.vote(1);
    world.append(1, 20, 100);
    let ahead = LogId::new(CommittedLeaderId::new(1, 1), 50);
    let mut store = world.store().1.clone();
    let purging = world.runtime.spawn(async move { store.purge(ahead).await });
    // The runtime has a turn.
    world.settle();
    let copy = world.killed();
    world.check(copy.path());
    assert!(!purging.is_finished());
    let meta = Meta { last_log_id: Some(ahead), ..Meta::default() };
    let (runtime, store) = world.store();
    runtime.block_on(store.keep_snapshot(meta, b"nothing".to_vec())).unwrap();
    world.runtime.block_on(purging).unwrap().unwrap();
    (world.purged, world.entries) = (Some(ahead), Vec::new());
    world.append(1, 3, 100);
    let copy = world.killed();
    world.check(copy.path());
}

#[test]
fn a_snapshot_that_is_not_kept_fails_what_waits_for_it() {
    let mut world = World::new(&FOUND());
    let ahead = LogId::new(CommittedLeaderId::new(1, 1), 50);
    let mut store = world.store().1.clone();
    let purging = world.runtime.spawn(async move { store.purge(ahead).await });
    // At once: the store may be writing there.
    fs::rename(world.path(), world.path().with_extension("lost")).unwrap();
    let meta = Meta { last_log_id: Some(ahead), ..Meta::default() };
    let (runtime, store) = world.store();
    runtime.block_on(store.keep_snapshot(meta, b"nothing".to_vec())).unwrap_err();
    world.runtime.block_on(purging).unwrap().unwrap_err();
}

#[test]
fn a_stopped_store_goes_on_where_it_was() {
    let mut world = World::new(&Begin::Member);
    world.vote(4);
    world.append(4, 100, 3000);
    let (runtime, store) = world.store();
    let last = LogId::new(CommittedLeaderId::new(4, 1), 60);
    runtime.block_on(store.save_committed(Some(last))).unwrap();
    world.stop();
    let path = world.path();
    let Opened { mut store, threads, .. } = open(&place(&path), &Begin::Member).unwrap();
    assert_eq!(world.runtime.block_on(store.read_committed()).unwrap(), Some(last));
    assert_eq!(*store.committed().lock().unwrap(), Some(60));
    drop(store);
    threads.join().unwrap();
    world.check(&path);
}

/// A member that has been through everything, stopped.
fn old_member() -> World {
    let mut world = World::new(&FOUND());
    world.vote(3);
    world.append(3, 30, 500);
    world.purge(world.entries[9].log_id);
    world.stop();
    world
}

fn refused(path: &Path) -> StoreError {
    match open(&place(path), &Begin::Member) {
        Ok(_) => panic!("{} is opened", path.display()),
        Err(error) => error,
    }
}

#[test]
fn a_damaged_file_is_named_and_never_taken_for_another_state() {
    let world = old_member();
    for name in ["member", "state", "snapshot"] {
        let file = world.path().join(name);
        let whole = fs::read(&file).unwrap();
        let damaged = |bytes: &[u8]| {
            fs::write(&file, bytes).unwrap();
            match refused(&world.path()) {
                StoreError::File { path, why } => {
                    assert_eq!(path, file);
                    why
                }
                other => panic!("{other}"),
            }
        };
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let why = damaged(&flipped);
            match bit / 8 {
                0..8 => assert_eq!(why, FileError::Magic),
                8..12 => assert!(matches!(why, FileError::Version(_))),
                16..24 => assert!(matches!(why, FileError::Length(_))),
                _ => assert_eq!(why, FileError::Damaged),
            }
        }
        for length in 0..whole.len() {
            assert!(matches!(damaged(&whole[..length]), FileError::Length(_)));
        }
        let longer = [&whole[..], &[0]].concat();
        assert!(matches!(damaged(&longer), FileError::Length(_)));
        fs::write(&file, &whole).unwrap();
        // What a crash leaves beside it.
        fs::write(file.with_extension("new"), &whole[..whole.len() / 2]).unwrap();
    }
    let path = world.path();
    let mut world = world;
    world.check(&path);
}

#[test]
fn what_is_missing_is_not_taken_for_nothing() {
    for name in ["member", "state", "snapshot", "log"] {
        let world = old_member();
        let gone = world.path().join(name);
        if name == "log" {
            fs::remove_dir_all(&gone).unwrap();
        } else {
            fs::remove_file(&gone).unwrap();
        }
        for begin in [FOUND(), Begin::Member] {
            let error = open(&place(&world.path()), &begin).err().unwrap();
            let named = match &error {
                StoreError::Incomplete { path, .. }
                | StoreError::Disagreement { path, .. }
                | StoreError::Log { path, .. } => path,
                other => panic!("{other}"),
            };
            assert_eq!(named, &gone, "{error}");
        }
    }
}

#[test]
fn an_older_vote_is_noticed() {
    let mut world = World::new(&FOUND());
    world.vote(1);
    world.append(1, 2, 10);
    let state = world.path().join("state");
    let older = fs::read(&state).unwrap();
    world.vote(2);
    world.append(2, 2, 10);
    world.stop();
    fs::write(&state, older).unwrap();
    assert!(
        matches!(refused(&world.path()), StoreError::Disagreement { path, .. } if path == state)
    );
}

#[test]
fn a_log_that_has_lost_its_end_is_noticed() {
    let mut world = World::new(&FOUND());
    world.vote(1);
    world.append(1, 5, 10);
    world.settle();
    let shorter = tempfile::tempdir().unwrap();
    copy_folder(&world.path().join("log"), shorter.path());
    world.append(1, 5, 10);
    let last = world.entries.last().unwrap().log_id;
    let (runtime, store) = world.store();
    runtime.block_on(store.save_committed(Some(last))).unwrap();
    world.stop();
    let log = world.path().join("log");
    fs::remove_dir_all(&log).unwrap();
    fs::create_dir(&log).unwrap();
    copy_folder(shorter.path(), &log);
    assert!(matches!(refused(&world.path()), StoreError::Disagreement { path, .. } if path == log));
}

#[test]
fn a_damaged_entry_is_noticed() {
    let mut world = old_member();
    let log = world.path().join("log");
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|e| e == "seg");
    let files = fs::read_dir(&log).unwrap().map(|file| file.unwrap().path());
    let mut refusals = 0;
    for segment in files.filter(is_segment) {
        let whole = fs::read(&segment).unwrap();
        for at in (4096..whole.len().min(40 << 10)).step_by(211) {
            let copy = world.killed();
            let file = copy.path().join("log").join(segment.file_name().unwrap());
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            fs::write(file, bytes).unwrap();
            match open(&place(copy.path()), &Begin::Member) {
                Ok(Opened { store, threads, .. }) => {
                    drop(store);
                    threads.join().unwrap();
                    world.check(copy.path());
                }
                Err(StoreError::Log { why, .. }) => {
                    let known = matches!(why, LogError::Damaged(_) | LogError::Entry(..));
                    assert!(known, "{why}");
                    refusals += 1;
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
    assert!(refusals > 10, "only {refusals}");
}

#[test]
fn an_interrupted_founding_is_done_again() {
    let parts: [&[&str]; 4] =
        [&["member"], &["member", "state"], &["member", "state", "snapshot"], &["member", "log"]];
    for missing in parts {
        let mut world = World::new(&FOUND());
        world.stop();
        for name in missing {
            let path = world.path().join(name);
            if *name == "log" {
                fs::remove_dir_all(path).unwrap();
            } else {
                fs::remove_file(path).unwrap();
            }
        }
        // The log was begun anew behind the founding only once all was there.
        if *missing != ["member", "log"] {
            fs::remove_dir_all(world.path().join("log")).unwrap();
        }
        let Opened { store, snapshot, threads } = open(&place(&world.path()), &FOUND()).unwrap();
        assert_eq!(snapshot.unwrap().1, b"nothing");
        drop(store);
        threads.join().unwrap();
        let path = world.path();
        world.check(&path);
    }
}

#[test]
fn a_founded_cluster_is_not_founded_again() {
    let mut world = old_member();
    let other = Begin::Found { snapshot: b"other".to_vec() };
    let Opened { store, snapshot, threads } = open(&place(&world.path()), &other).unwrap();
    assert_eq!(snapshot.unwrap().1, b"nothing");
    drop(store);
    threads.join().unwrap();
    let path = world.path();
    world.check(&path);
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    let world = old_member();
    for (cluster, node) in [(8, 1), (7, 2)] {
        let opened = open(&place_of(&world.path(), cluster, node), &Begin::Member);
        assert!(matches!(opened.err(), Some(StoreError::Other { cluster: 7, node: 1, .. })));
    }
}

#[test]
fn after_a_failure_nothing_is_reported_durable() {
    let mut world = World::new(&FOUND());
    world.vote(1);
    world.append(1, 3, 10);
    // At once: the store may be writing there.
    fs::rename(world.path(), world.path().with_extension("lost")).unwrap();
    let (runtime, store) = world.store();
    runtime.block_on(store.save_vote(&Vote::new(2, 1))).unwrap_err();
    fs::create_dir_all(world.path().join("log")).unwrap();
    let (runtime, store) = world.store();
    runtime.block_on(store.save_vote(&Vote::new(2, 1))).unwrap_err();
    runtime.block_on(store.blocking_append([entry(1, 4, 10)])).unwrap_err();
    runtime.block_on(store.stop()).unwrap_err();
}

/// What is on disks stays readable: openraft's types are written as they are.
#[test]
fn the_bytes_on_the_disk_are_these() {
    let mut world = World::new(&Begin::Member);
    world.vote(2);
    world.append(2, 1, 2);
    let id = world.entries[0].log_id;
    let (runtime, store) = world.store();
    runtime.block_on(store.save_committed(Some(id))).unwrap();
    world.vote(300);
    world.stop();
    let state = fs::read(world.path().join("state")).unwrap();
    assert_eq!(state[..12], *b"CATCSTAT\x01\0\0\0");
    assert_eq!(state[16..24], 10u64.to_le_bytes());
    // A vote of term 300 for node 1, not of a majority; nothing purged; committed: term 2 of node
    // 1, index 0.
    assert_eq!(state[24..], [1, 0xac, 2, 1, 0, 0, 1, 2, 1, 0]);
    let member = fs::read(world.path().join("member")).unwrap();
    assert_eq!(member[24..], [7, 1]);
    let meta = super::opening::founding(&place(&world.path()));
    let snapshot = postcard::to_allocvec(&(meta, b"state".to_vec())).unwrap();
    let text = |text: &[u8]| [&[text.len() as u8], text].concat();
    let members = [&[1, 1, 1, 1, 1][..], &text(b"127.0.0.1:1")].concat();
    let expected =
        [&[1, 0, 1, 0][..], &[1, 0, 1, 0], &members, &text(b"founding"), &text(b"state")];
    assert_eq!(snapshot, expected.concat());
    let value = postcard::to_allocvec(&entry(2, 5, 3)).unwrap();
    // Term, node, index; of a proposal: node, incarnation, number, time, bytes.
    assert_eq!(value, [2, 1, 5, 1, 1, 2, 5, 6, 3, 5, 5, 5]);
    assert_eq!(postcard::from_bytes::<Entry>(&value).unwrap(), entry(2, 5, 3));
}
