//! One directory: its names as they are, as they are durable, and the changes between.

use std::collections::BTreeMap;

use catena_log::io::FileName;

use super::{atlas::place_of, code};
use crate::sim::fingerprint::Fingerprint;

/// A file, whatever its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct FileId(pub(super) u64);

/// What happened to a name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Happened {
    Created(FileName),
    Renamed { from: FileName, to: FileName },
    Removed(FileName),
}

/// A change of the names that is not durable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) order: u64,
    pub(super) file: FileId,
    pub(super) happened: Happened,
    /// When its operation completed, as a count of completions.
    pub(super) completed: Option<u64>,
}

impl Change {
    fn names(&self) -> [FileName; 2] {
        match self.happened {
            Happened::Created(name) | Happened::Removed(name) => [name, name],
            Happened::Renamed { from, to } => [from, to],
        }
    }

    /// Whether this one makes no sense without `earlier`: the same file or a name in common.
    fn rests_on(&self, earlier: &Self) -> bool {
        self.file == earlier.file || self.names().iter().any(|name| earlier.names().contains(name))
    }
}

/// A directory.
#[derive(Clone, Debug, Default)]
pub(super) struct Folder {
    pub(super) live: BTreeMap<FileName, FileId>,
    pub(super) durable: BTreeMap<FileName, FileId>,
    changes: Vec<Change>,
}

impl Folder {
    /// Gives a new file its name.
    pub(super) fn create(&mut self, order: u64, name: FileName, file: FileId) {
        let before = self.live.insert(name, file);
        assert!(before.is_none(), "{name} is there already");
        self.push(order, file, Happened::Created(name));
    }

    /// Renames over an absent name; false when `from` is absent.
    pub(super) fn rename(&mut self, order: u64, from: FileName, to: FileName) -> bool {
        assert!(!self.live.contains_key(&to), "rename of {from} over {to}, which is there");
        let Some(file) = self.live.remove(&from) else { return false };
        self.live.insert(to, file);
        self.push(order, file, Happened::Renamed { from, to });
        true
    }

    /// Removes a name; false when it is absent.
    pub(super) fn remove(&mut self, order: u64, name: FileName) -> bool {
        let Some(file) = self.live.remove(&name) else { return false };
        self.push(order, file, Happened::Removed(name));
        true
    }

    fn push(&mut self, order: u64, file: FileId, happened: Happened) {
        self.changes.push(Change { order, file, happened, completed: None });
    }

    /// The operation of the change `order` completed.
    pub(super) fn complete(&mut self, order: u64, completion: u64) {
        for change in self.changes.iter_mut().filter(|change| change.order == order) {
            change.completed = Some(completion);
        }
    }

    /// The changes of a dead process are the file system's by now.
    pub(super) fn complete_all(&mut self, completion: u64) {
        for change in &mut self.changes {
            change.completed.get_or_insert(completion);
        }
    }

    /// Makes the changes durable that completed by `horizon`, with what they rest on, and the
    /// others that `extra` takes.
    pub(super) fn sync(&mut self, horizon: u64, mut extra: impl FnMut() -> bool) {
        let changes = std::mem::take(&mut self.changes);
        let mut due = vec![false; changes.len()];
        for (index, change) in changes.iter().enumerate().rev() {
            let rests = |(later, at): (&Change, &bool)| *at && later.rests_on(change);
            due[index] = change.completed.is_some_and(|at| at <= horizon)
                || changes[index + 1..].iter().zip(&due[index + 1..]).any(rests);
        }
        for (change, due) in changes.into_iter().zip(due) {
            let free = !self.changes.iter().any(|held| change.rests_on(held));
            if due || (free && extra()) {
                self.apply(&change);
            } else {
                self.changes.push(change);
            }
        }
    }

    fn apply(&mut self, change: &Change) {
        match change.happened {
            Happened::Created(name) => {
                self.durable.insert(name, change.file);
            }
            Happened::Renamed { from, to } => {
                self.drop_durable(from, change.file);
                self.durable.insert(to, change.file);
            }
            Happened::Removed(name) => self.drop_durable(name, change.file),
        }
    }

    fn drop_durable(&mut self, name: FileName, file: FileId) {
        if self.durable.get(&name) == Some(&file) {
            self.durable.remove(&name);
        }
    }

    /// The power is lost: each change survives or not, as `survives` says, but none without those
    /// that it rests on.
    pub(super) fn cut(&mut self, mut survives: impl FnMut() -> bool) {
        let mut lost: Vec<Change> = Vec::new();
        for change in std::mem::take(&mut self.changes) {
            let free = !lost.iter().any(|before| change.rests_on(before));
            if free && survives() {
                self.apply(&change);
            } else {
                lost.push(change);
            }
        }
        self.live.clone_from(&self.durable);
    }

    /// Every file that a name leads to, or may lead to after a power loss.
    pub(super) fn files(&self) -> impl Iterator<Item = FileId> {
        let changes = self.changes.iter().map(|change| change.file);
        self.live.values().chain(self.durable.values()).copied().chain(changes)
    }

    /// Feeds the names and the changes between them, with files by their place in `files`.
    pub(super) fn hash(&self, hash: &mut Fingerprint, files: &mut Vec<FileId>) {
        for names in [&self.live, &self.durable] {
            hash.numbers([names.len() as u64]);
            for (name, file) in names {
                let [kind, number] = code(*name);
                hash.numbers([kind, number, place_of(files, *file)]);
            }
        }
        for change in &self.changes {
            let [[a, b], [c, d]] = change.names().map(code);
            let kind = match change.happened {
                Happened::Created(_) => 0,
                Happened::Renamed { .. } => 1,
                Happened::Removed(_) => 2,
            };
            let completed = u64::from(change.completed.is_some());
            hash.numbers([kind, a, b, c, d, place_of(files, change.file), completed]);
        }
    }

    /// Whether every name is durable as it is.
    pub(super) fn is_synced(&self) -> bool {
        self.changes.is_empty()
    }
}
