//! Removes what deleted partitions leave, on a thread of its own: no file operation of a core waits
//! until the files of a large topic are gone.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
};

/// Removes directories one after the other. What it has not removed when the process ends, the next
/// start removes.
pub(crate) struct Remover(flume::Sender<PathBuf>);

impl Remover {
    /// Starts the thread.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn start() -> io::Result<Self> {
        // No more than there are partitions.
        let (sender, paths) = flume::unbounded::<PathBuf>();
        let remove = move || {
            for path in paths {
                if let Err(error) = remove_log(&path) {
                    let path = path.display();
                    tracing::warn!("{path} is left to the next start to remove: {error}");
                }
            }
        };
        thread::Builder::new().name("remover".to_owned()).spawn(remove)?;
        Ok(Self(sender))
    }

    /// Has the directory of a log removed, which nobody uses.
    pub(crate) fn remove(&self, path: PathBuf) {
        let _ = self.0.send(path);
    }
}

/// Removes a log's directory, the manifests first: what is left of it is no log.
fn remove_log(path: &Path) -> io::Result<()> {
    for manifest in ["manifest.0", "manifest.1"] {
        match fs::remove_file(path.join(manifest)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
