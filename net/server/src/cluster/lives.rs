//! The lives of a node that its directory knows of: a line of 16 hexadecimal digits for each in
//! `meta/lives`, the last one that the cluster is known to have taken note of first. A directory
//! that does not know of a node's last life is an older copy.

use std::{fs, io, path::Path};

use anyhow::{Context, bail};

use crate::machine::replace_file;

const FILE: &str = "lives";
/// Starts that may come to nothing one after the other.
const LIVES_MAX: usize = 64;

/// The lives that are known; before the first one, the life that every node is founded in.
///
/// # Errors
/// The file cannot be read, or is not one of ours.
pub(super) fn read(root: &Path) -> anyhow::Result<Vec<u64>> {
    let path = root.join("meta").join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![0]),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let life =
        |line: &str| (line.len() == 16).then(|| u64::from_str_radix(line, 16).ok()).flatten();
    let lives: Option<Vec<u64>> = text.lines().map(life).collect();
    match lives.filter(|lives| !lives.is_empty()) {
        Some(lives) => Ok(lives),
        None => bail!("{} is damaged; restore it from a copy of this directory", path.display()),
    }
}

/// Writes them durably, whole or not at all.
///
/// # Errors
/// They are as before.
pub(super) fn write(root: &Path, lives: &[u64]) -> anyhow::Result<()> {
    let meta = root.join("meta");
    let first = lives.iter().take(1);
    let last = lives.iter().skip(1.max(lives.len().saturating_sub(LIVES_MAX - 1)));
    let text: String = first.chain(last).map(|life| format!("{life:016x}\n")).collect();
    let written = replace_file(&meta, FILE, text.as_bytes());
    written.with_context(|| format!("cannot write {}", meta.join(FILE).display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_read_back_and_what_is_none_of_them_is_refused() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(read(root.path()).unwrap(), [0]);
        write(root.path(), &[7, 8, u64::MAX]).unwrap();
        assert_eq!(read(root.path()).unwrap(), [7, 8, u64::MAX]);
        // The one that was noted and the newest stay, however many starts come to nothing.
        let many: Vec<u64> = (0..1000).collect();
        write(root.path(), &many).unwrap();
        let kept = read(root.path()).unwrap();
        assert_eq!((kept.len(), kept[0], kept[1], kept[63]), (64, 0, 937, 999));
        for text in ["", "7\n", "000000000000000x\n"] {
            fs::write(root.path().join("meta").join(FILE), text).unwrap();
            assert!(read(root.path()).unwrap_err().to_string().contains("damaged"), "{text}");
        }
    }
}
